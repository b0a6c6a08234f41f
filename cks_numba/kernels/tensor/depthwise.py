"""Channel groups of one input channel: too small for a tensor core, so a thread makes its results one by one.

Memory, not arithmetic, sets the pace here. The kernels take the formats of the rung and add up in float32, over the
same plan and table as the others.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import float32

from ... import checks
from ...geometry import ConvShape, plan
from ...plan_table import (
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
from ..axes import Axes, over
from ..grouped import counts, fixed, group_of_block, summed, third
from ..jit import cuda, unravel
from ..launch import THREADS, Launch, beside
from .sizes import Format

ACROSS, DOWN = 32, 16  # threads of a block of depthwise_weight: channels, and parts of the sum


@cache
def gather_kernel(axes: Axes, number: Format, forward: bool, biased: bool) -> Any:
    """Make ``depthwise_gather`` for axes, a format, and for conv2d (forward) or conv2d_input.

    If it is not `biased`, any array may be its bias.
    """
    narrow, widen, in_depth, at, last = number.narrow, number.widen, axes.depth, axes.index, axes.number + 1

    @cuda.jit
    def depthwise_gather(src, w, out, bias, table, times):
        """One thread a result; an input channel has `times` output channels."""
        g = group_of_block(table, cuda.blockIdx.x)
        rows_h, rows_w, terms_h, terms_w = counts(table, g)
        rows_d, terms_d = in_depth(table, g, COUNT, 1), in_depth(table, g, TERMS, 1)
        index = (cuda.blockIdx.x - table[g, FIRST_BLOCK]) * cuda.blockDim.x + cuda.threadIdx.x
        rest, kh, kw, c = unravel(index, rows_h, rows_w, out.shape[last])
        n, kd = rest // rows_d, rest % rows_d
        if n >= out.shape[0]:
            return
        acc = float32(0)
        for td in range(terms_d):
            d = in_depth(table, g, THIRD, 0) + kd * in_depth(table, g, THIRD_FIXED, 0)
            d += td * in_depth(table, g, THIRD_TERM, 0)
            fd = in_depth(table, g, SUMMED, 0) + td * in_depth(table, g, SUMMED_STEP, 0)
            for th in range(terms_h):
                for tw in range(terms_w):
                    h, v = third(table, g, ROWS, kh, th), third(table, g, COLUMNS, kw, tw)
                    fh, fw = summed(table, g, ROWS, th), summed(table, g, COLUMNS, tw)
                    if forward:
                        acc += widen(src[at(n, d, h, v, c // times)]) * widen(w[at(c, fd, fh, fw, 0)])
                    else:
                        for oc in range(c * times, (c + 1) * times):
                            acc += widen(src[at(n, d, h, v, oc)]) * widen(w[at(oc, fd, fh, fw, 0)])
        if biased:
            acc += widen(bias[c])
        od = in_depth(table, g, FIXED, 0) + kd * in_depth(table, g, FIXED_STEP, 0)
        out[at(n, od, fixed(table, g, ROWS, kh), fixed(table, g, COLUMNS, kw), c)] = narrow(acc)

    return depthwise_gather


@cache
def weight_kernel(axes: Axes, number: Format) -> Any:
    """Make ``depthwise_weight`` for axes and a format."""
    narrow, widen, in_depth, at = number.narrow, number.widen, axes.depth, axes.index

    @cuda.jit
    def depthwise_weight(x, dy, out, table, times):
        """A block makes one tap of ACROSS channels; the threads of a channel take turns with the terms."""
        sums = cuda.shared.array((DOWN, ACROSS), float32)
        tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
        g = group_of_block(table, cuda.blockIdx.x)
        taps_h, taps_w, terms_h, terms_w = counts(table, g)
        terms_d = in_depth(table, g, TERMS, 1)
        tap, oc = cuda.blockIdx.x - table[g, FIRST_BLOCK], cuda.blockIdx.y * ACROSS + tx
        kd, kh, kw = tap // taps_w // taps_h, tap // taps_w % taps_h, tap % taps_w
        acc = float32(0)
        if oc < out.shape[0]:
            for term in range(ty, x.shape[0] * terms_d * terms_h * terms_w, DOWN):
                rest, th, tw = term // terms_w // terms_h, term // terms_w % terms_h, term % terms_w
                n, td = rest // terms_d, rest % terms_d
                od = in_depth(table, g, SUMMED, 0) + td * in_depth(table, g, SUMMED_STEP, 0)
                d = in_depth(table, g, THIRD, 0) + kd * in_depth(table, g, THIRD_FIXED, 0)
                d += td * in_depth(table, g, THIRD_TERM, 0)
                oh, ow = summed(table, g, ROWS, th), summed(table, g, COLUMNS, tw)
                ih, iw = third(table, g, ROWS, kh, th), third(table, g, COLUMNS, kw, tw)
                acc += widen(x[at(n, d, ih, iw, oc // times)]) * widen(dy[at(n, od, oh, ow, oc)])
        sums[ty, tx] = acc
        cuda.syncthreads()
        if ty == 0 and oc < out.shape[0]:
            for k in range(1, DOWN):
                acc += sums[k, tx]
            fd = in_depth(table, g, FIXED, 0) + kd * in_depth(table, g, FIXED_STEP, 0)
            out[at(oc, fd, fixed(table, g, ROWS, kh), fixed(table, g, COLUMNS, kw), 0)] = narrow(acc)

    return depthwise_weight


def launches(
    operator: str, shape: ConvShape, arrays: tuple[Any, Any, Any], number: Format, bias: Any = None
) -> list[Launch]:
    """Build the one launch of an operator whose channel groups have one input channel.

    Raises
    ------
    ValueError
        For arrays whose indices do not fit in 32 bits.
    """
    checks.offsets(shape, 1)
    first, second, out = arrays
    groups, axes = plan(operator, shape), over(len(shape.axes))
    block: tuple[int, ...] = (THREADS,)
    if operator == "conv2d_weight":
        kernel, block = weight_kernel(axes, number), (ACROSS, DOWN)
        blocks = [group.positions for group in groups.groups]
    else:
        kernel = gather_kernel(axes, number, operator == "conv2d", bias is not None)
        blocks = [ceil_div(shape.n * group.positions * out.shape[-1], THREADS) for group in groups.groups]
    if operator == "conv2d_input":
        first, second = second, first
    grid = sum(blocks), ceil_div(shape.oc, ACROSS) if operator == "conv2d_weight" else 1
    checks.grid(f"{operator} depthwise", grid)
    table: np.ndarray[Any, Any] = group_table(groups, blocks)
    added = () if operator == "conv2d_weight" else (out if bias is None else bias,)
    args = first, second, out, *added, beside(out, table), shape.oc // shape.groups
    return [Launch(f"{operator} depthwise {number.name}", kernel, grid, block, args)]
