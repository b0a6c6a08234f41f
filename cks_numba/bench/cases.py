"""The one table of layer sizes, which tests, benchmarks and figures share.

Two sources: the sizes that the authors of C-K-S timed, each for one operator, and the convolutional
layers of networks that people train. A layer of a network runs all three operators; layers of equal
size are listed once.

- authors: comments beside the kernels of their public code (Dragon-Alpha v1.0 and v1.2,
  github.com/GilgameshXYZ123), collected in figures/data/authors_measurements.csv.
- ResNet-18 (ResNet-34 has the same sizes), VGG-16 and DCGAN for small images: from `networks`. The layers of
  the generator are transposed convolutions of the discriminator's sizes, so it runs `conv2d_input` forward.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product
from math import prod
from typing import NamedTuple

from ..flops import networks
from ..geometry import OPERATORS, ConvShape, plan

MapSizes = tuple[int, int, int, int, int, int, int]
"""IH = IW, IC, OC, FH = FW, stride, padding and channel groups of a layer."""

# N, IH = IW, IC, OC, FH = FW, stride, padding
AUTHORS: dict[str, tuple[tuple[int, ...], ...]] = {
    "conv2d": (
        (128, 32, 128, 256, 3, 2, 1),
        (128, 16, 256, 512, 3, 2, 1),
        (512, 16, 128, 256, 3, 2, 1),
        (512, 8, 256, 512, 3, 2, 1),
        (512, 4, 512, 1024, 3, 2, 1),
        (256, 32, 128, 256, 3, 2, 1),
        (256, 16, 256, 512, 3, 2, 1),
        (512, 8, 512, 512, 3, 2, 1),
        (128, 32, 128, 256, 4, 2, 1),
        (512, 8, 256, 512, 4, 2, 1),
        (512, 4, 512, 1024, 4, 2, 1),
        (512, 16, 128, 128, 5, 2, 2),
        (512, 8, 256, 256, 5, 2, 2),
        (512, 4, 512, 512, 5, 2, 2),
        (512, 4, 256, 512, 3, 2, 1),
        (512, 8, 256, 128, 3, 2, 1),
        (256, 16, 128, 128, 3, 2, 1),
        (256, 32, 32, 128, 3, 2, 1),
    ),
    "conv2d_input": (
        (128, 32, 128, 128, 3, 1, 1),
        (128, 16, 256, 256, 3, 1, 1),
        (128, 8, 512, 512, 3, 1, 1),
        (512, 4, 512, 512, 3, 1, 1),
        (128, 32, 128, 64, 5, 1, 2),
        (128, 16, 256, 128, 5, 1, 2),
        (256, 4, 512, 512, 5, 1, 2),
        (128, 64, 128, 128, 3, 2, 1),
        (128, 32, 256, 256, 3, 2, 1),
        (128, 28, 256, 256, 3, 2, 1),
        (128, 24, 256, 256, 3, 2, 1),
        (128, 16, 512, 512, 3, 2, 1),
        (512, 12, 256, 256, 3, 2, 1),
        (512, 8, 512, 512, 3, 2, 1),
        (512, 4, 512, 1024, 3, 2, 1),
        (128, 64, 128, 64, 5, 2, 2),
        (128, 32, 128, 128, 5, 2, 2),
        (128, 16, 256, 256, 5, 2, 2),
        (128, 8, 512, 512, 5, 2, 2),
        (512, 4, 512, 512, 5, 2, 2),
        (128, 4, 128, 512, 3, 1, 1),
        (128, 8, 128, 128, 3, 1, 1),
        (128, 16, 128, 32, 3, 1, 1),
        (512, 2, 128, 512, 3, 1, 1),
        (256, 8, 128, 64, 3, 2, 1),
        (256, 16, 128, 16, 3, 2, 1),
        (256, 32, 128, 16, 3, 2, 1),
    ),
    "conv2d_weight": (
        (1024, 4, 512, 128, 3, 2, 1),
        (256, 8, 512, 128, 3, 2, 1),
        (64, 16, 512, 128, 3, 2, 1),
        (16, 32, 512, 128, 3, 2, 1),
    ),
}


# Names in the table, and the networks whose layers they stand for. The generator of DCGAN adds only the layers that the
# discriminator does not have.
NETWORKS = {
    "ResNet-18/34": ("resnet18",),
    "VGG-16": ("vgg16",),
    "DCGAN": ("dcgan-discriminator", "dcgan-generator"),
}
IMAGE_SIZES = (32, 64)
GPU_BATCHES = (128, 32, 512, 1)
"""Batches for a GPU; the most telling one comes first."""


ODD = ("few channels", "large filters")
"""Sources of `PEER_LAYERS` whose tiles are hard to fill."""
TRANSPOSED = "transposed"
"""The source whose layers are transposed convolutions: they run `conv2d_input` forward."""
PEER_BATCHES = (1, 16, 64)
PEER_FLOP, PEER_BYTES = 2e10, 2**28
"""Most work, and most bytes of an array, of a case of `peer_table` with more than one image."""


def _depthwise(*rows: tuple[int, int, int, int]) -> tuple[MapSizes, ...]:
    """Layers with a filter for each channel, from IH = IW, channels, FH = FW and stride."""
    return tuple((size, c, c, taps, stride, taps // 2, c) for size, c, taps, stride in rows)


# Layers on which libraries that are made for inference are fast, and those on which a tile is hard to fill.
# The sizes of the networks are for images of 224x224: MobileNetV3-Large from table 1 of Howard et al. 2019 (arXiv
# 1905.02244), EfficientNet-B0 from table 1 of Tan and Le 2019 (1905.11946), ConvNeXt-T from table 9 of Liu et al. 2022
# (2201.03545), ResNeXt-50 (32x4d) from table 1 of Xie et al. 2017 (1611.05431), with the stride in the 3x3 layer. A
# layer that two of them have is listed with the first.
PEER_LAYERS: dict[str, tuple[MapSizes, ...]] = {
    "dense": (
        (2, 512, 512, 3, 1, 1, 1),
        (4, 512, 512, 3, 1, 1, 1),
        (7, 512, 512, 3, 1, 1, 1),
        (8, 256, 256, 3, 1, 1, 1),
        (14, 256, 256, 3, 1, 1, 1),
        (16, 128, 256, 3, 2, 1, 1),
        (28, 128, 128, 3, 1, 1, 1),
        (7, 512, 2048, 1, 1, 0, 1),
        (56, 64, 256, 1, 1, 0, 1),
    ),
    TRANSPOSED: ((8, 256, 512, 4, 2, 1, 1), (64, 3, 64, 4, 2, 1, 1)),
    "few channels": ((4096, 3, 8, 3, 2, 1, 1), (1080, 3, 16, 3, 1, 1, 1)),
    "large filters": ((32, 64, 64, 31, 1, 15, 1), (512, 3, 8, 65, 1, 32, 1)),
    "MobileNetV3-Large": _depthwise(
        (112, 16, 3, 1),
        (112, 64, 3, 2),
        (56, 72, 3, 1),
        (56, 72, 5, 2),
        (28, 120, 5, 1),
        (28, 240, 3, 2),
        (14, 200, 3, 1),
        (14, 184, 3, 1),
        (14, 480, 3, 1),
        (14, 672, 3, 1),
        (14, 672, 5, 2),
        (7, 960, 5, 1),
    ),
    "EfficientNet-B0": _depthwise(
        (112, 32, 3, 1),
        (112, 96, 3, 2),
        (56, 144, 3, 1),
        (56, 144, 5, 2),
        (28, 240, 5, 1),
        (14, 480, 5, 1),
        (14, 672, 5, 1),
        (7, 1152, 5, 1),
        (7, 1152, 3, 1),
    ),
    "ConvNeXt-T": _depthwise((56, 96, 7, 1), (28, 192, 7, 1), (14, 384, 7, 1), (7, 768, 7, 1)),
    "ResNeXt-50": (
        (56, 128, 128, 3, 1, 1, 32),
        (56, 256, 256, 3, 2, 1, 32),
        (28, 256, 256, 3, 1, 1, 32),
        (28, 512, 512, 3, 2, 1, 32),
        (14, 512, 512, 3, 1, 1, 32),
        (14, 1024, 1024, 3, 2, 1, 32),
        (7, 1024, 1024, 3, 1, 1, 32),
    ),
}


class Case(NamedTuple):
    """One operator of one layer: a row of the table."""

    source: str
    operator: str
    shape: ConvShape

    @property
    def name(self) -> str:
        """Sizes and source in one line."""
        s = self.shape
        size = "x".join([str(s.axes[0].size)] * len(s.axes))
        sizes = f"{size} n {s.n} {s.ic}->{s.oc} f {s.axes[0].taps} s {s.stride[0]} p {s.padding[0][0]}"
        sizes += f" d {s.dilation[0]}" if s.dilation[0] > 1 else ""
        sizes += f" g {s.groups}" if s.groups > 1 else ""
        return f"{sizes:<30} {self.source}"


def _shape(n: int, size: int, ic: int, oc: int, taps: int, stride: int, padding: int, groups: int = 1) -> ConvShape:
    keys = dict(n=n, ih=size, iw=size, ic=ic, oc=oc, fh=taps, fw=taps, groups=groups)
    return ConvShape(**keys, stride=stride, padding=padding)


def _row(s: ConvShape) -> tuple[int, ...]:
    """Sizes of a layer in the order of `AUTHORS`, without N; images, filters and strides of networks are square."""
    return s.ih, s.ic, s.oc, s.fh, s.stride[0], s.padding[0][0]


def layers() -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Yield every layer once: source, operator, and sizes in the order of `AUTHORS`, with N = 0 for networks."""
    seen: set[tuple[str, tuple[int, ...]]] = set()
    for operator, rows in AUTHORS.items():
        for row in rows:
            if (operator, row[1:]) not in seen:
                seen.add((operator, row[1:]))
                yield "authors", operator, row
    for name, members in NETWORKS.items():
        for size in IMAGE_SIZES:
            sizes = [_row(layer.shape) for member in members for layer in networks.layers(member, size)]
            for row, operator in product(sizes, OPERATORS):
                if (operator, row) not in seen:
                    seen.add((operator, row))
                    yield f"{name}, {size}x{size}", operator, (0, *row)


