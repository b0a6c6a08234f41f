"""Numbers that know where they come from, arrays of them, and the log of what was multiplied."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..steps.stages import INSERTED, PADDED, REAL

Index = tuple[int, ...]


class Element(NamedTuple):
    """An element of the problem: the name of its array, its place there, and REAL, INSERTED or PADDED."""

    array: str
    place: Index
    kind: int


@dataclass(slots=True, eq=False)
class Event:
    """One multiplication.

    Attributes
    ----------
    first, second : Element
        The factors.
    out : tuple of int or None
        The element of the result that the product was added to; None if it went nowhere.
    block, thread : tuple of int
        Its thread: blockIdx and threadIdx (x, y, z).
    """

    first: Element
    second: Element
    out: Index | None
    block: Index
    thread: Index

    @property
    def wasted(self) -> bool:
        """True if a factor is a zero that padding or insertion put there."""
        return self.first.kind != REAL or self.second.kind != REAL


@dataclass
class Log:
    """What the kernels multiplied, in their order; `block` and `thread` tell which thread is at work."""

    events: list[Event] = field(default_factory=list)
    outside: int = 0
    block: Index = (0, 0, 0)
    thread: Index = (0, 0, 0)

    def product(self, a: Number, b: Number) -> Number:
        """Multiply two numbers and log it."""
        if a.element is None or b.element is None:  # filler of a tile, past the end of the problem
            self.outside += 1
            one_element = (a.element is None) != (b.element is None)
            return Number(a.value * b.value, self, masked=int(one_element))
        event = Event(a.element, b.element, None, self.block, self.thread)
        self.events.append(event)
        return Number(a.value * b.value, self, None, (event,))

    def drop_lost(self) -> None:
        """Count events that went into no result as outside; called once the results are known."""
        kept = [event for event in self.events if event.out is not None]
        self.outside += len(self.events) - len(kept)
        self.events = kept


class Number:
    """A value that a kernel computes with: an element of the problem, or a sum that remembers its products."""

    __slots__ = ("element", "events", "log", "masked", "value")
    __array_ufunc__ = None  # makes NumPy's scalars leave the arithmetic to this class

    value: float
    log: Log
    element: Element | None
    events: tuple[Event, ...]
    masked: int

    def __init__(
        self,
        value: float,
        log: Log,
        element: Element | None = None,
        events: tuple[Event, ...] = (),
        masked: int = 0,  # number of products of an element and filler in this sum
    ) -> None:
        self.value, self.log, self.element, self.events, self.masked = value, log, element, events, masked

    def __mul__(self, other: Any) -> Number:
        return self.log.product(self, self._number(other))

    def __rmul__(self, other: Any) -> Number:
        return self.log.product(self._number(other), self)

    def __pow__(self, exponent: int) -> Number:
        if exponent < 1:
            return NotImplemented
        power = self
        for _ in range(1, exponent):
            power = power * self
        return power

    def __add__(self, other: Any) -> Number:
        added = self._number(other)
        if not (added.value or added.element or added.events or added.masked):
            return self  # an element to which 0 is added is still that element
        if not (self.value or self.element or self.events or self.masked):
            return added
        masked = self.masked + added.masked
        return Number(self.value + added.value, self.log, None, self.events + added.events, masked)

    __radd__ = __add__

    def __neg__(self) -> Number:
        return Number(-self.value, self.log, self.element, self.events, self.masked)

    def __sub__(self, other: Any) -> Number:
        return self + -self._number(other)

    def __rsub__(self, other: Any) -> Number:
        return -self + self._number(other)

    def __float__(self) -> float:
        return float(self.value)

    def _number(self, value: Any) -> Number:
        return value if isinstance(value, Number) else Number(float(value), self.log)


class Watched:
    """An array of Numbers, with as much of a NumPy array's interface as kernels use."""

    cells: Any
    dtype: np.dtype[Any]
    log: Log
    shape: tuple[int, ...]
    size: int
    ndim: int

    def __init__(self, cells: Any, dtype: Any, log: Log) -> None:
        self.cells, self.dtype, self.log = cells, np.dtype(dtype), log
        self.shape, self.size, self.ndim = cells.shape, cells.size, cells.ndim

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, index: Any) -> Any:
        found = self.cells[index]
        return Watched(found, self.dtype, self.log) if isinstance(found, np.ndarray) else found

    def __setitem__(self, index: Any, value: Any) -> None:
        self.cells[index] = value if isinstance(value, Number) else Number(float(value), self.log)

    def reshape(self, *shape: int) -> Watched:
        return Watched(self.cells.reshape(*shape), self.dtype, self.log)


def blank(shape: Any, dtype: Any, log: Log) -> Watched:
    """Make uninitialised memory: NaN, so that a result made from it cannot be right."""
    cells = np.empty(shape, object)
    cells.fill(Number(float("nan"), log))
    return Watched(cells, dtype, log)


__all__ = ["INSERTED", "PADDED", "REAL", "Element", "Event", "Log", "Number", "Watched", "blank"]
