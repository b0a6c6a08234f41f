"""What people report of other libraries, tried here: one test for each report, named by its repository and number.

A report is of a bug, or of something that surprised its reader. What the test asks is what they should have got. Those
about processes, threads and caches on disk are named in tests/backends/test_processes.py, those about a CUDA driver in
tests/commands/test_commands.py.
"""

from __future__ import annotations

import threading
import warnings
from tempfile import TemporaryFile

import numba
import numpy as np
import pytest
from reference import brute_force, integers

import cks_numba as cks
from cks_numba import ConvShape, flops
from cks_numba.backends.cpu import threads
from cks_numba.geometry import OPERATORS, plan

LAYER = ConvShape.of


def ones(*size, dtype=np.float32):
    return np.ones(size, dtype)


def counting(*size, dtype=np.float32):
    """Return an array of 0, 1, 2 and so on."""
    return np.arange(np.prod(size), dtype=dtype).reshape(size)


def random(*size, dtype=np.float32):
    return np.random.default_rng(0).standard_normal(size).astype(dtype)


def same(got, wanted, tolerance=1e-5):
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)


# --- layers whose result or gradient was wrong, or did not come ------------------------------------------------------
LAYERS = {
    # a transposed convolution ignores dilation
    "pytorch/pytorch#1565": LAYER((1, 12, 1), (1, 3, 1), stride=2, padding=1, dilation=2),
    "apache/mxnet#11203": LAYER((1, 7, 7, 1), (1, 2, 2, 1), stride=2, dilation=2),
    # an input gradient with dilation is wrong, or its size is refused
    "jax-ml/jax#567": LAYER((1, 9, 9, 3), (2, 3, 3, 3), stride=2, dilation=3),
    "pytorch/pytorch#13008": LAYER((1, 5, 5, 1), (1, 3, 3, 1), dilation=2),
    "pytorch/pytorch#14272": LAYER((1, 9, 8, 2), (3, 3, 3, 2), stride=2, padding=1, dilation=2),
    # a gradient with a stride has another size than it should
    "huggingface/candle#633": LAYER((1, 16, 16, 3), (4, 8, 8, 3), stride=8),
    "huggingface/candle#1212": LAYER((1, 12, 12, 3), (4, 7, 7, 3), stride=2, padding=3),
    "huggingface/candle#2337": LAYER((1, 8, 9, 2), (4, 3, 3, 2), stride=2, dilation=1),
    # channel groups: the filter's size, the order of the results, the gradients
    "apache/mxnet#748": LAYER((1, 5, 5, 4), (4, 3, 3, 2), groups=2),
    "pytorch/pytorch#1972": LAYER((2, 6, 6, 4), (4, 3, 3, 2), groups=2),
    "tracel-ai/burn#1891": LAYER((1, 4, 4, 4), (4, 3, 3, 1), stride=2, padding=1, groups=4),
    "uxlfoundation/oneDNN#352": LAYER((1, 1, 1, 8), (8, 1, 1, 4), groups=2),
    # a stride that is not square, or larger than the filter
    "apache/mxnet#2365": LAYER((5, 16, 16, 3), (8, 2, 4, 3), stride=(2, 4)),
    "microsoft/onnxruntime#1053": LAYER((1, 7, 7, 4), (6, 1, 1, 4), stride=2),
    # the process ends: a filter of 51x51; a stride of 2**55, whose one window lies on padding
    "pytorch/pytorch#39824": LAYER((1, 20, 20, 1), (1, 51, 51, 1), padding=25),
    "pytorch/pytorch#194016": LAYER((2, 9, 8, 1), (1, 9, 9, 1), stride=2**55, padding=10**6),
    # padding at one end; no image
    "microsoft/onnxruntime#26215": LAYER((1, 8, 8, 3), (4, 2, 2, 3), padding=((0, 1), (0, 1))),
    "pytorch/pytorch#12013": LAYER((0, 5, 5, 2), (3, 3, 3, 2)),
}


