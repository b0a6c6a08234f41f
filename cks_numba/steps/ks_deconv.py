"""Input gradient (deconvolution) step by step: ``dx[i] = sum of dy[o] * w[f]`` over all o and f with
``i = o*stride - padding + f*dilation``.

The regular way writes this as a convolution with stride 1: it puts stride-1 zeros between the
elements of dy, pads the result, and slides the rotated filter over it. With stride 2 three quarters
of what it multiplies are inserted zeros. The skipping way (KS-deconv of C-K-S, arXiv 2306.15951)
looks at which taps can meet dy: inputs with the same remainder ``(i + padding) mod stride``, the
*phase*, always meet the same taps. So the filter is split into one small sub-filter for each phase,
each sub-filter slides over dy as it is, and the results are interleaved.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..geometry import Axis, ConvShape, taps_of_input
from . import regular as regular_way
from .stages import (
    Array,
    Stage,
    Steps,
    Sums,
    as_float64,
    insert_zeros,
    join_channels,
    named,
    pick,
    split_channels,
    split_filter,
)

PRODUCTS = "nhwgk,khwgc->ngc"  # a window of dy times a filter of the same size, summed to one pixel of dx


def ks_deconv(w: Array, dy: Array, shape: ConvShape) -> Steps:
    """Gradient of a convolution with respect to its input, the regular way and the skipping way.

    Parameters
    ----------
    w : ndarray, (OC, FH, FW, IC/groups)
    dy : ndarray, (N, OH, OW, OC)
        Both float32 or float64; sums are in float64.
    shape : ConvShape
        Of the convolution whose gradient this is.

    Returns
    -------
    Steps
        Results are dx, (N, IH, IW, IC); exactly 0 where no tap meets dy.

    Raises
    ------
    ValueError, TypeError
        If an array has another shape than `shape` says, or another dtype.

    Notes
    -----
    "KS-deconv" of C-K-S, arXiv 2306.15951.

    Examples
    --------
    With stride 2 the four phases of a 2x2 filter have one tap each.

    >>> import numpy as np
    >>> shape = ConvShape(n=1, ih=4, iw=4, ic=1, oc=1, fh=2, fw=2, stride=2)
    >>> w = np.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
    >>> steps = ks_deconv(w, np.ones((1, 2, 2, 1)), shape)
    >>> steps.skipping[0, :, :, 0]
    array([[1., 2., 1., 2.],
           [3., 4., 3., 4.],
           [1., 2., 1., 2.],
           [3., 4., 3., 4.]])
    >>> steps.regular_madds, steps.skipping_madds
    (64, 16)
    """
    w = as_float64("w", w, shape.w_shape)
    dy = as_float64("dy", dy, shape.y_shape)
    regular_sums, skipping_sums = Sums(), Sums()
    regular = _regular(w, dy, shape, regular_sums)
    skipping = _skipping(w, dy, shape, skipping_sums)
    dx, dx_skipping = regular[-1].array, skipping[-1].array
    return Steps("conv2d_input", shape, regular + skipping, dx, dx_skipping, regular_sums.madds, skipping_sums.madds)


# --- the regular way -----------------------------------------------------------------------------
def _regular(w: Array, dy: Array, shape: ConvShape, sums: Sums) -> list[Stage]:
    """Insert zeros in dy, pad it, then slide the rotated filter over it with stride 1."""
    spread = insert_zeros(dy, shape)
    padded = _pad_spread(spread, shape)
    rotated = w[:, ::-1, ::-1]
    dz, ws = split_channels(padded.array, shape.groups), split_filter(rotated, shape.groups)
    dx = np.zeros((shape.n, shape.ih, shape.iw, shape.groups, shape.ic // shape.groups))
    for ih in range(shape.ih):
        rows = range(ih, ih + shape.h.span, shape.h.dilation)
        for iw in range(shape.iw):
            cols = range(iw, iw + shape.w.span, shape.w.dilation)
            dx[:, ih, iw] = sums.add_up(PRODUCTS, pick(dz, rows, cols), ws)
    turned = Stage("rotated filter", "w turned by half a turn: first tap last", rotated, way="regular")
    text = f"the rotated filter slides in steps of 1, and all {shape.fh} x {shape.fw} taps are multiplied"
    return [spread, padded, turned, Stage("dx the regular way", text, join_channels(dx), way="regular")]


def _pad_spread(spread: Stage, shape: ConvShape) -> Stage:
    """Pad the zero-inserted dy so that the sliding filter has exactly IH x IW positions.

    Element o of dy comes to stand at ``o*stride + span - 1 - padding``. Where that is outside, the
    element only ever met the padding of x, and it is cropped.
    """
    assert spread.inserted is not None
    array, inserted = (regular_way.pad_gradient(part, shape) for part in (spread.array, spread.inserted))
    padded = ~regular_way.pad_gradient(np.ones_like(spread.inserted), shape)
    text = "zeros around it (or its border cropped), so that the filter has one position for each element of dx"
    return Stage("padded dy", text, array, padded, inserted, way="regular")


# --- the skipping way ----------------------------------------------------------------------------
class Phase(NamedTuple):
    """One phase of an axis: inputs with the same (i + padding) mod stride, and the taps they meet."""

    inputs: range
    taps: range


def phases(axis: Axis) -> list[Phase]:
    """All phases of an axis in the order of (i + padding) mod stride."""
    found = []
    for phase, first_tap in enumerate(axis.first_taps()):
        first_input = (phase - axis.before) % axis.stride
        inputs = range(first_input, axis.size, axis.stride)
        found.append(Phase(inputs, range(first_tap, axis.taps, axis.phase_step)))
    return found


def _skipping(w: Array, dy: Array, shape: ConvShape, sums: Sums) -> list[Stage]:
    """Split the filter into phases, correlate each with dy as it is, interleave the results."""
    stages = []
    dx = np.zeros(shape.x_shape)
    for phase_h, (rows, taps_h) in enumerate(phases(shape.h)):
        for phase_w, (cols, taps_w) in enumerate(phases(shape.w)):
            name = f"phase ({phase_h}, {phase_w})"
            sub_filter = pick(w, taps_h, taps_w)
            part = _correlate(sub_filter, dy, (Phase(rows, taps_h), Phase(cols, taps_w)), shape, sums)
            dx[:, rows.start :: shape.stride[0], cols.start :: shape.stride[1]] = part
            stages.append(Stage(f"sub-filter of {name}", _taps_text(taps_h, taps_w), sub_filter))
            stages.append(Stage(f"{name} of dx", _inputs_text(rows, cols), part))
    text = "each phase is put back to its rows and columns; a phase without taps gives 0"
    return [*stages, Stage("interleaved dx", text, dx)]


def _correlate(sub_filter: Array, dy: Array, phase: tuple[Phase, Phase], shape: ConvShape, sums: Sums) -> Array:
    """Slide one sub-filter over the dense dy, trimmed at the border: (N, rows, columns, IC)."""
    (rows, taps_h), (cols, taps_w) = phase
    ws, dys = split_filter(sub_filter, shape.groups), split_channels(dy, shape.groups)
    part = np.zeros((shape.n, len(rows), len(cols), shape.groups, shape.ic // shape.groups))
    for row, ih in enumerate(rows):
        outputs_h, terms_h = _meeting(ih, taps_h, shape.h)
        for col, iw in enumerate(cols):
            outputs_w, terms_w = _meeting(iw, taps_w, shape.w)
            part[:, row, col] = sums.add_up(PRODUCTS, pick(dys, outputs_h, outputs_w), pick(ws, terms_h, terms_w))
    return join_channels(part)


def _meeting(i: int, taps: range, axis: Axis) -> tuple[range, range]:
    """Outputs that input i meets, and which taps of its sub-filter it meets them with.

    From one tap of the sub-filter to the next, the output moves back by `output_step`.
    """
    steps = axis.phase_step, axis.output_step
    equation = axis.taps, axis.outputs, axis.stride, axis.before, axis.dilation
    tap, output, count = taps_of_input(i, axis.first_taps(), *equation, *steps)
    if count <= 0:
        return range(0), range(0)
    first = (tap - taps.start) // axis.phase_step  # not 0 where the border of dy trims the sub-filter
    return range(output, output - count * axis.output_step, -axis.output_step), range(first, first + count)


def _taps_text(taps_h: range, taps_w: range) -> str:
    if not taps_h or not taps_w:
        return "no tap of w falls in this phase"
    return f"{named('row', taps_h)} and {named('column', taps_w)} of w"


def _inputs_text(rows: range, cols: range) -> str:
    if not rows or not cols:
        return "no element of dx has this phase"
    return f"{named('row', rows)} and {named('column', cols)} of dx"
