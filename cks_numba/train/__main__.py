"""The command ``python -m cks_numba.train``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import data

try:
    import torch

    from . import architectures, run
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    sys.exit(f"cks_numba.train needs {error.name}: pip install 'cks-numba[train]'")

SILENCE = 5.0  # seconds from one line about the steps to the next


def parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    top = argparse.ArgumentParser(
        prog="python -m cks_numba.train",
        description="Train a network. If it is killed at any moment, the same command continues where it stopped.",
    )
    top.add_argument(
        "--data", choices=data.NAMES, default="auto", help="auto: CIFAR-10 where a copy is found, or digits"
    )
    top.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of CIFAR-10's archive (default data)")
    top.add_argument("--model", choices=tuple(architectures.MODELS), default="resnet18", help="(default resnet18)")
    what = "cks: all convolutions are ours; torch: PyTorch's; both: a step of each in turn (default cks)"
    top.add_argument("--backend", choices=(*run.BACKENDS, "both"), default="cks", help=what)
    top.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one")
    top.add_argument("--epochs", type=int, default=10, help="(default 10)")
    top.add_argument("--steps", type=int, help="stop after so many steps, counted from the first epoch")
    top.add_argument("--batch-size", type=int, default=64, help="(default 64)")
    top.add_argument("--lr", type=float, default=0.05, help="learning rate (default 0.05)")
    top.add_argument(
        "--seed", type=int, default=0, help="seed of the weights and of the order of the images (default 0)"
    )
    top.add_argument("--save-every", type=int, default=100, help="steps from one checkpoint to the next (default 100)")
    top.add_argument("--threads", type=int, help="threads on the CPU (default: all)")
    top.add_argument("--out", type=Path, default=Path("train_out"), help="folder of log and checkpoint")
    return top


def begin(arguments: argparse.Namespace) -> tuple[list[run.Run], int]:
    """Set up the trainings, new or continued, and count the steps that each will have at the end."""
    for name in ("epochs", "steps", "threads"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    print(f"reading the images and building {arguments.model} ...", flush=True)
    run.set_up(arguments.threads)
    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    about = (device, arguments.batch_size, arguments.lr, arguments.seed)
    backends = run.BACKENDS if arguments.backend == "both" else (arguments.backend,)
    settings = [run.Settings(arguments.model, backend, *about) for backend in backends]
    images = data.load(arguments.data, arguments.data_dir)
    runs = [run.Run(each, images, arguments.out, arguments.save_every) for each in settings]
    for each in runs:
        print(
            f"{each.settings.backend}: {arguments.model} on {images.name}, {len(images.images)} images, {device}; "
            f"{each.swapped} of {each.layers} convolutions are ours; from step {each.step}",
            flush=True,
        )
    steps = arguments.epochs * runs[0].epoch_steps
    return runs, min(steps, arguments.steps or steps)


def train(runs: Sequence[run.Run], steps: int) -> None:
    """Advance the training with the fewest steps, one step at a time, until all are done; so several take turns."""
    untold: dict[str, list[dict[str, Any]]] = {each.settings.backend: [] for each in runs}
    last: dict[str, float] = {}
    while (each := min(runs, key=lambda one: one.step)).step < steps:
        name = each.settings.backend
        untold[name].append(each.advance())
        row = untold[name][-1]
        ended = row["test_accuracy"] != "" or each.step == steps
        if ended or time.perf_counter() - last.get(name, float("-inf")) > SILENCE:
            print(f"{name}: {told(untold[name])}", flush=True)
            untold[name], last[name] = [], time.perf_counter()
        if each.step == steps:
            each.save()


def told(rows: Sequence[dict[str, Any]]) -> str:
    """Return what the last steps came to: the mean of their losses and accuracies, and of the time that each took.

    Examples
    --------
    >>> row = {"epoch": 0, "step": 7, "loss": 2.0, "accuracy": 0.25, "seconds": 0.5, "test_accuracy": ""}
    >>> told([row, row | {"step": 8, "loss": 1.0, "accuracy": 0.5, "seconds": 0.3}])
    'epoch 0, step 8: loss 1.500, accuracy 38%, 0.400 s a step'
    """
    loss, accuracy, seconds = (sum(row[key] for row in rows) / len(rows) for key in ("loss", "accuracy", "seconds"))
    text = f"epoch {rows[-1]['epoch']}, step {rows[-1]['step']}: loss {loss:.3f}, accuracy {accuracy:.0%}"
    test = rows[-1]["test_accuracy"]
    return f"{text}, {seconds:.3f} s a step" + (f", test accuracy {test:.2%}" if test != "" else "")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns
    -------
    int
        0; 2 for a wrong argument or missing data.
    """
    arguments = parser().parse_args(argv)
    try:
        runs, steps = begin(arguments)
    except ValueError as error:
        print(f"cks_numba.train: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:  # scikit-learn, which brings the digits
        package = (error.name or "").partition(".")[0]
        print(f"cks_numba.train needs {package}: pip install 'cks-numba[train]'", file=sys.stderr)
        return 2
    train(runs, steps)
    for each in runs:
        print(f"wrote {each.log.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
