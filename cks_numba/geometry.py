"""Where the products are: one equation, and from it the groups of dense GEMMs of every operator.

Along one spatial axis input index ``i``, filter tap ``f`` and output index ``o`` meet in one
product exactly when::

    i = o*stride - padding + f*dilation,   0 <= i < I,  0 <= f < F,  0 <= o < O

Such an (i, f, o) is a *real triple*. Each operator fixes one of the three and sums over the others:

=================  =====  ========  =====================================================
operator           fixes  sums      the paper's name, and the zeros that it skips
=================  =====  ========  =====================================================
``conv2d``         o      f         ConvV2: padding around x
``conv2d_input``   i      f and o   KS-deconv: zeros between the elements of dy, padding
``conv2d_weight``  f      o         Sk-dilated: zeros between the elements of dy, padding
=================  =====  ========  =====================================================

A *run* is a set of fixed indices of one axis that share their summed indices. Inside a run all
three indices are affine in (k, t), the k-th fixed index and the t-th term of the sum, so a run is
eleven integers. A *group* is a run of every axis, such as a run of rows times a run of columns: no zero
in it, no bounds test needed, one dense GEMM. A *plan* is the list of groups of an operator. Every backend, every count
and every drawing is made from it.

This module knows nothing of arrays, threads or GPUs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import chain, pairwise, product, starmap
from math import gcd, prod
from typing import Any, NamedTuple

from . import checks
from .checks import Ints, Padding

OPERATORS = ("conv2d", "conv2d_input", "conv2d_weight")
"""Names of the operators, whatever the number of axes."""

AXIS_LETTERS = "dhw"
AXIS_NAMES = ("depths", "rows", "columns")


# --- the equation, solved for each operator; plain integers, so that kernels inline these too ----
def taps_of_output(o: int, size: int, taps: int, stride: int, padding: int, dilation: int) -> tuple[int, int]:
    """First and past-the-last tap f of output o whose input lies inside [0, size)."""
    origin = o * stride - padding
    return max(0, -(origin // dilation)), min(taps, (size - 1 - origin) // dilation + 1)


def outputs_of_tap(f: int, size: int, outputs: int, stride: int, padding: int, dilation: int) -> tuple[int, int]:
    """First and past-the-last output o of tap f whose input lies inside [0, size)."""
    origin = f * dilation - padding
    return max(0, -(origin // stride)), min(outputs, (size - 1 - origin) // stride + 1)


def taps_of_input(
    i: int,
    first: Sequence[int],
    taps: int,
    outputs: int,
    stride: int,
    padding: int,
    dilation: int,
    f_step: int,
    o_step: int,
) -> tuple[int, int, int]:
    """First tap of input i, the output that it meets there, and how many terms follow (f_step, -o_step) apart.

    `first` holds the first tap of each phase. Terms whose output leaves [0, outputs) are trimmed.
    """
    f0 = first[(i + padding) % stride]
    o0 = (i + padding - f0 * dilation) // stride
    lo = max(0, -((outputs - 1 - o0) // o_step))
    hi = min(-(-(taps - f0) // f_step), o0 // o_step + 1)
    return f0 + lo * f_step, o0 - lo * o_step, hi - lo


class Affine(NamedTuple):
    """An index as a function of the k-th fixed index and the t-th term: base + k*fixed + t*term."""

    base: int
    fixed: int
    term: int

    def at(self, k: int, t: int) -> int:
        return self.base + k * self.fixed + t * self.term

    def after(self, k: int) -> Affine:
        """The same index, counted from the k-th fixed index on."""
        return Affine(self.base + k * self.fixed, self.fixed, self.term)


class Run(NamedTuple):
    """`positions` fixed indices of one axis, each the sum of the same `terms` terms (perhaps none)."""

    positions: int
    terms: int
    i: Affine
    f: Affine
    o: Affine

    def part(self, first: int, last: int) -> Run:
        """The run of the k-th fixed indices from `first` to before `last`."""
        return Run(last - first, self.terms, self.i.after(first), self.f.after(first), self.o.after(first))

    def triples(self) -> Iterator[tuple[int, int, int]]:
        """All real triples (i, f, o) of the run."""
        for k in range(self.positions):
            for t in range(self.terms):
                yield self.i.at(k, t), self.f.at(k, t), self.o.at(k, t)


NOWHERE = Affine(0, 0, 0)  # an index that no term of an empty run uses


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a convolution.

    Examples
    --------
    >>> axis = Axis(size=4, taps=3, stride=1, before=1, after=1, dilation=1)
    >>> axis.outputs
    4
    >>> [(run.positions, run.terms) for run in axis.runs("conv2d")]
    [(1, 2), (2, 3), (1, 2)]
    """

    size: int
    taps: int
    stride: int
    before: int
    after: int
    dilation: int

    @property
    def outputs(self) -> int:
        """Number of outputs, O."""
        return (self.size + self.before + self.after - self.span) // self.stride + 1

    @property
    def span(self) -> int:
        """Input positions under the filter, from the first tap to the last."""
        return (self.taps - 1) * self.dilation + 1

    @property
    def phase_step(self) -> int:
        """Distance between the taps that one input index meets: stride / gcd(stride, dilation)."""
        return self.stride // gcd(self.stride, self.dilation)

    @property
    def output_step(self) -> int:
        """How far the output moves back from one such tap to the next: dilation / gcd."""
        return self.dilation // gcd(self.stride, self.dilation)

    @property
    def triples(self) -> int:
        """Number of real triples, T."""
        return sum(run.positions * run.terms for run in self.runs("conv2d_weight"))

    def first_taps(self) -> tuple[int, ...]:
        """First tap of each phase (i + padding) mod stride that some i has; `taps` where the phase has none."""
        first = [self.taps] * min(self.stride, self.size + self.before)
        for f in reversed(range(self.taps)):
            phase = f * self.dilation % self.stride
            if phase < len(first):
                first[phase] = f
        return tuple(first)

    @lru_cache(maxsize=4096)  # noqa: B019 - an axis is a few integers, and most layers have the same one twice
    def runs(self, operator: str) -> tuple[Run, ...]:
        """Runs of the axis, which cover every fixed index of the operator exactly once.

        The ends of the runs are solved for, so the cost grows with the taps and the stride, and not with the size.
        """
        families = {"conv2d": self._of_outputs, "conv2d_input": self._of_inputs, "conv2d_weight": self._of_taps}
        return tuple(run for family in families[operator]() for run in _merge(family))

    def _of_outputs(self) -> Iterator[Iterator[Run]]:
        s, d, outputs = self.stride, self.dilation, self.outputs

        def window(o: int, positions: int) -> Run:
            lo, hi = taps_of_output(o, self.size, self.taps, s, self.before, d)
            i = o * s - self.before + lo * d
            return _run(positions, hi - lo, Affine(i, s, d), Affine(lo, 0, 1), Affine(o, 1, 0), fixed=2)

        ends = [outputs_of_tap(f, self.size, outputs, s, self.before, d) for f in range(self.taps)]
        yield starmap(window, _pieces(outputs, chain(*ends)))  # a window changes where a tap enters or leaves x

    def _of_taps(self) -> Iterator[Iterator[Run]]:
        s, d, outputs = self.stride, self.dilation, self.outputs

        def window(f: int) -> Run:
            lo, hi = outputs_of_tap(f, self.size, outputs, s, self.before, d)
            i = lo * s - self.before + f * d
            return _run(1, hi - lo, Affine(i, d, s), Affine(f, 1, 0), Affine(lo, 0, 1), fixed=1)

        yield map(window, range(self.taps))

    def _of_inputs(self) -> Iterator[Iterator[Run]]:
        s, d, outputs, f_step, o_step = self.stride, self.dilation, self.outputs, self.phase_step, self.output_step
        first = self.first_taps()

        def window(k: int, positions: int) -> Run:
            i = start + k * s
            f, o, terms = taps_of_input(i, first, self.taps, outputs, s, self.before, d, f_step, o_step)
            return _run(positions, terms, Affine(i, s, 0), Affine(f, 0, f_step), Affine(o, 1, -o_step), fixed=0)

        for start in range(min(s, self.size)):  # the phases: i, i + s, i + 2s, ... meet the same taps
            f = first[(start + self.before) % s]
            o = (start + self.before - f * d) // s  # the output that this tap meets in i; one more with each k
            enters = [t * o_step - o for t in range(len(range(f, self.taps, f_step)))]  # k of output 0, tap by tap
            cuts = chain(enters, (k + outputs for k in enters))
            yield starmap(window, _pieces(len(range(start, self.size, s)), cuts))


