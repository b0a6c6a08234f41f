"""Functions of NVIDIA's libdevice that PTX calls by name, as LLVM IR: the C library of this computer has most of them.

The C functions in double precision serve for both types: these every C library has.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from . import instructions as ptx
from .instructions import Translator, absolute, cast, convert, do, intrinsic, narrow, real, select, widen
from .ptx import PTXError

Body = Callable[..., "str | tuple[str, ...]"]


class Function(NamedTuple):
    """A function of libdevice.

    Attributes
    ----------
    result : str
        PTX type of what it returns; empty if nothing.
    arguments : tuple of str
        PTX types; ``"u64"`` is an address too.
    body : callable
        Of the translator and the arguments without the addresses. If it stores results, it gives a tuple: the value
        that it returns, if any, then those that it stores.
    stores : tuple of str
        PTX types of what it stores at the addresses, which are its last arguments.
    """

    result: str
    arguments: tuple[str, ...]
    body: Body
    stores: tuple[str, ...] = ()


FUNCTIONS: dict[str, Function] = {}
BOTH = (("", "f64"), ("f", "f32"))


def define(name: str, result: str, arguments: str, body: Body, stores: str = "") -> None:
    addresses = ["u64"] * len(stores.split())
    FUNCTIONS[f"__nv_{name}"] = Function(result, (*arguments.split(), *addresses), body, (*stores.split(),))


def define_both(names: str, arguments: str, body: Body, result: str = "x", stores: str = "") -> None:
    """Register functions of doubles, and of floats with an f behind the name; ``x`` stands for the type."""
    for name in names.split():
        for suffix, kind in BOTH:
            kinds, given, stored = (text.replace("x", kind) for text in (result, arguments, stores))
            define(name + suffix, kinds, given, partial(body, name, kind), stored)


# Bodies take the name and the type first, then the translator and the values.


def c_function(name: str, kind: str, t: Translator, *x: str) -> str:
    """Call a C function of doubles; a first or last integer argument has its type in front."""
    args = (a if " " in a else f"double {widen(t, kind, a)}" for a in x)
    return narrow(t, t.call(name, "double", *args), kind)


def bessel(name: str, kind: str, t: Translator, *x: str) -> str:
    args = (f"i32 {x[0]}", x[1]) if len(x) == 2 else x
    return c_function(f"_{name}" if sys.platform == "win32" else name, kind, t, *args)


def scaled(name: str, kind: str, t: Translator, x: str, power: str) -> str:
    return c_function("ldexp", kind, t, x, f"i32 {power}")


def next_after(name: str, kind: str, t: Translator, x: str, y: str) -> str:
    type_ = ptx.machine(kind)
    return t.call(name + ("f" if kind == "f32" else ""), type_, f"{type_} {x}", f"{type_} {y}")


def integer_power(name: str, kind: str, t: Translator, x: str, power: str) -> str:
    return narrow(t, c_function("pow", "f64", t, widen(t, kind, x), convert(t, power, "f64", "s32")), kind)


def llvm_function(name: str, kind: str, t: Translator, *x: str) -> str:
    return intrinsic(t, {"nearbyint": "rint"}.get(name, name), ptx.machine(kind), *x)


def of_double(f: Callable[..., str], name: str, kind: str, t: Translator, *x: str) -> str:
    """Compute in double precision."""
    return narrow(t, f(t, *(widen(t, kind, v) for v in x)), kind)


def sine_of_pi(t: Translator, x: str) -> str:
    """sin(pi * x), exact where it is 0 or 1: x is brought to [-1/2, 1/2] first."""
    turns = intrinsic(t, "rint", "double", do(t, "fmul double", x, real(0.5)))
    x = do(t, "fsub double", x, do(t, "fmul double", turns, real(2)))
    far = do(t, "fcmp ogt double", absolute(t, x), real(0.5))
    other = do(t, "fsub double", intrinsic(t, "copysign", "double", real(1), x), x)
    x = select(t, far, "double", other, x)
    return t.call("sin", "double", f"double {do(t, 'fmul double', x, real(math.pi))}")


def cosine_of_pi(t: Translator, x: str) -> str:
    turns = intrinsic(t, "rint", "double", do(t, "fmul double", x, real(0.5)))
    x = do(t, "fsub double", x, do(t, "fmul double", turns, real(2)))
    return sine_of_pi(t, do(t, "fsub double", real(0.5), absolute(t, x)))


def power_of_ten(t: Translator, x: str) -> str:
    return t.call("pow", "double", f"double {real(10)}", f"double {x}")


def reciprocal_root(t: Translator, x: str) -> str:
    return do(t, "fdiv double", real(1), intrinsic(t, "sqrt", "double", x))


def reciprocal_cube_root(t: Translator, x: str) -> str:
    return do(t, "fdiv double", real(1), t.call("cbrt", "double", f"double {x}"))


def normal_distribution(t: Translator, x: str) -> str:
    tail = t.call("erfc", "double", f"double {do(t, 'fmul double', x, real(-math.sqrt(0.5)))}")
    return do(t, "fmul double", tail, real(0.5))


def saturate(t: Translator, x: str) -> str:
    return ptx.finish(t, "f64", ["sat"], x)


def whole_exponent(name: str, kind: str, t: Translator, x: str) -> str:
    wide = widen(t, kind, x)
    result = convert(t, t.call("logb", "double", f"double {wide}"), "s32", "f64")
    return select(t, do(t, "fcmp uno double", wide, wide), "i32", str(-(1 << 31)), result)


def rounded_to_integer(name: str, kind: str, t: Translator, x: str) -> str:
    x = intrinsic(t, {"llrint": "rint", "llround": "round"}[name], ptx.machine(kind), x)
    return convert(t, x, "s64", kind)


def extreme(name: str, kind: str, t: Translator, x: str, y: str) -> str:
    return ptx.extreme(t, name[-3:], kind, (), x, y)


def sine_and_cosine(name: str, kind: str, t: Translator, x: str) -> tuple[str, ...]:
    if name == "sincospi":
        return of_double(sine_of_pi, name, kind, t, x), of_double(cosine_of_pi, name, kind, t, x)
    return c_function("sin", kind, t, x), c_function("cos", kind, t, x)


def fraction(name: str, kind: str, t: Translator, x: str) -> tuple[str, ...]:
    """Fraction, and the whole part that modf stores."""
    type_ = ptx.machine(kind)
    whole = intrinsic(t, "trunc", type_, x)
    rest = do(t, f"fsub {type_}", x, whole)
    infinite = do(t, f"fcmp oeq {type_}", absolute(t, x, type_), real(math.inf))
    rest = select(t, infinite, type_, real(0), rest)
    return intrinsic(t, "copysign", type_, rest, x), whole


def mantissa_and_exponent(name: str, kind: str, t: Translator, x: str) -> tuple[str, ...]:
    """Number of [1/2, 1), and the power of two that frexp stores."""
    x = widen(t, kind, x)
    special = do(
        t, "or i1", do(t, "fcmp oeq double", x, real(0)), do(t, "fcmp ueq double", absolute(t, x), real(math.inf))
    )
    power = do(t, "add i32", convert(t, t.call("logb", "double", f"double {x}"), "s32", "f64"), "1")
    power = select(t, special, "i32", "0", power)
    half = do(t, "ashr i32", power, "1")  # two steps, because 2**power may be too large
    low, high = do(t, "sub i32", "0", half), do(t, "sub i32", half, power)
    x = c_function("ldexp", "f64", t, c_function("ldexp", "f64", t, x, f"i32 {low}"), f"i32 {high}")
    return narrow(t, x, kind), power


def remainder_and_quotient(name: str, kind: str, t: Translator, x: str, y: str) -> tuple[str, ...]:
    """IEEE remainder, and the lowest bits of the quotient that remquo stores."""
    x, y = widen(t, kind, x), widen(t, kind, y)
    rest = c_function("remainder", "f64", t, x, y)
    few = c_function("fmod", "f64", t, x, do(t, "fmul double", y, real(8)))
    quotient = do(t, "fdiv double", do(t, "fsub double", few, rest), y)
    return narrow(t, rest, kind), convert(t, quotient, "s32", "f64", ["rni"])


C_NAMES = (
    "acos acosh asin asinh atan atanh cbrt cos cosh erf erfc exp exp2 expm1 lgamma log log10 log1p log2 logb "
    "sin sinh tan tanh tgamma"
)
define_both(C_NAMES, "x", c_function)
define_both("atan2 fdim fmod hypot pow remainder", "x x", c_function)
define_both("j0 j1 y0 y1", "x", bessel)
define_both("jn yn", "s32 x", bessel)
define_both("nextafter", "x x", next_after)
define_both("ldexp scalbn", "x s32", scaled)
define_both("powi", "x s32", integer_power)
define_both("ceil fabs floor nearbyint rint round sqrt trunc", "x", llvm_function)
define_both("copysign", "x x", llvm_function)
define_both("fma", "x x x", llvm_function)
define_both("fmax fmin", "x x", extreme)
define_both("ilogb", "x", whole_exponent, "s32")
define_both("llrint llround", "x", rounded_to_integer, "s64")
define_both("sincos sincospi", "x", sine_and_cosine, "", "x x")
define_both("modf", "x", fraction, "x", "x")
define_both("frexp", "x", mantissa_and_exponent, "x", "s32")
define_both("remquo", "x x", remainder_and_quotient, "x", "s32")
for own, computed in {
    "sinpi": sine_of_pi, "cospi": cosine_of_pi, "exp10": power_of_ten, "rsqrt": reciprocal_root,
    "rcbrt": reciprocal_cube_root, "normcdf": normal_distribution, "saturate": saturate,
}.items():  # fmt: skip
    define_both(own, "x", partial(of_double, computed))

# Rounding modes, comparisons and bits: instructions of PTX under other names.

ROUNDINGS = {"rn": ("rn", "rni"), "rz": ("rz", "rzi"), "rd": ("rm", "rmi"), "ru": ("rp", "rpi")}
TYPES = {"float": "f32", "double": "f64", "int": "s32", "uint": "u32", "ll": "s64", "ull": "u64"}
OPERATIONS = {"add": 2, "sub": 2, "mul": 2, "div": 2, "sqrt": 1, "rcp": 1}


def rounded(op: str, kind: str, mode: str, t: Translator, *x: str) -> str:
    return ptx.root(t, op, kind, [mode], *x) if op == "rcp" else ptx.arithmetic(t, op, kind, mode, *x)


def converted(to: str, source: str, mods: Sequence[str], t: Translator, x: str) -> str:
    return convert(t, x, to, source, mods)


def scalar(f: ptx.Scalar, op: str, kind: str, mods: Sequence[str], t: Translator, *x: str) -> str:
    return f(t, op, kind, mods, *x)


def bits_of(kind: str, t: Translator, x: str) -> str:
    return ptx.as_bits(t, kind, x)


def number_of(kind: str, t: Translator, x: str) -> str:
    return ptx.from_bits(t, kind, x)


def half_of_double(at: int, t: Translator, x: str) -> str:
    return ptx.part(t, "b32", ptx.as_bits(t, "f64", x), at, 64)


def double_of_halves(t: Translator, high: str, low: str) -> str:
    return ptx.from_bits(t, "f64", ptx.pack(t, (low, high), 32))


def average(kind: str, more: int, t: Translator, x: str, y: str) -> str:
    """Half of the sum, rounded down or (with 1 more) up."""
    total = do(t, "add i64", ptx.resize(t, kind, x, 64), ptx.resize(t, kind, y, 64))
    return ptx.part(t, "b32", do(t, "lshr i64", do(t, "add i64", total, str(more)), "1"), 0, 64)


def first_set(kind: str, t: Translator, x: str) -> str:
    """Position of the lowest bit that is set, from 1, or 0."""
    type_ = ptx.machine(kind)
    found = do(t, f"add {type_}", intrinsic(t, "cttz", type_, x, "i1 false"), "1")
    return ptx.resize(t, kind, select(t, do(t, f"icmp eq {type_}", x, "0"), type_, "0", found), 32)


def tested(condition: str, with_infinity: bool, kind: str, t: Translator, x: str) -> str:
    """1 or 0: compare a number's size with infinity, or the number with itself."""
    type_ = ptx.machine(kind)
    pair = (absolute(t, x, type_), real(math.inf)) if with_infinity else (x, x)
    return cast(t, "zext", "i1", do(t, f"fcmp {condition} {type_}", *pair), "i32")


