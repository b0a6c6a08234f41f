"""The command ``python -m cks_numba.train``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from . import data

try:
    import torch
    from tqdm import tqdm

    from . import architectures, run
except ModuleNotFoundError as error:
    if error.name not in ("torch", "tqdm"):
        raise
    sys.exit(f"cks_numba.train needs {error.name}: pip install 'cks-numba[train]'")


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
            f"{each.swapped} of {each.layers} convolutions are ours; from step {each.step}"
        )
    steps = arguments.epochs * runs[0].epoch_steps
    return runs, min(steps, arguments.steps or steps)


def train(runs: Sequence[run.Run], steps: int) -> None:
    """Advance the training with the fewest steps, one step at a time, until all are done; so several take turns."""
    done = sum(min(each.step, steps) for each in runs)
    with tqdm(total=steps * len(runs), initial=done, unit="step", disable=None) as bar:
        while (each := min(runs, key=lambda one: one.step)).step < steps:
            row = each.advance()
            bar.set_postfix_str(f"{each.settings.backend}: epoch {row['epoch']}, loss {row['loss']:.3f}", refresh=False)
            bar.update()
            if row["test_accuracy"] != "":
                bar.write(f"{each.settings.backend}: epoch {row['epoch']}, test accuracy {row['test_accuracy']:.2%}")
            if each.step == steps:
                each.save()


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
        print(f"cks_numba.train needs {error.name}: pip install 'cks-numba[train]'", file=sys.stderr)
        return 2
    train(runs, steps)
    for each in runs:
        print(f"wrote {each.log.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
