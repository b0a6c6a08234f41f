"""Random arguments: the right answer, or a ValueError or TypeError that names an argument, and nothing written.

A seeded sample runs with the other tests; ``make fuzz`` runs tens of thousands of cases.
"""

from __future__ import annotations

import os
import re
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import cks_numba as cks
from cks_numba import commands
from cks_numba.buffers import LAYOUTS

if find_spec("ml_dtypes"):
    import ml_dtypes  # noqa: F401  # NumPy knows the name bfloat16 from here on

CASES = int(os.environ.get("FUZZ_CASES", "0"))  # 0 runs the sample
COMMON = dict(
    deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink], database=None
)
FUZZ = settings(max_examples=CASES or 150, derandomize=not CASES, **COMMON)
DTYPES = ("float16", "float32", "float64", *(("bfloat16",) if find_spec("ml_dtypes") else ()))
NAMES = {
    "conv2d": ("x", "w", "bias"),
    "conv_transpose2d": ("x", "w", "bias"),
    "conv2d_input": ("input_size", "w", "dy"),
    "conv2d_weight": ("x", "weight_size", "dy"),
}
WORDS = (  # every message names an argument or one of its parts
    "x", "w", "bias", "dy", "input_size", "weight_size", "stride", "padding", "output_padding", "dilation", "groups",
    "layout", "backend", "precision", "out", "stream", "filter", "result",
    "id", "ih", "iw", "oc", "ic", "fd", "fh", "fw", "n",
)  # fmt: skip


# --- good sizes, and views of any memory order ----------------------------------------------------
@st.composite
def layers(draw, axes):
    """Draw sizes of x and w and the keywords of a layer, which fit in most cases."""
    groups = draw(st.sampled_from((1, 1, 1, 2, 3)))
    ic, oc = groups * draw(st.integers(1, 5)), groups * draw(st.integers(1, 5))
    each = lambda least, most: st.tuples(*[st.integers(least, most)] * axes)  # noqa: E731
    numbers = lambda least, most: st.one_of(st.integers(least, most), each(least, most))  # noqa: E731
    x_size = (draw(st.integers(0, 3)), *draw(each(1, 9)), ic)
    sides = st.tuples(*[st.tuples(st.integers(0, 4), st.integers(0, 4))] * axes)
    padding = draw(st.one_of(numbers(0, 4), sides, st.sampled_from(("same", "valid"))))
    keys = dict(stride=draw(numbers(1, 4)), dilation=draw(numbers(1, 3)), padding=padding, groups=groups)
    return x_size, (oc, *draw(each(1, 4)), ic // groups), keys


@st.composite
def views(draw, size, dtype):
    """Draw an array of small integers: sliced, reversed, transposed, byte-swapped, read-only or of a subclass."""
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    steps = [draw(st.sampled_from((1, 1, 1, 2, -1, -2))) for _ in size]
    order = draw(st.permutations(range(len(size))))
    base = rng.integers(-3, 4, [size[axis] * abs(steps[axis]) for axis in order]).astype(dtype)
    if draw(st.booleans()) and base.dtype.kind == "f":  # bfloat16 has one byte order
        base = base.astype(np.dtype(dtype).newbyteorder(">"))
    array = base.transpose(np.argsort(order))[tuple(slice(None, None, step) for step in steps)]
    assert array.shape == tuple(size)
    if draw(st.booleans()):
        array.flags.writeable = False
    kind = draw(st.sampled_from(("plain", "plain", "subclass")))
    return array.view(type("Sub", (np.ndarray,), {})) if kind == "subclass" else array


def in_layout(array, layout):
    return array if layout[-1] == "C" else np.moveaxis(array, -1, 1)


def over(axes, operator):
    """Return an operator over another number of axes."""
    return getattr(cks, operator.replace("2d", f"{axes}d"))


@FUZZ
@given(data=st.data())
@pytest.mark.parametrize("operator", NAMES)
@pytest.mark.parametrize("axes", (1, 2, 3))
def test_the_cpu_backend_says_what_the_steps_say(axes, operator, data):
    x_size, w_size, keys = data.draw(layers(axes))
    dtype, layout = data.draw(st.sampled_from(DTYPES)), data.draw(st.sampled_from(LAYOUTS[axes]))
    try:
        y_size = over(axes, "conv2d")(np.zeros(x_size), np.zeros(w_size), backend="steps", **keys).shape
    except ValueError:
        return  # the drawn layer is impossible
    x, w, y = (in_layout(data.draw(views(size, dtype)), layout) for size in (x_size, w_size, y_size))
    sizes = [in_layout(np.zeros(size), layout).shape for size in (x_size, w_size)]
    arguments = {
        "conv2d": (x, w),
        "conv_transpose2d": (y, w),
        "conv2d_input": (sizes[0], w, y),
        "conv2d_weight": (x, sizes[1], y),
    }[operator]
    function = over(axes, operator)
    try:
        want = function(*arguments, backend="steps", layout=layout, **keys)
    except ValueError:  # the transposed convolution has an empty result
        with pytest.raises(ValueError):
            function(*arguments, backend="cpu", layout=layout, **keys)
        return
    got = function(*arguments, backend="cpu", layout=layout, **keys)
    assert got.dtype == want.dtype == dtype and got.shape == want.shape and got.dtype.isnative
    np.testing.assert_array_equal(got, want)
    out = np.full(want.shape, np.nan, dtype)
    assert function(*arguments, backend="cpu", layout=layout, out=out, **keys) is out
    np.testing.assert_array_equal(out, want)


# --- arbitrary arguments --------------------------------------------------------------------------
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 6), st.sampled_from((2**31, 2**40, -(2**63), 10**30)), st.floats(),
    st.text(max_size=4), st.lists(st.integers(-2, 5), max_size=5), st.tuples(st.integers(-1, 4), st.integers(-1, 4)),
    st.sampled_from(("same", "valid", "NHWC", "NCHW", "cpu", "steps", np.int64(2), np.float32(1), np.array(2), b"2")),
    st.dictionaries(st.text(max_size=1), st.integers(), max_size=1),
)  # fmt: skip
SIZES = st.lists(st.integers(0, 5), min_size=0, max_size=5)
ARRAYS = st.one_of(
    st.builds(
        lambda size, dtype: np.ones(size, dtype), SIZES, st.sampled_from(("f4", "f8", "f2", "i4", "c8", "?", "O"))
    ),
    ODD,
)


