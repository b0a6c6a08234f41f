"""The one place that imports numba.cuda, and how the kernels of this package are compiled."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numba
import numpy as np
from numba import cuda
from numba.np.numpy_support import as_dtype

from .. import geometry

NUMBA_CUDA: bool = find_spec("numba_cuda") is not None
"""True where the package numba-cuda is installed; else `numba.cuda` is Numba's own, which can only simulate kernels."""

NO_NUMBA_CUDA = "numba-cuda, which compiles the kernels, is not installed (for macOS no version is new enough)"

SIMULATED: bool = bool(getattr(numba.config, "ENABLE_CUDASIM", False))
"""True where NUMBA_ENABLE_CUDASIM=1 was set before numba was first imported."""

ALIGN = None if SIMULATED else 16
"""Alignment of shared tiles in bytes: lets four neighbours travel in one load. The simulator has none."""


def device(function: Any) -> Any:
    """Compile a function that the compiler puts into each kernel that calls it, with the function's own lines."""
    options = {"forceinline": True, "lineinfo": True} if NUMBA_CUDA and not SIMULATED else {}
    return cuda.jit(device=True, **options)(function)


@contextmanager
def compiling_for(capability: tuple[int, int]) -> Iterator[None]:
    """Let device functions compile without a GPU: they ask the current device for its compute capability."""
    from numba.cuda import dispatcher  # the simulator has no such module

    real = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability)
    try:
        yield
    finally:
        dispatcher.get_current_device = real


def kernel(threads: int, blocks: int) -> Any:
    """Compile a kernel for so many threads of a block and blocks of a multiprocessor, which bounds its registers."""
    options: dict[str, Any] = {} if SIMULATED else {"launch_bounds": (threads, blocks)}
    return cuda.jit(**options)


def intrinsic(plain: Callable[..., Any], code: Callable[..., Any]) -> Any:
    """The plain function in the simulator, else an intrinsic, which names the plain one as its `twin`."""
    if SIMULATED:
        return plain
    from numba.cuda import extending  # the simulator has no such module

    function: Any = extending.intrinsic(code)
    function.twin = plain
    return function


def _let_shared_arrays_take_an_alignment() -> None:
    """Give the simulator that Numba itself ships the argument `alignment`, which numba-cuda's simulator has."""
    from numba.cuda.simulator.kernelapi import FakeCUDAShared  # only the simulators have such a module

    plain = FakeCUDAShared.array

    def array(self: Any, shape: Any, dtype: Any, alignment: Any = None) -> Any:
        """All threads of a block that ask in the same line of a kernel get the same array."""
        if shape == 0:  # memory whose size the launch gives
            return plain(self, shape, dtype)
        caller = sys._getframe(1)
        line = caller.f_code.co_filename, caller.f_lineno
        dtype = as_dtype(dtype) if isinstance(dtype, numba.types.Type) else dtype
        return self._allocations.setdefault(line, np.empty(shape, dtype))

    if "alignment" not in inspect.signature(plain).parameters:
        FakeCUDAShared.array = array


def _let_compiled_shared_arrays_take_an_alignment() -> None:
    """Give Numba's own numba.cuda, which can compile kernels but not run them, the argument `alignment`."""
    from numba.cuda import cudadecl, cudaimpl

    typed = cudadecl.Cuda_shared_array.generic

    def generic(self: Any) -> Any:
        typer = typed(self)
        return lambda shape, dtype, alignment=None: typer(shape, dtype)

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        fewer = signature.return_type(*signature.args[:2])
        one_axis = isinstance(fewer.args[0], numba.types.Integer)
        plain = cudaimpl.cuda_shared_array_integer if one_axis else cudaimpl.cuda_shared_array_tuple
        array = plain(context, builder, fewer, args[:2])
        newest = next(v for name, v in reversed(builder.module.globals.items()) if "_cudapy_smem" in name)
        newest.align = signature.args[2].literal_value
        return array

    cudadecl.Cuda_shared_array.generic = generic
    for shape in (numba.types.IntegerLiteral, numba.types.Tuple, numba.types.UniTuple):
        cudaimpl.lower(cuda.shared.array, shape, numba.types.Any, numba.types.IntegerLiteral)(lower)


if SIMULATED:
    _let_shared_arrays_take_an_alignment()
elif not NUMBA_CUDA:
    _let_compiled_shared_arrays_take_an_alignment()

# The kernels trim with the very functions that the plan is made with.
taps_of_output = device(geometry.taps_of_output)
outputs_of_tap = device(geometry.outputs_of_tap)
taps_of_input = device(geometry.taps_of_input)


@device
def unravel(index, size1, size2, size3):
    """Four indices of a flat one; sizes are those of the last three axes."""
    rest = index // size3
    return rest // size2 // size1, rest // size2 % size1, rest % size2, index % size3
