"""Write PTX arithmetic, comparisons, conversions and bit operations, and functions of libdevice, as LLVM IR.

Numbers in float16 and bfloat16 are integers in the IR, and are computed with as doubles: a CPU without instructions
for them would need functions that a process may lack. Where a GPU approximates, the result is as exact as its type
allows.
"""

from __future__ import annotations

import itertools
import math
import os
import platform
import struct
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple, Protocol, TypeAlias

from .ptx import BITS, Instruction, PTXError


class Translator(Protocol):
    """What an instruction needs of the translation that it is part of."""

    declared: dict[str, str]

    def value(self, operand: str, kind: str) -> Value: ...
    def set(self, register: str, kind: str, value: Value) -> None: ...
    def emit(self, text: str) -> None: ...
    def let(self, text: str) -> str: ...
    def call(self, name: str, result: str, *args: str) -> str: ...


FLOATS = {"f32": "float", "f64": "double"}
SUFFIXES = {"float": "f32", "double": "f64"}
NOT_SUBNORMAL = {"f64": 0x7FF << 52, "f32": 0xFF << 23, "f16": 0x7C00, "bf16": 0x7F80, "tf32": 0xFF << 23}
"""Floating-point types, with the bits of which subnormal numbers have none."""


LLVM = {kind: FLOATS.get(kind) or f"i{bits}" for kind, bits in BITS.items()}
"""Types of LLVM by those of PTX."""
WIDTHS = {LLVM[kind]: bits for kind, bits in BITS.items()}


Binary: TypeAlias = "Callable[[Value, Operand], Value]"


def _operator(name: str) -> Binary:
    def operator(x: Value, y: Operand) -> Value:
        return x.do(f"f{name}" if x.type in SUFFIXES else name, y)

    return operator


class Value:
    """A value in LLVM IR: Python's operators emit instructions."""

    t: Translator
    type: str
    text: str
    bits: int

    def __init__(self, t: Translator, type_: str, text: str) -> None:
        self.t, self.type, self.text = t, type_, text
        self.bits = WIDTHS.get(type_) or int(type_[1:])

    __add__: ClassVar[Binary] = _operator("add")
    __sub__: ClassVar[Binary] = _operator("sub")
    __mul__: ClassVar[Binary] = _operator("mul")
    __truediv__: ClassVar[Binary] = _operator("div")
    __and__: ClassVar[Binary] = _operator("and")
    __or__: ClassVar[Binary] = _operator("or")
    __xor__: ClassVar[Binary] = _operator("xor")
    __lshift__: ClassVar[Binary] = _operator("shl")
    __rshift__: ClassVar[Binary] = _operator("lshr")

    def __str__(self) -> str:
        return self.text

    def do(self, how: str, *y: Operand) -> Value:
        """Emit an instruction of this value and others; its result has the same type."""
        return Value(self.t, self.type, self.t.let(f"{how} {self.type} {', '.join(map(literal, (self, *y)))}"))

    def __neg__(self) -> Value:
        return self.do("fneg") if self.type in SUFFIXES else self.constant(0) - self

    def __invert__(self) -> Value:
        return self ^ -1

    def constant(self, number: float) -> Value:
        return Value(self.t, self.type, literal(number))

    def test(self, condition: str, y: Operand) -> Value:
        return Value(self.t, "i1", self.do(f"{'fcmp' if self.type in SUFFIXES else 'icmp'} {condition}", y).text)

    def pick(self, x: Operand, y: Operand) -> Value:
        """`x` where this value is true, else `y`; one of the two may be a constant."""
        type_ = next(v.type for v in (x, y) if isinstance(v, Value))
        return Value(self.t, type_, self.t.let(f"select i1 {self}, {type_} {literal(x)}, {type_} {literal(y)}"))

    def to(self, how: str, type_: str) -> Value:
        return self if type_ == self.type else Value(self.t, type_, self.t.let(f"{how} {self.type} {self} to {type_}"))

    def raw(self) -> Value:
        """The bits, as an integer."""
        return self.to("bitcast", f"i{self.bits}")

    def real(self, kind: str = "f64") -> Value:
        """The number that has these bits."""
        return self.to("bitcast", LLVM[kind])

    def resize(self, bits: int, sign: str = "u") -> Value:
        """An integer cut, or extended by its sign ("s") or by zeros."""
        return self.to("trunc" if bits < self.bits else {"s": "sext", "u": "zext"}[sign], f"i{bits}")

    def call(self, name: str, *y: Operand, result: str = "") -> Value:
        """Call a function, whose result has the same type if no other is named."""
        args = (f"{v.type if isinstance(v, Value) else self.type} {literal(v)}" for v in (self, *y))
        return Value(self.t, result or self.type, self.t.call(name, result or self.type, *args))

    def llvm(self, name: str, *y: Operand) -> Value:
        return self.call(f"llvm.{name}.{SUFFIXES.get(self.type, self.type)}", *y)

    def at(self, offset: int) -> Value:
        """An address so many bytes on."""
        return self + offset if offset else self

    def pointer(self, type_: str) -> str:
        return f"{type_}* {self.t.let(f'inttoptr i64 {self} to {type_}*')}"

    def load(self, kind: str) -> Value:
        """What is at this address."""
        type_ = LLVM[kind]
        return Value(self.t, type_, self.t.let(f"load {type_}, {self.pointer(type_)}, align 1"))

    def store(self, address: Value) -> None:
        self.t.emit(f"store {self.type} {self}, {address.pointer(self.type)}, align 1")


