"""The benchmark for a GPU, tested without one: what it writes, and what a call costs and allocates."""

from __future__ import annotations

from unittest import mock

import pytest

from cks_numba import kernels, operators
from cks_numba.backends import cuda as backend
from cks_numba.bench import cases, gpu, results
from cks_numba.commands import main
from cks_numba.kernels import tiled
from cks_numba.kernels.jit import cuda

DRY = ("bench", "--device", "cuda", "--dry", "--rounds", "3", "--only", "DCGAN, 32x32")


@pytest.fixture
def no_gpu_needed():
    tiled._prepared.cache_clear()
    backend._workspaces.clear()
    with gpu._no_gpu_needed() as launched:
        yield launched
    tiled._prepared.cache_clear()
    backend._workspaces.clear()


def test_dry_run_writes_every_contender_and_goes_on_where_it_stopped(tmp_path, capsys):
    path = tmp_path / "gpu.csv"
    assert main([*DRY, "--csv", str(path), "--minutes", "0"]) == 0
    assert "cases left: run it again" in capsys.readouterr().out and not path.exists()
    with mock.patch.object(gpu, "append", wraps=gpu.append) as append:
        append.side_effect = [mock.DEFAULT, KeyboardInterrupt]  # interrupted in the second case
        with pytest.raises(KeyboardInterrupt):
            main([*DRY, "--csv", str(path)])
    first = results.read(path)
    found = {(r.contender, r.layout, r.dtype) for r in first}
    assert found == set(gpu.CONTENDERS) and len(found) == len(first) == len(gpu.RUNGS) + 2 + 3 + 6
    assert {(f"cks_numba, {kind}", "NHWC", kind) for kind in ("float16", "bfloat16")} <= found
    assert {name for name, _, _ in found} >= {*kernels.RUNGS} - {"with_zeros", "tiled", "tensor"}
    assert main([*DRY, "--csv", str(path)]) == 0
    rows = results.read(path)
    chosen = [case for case in cases.gpu_table() if "DCGAN, 32x32" in case.name]
    assert rows[: len(first)] == first and len(rows) == len(first) * len(chosen)
    assert {row.n for row in rows} == set(cases.GPU_BATCHES) and {row.device for row in rows} == {"stand-in"}
    assert main([*DRY, "--csv", str(path)]) == 0
    assert results.read(path) == rows
    assert f"0 cases, {len(chosen)} in the file already" in capsys.readouterr().out


def test_a_slow_contender_has_one_round():
    class Slow(gpu.StandIn):
        def contenders(self, case=None):
            return {("slow", ""): lambda: self._work(0.1), ("fast", ""): lambda: self._work(0.001)}

    machine = Slow()
    samples = gpu.measure(machine, machine.contenders(), 5)
    assert {name: len(seconds) for (name, _), seconds in samples.items()} == {"slow": 1, "fast": 5}


def test_without_a_gpu_it_says_so(capsys):
    if cuda.is_available():
        pytest.skip("there is a GPU")
    assert main(["bench", "--device", "cuda"]) == 1
    assert backend.NO_GPU in capsys.readouterr().err


@pytest.mark.parametrize("operator", ["conv2d", "conv2d_input", "conv2d_weight"])
def test_a_repeated_call_copies_and_allocates_nothing(no_gpu_needed, operator):
    s = gpu.LAYER
    x, w, y = (gpu.DeviceArray(size, 2**30 * k) for k, size in enumerate((s.x_shape, s.w_shape, s.y_shape), 1))
    calls = {
        "conv2d": lambda: operators.conv2d(x, w, padding=1, out=y),
        "conv2d_input": lambda: operators.conv2d_input(s.x_shape, w, y, padding=1, out=x),
        "conv2d_weight": lambda: operators.conv2d_weight(x, s.w_shape, y, padding=1, out=w),
    }
    calls[operator]()
    expected = list(no_gpu_needed)
    assert len(expected) == (2 if operator == "conv2d_weight" else 1)
    no_gpu_needed.clear()
    never = mock.Mock(side_effect=AssertionError("a repeated call allocates"))
    with mock.patch.object(cuda, "to_device", never), mock.patch.object(cuda, "device_array", never):
        calls[operator]()
    for again, before in zip(no_gpu_needed, expected, strict=True):
        assert again[:4] == before[:4] and all(a is b or a == b for a, b in zip(again.args, before.args, strict=True))


def test_cost_of_a_call_is_printed(capsys):
    assert main(["bench", "--launch-cost"]) == 0
    assert capsys.readouterr().out.count("us of Python up to the launch") == 3