@pytest.mark.parametrize("report", LAYERS)
def test_layers(report):
    shape = LAYERS[report]
    name, first_axis = f"conv{len(shape.axes)}d", shape.axes[0]
    small = max(first_axis.before, first_axis.taps) < 20
    options = {key: tuple(getattr(axis, key) for axis in shape.axes) for key in ("stride", "dilation")}
    options |= {"padding": tuple((axis.before, axis.after) for axis in shape.axes), "groups": shape.groups}
    for operator in OPERATORS:
        first, second, _ = integers(operator, shape, "float32")
        sizes = {"conv2d": (first, second), "conv2d_input": (shape.x_shape, first, second)}
        given = sizes.get(operator) or (first, shape.w_shape, second)
        for backend in ("cpu", "steps") if small else ("cpu",):
            got = getattr(cks, operator.replace("conv2d", name))(*given, **options, backend=backend)
            np.testing.assert_array_equal(got, brute_force(operator, shape, first, second))


# --- arguments that were accepted and gave something wrong, or that ended the process ---------------------------------
X, W = ones(2, 5, 5, 4), ones(6, 3, 3, 4)
ONE, UP = ones(1, 3, 3, 4), ones(4, 3, 3, 3)
REFUSED = {
    "tinygrad/tinygrad#14115": (lambda: cks.conv2d(X, W, dilation=0), "dilation must be at least 1, got 0"),
    # a bias that is as long as something else, and so added to it
    "sonots/cumo#443": (lambda: cks.conv2d(X, W, ones(1)), r"bias must have shape \(6,\) .*got \(1,\)"),
    "tensorflow/swift-apis#676": (lambda: cks.conv2d(X, ONE, ones(3)), r"bias must have shape \(1,\) .*got \(3,\)"),
    "apache/tvm#10235": (lambda: cks.conv_transpose2d(X, UP, ones(3), groups=2), r"bias must have shape \(6,\)"),
    # a filter that is one number, or has more axes than the image
    "onnx/onnx#6180": (lambda: cks.conv2d(X, np.array(1.0, "f4")), r"w must have 4 axes .*got shape \(\)"),
    "microsoft/onnxruntime#28731": (lambda: cks.conv2d(X, W[..., None]), r"w must have 4 axes .*\(6, 3, 3, 4, 1\)"),
    # sizes that overflow
    "pytorch/pytorch#174653": (lambda: cks.conv2d(X, W, padding=2**55), "larger than any memory"),
    # arguments in each other's place
    "IntelLabs/bayesian-torch#34": (lambda: cks.conv_transpose2d(X, W, None, 2, 1), "options cannot be positional"),
    "apache/systemds#541": (lambda: cks.conv_transpose2d(X, W), r"w is for 6 .*w.transpose\(3, 1, 2, 0\) would fit"),
    # what no layer can be
    "jax-ml/jax#4216": (lambda: cks.conv_transpose2d(X, UP, stride=2, padding="same"), '"same" needs stride 1'),
    "pytorch/pytorch#5112": (lambda: cks.conv_transpose2d(X, UP, output_padding=1), "output_padding must be smaller"),
    "pytorch/pytorch#157909": (lambda: cks.conv_transpose2d(X, UP, padding=4), "result would have -1 rows"),
}


@pytest.mark.parametrize("report", REFUSED)
def test_refused(report):
    function, message = REFUSED[report]
    with pytest.raises((ValueError, TypeError), match=message):
        function()


# --- everything else --------------------------------------------------------------------------------------------
CHECKS = []


def report(name, needs=""):
    """Add a check to the table; it is skipped without a package that it needs."""

    def add(check):
        CHECKS.append(pytest.param(check, needs, id=name, marks=getattr(pytest.mark, needs) if needs else ()))
        return check

    return add


@report("pytorch/pytorch#15501: the filter gradient of conv1d with stride and dilation, by hand")
def _():
    x, dy = np.float32([[[7], [3]], [[3], [2]]]), ones(2, 1, 1)
    dw = cks.conv1d_weight(x, (1, 3 - 1, 1), dy, stride=2, padding=1, dilation=2, backend="cpu")
    assert dw.ravel().tolist() == [0, 5]


