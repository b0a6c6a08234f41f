"""``cks-numba flops``: counts of a network, or of one operator, as text, as CSV and as the table of the README."""

from __future__ import annotations

import csv
from pathlib import Path

from . import checks, flops, networks
from .flops import Count, LayerCount, NetworkCount
from .geometry import OPERATORS, ConvShape

ALL = "all"
KINDS = ("useful", "padded", "inserted", "both")
MARKERS = ("<!-- flops: networks -->", "<!-- end of flops -->")


def title(name: str, input: int | tuple[int, int] | None = None) -> str:
    """Name of a network and its image, such as "ResNet-18, 32x32"."""
    network = networks.NETWORKS[name]
    size = network.default if input is None else input
    rows, columns = size if isinstance(size, tuple) else (size, size)
    return f"{network.title}, {rows}x{columns}"


# --- one network -----------------------------------------------------------------------------------
def network_text(name: str, batch: int, counted: NetworkCount) -> str:
    """Return the counts of a network as text: a line for each layer, and the sums.

    Examples
    --------
    >>> print(network_text("VGG-16, 32x32", 1, flops.network("vgg16", 32)).splitlines()[-1])
    a training step: 0.94 G multiply-adds the regular way, 0.74 G useful, so 1.27 times as many as needed
    """
    total = counted.total
    return (
        f"{name}, batch {batch}. Useful: millions of multiply-adds of a pass. Percent: the part of its regular ones\n"
        "by an added zero: any, only a padded one, only an inserted one, both (see cks_numba/flops.py)\n\n"
        f"{network_table(counted)}\n\n"
        f"a training step: {total.regular / 1e9:.2f} G multiply-adds the regular way, "
        f"{total.useful / 1e9:.2f} G useful, so {total.saved:.2f} times as many as needed"
    )


def network_table(counted: NetworkCount) -> str:
    """Return one line for each layer, and one for the total."""
    heads = f"{'':<50}" + "".join(f"   {name:<20}" for name in flops.PASSES)
    below = "".join(f"   {'any':>5}{'pad':>5}{'ins':>5}{'both':>5}" for _ in flops.PASSES)
    lines = [heads.rstrip(), f"{'layer':<18} {'input':<12} {'filter':<11} {'useful':>6}{below}"]
    lines += [_line(layer.layer.name, *layer_sizes(layer), layer.passes) for layer in counted.layers]
    return "\n".join([*lines, _line("total", "", "", {name: counted.of(name) for name in flops.PASSES})])


def _line(name: str, input: str, filters: str, passes: dict[str, Count]) -> str:
    useful = passes["forward"].useful / 1e6
    cells = "".join(f"   {_shares(passes.get(key, Count(0, 0)))}" for key in flops.PASSES)
    return f"{name:<18} {input:<12} {filters:<11} {useful:>6.1f}{cells}".rstrip()


def _shares(count: Count) -> str:
    """Percentages of the regular multiply-adds; nothing where there is none, so that the others stand out."""
    shares = [100 * count.share(kind) for kind in ("redundant", "padded", "inserted", "both")]
    return "".join(f"{share:>5.1f}" if share else " " * 5 for share in shares)


def layer_sizes(layer: LayerCount) -> tuple[str, str]:
    """The map that the layer reads and its filters, /2 for stride 2 and *2 for a transposed layer."""
    s, transposed = layer.layer.shape, layer.layer.transposed
    (rows, columns, ic), oc = ((s.oh, s.ow, s.oc), s.ic) if transposed else ((s.ih, s.iw, s.ic), s.oc)
    stride = f"{'*' if transposed else '/'}{s.stride[0]}" if s.stride != (1, 1) else ""
    return f"{rows}x{columns}x{ic}", f"{s.fh}x{s.fw}x{oc}{stride}"


