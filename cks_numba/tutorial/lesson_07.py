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
from .answers import Open, Wrong, call
from .trying import compare, run_kernel

STYLES = (("-", 5, "#9CCBE8"), ("--", 2, plots.RED), (":", 2, "black"))  # loss curves that lie on each other
CASES = (  # exercise 07.3, with sizes that stride 2 does not divide
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
    if answer == {...}:
        raise Open
    expected = {"y": "conv2d", "dx": "conv2d_input", "dw": "conv2d_weight"}
    if not isinstance(answer, dict) or set(answer) != set(expected):
        raise Wrong('Answer with a dict that has the keys "y", "dx" and "dw".')
    wrong = [key for key in expected if answer[key] != expected[key]]
    if not wrong:
        return "One operator a result. Each adds up the same products; they differ in which index is left standing."
    if answer["dx"] == expected["dw"] and answer["dw"] == expected["dx"]:
        raise Wrong("dx has the shape of the input, dw that of the filter: look at the names once more.")
    raise Wrong(f'Which of the three has a result of the shape of {wrong[0].removeprefix("d")}? Look at "{wrong[0]}".')


def factor_without_stride(answer: Any) -> str:
    value, with_stride = float(answer), _layer(2).saved
    right = _layer(1).saved
    if np.isclose(value, right, rtol=0.01):
        return (
            f"{right:.4g}, against {with_stride:.4g} with stride 2: without a stride only the border can be skipped. "
            "(But the layer then does four times as many useful multiply-adds, as it makes four times as many results.)"
        )
    if np.isclose(value, with_stride, rtol=0.01):
        raise Wrong("That is with stride 2, where zeros are inserted. What is left with stride 1?")
    if np.isclose(value, 1 / right, rtol=0.01):
        raise Wrong("That is useful over regular. Turn it over.")
    if np.isclose(value, 1):
        raise Wrong("Nothing is inserted, but dy is still padded: how many of the 16 inputs lie at the border?")
    raise Wrong("A 4x4 map, a 3x3 filter, padding 1: 16 results times 9 taps the regular way. How many meet the map?")


def _layer(stride: int) -> flops.Count:
    shape = ConvShape(n=64, ih=4, iw=4, ic=16, oc=32, fh=3, fw=3, stride=stride, padding=1)
    return flops.count("conv2d_input", shape)


def my_backward(answer: Any) -> str:
    rng = np.random.default_rng(7)
    for shape in CASES:
        sizes = shape.x_shape, shape.w_shape, shape.y_shape
        x, w, dy = (rng.standard_normal(size).astype(np.float32) for size in sizes)
        got = call(answer, x, w, dy, shape.stride[0], shape.padding[0][0])
        if not isinstance(got, tuple) or len(got) != 3:
            raise Wrong("Return three arrays: dx, dw, db.")
        expected = regular.conv2d_input(w, dy, shape), regular.conv2d_weight(x, dy, shape), dy.sum(axis=(0, 1, 2))
        for name, one, wanted in zip(("dx", "dw", "db"), got, expected, strict=True):
            _compare_gradient(name, np.asarray(one), wanted, dy)
    return "All three agree with the regular way. These few lines are what `loss.backward()` does for a convolution."


def _compare_gradient(name: str, got: Any, wanted: Any, dy: Any) -> None:
    if name == "db" and got.shape == () and np.isclose(got, dy.sum(), rtol=1e-4):
        raise Wrong("db needs a number for each output channel: sum dy over images, rows and columns only.")
    if name == "db" and got.shape == wanted.shape and np.allclose(got * dy[..., 0].size, wanted, rtol=1e-4):
        raise Wrong("db is the sum over all positions, and not the mean.")
    if got.shape != wanted.shape:
        raise Wrong(f"{name} should have the shape {wanted.shape}, and has {got.shape}: a gradient is like its array.")
    try:
        compare(got, wanted)
    except Wrong as wrong:
        raise Wrong(f"{name}: {wrong} Did you pass stride and padding on?") from None


def my_step(answer: Any) -> str:
    rng, rate, momentum = np.random.default_rng(7), np.float32(0.1), np.float32(0.9)
    w, v, dw = (rng.standard_normal(10).astype(np.float32) for _ in range(3))
    new_v = momentum * v + dw
    got_w, got_v, marked = w.copy(), v.copy(), np.zeros(10, np.float32)
    run_kernel(_both(answer), 3, 4, (got_w, got_v, dw, rate, momentum, marked), marked)
    if (got_w == w).all() and (got_v == v).all():
        raise Open
    compare(got_v, new_v, {
        "v holds momentum * v, without dw.": momentum * v,
        "v holds dw alone: what it held before should count, too.": dw,
        "v is right, but you did not write it back.": v,
    })  # fmt: skip
    compare(got_w, w - rate * new_v, {
        "w went the wrong way: the loss falls against the gradient.": w + rate * new_v,
        "w was changed with the old v: change v first.": w - rate * v,
        "w was changed by rate * dw: momentum has no effect.": w - rate * dw,
        "w is still what it was.": w,
    })  # fmt: skip
    return "Three reads, two writes and two multiply-adds for each weight: it waits for memory, not for the sums."


def _both(kernel: Any) -> Any:
    """The learner's kernel, launched without the last argument, which is then marked as written."""

    class Marking:
        def __getitem__(self, sizes: Any) -> Callable[..., None]:
            def launch(*args: Any) -> None:
                kernel[sizes](*args[:-1])
                args[-1][...] = 0

            return launch

    if not hasattr(kernel, "__getitem__"):
        raise Wrong("This should be a kernel: a function with @cuda.jit above it.")
    return Marking()


EXERCISES: dict[str, Callable[[Any], str]] = {
    "07.1": makes,
    "07.2": factor_without_stride,
    "07.3": my_backward,
    "07.4": my_step,
}
