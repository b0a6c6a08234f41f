"""Training: after being killed and continued it gives the same bits, and both backends learn the same."""

from __future__ import annotations

import csv
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numba
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install cks-numba[train])")
pytest.importorskip("sklearn", reason="sklearn is not installed (pip install cks-numba[train])")

from cks_numba import flops  # noqa: E402
from cks_numba.flops.files import replacing  # noqa: E402
from cks_numba.train import architectures, checkpoint, data, run  # noqa: E402
from cks_numba.train.__main__ import main, parser  # noqa: E402

pytestmark = pytest.mark.torch
SMALL = ("--data", "digits", "--model", "little", "--device", "cpu", "--threads", "1", "--lr", "0.01")


@pytest.fixture(autouse=True)
def settings_of_torch():
    """Restore the numbers of threads, which a training sets for the whole process."""
    before = torch.get_num_threads(), numba.get_num_threads()
    yield
    torch.set_num_threads(before[0])
    numba.set_num_threads(before[1])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def learned(path: Path) -> list[tuple[str, ...]]:
    """Return everything in a log but the times."""
    return [tuple(value for key, value in row.items() if key != "seconds") for row in rows(path)]


def train(out: Path, *more: str) -> int:
    return main([*SMALL, "--out", str(out), *more])


# --- killed and continued -------------------------------------------------------------------------
def start(out: Path, *more: str) -> subprocess.Popen:
    command = (sys.executable, "-m", "cks_numba.train", *SMALL, "--out", str(out), *more)
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def kill_after(process: subprocess.Popen, path: Path, lines: int, wait: float) -> None:
    """Kill a training some time after its log has this many lines."""
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        if path.exists() and path.read_bytes().count(b"\n") >= lines:
            time.sleep(wait)
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.001)
    _, error = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, error


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_with_the_same_losses(tmp_path: Path) -> None:
    """A training that is killed four times has the same log as one that is not, to the last bit."""
    arguments = ("--backend", "both", "--batch-size", "16", "--steps", "120", "--save-every", "2")  # 93 per epoch
    assert train(tmp_path / "whole", *arguments) == 0
    out, rng = tmp_path / "killed", random.Random(7)
    for lines in (1, 12, 50, 100):  # 1 is the header alone
        kill_after(start(out, *arguments), out / "cks.csv", lines, rng.uniform(0, 0.03))
        assert 0 < len((out / "cks.csv").read_bytes())
    last = start(out, *arguments)
    assert last.wait(timeout=120) == 0, last.communicate()[1]
    last.communicate()
    for name in ("cks.csv", "torch.csv"):
        assert len(learned(out / name)) == 120
        assert learned(out / name) == learned(tmp_path / "whole" / name)
    assert sorted(path.name for path in out.iterdir()) == ["cks.csv", "cks.pt", "torch.csv", "torch.pt"]


@pytest.mark.parametrize("step", [5, 23, 24])  # an epoch has 23 steps
def test_stopped_and_continued(tmp_path: Path, step: int) -> None:
    assert train(tmp_path / "whole", "--steps", "30") == 0
    assert train(tmp_path / "parts", "--steps", str(step)) == 0
    assert len(learned(tmp_path / "parts" / "cks.csv")) == step
    assert train(tmp_path / "parts", "--steps", "30") == train(tmp_path / "parts", "--steps", "30") == 0
    found = learned(tmp_path / "parts" / "cks.csv")
    assert found == learned(tmp_path / "whole" / "cks.csv")
    assert [k for k, row in enumerate(rows(tmp_path / "parts" / "cks.csv")) if row["test_accuracy"]] == [22]


