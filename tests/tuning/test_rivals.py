"""Rivals: other networks, fine-tuned conventionally beside the search, in every table."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tascnet
from tascnet.errors import ConfigError, TascnetError
from tascnet.models.build import write_backbone
from tascnet.options import Autotune, Digits, Local, Measure, Recipe, RivalName, Trainer, Tune
from tascnet.report.comparison import compare
from tascnet.run.files import read_jsonl
from tascnet.run.records import TuneMetrics
from tascnet.tuning.tune import TuneResult

DIGITS = Digits(classes=("5", "6", "7", "8", "9"), train=0.1, val=0.1, flip=False)
BRIEF = Trainer(epochs=1, batch_size=32)


def tuned(run: Path | None, *rivals: str, cache: Path, trials: int = 1, **changes: Any) -> TuneResult:
    network = tascnet.backbone("digits_cnn", weights="random")
    options = Tune(rivals=rivals, max_trials=trials, initial_trials=1, neurons=(8,), slim_every=0)
    changes = {"measure": Measure(batch=2, repeats=3), "threads": 1, "device": "cpu"} | changes
    return tascnet.tune(network, DIGITS, options, trainer=BRIEF, run=run, cache=cache, **changes)


@pytest.mark.parametrize(
    ("text", "network", "size", "weights"),
    [
        ("mobilenet_v3_small", "mobilenet_v3_small", None, None),
        ("timm/tf_efficientnet_lite0@128", "timm/tf_efficientnet_lite0", 128, None),
        ("my_nets.Net@96:../w/own 1.pth.tar", "my_nets.Net", 96, "../w/own 1.pth.tar"),
        ("timm/resnet18:a1_in1k", "timm/resnet18", None, "a1_in1k"),
    ],
)
def test_names_sizes_and_weights(text: str, network: str, size: int | None, weights: str | None) -> None:
    assert RivalName.of(text) == RivalName(network=network, size=size, weights=weights)
    for options in (Tune(rivals=(text,)), Autotune(rivals=(text,))):
        (name,) = options.rival_names
        assert name.row == f"rival {network}" + (f"@{size}" if size else "")


@pytest.mark.parametrize("text", ["", "a b", "resnet18@", "resnet18@big", "resnet18:", "@96"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"`rivals` cannot read .*: give names such as resnet18"):
        Tune(rivals=(text,))
    with pytest.raises(ConfigError, match="names a network of one size twice"):
        Tune(rivals=("resnet18:a", "resnet18:b"))


def test_a_rival_is_a_row_in_every_table(tmp_path: Path) -> None:
    run = tmp_path / "digits" / "digits_cnn" / "run-seed0" / "tune"
    result = tuned(run, "resnet20@16:random", "digits_cnn:random", cache=tmp_path / "cache")
    rows = ["baseline", "conventional", "rival resnet20@16", "rival digits_cnn", "after"]
    assert list(result.metrics.models) == rows
    models = {name: result.metrics.models[name] for name in rows}
    other, same = models["rival resnet20@16"], models["rival digits_cnn"]
    # A rival that is the network itself is the conventional network trained from its first block on.
    assert same.flops == models["conventional"].flops
    assert same.trainable_params == same.params == models["conventional"].params
    network = tascnet.load(run / result.metrics.archives["rival resnet20@16"])
    assert other.params == other.trainable_params == sum(p.numel() for p in network.parameters())
    assert network.info.preprocessing.example_shape == (1, 3, 16, 16)
    assert network.info.class_names == result.network.info.class_names
    # The same rows are held out; the digest before them is of the pixels.
    held_out = [str(each.info.held_out).partition("-")[2] for each in (network, result.network)]
    assert held_out[0] == held_out[1]
    assert all(model.latency_ms > 0 and model.batch == 2 for model in models.values())
    assert [(rival.row, rival.size) for rival in result.metrics.rivals] == [
        ("rival resnet20@16", 16),
        ("rival digits_cnn", 8),
    ]
    assert {"rival resnet20@16: head", "rival resnet20@16", "rival digits_cnn"} < set(
        result.metrics.trainings
    )
    assert result.metrics.seconds > sum(rival.seconds for rival in result.metrics.rivals) > 0
    page = (run / "report.html").read_text()
    assert "rival resnet20@16" in page
    assert "another network, fine-tuned at 16 px from random" in page
    assert "rival" in str(result)
    found = {row.model: row for row in compare(tmp_path / "digits").rows}
    assert found["rival resnet20@16"].changes["conventional"]["params"] is not None


def test_rivals_join_a_finished_stage_without_another_search(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, cache = tmp_path / "tune", tmp_path / "cache"
    before = tuned(run, cache=cache).metrics
    journal = (run / "trials.jsonl").read_bytes()
    with caplog.at_level(logging.INFO, "tascnet"):
        after = tuned(run, "digits_cnn:random", cache=cache).metrics
    assert "tune is finished" in caplog.text
    assert (run / "trials.jsonl").read_bytes() == journal
    assert list(after.models) == ["baseline", "conventional", "rival digits_cnn", "after"]
    for name, model in before.models.items():
        assert after.models[name].test_accuracy == model.test_accuracy
        assert after.models[name].trainable_params == model.trainable_params
    assert "rival digits_cnn" in (run / "report.html").read_text()
    # A second one joins the first, nothing is trained again, and a command without rivals changes nothing.
    both = tuned(run, "digits_cnn:random", "digits_cnn@12:random", cache=cache).metrics
    assert [rival.row for rival in both.rivals] == ["rival digits_cnn", "rival digits_cnn@12"]
    assert both.rivals[0] == after.rivals[0]
    assert tuned(run, cache=cache).metrics == both
    again = tuned(run, "digits_cnn@12:random", cache=cache, measure=Measure(batch=3, repeats=3)).metrics
    assert {model.batch for model in again.models.values()} == {3}
    assert list(again.models) == list(both.models)
    # A damaged rival is trained again, and a longer search trains none.
    path = run / both.archives["rival digits_cnn"] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    longer = tuned(run, "digits_cnn:random", cache=cache, trials=2).metrics
    assert longer.trials == 2
    assert [rival.key for rival in longer.rivals] == [both.rivals[0].key]
    assert longer.models["rival digits_cnn"].test_accuracy == after.models["rival digits_cnn"].test_accuracy


def test_another_file_of_weights_replaces_the_row(tmp_path: Path) -> None:
    run, cache, path = tmp_path / "tune", tmp_path / "cache", tmp_path / "own.safetensors"

    def with_weights(seed: int) -> TuneMetrics:
        write_backbone(path, tascnet.backbone("digits_cnn", weights="random", num_classes=3, seed=seed))
        return tuned(run, f"digits_cnn:{path}", cache=cache).metrics

    first, second = with_weights(0), with_weights(1)
    assert list(first.models) == list(second.models)
    assert first.rivals[0].key != second.rivals[0].key
    assert first.rivals[0].weights != second.rivals[0].weights


@pytest.mark.parametrize(
    ("rival", "words"),
    [
        ("resnet20", "rival resnet20: resnet20 has no published weights"),
        ("resnet20:absent.pth", "rival resnet20: `weights=absent.pth` is no file"),
        ("resnet19:random", "rival resnet19: there is no network 'resnet19'"),
        ("textcnn:random", "rival textcnn: rivals are networks for images"),
        ("resnet20@2:random", "rival resnet20@2: `size` must be at least 4"),
    ],
)
def test_a_rival_that_cannot_be_loaded_is_refused_before_anything_is_trained(
    rival: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tascnet.train.learner.fit", None)
    with pytest.raises(TascnetError) as caught:
        tuned(tmp_path / "tune", rival, cache=tmp_path / "cache")
    assert str(caught.value).startswith(words)
    assert not (tmp_path / "tune" / "state").exists()


def test_rivals_are_trained_by_the_recipes_of_the_conventional_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The softmax layer on features, then everything from samples, as the recipe `finetune` says.

    One epoch does not help the random network here, so a third of the learning rate is tried as well.
    """
    from tascnet.train.learner import fit

    calls: list[tuple[Recipe, bool]] = []

    def noted(network: Any, train: Any, val: Any, recipe: Recipe, **options: Any) -> Any:
        trained = all(parameter.requires_grad for parameter in network.parameters())
        calls.append((recipe, trained))
        return fit(network, train, val, recipe, **options)

    monkeypatch.setattr("tascnet.train.learner.fit", noted)
    tuned(None, "digits_cnn:random", cache=tmp_path)
    head, usual, slower = calls[-3:]
    assert head == (BRIEF.recipe("head"), True)
    assert usual == (BRIEF.recipe("finetune"), True)
    assert slower == (replace(BRIEF.recipe("finetune"), lr=float(BRIEF.lr) / 3), True)


def test_rivals_trained_by_workers_are_those_trained_here(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    names, cache = ("digits_cnn@12:random", "digits_cnn:random"), tmp_path / "cache"
    here = tuned(tmp_path / "here", *names, cache=cache, executor=Local(cpus=1)).metrics
    found = tuned(tmp_path / "there", *names, cache=cache, trials=3, executor=tascnet.Ray(workers=2))
    # Each proposal is trained once, whichever ends first.
    proposed = read_jsonl(tmp_path / "there" / "trials.proposed.jsonl")
    assert [row["config"] for row in proposed] == [trial.config for trial in found.trials]
    assert len(found.trials) == 3
    there = found.metrics
    assert list(there.models) == list(here.models)
    # What is handed over may be another trial.
    for name, model in list(here.models.items())[:-1]:
        assert there.models[name].test_accuracy == model.test_accuracy
    for name, training in ((n, t) for n, t in here.trainings.items() if n.startswith(("rival", "conv"))):
        assert there.trainings[name].val_loss == training.val_loss
