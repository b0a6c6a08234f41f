"""Arithmetic of PTX: every instruction on values of all kinds, beside NumPy, Python's integers and exact fractions."""

import ctypes
import itertools
import math
import re
import struct
from fractions import Fraction
from functools import partial

import llvmlite.binding as llvm
import numpy as np
import pytest

from cks_numba.emulator.instructions import FORMATS, TABLE
from cks_numba.emulator.libdevice import FUNCTIONS, call_function
from cks_numba.emulator.ptx import BITS, Instruction, PTXError

# A straight piece of PTX as a function of this process.

llvm.initialize_native_target()
llvm.initialize_native_asmprinter()


def llvm_type(kind):
    return {"f32": "float", "f64": "double"}.get(kind) or f"i{BITS[kind]}"


class Straight:
    """The least translator: registers in memory, and no control flow."""

    def __init__(self, registers):
        self.registers, self.lines, self.declared, self.count = {**registers, "%carry": "pred"}, [], {}, 0

    def let(self, text):
        self.count += 1
        self.lines.append(f"%v{self.count} = {text}")
        return f"%v{self.count}"

    def call(self, name, result, *args):
        self.declared[name] = f"declare {result} @{name}({', '.join(a.split()[0] for a in args)})"
        return self.let(f"call {result} @{name}({', '.join(args)})")

    def value(self, operand, kind):
        if operand.startswith("!"):
            return self.let(f"xor i1 {self.value(operand[1:], 'pred')}, true")
        if operand in self.registers:
            have = llvm_type(self.registers[operand])
            x = self.let(f"load {have}, {have}* {operand.replace('%', '%R.')}")
            return self.convert(x, have, kind)
        if match := re.fullmatch("0[fF](........)", operand):
            (number,) = struct.unpack(">f", bytes.fromhex(match[1]))
            return f"0x{struct.unpack('>Q', struct.pack('>d', number))[0]:016X}"
        return f"0x{operand[2:]}" if operand[:2] in ("0d", "0D") else str(int(operand, 0))

    def convert(self, x, have, kind):
        want = llvm_type(kind)
        bits = {"float": 32, "double": 64}.get(have) or int(have[1:])
        if have == want:
            return x
        if bits == BITS[kind]:
            return self.let(f"bitcast {have} {x} to {want}")
        how = "trunc" if bits > BITS[kind] else "sext" if kind[0] == "s" else "zext"
        return self.let(f"{how} {have} {x} to {want}")

    def set(self, register, kind, value):
        if register != "_":
            have = self.registers[register]
            wanted = have if BITS[have] == BITS[kind] else f"b{BITS[have]}"
            value = self.convert(value, llvm_type(kind), f"{kind[0]}{BITS[have]}" if wanted != have else have)
            self.lines.append(f"store {llvm_type(have)} {value}, {llvm_type(have)}* {register.replace('%', '%R.')}")


def instructions(text):
    for line, statement in enumerate(filter(None, (s.strip() for s in text.split(";"))), 1):
        op, _, args = statement.partition(" ")
        args = re.findall(r"\{[^}]*\}|[^,\s][^,]*", args)
        yield Instruction(tuple(op.split(".")), tuple(a.strip() for a in args), line, statement)


def pattern(kind):
    """Type of the bits of a register."""
    return kind if kind == "pred" else f"b{BITS[kind]}"


def function(t, inputs, outputs):
    """IR of a loop over rows of 64-bit cells: the inputs, then the outputs."""
    width, head, tail = len(inputs) + len(outputs), [], []
    body, t.lines = t.lines, []
    for n, name in enumerate(inputs):
        kind = pattern(t.registers[name])
        x = t.let(f"load i64, i64* {t.let(f'getelementptr i64, i64* %row, i64 {n}')}")
        t.set(name, kind, t.convert(x, "i64", kind))
    head, t.lines = t.lines, []
    for n, name in enumerate(outputs, len(inputs)):
        kind = pattern(t.registers[name])
        x = t.convert(t.value(name, kind), llvm_type(kind), "b64")
        t.lines.append(f"store i64 {x}, i64* {t.let(f'getelementptr i64, i64* %row, i64 {n}')}")
    tail = t.lines
    places = [f"{r.replace('%', '%R.')} = alloca {llvm_type(k)}" for r, k in t.registers.items()]
    return "\n".join([
        *t.declared.values(), "define void @run(i64* %data, i64 %n) {", "entry:", *places,
        "store i1 false, i1* %R.carry", "br label %loop", "loop:", "%i = phi i64 [0, %entry], [%next, %loop]",
        f"%at = mul i64 %i, {width}", "%row = getelementptr i64, i64* %data, i64 %at",
        *head, *body, *tail, "%next = add i64 %i, 1",
        "%more = icmp ult i64 %next, %n", "br i1 %more, label %loop, label %end", "end:", "ret void", "}",
    ])  # fmt: skip


def execute(t, inputs, outputs, rows, cpu=None):
    """Run what a translator has gathered on rows of bit patterns; gives a list of patterns (one output) or tuples."""
    module = llvm.parse_assembly(function(t, inputs, outputs))
    module.verify()
    target = llvm.Target.from_default_triple()
    features = "" if cpu else llvm.get_host_cpu_features().flatten()
    machine = target.create_target_machine(cpu=cpu or llvm.get_host_cpu_name(), features=features)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    width = len(inputs) + len(outputs)
    data = np.zeros((len(rows), width), np.uint64)
    for n, row in enumerate(rows):
        data[n, : len(inputs)] = [x & (1 << 64) - 1 for x in row]
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(engine.get_function_address("run"))
    run(data.ctypes.data, len(rows))
    results = [tuple(map(int, row)) for row in data[:, len(inputs) :]]
    return [r[0] for r in results] if len(outputs) == 1 else results


def ptx(text, inputs, outputs, rows, cpu=None, **others):
    """Run PTX: `inputs` and `outputs` are texts such as ``"a:u32 b:f32"`` with the names and types of the registers."""
    names = [dict(part.split(":") for part in io.split()) for io in (inputs, outputs)]
    t = Straight({f"%{n}": k for n, k in {**names[0], **names[1], **others}.items()})
    for i in instructions(text):
        TABLE[i.op[0]](t, i)
    return execute(t, *([f"%{n}" for n in io] for io in names), rows, cpu)


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
    exponent, mantissa = FORMATS[kind]
    if kind == "tf32":
        mantissa = 23
    sign = -1.0 if pattern >> (exponent + mantissa) & 1 else 1.0
    power, low = pattern >> mantissa & (1 << exponent) - 1, pattern & (1 << mantissa) - 1
    bias = (1 << (exponent - 1)) - 1
    if kind == "e4m3" and power == 15 and low == 7 or kind != "e4m3" and power == (1 << exponent) - 1 and low:
        return math.nan
    if kind != "e4m3" and power == (1 << exponent) - 1:
        return sign * math.inf
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
    steps = abs(x) / unit
    floor, rest = math.floor(steps), steps - math.floor(steps)
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
    if kind in ("f32", "tf32"):
        return struct.unpack("<I", struct.pack("<f", x))[0]
    if kind == "f64":
        return struct.unpack("<Q", struct.pack("<d", x))[0]
    if kind == "bf16":
        return encode("f32", x) >> 16
    return struct.unpack("<H", struct.pack("<e", x))[0]


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

