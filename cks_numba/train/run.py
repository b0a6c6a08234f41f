"""One training that can stop after any step and go on later with the same losses.

Everything random follows from the seed: the first weights from the seed alone, the order of the images from the seed
and the epoch. Nothing else is drawn, so a checkpoint needs no state of a generator. The images are on the device from
the start, one byte per element, and a step waits for the device once, to read loss and accuracy.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor, nn

from .. import checks
from ..bench import results, timing
from ..models import pytorch
from ..torch import convert
from . import architectures, checkpoint
from .data import Data

BACKENDS = ("cks", "torch")
MOMENTUM, DECAY = 0.9, 5e-4
EVALUATED = 500
"""Images of a batch in the test."""
COLUMNS = (
    *("data", "model", "backend", "device", "threads", "versions", "batch_size", "lr", "seed", "regular", "useful"),
    *("epoch", "step", "loss", "accuracy", "test_accuracy", "seconds"),
)


@dataclass(frozen=True)
class Settings:
    """Everything that the losses depend on besides the data.

    Attributes
    ----------
    model : str
        A key of `architectures.MODELS`.
    backend : str
        "cks": every convolution is ours; "torch": none is.
    device : str
        "cpu" or "cuda".
    batch_size : int
        Images of a step; what is left over at the end of an epoch waits for the next one.
    lr : float
        Learning rate of SGD.
    seed : int

    Raises
    ------
    ValueError, TypeError
        For a wrong value.
    """

    model: str
    backend: str
    device: str = "cpu"
    batch_size: int = 64
    lr: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        checks.choice("model", self.model, tuple(architectures.MODELS))
        checks.choice("backend", self.backend, BACKENDS)
        checks.choice("device", self.device, ("cpu", "cuda"))
        checks.integer("batch_size", self.batch_size, 2)  # normalisation needs the variance of a batch
        checks.integer("seed", self.seed, 0)
        if not 0 < self.lr < float("inf"):
            raise ValueError(f"lr must be a number above 0, got {self.lr}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device is cuda, and PyTorch finds no GPU")


class Images:
    """A data set on the device. A batch has mean 0 and variance 1 in each channel over all images to train with."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    mean: Tensor
    deviation: Tensor

    def __init__(self, data: Data, device: str) -> None:
        self.train, self.test = (
            (torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device))
            for images, labels in ((data.images, data.labels), (data.test_images, data.test_labels))
        )
        mean, deviation = (f(data.images, axis=(0, 2, 3), dtype=np.float64) for f in (np.mean, np.std))
        self.mean, self.deviation = (
            torch.from_numpy(a.astype(np.float32)).to(device)[:, None, None] for a in (mean, deviation)
        )

    def normalised(self, images: Tensor) -> Tensor:
        return (images.float() - self.mean) / self.deviation


