"""What a report says of findings, most of them made by hand: faults in words, costs, annotated source, lint."""

from __future__ import annotations

import pickle
import re
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numba import cuda, float32

from cks_numba.emulator import check_kernel, report
from cks_numba.emulator.faults import ArrayInfo, Finding, Site
from cks_numba.emulator.report import KernelFault, Result

SOURCE = """\
@cuda.jit(device=True)
def scaled(x, i):
    return x[i] * 0.5


@cuda.jit
def reverse(x, out):
    tile = cuda.shared.array(64, float32)
    t = cuda.threadIdx.x
    tile[t] = x[cuda.grid(1)]
    if t < 32 and "<&>":
        cuda.syncthreads()
    cuda.syncthreads()
    cuda.syncwarp()
    out[0] += tile[63 - t]
    tile[t] += tile[t + 32]
    out[0] = t
    out[t] = scaled(x, t)
"""
X = ArrayInfo("x", "global", 512, 4, (128,), (4,))
GRID = ArrayInfo("grid", "global", 128, 4, (4, 8), (32, 4))
TILE = ArrayInfo("shared array 1", "shared", 256, 4, (64,), (4,))
COLUMN = ArrayInfo("column", "global", 16, 4, (4,), (32,))
BACKWARDS = ArrayInfo("back[1]", "global", 96, 4, (4, 6), (72, -8))
RECORDS = ArrayInfo("states", "global", 640, 16, (40,), (16,))
LOCAL = ArrayInfo("local memory", "local", 28, 1, (28,), (1,))
ARRAYS = [X, GRID, TILE, COLUMN, BACKWARDS, RECORDS, LOCAL]


@pytest.fixture
def file(tmp_path) -> str:
    path = tmp_path / "faults.py"
    path.write_text(SOURCE)
    return str(path)


def instruction(op: str = "", *args: str, source: Any = (), line: int = 76, label: str | None = None) -> Any:
    parts = tuple(op.split(".")) if op else ()
    text = f"{op} {', '.join(args)}"
    return SimpleNamespace(op=parts, args=args, line=line, text=text, guard=None, label=label, source=source)


def site(file: str, line: int, action: str = "read", space: str = "global", size: int = 4) -> Site:
    ptx = instruction("ld.global.f32", "%f1", "[%rd1]", source=((file, line),), line=10 * line)
    return Site(ptx, space, action, size)


def finding(kind: str, place: Site | None, other: Site | None = None, **more: int) -> Finding:
    numbers = dict(block=0, thread=31, other_block=0, other_thread=32, address=0, size=4, array=0, count=1, **{})
    return Finding(kind, place, other, **{**numbers, **more})


def result(*findings: Finding, grid=(2, 1, 1), block=(64, 1, 1), **more: Any) -> Result:
    return Result("reverse", grid, block, list(findings), [], ARRAYS, np.zeros((0, 5), int), **more)


def said(*findings: Finding, **more: Any) -> str:
    found = result(*findings, **more)
    assert len(found.faults) == 1
    return str(found.faults[0])


def test_out_of_bounds(file):
    one = finding("out of bounds", site(file, 18), address=512, thread=127, count=3)
    assert said(one, block=(128, 1, 1)).splitlines() == [
        "out of bounds: reads x[128], but x has 128 elements (3 times)",
        "  thread 127 of block 0, in",
        "    faults.py:18:  out[t] = scaled(x, t)",
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(address=-4), "reads x[-1], but x has 128 elements"),
        (dict(address=672), "reads x[168], but x has 128 elements"),
        (dict(address=504, size=16), "reads x[126] to x[129], but x has 128 elements"),
        (dict(address=128, array=1), "reads grid[4, 0], but grid has shape (4, 8)"),
        (dict(address=256, array=2), "reads element 64 of shared array 1, but it has 64 elements"),
        (dict(address=128, array=3), "reads column[4], but column has 4 elements"),
        (dict(address=-40 + 288, array=4), "reads back[1][4, 5], but back[1] has shape (4, 6)"),
        (dict(address=8, array=4), "reads back[1][0, -1], but back[1] has shape (4, 6)"),
        (dict(address=648, array=5), "reads byte 8 of states[40], but states has 40 elements"),
        (dict(address=-4, array=6), "reads bytes -4 to -1 of local memory, but it has 28 bytes"),
        (dict(address=2**40), "reads memory 1099511627268 bytes away from x, the nearest array"),
        (dict(address=5, array=-1), "reads 4 bytes that are of no array"),
    ],
)
def test_how_far_out_of_bounds(file, changes, words):
    assert said(finding("out of bounds", site(file, 18), **changes)).splitlines()[0] == f"out of bounds: {words}"


