"""Small kernels, one for each feature of Numba for CUDA, with arguments and words that their PTX must hold."""

from __future__ import annotations

import cmath
import enum
import math
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
from numba import cuda, float32, from_dtype, int32

F4, F8, I4, U4, I8, U8 = (np.zeros(64, kind) for kind in ("f4", "f8", "i4", "u4", "i8", "u8"))
TABLE = np.arange(8, dtype=np.float32)
CASES: dict[str, tuple] = {}  # name: kernel, arguments, opcodes of which each must be in the PTX


def case(*arguments, holds=(), name=""):
    """Put a kernel into the table."""

    def put(function):
        CASES[name or function.__name__] = cuda.jit(function), arguments, (holds,) if isinstance(holds, str) else holds
        return function

    return put


@cuda.jit(device=True, inline="always")
def inlined_by_numba(v):
    return v * v


@cuda.jit(device=True, forceinline=True)
def inlined_by_force(v):
    return v + v * v


@cuda.jit(device=True)
def called(v):
    return v - 1


@cuda.jit(device=True, lineinfo=True)
def with_lines(v):
    return called(v) * 2


@cuda.jit(device=True)
def of_any_number(*values):
    return values[0] + values[1]


class Pair(NamedTuple):
    first: object
    second: object


class Colour(enum.IntEnum):
    RED = 3


RECORD = np.dtype([("a", "f4"), ("b", "i8")], align=True)


@case(F4, holds=("bar.sync", "ld.shared", "st.global"))
def barrier(out):
    tile = cuda.shared.array(64, float32)
    i = cuda.threadIdx.x
    tile[i] = out[i]
    cuda.syncthreads()
    out[i] = tile[63 - i]


@case(I4, holds=("popc", "and", "or"))
def counting_barriers(out):
    i = cuda.threadIdx.x
    out[i] = cuda.syncthreads_count(i) + cuda.syncthreads_and(out[i]) + cuda.syncthreads_or(out[i])


@case(I4, holds=("membar.gl", "membar.cta", "membar.sys", "bar.warp.sync"))
def fences(out):
    out[0] = 1
    cuda.threadfence()
    out[1] = 1
    cuda.threadfence_block()
    out[2] = 1
    cuda.threadfence_system()
    out[3] = 1
    cuda.syncwarp()
    cuda.syncwarp(0xFF)


@case(I4, I8, F4, F8, holds=("shfl.sync.idx", "shfl.sync.up", "shfl.sync.down", "shfl.sync.bfly"))
def shuffles(i4, i8, f4, f8):
    i = cuda.laneid
    i4[i] = cuda.shfl_sync(-1, i4[i], 3)
    i8[i] = cuda.shfl_up_sync(-1, i8[i], 1)
    f4[i] = cuda.shfl_down_sync(-1, f4[i], 2)
    f8[i] = cuda.shfl_xor_sync(-1, f8[i], i4[i])


@case(I4, holds=("vote.sync.all", "vote.sync.any", "vote.sync.uni", "vote.sync.ballot"))
def votes(out):
    i = cuda.laneid
    p = out[i] > 2
    out[i] = cuda.all_sync(-1, p) + cuda.any_sync(-1, p) + cuda.eq_sync(-1, p) + cuda.ballot_sync(-1, p)


@case(I4, I8, F4, F8, holds=("match.any.sync", "match.all.sync"))
def matches(i4, i8, f4, f8):
    i = cuda.laneid
    a, b = cuda.match_all_sync(-1, i8[i])
    c, d = cuda.match_all_sync(-1, f4[i])
    i4[i] = cuda.match_any_sync(-1, i4[i]) + cuda.match_any_sync(-1, f8[i]) + a + b + c + d


@case(I4, holds=("activemask", "%lanemask_lt", "%laneid"))
def lanes(out):
    out[cuda.laneid] = cuda.activemask() + cuda.lanemask_lt() + cuda.warpsize


def atomics(kind):
    def kernel(out, n):
        tile = cuda.shared.array(8, kind)
        i = cuda.grid(1)
        tile[i] = n
        cuda.syncthreads()
        for a in (out, tile):
            cuda.atomic.add(a, 0, n)
            cuda.atomic.sub(a, 1, n)
            cuda.atomic.min(a, 2, n)
            cuda.atomic.max(a, 3, n)
            cuda.atomic.nanmin(a, 4, n)
            cuda.atomic.nanmax(a, 5, n)
        out[i] += tile[i]

    return kernel


