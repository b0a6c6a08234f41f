"""``cks-numba sass``: registers, memory and inner loop of compiled kernels; needs no GPU."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..geometry import OPERATORS
from ..kernels import sass
from .arguments import converted, parse_operator


def parse_compiled(name: str) -> tuple[str, ...]:
    """Return the operators to compile: one of them, or all."""
    return OPERATORS if name == "all" else (parse_operator(name),)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    add = command.add_argument
    add("operator", type=converted(parse_compiled), metavar="OP", help=f"{', '.join(OPERATORS)}, or all")
    add("--arch", default="sm_80", help="GPU architecture, such as sm_75, sm_80, sm_90 (default sm_80)")
    shown = command.add_mutually_exclusive_group()
    shown.add_argument("--source", action="store_true", help="print the inner loop of the largest tile instead")
    shown.add_argument("--csv", type=Path, help="file to write the table and all instructions of the inner loops to")


def run(arguments: argparse.Namespace) -> int:
    """Print what the compiler made of the kernels."""
    return show(arguments.operator, arguments.arch, arguments.source, arguments.csv)


def _kept(operator: str, arch: str, lines: list[dict[str, str]]) -> Iterator[sass.Compiled]:
    """Compile the examples of an operator one by one, and add what the CSV says of each to `lines`."""
    for launch in sass.examples(operator):
        if not sass.runs_on(launch, arch):
            continue
        kernel = sass.assemble(launch.name, sass.ptx_of(launch), arch)
        lines += sass.rows(operator, kernel)
        yield kernel


def show(operators: Iterable[str], arch: str = "sm_80", source: bool = False, path: Path | None = None) -> int:
    """Print the table of the rungs of operators, or the inner loops of their largest tiles, line by line.

    Parameters
    ----------
    operators : iterable of {"conv2d", "conv2d_input", "conv2d_weight"}
    arch : str
        A GPU architecture, such as "sm_80".
    source : bool
        Print the instructions of the inner loop instead of the table.
    path : Path, optional
        CSV file for what the tables say, and all instructions of the inner loops by kind.

    Returns
    -------
    int
        0.
    """
    sass.require()
    lines: list[dict[str, str]] = []
    names = list(operators)
    for operator in names:
        told = (
            sass.inner_loop_of(operator, arch) if source else sass.table(operator, arch, _kept(operator, arch, lines))
        )
        for line in told:
            print(line, flush=True)
    if path is not None:
        name = names[0] if len(names) == 1 else "all"
        sass.write(path, lines, f"cks-numba sass {name} --arch {arch} --csv {path}")
    return 0
