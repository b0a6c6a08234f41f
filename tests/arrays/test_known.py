"""Known calls on NumPy arrays: who is looked up, who must not be, and that both give the same results and errors."""

from __future__ import annotations

import itertools
import warnings

import numba
import numpy as np
import pytest

import cks_numba as cks
from cks_numba.arrays import known
from cks_numba.backends import cpu
from cks_numba.backends.cpu import repeats
from cks_numba.buffers import LAYOUTS

HOW = {"stride": 2, "padding": ((1, 0), (2, 1)), "backend": "cpu"}


@pytest.fixture(autouse=True)
def found(monkeypatch):
    """The results of the calls of this test that were looked up; none is known at its beginning."""
    results, run = [], known.KnownCall.run

    def noted(call, arrays):
        result = run(call, arrays)
        if result is not None:
            results.append(result)
        return result

    monkeypatch.setattr(known.KnownCall, "run", noted)
    repeats.forget()
    yield results
    repeats.forget()


_random = np.random.default_rng(0)


def integers(*size, dtype=np.float32):
    return _random.integers(-3, 4, size).astype(dtype)


def two_dimensional():
    return integers(2, 5, 6, 3), integers(4, 3, 2, 3), integers(4)


def arguments(name, axes, layout, batched, dtype):
    """Arguments of an operator, new numbers at each call, and its options."""
    sizes, taps, outputs = (5, 6, 4)[:axes], (3, 2, 3)[:axes], (3, 3, 2)[:axes]

    def array(*size):
        own = size if layout == LAYOUTS[axes][0] else (size[0], size[-1], *size[1:-1])
        return integers(*own, dtype=dtype)

    x, w, dy = array(2, *sizes, 4), array(6, *taps, 2), array(2, *outputs, 6)
    if not batched:
        x, dy = x[0], dy[0]
    options = {"stride": 2, "padding": tuple((1, after) for after in (1, 0, 0)[:axes]), "groups": 2}
    if name == "conv":
        return (x, w, integers(6, dtype=dtype)), options
    if name == "conv_input":
        return (x.shape, w, dy), options
    if name == "conv_transpose":
        return (dy, w, integers(4, dtype=dtype)), options
    return (x, w.shape, dy), options


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("name", ["conv", "conv_input", "conv_transpose", "conv_weight"])
def test_the_second_call_is_looked_up(name, axes, last, batched, dtype, found):
    layout = LAYOUTS[axes][0 if last else 1]
    start, _, end = name.partition("_")
    function = getattr(cks, f"{name}{axes}d" if end == "transpose" else f"{start}{axes}d{'_' if end else ''}{end}")
    for again in (0, 1, 1):
        given, options = arguments(name, axes, layout, batched, dtype)
        options["layout"] = layout
        right = function(*given, **options, backend="steps")
        got = function(*given, **options, backend="cpu")
        out = np.full_like(right, np.nan)
        assert function(*given, **options, backend="cpu", out=out) is out
        assert len(found) == 2 * again
        found.clear()
        for each in (got, out):
            assert type(each) is np.ndarray and each.dtype == right.dtype and each.shape == right.shape
            np.testing.assert_array_equal(each, right)
        assert got.flags.c_contiguous and got.flags.writeable


def test_arguments_by_name_in_any_order(found):
    for names in itertools.permutations("xwb"):
        x, w, b = two_dimensional()
        given = {"x": x, "w": w, "bias": b}
        ordered = {name: given[name] for letter in names for name in given if name[0] == letter}
        right = cks.conv2d(x, w, b, stride=2, padding=1, backend="steps")
        for _ in range(2):
            np.testing.assert_array_equal(cks.conv2d(**ordered, stride=2, padding=1, backend="cpu"), right)
    assert len(found) == 6


def test_results_have_memory_of_their_own():
    x, w, _ = two_dimensional()
    results = [cks.conv2d(x, w, **HOW) for _ in range(4)]
    assert not any(np.shares_memory(one, other) for one, other in itertools.combinations(results, 2))


def test_a_large_result_begins_at_a_cache_line(found):
    x, w = np.ones((1, 64, 64, 64), np.float32), np.ones((64, 1, 1, 64), np.float32)
    results = [cks.conv2d(x, w, backend="cpu") for _ in range(4)]
    assert len(found) == 3 and all(result.ctypes.data % 64 == 0 for result in results)


def test_strides_of_arrays_are_compared(found):
    """Views of any strides, negative and 0 too, have results of their own; a bias with gaps is copied at each call."""
    x, w, b = integers(4, 10, 12, 6), integers(4, 3, 2, 3), integers(8)
    views = [
        x[:2, :5, :6, :3],
        x[::2, ::2, ::2, ::2],
        x[1::-1, 5:0:-1, :6, 2::-1],
        np.broadcast_to(x[0, 0, 0, :3], (2, 5, 6, 3)),
    ]
    for each in (*views, *views):
        for bias in (b[:4], b[::2], b[3::-1]):
            right = cks.conv2d(each, w, bias, **HOW | {"backend": "steps"})
            np.testing.assert_array_equal(cks.conv2d(each, w, bias, **HOW), right)
    assert len(found) == 4


