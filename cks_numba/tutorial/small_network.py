"""A small convolutional network in NumPy, for lesson 07; an argument chooses who multiplies.

8x8 pixels become 4x4, then 2x2, then ten numbers. Arrays are NHWC, filters OHWI, all float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from statistics import median
from typing import Any

import numba
import numpy as np

from .. import operators
from ..bench import cpu, timing
from ..bench.cases import Case
from ..flops.networks import Layer
from ..geometry import ConvShape
from ..steps import regular

Array = np.ndarray[Any, Any]
CHANNELS = (1, 16, 32, 32)  # channels of the image, and of each convolution's result
STRIDES = (2, 2, 1)
SIDE, CLASSES = 8, 10
BATCH, RATE, MOMENTUM = 64, 0.1, 0.9


# --- who multiplies -------------------------------------------------------------------------------
class Skipping:
    """The three operators of this package: no product by an added zero."""

    @staticmethod
    def conv2d(x: Array, w: Array, shape: ConvShape) -> Array:
        return operators.conv2d(x, w, stride=shape.stride, padding=shape.padding)

    @staticmethod
    def conv2d_input(w: Array, dy: Array, shape: ConvShape) -> Array:
        return operators.conv2d_input(shape.x_shape, w, dy, stride=shape.stride, padding=shape.padding)

    @staticmethod
    def conv2d_weight(x: Array, dy: Array, shape: ConvShape) -> Array:
        return operators.conv2d_weight(x, shape.w_shape, dy, stride=shape.stride, padding=shape.padding)


class Regular:
    """The regular way: pad, insert zeros, multiply everything."""

    conv2d = staticmethod(regular.conv2d)
    conv2d_input = staticmethod(regular.conv2d_input)
    conv2d_weight = staticmethod(regular.conv2d_weight)


class PyTorch:
    """The same three through PyTorch, on the CPU, without a copy: its NCHW tensors lie in memory as NHWC."""

    @staticmethod
    def conv2d(x: Array, w: Array, shape: ConvShape) -> Array:
        return _by_pytorch("conv2d", x, w, shape)

    @staticmethod
    def conv2d_input(w: Array, dy: Array, shape: ConvShape) -> Array:
        return _by_pytorch("conv2d_input", w, dy, shape)

    @staticmethod
    def conv2d_weight(x: Array, dy: Array, shape: ConvShape) -> Array:
        return _by_pytorch("conv2d_weight", x, dy, shape)


def _by_pytorch(operator: str, first: Array, second: Array, shape: ConvShape) -> Array:
    """The call that the benchmark times."""
    import torch

    tensors = (torch.from_numpy(np.ascontiguousarray(array)).permute(0, 3, 1, 2) for array in (first, second))
    result = cpu.peer_call(Case("lesson 07", operator, shape), *tensors)()
    return np.asarray(result.permute(0, 2, 3, 1).contiguous())


def pytorch() -> Any:
    """`PyTorch`, or None where it is not installed."""
    return PyTorch if find_spec("torch") else None


# --- the network ----------------------------------------------------------------------------------
class Conv:
    """A 3x3 convolution with padding 1, a bias, and ReLU; `ops` multiplies."""

    def __init__(self, rng: np.random.Generator, ops: Any, ic: int, oc: int, stride: int, first: bool) -> None:
        self.ops, self.stride, self.first = ops, stride, first
        self.w = rng.standard_normal((oc, 3, 3, ic), dtype=np.float32) * np.float32(np.sqrt(2 / (9 * ic)))
        self.b = np.zeros(oc, np.float32)

    def forward(self, x: Array) -> Array:
        (n, ih, iw, ic), oc = x.shape, len(self.b)
        self.shape = ConvShape(n=n, ih=ih, iw=iw, ic=ic, oc=oc, fh=3, fw=3, stride=self.stride, padding=1)
        self.x = x
        y: Array = np.maximum(self.ops.conv2d(x, self.w, self.shape) + self.b, 0)  # ReLU
        self.y = y
        return y

    def backward(self, dy: Array) -> Array | None:
        dy = np.where(self.y > 0, dy, np.float32(0))  # through ReLU
        self.dw = self.ops.conv2d_weight(self.x, dy, self.shape)
        self.db = dy.sum(axis=(0, 1, 2))
        dx: Array | None = None if self.first else self.ops.conv2d_input(self.w, dy, self.shape)
        return dx


class Linear:
    """A matrix and a bias, applied to all elements of the last map.

    It uses einsum and not BLAS, whose threads would stay awake and slow down the next convolution.
    """

    def __init__(self, rng: np.random.Generator, inputs: int, outputs: int) -> None:
        self.w = rng.standard_normal((inputs, outputs), dtype=np.float32) * np.float32(np.sqrt(1 / inputs))
        self.b = np.zeros(outputs, np.float32)

    def forward(self, x: Array) -> Array:
        self.x = x
        scores: Array = np.einsum("nk,kc->nc", x.reshape(len(x), -1), self.w) + self.b
        return scores

    def backward(self, dy: Array) -> Array:
        self.dw, self.db = np.einsum("nk,nc->kc", self.x.reshape(len(dy), -1), dy), dy.sum(axis=0)
        dx: Array = np.einsum("nc,kc->nk", dy, self.w).reshape(self.x.shape)
        return dx


class Network:
    """The layers in their order, and what a training step does with them."""

    def __init__(self, ops: Any, seed: int, width: int = 1) -> None:
        rng = np.random.default_rng(seed)
        channels = widths(width)
        self.layers: list[Any] = []
        for k, stride in enumerate(STRIDES):
            self.layers.append(Conv(rng, ops, channels[k], channels[k + 1], stride, first=k == 0))
        self.layers.append(Linear(rng, 2 * 2 * channels[-1], CLASSES))
        self.moving = [np.zeros_like(array) for layer in self.layers for array in (layer.w, layer.b)]

    def forward(self, x: Array) -> Array:
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def backward(self, dy: Array) -> None:
        for layer in reversed(self.layers):
            dy = layer.backward(dy)

    def step(self, x: Array, labels: Array) -> float:
        """Take a training step: forward, loss, backward, new weights; return the loss."""
        loss, dy = cross_entropy(self.forward(x), labels)
        self.backward(dy)
        weights = [array for layer in self.layers for array in (layer.w, layer.b)]
        gradients = [array for layer in self.layers for array in (layer.dw, layer.db)]
        for array, moving, gradient in zip(weights, self.moving, gradients, strict=True):
            moving *= MOMENTUM
            moving += gradient
            array -= RATE * moving
        return loss


def widths(width: int) -> tuple[int, ...]:
    """Channels of a network that is `width` times as wide."""
    return CHANNELS[0], *(width * channels for channels in CHANNELS[1:])


def cross_entropy(scores: Array, labels: Array) -> tuple[float, Array]:
    """Loss, and how it changes with each score."""
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances = shifted / shifted.sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    loss = float(-np.log(chances[rows, labels] + 1e-12).mean())
    chances[rows, labels] -= 1
    return loss, chances / np.float32(len(labels))


# --- training and timing --------------------------------------------------------------------------
@contextmanager
def one_thread() -> Iterator[None]:
    """Make everything multiply on one thread, because layers this small are not worth more."""
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        numba.set_num_threads(before)


def batches(count: int, epochs: int, seed: int) -> Iterator[Array]:
    """Indices of the images of each step; the same for the same seed."""
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        yield from np.split(rng.permutation(count), range(BATCH, count, BATCH))


def train(net: Network, images: Array, labels: Array, epochs: int, seed: int) -> list[float]:
    """Train, and return the loss of every step."""
    return [net.step(images[chosen], labels[chosen]) for chosen in batches(len(images), epochs, seed)]


def layers(batch: int, width: int = 1) -> list[Layer]:
    """The convolutions, as `flops.network` takes them."""
    found, side, channels = [], SIDE, widths(width)
    for k, stride in enumerate(STRIDES):
        sizes = dict(n=batch, ih=side, iw=side, ic=channels[k], oc=channels[k + 1], fh=3, fw=3)
        shape = ConvShape(**sizes, stride=stride, padding=1)
        found.append(Layer(f"conv{k + 1}", shape, first=k == 0))
        side = shape.oh
    return found


def time_steps(ways: dict[str, Any], x: Array, labels: Array, width: int = 1, rounds: int = 5) -> dict[str, float]:
    """Median seconds of a training step for each way."""
    bursts = {}
    for name, ops in ways.items():
        step = partial(Network(ops, seed=0, width=width).step, x, labels)
        bursts[name] = partial(timing.burst, step, times=4, pause=timing.AFTER_BLAS, warm=timing.WARM)
    return {name: median(taken) for name, taken in timing.clean_rounds(bursts, rounds).items()}
