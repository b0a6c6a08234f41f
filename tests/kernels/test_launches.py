"""A launch is data: built and checked with NumPy arrays, no GPU and no simulator."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numba import typeof
from reference import HARD_SHAPES, integers

from cks_numba import kernels, plan_table
from cks_numba.geometry import OPERATORS, ConvShape, plan
from cks_numba.kernels import tensor, tiled
from cks_numba.kernels.grouped import launch_groups
from cks_numba.kernels.tiled.sizes import BK

SHAPE = HARD_SHAPES["odd sizes, stride does not divide"]


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("rung", kernels.RUNGS)
def test_launches_are_printable_and_typed(operator, rung):
    built = kernels.launches(operator, SHAPE, integers(operator, SHAPE, "float32"), rung=rung)
    assert operator in str(built[-1]) or "sum of" in str(built[-1])
    for launch in built:
        assert all(typeof(arg) is not None for arg in launch.args)
        assert np.prod(launch.block) <= 1024 and min(launch.grid) >= 1


def test_wrong_arguments_of_launches():
    x, w, y = integers("conv2d", SHAPE, "float32")
    with pytest.raises(ValueError, match="operator must be one of .*'conv3d'"):
        kernels.launches("conv3d", SHAPE, (x, w, y))
    with pytest.raises(ValueError, match="rung must be one of .*'fast'"):
        kernels.launches("conv2d", SHAPE, (x, w, y), rung="fast")
    with pytest.raises(ValueError, match=r"w must have shape \(5, 3, 2, 3\), got"):
        kernels.launches("conv2d", SHAPE, (x, w[:4], y))
    with pytest.raises(TypeError, match="w must be float32 or float64 like the other arrays, got float64"):
        kernels.launches("conv2d", SHAPE, (x, w.astype(np.float64), y))
    with pytest.raises(ValueError, match="out must be C-contiguous"):
        kernels.launches("conv2d", SHAPE, (x, w, np.asfortranarray(y)))
    with pytest.raises(ValueError, match="arrays must be three arrays"):
        kernels.launches("conv2d", SHAPE, (x, w))


def test_each_rung_says_which_dtypes_it_takes():
    x, w, y = integers("conv2d", SHAPE, "float64")
    with pytest.raises(TypeError, match="x must be float32 or float16 or bfloat16 like the other arrays, got float64"):
        kernels.launches("conv2d", SHAPE, (x, w, y), rung="tensor")
    halves = tuple(array.astype(np.float16) for array in (x, w, y))
    with pytest.raises(TypeError, match="x must be float32 or float64 like the other arrays, got float16"):
        kernels.launches("conv2d", SHAPE, halves)
    with pytest.raises(TypeError, match="w must be float32 or float16 or bfloat16 like the other arrays, got float32"):
        kernels.launches("conv2d", SHAPE, (halves[0], w.astype(np.float32), halves[2]), rung="tensor")


@pytest.mark.parametrize("operator", OPERATORS)
def test_tensor_goes_to_tiled_where_the_model_finds_it_faster(operator):
    large = ConvShape(n=128, ih=16, iw=16, ic=128, oc=128, fh=3, fw=3, padding=1)
    small = ConvShape(n=1, ih=5, iw=5, ic=3, oc=5, fh=3, fw=3, padding=1)
    odd = ConvShape(n=128, ih=16, iw=16, ic=130, oc=130, fh=3, fw=3, padding=1)
    names = []
    for shape in (large, odd, small):
        arrays = tuple(np.empty(size, np.float32) for _, size in shape.arrays(operator))
        names.append([launch.name for launch in kernels.launches(operator, shape, arrays, rung="tensor")])
    assert names[0][0].startswith(f"{operator} tensor tf32 128x")
    assert any("tensor" in name for name in names[1]) and names[1][0].startswith("pad ")
    assert all("tiled" in name or "sum" in name for name in names[2])
    halves = tuple(np.empty(size, np.float16) for _, size in small.arrays(operator))
    assert any("tensor float16" in item.name for item in kernels.launches(operator, small, halves, rung="tensor"))


@pytest.mark.parametrize("operator", OPERATORS)
def test_tensor_takes_memory_once_and_cuts_it(operator):
    """Workspaces are kept by shape and dtype: two pieces of the same size must not be the same memory."""
    shape, asked = ConvShape(n=2, ih=5, iw=5, ic=3, oc=3, fh=3, fw=3, padding=1), []

    def scratch(like, size):
        asked.append(np.zeros(size, like.dtype))
        return asked[-1]

    arrays = tuple(np.empty(size, np.float16) for _, size in shape.arrays(operator))
    parts = 2 if operator == "conv2d_weight" else 1
    choice = tiled.Choice(operator, shape, tensor.TILES[-1], parts, 132, tensor.FORMATS["float16"].unit)
    built = tensor.launches(operator, shape, arrays, choice, scratch=scratch)
    handed = [launch.args[1] for launch in built if launch.name.startswith("pad")]
    handed += [launch.args[0] for launch in built if launch.name.startswith("sum")]
    assert len(asked) == 1 and len(handed) == 1 + parts
    assert all(np.shares_memory(asked[0], piece) and piece.ctypes.data % 16 == 0 for piece in handed)
    assert not any(np.shares_memory(a, b) for k, a in enumerate(handed) for b in handed[:k])


def test_empty_batch_needs_no_launch_but_a_gradient_of_zeros():
    shape = ConvShape(n=0, ih=4, iw=4, ic=2, oc=3, fh=3, fw=3)
    for operator, expected in zip(OPERATORS, (0, 0, 1), strict=True):
        assert len(kernels.launches(operator, shape, integers(operator, shape, "float32"))) == expected


VOLUME = ConvShape.of((2, 7, 4, 5, 3), (4, 3, 2, 3, 3), stride=(2, 1, 3), padding=(1, 0, 2), dilation=(1, 2, 1))


@pytest.mark.parametrize("shape", [SHAPE, VOLUME], ids=["two axes", "three axes"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_group_table_says_what_the_plan_says(operator, shape):
    groups = plan(operator, shape)
    table = plan_table.group_table(groups, [2] * len(groups.groups))
    assert list(table[:, plan_table.FIRST_BLOCK]) == list(range(0, 2 * len(groups.groups) + 1, 2))
    axes = (plan_table.ROWS, plan_table.COLUMNS, plan_table.DEPTH)[: len(shape.axes)]
    assert table.shape[1] == plan_table.TABLE_WIDTH[len(shape.axes)] == axes[-1] + 9
    for line, group in zip(table, groups.groups, strict=False):
        for axis, run in zip(axes, (group.h, group.w, group[0]), strict=False):
            assert list(line[axis : axis + 9]) == plan_table.axis_columns(operator, run)
            assert (line[axis + plan_table.COUNT], line[axis + plan_table.TERMS]) == (run.positions, run.terms)


def test_small_problems_get_small_tiles_and_long_sums_are_split():
    small = ConvShape(n=1, ih=8, iw=8, ic=16, oc=16, fh=3, fw=3, padding=1)
    large = ConvShape(n=128, ih=32, iw=32, ic=128, oc=128, fh=3, fw=3, padding=1)
    for operator in OPERATORS:
        assert tiled.choose(operator, small).tile == tiled.TILES[-1]
        assert tiled.choose(operator, large).tile == tiled.TILES[0]
    assert tiled.choose("conv2d_weight", small).parts == 1 and tiled.choose("conv2d_weight", large).parts > 1


@pytest.mark.parametrize("operator", OPERATORS)
def test_rows_too_many_for_indices_of_32_bits_are_refused_before_the_arrays_are_touched(operator):
    shape = ConvShape(n=2**11, ih=1024, iw=1024, ic=1, oc=1, fh=3, fw=3, padding=1)
    with pytest.raises(ValueError, match="too many positions or terms"):
        launch_groups(operator, "grouped", None, shape, (None, None, None), (8, 8))


@pytest.mark.parametrize("operator", OPERATORS)
def test_arrays_too_large_for_indices_of_32_bits_are_refused_before_anything_is_allocated(operator):
    sizes = dict(ih=1024, iw=1024, ic=64, oc=64, fh=3, fw=3, padding=1)
    for vectors in (True, False):
        tiled._prepared(operator, ConvShape(n=32, **sizes), 4, vectors, None, None)  # 2**31 elements
    tiled._prepared(operator, ConvShape(n=128, **sizes), 4, True, None, None)
    with pytest.raises(ValueError, match="x is too large for the CUDA kernels: .*; split the batch"):
        tiled._prepared(operator, ConvShape(n=128, **sizes), 4, False, None, None)
    sizes.update(ic=1, oc=1)
    with pytest.raises(ValueError, match="too many positions or terms"):
        tiled._prepared(operator, ConvShape(n=2**11, **sizes), 4, False, None, None)


def test_a_choice_says_what_it_does():
    shape = ConvShape(n=32, ih=8, iw=8, ic=64, oc=64, fh=3, fw=3, stride=2, padding=1)
    for operator in OPERATORS:
        choice = tiled.choose(operator, shape)
        first, second, out = integers(operator, shape, "float32")
        built = tiled.launches(operator, shape, (first, second, out), choice)
        assert len(built) == (2 if choice.parts > 1 else 1) and built[0].grid == choice.grid
        assert 0 < choice.useful <= 1 and choice.done >= plan(operator, shape).useful
        assert f"grid {choice.grid}" in str(choice) and str(choice).count("positions") == len(choice.plan.groups)


@pytest.mark.parametrize("operator", OPERATORS)
def test_work_is_done_by_the_warps_that_have_a_result(operator):
    """The work is counted warp by warp: a warp works if its first row and its first column exist."""
    for shape, tile in product(HARD_SHAPES.values(), tiled.TILES):
        choice = tiled.Choice(operator, shape, tile, 1, 132)
        ic, oc = choice.channels
        high, wide = tile.unit
        done = 0
        for group, chunks in zip(choice.plan.groups, choice.chunks, strict=True):
            positions = shape.n * group.positions
            rows, columns = (oc, ic * group.positions) if operator == "conv2d_weight" else (positions, 0)
            columns = columns or (oc if operator == "conv2d" else ic)
            warps = product(range(0, rows, high), range(0, columns, wide))
            done += sum(high * wide * chunks * BK for _ in warps)
        assert choice.done == done * shape.groups <= choice.terms * tile.bm * tile.bn


@pytest.mark.parametrize("operator", OPERATORS)
def test_channels_just_above_a_tile_are_no_cliff(operator):
    """The shares of conv2d are those in docs/kernels.md; the speeds are the model's."""

    def chosen(channels):
        return tiled.choose(operator, ConvShape(n=128, ih=16, iw=16, ic=channels, oc=channels, fh=3, fw=3, padding=1))

    def speed(channels):
        return chosen(channels).plan.useful / chosen(channels).cycles

    if operator == "conv2d":
        assert [f"{chosen(channels).useful:.0%}" for channels in (128, 129, 160, 192)] == [
            "100%",
            "80%",
            "100%",
            "100%",
        ]
    for tile in (64, 128, 256):
        assert min(speed(tile + 1), speed(tile + 2), speed(tile + 4)) > speed(tile) / 2
        assert speed(tile - 1) > 0.9 * speed(tile)


@pytest.mark.parametrize("operator", OPERATORS)
def test_no_choice_is_much_worse_than_another_by_its_own_model(operator):
    for sms in (16, 132):
        for shape in (*HARD_SHAPES.values(), ConvShape(n=512, ih=4, iw=4, ic=512, oc=512, fh=3, fw=3, padding=1)):
            best = tiled.choose(operator, shape, sms)
            others = [tiled.Choice(operator, shape, tile, 1, sms).cycles for tile in tiled.TILES]
            assert best.cycles <= min(others) and best.sms == sms
    assert tiled.choose(operator, SHAPE, itemsize=8).tile == tiled.TILES[-1]
