"""The short way of eager calls: tensors of known sizes and strides need their addresses alone.

A layer of a small map is done in a few microseconds. Torch's way to an operator of Python, the checks, the views and
the plan take fifty times as long. All of them depend on sizes, strides, dtype and options only, so what the first call
has found is kept for the next one. `is_eager` says where nothing but the result is asked for. Everywhere else
(torch.compile and its relatives, traces, transforms, modes, subclasses, other devices) torch's operators are called.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from .. import backends
from ..backends import cpu
from ..backends.cpu import compiled, repeats
from ..buffers import LAYOUTS, TO_LAST, channels_last
from ..geometry import ConvShape

MOST = 1024
"""Most calls that are known."""

_TYPES = Tensor, nn.Parameter
_OPERATORS = "conv2d_input", "conv2d_weight", "conv2d"
_DTYPES = {torch.float32: "f", torch.float64: "d"}
"""The dtypes that the kernels take, with NumPy's ``char``."""


def _is_unknown() -> bool:
    """Stand in for a function that this version of torch does not have: the call goes the long way."""
    return True


# These functions are not public, and another version of torch may have others.
_tracing = getattr(torch._C, "_get_tracing_state", _is_unknown)
_modes = getattr(torch._C, "_len_torch_dispatch_stack", _is_unknown)
_profiling = getattr(getattr(torch._C, "_autograd", None), "_profiler_enabled", _is_unknown)
_transforms = getattr(torch._C, "_are_functorch_transforms_active", _is_unknown)


def _dispatch_keys(tensor: Tensor) -> int | None:
    """What torch looks at to choose an operator: device, layout, wrappers, the negative bit, and more."""
    keys = getattr(torch._C, "_dispatch_keys", None)
    return None if keys is None else keys(tensor).raw_repr()


with torch.inference_mode():
    _PLAIN = {_dispatch_keys(torch.empty(0, device="cpu"))}
_PLAIN = (_PLAIN | {_dispatch_keys(torch.empty(0, device="cpu"))}) - {None}


def is_eager(tensors: Iterable[Tensor]) -> bool:
    """Whether these are plain tensors on the CPU, and nobody looks at the operators that compute with them."""
    return not _is_watched() and all(map(is_plain, tensors))


def _is_watched() -> bool:
    """Whether a trace, a mode or a profiler wants to see the operators."""
    return bool(_tracing() or _modes() or _profiling())


def is_plain(tensor: Any) -> bool:
    """Whether this is a dense tensor on the CPU, of no other class, whose memory has its values."""
    return type(tensor) in _TYPES and _dispatch_keys(tensor) in _PLAIN


class Repeated(NamedTuple):
    """A call without its addresses: size and strides of the result, its kernels, and the size of a bias."""

    size: tuple[int, ...]
    strides: tuple[int, ...]
    kernels: repeats.Repeat
    bias_size: tuple[int, ...]

    def run(self, first: Tensor, second: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the result."""
        out = first.new_empty_strided(self.size, self.strides)
        self.kernels.run(first.data_ptr(), second.data_ptr(), out.data_ptr())
        if bias is not None:
            out += bias.view(self.bias_size)
        return out


_known: dict[Hashable, Repeated] = {}


class Again(NamedTuple):
    """A call of a public function: what its checks have found, and its options, which stay alive with it."""

    by: int
    size: tuple[int, ...] | None
    how: tuple[Any, ...]
    known: Repeated
    options: tuple[Any, ...]


calls: dict[Hashable, Again] = {}
"""Calls of the public functions by `key_of_call`."""


def key_of_call(function: Any, tensors: Sequence[Any], options: Sequence[Any]) -> Hashable:
    """Return what is equal for calls of a public function that differ in addresses alone; None if they are not eager.

    Options are compared by their identity: 1.0 and True are equal to 1, but are errors.
    """
    if torch.compiler.is_compiling():
        return None
    x, w, bias = tensors
    if not (is_plain(x) and is_plain(w) and (bias is None or is_plain(bias))) or _is_watched():
        return None
    if _transforms() or getattr(forward_ad, "_current_level", 0) >= 0 or torch.is_autocast_enabled("cpu"):
        return None
    of_bias = None if bias is None else (bias.shape, bias.stride(), bias.dtype)
    sizes = x.shape, x.stride(), x.dtype, w.shape, w.stride(), w.dtype, of_bias
    return function, sizes, *map(id, options)


def again(key: Hashable) -> Again | None:
    """Return what is known of a call of a public function."""
    found = calls.get(key)
    return found if found is not None and _has_threads(found.known) else None


def remember(key: Hashable, options: tuple[Any, ...], by: int, operands: Sequence[Any], how: tuple[Any, ...]) -> None:
    """Keep what the checks of a public function have found."""
    found = None if key is None else _known.get(key_of(by, operands, how))
    if found is not None and all(map(_is_constant, options)):
        if len(calls) >= MOST:
            calls.clear()
        calls[key] = Again(by, None if by == 2 else tuple(operands[0]), how, found, options)


def _is_constant(option: Any) -> bool:
    """Whether an option is made of numbers, strings and tuples, which do not change."""
    return type(option) in (int, str) or (type(option) is tuple and all(map(_is_constant, option)))


def _has_threads(call: Repeated) -> bool:
    """Whether a call runs on the number of threads that is set now."""
    threads = call.kernels.threads
    return threads == 1 or threads == compiled.affordable(compiled.threads_of_numba())


def key_of(by: int, operands: Sequence[Any], how: Sequence[Any]) -> Hashable:
    """Return what is equal for calls that differ in addresses alone."""
    parts = [(each.shape, each.stride(), each.dtype) if isinstance(each, Tensor) else tuple(each) for each in operands]
    return by, *parts, *map(tuple, how[:3]), how[3]


def known(key: Hashable) -> Repeated | None:
    """Return what is known of a call."""
    found = _known.get(key)
    return found if found is not None and _has_threads(found) else None


def note(key: Hashable, by: int, operands: Sequence[Any], how: Sequence[Any], out: Tensor) -> None:
    """Keep what the backend has noted of the call that was just made, if it has noted this one."""
    if out.dtype not in _DTYPES or backends.choose("auto", False) != "cpu":
        return
    layout = LAYOUTS[out.dim() - 2][1]
    three = [*operands, out] if by == 2 else operands
    sizes = [channels_last(each.shape if isinstance(each, Tensor) else each, layout) for each in three]
    shape = ConvShape.of(sizes[0], sizes[1], *how)
    tensors = [*(each for each in operands if isinstance(each, Tensor)), out]
    strides = [tuple(each.stride(axis) * each.element_size() for axis in TO_LAST[layout]) for each in tensors]
    kernels = repeats.known(cpu.key_of(_OPERATORS[by], shape, _DTYPES[out.dtype], *strides))
    if kernels is not None and sizes == [shape.x_shape, shape.w_shape, shape.y_shape]:
        if len(_known) >= MOST:
            _known.clear()
        _known[key] = Repeated(tuple(out.shape), out.stride(), kernels, (-1, *[1] * (out.dim() - 2)))
