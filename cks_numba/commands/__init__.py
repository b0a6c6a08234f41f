"""The ``cks-numba`` command: ``cks-numba X`` is the module ``X`` of this package.

Each module has ``add_arguments(parser)`` and ``run(arguments)``, which returns the exit code. Only the module of the
command that is run is imported, so that ``cks-numba flops`` does not wait for what ``cks-numba bench`` needs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {
    "info": "versions, the GPU, and the backend that will be used",
    "verify": "check every backend that runs here on random shapes",
    "plan": "print the groups of dense matrix products of one operator and shape",
    "explain": "print every stage of one operator and shape",
    "sass": "registers, memory and inner loop of compiled kernels; needs no GPU",
    "flops": "multiply-adds of a network or an operator, and which of them meet zeros",
    "report": "multiply-adds by zeros in a PyTorch model or an ONNX file, layer by layer",
    "figures": "draw the pictures in figures/ again; needs a checkout",
    "demo": "a photograph down a stack of layers and back up, checked and timed",
    "bench": "time this library, PyTorch (if installed) and the regular way",
}
"""What each command does, for ``cks-numba --help``."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments of a command.

    Parameters
    ----------
    argv : sequence of str
        Without the program's name; the command comes first.

    Returns
    -------
    argparse.Namespace
        With the name of the command as `command`, and its function ``run``.

    Raises
    ------
    SystemExit
        With code 2 and a message for wrong arguments, with 0 after ``--help``.

    Examples
    --------
    >>> parse(["explain", "conv2d", "i=4,f=3"]).operator
    'conv2d'
    """
    top = argparse.ArgumentParser(prog="cks-numba", description="Convolutions that never multiply an added zero.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        if argv and argv[0] == name:
            module = import_module(f".{name}", __name__)
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return top.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; those of the process if not given.

    Returns
    -------
    int
        Exit code: 0; 1 when a check failed or could not run; 2 for a value that is wrong, such as an image that a
        network cannot take. Arguments that cannot be read leave with SystemExit(2).
    """
    words = sys.argv[1:] if argv is None else argv
    try:
        arguments = parse(words)
        code: int = arguments.run(arguments)
        return code
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (
        ValueError,
        RuntimeError,
        OSError,
    ) as error:  # a wrong value, no GPU, a full disk
        print(f"cks-numba {words[0]}: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
