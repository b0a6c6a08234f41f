"""Properties of an array, found without knowing its library: order of axes, dtype, addresses.

An array here is a NumPy array or a device array of Numba; `dtype_name` takes a PyTorch tensor too.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from math import prod
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

Layout = Literal["NHWC", "NCHW", "NWC", "NCW", "NDHWC", "NCDHW"]
"""Order of the axes of an array: channels last, or PyTorch's channels first; with one spatial axis, two or three."""

LAYOUTS: dict[int, tuple[Layout, Layout]] = {1: ("NWC", "NCW"), 2: ("NHWC", "NCHW"), 3: ("NDHWC", "NCDHW")}
"""The two layouts for each number of spatial axes, channels last and channels first."""

TO_LAST: dict[Layout, tuple[int, ...]] = {}
"""For each layout, its axes in the order of channels last."""

TO_OWN: dict[Layout, tuple[int, ...]] = {}
"""For each layout, the axes of channels last in its own order."""

for _axes, (_last, _first) in LAYOUTS.items():
    TO_LAST[_last] = TO_OWN[_last] = tuple(range(_axes + 2))
    TO_LAST[_first] = (0, *range(2, _axes + 2), 1)
    TO_OWN[_first] = (0, _axes + 1, *range(1, _axes + 1))

IN_ORDER = {TO_LAST[last] for last, _ in LAYOUTS.values()}
"""Orders of axes that change nothing."""

HALVES = ("float16", "bfloat16")
"""Names of the dtypes of 16 bits; sums of their products are made in float32."""

LINE_BYTES = 64
"""Bytes of a cache line."""

LARGE_BYTES = 2**15
"""Bytes from which an array is large and begins at a cache line."""

_NAMES = {"f": "float32", "d": "float64", "e": "float16"}  # by NumPy's `char`: the `name` of a dtype is slow to find
_Size = TypeVar("_Size")


class HasShape(Protocol):
    """Any array with a shape, which is all that the arrays of the supported libraries have in common."""

    @property
    def shape(self) -> Any:
        """Sizes of the axes."""


ArrayT = TypeVar("ArrayT", bound=HasShape)
"""The type of the arrays of one call, which are all of one library: tensors in, tensors out."""


_DATA = object.__basicsize__  # Bytes from an array of NumPy to the address of its first element: the ABI's first field.
_pointer_at = ctypes.c_ssize_t.from_address


def address_of(array: np.ndarray[Any, Any]) -> int:
    """Return the address of the first element. `array.ctypes.data`, which is the same, takes five times as long."""
    return _pointer_at(id(array) + _DATA).value


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Return a new NumPy array; a large one begins at a cache line, as PyTorch's tensors do.

    NumPy's own begin anywhere. A vector that lies in two cache lines takes twice as long to read or write.

    Examples
    --------
    >>> empty((64, 1024), np.dtype("float32")).ctypes.data % LINE_BYTES
    0
    """
    count = prod(shape) * dtype.itemsize
    if count < LARGE_BYTES:
        return np.empty(shape, dtype)
    memory = np.empty(count + LINE_BYTES, np.uint8)
    found: np.ndarray[Any, Any] = np.ndarray(shape, dtype, memory, -address_of(memory) % LINE_BYTES)
    return found


def is_last(layout: str) -> bool:
    """Return whether a layout has its channels last."""
    return layout[-1] == "C"


def other(layout: Layout) -> Layout:
    """Return the layout for the same spatial axes that has its channels at the other place."""
    last, first = LAYOUTS[len(layout) - 2]
    return first if layout == last else last


def channels_last(shape: Sequence[_Size], layout: Layout) -> tuple[_Size, ...]:
    """Return a shape of the layout with channels last: as NHWC, or a filter's as OHWI."""
    if is_last(layout):
        return tuple(shape)
    return tuple(shape[axis] for axis in TO_LAST[layout])


def own_order(shape: Sequence[_Size], layout: Layout) -> tuple[_Size, ...]:
    """Return a shape with channels last, such as NHWC, in the order of the layout."""
    if is_last(layout):
        return tuple(shape)
    return tuple(shape[axis] for axis in TO_OWN[layout])


def dtype_name(array: Any) -> str:
    """Return the name of the dtype, such as "float32", for any library and byte order."""
    if isinstance(array, np.ndarray) or hasattr(array, "__cuda_ndarray__"):
        char = array.dtype.char
        if char in _NAMES:
            return _NAMES[char]
    name: str | None = getattr(array.dtype, "name", None)
    return name or str(array.dtype).removeprefix("torch.")


def bits(array: Any) -> Any:
    """Return an array of bfloat16 as a view of int16, which every library knows; any other array as it is."""
    return array.view(np.int16) if array.dtype.kind == "V" else array


def with_unit_axes(raw: Any, axes: int) -> Any:
    """Return a view of an array (N, ..., C) with axes of one element after the first, so that `axes` are spatial."""
    missing = axes + 2 - len(raw.shape)
    if not missing:
        return raw
    if isinstance(raw, np.ndarray):  # reshape could copy it
        return np.expand_dims(raw, tuple(range(1, 1 + missing)))
    return raw.reshape((raw.shape[0], *[1] * missing, *raw.shape[1:]))


def address(raw: Any) -> int:
    """Return the address of the first element."""
    if isinstance(raw, np.ndarray):
        return int(raw.ctypes.data)
    pointer = getattr(raw, "device_ctypes_pointer", None)  # on device arrays of Numba, faster than the interface
    if pointer is not None:
        return int(pointer.value or 0)
    interface = getattr(raw, "__cuda_array_interface__", None) or raw.__array_interface__  # NumPy's in the simulator
    return int(interface["data"][0] or 0)


def is_contiguous(raw: Any) -> bool:
    """Return whether the elements are in C order without gaps."""
    return bool(raw.flags.c_contiguous if isinstance(raw, np.ndarray) else raw.is_c_contiguous())


def bounds(raw: Any) -> tuple[int, int]:
    """Return the first address of an array, and the one past its last byte."""
    start, itemsize = address(raw), raw.dtype.itemsize
    if not raw.size or is_contiguous(raw):
        return start, start + raw.size * itemsize
    reach = [(length - 1) * stride for length, stride in zip(raw.shape, raw.strides, strict=True)]
    return start + sum(r for r in reach if r < 0), start + sum(r for r in reach if r > 0) + itemsize
