"""The operators on a GPU (or in Numba's simulator): run the launches that `kernels` builds."""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numba import config

from ..buffers import HALVES, bits
from ..geometry import ConvShape
from ..kernels import tensor as tensor_rung
from ..kernels import tiled
from ..kernels.elementwise import launch_add_bias, launch_copy
from ..kernels.jit import NO_NUMBA_CUDA, NUMBA_CUDA, SIMULATED, cuda

MOST_WORKSPACES = 8
WHY_NOT = "found no CUDA GPU" if NUMBA_CUDA else f"cannot run: {NO_NUMBA_CUDA}: pip install 'cks-numba[cu13]'"
NO_GPU = (
    f'backend="cuda" {WHY_NOT}. Use backend="cpu" (or "auto"), or set NUMBA_ENABLE_CUDASIM=1 before Python '
    "starts to run the kernels in Numba's simulator, which is slow and meant for tiny shapes"
)


NO_HALVES = (
    "{} arrays need the tensor cores of a GPU of compute capability 8.0 or newer, found {}: give float32 arrays, or "
    'arrays in host memory with backend="cpu"'
)


@lru_cache(maxsize=1)
def available() -> bool:
    """Whether kernels can run: on a GPU, or in Numba's simulator. A driver that raises is one warning."""
    if SIMULATED or not NUMBA_CUDA:
        return SIMULATED
    try:
        return bool(cuda.is_available() and cuda.get_current_device())
    except (
        Exception
    ) as error:  # an old driver lacks functions, and what a driver or a library in its place raises varies
        said = f"the CUDA driver cannot be used, so there is no GPU: {type(error).__name__}: {error}"
        warnings.warn(said, RuntimeWarning, stacklevel=2)
        return False


def tensor_cores() -> bool:
    """Whether the kernels for tensor cores can run: on a GPU of compute capability 8.0 or newer."""
    return available() and not SIMULATED and tensor_rung.capability() >= tensor_rung.LEAST_CAPABILITY


def require(dtype: str = "float32") -> None:
    """Raise the one error that says how to go on without a GPU, or with one that does not take arrays of this dtype."""
    if not available():
        raise RuntimeError(NO_GPU)
    if dtype in HALVES and not tensor_cores():
        found = "Numba's simulator" if SIMULATED else ".".join(map(str, tensor_rung.capability()))
        raise RuntimeError(NO_HALVES.format(dtype, found))


def run(
    operator: str,
    shape: ConvShape,
    first: Any,
    second: Any,
    out: Any,
    bias: Any = None,
    stream: Any = 0,
    tensor: bool = False,
) -> None:
    """Run an operator on contiguous NHWC arrays, all NumPy (copied there and back) or all on the GPU.

    `bias`, an element for each channel of the result or None, is added to it.

    With `tensor`, tensor cores multiply; float32 does without if the GPU has none, and 16 bits `require` has refused.
    """
    if not isinstance(out, np.ndarray):
        _launch(operator, shape, (first, second, out), bias, stream, tensor)
        return
    on_gpu = [cuda.to_device(array, stream=stream) for array in (first, second)]
    bias = None if bias is None else cuda.to_device(bias, stream=stream)
    result = cuda.device_array(out.shape, dtype=out.dtype, stream=stream)
    _launch(operator, shape, (*on_gpu, result), bias, stream, tensor)
    result.copy_to_host(out, stream=stream)
    if stream:
        stream.synchronize()  # the caller reads `out` next


def _launch(
    operator: str, shape: ConvShape, arrays: tuple[Any, Any, Any], bias: Any, stream: Any, tensor: bool
) -> None:
    """The operators have checked the arrays, and results without an element need no launch."""
    if 0 in arrays[2].shape:
        return
    with launching:
        memory = partial(_workspace, stream)
        if tensor and tensor_cores():
            built = tensor_rung.launches(operator, shape, arrays, bias=bias, scratch=memory)
        else:
            built = tiled.launches(operator, shape, arrays, scratch=memory)
            built += [] if bias is None else [launch_add_bias(arrays[2], bias)]
        for launch in built:
            launch.run(stream)


class _Launching:
    """A lock, held while kernels are launched: those that share a workspace must follow each other on its stream.

    There is no low-occupancy warning inside: a small problem has a small grid, and that is right.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._settings: Any = config
        self._before: list[int] = []

    def __enter__(self) -> None:
        self._lock.acquire()
        self._before.append(self._settings.CUDA_LOW_OCCUPANCY_WARNINGS)
        self._settings.CUDA_LOW_OCCUPANCY_WARNINGS = 0

    def __exit__(self, *_: object) -> None:
        self._settings.CUDA_LOW_OCCUPANCY_WARNINGS = self._before.pop()
        self._lock.release()


launching: _Launching = _Launching()
_workspaces: OrderedDict[Any, Any] = OrderedDict()  # the last ones used, by device, stream, shape and dtype


def _workspace(stream: Any, like: Any, shape: tuple[int, ...]) -> Any:
    """Memory for the parts of a sum, kept for the next call on the same stream."""
    key = tiled.device_of(like), getattr(getattr(stream, "handle", 0), "value", 0), shape, like.dtype
    found = _workspaces.pop(key, None)
    if found is None:
        found = cuda.device_array(shape, dtype=like.dtype)
    _workspaces[key] = found
    while len(_workspaces) > MOST_WORKSPACES:
        _workspaces.popitem(last=False)
    return found


# --- what the layouts need of arrays on the GPU ---------------------------------------------------
def copy(src: Any, out: Any, src_channels_first: bool, out_channels_first: bool, stream: Any = 0) -> None:
    """Copy one device array into another, between the two layouts."""
    if out.size:
        with launching:
            launch_copy(bits(src), bits(out), src_channels_first, out_channels_first).run(stream)


def fill_zero(out: Any, stream: Any = 0) -> None:
    """Write 0 everywhere."""
    if out.size:
        out.copy_to_device(np.zeros(tuple(out.shape), out.dtype), stream=stream)