@report("pytorch/pytorch#63314: the gradient of a transposed convolution with stride 2 reads the wrong element")
def _():
    dx = cks.conv2d(np.float32([[[[1.5], [0], [0.7]]]]), np.float32([[[[-0.7767]]]]), stride=2, backend="cpu")
    same(dx.ravel(), [1.5 * -0.7767, 0.7 * -0.7767])


@report("apache/mxnet#11629: a transposed convolution with dilation 2 and stride 2, as Caffe has it")
def _():
    x, w = counting(1, 3, 3, 1), counting(1, 2, 2, 1)
    wanted = np.zeros((7, 7))
    wanted[::2, ::2] = [[0, 0, 1, 2], [0, 5, 11, 11], [6, 23, 29, 23], [12, 32, 37, 24]]
    y = cks.conv_transpose2d(x, w, stride=2, dilation=2, backend="cpu")
    np.testing.assert_array_equal(y[0, ..., 0], wanted)


@report("pytorch/pytorch#8816: is the row of output_padding zero?")
def _():
    x, w = ones(1, 1, 1, 1), counting(1, 3, 3, 1)
    y = cks.conv_transpose2d(x, w, stride=2, padding=1, output_padding=1, backend="cpu")
    assert y.ravel().tolist() == [4, 5, 7, 8]  # computed: the filter from its middle on


@report("pytorch/pytorch#70518: a transposed layer of three axes, one of them flat, gives 31 and not 32")
def _():
    x, w = ones(1, 2, 16, 16, 2), ones(2, 1, 3, 3, 3)
    options = dict(stride=(1, 2, 2), padding=(0, 1, 1), backend="cpu")
    assert cks.conv_transpose3d(x, w, **options).shape == (1, 2, 31, 31, 3)
    assert cks.conv_transpose3d(x, w, **options, output_padding=(0, 1, 1)).shape == (1, 2, 32, 32, 3)


@report("openvinotoolkit/openvino#202: output_padding changes nothing")
def _():
    y = cks.conv_transpose2d(ones(1, 16, 16, 2), ones(2, 3, 3, 2), stride=2, padding=1, output_padding=1, backend="cpu")
    assert y.shape == (1, 32, 32, 2)


@report("Samsung/TICO#420: padding of a transposed convolution crops its result")
def _():
    x, w = random(1, 4, 5, 2), random(2, 3, 3, 3)
    whole = cks.conv_transpose2d(x, w, stride=2, backend="cpu")
    same(cks.conv_transpose2d(x, w, stride=2, padding=1, backend="cpu"), whole[:, 1:-1, 1:-1])


@report('tinygrad/tinygrad#17805: padding="same" takes the dilation of the other axis')
def _():
    x, w = random(1, 28, 31, 3), random(8, 3, 5, 3)
    y = cks.conv2d(x, w, padding="same", dilation=(2, 3), backend="cpu")
    assert y.shape == (1, 28, 31, 8)
    same(y, cks.conv2d(np.pad(x, ((0, 0), (2, 2), (6, 6), (0, 0))), w, dilation=(2, 3), backend="cpu"))


@report("rwth-i6/returnn#958: a bias is added along the wrong axis if its length fits there")
def _():
    x, w, bias = ones(1, 2, 6, 6), ones(4, 2, 3, 3), counting(4)
    y = cks.conv2d(x, w, bias, layout="NCHW", backend="cpu")
    np.testing.assert_array_equal(y, np.broadcast_to(18 + bias[:, None, None], (1, 4, 4, 4)))


@report("1adrianb/face-alignment#259: an image whose colours are turned around has negative strides")
def _():
    x, w = random(1, 6, 6, 3), random(4, 3, 3, 3)
    np.testing.assert_array_equal(cks.conv2d(x[..., ::-1], w, backend="cpu"), cks.conv2d(x[..., ::-1].copy(), w))


