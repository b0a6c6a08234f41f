"""The ``cks-numba`` command: info, verify, plan, explain, flops, report, figures, demo, bench.

A problem size is written as key=value pairs, for example ``i=8,ic=3,oc=4,f=3,stride=2,padding=1``.
Several numbers in one value are joined by x: ``i=8x6``, ``stride=2x1``, ``padding=1x0x1x2``.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from .geometry import OPERATORS, ConvShape, plan
from .models import THRESHOLD
from .networks import NETWORKS

SHAPE_HELP = (
    "key=value pairs, such as i=8,ic=3,oc=4,f=3,stride=2,padding=1. Keys: n, i (or ih, iw), ic, oc, f (or fh, fw), "
    "stride, padding, dilation, groups. Join numbers with x, vertical first: i=8x6, padding=1x0x1x2 "
    '(top, bottom, left, right); padding may be "same". Defaults: n=1, i=8, ic=1, oc=1, f=3, stride=1, '
    "padding=0, dilation=1, groups=1"
)
ALIASES = {"conv_v2": "conv2d", "ks_deconv": "conv2d_input", "sk_dilated": "conv2d_weight"}
DEFAULTS: dict[str, Any] = {"n": 1, "ih": 8, "iw": 8, "ic": 1, "oc": 1, "fh": 3, "fw": 3}
LAUNCH_COST = 60.0  # microseconds of Python in a call, at most
GPU_BATCH = 128  # images of the layers that plan --launches lists
KEYS = ("n", "i", "ih", "iw", "ic", "oc", "f", "fh", "fw", "stride", "padding", "dilation", "groups")
MANY = {"input": (1, 2), "stride": (1, 2), "padding": (1, 2, 4), "dilation": (1, 2), "i": (1, 2), "f": (1, 2)}


def parse_shape(text: str) -> ConvShape:
    """Read a problem size written as key=value pairs.

    Parameters
    ----------
    text : str
        As in ``cks-numba plan --help``; an empty text gives the defaults.

    Returns
    -------
    ConvShape

    Raises
    ------
    ValueError
        For an unknown key, a value that is no number, or an impossible size.

    Examples
    --------
    >>> print(parse_shape("i=8x6,ic=2,oc=4,stride=2,padding=1"))
    x (1, 8, 6, 2) w (4, 3, 3, 2) y (1, 4, 3, 4) stride (2, 2) padding (1, 1, 1, 1)
    """
    sizes = dict(DEFAULTS)
    seen: set[str] = set()
    for item in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or key not in KEYS:
            raise ValueError(f"expected key=value with a key of {', '.join(KEYS)}, got {item!r}")
        if key in seen:
            raise ValueError(f"{key} is given twice")
        seen.add(key)
        numbers = _numbers(key, value)
        if key in ("i", "f"):
            sizes[f"{key}h"], sizes[f"{key}w"] = numbers if isinstance(numbers, tuple) else (numbers, numbers)
        else:
            sizes[key] = numbers
    return ConvShape(**sizes)


def _numbers(key: str, value: str) -> Any:
    """One int, or a tuple of the ints joined by x."""
    if key == "padding" and value in ("same", "valid"):
        return value
    parts = value.split("x")
    allowed = MANY.get(key, (1,))
    if len(parts) not in allowed:
        raise ValueError(f"{key} takes {' or '.join(map(str, allowed))} number{'s' * (allowed != (1,))}, got {value!r}")
    try:
        numbers = tuple(int(part) for part in parts)
    except ValueError:
        raise ValueError(f"{key} must be an integer, or integers joined by x, got {value!r}") from None
    return numbers if len(numbers) > 1 else numbers[0]


def parse_operator(name: str) -> str:
    """Return the operator of a name, which may be the paper's."""
    name = ALIASES.get(name, name)
    if name not in OPERATORS:
        raise ValueError(f"operator must be one of {', '.join((*OPERATORS, *ALIASES))}, got {name!r}")
    return name


def parse_compiled(name: str) -> tuple[str, ...]:
    """Return the operators to compile: one of them, or all."""
    return OPERATORS if name == "all" else (parse_operator(name),)


