"""How many multiply-adds are useful: bars by kind of zero, and the wasted share against the size of the map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.patches import Patch

from .. import flops
from ..flops import Count
from ..geometry import ConvShape
from ..steps.stages import INSERTED, PADDED, REAL
from .cells import INK, STYLES

BOTH: dict[str, Any] = dict(facecolor="#C9A98B", edgecolor="#6B4A2B", hatch="xxxx")  # padded zero times inserted zero
KINDS: dict[str, dict[str, Any]] = {
    "useful": STYLES[REAL],
    "padded": STYLES[PADDED],
    "inserted": STYLES[INSERTED],
    "both": BOTH,
}
LINES = (("#0072B2", "o"), ("#E69F00", "s"), ("#009E73", "^"), ("#CC79A7", "D"))


def draw_bars(ax: Any, counts: Mapping[str, Count]) -> None:
    """Draw the regular multiply-adds of some operators or layers as bars, stacked by kind.

    Parameters
    ----------
    ax : matplotlib Axes
    counts : dict of str to Count
        The keys are the labels of the bars.
    """
    where, bottom = range(len(counts)), [0] * len(counts)
    for kind, style in KINDS.items():
        heights = [getattr(count, kind) for count in counts.values()]
        ax.bar(where, heights, 0.62, bottom, linewidth=0.9, **style)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    for x, count in enumerate(counts.values()):
        text = f"{count.useful:,} of\n{count.regular:,} useful"
        ax.text(x, count.regular, text, ha="center", va="bottom", fontsize=12, color=INK)
    ax.set_xticks(where, counts, fontsize=12)
    ax.set(ylim=(0, 1.25 * max(bottom)), yticks=[])
    ax.spines[["top", "right", "left"]].set_visible(False)
    present = [kind for kind in KINDS if any(getattr(count, kind) for count in counts.values())]
    handles = [
        Patch(label=kind if kind in ("useful", "both") else f"by {kind} zero", **KINDS[kind]) for kind in present
    ]
    ax.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=12)


def share(operator: str, size: int, taps: int, stride: int) -> float:
    """Share of the regular multiply-adds that are by a zero, in percent, for a layer with `size` x `size` outputs.

    Its input is `stride` times as large, padded by half the filter. Channels and images do not change the share.

    Examples
    --------
    >>> round(share("conv2d", 2, 3, 1), 1)
    55.6
    """
    pad = (taps - 1) // 2, taps // 2
    shape = ConvShape(
        n=1, ih=stride * size, iw=stride * size, ic=1, oc=1, fh=taps, fw=taps, stride=stride, padding=(pad, pad)
    )
    return 100 * flops.count(operator, shape).share("redundant")


def draw_shares(
    ax: Any, operator: str, stride: int = 1, filters: Sequence[int] = (3, 5, 7), sizes: Iterable[int] = range(2, 33)
) -> None:
    """Draw the wasted share of an operator against the size of y, a line for each filter."""
    sizes = list(sizes)
    for taps, (colour, marker) in zip(filters, LINES, strict=False):
        shares = [share(operator, size, taps, stride) for size in sizes]
        places = [k for k, size in enumerate(sizes) if size & (size - 1) == 0]
        ax.plot(sizes, shares, marker=marker, markevery=places, color=colour, linewidth=2, label=f"{taps}×{taps}")
    ax.set_xscale("log", base=2)
    ticks = [size for size in sizes if size & (size - 1) == 0]
    ax.set_xticks(ticks, [str(size) for size in ticks])
    ax.set(ylim=(0, 100), xlabel="rows and columns of y", title=f"stride {stride}")
    ax.grid(color="#DDDDDD")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(title="filter", frameon=False)
