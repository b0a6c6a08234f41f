"""Pictures and exercises of 04b_shared_memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .. import plots
from ..emulator import Result
from ..geometry import ConvShape
from ..plots.cells import LETTER_COLOURS
from ..trace.machine import Machine
from .answers import Wrong
from .guesses import Choice, Number, Prediction
from .own_kernel import Notes, Subject, reads, spied, writes
from .small_kernels import TILE, tiled_product
from .trying import Case, Filling, Terms, fills, no_index_needs_a_test, one_of_each, sums_of_products, work_of

BLOCK = 64
"""Threads of a block in the first two exercises: two warps."""
ADDERS = 8
"""Threads of the block that computes a dot product."""
SIZES = ((4, 4, 4), (8, 4, 8), (4, 8, 4))
"""Exercise 04b.4: rows, terms and columns of a matrix product."""
WIDE = (4, 4, 8)
"""One with more columns than rows: threads whose x counts rows do not fit."""


# --- pictures -------------------------------------------------------------------------------------
def draw_barrier(threads: int) -> Figure:
    """Threads that leave a number in shared memory, and read the one of another thread behind the barrier."""
    fig, ax = plots.canvas(threads + 6.2, 8.6)
    shades = [shade for shade in LETTER_COLOURS if shade != "#FFFFFF"]
    left = 2.6
    for t in range(threads):
        style: dict[str, Any] = dict(color=shades[t], linewidth=3, zorder=1)
        mirror = threads - 1 - t
        ax.plot([left + t + 0.5] * 2, [1.4, 3.2], **style)
        ax.plot([left + mirror + 0.5, left + t + 0.5], [4.2, 7], **style)
    for top, name in ((0.4, "x"), (3.2, "shared"), (7, "out")):
        plots.write(ax, left - 0.2, top + 0.5, name, 15, ha="right")
        for t in range(threads):
            shade = shades[threads - 1 - t if name == "out" else t]
            ax.add_patch(Rectangle((left + t, top), 1, 1, facecolor=shade, edgecolor=plots.INK))
            plots.write(ax, left + t + 0.5, top + 0.5, str(threads - 1 - t if name == "out" else t), 14)
    ax.plot([left - 0.3, left + threads + 0.3], [4.75] * 2, color=plots.RED, linewidth=3, linestyle="--", zorder=3)
    plots.write(ax, left + threads + 0.5, 4.75, "barrier", 15, ha="left", color=plots.RED, weight="bold")
    return fig


def draw_reads(block: tuple[int, int], **kernels: Any) -> Figure:
    """How often one block reads each number of a and b from global memory, for kernels of a matrix product."""
    rows, terms, columns = 8, 8, 8
    fig, ax = plots.canvas(terms + columns + 8.5, len(kernels) * (rows + 2) + 0.3)
    for number, (title, kernel) in enumerate(kernels.items()):
        top = 1.4 + number * (rows + 2)
        often = reads_of_block(kernel, (rows, terms, columns), block)
        plots.write(ax, 0.4, top + rows / 2, title.replace("_", "\n"), 15, ha="left", weight="bold")
        for left, name, size in ((4.2, "a", (rows, terms)), (4.9 + terms, "b", (terms, columns))):
            plots.write(ax, left + 4, top - 0.5, name, 15)
            for place in np.ndindex(*size):
                count = often[name, place]
                shade = plots.BLUE if count == 1 else plots.RED if count else "#F2F2F2"
                corner = left + place[1], top + place[0]
                ax.add_patch(Rectangle(corner, 1, 1, facecolor=shade, edgecolor="#777777", linewidth=0.9))
                if count:
                    plots.write(ax, corner[0] + 0.5, corner[1] + 0.5, str(count), 13, color="white")
        plots.write(ax, 5.2 + terms + columns, top + 3, f"{sum(often.values())}\nreads", 15, ha="left")
    return fig


def reads_of_block(kernel: Any, sizes: tuple[int, int, int], block: tuple[int, int]) -> Counter[Any]:
    """How often a block reads each element of a and b from global memory, by array and place; from a traced launch."""
    rows, terms, columns = sizes
    notes = Notes()
    named = ((rows, terms), "a"), ((terms, columns), "b"), ((rows, columns), "c")
    arrays = tuple(spied(size, name, notes) for size, name in named)
    Machine(notes).launch(kernel, (columns // TILE, rows // TILE), (TILE, TILE), arrays)
    often: Counter[Any] = Counter()
    for ((place, _), element), count in notes.reads.items():
        if place[:2] == block and element.array in ("a", "b"):
            often[element.array, element.place] += count
    return often


# --- exercises ------------------------------------------------------------------------------------
def _uses_shared(results: list[Result]) -> None:
    spaces = {cost.site.space for result in results for cost in result.costs}
    if "shared" not in spaces:
        raise Wrong(
            "The results are right. But nothing goes through shared memory: make an array with "
            "cuda.shared.array(64, np.float32), and let every thread put its number into it."
        )


def moved_on(answer: Any) -> str:
    """Every block moved on by one element, in a circle, by way of shared memory."""
    fillings = []
    for blocks in (1, 3):
        x = np.random.default_rng(0).integers(2, 99, blocks * BLOCK).astype(np.float32)
        parts = x.reshape(blocks, BLOCK)
        mistakes = {
            "The elements are in their old order: read the number that another thread has brought.": x,
            "The last thread of a block takes the first number of its own block, not of the next one.": np.roll(x, -1),
            "You have taken the number of the thread before. The exercise asks for the next one.": (
                np.roll(parts, 1, axis=1).ravel()
            ),
            "The numbers are turned around, as in the kernel above. Now each one moves on by one place.": (
                parts[:, ::-1].ravel()
            ),
            "Every block has the numbers of block 0: which element of x a thread brings depends on its block, too.": (
                np.tile(np.roll(parts[0], -1), blocks)
            ),
            "The circle has 64 threads, so it is (t + 1) % 64: only 64 becomes 0.": _cut_short(parts),
            "The last thread has kept its own number. It takes that of the first thread: (t + 1) % 64.": (
                np.hstack([parts[:, 1:], parts[:, -1:]]).ravel()
            ),
            "All elements are the same one: the index into shared memory must depend on the thread.": np.repeat(
                parts[:, 0], BLOCK
            ),
        }
        right = np.roll(parts, -1, axis=1).ravel()
        where = f"{x.size} elements, {blocks} block{'s'[: blocks > 1]} of {BLOCK} threads"
        fillings.append(Filling(where, blocks, BLOCK, (x,), right, mistakes))
    why = "the shared array has places 0 to 63, one for each thread of the block, in a circle: after 63 comes 0"
    with no_index_needs_a_test(why):
        results = fills(answer, fillings, "out")
    _uses_shared(results)
    for one, result in zip(fillings, results, strict=True):
        _reads_enough(result, one.right.size, one.where)
    return "Each thread has read what another one brought, and the barrier made sure that it was there."


def _cut_short(parts: Any) -> Any:
    """Every block moved on as if its circle had one thread less."""
    return parts[:, (np.arange(BLOCK) + 1) % (BLOCK - 1)].ravel()


def sums_of_blocks(answer: Any) -> str:
    """In each element the sum of all elements of its block; the last block may not be full."""
    fillings = []
    for size in (64, 100, 10):
        x = np.random.default_rng(0).integers(2, 99, size).astype(np.float32)
        blocks = -(-size // BLOCK)
        parts = [x[first : first + BLOCK] for first in range(0, size, BLOCK)]
        mistakes = {
            "These are sums of the whole array, and not of the block.": np.full(size, x.sum()),
            "These are the elements themselves: add up all those of the block.": x,
            "Each thread has added its own number again and again: in the loop, s[k] is that of thread k.": (
                np.concatenate([part * len(part) for part in parts])
            ),
            "Every block adds up the first numbers of x: thread t brings x[i], not x[t].": np.concatenate(
                [np.full(len(part), parts[0][: len(part)].sum()) for part in parts]
            ),
            "Each sum ends at the thread itself, but all numbers of the block belong to it.": np.concatenate(
                [np.cumsum(part) for part in parts]
            ),
            "Each sum lacks the last number of the block: the end of a range() is not in it.": np.concatenate(
                [np.full(len(part), part[:-1].sum()) for part in parts]
            ),
            "Each sum lacks the first number of the block.": np.concatenate(
                [np.full(len(part), part[1:].sum()) for part in parts]
            ),
        }
        right = np.concatenate([np.full(len(part), part.sum()) for part in parts])
        where = f"{size} elements, {blocks} block{'s'[: blocks > 1]} of {BLOCK} threads"
        fillings.append(Filling(where, blocks, BLOCK, (x,), right, mistakes))
    results = fills(answer, fillings, "out")
    for one, result in zip(fillings, results, strict=True):
        _reads_enough(result, one.right.size, one.where)
    read = [cost for cost in results[0].costs if (cost.site.space, cost.site.action) == ("global", "read")]
    if sum(cost.warps for cost in read) == sum(cost.lanes for cost in read):
        raise Wrong(
            "The results are right. But one thread at a time brings a number, and the others wait for it: let every "
            "thread bring its own, s[t] = x[i]."
        )
    return "Every number came from global memory once, and was used by all threads of its block."


def _reads_enough(result: Result, enough: int, where: str) -> None:
    if (found := reads(result)) > enough:
        raise Wrong(
            f"Launched with {where}:\nThe results are right. But your kernel reads {found:.0f} numbers from global "
            f"memory, and {enough} are enough: bring each number into shared memory once, and read it there."
        )


def dot_product(answer: Any) -> str:
    """The sum of the products of two arrays, by one block whose threads share the work."""
    cases = [_dot_of(size) for size in (8, 21, 5)]
    sums_of_products(answer, cases, ("a", "b", "y"))
    in_a_row = False
    for case in cases:
        result = case.launch(answer, *(np.ones(size, np.float32) for size in case.sizes[:2]))[1]
        if any(cost.site.action == "atomic" for cost in result.costs):
            raise Wrong(
                "The result is right. But atomics add up the partial sums in any order, so that rounding differs from "
                "run to run: let one thread do it, if t == 0."
            )
        work = work_of(answer, case, *case.sizes[0])
        busiest, share = max(work.products.values()), -(-case.sizes[0][0] // ADDERS)
        if busiest > share:
            raise Wrong(
                f"Launched with {case.where}:\nThe result is right. But one thread does {busiest} products, "
                f"and none needs more than {share}: thread t takes the products t, t + 8, t + 16, and so on."
            )
        in_a_row |= any(event.first.place[0] % ADDERS != event.thread[0] for event in work.events)
        written = writes(result)
        if written >= ADDERS:
            raise Wrong(
                f"Launched with {case.where}:\nThe result is right. But y[0] is written {written:.0f} times, and one "
                "thread is enough to add up the partial sums: if t == 0."
            )
    more = " Each of them takes products in a row; with t, t + 8, t + 16 the threads would read neighbours."
    return (
        "All threads multiply, and behind the barrier their partial sums are added up in a fixed order."
        f"{more if in_a_row else ''}"
    )


def _dot_of(size: int) -> Case:
    pairs = [((k,), (k,)) for k in range(size)]

    def made(kept: Any) -> Terms:
        return {(0,): frozenset(pair for k, pair in enumerate(pairs) if kept(k))}

    every = made(lambda k: True)
    mistakes = [
        ("Only the first product of each thread is left: a thread goes on in steps of 8.", made(lambda k: k < ADDERS)),
        (
            "Only the last product of each thread is left. Is there a = where += belongs?",
            made(lambda k: k + ADDERS >= size),
        ),
        ("Only the products of thread 0 are left: add up what all threads have found.", made(lambda k: k % 8 == 0)),
        ("The products of thread 0 are missing.", made(lambda k: k % ADDERS)),
        ("The products of the last thread are missing.", made(lambda k: k % ADDERS < ADDERS - 1)),
        *one_of_each(every),
    ]
    where = f"{size} elements, 1 block of {ADDERS} threads"
    return Case(where, ((size,), (size,), (1,)), (), 1, ADDERS, every, mistakes)


def matrix_product(answer: Any) -> str:
    """A product of matrices by tiles in shared memory."""
    cases = [product_of(*sizes) for sizes in SIZES]
    why = "sizes are multiples of TILE, so no index needs a test: each round brings TILE of the a.shape[1] terms"
    with no_index_needs_a_test(why):
        sums_of_products(answer, cases, ("a", "b", "c"))
    _columns_by_x(answer, product_of(*WIDE))
    for case, (rows, terms, columns) in zip(cases, SIZES, strict=True):
        ones = (np.ones(size, np.float32) for size in case.sizes[:2])
        _, result = case.launch(answer, *ones)
        _reads_enough(result, 2 * rows * terms * columns // TILE, case.where)
        if writes(result) > rows * columns:
            raise Wrong(
                f"Launched with {case.where}:\nThe results are right. But c has {rows * columns} elements, and they "
                f"are written {writes(result):.0f} times: write after the loop over the tiles, when a sum is complete."
            )
    return (
        "Each number of a tile was fetched once and used four times. This is the heart of every fast kernel "
        "in this library."
    )


def _columns_by_x(kernel: Any, wide: Case) -> None:
    """Try a case with more columns than rows, and say if the kernel would be right with x and y exchanged."""
    try:
        sums_of_products(kernel, [wide], ("a", "b", "c"))
    except Wrong as wrong:
        try:
            sums_of_products(kernel, [wide._replace(grid=wide.grid[::-1])], ("a", "b", "c"))
        except Wrong:
            raise wrong from None
        raise Wrong(
            f"Launched with {wide.where}:\nIf c is no square, some threads lie outside of it: x and y have changed "
            "places. Here x counts columns, and y counts rows: column, row = cuda.grid(2)."
        ) from None


def product_of(rows: int, terms: int, columns: int) -> Case:
    """A product of matrices, and what it is with a mistake."""

    def made(k: Any, left: Any = None, right: Any = None) -> Terms:
        left, right = left or (lambda row, k: (row, k)), right or (lambda k, column: (k, column))
        places = [(row, column) for row in range(rows) for column in range(columns)]
        return {(row, column): frozenset((left(row, one), right(one, column)) for one in k) for row, column in places}

    every = made(range(terms))
    mistakes = [
        (
            "Only the last tile of each sum is left: begin the sum before the loop over the tiles.",
            made(range(terms)[-4:]),
        ),
        ("Only the first tile of each sum is left: go on in steps of TILE.", made(range(TILE))),
        (
            "Each tile lacks its last term: the end of a range() is not in it.",
            made([k for k in range(terms) if k % 4 < 3]),
        ),
        ("Each tile lacks its first term.", made([k for k in range(terms) if k % 4])),
        (
            "The tile of a is read turned: where a_tile[y, x] was filled, a thread needs its row, a_tile[y, k].",
            made(range(terms), lambda row, k: (row // TILE * TILE + k % TILE, k // TILE * TILE + row % TILE)),
        ),
        (
            "The tile of b is read turned: where b_tile[y, x] was filled, a thread needs its column, b_tile[k, x].",
            made(range(terms), None, lambda k, c: (k // TILE * TILE + c % TILE, c // TILE * TILE + k % TILE)),
        ),
        ("Every block has the rows of the first block.", made(range(terms), lambda row, k: (row % TILE, k))),
        ("Every block has the columns of the first block.", made(range(terms), None, lambda k, c: (k, c % TILE))),
        *one_of_each(every),
    ]
    grid = columns // TILE, rows // TILE
    where = f"a of {rows} x {terms}, b of {terms} x {columns}, {grid[0]} x {grid[1]} blocks of {TILE} x {TILE} threads"
    return Case(where, ((rows, terms), (terms, columns), (rows, columns)), (), grid, (TILE, TILE), every, mistakes)


# --- predictions ------------------------------------------------------------------------------------
PREDICTIONS: dict[str, Prediction] = {
    "04b.a": Number(
        lambda: sum(reads_of_block(tiled_product, (8, 8, 8), (1, 0)).values()),
        "It is {answer}: four rows of a and four columns of b, of 8 numbers each. If every thread reads for itself, "
        "each of these numbers is read four times, by four threads.",
        low="The 16 results need four whole rows of a, and four whole columns of b. How many numbers are those?",
        high="Each number only once, however many threads need it: four rows of a, and four columns of b.",
        thoughts={
            256: "That is if every thread reads for itself: 16 threads, and 8 + 8 numbers each.",
            32: "That is what the block needs of a. It needs as much of b.",
            16: "That many results the block makes, and a single one needs 8 + 8 numbers. All 16 need more.",
            128: "That is both matrices as a whole. The block needs only four rows and four columns.",
            8: "That is one row. Four rows of a and four columns of b are needed.",
        },
    ),
    "04b.b": Choice(
        ("never", "only if there are two", "in both cases"),
        lambda: "only if there are two",
        "The emulator complains {answer}. In one round nothing is overwritten. In the second, a fast thread brings its "
        "next number while a slow one still needs the old one.",
        {
            "never": "The barrier stands between writing and reading. What is between reading and the next writing?",
            "in both cases": "In a single round, every write comes before the barrier, and every read after it.",
        },
    ),
}
EXERCISES: dict[str, Callable[[Any], str]] = {
    "04b.1": moved_on,
    "04b.2": sums_of_blocks,
    "04b.3": dot_product,
    "04b.4": matrix_product,
}
LOOKS = {
    "04b.4": Subject(
        tiny=product_of(4, 8, 8),
        regular=None,
        large=product_of(16, 16, 16),
        layer=ConvShape(n=32, ih=1, iw=1, ic=32, oc=32, fh=1, fw=1),  # a product of matrices of 32 x 32
        operator="conv2d",
        names=("a", "b", "c"),
        at=(0, 0),
    ),
}
HINTS = {
    "04b.1": (
        "Three steps: bring your own number into shared memory; wait; take the number of the next thread.",
        "Thread t takes the number at (t + 1) % 64, so that thread 63 takes the one at 0.",
        "s[t] = x[i]; cuda.syncthreads(); out[i] = s[(t + 1) % 64].",
    ),
    "04b.2": (
        "Which steps are only for threads that have an element, and which one is for all threads of the block?",
        "if i < x.size: s[t] = x[i]. Then the barrier, outside of any if. The block has "
        "min(64, x.size - first) numbers, where first = cuda.blockIdx.x * 64.",
        "After the barrier: if i < x.size: acc = out.dtype.type(0); for k in range(count): acc += s[k]; out[i] = acc.",
    ),
    "04b.3": (
        "Two phases with a barrier between them: all threads add up products of their own; then one thread adds up the "
        "eight sums.",
        "for k in range(t, a.size, 8): acc += a[k] * b[k]. Then s[t] = acc, and the barrier.",
        "After the barrier: if t == 0: total = y.dtype.type(0); for k in range(8): total += s[k]; y[0] = total.",
    ),
    "04b.4": (
        "A loop over the tiles of the sum. In each round: bring two numbers, wait, multiply TILE pairs, wait.",
        "For each first in range(0, a.shape[1], TILE): a_tile[y, x] = a[row, first + x] and b_tile[y, x] = "
        "b[first + y, column].",
        "Then cuda.syncthreads(); for k in range(TILE): acc += a_tile[y, k] * b_tile[k, x]; cuda.syncthreads(). After "
        "the loop over the tiles: c[row, column] = acc.",
    ),
}
