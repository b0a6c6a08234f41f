"""Bad input: each message names the argument, what was expected and what came, and nothing has been written."""

from __future__ import annotations

import re
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
    "precision": (conv2d, {"precision": "fp32"}, "precision must be one of 'float32', 'tf32', got 'fp32'"),
    "precision type": (conv2d_input, {"precision": None}, "precision must be one of 'float32', 'tf32', got None"),
    "tf32 and float64": (conv2d_weight, {"precision": "tf32"}, 'precision="tf32" is for float32 arrays, got float64'),
    "tf32 and float16": (
        conv_transpose2d,
        {"x": DY.astype("f2"), "w": W.astype("f2"), "precision": "tf32"},
        'precision="tf32" is for float32 arrays, got float16: leave precision out',
    ),
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
    "x int": (
        conv2d,
        {"x": X.astype(int), "w": W.astype(int)},
        "x must be float16, bfloat16, float32 or float64, got int64",
    ),
    "float and int": (conv2d, {"w": W.astype(int)}, "w must be float16, bfloat16, float32 or float64, got int64"),
    "float16": (conv2d, {"x": X.astype(np.float16)}, "x and w must have the same dtype, got float16 and float64"),
    "complex": (conv2d, {"x": X.astype(complex)}, "x must be float16, .* or float64, got complex128"),
    "float32 with float64": (
        conv2d,
        {"x": X.astype("f4")},
        "x and w must have the same dtype, got float32 and float64",
    ),
    "bias dtype": (conv2d, {"bias": BIAS.astype("f4")}, "x and bias must have the same dtype, got float64 and float32"),
    "bias dtype, 16 bits": (
        conv2d,
        {"x": X.astype("f2"), "w": W.astype("f2"), "bias": BIAS.astype("f4")},
        r'got float16 and float32: take x.astype\("float32"\)$',
    ),
    "out dtype, 16 bits": (
        conv2d,
        {"x": X.astype("f2"), "w": W.astype("f2"), "out": DY.astype("f4")},
        "out must be float16 like the inputs, got float32",
    ),
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


# --- a way out ------------------------------------------------------------------------------------
def first(array):
    """Bring an array from NHWC to NCHW, or a filter from OHWI to OIHW."""
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2))


TWO_GROUPS = np.ones((4, 3, 3, 2))  # a filter for the four channels of X in two groups
EACH_ALONE = np.ones((4, 3, 3, 1))  # and in four
OPERATORS = {"conv2d": conv2d, "dx": conv2d_input, "transposed": conv_transpose2d, "dw": conv2d_weight}
FIRST = {  # all arguments in PyTorch's order
    "conv2d": {"x": first(X), "w": first(W)},
    "dx": {"input_size": first(X).shape, "w": first(W), "dy": first(DY)},
    "transposed": {"x": first(DY), "w": first(W)},
    "dw": {"x": first(X), "weight_size": first(W).shape, "dy": first(DY)},
}


@pytest.mark.parametrize("name", OPERATORS)
def test_the_other_layout_is_named(name):
    with pytest.raises(ValueError, match=r'; layout="NCHW" would fit$'):
        OPERATORS[name](**FIRST[name])
    with pytest.raises(ValueError, match=r'; layout="NHWC" would fit$'):
        OPERATORS[name](layout="NCHW")
    OPERATORS[name](**FIRST[name], layout="NCHW")


