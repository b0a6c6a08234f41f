"""Kernels as compiled C functions: their arguments, Numba's cache on disk, and threads.

A kernel is a function of two parameters: a zero, which tells the dtype, and the address of its arguments, which are
int64 numbers. It allocates nothing and cannot fail. Any number of threads may run a kernel with the same arguments at
once: they take one task after the other from a shared counter, which is the first argument.

The arguments have names: they are the fields of a named tuple, which `Sizes.of` writes and `record` reads. Its first
field is a `Call`, and the others are sizes, which the next call with arrays of the same sizes and strides has too.

Numba takes a constant in a call for a part of the argument's type, and compiles the called function once more for
every new constant. `int(CONSTANT)` avoids that.
"""

from __future__ import annotations

import ctypes
import os
import pkgutil
import sys
import threading
import warnings
import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache, lru_cache, partial
from operator import index
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, get_args, get_type_hints

import numba
import numpy as np
from numba import carray, types
from numba.core import sigutils
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.ccallback import CFunc
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic, models, register_jitable, register_model
from numba.np.ufunc import parallel

from ... import plan_table
from ...geometry import ConvShape, Group, plan
from ..interrupts import uncollected, uninterrupted
from . import bounds
from .bounds import BUFFERS, GUARD_BYTES, UNUSED, address_of
from .registers import (
    CHECKED,
    I64,
    LANE_BYTES,
    ONLY_IN_KERNELS,
    OPTIONS,
    TILE_ROWS,
    check,
    helper,
    integers_at,
    next_number,
    take,
)
from .repeats import now
from .threads import JOB, Pool, cores

Array = np.ndarray[Any, Any]
Strides = tuple[int, ...]
SERIAL_BELOW = 400_000  # Fewer multiply-adds than these are done before a second thread has woken up.

ROWS_BYTES = 256 + TILE_ROWS * LANE_BYTES  # Bytes that `own_scratch` lays out.
SCRATCH_HEAD = ROWS_BYTES + GUARD_BYTES


def _stamp() -> int:
    """A checksum of the files of all compiled code, in a folder or a zip file, source or not.

    An application that is frozen into one file may have none of them. Its code does not change either.
    """
    found: list[Any] = [each.module_finder.find_spec(each.name, None) for each in pkgutil.iter_modules(_FOLDER)]
    checksum = 0
    for spec in (*found, plan_table.__spec__):
        with suppress(OSError):
            checksum = zlib.crc32(spec.loader.get_data(spec.origin), checksum)
    return checksum


_FOLDER: Any = sys.modules[str(__package__)].__path__


class Arguments(types.Type):
    """The address of the arguments of a kernel.

    Numba's cache on disk notices a change of the file that a kernel is in, but not of the other files that it uses.
    The name of this type is part of every kernel's signature: the stamp in it keeps out code from other sources.
    """

    def __init__(self) -> None:
        super().__init__(name=f"Arguments({_stamp():08x}{', checked' if CHECKED else ''})")


@register_model(Arguments)
class _ArgumentsModel(models.PrimitiveModel):
    def __init__(self, manager: Any, arguments: Arguments) -> None:
        super().__init__(manager, arguments, I64)


# --- named numbers: named tuples in Python and in kernels, int64 numbers in memory ----------------
class Call(NamedTuple):
    """What `start` fills in: counters, addresses of arrays, and memory.

    A and B are what a kernel multiplies. Where a sum is cut into parts, `done` has the number of parts of each block
    that are done, and `kept` the results of each part of each block. Each thread has scratch memory of its own.
    """

    next_task: int
    next_thread: int
    a: int
    b: int
    out: int
    done: int
    kept: int
    scratch: int
    scratch_step: int


FROM_THE_END = 2**32  # A task taken from the end of the list adds so many to the counter of tasks, any other 1.
NO_CALL = Call(*[0] * 9)
NEXT_TASK, NEXT_THREAD, ADDRESSES, _, _, DONE, _, _, _ = range(9)  # places in a `Call`


class Steps(NamedTuple):
    """Bytes from an element of an array to the next one along each axis."""

    n: int
    d: int
    h: int
    w: int
    c: int


