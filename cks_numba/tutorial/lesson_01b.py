"""Pictures and exercises of 01b_first_kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .. import plots
from ..emulator import Result
from ..emulator.faults import quotes
from ..plots.cells import LETTER_COLOURS
from ..trace.machine import Machine
from .answers import Wrong
from .guesses import Choice, Number, Prediction
from .own_kernel import MUCH, Notes, reads, spied, spy, writes
from .small_kernels import down_a_column
from .trying import Filling, fills, no_index_needs_a_test

SIDE = 32
"""Rows and columns of a matrix of which a warp reads a row or a column."""
SECTOR = 8
"""Numbers of four bytes in a sector of 32 bytes."""
LINE_COLOURS = tuple(shade for shade in LETTER_COLOURS if shade != "#FFFFFF")
TURNED = "You write out[column, row]: the row comes first, out[row, column]."
RED_LINE = 3.2
"""Width of the frame around what several threads write, in points."""


# --- pictures -------------------------------------------------------------------------------------
def draw_owners(block: Any, thread: Any) -> Figure:
    """Who made each element: the numbers of the block and of the thread that a kernel has written there.

    Parameters
    ----------
    block, thread : int array (columns,) or (rows, columns)
        With two axes, `thread` has pairs in its last axis.
    """
    block = np.atleast_2d(block)
    thread = np.reshape(thread, (*block.shape, -1))
    rows, columns = block.shape
    fig, ax = plots.canvas(max(columns + 1, 5), rows + 1.2)
    for (row, column), number in np.ndenumerate(block):
        shade = LETTER_COLOURS[number % len(LETTER_COLOURS)]
        ax.add_patch(Rectangle((0.5 + column, 0.3 + row), 1, 1, facecolor=shade, edgecolor=plots.INK))
        text = f"b{number}\nt{','.join(map(str, thread[row, column]))}"
        plots.write(ax, 1 + column, 0.8 + row, text, 12, linespacing=1.0)
    plots.write(ax, 0.5, rows + 0.75, "b: block, t: thread in it", 13, ha="left")
    return fig


def draw_moves(size: int, **kernels: Any) -> Figure:
    """Which element each thread reads, and where it writes, for kernels ``(x, out)``; two threads may not write one."""
    fig, ax = plots.canvas(len(kernels) * (size + 2.5), 6.6)
    for number, (title, kernel) in enumerate(kernels.items()):
        left = 1.6 + number * (size + 2.5)
        plots.write(ax, left + size / 2, 0.5, title, 17, weight="bold")
        _draw_moves(ax, moves(kernel, size), left, size)
    return fig


def moves(kernel: Any, size: int) -> list[tuple[int, int, int]]:
    """Thread, element read and element written, from a traced launch of a kernel ``(x, out)`` as one block."""
    notes = Notes()
    x, out = (spied((size,), name, notes) for name in ("x", "out"))
    Machine(notes).launch(kernel, (1,), (size,), (x, out))
    reads = [(who, element.place[0]) for who, element in notes.reads if element.array == "x"]
    return sorted({(who[1][0], i, o) for who, i in reads for writer, o in notes.writes if writer == who})


def _draw_moves(ax: Any, found: list[tuple[int, int, int]], left: float, size: int) -> None:
    writers = [{thread for thread, _, to in found if to == o} for o in range(size)]
    for thread, i, o in found:
        shade = LINE_COLOURS[thread % len(LINE_COLOURS)]
        ax.plot([left + i + 0.5, left + o + 0.5], [2.4, 4.4], color=shade, linewidth=3, zorder=1)
    for top, name in ((1.4, "x"), (4.4, "out")):
        plots.write(ax, left - 0.2, top + 0.5, name, 15, ha="right")
        for k in range(size):
            several = name == "out" and len(writers[k]) > 1
            style: dict[str, Any] = dict(edgecolor=plots.INK)
            if several:
                style.update(edgecolor=plots.RED, linewidth=RED_LINE, zorder=3)
            ax.add_patch(Rectangle((left + k, top), 1, 1, facecolor="white", **style))
            plots.write(ax, left + k + 0.5, top + 0.5, str(k), 14, zorder=4)
    most = max(map(len, writers))
    text = "each element of out has one writer" if most == 1 else f"up to {most} threads write one element of out"
    plots.write(ax, left + size / 2, 5.9, text, 14, color=plots.INK if most == 1 else plots.RED)


def draw_warp(**kernels: Any) -> Figure:
    """What the first warp of kernels ``(x, factor, out)`` reads of a matrix, and what comes along in its sectors."""
    fig = Figure(figsize=(10, 5.3), layout="constrained")
    for ax, (title, kernel) in zip(fig.subplots(1, len(kernels)), kernels.items(), strict=True):
        read = read_by_a_warp(kernel)
        sectors = in_sectors(read)
        come = np.repeat(sectors, SECTOR, axis=1)
        colours = ListedColormap(["white", "#F6C9A8", plots.BLUE])
        ax.pcolormesh(np.where(read, 2, come.astype(int)), cmap=colours, vmin=0, vmax=2, edgecolor="#DDDDDD", lw=0.4)
        ax.vlines(range(0, SIDE + 1, SECTOR), 0, SIDE, color="#555555", lw=1)
        ax.set(aspect="equal", ylim=(SIDE, 0), xlabel="column", xticks=range(0, SIDE + 1, SECTOR), yticks=[0, SIDE])
        ax.set_ylabel("row")
        ax.set_title(f"{title.replace('_', ' ')}\n{int(sectors.sum())} sectors for {int(read.sum())} numbers", size=14)
    return fig


def read_by_a_warp(kernel: Any) -> Any:
    """Where the first warp of a kernel ``(x, factor, out)`` reads x, as a bool array, from a traced launch."""
    notes = Notes()
    arrays = [spied(size, name, notes) for size, name in (((SIDE, SIDE), "x"), ((SIDE,), "factor"), ((SIDE,) * 2, ""))]
    Machine(notes).launch(kernel, (1, 1), (SIDE, 1), tuple(arrays))
    read = np.zeros((SIDE, SIDE), bool)
    for _, element in notes.reads:
        if element.array == "x":
            read[element.place] = True
    return read


def in_sectors(read: Any) -> Any:
    """Which sectors are moved: a bool array of rows and sectors in a row."""
    return read.reshape(SIDE, SIDE // SECTOR, SECTOR).any(2)


def slow_lines(result: Result) -> list[str]:
    """The lines whose accesses of global memory cost much more than they must, and what they cost."""
    slow = [cost for cost in result.costs if cost.site.space == "global" and cost.times > MUCH]
    slow.sort(key=lambda cost: -cost.times)
    return [f"  {quotes(cost.site.instruction)[0]}\n    {cost}" for cost in slow]


# --- exercises ------------------------------------------------------------------------------------
def _numbers(*sizes: tuple[int, ...]) -> list[Any]:
    rng = np.random.default_rng(0)
    return [(rng.integers(2, 99, size) + 0.5).astype(np.float32) for size in sizes]


def _fill(kernel: Any, fillings: list[Filling]) -> list[Result]:
    """Try a kernel, in which each element of out should have one thread that writes it, and each thread one element."""
    try:
        results = fills(kernel, fillings, "out")
    except Wrong as wrong:
        if "race" in str(wrong):
            for one in fillings:
                _stays_in_its_row(kernel, one)
        raise
    for one in fillings:
        written = set(_trace(kernel, one).writes)
        writers = np.zeros(one.right.shape, int)
        for _, place in written:
            writers.flat[place] += 1
        if writers.max() > 1:
            index = ", ".join(map(str, np.argwhere(writers > 1)[0]))
            raise Wrong(
                f"Launched with {one.where}:\nThe results are right. But {writers.max()} threads write out[{index}], "
                "all the same. Let each thread make one element: which one is its own?"
            )
        if (most := max(Counter(thread for thread, _ in written).values())) > 1:
            raise Wrong(
                f"Launched with {one.where}:\nThe results are right. But one thread writes {most} elements, and others "
                "do nothing. Let each thread make one element: which one is its own?"
            )
    return results


def _stays_in_its_row(kernel: Any, one: Filling) -> None:
    """Raise `Wrong` if an index leaves its axis, though not the memory of the array."""
    try:
        _trace(kernel, one)
    except Wrong as wrong:
        if isinstance(wrong.__cause__, IndexError):
            raise Wrong(
                f"Launched with {one.where}:\n{wrong.__cause__}. Rows lie one after the other in memory, so that is an "
                "element of the next row, which another thread writes. Test row against shape[0], and column against "
                "shape[1]."
            ) from None


def _trace(kernel: Any, one: Filling) -> Notes:
    arrays = (*one.args, one.right)
    return spy(kernel, one, (array.shape for array in arrays), [""] * len(one.args) + ["out"])[0]


def first_kernel(answer: Any) -> str:
    """Squares, with exactly one thread for each element."""
    fillings = []
    for size in (4, 7, 1):
        (x,) = _numbers((size,))
        x[1::2] *= -1
        mistakes = {
            "These are the numbers of x themselves: multiply each by itself.": x,
            "These are the doubles. A square is x[i] * x[i].": x + x,
            "Every element holds the square of x[0]: a thread should take the element with its own number.": np.full(
                size, x[0] * x[0]
            ),
            "The order is turned around: thread i makes out[i].": (x * x)[::-1],
            "These are numbers of threads. The thread's number is the index: x[i].": np.arange(size) ** 2.0,
        }
        fillings.append(Filling(f"{size} elements, 1 block of {size} threads", 1, size, (x,), x * x, mistakes))
    with no_index_needs_a_test("the first thread has number 0, and takes x[0]; the last one takes the last element"):
        _fill(answer, fillings)
    return "Each thread has made one element, and knew which one by its number."


def with_guard(answer: Any) -> str:
    """Products of two arrays, in blocks of four threads."""
    fillings = []
    for size in (8, 10, 3):
        a, b = _numbers((size,), (size,))
        blocks = -(-size // 4)
        mistakes = {
            "These are sums. The exercise asks for products.": a + b,
            "These are the squares of a: the second factor is b[i].": a * a,
            "These are the squares of b: the first factor is a[i].": b * b,
            "The first factor is always a[0]: it should be a[i].": a[0] * b,
            "The second factor is always b[0]: it should be b[i].": a * b[0],
            "The second factor is b by the number in the block: it should be b[i].": a * b[np.arange(size) % 4],
            "The first factor is a by the number in the block: it should be a[i].": a[np.arange(size) % 4] * b,
        }
        where = f"{size} elements, {blocks} block{'s'[: blocks > 1]} of 4 threads"
        fillings.append(Filling(where, blocks, 4, (a, b), a * b, mistakes))
    _fill(answer, fillings)
    return "All sizes, also those that are no multiple of four: spare threads stay away."


def two_indices(answer: Any) -> str:
    """Every row times a factor of its own; a thread an element."""
    fillings = []
    for rows, columns in ((4, 4), (5, 3), (1, 7), (6, 2)):
        x, factor = _numbers((rows, columns), (rows,))
        side = -(-max(rows, columns) // 4)
        where = f"x of {rows} x {columns}, {side} x {side} blocks of 4 x 4 threads"
        mistakes = _of_rows(x, factor)
        fillings.append(Filling(where, (side, side), (4, 4), (x, factor), x * factor[:, None], mistakes))
    _fill(answer, fillings)
    return "Rows and columns, wide and narrow, and nobody writes outside."


def _of_rows(x: Any, factor: Any) -> dict[str, Any]:
    rows, columns = x.shape
    across = factor[np.arange(columns) % rows]
    return {
        "factor has a number for each row: factor[row].": x * across,
        "The factor is added: multiply by it.": x + factor[:, None],
        "Every row is multiplied by factor[0]: it should be factor[row].": x * factor[0],
        "You divide by the factor: multiply by it.": x / factor[:, None],
        "The factor is taken by the number of a thread in its block: it should be factor[row].": (
            x * factor[np.arange(rows) % 4, None]
        ),
        TURNED: _written_turned(x * factor[:, None]),
        "The rows of out are columns of x: out[row, column] comes from x[row, column].": _turned(x) * factor[:, None],
        "out holds x itself: the factor is missing.": x,
    }


def gather(answer: Any) -> str:
    """Sums of three neighbours, with a thread for each result."""
    fillings = []
    for size in (9, 8, 2, 1):
        (x,) = _numbers((size,))
        ends = np.pad(x, 1)
        left, middle, right = ends[:-2], ends[1:-1], ends[2:]
        edge = np.pad(x, 1, mode="edge")
        mistakes = {
            "Each sum lacks the right neighbour: the end of a range() is not in it.": left + middle,
            "Each sum lacks the left neighbour.": middle + right,
            "Each sum lacks the element in the middle, x[o].": left + right,
            "At the ends you add an element twice: where there is no neighbour, nothing is added.": edge[:-2]
            + edge[1:-1]
            + edge[2:],
            "out holds x itself: add the two neighbours.": x,
            "At both ends one neighbour exists, and belongs to the sum.": np.where(
                (np.arange(size) == 0) | (np.arange(size) == size - 1), x, left + middle + right
            ),
            "The last element of x is never added: the end of a range() is not in it.": sum(
                np.pad(np.where(np.arange(size) < size - 1, x, 0), 1)[k : k + size] for k in range(3)
            ),
            "The first element of x, x[0], is never added.": sum(
                np.pad(np.where(np.arange(size) > 0, x, 0), 1)[k : k + size] for k in range(3)
            ),
            "You add x[o] once for each neighbour: the neighbours are x[o - 1] and x[o + 1].": sum(
                np.pad(np.ones(size), 1)[k : k + size] for k in range(3)
            )
            * x,
            "The sums are divided by three: the exercise asks for sums, not for averages.": (left + middle + right) / 3,
            "Only the last element of each sum is left: is there a = where += belongs?": np.where(
                np.arange(size) < size - 1, right, x
            ),
            "Only the first element of each sum is there: does your loop stop after it?": np.where(
                np.arange(size) > 0, left, x
            ),
            "Neighbours of another block are missing: the ends are those of the array, not those of a block.": (
                np.where(np.arange(size) % 4 > 0, left, 0) + x + np.where(np.arange(size) % 4 < 3, right, 0)
            ),
            "These are sums of places, not of elements: add x[i], not i.": sum(
                np.where((0 <= at) & (at < size), at, 0) for at in (np.arange(size) + step for step in (-1, 0, 1))
            ),
            "You add the two elements after x[o]: the neighbours are x[o - 1] and x[o + 1].": (
                np.pad(x, (0, 2))[1:-1] + np.pad(x, (0, 2))[2:] + x
            ),
            "You go around: before the first element and after the last one there is nothing.": np.roll(x, 1)
            + x
            + np.roll(x, -1),
        }
        blocks = -(-size // 4)
        where = f"{size} elements, {blocks} block{'s'[: blocks > 1]} of 4 threads"
        fillings.append(Filling(where, blocks, 4, (x,), left + middle + right, mistakes))
    _fill(answer, fillings)
    return "Every result has one writer, so there is nothing to race for, and no order of threads to hope for."


def coalesced(answer: Any) -> str:
    """Every column times a factor of its own, with neighbouring threads on neighbouring columns."""
    fillings = []
    for rows, columns in ((64, 64), (40, 50), (3, 64), (33, 1)):
        x, factor = _numbers((rows, columns), (columns,))
        where = f"x of {rows} x {columns}, 2 x 64 blocks of 32 x 1 threads"
        mistakes = _of_columns(x, factor)
        fillings.append(Filling(where, (2, 64), (32, 1), (x, factor), x * factor, mistakes))
    results = _fill(answer, fillings)
    if slow := slow_lines(results[0]):
        raise Wrong(
            f"The results are right. But a warp moves more sectors than it must, for example in\n{slow[0]}\n"
            "Neighbouring threads, whose threadIdx.x differs by one, should touch neighbouring columns."
        )
    read, written, size = reads(results[0]), writes(results[0]), fillings[0].right.size
    if read > 2 * size or written > size:
        raise Wrong(
            f"The results are right. But for {size} elements your kernel reads {read:.0f} numbers and writes "
            f"{written:.0f}, and {2 * size} and {size} are enough: read x and factor, and write out once."
        )
    return "A warp moves 4 sectors, which is the least that 32 numbers need, where the slow one moved 32."


def _turned(x: Any) -> Any:
    """What is read of x by x[column, row], where that lies in its memory."""
    row, column = np.indices(x.shape)
    return np.take(x, column * x.shape[1] + row, mode="clip")


def _written_turned(out: Any) -> Any:
    """What out[column, row] = ... leaves in its memory; not a number where that writes outside."""
    rows, columns = out.shape
    if columns == 1:
        return out
    return out.T if rows == columns else np.full(out.shape, np.nan)


def _of_columns(x: Any, factor: Any) -> dict[str, Any]:
    rows, columns = x.shape
    down = factor[np.arange(rows) % columns]
    return {
        "factor has a number for each column: factor[column].": x * down[:, None],
        "The factor is added: multiply by it.": x + factor,
        "Every column is multiplied by factor[0]: it should be factor[column].": x * factor[0],
        "You divide by the factor: multiply by it.": x / factor,
        "The factor is taken by the number of a thread in its block: it should be factor[column].": (
            x * factor[np.arange(columns) % 32]
        ),
        TURNED: _written_turned(x * factor),
        "The rows of out are columns of x: out[row, column] comes from x[row, column].": _turned(x) * factor,
        "out holds x itself: the factor is missing.": x,
    }


# --- predictions ------------------------------------------------------------------------------------
PREDICTIONS: dict[str, Prediction] = {
    "01b.a": Number(
        lambda: 2 * 3 * 3 * 4 - 5 * 10,
        "It is {answer}: 2 x 3 blocks of 3 x 4 threads are 72 threads, for 50 elements.",
        low="Count all threads of all blocks: 2 x 3 blocks, with 3 x 4 threads in each.",
        high="Only blocks that hang over the map have spare threads. Take the elements from all threads.",
        thoughts={
            72: "That many threads there are. Most of them have an element.",
            50: "That many threads have an element. How many are there in all?",
            10: "The lower row of blocks has a row of 10 to spare, and the columns at the right come on top.",
            12: "The columns at the right have 2 x 6 to spare, and the row below the map comes on top.",
            0: "The map has 5 rows, and two blocks of 3 rows have 6.",
            2: "Two columns hang over at the right, but each of them is six threads high. And a row hangs over below.",
        },
        near=2,
    ),
    "01b.b": Choice(
        ("always right", "always wrong in the same way", "different from run to run"),
        lambda: "different from run to run",
        "It is {answer}. `out[o] += x[i]` looks like one step, but it is three: read, add, write back. If two threads "
        "read the same old value, both add to that, and the one that writes last wipes out what the other has added. "
        "How often this happens depends on timing. It may be right in every test, and wrong later.",
        {
            "always right": "It would be if one thread came after the other. But they run at the same time.",
            "always wrong in the same way": "Additions do get lost. But which ones depends on who comes first.",
        },
    ),
    "01b.c": Number(
        lambda: int(in_sectors(read_by_a_warp(down_a_column)).sum()),
        "It is {answer}. `row` is what differs between neighbours in the warp, so each of them is in another row, far "
        "away in memory, and moves a sector of its own. Of the 8 numbers in it, 7 are not used.",
        low="Which of the two indices differs between neighbours in the warp? Are their results side by side?",
        high="A warp writes 32 numbers, and each lies in one sector.",
        thoughts={
            4: "That is the least, for 32 numbers side by side. Are they, here?",
            1: "A sector has only 8 numbers, and a warp writes 32.",
            8: "That many numbers are in a sector. How many sectors do 32 threads touch?",
            256: "That many numbers are moved. The question is about sectors, of 8 numbers each.",
            1024: "That is the whole matrix. The question is about one warp.",
        },
    ),
}
EXERCISES: dict[str, Callable[[Any], str]] = {
    "01b.1": first_kernel,
    "01b.2": with_guard,
    "01b.3": two_indices,
    "01b.4": gather,
    "01b.5": coalesced,
}
HINTS = {
    "01b.1": (
        "All threads run the same lines. What differs between them is cuda.threadIdx.x: 0 in the first, 1 in the next.",
        "i = cuda.threadIdx.x is the number of the element that this thread makes.",
        "After that line: out[i] = x[i] * x[i].",
    ),
    "01b.2": (
        "A launch has whole blocks only: with 10 elements and blocks of 4 there are 12 threads. What must two of them "
        "do?",
        "i = cuda.grid(1). If i is not below out.size, the thread must not touch an array.",
        "if i < out.size: out[i] = a[i] * b[i].",
    ),
    "01b.3": (
        "cuda.grid(2) gives two numbers. Both can be too large.",
        "row, column = cuda.grid(2), and out.shape has the number of rows and the number of columns.",
        "if row < out.shape[0] and column < out.shape[1]: out[row, column] = x[row, column] * factor[row].",
    ),
    "01b.4": (
        "Turn the question around. Not: where does my x go? But: which elements of x belong into my out?",
        "Thread o adds x[i] for i from o - 1 to o + 1, cut to those from 0 to x.size - 1, and writes once.",
        "acc = out.dtype.type(0); for i in range(max(0, o - 1), min(x.size, o + 2)): acc += x[i]; then out[o] = acc.",
    ),
    "01b.5": (
        "The first number of cuda.grid(2) is the one that differs between neighbours in a warp. Which index should "
        "differ by one between neighbours?",
        "Elements of a row lie next to each other in memory: neighbours should be in one row, in columns next to each "
        "other.",
        "column, row = cuda.grid(2). Then the test of both, and out[row, column] = x[row, column] * factor[column].",
    ),
}
