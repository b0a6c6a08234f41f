"""Filters that are packed once, for many calls: the panels that the kernels otherwise pack in each call.

They are an array of seven axes (channel group, panel, fd, fh, fw, term, lane). The lanes are channels of the result, as
many as a tile has; zeros fill the last panel of a channel group. Kernels take it in the place of w: an array with seven
strides is packed.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np

from ...buffers import empty
from ...geometry import ConvShape
from .compiled import Strides, ceil_div, five
from .registers import LANE_BYTES

Array = np.ndarray[Any, Any]
AXES = 7
NARROW = 4  # With at most so many channels of the result, the lanes of a tile hold terms of one sum.


class PackedFilters(NamedTuple):
    """A copy of filters (OC, taps, IC/groups) and, where a kernel reads packed ones, their panels."""

    w: Array
    panels: Array | None


def arrays_of(operand: Array | PackedFilters) -> list[Array]:
    """The array that an operand is, or w and the panels of packed filters, if they have any."""
    return [part for part in operand if part is not None] if isinstance(operand, PackedFilters) else [operand]


class FilterSteps(NamedTuple):
    """Bytes from an element of w to the next one along each axis, to the next panel, and to the next channel group."""

    lane: int
    term: int
    d: int
    h: int
    w: int
    panel: int
    channel_group: int


def pack(operator: str, w: Array, groups: int) -> Array:
    """Pack filters (OC, taps, IC/groups) of one, two or three spatial axes for "conv2d" or "conv2d_input"."""
    width = LANE_BYTES // w.itemsize
    w = w.reshape(groups, -1, *[1] * (5 - w.ndim), *w.shape[1:])  # (g, OC/g, fd, fh, fw, IC/g)
    w = w.transpose((0, 2, 3, 4, 5, 1) if operator == "conv2d" else (0, 2, 3, 4, 1, 5))  # (g, fd, fh, fw, term, lane)
    blocks = ceil_div(w.shape[-1], width)
    size = (groups, blocks, *w.shape[1:-1], width)
    panels = empty(size, w.dtype)
    for k in range(blocks):
        lanes = w[..., k * width : (k + 1) * width]
        panels[:, k, ..., : lanes.shape[-1]] = lanes
        panels[:, k, ..., lanes.shape[-1] :] = 0  # in the last block
    return panels


def packed_filters(operator: str, w: Array, groups: int) -> PackedFilters:
    """Copy filters for "conv2d" or "conv2d_input", and pack them if that serves any layer.

    Depthwise layers have kernels that pack no panels, and so have results of few channels.
    """
    w = np.array(w, order="C")
    ic, oc = w.shape[-1], len(w) // groups
    serves = groups == 1 or ic * oc > 1
    return PackedFilters(w, pack(operator, w, groups) if serves and (oc, ic)[operator != "conv2d"] > NARROW else None)


def taps_are_last(shape: ConvShape, w: Strides, itemsize: int) -> bool:
    """Whether filters with these strides are (OC, IC/groups, taps) in memory, without a gap, as in PyTorch."""
    oc, *taps, ic = shape.w_shape
    step = itemsize
    for length, stride in ((taps[-1], w[-2]), *zip(taps[-2::-1], w[-3:0:-1], strict=True), (ic, w[-1]), (oc, w[0])):
        if length > 1 and stride != step:
            return False
        step *= length
    return len(w) != AXES and prod(taps) > 1


def filter_steps(operator: str, w: Strides, oc: int, itemsize: int) -> FilterSteps:
    """The steps of filters with these strides, packed or not, and `oc` output channels in a channel group."""
    if len(w) == AXES:
        group, panel, d, h, w_, term, lane = w
        return FilterSteps(lane, term, d, h, w_, panel, group)
    first, d, h, w_, last = five(w)
    lane, term = (first, last) if operator == "conv2d" else (last, first)
    return FilterSteps(lane, term, d, h, w_, LANE_BYTES // itemsize * lane, oc * first)
