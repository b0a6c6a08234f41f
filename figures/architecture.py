"""The rooms of the package as a layer cake: each imports only from its own layer and from those below.

A room is a module or a folder. Its text is the first sentence of its docstring. Its layer is set here, and
tests/house/test_imports.py compares the imports with it.
"""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path

from matplotlib.figure import Figure

PACKAGE = Path(__file__).resolve().parent.parent / "cks_numba"
LAYERS = (  # title, colour and rooms of each layer, from the top down
    ("run it", "#E8E8E4", "commands tutorial train bench"),
    ("see it", "#F9E3CF", "plots trace"),
    ("call it", "#CDE4F2", "operators torch jax dask arrays"),
    ("compute it", "#CFEAE0", "steps kernels backends"),
    ("count it", "#F3DCEB", "flops models"),
    ("one geometry", "#FFF3B8", "geometry plan_table buffers checks"),
    ("any kernel", "#E3DFF2", "emulator"),
)
COLUMNS, WIDTH, HEIGHT, GAP, LEFT = 2, 3.55, 1.35, 0.1, 1.5
LINES = 4  # most that a room has place for


def summary(module: str) -> str:
    """Return the first sentence of a module's docstring."""
    path = PACKAGE / f"{module}.py"
    text = ast.get_docstring(
        ast.parse((path if path.exists() else PACKAGE / module / "__init__.py").read_text("utf-8"))
    )
    assert text is not None
    first = " ".join(text.split("\n\n")[0].replace("`", "").split())
    return first.split(". ")[0].rstrip(".")


def draw() -> Figure:
    rows = [(title, color, names.split()) for title, color, names in LAYERS]
    lines = [-(-len(names) // COLUMNS) for _, _, names in rows]
    high = sum(lines) * HEIGHT + len(rows) * GAP
    fig = Figure(figsize=(LEFT + COLUMNS * WIDTH, high))
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, LEFT + COLUMNS * WIDTH), ylim=(high, 0))
    ax.axis("off")
    top = 0.0
    for (title, color, names), count in zip(rows, lines, strict=True):
        ax.add_patch(_box(0, top, LEFT + COLUMNS * WIDTH, count * HEIGHT, color))
        ax.text(LEFT / 2, top + count * HEIGHT / 2, title.replace(" ", "\n"), ha="center", va="center", weight="bold")
        for k, name in enumerate(names):
            _module(ax, LEFT + k % COLUMNS * WIDTH, top + k // COLUMNS * HEIGHT, name)
        top += count * HEIGHT + GAP
    return fig


def _box(left: float, top: float, width: float, height: float, color: str):
    from matplotlib.patches import Rectangle

    return Rectangle((left, top), width, height, facecolor=color, edgecolor="none")


def _module(ax, left: float, top: float, name: str) -> None:
    ax.add_patch(_box(left + 0.05, top + 0.06, WIDTH - 0.1, HEIGHT - 0.12, "white"))
    ax.text(left + 0.13, top + 0.27, name, va="center", weight="bold", size=15, family="DejaVu Sans Mono")
    lines = textwrap.wrap(summary(name), 33, break_on_hyphens=False)
    if len(lines) > LINES:
        raise ValueError(f"the first sentence of {name} takes {len(lines)} lines, and there is place for {LINES}")
    ax.text(left + 0.13, top + 0.42, "\n".join(lines), va="top", size=12, linespacing=1.15)