ARITHMETIC = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul.lo": lambda a, b: a * b,
    "min": min, "max": max, "and": lambda a, b: a & b, "or": lambda a, b: a | b, "xor": lambda a, b: a ^ b,
}  # fmt: skip


def check(text, inputs, output, rows, expected, **others):
    """Compare with a Python function of the operands as integers, modulo the width of the result."""
    kinds = [part.split(":")[1] for part in inputs.split()]
    bits = BITS[output.split(":")[1]]
    got = ptx(text, inputs, output, rows, **others)
    for row, result in zip(rows, got, strict=True):
        want = expected(*(as_integer(k, x) for k, x in zip(kinds, row, strict=True)))
        assert result == int(want) & (1 << bits) - 1, (text, row, hex(result), want)


def pairs(kind):
    return list(itertools.product(integers(kind), repeat=2))


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32", "u64", "s64"])
@pytest.mark.parametrize("op", ARITHMETIC)
def test_integer_arithmetic(op, kind):
    of = f"b{kind[1:]}" if op in ("and", "or", "xor") else kind
    check(f"{op}.{of} %d, %a, %b", f"a:{kind} b:{kind}", f"d:{kind}", pairs(kind), ARITHMETIC[op])


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32", "u64", "s64"])
def test_products_division_and_shifts(kind):
    bits, io = BITS[kind], (f"a:{kind} b:{kind}", f"d:{kind}", pairs(kind))
    check(f"mul.hi.{kind} %d, %a, %b", *io, lambda a, b: a * b >> bits)
    check(f"mad.hi.{kind} %d, %a, %b, %a", *io, lambda a, b: (a * b >> bits) + a)
    check(f"mad.lo.{kind} %d, %a, %b, %b", *io, lambda a, b: a * b + b)
    check(f"sad.{kind} %d, %a, %b, %a", *io, lambda a, b: abs(a - b) + a)

    def quotient(a, b):
        return -1 if b == 0 else abs(a) // abs(b) * (-1 if (a < 0) != (b < 0) else 1)

    check(f"div.{kind} %d, %a, %b", *io, quotient)
    check(f"rem.{kind} %d, %a, %b", *io, lambda a, b: -1 if b == 0 else a - b * quotient(a, b))
    if bits < 64:
        wide = f"{kind[0]}{2 * bits}"
        check(f"mul.wide.{kind} %d, %a, %b", io[0], f"d:{wide}", io[2], lambda a, b: a * b)
        twice = f"mul.wide.{kind} %d, %a, %b; mad.wide.{kind} %d, %a, %b, %d"
        check(twice, io[0], f"d:{wide}", io[2], lambda a, b: 2 * a * b)
    counts = [(x, n) for x in integers(kind) for n in (0, 1, 7, 8, 15, 16, 31, 32, 33, 63, 64, 65, 0xFFFFFFFF)]
    check(f"shr.{kind} %d, %a, %n", f"a:{kind} n:u32", f"d:{kind}", counts, lambda a, n: a >> min(n, 64))
    check(f"shl.b{bits} %d, %a, %n", f"a:{kind} n:u32", f"d:{kind}", counts, lambda a, n: a << min(n, 64))
    for n in (0, 1, bits - 1, bits):
        check(f"shl.b{bits} %d, %a, {n}", *io, lambda a, b, n=n: a << n)
        check(f"shr.{kind} %d, %a, {n}", *io, lambda a, b, n=n: a >> n)
    if kind[0] == "s":
        singles = [(x,) for x in integers(kind)]
        check(f"abs.{kind} %d, %a", f"a:{kind}", f"d:{kind}", singles, abs)
        check(f"neg.{kind} %d, %a", f"a:{kind}", f"d:{kind}", singles, lambda a: -a)


def clamp(x, bits, sign=True):
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if sign else (0, (1 << bits) - 1)
    return min(max(x, low), high)


def test_saturation_and_24_bits():
    io = "a:s32 b:s32", "d:s32", pairs("s32")
    check("add.sat.s32 %d, %a, %b", *io, lambda a, b: clamp(a + b, 32))
    check("sub.sat.s32 %d, %a, %b", *io, lambda a, b: clamp(a - b, 32))
    check("mad.hi.sat.s32 %d, %a, %b, %a", *io, lambda a, b: clamp((a * b >> 32) + a, 32))

    def low(x, sign):
        x &= 0xFFFFFF
        return x - (1 << 24) if sign and x >> 23 else x

    for kind in ("u32", "s32"):
        io, sign = (f"a:{kind} b:{kind}", f"d:{kind}", pairs(kind)), kind == "s32"
        check(f"mul24.lo.{kind} %d, %a, %b", *io, lambda a, b, s=sign: low(a, s) * low(b, s))
        check(f"mul24.hi.{kind} %d, %a, %b", *io, lambda a, b, s=sign: low(a, s) * low(b, s) >> 16)
        check(f"mad24.lo.{kind} %d, %a, %b, %a", *io, lambda a, b, s=sign: low(a, s) * low(b, s) + a)


def test_carry():
    """Sums and products of 64 bits from 32-bit halves."""
    split = "mov.b64 {%al, %ah}, %a; mov.b64 {%bl, %bh}, %b;"
    halves = dict.fromkeys(["al", "ah", "bl", "bh", "dl", "dh"], "u32")
    join = "mov.b64 %d, {%dl, %dh}"
    rows = pairs("u64")
    io = "a:u64 b:u64", "d:u64", rows
    check(f"{split} add.cc.u32 %dl, %al, %bl; addc.u32 %dh, %ah, %bh; {join}", *io, lambda a, b: a + b, **halves)
    check(f"{split} sub.cc.u32 %dl, %al, %bl; subc.cc.u32 %dh, %ah, %bh; {join}", *io, lambda a, b: a - b, **halves)
    text = f"{split} mov.b64 {{%dl, %dh}}, %b; mad.lo.cc.u32 %dl, %al, %bl, %dl; madc.hi.u32 %dh, %al, %bl, %dh; {join}"
    check(text, *io, lambda a, b: (a & 0xFFFFFFFF) * (b & 0xFFFFFFFF) + b, **halves)
    check("sub.cc.u64 %d, %a, %b; subc.u64 %d, %a, %a", *io, lambda a, b: -(a < b))


