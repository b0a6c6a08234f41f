"""The checks of the course: wrong answers get the help that fits them, and never an exception."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from numba import cuda

from cks_numba import ConvShape, conv2d_input, conv2d_weight, flops, geometry
from cks_numba.flops import networks
from cks_numba.kernels.jit import outputs_of_tap, taps_of_output
from cks_numba.tutorial import check

FOLDER = Path(__file__).resolve().parents[3] / "tutorials" / "solutions"
LESSONS = sorted(path.stem[:2] for path in FOLDER.glob("*.ipynb"))
NAMES = {  # names that earlier cells of a notebook define
    "np": np,
    "cuda": cuda,
    "ConvShape": ConvShape,
    "flops": flops,
    "geometry": geometry,
    "networks": networks,
    "conv2d_input": conv2d_input,
    "conv2d_weight": conv2d_weight,
    "outputs_of_tap": outputs_of_tap,
    "taps_of_output": taps_of_output,
    "small_y": np.zeros((4, 4)),
    "right": np.pad(np.zeros((3, 3)), ((1, 0), (1, 0)), constant_values=1),
}


def printed(capsys, exercise, answer) -> str:
    check(exercise, answer)
    return " ".join(capsys.readouterr().out.split())  # joins wrapped lines


@pytest.mark.parametrize("lesson", LESSONS)
@pytest.mark.parametrize("nothing", [None, ..., NotImplemented])
def test_no_answer_is_open(lesson, nothing, capsys):
    for exercise in import_module(f"cks_numba.tutorial.lesson_{lesson}").EXERCISES:
        assert "is still open" in printed(capsys, exercise, nothing)


@pytest.mark.parametrize("lesson", LESSONS)
@pytest.mark.parametrize("answer", [-1, "text", [], object(), lambda *_: 1 / 0, lambda: 0, lambda *_: "x"])
def test_a_strange_answer_is_wrong_and_raises_nothing(lesson, answer, capsys):
    for exercise in import_module(f"cks_numba.tutorial.lesson_{lesson}").EXERCISES:
        assert f"Exercise {exercise}: not yet. " in printed(capsys, exercise, answer)


@pytest.mark.parametrize("name", ["1.1", "77.1", "00.99"])
def test_unknown_exercises(name):
    with pytest.raises(ValueError, match="exercise must be"):
        check(name, 1)


def test_a_function_that_returns_nothing_is_open(capsys):
    for exercise in ("01.2", "01.3", "02.2", "02.3", "03.2"):
        assert "is still open" in printed(capsys, exercise, lambda *_: None)


@pytest.mark.parametrize("exercise", ["02.4", "03.4"])
def test_an_empty_kernel_is_open(exercise, capsys):
    @cuda.jit
    def empty(a, b, out, stride, padding):
        pass

    assert "is still open" in printed(capsys, exercise, empty)


HELP = [
    ("00.1", 4, "The question is about the others"),
    ("00.1", 9, "dotted squares"),
    ("00.2", 16 / 36, "useful share"),
    ("00.2", 100 * 20 / 36, "in percent"),
    ("01.1", 6, "padding moves everything"),
    ("01.1", 7, "padding comes off"),
    ("01.2", lambda size, taps, stride, padding, dilation: 12, "leave out those"),
    ("02.1", 3, "two axes"),
    ("02.1", 25, "whole filter"),
    ("02.2", lambda o, size, taps, stride, padding, dilation: (o * stride - padding, taps), "no tap below 0"),
    ("02.2", lambda o, size, taps, stride, padding, dilation: (max(0, padding - o), taps + 1), "only 3 taps"),
    ("02.2", lambda *_: 3, "Return two numbers"),
    ("02.3", lambda shape: shape.oh * shape.ow, "number of outputs"),
    ("02.3", lambda shape: 6, "multiply, do not add"),
    ("03.1", [(3, 3), (2, 2)], "2 x 2 sub-filters"),
    ("03.1", [(3, 3)] * 4, "add up to 25"),
    ("03.1", [(3, 3), (4, 3), (2, 1), (2, 1)], "phase 0 has taps 0, 2, 4"),
    ("03.2", lambda i, taps, outputs, stride, padding: [], "missing"),
    (
        "03.2",
        lambda i, taps, outputs, stride, padding: [
            (f, o) for f in range(taps) if 0 <= (o := (i + padding - f) // stride) < outputs
        ],
        "must give i",
    ),
    (
        "03.2",
        lambda i, taps, outputs, stride, padding: [
            (f, (i + padding - f) // stride) for f in range((i + padding) % stride, taps, stride)
        ],
        "no such output",
    ),
    ("03.3", 0, "13 rows"),
    ("03.3", 2, "below the stride"),
]


@pytest.mark.parametrize(("exercise", "answer", "help"), HELP)
def test_the_help_fits_the_mistake(exercise, answer, help, capsys):
    text = printed(capsys, exercise, answer)
    assert text.startswith(f"Exercise {exercise}: not yet.") and help in text, text


@cuda.jit
def no_guard(x, w, y, stride, padding):
    o = cuda.grid(1)
    y[o] = 0


@cuda.jit
def wraps_around(x, w, y, stride, padding):
    o = cuda.grid(1)
    if o < y.size:
        y[o] = 0
        for f in range(w.size):
            y[o] += x[min(x.size - 1, o * stride - padding + f)] * w[f]


@cuda.jit
def multiplies_zeros(x, w, y, stride, padding):
    o = cuda.grid(1)
    if o < y.size:
        acc = y.dtype.type(0)
        for f in range(w.size):
            i = o * stride - padding + f
            inside = 0 <= i and i < x.size
            acc += (x[i] if inside else 0) * w[f]
        y[o] = acc


@cuda.jit
def writes_only_some(dy, w, dx, stride, padding):
    i = cuda.grid(1)
    if i < dx.size and i % 2 == 0:
        dx[i] = 0


@pytest.mark.parametrize(
    ("exercise", "kernel", "help"),
    [
        ("02.4", no_guard, "past the end of an array"),
        ("02.4", wraps_around, "negative"),
        ("02.4", multiplies_zeros, "12 products where 10 are useful"),
        ("03.4", writes_only_some, "never written"),
        ("03.4", lambda *_: None, "keep the line @cuda.jit"),
    ],
)
def test_the_help_for_kernels(exercise, kernel, help, capsys):
    assert help in printed(capsys, exercise, kernel)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_solutions_are_right(path, capsys):
    sources = ["".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    for answer, checked in zip(sources, sources[1:], strict=False):
        if found := re.match(r'check\("([\d.]+)", (\w+)\)', checked):
            names = dict(NAMES)
            exec(compile(answer, found[1], "exec"), names)
            assert ": right." in printed(capsys, found[1], names[found[2]])
