"""How many multiply-adds an operator takes the regular way, how many are useful, and which zeros cause the rest.

The regular way multiplies pairs of elements of tensors that were really padded and zero-inserted. An element
is *real*, *inserted* (a zero between two elements of dy) or *padded* (a zero around a tensor), never two of
these: what lies outside the zero-inserted dy is padded. So a product has one of four kinds:

=============  ==================================================================================
useful         both factors are real
padded         a factor is padded, none is inserted
inserted       a factor is inserted, none is padded
both           one factor is padded and the other is inserted
=============  ==================================================================================

================  ========================  ====================  =========================
operator          first factor              second factor         kinds beside useful
================  ========================  ====================  =========================
``conv2d``        x, padded                 w                     padded
``conv2d_input``  dy, inserted, padded      w                     padded, inserted
``conv2d_weight`` x, padded                 dy, inserted          padded, inserted, both
================  ========================  ====================  =========================

All are counted along each axis and combined: no loop over elements.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from math import prod

from ..geometry import Axis, ConvShape, plan
from . import networks
from .networks import Layer

PASSES = ("forward", "input gradient", "weight gradient")


@dataclass(frozen=True)
class Count:
    """Multiply-adds of one operator, or the sum of several.

    Attributes
    ----------
    regular : int
        All multiply-adds on tensors that were really padded and zero-inserted.
    useful : int
        Those without a factor that padding or insertion put there.
    inserted : int
        Those by an inserted zero and no padded one.
    both : int
        Those of a padded zero and an inserted one.
    bytes : int
        Least number of bytes moved, in float32: both operands read once, the result written once.
    """

    regular: int
    useful: int
    inserted: int = 0
    both: int = 0
    bytes: int = 0

    @property
    def redundant(self) -> int:
        """Multiply-adds by a padded or an inserted zero."""
        return self.regular - self.useful

    @property
    def padded(self) -> int:
        """Multiply-adds by a padded zero, with no inserted one."""
        return self.redundant - self.inserted - self.both

    @property
    def saved(self) -> float:
        """Regular over useful: the factor by which skipping reduces the work (inf if nothing is useful)."""
        return self.regular / self.useful if self.useful else float("inf") if self.regular else 1.0

    @property
    def intensity(self) -> float:
        """Useful floating-point operations (two per multiply-add) over the least number of bytes moved."""
        return 2 * self.useful / self.bytes if self.bytes else 0.0

    def share(self, kind: str) -> float:
        """Share of the regular multiply-adds that is of a kind: "useful", "padded", "redundant", ... (0 if none)."""
        return float(getattr(self, kind)) / self.regular if self.regular else 0.0

    def __add__(self, other: Count) -> Count:
        return Count(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


def _spread(axis: Axis) -> int:
    """Length of dy along the axis with its zeros inserted."""
    return (axis.outputs - 1) * axis.stride + 1


def _inside(axis: Axis) -> int:
    """Pairs (i, f) that meet inside the zero-inserted dy: real triples of the layer with stride 1 that gives it."""
    after = _spread(axis) - 1 + axis.span - axis.size - axis.before  # below 0 where the last inputs meet nothing
    return Axis(axis.size, axis.taps, 1, axis.before, after, axis.dilation).triples


def _kinds(operator: str, axes: Sequence[Axis]) -> tuple[int, int, int]:
    """Regular, inserted and both, for one image and one pair of channels: products over the axes."""
    useful = prod(axis.triples for axis in axes)
    windows = prod(axis.taps * axis.outputs for axis in axes)  # products with padding, but no inserted zero
    if operator == "conv2d":
        return windows, 0, 0
    inside = prod(_inside(axis) for axis in axes)  # no factor is padded
    if operator == "conv2d_input":
        return prod(axis.size * axis.taps for axis in axes), inside - useful, 0
    regular = prod(axis.taps * _spread(axis) for axis in axes)
    return regular, inside - useful, regular - inside - windows + useful


def count(operator: str, shape: ConvShape) -> Count:
    """Count the multiply-adds of an operator.

    Parameters
    ----------
    operator : {"conv2d", "conv2d_input", "conv2d_weight"}
    shape : ConvShape
        Of one, two or three axes.

    Returns
    -------
    Count

    Raises
    ------
    ValueError
        For an unknown operator.

    Notes
    -----
    The kinds of products are defined at the top of this module. Only the filter gradient has "both": padded x times
    zero-inserted dy. In the input gradient one factor is a filter, and a zero of dy is either inserted or padded.

    Examples
    --------
    >>> shape = ConvShape(n=1, ih=2, iw=2, ic=1, oc=1, fh=3, fw=3, padding=1)
    >>> count("conv2d", shape).saved
    2.25

    With stride 2 the filter gradient meets all three kinds of zeros:

    >>> shape = ConvShape(n=1, ih=4, iw=4, ic=1, oc=1, fh=3, fw=3, stride=2, padding=1)
    >>> found = count("conv2d_weight", shape)
    >>> found.regular, found.useful, found.padded, found.inserted, found.both
    (81, 25, 11, 39, 6)

    Each axis with stride 2 inserts a zero after every element, so three axes multiply eight times as much:

    >>> shape = ConvShape.of((1, 16, 16, 16, 1), (1, 2, 2, 2, 1), stride=2)
    >>> count("conv2d_input", shape).saved
    8.0
    """
    useful = plan(operator, shape).useful
    channels = shape.n * (shape.ic // shape.groups) * shape.oc
    regular, inserted, both = (channels * kind for kind in _kinds(operator, shape.axes))
    moved = 4 * sum(prod(size) for _, size in shape.arrays(operator))
    return Count(regular, useful, inserted, both, moved)


# --- networks --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class LayerCount:
    """What one layer takes in a training step: a `Count` for each pass that it needs."""

    layer: Layer
    passes: dict[str, Count]

    @property
    def total(self) -> Count:
        """All passes of the layer."""
        return _sum(self.passes.values())


@dataclass(frozen=True)
class NetworkCount:
    """What a network takes, layer by layer."""

    layers: tuple[LayerCount, ...]

    @property
    def total(self) -> Count:
        """A training step: all passes of all layers."""
        return _sum(layer.total for layer in self.layers)

    def of(self, pass_name: str) -> Count:
        """One of "forward", "input gradient", "weight gradient", summed over the layers."""
        return _sum(layer.passes[pass_name] for layer in self.layers if pass_name in layer.passes)


def _sum(counts: Iterable[Count]) -> Count:
    return sum(counts, Count(0, 0))


def operators(layer: Layer) -> dict[str, str]:
    """Return the operator of each pass: a first layer has no input gradient, because nothing uses it."""
    forward, input_gradient = ("conv2d_input", "conv2d") if layer.transposed else ("conv2d", "conv2d_input")
    found = dict(zip(PASSES, (forward, input_gradient, "conv2d_weight"), strict=True))
    return {name: found[name] for name in PASSES if not (layer.first and name == "input gradient")}


def layer_count(layer: Layer) -> LayerCount:
    """Count the passes of a layer."""
    return LayerCount(layer, {name: count(operator, layer.shape) for name, operator in operators(layer).items()})


def network(
    which: str | Iterable[Layer | ConvShape], input: int | tuple[int, ...] | None = None, batch: int = 1
) -> NetworkCount:
    """Count the multiply-adds of the convolutions of a network: forward, input gradient and weight gradient.

    Parameters
    ----------
    which : str, or sequence of Layer or ConvShape
        A name in `networks.NETWORKS`, or layers of your own, which bring their sizes with them.
    input : int, or an int for each axis, optional
        Size of the input, as in `networks.layers`; only with a name. Image classifiers up to 64x64 take their form
        for small images.
    batch : int
        Number of images; only with a name.

    Returns
    -------
    NetworkCount

    Raises
    ------
    ValueError, TypeError
        For an unknown name, or an input that the network cannot take.

    Examples
    --------
    >>> found = network("resnet18", 32)
    >>> len(found.layers), f"{found.total.share('redundant'):.0%}"
    (20, '28%')
    >>> shape = ConvShape(n=1, ih=2, iw=2, ic=1, oc=1, fh=3, fw=3, padding=1)
    >>> network([shape]).of("forward") == count("conv2d", shape)
    True
    """
    if isinstance(which, str):
        return NetworkCount(tuple(map(layer_count, networks.layers(which, input, batch))))
    if input is not None or batch != 1:
        raise ValueError("input and batch go with the name of a network: layers bring their sizes with them")
    named = [Layer(f"layer {k}", item) if isinstance(item, ConvShape) else item for k, item in enumerate(which, 1)]
    for item in named:
        if not isinstance(item, Layer):
            raise TypeError(f"a layer must be a Layer or a ConvShape, got {item!r}")
    return NetworkCount(tuple(map(layer_count, named)))
