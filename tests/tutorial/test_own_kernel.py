"""Pictures of a learner's own kernel: what they say is what the kernel does, and only a right one is shown."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace

import answers
import numpy as np
import pytest
from answers import lesson_05
from matplotlib.backends.backend_agg import FigureCanvasAgg
from numba import cuda

from cks_numba.tutorial import check, checking, look, own_kernel, solved
from cks_numba.tutorial.small_kernels import TILE

LESSONS = ("02", "03", "04", "04b", "04c", "05", "06")
for number in LESSONS:
    import_module(f"answers.lesson_{number}")
SUBJECTS = {
    name: subject
    for number in LESSONS
    for name, subject in import_module(f"cks_numba.tutorial.lesson_{number}").LOOKS.items()
}
every_right = pytest.mark.parametrize(
    ("name", "kernel"),
    [pytest.param(name, one, id=f"{name}-{one.__name__}") for name in SUBJECTS for one in answers.RIGHT[name]],
)


@pytest.fixture(autouse=True)
def nothing_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(solved, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(checking, "_right", {})


@pytest.fixture
def shown(monkeypatch):
    found = []
    monkeypatch.setattr(checking, "show", lambda figure, alt: found.append(SimpleNamespace(figure=figure, alt=alt)))
    return found


@cuda.jit
def filter_in_shared_memory(x, w, y, stride, padding):
    ws = cuda.shared.array((4, 4), np.float32)
    for k in range(cuda.threadIdx.x, w.size, cuda.blockDim.x):
        ws[k // w.shape[1], k % w.shape[1]] = w[k // w.shape[1], k % w.shape[1]]
    cuda.syncthreads()
    index = cuda.grid(1)
    if index >= y.size:
        return
    oh, ow = index // y.shape[1], index % y.shape[1]
    acc = y.dtype.type(0)
    for fh in range(w.shape[0]):
        for fw in range(w.shape[1]):
            ih, iw = oh * stride - padding + fh, ow * stride - padding + fw
            if 0 <= ih < x.shape[0] and 0 <= iw < x.shape[1]:
                acc += x[ih, iw] * ws[fh, fw]
    y[oh, ow] = acc


@cuda.jit
def with_an_instruction(a, b, c):
    column, row = cuda.grid(2)
    y, x = cuda.threadIdx.y, cuda.threadIdx.x
    a_tile, b_tile = cuda.shared.array((TILE, TILE), np.float32), cuda.shared.array((TILE, TILE), np.float32)
    acc = c.dtype.type(0)
    for first in range(0, a.shape[1], TILE):
        a_tile[y, x], b_tile[y, x] = a[row, first + x], b[first + y, column]
        cuda.syncthreads()
        for k in range(TILE):
            acc += cuda.selp(k < TILE, a_tile[y, k], b_tile[k, x]) * b_tile[k, x]
        cuda.syncthreads()
    c[row, column] = acc


@cuda.jit
def by_one_thread(x, w, y, stride, padding):
    if cuda.grid(1) == 0:
        for o in range(y.size):
            acc = y.dtype.type(0)
            for f in range(w.size):
                acc += x[o * stride - padding + f] * w[f] if 0 <= o * stride - padding + f < x.size else 0
            y[o] = acc


@every_right
def test_what_a_right_kernel_does(name, kernel):
    subject = SUBJECTS[name]
    seen = own_kernel.see(kernel, subject.tiny, subject.names)
    products = {index: len(pairs) for index, pairs in subject.tiny.terms.items()}
    assert {index: int(seen.done[index]) for index in products} == products
    assert seen.wasted.sum() == seen.lost == 0 and set(seen.writers) == set(np.ndindex(*subject.tiny.sizes[2]))
    for index, who in seen.writers.items():
        depth = 1 if name.startswith(("04b", "05")) else 2  # there, what one thread has read, all of the block use
        read = {(element.array, element.place) for reader, element in seen.reads if reader[:depth] == who[:depth]}
        for first, second in subject.tiny.terms.get(index, ()):
            assert {(subject.names[0], first), (subject.names[1], second)} <= read


@every_right
def test_the_picture_of_a_right_kernel(name, kernel):
    found = own_kernel.picture(SUBJECTS[name], kernel)
    assert found.score.startswith("Your kernel reads ") and "To beat: `shared`" in found.score
    drawn = {text.get_text() for text in found.figure.axes[0].texts}
    assert f"Your kernel {kernel.__name__}" in drawn and any(text.startswith("global read: ") for text in drawn)
    assert len(found.alt) > 100 and "Yours: 0 of " in found.alt


@pytest.mark.parametrize(
    ("name", "best"), [("02.4", 0.25), ("03.4", 0.29), ("04.4", 0.25), ("05.4", 0.25), ("06.4", 0.25)]
)
def test_the_kernel_to_beat(name, best):
    """Two tiles of 8 x 8 for 8 x 8 x 8 products; KS-deconv also reads a table of where the phases begin."""
    assert own_kernel.reads_to_beat(SUBJECTS[name].operator, SUBJECTS[name].layer) == pytest.approx(best, abs=0.005)


def test_a_score_is_counted():
    plain, clever = lesson_05.with_the_device_function, filter_in_shared_memory
    scores = [own_kernel.picture(SUBJECTS["05.4"], kernel).score for kernel in (plain, clever)]
    blocks, products = 4, sum(map(len, SUBJECTS["05.4"].large.terms.values()))
    assert "reads 2.00 numbers" in scores[0]
    assert f"reads {1 + 9 * blocks / products:.2f} numbers" in scores[1]


def test_bank_conflicts_and_sectors_stand_beside_their_lines():
    figure = own_kernel.picture(SUBJECTS["05.4"], filter_in_shared_memory).figure
    texts = [text.get_text() for text in figure.axes[0].texts]
    line = texts.index("acc += x[ih, iw] * ws[fh, fw]")
    assert {text.split(":")[0] for text in texts[line + 1 : line + 3]} == {"global read", "shared read"}


@cuda.jit
def a_kernel_whose_name_is_longer_than_anybody_would_write_it(x, w, y, stride, padding):
    row_of_results, column_of_results = cuda.grid(1) // y.shape[1], cuda.grid(1) % y.shape[1]
    if row_of_results < y.shape[0]:
        total = y.dtype.type(0)
        for f in range(w.shape[0]):
            for g in range(w.shape[1]):
                ih, iw = row_of_results * stride - padding + f, column_of_results * stride - padding + g
                if 0 <= ih < x.shape[0] and 0 <= iw < x.shape[1]:
                    total += (
                        x[row_of_results * stride - padding + f, column_of_results * stride - padding + g] * w[f, g]
                    )
        y[row_of_results, column_of_results] = total


@pytest.mark.parametrize("kernel", [filter_in_shared_memory, a_kernel_whose_name_is_longer_than_anybody_would_write_it])
def test_all_words_lie_inside_the_picture(kernel):
    figure = own_kernel.picture(SUBJECTS["05.4"], kernel).figure
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    wide, high = canvas.get_width_height()
    for text in figure.axes[0].texts:
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= wide and box.y1 <= high, text.get_text()


def test_waste_is_counted():
    """Two products more in each result, also where one of them belongs, and a product that goes nowhere."""

    @cuda.jit
    def wasteful(x, w, y, stride, padding):
        o = cuda.grid(1)
        if o < y.size:
            acc = y.dtype.type(0)
            for f in range(max(0, padding - o), min(w.size, x.size + padding - o)):
                acc += x[o - padding + f] * w[f]
            y[o] = acc + x[0] * w[0] + x[0] * w[0]
            x[0] * w[1]

    subject = SUBJECTS["02.4"]
    seen = own_kernel.see(wasteful, subject.tiny, subject.names)
    assert seen.wasted.tolist() == [2] * 6 and seen.lost == 6


def test_the_watched_thread_can_be_chosen():
    kernel, subject = lesson_05.with_the_device_function, SUBJECTS["05.4"]
    assert "reads elements: 4 of x, 4 of w" in own_kernel.picture(subject, kernel).alt
    assert "The thread of y[1, 2] reads elements: 9 of x, 9 of w" in own_kernel.picture(subject, kernel, (1, 2)).alt
    assert "The thread of y[3] reads" in own_kernel.picture(SUBJECTS["02.4"], answers.RIGHT["02.4"][0], 3).alt


@pytest.mark.parametrize("at", [(4, 0), (-1, 0), (1,), 1, "x", (0.5, 1)])
def test_a_result_that_does_not_exist(at):
    with pytest.raises(ValueError, match=r"at must be the index of one of the results, whose shape is \(4, 4\)"):
        own_kernel.picture(SUBJECTS["05.4"], answers.RIGHT["05.4"][0], at)


def test_a_source_that_cannot_be_traced_still_has_a_score(capsys, shown):
    check("04b.4", with_an_instruction)
    look("04b.4", with_an_instruction)
    printed = capsys.readouterr().out
    assert "Your kernel reads 0.50 numbers for each product" in printed and "cannot follow your source" in printed
    assert "sectors" in printed and not shown


@pytest.mark.parametrize("answer", [..., None, by_one_thread, 3])
def test_only_a_right_kernel_is_shown(answer, capsys, shown):
    check("02.4", answer)
    capsys.readouterr()
    look("02.4", answer)
    assert capsys.readouterr().out == 'First make check("02.4", ...) pass. Then this cell draws your kernel.\n'
    assert not shown


def test_a_changed_kernel_must_be_checked_again(capsys, shown):
    first, second = answers.RIGHT["02.4"][:2]
    check("02.4", first)
    look("02.4", second)
    assert "First make check" in capsys.readouterr().out and not shown
    look("02.4", first)
    assert "Your kernel reads" in capsys.readouterr().out and len(shown) == 1


@pytest.mark.parametrize("name", ["02.1", "00.1", "02.9", "77.1"])
def test_exercises_without_a_kernel(name):
    with pytest.raises(ValueError, match="exercise must be"):
        look(name, by_one_thread)
