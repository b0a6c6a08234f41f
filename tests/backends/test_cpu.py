"""The compiled kernels of the cpu backend against brute force: every path, any view, threads, forks and other CPUs."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import random
import signal
import threading
import time
import tracemalloc
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import cycle, product
from math import prod
from types import SimpleNamespace

import numba
import numpy as np
import pytest
from numba.core.errors import NumbaError
from reference import HARD_SHAPES, brute_force, in_a_process, integers, random_shape

import cks_numba as cks
from cks_numba.backends import cpu
from cks_numba.backends.cpu import (
    bounds,
    compiled,
    depthwise,
    few,
    gather,
    planes,
    registers,
    tall,
    threads,
    unpacked,
    weight,
)
from cks_numba.bench import cases
from cks_numba.emulator import machine
from cks_numba.geometry import OPERATORS, ConvShape, plan

DTYPES = ("float32", "float64")
OUTSIDE, GUARD = -12345.0, 4096  # guard value that no result has; number of them before and after
NHWC, NCHW = (0, 1, 2, 3), (0, 3, 1, 2)  # order of the axes in memory, slowest first
LAYOUTS = {"NHWC": NHWC, "NCHW": NCHW}
ORDERS = (NHWC, NCHW, (3, 1, 2, 0), (0, 3, 2, 1), (2, 3, 0, 1))

# Channel counts above one panel that no tile divides, few channels, channel groups, few and many positions.
LARGE_SHAPES = {
    "37 to 70, stride 2": ConvShape(n=2, ih=8, iw=7, ic=37, oc=70, fh=3, fw=3, stride=2, padding=1),
    "129 to 37, 1x1 with stride": ConvShape(n=3, ih=5, iw=6, ic=129, oc=37, fh=1, fw=1, stride=2),
    "70 to 129, 1x1, one image": ConvShape(n=1, ih=7, iw=9, ic=70, oc=129, fh=1, fw=1),
    "3 to 70, one image": ConvShape(n=1, ih=13, iw=12, ic=3, oc=70, fh=3, fw=3, padding=((1, 0), (0, 2))),
    "1 to 37, stride 2": ConvShape(n=2, ih=9, iw=8, ic=1, oc=37, fh=4, fw=3, stride=2, padding=1),
    "32 to 3": ConvShape(n=2, ih=6, iw=5, ic=32, oc=3, fh=3, fw=3, stride=(1, 2), padding=1),
    "4 to 32": ConvShape(n=2, ih=7, iw=6, ic=4, oc=32, fh=3, fw=2, stride=(2, 1), padding=1),
    "70 to 3": ConvShape(n=2, ih=6, iw=5, ic=70, oc=3, fh=3, fw=3, padding=1),
    "dilation": ConvShape(n=2, ih=9, iw=11, ic=19, oc=40, fh=3, fw=2, stride=(3, 2), padding=2, dilation=(2, 3)),
    "depthwise": ConvShape(n=2, ih=7, iw=6, ic=23, oc=23, fh=3, fw=3, padding=1, groups=23),
    "depthwise, 40 channels": ConvShape(n=3, ih=9, iw=10, ic=40, oc=40, fh=3, fw=3, padding=1, groups=40),
    "depthwise, 100 channels, stride 2": ConvShape(
        n=2, ih=12, iw=11, ic=100, oc=100, fh=5, fw=4, stride=2, padding=2, groups=100
    ),
    "depthwise, filter larger than the map": ConvShape(n=9, ih=4, iw=5, ic=33, oc=33, fh=7, fw=7, padding=3, groups=33),
    "depthwise, dilation": ConvShape(
        n=1, ih=9, iw=14, ic=17, oc=17, fh=3, fw=3, stride=(1, 2), padding=2, dilation=(2, 3), groups=17
    ),
    "depthwise, dilation and stride 2": ConvShape(
        n=2, ih=5, iw=30, ic=64, oc=64, fh=2, fw=7, stride=(3, 2), padding=3, dilation=(1, 2), groups=64
    ),
    "depthwise, three each": ConvShape(n=1, ih=7, iw=6, ic=5, oc=15, fh=3, fw=3, stride=2, padding=1, groups=5),
    "20 groups of 4": ConvShape(n=2, ih=9, iw=10, ic=80, oc=80, fh=3, fw=3, padding=1, groups=20),
    "3 groups of 16, stride 2": ConvShape(n=1, ih=12, iw=11, ic=48, oc=48, fh=5, fw=3, stride=2, padding=2, groups=3),
    "9 groups of 3 to 5": ConvShape(n=9, ih=4, iw=5, ic=27, oc=45, fh=3, fw=3, padding=1, groups=9),
    "20 channels, two each": ConvShape(n=2, ih=7, iw=6, ic=20, oc=40, fh=3, fw=3, padding=1, dilation=2, groups=20),
    "5 groups of 8 to 1": ConvShape(n=2, ih=7, iw=6, ic=40, oc=5, fh=3, fw=2, stride=(1, 2), padding=1, groups=5),
    "two channel groups of 37 to 18": ConvShape(n=2, ih=5, iw=5, ic=74, oc=36, fh=3, fw=3, padding=1, groups=2),
    "three channel groups of 64 to 1": ConvShape(n=2, ih=4, iw=5, ic=192, oc=3, fh=3, fw=3, padding=1, groups=3),
    "1x1 map": ConvShape(n=9, ih=1, iw=1, ic=129, oc=70, fh=3, fw=3, padding=1),
    "2x2 map": ConvShape(n=5, ih=2, iw=2, ic=37, oc=129, fh=3, fw=3, padding=1),
    "many small images": ConvShape(n=50, ih=3, iw=4, ic=5, oc=19, fh=2, fw=2),
    "rows longer than a chunk": ConvShape(n=2, ih=4, iw=450, ic=2, oc=9, fh=3, fw=3, padding=1),
    "high map, padding beyond the filter": ConvShape(n=1, ih=90, iw=8, ic=7, oc=9, fh=3, fw=3, padding=5),
}
ALL_SHAPES = *HARD_SHAPES.values(), *LARGE_SHAPES.values()
FEW_NAMES = "37 to 70, stride 2", "3 to 70, one image", "32 to 3", "depthwise, 40 channels", "20 groups of 4"
FEW_SHAPES = *HARD_SHAPES.values(), *(LARGE_SHAPES[name] for name in FEW_NAMES)


def lay_out(shape, dtype, order=NHWC, step=1):
    """Return an array of NaN, with its axes in this order in memory and this step, and the larger buffer around it."""
    size = [shape[axis] * abs(step) for axis in order]
    buffer = np.full(prod(size) + 2 * GUARD, OUTSIDE, dtype)
    array = buffer[GUARD:-GUARD].reshape(size)[(slice(None, None, step),) * len(shape)].transpose(np.argsort(order))
    array[...] = np.nan
    return array, buffer


def placed(array, order, step):
    """Return the same numbers in another layout."""
    copy, _ = lay_out(array.shape, array.dtype, order, step)
    copy[...] = array
    return copy


def operands(operator, shape, dtype="float32", seed=0):
    return integers(operator, shape, dtype, seed)[:2]


@cache
def truth(operator, shape):
    return brute_force(operator, shape, *operands(operator, shape))


def check_arrays(operator, shape, first, second, wanted, order=NHWC, step=1):
    """Check that `out` has exactly the right numbers, and that nothing outside of it and no input has changed."""
    out, buffer = lay_out(wanted.shape, first.dtype, order, step)
    before = first.copy(), second.copy()
    cpu.run(operator, shape, first, second, out)
    np.testing.assert_array_equal(out, wanted, err_msg=f"{operator} {shape} {first.dtype}")
    np.testing.assert_array_equal(first, before[0])
    np.testing.assert_array_equal(second, before[1])
    out[...] = OUTSIDE
    assert (buffer == OUTSIDE).all(), f"{operator} {shape} wrote outside of out"


def check(operator, shape, layouts=((NHWC, 1),) * 3, dtypes=DTYPES):
    """Check an operator on integers; each of the three layouts is an order of axes and a step."""
    for dtype in dtypes:
        pair = [placed(a, *layout) for a, layout in zip(operands(operator, shape, dtype), layouts[:2], strict=True)]
        check_arrays(operator, shape, *pair, truth(operator, shape), *layouts[2])


def orders_of(shape):
    """Orders of the axes of a layer's arrays in memory: channels last, channels first, and odd ones."""
    spatial = range(1, len(shape.axes) + 1)
    channel = len(shape.axes) + 1
    return (0, *spatial, channel), (0, channel, *spatial), (channel, *spatial, 0), (0, channel, *reversed(spatial))


def check_all(shapes, layout=(NHWC, 1)):
    for shape, operator in product(shapes, OPERATORS):
        check(operator, shape, (layout,) * 3)


# --- every path ----------------------------------------------------------------------------------
SIZES = (
    (gather, "PANELS_BYTES"),
    (weight, "CHUNK_TERMS"),
    (weight, "RESULT_BYTES"),
    (few, "CHUNK_TERMS"),
    (few, "RESULT_BYTES"),
    (gather, "COPY_BYTES"),
    (depthwise, "CHUNK_BYTES"),
    (depthwise, "POSITIONS"),
    (unpacked, "CHUNK_BYTES"),
    (unpacked, "SLOWER"),
    (planes, "TASK_BYTES"),
    (tall, "TASK_TILES"),
)
SMALL = {"as they are": (), "small": (9000, 20, 5000, 20, 5000, 3000, 30_000, 20, 1, 0, 3000, 3), "least": (1,) * 12}
WAYS, OF_EACH = ("along", "across"), ("CHUNK_BYTES", "SLOWER")  # kernels of `unpacked`, and sizes that each has


@pytest.fixture(autouse=True)
def every_call_is_found_anew(monkeypatch):
    """No call is repeated, because these tests change what a call does."""
    monkeypatch.setattr(cpu, "NOTES_CALLS", False)


@pytest.fixture(params=SMALL)
def sizes(request, monkeypatch):
    """Set the sizes of chunks, panels and blocks: small ones cut every sum and task into many. Two sets use threads."""
    if request.param != "least":
        monkeypatch.setattr(compiled, "SERIAL_BELOW", 0)
    for (module, name), value in zip(SIZES, SMALL[request.param], strict=False):
        each = module is unpacked and name in OF_EACH
        monkeypatch.setattr(module, name, dict.fromkeys(WAYS, value) if each else value)
    forget_sizes()
    yield request.param
    forget_sizes()


def forget_sizes():
    for module in (gather, weight, depthwise, unpacked, planes, tall):
        module.sizes_of.cache_clear()
    unpacked.best_way.cache_clear()


@pytest.mark.parametrize("operator", OPERATORS)
def test_random_shapes(operator):
    for seed in range(60):
        check(operator, random_shape(random.Random(seed)))
    for seed in range(20):
        check(operator, random_shape(random.Random(seed), size=7, channels=40))