UNIT_AXIS = Axis(size=1, taps=1, stride=1, before=0, after=0, dilation=1)


def _pieces(size: int, cuts: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Cut range(size) before each of the numbers that lie in it: the first index of every piece, and its length."""
    ends = sorted({0, size, *(cut for cut in cuts if 0 < cut < size)})
    return ((first, last - first) for first, last in pairwise(ends))


def _run(positions: int, terms: int, i: Affine, f: Affine, o: Affine, fixed: int) -> Run:
    """A run; where nothing meets its fixed indices, only these themselves are kept."""
    if terms > 0:
        return Run(positions, terms, i, f, o)
    kept = [index if place == fixed else NOWHERE for place, index in enumerate((i, f, o))]
    return Run(positions, 0, *kept)


def _merge(family: Iterable[Run]) -> Iterator[Run]:
    """Join neighbours that share their terms: each must go on where the run before ends."""
    current: Run | None = None
    for run in family:
        if current is None:
            current = run
        elif run == current.part(current.positions, current.positions + run.positions):
            current = current._replace(positions=current.positions + run.positions)
        else:
            yield current
            current = run
    if current is not None:
        yield current


class Group(tuple[Run, ...]):
    """One dense GEMM: a run of each axis, in the order of the axes."""

    __slots__ = ()

    @property
    def h(self) -> Run:
        """The run of rows."""
        return self[-2]

    @property
    def w(self) -> Run:
        """The run of columns, the last axis."""
        return self[-1]

    @property
    def positions(self) -> int:
        """Fixed indices of the group, per image or per channel pair."""
        return prod(run.positions for run in self)

    @property
    def terms(self) -> int:
        """Combinations of summed indices of every fixed index; 0 means that the result is exactly 0."""
        return prod(run.terms for run in self)


@dataclass(frozen=True)
class Plan:
    """The groups of an operator for one shape, longest sums first."""

    operator: str
    shape: ConvShape
    groups: tuple[Group, ...]

    @property
    def empty(self) -> tuple[Group, ...]:
        """Groups that no product reaches: their results must still be written, as 0."""
        return tuple(group for group in self.groups if group.terms == 0)

    @cached_property
    def useful(self) -> int:
        """Multiply-adds of the whole operator: N * IC/groups * OC * T_h * T_w (times T_d where there is depth)."""
        products = sum(group.positions * group.terms for group in self.groups)
        return self.shape.n * (self.shape.ic // self.shape.groups) * self.shape.oc * products

    def __str__(self) -> str:
        s = self.shape
        lines = [f"{self.operator} {s}", f"{len(self.groups)} groups, {self.useful:,} useful multiply-adds"]
        names = AXIS_NAMES[-len(s.axes) :]
        axes = " x ".join(names)
        positions = [axes, *in_columns([run.positions for run in group] for group in self.groups)]
        terms = [f"sum over ({axes})", *in_columns([run.terms for run in group] for group in self.groups)]
        firsts = [f"first (i, f, o) of {'; of '.join(names)}", *map(_first, self.groups)]
        first, second = (max(map(len, column)) for column in (positions, terms))
        rows = zip(positions, terms, firsts, strict=True)
        lines += [f"  {position:<{first}}   {term:<{second}}   {start}" for position, term, start in rows]
        return "\n".join(lines)


def _first(group: Group) -> str:
    if not group.terms:
        return "no product: written as 0"
    return "; ".join(f"({run.i.base}, {run.f.base}, {run.o.base})" for run in group)


def in_columns(rows: Iterable[Sequence[int]]) -> list[str]:
    """Write rows of numbers as " 3 x 14": each column is as wide as its longest number."""
    texts = [[*map(str, row)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return [" x ".join(map(str.rjust, row, widths)) for row in texts]


@dataclass(frozen=True, init=False)
class ConvShape:
    """Sizes of one convolutional layer: everything that a plan depends on.

    A layer has one, two or three spatial axes. The arguments below make one of two axes; `ConvShape.of` takes any
    number, with the shapes of the arrays.

    Parameters
    ----------
    n, ih, iw, ic : int
        Images (0 allowed), rows, columns and channels of the input x.
    oc, fh, fw : int
        Output channels, rows and columns of the filter.
    stride, dilation : int or (int, int)
        Vertical, horizontal; at least 1.
    padding : int, (int, int), ((top, bottom), (left, right)), four ints, "same" or "valid"
        Zeros around x; at least 0. "same" needs stride 1; an odd total puts one more at the end.
    groups : int
        Channel groups; divides `ic` and `oc`.

    Attributes
    ----------
    axes : tuple of Axis
        The spatial axes: (depth,) rows, columns. `h` and `w` are the last two.

    Raises
    ------
    ValueError, TypeError
        For an impossible size; the message names the argument.

    Examples
    --------
    >>> shape = ConvShape(n=1, ih=5, iw=5, ic=3, oc=8, fh=3, fw=3, stride=2, padding=1)
    >>> shape.oh, shape.ow
    (3, 3)
    >>> plan("conv2d", shape).useful == plan("conv2d_weight", shape).useful
    True
    """

    n: int
    axes: tuple[Axis, ...]
    ic: int
    oc: int
    groups: int
    h: Axis = field(repr=False, compare=False)  # rows: the last axis but one, if there is one
    w: Axis = field(repr=False, compare=False)  # columns: the last axis

    def __init__(
        self,
        *,
        n: int,
        ih: int,
        iw: int,
        ic: int,
        oc: int,
        fh: int,
        fw: int,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        groups: int = 1,
    ) -> None:
        self._set(n, (ih, iw), ic, oc, (fh, fw), stride, padding, dilation, groups)

    @classmethod
    def of(
        cls,
        x_shape: Sequence[int],
        w_shape: Sequence[int],
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        groups: int = 1,
    ) -> ConvShape:
        """Return the layer of an input x and a filter w, of one, two or three spatial axes.

        Parameters
        ----------
        x_shape : (N, IW, IC), (N, IH, IW, IC) or (N, ID, IH, IW, IC)
        w_shape : (OC, FW, IC/groups), (OC, FH, FW, IC/groups) or (OC, FD, FH, FW, IC/groups)
            Its last number is not looked at: the channels are those of x.
        stride, dilation : int, or an int for each axis
        padding : int, an int or a pair for each axis, two ints for each axis, "same" or "valid"
        groups : int

        Returns
        -------
        ConvShape

        Raises
        ------
        ValueError, TypeError
            For an impossible size; the message names the argument.

        Examples
        --------
        >>> layer = ConvShape.of((1, 4, 8, 8, 16), (32, 3, 3, 3, 16), stride=2, padding=1)
        >>> layer.y_shape
        (1, 2, 4, 4, 32)
        >>> ConvShape.of((1, 100, 16), (32, 5, 16)).y_shape
        (1, 96, 32)
        """
        if len(x_shape) != len(w_shape) or not 3 <= len(x_shape) <= 5:
            raise ValueError(f"x and w must both have 3, 4 or 5 axes, got {tuple(x_shape)} and {tuple(w_shape)}")
        n, *sizes, ic = x_shape
        oc, *taps, _ = w_shape
        shape = object.__new__(cls)
        shape._set(n, sizes, ic, oc, taps, stride, padding, dilation, groups)
        return shape

    def _set(
        self,
        n: int,
        sizes: Sequence[int],
        ic: int,
        oc: int,
        taps: Sequence[int],
        stride: Ints,
        padding: Padding,
        dilation: Ints,
        groups: int,
    ) -> None:
        letters = AXIS_LETTERS[-len(sizes) :]
        numbers = dict(zip([f"i{letter}" for letter in letters], sizes, strict=True)) | {"ic": ic, "oc": oc}
        numbers |= dict(zip([f"f{letter}" for letter in letters], taps, strict=True)) | {"groups": groups}
        numbers = {name: checks.integer(name, value, 1) for name, value in numbers.items()}
        ic, oc, groups = (numbers[name] for name in ("ic", "oc", "groups"))
        filter_size = tuple(numbers[f"f{letter}"] for letter in letters)
        strides, dilations = (
            checks.integers(name, value, 1, len(letters))
            for name, value in (("stride", stride), ("dilation", dilation))
        )
        pads = checks.paddings(padding, filter_size, strides, dilations)
        for name in ("ic", "oc"):
            if numbers[name] % groups:
                raise ValueError(
                    f"groups must divide {name}, got groups={groups} and {name}={numbers[name]}: "
                    f"take {checks.divisors(gcd(ic, oc))}"
                )
        axes = []
        for letter, taps_here, step, (before, after), apart in zip(
            letters, filter_size, strides, pads, dilations, strict=True
        ):
            size = numbers[f"i{letter}"]
            axis = Axis(size, taps_here, step, before, after, apart)
            if axis.outputs < 1:
                raise ValueError(
                    f"filter is larger than the padded input: f{letter}={axis.taps} with dilation {axis.dilation} "
                    f"spans {axis.span}, i{letter}={size} padded is {size + axis.before + axis.after}"
                )
            axes.append(axis)
        self._fill(checks.integer("n", n, 0), tuple(axes), ic, oc, groups)

    def _fill(self, *values: Any) -> None:
        for name, value in zip(("n", "axes", "ic", "oc", "groups"), values, strict=True):
            object.__setattr__(self, name, value)
        for name, axis in zip("wh", reversed(self.axes), strict=False):
            object.__setattr__(self, name, axis)

    def with_axes(self, *axes: Axis) -> ConvShape:
        """The same layer over other axes."""
        shape = object.__new__(ConvShape)
        shape._fill(self.n, axes, self.ic, self.oc, self.groups)
        return shape

    def with_unit_axes(self, number: int) -> ConvShape:
        """The same layer with axes of one element before the others, so that there are `number`."""
        return self.with_axes(*[UNIT_AXIS] * (number - len(self.axes)), *self.axes)

    def with_outputs(self, *outputs: int) -> ConvShape:
        """The same layer with fewer outputs on each axis: what follows the last of them in x meets no filter.

        So a transposed layer has an ``output_padding`` of at least its stride.
        """
        return self.with_axes(
            *(
                replace(axis, after=axis.after - (axis.outputs - wanted) * axis.stride)
                if axis.outputs > wanted
                else axis
                for axis, wanted in zip(self.axes, outputs, strict=True)
            )
        )

    def __hash__(self) -> int:
        """Compute the hash once: a shape is the key of every table of a repeated call."""
        known: int | None = self.__dict__.get("_hash")
        if known is None:
            known = hash((self.n, self.axes, self.ic, self.oc, self.groups))
            object.__setattr__(self, "_hash", known)
        return known

    @property
    def ih(self) -> int:
        return self.h.size

    @property
    def iw(self) -> int:
        return self.w.size

    @property
    def fh(self) -> int:
        return self.h.taps

    @property
    def fw(self) -> int:
        return self.w.taps

    @property
    def oh(self) -> int:
        return self.h.outputs

    @property
    def ow(self) -> int:
        return self.w.outputs

    @property
    def stride(self) -> tuple[int, ...]:
        return tuple(axis.stride for axis in self.axes)

    @property
    def dilation(self) -> tuple[int, ...]:
        return tuple(axis.dilation for axis in self.axes)

    @property
    def padding(self) -> tuple[tuple[int, int], ...]:
        """Before and after each axis: ((top, bottom), (left, right)) for two."""
        return tuple((axis.before, axis.after) for axis in self.axes)

    @cached_property
    def x_shape(self) -> tuple[int, ...]:
        """Shape of the input x: (N, IH, IW, IC)."""
        return self.n, *(axis.size for axis in self.axes), self.ic

    @cached_property
    def w_shape(self) -> tuple[int, ...]:
        """Shape of the filter w: (OC, FH, FW, IC/groups)."""
        return self.oc, *(axis.taps for axis in self.axes), self.ic // self.groups

    @cached_property
    def y_shape(self) -> tuple[int, ...]:
        """Shape of the output y: (N, OH, OW, OC)."""
        return self.n, *(axis.outputs for axis in self.axes), self.oc

    def arrays(self, operator: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Names and shapes of the two operands of an operator, and of its result, in this order."""
        x, w, y = self.x_shape, self.w_shape, self.y_shape
        return {
            "conv2d": (("x", x), ("w", w), ("out", y)),
            "conv2d_input": (("w", w), ("dy", y), ("out", x)),
            "conv2d_weight": (("x", x), ("dy", y), ("out", w)),
        }[operator]

    def __str__(self) -> str:
        text = f"x {self.x_shape} w {self.w_shape} y {self.y_shape} stride {self.stride}"
        text += f" padding {tuple(chain(*self.padding))}"
        text += f" dilation {self.dilation}" if set(self.dilation) != {1} else ""
        return text + (f" groups {self.groups}" if self.groups > 1 else "")


@lru_cache(maxsize=4096)
def plan(operator: str, shape: ConvShape) -> Plan:
    """Split an operator into its groups of dense GEMMs.

    Parameters
    ----------
    operator : {"conv2d", "conv2d_input", "conv2d_weight"}
    shape : ConvShape

    Returns
    -------
    Plan
        Groups ordered by the length of their sums, longest first. Every real triple of both axes
        lies in exactly one group, and every result in exactly one (perhaps with no term).

    Raises
    ------
    ValueError
        For an unknown operator.

    Notes
    -----
    The groups generalise C-K-S (arXiv 2306.15951), which gives every block one position.

    Examples
    --------
    A 3x3 filter with padding 1 trims corners, edges and inside differently: nine groups.

    >>> shape = ConvShape(n=1, ih=8, iw=8, ic=1, oc=1, fh=3, fw=3, padding=1)
    >>> len(plan("conv2d", shape).groups)
    9
    """
    if operator not in OPERATORS:
        raise ValueError(f"operator must be one of {OPERATORS}, got {operator!r}")
    groups = map(Group, product(*(axis.runs(operator) for axis in shape.axes)))
    return Plan(operator, shape, tuple(sorted(groups, key=lambda group: -group.terms)))
