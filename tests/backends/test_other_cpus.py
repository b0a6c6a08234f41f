"""The compiled kernels of the cpu backend for the registers of other CPUs, which takes long to compile."""

from __future__ import annotations

import importlib
import random
import warnings
from itertools import product

import pytest
from numba.core.errors import NumbaWarning
from reference import in_a_process, random_shape
from test_cpu import (
    ALL_SHAPES,
    FEW_OTHER_NAMES,
    NCHW,
    NHWC,
    OTHER_AXES,
    by_plain,
    check_all,
    check_arrays,
    operands,
    orders_of,
)

from cks_numba.backends.cpu import (
    compiled,
    depthwise,
    few,
    gather,
    packed,
    planes,
    registers,
    tall,
    tile,
    unpacked,
    weight,
)
from cks_numba.geometry import OPERATORS

CPUS = {"16 bytes, 6 rows": (16, 6, 2), "16 bytes, 8 rows": (16, 8, 2), "32 bytes": (32, 6, 2), "64 bytes": (64, 8, 2)}
THIS_CPU = registers.VECTOR_BYTES, registers.TILE_ROWS, registers.TILE_VECTORS


def sweep_as_on(vector_bytes, rows, vectors):
    """Compile for the registers of another kind of CPU, which is slow on this one, and check the same numbers."""
    warnings.simplefilter("ignore", NumbaWarning)  # Numba warns that unoptimised code cannot be cached
    values = {"VECTOR_BYTES": vector_bytes, "TILE_ROWS": rows, "TILE_VECTORS": vectors}
    values["LANE_BYTES"] = vectors * vector_bytes
    values["SCRATCH_HEAD"] = 256 + rows * vectors * vector_bytes
    for module, name in product((compiled, gather, packed, registers, tile, weight), values):
        if hasattr(module, name):
            setattr(module, name, values[name])
    gather.HALF_ROWS = rows // 2
    gather.FEW_PANELS = gather.MOST_PANELS = rows // gather.FEW_ROWS
    # These helpers are made for a number of rows.
    gather.sum_of_products_along = tile.sums_of(registers.products_along(rows))
    gather.sum_of_half = tile.sums_of(registers.products_in_panels(rows // 2))
    importlib.reload(few)
    importlib.reload(depthwise)
    importlib.reload(unpacked)
    importlib.reload(planes)
    importlib.reload(tall)
    shapes = [random_shape(random.Random(seed), channels=5 + 4 * (seed % 5)) for seed in range(40)]
    for layout in ((NHWC, 1), (NCHW, 1), (NHWC, -2)):
        check_all((*shapes, *ALL_SHAPES), layout)
    for name, operator in product(FEW_OTHER_NAMES, OPERATORS):
        shape = OTHER_AXES[name]
        check_arrays(operator, shape, *operands(operator, shape), by_plain(operator, shape), orders_of(shape)[0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", [name for name, setting in CPUS.items() if setting != THIS_CPU])
def test_other_cpus(kind, tmp_path):
    """LLVM's optimisation is off, because it would double the time."""
    in_a_process("test_other_cpus", f"sweep_as_on{CPUS[kind]}", NUMBA_CACHE_DIR=str(tmp_path), NUMBA_OPT="0")
