"""Pictures and exercises of 04_sk_dilated, the filter gradient."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .. import plots, trace
from ..geometry import ConvShape
from ..kernels import tiled
from .answers import Wrong, call
from .trying import compare, run_kernel

OPERATOR = "conv2d_weight"
CASES = [  # exercise 04.2: f, size, outputs, stride, padding, dilation
    (f, size, (size + 2 * padding - (taps - 1) * dilation - 1) // stride + 1, stride, padding, dilation)
    for size, taps, stride, padding, dilation in product((3, 4, 7), (1, 3), (1, 2, 3), (0, 1, 3), (1, 2))
    if size + 2 * padding > (taps - 1) * dilation
    for f in range(taps)
]
AXES = ((5, 3, 2, 1), (4, 3, 1, 1), (3, 2, 1, 0), (2, 5, 1, 4), (2, 4, 3, 3))  # 04.4: size, taps, stride, padding


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
    """Number of products of each weight, the redder the more of them are by an added zero, in both ways."""
    fig, ax = plots.canvas(2 * (shape.fw + 4.5), shape.fh + 3)
    for k, rung in enumerate(("with_zeros", "skip_zeros")):
        wasted, done = plots.waste_map(trace.run(OPERATOR, shape, rung))
        left = 1 + k * (shape.fw + 4.5)
        plots.write(ax, left, 0.7, ("regular way", "skipping")[k], 16, weight="bold", ha="left")
        plots.draw_heat(ax, done, wasted / done, left, 1.4)
        text = f"by a zero:\n{wasted.min()} to {wasted.max()}" if wasted.max() else "by a zero:\nnone"
        plots.write(ax, left + shape.fw + 0.3, 1.4 + shape.fh / 2, text, 14, ha="left")
    text = "products of each weight; the redder, the more of them are by a zero"
    plots.write(ax, 1, shape.fh + 2.2, text, 13, ha="left")
    return fig


def draw_parts(layer: ConvShape) -> Figure:
    """Time by the library's own model against the number of parts of the sum."""
    chosen = tiled.choose(OPERATOR, layer)
    parts = [2**k for k in range(7)]
    cycles = [tiled.Choice(OPERATOR, layer, chosen.tile, number, chosen.sms).cycles for number in parts]
    fig = Figure(figsize=(8.5, 3.8), layout="constrained")
    ax = fig.subplots()
    ax.loglog(parts, [1e-3 * value for value in cycles], "o-", color=plots.BLUE, linewidth=2)
    best = parts.index(chosen.parts)
    ax.plot(chosen.parts, 1e-3 * cycles[best], "D", color=plots.RED, markersize=13, label="the library's choice")
    ax.set_xticks(parts, [str(number) for number in parts])
    ax.minorticks_off()
    ax.set(xlabel="parts of the sum", ylabel="thousand cycles, by the model")
    ax.grid(color="#DDDDDD")
    ax.legend(frameon=False, fontsize=13)
    return fig


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
    values = {case: call(answer, *case) for case in ((3, 2), (4, 3), (1, 5), (6, 1))}
    if all(value == (outputs - 1) * stride + 1 for (outputs, stride), value in values.items()):
        return "Between `outputs` elements there are outputs - 1 gaps. With stride 1 nothing is inserted."
    if all(value == outputs * stride for (outputs, stride), value in values.items()):
        raise Wrong("That has zeros after the last element, too. They would only be multiplied.")
    if all(value == (outputs - 1) * (stride - 1) for (outputs, stride), value in values.items()):
        raise Wrong("These are the zeros alone. Add the elements.")
    raise Wrong(f"3 outputs with stride 2 are y 0 y 0 y, five elements. Yours gives {values[3, 2]}.")


def outputs_of_tap(answer: Any) -> str:
    for case in CASES:
        got = call(answer, *case)
        if not isinstance(got, tuple) or len(got) != 2:
            raise Wrong("Return two numbers: the first output, and the one past the last.")
        expected = _met(*case)
        if list(range(int(got[0]), int(got[1]))) != expected:
            raise Wrong(_what_is_wrong(case, got, expected))
    return f"Right for all {len(CASES)} cases, empty ranges and large paddings too."