@report("pytorch/pytorch#1246: a filter that is every other row and column of a larger one")
def _():
    large, x = random(3, 4, 4, 3), random(1, 5, 5, 3)
    w = large[:, ::2, ::2]
    np.testing.assert_array_equal(cks.conv2d(x, w, backend="cpu"), cks.conv2d(x, w.copy(), backend="cpu"))


@report("pytorch/pytorch#82060: one input channel, and a filter in another memory format", needs="torch")
def _():
    import torch

    x, w = torch.randn(1, 1, 20, 20), torch.randn(8, 1, 3, 3)
    last = w.to(memory_format=torch.channels_last)
    got = [cks.conv2d(x, each, padding=1, layout="NCHW", backend="cpu") for each in (w, last)]
    assert torch.equal(*got)
    torch.testing.assert_close(got[0], torch.conv2d(x, w, padding=1))


@report("pytorch/pytorch#99519: a filter in channels_last makes a transposed convolution random", needs="torch")
def _():
    import torch

    last = {"memory_format": torch.channels_last}
    x, w = torch.ones(1, 1, 2, 2).to(**last), torch.ones(1, 2, 5, 5).to(**last)
    y = cks.conv_transpose2d(x, w, layout="NCHW", backend="cpu")
    torch.testing.assert_close(y, torch.conv_transpose2d(x.contiguous(), w.contiguous()))


@report("pytorch/pytorch#114090: nested tensors end in an internal error", needs="torch")
def _():
    import torch

    from cks_numba import torch as ct

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # nested tensors are a prototype
        nested = torch.nested.nested_tensor([torch.ones(3, 5, 5)])
    with pytest.raises(TypeError, match=r"x must be a dense tensor, got a nested one: take x.to_padded_tensor\(0\)"):
        cks.conv2d(nested, torch.ones(4, 3, 3, 3), layout="NCHW")
    with pytest.raises(TypeError, match="input must be a dense tensor, got a nested one"):
        ct.conv2d(nested, torch.ones(4, 3, 3, 3))
    assert cks.conv2d(nested.to_padded_tensor(0), torch.ones(4, 3, 3, 3), layout="NCHW").shape == (1, 4, 3, 3)


@report("pytorch/pytorch#110387: equal images with other strides give other bits")
def _():
    x, w = random(1, 3, 32, 32), random(129, 3, 3, 3)
    results = [cks.conv2d(each, w, layout="NCHW", backend="cpu") for each in (x, np.asfortranarray(x))]
    assert results[0].tobytes() == results[1].tobytes()


@report("pytorch/pytorch#2201: the bits depend on the number of threads")
def _():
    shape = LAYER((8, 16, 16, 32), (32, 3, 3, 32), padding=1)
    x, w, dy = random(*shape.x_shape), random(*shape.w_shape), random(*shape.y_shape)
    found, before = [], numba.get_num_threads()
    if before == 1:
        pytest.skip("one thread is all that there is")
    try:
        for count in (1, before):
            numba.set_num_threads(count)
            keys = dict(padding=1, backend="cpu")
            results = cks.conv2d(x, w, **keys), cks.conv2d_input(x.shape, w, dy, **keys)
            found.append([y.tobytes() for y in (*results, cks.conv2d_weight(x, w.shape, dy, **keys))])
    finally:
        numba.set_num_threads(before)
    assert found[0] == found[1]


@report("pytorch/pytorch#157237: NaN at the end of a signal spreads, for some sizes of the batch")
def _():
    w = random(1, 3, 1)
    for count in (4, 16, 32):
        x = random(count, 12, 1)
        x[3, -4:] = np.nan
        y = cks.conv1d(x, w, padding=((2, 0),), backend="cpu")
        wanted = np.zeros(y.shape, bool)
        wanted[3, -4:] = True
        np.testing.assert_array_equal(np.isnan(y), wanted)


@report("pytorch/pytorch#12484: a filter of NaN gives numbers")
def _():
    assert np.isnan(cks.conv1d(random(2, 9, 5), np.full((7, 3, 5), np.nan, np.float32), padding=1, backend="cpu")).all()


