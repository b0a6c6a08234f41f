"""Kernels for two or three spatial axes: what is done for the axis of depth, and what the compiler drops without it.

The text of such a kernel has three axes. It is made for a number of axes, and over two the depth is one element: its
size is 1 and its index is 0. Both are constants, so the machine code has no trace of them.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from numba import int32, uint32

from ..plan_table import DEPTH
from .grouped import digits as three_digits
from .jit import device


class Axes(NamedTuple):
    """A number of axes, and the device functions that differ by it.

    Attributes
    ----------
    number : int
        Two or three.
    depth : device function of table, g, a column and a number
        What the table of a plan says in this column about the depth of group g; the number where there is no depth.
    sizes : device function of an array
        Its depths, rows and columns.
    places : device function of a number and the sizes of depth, rows and columns
        The number as (image, depth, row, column), of which the image has no limit.
    digits : device function of a number and the sizes of three digits
        The number as four digits, of which the first has no limit. Over two axes it is 0, and the second has none.
    in_order : device function of four numbers
        A number for each of these digits, from those for image, depth, rows and columns.
    index : device function of five numbers
        The index of an element of an array, from image, depth, row, column and channel.
    """

    number: int
    depth: Any
    sizes: Any
    places: Any
    digits: Any
    in_order: Any
    index: Any


@cache
def over(axes: int) -> Axes:
    """Make the device functions for arrays of two or of three spatial axes."""
    return Axes(axes, *(_three() if axes == 3 else _two()))


def _two() -> tuple[Any, ...]:
    @device
    def depth(table, g, column, alone):
        return alone

    @device
    def sizes(array):
        return 1, array.shape[1], array.shape[2]

    @device
    def places(k, depths, rows, columns):
        n, row, column = three_digits(k, rows, columns)
        return n, uint32(0), row, column

    @device
    def digits(k, first, middle, last):
        one, two, three = three_digits(k, middle, last)
        return uint32(0), one, two, three

    @device
    def in_order(n, d, h, w):
        return int32(0), int32(n), int32(h), int32(w)

    @device
    def index(n, d, h, w, c):
        return n, h, w, c

    return depth, sizes, places, digits, in_order, index


def _three() -> tuple[Any, ...]:
    @device
    def depth(table, g, column, alone):
        return table[g, DEPTH + column]

    @device
    def sizes(array):
        return array.shape[1], array.shape[2], array.shape[3]

    @device
    def digits(k, first, middle, last):
        rest = uint32(uint32(k) // uint32(last))
        one, two, three = three_digits(rest, first, middle)
        return one, two, three, uint32(uint32(k) - uint32(rest * last))

    @device
    def in_order(n, d, h, w):
        return int32(n), int32(d), int32(h), int32(w)

    @device
    def index(n, d, h, w, c):
        return n, d, h, w, c

    return depth, sizes, digits, digits, in_order, index