Operand: TypeAlias = "Value | int | float"


def literal(x: Operand) -> str:
    """A value or a constant in LLVM IR."""
    if isinstance(x, float):
        return f"0x{struct.unpack('>Q', struct.pack('>d', x))[0]:016X}"
    return str(x)


def reread(x: Value, kind: str, sign: str = "") -> Value:
    """The same bits as another type, cut, or extended as that type has it if nothing else is said."""
    return x if x.type == LLVM[kind] else x.raw().resize(BITS[kind], sign or sign_of(kind)).real(kind)


def part(x: Value, start: int, bits: int) -> Value:
    """So many bits of an integer, from bit `start`."""
    return (x >> start if start else x).resize(bits)


def pack(parts: Sequence[Value]) -> Value:
    """Integers side by side, the first in the lowest bits."""
    total, *others = (x.resize(parts[0].bits * len(parts)) for x in parts)
    for n, x in enumerate(others, 1):
        total = total | x << n * parts[0].bits
    return total


def sign_of(kind: str) -> str:
    return "s" if kind[0] == "s" else "u"


Body = Callable[..., Value]


class Op(NamedTuple):
    """An instruction that is known: its mnemonic, taken apart, and its code."""

    name: str
    kind: str  # the first of its types
    source: str  # the last of them
    mods: tuple[str, ...]  # all that is no type
    mode: str  # how it rounds
    wide: str  # the type of the result: with .wide, one of twice as many bits
    sign: str  # "s" or "u"
    body: Body
    operands: list[str]
    result: str


FORMS: dict[str, tuple[Body, set[str], set[str], list[str], str]] = {"none": (Value, set(), set(), [], "")}
RIGHT = {"s": "ashr", "u": "lshr"}
INTEGERS, REALS, BITWISE = "u16 u32 u64 s16 s32 s64", "f32 f64 f16", "pred b16 b32 b64"
ROUNDED = "rn rz rm rp ftz sat"
IGNORED = set("prefetch prefetchu discard applypriority nanosleep membar fence pmevent griddepcontrol".split())
"""Instructions that order, hint or wait, which makes no difference here."""


def instruction(
    names: str, kinds: str, mods: str = "", operands: str = "kind kind wide", result: str = "kind"
) -> Callable[[Body], Body]:
    """Register code for instructions with these types and modifiers; operands are of those types or fields of `Op`."""

    def decorate(body: Body) -> Body:
        for name in names.split():
            FORMS[name] = body, {*kinds.split()}, {*mods.split()}, operands.split(), result
        return body

    return decorate


