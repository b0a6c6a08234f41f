"""A small cost model of lesson 08: instructions and bytes of several ways to do one layer. It measures nothing.

Its assumptions, which favour every way alike:

- every way keeps the same share of the lanes busy, and an instruction is a multiply-add, an addition or a product;
- operands are read once and results written once; what lies between stays on the chip;
- filters are transformed anew in every call, as in training.

Winograd: arXiv 1509.09308, F(2x2, 3x3) and F(4x4, 3x3), a dense transform, for stride 1 and dilation 1. FFT: of the
whole padded map, its sides rounded up to a power of two, real numbers, 2.5 N log2 N operations each.
"""

from __future__ import annotations

from math import ceil, log2, prod
from typing import Any

import numpy as np

from .. import flops
from ..geometry import ConvShape
from .cards import Card

Matrix = np.ndarray[Any, Any]
# Transforms of input, filter and output, by the side of a tile of outputs.
WINOGRAD: dict[int, tuple[Matrix, Matrix, Matrix]] = {
    2: (
        np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]),
        np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]),
        np.array([[1, 1, 1, 0], [0, 1, -1, -1]]),
    ),
    4: (
        np.array(
            [
                [4, 0, -5, 0, 1, 0],
                [0, -4, -4, 1, 1, 0],
                [0, 4, -4, -1, 1, 0],
                [0, -2, -1, 2, 1, 0],
                [0, 2, -1, -2, 1, 0],
                [0, 4, 0, -5, 0, 1],
            ]
        ),
        np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24,
        np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]),
    ),
}
WAYS = ("regular", "trimmed", "skipping", "Winograd 2x2", "Winograd 4x4", "FFT")


def transform(matrix: Matrix) -> int:
    """Instructions of ``matrix @ tile @ matrix.T``: additions of the terms of each row.

    Examples
    --------
    >>> transform(WINOGRAD[2][0])  # the transform of the input, as in arXiv 1509.09308
    32
    """
    rows, columns = matrix.shape
    additions = int((np.count_nonzero(matrix, axis=1) - 1).sum())
    return additions * int(columns + rows)


def winograd(shape: ConvShape, m: int) -> int | None:
    """Instructions of F(m x m, 3x3); None where it does not apply."""
    if (shape.fh, shape.fw) != (3, 3) or shape.stride != (1, 1) or shape.dilation != (1, 1) or shape.groups != 1:
        return None
    of_input, of_filter, of_output = WINOGRAD[m]
    tiles = shape.n * ceil(shape.oh / m) * ceil(shape.ow / m)
    products = tiles * (m + 2) ** 2 * shape.ic * shape.oc
    ends = tiles * (shape.ic * transform(of_input) + shape.oc * transform(of_output))
    return int(products + ends + shape.ic * shape.oc * transform(of_filter))


def fft(shape: ConvShape) -> int | None:
    """Instructions by FFT of the whole map; None with a stride, which would throw away most results."""
    if shape.stride != (1, 1) or shape.groups != 1:
        return None
    sides = [2 ** ceil(log2(max(2, axis.size + axis.before + axis.after))) for axis in (shape.h, shape.w)]
    points: int = prod(sides)
    transforms = shape.n * (shape.ic + shape.oc) + shape.ic * shape.oc
    operations = 2.5 * points * log2(points) * transforms
    return round(operations / 2 + shape.n * shape.ic * shape.oc * points / 2 * 4)  # half the frequencies, 4 each


def instructions(operator: str, shape: ConvShape) -> dict[str, int]:
    """Instructions of each way that applies to an operator; "trimmed" skips padded zeros, but not inserted ones.

    Examples
    --------
    >>> layer = ConvShape(n=1, ih=2, iw=2, ic=64, oc=64, fh=3, fw=3, padding=1)
    >>> found = instructions("conv2d", layer)
    >>> found["regular"] / found["skipping"]
    2.25
    """
    count = flops.count(operator, shape)
    found = {
        "regular": count.regular,
        "trimmed": count.useful + count.inserted,
        "skipping": count.useful,
        "Winograd 2x2": winograd(shape, 2),
        "Winograd 4x4": winograd(shape, 4),
        "FFT": fft(shape),
    }
    return {way: number for way, number in found.items() if number is not None}


def seconds(operator: str, shape: ConvShape, card: Card) -> dict[str, float]:
    """Least time of each way on a card: that of its instructions or that of the bytes, whichever is longer.

    With tensor cores, "trimmed" products are done at the rate of TF32, whose factors have 11 significant bits.
    """
    count = flops.count(operator, shape)
    bytes_time = count.bytes / (card.bandwidth * 1e12)
    found = instructions(operator, shape)
    times = {way: max(2 * number / (card.peak * 1e12), bytes_time) for way, number in found.items()}
    if card.tensor:
        times["tensor cores"] = max(2 * found["trimmed"] / (card.tensor * 1e12), bytes_time)
    return times
