"""Instructions of PTX that need other threads or memory, in kernels written by hand, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from by_hand import each, run

LANES = np.arange(32)
BOTH = pytest.mark.parametrize("checked", [True, False], ids=["checked", "fast"])


def clean(body, *arrays, **options):
    result = run(body, *arrays, **options)
    assert result is None or not result.faults, str(result)
    return result


def at(register, array, number="%r0", size=4):
    """PTX that puts into a register the address of an element."""
    return f"mul.wide.u32 {register}, {number}, {size}; add.u64 {register}, {register}, %a{array};\n"


def random(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 2**32, shape, dtype=np.uint32)


# --- shuffles, votes, matches, reductions ----------------------------------------------------------
def shuffled(mode, value, b, c):
    """What PTX's description of shfl says, lane by lane: the values, and whether the source was in its segment."""
    clamp, segment = c & 31, c >> 8 & 31
    result, inside = value.copy(), np.zeros(32, bool)
    for lane in range(32):
        last, first = (lane & segment) | (clamp & ~segment & 31), lane & segment
        step = int(b[lane]) & 31
        j, inside[lane] = {
            "up": (lane - step, lane - step >= last), "down": (lane + step, lane + step <= last),
            "bfly": (lane ^ step, lane ^ step <= last), "idx": (first | (step & ~segment & 31), False),
        }[mode]  # fmt: skip
        if mode == "idx":
            inside[lane] = j <= last
        if inside[lane]:
            result[lane] = value[j]
    return result, inside


@BOTH
@pytest.mark.parametrize("width", [32, 16, 8, 4, 2, 1])
@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
def test_shuffles_in_segments(mode, width, checked):
    rng = np.random.default_rng(width)
    value, b = random(32), rng.integers(0, 32, 32).astype(np.uint32)
    if mode in ("up", "down", "bfly"):
        b[:] = rng.integers(0, width + 1)
    out, flags = np.zeros(32, np.uint32), np.zeros(32, np.uint32)
    c = (32 - width) << 8 | (0 if mode == "up" else 31)
    body = (
        at("%d0", 0)
        + at("%d1", 1)
        + at("%d2", 2)
        + at("%d3", 3)
        + f"""
    ld.global.u32 %r2, [%d2]; ld.global.u32 %r3, [%d3];
    shfl.sync.{mode}.b32 %r4|%p1, %r2, %r3, {c}, -1;
    selp.u32 %r5, 1, 0, %p1;
    st.global.u32 [%d0], %r4; st.global.u32 [%d1], %r5;"""
    )
    clean(body, out, flags, value, b, checked=checked)
    expected, inside = shuffled(mode, value, b, c)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(flags, inside)


def test_votes_and_matches():
    value = np.random.default_rng(3).integers(0, 5, 32).astype(np.uint32)
    out = np.zeros((32, 8), np.uint32)
    body = (
        at("%d0", 0, size=32)
        + at("%d1", 1)
        + """
    ld.global.u32 %r2, [%d1]; setp.gt.u32 %p1, %r2, 1;
    vote.sync.ballot.b32 %r3, %p1, -1; vote.sync.any.pred %p2, %p1, -1; vote.sync.all.pred %p3, %p1, -1;
    vote.sync.uni.pred %p4, %p1, -1; selp.u32 %r4, 1, 0, %p2; selp.u32 %r5, 1, 0, %p3; selp.u32 %r6, 1, 0, %p4;
    match.any.sync.b32 %r7, %r2, -1; match.all.sync.b32 %r8|%p5, %r2, -1; selp.u32 %r9, 1, 0, %p5;
    mov.u32 %r10, 7; match.all.sync.b32 %r11|%p6, %r10, -1;
    st.global.v4.u32 [%d0], {%r3, %r4, %r5, %r6}; st.global.v4.u32 [%d0+16], {%r7, %r8, %r9, %r11};"""
    )
    clean(body, out.reshape(-1), value)
    ballot = ((value > 1) << LANES).sum()
    np.testing.assert_array_equal(out[:, :4], [[ballot, 1, 0, 0]] * 32)
    np.testing.assert_array_equal(out[:, 4], [((value == v) << LANES).sum() for v in value])
    np.testing.assert_array_equal(out[:, 5:], [[0, 0, 2**32 - 1]] * 32)