MEANT = {  # operator, arguments, what the message says, and the arguments as it says
    "x alone": (conv2d, {"x": first(X)}, "x.transpose(0, 2, 3, 1) would fit", {"x": first(X).transpose(0, 2, 3, 1)}),
    "w alone": (conv2d, {"w": first(W)}, "w.transpose(0, 2, 3, 1) would fit", {"w": first(W).transpose(0, 2, 3, 1)}),
    "w alone, NCHW": (
        conv2d,
        {"x": first(X), "layout": "NCHW"},
        "w.transpose(0, 3, 1, 2) would fit",
        {"x": first(X), "w": W.transpose(0, 3, 1, 2), "layout": "NCHW"},
    ),
    "one image": (
        conv2d,
        {"x": first(X)[0]},
        "x.transpose(1, 2, 0) would fit",
        {"x": first(X)[0].transpose(1, 2, 0)},
    ),
    "size alone": (
        conv2d_input,
        {"input_size": (2, 4, 5, 6)},
        "input_size=(2, 5, 6, 4) would fit",
        {"input_size": (2, 5, 6, 4)},
    ),
    "size of one image": (
        conv2d_input,
        {"input_size": (4, 5, 6), "dy": DY[0]},
        "input_size=(5, 6, 4) would fit",
        {"input_size": (5, 6, 4), "dy": DY[0]},
    ),
    "all but the size": (
        conv2d_input,
        {"w": first(W), "dy": first(DY)},
        "w.transpose(0, 2, 3, 1) and dy.transpose(0, 2, 3, 1) would fit",
        {},
    ),
    "weight_size": (
        conv2d_weight,
        {"weight_size": (6, 4, 3, 3)},
        "weight_size=(6, 3, 3, 4) would fit",
        {"weight_size": (6, 3, 3, 4)},
    ),
    "TensorFlow's filter": (
        conv2d,
        {"w": W.transpose(1, 2, 3, 0)},
        "w.transpose(3, 0, 1, 2) would fit",
        {"w": W.transpose(1, 2, 3, 0).transpose(3, 0, 1, 2)},
    ),
    "TensorFlow's filter, NCHW": (
        conv2d,
        {"x": np.ones((2, 4, 5, 8)), "w": W.transpose(1, 2, 3, 0), "layout": "NCHW"},
        "w.transpose(3, 2, 0, 1) would fit",
        {"x": np.ones((2, 4, 5, 8)), "w": W.transpose(1, 2, 3, 0).transpose(3, 2, 0, 1), "layout": "NCHW"},
    ),
    "filter of a convolution": (
        conv_transpose2d,
        {"w": W.transpose(3, 1, 2, 0)},
        "w.transpose(3, 1, 2, 0) would fit",
        {"w": W},
    ),
    "groups missing": (conv2d, {"w": TWO_GROUPS}, "groups=2 would fit", {"w": TWO_GROUPS, "groups": 2}),
    "groups wrong": (conv2d, {"groups": 3}, "groups=1 would fit", {"groups": 1}),
    "depthwise": (conv2d, {"w": EACH_ALONE}, "groups=4 would fit", {"w": EACH_ALONE, "groups": 4}),
    "depthwise, NCHW": (
        conv2d,
        {"x": first(X), "w": first(EACH_ALONE)},
        'layout="NCHW" and groups=4 would fit',
        {"x": first(X), "w": first(EACH_ALONE), "layout": "NCHW", "groups": 4},
    ),
    "depthwise gradient": (
        conv2d_weight,
        {"weight_size": EACH_ALONE.shape, "dy": DY[..., :4]},
        "groups=4 would fit",
        {"weight_size": EACH_ALONE.shape, "dy": DY[..., :4], "groups": 4},
    ),
    "grey images": (
        conv2d,
        {"x": X[..., 0], "w": W[..., :1]},
        "x[..., None] would fit as images of one channel, groups=6 as one image",
        {"x": X[..., 0][..., None], "w": W[..., :1]},
    ),
    "grey images, NCHW": (
        conv2d,
        {"x": X[..., 0], "w": first(W[..., :1]), "layout": "NCHW"},
        "x[:, None] would fit as images of one channel, groups=2 as one image",
        {"x": X[..., 0][:, None], "w": first(W[..., :1]), "layout": "NCHW"},
    ),
    "x and w": (conv2d, {"x": W, "w": X}, "are x and w swapped, or is padding missing?", {}),
    "x and w, other channels": (conv_transpose2d, {"x": W, "w": DY}, "are x and w swapped?", {"x": DY, "w": W}),
    "w and dy": (conv2d_input, {"w": DY, "dy": W}, "are w and dy swapped?", {}),
    "x and dy": (conv2d_weight, {"x": DY, "dy": X}, "are x and dy swapped?", {}),
}


@pytest.mark.parametrize(("function", "keys", "way", "mended"), MEANT.values(), ids=MEANT.keys())
def test_what_may_have_been_meant_is_said_and_works(function, keys, way, mended):
    with pytest.raises(ValueError, match=rf"; {re.escape(way)}$"):
        function(**keys)
    function(**mended)


def test_nothing_is_proposed_that_does_not_fit():
    for function, keys in (
        (conv2d, {"w": np.ones((6, 3, 3, 7))}),
        (conv2d, {"stride": 0}),
        (conv2d, {"x": first(X), "w": first(W), "dilation": 4}),
        (conv2d_input, {"input_size": (9, 5, 6, 4)}),
        (conv2d_weight, {"dy": np.ones((2, 4, 5, 6))}),
        (conv_transpose2d, {"x": DY[..., :5]}),
    ):
        with pytest.raises(ValueError, match="^(?!.*(would fit|swapped))"):
            function(**keys)


