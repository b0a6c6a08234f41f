"""Counts of multiply-adds against loops over tensors that were really padded and zero-inserted."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from cks_numba import flops, plots
from cks_numba.geometry import OPERATORS, ConvShape
from cks_numba.plots import INSERTED, PADDED, REAL

CASES = 1000


def random_shape(rng: np.random.Generator, axes: int = 2) -> ConvShape:
    """Return a small layer; test_random_shapes_are_awkward lists the awkward kinds that come up."""
    while True:
        sizes, taps = rng.integers(1, 8, axes).tolist(), rng.integers(1, 5, axes).tolist()
        groups, n = int(rng.integers(1, 4)), int(rng.integers(0, 3))
        ic, oc = (groups * rng.integers(1, 3, 2)).tolist()
        try:
            return ConvShape.of(
                (n, *sizes, ic),
                (oc, *taps, ic // groups),
                groups=groups,
                stride=tuple(rng.integers(1, 5, axes).tolist()),
                dilation=tuple(rng.integers(1, 4, axes).tolist()),
                padding=tuple(rng.integers(0, 4, 2 * axes).tolist()),
            )
        except ValueError:  # the filter does not fit: draw again
            continue


def test_random_shapes_are_awkward() -> None:
    shapes = [random_shape(rng) for rng in [np.random.default_rng(1)] for _ in range(CASES)]
    axes = [axis for shape in shapes for axis in (shape.h, shape.w)]
    assert any(s.n == 0 for s in shapes) and any(s.groups == 3 for s in shapes)
    assert any(a.dilation == 3 and a.taps > 1 for a in axes) and any(a.before != a.after for a in axes)
    assert any((a.size + a.before + a.after - a.span) % a.stride for a in axes)
    assert any(a.taps < a.stride and a.outputs > 1 for a in axes) and any(a.before >= a.span for a in axes)


# --- brute force: tensors that were really padded and zero-inserted, with the kind of every element ----------------
def padded_x(shape: ConvShape) -> np.ndarray:
    return np.pad(np.full(shape.x_shape[1:-1], REAL), shape.padding, constant_values=PADDED)


def inserted_dy(shape: ConvShape) -> np.ndarray:
    spread = np.full([(axis.outputs - 1) * axis.stride + 1 for axis in shape.axes], INSERTED)
    spread[tuple(slice(None, None, step) for step in shape.stride)] = REAL
    return spread


def padded_dy(shape: ConvShape) -> np.ndarray:
    """Return dy as the flipped filter reads it: for input i from i + before - (span - 1) on. Cut from ample padding."""
    ample = 20
    spread = np.pad(inserted_dy(shape), ample, constant_values=PADDED)
    first = [ample + axis.before - (axis.span - 1) for axis in shape.axes]
    cut = [slice(start, start + axis.size + axis.span - 1) for start, axis in zip(first, shape.axes, strict=True)]
    assert all(0 <= part.start and part.stop <= size for part, size in zip(cut, spread.shape, strict=True))
    return spread[tuple(cut)]


def every_product(operator: str, shape: ConvShape) -> tuple[np.ndarray, np.ndarray]:
    """Return the kinds of both factors of every product, for one image and one pair of channels."""
    ones = (1,) * len(shape.axes)
    x, taps, y = shape.x_shape[1:-1], shape.w_shape[1:-1], shape.y_shape[1:-1]
    filters = np.full(taps, REAL)
    field, slider, step, gaps, results = {
        "conv2d": (padded_x(shape), filters, shape.stride, shape.dilation, y),
        "conv2d_input": (padded_dy(shape), filters, ones, shape.dilation, x),
        "conv2d_weight": (padded_x(shape), inserted_dy(shape), shape.dilation, ones, taps),
    }[operator]
    window = tuple((size - 1) * gap + 1 for size, gap in zip(slider.shape, gaps, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(field, window)
    windows = windows[tuple(slice(None, None, every) for every in (*step, *gaps))]
    first = windows[tuple(map(slice, results))]
    assert first.shape == (*results, *slider.shape)
    return first, np.broadcast_to(slider, first.shape)


def pairs_of_channels(shape: ConvShape) -> int:
    """Count the combinations of image, input channel and output channel that meet, one by one."""
    every = product(range(shape.n), range(shape.ic), range(shape.oc))
    return sum(ic * shape.groups // shape.ic == oc * shape.groups // shape.oc for _, ic, oc in every)


@pytest.mark.parametrize(("axes", "cases"), [(1, CASES), (2, CASES), (3, CASES // 5)])
@pytest.mark.parametrize("operator", OPERATORS)
def test_counts_equal_brute_force(operator: str, axes: int, cases: int) -> None:
    rng = np.random.default_rng(1)
    seen = flops.Count(0, 0)
    for _ in range(cases):
        shape = random_shape(rng, axes)
        first, second = every_product(operator, shape)
        padded, inserted = ((first == kind) | (second == kind) for kind in (PADDED, INSERTED))
        wanted = [
            mask.sum() for mask in (~padded & ~inserted, padded & ~inserted, inserted & ~padded, padded & inserted)
        ]
        got = flops.count(operator, shape)
        kinds = [got.useful, got.padded, got.inserted, got.both]
        assert kinds == [int(n) * pairs_of_channels(shape) for n in wanted], shape
        assert got.regular == sum(kinds) == first.size * pairs_of_channels(shape)
        assert got.redundant == got.regular - got.useful >= 0
        seen += got
    assert seen.padded > 0 and (seen.inserted > 0) == (operator != "conv2d")
    assert (seen.both > 0) == (operator == "conv2d_weight")


@pytest.mark.parametrize("operator", OPERATORS)
def test_brute_force_marks_the_same_elements_as_the_steps(operator: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(150):
        shape = random_shape(rng)
        field, slider = plots.zero_maps(operator, shape)
        assert np.array_equal(field, padded_dy(shape) if operator == "conv2d_input" else padded_x(shape)), shape
        assert operator != "conv2d_weight" or np.array_equal(slider, inserted_dy(shape))


@pytest.mark.parametrize("operator", OPERATORS)
def test_useful_is_what_multiplying_ones_adds_up(operator: str) -> None:
    """The outputs of a convolution of ones add up to the number of real products."""
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
    for operator in ("conv2d", "conv2d_input"):  # both are padded by one element at stride 1
        assert flops.count(operator, shape).saved == pytest.approx(saved, rel=1e-12)


@pytest.mark.parametrize(("axes", "saved"), [(1, 2.0), (2, 4.0), (3, 8.0)])
def test_stride_2_doubles_the_work_on_every_axis(axes: int, saved: float) -> None:
    shape = ConvShape.of((1, *[16] * axes, 1), (1, *[2] * axes, 1), stride=2)  # no padding
    assert flops.count("conv2d", shape).saved == 1.0
    assert flops.count("conv2d_input", shape).saved == saved


def test_nothing_useful() -> None:
    nothing = ConvShape(n=1, ih=1, iw=1, ic=1, oc=1, fh=1, fw=1, stride=3, padding=1)
    found = flops.count("conv2d", nothing)
    assert (found.regular, found.useful, found.padded, found.share("useful")) == (1, 0, 1, 0)
    assert flops.count("conv2d", nothing).saved == math.inf
    empty = ConvShape(n=0, ih=3, iw=3, ic=1, oc=1, fh=3, fw=3)
    assert flops.count("conv2d", empty).saved == 1.0
    assert flops.count("conv2d", empty).share("padded") == 0.0


def test_unknown_operator() -> None:
    shape = ConvShape(n=1, ih=3, iw=3, ic=1, oc=1, fh=3, fw=3)
    with pytest.raises(ValueError, match="operator must be one of .* got 'pool'"):
        flops.count("pool", shape)


# --- bytes and sums ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("operator", OPERATORS)
def test_bytes_are_those_of_the_three_arrays(operator: str) -> None:
    shape = ConvShape(n=2, ih=5, iw=4, ic=6, oc=9, fh=3, fw=2, stride=2, padding=1, groups=3)
    x, w, y = (np.zeros(size, np.float32) for size in (shape.x_shape, shape.w_shape, shape.y_shape))
    found = flops.count(operator, shape)
    assert found.bytes == x.nbytes + w.nbytes + y.nbytes
    assert found.intensity == 2 * found.useful / found.bytes
    assert flops.Count(0, 0).intensity == 0.0


def test_counts_add_up() -> None:
    shape = ConvShape(n=2, ih=5, iw=4, ic=6, oc=9, fh=3, fw=2, stride=2, padding=1)
    counts = [flops.count(operator, shape) for operator in OPERATORS]
    total = flops.network([shape]).total
    for name in ("regular", "useful", "padded", "inserted", "both", "bytes", "redundant"):
        assert getattr(total, name) == sum(getattr(count, name) for count in counts), name
    shares = [total.share(name) for name in ("useful", "padded", "inserted", "both")]
    assert sum(shares) == pytest.approx(1) and min(shares) > 0