def test_as_many_threads_as_are_set_now(found):
    x, w, _ = two_dimensional()
    before = numba.get_num_threads()
    try:
        for threads in (1, numba.config.NUMBA_NUM_THREADS, 1, numba.config.NUMBA_NUM_THREADS):
            numba.set_num_threads(threads)
            cks.conv2d(x, w, **HOW)
    finally:
        numba.set_num_threads(before)
    assert len(found) == (2 if numba.config.NUMBA_NUM_THREADS > 1 else 3)


# --- arguments that must not be looked up ----------------------------------------------------------
WRONG = {
    "stride of True": {"stride": True},
    "stride of 1.0": {"stride": 1.0},
    "stride in floats": {"stride": (1.0, 1)},
    "groups of True": {"groups": True},
    "padding of True": {"padding": True},
    "stride in a row of bytes": {"stride": b"\1\1"},
    "another layout": {"layout": "NCHW"},
    "no layout": {"layout": ["NHWC"]},
    "no backend": {"backend": "Cpu"},
    "an unknown option": {"strides": 1},
    "a bias that is no array": {"bias": 0},
    "a bias of another size": {"bias": np.zeros(3, np.float32)},
    "a bias of another dtype": {"bias": np.zeros(4)},
    "out of another shape": {"out": np.zeros((2, 5, 6, 4, 1), np.float32)},
    "out of another dtype": {"out": np.zeros((2, 5, 6, 4))},
    "out that is a list": {"out": []},
    "out with gaps": {"out": np.zeros((2, 5, 6, 8), np.float32)[..., ::2]},
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_errors_as_before(name, found):
    x, w = integers(2, 5, 6, 3), integers(4, 3, 3, 3)
    plain = {"stride": 1, "padding": 1, "groups": 1, "backend": "cpu", "layout": "NHWC"}
    for given in (plain, {"bias": integers(4), **plain}, {"out": np.zeros((2, 5, 6, 4), np.float32), **plain}):
        for _ in range(2):
            cks.conv2d(x, w, **given)
        assert found
        found.clear()
        messages = []
        for _ in range(2):
            with pytest.raises((TypeError, ValueError)) as caught:
                cks.conv2d(x, w, **given | WRONG[name])
            messages.append(str(caught.value))
            repeats.forget()
        assert messages[0] == messages[1] and not found


def test_wrong_arrays_are_errors_as_before(found):
    x, w, b = two_dimensional()
    for _ in range(2):
        cks.conv2d(x, w, b, **HOW)
    assert found
    found.clear()
    masked, half = np.ma.masked_array(x), x.astype(np.float16)
    wrongs = (
        (masked, w, b),
        (half, w, b),
        (x.astype(complex), w, b),
        (x[..., :2], w, b),
        (x.tolist(), w, b),
        (x, None, b),
    )
    for wrong in (*wrongs, (x, w.shape, b), (x, w, ...), (x, ..., b), (x, w, b, 2), (x,)):
        with pytest.raises((TypeError, ValueError)):
            cks.conv2d(*wrong, **HOW)
    assert not found


OTHERS = {
    "another byte order": lambda x: x.astype(">f4"),
    "float64": lambda x: x.astype(np.float64),
    "not aligned": lambda x: np.frombuffer(b"." + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape),
    "a subclass": lambda x: x.view(np.memmap),
    "one image": lambda x: x[0],
    "no image": lambda x: x[:0],
    "float16": lambda x: x.astype(np.float16),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_arrays_are_not_taken_for_known_ones(name, found):
    x, w, b = two_dimensional()
    for _ in range(2):
        cks.conv2d(x, w, b, **HOW)
    assert found
    found.clear()
    other = OTHERS[name](x)
    dtype = other.dtype.newbyteorder("=")
    given = other, w.astype(dtype), b.astype(dtype)
    got, right = (cks.conv2d(*given, **HOW | {"backend": backend}) for backend in ("cpu", "steps"))
    assert not found
    assert got.dtype == right.dtype and got.shape == right.shape
    np.testing.assert_array_equal(got, right)


@pytest.mark.parametrize("kind", [list, lambda size: tuple(map(np.int64, size))])
def test_arguments_that_may_change(kind, found):
    """Lists of sizes and strides are read anew at each call."""
    w, dy = integers(4, 3, 3, 3), integers(1, 3, 3, 4)
    size, stride = kind((1, 5, 5, 3)), kind((2, 2))
    for _ in range(3):
        assert cks.conv2d_input(size, w, dy, stride=stride, padding=1, backend="cpu").shape == (1, 5, 5, 3)
    if not isinstance(size, tuple):
        size[1] = 6
        assert cks.conv2d_input(size, w, dy, stride=stride, padding=1, backend="cpu").shape == (1, 6, 5, 3)
        stride[1] = 3
        with pytest.raises(ValueError, match="width|5"):
            cks.conv2d_input(size, w, dy, stride=stride, padding=1, backend="cpu")
    assert not found


def test_out_is_checked_at_each_call(found):
    memory = np.zeros(2000, np.float32)
    w, b = integers(2, 1, 1, 2), np.zeros(2, np.float32)

    def at(first):
        return memory[first : first + 100].reshape(1, 5, 10, 2)

    for _ in range(2):
        cks.conv2d(at(500), w, b, out=at(1000), backend="cpu")
    assert len(found) == 1
    for first in (1000, 901, 1099):
        before = memory.copy()
        with pytest.raises(ValueError, match="overlap"):
            cks.conv2d(at(first), w, b, out=at(1000), backend="cpu")
        np.testing.assert_array_equal(memory, before)
    for first in (900, 1100):
        cks.conv2d(at(first), w, b, out=at(1000), backend="cpu")
    with pytest.raises(ValueError, match="overlap"):
        cks.conv2d(at(500), w, memory[1010:1012], out=at(1000), backend="cpu")
    memory.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        cks.conv2d(at(500), w, b, out=at(1000), backend="cpu")
    assert len(found) == 3


def test_out_may_not_overlap_a_view_that_goes_backwards(found):
    memory = np.zeros(1000, np.float32)
    w = integers(2, 1, 1, 2)
    for first in (500, 500, 300, 599, 699, 700):
        x, out = memory[first : first + 100][::-1].reshape(1, 5, 10, 2), memory[600:700].reshape(1, 5, 10, 2)
        if 500 < first < 700:
            with pytest.raises(ValueError, match="overlap"):
                cks.conv2d(x, w, out=out, backend="cpu")
        else:
            cks.conv2d(x, w, out=out, backend="cpu")
    assert len(found) == 3


@pytest.mark.parametrize("change", [{"backend": "steps"}, {"NOTES_CALLS": False}])
def test_calls_that_nobody_notes(change, found, monkeypatch):
    x, w, b = two_dimensional()
    right = cks.conv2d(x, w, b, **HOW)
    repeats.forget()
    monkeypatch.setattr(cpu, "NOTES_CALLS", change.get("NOTES_CALLS", True))
    for _ in range(3):
        np.testing.assert_array_equal(cks.conv2d(x, w, b, **HOW | {"backend": change.get("backend", "cpu")}), right)
    assert not found


@pytest.mark.parametrize("channels", [3, 40, 64])
@pytest.mark.parametrize("operator", ["conv2d", "conv_transpose2d"])
@pytest.mark.parametrize("size", [2, 7])
def test_packed_filters_are_looked_up(operator, channels, size, found):
    """Calls with filters of one kind differ in numbers alone; whether there are panels depends on the channels."""
    call, how = getattr(cks, operator), {"stride": 1, "padding": 1, "backend": "cpu"}
    first, last = (channels, 64) if operator == "conv2d" else (64, channels)
    for _ in range(3):
        x, w, b = integers(1, size, size, 64), integers(first, 3, 3, last), integers(channels)
        right = call(x, w, b, **how | {"backend": "steps"})
        packed = cks.pack(w, operator=operator)
        for _ in range(2):
            np.testing.assert_array_equal(call(x, packed, b, **how), right)
    assert len(found) == 5


def test_other_packed_filters_are_errors_as_before(found):
    x, w, _ = two_dimensional()
    for _ in range(2):
        cks.conv2d(x, cks.pack(w), **HOW)
    assert len(found) == 1
    with pytest.raises(ValueError, match="packed for an input gradient"):
        cks.conv2d(x, cks.pack(w, operator="conv2d_input"), **HOW)
    with pytest.raises(ValueError, match="packed in layout 'NCHW'"):
        cks.conv2d(x, cks.pack(w, layout="NCHW"), **HOW)
    with pytest.raises(ValueError, match="packed for groups=2"):
        cks.conv2d(x, cks.pack(w, groups=2), **HOW)
    with pytest.raises(TypeError, match="packed as float64"):
        cks.conv2d(x, cks.pack(w.astype(np.float64)), **HOW)
    assert len(found) == 1


def test_no_warning_for_what_is_no_number():
    x, w, b = two_dimensional()
    x[0, 0, 0] = np.inf
    b[0], b[1] = np.nan, -np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = [cks.conv2d(x, w, b, **HOW) for _ in range(2)]
    np.testing.assert_array_equal(*results)


def test_a_call_without_a_kernel_does_not_take_the_one_of_the_call_before(found):
    x, w, _ = two_dimensional()
    for _ in range(2):
        cks.conv2d(x, w, **HOW)
        assert cks.conv2d(x[:0], w, **HOW).shape == (0, 2, 4, 4)
    assert len(found) == 1
