"""Reading CIFAR-10: both forms give the images that were written, and nothing else gets through."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from cks_numba.train import data

ROWS = 3
NAMES = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]


class Python2(pickle._Pickler):
    """A pickler that writes bytes and text as Python 2 wrote its one kind of string."""

    dispatch = dict(pickle._Pickler.dispatch)

    def string(self, value):
        raw = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(pickle.BINSTRING + len(raw).to_bytes(4, "little") + raw)

    dispatch[bytes] = dispatch[str] = string


def python2(value) -> bytes:
    file = io.BytesIO()
    Python2(file, protocol=2).dump(value)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")  # the module's old name


def parts():
    rng = np.random.default_rng(0)
    return {
        name: (rng.integers(0, 256, (ROWS, 3, 32, 32), np.uint8), rng.integers(0, 10, ROWS).tolist()) for name in NAMES
    }


def contents(form: data.Form) -> dict[str, bytes]:
    if form.archive == "cifar-10-python.tar.gz":
        return {
            name: python2({b"batch_label": b"a batch", b"data": images.reshape(ROWS, -1), b"labels": labels})
            for name, (images, labels) in parts().items()
        }
    return {
        f"{name}.bin": b"".join(bytes([label]) + image.tobytes() for image, label in zip(images, labels, strict=True))
        for name, (images, labels) in parts().items()
    }


def archive(folder: Path, form: data.Form, files: dict[str, bytes]) -> dict[str, str]:
    """Write an archive, and return its MD5 sum."""
    path = folder / form.archive
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{form.folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return {form.archive: hashlib.md5(path.read_bytes()).hexdigest()}


def extracted(folder: Path, form: data.Form, files: dict[str, bytes]) -> None:
    (folder / form.folder).mkdir()
    for name, content in files.items():
        (folder / form.folder / name).write_bytes(content)


@pytest.fixture(params=data.FORMS, ids=lambda form: form.archive)
def form(request) -> data.Form:
    return request.param


@pytest.mark.parametrize("packed", [True, False])
def test_what_was_written_is_read(tmp_path: Path, form: data.Form, packed: bool) -> None:
    assert data.find(tmp_path) is None
    sums = archive(tmp_path, form, contents(form)) if packed else extracted(tmp_path, form, contents(form)) or {}
    found = data.cifar10(tmp_path, sums, ROWS)
    images, labels = zip(*parts().values(), strict=True)
    assert found.images.shape == (5 * ROWS, 3, 32, 32) and found.images.dtype == np.uint8
    assert found.labels.dtype == found.test_labels.dtype == np.int64
    np.testing.assert_array_equal(found.images, np.concatenate(images[:5]))
    np.testing.assert_array_equal(found.labels, np.concatenate(labels[:5]))
    np.testing.assert_array_equal(found.test_images, images[5])
    np.testing.assert_array_equal(found.test_labels, labels[5])
    assert found.test_images.flags.writeable  # PyTorch warns about read-only arrays
    assert sorted(path.name for path in tmp_path.iterdir()) == [form.archive if packed else form.folder]


def test_the_published_sums_are_asked_for(tmp_path: Path, form: data.Form) -> None:
    archive(tmp_path, form, contents(form))
    with pytest.raises(ValueError, match=f"the MD5 sum of .* must be {data.SUMS[form.archive]}: download it again"):
        data.load("auto", tmp_path)


def test_a_truncated_archive(tmp_path: Path, form: data.Form) -> None:
    sums = archive(tmp_path, form, contents(form))
    path = tmp_path / form.archive
    whole = path.read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) * 9 // 10):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="the MD5 sum of"):
            data.cifar10(tmp_path, sums, ROWS)
        with pytest.raises(ValueError, match="cannot be read|is damaged"):  # even with a matching sum
            data.cifar10(tmp_path, {form.archive: hashlib.md5(whole[:length]).hexdigest()}, ROWS)


def test_a_truncated_or_missing_file(tmp_path: Path, form: data.Form) -> None:
    extracted(tmp_path, form, contents(form))
    path = tmp_path / form.folder / form.train[2]
    whole = path.read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=f"{path.name} of CIFAR-10 (is damaged|must have {ROWS} images)"):
            data.cifar10(tmp_path, {}, ROWS)
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="must have 10000 images"):
        data.cifar10(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        data.cifar10(tmp_path, {}, ROWS)


def test_an_archive_without_a_file(tmp_path: Path, form: data.Form) -> None:
    files = contents(form)
    del files[form.test]
    with pytest.raises(ValueError, match=f"{form.test} of CIFAR-10 is damaged or another file"):
        data.cifar10(tmp_path, archive(tmp_path, form, files), ROWS)


class Evil:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("call", [(print, ("run",)), (eval, ("print('run')",)), (np.load, ("a file",))])
def test_a_pickle_runs_nothing(tmp_path: Path, capsys, call) -> None:
    form = data.FORMS[0]
    files = contents(form) | {"data_batch_1": pickle.dumps({b"data": Evil(*call), b"labels": []})}
    with pytest.raises(ValueError, match="a pickle of CIFAR-10 has no .* in it"):
        data.cifar10(tmp_path, archive(tmp_path, form, files), ROWS)
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    "content", [{}, {b"data": [1], b"labels": [0]}, [1, 2], None, {b"data": np.zeros((3, 3072)), b"labels": [0, 1, 2]}]
)
def test_other_pickles(tmp_path: Path, content) -> None:
    form = data.FORMS[0]
    files = contents(form) | {"data_batch_1": pickle.dumps(content)}
    with pytest.raises(ValueError, match="data_batch_1 of CIFAR-10"):
        data.cifar10(tmp_path, archive(tmp_path, form, files), ROWS)


def test_classes_from_0_to_9_alone(tmp_path: Path) -> None:
    form = data.FORMS[1]
    files = contents(form)
    files["data_batch_4.bin"] = b"\x0a" + files["data_batch_4.bin"][1:]
    with pytest.raises(ValueError, match="classes from 0 to 9"):
        data.cifar10(tmp_path, archive(tmp_path, form, files), ROWS)


def test_without_a_copy_it_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Download https://.*tar.gz, put it there .*or use --data digits"):
        data.load("cifar10", tmp_path)


@pytest.mark.torch  # needs the extra `train`, as the tests with PyTorch do
def test_digits(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed (pip install cks-numba[train])")
    from sklearn.datasets import load_digits

    found, wanted = data.load("auto", tmp_path), load_digits()
    assert (
        found.name == "digits" and found.images.shape == (1500, 1, 8, 8) and found.test_images.shape == (297, 1, 8, 8)
    )
    images = np.concatenate([found.images, found.test_images])
    np.testing.assert_array_equal(images[:, 0], wanted.images)
    np.testing.assert_array_equal(np.concatenate([found.labels, found.test_labels]), wanted.target)
