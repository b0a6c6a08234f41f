"""Pictures and exercises of 05_from_steps_to_kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .. import plots, trace
from ..geometry import ConvShape
from ..plots.cells import LETTER_COLOURS
from ..steps import regular
from .answers import Wrong, call
from .trying import compare, run_kernel

RESULTS, THREADS = 8 * 7 * 7 * 20, 128  # exercise 05.1: number of results, threads of a block
SHAPES = (  # exercise 05.4: ih, iw, fh, fw, stride, padding
    (4, 4, 3, 3, 1, 1),
    (5, 3, 3, 3, 1, 1),
    (5, 4, 3, 2, 2, 1),
    (2, 2, 4, 4, 1, 2),
)


# --- pictures -------------------------------------------------------------------------------------
def draw_owners(rows: int, columns: int, threads: int) -> Figure:
    """A map of results, one per thread, in blocks of `threads`; spare threads of the last block stand beside it."""
    results = rows * columns
    blocks = -(-results // threads)
    fig, ax = plots.canvas(columns + 7.5, rows + 1.6)
    for index in range(blocks * threads):
        if index < results:
            x, y = 0.5 + index % columns, 0.5 + index // columns
        else:
            x, y = columns + 1.5 + (index - results), rows - 0.5
        style: dict[str, Any] = dict(facecolor=LETTER_COLOURS[index // threads], edgecolor=plots.INK)
        if index >= results:
            style.update(facecolor="#F2F2F2", hatch="....", edgecolor="#9A9A9A")
        ax.add_patch(Rectangle((x, y), 1, 1, **style))
        label = f"b{index // threads}\nt{index % threads}"
        plots.write(ax, x + 0.5, y + 0.5, label, 12, backgroundcolor="none" if index < results else "#F2F2F2")
    plots.write(ax, columns + 1.5, 1.2, "b: block\nt: thread of the block", 14, ha="left")
    if blocks * threads > results:
        plots.write(ax, columns + 1.5, rows - 1.2, "threads with nothing to do", 14, ha="left")
    return fig


def draw_waste(operator: str, shape: ConvShape, rungs: tuple[str, ...]) -> Figure:
    """Products of each result by an added zero, a map for each rung, counted in its traced kernel."""
    single = plots.single(shape)
    maps = [plots.waste_map(trace.run(operator, single, rung)) for rung in rungs]
    rows, columns = maps[0][0].shape
    fig, ax = plots.canvas(len(maps) * (columns + 2.5) + 0.5, rows + 2.8)
    most = max(int(done.max()) for _, done in maps)
    for k, (rung, (wasted, _)) in enumerate(zip(rungs, maps, strict=True)):
        left = 1.2 + k * (columns + 2.5)
        plots.draw_heat(ax, wasted, wasted / most, left, 1.3)
        plots.write(ax, left + columns / 2, 0.7, rung, 16, weight="bold")
    text = "products by an added zero, for each result"
    plots.write(ax, ax.get_xlim()[1] / 2, rows + 2.0, text, 14)
    return fig


def draw_loads(tile: int, thread: tuple[int, int]) -> Figure:
    """The two shared tiles and the results of a block; what one thread loads, and what it uses."""
    image, channel = thread
    fig, ax = plots.canvas(3 * (tile + 1.5) + 0.5, tile + 3.6)
    parts = (
        ("tile of x", "image", "input channel", image, (image, channel)),
        ("tile of w", "output channel", "input channel", channel, (image, channel)),
        ("results", "image", "output channel", None, (image, channel)),
    )
    for k, (title, down, across, row, own) in enumerate(parts):
        left, top = 1.2 + k * (tile + 1.5), 1.4
        for y in range(tile):
            for x in range(tile):
                colour = "#9CCBE8" if y == row else "white"
                ax.add_patch(Rectangle((left + x, top + y), 1, 1, facecolor=colour, edgecolor="#999999"))
        if row is not None:
            plots.frame(ax, [(row, x) for x in range(tile)], left, top)
        plots.write(ax, left + own[1] + 0.5, top + own[0] + 0.5, "T", 15, weight="bold", color=plots.RED)
        plots.write(ax, left + tile / 2, 0.7, title, 16, weight="bold")
        plots.write(ax, left + tile / 2, top + tile + 0.5, across, 13)
        plots.write(ax, left - 0.4, top + tile / 2, down, 13, rotation=90)
    text = "T: loaded, or made, by thread (2, 5).   Blue row: read by it, and by seven other threads."
    plots.write(ax, ax.get_xlim()[1] / 2, tile + 2.8, text.replace("(2, 5)", str(thread)), 14)
    return fig


# --- exercises ------------------------------------------------------------------------------------
def blocks_and_idle(answer: Any) -> str:
    blocks, left = -(-RESULTS // THREADS), -RESULTS % THREADS
    try:
        got = tuple(int(number) for number in answer)
    except (TypeError, ValueError):
        raise Wrong("Answer with a pair: (blocks, idle threads).") from None
    if got == (blocks, left):
        return (
            f"{RESULTS} results, {blocks} blocks, {blocks * THREADS} threads. Without the test at the top of the "
            f"kernel, {left} threads would write where nothing is."
        )
    if got[0] == RESULTS // THREADS:
        made = got[0] * THREADS
        raise Wrong(f"{got[0]} blocks have {made} threads, so {RESULTS - made} results would never be made. Round up.")
    if got[0] == blocks:
        raise Wrong(f"{blocks} blocks are right. They have {blocks * THREADS} threads: how many more than results?")
    raise Wrong("How many results are there in all? Multiply the four sizes, then divide by 128 and round up.")


def wrong_outputs(answer: Any) -> str:
    expected = {(oh, ow) for oh in range(4) for ow in range(4) if oh == 0 or ow == 0}
    try:
        got = {(int(oh), int(ow)) for oh, ow in answer}
    except (TypeError, ValueError):
        raise Wrong("Answer with a set of pairs, such as {(0, 0), (1, 2)}.") from None
    if got == expected:
        return (
            "The first row and the first column: there the window begins at -1, which Numba takes for the last row or "
            "column. If those hold zeros, the wrong sum is right: such a test would have passed."
        )
    if got == {(oh, ow) for oh in range(4) for ow in range(4)} - expected:
        raise Wrong("These are the right ones. Which are wrong?")
    if got > expected:
        raise Wrong(f"{sorted(got - expected)[0]} is right: compare small_y and right there.")
    missing = sorted(expected - got)
    raise Wrong(f"Not all, or not these: what does output {missing[0]} read at its first tap? np.argwhere helps.")


def loads_per_multiply_add(answer: Any) -> str:
    values = {tile: float(call(answer, tile)) for tile in (1, 2, 8, 16)}
    if all(np.isclose(value, 2 / tile) for tile, value in values.items()):
        return (
            "2 / tile: an 8x8 tile needs a quarter of a load for each multiply-add. Larger tiles would need fewer "
            "still, but a thread for each result would then be too many threads; lesson 06 gives each of them more."
        )
    if all(np.isclose(value, 1 / tile) for tile, value in values.items()):
        raise Wrong("There are two tiles to be loaded, one of x and one of w.")
    if all(np.isclose(value, tile / 2) for tile, value in values.items()):
        raise Wrong("That is multiply-adds for each load. Turn it over.")
    if all(np.isclose(value, 2 * tile * tile) for tile, value in values.items()):
        raise Wrong("These are the loads of the block. How many multiply-adds do its tile * tile threads do with them?")
    raise Wrong(
        f"For tile = 8 you have {values[8]:g}. The block loads 2 * 8 * 8 elements, and 64 threads then do 8 "
        "multiply-adds each."
    )


def my_convolution(answer: Any) -> str:
    rng = np.random.default_rng(5)
    for ih, iw, fh, fw, stride, padding in SHAPES:
        shape = ConvShape(n=1, ih=ih, iw=iw, ic=1, oc=1, fh=fh, fw=fw, stride=stride, padding=padding)
        x, w = (rng.standard_normal(size).astype(np.float32) for size in ((ih, iw), (fh, fw)))
        y = np.empty((shape.oh, shape.ow), np.float32)
        run_kernel(answer, -(-y.size // 3), 3, (x, w, y, stride, padding), y)
        compare(y, _convolved(x, w, shape), _usual_mistakes(x, w, shape))
    return (
        "All borders, strides and spare threads are right, and you multiplied nothing that padding would have added. "
        "This is the second rung, written by you."
    )


def _convolved(x: Any, w: Any, shape: ConvShape) -> Any:
    return regular.conv2d(x[None, :, :, None], w[None, :, :, None], shape)[0, :, :, 0]


def _usual_mistakes(x: Any, w: Any, shape: ConvShape) -> dict[str, Any]:
    """Results of some kernels that are nearly right, by a hint for each."""
    padding, (sh, sw) = shape.padding[0][0], shape.stride
    wrapped = np.zeros((shape.oh, shape.ow))
    for (oh, ow), (fh, fw) in ((at, tap) for at in np.ndindex(wrapped.shape) for tap in np.ndindex(w.shape)):
        ih, iw = oh * sh - padding + fh, ow * sw - padding + fw
        if ih < x.shape[0] and iw < x.shape[1]:
            wrapped[oh, ow] += x[ih, iw] * w[fh, fw]
    return {
        "At the upper and left border your kernel reads x[-1], which is the last row or column: the window has to "
        "begin at the first tap that lies on x.": wrapped,
        "This is the convolution with the filter turned around: w[fh, fw] belongs to row oh*stride - padding + fh.": (
            _convolved(x, w[::-1, ::-1], shape)
        ),
        "You left out the last row and the last column of the filter: the end of a range() is not in it.": (
            _convolved(x, np.pad(w[:-1, :-1], ((0, 1), (0, 1))), shape)
        ),
    }


EXERCISES: dict[str, Callable[[Any], str]] = {
    "05.1": blocks_and_idle,
    "05.2": wrong_outputs,
    "05.3": loads_per_multiply_add,
    "05.4": my_convolution,
}
