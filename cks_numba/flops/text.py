"""Counts of a network, or of one operator, as text, as CSV and as a table in Markdown."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from ..geometry import ConvShape
from . import counts, networks
from .counts import PASSES, Count, LayerCount, NetworkCount
from .files import replacing
from .networks import by

KINDS = ("useful", "padded", "inserted", "both")
MARKERS = ("<!-- flops: networks -->", "<!-- end of flops -->")


def title(name: str, input: int | tuple[int, ...] | None = None) -> str:
    """Name of a network and its input, such as "ResNet-18, 32x32" or "WaveNet, 100000"."""
    return f"{networks.NETWORKS[name].title}, {by(networks.size(name, input))}"


# --- one network -----------------------------------------------------------------------------------
def network_text(name: str, batch: int, counted: NetworkCount) -> str:
    """Return the counts of a network as text: a line for each layer, and the sums.

    Examples
    --------
    >>> print(network_text("VGG-16, 32x32", 1, counts.network("vgg16", 32)).splitlines()[-1])
    a training step: 0.94 G multiply-adds the regular way, 0.74 G useful; 21% by zeros, 1.27 times the useful
    """
    total = counted.total
    return (
        f"{name}, batch {batch}. Useful: millions of multiply-adds of a pass. Percent: the part of its regular ones\n"
        "by an added zero: any, only a padded one, only an inserted one, both (see cks_numba/flops/counts.py)\n\n"
        f"{network_table(counted)}\n\n"
        f"a training step: {total.regular / 1e9:.2f} G multiply-adds the regular way, "
        f"{total.useful / 1e9:.2f} G useful; "
        f"{total.share('redundant'):.0%} by zeros, {total.saved:.2f} times the useful"
    )


def network_table(counted: NetworkCount) -> str:
    """Return one line for each layer, and one for the total."""
    rows = [(layer.layer.name, *layer_sizes(layer), layer.passes) for layer in counted.layers]
    rows.append(("total", "", "", {name: counted.of(name) for name in PASSES}))
    name, input, filters = (max(map(len, column)) for column in list(zip(*rows, strict=True))[:3])
    widths = name, max(input, 12), max(filters, 11)
    heads = " " * (sum(widths) + 11) + "".join(f"  {name:<20}" for name in PASSES)
    below = "".join(f"  {'any':>5}{'pad':>5}{'ins':>5}{'both':>5}" for _ in PASSES)
    lines = [heads.rstrip(), f"{_cells(widths, 'layer', 'input', 'filter')} {'useful':>8}{below}"]
    return "\n".join([*lines, *(_line(_cells(widths, *cells), passes) for *cells, passes in rows)])


def _cells(widths: tuple[int, ...], *cells: str) -> str:
    return " ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))


def _line(head: str, passes: dict[str, Count]) -> str:
    useful = passes["forward"].useful / 1e6
    cells = "".join(f"  {_shares(passes.get(key, Count(0, 0)))}" for key in PASSES)
    return f"{head} {useful:>8.1f}{cells}".rstrip()


def _shares(count: Count) -> str:
    """Percentages of the regular multiply-adds; blank if there are none, so that the others stand out."""
    shares = [100 * count.share(kind) for kind in ("redundant", "padded", "inserted", "both")]
    return "".join(f"{share:>5.1f}" if share else " " * 5 for share in shares)


def layer_sizes(layer: LayerCount) -> tuple[str, str]:
    """The map that the layer reads, and its filters, with /2 for stride 2 and *2 for a transposed layer."""
    s, transposed = layer.layer.shape, layer.layer.transposed
    read, oc = (s.y_shape, s.ic) if transposed else (s.x_shape, s.oc)
    stride = f"{'*' if transposed else '/'}{_short(s.stride)}" if set(s.stride) != {1} else ""
    return by(read[1:]), f"{by((*s.w_shape[1:-1], oc))}{stride}"


def _short(numbers: Sequence[int]) -> str:
    """One number if all are the same; else all, joined with x."""
    return by(numbers[:1] if len(set(numbers)) == 1 else numbers)


def write(counted: dict[str, NetworkCount], path: Path) -> None:
    """Write the counts of networks, by their titles, as CSV: a row for each pass of each layer.

    The columns ``i`` and ``f`` have the sizes of x and of w on every axis, joined with x, such as 224x224; ``stride``,
    ``dilation`` and ``padding`` (before and after each axis) have one number where all are the same.
    """
    head = ("network", "layer", "pass", "operator", "n", "i", "ic", "oc", "f", "stride", "dilation", "padding")
    numbers = ("regular", *KINDS, "bytes")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*head, *numbers, "intensity"))
        for name, layer in ((name, layer) for name, network in counted.items() for layer in network.layers):
            s, operators = layer.layer.shape, counts.operators(layer.layer)
            shape = (s.n, by(s.x_shape[1:-1]), s.ic, s.oc, by(s.w_shape[1:-1]))
            rest = (_short(s.stride), _short(s.dilation), _short(tuple(chain(*s.padding))))
            for pass_name, count in layer.passes.items():
                found = (*(getattr(count, key) for key in numbers), f"{count.intensity:.4g}")
                writer.writerow((name, layer.layer.name, pass_name, operators[pass_name], *shape, *rest, *found))


# --- all networks ----------------------------------------------------------------------------------
def all_networks() -> dict[str, NetworkCount]:
    """Count every network, by its title: for the images of its paper, and small images where it has a form for them."""
    found = {}
    for name, network in networks.NETWORKS.items():
        for input in (32, None) if network.small else (None,):
            found[title(name, input)] = counts.network(name, input)
    return found


def summary(counted: dict[str, NetworkCount]) -> str:
    """Return the share of redundant multiply-adds by network, in Markdown."""
    lines = [
        "| network, input | useful, G | forward | input gradient | weight gradient | training step | factor |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, network in counted.items():
        found = [*(network.of(pass_name) for pass_name in PASSES), network.total]
        shares = [f"{100 * count.share('redundant'):.0f}%" for count in found]
        useful, saved = f"{network.total.useful / 1e9:.3g}", f"{network.total.saved:.2f}"
        lines.append(f"| {' | '.join((name, useful, *shares, saved))} |")
    return "\n".join(lines)


def put_between(path: Path, text: str, markers: tuple[str, str]) -> None:
    """Replace what stands between the two markers of a file.

    Raises
    ------
    RuntimeError
        For a file without them.
    """
    content = path.read_text(encoding="utf-8")
    before, start, rest = content.partition(markers[0])
    _, end, after = rest.partition(markers[1])
    if not start or not end:
        raise RuntimeError(f"{path} has no {markers[0]} ... {markers[1]}")
    with replacing(path) as file:
        file.write(f"{before}{start}\n{text}\n{end}{after}")


# --- one operator ----------------------------------------------------------------------------------
def operator_table(operator: str, shape: ConvShape) -> str:
    """Return the counts of one operator as text.

    Examples
    --------
    >>> print(operator_table("conv2d", ConvShape(n=1, ih=2, iw=2, ic=1, oc=1, fh=3, fw=3, padding=1)))
    conv2d x (1, 2, 2, 1) w (1, 3, 3, 1) y (1, 2, 2, 1) stride (1, 1) padding (1, 1, 1, 1)
    regular                36 multiply-adds, 2.25 times the useful ones
    useful                 16   44.4%
    padded                 20   55.6%
    inserted                0    0.0%
    both                    0    0.0%
    68 bytes moved at the least in float32: 0.47 useful FLOPs a byte
    """
    found = counts.count(operator, shape)
    lines = [f"{operator} {shape}"]
    lines += [f"{'regular':<9}{found.regular:>16,} multiply-adds, {found.saved:.2f} times the useful ones"]
    lines += [f"{kind:<9}{getattr(found, kind):>16,}  {100 * found.share(kind):>5.1f}%" for kind in KINDS]
    moved = f"{found.bytes:,} bytes moved at the least in float32: {found.intensity:.2f} useful FLOPs a byte"
    return "\n".join([*lines, moved])
