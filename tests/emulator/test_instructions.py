"""Arithmetic of PTX: instructions on values of all kinds, beside NumPy, Python's integers and exact fractions."""

import itertools
import math
import struct
from fractions import Fraction

import llvmlite.binding as llvm
import numpy as np
import pytest

from cks_numba.emulator.instructions import FUNCTIONS, find
from cks_numba.emulator.machine import Launch, Program
from cks_numba.emulator.ptx import BITS, PTXError

FORMATS = {"f64": (11, 52), "f32": (8, 23), "tf32": (8, 10), "bf16": (8, 7), "f16": (5, 10)}

# Pieces of PTX as kernels, one thread for each row of operands.

KERNEL = """.visible .entry kernel(.param .u64 data) {{
.reg .b64 %at; .reg .b32 %thread, %block, %count, %word; .reg .b16 %byte; {registers}
mov.u32 %thread, %tid.x; mov.u32 %block, %ctaid.x; mov.u32 %count, %ntid.x; mad.lo.u32 %thread, %block, %count, %thread;
ld.param.u64 %at, [data]; mad.wide.u32 %at, %thread, {bytes}, %at; {code} ret; }}"""


def loaded(name, kind, at):
    if kind == "pred":
        return f"ld.global.b8 %byte, [%at+{at}]; setp.ne.b16 %{name}, %byte, 0;"
    return f"ld.global.b{BITS[kind]} %{name}, [%at+{at}];"


def stored(name, kind, at):
    if kind == "pred":
        return f"selp.b32 %word, 1, 0, %{name}; st.global.b32 [%at+{at}], %word;"
    return f"st.global.b{BITS[kind]} [%at+{at}], %{name};"


