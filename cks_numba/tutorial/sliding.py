"""`slider`: a picture that follows sliders, in a notebook and on a page without a server."""

from __future__ import annotations

import base64
import html
import io
import json
import textwrap
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from .showing import SHOWN

DPI = 96
"""Pixels per inch of a stored frame."""
COLOURS = 48
"""Colours of a stored frame; with few of them it takes a third of the bytes."""
MOST_FRAMES = 64

FOLLOW = """
let at = 0;
for (const input of this.querySelectorAll('input')) {
  const values = JSON.parse(input.dataset.values);
  at = at * values.length + Number(input.value);
  input.nextElementSibling.value = values[input.value];
  input.setAttribute('aria-valuetext', values[input.value]);
}
const [src, alt] = JSON.parse(this.dataset.frames)[at];
Object.assign(this.querySelector('img'), {src: 'data:image/png;base64,' + src, alt: alt});
"""
"""What the browser does when a slider moves. It is part of the output, so every output works by itself."""


def slider(draw: Callable[..., tuple[Figure, str]], **values: Sequence[Any]) -> None:
    """Display a picture with a slider for each argument of `draw`.

    All pictures are drawn now, and kept in the output. What `draw` refuses becomes a picture of the reason.

    Parameters
    ----------
    draw : function
        Takes one value for each name, and returns a figure and a text for those who cannot see it. It raises
        ValueError for values that do not go together.
    **values
        The values of each slider, in order; the first ones are shown first.

    Raises
    ------
    ValueError
        Without a slider, for a slider without values, and for more than 64 pictures.
    """
    lists = {name: list(found) for name, found in values.items()}
    _check(lists)
    from IPython.display import display

    frames = [_frame(draw, dict(zip(lists, chosen, strict=True))) for chosen in product(*lists.values())]
    page = _page(lists, frames)
    display({"text/html": page, "text/plain": frames[0][1]}, raw=True)


def _check(lists: dict[str, list[Any]]) -> None:
    empty = [name for name, found in lists.items() if not found]
    if empty or not lists:
        raise ValueError(f"values must have at least one value for each slider, got {lists}")
    count = len(list(product(*lists.values())))
    if count > MOST_FRAMES:
        raise ValueError(f"values must make at most {MOST_FRAMES} pictures, got {count}")


def _frame(draw: Callable[..., tuple[Figure, str]], chosen: dict[str, Any]) -> tuple[Image.Image, str]:
    try:
        figure, alt = draw(**chosen)
    except ValueError as error:
        alt = f"There is no picture for {', '.join(f'{name} {value}' for name, value in chosen.items())}: {error}."
        figure = _reason(alt)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return Image.open(buffer).convert("RGB"), alt


def _reason(text: str) -> Figure:
    figure = Figure(figsize=(5.5, 2.2))
    figure.text(0.05, 0.9, textwrap.fill(text, 48), va="top", fontsize=12)
    return figure


def _page(lists: dict[str, list[Any]], frames: list[tuple[Image.Image, str]]) -> str:
    size = max(image.width for image, _ in frames), max(image.height for image, _ in frames)
    stored = [(_stored(image, size), alt) for image, alt in frames]
    rows = "".join(_control(name, list(map(str, found))) for name, found in lists.items())
    first, alt = stored[0]
    picture = (
        f'<img alt="{html.escape(alt)}" width="{round(size[0] * SHOWN / DPI)}" style="max-width: 100%; height: auto; '
        f'display: block" src="data:image/png;base64,{first}">'
    )
    data = html.escape(json.dumps(stored, separators=(",", ":")))
    script = html.escape(" ".join(FOLLOW.split()))
    return f'<div data-frames="{data}" oninput="{script}">{rows}{picture}</div>'


def _control(name: str, values: list[str]) -> str:
    data = html.escape(json.dumps(values))
    title = html.escape(name.replace("_", " "))
    return (
        f'<label style="display: flex; align-items: center; gap: 0.8em"><span style="min-width: 5em">{title}</span>'
        f'<input type="range" min="0" max="{len(values) - 1}" step="1" value="0" data-values="{data}" '
        f'data-lm-suppress-shortcuts="true" '  # JupyterLab would take the arrow keys for itself
        f'aria-valuetext="{html.escape(values[0])}" style="flex: 0 1 12em; min-width: 0; height: 2.2em">'
        f'<output style="min-width: 7em">{html.escape(values[0])}</output></label>'
    )


def _stored(image: Image.Image, size: tuple[int, int]) -> str:
    """A frame on a white ground of a common size, as text."""
    ground = Image.new("RGB", size, "white")
    ground.paste(image, (0, 0))
    buffer = io.BytesIO()
    ground.quantize(COLOURS, dither=Image.Dither.NONE).save(buffer, format="png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
