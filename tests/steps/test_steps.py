"""The step-by-step versions against brute force over the equation, their masks, counts and texts."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest

from cks_numba import flops, steps
from cks_numba.geometry import OPERATORS, ConvShape
from cks_numba.steps.explain import SMALL

ODD_CASES: dict[str, dict[str, Any]] = {
    "filter smaller than stride": dict(n=2, ih=7, iw=8, ic=2, oc=3, fh=2, fw=1, stride=(3, 4)),
    "1x1 with stride 2": dict(n=2, ih=5, iw=6, ic=2, oc=2, fh=1, fw=1, stride=2),
    "1x1 with stride 2, padded": dict(n=1, ih=4, iw=4, ic=1, oc=1, fh=1, fw=1, stride=2, padding=1),
    "asymmetric padding": dict(n=1, ih=5, iw=4, ic=2, oc=2, fh=3, fw=4, stride=2, padding=((0, 3), (2, 1))),
    "dilation 3 with stride 2": dict(n=1, ih=9, iw=8, ic=1, oc=2, fh=3, fw=3, stride=2, padding=2, dilation=3),
    "dilation 2 with stride 2": dict(n=1, ih=9, iw=8, ic=1, oc=2, fh=3, fw=3, stride=2, padding=2, dilation=2),
    "dilation 2 with stride 4": dict(n=1, ih=9, iw=8, ic=1, oc=2, fh=4, fw=3, stride=4, padding=1, dilation=2),
    "channel groups": dict(n=2, ih=5, iw=5, ic=6, oc=9, fh=3, fw=3, stride=2, padding=1, groups=3),
    "depthwise": dict(n=1, ih=4, iw=4, ic=4, oc=4, fh=3, fw=3, padding=1, groups=4),
    "no image": dict(n=0, ih=5, iw=5, ic=2, oc=2, fh=3, fw=3, stride=2, padding=1),
    "filter larger than x": dict(n=1, ih=2, iw=1, ic=1, oc=1, fh=5, fw=4, padding=3),
    "padding beyond the filter": dict(n=1, ih=2, iw=3, ic=1, oc=1, fh=2, fw=2, stride=1, padding=4),
    "stride that does not divide": dict(n=1, ih=8, iw=6, ic=1, oc=1, fh=3, fw=2, stride=(3, 3)),
}


def random_shape(rng: random.Random) -> ConvShape:
    """Draw a small valid shape; padding may exceed the filter, and the filter the input."""
    while True:
        groups = rng.choice([1, 1, 1, 2, 3])
        sizes = dict(ih=rng.randint(1, 7), iw=rng.randint(1, 7), fh=rng.randint(1, 4), fw=rng.randint(1, 4))
        pads = tuple((rng.randint(0, sizes[f]), rng.randint(0, sizes[f])) for f in ("fh", "fw"))
        try:
            return ConvShape(
                n=rng.choice([0, 1, 1, 2]),
                ic=groups * rng.randint(1, 2),
                oc=groups * rng.randint(1, 2),
                stride=(rng.randint(1, 4), rng.randint(1, 4)),
                dilation=(rng.randint(1, 3), rng.randint(1, 3)),
                padding=pads,
                groups=groups,
                **sizes,
            )
        except ValueError:  # the filter does not fit
            continue


RANDOM_SHAPES = [random_shape(random.Random(seed)) for seed in range(200)]
ODD_SHAPES = [ConvShape(**case) for case in ODD_CASES.values()]
ALL_SHAPES = RANDOM_SHAPES + ODD_SHAPES


def arrays_of(operator: str, shape: ConvShape, dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    """Return seeded integers, none of them 0, so that every zero of a stage is an added one."""
    rng = np.random.default_rng(shape.ih * 100 + shape.iw)
    x, w, dy = (
        (rng.integers(1, 9, size) * rng.choice([-1, 1], size)).astype(dtype)
        for size in (shape.x_shape, shape.w_shape, shape.y_shape)
    )
    return {"conv2d": (x, w), "conv2d_input": (w, dy), "conv2d_weight": (x, dy)}[operator]


def brute_axis(size: int, taps: int, stride: int, pads: tuple[int, int], dilation: int) -> list[tuple[int, int, int]]:
    """Find all (i, f, o) of one axis that fulfil the equation by trying each."""
    outputs = (size + sum(pads) - dilation * (taps - 1) - 1) // stride + 1
    tried = itertools.product(range(size), range(taps), range(outputs))
    return [(i, f, o) for i, f, o in tried if i == o * stride - pads[0] + f * dilation]


def brute_triples(shape: ConvShape) -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]]:
    rows = brute_axis(shape.ih, shape.fh, shape.stride[0], shape.padding[0], shape.dilation[0])
    cols = brute_axis(shape.iw, shape.fw, shape.stride[1], shape.padding[1], shape.dilation[1])
    return rows, cols


def brute_force(operator: str, first: np.ndarray, second: np.ndarray, shape: ConvShape) -> np.ndarray:
    """Compute the operator as one sum over real triples, with a matrix product for each triple and channel group."""
    ic, oc = shape.ic // shape.groups, shape.oc // shape.groups
    sizes = {"conv2d": shape.y_shape, "conv2d_input": shape.x_shape, "conv2d_weight": shape.w_shape}
    result = np.zeros(sizes[operator])
    rows, cols = brute_triples(shape)
    for (ih, fh, oh), (iw, fw, ow), g in itertools.product(rows, cols, range(shape.groups)):
        cx, cy = slice(g * ic, (g + 1) * ic), slice(g * oc, (g + 1) * oc)
        if operator == "conv2d":
            result[:, oh, ow, cy] += first[:, ih, iw, cx] @ second[cy, fh, fw].T
        elif operator == "conv2d_input":
            result[:, ih, iw, cx] += second[:, oh, ow, cy] @ first[cy, fh, fw]
        else:
            result[cy, fh, fw] += second[:, oh, ow, cy].T @ first[:, ih, iw, cx]
    return result


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("block", range(10))
def test_random_shapes_equal_brute_force(operator: str, block: int) -> None:
    for shape in RANDOM_SHAPES[block::10]:
        check_values_and_counts(operator, shape)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("case", ODD_CASES)
def test_odd_shapes_equal_brute_force(operator: str, case: str) -> None:
    check_values_and_counts(operator, ConvShape(**ODD_CASES[case]))


def check_values_and_counts(operator: str, shape: ConvShape) -> None:
    first, second = arrays_of(operator, shape)
    done = steps.BY_OPERATOR[operator](first, second, shape)
    expected = brute_force(operator, first, second, shape)
    for result in (done.regular, done.skipping):
        assert result.shape == expected.shape and result.dtype == np.float64, str(shape)
        np.testing.assert_array_equal(result, expected, err_msg=str(shape))
    counts = flops.count(operator, shape)
    rows, cols = brute_triples(shape)
    useful = len(rows) * len(cols) * shape.n * shape.ic * shape.oc // shape.groups
    assert (done.regular_madds, done.skipping_madds) == (counts.regular, counts.useful), str(shape)
    assert done.skipping_madds == useful, str(shape)
    assert done.operator == operator and done.shape == shape


@pytest.mark.parametrize("operator", OPERATORS)
def test_masks_mark_exactly_the_added_zeros(operator: str) -> None:
    for shape in ALL_SHAPES:
        done = steps.BY_OPERATOR[operator](*arrays_of(operator, shape), shape)
        for stage in done.stages:
            check_masks(stage, str(shape))


def check_masks(stage: steps.Stage, message: str) -> None:
    """Check that the masked elements are exactly the zeros, in an array to which zeros were added."""
    masks = [mask for mask in (stage.padded, stage.inserted) if mask is not None]
    for mask in masks:
        assert mask.shape == stage.array.shape and mask.dtype == bool, message
    if stage.way == "skipping":
        assert not masks, f"{stage.name} of {message}"
    elif masks:
        total = sum(mask.astype(int) for mask in masks)
        np.testing.assert_array_equal(total, stage.array == 0, err_msg=f"{stage.name} of {message}")


def brute_dy_line(size: int, taps: int, stride: int, pads: tuple[int, int], dilation: int) -> str:
    """Write the padded, zero-inserted dy of one axis as letters: p(added), i(nserted), d(ata)."""
    outputs = (size + sum(pads) - dilation * (taps - 1) - 1) // stride + 1
    line = ""
    for place in range(size + dilation * (taps - 1)):
        at = place - dilation * (taps - 1) + pads[0]  # the numerator of o = at / stride
        line += "p" if not 0 <= at <= (outputs - 1) * stride else "d" if at % stride == 0 else "i"
    return line


def test_counts_of_added_zeros_equal_brute_force() -> None:
    for shape in ALL_SHAPES:
        rows = brute_dy_line(shape.ih, shape.fh, shape.stride[0], shape.padding[0], shape.dilation[0])
        cols = brute_dy_line(shape.iw, shape.fw, shape.stride[1], shape.padding[1], shape.dilation[1])
        pairs = [{r, c} for r, c in itertools.product(rows, cols)]
        stage = steps.ks_deconv(*arrays_of("conv2d_input", shape), shape).stage("padded dy")
        images = shape.n * shape.oc
        assert stage.padded is not None and stage.inserted is not None
        assert stage.padded.sum() == images * sum("p" in pair for pair in pairs), str(shape)
        assert stage.inserted.sum() == images * sum("p" not in pair and "i" in pair for pair in pairs), str(shape)
        done = steps.sk_dilated(*arrays_of("conv2d_weight", shape), shape)
        (top, bottom), (left, right) = shape.padding
        around = (shape.ih + top + bottom) * (shape.iw + left + right) - shape.ih * shape.iw
        between = ((shape.oh - 1) * shape.stride[0] + 1) * ((shape.ow - 1) * shape.stride[1] + 1) - shape.oh * shape.ow
        padded, inserted = done.stage("padded x").padded, done.stage("dy with inserted zeros").inserted
        assert padded is not None and padded.sum() == around * shape.n * shape.ic, str(shape)
        assert inserted is not None and inserted.sum() == between * images, str(shape)


@pytest.mark.parametrize("operator", OPERATORS)
def test_skipping_way_never_multiplies_an_added_zero(operator: str) -> None:
    """Infinity times an added zero gives NaN; infinity times data does not."""
    zero_met = 0
    for shape in ALL_SHAPES:
        first, second = (np.abs(array) for array in arrays_of(operator, shape))
        infinite = {"conv2d": (first, second * np.inf), "conv2d_input": (first * np.inf, second)}
        infinite["conv2d_weight"] = (first * np.inf, second)
        with np.errstate(invalid="ignore"):
            done = steps.BY_OPERATOR[operator](*infinite[operator], shape)
        assert not np.isnan(done.skipping).any(), str(shape)
        assert set(np.unique(done.skipping)) <= {0.0, np.inf}, str(shape)
        zero_met += bool(np.isnan(done.regular).any())
    assert zero_met > 20  # the regular way has such products, and the test sees them


@pytest.mark.parametrize("operator", OPERATORS)
def test_float32_gives_float64(operator: str) -> None:
    shape = ODD_SHAPES[3]
    done = steps.BY_OPERATOR[operator](*arrays_of(operator, shape, np.float32), shape)
    wide = steps.BY_OPERATOR[operator](*arrays_of(operator, shape), shape)
    assert done.regular.dtype == done.skipping.dtype == np.float64
    np.testing.assert_array_equal(done.skipping, wide.skipping)


def test_sums_are_in_float64() -> None:
    """1 + 2^-30 is lost in float32, whatever the order of the sum."""
    shape = ConvShape(n=1, ih=1, iw=2, ic=1, oc=1, fh=1, fw=2)
    x = np.array([1.0, 2.0**-30], np.float32).reshape(1, 1, 2, 1)
    done = steps.conv_v2(x, np.ones((1, 1, 2, 1), np.float32), shape)
    assert done.skipping.item() == done.regular.item() == 1 + 2.0**-30


@pytest.mark.parametrize("operator", OPERATORS)
def test_stages_are_named_once_and_inputs_are_left_alone(operator: str) -> None:
    shape = ODD_SHAPES[4]
    first, second = arrays_of(operator, shape)
    before = first.copy(), second.copy()
    done = steps.BY_OPERATOR[operator](first, second, shape)
    names = [stage.name for stage in done.stages]
    assert len(set(names)) == len(names)
    assert {stage.way for stage in done.stages} == {"regular", "skipping"}
    assert all(stage.text and stage.array.ndim == 4 for stage in done.stages)
    np.testing.assert_array_equal(first, before[0])
    np.testing.assert_array_equal(second, before[1])


def test_phases_of_deconvolution_make_up_dx() -> None:
    """The sub-filters together are w, and the phases together are dx."""
    shape = ConvShape(n=1, ih=5, iw=4, ic=1, oc=1, fh=3, fw=3, stride=2, padding=1)
    w, dy = arrays_of("conv2d_input", shape)
    done = steps.ks_deconv(w, dy, shape)
    dx = done.stage("interleaved dx").array
    for phase_h, phase_w in itertools.product(range(2), range(2)):
        sub_filter = done.stage(f"sub-filter of phase ({phase_h}, {phase_w})").array
        np.testing.assert_array_equal(sub_filter, w[:, phase_h::2, phase_w::2])
        part = done.stage(f"phase ({phase_h}, {phase_w}) of dx").array
        np.testing.assert_array_equal(part, dx[:, (phase_h - 1) % 2 :: 2, (phase_w - 1) % 2 :: 2])
    np.testing.assert_array_equal(done.stage("rotated filter").array, w[:, ::-1, ::-1])


def test_inputs_without_tap_are_zero() -> None:
    shape = ODD_SHAPES[1]  # 1x1 with stride 2: three of four inputs meet nothing
    done = steps.ks_deconv(*arrays_of("conv2d_input", shape), shape)
    reached = np.zeros(shape.x_shape, dtype=bool)
    reached[:, ::2, ::2] = True
    assert (done.skipping[~reached] == 0).all() and not np.signbit(done.skipping[~reached]).any()
    assert done.stage("sub-filter of phase (1, 0)").array.size == 0


def test_map_of_taps_kept() -> None:
    shape = ConvShape(n=1, ih=3, iw=3, ic=1, oc=1, fh=3, fw=3, padding=1)
    done = steps.conv_v2(*arrays_of("conv2d", shape), shape)
    kept = done.stage("taps kept of each y").array[0, :, :, 0]
    np.testing.assert_array_equal(kept, [[4, 6, 4], [6, 9, 6], [4, 6, 4]])
    done = steps.sk_dilated(*arrays_of("conv2d_weight", shape), shape)
    walked = done.stage("elements of dy walked by each tap").array[0, :, :, 0]
    np.testing.assert_array_equal(walked, [[4, 6, 4], [6, 9, 6], [4, 6, 4]])


def test_unknown_stage_names_the_known_ones() -> None:
    shape = ODD_SHAPES[0]
    done = steps.conv_v2(*arrays_of("conv2d", shape), shape)
    with pytest.raises(KeyError, match="no stage 'nothing'.*padded x"):
        done.stage("nothing")


@pytest.mark.parametrize("operator", OPERATORS)
def test_wrong_arrays_are_named(operator: str) -> None:
    shape = ODD_SHAPES[0]
    first, second = arrays_of(operator, shape)
    with pytest.raises(ValueError, match=r"must have shape \(.*\), got \("):
        steps.BY_OPERATOR[operator](first, second[:, 1:], shape)
    with pytest.raises(TypeError, match="must be float32 or float64, got int64"):
        steps.BY_OPERATOR[operator](first.astype(np.int64), second, shape)


# --- explain -------------------------------------------------------------------------------------
def test_explain_draws_two_axes() -> None:
    with pytest.raises(ValueError, match="two spatial axes to be drawn so, got 3"):
        steps.explain("conv2d", shape=ConvShape.of((1, 4, 4, 4, 1), (1, 3, 3, 3, 1)))


@pytest.mark.parametrize("operator", OPERATORS)
def test_explain_of_the_made_up_case(operator: str) -> None:
    text = steps.explain(operator)
    assert text == steps.explain(operator)  # the numbers are seeded
    counts = flops.count(operator, SMALL[operator])
    assert f"regular  {counts.regular}\n" in text and f"useful   {counts.useful}\n" in text
    assert f"saved    {counts.redundant} multiply-adds" in text
    assert "largest difference between the two results: 0" in text
    assert "THE REGULAR WAY" in text and "THE SKIPPING WAY" in text and "BY HAND" in text
    assert text.isascii() and max(len(line) for line in text.splitlines()) <= 120


def test_explain_draws_padding_and_inserted_zeros() -> None:
    shape = ConvShape(n=1, ih=3, iw=3, ic=1, oc=1, fh=2, fw=2, stride=2, padding=1)
    w = np.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
    dy = np.array([[5.0, 6.0], [7.0, 8.0]]).reshape(1, 2, 2, 1)
    text = steps.explain("conv2d_input", w, dy, shape)
    assert "   5  :  6\n   :  :  :\n   7  :  8\n" in text
    text = steps.explain("conv2d", np.ones((1, 3, 3, 1)), w, shape)
    assert "   .  .  .  .  .\n   .  1  1  1  .\n   .  1  1  1  .\n   .  1  1  1  .\n   .  .  .  .  .\n" in text
    text = steps.explain("conv2d_weight", np.ones((1, 3, 3, 1)), dy, shape)
    assert "range of tap 0: dy 1 (1 of 2)" in text and "range of tap 1: dy 0, 1 (2 of 2)" in text


def test_explain_writes_out_one_sum() -> None:
    shape = ConvShape(n=1, ih=2, iw=2, ic=1, oc=1, fh=3, fw=3, padding=1)
    x, w = np.arange(1.0, 5).reshape(1, 2, 2, 1), np.arange(1.0, 10).reshape(1, 3, 3, 1)
    text = steps.explain("conv2d", x, w, shape)
    assert "     x[0, 0] * w[1, 1] = 1 * 5\n   + x[0, 1] * w[1, 2] = 2 * 6\n" in text
    assert "   = 77\n   The regular way does 9 products for it, 5 of them" in text  # 1*5 + 2*6 + 3*8 + 4*9


@pytest.mark.parametrize("operator", OPERATORS)
def test_explain_tells_every_shape(operator: str) -> None:
    for shape in ODD_SHAPES + RANDOM_SHAPES[:30]:
        counts = flops.count(operator, shape)
        text = steps.explain(operator, None, None, shape)
        assert f"regular  {counts.regular}\n" in text and f"useful   {counts.useful}\n" in text, str(shape)


def test_explain_cuts_large_grids() -> None:
    shape = ConvShape(n=2, ih=30, iw=25, ic=2, oc=1, fh=1, fw=1)
    text = steps.explain("conv2d", None, None, shape)
    assert "(a part of 30 x 25)" in text and "(the first of 2 x 2 such grids)" in text


def test_explain_names_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="operator must be one of .*'conv3d'"):
        steps.explain("conv3d")
    with pytest.raises(ValueError, match="shape must be given"):
        steps.explain("conv2d", np.ones((1, 2, 2, 1)))
