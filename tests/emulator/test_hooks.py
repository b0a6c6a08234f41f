"""Kernels become PTX with both compilers; the cache on disk; parameters; launches and arrays without a driver."""

from __future__ import annotations

import importlib
import os
import re
import runpy
import shutil
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from hook_cases import CASES
from llvmlite.binding import llvm_version_info
from numba import cuda
from numba.cuda.cudadrv import nvvm
from numba.cuda.cudadrv.error import NvvmError

from cks_numba.emulator import cache, hooks
from cks_numba.emulator.__main__ import main
from cks_numba.emulator.ptx import parse

COMPILERS = [
    pytest.param("nvvm", marks=pytest.mark.skipif(hooks.nvvm_version() is None, reason="NVVM is not installed")),
    "llvm",
]


def parameters_of(ptx):
    """Bytes of each parameter of the kernel in a PTX text."""
    lines = [line for line in re.search(r"\.entry [^(]*\((.*?)\)\n", ptx, re.S)[1].splitlines() if ".param" in line]
    bits = [int(re.search(r"\.[busf](\d+)", line)[1]) for line in lines]
    counts = [int((re.search(r"\[(\d+)\]", line) or [0, 1])[1]) for line in lines]
    return [width // 8 * count for width, count in zip(bits, counts, strict=True)]


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("name", CASES)
def test_features_compile(name, compiler):
    """Every feature of Numba for CUDA reaches PTX, with the instructions that stand for it.

    The kernel gets as many parameters as its PTX has, of the same sizes.
    """
    kernel, arguments, holds = CASES[name]
    ptx = hooks.ptx_of(kernel, arguments, compiler, cached=False)
    assert not [word for word in holds if word not in ptx]
    assert "llvm." not in ptx
    values = [*hooks.flatten(arguments, lambda array: array.ctypes.data)]
    assert [len(value) for value in values] == parameters_of(ptx)


def lines_of(ptx):
    """Names of files and lines in the PTX, without those that a function is inlined at."""
    files = dict(re.findall(r'\.file\s+(\d+) "(.*?)"', ptx))
    return {(files[number].rpartition("/")[2], int(line)) for number, line in re.findall(r"\.loc\s+(\d+) (\d+)", ptx)}


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("how", ['inline="always"', "forceinline=True", "lineinfo=True", ""])
def test_lines_are_those_of_the_functions(tmp_path, monkeypatch, how, compiler):
    """Instructions of device functions name the file and line where these are written, however they are inlined."""
    if "force" in how and find_spec("numba_cuda") is None:
        how = "inline=True"  # the same in Numba's own numba.cuda
    far, jit = f"far_{abs(hash(how))}", f"@cuda.jit(device=True, {how})"
    (tmp_path / f"{far}.py").write_text(f"from numba import cuda\n\n{jit}\ndef far(v):\n    return v * 3\n")
    (tmp_path / "near.py").write_text(
        f"from numba import cuda\nfrom {far} import far\n\n{jit}\ndef near(v):\n    return v + 5\n\n"
        "@cuda.jit\ndef kernel(a):\n    b = a[0]\n    a[1] = far(b)\n    a[2] = near(b)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    space = runpy.run_path(str(tmp_path / "near.py"))
    lines = lines_of(hooks.ptx_of(space["kernel"], (np.zeros(4, np.int32),), compiler, cached=False))
    assert {("near.py", 6), ("near.py", 10), ("near.py", 11), (f"{far}.py", 5)} <= lines
    assert {name for name, _ in lines} == {"near.py", f"{far}.py"}


@pytest.mark.parametrize("compiler", COMPILERS)
def test_lines_tell_all_callers(tmp_path, compiler):
    """An access in an inlined function tells every call on the way there, in files with any name, each in its own."""
    (tmp_path / 'ä "b').mkdir()
    path = tmp_path / 'ä "b' / "ö.py"
    path.write_text(
        "from numba import cuda\n\n"
        "@cuda.jit(device=True)\ndef deep(a, i):\n    a[i] += 1\n\n"
        "@cuda.jit(device=True)\ndef between(a, i):\n    deep(a, i)\n    deep(a, i * i)\n\n"
        "@cuda.jit\ndef kernel(a):\n    i = cuda.grid(1)\n    between(a, i)\n    between(a, 3 * i)\n"
    )
    ptx = hooks.ptx_of(runpy.run_path(str(path))["kernel"], (np.zeros(4, np.int32),), compiler, cached=False)
    writes = [i.source for i in parse(ptx).body if i.op[:2] == ("st", "global")]
    chains = [(5, between, kernel) for kernel in (15, 16) for between in (9, 10)]
    assert writes == [tuple((str(path), line) for line in chain) for chain in chains]


@pytest.mark.parametrize("compiler", COMPILERS)
def test_multiply_and_add_are_fused(compiler):
    """Both compilers make one instruction of a product and a sum, as on a GPU."""

    def kernel(a):
        a[0] = a[1] * a[2] + a[3]

    ptx = hooks.ptx_of(cuda.jit(kernel), (np.zeros(4, np.float32),), compiler, cached=False)
    assert "fma.rn.f32" in ptx and "mul.f32" not in ptx and "mul.rn.f32" not in ptx


@pytest.mark.skipif(find_spec("numba_cuda") is None, reason="Numba's own numba.cuda aligns arrays by their elements")
@pytest.mark.parametrize("compiler", COMPILERS)
def test_neighbours_in_shared_memory_are_read_at_once(compiler):
    """Both compilers find out what an index is divisible by, and that a loop's index is not below zero."""
    if compiler == "llvm" and llvm_version_info < (15,):
        pytest.skip("LLVM 14 reads them one by one")

    def kernel(a):
        tile = cuda.shared.array(64, np.float32, 16)
        t = np.uint32(cuda.threadIdx.x % 64)
        tile[t] = a[t]
        cuda.syncthreads()
        for k in range(4):
            a[t] += tile[t // np.uint32(4) * np.uint32(4) + np.uint32(k)]

    ptx = hooks.ptx_of(cuda.jit(kernel), (np.zeros(64, np.float32),), compiler, cached=False, watched=True)
    assert re.search(r"ld\.shared\.v4\.[bf]32", ptx) and "index" not in ptx


@pytest.mark.parametrize("compiler", COMPILERS)
def test_branches_that_ask_for_the_lanes_of_their_own_are_not_merged(compiler):
    def kernel(a):
        if cuda.threadIdx.x % 2:
            a[0] = cuda.activemask()
        else:
            a[1] = cuda.activemask()

    ptx = hooks.ptx_of(cuda.jit(kernel), (np.zeros(4, np.uint32),), compiler, cached=False)
    assert ptx.count("activemask.b32") == 2


@pytest.mark.parametrize("compiler", COMPILERS)
def test_options_are_honoured(compiler):
    """fastmath flushes denormals, launch bounds are stated, debug code is not optimised, linked code is an error."""

    def kernel(a):
        a[0] = a[1] + a[2]

    def ptx(**options):
        return hooks.ptx_of(cuda.jit(**options)(kernel), (np.zeros(4, np.float32),), compiler, cached=False)

    assert ".ftz" in ptx(fastmath=True) and ".ftz" not in ptx()
    assert len(ptx(debug=True, opt=False).splitlines()) > 2 * len(ptx().splitlines())
    if find_spec("numba_cuda"):
        assert re.search(r"\.maxntid\s+64", ptx(launch_bounds=(64, 2)))
    with pytest.raises(RuntimeError, match="links other code"):
        ptx(link=["other.cu"])


@pytest.mark.skipif(hooks.nvvm_version() is None, reason="NVVM is not installed")
@pytest.mark.parametrize("newer", [False, True], ids=["of Numba", "of NVIDIA"])
@pytest.mark.parametrize("chosen", [None, "nvvm"])
def test_what_nvvm_refuses_is_compiled_by_llvm_where_no_compiler_was_chosen(monkeypatch, chosen, newer):
    def refuse(modules, options):
        asked.append(options)
        raise error

    kind = getattr(nvvm, "nvvmError", None) if newer else NvvmError
    if kind is None:
        pytest.skip("this numba.cuda has an error of its own alone")
    error = kind(9)  # cuda.bindings: ERROR_COMPILATION

    asked = []
    monkeypatch.setattr(hooks, "_nvvm_ptx", refuse)
    kernel = cuda.jit(lambda out: None)
    if chosen:
        with pytest.raises(kind):
            hooks.ptx_of(kernel, (np.zeros(1),), chosen, cached=False)
    else:
        assert [".entry" in hooks.ptx_of(kernel, (np.zeros(1),), cached=False) for _ in range(2)] == [True, True]
    assert len(asked) == 1


def test_exceptions_are_told_in_the_ptx():
    """A raise is a statement of its own; its text may hold any characters."""

    def kernel(a):
        if a[0] == 1:
            raise ValueError('50% of "a" €;\n', 3)

    ptx = hooks.ptx_of(cuda.jit(kernel), (np.zeros(4, np.int32),), "llvm", cached=False)
    assert [*map(unquote, re.findall(r'\.pragma "raise (.*)"', ptx))] == ['ValueError: 50% of "a" €;\n, 3']


def test_what_is_no_kernel_is_an_error():
    """A plain function, a device function, a wrong number of arguments, an unknown compiler, an odd argument."""
    for wrong in (len, cuda.jit(device=True)(lambda a: a), None):
        with pytest.raises(TypeError, match="@cuda.jit"):
            hooks.ptx_of(wrong, ())
    with pytest.raises(TypeError, match="takes 3 arguments"):
        hooks.ptx_of(adding, (1, 2))
    with pytest.raises(ValueError, match="compiler"):
        hooks.ptx_of(adding, (1, 2, 3), "gcc")
    with pytest.raises(TypeError, match="argument 2"):
        hooks.ptx_of(adding, (1, object(), 3))


def test_device_functions_for_a_gpu_are_left_alone():
    """Compiling for the emulator leaves no trace in the dispatchers, which a GPU of the same process would use."""

    def function(v):
        if v < 0:
            raise ValueError
        return v

    device = cuda.jit(device=True)(function)

    def kernel(a):
        a[0] = device(a[1])

    hooks.ptx_of(cuda.jit(kernel), (np.zeros(4, np.int32),), cached=False)
    assert not device.overloads and not device.targetoptions.get("lineinfo")


# ---- the cache on disk ----


@pytest.fixture
def compilations(tmp_path, monkeypatch):
    """A list that grows by every compilation; the cache is an empty folder."""
    done = []
    plain = hooks._front_end
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(hooks, "_front_end", lambda *args: done.append(args[0]) or plain(*args))
    return done


SOURCE = """
import math, helper
from numba import cuda
SCALE = {scale}
@cuda.jit(device=True)
def inner(v):
    return v * helper.FACTOR + {inner}
@cuda.jit({options})
def kernel(a):
    a[0] = inner(a[1]) * SCALE + math.sqrt(a[2])
"""


def fresh(folder, monkeypatch, factor=2, scale=3, inner=1, options=""):
    """A kernel as a new process would make it from this source."""
    (folder / "helper.py").write_text(f"FACTOR = {factor}\n")
    (folder / "module.py").write_text(SOURCE.format(scale=scale, inner=inner, options=options))
    monkeypatch.syspath_prepend(folder)
    sys.modules.pop("helper", None)
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    return runpy.run_path(str(folder / "module.py"))["kernel"]


def test_unchanged_kernels_are_read_and_changed_ones_compiled(tmp_path, monkeypatch, compilations):
    """Constants, device functions, attributes of modules, options and types each make another key."""
    array = np.ones(4, np.float32)
    first = hooks.ptx_of(fresh(tmp_path, monkeypatch), (array,), "llvm")
    assert hooks.ptx_of(fresh(tmp_path, monkeypatch), (array,), "llvm") == first and len(compilations) == 1
    for count, change in enumerate([{"factor": 5}, {"scale": 5}, {"inner": 5}, {"options": "fastmath=True"}], 2):
        assert hooks.ptx_of(fresh(tmp_path, monkeypatch, **change), (array,), "llvm") != first
        assert len(compilations) == count
    hooks.ptx_of(fresh(tmp_path, monkeypatch), (array.astype(float),), "llvm")
    assert len(compilations) == 6


def test_what_has_no_fingerprint_is_not_kept(tmp_path, monkeypatch, compilations):
    """A kernel that names an object nobody knows is compiled anew each time."""

    class Odd:
        value = 3

    kernel = fresh(tmp_path, monkeypatch)
    kernel.py_func.__globals__["math"] = kernel.py_func.__globals__["SCALE"]
    kernel.py_func.__globals__["inner"] = Odd()
    assert hooks._key(kernel, (), "llvm", False) is None
    kernel.py_func.__globals__["inner"] = lambda v: v  # an overload, which nobody knows, says what this means
    assert hooks._key(kernel, (), "llvm", False) is None
    kernel.py_func.__globals__["inner"] = kernel
    assert hooks._key(kernel, (), "llvm", False)


@pytest.mark.parametrize("name", ["sched", "mine"])
def test_a_file_with_the_name_of_a_module_of_python_is_read_again(tmp_path, monkeypatch, compilations, name):
    """The cache knows the libraries by where they are, and not by their names alone."""
    monkeypatch.syspath_prepend(tmp_path)
    for value in (3, 4):
        monkeypatch.delitem(sys.modules, name, raising=False)
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        text = f"""
from numba import cuda
@cuda.jit(device=True)
def helper(v):
    return v * {value}
@cuda.jit
def kernel(a):
    a[0] = helper(a[1]) + {value}
"""
        (tmp_path / f"{name}.py").write_text(text)
        hooks.ptx_of(importlib.import_module(name).kernel, (np.ones(4, np.float32),), "llvm")
    assert len(compilations) == 2


def without_numbers(ptx):
    """The PTX without the numbers that Numba and LLVM count up in a process."""
    return re.sub(r"B\d+v\d+B|callseq \d+", "", ptx)


@pytest.mark.parametrize("damage", ["cut", "empty", "changed", "a folder", "unreadable"])
def test_damaged_files_cost_a_compilation(tmp_path, monkeypatch, compilations, damage):
    """Whatever lies where the PTX should be: the result is right."""
    first = without_numbers(hooks.ptx_of(fresh(tmp_path, monkeypatch), (np.ones(4, np.float32),), "llvm"))
    (file,) = cache.cache_folder().iterdir()
    data = file.read_bytes()
    if damage == "a folder":
        file.unlink()
        file.mkdir()
    elif damage == "unreadable":
        plain = Path.read_bytes
        monkeypatch.setattr(Path, "read_bytes", lambda path: exec("raise OSError") if path == file else plain(path))
    else:
        changed = data.replace(b"ret;", b"bad;")
        file.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "changed": changed}[damage])
    monkeypatch.setattr(cache, "_warned", {cache.cache_folder()})
    again = hooks.ptx_of(fresh(tmp_path, monkeypatch), (np.ones(4, np.float32),), "llvm")
    assert without_numbers(again) == first and len(compilations) == 2


def test_a_folder_that_takes_nothing_is_told_once(tmp_path, monkeypatch, compilations):
    """A full disk or a folder without rights costs the cache alone, and one warning that names it."""

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "open", full, raising=False)
    with pytest.warns(RuntimeWarning, match=re.escape(str(cache.cache_folder()))):
        hooks.ptx_of(fresh(tmp_path, monkeypatch), (np.ones(4, np.float32),), "llvm")
    hooks.ptx_of(fresh(tmp_path, monkeypatch), (np.ones(4, np.float32),), "llvm")
    assert len(compilations) == 2


