"""Which tile, and how many parts of the sum: a choice by a small model of a GPU (`Choice.cycles`).

A multiprocessor multiplies 128 pairs of float32 a cycle if enough threads are at work, and more on tensor cores. Blocks
come in waves, and a block that is alone is slower than one among many. ``cks-numba plan OP SHAPE --launches`` prints
what was chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from typing import Any, NamedTuple

from ... import checks
from ...geometry import ConvShape, Plan, in_columns, plan
from ...plan_table import ceil_div
from ..grouped import product_of, tiles_of
from .sizes import BK, TILES

# What the model assumes of a GPU. Nobody has measured these numbers; only their order of magnitude matters.
DEFAULT_SMS = 132  # multiprocessors of an H100, the GPU to plan for where there is none
MOST_PARTS = 64  # largest number of parts of a sum
CHUNKS_OF_A_PART = 16  # least number of chunks of a part: START is small beside them
START = 2500  # cycles of a block for its indices before the sum and its results after it
SECOND_LAUNCH = 5000  # cycles until the second launch of a split sum is at work
BYTES_PER_CYCLE = 1000  # bytes that memory moves in one cycle
AMONG_MANY, ALONE = 0, 1  # columns of SPEED
SPEED = {  # shares of the peak, by the area of a tile: a block among many, and a block alone on a multiprocessor
    128 * 128: (0.90, 0.65),
    128 * 64: (0.85, 0.45),
    64 * 64: (0.80, 0.22),
    64 * 32: (0.65, 0.18),
    32 * 32: (0.50, 0.12),
}


class Unit(NamedTuple):
    """What multiplies: the name of it, the terms of a chunk, and the multiply-adds of a multiprocessor in one cycle."""

    name: str
    bk: int
    rate: int


FLOAT32 = Unit("tiled", BK, 128)


@dataclass(frozen=True)
class Choice:
    """A way to run an operator on a GPU.

    Attributes
    ----------
    operator : {"conv2d", "conv2d_input", "conv2d_weight"}
    shape : ConvShape
    tile : Tile
        One of the rung.
    parts : int
        Parts of the sum of conv2d_weight, each added up by blocks of its own; 1 for the other operators.
    sms : int
        Multiprocessors of the GPU.
    unit : Unit
        What multiplies.
    """

    operator: str
    shape: ConvShape
    tile: Any
    parts: int
    sms: int
    unit: Unit = FLOAT32

    @cached_property
    def plan(self) -> Plan:
        return plan(self.operator, self.shape)

    @cached_property
    def channels(self) -> tuple[int, int]:
        """Input and output channels of a channel group."""
        return self.shape.ic // self.shape.groups, self.shape.oc // self.shape.groups

    @cached_property
    def products(self) -> tuple[tuple[int, int, int], ...]:
        """Rows, columns and terms of the matrix product of each group of the plan."""
        return tuple(product_of(self.operator, self.shape, group) for group in self.plan.groups)

    @cached_property
    def blocks(self) -> tuple[int, ...]:
        """Blocks of each group of the plan along its positions: rows (n, position), or columns (tap, ic)."""
        return tiles_of(self.plan, self.tile.bm, self.tile.bn)[0]

    @cached_property
    def grid(self) -> tuple[int, int, int]:
        """Blocks along the positions, along the channels, and channel groups times parts."""
        across = tiles_of(self.plan, self.tile.bm, self.tile.bn)[1]
        return sum(self.blocks), across, self.shape.groups * self.parts

    @cached_property
    def chunks(self) -> tuple[int, ...]:
        """Chunks that a block adds up, for each group of the plan."""
        return tuple(ceil_div(ceil_div(terms, self.unit.bk), self.parts) for _, _, terms in self.products)

    @cached_property
    def terms(self) -> int:
        """Terms that all blocks load, those past the end of a sum included."""
        chunks = sum(blocks * chunks for blocks, chunks in zip(self.blocks, self.chunks, strict=True))
        return chunks * prod(self.grid[1:]) * self.unit.bk

    @cached_property
    def done(self) -> int:
        """Multiply-adds that are done, those of rows, columns and terms that do not exist included.

        A warp of a smaller tile that has no result at all does none.
        """
        high, wide = self.tile.unit
        done = 0
        for (rows, columns, _), chunks in zip(self.products, self.chunks, strict=True):
            done += ceil_div(rows, high) * high * ceil_div(columns, wide) * wide * chunks
        return done * self.grid[2] * self.unit.bk

    @property
    def useful(self) -> float:
        """Share of the multiply-adds done that belong to the problem."""
        return self.plan.useful / self.done if self.done else 1.0

    @property
    def waves(self) -> float:
        """How many times the GPU is filled with blocks."""
        return prod(self.grid) / (self.sms * self.tile.resident)

    def __str__(self) -> str:
        text = f"{self.operator} {self.unit.name} {self.tile} on {self.sms} multiprocessors"
        lines = [f"{text}: grid {self.grid}, {self.tile.threads} threads a block, {self.waves:.2f} waves"]
        if self.parts > 1:
            lines.append(f"the sum in {self.parts} parts, which a second launch adds up in order")
        lines.append(f"{self.useful:.0%} of the multiply-adds done are of the problem, the others past its end")
        positions = in_columns([run.positions for run in group] for group in self.plan.groups)
        terms = in_columns([run.terms for run in group] for group in self.plan.groups)
        lines += [
            f"  {position} positions, {term} terms: {blocks * prod(self.grid[1:]):>5} blocks of {chunks} chunks"
            for position, term, blocks, chunks in zip(positions, terms, self.blocks, self.chunks, strict=True)
        ]
        return "\n".join(lines)

    @property
    def cycles(self) -> float:
        """Estimate of the time: whole waves at full speed, then what is left, spread over the multiprocessors."""
        area = self.tile.bm * self.tile.bn
        one = area * self.unit.bk / self.unit.rate  # cycles of a chunk at the peak
        blocks, slots = prod(self.grid), self.sms * self.tile.resident
        busy = self.done / self.unit.rate / SPEED[area][AMONG_MANY] + blocks * START / self.tile.resident
        longest = max(self.chunks, default=0) * one / SPEED[area][ALONE] + START
        rest = blocks % slots
        last = max(longest, ceil_div(rest, self.sms) * busy / blocks) if rest else 0.0
        second = SECOND_LAUNCH + self.parts * 4 * prod(self.shape.w_shape) / BYTES_PER_CYCLE if self.parts > 1 else 0.0
        return (blocks - rest) / blocks * busy / self.sms + last + second


@lru_cache(maxsize=1024)
def choose(
    operator: str,
    shape: ConvShape,
    sms: int = DEFAULT_SMS,
    itemsize: int = 4,
    unit: Unit = FLOAT32,
    tiles: tuple[Any, ...] = TILES,
) -> Choice:
    """Choose the tile, and the parts of the sum of conv2d_weight, by a model of the time.

    Parameters
    ----------
    operator : {"conv2d", "conv2d_input", "conv2d_weight"}
    shape : ConvShape
    sms : int
        Multiprocessors of the GPU.
    itemsize : int
        Bytes of an element. A large tile of float64 would not fit in the registers.
    unit : Unit
        What multiplies.
    tiles : tuple of Tile
        Those to choose from, the largest first.

    Returns
    -------
    Choice

    Examples
    --------
    >>> layer = ConvShape(n=128, ih=32, iw=32, ic=128, oc=128, fh=3, fw=3, padding=1)
    >>> str(choose("conv2d", layer).tile), choose("conv2d_weight", layer).parts > 1
    ('128x128', True)
    """
    tiles = tiles[-1:] if itemsize == 8 else tiles
    parts = _parts(operator, shape, unit.bk)
    choices = [Choice(operator, shape, tile, number, sms, unit) for tile in tiles for number in parts]
    fitting = [choice for choice in choices if max(choice.grid[1:]) <= checks.MAX_GRID_YZ]
    return min(fitting or choices, key=lambda choice: choice.cycles)


def _parts(operator: str, shape: ConvShape, bk: int) -> list[int]:
    """Numbers of parts to try: 1, 2, 4 and so on."""
    if operator != "conv2d_weight":
        return [1]
    longest = ceil_div(shape.n * max(group.terms for group in plan(operator, shape).groups), bk)
    return [2**k for k in range(MOST_PARTS.bit_length()) if k == 0 or 2**k * CHUNKS_OF_A_PART <= longest]
