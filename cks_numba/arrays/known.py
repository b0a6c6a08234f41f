"""Known calls on NumPy arrays: what a call has found is kept for the next one with the same arguments.

The key of a call has all that its result depends on but numbers and addresses: the operator, the names and values of
its options, and the shape, strides and dtype of each array. So the arguments of a known call are checked by looking
them up: wrong ones are never found. Packed filters are the arrays that they hold. Arrays of other libraries, subclasses
and streams go the long way.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..backends import cpu
from ..backends.cpu import compiled, packed, repeats
from ..backends.cpu.bounds import address_of, addresses_of
from ..buffers import bounds
from ..checks import is_constant
from .libraries import NumPy
from .packed import Packed

Array = np.ndarray[Any, Any]
NUMPY = NumPy()


def call(operator: Callable[..., Any], names: Sequence[str], given: Sequence[Any], options: Mapping[str, Any]) -> Any:
    """Return the result of an operator, by the kernels of a known call if there is one.

    Parameters
    ----------
    operator : callable
    names : sequence of str
        Those of the arguments that may be given by position.
    given, options
        The arguments by position and by name.
    """
    arguments = (*given, *options.values())
    arrays: list[Array] = []
    for each in arguments:
        if type(each) is np.ndarray:
            arrays.append(each)
        elif type(each) is Packed:
            arrays += packed.arrays_of(each.filters)
    key = _key(operator, arguments, options, arrays)
    if key is not None:
        known = repeats.known(key)
        result = None if known is None else known.run(arrays)
        if result is not None:
            return result
        repeats.now.last = None
    result = operator(*given, **options)
    if key is not None and repeats.now.last is not None:
        named = {**dict(zip(names, given, strict=False)), **options}
        found = _known(*repeats.now.last, arrays, named.get("out"), result)
        if found is not None:
            repeats.keep(key, found)
    return result


def _key(
    operator: Hashable, arguments: Sequence[Any], options: Mapping[str, Any], arrays: Sequence[Array]
) -> Hashable | None:
    """Return the key of a call, None if it goes the long way."""
    others = [... if type(each) is np.ndarray else each.kind if type(each) is Packed else each for each in arguments]
    if not (cpu.COMPILED and cpu.NOTES_CALLS and all(map(is_constant, others))):
        return None
    seen = [(each.shape, each.strides, each.dtype) for each in arrays]
    return operator, compiled.threads_of_numba(), (*options,), (*others,), (*seen,)


class KnownCall(NamedTuple):
    """A call without its arrays.

    Parameters
    ----------
    kernels : Repeat
    first, second : int
        Places of the operands of the backend among the arrays of the call.
    bias, out : int or None
        Places of the bias and of the caller's buffer for the result.
    panels : tuple of int
        Place of the panels of packed filters, if there are any.
    new : callable
        Returns a new array for the result.
    reach : list of (int, int, int)
        For each array but `out` its place, and the bytes from its first element to its lowest and past its highest one.
    """

    kernels: repeats.Repeat
    first: int
    second: int
    bias: int | None
    out: int | None
    panels: tuple[int, ...]
    new: Callable[[], Array]
    reach: list[tuple[int, int, int]]

    def run(self, arrays: Sequence[Array]) -> Array | None:
        """Return the result; None if the call must go the long way: an array is not aligned, or `out` is wrong."""
        out = self.new() if self.out is None else arrays[self.out]
        bias = None if self.bias is None else arrays[self.bias]
        panels = [arrays[place] for place in self.panels]
        addresses = addresses_of(arrays[self.first], arrays[self.second], out, bias, *panels)
        if any(at % out.itemsize for at in addresses) or (self.out is not None and not self._may_write(out, arrays)):
            return None
        self.kernels.run(*addresses)
        return out

    def _may_write(self, out: Array, arrays: Sequence[Array]) -> bool:
        """Whether the caller's buffer may be written to, and shares no memory with another array."""
        start, end = address_of(out), address_of(out) + out.nbytes
        ends = [(address_of(arrays[place]), low, high) for place, low, high in self.reach]
        return out.flags.writeable and all(at + high <= start or end <= at + low for at, low, high in ends)


def _known(
    kernels: repeats.Repeat,
    addresses: Sequence[int],
    arrays: Sequence[Array],
    out: Array | None,
    result: Array,
) -> KnownCall | None:
    """Return what is known of a call that was just made; None if the kernels had other memory than its arrays."""
    places = {address_of(array): place for place, array in enumerate(arrays)}
    first, second, _, bias, *panels = (places.get(at) for at in addresses)
    at_out = next((place for place, array in enumerate(arrays) if array is out), None)
    is_all = {*range(len(arrays))} <= {first, second, bias, at_out, *panels}
    if first is None or second is None or not is_all or address_of(result) != addresses[2]:
        return None
    reach = []
    for place, array in enumerate(arrays):
        low, high = bounds(array)
        reach.append((place, low - address_of(array), high - address_of(array)))
    return KnownCall(
        kernels=kernels,
        first=first,
        second=second,
        bias=bias,
        out=at_out,
        panels=tuple(place for place in panels if place is not None),
        new=partial(NUMPY.empty, result.shape, np.empty(0, result.dtype), None),
        reach=[one for one in reach if one[0] != at_out],
    )