@pytest.mark.parametrize(
    "kind", ["add.u32", "add.s32", "min.u32", "min.s32", "max.u32", "max.s32", "and.b32", "or.b32", "xor.b32"]
)
def test_redux(kind):
    value, out = random(32), np.zeros(32, np.uint32)
    clean(
        at("%d0", 0)
        + at("%d1", 1)
        + f"ld.global.u32 %r2, [%d1]; redux.sync.{kind} %r3, %r2, -1; st.global.u32 [%d0], %r3;",
        out,
        value,
    )
    name, t = kind.split(".")
    typed = value.view(np.int32) if t == "s32" else value
    function = {
        "add": np.add,
        "min": np.minimum,
        "max": np.maximum,
        "and": np.bitwise_and,
        "or": np.bitwise_or,
        "xor": np.bitwise_xor,
    }
    expected = np.array(function[name].reduce(typed, dtype=typed.dtype))
    np.testing.assert_array_equal(out, np.full(32, expected.view(np.uint32)))


def test_lane_masks():
    out = np.zeros((32, 8), np.uint32)
    names = ("eq", "lt", "le", "gt", "ge")
    body = at("%d0", 0, size=32) + "".join(
        f"mov.u32 %r{k}, %lanemask_{n}; st.global.u32 [%d0+{4 * k}], %r{k};" for k, n in enumerate(names, 2)
    )
    clean(
        body + "mov.u32 %r9, %laneid; st.global.u32 [%d0], %r9; mov.u32 %r9, %warpid; st.global.u32 [%d0+4], %r9;",
        out.reshape(-1),
    )
    tests = (np.equal, np.less, np.less_equal, np.greater, np.greater_equal)
    for k, test in enumerate(tests, 2):
        np.testing.assert_array_equal(out[:, k], [(test(LANES, lane) << LANES).sum() for lane in LANES])
    np.testing.assert_array_equal(out[:, 0], LANES)
    assert not out[:, 1].any()


def test_half_a_warp_at_a_time():
    """Two halves shuffle by masks of their own, in different branches."""
    out = np.zeros(32, np.uint32)
    body = (
        at("%d0", 0)
        + """
    setp.lt.u32 %p1, %r0, 16; @%p1 bra FIRST;
    shfl.sync.down.b32 %r2, %r0, 1, 0x1f, 0xffff0000; bra DONE;
    FIRST: shfl.sync.idx.b32 %r2, %r0, 3, 0x1f, 0xffff;
    DONE: bar.warp.sync -1; st.global.u32 [%d0], %r2;"""
    )
    clean(body, out)
    np.testing.assert_array_equal(out, [3] * 16 + [*range(17, 32), 31])


def test_active_lanes():
    out = np.zeros(32, np.uint32)
    body = at("%d0", 0) + "and.b32 %r3, %r0, 1; setp.eq.u32 %p1, %r3, 1; @%p1 bra DONE;"
    clean(body + "activemask.b32 %r2; st.global.u32 [%d0], %r2; DONE:", out)
    np.testing.assert_array_equal(out, np.where(LANES % 2, 0, 0x55555555))


# --- barriers that count ---------------------------------------------------------------------------
@BOTH
@pytest.mark.parametrize("order", ["forward", "reverse", 5])
def test_barriers_that_count(order, checked):
    value, out = np.random.default_rng(1).integers(0, 3, 70).astype(np.uint32), np.zeros((70, 4), np.uint32)
    body = (
        at("%d0", 0, size=16)
        + at("%d1", 1)
        + """
    ld.global.u32 %r2, [%d1]; setp.gt.u32 %p1, %r2, 0;
    bar.red.popc.u32 %r3, 0, %p1; bar.red.and.pred %p2, 0, %p1; bar.red.or.pred %p3, 0, !%p1;
    selp.u32 %r4, 1, 0, %p2; selp.u32 %r5, 1, 0, %p3; mov.u32 %r6, 9;
    st.global.v4.u32 [%d0], {%r3, %r4, %r5, %r6};"""
    )
    clean(body, out.reshape(-1), value, block=70, order=order, checked=checked)
    np.testing.assert_array_equal(out, [[(value > 0).sum(), (value > 0).all(), (value == 0).any(), 9]] * 70)


