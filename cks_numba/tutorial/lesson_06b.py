"""Pictures and exercises of 06b_tensor_cores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, NullLocator

from .. import plots
from ..emulator import Result, hooks
from ..kernels.tiled import TILES
from ..trace.elements import Log
from ..trace.machine import Machine
from .answers import Wrong, agree, call
from .cards import WARP, Card
from .guesses import Choice, Number, Prediction
from .lesson_06 import BYTES, WORK
from .small_kernels import multiply
from .trying import UNTOUCHED, Filling, compare, follow, no_float64, no_index_needs_a_test, run_kernel

M, N, K = 16, 8, 8
"""Rows, columns and terms of one product of matrices in TF32: what one instruction does."""
FORMATS = {"float32": (8, 23), "tf32": (8, 10), "bfloat16": (8, 7), "float16": (5, 10)}
"""Bits of the exponent and of the fraction of each kind of number; one more is the sign."""
BANKS = 32


# --- numbers --------------------------------------------------------------------------------------
def rounded(values: Any, fraction: int) -> Any:
    """Round float32 numbers to so many bits of the fraction, to the nearest, ties to even.

    Examples
    --------
    >>> import numpy as np
    >>> rounded(np.float32([1 + 2**-10, 1 + 2**-11, 1 + 3 * 2**-11]), 10) - 1
    array([0.00097656, 0.        , 0.00195312], dtype=float32)
    """
    bits = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
    dropped = 23 - fraction
    bits += (1 << (dropped - 1)) - 1 + ((bits >> dropped) & 1) if dropped else 0
    return (bits >> dropped << dropped).astype(np.uint32).view(np.float32)


def summed_one_by_one(terms: int, dtype: Any) -> float:
    """Add up so many ones, one after the other, in a sum of this dtype."""
    total = dtype(0)
    for _ in range(terms):
        total = dtype(total + dtype(1))
    return float(total)


def passes(result: Result) -> int:
    """How often the threads of a checked run went to shared memory to read."""
    return sum(cost.units for cost in result.costs if cost.site.space == "shared" and cost.site.action == "read")


def staged(latency: int, multiply: int, chunks: int, stages: int) -> list[tuple[int, int, int]]:
    """When each chunk is asked for, has arrived, and is multiplied, with so many buffers.

    The copy of a chunk is started when the multiplication before it has freed its buffer.

    Examples
    --------
    >>> staged(latency=6, multiply=3, chunks=4, stages=3)
    [(0, 6, 6), (0, 6, 9), (6, 12, 12), (9, 15, 15)]
    """
    found: list[tuple[int, int, int]] = []
    end = 0
    for k in range(chunks):
        begun = 0 if k < stages - 1 else found[k - stages + 1][2]  # the same moment as that multiplication begins
        arrived = begun + latency
        start = max(end, arrived)
        found.append((begun, arrived, start))
        end = start + multiply
    return found


# --- pictures -------------------------------------------------------------------------------------
def draw_holders(held_a: Any, held_b: Any, held_d: Any, lane: int = 5) -> Figure:
    """Write in each element of A, B and D which thread holds it; those of one thread stand out.

    `held_a` and so on are the numbers in the registers of each thread, where every element was its own flat index.
    """
    fig, ax = plots.canvas(20.6, 21.6)
    side = 0.76
    for name, held, (rows, columns), left, top in (
        ("A", held_a, (M, K), 1.4, 8.4),
        ("B", held_b, (K, N), 13.4, 0.8),
        ("D", held_d, (M, N), 13.4, 8.4),
    ):
        plots.write(ax, left - 0.7, top + rows * side / 2, name, 20, weight="bold")
        for thread, registers in enumerate(np.asarray(held, int)):
            for register, index in enumerate(registers):
                row, column = divmod(int(index), columns)
                x, y, mine = left + column * side, top + row * side, thread == lane
                look: dict[str, Any] = dict(facecolor=plots.BLUE if mine else "#F2F2F2", edgecolor="white", linewidth=2)
                ax.add_patch(Rectangle((x, y), side, side, **look))
                text: dict[str, Any] = dict(color="white", weight="bold") if mine else dict(color=plots.INK)
                said = f"{name.lower()}{register}" if mine else f"{thread}"
                plots.write(ax, x + side / 2, y + side / 2, said, 11, **text)
    said = f"grey: number of the thread that holds it\nblue: registers of thread {lane}"
    plots.write(ax, 1.4, 3.8, said, 15, ha="left")
    return fig


def draw_formats() -> Figure:
    """The bits of each kind of number: sign, exponent, fraction."""
    fig, ax = plots.canvas(24, 9.6)
    wide = 0.48  # width of a bit, in squares
    for row, (name, (exponent, fraction)) in enumerate(FORMATS.items()):
        plots.write(ax, 3.8, row * 2.1 + 1.6, name, 14, ha="right", weight="bold")
        at = 4.2
        for count, colour in ((1, "#BBBBBB"), (exponent, "#FBDFA3"), (fraction, "#9CCBE8")):
            for _ in range(count):
                ax.add_patch(Rectangle((at, row * 2.1 + 0.9), wide, 1.4, facecolor=colour, edgecolor="white"))
                at += wide
        plots.write(ax, 20.2, row * 2.1 + 1.6, f"{exponent} + {fraction} bits", 13, ha="left")
    plots.write(ax, 6.6, 9.2, "exponent: how large", 13)
    plots.write(ax, 14, 9.2, "fraction: how exact", 13)
    return fig


def draw_stages(latency: int, multiply: int, chunks: int, most: int = 3) -> Figure:
    """Copies and multiplications, chunk by chunk, with two buffers and with three."""
    ends = [staged(latency, multiply, chunks, stages)[-1][2] + multiply for stages in range(2, most + 1)]
    unit = 20 / max(ends)
    fig, ax = plots.canvas(24.5, sum(range(2, most + 1)) * 1.1 + 2.6 * (most - 1))
    top = 1.4
    for stages, end in zip(range(2, most + 1), ends, strict=True):
        plots.write(ax, 0.2, top - 0.6, f"{stages} buffers", 16, weight="bold", ha="left")
        for k, (begun, arrived, start) in enumerate(staged(latency, multiply, chunks, stages)):
            y = top + k % stages * 1.1
            for first, last, kind in (
                (begun, arrived, "global memory"),
                (start, start + multiply, "multiply-add"),
            ):
                style = WORK[kind]
                ax.add_patch(Rectangle((3.6 + first * unit, y), (last - first) * unit, 1, **style))
                text = dict(color="white" if kind == "multiply-add" else plots.INK)
                plots.write(ax, 3.6 + (first + last) / 2 * unit, y + 0.5, str(k), 13, **text)
        for row in range(stages):
            plots.write(ax, 3.4, top + row * 1.1 + 0.5, f"buffer {row}", 12, ha="right")
        top += stages * 1.1
        plots.write(ax, 3.6 + end * unit, top + 0.45, f"done at {end}", 13, ha="right")
        top += 2.5
    return fig


def draw_banks(places: dict[str, Callable[[int, int], int]], rows: int = 8, quads: int = 4) -> Figure:
    """Which banks of shared memory the eight rows of one quad lie in, for each way to place them.

    A place is the number of 16 bytes that a function of row and quad gives.
    """
    fig, ax = plots.canvas(26, 12.2)
    for k, (name, place) in enumerate(places.items()):
        left, top = 0.4 + 13.2 * k, 2.6
        plots.write(ax, left + 6, 0.7, name, 16, weight="bold")
        plots.write(ax, left + 6, 1.9, f"the {BANKS} banks, 4 to a square", 12)
        for row in range(rows):
            at = place(row, 0)
            for square in range(BANKS // 4):
                mine = square == at % (BANKS // 4)
                look: dict[str, Any] = dict(facecolor=plots.BLUE if mine else "#F2F2F2", edgecolor="white", linewidth=2)
                ax.add_patch(Rectangle((left + 1.5 * square, top + row), 1.5, 1, **look))
                if mine:
                    plots.write(ax, left + 1.5 * square + 0.75, top + row + 0.5, f"{row}", 12, color="white")
        used = [place(row, 0) % (BANKS // 4) for row in range(rows)]
        worst = max(used.count(square) for square in used)
        said = "one pass" if worst == 1 else f"{worst} rows want the same banks: {worst} passes"
        plots.write(ax, left + 6, top + rows + 0.8, said, 13)
    return fig


def draw_roofs(card: Card) -> Figure:
    """The roofs of a card with and without tensor cores, and where a tile of 128 x 128 stands under them."""
    fig = Figure(figsize=(9, 4.6), layout="constrained")
    ax = fig.subplots()
    x = np.geomspace(1, 2000, 200)
    tile = TILES[0].bm * TILES[0].bn * 2 / (TILES[0].bm + TILES[0].bn)  # operations for each number that is read
    for name, peak, size, marker in (
        ("float32, no tensor cores", card.peak, BYTES, "o"),
        ("tf32", card.tensor, BYTES, "s"),
        ("float16, bfloat16", 2 * card.tensor, BYTES // 2, "D"),
    ):
        ax.plot(x, np.minimum(peak, card.bandwidth * x), color=plots.INK, linewidth=2)
        ax.text(1950, peak * 1.12, f"{name}: {peak:g}", ha="right", fontsize=12)
        best = min(peak, card.bandwidth * tile / size)
        look: dict[str, Any] = dict(
            markersize=12, markerfacecolor="white", markeredgecolor=plots.RED, markeredgewidth=2.5
        )
        ax.plot(tile / size, best, marker, **look)
    text = "a tile of 128 x 128:\ncomputed, not measured"
    ax.text(tile / 4 * 0.8, card.bandwidth * tile / 2, text, fontsize=12, ha="right")
    ax.set(xscale="log", yscale="log", ylim=(3, 2500), xlabel="operations per byte of global memory")
    ax.set_ylabel("TFLOP/s at best")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    ax.set_title(f"{card.name}: three kinds of arithmetic, one memory of {card.bandwidth:g} TB/s", fontsize=13)
    ax.grid(color="#DDDDDD")
    return fig


# --- predictions ----------------------------------------------------------------------------------
PREDICTIONS: dict[str, Prediction] = {
    "06b.a": Choice(
        ("unchanged", "changed"),
        lambda: "unchanged",
        "It is {answer}. Each sum goes over the same pairs, only in another order: A and B must agree on the order of "
        "the terms, and on nothing else.",
        {"changed": "Both have the same two terms exchanged, so every a still meets its own b."},
    ),
    "06b.b": Number(
        lambda: summed_one_by_one(4096, np.float16),
        "It is {answer:.0f}. From 2048 on float16 numbers are 2 apart, and 2048 + 1 is rounded back to 2048.",
        low="Small whole numbers are exact in float16. How far do they go, with 10 bits of fraction?",
        high="The sum stops growing earlier: with 10 bits of fraction, adding 1 soon changes nothing.",
        thoughts={
            4096: "That is the exact sum. How far apart are the float16 numbers between 2048 and 4096?",
            1024: "From 1024 on the numbers are 1 apart, so adding 1 still works.",
            65504: "That is the largest float16. The sum stops growing long before.",
        },
    ),
}


# --- exercises ------------------------------------------------------------------------------------
def ffma_replaced(answer: Any) -> str:
    mistakes = {
        "These are multiply-adds. One FFMA of a warp does 32 of them.": lambda m, n, k: m * n * k,
        "That is twice as many: a multiply-add counts once, and a warp has 32 threads.": lambda m, n, k: (
            2 * m * n * k / WARP
        ),
        "That is the number of results. Each is a sum of k products.": lambda m, n, k: m * n,
        "That is one for each result and lane. Each result is a sum of k products.": lambda m, n, k: m * n / WARP,
        "Results times terms: the sizes are multiplied, not added.": lambda m, n, k: (m + n + k) / WARP,
        "A warp has 32 threads.": lambda m, n, k: m * n * k / 64,
        "These are the elements of A and B. Each of them is used many times.": lambda m, n, k: (m * k + k * n) / WARP,
        "A block may have more warps, but this is one instruction of one warp.": lambda m, n, k: m * n * k / 128,
    }
    agree(
        answer, lambda m, n, k: m * n * k / WARP, [(16, 8, 8), (16, 8, 16), (8, 8, 16), (16, 16, 8)], mistakes,
        "m * n results with k products each; an FFMA of a warp does 32 products.",
    )  # fmt: skip
    return "32 for tf32 and 64 for 16 bits: one instruction does the work of 32 or 64."


def holder(answer: Any) -> str:
    mistakes: dict[str, Callable[[int, int], tuple[int, int]]] = {
        "Rows and columns are exchanged.": lambda row, column: (column % 8 * 4 + row % 8 // 2, row % 2),
        "A thread holds two neighbours of a row, and not every fourth column.": lambda row, column: (
            row % 8 * 4 + column % 4,
            row // 8 * 2 + column // 4,
        ),
        "The thread is right. Its first two numbers are of the upper half, the other two of the lower one.": (
            lambda row, column: (row % 8 * 4 + column // 2, row // 8 + column % 2 * 2)
        ),
        "The thread is right. Which of its four numbers is it?": lambda row, column: (row % 8 * 4 + column // 2, 0),
        "Rows 8 to 15 are held by the same threads as rows 0 to 7.": lambda row, column: (
            row * 4 + column // 2,
            column % 2,
        ),
        "That is the upper half. A thread holds two rows, 8 apart.": lambda row, column: (
            row % 8 * 4 + column // 2,
            column % 2,
        ),
        "Threads count along a row first: four threads share one.": lambda row, column: (
            column // 2 * 8 + row % 8,
            row // 8 * 2 + column % 2,
        ),
        "That would be eight threads for each row, with one number each.": lambda row, column: (
            row % 4 * 8 + column,
            row // 4,
        ),
    }
    places = [(row, column) for row in range(M) for column in range(N)]
    found = [_pair(call(answer, *place), place) for place in places]
    expected = [_holder(*place) for place in places]
    if found == expected:
        return "So eight neighbouring threads never hold eight neighbours: what is written has to be told its place."
    row, column = next(place for place, got, want in zip(places, found, expected, strict=True) if got != want)
    cause = next((text for text, way in mistakes.items() if [way(*place) for place in places] == found), "")
    got, want = found[row * N + column], expected[row * N + column]
    raise Wrong(f"For row={row}, column={column} it should be {want}, and yours is {got}. {cause}".rstrip())


def _holder(row: int, column: int) -> tuple[int, int]:
    return row % 8 * 4 + column // 2, row // 8 * 2 + column % 2


def _pair(value: Any, place: tuple[int, int]) -> tuple[int, int]:
    try:
        lane, register = value
        whole = int(lane), int(register)
    except (TypeError, ValueError):
        text = f"For row={place[0]}, column={place[1]} your function should return two whole numbers"
        raise Wrong(f"{text}, a thread and a register, and not {value!r}.") from None
    if whole != (lane, register):
        raise Wrong(f"For row={place[0]}, column={place[1]} yours is {lane}, {register}: divide with //.")
    return whole


def fewest_stages(answer: Any) -> str:
    mistakes = {
        "One more: the chunk that is being multiplied takes a buffer, too.": lambda la, mu: -(-la // mu),
        "Round up: if only a part of a chunk is missing, a multiplication waits for it.": lambda la, mu: 1 + la // mu,
        "Turn the fraction over: longer copies need more chunks under way.": lambda la, mu: 1 + -(-mu // la),
        "One too many: a copy that arrives just in time is no wait.": lambda la, mu: 2 + -(-la // mu),
        "It depends on both times: two are enough only if multiplying takes as long as a copy.": lambda la, mu: 2,
        "Buffers are whole: round up.": lambda la, mu: 1 + la / mu,
        "The times are divided, not subtracted.": lambda la, mu: 1 + max(la - mu, 1),
        "One too many where the times divide each other: rounding up is -(-a // b).": lambda la, mu: 2 + la // mu,
    }
    agree(
        answer, lambda latency, compute: 1 + -(-latency // compute), 
        [(6, 3), (7, 3), (3, 3), (2, 3), (20, 3), (800, 512)], mistakes,
        "While the copy of a chunk is under way, the other stages - 1 are multiplied.",
    )  # fmt: skip
    return "Shared memory is what more stages cost. The rung `tensor` has three."


TERMS = (8, 16, 24)  # exercise 06b.4: terms of the sums


def my_tensor_product(answer: Any) -> str:
    rng = np.random.default_rng(0)
    for terms in TERMS:
        a = rng.integers(-9, 10, (M, terms)).astype(np.float32)
        b = rng.integers(-9, 10, (terms, N)).astype(np.float32)
        c, where = np.empty((M, N), np.float32), f"a of {M} x {terms}, b of {terms} x {N}, one warp"
        with no_index_needs_a_test("no index needs a test: each round takes eight of the a.shape[1] terms, from k on"):
            result = run_kernel(answer, 1, WARP, (a, b, c), c, where)
        compare(c, a @ b, _tensor_mistakes(a, b), where, "c")
    no_float64(result)
    if "mma.sync" not in hooks.ptx_of(answer, (a, b, c)):
        raise Wrong("The results are right, but no tensor core has made them: call multiply() for eight terms at once.")
    calls = _calls(answer, a, b, c)
    if calls > TERMS[-1] // K:
        raise Wrong(
            f"The results are right. But each thread calls multiply() {calls} times for {TERMS[-1]} terms, and "
            f"{TERMS[-1] // K} are enough: eight terms at once, without zeros."
        )
    return f"{TERMS[-1] // K} instructions did the work of {TERMS[-1] * M * N // WARP} FFMA."


def _calls(kernel: Any, a: Any, b: Any, c: Any) -> int:
    """How often the first thread calls multiply(); `Wrong` where the source cannot be followed."""
    machine = _Counting(Log())
    follow(machine, kernel, Filling("", 1, WARP, (a, b), c, {}), (a, b, np.zeros_like(c)))
    return machine.calls


class _Counting(Machine):
    """A machine that counts the calls of multiply() of its first thread, and multiplies nothing."""

    calls = 0

    def plain(self, value: Any) -> Any:
        return self._multiply if value is multiply else super().plain(value)

    def _multiply(self, *numbers: Any) -> Any:
        self.calls += self.threadIdx.x == 0
        return numbers[-1]


def _tensor_mistakes(a: Any, b: Any) -> dict[str, Any]:
    """What c is with a mistake, by what is to be said about it."""
    chunks = range(0, a.shape[1], K)
    order = np.arange(a.shape[1]).reshape(-1, 2, K // 2)[:, ::-1].ravel()  # halves of eight terms exchanged

    def corners(chunk: Any) -> Any:
        """a1 and a2 exchanged: the lower left and the upper right quarter of eight terms."""
        upper, lower = np.split(chunk, 2)
        return np.block([[upper[:, :4], lower[:, :4]], [upper[:, 4:], lower[:, 4:]]])

    exact = a @ b
    by_four = [2 * (c % 4) + c // 4 for c in range(N)]  # what stands in each column if a thread writes t and t + 4
    transposed = sum(a[:, k : k + K] @ b[k : k + K].T for k in chunks)
    return {
        "These are the first eight terms. The sum goes over all of them: loop.": a[:, :K] @ b[:K],
        "These are the last eight terms. Hand the sums to multiply() and take them back.": a[:, -K:] @ b[-K:],
        "A and B do not agree on the order of the terms: b0 belongs to a0 and a1, b1 to a2 and a3.": a[:, order] @ b,
        "a1 and a2 are exchanged: a1 is 8 rows below a0, a2 is 4 terms to the right.": sum(
            corners(a[:, k : k + K]) @ b[k : k + K] for k in chunks
        ),
        "A thread holds two neighbours of c, columns 2*t and 2*t + 1.": exact[:, by_four],
        "Rows and columns of b are exchanged: b0 is b[k + t, g].": transposed,
        "d1 and d2 are exchanged: d0 and d1 are in one row.": _exchanged(exact),
        "The halves of c are exchanged: d0 and d1 belong to row g, d2 and d3 to row g + 8.": np.roll(exact, 8, axis=0),
        "Rows g and g + 8 belong to a thread, and not 2*g and 2*g + 1.": exact[
            [row // 2 + row % 2 * 8 for row in range(M)]
        ],
        "Each round reads the first eight terms again: the terms of a round begin at k.": (
            len(chunks) * (a[:, :K] @ b[:K])
        ),
        "a is read in its first eight columns in every round: the terms of a round begin at k.": sum(
            a[:, :K] @ b[k : k + K] for k in chunks
        ),
        "b is read in its first eight rows in every round: the terms of a round begin at k.": sum(
            a[:, k : k + K] @ b[:K] for k in chunks
        ),
        "The sums are still 0: multiply() changes nothing, it returns the new ones, d = multiply(...).": 0 * exact,
        "Your kernel adds to what c held before: keep the sums in d, and write them after the loop.": exact + UNTOUCHED,
        "All eight columns are those of b's column 0.": np.repeat(exact[:, :1], N, axis=1),
    }


def _exchanged(exact: Any) -> Any:
    """The results if d1 is written to the place of d2, and d2 to that of d1."""
    made = exact.copy()
    made[:8, 1::2], made[8:, ::2] = exact[8:, ::2], exact[:8, 1::2]
    return made


EXERCISES: dict[str, Callable[[Any], str]] = {
    "06b.1": ffma_replaced,
    "06b.2": holder,
    "06b.3": fewest_stages,
    "06b.4": my_tensor_product,
}
HINTS = {
    "06b.1": (
        "How many multiply-adds are in a product of an m x k and a k x n matrix?",
        "m * n results, each a sum of k products. An FFMA of a warp does one product in each of its 32 threads.",
        "m * n * k / 32.",
    ),
    "06b.2": (
        "Look at D in the picture. Which threads hold row 0? Which hold row 8?",
        "Four threads share a row, two neighbours each; rows 8 to 15 are held by the same threads as rows 0 to 7.",
        "The thread is row % 8 * 4 + column // 2. The register is row // 8 * 2 + column % 2.",
    ),
    "06b.3": (
        "With S buffers, S - 1 copies are under way while one chunk is multiplied.",
        "A copy may take as long as the multiplications of S - 1 chunks: (S - 1) * compute >= latency.",
        "1 + latency / compute, rounded up: -(-latency // compute) rounds up.",
    ),
    "06b.4": (
        "g, t = thread // 4, thread % 4. Loop over the terms in steps of eight, and pass the four sums on.",
        "a0 is a[g, k + t], a1 eight rows below, a2 four terms to the right, a3 both. b0 is b[k + t, g], b1 four terms "
        "below.",
        "d = multiply(a0, a1, a2, a3, b0, b1, d) in the loop; then c[g, 2*t], c[g, 2*t + 1] = d[0], d[1], and "
        "c[g + 8, 2*t], c[g + 8, 2*t + 1] = d[2], d[3].",
    ),
}
