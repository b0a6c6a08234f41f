"""Every argument check and its message, in one place.

A check either returns the argument in the one form that the rest of the code uses, or raises a
``ValueError`` / ``TypeError`` that names the argument, what was expected, what came and, where it can, a way out.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from math import prod
from typing import Any, Literal, TypeVar

Pair = tuple[int, int]
Ints = int | tuple[int, ...] | list[int]
"""A stride or a dilation: an int for all spatial axes, or one for each, as (vertical, horizontal)."""

Padding = Ints | tuple[Pair, ...] | list[Pair] | list[list[int]] | Literal["same", "valid"]
"""Zeros around an image: an int for all sides, an int for each axis, as (vertical, horizontal), a pair for each axis,
as ((top, bottom), (left, right)), two ints for each axis in this order, "valid" for none, or "same" for a result as
large as the image (stride 1 alone)."""

Precision = Literal["float32", "tf32"]
"""How float32 numbers are multiplied: as they are, or rounded to 11 significant bits, as tensor cores want them."""

DEFAULT_PRECISION: Precision = "float32"

Choice = TypeVar("Choice", bound=str)
DTYPES = ("float16", "bfloat16", "float32", "float64")
MAX_GRID_YZ = 65535  # largest number of blocks along the second and third axis of a grid


def integer(name: str, value: Any, least: int) -> int:
    """Return `value` as an int of at least `least`."""
    if type(value) is int and value >= least:
        return value
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, got {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def integers(name: str, value: Any, least: int, axes: int) -> tuple[int, ...]:
    """Return an int, or a list of one, as an int for each axis; a list of as many as they are."""
    if not isinstance(value, (tuple, list)):
        return (integer(name, value, least),) * axes
    if len(value) == 1:
        return (integer(name, value[0], least),) * axes
    if len(value) != axes:
        raise ValueError(f"{name} must be an int or {_COUNTS[axes]}, got {value!r}")
    return tuple(integer(name, number, least) for number in value)


_COUNTS = {1: "a list of one", 2: "a pair", 3: "three ints"}
_PADDINGS = {
    1: "an int, (left, right)",
    2: "an int, (vertical, horizontal), ((top, bottom), (left, right)), four ints",
    3: "an int, three ints, three pairs, six ints",
}


def paddings(
    value: Any, filter_size: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[Pair, ...]:
    """Return any accepted form of padding as a pair for each axis: ((top, bottom), (left, right))."""
    axes = len(filter_size)
    if isinstance(value, str):
        if value == "valid":
            return ((0, 0),) * axes
        if value != "same":
            raise ValueError(f'padding must be ints, "same" or "valid", got {value!r}')
        if set(stride) != {1}:
            raise ValueError(f'padding="same" needs stride 1, got stride {stride}')
        totals = [d * (f - 1) for f, d in zip(filter_size, dilation, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    if isinstance(value, (tuple, list)) and len(value) == 2 * axes:
        value = tuple(value[k : k + 2] for k in range(0, 2 * axes, 2))
    if not isinstance(value, (tuple, list)) or len(value) == 1 < axes:
        (number,) = integers("padding", value, 0, 1)
        return ((number, number),) * axes
    if len(value) != axes:
        raise ValueError(f'padding must be {_PADDINGS[axes]}, "same" or "valid", got {value!r}')
    return tuple(_around(pad) for pad in value)


def _around(value: Any) -> Pair:
    """Return the padding of one axis, an int or a pair, as a pair."""
    before, after = integers("padding", value, 0, 2)
    return before, after


def factor(name: str, value: Any) -> float:
    """Return `value` as a float: a number of at least 1."""
    if not isinstance(value, (int, float)) or not value >= 1:
        raise ValueError(f"{name} must be a number of at least 1, got {value!r}")
    return float(value)


def two_axes(number: int) -> None:
    """Check the number of spatial axes of a layer of which rows and columns are drawn."""
    if number != 2:
        raise ValueError(f"shape must have two spatial axes to be drawn so, got {number}")


# --- the arguments of the operators ---------------------------------------------------------------
def choice(name: str, value: Any, allowed: tuple[Choice, ...]) -> Choice:
    """Return `value`, one of the allowed strings."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
    return allowed[allowed.index(value)]


