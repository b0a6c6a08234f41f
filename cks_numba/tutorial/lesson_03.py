"""Pictures and exercises of 03_ks_deconv."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .. import plots, trace
from ..geometry import Axis, ConvShape
from ..steps.stages import amount
from .answers import Wrong, call, shown, whole
from .guesses import Choice, Number, Prediction
from .own_kernel import on_one_axis
from .trying import one_axis

AXES = [
    Axis(size=6, taps=3, stride=2, before=1, after=1, dilation=1),
    Axis(size=7, taps=4, stride=2, before=1, after=1, dilation=1),
    Axis(size=8, taps=5, stride=3, before=2, after=2, dilation=1),
    Axis(size=5, taps=2, stride=3, before=0, after=0, dilation=1),  # some inputs meet no tap
    Axis(size=4, taps=3, stride=1, before=1, after=1, dilation=1),
    Axis(size=11, taps=3, stride=2, before=1, after=1, dilation=1),  # more outputs than threads in a block
]


def _name(axis: Axis) -> str:
    return f"taps={axis.taps}, outputs={axis.outputs}, stride={axis.stride}, padding={axis.before}"


# --- pictures ---------------------------------------------------------------------------------------
def draw_phases(stride: int, taps: int) -> tuple[Figure, str]:
    """The filter by phase, its sub-filters, and which of them makes which element of a 6x6 dx; and a text of it."""
    layer = ConvShape(n=1, ih=6, iw=6, ic=1, oc=1, fh=taps, fw=taps, stride=stride, padding=1)
    figure, ax = plots.canvas(13.2, 16.8)
    filters, inputs = plots.phase_maps(layer)
    parts = [part.shape for row in plots.sub_filters(layer) for part in row]
    for left, top, title in ((0.5, 0.7, "w by phase"), (6.6, 0.7, "who makes which dx"), (0.5, 8.7, "sub-filters")):
        plots.write(ax, left, top, title, 16, weight="bold", ha="left")
    plots.draw_letters(ax, filters, 0.5, 1.4)
    plots.draw_letters(ax, inputs, 6.6, 1.4)
    plots.draw_sub_filters(ax, layer, 0.5, 9.4)
    sizes = ", ".join(f"{rows} x {columns}" for rows, columns in parts)
    return figure, f"Stride {stride}, a {taps} x {taps} filter: {amount(len(parts), 'sub-filter')}, {sizes}."


# --- 03.1 -------------------------------------------------------------------------------------------
def sub_filters(answer: Any) -> str:
    """Sizes of the four sub-filters of a 5x5 filter with stride 2."""
    expected = [(2, 2), (2, 3), (3, 2), (3, 3)]
    try:
        # The keys of a dict may be anything, its values are the sizes.
        pairs = [*(answer.values() if isinstance(answer, dict) else answer)]
        if any(np.ndim(pair) != 1 for pair in pairs):
            raise ValueError("a list of lists of pairs, or of numbers")
        got = sorted((whole(rows), whole(columns)) for rows, columns in pairs)
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
        given = [(f, o) for f, o in answer]
        pairs = [(int(f), int(o)) for f, o in given]
    except (TypeError, ValueError) as error:
        raise Wrong(f"Return a list of pairs (f, o). You returned {shown(answer)}.") from error
    for number in np.ravel(given).tolist():
        if not isinstance(number, int):
            raise Wrong(
                f"{shown(number)} is no whole number: divide with //, not with /. You returned {shown(answer)}."
            )
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


# --- predictions ------------------------------------------------------------------------------------
LONG = Axis(size=201, taps=3, stride=2, before=1, after=1, dilation=1)
LAYER = ConvShape(n=1, ih=6, iw=6, ic=1, oc=1, fh=3, fw=3, stride=2, padding=1)


def _taps_of_input(axis: Axis, i: int) -> list[int]:
    return list(range(axis.first_taps()[(i + axis.before) % axis.stride], axis.taps, axis.phase_step))


def _even_filters() -> str:
    """Filters for which all results inside are sums of equally many products."""
    even = []
    for taps in (3, 4):
        layer = ConvShape(n=1, ih=8, iw=8, ic=1, oc=1, fh=taps, fw=taps, stride=2, padding=1)
        terms = trace.run("conv2d_input", layer, "skip_zeros").per_result(wasted=False)[0, 2:-2, 2:-2, 0]
        even += [f"{taps} x {taps}"] if terms.min() == terms.max() else []
    return even[0] if len(even) == 1 else ("neither", "both")[len(even) // 2]


PREDICTIONS: dict[str, Prediction] = {
    "03.a": Number(
        lambda: len(_taps_of_input(LONG, 100)),
        "It is {answer}: every even input meets tap 1 and nothing else, every odd one taps 2 and 0. (Input 5 would "
        "meet tap 0 of an output that does not exist.)",
        low="No column stays empty: the filter moves by two, and has three taps.",
        high="Which columns look like column 0? Which like column 1?",
        thoughts={
            2: "That is an odd column, such as 1 or 3. Column 100 looks like 0, 2 and 4.",
            3: "The filter has three taps, but moves two elements at a time: no input meets all of them.",
            50: "The columns hold no more taps further right. They only repeat.",
        },
    ),
    "03.b": Number(
        lambda: trace.count("conv2d_input", LAYER, "skip_zeros").useful,
        "It is {answer}: the table has 8 squares with a real input, and an image has two axes.",
        low="Count the squares of the whole table that are not dotted, and square that.",
        high="No column of the table holds more than two taps, so no result has more than four useful products.",
        thoughts={
            9 * 9: "A quarter of all would be that, or nine times nine. But one of the nine squares is dotted.",
            8: "That is one axis. Rows and columns combine: square it.",
            16: "Rows and columns combine: multiply the two numbers, do not add them.",
            36: "One product for each result would be that, but odd inputs meet two taps on an axis.",
            36 * 4: "Four products for each result would be that, but even inputs meet one tap on an axis.",
        },
        near=4,
    ),
    "03.c": Choice(
        ("3 x 3", "4 x 4", "both", "neither"),
        _even_filters,
        "It is the {answer} filter. A 3 x 3 filter has sub-filters with 4, 2, 2 and 1 taps, so neighbouring pixels "
        "are sums of different length, and unless training works against it, one pixel in four comes out brighter "
        "than its neighbours. That is the checkerboard which you can see in pictures made by networks. If the stride "
        "divides the filter, as 2 divides 4, all sub-filters have the same size, and the pattern disappears.",
        {
            "3 x 3": "Its sub-filters have 2 or 1 taps along an axis, so some inputs meet more taps than others.",
            "both": "One of the two is not divided by the stride: its sub-filters have different sizes.",
            "neither": "One of the two is divided by the stride: its sub-filters all have the same size.",
        },
    ),
    "03.d": Number(
        lambda: plots.share("conv2d_input", 32, 3, 2),
        "It is {answer:.1f} %. However large the map, about 1 - 1/stride**2 of the work is waste, with stride 3 eight "
        "of nine products: here the zeros are everywhere, not only at the border. This is why the gradients of strided "
        "layers gain so much more than the forward pass.",
        low="Of every 2 x 2 elements of the spread-out map one is real.",
        high="Of every 2 x 2 elements of the spread-out map one is real, and it is used.",
        thoughts={
            50: "Half along each axis. An image has two axes, and half of a half is real.",
            25: "That is what remains useful.",
            100 * 8 / 9: "That is stride 3.",
            0.75: "If you mean a share between 0 and 1: here it is asked in percent.",
        },
        within=1.5,
        near=6,
    ),
}
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
