"""Pictures and exercises of 08_your_network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, NullLocator

from .. import flops, plots
from ..bench import results
from ..flops import networks
from ..geometry import ConvShape
from ..plots.gallery import KINDS, OPERATORS
from . import cost
from .answers import Wrong, agree, call, shown
from .cards import Card
from .guesses import Choice, Number, Prediction
from .trying import Case, compare, no_float64, run_kernel, work_of

NAMES = {"useful": "useful", "padded": "by a padded zero", "inserted": "by an inserted zero", "both": "by both"}
LINES: dict[str, dict[str, Any]] = {  # lines of the cost model, by way
    "regular": dict(color="#999999", linestyle=":"),
    "skipping": dict(color=plots.BLUE, linewidth=3),
    "Winograd 2x2": dict(color=plots.RED, marker="s"),
    "Winograd 4x4": dict(color="#AA4499", marker="^", linestyle="--"),
    "FFT": dict(color="#009E73", marker="D", linestyle="-."),
}
LETTERS = {  # letter and colour of a square where a way is the cheapest
    "skipping": ("S", "#9CCBE8"),
    "Winograd 2x2": ("W", "#FBE3D1"),
    "Winograd 4x4": ("W", "#FBE3D1"),
    "FFT": ("F", "#D5EFE3"),
}
SMALL = 32  # exercise 08.1: rows and columns of the images
CHANNELS, BATCH = 64, 64
LEAST_FACTOR, LEAST_WORK = 4, 1_000_000  # exercise 08.2
WINOGRAD_THREADS = 2  # threads of a block in exercise 08.4


def layer_of(size: int, taps: int, stride: int) -> ConvShape:
    """A layer with `size` x `size` outputs, 64 channels and images, padded by half the filter."""
    side = size * stride
    sizes = dict(n=BATCH, ih=side, iw=side, ic=CHANNELS, oc=CHANNELS, fh=taps, fw=taps)
    return ConvShape(**sizes, stride=stride, padding=taps // 2)


# --- pictures -------------------------------------------------------------------------------------
def draw_networks(found: dict[str, flops.NetworkCount]) -> Figure:
    """Multiply-adds of a training step by kind, in percent, the least redundant first."""
    order = sorted(found, key=lambda name: found[name].total.saved)
    fig = Figure(figsize=(9.5, 4.2), layout="constrained")
    ax = fig.subplots()
    for y, name in enumerate(order):
        total, left = found[name].total, 0.0
        for kind, style in KINDS.items():
            share = 100 * total.share(kind)
            ax.barh(y, share, left=left, height=0.7, **style)
            left += share
        ax.text(101, y, f"×{total.saved:.2f}", va="center", fontsize=13)
    ax.set_yticks(range(len(order)), order, fontsize=12)
    ax.set(xlim=(0, 112), xticks=(0, 25, 50, 75, 100), xlabel="multiply-adds of a training step (%)")
    ax.invert_yaxis()
    _finish(fig, ax)
    return fig


def draw_layers(counted: flops.NetworkCount) -> Figure:
    """Multiply-adds of a training step by layer and kind."""
    fig = Figure(figsize=(10, 4.6), layout="constrained")
    ax = fig.subplots()
    for x, layer in enumerate(counted.layers):
        bottom = 0.0
        for kind, style in KINDS.items():
            value = getattr(layer.total, kind) / 1e6
            ax.bar(x, value, bottom=bottom, width=0.75, **style)
            bottom += value
    ax.set_xticks(range(len(counted.layers)), [item.layer.name for item in counted.layers], rotation=60, ha="right")
    ax.set_ylabel("million multiply-adds")
    _finish(fig, ax)
    return fig


def _finish(fig: Figure, ax: Any) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    handles = [Patch(label=NAMES[kind], **style) for kind, style in KINDS.items()]
    fig.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False, fontsize=12)


def draw_measured(path: Path) -> Figure:
    """PyTorch's time over ours against the factor in multiply-adds, from a CSV of the benchmark."""
    times: dict[Any, dict[str, float]] = defaultdict(dict)
    shapes = {}
    for row in results.read(path):
        if row.contender in (results.OURS, results.PEER):
            times[row.case][row.contender] = min(row.median_ms, times[row.case].get(row.contender, np.inf))
            shapes[row.case] = row
    fig = Figure(figsize=(8.5, 4.8), layout="constrained")
    ax = fig.subplots()
    for operator, style in OPERATORS.items():
        cases = [case for case in times if case[0] == operator and len(times[case]) == 2]
        x = [_count_of(shapes[case]).saved for case in cases]
        y = [times[case][results.PEER] / times[case][results.OURS] for case in cases]
        ax.scatter(x, y, s=45, alpha=0.6, linewidths=0, label=operator, **style)
    ax.plot((1, 12), (1, 12), color=plots.INK, linestyle="--", linewidth=1.5)
    ax.text(3.1, 3.7, "if time followed the count", rotation=36, rotation_mode="anchor", fontsize=12)
    ax.axhline(1, color="#999999", linewidth=1.5)
    ax.set(xscale="log", yscale="log", xlabel="multiply-adds: regular over useful", ylabel="PyTorch's time over ours")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    ax.set_xticks((1, 1.5, 2, 3, 4, 6, 8, 12))
    ax.set_yticks((0.5, 1, 1.5, 2, 3, 4, 6, 8, 12))
    ax.grid(color="#DDDDDD")
    ax.legend(frameon=False, fontsize=12)
    return fig