def _met(f: int, size: int, outputs: int, stride: int, padding: int, dilation: int) -> list[int]:
    return [o for o in range(outputs) if 0 <= o * stride - padding + f * dilation < size]


def _what_is_wrong(case: tuple[int, ...], got: Any, expected: list[int]) -> str:
    f, size, outputs, stride, padding, dilation = case
    where = f"f={f}, size={size}, outputs={outputs}, stride={stride}, padding={padding}, dilation={dilation}"
    found = range(int(got[0]), int(got[1]))
    for o in (found[:1], found[-1:]) if found else ():
        i = o[0] * stride - padding + f * dilation
        if i < 0:
            return f"{where}: your range has o={o[0]}, whose input is {i}. The first o needs a ceiling."
        if o[0] < 0 or o[0] >= outputs:
            return f"{where}: your range has o={o[0]}, but o goes from 0 to {outputs - 1}. Use max() and min()."
        if i >= size:
            return f"{where}: your range ends with o={o[0]}, whose input {i} lies past the last one, {size - 1}."
    missing = [o for o in expected if o not in found][0]
    i = missing * stride - padding + f * dilation
    return f"{where}: o={missing} is missing; its input is {i}, which lies on x."


def total(answer: Any) -> str:
    rng = random.Random(4)
    parts = [(k, value) for k, value in enumerate((3e7, 1.0, -3e7, 0.1, 2e16, 0.3, -2e16, 1e-3))]
    right, seen = float(np.sum([np.float64(np.float32(value)) for _, value in parts])), set()
    once = call(answer, list(parts))
    for _ in range(30):
        arrived = rng.sample(parts, len(parts))
        value = call(answer, arrived)
        if not isinstance(value, (float, np.floating)):
            raise Wrong(f"Return one number, in float32. Yours is a {type(value).__name__}.")
        seen.add(np.float32(value).tobytes())
    if len(seen) > 1:
        raise Wrong(
            f"30 orders of arrival gave {len(seen)} different sums. A wider type makes that rarer, and does not "
            "prevent it: add in the order of the numbers of the parts."
        )
    fine = call(answer, [(1, 0.25), (0, 0.5), (2, 4.0)])
    if fine == 3 or fine == 3.0:
        raise Wrong("You added the numbers of the parts. Add the values.")
    if fine != 4.75:
        raise Wrong(f"The sum of 0.25, 0.5 and 4 is 4.75, and not {fine}.")
    extra = "" if np.isclose(float(once), right) else " (It is far from exact here: these parts were chosen badly.)"
    return f"The same bits for every order of arrival.{extra} The price is a second kernel, which is small."


def filter_gradient(answer: Any) -> str:
    rng = np.random.default_rng(4)
    for size, taps, stride, padding in AXES:
        outputs = (size + 2 * padding - taps) // stride + 1
        x, dy = (rng.standard_normal(n).astype(np.float32) for n in (size, outputs))
        dw = np.empty(taps, np.float32)
        run_kernel(answer, 2, taps, (x, dy, dw, stride, padding), dw)
        places = [(f, o, o * stride - padding + f) for f in range(taps) for o in range(outputs)]
        expected, wrapped, dense = (np.zeros(taps) for _ in range(3))
        for f, o, i in places:
            expected[f] += x[i] * dy[o] if 0 <= i < size else 0
            wrapped[f] += x[i] * dy[o] if -size <= i < size else 0
            dense[f] += x[o + f - padding] * dy[o] if 0 <= o + f - padding < size else 0
        compare(dw, expected, {
            "Your kernel reads x[-1], the last element, where the tap lies on the padding before x. Begin the loop "
            "at the first output whose input lies on x.": wrapped,
            "x has to be walked in steps of the stride.": dense,
        })  # fmt: skip
    return "Every tap walks its own range of dy, the tap that meets nothing is 0, and spare threads stay away."


EXERCISES: dict[str, Callable[[Any], str]] = {
    "04.1": spread_length,
    "04.2": outputs_of_tap,
    "04.3": total,
    "04.4": filter_gradient,
}
