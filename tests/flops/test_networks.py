"""The layers of networks, against published numbers and against PyTorch's own shapes."""

from __future__ import annotations

import math

import pytest

from cks_numba import flops
from cks_numba.flops import networks
from cks_numba.geometry import ConvShape

# Billions of multiply-adds at 224x224 as torchvision states them ("_ops" of the weights in torchvision/models/*.py),
# and how many of them the fully connected layers do: inputs times outputs.
TORCHVISION = {
    "alexnet": (0.714, 9216 * 4096 + 4096 * 4096 + 4096 * 1000),
    "vgg16": (15.47, 25088 * 4096 + 4096 * 4096 + 4096 * 1000),
    "vgg19": (19.632, 25088 * 4096 + 4096 * 4096 + 4096 * 1000),
    "resnet18": (1.814, 512 * 1000),
    "resnet34": (3.664, 512 * 1000),
}
# Millions of multiply-adds of the inception blocks in table 1 of arXiv 1409.4842, column "ops". Block 5a is left
# out: the table states 54, but its widths give 51.
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


def weights(name: str) -> int:
    return sum(math.prod(layer.shape.w_shape) for layer in networks.layers(name))


def test_unet3d_has_the_sizes_and_the_parameters_of_its_paper() -> None:
    layers = networks.layers("unet3d")
    assert layers[0].shape.x_shape == (1, 132, 132, 116, 3) and layers[-1].shape.y_shape == (1, 44, 44, 28, 3)
    biases = sum(layer.shape.oc for layer in layers if not layer.transposed)
    assert weights("unet3d") + biases == 19_069_955  # stated in section 2, where up-convolutions have no bias


def test_r3d18_is_what_torchvision_states() -> None:
    """Its "num_params" and "_ops", in torchvision/models/video/resnet.py."""
    layers = networks.layers("r3d18")
    normalised = sum(layer.shape.oc for layer in layers)
    assert weights("r3d18") + 2 * normalised + 513 * 400 == 33_371_472
    forward = flops.network("r3d18").of("forward").regular + 512 * 400
    assert forward / 1e9 == pytest.approx(40.697, abs=5e-4)


def test_the_generators_make_what_their_papers_say() -> None:
    assert networks.layers("gan3d-generator")[-1].shape.x_shape == (1, 64, 64, 64, 1)
    assert networks.layers("hifigan")[-1].shape.y_shape == (1, 8192, 1)
    assert networks.layers("wavenet")[-1].shape.y_shape == (1, 100_000, 256)


# --- passes ----------------------------------------------------------------------------------------
def test_a_first_layer_has_no_input_gradient_and_a_discriminator_has_one() -> None:
    for name in networks.NETWORKS:
        layers = flops.network(name).layers
        without = [k for k, layer in enumerate(layers) if "input gradient" not in layer.passes]
        assert without == ([] if name.endswith("discriminator") else [0]), name


def test_a_transposed_layer_runs_the_input_gradient_forward() -> None:
    layer = networks.layers("dcgan-generator", 32)[1]
    assert layer.transposed and layer.shape.y_shape == (1, 4, 4, 256) and layer.shape.x_shape == (1, 8, 8, 128)
    passes = flops.layer_count(layer).passes
    assert passes["forward"] == flops.count("conv2d_input", layer.shape)
    assert passes["input gradient"] == flops.count("conv2d", layer.shape)
    assert passes["weight gradient"] == flops.count("conv2d_weight", layer.shape)


@pytest.mark.parametrize("kind", ["dcgan", "gan3d"])
def test_a_generator_mirrors_its_discriminator(kind: str) -> None:
    down, up = (networks.layers(f"{kind}-{name}", 64) for name in ("discriminator", "generator"))
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
        (("gan3d-generator", (32, 64, 64)), ValueError, "input of 32x64x64: the volume must be a cube"),
        (("resnet18", (8, 32, 32)), ValueError, "input must be an int or a pair"),
        (("unet3d", 130), ValueError, "unet3d cannot take an input of 130x130x130: level 2 .* even sides"),
        (("hifigan", 1000), ValueError, "hifigan cannot take an input of 1000: .* a multiple of 256"),
        (("ecg-resnet", 1000), ValueError, "ecg-resnet cannot take an input of 1000: .* a multiple of 256"),
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
SMALL = [name for name, network in networks.NETWORKS.items() if network.small]


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize(
    ("name", "side"),
    [*((name, None) for name in networks.NETWORKS), *((name, side) for name in SMALL for side in (32, 64))],
)
def test_layers_are_those_of_pytorch(name: str, side: int | None) -> None:
    pytest.importorskip("torch", reason="compares with PyTorch")
    from torch_networks import layers

    ours = [
        (s.x_shape, s.y_shape, s.w_shape[1:-1], s.stride, tuple(p for p, _ in s.padding), s.dilation, transposed)
        for _, s, transposed, _ in networks.layers(name, side)
    ]
    assert ours == layers(name, side or networks.NETWORKS[name].default[-1], small=side is not None)