def bit(x, n):
    return x >> n & 1


def test_bit_fields():
    for kind in ("u32", "s32", "u64", "s64"):
        bits, counts = BITS[kind], [0, 1, 5, 8, 31, 32, 33, 63, 64, 200, 255, 256 + 3]

        def bfe(x, at, n, kind=kind, bits=bits):
            at, n = at & 255, n & 255
            x &= (1 << bits) - 1
            sign = bit(x, min(at + n - 1, bits - 1)) if n and kind[0] == "s" else 0
            return sum((bit(x, at + i) if i < n and at + i < bits else sign) << i for i in range(bits))

        rows = [(x, a, n) for x in integers(kind) for a in counts for n in counts]
        check(f"bfe.{kind} %d, %a, %p, %n", f"a:{kind} p:u32 n:u32", f"d:{kind}", rows, bfe)

        ones = [(x,) for x in integers(kind)]

        def highest(x):
            return (x if x >= 0 else ~x).bit_length() - 1

        def above(x, bits=bits):
            return -1 if highest(x) < 0 else bits - 1 - highest(x)

        check(f"bfind.{kind} %d, %a", f"a:{kind}", "d:u32", ones, highest)
        check(f"bfind.shiftamt.{kind} %d, %a", f"a:{kind}", "d:u32", ones, above)
        if kind[0] == "u":

            def bfi(a, b, at, n, bits=bits):
                mask = ((1 << (n & 255)) - 1) << (at & 255) & (1 << bits) - 1
                return a << (at & 255) & mask | b & ~mask

            both = [(0xDEADBEEF, 0x12345678), ((1 << bits) - 1, 0)]
            rows = [(x, y, a, n) for x, y in both for a in counts for n in counts]
            check(f"bfi.b{bits} %d, %a, %b, %p, %n", f"a:{kind} b:{kind} p:u32 n:u32", f"d:{kind}", rows, bfi)
            check(f"popc.b{bits} %d, %a", f"a:{kind}", "d:u32", ones, lambda x: bin(x).count("1"))
            check(f"clz.b{bits} %d, %a", f"a:{kind}", "d:u32", ones, lambda x, bits=bits: bits - x.bit_length())
            reverse = partial(lambda bits, x: int(f"{x:0{bits}b}"[::-1], 2), bits)
            check(f"brev.b{bits} %d, %a", f"a:{kind}", f"d:{kind}", ones, reverse)
            check(f"not.b{bits} %d, %a", f"a:{kind}", f"d:{kind}", ones, lambda x: ~x)
            check(f"cnot.b{bits} %d, %a", f"a:{kind}", f"d:{kind}", ones, lambda x: x == 0)


def test_masks_and_extensions():
    rows = [(x, n) for x in integers("u32") for n in (0, 1, 8, 31, 32, 33, 255)]

    def extended(x, n, sign):
        x &= (1 << n) - 1
        return x - (1 << n) if sign and n and bit(x, n - 1) else x

    for kind in ("u32", "s32"):
        io, sign = (f"a:{kind} n:u32", f"d:{kind}", rows), kind == "s32"
        check(f"szext.clamp.{kind} %d, %a, %n", *io, lambda x, n, s=sign: extended(x, min(n, 32), s))
        check(f"szext.wrap.{kind} %d, %a, %n", *io, lambda x, n, s=sign: extended(x, n & 31, s))
    rows = list(itertools.product((0, 1, 8, 31, 32, 33, 255), repeat=2))
    check("bmsk.clamp.b32 %d, %a, %n", "a:u32 n:u32", "d:u32", rows, lambda a, n: ((1 << min(n, 32)) - 1) << min(a, 32))
    check("bmsk.wrap.b32 %d, %a, %n", "a:u32 n:u32", "d:u32", rows, lambda a, n: ((1 << (n & 31)) - 1) << (a & 31))


def test_funnel_shift_and_logic_of_three():
    rows = [(a, b, n) for a, b in [(0xDEADBEEF, 0x12345678), (1 << 31, 1)] for n in (0, 1, 31, 32, 33, 64, 255)]
    io = "a:u32 b:u32 n:u32", "d:u32", rows
    for mode, count in (("clamp", lambda n: min(n, 32)), ("wrap", lambda n: n & 31)):
        check(f"shf.l.{mode}.b32 %d, %a, %b, %n", *io, lambda a, b, n, c=count: (b << 32 | a) << c(n) >> 32)
        check(f"shf.r.{mode}.b32 %d, %a, %b, %n", *io, lambda a, b, n, c=count: (b << 32 | a) >> c(n))
    for table in (0, 0x80, 0x96, 0xE8, 0xCA, 0xFE, 0xFF):

        def lop(a, b, c, table=table):
            return sum(bit(table, 4 * bit(a, n) + 2 * bit(b, n) + bit(c, n)) << n for n in range(32))

        check(f"lop3.b32 %d, %a, %b, %n, {table}", *io, lop)


def test_permutation_of_bytes():
    rows = [(0x8382F1F0, 0x8786F5F4, s) for s in (0x3210, 0x7654, 0xFEDC, 0x0123, 0x8888, 0x5410, 1, 2, 3)]
    io = "a:u32 b:u32 s:u32", "d:u32", rows

    def prmt(a, b, s):
        data, result = struct.pack("<II", a, b), 0
        for n in range(4):
            pick = s >> (4 * n) & 15
            byte = data[pick & 7]
            result |= (byte if pick < 8 else 255 * (byte >> 7)) << (8 * n)
        return result

    check("prmt.b32 %d, %a, %b, %s", *io, prmt)
    modes = {  # after the table of the PTX manual: the bytes of the result, highest first, for selectors 0 to 3
        "f4e": ("3210", "4321", "5432", "6543"), "b4e": ("5670", "6701", "7012", "0123"),
        "rc8": ("0000", "1111", "2222", "3333"), "ecl": ("3210", "3211", "3222", "3333"),
        "ecr": ("0000", "1110", "2210", "3210"), "rc16": ("1010", "3232", "1010", "3232"),
    }  # fmt: skip
    for mode, table in modes.items():
        check(f"prmt.b32.{mode} %d, %a, %b, %s", *io, lambda a, b, s, table=table: prmt(a, b, int(table[s & 3], 16)))


