"""Common parts of the notebooks in tutorials/: `setup`, `check`, and ways to show a picture or a source.

Importing it imports neither Numba nor Matplotlib, so that `setup` can still choose Numba's simulator.
"""

from __future__ import annotations

from .answers import Open, Wrong, call
from .checking import check
from .setting_up import setup
from .showing import show, side_by_side, source

__all__ = ["Open", "Wrong", "call", "check", "setup", "show", "side_by_side", "source"]
