"""Counts of multiply-adds against loops over tensors that were really padded and zero-inserted."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cks_numba import flops
from cks_numba.geometry import OPERATORS, ConvShape

CASES = 60


def random_shape(rng: np.random.Generator) -> ConvShape:
    while True:
        pick = {name: int(rng.integers(1, 6)) for name in ("ih", "iw")}
        pick |= {name: int(rng.integers(1, 4)) for name in ("fh", "fw")}
        groups = int(rng.integers(1, 3))
        try:
            return ConvShape(
                n=int(rng.integers(0, 3)),
                ic=groups * int(rng.integers(1, 3)),
                oc=groups * int(rng.integers(1, 3)),
                groups=groups,
                stride=tuple(rng.integers(1, 4, 2).tolist()),
                dilation=tuple(rng.integers(1, 3, 2).tolist()),
                padding=tuple(rng.integers(0, 3, 4).tolist()),
                **pick,
            )
        except ValueError:  # the filter does not fit: draw again
            continue


def real_lines(size: int, before: int, after: int) -> list[bool]:
    """One padded axis: True where an element is real."""
    return [False] * before + [True] * size + [False] * after


def inserted_line(outputs: int, stride: int) -> list[bool]:
    """One zero-inserted axis of dy: True where an element is real."""
    return [k % stride == 0 for k in range((outputs - 1) * stride + 1)]


def axis_products(operator: str, axis) -> tuple[int, int]:
    """Products of one axis the regular way, and how many of them have two real factors. One loop, no formula."""
    x = real_lines(axis.size, axis.before, axis.after)
    dy = inserted_line(axis.outputs, axis.stride)
    regular = useful = 0
    if operator == "conv2d":
        for o in range(axis.outputs):
            for f in range(axis.taps):
                regular += 1
                useful += x[o * axis.stride + f * axis.dilation]
    elif operator == "conv2d_weight":
        for f in range(axis.taps):
            for u, real in enumerate(dy):
                regular += 1
                useful += real and x[u + f * axis.dilation]
    else:
        for i in range(axis.size):
            for f in range(axis.taps):
                regular += 1
                u = i + axis.before - f * axis.dilation  # where the flipped filter reads the inserted dy
                useful += 0 <= u < len(dy) and dy[u]
    return regular, useful


@pytest.mark.parametrize("operator", OPERATORS)
def test_counts_equal_loops(operator: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(CASES):
        shape = random_shape(rng)
        channels = shape.n * shape.oc * shape.ic // shape.groups
        (rh, uh), (rw, uw) = axis_products(operator, shape.h), axis_products(operator, shape.w)
        got = flops.count(operator, shape)
        assert (got.regular, got.useful) == (channels * rh * rw, channels * uh * uw), shape
        assert got.redundant == got.regular - got.useful >= 0


@pytest.mark.parametrize("operator", OPERATORS)
def test_useful_is_what_multiplying_ones_adds_up(operator: str) -> None:
    """A convolution of ones has the number of real products as the sum of its outputs."""
    rng = np.random.default_rng(2)
    for _ in range(20):
        shape = random_shape(rng)
        total = 0
        (top, bottom), (left, right) = shape.padding
        x = np.pad(np.ones((shape.ih, shape.iw), int), ((top, bottom), (left, right)))
        (sh, sw), (dh, dw) = shape.stride, shape.dilation
        for oh in range(shape.oh):
            for ow in range(shape.ow):
                window = x[oh * sh : oh * sh + shape.h.span : dh, ow * sw : ow * sw + shape.w.span : dw]
                total += int(window.sum())
        assert flops.count(operator, shape).useful == total * shape.n * shape.oc * shape.ic // shape.groups


@pytest.mark.parametrize(("size", "saved"), [(2, 2.25), (4, 1.44), (8, (24 / 22) ** 2), (32, (96 / 94) ** 2)])
def test_known_savings_of_a_3x3_filter_with_padding_1(size: int, saved: float) -> None:
    shape = ConvShape(n=2, ih=size, iw=size, ic=3, oc=5, fh=3, fw=3, padding=1)
    for operator in ("conv2d", "conv2d_input"):  # with stride 1, both pad by one element
        assert flops.count(operator, shape).saved == pytest.approx(saved, rel=1e-12)


def test_stride_2_inserts_three_zeros_for_every_element() -> None:
    shape = ConvShape(n=1, ih=16, iw=16, ic=1, oc=1, fh=2, fw=2, stride=2)  # no padding at all
    assert flops.count("conv2d", shape).saved == 1.0
    assert flops.count("conv2d_input", shape).saved == 4.0


def test_nothing_useful() -> None:
    nothing = ConvShape(n=1, ih=1, iw=1, ic=1, oc=1, fh=1, fw=1, stride=3, padding=1)
    assert flops.count("conv2d", nothing) == flops.Count(regular=1, useful=0)
    assert flops.count("conv2d", nothing).saved == math.inf
    empty = ConvShape(n=0, ih=3, iw=3, ic=1, oc=1, fh=3, fw=3)
    assert flops.count("conv2d", empty).saved == 1.0


def test_unknown_operator() -> None:
    shape = ConvShape(n=1, ih=3, iw=3, ic=1, oc=1, fh=3, fw=3)
    with pytest.raises(ValueError, match="operator must be one of .* got 'pool'"):
        flops.count("pool", shape)