def test_nth_set_bit():
    def fns(mask, base, offset):
        count, step = (abs(offset) - 1, 1 if offset > 0 else -1) if offset else (0, 1)
        at = base
        while 0 <= at < 32:
            if bit(mask, at):
                if not count:
                    return at
                count -= 1
            if not offset:
                return -1
            at += step
        return -1

    masks = [0, 1, 0x80000000, 0xFFFFFFFF, 0xAAAAAAAA, 0x12345678]
    offsets = [n & 0xFFFFFFFF for n in (0, 1, 2, 5, 16, 32, 33, -1, -3, -32)]
    rows = list(itertools.product(masks, (0, 1, 15, 31), offsets))
    check("fns.b32 %d, %a, %b, %n", "a:u32 b:u32 n:s32", "d:u32", rows, fns)


@pytest.mark.parametrize("a", ["u32", "s32"])
@pytest.mark.parametrize("b", ["u32", "s32"])
def test_dot_products(a, b):
    def split(x, kind, bits):
        return [as_integer(f"{kind[0]}{bits}", x >> n) for n in range(0, 32, bits)]

    def dot(wide, start, x, y, c):
        return c + sum(p * q for p, q in zip(split(x, a, wide), split(y, b, 8)[start:], strict=False))

    rows = list(
        itertools.product((0x80FF7F01, 0x01020304, 0xFFFFFFFF), (0x7F80FF05, 0xFFFFFFFF, 2), (0, 5, 0xFFFFFFFF))
    )
    io = "a:u32 b:u32 c:u32", "d:u32", rows
    check(f"dp4a.{a}.{b} %d, %a, %b, %c", *io, partial(dot, 8, 0))
    check(f"dp2a.lo.{a}.{b} %d, %a, %b, %c", *io, partial(dot, 16, 0))
    check(f"dp2a.hi.{a}.{b} %d, %a, %b, %c", *io, partial(dot, 16, 2))


CONDITIONS = {
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "lt": lambda a, b: a < b, "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32", "u64", "s64"])
def test_integer_comparisons(kind):
    names = dict(CONDITIONS)
    if kind[0] == "u":
        names |= {short: CONDITIONS[long] for short, long in (("lo", "lt"), ("ls", "le"), ("hi", "gt"), ("hs", "ge"))}
    for name, f in names.items():
        check(f"setp.{name}.{kind} %d, %a, %b", f"a:{kind} b:{kind}", "d:pred", pairs(kind), f)
    rows = [(a, b, p) for a, b in pairs(kind)[::5] for p in (0, 1)]
    for combine, f in (("and", lambda x, p: x & p), ("or", lambda x, p: x | p), ("xor", lambda x, p: x ^ p)):
        text = f"setp.lt.{combine}.{kind} %d|%e, %a, %b, !%p"
        results = ptx(text, f"a:{kind} b:{kind} p:pred", "d:pred e:pred", rows)
        for (a, b, p), got in zip(rows, results, strict=True):
            less = as_integer(kind, a) < as_integer(kind, b)
            assert got == (f(less, not p), f(not less, not p))
    check(f"set.lt.u32.{kind} %d, %a, %b", f"a:{kind} b:{kind}", "d:u32", pairs(kind), lambda a, b: -(a < b))


def test_choices_and_moves():
    rows = [(a, b, p) for a, b in pairs("u32")[::7] for p in (0, 1)]
    check("selp.b32 %d, %a, %b, %p", "a:u32 b:u32 p:pred", "d:u32", rows, lambda a, b, p: a if p else b)
    io, rows = ("a:u32 b:u32 c:s32", "d:u32"), [(1, 2, 5), (1, 2, 0), (1, 2, 0x80000000)]
    check("slct.u32.s32 %d, %a, %b, %c", *io, rows, lambda a, b, c: a if c >= 0 else b)
    rows = [(1, 2, encode("f32", x)) for x in NUMBERS]
    for (*_, c), got in zip(rows, ptx("slct.u32.f32 %d, %a, %b, %c", "a:u32 b:u32 c:f32", "d:u32", rows), strict=True):
        assert got == (1 if decode("f32", c) >= 0 else 2)
    io = "a:u64", "d:u64", [(x,) for x in WIDE]
    check("mov.b64 {%l, %h}, %a; mov.b64 %d, {%h, %l}", *io, lambda a: a >> 32 | a << 32, l="b32", h="f32")
    text, quarters = "mov.b64 {%w,%x,%y,%z}, %a; mov.b64 %d, {%w,%w,%z,%w}", dict.fromkeys("wxyz", "b16")
    check(text, *io, lambda a: (a & 0xFFFF) * 0x1000000010001 + (a >> 48 << 32), **quarters)
    check("mov.b128 %q, {%a, %a}; mov.b128 {%d, _}, %q", *io, lambda a: a, q="b128")
    check("mov.b64 {_, %d}, %a", "a:u64", "d:b32", io[2], lambda a: a >> 32)
    check("mov.u32 %d, -5", "a:u64", "d:u32", io[2], lambda a: -5)
    rows = list(itertools.product((0, 1), repeat=2))
    check("and.pred %d, %a, !%b; not.pred %d, %d", "a:pred b:pred", "d:pred", rows, lambda a, b: not a or b)


def test_what_is_not_known_is_named():
    for text in (
        "add.magic.f32 %d, %a, %b", "add.f99 %d, %a, %b", "cvt.rn.odd.f32.f64 %d, %a", "setp.xx.f32 %p, %a, %b",
        "mul.lo.pred %d, %a, %b",
    ):  # fmt: skip
        (i,) = instructions(text)
        with pytest.raises(PTXError, match=re.escape(text)):
            TABLE[i.op[0]](Straight({"%a": "f32", "%b": "f32", "%d": "f32", "%p": "pred"}), i)


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
    if all(map(math.isfinite, x)):
        with np.errstate(all="ignore"):
            near = native(op, *x)
        if op == "sqrt" and x[0] < 0 or op in ("div", "rcp") and x[-1] == 0:
            return near
        zero = near
        terms = (x[0] * x[1], x[2]) if op == "fma" else (x[0], -x[1]) if op == "sub" else x
        if op in ("add", "sub", "fma"):
            both = {math.copysign(1, v) for v in terms}
            zero = math.copysign(0, both.pop() if len(both) == 1 else -1 if mode == "rm" else 1)
        return rounded(kind, EXACT[op](*map(Fraction, x)), mode, zero)
    if op == "fma" and math.isfinite(x[0]) and math.isfinite(x[1]):
        return x[2]
    with np.errstate(all="ignore"):
        return native(op, *x)


def native(op, *x):
    a, b, c = (np.float64(v) for v in (*x, 1, 1)[:3])
    results = {
        "add": lambda: a + b, "sub": lambda: a - b, "mul": lambda: a * b, "div": lambda: a / b,
        "fma": lambda: a * b + c, "sqrt": lambda: np.sqrt(a), "rcp": lambda: 1 / a,
    }  # fmt: skip
    return float(results[op]())


