"""The figures of finished networks."""

from dataclasses import replace
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
from tascnet.run.records import ClassMetrics, StageMetrics, StepRecord, TrainingRecord, from_json, to_json
from tascnet.run.verdict import class_warnings
from tascnet.train.classes import class_metrics, confusion
from tascnet.train.judge import (
    judge,
    remeasured,
    stage_facts,
    trainings_of,
    warn_of_lost_classes,
)
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
    return StageMetrics(models=models, trainings={}, budget={}, seconds=1.0, **facts)


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
        test = learner.evaluate(network, learner.samples.test)
        assert (row.test_accuracy, row.test_balanced_accuracy) == (test.accuracy, test.balanced_accuracy)
        assert [one.name for one in row.classes] == ["5", "6", "7", "8", "9"]
        assert sum(count for *_, count in row.confusion) == test.samples
        assert sum(n for true, named, n in row.confusion if true == named) == test.accuracy * test.samples
        assert row.size_bytes == size_bytes(tmp_path / name)
        assert row.predictions == tuple(test.predictions.tolist())
        assert (row.batch, row.threads, row.eager.device) == (2, torch.get_num_threads(), "cpu")
        assert row.eager.latency_ms_spread[0] <= row.latency_ms <= row.eager.latency_ms_spread[1]
        assert row.deployed is None
    assert found.models["other"].trainable_params < found.models["other"].params
    assert from_json(StageMetrics, to_json(found)) == found


def test_facts_say_where_the_figures_come_from(learner) -> None:
    facts = stage_facts(learner, "digits_cnn", FAST)
    assert (facts["dataset"], facts["backbone"], facts["seed"]) == ("digits", "digits_cnn", 3)
    assert (facts["samples"].train, facts["samples"].val, facts["samples"].classes) == (100, 150, 5)
    assert facts["measure"] == {"batch": 2, "repeats": 3, "runtimes": ["eager"], "target": "eager"}
    assert facts["machine"].threads == torch.get_num_threads()
    assert {"torch", "python", "tascnet"} <= facts["versions"].keys()


def test_only_latencies_are_measured_again(learner, networks, tmp_path: Path, logged: list[str]) -> None:
    found = metrics_of(learner, networks, tmp_path)
    assert remeasured(found, networks, learner.samples.example, FAST) is None
    again = remeasured(found, networks, learner.samples.example, Measure(batch=5, repeats=3))
    assert again is not None
    assert again.measure == {"batch": 5, "repeats": 3, "runtimes": ["eager"], "target": "eager"}
    assert "INFO: latencies are measured again: `batch` was 2 and is now 5" in logged
    for name, row in again.models.items():
        assert row.batch == 5
        kept = ("val_accuracy", "test_accuracy", "params", "trainable_params", "flops", "size_bytes")
        assert all(getattr(row, key) == getattr(found.models[name], key) for key in kept)
    assert (again.seconds, again.samples, again.seed) == (found.seconds, found.samples, found.seed)


@pytest.mark.parametrize(
    ("before", "options", "changed"),
    [
        # What counts decides nothing about what is measured.
        ({"target": "onnxruntime"}, {}, None),
        ({"runtimes": ["eager", "onnxruntime"]}, {}, None),
        ({}, {"runtimes": ("eager", "compile")}, "`runtimes` was ['eager'] and is now ['eager', 'compile']"),
        (
            {"runtimes": ["eager", "compile"]},
            {"runtimes": ("eager",)},
            "`runtimes` was ['eager', 'compile'] and is now ['eager']",
        ),
        ({"repeats": 4}, {}, "`repeats` was 4 and is now 3"),
        # What is lost by it is said.
        (
            {"repeats": 4, "runtimes": ["eager", "onnxruntime"]},
            {},
            "`repeats` was 4 and is now 3, `runtimes` was ['eager', 'onnxruntime'] and is now ['eager']",
        ),
    ],
)
def test_what_makes_latencies_be_measured_again(
    learner, networks, tmp_path: Path, logged: list[str], monkeypatch, before, options, changed
) -> None:
    found = metrics_of(learner, networks, tmp_path)
    found = replace(found, measure=found.measure | before)
    asked: list[Measure] = []

    def measured(models, example, *, measure, cache):
        asked.append(measure)
        return {name: {"latencies": (), "batch": 2, "threads": 1} for name in models}

    monkeypatch.setattr("tascnet.train.judge.measure_models", measured)
    measure = replace(FAST, **options)
    again = remeasured(found, networks, learner.samples.example, measure)
    assert (again is None) is (changed is None)
    assert asked == ([] if changed is None else [measure])
    assert changed is None or logged[-1] == f"INFO: latencies are measured again: {changed}"


