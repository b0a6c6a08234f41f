"""The checked build of the cpu backend: it finds a wrong address in each kernel, and names it.

The tests of this file need CKS_NUMBA_CPU=checked in the environment, because a process has one build of the kernels.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from operator import itemgetter
from pathlib import Path

import numba
import numpy as np
import pytest
from reference import in_a_process, integers

from cks_numba.backends import cpu
from cks_numba.backends.cpu import (
    bounds,
    compiled,
    depthwise,
    gather,
    planes,
    registers,
    repeats,
    tall,
    unpacked,
    weight,
)
from cks_numba.geometry import ConvShape

checked = pytest.mark.skipif(not registers.CHECKED, reason="needs CKS_NUMBA_CPU=checked")
NHWC, NCHW = (0, 1, 2, 3), (0, 3, 1, 2)
WIDE = ConvShape(n=3, ih=9, iw=8, ic=37, oc=40, fh=3, fw=3, padding=1)
SMALL_MAP = ConvShape(n=1, ih=2, iw=2, ic=64, oc=40, fh=3, fw=3, padding=1)
ALONE = ConvShape(n=1, ih=5, iw=5, ic=64, oc=64, fh=5, fw=5, padding=2)
SHORT = ConvShape(n=1, ih=6, iw=5, ic=36, oc=140, fh=3, fw=3, padding=1)
PANELS = ConvShape(n=1, ih=6, iw=5, ic=128, oc=36, fh=3, fw=3, padding=1)
TAPS_LAST = ConvShape(n=2, ih=9, iw=8, ic=48, oc=48, fh=3, fw=3, padding=1)
DEPTHWISE = ConvShape(n=2, ih=9, iw=10, ic=40, oc=40, fh=3, fw=3, padding=1, groups=40)
WHOLE_ROWS = ConvShape(n=2, ih=9, iw=14, ic=40, oc=40, fh=3, fw=3, padding=1, groups=40)
BY_TWO = ConvShape(n=2, ih=9, iw=28, ic=40, oc=40, fh=3, fw=5, stride=2, padding=(1, 2), groups=40)
GROUPS = ConvShape(n=2, ih=9, iw=10, ic=40, oc=80, fh=3, fw=3, padding=1, groups=10)
FEW = ConvShape(n=2, ih=9, iw=8, ic=3, oc=40, fh=3, fw=3, padding=1)
NARROW = ConvShape(n=2, ih=6, iw=5, ic=32, oc=3, fh=3, fw=3, padding=1)
FEW_RESULTS = ConvShape(n=2, ih=20, iw=23, ic=5, oc=11, fh=3, fw=3, stride=(1, 2), padding=1)
ONE_VECTOR = ConvShape(n=2, ih=20, iw=50, ic=8, oc=8, fh=3, fw=3, padding=1)
# Each kernel with an operator and a layer that it is for, and the order of the axes of the arrays in memory, and of
# filters where they have another one.
KERNELS = {
    "gather": ("conv2d", WIDE, NHWC),
    "gather, input": ("conv2d_input", WIDE, NHWC),
    "gather, short tiles": ("conv2d", SHORT, NHWC),
    "gather, in place": ("conv2d_input", PANELS, NHWC),
    "gather_narrow": ("conv2d", NARROW, NHWC),
    "gather, taps last": ("conv2d", TAPS_LAST, NHWC, NCHW),
    "gather, taps last, input": ("conv2d_input", TAPS_LAST, NHWC, NCHW),
    "planes": ("conv2d", FEW_RESULTS, NHWC),
    "planes, input": ("conv2d_input", FEW_RESULTS, NCHW),
    "tall": ("conv2d", ONE_VECTOR, NHWC),
    "tall, input": ("conv2d_input", ONE_VECTOR, NHWC),
    "to_channels_last": ("conv2d", WIDE, NCHW),
    "along": ("conv2d", SMALL_MAP, NHWC),
    "across": ("conv2d", ALONE, NHWC),
    "across, input": ("conv2d_input", ALONE, NHWC),
    "depthwise": ("conv2d", DEPTHWISE, NHWC),
    "depthwise, input": ("conv2d_input", DEPTHWISE, NHWC),
    "depthwise, NCHW": ("conv2d", DEPTHWISE, NCHW),
    "in_groups": ("conv2d", GROUPS, NHWC),
    "in_groups, input": ("conv2d_input", GROUPS, NHWC),
    "of_filters": ("conv2d_weight", DEPTHWISE, NHWC),
    "of_filters_in_groups": ("conv2d_weight", GROUPS, NHWC),
    "weight": ("conv2d_weight", WIDE, NHWC),
    "weight, taps last": ("conv2d_weight", TAPS_LAST, NHWC, NCHW),
    "few": ("conv2d_weight", FEW, NHWC),
}

if registers.TILE_ROWS >= depthwise.LINES[depthwise.INPUT_BY_TWO].positions:
    KERNELS |= {
        "in_lines": ("conv2d", WHOLE_ROWS, NHWC),
        "in_lines, NCHW": ("conv2d", WHOLE_ROWS, NCHW),
        "in_lines, by two": ("conv2d", BY_TWO, NHWC),
        "in_lines, input by two": ("conv2d_input", BY_TWO, NHWC),
    }


@pytest.fixture(autouse=True)
def _forget():
    """No call is known that another test has made, perhaps of a kernel with a wrong line."""
    repeats.forget()
    yield
    repeats.forget()


def far_from_others(array):
    """Copy an array to the middle of memory of its own, so that a wrong address is nearest to the array it is for."""
    size = array.nbytes + 2**21 & -(2**6)
    memory = np.empty(3 * size, np.uint8)
    copy = memory[size : size + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def run(name, dtype="float32", backend=cpu):
    """Run the kernel on arrays of integers; returns its result."""
    operator, shape, *orders = KERNELS[name]
    first, second, out = (
        far_from_others(a.transpose(order)).transpose(np.argsort(order))
        for a in integers(operator, shape, dtype, 0)
        for order in (orders[-1 if a.shape == shape.w_shape else 0],)
    )
    backend.run(operator, shape, first, second, out)
    return out


def message(call, *given):
    with pytest.raises(IndexError) as caught:
        call(*given)
    return str(caught.value)


# --- right addresses ------------------------------------------------------------------------------
@checked
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_kernels_touch_nothing_but_their_call(name, dtype):
    operator, shape, *_ = KERNELS[name]
    want = np.empty_like(run(name, dtype))
    cpu.plain.run(operator, shape, *integers(operator, shape, dtype)[:2], want)
    np.testing.assert_array_equal(run(name, dtype), want)


# --- wrong addresses ------------------------------------------------------------------------------
class Shifted:
    """Replaces `Address`: the address of one array of a call is wrong by some bytes."""

    def __init__(self, which, count, monkeypatch):
        self.made, self.which, self.count = 0, which, count
        self.new = bounds.Address.__new__
        monkeypatch.setattr(bounds.Address, "__new__", self)

    def __call__(self, kind, array, skipped=0):
        self.made += 1
        return self.new(kind, array, skipped + (self.count if self.made == self.which else 0))


ARRAYS = {  # Their order is that in which addresses are taken.
    "gather": ("source", "filters", "out"),
    "gather, input": ("source", "filters", "out"),
    "gather, short tiles": ("source", "filters", "out"),
    "gather, in place": ("source", "filters", "out"),
    "gather_narrow": ("source", "filters", "out"),
    "gather, taps last": ("source", "filters", "out"),
    "gather, taps last, input": ("source", "filters", "out"),
    "planes": ("source", "filters", "out"),
    "planes, input": ("source", "filters", "out"),
    "tall": ("source", "filters", "out"),
    "tall, input": ("source", "filters", "out"),
    "to_channels_last": ("source", "target"),
    "along": ("source", "filters", "out"),
    "across": ("source", "filters", "out"),
    "across, input": ("source", "filters", "out"),
    "depthwise": ("source", "filters", "out"),
    "depthwise, input": ("source", "filters", "out"),
    "depthwise, NCHW": ("source", "filters", "out"),
    "in_groups": ("source", "filters", "out"),
    "in_groups, input": ("source", "filters", "out"),
    "of_filters": ("source", "filters", "out"),
    "of_filters_in_groups": ("source", "filters", "out"),
    "weight": ("dy", "x", "out"),
    "weight, taps last": ("dy", "x", "out"),
    "few": ("a", "b", "out"),
}
ARRAYS |= {name: ("source", "filters", "out") for name in KERNELS if name.startswith("in_lines")}
SHIFTS = [(name, array, count) for name, arrays in ARRAYS.items() for array in arrays for count in (-8, 8)]


@checked
@pytest.mark.parametrize(("name", "array", "count"), SHIFTS)
def test_an_array_beside_its_place(name, array, count, monkeypatch):
    """Each array of each kernel is two numbers too early or too late: its first or last number is outside."""
    run(name)
    repeats.forget()
    Shifted(1 + ARRAYS[name].index(array), count, monkeypatch)
    text = message(run, name)
    assert re.match(f"CPU kernel {name.split(',')[0]}: .*(reads|writes) [0-9]+ bytes at offset .* of `{array}`", text)


# --- wrong addresses of a repeated call -----------------------------------------------------------
OPERANDS = {  # Names of the operands and the result of a call, where they differ from those of its operator.
    "weight": ("x", "dy", "out"),
    "few": ("a", "b", "out"),
    "of_filters": ("source", "out", "filters"),
    "of_filters_in_groups": ("source", "out", "filters"),
}
OPERANDS_OF = {"conv2d": ("source", "filters", "out"), "conv2d_input": ("filters", "source", "out")}


@checked
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("count", [-8, 8])
def test_an_array_of_a_repeated_call_beside_its_place(name, place, count, monkeypatch):
    want = run(name)
    assert len(repeats._known) == 1
    np.testing.assert_array_equal(run(name), want)
    monkeypatch.setattr(cpu, "_run", None)  # It would find the kernels anew.
    kernel = name.split(",")[0]
    array = OPERANDS.get(kernel, OPERANDS_OF.get(KERNELS[name][0]))[place]
    with monkeypatch.context() as patch:
        Shifted(1 + place, count, patch)
        text = message(run, name)
    assert re.match(rf"CPU kernel \w+: .*(reads|writes) [0-9]+ bytes at offset .* of `{array}`", text), text
    np.testing.assert_array_equal(run(name), want)


def wrong_places(name, change):
    """The message of a repeated call of which the places of the addresses of a kernel are changed."""
    run(name)
    (again,) = repeats._known.values()
    again.steps = [(step, change(places)) for step, places in again.steps]
    return message(run, name)


@checked
@pytest.mark.parametrize("name", KERNELS)
def test_a_result_in_the_place_of_an_operand(name):
    """The kernel writes what it should read."""
    second = name == "to_channels_last" or name.startswith("of_filters")  # the array that these kernels write
    change = itemgetter(*((1, 0, 2) if second else (2, 1, 0)))
    assert re.search(r": .* bytes at offset", wrong_places(name, change))


@checked
@pytest.mark.parametrize("count", [-8, 8])
def test_a_temporary_array_of_a_repeated_call_beside_its_place(count, monkeypatch):
    run("to_channels_last")
    (again,) = repeats._known.values()
    Shifted(4, count, monkeypatch)  # The block has no address before it is made, after those of the three arrays.
    assert "of `target`" in message(run, "to_channels_last")


@checked
def test_scratch_memory_of_a_repeated_call_beside_its_place(monkeypatch):
    run("planes")
    place = compiled.Step.place

    def wrong(step, memory, at):
        place(step, memory, at)
        memory[compiled.Call._fields.index("scratch")] += 4096

    monkeypatch.setattr(compiled.Step, "place", wrong)
    assert re.search("of `(buffer|rows)", message(run, "planes"))


@checked
@pytest.mark.parametrize("count", [-8, 8])
def test_a_bias_beside_its_place(count, monkeypatch):
    given = (*integers("conv2d", WIDE, "float32"), far_from_others(np.ones(WIDE.oc, np.float32)))
    cpu.run("conv2d", WIDE, *given)
    with monkeypatch.context() as patch:
        Shifted(4, count, patch)
        text = message(cpu.run, "conv2d", WIDE, *given)
    assert re.match("CPU kernel plus_bias: .*reads [0-9]+ bytes at offset .* of `bias`", text), text
    cpu.run("conv2d", WIDE, *given)


# A line of a kernel, and another one in its place, which reads or writes outside of what is named.
MUTANTS = [
    ("gather", gather, "g * terms * sizes.source.c\n", "(g * terms + 1) * sizes.source.c\n", "reads", "source"),
    ("gather", gather, "first_b = panel + ", "first_b = panel - LANE_BYTES + ", "reads", "buffer 1 of thread"),
    ("gather", gather, "at += taps.first + ", "at += taps.first + size + ", "reads", "filters"),
    ("gather", gather, "(g * lanes + first_lane) * sizes", "(g * lanes + first_lane + 1) * sizes", "writes", "out"),
    ("gather_narrow", gather, "b + here * column", "b + 99 * here * column", "reads", "buffer 1 of thread"),
    ("gather, taps last", gather, "size, steps.lane\n", "size, steps.lane + 4\n", "reads", "filters"),
    ("gather, taps last, input", gather, "+ term * steps.term\n", "+ term * steps.term + 4\n", "reads", "filters"),
    ("planes", planes, "at = source + first_of", "at = source + 4 + first_of", "reads", "source"),
    ("planes", planes, "= number + k, there", "= number + k + 45, there", "reads", "buffer 0 of thread"),
    ("planes", planes, "to = call.out + n", "to = call.out + size + n", "writes", "out"),
    ("tall", tall, "g * terms * sizes.source.c + ", "g * terms * sizes.source.c + size + ", "reads", "source"),
    ("tall", tall, "+ lane * steps.lane", "+ (lane + 1) * steps.lane", "reads", "filters"),
    ("tall", tall, "0, panels + line", "0, panels - 64 + line", "reads", "buffer 0 of thread"),
    ("tall", tall, "y + place * out.position[2] + ", "y + place * out.position[2] + size + ", "writes", "out"),
    ("to_channels_last", gather, "at += row // rows", "at += 4 + row // rows", "reads", "source"),
    (
        "to_channels_last",
        gather,
        "(row * columns + first) * step",
        "(row * columns + first + 1) * step",
        "writes",
        "target",
    ),
    ("along", unpacked, "else lane * filters.lane\n", "else (lane + 1) * filters.lane\n", "reads", "filters"),
    ("along", unpacked, "(g * lanes + at) * sizes.out.c", "(g * lanes + at + 1) * sizes.out.c", "writes", "out"),
    ("across", unpacked, "else lane * filters.lane\n", "else (lane + 1) * filters.lane\n", "reads", "filters"),
    ("across, input", unpacked, "else lane * filters.lane\n", "else (lane + 1) * filters.lane\n", "reads", "filters"),
    ("across, input", unpacked, "nowhere = kept", "nowhere = 8 + kept", "reads", "buffer 1 of thread"),
    (
        "depthwise",
        depthwise,
        "(d * h, h, w)\n",
        "(d * h, h, w + 1)\n",
        "reads",
        "buffer 1 of thread",
    ),
    (
        "depthwise",
        depthwise,
        "filters + line.filters.first, out + ",
        "filters + line.filters.first, out + size + ",
        "writes",
        "out",
    ),
    ("of_filters", depthwise, "out + line.out.first, results", "out + size + line.out.first, results", "reads", "out"),
    (
        "of_filters",
        depthwise,
        "sizes.filters.group, results + shared",
        "sizes.filters.group + size, results + shared",
        "writes",
        "filters",
    ),
    (
        "in_groups",
        depthwise,
        "steps.c\n            pack(",
        "steps.c + size\n            pack(",
        "reads",
        "source",
    ),
    (
        "in_groups, input",
        depthwise,
        "steps.c\n            unpack(",
        "steps.c + 4\n            unpack(",
        "writes",
        "out",
    ),
    (
        "of_filters_in_groups",
        depthwise,
        "counts[2], distance)",
        "99 * counts[2], distance)",
        "reads",
        "buffer 2 of thread",
    ),
    ("of_filters", depthwise, "kept + (block * parts", "kept + 8 + (block * parts", "writes", "kept"),
    ("weight", weight, "(g * lanes + lane) * sizes.x.c", "(g * lanes + lane + 1) * sizes.x.c", "reads", "x"),
    ("weight", weight, "place = out_tap + first *", "place = out_tap + (first + 1) *", "writes", "out"),
    ("weight, taps last", weight, "join_taps(zero, out + ", "join_taps(zero, out + size + ", "writes", "out"),
    ("few", weight.few, "(g * lanes + lane0) *", "(g * lanes + lane0 + 1) *", "reads", "b"),
    ("few", weight.few, "place = at + tap_step(tap,", "place = at + size + tap_step(tap,", "writes", "out"),
]
if "in_lines" in KERNELS:
    LINE = "first, last = first_element - "
    MUTANTS += [
        (name, depthwise, LINE, LINE + "1 - ", "reads", "source")
        for name in ("in_lines", "in_lines, by two", "in_lines, input by two")
    ]


def mutant(module, old, new, folder, monkeypatch):
    """Return a copy of a module with one line changed."""
    text = Path(module.__file__).read_text()
    assert text.count(old) == 1, old
    path = folder / Path(module.__file__).name
    path.write_text(text.replace(old, new))
    name = f"{module.__name__}_mutant"
    made = importlib.util.module_from_spec(importlib.util.spec_from_file_location(name, path))
    monkeypatch.setitem(sys.modules, name, made)
    made.__spec__.loader.exec_module(made)
    return made


@checked
@pytest.mark.parametrize(("name", "module", "old", "new", "does", "array"), MUTANTS)
def test_a_wrong_line_is_found(name, module, old, new, does, array, tmp_path, monkeypatch):
    made = mutant(module, old, new, tmp_path, monkeypatch)
    owner, place = (weight, "few") if module is weight.few else (cpu, module.__name__.rpartition(".")[2])
    monkeypatch.setattr(owner, place, made)
    text = message(run, name)
    assert re.match(
        rf"CPU kernel {name.split(',')[0]}: \w+\.py line \d+, `.*` {does} \d+ bytes at .* of `{array}", text
    )


@checked
def test_an_index_outside_of_an_array_in_scratch_memory(tmp_path, monkeypatch):
    made = mutant(unpacked, "found[2 * count], ", "found[99999 + count], ", tmp_path, monkeypatch)
    monkeypatch.setattr(cpu, "unpacked", made)
    assert message(run, "along") == (
        "CPU kernel along: an index is outside of an array of addresses in its scratch memory"
    )


# --- views, threads, and the normal build ---------------------------------------------------------
@checked
def test_what_lies_between_the_elements_of_a_view_is_outside(monkeypatch):
    """A channel too far is inside of the memory of a view, but for the last pixel."""
    x, w, y = integers("conv2d", WIDE, "float32")
    x = np.pad(x, [(0, 0)] * 3 + [(0, 1)])[..., :-1]
    cpu.run("conv2d", WIDE, x, w, y)
    Shifted(1, 4, monkeypatch)
    text = message(cpu.run, "conv2d", WIDE, x, w, y)
    pixel, end = (WIDE.ic + 1) * 4, WIDE.ic * 4  # bytes; whichever thread is first meets the end of one of its pixels
    found = re.search(r"reads 4 bytes at offset (\d+) of `source`.* bytes, a view with gaps, only read", text)
    assert found and int(found[1]) % pixel == end, text


@checked
def test_an_input_is_only_read(monkeypatch):
    x, w, y = integers("conv2d", WIDE, "float32")
    arrays = []

    def address_of(array):
        arrays.append(array)
        return bounds.Address(arrays[0] if array is y else array)

    monkeypatch.setattr(compiled, "address_of", address_of)
    text = message(cpu.run, "conv2d", WIDE, x, w, y)
    assert re.search("writes [0-9]+ bytes at offset [0-9]+ of `source`, which has .* only read", text)


@checked
def test_views_have_regions_of_their_elements():
    whole = np.zeros((4, 6, 8), np.float32)
    for view in (
        whole[::2, 1:, ::-3],
        whole[:, ::-1],
        np.broadcast_to(whole[0, 0], (3, 8)),
        whole[:0],
        whole[1, 2, 3:4],
    ):
        found = bounds.region("x", view)
        places = {
            view.ctypes.data + sum(k * step for k, step in zip(index, view.strides, strict=True))
            for index in np.ndindex(view.shape)
        }
        if found.mask is None:
            inside = set(range(found.first, found.end, 4))
        else:
            inside = {found.first + 4 * k for k in np.flatnonzero(found.mask)}
        assert inside == places


@checked
@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
def test_an_error_in_a_worker_reaches_its_caller(monkeypatch):
    """Only the last row of the image is wrong, so whoever does that task meets it."""
    monkeypatch.setattr(compiled, "SERIAL_BELOW", 0)
    shape = ConvShape(n=1, ih=256, iw=8, ic=16, oc=16, fh=1, fw=1)
    x, w, y = integers("conv2d", shape, "float32")
    for _ in range(30):
        with monkeypatch.context() as patch:
            Shifted(1, 8, patch)
            assert "of `source`" in message(cpu.run, "conv2d", shape, x, w, y)
        cpu.run("conv2d", shape, x, w, y)
        np.testing.assert_array_equal(y.reshape(-1, 16), x.reshape(-1, 16) @ w.reshape(16, 16).T)


def test_the_normal_build_tests_nothing():
    name = compiled.Arguments().name
    assert ("checked" in name) == registers.CHECKED
    if not registers.CHECKED:
        assert bounds.GUARD_BYTES == 0 and registers.check(None, None, None, None, 0) is None
        assert compiled.address_of(np.zeros(3)[1:]).__class__ is int


ACCESSES = {"load", "store", "load_atomic", "store_atomic", "atomic_rmw", "cmpxchg"}


def test_every_operation_is_checked():
    """Each function that writes an instruction for a load or store calls `check`; `threads` has memory of its own."""
    for path in sorted(Path(cpu.__file__).parent.glob("*.py")):
        functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
        for function in functions:
            calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
            accesses = [f for f in calls if isinstance(f, ast.Attribute) and f.attr in ACCESSES and f.value.id == "b"]
            checks = [f for f in calls if isinstance(f, ast.Name) and f.id == "check"]
            assert path.name == "threads.py" or len(checks) >= len(accesses), f"{path.name} {function.name}"


def test_the_checked_build_in_a_process_of_its_own():
    in_a_process("test_checked", "run('planes')", CKS_NUMBA_CPU="checked")
    in_a_process(
        None,
        "import numpy as np, test_checked; test_checked.bounds.only_read(np.zeros(2))[0] = 1",
        "read-only",
        CKS_NUMBA_CPU="checked",
    )
