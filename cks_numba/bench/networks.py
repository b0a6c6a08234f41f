"""``cks-numba bench --networks``: whole networks in PyTorch, converted by the clock, against torch's own layers.

A network is written as a list of blocks. A block is a function of the number of channels that it reads: it gives a
module of torch, and the number of channels that comes out. Each network is timed with contiguous and channels_last
tensors, as torch made it and after ``convert(..., measure=True)``; a contender's time is that of its better format.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import geometric_mean
from typing import Any, NamedTuple

from . import cpu, results
from .results import OURS, PEER, Bar

Block = Callable[[int], tuple[Any, int]]
THRESHOLD = 1.1
"""Factor of time from which a layer is swapped."""
MEAN, LEAST = 1.5, 0.95
"""Bars: torch's time over ours, mean and least; two runs of the same network may differ by 5%."""
BATCH = 8


# --- blocks ----------------------------------------------------------------------------------------
def conv(
    oc: int, taps: int = 3, stride: int = 1, groups: int = 1, act: str = "ReLU", norm: str = "BatchNorm2d"
) -> Block:
    """A convolution, its normalisation and its activation; with no groups, each channel has a filter of its own."""

    def build(ic: int) -> tuple[Any, int]:
        from torch import nn

        out, parts = oc or ic, groups or ic
        layers: list[Any] = [
            nn.Conv2d(ic, out, taps, stride, (taps - 1) // 2 if taps != stride else 0, 1, parts, bias=not norm)
        ]
        layers += [nn.GroupNorm(1, out) if norm == "GroupNorm" else nn.BatchNorm2d(out)] if norm else []
        return nn.Sequential(*layers, *([getattr(nn, act)()] if act else [])), out

    return build


def up(oc: int, taps: int, stride: int, padding: int = 0, act: str = "ReLU") -> Block:
    """A transposed convolution and its activation."""

    def build(ic: int) -> tuple[Any, int]:
        from torch import nn

        return nn.Sequential(nn.ConvTranspose2d(ic, oc, taps, stride, padding), getattr(nn, act)()), oc

    return build


def plain(name: str, *arguments: Any) -> Block:
    """A layer of torch.nn that keeps the channels, such as pooling; ``BatchNorm2d`` is told their number."""

    def build(ic: int) -> tuple[Any, int]:
        from torch import nn

        return getattr(nn, name)(*((ic,) if name == "BatchNorm2d" else arguments)), ic

    return build


def chain(*blocks: Block) -> Block:
    """Blocks one after the other."""

    def build(ic: int) -> tuple[Any, int]:
        from torch import nn

        layers = []
        for block in blocks:
            layer, ic = block(ic)
            layers.append(layer)
        return nn.Sequential(*layers), ic

    return build


def join(how: str, *blocks: Block) -> Block:
    """Blocks that read the same map; their results are added ("add"), multiplied ("mul") or put together ("cat")."""

    def build(ic: int) -> tuple[Any, int]:
        layers, channels = zip(*(block(ic) for block in blocks), strict=True)
        return _join_class()(how, layers), sum(channels) if how == "cat" else channels[0]

    return build


@cache
def _join_class() -> Any:
    import torch

    class Join(torch.nn.Module):
        """Branches, and how their results become one."""

        def __init__(self, how: str, branches: Any) -> None:
            super().__init__()
            self.how, self.branches = how, torch.nn.ModuleList(branches)

        def forward(self, x: Any) -> Any:
            first, *others = (branch(x) for branch in self.branches)
            if self.how == "cat":
                return torch.cat([first, *others], 1)
            for other in others:
                first = first + other if self.how == "add" else first * other
            return first

    return Join


SAME = plain("Identity")
HALF = plain("MaxPool2d", 2)


def squeeze(reduced: int, gate: str) -> Block:
    """Channels weighted by what a small network makes of their means (squeeze and excitation)."""

    def build(ic: int) -> tuple[Any, int]:
        weights = chain(plain("AdaptiveAvgPool2d", 1), conv(reduced, 1, norm=""), conv(ic, 1, act=gate, norm=""))
        return join("mul", SAME, weights)(ic)

    return build


# --- networks --------------------------------------------------------------------------------------
def _vgg11() -> list[Block]:
    widths = (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0)
    return [conv(oc) if oc else HALF for oc in widths]


def _residual(body: Block, oc: int, stride: int, keeps: bool, act: str = "ReLU") -> list[Block]:
    shortcut = SAME if keeps else conv(oc, 1, stride, act="")
    return [join("add", body, shortcut), plain(act)]


def _resnet18() -> list[Block]:
    blocks = [conv(64)]
    for stage, oc in enumerate((64, 128, 256, 512)):
        for k in range(2):
            stride = 2 if stage and not k else 1
            blocks += _residual(chain(conv(oc, 3, stride), conv(oc, act="")), oc, stride, keeps=stride == 1)
    return blocks


def _bottlenecks(depths: Sequence[int], width: int, groups: int, stem: list[Block]) -> list[Block]:
    """The networks of ResNet-50's form: 1x1, 3x3 and 1x1."""
    for stage, depth in enumerate(depths):
        for k in range(depth):
            oc, inside, stride = 256 << stage, width << stage, 2 if stage and not k else 1
            body = chain(conv(inside, 1), conv(inside, 3, stride, groups), conv(oc, 1, act=""))
            stem += _residual(body, oc, stride, keeps=k > 0)
    return stem


def _regnet() -> list[Block]:
    """RegNetX-400MF."""
    blocks = [conv(32, 3, 2)]
    for depth, oc in zip((1, 2, 7, 12), (32, 64, 160, 400), strict=True):
        for k in range(depth):
            stride = 1 if k else 2
            body = chain(conv(oc, 1), conv(oc, 3, stride, oc // 16), conv(oc, 1, act=""))
            blocks += _residual(body, oc, stride, keeps=k > 0)
    return blocks


def _darknet53() -> list[Block]:
    blocks = [conv(32, act="LeakyReLU")]
    for stage, depth in enumerate((1, 2, 8, 8, 4)):
        oc = 64 << stage
        body = chain(conv(oc // 2, 1, act="LeakyReLU"), conv(oc, 3, act="LeakyReLU"))
        blocks += [conv(oc, 3, 2, act="LeakyReLU"), *[join("add", SAME, body)] * depth]
    return blocks


def _densenet121() -> list[Block]:
    norm = chain(plain("BatchNorm2d"), plain("ReLU"))
    grow = join("cat", SAME, chain(norm, conv(128, 1), conv(32, act="", norm="")))
    blocks: list[Block] = [conv(64)]
    for depth, oc in zip((6, 12, 24, 16), (128, 256, 512, 0), strict=True):
        shrink = [norm, conv(oc, 1, act="", norm=""), plain("AvgPool2d", 2)] if oc else [norm]
        blocks += [*[grow] * depth, *shrink]
    return blocks


def _inverted(oc: int, taps: int, stride: int, inside: int, squeezed: int, gate: str, act: str, keeps: bool) -> Block:
    """1x1, depthwise, and 1x1 (MobileNet's inverted bottleneck)."""
    middle = [conv(0, taps, stride, 0, act), *([squeeze(squeezed, gate)] if squeezed else [])]
    body = chain(*([conv(inside, 1, act=act)] if inside else []), *middle, conv(oc, 1, act=""))
    return join("add", body, SAME) if keeps else body


def _mobilenet() -> list[Block]:
    """MobileNetV3-Large: channels, taps, stride, channels inside, and whether they are squeezed, for each block."""
    table = (
        (16, 3, 1, 16, 0), (24, 3, 2, 64, 0), (24, 3, 1, 72, 0), (40, 5, 2, 72, 1), (40, 5, 1, 120, 1),
        (40, 5, 1, 120, 1), (80, 3, 2, 240, 0), (80, 3, 1, 200, 0), (80, 3, 1, 184, 0), (80, 3, 1, 184, 0),
        (112, 3, 1, 480, 1), (112, 3, 1, 672, 1), (160, 5, 2, 672, 1), (160, 5, 1, 960, 1), (160, 5, 1, 960, 1),
    )  # fmt: skip
    blocks, ic = [conv(16, 3, 2, act="Hardswish")], 16
    for oc, taps, stride, inside, squeezed in table:
        act = "ReLU" if oc < 80 and inside < 240 else "Hardswish"
        wide = 0 if inside == ic else inside
        keeps = stride == 1 and ic == oc
        blocks.append(_inverted(oc, taps, stride, wide, squeezed * inside // 4, "Hardsigmoid", act, keeps))
        ic = oc
    return [*blocks, conv(960, 1, act="Hardswish")]


def _efficientnet() -> list[Block]:
    """EfficientNet-B0: channels, blocks, taps, stride, and how many times more channels are inside."""
    table = (
        (16, 1, 3, 1, 1), (24, 2, 3, 2, 6), (40, 2, 5, 2, 6), (80, 3, 3, 2, 6), (112, 3, 5, 1, 6), (192, 4, 5, 2, 6),
        (320, 1, 3, 1, 6),
    )  # fmt: skip
    blocks, ic = [conv(32, 3, 2, act="SiLU")], 32
    for oc, depth, taps, first, times in table:
        for k in range(depth):
            stride, inside = 1 if k else first, ic * times if times > 1 else 0
            blocks.append(_inverted(oc, taps, stride, inside, ic // 4, "Sigmoid", "SiLU", keeps=k > 0))
            ic = oc
    return [*blocks, conv(1280, 1, act="SiLU")]


def _convnext() -> list[Block]:
    """ConvNeXt-T."""
    blocks = []
    for stage, depth in enumerate((3, 3, 9, 3)):
        oc, taps = 96 << stage, 2 if stage else 4
        body = chain(
            conv(0, 7, 1, 0, act="", norm="GroupNorm"),
            conv(4 * oc, 1, act="GELU", norm=""),
            conv(oc, 1, act="", norm=""),
        )
        blocks += [conv(oc, taps, taps, act="", norm="GroupNorm"), *[join("add", SAME, body)] * depth]
    return blocks


def _repvgg() -> list[Block]:
    """RepVGG-A0 as it is trained: 3x3, 1x1 and nothing, side by side."""
    blocks: list[Block] = []
    for oc, depth in ((48, 1), (48, 2), (96, 4), (192, 14), (1280, 1)):
        for k in range(depth):
            stride = 1 if k else 2
            branches = [conv(oc, 3, stride, act=""), conv(oc, 1, stride, act="")]
            blocks += [join("add", *branches, *([plain("BatchNorm2d")] if k else [])), plain("ReLU")]
    return blocks


def _basic(oc: int, count: int) -> list[Block]:
    return count * _residual(chain(conv(oc), conv(oc, act="")), oc, 1, keeps=True)


def _hrnet() -> list[Block]:
    """Branches of half the size and twice the channels, joined again and again, as in HRNet-W32."""

    def level(oc: int, depth: int) -> Block:
        own = chain(*_basic(oc, 4))
        if not depth:
            return own
        lower = chain(conv(2 * oc, 3, 2), level(2 * oc, depth - 1), conv(oc, 1, act=""), plain("Upsample", None, 2))
        return chain(join("add", own, lower), plain("ReLU"))

    return [conv(64, 3, 2), conv(32, 3, 2), level(32, 1), level(32, 2), level(32, 2)]


def _unet() -> list[Block]:
    """U-Net with padded maps."""

    def level(oc: int) -> Block:
        two = chain(conv(oc), conv(oc))
        if oc == 512:
            return two
        return chain(two, join("cat", SAME, chain(HALF, level(2 * oc), up(oc, 2, 2))), conv(oc), conv(oc))

    return [level(32), conv(2, 1, act="", norm="")]


def _discriminator() -> list[Block]:
    downs = [conv(64 << k, 4, 2, act="LeakyReLU") for k in range(4)]
    return [*downs, conv(1, 4, 4, act="", norm="")]


def _generator() -> list[Block]:
    ups = [up(256 >> k, 4, 2, 1) for k in range(3)]
    return [up(512, 4, 1), *ups, up(3, 4, 2, 1, act="Tanh")]


class Network(NamedTuple):
    """Title, blocks, and the size of an input."""

    title: str
    blocks: Callable[[], list[Block]]
    input: tuple[int, int, int]


def _image(side: int) -> tuple[int, int, int]:
    return 3, side, side


NETWORKS = (
    Network("VGG-11", _vgg11, _image(32)),
    Network("ResNet-18", _resnet18, _image(32)),
    Network("ResNet-50", lambda: _bottlenecks((3, 4, 6, 3), 64, 1, [conv(64, 7, 2), HALF]), _image(64)),
    Network("ResNeXt-50", lambda: _bottlenecks((3, 4, 6, 3), 128, 32, [conv(64, 7, 2), HALF]), _image(64)),
    Network("RegNetX-400MF", _regnet, _image(64)),
    Network("DarkNet-53", _darknet53, _image(64)),
    Network("DenseNet-121", _densenet121, _image(32)),
    Network("MobileNetV3-Large", _mobilenet, _image(128)),
    Network("EfficientNet-B0", _efficientnet, _image(128)),
    Network("ConvNeXt-T", _convnext, _image(64)),
    Network("RepVGG-A0", _repvgg, _image(64)),
    Network("HRNet", _hrnet, _image(64)),
    Network("U-Net", _unet, _image(64)),
    Network("DCGAN discriminator", _discriminator, _image(64)),
    Network("DCGAN generator", _generator, (100, 1, 1)),
)


def build(network: Network) -> Any:
    """Return the network as a module of torch, with the same numbers every time."""
    import torch

    torch.manual_seed(0)
    return chain(*network.blocks())(network.input[0])[0]


# --- timing ----------------------------------------------------------------------------------------
@dataclass
class Row:
    """A contender's time for one pass of a network: a line of the CSV."""

    network: str
    input: str
    batch: int
    what: str
    contender: str
    format: str
    median_ms: float
    layers: int
    swapped: int
    device: str
    threads: int
    versions: str
    commit: str


def measure(network: Network, train: bool, threads: int, batch: int = BATCH) -> list[Row]:
    """Time a training step, or inference, with torch's layers and converted, in both formats of memory."""
    import torch

    from ..torch import convert
    from ..torch.measuring import milliseconds, pass_of

    calls, swaps = {}, {}
    for name in ("contiguous_format", "channels_last"):
        form = getattr(torch, name)
        x = torch.randn(batch, *network.input).contiguous(memory_format=form)
        model = build(network).to(memory_format=form).train(train)
        converted, report = convert(copy.deepcopy(model), x, THRESHOLD, train, measure=True)
        swaps[name] = len(report.rows), len(report.swapped)
        for contender, module in ((PEER, model), (OURS, converted)):
            calls[contender, name] = pass_of(module, ((x,), {}), train)
    return [
        Row(
            network=network.title,
            input="x".join(map(str, network.input)),
            batch=batch,
            what="training step" if train else "inference",
            contender=contender,
            format=name,
            median_ms=round(taken, 3),
            layers=swaps[name][0],
            swapped=swaps[name][1] if contender == OURS else 0,
            device=results.machine(),
            threads=threads,
            versions=results.versions(),
            commit=results.commit(),
        )
        for (contender, name), taken in milliseconds(calls).items()
    ]


def best(rows: Sequence[Row], contender: str) -> Row:
    """Return a contender's row in its better format."""
    return min((row for row in rows if row.contender == contender), key=lambda row: row.median_ms)


def bars(ratios: dict[str, list[float]]) -> Iterator[Bar]:
    """Yield the bars for torch's time over ours."""
    for what, found in ratios.items():
        yield Bar(f"{what}: torch's time over ours, geometric mean", geometric_mean(found), MEAN)
        yield Bar(f"{what}: torch's time over ours, least", min(found), LEAST)


def run(threads: int, quick: bool, check: bool, csv_file: Path | None, only: str) -> int:
    """Run the benchmark of whole networks; returns 1 if `check` and a bar is missed.

    Parameters
    ----------
    threads : int
        Threads of both contenders.
    quick, check : bool
        Time the first network only, with one image; fail when a bar is missed.
    csv_file : Path, optional
        File to write the rows to.
    only : str
        Time only networks with this text in their title.
    """
    if not cpu.has_peer():
        raise RuntimeError("--networks times models of PyTorch, which is not installed: pip install torch")
    import torch

    chosen = [network for network in NETWORKS if only in network.title][: 1 if quick else None]
    if not chosen:
        raise RuntimeError(f"no network has {only!r} in its title")
    cpu.prepare(threads)
    torch.set_grad_enabled(True)
    print(f"{'':<40} {'torch, ms':>10} {'ours, ms':>10} {'ratio':>6}  swapped")
    rows: list[Row] = []
    ratios: dict[str, list[float]] = {}
    for network in chosen:
        for train in (True, False):
            here = measure(network, train, threads, 1 if quick else BATCH)
            torchs, ours = best(here, PEER), best(here, OURS)
            rows += here
            ratios.setdefault(ours.what, []).append(torchs.median_ms / ours.median_ms)
            line = f"{network.title} {ours.input}, {ours.what}"
            print(f"{line:<40} {torchs.median_ms:10.2f} {ours.median_ms:10.2f} {ratios[ours.what][-1]:6.2f}", end="")
            print(f"  {ours.swapped} of {ours.layers}, {ours.format}", flush=True)
    if csv_file:
        results.write(rows, csv_file)
        print(f"wrote {csv_file}")
    found = list(bars(ratios))
    print("\n".join(map(str, found)))
    return int(check and any(bar.missed for bar in found))
