"""The operators on dask arrays, in this process and on a cluster that loses a worker."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import cks_numba as cks
import cks_numba.backends as cks_backends
from cks_numba import ConvShape
from cks_numba.backends import cpu
from cks_numba.backends.cpu import repeats
from cks_numba.bench import cluster as bench_cluster
from cks_numba.buffers import LAYOUTS
from cks_numba.commands import main

da = pytest.importorskip("dask.array", reason="dask is not installed (pip install cks-numba[dask])")
import dask  # noqa: E402

import cks_numba.dask as cd  # noqa: E402

pytestmark = pytest.mark.dask
KEYS = dict(stride=2, padding=((1, 0), (1, 2)), groups=2, backend="cpu")


@pytest.fixture(autouse=True)
def in_this_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def operands(layout="NHWC", images=10):
    rng, axes = np.random.default_rng(0), len(layout) - 2
    x, w = rng.standard_normal((images, *(6, 7, 3)[:axes], 4)), rng.standard_normal((6, *[3] * axes, 2))
    if layout[-1] != "C":
        x, w = (np.moveaxis(array, -1, 1).copy() for array in (x, w))
    y = getattr(cks, f"conv{axes}d")(x, w, layout=layout, **keys_of(layout))
    return x, w, rng.standard_normal(y.shape), rng.standard_normal(6)


def keys_of(layout):
    """Options of layers with as many axes as the layout has; those of two are `KEYS`."""
    return KEYS | {"padding": ((1, 0), (1, 2), (0, 1))[: len(layout) - 2]}


def cut(array, images):
    return da.from_array(array, chunks=(images, *[-1] * (array.ndim - 1)))


@pytest.mark.parametrize("layout", [layout for pair in LAYOUTS.values() for layout in pair])
@pytest.mark.parametrize("images", [3, 10, (0, 1, 9), (4, 4, 0, 2)], ids=str)
def test_same_as_without_dask(layout, images):
    x, w, dy, bias = operands(layout)
    keys, name = keys_of(layout) | {"layout": layout}, f"conv{len(layout) - 2}d"
    conv, conv_input, conv_weight = ([getattr(m, f"{name}{by}") for m in (cd, cks)] for by in ("", "_input", "_weight"))
    y = conv[0](cut(x, images), w, bias, **keys)
    assert isinstance(y, da.Array) and y.chunks[0] == cut(x, images).chunks[0] and y.dtype == x.dtype
    np.testing.assert_array_equal(y.compute(), conv[1](x, w, bias, **keys))
    dx = conv_input[0](x.shape, w, cut(dy, images), **keys)
    assert dx.chunks[0] == y.chunks[0]
    np.testing.assert_array_equal(dx.compute(), conv_input[1](x.shape, w, dy, **keys))
    for other in (images, 5):  # dy may be cut in another way
        dw = conv_weight[0](cut(x, images), w.shape, cut(dy, other), **keys)
        assert dw.shape == w.shape and dw.npartitions == 1
        np.testing.assert_allclose(dw.compute(), conv_weight[1](x, w.shape, dy, **keys), rtol=0, atol=1e-12)


@pytest.mark.parametrize("layout", [layout for pair in LAYOUTS.values() for layout in pair])
@pytest.mark.parametrize("images", [3, 10, (0, 1, 9), (4, 4, 0, 2)], ids=str)
def test_transposed_convolution_is_that_without_dask(layout, images):
    _, w, dy, _ = operands(layout)
    bias, name = np.arange(4.0), f"conv_transpose{len(layout) - 2}d"
    keys = keys_of(layout) | {"layout": layout, "output_padding": 1}
    y = getattr(cd, name)(cut(dy, images), w, da.from_array(bias), **keys)
    wanted = getattr(cks, name)(dy, w, bias, **keys)
    assert isinstance(y, da.Array) and y.chunks[0] == cut(dy, images).chunks[0]
    assert y.shape == wanted.shape and y.dtype == wanted.dtype
    np.testing.assert_array_equal(y.compute(), wanted)


def test_a_chain_stays_lazy_and_takes_dask_filters(monkeypatch):
    x, w, dy, _ = operands()
    ran = []
    right = cks_backends.run
    monkeypatch.setattr(cks_backends, "run", lambda *a: ran.append(a[1]) or right(*a))
    repeats.forget()
    monkeypatch.setattr(cpu, "NOTES_CALLS", False)  # The second of two equal chunks would not call it.
    y = cd.conv2d(cut(x, 4), da.from_array(w), **KEYS)
    dw = cd.conv2d_weight(cut(x, 4), w.shape, y - 1, **KEYS)
    assert not ran
    dw.compute()
    assert sorted(ran) == ["conv2d"] * 3 + ["conv2d_weight"] * 3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bits_are_rounded_once(dtype):
    """However many chunks there are, the sum of the filter gradient is made in float32."""
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed (pip install ml_dtypes)")
    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    x, w, dy, bias = (array.astype(dtype) for array in operands(images=40))
    y = cd.conv2d(cut(x, 3), w, bias, **KEYS)
    assert y.dtype == y.compute().dtype == dtype
    np.testing.assert_array_equal(y.compute(), cks.conv2d(x, w, bias, **KEYS))
    dx = cd.conv2d_input(x.shape, w, cut(dy, 3), **KEYS)
    np.testing.assert_array_equal(dx.compute(), cks.conv2d_input(x.shape, w, dy, **KEYS))
    dw = cd.conv2d_weight(cut(x, 1), w.shape, cut(dy, 1), **KEYS)
    assert dw.dtype == dw.compute().dtype == dtype
    exact = cks.conv2d_weight(x.astype(np.float64), w.shape, dy.astype(np.float64), **KEYS)
    step = float(ml_dtypes.finfo(dtype).eps) * 2.0 ** (np.frexp(exact)[1] - 1)
    assert (abs(dw.compute().astype(np.float64) - exact) <= 0.501 * step + 1e-5).all()


def test_float32_stays_float32():
    x, w, dy, _ = (array.astype(np.float32) for array in operands(images=40))
    dw = cd.conv2d_weight(cut(x, 1), w.shape, cut(dy, 1), **KEYS)
    assert dw.dtype == dw.compute().dtype == np.float32


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x, w, dy: cd.conv2d(x.compute(), w), TypeError, "x must be a dask array, got ndarray"),
        (lambda x, w, dy: cd.conv2d(x[0], w), ValueError, "x must have 4 axes, got"),
        (lambda x, w, dy: cd.conv3d(x, w), ValueError, "x must have 5 axes, got"),
        (lambda x, w, dy: cd.conv1d(x[0].rechunk(3), w[0]), ValueError, r"use x.rechunk\({1: -1, 2: -1}\)"),
        (lambda x, w, dy: cd.conv1d_input((10, 6), w[0], dy[:, 0]), ValueError, r"must have 3 axes, got \(10, 6\)"),
        (
            lambda x, w, dy: cd.conv2d(x[x[:, 0, 0, 0] > 0], w),
            ValueError,
            r"x must have axes of known size, .*: use x.compute_chunk_sizes",
        ),
        (
            lambda x, w, dy: cd.conv2d(x, da.from_array(w)[da.from_array(w)[:, 0, 0, 0] > 0]),
            ValueError,
            r"w must have axes of known size, .*: use w.compute_chunk_sizes",
        ),
        (lambda x, w, dy: cks.conv2d(x, w), TypeError, "got Array: cks_numba.dask has the operators for dask"),
        (
            lambda x, w, dy: cd.conv2d(x.rechunk(3), w),
            ValueError,
            r"x must be chunked along its first axis alone, .*use x",
        ),
        (lambda x, w, dy: cd.conv2d(x, da.from_array(w, chunks=2)), ValueError, "w must be one chunk"),
        (lambda x, w, dy: cd.conv2d(x, w, stride=0, groups=2), ValueError, "stride must be at least 1, got 0"),
        (lambda x, w, dy: cd.conv2d(x, w[..., :1]), ValueError, "channels do not match"),
        (lambda x, w, dy: cd.conv2d(x, w.astype(np.float32), groups=2), TypeError, "x and w must have the same dtype"),
        (lambda x, w, dy: cd.conv_transpose2d(dy.compute(), w), TypeError, "x must be a dask array, got ndarray"),
        (lambda x, w, dy: cd.conv_transpose2d(dy.rechunk(3), w), ValueError, "x must be chunked along its first axis"),
        (lambda x, w, dy: cd.conv_transpose3d(dy, w), ValueError, "x must have 5 axes, got"),
        (lambda x, w, dy: cd.conv_transpose2d(dy, w, output_padding=1), ValueError, "output_padding must be"),
        (lambda x, w, dy: cd.conv_transpose2d(dy, w, np.ones(3), **KEYS), ValueError, "bias must"),
        (lambda x, w, dy: cd.conv2d_input((9, 6, 7, 4), w, dy, **KEYS), ValueError, "input_size must have 10 images"),
        (lambda x, w, dy: cd.conv2d_input(9, w, dy, **KEYS), ValueError, "input_size must have 4 axes, got 9"),
        (lambda x, w, dy: cd.conv2d_input((10, 60, 7, 4), w, dy, **KEYS), ValueError, "input_size rows must be from"),
        (lambda x, w, dy: cd.conv2d_weight(x, w.shape, dy[:4], **KEYS), ValueError, "dy must have 10 images"),
        (lambda x, w, dy: cd.conv2d_weight(x, w.shape, dy), ValueError, "channels do not match"),
        (
            lambda x, w, dy: cd.cost(ConvShape(n=1, ih=1, iw=1, ic=1, oc=1, fh=1, fw=1), 0),
            ValueError,
            "workers must be",
        ),
    ],
)
def test_errors_come_before_anything_is_computed(call, error, message):
    x, w, dy, _ = operands()
    with pytest.raises(error, match=message):
        call(cut(x, 3), w, cut(dy, 3))


def test_cost_is_that_of_the_graph():
    """The steps of the tree are counted in dask's own graph."""
    shape = ConvShape(n=100, ih=4, iw=4, ic=2, oc=3, fh=3, fw=3, padding=1)
    x, dy = (cut(np.ones(size), 1) for size in (shape.x_shape, shape.y_shape))
    found = cd.cost(shape, 100, itemsize=8)
    graph = cd.conv2d_weight(x, shape.w_shape, dy, padding=1).__dask_graph__()
    names = {key[0] for key in graph if key[0].startswith(("sum-partial", "sum-aggregate"))}
    assert found.steps == len(names)
    assert found.gradients == 99 * 8 * np.prod(shape.w_shape) and found.filters == 100 * 8 * np.prod(shape.w_shape)
    assert cd.cost(shape, 1000).gradients == cd.cost(shape, 100).gradients  # a worker without an image has none
    assert cd.cost(shape, 1).gradients == cd.cost(shape, 1).steps == 0


