"""Common parts of the notebooks in tutorials/: `setup`, `check`, `look`, and ways to show a picture or a source."""

from __future__ import annotations

from .answers import Open, Wrong, call
from .checking import check, hint, look, progress
from .setting_up import on_gpu, setup
from .showing import show, side_by_side, source

__all__ = [
    "Open",
    "Wrong",
    "call",
    "check",
    "hint",
    "look",
    "on_gpu",
    "progress",
    "setup",
    "show",
    "side_by_side",
    "source",
]
