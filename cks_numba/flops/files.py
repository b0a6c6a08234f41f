"""Files that are written whole or not at all, as a disk may fill up and a process may be killed at any moment."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file in an error of the operating system, which does so when it opens a file, but not when it writes."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


@contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[Any]:
    """Open a file to be written, which takes the place of the old one at the end, in one move.

    Parameters
    ----------
    path : Path
        What is no plain file, such as /dev/stdout, is written to directly.
    mode : {"w", "wb"}
        For text, in UTF-8, or for bytes.

    Raises
    ------
    OSError
        If the file cannot be written; names `path`. The old file stays as it was, as after any other error.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     with replacing(Path(folder, "a"), "wb") as file:
    ...         _ = file.write(b"new")
    ...     Path(folder, "a").read_bytes()
    b'new'
    """
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    with naming(path):
        if path.exists() and not path.is_file():
            with path.open(mode, **text) as file:
                yield file
            return
        target = path.resolve()  # A link leads to the file that is replaced.
        # A move to another disk would be a copy, so the new file is in the same folder. Another process may write the
        # same file, so its name is its own.
        beside = target.with_name(f"{target.name}.{token_hex(8)}.tmp")
        try:
            with beside.open(mode.replace("w", "x"), **text) as file:
                yield file
                file.flush()
                _to_disk(file)  # otherwise the name may reach the disk before the content
            os.replace(beside, target)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise


def _to_disk(file: Any) -> None:
    """Wait until the content of a file is on the disk, unless its file system cannot be asked to."""
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise
