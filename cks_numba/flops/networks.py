"""The convolutional layers of networks that people train, for any size of image, volume or signal.

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
- unet3d: arXiv 1606.06650, figure 2: no padding, three channels, a tile of 132x132x116.
- r3d18: arXiv 1711.11248; torchvision/models/video/resnet.py: 16 frames of 112x112.
- gan3d-generator, gan3d-discriminator: arXiv 1610.07584: DCGAN with three axes, 200 random numbers and one channel.
- wavenet: arXiv 1609.03499, which leaves the channels open; these, and 100,000 samples to predict, are those of
  ibab/tensorflow-wavenet, wavenet_params.json and train.py: no padding, so the input is longer than the output.
- hifigan: generator V1 of arXiv 2010.05646 (appendix A); jik876/hifi-gan, models.py: 8192 samples of audio.
- ecg-resnet: Ribeiro et al. 2020, doi 10.1038/s41467-020-15432-4; antonior92/automatic-ecg-diagnosis, model.py:
  4096 samples of 12 leads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from .. import checks
from ..checks import Ints, Padding
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
    """Layers in their order, and the map (channels, then the size of every axis) that the next one reads."""

    def __init__(self, batch: int, channels: int, *sizes: int) -> None:
        self.batch = batch
        self.map: tuple[int, ...] = (channels, *sizes)
        self.layers: list[Layer] = []

    def conv(
        self,
        name: str,
        oc: int,
        taps: Ints,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: int = 1,
        first: bool = False,
    ) -> None:
        """Add a convolution."""
        ic, *sizes = self.map
        filters = checks.integers("taps", taps, 1, len(sizes))
        shape = ConvShape.of((self.batch, *sizes, ic), (oc, *filters, ic), stride, padding, dilation)
        self.layers.append(Layer(name, shape, first=first))
        self.map = (oc, *shape.y_shape[1:-1])

    def up(self, name: str, oc: int, taps: int, stride: int, padding: int = 0, first: bool = False) -> None:
        """Add a transposed convolution."""
        ic, *outputs = self.map
        sizes = [(size - 1) * stride - 2 * padding + taps for size in outputs]
        shape = ConvShape.of((self.batch, *sizes, oc), (ic, *[taps] * len(sizes), oc), stride, padding)
        self.layers.append(Layer(name, shape, transposed=True, first=first))
        self.map = (oc, *sizes)

    def pool(self, taps: int, stride: int, padding: int = 0, ceil: bool = False) -> None:
        """Make the map smaller."""
        channels, *sizes = self.map
        spare = stride - 1 if ceil else 0
        pooled = [(side + 2 * padding - taps + spare) // stride + 1 for side in sizes]
        if min(pooled) < 1:
            raise ValueError(f"a {by(sizes)} map cannot be pooled by {by([taps] * len(sizes))}")
        self.map = (channels, *pooled)

    def halve(self, level: int) -> None:
        """Pool by 2, as the networks do that later put the map beside one of twice the size."""
        if any(side % 2 for side in self.map[1:]):
            raise ValueError(f"level {level} gives a {by(self.map[1:])} map, and pooling needs even sides")
        self.pool(2, 2)


def by(numbers: Iterable[int]) -> str:
    """Join numbers with x, as in 3x3.

    Examples
    --------
    >>> by((132, 132, 116))
    '132x132x116'
    """
    return "x".join(map(str, numbers))


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
        _stages(stack, blocks)

    return build


def _stages(stack: Stack, blocks: tuple[int, ...]) -> None:
    for stage, depth in enumerate(blocks, 1):
        for block in range(depth):
            _block(stack, f"layer{stage}.{block}", 32 << stage, 2 if stage > 1 and block == 0 else 1)


def _block(stack: Stack, name: str, oc: int, stride: int) -> None:
    start = stack.map
    stack.conv(f"{name}.conv1", oc, 3, stride, 1)
    if stride > 1:  # the shortcut reads the map before conv1, and gives one of the same size as conv1
        stack.map = start
        stack.conv(f"{name}.shortcut", oc, 1, stride)
    stack.conv(f"{name}.conv2", oc, 3, 1, 1)


def _r3d(stack: Stack, small: bool) -> None:
    stack.conv("stem", 64, (3, 7, 7), (1, 2, 2), (1, 3, 3), first=True)
    _stages(stack, (2, 2, 2, 2))


def _halvings(stack: Stack) -> int:
    side, *others = stack.map[1:]
    halvings = side.bit_length() - 3
    if set(others) != {side} or halvings < 1 or side != 4 << halvings:
        form = "image must be square" if len(others) == 1 else "volume must be a cube"
        raise ValueError(f"the {form}, its side a power of two from 8")
    return halvings


def _discriminator(stack: Stack, small: bool) -> None:
    """No layer is a first one here: the generator learns from the gradient of the image."""
    for k in range(_halvings(stack)):
        stack.conv(f"conv{k + 1}", 64 << k, 4, 2, 1)
    stack.conv("verdict", 1, 4)


def _generator(numbers: int) -> Callable[[Stack, bool], None]:
    """Layers that draw an image from so many random numbers."""

    def build(stack: Stack, small: bool) -> None:
        halvings, (channels, *sizes) = _halvings(stack), stack.map
        stack.map = (numbers, *[1] * len(sizes))
        stack.up("up1", 32 << halvings, 4, 1, first=True)
        for k in range(1, halvings + 1):
            stack.up(f"up{k + 1}", 32 << halvings - k if k < halvings else channels, 4, 2, 1)

    return build


def _unet(stack: Stack, small: bool) -> None:
    for level in range(1, 6):
        for k in (1, 2):
            stack.conv(f"down{level}_{k}", 32 << level, 3, first=(level, k) == (1, 1))
        if level < 5:
            stack.halve(level)
    for level in range(4, 0, -1):
        oc = 32 << level
        stack.up(f"up{level}", oc, 2, 2)
        stack.map = (2 * oc, *stack.map[1:])  # the map from the way down, cropped, is put beside it
        for k in (1, 2):
            stack.conv(f"up{level}_{k}", oc, 3)
    stack.conv("last", 2, 1)


def _unet3d(stack: Stack, small: bool) -> None:
    for level in range(1, 5):
        stack.conv(f"down{level}_1", 16 << level, 3, first=level == 1)
        stack.conv(f"down{level}_2", 32 << level, 3)
        if level < 4:
            stack.halve(level)
    for level in range(3, 0, -1):
        stack.up(f"up{level}", 64 << level, 2, 2)
        stack.map = ((64 << level) + (32 << level), *stack.map[1:])  # the map from the way down, cropped, beside it
        for k in (1, 2):
            stack.conv(f"up{level}_{k}", 32 << level, 3)
    stack.conv("last", 3, 1)


def _wavenet(stack: Stack, small: bool) -> None:
    dilations = [1 << k for k in range(10)]
    quantized, predicted = stack.map
    stack.map = (quantized, predicted + 1 + 5 * sum(dilations))
    stack.conv("causal", 32, 2, first=True)
    for block in range(1, 6):
        for dilation in dilations:
            _gated(stack, f"{block}.{dilation}", dilation, predicted, last=(block, dilation) == (5, 512))
    stack.map = (512, predicted)  # the sum of all skips
    stack.conv("after1", 512, 1)
    stack.conv("after2", quantized, 1)


def _gated(stack: Stack, name: str, dilation: int, predicted: int, last: bool) -> None:
    start = stack.map
    for part in ("filter", "gate"):
        stack.map = start
        stack.conv(f"{name} {part}", 32, 2, dilation=dilation)
    gated = stack.map
    stack.map = (32, predicted)  # the last samples
    stack.conv(f"{name} skip", 512, 1)
    stack.map = gated
    if not last:  # nothing reads what this layer would give in the last block
        stack.conv(f"{name} dense", 32, 1)


def _hifigan(stack: Stack, small: bool) -> None:
    channels, samples = stack.map
    if samples % 256:
        raise ValueError("the samples must be a multiple of 256, the step from one spectrum to the next")
    stack.map = (channels, samples // 256)
    stack.conv("pre", 512, 7, 1, 3, first=True)
    for k, (taps, stride) in enumerate(((16, 8), (16, 8), (4, 2), (4, 2)), 1):
        stack.up(f"up{k}", 512 >> k, taps, stride, (taps - stride) // 2)
        for width in (3, 7, 11):
            for dilation in (1, 3, 5):
                half = width // 2
                stack.conv(f"up{k} {width}.{dilation} one", 512 >> k, width, 1, half * dilation, dilation)
                stack.conv(f"up{k} {width}.{dilation} two", 512 >> k, width, 1, half)
    stack.conv("post", 1, 7, 1, 3)


def _ecg(stack: Stack, small: bool) -> None:
    """Sixteen taps, padded as Keras pads: y has a sample for every one of x, or for every four."""
    if stack.map[1] % 256:
        raise ValueError("the samples must be a multiple of 256: four layers keep one of four")
    stack.conv("conv1", 64, 16, 1, (7, 8), first=True)
    for k, oc in enumerate((128, 196, 256, 320), 1):
        start = stack.map
        stack.pool(4, 4)
        stack.conv(f"unit{k}.shortcut", oc, 1)
        stack.map = start
        stack.conv(f"unit{k}.conv1", oc, 16, 1, (7, 8))
        stack.conv(f"unit{k}.conv2", oc, 16, 4, 6)


class Network(NamedTuple):
    """Title of a network, function that adds its layers to a `Stack`, and the input if no size is given."""

    title: str
    build: Callable[[Stack, bool], None]
    default: tuple[int, ...]
    channels: int = 3
    small: bool = False  # whether it has a form for small images


NETWORKS = {
    "alexnet": Network("AlexNet", _alexnet, (224, 224), small=True),
    "vgg16": Network("VGG-16", _vgg((2, 2, 3, 3, 3)), (224, 224), small=True),
    "vgg19": Network("VGG-19", _vgg((2, 2, 4, 4, 4)), (224, 224), small=True),
    "googlenet": Network("GoogLeNet", _googlenet, (224, 224), small=True),
    "resnet18": Network("ResNet-18", _resnet((2, 2, 2, 2)), (224, 224), small=True),
    "resnet34": Network("ResNet-34", _resnet((3, 4, 6, 3)), (224, 224), small=True),
    "dcgan-generator": Network("DCGAN generator", _generator(100), (64, 64)),
    "dcgan-discriminator": Network("DCGAN discriminator", _discriminator, (64, 64)),
    "unet": Network("U-Net", _unet, (572, 572), channels=1),
    "unet3d": Network("3-D U-Net", _unet3d, (132, 132, 116)),
    "r3d18": Network("R3D-18", _r3d, (16, 112, 112)),
    "gan3d-generator": Network("3-D GAN generator", _generator(200), (64, 64, 64), channels=1),
    "gan3d-discriminator": Network("3-D GAN discriminator", _discriminator, (64, 64, 64), channels=1),
    "wavenet": Network("WaveNet", _wavenet, (100_000,), channels=256),
    "hifigan": Network("HiFi-GAN V1 generator", _hifigan, (8192,), channels=80),
    "ecg-resnet": Network("ECG ResNet", _ecg, (4096,), channels=12),
}


def layers(name: str, input: int | tuple[int, ...] | None = None, batch: int = 1) -> tuple[Layer, ...]:
    """Return the convolutions of a network, in the order of the forward pass.

    Parameters
    ----------
    name : str
        A key of `NETWORKS`.
    input : int, or an int for each axis, optional
        Rows and columns of the image, sizes of the volume, or samples (for a generator: of what it makes; for
        WaveNet: that it predicts); by default those of the network's source.
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
    sizes = size(name, input)
    stack = Stack(checks.integer("batch", batch, 0), network.channels, *sizes)
    try:
        network.build(stack, network.small and max(sizes) <= SMALL)
    except ValueError as error:
        raise ValueError(f"{name} cannot take an input of {by(sizes)}: {error}") from None
    return tuple(stack.layers)


def size(name: str, input: int | tuple[int, ...] | None = None) -> tuple[int, ...]:
    """Return the size of the input on every axis, the network's own if none is given.

    Raises
    ------
    ValueError, TypeError
        For a number of axes that the network does not have, or no sizes.

    Examples
    --------
    >>> size("resnet18", 32), size("wavenet")
    ((32, 32), (100000,))
    """
    default = NETWORKS[name].default
    return checks.integers("input", default if input is None else input, 1, len(default))
