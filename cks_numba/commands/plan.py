"""``cks-numba plan``: the groups of dense matrix products of one operator and shape, or what a GPU would launch."""

from __future__ import annotations

import argparse

from ..bench import cases
from ..geometry import plan
from ..kernels import tiled
from .arguments import add_operator, at_least

GPU_BATCH = 128
"""Images of the layers that ``plan --launches`` lists."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    add_operator(command)
    what = "what a GPU would launch: tile, grid, waves, useful share; without SHAPE of every layer of the table"
    command.add_argument("--launches", action="store_true", help=what)
    command.add_argument("--sms", type=at_least(1), default=132, help="multiprocessors (default 132, an H100)")


def run(arguments: argparse.Namespace) -> int:
    """Print the groups of an operator and shape, or what a GPU would launch for them; return 2 if SHAPE is missing."""
    if arguments.shape is None and not arguments.launches:
        raise ValueError("plan needs a SHAPE, or --launches")
    if not arguments.launches:
        print(plan(arguments.operator, arguments.shape))
        return 0
    if arguments.shape is not None:
        print(tiled.choose(arguments.operator, arguments.shape, arguments.sms))
        return 0
    print(f"{'layer':<52} {'tile':>8} {'parts':>5} {'waves':>7} {'useful':>7}   ({arguments.sms} multiprocessors)")
    for case in cases.gpu_table((GPU_BATCH,)):
        if case.operator == arguments.operator:
            choice = tiled.choose(arguments.operator, case.shape, arguments.sms)
            print(f"{case.name:<52} {choice.tile!s:>8} {choice.parts:>5} {choice.waves:>7.2f} {choice.useful:>7.0%}")
    return 0
