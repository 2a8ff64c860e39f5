"""Latencies from a table of layers, whose times are given, and in real runtimes."""

import math
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from tascnet.errors import ConfigError
from tascnet.exporting import installed
from tascnet.exporting.layers import EMPTY, Layer, layers_of
from tascnet.measure.clock import Clock
from tascnet.measure.table import LayerTable, time_layers
from tascnet.options import Measure

EXAMPLE = torch.zeros(1, 3, 8, 8)
EMPTY_MS = 0.5


def network(width: int = 4) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 2),
    ).eval()


def by_weights(layers: list[Layer]) -> list[float]:
    """A hundredth of a millisecond for each weight, on top of what the empty layer takes."""
    return [EMPTY_MS + (0 if layer == EMPTY else 0.01 * math.prod(layer.weights)) for layer in layers]


@pytest.fixture
def table(tmp_path: Path) -> LayerTable:
    return LayerTable(tmp_path / "layer-times" / "table.json", by_weights)


def test_layers_are_found_with_all_that_decides_their_time() -> None:
    conv, linear = layers_of(network(), EXAMPLE)
    assert conv == Layer(
        inputs=(1, 3, 8, 8),
        outputs=(1, 4, 4, 4),
        weights=(4, 3, 3, 3),
        stride=(2, 2),
        padding=(1, 1),
        dilation=(1, 1),
    )
    assert linear == Layer(inputs=(1, 4), outputs=(1, 2), weights=(2, 4))


def test_layers_are_found_whatever_computes_them() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2, 1, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            convolved = functional.conv1d(x, self.weight, padding=1, groups=2)
            return functional.linear(convolved.mean(-1), torch.ones(5, 2))

    own = Own().train()
    conv, linear = layers_of(own, torch.zeros(1, 2, 6))
    assert (conv.weights, conv.groups, conv.outputs, conv.padding) == ((2, 1, 3), 2, (1, 2, 6), (1,))
    assert linear.weights == (5, 2)
    assert own.training


def test_the_sum_by_hand(table: LayerTable) -> None:
    # 4 x 3 x 9 and 2 x 4 weights; what the empty layer takes is taken off both.
    assert table.sum(layers_of(network(), EXAMPLE)) == pytest.approx(0.01 * (108 + 8))


def test_each_layer_is_timed_once_and_kept(table: LayerTable, tmp_path: Path) -> None:
    layers = layers_of(nn.Sequential(*(nn.Linear(4, 4) for _ in range(3))), torch.zeros(1, 4))
    timed: list[Layer] = []

    def timer(layers: list[Layer]) -> list[float]:
        timed.extend(layers)
        return by_weights(layers)

    path = tmp_path / "layer-times" / "other.json"
    assert LayerTable(path, timer).sum(layers) == pytest.approx(0.01 * 3 * 16)
    assert timed == [EMPTY, layers[0]]
    read = LayerTable(path, lambda _: pytest.fail("a layer was timed again"))
    assert read.sum(layers) == pytest.approx(0.01 * 3 * 16)


def test_a_damaged_table_is_made_again(table: LayerTable, caplog: pytest.LogCaptureFixture) -> None:
    layers = layers_of(network(), EXAMPLE)
    before, path = table.sum(layers), table._path
    path.write_text(path.read_text().replace("0.5", "0.25", 1))
    assert LayerTable(path, by_weights).sum(layers) == before
    assert "its layers are timed again" in caplog.text


@pytest.fixture
def clock_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, table: LayerTable):
    """A clock of an exported runtime, in which networks of so many filters take the milliseconds given."""

    def make(measured: dict[int, float], reference: nn.Sequential) -> Clock:
        def timed(_clock: Clock, networks: dict[str, nn.Sequential], *_limits: object) -> dict[str, object]:
            found = {name: measured[one[0].out_channels] for name, one in networks.items()}
            return {n: SimpleNamespace(median_ms=ms, spread_ms=(0.9 * ms, 2 * ms)) for n, ms in found.items()}

        monkeypatch.setattr(Clock, "_timed", timed)
        monkeypatch.setattr(Clock, "_exported", lambda *_: None)
        (tmp_path / "state").mkdir(exist_ok=True)
        path = tmp_path / "state" / "latency.json"
        return Clock(Measure(target="onnxruntime"), EXAMPLE, reference, tmp_path, path, table=table)

    return make


def test_a_prediction_is_scaled_to_what_was_measured(clock_of) -> None:
    reference = network(8)
    clock = clock_of({8: 20.0, 4: 12.0}, reference)
    assert clock.reference_ms == 20.0
    # 29 weights for each filter: half of them, so half of the reference's 20 ms.
    assert clock.times({"half": network(4), "quarter": network(2)}) == {
        "half": pytest.approx(10.0),
        "quarter": pytest.approx(5.0),
    }
    # Measured, the half takes 12 ms, which alone changes no prediction.
    assert clock.exact(network(4)) == pytest.approx(12.0)
    assert clock.times({"quarter": network(2)})["quarter"] == pytest.approx(5.0)
    # 3 ms for each filter once it is confirmed, also in a resumed run.
    assert clock.confirmed(network(4), lambda _: True) == pytest.approx(12.0)
    assert clock.times({"quarter": network(2)})["quarter"] == pytest.approx(6.0)
    again = clock_of({}, reference)
    assert again.reference_ms == 20.0
    assert again.times({"quarter": network(2)})["quarter"] == pytest.approx(6.0)