def operands(kind, count):
    values = floats(kind)
    rng = np.random.default_rng(0)
    if count == 1:
        return [(v,) for v in values]
    if count == 2:
        return list(itertools.product(values, repeat=2))
    rows = [tuple(r) for r in rng.choice(np.array(values, dtype=np.uint64), (1500, 3)).tolist()]
    near = []  # sums that nearly cancel
    for a, b, _ in rows:
        c = rounded(kind, -decode(kind, a) * decode(kind, b))
        near += [(a, b, encode(kind, c))] if math.isfinite(c) else []
    return rows + near


ALL = list(itertools.product(EXACT, ["rn", "rz", "rm", "rp"], ["f32", "f64"]))
SHORT = list(itertools.product(["add", "sub", "mul", "fma"], ["rn"], ["f16", "bf16"]))


@pytest.mark.parametrize(("op", "mode", "kind"), ALL + SHORT)
def test_float_arithmetic(op, mode, kind):
    count = EXACT[op].__code__.co_argcount
    rows, names = operands(kind, count), "abc"[:count]
    text = f"{op}.{mode}.{kind} %d, " + ", ".join(f"%{n}" for n in names)
    got = ptx(text, " ".join(f"{n}:{kind}" for n in names), f"d:{kind}", rows)
    for row, result in zip(rows, got, strict=True):
        x = [decode(kind, v) for v in row]
        want = reference(op, kind, mode, *x)
        tiny = kind == "f64" and mode != "rn" and min(abs(want), abs(x[0]), abs(math.prod(x[:2]))) < 1e-290
        assert tiny or same(kind, result, want), (op, mode, kind, x, decode(kind, result), want)


def test_packed_arithmetic():
    for kind in ("f16", "bf16"):
        rows = [(a | b << 16, b | a << 16) for a, b in operands(kind, 2)]
        for (a, b), got in zip(rows, ptx(f"add.{kind}x2 %d, %a, %b", "a:b32 b:b32", "d:b32", rows), strict=True):
            for at in (0, 16):
                x, y = (decode(kind, v >> at & 0xFFFF) for v in (a, b))
                assert same(kind, got >> at & 0xFFFF, reference("add", kind, "rn", x, y))
    one, two = encode("f32", 1.0), encode("f32", 2.0)
    text = "mov.b64 %x, {%a, %b}; fma.rn.f32x2 %d, %x, %x, %x"
    assert ptx(text, "a:f32 b:f32", "d:b64", [(one, two)], x="b64") == [encode("f32", 2.0) | encode("f32", 6.0) << 32]
    assert ptx("add.u16x2 %d, %a, %b", "a:b32 b:b32", "d:b32", [(0xFFFF0001, 0x00020003)]) == [0x00010004]
    assert ptx("max.s16x2 %d, %a, %b", "a:b32 b:b32", "d:b32", [(0xFFFF0001, 0x00020003)]) == [0x00020003]


@pytest.mark.parametrize("kind", ["f32", "f64", "f16", "bf16"])
def test_extremes_and_signs(kind):
    rows, io = operands(kind, 2), (f"a:{kind} b:{kind}", f"d:{kind}")

    def order(x):
        return x, math.copysign(1, x)

    for op, f in (("min", min), ("max", max)):
        plain, loud = (ptx(f"{op}{m}.{kind} %d, %a, %b", *io, rows) for m in ("", ".NaN"))
        signs = ptx(f"{op}.xorsign.abs.{kind} %d, %a, %b", *io, rows)
        for row, a, b, c in zip(rows, plain, loud, signs, strict=True):
            x, y = (decode(kind, v) for v in row)
            numbers = [v for v in (x, y) if not math.isnan(v)]
            want = f(numbers, key=order) if numbers else math.nan
            assert same(kind, a, want) and same(kind, b, want if len(numbers) == 2 else math.nan), (op, x, y)
            sign = math.copysign(1, x) * math.copysign(1, y)
            assert same(kind, c, math.copysign(f(map(abs, numbers)), sign) if numbers else math.nan)
    for op, f in (("abs", abs), ("neg", lambda x: -x)):
        for row, got in zip(rows, ptx(f"{op}.{kind} %d, %a", *io, rows), strict=True):
            assert same(kind, got, f(decode(kind, row[0])))


def test_modifiers():
    tiny, half = encode("f32", 1e-41), encode("f32", 0.5)
    rows = [(tiny, half), (1 << 31 | tiny, half), (half, encode("f32", 1e-38)), (half, half)]
    one = encode("f32", 1)
    assert ptx("add.ftz.f32 %d, %a, %a", "a:f32 b:f32", "d:f32", rows) == [0, 1 << 31, one, one]
    assert ptx("mul.ftz.f32 %d, %a, %b", "a:f32 b:f32", "d:f32", rows)[2] == 0
    values = [(encode("f32", x),) for x in (-1.0, -0.0, 0.25, 1.5, math.inf, math.nan)]
    got = ptx("mul.sat.f32 %d, %a, 0f3F800000", "a:f32", "d:f32", values)
    assert [decode("f32", x) for x in got] == [0, 0, 0.25, 1, 1, 0] and got[1] == got[0] == 0
    values = [(encode("f16", x), encode("f16", 1.0)) for x in (-2.0, 0.25, math.nan)]
    got = [decode("f16", x) for x in ptx("fma.rn.relu.f16 %d, %a, %b, %a", "a:f16 b:f16", "d:f16", values)]
    assert got[:2] == [0, 0.5] and math.isnan(got[2])


APPROXIMATE = {
    "rcp": lambda x: 1 / x, "sqrt": math.sqrt, "rsqrt": lambda x: 1 / math.sqrt(x), "sin": math.sin, "cos": math.cos,
    "ex2": lambda x: 2**x, "lg2": math.log2, "tanh": math.tanh,
}  # fmt: skip


@pytest.mark.parametrize(("op", "f"), APPROXIMATE.items())
def test_approximations(op, f):
    numbers = [0.01, 0.5, 1.0, 2.0, 3.7, 100.0]
    for mods in ("approx", "approx.ftz"):
        got = ptx(f"{op}.{mods}.f32 %d, %a", "a:f32", "d:f32", [(encode("f32", x),) for x in numbers])
        for x, result in zip(numbers, got, strict=True):
            assert same("f32", result, f(decode("f32", encode("f32", x))), ulp=1), (op, x)
    rows = [(encode("f32", x),) for x in (0.0, -0.0, math.inf, math.nan)]
    special = ptx(f"{op}.approx.f32 %d, %a", "a:f32", "d:f32", rows)
    table = {
        "rcp": (math.inf, -math.inf, 0.0), "sqrt": (0.0, -0.0, math.inf), "rsqrt": (math.inf, -math.inf, 0.0),
        "sin": (0.0, -0.0, math.nan), "cos": (1.0, 1.0, math.nan), "ex2": (1.0, 1.0, math.inf),
        "lg2": (-math.inf, -math.inf, math.inf), "tanh": (0.0, -0.0, 1.0),
    }  # fmt: skip
    for got, want in zip(special, (*table[op], math.nan), strict=True):
        assert same("f32", got, want)


