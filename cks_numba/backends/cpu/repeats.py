"""Calls that come again: what a call of the same sizes and strides did is done once more, on other addresses.

From sizes and strides follow the kernels that run, and all their arguments but the addresses of the arrays. Finding
them takes longer than a tiny layer's work. So the first call of a kind notes each kernel that it starts, with the
places of its addresses: which are those of an array of the call, and which those of a temporary array. A repeated call
writes its own addresses to these places, and runs the kernels.

A call is not noted if a kernel gets any other address, so one that is cut into pieces or parts is found anew each time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from operator import itemgetter
from struct import Struct
from typing import Any

import numpy as np

from ...buffers import empty
from .bounds import CHECKED, GUARD_BYTES, address_of

Array = np.ndarray[Any, Any]
MOST = 1024  # Most calls that are known.
NO_ARRAY = 0  # place of a 0 before the addresses of a call
_write = Struct("=5q").pack_into  # the arguments of a kernel that change: two counters and three addresses
MOST_BYTES = 2**16  # A call keeps the memory for its next one if that is at most so large.


class Repeat:
    """A call without its addresses.

    Its kernels, temporary arrays and scratch memory lie in one block of memory, in which only the addresses of the
    arrays change. A call takes a block for itself, so any number may run at once.

    Parameters
    ----------
    steps : sequence of (Step, tuple of int)
        The kernels, each with the places of its three addresses: NO_ARRAY, those of the arrays of the call, and then
        those of the temporary arrays.
    temporary : sequence of int
        Bytes of the temporary arrays.
    """

    def __init__(self, steps: Sequence[tuple[Any, tuple[int, ...]]], temporary: Sequence[int]) -> None:
        self.steps: Sequence[tuple[Any, tuple[int, ...]]] = steps
        self.temporary: Sequence[int] = temporary
        self.threads: int = max(step.threads for step, _ in steps)
        sizes = *(size + GUARD_BYTES for size in temporary), *(step.bytes for step, _ in steps)
        self.bytes: int = sum(size + 64 for size in sizes)
        # The counts of parts that are done are zeros in new memory alone.
        self.may_keep: bool = self.bytes <= MOST_BYTES and not any(step.sizes.kept for step, _ in steps)
        self.blocks: list[Any] = []

    def run(self, *addresses: int) -> None:
        """Run the kernels on first, second, out, bias and panels, if there are any, at these addresses.

        The checked build needs an `Address`.
        """
        try:
            block = self.blocks.pop()
        except IndexError:
            block = self._block()
        memory, inner, starts = block
        known = (0, *addresses, *inner)
        for at, places, start, step in starts:
            given = places(known)
            _write(memory, at, 0, 0, *given)
            if CHECKED:
                with step.checked(memory[at // 8 :], given):
                    start()
            else:
                start()
        if self.may_keep:
            self.blocks.append(block)

    def _block(self) -> Any:
        """Return a block of memory, the addresses of the temporary arrays in it, and how each kernel starts."""
        memory = np.empty(self.bytes // 8 + 8, np.int64)
        base = memory.ctypes.data
        at = -(-base // 64) * 64
        inner = []
        for size in self.temporary:
            inner.append(address_of(memory[(at - base) // 8 :].view(np.uint8)[:size]))
            at += -(-size // 64) * 64 + GUARD_BYTES
        starts = []
        for step, places in self.steps:
            step.place(memory[(at - base) // 8 :], at)
            starts.append((at - base, itemgetter(*places), step.starter(at), step))
            at += -(-step.bytes // 64) * 64
        return memory, inner, starts


class Noted:
    """What is noted of a call on arrays at these addresses."""

    def __init__(self, addresses: Sequence[int]) -> None:
        self.places: dict[int, int] = {address: place for place, address in enumerate(addresses, NO_ARRAY + 1)}
        self.is_whole: bool = len(self.places) == len(addresses)
        self.steps: list[tuple[Any, tuple[int, ...]]] = []
        self.temporary: list[Array] = []  # They stay alive, so that no other array can get their addresses.

    def note(self, step: Any, addresses: Sequence[int]) -> None:
        """Note a kernel that was run."""
        places = [self.places.get(address, -1) for address in addresses]
        self.is_whole = self.is_whole and -1 not in places
        self.steps.append((step, (*places, *[NO_ARRAY] * (3 - len(places)))))

    def repeat(self) -> Repeat:
        """Return the call without its addresses."""
        return Repeat(self.steps, [array.nbytes for array in self.temporary])


class _Now(threading.local):
    """The call of this thread that is being noted, and the last one that was known or noted, with its addresses."""

    call: Noted | None = None
    last: tuple[Repeat, Sequence[int]] | None = None


now: _Now = _Now()
_known: dict[Hashable, Any] = {}
known: Callable[[Hashable], Any] = _known.get
"""What is kept under a key, None if there is nothing: a `Repeat`, or what another module needs around it."""


def keep(key: Hashable, call: Any) -> None:
    """Keep what is known of a call."""
    if len(_known) >= MOST:
        _known.clear()
    _known[key] = call


def noting(key: Hashable, addresses: Sequence[int], call: Callable[[], None]) -> Repeat | None:
    """Make a call; if it can be repeated, keep and return how."""
    now.call = noted = Noted(addresses)
    try:
        call()
    finally:
        again = now.call is noted
        now.call = None
    if not (again and noted.is_whole and noted.steps):
        return None
    found = noted.repeat()
    keep(key, found)
    return found


def forget() -> None:
    """Forget all calls."""
    _known.clear()


def temporary(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return a new array that a kernel of this call fills, and a later one reads."""
    array = empty(shape, dtype)
    if now.call is not None:
        now.call.places[array.ctypes.data] = NO_ARRAY + 1 + len(now.call.places)
        now.call.temporary.append(array)
    return array


def not_again() -> None:
    """Do not note this call."""
    now.call = None