def _count_of(row: results.Row) -> flops.Count:
    sizes = dict(n=row.n, ih=row.ih, iw=row.ih, ic=row.ic, oc=row.oc, fh=row.fh, fw=row.fh)
    return flops.count(row.operator, ConvShape(**sizes, stride=row.stride, padding=row.padding))


def draw_costs(taps: int) -> Figure:
    """Instructions by the cost model for each useful multiply-add, against the size of the map; stride 1."""
    sizes = [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 24, 32, 48, 64]
    found = [cost.instructions("conv2d", layer_of(size, taps, 1)) for size in sizes]
    fig = Figure(figsize=(9, 4.6), layout="constrained")
    ax = fig.subplots()
    for way, style in LINES.items():
        ax.plot(sizes, [item[way] / item["skipping"] for item in found], label=way, markersize=5, **style)
    ax.set(xscale="log", yscale="log", ylim=(0.25, 20), xlabel=f"rows and columns of the map; {taps}x{taps} filter")
    ax.set_ylabel("instructions for each\nuseful multiply-add")
    for axis, ticks in ((ax.xaxis, (1, 2, 3, 4, 6, 8, 16, 32, 64)), (ax.yaxis, (0.25, 0.5, 1, 2, 4, 8, 16))):
        axis.set_minor_locator(NullLocator())
        axis.set_ticks(ticks)
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.grid(color="#DDDDDD")
    ax.legend(frameon=False, fontsize=12)
    return fig


def draw_winners(card: Card) -> Figure:
    """The way with the shortest time by the cost model, for filters and maps."""
    panels = [("conv2d", 1, "forward, stride 1"), ("conv2d", 2, "forward, stride 2")]
    panels += [("conv2d_input", 2, "input gradient, stride 2"), ("conv2d_weight", 2, "filter gradient, stride 2")]
    sizes, filters = (1, 2, 3, 4, 6, 8, 16, 32, 64), (1, 3, 5, 7, 11)
    fig, ax = plots.canvas(2 * (len(sizes) + 3.2), 2 * (len(filters) + 3.4))
    for k, (operator, stride, title) in enumerate(panels):
        left, top = 2.4 + k % 2 * (len(sizes) + 3), 1.6 + k // 2 * (len(filters) + 3)
        plots.write(ax, left, top - 0.6, title, 15, weight="bold", ha="left")
        for row, taps in enumerate(filters):
            plots.write(ax, left - 0.2, top + row + 0.5, f"{taps}x{taps}", 12, ha="right")
            for column, size in enumerate(sizes):
                letter, colour = _winner(operator, layer_of(size, taps, stride), card)
                corner = left + column, top + row
                ax.add_patch(Rectangle(corner, 1, 1, facecolor=colour, edgecolor="white"))
                plots.write(ax, corner[0] + 0.5, corner[1] + 0.5, letter, 13)
        for column, size in enumerate(sizes):
            plots.write(ax, left + column + 0.5, top + len(filters) + 0.4, str(size), 12)
        plots.write(ax, left + len(sizes) / 2, top + len(filters) + 1.1, "rows and columns of y", 12)
    text = "S skipping   W Winograd   F FFT   = no matter, memory is the limit"
    plots.write(ax, ax.get_xlim()[1] / 2, ax.get_ylim()[0] - 0.4, text, 14)
    return fig