def test_approximations_of_other_types():
    (got,) = ptx("ex2.approx.f16x2 %d, %a", "a:b32", "d:b32", [(encode("f16", 3.0) | encode("f16", -1.0) << 16,)])
    assert (got & 0xFFFF, got >> 16) == (encode("f16", 8.0), encode("f16", 0.5))
    (got,) = ptx("tanh.approx.bf16 %d, %a", "a:bf16", "d:bf16", [(encode("bf16", 1.0),)])
    assert decode("bf16", got) == rounded("bf16", math.tanh(1.0))
    for op, want in (("rcp", 0.25), ("rsqrt", 0.5)):
        assert ptx(f"{op}.approx.ftz.f64 %d, %a", "a:f64", "d:f64", [(encode("f64", 4.0),)]) == [encode("f64", want)]
    for text in ("div.approx.f32", "div.full.f32", "div.full.ftz.f32"):
        row = encode("f32", 1.0), encode("f32", 8.0)
        assert ptx(f"{text} %d, %a, %b", "a:f32 b:f32", "d:f32", [row]) == [encode("f32", 0.125)]


@pytest.mark.parametrize("kind", ["f32", "f64", "f16", "bf16"])
def test_float_comparisons(kind):
    rows, io = operands(kind, 2), f"a:{kind} b:{kind}"
    values = [tuple(decode(kind, v) for v in row) for row in rows]
    for name, f in CONDITIONS.items():
        plain = ptx(f"setp.{name}.{kind} %d, %a, %b", io, "d:pred", rows)
        unordered = ptx(f"setp.{name}u.{kind} %d, %a, %b", io, "d:pred", rows)
        for (x, y), a, b in zip(values, plain, unordered, strict=True):
            nan = math.isnan(x) or math.isnan(y)
            assert a == (f(x, y) and not nan) and b == (f(x, y) or nan), (name, x, y)
    for name, wanted in (("num", False), ("nan", True)):
        for (x, y), got in zip(values, ptx(f"setp.{name}.{kind} %d, %a, %b", io, "d:pred", rows), strict=True):
            assert got == ((math.isnan(x) or math.isnan(y)) == wanted)
    true = {"f16": 0x3C00, "bf16": 0x3F80}.get(kind, encode("f32", 1.0))
    to = kind if kind in ("f16", "bf16") else "f32"
    for (x, y), got in zip(values, ptx(f"set.lt.{to}.{kind} %d, %a, %b", io, f"d:{to}", rows), strict=True):
        assert got == true * (x < y)


def test_packed_comparison_and_properties():
    row = (encode("f16", 1.0) | encode("f16", 5.0) << 16, encode("f16", 2.0) | encode("f16", 3.0) << 16)
    assert ptx("setp.lt.f16x2 %d|%e, %a, %b", "a:b32 b:b32", "d:pred e:pred", [row]) == [(1, 0)]
    assert ptx("set.lt.f16x2.f16x2 %d, %a, %b", "a:b32 b:b32", "d:b32", [row]) == [0x3C00]
    tests = {
        "finite": math.isfinite, "infinite": math.isinf, "notanumber": math.isnan,
        "number": lambda x: not math.isnan(x),
        "normal": lambda x: math.isfinite(x) and abs(x) >= 2.0**-126, "subnormal": lambda x: 0 < abs(x) < 2.0**-126,
    }  # fmt: skip
    for name, f in tests.items():
        rows = operands("f32", 1)
        for (x,), got in zip(rows, ptx(f"testp.{name}.f32 %d, %a", "a:f32", "d:pred", rows), strict=True):
            assert got == f(decode("f32", x)), (name, decode("f32", x))


# Conversions.

INTEGER_KINDS = ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"]


@pytest.mark.parametrize("source", INTEGER_KINDS)
def test_conversions_of_integers(source):
    rows = [(x,) for x in integers(source)]
    for to in INTEGER_KINDS:
        check(f"cvt.{to}.{source} %d, %a", f"a:{source}", f"d:{to}", rows, lambda x: x)
        clamped = partial(clamp, bits=BITS[to], sign=to[0] == "s")
        check(f"cvt.sat.{to}.{source} %d, %a", f"a:{source}", f"d:{to}", rows, clamped)
    for to in ("f32", "f64", "f16", "bf16"):
        for mode in ("rn", "rz", "rm", "rp"):
            results = ptx(f"cvt.{mode}.{to}.{source} %d, %a", f"a:{source}", f"d:{to}", rows)
            for (x,), got in zip(rows, results, strict=True):
                assert same(to, got, rounded(to, Fraction(as_integer(source, x)), mode)), (to, source, mode, x)