POSITIONAL = {
    "stride": (cks.conv2d, (X, W, 2), "conv2d(x, w, stride=2)"),
    "both": (cks.conv2d, (X, W, 2, 1), "conv2d(x, w, stride=2, padding=1)"),
    "pair": (cks.conv2d, (X, W, (2, 1)), "conv2d(x, w, stride=(2, 1))"),
    "no bias": (cks.conv2d, (X, W, None, 2), "conv2d(x, w, stride=2)"),
    "bias": (cks.conv2d, (X, W, BIAS, 2, "same", 1), "conv2d(x, w, bias, stride=2, padding='same')"),
    "transposed": (cks.conv_transpose2d, (DY, W, 2, 1), "conv_transpose2d(x, w, stride=2, padding=1)"),
    "dx": (cks.conv2d_input, (X.shape, W, DY, 2), "conv2d_input(input_size, w, dy, stride=2)"),
    "dw": (cks.conv2d_weight, (X, W.shape, DY, 2, 1), "conv2d_weight(x, weight_size, dy, stride=2, padding=1)"),
}


@pytest.mark.parametrize(("function", "given", "call"), POSITIONAL.values(), ids=POSITIONAL.keys())
def test_options_by_position_are_named(function, given, call):
    with pytest.raises(TypeError, match=rf"^options cannot be positional: write {re.escape(call)}$"):
        function(*given)


@pytest.mark.parametrize("dtype", ["int64", "uint8", "longdouble", "bool"])
@pytest.mark.parametrize("function", [conv2d, conv_transpose2d])
def test_other_dtypes_name_the_cast(function, dtype):
    x = (X if function is conv2d else DY).astype(dtype)
    with pytest.raises(TypeError, match=rf'x must be .* or float64, got {x.dtype}: take x\.astype\("float32"\)$'):
        function(x=x, w=W.astype(dtype))
    assert function(x=x.astype("float32"), w=W.astype("float32")).dtype == np.float32


WAYS = {
    "complex": ({"x": X.astype(complex)}, "got complex128: give x.real and x.imag"),
    "mixed": ({"x": X.astype("f4")}, 'got float32 and float64: take w.astype("float32")'),
    "mixed, 16 bits": (
        {"x": X.astype("f2")},
        'got float16 and float64: take x.astype("float32") and w.astype("float32")',
    ),
    "mixed, the other": ({"w": W.astype("f4")}, 'got float64 and float32: take x.astype("float32")'),
    "list": ({"x": X.tolist()}, 'got list: take numpy.asarray(x, dtype="float32")'),
    "memory": ({"w": memoryview(W)}, 'got memoryview: take numpy.asarray(w, dtype="float32")'),
    "masked": ({"x": np.ma.array(X)}, "got MaskedArray: take x.filled(0)"),
    "class": ({"x": np.ndarray}, "got type"),
    "matrix": ({"x": X[0, ..., 0]}, "got shape (5, 6); an image of one channel is x[..., None]"),
    "matrix, NCHW": ({"x": X[0, ..., 0], "layout": "NCHW"}, "got shape (5, 6); an image of one channel is x[None]"),
    "bias of two axes": ({"bias": np.ones((6, 1))}, "got (6, 1): take bias.reshape(-1)"),
    "groups of w": ({"w": np.ones((9, 3, 3, 2)), "groups": 2}, "got groups=2 and oc=9: take 1"),
}


@pytest.mark.parametrize(("keys", "way"), WAYS.values(), ids=WAYS.keys())
def test_a_way_out_is_said(keys, way):
    with pytest.raises((TypeError, ValueError), match=rf"{re.escape(way)}$"):
        conv2d(**keys)


def test_the_groups_that_a_transposed_convolution_can_have():
    with pytest.raises(ValueError, match="got groups=5 and 6 channels: take 1, 2, 3 or 6$"):
        conv_transpose2d(groups=5)
    assert conv_transpose2d(groups=3).shape == (2, 5, 6, 12)


def test_an_array_in_the_place_of_a_size():
    with pytest.raises(TypeError, match=r"got an array of shape \(2, 5, 6, 4\): take input_size.shape$"):
        conv2d_input(input_size=X)
    with pytest.raises(TypeError, match=r"got an array of shape \(4,\): take tuple\(weight_size\)$"):
        conv2d_weight(weight_size=np.array(W.shape))


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


def test_a_huge_number_of_channels_is_refused_at_once():
    with pytest.raises(ValueError, match="take 1, 7, 11, 13, 77, 91, 143, 211, 241 or 1000000000000001$"):
        cks.ConvShape(n=1, ih=4, iw=4, ic=10**15 + 1, oc=10**15 + 1, fh=1, fw=1, groups=2)
