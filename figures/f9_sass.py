"""The instructions in the inner loop of each rung: multiply-adds, loads, whole numbers.

The data are figures/data/sass_sm_90.csv, the machine code for an H100 as ``cks-numba sass`` counts it: instructions,
not time. The loops of the first four rungs are tiny, four terms long, and compute the address of every element
anew, with 64-bit indices that may be negative: nearly all of their instructions do that. The loop of `register_tile`
does one term: it reads eight elements of each operand into registers, and does 64 multiply-adds with them. The loop of
the tiled rung (128x128, loads of four elements) does so for a whole chunk, and counts in 32 bits. So does that of
`tensor`, where one instruction of a warp is a product of matrices: as much as 32 multiply-adds in tf32, and 64 in
float16. It needs few of them, so their share is no measure of its speed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cks_numba import kernels, plots
from cks_numba.kernels import sass
from cks_numba.plots import gallery

DATA = Path(__file__).parent / "data" / "sass_sm_90.csv"
LINES = {rung: rung for rung in kernels.SIMULATED_RUNGS[:-1]} | {
    "tiled": "tiled 128x128, vectors",
    "tensor, tf32": "tensor tf32 128x128",
    "tensor, float16": "tensor float16 128x128",
}
"""What is drawn of each operator, and what the CSV calls it."""
WORTH = {"tensor, tf32": 32, "tensor, float16": 64}
"""Multiply-adds of a thread for which one product of matrices stands."""
KINDS: dict[str, dict[str, Any]] = {
    "multiply-adds": dict(facecolor=plots.BLUE),
    "products of matrices": dict(facecolor=plots.RED),
    "loads from shared memory": dict(facecolor="#9AD0F5"),
    "loads from global memory": dict(facecolor="#F0E442", hatch="////"),
    "whole numbers: addresses, loops": dict(facecolor="#D0D0D0"),
    "the rest": dict(facecolor="#707070"),
}
# The first letters of the instructions that compute with whole numbers.
WHOLE_NUMBERS = ("I", "UI", "VI", "LEA", "ULEA", "LOP", "ULOP", "SHF", "USHF", "SEL", "USEL")


def kind_of(instruction: str) -> str:
    """Return which of KINDS an instruction is."""
    multiply_adds, products, shared, from_memory, whole, rest = KINDS
    for begin, kind in (("FFMA", multiply_adds), ("HMMA", products), ("LDS", shared), ("LDG", from_memory)):
        if instruction.startswith(begin):
            return kind
    return whole if instruction.startswith(WHOLE_NUMBERS) else rest


def counts(operator: str, rung: str) -> dict[str, int]:
    """Count the instructions in the inner loop of a rung, by kind."""
    name = f"{operator} {LINES[rung]}"
    found = dict.fromkeys(KINDS, 0)
    for line in sass.read(DATA):
        if line["kernel"] == name:
            found[kind_of(line["instruction"])] += int(line["count"])
    return found


def draw_bar(ax: Axes, at: float, found: dict[str, int], worth: int = 0) -> None:
    """Draw the shares of the kinds as one bar, and write what multiplies beside it."""
    total, left = sum(found.values()), 0.0
    for kind, count in found.items():
        ax.barh(at, count / total, 0.76, left, edgecolor="white", linewidth=1, **KINDS[kind])
        left += count / total
    kind = "products of matrices" if worth else "multiply-adds"
    count = found[kind]
    ax.text(1.02, at, f"{count / total:.0%}", va="center", fontsize=19, weight="bold", color=KINDS[kind]["facecolor"])
    ax.text(1.14, at, f"{count} of {total}" + (f", {worth} in one" if worth else ""), va="center", fontsize=15)


def draw() -> Figure:
    """Return the figure: a bar for each rung, the operators one below the other."""
    fig = Figure(figsize=(10.6, 2.2 * len(LINES)), layout="constrained")
    ax = fig.subplots()
    places, names = [], []
    for k, operator in enumerate(gallery.OPERATORS):
        top = (len(LINES) + 1.2) * k
        ax.text(0, top - 0.62, operator, va="center", fontsize=17, weight="bold")
        for at, rung in enumerate(LINES):
            draw_bar(ax, top + at, counts(operator, rung), WORTH.get(rung, 0))
            places.append(top + at)
            names.append(rung)
    ax.set_yticks(places, names, fontsize=16)
    ax.text(1.02, -0.62, "multiply-adds", va="center", fontsize=15, color=plots.BLUE)
    ax.set(xlim=(0, 1.5), ylim=(max(places) + 0.6, -1.1), xticks=(0, 0.25, 0.5, 0.75, 1))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    ax.set_xlabel("share of the inner loop's instructions, sm_90", fontsize=16)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.tick_params(left=False)
    handles = [Patch(label=kind, **style) for kind, style in KINDS.items()]
    fig.legend(handles=handles, loc="outside upper center", ncols=2, fontsize=15, columnspacing=1.2)
    return fig
