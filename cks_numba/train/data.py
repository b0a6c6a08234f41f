"""CIFAR-10 from a copy on this disk, and the digits that come with scikit-learn. Nothing is downloaded.

CIFAR-10 has two archives, with the same images in the same order: Python pickles, and plain bytes. An archive is
compared with its published MD5 sum before anything in it is read. A pickle could run any code, so the unpickler here
knows how to rebuild arrays and nothing else.

Source of the addresses, sums and formats: https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import checks

Array = np.ndarray[Any, Any]
ADDRESS = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
SIZE = (3, 32, 32)
"""Channels, rows and columns of an image."""
ROWS = 10_000
"""Images in a file."""
DIGITS_TRAIN = 1500
"""Digits to train with; the other 297, by other writers, are for the test."""
SUMS = {
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
    "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
}
NAMES = ("auto", "cifar10", "digits")


class Data(NamedTuple):
    """Images and their classes.

    Attributes
    ----------
    name : str
    images, test_images : uint8 array (N, C, H, W)
    labels, test_labels : int64 array (N,), from 0 to 9
    """

    name: str
    images: Array
    labels: Array
    test_images: Array
    test_labels: Array


def load(name: str, folder: Path) -> Data:
    """Read a data set.

    Parameters
    ----------
    name : str
        "cifar10"; "digits", 8x8 in one channel; or "auto": the former if a copy is found, otherwise the latter.
    folder : Path
        Folder with an archive of CIFAR-10, or with the folder that was in it.

    Returns
    -------
    Data

    Raises
    ------
    ValueError
        For an unknown name, or if the copy is missing, damaged, or a different file.

    Examples
    --------
    >>> load("cifar100", Path())
    Traceback (most recent call last):
    ValueError: data must be one of 'auto', 'cifar10', 'digits', got 'cifar100'
    """
    checks.choice("data", name, NAMES)
    if name == "digits" or (name == "auto" and find(folder) is None):
        return digits()
    return cifar10(folder)


def digits() -> Data:
    """The 1797 handwritten digits of scikit-learn, 8x8 pixels from 0 to 16."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images, labels = found.images[:, None].astype(np.uint8), found.target.astype(np.int64)
    return Data("digits", images[:DIGITS_TRAIN], labels[:DIGITS_TRAIN], images[DIGITS_TRAIN:], labels[DIGITS_TRAIN:])


# --- CIFAR-10 --------------------------------------------------------------------------------------
class Form(NamedTuple):
    """One of the two forms of CIFAR-10."""

    archive: str
    folder: str  # name of the folder in the archive
    train: tuple[str, ...]
    test: str
    parse: Callable[[bytes], tuple[Array, Array]]


def find(folder: Path) -> tuple[Form, Path] | None:
    """The first copy in a folder, and its form."""
    for form in FORMS:
        for path in (folder / form.archive, folder / form.folder):
            if path.exists():
                return form, path
    return None


def cifar10(folder: Path, sums: Mapping[str, str] = SUMS, rows: int = ROWS) -> Data:
    """Read CIFAR-10.

    Parameters
    ----------
    folder : Path
        Folder with one of the two archives, or with the folder that was in it. No sum is published for the latter.
    sums : mapping of str to str
        MD5 sums of the archives.
    rows : int
        Images in a file.

    Returns
    -------
    Data
        50000 images to train with and 10000 for the test, each (3, 32, 32).

    Raises
    ------
    ValueError
        If the copy is missing, damaged, or a different file.
    """
    found = find(folder)
    if found is None:
        raise ValueError(
            f"data: no copy of CIFAR-10 in {str(folder)!r}. Download {ADDRESS}, put it there or name its folder with "
            "--data-dir, or use --data digits"
        )
    form, path = found
    try:
        with _opened(path, sums) as archive:
            parts = [_part(form, archive or path, name, rows) for name in (*form.train, form.test)]
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"data: {path} cannot be read: {error}") from None
    images, labels = (np.concatenate(kind) for kind in zip(*parts[:-1], strict=True))
    return Data("cifar10", images, labels, *parts[-1])


def _opened(path: Path, sums: Mapping[str, str]) -> AbstractContextManager[tarfile.TarFile | None]:
    """Open an archive after checking its sum; a folder gives None."""
    if path.is_dir():
        return nullcontext()
    found = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(2**20):
            found.update(block)
    if found.hexdigest() != sums[path.name]:
        raise ValueError(
            f"data: the MD5 sum of {path} is {found.hexdigest()}, and must be {sums[path.name]}: download it again"
        )
    return tarfile.open(path, "r:gz")


def _part(form: Form, source: tarfile.TarFile | Path, name: str, rows: int) -> tuple[Array, Array]:
    """Read images and classes of a file."""
    try:
        images, labels = form.parse(_content(form, source, name))
        images = np.array(images.reshape(-1, *SIZE))  # a copy, because the bytes that were read cannot be changed
    except (pickle.UnpicklingError, EOFError, KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"data: {name} of CIFAR-10 is damaged or another file: {error}") from None
    if (
        len(images) != rows
        or labels.shape != (rows,)
        or images.dtype != np.uint8
        or not np.isin(labels, range(10)).all()
    ):
        raise ValueError(f"data: {name} of CIFAR-10 must have {rows} images of {SIZE} and as many classes from 0 to 9")
    return images, labels.astype(np.int64)


def _content(form: Form, source: tarfile.TarFile | Path, name: str) -> bytes:
    if isinstance(source, Path):
        return (source / name).read_bytes()
    member = source.extractfile(f"{form.folder}/{name}")  # in memory: nothing of an archive is written to disk
    if member is None:
        raise ValueError("it is no file")
    return member.read()


def _parse_binary(content: bytes) -> tuple[Array, Array]:
    """Parse images that consist of a byte for the class and then the pixels."""
    table = np.frombuffer(content, np.uint8).reshape(-1, 1 + int(np.prod(SIZE)))
    return table[:, 1:], table[:, 0]


def _parse_pickle(content: bytes) -> tuple[Array, Array]:
    """Parse a dict that Python 2 wrote, so its keys are bytes."""
    found = OnlyArrays(io.BytesIO(content), encoding="bytes").load()
    return found[b"data"], np.array(found[b"labels"])


class OnlyArrays(pickle.Unpickler):
    """An unpickler that makes NumPy arrays and Python's own containers, and refuses everything else.

    Examples
    --------
    >>> OnlyArrays(io.BytesIO(pickle.dumps({b"labels": [1, 2]}))).load()
    {b'labels': [1, 2]}
    >>> OnlyArrays(io.BytesIO(pickle.dumps(print))).load()
    Traceback (most recent call last):
    _pickle.UnpicklingError: a pickle of CIFAR-10 has no builtins.print in it
    """

    REBUILD = np.zeros(0).__reduce__()[0]  # its name depends on the version of NumPy
    KNOWN = {
        ("numpy.core.multiarray", "_reconstruct"): REBUILD,
        ("numpy._core.multiarray", "_reconstruct"): REBUILD,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"a pickle of CIFAR-10 has no {module}.{name} in it") from None


FORMS = (
    Form(
        "cifar-10-python.tar.gz",
        "cifar-10-batches-py",
        tuple(f"data_batch_{k}" for k in range(1, 6)),
        "test_batch",
        _parse_pickle,
    ),
    Form(
        "cifar-10-binary.tar.gz",
        "cifar-10-batches-bin",
        tuple(f"data_batch_{k}.bin" for k in range(1, 6)),
        "test_batch.bin",
        _parse_binary,
    ),
)
