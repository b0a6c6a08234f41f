"""VGG and ResNet in PyTorch: their convolutions, each with a batch normalisation, and one linear layer at the end.

The definitions are those of torchvision (models/vgg.py, models/resnet.py). In the small form, for images up to 64x64, a
ResNet begins with a 3x3 layer with stride 1 and no pooling. The linear layer reads the mean over the map, so a network
takes images of any size; pooling stops at maps of one pixel, so VGG-16 takes 8x8 too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from .. import checks

CLASSES = 10


class Pool(nn.MaxPool2d):
    """2x2 pooling that leaves a map with only one row or column as it is."""

    def forward(self, input: Tensor) -> Tensor:
        return input if min(input.shape[2:]) < 2 else super().forward(input)


def conv(ic: int, oc: int, taps: int, stride: int = 1) -> nn.Sequential:
    """Build a convolution with padding that keeps the size at stride 1, and a normalisation instead of a bias."""
    return nn.Sequential(nn.Conv2d(ic, oc, taps, stride, taps // 2, bias=False), nn.BatchNorm2d(oc))


class Block(nn.Module):
    """torchvision's BasicBlock."""

    conv1: nn.Sequential
    conv2: nn.Sequential
    shortcut: nn.Module
    relu: nn.ReLU

    def __init__(self, ic: int, oc: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(ic, oc, 3, stride), conv(oc, oc, 3)
        self.shortcut = conv(ic, oc, 1, stride) if stride > 1 else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.conv1(x))
        shortcut = self.shortcut(x)
        result: Tensor = self.relu(self.conv2(y) + shortcut)
        return result


def resnet(blocks: Sequence[int], channels: int = 3, small: bool = True) -> nn.Sequential:
    """Build a ResNet; `blocks` holds the number of blocks in each of its four stages."""
    parts: list[nn.Module] = [conv(channels, 64, 3 if small else 7, 1 if small else 2), nn.ReLU(inplace=True)]
    if not small:
        parts.append(nn.MaxPool2d(3, 2, 1))
    widths = ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))
    for (ic, oc, stride), depth in zip(widths, blocks, strict=True):
        parts += [Block(ic, oc, stride), *(Block(oc, oc, 1) for _ in range(depth - 1))]
    return nn.Sequential(*parts, *_head(512))


def vgg(text: str, channels: int = 3) -> nn.Sequential:
    """Build a VGG from a configuration of torchvision: a number is a 3x3 layer with so many channels, M is pooling."""
    parts: list[nn.Module] = []
    for word in text.split():
        if word == "M":
            parts.append(Pool(2))
            continue
        parts += [conv(channels, int(word), 3), nn.ReLU(inplace=True)]
        channels = int(word)
    return nn.Sequential(*parts, *_head(channels))


def little(channels: int = 3) -> nn.Sequential:
    """Build a network for tests and first tries: three layers, two of them with a stride."""
    parts: list[nn.Module] = []
    for ic, oc, stride in ((channels, 16, 2), (16, 32, 2), (32, 32, 1)):
        parts += [conv(ic, oc, 3, stride), nn.ReLU(inplace=True)]
    return nn.Sequential(*parts, *_head(32))


def _head(channels: int) -> tuple[nn.Module, ...]:
    """Build the last layers: the mean over the map, then a score for each class."""
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)


VGG16 = "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M"
MODELS: dict[str, Callable[[int], nn.Sequential]] = {  # each takes the number of channels of the image
    "vgg16": lambda channels: vgg(VGG16, channels),
    "resnet18": lambda channels: resnet((2, 2, 2, 2), channels),
    "resnet34": lambda channels: resnet((3, 4, 6, 3), channels),
    "little": little,
}


def build(name: str, channels: int) -> Any:
    """Return a network with new random weights.

    Parameters
    ----------
    name : str
        A key of `MODELS`.
    channels : int
        Channels of the image.

    Returns
    -------
    torch.nn.Sequential
        It maps (N, channels, H, W) to scores (N, 10).

    Raises
    ------
    ValueError
        For an unknown name.

    Examples
    --------
    >>> import torch
    >>> build("vgg16", 1)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    return MODELS[checks.choice("model", name, tuple(MODELS))](channels)