def find(mnemonic: Sequence[str]) -> Op:
    """An instruction by its mnemonic; PTXError if it is not known."""
    body, types, modifiers, operands, result = FORMS.get(mnemonic[0], FORMS["none"])
    kinds, mods = [m for m in mnemonic[1:] if m in BITS], tuple(m for m in mnemonic[1:] if m not in BITS)
    if not kinds or not types.issuperset(kinds) or not modifiers.issuperset(mods):
        raise PTXError(f"{'.'.join(mnemonic)} is not known")
    kind, mode = kinds[0], next((m for m in mods if m in ("rz", "rm", "rp", "rna")), "rn")
    fields = {"kind": kind, "source": kinds[-1], "wide": f"{kind[0]}{2 * BITS[kind]}" if "wide" in mods else kind}
    operands, result, sign = [fields.get(o, o) for o in operands], fields.get(result, result), sign_of(kind)
    return Op(mnemonic[0], kind, kinds[-1], mods, mode, fields["wide"], sign, body, operands, result)


def evaluate(i: Op, values: Sequence[Value]) -> Value:
    """The result of an instruction, with .ftz and .sat applied."""
    flushed = [k for k in NOT_SUBNORMAL if "ftz" in i.mods and (k == "f32" or i.name != "cvt")]
    values = [flush(k, v) if k in flushed else v for v, k in zip(values, i.operands, strict=False)]
    # Halves are computed as doubles: these are wide enough that rounding twice changes no result.
    if i.kind == "f16" and i.name not in ("mov", "selp", "cvt"):
        result = i.body(i._replace(kind="f64"), *(widen("f16", v) for v in values))
        result = result if i.result == "pred" else narrow("f16", result)
    else:
        result = i.body(i, *values)
    if i.result in flushed:
        result = flush(i.result, result)
    if "sat" not in i.mods:
        return result
    if i.result not in NOT_SUBNORMAL:
        raise PTXError("saturation of integers is not known")
    wide = widen(i.result, result)
    wide = wide.test("ogt", 0.0).pick(wide, 0.0)  # a NaN becomes 0
    return narrow(i.result, wide.test("olt", 1.0).pick(wide, 1.0))


def flush(kind: str, x: Value) -> Value:
    """Replace a subnormal number by a zero of its sign."""
    bits = x.raw()
    subnormal = (bits & NOT_SUBNORMAL[kind]).test("eq", 0)
    return subnormal.pick(bits & 1 << (x.bits - 1), bits).real(kind)


def compute(t: Translator, instruction: Instruction) -> None:
    """Translate an instruction that touches neither memory nor the flow of control; PTXError if it is not known."""
    op, (target, *args) = instruction.op, instruction.args or ("",)
    if op[0] in IGNORED:
        return
    if op[0] == "mov" and "{" in target + args[0]:
        move_parts(t, BITS[op[-1]], target, args[0])
        return
    i = find([m.removesuffix("x2") if m in BITS else m for m in op])
    packed = any(m in BITS and m.endswith("x2") for m in op)
    if packed and i.result == "pred":
        raise PTXError("packed comparisons are not known")
    kinds = i.operands if not packed else ["b32"] * 3 if i.name != "cvt" else [i.source] * 2
    values = [t.value(a, k) for a, k in zip(args, kinds, strict=False)]
    if not packed:
        t.set(target, i.result, evaluate(i, values))
        return
    lanes = [[v] for v in values[::-1]] if i.name == "cvt" else [[part(v, at, 16) for v in values] for at in (0, 16)]
    t.set(target, "b32", pack([evaluate(i, lane) for lane in lanes]))


def move_parts(t: Translator, bits: int, target: str, source: str) -> None:
    """Pack the elements in braces into one value, or take it apart."""
    names = [e.strip() for e in (source if "{" in source else target).strip("{} ").split(",")]
    each = bits // len(names)
    if "{" in source:
        t.set(target, f"b{bits}", pack([t.value(e, f"b{each}") for e in names]))
        return
    whole = t.value(source, f"b{bits}")
    for n, name in enumerate(names):
        t.set(name, f"b{each}", part(whole, n * each, each))


# Floating-point formats and rounding.


def widen(kind: str, x: Value) -> Value:
    """Value of any floating-point type as a double; exact."""
    if kind == "bf16":
        x = (x.resize(32) << 16).real("f32")
    if kind != "f16":
        return x.to("fpext", "double")
    x = x.resize(64)
    size = x & 0x7FFF
    placed = size << 42
    special = (placed | 0x7FF << 52).real()  # infinity or a NaN
    return size.test("uge", 0x7C00).pick(special, placed.real() * 2.0**1008).llvm("copysign", (x << 48).real())