def _winner(operator: str, shape: ConvShape, card: Card) -> tuple[str, str]:
    times = cost.seconds(operator, shape, card)
    found = {way: times[way] for way in LETTERS if way in times}
    best = min(found, key=lambda way: found[way])  # skipping comes first, so it wins where others are no better
    least = flops.count(operator, shape).bytes / (card.bandwidth * 1e12)
    if found["skipping"] <= least and times["regular"] <= least:
        return "=", "#F2F2F2"
    return LETTERS[best]


# --- exercises ------------------------------------------------------------------------------------
def with_inserted_zeros(answer: Any) -> str:
    layers = networks.layers("resnet18", SMALL)
    expected = {layer.name for layer in layers if layer.shape.stride != (1, 1)}
    if isinstance(answer, (str, dict)) or not hasattr(answer, "__iter__"):
        raise Wrong(f"Answer with a set of names. Yours is {shown(answer)}.")
    got, names = list(answer), {layer.name for layer in layers}
    if unknown := [name for name in got if not isinstance(name, str) or name not in names]:
        raise Wrong(f"No layer is called {shown(unknown[0])}. The names are layer.name.")
    if set(got) == expected:
        return (
            f"{len(expected)} of {len(layers)} layers, those with a stride: only their gradients have inserted zeros."
        )
    if extra := sorted(set(got) - expected):
        raise Wrong(f"{extra[0]} has stride 1, so nothing is inserted there; its zeros are padding.")
    missing = sorted(expected - set(got))
    if all("shortcut" in name for name in missing):
        raise Wrong(f"Not all: the shortcuts of the stages have a stride, too, such as {missing[0]}.")
    more = f", and {len(missing) - 1} more of those that you left out" if missing[1:] else ""
    raise Wrong(f"Not all: {missing[0]} has a stride above 1, too{more}.")


