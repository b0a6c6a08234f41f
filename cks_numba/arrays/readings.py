"""What the caller of an operator may have meant, if the sizes do not fit: another layout, order or number of groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from ..buffers import TO_LAST, TO_OWN, Layout, channels_last, is_last, other, own_order

Shape = tuple[int, ...]

FILTERS = ("w", "weight", "weight_size")
"""Names of the arguments that have the axes of a filter."""


def channels_at_end(layout: Layout) -> Shape:
    """Return the order of axes that a filter (FH, FW, IC, OC), as TensorFlow has it, must be given for a layout."""
    last = len(layout) - 1
    spatial = range(last - 1)
    return (last, *spatial, last - 1) if is_last(layout) else (last, last - 1, *spatial)


def swapped_channels(layout: Layout) -> Shape:
    """Return the order of axes for a filter with input channels in the place of output channels."""
    last = len(layout) - 1
    return (last, *range(1, last), 0) if is_last(layout) else (1, 0, *range(2, last + 1))


@dataclass(frozen=True)
class Reading:
    """The arguments of a call, or what the caller may have meant by them.

    Attributes
    ----------
    layout : Layout
    shapes : dict
        Shapes, channels last, by the names of the arguments, x or the input size first; a name with "_size" at its end
        is that of a shape.
    options : tuple
        The options that a check takes after the shapes; the last one is the number of groups.
    permute : str
        The method of the arrays that gives their axes another order.
    unbatched : bool
        Whether the caller gave one image without a batch.
    fixed : bool
        Whether the function that was called has one layout alone.
    way : str
        How to write it, for a message.
    """

    layout: Layout
    shapes: dict[str, Shape]
    options: tuple[Any, ...]
    permute: str = "transpose"
    unbatched: bool = False
    fixed: bool = False
    way: str = ""

    def way_out(self, check: Callable[..., Any]) -> str:
        """Return what else the caller may have meant, to be added to the error of ``check(*shapes, *options)``.

        Examples
        --------
        >>> def check(x, w, groups):
        ...     if x[3] != w[3] * groups:
        ...         raise ValueError
        >>> Reading("NHWC", {"x": (1, 4, 8, 9), "w": (6, 4, 3, 5)}, (1,)).way_out(check)
        '; layout="NCHW" would fit'
        """
        return next((f"; {other.way}" for other in self._others() if other._passes(check)), "")

    def _passes(self, check: Callable[..., Any]) -> bool:
        try:
            check(*self.shapes.values(), *self.options)
        except ValueError:
            return False
        return True

    def _others(self) -> Iterator[Reading]:
        """Yield other readings, the likeliest first."""
        if self._filter[-1] == 1:
            yield from (*self._grey(), *self._grouped())
        name = other(self.layout)
        flipped = TO_LAST[name] if is_last(self.layout) else TO_OWN[self.layout]
        turned = self._ordered(self.shapes, flipped, "" if self.fixed else f'layout="{name}"')
        yield turned
        if turned._filter[-1] == 1:
            yield from turned._grouped()
        for count in range(1, len(self.shapes)):
            for names in combinations(self.shapes, count):
                yield self._ordered(names, flipped)
        filters = [name for name in self.shapes if name in FILTERS]
        at_end = self._ordered(filters, channels_at_end(self.layout))
        square = len(set(at_end._filter[1:-1])) == 1
        yield from (at_end,) * square
        yield from self._grouped()
        yield self._ordered(filters, swapped_channels(self.layout))
        yield from (at_end,) * (not square)
        yield self._swapped()

    @property
    def _filter(self) -> Shape:
        return next(shape for name, shape in self.shapes.items() if name in FILTERS)

    def _grouped(self) -> Iterator[Reading]:
        """Yield the number of groups that the filter's channels are for, but not for `conv_transpose2d`."""
        x, each = next(iter(self.shapes.values())), self._filter[-1]
        if each and x[-1] and x[-1] % each == 0:
            groups = x[-1] // each
            way = f"{self.way.removesuffix(' would fit')} and " if self.way else ""
            yield replace(self, options=(*self.options[:-1], groups), way=f"{way}groups={groups} would fit")

    def _grey(self) -> Iterator[Reading]:
        """Yield the one image as a batch of images of one channel."""
        (name, x), *_ = self.shapes.items()
        if self.unbatched and not name.endswith("_size"):
            _, *sizes = own_order(x, self.layout)
            new_axis = "[..., None]" if is_last(self.layout) else "[:, None]"
            way = f"{name}{new_axis} would fit as images of one channel"
            way += f", groups={x[-1]} as one image" if self._filter[0] % x[-1] == 0 else ""
            yield replace(self, shapes=self.shapes | {name: (*sizes, 1)}, way=way)

    def _ordered(self, names: Iterable[str], axes: Shape, way: str = "") -> Reading:
        """Give some of the arguments another order of their axes."""
        own = {name: own_order(shape, self.layout) for name, shape in self.shapes.items()}
        moved = {name: tuple(own[name][axis] for axis in axes) for name in names}
        way = way or " and ".join(self._written(name, shape, axes) for name, shape in moved.items())
        shapes = {name: channels_last(shape, self.layout) for name, shape in (own | moved).items()}
        return replace(self, shapes=shapes, way=f"{way} would fit")

    def _written(self, name: str, shape: Shape, axes: Shape) -> str:
        image = self.unbatched and name not in FILTERS
        if name.endswith("_size"):
            return f"{name}={shape[1:] if image else shape}"
        return f"{name}.{self.permute}{tuple(axis - 1 for axis in axes[1:]) if image else axes}"

    def _swapped(self) -> Reading:
        """Put the two arrays in each other's place."""
        first, second = (name for name in self.shapes if not name.endswith("_size"))
        a, b = self.shapes[first], self.shapes[second]
        larger = any(taps > size for taps, size in zip(b[1:-1], a[1:-1], strict=True))
        unpadded = second in FILTERS and a[-1] == b[-1] * self.options[-1] and larger
        way = f"are {first} and {second} swapped{', or is padding missing' if unpadded else ''}?"
        return replace(self, shapes=self.shapes | {first: b, second: a}, way=way)