def narrow(kind: str, x: Value) -> Value:
    """A double, rounded to nearest, as a value of type f16, f32 or f64."""
    if kind != "f16":
        return x.to("fptrunc", LLVM[kind])
    size = x.llvm("fabs")
    power = (size.raw() & 0x7FF << 52).llvm("umax", (1023 - 14) << 52)
    # The last bit of this number stands for as much as that of the result: their sum is rounded there.
    large = (power + (42 << 52)).real()
    bits = ((size + large - large) * 2.0**-1008).raw() >> 42
    bits = size.test("oge", 65520.0).pick(0x7C00, bits) | x.raw() >> 48 & 0x8000
    return x.test("uno", x).pick(0x7FFF, bits).resize(16)


def shorten(i: Op, x: Value) -> Value:
    """A float as bf16, rounded to nearest, or as tf32, with ties away from zero."""
    bits, nan = x.raw(), x.test("uno", x)
    if (i.kind, i.source, i.mode) == ("tf32", "f32", "rna"):
        return nan.pick(0x7FFFFFFF, bits + 0x1000 & 0xFFFFE000)
    if (i.kind, i.source, i.mode) == ("bf16", "f32", "rn"):
        return part(nan.pick(0x7FFF0000, bits + (bits >> 16 & 1) + 0x7FFF), 16, 16)
    raise PTXError("of conversions to bf16 and tf32, only cvt.rn.bf16.f32 and cvt.rna.tf32.f32 are known")


NUMBERS = {"nt": (0x300, 0x100, 0x200), "arm64": (0xC00000, 0x800000, 0x400000), "": (0xC00, 0x400, 0x800)}
SYSTEM = os.name if os.name == "nt" else "arm64" if platform.machine() in ("arm64", "aarch64") else ""
MODES = dict(zip(("rz", "rm", "rp"), NUMBERS[SYSTEM], strict=True))
"""Rounding modes that are not to nearest, as C's fesetround calls them."""


def directed(i: Op, name: str, *x: Value) -> Value:
    """The result of an operation of LLVM, from a function of its own that sets the rounding mode of the CPU."""
    if i.kind not in FLOATS or i.mode not in MODES:
        raise PTXError(f"the rounding mode {i.mode} is not known for {i.kind}")
    t, result, of = x[0].t, LLVM[i.kind], x[0].type
    operation = f"@llvm.experimental.constrained.{name}.{i.kind}{'' if of == result else f'.{SUFFIXES.get(of, of)}'}"
    function, types = f"@{name}.{i.mode}.{i.kind}.{of}", ", ".join(v.type for v in x)
    names = ", ".join(f"{v.type} %x{k}" for k, v in enumerate(x))
    t.declared |= {
        "fesetround": "declare i32 @fesetround(i32)",
        operation: f"declare {result} {operation}({types}, metadata, metadata)",
        function: f"""define internal {result} {function}({names}) noinline strictfp {{
  call i32 @fesetround(i32 {MODES[i.mode]})
  %r = call {result} {operation}({names}, metadata !"round.dynamic", metadata !"fpexcept.ignore") strictfp
  call i32 @fesetround(i32 0)
  ret {result} %r
}}""",
    }
    return Value(t, result, t.let(f"call {result} {function}({', '.join(f'{v.type} {v}' for v in x)})"))


def arithmetic(i: Op, *x: Value) -> Value:
    """Floating-point add, sub, mul, div, fma or sqrt."""
    if i.mode != "rn":
        if i.kind != "f32" and i.name not in ("add", "sub"):
            raise PTXError(f"the rounding mode {i.mode} is not known for {i.name}.{i.kind}")
        return directed(i, i.name if i.name in ("fma", "sqrt") else f"f{i.name}", *x)
    return x[0].llvm(i.name, *x[1:]) if i.name in ("fma", "sqrt") else x[0].do(f"f{i.name}", *x[1:])


# Arithmetic.


@instruction("add sub addc subc", f"{INTEGERS} {REALS}", f"{ROUNDED} cc")
def add(i: Op, x: Value, y: Value) -> Value:
    if i.kind in NOT_SUBNORMAL:
        return arithmetic(i, x, y)
    if "cc" not in i.mods and not i.name.endswith("c"):
        return x.do(i.name, y)
    total = x.resize(2 * x.bits).do(i.name[:3], y.resize(2 * x.bits))
    if i.name.endswith("c"):
        total = total.do(i.name[:3], x.t.value("%carry", "pred").resize(2 * x.bits))
    if "cc" in i.mods:
        x.t.set("%carry", "pred", part(total, x.bits, 1))
    return total.resize(x.bits)