class Access(NamedTuple):
    """Where a group of a plan is in an array: bytes to the first element, and from a position or a term to the next.

    The steps are those of depths, rows and columns.
    """

    first: int
    position: tuple[int, int, int]
    term: tuple[int, int, int]


class GroupRow(NamedTuple):
    """A group of a plan in the arrays of a call: its positions and terms along each axis, and where they are.

    Of the two images, the source is x for "conv2d", and dy for "conv2d_input".
    """

    positions: tuple[int, int, int]
    terms: tuple[int, int, int]
    source: Access
    filters: Access
    out: Access


def group_row(operator: str, group: Group, source: Strides, filters: Strides, out: Strides) -> GroupRow:
    """Return the row of a group for arrays of these strides, of three axes."""

    def access(index: str, strides: Strides) -> Access:
        each = [(getattr(run, index), step) for run, step in zip(group, strides, strict=True)]
        first = sum(one.base * step for one, step in each)
        steps = [(one.fixed * step, one.term * step) for one, step in each]
        return Access(first, *zip(*steps, strict=True))

    positions, terms = zip(*((run.positions, run.terms) for run in group), strict=True)
    image, other = ("i", "o") if operator == "conv2d" else ("o", "i")
    return GroupRow(positions, terms, access(image, source), access("f", filters), access(other, out))


class Sizes(NamedTuple):
    """The part of a call that depends on sizes alone, which is kept for the next call with the same ones."""

    named: Any  # All arguments, as a named tuple.
    arguments: Array  # The same as numbers, and for each block a 0: the count of its parts that are done.
    scratch: int  # Bytes of scratch memory for each thread.
    kept: int  # Bytes of the results of all parts.
    done: int  # Bytes of the arguments before those counts.
    table: Array  # It stays alive with this, because the arguments hold its address.

    @classmethod
    def of(cls, named: Any, scratch: int = 0, table: Array | None = None) -> Sizes:
        """Return the sizes for a named tuple of arguments; one with `parts` has `blocks` and `result_bytes` too."""
        blocks, parts = (named.blocks, named.parts) if getattr(named, "parts", 1) > 1 else (0, 0)
        numbers = numbers_of(named)
        arguments = np.array(numbers + [0] * blocks, np.int64)
        kept = blocks * parts * named.result_bytes if parts else 0
        return cls(named, arguments, scratch, kept, 8 * len(numbers), np.empty(0) if table is None else table)


def count_of(kind: Any) -> int:
    """Return how many numbers a named tuple of the class `kind` holds, those of nested tuples included."""
    return 1 if kind is int else sum(count_of(field) for field in _fields_of(kind).values())


def numbers_of(value: Any, kind: Any = None, name: str = "") -> list[int]:
    """Return the numbers of a named tuple in the order of its fields.

    Raises
    ------
    TypeError, ValueError
        If a field is not what its annotation says: an integer, or a tuple of so many integers.
    """
    kind = kind or type(value)
    if kind is int:
        return [index(value)]
    fields = _fields_of(kind)
    if len(value) != len(fields):
        raise ValueError(f"{name or kind.__name__} must be {len(fields)} numbers, got {value}")
    parts = zip(value, fields.items(), strict=True)
    return [number for part, (field, of) in parts for number in numbers_of(part, of, field)]


@cache
def _fields_of(kind: Any) -> dict[str, Any]:
    """Names and types of the fields of a class of named tuples, or of the parts of a type like ``tuple[int, int]``."""
    if hasattr(kind, "_fields"):
        return get_type_hints(kind)
    return {str(k): part for k, part in enumerate(get_args(kind))}


def _numba_type(kind: Any) -> Any:
    if kind is int:
        return types.int64
    parts = [_numba_type(part) for part in _fields_of(kind).values()]
    return types.BaseTuple.from_types(parts, kind if hasattr(kind, "_fields") else None)


@intrinsic
def record(typing, address, k, kind):
    """Record k of those that follow each other at an address, as a named tuple of the class `kind`."""
    fields = _numba_type(kind.instance_class)

    def codegen(context, b, signature, args):
        records = b.inttoptr(args[0], context.get_value_type(fields).as_pointer())
        place = b.gep(records, [args[1]])
        check(context, b, place, context.get_value_type(fields), 8)
        return b.load(place)

    return fields(address, types.int64, kind), codegen


