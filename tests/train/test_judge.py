"""The figures of finished networks."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn

import tascnet
from tascnet.data.samples import open_samples
from tascnet.measure import complexity, size_bytes
from tascnet.models.archive import save
from tascnet.models.head import HeadSpec, replace_head
from tascnet.options import Measure
from tascnet.run.records import StageMetrics, from_json, to_json
from tascnet.train.judge import judge, remeasured, stage_facts
from tascnet.train.learner import Learner

FAST = Measure(batch=2, repeats=3)


@pytest.fixture(scope="module")
def learner(cache: Path) -> Learner:
    network = tascnet.backbone("digits_cnn", weights="random")
    samples = open_samples(tascnet.digits(), network.preprocessing, seed=0, cache=cache)
    trainer = tascnet.preset("trainer", "digits")
    return Learner(samples=samples, device=torch.device("cpu"), trainer=trainer, seed=3)


@pytest.fixture
def networks() -> dict[str, nn.Sequential]:
    network = tascnet.backbone("digits_cnn", weights="random")
    other = replace_head(network, HeadSpec(hidden=(8,)), 5, seed=0)
    other.conv1.requires_grad_(False)
    return {"one": replace_head(network, HeadSpec(), 5, seed=0), "other": other.eval()}


def metrics_of(learner: Learner, networks: dict[str, nn.Sequential], folder: Path) -> StageMetrics:
    info = tascnet.backbone("digits_cnn", weights="random").info
    for name, network in networks.items():
        save(network, folder / name, info)
    models = judge(learner, networks, {name: folder / name for name in networks}, FAST)
    facts = stage_facts(learner, "digits_cnn", FAST)
    return StageMetrics(models=models, budget={}, seconds=1.0, **facts)


def test_figures_are_those_of_the_networks(learner, networks, tmp_path: Path) -> None:
    found = metrics_of(learner, networks, tmp_path)
    for name, network in networks.items():
        row, cost = found.models[name], complexity(network, learner.samples.example)
        assert (row.params, row.trainable_params, row.flops) == (
            cost.params,
            cost.trainable_params,
            cost.flops,
        )
        assert row.val_accuracy == learner.evaluate(network).accuracy
        assert row.test_accuracy == learner.evaluate(network, learner.samples.test).accuracy
        assert row.size_bytes == size_bytes(tmp_path / name)
        assert (row.batch, row.device) == (2, "cpu")
        assert row.latency_ms_spread[0] <= row.latency_ms <= row.latency_ms_spread[1]
    assert found.models["other"].trainable_params < found.models["other"].params
    assert from_json(StageMetrics, to_json(found)) == found


def test_facts_say_where_the_figures_come_from(learner) -> None:
    facts = stage_facts(learner, "digits_cnn", FAST)
    assert (facts["dataset"], facts["backbone"], facts["seed"]) == ("digits", "digits_cnn", 3)
    assert (facts["samples"].train, facts["samples"].val, facts["samples"].classes) == (100, 150, 5)
    assert facts["measure"] == asdict(FAST)
    assert facts["machine"].threads == torch.get_num_threads()
    assert {"torch", "python", "tascnet"} <= facts["versions"].keys()


def test_only_latencies_are_measured_again(learner, networks, tmp_path: Path, logged: list[str]) -> None:
    found = metrics_of(learner, networks, tmp_path)
    assert remeasured(found, networks, learner.samples, FAST) is None
    again = remeasured(found, networks, learner.samples, Measure(batch=5, repeats=3))
    assert again is not None
    assert again.measure == {"batch": 5, "repeats": 3}
    assert "INFO: latencies are measured again: `batch` was 2 and is now 5" in logged
    for name, row in again.models.items():
        assert row.batch == 5
        kept = ("val_accuracy", "test_accuracy", "params", "trainable_params", "flops", "size_bytes")
        assert all(getattr(row, key) == getattr(found.models[name], key) for key in kept)
    assert (again.seconds, again.samples, again.seed) == (found.seconds, found.samples, found.seed)
