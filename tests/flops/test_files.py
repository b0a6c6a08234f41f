"""Every writer of the package on a disk that fills up: the old file stays whole, and the error names it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from functools import partial

import pytest
from matplotlib.figure import Figure

from cks_numba.bench import gpu, results
from cks_numba.commands import demo
from cks_numba.flops import counts, text
from cks_numba.flops.files import naming, replacing
from cks_numba.geometry import ConvShape
from cks_numba.plots import animation, gallery

resource = pytest.importorskip("resource", reason="the system has no limits of a process")

SHAPE = ConvShape(n=1, ih=4, iw=4, ic=1, oc=1, fh=3, fw=3, stride=2, padding=1)
VALUES = {"int": 1, "float": 1.5, "str": "text" * 20}
ROWS = [results.Row(**{field.name: VALUES[str(field.type)] for field in fields(results.Row)})]


@contextmanager
def room_for(size):
    """Let no file become longer than this: what is written beyond raises OSError, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def marked(path):
    if not path.exists():
        path.write_text("<a><b>" + "kept" * 300)
    text.put_between(path, "new" * 300, ("<a>", "<b>"))


WRITERS = {  # a writer of each kind, and the ending of its file
    "counts": (lambda path: text.write({"a": counts.network("resnet18", 32)}, path), "csv"),
    "page": (marked, "md"),
    "times": (lambda path: results.write(ROWS, path), "csv"),
    "times, one by one": (lambda path: gpu.append(ROWS, path), "csv"),
    "picture": (lambda path: gallery.save(Figure(), path.parent, path.stem), "png"),
    "animation": (lambda path: animation.animate("conv2d", SHAPE, path), "gif"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_old_file(tmp_path, name):
    write, ending = WRITERS[name]
    path = tmp_path / f"a.{ending}"
    write(path)
    before = path.read_bytes()
    with room_for(len(before) // 2), pytest.raises(OSError, match=str(path)):
        write(path)
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("*.tmp"))
    write(path)  # with room again


def test_the_demo_keeps_the_old_picture(tmp_path, monkeypatch):
    for part in ("_draw_stack", "_draw_zeros"):
        monkeypatch.setattr(demo, part, lambda *given: None)
    layer = type("Layer", (), {"x": None, "shape": None})
    path = tmp_path / "a.png"
    demo.draw(path, [layer] * 3, [], "cpu")
    before = path.read_bytes()
    with room_for(len(before) // 2), pytest.raises(OSError, match=str(path)):
        demo.draw(path, [layer] * 3, [], "cpu")
    assert path.read_bytes() == before


def test_rows_are_added_after_those_that_are_there(tmp_path):
    for _ in range(3):
        gpu.append(ROWS, tmp_path / "a.csv")
    assert results.read(tmp_path / "a.csv") == ROWS * 3


def test_a_link_stays_a_link_and_no_folder_is_named_too(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with replacing(tmp_path / "link") as file:
        file.write("new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "new"
    with pytest.raises(FileNotFoundError, match="missing/a"), replacing(tmp_path / "missing" / "a"):
        raise AssertionError("the file cannot be opened")
    with room_for(0), pytest.raises(OSError, match="file"), naming(tmp_path / "file"):
        (tmp_path / "file").write_text("more")


AT_ONCE = """
import sys
from pathlib import Path
from cks_numba.flops.files import replacing
with replacing(Path(sys.argv[1], "file")) as file:
    print("open", flush=True)
    assert sys.stdin.readline()
    file.write(sys.argv[2] * 10_000)
"""


@pytest.mark.parametrize("first", [0, 1])
def test_two_processes_write_one_file_at_once(tmp_path, first):
    """Both have it open, and the file is whole, that of the process that ends last."""
    start = partial(subprocess.Popen, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    writers = [start([sys.executable, "-c", AT_ONCE, str(tmp_path), name]) for name in "ab"]
    assert [writer.stdout.readline() for writer in writers] == ["open\n"] * 2
    for writer in (writers[first], writers[1 - first]):
        writer.communicate("go on\n", timeout=60)
        assert writer.returncode == 0
    assert (tmp_path / "file").read_text() == "ba"[first] * 10_000
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_is_no_plain_file_is_written_to():
    with replacing(gallery.Path("/dev/null")) as file:
        file.write("text")
    assert not gallery.Path("/dev/null").is_file()


@pytest.mark.parametrize(("number", "kept"), [(errno.EINVAL, "new"), (errno.ENOTSUP, "new"), (errno.EIO, "old")])
def test_a_file_system_without_fsync(tmp_path, monkeypatch, number, kept):
    """One that cannot be asked takes the file; one that fails does not."""

    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    path = tmp_path / "a"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=str(path)) if kept == "old" else nullcontext(), replacing(path) as file:
        file.write("new")
    assert path.read_text() == kept and [*tmp_path.iterdir()] == [path]
