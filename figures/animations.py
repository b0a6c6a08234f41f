"""The regular way beside the skipping way, one result per frame: conv2d.gif, conv2d_input.gif and conv2d_weight.gif.

Every cross and every dot is a product that a traced kernel computed.
"""

from __future__ import annotations

from functools import partial

from cks_numba.geometry import ConvShape
from cks_numba.plots import animate, gallery

STRIDED = ConvShape(n=1, ih=5, iw=5, ic=1, oc=1, fh=3, fw=3, stride=2, padding=1)
SHAPES = {
    "conv2d": ConvShape(n=1, ih=4, iw=4, ic=1, oc=1, fh=3, fw=3, padding=1),
    "conv2d_input": STRIDED,
    "conv2d_weight": STRIDED,
}


def animations() -> dict[str, gallery.Writer]:
    """Return a function for each operator that writes its GIF."""
    return {operator: partial(animate, operator, shape) for operator, shape in SHAPES.items()}
