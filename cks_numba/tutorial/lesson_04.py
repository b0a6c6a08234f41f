"""Pictures and exercises of 04_sk_dilated, the filter gradient."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .. import flops, plots, trace
from ..geometry import Axis, ConvShape
from ..kernels import tiled
from ..steps.stages import amount
from .answers import STEPS, Wrong, agree, call, shown
from .guesses import Choice, Number, Prediction
from .own_kernel import on_one_axis
from .trying import one_axis

OPERATOR = "conv2d_weight"
CASES = [  # exercise 04.2: f, size, outputs, stride, padding, dilation
    (f, size, (size + 2 * padding - (taps - 1) * dilation - 1) // stride + 1, stride, padding, dilation)
    for size, taps, stride, padding, dilation in product((3, 4, 7), (1, 3), (1, 2, 3), (0, 1, 3), (1, 2))
    if size + 2 * padding > (taps - 1) * dilation
    for f in range(taps)
]
AXES = [  # exercise 04.4
    Axis(size, taps, stride, padding, padding, 1)
    for size, taps, stride, padding in ((5, 3, 2, 1), (4, 3, 1, 1), (3, 2, 1, 0), (2, 5, 1, 4), (2, 4, 3, 3))
]


# --- pictures -------------------------------------------------------------------------------------
def draw_tap(shape: ConvShape, tap: tuple[int, int], rung: str) -> Figure:
    """The products of one weight on x and on dy, as the traced kernel of a rung does them."""
    traced = trace.run(OPERATOR, shape, rung)
    x, dy = np.full((shape.ih, shape.iw), plots.REAL), np.full((shape.oh, shape.ow), plots.REAL)
    names = "x", "dy"
    if rung == "with_zeros":
        x, dy = plots.zero_maps(OPERATOR, shape)
        names = "x, padded", "dy, zeros inserted"
    right = x.shape[1] + 2.5
    fig, ax = plots.canvas(max(right + max(dy.shape[1], 4) + 0.8, 12), max(len(x), len(dy)) + 4.2)
    for kinds, left, operand, name in ((x, 0.8, "first", names[0]), (dy, right, "second", names[1])):
        plots.draw_cells(ax, kinds, left, 1.4)
        plots.draw_products(ax, traced, tap, operand, left, 1.4)
        plots.write(ax, left, 0.8, name, 16, weight="bold", ha="left")
    found = plots.products(traced, tap)
    text = f"dw{list(tap)}: {len(found[False])} useful products, {len(found[True])} by an added zero"
    plots.write(ax, 0.8, max(len(x), len(dy)) + 2.2, text, 15, ha="left")
    handles = plots.legend_of_marks() if found[True] else plots.legend_of_marks()[1:]
    ax.legend(handles=handles, loc="lower left", ncols=2, frameon=False, fontsize=13)
    return fig


def draw_waste(shape: ConvShape) -> Figure:
    """Products by an added zero, of all products of each weight, in both ways; the redder, the more."""
    fig, ax = plots.canvas(2 * (shape.fw + 4.5), shape.fh + 3)
    for k, rung in enumerate(("with_zeros", "skip_zeros")):
        wasted, done = plots.waste_map(trace.run(OPERATOR, shape, rung))
        left = 1 + k * (shape.fw + 4.5)
        plots.write(ax, left, 0.7, ("regular way", "skipping")[k], 16, weight="bold", ha="left")
        plots.draw_heat(ax, wasted, wasted / done, left, 1.4, of=done)
        text = f"by a zero:\n{wasted.min()} to {wasted.max()}" if wasted.max() else "by a zero:\nnone"
        plots.write(ax, left + shape.fw + 0.3, 1.4 + shape.fh / 2, text, 14, ha="left")
    text = "in each square: products by a zero, of all products of that weight"
    plots.write(ax, 1, shape.fh + 2.2, text, 13, ha="left")
    return fig


def draw_parts(layer: ConvShape, parts: int) -> tuple[Figure, str]:
    """Time by the library's model against the number of parts, and the blocks of each multiprocessor; and a text."""
    chosen = tiled.choose(OPERATOR, layer)
    choice = tiled.Choice(OPERATOR, layer, chosen.tile, parts, chosen.sms)
    most = max(tiled.Choice(OPERATOR, layer, chosen.tile, 1, chosen.sms).chunks)
    if parts > most:
        raise ValueError(f"parts must be at most {most}, the chunks of the sum, got {parts}")
    fig = Figure(figsize=(5.6, 7.4), layout="constrained")
    upper, lower = fig.subplots(2, 1, height_ratios=(1, 1.2))
    _draw_time(upper, choice)
    blocks = int(np.prod(choice.grid))
    _draw_blocks(lower, blocks, choice.sms)
    text = f"{amount(parts, 'part')}: {blocks} blocks on {choice.sms} multiprocessors"
    lower.set_title(text, fontsize=12)
    return fig, f"{text}, {choice.cycles / 1e3:,.0f} thousand cycles by the model."


