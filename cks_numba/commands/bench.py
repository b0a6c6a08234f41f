"""``cks-numba bench``: time this library, PyTorch (if installed) and the regular way."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..bench import ablation, axes, cluster, cpu, emulator, gpu, networks, peers
from .arguments import at_least

LAUNCH_COST = 60.0
"""Most microseconds of Python in a call."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    add = command.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu", help="whose backend (default cpu)")
    add("--dry", action="store_true", help="cuda without a GPU: all but the work, to see that it runs")
    add("--minutes", type=float, default=8.0, help="cuda: begin no case later (default 8)")
    add("--launch-cost", action="store_true", help="cuda: only the Python time of a call; no GPU needed")
    add("--ablation", action="store_true", help="cpu: each special path of the backend, with and without it")
    add("--peers", action="store_true", help="cpu: against PyTorch, ONNX Runtime, OpenVINO and JAX; with bars")
    add("--networks", action="store_true", help="cpu: whole networks of PyTorch, converted by the clock; with bars")
    add(
        "--axes",
        type=int,
        choices=(1, 3),
        help="cpu: layers of one axis or of three, against PyTorch and the peak; with bars",
    )
    add("--emulator", action="store_true", help="the emulator, with bars; exit with 1 if one is missed")
    add("--dask", action="store_true", help="one and two local workers, one thread each; needs dask")
    add("--check", action="store_true", help="exit with 1 if a bar is missed; needs PyTorch")
    add("--quick", action="store_true", help="few small cases, to see that it works")
    add("--rounds", type=at_least(1), default=9, help="clean rounds of each case (default 9)")
    add("--threads", type=at_least(1), default=2, help="of every contender (default 2)")
    add("--only", default="", metavar="TEXT", help="cases, or paths, with this text in them, such as DCGAN")
    add("--csv", type=Path, help="file to write all timings to")
    add("--readme", type=Path, help="file with markers, between which the summary is put")


def show_launch_cost(check: bool) -> int:
    """Print what a call costs in Python before the GPU has work; with `check`, fail above the bar."""
    cost = gpu.launch_cost()
    for operator, microseconds in cost.items():
        print(f"{operator:<13} {microseconds:5.1f} us of Python up to the launch (at most {LAUNCH_COST:g})")
    return int(check and max(cost.values()) > LAUNCH_COST)


def run(arguments: argparse.Namespace) -> int:
    """Run the benchmark that the arguments ask for."""
    given = arguments
    if given.launch_cost:
        return show_launch_cost(given.check)
    if given.ablation:
        return ablation.run(given.rounds, given.threads, given.quick, given.csv, given.readme, given.only)
    if given.peers:
        return peers.run(given.rounds, given.threads, given.quick, given.check, given.csv, given.readme, given.only)
    if given.networks:
        return networks.run(given.threads, given.quick, given.check, given.csv, given.only)
    if given.axes:
        return axes.run(
            given.axes, given.rounds, given.threads, given.quick, given.check, given.csv, given.readme, given.only
        )
    if given.emulator:
        return emulator.run()
    if given.dask:
        return cluster.run(given.rounds, given.quick)
    if given.device == "cuda":
        return gpu.run(given.rounds, given.csv, given.only, given.minutes, given.dry)
    return cpu.run(given.rounds, given.threads, given.quick, given.check, given.csv, given.readme, given.only)