@pytest.mark.parametrize(("action", "verb"), [("write", "writes"), ("atomic", "updates")])
def test_other_accesses_out_of_bounds(file, action, verb):
    one = finding("out of bounds", site(file, 18, action), address=512)
    assert said(one).startswith(f"out of bounds: {verb} x[128], but ")


def test_blocks_and_threads_have_as_many_numbers_as_in_the_launch(file):
    one = finding("misaligned", site(file, 18), thread=31, block=4, size=16, address=4)
    shown = result(one, grid=(2, 3, 1), block=(32, 8, 1))
    assert "  thread (31, 0) of block (0, 2), in" in str(shown)
    assert str(shown).startswith("1 fault in reverse[(2, 3), (32, 8)]\n\nmisaligned: a 16-byte read at byte 4 of x, ")
    assert shown.faults[0].block == (0, 2, 0) and shown.faults[0].source == (file, 18)


def test_misaligned(file):
    one = finding("misaligned", site(file, 18, size=16), size=16, address=4)
    assert said(one).splitlines()[0] == "misaligned: a 16-byte read at byte 4 of x, which is no multiple of 16"
    assert "byte 0 of x, whose own address is no multiple of 16" in said(one._replace(address=0))


def test_negative_index(file):
    one = finding("negative index", site(file, 18), address=-1, array=-1)
    assert said(one).startswith("negative index: the index -1 counts from the end, as in Python\n")


def test_uninitialised(file):
    one = finding("uninitialised", site(file, 16, space="shared"), address=252, array=2, count=64)
    assert said(one).startswith(
        "uninitialised: reads element 63 of shared array 1, which nobody has written (64 times)\n  thread 31 of"
    )
    local = finding("uninitialised", site(file, 16, space="local"), address=8, array=-1)
    assert "reads bytes 8 to 11 of local memory, which this thread has not written" in said(local)


def test_race(file):
    write, read = (site(file, line, action, "shared") for line, action in ((10, "write"), (18, "read")))
    early = finding("uninitialised", read, array=2, count=7)
    one = finding("race", read, write, address=128, array=2, count=60)
    other = finding("race", write, read, address=4, array=2, count=4)
    assert said(early, one, other).splitlines() == [
        "race: one thread writes element 32 of shared array 1, another reads it, and nothing says which comes first "
        "(64 times)",
        "  thread 32 of block 0 writes it in",
        "    faults.py:10:  tile[t] = x[cuda.grid(1)]",
        "  thread 31 of block 0 reads it in",
        "    faults.py:18:  out[t] = scaled(x, t)",
        "  cuda.syncthreads() between the two lines?",
    ]


ATOMIC = "a case for cuda.atomic?"
CHANCE = "should each thread write elements of its own?"
BLOCKS = "blocks run in any order, and no barrier waits for all of them: cuda.atomic, or a second launch?"
THREADS = "cuda.syncthreads() between the two lines?"


@pytest.mark.parametrize(
    ("lines", "actions", "who", "hint"),
    [
        ((10, 18), ("write", "read"), {}, THREADS),
        ((10, 18), ("write", "read"), dict(other_thread=30), "cuda.syncwarp() between the two lines?"),
        ((10, 18), ("write", "read"), dict(other_block=1), BLOCKS),
        ((16, 16), ("read", "write"), {}, "cuda.syncthreads() between reading and writing?"),
        ((17, 17), ("write", "write"), {}, CHANCE),
        ((10, 17), ("write", "write"), {}, CHANCE),
        ((10, 17), ("write", "write"), dict(array=2), THREADS),
    ],
)
def test_the_hint_of_a_race_fits(file, lines, actions, who, hint):
    places = (site(file, line, action) for line, action in zip(lines, actions, strict=True))
    assert hint in said(finding("race", *places, **who)).splitlines()[-1]