def _draw_time(ax: Any, choice: tiled.Choice) -> None:
    """The model's time for powers of two, and a mark on the number of parts of a choice."""
    numbers = [2**k for k in range(11)]
    cycles = [tiled.Choice(OPERATOR, choice.shape, choice.tile, one, choice.sms).cycles / 1e3 for one in numbers]
    ax.loglog(numbers, cycles, "o-", color=plots.BLUE, linewidth=2, markersize=5)
    ax.plot(choice.parts, choice.cycles / 1e3, "D", color=plots.RED, markersize=12)
    ax.set_xticks(numbers[::2], [str(number) for number in numbers[::2]])
    ax.minorticks_off()
    ax.set(xlabel="parts of the sum", ylabel="thousand cycles, by the model")
    ax.grid(color="#DDDDDD")


def _draw_blocks(ax: Any, blocks: int, multiprocessors: int) -> None:
    """A square for each multiprocessor with the number of blocks that it does, one after another or at once."""
    columns = 12
    for k in range(multiprocessors):
        count = blocks // multiprocessors + (k < blocks % multiprocessors)
        corner = k % columns, k // columns
        face = "#F2F2F2" if not count else "#9CCBE8"
        ax.add_patch(Rectangle(corner, 1, 1, facecolor=face, edgecolor="white"))
        plots.write(ax, corner[0] + 0.5, corner[1] + 0.5, str(count), 9)
    ax.set(xlim=(0, columns), ylim=(-(-multiprocessors // columns), 0), aspect="equal")
    ax.axis("off")


def draw_orders(parts: Any, orders: int) -> Figure:
    """How often each float32 result comes out, over random orders of the same additions."""
    rng = np.random.default_rng(0)
    sums = [np.add.accumulate(rng.permutation(parts))[-1] for _ in range(orders)]
    exact, unit = np.sum(parts, dtype=np.float64), np.spacing(np.float32(abs(parts.sum())))
    off = np.round((np.array(sums, np.float64) - exact) / unit, 1)
    values, counts = np.unique(off, return_counts=True)
    fixed = round((float(np.add.accumulate(parts)[-1]) - exact) / float(unit), 1)
    fig = Figure(figsize=(9, 3.6), layout="constrained")
    ax = fig.subplots()
    ax.bar(values, counts, width=0.8 * np.diff(values).min(initial=1), color="#9CCBE8", edgecolor=plots.BLUE)
    ax.axvline(fixed, color=plots.RED, linewidth=2.5, linestyle="--", label="always in the order of the parts")
    ax.set(xlabel="distance from the exact sum, in units of the last bit", ylabel=f"of {orders} orders")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=13)
    return fig


# --- exercises ------------------------------------------------------------------------------------
def spread_length(answer: Any) -> str:
    mistakes = {
        "That has zeros after the last element, too. They would only be multiplied.": lambda outputs, stride: (
            outputs * stride
        ),
        "These are the zeros alone. Add the elements.": lambda outputs, stride: (outputs - 1) * (stride - 1),
        "That lacks the last element itself.": lambda outputs, stride: (outputs - 1) * stride,
        "With stride s there are s - 1 zeros in each gap, not s.": lambda outputs, stride: (
            outputs + (outputs - 1) * stride
        ),
        "That has zeros after the last element, and as many as the stride in each gap.": lambda outputs, stride: (
            outputs + outputs * stride
        ),
        "Nothing is inserted before the first element, nor after the last one.": lambda outputs, stride: (
            (outputs + 1) * stride - 1
        ),
        "That has one gap only: there is one between any two neighbours.": lambda outputs, stride: outputs + stride - 1,
        "That is right for stride 2 alone: a gap holds stride - 1 zeros.": lambda outputs, stride: 2 * outputs - 1,
        "Right for stride 2 alone: stride - 1 zeros are too many at the end, not one.": lambda outputs, stride: (
            outputs * stride - 1
        ),
        "One gap too many: between `outputs` elements there are outputs - 1 gaps.": lambda outputs, stride: (
            outputs * stride + 1
        ),
    }
    agree(
        answer, lambda outputs, stride: (outputs - 1) * stride + 1, [(3, 2), (4, 3), (1, 5), (6, 1)], mistakes,
        "3 outputs with stride 2 are y 0 y 0 y.",
    )  # fmt: skip
    return "Between `outputs` elements there are outputs - 1 gaps. With stride 1 nothing is inserted."


def outputs_of_tap(answer: Any) -> str:
    for case in CASES:
        got = call(answer, *case)
        if not isinstance(got, (tuple, list, np.ndarray)) or len(got) != 2:
            raise Wrong(f"Return two numbers: the first output, and the one past the last. You returned {shown(got)}.")
        if not all(isinstance(value, (int, np.integer)) for value in got):
            raise Wrong(f"{_case(case)} you return {shown(got)}, no whole numbers: divide with //, not with /.")
        expected = _met(*case)
        if list(range(int(got[0]), int(got[1]))) != expected:
            raise Wrong(f"{_what_is_wrong(case, got, expected)} {_cause(answer)}".rstrip())
    try:
        call(answer, 1, STEPS, STEPS, 1, 0, 1)
    except Wrong:
        raise Wrong(
            "The results are right. But your function goes over all outputs, and a map may have many: both ends can be "
            "computed without a loop."
        ) from None
    return f"Right for all {len(CASES)} cases, empty ranges and large paddings too."


def _met(f: int, size: int, outputs: int, stride: int, padding: int, dilation: int) -> list[int]:
    return [o for o in range(outputs) if 0 <= o * stride - padding + f * dilation < size]


def _cause(answer: Any) -> str:
    """The mistake in the equation that explains a function's outputs in all cases; empty if none does."""
    wrong_cases: dict[str, Callable[..., tuple[int, ...]]] = {
        "Stride and dilation have changed places.": lambda f, s, o, stride, pad, gap: (f, s, o, gap, pad, stride),
        "The dilation is missing: f*dilation.": lambda f, s, o, stride, pad, gap: (f, s, o, stride, pad, 1),
        "The stride is missing: o*stride.": lambda f, s, o, stride, pad, gap: (f, s, o, 1, pad, gap),
        "Divide by the stride, not by the dilation.": lambda f, s, o, stride, pad, gap: (f, s, o, gap, pad, gap),
        "The padding is missing: o*stride - padding + f*dilation.": lambda f, s, o, stride, pad, gap: (
            (f, s, o, stride, 0, gap)
        ),
        "f*dilation has the wrong sign: 0 <= o*stride - padding + f*dilation.": lambda f, s, o, stride, pad, gap: (
            (-f, s, o, stride, pad, gap)
        ),
    }
    found = [list(range(*map(int, call(answer, *case)))) for case in CASES]
    for text, way in wrong_cases.items():
        if found == [_met(*way(*case)) for case in CASES]:
            return text
    if all(outputs in (_met(*case), _met(*case)[:-1]) for outputs, case in zip(found, CASES, strict=True)):
        return "The second number is the first o that is NOT met."
    if all(list(range(hi, lo)) == _met(*case) for case in CASES for lo, hi in [map(int, call(answer, *case))]):
        return "You return them in the wrong order: the first o, then the one past the last."
    return ""


def _case(case: tuple[int, ...]) -> str:
    names = "f", "size", "outputs", "stride", "padding", "dilation"
    return f"For {', '.join(f'{name}={value}' for name, value in zip(names, case, strict=True))}:"


def _what_is_wrong(case: tuple[int, ...], got: Any, expected: list[int]) -> str:
    f, size, outputs, stride, padding, dilation = case
    lo, hi = map(int, got)
    found = range(lo, hi)
    where = f"{_case(case)} your range({lo}, {hi})"
    for o in (found[:1], found[-1:]) if found else ():
        i = o[0] * stride - padding + f * dilation
        if o[0] < 0 or o[0] >= outputs:
            return f"{where} has o={o[0]}, but o goes from 0 to {outputs - 1}. Use max() and min()."
        if i < 0:
            up = " The first o needs a ceiling." if lo == max(0, (padding - f * dilation) // stride) else ""
            return f"{where} has o={o[0]}, whose input is {i}: it lies before x.{up}"
        if i >= size:
            return f"{where} has o={o[0]}, whose input {i} lies past the last one, {size - 1}."
    missing = next(o for o in expected if o not in found)
    i = missing * stride - padding + f * dilation
    return f"{where} lacks o={missing}; its input is {i}, which lies on x."


def total(answer: Any) -> str:
    rng = random.Random(4)
    fine = _total_of(answer, [(1, 0.25), (0, 0.5), (2, 4.0)])
    if fine == 3:
        raise Wrong("You added the numbers of the parts. Add the values.")
    if fine != 4.75:
        raise Wrong(f"The sum of the values 0.25, 0.5 and 4 is 4.75, and yours is {float(fine):g}.")
    # There are twelve parts, because the numbers 1, 10 and 11 are out of order if they are sorted as text.
    values = 0.3, 2e16, -3e7, 0.1, 3e7, 0.7, 5e6, 1e-3, -5e6, 0.2, -2e16, 1.1
    parts = list(enumerate(values))
    seen = {np.float32(_total_of(answer, rng.sample(parts, len(parts)))).tobytes() for _ in range(30)}
    if len(seen) > 1:
        raise Wrong(
            f"30 orders of arrival gave {len(seen)} different sums. A wider type makes that rarer, and does not "
            "prevent it: add in the order of the numbers of the parts."
        )
    value = _total_of(answer, parts)
    if not np.isfinite(value):
        raise Wrong(f"For values up to 2e16 your sum is {value}: add in float32. The largest float16 is 65504.")
    if float(np.float32(value)) != float(value):
        raise Wrong("The same for every order, but not in float32: make the sum a np.float32 before you return it.")
    return "The same bits for every order of arrival. The price is a second kernel, which is small."


def _total_of(answer: Any, parts: list[tuple[int, float]]) -> Any:
    value = call(answer, list(parts))
    if isinstance(value, np.ndarray) and value.shape == ():
        value = value[()]
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise Wrong(f"Return one number, in float32. Yours is {shown(value)}.")
    return value


def filter_gradient(answer: Any) -> str:
    one_axis(answer, OPERATOR, AXES, "padding or inserting would add")
    return "Every tap walks its own range of dy, the tap that meets nothing is 0, and spare threads stay away."


# --- predictions ----------------------------------------------------------------------------------
SMALL = ConvShape(n=1, ih=5, iw=5, ic=1, oc=1, fh=3, fw=3, stride=2, padding=1)
MIDDLE = ConvShape(n=128, ih=32, iw=32, ic=64, oc=64, fh=3, fw=3, padding=1)
PARTS = (1, 4, 32, 1000)


def _best_parts() -> int:
    """The number of parts, of `PARTS`, with the shortest time by the library's model."""
    chosen = tiled.choose(OPERATOR, MIDDLE)
    return min(PARTS, key=lambda parts: tiled.Choice(OPERATOR, MIDDLE, chosen.tile, parts, chosen.sms).cycles)


PREDICTIONS: dict[str, Prediction] = {
    "04.a": Number(
        lambda: flops.count(OPERATOR, SMALL).saved,
        "It is {answer:.2f} times. The middle fares best: it never lies on the padding, so 9 of its 25 products are "
        "useful. On an edge of the filter 6 are, in a corner 4.",
        low="Even the weight in the middle meets only the nine elements of dy: at most 9 of 25 are useful.",
        high="The corners have the fewest useful products, 4 of 25. All other weights have more.",
        thoughts={
            25 / 4: "The corners are like that. The other weights lie on the padding less often.",
            25 / 9: "The middle is like that. The other weights lie on the padding at times.",
            4: "The inserted zeros alone would make about that. The padding comes on top.",
        },
        within=0.15,
        near=0.9,
    ),
    "04.b": Choice(
        PARTS,
        _best_parts,
        "It is {answer} of these four. Enough blocks for all multiprocessors, and parts that are still long beside "
        "the time it takes to start and to add them.",
        {
            1: "Then there are fewer blocks than multiprocessors: most of the card has nothing to do.",
            4: "Then there are still fewer blocks than multiprocessors: much of the card has nothing to do.",
            1000: "That fills the card, but each part has to be started, written and added. They are too short for it.",
        },
    ),
}
EXERCISES: dict[str, Callable[[Any], str]] = {
    "04.1": spread_length,
    "04.2": outputs_of_tap,
    "04.3": total,
    "04.4": filter_gradient,
}
LOOKS = {
    "04.4": on_one_axis(
        "conv2d_weight",
        Axis(size=9, taps=5, stride=2, before=2, after=2, dilation=1),
        Axis(size=64, taps=5, stride=2, before=2, after=2, dilation=1),
        at=0,
    ),
}
HINTS = {
    "04.1": (
        "Write three elements with stride 2 on paper: y 0 y 0 y. How many places are that, and why?",
        "There are outputs - 1 gaps, and each step from an element to the next is `stride` places long.",
        "(outputs - 1) steps of `stride`, and one place for the first element.",
    ),
    "04.2": (
        "Solve 0 <= o*stride - padding + f*dilation <= size - 1 for o. One end is rounded up, the other down.",
        "Call origin = f*dilation - padding the input of output 0. Then o >= -origin/stride and "
        "o <= (size - 1 - origin)/stride.",
        "lo = max(0, -(origin // stride)), hi = min(outputs, (size - 1 - origin) // stride + 1).",
    ),
    "04.3": (
        "What can you do with the pairs before you add, so that the order of arrival is forgotten?",
        "sorted(arrived) is in the order of the numbers of the parts.",
        "acc = np.float32(0); for each value of sorted(arrived): acc += np.float32(value); return acc.",
    ),
    "04.4": (
        "One thread a tap: f = cuda.grid(1). Which outputs does this tap meet? Exercise 04.2 says it.",
        "A thread with f < dw.size asks outputs_of_tap(f, x.size, dy.size, stride, padding, 1), and adds up over "
        "range(lo, "
        "hi), beginning with dw.dtype.type(0).",
        "for o in range(lo, hi): acc += x[o*stride - padding + f] * dy[o]. After the loop: dw[f] = acc.",
    ),
}
