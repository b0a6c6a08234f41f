"""Every rung of every kernel, compiled, in the emulator: right results, and nothing that its checks find."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
from reference import HARD_SHAPES, HARD_VOLUMES, brute_force, integers, random_shape

from cks_numba import kernels
from cks_numba.emulator import check_kernel, hooks
from cks_numba.geometry import OPERATORS, ConvShape
from cks_numba.kernels import elementwise, tiled
from cks_numba.kernels.tiled import gemm

ORDERS = ("forward", "reverse", 1)


@pytest.fixture(autouse=True)
def poisoned_scratch(monkeypatch):
    """Fill the memory between launches with NaN, so that an element that no kernel wrote is noticed."""

    def scratch(like, shape):
        return np.full(shape, np.nan, like.dtype)

    monkeypatch.setattr(elementwise, "scratch", scratch)
    monkeypatch.setattr(tiled.launches, "__defaults__", (None, scratch))


def run(built, order="forward"):
    for item in built:
        result = check_kernel(item.kernel, item.grid, item.block, *item.args, seed=order, poison=np.nan)
        assert not result.faults, str(result)


def check(operator, shape, build, dtype="float32"):
    """Build and run in every scheduling order, starting from NaN, and compare with the exact integers."""
    for order in ORDERS:
        first, second, out = integers(operator, shape, dtype)
        run(build(first, second, out), order)
        assert out.dtype == dtype
        np.testing.assert_array_equal(out, brute_force(operator, shape, first, second), err_msg=f"{shape} {order}")


@pytest.mark.parametrize("name", HARD_SHAPES)
@pytest.mark.parametrize("rung", kernels.SIMULATED_RUNGS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_hard_shapes(operator, rung, name):
    shape = HARD_SHAPES[name]
    check(operator, shape, lambda *arrays: kernels.launches(operator, shape, arrays, rung=rung))


@pytest.mark.parametrize("rung", kernels.SIMULATED_RUNGS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_random_shapes(operator, rung):
    rng = random.Random(2)
    for _ in range(10):
        shape = random_shape(rng)
        check(operator, shape, lambda *arrays, s=shape: kernels.launches(operator, s, arrays, rung=rung))


@pytest.mark.parametrize("rung", kernels.SIMULATED_RUNGS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_float64(operator, rung):
    shape = ConvShape(n=2, ih=5, iw=6, ic=8, oc=12, fh=3, fw=2, stride=2, padding=1)
    check(operator, shape, lambda *arrays: kernels.launches(operator, shape, arrays, rung=rung), "float64")
    shape = HARD_SHAPES["odd sizes, stride does not divide"]
    check(operator, shape, lambda *arrays: kernels.launches(operator, shape, arrays, rung=rung), "float64")


@pytest.mark.skipif(hooks.nvvm_version() is None, reason="NVVM is not installed")
@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("rung", ["tiled", "tensor"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_nvvm_compiles_the_last_rungs_with_their_lines_and_without_checks(operator, rung, axes):
    """That is how the backend "emulator" runs them; with checks in them, other variables are left."""
    shape = ConvShape.of((2, *[4] * axes, 8), (8, *[3] * axes, 8), padding=1)
    dtype = "float16" if rung == "tensor" else "float32"
    arrays = tuple(np.zeros(size, dtype) for _, size in shape.arrays(operator))
    for launch in kernels.launches(operator, shape, arrays, rung=rung):
        assert ".entry" in hooks.ptx_of(launch.kernel, launch.args, "nvvm")


@pytest.mark.parametrize("rung", ["shared", "grouped", "register_tile"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_tails_after_whole_tiles(operator, rung):
    """Rows, columns and terms of a group need several tiles each, and the last one is never whole."""
    shape = ConvShape(n=3, ih=7, iw=6, ic=2 * 67, oc=2 * 69, fh=3, fw=2, padding=((1, 1), (0, 0)), groups=2)
    check(operator, shape, lambda *arrays: kernels.launches(operator, shape, arrays, rung=rung))


def with_tile(operator, shape, tile, parts=1):
    """Return a function that builds the launches of ``tiled`` with the given tile."""
    choice = tiled.Choice(operator, shape, tile, parts if operator == "conv2d_weight" else 1, sms=132)
    return lambda *arrays: tiled.launches(operator, shape, arrays, choice)


@pytest.mark.parametrize("channels", [(20, 36), (19, 35)], ids=["vectors", "single elements"])
@pytest.mark.parametrize("tile", tiled.TILES, ids=str)
@pytest.mark.parametrize("operator", OPERATORS)
def test_every_tile_with_tails_in_every_dimension(operator, tile, channels):
    ic, oc = channels
    shape = ConvShape(n=5, ih=7, iw=6, ic=2 * ic, oc=2 * oc, fh=3, fw=2, stride=2, padding=1, groups=2)
    check(operator, shape, with_tile(operator, shape, tile, parts=3))


@pytest.mark.parametrize("channels", [(12, 20), (11, 19)], ids=["vectors", "single elements"])
@pytest.mark.parametrize("tile", tiled.TILES, ids=str)
@pytest.mark.parametrize("operator", OPERATORS)
def test_every_tile_over_three_axes_with_tails(operator, tile, channels):
    """Steps that differ along every axis, in channel groups, and the sum of conv3d_weight in parts."""
    ic, oc = channels
    keys = dict(stride=(1, 2, 3), padding=((1, 0), (0, 1), (2, 1)), dilation=(3, 2, 1), groups=2)
    shape = ConvShape.of((3, 5, 7, 6, 2 * ic), (2 * oc, 2, 3, 4, ic), **keys)
    check(operator, shape, with_tile(operator, shape, tile, parts=3))


TAILS = {  # sizes that are no multiple of a chunk of eight terms, a vector of four or a tile
    "one channel": dict(n=3, ih=5, iw=4, ic=1, oc=1, fh=3, fw=3, padding=1),
    "three channels": dict(n=2, ih=6, iw=5, ic=3, oc=20, fh=3, fw=3, stride=2, padding=1),
    "four channels, one image": dict(n=1, ih=5, iw=5, ic=4, oc=4, fh=3, fw=3, padding=1),
    "twelve channels": dict(n=2, ih=4, iw=5, ic=12, oc=20, fh=2, fw=3, padding=1),
    "1x1 filter, stride 2": dict(n=3, ih=5, iw=6, ic=8, oc=12, fh=1, fw=1, stride=2),
    "2x2 filter, stride 3": dict(n=2, ih=8, iw=7, ic=8, oc=4, fh=2, fw=2, stride=3, padding=1),
    "1x1 maps": dict(n=19, ih=1, iw=1, ic=8, oc=8, fh=3, fw=3, padding=1),
    "dilation, asymmetric": dict(n=2, ih=7, iw=6, ic=4, oc=8, fh=3, fw=2, dilation=(2, 3), padding=((1, 2), (0, 3))),
}


@pytest.mark.parametrize("name", TAILS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_tails_of_channels_and_terms(operator, name):
    shape = ConvShape(**TAILS[name])
    for tile in (tiled.TILES[0], tiled.TILES[-1]):
        check(operator, shape, with_tile(operator, shape, tile, parts=2))


VOLUME_TAILS = {  # the sizes of x and of w, and what else is not 1; some chunks go on over several axes at once
    "one channel": ((3, 3, 4, 3, 1), (1, 2, 3, 3, 1), dict(padding=1)),
    "three channels, 2x1x1 taps": ((2, 5, 3, 4, 3), (10, 2, 1, 1, 3), dict(stride=2, padding=(1, 0, 0))),
    "four channels, one image": ((1, 4, 3, 3, 4), (4, 3, 3, 1, 4), dict(padding=1)),
    "four channels, 3x1x1 taps": ((2, 4, 2, 3, 4), (12, 3, 1, 1, 4), dict(dilation=(1, 2, 2), padding=(2, 0, 0))),
    "1x1x1 maps": ((11, 1, 1, 1, 8), (8, 3, 3, 3, 8), dict(padding=1)),
    "one row and one column": ((2, 9, 1, 1, 8), (4, 3, 1, 1, 8), dict(stride=(2, 1, 1), padding=(1, 0, 0))),
}


@pytest.mark.parametrize("name", VOLUME_TAILS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_tails_over_three_axes(operator, name):
    x_shape, w_shape, keys = VOLUME_TAILS[name]
    shape = ConvShape.of(x_shape, w_shape, **keys)
    for tile in (tiled.TILES[0], tiled.TILES[-1]):
        check(operator, shape, with_tile(operator, shape, tile, parts=2))


@pytest.mark.parametrize("rung", kernels.SIMULATED_RUNGS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_a_signal_runs_as_an_image_of_one_row(operator, rung):
    shape = ConvShape.of((2, 9, 3), (5, 4, 3), stride=2, padding=[(2, 1)])
    check(operator, shape, lambda *arrays: kernels.launches(operator, shape, arrays, rung=rung))


def test_an_array_that_no_vector_may_be_loaded_from():
    shape = ConvShape(n=2, ih=4, iw=4, ic=8, oc=8, fh=3, fw=3, padding=1)
    first, second, out = integers("conv2d", shape, "float32")
    memory = np.empty(first.size + 8, np.float32)
    shifted = memory[1 + (-memory.ctypes.data // 4) % 4 :][: first.size].reshape(first.shape)
    shifted[...] = first
    assert not tiled.aligned(shifted)
    run(kernels.launches("conv2d", shape, (shifted, second, out)))
    np.testing.assert_array_equal(out, brute_force("conv2d", shape, first, second))


@pytest.mark.parametrize("rung", kernels.SIMULATED_RUNGS)
def test_no_image_gives_a_filter_gradient_of_zeros(rung):
    shape = ConvShape(n=0, ih=4, iw=5, ic=3, oc=2, fh=3, fw=2, stride=2, padding=1)
    check("conv2d_weight", shape, lambda *arrays: kernels.launches("conv2d_weight", shape, arrays, rung=rung))


@pytest.mark.parametrize("name", HARD_VOLUMES)
@pytest.mark.parametrize("rung", kernels.SIMULATED_RUNGS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_hard_volumes(operator, rung, name):
    shape = HARD_VOLUMES[name]
    check(operator, shape, lambda *arrays: kernels.launches(operator, shape, arrays, rung=rung))


@pytest.mark.parametrize("rung", kernels.SIMULATED_RUNGS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_random_volumes(operator, rung):
    rng = random.Random(3)
    for _ in range(10):
        shape = random_shape(rng, size=5, axes=3)
        check(operator, shape, lambda *arrays, s=shape: kernels.launches(operator, s, arrays, rung=rung))


@pytest.mark.parametrize("rung", kernels.SIMULATED_RUNGS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_volumes_in_float64_and_without_an_image(operator, rung):
    shape = HARD_VOLUMES["odd sizes, stride does not divide"]
    check(operator, shape, lambda *arrays: kernels.launches(operator, shape, arrays, rung=rung), "float64")
    none = ConvShape.of((0, 3, 4, 4, 3), (2, 2, 3, 2, 3), stride=2, padding=1)
    check(operator, none, lambda *arrays: kernels.launches(operator, none, arrays, rung=rung))


@pytest.mark.parametrize("rung", ["shared", "grouped", "register_tile"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_volumes_after_whole_tiles(operator, rung):
    """Rows, columns and terms of a group need several tiles each, and the last one is never whole."""
    padding = ((1, 0), (0, 0), (0, 0))
    shape = ConvShape.of((3, 2, 4, 6, 2 * 67), (2 * 69, 2, 1, 2, 67), padding=padding, groups=2)
    check(operator, shape, lambda *arrays: kernels.launches(operator, shape, arrays, rung=rung))


@pytest.mark.parametrize("operator", OPERATORS)
def test_same_bits_twice(operator):
    shape = ConvShape(n=9, ih=9, iw=9, ic=3, oc=4, fh=3, fw=3, padding=1)
    rng = np.random.default_rng(3)
    first, second, out = integers(operator, shape, "float32")
    first[...], second[...] = rng.standard_normal(first.shape), rng.standard_normal(second.shape)
    results = []
    for order in ORDERS:
        fresh = np.full_like(out, np.nan)
        run(kernels.launches(operator, shape, (first, second, fresh)), order)
        results.append(fresh)
    assert results[0].tobytes() == results[1].tobytes() == results[2].tobytes()
    truth = brute_force(operator, shape, first, second)
    terms = (
        shape.n * shape.oh * shape.ow if operator == "conv2d_weight" else shape.fh * shape.fw * max(shape.ic, shape.oc)
    )
    np.testing.assert_allclose(results[0], truth, rtol=0, atol=4 * np.finfo(np.float32).eps * terms**0.5 * 10)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("rung", kernels.SIMULATED_RUNGS)
def test_float32_kernels_hold_no_float64_and_no_atomics(operator, rung):
    for shapes in (HARD_SHAPES, HARD_VOLUMES):
        shape = shapes["odd sizes, stride does not divide"]
        for item in kernels.launches(operator, shape, integers(operator, shape, "float32"), rung=rung):
            ptx = hooks.ptx_of(item.kernel, item.args)
            assert re.search(r"\.f64|\b(atom|red)\.", ptx) is None
            assert rung == "with_zeros" or "fma.rn.f32" in ptx or item.kernel is gemm.sum_parts


@pytest.mark.parametrize(
    "shape",
    [
        ConvShape(n=8, ih=4, iw=4, ic=16, oc=16, fh=3, fw=3, padding=1),
        ConvShape.of((8, 3, 3, 3, 16), (16, 2, 3, 3, 16), padding=1),
    ],
    ids=["images", "volumes"],
)
@pytest.mark.parametrize("rung", ["shared", "grouped", "register_tile"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_no_bank_conflicts(operator, rung, shape):
    (item,) = kernels.launches(operator, shape, integers(operator, shape, "float32"), rung=rung)
    result = check_kernel(item.kernel, item.grid, item.block, *item.args)
    costs = [cost for cost in result.costs if cost.site.space == "shared"]
    assert {cost.site.action for cost in costs} == {"read", "write"}
    assert all(cost.units == cost.least for cost in costs), result.profile()
