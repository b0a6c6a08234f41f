"""A layer of a model that convolves: its multiply-adds, and whether skipping its zeros pays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..flops import Count, LayerCount, layer_count
from ..flops.networks import Layer

THRESHOLD = 1.15
"""Factor from which swapping pays.

A filter of 3 taps an axis with padding 1 reaches it on signals of up to 5, maps up to 9x9 and volumes up to 14x14x14,
and so does any filter with a stride.
"""
DEPTHWISE = "depthwise"
"""Note of a layer with a filter for each channel, whose gain depends on more than its zeros: it has to be measured."""


@dataclass(frozen=True)
class Found:
    """A layer that convolves.

    Attributes
    ----------
    name, kind : str
        Its place in the model, and its kind there.
    counts : tuple of LayerCount
        One for each time that the forward pass ran it; empty if it cannot be counted.
    note : str
        Why it is not counted, or not swapped whatever its count; empty for all others.
    measured : (float, float), optional
        Milliseconds of its passes as torch's layer and as ours, where they were measured.
    """

    name: str
    kind: str
    counts: tuple[LayerCount, ...] = ()
    note: str = ""
    measured: tuple[float, float] | None = None

    @property
    def total(self) -> Count:
        """All passes of a training step."""
        return sum((count.total for count in self.counts), Count(0, 0))

    def of(self, *passes: str) -> Count:
        """Sum of some of "forward", "input gradient" and "weight gradient"."""
        found = (count.passes[name] for count in self.counts for name in passes if name in count.passes)
        return sum(found, Count(0, 0))

    def swaps(self, threshold: float = THRESHOLD) -> bool:
        """Whether skipping its zeros pays: in time if that was measured, else in multiply-adds."""
        if self.measured:
            return self.measured[0] >= threshold * self.measured[1]
        return not self.note and self.total.saved >= threshold

    def why(self, threshold: float = THRESHOLD) -> str:
        """The verdict in words."""
        if self.measured:
            torchs, ours = self.measured
            return f"{'swap' if self.swaps(threshold) else 'no'}: {ours:.2f} ms, torch's {torchs:.2f}"
        if self.note:
            return f"no: {self.note}"
        if self.swaps(threshold):
            return "swap"
        return f"no: below {threshold:g}"


def used(layer: Layer, first: bool, frozen: bool) -> LayerCount:
    """Count a layer without the gradients that nobody needs: of the input of a first one, of a frozen filter."""
    counted = layer_count(layer._replace(first=first))
    passes = {name: count for name, count in counted.passes.items() if not (frozen and name == "weight gradient")}
    return LayerCount(counted.layer, passes)


def found(name: str, kind: str, layers: Sequence[Layer | LayerCount], note: str = "") -> Found:
    """Count the layers of one place in a model, where they are not counted yet.

    Examples
    --------
    >>> from cks_numba import ConvShape
    >>> shape = ConvShape(n=1, ih=4, iw=4, ic=8, oc=8, fh=3, fw=3, padding=1)
    >>> row = found("body.conv", "Conv2d", [Layer("body.conv", shape)])
    >>> f"{row.total.saved:.2f}", row.why()
    ('1.44', 'swap')
    """
    counts = tuple(layer_count(layer) if isinstance(layer, Layer) else layer for layer in layers)
    shapes = [count.layer.shape for count in counts]
    if not note and any(shape.groups > 1 and shape.ic == shape.groups for shape in shapes):
        note = DEPTHWISE
    return Found(name, kind, counts, note)
