"""Sizes of the tiled rung: the tile of results of a block, the part of it of a thread, and the terms of a chunk."""

from __future__ import annotations

from typing import NamedTuple

BK = 8  # terms of a chunk
SKEW = 4  # unused elements after each term of a tile in shared memory, which spread the writes over all banks


class Tile(NamedTuple):
    """A tile of bm x bn results, which a block makes; each of its threads makes tm x tn of them."""

    bm: int
    bn: int
    tm: int
    tn: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return (self.bm // self.tm) * (self.bn // self.tn)

    @property
    def unit(self) -> tuple[int, int]:
        """Rows and columns that are multiplied or left out together: those of a warp, 4 threads high and 8 wide.

        The largest tile is multiplied as a whole: on some GPUs it has no register left for the choice.
        """
        return (self.bm, self.bn) if self.threads > 128 else (4 * self.tm, 8 * self.tn)

    @property
    def whole(self) -> bool:
        """Whether the tile is one unit."""
        return self.unit == (self.bm, self.bn)

    @property
    def resident(self) -> int:
        """Blocks that a multiprocessor should hold at once: 512 threads hide the latency of memory."""
        return 512 // self.threads

    def __str__(self) -> str:
        return f"{self.bm}x{self.bn}"


TILES = (Tile(128, 128, 8, 8), Tile(64, 64, 8, 4), Tile(64, 32, 8, 4), Tile(32, 32, 4, 4))
