"""Pictures and exercises of 00_start_here."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any

from matplotlib.figure import Figure

from .. import flops, plots
from ..geometry import ConvShape
from .answers import Wrong, shown, whole
from .guesses import Number, Prediction

LAST_MAP = ConvShape(n=1, ih=2, iw=2, ic=1, oc=1, fh=3, fw=3, padding=1)
LARGER_MAP = ConvShape(n=1, ih=4, iw=4, ic=1, oc=1, fh=3, fw=3, padding=1)


# --- pictures ---------------------------------------------------------------------------------------
def draw_layer(operator: str, stride: int, padding: int) -> tuple[Figure, str]:
    """A layer with a 4x4 map and a 3x3 filter, and a text of what the picture says."""
    layer = ConvShape(n=1, ih=4, iw=4, ic=1, oc=1, fh=3, fw=3, stride=stride, padding=padding)
    count = flops.count(operator, layer)
    text = f"{count.regular} products, {count.useful} of them useful."
    return plots.explore_figure(operator, layer), f"{operator}, stride {stride}, padding {padding}: {text}"


# --- exercises --------------------------------------------------------------------------------------
def corner(answer: Any) -> str:
    """Number of the nine products of the first output that are by a padded zero."""
    helps = {
        4: "Four squares of the frame lie on the picture. The question is about the others.",
        3: "The frame hangs over on two sides: a row of three above, and two more on the left.",
        6: "The row above and the column on the left have one square in common: it counts once.",
        9: "All nine squares are multiplied, but not all of them are padding.",
        20: "That is the whole border. Only the squares inside the thick frame make this result.",
    }
    number = whole(answer)
    if number != 5:
        raise Wrong(helps.get(number, "Count the dotted squares inside the thick frame, one product each."))
    return "Five of nine, for every pair of channels. The inside of the picture wastes none."


def last_map(answer: Any) -> str:
    """The share of the regular multiply-adds that is wasted on a 2x2 map with a 3x3 filter and padding 1."""
    count = flops.count("conv2d", LAST_MAP)
    if isinstance(answer, bool) or not isinstance(answer, Real):
        raise Wrong(
            f"This should be a number between 0 and 1, but it is {shown(answer)}. A count has a method share()."
        )
    right, number = count.share("redundant"), float(answer)
    helps = {
        count.share("useful"): 'That is the useful share. The wasted one is share("redundant").',
        100 * right: "Right, but in percent. The share itself is a number between 0 and 1.",
        100 * count.share("useful"): "That is the useful share, in percent. Ask for the wasted one, between 0 and 1.",
        float(count.redundant): f"That is the number of wasted products. Divide by all {count.regular} of them.",
        float(count.useful): "That is the number of useful products. Which share of all is wasted?",
        float(count.regular): "That is the number of all products. Which share of them is wasted?",
        count.saved: "That is how many times too much is multiplied. Which share of it is wasted?",
        flops.count("conv2d", LARGER_MAP).share(
            "redundant"
        ): "That is a map of 4 x 4 elements. The last one has 2 x 2.",
    }
    if abs(number - right) < 0.006:
        return f"{count.redundant} of {count.regular} products for each pair of channels are by a zero."
    for value, text in helps.items():
        if abs(number - value) < 0.006 * max(value, 1):
            raise Wrong(text)
    raise Wrong(f'Yours is {number:g}. Make a ConvShape with ih=2, iw=2, fh=3, fw=3, padding=1, and count "conv2d".')


# --- predictions ------------------------------------------------------------------------------------
def _percent(size: int) -> float:
    """Percent of the multiply-adds that have a padded zero, for a 3x3 filter and padding 1."""
    layer = ConvShape(n=1, ih=size, iw=size, ic=3, oc=1, fh=3, fw=3, padding=1)
    return 100 * flops.count("conv2d", layer).share("redundant")


PREDICTIONS: dict[str, Prediction] = {
    "00.a": Number(
        lambda: _percent(256),
        "It is {answer:.1f} %. On a photograph it hardly matters.",
        low="Only the outputs along the border meet a zero, but they do.",
        high="Only the outputs along the border meet a zero, about 1000 of 65 536.",
        thoughts={
            0: "Nearly none, but the outputs along the border do meet the zeros.",
            100
            * 4
            * 255
            / 256**2: "That is the share of outputs along the border, but each wastes just a third or so.",
            0.005: "If you mean a share between 0 and 1: here it is asked in percent.",
        },
        within=0.2,
        near=0.8,
    ),
    "00.b": Number(
        lambda: _percent(4),
        "It is {answer:.1f} %. The smaller the map, the larger a part of it is border.",
        low="12 of the 16 pixels lie at the border, and each of these wastes at least a third of its products.",
        high="12 of the 16 pixels lie at the border, but even in a corner 4 of 9 products are useful.",
        thoughts={
            75: "That is the share of pixels at the border, but not all of their products have a zero.",
            100 * 5 / 9: "That is a corner. Along an edge it is less, and inside nothing.",
            100 / 3: "That is a pixel at an edge. A corner wastes more, and the four inside nothing.",
            0.31: "If you mean a share between 0 and 1: here it is asked in percent.",
            0.3: "If you mean a share between 0 and 1: here it is asked in percent.",
        },
        within=2,
        near=8,
    ),
}
EXERCISES: dict[str, Callable[[Any], str]] = {"00.1": corner, "00.2": last_map}
HINTS = {
    "00.1": (
        "Each of the nine squares in the thick frame is one product. Which of them are dotted?",
        "The frame hangs over at the top and on the left.",
        "A row of three squares above, and two more on the left.",
    ),
    "00.2": (
        "The cell below the photograph has all that you need: a ConvShape, a count, a share.",
        "ConvShape(n=1, ih=2, iw=2, ic=1, oc=1, fh=3, fw=3, padding=1) is the layer.",
        'flops.count("conv2d", layer).share("redundant"), as in the table of sizes.',
    ),
}
