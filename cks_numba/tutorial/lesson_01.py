"""Pictures and exercises of 01_one_equation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .. import flops, plots
from ..geometry import Axis, ConvShape
from ..steps.stages import amount
from .answers import Wrong, agree, call, shown, whole
from .guesses import Number, Prediction
from .trying import Triple, mistaken, triples

AXES = [  # uneven ends, a stride that leaves a rest, large padding, gaps
    Axis(size=4, taps=3, stride=1, before=1, after=1, dilation=1),
    Axis(size=7, taps=3, stride=2, before=1, after=1, dilation=1),
    Axis(size=8, taps=4, stride=3, before=0, after=0, dilation=1),
    Axis(size=9, taps=3, stride=2, before=2, after=2, dilation=2),
    Axis(size=7, taps=3, stride=1, before=1, after=1, dilation=3),
    Axis(size=8, taps=3, stride=2, before=1, after=1, dilation=1),  # only the lower end hangs over
    Axis(size=2, taps=5, stride=1, before=3, after=3, dilation=1),
]
EQUATION = "i = o*stride - padding + f*dilation"


def _sizes(axis: Axis) -> tuple[int, ...]:
    return axis.size, axis.taps, axis.stride, axis.before, axis.dilation


def _axis(size: int, taps: int, stride: int, padding: int, dilation: int) -> Axis:
    return Axis(size, taps, stride, padding, padding, dilation)


# --- pictures ---------------------------------------------------------------------------------------
def draw_axis(taps: int, stride: int, padding: int) -> tuple[Figure, str]:
    """The table of an axis with 5 inputs, and a text of what it shows."""
    axis = ConvShape(n=1, ih=1, iw=5, ic=1, oc=1, fh=1, fw=taps, stride=(1, stride), padding=(0, padding)).w
    figure, ax = plots.canvas(11.2, 10.6)
    plots.draw_triples(ax, axis, left=3.8 - padding, top=1.2)  # input 0 stays where it is
    products = f"{axis.triples} of {axis.outputs * taps} products with a real input"
    plots.write(ax, 1, 1.9 + axis.outputs, f"{amount(axis.outputs, 'output')}, {products}", 14, ha="left")
    return figure, f"Taps {taps}, stride {stride}, padding {padding}: {amount(axis.outputs, 'output')}, {products}."


# --- 01.1 -------------------------------------------------------------------------------------------
def met(answer: Any) -> str:
    """The input that output 3 meets at tap 0, with stride 2 and padding 1."""
    helps = {
        6: "That is o*stride. The padding moves everything to the left.",
        7: "The padding comes off: the first output starts in the padding, at input -1.",
        3: "That is o alone: each output starts `stride` further than the one before, not one.",
        2: "That is o - padding: each output starts `stride` further than the one before, not one.",
        4: "The padding comes off after o*stride, and not before: o*stride - padding.",
        -1: "That is where output 0 begins. The question is about output 3.",
        1: "That is where output 1 begins. The question is about output 3.",
    }
    number = whole(answer)
    if number != 5:
        text = "Put o=3, f=0, stride=2, padding=1, dilation=1 into the equation."
        raise Wrong(helps.get(number, f"Yours is {number}. {text}"))
    return "i = 3*2 - 1 + 0*1 = 5."


# --- 01.2 -------------------------------------------------------------------------------------------
def count_triples(answer: Any) -> str:
    """A function that counts the real triples of an axis."""
    mistakes: dict[str, Callable[..., int]] = {
        "You count every tap of every output: leave out those whose i is not on x.": lambda *sizes: (
            _axis(*sizes).outputs * sizes[1]
        ),
        "Your i may be negative: test 0 <= i too.": _count_if(lambda i, size: i < size),
        "Your i may be too large: test i < size too.": _count_if(lambda i, size: i >= 0),
        "Input 0 is on x: test 0 <= i.": _count_if(lambda i, size: 0 < i < size),
        "Input size is not on x: test i < size.": _count_if(lambda i, size: 0 <= i <= size),
        "You count the inputs that meet a tap. Count the products: an input may be in several.": lambda *sizes: len(
            {i for i, _, _ in triples(_axis(*sizes))}
        ),
        "Only the first output is counted: does your loop return too early?": lambda *sizes: sum(
            o == 0 for _, _, o in triples(_axis(*sizes))
        ),
        "You count one output too many: o goes over range(outputs).": lambda *sizes: (
            _right_count(*sizes)
            + len(_met_by(_axis(*sizes), range(_axis(*sizes).outputs, _axis(*sizes).outputs + 1), range(sizes[1])))
        ),
        "The first tap is 0, and the last one taps - 1: f goes over range(taps).": lambda *sizes: len(
            _met_by(_axis(*sizes), range(_axis(*sizes).outputs), range(1, sizes[1] + 1))
        ),
        "Your loop ends at the first tap that is not on x, but a later one may be.": lambda *sizes: sum(
            all(0 <= i < sizes[0] for i, _, _ in _row(_axis(*sizes), o)[: f + 1])
            for o in range(_axis(*sizes).outputs)
            for f in range(sizes[1])
        ),
    }
    for number, (text, _) in enumerate(_wrong_triples(AXES[0])):
        mistakes[text] = partial(_wrong_count, number)
    agree(
        answer, _right_count,
        [_sizes(axis) for axis in AXES], mistakes, f"Go over all o and f, and count if 0 <= i < size, with {EQUATION}.",
    )  # fmt: skip
    return "This count, once for the rows and once for the columns, is all the work there is."


def _row(axis: Axis, o: int) -> list[Triple]:
    """The triples of one output, also those whose input is not on x."""
    return [(o * axis.stride - axis.before + f * axis.dilation, f, o) for f in range(axis.taps)]


def _met_by(axis: Axis, outputs: range, taps: range) -> list[Triple]:
    """The triples of any outputs and taps whose input is on x."""
    every = ((o * axis.stride - axis.before + f * axis.dilation, f, o) for o in outputs for f in taps)
    return [triple for triple in every if 0 <= triple[0] < axis.size]


def _right_count(size: int, taps: int, stride: int, padding: int, dilation: int) -> int:
    return len(triples(_axis(size, taps, stride, padding, dilation)))


def _wrong_count(number: int, *sizes: int) -> int:
    return len(_wrong_triples(_axis(*sizes))[number][1])


def _count_if(test: Callable[[int, int], bool]) -> Callable[..., int]:
    """A function that counts the pairs of an output and a tap whose input passes a test."""

    def count(*sizes: int) -> int:
        axis = _axis(*sizes)
        every = (
            o * axis.stride - axis.before + f * axis.dilation for o in range(axis.outputs) for f in range(axis.taps)
        )
        return sum(test(i, axis.size) for i in every)

    return count


def _wrong_triples(axis: Axis) -> list[tuple[str, list[Triple]]]:
    """The triples of functions with one mistake in the equation, by what is wrong."""
    stride, before, dilation = axis.stride, axis.before, axis.dilation
    return [
        ("Neighbouring taps are `dilation` apart: f*dilation.", triples(axis, lambda o, f: o * stride - before + f)),
        ("Outputs are `stride` apart: o*stride.", triples(axis, lambda o, f: o - before + f * dilation)),
        ("The padding is missing: o*stride - padding.", triples(axis, lambda o, f: o * stride + f * dilation)),
        ("The padding is subtracted, not added.", triples(axis, lambda o, f: o * stride + before + f * dilation)),
        ("Stride and dilation have changed places.", triples(axis, lambda o, f: o * dilation - before + f * stride)),
        *mistaken(axis)[5:],
    ]


# --- 01.3 -------------------------------------------------------------------------------------------
def filter_gradient(answer: Any) -> str:
    """A function that adds up the filter gradient of one axis."""
    for axis in AXES:
        x, dy, dw = _gradient_of(answer, axis)
        expected = _sums(axis, x, dy, triples(axis))
        if dw.shape != expected.shape:
            raise Wrong(f"{_for(axis)} dw has {axis.taps} elements, one for each tap; yours has the shape {dw.shape}.")
        if not np.allclose(dw, expected):
            raise Wrong(f"{_for(axis)} {_difference(dw, expected)}\n{_cause(answer)}".rstrip())
        if np.asarray(call(answer, x, dy, *_sizes(axis)[1:])).dtype.kind == "i":
            raise Wrong("The results are right. But an array of whole numbers cuts off fractions: dw = np.zeros(taps).")
    for axis in AXES:
        _multiplies_no_zero(answer, axis)
    return "You have written the third operator, and no zero was multiplied: it never had any."


def _multiplies_no_zero(answer: Any, axis: Axis) -> None:
    """Fill one element of dy with NaN at a time: a tap that does not meet it must not notice, but 0 * NaN does."""
    met = {(f, o) for _, f, o in triples(axis)}
    for o in range(axis.outputs):
        dy = np.ones(axis.outputs)
        dy[o] = np.nan
        dw = np.asarray(call(answer, np.ones(axis.size), dy, *_sizes(axis)[1:]), float)
        for f in range(axis.taps):
            if np.isnan(dw[f]) and (f, o) not in met:
                raise Wrong(
                    f"{_for(axis)} the results are right, but for dw[{f}] you multiply dy[{o}] by a zero that padding "
                    "would add: leave that product out."
                )


def _for(axis: Axis) -> str:
    names = "size", "taps", "stride", "padding", "dilation"
    return f"For {', '.join(f'{name}={size}' for name, size in zip(names, _sizes(axis), strict=True))}:"


def _gradient_of(answer: Any, axis: Axis) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(1)
    x, dy = (rng.integers(1, 99, size).astype(float) for size in (axis.size, axis.outputs))
    try:
        dw = call(answer, x.copy(), dy.copy(), *_sizes(axis)[1:])
    except Wrong as wrong:
        raise Wrong(f"{wrong}{_which_index(wrong, axis)}") from wrong
    try:
        return x, dy, np.asarray(dw, float)
    except (TypeError, ValueError):
        raise Wrong(f"{_for(axis)} return dw, an array of numbers. You returned {shown(dw)}.") from None


def _which_index(wrong: Wrong, axis: Axis) -> str:
    """The index that an IndexError is likely about: x, dy and dw have sizes of their own."""
    size = str(wrong).rpartition("is out of bounds for axis 0 with size ")[2]
    sizes = {"x": (axis.size, "test 0 <= i < len(x)"), "dy": (axis.outputs, "it is dy[o], with o below len(dy)")}
    sizes["dw"] = axis.taps, "it is dw[f], with f below taps"
    said = [f"{name} has {length} elements: {text}" for name, (length, text) in sizes.items() if str(length) == size]
    return f". {'; or '.join(said)}." if said else ""


def _sums(axis: Axis, x: Any, dy: Any, found: list[Triple], factor: Callable[[int, int], int] = lambda f, o: o) -> Any:
    dw = np.zeros(axis.taps)
    for i, f, o in found:
        at = factor(f, o)
        dw[f] += x[i] * dy[at] if at < len(dy) else np.nan
    return dw


def _moved(axis: Axis, x: Any, dy: Any, move: Callable[[int], int]) -> Any:
    """The sums of a function that reads another element of x where i is not on x."""
    every = ((move(i), f, o) for o in range(axis.outputs) for i, f, _ in _row(axis, o))
    return _sums(axis, x, dy, [triple for triple in every if triple[0] < axis.size])


def _until_missing(axis: Axis, x: Any, dy: Any) -> Any:
    """The sums of a function that stops at the first output whose input lies before x, or past its end."""
    kept = []
    for f in range(axis.taps):
        for o in range(axis.outputs):
            i = o * axis.stride - axis.before + f * axis.dilation
            if not 0 <= i < axis.size:
                break
            kept.append((i, f, o))
    return _sums(axis, x, dy, kept)


def _difference(dw: Any, expected: Any) -> str:
    f = int(np.argmax(~np.isclose(dw, expected)))
    return f"dw[{f}] should be {expected[f]:g}, and yours is {dw[f]:g}."


def _cause(answer: Any) -> str:
    """The mistake that explains the results for all axes; empty if none does."""
    got = []
    for axis in AXES:
        with suppress(Wrong):  # an index that is too far out for one axis may be in bounds for another
            got.append((axis, *_gradient_of(answer, axis)))
    ways: dict[str, Callable[[Axis, Any, Any], Any]] = {
        "Your dw is back to front.": lambda axis, x, dy: _sums(axis, x, dy, triples(axis))[::-1],
        "Where i is negative, Python reads from the end of x: test 0 <= i before x[i].": _wrapped,
        "Only the last product of each sum is left: is there a = where += belongs?": lambda axis, x, dy: _last(
            axis, x, dy, triples(axis)
        ),
        "Only the first product of each sum is left: does your loop stop after it?": lambda axis, x, dy: _last(
            axis, x, dy, triples(axis)[::-1]
        ),
        "Each product is x[i] * dy[o]: you multiply by dy[f].": lambda axis, x, dy: _sums(
            axis, x, dy, triples(axis), lambda f, o: f
        ),
        "Only dw[0] is computed: does your loop return too early?": lambda axis, x, dy: _sums(
            axis, x, dy, [triple for triple in triples(axis) if triple[1] == 0]
        ),
        "Where i is negative, nothing is read: abs(i) is another element.": lambda axis, x, dy: _moved(
            axis, x, dy, abs
        ),
        "Where i is not on x, there is no product: the nearest element of x is not meant.": lambda axis, x, dy: _moved(
            axis, x, dy, lambda i: min(max(i, 0), axis.size - 1)
        ),
        "Your loop ends at the first output that does not meet the tap, but a later one may.": _until_missing,
        "Each product is x[i] * dy[o]: you add x[i] alone.": lambda axis, x, dy: _sums(
            axis, x, np.ones_like(dy), triples(axis)
        ),
    }
    for number, (text, _) in enumerate(_wrong_triples(AXES[0])):
        ways[text] = partial(_wrong_gradient, number)
    for text, way in ways.items():
        if all(np.allclose(dw, way(axis, x, dy)) for axis, x, dy, dw in got):
            return text
    return ""


def _wrong_gradient(number: int, axis: Axis, x: Any, dy: Any) -> Any:
    return _sums(axis, x, dy, _wrong_triples(axis)[number][1])


def _wrapped(axis: Axis, x: Any, dy: Any) -> Any:
    dw = np.zeros(axis.taps)
    for f, o in np.ndindex(axis.taps, axis.outputs):
        i = o * axis.stride - axis.before + f * axis.dilation
        dw[f] += x[i] * dy[o] if -axis.size <= i < axis.size else 0
    return dw


def _last(axis: Axis, x: Any, dy: Any, found: list[Triple]) -> Any:
    dw = np.zeros(axis.taps)
    for i, f, o in found:
        dw[f] = x[i] * dy[o]
    return dw


# --- predictions ------------------------------------------------------------------------------------
STRIDED = ConvShape(n=1, ih=8, iw=8, ic=1, oc=1, fh=3, fw=3, stride=2, padding=1)

PREDICTIONS: dict[str, Prediction] = {
    "01.a": Number(
        lambda: Axis(size=5, taps=3, stride=2, before=1, after=1, dilation=1).triples,
        "It is {answer}: two of the nine squares lie on padding, one at either end.",
        low="Only the dotted squares lie on padding. Count the others, in all three rows.",
        high="There are nine squares with a number, and some of them are dotted.",
        thoughts={
            9: "That counts the dotted squares, too, where the filter hangs over.",
            8: "The filter hangs over at both ends: look at the first row and at the last one.",
            5: "That is the number of inputs, but some of them meet two taps.",
        },
    ),
    "01.b": Number(
        lambda: flops.count("conv2d_input", STRIDED).saved,
        "It is {answer:.2f} times. Going back, zeros stand between the elements as well as around them.",
        low="With stride 2, only one in four elements of the spread-out map is real.",
        high="With stride 2, one in four elements of the spread-out map is real, and padding does not take much more.",
        thoughts={
            4: "The zeros between the elements alone make that: one element in four is real. Padding comes on top.",
            2: "A stride of 2 leaves one element in two along each axis. An image has two axes.",
            flops.count("conv2d", STRIDED).saved: "That is the forward pass, which has padding and nothing else.",
            flops.count("conv2d_weight", STRIDED).saved: "That is the gradient of the filter.",
            1: "The useful work is the same as going forward. The regular work is not: zeros are inserted.",
        },
        within=0.2,
        near=0.7,
    ),
}
EXERCISES: dict[str, Callable[[Any], str]] = {"01.1": met, "01.2": count_triples, "01.3": filter_gradient}
HINTS = {
    "01.1": (
        "The equation has all five numbers in it: o, stride, padding, f, dilation.",
        "o*stride - padding + f*dilation, with o = 3 and f = 0.",
        "3*2 - 1 + 0*1.",
    ),
    "01.2": (
        "Try every output with every tap, as the loop at the beginning of this notebook does.",
        f"For each o and f compute {EQUATION}. When does this i exist?",
        "Two loops, for o in range(outputs) and for f in range(taps); add 1 to a count if 0 <= i < size; return "
        "the count.",
    ),
    "01.3": (
        "Read the picture again: to fix f is to add up all squares that hold the number f.",
        "For each tap f go over all outputs o, compute i, and leave out what does not lie on x.",
        "for f in range(taps): for o in range(len(dy)): if 0 <= i < len(x), add x[i] * dy[o] to dw[f]. Return dw.",
    ),
}
