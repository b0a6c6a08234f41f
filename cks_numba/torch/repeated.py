"""The short way of eager calls: tensors of known sizes and strides need their addresses alone.

A layer of a small map is done in a few microseconds. Torch's way to an operator of Python, the checks, the views and
the plan take fifty times as long. All of them depend on sizes, strides, dtype and options only, so what the first call
has found is kept for the next one. Whether the tensors of a call are like those of a known one is asked in C++, by the
class that guards the code of torch.compile. The short way is for calls of which nothing but the result is asked for.
Everywhere else (torch.compile and its relatives, traces, transforms, modes, subclasses, other devices) torch's
operators are called.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from .. import backends
from ..backends import cpu
from ..backends.cpu import bounds, compiled, repeats
from ..buffers import LAYOUTS, TO_LAST, channels_last
from ..checks import is_constant
from ..geometry import ConvShape

MOST, MOST_ALIKE = 2 * repeats.MOST, 8  # A call has two keys, that of the function and that of its operator.
"""Most keys of known calls, and most calls of a key. These differ in dtype, strides, class or wanted gradients."""

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
_guards: Any = getattr(getattr(getattr(torch._C, "_dynamo", None), "guards", None), "TensorGuards", None)


def _dispatch_keys(tensor: Tensor) -> int | None:
    """What torch looks at to choose an operator: device, layout, wrappers, the negative bit, and more."""
    keys = getattr(torch._C, "_dispatch_keys", None)
    return None if keys is None else keys(tensor).raw_repr()


with torch.inference_mode():
    _PLAIN = {_dispatch_keys(torch.empty(0, device="cpu"))}
_PLAIN = (_PLAIN | {_dispatch_keys(torch.empty(0, device="cpu"))}) - {None}


def is_eager(tensors: Iterable[Tensor]) -> bool:
    """Whether these are plain tensors on the CPU, and nobody looks at the operators that compute with them."""
    return not _is_watched() and all(map(_is_plain, tensors))


def _is_watched() -> bool:
    """Whether a trace, a mode or a profiler wants to see the operators."""
    return bool(_tracing() or _modes() or _profiling())


def _guard(tensors: Sequence[Tensor]) -> Callable[..., bool] | None:
    """Return the test whether tensors differ from these in addresses and numbers alone; None if torch has no such."""
    try:
        test: Callable[..., bool] = _guards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None).check
    except (AttributeError, TypeError):
        return None
    return test


def _is_plain(tensor: Any) -> bool:
    """Whether this is a dense tensor on the CPU, of no other class, whose memory has its values."""
    return type(tensor) in _TYPES and _dispatch_keys(tensor) in _PLAIN


class Known(NamedTuple):
    """A call without its addresses.

    Parameters
    ----------
    is_for : callable
        Whether it can be made with these tensors: they differ from those of the call in addresses and numbers alone.
        Autocast and transforms change what torch looks at, so it is false there.
    kernels : Repeat
    threads : int
        Number of threads that must be set for the call; 0 if it runs on one, whatever is set.
    size, strides
        Those of the result.
    by, how
        The operator, by the place of its result among x, w and dy; stride, padding, dilation and groups.
    options : tuple
        The options whose identities are in the key. They stay alive with the call.
    """

    is_for: Callable[..., bool]
    kernels: repeats.Repeat
    threads: int
    size: tuple[int, ...]
    strides: tuple[int, ...]
    by: int
    how: tuple[Any, ...]
    options: tuple[Any, ...] = ()

    def run(self, first: Tensor, second: Tensor, bias: Tensor | None = None) -> Tensor:
        """Compute the result."""
        out = first.new_empty_strided(self.size, self.strides)
        if bounds.CHECKED:
            given = _tensors((first, second, out), bias)
            self.kernels.run(*bounds.addresses_of(*(tensor.detach().numpy() for tensor in given)))
        else:
            at_bias = 0 if bias is None else bias.data_ptr()
            self.kernels.run(first.data_ptr(), second.data_ptr(), out.data_ptr(), at_bias)
        return out


calls: dict[Hashable, list[Known]] = {}
"""The calls of each key. A key is equal for calls with equal options and sizes; `Known.is_for` knows the rest."""


def find(key: Hashable, *tensors: Tensor) -> Known | None:
    """Return the call of this key that can be made with these tensors."""
    for call in calls.get(key, ()):
        if call.is_for(*tensors) and (not call.threads or call.threads == compiled.threads_of_numba()):
            return call
    return None


def _keep(key: Hashable, call: Known) -> None:
    """Keep a call, before the others of its key."""
    if len(calls) >= MOST:
        calls.clear()
    calls[key] = [call, *calls.get(key, ())][:MOST_ALIKE]


# --- calls of a function ---------------------------------------------------------------------------
def find_call(
    function: Hashable, options: Iterable[Any], first: Any, second: Any, bias: Any
) -> tuple[Hashable, Known | None]:
    """Return the key of a call of a function, None unless it is eager; and what is known of it.

    Options are compared by their identity: 1.0 and True are equal to 1, but are errors.
    """
    if torch.compiler.is_compiling() or _is_watched() or _transforms() or forward_ad._current_level >= 0:
        return None, None
    if type(first) not in _TYPES or type(second) not in _TYPES:
        return None, None
    try:
        key = function, first.shape, second.shape, bias is None, *map(id, options)
    except RuntimeError:  # Nested tensors have no sizes.
        return None, None
    return key, find(key, first, second) if bias is None else find(key, first, second, bias)


def remember(key: Hashable, options: tuple[Any, ...], by: int, *arguments: Any) -> None:
    """Keep what the operator that a function has called has found, for the next call of the function."""
    if key is not None and not torch.is_autocast_enabled("cpu") and all(map(is_constant, options)):
        found = find_operator(by, *arguments)[1]
        if found is not None:
            _keep(key, found._replace(options=options))


# --- calls of an operator --------------------------------------------------------------------------
def find_operator(
    by: int, operands: Sequence[Any], how: Sequence[Any], bias: Tensor | None
) -> tuple[Hashable, Known | None]:
    """Return the key of a call of an operator, and what is known of it."""
    sizes = [tuple(each.shape if isinstance(each, Tensor) else each) for each in operands]
    key = by, *sizes, bias is None, *map(tuple, how[:3]), how[3]
    return key, find(key, *_tensors(operands, bias))


def note(key: Hashable, by: int, operands: Sequence[Any], how: Sequence[Any], bias: Tensor | None, out: Tensor) -> None:
    """Keep what the backend has noted of the call of an operator that was just made, if it has noted this one."""
    tensors = _tensors(operands, bias)
    if out.dtype not in _DTYPES or not all(map(_is_plain, tensors)) or backends.choose("auto", False) != "cpu":
        return
    if bias is not None and not bias.is_contiguous():  # The kernels have a copy of it.
        return
    is_for = _guard(tensors)
    if is_for is None:
        return
    layout = LAYOUTS[out.dim() - 2][1]
    three = [*operands, out] if by == 2 else operands
    sizes = [channels_last(each.shape if isinstance(each, Tensor) else each, layout) for each in three]
    shape = ConvShape.of(sizes[0], sizes[1], *how)
    strides = [
        tuple(each.stride(axis) * each.element_size() for axis in TO_LAST[layout])
        for each in (*_tensors(operands, None), out)
    ]
    kernels = repeats.known(cpu.key_of(_OPERATORS[by], shape, bias is None, _DTYPES[out.dtype], *strides))
    if kernels is None or sizes != [shape.x_shape, shape.w_shape, shape.y_shape]:
        return
    is_little = kernels.threads == 1 and compiled.is_little(_OPERATORS[by], shape)
    call = Known(
        is_for=is_for,
        kernels=kernels,
        threads=0 if is_little else compiled.threads_of_numba(),
        size=tuple(out.shape),
        strides=out.stride(),
        by=by,
        how=(*map(tuple, how[:3]), how[3]),
    )
    _keep(key, call)


def _tensors(operands: Sequence[Any], bias: Tensor | None) -> list[Tensor]:
    """The tensors of a call: the two operands that are no size, and the bias."""
    found = [each for each in operands if isinstance(each, Tensor)]
    return found if bias is None else [*found, bias]