def parse_counted(name: str) -> str:
    """Return what to count: a network, all of them, or an operator."""
    if name in NETWORKS or name == "all":
        return name
    if name in OPERATORS or name in ALIASES:
        return parse_operator(name)
    raise ValueError(f"name must be one of {', '.join((*NETWORKS, 'all', *OPERATORS))}, got {name!r}")


def parse_image(text: str) -> tuple[int, int]:
    """Return rows and columns of an image, written as one number or as two joined by x."""
    numbers = _numbers("input", text)
    return numbers if isinstance(numbers, tuple) else (numbers, numbers)


def parse_size(text: str) -> tuple[int, ...]:
    """Return the size of a tensor, written as numbers joined by x."""
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", text):
        raise ValueError(f"input must be sizes of at least 1 joined by x, such as 1x3x32x32, got {text!r}")
    return tuple(map(int, text.split("x")))


def parse_threshold(text: str) -> float:
    """Return a factor of at least 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value >= 1:
        raise ValueError(f"threshold must be a number of at least 1, got {text!r}")
    return value


def version(package: str) -> str:
    """Return the installed version of a package, or "not installed"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def gpu_name() -> str | None:
    """Return the name of the GPU that will be used, or None."""
    from .backends.cuda import SIMULATED, available, cuda

    if SIMULATED or not available():
        return None
    name = cuda.get_current_device().name
    return name.decode() if isinstance(name, bytes) else str(name)


def info() -> int:
    """Print versions, the GPU, and what backend="auto" will use."""
    from .kernels.jit import NO_NUMBA_CUDA, NUMBA_CUDA, SIMULATED

    for name in ("cks-numba", "numpy", "numba", "numba-cuda"):
        print(f"{name:<12} {version(name)}")
    print(f"{'python':<12} {platform.python_version()} on {platform.machine()}, {os.cpu_count()} CPUs")
    gpu = gpu_name()
    print(f"{'GPU':<12} {gpu or 'none found'}")
    print(f"{'simulator':<12} {'on: kernels run on the CPU, for tiny shapes' if SIMULATED else 'off'}")
    if gpu:
        print(f'backend="auto" uses "cuda", on {gpu}')
    elif not NUMBA_CUDA:
        print('backend="auto" uses "cpu"')
        print(f"{NO_NUMBA_CUDA}: there are no")
        print("kernels on a GPU and no `cks-numba sass`. NUMBA_ENABLE_CUDASIM=1 runs the kernels in Numba's simulator,")
        print("for tiny shapes. All else works")
    else:
        print('backend="auto" uses "cpu"; the CUDA kernels need a GPU, or NUMBA_ENABLE_CUDASIM=1 for tiny shapes')
    return 0


def show_plan(arguments: argparse.Namespace) -> int:
    """Print the groups of dense matrix products of one operator and shape, or what a GPU would launch for it."""
    if not arguments.launches:
        print(plan(arguments.operator, arguments.shape))
        return 0
    from . import layers
    from .kernels import tiled

    if arguments.shape is not None:
        print(tiled.choose(arguments.operator, arguments.shape, arguments.sms))
        return 0
    print(f"{'layer':<52} {'tile':>8} {'parts':>5} {'waves':>7} {'useful':>7}   ({arguments.sms} multiprocessors)")
    for case in layers.gpu_table((GPU_BATCH,)):
        if case.operator == arguments.operator:
            choice = tiled.choose(arguments.operator, case.shape, arguments.sms)
            print(f"{case.name:<52} {choice.tile!s:>8} {choice.parts:>5} {choice.waves:>7.2f} {choice.useful:>7.0%}")
    return 0


def show_stages(arguments: argparse.Namespace) -> int:
    """Print every stage of one operator on a small case."""
    from . import steps

    print(steps.explain(arguments.operator, None, None, arguments.shape))
    return 0


def show_flops(arguments: argparse.Namespace) -> int:
    """Print the multiply-adds of a network or an operator; 2 where the arguments do not go together."""
    from . import report

    given = (arguments.name, arguments.shape, arguments.input, arguments.batch, arguments.csv, arguments.readme)
    try:
        return report.run(*given)
    except ValueError as error:
        print(f"cks-numba flops: {error}", file=sys.stderr)
        return 2