def table(flop: float = 1.2e9, batch: int = 32) -> list[Case]:
    """Build the table with batches that a machine can take.

    Parameters
    ----------
    flop : float
        Most useful floating-point operations of a case (two per multiply-add), unless one image alone has more.
    batch : int
        Most images of a case. The batch is the largest power of two within both limits.

    Returns
    -------
    list of Case

    Examples
    --------
    >>> cases = table()
    >>> {case.source.split(",")[0] for case in cases} == {"authors", *NETWORKS}
    True
    >>> max(case.shape.n for case in cases)
    32
    """
    cases = []
    for source, operator, (_, *sizes) in layers():
        one = plan(operator, _shape(1, *sizes)).useful
        n = batch
        while n > 1 and 2 * n * one > flop:
            n //= 2
        cases.append(Case(source, operator, _shape(n, *sizes)))
    return cases


def volumes() -> Iterator[Case]:
    """Yield layers of three axes: maps of 4 to 16, filters of 3 and 4, strides 1 and 2, one to eight images."""
    for size, channels in ((4, 128), (8, 64), (16, 32)):
        for taps, stride, n, operator in product((3, 4), (1, 2), (1, 2, 8), OPERATORS):
            shape = ConvShape.of(
                (n, *[size] * 3, channels), (channels, *[taps] * 3, channels), stride=stride, padding=1
            )
            yield Case("volumes", operator, shape)


