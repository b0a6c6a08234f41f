"""How many useful FLOPs each rung does per byte of global memory, and how fast a machine could be at that ratio.

A roofline: a machine is limited by its memory on the slope, by its arithmetic on the flat part. Above and in the
middle: one layer of ResNet-18 under the roofs of an NVIDIA H100 SXM: 66.9 TFLOP/s of float32 without tensor cores, and
with them 494.7 of tf32 and twice that of float16 and bfloat16 (NVIDIA H100 Tensor Core GPU Architecture, white paper);
3.35 TB/s (NVIDIA H100 Tensor Core GPU, data sheet).
Bytes are those that the threads ask for, loads of operands and stores of results, computed from the launches in closed
form (`asked`); a test compares them with what the traced kernels do. Caches answer part of them, so a measured point
may lie above the slope. Hollow points are computed: a line goes up from each to the most that the roof allows there.
Filled ones are measured, from figures/data/gpu_*.csv.

Below: all cases of the CPU backend and of the regular way as measured, from figures/data/cpu_amd_epyc_2_threads.csv.
The roof is the rate of BLAS on a large matrix product timed beside each case; bytes are those of all arrays, each
moved once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from cks_numba import flops, kernels
from cks_numba.bench import results
from cks_numba.geometry import ConvShape, plan
from cks_numba.kernels import tensor, tiled
from cks_numba.kernels.elementwise import insert_zeros
from cks_numba.kernels.grouped import product_of
from cks_numba.kernels.launch import TILE
from cks_numba.kernels.register_tile import BM, BN, TM, TN
from cks_numba.kernels.tiled.sizes import Tile
from cks_numba.plan_table import ceil_div
from cks_numba.plots import gallery
from cks_numba.tutorial.cards import CARDS

DATA = Path(__file__).parent / "data"
GPU = "H100"
PEAK, BANDWIDTH = CARDS[GPU].peak, CARDS[GPU].bandwidth  # TFLOP/s, TB/s
PEAKS = {"tensor, tf32": CARDS[GPU].tensor, "tensor, 16 bits": 2 * CARDS[GPU].tensor}
"""TFLOP/s of tensor cores, by what is drawn of the rung `tensor`; all other rungs have the peak of float32."""
FORMAT = {"tensor, tf32": tensor.FORMATS["float32"], "tensor, 16 bits": tensor.FORMATS["float16"]}
RUNGS = (*kernels.SIMULATED_RUNGS, *PEAKS)
LAYER = dict(ih=32, iw=32, ic=64, oc=128, fh=3, fw=3, stride=2, padding=1)
BATCH = 128
DASHES = {"conv2d": (0, (3, 6)), "conv2d_input": (3, (3, 6)), "conv2d_weight": (6, (3, 6))}  # three lines in one
GREY = "#B5B5B5"


# --- bytes ------------------------------------------------------------------------------------------
def asked(operator: str, shape: ConvShape, rung: str) -> int:
    """Return how many elements of global memory the threads of a rung load and store, without tables of indices."""
    count, written = flops.count(operator, shape), prod(shape.arrays(operator)[2][1])
    if rung == "with_zeros":
        return 2 * count.regular + written + _to_add_zeros(operator, shape)
    if rung == "skip_zeros":
        return 2 * count.useful + written
    if rung == "shared":  # an element is loaded once for all TILE results of a row, or of a column, of a tile
        ic, oc = shape.ic // shape.groups, shape.oc // shape.groups
        sides = {"conv2d": (shape.n, oc), "conv2d_input": (shape.n, ic), "conv2d_weight": (oc, ic)}[operator]
        return sum(count.useful // side * ceil_div(side, TILE) for side in sides) + written
    if rung == "grouped":  # the same, but the rows or columns of a tile are of any positions of a group
        products = [product_of(operator, shape, group) for group in plan(operator, shape).groups]
        loads = sum(k * (m * ceil_div(n, TILE) + n * ceil_div(m, TILE)) for m, n, k in products)
        return shape.groups * loads + written
    choice = tiled.choose(operator, shape)
    if rung == "register_tile":
        choice = tiled.Choice(operator, shape, Tile(BM, BN, TM, TN), 1, choice.sms)
    return _loads(choice) + written * (
        2 * choice.parts + 1 if choice.parts > 1 else 1
    )  # parts are stored, loaded, added


def _loads(choice: tiled.Choice) -> int:
    """Return how many elements the tiles of a choice load."""
    operator, shape, tile = choice.operator, choice.shape, choice.tile
    depth = {"conv2d": choice.channels[0], "conv2d_input": choice.channels[1], "conv2d_weight": shape.n}[operator]
    terms = sum(n * group.terms * depth for n, group in zip(choice.blocks, choice.plan.groups, strict=True))
    return terms * choice.grid[1] * shape.groups * (tile.bm + tile.bn)


def asked_bytes(operator: str, shape: ConvShape, rung: str) -> int:
    """Return how many bytes of global memory the threads of a rung load and store; parts of sums are float32."""
    if rung not in PEAKS:
        return 4 * asked(operator, shape, rung)
    choice, written = (
        tiled.choose(operator, shape, unit=FORMAT[rung].unit, tiles=tensor.TILES),
        prod(shape.arrays(operator)[2][1]),
    )
    size = 16 // FORMAT[rung].lanes
    return size * (_loads(choice) + written) + (4 * 2 * choice.parts * written if choice.parts > 1 else 0)


def _to_add_zeros(operator: str, shape: ConvShape) -> int:
    """Return how many elements are loaded and stored by the launches that only pad or insert zeros."""
    arrays = tuple(np.empty(size, np.float32) for _, size in shape.arrays(operator))
    adding = (item for item in kernels.launches(operator, shape, arrays, "with_zeros") if item.kernel is insert_zeros)
    return sum(launch.args[0].size + launch.args[1].size for launch in adding)


def intensity(operator: str, shape: ConvShape, rung: str) -> float:
    """Return the useful FLOPs, two per multiply-add, for each byte that the threads ask for."""
    return 2 * flops.count(operator, shape).useful / asked_bytes(operator, shape, rung)


def roof(flops_a_byte: float, peak: float = PEAK) -> float:
    """Return the TFLOP/s that the GPU could reach."""
    return min(peak, BANDWIDTH * flops_a_byte)


def measured() -> dict[tuple[str, str], float]:
    """Return the measured TFLOP/s by operator and rung, as far as a CSV of the GPU has them."""
    names = {
        results.OURS: "tiled",
        f"{results.OURS}, TF32": "tensor, tf32",
        f"{results.OURS}, float16": "tensor, 16 bits",
    }
    found: dict[tuple[str, str], float] = {}
    wanted = (BATCH, *(LAYER[name] for name in ("ih", "ic", "oc", "fh", "stride", "padding")), 1)
    for row in (row for path in sorted(DATA.glob("gpu_*.csv")) for row in results.read(path)):
        rung = names.get(row.contender, row.contender)
        if GPU in row.device and row.case[1:] == wanted and rung in RUNGS and row.layout == "NHWC":
            found[row.operator, rung] = row.rate / 1e3
    return found


# --- pictures ---------------------------------------------------------------------------------------
def plain(ax: Axes, *axes: str) -> None:
    """Write the numbers of these axes without powers of ten."""
    for name in axes:
        getattr(ax, f"{name}axis").set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.grid(True)


def draw_roof(ax: Axes) -> None:
    """Draw the roof, with a line up to it from each rung, and a point at its measured rate where there is one."""
    low, high = 0.02, 1000.0
    for peak, name in ((PEAK, "float32"), *((peak, name.split(", ")[1]) for name, peak in PEAKS.items())):
        ax.plot([low, peak / BANDWIDTH, high], [roof(low), peak, peak], color="black", linewidth=3, zorder=1)
        below = name == "tf32"  # there is no room above it
        where: dict[str, Any] = dict(va="top" if below else "bottom", ha="right", fontsize=14)
        ax.text(900, (0.87 if below else 1.1) * peak, f"{name}: {peak:g}", **where)
    ax.text(0.45, 1.5 * roof(0.45), f"memory: {BANDWIDTH} TB/s", fontsize=15, ha="right")
    shape, rates = ConvShape(n=BATCH, **LAYER), measured()
    for operator, style in gallery.OPERATORS.items():
        for rung in RUNGS:
            at, rate = intensity(operator, shape, rung), rates.get((operator, rung))
            top = roof(at, PEAKS.get(rung, PEAK))
            ax.plot([at, at], [0.05, top], color=style["color"], linewidth=2.5, linestyle=DASHES[operator])
            if rate:
                ax.plot(at, rate, markersize=12, linestyle="", **style)
    ax.set(xscale="log", yscale="log", xlim=(low, high), ylim=(0.05, 3000), ylabel="useful TFLOP/s")
    ax.set_title("One layer on an NVIDIA H100 SXM: larger tiles, fewer bytes")
    ax.tick_params(labelbottom=False)
    plain(ax, "y")


def draw_rungs(ax: Axes) -> None:
    """Draw the same points in a row for each operator, with the numbers of the rungs; their names stand below."""
    shape = ConvShape(n=BATCH, **LAYER)
    for row, (operator, style) in enumerate(gallery.OPERATORS.items()):
        where = [intensity(operator, shape, rung) for rung in RUNGS]
        ax.plot([min(where), max(where)], [row, row], color=style["color"], linewidth=2)
        for k, at in enumerate(where):
            height = row + 0.27 * (k % 3 - 1)  # neighbours may be close
            look = dict(markerfacecolor="white", markeredgewidth=2.5, markersize=19)
            ax.plot(at, height, linestyle="", **style, **look)
            ax.text(
                at, height + (0.04 if style["marker"] == "^" else 0), str(k + 1), ha="center", va="center", fontsize=12
            )
        ax.text(900, row, operator, ha="right", va="center", fontsize=15, color=style["color"], weight="bold")
    for k, rung in enumerate(RUNGS):
        place = 0.028 * 11.9 ** (k % 4), 2.85 + 0.4 * (k // 4)
        ax.text(*place, f"{k + 1}  {rung}", fontsize=14, va="center")
    ax.set(xscale="log", ylim=(3.5, -0.6), yticks=(), xlabel="useful FLOPs per byte that the threads ask for")
    ax.spines["left"].set_visible(False)
    plain(ax, "x")


def draw_cpu(axes: Sequence[Axes]) -> None:
    """Draw the useful rate of every measured case over the rate of BLAS beside it, a panel for each operator."""
    rates: dict[tuple, dict[str, results.Row]] = defaultdict(dict)
    for row in results.read(DATA / "cpu_amd_epyc_2_threads.csv"):
        if row.layout != "NCHW":
            rates[row.case][row.contender] = row
    for contender, look in ((results.REGULAR, dict(color=GREY)), (results.OURS, {})):
        for (operator, n, ih, ic, oc, fh, stride, padding, groups), here in rates.items():
            sizes = dict(n=n, ih=ih, iw=ih, ic=ic, oc=oc, fh=fh, fw=fh, groups=groups)
            shape = ConvShape(**sizes, stride=stride, padding=padding)
            at, share = flops.count(operator, shape).intensity, here[contender].rate / here[results.LIMIT].rate
            ax = axes[list(gallery.OPERATORS).index(operator)]
            ax.plot(at, share, markersize=7, markeredgewidth=0, alpha=0.6, **{**gallery.OPERATORS[operator], **look})
    for ax, operator in zip(axes, gallery.OPERATORS, strict=True):
        ax.axhline(1, color="black", linewidth=3, zorder=1)
        ax.set(xscale="log", yscale="log", xlim=(0.3, 500), ylim=(0.003, 2.5), yticks=(0.003, 0.01, 0.03, 0.1, 0.3, 1))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.set_title(operator, fontsize=15, color=gallery.OPERATORS[operator]["color"])
        plain(ax, "x", "y")
        ax.tick_params(labelleft=ax is axes[0])
    axes[0].set_ylabel("share of the BLAS rate")


def legend(fig: Any) -> None:
    """Draw the legend: the operators, and what hollow and grey mean."""
    look = dict(linestyle="", markersize=13, markeredgewidth=2.5)
    handles = [Line2D([], [], label=name, **look, **style) for name, style in gallery.OPERATORS.items()]
    handles += [
        Line2D([], [], label="roof", color="black", linewidth=3),
        Line2D(
            [],
            [],
            label="hollow: not measured",
            marker="o",
            color="black",
            markerfacecolor="white",
            **look,
        ),
        Line2D([], [], label="grey: the regular way", marker="o", color=GREY, **look),
    ]
    fig.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=15, columnspacing=1.2, handletextpad=0.5)


def draw() -> Figure:
    """Return the figure: the roof of a GPU, the rungs under it, and a CPU."""
    fig = Figure(figsize=(9.4, 13.4), layout="constrained")
    gpu, cpu = fig.subfigures(2, 1, height_ratios=(5.6, 3.2))
    top, middle = gpu.subplots(2, 1, height_ratios=(3, 2.6))
    draw_roof(top)
    draw_rungs(middle)
    middle.set_xlim(top.get_xlim())
    draw_cpu(cpu.subplots(1, 3))
    row = results.read(DATA / "cpu_amd_epyc_2_threads.csv")[0]
    title = f"All layers on a CPU, measured:\n{row.device}, {row.threads} threads"
    cpu.suptitle(title, fontsize=17, weight="bold")
    cpu.supxlabel("useful FLOPs per byte of the arrays, each moved once", fontsize=16)
    legend(gpu)
    return fig
