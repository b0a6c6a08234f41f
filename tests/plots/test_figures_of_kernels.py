"""The pictures of the kernels: bytes against the traced kernels, machine code against a new compilation."""

from __future__ import annotations

from contextlib import nullcontext
from math import prod

import numpy as np
import pytest

from cks_numba import kernels, trace
from cks_numba.bench import results
from cks_numba.commands import main
from cks_numba.geometry import OPERATORS, ConvShape
from cks_numba.kernels import sass
from cks_numba.plots import gallery
from cks_numba.trace.elements import Watched

CSV = gallery.FOLDER / "data" / "sass_sm_90.csv"
SHAPES = [
    ConvShape(n=2, ih=5, iw=4, ic=3, oc=5, fh=3, fw=3, stride=2, padding=1),
    ConvShape(n=1, ih=6, iw=6, ic=4, oc=8, fh=3, fw=2, padding=1, groups=2),  # loads of one: channel groups of 2
    ConvShape(n=9, ih=3, iw=3, ic=4, oc=12, fh=2, fw=2, stride=2),  # loads of four, more than a tile of `shared`
]


class Counting(Watched):
    """Global memory that counts the loaded and stored elements."""

    moved = 0

    def __getitem__(self, index):
        found = super().__getitem__(index)
        if isinstance(found, Watched):
            return Counting(found.cells, self.dtype, self.log)
        Counting.moved += 1
        return found

    def __setitem__(self, index, value):
        Counting.moved += 1
        super().__setitem__(index, value)

    def reshape(self, *shape):
        return Counting(self.cells.reshape(*shape), self.dtype, self.log)


@pytest.mark.parametrize("rung", kernels.SIMULATED_RUNGS)
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bytes_of_the_roofline_are_those_that_the_kernels_ask_for(shape, operator, rung, monkeypatch) -> None:
    monkeypatch.setattr(trace, "Watched", Counting)
    monkeypatch.setattr(Counting, "moved", 0)
    trace.run(operator, shape, rung)
    assert gallery.load("f8_roofline").asked(operator, shape, rung) == Counting.moved


def test_a_split_sum_is_stored_and_loaded_again() -> None:
    roofline = gallery.load("f8_roofline")
    shape = ConvShape(n=roofline.BATCH, **roofline.LAYER)
    choice = roofline.tiled.choose("conv2d_weight", shape)
    arrays = tuple(np.empty(size, np.float32) for _, size in shape.arrays("conv2d_weight"))
    first, second = kernels.launches("conv2d_weight", shape, arrays)
    assert choice.parts > 1 and second.args[0].size == choice.parts * prod(shape.w_shape)
    operands = choice.terms * (choice.tile.bm + choice.tile.bn)
    stored = first.args[2].size + sum(array.size for array in second.args)
    # Whole chunks are counted, but the terms past the end are not loaded.
    assert 0.9 * (operands + stored) < roofline.asked("conv2d_weight", shape, "tiled") <= operands + stored


def test_a_csv_of_the_gpu_adds_measured_points(tmp_path, monkeypatch) -> None:
    roofline = gallery.load("f8_roofline")
    about = dict(source="", dtype="float32", median_ms=1.0, min_ms=1.0, max_ms=1.0, rounds=9, extra_bytes=0, threads=1)
    size = dict(n=128, ih=32, ic=64, oc=128, fh=3, stride=2, padding=1, versions="", commit="", layout="NHWC")
    rows = [
        results.Row(operator="conv2d", contender=name, rate=rate, device="NVIDIA H100 80GB HBM3", **about, **size)
        for name, rate in ((results.OURS, 40_000.0), ("skip_zeros", 2_000.0), (results.PEER, 50_000.0))
    ]
    cpu = results.read(roofline.DATA / "cpu_amd_epyc_2_threads.csv")
    results.write(rows, tmp_path / "gpu_some.csv")
    results.write(cpu, tmp_path / "cpu_amd_epyc_2_threads.csv")
    monkeypatch.setattr(roofline, "DATA", tmp_path)
    assert roofline.measured() == {("conv2d", "tiled"): 40.0, ("conv2d", "skip_zeros"): 2.0}
    points = [tuple(map(float, line.get_ydata())) for line in roofline.draw().axes[0].lines]
    assert (40.0,) in points and (2.0,) in points


# --- machine code -----------------------------------------------------------------------------------
def test_sass_figure_counts_every_instruction_of_a_loop_once() -> None:
    picture = gallery.load("f9_sass")
    for operator in OPERATORS:
        for rung, name in picture.LINES.items():
            lines = [line for line in sass.read(CSV) if line["kernel"] == f"{operator} {name}"]
            found = picture.counts(operator, rung)
            assert sum(found.values()) == sum(int(line["count"]) for line in lines) > 50
            kind, word = ("products of matrices", "HMMA") if rung in picture.WORTH else ("multiply-adds", "FFMA")
            multiplied = sum(int(line["count"]) for line in lines if line["instruction"].startswith(word))
            assert found[kind] == multiplied > 0


def test_committed_sass_has_all_kernels_and_says_how_it_was_made() -> None:
    head = CSV.read_text(encoding="utf-8").splitlines()[:2]
    assert "cks-numba sass all --arch sm_90 --csv figures/data/sass_sm_90.csv" in head[0] and "ptxas" in head[1]
    names = {(line["operator"], line["kernel"]) for line in sass.read(CSV)}
    assert names == {(operator, launch.name) for operator in OPERATORS for launch in sass.examples(operator)}


