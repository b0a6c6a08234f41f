"""Exercises of 03_ks_deconv."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..geometry import Axis
from .answers import Wrong, call, shown, whole
from .own_kernel import on_one_axis
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
        got = sorted((int(rows), int(columns)) for rows, columns in answer)
    except (TypeError, ValueError) as error:
        raise Wrong("Give a list of four pairs (rows, columns), such as [(1, 2), (3, 4), ...].") from error
    if len(got) != 4:
        raise Wrong(f"Stride 2 has 2 phases along each axis, so 2 x 2 sub-filters; you have {len(got)}.")
    taps = sum(rows * columns for rows, columns in got)
    if taps != 25:
        raise Wrong(f"Every tap is in exactly one sub-filter, so they must have 25 taps in all; yours have {taps}.")
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
        pairs = [(int(f), int(o)) for f, o in answer]
    except (TypeError, ValueError) as error:
        raise Wrong(f"Return a list of pairs (f, o). You returned {shown(answer)}.") from error
    got = set(pairs)
    where = f"For i={i}, {_name(axis)}:\n  yours:  {shown(sorted(pairs))}\n  right:  {shown(sorted(expected))}\n"
    if len(pairs) > len(got):
        raise Wrong(f"{where}A pair is there more than once.")
    if got == expected:
        return
    if got == {(o, f) for f, o in expected}:
        raise Wrong(f"{where}Yours are pairs (o, f): the tap comes first.")
    if extra := sorted(got - expected):
        raise Wrong(f"{where}{_why_not(i, axis, *extra[0])}")
    f, o = min(expected - got)
    raise Wrong(
        f"{where}({f}, {o}) is missing: o*stride - padding + f = {o * axis.stride - axis.before + f}, which is i."
    )


def _why_not(i: int, axis: Axis, f: int, o: int) -> str:
    """Why input i does not meet tap f in output o."""
    if not 0 <= f < axis.taps:
        return f"There is no tap {f}: f runs from 0 to before {axis.taps}."
    found = o * axis.stride - axis.before + f
    if found != i:
        return f"({f}, {o}) gives o*stride - padding + f = {found}, not {i}: tap {f} does not meet input {i} there."
    return f"There is no output {o}: test 0 <= o < outputs."


# --- 03.3 -------------------------------------------------------------------------------------------
def output_padding(answer: Any) -> str:
    """The output_padding that brings 7 rows to 14 with a 3x3 filter, stride 2, padding 1."""
    extra = whole(answer)
    if extra == 0:
        raise Wrong("With 0 you get (7 - 1)*2 - 2 + 2 + 1 = 13 rows, the other size that has 7 outputs.")
    if extra == 2:
        raise Wrong("2 is not below the stride. 15 rows would give 8 outputs going forward.")
    if extra != 1:
        rows = 13 + extra
        raise Wrong(f"Yours gives (7 - 1)*stride - 2*padding + (3 - 1) + {extra} + 1 = {rows} rows. Solve for 14 rows.")
    return "14 is the larger one of the two sizes that a layer with stride 2 maps to 7."


# --- 03.4 -------------------------------------------------------------------------------------------
def kernel(answer: Any) -> str:
    """A kernel that computes the input gradient of one axis and multiplies no inserted zero."""
    one_axis(answer, "conv2d_input", AXES, "inserting or padding would add")
    return "You have written KS-deconv: no zero was inserted, so none was multiplied."


EXERCISES: dict[str, Callable[[Any], str]] = {
    "03.1": sub_filters,
    "03.2": meeting,
    "03.3": output_padding,
    "03.4": kernel,
}
LOOKS = {
    "03.4": on_one_axis(
        "conv2d_input",
        Axis(size=8, taps=3, stride=2, before=1, after=1, dilation=1),
        Axis(size=64, taps=3, stride=2, before=1, after=1, dilation=1),
        at=1,
    ),
}
HINTS = {
    "03.1": (
        "Stay on one axis first: a filter of 5 taps, stride 2. Which taps are in phase 0, and which in phase 1?",
        "Phase 0 has taps 0, 2, 4 and phase 1 has taps 1, 3. How many is that each?",
        "Three taps and two taps. A sub-filter has a phase of the rows and one of the columns: 3 or 2 by 3 or 2.",
    ),
    "03.2": (
        "Solve i = o*stride - padding + f for o. For which f is the result a whole number?",
        "o = (i + padding - f) / stride. The first such f is (i + padding) % stride, and the next ones are stride "
        "apart.",
        "for f in range((i + padding) % stride, taps, stride): compute o with //, and append (f, o) if 0 <= o < "
        "outputs.",
    ),
    "03.3": (
        "How many rows does the layer make if nothing is added? Going forward it maps several sizes to 7.",
        "rows = (7 - 1)*stride - 2*padding + (3 - 1) + 1 + output_padding.",
        "(7 - 1)*2 - 2 + 2 + 1 is 13. What is left to 14?",
    ),
    "03.4": (
        "It is exercise 03.2 with a sum in place of the list: each pair (f, o) is one product dy[o] * w[f].",
        "A thread with i < dx.size starts a sum with dx.dtype.type(0), walks over the taps of its phase, and at "
        "the end "
        "writes dx[i], also if it has met nothing.",
        "for f in range((i + padding) % stride, w.size, stride): o = (i + padding - f) // stride; if 0 <= o < dy.size, "
        "add dy[o] * w[f]. After the loop: dx[i] = acc.",
    ),
}