@FUZZ
@given(data=st.data())
@pytest.mark.parametrize("operator", NAMES)
@pytest.mark.parametrize("axes", (1, 2, 3))
def test_wrong_arguments_are_named_and_nothing_is_written(axes, operator, data):
    x, w, y = (2, *(5, 6, 4)[:axes], 4), (6, *(3, 3, 2)[:axes], 4), (2, *(3, 4, 3)[:axes], 6)
    good = dict(
        conv2d=(np.ones(x), np.ones(w), None),
        conv_transpose2d=(np.ones(y), np.ones(w), None),
        conv2d_input=(x, np.ones(w), np.ones(y)),
        conv2d_weight=(np.ones(x), w, np.ones(y)),
    )[operator]
    arguments = [data.draw(st.one_of(st.just(value), st.just(value), ARRAYS, ODD)) for value in good]
    keys = {name: data.draw(ODD) for name in ("stride", "padding", "dilation", "groups") if data.draw(st.booleans())}
    if data.draw(st.integers(0, 3)) == 0:
        keys[data.draw(st.sampled_from(("layout", "precision", "stream")))] = data.draw(ODD)
    out = data.draw(st.one_of(st.none(), st.builds(lambda size: np.full(size, 7.0), SIZES), ARRAYS))
    before = np.array(out, copy=True) if isinstance(out, np.ndarray) else None
    try:
        result = over(axes, operator)(*arguments, out=out, backend="cpu", **keys)
    except (ValueError, TypeError) as error:
        assert set(re.findall(r"\w+", str(error))) & set(WORDS), error
        if before is not None:
            np.testing.assert_array_equal(out, before)
    except MemoryError as error:  # a padding of 2**31 around a signal
        assert "Unable to allocate" in str(error)
    else:
        assert isinstance(result, np.ndarray) and (out is None or result is out)


# --- the command line -----------------------------------------------------------------------------
PIECES = st.sampled_from(
    ("n", "i", "ih", "ic", "oc", "f", "stride", "padding", "dilation", "groups", "axes", "=", ",", "x", "1", "2", "0",
     "-1", "9999999999999999999", "same", " ", "conv2d", "ks_deconv", "--launches", "--sms", "é", "1e3")
)  # fmt: skip


@FUZZ
@given(command=st.sampled_from(("plan", "flops", "explain")), pieces=st.lists(PIECES, max_size=9), extra=PIECES)
def test_the_command_line_answers_or_explains(command, pieces, extra):
    words = [command, extra, "".join(pieces)]
    try:
        assert commands.main([word for word in words if word]) in (0, 1, 2)
    except SystemExit as stopped:
        assert stopped.code == 2