def wasteful_network(answer: Any) -> str:
    layers = call(answer)
    if not isinstance(layers, (list, tuple)) or not layers or not all(isinstance(shape, ConvShape) for shape in layers):
        raise Wrong(f"Return a list of ConvShape. Yours is {shown(layers)}.")
    for number, shape in enumerate(layers):
        if max(shape.stride) > 2:
            raise Wrong(f"Layer {number} has stride {max(shape.stride)}, which makes it too easy: use 1 or 2.")
        if any(max(pads) > axis.taps // 2 for pads, axis in zip(shape.padding, (shape.h, shape.w), strict=True)):
            raise Wrong(f"Layer {number} has a padding of more than half its filter, which makes it too easy.")
    total = flops.network(list(layers)).total
    if total.saved < LEAST_FACTOR:
        no_stride = all(shape.stride == (1, 1) for shape in layers)
        text = "Strides bring inserted zeros." if no_stride else "The smaller the maps, the larger it is."
        raise Wrong(f"The regular way does {total.saved:.2f} times what is needed, and 4 times are asked for. {text}")
    if total.useful < LEAST_WORK:
        raise Wrong(
            f"It has only {total.useful:,} useful multiply-adds, and a million is asked for. More images or "
            "channels leave "
            "the factor as it is."
        )
    return f"A factor of {total.saved:.2f}. Strides do it in the gradients, and small maps in all three passes."


def winograd_products(answer: Any) -> str:
    mistakes = {
        "Right for even n. If n is odd, the last tile is still a whole one: round up.": lambda n: 4 * n * n,
        "If n is odd, the last row and column need tiles, too: round up, not down.": lambda n: 16 * (n // 2) ** 2,
        "These are the tiles along one axis. The map has two.": lambda n: 16 * -(-n // 2),
        "These are the tiles. Each has 16 products.": lambda n: (-(-n // 2)) ** 2,
        "That is what skipping does. Winograd works in tiles.": lambda n: (3 * n - 2) ** 2,
        "That is the regular way, nine products a result.": lambda n: 9 * n * n,
        "A tile has 2x2 results: there are fewer tiles than results.": lambda n: 16 * n * n,
        "A tile takes 16 products for its four results, and not 4.": lambda n: 4 * (-(-n // 2)) ** 2,
        "That would be four products a tile, as on one axis. In two dimensions it is 16.": lambda n: 4 * -(-n // 2),
        "36 is what a tile takes without Winograd. With it, 16.": lambda n: 36 * (-(-n // 2)) ** 2,
        "Tiles are whole along each axis: a 3x3 map takes 2 x 2 of them.": lambda n: 16 * -(-n * n // 4),
        "One tile too many along each axis if n is even: round up, and no further.": lambda n: 16 * (n // 2 + 1) ** 2,
    }
    agree(
        answer, lambda n: 16 * (-(-n // 2)) ** 2, [(4,), (1,), (2,), (3,), (5,), (6,), (7,), (8,)], mistakes,
        "A 4x4 map has 2 x 2 tiles with 16 products each.",
    )  # fmt: skip
    return (
        "On 1x1 and 3x3 maps skipping does fewer, on 2x2 maps both do 16, and on larger ones Winograd wins, by up "
        "to 36/16 = 2.25."
    )


def my_winograd(answer: Any) -> str:
    rng = np.random.default_rng(8)
    for outputs in (2, 6, 10):
        x, w = (rng.standard_normal(size).astype(np.float32) for size in (outputs + 2, 3))
        g = (cost.WINOGRAD[2][1] @ w).astype(np.float32)
        y = np.empty(outputs, np.float32)
        where, grid = f"{outputs} results, x of {outputs + 2}", outputs // (2 * WINOGRAD_THREADS) + 1
        result = run_kernel(answer, grid, WINOGRAD_THREADS, (x, g, y), y, where)
        right = np.correlate(x, w, "valid")
        compare(y, right, _nearly(x, g, right), where, "y")
        case = Case(where, (x.shape, g.shape, y.shape), (), grid, WINOGRAD_THREADS, {}, [])
        done = sum(work_of(answer, case, 2 * outputs).products.values())
        if done > 2 * outputs:
            raise Wrong(
                f"The results are right. But for {outputs} results your kernel does {done} products, and "
                f"{2 * outputs} are enough: m1 to m4 are four products for two results."
            )
    no_float64(result)
    return "Two thirds of the products. In two dimensions it is 16 of 36, and the additions are shared by all channels."


def _nearly(x: Any, g: Any, right: Any) -> dict[str, Any]:
    """Results of kernels with one mistake, by a hint for each."""
    x0, x1, x2, x3 = x[:-2:2], x[1:-1:2], x[2::2], x[3::2]
    m1, m2, m3, m4 = (x0 - x2) * g[0], (x1 + x2) * g[1], (x2 - x1) * g[2], (x1 - x3) * g[3]

    def both(y0: Any, y1: Any) -> Any:
        return np.stack((y0, y1), 1).ravel()

    return {
        "The two results of a thread have changed places.": both(right[1::2], right[::2]),
        "The second of every two results is m2 - m3 - m4: look at the sign of m4.": both(m1 + m2 + m3, m2 - m3 + m4),
        "The second of every two results is m2 - m3 - m4: look at the sign of m3.": both(m1 + m2 + m3, m2 + m3 - m4),
        "m3 has the wrong sign: it is (x2 - x1) * g2.": both(m1 + m2 - m3, m2 + m3 - m4),
        "m1 has the wrong sign: it is (x0 - x2) * g0.": both(m2 + m3 - m1, m2 - m3 - m4),
        "m4 has the wrong sign: it is (x1 - x3) * g3.": both(m1 + m2 + m3, m2 - m3 + m4),
        "g1 and g2 have changed places.": both(
            m1 + (x1 + x2) * g[2] + (x2 - x1) * g[1], (x1 + x2) * g[2] - (x2 - x1) * g[1] - m4
        ),
        "m2 is (x1 + x2) * g1: a sum, and no difference.": both(m1 + (x1 - x2) * g[1] + m3, (x1 - x2) * g[1] - m3 - m4),
        "g holds transformed weights, g0 to g3: use them in m1 to m4, not as a filter.": (
            np.correlate(x, g[:3], "valid")
        ),
        "The first of every two results is m1 + m2 + m3: m3 is missing.": both(m1 + m2, m2 - m3 - m4),
        "The second of every two results is m2 - m3 - m4: m4 is missing.": both(m1 + m2 + m3, m2 - m3),
    }


# --- predictions ----------------------------------------------------------------------------------
ASKED = {  # prediction 08.a: name and size of the image of a network
    "VGG-16, 224x224": ("vgg16", 224),
    "ResNet-18, 32x32": ("resnet18", 32),
    "U-Net, 572x572": ("unet", 572),
    "DCGAN generator, 64x64": ("dcgan-generator", 64),
}


def _winograd_wins() -> int:
    """The smallest map from which on Winograd takes fewer instructions than skipping, with the better of its tiles."""
    size = SMALL
    while size > 1 and _winograd_is_cheaper(size - 1):
        size -= 1
    return size


def _winograd_is_cheaper(size: int) -> bool:
    found = cost.instructions("conv2d", layer_of(size, 3, 1))
    return min(found["Winograd 2x2"], found["Winograd 4x4"]) < found["skipping"]


PREDICTIONS: dict[str, Prediction] = {
    "08.a": Choice(
        tuple(ASKED),
        lambda: max(ASKED, key=lambda name: flops.network(*ASKED[name]).total.share("redundant")),
        "It is {answer}. Two things add zeros: strides, everywhere and at any size, and padding, on small maps only. "
        "VGG-16 on photographs has no strides and large maps; DCGAN is all strides.",
        {
            "VGG-16, 224x224": "It has no strides, and on large maps the padding is a small part.",
            "ResNet-18, 32x32": "Its last maps are small and some layers have a stride, but most have none.",
            "U-Net, 572x572": "Its maps are large, nothing is padded, and only four of its layers have a stride.",
        },
    ),
    "08.b": Number(
        _winograd_wins,
        "It is {answer}, where one tile of 4x4 results covers the map. Which tile is better changes with the size, as "
        "what hangs over the edge is thrown away: 4x4 on 3x3 and 7x7 maps, 2x2 on 5x5 maps.",
        low="A single tile has more products than a map of one element has useful ones.",
        high="Winograd also has tiles of 4x4 results, with 36 products for 16 results.",
        thoughts={
            1: "There skipping does one product where a tile does 16.",
            2: "There both do 16 products, but Winograd has its transforms on top.",
            4: "A tile of 4x4 results fits there exactly, and Winograd wins by far. It does so a little earlier.",
            6: "It wins on some smaller maps, too: not only 2x2 tiles count.",
        },
    ),
}
EXERCISES: dict[str, Callable[[Any], str]] = {
    "08.1": with_inserted_zeros,
    "08.2": wasteful_network,
    "08.3": winograd_products,
    "08.4": my_winograd,
}
HINTS = {
    "08.1": (
        "What puts zeros between the elements of dy? Not the padding.",
        "A stride above 1 does. layer.shape.stride is a pair.",
        'A set of layer.name for each layer of networks.layers("resnet18", 32) whose layer.shape.stride is not (1, 1).',
    ),
    "08.2": (
        "Which two things make zeros? Use both of them.",
        "Stride 2, and maps that are as small as the filter allows.",
        "Two layers with 4x4 filters, stride 2 and padding 1, on maps of 4x4 and 2x2; enough images and channels for a "
        "million multiply-adds.",
    ),
    "08.3": (
        "How many tiles of 2x2 results cover an n x n map?",
        "-(-n // 2) along each axis: n / 2, rounded up.",
        "16 * tiles * tiles.",
    ),
    "08.4": (
        "Thread t makes y[2*t] and y[2*t + 1]. Which four elements of x does it need?",
        "first = 2 * cuda.grid(1); a thread with first >= y.size stops; x0 to x3 are x[first] to x[first + 3].",
        "The four lines m1 to m4 of section 5, with g[0] to g[3]. Then y[first] = m1 + m2 + m3 and y[first + 1] = "
        "m2 - m3 - "
        "m4.",
    ),
}
