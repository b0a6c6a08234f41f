"""The benchmark of whole networks: the networks are those of their papers, and the command compares better formats."""

from __future__ import annotations

import csv

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install cks-numba[torch])")

from cks_numba.__main__ import main  # noqa: E402
from cks_numba.bench import networks  # noqa: E402
from cks_numba.torch import conversion, measuring  # noqa: E402

pytestmark = pytest.mark.torch
# Millions of parameters without the classifier, as in the papers or in torchvision and timm; size of the last map.
PARAMETERS = {
    "VGG-11": (9.22, (512, 1, 1)),
    "ResNet-18": (11.17, (512, 4, 4)),
    "ResNet-50": (23.51, (2048, 2, 2)),
    "ResNeXt-50": (22.98, (2048, 2, 2)),
    "RegNetX-400MF": (5.09, (400, 2, 2)),
    "DarkNet-53": (40.58, (1024, 2, 2)),
    "DenseNet-121": (6.95, (1024, 4, 4)),
    "MobileNetV3-Large": (2.97, (960, 4, 4)),
    "EfficientNet-B0": (4.01, (1280, 4, 4)),
    "ConvNeXt-T": (27.8, (768, 2, 2)),
    "RepVGG-A0": (7.83, (1280, 2, 2)),
    "HRNet": (3.72, (32, 16, 16)),
    "U-Net": (7.76, (2, 64, 64)),
    "DCGAN discriminator": (2.77, (1, 1, 1)),
    "DCGAN generator": (3.58, (3, 64, 64)),
}


@pytest.mark.parametrize("network", networks.NETWORKS, ids=lambda network: network.title)
def test_a_network_has_the_parameters_and_the_maps_of_its_paper(network):
    with torch.device("meta"):
        model = networks.build(network).eval()
        y = model(torch.empty(1, *network.input))
    millions, size = PARAMETERS[network.title]
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, rel=2e-3)
    assert y.shape[1:] == size


def test_each_network_can_be_timed_alone():
    for network in networks.NETWORKS:
        assert [each for each in networks.NETWORKS if network.title in each.title] == [network]


def clock(calls):
    """Run each call once, and tell that ours takes half the time, and that channels_last takes twice as long."""
    for call in calls.values():
        call()
    if all(isinstance(key, tuple) for key in calls):
        return {(who, form): (1.0 if who == "PyTorch" else 0.5) * (1 + ("last" in form)) for who, form in calls}
    return {key: 1.0 / (1 + place) for place, key in enumerate(calls)}


def test_the_command_compares_each_contender_in_its_better_format(monkeypatch, capsys, tmp_path):
    tiny = networks.Network("Tiny", lambda: [networks.conv(4), networks.HALF, networks.conv(0, 3, 2, 0)], (3, 8, 8))
    monkeypatch.setattr(networks, "NETWORKS", (tiny, networks.NETWORKS[0]))
    monkeypatch.setattr(networks.cpu, "prepare", lambda threads: None)
    for module in (conversion, measuring):
        monkeypatch.setattr(module, "milliseconds", clock)
    path = tmp_path / "networks.csv"
    assert main(["bench", "--networks", "--only", "Tiny", "--check", "--csv", str(path)]) == 0
    out = capsys.readouterr().out
    assert "Tiny 3x8x8, training step" in out and "2 of 2, contiguous_format" in out
    assert "ok        2.00 >= 1.5   inference: torch's time over ours, geometric mean" in out
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 8 and {row["swapped"] for row in rows if row["contender"] == "cks_numba"} == {"2"}
    monkeypatch.setattr(networks, "MEAN", 2.1)
    assert main(["bench", "--networks", "--quick", "--check"]) == 1
    assert "MISSED" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="no network has 'no such network' in its title"):
        networks.run(2, False, False, None, "no such network")
