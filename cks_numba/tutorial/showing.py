"""Pictures with a description, and sources beside each other, in a notebook."""

from __future__ import annotations

import base64
import html
import inspect
import io
import textwrap
from typing import Any

DPI = 120
"""Pixels per inch of the stored picture."""
SHOWN = 64
"""Pixels per inch on the screen; fewer than stored, so that the picture is sharp on a fine screen too."""


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


def side_by_side(**things: Any) -> None:
    """Display the sources of functions or kernels (or strings) beside each other, each under its keyword as title.

    Parameters
    ----------
    **things
        Title, with underscores for blanks, and what to show.
    """
    from IPython.display import display

    texts = {
        title.replace("_", " "): thing if isinstance(thing, str) else source(thing) for title, thing in things.items()
    }
    style = "font: 80%/1.4 monospace; white-space: pre; word-break: normal; overflow-x: auto"
    column = f'<div style="flex: 1 1 30em; min-width: 0"><b>{{}}</b><pre style="{style}">{{}}</pre></div>'
    columns = "".join(column.format(html.escape(title), html.escape(text)) for title, text in texts.items())
    page = f'<div style="display: flex; flex-wrap: wrap; gap: 1em">{columns}</div>'
    plain = "\n\n".join(f"{title}\n\n{text}" for title, text in texts.items())
    display({"text/html": page, "text/plain": plain}, raw=True)