@instruction("mul mad fma madc", f"{INTEGERS} {REALS}", f"{ROUNDED} lo hi wide cc", result="wide")
def multiply(i: Op, x: Value, y: Value, *z: Value) -> Value:
    if i.kind in NOT_SUBNORMAL:
        return arithmetic(i._replace(name="fma" if z else "mul"), x, y, *z)
    product = x * y
    if "lo" not in i.mods:
        product = x.resize(2 * x.bits, i.sign) * y.resize(2 * x.bits, i.sign)
        product = product if "wide" in i.mods else part(product, x.bits, x.bits)
    return add(i._replace(name="addc" if i.name == "madc" else "add", kind=i.wide), product, *z) if z else product


@instruction("div rem", f"{INTEGERS} f32 f64", f"{ROUNDED} approx full")
def divide(i: Op, x: Value, y: Value) -> Value:
    if i.kind in NOT_SUBNORMAL:
        return arithmetic(i, x, y)
    by_zero = unsafe = y.test("eq", 0)
    if i.sign == "s":
        unsafe = by_zero | x.test("eq", -(1 << (x.bits - 1))) & y.test("eq", -1)
    return by_zero.pick(-1, x.do(i.sign + i.name, unsafe.pick(1, y)))  # a GPU gives -1


instruction("sqrt", "f32 f64", f"{ROUNDED} approx")(arithmetic)
instruction("rcp", "f32 f64", f"{ROUNDED} approx")(lambda i, x: arithmetic(i._replace(name="div"), x.constant(1.0), x))
instruction("sad", INTEGERS)(lambda i, x, y, z: x.test(f"{i.sign}lt", y).pick(y - x, x - y) + z)
instruction("rsqrt", "f32 f64", "approx ftz")(
    lambda i, x: narrow(i.kind, widen(i.kind, x).constant(1.0) / widen(i.kind, x).llvm("sqrt"))
)


@instruction("min max", f"{INTEGERS} {REALS}", "ftz NaN")
def extreme(i: Op, x: Value, y: Value) -> Value:
    """Smaller or larger number: -0 is below 0, and a NaN loses, or wins with .NaN."""
    if i.kind not in NOT_SUBNORMAL:
        return x.llvm(i.sign + i.name, y)
    zero = x.raw().do("or" if i.name == "min" else "and", y.raw()).real(i.kind)
    result = x.test("oeq", y).pick(zero, x.llvm(f"{i.name}num", y))
    return x.test("uno", y).pick(math.nan, result) if "NaN" in i.mods else result


@instruction("abs neg", f"s16 s32 s64 {REALS}", "ftz")
def change_sign(i: Op, x: Value) -> Value:
    if i.kind not in NOT_SUBNORMAL:
        return -x if i.name == "neg" else x.test("slt", 0).pick(-x, x)
    sign = 1 << (x.bits - 1)
    return (x.raw() ^ sign if i.name == "neg" else x.raw() & sign - 1).real(i.kind)


# Bits.

instruction("mov", f"b8 b128 {BITWISE} {INTEGERS} f16 bf16 f32 f64")(lambda i, x: x)
instruction("selp", f"{BITWISE} {INTEGERS} f16 bf16 f32 f64", "", "kind kind pred")(lambda i, x, y, p: p.pick(x, y))
instruction("and or xor", BITWISE)(lambda i, x, y: x.do(i.name, y))
instruction("not", BITWISE)(lambda i, x: ~x)
instruction("copysign", "f32 f64")(lambda i, x, y: y.llvm("copysign", x))
instruction("signed", "f32 f64")(lambda i, x, y: x.llvm("copysign", y))
instruction("brev", "b32 b64")(lambda i, x: x.llvm("bitreverse"))
instruction("popc", "b32 b64", result="u32")(lambda i, x: x.llvm("ctpop").resize(32))
instruction("clz", "b32 b64", result="u32")(lambda i, x: zeros(x, "ctlz"))
instruction("ffs", "b32 b64", result="u32")(lambda i, x: x.test("eq", 0).pick(0, zeros(x, "cttz") + 1))
instruction("shl", BITWISE, operands="kind u32")(lambda i, x, count: shift("shl", x, count))
instruction("shr", f"{BITWISE} {INTEGERS}", operands="kind u32")(lambda i, x, count: shift(RIGHT[i.sign], x, count))
instruction("bfe", "u32 s32 u64 s64", operands="kind u32 u32")(
    lambda i, x, start, count: low_bits(i, shift(RIGHT[i.sign], x, start & 255), count & 255)
)


