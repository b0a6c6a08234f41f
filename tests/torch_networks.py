"""Well-known networks built from torch.nn, without the parts that have no convolution. Imports PyTorch.

VGG and ResNet are those that `cks_numba.train` trains.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d, MaxPool2d, Sequential

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


def gan_generator(up: type[nn.Module], numbers: int, channels: int) -> nn.Module:
    widths = (512, 256, 128, 64, channels)
    ups = (up(ic, oc, 4, 2, 1) for ic, oc in zip(widths, widths[1:], strict=False))
    return Sequential(up(numbers, 512, 4), *ups)


def gan_discriminator(conv: type[nn.Module], channels: int) -> nn.Module:
    widths = (channels, 64, 128, 256, 512)
    downs = (conv(ic, oc, 4, 2, 1) for ic, oc in zip(widths, widths[1:], strict=False))
    return Sequential(*downs, conv(512, 1, 4))


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


def centre(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Crop the map x to the size of another one."""
    for axis in range(2, x.ndim):
        x = x.narrow(axis, (x.shape[axis] - like.shape[axis]) // 2, like.shape[axis])
    return x


class Unet3d(nn.Module):
    def __init__(self) -> None:
        super().__init__()

        def pair(*widths: int) -> nn.Module:
            steps = zip(widths, widths[1:], strict=False)
            return Sequential(*(Conv3d(ic, oc, 3) for ic, oc in steps))

        self.down = nn.ModuleList([pair(3, 32, 64), pair(64, 64, 128), pair(128, 128, 256), pair(256, 256, 512)])
        self.up = nn.ModuleList(ConvTranspose3d(width, width, 2, 2) for width in (512, 256, 128))
        self.join = nn.ModuleList([pair(768, 256, 256), pair(384, 128, 128), pair(192, 64, 64)])
        self.last = Conv3d(64, 3, 1)

    def forward(self, x):
        kept = []
        for level, down in enumerate(self.down):
            x = down(nn.functional.max_pool3d(x, 2) if level else x)
            kept.append(x)
        for up, join, side in zip(self.up, self.join, kept[-2::-1], strict=True):
            x = up(x)
            x = join(torch.cat([centre(side, x), x], 1))
        return self.last(x)


class Block3d(nn.Module):
    """A residual block of R3D-18, without batch normalisation."""

    def __init__(self, ic: int, oc: int, stride: int) -> None:
        super().__init__()
        self.one = Conv3d(ic, oc, 3, stride, 1, bias=False)
        self.shortcut = Conv3d(ic, oc, 1, stride, bias=False) if stride > 1 else nn.Identity()
        self.two = Conv3d(oc, oc, 3, 1, 1, bias=False)

    def forward(self, x):
        first, side = self.one(x), self.shortcut(x)
        return self.two(first) + side


class WaveNet(nn.Module):
    """The sum of the skips of fifty gated layers."""

    def __init__(self) -> None:
        super().__init__()
        self.causal = Conv1d(256, 32, 2)
        self.gates = nn.ModuleList()
        for dilation in [1 << k for k in range(10)] * 5:
            gated = [Conv1d(32, 32, 2, dilation=dilation) for _ in range(2)]
            self.gates.append(nn.ModuleList([*gated, Conv1d(32, 512, 1), Conv1d(32, 32, 1)]))
        self.gates[-1] = self.gates[-1][:3]
        self.after = Sequential(Conv1d(512, 512, 1), Conv1d(512, 256, 1))

    def forward(self, x):
        predicted = x.shape[2] - 1 - 5 * 1023
        x, total = self.causal(x), 0
        for first, gate, skip, *dense in self.gates:
            out = torch.tanh(first(x)) * torch.sigmoid(gate(x))
            total = total + skip(out[:, :, out.shape[2] - predicted :])
            for conv in dense:
                x = x[:, :, x.shape[2] - out.shape[2] :] + conv(out)
        return self.after(total)


class Blocks(nn.Module):
    """The three residual blocks of HiFi-GAN at one width, and their mean."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        for taps in (3, 7, 11):
            pairs = [
                (
                    Conv1d(width, width, taps, padding=taps // 2 * d, dilation=d),
                    Conv1d(width, width, taps, padding="same"),
                )
                for d in (1, 3, 5)
            ]
            self.blocks.append(nn.ModuleList(Sequential(*pair) for pair in pairs))

    def forward(self, x):
        results = []
        for block in self.blocks:
            result = x
            for pair in block:
                result = result + pair(result)
            results.append(result)
        return sum(results) / len(results)


def hifigan() -> nn.Module:
    ups = []
    for width, taps, stride in ((512, 16, 8), (256, 16, 8), (128, 4, 2), (64, 4, 2)):
        ups += [ConvTranspose1d(width, width // 2, taps, stride, (taps - stride) // 2), Blocks(width // 2)]
    return Sequential(Conv1d(80, 512, 7, padding=3), *ups, Conv1d(32, 1, 7, padding=3))


class EcgUnit(nn.Module):
    def __init__(self, ic: int, oc: int) -> None:
        super().__init__()
        self.shortcut = Sequential(nn.MaxPool1d(4, 4), Conv1d(ic, oc, 1))
        self.body = Sequential(Conv1d(ic, oc, 16, padding="same"), Conv1d(oc, oc, 16, 4, 6))

    def forward(self, x):
        return self.shortcut(x) + self.body(x)


def ecg_resnet() -> nn.Module:
    widths = (64, 128, 196, 256, 320)
    units = (EcgUnit(ic, oc) for ic, oc in zip(widths, widths[1:], strict=False))
    return Sequential(Conv1d(12, 64, 16, padding="same"), *units)


def r3d18() -> nn.Module:
    widths = (64, 64, 128, 256, 512)
    stages = zip(widths, widths[1:], strict=False)
    blocks = [Sequential(Block3d(ic, oc, 1 if ic == oc else 2), Block3d(oc, oc, 1)) for ic, oc in stages]
    return Sequential(Conv3d(3, 64, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False), *blocks)


NETWORKS = {  # each is a function of whether the image is small
    "alexnet": alexnet,
    "vgg16": lambda small: architectures.vgg(architectures.VGG16),
    "vgg19": lambda small: architectures.vgg("64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512 M"),
    "googlenet": googlenet,
    "resnet18": lambda small: architectures.resnet((2, 2, 2, 2), small=small),
    "resnet34": lambda small: architectures.resnet((3, 4, 6, 3), small=small),
    "dcgan-generator": lambda small: gan_generator(ConvTranspose2d, 100, 3),
    "dcgan-discriminator": lambda small: gan_discriminator(Conv2d, 3),
    "unet": lambda small: Unet(),
    "unet3d": lambda small: Unet3d(),
    "r3d18": lambda small: r3d18(),
    "gan3d-generator": lambda small: gan_generator(ConvTranspose3d, 200, 1),
    "gan3d-discriminator": lambda small: gan_discriminator(Conv3d, 1),
    "wavenet": lambda small: WaveNet(),
    "hifigan": lambda small: hifigan(),
    "ecg-resnet": lambda small: ecg_resnet(),
}
# The channels of the input and its sizes, for networks whose input is no image of three channels.
INPUTS = {
    "unet": (1, 572, 572),
    "dcgan-generator": (100, 1, 1),
    "unet3d": (3, 132, 132, 116),
    "r3d18": (3, 16, 112, 112),
    "gan3d-generator": (200, 1, 1, 1),
    "gan3d-discriminator": (1, 64, 64, 64),
    "wavenet": (256, 100_000 + 5 * 1023 + 1),
    "hifigan": (80, 32),
    "ecg-resnet": (12, 4096),
}
TRANSPOSED = (ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)


def build(name: str, small: bool = False) -> nn.Module:
    """Return a network on the "meta" device, which computes nothing."""
    with torch.device("meta"):
        return NETWORKS[name](small)


def layers(name: str, side: int, small: bool) -> list[tuple]:
    """Return the sizes of all convolutions, from hooks; `side` is that of an image of three channels."""
    found = []

    def note(module, inputs, output):
        transposed = isinstance(module, TRANSPOSED)
        maps = (output, inputs[0]) if transposed else (inputs[0], output)
        sizes = [(n, *size, c) for n, c, *size in (tuple(x.shape) for x in maps)]
        padding = module.padding
        if padding == "same":  # an odd total puts one more zero at the end
            padding = tuple((taps - 1) // 2 for taps in module.kernel_size)
        found.append((*sizes, module.kernel_size, module.stride, padding, module.dilation, transposed))

    network = build(name, small)
    for module in network.modules():
        if isinstance(module, (Conv1d, Conv2d, Conv3d, *TRANSPOSED)):
            module.register_forward_hook(note)
    network(torch.empty((1, *INPUTS.get(name, (3, side, side))), device="meta"))
    return found
