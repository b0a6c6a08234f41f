"""A device without a driver: its limits, arrays that are NumPy's, and streams that wait for nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np

CAPABILITY = (8, 0)
"""Compute capability that kernels are compiled for."""

DEVICE = SimpleNamespace(
    name="emulated GPU",
    id=0,
    compute_capability=CAPABILITY,
    supports_float16=True,
    supports_bfloat16=True,
    MULTIPROCESSOR_COUNT=108,
    WARP_SIZE=32,
    MAX_THREADS_PER_BLOCK=1024,
    MAX_BLOCK_DIM_X=1024,
    MAX_BLOCK_DIM_Y=1024,
    MAX_BLOCK_DIM_Z=64,
    MAX_GRID_DIM_X=2**31 - 1,
    MAX_GRID_DIM_Y=65535,
    MAX_GRID_DIM_Z=65535,
    MAX_SHARED_MEMORY_PER_BLOCK=49152,
    MAX_THREADS_PER_MULTI_PROCESSOR=2048,
)
"""The device that programs see: the limits of compute capability 8.0 and the multiprocessors of an A100."""


class DeviceArray(np.ndarray[Any, Any]):
    """A NumPy array with the methods of Numba's device arrays."""

    __cuda_ndarray__ = True

    def copy_to_host(self, ary: Any = None, stream: Any = 0) -> Any:
        """Copy to the given array or to a new one."""
        if ary is None:
            return np.array(self, order="K", subok=False)
        _copy(ary, self)
        return ary

    def copy_to_device(self, ary: Any, stream: Any = 0) -> None:
        """Copy from an array of the same shape and type."""
        _copy(self, ary)

    def is_c_contiguous(self) -> bool:
        return bool(self.flags.c_contiguous)

    def is_f_contiguous(self) -> bool:
        return bool(self.flags.f_contiguous)


def _copy(target: Any, source: Any) -> None:
    if target.shape != source.shape or target.dtype != source.dtype:
        raise ValueError(f"{source.dtype} {source.shape} cannot be copied to {target.dtype} {target.shape}")
    target[...] = source


def _to_device(obj: Any, stream: Any = 0, copy: bool = True, to: Any = None) -> Any:
    if to is None:
        return np.array(obj, order="K").view(DeviceArray) if copy else _array_like(np.asarray(obj))
    _copy(to, np.asarray(obj))
    return to


def _array(
    shape: Any, dtype: Any = np.float64, strides: Any = None, order: Any = "C", stream: Any = 0, **options: Any
) -> Any:
    if strides is not None:
        raise ValueError("the emulator makes no arrays with strides")
    return np.empty(shape, dtype, order).view(DeviceArray)


def _array_like(ary: Any, stream: Any = 0) -> Any:
    return np.empty_like(ary, subok=False).view(DeviceArray)


class _Stream:
    """A stream or an event: all work is done before the next line of the program runs."""

    handle = SimpleNamespace(value=0)

    def __init__(self, *args: Any, **options: Any) -> None:
        self.record()

    def record(self, stream: Any = 0) -> None:
        self.time = time.perf_counter()

    wait = record

    def synchronize(self) -> None:
        pass

    def query(self) -> bool:
        return True

    def elapsed_time(self, later: _Stream) -> float:
        return (later.time - self.time) * 1e3

    def auto_synchronize(self) -> Any:
        return nullcontext(self)


CONTEXT = SimpleNamespace(device=DEVICE, get_memory_info=lambda: (2**34, 2**34), synchronize=lambda: None)

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "to_device": _to_device,
    **{f"{kind}_array": _array for kind in ("device", "pinned", "mapped", "managed")},
    **{f"{kind}_array_like": _array_like for kind in ("device", "pinned", "mapped")},
    "as_cuda_array": lambda obj, sync=True: np.asarray(obj).view(DeviceArray),
    "is_cuda_array": lambda obj: isinstance(obj, DeviceArray),
    **dict.fromkeys(("synchronize", "close"), lambda: None),
    **dict.fromkeys(("pinned", "defer_cleanup"), lambda *arrays, stream=0: nullcontext()),
    **dict.fromkeys(("stream", "default_stream", "per_thread_default_stream", "event"), _Stream),
    "event_elapsed_time": lambda start, end: start.elapsed_time(end),
    "is_available": lambda: True,
    "get_current_device": lambda: DEVICE,
    "select_device": lambda device_id: DEVICE,
    "current_context": lambda devnum=None: CONTEXT,
}
"""What stands in for the functions of `numba.cuda` that need a driver."""