def sign_bit(kind: str, t: Translator, x: str) -> str:
    bits = ptx.as_bits(t, kind, x)
    return cast(t, "zext", "i1", do(t, f"icmp slt i{ptx.WIDTH[kind]}", bits, "0"), "i32")


for ending, (mode, whole_mode) in ROUNDINGS.items():
    for letter, kind in (("f", "f32"), ("d", "f64")):
        for op, count in OPERATIONS.items():
            define(f"{letter}{op}_{ending}", kind, f"{kind} " * count, partial(rounded, op, kind, mode))
    for suffix, kind in BOTH:
        define(f"fma{suffix}_{ending}", kind, f"{kind} " * 3, partial(rounded, "fma", kind, mode))
    for (a, source), (b, to) in itertools.permutations(TYPES.items(), 2):
        mods = [whole_mode if to[0] != "f" else mode]
        define(f"{a}2{b}_{ending}", to, source, partial(converted, to, source, mods))
define("frsqrt_rn", "f32", "f32", partial(of_double, reciprocal_root, "rsqrt", "f32"))
define("float2half_rn", "u16", "f32", partial(converted, "f16", "f32", []))
define("half2float", "f32", "u16", partial(converted, "f32", "f16", []))
for name in "cosf sinf tanf expf exp10f log2f log10f logf sincosf powf".split():
    FUNCTIONS[f"__nv_fast_{name}"] = FUNCTIONS[f"__nv_{name}"]
