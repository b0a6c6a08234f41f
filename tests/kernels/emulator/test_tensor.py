"""The tensor rung in the emulator: right results, nothing that its checks find, and no bank conflict in the loop."""

from __future__ import annotations

import re
from importlib.util import find_spec

import numpy as np
import pytest
from reference import HARD_SHAPES, HARD_VOLUMES, brute_force, integers

from cks_numba import kernels
from cks_numba.emulator import check_kernel, hooks
from cks_numba.geometry import OPERATORS, ConvShape
from cks_numba.kernels import tensor, tiled

if find_spec("ml_dtypes"):
    import ml_dtypes  # noqa: F401  # NumPy knows the name bfloat16 from here on

ORDERS = ("forward", "reverse", 1)
DTYPES = (
    "float32",
    "float16",
    pytest.param("bfloat16", marks=pytest.mark.skipif(not find_spec("ml_dtypes"), reason="ml_dtypes is not installed")),
)
NAN = {"float32": np.nan, "uint16": 0x7FFF}  # launches take 16 bits as uint16: these are a NaN
# Largest error over the root mean square of the results. Cut off and not rounded, tf32 would be wrong by 2.7e-3.
LARGEST_ERROR = {"float32": 2e-3, "float16": 3e-3, "bfloat16": 2.5e-2}


def scratch(like, shape):
    """Memory between launches, full of NaN: an element that no kernel wrote is noticed."""
    return np.full(shape, NAN[str(like.dtype)], like.dtype)


def operands(operator, shape, dtype, random=False):
    """Small integers or random numbers, and a result full of NaN."""
    first, second, out = integers(operator, shape, "float32")
    if random:
        rng = np.random.default_rng(1)
        first, second = rng.standard_normal(first.shape), rng.standard_normal(second.shape)
    return tuple(array.astype(dtype) for array in (first, second, out))


def build(operator, shape, arrays, tile=None, parts=1, bias=None):
    """Build the launches with a tile of the rung, so that no array goes to ``tiled``."""
    parts, unit = parts if operator == "conv2d_weight" else 1, tensor.FORMATS[str(arrays[0].dtype)].unit
    choice = tiled.Choice(operator, shape, tile or tensor.TILES[-1], parts, 132, unit)
    return tensor.launches(operator, shape, arrays, choice, bias, scratch)


def run(built, order="forward"):
    results = []
    for item in built:
        poison = NAN[str(item.args[-1 if item.name.startswith("sum") else 1 if "pad" in item.name else 2].dtype)]
        results.append(check_kernel(item.kernel, item.grid, item.block, *item.args, seed=order, poison=poison))
        assert not results[-1].faults, str(results[-1])
    return results


def check(operator, shape, dtype, tile=None, parts=1, orders=ORDERS[:1]):
    """Build and run, starting from NaN, and compare with the exact integers, rounded once."""
    for order in orders:
        first, second, out = operands(operator, shape, dtype)
        run(build(operator, shape, (first, second, out), tile, parts), order)
        wanted = brute_force(operator, shape, first, second).astype(dtype)
        np.testing.assert_array_equal(out.astype(float), wanted.astype(float), err_msg=f"{shape} {order}")


