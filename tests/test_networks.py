"""The layers of networks, against numbers that others give and against PyTorch's own shapes."""

from __future__ import annotations

import pytest

from cks_numba import flops, networks
from cks_numba.geometry import ConvShape

# Billions of multiply-adds at 224x224 as torchvision states them ("_ops" of the weights in torchvision/models/*.py),
# and the fully connected layers in them: inputs times outputs.
TORCHVISION = {
    "alexnet": (0.714, 9216 * 4096 + 4096 * 4096 + 4096 * 1000),
    "vgg16": (15.47, 25088 * 4096 + 4096 * 4096 + 4096 * 1000),
    "vgg19": (19.632, 25088 * 4096 + 4096 * 4096 + 4096 * 1000),
    "resnet18": (1.814, 512 * 1000),
    "resnet34": (3.664, 512 * 1000),
}
# Millions of multiply-adds of the inception blocks in table 1 of arXiv 1409.4842, column "ops". Left out is 5a,
# where the widths of the table give 51 and not the 54 that it states.
INCEPTION = {"3a": 128, "3b": 304, "4a": 73, "4b": 88, "4c": 100, "4d": 119, "4e": 170, "5b": 71}


@pytest.mark.parametrize("name", TORCHVISION)
def test_forward_is_what_torchvision_states(name: str) -> None:
    stated, connected = TORCHVISION[name]
    assert (flops.network(name).of("forward").regular + connected) / 1e9 == pytest.approx(stated, abs=5e-4)


def test_googlenet_is_what_torchvision_states_but_for_its_5x5_filters() -> None:
    found = flops.network("googlenet").layers
    regular = sum(
        layer.passes["forward"].regular * (9 / 25 if layer.layer.name.endswith("5x5") else 1) for layer in found
    )
    assert (regular + 1024 * 1000) / 1e9 == pytest.approx(1.498, abs=5e-4)


@pytest.mark.parametrize("block", INCEPTION)
def test_googlenet_is_the_table_of_its_paper(block: str) -> None:
    found = [layer for layer in flops.network("googlenet").layers if layer.layer.name.startswith(block)]
    assert len(found) == 6
    regular = sum(layer.passes["forward"].regular for layer in found)
    assert regular / 1e6 == pytest.approx(INCEPTION[block], abs=1.5)


def test_unet_has_the_sizes_of_its_paper() -> None:
    shapes = {layer.name: layer.shape for layer in networks.layers("unet")}
    assert (shapes["down1_1"].x_shape, shapes["down5_2"].y_shape) == ((1, 572, 572, 1), (1, 28, 28, 1024))
    assert (shapes["up4"].x_shape, shapes["up4"].y_shape) == ((1, 56, 56, 512), (1, 28, 28, 1024))
    assert shapes["up4_1"].x_shape == (1, 56, 56, 1024) and shapes["last"].y_shape == (1, 388, 388, 2)
    assert len(shapes) == 23


# --- passes ----------------------------------------------------------------------------------------
def test_a_first_layer_has_no_input_gradient_and_a_discriminator_has_one() -> None:
    for name in networks.NETWORKS:
        layers = flops.network(name).layers
        without = [k for k, layer in enumerate(layers) if "input gradient" not in layer.passes]
        assert without == ([] if name == "dcgan-discriminator" else [0]), name


def test_a_transposed_layer_runs_the_input_gradient_forward() -> None:
    layer = networks.layers("dcgan-generator", 32)[1]
    assert layer.transposed and layer.shape.y_shape == (1, 4, 4, 256) and layer.shape.x_shape == (1, 8, 8, 128)
    passes = flops.layer_count(layer).passes
    assert passes["forward"] == flops.count("conv2d_input", layer.shape)
    assert passes["input gradient"] == flops.count("conv2d", layer.shape)
    assert passes["weight gradient"] == flops.count("conv2d_weight", layer.shape)


def test_a_generator_mirrors_its_discriminator() -> None:
    down, up = (networks.layers(f"dcgan-{name}", 64) for name in ("discriminator", "generator"))
    assert [layer.shape for layer in up[:0:-1]] == [layer.shape for layer in down[:-1]]


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_everything_grows_with_the_batch(name: str) -> None:
    one, four = flops.network(name).total, flops.network(name, batch=4).total
    assert four.useful == 4 * one.useful and four.redundant == 4 * one.redundant and four.bytes < 4 * one.bytes
    assert flops.network(name, batch=0).total.regular == 0


def test_images_need_not_be_square() -> None:
    assert networks.layers("vgg16", (96, 64))[-1].shape.x_shape == (1, 6, 4, 512)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("resnet",), ValueError, "network must be one of 'alexnet', .*, got 'resnet'"),
        (("alexnet", 0), ValueError, "input must be at least 1, got 0"),
        (("alexnet", "big"), TypeError, "input must be an int, got 'big'"),
        (("alexnet", 2), ValueError, "alexnet cannot take an input of 2x2: .*pooled"),
        (("vgg16", 8), ValueError, "vgg16 cannot take an input of 8x8: a 1x1 map cannot be pooled by 2x2"),
        (("dcgan-generator", 48), ValueError, "dcgan-generator cannot take .* a power of two from 8"),
        (("dcgan-discriminator", (32, 64)), ValueError, "must be square"),
        (("unet", 570), ValueError, "unet cannot take an input of 570x570: level 2 gives a 279x279 map"),
        (("unet", 60), ValueError, "unet cannot take an input of 60x60"),
        (("vgg16", 32, -1), ValueError, "batch must be at least 0, got -1"),
        (([ConvShape(n=1, ih=3, iw=3, ic=1, oc=1, fh=3, fw=3)], 32), ValueError, "go with the name of a network"),
        ((["vgg16"],), TypeError, "a layer must be a Layer or a ConvShape, got 'vgg16'"),
    ],
)
def test_errors_say_what_is_wrong(arguments, error, message) -> None:
    with pytest.raises(error, match=message):
        flops.network(*arguments)


