"""Which exercises a reader has solved: a small file beside what else Numba and this package keep for a user."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from ..emulator.cache import cache_folder
from ..flops.files import replacing

NAME = "solved_exercises.json"


def _file() -> Path:
    return cache_folder() / NAME


def read() -> set[str]:
    """The numbers of all solved exercises; none if nothing was kept, or what was kept cannot be read."""
    try:
        found = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    return {name for name in found if isinstance(name, str)} if isinstance(found, list) else set()


def add(exercise: str) -> None:
    """Keep that an exercise is solved, where the folder can be written to."""
    known = read()
    if exercise in known:
        return
    with suppress(OSError):
        _file().parent.mkdir(parents=True, exist_ok=True)
        with replacing(_file()) as file:
            json.dump(sorted({*known, exercise}), file)
