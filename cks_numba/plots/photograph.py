"""A real photograph, for the demo and the course."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import cbook, image
from numpy.typing import NDArray

Array = NDArray[Any]


def photograph(size: int) -> Array:
    """Read a square of the photograph that ships with matplotlib, and its mirror image, in -1..1.

    Parameters
    ----------
    size : int
        Side of the result; divides 512.

    Returns
    -------
    (2, size, size, 3) float32 array
        The photograph and its mirror image.
    """
    path = str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
    pixels = image.imread(path)[:512, :512]  # (512, 512, 3)
    block = 512 // size
    small = pixels.reshape(size, block, size, block, 3).mean(axis=(1, 3))
    return (np.stack((small, small[:, ::-1])) / 127.5 - 1).astype(np.float32)