def zeros(x: Value, name: str) -> Value:
    """How many zeros an integer has above (ctlz) or below (cttz) all its ones."""
    return x.llvm(name, Value(x.t, "i1", "false")).resize(32)


def shift(how: str, x: Value, count: Value) -> Value:
    """Shift by any 32-bit count: past the width, zeros or copies of the sign remain."""
    if count.text.isdigit() and int(count.text) < x.bits:
        return x.do(how, int(count.text))
    far = count.test("uge", x.bits)
    result = x.do(how, far.pick(x.bits - 1, count).resize(x.bits))
    return result if how == "ashr" else far.pick(0, result)


@instruction("shf", "b32", "l r clamp wrap")
def funnel_shift(i: Op, low: Value, high: Value, count: Value) -> Value:
    """Shift two words as one of 64 bits, by a count of at most 32 (.clamp) or modulo 32 (.wrap)."""
    count = (count & 31 if "wrap" in i.mods else count.llvm("umin", 32)).resize(64)
    return part(pack((low, high)) << count, 32, 32) if "l" in i.mods else (pack((low, high)) >> count).resize(32)


@instruction("prmt", "b32")
def permute(i: Op, low: Value, high: Value, selector: Value) -> Value:
    """Pick four of eight bytes; bit 3 of a pick asks for the sign of the byte in all of its bits."""
    pair, picked = pack((low, high)), []
    for byte in range(4):
        pick = selector >> 4 * byte
        found = (pair >> ((pick & 7) << 3).resize(64)).resize(8)
        picked.append(part(pick, 3, 1).pick(found.do("ashr", 7), found))
    return pack(picked)


def low_bits(i: Op, x: Value, count: Value) -> Value:
    """Keep so many of the lowest bits of an integer, and extend them by their sign or by zeros."""
    rest = count.constant(x.bits) - count.llvm("umin", x.bits)
    return shift(RIGHT[i.sign], shift("shl", x, rest), rest)


@instruction("bfi", "b32 b64", operands="kind kind u32 u32")
def insert_bits(i: Op, x: Value, y: Value, start: Value, count: Value) -> Value:
    mask = shift("shl", low_bits(i, x.constant(-1), count & 255), start & 255)
    return y & ~mask | mask & shift("shl", x, start & 255)


@instruction("bfind", "u32 s32 u64 s64", "shiftamt", result="u32")
def find_leading_bit(i: Op, x: Value) -> Value:
    """Highest bit that differs from the sign (counted from above with .shiftamt), or -1."""
    above = zeros(x ^ x.do("ashr", x.bits - 1) if i.sign == "s" else x, "ctlz")
    return above.test("eq", x.bits).pick(-1, above if "shiftamt" in i.mods else above.constant(x.bits - 1) - above)


# Comparisons and conversions.

CONDITIONS = {
    "eq": "oeq", "ne": "one", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge", "num": "ord", "nan": "uno",
    "equ": "ueq", "neu": "une", "ltu": "ult", "leu": "ule", "gtu": "ugt", "geu": "uge",
}  # fmt: skip
UNSIGNED = {"lo": "ult", "ls": "ule", "hi": "ugt", "hs": "uge"}
TO_INTEGRAL = {"rni": "rint", "rzi": "trunc", "rmi": "floor", "rpi": "ceil"}


@instruction("setp", f"b16 b32 b64 {INTEGERS} {REALS}", " ".join(["ftz", *CONDITIONS, *UNSIGNED]), result="pred")
def compare(i: Op, x: Value, y: Value) -> Value:
    name = i.mods[0]
    if i.kind in NOT_SUBNORMAL:
        return x.test(CONDITIONS[name], y)
    signs = {c: i.sign + c for c in ("lt", "le", "gt", "ge")}
    return x.test({**signs, **UNSIGNED, "eq": "eq", "ne": "ne"}[name], y)