def is_constant(value: Any) -> bool:
    """Return whether an argument can be looked up: it never changes, and no wrong one is equal to it.

    1.0 and True are equal to 1, but are errors.
    """
    kind = type(value)
    if kind is tuple:
        return all(map(is_constant, value))
    return kind is int or kind is str or value is None or value is ...


def by_position(function: str, names: Sequence[str], given: Sequence[Any]) -> None:
    """Check that a call gives no option by position; an int or a pair in the place of the bias is one too."""
    arrays = len(names)
    if len(given) >= arrays and names[-1] == "bias":
        arrays -= isinstance(given[arrays - 1], (int, tuple)) and not isinstance(given[arrays - 1], bool)
    options = given[arrays:]
    if options:
        arrays -= given[arrays - 1] is None
        named = [f"{option}={value!r}" for option, value in zip(("stride", "padding"), options, strict=False)]
        raise TypeError(f"options cannot be positional: write {function}({', '.join((*names[:arrays], *named))})")


def dtypes(names: dict[str, str], cast: str = '.astype("float32")') -> str:
    """Return the one dtype of all arrays, given by the name of each argument; `cast` is how one becomes float32."""
    for name, dtype in names.items():
        if dtype not in DTYPES:
            way = f"give {name}.real and {name}.imag" if "complex" in dtype else f"take {name}{cast}"
            raise TypeError(f"{name} must be float16, bfloat16, float32 or float64, got {dtype}: {way}")
    first, *others = names
    for name in others:
        if names[name] != names[first]:
            way = " and ".join(f"{one}{cast}" for one in (first, name) if names[one] != "float32")
            raise TypeError(
                f"{first} and {name} must have the same dtype, got {names[first]} and {names[name]}: take {way}"
            )
    return names[first]


def precision(value: Any, dtype: str) -> Precision:
    """Return the precision of products; "tf32" is for float32 arrays alone."""
    if isinstance(value, str) and value == DEFAULT_PRECISION:
        return DEFAULT_PRECISION
    found: Precision = choice("precision", value, (DEFAULT_PRECISION, "tf32"))
    if found == "tf32" and dtype != "float32":
        raise ValueError(f'precision="tf32" is for float32 arrays, got {dtype}: leave precision out')
    return found


def rank(name: str, shape: tuple[int, ...], axes: str, unbatched: bool = False) -> None:
    """Check that an array has the named axes, or all but the first where an unbatched one is accepted."""
    count = axes.count(",") + 1
    if len(shape) == count or (unbatched and len(shape) == count - 1):
        return
    wanted = f"{count} axes {axes}" + (f", or {count - 1} unbatched {axes.replace('N, ', '')}" if unbatched else "")
    new_axis = "[None]" if axes.endswith("W)") else "[..., None]"
    kind = {3: "a signal", 4: "an image", 5: "a volume"}[count]
    way = f"; {kind} of one channel is {name}{new_axis}" if unbatched and len(shape) == count - 2 else ""
    raise ValueError(f"{name} must have {wanted}, got shape {shape}{way}")


def sizes(name: str, value: Any, axes: str, unbatched: bool) -> tuple[int, ...]:
    """Return a shape given as an argument; the batch alone may be 0."""
    if hasattr(value, "shape"):
        way = f"{name}.shape" if len(value.shape) > 1 else f"tuple({name})"
        got = f"an array of shape {tuple(value.shape)}: take {way}"
        raise TypeError(f"{name} must be a tuple of ints {axes}, got {got}")
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name} must be a tuple of ints {axes}, got {value!r}")
    rank(name, tuple(value), axes, unbatched)
    if all(type(size) is int and size > 0 for size in value):
        return tuple(value)
    may_be_empty = axes.startswith("(N") and len(value) == axes.count(",") + 1
    least = [0 if may_be_empty and k == 0 else 1 for k in range(len(value))]
    return tuple(integer(f"{name}[{k}]", size, least[k]) for k, size in enumerate(value))


def divides(groups: int, source: str, channels: int) -> None:
    """Check that the channels of an array can be cut into channel groups."""
    if channels % groups:
        raise ValueError(f"{_undivided(groups, source, channels)}: take {divisors(channels)}")


