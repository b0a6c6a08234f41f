"""Drawings: maps against brute force, numbers in figures against the counts, and the same bytes in every run."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from cks_numba import flops, plots, trace
from cks_numba.geometry import OPERATORS, Axis, ConvShape, plan
from cks_numba.plots import gallery

matplotlib.use("Agg")
SHAPES = [
    ConvShape(n=1, ih=4, iw=5, ic=1, oc=1, fh=3, fw=2, padding=1),
    ConvShape(n=1, ih=5, iw=6, ic=1, oc=1, fh=3, fw=3, stride=(2, 3), padding=((1, 2), (0, 1))),
    ConvShape(n=1, ih=5, iw=4, ic=1, oc=1, fh=2, fw=1, stride=3, dilation=(2, 1)),
]
VOLUME = ConvShape.of((1, 3, 2, 3, 1), (1, 2, 2, 3, 1), stride=(2, 1, 2), padding=((1, 0), (0, 1), (1, 1)))
EACH = pytest.mark.parametrize("operator", OPERATORS)
SHAPED = pytest.mark.parametrize("shape", SHAPES, ids=str)


def texts(figure) -> list[str]:
    return [text.get_text() for ax in figure.axes for text in ax.texts]


@SHAPED
@EACH
def test_results_with_one_letter_share_their_window(operator, shape):
    """Read the window of each result from its products."""
    numbers = plots.group_map(operator, shape)
    traced = trace.run(operator, shape, "skip_zeros")
    assert set(numbers.ravel()) == set(range(len(plan(operator, shape).groups)))
    for at, number in np.ndenumerate(numbers):
        window = np.argwhere(plots.window_map(operator, shape, number) >= 0)
        assert sorted(plots.products(traced, at, "second")[False]) == [tuple(place) for place in window.tolist()]


@SHAPED
def test_a_result_meets_only_the_taps_of_its_phase(shape):
    taps, inputs = plots.phase_maps(shape)
    assert inputs.min() >= 0
    for event in trace.run("conv2d_input", shape, "skip_zeros").events:
        assert taps[event.second.place[1:3]] == inputs[event.out[1:3]]
    assert sum(part.size for row in plots.sub_filters(shape) for part in row) == np.count_nonzero(taps >= 0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_table_of_triples_is_the_equation(shape):
    for axis in (shape.h, shape.w):
        found = plots.triple_map(axis)
        assert found.shape == (axis.outputs, axis.before + axis.size + axis.after)
        for (o, column), tap in np.ndenumerate(found):
            met = [
                f for f in range(axis.taps) if column - axis.before == o * axis.stride - axis.before + f * axis.dilation
            ]
            assert [int(tap)] == (met or [-1])


def test_triples_are_drawn_with_one_colour_for_what_is_added_up():
    axis = Axis(size=4, taps=3, stride=1, before=1, after=1, dilation=1)
    table = plots.triple_map(axis)
    for by, index in (("o", lambda o, i, f: o), ("i", lambda o, i, f: i), ("f", lambda o, i, f: f)):
        _, ax = plots.canvas(10, 7)
        plots.draw_triples(ax, axis, by, 2, 2)
        colours = {}
        for (o, column), square in zip(np.ndindex(table.shape), ax.patches, strict=False):
            if table[o, column] >= 0 and 0 <= column - 1 < 4:
                key = index(o, column - 1, int(table[o, column]))
                assert colours.setdefault(key, square.get_facecolor()) == square.get_facecolor()
        assert len(set(colours.values())) == len(colours)


def test_bars_show_all_regular_products():
    shape = ConvShape(n=1, ih=4, iw=4, ic=1, oc=1, fh=3, fw=3, stride=2, padding=1)
    counts = {operator: flops.count(operator, shape) for operator in OPERATORS}
    ax = Figure().subplots()
    plots.draw_bars(ax, counts)
    for k, count in enumerate(counts.values()):
        bars = [patch for patch in ax.patches if abs(patch.get_x() + patch.get_width() / 2 - k) < 0.01]
        assert sum(patch.get_height() for patch in bars) == count.regular


def test_shares_are_those_of_the_counts():
    ax = Figure().subplots()
    plots.draw_shares(ax, "conv2d_input", stride=2, filters=(3, 4), sizes=(2, 4))
    expected = ConvShape(n=1, ih=8, iw=8, ic=1, oc=1, fh=4, fw=4, stride=2, padding=((1, 2), (1, 2)))
    assert [line.get_label() for line in ax.lines] == ["3×3", "4×4"]
    assert ax.lines[1].get_ydata()[1] == pytest.approx(100 * flops.count("conv2d_input", expected).share("redundant"))


@SHAPED
@EACH
def test_waste_adds_up_to_the_redundant_products(operator, shape):
    wasted, done = plots.waste_map(trace.run(operator, shape, "with_zeros"))
    count = flops.count(operator, shape)
    assert (wasted.sum(), done.sum()) == (count.redundant, count.regular)


@SHAPED
@EACH
def test_explore_figure(operator, shape):
    figure, count = plots.explore_figure(operator, shape), flops.count(operator, shape)
    assert texts(figure)[0].startswith(f"{operator}: {count.regular} products, {count.useful} useful")
    groups = len(plan(operator, shape).groups)
    assert texts(figure)[1].startswith(f"{groups} group")


@EACH
@pytest.mark.parametrize("stride", [1, 2])
def test_words_of_a_small_layer_can_be_read_on_a_phone(operator, stride):
    """On a page of 390 pixels, with 350 for the picture; no word leaves the picture."""
    shape = ConvShape(n=1, ih=4, iw=4, ic=1, oc=1, fh=3, fw=3, stride=stride, padding=1)
    figure = plots.explore_figure(operator, shape)
    figure.draw_without_rendering()
    ax = figure.axes[0]
    words = [*ax.get_legend().get_texts(), *(text for text in ax.texts if len(text.get_text()) > 2)]
    assert len(words) >= 8
    for text in words:
        assert text.get_fontsize() / 72 * 350 / figure.get_figwidth() > 10, text.get_text()
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0, text.get_text()


def test_explore_figure_refuses():
    with pytest.raises(ValueError, match="at most 100000 products a channel"):
        plots.explore_figure("conv2d", ConvShape(n=1, ih=200, iw=200, ic=1, oc=1, fh=3, fw=3))
    with pytest.raises(TypeError, match="shape must be a ConvShape"):
        plots.explore_figure("conv2d", 4)
    with pytest.raises(ValueError, match="operator must be one of"):
        plots.explore_figure("conv3d", SHAPES[0])


@EACH
def test_windows_of_a_volume_add_up_to_the_theory(operator):
    theory = flops.count(operator, VOLUME)
    places = np.ndindex(VOLUME.arrays(operator)[2][1][1:-1])
    kinds = np.concatenate([plots.window_kinds(operator, VOLUME, at).ravel() for at in places])
    found = [int((kinds == kind).sum()) for kind in (plots.REAL, plots.INSERTED, plots.PADDED)]
    assert found == [theory.useful, theory.inserted, theory.padded + theory.both]


def test_zeros_of_a_volume_by_hand():
    field, slider = plots.zero_maps("conv2d", VOLUME)
    assert field.shape == (4, 3, 5) and slider.tolist() == np.zeros((2, 2, 3)).tolist()
    np.testing.assert_array_equal(field[1:, :2, 1:4], plots.REAL)
    assert np.count_nonzero(field == plots.PADDED) == field.size - 3 * 2 * 3
    cube = ConvShape.of((1, 4, 4, 4, 1), (1, 4, 4, 4, 1), stride=2, padding=1)
    field, _ = plots.zero_maps("conv2d_input", cube)
    line = np.array([plots.PADDED] * 2 + [plots.REAL, plots.INSERTED, plots.REAL] + [plots.PADDED] * 2)
    np.testing.assert_array_equal(field, np.maximum.outer(np.maximum.outer(line, line), line))


def test_a_volume_is_drawn_slice_by_slice():
    figure, ax = plots.canvas(20, 6)
    kinds = plots.window_kinds("conv2d_input", ConvShape.of((1, 4, 4, 4, 1), (1, 4, 4, 4, 1), 2, 1), (1, 1, 1))
    assert plots.draw_volume(ax, kinds, 0.5, 0.5) == (4 * 4 + 3 * 0.8, 5.1)
    faces = [square.get_facecolor() for square in ax.patches if square.get_width() == square.get_height() == 1]
    blue = matplotlib.colors.to_rgba(plots.BLUE)
    assert len(faces) == 64 and faces.count(blue) == 8
    assert texts(figure).count("0") == 56
    assert [text for text in texts(figure) if text != "0"] == ["depth 0", "depth 1", "depth 2", "depth 3"]
    for wrong in (kinds[0], kinds[:0]):
        with pytest.raises(ValueError, match="kinds must have three axes and an element, got shape"):
            plots.draw_volume(ax, wrong)


@EACH
def test_each_axis_makes_a_smaller_share_useful(operator):
    axis = Axis(size=4, taps=4, stride=2, before=1, after=1, dilation=1)
    with gallery.look():
        figure = plots.axes_figure(operator, axis, 1)
        figure.draw_without_rendering()
    useful, done = {"conv2d": (3, 4), "conv2d_input": (2, 4), "conv2d_weight": (2, 3)}[operator]
    titles = [text for text in texts(figure) if "useful" in text]
    assert titles == [
        f"{name}: {useful**n} of {done**n} products are useful"
        for n, name in enumerate(("1 axis", "2 axes", "3 axes"), 1)
    ]
    words = [*(text for text in figure.axes[0].texts if text.get_text() != "0"), *figure.axes[0].get_legend().texts]
    boxes = [text.get_window_extent() for text in words]
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 for box in boxes)
    assert not any(box.overlaps(other) for place, box in enumerate(boxes) for other in boxes[:place])


def test_drawings_of_three_axes_refuse():
    with pytest.raises(ValueError, match=r"at must be a place in a result of \(2, 2, 2\), got \(0, 0, 2\)"):
        plots.window_kinds("conv2d", VOLUME, (0, 0, 2))
    with pytest.raises(ValueError, match=r"at must be a place in a result of .*, got \(0, 0\)"):
        plots.window_kinds("conv2d", VOLUME, (0, 0))
    with pytest.raises(ValueError, match="at most 100000 products a channel"):
        plots.axes_figure("conv2d", Axis(20, 5, 1, 0, 0, 1), 0)
    with pytest.raises(ValueError, match="two spatial axes to be drawn so, got 3"):
        plots.explore_figure("conv2d", VOLUME)
    with pytest.raises(ValueError, match="two spatial axes to be drawn so, got 3"):
        plots.animate("conv2d", VOLUME, "a.gif")


@SHAPED
def test_rows_of_windows_times_taps_are_the_outputs_of_a_group(shape):
    """Multiply the matrices that `draw_product` draws, for all groups, and compare with a convolution by SciPy."""
    signal = pytest.importorskip("scipy.signal", reason="SciPy is not installed")
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((shape.ih, shape.iw)), rng.standard_normal((shape.fh, shape.fw))
    (up, down), (left, right) = shape.padding
    dh, dw = shape.dilation
    spread = np.zeros(((shape.fh - 1) * dh + 1, (shape.fw - 1) * dw + 1))
    spread[::dh, ::dw] = w
    padded = np.pad(x, ((up, down), (left, right)))
    expected = signal.correlate2d(padded, spread, "valid")[:: shape.stride[0], :: shape.stride[1]]
    y = np.full(expected.shape, np.nan)
    groups = plots.group_map("conv2d", shape)
    for number in range(groups.max() + 1):
        taps = plots.window_map("conv2d", shape, number) == number
        y[groups == number] = x.ravel()[plots.row_map(shape, number)] @ w[taps]
    np.testing.assert_allclose(y, expected, atol=1e-12)


def test_a_group_is_drawn_as_a_product_of_matrices():
    figure, ax = plots.canvas(21, 11)
    plots.draw_product(ax, ConvShape(n=1, ih=4, iw=4, ic=1, oc=1, fh=3, fw=3, padding=1), 1)
    words = [text for text in texts(figure) if text and not text.isdigit()]
    assert words == ["x", "every window a row", "\u00d7", "w", "=", "y"]
    numbers = [int(text) for text in texts(figure) if text.isdigit()]
    assert numbers[:16] == list(range(16)), "the elements of x"
    assert numbers[16:28] == [0, 1, 2, 4, 5, 6, 1, 2, 3, 5, 6, 7], "two windows at the upper edge, trimmed"
    assert numbers[28:] == [3, 4, 5, 6, 7, 8, 1, 2], "the lower two rows of taps, and the outputs 1 and 2"


def test_animation_is_stable_and_shows_every_result(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Matplotlib brings Pillow")
    shape = ConvShape(n=1, ih=2, iw=3, ic=1, oc=1, fh=2, fw=2, stride=2, padding=1)
    first, second = (plots.animate("conv2d_input", shape, tmp_path / name) for name in ("a.gif", "b.gif"))
    assert first.read_bytes() == second.read_bytes()
    with image.open(first) as gif:
        assert gif.n_frames == shape.ih * shape.iw  # the last frame is only shown longer


def test_animate_refuses(tmp_path):
    with pytest.raises(ValueError, match="path must end with .gif, got 'a.png'"):
        plots.animate("conv2d", SHAPES[0], tmp_path / "a.png")
    with pytest.raises(ValueError, match="fps must be above 0"):
        plots.animate("conv2d", SHAPES[0], tmp_path / "a.gif", fps=0)
    with pytest.raises(ValueError, match="dpi must be above 0, got 0"):
        plots.animate("conv2d", SHAPES[0], tmp_path / "a.gif", dpi=0)
    with pytest.raises(ValueError, match="at most 100 results to be animated, got 11 x 11"):
        plots.animate("conv2d", ConvShape(n=1, ih=11, iw=11, ic=1, oc=1, fh=1, fw=1), tmp_path / "a.gif")
    with pytest.raises(ValueError, match="operator must be one of"):
        plots.animate("conv3d", SHAPES[0], tmp_path / "a.gif")
    with pytest.raises(TypeError, match="shape must be a ConvShape"):
        plots.animate("conv2d", (4, 4), tmp_path / "a.gif")


def test_wasted_products_are_numbers():
    """The map of the filter gradient says how many of the products of each element are wasted."""
    with gallery.look():
        figure = gallery.load("f3_sk_dilated").draw()
    texts = [text.get_text() for text in figure.axes[0].texts]
    for number in ("21", "19", "16"):
        assert texts[texts.index(number) + 1] == "of 25"
    assert texts.count("of 25") == 9 and [texts.count(f"of {k}") for k in (4, 6, 9)] == [4, 4, 1]


@pytest.mark.parametrize("name", ["f1_conv_v2", "f2_ks_deconv", "f3_sk_dilated"])
def test_texts_of_a_figure_stay_inside_and_apart(name):
    with gallery.look():
        figure = gallery.load(name).draw()
        figure.canvas.draw()
    boxes = [text.get_window_extent() for ax in figure.axes for text in ax.texts if text.get_text() != "0"]
    for place, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
        assert not any(box.overlaps(other) for other in boxes[:place] if box.width and other.width)
