"""Pictures with a description, and sources beside each other, in a notebook."""

from __future__ import annotations

import ast
import base64
import html
import inspect
import io
import re
import tempfile
import textwrap
from pathlib import Path
from typing import Any

from .. import plots
from ..geometry import ConvShape

DPI = 120
"""Pixels per inch of the stored picture."""
SHOWN = 64
"""Pixels per inch on the screen; fewer than stored, so that the picture is sharp on a fine screen too."""

MOVING_DPI = 48
"""Pixels per inch of an animation: its frames are many."""
SUMMARY = "An animation. Close it here to stop it."

COLUMN = 56
"""Most characters in a line of `side_by_side`: two columns fit in JupyterLab, with its sidebar, in 1280 pixels."""
COLOURS = {
    "n": "#dddddd",
    "oh": "#77aadd",
    "ow": "#99ddff",
    "oc": "#aaaa00",
    "fh": "#ee8866",
    "fw": "#ffaabb",
    "ih": "#44bb99",
    "iw": "#bbcc33",
    "ic": "#eedd88",
}
"""Background of each index under black text: Paul Tol's "light" colours, made for that and for all kinds of sight."""
SUBSCRIPTS = {"k": "oc", "c": "ic"}
"""Letters of the einsum subscripts in `steps/minimal.py` that stand for an index of another name."""
CHANNEL_GROUPS = {"groups", "ic0", "oc0", "icg", "oc_of_c_group", "x_ic"}
"""Names with which the kernels find the channel group of a thread."""


def show(figure: Any, alt: str) -> None:
    """Display a Matplotlib figure with a text for those who cannot see it.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        Preferably one that pyplot did not make, such as those of `plots`.
    alt : str
        What the picture shows, in a sentence or two.
    """
    import matplotlib
    from IPython.display import display

    buffer = io.BytesIO()
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "hatch.linewidth": 0.6}):
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None}, pil_kwargs={"optimize": True})
    png = base64.b64encode(buffer.getvalue()).decode()
    metadata = {"image/png": {"alt": alt, "width": round(figure.get_figwidth() * SHOWN)}}
    display({"image/png": png, "text/plain": alt}, metadata=metadata, raw=True)


def picture(kind: str, data: bytes | str, alt: str, width: int | None = None) -> str:
    """HTML of a picture that contains its data.

    Examples
    --------
    >>> picture("image/png", b"", "A dot.", 20)
    '<img alt="A dot." width="20" style="max-width: 100%; height: auto" src="data:image/png;base64,">'
    """
    encoded = base64.b64encode(data).decode() if isinstance(data, bytes) else data.replace("\n", "")
    size = "" if width is None else f' width="{width}"'
    return (
        f'<img alt="{html.escape(alt)}"{size} style="max-width: 100%; height: auto" src="data:{kind};base64,{encoded}">'
    )


def play(operator: str, shape: ConvShape, alt: str) -> None:
    """Display an animation of an operator, the regular way beside the skipping way; a reader can close it.

    Parameters
    ----------
    operator : {"conv2d", "conv2d_input", "conv2d_weight"}
    shape : ConvShape
    alt : str
        What the animation shows, in a sentence or two.

    Raises
    ------
    ValueError, TypeError
        For what `plots.animate` refuses.
    """
    from IPython.display import display

    with tempfile.TemporaryDirectory() as folder:
        data = plots.animate(operator, shape, Path(folder, "animation.gif"), dpi=MOVING_DPI).read_bytes()
    fold = f"<details open><summary>{SUMMARY}</summary>{picture('image/gif', data, alt)}</details>"
    display({"text/html": fold, "text/plain": alt}, raw=True)


def source(thing: Any) -> str:
    """Source of a function, a class or a kernel.

    Examples
    --------
    >>> from cks_numba.geometry import Axis
    >>> print(source(Axis.span.fget).splitlines()[0])
    @property
    """
    thing = getattr(thing, "py_func", None) or getattr(thing, "fn", None) or thing  # a kernel, simulated or not
    return textwrap.dedent(inspect.getsource(thing)).rstrip()