def _undivided(groups: int, source: str, channels: int) -> str:
    return f"groups must divide the channels of {source}, got groups={groups} and {channels} channels"


def divisors(number: int) -> str:
    """Return divisors of a number of channels as text, such as "1, 2 or 4": those up to 1000, and the number itself."""
    found = [d for d in range(1, min(number, 1000) + 1) if number % d == 0]
    *others, last = map(str, found if found[-1] == number else [*found, number])
    return f"{', '.join(others)} or {last}" if others else last


def channels(source: str, ic: int, filter_ic: int, groups: int, filter_name: str = "w") -> None:
    """Check the input channels of the filter against those of x (or of the input to be found)."""
    if ic % groups:
        raise ValueError(_undivided(groups, source, ic))
    if filter_ic != ic // groups:
        raise ValueError(
            f"channels do not match: {source} has {ic} channels, so with groups={groups} {filter_name} must have "
            f"{ic // groups} input channels, got {filter_ic}"
        )


def shape_of(name: str, shape: tuple[int, ...], wanted: tuple[int, ...], why: str) -> None:
    """Check that a shape is the wanted one."""
    if shape != wanted:
        raise ValueError(f"{name} must have shape {wanted} {why}, got {shape}")


def bias(shape: tuple[int, ...], channels: int) -> None:
    """Check that a bias has one axis, with an element for each output channel."""
    way = ": take bias.reshape(-1)" if prod(shape) == channels and len(shape) != 1 else ""
    if shape != (channels,):
        raise ValueError(f"bias must have shape ({channels},) one for each output channel, got {shape}{way}")


def result(shape: Sequence[int]) -> None:
    """Check that a result of this shape fits the addresses of a machine, with 8 bytes for each element.

    An array without elements is limited in the same way, with its empty axes counted as 1.
    """
    if prod(max(size, 1) for size in shape) >= 2**59:
        raise ValueError(f"result of shape {tuple(shape)} is larger than any memory")


def input_size(name: str, size: int, least: int, stride: int, outputs: int, detail: str) -> None:
    """Check that `outputs` outputs fit an axis of `size`, from `least` to `least + stride - 1`."""
    most = least + stride - 1
    if max(1, least) <= size <= most:
        return
    if most < 1:
        raise ValueError(f"input_size has no valid {name} for dy of {outputs} {name} ({detail}), got {size}")
    valid = f"from {max(1, least)} to {most}" if most > max(1, least) else f"{most}"
    raise ValueError(f"input_size {name} must be {valid} for dy of {outputs} {name} ({detail}), got {size}")


def output_padding(value: Any, stride: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, ...]:
    """Return output_padding as an int for each axis, smaller than the stride or the dilation."""
    values = integers("output_padding", value, 0, len(stride))
    for number, s, d in zip(values, stride, dilation, strict=True):
        if number >= max(s, d):
            raise ValueError(
                f"output_padding must be smaller than stride or dilation, got output_padding={number}, "
                f"stride={s}, dilation={d}"
            )
    return values


def grid(name: str, blocks: tuple[int, ...]) -> None:
    """Check that a launch fits in one grid: only its first axis may be long."""
    if max(blocks[1:], default=1) > MAX_GRID_YZ:
        raise ValueError(f"too many channel tiles or channel groups for one grid: {name} needs {blocks}")


def offsets(shape: Any, width: int) -> None:
    """Check that 32-bit integers are enough for the counters of the CUDA kernels.

    They count loads of `width` elements, unsigned in a whole array and signed in one image, and positions and terms,
    both signed.
    """
    for name, size in (("x", shape.x_shape), ("w", shape.w_shape), ("dy", shape.y_shape)):
        if prod(size[1:]) >= 2**31 * width or prod(size) >= 2**32 * width:
            raise ValueError(f"{name} is too large for the CUDA kernels: shape {size}; split the batch")
    positions = shape.n * max(prod(size[1:-1]) for size in (shape.x_shape, shape.y_shape))
    if max(positions, prod(shape.w_shape[1:-1]) * max(shape.ic, shape.oc)) >= 2**31:
        raise ValueError(f"too many positions or terms for the CUDA kernels: {shape}; split the batch")
