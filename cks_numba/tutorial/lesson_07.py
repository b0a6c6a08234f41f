"""Pictures and exercises of 07_train_a_network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from .. import flops, plots
from ..geometry import ConvShape
from ..plots.gallery import KINDS
from ..steps import regular
from . import small_network
from .answers import Wrong, call, shown
from .guesses import Choice, Number, Prediction
from .trying import compare, difference, no_float64, run_kernel

STYLES = (("-", 5, "#9CCBE8"), ("--", 2, plots.RED), (":", 2, "black"))  # loss curves that lie on each other
CASES = (  # exercise 07.2, with sizes that stride 2 does not divide
    ConvShape(n=2, ih=5, iw=4, ic=2, oc=3, fh=3, fw=3, stride=2, padding=1),
    ConvShape(n=1, ih=4, iw=4, ic=1, oc=2, fh=2, fw=2, stride=1, padding=0),
)


# --- pictures -------------------------------------------------------------------------------------
def draw_backward() -> Figure:
    """A layer on the way forward and on the way back, with boxes for the three operators."""
    fig, ax = plots.canvas(19, 8.6)
    for y, title in ((2.2, "forward"), (6.0, "backward")):
        plots.write(ax, 0.4, y, title, 17, weight="bold", ha="left")
    boxes = ((8.8, 1.4, "y"), (8.8, 4.6, "dx"), (8.8, 6.4, "dw"))
    for x, y, made in boxes:
        ax.add_patch(Rectangle((x, y), 4.2, 1.4, facecolor="#E8F3FA", edgecolor=plots.BLUE, linewidth=2))
        plots.write(ax, x + 2.1, y + 0.7, f"which one makes {made}?", 13)
    arrow = dict(arrowstyle="->", linewidth=2, color=plots.INK)
    for start, end, text in (
        ((3.8, 2.1), (8.7, 2.1), "x, and w"),
        ((13.1, 2.1), (16.4, 2.1), "y"),
        ((16.4, 5.3), (13.1, 5.3), "dy, and w"),
        ((16.4, 7.1), (13.1, 7.1), "dy, and x"),
        ((8.7, 5.3), (3.8, 5.3), "dx, for the layer before"),
        ((8.7, 7.1), (3.8, 7.1), "dw, for its own weights"),
    ):
        ax.annotate("", end, start, arrowprops=arrow)
        plots.write(ax, (start[0] + end[0]) / 2, start[1] - 0.4, text, 12)
    return fig


def draw_work(counted: flops.NetworkCount) -> Figure:
    """A bar for each layer and pass: multiply-adds by kind."""
    bars = [
        (f"{item.layer.name}\n{name.replace(' ', chr(10))}", count)
        for item in counted.layers
        for name, count in item.passes.items()
    ]
    fig = Figure(figsize=(10, 4.6), layout="constrained")
    ax = fig.subplots()
    for x, (_, count) in enumerate(bars):
        bottom = 0.0
        for kind, style in KINDS.items():
            value = getattr(count, kind) / 1e6
            ax.bar(x, value, bottom=bottom, width=0.75, **style)
            bottom += value
        ax.annotate(f"×{count.saved:.1f}", (x, bottom), (0, 4), textcoords="offset points", ha="center", fontsize=13)
    ax.set_xticks(range(len(bars)), [name for name, _ in bars], fontsize=11)
    ax.set_ylabel("million multiply-adds of a step", fontsize=13)
    ax.spines[["top", "right"]].set_visible(False)
    names = {"useful": "useful", "padded": "by a padded zero", "inserted": "by an inserted zero", "both": "by both"}
    handles = [Patch(label=names[kind], **style) for kind, style in KINDS.items()]
    ax.legend(handles=handles, frameon=False, fontsize=12)
    return fig


def draw_losses(curves: dict[str, list[float]]) -> Figure:
    """Loss by step; the first curve is broad, so that others that lie on it can be seen."""
    fig = Figure(figsize=(9, 4), layout="constrained")
    ax = fig.subplots()
    for (name, losses), (style, width, colour) in zip(curves.items(), STYLES, strict=False):
        ax.plot(losses, style, linewidth=width, color=colour, label=name)
    ax.set(xlabel="step", ylabel="loss", ylim=(0, None))
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="#DDDDDD")
    ax.legend(frameon=False, fontsize=13)
    return fig


# --- exercises ------------------------------------------------------------------------------------
def makes(answer: Any) -> str:
    expected = {"y": "conv2d", "dx": "conv2d_input", "dw": "conv2d_weight"}
    given, answer = answer, _by_result(answer)
    if not isinstance(answer, dict) or set(answer) != set(expected):
        raise Wrong(f'Answer with a dict that has just the keys "y", "dx" and "dw". Yours is {shown(given)}.')
    strange = [value for value in answer.values() if value not in expected.values()]
    if strange:
        raise Wrong(f"{shown(strange[0])} is none of the three names: they are {', '.join(expected.values())}.")
    wrong = [key for key in expected if answer[key] != expected[key]]
    if not wrong:
        return (
            "One operator for each result. All go over the same triples; they differ in which index is left standing."
        )
    if answer["dx"] == expected["dw"] and answer["dw"] == expected["dx"]:
        raise Wrong("dx has the shape of the input, dw that of the filter: look at the names once more.")
    key = wrong[0]
    shape = {"y": "the output", "dx": "the input", "dw": "the filter (its weights)"}[key]
    raise Wrong(f"{answer[key]} does not make {key}. {key} has the shape of {shape}: which of the three makes that?")


def _by_result(answer: Any) -> Any:
    """The names of the operators by what they make, also if functions are given, pairs, or a dict turned around."""
    if isinstance(answer, (list, tuple)) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in answer):
        answer = dict(answer)
    if not isinstance(answer, dict):
        return answer
    if set(answer.values()) == {"y", "dx", "dw"}:
        answer = {made: operator for operator, made in answer.items()}
    return {made: str(getattr(name, "__name__", name)).removeprefix("cks_numba.") for made, name in answer.items()}


def my_backward(answer: Any) -> str:
    rng = np.random.default_rng(7)
    for shape in CASES:
        sizes = shape.x_shape, shape.w_shape, shape.y_shape
        x, w, dy = (rng.standard_normal(size).astype(np.float32) for size in sizes)
        got = call(answer, x, w, dy, shape.stride[0], shape.padding[0][0])
        if not isinstance(got, (tuple, list)) or len(got) != 3:
            raise Wrong("Return three arrays: dx, dw, db.")
        expected = regular.conv2d_input(w, dy, shape), regular.conv2d_weight(x, dy, shape), dy.sum(axis=(0, 1, 2))
        where = f"stride {shape.stride[0]}, padding {shape.padding[0][0]}, x {sizes[0]}, w {sizes[1]}, dy {sizes[2]}"
        plain = _without_options(x, w, dy, shape)
        for name, one, wanted, other in zip(("dx", "dw", "db"), got, expected, plain, strict=True):
            _compare_gradient(name, one, wanted, other, dy, where)
    return "All three agree with the regular way. These few lines are what `loss.backward()` does for a convolution."


def _without_options(x: Any, w: Any, dy: Any, shape: ConvShape) -> tuple[Any, Any, Any]:
    """The gradients with stride 1 and padding 0; NaN where those do not fit the shapes."""
    sizes = dict(n=shape.n, ih=shape.ih, iw=shape.iw, ic=shape.ic, oc=shape.oc, fh=shape.fh, fw=shape.fw)
    plain = ConvShape(**sizes)
    if plain.y_shape != shape.y_shape:
        return np.nan, np.nan, np.nan
    return regular.conv2d_input(w, dy, plain), regular.conv2d_weight(x, dy, plain), np.nan


def _compare_gradient(name: str, value: Any, wanted: Any, plain: Any, dy: Any, where: str) -> None:
    try:
        got = np.asarray(value, float)
    except (TypeError, ValueError):
        raise Wrong(f"{name} should be an array, but it is {shown(value)}.") from None
    if got.shape != wanted.shape:
        raise Wrong(
            f"With {where}: {name} should have the shape {wanted.shape}, and has {got.shape}. {_axes(name, got, dy)}"
        )
    images, positions = dy.shape[0], dy[0, ..., 0].size
    hints = {
        f"{name} is that of stride 1 and padding 0: pass stride and padding on.": plain,
        f"{name} has the wrong sign.": -wanted,
        f"{name} is the sum over all positions and images, and not the mean.": wanted / (images * positions),
        f"{name} is the sum over the images, and not their mean.": wanted / images,
        f"{name} is still 0.": np.zeros_like(wanted),
        f"{name} is twice what it should be.": 2 * wanted,
    }
    if name == "db":
        hints["db is the sum over all images; yours is that of the first one."] = dy[0].sum(axis=(0, 1))
    cause = next((text for text, array in hints.items() if np.allclose(got, array, rtol=1e-4, atol=1e-5)), "")
    if name == "dw" and not cause and np.allclose(got, wanted[:, ::-1, ::-1], rtol=1e-4, atol=1e-5):
        cause = "dw is turned around."
    if not np.allclose(got, wanted, rtol=1e-4, atol=1e-5):
        raise Wrong(f"With {where}:\n{difference(got, wanted, name)}\n{cause}".rstrip())


def _axes(name: str, got: Any, dy: Any) -> str:
    """What the shape of a gradient tells."""
    if name == "db" and got.shape == ():
        return "db needs a number for each output channel: sum dy over images, rows and columns only."
    if name == "db":
        return "A number for each output channel: sum dy over the axes (0, 1, 2)."
    return "A gradient has the shape of its array: dx that of x, dw that of w."


def factor_without_stride(answer: Any) -> str:
    if isinstance(answer, bool) or not isinstance(answer, (int, float, np.number)):
        raise Wrong(f"This should be a number, but it is {shown(answer)}. A count has .saved.")
    value, with_stride = float(answer), _layer(2).saved
    right = _layer(1).saved
    if np.isclose(value, right, rtol=0.01):
        return (
            f"{right:.4g}, against {with_stride:.4g} with stride 2: without a stride only the border can be skipped. "
            "(But the layer then does four times as many useful multiply-adds, as it makes four times as many results.)"
        )
    helps = {
        with_stride: "That is with stride 2, where zeros are inserted. What is left with stride 1?",
        1 / right: "That is useful over regular. Turn it over.",
        1.0: "Nothing is inserted, but dy is still padded: some of the 9 taps miss the map at its border.",
        1 - 1 / right: "That is the share that is wasted. By which factor are there more multiply-adds?",
        100
        * (
            1 - 1 / right
        ): "That is the share that is wasted, in percent. By which factor are there more multiply-adds?",
        4.0: "4 is the factor of the inserted zeros of stride 2 on a large map, and that of this layer without "
        "padding. Here nothing is inserted, and the padding is 1.",
        9.0: "That is the number of taps. How many of the 9 meet the map, on average?",
        2.25: "That is a map of 2 x 2. With stride 1 this layer has a map of 4 x 4.",
        16 * 9.0: "That is the number of products the regular way. Divide by the useful ones.",
        100.0: "That is the number of useful products. Divide the regular ones by it.",
    }
    for other, text in helps.items():
        if np.isclose(value, other, rtol=0.01):
            raise Wrong(text)
    raise Wrong(
        f"Yours is {value:g}. A 4x4 map, a 3x3 filter, padding 1: 16 results times 9 taps the regular way. How many of "
        "these products meet the map?"
    )


def _layer(stride: int) -> flops.Count:
    shape = ConvShape(n=64, ih=4, iw=4, ic=16, oc=32, fh=3, fw=3, stride=stride, padding=1)
    return flops.count("conv2d_input", shape)


def my_step(answer: Any) -> str:
    rng, rate, momentum = np.random.default_rng(7), np.float32(0.25), np.float32(0.625)
    w, v, dw = (rng.standard_normal(10).astype(np.float32) for _ in range(3))
    new_v = momentum * v + dw
    got_w, got_v, got_dw = w.copy(), v.copy(), dw.copy()
    where = "10 weights, 3 blocks of 4 threads"
    result = run_kernel(answer, 3, 4, (got_w, got_v, got_dw, rate, momentum), None, where)
    compare(got_v, new_v, {
        "v is still what it was: write it back.": v,
        "v holds momentum * v, without dw.": momentum * v,
        "v holds dw alone: what it held before should count, too.": dw,
        "v holds v + dw: momentum is missing.": v + dw,
        "momentum belongs to v, and not to dw.": v + momentum * dw,
        "dw counts in full: v = momentum * v + dw, without 1 - momentum.": momentum * v + (1 - momentum) * dw,
        "The rate belongs to the step of w, and not to v.": momentum * v + rate * dw,
        "dw is added to v as it is: the rate and the minus belong to the step of w.": momentum * v - rate * dw,
        "v goes the wrong way: dw is added to it.": momentum * v - dw,
        "momentum is an argument of the kernel, and not always 0.9.": 0.9 * v + dw,
        "rate and momentum have changed places.": rate * v + dw,
        "v counts once more than it should: is there a += where = belongs?": v + momentum * v + dw,
        "Only the first block has done something: which weight is that of a thread of another block?": _first(new_v, v),
        "The last weight is left out.": np.append(new_v[:-1], v[-1]),
    }, where, "v")  # fmt: skip
    compare(got_w, w - rate * new_v, {
        "w is still what it was.": w,
        "w went the wrong way: the loss falls against the gradient.": w + rate * new_v,
        "w was changed with the old v: change v first.": w - rate * v,
        "w was changed by rate * dw: momentum has no effect.": w - rate * dw,
        "The rate is missing: w = w - rate * v.": w - new_v,
        "w lost its old value: w = w - rate * v.": -rate * new_v,
        "momentum is in v already: w = w - rate * v.": w - rate * momentum * new_v,
    }, where, "w")  # fmt: skip
    if not np.array_equal(got_dw, dw):
        raise Wrong("w and v are right, but your kernel changes dw, too.")
    if all(cost.lanes == cost.warps for cost in result.costs if cost.site.action == "write"):
        raise Wrong(
            "The results are right. But a single thread of a block works, and changes one weight after the other: each "
            "weight has a thread of its own, i = cuda.grid(1)."
        )
    no_float64(result)
    return "Three reads, two writes and two multiply-adds for each weight: it waits for memory, not for the sums."


def _first(changed: Any, old: Any) -> Any:
    return np.append(changed[:4], old[4:])


# --- predictions ----------------------------------------------------------------------------------
def _curves() -> str:
    """How the loss curves of the skipping and the regular way differ, in a short training on noise."""
    rng = np.random.default_rng(0)
    images, labels = rng.random((512, 8, 8, 1), dtype=np.float32), rng.integers(0, 10, 512)
    skipping, regularly = (
        np.array(small_network.train(small_network.Network(ops, seed=0), images, labels, epochs=1, seed=0))
        for ops in (small_network.Skipping, small_network.Regular)
    )
    gap = (skipping - regularly)[-1]
    return "on each other" if abs(gap) < 1e-4 else "skipping lower" if gap < 0 else "skipping higher"


PREDICTIONS: dict[str, Prediction] = {
    "07.a": Number(
        lambda: flops.network(small_network.layers(batch=64)).total.saved,
        "It is {answer:.2f} times, over all layers and passes.",
        low="In the last layer no window has more than four of nine taps on the map, in all three passes.",
        high="Only the gradients of layers with a stride have inserted zeros. In all other passes it is padding alone.",
        thoughts={
            9 / 4: "That is the last layer. The two others have a stride, so their gradients have inserted zeros.",
            4: "The stride squared fits the gradients of a layer with a stride, and no forward pass.",
            1: "That would be a network without padding and without a stride.",
            1.44: "That is a forward pass with padding on a small map. More of the gradients is wasted.",
        },
        within=0.12,
        near=0.5,
    ),
    "07.b": Choice(
        ("on each other", "skipping lower", "skipping higher"),
        _curves,
        "They lie {answer}. A product with an added zero adds 0 to a sum, so leaving it out changes nothing. They "
        "differ only because float32 rounds differently when a sum is taken in another order, and training lets such "
        "differences grow a little.",
        {
            "skipping lower": "Skipping leaves out work, and no information: the sums are the same.",
            "skipping higher": "What is left out is zero, so nothing is missing from the sums.",
        },
    ),
}
EXERCISES: dict[str, Callable[[Any], str]] = {
    "07.1": makes,
    "07.2": my_backward,
    "07.3": factor_without_stride,
    "07.4": my_step,
}
HINTS = {
    "07.1": (
        "Their names say whose shape the result has.",
        "dx has the shape of the input, dw that of the weights.",
        'y is made by "conv2d", dx by "conv2d_input".',
    ),
    "07.2": (
        "Two of the three are operators of this course, with stride and padding passed on.",
        "dx is made from w and dy, dw from x and dy. Each needs the shape of its result.",
        "conv2d_input(x.shape, w, dy, stride=stride, padding=padding); conv2d_weight(x, w.shape, dy, stride=stride, "
        "padding=padding); dy.sum(axis=(0, 1, 2)).",
    ),
    "07.3": (
        "The layer is n=64, ih=4, iw=4, ic=16, oc=32, fh=3, fw=3 with padding 1: only its stride is another one.",
        'flops.count("conv2d_input", layer) has .regular, .useful and .saved.',
        "On each axis 12 products become 10. So it is (12 / 10) squared.",
    ),
    "07.4": (
        "One thread for each weight: index = cuda.grid(1), and spare threads stop.",
        "First v[index], from its old value and dw[index]. Then w[index], from the new v[index].",
        "v[index] = momentum * v[index] + dw[index], then w[index] -= rate * v[index].",
    ),
}
