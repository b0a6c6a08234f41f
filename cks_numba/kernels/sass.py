"""What the compiler made of a kernel: registers, memory, and the instructions of its inner loop. No GPU needed.

Numba compiles a kernel to PTX, NVIDIA's ptxas to machine code (SASS), and nvdisasm prints that. Both tools come
as Python packages: ``pip install 'cks-numba[sass]'``.
"""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import numpy as np
from numba import typeof

from ..flops.files import replacing
from ..geometry import ConvShape
from . import SIMULATED_RUNGS, launches, tensor, tiled
from .jit import NO_NUMBA_CUDA, NUMBA_CUDA, SIMULATED, compiling_for, cuda
from .launch import Launch

ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_120")
PACKAGES = {"ptxas": "nvidia-cuda-nvcc", "nvdisasm": "nvidia-cuda-nvdisasm"}
PTX_FOR = (7, 5)  # the oldest GPU that CUDA 13 compiles for; PTX for it is valid for all later ones
CHANNELS = {4: 128, 1: 127}  # channels of the example, by the elements that one instruction can then load


@dataclass(frozen=True)
class Compiled:
    """One kernel as machine code.

    Attributes
    ----------
    name, arch : str
    registers, spilled, shared : int
        Registers of a thread; bytes that did not fit in them and went to memory; bytes of shared memory of a block.
    code : tuple of str
        All instructions.
    loop : tuple of str
        Those of the innermost loop with most multiply-adds; empty where there is none.
    """

    name: str
    arch: str
    registers: int
    spilled: int
    shared: int
    code: tuple[str, ...]
    loop: tuple[str, ...]

    @property
    def mix(self) -> Counter[str]:
        """Instructions of the loop by kind."""
        return mix(self.loop)

    @property
    def per_load(self) -> float:
        """Multiply-adds of the loop for each load of several words from shared memory (0 without any)."""
        return self.multiplies / self.loads if self.loads else 0.0

    @property
    def multiplies(self) -> int:
        """Instructions of the loop that multiply: FFMA of a thread, or HMMA of a warp on tensor cores."""
        return self.mix["FFMA"] + self.mix["HMMA"]

    @property
    def loads(self) -> int:
        """Loads of the loop that bring several words from shared memory: LDS.128, and LDSM for tensor cores."""
        return self.mix["LDS.128"] + self.mix["LDSM"]

    @property
    def share(self) -> float:
        """Share of multiply-adds among the instructions of the loop."""
        return self.multiplies / len(self.loop) if self.loop else 0.0


def mix(code: Iterable[str]) -> Counter[str]:
    """Count instructions by kind: those that move memory with their width, others by their first word.

    One that never runs (@!PT) is not counted: for some GPUs ptxas puts such before copies to shared memory.

    Examples
    --------
    >>> sorted(mix(["@!P0 LDG.E.128 R4, [R2.64]", "FFMA R0, R1, R2, R0", "LDS R3, [R9]"]).items())
    [('FFMA', 1), ('LDG.128', 1), ('LDS', 1)]
    """
    counts: Counter[str] = Counter()
    for line in code:
        if line.startswith("@!PT "):
            continue
        name, *parts = re.sub(r"^@!?U?P\w+\s+", "", line).split()[0].split(".")
        wide = next((f".{part}" for part in parts if part in ("64", "128")), "")
        counts[name + (wide if name in ("LDG", "LDS", "STG", "STS", "LDL", "STL") else "")] += 1
    return counts


@lru_cache(maxsize=4)
def tool(name: str) -> str:
    """Return the path of ptxas or nvdisasm.

    Raises
    ------
    RuntimeError
        If it is neither on the PATH nor installed as a Python package; says how to install it.
    """
    try:
        files = metadata.files(PACKAGES[name]) or []
        found = [str(file.locate()) for file in files if file.name in (name, f"{name}.exe")]
    except metadata.PackageNotFoundError:
        found = []
    path = next(iter(found), None) or shutil.which(name)
    if path is None:
        raise RuntimeError(f"{name} was not found: pip install 'cks-numba[sass]', or put it on the PATH")
    return path


def _require_compiler() -> None:
    if not NUMBA_CUDA:
        raise RuntimeError(f"{NO_NUMBA_CUDA}: pip install 'cks-numba[sass]'")
    if SIMULATED:
        raise RuntimeError("Numba's simulator does not compile kernels: unset NUMBA_ENABLE_CUDASIM")


