"""Indices over two or three spatial axes: device functions for kernels that are made for a number of axes.

A tuple with an entry for each axis is in the order of the axes of an array: (row, column) or (depth, row, column).
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from numba import int32, uint32

from ..plan_table import COLUMNS, COUNT, DEPTH, FIXED, FIXED_STEP, ROWS, SUMMED, TERMS, THIRD, THIRD_FIXED
from . import grouped
from .jit import device


class Axes(NamedTuple):
    """A number of axes, and the device functions for it; `table` is that of a plan, and `g` a group of it.

    Attributes
    ----------
    number : int
        Two or three.
    counts, terms : device functions of table and g
        Positions of each axis; and terms, where no term counts as one, so that they may divide.
    terms_of_all : device function of table and g
        Terms of all axes together, which may be 0.
    product : device function of a tuple
        The product of its entries.
    digits : device function of a number and the sizes of its last digits, as many as axes
        The number, written with a first digit that has no limit, and these.
    summed : device function of table and g
        The index that counts the terms, at the first term.
    third, fixed : device functions of table, g and a position
        The index that follows from a position and the first term; and the index of the result.
    inside, pixel : device functions of an array and a place, or of an array, an image and a place
        How many pixels lie before a place: in its image, and in the whole array.
    steps : device function of three numbers
        Those for depth, rows and columns, without that for depth where there is none.
    """

    number: int
    counts: Any
    terms: Any
    terms_of_all: Any
    product: Any
    digits: Any
    summed: Any
    third: Any
    fixed: Any
    inside: Any
    pixel: Any
    steps: Any


@device
def divisor(table, g, axis):
    """The terms of an axis, but at least one."""
    return uint32(max(table[g, axis + TERMS], 1))


@device
def third_of(table, g, axis, k):
    """The third index at position k of an axis, and its first term."""
    return table[g, axis + THIRD] + k * table[g, axis + THIRD_FIXED]


@device
def fixed_of(table, g, axis, k):
    """The index of the result at position k of an axis."""
    return table[g, axis + FIXED] + k * table[g, axis + FIXED_STEP]


@cache
def over(axes: int) -> Axes:
    """Make the device functions for arrays of two or of three spatial axes."""
    return _three() if axes == 3 else _two()


@cache
def _two() -> Axes:
    @device
    def counts(table, g):
        return uint32(table[g, ROWS + COUNT]), uint32(table[g, COLUMNS + COUNT])

    @device
    def terms(table, g):
        return divisor(table, g, ROWS), divisor(table, g, COLUMNS)

    @device
    def terms_of_all(table, g):
        return table[g, ROWS + TERMS] * table[g, COLUMNS + TERMS]

    @device
    def product(sizes):
        return sizes[0] * sizes[1]

    @device
    def digits(k, sizes):
        return grouped.digits(k, sizes[0], sizes[1])

    @device
    def summed(table, g):
        return table[g, ROWS + SUMMED], table[g, COLUMNS + SUMMED]

    @device
    def third(table, g, k):
        return third_of(table, g, ROWS, k[0]), third_of(table, g, COLUMNS, k[1])

    @device
    def fixed(table, g, k):
        return fixed_of(table, g, ROWS, k[0]), fixed_of(table, g, COLUMNS, k[1])

    @device
    def inside(array, place):
        return place[0] * array.shape[2] + place[1]

    @device
    def pixel(array, n, place):
        return (n * array.shape[1] + place[0]) * array.shape[2] + place[1]

    @device
    def steps(depth, row, column):
        return int32(row), int32(column)

    return Axes(2, counts, terms, terms_of_all, product, digits, summed, third, fixed, inside, pixel, steps)


@cache
def _three() -> Axes:
    _, plane_counts, plane_terms, plane_terms_of_all, _, _, plane_summed, plane_third, plane_fixed, *_ = _two()

    @device
    def counts(table, g):
        return uint32(table[g, DEPTH + COUNT]), *plane_counts(table, g)

    @device
    def terms(table, g):
        return divisor(table, g, DEPTH), *plane_terms(table, g)

    @device
    def terms_of_all(table, g):
        return table[g, DEPTH + TERMS] * plane_terms_of_all(table, g)

    @device
    def product(sizes):
        return sizes[0] * sizes[1] * sizes[2]

    @device
    def digits(k, sizes):
        rest = uint32(uint32(k) // uint32(sizes[2]))
        return *grouped.digits(rest, sizes[0], sizes[1]), uint32(uint32(k) - uint32(rest * sizes[2]))

    @device
    def summed(table, g):
        return table[g, DEPTH + SUMMED], *plane_summed(table, g)

    @device
    def third(table, g, k):
        return third_of(table, g, DEPTH, k[0]), *plane_third(table, g, k[1:])

    @device
    def fixed(table, g, k):
        return fixed_of(table, g, DEPTH, k[0]), *plane_fixed(table, g, k[1:])

    @device
    def inside(array, place):
        return (place[0] * array.shape[2] + place[1]) * array.shape[3] + place[2]

    @device
    def pixel(array, n, place):
        return ((n * array.shape[1] + place[0]) * array.shape[2] + place[1]) * array.shape[3] + place[2]

    @device
    def steps(depth, row, column):
        return int32(depth), int32(row), int32(column)

    return Axes(3, counts, terms, terms_of_all, product, digits, summed, third, fixed, inside, pixel, steps)