def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    checkpoint.save(path, {"settings": {}, "step": 1})

    with pytest.raises(KeyboardInterrupt), replacing(path, "wb") as file:
        file.write(b"half of it")
        raise KeyboardInterrupt
    assert checkpoint.load(path, {})["step"] == 1
    checkpoint.save(path, {"settings": {}, "step": 2})
    assert checkpoint.load(path, {})["step"] == 2


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="the system has no limits of a process")
    path = tmp_path / "a.pt"
    checkpoint.save(path, {"settings": {}, "step": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        with pytest.raises(OSError, match=str(path)):
            checkpoint.save(path, {"settings": {}, "step": 2, "tensor": torch.zeros(10000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoint.load(path, {})["step"] == 1
    assert not list(tmp_path.glob("*.tmp"))


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    for name in ("a.csv", "a.pt"):
        (tmp_path / f"{name}.0123456789abcdef.tmp").touch()
    checkpoint.Log(tmp_path / "a.csv", ("step",), 0)
    checkpoint.save(tmp_path / "a.pt", {"settings": {}})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.pt"]


def test_a_log_behind_its_checkpoint(tmp_path: Path, capsys) -> None:
    assert train(tmp_path, "--steps", "4") == 0
    path = tmp_path / "cks.csv"
    whole = path.read_text(encoding="utf-8")
    for damaged in (whole[:-1], "".join(whole.splitlines(keepends=True)[:-1]), whole.replace("loss", "lost"), ""):
        path.write_text(damaged, encoding="utf-8")
        assert train(tmp_path, "--steps", "6") == 2
        assert "cks.csv must have the 4 steps of the checkpoint" in capsys.readouterr().err
    path.write_text(whole + "digits,little,half of a row", encoding="utf-8")
    assert train(tmp_path, "--steps", "6") == 0
    assert len(learned(path)) == 6


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--seed", "1"), "seed is 1, and the training in .* has 0: give the same arguments"),
        (("--batch-size", "32"), "batch_size is 32, and the training in .* has 64"),
        (("--lr", "0.02"), "lr is 0.02, and the training in .* has 0.01"),
        (("--model", "vgg16"), "model is 'vgg16', and the training in .* has 'little'"),
    ],
)
def test_going_on_with_other_arguments(tmp_path: Path, capsys, more, message) -> None:
    assert train(tmp_path, "--steps", "2") == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert train(tmp_path, "--steps", "4", *more) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    for content in (b"", b"text", b"PK\x03\x04"):
        (tmp_path / "cks.pt").write_bytes(content)
        with pytest.raises(ValueError, match="cks.pt is no checkpoint of a training"):
            checkpoint.load(tmp_path / "cks.pt", {})
    torch.save({"settings": Path("a")}, tmp_path / "cks.pt")  # only plain values are ever read
    with pytest.raises(ValueError, match="is no checkpoint"):
        checkpoint.load(tmp_path / "cks.pt", {})


# --- losses and accuracy ----------------------------------------------------------------------------
def losses(backend: str, model: str, out: Path, steps: int, images: data.Data) -> np.ndarray:
    one = run.Run(run.Settings(model, backend, lr=0.001), images, out)
    return np.array([one.advance()["loss"] for _ in range(steps)])


@pytest.mark.parametrize(("model", "steps"), [("little", 10), ("resnet18", 3), ("vgg16", 3)])
def test_both_backends_have_the_same_losses(tmp_path: Path, model: str, steps: int) -> None:
    """The losses differ only by rounding in float32.

    A step divides by the standard deviations of a batch. Some are small, so a step may make a difference ten times as
    large: 1e-6 in the first loss becomes 1e-3 in three steps.
    """
    ours, theirs = (losses(backend, model, tmp_path, steps, data.digits()) for backend in run.BACKENDS)
    assert abs(ours[0] / theirs[0] - 1) < 1e-5
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    assert not np.allclose(theirs, theirs[0], rtol=1e-2)  # the losses do change


def test_another_seed_has_other_losses(tmp_path: Path) -> None:
    first, second = (
        run.Run(run.Settings("little", "torch", seed=seed), data.digits(), tmp_path / str(seed)) for seed in (0, 1)
    )
    assert first.advance()["loss"] != second.advance()["loss"]
    assert not torch.equal(next(first.batches), next(second.batches))


def test_every_image_comes_once_in_an_epoch(tmp_path: Path) -> None:
    one = run.Run(run.Settings("little", "torch", batch_size=50), data.digits(), tmp_path)
    orders = []
    for _ in range(2):
        order = torch.cat([next(one.batches) for _ in range(30)]).tolist()
        assert Counter(order) == Counter(range(1500))
        orders.append(order)
    assert orders[0] != orders[1]


def test_it_learns(tmp_path: Path, capsys) -> None:
    assert train(tmp_path, "--epochs", "3", "--lr", "0.05") == 0
    written = rows(tmp_path / "cks.csv")
    assert len(written) == 3 * 23
    assert [float(row["test_accuracy"]) for row in written if row["test_accuracy"]][-1] > 0.8
    said = capsys.readouterr().out
    assert "little on digits, 1500 images, cpu; 3 of 3 convolutions are ours; from step 0" in said
    line = r"^cks: epoch \d, step (\d+): loss \d\.\d{3}, accuracy \d+%, \d+\.\d{3} s a step(, test accuracy .*%)?$"
    told = {int(found[1]): found[2] for found in re.finditer(line, said, re.MULTILINE)}
    assert set(told) >= {0, 22, 45, 68} and all(told[step] for step in (22, 45, 68))  # the first step, and every epoch
    assert said.splitlines()[-1] == f"wrote {tmp_path / 'cks.csv'}"


def test_the_first_line_does_not_wait_for_the_first_step(tmp_path: Path, monkeypatch, capsys) -> None:
    """What will be done is said before the kernels are compiled, and every step is told if steps are slow."""
    monkeypatch.setattr("cks_numba.train.__main__.SILENCE", 0.0)
    assert train(tmp_path, "--steps", "4", "--backend", "both") == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "reading the images and building little ..."
    assert [line.partition(",")[0] for line in lines[:2]] == ["cks: little on digits", "torch: little on digits"]
    assert [line.partition(":")[0] for line in lines[2:10]] == ["cks", "torch"] * 4
    assert [" step 2: loss " in line for line in lines[2:10]].count(True) == 2


def images_like_cifar10(count: int = 4) -> data.Data:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (count, 3, 32, 32), np.uint8), rng.integers(0, 10, count)
    return data.Data("cifar10", images, labels, images, labels)


def test_counts_in_the_log_are_those_of_flops(tmp_path: Path) -> None:
    for name in ("resnet18", "resnet34", "vgg16"):
        one = run.Run(run.Settings(name, "cks", batch_size=4), images_like_cifar10(), tmp_path / name)
        wanted = flops.network(name, 32, 4).total
        assert (one.told_in_log["regular"], one.told_in_log["useful"]) == (wanted.regular, wanted.useful)
        assert one.swapped == one.layers


def test_a_step_on_images_like_those_of_cifar10(tmp_path: Path) -> None:
    one = run.Run(run.Settings("little", "cks", batch_size=2), images_like_cifar10(), tmp_path)
    one.advance()
    row = one.advance()
    assert row["test_accuracy"] in (0, 0.25, 0.5, 0.75, 1)
    batch = one.images.normalised(one.images.train[0])
    torch.testing.assert_close(batch.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(batch.var((0, 2, 3), correction=0), torch.ones(3))


@pytest.mark.parametrize("name", architectures.MODELS)
@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 32), (3, 33)])
def test_networks_take_any_size(name: str, channels: int, side: int) -> None:
    with torch.device("meta"):
        assert architectures.build(name, channels)(torch.empty(2, channels, side, side)).shape == (2, 10)


