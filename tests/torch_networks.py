"""Well-known networks built from torch.nn, without the parts that have no convolution. Imports PyTorch.

VGG and ResNet are those that `cks_numba.train` trains.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import Conv2d, ConvTranspose2d, MaxPool2d, Sequential

from cks_numba.train import architectures


class Inception(nn.Module):
    """Four parallel branches, with the widths of table 1 of the paper."""

    def __init__(self, ic: int, one: int, three_in: int, three: int, five_in: int, five: int, pool: int) -> None:
        super().__init__()
        self.one = Conv2d(ic, one, 1)
        self.three = Sequential(Conv2d(ic, three_in, 1), Conv2d(three_in, three, 3, padding=1))
        self.five = Sequential(Conv2d(ic, five_in, 1), Conv2d(five_in, five, 5, padding=2))
        self.pool = Sequential(MaxPool2d(3, 1, 1), Conv2d(ic, pool, 1))

    def forward(self, x):
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)


def googlenet(small: bool) -> nn.Module:
    def pool() -> nn.Module:
        return MaxPool2d(3, 2, padding=1) if small else MaxPool2d(3, 2, ceil_mode=True)

    stem = [Conv2d(3, 64, 7, 2, 3), pool(), Conv2d(64, 64, 1), Conv2d(64, 192, 3, padding=1), pool()]
    return Sequential(
        *([Conv2d(3, 192, 3, padding=1)] if small else stem),
        Inception(192, 64, 96, 128, 16, 32, 32),
        Inception(256, 128, 128, 192, 32, 96, 64),
        pool(),
        Inception(480, 192, 96, 208, 16, 48, 64),
        Inception(512, 160, 112, 224, 24, 64, 64),
        Inception(512, 128, 128, 256, 24, 64, 64),
        Inception(512, 112, 144, 288, 32, 64, 64),
        Inception(528, 256, 160, 320, 32, 128, 128),
        pool(),
        Inception(832, 256, 160, 320, 32, 128, 128),
        Inception(832, 384, 192, 384, 48, 128, 128),
    )


def alexnet(small: bool) -> nn.Module:
    pool = MaxPool2d(2 if small else 3, 2)
    parts = [Conv2d(3, 64, 11, 4, 5 if small else 2), pool, Conv2d(64, 192, 5, padding=2), pool]
    rest = ((192, 384), (384, 256), (256, 256))
    return Sequential(*parts, *(Conv2d(ic, oc, 3, padding=1) for ic, oc in rest))


def dcgan_generator() -> nn.Module:
    widths = (512, 256, 128, 64, 3)
    ups = (ConvTranspose2d(ic, oc, 4, 2, 1) for ic, oc in zip(widths, widths[1:], strict=False))
    return Sequential(ConvTranspose2d(100, 512, 4), *ups)


def dcgan_discriminator() -> nn.Module:
    widths = (3, 64, 128, 256, 512)
    downs = (Conv2d(ic, oc, 4, 2, 1) for ic, oc in zip(widths, widths[1:], strict=False))
    return Sequential(*downs, Conv2d(512, 1, 4))


def two(ic: int, oc: int) -> nn.Module:
    return Sequential(Conv2d(ic, oc, 3), Conv2d(oc, oc, 3))


class Unet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = (1, 64, 128, 256, 512, 1024)
        self.down = nn.ModuleList(two(ic, oc) for ic, oc in zip(widths, widths[1:], strict=False))
        self.up = nn.ModuleList(ConvTranspose2d(ic, ic // 2, 2, 2) for ic in widths[:1:-1])
        self.join = nn.ModuleList(two(ic, ic // 2) for ic in widths[:1:-1])
        self.last = Conv2d(64, 2, 1)

    def forward(self, x):
        kept = []
        for level, down in enumerate(self.down):
            x = down(nn.functional.max_pool2d(x, 2) if level else x)
            kept.append(x)
        for up, join, side in zip(self.up, self.join, kept[-2::-1], strict=True):
            x = up(x)
            first, size = (side.shape[2] - x.shape[2]) // 2, x.shape[2]
            x = join(torch.cat([side[:, :, first : first + size, first : first + size], x], 1))
        return self.last(x)


NETWORKS = {  # each is a function of whether the image is small
    "alexnet": alexnet,
    "vgg16": lambda small: architectures.vgg(architectures.VGG16),
    "vgg19": lambda small: architectures.vgg("64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512 M"),
    "googlenet": googlenet,
    "resnet18": lambda small: architectures.resnet((2, 2, 2, 2), small=small),
    "resnet34": lambda small: architectures.resnet((3, 4, 6, 3), small=small),
    "dcgan-generator": lambda small: dcgan_generator(),
    "dcgan-discriminator": lambda small: dcgan_discriminator(),
    "unet": lambda small: Unet(),
}


def layers(name: str, side: int, small: bool) -> list[tuple]:
    """Return the sizes of all convolutions, from hooks on the "meta" device, which computes nothing."""
    found = []

    def note(module, inputs, output):
        transposed = isinstance(module, ConvTranspose2d)
        maps = (output, inputs[0]) if transposed else (inputs[0], output)
        sizes = [(n, h, w, c) for n, c, h, w in (tuple(x.shape) for x in maps)]
        found.append((*sizes, module.kernel_size, module.stride, module.padding, transposed))

    image = {"unet": (1, 1, side, side), "dcgan-generator": (1, 100, 1, 1)}.get(name, (1, 3, side, side))
    with torch.device("meta"):
        network = NETWORKS[name](small)
        for module in network.modules():
            if isinstance(module, (Conv2d, ConvTranspose2d)):
                module.register_forward_hook(note)
        network(torch.empty(image))
    return found
