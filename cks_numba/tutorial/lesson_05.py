"""Pictures and exercises of 05_from_steps_to_kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import product
from math import prod
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .. import flops, kernels, plots, trace
from ..geometry import Axis, ConvShape
from ..kernels import conv_v2
from ..plots.cells import LETTER_COLOURS
from .answers import Wrong, agree, shown, whole
from .diffs import changed
from .guesses import Number, Prediction
from .own_kernel import Subject, spy
from .trying import Case, Terms, Triple, mistaken, one_of_each, sums_of_products, triples

RESULTS, THREADS = 8 * 7 * 7 * 20, 128  # exercise 05.1: number of results, threads of a block
SHAPES = (  # exercise 05.4: ih, iw, fh, fw, stride, padding
    (4, 4, 3, 3, 1, 1),
    (5, 3, 3, 3, 1, 1),
    (5, 4, 3, 2, 2, 1),
    (2, 2, 4, 4, 1, 2),
)

SMALL = ConvShape(n=1, ih=4, iw=4, ic=2, oc=2, fh=3, fw=3, padding=1)
"""The layer on which the rungs are compared."""
ONE_IMAGE = ConvShape(n=1, ih=16, iw=16, ic=8, oc=8, fh=3, fw=3, padding=1)
"""A layer with too few images for `shared`."""


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
    text = "products by an added zero, for each result and pair of channels"
    plots.write(ax, ax.get_xlim()[1] / 2, rows + 2.0, text, 14)
    return fig


def draw_shares(sizes: tuple[int, ...]) -> Figure:
    """Percentage of products by an added zero on maps of these sizes, counted in the first two rungs of conv2d."""
    layers = [ConvShape(n=1, ih=s, iw=s, ic=1, oc=1, fh=3, fw=3, padding=1) for s in sizes]
    fig = Figure(figsize=(8, 4), layout="constrained")
    ax = fig.subplots()
    for rung, style, colour in (("with_zeros", "o-", plots.RED), ("skip_zeros", "s-", plots.BLUE)):
        counts = [trace.count("conv2d", layer, rung) for layer in layers]
        shares = [100 * count.by_zero / count.total for count in counts]
        ax.plot(sizes, shares, style, color=colour, linewidth=2, label=rung)
    ax.set(ylim=(-3, 60))
    ax.set_xlabel("rows and columns of the map; 3x3 filter, padding 1", fontsize=13)
    ax.set_ylabel("products by an added zero (%)", fontsize=13)
    ax.tick_params(labelsize=12)
    ax.grid(color="#DDDDDD")
    ax.legend(frameon=False, fontsize=13)
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
    if not isinstance(answer, (tuple, list, np.ndarray)) or len(answer) != 2:
        raise Wrong(f"Answer with a pair: (blocks, idle threads). Yours is {shown(answer)}.")
    got = whole(answer[0]), whole(answer[1])
    if got == (blocks, left):
        return (
            f"{RESULTS} results, {blocks} blocks, {blocks * THREADS} threads. Without the test at the top of the "
            f"kernel, {left} threads would write where nothing is."
        )
    if got == (left, blocks):
        raise Wrong("These are the right numbers, but the blocks come first.")
    if got[0] == RESULTS // THREADS:
        made = got[0] * THREADS
        raise Wrong(f"{got[0]} blocks have {made} threads, so {RESULTS - made} results would never be made. Round up.")
    if got[0] == blocks and got[1] == THREADS - left:
        raise Wrong(f"{blocks} blocks are right. But {got[1]} threads of the last one have work. How many have none?")
    if got[0] == blocks:
        raise Wrong(
            f"{blocks} blocks are right. They have {blocks * THREADS} threads for {RESULTS} results: how many "
            "threads have "
            f"none? Not {got[1]}."
        )
    raise Wrong(
        f"{got[0]} blocks are not what is needed. How many results are there in all? Multiply the four sizes, then "
        "divide "
        "by 128 and round up."
    )


def wrong_outputs(answer: Any) -> str:
    expected = {(oh, ow) for oh in range(4) for ow in range(4) if oh == 0 or ow == 0}
    if isinstance(answer, np.ndarray) and answer.dtype == bool and answer.shape == (4, 4):
        answer = np.argwhere(answer)
    if isinstance(answer, tuple) and len(answer) == 2 and all(isinstance(part, np.ndarray) for part in answer):
        answer = np.transpose(answer)  # rows and columns, as np.nonzero gives them
    try:
        got = {(int(oh), int(ow)) for oh, ow in answer}
    except (TypeError, ValueError):
        raise Wrong(f"Answer with a set of pairs, such as {{(0, 0), (1, 2)}}. Yours is {shown(answer)}.") from None
    if got == expected:
        return (
            "The first row and the first column: there the window begins at -1, which Numba takes for the last row or "
            "column. If those hold zeros, the wrong sum is right: such a test would have passed."
        )
    if outside := sorted(pair for pair in got if not (0 <= pair[0] < 4 and 0 <= pair[1] < 4)):
        raise Wrong(f"There is no output {outside[0]}: rows and columns go from 0 to 3.")
    if got == {(oh, ow) for oh in range(4) for ow in range(4)} - expected:
        raise Wrong("These are the right ones. Which are wrong?")
    if extra := sorted(got - expected):
        raise Wrong(f"Output {extra[0]} is right: small_y and right hold the same number there.")
    missing = sorted(expected - got)
    tap = f"rows from {missing[0][0] - 1} and columns from {missing[0][1] - 1}"
    raise Wrong(f"Not all: output {missing[0]} is wrong too. It reads {tap}. Compare small_y and right.")


def loads_per_multiply_add(answer: Any) -> str:
    mistakes = {
        "There are two tiles to be loaded, one of x and one of w.": lambda tile: 1 / tile,
        "That is multiply-adds for each load. Turn it over.": lambda tile: tile / 2,
        "These are the loads of the block. How many multiply-adds do its threads do with them?": lambda tile: (
            2 * tile * tile
        ),
        "These are the multiply-adds of the block. How many loads are there for each of them?": lambda tile: tile**3,
        "That is without a tile, where each thread loads both of its factors itself.": lambda tile: 2,
        "Each thread loads one element of each tile: that is 2. What do you divide it by?": lambda tile: 2 / tile**2,
        "You divide by the threads of the block. Each of them does `tile` multiply-adds.": lambda tile: 2 * tile,
        "That is multiply-adds for each load, and of one tile only.": lambda tile: tile,
    }
    agree(
        answer, lambda tile: 2 / tile, [(1,), (2,), (8,), (16,)], mistakes,
        "The block loads 2 * tile * tile elements, and tile * tile threads then do `tile` multiply-adds each.",
    )  # fmt: skip
    return (
        "2 / tile: an 8x8 tile needs a quarter of a load for each multiply-add. Larger tiles would need fewer "
        "still, but a thread for each result would then be too many threads; lesson 06 gives each of them more."
    )


def my_convolution(answer: Any) -> str:
    cases = [_image(*sizes) for sizes in SHAPES]
    sums_of_products(answer, cases, ("x", "w", "y"), "padding would add")
    for case in cases:
        _brings_the_filter_once(answer, case)
    return (
        "Each block has fetched the filter once. Threads without a result have helped before they stopped, and "
        "nothing that padding would have added was multiplied."
    )


def _brings_the_filter_once(kernel: Any, case: Case) -> None:
    """Raise `Wrong` if the blocks read the filter more than once, or if one thread of a block brings all of it."""
    notes, _ = spy(kernel, case, case.sizes, "xwy")
    readers = Counter({key: count for key, count in notes.reads.items() if key[1].array == "w"})
    found, taps = sum(readers.values()), prod(case.sizes[1])
    if found > (enough := case.grid * taps):
        raise Wrong(
            f"Launched with {case.where}:\nThe results are right. But the threads read w {found} times, and {enough} "
            f"are enough: each of the {case.grid} blocks brings the {taps} taps into shared memory once, and its "
            "threads take them from there."
        )
    if len({who for who, _ in readers}) <= case.grid:
        raise Wrong(
            "The results are right. But one thread brings the whole filter, and the others wait for it: thread t takes "
            "the taps t, t + cuda.blockDim.x, and so on."
        )


def _image(ih: int, iw: int, fh: int, fw: int, stride: int, padding: int) -> Case:
    rows, columns = (Axis(size, taps, stride, padding, padding, 1) for size, taps in ((ih, fh), (iw, fw)))
    made = rows.outputs, columns.outputs
    where = f"stride={stride}, padding={padding}, x of {ih} x {iw}, w of {fh} x {fw}, y of {made[0]} x {made[1]}"
    right = triples(rows), triples(columns)
    terms = _terms(*right)
    mistakes = []
    for (text, down), (_, across) in zip(mistaken(rows), mistaken(columns), strict=True):
        mistakes.append((text, _terms(down, across)))
        mistakes.append((f"In the rows: {text}", _terms(down, right[1])))
        mistakes.append((f"In the columns: {text}", _terms(right[0], across)))
    mistakes.append((
        "The rows and the columns of the filter have changed places: tap k is w[k // w.shape[1], k % w.shape[1]].",
        {index: frozenset((k, divmod(j[1] * fw + j[0], fw)) for k, j in pairs) for index, pairs in terms.items()},
    ))  # fmt: skip
    mistakes += one_of_each(terms)
    grid = made[0] * made[1] // 3 + 1
    return Case(where, ((ih, iw), (fh, fw), made), (stride, padding), grid, 3, terms, mistakes)


def _terms(rows: list[Triple], columns: list[Triple]) -> Terms:
    """The products of an image, from the triples of its rows and of its columns."""
    terms: dict[Any, set[Any]] = {}
    for (ih, fh, oh), (iw, fw, ow) in product(rows, columns):
        terms.setdefault((oh, ow), set()).add(((ih, iw), (fh, fw)))
    return {index: frozenset(pairs) for index, pairs in terms.items()}


EXERCISES: dict[str, Callable[[Any], str]] = {
    "05.1": blocks_and_idle,
    "05.2": wrong_outputs,
    "05.3": loads_per_multiply_add,
    "05.4": my_convolution,
}
LOOKS = {
    "05.4": Subject(
        tiny=_image(4, 4, 3, 3, 1, 1)._replace(grid=3, block=6),
        regular=ConvShape(n=1, ih=4, iw=4, ic=1, oc=1, fh=3, fw=3, padding=1),
        large=_image(16, 16, 3, 3, 1, 1)._replace(grid=4, block=64),
        layer=ConvShape(n=8, ih=16, iw=16, ic=8, oc=8, fh=3, fw=3, padding=1),
        operator="conv2d",
        names=("x", "w", "y"),
        at=(0, 0),
    ),
}
HINTS = {
    "05.1": (
        "How many results has y? A block makes 128 of them.",
        "8 * 7 * 7 * 20 = 7840 results. 61 blocks make only 7808 of them.",
        "7840 / 128, rounded up, is 62. Their 62 * 128 threads are 7936.",
    ),
    "05.2": (
        "small_y != right says where they differ.",
        "np.argwhere(small_y != right) gives the pairs, as rows of an array.",
        "{(int(oh), int(ow)) for oh, ow in np.argwhere(small_y != right)}.",
    ),
    "05.3": (
        "Count for the whole block: all its loads, and all its multiply-adds.",
        "It loads two tiles of tile * tile elements. tile * tile threads do `tile` multiply-adds each.",
        "2 * tile * tile / (tile * tile * tile).",
    ),
    "05.4": (
        "Two parts with a barrier between them: all threads of the block bring the filter; then each thread makes its "
        "result. Where may a thread without a result stop?",
        "for k in range(cuda.threadIdx.x, w.size, cuda.blockDim.x): taps[k] = w[k // w.shape[1], k % w.shape[1]]. Then "
        "the barrier, and only then: if index >= y.size: return.",
        "oh, ow = index // y.shape[1], index % y.shape[1]. Ask taps_of_output once for the rows and once for the "
        "columns. For each fh and fw: acc += x[oh*stride - padding + fh, ow*stride - padding + fw] * "
        "taps[fh * w.shape[1] + fw]. Then y[oh, ow] = acc.",
    ),
}


# --- predictions ----------------------------------------------------------------------------------
def blocks_of(rung: str) -> int:
    """Blocks that a rung launches for `ONE_IMAGE`."""
    x, w, y = (np.empty(size, np.float32) for _, size in ONE_IMAGE.arrays("conv2d"))
    (launch,) = kernels.launches("conv2d", ONE_IMAGE, (x, w, y), rung=rung)
    return prod(launch.grid)


PREDICTIONS: dict[str, Prediction] = {
    "05.a": Number(
        lambda: changed(conv_v2.with_zeros, conv_v2.skip_zeros)[0],
        "It is {answer}: the signature and its docstring, two lines that trim the window, both loops over taps, the "
        "index into x, and two lines in which xp has become x.",
        low="There are more: the signature and its docstring, the loops over taps, the index into x.",
        high="Fewer: the guard, the four indices, the sum and the loop over channels stay as they are.",
        thoughts={
            0: "Something has to tell the loops where to begin and to end.",
            1: "The index into x changes. But which lines tell the loops where to begin and to end?",
            2: "Two new lines trim the window. But the loops have to use them, and the index subtracts the padding.",
        },
        near=2,
    ),
    "05.b": Number(
        lambda: flops.count("conv2d", SMALL).useful,
        "It is {answer}: 4 corners with 4 taps, 8 edges with 6, and 4 outputs inside with 9, for each of the 2 x 2 "
        "pairs of channels.",
        low="A corner keeps 4 of its 9 taps, an edge 6, and the inside all.",
        high="A corner loses 5 of its 9 taps, and an edge 3.",
        thoughts={
            100: "That is for one pair of channels. There are 2 x 2 of them.",
            44: "That is what one pair of channels wastes. How many are left, for all four pairs?",
            176: "These are the wasted ones. How many are left?",
            576: "Every output at the border has taps that lie on a padded zero.",
            4 * 4 * 9: "These are the four outputs inside alone. The border has useful products, too.",
            16 * 4 * 4: "That is 4 taps for every output. Only corners have so few.",
            16 * 6 * 4: "That is 6 taps for every output. Corners have fewer, and the inside more.",
        },
        near=24,
    ),
    "05.c": Number(
        lambda: blocks_of("grouped"),
        "It is {answer}: 25 for the 196 positions inside, 2 for each of the four edges with 14, and 1 for each corner.",
        low="256 positions fill at least 32 blocks of 8 positions, and two groups never share a block.",
        high="Positions of one group share a block, eight at a time, wherever they lie.",
        thoughts={
            4: "That is 256 / 64. But 64 threads make 8 channels of 8 positions.",
            9: "These are the groups. A block has room for only 8 positions of one.",
            32: "That is 256 / 8, as if groups could share a block. Each begins one of its own.",
            256: "That is a block for each position, as shared launches them.",
        },
        near=4,
    ),
}
