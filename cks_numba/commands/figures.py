"""``cks-numba figures``: draw the pictures of figures/ again, the same bytes every time."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from pathlib import Path

from ..plots import gallery


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    command.add_argument("name", nargs="*", metavar="NAME", help="scripts in figures/, without .py (default all)")
    command.add_argument("--out", type=Path, help="folder of the pictures (default figures/ itself)")


def run(arguments: argparse.Namespace) -> int:
    """Draw pictures, with a line for each script."""
    return draw(arguments.name, arguments.out)


def draw(names: Iterable[str] = (), out: Path | None = None) -> int:
    """Draw pictures, with a line for each script.

    Parameters
    ----------
    names : iterable of str
        Scripts in figures/, without .py; none stands for all.
    out : Path, optional
        Folder of the pictures; figures/ itself by default.

    Returns
    -------
    int
        0.

    Raises
    ------
    RuntimeError
        For an unknown name, or where there is no checkout.
    """
    known = gallery.scripts()
    for name in (name for name in names if name not in known):
        raise RuntimeError(f"figure must be one of {', '.join(known)}, got {name!r}")
    for name in list(names) or known:
        start = time.perf_counter()
        paths = gallery.make(name, gallery.FOLDER if out is None else out)
        sizes = ", ".join(f"{path} ({path.stat().st_size / 1e3:.0f} kB)" for path in paths)
        print(f"{name:<16} {time.perf_counter() - start:5.1f} s   {sizes}", flush=True)
    return 0