# --- PyTorch ---------------------------------------------------------------------------------------
def torch_network(name: str, small: bool):
    """The same networks from torch.nn, by the files that networks.py names."""
    from torch import nn

    class Block(nn.Module):
        def __init__(self, ic, oc, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(ic, oc, 3, stride, 1)
            self.shortcut = nn.Conv2d(ic, oc, 1, stride) if stride > 1 else nn.Identity()
            self.conv2 = nn.Conv2d(oc, oc, 3, 1, 1)

        def forward(self, x):
            y = self.conv1(x)
            shortcut = self.shortcut(x)
            return self.conv2(y) + shortcut

    class Unet(nn.Module):
        def __init__(self):
            super().__init__()
            widths = (1, 64, 128, 256, 512, 1024)
            self.down = nn.ModuleList(
                nn.Sequential(nn.Conv2d(a, b, 3), nn.Conv2d(b, b, 3)) for a, b in zip(widths, widths[1:], strict=False)
            )
            self.up = nn.ModuleList(nn.ConvTranspose2d(b, b // 2, 2, 2) for b in widths[:1:-1])
            self.join = nn.ModuleList(
                nn.Sequential(nn.Conv2d(b, b // 2, 3), nn.Conv2d(b // 2, b // 2, 3)) for b in widths[:1:-1]
            )
            self.last = nn.Conv2d(64, 2, 1)

        def forward(self, x):
            import torch

            kept = []
            for k, level in enumerate(self.down):
                x = level(nn.functional.max_pool2d(x, 2) if k else x)
                kept.append(x)
            for up, join, side in zip(self.up, self.join, kept[-2::-1], strict=True):
                x = up(x)
                cut = (side.shape[2] - x.shape[2]) // 2
                x = join(torch.cat([side[:, :, cut : cut + x.shape[2], cut : cut + x.shape[3]], x], 1))
            return self.last(x)

    def resnet(blocks):
        stem = [nn.Conv2d(3, 64, 3, 1, 1)] if small else [nn.Conv2d(3, 64, 7, 2, 3), nn.MaxPool2d(3, 2, 1)]
        widths = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
        for (ic, oc, stride), depth in zip(widths, blocks, strict=True):
            stem += [Block(ic, oc, stride), *(Block(oc, oc, 1) for _ in range(depth - 1))]
        return nn.Sequential(*stem)

    def vgg(text):
        parts, ic = [], 3
        for word in text.split():
            parts.append(nn.MaxPool2d(2, 2) if word == "M" else nn.Conv2d(ic, int(word), 3, padding=1))
            ic = ic if word == "M" else int(word)
        return nn.Sequential(*parts)

    pool = nn.MaxPool2d(2 if small else 3, 2)
    alexnet = [nn.Conv2d(3, 64, 11, 4, 5 if small else 2), pool, nn.Conv2d(64, 192, 5, padding=2), pool]
    alexnet += [nn.Conv2d(ic, oc, 3, padding=1) for ic, oc in ((192, 384), (384, 256), (256, 256))]
    widths = (100, 512, 256, 128, 64, 3)
    up = [nn.ConvTranspose2d(*pair, 4, 2, 1) for pair in zip(widths[1:], widths[2:], strict=False)]
    down = [nn.Conv2d(a, b, 4, 2, 1) for a, b in zip((3, 64, 128, 256), (64, 128, 256, 512), strict=True)]
    return {
        "alexnet": lambda: nn.Sequential(*alexnet),
        "vgg16": lambda: vgg("64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M"),
        "vgg19": lambda: vgg("64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512 M"),
        "resnet18": lambda: resnet((2, 2, 2, 2)),
        "resnet34": lambda: resnet((3, 4, 6, 3)),
        "dcgan-generator": lambda: nn.Sequential(nn.ConvTranspose2d(100, 512, 4), *up),
        "dcgan-discriminator": lambda: nn.Sequential(*down, nn.Conv2d(512, 1, 4)),
        "unet": Unet,
    }[name]()


def torch_layers(network, image):
    """Sizes of all convolutions, as hooks see them on the "meta" device, which computes nothing."""
    import torch

    found = []

    def note(module, inputs, output):
        transposed = isinstance(module, torch.nn.ConvTranspose2d)
        big, small = (output, inputs[0]) if transposed else (inputs[0], output)
        sizes = [(n, h, w, c) for n, c, h, w in (tuple(big.shape), tuple(small.shape))]
        found.append((*sizes, module.kernel_size, module.stride, module.padding, transposed))

    for module in network.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)):
            module.register_forward_hook(note)
    network(torch.empty(image, device="meta"))
    return found


@pytest.mark.torch
@pytest.mark.parametrize("size", [None, 32, 64])
@pytest.mark.parametrize("name", [name for name in networks.NETWORKS if name != "googlenet"])
def test_layers_are_those_of_pytorch(name: str, size: int | None) -> None:
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    if name == "unet" or (name.startswith("dcgan") and size == 32):
        size = None  # has one size only, here
    with torch.device("meta"):
        network = torch_network(name, size is not None)
    side = size or networks.NETWORKS[name].default
    image = {"unet": (1, 1, side, side), "dcgan-generator": (1, 100, 1, 1)}.get(name, (1, 3, side, side))
    wanted = torch_layers(network, image)
    ours = [
        (s.x_shape, s.y_shape, (s.fh, s.fw), s.stride, tuple(p for p, _ in s.padding), transposed)
        for _, s, transposed, _ in networks.layers(name, size)
    ]
    assert ours == wanted