def test_no_temporary_file_stays_after_a_failed_write(tmp_path, monkeypatch, compilations):
    """os.replace fails as if another process held the file."""
    monkeypatch.setattr(os, "replace", lambda *args: exec("raise PermissionError('held')"))
    with pytest.warns(RuntimeWarning, match="held"):
        hooks.ptx_of(fresh(tmp_path, monkeypatch), (np.ones(4, np.float32),), "llvm")
    assert not [*cache.cache_folder().iterdir()]


def fills_with(folder, others):
    """Compile a kernel and keep it when so many others are about to keep it too."""
    plain = cache.os.replace

    def together(source, target):
        Path(folder, f"ready {os.getpid()}").touch()
        end = time.monotonic() + 60
        while len([*Path(folder).glob("ready *")]) <= others and time.monotonic() < end:
            time.sleep(0.001)
        plain(source, target)

    cache.os.replace = together
    assert ".entry" in hooks.ptx_of(runpy.run_path(str(Path(folder, "module.py")))["kernel"], (np.ones(4),), "llvm")


def test_processes_that_fill_the_cache_at_once(tmp_path, monkeypatch, compilations):
    """All keep the same text under one name; what is read then is whole."""
    kernel = fresh(tmp_path, monkeypatch)
    call = f"import test_hooks; test_hooks.fills_with({str(tmp_path)!r}, 1)"
    path = os.pathsep.join([str(Path(__file__).parent), str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", call]
    environment = {**os.environ, "PYTHONPATH": path}
    running = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=100)[1] for process in running] == ["", ""]
    assert [file.suffix for file in cache.cache_folder().iterdir()] == [".ptx"]
    assert ".entry" in hooks.ptx_of(kernel, (np.ones(4),), "llvm") and not compilations


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    """The rights are those of any new file, for users who share a cache (triton-lang/triton#518); a link stays one."""
    (tmp_path / "link").symlink_to(tmp_path / "file")
    cache.replace(tmp_path / "link", b"new")
    (tmp_path / "any").touch()
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_bytes() == b"new"
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "any").stat().st_mode
    with pytest.raises(FileNotFoundError, match="missing/file"):
        cache.replace(tmp_path / "missing" / "file", b"new")
    cache.replace(Path(os.devnull), b"new")
    assert not Path(os.devnull).is_file()