def test_commands_of_the_documents_are_understood() -> None:
    root = Path(__file__).resolve().parents[2]
    pages = (*sorted((root / "docs").glob("*.md")), root / "figures" / "README.md")
    text = "".join(path.read_text(encoding="utf-8") for path in pages)
    found = re.findall(r"python -m cks_numba\.train( [^`\n]+)", text)
    assert len(found) >= 4
    for line in found:
        parser().parse_args(shlex.split(line))


# --- arguments --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--epochs", "0"), "epochs must be at least 1, got 0"),
        (("--steps", "-1"), "steps must be at least 1, got -1"),
        (("--threads", "0"), "threads must be at least 1, got 0"),
        (("--batch-size", "1"), "batch_size must be at least 2, got 1"),
        (("--batch-size", "1501"), "batch_size must be at most 1500, got 1501"),
        (("--save-every", "0"), "save_every must be at least 1, got 0"),
        (("--lr", "0"), "lr must be a number above 0, got 0.0"),
        (("--lr", "nan"), "lr must be a number above 0, got nan"),
        (("--seed", "-1"), "seed must be at least 0, got -1"),
        (("--data", "cifar10", "--data-dir", "nowhere"), "no copy of CIFAR-10 in 'nowhere'"),
    ],
)
def test_wrong_arguments(tmp_path: Path, capsys, more, message) -> None:
    assert train(tmp_path / "new", *more) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path, capsys) -> None:
    assert train(tmp_path, "--device", "cuda") == 2
    assert "device is cuda, and PyTorch finds no GPU" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["torch", "sklearn"])
def test_without_a_package_it_says_how_to_install(package: str, tmp_path: Path) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; from cks_numba.train.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *SMALL, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr == f"cks_numba.train needs {package}: pip install 'cks-numba[train]'\n"
