"""The record of a model, the size of a saved one, and the description of the machine."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tascnet.errors import ArchiveError, ConfigError
from tascnet.measure import check_batch, describe_device, measure_models, size_bytes, versions
from tascnet.run.records import ModelMetrics, from_json, to_json

QUICK = {"repeats": 3, "warmup": 0}


def test_record_of_a_model() -> None:
    record = measure_models({"it": nn.Sequential(nn.Linear(3, 4))}, (1, 3), batch=2, **QUICK)["it"]
    assert (record["params"], record["trainable_params"], record["flops"]) == (16, 16, 12)
    assert min(record["latency_ms"], record["latency_ms_batch"]) > 0
    assert (record["batch"], record["device"]) == (2, "cpu")
    assert record["threads"] == torch.get_num_threads()
    # It is what a record of metrics takes beside accuracies and size.
    accuracies = ("val_accuracy", "test_accuracy", "val_balanced_accuracy", "test_balanced_accuracy")
    metrics = ModelMetrics(
        **dict.fromkeys(accuracies, 0.5),
        test_top5_accuracy=None,
        classes=(),
        confusion=(),
        size_bytes=1,
        **record,
    )
    assert from_json(ModelMetrics, json.loads(json.dumps(to_json(metrics)))) == metrics


def test_models_keep_their_names_and_order() -> None:
    models = {"before": nn.Linear(3, 4), "after": nn.Linear(3, 2)}
    measured = measure_models(models, torch.zeros(1, 3), batch=2, **QUICK)
    assert [(name, row["flops"]) for name, row in measured.items()] == [("before", 12), ("after", 6)]


def test_integer_examples_for_text() -> None:
    model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 2))
    measured = measure_models({"text": model}, torch.zeros(1, 3, dtype=torch.int64), batch=2, **QUICK)
    assert measured["text"]["flops"] == 24


class Untouched(nn.Conv2d):
    """Fails where it is given values."""

    def forward(self, inputs: Tensor) -> Tensor:
        assert inputs.is_meta
        return super().forward(inputs)


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
