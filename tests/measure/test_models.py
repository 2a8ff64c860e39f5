"""The record of a model, the size of a saved one, and the description of the machine."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tascnet.errors import ArchiveError, ConfigError
from tascnet.measure import (
    check_batch,
    complexity,
    describe_device,
    measure_models,
    measured_again,
    size_bytes,
    versions,
)
from tascnet.options import Measure
from tascnet.run.records import ModelMetrics, from_json, to_json
from tests.report.records import model

QUICK: dict[str, Any] = {"measure": Measure(batch=2, repeats=3), "warmup": 0}


def test_record_of_a_model() -> None:
    record = measure_models({"it": nn.Sequential(nn.Linear(3, 4))}, (1, 3), **QUICK)["it"]
    assert (record["params"], record["trainable_params"], record["flops"]) == (16, 16, 12)
    eager, *alone = record["latencies"]
    assert (eager.runtime, eager.threads, eager.device) == ("eager", torch.get_num_threads(), "cpu")
    assert [one.threads for one in alone] == [1] * (torch.get_num_threads() > 1)
    for ms, (low, high) in (
        (eager.latency_ms, eager.latency_ms_spread),
        (eager.latency_ms_batch, eager.latency_ms_batch_spread),
    ):
        assert 0 < low <= ms <= high
    assert (record["batch"], record["threads"]) == (2, torch.get_num_threads())
    # It is what a record of metrics takes beside accuracies and size.
    accuracies = ("val_accuracy", "test_accuracy", "val_balanced_accuracy", "test_balanced_accuracy")
    metrics = ModelMetrics(
        **dict.fromkeys(accuracies, 0.5),
        test_top5_accuracy=None,
        classes=(),
        confusion=(),
        predictions=(),
        size_bytes=1,
        **record,
    )
    assert from_json(ModelMetrics, json.loads(json.dumps(to_json(metrics)))) == metrics


def test_models_keep_their_names_and_order() -> None:
    models = {"before": nn.Linear(3, 4), "after": nn.Linear(3, 2)}
    measured = measure_models(models, torch.zeros(1, 3), **QUICK)
    assert [(name, row["flops"]) for name, row in measured.items()] == [("before", 12), ("after", 6)]


def test_integer_examples_for_text() -> None:
    model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 2))
    measured = measure_models({"text": model}, torch.zeros(1, 3, dtype=torch.int64), **QUICK)
    assert measured["text"]["flops"] == 24


def test_models_of_one_structure_have_the_same_latencies(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[list[str]] = []

    def time_in(runtime: str, networks: dict[str, nn.Module], *_: Any, **__: Any) -> dict[str, Any]:
        timed.append(list(networks))
        return {name: (f"{runtime} of {name}",) for name in networks}

    monkeypatch.setattr("tascnet.measure.models.time_in", time_in)
    models = {
        **{"narrow": nn.Linear(3, 2), "wide": nn.Linear(3, 4), "other weights": nn.Linear(3, 2)},
        "own": Untouched(3, 2, 1),
    }
    examples = dict.fromkeys(models, torch.zeros(1, 3)) | {"own": torch.zeros(1, 3, 4, 4, device="meta")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "tascnet.measure.models.complexity", lambda *_: complexity(nn.Linear(3, 2), torch.zeros(1, 3))
        )
        measured = measure_models(models, examples, measure=Measure(runtimes=("eager", "compile")))
    assert timed == [["narrow", "wide", "own"]] * 2
    for name, first in {"narrow": "narrow", "wide": "wide", "other weights": "narrow", "own": "own"}.items():
        assert measured[name]["latencies"] == (f"eager of {first}", f"compile of {first}")


def test_a_model_with_layers_in_float_is_timed_apart_in_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[str], Any]] = []

    def time_in(_: str, networks: dict[str, nn.Module], *__: Any, **limits: Any) -> dict[str, Any]:
        seen.append((list(networks), limits["float_layers"]))
        return {name: (f"of {name}",) for name in networks}

    monkeypatch.setattr("tascnet.measure.models.time_in", time_in)
    models = {name: nn.Linear(3, 2) for name in ("tuned", "pruned", "again")}
    measured = measure_models(models, (1, 3), float_layers={"pruned": ("head",)}, **QUICK)
    assert seen == [(["tuned", "pruned"], {"pruned": ("head",)})]
    assert [row["latencies"] for row in measured.values()] == [("of tuned",), ("of pruned",), ("of tuned",)]


class Untouched(nn.Conv2d):
    """Fails where it is given values."""

    def forward(self, inputs: Tensor) -> Tensor:
        assert inputs.is_meta
        return super().forward(inputs)


def test_networks_that_were_judged_apart_are_timed_side_by_side() -> None:
    networks = {name: nn.Sequential(nn.Conv2d(3, width, 3)) for name, width in (("a", 4), ("b", 8))}
    before = {name: model(test_accuracy=0.1, params=7, batch=99, latency_ms=1e6) for name in networks}
    after = measured_again(before, networks, (1, 3, 8, 8), measure=Measure(batch=2, repeats=3))
    assert list(after) == ["a", "b"]
    for one in after.values():
        # Its own figures stay.
        assert (one.test_accuracy, one.params, one.batch) == (0.1, 7, 2)
        assert one.threads == torch.get_num_threads()
        assert 0 < one.latency_ms < 1e6


# Inputs and outputs of one sample take 3 + 5 maps of 8 x 8 values of 4 bytes: 2048 bytes.
@pytest.mark.parametrize(
    ("memory", "batches", "says"),
    [
        (2047, {"batch": 1}, r"one sample takes at least .* in one layer.*: lower `size`"),
        (2048, {"batch": 1}, None),
        (2048, {"batch": 2}, r"`batch=2` samples .*: lower it to 1, or lower `size`"),
        (20480, {"batch": 10}, None),
        (20480, {"batch": 11}, r"`batch=11` samples .*: lower it, far below 10, or lower `size`"),
        (20480, {"batch": 1, "batch_size": 11}, r"`batch_size=11` samples .*: lower it, far below 10"),
        (20480, {"batch": 1, "batch_size": 10}, None),
    ],
)
def test_a_batch_that_cannot_fit_is_refused_without_a_pass(
    memory: int, batches: dict[str, int], says: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tascnet.measure.models._memory", lambda _: memory)
    # In place: an activation takes no memory of its own.
    model = nn.Sequential(Untouched(3, 5, 1), nn.ReLU(inplace=True))
    with nullcontext() if says is None else pytest.raises(ConfigError, match=says):
        check_batch(model, torch.zeros(1, 3, 8, 8), device="cpu", **batches)


def test_a_huge_network_is_measured_before_it_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tascnet.measure.models._memory", lambda _: 10**9)
    model = nn.Sequential(nn.Conv2d(1, 64, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(ConfigError, match="one sample takes"):
        check_batch(model, torch.zeros(1, 1, 1, 1).expand(1, 1, 4096, 4096), device="cpu", batch=1)


def test_texts_are_made_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tascnet.measure.models._memory", lambda _: 100)
    with pytest.raises(ConfigError, match="lower `max_tokens`"):
        check_batch(nn.Embedding(10, 4), torch.zeros(1, 9, dtype=torch.int64), device="cpu", batch=1)


def test_size_of_a_saved_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x" * 123)
    assert size_bytes(tmp_path) == 123


def test_size_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"holds no model\.safetensors"):
        size_bytes(tmp_path)


def test_machine_and_versions() -> None:
    machine = describe_device("cpu")
    assert machine.device == "cpu"
    assert machine.cpu
    assert machine.threads == torch.get_num_threads()
    assert (
        versions()["torch"] == torch.__version__.partition("+")[0] or versions()["torch"] == torch.__version__
    )
    assert {"python", "fvcore", "numpy"} <= versions().keys()
