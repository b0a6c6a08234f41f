"""A thread that waits at a barrier: how the emulator runs the 64 threads of a block one after the other."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cks_numba.plots import gallery

BLUE, RED, GREY = "#0072B2", gallery.OPERATORS["conv2d"]["color"], "#444444"
CODE = ("t = cuda.threadIdx.x", "tile[t] = x[i]", "cuda.syncthreads()", "out[i] = tile[63 - t]")
LANES = {0: 2.0, 1: 3.0, 63: 5.0}  # number of a thread and the height of its lane
LEFT, STEP, WIDTH, FRAME, TALL = 4.75, 1.5, 1.15, 1.25, 0.62
TURNS = {0: 0.0, 1: 1.0, 63: 2.6}  # when each thread has its turn
GO_ON = LEFT + STEP * TURNS[63] + WIDTH + FRAME + 0.3
RETURNED = 6.75


def _box(ax: Any, x: float, y: float, width: float, **look: Any) -> None:
    ax.add_patch(Rectangle((x, y - TALL / 2), width, TALL, **look))


def _say(ax: Any, x: float, y: float, text: str, **look: Any) -> None:
    ax.text(x, y, text, **{"ha": "center", "va": "center", "size": 11.5} | look)


def _kernel(ax: Any) -> None:
    """The kernel as a narrow column, cut in two by the barrier."""
    ax.text(0.2, 0.75, "the kernel", weight="bold", size=14, va="center")
    for line, y in zip(CODE, (1.9, 2.7, 3.65, 4.6), strict=True):
        color = RED if line == "cuda.syncthreads()" else "black"
        ax.text(0.25, y, line, family="DejaVu Sans Mono", size=11.5, va="center", color=color)
    ax.plot((0.2, 3.15), (4.05, 4.05), "--", color=RED, linewidth=1.8)
    _say(ax, 3.3, 4.05, "1", size=13, color=RED, weight="bold")


def _lanes(ax: Any) -> None:
    ax.text(LEFT, 0.75, "one core of this computer, from left to right", weight="bold", size=14, va="center")
    for thread, y in LANES.items():
        ax.plot((LEFT - 0.1, 15.85), (y, y), color="#DDDDDD", linewidth=1, zorder=0)
        _say(ax, LEFT - 0.2, y, f"thread {thread}", ha="right", size=12)
    for x in (LEFT - 0.75, LEFT + STEP * 2.2, GO_ON + 2.35):
        _say(ax, x, 4.0, "...", size=20, color=GREY)


def _staircase(ax: Any) -> None:
    """Each thread has its turn up to the barrier, and a second one after it."""
    for thread, y in LANES.items():
        first = LEFT + STEP * TURNS[thread]
        _box(ax, first, y, WIDTH, facecolor=BLUE)
        _say(ax, first + WIDTH / 2, y, "to the\nbarrier", color="white", size=10.5)
        _box(ax, first + WIDTH, y, FRAME, facecolor="white", edgecolor=GREY, hatch="////", linewidth=1)
        frame = dict(boxstyle="square,pad=0.12", facecolor="white", edgecolor="none")
        _say(ax, first + WIDTH + FRAME / 2, y, "resume at 1\nt, i", size=9, bbox=frame)
        second = GO_ON + 0.3 + 1.05 * TURNS[thread]
        _box(ax, second, y, WIDTH, facecolor=BLUE)
        _say(ax, second + WIDTH / 2, y, "after the\nbarrier", color="white", size=10.5)
        arrow = dict(arrowstyle="-|>", color=GREY, linewidth=1.4, shrinkA=0, shrinkB=0)
        ax.annotate("", (second, y), (first + WIDTH + FRAME, y), arrowprops=arrow)
    ax.plot((GO_ON, GO_ON), (1.45, 5.55), color="black", linewidth=2)
    _say(ax, GO_ON + 1.3, 1.2, "all 64 wait here: go on", weight="bold")
    ax.annotate(
        "its frame: where to go on, and the\nregisters that are still needed",
        (LEFT + WIDTH + 0.6, 1.69), (LEFT + WIDTH + 1.9, 1.32), size=10.5, va="center", color=GREY,
        arrowprops=dict(arrowstyle="-", color=GREY),
    )  # fmt: skip


def _missing(ax: Any) -> None:
    """A thread that has returned before the barrier."""
    first = LEFT + STEP * 1.8
    ax.plot((LEFT - 0.1, 15.85), (RETURNED, RETURNED), color="#DDDDDD", linewidth=1, zorder=0)
    _say(ax, LEFT - 0.2, RETURNED, "thread 40", ha="right", size=12, color=RED)
    _box(ax, first, RETURNED, WIDTH, facecolor=RED)
    _say(ax, first + WIDTH / 2, RETURNED, "returned", color="white", size=10.5)
    ax.plot((GO_ON, GO_ON), (6.35, 7.15), color=RED, linewidth=2, linestyle=":")
    text = dict(boxstyle="square,pad=0.15", facecolor="white", edgecolor="none")
    _say(ax, GO_ON + 0.25, RETURNED, "it never comes: missing threads", ha="left", color=RED, weight="bold", bbox=text)
    ax.text(0.2, RETURNED, "with a return\nbefore the barrier", size=12, va="center", color=RED)


def draw() -> Figure:
    fig = Figure(figsize=(13.6, 6.4))
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, 16), ylim=(7.5, 0.25))
    ax.axis("off")
    for part in (_kernel, _lanes, _staircase, _missing):
        part(ax)
    return fig