def test_a_line_that_reads_and_writes_one_element_needs_an_atomic(file):
    read, write = site(file, 17, "read"), site(file, 17, "write")
    assert ATOMIC in said(finding("race", read, write), finding("race", write, write))


@cuda.jit
def tree(out):
    part = cuda.shared.array(128, float32)
    t, half = cuda.threadIdx.x, 64
    part[t] = t
    cuda.syncthreads()
    while half > 0:
        if t < half:
            part[t] += part[t + half]
        half //= 2
    if t == 0:
        out[0] = part[0]


@cuda.jit
def one_for_all(out):
    part = cuda.shared.array(128, float32)
    for k in range(3):
        part[cuda.threadIdx.x] = 1
        cuda.syncthreads()
        if cuda.threadIdx.x == 0:
            for j in range(128):
                out[k] += part[j]


@pytest.mark.parametrize("kernel", [tree, one_for_all])
def test_the_place_of_a_missing_barrier_in_a_loop(kernel):
    """Sites of a loop that the compiler has unrolled are one, and the example is of threads in different warps."""
    (fault,) = check_kernel(kernel, 1, 128, np.zeros(3, np.float32)).faults
    assert fault.kind == "race" and fault.text.endswith("  cuda.syncthreads() at the end of the loop?")
    warps = {int(number) // 32 for number in re.findall(r"thread (\d+) of", fault.text)}
    assert len(warps) == 2


def test_divergent_barrier(file):
    one = finding("divergent barrier", site(file, 12, "barrier", ""), site(file, 13, "barrier", ""), array=-1, thread=0)
    assert said(one, grid=(2, 2, 1)).splitlines()[:5] == [
        "divergent barrier: threads of block (0, 0) wait at different barriers",
        "  thread 0 of block (0, 0) waits at",
        "    faults.py:12:  cuda.syncthreads()",
        "  thread 32 of block (0, 0) waits at",
        "    faults.py:13:  cuda.syncthreads()",
    ]


@pytest.mark.parametrize(
    ("kind", "line", "words"),
    [
        ("missing threads", 13, "28 of the 64 threads of block 0 never reach a barrier: they have returned"),
        ("missing lanes", 14, "28 lanes are named in the mask of a warp operation, but not there"),
        ("endless loop", 9, "a loop does not end"),
        ("assertion", 9, "an assertion failed"),
    ],
)
def test_other_faults(file, kind, line, words):
    text = said(finding(kind, site(file, line, "barrier", ""), size=28, array=-1))
    assert text.startswith(f"{kind}: {words}\n  thread 31 of block 0") and f"faults.py:{line}:  " in text


def test_words_of_exceptions_and_a_lane_that_is_not_there(file):
    place = site(file, 9)
    place = place._replace(instruction=instruction("raise", source=((file, 9),)))
    place.instruction.text = "raise ValueError: too%20large"
    assert said(finding("assertion", place, array=-1)).startswith("assertion: raises ValueError: too large\n")
    text = said(finding("missing lanes", site(file, 14, "warp", ""), size=1, other_thread=30, array=-1))
    assert text.startswith("missing lanes: one lane is named") and "\n  thread 30 of block 0 is not there\n" in text


def test_what_follows_from_a_fault_is_left_out(file):
    """After a barrier that only some reach the threads are out of step, and after an endless loop the run ends."""
    first, second = site(file, 12, "barrier", ""), site(file, 13, "barrier", "")
    divergent = finding("divergent barrier", first, second, array=-1)
    returned = finding("missing threads", second, array=-1)
    endless = finding("endless loop", site(file, 15), array=-1)
    found = result(divergent, returned, endless, finding("never written", None))
    assert [fault.kind for fault in found.faults] == ["divergent barrier", "endless loop"]


def test_never_written():
    one = finding("never written", None, address=160, count=12)
    assert said(one).splitlines()[0] == "never written: 12 of the 128 elements of x, the first is x[40]"


def test_a_device_function_says_who_called_it_and_ptx_is_for_those_without_source(file):
    inner = site(file, 3)._replace(instruction=instruction("ld.f32", source=((file, 3), (file, 18))))
    text = said(finding("out of bounds", inner, address=512))
    assert "    faults.py:3:  return x[i] * 0.5\n    called from faults.py:18:  out[t] = scaled(x, t)" in text
    unknown = Site(instruction("ld.shared.f32", "%f2", "[%rd26]"), "global", "read", 4)
    assert said(finding("out of bounds", unknown)).endswith("\n    PTX line 76:  ld.shared.f32 %f2, [%rd26]")
    nowhere = site("/gone/elsewhere.py", 3)
    assert said(finding("out of bounds", nowhere)).endswith("    elsewhere.py:3:")


def test_faults_are_merged_by_line_and_counted(file):
    kinds = finding("out of bounds", site(file, 18), count=2), finding("out of bounds", site(file, 18, "write"))
    found = result(*kinds, finding("out of bounds", site(file, 17)))
    assert str(found).startswith("2 faults in reverse[2, 64]\n\n")
    assert [fault.count for fault in found.faults] == [3, 1]


def test_a_fault_of_a_kernel_can_be_pickled(file):
    error = KernelFault(result(finding("never written", None, count=12)))
    error.result.gpu_ptx = lambda: ""
    assert str(error) == str(error.result) == str(pickle.loads(pickle.dumps(error)))


def counted(file: str, **more: Any) -> Result:
    found = result(finding("race", site(file, 18), site(file, 10, "write")), **more)
    found.sites = [site(file, 10), site(file, 10, "write", "shared"), site(file, 18, "write"), site(file, 3)]
    found.counts = np.array([[4, 128, 16, 16, 4], [4, 128, 128, 4, 32], [4, 64, 16, 8, 5], [0, 0, 0, 0, 0]])
    return found


def test_a_clean_run_says_what_was_checked(file):
    found = counted(file, accesses=320)
    found.findings.clear()
    assert str(found) == "no fault found in reverse[2, 64]\nchecked: 320 accesses, at 2 source lines"


def test_the_profile_has_the_worst_line_first(file):
    head, *rows, shared, strided = counted(file).profile().splitlines()
    assert head.startswith("what an access of a warp costs in reverse[2, 64]")
    assert [re.split("  +", row.strip()) for row in rows] == [
        ["shared write: 32 passes, 1 would do: 32×", "faults.py:10:", "tile[t] = x[cuda.grid(1)]"],
        ["global write: 4 sectors, 2 would do: 2×; 16 of 32 lanes", "faults.py:18:", "out[t] = scaled(x, t)"],
        ["global read: 4 sectors", "faults.py:10:", "tile[t] = x[cuda.grid(1)]"],
    ]
    assert len({row.index("faults.py") for row in rows}) == 1
    assert (shared[:15], strided[:15]) == ("global memory: ", "shared memory: ")
    assert result().profile() == "no access of memory was counted in reverse[2, 64]"


class Rows(HTMLParser):
    """Rows of all tables as their class and text; counts what is open, to find tags that nobody closes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append((dict(attrs)["class"], ""))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "tr" in self.open:
            kind, text = self.rows[-1]
            self.rows[-1] = kind, text + data


def test_the_annotated_source_has_every_line_its_costs_and_its_faults(file):
    page = counted(file).html()
    parsed = Rows(page)
    assert parsed.open == [] and "<script" not in page and "&lt;&amp;&gt;" in page
    lines = {int(match[0]): kind for kind, text in parsed.rows if (match := re.match(r"\d+", text))}
    assert sorted(lines) == [1, 2, 3, *range(6, 19)]
    assert (lines[10], lines[18], lines[9]) == ("worst", "bad", "good")
    after = [parsed.rows[number + 1] for number, row in enumerate(parsed.rows) if row[1].startswith(("10", "18"))]
    assert [kind for kind, _ in after] == ["fault", "fault"] and "race: one thread writes x[0], another" in after[0][1]
    assert "shared write: 32 passes, 1 would do: 32×" in parsed.rows[4][1]


def test_source_that_cannot_be_had_is_listed_by_number():
    found = counted("/gone/elsewhere.py")
    assert [text[:2] for _, text in Rows(found._repr_html_()).rows if text[0] != "✗"] == ["10", "18", "3"]


def kernel(*body: Any, local: int = 0) -> Any:
    return SimpleNamespace(body=list(body), local_bytes=local, shared_bytes=0)


def test_nothing_to_say():
    assert result().lint() == "nothing to say"


def test_float64(file):
    at = dict(source=((file, 3),))
    body = [
        instruction("cvt.f64.f32", "%fd1", "%f1", **at),
        instruction("mul.f64", "%fd2", "%fd1", "0d3FE0000000000000", **at),
        instruction("cvt.rn.f32.f64", "%f2", "%fd2", **at),
    ]
    text = result(kernel=kernel(*body)).lint()
    assert text.splitlines()[0].startswith("3 x float64, though no array in global memory is: ")
    assert text.splitlines()[1:] == [
        "  faults.py:3:  return x[i] * 0.5",
        "  0.5 is float64 in Python: float32(0.5)?",
    ]
    stored = instruction("st.global.f64", "[%rd1]", "%fd2", **at)
    assert result(kernel=kernel(*body, stored)).lint() == "nothing to say"
    untyped = instruction("st.global.b64", "[%rd1]", "%fd2", **at)
    assert result(kernel=kernel(*body, untyped)).lint() == "nothing to say"
    loaded = instruction("ld.global.b64", "%rd2", "[%rd1]", **at)
    converted = instruction("cvt.rn.f64.s64", "%rd3", "%rd2", **at)
    assert result(kernel=kernel(loaded, converted)).lint().startswith("1 x float64, though no array in global ")
    shared = instruction("ld.shared.b64", "%fd2", "[%rd1]", **at)
    assert "a shared array of float64" in result(kernel=kernel(shared, body[2])).lint()
    scalar = instruction("ld.param.f64", "%fd1", "[p]")
    assert "a Python float as an argument" in result(kernel=kernel(scalar, body[2])).lint()
    whole = instruction("cvt.rn.f64.s32", "%fd1", "%r1", **at)
    assert "a whole number" in result(kernel=kernel(whole)).lint()


def test_division_in_a_loop(file):
    divide = instruction("rem.s32", "%r1", "%r2", "%r3", source=((file, 9),))
    label, back = instruction(label="$L1"), instruction("bra", "$L1")
    assert "integer division or remainder in a loop" in result(kernel=kernel(label, divide, back)).lint()
    for outside in ((divide, label, back), (label, back, divide), (back, divide, label)):
        assert result(kernel=kernel(*outside)).lint() == "nothing to say"


def test_local_memory(file):
    found = result(kernel=kernel(local=160))
    found.sites.append(site(file, 16, space="local"))
    text = found.lint()
    assert text.startswith("160 bytes of local memory for each thread") and "faults.py:16:" in text


@pytest.mark.parametrize(
    ("registers", "shared", "threads", "words"),
    [
        (32, 0, 256, "8 blocks of 256 threads, 64 of 64 warps: limited by threads"),
        (128, 0, 256, "2 blocks of 256 threads, 16 of 64 warps: limited by registers"),
        (32, 48 * 1024, 128, "3 blocks of 128 threads, 12 of 64 warps: limited by shared memory"),
        (16, 0, 32, "32 blocks of 32 threads, 32 of 64 warps: limited by blocks"),
        (255, 0, 1024, "0 blocks of 1024 threads, 0 of 64 warps: limited by registers"),
    ],
)
def test_occupancy(registers, shared, threads, words):
    assert report._occupancy(registers, shared, threads).endswith(words)


@pytest.mark.sass
def test_registers():
    ptx = ".version 7.0\n.target sm_75\n.address_size 64\n.visible .entry nothing()\n{\nret;\n}\n"
    text = result(ptx=ptx).lint()
    assert re.match(r"nothing to say\n\n\d+ registers a thread, no spills \(sm_80\)\n  a multiprocessor", text)
    assert "ptxas did not take the kernel: " in result(gpu_ptx=lambda: ptx.replace("ret", "leave")).lint()