SHAPES = {
    "stride, asymmetric padding": ConvShape(
        n=2, ih=9, iw=8, ic=8, oc=24, fh=3, fw=2, stride=(2, 3), padding=((1, 2), (0, 1))
    ),
    "groups, dilation, odd channels": ConvShape(
        n=2, ih=7, iw=6, ic=10, oc=14, fh=2, fw=3, dilation=(2, 1), padding=1, groups=2
    ),
}
ROOMY = ConvShape(n=3, ih=7, iw=6, ic=40, oc=136, fh=3, fw=3, padding=1)  # several tiles each way, and none is whole


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_small_shapes_in_three_orders(operator, name, dtype):
    check(operator, SHAPES[name], dtype, parts=2, orders=ORDERS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tile", tensor.TILES, ids=str)
@pytest.mark.parametrize("operator", OPERATORS)
def test_every_tile_with_tails_and_without_bank_conflicts(operator, tile, dtype):
    first, second, out = operands(operator, ROOMY, dtype)
    results = run(build(operator, ROOMY, (first, second, out), tile))
    wanted = brute_force(operator, ROOMY, first, second).astype(dtype)
    np.testing.assert_array_equal(out.astype(float), wanted.astype(float))
    costs = [cost for result in results for cost in result.costs if cost.site.space == "shared"]
    assert {cost.site.action for cost in costs} == {"read", "write"}
    assert all(cost.units == cost.least for cost in costs), results[-1].profile()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_hard_shapes(operator, dtype):
    for name, shape in HARD_SHAPES.items():
        if name != "depthwise":
            check(operator, shape, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", HARD_VOLUMES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_hard_volumes(operator, name, dtype):
    """Depthwise layers too; the sum of conv3d_weight is in parts."""
    check(operator, HARD_VOLUMES[name], dtype, parts=2, orders=ORDERS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tile", tensor.TILES, ids=str)
@pytest.mark.parametrize("operator", OPERATORS)
def test_every_tile_over_three_axes(operator, tile, dtype):
    keys = dict(stride=(1, 2, 3), padding=((1, 0), (0, 1), (2, 1)), dilation=(3, 2, 1))
    shape = ConvShape.of((2, 5, 7, 6, 24), (40, 2, 3, 4, 24), **keys)
    check(operator, shape, dtype, tile, parts=2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operator", ["conv2d", "conv2d_input"])
def test_a_bias_over_three_axes(operator, dtype):
    for groups in (1, 6):
        shape = ConvShape.of((2, 3, 4, 4, 6), (12, 2, 3, 2, 6 // groups), padding=1, stride=(2, 1, 2), groups=groups)
        first, second, out = operands(operator, shape, dtype)
        bias = (np.arange(out.shape[-1]) % 5 * 3.25 + 0.5).astype(dtype)
        run(build(operator, shape, (first, second, out), bias=bias))
        sums = brute_force(operator, shape, first, second) + bias.astype(float)
        np.testing.assert_array_equal(out.astype(float), sums.astype(dtype).astype(float))


WHOLE = ConvShape(n=2, ih=8, iw=8, ic=64, oc=64, fh=1, fw=1)
TWO_EACH = ConvShape(n=2, ih=9, iw=9, ic=6, oc=12, fh=3, fw=3, stride=2, padding=1, groups=6)
BIASED = HARD_SHAPES | SHAPES | {"several tiles": ROOMY, "whole tiles": WHOLE, "depthwise": TWO_EACH}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operator", ["conv2d", "conv2d_input"])
@pytest.mark.parametrize("tile", tensor.TILES, ids=str)
def test_a_bias_is_added_before_the_result_is_rounded(operator, tile, dtype):
    rng = np.random.default_rng(0)
    for name, shape in BIASED.items() if tile == tensor.TILES[-1] else [("several tiles", ROOMY)]:
        first, second, out = operands(operator, shape, dtype)
        for array in (first, second):
            array[...] = rng.integers(-64, 65, array.shape) / 8  # sums of products are exact in float32, not in 16 bits
        bias = (np.arange(out.shape[3]) % 5 * 3.25 + 0.5).astype(dtype)
        run(build(operator, shape, (first, second, out), tile, bias=bias))
        sums = brute_force(operator, shape, first, second) + bias.astype(float)
        np.testing.assert_array_equal(out.astype(float), sums.astype(dtype).astype(float), err_msg=name)


@pytest.mark.parametrize("rung", ["skip_zeros", "tiled", "tensor"])
def test_any_rung_takes_a_bias(rung):
    shape = HARD_SHAPES["2x2 filter, stride 3: empty phases"]
    for operator in ("conv2d", "conv2d_input"):
        first, second, out = operands(operator, shape, "float32")
        bias = np.arange(out.shape[3], dtype=np.float32)
        for item in kernels.launches(operator, shape, (first, second, out), rung, bias):
            assert not check_kernel(item.kernel, item.grid, item.block, *item.args).faults
        np.testing.assert_array_equal(out, brute_force(operator, shape, first, second) + bias)
    with pytest.raises(ValueError, match="the gradient of the filter has no bias"):
        kernels.launches("conv2d_weight", shape, operands("conv2d_weight", shape, "float32"), rung, bias)
    arrays = operands("conv2d", shape, "float32")
    with pytest.raises(ValueError, match=r"bias must have shape \(9,\)"):
        kernels.launches("conv2d", shape, arrays, rung, np.ones(8, np.float32))
    with pytest.raises(TypeError, match="bias must be float32 like the other arrays, got float64"):
        kernels.launches("conv2d", shape, arrays, rung, np.ones(9))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_depthwise(operator, dtype):
    twice = ConvShape(n=2, ih=5, iw=4, ic=17, oc=34, fh=2, fw=3, stride=(2, 1), padding=((1, 0), (1, 2)), groups=17)
    keys = dict(stride=(3, 2, 1), padding=((1, 2), (0, 1), (2, 0)), dilation=(2, 1, 3), groups=5)
    solid = ConvShape.of((2, 6, 4, 3, 5), (10, 3, 2, 2, 1), **keys)
    for shape, orders in ((HARD_SHAPES["depthwise"], ORDERS), (twice, ORDERS[:1]), (solid, ORDERS[:1])):
        check(operator, shape, dtype, orders=orders)
        (launch,) = build(operator, shape, operands(operator, shape, dtype))
        assert "depthwise" in launch.name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [8, 3], ids=["whole", "padded"])
def test_no_image_gives_a_filter_gradient_of_zeros(channels, dtype):
    for groups in (1, channels):
        shape = ConvShape(n=0, ih=4, iw=5, ic=channels, oc=channels, fh=3, fw=2, stride=2, padding=1, groups=groups)
        check("conv2d_weight", shape, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_error_of_random_numbers_and_the_same_bits_in_any_order(operator, dtype):
    shape = ConvShape(n=5, ih=8, iw=8, ic=16, oc=24, fh=3, fw=3, padding=1)
    results = []
    for order in ORDERS:
        first, second, out = operands(operator, shape, dtype, random=True)
        run(build(operator, shape, (first, second, out), parts=3), order)
        results.append(out)
    assert results[0].tobytes() == results[1].tobytes() == results[2].tobytes()
    wanted = brute_force(operator, shape, first, second)
    error = np.abs(results[0].astype(float) - wanted).max() / np.sqrt(np.mean(wanted**2))
    assert LARGEST_ERROR[dtype] / 30 < error < LARGEST_ERROR[dtype]


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_array_that_does_not_begin_at_16_bytes(operator):
    shape, arrays = SHAPES["stride, asymmetric padding"], []
    for array in operands(operator, SHAPES["stride, asymmetric padding"], "float16"):
        memory = np.empty(array.size + 8, np.float16)
        arrays.append(memory[1 + (-memory.ctypes.data // 2) % 8 :][: array.size].reshape(array.shape))
        arrays[-1][...] = array
    run(build(operator, shape, tuple(arrays)))
    np.testing.assert_array_equal(arrays[2], brute_force(operator, shape, *arrays[:2]).astype(np.float16))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_rung_as_it_is_called(operator, dtype):
    shape = HARD_SHAPES["odd sizes, stride does not divide"]
    first, second, out = operands(operator, shape, dtype)
    for item in kernels.launches(operator, shape, (first, second, out), rung="tensor"):
        result = check_kernel(item.kernel, item.grid, item.block, *item.args)
        assert not result.faults, str(result)
    wanted = brute_force(operator, shape, first, second).astype(dtype)
    np.testing.assert_array_equal(out.astype(float), wanted.astype(float))


WITHOUT = {  # what is deleted from the PTX, and what the emulator says
    "barrier": (r"bar\.sync\s+0;", "race"),
    "wait": (r"cp\.async\.wait_group\s+1;", "race"),
    "end of a chunk": (r"cp\.async\.commit_group;", "race"),
}


@pytest.mark.parametrize("what", WITHOUT)
def test_without_a_barrier_or_a_wait_a_fault_is_found(what, monkeypatch):
    pattern, kind = WITHOUT[what]
    shape = ConvShape(n=3, ih=7, iw=6, ic=64, oc=40, fh=3, fw=3, padding=1)
    plain = hooks.ptx_of

    def ptx_of(*arguments, **options):
        text, count = re.subn(pattern, "", plain(*arguments, **options))
        assert count
        return text

    monkeypatch.setattr(hooks, "ptx_of", ptx_of)
    (item,) = build("conv2d", shape, operands("conv2d", shape, "float16"))
    result = check_kernel(item.kernel, item.grid, item.block, *item.args)
    assert kind in {fault.kind for fault in result.faults}