@pytest.mark.parametrize("source", ["f32", "f64", "f16", "bf16"])
def test_conversions_of_floats_to_integers(source):
    rows = operands(source, 1)
    modes = {"rni": round, "rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil}
    for to in INTEGER_KINDS:
        for mode, f in modes.items():
            for (x,), got in zip(
                rows, ptx(f"cvt.{mode}.{to}.{source} %d, %a", f"a:{source}", f"d:{to}", rows), strict=True
            ):
                number, bits = decode(source, x), BITS[to]
                if math.isnan(number):
                    want = 1 << (bits - 1) if "64" in to + source else 0
                else:
                    whole = f(number) if math.isfinite(number) else math.copysign(1 << 80, number)
                    want = clamp(whole, bits, to[0] == "s")
                assert got == int(want) & (1 << bits) - 1, (to, source, mode, number)
    for mode, f in modes.items():
        results = ptx(f"cvt.{mode}.{source}.{source} %d, %a", f"a:{source}", f"d:{source}", rows)
        for (x,), got in zip(rows, results, strict=True):
            number = decode(source, x)
            want = math.copysign(f(number), number) if math.isfinite(number) else number
            assert same(source, got, want), (mode, number)


@pytest.mark.parametrize("source", ["f32", "f64", "f16", "bf16"])
@pytest.mark.parametrize("to", ["f32", "f64", "f16", "bf16", "tf32"])
def test_conversions_between_floats(to, source):
    exact = FORMATS[to][0] >= FORMATS[source][0] and FORMATS[to][1] >= FORMATS[source][1]
    rng = np.random.default_rng(1)
    rows = operands(source, 1) + [(x,) for x in rng.integers(0, 1 << BITS[source] - 1, 500, dtype=np.uint64).tolist()]
    if source == "f32":  # ties and their neighbours in every format
        high = (0x38000, 0x38001, 0x38003, 0x33000, 0x33001, 0x47FFF)
        rows += [(x << 12 | low,) for x in high for low in (0, 1, 0xFFF)]
    modes = ["rn"] if exact else ["rn", "rz", "rm", "rp", *(["rna"] if to == "tf32" else [])]
    for mode in modes:
        mods = "" if exact else f".{mode}"
        results = ptx(f"cvt{mods}.{to}.{source} %d, %a", f"a:{source}", f"d:{to}", rows)
        for (x,), got in zip(rows, results, strict=True):
            number = decode(source, x)
            want = rounded(to, number, mode)
            assert same(to, got, want), (to, source, mode, number, decode(to, got), want)


def test_packed_conversions():
    a, b = 1.5, -70000.0
    row = (encode("f32", a), encode("f32", b))
    for kind, want in (("f16", -math.inf), ("bf16", rounded("bf16", b))):
        (got,) = ptx(f"cvt.rn.{kind}x2.f32 %d, %a, %b", "a:f32 b:f32", "d:b32", [row])
        assert got == encode(kind, a) << 16 | encode(kind, want)
        (got,) = ptx(f"cvt.rn.relu.{kind}x2.f32 %d, %a, %b", "a:f32 b:f32", "d:b32", [row])
        assert got == encode(kind, a) << 16
    io, rows = ("a:s32 b:s32 c:b32", "d:u32"), [(300, 5, 0x1234ABCD), (-1 & 0xFFFFFFFF, 255, 7)]
    packed = [0xABCDFF05, 0x000700FF]
    assert ptx("cvt.pack.sat.u8.s32.b32 %d, %a, %b, %c", *io, rows) == packed
    rows = [(40000, 5, 0), (1, -40000 & 0xFFFFFFFF, 0)]
    assert ptx("cvt.pack.sat.s16.s32 %d, %a, %b", *io, rows) == [0x7FFF0005, 0x00018000]


def test_eight_bit_floats():
    """All numbers of each format come back, and what lies between rounds to even; e4m3 has no infinity."""
    for kind, most in (("e4m3", 448.0), ("e5m2", 57344.0)):
        rows = [(x | x << 8,) for x in range(256)]
        wide = ptx(f"cvt.rn.f16x2.{kind}x2 %d, %a", "a:b16", "d:b32", rows)
        for (x,), got in zip(rows, wide, strict=True):
            assert same("f16", got & 0xFFFF, decode(kind, x & 255)) and got >> 16 == got & 0xFFFF
        back = ptx(f"cvt.rn.satfinite.{kind}x2.f16x2 %d, %a", "a:b32", "d:b16", [(w,) for w in wide])
        for (x,), got in zip(rows, back, strict=True):
            number = decode(kind, x & 255)
            assert same(kind, got & 255, math.copysign(min(abs(number), most), number) if number == number else number)
        values = [(encode("f32", 1.0625), encode("f32", -1e9))]
        (got,) = ptx(f"cvt.rn.satfinite.{kind}x2.f32 %d, %a, %b", "a:f32 b:f32", "d:b16", values)
        assert (decode(kind, got >> 8), decode(kind, got & 255)) == (1.0, -most)


@pytest.mark.skipif(not llvm.get_process_triple().startswith("x86_64"), reason="a CPU of another kind")
def test_a_cpu_without_instructions_for_half_precision():
    """The oldest x86-64 has neither conversions to float16, nor rounding to integers, nor fused multiply-add."""
    rows, io = operands("f16", 3), ("a:f16 b:f16 c:f16", "d:f16")
    text = "fma.rn.f16 %d, %a, %b, %c; cvt.rni.f16.f16 %d, %d"
    assert ptx(text, *io, rows, cpu="x86-64") == ptx(text, *io, rows)
    text = "cvt.f64.f16 %x, %a; cvt.rn.f16.f64 %d, %x; fma.rz.f32 %y, %y, %y, %y; cvt.rpi.u64.f32 %x, %y"
    ptx(text, *io, rows[:1], cpu="x86-64", x="f64", y="f32")


# Functions of libdevice.


def libdevice(name, *rows):
    """Results of a function, and what it stores, on rows of numbers; floats and integers by its types."""
    function = FUNCTIONS[f"__nv_{name}"]
    given = function.arguments[: len(function.arguments) - len(function.stores)]
    results = [*([function.result] if function.result else []), *function.stores]
    t = Straight({**{f"%a{n}": k for n, k in enumerate(given)}, **{f"%d{n}": k for n, k in enumerate(results)}})
    kinds = [f"b{BITS[k]}" for k in given]
    arguments = [(k, t.value(f"%a{n}", k)) for n, k in enumerate(kinds)]
    pointers = [("b64", str(n)) for n in range(len(function.stores))]
    first = len(results) - len(function.stores)
    value = call_function(
        t, f"__nv_{name}", arguments + pointers, f"b{BITS[function.result]}" if function.result else "",
        lambda address, kind, value: t.set(f"%d{first + int(address)}", kind, value),
    )  # fmt: skip
    if function.result:
        t.set("%d0", f"b{BITS[function.result]}", value)
    patterns = [[encode(k, v) if k in FORMATS else v for k, v in zip(given, row, strict=True)] for row in rows]
    raw = execute(t, [f"%a{n}" for n in range(len(given))], [f"%d{n}" for n in range(len(results))], patterns)
    raw = [(r,) if isinstance(r, int) else r for r in raw]
    read = [lambda v, k=k: decode(k, v) if k in FORMATS else as_integer(k, v) for k in results]
    return [tuple(f(v) for f, v in zip(read, row, strict=True)) for row in raw]


SAME_NAMES = (
    "acosh asinh atan ceil cos cosh erf erfc exp expm1 floor lgamma log log10 log1p log2 sin sinh sqrt tan tanh trunc"
)
MATHS = {
    **{name: getattr(math, name) for name in SAME_NAMES.split()},
    "tgamma": math.gamma, "exp2": lambda x: 2.0**x, "exp10": lambda x: 10.0**x, "cbrt": lambda x: x ** (1 / 3),
    "rsqrt": lambda x: x**-0.5, "rcbrt": lambda x: x ** (-1 / 3), "sinpi": lambda x: math.sin(math.pi * x),
    "cospi": lambda x: math.cos(math.pi * x), "normcdf": lambda x: 0.5 * math.erfc(-x / 2**0.5),
    "logb": lambda x: float(math.frexp(x)[1] - 1), "fabs": abs,
    "rint": round, "nearbyint": round, "round": lambda x: math.floor(x + 0.5),
}  # fmt: skip


@pytest.mark.parametrize("name", MATHS)
def test_functions_of_one_number(name):
    numbers = [1.25, 1.5, 2.0, 3.7]
    for suffix, ulp in (("", 2.0**-45), ("f", 2.0**-22)):
        for x, (got,) in zip(numbers, libdevice(name + suffix, *((x,) for x in numbers)), strict=True):
            x = x if not suffix else decode("f32", encode("f32", x))
            assert got == pytest.approx(MATHS[name](x), rel=ulp, abs=ulp), x


def test_functions_of_two_numbers():
    rows = [(7.5, -2.0), (-7.5, 2.0), (0.3, 4.0), (5.0, 3.0)]
    cases = {
        "atan2": math.atan2, "fmod": math.fmod, "hypot": math.hypot, "remainder": math.remainder,
        "copysign": math.copysign, "fmax": max, "fmin": min, "fdim": lambda x, y: max(x - y, 0.0),
    }  # fmt: skip
    for name, f in cases.items():
        for suffix in ("", "f"):
            for row, (got,) in zip(rows, libdevice(name + suffix, *rows), strict=True):
                assert got == pytest.approx(f(*row), rel=1e-6), name
    assert libdevice("pow", (2.0, 0.5), (-2.0, 3.0)) == [(2**0.5,), (-8.0,)]
    assert libdevice("fast_powf", (2.0, 3.0)) == [(8.0,)]
    assert libdevice("powif", (2.0, 3), (2.0, -2)) == [(8.0,), (0.25,)]
    assert libdevice("nextafterf", (1.0, 2.0)) == [(1 + 2.0**-23,)]
    assert libdevice("nextafter", (1.0, 2.0)) == [(1 + 2.0**-52,)]
    assert libdevice("ldexpf", (1.5, 4)) == libdevice("scalbn", (1.5, 4)) == [(24.0,)]
    assert libdevice("fmaf", (2.0, 3.0, 4.0)) == [(10.0,)]


def test_functions_that_store_results():
    assert libdevice("modff", (-2.5,), (-math.inf,)) == [(-0.5, -2.0), (-0.0, -math.inf)]
    assert libdevice("frexp", (6.0,), (0.0,), (5e-324,), (math.inf,), (-1.7e308,)) == [
        math.frexp(6.0), (0.0, 0), math.frexp(5e-324), (math.inf, 0), math.frexp(-1.7e308),
    ]  # fmt: skip
    assert libdevice("frexpf", (0.75,)) == [(0.75, 0)]
    assert libdevice("sincos", (1.0,)) == [(math.sin(1.0), math.cos(1.0))]
    assert libdevice("sincospi", (0.5,), (-1.0,), (7.25,))[:2] == [(1.0, 0.0), (0.0, -1.0)]
    assert libdevice("remquo", (17.0, 5.0), (-17.0, 5.0)) == [(2.0, 3), (-2.0, -3)]


def test_functions_of_integers_and_bits():
    cases = {
        "abs": ((-5,), 5), "llabs": ((-(1 << 40),), 1 << 40), "min": ((-1, 1), -1), "umin": ((-1 & 0xFFFFFFFF, 1), 1),
        "llmax": ((-1, 1), 1), "ullmax": ((2, 1), 2), "mulhi": ((-1, 5), -1), "umulhi": ((1 << 31, 4), 2),
        "mul64hi": ((-1, 5), -1), "umul64hi": ((1 << 63, 4), 2), "mul24": ((-3, 5), -15), "umul24": ((3, 5), 15),
        "sad": ((-3, 5, 1), 9), "usad": ((3, 5, 1), 3), "hadd": ((-3, 0), -2), "rhadd": ((-3, 0), -1),
        "uhadd": ((0xFFFFFFFF, 0xFFFFFFFF), 0xFFFFFFFF), "urhadd": ((1, 2), 2), "brev": ((1,), 1 << 31),
        "brevll": ((1,), 1 << 63), "clz": ((1,), 31), "clzll": ((1,), 63), "popc": ((7,), 3), "popcll": ((1 << 63,), 1),
        "ffs": ((8,), 4), "ffsll": ((0,), 0), "byte_perm": ((0x03020100, 0x07060504, 0x7531), 0x07050301),
        "float_as_int": ((1.0,), 0x3F800000), "double2hiint": ((1.0,), 0x3FF00000), "double2loint": ((1.0,), 0),
        "isnanf": ((math.nan,), 1), "isinfd": ((-math.inf,), 1), "finitef": ((math.inf,), 0), "isfinited": ((1.0,), 1),
        "signbitf": ((-0.0,), 1), "ilogb": ((10.0,), 3), "llrint": ((2.5,), 2), "llroundf": ((2.5,), 3),
        "float2int_rz": ((-2.7,), -2), "double2uint_ru": ((2.2,), 3), "float2half_rn": ((1.0,), 0x3C00),
    }  # fmt: skip
    for name, (row, want) in cases.items():
        assert libdevice(name, row) == [(want,)], name
    cases = {
        "int_as_float": ((0x3F800000,), 1.0), "hiloint2double": ((0x3FF00000, 0), 1.0), "half2float": ((0x3C00,), 1.0),
        "ll2float_rz": (((1 << 62) + 1,), 2.0**62), "saturatef": ((1.5,), 1.0), "frsqrt_rn": ((4.0,), 0.5),
        "fadd_ru": ((1.0, 1e-9), 1 + 2.0**-23), "ddiv_rz": ((2.0, 3.0), 2 / 3), "frcp_rn": ((4.0,), 0.25),
        "fmaf_rd": ((1.0, 1.0, -1e-9), 1 - 2.0**-24), "fast_fdividef": ((1.0, 4.0), 0.25),
    }  # fmt: skip
    for name, (row, want) in cases.items():
        assert libdevice(name, row) == [(want,)], name


@pytest.mark.parametrize("part", range(8))
def test_every_function_has_machine_code(part):
    """Their IR is right, and their C functions are found in this process."""
    for name in list(FUNCTIONS)[part::8]:
        function = FUNCTIONS[name]
        count = len(function.arguments) - len(function.stores)
        row = tuple(1.0 if k in FORMATS else 1 for k in function.arguments[:count])
        assert len(libdevice(name.removeprefix("__nv_"), row)) == 1


def test_functions_that_are_not_known_are_named():
    with pytest.raises(PTXError, match="__nv_erfinv"):
        call_function(Straight({}), "__nv_erfinv", [("b64", "0")], "b64")
