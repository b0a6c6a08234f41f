"""What the three step-by-step versions share: stages, added zeros with their masks, counted sums.

In all arrays here rows are axis 1 and columns are axis 2. Inside the operators the channels are
split into (channel group, channel in it), so that channel groups need no loop of their own::

    x  (N, IH, IW, G, C)    dy  (N, OH, OW, G, K)    w  (K, FH, FW, G, C)    C = IC/G, K = OC/G
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..geometry import ConvShape
from . import regular

Array = NDArray[Any]

REAL, INSERTED, PADDED = 0, 1, 2  # kinds of element


@dataclass(frozen=True, eq=False)
class Stage:
    """One step of an operator: an array, and which of its elements are added zeros.

    Attributes
    ----------
    name, text : str
        What the array is, and one sentence about how it came to be.
    array : ndarray
        Four axes, NHWC or OHWI; float64, or int64 for a map of counts.
    padded, inserted : ndarray of bool or None
        True where the element is a zero of the padding, or one put between two elements; same
        shape as `array`. None where the stage has no such zeros.
    way : {"regular", "skipping"}
        The way of computing that the stage belongs to.
    """

    name: str
    text: str
    array: Array
    padded: Array | None = None
    inserted: Array | None = None
    way: str = "skipping"

    @property
    def kinds(self) -> Array:
        """REAL, INSERTED or PADDED for every element."""
        kinds = np.full(self.array.shape, REAL)
        for mask, kind in ((self.inserted, INSERTED), (self.padded, PADDED)):
            if mask is not None:
                kinds[mask] = kind
        return kinds


@dataclass(frozen=True, eq=False)
class Steps:
    """An operator done both ways, with everything that was seen on the way.

    Attributes
    ----------
    operator : str
        "conv2d", "conv2d_input" or "conv2d_weight".
    shape : ConvShape
    stages : list of Stage
        Regular way first; names are unique.
    regular, skipping : ndarray of float64
        The result, each way.
    regular_madds, skipping_madds : int
        Multiply-adds, counted while they were done.
    """

    operator: str
    shape: ConvShape
    stages: list[Stage]
    regular: Array
    skipping: Array
    regular_madds: int
    skipping_madds: int

    def stage(self, name: str) -> Stage:
        """Return the stage of that name, or raise a KeyError that lists the names."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(f"no stage {name!r}; there are {[stage.name for stage in self.stages]}")


@dataclass
class Sums:
    """Sums of products of two arrays by `np.einsum`, with a count of all their multiply-adds."""

    madds: int = field(default=0)

    def add_up(self, letters: str, a: Array, b: Array) -> Array:
        """Return ``np.einsum(letters, a, b)``; one multiply-add for each value of all the letters."""
        left, right = letters.split("->")[0].split(",")
        sizes = dict(zip(left + right, a.shape + b.shape, strict=True))
        self.madds += prod(sizes.values())
        result: Array = np.einsum(letters, a, b)
        return result


def pick(array: Array, rows: range, cols: range) -> Array:
    """Copy the given rows (axis 1) and columns (axis 2)."""
    return array[:, np.array(rows, dtype=int)[:, None], np.array(cols, dtype=int)]


def as_float64(name: str, array: Any, expected: tuple[int, ...]) -> Array:
    """Return a float32 or float64 array as float64, or raise if dtype or shape is another."""
    given: Array = np.asarray(array)
    if given.dtype not in (np.float32, np.float64):
        raise TypeError(f"{name} must be float32 or float64, got {given.dtype}")
    if given.shape != expected:
        raise ValueError(f"{name} must have shape {expected}, got {given.shape}")
    return given.astype(np.float64)


# --- words for the texts of the stages -----------------------------------------------------------
def amount(number: int, word: str) -> str:
    """Return "1 row", "2 rows"."""
    return f"{number} {word}" + ("" if number == 1 else "s")


def spelled(numbers: Sequence[int]) -> str:
    """Spell a list of evenly spaced numbers: "3", "3, 5", "1 to 4" or "1, 3, ... 9"."""
    if len(numbers) < 3:
        return ", ".join(str(number) for number in numbers)
    if numbers[1] - numbers[0] == 1:
        return f"{numbers[0]} to {numbers[-1]}"
    middle = "... " if len(numbers) > 3 else ""
    return f"{numbers[0]}, {numbers[1]}, {middle}{numbers[-1]}"


def named(word: str, numbers: Sequence[int]) -> str:
    """Return "row 3", "rows 1 to 4"."""
    return f"{word} " + spelled(numbers) if len(numbers) == 1 else f"{word}s " + spelled(numbers)


# --- channel groups ------------------------------------------------------------------------------
def split_channels(array: Array, groups: int) -> Array:
    """Split the last axis of an NHWC array into (channel group, channel in it)."""
    return array.reshape(*array.shape[:3], groups, array.shape[3] // groups)


def join_channels(array: Array) -> Array:
    """Undo `split_channels`."""
    return array.reshape(*array.shape[:3], array.shape[3] * array.shape[4])


def split_filter(w: Array, groups: int) -> Array:
    """Turn (OC, FH, FW, C) into (K, FH, FW, G, C)."""
    oc, fh, fw, c = w.shape
    split: Array = w.reshape(groups, oc // groups, fh, fw, c).transpose(1, 2, 3, 0, 4)
    return split


def join_filter(w: Array) -> Array:
    """Undo `split_filter`."""
    k, fh, fw, g, c = w.shape
    joined: Array = w.transpose(3, 0, 1, 2, 4).reshape(g * k, fh, fw, c)
    return joined


# --- added zeros, and masks that remember them ---------------------------------------------------
def pad_x(x: Array, shape: ConvShape) -> Stage:
    """Surround x with the zeros of the padding."""
    padded = ~regular.pad_input(np.ones(x.shape, dtype=bool), shape)
    (top, bottom), (left, right) = shape.padding
    text = f"x with {amount(top, 'row')} of zeros above, {bottom} below, {amount(left, 'column')} left, {right} right"
    return Stage("padded x", text, regular.pad_input(x, shape), padded=padded, way="regular")


def insert_zeros(dy: Array, shape: ConvShape) -> Stage:
    """Put stride-1 zeros between the elements of dy, along rows and along columns."""
    step_h, step_w = shape.stride
    spread = regular.insert_zeros(dy, shape)
    inserted = ~regular.insert_zeros(np.ones(dy.shape, dtype=bool), shape)
    text = f"dy with {amount(step_h - 1, 'row')} and {amount(step_w - 1, 'column')} of zeros between its elements"
    return Stage("dy with inserted zeros", text, spread, inserted=inserted, way="regular")
