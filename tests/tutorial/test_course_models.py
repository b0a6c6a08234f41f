"""The models of lessons 06 and 08: occupancy, machine code from a file, cost."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest

from cks_numba import flops
from cks_numba.geometry import ConvShape
from cks_numba.tutorial import cards, cost, machine_code

RNG = np.random.default_rng(0)
LAYER = ConvShape(n=4, ih=8, iw=8, ic=16, oc=16, fh=3, fw=3, padding=1)


@pytest.mark.parametrize("card", cards.CARDS.values(), ids=lambda card: card.name)
def test_the_data_sheet_follows_from_the_formula(card):
    assert card.by_formula == pytest.approx(card.peak, rel=0.01)


@pytest.mark.parametrize(
    ("registers", "shared", "threads", "expected"),
    [
        (32, 0, 256, (1.0, "registers")),  # registers and threads both allow eight blocks
        (128, 0, 256, (0.25, "registers")),
        (16, 100 * 1024, 128, (2 * 128 / 2048, "shared memory")),
        (16, 0, 32, (0.5, "blocks")),
    ],
)
def test_occupancy(registers, shared, threads, expected):
    assert cards.occupancy(cards.CARDS["H100"], registers, shared, threads) == expected


@pytest.mark.parametrize("m", cost.WINOGRAD)
def test_the_transforms_of_winograd(m):
    of_input, of_filter, of_output = cost.WINOGRAD[m]
    d, g = RNG.standard_normal((m + 2, m + 2)), RNG.standard_normal((3, 3))
    tile = of_output @ ((of_filter @ g @ of_filter.T) * (of_input @ d @ of_input.T)) @ of_output.T
    direct = [[(d[i : i + 3, j : j + 3] * g).sum() for j in range(m)] for i in range(m)]
    np.testing.assert_allclose(tile, direct, rtol=1e-10, atol=1e-12)


def test_products_of_winograd():
    odd = ConvShape(n=1, ih=5, iw=5, ic=1, oc=1, fh=3, fw=3, padding=1)
    ends = [cost.transform(matrix) for matrix in cost.WINOGRAD[2]]
    tiles = ceil(5 / 2) ** 2
    assert cost.winograd(odd, 2) == tiles * (16 + ends[0] + ends[2]) + ends[1]
    assert ends[::2] == [32, 24]  # the counts of arXiv 1509.09308


@pytest.mark.parametrize("change", [dict(stride=2), dict(dilation=2), dict(fh=5, fw=5), dict(groups=2)])
def test_winograd_does_not_always_apply(change):
    sizes = dict(n=1, ih=9, iw=9, ic=2, oc=2, fh=3, fw=3, padding=1)
    assert cost.winograd(ConvShape(**{**sizes, **change}), 2) is None


def test_the_ways_of_a_strided_gradient():
    strided = ConvShape(n=1, ih=8, iw=8, ic=2, oc=2, fh=3, fw=3, stride=2, padding=1)
    found, count = cost.instructions("conv2d_weight", strided), flops.count("conv2d_weight", strided)
    assert set(found) == {"regular", "trimmed", "skipping"}
    assert found["regular"] == count.regular > found["trimmed"] > found["skipping"] == count.useful
    assert cost.instructions("conv2d", LAYER)["trimmed"] == flops.count("conv2d", LAYER).useful


def test_no_way_is_faster_than_memory():
    card = cards.CARDS["H100"]
    least = flops.count("conv2d", LAYER).bytes / (card.bandwidth * 1e12)
    times = cost.seconds("conv2d", LAYER, card)
    assert min(times.values()) >= least and "tensor cores" in times
    assert "tensor cores" not in cost.seconds("conv2d", LAYER, cards.CARDS["T4"])


def test_machine_code_from_a_file(tmp_path):
    head = "operator,arch,kernel,registers,spilled,shared,code,instruction,count\n"
    lines = [
        "conv2d,sm_90,conv2d shared,38,0,576,99,FFMA,4",
        "conv2d,sm_90,conv2d shared,38,0,576,99,LDS,8",
        'conv2d,sm_90,"conv2d tiled 128x128, vectors",128,0,16896,9,FFMA,512',
        'conv2d,sm_90,"conv2d tiled 64x64, vectors",99,0,8704,9,FFMA,256',
        "conv2d_input,sm_90,conv2d_input shared,40,0,576,99,FFMA,4",
    ]
    path = tmp_path / "sass.csv"
    path.write_text("# a comment, with a comma\n" + head + "\n".join(lines) + "\n")
    shared, tiled = machine_code._read(path, "conv2d")
    assert shared == machine_code.Code("shared", 38, 576, 64, {"FFMA": 4, "LDS": 8}, [])
    assert (tiled.rung, tiled.threads, tiled.mix) == ("tiled 128x128, vectors", 256, {"FFMA": 512})


def test_nothing_is_lost_among_the_kinds():
    mix = {"FFMA": 5, "LDG.128": 4, "STG": 3, "LDS.128": 2, "STS": 1, "BAR": 7}
    assert sum(machine_code.kinds(mix).values()) == sum(mix.values())
