"""``cks-numba report``: what the zeros of a model cost, layer by layer, as text and as a page."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..flops.files import replacing
from ..models import onnx, page, pytorch, text
from ..models.found import THRESHOLD
from ..models.onnx_sizes import Given, Size
from .arguments import converted, parse_named_size, parse_threshold


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    command.add_argument(
        "model", metavar="MODEL", help="module.path:name, of a torch.nn.Module or what returns one; or FILE.onnx"
    )
    command.add_argument(
        "--input",
        type=converted(parse_named_size),
        action="append",
        metavar="[NAME=]SIZE",
        help="size of an input in PyTorch's order: 1x3x32x32; several in their order, or each by its name",
    )
    command.add_argument("--forward", action="store_true", help="count and judge the forward pass alone")
    command.add_argument(
        "--threshold",
        type=converted(parse_threshold),
        default=THRESHOLD,
        help=f"factor from which converting a layer pays (default {THRESHOLD:g})",
    )
    command.add_argument(
        "--subclasses",
        action="store_true",
        help="count layers of a subclass as swapped too, if its forward pass is that of torch's own class",
    )
    command.add_argument("--html", type=Path, metavar="FILE", help="file for the report as one self-contained page")


def run(arguments: argparse.Namespace) -> int:
    """Print the report of a model."""
    given = arguments
    input = _together(given.input or [])
    return show(given.model, input, given.threshold, given.html, not given.forward, given.subclasses)


def show(
    model: str,
    input: Given = None,
    threshold: float = THRESHOLD,
    html: Path | None = None,
    train: bool = True,
    subclasses: bool = False,
) -> int:
    """Print the report of a model, and write it as a page.

    Parameters
    ----------
    model : str
        ``module.path:name`` of a torch.nn.Module, or of something that returns one when called; or a file FILE.onnx.
    input : tuple of int, tuple of sizes, or dict of sizes by name, optional
        Size of the input, (N, C, H, W), or of several inputs. An ONNX file may bring its own.
    threshold : float
        Factor from which `convert` swaps.
    html : Path, optional
        File for the page.
    train : bool
        Whether the gradients of a training step are counted.
    subclasses : bool
        Whether layers of a subclass may be swapped, as in `convert`; an ONNX file has none.

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
        rows = onnx.of_onnx(Path(model), input, train)
    elif input is None:
        raise ValueError(f"{model} needs the size of its input, such as --input 1x3x32x32")
    else:
        rows = pytorch.of_torch(load(model), input, train, subclasses)
    print(text.text(rows, threshold))
    if html:
        html.parent.mkdir(parents=True, exist_ok=True)
        with replacing(html) as file:
            file.write(page.page(_title(model, input), rows, threshold))
        print(f"\nwrote {html}")
    return 0


def _together(sizes: list[tuple[str, Size]]) -> Given:
    """The sizes of all inputs, as the readers of models take them."""
    names = {name for name, _ in sizes}
    if not sizes:
        return None
    if "" not in names:
        if len(names) < len(sizes):
            raise ValueError("--input gives an input twice")
        return dict(sizes)
    if names != {""}:
        raise ValueError("--input gives either all inputs their names, or none")
    return tuple(size for _, size in sizes) if len(sizes) > 1 else sizes[0][1]


def _title(model: str, input: Given) -> str:
    if input is None:
        return Path(model).name
    named: list[tuple[str, Any]] = [("", input)]
    if isinstance(input, Mapping):
        named = list(input.items())
    elif not all(isinstance(item, int) for item in input):
        named = [("", size) for size in input]
    told = ("=".join(filter(None, (name, "x".join(map(str, size))))) for name, size in named)
    return f"{Path(model).name}, input {', '.join(told)}"


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
    if os.getcwd() not in sys.path:  # Then a module in the current folder is found.
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        way = f": pip install {error.name}" if error.name == "torchvision" else ""
        raise ValueError(f"cannot import {module_name}: {error}{way}") from error
    except Exception as error:
        raise ValueError(f"cannot import {module_name}: {error}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{module_name} has no {attribute}")
        found = getattr(found, part)
    return found
