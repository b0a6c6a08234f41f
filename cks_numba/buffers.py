"""What can be told of an array without knowing its library: order of axes, dtype, addresses.

An array here is a NumPy array or a device array of Numba; `dtype_name` takes a PyTorch tensor too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

Layout = Literal["NHWC", "NCHW"]
"""Order of the axes of an array: channels last, or PyTorch's channels first."""

LAYOUTS: tuple[Layout, ...] = ("NHWC", "NCHW")
TO_LAST: dict[Layout, tuple[int, ...]] = {"NHWC": (0, 1, 2, 3), "NCHW": (0, 2, 3, 1)}
"""Axes of each layout, in the order NHWC."""

TO_OWN: dict[Layout, tuple[int, ...]] = {"NHWC": (0, 1, 2, 3), "NCHW": (0, 3, 1, 2)}
"""Axes of NHWC, in the order of each layout."""

_NAMES = {"f": "float32", "d": "float64"}  # by the char of a NumPy dtype, whose attribute `name` is slow
_Size = TypeVar("_Size")


class HasShape(Protocol):
    """Any array: the operators take those of several libraries, which have little more in common."""

    @property
    def shape(self) -> Any:
        """Sizes of the axes."""


ArrayT = TypeVar("ArrayT", bound=HasShape)
"""The arrays of one call, all of one library: what goes in as a tensor comes out as a tensor."""


def channels_last(shape: Sequence[_Size], layout: Layout) -> tuple[_Size, ...]:
    """A shape of the layout, as NHWC (a filter: as OHWI)."""
    if layout == "NHWC":
        return tuple(shape)
    return tuple(shape[axis] for axis in TO_LAST[layout])


def own_order(shape: Sequence[_Size], layout: Layout) -> tuple[_Size, ...]:
    """An NHWC shape in the order of the layout."""
    if layout == "NHWC":
        return tuple(shape)
    return tuple(shape[axis] for axis in TO_OWN[layout])


def dtype_name(array: Any) -> str:
    """Name of the dtype, such as "float32", whatever the library and the byte order."""
    if isinstance(array, np.ndarray) or hasattr(array, "__cuda_ndarray__"):
        char = array.dtype.char
        if char in _NAMES:
            return _NAMES[char]
    name: str | None = getattr(array.dtype, "name", None)
    return name or str(array.dtype).removeprefix("torch.")


def address(raw: Any) -> int:
    """Address of the first element."""
    if isinstance(raw, np.ndarray):
        return int(raw.ctypes.data)
    pointer = getattr(raw, "device_ctypes_pointer", None)  # device arrays of Numba have it; the interface is slower
    if pointer is not None:
        return int(pointer.value or 0)
    interface = getattr(raw, "__cuda_array_interface__", None) or raw.__array_interface__  # in the simulator: NumPy's
    return int(interface["data"][0] or 0)


def is_contiguous(raw: Any) -> bool:
    """Whether the elements lie in C order with no gap."""
    return bool(raw.flags.c_contiguous if isinstance(raw, np.ndarray) else raw.is_c_contiguous())


def bounds(raw: Any) -> tuple[int, int]:
    """First and past-the-last address of an array."""
    start, itemsize = address(raw), raw.dtype.itemsize
    if not raw.size or is_contiguous(raw):
        return start, start + raw.size * itemsize
    reach = [(length - 1) * stride for length, stride in zip(raw.shape, raw.strides, strict=True)]
    return start + sum(r for r in reach if r < 0), start + sum(r for r in reach if r > 0) + itemsize