def test_a_user_without_a_home_keeps_nothing(tmp_path, monkeypatch):
    """dottxt-ai/outlines#1425: a container with a user whom it does not know. No folder is named "~"."""
    for variable in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.chdir(tmp_path)
    cache.save("key", "text")
    assert cache.load("key") is None and not [*tmp_path.iterdir()]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no limits of a process")
def test_a_full_disk_leaves_the_old_report(tmp_path, capsys):
    import resource

    path = tmp_path / "report.html"
    assert main(["--html", str(path)]) == 0
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        assert main(["--html", str(path)]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(path) in capsys.readouterr().err
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]


# ---- launches and arrays without a driver ----


def test_launches_are_redirected():
    """Grids of every form, streams and shared memory reach the given function, here and nowhere else."""
    seen = []
    plain = vars(type(adding))["__getitem__"], cuda.to_device

    def run(kernel, grid, block, shared, args):
        seen.append((kernel, grid, block, shared, args))

    with hooks.redirected(run):
        adding[2, 3](1, 2, 3)
        adding[(2, 3), (4, 5, 6), cuda.stream(), 64](1, 2, 3)
        adding.forall(1000, 256)(1, 2, 3)
        adding.forall(0)(1, 2, 3)
        adding.configure(np.int64(2), [8])(1, 2, 3)
        with hooks.redirected(lambda *args: seen.append("inner")):
            adding[1, 1](1, 2, 3)
        declared = cuda.jit(["void(float32[:], float32)", "void(float64[:], float64)"])(lambda a, b: None)
        declared[1, 1](np.ones(1), 1)
        declared[1, 1](np.ones(1, np.float32), 1)
        for wrong in ((1, 2), (np.ones(1),), (np.ones(1, int), 1), (np.ones((1, 1)), 1)):
            with pytest.raises(TypeError, match="takes"):
                declared[1, 1](*wrong)
        only = cuda.jit("void(int32[:], int32)")(lambda a, b: None)
        only[1, 1](np.full(1, 2**32 - 1, np.uint32), 2.5)  # the same bytes as another type, as Numba has it
        assert seen.pop()[-1] == (np.array([-1], np.int32), 2)
        for wrong in ((np.ones(1), 1), (1, 1), (np.ones((1, 1), np.int32), 1)):
            with pytest.raises(TypeError, match="takes"):
                only[1, 1](*wrong)
        thread = threading.Thread(target=lambda: seen.append(cuda.to_device is not plain[1] and hooks._run.get()))
        thread.start()
        thread.join()
    assert seen == [
        (adding, (2, 1, 1), (3, 1, 1), 0, (1, 2, 3)),
        (adding, (2, 3, 1), (4, 5, 6), 64, (1, 2, 3)),
        (adding, (4, 1, 1), (256, 1, 1), 0, (1, 2, 3)),
        (adding, (2, 1, 1), (8, 1, 1), 0, (1, 2, 3)),
        "inner",
        (declared, (1, 1, 1), (1, 1, 1), 0, (np.ones(1), 1)),
        (declared, (1, 1, 1), (1, 1, 1), 0, (np.ones(1), 1)),
        None,
    ]
    assert [type(call[4][1]) for call in seen[5:7]] == [np.float64, np.float32]
    assert (vars(type(adding))["__getitem__"], cuda.to_device) == plain


