"""The budget of the compiled kernels, read from the machine code for a GPU. No GPU is needed."""

from __future__ import annotations

import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from numba import typeof

from cks_numba.commands import main
from cks_numba.geometry import OPERATORS, ConvShape
from cks_numba.kernels import sass, tensor, tiled
from cks_numba.kernels.jit import compiling_for, cuda
from cks_numba.kernels.register_tile import TM, TN
from cks_numba.kernels.tiled import TILES


def missing() -> str:
    """Return why no kernel can be compiled here, or an empty text."""
    try:
        sass.tool("ptxas"), sass.tool("nvdisasm")
        sass.ptx_of(next(sass.examples("conv2d")))
    except Exception as error:  # whatever is missing, its own message is the reason
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


WHY = missing()
needs_tools = [pytest.mark.sass, pytest.mark.skipif(bool(WHY), reason=WHY or "tools are there")]
# Least multiply-adds for each vector load from shared memory, by the results of a tile.
LEAST = {128 * 128: 14, 64 * 64: 10, 64 * 32: 10, 32 * 32: 8}


def tiled_example(operator: str, tile, width: int):
    shape = sass.example(width)
    arrays = tuple(np.empty(size, np.float32) for _, size in shape.arrays(operator))
    return tiled.launches(operator, shape, arrays, tiled.Choice(operator, shape, tile, 1, tiled.DEFAULT_SMS))[0]


@pytest.mark.parametrize("width", [4, 1], ids=["vectors", "single"])
@pytest.mark.parametrize("tile", TILES, ids=str)
@pytest.mark.parametrize("operator", OPERATORS)
class TestBudget:
    pytestmark = needs_tools

    def test_of_every_architecture(self, operator, tile, width):
        launch = tiled_example(operator, tile, width)
        ptx = sass.ptx_of(launch)
        for arch in sass.ARCHITECTURES:
            self.check(sass.assemble(launch.name, ptx, arch), tile, width)

    def check(self, compiled: sass.Compiled, tile, width: int) -> None:
        where = f"{compiled.name} {compiled.arch}: {compiled.registers} registers, {dict(compiled.mix)}"
        loop, code = compiled.mix, sass.mix(compiled.code)
        assert compiled.registers <= 128 and compiled.spilled == 0, where
        assert compiled.shared <= 48 * 1024, where
        assert not any(name.startswith(("LDL", "STL")) for name in code), where  # local memory
        assert not any(name.startswith(("DFMA", "DADD", "DMUL", "DSETP")) for name in code), where  # float64
        assert loop["FFMA"] == 8 * tile.tm * tile.tn, where
        assert compiled.per_load >= LEAST[tile.bm * tile.bn], where
        assert {name for name in loop if name.startswith("LDS")} == {"LDS.128"}, where
        assert loop["BAR"] == 1, where
        assert not {"I2F", "F2I", "MUFU"} & set(loop), where  # parts of an integer division
        loads = [name for name in compiled.loop if re.search(r"\bLDG\b", name)]
        kinds = {name for name in loop if name.startswith("LDG")}
        assert kinds == ({"LDG.128"} if width == 4 else {"LDG"}), where
        guards = {line.split()[0] for line in loads if line.startswith("@")}
        assert len(guards) <= 2, f"{where}: {guards}"  # one per operand, at the end of the sum; none for padding


def volume_example(operator: str, tile, channels: int, dtype: str):
    """Return the launch of a layer of three axes; in float32 of ``tiled``, else of the rung ``tensor``."""
    shape = ConvShape.of((32, 4, 8, 8, channels), (channels, 3, 3, 3, channels), stride=2, padding=1)
    arrays = tuple(np.empty(size, dtype) for _, size in shape.arrays(operator))
    if tile in TILES:
        return tiled.launches(operator, shape, arrays, tiled.Choice(operator, shape, tile, 1, tiled.DEFAULT_SMS))[0]
    choice = tiled.Choice(operator, shape, tile, 1, tiled.DEFAULT_SMS, tensor.FORMATS[dtype].unit)
    return tensor.launches(operator, shape, arrays, choice)[-1]


VOLUMES = [(tile, channels, "float32") for tile in TILES for channels in (128, 127)]
VOLUMES += [(tile, 128, dtype) for tile in tensor.TILES for dtype in ("float32", "float16")]


