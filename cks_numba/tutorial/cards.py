"""Data sheets of some NVIDIA GPUs, and how many blocks of a kernel one of their multiprocessors holds.

Sources: NVIDIA T4, A100 and H100 data sheets, NVIDIA H100 Tensor Core GPU Architecture, NVIDIA Ada GPU Architecture;
limits of a multiprocessor from the CUDA C++ Programming Guide, technical specifications per compute capability.
"""

from __future__ import annotations

from typing import NamedTuple

WARP = 32
"""Threads that share their instructions."""
QUARTERS = 4
"""Parts of a multiprocessor, each with its own registers and its own warps."""
UNIT = 256
"""Registers are given to a warp in multiples of this number: 8 per thread."""
RESERVED = 1024
"""Bytes of shared memory that the system keeps for itself in every block, from Ampere on."""


class Card(NamedTuple):
    """One GPU; clock in GHz, memory in bytes.

    `peak` is the rate in float32 without tensor cores, `tensor` that of tensor cores in TF32 (0 if they lack it), both
    in TFLOP/s; `bandwidth` is in TB/s.
    """

    name: str
    generation: float
    multiprocessors: int
    lanes: int
    clock: float
    peak: float
    tensor: float
    bandwidth: float
    shared: int
    threads: int
    blocks: int
    registers: int = 65536

    @property
    def by_formula(self) -> float:
        """Multiprocessors x lanes x 2 operations of a multiply-add x cycles: TFLOP/s."""
        return self.multiprocessors * self.lanes * 2 * self.clock / 1e3

    @property
    def ridge(self) -> float:
        """Operations per byte from which on arithmetic is the limit, and not memory."""
        return self.peak / self.bandwidth


KIB = 1024
CARDS = {
    card.name: card
    for card in (
        Card("T4", 7.5, 40, 64, 1.59, 8.1, 0.0, 0.32, 64 * KIB, 1024, 16),
        Card("A100", 8.0, 108, 64, 1.41, 19.5, 156.0, 1.555, 164 * KIB, 2048, 32),
        Card("RTX 4090", 8.9, 128, 128, 2.52, 82.6, 82.6, 1.008, 100 * KIB, 1536, 24),
        Card("H100", 9.0, 132, 128, 1.98, 66.9, 494.7, 3.35, 228 * KIB, 2048, 32),
    )
}


def limits(card: Card, registers: int, shared: int, threads: int) -> dict[str, int]:
    """Number of blocks that a multiprocessor holds at once, as limited by each resource that can run out.

    Parameters
    ----------
    card : Card
    registers : int
        Registers of a thread.
    shared : int
        Bytes of shared memory of a block.
    threads : int
        Threads of a block.

    Examples
    --------
    >>> limits(CARDS["H100"], registers=128, shared=16896, threads=256)
    {'registers': 2, 'shared memory': 13, 'threads': 8, 'blocks': 32}
    """
    warps = -(-threads // WARP)
    of_a_warp = -(-registers * WARP // UNIT) * UNIT
    kept = RESERVED if card.generation >= 8 else 0
    return {
        "registers": QUARTERS * (card.registers // QUARTERS // of_a_warp) // warps,
        "shared memory": card.shared // (shared + kept) if shared + kept else card.blocks,
        "threads": card.threads // (warps * WARP),
        "blocks": card.blocks,
    }


def occupancy(card: Card, registers: int, shared: int, threads: int) -> tuple[float, str]:
    """Share of the threads of a multiprocessor that are in use, and the resource that runs out first.

    Examples
    --------
    >>> occupancy(CARDS["H100"], registers=40, shared=0, threads=128)
    (0.75, 'registers')
    """
    found = limits(card, registers, shared, threads)
    scarce = min(found, key=lambda name: found[name])
    return found[scarce] * -(-threads // WARP) * WARP / card.threads, scarce