def integer_atomics(kind):
    def kernel(out, n):
        tile = cuda.shared.array(8, kind)
        i = cuda.grid(1)
        tile[i] = n
        cuda.syncthreads()
        for a in (out, tile):
            out[i] = cuda.atomic.cas(a, 7, n, n) + cuda.atomic.exch(a, 6, n)
            cuda.atomic.and_(a, 2, n)
            cuda.atomic.or_(a, 3, n)
            cuda.atomic.xor(a, 4, n)
        out[i] += tile[i]

    return kernel


def wrapping_atomics(kind):
    def kernel(out, n):
        tile = cuda.shared.array(8, kind)
        i = cuda.grid(1)
        tile[i] = n
        cuda.syncthreads()
        for a in (out, tile):
            cuda.atomic.inc(a, 0, n)
            cuda.atomic.dec(a, 1, n)
        out[i] += tile[i]

    return kernel


for array in (I4, U4, I8, U8, F4, F8):
    n, element = array.dtype.type(3), from_dtype(array.dtype)
    case(array, n, name=f"atomics {element}", holds="atom")(atomics(element))
    if array.dtype.kind != "f":
        holds = ("exch", "cas", "and.b", "or.b", "xor.b")
        case(array, n, name=f"atomics of integers {element}", holds=holds)(integer_atomics(element))
    if array.dtype.kind == "u":
        case(array, n, name=f"wrapping atomics {element}", holds="atom")(wrapping_atomics(element))


@case(I4, U4, I8, U8, F4, F8, holds=("popc.b32", "popc.b64", "brev", "fma.rn.f32", "fma.rn.f64", "selp"))
def bits(i4, u4, i8, u8, f4, f8):
    i = cuda.grid(1)
    i4[i] = cuda.popc(i4[i]) + cuda.popc(u8[i]) + cuda.clz(i4[i]) + cuda.clz(i8[i]) + cuda.ffs(i4[i]) + cuda.ffs(i8[i])
    u4[i], u8[i] = cuda.brev(u4[i]), cuda.brev(u8[i])
    f4[i] = cuda.fma(f4[i], f4[i + 1], f4[i + 2]) + cuda.cbrt(f4[i])
    f8[i] = cuda.fma(f8[i], f8[i + 1], f8[i + 2]) + cuda.cbrt(f8[i])
    i8[i] = cuda.selp(i4[i] > 2, i8[i], i8[i + 1])


@case(F4, holds="ld.const")
def constants(out):
    table = cuda.const.array_like(TABLE)
    out[cuda.grid(1)] = table[cuda.threadIdx.x]


@case(F4, 3, holds=("st.local", "ld.local"))
def local_arrays(out, n):
    mine = cuda.local.array(16, float32)
    for k in range(n):
        mine[k] = out[k]
    for k in range(n):
        out[k] = mine[(k * n) & 15]


@case(F4, holds=".extern .shared")
def dynamic_shared(out):
    tile = cuda.shared.array(0, float32)
    more = cuda.shared.array(0, int32)
    tile[cuda.threadIdx.x] = out[0]
    cuda.syncthreads()
    out[cuda.threadIdx.x] = tile[1] + more[2]


@case(F4, holds="nanosleep")
def sleeping(out):
    cuda.nanosleep(32)
    out[0] = 1


@case(I4, holds=("%ctaid.z", "%ntid.y", "%nctaid.x"))
def positions(out):
    x, y, z = cuda.grid(3)
    u, v = cuda.grid(2)
    a, b, c = cuda.gridsize(3)
    out[0] = x + y + z + u + v + a + b + c + cuda.gridsize(1) + cuda.gridDim.x + cuda.blockDim.z


@case(np.zeros(8, np.float16), np.float16(2), holds=("add", "f16"))
def halves(out, n):
    i = cuda.grid(1)
    out[i] = out[i] * n + out[i + 1] - n
    if out[i] > n:
        out[i] = abs(out[i])


@case(np.zeros(8, np.float16), holds="f16")
def half_functions(out):
    a = out[0]
    out[1] = cuda.fp16.hfma(a, a, a) + cuda.fp16.hmax(a, a) + cuda.fp16.hneg(a)
    out[2] = cuda.fp16.hsqrt(a) + cuda.fp16.hexp(a) + cuda.fp16.hfloor(a) + cuda.fp16.hdiv(a, a) + cuda.fp16.hsin(a)


