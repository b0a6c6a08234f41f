"""``cks-numba report``: what the zeros of a model cost, layer by layer, as text and as a page."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from . import flops, models, report
from .flops import Count
from .models import THRESHOLD, Found

BAR = 14  # characters of a bar as long as the largest layer
STEPS = ((1e9, "G "), (1e6, "M "), (1e3, "k "), (1, ""))


# --- text ------------------------------------------------------------------------------------------
def text(rows: list[Found], threshold: float = THRESHOLD) -> str:
    """Return a table with a line for each layer, and the sums below.

    Parameters
    ----------
    rows : list of Found
    threshold : float
        From here on `convert` swaps.

    Returns
    -------
    str

    Examples
    --------
    >>> from cks_numba import ConvShape
    >>> from cks_numba.networks import Layer
    >>> layer = Layer("down", ConvShape(n=1, ih=8, iw=8, ic=4, oc=4, fh=3, fw=3, stride=2, padding=1))
    >>> print(text([models.found("down", "Conv2d", [layer])]).splitlines()[-1])
    swapping 1 of 1 layers saves 12.8 of 18.6 k multiply-adds of a training step (69%)
    """
    width = max(5, *(len(row.name) for row in rows)) if rows else 5
    kinds = max(4, *(len(row.kind) for row in rows)) if rows else 4
    most = max((row.total.regular for row in rows), default=0) or 1
    lines = [
        "Multiply-adds by an added zero, of the regular ones; factor: regular over useful in a training step.",
        "Bar: multiply-adds of a training step, # useful and . by zeros.",
        "",
        f"{'layer':<{width}}  {'kind':<{kinds}}  {'input':<12} {'filter':<11}  fwd   bwd  factor  {'bar':<{BAR}}  "
        "convert",
    ]
    lines += [_line(row, threshold, width, kinds, most).rstrip() for row in rows]
    return "\n".join([*lines, "", sentence(rows, threshold)])


def _line(row: Found, threshold: float, width: int, kinds: int, most: int) -> str:
    head = f"{row.name:<{width}}  {row.kind:<{kinds}}"
    if not row.counts:
        return f"{head}  {'':<12} {'':<11}  {'':>3}   {'':>3}  {'':>6}  {'':<{BAR}}  {row.why(threshold)}"
    cells = f"{percent(row.of('forward')):>4}  {percent(row.of(*flops.PASSES[1:])):>4}  {row.total.saved:>6.2f}"
    return f"{head}  {sizes(row)[0]:<12} {sizes(row)[1]:<11} {cells}  {_bar(row, most):<{BAR}}  {row.why(threshold)}"


def _bar(row: Found, most: int) -> str:
    length = max(1, round(BAR * row.total.regular / most))
    useful = round(length * row.total.share("useful"))
    return "#" * useful + "." * (length - useful)


def percent(count: Count) -> str:
    """The part of the multiply-adds that meets an added zero."""
    return f"{100 * count.share('redundant'):.0f}%"


def sizes(row: Found) -> tuple[str, str]:
    """Input map and filter of the first use, as in ``cks-numba flops``."""
    return report.layer_sizes(row.counts[0]) if row.counts else ("", "")


def sentence(rows: list[Found], threshold: float = THRESHOLD) -> str:
    """Return what swapping would save, in one line."""
    regular = sum(row.total.regular for row in rows)
    saved = sum(row.total.redundant for row in rows if row.swaps(threshold))
    swapped = sum(row.swaps(threshold) for row in rows)
    scale, unit = next((step for step in STEPS if regular >= step[0]), STEPS[-1])
    return (
        f"swapping {swapped} of {len(rows)} layers saves {saved / scale:.1f} of {regular / scale:.1f} {unit}"
        f"multiply-adds of a training step ({saved / regular if regular else 0:.0%})"
    )


# --- the command -----------------------------------------------------------------------------------
def run(model: str, input: tuple[int, ...] | None, threshold: float = THRESHOLD, html: Path | None = None) -> int:
    """Print the report of a model, and write it as a page.

    Parameters
    ----------
    model : str
        ``module.path:name`` of a torch.nn.Module, or of something that returns one when called; or a file FILE.onnx.
    input : tuple of int, optional
        Size of the input, (N, C, H, W). An ONNX file may bring its own.
    threshold : float
        From here on `convert` swaps.
    html : Path, optional
        File for the page.

    Returns
    -------
    int
        0.

    Raises
    ------
    ValueError
        For a model that cannot be loaded, or does not take the input.
    RuntimeError
        If PyTorch or onnx is needed and not installed.
    """
    if model.endswith(".onnx"):
        from . import onnx_models

        rows = onnx_models.of_onnx(Path(model), input)
    elif input is None:
        raise ValueError(f"{model} needs the size of its input, such as --input 1x3x32x32")
    else:
        rows = models.of_torch(load(model), input)
    print(text(rows, threshold))
    if html:
        from . import page

        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(page.page(_title(model, input), rows, threshold), encoding="utf-8")
        print(f"\nwrote {html}")
    return 0


def _title(model: str, input: tuple[int, ...] | None) -> str:
    return Path(model).name + (f", input {'x'.join(map(str, input))}" if input else "")


def load(name: str) -> Any:
    """Import a PyTorch model: ``module.path:name``, where the name may have dots."""
    module_name, colon, attribute = name.partition(":")
    if not (colon and module_name and attribute):
        raise ValueError(f"MODEL must be module.path:name or a file FILE.onnx, got {name!r}")
    try:
        from torch import nn
    except ModuleNotFoundError as error:
        raise RuntimeError("a PyTorch model needs PyTorch: pip install 'cks-numba[torch]'") from error
    model = _imported(module_name, attribute)
    if not isinstance(model, nn.Module) and callable(model):
        try:
            model = model()
        except Exception as error:
            raise ValueError(f"{name} could not be called without arguments: {error}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} must be or return a torch.nn.Module, got {type(model).__name__}")
    return model


def _imported(module_name: str, attribute: str) -> Any:
    if os.getcwd() not in sys.path:  # as python -m does, so that a file beside the reader is found
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise ValueError(f"cannot import {module_name}: {error}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{module_name} has no {attribute}")
        found = getattr(found, part)
    return found