def write(counted: dict[str, NetworkCount], path: Path) -> None:
    """Write the counts of networks, by their titles, as CSV: a row for each pass of each layer."""
    sizes = ("n", "ih", "iw", "ic", "oc", "fh", "fw")
    numbers = ("regular", *KINDS, "bytes")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("network", "layer", "pass", "operator", *sizes, "stride", "padding", *numbers, "intensity"))
        for name, layer in ((name, layer) for name, network in counted.items() for layer in network.layers):
            s, operators = layer.layer.shape, flops.operators(layer.layer)
            shape = (*(getattr(s, key) for key in sizes), s.stride[0], s.padding[0][0])
            for pass_name, count in layer.passes.items():
                found = (*(getattr(count, key) for key in numbers), f"{count.intensity:.4g}")
                writer.writerow((name, layer.layer.name, pass_name, operators[pass_name], *shape, *found))


# --- all networks ----------------------------------------------------------------------------------
def all_networks() -> dict[str, NetworkCount]:
    """Count every network, by its title: for the images of its paper, and small images where it has a form for them."""
    found = {}
    for name, network in networks.NETWORKS.items():
        for input in (32, None) if network.small else (None,):
            found[title(name, input)] = flops.network(name, input)
    return found


def summary(counted: dict[str, NetworkCount]) -> str:
    """Return the share of redundant multiply-adds by network, in Markdown."""
    lines = [
        "| network, image | useful, G | forward | input gradient | weight gradient | training step | factor |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, network in counted.items():
        counts = [*(network.of(pass_name) for pass_name in flops.PASSES), network.total]
        shares = [f"{100 * count.share('redundant'):.0f}%" for count in counts]
        useful, saved = f"{network.total.useful / 1e9:.3g}", f"{network.total.saved:.2f}"
        lines.append(f"| {' | '.join((name, useful, *shares, saved))} |")
    return "\n".join(lines)


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
    found = flops.count(operator, shape)
    lines = [f"{operator} {shape}"]
    lines += [f"{'regular':<9}{found.regular:>16,} multiply-adds, {found.saved:.2f} times the useful ones"]
    lines += [f"{kind:<9}{getattr(found, kind):>16,}  {100 * found.share(kind):>5.1f}%" for kind in KINDS]
    moved = f"{found.bytes:,} bytes moved at the least in float32: {found.intensity:.2f} useful FLOPs a byte"
    return "\n".join([*lines, moved])


# --- the command -----------------------------------------------------------------------------------
def run(
    what: str,
    shape: ConvShape | None = None,
    input: int | tuple[int, int] | None = None,
    batch: int = 1,
    csv_file: Path | None = None,
    readme: Path | None = None,
) -> int:
    """Print what was asked for.

    Parameters
    ----------
    what : str
        A network, an operator, or "all" for the table of all networks.
    shape : ConvShape, optional
        Of an operator.
    input, batch : int
        Image and number of images of a network.
    csv_file, readme : Path, optional
        File to write the counts of networks to; file with markers to put the table of all networks between.

    Returns
    -------
    int
        0.

    Raises
    ------
    ValueError
        For an unknown name, an input that the network cannot take, or arguments that do not go together.
    """
    checks.choice("name", what, (ALL, *networks.NETWORKS, *OPERATORS))
    wrong = {
        "SHAPE goes with an operator": shape is not None and what not in OPERATORS,
        "--input and --batch go with one network": (input, batch) != (None, 1) and what not in networks.NETWORKS,
        "--csv goes with networks": csv_file is not None and what in OPERATORS,
        f"--readme goes with {ALL}": readme is not None and what != ALL,
    }
    for message in (message for message, is_wrong in wrong.items() if is_wrong):
        raise ValueError(f"{message}, got {what}")
    if what in OPERATORS:
        if shape is None:
            raise ValueError(f"{what} needs a SHAPE")
        print(operator_table(what, shape))
        return 0
    counted = all_networks() if what == ALL else {title(what, input): flops.network(what, input, batch)}
    print(summary(counted) if what == ALL else network_text(title(what, input), batch, counted[title(what, input)]))
    if csv_file:
        write(counted, csv_file)
        print(f"\nwrote {csv_file}")
    if readme:
        from .bench.results import put_between  # slow to import

        put_between(readme, summary(counted), MARKERS)
    return 0
