"""A plan as a table of integers: the form in which kernels of every backend read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .geometry import Plan, Run

# Columns of the table. Each axis has nine, from ROWS, COLUMNS and, where there are three axes, DEPTH on: the number of
# positions, the number of terms, the fixed index as base + k*step, the first summed index as base + t*step, the third
# as base + k*fixed + t*term. DEPTH is last, so that kernels of two axes read the same places in every table.
FIRST_BLOCK, ROWS, COLUMNS, DEPTH = 0, 1, 10, 19
COUNT, TERMS, FIXED, FIXED_STEP, SUMMED, SUMMED_STEP, THIRD, THIRD_FIXED, THIRD_TERM = range(9)
TABLE_WIDTH = {2: 19, 3: 28}
"""Columns of a table, by the number of spatial axes."""


def ceil_div(a: int, b: int) -> int:
    """Return a / b, rounded up."""
    return -(-a // b)


def axis_columns(operator: str, run: Run) -> list[int]:
    """Return the nine columns of an axis."""
    fixed, summed, third = {
        "conv2d": (run.o, run.f, run.i),
        "conv2d_input": (run.i, run.f, run.o),
        "conv2d_weight": (run.f, run.o, run.i),
    }[operator]
    return [run.positions, run.terms, fixed.base, fixed.fixed, summed.base, summed.term, *third]


def group_table(plan: Plan, blocks: Sequence[int], dtype: type[np.signedinteger[Any]] = np.int32) -> NDArray[Any]:
    """Write the plan of a shape of two or three axes as (groups + 1, TABLE_WIDTH) integers.

    `blocks` holds the number of blocks of each group. Every row holds the first block of its group; the last row ends
    the search for the group of a block.
    """
    table: NDArray[Any] = np.zeros((len(plan.groups) + 1, TABLE_WIDTH[len(plan.shape.axes)]), dtype)
    table[1:, FIRST_BLOCK] = np.cumsum(blocks)
    for line, group in zip(table, plan.groups, strict=False):
        line[ROWS:COLUMNS] = axis_columns(plan.operator, group.h)
        line[COLUMNS:DEPTH] = axis_columns(plan.operator, group.w)
        if len(group) == 3:
            line[DEPTH:] = axis_columns(plan.operator, group[0])
    return table
