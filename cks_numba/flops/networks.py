"""The convolutional layers of networks that people train, for any size of image.

Sources, by name:

- alexnet: torchvision/models/alexnet.py (arXiv 1404.5997, one column). Small images: pytorch-classification,
  models/cifar/alexnet.py: more padding in the first layer, and 2x2 pooling.
- vgg16, vgg19: arXiv 1409.1556, configurations D and E; torchvision/models/vgg.py. The same for small images.
- googlenet: arXiv 1409.4842, table 1, without the auxiliary classifiers. torchvision/models/googlenet.py has
  3x3 filters where the paper has 5x5. Small images: pytorch-cifar, models/googlenet.py: one 3x3 layer with
  stride 1 in front, no pooling there (the inception blocks are the paper's).
- resnet18, resnet34: arXiv 1512.03385; torchvision/models/resnet.py. Small images: a 3x3 layer with stride 1
  first, no pooling.
- dcgan-discriminator, dcgan-generator: arXiv 1511.06434; pytorch/examples, dcgan/main.py, one layer more or
  less for every factor of two in the size.
- unet: arXiv 1505.04597: no padding, 2x2 transposed convolutions on the way up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .. import checks
from ..geometry import ConvShape

SMALL = 64
"""Largest image for which classifiers take their form for small images."""


class Layer(NamedTuple):
    """One convolution of a network.

    Attributes
    ----------
    name : str
    shape : ConvShape
        For a transposed layer, the shape of the convolution whose input gradient it computes.
    transposed : bool
        Whether the forward pass is an input gradient.
    first : bool
        Whether it reads the input of the network, whose gradient is not needed.
    """

    name: str
    shape: ConvShape
    transposed: bool = False
    first: bool = False


class Stack:
    """Layers in their order, and the map (channels, rows, columns) that the next one reads."""

    def __init__(self, batch: int, channels: int, rows: int, columns: int) -> None:
        self.batch = batch
        self.map: tuple[int, int, int] = (channels, rows, columns)
        self.layers: list[Layer] = []

    def conv(self, name: str, oc: int, taps: int, stride: int = 1, padding: int = 0, first: bool = False) -> None:
        """Add a convolution."""
        ic, ih, iw = self.map
        sizes = dict(n=self.batch, ih=ih, iw=iw, ic=ic, oc=oc, fh=taps, fw=taps)
        shape = ConvShape(**sizes, stride=stride, padding=padding)
        self.layers.append(Layer(name, shape, first=first))
        self.map = (oc, shape.oh, shape.ow)

    def up(self, name: str, oc: int, taps: int, stride: int, padding: int = 0, first: bool = False) -> None:
        """Add a transposed convolution."""
        ic, oh, ow = self.map
        ih, iw = ((size - 1) * stride - 2 * padding + taps for size in (oh, ow))
        sizes = dict(n=self.batch, ih=ih, iw=iw, ic=oc, oc=ic, fh=taps, fw=taps)
        self.layers.append(
            Layer(name, ConvShape(**sizes, stride=stride, padding=padding), transposed=True, first=first)
        )
        self.map = (oc, ih, iw)

    def pool(self, taps: int, stride: int, padding: int = 0, ceil: bool = False) -> None:
        """Make the map smaller."""
        channels, *size = self.map
        spare = stride - 1 if ceil else 0
        rows, columns = ((side + 2 * padding - taps + spare) // stride + 1 for side in size)
        if min(rows, columns) < 1:
            raise ValueError(f"a {size[0]}x{size[1]} map cannot be pooled by {taps}x{taps}")
        self.map = (channels, rows, columns)


def _alexnet(stack: Stack, small: bool) -> None:
    pool = (2, 2) if small else (3, 2)
    stack.conv("conv1", 64, 11, 4, 5 if small else 2, first=True)
    stack.pool(*pool)
    stack.conv("conv2", 192, 5, 1, 2)
    stack.pool(*pool)
    for name, oc in (("conv3", 384), ("conv4", 256), ("conv5", 256)):
        stack.conv(name, oc, 3, 1, 1)


def _vgg(depths: tuple[int, ...]) -> Callable[[Stack, bool], None]:
    def build(stack: Stack, small: bool) -> None:
        for stage, (depth, oc) in enumerate(zip(depths, (64, 128, 256, 512, 512), strict=True), 1):
            if stage > 1:
                stack.pool(2, 2)
            for k in range(1, depth + 1):
                stack.conv(f"conv{stage}_{k}", oc, 3, 1, 1, first=(stage, k) == (1, 1))

    return build


INCEPTION = {  # output channels: 1x1; 3x3 reduced, 3x3; 5x5 reduced, 5x5; after pooling
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


def _googlenet(stack: Stack, small: bool) -> None:
    pool: dict[str, Any] = dict(taps=3, stride=2, padding=1) if small else dict(taps=3, stride=2, ceil=True)
    if small:
        stack.conv("conv1", 192, 3, 1, 1, first=True)
    else:
        stack.conv("conv1", 64, 7, 2, 3, first=True)
        stack.pool(**pool)
        stack.conv("conv2 reduce", 64, 1)
        stack.conv("conv2", 192, 3, 1, 1)
        stack.pool(**pool)
    for name, widths in INCEPTION.items():
        if name in ("4a", "5a"):
            stack.pool(**pool)
        _inception(stack, name, *widths)


def _inception(
    stack: Stack, name: str, one: int, three_in: int, three: int, five_in: int, five: int, pool: int
) -> None:
    start = stack.map
    for label, taps, reduced, oc in (("1x1", 1, 0, one), ("3x3", 3, three_in, three), ("5x5", 5, five_in, five)):
        stack.map = start
        if reduced:
            stack.conv(f"{name} {label} reduce", reduced, 1)
        stack.conv(f"{name} {label}", oc, taps, 1, taps // 2)
    stack.map = start
    stack.conv(f"{name} pool", pool, 1)
    stack.map = (one + three + five + pool, *stack.map[1:])


def _resnet(blocks: tuple[int, ...]) -> Callable[[Stack, bool], None]:
    def build(stack: Stack, small: bool) -> None:
        if small:
            stack.conv("conv1", 64, 3, 1, 1, first=True)
        else:
            stack.conv("conv1", 64, 7, 2, 3, first=True)
            stack.pool(3, 2, 1)
        for stage, depth in enumerate(blocks, 1):
            for block in range(depth):
                _block(stack, f"layer{stage}.{block}", 32 << stage, 2 if stage > 1 and block == 0 else 1)

    return build


def _block(stack: Stack, name: str, oc: int, stride: int) -> None:
    start = stack.map
    stack.conv(f"{name}.conv1", oc, 3, stride, 1)
    if stride > 1:  # the shortcut reads the map before conv1, and gives one of the same size as conv1
        stack.map = start
        stack.conv(f"{name}.shortcut", oc, 1, stride)
    stack.conv(f"{name}.conv2", oc, 3, 1, 1)


def _halvings(stack: Stack) -> int:
    _, rows, columns = stack.map
    halvings = rows.bit_length() - 3
    if rows != columns or halvings < 1 or rows != 4 << halvings:
        raise ValueError("the image must be square, its side a power of two from 8")
    return halvings


def _discriminator(stack: Stack, small: bool) -> None:
    """No layer is a first one here: the generator learns from the gradient of the image."""
    for k in range(_halvings(stack)):
        stack.conv(f"conv{k + 1}", 64 << k, 4, 2, 1)
    stack.conv("verdict", 1, 4)


def _generator(stack: Stack, small: bool) -> None:
    halvings = _halvings(stack)
    stack.map = (100, 1, 1)  # the vector of random numbers
    stack.up("up1", 32 << halvings, 4, 1, first=True)
    for k in range(1, halvings + 1):
        stack.up(f"up{k + 1}", 32 << halvings - k if k < halvings else 3, 4, 2, 1)


def _unet(stack: Stack, small: bool) -> None:
    stack.map = (1, *stack.map[1:])  # a grey image
    for level in range(1, 6):
        for k in (1, 2):
            stack.conv(f"down{level}_{k}", 32 << level, 3, first=(level, k) == (1, 1))
        if level < 5:
            if stack.map[1] % 2 or stack.map[2] % 2:
                raise ValueError(
                    f"level {level} gives a {stack.map[1]}x{stack.map[2]} map, and pooling needs even sides"
                )
            stack.pool(2, 2)
    for level in range(4, 0, -1):
        oc = 32 << level
        stack.up(f"up{level}", oc, 2, 2)
        stack.map = (2 * oc, *stack.map[1:])  # the map from the way down, cropped, is put beside it
        for k in (1, 2):
            stack.conv(f"up{level}_{k}", oc, 3)
    stack.conv("last", 2, 1)


class Network(NamedTuple):
    """Title of a network, function that adds its layers to a `Stack`, and size of the image if none is given."""

    title: str
    build: Callable[[Stack, bool], None]
    default: int
    small: bool = True  # whether it has a form for small images


NETWORKS = {
    "alexnet": Network("AlexNet", _alexnet, 224),
    "vgg16": Network("VGG-16", _vgg((2, 2, 3, 3, 3)), 224),
    "vgg19": Network("VGG-19", _vgg((2, 2, 4, 4, 4)), 224),
    "googlenet": Network("GoogLeNet", _googlenet, 224),
    "resnet18": Network("ResNet-18", _resnet((2, 2, 2, 2)), 224),
    "resnet34": Network("ResNet-34", _resnet((3, 4, 6, 3)), 224),
    "dcgan-generator": Network("DCGAN generator", _generator, 64, small=False),
    "dcgan-discriminator": Network("DCGAN discriminator", _discriminator, 64, small=False),
    "unet": Network("U-Net", _unet, 572, small=False),
}


def layers(name: str, input: int | tuple[int, int] | None = None, batch: int = 1) -> tuple[Layer, ...]:
    """Return the convolutions of a network, in the order of the forward pass.

    Parameters
    ----------
    name : str
        A key of `NETWORKS`.
    input : int or (int, int), optional
        Rows and columns of the image; by default those of the network's paper.
    batch : int
        Number of images.

    Returns
    -------
    tuple of Layer

    Raises
    ------
    ValueError, TypeError
        For an unknown name, or an image that the network cannot take.

    Examples
    --------
    >>> first = layers("resnet18", 32)[0]
    >>> print(first.name, first.shape)
    conv1 x (1, 32, 32, 3) w (64, 3, 3, 3) y (1, 32, 32, 64) stride (1, 1) padding (1, 1, 1, 1)
    """
    network = NETWORKS[checks.choice("network", name, tuple(NETWORKS))]
    rows, columns = checks.integers("input", network.default if input is None else input, 1, 2)
    stack = Stack(checks.integer("batch", batch, 0), 3, rows, columns)
    try:
        network.build(stack, max(rows, columns) <= SMALL)
    except ValueError as error:
        raise ValueError(f"{name} cannot take an input of {rows}x{columns}: {error}") from None
    return tuple(stack.layers)
