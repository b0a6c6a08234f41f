"""The same training with our convolutions and with PyTorch's: the loss of every step, and the time of a step.

The data are figures/data/training_*.csv, the logs of ``python -m cks_numba.train``. Both were trained in one process,
taking turns step by step. The control is PyTorch again, with two threads, which add in a different order as well:
rounding errors grow during any training.
"""

from __future__ import annotations

import csv
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cks_numba.plots import gallery

DATA = Path(__file__).parent / "data"
NAME = "training_digits_resnet18"
WARM = 3  # steps that are not timed: the first one compiles
OURS, PEER, CONTROL = "cks", "torch", "torch_2_threads"
LOOK: dict[str, dict[str, Any]] = {
    PEER: dict(color="#999999", linewidth=7, label="PyTorch"),
    CONTROL: dict(
        color="black", linewidth=1.6, linestyle=(0, (1, 1.5)), label="PyTorch, two threads: another order of adding up"
    ),
    OURS: dict(color=gallery.KINDS["useful"]["facecolor"], linewidth=2.4, label="cks_numba"),
}


def read(which: str) -> list[dict[str, str]]:
    """Return the rows of a training's log."""
    with (DATA / f"{NAME}_{which}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def seconds(log: list[dict[str, str]]) -> float:
    """Return the median time of a step."""
    return median(float(row["seconds"]) for row in log[WARM:])


def draw_losses(ax: Axes, logs: dict[str, list[dict[str, str]]]) -> None:
    """Draw a line for each training; the first is wide, so that the others stay visible on top of it."""
    for which, style in LOOK.items():
        ax.plot([float(row["loss"]) for row in logs[which]], **style)
    ax.set_yscale("log")
    ax.set(xlabel="training step", ylabel="loss", title="Losses: as close as PyTorch is to itself")
    ax.grid(axis="y")
    ax.legend(loc="upper right", fontsize=14)


def draw_times(ax: Axes, logs: dict[str, list[dict[str, str]]]) -> None:
    """Draw the time of a step with PyTorch and with our convolutions as two bars."""
    times = {which: seconds(logs[which]) for which in (PEER, OURS)}
    for which, time in times.items():
        ax.bar(LOOK[which]["label"], 1e3 * time, color=LOOK[which]["color"], width=0.65)
        ax.annotate(
            f"{1e3 * time:.0f} ms", (LOOK[which]["label"], 1e3 * time), (0, 4), textcoords="offset points", ha="center"
        )
    first = logs[OURS][0]
    removed = 1 - int(first["useful"]) / int(first["regular"])
    ax.set_ylabel("milliseconds a step (median)")
    ax.set_title(f"A step: {times[PEER] / times[OURS]:.1f} times as fast")
    ax.set_xlabel(f"{removed:.0%} of the multiply-adds\nmeet an added zero")
    ax.margins(y=0.12)


def draw() -> Figure:
    """Return the figure."""
    logs = {which: read(which) for which in LOOK}
    fig = Figure(figsize=(12, 6.2), layout="constrained")
    left, right = fig.subplots(1, 2, width_ratios=(2, 1))
    draw_losses(left, logs)
    draw_times(right, logs)
    first = logs[OURS][0]
    threads = f"{first['threads']} thread{'s' * (first['threads'] != '1')}"
    fig.suptitle(f"ResNet-18 on 8x8 digits, batches of {first['batch_size']}; {first['device']}, {threads}")
    return fig