@report("tracel-ai/burn#5385: padding times infinity is NaN for some numbers of channels, and nothing for others")
def _():
    for channels, filters in [(c, 8) for c in range(1, 7)] + [(3, k) for k in range(15, 19)]:
        w = ones(filters, 3, 3, channels)
        w[:, 0, 0] = -np.inf
        y = cks.conv2d(ones(1, 4, 4, channels), w, padding=1, backend="cpu")
        assert not np.isnan(y).any()
        np.testing.assert_array_equal(np.isfinite(y[0, ..., 0]), np.add.outer([0, 1, 1, 1], [0, 1, 1, 1]) < 2)


@report("tensorflow/tensorflow#60315: an image of infinity gives NaN where there are many channels")
def _():
    for channels in (2, 128):
        y = cks.conv2d(np.full((1, 6, 6, channels), np.inf, np.float32), ones(256, 3, 3, channels), backend="cpu")
        assert (y == np.inf).all()


@report("pytorch/pytorch#153700: a result too large for float16 is infinity in one place and NaN in another")
def _():
    rng = np.random.default_rng(2186)
    x, w = rng.uniform(-3.998, 5.0, (2, 7, 15, 23)), np.full((7, 3, 15, 18), -9990.0)
    options = dict(padding=2, layout="NCHW", backend="cpu")
    y = cks.conv_transpose2d(x.astype(np.float16), w.astype(np.float16), **options)
    with np.errstate(over="ignore"):
        wanted = cks.conv_transpose2d(x.astype(np.float16).astype(float), w, **options).astype(np.float16)
    assert np.isinf(wanted).any() and not np.isnan(y).any()
    np.testing.assert_array_equal(np.isinf(y), np.isinf(wanted))


@report("pytorch/pytorch#2391: sums in float16 overflow on the way to a small result")
def _():
    x = np.repeat(np.float16([32000, -32000]), 4).reshape(1, 1, 1, 8)
    assert cks.conv2d(x, ones(1, 1, 1, 8, dtype=np.float16), backend="cpu").item() == 0


@report("xarray-contrib/xarray-spatial#1096: float64 is computed in float32")
def _():
    x = 1e7 + counting(1, 2, 2, 1, dtype=np.float64) / 100
    assert np.abs(cks.conv2d(x, ones(1, 1, 1, 1, dtype=np.float64), backend="cpu") - x).max() == 0


@report("jax-ml/jax#940: no convolution in float64")
def _():
    for operator in (cks.conv2d, cks.conv_transpose2d):
        assert operator(ones(1, 3, 3, 1, dtype=np.float64), ones(1, 3, 3, 1, dtype=np.float64)).dtype == np.float64


@report("pytorch/pytorch#34202: the gradients of no image")
def _():
    dw = cks.conv2d_weight(ones(0, 5, 5, 2), (3, 3, 3, 2), ones(0, 3, 3, 3), backend="cpu")
    assert dw.shape == (3, 3, 3, 2) and not dw.any()