FUNCTIONS["__nv_fast_fdividef"] = FUNCTIONS["__nv_fdiv_rn"]
for letters, kind in (("", "s32"), ("u", "u32"), ("ll", "s64"), ("ull", "u64")):
    for op in ("min", "max"):
        define(letters + op, kind, f"{kind} {kind}", partial(scalar, ptx.extreme, op, kind, ()))
for letter, sign in (("", "s"), ("u", "u")):
    for bits, word in (("32", ""), ("64", "64")):
        kind = sign + bits
        define(f"{letter}mul{word}hi", kind, f"{kind} {kind}", partial(scalar, ptx.multiply, "mul", kind, ["hi"]))
    kind = sign + "32"
    define(f"{letter}mul24", kind, f"{kind} {kind}", partial(scalar, ptx.multiply_24_bits, "mul24", kind, ["lo"]))
    define(f"{letter}sad", kind, f"{kind} {kind} u32", partial(scalar, ptx.sum_of_absolute_difference, "sad", kind, ()))
    define(f"{letter}hadd", kind, f"{kind} {kind}", partial(average, kind, 0))
    define(f"{letter}rhadd", kind, f"{kind} {kind}", partial(average, kind, 1))
for letters, bits in (("", "32"), ("ll", "64")):
    define(f"{letters}abs", f"s{bits}", f"s{bits}", partial(scalar, ptx.sign, "abs", f"s{bits}", ()))
    define(f"brev{letters}", f"b{bits}", f"b{bits}", partial(scalar, ptx.reverse_bits, "brev", f"b{bits}", ()))
    define(f"ffs{letters}", "s32", f"b{bits}", partial(first_set, f"b{bits}"))
    for op in ("clz", "popc"):
        define(f"{op}{letters}", "s32", f"b{bits}", partial(scalar, ptx.count_bits, op, f"b{bits}", ()))