def require() -> None:
    """Check, before anything is compiled, that machine code can be made here and read.

    Raises
    ------
    RuntimeError
        Without numba-cuda, ptxas or nvdisasm, and in the simulator; says what to do.
    """
    _require_compiler()
    for name in PACKAGES:
        tool(name)


def oldest(launch: Launch) -> tuple[int, int]:
    """Return the compute capability of the oldest GPU that a launch runs on."""
    return tensor.LEAST_CAPABILITY if " tensor " in launch.name else PTX_FOR


def runs_on(launch: Launch, arch: str) -> bool:
    """Return whether a launch runs on a GPU such as "sm_90"; True for a name that is none, which ptxas refuses."""
    found = re.fullmatch(r"sm_(\d+)(\d)[a-z]?", arch)
    return not found or (int(found.group(1)), int(found.group(2))) >= oldest(launch)


def ptx_of(launch: Launch) -> str:
    """Compile the kernel of a launch to PTX, as Numba would for its arguments.

    Raises
    ------
    RuntimeError
        In the simulator, and without numba-cuda or CUDA's compilers; says what to do.
    """
    _require_compiler()
    bounds, capability = launch.kernel.targetoptions.get("launch_bounds"), oldest(launch)
    types = tuple(typeof(arg) for arg in launch.args)
    options = {"device": False, "abi": "numba", "cc": capability, "launch_bounds": bounds}
    try:
        with compiling_for(capability):
            return str(cuda.compile(launch.kernel.py_func, types, **options)[0])
    except Exception as error:  # versions of numba-cuda raise different types
        if not re.search("libnvrtc|nvvm", str(error), re.IGNORECASE):
            raise
        raise RuntimeError("CUDA's compilers NVRTC and NVVM were not found: pip install 'cks-numba[sass]'") from error


def assemble(name: str, ptx: str, arch: str) -> Compiled:
    """Make machine code of PTX and read it."""
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(ptx)
        said = _run(tool("ptxas"), "-v", f"-arch={arch}", str(source), "-o", str(binary))
        text = _run(tool("nvdisasm"), "-c", str(binary))
    code, loops = read_code(text)
    loop = inner_loop(code, loops)
    return Compiled(
        name, arch,
        _number(r"Used (\d+) registers", said), _number(r"(\d+) bytes spill stores", said),
        _number(r"(\d+) bytes smem", said), tuple(code), tuple(loop),
    )  # fmt: skip


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{Path(command[0]).name} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout + done.stderr


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found.group(1)) if found else 0


def read_code(text: str) -> tuple[list[str], list[tuple[int, int]]]:
    """Instructions of what nvdisasm printed, and the loops among them, each as first and past-the-last.

    A loop is what lies between a branch and the earlier label that it goes back to.
    """
    code: list[str] = []
    labels: dict[str, int] = {}
    loops = []
    for line in text.splitlines():
        if label := re.match(r"(\.L_\w+):", line):
            labels[label.group(1)] = len(code)
        elif instruction := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", line):
            code.append(instruction.group(1))
            target = re.search(r"\bBRA\b.*?`\((\.L_\w+)\)", code[-1])
            if target and target.group(1) in labels:
                loops.append((labels[target.group(1)], len(code)))
    return code, loops


def inner_loop(code: list[str], loops: list[tuple[int, int]]) -> list[str]:
    """The loop with most multiply-adds among those that have some and hold no other such loop."""

    def multiplies(part: tuple[int, int]) -> int:
        counts = mix(code[slice(*part)])
        return counts["FFMA"] + counts["HMMA"]

    working = [part for part in loops if multiplies(part)]
    inner = [
        part for part in working if not any(part != one and part[0] <= one[0] and one[1] <= part[1] for one in working)
    ]
    return code[slice(*max(inner, key=multiplies))] if inner else []


def example(width: int = 4) -> ConvShape:
    """Return the layer that `examples` compiles for. Of its sizes, only the width of a load shows in the code."""
    channels = CHANNELS[width]
    return ConvShape(n=32, ih=8, iw=8, ic=channels, oc=channels, fh=3, fw=3, stride=2, padding=1)