@report("pytorch/pytorch#63299: no image, in channels_last", needs="torch")
def _():
    import torch

    from cks_numba import torch as ct

    layer = torch.nn.Sequential(ct.CKSConv2d(3, 16, 3))
    layer = layer.to(memory_format=torch.channels_last)
    x = torch.randn(0, 3, 10, 5, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.shape == (0, 16, 8, 3) and x.grad.shape == x.shape and not layer[0].weight.grad.any()


@report("patrick-kidger/equinox#1259: a transposed convolution multiplies inserted zeros in its gradient")
def _():
    shape = LAYER((1, 64, 64, 4), (4, 3, 3, 4), stride=2, padding=1)
    for operator in OPERATORS:
        assert plan(operator, shape).useful == flops.count(operator, shape).useful < shape.oh * shape.ow * 9 * 16


@report("pytorch/pytorch#46741: a file that is mapped into memory, to be read alone, ends the process")
def _():
    x, w = random(1, 5, 5, 3), random(3, 1, 1, 3)
    with TemporaryFile() as file:
        file.write(x.tobytes())
        file.flush()
        mapped = np.memmap(file, np.float32, "r", shape=x.shape)
        np.testing.assert_array_equal(cks.conv2d(mapped, w, backend="cpu"), cks.conv2d(x, w, backend="cpu"))
        with pytest.raises(ValueError, match="out must be writeable, got a read-only array"):
            cks.conv2d(x, w, backend="cpu", out=mapped)


# --- PyTorch, JAX, dask and ONNX ------------------------------------------------------------------------------------
@report("pytorch/pytorch#75889: output_size is ignored for one image without a batch", needs="torch")
def _():
    import torch

    from cks_numba import torch as ct

    layer = ct.CKSConvTranspose2d(1, 1, 16, stride=16, padding=7, bias=False)
    x, size = torch.randn(1, 15, 13), (1, 240, 200)
    y = layer(x, output_size=size)
    assert y.shape == size
    torch.testing.assert_close(y, layer(x[None], output_size=size[1:])[0])


@report("pytorch/pytorch#5112: the gradient with dilation 2 and output_padding 1 ends the process", needs="torch")
def _():
    import torch

    from cks_numba import torch as ct

    x, w = torch.ones(1, 4, 1, 1, requires_grad=True), torch.ones(4, 1, 3, 3, requires_grad=True)
    ct.conv_transpose2d(x, w, output_padding=1, dilation=2).sum().backward()
    assert (x.grad == 9).all() and (w.grad == 1).all()


@report("pytorch/pytorch#3342: no second derivative of a transposed convolution", needs="torch")
def _():
    import torch

    from cks_numba import torch as ct

    operands = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in ((1, 2, 1, 2), (2, 1, 2, 2))]
    torch.autograd.gradgradcheck(lambda x, w: ct.conv_transpose2d(x, w, stride=2, groups=2, dilation=2), operands)


@report("jax-ml/jax#24255: a callback hangs for large arrays", needs="jax")
def _():
    import jax

    from cks_numba import jax as cj

    x, w = jax.numpy.ones((1, 500, 500, 1)), jax.numpy.ones((1, 3, 3, 1))

    def calls():
        step = jax.jit(lambda x: cj.conv2d(x, w, padding=1) / 9)
        for _ in range(20):  # asynchronous: the next call is sent before the last one has ended
            found.append(step(found[-1] if found else x))

    found = []
    worker = threading.Thread(target=calls, daemon=True)
    worker.start()
    worker.join(60)
    assert not worker.is_alive() and found[-1][0, 250, 250, 0] == 1


@report("jax-ml/jax#25861: asynchronous dispatch of a callback in a loop gets stuck", needs="jax")
def _():
    import jax

    from cks_numba import jax as cj

    w = jax.numpy.ones((1, 3, 1)) / 3
    loop = jax.jit(lambda x: jax.lax.fori_loop(0, 20, lambda _, y: cj.conv1d(y, w, padding=1), x))
    assert loop(jax.numpy.ones((1, 1000, 1)))[0, 500, 0] == pytest.approx(1)


@report("jax-ml/jax#12194: a callback gets other arrays outside of jit", needs="jax")
def _():
    import jax

    from cks_numba import jax as cj

    x, w = (jax.numpy.asarray(random(*size)) for size in ((1, 6, 6, 3), (4, 3, 3, 3)))
    np.testing.assert_array_equal(cj.conv2d(x, w), jax.jit(cj.conv2d)(x, w))


@report("jax-ml/jax#37922: no convolution of one axis in bfloat16 with a stride and dilation", needs="jax")
def _():
    import jax

    from cks_numba import jax as cj

    x, w = (jax.numpy.asarray(random(*size), "bfloat16") for size in ((2, 4, 16), (16, 4, 3)))
    options = dict(stride=2, padding=(1, 2), dilation=2, layout="NCW")
    wanted = jax.lax.conv_general_dilated(
        *(each.astype("float32") for each in (x, w)), (2,), [(1, 2)], rhs_dilation=(2,)
    )
    y = cj.conv1d(x, w, **options)
    assert y.dtype == "bfloat16"
    same(y.astype("float32"), wanted, 0.01)


