"""The source of every rung, run on numbers that know which elements they are: counts, events and results."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import product
from types import ModuleType

import numpy as np
import pytest
from numba import int64, uint32
from reference import HARD_SHAPES, HARD_VOLUMES, brute_force, integers, meets, random_shape

from cks_numba import flops, kernels, trace
from cks_numba.geometry import OPERATORS, ConvShape
from cks_numba.kernels import tiled
from cks_numba.kernels.jit import cuda, device
from cks_numba.trace.elements import Element, Log, Number, Watched, blank
from cks_numba.trace.machine import Machine

TINY_SHAPES = {
    "stride 2 does not divide": ConvShape(n=1, ih=6, iw=5, ic=1, oc=2, fh=3, fw=3, stride=2, padding=1),
    "filter smaller than stride": ConvShape(n=2, ih=5, iw=4, ic=2, oc=1, fh=2, fw=1, stride=3),
    "asymmetric padding": ConvShape(n=1, ih=3, iw=4, ic=1, oc=1, fh=3, fw=2, stride=2, padding=((0, 2), (2, 1))),
    "dilation 2": ConvShape(n=1, ih=4, iw=5, ic=1, oc=1, fh=2, fw=3, stride=(1, 2), padding=2, dilation=2),
    "two channel groups": ConvShape(n=1, ih=3, iw=3, ic=4, oc=2, fh=2, fw=2, padding=(1, 0), groups=2),
    "1x1 with stride 2": ConvShape(n=1, ih=4, iw=5, ic=2, oc=3, fh=1, fw=1, stride=2),
}
TINY_VOLUMES = {
    "stride 2 does not divide": ConvShape.of((1, 4, 3, 2, 1), (2, 3, 2, 1, 1), stride=(2, 2, 1), padding=(1, 1, 0)),
    "filter smaller than stride, two channel groups": ConvShape.of(
        (2, 3, 4, 2, 2), (2, 1, 2, 2, 1), stride=(2, 3, 2), padding=((0, 1), (0, 0), (1, 2)), groups=2
    ),
    "dilation 2": ConvShape.of(
        (1, 3, 2, 4, 2), (1, 2, 1, 3, 2), stride=(1, 1, 2), padding=(2, 0, 1), dilation=(2, 1, 2)
    ),
}
TINY = pytest.mark.parametrize("shape", TINY_SHAPES.values(), ids=TINY_SHAPES.keys())
EACH = pytest.mark.parametrize("operator", OPERATORS)


def check(operator: str, shape: ConvShape, rung: str) -> None:
    first, second, _ = integers(operator, shape, "float32")
    traced = trace.run(operator, shape, rung, first, second)
    np.testing.assert_array_equal(traced.result, brute_force(operator, shape, first, second), err_msg=str(shape))
    counts, theory = traced.counts, flops.count(operator, shape)
    assert counts.useful == theory.useful and counts.total == len(traced.events)
    assert counts.total == (theory.regular if rung == "with_zeros" else theory.useful)
    assert rung == "tiled" or counts.masked == 0
    assert rung in ("register_tile", "tiled") or counts.outside == 0


@TINY
@EACH
@pytest.mark.parametrize("rung", kernels.SIMULATED_RUNGS)
def test_counts_and_results(operator, shape, rung):
    check(operator, shape, rung)


@EACH
@pytest.mark.parametrize("rung", ("with_zeros", "skip_zeros", "shared", "grouped"))
def test_hard_and_random_shapes(operator, rung):
    rng = random.Random(2306)
    random_shapes = [random_shape(rng, size=6, channels=2, images=2) for _ in range(6)]
    for shape in [*HARD_SHAPES.values(), *random_shapes]:
        check(operator, shape, rung)


@EACH
@pytest.mark.parametrize("name", TINY_VOLUMES)
@pytest.mark.parametrize("rung", kernels.SIMULATED_RUNGS)
def test_counts_and_results_of_volumes(operator, name, rung):
    check(operator, TINY_VOLUMES[name], rung)


@EACH
@pytest.mark.parametrize("rung", ("with_zeros", "grouped"))
def test_counts_and_results_of_signals(operator, rung):
    check(operator, ConvShape.of((2, 7, 2), (3, 3, 2), stride=2, padding=((1, 2),)), rung)


@EACH
@pytest.mark.parametrize("rung", ("with_zeros", "skip_zeros"))
def test_hard_and_random_volumes(operator, rung):
    rng = random.Random(2307)
    random_shapes = [random_shape(rng, size=4, channels=2, images=1, axes=3) for _ in range(4)]
    for shape in [*list(HARD_VOLUMES.values())[2:], *random_shapes]:
        check(operator, shape, rung)


@EACH
def test_kinds_of_zeros_of_volumes_are_those_of_the_theory(operator):
    shape = TINY_VOLUMES["stride 2 does not divide"]
    counts, theory = trace.count(operator, shape, "with_zeros"), flops.count(operator, shape)
    assert (counts.by_padded, counts.by_inserted, counts.by_both) == (theory.padded, theory.inserted, theory.both)
    assert counts.by_padded > 0 and (operator == "conv2d" or counts.by_inserted > 0)


def test_kinds_of_zeros_by_hand():
    """Along an axis, inputs 0, 1, 2 read (padded, real, inserted), (real, inserted, real), (inserted, real, padded)."""
    shape = ConvShape(n=1, ih=3, iw=3, ic=1, oc=1, fh=3, fw=3, stride=2, padding=1)
    real, inside = 4, 7  # Of the 9 products of an axis, 4 have a real element, and 7 no padded one.
    counts = trace.count("conv2d_input", shape, "with_zeros")
    assert (counts.useful, counts.by_inserted, counts.by_padded) == (real**2, inside**2 - real**2, 81 - inside**2)
    # dw: taps 0, 1, 2 put (real, inserted, real) on (padded, real, real), (real, real, real), (real, real, padded)
    counts = trace.count("conv2d_weight", shape, "with_zeros")
    on_x, of_dy = 7, 6  # Of the 9 products of an axis, 7 have no padded factor, and 6 no inserted one.
    both = 81 - on_x**2 - of_dy**2 + real**2
    assert (counts.useful, counts.by_both) == (real**2, both)
    assert (counts.by_padded, counts.by_inserted) == (81 - on_x**2 - both, 81 - of_dy**2 - both)


@EACH
@pytest.mark.parametrize("shapes", [TINY_SHAPES, TINY_VOLUMES], ids=["two axes", "three axes"])
def test_events_are_exactly_the_real_triples(operator, shapes):
    shape = shapes["stride 2 does not divide"]
    place = {"x": 0, "w": 1, "dy": 2, "conv2d": 2, "conv2d_input": 0, "conv2d_weight": 1}
    triples = [set(zip(*np.nonzero(meets(axis)), strict=True)) for axis in shape.axes]
    seen = Counter()
    for event in trace.run(operator, shape, "skip_zeros").events:
        indices = {place[factor.array]: factor.place for factor in (event.first, event.second)}
        indices[place[operator]] = event.out
        seen[tuple(tuple(indices[k][axis] for k in range(3)) for axis in range(1, 1 + len(triples)))] += 1
    channels = shape.n * shape.ic * shape.oc
    assert seen == dict.fromkeys(product(*triples), channels)


@EACH
def test_skipping_rungs_do_the_same_products(operator):
    shape = TINY_SHAPES["asymmetric padding"]
    done = [trace.run(operator, shape, rung).events for rung in kernels.SIMULATED_RUNGS[1:]]
    sets = [{(frozenset((event.first, event.second)), event.out) for event in events} for events in done]
    assert len(sets[0]) == len(done[0])
    assert all(found == sets[0] for found in sets)


def test_per_result_adds_up():
    shape = ConvShape(n=1, ih=3, iw=4, ic=2, oc=1, fh=3, fw=3, padding=1)
    traced = trace.run("conv2d", shape, "with_zeros")
    wasted, useful = traced.per_result(wasted=True), traced.per_result(wasted=False)
    assert np.all(wasted + useful == 18)
    assert wasted[0, 0, 0, 0] == 2 * 5 and wasted[0, 1, 1, 0] == 0
    np.testing.assert_array_equal(useful, traced.result)  # operands that are not given are ones


def test_a_long_sum_in_splits(monkeypatch):
    shape = ConvShape(n=2, ih=3, iw=3, ic=1, oc=1, fh=1, fw=1)
    first, second, out = integers("conv2d_weight", shape, "float32")
    rungs = kernels.sk_dilated.RUNGS
    choice = tiled.Choice("conv2d_weight", shape, tiled.TILES[-1], parts=2, sms=1)
    build = lambda shape, *arrays: tiled.launches("conv2d_weight", shape, arrays, choice)  # noqa: E731
    monkeypatch.setitem(rungs, "tiled", build)
    traced = trace.run("conv2d_weight", shape, "tiled", first, second)
    assert traced.counts.useful == 18 and all(event.out == (0, 0, 0, 0) for event in traced.events)
    np.testing.assert_array_equal(traced.result, brute_force("conv2d_weight", shape, first, second))


def test_no_image():
    shape = ConvShape(n=0, ih=3, iw=3, ic=1, oc=1, fh=3, fw=3, padding=1)
    for operator in OPERATORS:
        for rung in kernels.SIMULATED_RUNGS:
            assert trace.count(operator, shape, rung) == trace.Counts(0, 0, 0, 0, 0, 0)


def test_wrong_arguments():
    shape = TINY_SHAPES["1x1 with stride 2"]
    with pytest.raises(ValueError, match="operator must be one of"):
        trace.run("conv3d", shape, "tiled")
    with pytest.raises(ValueError, match="rung must be one of"):
        trace.count("conv2d", shape, "fast")
    with pytest.raises(ValueError, match="rung must be one of .*, which are all Python, got 'tensor'"):
        trace.run("conv2d", shape, "tensor")
    with pytest.raises(TypeError, match="shape must be a ConvShape, got tuple"):
        trace.run("conv2d", (1, 2), "tiled")
    with pytest.raises(ValueError, match="w must have shape"):
        trace.run("conv2d", shape, "tiled", second=np.ones((1, 1, 1, 1), np.float32))


@EACH
def test_tiled_hides_no_zero_behind_a_bounds_test(operator):
    """If all chunks are whole, filler is only in those rows and columns of a tile that are no results."""
    shape = ConvShape(n=16, ih=2, iw=2, ic=16, oc=16, fh=2, fw=2, padding=1)
    counts = trace.count(operator, shape, "tiled")
    assert counts.masked == 0 and counts.total == flops.count(operator, shape).useful


def test_zeros_are_found_in_whichever_rung_multiplies_them(monkeypatch):
    shape = TINY_SHAPES["asymmetric padding"]
    for operator, module in kernels.BY_OPERATOR.items():
        monkeypatch.setitem(module.RUNGS, "skip_zeros", module.launch_with_zeros)
        assert trace.count(operator, shape, "skip_zeros").by_zero == flops.count(operator, shape).redundant


@cuda.jit
def padded_by_test(x, w, y):
    """Do what the kernels must not do: test the bounds in place of padding, and then multiply all the same."""
    o = cuda.grid(1)
    value = cuda.local.array(1, x.dtype)
    acc = x.dtype.type(0)
    for f in range(3):
        i = o + f - 1
        value[0] = x[i] if 0 <= i and i < x.size else x.dtype.type(0)
        acc += value[0] * w[f]
    y[o] = acc


def test_zeros_behind_a_bounds_test_are_masked_products():
    log = Log()
    x, w = (
        Watched(np.array([Number(1, log, Element(name, (k,), trace.REAL)) for k in range(size)], object), "f4", log)
        for name, size in (("x", 4), ("w", 3))
    )
    y = blank(4, "float32", log)
    Machine(log).launch(padded_by_test, (1,), (4,), (x, w, y))
    assert [float(number) for number in y.cells] == [2, 3, 3, 2]
    assert [number.masked for number in y.cells] == [1, 0, 0, 1] and len(log.events) == 10


# --- the machine ----------------------------------------------------------------------------------
@device
def wait():
    cuda.syncthreads()


HELPERS = ModuleType("helpers")
HELPERS.wait = wait


@cuda.jit
def through_a_module(out):
    tile = cuda.shared.array(4, out.dtype)
    t = cuda.threadIdx.x
    tile[3 - t] = t
    HELPERS.wait()
    out[t] = tile[t] + math.floor(1.5)


def test_names_in_a_module_are_replaced_too():
    out = blank(4, "float32", log := Log())
    Machine(log).launch(through_a_module, (1,), (4,), (out,))
    assert [float(number) for number in out.cells] == [4, 3, 2, 1]


@cuda.jit
def reverse_block(src, out):
    tile = cuda.shared.array(4, src.dtype)
    count = cuda.shared.array(4, int64)
    t = uint32(cuda.threadIdx.x)
    tile[t], count[t] = src[cuda.grid(1)], t
    wait()
    if t < 3:
        out[cuda.grid(1)] = tile[cuda.blockDim.x - 1 - t]
    cuda.syncthreads()
    if t == 3:
        out[cuda.grid(1)] = tile[0] * count[2]


@cuda.jit
def hidden_barrier(out):
    out[0] = cuda.syncthreads()


def test_threads_of_a_block_wait_for_each_other():
    log = Log()
    cells = np.array([Number(k, log, Element("x", (k,), trace.REAL)) for k in range(1, 9)], object)
    out = blank(8, "float32", log)
    Machine(log).launch(reverse_block, (2,), (4,), (Watched(cells, "float32", log), out))
    assert [float(number) for number in out.cells] == [4, 3, 2, 2, 8, 7, 6, 10]
    assert log.outside == 2  # products by a number that is no element of an operand


@cuda.jit
def size_of_the_grid(out):
    i, j = cuda.grid(2)
    rows, columns = cuda.gridsize(2)
    if i < out.shape[0] and j < out.shape[1]:
        out[i, j] = cuda.gridsize(1) * 100 + rows * 10 + columns


def test_a_kernel_can_ask_for_the_size_of_its_grid():
    log = Log()
    out = blank((3, 2), "float32", log)
    Machine(log).launch(size_of_the_grid, (2, 1), (2, 2), (out,))
    assert [float(number) for number in out.cells.flat] == [442] * 6


@cuda.jit
def number_in_the_warp(out):
    i, j = cuda.grid(2)
    out[i, j] = cuda.laneid


def test_a_thread_knows_its_number_in_the_warp():
    log = Log()
    out = blank((20, 2), "float32", log)
    Machine(log).launch(number_in_the_warp, (1, 1), (20, 2), (out,))
    numbers = [[float(number) for number in row] for row in out.cells.T]
    assert numbers == [list(range(20)), [*range(20, 32), *range(8)]]  # x counts fastest


def test_a_barrier_that_cannot_be_traced():
    log = Log()
    with pytest.raises(NotImplementedError, match="statement of its own"):
        Machine(log).launch(hidden_barrier, (1,), (1,), (blank(1, "float32", log),))


def test_numbers_of_numba():
    machine = Machine(Log())
    assert machine.plain(uint32)(-1) == 2**32 - 1 and machine.plain(int64)(-1) == -1
    assert machine.plain(len) is len


def test_an_intrinsic_is_replaced_by_its_twin():
    class Intrinsic:
        twin = staticmethod(max)

    assert Machine(Log()).plain(Intrinsic()) is max


def test_memory_that_nothing_wrote_is_nan():
    log = Log()
    assert np.isnan(float(blank(2, "float32", log)[1] + 1.0))