@pytest.mark.parametrize("operator", OPERATORS)
def test_hard_and_large_shapes(operator, sizes):
    for shape, order in product(ALL_SHAPES, (NHWC, NCHW)):
        check(operator, shape, ((order, 1),) * 3, dtypes=("float32",) if order == NHWC else ("float64",))


# --- one axis and three --------------------------------------------------------------------------
def layer(x, w, **keys):
    """Return the layer of an input and a filter of these shapes."""
    return ConvShape.of(x, w, **keys)


OTHER_AXES = {
    "37 to 70, stride 2": layer((2, 3, 6, 5, 37), (70, 3, 3, 3, 37), stride=2, padding=1),
    "4x4x4 filter, stride 2": layer((2, 4, 4, 4, 40), (70, 4, 4, 4, 40), stride=2, padding=1),
    "129 to 37, one tap with stride": layer((2, 5, 4, 6, 129), (37, 1, 1, 1, 129), stride=(1, 2, 3)),
    "3 to 70, one image": layer((1, 7, 9, 8, 3), (70, 3, 3, 3, 3), padding=((1, 0), (0, 2), (1, 1))),
    "3 to 40, two images": layer((2, 9, 7, 8, 3), (40, 3, 3, 3, 3), padding=1),
    "32 to 3": layer((2, 4, 6, 5, 32), (3, 3, 3, 3, 32), stride=(2, 1, 2), padding=1),
    "stride 3, dilation 2": layer((1, 9, 7, 11, 19), (40, 3, 2, 2, 19), stride=3, padding=2, dilation=(2, 3, 1)),
    "1x1x1 map": layer((9, 1, 1, 1, 70), (33, 3, 3, 3, 70), padding=1),
    "large map": layer((1, 12, 24, 24, 5), (9, 3, 3, 3, 5), padding=1),
    "two channel groups": layer((2, 4, 5, 5, 74), (36, 3, 3, 3, 37), padding=1, groups=2),
    "depthwise volume": layer((3, 5, 6, 9, 40), (40, 3, 3, 3, 1), padding=1, groups=40),
    "depthwise volume, stride 2": layer((1, 7, 8, 12, 17), (17, 3, 2, 5, 1), stride=2, padding=2, groups=17),
    "signal": layer((2, 300, 37), (70, 9, 37), stride=2, padding=4),
    "one signal of one channel": layer((1, 400, 1), (40, 41, 1), stride=4, padding=20),
    "signals to one channel": layer((2, 200, 32), (1, 7, 32), padding=3),
    "causal, dilation 64": layer((1, 300, 24), (24, 2, 24), padding=((64, 0),), dilation=64),
    "depthwise signal": layer((2, 200, 40), (40, 7, 1), padding=3, groups=40),
}
OTHER_AXES["volume, groups of 4"] = layer((2, 5, 6, 9, 40), (40, 3, 3, 3, 4), stride=(1, 2, 1), padding=1, groups=10)
OTHER_AXES["signal, groups of 2 to 6"] = layer((2, 100, 12), (36, 7, 2), padding=6, dilation=2, groups=6)
FEW_OTHER_NAMES = "37 to 70, stride 2", "3 to 40, two images", "signal", "depthwise volume"
LONG = {
    "signal": layer((1, 9000, 37), (40, 9, 37), stride=2, padding=4),
    "one channel": layer((2, 9000, 1), (40, 41, 1), stride=4, padding=20),
    "causal, dilation 64": layer((1, 9000, 24), (24, 2, 24), padding=((64, 0),), dilation=64),
    "depthwise": layer((1, 40_000, 3), (3, 5, 1), stride=2, padding=2, groups=3),
}


@cache
def by_plain(operator, shape):
    """The result of the plain version: brute force would take much memory for these layers."""
    wanted = np.empty(shape.arrays(operator)[2][1])
    cpu.plain.run(operator, shape, *operands(operator, shape, "float64"), wanted)
    return wanted


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", OTHER_AXES)
def test_hard_layers_of_one_axis_and_three(name, operator, sizes):
    shape = OTHER_AXES[name]
    for order, dtype in zip(orders_of(shape)[:2], DTYPES, strict=True):
        pair = [placed(array, order, 1) for array in operands(operator, shape, dtype)]
        check_arrays(operator, shape, *pair, by_plain(operator, shape), order)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", LONG)
def test_long_signals_are_done_in_pieces(name, operator):
    """The sizes of the pieces are the real ones."""
    shape, pair = LONG[name], operands(operator, LONG[name])
    for order in orders_of(shape)[:2]:
        check_arrays(operator, shape, *(placed(array, order, 1) for array in pair), by_plain(operator, shape), order)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("axes", [1, 3])
def test_random_layers_of_one_axis_and_three(axes, operator, sizes):
    """300 shapes for each number of axes, a third of them with each set of sizes; arrays are views of any strides."""
    start = 100 * list(SMALL).index(sizes)
    for seed in range(start, start + 100):
        rng = random.Random(seed)
        size = rng.choice((9, 60)) if axes == 1 else rng.choice((5, 9))
        shape = random_shape(rng, size=size, channels=rng.choice((5, 5, 30)), axes=axes)
        layouts = [(rng.choice(orders_of(shape)), rng.choice((1, 1, -1, 2, -2))) for _ in range(3)]
        check(operator, shape, layouts, dtypes=(DTYPES[seed % 2],))


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", FEW_OTHER_NAMES)
def test_a_layer_of_one_axis_or_three_is_compiled(name, operator, monkeypatch):
    shape = OTHER_AXES[name]
    wanted = by_plain(operator, shape)
    monkeypatch.setattr(cpu.plain, "run", None)
    check_arrays(operator, shape, *operands(operator, shape), wanted, orders_of(shape)[0])


# --- the arguments of a kernel -------------------------------------------------------------------
RECORDS = (
    *(gather.GatherSizes, gather.CopySizes, gather.GatherRow, weight.WeightSizes, weight.TapRow, few.FewSizes),
    *(depthwise.DepthwiseSizes, depthwise.BandRow, unpacked.UnpackedSizes, compiled.GroupRow),
    *(planes.PlanesSizes, planes.Band, tall.TallSizes, tall.TallRow),
)


def counted(kind, numbers):
    """Return a named tuple of the class, with numbers from the iterator in order."""
    if kind is int:
        return next(numbers)
    parts = [counted(part, numbers) for part in compiled._fields_of(kind).values()]
    return kind(*parts) if hasattr(kind, "_fields") else tuple(parts)


@pytest.mark.parametrize("kind", RECORDS)
def test_compiled_code_reads_each_field_by_its_name(kind):
    """Compiled code reads the second of two records as the named tuple that Python wrote."""
    count = compiled.count_of(kind)
    first, second = (counted(kind, iter(range(k * count, (k + 1) * count))) for k in (0, 1))
    numbers = np.array(compiled.numbers_of(first) + compiled.numbers_of(second), np.int64)
    assert numbers.tolist() == list(range(2 * count))
    read = numba.njit(lambda address: compiled.record(address, 1, kind))
    with bounds.inside_of("read", [bounds.region("numbers", numbers)]):
        assert read(numbers.ctypes.data) == second


@pytest.mark.parametrize(("threads", "taken"), [((0,), [0, 1, 2]), ((1,), [2, 1, 0]), ((0, 1, 2), [0, 4, 1, 2, 3])])
def test_threads_take_tasks_from_both_ends(threads, taken):
    arguments = np.zeros(2, np.int64)
    take = numba.njit(lambda address, thread, tasks: compiled.next_task(address, thread, tasks))
    with bounds.inside_of("take", [bounds.region("arguments", arguments)]):
        found = [take(arguments.ctypes.data, thread, len(taken)) for thread, _ in zip(cycle(threads), taken)]
        assert found == taken
        assert [take(arguments.ctypes.data, thread, len(taken)) for thread in (0, 1)] == [-1, -1]


STEPS = compiled.Steps(7, 8, 9, 10, 11)
RIGHT = {"call": compiled.NO_CALL, "images": 1, "depths": 2, "rows": 3, "columns": 4, "columns_together": 5}
RIGHT |= {"channels": 6, "source": STEPS}


def test_arguments_begin_with_what_a_call_fills_in():
    arguments = compiled.Sizes.of(gather.CopySizes(**RIGHT)).arguments
    assert arguments.tolist() == [0] * len(compiled.Call._fields) + list(range(1, 12))
    places = compiled.NEXT_TASK, compiled.NEXT_THREAD
    assert [compiled.Call._fields[k] for k in places] == ["next_task", "next_thread"]
    assert all("call" == kind._fields[0] for kind in RECORDS if kind.__name__.endswith("Sizes"))


@pytest.mark.parametrize("operator", ["conv2d", "conv2d_input"])
def test_a_row_of_the_table_reaches_every_element_of_its_group(operator):
    """The bytes of all positions and terms are those of the triples of the plan."""
    strides = {"i": (1, 100, 10_000), "f": (7, 1300, 9), "o": (5000, 3, -77)}
    for seed in range(20):
        shape = random_shape(random.Random(seed), axes=3)
        image, other = ("o", "i") if operator == "conv2d_input" else ("i", "o")
        for group in (*plan(operator, shape).groups, *plan("conv2d_weight", shape).groups):
            row = compiled.group_row(operator, group, strides[image], strides["f"], strides[other])
            assert row.positions == tuple(run.positions for run in group) and prod(row.terms) == group.terms
            for k, t in product(product(*map(range, row.positions)), product(*map(range, row.terms))):
                for index, access in (image, row.source), ("f", row.filters), (other, row.out):
                    places = [getattr(run, index).at(*at) for run, *at in zip(group, k, t, strict=True)]
                    got = access.first + np.dot(access.position, k) + np.dot(access.term, t)
                    assert got == np.dot(places, strides[index])


def test_a_field_that_is_missing_doubled_or_unknown_is_an_error():
    gather.CopySizes(**RIGHT)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'rows'"):
        gather.CopySizes(**{name: value for name, value in RIGHT.items() if name != "rows"})
    with pytest.raises(TypeError, match="multiple values for argument 'call'"):
        gather.CopySizes(1, **RIGHT)
    with pytest.raises(TypeError, match="unexpected keyword argument 'lines'"):
        gather.CopySizes(**RIGHT, lines=2)


@pytest.mark.parametrize(
    ("field", "value", "error", "message"),
    [
        ("source", (5, 6, 7), ValueError, r"source must be 5 numbers, got \(5, 6, 7\)"),
        ("source", (5, 6, 7, 8, 9, 10), ValueError, "source must be 5 numbers"),
        ("source", (5, 6, 7, 8, 9.5), TypeError, "float"),
        ("rows", 2.0, TypeError, "float"),
        ("rows", (2, 3), TypeError, "tuple"),
    ],
)
def test_a_field_of_the_wrong_length_or_type_is_an_error(field, value, error, message):
    with pytest.raises(error, match=message):
        compiled.Sizes.of(gather.CopySizes(**RIGHT | {field: value}))