def test_a_latency_is_relative_to_the_reference_beside_it(clock_of) -> None:
    """Where the machine is twice as slow as before, both are."""
    clock, slow = clock_of({8: 20.0}, reference := network(8)), {8: 40.0, 4: 24.0}
    assert clock.reference_ms == 20.0
    assert clock_of(slow, reference).exact(network(4)) == pytest.approx(12.0)


@pytest.mark.parametrize(
    ("bound", "seconds", "expected"), [(9.0, 0.0, 10.0), (11.0, 0.0, 12.0), (9.0, 60, 12.0)]
)
def test_what_decides_is_measured(clock_of, bound, seconds, expected) -> None:
    """The prediction is 10 ms, and 12 ms are measured: where the bound seems kept, or there is time."""
    clock = clock_of({8: 20.0, 4: 12.0}, network(8))
    found = clock.confirmed(network(4), lambda latency_ms: latency_ms <= bound, seconds)
    assert found == pytest.approx(expected)


def test_the_time_to_export_the_reference_counts(clock_of, monkeypatch) -> None:
    """Measuring takes 60 ms; of a network that took 0.1 s to make it would be more than a tenth."""
    clock = clock_of({8: 20.0, 4: 12.0}, network(8))
    timed = Clock._timed

    def slow(*args: object) -> object:
        time.sleep(0.06)
        return timed(*args)

    monkeypatch.setattr(Clock, "_timed", slow)
    assert clock.confirmed(network(4), lambda _: False, 0.1) == pytest.approx(10.0)
    assert clock.confirmed(network(4), lambda _: False, 60) == pytest.approx(12.0)


def test_another_table_starts_from_the_reference_again(clock_of, tmp_path, caplog) -> None:
    """With other threads all layers take half as long: the anchor's sum is not theirs."""
    reference = network(8)
    clock_of({8: 20.0, 4: 12.0}, reference).confirmed(network(4), lambda _: True)
    clock = clock_of({}, reference)
    clock._table = LayerTable(tmp_path / "other.json", lambda layers: [t / 2 for t in by_weights(layers)])
    assert clock.times({"quarter": network(2)})["quarter"] == pytest.approx(5.0)
    assert "predictions start from the first network again" in caplog.text


def test_a_wider_network_is_never_predicted_faster(clock_of) -> None:
    clock = clock_of({8: 20.0}, network(8))
    times = [clock.times({"": network(width)})[""] for width in range(1, 17)]
    assert times == sorted(times)
    assert len(set(times)) == 16


def test_without_another_runtime_networks_are_measured_in_eager_pytorch(tmp_path: Path) -> None:
    reference = network()
    clock = Clock(Measure(repeats=3), EXAMPLE, reference, tmp_path, tmp_path / "latency.json")
    assert (clock.runtime, clock.name, clock.predicts) == ("eager", "eager PyTorch", False)
    assert clock.times({"a": network(), "b": reference}).keys() == {"a", "b"}
    assert clock.exact(reference) == clock.confirmed(reference, lambda _: True) == clock.reference_ms
    assert not (tmp_path / "layer-times").exists()


def _runtimes() -> list[str]:
    return sorted({"onnxruntime", "onnxruntime_int8", "openvino"} & installed.installed())


@pytest.mark.deployed
@pytest.mark.parametrize("runtime", _runtimes())
def test_layers_run_alone_in_each_runtime(runtime) -> None:
    """That a layer of a thousand times the operations takes longer is all that is asked of a busy machine."""
    conv = partial(Layer, stride=(1, 1), padding=(1, 1), dilation=(1, 1))
    small = conv(inputs=(1, 4, 8, 8), outputs=(1, 4, 8, 8), weights=(4, 4, 3, 3))
    large = conv(inputs=(1, 64, 32, 32), outputs=(1, 64, 32, 32), weights=(64, 64, 3, 3))
    depthwise = conv(inputs=(1, 8, 8, 8), outputs=(1, 8, 8, 8), weights=(8, 1, 3, 3), groups=8)
    text = Layer(
        inputs=(1, 4, 9), outputs=(1, 6, 7), weights=(6, 4, 3), stride=(1,), padding=(0,), dilation=(1,)
    )
    times = time_layers([small, large, depthwise, text, EMPTY], runtime, 1)
    assert all(milliseconds > 0 for milliseconds in times)
    assert times[1] > times[0]


@pytest.mark.deployed
def test_a_network_that_cannot_be_exported_is_named_with_a_way_out(tmp_path: Path) -> None:
    if "onnxruntime" not in installed.installed():
        pytest.skip("ONNX Runtime is not installed")

    class Own(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    own = nn.Sequential(Own(), *network())
    clock = Clock(Measure(target="onnxruntime"), EXAMPLE, own, tmp_path, tmp_path / "latency.json")
    with pytest.raises(ConfigError, match=r"in ONNX Runtime .*: give `target=eager`"):
        clock.reference_ms  # noqa: B018
