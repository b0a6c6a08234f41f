"""The network of lesson 07, and the diffs of lesson 05."""

from __future__ import annotations

import numpy as np
import pytest

from cks_numba import flops
from cks_numba.tutorial import diffs, small_network

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((70, 8, 8, 1), dtype=np.float32)
LABELS = RNG.integers(0, 10, 70)


def losses(ops) -> list[float]:
    return small_network.train(small_network.Network(ops, seed=1), IMAGES, LABELS, epochs=2, seed=1)


def test_both_ways_learn_the_same():
    assert len(losses(small_network.Skipping)) == 4  # two steps an epoch, the second one smaller
    np.testing.assert_allclose(losses(small_network.Skipping), losses(small_network.Regular), rtol=1e-4)


@pytest.mark.torch
def test_pytorch_learns_the_same():
    pytest.importorskip("torch")
    np.testing.assert_allclose(losses(small_network.Skipping), losses(small_network.PyTorch), rtol=1e-4)


def test_the_gradient_is_the_slope_of_the_loss():
    net = small_network.Network(small_network.Regular, seed=2)
    for layer in net.layers:
        layer.w, layer.b = layer.w.astype(np.float64), layer.b.astype(np.float64)
    x = IMAGES[:4].astype(np.float64)
    _, dy = small_network.cross_entropy(net.forward(x), LABELS[:4])
    net.backward(dy)
    for layer in net.layers:
        place = np.unravel_index(np.abs(layer.dw).argmax(), layer.dw.shape)
        slope, before = layer.dw[place], layer.w[place]
        moved = []
        for change in (1e-6, -1e-6):
            layer.w[place] = before + change
            moved.append(small_network.cross_entropy(net.forward(x), LABELS[:4])[0])
        layer.w[place] = before
        assert (moved[0] - moved[1]) / 2e-6 == pytest.approx(slope, rel=1e-4)


def test_its_layers_are_what_is_counted():
    net = small_network.Network(small_network.Skipping, seed=0, width=2)
    net.forward(IMAGES[:3])
    counted = small_network.layers(batch=3, width=2)
    assert [layer.shape for layer in counted] == [layer.shape for layer in net.layers[:-1]]
    assert flops.network(counted).total.saved > 2.5


def test_a_diff_rebuilds_both_sides():
    before, after = "a\nb\nc", "a\nB\nc\nd"
    lines = list(diffs.changes(before, after))
    assert "\n".join(line[2:] for line in lines if line[0] != "+") == before
    assert "\n".join(line[2:] for line in lines if line[0] != "-") == after
    assert diffs.changed(before, after) == (2, 1)
