"""Write PTX arithmetic, comparisons, conversions and bit operations as LLVM IR.

Floating-point numbers of 16 bits and fewer are integers in the IR, and their arithmetic is done in double precision,
because a CPU without instructions for them would need functions that a process may lack. Results in every rounding mode
follow from the result rounded to nearest and the sign of its error.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from .ptx import BITS, Instruction, PTXError


class Translator(Protocol):
    """What an instruction needs of the translation that it is part of."""

    def value(self, operand: str, kind: str) -> str: ...

    def set(self, register: str, kind: str, value: str) -> None: ...

    def let(self, text: str) -> str: ...

    def call(self, name: str, result: str, *args: str) -> str: ...


Modifiers = Sequence[str]
Scalar = Callable[..., str]
TABLE: dict[str, Callable[[Translator, Instruction], None]] = {}

FORMATS = {
    "f64": (11, 52),
    "f32": (8, 23),
    "tf32": (8, 10),
    "bf16": (8, 7),
    "f16": (5, 10),
    "e5m2": (5, 2),
    "e4m3": (4, 3),
}
SMALL = {"bf16", "f16", "e5m2", "e4m3"}
WIDTH = {**BITS, "u16x2": 32, "s16x2": 32, "f32x2": 64, "e5m2": 8, "e4m3": 8, "e5m2x2": 16, "e4m3x2": 16}
ROUNDINGS = {"rn", "rz", "rm", "rp", "rna"}
TO_INTEGRAL = {"rni": "rint", "rzi": "trunc", "rmi": "floor", "rpi": "ceil"}
FLOAT_CONDITIONS = {
    "eq": "oeq", "ne": "one", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge", "num": "ord",
    "equ": "ueq", "neu": "une", "ltu": "ult", "leu": "ule", "gtu": "ugt", "geu": "uge", "nan": "uno",
}  # fmt: skip
UNSIGNED_CONDITIONS = {"lo": "ult", "ls": "ule", "hi": "ugt", "hs": "uge"}


# Short names for LLVM IR that many instructions share.


def machine(kind: str) -> str:
    """LLVM type that holds a value of a PTX type in this module."""
    return {"f32": "float", "f64": "double"}.get(kind) or f"i{WIDTH[kind]}"


def register(kind: str) -> str:
    """PTX type as which an operand is read and written."""
    return kind if kind in ("f32", "f64") or kind[0] in "usp" and kind in BITS else f"b{WIDTH[kind]}"


def real(number: float) -> str:
    """Floating-point constant."""
    return f"0x{struct.unpack('>Q', struct.pack('>d', number))[0]:016X}"


def signed(kind: str) -> bool:
    return kind[0] == "s"


def do(t: Translator, how: str, *operands: str) -> str:
    """Emit an instruction: ``do(t, "add i32", x, y)``."""
    return t.let(f"{how} {', '.join(operands)}")


def cast(t: Translator, how: str, source: str, x: str, to: str) -> str:
    return x if source == to else t.let(f"{how} {source} {x} to {to}")


def select(t: Translator, condition: str, type_: str, x: str, y: str) -> str:
    return t.let(f"select i1 {condition}, {type_} {x}, {type_} {y}")


def intrinsic(t: Translator, name: str, type_: str, *args: str) -> str:
    """Call an LLVM function that takes and returns one type (an argument of another has it in front)."""
    suffix = {"float": "f32", "double": "f64"}.get(type_, type_)
    return t.call(f"llvm.{name}.{suffix}", type_, *(a if " " in a else f"{type_} {a}" for a in args))


def absolute(t: Translator, x: str, type_: str = "double") -> str:
    return intrinsic(t, "fabs", type_, x)


def resize(t: Translator, kind: str, x: str, bits: int) -> str:
    """Cut an integer, or extend it by its sign or by zeros."""
    grow = "sext" if signed(kind) else "zext"
    return cast(t, grow if bits > WIDTH[kind] else "trunc", f"i{WIDTH[kind]}", x, f"i{bits}")


def shift(t: Translator, how: str, bits: int, x: str, count: str) -> str:
    """Shift by any 32-bit count: past the width, zeros or copies of the sign remain."""
    if count.isdigit() and int(count) < bits:
        return do(t, f"{how} i{bits}", x, count)
    far = do(t, "icmp uge i32", count, str(bits))
    count = resize(t, "u32", select(t, far, "i32", str(bits - 1), count), bits)
    result = do(t, f"{how} i{bits}", x, count)
    return result if how == "ashr" else select(t, far, f"i{bits}", "0", result)


def as_bits(t: Translator, kind: str, x: str) -> str:
    return cast(t, "bitcast", machine(kind), x, f"i{WIDTH[kind]}")


def from_bits(t: Translator, kind: str, x: str) -> str:
    return cast(t, "bitcast", f"i{WIDTH[kind]}", x, machine(kind))


def part(t: Translator, kind: str, x: str, at: int, bits: int) -> str:
    """Element that starts at bit `at` of an integer of so many bits."""
    moved = do(t, f"lshr i{bits}", x, str(at)) if at else x
    return from_bits(t, kind, cast(t, "trunc", f"i{bits}", moved, f"i{WIDTH[kind]}"))


def pack(t: Translator, parts: Sequence[str], bits: int) -> str:
    """Integers of so many bits side by side, the first in the lowest bits."""
    type_, total = f"i{bits * len(parts)}", "0"
    for n, x in enumerate(parts):
        moved = do(t, f"shl {type_}", cast(t, "zext", f"i{bits}", x, type_), str(n * bits))
        total = do(t, f"or {type_}", total, moved)
    return total


# Floating-point formats and rounding.


def widen(t: Translator, kind: str, x: str) -> str:
    """Value of any floating-point type as a double; exact."""
    if kind not in SMALL:
        return cast(t, "fpext", machine(kind), x, "double")
    exponent, mantissa = FORMATS[kind]
    bits = exponent + mantissa
    x = resize(t, "b32", cast(t, "zext", f"i{bits + 1}", x, "i32"), 64)
    magnitude = do(t, "and i64", x, str((1 << bits) - 1))
    placed = do(t, "shl i64", magnitude, str(52 - mantissa))
    scale = real(2.0 ** (1024 - (1 << (exponent - 1))))
    finite = as_bits(t, "f64", do(t, "fmul double", from_bits(t, "f64", placed), scale))
    least = (1 << bits) - 1 if kind == "e4m3" else ((1 << exponent) - 1) << mantissa
    special = do(t, "icmp uge i64", magnitude, str(least))
    placed = select(t, special, "i64", do(t, "or i64", placed, str(0x7FF << 52)), finite)
    sign = do(t, "shl i64", do(t, "lshr i64", x, str(bits)), "63")
    return from_bits(t, "f64", do(t, "or i64", placed, sign))


def nudge(t: Translator, kind: str, x: str, error: str, mode: str) -> str:
    """Round in another mode: `x` is rounded to nearest, and the double `error` has the sign of (exact value - x).

    The mode "odd" keeps a trace of the error in the last bit, so that a second rounding, to fewer bits, is right.
    """
    type_, bits = f"i{WIDTH[kind]}", as_bits(t, kind, x)
    above, below = (do(t, f"fcmp {c} double", error, real(0)) for c in ("ogt", "olt"))
    positive = do(t, f"icmp sge {type_}", bits, "0")
    if mode == "odd":
        even = do(t, "xor i1", cast(t, "trunc", type_, bits, "i1"), "true")
        needed = do(t, "and i1", even, do(t, "or i1", above, below))
    else:
        needed = {"rp": above, "rm": below}.get(mode) or select(t, positive, "i1", below, above)
    step = select(t, do(t, "xor i1", above, positive), type_, "-1", "1")
    return from_bits(t, kind, select(t, needed, type_, do(t, f"add {type_}", bits, step), bits))


def narrow(t: Translator, x: str, kind: str, mode: str = "rn", finite: bool = False) -> str:
    """Round a double to any floating-point type; what is too large to infinity, or to the largest number."""
    if kind == "f64":
        return x
    if kind != "f32":
        return narrow_to_small(t, x, kind, mode, finite)
    near = cast(t, "fptrunc", "double", x, "float")
    return near if mode == "rn" else nudge(t, kind, near, do(t, "fsub double", x, widen(t, kind, near)), mode)


def narrow_to_small(t: Translator, x: str, kind: str, mode: str, finite: bool) -> str:
    """Bits of a double, rounded to one of the formats of at most 32 bits."""
    exponent, mantissa = FORMATS[kind]
    bias = (1 << (exponent - 1)) - 1
    top, unused = (bias + 1, 2) if kind == "e4m3" else (bias, 1)
    most, above = real((2 - unused * 2.0**-mantissa) * 2.0**top), real(2.0 ** (top + 1))
    size = absolute(t, to_multiple(t, x, mantissa, 1 - bias, mode))
    over = do(t, "fcmp ogt double", size, most)
    size = select(t, over, "double", most if finite else overflow(t, x, mode, most, above), size)
    nan = do(t, "fcmp uno double", x, x)
    if kind == "tf32":
        value = cast(t, "fptrunc", "double", intrinsic(t, "copysign", "double", size, x), "float")
        return select(t, nan, "i32", str(0x7FFFFFFF), as_bits(t, "f32", value))
    width = exponent + mantissa + 1
    scaled = as_bits(t, "f64", do(t, "fmul double", size, real(2.0 ** (bias - 1023))))
    magnitude = do(t, "lshr i64", scaled, str(52 - mantissa))
    if kind == "e4m3" and not finite:
        magnitude = select(t, over, "i64", "127", magnitude)
    sign = do(t, "lshr i64", do(t, "and i64", as_bits(t, "f64", x), str(1 << 63)), str(64 - width))
    bits = select(t, nan, "i64", str((1 << (width - 1)) - 1), do(t, "or i64", magnitude, sign))
    return cast(t, "trunc", "i64", bits, f"i{width}")


def overflow(t: Translator, x: str, mode: str, most: str, above: str) -> str:
    """What a number past the largest becomes, in size: infinity, but not by rounding towards zero."""
    if mode in ("rn", "rna"):
        return above
    infinite = do(t, "fcmp oeq double", absolute(t, x), real(float("inf")))
    if mode != "rz":
        outward = do(t, f"fcmp {'ogt' if mode == 'rp' else 'olt'} double", x, real(0))
        infinite = do(t, "or i1", infinite, outward)
    return select(t, infinite, "double", above, most)


def to_multiple(t: Translator, x: str, mantissa: int, least_exponent: int, mode: str) -> str:
    """Round a double to so many bits of mantissa, and to fewer below 2**least_exponent."""
    power = do(t, "and i64", as_bits(t, "f64", x), str(0x7FF << 52))
    power = intrinsic(t, "umax", "i64", power, str((1023 + least_exponent) << 52))
    unit = from_bits(t, "f64", do(t, "sub i64", power, str(mantissa << 52)))
    inverse = from_bits(t, "f64", do(t, "sub i64", str((2046 + mantissa) << 52), power))
    how = {"rz": "trunc", "rm": "floor", "rp": "ceil", "rna": "round"}.get(mode, "rint")
    return do(t, "fmul double", intrinsic(t, how, "double", do(t, "fmul double", x, inverse)), unit)


def two_sum(t: Translator, x: str, y: str) -> tuple[str, str]:
    """Sum of two doubles and its exact error (Knuth)."""
    total = do(t, "fadd double", x, y)
    rest = do(t, "fsub double", total, x)
    lost = do(t, "fsub double", x, do(t, "fsub double", total, rest))
    return total, do(t, "fadd double", lost, do(t, "fsub double", y, rest))


def nearest(t: Translator, op: str, type_: str, *x: str) -> str:
    return intrinsic(t, op, type_, *x) if op in ("fma", "sqrt") else do(t, f"f{op} {type_}", *x)


def exact(t: Translator, op: str, *x: str) -> tuple[str, str]:
    """Result of an operation on doubles, rounded to nearest, and a double with the sign of its error.

    The sign is lost where the error itself is too small for a double (operands or results below about 1e-290).
    """
    if op == "add":
        result, error = two_sum(t, *x)
    elif op == "fma":  # S. Boldo and J.-M. Muller, Some functions computable with a fused-mac, 2005
        result = intrinsic(t, "fma", "double", *x)
        product = do(t, "fmul double", x[0], x[1])
        rest = intrinsic(t, "fma", "double", x[0], x[1], do(t, "fneg double", product))
        low, lowest = two_sum(t, x[2], rest)
        high, middle = two_sum(t, product, low)
        gap = do(t, "fadd double", do(t, "fsub double", high, result), middle)
        error = do(t, "fadd double", gap, lowest)
    else:
        result = nearest(t, op, "double", *x)
        minus = do(t, "fneg double", result)
        factors = {"mul": (*x, minus), "div": (minus, x[-1], x[0]), "sqrt": (minus, result, x[0])}[op]
        error = intrinsic(t, "fma", "double", *factors)
        if op == "div":
            error = do(t, "fmul double", error, intrinsic(t, "copysign", "double", real(1), x[1]))
    return result, select(t, overflowed(t, op, result, *x), "double", do(t, "fneg double", result), error)


def overflowed(t: Translator, op: str, result: str, *x: str) -> str:
    """Whether a result is infinite though all operands are finite."""
    infinity = real(float("inf"))
    found = do(t, "fcmp oeq double", absolute(t, result), infinity)
    for value in x:
        found = do(t, "and i1", found, do(t, "fcmp one double", absolute(t, value), infinity))
    return do(t, "and i1", found, do(t, "fcmp one double", x[1], real(0))) if op == "div" else found


def arithmetic(t: Translator, op: str, kind: str, mode: str, *x: str) -> str:
    """Floating-point add, sub, mul, div, fma or sqrt, in any type and rounding mode."""
    if mode == "rn" and kind in ("f32", "f64"):
        return nearest(t, op, machine(kind), *x)
    wide = [widen(t, kind, value) for value in x]
    if op == "sub":
        op, wide[1] = "add", do(t, "fneg double", wide[1])
    result, error = exact(t, op, *wide)
    result = nudge(t, "f64", result, error, "odd" if mode == "rn" else mode)
    if mode == "rm" and op in ("add", "fma"):
        result = negative_zero(t, result, *wide)
    return narrow(t, result, kind, mode)


def negative_zero(t: Translator, result: str, *x: str) -> str:
    """Rounded down, a sum that is zero is negative unless both terms are positive."""
    first = do(t, "fmul double", x[0], x[1]) if len(x) == 3 else x[0]
    signs = do(t, "or i64", as_bits(t, "f64", first), as_bits(t, "f64", x[-1]))
    zero = from_bits(t, "f64", do(t, "and i64", signs, str(1 << 63)))
    return select(t, do(t, "fcmp oeq double", result, real(0)), "double", zero, result)


def flush(t: Translator, kind: str, mods: Modifiers, *x: str) -> list[str]:
    """Replace subnormal numbers by zeros of their sign, if .ftz says so."""
    if "ftz" not in mods or kind not in FORMATS:
        return list(x)
    exponent, mantissa = FORMATS[kind]
    type_, results = f"i{WIDTH[kind]}", []
    for value in x:
        bits = as_bits(t, kind, value)
        field = do(t, f"and {type_}", bits, str(((1 << exponent) - 1) << mantissa))
        zero = do(t, f"and {type_}", bits, str(1 << (exponent + mantissa)))
        results.append(from_bits(t, kind, select(t, do(t, f"icmp eq {type_}", field, "0"), type_, zero, bits)))
    return results


def finish(t: Translator, kind: str, mods: Modifiers, x: str) -> str:
    """Apply .ftz, .sat (to [0, 1], a NaN to 0) and .relu (negative to 0) to a result."""
    (x,) = flush(t, kind, mods, x)
    if not {"sat", "relu"} & set(mods):
        return x
    if kind in SMALL:
        return narrow(t, finish(t, "f64", [m for m in mods if m != "ftz"], widen(t, kind, x)), kind)
    type_ = machine(kind)
    if "relu" in mods:
        return select(t, do(t, f"fcmp ole {type_}", x, real(0)), type_, real(0), x)
    x = select(t, do(t, f"fcmp ogt {type_}", x, real(0)), type_, x, real(0))
    return select(t, do(t, f"fcmp olt {type_}", x, real(1)), type_, x, real(1))


def rounding(mods: Modifiers) -> str:
    return next((m for m in mods if m in ROUNDINGS), "rn")


# Instructions in general. Each scalar operation below gives the value of one instruction on one element.


def unknown(i: Instruction) -> PTXError:
    return PTXError(f"PTX instruction that the emulator does not know: {i.text or '.'.join(i.op)}")


def taken_apart(i: Instruction) -> tuple[list[str], list[str]]:
    """Modifiers and types of an instruction."""
    return [m for m in i.op[1:] if m not in WIDTH], [m for m in i.op[1:] if m in WIDTH]


def instruction(
    names: str, kinds: str, mods: str = "", operands: Sequence[str] = (), result: str = ""
) -> Callable[[Scalar], Scalar]:
    """Register a scalar operation under the names of its instructions.

    Parameters
    ----------
    names, kinds, mods : str
        The instructions, and the types and modifiers that they may have, with blanks between.
    operands : sequence of str
        PTX types of the first operands (``""``: the first type of the instruction, ``"2"``: its second).
    result : str
        PTX type of the result, if it is not the first type of the instruction.
    """

    def decorate(scalar: Scalar) -> Scalar:
        for name in names.split():
            TABLE[name] = partial(run, scalar, {*kinds.split()}, {*mods.split()}, operands, result)
        return scalar

    return decorate


def run(
    scalar: Scalar, kinds: set[str], mods: set[str], operands: Sequence[str], result: str, t: Translator, i: Instruction
) -> None:
    """Read the operands, apply a scalar operation to each element, and write the result."""
    modifiers, types = taken_apart(i)
    if not types or not mods.issuperset(modifiers) or not kinds.issuperset(types):
        raise unknown(i)
    kind, count = types[0], len(i.args) - 1
    wide = f"{kind[0]}{2 * WIDTH[kind]}" if "wide" in modifiers else kind
    forms = [{"": kind, "2": types[-1]}.get(o, o) for o in operands]
    forms = (forms + [kind, kind, wide][len(forms) :])[:count]
    values = [t.value(a, register(k)) for a, k in zip(i.args[1:], forms, strict=True)]
    lane, bits = kind.removesuffix("x2"), WIDTH[kind]
    if lane == kind:
        t.set(i.args[0], register(result or wide), scalar(t, i.op[0], kind, modifiers, *values))
        return
    results = []
    for at in (0, bits // 2):
        parts = [part(t, lane, v, at, bits) if k == kind else v for v, k in zip(values, forms, strict=True)]
        results.append(as_bits(t, lane, scalar(t, i.op[0], lane, modifiers, *parts)))
    t.set(i.args[0], f"b{bits}", pack(t, results, bits // 2))


SIGNED, UNSIGNED = "s16 s32 s64", "u16 u32 u64"
REALS = "f32 f64 f16 bf16 f16x2 bf16x2 f32x2"
NUMBERS = f"{SIGNED} {UNSIGNED} {REALS} u16x2 s16x2"
BITWISE = "pred b16 b32 b64"
FLOAT_MODS = "rn rz rm rp ftz sat relu approx full"


# Arithmetic.


@instruction("add sub addc subc", NUMBERS, FLOAT_MODS + " cc")
def add(t: Translator, op: str, kind: str, mods: Modifiers, x: str, y: str) -> str:
    if kind in FORMATS:
        return finish(t, kind, mods, arithmetic(t, op, kind, rounding(mods), *flush(t, kind, mods, x, y)))
    if "cc" in mods or op.endswith("c"):
        return chain(t, op, kind, mods, x, y)
    if "sat" in mods:
        return intrinsic(t, f"{kind[0]}{op}.sat", machine(kind), x, y)
    return do(t, f"{op} {machine(kind)}", x, y)


def chain(t: Translator, op: str, kind: str, mods: Modifiers, x: str, y: str) -> str:
    """Add or subtract with the carry flag as input, output or both."""
    bits = WIDTH[kind]
    type_, how = f"i{2 * bits}", f"{op[:3]} i{2 * bits}"
    total = do(t, how, *(cast(t, "zext", f"i{bits}", v, type_) for v in (x, y)))
    if op.endswith("c"):
        total = do(t, how, total, cast(t, "zext", "i1", t.value("%carry", "pred"), type_))
    if "cc" in mods:
        t.set("%carry", "pred", cast(t, "trunc", type_, do(t, f"lshr {type_}", total, str(bits)), "i1"))
    return cast(t, "trunc", type_, total, f"i{bits}")


def product(t: Translator, kind: str, mods: Modifiers, x: str, y: str) -> str:
    """Lower half, upper half or whole of the product of two integers."""
    bits = WIDTH[kind]
    if "hi" not in mods and "wide" not in mods:
        return do(t, f"mul i{bits}", x, y)
    whole = do(t, f"mul i{2 * bits}", resize(t, kind, x, 2 * bits), resize(t, kind, y, 2 * bits))
    return whole if "wide" in mods else part(t, f"b{bits}", whole, bits, 2 * bits)


@instruction("mul mad fma madc", NUMBERS, FLOAT_MODS + " lo hi wide cc")
def multiply(t: Translator, op: str, kind: str, mods: Modifiers, x: str, y: str, z: str = "") -> str:
    if kind in FORMATS:
        args = flush(t, kind, mods, x, y, z) if z else flush(t, kind, mods, x, y)
        return finish(t, kind, mods, arithmetic(t, "fma" if z else "mul", kind, rounding(mods), *args))
    result = product(t, kind, mods, x, y)
    if not z:
        return result
    wide = f"{kind[0]}{2 * WIDTH[kind]}" if "wide" in mods else kind
    return add(t, "addc" if op == "madc" else "add", wide, mods, result, z)


@instruction("mul24 mad24", "u32 s32", "lo hi sat")
def multiply_24_bits(t: Translator, op: str, kind: str, mods: Modifiers, x: str, y: str, z: str = "") -> str:
    x, y = (resize(t, f"{kind[0]}32", extend_from(t, "i32", kind, v, "24"), 64) for v in (x, y))
    result = part(t, "b32", do(t, "mul i64", x, y), 16 if "hi" in mods else 0, 64)
    return add(t, "add", kind, mods, result, z) if z else result


@instruction("sad", f"{SIGNED} {UNSIGNED}")
def sum_of_absolute_difference(t: Translator, op: str, kind: str, mods: Modifiers, x: str, y: str, z: str) -> str:
    type_, low, high = machine(kind), *(extreme(t, name, kind, (), x, y) for name in ("min", "max"))
    return do(t, f"add {type_}", z, do(t, f"sub {type_}", high, low))


@instruction("div rem", f"{SIGNED} {UNSIGNED} f32 f64", FLOAT_MODS)
def divide(t: Translator, op: str, kind: str, mods: Modifiers, x: str, y: str) -> str:
    if kind in FORMATS:
        return finish(t, kind, mods, arithmetic(t, "div", kind, rounding(mods), *flush(t, kind, mods, x, y)))
    type_, how = machine(kind), kind[0] + op
    by_zero = do(t, f"icmp eq {type_}", y, "0")
    unsafe = by_zero
    if signed(kind):
        least = do(t, f"icmp eq {type_}", x, str(-(1 << (WIDTH[kind] - 1))))
        unsafe = do(t, "or i1", by_zero, do(t, "and i1", least, do(t, f"icmp eq {type_}", y, "-1")))
    result = do(t, f"{how} {type_}", x, select(t, unsafe, type_, "1", y))
    return select(t, by_zero, type_, "-1", result)  # what a GPU gives


@instruction("min max", f"{NUMBERS}", "ftz NaN xorsign abs relu")
def extreme(t: Translator, op: str, kind: str, mods: Modifiers, *x: str) -> str:
    if len(x) == 3:
        return extreme(t, op, kind, mods, extreme(t, op, kind, mods, x[0], x[1]), x[2])
    if kind in FORMATS:
        x = tuple(widen(t, kind, v) if kind in SMALL else v for v in flush(t, kind, mods, *x))
        result = extreme_float(t, op, "f64" if kind in SMALL else kind, mods, *x)
        return finish(t, kind, mods, narrow(t, result, kind) if kind in SMALL else result)
    result = intrinsic(t, ("s" if signed(kind) else "u") + op, machine(kind), *x)
    return intrinsic(t, "smax", machine(kind), result, "0") if "relu" in mods else result


def extreme_float(t: Translator, op: str, kind: str, mods: Modifiers, x: str, y: str) -> str:
    """Smaller or larger of two numbers: -0 is below 0, and a NaN loses, or wins with .NaN."""
    type_, whole, signs = machine(kind), f"i{WIDTH[kind]}", ""
    if "xorsign" in mods:
        signs = from_bits(t, kind, do(t, f"xor {whole}", as_bits(t, kind, x), as_bits(t, kind, y)))
    if "abs" in mods:
        x, y = absolute(t, x, type_), absolute(t, y, type_)
    zero = do(t, f"{'or' if op == 'min' else 'and'} {whole}", as_bits(t, kind, x), as_bits(t, kind, y))
    result = intrinsic(t, f"{op}num", type_, x, y)
    result = select(t, do(t, f"fcmp oeq {type_}", x, y), type_, from_bits(t, kind, zero), result)
    if "NaN" in mods:
        result = select(t, do(t, f"fcmp uno {type_}", x, y), type_, real(float("nan")), result)
    return intrinsic(t, "copysign", type_, result, signs) if signs else result


@instruction("abs neg", f"{SIGNED} {REALS}", "ftz")
def sign(t: Translator, op: str, kind: str, mods: Modifiers, x: str) -> str:
    type_, bits = f"i{WIDTH[kind]}", WIDTH[kind]
    if kind in FORMATS:
        x = as_bits(t, kind, *flush(t, kind, mods, x))
        how, mask = ("and", (1 << (bits - 1)) - 1) if op == "abs" else ("xor", 1 << (bits - 1))
        return from_bits(t, kind, do(t, f"{how} {type_}", x, str(mask)))
    minus = do(t, f"sub {type_}", "0", x)
    return minus if op == "neg" else select(t, do(t, f"icmp slt {type_}", x, "0"), type_, minus, x)


@instruction("copysign", "f32 f64")
def copy_sign(t: Translator, op: str, kind: str, mods: Modifiers, x: str, y: str) -> str:
    return intrinsic(t, "copysign", machine(kind), y, x)


@instruction("sqrt rcp rsqrt", "f32 f64", FLOAT_MODS)
def root(t: Translator, op: str, kind: str, mods: Modifiers, x: str) -> str:
    """Square root, reciprocal or both, as exact as the type allows where a GPU approximates."""
    (x,) = flush(t, kind, mods, x)
    if op == "rsqrt":
        wide = intrinsic(t, "sqrt", "double", widen(t, kind, x))
        result = narrow(t, do(t, "fdiv double", real(1), wide), kind)
    else:
        args = (x,) if op == "sqrt" else (real(1), x)
        result = arithmetic(t, "sqrt" if op == "sqrt" else "div", kind, rounding(mods), *args)
    return finish(t, kind, mods, result)


C_FUNCTIONS = {"sin": "sin", "cos": "cos", "ex2": "exp2", "lg2": "log2", "tanh": "tanh"}


@instruction(" ".join(C_FUNCTIONS), "f32 f16 bf16 f16x2 bf16x2", "approx ftz")
def transcendental(t: Translator, op: str, kind: str, mods: Modifiers, x: str) -> str:
    (x,) = flush(t, kind, mods, x)
    result = t.call(C_FUNCTIONS[op], "double", f"double {widen(t, kind, x)}")
    return finish(t, kind, mods, narrow(t, result, kind))


@instruction("testp", "f32 f64", "finite infinite number notanumber normal subnormal", result="pred")
def test_property(t: Translator, op: str, kind: str, mods: Modifiers, x: str) -> str:
    type_, size = machine(kind), absolute(t, x, machine(kind))
    least = real(2.0 ** (2 - (1 << (FORMATS[kind][0] - 1))))
    finite, normal, above = (
        do(t, f"fcmp {c} {type_}", size, y) for c, y in (("one", real(float("inf"))), ("oge", least), ("ogt", real(0)))
    )
    tests: dict[str, Callable[[], str]] = {
        "finite": lambda: finite,
        "infinite": lambda: do(t, f"fcmp oeq {type_}", size, real(float("inf"))),
        "number": lambda: do(t, f"fcmp ord {type_}", x, x),
        "notanumber": lambda: do(t, f"fcmp uno {type_}", x, x),
        "normal": lambda: do(t, "and i1", finite, normal),
        "subnormal": lambda: do(t, "and i1", above, do(t, f"fcmp olt {type_}", size, least)),
    }
    return tests[mods[0]]()


# Bits.


@instruction("and or xor", BITWISE)
def bitwise(t: Translator, op: str, kind: str, mods: Modifiers, x: str, y: str) -> str:
    return do(t, f"{op} {machine(kind)}", x, y)


@instruction("not cnot", BITWISE)
def invert(t: Translator, op: str, kind: str, mods: Modifiers, x: str) -> str:
    type_ = machine(kind)
    return (
        do(t, f"xor {type_}", x, "-1")
        if op == "not"
        else cast(t, "zext", "i1", do(t, f"icmp eq {type_}", x, "0"), type_)
    )


@instruction("lop3", "b32", operands=("", "", "", "u32"))
def logic_of_three(t: Translator, op: str, kind: str, mods: Modifiers, x: str, y: str, z: str, table: str) -> str:
    """Any function of three bits, as the sum of the products for which its table has a one."""
    total, pairs = "0", [(v, do(t, "xor i32", v, "-1")) for v in (x, y, z)]
    for n in range(8):
        if int(table) >> n & 1:
            (a, not_a), (b, not_b), (c, not_c) = pairs
            factors = [a if n & 4 else not_a, b if n & 2 else not_b, c if n & 1 else not_c]
            total = do(t, "or i32", total, do(t, "and i32", do(t, "and i32", *factors[:2]), factors[2]))
    return total


@instruction("shl shr", f"b16 b32 b64 {SIGNED} {UNSIGNED}", operands=("", "u32"))
def shift_bits(t: Translator, op: str, kind: str, mods: Modifiers, x: str, count: str) -> str:
    return shift(t, "shl" if op == "shl" else "ashr" if signed(kind) else "lshr", WIDTH[kind], x, count)


@instruction("shf", "b32", "l r clamp wrap")
def funnel_shift(t: Translator, op: str, kind: str, mods: Modifiers, low: str, high: str, count: str) -> str:
    pair, count = pack(t, (low, high), 32), resize(t, "u32", limited(t, mods, count), 64)
    if "l" in mods:
        return part(t, "b32", do(t, "shl i64", pair, count), 32, 64)
    return part(t, "b32", do(t, "lshr i64", pair, count), 0, 64)


def limited(t: Translator, mods: Modifiers, count: str) -> str:
    """Count of at most 32 (.clamp) or modulo 32 (.wrap)."""
    return do(t, "and i32", count, "31") if "wrap" in mods else intrinsic(t, "umin", "i32", count, "32")


PERMUTATIONS: dict[str, Callable[[int, int], int]] = {
    "f4e": lambda n, byte: n + byte,
    "b4e": lambda n, byte: (n - byte) % 8,
    "rc8": lambda n, byte: n,
    "ecl": lambda n, byte: max(n, byte),
    "ecr": lambda n, byte: min(n, byte),
    "rc16": lambda n, byte: n % 2 * 2 + byte % 2,
}


@instruction("prmt", "b32", " ".join(PERMUTATIONS))
def permute(t: Translator, op: str, kind: str, mods: Modifiers, low: str, high: str, selector: str) -> str:
    """Pick four of eight bytes; bit 3 of a pick asks for the sign of the byte in all of its bits."""
    if mods:
        table = sum(PERMUTATIONS[mods[0]](n, byte) << (16 * n + 4 * byte) for n in range(4) for byte in range(4))
        count = do(t, "shl i64", resize(t, "u32", do(t, "and i32", selector, "3"), 64), "4")
        selector = part(t, "b32", do(t, "and i64", do(t, "lshr i64", str(table), count), "65535"), 0, 64)
    pair, picked = pack(t, (low, high), 32), []
    for byte in range(4):
        pick = do(t, "lshr i32", selector, str(4 * byte))
        count = resize(t, "u32", do(t, "shl i32", do(t, "and i32", pick, "7"), "3"), 64)
        found = part(t, "b8", do(t, "lshr i64", pair, count), 0, 64)
        signs = cast(t, "trunc", "i32", do(t, "lshr i32", pick, "3"), "i1")
        picked.append(select(t, signs, "i8", do(t, "ashr i8", found, "7"), found))
    return pack(t, picked, 8)


def extend_from(t: Translator, type_: str, kind: str, x: str, count: str) -> str:
    """Keep so many of the lowest bits of an integer, and extend them by their sign or by zeros."""
    bits = int(type_[1:])
    rest = do(t, "sub i32", str(bits), intrinsic(t, "umin", "i32", count, str(bits)))
    return shift(t, "ashr" if signed(kind) else "lshr", bits, shift(t, "shl", bits, x, rest), rest)


@instruction("bfe", "u32 s32 u64 s64", operands=("", "u32", "u32"))
def extract_bits(t: Translator, op: str, kind: str, mods: Modifiers, x: str, start: str, count: str) -> str:
    start, count = (do(t, "and i32", v, "255") for v in (start, count))
    moved = shift(t, "ashr" if signed(kind) else "lshr", WIDTH[kind], x, start)
    return extend_from(t, machine(kind), kind, moved, count)


@instruction("bfi", "b32 b64", operands=("", "", "u32", "u32"))
def insert_bits(t: Translator, op: str, kind: str, mods: Modifiers, x: str, y: str, start: str, count: str) -> str:
    start, count = (do(t, "and i32", v, "255") for v in (start, count))
    type_, bits = machine(kind), WIDTH[kind]
    mask = shift(t, "shl", bits, extend_from(t, type_, kind, "-1", count), start)
    kept = do(t, f"and {type_}", y, do(t, f"xor {type_}", mask, "-1"))
    return do(t, f"or {type_}", kept, do(t, f"and {type_}", mask, shift(t, "shl", bits, x, start)))


@instruction("bmsk", "b32", "clamp wrap", operands=("u32", "u32"))
def bit_mask(t: Translator, op: str, kind: str, mods: Modifiers, start: str, count: str) -> str:
    start, count = (limited(t, mods, v) for v in (start, count))
    return shift(t, "shl", 32, extend_from(t, "i32", "u32", "-1", count), start)


@instruction("szext", "u32 s32", "clamp wrap", operands=("", "u32"))
def sign_or_zero_extend(t: Translator, op: str, kind: str, mods: Modifiers, x: str, count: str) -> str:
    return extend_from(t, "i32", kind, x, limited(t, mods, count))


@instruction("popc clz", "b32 b64", result="u32")
def count_bits(t: Translator, op: str, kind: str, mods: Modifiers, x: str) -> str:
    name, extra = {"popc": ("ctpop", ()), "clz": ("ctlz", ("i1 false",))}[op]
    return resize(t, kind, intrinsic(t, name, machine(kind), x, *extra), 32)


@instruction("brev", "b32 b64")
def reverse_bits(t: Translator, op: str, kind: str, mods: Modifiers, x: str) -> str:
    return intrinsic(t, "bitreverse", machine(kind), x)


@instruction("bfind", "u32 s32 u64 s64", "shiftamt", result="u32")
def find_leading_bit(t: Translator, op: str, kind: str, mods: Modifiers, x: str) -> str:
    """Highest bit that differs from the sign (counted from above with .shiftamt), or -1."""
    type_, bits = machine(kind), WIDTH[kind]
    if signed(kind):
        x = do(t, f"xor {type_}", x, do(t, f"ashr {type_}", x, str(bits - 1)))
    above = count_bits(t, "clz", f"b{bits}", (), x)
    if "shiftamt" in mods:
        return select(t, do(t, "icmp eq i32", above, str(bits)), "i32", "-1", above)
    return do(t, "sub i32", str(bits - 1), above)


@instruction("fns", "b32", operands=("", "u32", "s32"))
def find_nth_set(t: Translator, op: str, kind: str, mods: Modifiers, mask: str, base: str, offset: str) -> str:
    """Position of the n-th set bit from a base upwards, downwards (n < 0) or at the base itself (n = 0), or -1."""
    down = do(t, "icmp slt i32", offset, "0")
    here = do(t, "icmp eq i32", offset, "0")
    mask = select(t, down, "i32", intrinsic(t, "bitreverse", "i32", mask), mask)
    base = select(t, down, "i32", do(t, "sub i32", "31", base), base)
    count = select(t, here, "i32", "1", sign(t, "abs", "s32", (), offset))
    window = select(t, here, "i32", shift(t, "shl", 32, "1", base), shift(t, "shl", 32, "-1", base))
    mask = do(t, "and i32", mask, window)
    for n in range(1, 32):
        rest = do(t, "and i32", mask, do(t, "sub i32", mask, "1"))
        mask = select(t, do(t, "icmp ugt i32", count, str(n)), "i32", rest, mask)
    none = do(t, "or i1", do(t, "icmp eq i32", mask, "0"), do(t, "icmp ugt i32", count, "32"))
    found = intrinsic(t, "cttz", "i32", mask, "i1 false")
    found = select(t, down, "i32", do(t, "sub i32", "31", found), found)
    return select(t, none, "i32", "-1", found)


def dot(t: Translator, i: Instruction) -> None:
    """Add the products of four bytes by four (dp4a), or of two 16-bit integers by two bytes (dp2a)."""
    mods, kinds = taken_apart(i)
    if len(kinds) != 2 or not {*kinds} <= {"u32", "s32"} or not {*mods} <= {"lo", "hi"}:
        raise unknown(i)
    x, y, total = (t.value(a, "u32") for a in i.args[1:])
    wide, start = (8, 0) if i.op[0] == "dp4a" else (16, 16 * ("hi" in mods))
    for n in range(32 // wide):
        a = resize(t, f"{kinds[0][0]}{wide}", part(t, f"b{wide}", x, wide * n, 32), 32)
        b = resize(t, f"{kinds[1][0]}8", part(t, "b8", y, start + 8 * n, 32), 32)
        total = do(t, "add i32", total, do(t, "mul i32", a, b))
    t.set(i.args[0], "u32", total)


TABLE["dp4a"] = TABLE["dp2a"] = dot


# Comparisons and choices.


def compare(t: Translator, condition: str, kind: str, mods: Modifiers, x: str, y: str) -> str:
    if kind in FORMATS:
        x, y = flush(t, kind, mods, x, y)
        if kind in SMALL:
            kind, x, y = "f64", widen(t, kind, x), widen(t, kind, y)
        return do(t, f"fcmp {FLOAT_CONDITIONS[condition]} {machine(kind)}", x, y)
    how = UNSIGNED_CONDITIONS.get(condition, condition)
    if condition in ("lt", "le", "gt", "ge"):
        how = ("s" if signed(kind) else "u") + condition
    return do(t, f"icmp {how} {machine(kind)}", x, y)


def comparisons(t: Translator, i: Instruction) -> list[tuple[str, str]]:
    """Result of a comparison, and of its opposite, for each element, combined with a third operand if there is one."""
    mods, kinds = taken_apart(i)
    kind, combine = kinds[-1], next((m for m in mods[1:] if m in ("and", "or", "xor")), "")
    conditions = (
        FLOAT_CONDITIONS
        if kind.removesuffix("x2") in FORMATS
        else {*UNSIGNED_CONDITIONS, "eq", "ne", "lt", "le", "gt", "ge"}
    )
    if not mods or mods[0] not in conditions or {*mods[1:]} - {"ftz", combine} or bool(combine) != (len(i.args) == 4):
        raise unknown(i)
    x, y = (t.value(a, register(kind)) for a in i.args[1:3])
    third = t.value(i.args[3], "pred") if combine else ""
    lane, bits = kind.removesuffix("x2"), WIDTH[kind]
    results = []
    for at in range(0, bits, WIDTH[lane]):
        pair = (x, y) if lane == kind else (part(t, lane, x, at, bits), part(t, lane, y, at, bits))
        yes = compare(t, mods[0], lane, mods, *pair)
        no = do(t, "xor i1", yes, "true")
        results.append(
            (do(t, f"{combine} i1", yes, third), do(t, f"{combine} i1", no, third)) if combine else (yes, no)
        )
    return results


def set_predicate(t: Translator, i: Instruction) -> None:
    results = comparisons(t, i)
    values = results[0] if len(results) == 1 else (results[0][0], results[1][0])
    for name, value in zip(i.args[0].split("|"), values, strict=False):
        t.set(name.strip(), "pred", value)


def set_number(t: Translator, i: Instruction) -> None:
    """Write -1 or 1.0 where a comparison is true, else 0."""
    kind = taken_apart(i)[1][0]
    lane = kind.removesuffix("x2")
    zero, true = {"f32": (real(0), real(1)), "f16": ("0", str(0x3C00)), "bf16": ("0", str(0x3F80))}.get(
        lane, ("0", "-1")
    )
    values = [select(t, yes, machine(lane), true, zero) for yes, _ in comparisons(t, i)]
    t.set(i.args[0], register(kind), values[0] if lane == kind else pack(t, values, WIDTH[lane]))


TABLE["setp"], TABLE["set"] = set_predicate, set_number


@instruction("selp", f"b16 b32 b64 {SIGNED} {UNSIGNED} f16 bf16 f32 f64", operands=("", "", "pred"))
def choose(t: Translator, op: str, kind: str, mods: Modifiers, x: str, y: str, condition: str) -> str:
    return select(t, condition, machine(kind), x, y)


def choose_by_sign(t: Translator, i: Instruction) -> None:
    mods, (kind, other) = taken_apart(i)
    x, y = (t.value(a, register(kind)) for a in i.args[1:3])
    (z,) = flush(t, other, mods, t.value(i.args[3], other))
    positive = compare(t, "ge", other, (), z, real(0) if other == "f32" else "0")
    t.set(i.args[0], register(kind), select(t, positive, machine(kind), x, y))


TABLE["slct"] = choose_by_sign


# Moves and conversions.


def elements(operand: str) -> list[str]:
    return [e.strip() for e in operand.strip("{} ").split(",")]


def move(t: Translator, i: Instruction) -> None:
    """Copy a value; braces pack the elements of one or unpack it."""
    kind, (target, source) = i.op[-1], i.args
    if len(i.op) != 2 or kind not in WIDTH:
        raise unknown(i)
    if "{" not in target + source:
        t.set(target, register(kind), t.value(source, register(kind)))
        return
    names = elements(source if "{" in source else target)
    bits = WIDTH[kind] // len(names)
    if "{" in source:
        t.set(target, f"b{WIDTH[kind]}", pack(t, [t.value(e, f"b{bits}") for e in names], bits))
        return
    value = t.value(source, f"b{WIDTH[kind]}")
    for n, name in enumerate(names):
        t.set(name, f"b{bits}", part(t, f"b{bits}", value, n * bits, WIDTH[kind]))


def convert(t: Translator, x: str, to: str, source: str, mods: Modifiers = ()) -> str:
    """Convert between any two numeric types."""
    if source in FORMATS:
        (x,) = flush(t, source, mods, x)
        return float_to_float(t, x, to, source, mods) if to in FORMATS else float_to_integer(t, x, to, source, mods)
    if to in FORMATS:
        return finish(t, to, mods, integer_to_float(t, x, to, source, rounding(mods)))
    return integer_to_integer(t, x, to, source, "sat" in mods)


def integer_to_integer(t: Translator, x: str, to: str, source: str, saturate: bool) -> str:
    if not saturate:
        return resize(t, source, x, WIDTH[to])
    bits = WIDTH[to]
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed(to) else (0, (1 << bits) - 1)
    x = resize(t, source, x, 128)
    x = intrinsic(t, "smin", "i128", intrinsic(t, "smax", "i128", x, str(low)), str(high))
    return part(t, to, x, 0, 128)


def integer_to_float(t: Translator, x: str, to: str, source: str, mode: str) -> str:
    how, type_ = "sitofp" if signed(source) else "uitofp", machine(source)
    if mode == "rn" and to in ("f32", "f64"):
        return cast(t, how, type_, x, machine(to))
    if WIDTH[source] < 64:
        return narrow(t, cast(t, how, type_, x, "double"), to, mode)
    high = cast(t, how, "i64", do(t, f"{'ashr' if signed(source) else 'lshr'} i64", x, "32"), "double")
    low = cast(t, "uitofp", "i64", do(t, "and i64", x, str((1 << 32) - 1)), "double")
    result, error = two_sum(t, do(t, "fmul double", high, real(2.0**32)), low)
    return narrow(t, nudge(t, "f64", result, error, "odd" if mode == "rn" else mode), to, mode)


def float_to_integer(t: Translator, x: str, to: str, source: str, mods: Modifiers) -> str:
    """Round and clamp; a NaN becomes 0, or the highest bit alone where one of the types has 64 bits."""
    special = "64" in to + source
    if source in SMALL:
        source, x = "f64", widen(t, source, x)
    type_ = machine(source)
    how = next((TO_INTEGRAL[m] for m in mods if m in TO_INTEGRAL), "trunc")
    if how != "trunc":
        x = intrinsic(t, how, type_, x)
    name = f"llvm.fpto{'s' if signed(to) else 'u'}i.sat.{machine(to)}.{'f32' if source == 'f32' else 'f64'}"
    result = t.call(name, machine(to), f"{type_} {x}")
    if not special:
        return result
    return select(t, do(t, f"fcmp uno {type_}", x, x), machine(to), str(-(1 << (WIDTH[to] - 1))), result)


def float_to_float(t: Translator, x: str, to: str, source: str, mods: Modifiers) -> str:
    how = next((TO_INTEGRAL[m] for m in mods if m in TO_INTEGRAL), "")
    if to != source or how and to in SMALL:
        x = widen(t, source, x)
    if how:
        x = intrinsic(t, how, "double" if to != source or to in SMALL else machine(to), x)
    if to != source or how and to in SMALL:
        x = narrow(t, x, to, rounding(mods), "satfinite" in mods)
    return finish(t, to, mods, x)


CVT_MODS = {*ROUNDINGS, *TO_INTEGRAL, "ftz", "sat", "satfinite", "relu"}


def cvt(t: Translator, i: Instruction) -> None:
    """Convert one number, two to a packed pair, or one packed pair to another."""
    mods, kinds = taken_apart(i)
    if len(kinds) != 2 or not CVT_MODS.issuperset(mods) or not 2 <= len(i.args) <= 3:
        raise unknown(i)
    to, source = kinds
    if not to.endswith("x2"):
        t.set(i.args[0], register(to), convert(t, t.value(i.args[1], register(source)), to, source, mods))
        return
    if len(i.args) == 3:
        pair = [t.value(a, register(source)) for a in (i.args[2], i.args[1])]
    else:
        both, source = t.value(i.args[1], register(source)), source.removesuffix("x2")
        pair = [part(t, source, both, at, 2 * WIDTH[source]) for at in (0, WIDTH[source])]
    lane = to.removesuffix("x2")
    results = [convert(t, x, lane, source, mods) for x in pair]
    t.set(i.args[0], f"b{WIDTH[to]}", pack(t, results, WIDTH[lane]))


def cvt_pack(t: Translator, i: Instruction) -> None:
    """Clamp two integers and put them side by side, below the lower bits of a third one."""
    kinds = taken_apart(i)[1]
    bits = WIDTH[kinds[0]]
    values = [integer_to_integer(t, t.value(a, kinds[1]), kinds[0], kinds[1], True) for a in (i.args[2], i.args[1])]
    result = resize(t, "b32" if bits == 16 else "b16", pack(t, values, bits), 32)
    if len(i.args) == 4:
        result = do(t, "or i32", result, do(t, "shl i32", t.value(i.args[3], "b32"), str(2 * bits)))
    t.set(i.args[0], "b32", result)


def ignore(t: Translator, i: Instruction) -> None:
    """Do nothing: what it orders, hints at or waits for makes no difference here."""


TABLE["mov"] = move
TABLE["cvt"] = lambda t, i: cvt_pack(t, i) if "pack" in i.op else cvt(t, i)
TABLE |= dict.fromkeys(
    "prefetch prefetchu discard applypriority nanosleep membar fence pmevent griddepcontrol".split(), ignore
)
