"""Two sources as one diff in a notebook: what a rung of a ladder changes."""

from __future__ import annotations

import difflib
import html
from collections.abc import Iterator
from typing import Any

from .showing import source

COLOURS = {"+": "#CFE8F5", "-": "#FBE3D1", " ": "transparent"}  # blue is new, orange is gone; the sign says it too


def changes(before: Any, after: Any) -> Iterator[str]:
    """Lines of both sources, each after "+ " (new), "- " (gone) or two blanks (kept).

    Examples
    --------
    >>> list(changes("a = 1", "a = 2"))
    ['- a = 1', '+ a = 2']
    """
    old, new = (thing if isinstance(thing, str) else source(thing) for thing in (before, after))
    lines = difflib.ndiff(old.splitlines(), new.splitlines())
    return (line for line in lines if not line.startswith("?"))


def changed(before: Any, after: Any) -> tuple[int, int]:
    """Number of new lines and number of lines that are gone.

    Examples
    --------
    >>> changed("a = 1", "a = 1; b = 2; c = 3")
    (1, 1)
    """
    signs = [line[0] for line in changes(before, after)]
    return signs.count("+"), signs.count("-")


def show_diff(before: Any, after: Any) -> None:
    """Display what has to change in one function or kernel (or string) to turn it into another.

    Parameters
    ----------
    before, after : function, kernel, class or str
    """
    from IPython.display import display

    lines = list(changes(before, after))
    row = '<div style="background: {}; color: #111; white-space: pre">{}</div>'
    rows = "".join(row.format(COLOURS[line[0]], html.escape(line) or " ") for line in lines)
    page = f'<div style="font-family: monospace; font-size: 85%; overflow-x: auto; background: #FFF">{rows}</div>'
    display({"text/html": page, "text/plain": "\n".join(lines)}, raw=True)
