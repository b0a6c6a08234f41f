"""Machine code of the rungs: compiled now if the tools are there, otherwise read from figures/data.

The compiler runs in another process, where it can be stopped, and where the emulator is not switched on. So this module
is also a command, ``python -m cks_numba.tutorial.machine_code OPERATOR ARCH``, which prints JSON.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections import Counter
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from ..kernels import sass
from ..plots.gallery import FOLDER

RUNGS = ("with_zeros", "skip_zeros", "shared", "grouped", "register_tile", "tiled 128x128, vectors")
TIMEOUT = 100  # seconds for the compiler


class Code(NamedTuple):
    """A compiled kernel: registers of a thread, shared bytes and threads of a block, and its inner loop."""

    rung: str
    registers: int
    shared: int
    threads: int
    mix: dict[str, int]
    loop: list[str]


@cache
def compiled(operator: str, arch: str = "sm_90") -> tuple[list[Code], str]:
    """Return the rungs of an operator as machine code, and tell where it comes from.

    Returns
    -------
    list of Code
        Empty if there are neither the tools nor the file.
    str
        Where the code comes from, in a sentence.
    """
    if found := _live(operator, arch):
        return found, f"Compiled just now for {arch} by Numba and ptxas."
    path = FOLDER / "data" / f"sass_{arch}.csv"
    if path.exists():
        return _read(path, operator), f"Read from figures/data/{path.name}: ptxas and nvdisasm are not installed."
    return [], f"There is neither ptxas (see section 8) nor figures/data/{path.name}, which comes with a clone."


def _live(operator: str, arch: str) -> list[Code]:
    try:
        sass.tool("ptxas"), sass.tool("nvdisasm")
    except RuntimeError:
        return []
    command = [sys.executable, "-W", "ignore", "-m", "cks_numba.tutorial.machine_code", operator, arch]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):  # for example, Numba's own compiler is missing
        return []
    return [Code(**item) for item in json.loads(done.stdout)]


def threads(operator: str) -> dict[str, int]:
    """Threads of a block, by rung."""
    return {launch.name.removeprefix(f"{operator} "): prod(launch.block) for launch in sass.examples(operator, (4,))}


def _read(path: Path, operator: str) -> list[Code]:
    """The rungs in a CSV with a line for each kind of instruction, under lines of comments."""
    found: dict[str, Code] = {}
    of_a_block = threads(operator)
    with path.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(text for text in file if not text.startswith("#")):
            rung = line["kernel"].removeprefix(f"{operator} ")
            if line["operator"] != operator or rung not in RUNGS:
                continue
            new = Code(rung, int(line["registers"]), int(line["shared"]), of_a_block[rung], {}, [])
            found.setdefault(rung, new).mix[line["instruction"]] = int(line["count"])
    return [found[rung] for rung in RUNGS if rung in found]


def kinds(mix: dict[str, int]) -> dict[str, int]:
    """Count instructions by purpose.

    Examples
    --------
    >>> kinds({"FFMA": 4, "LDG": 2, "LDS.128": 1, "STS": 1, "IMAD": 5, "BAR": 1})
    {'multiply-add': 4, 'global memory': 2, 'shared memory': 2, 'addresses, tests, the loop': 6}
    """
    found = dict.fromkeys(("multiply-add", "global memory", "shared memory", "addresses, tests, the loop"), 0)
    for name, count in mix.items():
        start = name.split(".")[0]
        kind = {"FFMA": "multiply-add", "LDG": "global memory", "STG": "global memory"}.get(start)
        kind = kind or ("shared memory" if start in ("LDS", "STS") else "addresses, tests, the loop")
        found[kind] += count
    return found


def _compile(operator: str, arch: str) -> list[dict[str, Any]]:
    """Compile each rung and return the fields of `Code`."""
    made = []
    for launch in sass.examples(operator, (4,)):
        rung = launch.name.removeprefix(f"{operator} ")
        if rung in RUNGS:
            one = sass.assemble(launch.name, sass.ptx_of(launch), arch)
            mix: Counter[str] = one.mix
            fields = rung, one.registers, one.shared, prod(launch.block), dict(mix.most_common()), list(one.loop)
            made.append(dict(zip(Code._fields, fields, strict=True)))
    return made


if __name__ == "__main__":
    print(json.dumps(_compile(*sys.argv[1:3])))
