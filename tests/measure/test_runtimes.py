"""Which runtimes latency is measured in, and what happens where a network does not run in one."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tascnet.errors import ConfigError, ExportError
from tascnet.exporting import installed
from tascnet.measure import check_runtimes, measure_facts, measure_models, runtimes_of, target_of, time_in
from tascnet.options import Measure

QUICK = Measure(batch=2, repeats=3)
EVERYTHING = frozenset({"eager", "compile", "onnxruntime", "onnxruntime_int8", "openvino"})


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """All packages, as far as anybody asks."""
    monkeypatch.setattr(installed, "installed", lambda: EVERYTHING)


def test_without_packages_it_is_eager_alone() -> None:
    assert runtimes_of(Measure()) == ("eager",)
    assert target_of(Measure()) == "eager"


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize(
    ("measure", "device", "runtimes", "target"),
    [
        (Measure(), "cpu", ("eager", "onnxruntime", "onnxruntime_int8"), "onnxruntime"),
        (Measure(), "cuda:0", ("eager",), "eager"),
        (Measure(runtimes=("compile", "eager")), "cpu", ("eager", "compile"), "eager"),
        (Measure(runtimes=("eager", "onnxruntime")), "cpu", ("eager", "onnxruntime"), "onnxruntime"),
        (Measure(target="eager"), "cpu", ("eager", "onnxruntime", "onnxruntime_int8"), "eager"),
        (
            Measure(target="openvino"),
            "cpu",
            ("eager", "onnxruntime", "onnxruntime_int8", "openvino"),
            "openvino",
        ),
    ],
)
def test_runtimes_and_the_one_that_counts(
    measure: Measure, device: str, runtimes: tuple[str, ...], target: str
) -> None:
    assert runtimes_of(measure, device) == runtimes
    assert target_of(measure, device) == target
    facts = measure_facts(measure, device)
    assert facts == {"batch": 16, "repeats": 30, "runtimes": list(runtimes), "target": target}


def test_a_runtime_that_is_not_installed_is_refused() -> None:
    check_runtimes(Measure(runtimes=("eager", "compile")))
    with pytest.raises(ConfigError, match="`runtimes` has onnxruntime, which needs onnx"):
        check_runtimes(Measure(runtimes=("eager", "onnxruntime")))
    with pytest.raises(ConfigError, match="`target` has openvino, which needs openvino"):
        check_runtimes(Measure(target="openvino"))


@pytest.mark.usefixtures("everything")
def test_exported_files_are_not_measured_for_an_accelerator() -> None:
    check_runtimes(Measure(), "cuda:0")
    check_runtimes(Measure(runtimes=("eager", "compile")), "cuda:0")
    with pytest.raises(
        ConfigError, match="has onnxruntime, which is measured on the CPU, and this run is on cuda:0"
    ):
        check_runtimes(Measure(runtimes=("eager", "onnxruntime")), "cuda:0")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Threads(nn.Module):
    """Notes torch's threads in each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((torch.get_num_threads(), len(x)))
        return x


@pytest.mark.usefixtures("two_threads")
def test_with_the_threads_of_the_run_and_with_one(tmp_path: Path) -> None:
    model = Threads()
    found = time_in("eager", {"it": model}, {"it": torch.zeros(1, 3)}, QUICK, folder=tmp_path, warmup=1)
    assert [one.threads for one in found["it"]] == [2, 1]
    # A warm-up and three passes each.
    assert model.seen == [(2, 1)] * 4 + [(2, 2)] * 4 + [(1, 1)] * 4 + [(1, 2)] * 4
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("everything")
def test_what_does_not_run_is_warned_about_once_and_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    def runnable(network: nn.Sequential, runtime: str, *_: object, **__: object) -> nn.Sequential:
        if runtime == "onnxruntime" and len(network) > 1:
            raise ExportError("it has a layer that ONNX lacks")
        if runtime == "onnxruntime_int8":
            raise ValueError("broken\nin two lines")
        return network

    monkeypatch.setattr("tascnet.measure.runtimes.runnable", runnable)
    models = {"plain": nn.Sequential(nn.Linear(3, 2)), "odd": nn.Sequential(nn.Linear(3, 2), nn.ReLU())}
    with caplog.at_level(logging.WARNING, logger="tascnet"):
        measured = measure_models(models, (1, 3), measure=QUICK, cache=tmp_path, warmup=0)
    assert [one.runtime for one in measured["plain"]["latencies"]] == ["eager", "onnxruntime"]
    assert [one.runtime for one in measured["odd"]["latencies"]] == ["eager"]
    assert caplog.messages == [
        "latency of odd in onnxruntime is not measured: it has a layer that ONNX lacks",
        "latency of plain in onnxruntime_int8 is not measured: broken",
        "latency of odd in onnxruntime_int8 is not measured: broken",
    ]


@pytest.mark.deployed
@pytest.mark.usefixtures("two_threads")
def test_an_exported_network_is_timed_in_onnx_runtime_and_exported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    body = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    network = nn.Sequential(*body).eval()

    def measured() -> list[tuple[str, int]]:
        found = measure_models({"it": network}, (1, 3, 8, 8), measure=QUICK, cache=tmp_path)["it"]
        assert all(0 < one.latency_ms_spread[0] <= one.latency_ms for one in found["latencies"])
        return [(one.runtime, one.threads) for one in found["latencies"]]

    names = ("eager", "onnxruntime", "onnxruntime_int8")
    assert measured() == [(name, threads) for name in names for threads in (2, 1)]
    files = sorted(os.listdir(tmp_path / "exported"))
    assert len([name for name in files if name.endswith(".onnx")]) == 2
    monkeypatch.setattr("tascnet.exporting.runtimes.onnx_model", lambda *_: pytest.fail("exported again"))
    assert len(measured()) == 6
    assert sorted(os.listdir(tmp_path / "exported")) == files
