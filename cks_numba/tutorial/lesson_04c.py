"""Tables, pictures and exercises of 04c_groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .. import plots
from ..geometry import Axis, ConvShape, plan
from ..plots.cells import LETTER_COLOURS
from .answers import Wrong
from .guesses import Number, Prediction
from .own_kernel import Subject
from .trying import Case, Terms, no_index_needs_a_test, one_of_each, sums_of_products, work_of

THREADS = 8
"""Threads of a block, which stands for a group."""
NO_TEST = (
    "no index of this kernel needs a test: block b = cuda.blockIdx.x has table[b, 1] outputs, from table[b, 0] on,\n"
    "  with the taps table[b, 2] to before table[b, 3], and output o reads x[o - padding + f]"
)
AXES = [Axis(size, taps, 1, padding, padding, 1) for size, taps, padding in ((8, 3, 1), (14, 5, 2), (3, 4, 3))]


def layer_of(axis: Axis) -> ConvShape:
    """The layer with one image and one channel that has only this axis."""
    size = dict(n=1, ih=1, iw=axis.size, ic=1, oc=1, fh=1, fw=axis.taps)
    return ConvShape(**size, stride=(1, axis.stride), padding=((0, 0), (axis.before, axis.after)))


def table_of(axis: Axis) -> Any:
    """A row for each group of the plan: its first output, how many outputs, its first tap, and the one past the last.

    Examples
    --------
    >>> table_of(Axis(size=8, taps=3, stride=1, before=1, after=1, dilation=1)).tolist()
    [[0, 1, 1, 3], [1, 6, 0, 3], [7, 1, 0, 2]]
    """
    runs = [group.w for group in plan("conv2d", layer_of(axis)).groups]
    rows = [(run.o.at(0, 0), run.positions, run.f.at(0, 0), run.f.at(0, 0) + run.terms) for run in runs]
    return np.array(sorted(rows), np.int32)


# --- pictures -------------------------------------------------------------------------------------
def draw_rounds(axis: Axis, table: Any) -> Figure:
    """The taps of every output, a square each: threads in the order of the outputs, and blocks by group."""
    fig, ax = plots.canvas(axis.outputs + 4.2, axis.taps + 4)
    left, base = 3.4, axis.taps + 1.2
    for group, (first, count, lo, hi) in enumerate(table.tolist()):
        shade = LETTER_COLOURS[group % len(LETTER_COLOURS)]
        for o in range(first, first + count):
            for height in range(hi - lo):
                corner = left + o, base - 1 - height
                ax.add_patch(Rectangle(corner, 1, 1, facecolor=shade, edgecolor=plots.INK))
                plots.write(ax, corner[0] + 0.5, corner[1] + 0.5, f"w{lo + height}", 12)
            plots.write(ax, left + o + 0.5, base + 0.5, f"y{o}", 13)
        plots.write(ax, left + first + count / 2, base + 1.4, f"b{group}", 14, weight="bold")
    plots.write(ax, left - 0.3, base - axis.taps / 2, "taps", 14, ha="right")
    plots.write(ax, left - 0.3, base + 0.5, "output", 14, ha="right")
    plots.write(ax, left - 0.3, base + 1.4, "block", 14, ha="right")
    return fig


# --- exercises ------------------------------------------------------------------------------------
def grouped(answer: Any) -> str:
    """A convolution along one axis in which every block stands for a group of the table."""
    cases = [group_case(axis, table_of(axis)) for axis in AXES]
    shorter = table_of(AXES[1])
    shorter[:, 3] -= 1
    words = "a table in which every group has one tap less"
    cases.append(group_case(AXES[1], shorter, words))
    with no_index_needs_a_test(NO_TEST):
        sums_of_products(answer, cases, ("x", "w", "y"))
    for case in cases:
        _share_the_work(answer, case)
    return (
        "Each block has read its row of the table, and nobody has asked about padding. The library's `grouped` does "
        "the same with a matrix product in each group."
    )


def _share_the_work(answer: Any, case: Case) -> None:
    """Raise `Wrong` if a thread does more outputs of its group than it has to."""
    busy = work_of(answer, case, sum(map(len, case.terms.values()))).products
    table = case.scalars[1]
    for block, (_, count, lo, hi) in enumerate(table.tolist()):
        enough = -(-count // THREADS) * (hi - lo)
        most = max((products for (at, _), products in busy.items() if at[0] == block), default=0)
        if most > enough:
            raise Wrong(
                f"Launched with {case.where}:\nThe results are right. But one thread of block {block} does {most} "
                f"products, and none needs more than {enough}: thread t takes the outputs t, t + 8, and so on, of the "
                "group."
            )


def group_case(axis: Axis, table: Any, words: str = "") -> Case:
    """A launch with a block for each row of a table."""

    def made(index: Callable[[int, int], int], rows: Any = table, drop: Any = lambda f, lo, hi: False) -> Terms:
        found: Terms = {}
        for first, count, lo, hi in rows.tolist():
            for o in range(first, first + count):
                taps = [f for f in range(lo, hi) if not drop(f, lo, hi) and 0 <= index(o, f) < axis.size]
                found[(o,)] = frozenset(((index(o, f),), (f,)) for f in taps)
        return found

    def right(o: int, f: int) -> int:
        return o - axis.before + f

    every = made(right)
    mistakes = [
        (
            "The taps of a group stand in the table, table[b, 2] and table[b, 3]: a block uses those, and no others.",
            made(right, table_of(axis)),
        ),
        (
            "Each sum lacks its last tap: table[b, 3] is the one past the last already.",
            made(right, table, lambda f, lo, hi: f == hi - 1),
        ),
        ("Each sum lacks its first tap, table[b, 2].", made(right, table, lambda f, lo, hi: f == lo)),
        ("The padding is missing: x[o - padding + f].", made(lambda o, f: o + f)),
        (
            "The filter is turned around: tap f belongs to x[o - padding + f].",
            made(lambda o, f: o - axis.before + axis.taps - 1 - f),
        ),
        *one_of_each(every),
    ]
    sizes = (axis.size,), (axis.taps,), (axis.outputs,)
    where = f"{axis.size} inputs, {axis.taps} taps, padding={axis.before}, {len(table)} blocks of {THREADS} threads"
    where += f", {words}" if words else ""
    return Case(where, sizes, (axis.before, table), len(table), THREADS, every, mistakes)


# --- predictions ------------------------------------------------------------------------------------
PREDICTIONS: dict[str, Prediction] = {
    "04c.a": Number(
        lambda: len(table_of(AXES[1])),
        "It is {answer}: two outputs at either end have a window of their own, and all others have the whole filter.",
        low="Outputs with equally many taps may have different ones: at the left end the first taps are missing, at "
        "the right end the last ones.",
        high="All outputs in the middle have all taps, and so the same window.",
        thoughts={
            3: "That is how many numbers of taps there are. But 3 taps at the left are not the 3 taps at the right.",
            14: "That many outputs there are. Those in the middle share a window.",
            9: "That is a 3 x 3 filter on a map. Here is one axis.",
        },
    )
}
_LARGE = Axis(size=64, taps=5, stride=1, before=2, after=2, dilation=1)
EXERCISES: dict[str, Callable[[Any], str]] = {"04c.1": grouped}
LOOKS = {
    "04c.1": Subject(
        tiny=group_case(AXES[0], table_of(AXES[0])),
        regular=layer_of(AXES[0]),
        large=group_case(_LARGE, table_of(_LARGE))._replace(block=32),
        layer=ConvShape(n=8, ih=1, iw=64, ic=32, oc=32, fh=1, fw=5, padding=((0, 0), (2, 2))),
        operator="conv2d",
        names=("x", "w", "y"),
        at=(1,),
    )
}
HINTS = {
    "04c.1": (
        "The number of the block says which row of the table is its own, and the row says everything else.",
        "b = cuda.blockIdx.x. The threads share the table[b, 1] outputs: for k in range(cuda.threadIdx.x, table[b, 1], "
        "cuda.blockDim.x), and the output is o = table[b, 0] + k.",
        "For each of them: acc = y.dtype.type(0); for f in range(table[b, 2], table[b, 3]): acc += x[o - padding + f] "
        "* w[f]; y[o] = acc.",
    ),
}
