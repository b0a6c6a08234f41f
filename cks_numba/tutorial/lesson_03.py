"""Exercises of 03_ks_deconv."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..geometry import Axis
from .answers import Wrong, call
from .trying import one_axis

AXES = [
    Axis(size=6, taps=3, stride=2, before=1, after=1, dilation=1),
    Axis(size=7, taps=4, stride=2, before=1, after=1, dilation=1),
    Axis(size=8, taps=5, stride=3, before=2, after=2, dilation=1),
    Axis(size=5, taps=2, stride=3, before=0, after=0, dilation=1),  # some inputs meet no tap
    Axis(size=4, taps=3, stride=1, before=1, after=1, dilation=1),
]


def _name(axis: Axis) -> str:
    return f"taps={axis.taps}, outputs={axis.outputs}, stride={axis.stride}, padding={axis.before}"


# --- 03.1 -------------------------------------------------------------------------------------------
def sub_filters(answer: Any) -> str:
    """Sizes of the four sub-filters of a 5x5 filter with stride 2."""
    expected = [(2, 2), (2, 3), (3, 2), (3, 3)]
    try:
        got = sorted(tuple(int(side) for side in size) for size in answer)
    except TypeError as error:
        raise Wrong("Give a list of four pairs (rows, columns), such as [(1, 2), (3, 4), ...].") from error
    if len(got) != 4:
        raise Wrong(f"Stride 2 has 2 phases along each axis, so 2 x 2 sub-filters; you have {len(got)}.")
    if sum(rows * columns for rows, columns in got) != 25:
        raise Wrong("Every tap is in exactly one sub-filter, so their sizes must add up to 25 taps.")
    if got != expected:
        raise Wrong("Along one axis phase 0 has taps 0, 2, 4 and phase 1 has taps 1, 3. Combine rows and columns.")
    return "9 + 6 + 6 + 4 taps: nothing is lost, and each input meets between 4 and 9 taps instead of 25."


# --- 03.2 -------------------------------------------------------------------------------------------
def meeting(answer: Any) -> str:
    """A function that returns the pairs (f, o) that an input meets."""
    for axis in AXES:
        for i in range(axis.size):
            got = call(answer, i, axis.taps, axis.outputs, axis.stride, axis.before)
            _compare_pairs(i, axis, got)
    return "Inputs that are `stride` apart meet the same taps: that is a phase."


def _compare_pairs(i: int, axis: Axis, answer: Any) -> None:
    expected = {(f, o) for run in axis.runs("conv2d_input") for at, f, o in run.triples() if at == i}
    try:
        got = {(int(f), int(o)) for f, o in answer}
    except (TypeError, ValueError) as error:
        raise Wrong(f"Return a list of pairs (f, o). You returned {answer!r}.") from error
    if got == expected:
        return
    where = f"i={i}, {_name(axis)}: expected {sorted(expected)}, got {sorted(got)}."
    if any(o < 0 or o >= axis.outputs for _, o in got):
        raise Wrong(f"{where} There is no such output: test 0 <= o < outputs.")
    if any(f < 0 or f >= axis.taps for f, _ in got):
        raise Wrong(f"{where} There is no such tap: f runs from 0 to before {axis.taps}.")
    if any(o * axis.stride - axis.before + f != i for f, o in got):
        raise Wrong(f"{where} Put a pair into i = o*stride - padding + f: it must give i. Is the rest 0?")
    raise Wrong(f"{where} Some pairs are missing.")


# --- 03.3 -------------------------------------------------------------------------------------------
def output_padding(answer: Any) -> str:
    """The output_padding that brings 7 rows to 14 with a 3x3 filter, stride 2, padding 1."""
    if answer == 0:
        raise Wrong("With 0 you get (7 - 1)*2 - 2 + 2 + 1 = 13 rows, the other size that has 7 outputs.")
    if answer == 2:
        raise Wrong("2 is not below the stride. 15 rows would give 8 outputs going forward.")
    if answer != 1:
        raise Wrong("rows = (7 - 1)*stride - 2*padding + (3 - 1) + output_padding + 1. Solve for 14 rows.")
    return "14 is the larger one of the two sizes that a layer with stride 2 maps to 7."


# --- 03.4 -------------------------------------------------------------------------------------------
def kernel(answer: Any) -> str:
    """A kernel that computes the input gradient of one axis and multiplies no inserted zero."""
    one_axis(answer, "conv2d_input", AXES, seed=3)
    return "You have written KS-deconv: no zero was inserted, so none was multiplied."


EXERCISES: dict[str, Callable[[Any], str]] = {
    "03.1": sub_filters,
    "03.2": meeting,
    "03.3": output_padding,
    "03.4": kernel,
}
