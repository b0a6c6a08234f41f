"""The tile of each kernel of the CPU backend: what its rows and lanes are, and what the sum runs over.

Drawn from the table of kernels in the docstring of ``cks_numba.backends.cpu``. The real tiles have 6 or 8 rows.
"""

from __future__ import annotations

import re
from itertools import product
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cks_numba.backends import cpu
from cks_numba.plots import gallery

BLUE, GREY = "#0072B2", "#444444"
ROWS_COLOUR, LANES_COLOUR = (gallery.OPERATORS[name]["color"] for name in ("conv2d", "conv2d_input"))
ROWS, LANES = 4, 8  # Rows and lanes of a drawn tile.
LEFT, TOP, CELL = 3.6, 1.95, 0.5  # Left and upper end of the tile, and side of a cell.
GAP = 0.16
WIDE, TALL = 8.9, 4.9  # Width and height of a kernel's part of the picture.
HEAD = 0.75  # Inches above all kernels.


class Kernel(NamedTuple):
    """A row of the table."""

    name: str
    operators: str
    rows: str
    lanes: str
    sum: str
    product: str


def kernels() -> list[Kernel]:
    """Read the table of kernels."""
    rules = [match.span() for match in re.finditer(r"^=[= ]+$", cpu.__doc__ or "", re.MULTILINE)]
    lines = (cpu.__doc__ or "")[rules[1][1] : rules[2][0]].strip().splitlines()
    return [Kernel(*re.split(r" {2,}", line.strip())) for line in lines]


def _cells(ax: Any, x: float, y: float, rows: int, lanes: int, **look: Any) -> None:
    for r, lane in product(range(rows), range(lanes)):
        ax.add_patch(Rectangle((x + lane * CELL, y + r * CELL), CELL, CELL, **{"linewidth": 1.5} | look))


def _say(ax: Any, x: float, y: float, text: str, **look: Any) -> None:
    ax.text(x, y, text, **{"ha": "center", "va": "center", "size": 15, "weight": "bold"} | look)


def _kernel(ax: Any, kernel: Kernel) -> None:
    """Draw a tile, the number or the row of A for each of its rows, the row of B, and words beside them."""
    wide, tall, above = LANES * CELL, ROWS * CELL, TOP - CELL - GAP
    _say(ax, 0.1, 0.35, kernel.name, ha="left", size=18)
    _say(ax, WIDE - 0.3, 0.35, kernel.operators, ha="right", size=13, color=GREY, weight="normal")
    _cells(ax, LEFT, TOP, ROWS, LANES, facecolor=BLUE, edgecolor="white")
    _cells(ax, LEFT, above, 1, LANES, facecolor="white", edgecolor=LANES_COLOUR)
    _say(ax, LEFT + wide / 2, above - 0.32, kernel.lanes, color=LANES_COLOUR)
    if kernel.product == "number*row":
        _cells(ax, LEFT - CELL - GAP, TOP, ROWS, 1, facecolor="white", edgecolor=ROWS_COLOUR)
    else:
        for r in range(ROWS):
            corner = LEFT - GAP / 2, TOP + r * CELL + 0.03
            ax.add_patch(Rectangle(corner, wide + GAP, CELL - 0.06, fill=False, edgecolor=ROWS_COLOUR, linewidth=2.5))
    if kernel.sum.endswith("then lanes"):
        for r in range(ROWS):
            _say(ax, LEFT + wide + 0.65, TOP + (r + 0.5) * CELL, "\u2192 +", color=BLUE)
    words = kernel.rows.replace(" ", "\n").replace("\nof\n", "\nof ").replace("2\n", "2 ")
    _say(ax, LEFT - CELL - 2 * GAP, TOP + tall / 2, words, ha="right", color=ROWS_COLOUR)
    _say(ax, WIDE / 2 + 0.1, TOP + tall + 0.42, f"sum over {kernel.sum}", color=BLUE)


def draw() -> Figure:
    found = kernels()
    lines = (len(found) + 1) // 2
    height = 2.75 * lines + HEAD
    fig = Figure(figsize=(10.4, height))
    for x, text, colour in ((0.17, "rows, from A", ROWS_COLOUR), (0.45, "lanes, from B", LANES_COLOUR)):
        fig.text(x, 1 - HEAD / 2 / height, text, size=18, weight="bold", color=colour, ha="center", va="center")
    words = "tile, in registers: a sum"
    fig.text(0.79, 1 - HEAD / 2 / height, words, size=18, weight="bold", color=BLUE, ha="center", va="center")
    for k, kernel in enumerate(found):
        bottom = 2.75 * (lines - 1 - k // 2) / height
        ax = fig.add_axes((k % 2 / 2, bottom, 1 / 2, 2.75 / height))
        ax.set(xlim=(-0.2, WIDE), ylim=(TALL, 0))
        ax.axis("off")
        _kernel(ax, kernel)
    return fig
