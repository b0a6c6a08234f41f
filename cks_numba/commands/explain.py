"""``cks-numba explain``: every stage of one operator on a small case."""

from __future__ import annotations

import argparse

from .. import steps
from .arguments import add_operator


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    add_operator(command)


def run(arguments: argparse.Namespace) -> int:
    """Print every stage of one operator on a small case."""
    print(steps.explain(arguments.operator, None, None, arguments.shape))
    return 0