class Run:
    """A training: its network, its optimizer, and how far it has come.

    Parameters
    ----------
    settings : Settings
    data : Data
    out : Path
        Folder of the log, BACKEND.csv, and of the checkpoint, BACKEND.pt. If they are there, the training goes on.
    save_every : int
        Steps from one checkpoint to the next.

    Raises
    ------
    ValueError
        If there are fewer images than a batch has, or `out` has a training with other settings.
    """

    settings: Settings
    save_every: int
    epoch_steps: int
    told: dict[str, Any]
    told_in_log: dict[str, Any]
    path: Path
    step: int
    log: checkpoint.Log
    batches: Iterator[Tensor]
    layers: int
    swapped: int
    model: Any
    optimizer: torch.optim.SGD
    images: Images

    def __init__(self, settings: Settings, data: Data, out: Path, save_every: int = 100) -> None:
        self.settings, self.save_every = settings, checks.integer("save_every", save_every, 1)
        self.epoch_steps = len(data.images) // settings.batch_size
        if not self.epoch_steps:
            raise ValueError(f"batch_size must be at most {len(data.images)}, got {settings.batch_size}")
        self.told = {**asdict(settings), "data": data.name}
        self.path = out / f"{settings.backend}.pt"
        state = checkpoint.load(self.path, self.told)
        self._build(data)
        self.step = 0 if state is None else self._restore(state)
        out.mkdir(parents=True, exist_ok=True)
        self.log = checkpoint.Log(out / f"{settings.backend}.csv", COLUMNS, self.step)
        self.batches = self._batches()

    def _build(self, data: Data) -> None:
        """Build the network, with the same first weights for every backend and device."""
        size = (1, *data.images.shape[1:])
        torch.manual_seed(self.settings.seed)
        model = architectures.build(self.settings.model, size[1])
        report = convert(model, size, threshold=1)[1] if self.settings.backend == "cks" else None
        rows = report.rows if report else pytorch.of_torch(model, size)
        self.layers, self.swapped = len(rows), len(report.swapped) if report else 0
        counts = {name: sum(getattr(row.total, name) for row in rows) for name in ("regular", "useful")}
        self.told_in_log = self.told | {name: self.settings.batch_size * count for name, count in counts.items()}
        self.told_in_log |= about(self.settings.device)
        self.model = model.to(self.settings.device)
        self.optimizer = torch.optim.SGD(model.parameters(), self.settings.lr, momentum=MOMENTUM, weight_decay=DECAY)
        self.images = Images(data, self.settings.device)

    def _restore(self, state: dict[str, Any]) -> int:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])

    def save(self) -> None:
        """Write the checkpoint, after all rows of the log."""
        self.log.sync()
        state = {"settings": self.told, "step": self.step}
        checkpoint.save(self.path, state | {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()})

    def _batches(self) -> Iterator[Tensor]:
        """Yield the indices of the images of every step from this one on."""
        epoch, first = divmod(self.step, self.epoch_steps)
        size = self.settings.batch_size
        while True:
            order = np.random.default_rng((self.settings.seed, epoch)).permutation(len(self.images.train[0]))
            chosen = torch.from_numpy(order).to(self.settings.device)
            for k in range(first, self.epoch_steps):
                yield chosen[k * size : (k + 1) * size]
            epoch, first = epoch + 1, 0

    def advance(self) -> dict[str, Any]:
        """Take one step, log it, and write a checkpoint if one is due.

        Returns
        -------
        dict
            The row of the log.
        """
        epoch = self.step // self.epoch_steps
        chosen = next(self.batches)
        start = time.perf_counter()
        loss, accuracy = self._learn(chosen)
        row: dict[str, Any] = {"epoch": epoch, "step": self.step, "loss": loss, "accuracy": accuracy}
        row["seconds"] = round(time.perf_counter() - start, 6)
        self.step += 1
        row["test_accuracy"] = "" if self.step % self.epoch_steps else self.test()
        self.log.add(self.told_in_log | row)
        if self.step % self.save_every == 0:
            self.save()
        return row

    def _learn(self, chosen: Tensor) -> tuple[float, float]:
        """Learn from a batch, and return its loss and accuracy before the step."""
        self.model.train()
        images, labels = (tensor[chosen] for tensor in self.images.train)
        self.optimizer.zero_grad()
        scores = self.model(self.images.normalised(images))
        loss = nn.functional.cross_entropy(scores, labels)
        loss.backward()
        self.optimizer.step()
        right = (scores.detach().argmax(1) == labels).float().mean()
        found = torch.stack((loss.detach(), right)).tolist()  # here, and only here, the host waits for the device
        return found[0], found[1]

    @torch.no_grad()
    def test(self) -> float:
        """Share of the test images that the network gets right."""
        self.model.eval()
        right = torch.zeros((), dtype=torch.int64, device=self.settings.device)
        for images, labels in zip(*(tensor.split(EVALUATED) for tensor in self.images.test), strict=True):
            right += (self.model(self.images.normalised(images)).argmax(1) == labels).sum()
        return float(right) / len(self.images.test[0])


def about(device: str) -> dict[str, Any]:
    """What a timing depends on: machine, threads and versions."""
    name = torch.cuda.get_device_name() if device == "cuda" else results.machine()
    return {"device": name, "threads": torch.get_num_threads(), "versions": results.versions()}


def set_up(threads: int | None) -> None:
    """Give both backends the same threads and precision, and make a second run give the same bits.

    Parameters
    ----------
    threads : int, optional
        Threads of the CPU; by default as many as Numba has.

    Raises
    ------
    ValueError
        For more threads than Numba can have.
    """
    timing.keep_memory()  # otherwise fresh pages in every step may take longer than the convolutions
    threads = threads or numba.get_num_threads()
    numba.set_num_threads(threads)
    torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False  # it may choose a different algorithm in each run
    torch.backends.cudnn.allow_tf32 = False  # our convolutions are in float32
    torch.backends.cuda.matmul.allow_tf32 = False
