"""Multiply-adds of a training step, layer by layer, and which of them meet an added zero.

The counts are from ``flops.network``: forward, input gradient and weight gradient of every convolution, one image,
the regular way. The height of an upper bar is the regular work of a layer; only its blue part is useful. The strip
below has the same parts as shares, so that small layers can be read too.
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from cks_numba import flops
from cks_numba.flops import text
from cks_numba.plots import gallery

PANELS = (
    ("resnet18", 32),
    ("resnet18", 224),
    ("vgg16", 32),
    ("googlenet", 224),
    ("alexnet", 224),
    ("dcgan-generator", 64),
    ("dcgan-discriminator", 64),
    ("unet", 572),
)
LABELS = {
    "useful": "useful",
    "padded": "by a padded zero",
    "inserted": "by an inserted zero",
    "both": "padded zero times inserted zero",
}


def draw_bars(ax: Axes, totals: list[flops.Count], units: list[float]) -> None:
    """Draw a bar for each layer, in the order of the forward pass, each in its own unit."""
    where, bottom = range(1, len(totals) + 1), [0.0] * len(totals)
    for kind, style in gallery.KINDS.items():
        heights = [getattr(total, kind) / unit for total, unit in zip(totals, units, strict=True)]
        ax.bar(where, heights, 0.9, bottom, linewidth=0, **style)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    ax.bar(where, bottom, 0.9, fill=False, edgecolor="#444444", linewidth=0.6)
    ax.set(xlim=(0.4, len(totals) + 0.6), ylim=(0, 1.05 * max(bottom)))


def draw_panel(ax: Axes, share: Axes, name: str, size: int) -> None:
    """Draw the work of each layer, and below it the shares of its parts."""
    counted = flops.network(name, size)
    totals = [layer.total for layer in counted.layers]
    draw_bars(ax, totals, [1e9] * len(totals))
    draw_bars(share, totals, [total.regular for total in totals])
    ax.set_title(f"{text.title(name, size)}\n{counted.total.share('redundant'):.0%} by zeros", fontsize=16)
    ax.tick_params(labelbottom=False)
    ax.yaxis.set_major_locator(MaxNLocator(4))
    ax.grid(axis="y")
    share.set(ylim=(0, 1), yticks=(0, 1), yticklabels=("0", "100%"))
    share.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=3))


def draw() -> Figure:
    """Return the figure: a panel for each network."""
    fig = Figure(figsize=(9, 15), layout="constrained")
    axes = fig.subplots(8, 2, height_ratios=(3, 1) * 4)
    for k, (name, size) in enumerate(PANELS):
        row, column = divmod(k, 2)
        draw_panel(axes[2 * row, column], axes[2 * row + 1, column], name, size)
    fig.supxlabel("layer, in the order of the forward pass", fontsize=17)
    fig.supylabel("billion multiply-adds of a training step, one image; below: their shares", fontsize=17)
    handles = [Patch(label=LABELS[kind], **style) for kind, style in gallery.KINDS.items()]
    fig.legend(handles=handles, loc="outside upper center", ncols=2, fontsize=16, handleheight=1.3, handlelength=2)
    return fig