# --- atomics ---------------------------------------------------------------------------------------
def after(what, kind, start, values):
    """What is in memory after all threads have updated it, in any order."""
    dtype = {"u32": "u4", "s32": "i4", "b32": "u4", "u64": "u8", "s64": "i8", "b64": "u8", "f32": "f4", "f64": "f8"}[
        kind
    ]
    start, values = np.array(start).astype(dtype), values.astype(dtype)
    if what in ("inc", "dec"):
        for most in values:
            start = (
                (0 if start >= most else start + 1)
                if what == "inc"
                else (most if start == 0 or start > most else start - 1)
            )
        return np.array(start).astype(dtype)
    functions = {
        "add": np.add,
        "min": np.minimum,
        "max": np.maximum,
        "and": np.bitwise_and,
        "or": np.bitwise_or,
        "xor": np.bitwise_xor,
    }
    return np.array(functions[what].reduce(np.append(values, start), dtype=dtype))


ATOMICS = [
    *[("add", kind) for kind in ("u32", "s32", "u64", "f32", "f64")],
    *[(what, kind) for what in ("min", "max") for kind in ("u32", "s32", "u64", "s64")],
    *[(what, kind) for what in ("and", "or", "xor") for kind in ("b32", "b64")],
    ("inc", "u32"), ("dec", "u32"),
]  # fmt: skip


