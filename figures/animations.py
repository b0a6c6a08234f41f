"""Write figures/conv2d.gif, conv2d_input.gif and conv2d_weight.gif: the regular way beside the skipping way.

Every cross and dot is a product that a traced kernel did.

Usage: ``python figures/animations.py [--out FOLDER]``
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from cks_numba.geometry import ConvShape
from cks_numba.plots.animation import animate

STRIDED = ConvShape(n=1, ih=5, iw=5, ic=1, oc=1, fh=3, fw=3, stride=2, padding=1)
SHAPES = {
    "conv2d": ConvShape(n=1, ih=4, iw=4, ic=1, oc=1, fh=3, fw=3, padding=1),
    "conv2d_input": STRIDED,
    "conv2d_weight": STRIDED,
}


def main() -> None:
    arguments = argparse.ArgumentParser(description="Write a GIF of every operator.")
    arguments.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the animations")
    folder = arguments.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    plt.rcParams.update({"font.family": "DejaVu Sans", "hatch.linewidth": 0.6})
    for operator, shape in SHAPES.items():
        print(animate(operator, shape, folder / f"{operator}.gif"))


if __name__ == "__main__":
    main()