@report("jax-ml/jax#5832: gradients of a vmap of a scan of a function with a gradient of its own", needs="jax")
def _():
    import jax

    from cks_numba import jax as cj

    x, w = (jax.numpy.asarray(random(*size)) for size in ((3, 1, 4, 4, 2), (2, 3, 3, 2)))

    def loss(convolution, x, w):
        steps = jax.vmap(lambda x: jax.lax.scan(lambda y, _: (convolution(y, w), None), x, length=2)[0])
        return (steps(x) ** 2).sum()

    def theirs(x, w):
        return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "OHWI", "NHWC"))

    got, wanted = (
        jax.grad(loss, (1, 2))(convolution, x, w) for convolution in (lambda x, w: cj.conv2d(x, w, padding=1), theirs)
    )
    jax.tree.map(lambda a, b: same(a, b, 1e-3), got, wanted)


@report("jax-ml/jax#38914: second derivatives under remat", needs="jax")
def _():
    import jax

    from cks_numba import jax as cj

    w = jax.numpy.ones((1, 3, 1))
    first = jax.grad(lambda w: (jax.remat(lambda w: cj.conv1d(jax.numpy.ones((1, 5, 1)), w) ** 2)(w)).sum())
    np.testing.assert_array_equal(jax.jacrev(first)(w), np.full((1, 3, 1, 1, 3, 1), 6))


@report("xarray-contrib/xarray-spatial#3618: dask says float64 and computes float32", needs="dask")
def _():
    import dask.array as da

    from cks_numba import dask as cd

    x, dy = (
        da.ones((6, 4, 4, 1), chunks=(2, -1, -1, -1), dtype="f4"),
        da.ones((6, 2, 2, 1), chunks=(2, -1, -1, -1), dtype="f4"),
    )
    w = ones(1, 3, 3, 1)
    for result in (cd.conv2d(x, w), cd.conv2d_input(x.shape, w, dy), cd.conv2d_weight(x, w.shape, dy)):
        assert result.dtype == result.compute().dtype == np.float32


@report("dask/dask#6688: chunks that are smaller than what a filter reads beyond them", needs="dask")
def _():
    import dask.array as da

    from cks_numba import dask as cd

    x, w = random(2, 6, 6, 1), ones(1, 5, 5, 1)
    cut = da.from_array(x, chunks=(1, 1, -1, -1))
    with pytest.raises(ValueError, match=r"use x.rechunk\({1: -1, 2: -1, 3: -1}\)"):
        cd.conv2d(cut, w)
    np.testing.assert_array_equal(cd.conv2d(cut.rechunk({1: -1, 2: -1, 3: -1}), w), cks.conv2d(x, w, backend="cpu"))