def test_trainings_have_the_names_of_their_networks() -> None:
    head, whole = (
        TrainingRecord(
            **dict.fromkeys(("val_accuracy", "val_balanced_accuracy", "val_loss"), 0.5),
            **{"best_epoch": 1, "seconds": seconds, "epochs": ()},
        )
        for seconds in (1.0, 2.0)
    )
    steps = {
        "both": StepRecord(seconds=3.0, head=head, training=whole),
        "neither": StepRecord(seconds=0.0),
        "one": StepRecord(seconds=2.0, training=whole),
    }
    assert trainings_of(steps) == {"both: head": head, "both": whole, "one": whole}


def test_recall_precision_and_f1_by_hand() -> None:
    # Of four samples of "a" three are found, of "b" one of two; "c" has none, and "d" is never named.
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 3])
    named = torch.tensor([0, 0, 0, 2, 1, 0, 0])
    a, b, c, d = class_metrics(("a", "b", "c", "d"), labels, named)
    assert (a.samples, a.recall, a.precision, a.f1) == (4, 0.75, 0.6, pytest.approx(2 / 3))
    assert (b.samples, b.recall, b.precision, b.f1) == (2, 0.5, 1.0, pytest.approx(2 / 3))
    assert c == ClassMetrics(name="c", samples=0, recall=0.0, precision=0.0, f1=0.0)
    assert d == ClassMetrics(name="d", samples=1, recall=0.0, precision=0.0, f1=0.0)
    assert confusion(labels, named) == ((0, 0, 3), (0, 2, 1), (1, 0, 1), (1, 1, 1), (3, 0, 1))


def test_majority_accuracy_is_that_of_the_largest_class_in_training(learner, cache: Path) -> None:
    samples = open_samples(tascnet.digits(), learner.samples.preprocessing, seed=0, cache=cache)
    train = samples.train.labels.bincount()
    largest = int(train.argmax())
    found = samples.counts()
    assert found.majority_accuracy == int((samples.test.labels == largest).sum()) / found.test
    assert [one.train for one in found.by_class] == train.tolist()


@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_a_network_that_names_one_class_is_warned_of(
    learner, networks, tmp_path: Path, logged: list[str], weights: str
) -> None:
    trainer = replace(learner.trainer, class_weights=weights)
    learner = Learner(samples=learner.samples, device=learner.device, trainer=trainer, seed=3)
    constant = networks["one"]
    with torch.no_grad():
        constant.classifier.weight.zero_()
        constant.classifier.bias.copy_(torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]))
    found = metrics_of(learner, {"after": constant}, tmp_path)
    assert found.class_weights == weights
    model = found.models["after"]
    ((*_, sevens),) = [row for row in model.confusion if row[0] == row[1]]
    assert model.test_accuracy == sevens / found.samples.test
    blind = replace(found, samples=replace(found.samples, majority_accuracy=model.test_accuracy))
    warn_of_lost_classes(blind)
    assert logged[-1] == f"WARNING: {' '.join(class_warnings(blind))}"
    assert "4 of 5 classes are never found in the test samples: 5, 6, 8, 9." in logged[-1]
    total = found.samples.test
    assert f"The result names 7 for {total} of {total} test samples." in logged[-1]