@case(np.zeros(8, np.complex64), np.zeros(8, np.complex128), 2 + 1j, holds="mul")
def complex_numbers(c8, c16, z):
    i = cuda.grid(1)
    c8[i] = c8[i] * c8[i + 1] + abs(c8[i])
    c16[i] = c16[i] / z + c8[i].conjugate() + cmath.exp(z) + cmath.sqrt(z)


@case(I4, F8, holds="vprintf")
def printing(a, b):
    print("values", a[0], b[1])


@case(F4, holds='.pragma "raise AssertionError: too large"')
def asserting(out):
    assert out[0] < 3, "too large"
    out[0] = 1


@case(F4, 3, holds='.pragma "raise ValueError: bad"')
def raising(out, n):
    if n > 2:
        raise ValueError("bad")
    out[0] = n


@case((F4, (F8, 3)), Pair(I4, 2.0), holds="st.global")
def tuples(a, b):
    a[0][0] = a[1][0][0] + a[1][1]
    b.first[0] = b.second


@case(np.zeros(4, RECORD), np.zeros(1, RECORD)[0], holds="st.global")
def records(rows, row):
    rows[0].a = rows[1].b + row.a
    row.b = 3


@case(I4, Colour.RED, holds="st.global")
def enumerations(out, colour):
    out[0] = colour == Colour.RED


INTEGERS = [np.zeros(4, f"{sign}{width}") for sign in "iu" for width in (1, 2, 4, 8)]


for array in INTEGERS:

    def kernel(a):
        a[0] = a[1] // a[2] + a[1] % a[2] + (a[1] >> a[2]) + (a[1] << a[2]) - (a[1] ^ a[2])

    case(array, name=f"integers {array.dtype}", holds=("div.", "shl.", "xor."))(kernel)


@case(np.bool_(True), np.int8(1), np.uint8(1), np.int16(1), np.uint16(1), np.int32(1), np.uint32(1), 1, np.uint64(1),
      np.float16(1), np.float32(1), 1.0, np.complex64(1), 1j, True, F8, holds="st.global")  # fmt: skip
def scalars(a, b, c, d, e, f, g, h, i, j, k, m, n, o, p, out):
    out[0] = a + b + c + d + e + f + g + h + i + k + m + n.real + o.imag + p
    out[1] = float32(j)


@case(F4, holds=("st.local", "call"), name="function calls")
def calls(out):
    out[0] = inlined_by_numba(out[1]) + inlined_by_force(out[2]) + called(out[3]) + with_lines(out[4])


CASES["function calls"] = (*CASES["function calls"][:2], ("fma.rn.f32",))


@case(F4, holds="st.global")
def star_arguments(out):
    out[0] = of_any_number(out[1], out[2]) + max(out[3], out[4], out[5])


ONE = "acos acosh asin asinh atan atanh ceil cos cosh degrees erf erfc exp expm1 fabs floor gamma isfinite isinf isnan lgamma log log10 log1p log2 radians sin sinh sqrt tan tanh trunc frexp modf"  # noqa: E501
TWO = "atan2 copysign fmod hypot pow remainder" + (" nextafter" if find_spec("numba_cuda") else "")
for name in ONE.split() + TWO.split():
    first = name in ("frexp", "modf")
    body = f"math.{name}({{0}}[0]{', {0}[1]' if name in TWO.split() else ''}){'[0]' if first else ''}"
    space = {"math": math}
    exec(f"def kernel(a, b):\n    a[0] = {body.format('a')}\n    b[0] = {body.format('b')}\n", space)
    case(F4, F8, name=f"math.{name}", holds="st.global")(space["kernel"])


@case(F4, F8, holds="call", name="math of both precisions")
def both(a, b):
    a[0] = a[1] ** 2.5 + a[2] ** 2 + a[3] % 2 + a[4] // 3 + round(a[5]) + math.ldexp(a[6], 3)
    b[0] = b[1] ** 2.5 + b[2] ** 2 + b[3] % 2 + b[4] // 3 + round(b[5], 1) + math.ldexp(b[6], 3) + a[7] / a[8]


CASES["math of both precisions"] = (*CASES["math of both precisions"][:2], ("rem", "div.rn.f64")[1:])