# --- views ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("operator", OPERATORS)
def test_views_of_any_strides(operator, sizes):
    """Each array has its own order of axes, runs backwards, or is part of a larger array."""
    for seed in range(40):
        rng = random.Random(seed)
        shape = random_shape(rng, size=7, channels=rng.choice((5, 30)))
        layouts = [(rng.choice(ORDERS), rng.choice((1, 1, -1, 2, -2))) for _ in range(3)]
        check(operator, shape, layouts, dtypes=(DTYPES[seed % 2],))


@pytest.mark.parametrize("operator", OPERATORS)
def test_views_that_repeat_their_numbers(operator, sizes):
    """Broadcast inputs: steps of zero along each axis, along two, and along all."""
    for shape, axes in product(FEW_SHAPES, ((0,), (1,), (2,), (3,), (0, 3), (1, 2), (0, 1, 2, 3))):
        once = tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(4))
        pair = [np.broadcast_to(a[once], a.shape) for a in operands(operator, shape)]
        check_arrays(operator, shape, *pair, brute_force(operator, shape, *pair))


@pytest.mark.parametrize("operator", OPERATORS)
def test_one_operand_that_repeats_its_numbers(operator):
    """Along the columns, with a filter that tells its taps apart, and edges that leave some out."""
    shape = ConvShape(n=2, ih=5, iw=7, ic=40, oc=40, fh=3, fw=3, padding=1, groups=40)
    for number in range(2):
        pair = list(operands(operator, shape))
        pair[number] = np.broadcast_to(pair[number][:, :, :1], pair[number].shape)
        check_arrays(operator, shape, *pair, brute_force(operator, shape, *pair))


def call(operator, shape, first, second, **keys):
    """Call the public operator for a shape, with arrays in the layout."""
    keys |= {"stride": shape.stride, "padding": shape.padding, "dilation": shape.dilation, "groups": shape.groups}
    if operator == "conv2d":
        return cks.conv2d(first, second, backend="cpu", **keys)
    own = LAYOUTS[keys["layout"]]
    if operator == "conv2d_input":
        return cks.conv2d_input([shape.x_shape[k] for k in own], first, second, backend="cpu", **keys)
    return cks.conv2d_weight(first, [shape.w_shape[k] for k in own], second, backend="cpu", **keys)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_public_operators(operator, layout, dtype):
    own = LAYOUTS[layout]
    for seed, order in product(range(15), (NHWC, NCHW)):
        shape = random_shape(random.Random(seed), channels=9)
        pair = operands(operator, shape, dtype)
        wanted = truth(operator, shape).transpose(own)
        pair = [placed(a, order, 1).transpose(own) for a in pair]
        got = call(operator, shape, *pair, layout=layout)
        assert got.dtype == dtype and got.flags.c_contiguous
        np.testing.assert_array_equal(got, wanted)
        out = np.full(wanted.shape, np.nan, dtype)
        assert call(operator, shape, *pair, layout=layout, out=out) is out
        np.testing.assert_array_equal(out, wanted)


def test_sum_in_parts(monkeypatch):
    """A long sum for few results is cut into parts, which are added up in order."""
    sizes = (
        (30, 32, 1, "conv2d_weight"),
        (60, 64, 2, "conv2d_weight"),
        (80, 4, 2, "conv2d"),
        (3, 75, 1, "conv2d_input"),
    )
    monkeypatch.setattr(weight, "CHUNK_TERMS", 10)
    weight.sizes_of.cache_clear()
    for oc, ic, groups, way in sizes:
        shape = ConvShape(n=5, ih=5, iw=4, ic=ic, oc=oc, fh=3, fw=2, padding=1, groups=groups)
        x, dy, dw = (np.empty(size, np.float32).strides for size in (shape.x_shape, shape.y_shape, shape.w_shape))
        found, sizes_found = weight.sizes_of(shape, x, dy, dw, 4, 2)
        assert (found, sizes_found.named.parts) == (way, 4)
        check("conv2d_weight", shape)
    weight.sizes_of.cache_clear()