def test_without_dask_it_says_how_to_install():
    code = "import sys; sys.modules['dask'] = None; import cks_numba.dask"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: cks_numba.dask needs dask: pip install 'cks-numba[dask]'" in done.stderr


# --- a cluster ----------------------------------------------------------------------------------------
def slowly(block):
    """Return the block after a pause, so that a worker can be killed while others still wait."""
    time.sleep(0.05)
    return block


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # a worker that is killed leaves files and sockets behind
def test_a_worker_is_killed_and_the_result_is_right():
    distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")
    x, w, dy, _ = operands(images=120)
    wanted = cd.conv2d_weight(cut(x, 1), w.shape, cut(dy, 1), **KEYS).compute()
    options = dict(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        pids = client.run(os.getpid)
        assert len(set(pids.values()) | {os.getpid()}) == 3
        slow = cut(x, 1).map_blocks(slowly, dtype=x.dtype, meta=x[:0])
        future = client.compute(cd.conv2d_weight(slow, w.shape, cut(dy, 1), **KEYS))
        wait_until(lambda: len(held(client)) >= 4)
        assert not future.done()
        victim = next(address for addresses in held(client).values() for address in addresses)
        os.kill(pids[victim], signal.SIGKILL)
        got = future.result(timeout=120)
        assert victim not in client.scheduler_info()["workers"]
    np.testing.assert_array_equal(got, wanted)  # the order of the sums does not depend on the workers


def held(client):
    """Return the filter gradients that wait on a worker for the next step of the tree, with its address."""
    return {key: addresses for key, addresses in client.who_has().items() if addresses and str(key).startswith("('sum")}


def wait_until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "took too long"
        time.sleep(0.05)


# --- the benchmark --------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # workers that are closed may leave sockets behind
def test_the_benchmark_prints_how_one_and_two_workers_do(capsys):
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    assert main(["bench", "--dask", "--quick", "--rounds", "2"]) == 0
    said = capsys.readouterr().out
    lines = re.findall(
        r"^(\w+) +([\d.]+) ms +[\d.]+/s +([\d.]+) ms +[\d.]+/s +([\d.]+) times", said, flags=re.MULTILINE
    )
    assert [name for name, *_ in lines] == ["conv2d", "conv2d_input", "conv2d_weight"]
    for _, *numbers in lines:
        one, two, ratio = map(float, numbers)
        assert ratio == pytest.approx(one / two, abs=0.02 + 0.05 * one / two)
    assert "1000 workers with up to 2 images each" in said


def test_the_benchmark_refuses_results_that_depend_on_the_workers():
    with pytest.raises(RuntimeError, match="conv2d: one worker and several give other results"):
        bench_cluster._same("conv2d", lambda workers: np.array([workers]))
    bench_cluster._same("conv2d", lambda workers: np.array([0]))


def test_the_benchmark_calls_the_operators():
    x, w, dy, _ = operands()
    shape = ConvShape(n=10, ih=6, iw=7, ic=4, oc=6, fh=3, fw=3, stride=2, padding=1)
    w = np.random.default_rng(1).standard_normal(shape.w_shape)
    dy = np.random.default_rng(2).standard_normal(shape.y_shape)
    cuts = {"x": cut(x, 4), "w": w, "dy": cut(dy, 4)}
    wanted = {
        "conv2d": cks.conv2d(x, w, stride=2, padding=1),
        "conv2d_input": cks.conv2d_input(x.shape, w, dy, stride=2, padding=1),
        "conv2d_weight": cks.conv2d_weight(x, w.shape, dy, stride=2, padding=1),
    }
    for name, result in wanted.items():
        np.testing.assert_allclose(bench_cluster.lazy(name, shape, cuts).compute(), result, rtol=0, atol=1e-12)


def test_the_benchmark_computes_anew_in_every_round():
    x, w, dy, _ = operands()
    cuts = {"x": cut(x, 4), "dy": cut(dy, 4)}
    result = cd.conv2d(cuts["x"], w, **KEYS)
    first, second = (bench_cluster.again(result, cuts) for _ in range(2))
    assert len({array.name for array in (result, first, second)}) == 3
    assert cuts["x"].name in {key[0] for key in first.__dask_graph__() if isinstance(key, tuple)}  # x itself is reused
    np.testing.assert_array_equal(first.compute(), result.compute())


def test_the_benchmark_without_dask_says_how_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert main(["bench", "--dask"]) == 1
    assert "--dask needs dask and distributed: pip install 'cks-numba[dask]'" in capsys.readouterr().err
