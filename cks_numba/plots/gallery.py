"""``cks-numba figures``: the common look of all pictures; drawing and saving them, the same bytes every time.

A script in figures/ has a function ``draw()`` that returns a Matplotlib ``Figure``, or a dict of them by name; or a
function ``animations()`` that returns, by name, functions that write a GIF to a path.
Colours mean the same in every picture: blue is useful work, light orange hatched an inserted zero, grey dotted a
padded one (`plots.STYLES`); operators have colours and markers of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from .. import plots
from ..flops.files import replacing

Writer = Callable[[Path], Path]
"""Function that writes an animation to a path."""
FOLDER = Path(__file__).resolve().parents[2] / "figures"
DPI = 120
KINDS = plots.KINDS
OPERATORS: dict[str, dict[str, Any]] = {  # the rest of the Okabe-Ito palette
    "conv2d": dict(color="#D55E00", marker="o"),
    "conv2d_input": dict(color="#009E73", marker="s"),
    "conv2d_weight": dict(color="#AA4499", marker="^"),
}
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with Matplotlib
    "font.size": 15,
    "axes.titlesize": 17,
    "axes.titleweight": "bold",
    "axes.labelsize": 16,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
    "svg.fonttype": "path",
    "svg.hashsalt": "cks-numba",  # names inside an SVG are random without it
}


def scripts() -> dict[str, Path]:
    """Return the scripts that draw, by name.

    Raises
    ------
    RuntimeError
        If there are none, as in an installed wheel.
    """
    if not (FOLDER.parent / "pyproject.toml").is_file() or not FOLDER.is_dir():
        raise RuntimeError("the figures and their data are not in the installed package: run this in a checkout")
    return {path.stem: path for path in sorted(FOLDER.glob("*.py"))}


def load(name: str) -> ModuleType:
    """Import a script of figures/."""
    spec = spec_from_file_location(f"figures_{name}", scripts()[name])
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def look() -> Iterator[None]:
    """Give all pictures made inside this context the common look, whatever settings Matplotlib has."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**STYLE, "backend": "agg"})
        yield


def pictures(name: str, script: ModuleType) -> dict[str, Figure]:
    """Return the pictures that a script draws, by name."""
    drawn = script.draw()
    return drawn if isinstance(drawn, dict) else {name: drawn}


def save(fig: Figure, folder: Path, name: str) -> list[Path]:
    """Save a picture as PNG and SVG, with the version of Matplotlib and without a date."""
    maker, paths = f"Matplotlib {matplotlib.__version__}", [folder / f"{name}.{kind}" for kind in ("png", "svg")]
    with replacing(paths[0], "wb") as file:
        metadata = {"Software": maker}
        fig.savefig(file, format="png", dpi=DPI, metadata=metadata, pil_kwargs={"optimize": True})
    with replacing(paths[1], "wb") as file:
        fig.savefig(file, format="svg", metadata={"Creator": maker, "Date": None})
    return paths


def make(name: str, folder: Path) -> list[Path]:
    """Draw and save the pictures of one script, or its animations.

    Parameters
    ----------
    name : str
        Name of a script in figures/, without .py.
    folder : Path
        Folder of the pictures; it is made if it does not exist.

    Returns
    -------
    list of Path
    """
    folder.mkdir(parents=True, exist_ok=True)
    script = load(name)
    with look():
        if hasattr(script, "animations"):
            return [write(folder / f"{title}.gif") for title, write in script.animations().items()]
        return [path for title, fig in pictures(name, script).items() for path in save(fig, folder, title)]