@pytest.mark.parametrize("dtype", DTYPES)
def test_tiles_with_rows_of_one_vector(dtype, monkeypatch):
    """Channels that fit into one vector would leave the other one of a tile empty: it has more rows instead."""
    itemsize = np.dtype(dtype).itemsize
    width = registers.VECTOR_BYTES // itemsize
    groups = plan("conv2d", layer((1, 9, 9, 3), (width, 3, 3, 3), padding=1)).groups
    assert few.tile_of(groups, 3, width, itemsize) == (few.MOST_ROWS, width)
    assert few.tile_of(groups, 3, 2 * width, itemsize) == (registers.TILE_ROWS, 2 * width)
    monkeypatch.setattr(few, "tile_of", lambda *_: (few.MOST_ROWS, width))
    for way, lanes, rows in product(("conv2d", "conv2d_input"), (width, width - 1, width // 2, 3 * width + 1), (1, 3)):
        monkeypatch.setattr(weight, "best_way", lambda *_, way=way: way)
        oc, ic = (lanes, rows) if way == "conv2d" else (rows, lanes)
        for k, size in enumerate(((9, 8), (7,), (4, 3, 5))):
            shape = layer((2, *size, 2 * ic), (2 * oc, *[5] * len(size), ic), stride=1 + k % 2, padding=2, groups=2)
            last, first, _, odd = orders_of(shape)
            weight.sizes_of.cache_clear()
            check("conv2d_weight", shape, ((last, 1),) * 3, [dtype])
            check("conv2d_weight", shape, ((first, 1), (last, -2), (odd, 1)), [dtype])
    weight.sizes_of.cache_clear()


@pytest.mark.parametrize("chunk_terms", [384, 3])
@pytest.mark.parametrize("axes", [2, 3])
def test_sums_without_parts_go_to_dw_with_their_last_chunk(axes, chunk_terms, monkeypatch):
    """One chunk needs no other memory for its sums; of three, the last one has no term for the taps of one side."""
    monkeypatch.setattr(weight, "CHUNK_TERMS", chunk_terms)
    for stride in (1, 2):
        size = (1, *[1] * (axes - 2), 2 * stride + 1, 4, 92)
        shape = layer(size, (37, *[3] * axes, 92), stride=stride, padding=1)
        operands_ = operands("conv2d_weight", shape)
        strides = (*(array.strides for array in operands_), np.empty(shape.w_shape, np.float32).strides)
        weight.sizes_of.cache_clear()
        way, sizes = weight.sizes_of(shape, *strides, 4, 2)
        named = sizes.named
        chunks = named.axis_h.outputs // named.axis_h.chunk
        assert (way, named.parts, chunks) == ("conv2d_weight", 1, 1 if chunk_terms > 3 else 3)
        assert named.result_bytes == 0 if chunks == 1 else named.result_bytes > 0
        assert named.blocks > 1 and (named.block_lanes >= named.lanes or chunks > 1)
        for order, step in product(orders_of(shape)[:2], (1, -2)):
            check_arrays("conv2d_weight", shape, *operands_, by_plain("conv2d_weight", shape), order, step)
    weight.sizes_of.cache_clear()


def results_at_each_offset(operator, shape, first, second):
    """Compute results that begin at and beside a cache line, and see that no byte beside them is written."""
    size = shape.y_shape if operator == "conv2d" else shape.x_shape
    memory = np.empty(4 * prod(size) + 128, np.uint8)
    for offset in (0, 4, 16, 32):
        memory[:] = 255
        start = -memory.ctypes.data % 64 + offset
        out = memory[start : start + 4 * prod(size)].view(np.float32).reshape(size)
        cpu.run(operator, shape, first, second, out)
        np.testing.assert_array_equal(out, truth(operator, shape))
        out[...].view(np.uint8)[...] = 255
        assert (memory == 255).all()
    return out


def test_results_past_the_caches(monkeypatch):
    """Large results at an aligned address are streamed in whole cache lines; other addresses give the same results.

    Layers of many channels have short tiles too, whose rows go to several panels.
    """
    monkeypatch.setattr(gather, "STREAM_BYTES", 1)
    gather.sizes_of.cache_clear()
    for seed in range(20):
        rng = random.Random(seed)
        sizes = ((16, 32, 48, 160), (16, 40, 64, 192), (1, 2, 3), (0, 1, ((0, 1), (2, 0))), (1, 2, 3))
        ic, oc, stride, padding, fh = (rng.choice(some) for some in sizes)
        shape = ConvShape(n=2, ih=7, iw=6, ic=ic, oc=oc, fh=fh, fw=2, stride=stride, padding=padding)
        for operator in ("conv2d", "conv2d_input"):
            first, second = operands(operator, shape)
            results_at_each_offset(operator, shape, first, second)
    gather.sizes_of.cache_clear()


# --- few result channels -------------------------------------------------------------------------
@pytest.fixture
def all_in_planes(monkeypatch):
    """Every layer goes to the kernel for few result channels."""
    monkeypatch.setattr(planes, "fits", lambda *given: True)
    monkeypatch.setattr(tall, "fits", lambda *given: False)
    monkeypatch.setattr(compiled, "SERIAL_BELOW", 0)
    forget_sizes()
    yield
    forget_sizes()


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("operator", ["conv2d", "conv2d_input"])
def test_lanes_of_positions(axes, operator, all_in_planes):
    """Any channels, steps, dilation and padding, channel groups, strided views and orders of axes, both dtypes."""
    rng = random.Random(axes)
    for k in range(60):
        shape = random_shape(rng, size={1: 150, 2: 24, 3: 8}[axes], channels=rng.choice((3, 8, 20)), axes=axes)
        layouts = [(rng.choice(orders_of(shape)), rng.choice((1, 1, -2))) for _ in range(3)]
        check(operator, shape, layouts, dtypes=(DTYPES[k % 2],))


@pytest.mark.parametrize("channels", range(1, 18))
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_lanes_of_positions_for_each_number_of_channels(channels, stride, all_in_planes):
    """Each number of source channels and phases has its own way into planes, that of result channels its tiles."""
    wide = ConvShape(n=1, ih=6, iw=150, ic=channels, oc=3, fh=2, fw=3, stride=stride, padding=1)
    back = ConvShape(n=1, ih=6, iw=150, ic=3, oc=channels, fh=2, fw=3, stride=stride, padding=1)
    for shape, order in product((wide, back), (NHWC, NCHW)):
        check("conv2d", shape, ((order, 1),) * 3)
        check("conv2d_input", shape, ((order, 1),) * 3)


def test_which_lanes_are_positions():
    """Those of few result channels on maps that are large enough, in tiles that have rows for them."""

    def fits(operator="conv2d", **sizes):
        return planes.fits(operator, ConvShape(**{**dict(n=1, ih=64, iw=64, fh=3, fw=3, padding=1), **sizes}), 4)

    assert all(fits(ic=ic, oc=oc) for ic in (3, 9) for oc in (3, 4, 12))
    assert all(fits("conv2d_input", ic=oc, oc=9, stride=2) for oc in (3, 4, 12))
    assert not any(fits(ic=64, oc=64, ih=size, iw=size) for size in (2, 4, 64))
    assert not fits(ic=64, oc=3, ih=3, iw=3)
    assert not fits(ic=64, oc=4, ih=4000, iw=40_000)  # One row is larger than the memory for a task.


# --- tall tiles ----------------------------------------------------------------------------------
@pytest.fixture
def all_tall(monkeypatch):
    """Every layer whose result has a half vector of channels or more goes to the kernel for tall tiles."""

    def fits(operator, shape, source, out, itemsize):
        return 2 * compiled.lanes_and_terms(operator, shape)[0] * itemsize >= registers.VECTOR_BYTES

    monkeypatch.setattr(tall, "fits", fits)
    monkeypatch.setattr(unpacked, "SLOWER", dict.fromkeys(WAYS, 1e9))
    monkeypatch.setattr(compiled, "SERIAL_BELOW", 0)
    forget_sizes()
    yield fits
    forget_sizes()


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("operator", ["conv2d", "conv2d_input"])
def test_tall_tiles(axes, operator, all_tall, monkeypatch):
    """Any channels, steps, dilation and padding, channel groups, strided views and orders of axes, both dtypes."""
    monkeypatch.setattr(tall, "TASK_TILES", 7)
    rng, served = random.Random(axes), 0
    for k in range(60):
        shape = random_shape(rng, size={1: 150, 2: 40, 3: 8}[axes], channels=rng.choice((16, 30, 50)), axes=axes)
        layouts = [(rng.choice(orders_of(shape)), rng.choice((1, 1, -2))) for _ in range(3)]
        served += all_tall(operator, shape, None, None, 4 + 4 * (k % 2))
        check(operator, shape, layouts, dtypes=(DTYPES[k % 2],))
    assert served >= 15


@pytest.mark.parametrize("operator", ["conv2d", "conv2d_input"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_tall_tiles_of_each_width_and_length(operator, dtype, all_tall):
    """Tiles side by side are whole, half, or overlap; lines are shorter than a tile, or its last one overlaps."""
    width = registers.VECTOR_BYTES // np.dtype(dtype).itemsize
    lengths = (1, tall.HEIGHT - 1, tall.HEIGHT, 2 * tall.HEIGHT + 3)
    for lanes, length, order in product(range(width // 2, 3 * width + 2), lengths, (NHWC, NCHW)):
        ic, oc = (3, lanes) if operator == "conv2d" else (lanes, 3)
        for ih, iw in ((2, length), (length, 2)):
            shape = ConvShape(n=1, ih=ih, iw=iw, ic=ic, oc=oc, fh=3, fw=3, padding=1)
            check(operator, shape, ((order, 1),) * 3, dtypes=(dtype,))


def test_tall_tiles_past_the_caches(all_tall, monkeypatch):
    """Rows of a tile that are whole or half cache lines are streamed, from an address that allows it."""
    monkeypatch.setattr(tall, "STREAM_BYTES", 1)
    streamed = set()
    for lanes, operator in product((8, 12, 16, 20, 24, 32, 48), ("conv2d", "conv2d_input")):
        ic, oc = (3, lanes) if operator == "conv2d" else (lanes, 3)
        shape = ConvShape(n=2, ih=20, iw=19, ic=ic, oc=oc, fh=3, fw=2, stride=(1, 2), padding=1)
        first, second = operands(operator, shape)
        out = results_at_each_offset(operator, shape, first, second)
        source = first if operator == "conv2d" else second
        sizes = tall.sizes_of(operator, shape, source.strides, (4,) * 4, out.strides, 4, 1)
        streamed |= {lanes} if sizes.named.streams else set()
    assert registers.VECTOR_BYTES // 4 in streamed and 20 not in streamed


def test_which_tiles_are_tall():
    """Those whose lanes `gather` would leave empty, on lines that are long enough."""

    def fits(operator="conv2d", order=NHWC, **sizes):
        shape = ConvShape(**{**dict(n=1, ih=64, iw=64, fh=3, fw=3, padding=1), **sizes})
        at = [lay_out(shape.arrays(operator)[k][1], np.float32, order)[0].strides for k in (operator != "conv2d", 2)]
        return tall.fits(operator, shape, *at, 4)

    vector, panel = registers.VECTOR_BYTES // 4, registers.LANE_BYTES // 4
    assert fits(ic=3, oc=vector, stride=2) and fits(ic=3, oc=vector, stride=2, order=NCHW)
    assert fits(ic=64, oc=panel + vector, fh=1, fw=1, padding=0)
    assert fits("conv2d_input", ic=panel + vector, oc=64, fh=1, fw=1, padding=0)
    assert not any(fits(ic=3, oc=oc, order=order) for oc in (1, panel, 2 * panel) for order in (NHWC, NCHW))
    assert not fits(ic=3, oc=vector + 1, order=NCHW)
    assert not fits(ic=64, oc=vector, ih=4, iw=4)
    assert not fits(ic=4000, oc=vector)  # The filters would not stay in the cache.


# --- few positions -------------------------------------------------------------------------------
def unpacked_shapes(count):
    """Yield layers whose input channels are whole vectors, with few positions and any groups, steps and padding."""
    rng = random.Random(2)
    while count:
        lanes = registers.VECTOR_BYTES // 4
        groups, ic, oc = rng.choice((1, 1, 2, 3)), lanes * rng.randint(1, 3), rng.choice((1, 2, 9, 17, 30, 45))
        sizes = dict(n=rng.randint(1, 3), ih=rng.randint(1, 6), iw=rng.randint(1, 6), ic=ic * groups, oc=oc * groups)
        steps = dict(stride=(rng.randint(1, 3), rng.randint(1, 3)), dilation=rng.choice((1, 1, 2, (1, 3))))
        padding = ((rng.randint(0, 3), rng.randint(0, 4)), (rng.randint(0, 3), rng.randint(0, 3)))
        try:
            yield ConvShape(
                **sizes, **steps, fh=rng.randint(1, 5), fw=rng.randint(1, 5), padding=padding, groups=groups
            )
        except ValueError:  # the filter is larger than the padded input
            continue
        count -= 1


NOT_PACKED = (("conv2d", "along"), ("conv2d", "across"), ("conv2d_input", "across"))


@pytest.fixture(params=NOT_PACKED, ids="-".join)
def not_packed(request, monkeypatch):
    """An operator, all of whose layers go to one of the kernels that pack no filters, if they may."""
    operator, way = request.param
    monkeypatch.setattr(unpacked, "SLOWER", {other: -1 if other == way else 1e9 for other in WAYS})
    forget_sizes()
    yield operator, way
    forget_sizes()


def way_of(operator, shape, first, second):
    """The way of a call that is given its two arrays in the operator's order."""
    return unpacked.way_of(operator, shape, *((first, second) if operator == "conv2d" else (second, first)))


@pytest.mark.parametrize("chunk", [1, 2048])
def test_filters_that_are_not_packed(chunk, not_packed, monkeypatch):
    """Inputs may run along any axis and backwards; `along` needs the terms of a tap side by side in w."""
    operator, way = not_packed
    monkeypatch.setitem(unpacked.CHUNK_BYTES, way, chunk)
    monkeypatch.setattr(compiled, "SERIAL_BELOW", 0)
    layouts = (NHWC, 1), (NCHW, 1), (NHWC, -2), ((3, 1, 2, 0), -1)
    w_layouts = ((NHWC, 1), ((2, 1, 0, 3), 1)) if way == "along" else layouts
    rng, used = random.Random(3), Counter()
    for k, shape in enumerate(unpacked_shapes(40)):
        of_source, of_w = rng.choice(layouts), rng.choice(w_layouts)
        layout = [*((of_source, of_w) if operator == "conv2d" else (of_w, of_source)), rng.choice(layouts)]
        pair = [placed(a, *how) for a, how in zip(operands(operator, shape), layout[:2], strict=True)]
        used[way_of(operator, shape, *pair)] += 1
        check(operator, shape, layout, dtypes=(DTYPES[k % 2],))
    assert used[way] >= (35 if way == "along" else 20), used  # The others have no products, or few channels.


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_filters_that_are_not_packed_over_any_axes(axes, dtype, not_packed):
    operator, way = not_packed
    rng, seen = random.Random(axes), set()
    for seed in range(60):
        drawn = random_shape(rng, size=6, axes=axes)
        groups, lanes = drawn.groups, 64 // np.dtype(dtype).itemsize  # the terms are whole vectors on every CPU
        oc = 40 * groups if way == "across" else drawn.oc
        keys = {name: getattr(drawn, name) for name in ("stride", "padding", "dilation", "groups")}
        x_shape, w_shape = (*drawn.x_shape[:-1], lanes * groups), (oc, *drawn.w_shape[1:-1], lanes)
        shape = ConvShape.of(x_shape, w_shape, **keys)
        first, second, out = integers(operator, shape, dtype, seed)
        if plan(operator, shape).useful:
            seen.add(way_of(operator, shape, first, second))
        cpu.run(operator, shape, first, second, out)
        np.testing.assert_array_equal(out, brute_force(operator, shape, first, second), err_msg=f"{shape} {groups}")
    assert seen == {way}


def test_which_filters_are_not_packed():
    """Those that few positions meet, in small groups; large sources in NCHW, which would be copied, do not count."""

    def way(order=NHWC, w_order=NHWC, operator="conv2d", **sizes):
        shape = ConvShape(**{**dict(n=1, ih=4, iw=4, ic=512, oc=8, fh=3, fw=3, padding=1), **sizes})
        pair = [np.empty(size, np.float32) for _, size in shape.arrays(operator)[:2]]
        orders = (order, w_order) if operator == "conv2d" else (w_order, order)
        return way_of(operator, shape, *(placed(a, one, 1) for a, one in zip(pair, orders, strict=True)))

    found = way(), way(ih=2, iw=2), way(order=NCHW), way(groups=4, ic=1024), way(ih=90, iw=90, stride=30)
    assert found == ("along",) * 5
    many = dict(ih=14, iw=14), dict(ic=16), dict(n=16), dict(ih=90, iw=90, stride=30, order=NCHW)
    assert [way(**sizes) for sizes in ({"w_order": NCHW}, {"ic": 509}, *many)] == [""] * 6
    alone = dict(ih=5, iw=5, ic=256, oc=256, fh=5, fw=5, padding=2)  # Each position has taps of its own.
    changes = {}, {"ic": 100}, {"order": NCHW}, {"w_order": NCHW}
    for operator, change in product(("conv2d", "conv2d_input"), changes):
        assert way(**{**alone, "operator": operator, **change}) == "across"
        assert way(**{**alone, "operator": operator, "n": 16, **change}) == ""
    assert way(operator="conv2d_input", ih=8, iw=8, ic=256, oc=256) == ""


# --- short tiles, and filters that are read where they are ----------------------------------------
@pytest.fixture
def all_gathered(monkeypatch):
    """Every layer goes to `gather`, on some threads, with all of its panels together."""
    monkeypatch.setattr(unpacked, "SLOWER", dict.fromkeys(WAYS, 1e9))
    monkeypatch.setattr(planes, "fits", lambda *_: False)
    monkeypatch.setattr(tall, "fits", lambda *_: False)
    monkeypatch.setattr(gather, "PANELS_BYTES", 2**30)
    forget_sizes()
    yield
    forget_sizes()


@pytest.mark.parametrize("rows", range(1, 2 * registers.TILE_ROWS))
@pytest.mark.parametrize("dtype", DTYPES)
def test_each_number_of_rows_and_panels(rows, dtype, all_gathered):
    """A group has so many positions, and the last panels are too few for a short tile, or not whole."""
    width, rng = registers.LANE_BYTES // np.dtype(dtype).itemsize, np.random.default_rng(rows)
    for panels, rest, order in product(range(registers.TILE_ROWS), (0, 1, width - 1), (NHWC, NCHW)):
        lanes = panels * width + rest
        if lanes <= 4:
            continue
        x, w = (placed(rng.integers(-3, 4, (k, 1, 1, 7)).astype(dtype), order, 1) for k in (rows, lanes))
        shape = ConvShape(n=rows, ih=1, iw=1, ic=7, oc=lanes, fh=1, fw=1)
        check_arrays("conv2d", shape, x, w, np.einsum("nhwk,cijk->nhwc", x, w), order)
        shape = ConvShape(n=rows, ih=1, iw=1, ic=lanes, oc=7, fh=1, fw=1)
        turned = placed(w.transpose(3, 1, 2, 0), order, 1)
        check_arrays("conv2d_input", shape, turned, x, np.einsum("nhwk,kijc->nhwc", x, turned), order)


def test_how_tiles_cover_rows_and_panels():
    """Tiles hold all rows of all panels, and short ones make hardly more work anywhere."""
    for rows, panels in product(range(1, 3 * registers.TILE_ROWS), range(1, 20)):
        tiles = gather.tiles_of(rows, panels)
        assert rows * panels <= tiles * registers.TILE_ROWS
        assert tiles <= -(-rows // registers.TILE_ROWS) * panels * (1.06 if panels >= gather.FEW_PANELS else 1)


def test_panels_are_together_for_short_tiles():
    def together(operator="conv2d", threads=1, **sizes):
        shape = ConvShape(**{**dict(n=1, ih=7, iw=7, ic=512, oc=512, fh=3, fw=3, padding=1), **sizes})
        strides = [np.empty(size, np.float32).strides for size in (shape.x_shape, shape.w_shape, shape.y_shape)]
        forget_sizes()
        return gather.sizes_of(operator, shape, shape.n, *strides, threads).named.panels_together

    assert together() == gather.FEW_PANELS
    assert together(n=64, ih=32, iw=32) == 1  # They would not fit the cache, and few tiles are short.
    assert together(oc=7) == 1


def test_which_filters_are_read_in_place():
    def in_place(operator="conv2d_input", order=NHWC, dtype=np.float32, **sizes):
        width = registers.LANE_BYTES // np.dtype(dtype).itemsize
        shape = ConvShape(**{**dict(n=2, ih=9, iw=8, ic=2 * width, oc=2 * width, fh=3, fw=3, padding=1), **sizes})
        w = placed(np.empty(shape.w_shape, dtype), order, 1)
        return gather.read_in_place(operator, shape, shape.n, w.strides, w.itemsize)

    lanes_last = (1, 2, 3, 0)
    assert in_place() and in_place(dtype=np.float64) and in_place("conv2d", lanes_last) and in_place(stride=3)
    assert not any([in_place("conv2d"), in_place(order=lanes_last), in_place(ic=45), in_place(ih=90), in_place(n=9)])
    assert in_place(ic=4 * registers.LANE_BYTES, groups=4) and not in_place(ic=2 * 45, oc=2, groups=2)


@pytest.mark.parametrize("operator", ["conv2d", "conv2d_input"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_filters_in_place(operator, axes, all_gathered):
    """Lanes of whole panels that lie side by side in w, with and without groups, in arrays of any other order."""
    width, rng = registers.LANE_BYTES // 4, random.Random(axes)
    for _ in range(12):
        groups, many, few = rng.choice((1, 2)), width * rng.randint(1, 5), rng.choice((3, 7, 20))
        ic, oc = (few, many) if operator == "conv2d" else (many, few)
        lengths = [rng.randint(2, 6) for _ in range(axes)]
        shape = layer(
            (rng.randint(1, 3), *lengths, groups * ic), (groups * oc, *[3] * axes, ic),
            stride=rng.randint(1, 3), padding=1, groups=groups,
        )  # fmt: skip
        first, second = operands(operator, shape)
        last = (*range(1, axes + 2), 0) if operator == "conv2d" else tuple(range(axes + 2))
        order = orders_of(shape)[rng.randint(0, 1)]
        if operator == "conv2d":
            first, second = placed(first, order, 1), placed(second, last, 1)
        else:
            first, second = placed(first, last, 1), placed(second, order, 1)
        w = second if operator == "conv2d" else first
        assert gather.read_in_place(operator, shape, shape.n, w.strides, 4)
        check_arrays(operator, shape, first, second, by_plain(operator, shape), order)


TAPS = {1: ((4,), (5,), (9,), (17,)), 2: ((2, 2), (1, 7), (2, 4), (3, 3), (5, 5)), 3: ((1, 2, 2), (2, 2, 3), (3, 3, 3))}


@pytest.mark.parametrize("chunk_terms", [384, 10])
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_filters_whose_taps_are_last(operator, axes, chunk_terms, all_gathered, monkeypatch):
    """Channels in whole vectors, any number of taps, any other order of images; a sum may have parts."""
    monkeypatch.setattr(weight, "CHUNK_TERMS", chunk_terms)
    monkeypatch.setattr(weight, "best_way", lambda *_: "conv2d_weight")
    monkeypatch.setattr(compiled, "SERIAL_BELOW", 0)
    rng, parts = random.Random(axes), set()
    for taps, dtype in product(TAPS[axes], DTYPES):
        itemsize = np.dtype(dtype).itemsize
        groups, many, few_ = (
            rng.choice((1, 2)),
            registers.VECTOR_BYTES // itemsize * rng.randint(1, 5),
            rng.choice((5, 20)),
        )
        ic, oc = (few_, many) if operator == "conv2d" else (many, few_)
        x_shape = rng.randint(1, 4), *[rng.randint(f, f + 4) for f in taps], groups * ic
        shape = layer(x_shape, (groups * oc, *taps, ic), stride=rng.randint(1, 3), padding=1, groups=groups)
        last, first, _, odd = orders_of(shape)
        of = {"x": rng.choice((last, first, odd)), "w": first, "dy": rng.choice((last, first, odd))}
        orders = {"conv2d": "x w dy", "conv2d_input": "w dy x", "conv2d_weight": "x dy w"}[operator].split()
        pair = [placed(a, of[name], 1) for a, name in zip(operands(operator, shape, dtype), orders[:2], strict=True)]
        forget_sizes()
        if operator == "conv2d_weight":
            dw = placed(np.empty(shape.w_shape, dtype), first, 1)
            _, sizes = weight.sizes_of(shape, *(a.strides for a in (*pair, dw)), itemsize, 2)
            assert sizes.named.turned
            parts.add(sizes.named.parts > 1)
        else:
            w = pair[orders.index("w")]
            assert gather.may_be_turned(operator, shape, w.strides, itemsize)
        check_arrays(operator, shape, *pair, by_plain(operator, shape), of[orders[2]])
    assert operator != "conv2d_weight" or chunk_terms > 10 or True in parts


def test_which_filters_have_their_taps_last():
    def turned(operator="conv2d_input", order=NCHW, **sizes):
        shape = ConvShape(**{**dict(n=1, ih=9, iw=8, ic=64, oc=64, fh=3, fw=3, padding=1), **sizes})
        w = placed(np.empty(shape.w_shape, np.float32), order, 1)
        return gather.may_be_turned(operator, shape, w.strides, 4)

    for operator in ("conv2d", "conv2d_input"):
        assert turned(operator) and turned(operator, groups=2) and turned(operator, stride=2, fh=1, fw=4)
        assert not any([turned(operator, NHWC), turned(operator, (0, 1, 3, 2)), turned(operator, fh=1)])
        assert not turned(operator, ic=65, oc=65)
    assert turned(fh=9, fw=9) and not turned(
        fh=9, fw=9, oc=512, stride=2
    )  # Phases fit into the cache, all taps do not.


# --- depthwise, and small channel groups ---------------------------------------------------------
def depthwise_shapes(count):
    """Yield depthwise layers and others with small channel groups.

    Their channels fill tiles or not; they have few and many images, any step and padding.
    """
    rng = random.Random(0)
    while count:
        each = rng.choice(((1, 1), (1, 1), (1, 1), (4, 4), (8, 8), (2, 2), (1, 2), (3, 1), (3, 3), (2, 8), (8, 5)))
        groups = rng.choice((2, 3, 17, 32, 33, 64, 100, 130) if each == (1, 1) else (2, 3, 9, 17, 32))
        sizes = dict(n=rng.choice((1, 2, 9, 20)), ih=rng.randint(1, 13), iw=rng.randint(1, 20))
        steps = dict(stride=(rng.randint(1, 3), rng.randint(1, 3)), dilation=rng.choice((1, 1, 2, (1, 3))))
        padding = ((rng.randint(0, 3), rng.randint(0, 4)), (rng.randint(0, 3), rng.randint(0, 3)))
        taps = dict(fh=rng.randint(1, 7), fw=rng.randint(1, 7), padding=padding)
        try:
            yield ConvShape(**sizes, **steps, **taps, ic=each[0] * groups, oc=each[1] * groups, groups=groups)
        except ValueError:  # the filter is larger than the padded input
            continue
        count -= 1


@pytest.mark.parametrize("operator", OPERATORS)
def test_depthwise_layers_in_any_layout(operator, sizes):
    layouts = (NHWC, 1), (NCHW, 1), (NCHW, -1), ((3, 1, 2, 0), -2), (NHWC, 2)
    rng = random.Random(1)
    for k, shape in enumerate(depthwise_shapes(100)):
        assert depthwise.fits(shape, 4) or registers.VECTOR_BYTES < 32
        check(operator, shape, [rng.choice(layouts) for _ in range(3)], dtypes=(DTYPES[k % 2],))


@pytest.mark.parametrize("operator", OPERATORS)
def test_depthwise_results_past_the_caches(operator, monkeypatch):
    """Whole lines are streamed at aligned addresses only; those of 40 and 56 channels are put together first."""
    monkeypatch.setattr(depthwise, "STREAM_BYTES", 1)
    monkeypatch.setattr(depthwise, "GATHER_BYTES", 1)
    depthwise.sizes_of.cache_clear()
    for stride, channels in product((1, 2), (32, 40, 48, 56)):
        shape = ConvShape(
            n=2, ih=12, iw=11, ic=channels, oc=channels, fh=3, fw=3, stride=stride, padding=1, groups=channels
        )
        wanted = truth(operator, shape)
        memory = np.empty(wanted.size + 32, np.float32)
        for offset in (0, 1, 4, 8):
            memory[:] = OUTSIDE
            first = -memory.ctypes.data % 64 // 4 + offset
            out = memory[first : first + wanted.size].reshape(wanted.shape)
            cpu.run(operator, shape, *operands(operator, shape), out)
            np.testing.assert_array_equal(out, wanted)
            out[...] = OUTSIDE
            assert (memory == OUTSIDE).all()
    depthwise.sizes_of.cache_clear()


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("stream_bytes", [1, depthwise.STREAM_BYTES])
def test_a_last_block_of_one_vector(operator, stream_bytes, monkeypatch):
    """Two rows or images at once, of runs of odd and even numbers of them, and of one."""
    monkeypatch.setattr(depthwise, "STREAM_BYTES", stream_bytes)
    monkeypatch.setattr(depthwise, "GATHER_BYTES", stream_bytes)
    depthwise.sizes_of.cache_clear()
    find, found = depthwise.sizes_of, []
    lanes = registers.VECTOR_BYTES // 4
    channels = lanes, 2 * lanes + 1, 5 * lanes
    rng = random.Random(3)
    with monkeypatch.context() as noting:
        noting.setattr(depthwise, "sizes_of", lambda *given: found.append(find(*given).named) or find(*given))
        for n, rows, count, stride in product((1, 2, 3), (1, 6, 9), channels, (1, 2)):
            taps = dict(fh=3, fw=5, stride=stride, padding=2)
            shape = ConvShape(n=n, ih=rows, iw=11, ic=count, oc=count, groups=count, **taps)
            check(operator, shape, [(NHWC, rng.choice((1, 1, 1, 2))) for _ in range(3)])
    # Half of the layers with plain steps are in float32, where a block has 2 * lanes.
    assert sum(each.last_lanes == lanes and each.all_lanes == 5 * lanes for each in found) > 10
    both = {(bool(each.gathers), bool(each.ahead)) for each in found}
    assert ((True, True) in both) == (stream_bytes == 1 and operator != "conv2d_weight")
    depthwise.sizes_of.cache_clear()


@pytest.mark.parametrize("operator", OPERATORS[:2])
@pytest.mark.parametrize("stream_bytes", [1, depthwise.STREAM_BYTES])
def test_tiles_of_whole_rows(operator, stream_bytes, monkeypatch):
    """Each position leaves out the taps that it does not meet: at the edges, and beyond, where it meets none."""
    monkeypatch.setattr(depthwise, "STREAM_BYTES", stream_bytes)
    monkeypatch.setattr(depthwise, "GATHER_BYTES", stream_bytes)
    depthwise.sizes_of.cache_clear()
    find, found = depthwise.sizes_of, []
    with monkeypatch.context() as noting:
        noting.setattr(depthwise, "sizes_of", lambda *given: found.append(find(*given).named) or find(*given))
        for taps, columns, before, after in product((3, 5, 7), (6, 7, 13, 14), (0, 1, 8), (0, 4)):
            if columns + before + after < taps:
                continue
            channels = 40 if columns % 2 else 35
            x, w = (2, 5, columns, channels), (channels, 3, taps, 1)
            steps = dict(stride=(2, 1), dilation=(1 + columns % 2, 1))
            shape = layer(x, w, padding=((2, 1), (before, after)), groups=channels, **steps)
            check(operator, shape, dtypes=(DTYPES[taps == 5],))
        for taps, columns, before, after in product((3, 5, 7), (8, 13, 14, 18), (0, 1, 2, 3, 9), (0, 1, 4)):
            steps = dict(stride=2, padding=((1, 1), (before, after)))
            shape = layer((2, 4, columns, 40), (40, 3, taps, 1), groups=40, **steps)
            check(operator, shape, [(NCHW if before == 1 else NHWC, 1)] * 3, (DTYPES[taps == 5],))
        volumes = (
            layer((2, 3, 4, 14, 40), (40, 3, 3, 5, 1), padding=(1, 1, 2), groups=40),
            layer((1, 3, 4, 9, 40), (40, 2, 3, 3, 1), stride=(2, 1, 1), groups=40),
        )
        for shape in volumes:
            check(operator, shape, [((0, 1, 2, 3, 4), 1)] * 3)
    if registers.TILE_ROWS >= depthwise.LINES[depthwise.INPUT_BY_TWO].positions:
        by_two = depthwise.FORWARD_BY_TWO if operator == "conv2d" else depthwise.INPUT_BY_TWO
        for number in (depthwise.BY_ONE, by_two):
            assert sum(each.lines == number for each in found) > len(found) / 16
        assert any(each.lines and each.source_packed for each in found)
        assert any(each.lines and each.gathers for each in found) == (stream_bytes == 1)
    depthwise.sizes_of.cache_clear()


@pytest.mark.parametrize("operator", OPERATORS[:2])
def test_results_of_one_column_past_the_caches(operator, monkeypatch):
    """An axis of one position may have any step, which says nothing of the bytes of a band."""
    monkeypatch.setattr(depthwise, "STREAM_BYTES", 1)
    monkeypatch.setattr(depthwise, "GATHER_BYTES", 1)
    depthwise.sizes_of.cache_clear()
    column = ConvShape(n=2, ih=9, iw=1, ic=40, oc=40, fh=3, fw=1, padding=(1, 0), groups=40)
    point = ConvShape(n=3, ih=1, iw=1, ic=40, oc=40, fh=1, fw=1, groups=40)
    for shape in (column, point):
        pair, wanted = operands(operator, shape, np.float32), truth(operator, shape)
        n, rows, _, channels = wanted.shape
        memory = np.full((n, rows, 3, channels + 8), OUTSIDE, np.float32)
        outs = memory[:, :, 1:2, :channels], memory[:, :, 2:0:-2, :channels], memory[:, :, 1:0:-1, :channels]
        first = np.full((n, channels, rows, 1), OUTSIDE, np.float32).transpose(0, 2, 3, 1)
        for out in (*outs, first, np.full((n, 2, rows, channels), OUTSIDE, np.float32)[:, :1].transpose(0, 2, 1, 3)):
            out[...] = OUTSIDE
            cpu.run(operator, shape, *pair, out)
            np.testing.assert_array_equal(out, wanted)
            out[...] = OUTSIDE
        assert (memory == OUTSIDE).all()
    depthwise.sizes_of.cache_clear()


def test_lanes_of_two_blocks_are_of_the_one_without_pairs():
    """A sum in pairs has another order, so which block writes its results may not depend on time."""
    few, many = (
        ConvShape(n=2, ih=4, iw=5, ic=count, oc=count, fh=3, fw=3, padding=1, groups=count) for count in (64, 72)
    )
    rng = np.random.default_rng(4)
    x, dy = (rng.standard_normal(size, np.float32) for size in (many.x_shape, many.y_shape))
    found = call("conv2d_weight", many, x, dy, layout="NHWC")
    parts = [np.ascontiguousarray(array[..., :64]) for array in (x, dy)]
    np.testing.assert_array_equal(found[:64], call("conv2d_weight", few, *parts, layout="NHWC"))


@pytest.mark.parametrize("filter_bytes", [1, depthwise.FILTER_BYTES])
@pytest.mark.parametrize("operator", OPERATORS[:2])
def test_tasks_with_all_channels_of_depthwise_layers(operator, filter_bytes, sizes, monkeypatch):
    """Some have groups, and some of the arrays are packed; a thread keeps the filters of one block, or of all."""
    monkeypatch.setattr(depthwise, "STREAM_BYTES", 1)
    monkeypatch.setattr(depthwise, "GATHER_BYTES", 1)
    monkeypatch.setattr(depthwise, "LEAST_ROWS", 1)
    monkeypatch.setattr(depthwise, "FILTER_BYTES", filter_bytes)
    depthwise.sizes_of.cache_clear()
    find, found = depthwise.sizes_of, []
    layouts = (NHWC, 1), (NCHW, 1), ((3, 1, 2, 0), -2)
    rng = random.Random(2)
    plain = [ConvShape(n=3, ih=9, iw=11, ic=c, oc=c, fh=3, fw=3, padding=1, groups=c) for c in (48, 80)]
    with monkeypatch.context() as noting:
        noting.setattr(depthwise, "sizes_of", lambda *given: found.append(find(*given).named) or find(*given))
        for shape in (*depthwise_shapes(40), *plain):
            check(operator, shape, [rng.choice(layouts) for _ in range(3)], dtypes=(np.float32,))
    inside = [each for each in found if each.blocks_together > 1]
    assert all(each.blocks_kept == (1 if filter_bytes == 1 else each.blocks) for each in inside)
    assert {bool(each.source_packed) for each in inside} == {False, True}
    depthwise.sizes_of.cache_clear()


def test_which_layers_have_small_groups():
    """The lanes of a group fit into a vector; rows so long that packing would need much memory go another way."""
    keys = dict(n=1, ih=8, fh=3, fw=3, padding=1)
    numbers = registers.VECTOR_BYTES // 4
    for each in ((1, 1), (1, 2), (3, 3), (numbers, 1), (numbers - 1, numbers)):
        shape = ConvShape(**keys, iw=9, ic=5 * each[0], oc=5 * each[1], groups=5)
        assert depthwise.fits(shape, 4)
        assert depthwise.fits(shape, 8) == (max(each) <= numbers // 2)
    assert not depthwise.fits(ConvShape(**keys, iw=9, ic=5, oc=5 * (numbers + 1), groups=5), 4)
    assert not depthwise.fits(ConvShape(**keys, iw=9, ic=1, oc=1), 4)
    long = ConvShape(**keys, iw=20_000, ic=2, oc=2, groups=2)
    assert not depthwise.fits(long, 4)
    for operator in OPERATORS:
        check_arrays(operator, long, *operands(operator, long), by_plain(operator, long))


@pytest.mark.parametrize("operator", OPERATORS)
def test_depthwise_without_images(operator):
    shape = ConvShape(n=0, ih=6, iw=5, ic=40, oc=40, fh=3, fw=3, padding=1, groups=40)
    result = call(operator, shape, *operands(operator, shape), layout="NHWC")
    assert result.shape == dict(zip(OPERATORS, (shape.y_shape, shape.x_shape, shape.w_shape), strict=True))[operator]
    assert (result == 0).all()


def test_depthwise_filter_gradient_in_parts():
    """Few channels and many images: the sum is cut into parts, whose number does not depend on the threads."""
    shape = ConvShape(n=40, ih=20, iw=20, ic=40, oc=40, fh=3, fw=3, padding=1, groups=40)
    strides = (np.empty(size, np.float32).strides for size in (shape.x_shape, shape.w_shape, shape.y_shape))
    x, w, y = strides
    parts = {depthwise.sizes_of("conv2d_weight", shape, x, w, y, 4, threads).named.parts for threads in (1, 2, 3)}
    assert len(parts) == 1 and parts.pop() > 1
    wanted = by_plain("conv2d_weight", shape)
    for order, dtype in product((NHWC, NCHW), DTYPES):
        pair = [placed(array, order, 1) for array in operands("conv2d_weight", shape, dtype)]
        check_arrays("conv2d_weight", shape, *pair, wanted, order)


def test_large_results_begin_with_a_cache_line():
    x, w = np.ones((1, 64, 64, 16), np.float32), np.ones((64, 1, 1, 16), np.float32)
    for layout in ("NHWC", "NCHW"):
        pair = (a if layout == "NHWC" else np.ascontiguousarray(a.transpose(0, 3, 1, 2)) for a in (x, w))
        y = cks.conv2d(*pair, layout=layout, backend="cpu")
        assert y.nbytes == 2**20
        assert y.ctypes.data % 64 == 0
        assert (y == 16).all()


# --- threads -------------------------------------------------------------------------------------
def sweep_on_threads():
    """Check the numbers on 1, 2 and 3 threads, and that all of them and all repetitions give the same bits."""
    assert numba.config.NUMBA_NUM_THREADS == 3
    compiled.SERIAL_BELOW = 0
    large = ConvShape(n=4, ih=23, iw=22, ic=70, oc=75, fh=3, fw=3, stride=2, padding=1)
    few_channels = ConvShape(n=4, ih=23, iw=22, ic=3, oc=75, fh=3, fw=3, padding=1)
    in_parts = ConvShape(n=9, ih=20, iw=19, ic=32, oc=30, fh=3, fw=2, padding=1)
    one_in_parts = ConvShape(n=1, ih=60, iw=55, ic=3, oc=40, fh=3, fw=3, stride=(1, 2), padding=1)
    sizes = weight.sizes_of(one_in_parts, *[(4,) * 4] * 3, 4, 3)
    assert sizes[0] == "conv2d" and sizes[1].named.parts == 2
    each_alone = ConvShape(n=9, ih=20, iw=19, ic=70, oc=70, fh=3, fw=5, padding=2, groups=70)
    one_image = ConvShape(n=1, ih=33, iw=29, ic=70, oc=70, fh=5, fw=3, padding=2, groups=70)
    few_positions = ConvShape(n=1, ih=4, iw=3, ic=256, oc=150, fh=3, fw=3, padding=1)
    some_positions = ConvShape(n=1, ih=5, iw=5, ic=256, oc=120, fh=5, fw=5, padding=2)
    few_results = ConvShape(n=2, ih=60, iw=57, ic=5, oc=3, fh=5, fw=3, stride=(1, 2), padding=2)
    assert planes.fits("conv2d", few_results, 4) and planes.fits("conv2d_input", few_results, 4)
    vector = registers.VECTOR_BYTES // 4
    one_vector = ConvShape(n=2, ih=60, iw=57, ic=vector, oc=vector, fh=3, fw=3, padding=1)
    steps = np.empty(one_vector.x_shape, np.float32).strides
    assert tall.fits("conv2d", one_vector, steps, steps, 4) and tall.fits("conv2d_input", one_vector, steps, steps, 4)
    assert unpacked.best_way("conv2d", few_positions, 4, 2, True) == "along"
    assert unpacked.best_way("conv2d", some_positions, 4, 2, True) == "across"
    assert unpacked.best_way("conv2d_input", some_positions, 4, 2, False) == "across"
    two_axes = large, few_channels, in_parts, one_in_parts, each_alone, one_image, few_results, one_vector
    volumes = [
        layer((2, 7, 12, 11, 40), (33, 3, 3, 3, 40), stride=2, padding=1),
        layer((3, 9, 10, 11, 3), (40, 3, 3, 3, 3), padding=1),
        layer((2, 9, 10, 11, 40), (40, 3, 3, 3, 1), padding=1, groups=40),
    ]
    signals = [
        layer((1, 5000, 24), (40, 5, 24), stride=2, padding=2),
        layer((2, 5000, 1), (40, 9, 1)),
        layer((1, 9000, 40), (40, 5, 1), padding=2, groups=40),
    ]
    layers = (
        *product((*two_axes, *volumes, *signals), (0, 1)),
        (few_positions, 0),
        (some_positions, 0),
    )  # There are two layouts.
    found = {}
    for number in (1, 2, 3, 3, 2, 3):
        numba.set_num_threads(number)
        check_all(FEW_SHAPES, (NCHW, 1))
        for operator, (shape, k) in product(OPERATORS, layers):
            bits = same_bits_again(operator, shape, orders_of(shape)[k])
            assert found.setdefault((operator, shape, k), bits) == bits, f"{operator} on {number} threads"
    assert compiled._workers().workers == 2


def same_bits_again(operator, shape, order):
    """Compute a result of random numbers three times, check that the bytes are the same, and return them."""
    rng = np.random.default_rng(0)
    *pair, result = (size for _, size in shape.arrays(operator))
    pair = [placed(rng.standard_normal(size).astype(np.float32), order, 1) for size in pair]
    runs = []
    for _ in range(3):
        out = np.empty(result, np.float32)
        cpu.run(operator, shape, *pair, out)
        runs.append(out.tobytes())
    assert len(set(runs)) == 1, operator
    return runs[0]


def test_one_two_and_three_threads():
    in_a_process("test_cpu", "sweep_on_threads()", NUMBA_NUM_THREADS="3")


def calls_at_once():
    """Call the operators from four Python threads that share inputs, with and without threads inside the calls."""
    jobs = []
    for operator, shape, dtype, order in product(OPERATORS, FEW_SHAPES, DTYPES, (NHWC, NCHW)):
        pair = [placed(a, order, 1) for a in operands(operator, shape, dtype)]
        jobs.append((operator, shape, *pair, truth(operator, shape)))
    for compiled.SERIAL_BELOW in (0, 20_000, 10**18):
        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(check_arrays, *job) for job in jobs * 2]:
                done.result()


def test_calls_from_many_threads_at_once():
    in_a_process("test_cpu", "calls_at_once()", NUMBA_NUM_THREADS="3")


@numba.njit(parallel=True)
def on_the_callers_own_threads(numbers):
    for i in numba.prange(len(numbers)):
        numbers[i] = i


def fork_after_threads(own):
    """Fork after threads, ours or Numba's, have been used: the child starts its own, and the parent still works."""
    compiled.SERIAL_BELOW = 0
    if own:
        check_all(FEW_SHAPES)
        assert compiled._workers.pool.workers == 1
    else:
        on_the_callers_own_threads(np.zeros(9))
        assert numba.threading_layer()
    with warnings.catch_warnings():  # newer versions of Python warn about a fork while threads run
        warnings.filterwarnings("ignore", "This process", DeprecationWarning)
        child = os.fork()
    if child == 0:
        signal.alarm(60)  # ends a child that waits for threads that it does not have
        assert compiled._workers.pool is None
        check_all(FEW_SHAPES)
        os._exit(compiled._workers.pool.workers - 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    check_all(FEW_SHAPES)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork on this system")
@pytest.mark.parametrize("own", [True, False], ids=["threads of a call", "threads of the caller"])
def test_forked_child(own):
    in_a_process("test_cpu", f"fork_after_threads({own})", NUMBA_NUM_THREADS="2")


# --- the pool, with kernels in Python --------------------------------------------------------------
class Jobs:
    """A pool whose jobs call a Python function in place of a kernel."""

    def __init__(self, workers):
        self.pool = threads.Pool(workers, compiled.compiled)

    def share(self, function, number, most):
        kernel = ctypes.CFUNCTYPE(None, ctypes.c_double, ctypes.c_int64)(lambda _, number: function(number))
        job = np.empty(threads.JOB, np.int64)
        self.pool.share(job, job.ctypes.data, ctypes.cast(kernel, ctypes.c_void_p).value, number, most)

    def all_asleep(self):
        """Wait until every worker sleeps."""
        end = time.monotonic() + 60
        while (self.pool.rows[1:, threads.STATE] != threads.SLEEPING).any():
            assert time.monotonic() < end
            time.sleep(0.001)


def test_sleeping_workers_come():
    jobs, met = Jobs(3), threading.Barrier(4, timeout=60)
    for number in range(20):
        jobs.all_asleep()
        jobs.share(lambda _: met.wait(), number, 4)  # the barrier breaks unless all four come
        assert not met.broken


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs Linux and two cores"
)
def test_a_worker_wakes_on_another_core_than_its_caller():
    jobs, own = Jobs(1), os.sched_getaffinity(0)
    jobs.all_asleep()
    jobs.share(lambda _: None, 0, 2)
    worker = jobs.pool.rows[1]
    assert worker[threads.NOT_ON] in own
    assert os.sched_getaffinity(int(worker[threads.THREAD])) == own - {int(worker[threads.NOT_ON])}
    assert os.sched_getaffinity(0) == own


def starting_with(monkeypatch, start):
    """Let this function start the threads of the next pool."""
    own = SimpleNamespace(start_new_thread=start, get_native_id=threading.get_native_id)
    monkeypatch.setattr(threads, "_threads_of_the_system", lambda: own)


def test_a_late_worker_finds_nothing_to_do(monkeypatch):
    """The caller withdraws its offer from workers that have not begun; they are then free for other callers."""
    late, called = [], []
    starting_with(monkeypatch, lambda *thread: late.append(thread))
    jobs = Jobs(2)
    monkeypatch.undo()
    jobs.share(called.append, 7, 3)
    assert called == [7] and len(late) == 2
    assert (jobs.pool.rows[1:, threads.STATE] == threads.FREE).all()
    for function, arguments in late:
        threading.Thread(target=function, args=arguments, daemon=True).start()
    jobs.all_asleep()
    assert called == [7]
    met = threading.Barrier(3, timeout=60)
    jobs.share(lambda _: met.wait(), 8, 3)
    assert not met.broken


def test_a_caller_waits_for_what_others_have_begun():
    jobs, met, done = Jobs(1), threading.Barrier(2, timeout=60), []

    def kernel(number):
        met.wait()
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0.2)
        done.append(number)

    jobs.share(kernel, 5, 2)
    assert done == [5, 5]


def test_many_callers_share_workers():
    """Every job runs, on no more threads than it may have, and on no worker after its end."""
    jobs, lock, counts, ended = Jobs(3), threading.Lock(), Counter(), set()

    def kernel(number):
        with lock:
            counts[number] += 1
            if number in ended:
                counts[-1] += 1

    def caller(first):
        for number in range(first, first + 300):
            jobs.share(kernel, number, 1 + number % 4)
            with lock:
                ended.add(number)

    with ThreadPoolExecutor(5) as pool:
        for done in [pool.submit(caller, 300 * k) for k in range(5)]:
            done.result()
    assert set(counts) == set(range(1500))
    assert all(1 <= counts[number] <= 1 + number % 4 for number in range(1500))


def test_without_threads_of_the_system(monkeypatch):
    def fail(function, arguments):
        raise RuntimeError("can't start new thread")

    starting_with(monkeypatch, fail)
    jobs, called = Jobs(2), []
    jobs.share(called.append, 3, 3)
    assert called == [3] and jobs.pool.workers == 0


@pytest.mark.parametrize(("variable", "most"), [(None, 1), ("2", 5)])
def test_a_quota_limits_the_threads_that_nobody_chose(monkeypatch, variable, most):
    """A quota of half a core is one thread; what the user sets holds."""
    monkeypatch.setattr(threads, "quota", lambda: 0.5)
    monkeypatch.setattr(numba.config, "NUMBA_DEFAULT_NUM_THREADS", 5)
    monkeypatch.delenv("NUMBA_NUM_THREADS")
    if variable:
        monkeypatch.setenv("NUMBA_NUM_THREADS", variable)
    compiled.affordable.cache_clear()
    try:
        assert threads.cores() == 1
        assert [compiled.affordable(number) for number in (4, 5)] == [4, most]
    finally:
        compiled.affordable.cache_clear()


def test_a_quota_limits_the_threads_of_the_emulator(monkeypatch):
    used, run = [], machine.Launch.run
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(8), raising=False)
    monkeypatch.setattr(threads, "quota", lambda: 2.5)
    monkeypatch.setattr(machine.Launch, "run", lambda *given: used.append(given[1]) or run(*given))
    x, w = np.ones((1, 4, 4, 2)), np.ones((3, 3, 3, 2))
    np.testing.assert_array_equal(cks.conv2d(x, w, backend="emulator"), np.full((1, 2, 2, 3), 18))
    assert set(used) == {3}


# --- no compiler -----------------------------------------------------------------------------------
def sweep_without_compiling():
    for layout in ((NHWC, 1), (NCHW, -1)):
        check_all(FEW_SHAPES, layout)
    assert not cpu.COMPILED and compiled.compiled.cache_info().currsize == 0


@pytest.mark.parametrize("variable", ["CKS_NUMBA_CPU=numpy", "NUMBA_DISABLE_JIT=1"])
def test_numpy_in_place_of_the_kernels(variable):
    in_a_process("test_cpu", "sweep_without_compiling()", **dict([variable.split("=")]))


def test_unknown_choice_names_the_variable():
    error = "ValueError: CKS_NUMBA_CPU must be one of 'numba', 'numpy', 'checked', got 'nonsense'"
    in_a_process("test_cpu", "check", error, CKS_NUMBA_CPU="nonsense")
    in_a_process("test_cpu", "check", CKS_NUMBA_CPU="")  # An empty value is no value.


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("order", [NHWC, NCHW])
@pytest.mark.parametrize("part", ["kernels", "threads"])
def test_numpy_takes_over_where_numba_cannot_compile(operator, order, part, monkeypatch):
    usual = compiled.compiled

    def fail(function, *kind):
        if bool(kind) == (part == "kernels"):
            raise NumbaError("no such CPU")
        return usual(function, *kind)

    monkeypatch.setattr(compiled, "compiled", fail)
    monkeypatch.setattr(compiled._workers, "pool", None)
    monkeypatch.setattr(compiled, "SERIAL_BELOW", 0)
    monkeypatch.setattr(numba, "get_num_threads", lambda: 2)
    with pytest.warns(RuntimeWarning, match="no such CPU"):
        check(operator, LARGE_SHAPES["37 to 70, stride 2"], ((order, 1),) * 3)


# --- memory --------------------------------------------------------------------------------------
def traced(function):
    """Return the bytes that stay allocated after the second call of a function, and the most during that call."""
    function()  # the first call compiles, and fills the tables of sizes
    tracemalloc.start()
    function()
    _, peak = tracemalloc.get_traced_memory()
    gc.collect()  # CPython keeps up to 2000 freed tuples of a size for the next ones; this ends that
    stays, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return stays, peak


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize(("images", "height"), [(32, 56), (1, 1792)], ids=["32 images", "one image"])
def test_memory_beside_the_arrays(operator, layout, images, height, monkeypatch):
    """A call needs at most a tenth of the larger array and 4 MiB, on two threads, which have their own scratch."""
    shape = ConvShape(n=images, ih=height, iw=56, ic=48, oc=64, fh=3, fw=3, padding=1)
    first, second, out = (np.ones([size[k] for k in LAYOUTS[layout]], np.float32) for _, size in shape.arrays(operator))
    larger = max(a.nbytes for a in (first, second, out))
    assert larger > 19e6
    monkeypatch.setattr(cpu, "NOTES_CALLS", True)
    monkeypatch.setattr(numba, "get_num_threads", lambda: min(2, numba.config.NUMBA_NUM_THREADS))
    _, peak = traced(lambda: call(operator, shape, first, second, layout=layout, out=out))
    assert peak <= larger // 10 + 4 * 2**20


def test_two_tasks_of_a_filter_gradient_need_four_mebibytes():
    """Results and packed chunks of the layers of networks; the last two use 16 positions of x for each product."""
    layers = {case.shape for case in (*cases.table(), *cases.peer_table()) if case.operator == "conv2d_weight"}
    layers |= {ConvShape(n=512, ih=4, iw=4, ic=512, oc=oc, fh=4, fw=4) for oc in (1, 100)}
    by_weight = [shape for shape in layers if weight.best_way(shape, 4) == "conv2d_weight"]
    assert len(by_weight) > 50
    # Each tap of a large filter meets positions of its own: tiles of one tap would have three rows.
    assert weight.best_way(ConvShape(n=1, ih=512, iw=512, ic=3, oc=8, fh=65, fw=65, padding=32), 4) == "conv2d"
    for shape, count in product(by_weight, (1, 2, 3)):
        x, dy, dw = (np.empty(size, np.float32).strides for _, size in shape.arrays("conv2d_weight"))
        _, sizes = weight.sizes_of(shape, x, dy, dw, 4, count)
        assert sizes.scratch <= 2 * 2**20, shape


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_memory_of_many_calls(operator, layout):
    shape = LARGE_SHAPES["37 to 70, stride 2"]
    pair = [a.transpose(LAYOUTS[layout]).copy() for a in operands(operator, shape)]

    def calls():
        for _ in range(300):
            call(operator, shape, *pair, layout=layout)

    stays, _ = traced(calls)
    assert stays < 64 * 2**10


# --- NaN and infinity ----------------------------------------------------------------------------
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("order", [NHWC, NCHW])
def test_nan_and_infinity_reach_their_results_only(operator, poison, order):
    """A NaN or infinity changes exactly the results that have a product with it, also in the last channel."""
    rng = np.random.default_rng(0)
    for shape, k, last in product(FEW_SHAPES, range(6), (True, False)):
        pair = [np.abs(a) + 1 for a in operands(operator, shape, "float32", seed=k)]
        clean, alone = brute_force(operator, shape, *pair), [np.ones_like(a) for a in pair]
        place = tuple(rng.integers(pair[k % 2].shape))
        place = (*place[:3], -1) if last else place
        alone[k % 2][...] = 0
        alone[k % 2][place] = 1
        pair[k % 2][place] = poison
        wanted = np.where(brute_force(operator, shape, *alone) > 0, poison, clean)
        check_arrays(operator, shape, *(placed(a, order, 1) for a in pair), wanted)


# --- other CPUs ------------------------------------------------------------------------------------
@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="the names are those of x86-64")
@pytest.mark.parametrize(
    ("name", "features", "size"),
    [("generic", "", (16, 6)), ("haswell", "+avx2,+fma", (32, 6)), ("skylake-avx512", "", (64, 8))],
)
def test_tiles_fit_the_registers_that_numba_compiles_for(name, features, size):
    code = f"from cks_numba.backends.cpu.registers import *; assert (VECTOR_BYTES, TILE_ROWS) == {size}"
    in_a_process(None, code, NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES=features)


# --- few channels, and filters of one tap --------------------------------------------------------
def few_channels():
    """Yield layers with few channels on one side and all kinds of padding, stride and filter; then 1x1 filters."""
    rng = random.Random(0)
    pads = (0, 1, 2, ((2, 0), (0, 1)), ((0, 3), (1, 0)))
    filters = ((3, 3), (4, 4), (2, 5), (9, 8), (1, 3), (1, 1))
    for padding, stride, (fh, fw) in product(pads, (1, 2, 3, (3, 1)), filters):
        few, many, groups = rng.randint(1, 5), rng.choice((1, 7, 16, 40, 64)), rng.choice((1, 1, 2, 3))
        ic, oc = rng.choice(((few, many), (many, few)))
        sizes = dict(n=rng.randint(1, 5), ih=rng.randint(5, 13), iw=rng.randint(5, 13))
        dilation = rng.choice((1, 1, 2, (1, 3)))
        keys = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
        try:
            yield ConvShape(**sizes, ic=ic * groups, oc=oc * groups, fh=fh, fw=fw, **keys)
        except ValueError:  # the filter is larger than the padded input
            continue
    for padding, stride in product((*pads, 7), (2, (1, 3), 9)):  # some outputs, or all, meet no input
        for channels in ((3, 40), (40, 3), (37, 41)):
            yield ConvShape(n=3, ih=6, iw=5, ic=channels[0], oc=channels[1], fh=1, fw=1, stride=stride, padding=padding)


def test_weight_of_few_channels(sizes):
    ways = set()
    for k, shape in enumerate(few_channels()):
        ways |= {weight.best_way(shape, 4)}
        layouts = [((NHWC, 1), (NCHW, 1), (NCHW, -1), ((3, 1, 2, 0), -2))[(k + j * (k % 3)) % 4] for j in range(3)]
        check("conv2d_weight", shape, layouts, dtypes=(DTYPES[k % 2],))
    assert ways == set(OPERATORS)
