"""The arrays of one call of an operator: checked together, brought to NHWC, and the result brought back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Generic, TypeVar

import numpy as np

from .. import checks
from ..buffers import (
    HALVES,
    TO_LAST,
    TO_OWN,
    ArrayT,
    Layout,
    bounds,
    channels_last,
    dtype_name,
    is_contiguous,
    is_last,
    own_order,
)
from ..checks import Precision
from .libraries import NumPy, library_of
from .packed import Packed
from .readings import Reading

Found = TypeVar("Found")


@lru_cache(maxsize=64)
def axis_names(letters: str, layout: Layout) -> str:
    first, spatial, last = letters.split()
    names = [spatial.replace("*", letter) for letter in "DHW"[-(len(layout) - 2) :]]
    return f"({', '.join(own_order([first, *names, last], layout))})"


class Operand(Generic[ArrayT]):
    """One array that the caller gave.

    Attributes
    ----------
    name : str
        Name of the argument, for messages.
    array : array
        The array in the caller's library and layout. `Call.check_batched` gives a single image a batch of one.
    packed : Packed or None
        What the backend takes in place of the array, for filters that the caller has packed.
    shape : tuple of int
        Its shape as NHWC, a filter's as OHWI; empty until `Call.check_batched` or `Call.check_filter` has seen it.
    """

    __slots__ = ("array", "name", "packed", "shape")

    def __init__(self, name: str, array: ArrayT | Packed) -> None:
        self.name: str = name
        self.packed: Packed | None = array if isinstance(array, Packed) and name == "w" else None
        self.array: Any = array
        if self.packed is not None:  # The checks of shapes get an array without memory.
            self.array = np.broadcast_to(np.zeros((), self.packed.dtype), self.packed.shape)
        self.shape: tuple[int, ...] = ()


class Call(Generic[ArrayT]):
    """The arrays of one call of an operator, in the caller's library and layout.

    Parameters
    ----------
    layout : Layout
        Of as many spatial axes as the operator has.
    out : array or None
        The caller's buffer for the result.
    stream : stream or None
    operands : Operand
        The two arrays that the operator multiplies.
    bias : array or None
        Added to the result.
    precision : {"float32", "tf32"}
    operator : str
        The operator whose filters may be packed.

    Raises
    ------
    ValueError, TypeError
        For an unknown precision, for arrays that are not all of one library and one dtype, and for a stream
        that the library cannot use. The methods check the shapes.
    """

    def __init__(
        self,
        layout: Layout,
        out: ArrayT | None,
        stream: Any,
        *operands: Operand[ArrayT],
        bias: ArrayT | None = None,
        precision: Precision = "float32",
        operator: str = "",
    ) -> None:
        self.layout: Layout = layout
        self.unbatched: bool = False
        self.strided: bool = False
        self.bias: Operand[ArrayT] | None = None if bias is None else Operand("bias", bias)
        self.operands: tuple[Operand[ArrayT], ...] = operands if self.bias is None else (*operands, self.bias)
        self._ranks: dict[str, int] = {}  # number of axes as the caller gave them, for each operand with a batch
        self._first = next(operand for operand in operands if operand.packed is None)
        self.library: NumPy
        self.library, self._first.array = library_of(self._first.name, self._first.array)
        for operand in self.operands:
            if operand.packed is not None:
                operand.packed.check(operator, layout, dtype_name(self._first.array))
            elif operand is not self._first:
                operand.array = self._alike(operand.name, operand.array)
        self.dtype: str = checks.dtypes(
            {operand.name: dtype_name(operand.array) for operand in self.operands}, self.library.to_float32
        )
        self.precision: Precision = checks.precision(precision, self.dtype)
        self._given_out = out
        self._narrow: Any = None  # an array of 16 bits, where the backend gets float32
        self.out: Any = None if out is None else self._alike("out", out)
        self.stream: Any = self.library.stream(stream, self._first.array)

    def _alike(self, name: str, array: Any) -> Any:
        """Return the array after checking that it is of the first operand's library."""
        library, array = library_of(name, array)
        if library is not self.library and type(library) is not type(self.library):
            first = self._first.name
            raise TypeError(
                f"{first} and {name} must be of one kind, got {self.library.name} for {first} "
                f"and {library.name} for {name}: take {self.library.taken.format(name)}"
            )
        return array

    # --- checks of shapes -------------------------------------------------------------------------
    def axes(self, letters: str) -> str:
        """Return the names of the axes in the order of the layout: "N * C" as "(N, C, H, W)"."""
        return axis_names(letters, self.layout)

    def check_batched(self, operand: Operand[ArrayT], letters: str) -> None:
        """Check the axes of an operand that has a batch; a single image gets a batch of one."""
        shape = tuple(operand.array.shape)
        checks.rank(operand.name, shape, self.axes(letters), unbatched=True)
        self._ranks[operand.name] = len(shape)
        if len(set(self._ranks.values())) > 1:
            raise ValueError(f"{' and '.join(self._ranks)} must both be batched or both not, got ranks {self._ranks}")
        if len(shape) < len(self.layout):
            self.unbatched = True
            operand.array, shape = self.library.batch_of_one(operand.array), (1, *shape)
        operand.shape = channels_last(shape, self.layout)

    def check_filter(self, operand: Operand[ArrayT], letters: str) -> None:
        """Check the axes of the filter; none of its sizes may be 0."""
        shape = tuple(operand.array.shape)
        checks.rank(operand.name, shape, self.axes(letters))
        if 0 in shape:
            raise ValueError(f"{operand.name} must not be empty, got shape {shape}")
        operand.shape = channels_last(shape, self.layout)

    def fitted(self, check: Callable[..., Found], shapes: dict[str, tuple[int, ...]], how: tuple[Any, ...]) -> Found:
        """Return ``check(*shapes, *how)``; its message says also which other reading of the arguments would fit."""
        try:
            return check(*shapes.values(), *how)
        except ValueError as error:
            meant = Reading(self.layout, shapes, how, self.library.permute, self.unbatched)
            raise ValueError(f"{error}{meant.way_out(check)}") from None

    def check_bias(self, channels: int) -> None:
        """Check that the bias, if there is one, has an element for each output channel."""
        if self.bias is not None:
            checks.bias(tuple(self.bias.array.shape), channels)

    def shown(self, shape: Sequence[int], batch: bool = True) -> tuple[int, ...]:
        """Return an NHWC shape in the layout and rank of the caller's arrays."""
        own = own_order(shape, self.layout)
        return own[1:] if self.unbatched and batch else own

    def check_out(self, shape: Sequence[int], batch: bool = True) -> None:
        """Check the result of an NHWC shape, and the caller's buffer for it, before anything is written."""
        if self.out is None:
            checks.result(self.shown(shape, batch))
            return
        checks.shape_of("out", tuple(self.out.shape), self.shown(shape, batch), "like the result")
        swapped = isinstance(self.out, np.ndarray) and not self.out.dtype.isnative
        if swapped or dtype_name(self.out) != self.dtype:
            raise TypeError(f"out must be {self.dtype} like the inputs, got {self.out.dtype}")
        if not self.library.writeable(self.out):
            raise ValueError("out must be writeable, got a read-only array")
        raw = self.library.raw(self.out)
        if not is_contiguous(raw):
            raise ValueError(f"out must be C-contiguous, got shape {tuple(raw.shape)} with strides {raw.strides}")
        first, last = bounds(raw)
        for operand in self.operands:
            low, high = bounds(self.library.raw(operand.array))
            if max(first, low) < min(last, high):
                raise ValueError(f"out must not overlap an input, it shares memory with {operand.name}")

    # --- to the backend and back ------------------------------------------------------------------
    def allocate(self, shape: tuple[int, ...], backend: str) -> Any:
        """Return the NHWC buffer that a backend computes into: the result itself where that is possible.

        The cpu backend takes views of any strides; the others need contiguous arrays. cpu and steps compute with 16
        bits in float32, and `finish` rounds the result, with its bias, once.
        """
        self.strided = backend == "cpu"
        if self.dtype in HALVES and backend in ("cpu", "steps"):
            self._narrow = self._first.array
            for operand in self.operands:
                operand.array = self.library.widened(operand.array)
        if not is_last(self.layout) and not self.strided:
            return self.library.empty(shape, self._first.array, self.stream)
        own = self.out if self._narrow is None else None
        if own is None:
            own = self.library.empty(own_order(shape, self.layout), self._first.array, self.stream)
        elif len(own.shape) < len(self.layout):
            own = self.library.batch_of_one(own)
        return own if is_last(self.layout) else self.library.permuted(own, TO_LAST[self.layout])

    def view(self, operand: Operand[ArrayT]) -> Any:
        """Return the operand as the backend takes it: a NumPy array or a device array of Numba, channels last."""
        axes = TO_LAST[self.layout]
        if operand.packed is not None:
            return operand.packed.filters
        if self.strided:
            return self.library.raw(self.library.permuted(operand.array, axes))
        return self.library.raw(self.library.contiguous(operand.array, axes, self.stream))

    def add_bias(self, buffer: Any) -> None:
        """Add the bias, if there is one, to an NHWC buffer in host memory."""
        if self.bias is not None:
            self.library.add_bias(buffer, self.library.contiguous(self.bias.array, (0,), self.stream))

    def bias_view(self) -> Any:
        """Return the bias as the backends take it, None if there is none."""
        if self.bias is None:
            return None
        return self.library.raw(self.library.contiguous(self.bias.array, (0,), self.stream))

    def finish(self, buffer: Any, batch: bool = True) -> ArrayT:
        """Return the result in the caller's library and layout, from the NHWC buffer."""
        result = buffer
        if self._narrow is not None:
            result = self._copied(buffer, self._narrow)
        elif not is_last(self.layout):
            axes = TO_OWN[self.layout]
            result = self.library.permuted(buffer, axes) if self.strided else self._copied(buffer, buffer)
        if self._given_out is not None:
            return self._given_out
        given: ArrayT = self.library.give(self.library.only_image(result) if self.unbatched and batch else result)
        return given

    def _copied(self, buffer: Any, like: Any) -> Any:
        """Copy the NHWC buffer to a C-contiguous array of the caller's layout and dtype, `out` if it was given."""
        target = self.out
        if target is None:
            target = self.library.empty(own_order(buffer.shape, self.layout), like, self.stream)
        elif len(target.shape) < len(self.layout):
            target = self.library.batch_of_one(target)
        self.library.assign(target, buffer, TO_OWN[self.layout], self.stream)
        return target
