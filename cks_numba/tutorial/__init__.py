"""Common parts of the notebooks in tutorials/: `setup`, `predict`, `check`, `look`, and ways to show things."""

from __future__ import annotations

from .answers import Open, Wrong, call
from .checking import check, hint, look, progress
from .predicting import behind, predict
from .setting_up import on_gpu, setup
from .showing import play, show, side_by_side, source
from .sliding import slider

__all__ = [
    "Open",
    "Wrong",
    "behind",
    "call",
    "check",
    "hint",
    "look",
    "on_gpu",
    "play",
    "predict",
    "progress",
    "setup",
    "show",
    "side_by_side",
    "slider",
    "source",
]
