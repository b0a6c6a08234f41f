"""Filters that are packed once, as an argument of many calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..buffers import Layout, own_order


@dataclass(frozen=True, eq=False)
class Packed:
    """Filters packed for an operator of the CPU backend: what `cks_numba.pack` returns.

    It is a copy: changing the array from which it was made changes nothing.

    Attributes
    ----------
    operator : {"conv2d", "conv2d_input"}
        The operator that reads them, whatever the number of axes; transposed convolution is "conv2d_input".
    layout : Layout
    groups : int
    filters : PackedFilters
        What the backend takes.
    """

    operator: str
    layout: Layout
    groups: int
    filters: Any = field(repr=False)

    @property
    def kind(self) -> tuple[str, Layout, int]:
        """What a call checks of them, besides the shapes and dtypes of their arrays."""
        return self.operator, self.layout, self.groups

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the filters in the order of the layout."""
        size: tuple[int, ...] = self.filters.w.shape
        return own_order(size, self.layout)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the filters."""
        found: np.dtype[Any] = self.filters.w.dtype
        return found

    @property
    def nbytes(self) -> int:
        """The bytes of memory that the object holds: the filters, and most often their panels too."""
        return sum(part.nbytes for part in self.filters if part is not None)

    def __array__(self, *_: Any, **__: Any) -> Any:
        """Refuse to be an array: only the operators of this package know what packed filters are."""
        raise TypeError("packed filters are for the operators of cks_numba on the CPU: give w as an array")

    def check(self, operator: str, layout: Layout, dtype: str) -> None:
        """Check that a call can take the filters.

        Raises
        ------
        ValueError
            If they were packed for another operator or layout.
        TypeError
            If they have another dtype.
        """
        wanted = operator.replace("2d", f"{len(layout) - 2}d")
        names = {"conv2d": "a convolution", "conv2d_input": "an input gradient or a transposed convolution"}
        if operator != self.operator:
            raise ValueError(
                f"w is packed for {names[self.operator]}, this is {names[operator]}: pack it with operator={wanted!r}"
            )
        if layout != self.layout:
            raise ValueError(f"w is packed in layout {self.layout!r}, this call has layout={layout!r}: pack it in that")
        if self.dtype != dtype:
            raise TypeError(f"w is packed as {self.dtype}, the other array is {dtype}: pack w.astype({dtype!r})")