def onnx_layer(tmp_path, x, w, kind="ConvTranspose", **attributes):
    """Return the products of a file with one node, as they are counted."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from cks_numba.models.onnx import of_onnx

    node = helper.make_node(kind, ["x", "w"], ["y"], "layer", **attributes)
    sizes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in (("x", x), ("y", None))]
    graph = helper.make_graph([node], "net", sizes[:1], sizes[1:], [numpy_helper.from_array(ones(*w), "w")])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "net.onnx"
    )
    (row,) = of_onnx(tmp_path / "net.onnx", train=False)
    return row.total


SAME, TWICE = {"auto_pad": "SAME_UPPER"}, {"strides": [2, 2]}
ONNX = {  # x, the filter and the attributes of a ConvTranspose, and the convolution whose input gradient it is
    # auto_pad
    "microsoft/onnxruntime#4698": (
        *((1, 1, 5, 5), (1, 1, 3, 3), SAME | TWICE),
        LAYER((1, 10, 10, 1), (1, 3, 3, 1), stride=2, padding=((0, 1), (0, 1))),
    ),
    "microsoft/onnxruntime#4086": (
        *((1, 1, 2, 2), (1, 1, 3, 3), SAME),
        LAYER((1, 2, 2, 1), (1, 3, 3, 1), padding=1),
    ),
    "microsoft/onnxruntime#11927": (
        *((1, 2, 3, 3), (2, 1, 3, 3), SAME | TWICE | {"output_padding": [1, 1]}),
        LAYER((1, 6, 6, 1), (2, 3, 3, 1), stride=2, padding=1),
    ),
    # output_shape, also with the batch and the channels
    "microsoft/onnxruntime#26271": (
        *((1, 1, 4, 4), (1, 1, 4, 4), TWICE | {"output_shape": [8, 8]}),
        LAYER((1, 8, 8, 1), (1, 4, 4, 1), stride=2, padding=1),
    ),
    "openvinotoolkit/openvino#32854": (
        *((1, 3, 4, 4), (3, 2, 4, 4), TWICE | {"output_shape": [1, 2, 8, 8]}),
        LAYER((1, 8, 8, 2), (3, 4, 4, 2), stride=2, padding=1),
    ),
    # channels with groups; padding crops
    "onnx/onnx#1701": (
        *((1, 3, 5, 5), (3, 1, 4, 4), TWICE | {"group": 3, "pads": [1, 1, 1, 1]}),
        LAYER((1, 10, 10, 3), (3, 4, 4, 1), stride=2, padding=1, groups=3),
    ),
    "apache/mxnet#20639": (
        *((1, 1, 4, 4), (1, 1, 3, 3), {"pads": [1, 1, 1, 1]}),
        LAYER((1, 4, 4, 1), (1, 3, 3, 1), padding=1),
    ),
}


@pytest.mark.onnx
@pytest.mark.parametrize("report", ONNX)
def test_onnx(report, tmp_path):
    pytest.importorskip("onnx")
    x, w, attributes, shape = ONNX[report]
    assert onnx_layer(tmp_path, x, w, **attributes) == flops.count("conv2d_input", shape)


@pytest.mark.onnx
def test_onnx_conv_without_attributes(tmp_path):
    """apache/tvm#7899: attributes that a file leaves out have defaults."""
    pytest.importorskip("onnx")
    counted = onnx_layer(tmp_path, (1, 3, 6, 6), (4, 3, 3, 3), "Conv")
    assert counted == flops.count("conv2d", LAYER((1, 6, 6, 3), (4, 3, 3, 3)))


# --- the cores that a container may use -------------------------------------------------------------------------------
V1 = "4:cpu,cpuacct:/docker/abc\n3:memory:/"  # the path on the host, which a container does not see
CGROUPS = {  # what /proc/self/cgroup says, quota and period of groups below /sys/fs/cgroup, and how many cores that is
    "duckdb/duckdb#6519": ("0::/", {"cpu.max": "200000 100000"}, 2),
    "springfall2008/batpred#4771": ("0::/", {"cpu.max": "400000 100000"}, 4),
    "stormchecker/storm#495": ("0::/", {"cpu.max": "max 100000"}, np.inf),
    "nginx/unit#1042": ("0::/a/b", {"a/b/cpu.max": "300000 100000", "a/cpu.max": "50000 100000"}, 0.5),
    "uxlfoundation/oneTBB#190": (V1, {"cpu/cpu.cfs_quota_us": 150000, "cpu/cpu.cfs_period_us": 100000}, 1.5),
    "JuliaLang/julia#46226": (V1, {"cpu/cpu.cfs_quota_us": -1, "cpu/cpu.cfs_period_us": 100000}, np.inf),
    "numpy/numpy#13572": ("", {}, np.inf),
}


@pytest.mark.parametrize("report", CGROUPS)
def test_quotas(report, tmp_path):
    said, groups, cores = CGROUPS[report]
    files = {f"sys/fs/cgroup/{name}": text for name, text in groups.items()}
    for name, text in (files | {"proc/self/cgroup": said}).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n" if text else "")
    assert threads.quota(tmp_path) == cores


# --- all that has been added to the table -----------------------------------------------------------------------------
@pytest.mark.parametrize(("check", "needs"), CHECKS)
def test_reports(check, needs):
    if needs:
        pytest.importorskip(needs)
    check()
