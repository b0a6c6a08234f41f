"""Bad input: each message names the argument, what was expected and what came, and nothing has been written."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from reference import WARNINGS_ARE_ERRORS

import cks_numba as cks

X = np.ones((2, 5, 6, 4))
W = np.ones((6, 3, 3, 4))
DY = np.ones((2, 3, 4, 6))
BIAS = np.ones(6)


def read_only():
    out = np.zeros((2, 3, 4, 6))
    out.flags.writeable = False
    return out


def conv2d(x=X, w=W, bias=None, **keys):
    return cks.conv2d(x, w, bias, backend=keys.pop("backend", "cpu"), **keys)


def conv2d_input(input_size=X.shape, w=W, dy=DY, **keys):
    return cks.conv2d_input(input_size, w, dy, backend="cpu", **keys)


def conv_transpose2d(x=DY, w=W, bias=None, **keys):
    return cks.conv_transpose2d(x, w, bias, backend="cpu", **keys)


def conv2d_weight(x=X, weight_size=W.shape, dy=DY, **keys):
    return cks.conv2d_weight(x, weight_size, dy, backend="cpu", **keys)


def test_the_arguments_used_here_are_good():
    assert conv2d(bias=BIAS).shape == DY.shape
    assert conv2d_input().shape == conv_transpose2d(bias=np.ones(4)).shape == X.shape
    assert conv2d_weight().shape == W.shape


VALUE_ERRORS = {
    "result too large": (conv2d, {"padding": 2**31}, r"result of shape \(2, 4294967299, 4294967300, 6\) is"),
    "transposed result too large": (conv_transpose2d, {"stride": 2**40}, r"result of shape \(2, \d+, \d+, 4\)"),
    "empty result too large": (conv2d, {"x": X[:0], "padding": 2**31}, r"result of shape \(0, 4294967299,"),
    "result too large, NCHW": (
        conv2d,
        {"padding": 2**31, "layout": "NCHW", "x": np.ones((4, 5, 6)), "w": np.ones((6, 4, 3, 3))},
        r"result of shape \(6, 4294967299, 4294967300\)",
    ),
    "x rank 2": (
        conv2d,
        {"x": np.ones((3, 3))},
        r"x must have 4 axes \(N, IH, IW, IC\), or 3 unbatched .*got shape \(3, 3\)",
    ),
    "x rank, NCHW": (conv2d, {"x": np.ones(3), "layout": "NCHW"}, r"x must have 4 axes \(N, IC, IH, IW\)"),
    "w rank": (
        conv2d,
        {"w": np.ones((3, 3, 4))},
        r"w must have 4 axes \(OC, FH, FW, IC/groups\), got shape \(3, 3, 4\)",
    ),
    "w empty": (conv2d, {"w": np.ones((0, 3, 3, 4))}, r"w must not be empty, got shape \(0, 3, 3, 4\)"),
    "channels": (conv2d, {"w": np.ones((6, 3, 3, 5))}, r"x has 4 channels, so with groups=1 w must have 4 .*got 5"),
    "channels, groups": (conv2d, {"groups": 2}, r"x has 4 channels, so with groups=2 w must have 2 .*got 4"),
    "filter too large": (
        conv2d,
        {"w": np.ones((6, 6, 3, 4))},
        r"filter is larger than the padded input: fh=6 .*padded is 5",
    ),
    "dilated too large": (conv2d, {"dilation": 3}, r"fh=3 with dilation 3 spans 7, ih=5 padded is 5"),
    "no rows": (conv2d, {"x": np.ones((2, 0, 6, 4))}, "ih must be at least 1, got 0"),
    "stride 0": (conv2d, {"stride": 0}, "stride must be at least 1, got 0"),
    "stride negative": (conv2d, {"stride": (1, -2)}, "stride must be at least 1, got -2"),
    "stride of three": (conv2d, {"stride": (1, 1, 1)}, r"stride must be an int or a pair, got \(1, 1, 1\)"),
    "dilation 0": (conv2d, {"dilation": 0}, "dilation must be at least 1, got 0"),
    "padding negative": (conv2d, {"padding": -1}, "padding must be at least 0, got -1"),
    "padding one negative": (conv2d, {"padding": ((0, 0), (0, -3))}, "padding must be at least 0, got -3"),
    "padding of three": (conv2d, {"padding": (1, 1, 1)}, r"padding must be an int, .*got \(1, 1, 1\)"),
    "padding word": (conv2d, {"padding": "full"}, "padding must be ints, .*got 'full'"),
    "same and stride": (
        conv2d,
        {"padding": "same", "stride": 2},
        r'padding="same" needs stride 1, got stride \(2, 2\)',
    ),
    "groups 0": (conv2d, {"groups": 0}, "groups must be at least 1, got 0"),
    "groups and ic": (conv2d, {"groups": 3}, "groups must divide the channels of x, got groups=3 and 4 channels"),
    "groups and oc": (
        conv2d,
        {"w": np.ones((5, 3, 3, 2)), "groups": 2},
        "groups must divide oc, got groups=2 and oc=5",
    ),
    "bias shape": (conv2d, {"bias": np.ones(5)}, r"bias must have shape \(6,\) .*got \(5,\)"),
    "bias rank": (conv2d, {"bias": np.ones((1, 6))}, r"bias must have shape \(6,\) .*got \(1, 6\)"),
    "layout": (conv2d, {"layout": "NWHC"}, "layout must be one of 'NHWC', 'NCHW', got 'NWHC'"),
    "layout type": (conv2d, {"layout": None}, "layout must be one of 'NHWC', 'NCHW', got None"),
    "backend": (
        conv2d,
        {"backend": "gpu"},
        "backend must be one of 'auto', 'cuda', 'cpu', 'emulator', 'steps', got 'gpu'",
    ),
    "out shape": (conv2d, {"out": np.ones((2, 3, 4, 5))}, r"out must have shape \(2, 3, 4, 6\) .*got \(2, 3, 4, 5\)"),
    "out shape, NCHW": (
        conv2d,
        {"x": np.ones((2, 4, 5, 6)), "w": np.ones((6, 4, 3, 3)), "layout": "NCHW", "out": np.ones((2, 3, 4, 6))},
        r"out must have shape \(2, 6, 3, 4\) .*got \(2, 3, 4, 6\)",
    ),
    "out strided": (conv2d, {"out": np.ones((2, 3, 4, 12))[..., ::2]}, "out must be C-contiguous, got .*strides"),
    "out read-only": (conv2d, {"out": read_only()}, "out must be writeable, got a read-only array"),
    "dx channels": (conv2d_input, {"input_size": (2, 5, 6, 5)}, r"input_size has 5 channels, .*w must have 5 .*got 4"),
    "dx batch": (conv2d_input, {"input_size": (3, 5, 6, 4)}, r"dy must have shape \(3, 3, 4, 6\) .*got \(2, 3, 4, 6\)"),
    "dx dy channels": (
        conv2d_input,
        {"dy": np.ones((2, 3, 4, 5))},
        r"dy must have shape \(2, 3, 4, 6\) .*got \(2, 3, 4, 5\)",
    ),
    "dx one size": (
        conv2d_input,
        {"input_size": (2, 4, 6, 4)},
        r"input_size rows must be 5 for dy of 3 rows \(filter 3, stride 1",
    ),
    "dx rows": (
        conv2d_input,
        {"input_size": (2, 8, 7, 4), "stride": 2, "padding": 1},
        r"input_size rows must be from 5 to 6 for dy of 3 rows \(filter 3, stride 2, padding \(1, 1\)\), got 8",
    ),
    "dx columns": (
        conv2d_input,
        {"input_size": (2, 5, 3, 4), "stride": 2, "padding": 1},
        r"input_size columns must be from 7 to 8 for dy of 4 columns .*got 3",
    ),
    "dx impossible": (
        conv2d_input,
        {"input_size": (2, 1, 1, 4), "dy": np.ones((2, 1, 1, 6)), "padding": 2},
        "input_size has no valid rows for dy of 1 rows .*got 1",
    ),
    "dx empty size": (conv2d_input, {"input_size": (2, 0, 6, 4)}, r"input_size\[1\] must be at least 1, got 0"),
    "dx size rank": (conv2d_input, {"input_size": (5, 6)}, r"input_size must have 4 axes .*got shape \(5, 6\)"),
    "dx size unbatched": (
        conv2d_input,
        {"input_size": (5, 6, 4)},
        "input_size and dy must both be batched or both not",
    ),
    "dx out": (conv2d_input, {"out": np.ones((2, 5, 6, 3))}, r"out must have shape \(2, 5, 6, 4\)"),
    "transpose channels": (conv_transpose2d, {"x": np.ones((2, 3, 4, 5))}, "x has 5 channels, w is for 6"),
    "transpose groups": (conv_transpose2d, {"groups": 4}, "groups must divide the channels of x, got groups=4 and 6"),
    "transpose bias": (conv_transpose2d, {"bias": BIAS}, r"bias must have shape \(4,\) .*got \(6,\)"),
    "output_padding": (
        conv_transpose2d,
        {"output_padding": 2, "stride": 2},
        "output_padding must be smaller than stride or dilation, got output_padding=2, stride=2, dilation=1",
    ),
    "output_padding negative": (conv_transpose2d, {"output_padding": -1}, "output_padding must be at least 0, got -1"),
    "transpose empty": (conv_transpose2d, {"padding": 3}, "result would have -1 rows and 0 columns, for x of 3 by 4"),
    "dw size rank": (
        conv2d_weight,
        {"weight_size": (6, 3, 3)},
        r"weight_size must have 4 axes .*got shape \(6, 3, 3\)",
    ),
    "dw size 0": (conv2d_weight, {"weight_size": (6, 0, 3, 4)}, r"weight_size\[1\] must be at least 1, got 0"),
    "dw channels": (
        conv2d_weight,
        {"weight_size": (6, 3, 3, 2)},
        "x has 4 channels, .*weight_size must have 4 .*got 2",
    ),
    "dw dy": (conv2d_weight, {"dy": np.ones((2, 4, 4, 6))}, r"dy must have shape \(2, 3, 4, 6\) .*got \(2, 4, 4, 6\)"),
    "dw ranks": (conv2d_weight, {"dy": DY[0]}, "x and dy must both be batched or both not"),
    "dw filter": (conv2d_weight, {"weight_size": (6, 7, 3, 4)}, "filter is larger than the padded input: fh=7"),
}

TYPE_ERRORS = {
    "x list": (conv2d, {"x": [[1.0]]}, "x must be a NumPy array, .*got list"),
    "w scalar": (conv2d, {"w": 3.0}, "w must be a NumPy array, .*got float"),
    "x masked": (conv2d, {"x": np.ma.ones((2, 5, 6, 4))}, "x must be a NumPy array, .*got MaskedArray"),
    "out list": (conv2d, {"out": []}, "out must be a NumPy array, .*got list"),
    "x int": (conv2d, {"x": X.astype(int), "w": W.astype(int)}, "x must be float32 or float64, got int64"),
    "float and int": (conv2d, {"w": W.astype(int)}, "w must be float32 or float64, got int64"),
    "float16": (conv2d, {"x": X.astype(np.float16)}, "x must be float32 or float64, got float16"),
    "complex": (conv2d, {"x": X.astype(complex)}, "x must be float32 or float64, got complex128"),
    "float32 with float64": (
        conv2d,
        {"x": X.astype("f4")},
        "x and w must have the same dtype, got float32 and float64",
    ),
    "bias dtype": (conv2d, {"bias": BIAS.astype("f4")}, "x and bias must have the same dtype, got float64 and float32"),
    "out dtype": (conv2d, {"out": DY.astype("f4")}, "out must be float64 like the inputs, got float32"),
    "out byte order": (conv2d, {"out": DY.astype(">f8")}, "out must be float64 like the inputs, got >f8"),
    "stride float": (conv2d, {"stride": 1.5}, "stride must be an int, got 1.5"),
    "stride bool": (conv2d, {"stride": True}, "stride must be an int, got True"),
    "padding None": (conv2d, {"padding": None}, "padding must be an int, got None"),
    "groups float": (conv2d, {"groups": 1.0}, "groups must be an int, got 1.0"),
    "dx dtype": (conv2d_input, {"dy": DY.astype("f4")}, "w and dy must have the same dtype, got float64 and float32"),
    "dx size int": (conv2d_input, {"input_size": 5}, r"input_size must be a tuple of ints \(N, IH, IW, IC\), got 5"),
    "dx size float": (conv2d_input, {"input_size": (2, 5.0, 6, 4)}, r"input_size\[1\] must be an int, got 5.0"),
    "dw dtype": (conv2d_weight, {"dy": DY.astype("f4")}, "x and dy must have the same dtype, got float64 and float32"),
    "dw size": (
        conv2d_weight,
        {"weight_size": None},
        r"weight_size must be a tuple of ints \(OC, FH, FW, IC/groups\), got None",
    ),
    "positional stride": (cks.conv2d, {"x": X, "w": W, "strides": 2}, "unexpected keyword argument 'strides'"),
}


@pytest.mark.parametrize(("function", "keys", "message"), VALUE_ERRORS.values(), ids=VALUE_ERRORS.keys())
def test_value_errors(function, keys, message):
    with pytest.raises(ValueError, match=message):
        function(**keys)


@pytest.mark.parametrize(("function", "keys", "message"), TYPE_ERRORS.values(), ids=TYPE_ERRORS.keys())
def test_type_errors(function, keys, message):
    with pytest.raises(TypeError, match=message):
        function(**keys)


def test_only_the_arrays_are_positional():
    with pytest.raises(TypeError, match="positional"):
        cks.conv2d(X, W, None, 2)


@pytest.mark.parametrize("name", ["x", "w", "bias"])
def test_out_must_not_overlap_an_input(name):
    """One byte of overlap is enough, and the input is unchanged."""
    memory = np.ones(1000)
    shapes = {"x": X.shape, "w": W.shape, "bias": BIAS.shape}
    size = int(np.prod(shapes[name]))
    array = memory[:size].reshape(shapes[name])
    out = memory[size - 1 : size - 1 + DY.size].reshape(DY.shape)
    with pytest.raises(ValueError, match=f"out must not overlap an input, it shares memory with {name}"):
        conv2d(**({"bias": BIAS} | {name: array}), out=out)
    assert (memory == 1).all()


def test_out_next_to_an_input_is_fine():
    memory = np.ones(X.size + DY.size)
    x, out = memory[: X.size].reshape(X.shape), memory[X.size :].reshape(DY.shape)
    assert conv2d(x=x, out=out) is out
    np.testing.assert_array_equal(out, 36.0)


@pytest.mark.parametrize(
    "bad",
    [
        {"w": np.ones((6, 3, 3, 5))},
        {"stride": 0},
        {"bias": np.ones(5)},
        {"backend": "gpu"},
        {"groups": 5},
        {"x": X.astype("f4")},
    ],
    ids=str,
)
def test_out_is_untouched_after_an_error(bad):
    out = np.full(DY.shape, 7.0)
    with pytest.raises((ValueError, TypeError)):
        conv2d(**bad, out=out)
    assert (out == 7).all()


def test_gradients_leave_out_untouched_after_an_error():
    dx, dw = np.full(X.shape, 7.0), np.full(W.shape, 7.0)
    with pytest.raises(ValueError, match="dy must have shape"):
        conv2d_input(dy=np.ones((2, 3, 4, 5)), out=dx)
    with pytest.raises(ValueError, match="dy must have shape"):
        conv2d_weight(dy=np.ones((2, 3, 4, 5)), out=dw)
    assert (dx == 7).all() and (dw == 7).all()


NO_GPU = """
import numpy as np
import cks_numba as cks
from cks_numba.backends import cuda
cuda.available = lambda: False
out = np.full((1, 1, 1, 1), 7.0)
try:
    cks.conv2d(np.ones((1, 3, 3, 1)), np.ones((1, 3, 3, 1)), backend="cuda", out=out)
except RuntimeError as error:
    print(error)
assert out[0, 0, 0, 0] == 7
assert cks.conv2d(np.ones((1, 3, 3, 1)), np.ones((1, 3, 3, 1)), out=out).item() == 9  # "auto" goes on
"""


def test_no_gpu_says_how_to_go_on():
    """Runs in a process of its own that sees no GPU, wherever the tests run."""
    command = [sys.executable, *WARNINGS_ARE_ERRORS, "-c", NO_GPU]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert 'backend="cpu"' in done.stdout and "NUMBA_ENABLE_CUDASIM=1" in done.stdout
