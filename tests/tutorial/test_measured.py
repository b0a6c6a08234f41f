"""What lesson 06 counts in the emulator, measures on a CPU, and reads of a GPU."""

from __future__ import annotations

from dataclasses import replace

import numba
import numpy as np
import pytest

from cks_numba import flops, kernels
from cks_numba.bench import results, timing
from cks_numba.bench.cases import Case
from cks_numba.tutorial import ladder, lesson_06, this_cpu


# --- the ladder -------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def works():
    return {work.rung: work for work in ladder.count_rungs()}


def test_the_first_rungs_load_two_numbers_for_each_multiply_add(works):
    count = flops.count("conv2d", ladder.LAYER)
    assert works["skip_zeros"].loads == pytest.approx(2)
    assert works["with_zeros"].loads == pytest.approx(2 * count.regular / count.useful, rel=0.01)  # and x, to pad it
    assert works["with_zeros"].wasted == pytest.approx(100 * count.share("redundant"))


def test_the_sectors_of_skip_zeros(works):
    """A warp makes 32 output channels: one element of x, and 32 weights that lie far apart."""
    assert works["skip_zeros"].sectors == pytest.approx(1 + 32)


def test_shared_has_room_for_eight_images(works):
    """Both tiles have 8 x 8 elements for at most 8 x 8 x 8 multiply-adds, of which half the images do not exist."""
    assert works["shared"].wasted == pytest.approx(50)
    assert works["shared"].loads == pytest.approx(2 + (4 + 8) * 8 / (4 * 8 * 8))
    assert works["shared"].barriers == pytest.approx(2 * 2 / (4 * 8 * 8 / 32))  # two barriers of two warps


def test_registers_and_vectors_save_loads(works):
    """One term of 8 x 8 results reads 8 + 8 numbers; with loads of four and 8 x 4 results that is 2 + 1 loads."""
    assert 16 / 64 < works["register_tile"].loads < 2 * 16 / 64
    assert 3 / 32 < works["tiled"].loads < 2 * 3 / 32
    assert works["tiled"].loads < works["register_tile"].loads < works["skip_zeros"].loads < works["grouped"].loads


def test_no_rung_has_bank_conflicts(works):
    assert {work.conflicts for work in works.values()} == {0, 1}


def test_every_rung_is_drawn(works):
    figure = ladder.draw_ladder(tuple(works.values()))
    texts = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert len(texts) == len(ladder.COUNTS) * len(kernels.SIMULATED_RUNGS)
    assert [label.get_text().splitlines()[0] for label in figure.axes[0].get_yticklabels()] == list(
        kernels.SIMULATED_RUNGS
    )


def test_a_tile_of_a_thread():
    """A block of 16 x 16 threads; loads of four, where the tile allows; chunks of 8 terms in two buffers."""
    _, said = lesson_06.draw_tile("8 x 8")
    numbers = (2 * 128 * 128 / (256 * 4), 64 / 4, 64 + 16, 2 * 8 * 256 * 4 / 1024, 3)
    assert [float(part.split()[-1]) for part in said.removesuffix(".").split(";")] == list(numbers)
    with pytest.raises(ValueError, match="256 sums and 32 operands are more than the 255 registers"):
        lesson_06.draw_tile("16 x 16")


# --- this CPU ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize(
    ("operator", "make"), [("conv2d", this_cpu._forward), ("conv2d_input", this_cpu._input_gradient)]
)
def test_both_ways_give_the_same(operator, make, size):
    skipping, regular = make(this_cpu.layer(operator, size, 3))
    np.testing.assert_array_equal(skipping(), regular())


def test_operations_per_byte(monkeypatch):
    monkeypatch.setattr(timing, "CLEAN", 1e9)  # this machine may be busy
    before = numba.get_num_threads()
    roof = this_cpu.measure_roof(images=(1, 2), channels=64, rounds=1)
    assert numba.get_num_threads() == before
    assert roof.ridge > 0
    moved = 4 * (64 * 64 + 2 * 2 * 64)
    assert roof.layers[2][0] == pytest.approx(2 * 2 * 64 * 64 / moved)
    assert roof.layers[1][2] == 1
    assert all(share > 0 for _, share, _ in roof.layers.values())
    labels = [text.get_text() for text in this_cpu.draw_roof(roof).axes[0].texts]
    assert labels[:2] == ["1", "2"]


def test_what_is_compared_is_counted(monkeypatch):
    monkeypatch.setattr(timing, "CLEAN", 1e9)
    saved = this_cpu.measure_saved(maps=(2, 3), channels=4, rounds=1)
    assert [one[:2] for one in saved] == [(name, size) for name in ("conv2d", "conv2d_input") for size in (2, 3)]
    assert saved[0].work == 36 / 16  # all nine taps of four outputs, and those that lie on x
    assert saved[2].work == 5.76
    assert all(one.time > 0 for one in saved)
    assert len(this_cpu.draw_saved(saved).axes) == 2


def test_the_probe_knows_its_operations():
    probe = timing.Probe(1)
    probe.numbers[:] = 1
    timing.start(timing.multiply_adds, probe.numbers.dtype, 1, probe.sizes, rows=probe.rows, numbers=probe.numbers)
    assert probe.operations == 2 * probe.numbers[:, :, : timing.LANE_BYTES // 4].sum(dtype=np.float64)


# --- a GPU ------------------------------------------------------------------------------------------
def test_rates_of_a_gpu(tmp_path):
    assert lesson_06.gpu_rates(tmp_path) == {}
    case = Case("test", "conv2d", ladder.LAYER)
    names = {results.OURS: 1, results.REGULAR: 8, **dict.fromkeys(kernels.SIMULATED_RUNGS[1:-1], 4), results.PEER: 2}
    rows = [replace(results.row_of(case, name, "NHWC", [ms / 1e3]), device="a GPU") for name, ms in names.items()]
    results.write(rows, tmp_path / "gpu_test.csv")
    (rates,) = lesson_06.gpu_rates(tmp_path).values()
    assert list(rates) == list(kernels.SIMULATED_RUNGS)
    assert rates["with_zeros"] == 1 and rates["tiled"] == pytest.approx(8, rel=1e-3)
    results.write(rows[1:], tmp_path / "gpu_test.csv")  # a rung is missing
    assert lesson_06.gpu_rates(tmp_path) == {}
