"""A plan as a table of integers: the form in which kernels of every backend read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .geometry import Plan, Run

# Columns of the table. An axis takes nine: the fixed index base + k*step, the first summed
# index base + t*step, and the third index base + k*fixed + t*term.
FIRST_BLOCK, ROWS, COLUMNS = 0, 1, 10
COUNT, TERMS, FIXED, FIXED_STEP, SUMMED, SUMMED_STEP, THIRD, THIRD_FIXED, THIRD_TERM = range(9)
TABLE_WIDTH = 19


def ceil_div(a: int, b: int) -> int:
    """How many parts of b it takes for a."""
    return -(-a // b)


def _row(operator: str, run: Run) -> list[int]:
    fixed, summed, third = {
        "conv2d": (run.o, run.f, run.i),
        "conv2d_input": (run.i, run.f, run.o),
        "conv2d_weight": (run.f, run.o, run.i),
    }[operator]
    return [run.positions, run.terms, fixed.base, fixed.fixed, summed.base, summed.term, *third]


def group_table(groups: Plan, blocks: Sequence[int], dtype: type[np.signedinteger[Any]] = np.int32) -> NDArray[Any]:
    """The plan as (groups + 1, TABLE_WIDTH); the last row only ends the search for a block's group."""
    table: NDArray[Any] = np.zeros((len(groups.groups) + 1, TABLE_WIDTH), dtype)
    table[1:, FIRST_BLOCK] = np.cumsum(blocks)
    for line, group in zip(table, groups.groups, strict=False):
        line[ROWS:COLUMNS] = _row(groups.operator, group.h)
        line[COLUMNS:] = _row(groups.operator, group.w)
    return table