define("byte_perm", "b32", "b32 b32 b32", partial(scalar, ptx.permute, "prmt", "b32", ()))
for name in ("float_as_int", "float_as_uint"):
    define(name, "b32", "f32", partial(bits_of, "f32"))
for name in ("int_as_float", "uint_as_float"):
    define(name, "f32", "b32", partial(number_of, "f32"))
define("double_as_longlong", "b64", "f64", partial(bits_of, "f64"))
define("longlong_as_double", "f64", "b64", partial(number_of, "f64"))
define("double2hiint", "b32", "f64", partial(half_of_double, 32))
define("double2loint", "b32", "f64", partial(half_of_double, 0))
define("hiloint2double", "f64", "b32 b32", double_of_halves)
for letter, kind in (("f", "f32"), ("d", "f64")):
    define(f"isnan{letter}", "s32", kind, partial(tested, "uno", False, kind))
    define(f"isinf{letter}", "s32", kind, partial(tested, "oeq", True, kind))
    define("finitef" if letter == "f" else "isfinited", "s32", kind, partial(tested, "one", True, kind))
    define(f"signbit{letter}", "s32", kind, partial(sign_bit, kind))


def call_function(
    t: Translator,
    name: str,
    arguments: Sequence[tuple[str, str]],
    result_kind: str = "",
    store: Callable[[str, str, str], None] | None = None,
) -> str:
    """Compute what a function of libdevice returns.

    Parameters
    ----------
    t : Translator
    name : str
        ``"__nv_sinf"``, for example.
    arguments : sequence of (str, str)
        PTX type and LLVM value of each; the type may be bits alone ("b32").
    result_kind : str
        PTX type of the value wanted; empty if it returns nothing.
    store : callable, optional
        Of the address, PTX type and value of each result that the function stores through a pointer.

    Raises
    ------
    PTXError
        If the function is not known.
    """
    if name not in FUNCTIONS:
        raise PTXError(f"the emulator has no {name}, a function of libdevice")
    function = FUNCTIONS[name]
    if len(arguments) != len(function.arguments) or function.stores and store is None:
        raise PTXError(f"{name} takes {len(function.arguments)} arguments")
    values = [reinterpret(t, x, have, want) for (have, x), want in zip(arguments, function.arguments, strict=True)]
    count = len(values) - len(function.stores)
    results = function.body(t, *values[:count])
    results = (results,) if isinstance(results, str) else results
    stored = results[len(results) - len(function.stores) :]
    for address, kind, value in zip(values[count:], function.stores, stored, strict=True):
        if store:
            store(address, kind, value)
    return reinterpret(t, results[0], function.result, result_kind) if result_kind else ""


def reinterpret(t: Translator, x: str, have: str, want: str) -> str:
    """The same bits as another type, cut or extended."""
    form = have if have[0] in "su" else f"b{ptx.WIDTH[have]}"
    return ptx.from_bits(t, want, ptx.resize(t, form, ptx.as_bits(t, have, x), ptx.WIDTH[want]))