def ptx(texts, inputs, output, rows, **others):
    """Results of pieces of PTX, each of which computes %d from `inputs`, a text such as ``"a:u32 b:f32"``.

    A list of bit patterns for each piece, or for the only one.
    """
    names = dict(part.split(":") for part in inputs.split())
    width = len(names) + len(texts) if isinstance(texts, list) else len(names) + 1
    code = [loaded(name, kind, 8 * n) for n, (name, kind) in enumerate(names.items())]
    for n, text in enumerate(texts if isinstance(texts, list) else [texts], len(names)):
        code += [f"{{ {text}; }}", stored("d", output, 8 * n)]
    registers = " ".join(f".reg .{kind} %{name};" for name, kind in {**names, **others, "d": output}.items())
    program = Program(KERNEL.format(registers=registers, bytes=8 * width, code="\n".join(code)), False)
    data = np.zeros((-(-len(rows) // 64) * 64, width), np.uint64)
    for n, row in enumerate(rows):
        data[n, : len(names)] = [x & (1 << 64) - 1 for x in row]
    places = lambda arguments, place: [place(arguments[0]).to_bytes(8, "little")]  # noqa: E731
    Launch(program, (len(data) // 64, 1, 1), (64, 1, 1), 0, (data,), ["data"], places).run(1, 0, 0, 1 << 40)
    results = data[: len(rows), len(names) :].T.tolist()
    return results if isinstance(texts, list) else results[0]


# Values, and formats of numbers, of their own.

INTEGERS = [
    0, 1, 2, 3, 5, 31, 32, 33, 63, 64, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x12345678, 0x7FFFFFFF, 0x80000000,
    0xFFFFFFFF, 0xDEADBEEF,
]  # fmt: skip
WIDE = [*INTEGERS, 1 << 32, (1 << 53) + 1, 0x0123456789ABCDEF, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 64) - 1025]
NUMBERS = [
    0.0, -0.0, 1.0, -1.0, 1.5, -2.5, 0.1, -0.3, 3.0, 7.0, 1e-3, 65504.0, -65520.0, 1e10, 2.0**31, -(2.0**31), 2.0**63,
    3.4e38, -3.4e38, 1e-38, -1e-45, 1e-41, 6e-8, 3e-5, 2.0**-149, 1 + 2.0**-23, math.inf, -math.inf, math.nan,
]  # fmt: skip
DOUBLES = [*NUMBERS, 1e300, -1e300, 1.7e308, 5e-324, 1e-310, -2e-308, 1 + 2.0**-52, 0.5 + 2.0**-30, 2.0**1023]


def integers(kind):
    values = INTEGERS if BITS[kind] < 64 else WIDE
    return sorted({v & (1 << BITS[kind]) - 1 for v in values} | {1 << (BITS[kind] - 1), (1 << BITS[kind]) - 1})


def as_integer(kind, pattern):
    bits = BITS[kind]
    pattern &= (1 << bits) - 1
    return pattern - (1 << bits) if kind[0] == "s" and pattern >> (bits - 1) else pattern


def decode(kind, pattern):
    """Number of a bit pattern as a Python float."""
    exponent, mantissa = FORMATS["f32" if kind == "tf32" else kind]
    sign = -1.0 if pattern >> (exponent + mantissa) & 1 else 1.0
    power, low = pattern >> mantissa & (1 << exponent) - 1, pattern & (1 << mantissa) - 1
    bias = (1 << (exponent - 1)) - 1
    if power == (1 << exponent) - 1:
        return math.nan if low else sign * math.inf
    return sign * math.ldexp(low + (bool(power) << mantissa), max(power, 1) - bias - mantissa)


def rounded(kind, x, mode="rn", zero=0.0):
    """Float of a format nearest to a fraction, in any rounding mode; `zero` is what 0 becomes."""
    exponent, mantissa = FORMATS[kind]
    if isinstance(x, float):
        if not math.isfinite(x) or x == 0:
            return x
        x = Fraction(x)
    if x == 0:
        return zero
    low, high = 2 - (1 << (exponent - 1)), (1 << (exponent - 1)) - 1
    power = max(abs(x.numerator).bit_length() - x.denominator.bit_length(), low)
    while abs(x) >= Fraction(2) ** (power + 1):
        power += 1
    while power > low and abs(x) < Fraction(2) ** power:
        power -= 1
    unit = Fraction(2) ** (power - mantissa)
    floor, rest = divmod(abs(x) / unit, 1)
    up = {
        "rz": False, "rp": x > 0 and rest > 0, "rm": x < 0 and rest > 0, "rna": rest >= Fraction(1, 2),
        "rn": rest > Fraction(1, 2) or rest == Fraction(1, 2) and floor % 2 == 1,
    }[mode]  # fmt: skip
    size = (floor + up) * unit
    most = (2 - Fraction(2) ** -mantissa) * Fraction(2) ** high
    if size > most:
        size = most if mode == "rz" or mode == "rp" and x < 0 or mode == "rm" and x > 0 else math.inf
    return float(size) if x > 0 else -float(size)


def encode(kind, x):
    """Bit pattern of a number that the format has exactly."""
    if kind == "bf16":
        return encode("f32", x) >> 16
    code, whole = {"f64": "dQ", "f16": "eH"}.get(kind, "fI")
    return struct.unpack(whole, struct.pack(code, x))[0]


def floats(kind):
    return sorted({encode(kind, rounded(kind, x)) for x in (DOUBLES if kind == "f64" else NUMBERS)})


def same(kind, pattern, expected, ulp=0):
    got = decode(kind, pattern)
    if math.isnan(expected) or math.isnan(got):
        return math.isnan(expected) and math.isnan(got)
    if ulp and math.isfinite(expected):
        return abs(got - expected) <= ulp * 2.0 ** -FORMATS[kind][1] * abs(expected) + 2.0**-149
    return got == expected and math.copysign(1, got) == math.copysign(1, expected)


# Integers.


def check(cases, inputs, output, rows, **others):
    """Compare with Python functions of the operands as integers, modulo the width of the result."""
    kinds = [part.split(":")[1] for part in inputs.split()]
    arguments = [[as_integer(k, x) for k, x in zip(kinds, row, strict=True)] for row in rows]
    bits = BITS[output]
    for (text, expected), got in zip(cases.items(), ptx(list(cases), inputs, output, rows, **others), strict=True):
        for row, result in zip(arguments, got, strict=True):
            assert result == int(expected(*row)) & (1 << bits) - 1, (text, row, hex(result))


def pairs(kind):
    return list(itertools.product(integers(kind), repeat=2))


def bit(x, n):
    return x >> n & 1


def quotient(a, b):
    return -1 if b == 0 else abs(a) // abs(b) * (-1 if (a < 0) != (b < 0) else 1)


CONDITIONS = {
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "lt": lambda a, b: a < b, "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32", "u64", "s64"])
def test_integers(kind):
    bits, io = BITS[kind], (f"a:{kind} b:{kind}", kind, pairs(kind))
    cases = {
        f"add.{kind} %d, %a, %b": lambda a, b: a + b, f"sub.{kind} %d, %a, %b": lambda a, b: a - b,
        f"mul.lo.{kind} %d, %a, %b": lambda a, b: a * b, f"mul.hi.{kind} %d, %a, %b": lambda a, b: a * b >> bits,
        f"mad.hi.{kind} %d, %a, %b, %a": lambda a, b: (a * b >> bits) + a,
        f"mad.lo.{kind} %d, %a, %b, %b": lambda a, b: a * b + b,
        f"min.{kind} %d, %a, %b": min, f"max.{kind} %d, %a, %b": max, f"div.{kind} %d, %a, %b": quotient,
        f"rem.{kind} %d, %a, %b": lambda a, b: -1 if b == 0 else a - b * quotient(a, b),
        f"and.b{bits} %d, %a, %b": lambda a, b: a & b, f"or.b{bits} %d, %a, %b": lambda a, b: a | b,
        f"xor.b{bits} %d, %a, %b": lambda a, b: a ^ b, f"not.b{bits} %d, %a": lambda a, b: ~a,
    }  # fmt: skip
    for n in (0, 1, bits - 1, bits):
        cases[f"shl.b{bits} %d, %a, {n}"] = lambda a, b, n=n: a << n
        cases[f"shr.{kind} %d, %a, {n}"] = lambda a, b, n=n: a >> n
    if kind[0] == "s":
        cases |= {f"abs.{kind} %d, %a": lambda a, b: abs(a), f"neg.{kind} %d, %a": lambda a, b: -a}
    check(cases, *io)
    if bits < 64:
        cases = {f"mul.wide.{kind} %d, %a, %b": lambda a, b: a * b}
        cases[f"mad.wide.{kind} %d, %a, %b, %d"] = lambda a, b: 2 * a * b
        check(cases, io[0], f"{kind[0]}{2 * bits}", io[2])
    counts = [(x, n) for x in integers(kind) for n in (0, 1, 7, 8, 15, 16, 31, 32, 33, 63, 64, 65, 0xFFFFFFFF)]
    cases = {f"shr.{kind} %d, %a, %n": lambda a, n: a >> min(n, 64)}
    check(cases | {f"shl.b{bits} %d, %a, %n": lambda a, n: a << min(n, 64)}, f"a:{kind} n:u32", kind, counts)
    names = dict(CONDITIONS)
    if kind[0] == "u":
        names |= {short: CONDITIONS[long] for short, long in (("lo", "lt"), ("ls", "le"), ("hi", "gt"), ("hs", "ge"))}
    check({f"setp.{name}.{kind} %d, %a, %b": f for name, f in names.items()}, io[0], "pred", io[2])


def clamp(x, bits, sign=True):
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if sign else (0, (1 << bits) - 1)
    return min(max(x, low), high)


def test_carry():
    """Sums and products of 64 bits from 32-bit halves."""
    split = "mov.b64 {%al, %ah}, %a; mov.b64 {%bl, %bh}, %b;"
    halves = dict.fromkeys(["al", "ah", "bl", "bh", "dl", "dh"], "u32")
    join = "mov.b64 %d, {%dl, %dh}"
    cases = {
        f"{split} add.cc.u32 %dl, %al, %bl; addc.u32 %dh, %ah, %bh; {join}": lambda a, b: a + b,
        f"{split} sub.cc.u32 %dl, %al, %bl; subc.cc.u32 %dh, %ah, %bh; {join}": lambda a, b: a - b,
        f"{split} mov.b64 {{%dl, %dh}}, %b; mad.lo.cc.u32 %dl, %al, %bl, %dl; madc.hi.u32 %dh, %al, %bl, %dh; {join}":
            lambda a, b: (a & 0xFFFFFFFF) * (b & 0xFFFFFFFF) + b,
        "sub.cc.u64 %d, %a, %b; subc.u64 %d, %a, %a": lambda a, b: -(a < b),
    }  # fmt: skip
    check(cases, "a:u64 b:u64", "u64", pairs("u64"), **halves)


@pytest.mark.parametrize("kind", ["u32", "s32", "u64", "s64"])
def test_bit_fields(kind):
    bits, counts, ones = BITS[kind], [0, 1, 5, 8, 31, 32, 33, 63, 64, 200, 255, 256 + 3], [(x,) for x in integers(kind)]

    def bfe(x, at, n):
        at, n = at & 255, n & 255
        sign = bit(x, min(at + n - 1, bits - 1)) if n and kind[0] == "s" else 0
        return sum((bit(x, at + i) if i < n and at + i < bits else sign) << i for i in range(bits))

    def bfi(a, at, n):
        mask = ((1 << (n & 255)) - 1) << (at & 255) & (1 << bits) - 1
        return a << (at & 255) & mask | 0x12345678 & ~mask

    def highest(x):
        return (x if x >= 0 else ~x).bit_length() - 1

    rows = [(x, a, n) for x in integers(kind)[::3] for a in counts for n in counts]
    cases = {f"bfe.{kind} %d, %a, %p, %n": bfe, f"bfi.b{bits} %d, %a, {0x12345678}, %p, %n": bfi}
    check(cases, f"a:{kind} p:u32 n:u32", kind, rows)
    above = {f"bfind.shiftamt.{kind} %d, %a": lambda x: -1 if highest(x) < 0 else bits - 1 - highest(x)}
    check({f"bfind.{kind} %d, %a": highest, **above}, f"a:{kind}", "u32", ones)
    if kind[0] == "u":
        cases = {
            f"popc.b{bits} %d, %a": lambda x: bin(x).count("1"),
            f"clz.b{bits} %d, %a": lambda x: bits - x.bit_length(),
        }
        check(cases, f"a:{kind}", "u32", ones)
        check({f"brev.b{bits} %d, %a": lambda x: int(f"{x:0{bits}b}"[::-1], 2)}, f"a:{kind}", kind, ones)


def test_words_of_three_operands():
    """Funnel shifts and the permutation of bytes."""
    rows = [(a, b, n) for a, b in [(0xDEADBEEF, 0x12345678), (1 << 31, 1)] for n in (0, 1, 31, 32, 33, 64, 255)]
    cases = {}
    for mode, count in (("clamp", lambda n: min(n, 32)), ("wrap", lambda n: n & 31)):
        cases[f"shf.l.{mode}.b32 %d, %a, %b, %n"] = lambda a, b, n, c=count: (b << 32 | a) << c(n) >> 32
        cases[f"shf.r.{mode}.b32 %d, %a, %b, %n"] = lambda a, b, n, c=count: (b << 32 | a) >> c(n)

    check(cases, "a:u32 b:u32 n:u32", "u32", rows)

    def prmt(a, b, s):
        data, picks = struct.pack("<II", a, b), [s >> (4 * n) & 15 for n in range(4)]
        return int.from_bytes([data[p & 7] if p < 8 else 255 * (data[p & 7] >> 7) for p in picks], "little")

    rows = [(0x8382F1F0, 0x8786F5F4, s) for s in (0x3210, 0x7654, 0xFEDC, 0x0123, 0x8888, 0x5410, 1, 2, 3)]
    check({"prmt.b32 %d, %a, %b, %s": prmt}, "a:u32 b:u32 s:u32", "u32", rows)


def test_choices_and_moves():
    rows = [(a, b, p) for a, b in pairs("u32")[::7] for p in (0, 1)]
    check({"selp.b32 %d, %a, %b, %p": lambda a, b, p: a if p else b}, "a:u32 b:u32 p:pred", "u32", rows)
    cases = {
        "mov.b64 {%l, %h}, %a; mov.b64 %d, {%h, %l}": lambda a: a >> 32 | a << 32,
        "mov.b64 {%w,%x,%y,%z}, %a; mov.b64 %d, {%w,%w,%z,%w}": (
            lambda a: (a & 0xFFFF) * 0x1000000010001 + (a >> 48 << 32)
        ),
        "mov.b128 %q, {%a, %a}; mov.b128 {%d, _}, %q": lambda a: a,
        "mov.u64 %d, -5": lambda a: -5,
    }  # fmt: skip
    registers = {**dict.fromkeys("wxyz", "b16"), "l": "b32", "h": "f32", "q": "b128"}
    check(cases, "a:u64", "u64", [(x,) for x in WIDE], **registers)
    check({"mov.b64 {_, %d}, %a": lambda a: a >> 32}, "a:u64", "b32", [(x,) for x in WIDE])
    rows = list(itertools.product((0, 1), repeat=2))
    check({"and.pred %d, %a, !%b; not.pred %d, %d": lambda a, b: not a or b}, "a:pred b:pred", "pred", rows)


@pytest.mark.parametrize("text", [
    "add.magic.f32 %d, %a, %b", "cvt.rn.odd.f32.f64 %d, %a", "setp.xx.f32 %p, %a, %b", "mul.lo.pred %d, %a, %b",
    "mul.rz.f64 %d, %a, %b", "add.sat.s32 %d, %a, %b", "setp.lt.f16x2 %p|%q, %a, %b", "cvt.rz.bf16.f32 %d, %a",
    "dp4a.u32.u32 %d, %a, %b, %a",
])  # fmt: skip
def test_what_is_not_known_is_named(text):
    with pytest.raises(PTXError, match=text.split()[0]):
        ptx(text, "a:f64 b:f64", "f64", [(0, 0)], p="pred")


# Floating point.


def root(x):
    """Square root with a trace of what is cut off, so that it rounds rightly."""
    scaled = x * Fraction(4) ** 700
    whole = math.isqrt(math.floor(scaled))
    return Fraction(2 * whole + (whole * whole != scaled)) / (2 * Fraction(2) ** 700)


EXACT = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "div": lambda a, b: a / b,
    "fma": lambda a, b, c: a * b + c, "sqrt": root, "rcp": lambda a: 1 / a,
}  # fmt: skip


def reference(op, kind, mode, *x):
    """Result of an operation on floats by exact fractions; IEEE 754's rules where there is none."""
    a, b, c = (np.float64(v) for v in (*x, 1, 1)[:3])
    with np.errstate(all="ignore"):
        near = float(
            {"fma": lambda: a * b + c, "sqrt": lambda: np.sqrt(a)}.get(op, lambda: EXACT[op](*(a, b)[: len(x)]))()
        )
    if not all(map(math.isfinite, x)):
        return x[2] if op == "fma" and math.isfinite(x[0]) and math.isfinite(x[1]) else near
    if op == "sqrt" and x[0] < 0 or op in ("div", "rcp") and x[-1] == 0:
        return near
    if op in ("add", "sub", "fma"):
        terms = (x[0] * x[1], x[2]) if op == "fma" else (x[0], -x[1]) if op == "sub" else x
        signs = {math.copysign(1, v) for v in terms}
        near = math.copysign(0, signs.pop() if len(signs) == 1 else -1 if mode == "rm" else 1)
    return rounded(kind, EXACT[op](*map(Fraction, x)), mode, near)


def operands(kind, count):
    values = floats(kind)
    if count < 3:
        return list(itertools.product(values, repeat=count))
    chosen = np.random.default_rng(0).choice(np.array(values, dtype=np.uint64), (1500, 3)).tolist()
    near = []  # sums that nearly cancel
    for a, b, _ in chosen:
        c = rounded(kind, -decode(kind, a) * decode(kind, b))
        near += [(a, b, encode(kind, c))] if math.isfinite(c) else []
    return [*map(tuple, chosen), *near]


EVERY_MODE = list(itertools.product(EXACT, ["f32"], [["rn", "rz", "rm", "rp"]]))
DOUBLE = [(op, "f64", ["rn", "rz", "rm", "rp"] if op in ("add", "sub") else ["rn"]) for op in EXACT]


@pytest.mark.parametrize(
    ("op", "kind", "modes"), EVERY_MODE + DOUBLE + [(op, "f16", ["rn"]) for op in ("add", "sub", "mul", "fma")]
)
def test_float_arithmetic(op, kind, modes):
    count = EXACT[op].__code__.co_argcount
    rows, names = operands(kind, count), "abc"[:count]
    texts = [f"{op}.{mode}.{kind} %d, " + ", ".join(f"%{n}" for n in names) for mode in modes]
    for mode, column in zip(modes, ptx(texts, " ".join(f"{n}:{kind}" for n in names), kind, rows), strict=True):
        for row, result in zip(rows, column, strict=True):
            x = [decode(kind, v) for v in row]
            want = reference(op, kind, mode, *x)
            assert same(kind, result, want), (op, mode, kind, x, decode(kind, result), want)


def test_packed_arithmetic():
    rows = [(a | b << 16, b | a << 16) for a, b in operands("f16", 2)]
    for (a, b), got in zip(rows, ptx("add.f16x2 %d, %a, %b", "a:b32 b:b32", "b32", rows), strict=True):
        for at in (0, 16):
            x, y = (decode("f16", v >> at & 0xFFFF) for v in (a, b))
            assert same("f16", got >> at & 0xFFFF, reference("add", "f16", "rn", x, y))


@pytest.mark.parametrize("kind", ["f32", "f64", "f16"])
def test_extremes_signs_and_comparisons(kind):
    rows, io = operands(kind, 2), f"a:{kind} b:{kind}"
    values = [tuple(decode(kind, v) for v in row) for row in rows]

    def order(x):
        return x, math.copysign(1, x)

    for op, f in (("min", min), ("max", max)):
        plain, loud = ptx([f"{op}{m}.{kind} %d, %a, %b" for m in ("", ".NaN")], io, kind, rows)
        for x, a, b in zip(values, plain, loud, strict=True):
            numbers = [v for v in x if not math.isnan(v)]
            want = f(numbers, key=order) if numbers else math.nan
            assert same(kind, a, want) and same(kind, b, want if len(numbers) == 2 else math.nan), (op, x)
    positive, negative = ptx([f"{op}.{kind} %d, %a" for op in ("abs", "neg")], io, kind, rows)
    for (x, _), a, b in zip(values, positive, negative, strict=True):
        assert same(kind, a, abs(x)) and same(kind, b, -x)
    tests = {name: (f, False) for name, f in CONDITIONS.items()} | {f"{n}u": (f, True) for n, f in CONDITIONS.items()}
    tests |= {"num": (lambda x, y: True, False), "nan": (lambda x, y: False, True)}
    results = ptx([f"setp.{name}.{kind} %d, %a, %b" for name in tests], io, "pred", rows)
    for (name, (f, unordered)), column in zip(tests.items(), results, strict=True):
        for (x, y), got in zip(values, column, strict=True):
            assert got == (unordered if math.isnan(x) or math.isnan(y) else f(x, y)), (name, x, y)
    classes = {"finite": math.isfinite, "infinite": math.isinf, "notanumber": math.isnan}
    classes["number"] = lambda x: not math.isnan(x)
    results = ptx([f"testp.{name}.{kind} %d, %a" for name in classes], io, "pred", rows) if kind != "f16" else []
    for f, column in zip(classes.values(), results, strict=False):
        assert column == [f(x) for x, _ in values]


def test_modifiers():
    tiny, half, one = encode("f32", 1e-41), encode("f32", 0.5), encode("f32", 1)
    rows = [(tiny, half), (1 << 31 | tiny, half), (half, encode("f32", 1e-38)), (half, half)]
    flushed, product = ptx(["add.ftz.f32 %d, %a, %a", "mul.ftz.f32 %d, %a, %b"], "a:f32 b:f32", "f32", rows)
    assert flushed == [0, 1 << 31, one, one] and product[2] == 0
    assert ptx("add.ftz.f16 %d, %a, %a", "a:f16", "f16", [(0x8001,), (0x3C00,)]) == [0x8000, 0x4000]
    assert ptx("cvt.ftz.f32.f16 %d, %a", "a:f16", "f32", [(1,)]) == [encode("f32", 2.0**-24)]
    limited = [(-1.0, 0), (-0.0, 0), (0.25, 0.25), (1.5, 1), (math.inf, 1), (math.nan, 0)]
    for kind in ("f32", "f64", "f16"):
        got = ptx(f"add.sat.{kind} %d, %a, 0", f"a:{kind}", kind, [(encode(kind, x),) for x, _ in limited])
        assert got == [encode(kind, want) for _, want in limited]


APPROXIMATE = {
    "rcp": (lambda x: 1 / x, (math.inf, -math.inf, 0.0)), "sqrt": (math.sqrt, (0.0, -0.0, math.inf)),
    "rsqrt": (lambda x: 1 / math.sqrt(x), (math.inf, -math.inf, 0.0)), "sin": (math.sin, (0.0, -0.0, math.nan)),
    "cos": (math.cos, (1.0, 1.0, math.nan)), "ex2": (lambda x: 2**x, (1.0, 1.0, math.inf)),
    "lg2": (math.log2, (-math.inf, -math.inf, math.inf)), "tanh": (math.tanh, (0.0, -0.0, 1.0)),
}  # fmt: skip


@pytest.mark.parametrize("op", APPROXIMATE)
def test_approximations(op):
    f, special = APPROXIMATE[op]
    numbers = [decode("f32", encode("f32", x)) for x in (0.01, 0.5, 1.0, 2.0, 3.7, 100.0)]
    cases = [(x, f(x)) for x in numbers] + list(zip((0.0, -0.0, math.inf, math.nan), (*special, math.nan), strict=True))
    rows = [(encode("f32", x),) for x, _ in cases]
    for column in ptx([f"{op}.approx{m}.f32 %d, %a" for m in ("", ".ftz")], "a:f32", "f32", rows):
        for (x, want), got in zip(cases, column, strict=True):
            assert same("f32", got, want, ulp=1), (op, x)


# Conversions.

INTEGER_KINDS = ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"]


@pytest.mark.parametrize("source", INTEGER_KINDS)
def test_conversions_of_integers(source):
    rows, io = [(x,) for x in integers(source)], f"a:{source}"
    for to in INTEGER_KINDS:
        check({f"cvt.{to}.{source} %d, %a": int}, io, to, rows)
    for to in ("f32", "f64", "f16"):
        modes = ["rn"] if to == "f16" else ["rn", "rz", "rm", "rp"]
        results = ptx([f"cvt.{mode}.{to}.{source} %d, %a" for mode in modes], io, to, rows)
        for mode, column in zip(modes, results, strict=True):
            for (x,), got in zip(rows, column, strict=True):
                assert same(to, got, rounded(to, Fraction(as_integer(source, x)), mode)), (to, source, mode, x)


MODES = {"rni": round, "rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil}


@pytest.mark.parametrize("source", ["f32", "f64", "f16"])
def test_conversions_of_floats_to_integers(source):
    rows = operands(source, 1)
    numbers = [decode(source, x) for (x,) in rows]
    for to in [*INTEGER_KINDS, source]:
        results = ptx([f"cvt.{mode}.{to}.{source} %d, %a" for mode in MODES], f"a:{source}", to, rows)
        for (mode, f), column in zip(MODES.items(), results, strict=True):
            for number, got in zip(numbers, column, strict=True):
                if to == source:
                    assert same(to, got, math.copysign(f(number), number) if math.isfinite(number) else number)
                    continue
                want = 1 << (BITS[to] - 1) if "64" in to + source else 0
                if not math.isnan(number):
                    whole = f(number) if math.isfinite(number) else int(math.copysign(1 << 80, number))
                    want = clamp(whole, BITS[to], to[0] == "s")
                assert got == want & (1 << BITS[to]) - 1, (to, source, mode, number)


FLOAT_PAIRS = [(to, source, ["rn"]) for to, source in itertools.product(("f32", "f64", "f16"), repeat=2)]
FLOAT_PAIRS += [
    ("f32", "f64", ["rz", "rm", "rp"]),
    ("bf16", "f32", ["rn"]),
    ("f32", "bf16", ["rn"]),
    ("tf32", "f32", ["rna"]),
]


@pytest.mark.parametrize(("to", "source", "modes"), FLOAT_PAIRS)
def test_conversions_between_floats(to, source, modes):
    exact = FORMATS[to][0] >= FORMATS[source][0] and FORMATS[to][1] >= FORMATS[source][1]
    rng = np.random.default_rng(1)
    rows = operands(source, 1) + [(x,) for x in rng.integers(0, 1 << BITS[source] - 1, 500, dtype=np.uint64).tolist()]
    if source == "f32":  # ties and their neighbours in every format
        high = (0x38000, 0x38001, 0x38003, 0x33000, 0x33001, 0x47FFF, 0x3F808, 0x3F818)
        rows += [(x << 12 | low,) for x in high for low in (0, 1, 0xFFF)]
    texts = [f"cvt{'' if exact else f'.{mode}'}.{to}.{source} %d, %a" for mode in modes]
    for mode, column in zip(modes, ptx(texts, f"a:{source}", to, rows), strict=True):
        for (x,), got in zip(rows, column, strict=True):
            want = rounded(to, decode(source, x), mode)
            assert same(to, got, want), (to, source, mode, decode(source, x), decode(to, got), want)


def test_packed_conversions():
    a, b = 1.5, -70000.0
    for kind, want in (("f16", -math.inf), ("bf16", rounded("bf16", b))):
        row = (encode("f32", a), encode("f32", b))
        (got,) = ptx(f"cvt.rn.{kind}x2.f32 %d, %a, %b", "a:f32 b:f32", "b32", [row])
        assert got == encode(kind, a) << 16 | encode(kind, want)


@pytest.mark.skipif(not llvm.get_process_triple().startswith("x86_64"), reason="a CPU of another kind")
def test_a_cpu_without_instructions_for_half_precision(monkeypatch):
    """The oldest x86-64 has neither conversions to float16, nor rounding to integers, nor fused multiply-add."""
    rows, io = operands("f16", 3), ("a:f16 b:f16 c:f16", "f16")
    text = "fma.rn.f16 %d, %a, %b, %c; cvt.rni.f16.f16 %d, %d; cvt.rpi.u64.f16 %x, %d"
    results = ptx(text, *io, rows, x="u64")
    monkeypatch.setattr(llvm, "get_host_cpu_name", lambda: "x86-64")
    monkeypatch.setattr(llvm, "get_host_cpu_features", llvm.FeatureMap)
    assert ptx(text, *io, rows, x="u64") == results


# Functions of libdevice.


def called(name, arguments, result=""):
    """PTX that calls a function, with PTX types by registers."""
    text = "".join(f".param .b64 {a[1:]}_; st.param.b{BITS[k]} [{a[1:]}_], {a}; " for a, k in arguments.items())
    given = ", ".join(f"{a[1:]}_" for a in arguments)
    if not result:
        return f"{text} call.uni __nv_{name}, ({given})"
    return f"{text} .param .b64 r_; call.uni (r_), __nv_{name}, ({given}); ld.param.b{BITS[result]} %d, [r_]"


def libdevice(name, *rows):
    """Results of a function on rows of numbers: floats and integers, by its types."""
    form = find(FUNCTIONS[name].split("."))
    kinds = form.operands[: len(rows[0])]
    patterns = [[encode(k, v) if k in FORMATS else v for k, v in zip(kinds, row, strict=True)] for row in rows]
    text = called(name, {f"%a{n}": k for n, k in enumerate(kinds)}, form.result)
    raw = ptx(text, " ".join(f"a{n}:{k}" for n, k in enumerate(kinds)), form.result, patterns)
    return [decode(form.result, v) if form.result in FORMATS else as_integer(form.result, v) for v in raw]


SAME_NAMES = (
    "acosh asinh atan ceil cos cosh erf erfc exp expm1 floor lgamma log log10 log1p log2 sin sinh sqrt tan tanh trunc"
)
MATHS = {
    **{name: getattr(math, name) for name in SAME_NAMES.split()},
    "tgamma": math.gamma, "exp2": lambda x: 2.0**x, "cbrt": lambda x: x ** (1 / 3), "rsqrt": lambda x: x**-0.5,
    "logb": lambda x: float(math.frexp(x)[1] - 1), "fabs": abs, "rint": round, "nearbyint": round,
    "round": lambda x: math.floor(x + 0.5),
}  # fmt: skip


@pytest.mark.parametrize("name", MATHS)
def test_functions_of_one_number(name):
    for suffix, kind, ulp in (("", "f64", 2.0**-45), ("f", "f32", 2.0**-22)):
        numbers = [decode(kind, encode(kind, x)) for x in (1.25, 1.5, 2.0, 3.7)]
        for x, got in zip(numbers, libdevice(name + suffix, *((x,) for x in numbers)), strict=True):
            assert got == pytest.approx(MATHS[name](x), rel=ulp, abs=ulp), x


def test_functions_of_two_numbers():
    rows = [(7.5, -2.0), (-7.5, 2.0), (0.3, 4.0), (5.0, 3.0)]
    cases = {
        "atan2": math.atan2, "fmod": math.fmod, "hypot": math.hypot, "remainder": math.remainder,
        "copysign": math.copysign, "fmax": max, "fmin": min, "fdim": lambda x, y: max(x - y, 0.0),
    }  # fmt: skip
    for name, suffix in itertools.product(cases, ("", "f")):
        wanted = [cases[name](*row) for row in rows]
        assert libdevice(name + suffix, *rows) == pytest.approx(wanted, rel=1e-6), name


def test_functions_that_store_results():
    def stored_by(name, kind, numbers, stored):
        rows = [(encode(kind, x), 0, 0) for x in numbers]
        text = "add.u64 %p, %at, 8; add.u64 %q, %at, 16; "
        pointers = {"%p": "u64", "%q": "u64"} if name[:6] == "sincos" else {"%p": "u64"}
        text += called(name, {"%a": kind, **pointers}, "" if name[:6] == "sincos" else kind)
        inputs = f"a:{kind} x:{stored} y:{stored}", kind, rows
        read = ptx([text, *(f"ld.global.b{BITS[stored]} %d, [%at+{at}]" for at in (8, 16))], *inputs, p="u64", q="u64")
        kinds = [kind, stored, stored]
        return list(
            zip(
                *[[decode(k, v) if k in FORMATS else v for v in c] for k, c in zip(kinds, read, strict=True)],
                strict=True,
            )
        )

    for suffix, kind in (("", "f64"), ("f", "f32")):
        assert [r[:2] for r in stored_by(f"modf{suffix}", kind, [-2.5, -math.inf], kind)] == [
            (-0.5, -2),
            (0, -math.inf),
        ]
        (found,) = stored_by(f"sincos{suffix}", kind, [1.0], kind)
        assert found[1:] == pytest.approx((math.sin(1), math.cos(1)), rel=1e-7)
    assert [r[:2] for r in stored_by("frexpf", "f32", [6.0, 0.0], "u32")] == [(0.75, 3), (0.0, 0)]


def test_functions_of_integers_and_bits():
    cases = {
        "abs": ((-5,), 5), "llabs": ((-(1 << 40),), 1 << 40), "min": ((-1, 1), -1), "umin": ((-1 & 0xFFFFFFFF, 1), 1),
        "llmax": ((-1, 1), 1), "ullmax": ((2, 1), 2), "mulhi": ((-1, 5), -1), "umulhi": ((1 << 31, 4), 2),
        "mul64hi": ((-1, 5), -1), "umul64hi": ((1 << 63, 4), 2), "brev": ((1,), 1 << 31), "brevll": ((1,), 1 << 63),
        "clz": ((1,), 31), "clzll": ((1,), 63), "popc": ((7,), 3), "popcll": ((1 << 63,), 1), "ffs": ((8,), 4),
        "ffsll": ((0,), 0), "byte_perm": ((0x03020100, 0x07060504, 0x7531), 0x07050301),
        "float_as_int": ((0x3F800000,), 0x3F800000), "isnanf": ((math.nan,), 1), "isinfd": ((-math.inf,), 1),
        "finitef": ((math.inf,), 0), "isfinited": ((1.0,), 1), "signbitf": ((-0.0,), 1), "llrint": ((2.5,), 2),
        "float2int_rz": ((-2.7,), -2), "double2uint_ru": ((2.2,), 3), "float2half_rn": ((1.0,), 1.0),
        "half2float": ((1.5,), 1.5), "ll2float_rz": (((1 << 62) + 1,), 2.0**62), "saturatef": ((1.5,), 1.0),
        "frsqrt_rn": ((4.0,), 0.5), "fadd_ru": ((1.0, 1e-9), 1 + 2.0**-23), "dadd_rz": ((1.0, -1e-30), 1 - 2.0**-53),
        "frcp_rn": ((4.0,), 0.25), "fmaf_rd": ((1.0, 1.0, -1e-9), 1 - 2.0**-24), "fast_fdividef": ((1.0, 4.0), 0.25),
        "pow": ((-2.0, 3.0), -8.0), "fast_powf": ((2.0, 3.0), 8.0), "powif": ((2.0, -2), 0.25),
        "scalbn": ((1.5, 4), 24),
        "ldexpf": ((1.5, 4), 24.0), "nextafterf": ((1.0, 2.0), 1 + 2.0**-23), "nextafter": ((1.0, 2.0), 1 + 2.0**-52),
        "fmaf": ((2.0, 3.0, 4.0), 10.0),
    }  # fmt: skip
    for name, (row, want) in cases.items():
        assert libdevice(name, row) == [want], name


def test_functions_that_are_not_known_are_named():
    with pytest.raises(PTXError, match="__nv_erfinv"):
        ptx(called("erfinv", {"%a": "f64"}, "f64"), "a:f64", "f64", [(0,)])
