"""Pictures and exercises of 06_making_it_fast."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, NullLocator

from .. import flops, kernels, plots
from ..bench import results
from ..bench.results import OURS, REGULAR
from ..geometry import ConvShape
from ..kernels import register_tile
from ..kernels.jit import cuda
from ..kernels.launch import TILE
from ..kernels.tiled import TILES
from ..kernels.tiled.sizes import BK
from ..plots import gallery
from . import guesses, ladder, machine_code, this_cpu
from .answers import Wrong, agree
from .cards import CARDS, Card, limits, occupancy
from .guesses import Choice, Prediction
from .machine_code import Code, kinds
from .own_kernel import Notes, Subject, spy
from .trying import Case, Terms, one_of_each, sums_of_products

BYTES = 4  # size of a float32
WORK: dict[str, dict[str, Any]] = {  # colour and hatch for each purpose of an instruction
    "multiply-add": dict(facecolor=plots.BLUE, edgecolor="white"),
    "shared memory": dict(facecolor="#F0E442", edgecolor="#8A8200", hatch="\\\\\\\\"),
    "global memory": dict(facecolor="#FBDFA3", edgecolor="#C57B00", hatch="////"),
    "addresses, tests, the loop": dict(facecolor="#F2F2F2", edgecolor="#9A9A9A", hatch="...."),
}
TILE_SIDES = {f"{side} x {side}": side for side in (1, 2, 4, 8, 12, 16)}
"""Rows and columns of results of a thread."""
MOST_REGISTERS = 255
"""Registers that a thread can have on every GPU of the last ten years."""
GPU_LAYER = ConvShape(n=64, ih=16, iw=16, ic=128, oc=128, fh=3, fw=3, padding=1)
"""Large enough for a GPU."""
SIZES = ((4, 4, 4), (5, 3, 7), (1, 6, 2), (3, 2, 9))  # exercise 06.4: rows, terms, columns
SIDE = 2  # threads along each side of a block in exercise 06.4


# --- counting -------------------------------------------------------------------------------------
def intensities() -> dict[str, float]:
    """Operations for each byte that a rung loads from global memory, without the help of a cache."""
    tiles = {
        "skip_zeros": (1, 1),
        "shared": (TILE, TILE),
        f"register_tile {register_tile.BM}x{register_tile.BN}": (register_tile.BM, register_tile.BN),
        f"tiled {TILES[0]}": (TILES[0].bm, TILES[0].bn),
    }
    return {rung: 2 * rows * columns / ((rows + columns) * BYTES) for rung, (rows, columns) in tiles.items()}


def gpu_rates(folder: Path = gallery.FOLDER / "data") -> dict[str, dict[str, float]]:
    """How many times as fast as the regular way each rung of conv2d was, by GPU, from the files gpu_*.csv.

    The numbers are geometric means over the layers on which all rungs were timed.
    """
    names, found = {OURS: "tiled", REGULAR: "with_zeros"}, {}
    for path in sorted(folder.glob("gpu_*.csv")):
        rates: dict[Any, dict[str, float]] = {}
        for row in results.read(path):
            rung = names.get(row.contender, row.contender)
            if row.operator == "conv2d" and rung in kernels.SIMULATED_RUNGS:
                rates.setdefault(row.case, {})[rung] = row.rate
            device = row.device
        whole = [case for case in rates.values() if len(case) == len(kernels.SIMULATED_RUNGS)]
        if whole:
            found[device] = {
                rung: geometric_mean(case[rung] / case["with_zeros"] for case in whole)
                for rung in kernels.SIMULATED_RUNGS
            }
    return found


def time_rungs(shape: ConvShape = GPU_LAYER, repeats: int = 5) -> dict[str, float]:
    """Median seconds of every rung of conv2d on the GPU, all arrays already there."""
    rng, taken = np.random.default_rng(0), {}
    held = [cuda.to_device(rng.standard_normal(size).astype(np.float32)) for size in (shape.x_shape, shape.w_shape)]
    out = cuda.device_array(shape.y_shape, np.float32)
    for rung in kernels.SIMULATED_RUNGS:
        launches = kernels.launches("conv2d", shape, (held[0], held[1], out), rung=rung)
        taken[rung] = median(_seconds(launches) for _ in range(repeats + 1))  # the first one compiles
    return taken


def _seconds(launches: list[kernels.Launch]) -> float:
    start, end = cuda.event(), cuda.event()
    start.record()
    for launch in launches:
        launch.run()
    end.record()
    end.synchronize()
    return float(cuda.event_elapsed_time(start, end)) / 1e3


# --- pictures -------------------------------------------------------------------------------------
def draw_roofline(card: Card) -> Figure:
    """The two limits of a card, and the best place of each rung under them."""
    fig = Figure(figsize=(9, 4.4), layout="constrained")
    ax = fig.subplots()
    x = np.geomspace(0.1, 200, 200)
    ax.plot(x, np.minimum(card.peak, card.bandwidth * x), color=plots.INK, linewidth=2.5)
    ax.axvline(card.ridge, color="#999999", linestyle=":", linewidth=1.5)
    ax.text(card.ridge * 1.08, 0.35, "ridge", fontsize=12, color="#555555")
    for (rung, value), marker in zip(intensities().items(), "osD^", strict=True):
        best = min(card.peak, card.bandwidth * value)
        ax.plot(value, best, marker, markersize=13, color=plots.RED, markeredgecolor="black")
        left = marker == "D"  # on its right is the ridge
        ax.annotate(
            rung, (value, best), (-12, 0) if left else (8, -20), textcoords="offset points", fontsize=13,
            ha="right" if left else "left",
        )  # fmt: skip
    ax.text(0.12, 1.0, "limited by memory", rotation=32, fontsize=12)
    ax.text(24, card.peak * 1.4, "limited by arithmetic", fontsize=12)
    ax.set(xscale="log", yscale="log", ylim=(0.25, 200))
    ax.set_xlabel("operations per byte of global memory", fontsize=13)
    ax.set_ylabel("TFLOP/s at best", fontsize=13)
    ax.tick_params(labelsize=12)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    ax.set_title(f"{card.name}: {card.peak:g} TFLOP/s float32, {card.bandwidth:g} TB/s", fontsize=13)
    ax.grid(color="#DDDDDD")
    return fig


def draw_thread_tile(tm: int, tn: int) -> Figure:
    """The results of a thread, and what it reads for one term."""
    fig, ax = plots.canvas(tn + 11, tm + 3.2)
    left, top = 3.2, 2.4
    for i in range(tm):
        for j in range(tn):
            ax.add_patch(Rectangle((left + j, top + i), 1, 1, facecolor="#9CCBE8", edgecolor="white"))
    for k in range(tm):
        ax.add_patch(Rectangle((left - 1.6, top + k), 1, 1, facecolor="#FBDFA3", edgecolor="white"))
    for k in range(tn):
        ax.add_patch(Rectangle((left + k, top - 1.6), 1, 1, facecolor="#FBDFA3", edgecolor="white"))
    plots.write(ax, left - 2.1, top + tm / 2, "a", 17, weight="bold")
    plots.write(ax, left + tn / 2, 0.4, "b", 17, weight="bold")
    plots.write(ax, left + tn / 2, top + tm / 2, "acc[i, j] += a[i] * b[j]", 14)
    text = f"one term of the sum:\n\n{tm} + {tn} numbers read\n\n"
    plots.write(ax, left + tn + 0.8, top + tm / 2, text + f"{tm * tn} multiply-adds", 14, ha="left")
    return fig


def draw_tile(tile_of_a_thread: str) -> tuple[Figure, str]:
    """What a block of 16 x 16 threads gains and needs if each makes a tile of results; the tile is one of `TILE_SIDES`.

    Raises
    ------
    ValueError
        For a tile that does not fit in the registers of a thread.
    """
    side, card = TILE_SIDES[tile_of_a_thread], CARDS["H100"]
    rows = 16 * side
    intensity = 2 * rows * rows / (2 * rows * BYTES)
    products = side * side / (2 * side / (4 if side % 4 == 0 else 1))
    registers, shared = side * side + 2 * side, 2 * BK * 2 * rows * BYTES
    if registers > MOST_REGISTERS:
        raise ValueError(f"{side * side} sums and {2 * side} operands are more than the {MOST_REGISTERS} registers")
    blocks = min(limits(card, registers, shared, 256).values())
    fig = Figure(figsize=(9, 4.8), layout="constrained")
    ax = fig.subplots()
    gauges = (
        ("operations per byte\nof global memory", intensity, 60.0, card.ridge, "ridge of an H100"),
        ("multiply-adds for each\nload from shared memory", products, 30.0, None, ""),
        ("registers for sums\nand operands", registers, 300.0, MOST_REGISTERS, "most that a thread has"),
        ("KiB of shared memory,\ntwo buffers", shared / 1024, 270.0, card.shared / 1024, "all of a multiprocessor"),
        ("most blocks on a\nmultiprocessor", blocks, 10.0, None, ""),
    )
    for y, (_, value, full, limit, name) in enumerate(gauges):
        ax.barh(y, value / full, height=0.55, color=plots.BLUE)
        ax.text(value / full + 0.01, y, f"{value:.3g}", va="center", fontsize=14, weight="bold")
        if limit:
            ax.plot([limit / full] * 2, [y - 0.42, y + 0.42], color=plots.RED, linewidth=2.5)
            ax.text(limit / full + 0.01, y - 0.36, name, va="center", fontsize=11, color=plots.RED)
    ax.set_yticks(range(len(gauges)), [gauge[0] for gauge in gauges], fontsize=13)
    ax.set(xlim=(0, 1.28), xticks=())
    ax.invert_yaxis()
    ax.spines[["top", "right", "bottom"]].set_visible(False)
    ax.set_title(f"{tile_of_a_thread} results a thread, {rows} x {rows} a block", fontsize=14, weight="bold")
    said = "; ".join(f"{' '.join(name.split())} {value:.3g}" for name, value, *_ in gauges)
    return fig, f"{tile_of_a_thread} results in a thread: {said}."


def draw_pipeline(load: int, multiply: int, chunks: int) -> Figure:
    """Loading and multiplying with one buffer and with two, chunk by chunk, with their waits."""
    step = max(load, multiply)
    one = [(k * (load + multiply), load, k, 0) for k in range(chunks)]
    one += [(k * (load + multiply) + load, multiply, k, 1) for k in range(chunks)]
    starts = [0] + [load + (k - 1) * step for k in range(1, chunks)]
    two = [(start, load, k, 0) for k, start in enumerate(starts)]
    two += [(load + k * step, multiply, k, 1) for k in range(chunks)]
    fig, ax = plots.canvas(chunks * (load + multiply) * 0.6 + 4.4, 8.8)
    for bars, top, title in ((one, 1.2, "one buffer"), (two, 5.2, "two buffers")):
        plots.write(ax, 0.2, top - 0.6, title, 16, weight="bold", ha="left")
        for start, length, k, row in bars:
            style = WORK["multiply-add" if row else "global memory"]
            corner = 3.2 + start * 0.6, top + row * 1.1
            ax.add_patch(Rectangle(corner, length * 0.6, 1, **style))
            text = dict(color="white" if row else plots.INK, backgroundcolor=style["facecolor"])
            plots.write(ax, corner[0] + length * 0.3, corner[1] + 0.5, str(k), 13, **text)
        for row, name in enumerate(("load", "multiply")):
            plots.write(ax, 3.0, top + row * 1.1 + 0.5, name, 13, ha="right")
        end = max(start + length for start, length, _, _ in bars)
        plots.write(ax, 3.2 + end * 0.6, top + 2.5, f"done at {end}", 13, ha="right")
    return fig


def draw_mix(codes: list[Code]) -> Figure:
    """Purposes of the instructions of the inner loops."""
    fig = Figure(figsize=(9.5, 3.6), layout="constrained")
    ax = fig.subplots()
    for y, code in enumerate(codes):
        found, left = kinds(code.mix), 0.0
        for kind, style in WORK.items():
            share = 100 * found[kind] / sum(found.values())
            ax.barh(y, share, left=left, height=0.65, label=kind if y == 0 else None, **style)
            left += share
        share = found["multiply-add"] / sum(found.values())
        ax.text(101, y, f"{share:.0%} multiply-adds", va="center", fontsize=12)
    ax.set_yticks(range(len(codes)), [code.rung.split(",")[0] for code in codes], fontsize=12)
    ax.set(xlim=(0, 128), xticks=(0, 25, 50, 75, 100))
    ax.set_xlabel("instructions of the inner loop (%)", fontsize=12)
    ax.invert_yaxis()
    ax.spines[["top", "right"]].set_visible(False)
    fig.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=11)
    return fig


def mix_in_words(codes: list[Code]) -> str:
    """What the picture of the instructions shows."""
    shares = (f"{code.rung} {kinds(code.mix)['multiply-add'] / sum(code.mix.values()):.0%}" for code in codes)
    return f"A bar for each rung, with the share of multiply-adds in its inner loop: {', '.join(shares)}."


def draw_occupancy(codes: list[Code], card: Card) -> Figure:
    """Occupancy beside the share of multiply-adds, by rung."""
    fig = Figure(figsize=(9, 3.6), layout="constrained")
    ax = fig.subplots()
    busy = [100 * occupancy(card, code.registers, code.shared, code.threads)[0] for code in codes]
    useful = [100 * kinds(code.mix)["multiply-add"] / sum(code.mix.values()) for code in codes]
    places = np.arange(len(codes))
    for offset, values, style, label in (
        (-0.2, busy, WORK["addresses, tests, the loop"], "occupancy"),
        (0.2, useful, WORK["multiply-add"], "multiply-adds among the instructions"),
    ):
        bars = ax.bar(places + offset, values, width=0.38, label=label, **style)
        ax.bar_label(bars, fmt="%.0f", fontsize=12)
    ax.set_xticks(places, [code.rung.split(",")[0] for code in codes], fontsize=12)
    ax.set(ylim=(0, 105), ylabel="%")
    ax.spines[["top", "right"]].set_visible(False)
    fig.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=12)
    return fig


# --- exercises ------------------------------------------------------------------------------------
def multiply_adds_per_load(answer: Any) -> str:
    mistakes = {
        "That is for each number. Four numbers travel in one load.": lambda tm, tn: tm * tn / (tm + tn),
        "These are the multiply-adds. Divide by the loads: tm / 4 for a, and tn / 4 for b.": lambda tm, tn: tm * tn,
        "That is loads for each multiply-add. Turn it over.": lambda tm, tn: (tm + tn) / (4 * tm * tn),
        "These are the loads. How many multiply-adds are there for each of them?": lambda tm, tn: (tm + tn) / 4,
        "That is 16 for every tile. The loads are added, tm / 4 + tn / 4; multiplied, they would always give 16.": (
            lambda tm, tn: 16
        ),
        "Four numbers travel in one load: that is fewer loads, so more multiply-adds for each.": lambda tm, tn: (
            tm * tn / (tm + tn) / 4
        ),
        "These are the loads of a alone. The numbers of b have to be loaded, too.": lambda tm, tn: 4 * tn,
        "These are the loads of b alone. The numbers of a have to be loaded, too.": lambda tm, tn: 4 * tm,
        "That is twice as many: a multiply-add counts once, and a load brings four numbers.": lambda tm, tn: (
            8 * tm * tn / (tm + tn)
        ),
    }
    agree(
        answer, lambda tm, tn: 4 * tm * tn / (tm + tn), [(4, 4), (8, 4), (8, 8), (16, 8)], mistakes,
        "There are tm * tn multiply-adds, and tm + tn numbers, four in a load.",
    )  # fmt: skip
    return (
        "8x8 gives 16, 4x4 only 8. Larger would be better still, but 16x16 results do not fit in the registers of "
        "a thread."
    )


def time_with_two_buffers(answer: Any) -> str:
    mistakes = {
        "That is the upper line, where load and multiply take turns.": lambda chunks, load, multiply: (
            chunks * (load + multiply)
        ),
        "Nearly: before the first chunk nothing can be multiplied, and after the last nothing is loaded.": (
            lambda chunks, load, multiply: chunks * max(load, multiply)
        ),
        "Right while multiplying takes longer. If loading does, who waits for whom?": lambda chunks, load, multiply: (
            load + chunks * multiply
        ),
        "Right while loading takes longer. If multiplying does, who waits for whom?": lambda chunks, load, multiply: (
            chunks * load + multiply
        ),
        "The last multiplication is missing.": lambda chunks, load, multiply: load + (chunks - 1) * max(load, multiply),
        "The first load is missing.": lambda chunks, load, multiply: (chunks - 1) * max(load, multiply) + multiply,
        "One step too many: the first load and the last multiplication are steps of their own.": (
            lambda chunks, load, multiply: load + chunks * max(load, multiply) + multiply
        ),
        "Right while multiplying takes longer. If loading does, how much is left after the last load?": (
            lambda chunks, load, multiply: load + chunks * max(load, multiply)
        ),
        "Each step takes as long as the slower of the two, max(load, multiply). In yours it is the faster one.": (
            lambda chunks, load, multiply: load + (chunks - 1) * min(load, multiply) + multiply
        ),
    }
    agree(
        answer, lambda chunks, load, multiply: load + (chunks - 1) * max(load, multiply) + multiply,
        [(4, 3, 4), (4, 5, 2), (1, 3, 4), (10, 1, 1)], mistakes, "Follow the lower line of the picture step by step.",
    )  # fmt: skip
    return "For a long sum it is chunks * max(load, multiply): the shorter of the two is free."


def blocks_by_registers(answer: Any) -> str:
    def whole_warps(registers: int, threads: int, in_quarters: bool = True, rounded: bool = True) -> int:
        of_a_thread = -(-registers // 8) * 8 if rounded else registers
        warps = 4 * (16384 // (32 * of_a_thread)) if in_quarters else 65536 // (32 * of_a_thread)
        return warps // (threads // 32)

    mistakes = {
        "Round the registers of a thread up to a multiple of 8, and count whole warps of a quarter.": (
            lambda registers, threads: 65536 // (registers * threads)
        ),
        "Round the registers of a thread up to a multiple of 8.": lambda registers, threads: whole_warps(
            registers, threads, rounded=False
        ),
        "Registers are rounded up, not down.": lambda registers, threads: (
            4 * (16384 // (32 * (registers // 8 * 8))) // (threads // 32)
        ),
        "A warp takes its registers from one quarter: count whole warps of a quarter.": lambda registers, threads: (
            whole_warps(registers, threads, in_quarters=False)
        ),
        "These are warps. How many warps has a block?": lambda registers, threads: (
            4 * (16384 // (32 * (-(-registers // 8) * 8)))
        ),
        "These are the blocks of one quarter. A multiprocessor has four.": lambda registers, threads: (
            16384 // (32 * (-(-registers // 8) * 8)) // (threads // 32)
        ),
        "That is too many blocks: what does not fit as a whole is not there. Round down.": lambda registers, threads: (
            -(-4 * (16384 // (32 * (-(-registers // 8) * 8))) // (threads // 32))
        ),
        "Registers are rounded up to a multiple of 8, not of 4.": lambda registers, threads: (
            4 * (16384 // (32 * (-(-registers // 4) * 4))) // (threads // 32)
        ),
        "Blocks are whole: divide with //.": lambda registers, threads: (
            4 * (16384 // (32 * (-(-registers // 8) * 8))) / (threads / 32)
        ),
        "These are threads. How many threads has a block?": lambda registers, threads: (
            4 * 32 * (16384 // (32 * (-(-registers // 8) * 8)))
        ),
    }
    agree(
        answer, lambda registers, threads: limits(CARDS["H100"], registers, 0, threads)["registers"],
        [(128, 256), (70, 128), (40, 128), (38, 64), (255, 256), (128, 160), (70, 192), (84, 128)], mistakes,
        "How many warps fit in a quarter? Four times that, divided by the warps of a block.",
    )  # fmt: skip
    return "With 128 registers and 256 threads two blocks fit. With 129 it would be one: a cliff, and not a slope."


def my_product(answer: Any) -> str:
    cases = [_product_of(*sizes) for sizes in SIZES]
    sums_of_products(answer, cases, ("a", "b", "c"))
    for case, (rows, terms, columns) in zip(cases, SIZES, strict=True):
        notes, _ = spy(answer, case, case.sizes, "abc")
        loads = sum(count for (_, element), count in notes.reads.items() if element.array in ("a", "b"))
        tiles, threads = -(-rows // 2) * -(-columns // 2), case.grid[0] * case.grid[1] * SIDE * SIDE
        enough = 4 * terms * tiles
        if loads == 4 * terms * threads > enough:
            raise Wrong(
                f"The results are right. But of {threads} threads {threads - tiles} have no tile: they should stop, "
                "and not make results of others once more."
            )
        if loads > enough:
            raise Wrong(
                f"The results are right. But for a {rows}x{terms} by {terms}x{columns} product you read {loads} "
                f"numbers, and {enough} are enough: keep the four numbers of a term in variables, and use each twice."
            )
        _own_tiles(notes, case)
    return "Odd sizes too. Each number that you read is used twice; with 8x8 results in a thread it would be 8 times."


def _own_tiles(notes: Notes, case: Case) -> None:
    """Raise `Wrong` if a thread makes results of another tile, or keeps its sums in memory."""
    if max(Counter(notes.writes).values()) > 4:  # a thread at the corner may write one result four times
        raise Wrong(
            "The results are right. But the sums lie in c, in global memory: keep the four of them in variables."
        )
    columns = case.sizes[2][1]
    for (block, thread), place in notes.writes:
        own = tuple(b * SIDE + t for b, t in zip(block[:2], thread[:2], strict=True))
        row, column = divmod(place, columns)
        if (row // 2, column // 2) != own:
            raise Wrong(
                f"The results are right. But thread {own} of the grid makes c[{row}, {column}], and its rows are "
                f"{2 * own[0]} and {2 * own[0] + 1}, its columns {2 * own[1]} and {2 * own[1] + 1}."
            )


def _product_of(rows: int, terms: int, columns: int) -> Case:
    """The product of two matrices, and what it is with a mistake."""

    def made(k: range, left: Any = None, right: Any = None) -> Terms:
        left, right = left or (lambda row, k: (row, k)), right or (lambda k, column: (k, column))
        return {
            (row, column): frozenset((left(row, one), right(one, column)) for one in k)
            for row in range(rows)
            for column in range(columns)
        }

    every = made(range(terms))
    mistakes = [
        ("Every sum lacks its last term: the end of a range() is not in it.", made(range(terms - 1))),
        ("Every sum lacks its first term.", made(range(1, terms))),
        ("All rows of the result are those of row 0 of a.", made(range(terms), lambda row, k: (0, k))),
        ("All columns of the result are those of column 0 of b.", made(range(terms), None, lambda k, column: (k, 0))),
        (
            "Row 2i + 1 of a thread holds the sums of row 2i.",
            made(range(terms), lambda row, k: (row // 2 * 2, k)),
        ),
        (
            "Column 2j + 1 of a thread holds the sums of column 2j.",
            made(range(terms), None, lambda k, column: (k, column // 2 * 2)),
        ),
        *one_of_each(every),
    ]
    grid = (-(-rows // (2 * SIDE)), -(-columns // (2 * SIDE)))
    where = f"a of {rows} x {terms}, b of {terms} x {columns}, blocks of {SIDE} x {SIDE} threads"
    return Case(where, ((rows, terms), (terms, columns), (rows, columns)), (), grid, (SIDE, SIDE), every, mistakes)


EXERCISES: dict[str, Callable[[Any], str]] = {
    "06.1": multiply_adds_per_load,
    "06.2": time_with_two_buffers,
    "06.3": blocks_by_registers,
    "06.4": my_product,
}
LOOKS = {
    "06.4": Subject(
        tiny=_product_of(4, 3, 6),
        regular=None,
        large=_product_of(32, 32, 32)._replace(grid=(2, 2), block=(8, 8)),
        layer=ConvShape(n=32, ih=1, iw=1, ic=32, oc=32, fh=1, fw=1),  # a product of matrices of 32 x 32
        operator="conv2d",
        names=("a", "b", "c"),
        at=(0, 0),
    ),
}
HINTS = {
    "06.1": (
        "Count for one term of the sum: all multiply-adds of the thread, and all its loads.",
        "tm * tn multiply-adds. tm numbers of a and tn numbers of b, four in a load.",
        "tm * tn / (tm / 4 + tn / 4).",
    ),
    "06.2": (
        "What happens at the same time, and what happens alone? Look at the two ends of the lower line.",
        "The first load and the last multiplication are alone. In between, each step takes as long as the slower one.",
        "load + (chunks - 1) * max(load, multiply) + multiply.",
    ),
    "06.3": (
        "Four steps: round the registers up, count warps of a quarter, take four quarters, divide by the warps of "
        "a block.",
        "-(-registers // 8) * 8 rounds up. A warp needs 32 times that, and a quarter has 16384.",
        "4 * (16384 // (32 * rounded)) // (threads // 32).",
    ),
    "06.4": (
        "Four sums in four variables. For each term read two numbers of a and two of b, and multiply all four pairs.",
        "i, j = cuda.grid(2); row = 2*i, column = 2*j. A thread without a result stops. below = min(row + 1, last "
        "row), and "
        "right = min(column + 1, last column).",
        "In the loop over k: a0, a1 = a[row, k], a[below, k]; b0, b1 = b[k, column], b[k, right]; four sums. "
        "After it write c[row, column], c[row, right], c[below, column], c[below, right]: where below is row, both are "
        "the same sum.",
    ),
}


# --- predictions ----------------------------------------------------------------------------------
LESS, AS_MUCH, MORE = "less than 4 times as long", "about 8 times as long", "more than 8 times as long"
TENTH, QUARTER, HALF = "less than a tenth", "about a quarter", "about a half"


def of_eight_images() -> str:
    """How much longer eight images take than one, on one core of this CPU."""
    times = this_cpu.measure_roof(images=(1, 8), rounds=3).layers[8][2]
    return LESS if times < 4 else AS_MUCH if times < 10 else MORE


def most_loads() -> str:
    """The rung with the most load instructions for a multiply-add."""
    return max(ladder.count_rungs(), key=lambda work: work.loads).rung


def share_of_multiply_adds(rung: str = "skip_zeros") -> str:
    """How much of the inner loop of a rung is multiply-adds; the least where there is no machine code to count in."""
    codes = {code.rung: code for code in machine_code.compiled("conv2d")[0]}
    share = kinds(codes[rung].mix)["multiply-add"] / sum(codes[rung].mix.values()) if rung in codes else 0.0
    return TENTH if share < 0.1 else QUARTER if share < 0.375 else HALF


def redundancy_of_gradient() -> float:
    """How many times the useful multiply-adds the regular way does for the input gradient of a dy of 2 x 2."""
    count = flops.count("conv2d_input", this_cpu.layer("conv2d_input", 2, 1))
    return count.regular / count.useful


PREDICTIONS: dict[str, Prediction] = {
    "06.a": guesses.Number(
        lambda: intensities()[f"register_tile {register_tile.BM}x{register_tile.BN}"],
        "It is {answer:g}: 2 * 64 * 64 operations for (64 + 64) * 4 bytes.",
        low="Count for one term of the sum: 2 * 64 * 64 operations, and 64 + 64 numbers of 4 bytes.",
        high="Count for one term of the sum: 2 * 64 * 64 operations, and 64 + 64 numbers of 4 bytes.",
        thoughts={
            8: "You have counted a multiply-add as one operation. It is two, a product and a sum.",
            32: "These are multiply-adds for each number. But a multiply-add is two operations, and a number 4 bytes.",
            64: "These are operations for each number. A number has 4 bytes.",
            2: "That is shared, with tiles of 8 x 8.",
        },
        near=2,
    ),
    "06.b": Choice(
        (LESS, AS_MUCH, MORE),
        of_eight_images,
        "Measured just now: {answer}. For one image or for eight, all weights have to come from memory once, and that "
        "takes most of the time. It is the same in kernels: the more results share a number, the better.",
        {
            LESS: "That is what the roof says. But on this computer something else takes the time.",
            AS_MUCH: "That would be so if arithmetic took the time. But what has to come from memory, and how often?",
            MORE: "Eight images need the same weights as one. They come from memory only once.",
        },
    ),
    "06.c": Choice(
        kernels.SIMULATED_RUNGS,
        most_loads,
        "It is {answer}. Shared memory is nearer, but a thread that makes one result still loads two numbers for each "
        "multiply-add. It loads the tiles besides, and asks the table where its positions are.",
        {
            "with_zeros": "It loads two numbers for each multiply-add, also where one is a zero. Others load more.",
            "skip_zeros": "It loads two numbers for each multiply-add, and nothing else. Others load more.",
            "shared": "Nearly. It loads two numbers for each multiply-add from shared memory, and the tiles besides. "
            "Which rung does all that, and reads a table?",
            "grouped": "It reads a table, too, but others load more.",
            "register_tile": "It keeps numbers in registers, and uses each of them 8 times.",
            "tiled": "It keeps numbers in registers, and each load brings four of them.",
        },
    ),
    "06.d": Choice(
        (TENTH, QUARTER, HALF),
        share_of_multiply_adds,
        "It is {answer}. For each multiply-add, a thread of the simple rungs finds out where two numbers are: twenty "
        "to forty instructions.",
        {
            TENTH: "There are more than you think.",
            QUARTER: "That would be two loads, a multiply-add, and one step of the loop. But where are the numbers? An "
            "index of four axes has to become an address.",
            HALF: "Two numbers have to be loaded for each multiply-add, and each of them has an address.",
        },
    ),
    "06.e": guesses.Number(
        redundancy_of_gradient,
        "It is {answer:g}: along each axis 12 products instead of 5.",
        low="Zeros between the elements cost a factor of 2 along each axis, and padding comes on top.",
        high="Count along one axis: 4 elements of dx with 3 taps each. How many of these 12 meet an element of dy?",
        thoughts={
            2: "That is the zeros between the elements along one axis. There are two axes, and padding.",
            2.25: "That is padding alone, as in conv2d. Here, zeros stand between the elements as well.",
            2.4: "That is right along one axis. There are two of them.",
            4: "That is the zeros between the elements. Padding comes on top.",
            9: "That is 4 * 2.25. But around a larger map with zeros inside, padding costs less.",
        },
        within=0.05,
        near=0.5,
    ),
}
