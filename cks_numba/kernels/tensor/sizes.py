"""Sizes of the tensor rung: the tile of results of a block, the part of it of a warp, and the formats of a number."""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import uint32

from ..jit import device
from ..tiled.choice import Unit
from . import ptx

QUADS = 4  # quads of 16 bytes in a row of a chunk; a tensor core takes two at once
STAGES = 3  # chunks in shared memory: one is multiplied, the others are on their way
ROW_BYTES = QUADS * 16  # bytes of a row of A, or of a column of B, in a chunk


class Tile(NamedTuple):
    """A tile of bm x bn results, which a block makes; each of its warps makes wm x wn of them."""

    bm: int
    bn: int
    wm: int
    wn: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return (self.bm // self.wm) * (self.bn // self.wn) * 32

    @property
    def unit(self) -> tuple[int, int]:
        """Rows and columns that are multiplied together, whether they exist or not: all of them."""
        return self.bm, self.bn

    @property
    def resident(self) -> int:
        """Blocks that a multiprocessor should hold at once, by the registers that their results take."""
        return {128 * 128: 2, 128 * 64: 3, 64 * 64: 4}[self.bm * self.bn]

    def __str__(self) -> str:
        return f"{self.bm}x{self.bn}"


TILES = (Tile(128, 128, 64, 64), Tile(128, 64, 64, 32), Tile(64, 64, 32, 32))


# --- formats ----------------------------------------------------------------------------------------
@device
def same(value):
    return value


@device
def widen_bfloat16(value):
    """A bfloat16 is the upper half of a float32."""
    return ptx.from_bits(uint32(uint32(value) << uint32(16)))


class Format(NamedTuple):
    """How numbers are stored, and what multiplies them; sums are always float32."""

    name: str
    lanes: int  # elements of a quad: 16 bytes
    multiply: Any
    narrow: Any  # float32 to an element
    widen: Any  # an element to float32

    @property
    def bk(self) -> int:
        """Terms of a chunk."""
        return QUADS * self.lanes

    @property
    def unit(self) -> Unit:
        """Return what the model of the time takes: a tensor core of an A100 multiplies 16 bits twice as fast."""
        return Unit(f"tensor {self.name}", self.bk, 128 * self.lanes)


FORMATS = {  # by the dtype of the arrays
    "float32": Format("tf32", 4, ptx.multiply_tf32, same, same),
    "float16": Format("float16", 8, ptx.multiply_float16, ptx.round_float16, ptx.widen_float16),
    "bfloat16": Format("bfloat16", 8, ptx.multiply_bfloat16, ptx.round_bfloat16, widen_bfloat16),
}
FORMATS["int16"] = FORMATS["bfloat16"]  # device arrays and PyTorch tensors of bfloat16 come as views of int16