def test_docs_say_what_loads_of_single_elements_cost() -> None:
    def share(loads: str) -> str:
        lines = [line for line in sass.read(CSV) if line["kernel"] == f"conv2d tiled 128x128, {loads}"]
        multiply_adds = sum(int(line["count"]) for line in lines if line["instruction"] == "FFMA")
        return f"{multiply_adds / sum(int(line['count']) for line in lines):.0%}"

    page = " ".join((gallery.FOLDER.parent / "docs" / "kernels.md").read_text(encoding="utf-8").split())
    vectors, single = share("vectors"), share("single elements")
    stated = f"multiply-adds are {vectors} of the inner loop of `conv2d` in the largest tile on an H100, and {single}"
    assert stated in page


@pytest.fixture(scope="module")
def made_with() -> str:
    """Return the versions of the compilers; skip where they are missing."""
    try:
        sass.tool("nvdisasm")
        return sass.made_with()
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("rung", ["shared", "register_tile", "tiled 32x32, vectors"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_committed_sass_is_what_the_compiler_makes(made_with, operator, rung) -> None:
    """Compare three kernels of each operator. Other compilers schedule differently; then only multiply-adds count."""
    launch = next(item for item in sass.examples(operator) if item.name == f"{operator} {rung}")
    new = sass.rows(operator, sass.assemble(launch.name, sass.ptx_of(launch), "sm_90"))
    committed = [line for line in sass.read(CSV) if line["kernel"] == launch.name]
    if made_with not in CSV.read_text(encoding="utf-8"):
        new, committed = (
            [line["count"] for line in rows if line["instruction"] == "FFMA"] for rows in (new, committed)
        )
    assert new == committed, "cks-numba sass all --arch sm_90 --csv figures/data/sass_sm_90.csv"


def test_sass_command_writes_what_it_prints(made_with, tmp_path, capsys, monkeypatch) -> None:
    chosen = [item for item in sass.examples("conv2d", (4,)) if item.name == "conv2d skip_zeros"]
    monkeypatch.setattr(sass, "examples", lambda operator: chosen)
    path = tmp_path / "some.csv"
    assert main(["sass", "conv_v2", "--arch", "sm_80", "--csv", str(path)]) == 0
    (line,) = (line.split() for line in capsys.readouterr().out.splitlines() if "skip_zeros" in line)
    rows = sass.read(path)
    assert [rows[0][name] for name in ("registers", "spilled", "shared")] == line[2:5]
    assert {row["instruction"]: row["count"] for row in rows}["FFMA"] == line[5]
    assert all(row["operator"] == "conv2d" and row["arch"] == "sm_80" for row in rows)
    assert f"cks-numba sass conv2d --arch sm_80 --csv {path}" in path.read_text(encoding="utf-8").splitlines()[0]
    with pytest.raises(SystemExit):
        main(["sass", "conv2d", "--source", "--csv", str(path)])


def test_sass_says_what_is_missing(monkeypatch, capsys) -> None:
    def nothing(name: str) -> str:
        raise RuntimeError(f"{name} was not found")

    monkeypatch.setattr(sass, "tool", nothing)
    monkeypatch.setattr(sass, "_require_compiler", lambda: None)
    monkeypatch.setattr(sass, "ptx_of", lambda launch: pytest.fail("nothing must be compiled before"))
    for more in ([], ["--source"]):
        assert main(["sass", "conv2d", *more]) == 1
        assert capsys.readouterr() == ("", "cks-numba sass: ptxas was not found\n")


def test_sass_says_how_to_install_the_compilers_of_cuda(monkeypatch, capsys) -> None:
    def compile(*arguments: object, **options: object) -> None:
        raise RuntimeError('Failure finding "libnvrtc.so.13 or libnvrtc.so.12": No such file\nmore lines')

    monkeypatch.setattr(sass, "tool", lambda name: name)
    monkeypatch.setattr(sass, "compiling_for", lambda capability: nullcontext())
    monkeypatch.setattr(sass, "NUMBA_CUDA", True)
    monkeypatch.setattr(sass, "SIMULATED", False)
    monkeypatch.setattr(sass.cuda, "compile", compile, raising=False)
    assert main(["sass", "conv2d"]) == 1
    said = capsys.readouterr()
    assert said.err == (
        "cks-numba sass: CUDA's compilers NVRTC and NVVM were not found: pip install 'cks-numba[sass]'\n"
    )


def test_sass_prints_a_kernel_as_soon_as_it_is_compiled(monkeypatch, capsys) -> None:
    said = []

    def assemble(name: str, ptx: str, arch: str) -> sass.Compiled:
        said.append(capsys.readouterr().out.splitlines())
        return sass.Compiled(name, arch, 32, 0, 0, (), ())

    monkeypatch.setattr(sass, "tool", lambda name: name)
    monkeypatch.setattr(sass, "_require_compiler", lambda: None)
    monkeypatch.setattr(sass, "ptx_of", lambda launch: "")
    monkeypatch.setattr(sass, "assemble", assemble)
    assert main(["sass", "conv2d"]) == 0
    assert said[0] == ["conv2d on sm_80; the last four columns are of the inner loop", sass.HEAD]
    assert len(said) > 5 and all(len(lines) == 1 for lines in said[1:])
    said.clear()
    capsys.readouterr()
    assert main(["sass", "conv2d", "--source"]) == 0
    assert len(said) == 1 and said[0][0].endswith("on sm_80, inner loop")
