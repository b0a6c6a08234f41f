"""Kernels as compiled C functions: their arguments, Numba's cache on disk, and threads.

A kernel is a function of a zero, which tells the dtype, and of the address of its int64 arguments. It
allocates nothing and cannot fail. Any number of threads may run one with the same arguments at once:
each takes one task after the other from a counter that is the first of them.

Numba compiles a function once more for an argument that is a constant, as part of its type; int(CONSTANT) is not.
"""

from __future__ import annotations

import ctypes
import os
import threading
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import carray, cfunc, types
from numba.extending import models, register_jitable, register_model

from ... import tables
from ...geometry import ConvShape, plan
from .. import uninterrupted
from .registers import I64, LANE_BYTES, ONLY_IN_KERNELS, TILE_ROWS, helper, integers_at, next_number
from .threads import Pool

Array = np.ndarray[Any, Any]
Strides = tuple[int, ...]
Sizes = tuple[Array, int, Array]  # arguments of a kernel, bytes of its scratch memory, the table they point to
SERIAL_BELOW = 400_000  # multiply-adds: they are done before another thread has woken up

NEXT_TASK, NEXT_THREAD, SCRATCH, SCRATCH_STEP, OWN = range(5)  # arguments of all kernels; where its own begin
SCRATCH_HEAD = 256 + TILE_ROWS * LANE_BYTES


def _stamp() -> int:
    """A number for the sources of all that is compiled."""
    here = Path(__file__).parent
    sources = [*sorted(here.glob("*.py")), here.parent.parent / "tables.py"]
    return zlib.crc32(b"".join(path.read_bytes() for path in sources))


class Arguments(types.Type):
    """Address of the arguments of a kernel.

    Numba's cache goes by the time of the one file that a function is in. The stamp in the name of this
    type, a part of every kernel's signature, keeps code from other sources out.
    """

    def __init__(self) -> None:
        super().__init__(name=f"Arguments({_stamp():08x})")


@register_model(Arguments)
class _ArgumentsModel(models.PrimitiveModel):
    def __init__(self, manager: Any, arguments: Arguments) -> None:
        super().__init__(manager, arguments, I64)


# --- for the code of a kernel --------------------------------------------------------------------
@helper
def own_scratch(arguments):
    """This thread's part of the scratch memory: three arrays for addresses of rows, and where the rest begins.

    The third holds the addresses of the rows of a tile in the scratch memory itself.
    """
    first = arguments[SCRATCH] + next_number(arguments, NEXT_THREAD) * arguments[SCRATCH_STEP]
    a_rows = carray(integers_at(first), TILE_ROWS)
    out_rows = carray(integers_at(first + 64), TILE_ROWS)
    tile_rows = carray(integers_at(first + 128), TILE_ROWS)
    for r in range(TILE_ROWS):
        tile_rows[r] = first + 256 + r * LANE_BYTES
    return a_rows, out_rows, tile_rows, first + SCRATCH_HEAD


@helper
def table_at(address, groups, width):
    """The table of a plan, of which the kernel has the address."""
    return carray(integers_at(address), (groups + 1, width))


# --- compiled, and started -----------------------------------------------------------------------
class Kernel(NamedTuple):
    """A compiled kernel: its address, the same as a function for Python, and what keeps both alive."""

    address: int
    call: Callable[[float, int], None]
    owner: Any


@cache
def compiled(function: Any, kind: str) -> Kernel:
    """Compile a kernel, once; `kind` is the ``char`` of the dtype."""
    number, c_number = (types.float32, ctypes.c_float) if kind == "f" else (types.float64, ctypes.c_double)
    owner = _compile(function, types.void(number, Arguments()))
    address: int = owner.address
    return Kernel(address, ctypes.CFUNCTYPE(None, c_number, ctypes.c_int64)(address), owner)


def _compile(function: Any, signature: Any) -> Any:
    """Compile a function, or take it from Numba's cache."""
    with uninterrupted():
        try:
            return cfunc(signature, cache=True, error_model="numpy")(function)
        except RuntimeError:  # Numba found no folder for its cache
            return cfunc(signature, error_model="numpy")(function)


@cache
def _of_address(function: Any) -> Callable[[int], None]:
    """A function of one address, compiled."""
    owner = _compile(function, types.void(Arguments()))
    call: Any = ctypes.CFUNCTYPE(None, ctypes.c_int64)(owner.address)
    call.owner = owner  # the compiled code lives as long as that
    return call  # type: ignore[no-any-return]


class _Workers:
    """The pool of this process. It starts at the first call that needs it, so a forked child starts its own."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin without a pool: the parent's threads are not in a forked child."""
        self.lock = threading.Lock()
        self.pool: Pool | None = None

    def __call__(self) -> Pool:
        pool = self.pool
        if pool is None:
            with self.lock, uninterrupted():
                number: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
                pool = self.pool = self.pool or Pool(number - 1, _of_address)
        return pool


_workers = _Workers()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_workers.forget)


def number_of_threads(operator: str, shape: ConvShape) -> int:
    """Return how many threads to use: as many as Numba is set to, or one for little work."""
    if plan(operator, shape).useful < SERIAL_BELOW:
        return 1
    return numba.get_num_threads()


def start(
    function: Any, dtype: np.dtype[Any], threads: int, sizes: Array, addresses: tuple[int, ...], scratch: int
) -> None:
    """Run a kernel on some threads; each has `scratch` bytes of memory of its own.

    `sizes` are its arguments, in which the addresses are still to be filled in.
    """
    kernel = compiled(function, dtype.char)
    step = round_up(scratch, 64)
    memory = np.empty(len(sizes) + (threads * step + 64) // 8, np.int64)  # the arguments, then the scratch memory
    memory[: len(sizes)] = sizes
    for k, address in enumerate(addresses, OWN):
        memory[k] = address
    at = memory.ctypes.data
    memory[SCRATCH], memory[SCRATCH_STEP] = round_up(at + sizes.nbytes, 64), step
    if threads == 1:
        kernel.call(0, at)
        return
    _workers().share(kernel.address, at, dtype.char == "d", threads)


def arguments_of(addresses: int, table: Array, *sizes: tuple[int, ...]) -> Array:
    """The arguments of a kernel of the plan: those of all, some addresses to be filled in, the table, the sizes."""
    flat = [size for group in sizes for size in group]
    return np.array([0] * (OWN + addresses) + [table.ctypes.data, len(table) - 1, *flat], np.int64)


ceil_div = register_jitable(**ONLY_IN_KERNELS)(tables.ceil_div)  # for kernels too


@register_jitable(**ONLY_IN_KERNELS)
def round_up(a: int, b: int) -> int:
    return ceil_div(a, b) * b


@register_jitable(**ONLY_IN_KERNELS)
def even_part(whole: int, most: int) -> int:
    """Size of a part when `whole` is cut into parts of `most` or a little less."""
    return ceil_div(whole, ceil_div(whole, max(1, most)))