SIGNALS = (
    ("ECG", 4, 5000, 1, 64, 15, 2, 1),
    ("ECG", 4, 1250, 64, 64, 3, 1, 1),
    ("sensors", 8, 1000, 8, 64, 5, 1, 1),
    ("sensors", 1, 2000, 128, 256, 3, 2, 1),
    ("WaveNet", 1, 8000, 64, 128, 2, 1, 1),
    ("WaveNet", 1, 8000, 64, 128, 2, 1, 64),
    ("WaveNet", 1, 8000, 64, 128, 2, 1, 512),
    ("HiFi-GAN", 1, 8192, 32, 32, 11, 1, 1),
    ("HiFi-GAN", 1, 8192, 32, 32, 7, 1, 5),
    ("HiFi-GAN", 1, 1000, 512, 256, 16, 8, 1),
    ("discriminator", 1, 16000, 16, 64, 41, 4, 1),
    ("wav2vec", 1, 16000, 8, 512, 10, 5, 1),
    ("audio", 1, 500000, 8, 16, 3, 1, 1),
)
"""Source, images, samples, channels in and out, taps, stride and dilation."""


def signals() -> Iterator[Case]:
    """Yield layers of one axis, for audio and sensors."""
    for (source, n, size, ic, oc, taps, stride, dilation), operator in product(SIGNALS, OPERATORS):
        pad = (taps - 1) * dilation // 2
        shape = ConvShape.of((n, size, ic), (oc, taps, ic), stride=stride, padding=pad, dilation=dilation)
        yield Case(source, operator, shape)


def gpu_table(batches: Iterable[int] = GPU_BATCHES) -> Iterator[Case]:
    """Yield the table with batches for a GPU: all of it with the first batch, then with the next one.

    Parameters
    ----------
    batches : iterable of int

    Yields
    ------
    Case
    """
    for n in batches:
        for source, operator, (_, *sizes) in layers():
            yield Case(source, operator, _shape(n, *sizes))


def peer_table(batches: Iterable[int] = PEER_BATCHES) -> Iterator[Case]:
    """Yield the layers to compare with other libraries, each operator: `PEER_LAYERS`, signals and volumes.

    Images have each batch that a machine can take; signals and volumes have their own, of one to eight.

    Parameters
    ----------
    batches : iterable of int

    Yields
    ------
    Case

    Examples
    --------
    >>> {len(case.shape.axes) for case in peer_table()}
    {1, 2, 3}
    """
    for n, (source, layers_) in product(batches, PEER_LAYERS.items()):
        for sizes, operator in product(layers_, OPERATORS):
            shape = _shape(n, *sizes)
            largest = max(prod(shape.x_shape), prod(shape.y_shape), prod(shape.w_shape))
            if n == 1 or (2 * plan(operator, shape).useful <= PEER_FLOP and 4 * largest <= PEER_BYTES):
                yield Case(source, operator, shape)
    yield from signals()
    yield from (case for case in volumes() if case.shape.n != 2)
