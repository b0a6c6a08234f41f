"""Arguments of every kind, and kernels that would bring a program down: Python lives on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from by_hand import run
from numba import cuda, float32, int64

from cks_numba.emulator import PTXError, check_kernel, emulate, run_kernel


@cuda.jit
def double(x):
    i = cuda.grid(1)
    if i < x.size:
        x[i] = x[i] + x[i]


@cuda.jit
def copy(out, x):
    i = cuda.grid(1)
    if i < x.size:
        out[i] = x[i]


@cuda.jit
def add_matrices(out, x, y):
    i, j = cuda.grid(2)
    if i < out.shape[0] and j < out.shape[1]:
        out[i, j] = x[i, j] + y[i, j]


def clean(*launch, **options):
    result = check_kernel(*launch, **options)
    assert not result.faults, str(result)
    return result


# --- arrays of every kind --------------------------------------------------------------------------
LAYOUTS = {
    "C": lambda a: a,
    "Fortran": np.asfortranarray,
    "transposed": lambda a: a.T.copy().T,
    "negative strides": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "every other element": lambda a: np.repeat(np.repeat(a, 2, 0), 3, 1)[::2, ::3],
    "a middle part": lambda a: np.pad(a, 3)[3:-3, 3:-3],
}


@pytest.mark.parametrize("fast", [False, True], ids=["checked", "fast"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, fast):
    x = np.arange(35.0).reshape(5, 7)
    out, one, two = LAYOUTS[layout](np.zeros((5, 7))), LAYOUTS[layout](x), LAYOUTS[layout](x * 10)
    (run_kernel if fast else clean)(add_matrices, (1, 2), (8, 4), out, one, two)
    np.testing.assert_array_equal(out, x * 11)


@pytest.mark.parametrize(
    "dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16", "?", "m8[s]"]
)
def test_dtypes(dtype):
    x = np.arange(40).astype(dtype)
    out = np.zeros_like(x)
    clean(copy, 2, 32, out, x)
    np.testing.assert_array_equal(out, x)


def test_structured_arrays_and_records():
    @cuda.jit
    def exchange(rows, one):
        i = cuda.grid(1)
        if i < rows.size:
            rows[i].x, rows[i].y = rows[i].y, rows[i].x + one.x

    rows = np.zeros(5, np.dtype([("x", "f8"), ("y", "f8")]))
    rows["x"], rows["y"] = np.arange(5), 7
    clean(exchange, 1, 8, rows, np.ones(1, rows.dtype)[0])
    np.testing.assert_array_equal(rows["x"], 7)
    np.testing.assert_array_equal(rows["y"], np.arange(5) + 1)


def test_array_without_dimensions():
    @cuda.jit
    def set_it(x):
        x[()] = 3

    x = np.zeros((), np.float32)
    clean(set_it, 1, 1, x)
    assert x == 3


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
def test_empty_arrays(shape):
    x = np.zeros(shape)
    clean(double, 1, 32, x.reshape(-1))
    if len(shape) == 2:
        clean(add_matrices, 1, (4, 4), x, x, x)


def test_read_only_arrays_are_read():
    x, out = np.arange(5.0), np.zeros(5)
    x.flags.writeable = False
    clean(copy, 1, 8, out, x)
    np.testing.assert_array_equal(out, x)
    with pytest.raises(Exception, match="[Cc]annot modify readonly|setitem"):
        check_kernel(double, 1, 8, x)


def test_the_same_array_twice_and_views_that_overlap():
    x = np.arange(8.0)
    clean(copy, 1, 8, x, x)
    (fault,) = check_kernel(copy, 1, 8, x[1:], x[:-1]).faults
    assert fault.kind == "race" and "one thread reads" in str(fault)
    x = np.arange(8.0)
    clean(copy, 1, 8, x[::2], x[1::2])
    np.testing.assert_array_equal(x, [1, 1, 3, 3, 5, 5, 7, 7])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.arange(3, dtype=">f4"), "a kernel takes no arrays of >f4"),
        (np.zeros(2, [("x", ">i4")]), "a kernel takes no arrays of"),
        (np.array([None, 1]), "a kernel takes no arrays of object"),
        *((value, f"not {type(value).__name__}") for value in (object(), [1.0], None, {}, "text")),
    ],
)
def test_arguments_that_no_kernel_takes(value, words):
    with pytest.raises(TypeError, match=words):
        check_kernel(double, 1, 8, value)


def test_an_array_at_an_address_that_only_a_copy_mends():
    x = np.arange(9, dtype=np.uint8)[1:].view(np.float64)
    out = np.zeros(1)
    clean(copy, 1, 1, out, x)
    assert out.tobytes() == bytes(range(1, 9))


@pytest.mark.parametrize(
    ("grid", "block"),
    [
        (0, 1),
        (1, 0),
        (-1, 4),
        (1, 1025),
        (
            (1, 1, 1, 1),
            1,
        ),
        (1, (32, 33)),
        (1, (1, 1, 65)),
        (1.5, 1),
        ("a", 1),
    ],
)
def test_launches_that_no_gpu_makes(grid, block):
    with pytest.raises((TypeError, ValueError)):
        check_kernel(double, grid, block, np.zeros(4))


def test_scalars_and_tuples():
    @cuda.jit
    def all_of_them(out, a, b, c, d, e, parts):
        x, (y, z) = parts
        out[0] = a + b + c.real + d + (1 if e else 0) + x[0] + y[0] * z

    out = np.zeros(1)
    parts = (np.full(2, 5.0), (np.full(1, 2, np.int16), 10))
    clean(all_of_them, 1, 1, out, 1, np.float32(0.5), 2 + 1j, np.int8(-3), True, parts)
    assert out[0] == 1 + 0.5 + 2 - 3 + 1 + 5 + 20


# --- kernels that do the worst ---------------------------------------------------------------------
@cuda.jit
def writes_everywhere(x, far):
    for k in range(-200, 200):
        x[k * far + cuda.threadIdx.x] = k


@pytest.mark.parametrize("far", [1, 1000, 2**20, 2**40, 2**60])
def test_a_kernel_that_writes_everywhere(far):
    faults = check_kernel(writes_everywhere, 2, 64, np.zeros(10), far).faults
    assert "out of bounds" in {fault.kind for fault in faults}


def test_arrays_that_lie_about_their_size():
    huge = np.lib.stride_tricks.as_strided(np.zeros(1), (4, 4), (0, 0))
    out = np.zeros((4, 4))
    clean(add_matrices, 1, (4, 4), out, huge, huge)


def test_a_thousand_threads_and_much_shared_memory():
    @cuda.jit
    def turn(x):
        tile = cuda.shared.array(0, float32)
        t = cuda.threadIdx.x
        for k in range(12):
            tile[t + 1024 * k] = x[t]
        cuda.syncthreads()
        x[t] = tile[12 * 1024 - 1 - t]

    x = np.arange(1024, dtype=np.float32)
    clean(turn, 1, 1024, x, shared=12 * 4096)
    np.testing.assert_array_equal(x, np.arange(1024)[::-1])


def test_many_blocks():
    x = np.zeros(100_000, np.float32)
    x[:] = 1
    clean(double, 100_000, 1, x)
    np.testing.assert_array_equal(x, 2)


def test_loops_within_loops():
    @cuda.jit
    def count(out):
        n = int64(0)
        for _a in range(3):
            for _b in range(4):
                for _c in range(5):
                    for _d in range(6):
                        cuda.syncthreads()
                        for _e in range(out.size):
                            if _e % 3 == 0:
                                continue
                            n += 1
        out[cuda.threadIdx.x] = n

    out = np.zeros(32, np.int64)
    clean(count, 1, 32, out)
    np.testing.assert_array_equal(out, 3 * 4 * 5 * 6 * (32 - 11))


@pytest.mark.parametrize("address", [0, 8, 2**47, 2**63 - 8, 2**63, 2**64 - 8])
@pytest.mark.parametrize("space", [".global", ".shared", ".local", ""])
def test_addresses_of_nothing(space, address):
    found = run(f"mov.u64 %d0, {address}; ld{space}.u64 %d1, [%d0];\nst{space}.u64 [%d0], %d1;", np.zeros(1)).faults
    assert [fault.kind for fault in found] == ["out of bounds"] * 2, [str(fault) for fault in found]


def test_an_instruction_that_is_not_known_names_its_line():
    with pytest.raises(PTXError, match=r"does not know the PTX instruction 'tex.1d.v4.f32.s32"):
        run("tex.1d.v4.f32.s32 {%f0, %f1, %f2, %f3}, [%d0, {%r2}];", np.zeros(1))


# --- the process around it -------------------------------------------------------------------------
def test_many_launches_leak_no_memory():
    def size():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    x = np.ones(100_000, np.float32)
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("the system does not say how much memory a process has")
    for _ in range(20):
        check_kernel(double, 400, 256, x)
    before = size()
    for _ in range(200):
        check_kernel(double, 400, 256, x)
    assert size() - before < 30e6


def test_several_threads_at_once():
    wrong, errors = np.zeros(8), []

    def work(k):
        try:
            for _ in range(5):
                x = np.full(64, float(k))
                clean(double, 2, 32, x)
                wrong[k] += (x != 2 * k).sum()
                with emulate():
                    double[2, 32](x)
                wrong[k] += (x != 4 * k).sum()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and not wrong.any()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_process():
    clean(double, 1, 8, np.ones(8))
    program = """