def show_launch_cost(check: bool) -> int:
    """Print what a call costs in Python before the GPU has work, and with a check, fail above the bar."""
    from .bench import gpu

    cost = gpu.launch_cost()
    for operator, microseconds in cost.items():
        print(f"{operator:<13} {microseconds:5.1f} us of Python up to the launch (at most {LAUNCH_COST:g})")
    return int(check and max(cost.values()) > LAUNCH_COST)


def show_model(arguments: argparse.Namespace) -> int:
    """Print the report of a model; 2 where it cannot be loaded, or does not take the input."""
    from . import model_report

    try:
        return model_report.run(arguments.model, arguments.input, arguments.threshold, arguments.html)
    except ValueError as error:
        print(f"cks-numba report: {error}", file=sys.stderr)
        return 2


def _at_least(least: int) -> Any:
    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
        return value

    number.__name__ = "int"
    return number


def _argument(parse: Any) -> Any:
    """Make argparse print a parser's own message."""

    def convert(text: str) -> Any:
        try:
            return parse(text)
        except (ValueError, TypeError) as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def parser() -> argparse.ArgumentParser:
    """Build the argument parser of the command."""
    top = argparse.ArgumentParser(prog="cks-numba", description="Convolutions that never multiply an added zero.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("info", help="versions, the GPU, and the backend that will be used")

    check = commands.add_parser("verify", help="check every backend that runs here on random shapes")
    check.add_argument("--cases", type=_at_least(1), help="number of random shapes (default 100; 3 in the simulator)")
    check.add_argument("--seed", type=_at_least(0), default=0, help="seed of the random numbers (default 0)")
    check.add_argument(
        "--backend", action="append", choices=("steps", "cpu", "cuda"), help="only this one; may be repeated"
    )

    for name, text in (("plan", "print the groups of dense matrix products"), ("explain", "print every stage")):
        command = commands.add_parser(name, help=f"{text} of one operator and shape")
        command.add_argument("operator", type=_argument(parse_operator), metavar="OP", help=", ".join(OPERATORS))
        command.add_argument("shape", nargs="?", type=_argument(parse_shape), metavar="SHAPE", help=SHAPE_HELP)
        if name == "plan":
            what = "what a GPU would launch: tile, grid, waves, useful share; without SHAPE of every layer of the table"
            command.add_argument("--launches", action="store_true", help=what)
            command.add_argument("--sms", type=_at_least(1), default=132, help="multiprocessors (default 132, an H100)")

    sass = commands.add_parser("sass", help="registers, memory and inner loop of compiled kernels; needs no GPU")
    sass.add_argument("operator", type=_argument(parse_compiled), metavar="OP", help=f"{', '.join(OPERATORS)}, or all")
    sass.add_argument("--arch", default="sm_80", help="GPU architecture, such as sm_75, sm_80, sm_90 (default sm_80)")
    shown = sass.add_mutually_exclusive_group()
    shown.add_argument("--source", action="store_true", help="print the inner loop of the largest tile instead")
    shown.add_argument("--csv", type=Path, help="file to write the table and all instructions of the inner loops to")

    sums = commands.add_parser("flops", help="multiply-adds of a network or an operator, and which of them meet zeros")
    names = f"{', '.join(NETWORKS)}, or all of them with all; or one of {', '.join(OPERATORS)} with a SHAPE"
    sums.add_argument("name", type=_argument(parse_counted), metavar="NAME", help=names)
    sums.add_argument("shape", nargs="?", type=_argument(parse_shape), metavar="SHAPE", help=SHAPE_HELP)
    sums.add_argument("--input", type=_argument(parse_image), help="image, such as 32 or 96x64 (default: the paper's)")
    sums.add_argument("--batch", type=_at_least(0), default=1, help="images (default 1)")
    sums.add_argument("--csv", type=Path, help="file to write the counts of every layer to")
    sums.add_argument("--readme", type=Path, help="file with markers, between which the table of all networks is put")

    model = commands.add_parser(
        "report", help="multiply-adds by zeros in a PyTorch model or an ONNX file, layer by layer"
    )
    model.add_argument(
        "model", metavar="MODEL", help="module.path:name, of a torch.nn.Module or what returns one; or FILE.onnx"
    )
    model.add_argument("--input", type=_argument(parse_size), help="size of the input in PyTorch's order: 1x3x32x32")
    model.add_argument(
        "--threshold",
        type=_argument(parse_threshold),
        default=THRESHOLD,
        help=f"factor from which converting a layer pays (default {THRESHOLD:g})",
    )
    model.add_argument("--html", type=Path, metavar="FILE", help="file for the report as one self-contained page")

    draw = commands.add_parser("figures", help="draw the pictures in figures/ again; needs a checkout")
    draw.add_argument("name", nargs="*", metavar="NAME", help="scripts in figures/, without .py (default all)")
    draw.add_argument("--out", type=Path, help="folder of the pictures (default figures/ itself)")

    show = commands.add_parser("demo", help="a photograph down a stack of layers and back up, checked and timed")
    show.add_argument("--out", type=Path, default=Path("demo_out"), help="folder of demo.png (default demo_out)")
    show.add_argument("--size", type=int, default=256, choices=(16, 32, 64, 128, 256), help="side of the picture")
    show.add_argument("--repeats", type=_at_least(1), default=5, help="timed runs of each way (default 5)")
    show.add_argument("--backend", default="auto", choices=("auto", "cpu", "cuda"), help="who skips (default auto)")

    bench = commands.add_parser("bench", help="time this library, PyTorch (if installed) and the regular way")
    bench.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="whose backend (default cpu)")
    bench.add_argument("--dry", action="store_true", help="cuda without a GPU: all but the work, to see that it runs")
    bench.add_argument("--minutes", type=float, default=8.0, help="cuda: begin no case later (default 8)")
    bench.add_argument("--launch-cost", action="store_true", help="cuda: only the Python time of a call; no GPU needed")
    bench.add_argument("--dask", action="store_true", help="one and two local workers, one thread each; needs dask")
    bench.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed; needs PyTorch")
    bench.add_argument("--quick", action="store_true", help="few small cases, to see that it works")
    bench.add_argument("--rounds", type=_at_least(1), default=9, help="clean rounds of each case (default 9)")
    bench.add_argument("--threads", type=_at_least(1), default=2, help="of every contender (default 2)")
    bench.add_argument("--only", default="", metavar="TEXT", help="cases with this text in them, such as DCGAN")
    bench.add_argument("--csv", type=Path, help="file to write all timings to")
    bench.add_argument("--readme", type=Path, help="file with markers, between which the summary is put")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; those of the process if not given.

    Returns
    -------
    int
        Exit code: 0; 1 when a check failed or could not run; 2 for a model that cannot be loaded, and for an image that
        it, or a network, cannot take. Other wrong arguments leave with SystemExit(2).
    """
    arguments = parser().parse_args(argv)
    if arguments.command == "plan" and arguments.shape is None and not arguments.launches:
        parser().error("plan needs a SHAPE, or --launches")
    try:
        return _dispatch(arguments)
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (RuntimeError, OSError) as error:  # no GPU, or no place to write to: the message says it all
        print(f"cks-numba {arguments.command}: {error}", file=sys.stderr)
        return 1


def _dispatch(arguments: argparse.Namespace) -> int:
    if arguments.command == "info":
        return info()
    if arguments.command == "plan":
        return show_plan(arguments)
    if arguments.command == "explain":
        return show_stages(arguments)
    if arguments.command == "verify":
        from . import verify  # the slow imports only where they are needed

        return verify.run(arguments.cases, arguments.seed, arguments.backend)
    if arguments.command == "sass":
        from . import sass

        return sass.run(arguments.operator, arguments.arch, arguments.source, arguments.csv)
    if arguments.command == "flops":
        return show_flops(arguments)
    if arguments.command == "report":
        return show_model(arguments)
    if arguments.command == "figures":
        from . import figures

        return figures.run(arguments.name, arguments.out)
    if arguments.command == "bench":
        if arguments.launch_cost:
            return show_launch_cost(arguments.check)
        if arguments.dask:
            from .bench import cluster

            return cluster.run(arguments.rounds, arguments.quick)
        if arguments.device == "cuda":
            from .bench import gpu

            return gpu.run(arguments.rounds, arguments.csv, arguments.only, arguments.minutes, arguments.dry)
        from .bench import cpu

        return cpu.run(
            arguments.rounds,
            arguments.threads,
            arguments.quick,
            arguments.check,
            arguments.csv,
            arguments.readme,
            arguments.only,
        )
    from . import demo

    return demo.run(arguments.out, arguments.size, arguments.repeats, arguments.backend)
