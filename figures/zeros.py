"""Draw figures/zeros.png: which elements of one small layer are real, and how many multiply-adds that leaves.

Nothing is typed by hand: the masks come from the functions that pad and insert zeros, the numbers from ``flops.count``.

Usage: ``python figures/zeros.py [--out FOLDER]``
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from cks_numba import flops, regular
from cks_numba.geometry import ConvShape

SHAPE = ConvShape(n=1, ih=4, iw=4, ic=1, oc=1, fh=3, fw=3, stride=2, padding=1)
REAL, INSERTED, PADDED = 0, 1, 2
STYLES: dict[int, dict[str, Any]] = {  # blue and orange of the Okabe-Ito palette, told apart by hatch and text too
    REAL: dict(facecolor="#0072B2", edgecolor="white"),
    INSERTED: dict(facecolor="#FBDFA3", edgecolor="#C57B00", hatch="////"),
    PADDED: dict(facecolor="#F2F2F2", edgecolor="#9A9A9A", hatch="...."),
}
LEGEND = {REAL: "real element", INSERTED: "inserted zero", PADDED: "padded zero"}
PANELS = {
    "conv2d": ("conv2d  (ConvV2)", "x, padded", "w"),
    "conv2d_input": ("conv2d_input  (KS-deconv)", "dy, zeros inserted, padded", "w, flipped"),
    "conv2d_weight": ("conv2d_weight  (Sk-dilated)", "x, padded", "dy, zeros inserted"),
}
CELL_TEXT = dict(ha="center", va="center", fontsize=12)


def kinds(operator: str) -> tuple[np.ndarray, np.ndarray]:
    """Return what the regular way multiplies: the kinds of the tensor that is read, and of what slides over it."""
    ones = {name: np.ones(shape, int) for name, shape in (("x", SHAPE.x_shape), ("dy", SHAPE.y_shape))}
    spread = regular.insert_zeros(ones["dy"], SHAPE)  # (1, UH, UW, 1)
    x = np.where(regular.pad_input(ones["x"], SHAPE), REAL, PADDED)
    inside = regular.pad_gradient(np.ones_like(spread), SHAPE)
    dy = np.where(regular.pad_gradient(spread, SHAPE), REAL, np.where(inside, INSERTED, PADDED))
    filters = np.full((SHAPE.fh, SHAPE.fw), REAL)
    pairs = {
        "conv2d": (x[0, :, :, 0], filters),
        "conv2d_input": (dy[0, :, :, 0], filters),
        "conv2d_weight": (x[0, :, :, 0], np.where(spread, REAL, INSERTED)[0, :, :, 0]),
    }
    return pairs[operator]


def draw_grid(ax: Axes, cells: np.ndarray, left: float, top: float, name: str) -> None:
    """Draw one tensor, a square an element, and its name under it."""
    rows, columns = cells.shape
    for (row, column), kind in np.ndenumerate(cells):
        ax.add_patch(Rectangle((left + column, top + row), 1, 1, linewidth=0.9, **STYLES[kind]))
        if kind != REAL:
            zero = ax.text(left + column + 0.5, top + row + 0.5, "0", color="#333333", **CELL_TEXT)
            zero.set_bbox(dict(boxstyle="circle,pad=0.12", facecolor=STYLES[kind]["facecolor"], edgecolor="none"))
    ax.add_patch(Rectangle((left, top), columns, rows, fill=False, edgecolor="#222222", linewidth=1.2))
    ax.text(left + columns / 2, top + rows + 0.55, name, ha="center", va="center", fontsize=12, color="#222222")


def draw_bar(ax: Axes, operator: str, width: float, longest: int, top: float) -> None:
    """Draw the multiply-adds of the regular way, and inside them the useful ones."""
    count = flops.count(operator, SHAPE)
    scale = 0.78 * width / longest  # the factor stands to the right of the bar
    ax.add_patch(Rectangle((0, top), count.regular * scale, 0.7, facecolor="white", edgecolor="#222222", hatch="xxx"))
    ax.add_patch(
        Rectangle((0, top), count.useful * scale, 0.7, facecolor=STYLES[REAL]["facecolor"], edgecolor="#222222")
    )
    ax.text(count.regular * scale + 0.25, top + 0.37, f"×{count.saved:.2f}", va="center", fontsize=17, weight="bold")
    text = f"{count.regular} multiply-adds the regular way, {count.useful} useful"
    ax.text(0, top + 1.3, text, va="center", fontsize=12)


def draw_panel(ax: Axes, operator: str, longest: int) -> None:
    title, field_name, slider_name = PANELS[operator]
    field, slider = kinds(operator)
    rows, columns = field.shape
    draw_grid(ax, field, 0, 0, field_name)
    ax.add_patch(Rectangle((0, 0), *slider.shape[::-1], fill=False, edgecolor="black", linewidth=3.2))  # first window
    ax.text(columns + 0.8, rows / 2, "∗", ha="center", va="center", fontsize=22)
    left, top = columns + 1.6, (rows - slider.shape[0]) / 2
    draw_grid(ax, slider, left, top, slider_name)
    ax.add_patch(Rectangle((left, top), *slider.shape[::-1], fill=False, edgecolor="black", linewidth=3.2))
    width = left + slider.shape[1]
    draw_bar(ax, operator, width, longest, rows + 1.4)
    ax.set_title(title, fontsize=14, weight="bold", pad=10)
    ax.set(xlim=(-0.15, width + 0.15), ylim=(rows + 3.1, -0.15), aspect="equal")
    ax.axis("off")


def draw() -> Figure:
    """Return the figure: a panel an operator."""
    plt.rcParams.update({"font.family": "DejaVu Sans", "hatch.linewidth": 0.6})
    fig, axes = plt.subplots(1, 3, figsize=(14, 4.9), layout="constrained")
    fig.get_layout_engine().set(wspace=0.12)  # type: ignore[union-attr]
    longest = max(flops.count(operator, SHAPE).regular for operator in PANELS)
    for ax, operator in zip(axes, PANELS, strict=True):
        draw_panel(ax, operator, longest)
    handles = [Patch(label=LEGEND[kind], **STYLES[kind]) for kind in LEGEND]
    handles.append(Patch(label="multiplied by a zero", facecolor="white", edgecolor="#222222", hatch="xxx"))
    fig.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=12, handleheight=1.3)
    return fig


def main() -> None:
    arguments = argparse.ArgumentParser(description="Draw zeros.png, the picture of the README.")
    arguments.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the picture")
    folder = arguments.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    fig = draw()
    fig.savefig(folder / "zeros.png", dpi=140, metadata={"Software": None})
    plt.close(fig)
    print(folder / "zeros.png")


if __name__ == "__main__":
    main()