import os, numpy as np
from numba import cuda
from cks_numba.emulator import check_kernel
@cuda.jit
def double(x):
    x[cuda.grid(1)] *= 2
x = np.ones(8)
check_kernel(double, 1, 8, x)
child = os.fork()
result = check_kernel(double, 1, 8, x)
assert not result.faults and (x == 4).all()
if child:
    assert os.waitpid(child, 0)[1] == 0
    print("both", flush=True)
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout == "both\n", done.stderr


LONG = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started this with it ignored
import sys, numpy as np
from numba import cuda
from cks_numba.emulator import check_kernel, machine, run_kernel
@cuda.jit
def forever(x):
    k = 1
    while k:
        k = (k * 3 + x[1] + cuda.threadIdx.x) | 1
        WAIT
    x[0] = k
x = np.zeros(2, np.int64)
check_kernel(forever, 1, 4, x, limit=1)
print("begins", flush=True)
try:
    RUN
except KeyboardInterrupt:
    print("stopped, but for", len(machine._abandoned), flush=True)
"""
RUNS = {
    "checked": ("pass", "check_kernel(forever, 1, 4, x, limit=10**15)"),
    "checked, with barriers": ("cuda.syncthreads()", "check_kernel(forever, 1, 256, x, limit=10**15)"),
    "fast, with barriers": ("cuda.syncthreads()", "run_kernel(forever, 1, 256, x)"),
    "fast": ("pass", "run_kernel(forever, 1, 4, x)"),
}


@pytest.mark.skipif(os.name != "posix", reason="no SIGINT can be sent to one process")
@pytest.mark.parametrize("how", RUNS)
def test_control_c(how, tmp_path):
    wait, run = RUNS[how]
    path = tmp_path / "long.py"
    path.write_text(LONG.replace("WAIT", wait).replace("RUN", run))
    with subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "begins\n"
            time.sleep(1.5)
            start = time.perf_counter()
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == f"stopped, but for {int(how == 'fast')}\n"
            assert time.perf_counter() - start < 1
        finally:
            process.kill()
