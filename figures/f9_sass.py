"""The instructions in the inner loop of each rung: multiply-adds, loads, whole numbers.

The data are figures/data/sass_sm_90.csv, the machine code for an H100 as ``cks-numba sass`` counts it: instructions,
not time. The loops of the first four rungs are tiny, four terms long, and compute the address of every element
anew, with 64-bit indices that may be negative: nearly all of their instructions do that. The loop of `register_tile`
does one term: it reads eight elements of each operand into registers, and does 64 multiply-adds with them. The loop of
the tiled rung (128x128, loads of four elements) does so for a whole chunk, and counts in 32 bits.
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
TILED = "tiled 128x128, vectors"
KINDS: dict[str, dict[str, Any]] = {
    "multiply-adds": dict(facecolor=plots.BLUE),
    "loads from shared memory": dict(facecolor="#9AD0F5"),
    "loads from global memory": dict(facecolor="#F0E442", hatch="////"),
    "whole numbers: addresses, loops": dict(facecolor="#D0D0D0"),
    "the rest": dict(facecolor="#707070"),
}
# The first letters of the instructions that compute with whole numbers.
WHOLE_NUMBERS = ("I", "UI", "VI", "LEA", "ULEA", "LOP", "ULOP", "SHF", "USHF", "SEL", "USEL")


def kind_of(instruction: str) -> str:
    """Return which of KINDS an instruction is."""
    multiply_adds, shared, from_memory, whole, rest = KINDS
    for begin, kind in (("FFMA", multiply_adds), ("LDS", shared), ("LDG", from_memory)):
        if instruction.startswith(begin):
            return kind
    return whole if instruction.startswith(WHOLE_NUMBERS) else rest


def counts(operator: str, rung: str) -> dict[str, int]:
    """Count the instructions in the inner loop of a rung, by kind."""
    name = f"{operator} {TILED if rung == 'tiled' else rung}"
    found = dict.fromkeys(KINDS, 0)
    for line in sass.read(DATA):
        if line["kernel"] == name:
            found[kind_of(line["instruction"])] += int(line["count"])
    return found


def draw_bar(ax: Axes, at: float, found: dict[str, int]) -> None:
    """Draw the shares of the kinds as one bar, and write the share of the multiply-adds beside it."""
    total, left = sum(found.values()), 0.0
    for kind, count in found.items():
        ax.barh(at, count / total, 0.76, left, edgecolor="white", linewidth=1, **KINDS[kind])
        left += count / total
    share = found["multiply-adds"] / total
    ax.text(1.02, at, f"{share:.0%}", va="center", fontsize=19, weight="bold", color=plots.BLUE)
    ax.text(1.14, at, f"{found['multiply-adds']} of {total}", va="center", fontsize=15)


def draw() -> Figure:
    """Return the figure: a bar for each rung, the operators one below the other."""
    fig = Figure(figsize=(10, 2.4 * len(kernels.SIMULATED_RUNGS)), layout="constrained")
    ax = fig.subplots()
    places, names = [], []
    for k, operator in enumerate(gallery.OPERATORS):
        top = (len(kernels.SIMULATED_RUNGS) + 1.2) * k
        ax.text(0, top - 0.62, operator, va="center", fontsize=17, weight="bold")
        for at, rung in enumerate(kernels.SIMULATED_RUNGS, 0):
            draw_bar(ax, top + at, counts(operator, rung))
            places.append(top + at)
            names.append(rung)
    ax.set_yticks(places, names, fontsize=16)
    ax.text(1.02, -0.62, "multiply-adds", va="center", fontsize=15, color=plots.BLUE)
    ax.set(xlim=(0, 1.36), ylim=(max(places) + 0.6, -1.1), xticks=(0, 0.25, 0.5, 0.75, 1))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    ax.set_xlabel("share of the inner loop's instructions, sm_90", fontsize=16)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.tick_params(left=False)
    handles = [Patch(label=kind, **style) for kind, style in KINDS.items()]
    fig.legend(handles=handles, loc="outside upper center", ncols=2, fontsize=15, columnspacing=1.2)
    return fig