def lanes_and_terms(operator: str, shape: ConvShape) -> tuple[int, int]:
    """Channels of the result and of the source of a channel group, for conv2d and conv2d_input."""
    oc, ic = shape.oc // shape.groups, shape.ic // shape.groups
    return (oc, ic) if operator == "conv2d" else (ic, oc)


# --- three axes: depth, rows and columns ----------------------------------------------------------
def with_three_axes(shape: ConvShape) -> ConvShape:
    """The shape as the kernels see it: the axes that a layer lacks have one element, and come first."""
    return shape.with_unit_axes(3)


def five(strides: Strides) -> Strides:
    """The strides of an array of one, two or three spatial axes, with 0 for the axes that it lacks."""
    first, *spatial, last = strides
    return (first, *[0] * (3 - len(spatial)), *spatial, last)


# --- helpers for kernels -------------------------------------------------------------------------
@helper
def first_of(indices, steps):
    """Bytes from the first element of an array to the one at these indices (depth, row, column)."""
    return indices[0] * steps.d + indices[1] * steps.h + indices[2] * steps.w


@helper
def and_last(three, last):
    """The numbers of three axes, and another one."""
    return three[0], three[1], three[2], last


@helper
def own_scratch(arguments):
    """This thread's part of the scratch memory: three arrays for addresses of rows, and where the free part begins.

    The third array holds the addresses of the rows of a tile that lies in the scratch memory itself.
    """
    call = record(arguments, 0, Call)
    first = call.scratch + next_number(arguments, NEXT_THREAD) * call.scratch_step
    a_rows = carray(integers_at(first), TILE_ROWS)
    out_rows = carray(integers_at(first + 64), TILE_ROWS)
    tile_rows = carray(integers_at(first + 128), TILE_ROWS)
    for r in range(TILE_ROWS):
        tile_rows[r] = first + 256 + r * LANE_BYTES
    return a_rows, out_rows, tile_rows, first + SCRATCH_HEAD


@helper
def next_task(arguments, thread, tasks):
    """Take one of so many tasks, or return -1 if none is left.

    Threads of even numbers begin at the first task, the others at the last one. So a thread of two does much the same
    part of the next call, and finds in its own cache what it read and wrote in this one.
    """
    taken = take(arguments, NEXT_TASK, FROM_THE_END if thread & 1 else 1)
    first, last = taken % FROM_THE_END, taken // FROM_THE_END
    if first + last >= tasks:
        return -1
    return tasks - 1 - last if thread & 1 else first


# --- compiling and starting a kernel -------------------------------------------------------------
@cache
def compiled(function: Any, kind: str = "") -> Any:
    """Return a compiled function for Python, compiled at the first call.

    A kernel takes a zero, whose dtype has the ``char`` `kind`, an address, and the number of a thread; other functions
    take an address alone.
    """
    number = {"": (), "f": (types.float32,), "d": (types.float64,)}[kind]
    owner = _compile(function, types.void(*number, Arguments(), *[types.int64] * len(number)))
    # The zero of a double in a register is that of a float too.
    given = [ctypes.c_double, ctypes.c_int64, ctypes.c_int64] if kind else [ctypes.c_int64]
    call: Any = ctypes.CFUNCTYPE(None, *given)(owner.address)
    call.name, call.address = function.__name__, owner.address
    call.owner = owner  # The compiled code lives as long as its owner.
    return call


def _compile(function: Any, signature: Any) -> Any:
    """Compile a function, or take it from Numba's cache on disk."""
    args, returned = sigutils.normalize_signature(signature)
    code = bounds.caught(function) if CHECKED and len(args) == 3 else function
    owner = CFunc(code, (args, returned), {}, OPTIONS)
    with uninterrupted(), uncollected():
        with suppress(RuntimeError):  # Numba found no folder for its cache
            owner._cache = _CarefulCache(function)  # type: ignore[attr-defined]
        owner.compile()
    return owner