@pytest.mark.sass
@pytest.mark.skipif(bool(WHY), reason=WHY or "tools are there")
@pytest.mark.parametrize(("tile", "channels", "dtype"), VOLUMES, ids=str)
@pytest.mark.parametrize("operator", OPERATORS)
def test_budget_over_three_axes(operator, tile, channels, dtype):
    """Nothing is spilled, and the inner loop does as many products for each load as over two axes."""
    launch = volume_example(operator, tile, channels, dtype)
    ptx = sass.ptx_of(launch)
    for arch in ("sm_75", "sm_80", "sm_90"):
        if not sass.runs_on(launch, arch):
            continue
        compiled = sass.assemble(launch.name, ptx, arch)
        where = f"{compiled.name} {arch}: {compiled.registers} registers, {dict(compiled.mix)}"
        most = 128 if tile in TILES else 65536 // (tile.threads * tile.resident)
        assert compiled.registers <= most and compiled.spilled == 0, where
        assert not any(name.startswith(("LDL", "STL", "DFMA", "DSETP")) for name in sass.mix(compiled.code)), where
        assert compiled.mix["BAR"] == 1 and not {"I2F", "F2I", "MUFU"} & set(compiled.mix), where
        if tile in TILES:
            assert compiled.mix["FFMA"] == 8 * tile.tm * tile.tn and compiled.per_load >= LEAST[tile.bm * tile.bn], (
                where
            )
        else:
            assert compiled.mix["HMMA"] == tile.wm // 16 * (tile.wn // 8) * 2, where


