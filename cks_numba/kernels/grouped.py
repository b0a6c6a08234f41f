"""What the rung ``grouped`` adds, for all three operators: one launch over the groups of a plan.

A group is a dense matrix product, without a zero and without a bounds test, and a block makes one tile of it. The plan
comes to the kernel as a table of whole numbers, a row a group (plan_table.py). A block looks up its group and reads
there how many positions and terms it has, and which indices these stand for. So the kernels work nothing out about
strides, padding or dilation.

===================  ======================  ==================  ==========================
operator             rows                    columns             terms
===================  ======================  ==================  ==========================
``conv2d``           (image, row, column)    output channels     taps x input channels
``conv2d_input``     (image, row, column)    input channels      taps x output channels
``conv2d_weight``    output channels         (tap, input         (image, row, column) of dy
                                             channel)
===================  ======================  ==================  ==========================
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import uint32

from .. import checks
from ..geometry import ConvShape, Group, Plan, plan
from ..plan_table import (
    COLUMNS,
    COUNT,
    FIRST_BLOCK,
    FIXED,
    FIXED_STEP,
    ROWS,
    SUMMED,
    SUMMED_STEP,
    TERMS,
    THIRD,
    THIRD_FIXED,
    THIRD_TERM,
    ceil_div,
    group_table,
)
from .jit import device
from .launch import TILE, Launch, beside


# --- on the CPU: the matrix products, cut into tiles ----------------------------------------------
def product_of(operator: str, shape: ConvShape, group: Group) -> tuple[int, int, int]:
    """Return the rows, columns and terms of the matrix product that a group is, in one channel group."""
    ic, oc = shape.ic // shape.groups, shape.oc // shape.groups
    if operator == "conv2d_weight":
        return oc, group.positions * ic, shape.n * group.terms
    columns, depth = (oc, ic) if operator == "conv2d" else (ic, oc)
    return shape.n * group.positions, columns, group.terms * depth


def tiles_of(whole: Plan, bm: int, bn: int) -> tuple[tuple[int, ...], int]:
    """Count the tiles of bm x bn results along the positions of each group, and those along the channels."""
    products = [product_of(whole.operator, whole.shape, group) for group in whole.groups]
    if whole.operator == "conv2d_weight":
        return tuple(ceil_div(columns, bn) for _, columns, _ in products), ceil_div(products[0][0], bm)
    return tuple(ceil_div(rows, bm) for rows, _, _ in products), ceil_div(products[0][1], bn)


def launch_groups(
    operator: str, rung: str, kernel: Any, shape: ConvShape, arrays: tuple[Any, ...], tile: tuple[int, int]
) -> list[Launch]:
    """Build the launch with a block for each tile of each group, in each channel group; `tile` is its rows and columns.

    Raises
    ------
    ValueError
        For arrays whose indices do not fit in 32 bits.
    """
    checks.offsets(shape, 1)
    groups = plan(operator, shape)
    blocks, across = tiles_of(groups, *tile)
    table: np.ndarray[Any, Any] = group_table(groups, blocks)
    grid = sum(blocks), across, shape.groups
    return [Launch(f"{operator} {rung}", kernel, grid, (TILE, TILE), (*arrays, beside(arrays[2], table)))]


# --- on the GPU: a block's group, and the indices of a group --------------------------------------
@device
def group_of_block(table, block):
    """Find the group of the plan that a block belongs to: the last line of the table with no later first block."""
    low, high = uint32(0), uint32(table.shape[0] - 2)
    while low < high:
        middle = uint32((low + high + uint32(1)) // uint32(2))
        if table[middle, FIRST_BLOCK] <= block:
            low = middle
        else:
            high = uint32(middle - uint32(1))
    return low


@device
def digits(k, middle_size, last_size):
    """Write k with three digits: k = (first * middle_size + middle) * last_size + last.

    They are unsigned and have 32 bits, because a GPU has no instruction that divides, least of all 64 bits.
    """
    rest = uint32(uint32(k) // uint32(last_size))
    first = uint32(rest // uint32(middle_size))
    return first, uint32(rest - uint32(first * middle_size)), uint32(uint32(k) - uint32(rest * last_size))


@device
def counts(table, g):
    """Rows and columns of positions of group g, and rows and columns of terms."""
    return table[g, ROWS + COUNT], table[g, COLUMNS + COUNT], table[g, ROWS + TERMS], table[g, COLUMNS + TERMS]


@device
def fixed(table, g, axis, k):
    """The index of the result at position k of an axis (ROWS or COLUMNS)."""
    return table[g, axis + FIXED] + k * table[g, axis + FIXED_STEP]


@device
def summed(table, g, axis, t):
    """The index that counts the terms, at term t: the same for all positions."""
    return table[g, axis + SUMMED] + t * table[g, axis + SUMMED_STEP]


@device
def third(table, g, axis, k, t):
    """The index that follows from both, at position k and term t. It always lies in its array."""
    return table[g, axis + THIRD] + k * table[g, axis + THIRD_FIXED] + t * table[g, axis + THIRD_TERM]
