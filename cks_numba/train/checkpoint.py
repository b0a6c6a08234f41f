"""Files of a training: a log with a row for each step, and now and then a checkpoint with all that it needs to go on.

A process may be killed at any moment. A new checkpoint is written beside the old one and then replaces it in one move,
so there is always a complete one. The log may be ahead of the checkpoint; a training that goes on removes the rows
after the checkpoint and writes the same ones again.
"""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

import torch

from ..flops.files import naming, replacing


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint of tensors, numbers, strings and containers of them."""
    _remove_left(path)
    with replacing(path, "wb") as file:
        torch.save(state, file)


def _remove_left(path: Path) -> None:
    """Remove what killed processes left of this file when they were writing it: one training has a folder at a time."""
    for left in path.parent.glob(f"{path.name}.*.tmp"):
        left.unlink(missing_ok=True)


def load(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Read a checkpoint.

    Parameters
    ----------
    path : Path
    settings : dict
        Everything that the losses depend on; it must be equal to the settings in the checkpoint.

    Returns
    -------
    dict, or None if there is no checkpoint

    Raises
    ------
    ValueError
        For a file that is not a checkpoint, or belongs to a training with other settings.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)  # runs no code from the file
        before = state["settings"]
    except Exception as error:
        raise ValueError(f"out: {path} is no checkpoint of a training: {error}") from None
    for name, value in settings.items():
        if before.get(name) != value:
            raise ValueError(
                f"{name} is {value!r}, and the training in {path} has {before.get(name)!r}: give the same arguments to "
                "go on with it, or another --out to begin a new one"
            )
    return state


class Log:
    """A CSV file with a row for each step; only its first rows are kept when a training goes on.

    Parameters
    ----------
    path : Path
    columns : tuple of str
    rows : int
        Number of rows to keep if the file exists.

    Raises
    ------
    ValueError
        If the file has fewer rows, or other columns.
    """

    path: Path
    columns: tuple[str, ...]

    def __init__(self, path: Path, columns: tuple[str, ...], rows: int) -> None:
        head = io.StringIO()
        csv.DictWriter(head, columns, lineterminator="\n").writeheader()
        lines = [head.getvalue()]
        if rows:
            lines = self._kept(path, lines[0], rows)
        _remove_left(path)
        with replacing(path) as file:
            file.writelines(lines)
        self.path, self.columns = path, columns

    @staticmethod
    def _kept(path: Path, head: str, rows: int) -> list[str]:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        kept = lines[: 1 + rows]
        if len(kept) <= rows or kept[0] != head or not kept[-1].endswith("\n"):
            raise ValueError(f"out: {path} must have the {rows} steps of the checkpoint beside it, and does not")
        return kept

    def add(self, row: dict[str, Any]) -> None:
        """Write a row, which then stays even if the process is killed."""
        with naming(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns, lineterminator="\n").writerow(row)

    def sync(self) -> None:
        """Wait until all rows are on the disk, before a checkpoint says that they are."""
        with naming(self.path), self.path.open("a", encoding="utf-8") as file:
            os.fsync(file.fileno())
