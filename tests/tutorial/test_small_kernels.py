"""Pictures of 01b, 04b and 04c: what they show is what the traced kernels did."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from numba import cuda

from cks_numba.emulator import check_kernel
from cks_numba.tutorial import lesson_01b, lesson_04b, lesson_04c, small_kernels
from cks_numba.tutorial.trying import UNTOUCHED


@cuda.jit
def scattering(x, out):
    i = cuda.grid(1)
    if i < x.size:
        for o in range(max(0, i - 1), min(out.size, i + 2)):
            out[o] += x[i]


def texts(figure):
    return {text.get_text() for text in figure.axes[0].texts}


def test_scatter_and_gather_move_the_same_numbers_by_other_threads():
    scatter, gather = (lesson_01b.moves(kernel, 6) for kernel in (scattering, small_kernels.gathering))
    assert {move[1:] for move in scatter} == {move[1:] for move in gather}
    assert all(thread == i for thread, i, _ in scatter) and all(thread == o for thread, _, o in gather)
    drawn = texts(lesson_01b.draw_moves(6, scatter=scattering, gather=small_kernels.gathering))
    assert {"up to 3 threads write one element of out", "each element of out has one writer"} <= drawn


@pytest.mark.parametrize(
    ("kernel", "sectors"), [(small_kernels.down_a_column, 32), (small_kernels.along_a_row, 4)], ids=["down", "along"]
)
def test_the_sectors_drawn_are_those_that_the_emulator_counts(kernel, sectors):
    size = lesson_01b.SIDE
    arrays = np.ones((size, size), np.float32), np.ones(size, np.float32), np.ones((size, size), np.float32)
    result = check_kernel(kernel, (1, size), (size, 1), *arrays)
    (written,) = (cost for cost in result.costs if cost.site.action == "write")
    assert written.units / written.warps == sectors
    assert lesson_01b.in_sectors(lesson_01b.read_by_a_warp(kernel)).sum() == sectors
    assert f"{sectors} sectors for 32 numbers" in lesson_01b.draw_warp(one=kernel, two=kernel).axes[0].get_title()


def test_a_tile_is_read_once_or_by_every_thread():
    plain, tiled = (
        lesson_04b.reads_of_block(kernel, (8, 8, 8), (1, 0))
        for kernel in (small_kernels.plain_product, small_kernels.tiled_product)
    )
    assert set(plain) == set(tiled) and set(plain.values()) == {4} and set(tiled.values()) == {1}
    assert sum(plain.values()) == 256 and sum(tiled.values()) == 64


def test_both_products_are_right():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, (8, 12)).astype(np.float32), rng.integers(0, 9, (12, 4)).astype(np.float32)
    for kernel in (small_kernels.plain_product, small_kernels.tiled_product):
        c = np.full((8, 4), UNTOUCHED, np.float32)
        assert not check_kernel(kernel, (1, 2), (4, 4), a, b, c).faults
        assert (c == a @ b).all()


def test_the_groups_of_a_table_hold_every_output_and_tap_once():
    for axis in lesson_04c.AXES:
        table = lesson_04c.table_of(axis)
        found = [(o, f) for first, count, lo, hi in table for o in range(first, first + count) for f in range(lo, hi)]
        every = [(o, f) for o in range(axis.outputs) for f in range(axis.taps) if 0 <= o - axis.before + f < axis.size]
        assert sorted(found) == every


@pytest.mark.parametrize(
    "draw",
    [
        lambda: lesson_01b.draw_owners(np.arange(12) // 4, np.arange(12) % 4),
        lambda: lesson_01b.draw_owners(np.zeros((2, 3), int), np.ones((2, 3, 2), int)),
        lambda: lesson_01b.draw_moves(7, scatter=scattering, gather=small_kernels.gathering),
        lambda: lesson_04b.draw_barrier(8),
        lambda: lesson_04b.draw_reads((1, 0), plain=small_kernels.plain_product, by_tiles=small_kernels.tiled_product),
        lambda: lesson_04c.draw_rounds(lesson_04c.AXES[1], lesson_04c.table_of(lesson_04c.AXES[1])),
    ],
    ids=["owners", "owners of a map", "moves", "barrier", "reads", "rounds"],
)
def test_all_words_lie_inside_the_picture(draw):
    figure = draw()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    wide, high = canvas.get_width_height()
    for text in figure.axes[0].texts:
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= wide and box.y1 <= high, text.get_text()
