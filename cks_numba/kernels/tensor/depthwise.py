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
from ...plan_table import COLUMNS, FIRST_BLOCK, ROWS, ceil_div, group_table
from ..grouped import counts, fixed, group_of_block, summed, third
from ..jit import cuda, unravel
from ..launch import THREADS, Launch, beside
from .sizes import Format

ACROSS, DOWN = 32, 16  # threads of a block of depthwise_weight: channels, and parts of the sum


@cache
def gather_kernel(number: Format, forward: bool, biased: bool) -> Any:
    """Make ``depthwise_gather`` for a format, and for conv2d (forward) or conv2d_input.

    If it is not `biased`, any array may be its bias.
    """
    narrow, widen = number.narrow, number.widen

    @cuda.jit
    def depthwise_gather(src, w, out, bias, table, times):
        """One thread a result; an input channel has `times` output channels."""
        g = group_of_block(table, cuda.blockIdx.x)
        rows_h, rows_w, terms_h, terms_w = counts(table, g)
        index = (cuda.blockIdx.x - table[g, FIRST_BLOCK]) * cuda.blockDim.x + cuda.threadIdx.x
        n, kh, kw, c = unravel(index, rows_h, rows_w, out.shape[3])
        if n >= out.shape[0]:
            return
        acc = float32(0)
        for th in range(terms_h):
            for tw in range(terms_w):
                h, v = third(table, g, ROWS, kh, th), third(table, g, COLUMNS, kw, tw)
                fh, fw = summed(table, g, ROWS, th), summed(table, g, COLUMNS, tw)
                if forward:
                    acc += widen(src[n, h, v, c // times]) * widen(w[c, fh, fw, 0])
                else:
                    for oc in range(c * times, (c + 1) * times):
                        acc += widen(src[n, h, v, oc]) * widen(w[oc, fh, fw, 0])
        if biased:
            acc += widen(bias[c])
        out[n, fixed(table, g, ROWS, kh), fixed(table, g, COLUMNS, kw), c] = narrow(acc)

    return depthwise_gather


@cache
def weight_kernel(number: Format) -> Any:
    """Make ``depthwise_weight`` for a format."""
    narrow, widen = number.narrow, number.widen

    @cuda.jit
    def depthwise_weight(x, dy, out, table, times):
        """A block makes one tap of ACROSS channels; the threads of a channel take turns with the terms."""
        sums = cuda.shared.array((DOWN, ACROSS), float32)
        tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
        g = group_of_block(table, cuda.blockIdx.x)
        _, taps_w, terms_h, terms_w = counts(table, g)
        tap, oc = cuda.blockIdx.x - table[g, FIRST_BLOCK], cuda.blockIdx.y * ACROSS + tx
        kh, kw = tap // taps_w, tap % taps_w
        acc = float32(0)
        if oc < out.shape[0]:
            for term in range(ty, x.shape[0] * terms_h * terms_w, DOWN):
                n, th, tw = term // terms_w // terms_h, term // terms_w % terms_h, term % terms_w
                oh, ow = summed(table, g, ROWS, th), summed(table, g, COLUMNS, tw)
                ih, iw = third(table, g, ROWS, kh, th), third(table, g, COLUMNS, kw, tw)
                acc += widen(x[n, ih, iw, oc // times]) * widen(dy[n, oh, ow, oc])
        sums[ty, tx] = acc
        cuda.syncthreads()
        if ty == 0 and oc < out.shape[0]:
            for k in range(1, DOWN):
                acc += sums[k, tx]
            out[oc, fixed(table, g, ROWS, kh), fixed(table, g, COLUMNS, kw), 0] = narrow(acc)

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
    groups = plan(operator, shape)
    block: tuple[int, ...] = (THREADS,)
    if operator == "conv2d_weight":
        kernel, block = weight_kernel(number), (ACROSS, DOWN)
        blocks = [group.positions for group in groups.groups]
    else:
        kernel = gather_kernel(number, operator == "conv2d", bias is not None)
        blocks = [ceil_div(shape.n * group.positions * out.shape[3], THREADS) for group in groups.groups]
    if operator == "conv2d_input":
        first, second = second, first
    grid = sum(blocks), ceil_div(shape.oc, ACROSS) if operator == "conv2d_weight" else 1
    checks.grid(f"{operator} depthwise", grid)
    table: np.ndarray[Any, Any] = group_table(groups, blocks)
    added = () if operator == "conv2d_weight" else (out if bias is None else bias,)
    args = first, second, out, *added, beside(out, table), shape.oc // shape.groups
    return [Launch(f"{operator} depthwise {number.name}", kernel, grid, block, args)]