def test_everything_is_put_back_after_an_error():
    """An exception in the body or in a launch leaves numba.cuda as it was."""
    plain = dict(vars(cuda))
    with pytest.raises(ZeroDivisionError), hooks.redirected(lambda *args: 1 / 0):
        adding[1, 1](1, 2, 3)
    assert dict(vars(cuda)) == plain and hooks._run.get() is None


def test_threads_have_launches_of_their_own():
    """Several threads inside at once, which come and go in any order: each sees its own function."""
    gate, wrong = threading.Barrier(4), []

    def work(number):
        got = []
        for _ in range(20):
            gate.wait()
            with hooks.redirected(lambda *args: got.append(number)):
                adding[1, 1](number)
                time.sleep(0.0001 * number)
                adding[1, 1](number)
        wrong.extend(item for item in got if item != number)
        wrong.extend([] if len(got) == 40 else ["count"])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and not hooks._inside[0]


@pytest.mark.parametrize(
    "launch, error",
    [((0, 1), ValueError), ((1, -1), ValueError), ((1.5, 1), TypeError), ((1, 1025), ValueError),
     ((1, (32, 33)), ValueError), ((1, (1, 1, 65)), ValueError), (((1, 65536), 1), ValueError),
     ((2**31, 1), ValueError), (((), 1), ValueError), (((1, 1, 1, 1), 1), ValueError), ((1, 1, 0, -1), ValueError),
     ((1, 1, 0, 0.5), TypeError), (("1", 1), TypeError), ((1,), ValueError), ((1, 1, 0, 0, 0), ValueError)],
)  # fmt: skip
def test_impossible_launches_are_errors(launch, error):
    """What no GPU launches is told before anything runs."""
    with hooks.redirected(lambda *args: pytest.fail("it ran")), pytest.raises(error):
        adding[launch](1, 2, 3)