@BOTH
@pytest.mark.parametrize("space", ["global", "shared", "generic"])
@pytest.mark.parametrize(("what", "kind"), ATOMICS)
@pytest.mark.parametrize("op", ["atom", "red"])
def test_atomics(op, what, kind, space, checked):
    if op == "red" and space == "generic" and what in ("inc", "dec"):
        kind = "u32"
    bits = int(kind[1:])
    values = np.random.default_rng(2).integers(0, 100, 64)
    values = np.full(64, 9) if what in ("inc", "dec") else values
    total = np.array([5]).astype(after(what, kind, 5, values).dtype)
    register = {"b32": "%r3", "b64": "%d3", "f32": "%f3", "f64": "%g3"}[kind if kind[0] == "f" else f"b{bits}"]
    data = values.astype(total.dtype)
    result = f"{register[:-1]}5, " if op == "atom" else ""
    name = "" if space == "generic" else f".{space}"
    place = "mov.u64 %d4, tile;" if space == "shared" else "mov.u64 %d4, %a0;"
    before = (
        f"""setp.ne.u32 %p1, %r0, 0; @%p1 bra READY; ld.global.b{bits} {REST[bits]}, [%a0];
    st.shared.b{bits} [%d4], {REST[bits]};
    READY: bar.sync 0;"""
        if space == "shared"
        else ""
    )
    behind = (
        f"""bar.sync 0; @%p1 bra DONE; ld.shared.b{bits} {REST[bits]}, [%d4]; st.global.b{bits} [%a0], {REST[bits]};
    DONE:"""
        if space == "shared"
        else ""
    )
    body = (
        place
        + before
        + at("%d1", 1, size=bits // 8)
        + f"""
    ld.global.{kind} {register}, [%d1];
    {op}{name}.{what}.{kind} {result}[%d4], {register};
    {behind}"""
    )
    clean(body, total, data, block=64, shared=16, checked=checked)
    assert total[0] == after(what, kind, 5, values), body


REST = {32: "%r9", 64: "%d9"}


@BOTH
@pytest.mark.parametrize("bits", [32, 64])
def test_exchange_and_compare(bits, checked):
    dtype = f"u{bits // 8}"
    total, old = np.zeros(1, dtype), np.zeros(64, dtype)
    r = "r" if bits == 32 else "d"
    body = (
        at("%d0", 1, size=bits // 8)
        + f"""
    {"cvt.u64.u32 %d8, %r0" if bits == 64 else "mov.u32 %r8, %r0"}; add.u{bits} %{r}8, %{r}8, 1;
    atom.global.exch.b{bits} %{r}9, [%a0], %{r}8; st.global.b{bits} [%d0], %{r}9;"""
    )
    clean(body, total, old, block=64, checked=checked)
    assert sorted([*old, *total]) == list(range(65))
    total[:], old[:] = 0, 0
    body = body.replace(
        f"atom.global.exch.b{bits} %{r}9, [%a0], %{r}8;", f"atom.global.cas.b{bits} %{r}9, [%a0], 0, %{r}8;"
    )
    clean(body, total, old, block=64, checked=checked)
    assert total[0] != 0 and (old == total[0]).sum() == 63 and (old == 0).sum() == 1


# --- vectors, widths, calls, jumps -----------------------------------------------------------------
@BOTH
@pytest.mark.parametrize(
    ("kind", "lanes"), [("u8", 2), ("u8", 4), ("u16", 2), ("u16", 4), ("f32", 2), ("f32", 4), ("u64", 2), ("f64", 2)]
)
def test_vectors(kind, lanes, checked):
    dtype = {"u": "u", "f": "f"}[kind[0]] + str(int(kind[1:]) // 8)
    x = (random(32 * lanes) % 200).astype(dtype)
    out = np.zeros_like(x)
    file = {"u8": "%h", "u16": "%h", "f32": "%f", "u64": "%d", "f64": "%g"}[kind]
    names = [f"{file}{10 + k}" for k in range(lanes)]
    size = x.itemsize * lanes
    body = at("%d0", 0, size=size) + at("%d1", 1, size=size)
    body += f"ld.global.v{lanes}.{kind} {{{', '.join(names)}}}, [%d1];"
    body += f"st.global.v{lanes}.{kind} [%d0], {{{', '.join(names[::-1])}}};"
    clean(body, out, x, checked=checked)
    np.testing.assert_array_equal(out.reshape(-1, lanes), x.reshape(-1, lanes)[:, ::-1])


FUNCTION = """
.func (.param .b32 result) with_a_barrier(.param .b64 where, .param .b32 number)
{
.reg .b32 %r<8>; .reg .b64 %d<4>; .reg .pred %p<2>;
ld.param.b64 %d0, [where];
bar.sync 0;
ld.param.b32 %r0, [number];
ld.global.u32 %r1, [%d0];
setp.gt.u32 %p1, %r0, 5; @%p1 bra LARGE;
add.u32 %r1, %r1, %r0; bra END;
LARGE: mul.lo.u32 %r1, %r1, 10;
END: bar.sync 0;
st.param.b32 [result], %r1;
ret;
}
"""
CALL = """{{ .param .b64 x; .param .b32 y; .param .b32 z; st.param.b64 [x], {0}; st.param.b32 [y], {1};
call.uni (z), with_a_barrier, (x, y); ld.param.b32 {2}, [z]; }}"""


@BOTH
@pytest.mark.parametrize("order", ["forward", "reverse", 2])
def test_function_with_a_barrier_that_is_called_twice(order, checked):
    x, out = np.arange(64, dtype=np.uint32), np.zeros(64, np.uint32)
    body = at("%d0", 0) + at("%d1", 1) + "xor.b32 %r2, %r0, 63;" + at("%d2", 1, "%r2")
    body += "mov.u32 %r5, 5; mov.u32 %r6, 6;" + CALL.format("%d2", "%r5", "%r7") + CALL.format("%d1", "%r6", "%r8")
    body += "add.u32 %r9, %r7, %r8; st.global.u32 [%d0], %r9;"
    clean(body, out, x, block=64, functions=FUNCTION, order=order, checked=checked)
    np.testing.assert_array_equal(out, (x[::-1] + 5) + 10 * x)


@BOTH
def test_jump_tables(checked):
    out = np.zeros(32, np.uint32)
    body = (
        at("%d0", 0)
        + "and.b32 %r2, %r0, 3; mov.u32 %r3, 100; table: .branchtargets A0, A1, A2, A3; brx.idx %r2, table;"
    )
    body += each("A#: add.u32 %r3, %r3, 1#; bra END;", 4) + "END: st.global.u32 [%d0], %r3;"
    clean(body, out, checked=checked)
    np.testing.assert_array_equal(out, 110 + LANES % 4)


def test_loop_with_a_jump_table_and_barriers():
    out = np.zeros(64, np.uint32)
    body = (
        at("%d0", 0)
        + """mov.u32 %r2, 0; mov.u32 %r3, 0; table: .branchtargets B0, B1, B2;
    LOOP: rem.u32 %r4, %r2, 3; brx.idx %r4, table;
    B0: add.u32 %r3, %r3, 1; bra NEXT; B1: bar.sync 0; add.u32 %r3, %r3, 10; bra NEXT;
    B2: bar.sync 1; add.u32 %r3, %r3, %r0;
    NEXT: add.u32 %r2, %r2, 1; setp.lt.u32 %p1, %r2, 7; @%p1 bra LOOP; st.global.u32 [%d0], %r3;"""
    )
    clean(body, out, block=64)
    np.testing.assert_array_equal(out, 3 + 20 + 2 * np.arange(64))


def test_what_changes_nothing():
    out = np.zeros(32, np.uint32)
    clean(
        at("%d0", 0)
        + "nanosleep.u32 100; membar.gl; fence.acq_rel.gpu; prefetch.global.L1 [%a0]; st.global.u32 [%d0], 4;",
        out,
    )
    assert (out == 4).all()


# --- matrices --------------------------------------------------------------------------------------
def matrices(kind, seed=0):
    """Operands of m16n8k8 (tf32) or m16n8k16 whose products are exact: values, and their bits."""
    depth = 8 if kind == "tf32" else 16
    rng = np.random.default_rng(seed)
    a, b = rng.integers(-15, 16, (16, depth)) / 4, rng.integers(-15, 16, (depth, 8)) / 4
    c = rng.integers(-99, 99, (16, 8)).astype(np.float32)
    if kind == "f16":
        bits = [m.astype(np.float16).view(np.uint16).astype(np.uint32) for m in (a, b)]
    elif kind == "bf16":
        bits = [m.astype(np.float32).view(np.uint32) >> 16 for m in (a, b)]
    else:
        bits = [m.astype(np.float32).view(np.uint32) for m in (a, b)]
    return a, b, c, *bits


def fragments(a, b, kind):
    """The registers of each lane, from the tables of the PTX ISA ("Matrix Fragments for mma")."""
    registers_a, registers_b = np.zeros((32, 4), np.uint32), np.zeros((32, 2), np.uint32)
    for lane in range(32):
        group, inside = lane // 4, lane % 4
        for i in range(4):
            row = group + 8 * (i % 2)
            if kind == "tf32":
                registers_a[lane, i] = a[row, inside + 4 * (i // 2)]
            else:
                column = 2 * inside + 8 * (i // 2)
                registers_a[lane, i] = a[row, column] | a[row, column + 1] << 16
        for i in range(2):
            if kind == "tf32":
                registers_b[lane, i] = b[inside + 4 * i, group]
            else:
                row = 2 * inside + 8 * i
                registers_b[lane, i] = b[row, group] | b[row + 1, group] << 16
    return registers_a, registers_b


SUMS = [(lane // 4 + 8 * (i // 2), 2 * (lane % 4) + i % 2) for lane in range(32) for i in range(4)]  # row, column


@BOTH
@pytest.mark.parametrize("kind", ["tf32", "f16", "bf16"])
def test_mma(kind, checked):
    a, b, c, bits_a, bits_b = matrices(kind)
    registers_a, registers_b = fragments(bits_a, bits_b, kind)
    sums = np.array([c[place] for place in SUMS], np.float32)
    shape = "m16n8k8" if kind == "tf32" else "m16n8k16"
    body = (
        at("%d0", 0, size=16)
        + at("%d1", 1, size=16)
        + at("%d2", 2, size=8)
        + f"""
    ld.global.v4.f32 {{%f0, %f1, %f2, %f3}}, [%d0]; ld.global.v4.b32 {{%r10, %r11, %r12, %r13}}, [%d1];
    ld.global.v2.b32 {{%r14, %r15}}, [%d2];
    mma.sync.aligned.{shape}.row.col.f32.{kind}.{kind}.f32
    {{%f4, %f5, %f6, %f7}}, {{%r10, %r11, %r12, %r13}}, {{%r14, %r15}},
    {{%f0, %f1, %f2, %f3}};
    st.global.v4.f32 [%d0], {{%f4, %f5, %f6, %f7}};"""
    )
    clean(body, sums, registers_a.reshape(-1), registers_b.reshape(-1), checked=checked)
    expected = a @ b + c
    np.testing.assert_array_equal(sums, np.array([expected[place] for place in SUMS]).astype(np.float32))


@BOTH
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_ldmatrix(count, transposed, checked):
    """Rows of 8 elements of 16 bits, in any order; lane l gets two elements of row l / 4, from 2 (l % 4) on."""
    x = np.random.default_rng(count).integers(0, 2**16, (32, 8)).astype(np.uint16)
    order = np.random.default_rng(9).permutation(32).astype(np.uint32)
    out = np.zeros((32, count), np.uint32)
    names = ", ".join(f"%r{10 + k}" for k in range(count))
    body = (
        at("%d1", 1, size=16)
        + at("%d2", 2)
        + at("%d0", 0, size=4 * count)
        + f"""
    mov.u32 %r2, tile; mad.lo.u32 %r3, %r0, 16, %r2; ld.global.v4.b32 {{%r4, %r5, %r6, %r7}}, [%d1];
    st.shared.v4.b32 [%r3], {{%r4, %r5, %r6, %r7}}; bar.sync 0;
    ld.global.u32 %r8, [%d2]; mad.lo.u32 %r9, %r8, 16, %r2;
    ldmatrix.sync.aligned.m8n8.x{count}{".trans" if transposed else ""}.shared.b16 {{{names}}}, [%r9];
    {"".join(f"st.global.u32 [%d0+{4 * k}], %r{10 + k};" for k in range(count))}"""
    )
    clean(body, out.reshape(-1), x.reshape(-1), order, shared=512, checked=checked)
    for k in range(count):
        matrix = x[order[8 * k : 8 * k + 8]]
        matrix = matrix.T if transposed else matrix
        pairs = matrix.reshape(8, 4, 2).astype(np.uint32)
        np.testing.assert_array_equal(out[:, k], (pairs[..., 0] | pairs[..., 1] << 16).reshape(-1))


def test_ldmatrix_of_rows_that_are_not_aligned_or_outside():
    body = """mov.u32 %r2, tile; mad.lo.u32 %r3, %r0, 16, %r2; st.shared.v4.b32 [%r3], {%r0, %r0, %r0, %r0}; bar.sync 0;
    add.u32 %r5, %r3, OFFSET;
    ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r10, %r11, %r12, %r13}, [%r5];"""
    for offset, kinds in ((8, {"misaligned", "out of bounds"}), (16, {"out of bounds"}), (0, set())):
        found = run(body.replace("OFFSET", str(offset)), np.zeros(1), shared=512).faults
        assert {fault.kind for fault in found} == kinds


def test_mma_without_all_lanes():
    body = "setp.lt.u32 %p1, %r0, 20; @%p1 bra DONE;\n"
    body += "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f4, %f5, %f6, %f7},"
    body += "{%r10, %r11, %r12, %r13}, {%r14, %r15},"
    body += "{%f0, %f1, %f2, %f3};\nDONE: bar.sync 0;"
    (fault,) = run(body, np.zeros(1)).faults
    assert fault.kind == "missing lanes" and "20 lanes are named" in str(fault)


# --- asynchronous copies ---------------------------------------------------------------------------
@BOTH
@pytest.mark.parametrize("size", [4, 8, 16])
@pytest.mark.parametrize("filled", [None, 0, 3, 4])
def test_copies_filled_up_with_zeros(size, filled, checked):
    x = np.arange(1, 32 * size + 1, dtype=np.uint8)
    out = np.full(32 * size, 255, np.uint8)
    more = "" if filled is None else f", {filled}"
    words = size // 4
    names = [f"%r{10 + k}" for k in range(words)]
    vector = f".v{words}" if words > 1 else ""
    braces = f"{{{', '.join(names)}}}" if words > 1 else names[0]
    body = (
        at("%d0", 0, size=size)
        + at("%d1", 1, size=size)
        + f"""
    mov.u32 %r2, tile; mad.lo.u32 %r3, %r0, {size}, %r2;
    cp.async.{"cg" if size == 16 else "ca"}.shared.global [%r3], [%d1], {size}{more};
    cp.async.commit_group; cp.async.wait_group 0;
    ld.shared{vector}.b32 {braces}, [%r3]; st.global{vector}.b32 [%d0], {braces};"""
    )
    clean(body, out, x, shared=32 * size, checked=checked)
    expected = x.reshape(32, size).copy()
    if filled is not None:
        expected[:, filled:] = 0
    np.testing.assert_array_equal(out.reshape(32, size), expected)


def test_groups_of_copies_arrive_in_order():
    """Of three groups, after a wait for all but one, two may be read and the third may not."""
    body = (
        at("%d1", 1, size=16)
        + """mov.u32 %r2, tile; mad.lo.u32 %r3, %r0, 16, %r2;
    cp.async.ca.shared.global [%r3], [%d1], 16; cp.async.commit_group;
    cp.async.ca.shared.global [%r3+512], [%d1], 16; cp.async.commit_group;
    cp.async.ca.shared.global [%r3+1024], [%d1], 16; cp.async.commit_group;
    cp.async.wait_group 1;
    """
    )
    x, out = np.arange(128, dtype=np.uint32), np.zeros(32, np.uint32)
    for offset, faults in ((0, 0), (512, 0), (1024, 1)):
        read = f"ld.shared.u32 %r5, [%r3+{offset}];\n" + at("%d0", 0) + "st.global.u32 [%d0], %r5;"
        result = run(body + read, out, x, shared=1536)
        assert len(result.faults) == faults, str(result)
        assert faults or (out == x[::4]).all()


def test_the_end_of_an_array_that_is_copied_in_part():
    """Only the bytes that a copy reads must be there; and a copy from nowhere does no harm."""
    body = (
        at("%d1", 0, size=16)
        + """mov.u32 %r2, tile; mad.lo.u32 %r3, %r0, 16, %r2;
    cp.async.ca.shared.global [%r3], [%d1], 16, FILLED; cp.async.wait_all;"""
    )
    x = np.zeros(14, np.uint8)
    for filled, kinds in ((0, []), (14, []), (15, ["out of bounds"]), (16, ["out of bounds"])):
        result = run(body.replace("FILLED", str(filled)), x, block=1, shared=16)
        assert [fault.kind for fault in result.faults] == kinds
    for address in (0, 2**47, 2**64 - 16):
        result = run(f"mov.u64 %d1, {address};" + body[body.index("mov") :].replace(", FILLED", ""), x, shared=512)
        assert [fault.kind for fault in result.faults] == ["out of bounds"]


def test_a_copy_over_what_others_still_read():
    """A copy writes when it is issued, or later: a barrier must stand before it too."""
    body = (
        at("%d1", 1, size=16)
        + """mov.u32 %r2, tile; mad.lo.u32 %r3, %r0, 16, %r2; xor.b32 %r4, %r0, 1;
    mad.lo.u32 %r5, %r4, 16, %r2;
    cp.async.ca.shared.global [%r3], [%d1], 16; cp.async.wait_all; bar.sync 0;
    ld.shared.u32 %r6, [%r5];
    BARRIER
    cp.async.ca.shared.global [%r3], [%d1], 16; cp.async.wait_all; bar.sync 0;
    """
    )
    x = np.arange(128, dtype=np.uint32)
    for order in ("forward", "reverse", 4):
        assert not run(body.replace("BARRIER", "bar.sync 0;"), x, x, shared=512, order=order).faults
        (fault,) = run(body.replace("BARRIER", ""), x, x, shared=512, order=order).faults
        assert fault.kind == "race" and "one thread reads" in str(fault)