def _place(kind: Any, writable: bool) -> Any:
    """A kind of folder where Numba looks for its cache; if it need not be writable, there must be code in it."""

    class Place(kind):  # type: ignore[misc]
        def ensure_cache_path(self) -> None:
            path = Path(self.get_cache_path())
            # For a user without a home, Numba would make a folder "~" here. One that the user names may be relative.
            if not path.is_absolute() and not numba.config.CACHE_DIR:  # type: ignore[attr-defined]
                raise NotADirectoryError(path)
            if writable or not any(path.glob("*.nbi")):
                super().ensure_cache_path()

    return Place


class _Places(CompileResultCacheImpl):
    """Where the cache may be: Numba's own places, which it can write to; if there is none, those that it can read."""

    _locator_classes: ClassVar[list[Any]] = [
        _place(kind, writable) for writable in (True, False) for kind in CompileResultCacheImpl._locator_classes
    ]


class _CarefulCache(FunctionCache):
    """Numba's cache on disk, of which nothing that is damaged, full or another process's costs a result."""

    _impl_class = _Places
    warned: ClassVar[bool] = False

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled code, or None to compile it: then it is saved, in place of what could not be read."""
        try:
            found = super().load_overload(sig, target_context)
        except Exception as error:  # unpickling may raise anything
            self._warn("read", error)
            with suppress(OSError):
                self.flush()
            return None
        # Two processes that save at once may give their files the same name: the index of one, the code of the other.
        return found if found is not None and found.signature == sig else None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception as error:  # a full disk, a quota, no permission; or the index cannot be read
            self._warn("kept", error)

    def _warn(self, done: str, error: Exception) -> None:
        if not _CarefulCache.warned:
            _CarefulCache.warned = True
            text = f"compiled code could not be {done} in {self.cache_path}: {type(error).__name__}: {error}"
            warnings.warn(f"{text}. It is compiled again, and the results are right", RuntimeWarning, stacklevel=3)


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
                pool = self.pool = self.pool or Pool(number - 1, compiled)
        return pool


_workers = _Workers()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_workers.forget)
    # A child that is forked while another thread compiles would wait for that thread, which it does not have.
    lock = global_compiler_lock
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)


def number_of_threads(operator: str, shape: ConvShape) -> int:
    """Return how many threads to use: one for little work, else as many as Numba is set to."""
    return 1 if is_little(operator, shape) else affordable(threads_of_numba())


def is_little(operator: str, shape: ConvShape) -> bool:
    """Whether one thread does the work before a second one has woken up."""
    return _multiply_adds(operator, shape) < SERIAL_BELOW


def threads_of_numba() -> int:
    """Return how many threads Numba is set to.

    Numba starts its own threads, which are of no use here, when it is asked. Until then nobody has set a number in
    Python, and its threading layer need not be there.
    """
    number: int = numba.get_num_threads() if parallel._is_initialized else numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    return number


@cache
def affordable(threads: int) -> int:
    """Return this number of Numba's threads, or less if nobody chose it and a quota of CPU time allows less."""
    chosen = "NUMBA_NUM_THREADS" in os.environ or threads != numba.config.NUMBA_DEFAULT_NUM_THREADS  # type: ignore[attr-defined]
    return threads if chosen else min(threads, cores())


@lru_cache(maxsize=4096)
def _multiply_adds(operator: str, shape: ConvShape) -> int:
    return plan(operator, with_three_axes(shape)).useful


