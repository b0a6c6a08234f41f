"""Exercises of 01_one_equation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..geometry import Axis
from .answers import Wrong, call

AXES = [  # uneven ends, a stride that leaves a rest, large padding, gaps
    Axis(size=4, taps=3, stride=1, before=1, after=1, dilation=1),
    Axis(size=7, taps=3, stride=2, before=1, after=1, dilation=1),
    Axis(size=8, taps=4, stride=3, before=0, after=0, dilation=1),
    Axis(size=9, taps=3, stride=2, before=2, after=2, dilation=2),
    Axis(size=2, taps=5, stride=1, before=3, after=3, dilation=1),
]


def _name(axis: Axis) -> str:
    return f"size={axis.size}, taps={axis.taps}, stride={axis.stride}, padding={axis.before}, dilation={axis.dilation}"


# --- 01.1 -------------------------------------------------------------------------------------------
def met(answer: Any) -> str:
    """The input that output 3 meets at tap 0, with stride 2 and padding 1."""
    helps = {
        6: "That is o*stride. The padding moves everything to the left.",
        7: "The padding comes off: the first output starts in the padding, at input -1.",
        3: "Each output starts `stride` further than the one before, not one.",
        2: "Each output starts `stride` further than the one before, not one.",
    }
    if answer != 5:
        raise Wrong(helps.get(answer, "Put o=3, f=0, stride=2, padding=1, dilation=1 into the equation."))
    return "i = 3*2 - 1 + 0*1 = 5."


# --- 01.2 -------------------------------------------------------------------------------------------
def triples(answer: Any) -> str:
    """A function that counts the real triples of an axis."""
    for axis in AXES:
        got = call(answer, axis.size, axis.taps, axis.stride, axis.before, axis.dilation)
        if got != axis.triples:
            raise Wrong(f"For {_name(axis)} there are {axis.triples} real triples, not {got!r}. {_why(axis, got)}")
    return "This count, once for the rows and once for the columns, is all the work there is."


def _why(axis: Axis, got: Any) -> str:
    """Guess from the number what went wrong."""
    pairs = [(o * axis.stride + f * axis.dilation, o) for o in range(axis.outputs) for f in range(axis.taps)]
    inside = axis.size - 1
    guesses = {
        len(pairs): "You count every tap of every output: leave out those whose i is not on x.",
        sum(i - axis.before <= inside for i, _ in pairs): "Your i may be negative: test 0 <= i too.",
        sum(i >= axis.before for i, _ in pairs): "Your i may be too large: test i < size too.",
        sum(0 <= i + axis.before <= inside for i, _ in pairs): "The padding is subtracted, not added.",
    }
    if axis.dilation > 1:
        without = [o * axis.stride - axis.before + f for o in range(axis.outputs) for f in range(axis.taps)]
        guesses[sum(0 <= i <= inside for i in without)] = "Neighbouring taps are `dilation` apart: f*dilation."
    return guesses.get(got, "Go over all o and f, compute i, and count if it is on x: 0 <= i < size.")


# --- 01.3 -------------------------------------------------------------------------------------------
def filter_gradient(answer: Any) -> str:
    """A function that adds up the filter gradient of one axis."""
    rng = np.random.default_rng(1)
    for axis in AXES:
        x, dy = (rng.integers(1, 9, size).astype(float) for size in (axis.size, axis.outputs))
        expected = np.zeros(axis.taps)
        for run in axis.runs("conv2d_weight"):
            for i, f, o in run.triples():
                expected[f] += x[i] * dy[o]
        got = call(answer, x, dy, axis.taps, axis.stride, axis.before, axis.dilation)
        _compare(axis, np.asarray(got, float), expected)
    return "You have written the third operator, and no zero was multiplied: it never had any."


def _compare(axis: Axis, got: Any, expected: Any) -> None:
    where = f"For {_name(axis)}"
    if got.shape != expected.shape:
        raise Wrong(f"{where} dw has {axis.taps} elements, one a tap; yours has the shape {got.shape}.")
    if np.array_equal(got, expected[::-1]):
        raise Wrong(f"{where} your dw is back to front.")
    if not np.allclose(got, expected):
        f = int(np.argmax(~np.isclose(got, expected)))
        reason = "If i can be -1, Python reads the last element: test 0 <= i < len(x) before x[i]."
        raise Wrong(f"{where} dw[{f}] should be {expected[f]:g}, and is {got[f]:g}. {reason}")


EXERCISES: dict[str, Callable[[Any], str]] = {"01.1": met, "01.2": triples, "01.3": filter_gradient}
