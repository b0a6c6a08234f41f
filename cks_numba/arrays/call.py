"""The arrays of one call of an operator: checked together, taken to NHWC, and the result back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from .. import checks
from ..buffers import LAYOUTS, TO_LAST, TO_OWN, bounds, channels_last, dtype_name, is_contiguous, own_order
from .libraries import library_of


@lru_cache(maxsize=64)
def _axis_names(letters: str, layout: str) -> str:
    return f"({', '.join(own_order(letters.split(), layout))})"  # type: ignore[arg-type]


class Call:
    """The arrays of one call of an operator, in the caller's library and layout.

    Parameters
    ----------
    layout : {"NHWC", "NCHW"}
    out : array or None
        The caller's buffer for the result.
    stream : stream or None
    inputs : arrays by the names of the arguments; only a bias may be None
    """

    def __init__(self, layout: Any, out: Any, stream: Any, **inputs: Any) -> None:
        self.layout = checks.choice("layout", layout, LAYOUTS)
        self.unbatched = False
        self._ranks: dict[str, int] = {}  # as they came, of the inputs that have a batch
        self.inputs: dict[str, Any] = {}
        dtypes = {}
        for name, array in inputs.items():
            if array is not None or name != "bias":
                self.inputs[name] = array = self._taken(name, array)
                dtypes[name] = dtype_name(array)
        self.dtype = checks.dtypes(dtypes)
        self._given_out, self.out = out, None if out is None else self._taken("out", out)
        self.strided = False
        self.stream = self.library.stream(stream, self._first)

    def _taken(self, name: str, array: Any) -> Any:
        """The array, which must be of the library of the first one."""
        library, array = library_of(name, array)
        if not self.inputs:
            self.library, self._first = library, array
        elif library is not self.library and type(library) is not type(self.library):
            first = next(iter(self.inputs))
            raise TypeError(
                f"{first} and {name} must be of one kind, got {self.library.name} for {first} "
                f"and {library.name} for {name}"
            )
        return array

    def axes(self, letters: str) -> str:
        """Names of four axes in the order of the layout: "N H W C" as "(N, C, H, W)"."""
        return _axis_names(letters, self.layout)

    def batched(self, name: str, letters: str) -> tuple[int, ...]:
        """NHWC shape of an input with a batch; one without gets a batch of one."""
        shape = tuple(self.inputs[name].shape)
        checks.rank(name, shape, self.axes(letters), unbatched=True)
        self._ranks[name] = len(shape)
        if len(set(self._ranks.values())) > 1:
            raise ValueError(f"{' and '.join(self._ranks)} must both be batched or both not, got ranks {self._ranks}")
        if len(shape) == 3:
            self.unbatched = True
            self.inputs[name], shape = self.library.batch_of_one(self.inputs[name]), (1, *shape)
        return channels_last(shape, self.layout)

    def filter(self, letters: str) -> tuple[int, ...]:
        """OHWI shape of the filter w; none of its sizes may be 0."""
        shape = tuple(self.inputs["w"].shape)
        checks.rank("w", shape, self.axes(letters))
        if 0 in shape:
            raise ValueError(f"w must not be empty, got shape {shape}")
        return channels_last(shape, self.layout)

    def shown(self, shape: Sequence[int], batch: bool = True) -> tuple[int, ...]:
        """An NHWC shape as the caller wrote or expects it."""
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
        for name, array in self.inputs.items():
            low, high = bounds(self.library.raw(array))
            if max(first, low) < min(last, high):
                raise ValueError(f"out must not overlap an input, it shares memory with {name}")

    def allocate(self, shape: tuple[int, ...], backend: str) -> Any:
        """The NHWC buffer for a backend to compute into: where that can be, the result itself.

        The cpu backend takes views of any strides, the others contiguous arrays.
        """
        self.strided = backend == "cpu"
        if self.layout != "NHWC" and not self.strided:
            return self.library.empty(shape, self._first, self.stream)
        own = self.out
        if own is None:
            own = self.library.empty(own_order(shape, self.layout), self._first, self.stream)
        elif len(own.shape) == 3:
            own = self.library.batch_of_one(own)
        return own if self.layout == "NHWC" else self.library.permuted(own, TO_LAST[self.layout])

    def operand(self, name: str) -> Any:
        """An input as the backend takes it, channels last."""
        array, axes = self.inputs[name], TO_LAST[self.layout]
        if self.strided:
            return self.library.raw(self.library.permuted(array, axes))
        return self.library.raw(self.library.contiguous(array, axes, self.stream))

    def add_bias(self, buffer: Any) -> None:
        """Add the bias, if there is one, to an NHWC buffer."""
        if "bias" in self.inputs:
            bias = self.library.contiguous(self.inputs["bias"], (0,), self.stream)
            self.library.add_bias(buffer, bias, self.stream)

    def finish(self, buffer: Any, batch: bool = True) -> Any:
        """The result in the caller's layout, from the NHWC buffer."""
        result = buffer
        if self.layout != "NHWC":
            axes = TO_OWN[self.layout]
            result = self.library.permuted(buffer, axes) if self.strided else self._own_layout(buffer)
        if self._given_out is not None:
            return self._given_out
        return self.library.give(self.library.only_image(result) if self.unbatched and batch else result)

    def _own_layout(self, buffer: Any) -> Any:
        """The NHWC buffer as C-contiguous NCHW, in `out` where there is one."""
        target = self.out
        if target is None:
            target = self.library.empty(own_order(buffer.shape, self.layout), buffer, self.stream)
        elif len(target.shape) == 3:
            target = self.library.batch_of_one(target)
        self.library.assign(target, buffer, TO_OWN[self.layout], self.stream)
        return target
