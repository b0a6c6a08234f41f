"""PTX on disk, by a fingerprint of everything that it depends on."""

from __future__ import annotations

import dis
import enum
import hashlib
import io
import os
import pickle
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any

import numba
import numpy as np
from numba.misc.appdirs import AppDirs

_LIBRARIES = {"numba", "numba_cuda", "numpy", "llvmlite", "cuda"} | sys.stdlib_module_names
_PLACES = tuple(str(Path(str(package.__file__)).parents[depth]) for package, depth in ((os, 0), (numba, 1), (np, 1)))


def _of_library(module: str | None) -> bool:
    """Whether a module is Python's, Numba's or NumPy's own. A user's file may have the name of one of theirs."""
    root = (module or "").partition(".")[0]
    found = sys.modules.get(root)
    paths = getattr(found, "__path__", None) or [getattr(found, "__file__", None) or _PLACES[0]]
    return root in _LIBRARIES and found is not None and all(str(path).startswith(_PLACES) for path in paths)


def _has_known_name(function: Any) -> bool:
    """Whether the name says all: the function is of a library, and was not made inside another one or by exec."""
    return _of_library(function.__module__) and "<" not in function.__qualname__ + function.__code__.co_filename


class _Fingerprint(pickle.Pickler):
    """Writes all that compiled code depends on: bytecode, constants and what it names, recursively.

    What belongs to a library is its name alone. Anything that may change unseen is a PicklingError.
    """

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.functions: dict[Any, int] = {}

    def reducer_override(self, value: Any) -> Any:
        parts = self.parts(value)
        return parts if parts is NotImplemented else (tuple, (parts,))

    def parts(self, value: Any) -> Any:
        """What stands for a value, as a tuple that pickle looks into, or NotImplemented for what pickle does alone."""
        if isinstance(value, types.ModuleType):  # what the code asks of it stands in the function
            return (value.__name__,)
        if isinstance(value, types.CodeType):
            return tuple(getattr(value, f"co_{name}", None) for name in _CODE)
        # Device functions and intrinsics of Numba are objects that keep the function they were made from.
        function = getattr(value, "py_func", getattr(value, "_defn", value))
        if isinstance(function, types.FunctionType):
            if _has_known_name(function):
                return function.__module__, function.__qualname__
            if function in self.functions:  # it names itself
                return (self.functions[function],)
            self.functions[function] = len(self.functions)
            return self.function(function, hasattr(value, "py_func")), getattr(value, "targetoptions", None)
        if type(value).__module__.startswith(("numba.core.types", "numba.cuda.types")):
            return type(value).__qualname__, repr(value)
        if isinstance(value, type) and issubclass(value, enum.Enum):
            return value.__qualname__, [(member.name, member.value) for member in value]
        if isinstance(value, type) and issubclass(value, tuple) and hasattr(value, "_fields"):
            return value.__qualname__, value._fields
        if isinstance(value, np.ndarray) and hasattr(value, "__cuda_ndarray__"):
            raise RuntimeError("a kernel uses a device array that is a global variable: make it an argument")
        if isinstance(value, (type, types.BuiltinFunctionType)) and not _of_library(value.__module__):
            raise pickle.PicklingError(f"{value} may stand for anything")
        return NotImplemented

    def function(self, function: types.FunctionType, compiled: bool) -> tuple[Any, ...]:
        """What the code of a function can depend on."""
        codes = [*_codes(function.__code__)]
        names = {name for code in codes for name in code.co_names}
        used = {step.argval for code in codes for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
        cells = [cell.cell_contents for cell in function.__closure__ or ()]
        values = [*zip(function.__code__.co_freevars, cells, strict=True)]
        values += [(name, function.__globals__[name]) for name in sorted(used & function.__globals__.keys())]
        values = _with_attributes(values, names, ())
        if compiled and any(
            isinstance(value, types.FunctionType) and not _has_known_name(value) for _, value in values
        ):
            raise pickle.PicklingError("Numba cannot call a function of Python: others say what this one stands for")
        return function.__code__, function.__defaults__, function.__kwdefaults__, values


_CODE = (
    "filename firstlineno name flags argcount posonlyargcount kwonlyargcount code linetable exceptiontable names "
    "varnames freevars cellvars consts"
).split()


def _with_attributes(values: list[tuple[str, Any]], names: set[str], above: tuple[Any, ...]) -> list[Any]:
    """Values, and for the modules among them those of their attributes that have one of the names."""
    for _, module in values:
        if isinstance(module, types.ModuleType) and module not in above and not _of_library(module.__name__):
            attributes = [(name, vars(module)[name]) for name in sorted(names & vars(module).keys())]
            values = [*values, *_with_attributes(attributes, names, (*above, module))]
    return values


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def fingerprint(*parts: Any) -> str | None:
    """SHA-256 of values and of all that they depend on, or None if that may change unseen."""
    written = io.BytesIO()
    try:
        sources = [Path(__file__).with_name(name).read_bytes() for name in ("hooks.py", "llvm.py")]
        _Fingerprint(written).dump((sys.version, sources, parts))
    except (pickle.PicklingError, AttributeError, TypeError, ValueError, OSError, RecursionError):
        return None
    return hashlib.sha256(written.getvalue()).hexdigest()


def cache_folder() -> Path:
    """The folder of the PTX that is kept: below NUMBA_CACHE_DIR, or where the system keeps a user's caches.

    Raises
    ------
    FileNotFoundError
        For a user without a home, for whom the system names a folder "~".
    """
    name, below = "cks_numba_emulator", os.environ.get("NUMBA_CACHE_DIR")
    if below:
        return Path(below, name)
    folder = Path(AppDirs(name, appauthor=False).user_cache_dir)
    if not folder.is_absolute():
        raise FileNotFoundError("there is no home for a cache")
    return folder


def load(key: str) -> str | None:
    """The text that was saved under a key, if it is whole."""
    try:
        checksum, _, text = (cache_folder() / f"{key}.ptx").read_bytes().partition(b"\n")
    except OSError:
        return None
    return text.decode() if hashlib.sha256(text).hexdigest().encode() == checksum else None


def replace(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; what is no plain file, such as /dev/stdout, is written to directly.

    The new file is written beside the old one, which it replaces at the end, and has the rights that any new file gets.
    """
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        target = path.resolve()  # A link leads to the file that is replaced.
        beside = target.with_name(f"{target.name}.{token_hex(8)}.tmp")  # Another process may write the same file.
        try:
            with open(beside, "xb") as file:
                file.write(data)
            os.replace(beside, target)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:  # a write does not name its file
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


_warned: set[Path] = set()


def save(key: str, text: str) -> None:
    """Keep a text under a key, if there is a folder for it; one that takes nothing is a warning, once."""
    try:
        folder, data = cache_folder(), text.encode()
    except FileNotFoundError:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace(folder / f"{key}.ptx", hashlib.sha256(data).hexdigest().encode() + b"\n" + data)
    except OSError as error:
        if folder not in _warned and load(key) is None:
            _warned.add(folder)
            warnings.warn(f"compiled kernels cannot be kept in {folder}: {error}", RuntimeWarning, stacklevel=2)