KINDS_OF_NUMBER = {
    "finite": ("olt", math.inf), "infinite": ("oeq", math.inf), "number": ("ord", 0.0), "notanumber": ("uno", 0.0),
}  # fmt: skip
instruction("testp", "f32 f64", " ".join(KINDS_OF_NUMBER), result="pred")(
    lambda i, x: x.llvm("fabs").test(*KINDS_OF_NUMBER[i.mods[0]])
)


@instruction("cvt", f"u8 s8 {INTEGERS} {REALS} bf16 tf32", " ".join([ROUNDED, "rna", *TO_INTEGRAL]), "source")
def convert(i: Op, x: Value) -> Value:
    if i.source not in NOT_SUBNORMAL:
        return from_integer(i, x)
    if i.kind in ("bf16", "tf32"):
        return shorten(i, x)
    how = next((TO_INTEGRAL[m] for m in i.mods if m in TO_INTEGRAL), "")
    wide = widen(i.source, x).llvm(how) if how else widen(i.source, x)
    if i.kind in NOT_SUBNORMAL:
        return narrow(i.kind, wide) if i.mode == "rn" else directed(i, "fptrunc", wide)
    # Too large numbers are clamped; a NaN becomes 0, or the highest bit alone where one of the types has 64 bits.
    type_ = LLVM[i.kind]
    result = wide.call(f"llvm.fpto{i.sign}i.sat.{type_}.f64", result=type_)
    return wide.test("uno", wide).pick(-(1 << (result.bits - 1)), result) if "64" in i.kind + i.source else result


def from_integer(i: Op, x: Value) -> Value:
    """Convert an integer to another, or to a floating-point number."""
    sign = sign_of(i.source)
    if i.kind not in NOT_SUBNORMAL:
        return x.resize(BITS[i.kind], sign)
    if i.mode != "rn":
        return directed(i, f"{sign}itofp", x.resize(max(x.bits, 32), sign))
    return narrow(i.kind, x.to(f"{sign}itofp", "double")) if i.kind == "f16" else x.to(f"{sign}itofp", FLOATS[i.kind])


# Functions of libdevice that are no instructions. The C functions in double precision serve for both types.

C_FUNCTIONS = (
    "acos acosh asin asinh atan atanh cbrt cos cosh erf erfc exp exp2 expm1 lgamma log log10 log1p log2 logb round "
    "sin sinh tan tanh tgamma atan2 fdim fmod hypot pow remainder"
)


def c_function(i: Op, *x: Value) -> Value:
    x = tuple(widen(k, v) if k in FLOATS else v for k, v in zip(i.operands, x, strict=False))
    return narrow(i.kind, x[0].call({"ex2": "exp2", "lg2": "log2"}.get(i.name, i.name), *x[1:]))


for names, operands in ((f"{C_FUNCTIONS} ex2 lg2", "kind kind"), ("ldexp", "kind s32"), ("frexp", "kind u64")):
    instruction(names, "f32 f64", "approx ftz", operands)(c_function)
instruction("nextafter", "f32 f64")(lambda i, x, y: x.call("nextafter" if i.kind == "f64" else "nextafterf", y))
instruction("powi", "f32 f64", operands="kind s32")(
    lambda i, x, power: narrow(i.kind, widen(i.kind, x).call("pow", power.to("sitofp", "double")))
)


@instruction("modf", "f32 f64", operands="kind u64")
def fraction(i: Op, x: Value, address: Value) -> Value:
    """Fraction of a number, with its sign; its whole part is stored."""
    whole = x.llvm("trunc")
    whole.store(address)
    infinite = x.llvm("fabs").test("oeq", math.inf)
    return infinite.pick(0.0, x - whole).llvm("copysign", x)


@instruction("sincos", "f32 f64", operands="kind u64 u64")
def sine_and_cosine(i: Op, x: Value, *addresses: Value) -> Value:
    for name, address in zip(("sin", "cos"), addresses, strict=True):
        c_function(i._replace(name=name), x).store(address)
    return x


