"""``cks-numba sass``: registers, memory and inner loop of compiled kernels; needs no GPU."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import sass
from ..geometry import OPERATORS
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
    return sass.run(arguments.operator, arguments.arch, arguments.source, arguments.csv)
