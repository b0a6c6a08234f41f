"""How many multiply-adds an operator takes the regular way, and how many of them are useful."""

from __future__ import annotations

from dataclasses import dataclass

from .geometry import Axis, ConvShape, plan


@dataclass(frozen=True)
class Count:
    """Multiply-adds of one operator.

    Attributes
    ----------
    regular : int
        Done on tensors that were really padded and zero-inserted.
    useful : int
        With no factor that padding or insertion put there.
    """

    regular: int
    useful: int

    @property
    def redundant(self) -> int:
        """Multiply-adds by a padded or an inserted zero."""
        return self.regular - self.useful

    @property
    def saved(self) -> float:
        """Regular over useful: how many times less work skipping leaves (inf if none is useful)."""
        return self.regular / self.useful if self.useful else float("inf") if self.regular else 1.0


def _regular(operator: str, axis: Axis) -> int:
    """Products of one axis on the padded and zero-inserted tensor."""
    if operator == "conv2d":
        return axis.outputs * axis.taps
    if operator == "conv2d_input":
        return axis.size * axis.taps
    return axis.taps * ((axis.outputs - 1) * axis.stride + 1)


def count(operator: str, shape: ConvShape) -> Count:
    """Count the multiply-adds of an operator.

    Parameters
    ----------
    operator : {"conv2d", "conv2d_input", "conv2d_weight"}
    shape : ConvShape

    Returns
    -------
    Count

    Examples
    --------
    >>> shape = ConvShape(n=1, ih=2, iw=2, ic=1, oc=1, fh=3, fw=3, padding=1)
    >>> count("conv2d", shape).saved
    2.25
    """
    useful = plan(operator, shape).useful
    channels = shape.n * (shape.ic // shape.groups) * shape.oc
    return Count(channels * _regular(operator, shape.h) * _regular(operator, shape.w), useful)