def examples(operator: str, widths: Iterable[int] = (4, 1)) -> Iterator[Launch]:
    """Launches of all rungs of an operator: tiled with every tile and both widths of a load, tensor with two formats.

    bfloat16 is as float16, but for the type in the name of the instruction that multiplies.
    """
    for width in widths:
        shape = example(width)
        first, second, out = (np.empty(size, np.float32) for _, size in shape.arrays(operator))
        arrays = first, second, out
        if width == 4:
            for rung in SIMULATED_RUNGS[:-1]:
                yield launches(operator, shape, arrays, rung=rung)[-1]
        for tile in tiled.TILES:
            choice = tiled.Choice(operator, shape, tile, 1, tiled.DEFAULT_SMS)
            launch = tiled.launches(operator, shape, arrays, choice)[0]
            yield launch._replace(name=f"{launch.name}, {'vectors' if width == 4 else 'single elements'}")
        if width == 4:
            for dtype in ("float32", "float16"):
                yield tensor_example(operator, dtype, tensor.TILES[0])


def tensor_example(operator: str, dtype: str, tile: tensor.Tile, biased: bool = False) -> Launch:
    """Return the launch of the tensor rung for the example, with NumPy arrays of a dtype, a tile, perhaps a bias."""
    shape = example()
    arrays = tuple(np.empty(size, dtype) for _, size in shape.arrays(operator))
    choice = tiled.Choice(operator, shape, tile, 1, tiled.DEFAULT_SMS, tensor.FORMATS[dtype].unit)
    bias = np.empty(arrays[2].shape[-1], dtype) if biased else None
    return tensor.launches(operator, shape, arrays, choice, bias)[-1]


# multiply: FFMA of a thread, HMMA of a warp; loads: LDS.128, LDSM for tensor cores
HEAD = "kernel                                            registers spilled shared multiply  loads  a load of loop"
COLUMNS = ("operator", "arch", "kernel", "registers", "spilled", "shared", "code", "instruction", "count")


def table(operator: str, arch: str, kernels_of: Iterable[Compiled]) -> Iterator[str]:
    """Yield the lines of the table of the rungs of an operator, each as soon as its kernel is compiled."""
    yield f"{operator} on {arch}; the last four columns are of the inner loop"
    yield HEAD
    for one in kernels_of:
        counts = f"{one.multiplies:>8} {one.loads:>6} {one.per_load:>7.1f} {one.share:>7.0%}"
        yield f"{one.name:<50}{one.registers:>9} {one.spilled:>7} {one.shared:>6} {counts}"


def inner_loop_of(operator: str, arch: str) -> Iterator[str]:
    """Yield the inner loop of an operator's largest tile, after a title that does not wait for the compiler."""
    launch = next(item for item in examples(operator, (4,)) if "tiled" in item.name)
    yield f"{launch.name} on {arch}, inner loop"
    yield from assemble(launch.name, ptx_of(launch), arch).loop


def rows(operator: str, kernel: Compiled) -> list[dict[str, str]]:
    """Return the lines of the CSV of a kernel: one for each kind of instruction of its inner loop."""
    about = (operator, kernel.arch, kernel.name, kernel.registers, kernel.spilled, kernel.shared, len(kernel.code))
    kinds = sorted(kernel.mix.items(), key=lambda item: (-item[1], item[0]))
    return [dict(zip(COLUMNS, map(str, (*about, *item)), strict=True)) for item in kinds or [("", 0)]]


def made_with() -> str:
    """Return the versions that the machine code depends on."""
    ptxas = re.search(r"release [\d.]+, V([\d.]+)", _run(tool("ptxas"), "--version"))
    versions = f"numba {metadata.version('numba')}, numba-cuda {metadata.version('numba-cuda')}"
    return f"{versions}, ptxas {ptxas.group(1) if ptxas else 'unknown'}"


def write(path: Path, lines: Iterable[dict[str, str]], command: str) -> None:
    """Write the CSV, under comments that say what a line is and how it was made."""
    with replacing(path) as file:
        file.write(f"# A line is a kind of instruction in the inner loop of a kernel. Made by: {command}\n")
        file.write(f"# {made_with()}\n")
        file.write("# spilled, shared: bytes of a thread, of a block; code: instructions of the whole kernel\n")
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def read(path: Path) -> list[dict[str, str]]:
    """Read what `write` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))
