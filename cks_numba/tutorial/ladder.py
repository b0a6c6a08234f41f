"""What each rung of conv2d does on one small layer, counted in checked runs of the emulator: lesson 06."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from .. import flops, kernels, plots
from ..emulator import check_kernel
from ..geometry import ConvShape
from ..kernels import register_tile, tiled
from .cards import WARP

LAYER = ConvShape(n=4, ih=16, iw=16, ic=16, oc=64, fh=1, fw=3, padding=(0, 1))
"""Small, so that the emulator needs seconds; with half as many images as a block of `shared` has room for.

A sum has 48 terms: the emulator counts the first 64 accesses of a loop without a barrier.
"""
TILE = next(tile for tile in tiled.TILES if (tile.bm, tile.bn) == (register_tile.BM, register_tile.BN))
"""Tile of the last rung: the one whose blocks are those of `register_tile`, so that the tile makes no difference."""
ROOM = {"register_tile": register_tile.TM * register_tile.TN, "tiled": TILE.tm * TILE.tn}
"""Results for which a thread has room, where it is not one."""
BUYS = {
    "with_zeros": ("the regular way", None),
    "skip_zeros": ("no zeros", "wasted"),
    "shared": ("a block loads a number once", "sectors"),
    "grouped": ("nearly every thread has work", "wasted"),
    "register_tile": ("numbers wait in registers", "loads"),
    "tiled": ("four numbers in one load", "loads"),
}
"""What is new in each rung, and the count that shows it."""
COUNTS = {
    "wasted": "lanes busy for\nnothing (%)",
    "sectors": "sectors of\nglobal memory",
    "loads": "load\ninstructions",
    "barriers": "\nbarriers",
}


class Work(NamedTuple):
    """What a rung does for each multiply-add instruction of a warp, which is 32 useful multiply-adds.

    Attributes
    ----------
    rung : str
    wasted : float
        Percentage of the multiply-adds that have an added zero as a factor; without these, of the results for which
        the threads have room that do not exist.
    sectors : float
        Sectors of 32 bytes that it loads from global memory.
    loads : float
        Load instructions of a warp, from global and from shared memory.
    barriers : float
        Barriers that a warp waits at.
    conflicts : float
        Passes of shared memory over the least possible: 1 without bank conflicts; 0 without shared memory.
    """

    rung: str
    wasted: float
    sectors: float
    loads: float
    barriers: float
    conflicts: float


@cache
def count_rungs(shape: ConvShape = LAYER) -> tuple[Work, ...]:
    """Run every rung of conv2d in the emulator, checked, and count what it does."""
    return tuple(_count(rung, shape) for rung in kernels.SIMULATED_RUNGS)


def _launches(rung: str, shape: ConvShape, arrays: Any) -> list[kernels.Launch]:
    if rung == "tiled":
        return tiled.launches("conv2d", shape, arrays, tiled.Choice("conv2d", shape, TILE, 1, tiled.DEFAULT_SMS))
    return kernels.launches("conv2d", shape, arrays, rung=rung)


def _count(rung: str, shape: ConvShape) -> Work:
    arrays = tuple(np.ones(size, np.float32) for _, size in shape.arrays("conv2d"))
    launches = _launches(rung, shape, arrays)
    results = [check_kernel(launch.kernel, launch.grid, launch.block, *launch.args) for launch in launches]
    if faults := [fault.text for result in results for fault in result.faults]:
        raise RuntimeError(faults[0])
    costs = [cost for result in results for cost in result.costs]
    loads = [cost for cost in costs if cost.site.action == "read"]
    shared = [cost for cost in costs if cost.site.space == "shared"]
    count = flops.count("conv2d", shape)
    useful = count.useful / WARP
    room = prod(launches[-1].grid) * prod(launches[-1].block) * ROOM.get(rung, 1)
    done = count.regular if rung == "with_zeros" else count.useful * room / arrays[2].size
    return Work(
        rung,
        wasted=100 * (1 - count.useful / done),
        sectors=sum(cost.units for cost in loads if cost.site.space == "global") / useful,
        loads=sum(cost.warps for cost in loads) / useful,
        barriers=sum(result.barriers * -(-prod(result.block) // WARP) for result in results) / useful,
        conflicts=sum(cost.units for cost in shared) / max(1, sum(cost.least for cost in shared)),
    )


def draw_ladder(works: Sequence[Work]) -> Figure:
    """A row for each rung, a column for each count; blue where a rung is better by what is new in it."""
    fig = Figure(figsize=(10.5, 4.8), layout="constrained")
    axes = fig.subplots(1, len(COUNTS), sharey=True)
    for ax, (name, title) in zip(axes, COUNTS.items(), strict=True):
        values = [getattr(work, name) for work in works]
        colours = [plots.BLUE if BUYS[work.rung][1] == name else "#C9C9C9" for work in works]
        ax.barh(range(len(works)), values, height=0.6, color=colours)
        for k, (value, colour) in enumerate(zip(values, colours, strict=True)):
            look = dict(color=plots.BLUE, weight="bold") if colour == plots.BLUE else {}
            ax.text(value + 0.03 * max(values), k, _short(value), va="center", fontsize=13, **look)
        ax.set_title(title, fontsize=13, loc="left")
        ax.set(xlim=(0, 1.35 * max(values)), xticks=())
        ax.spines[["top", "right", "bottom"]].set_visible(False)
        ax.tick_params(left=False)
    axes[0].set_yticks(range(len(works)), [f"{work.rung}\n{BUYS[work.rung][0]}" for work in works], fontsize=12)
    axes[0].invert_yaxis()
    fig.supxlabel("last three columns: for each multiply-add instruction of a warp", fontsize=12)
    return fig


def in_words(works: Sequence[Work]) -> str:
    """What the picture of the ladder shows."""
    said = [
        f"{work.rung}, {BUYS[work.rung][0]}: {', '.join(_short(getattr(work, name)) for name in COUNTS)}"
        for work in works
    ]
    names = ", ".join(" ".join(title.split()) for title in COUNTS.values())
    return f"A row of bars for each rung: {names}. {'. '.join(said)}."


def _short(value: float) -> str:
    """Two digits, or none of them.

    Examples
    --------
    >>> _short(33.04), _short(0.267), _short(0.0), _short(0.0049)
    ('33', '0.27', '0', '0.005')
    """
    return f"{value:.0f}" if value >= 9.95 or value == 0 else f"{value:.2g}" if value >= 0.01 else f"{value:.1g}"