def start(function: Any, dtype: np.dtype[Any], threads: int, sizes: Sizes, **arrays: Array) -> None:
    """Run a kernel on some threads, each of which has scratch memory of its own.

    The arrays are those of `Call` in their order: A, B and the result. Their names are for error messages.

    Raises
    ------
    IndexError
        In the checked build, if the kernel reads or writes anything else.
    """
    step = Step(compiled(function, dtype.char), threads, sizes, tuple(arrays))
    memory = np.empty(step.bytes // 8, np.int64)
    at = memory.ctypes.data
    addresses = [address_of(array) for array in arrays.values()]
    step.place(memory, at)
    memory[ADDRESSES : ADDRESSES + len(addresses)] = addresses
    with step.checked(memory, addresses) if CHECKED else nullcontext():
        step.starter(at)()
    if now.call is not None:
        now.call.note(step, addresses)


class Step(NamedTuple):
    """A kernel with all its arguments but the addresses of arrays."""

    kernel: Any  # What `compiled` returns.
    threads: int
    sizes: Sizes
    names: tuple[str, ...]  # Those of the arrays, for error messages.

    @property
    def bytes(self) -> int:
        """Bytes of the arguments, the results of parts, and the scratch memory of all threads."""
        kept, scratch = self._memory()
        return self.sizes.arguments.nbytes + GUARD_BYTES + 64 + kept + self.threads * scratch

    def _memory(self) -> tuple[int, int]:
        """Bytes for the results of parts, and for the scratch memory of a thread."""
        sizes = self.sizes
        return (sizes.kept + 63) // 64 * 64 + GUARD_BYTES, (sizes.scratch + 63) // 64 * 64 + BUFFERS * GUARD_BYTES

    def _layout(self, at: int) -> tuple[int, int, int, int]:
        """The last four numbers of the `Call` whose arguments are at an address."""
        kept = (at + self.sizes.arguments.nbytes + GUARD_BYTES + 63) // 64 * 64
        rest, step = self._memory()
        return at + self.sizes.done, kept, kept + rest, step

    def place(self, memory: Array, at: int) -> None:
        """Write the arguments but for addresses of arrays to memory at an address."""
        arguments = self.sizes.arguments
        memory[:ADDRESSES] = 0
        memory[DONE : DONE + 4] = self._layout(at)
        memory[DONE + 4 : len(arguments)] = arguments[DONE + 4 :]

    def starter(self, at: int) -> Callable[[], Any]:
        """Return a function that runs the kernel with the arguments at an address."""
        if self.threads == 1 and not CHECKED:
            return partial(self.kernel, 0, at, 0)
        job = np.empty(JOB, np.int64)
        return partial(_share, job, job.ctypes.data, self.kernel.address, at, self.threads)

    def checked(self, memory: Array, addresses: Sequence[int]) -> AbstractContextManager[None]:
        """In the checked build, allow the memory of a call; the arguments are in `memory`, from its beginning."""
        given: Any = zip(self.names, addresses, strict=False)  # Kernels of two arrays have a third address.
        found = [bounds.region(name, at.array) for name, at in given]
        return bounds.inside_of(self.kernel.name, found + self._regions(memory))

    def _regions(self, memory: Array) -> list[bounds.Region]:
        """The memory that belongs to a call, besides its arrays."""
        sizes, (_, kept, scratch, step) = self.sizes, self._layout(memory.ctypes.data)
        found = [
            bounds.region("table", sizes.table, writes=False),
            bounds.region("arguments", memory[: len(sizes.arguments)]),
            bounds.Region("kept", kept, kept + sizes.kept),
        ]
        for k in range(self.threads if sizes.scratch else 0):
            first = scratch + k * step
            found.append(bounds.Region(f"rows of thread {k}", first, first + ROWS_BYTES))
            found.append(bounds.Region(f"buffer 0 of thread {k}", first + SCRATCH_HEAD, first + sizes.scratch))
            found += [bounds.Region(f"buffer {i} of thread {k}", UNUSED, 0) for i in range(1, BUFFERS)]
        return found


def _share(*job: Any) -> None:
    """Run a job on threads of the pool of this process, which a forked child does not share with its parent."""
    _workers().share(*job)


ceil_div: Any = register_jitable(**ONLY_IN_KERNELS)(plan_table.ceil_div)  # Kernels can call it too.


@register_jitable(**ONLY_IN_KERNELS)
def round_up(a: int, b: int) -> int:
    """Return the smallest multiple of b that is at least a."""
    return ceil_div(a, b) * b


@register_jitable(**ONLY_IN_KERNELS)
def even_part(whole: int, most: int) -> int:
    """Return the size of a part if `whole` is cut into even parts of at most `most`."""
    return ceil_div(whole, ceil_div(whole, max(1, most)))