@pytest.mark.sass
@pytest.mark.skipif(bool(WHY), reason=WHY or "tools are there")
@pytest.mark.parametrize("rung", ["grouped", "register_tile"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_nothing_is_spilled_and_nothing_is_float64(operator, rung):
    launch = next(item for item in sass.examples(operator, (4,)) if item.name == f"{operator} {rung}")
    ptx = sass.ptx_of(launch)
    for arch in sass.ARCHITECTURES:
        compiled = sass.assemble(launch.name, ptx, arch)
        code = sass.mix(compiled.code)
        where = f"{compiled.name} {arch}: {compiled.registers} registers, {dict(compiled.mix)}"
        assert compiled.spilled == 0 and compiled.registers < 255, where
        assert not any(name.startswith(("LDL", "STL", "DFMA", "DADD", "DMUL", "DSETP")) for name in code), where
        per_load = TM * TN / (TM + TN) if rung == "register_tile" else 1 / 2
        assert compiled.mix["FFMA"] >= per_load * compiled.mix["LDS"] > 0, where
        assert not {"I2F", "F2I", "MUFU", "LDG"} & set(compiled.mix), where


# Loads from shared memory in a chunk of 128x128: where terms are neighbours (conv2d), rows (conv2d_weight), or both.
FRAGMENTS = {
    ("conv2d", "float16"): {"LDSM": 16},
    ("conv2d_input", "float16"): {"LDSM": 16},
    ("conv2d_weight", "float16"): {"LDSM": 16},
    ("conv2d", "float32"): {"LDSM": 16},
    ("conv2d_input", "float32"): {"LDSM": 8, "LDS": 32},
    ("conv2d_weight", "float32"): {"LDS.64": 16, "LDS": 32},
}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("tile", tensor.TILES, ids=str)
@pytest.mark.parametrize("operator", OPERATORS)
class TestTensorBudget:
    pytestmark = needs_tools

    def test_of_every_architecture(self, operator, tile, dtype):
        launch = sass.tensor_example(operator, dtype, tile)
        ptx = sass.ptx_of(launch)
        for arch in sass.ARCHITECTURES:
            if sass.runs_on(launch, arch):
                check_tensor(sass.assemble(launch.name, ptx, arch), operator, tile, dtype)


@pytest.mark.sass
@pytest.mark.skipif(bool(WHY), reason=WHY or "tools are there")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("tile", tensor.TILES, ids=str)
@pytest.mark.parametrize("operator", ["conv2d", "conv2d_input"])
def test_tensor_budget_with_a_bias(operator, tile, dtype):
    launch = sass.tensor_example(operator, dtype, tile, biased=True)
    most = min(240, 65536 // (tile.threads * tile.resident))  # with more, fewer blocks would be resident
    check_tensor(sass.assemble(launch.name, sass.ptx_of(launch), "sm_90"), operator, tile, dtype, most)


def check_tensor(compiled: sass.Compiled, operator: str, tile: tensor.Tile, dtype: str, most: int = 0) -> None:
    """Check the budget of a kernel of the tensor rung, with at most so many registers if a number is given."""
    where = f"{compiled.name} {compiled.arch}: {compiled.registers} registers, {dict(compiled.mix)}"
    loop, code = compiled.mix, sass.mix(compiled.code)
    assert 0 < compiled.registers <= (most or 240 / tile.resident * 2) and compiled.spilled == 0, where
    assert compiled.shared <= 48 * 1024, where
    assert not any(name.startswith(("LDL", "STL", "DFMA", "DADD", "DMUL", "DSETP")) for name in code), where
    assert loop["HMMA"] == tile.wm // 16 * (tile.wn // 8) * 2, where  # two steps of a chunk
    assert loop["LDGSTS"] == (tile.bm + tile.bn) * 4 // tile.threads, where
    assert loop["BAR"] == 1 and loop["DEPBAR"] == 1 and loop["LDGDEPBAR"] == 1, where
    assert not {"I2F", "F2I", "MUFU", "LDG", "STS"} & set(loop), where
    assert len(compiled.loop) <= (400 if dtype == "float32" else 180), where
    if tile == tensor.TILES[0]:
        found = {name: count for name, count in loop.items() if name.startswith(("LDS", "LDSM"))}
        assert {name: count for name, count in found.items() if not name.startswith("LDGSTS")} == (
            FRAGMENTS[operator, dtype]
        ), where


@pytest.mark.sass
@pytest.mark.skipif(bool(WHY), reason=WHY or "tools are there")
@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (12, 0)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_tensor_budget_as_a_gpu_gets_it(operator, dtype, capability, monkeypatch, tmp_path):
    """On a GPU numba-cuda links the code of NVVM once more (LTO) and makes no PTX."""
    from numba.cuda import codegen, dispatcher

    device = SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: device)
    monkeypatch.setattr(
        codegen, "devices", SimpleNamespace(get_context=lambda: SimpleNamespace(device=device)), raising=False
    )
    launch = sass.tensor_example(operator, dtype, tensor.TILES[0])
    options = {name: launch.kernel.targetoptions[name] for name in ("lto", "launch_bounds", "opt")}
    types = tuple(typeof(arg) for arg in launch.args)
    linked = dispatcher._Kernel(launch.kernel.py_func, types, **options)
    cubin = linked._codelibrary.get_cubin(cc=(*capability, "a" if capability >= (9, 0) else ""))
    path = tmp_path / "kernel.cubin"
    path.write_bytes(cubin if isinstance(cubin, bytes) else cubin.code)
    code, loops = sass.read_code(sass._run(sass.tool("nvdisasm"), "-c", str(path)))
    loop = sass.mix(inner := sass.inner_loop(code, loops))
    assert options["lto"] and loop["HMMA"] == 64 and loop["LDGSTS"] == 8 and loop["BAR"] == 1, dict(loop)
    assert len(inner) <= (400 if dtype == "float32" else 180), dict(loop)
    assert not any(name.startswith(("LDL", "STL")) for name in sass.mix(code)), dict(loop)


@pytest.mark.sass
@pytest.mark.skipif(bool(WHY), reason=WHY or "tools are there")
def test_command_prints_the_table_and_the_loop(capsys):
    assert main(["sass", "conv2d", "--arch", "sm_90", "--source"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("conv2d tiled 128x128, vectors on sm_90, inner loop\n") and text.count("FFMA") == 512
    assert main(["sass", "conv2d", "--arch", "sm_1"]) == 1
    assert "ptxas failed" in capsys.readouterr().err


@pytest.mark.sass
@pytest.mark.skipif(bool(WHY), reason=WHY or "tools are there")
def test_device_functions_have_lines_of_their_own_and_are_all_inlined():
    launch = tiled_example("conv2d", TILES[-1], 4)
    types = tuple(typeof(arg) for arg in launch.args)
    with compiling_for(sass.PTX_FOR):
        ptx, _ = cuda.compile(launch.kernel.py_func, types, device=False, abi="numba", cc=sass.PTX_FOR, lineinfo=True)
    names = {number: name for number, name in re.findall(r'\.file\s+(\d+) ".*?(\w+\.py)"', ptx)}
    inlined = {names[number] for number in re.findall(r"\.loc\s+(\d+) .*inlined_at", ptx)}
    assert set(names.values()) == {"axes.py", "gemm.py", "device_functions.py", "grouped.py"} == inlined
    assert ".func" not in ptx and "call" not in ptx


# --- reading what nvdisasm prints ---------------------------------------------------------------------
TEXT = """
.text.kernel:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/                   FFMA R0, R1, R2, R0 ;
.L_x_0:
        /*0020*/                   LDS.128 R4, [R8+0x10] ;
        /*0030*/                   FFMA R0, R4, R5, R0 ;
        /*0040*/                   FFMA R1, R6, R7, R1 ;
        /*0050*/              @P0  BRA `(.L_x_0) ;
        /*0060*/             @!P1  BRA `(.L_x_1) ;
        /*0070*/                   BRA `(.L_x_2) ;
.L_x_2:
        /*0080*/                   EXIT ;
"""


def test_the_inner_loop_is_the_one_inside():
    code, loops = sass.read_code(TEXT)
    assert len(code) == 9 and loops == [(2, 6), (1, 7)]  # the last branch jumps forward, so it is no loop
    loop = sass.inner_loop(code, loops)
    assert sass.mix(loop) == {"LDS.128": 1, "FFMA": 2, "BRA": 1}
    assert sass.inner_loop(*sass.read_code("")) == []


def test_missing_tool_says_how_to_install_it(monkeypatch):
    def not_found(name):
        raise sass.metadata.PackageNotFoundError(name)

    sass.tool.cache_clear()
    monkeypatch.setattr(sass.metadata, "files", not_found)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match=r"ptxas was not found: pip install 'cks-numba\[sass\]'"):
        sass.tool("ptxas")
    monkeypatch.undo()
    sass.tool.cache_clear()
