"""``cks-numba flops``: the multiply-adds of a network or of one operator, and which of them meet zeros."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import checks, flops
from ..flops import text
from ..flops.networks import NETWORKS
from ..geometry import OPERATORS, ConvShape
from .arguments import ALIASES, SHAPE_HELP, at_least, converted, parse_input, parse_operator, parse_shape

ALL = "all"


def parse_counted(name: str) -> str:
    """Return what to count: a network, all of them, or an operator."""
    if name in NETWORKS or name == ALL:
        return name
    if name in OPERATORS or name in ALIASES:
        return parse_operator(name)
    raise ValueError(f"name must be one of {', '.join((*NETWORKS, ALL, *OPERATORS))}, got {name!r}")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    add = command.add_argument
    names = f"{', '.join(NETWORKS)}, or all of them with all; or one of {', '.join(OPERATORS)} with a SHAPE"
    add("name", type=converted(parse_counted), metavar="NAME", help=names)
    add("shape", nargs="?", type=converted(parse_shape), metavar="SHAPE", help=SHAPE_HELP)
    add("--input", type=converted(parse_input), help="size, such as 32, 96x64 or 16x112x112 (default: the source's)")
    add("--batch", type=at_least(0), default=1, help="images, volumes or signals (default 1)")
    add("--csv", type=Path, help="file to write the counts of every layer to")
    add("--readme", type=Path, help="file with markers, between which the table of all networks is put")


def run(arguments: argparse.Namespace) -> int:
    """Print the multiply-adds of a network or an operator."""
    given = (arguments.name, arguments.shape, arguments.input, arguments.batch, arguments.csv, arguments.readme)
    return show(*given)


def show(
    what: str,
    shape: ConvShape | None = None,
    input: int | tuple[int, ...] | None = None,
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
        Shape of the operator, if `what` is one.
    input, batch : int
        Size of the input and number of inputs, for a network.
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
    checks.choice("name", what, (ALL, *NETWORKS, *OPERATORS))
    wrong = {
        "SHAPE goes with an operator": shape is not None and what not in OPERATORS,
        "--input and --batch go with one network": (input, batch) != (None, 1) and what not in NETWORKS,
        "--csv goes with networks": csv_file is not None and what in OPERATORS,
        f"--readme goes with {ALL}": readme is not None and what != ALL,
    }
    for message in (message for message, is_wrong in wrong.items() if is_wrong):
        raise ValueError(f"{message}, got {what}")
    if what in OPERATORS:
        if shape is None:
            raise ValueError(f"{what} needs a SHAPE")
        print(text.operator_table(what, shape))
        return 0
    if what == ALL:
        counted = text.all_networks()
        print(text.summary(counted))
    else:
        title = text.title(what, input)
        counted = {title: flops.network(what, input, batch)}
        print(text.network_text(title, batch, counted[title]))
    if csv_file:
        text.write(counted, csv_file)
        print(f"\nwrote {csv_file}")
    if readme:
        text.put_between(readme, text.summary(counted), text.MARKERS)
    return 0
