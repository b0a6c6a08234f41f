"""Evidence that zeros are skipped: run the kernels' own source on arrays that know which elements are zeros.

`run` takes the launches that a GPU would get and runs their Python source, line by line, on numbers
that remember which element of which array they are. So nothing here knows how a kernel works: what
is counted is what it multiplied. Only for tiny shapes; a multiplication takes about a microsecond.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from .. import kernels, steps
from ..geometry import UNIT_AXIS, Axis, ConvShape
from ..kernels.elementwise import ADD_ZEROS
from ..kernels.launch import Launch
from ..steps.stages import INSERTED, PADDED, REAL
from .elements import Element, Event, Log, Number, Watched, blank
from .machine import Machine

__all__ = ["INSERTED", "PADDED", "REAL", "Counts", "Element", "Event", "Trace", "added_zeros", "count", "run"]

ADDED = {
    "conv2d": ("padded x",),
    "conv2d_input": ("padded dy",),
    "conv2d_weight": ("padded x", "dy with inserted zeros"),
}
"""Stages of `steps` that the launches of with_zeros make, in this order."""


@dataclass(frozen=True)
class Counts:
    """Multiplications of a kernel, by what their factors are.

    Attributes
    ----------
    useful : int
        Both factors are real elements.
    by_padded, by_inserted : int
        A factor is a padded zero (an inserted zero), and no factor is of the other kind.
    by_both : int
        One factor is a padded zero, the other an inserted one.
    outside : int
        In rows, columns or terms of a tile past the end of the problem: a factor is filler, or the product
        goes into no result.
    masked : int
        Those of `outside` that multiply an element by filler and were added to a result, as in a kernel that
        multiplies by 0 where a bounds test fails, instead of skipping.
    """

    useful: int
    by_padded: int
    by_inserted: int
    by_both: int
    outside: int
    masked: int

    @property
    def by_zero(self) -> int:
        """Multiplications by a zero that padding or insertion put there."""
        return self.by_padded + self.by_inserted + self.by_both

    @property
    def total(self) -> int:
        """All multiplications of the problem; `outside` is not among them."""
        return self.useful + self.by_zero


@dataclass(frozen=True, eq=False)
class Trace:
    """What a kernel did.

    Attributes
    ----------
    operator : str
    shape : ConvShape
    rung : str
    counts : Counts
    events : list of Event
        Every multiplication of the problem, in the order in which the threads did them.
    result : ndarray
        What the kernel computed.
    """

    operator: str
    shape: ConvShape
    rung: str
    counts: Counts
    events: list[Event]
    result: np.ndarray[Any, Any]

    def per_result(self, wasted: bool) -> np.ndarray[Any, Any]:
        """Number of products of each element of the result that were wasted, or of those that were not.

        Examples
        --------
        >>> shape = ConvShape(n=1, ih=2, iw=2, ic=1, oc=1, fh=3, fw=3, padding=1)
        >>> run("conv2d", shape, "with_zeros").per_result(wasted=True)[0, :, :, 0]
        array([[5, 5],
               [5, 5]])
        """
        found = np.zeros(self.result.shape, int)
        for event in self.events:
            if event.out is not None and event.wasted == wasted:
                found[event.out] += 1
        return found


def run(operator: str, shape: ConvShape, rung: str, first: Any = None, second: Any = None) -> Trace:
    """Run the kernels of one rung of an operator and watch every multiplication.

    Parameters
    ----------
    operator : {"conv2d", "conv2d_input", "conv2d_weight"}
    shape : ConvShape
        A tiny one, of one, two or three axes.
    rung : {"with_zeros", "skip_zeros", "shared", "grouped", "register_tile", "tiled"}
    first, second : ndarray, optional
        The operands as `kernels.launches` takes them; full of ones if not given.

    Returns
    -------
    Trace

    Raises
    ------
    ValueError, TypeError
        For an unknown operator or rung, a shape that is no ConvShape, or arrays that do not fit it.

    Examples
    --------
    >>> shape = ConvShape(n=1, ih=2, iw=2, ic=1, oc=1, fh=3, fw=3, padding=1)
    >>> event = run("conv2d", shape, "with_zeros").events[0]
    >>> event.first.array, event.first.place, event.wasted
    ('padded x', (0, 0, 0, 0), True)
    >>> run("conv2d", shape, "skip_zeros").events[0].first.place
    (0, 0, 0, 0)
    """
    if not isinstance(shape, ConvShape):
        raise TypeError(f"shape must be a ConvShape, got {type(shape).__name__}")
    _check_operator(operator)
    if rung not in kernels.SIMULATED_RUNGS:
        raise ValueError(f"rung must be one of {kernels.SIMULATED_RUNGS}, which are all Python, got {rung!r}")
    sizes = [size for _, size in shape.arrays(operator)]
    first, second = (
        np.ones(size, np.float32) if given is None else np.asarray(given)
        for given, size in zip((first, second), sizes, strict=False)
    )
    out = np.full(sizes[2], np.nan, first.dtype)
    launches = kernels.launches(operator, shape, (first, second, out), rung=rung)
    memory = _Memory(operator, shape, (first, second, out))
    _run_all(launches, memory)
    result, masked = memory.collect(out)
    memory.log.drop_lost()
    return Trace(operator, shape, rung, _counted(memory.log, masked), memory.log.events, result)


def count(operator: str, shape: ConvShape, rung: str) -> Counts:
    """Count the multiplications that the kernels of one rung really do.

    Parameters and errors are those of `run`.

    Examples
    --------
    >>> from cks_numba import flops
    >>> shape = ConvShape(n=1, ih=3, iw=3, ic=1, oc=1, fh=3, fw=3, stride=2, padding=1)
    >>> count("conv2d_input", shape, "with_zeros")
    Counts(useful=16, by_padded=32, by_inserted=33, by_both=0, outside=0, masked=0)
    >>> count("conv2d_input", shape, "skip_zeros")
    Counts(useful=16, by_padded=0, by_inserted=0, by_both=0, outside=0, masked=0)
    >>> count("conv2d_input", shape, "with_zeros").total == flops.count("conv2d_input", shape).regular
    True
    """
    return run(operator, shape, rung).counts


def _counted(log: Log, masked: int) -> Counts:
    kinds = [{event.first.kind, event.second.kind} for event in log.events]
    padded = sum(PADDED in pair for pair in kinds)
    inserted = sum(INSERTED in pair for pair in kinds)
    both = sum({PADDED, INSERTED} <= pair for pair in kinds)
    wasted = padded + inserted - both
    return Counts(len(kinds) - wasted, padded - both, inserted - both, both, log.outside, masked)


def added_zeros(operator: str, shape: ConvShape) -> dict[str, np.ndarray[Any, Any]]:
    """Map the zeros that the regular way adds to its tensors, for one image and one channel.

    Parameters
    ----------
    operator : {"conv2d", "conv2d_input", "conv2d_weight"}
    shape : ConvShape

    Returns
    -------
    dict of str to int array with an axis for each axis of the shape
        REAL, INSERTED or PADDED for every element of "padded x", "padded dy" or "dy with inserted zeros".

    Raises
    ------
    ValueError
        For an unknown operator.

    Notes
    -----
    Along one axis the kinds are those that `steps` shows. An element is padded if it is so along any axis, and inserted
    if it is so along an axis and padded along none.

    Examples
    --------
    >>> shape = ConvShape.of((1, 3, 3, 1), (1, 1, 2, 1), stride=2, padding=(0, 1))
    >>> added_zeros("conv2d_input", shape)["padded dy"]
    array([[0, 1, 0, 2],
           [1, 1, 1, 2],
           [0, 1, 0, 2]])
    """
    _check_operator(operator)
    lines = [_zeros_along(operator, axis) for axis in shape.axes]
    return {name: reduce(np.maximum.outer, [line[name] for line in lines]) for name in ADDED[operator]}


def _zeros_along(operator: str, axis: Axis) -> dict[str, np.ndarray[Any, Any]]:
    """Kinds of elements along one axis, from `steps` on a picture of one row."""
    row = ConvShape(n=1, ih=1, iw=1, ic=1, oc=1, fh=1, fw=1).with_axes(UNIT_AXIS, axis)
    first, second = (np.ones(size) for _, size in row.arrays(operator)[:2])
    shown = steps.BY_OPERATOR[operator](first, second, row)
    return {name: shown.stage(name).kinds[0, 0, :, 0] for name in ADDED[operator]}


def _check_operator(operator: str) -> None:
    if operator not in ADDED:
        raise ValueError(f"operator must be one of {tuple(ADDED)}, got {operator!r}")


def _run_all(launches: list[Launch], memory: _Memory) -> None:
    machine, added = Machine(memory.log), iter(memory.added.items())
    for launch in launches:
        args = tuple(memory.watched(arg) if isinstance(arg, np.ndarray) else arg for arg in launch.args)
        machine.launch(launch.kernel, launch.grid, launch.block, args)
        if launch.kernel in ADD_ZEROS.values():
            _mark(args[1], *next(added))


def _mark(made: Watched, name: str, kinds: np.ndarray[Any, Any]) -> None:
    """Tell the elements of a padded or zero-inserted array what they are."""
    cells = made.cells.reshape(made.shape[0], *kinds.shape, made.shape[-1])  # the kernels have at least two axes
    for index, number in np.ndenumerate(cells):
        kind = int(kinds[index[1:-1]])
        if (number.element is None) != (kind != REAL):
            raise AssertionError(f"{name}: the kernel and steps/ differ about element {index}")
        cells[index] = Number(number.value, made.log, Element(name, index, kind))


class _Memory:
    """A map from NumPy memory to watched cells, because launches pass the same array in several shapes."""

    def __init__(self, operator: str, shape: ConvShape, arrays: tuple[Any, Any, Any]) -> None:
        self.log, self.added = Log(), added_zeros(operator, shape)
        self.known: list[tuple[int, int, Watched]] = []  # first byte, past the last byte, flat cells
        for (name, _), array in zip(shape.arrays(operator)[:2], arrays, strict=False):
            cells = self.watched(array).cells
            for index, value in np.ndenumerate(array):
                cells[index] = Number(float(value), self.log, Element(name, index, REAL))

    def watched(self, array: Any) -> Any:
        """Return the cells of an array of floats, new ones for new memory; integer tables are only copied."""
        if array.dtype.kind != "f":
            return array.astype(object)  # Python's integers do not overflow
        start = array.__array_interface__["data"][0]
        for first, last, flat in self.known:
            if first <= start < last:
                skipped = (start - first) // array.itemsize
                return Watched(flat.cells[skipped : skipped + array.size].reshape(array.shape), array.dtype, self.log)
        flat = blank(array.size, array.dtype, self.log)
        self.known.append((start, start + array.nbytes, flat))
        return Watched(flat.cells.reshape(array.shape), array.dtype, self.log)

    def collect(self, out: Any) -> tuple[np.ndarray[Any, Any], int]:
        """Return the result and its number of masked products, and set the element that each event was added to."""
        result, masked = np.empty_like(out), 0
        for index, number in np.ndenumerate(self.watched(out).cells):
            result[index] = number.value
            masked += number.masked
            for event in number.events:
                event.out = index
        return result, masked
