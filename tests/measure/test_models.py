"""The record of a model, the size of a saved one, and the description of the machine."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from tascnet.errors import ArchiveError
from tascnet.measure import describe_device, measure_models, size_bytes, versions
from tascnet.run.records import ModelMetrics, from_json, to_json

QUICK = {"repeats": 3, "warmup": 0}


def test_record_of_a_model() -> None:
    record = measure_models({"it": nn.Sequential(nn.Linear(3, 4))}, (1, 3), batch=2, **QUICK)["it"]
    assert (record["params"], record["trainable_params"], record["flops"]) == (16, 16, 12)
    assert min(record["latency_ms"], record["latency_ms_batch"]) > 0
    assert (record["batch"], record["device"]) == (2, "cpu")
    assert record["threads"] == torch.get_num_threads()
    # It is what a record of metrics takes beside accuracies and size.
    metrics = ModelMetrics(val_accuracy=0.5, test_accuracy=0.5, size_bytes=1, **record)
    assert from_json(ModelMetrics, json.loads(json.dumps(to_json(metrics)))) == metrics


def test_models_keep_their_names_and_order() -> None:
    models = {"before": nn.Linear(3, 4), "after": nn.Linear(3, 2)}
    measured = measure_models(models, torch.zeros(1, 3), batch=2, **QUICK)
    assert [(name, row["flops"]) for name, row in measured.items()] == [("before", 12), ("after", 6)]


def test_integer_examples_for_text() -> None:
    model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 2))
    measured = measure_models({"text": model}, torch.zeros(1, 3, dtype=torch.int64), batch=2, **QUICK)
    assert measured["text"]["flops"] == 24


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
