"""What can be told of an array without knowing its library: order of axes, dtype, addresses.

An array here is a NumPy array or a device array of Numba; `dtype_name` takes a PyTorch tensor too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

LAYOUTS = ("NHWC", "NCHW")
TO_LAST = {"NHWC": (0, 1, 2, 3), "NCHW": (0, 2, 3, 1)}  # axes of the layout, in the order NHWC
TO_OWN = {"NHWC": (0, 1, 2, 3), "NCHW": (0, 3, 1, 2)}  # axes of NHWC, in the order of the layout
_NAMES = {"f": "float32", "d": "float64"}  # because the attribute `name` of a NumPy dtype is slow


def channels_last(shape: Sequence[int], layout: str) -> tuple[int, ...]:
    """A shape of the layout, as NHWC (a filter: as OHWI)."""
    if layout == "NHWC":
        return tuple(shape)
    return tuple(shape[axis] for axis in TO_LAST[layout])


def own_order(shape: Sequence[int], layout: str) -> tuple[int, ...]:
    """An NHWC shape in the order of the layout."""
    if layout == "NHWC":
        return tuple(shape)
    return tuple(shape[axis] for axis in TO_OWN[layout])


def dtype_name(array: Any) -> str:
    """ "float32", whatever the library and the byte order."""
    if isinstance(array, np.ndarray) or hasattr(array, "__cuda_ndarray__"):
        char = array.dtype.char
        if char in _NAMES:
            return _NAMES[char]
    return getattr(array.dtype, "name", None) or str(array.dtype).removeprefix("torch.")


def address(raw: Any) -> int:
    """Where the first element lies."""
    if isinstance(raw, np.ndarray):
        return int(raw.ctypes.data)
    pointer = getattr(raw, "device_ctypes_pointer", None)  # of a Numba device array; the interface takes longer
    if pointer is not None:
        return int(pointer.value or 0)
    interface = getattr(raw, "__cuda_array_interface__", None) or raw.__array_interface__  # the simulator's are NumPy's
    return int(interface["data"][0] or 0)


def is_contiguous(raw: Any) -> bool:
    return bool(raw.flags.c_contiguous if isinstance(raw, np.ndarray) else raw.is_c_contiguous())


def bounds(raw: Any) -> tuple[int, int]:
    """First and past-the-last address of an array."""
    start, itemsize = address(raw), raw.dtype.itemsize
    if not raw.size or is_contiguous(raw):
        return start, start + raw.size * itemsize
    reach = [(length - 1) * stride for length, stride in zip(raw.shape, raw.strides, strict=True)]
    return start + sum(r for r in reach if r < 0), start + sum(r for r in reach if r > 0) + itemsize
