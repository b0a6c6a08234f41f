"""The rooms of the package: every import of every file, compared with the layers of the architecture's picture."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from cks_numba.plots import gallery

PACKAGE = Path(__file__).resolve().parents[2] / "cks_numba"
NOT_ROOMS = {"__init__.py", "__main__.py", "py.typed", "__pycache__"}
OPTIONAL = {"torch", "dask"}  # rooms that need an optional package; they may be imported late
# These modules import what is asked for, by name.
FRONT_DOORS = {"__init__", "commands.__init__", "backends.__init__", "tutorial.checking"}
LAYERS = [rooms.split() for _, _, rooms in gallery.load("architecture").LAYERS]
LAYER_OF = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}


class Import(NamedTuple):
    """An import of one module of the package by another, both named without the package's own name."""

    by: str
    of: str
    line: int
    late: bool

    @property
    def rooms(self) -> tuple[str, str]:
        return self.by.partition(".")[0], self.of.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.by}, line {self.line}, imports {self.of}"


def modules(package: Path) -> dict[str, Path]:
    """Return all files by the names of their modules; the module of a folder ends in `__init__`."""
    return {".".join(path.relative_to(package).with_suffix("").parts): path for path in sorted(package.rglob("*.py"))}


def imports(package: Path) -> list[Import]:
    """Return every import of the package's own modules, wherever it is in a file."""
    files = modules(package)
    names = frozenset(files)
    return [found for name, path in files.items() for found in _imports_of(name, path.read_text(), names)]


@cache
def _imports_of(name: str, text: str, files: frozenset[str]) -> list[Import]:
    tree = ast.parse(text)
    if name == "__init__":  # its imports for type checkers are those that it does by name, when asked
        tree.body = [node for node in tree.body if ast.unparse(node).partition(":")[0] != "if TYPE_CHECKING"]
    at_the_top = {id(node) for node in _top_statements(tree)}
    return [
        Import(name, target, node.lineno, id(node) not in at_the_top)  # type: ignore[attr-defined]
        for node in ast.walk(tree)
        for target in _targets(name, node, files)
    ]


def _top_statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield the statements that run when the module is imported, including those below `if`, `try` and `with`."""
    open_nodes = list(tree.body)
    while open_nodes:
        node = open_nodes.pop()
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            open_nodes += [child for child in ast.walk(node) if isinstance(child, ast.stmt) and child is not node]


def _targets(name: str, node: ast.AST, files: frozenset[str]) -> Iterator[str]:
    """Yield the modules that a statement, or a call of import_module, imports."""
    if isinstance(node, ast.Call):
        function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        own = any("cks_numba" in ast.unparse(a) or ast.unparse(a)[:2] in ("'.", '"."', "f'") for a in node.args)
        if function in ("import_module", "__import__") and own and name not in FRONT_DOORS:
            yield "__init__"
    elif isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name.split(".")[0] == "cks_numba":
                yield _known(alias.name.split(".")[1:], files)
    elif isinstance(node, ast.ImportFrom):
        parts = (node.module or "").split(".") if node.module else []
        if node.level:
            parts = [*name.split(".")[: -node.level], *parts]
        elif parts[:1] == ["cks_numba"]:
            parts = parts[1:]
        else:
            return
        for alias in node.names:
            yield _known([*parts, alias.name], files)


def _known(parts: list[str], files: frozenset[str]) -> str:
    """Return the module that a dotted name means; the name may end with something inside that module."""
    for length in range(len(parts), -1, -1):
        for name in (".".join(parts[:length]), ".".join([*parts[:length], "__init__"])):
            if name in files:
                return name
    return "__init__"


def faults(package: Path) -> list[str]:
    """Describe every import that breaks a rule."""
    found = imports(package)
    wrong = [f"{each}, inside a function" for each in found if each.late and each.rooms[1] not in OPTIONAL]
    for each in found:
        by, of = each.rooms
        if by in LAYER_OF and (of not in LAYER_OF or LAYER_OF[of] < LAYER_OF[by]):
            wrong.append(f"{each}, from a layer above")
    wrong += [f"files import each other: {circle}" for circle in circles({(e.by, e.of) for e in found if not e.late})]
    return wrong + [f"rooms import each other: {circle}" for circle in circles({each.rooms for each in found})]


def circles(arrows: set[tuple[str, str]]) -> list[str]:
    """Return the nodes that lead into a circle as one text, or nothing if there is no circle."""
    left = {(by, of) for by, of in arrows if by != of}
    while True:
        sources = {by for by, _ in left}
        kept = {(by, of) for by, of in left if of in sources}
        if kept == left:
            return [", ".join(sorted(sources))] if left else []
        left = kept


def test_the_house_keeps_its_rules() -> None:
    assert len(imports(PACKAGE)) > 200
    assert faults(PACKAGE) == []


def test_the_picture_has_every_room_and_there_are_few() -> None:
    rooms = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.name not in NOT_ROOMS}
    assert rooms == set(LAYER_OF)
    assert len(rooms) <= 21


@pytest.mark.parametrize(
    ("file", "planted", "said"),
    [
        ("geometry.py", "def late():\n    from . import operators\n", "inside a function"),
        ("checks.py", "def late():\n    import cks_numba.geometry\n", "inside a function"),
        ("flops/counts.py", "def late():\n    def later():\n        from ..kernels import jit\n", "inside a function"),
        ("steps/stages.py", "def late():\n    import_module('.operators', 'cks_numba')\n", "inside a function"),
        ("geometry.py", "from .flops import count\n", "from a layer above"),
        ("backends/cuda.py", "if True:\n    from ..arrays import call\n", "from a layer above"),
        ("geometry.py", "from . import plan_table\n", "files import each other"),
        ("kernels/jit.py", "from . import launch\n", "files import each other"),
    ],
)
def test_a_planted_import_is_noticed(tmp_path: Path, file: str, planted: str, said: str) -> None:
    house = tmp_path / "cks_numba"
    shutil.copytree(PACKAGE, house, ignore=shutil.ignore_patterns("__pycache__"))
    with (house / file).open("a", encoding="utf-8") as text:
        text.write(f"\n\n{planted}")
    assert any(said in fault for fault in faults(house)), planted


def test_the_emulator_stands_alone(tmp_path: Path) -> None:
    """It imports nothing of the package; a copy of its folder under another name runs a kernel in another process."""
    assert {each.of for each in imports(PACKAGE) if each.rooms[0] == "emulator" != each.rooms[1]} == set()
    shutil.copytree(PACKAGE / "emulator", tmp_path / "alone", ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "import sys; sys.modules['cks_numba'] = None; import alone, alone.__main__ as demo; "
        "result = alone.check_kernel(demo.reverse, 1, 64, *demo.arrays()); print(*(f.kind for f in result.faults))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout == "race\n", done.stderr