instruction("isnan", "f32 f64", result="s32")(lambda i, x: x.test("uno", x).resize(32))
instruction("isinf", "f32 f64", result="s32")(lambda i, x: x.llvm("fabs").test("oeq", math.inf).resize(32))
instruction("isfinite", "f32 f64", result="s32")(lambda i, x: x.llvm("fabs").test("one", math.inf).resize(32))
instruction("signbit", "f32 f64", result="s32")(lambda i, x: x.raw().test("slt", 0).resize(32))

FUNCTIONS = {
    "isnanf": "isnan.f32", "isnand": "isnan.f64", "isinff": "isinf.f32", "isinfd": "isinf.f64",
    "finitef": "isfinite.f32", "isfinited": "isfinite.f64", "signbitf": "signbit.f32", "signbitd": "signbit.f64",
    "saturatef": "cvt.sat.f32.f32", "frsqrt_rn": "rsqrt.approx.f32", "fast_fdividef": "div.approx.f32",
    "float2half_rn": "cvt.rn.f16.f32", "half2float": "cvt.f32.f16", "byte_perm": "prmt.b32", "mulhi": "mul.hi.s32",
    "umulhi": "mul.hi.u32", "mul64hi": "mul.hi.s64", "umul64hi": "mul.hi.u64", "abs": "abs.s32", "llabs": "abs.s64",
    "float_as_int": "mov.b32", "int_as_float": "mov.b32", "double_as_longlong": "mov.b64",
    "longlong_as_double": "mov.b64",
}  # fmt: skip
"""Functions of libdevice, without ``__nv_``, as instructions."""
BOTH = {name: f"{name}.T" for name in f"{C_FUNCTIONS} ldexp powi nextafter frexp modf sincos".split()} | {
    "sqrt": "sqrt.rn.T", "rsqrt": "rsqrt.approx.T", "fma": "fma.rn.T", "fabs": "abs.T", "fmin": "min.T",
    "fmax": "max.T", "ceil": "cvt.rpi.T.T", "floor": "cvt.rmi.T.T", "trunc": "cvt.rzi.T.T", "rint": "cvt.rni.T.T",
    "nearbyint": "cvt.rni.T.T", "llrint": "cvt.rni.s64.T", "scalbn": "ldexp.T", "copysign": "signed.T",
}  # fmt: skip
for name, mnemonic in BOTH.items():
    FUNCTIONS |= {name: mnemonic.replace("T", "f64"), f"{name}f": mnemonic.replace("T", "f32")}
FUNCTIONS |= {f"fast_{name}": FUNCTIONS[name] for name in "cosf sinf tanf expf log2f log10f logf sincosf powf".split()}
for prefix, kind in {"": "s32", "u": "u32", "ll": "s64", "ull": "u64"}.items():
    FUNCTIONS |= {f"{prefix}{name}": f"{name}.{kind}" for name in ("min", "max")}
for name in ("clz", "popc", "brev", "ffs"):
    FUNCTIONS |= {name: f"{name}.b32", f"{name}ll": f"{name}.b64"}
TYPES = {"float": "f32", "double": "f64", "int": "s32", "uint": "u32", "ll": "s64", "ull": "u64"}
for ending, mode in {"rn": "rn", "rz": "rz", "rd": "rm", "ru": "rp"}.items():
    FUNCTIONS |= {f"fma_{ending}": f"fma.{mode}.f64", f"fmaf_{ending}": f"fma.{mode}.f32"}
    for (letter, kind), name in itertools.product({"f": "f32", "d": "f64"}.items(), "add sub mul div sqrt rcp".split()):
        FUNCTIONS[f"{letter}{name}_{ending}"] = f"{name}.{mode}.{kind}"
    for source, to in itertools.permutations(TYPES, 2):
        whole = "" if to in ("float", "double") else "i"
        FUNCTIONS[f"{source}2{to}_{ending}"] = f"cvt.{mode}{whole}.{TYPES[to]}.{TYPES[source]}"


def call_function(name: str, arguments: Sequence[Value]) -> Value:
    """Compute a function of libdevice, of arguments that may be bits alone; PTXError if it is not known."""
    mnemonic = FUNCTIONS.get(name[5:]) if name.startswith("__nv_") else None
    if not mnemonic:
        raise PTXError(f"the emulator has no function {name}")
    i = find(mnemonic.split("."))
    return evaluate(i, [reread(x, kind) for x, kind in zip(arguments, i.operands, strict=False)])