def test_arrays_streams_and_events_work_without_a_driver():
    """The functions that programs around a kernel call, on NumPy arrays."""
    host = np.arange(6, dtype=np.float32).reshape(2, 3)
    with hooks.redirected(lambda *args: None):
        device = cuda.to_device(host, stream=cuda.stream())
        device[0, 0] = 9
        assert host[0, 0] == 0 and device.copy_to_host()[0, 0] == 9 and type(device.copy_to_host()) is np.ndarray
        device.copy_to_host(host)
        assert host[0, 0] == 9
        other = cuda.device_array_like(device)
        other.copy_to_device(host)
        assert np.array_equal(other, host) and other.is_c_contiguous() and not other.T.is_c_contiguous()
        with pytest.raises(ValueError, match="cannot be copied"):
            other.copy_to_device(host[0])
        assert cuda.device_array((2, 3), np.int8, order="F").is_f_contiguous()
        for make in (cuda.pinned_array, cuda.mapped_array, cuda.managed_array):
            assert make(3, np.int16).dtype == np.int16
        start, end = cuda.event(), cuda.event()
        start.record()
        end.record()
        cuda.synchronize()
        assert cuda.event_elapsed_time(start, end) >= 0 and cuda.is_available()
        assert cuda.get_current_device().compute_capability == (8, 0)
        assert cuda.current_context().get_memory_info()[0] > 0
        assert cuda.cudadrv.devices.get_context().device is cuda.get_current_device()
        assert hooks.plain(cuda.InOut(host)) is host is not hooks.plain(cuda.In(host))  # what is only read is a copy
        with cuda.pinned(host), cuda.stream().auto_synchronize():
            pass
        assert ".entry" in hooks.ptx_of(adding, (device[0], other[0], 3), cached=False)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_arguments_of_every_layout(compiler):
    """Strides, negative too, are those of NumPy; the type says whether an array is contiguous."""
    array = np.zeros((4, 6), np.float32)
    for view in (array, array[::2], array[::-1, 1:], np.asfortranarray(array), array.T):
        values = [*hooks.flatten((view,), lambda array: array.ctypes.data)]
        numbers = [int.from_bytes(value, "little", signed=True) for value in values]
        assert numbers == [0, 0, view.size, 4, view.ctypes.data, *view.shape, *view.strides]
        assert ".entry" in hooks.ptx_of(CASES["barrier"][0], (view[0],), compiler, cached=False)


def test_the_simulator_is_a_clear_error():
    """A process of the simulator is told which variable to unset."""
    code = "from cks_numba.emulator import hooks; hooks.ptx_of(None, ())"
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "RuntimeError" in done.stderr and "unset NUMBA_ENABLE_CUDASIM" in done.stderr


@cuda.jit
def adding(a, b, n):
    i = cuda.grid(1)
    if i < n:
        a[i] += b[i]
