"""Exercises of 02_conv_v2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import flops
from ..geometry import Axis, ConvShape, plan, taps_of_output
from .answers import Wrong, agree, call, shown, whole
from .guesses import Number, Prediction
from .own_kernel import on_one_axis
from .trying import one_axis

AXES = [
    Axis(size=4, taps=3, stride=1, before=1, after=1, dilation=1),
    Axis(size=7, taps=3, stride=2, before=1, after=1, dilation=1),
    Axis(size=2, taps=5, stride=1, before=2, after=2, dilation=1),
    Axis(size=9, taps=3, stride=2, before=3, after=3, dilation=2),
    Axis(size=6, taps=4, stride=3, before=2, after=2, dilation=1),
    Axis(size=8, taps=3, stride=1, before=2, after=2, dilation=2),  # (size - origin) / dilation leaves a rest
    Axis(size=11, taps=4, stride=1, before=2, after=2, dilation=1),  # more than two blocks
]
LAYERS = [
    ConvShape(n=1, ih=ih, iw=iw, ic=1, oc=1, fh=taps, fw=taps, stride=stride, padding=padding, dilation=dilation)
    for ih, iw, taps, stride, padding, dilation in (
        (8, 11, 3, 1, 1, 1),
        (8, 11, 5, 1, 2, 1),
        (7, 10, 3, 2, 1, 1),
        (8, 11, 3, 2, 1, 1),
        (2, 5, 3, 1, 1, 1),
        (10, 2, 3, 1, 1, 1),
        (9, 8, 5, 1, 1, 1),
        (9, 8, 3, 1, 1, 2),
        (1, 8, 3, 1, 1, 1),
    )
]


# --- 02.1 -------------------------------------------------------------------------------------------
def kept_taps(answer: Any) -> str:
    """Number of taps of a 5x5 filter with padding 2 that the first output keeps."""
    helps = {
        3: "Three along each axis. An image has two axes.",
        6: "Three rows and three columns of taps: multiply, do not add.",
        16: "That is how many lie on padding. How many of the 25 are left?",
        4: "That is what is left out along each axis, squared: 5 - 2 rows of taps stay, and 5 - 2 columns.",
        5: "That is one side of the filter. Two of its rows and two of its columns lie on padding.",
        15: "Only the rows, or only the columns, are trimmed in that. In a corner both are.",
        25: "That is the whole filter. Two of its rows and two of its columns lie on padding.",
    }
    number = whole(answer)
    if number != 9:
        text = "How many of the 5 rows of the filter lie on x, and how many of its columns? Multiply."
        raise Wrong(helps.get(number, f"Yours is {number}. {text}"))
    return "3 x 3 of 5 x 5: 16 of the 25 products of a corner would have had a zero as a factor."


# --- 02.2 -------------------------------------------------------------------------------------------
def window(answer: Any) -> str:
    """A function that returns the first and past-the-last tap of an output."""
    for axis in AXES:
        for o in range(axis.outputs):
            sizes = (axis.size, axis.taps, axis.stride, axis.before, axis.dilation)
            got, expected = call(answer, o, *sizes), taps_of_output(o, *sizes)
            _compare_windows(o, axis, got, expected, lambda: _ends_early(answer))
    return "The two ends are all that the kernel needs: between them there is no test and no zero."


def _ends_early(answer: Any) -> bool:
    """Whether an answer takes the last tap on x for the first that is not used, wherever the dilation is 1."""
    for axis in (axis for axis in AXES if axis.dilation == 1):
        sizes = (axis.size, axis.taps, axis.stride, axis.before, axis.dilation)
        for o in range(axis.outputs):
            last = axis.size - 1 - o * axis.stride + axis.before
            if call(answer, o, *sizes)[1] not in (min(axis.taps, last), min(axis.taps - 1, last)):
                return False
    return True


def _compare_windows(o: int, axis: Axis, got: Any, expected: tuple[int, int], ends_early: Callable[[], bool]) -> None:
    where = (
        f"For o={o}, size={axis.size}, taps={axis.taps}, stride={axis.stride}, padding={axis.before}, "
        f"dilation={axis.dilation}"
    )
    if not isinstance(got, (tuple, list, np.ndarray)) or len(got) != 2:
        raise Wrong(f"{where}: return two numbers, lo and hi. You returned {shown(got)}.")
    for name, value in zip(("lo", "hi"), got, strict=True):
        if not isinstance(value, (int, np.integer)):
            raise Wrong(f"{where}: {name} is {shown(value)}, no whole number: divide with //, not with /.")
    lo, hi = map(int, got)
    found = range(lo, hi)
    if found == range(*expected):
        return
    if isinstance(got, list) and got == list(range(*expected)):
        raise Wrong(f"{where}: you return the taps themselves, {shown(got)}. Return where they begin and end: lo, hi.")
    said = f"{where} lo, hi should be {expected}, and yours are {(lo, hi)}."
    if (hi, lo) == expected:
        raise Wrong(f"{said}\nYou return hi, lo: the first tap comes first.")
    raise Wrong(f"{said}\n{_why_not(o, axis, found, expected, ends_early)}")


def _why_not(o: int, axis: Axis, found: range, expected: tuple[int, int], ends_early: Callable[[], bool]) -> str:
    """What is wrong with a range of taps."""
    origin, gaps = o * axis.stride - axis.before, axis.dilation > 1
    for f in (*found[:1], *found[-1:]):
        i = origin + f * axis.dilation
        if f < 0:
            return f"It has tap {f}, and there is no tap below 0: take the larger of 0 and your lo."
        if f >= axis.taps:
            return f"It has tap {f}, but there are only {axis.taps} taps: take the smaller of that and your hi."
        if i < 0:
            up = " Round lo up: -(-a // b)." if gaps else ""
            return f"It has tap {f}, whose input {i} lies on the padding before x.{up}"
        if i >= axis.size:
            down = " Round hi down." if gaps else ""
            return f"It has tap {f}, whose input {i} lies past the end of x, which is {axis.size - 1}.{down}"
    f = next(tap for tap in range(*expected) if tap not in found)
    early = f == found.stop == expected[1] - 1 and ends_early()
    hint = " hi is the first tap that is NOT used, as in range(lo, hi)." if early else ""
    return f"It lacks tap {f}, whose input {origin + f * axis.dilation} lies on x.{hint}"


# --- 02.3 -------------------------------------------------------------------------------------------
def group_count(answer: Any) -> str:
    """A function that counts the groups of a layer."""

    def windows(axis: Axis) -> int:
        return len(axis.runs("conv2d"))

    def different(key: Callable[[Any], Any]) -> Callable[[ConvShape], int]:
        return lambda shape: len(set(map(key, _windows(shape.h)))) * len(set(map(key, _windows(shape.w))))

    mistakes: dict[str, Callable[[ConvShape], int]] = {
        "Every window of the rows goes with every window of the columns: multiply, do not add.": lambda shape: (
            windows(shape.h) + windows(shape.w)
        ),
        "That is the number of outputs. Outputs with the same (lo, hi) are one group: use a set.": lambda shape: (
            shape.oh * shape.ow
        ),
        "These are the windows of the rows alone. The columns have windows, too.": lambda shape: windows(shape.h),
        "These are the windows of the columns alone. The rows have windows, too.": lambda shape: windows(shape.w),
        "The columns have a size of their own: shape.w.": lambda shape: windows(shape.h) ** 2,
        "The rows have a size of their own: shape.h.": lambda shape: windows(shape.w) ** 2,
        "Rows and columns need a set each: a window that both have counts for the rows, and for the columns.": (
            lambda shape: len({*_windows(shape.h), *_windows(shape.w)}) ** 2
        ),
        "You combine each row with one column only, that of the same number: all pairs of windows are needed.": (
            lambda shape: len(set(zip(_windows(shape.h), _windows(shape.w), strict=False)))
        ),
        "Windows with equally many taps may still differ: compare lo and hi.": different(
            lambda window: window[1] - window[0]
        ),
        "You compare only where windows begin: two of them may differ in hi alone.": different(
            lambda window: window[0]
        ),
        "You compare only where windows end: two of them may differ in lo alone.": different(lambda window: window[1]),
        "An axis has `outputs` outputs: o goes over range(axis.outputs), not over its size.": lambda shape: (
            len(set(_windows(shape.h, shape.ih))) * len(set(_windows(shape.w, shape.iw)))
        ),
        "The dilation is missing: hand axis.dilation over to taps_of_output.": lambda shape: (
            len(set(_windows(shape.h, dilation=1))) * len(set(_windows(shape.w, dilation=1)))
        ),
        "An axis has 2*padding + 1 windows only with stride 1, on a large map, and if the filter hangs over so far.": (
            lambda shape: (2 * shape.h.before + 1) * (2 * shape.w.before + 1)
        ),
        "That is the number of taps. Groups are windows, (lo, hi), that differ.": lambda shape: shape.fh * shape.fw,
        "Not every layer has nine groups: it depends on the stride and on small maps.": lambda shape: 9,
    }

    def right(shape: ConvShape) -> int:
        return len(plan("conv2d", shape).groups)

    agree(answer, right, [(shape,) for shape in LAYERS], mistakes, "Count the different windows of each axis.", _layer)
    return "However large the map is, the number of groups stays the same. Only the groups grow."


def _windows(axis: Axis, outputs: int | None = None, dilation: int | None = None) -> list[tuple[int, int]]:
    """The window of each output of an axis, (lo, hi)."""
    sizes = axis.size, axis.taps, axis.stride, axis.before, dilation or axis.dilation
    return [taps_of_output(o, *sizes) for o in range(outputs or axis.outputs)]


def _layer(shape: ConvShape) -> str:
    return (
        f"a map of {shape.ih} x {shape.iw}, a filter of {shape.fh} x {shape.fw}, stride {shape.stride[0]}, padding "
        f"{shape.padding[0][0]} and dilation {shape.dilation[0]}"
    )


# --- 02.4 -------------------------------------------------------------------------------------------
def kernel(answer: Any) -> str:
    """A kernel that convolves one axis and multiplies no padded zero."""
    one_axis(answer, "conv2d", [axis for axis in AXES if axis.dilation == 1], "padding would add")
    return "You have written ConvV2. The real kernel does the same on two axes and over the channels."


# --- predictions ------------------------------------------------------------------------------------
def _square(size: int) -> ConvShape:
    """A map with a 3x3 filter and padding 1."""
    return ConvShape(n=1, ih=size, iw=size, ic=1, oc=1, fh=3, fw=3, padding=1)


PREDICTIONS: dict[str, Prediction] = {
    "02.a": Number(
        lambda: flops.count("conv2d", _square(4)).redundant,
        "It is {answer}: 5 for each of the 4 corners, 3 for each of the 8 other outputs at an edge, none inside.",
        low="Every output at the border wastes some, and only 4 of the 16 are inside.",
        high="Only corners waste 5. An edge wastes less, and the 4 outputs inside nothing.",
        thoughts={
            4 * 5: "The corners alone waste that. The 8 outputs at an edge waste some, too.",
            8 * 3: "The edges alone waste that. Add the 4 corners.",
            12 * 5: "Not every output at the border wastes 5: at an edge, one row of three taps hangs over.",
            16 * 5: "Not every output wastes 5: an edge wastes less, and the inside nothing.",
            12 * 3: "That is 3 for each output at the border, but corners waste 5.",
            144 - 44: "That many are useful. The others have a zero.",
        },
        near=4,
    ),
    "02.b": Number(
        lambda: len(plan("conv2d", _square(100)).groups),
        "It is {answer}, for every size: three windows of the rows (first, inside, last) by three of the columns. The "
        "groups grow, but there are no more of them.",
        low="First and last row have windows of their own, and so have first and last column. Corners have both.",
        high="A large map has more outputs, but do they have windows that the small one lacks?",
        thoughts={
            100 * 100: "That many outputs there are, but nearly all share one window: the whole filter.",
            100 * 100 / 16 * 9: "The groups do not grow in number with the map. Inside, all windows are the same.",
            4 * 99: "That is the border. All outputs along one edge share a window, however long the edge is.",
            4 * 99 + 1: "All outputs along one edge share a window, however long the edge is.",
            5: "Four edges and the inside are five. Each corner has a window of its own, too.",
        },
    ),
    "02.c": Number(
        lambda: 100 * flops.count("conv2d", _square(7)).share("redundant"),
        "It is {answer:.1f} %, not quite a fifth.",
        low="Nearly half of the outputs, 24 of 49, lie at the border, and each wastes at least a third.",
        high="Nearly half of the outputs, 24 of 49, lie at the border, but most of these waste just a third.",
        thoughts={
            100 * 24 / 49: "That is the share of outputs at the border, but these do not waste all of their products.",
            100 * 44 / 144: "That is the 4 x 4 map. On a larger one the border is a smaller part.",
            100 * 20 / 36: "That is a 2 x 2 map, which has nothing but corners.",
            0.18: "If you mean a share between 0 and 1: here it is asked in percent.",
        },
        within=1,
        near=5,
    ),
}
EXERCISES: dict[str, Callable[[Any], str]] = {
    "02.1": kept_taps,
    "02.2": window,
    "02.3": group_count,
    "02.4": kernel,
}
LOOKS = {
    "02.4": on_one_axis(
        "conv2d",
        Axis(size=6, taps=5, stride=1, before=2, after=2, dilation=1),
        Axis(size=64, taps=5, stride=1, before=2, after=2, dilation=1),
        at=0,
    ),
}
HINTS = {
    "02.1": (
        "Take the rows alone. Of the 5 rows of the filter, how many lie on the padding above the corner?",
        "Two rows lie on padding, three on x. It is the same with the columns.",
        "Three rows times three columns.",
    ),
    "02.2": (
        "The two formulas above the exercise are nearly the code: one rounds up, the other down.",
        "lo is the larger of 0 and -origin/dilation, rounded up. hi is one more than the last tap.",
        "lo = max(0, -(origin // dilation)), hi = min(taps, (size - 1 - origin) // dilation + 1).",
    ),
    "02.3": (
        "How many different (lo, hi) has the axis of the rows? And that of the columns?",
        "A set holds each (lo, hi) once: {geometry.taps_of_output(o, ...) for o in range(axis.outputs)}.",
        "len(set of shape.h) * len(set of shape.w).",
    ),
    "02.4": (
        "It is exercise 02.2 with dilation 1, and then a sum over range(lo, hi).",
        "Only a thread with o < y.size may do anything. Its window begins at origin = o*stride - padding.",
        "for f in range(max(0, -origin), min(w.size, x.size - origin)): add x[origin + f] * w[f]. Then y[o] = acc.",
    ),
}