def essence(thing: Any) -> str:
    """Source of a function, without what is the same in every kernel, in lines of at most `COLUMN` characters.

    Docstrings, the guard for spare threads, and the lines that find a channel group are left out. Long lines are
    broken behind commas in brackets. Nothing else is changed.

    Examples
    --------
    >>> from cks_numba.steps import minimal
    >>> print("\\n".join(essence(minimal.conv2d_input).splitlines()[4:6]))
        for (ih, fh, oh), (iw, fw, ow) in products(
                x_shape, w.shape, dy.shape, stride, padding,
    """
    text = source(thing)
    lines: list[str | None] = list(text.splitlines())
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.stmt) and _left_out(node):
            for k in range(node.lineno - 1, node.end_lineno or node.lineno):
                lines[k] = None
    kept = [re.sub(r"\s*# type: ignore.*", "", line) for line in lines if line is not None]
    return re.sub(r":\n\n", ":\n", "\n".join(_broken(line, ()) for line in kept)).rstrip()


def _left_out(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign):
        return {at.id for at in ast.walk(node.targets[0]) if isinstance(at, ast.Name)} <= CHANNEL_GROUPS
    guard = isinstance(node, ast.If) and isinstance(node.body[0], ast.Return) and node.body[0].value is None
    return guard or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def _broken(line: str, opened: tuple[int, ...]) -> str:
    """Break a line longer than `COLUMN` behind commas in brackets; `opened` are the columns behind those still open."""
    if len(line) <= COLUMN:
        return line
    code, comment, note = line.partition("  # ")
    indent = len(code) - len(code.lstrip())
    if comment:
        return f"{' ' * indent}# {note}\n{_broken(code, opened)}"
    places = []
    for found in re.finditer(r'"[^"]*"|[()\[\],]', code[:COLUMN]):
        if found[0] in "([":
            opened = (*opened, found.end())
        elif found[0] in ")]":
            opened = opened[:-1]
        elif found[0] == "," and opened:
            places.append((-len(opened), found.end(), opened))
    if places:
        _, at, opened = max(places)  # the last of the commas in the fewest brackets
    elif not opened or opened[-1] <= indent:
        return code
    if not places or opened[-1] > max(indent, COLUMN // 2):
        at, opened = opened[-1], (*opened[:-1], indent + 8)
    return f"{code[:at].rstrip()}\n{_broken(' ' * opened[-1] + code[at:].lstrip(), opened)}"


def coloured(text: str) -> str:
    """Source as HTML, every index of `COLOURS` on its colour, also where it is a letter of an einsum.

    Examples
    --------
    >>> coloured("x[n]")
    'x[<span style="color: #000; background: #dddddd">n</span>]'
    """
    words = "|".join(COLOURS)
    pieces = re.split(rf'("[a-z,]+->[a-z]+"|\b(?:{words})\b)', text)  # every second piece has indices
    for k in range(len(pieces)):
        letters = list(pieces[k]) if pieces[k].startswith('"') else [pieces[k]]
        pieces[k] = "".join(map(_marked, letters)) if k % 2 else html.escape(pieces[k], quote=False)
    return "".join(pieces)


def _marked(name: str) -> str:
    index = SUBSCRIPTS.get(name, name)
    if index not in COLOURS:
        return html.escape(name, quote=False)
    return f'<span style="color: #000; background: {COLOURS[index]}">{name}</span>'


def side_by_side(**things: Any) -> None:
    """Display what matters of functions or kernels beside each other, the same index in the same colour.

    The whole sources are folded below.

    Parameters
    ----------
    **things
        Title, with underscores for blanks, and the function, kernel or class to show.
    """
    from IPython.display import display

    texts = {title.replace("_", " "): essence(thing) for title, thing in things.items()}
    style = "font: 80%/1.5 monospace; white-space: pre; word-break: normal; overflow-x: auto; margin: 0; padding: 0"
    column = f'<div style="flex: 1 1 26em; min-width: 0"><b>{{}}</b><pre style="{style}">{{}}</pre></div>'
    columns = "".join(column.format(html.escape(title), coloured(text)) for title, text in texts.items())
    whole = "\n\n\n".join(html.escape(source(thing), quote=False) for thing in things.values())
    fold = f'<details><summary>The whole sources</summary><pre style="{style}">{whole}</pre></details>'
    page = f'<div style="display: flex; flex-wrap: wrap; gap: 1em">{columns}</div>{fold}'
    plain = "\n\n".join(f"{title}\n\n{text}" for title, text in texts.items())
    display({"text/html": page, "text/plain": plain}, raw=True)
