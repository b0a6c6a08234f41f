"""The checked build: every load and store of a kernel is tested against the arrays and the memory of its call.

The kernels work on raw addresses, so a wrong one would read or write anything. With the environment variable
CKS_NUMBA_CPU=checked, the operations in `registers` are compiled with a test before each access: a wrong one raises an
IndexError in the caller, whichever thread it was in, and neither reads nor writes. A kernel needs nothing for that.

What belongs to a call are its regions: the elements of its arrays (not what lies between those of a view), the
table, the arguments, and the scratch memory of each thread. Inputs and the table are only read. No byte past an end is
allowed; `fetch` is not tested, because it may be given any address. Calls run one after the other. Repeated calls are
tested too: against the arrays of the repetition, and the memory that it has for its arguments and temporary arrays.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numpy as np
from numba import carray, cfunc, types
from numba.extending import intrinsic
from numpy.lib.stride_tricks import as_strided

from ... import buffers
from .registers import CHECKED, I64, INSIDE, SPLIT, call, helper, integers_at
from .threads import swap

Array = np.ndarray[Any, Any]
GUARD_BYTES = 4096 if CHECKED else 0  # Bytes between two buffers in scratch memory.
BUFFERS = 4  # Most buffers of a thread, beside the rows of a tile.
UNUSED = 1  # First address of a buffer that has not begun.
MOST = 8192  # Most regions of a call.
# Places of the numbers of a failure, and of those of a region; the first row of the table is a failure.
FAILED, ADDRESS, BYTES, WRITES, WHERE, COUNT = range(6)
FIRST, END, MASK, ITEM, WRITABLE = range(5)
WIDTH = 6


class Address(int):
    """The address of the first element of an array, with the array that it is the address of."""

    array: Array

    def __new__(cls, array: Array, skipped: int = 0) -> Address:
        made = super().__new__(cls, array.ctypes.data + skipped)
        made.array = array
        return made

    def __sub__(self, count: int) -> Address:
        return Address(self.array, int(self) - self.array.ctypes.data - count)


address_of: Callable[[Array], int] = Address if CHECKED else buffers.address_of


class Region(NamedTuple):
    """Memory that a kernel may read and perhaps write; a mask has a number other than 0 for each element there."""

    name: str
    first: int
    end: int
    mask: Array | None = None
    item: int = 1
    writes: bool = True


def only_read(array: Array) -> Array:
    """The array as one that a kernel may not write."""
    array = array.view()
    array.flags.writeable = False
    return array


def addresses_of(first: Array, second: Array, out: Array, bias: Array | None = None, *panels: Array) -> tuple[int, ...]:
    """Addresses of two operands, which are only read, of a result, of its bias, 0 if there is none, and of panels."""
    if CHECKED:
        first, second, bias = only_read(first), only_read(second), None if bias is None else only_read(bias)
        panels = tuple(map(only_read, panels))
    addresses = address_of(first), address_of(second), address_of(out), 0 if bias is None else address_of(bias)
    return (*addresses, *map(address_of, panels))


def region(name: str, array: Array, writes: bool = True) -> Region:
    """The region of an array with any strides."""
    steps = [(size - 1) * step for size, step in zip(array.shape, array.strides, strict=True)]
    before, after = -sum(min(0, step) for step in steps), sum(max(0, step) for step in steps)
    first = array.ctypes.data - before
    end = first + (before + after + array.itemsize if array.size else 0)
    mask = None
    if end - first != array.nbytes:  # The view has gaps, or numbers that it repeats.
        mask = np.zeros((end - first) // array.itemsize, np.int64)
        places = [8 * (step // array.itemsize) for step in array.strides]
        as_strided(mask[before // array.itemsize :], array.shape, places)[...] = 1
    return Region(name, first, end, mask, array.itemsize, writes and array.flags.writeable)


# --- for compiled code ---------------------------------------------------------------------------
_table = np.zeros((1 + MOST, WIDTH), np.int64)
TABLE: int = _table.ctypes.data


def inside(address, size, align, writes, where):
    """Whether memory belongs to the call; the first that does not is noted."""
    table = carray(integers_at(TABLE), (1 + MOST, WIDTH))
    for k in range(1, 1 + table[0, COUNT] if address % align == 0 else 0):
        row = table[k]
        if row[FIRST] <= address and address + size <= row[END] and row[WRITABLE] >= writes:
            if row[MASK] == 0:
                return 1
            first, last = (address - row[FIRST]) // row[ITEM], (address + size - 1 - row[FIRST]) // row[ITEM]
            if carray(integers_at(row[MASK] + 8 * first), last - first + 1).min() > 0:
                return 1
    if swap(table[0], FAILED, 0, 1):
        row = table[0]
        row[ADDRESS], row[BYTES], row[WRITES], row[WHERE] = address, size, writes, where
    return 0


def split(address, size):
    """End the buffer at an address of scratch memory after so many bytes; returns where the next one begins."""
    table = carray(integers_at(TABLE), (1 + MOST, WIDTH))
    for k in range(1, table[0, COUNT]):
        row, rest = table[k], table[k + 1]
        if row[FIRST] == address and row[MASK] == 0 and rest[FIRST] == UNUSED:
            rest[END] = row[END] + GUARD_BYTES
            row[END] = address + size
            rest[FIRST] = row[END] + GUARD_BYTES
            return rest[FIRST]
    return address + size


if CHECKED:
    _functions = [cfunc(types.int64(*[types.int64] * count))(f) for f, count in ((inside, 5), (split, 2))]
    for name, function in zip((INSIDE, SPLIT), _functions, strict=True):
        llvm.add_symbol(name, function.address)


@intrinsic
def note_index(typing):
    """Note that an index is outside of its array, unless something else is wrong already."""

    def codegen(context, b, signature, args):
        call(b, INSIDE, I64(0), I64(0), I64(1), I64(0), I64(0))
        return context.get_dummy_value()

    return types.void(), codegen


def caught(kernel: Callable[..., None]) -> Callable[..., None]:
    """Return a kernel that ends, without an exception, where `kernel` raises one."""
    checked = helper(kernel)

    def run(zero, arguments, thread):  # type: ignore[no-untyped-def]
        try:
            checked(zero, arguments, thread)
        except Exception:  # an IndexError of `check`, or of Numba
            note_index()

    run.__qualname__ = f"caught.{kernel.__qualname__}"  # Kernels are linked by their names, as `helper` says.
    return run


# --- for Python ----------------------------------------------------------------------------------
_one_call = threading.Lock()


@contextmanager
def inside_of(kernel: str, regions: list[Region]) -> Iterator[None]:
    """Allow compiled code these regions; raise an IndexError at the end if it wanted something else."""
    with _one_call:
        _table[0] = 0
        _table[0, COUNT] = len(regions)
        rows = _table[1 : 1 + len(regions)]
        for row, (_, first, end, mask, item, writes) in zip(rows, regions, strict=True):
            row[:5] = first, end, 0 if mask is None else mask.ctypes.data, item, writes
        yield
        if _table[0, FAILED]:
            raise IndexError(f"CPU kernel {kernel}: {_failure(regions)}")


def _failure(regions: list[Region]) -> str:
    """What a kernel wanted, and where that lies beside the nearest region."""
    address, size, writes, where = map(int, _table[0, ADDRESS : WHERE + 1])
    if not where:
        return "an index is outside of an array of addresses in its scratch memory"
    line = ctypes.string_at(where).decode()
    ends = _table[1 : 1 + len(regions), [FIRST, END]].tolist()  # `split` may have changed the ends.
    now = [one._replace(first=first, end=end) for one, (first, end) in zip(regions, ends, strict=True)]
    near = min(now, key=lambda one: max(one.first - address, address + size - one.end, 0))
    kind = (", a view with gaps" if near.mask is not None else "") + ("" if near.writes else ", only read")
    return (
        f"{line} {'writes' if writes else 'reads'} {size} bytes at offset {address - near.first} of `{near.name}`, "
        f"which has {near.end - near.first} bytes{kind}"
    )


def _begin_again() -> None:
    """Free the lock: its owner is not in a forked child."""
    global _one_call
    _one_call = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_again)
