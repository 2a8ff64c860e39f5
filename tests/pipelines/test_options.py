"""What the options of both stages change, failing trials, and several runs at once."""

import re
from collections import OrderedDict

import pytest
import torch
from torch import nn

from tascnet.errors import SurgeryError
from tascnet.run.files import read_json, read_jsonl
from tascnet.tuning import CandidateBuilder
from tests.pipelines.commands import TINY, are_equal, command, metrics, states


def small_chain(num_classes: int, width: int = 16) -> nn.Sequential:
    blocks = OrderedDict(
        conv1=nn.Conv2d(3, width, 3, stride=4, padding=1),
        relu1=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(2),
        flatten=nn.Flatten(),
        classifier=nn.Linear(4 * width, num_classes),
    )
    return nn.Sequential(blocks)


def test_where_fine_tuning_starts_changes_what_is_trained(finished, cache, tmp_path):
    """`best` takes from `prefix` and `all` the one of the higher validation accuracy."""
    outcomes = {}
    for name in ("prefix", "all", "best"):
        run = tmp_path / name / "digits" / "digits_cnn" / "run-seed0"
        options = [*TINY, f"outputs={tmp_path / name}", f"cache_dir={cache}", "name=run", "stage=tune"]
        assert command(*options, f"tune.finetune_from={name}") == 0
        outcomes[name] = read_json(run / "tune" / "metrics.json")
        before, after = states(run / "tune" / "state" / "baseline"), states(run / "tune" / "model")
        was_whole = outcomes[name]["finetuned_from"] == "all"
        assert torch.equal(before["conv1.weight"], after["conv1.weight"]) is not was_whole
    rows = {name: outcome["models"]["after"] for name, outcome in outcomes.items()}
    assert rows["all"]["trainable_params"] == rows["all"]["params"] == rows["prefix"]["params"]
    assert rows["prefix"]["trainable_params"] < rows["prefix"]["params"]
    higher = max(("prefix", "all"), key=lambda name: rows[name]["val_accuracy"])
    assert [outcomes[name]["finetuned_from"] for name in outcomes] == ["prefix", "all", higher]
    same = ("val_accuracy", "test_accuracy", "params", "trainable_params")
    assert {name: rows["best"][name] for name in same} == {name: rows[higher][name] for name in same}


def test_the_conventional_network_hands_over_and_teaches(finished, cache, tmp_path):
    """The default begins at it; without distillation another network of the same shape comes out."""
    tuned = metrics(finished / "tune")
    assert tuned["finetuned_from"] == "conventional"
    assert tuned["models"]["after"]["params"] < tuned["models"]["conventional"]["params"]
    assert tuned["models"]["conventional"]["trainable_params"] == tuned["models"]["conventional"]["params"]
    (start,) = (finished / "tune" / "state").glob("narrowed-*")
    usual = states(finished / "tune" / "state" / "conventional-0")
    unchanged = [name for name, value in states(start).items() if torch.equal(value, usual[name])]
    assert "conv1.weight" in unchanged
    options = [*TINY, f"outputs={tmp_path}", f"cache_dir={cache}", "name=run", "stage=tune", "tune.distill=0"]
    assert command(*options) == 0
    alone = tmp_path / "digits" / "digits_cnn" / "run-seed0" / "tune"
    assert are_equal(states(start), states(next((alone / "state").glob("narrowed-*"))))
    assert not are_equal(states(finished / "tune" / "model"), states(alone / "model"))


def test_a_new_head_learns_before_the_rest_does(cache, tmp_path):
    options = [*TINY, f"outputs={tmp_path}", f"cache_dir={cache}", "name=run", "stage=tune"]
    options += ["tune.neurons=[16]", "tune.algorithm=random", "tune.max_trials=6", "tune.trials_per_depth=6"]
    assert command(*options) == 0
    search = tmp_path / "digits" / "digits_cnn" / "run-seed0" / "tune"
    rows = read_jsonl(search / "trials.jsonl")
    trial = next(row["trial"] for row in rows if row["config"]["head.hidden_layers"] == 1)
    assert command(*options, f"tune.pick={trial}") == 0
    picked = search.parent / f"tune-pick{trial}"
    assert metrics(picked)["finetuned_from"] == "conventional"
    record = next(
        found
        for found in (read_json(path) for path in (search / "state").glob("narrowed-*/record.json"))
        if "head" in found
    )
    assert record["head"]["val_accuracy"] > 0.4
    assert record["seconds"] > record["head"]["seconds"] > 0
    assert not list((search / "state").glob("narrowed-*/features"))


def test_each_way_of_merging_gives_another_network_of_the_same_widths(tuned, cache):
    networks = {}
    for merge in ("none", "average", "fold", "refit"):
        options = [*TINY, f"outputs={tuned.parents[2]}", f"cache_dir={cache}", "name=run", "stage=prune"]
        own = ["prune=tascnet", f"prune.merge={merge}", f"prune.name={merge}", "prune.max_iterations=1"]
        assert command(*options, *own) == 0
        networks[merge] = states(tuned / f"prune-{merge}" / "model")
    shapes = [{key: value.shape for key, value in state.items()} for state in networks.values()]
    assert shapes[0] == shapes[1] == shapes[2] == shapes[3]
    assert not are_equal(networks["none"], networks["average"])
    assert not are_equal(networks["none"], networks["fold"])
    assert not are_equal(networks["average"], networks["fold"])
    assert not are_equal(networks["refit"], networks["fold"])


def prune(tuned, cache, name, *own):
    options = [*TINY, f"outputs={tuned.parents[2]}", f"cache_dir={cache}", "name=run", "stage=prune"]
    assert command(*options, f"prune.name={name}", "prune.max_iterations=1", *own) == 0
    return tuned / f"prune-{name}"


def test_phases_without_a_learning_rate_move_no_filter(tuned, cache):
    """At a rate of zero the pairs stay as similar as they were; otherwise the penalty pulls them together."""
    rows = {
        share: read_jsonl(
            prune(tuned, cache, f"share{share}", "prune=tascnet", f"prune.phase_lr={share}")
            / "iterations.jsonl"
        )[1]
        for share in (0, 1)
    }
    assert rows[0]["pairs_similarity_after"] == pytest.approx(rows[0]["pairs_similarity_before"], abs=1e-6)
    assert rows[1]["pairs_similarity_after"] > rows[1]["pairs_similarity_before"]


def test_the_last_recovery_is_handed_over_where_it_is_no_worse(tuned, cache):
    folder = prune(tuned, cache, "longer", "prune.final_epochs=2")
    name = read_jsonl(folder / "iterations.jsonl")[1]["state"]
    kept, final = (read_json(folder / "state" / step / "record.json") for step in (name, f"{name}-final"))
    better = f"{name}-final" if final["val_accuracy"] >= kept["val_accuracy"] else name
    assert len(final["epochs"]) == 2
    assert are_equal(states(folder / "model"), states(folder / "state" / better))
    assert not list((prune(tuned, cache, "shorter") / "state").glob("*-final"))


def test_the_published_sum_is_said_to_be_inert_with_many_pairs(images, cache, tmp_path, capsys):
    """Of 256 filters 64 pairs: exp(-sum) of similarities around one half is below 1e-10."""
    options = [
        *TINY,
        *("dataset=image_folder", f"dataset.root={images}", "backbone=custom", "backbone.size=32"),
        *("backbone.resize=32", f"backbone.factory={__name__}.small_chain", "backbone.options.width=256"),
        *("tune.max_trials=1", f"outputs={tmp_path}", f"cache_dir={cache}", "name=run"),
        *("prune.percent=25", "prune.max_iterations=1"),
    ]
    assert command(*options, "stage=tune") == 0
    for kind, inert in (("sum", True), ("per_group_mean", False)):
        capsys.readouterr()
        own = ["stage=prune", "prune=tascnet", f"prune.name={kind}", f"prune.regulariser={kind}"]
        assert command(*options, *own) == 0
        said = capsys.readouterr().err
        assert "iteration 1 takes 64 filters of 1 group" in said
        assert ("the regulariser is inert" in said) is inert


def test_class_weights_change_what_is_learnt_from_unequal_classes(images, cache, tmp_path):
    found = {}
    for weights in ("none", "balanced"):
        options = [
            *TINY,
            *("stage=tune", "dataset=image_folder", f"dataset.root={images}", "backbone=custom"),
            *(f"backbone.factory={__name__}.small_chain", "backbone.size=32", "backbone.resize=32"),
            *("tune.max_trials=1", f"outputs={tmp_path / weights}", f"cache_dir={cache}", "name=run"),
        ]
        assert command(*options, f"trainer.class_weights={weights}") == 0
        run = tmp_path / weights / "image_folder" / "custom" / "run-seed0"
        found[weights] = states(run / "tune" / "state" / "baseline")
    assert torch.equal(found["none"]["conv1.weight"], found["balanced"]["conv1.weight"])
    assert not torch.equal(found["none"]["classifier.weight"], found["balanced"]["classifier.weight"])


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (SurgeryError("no such width", "take another"), "no such width: take another"),
        (RuntimeError("CUDA out of memory\nand more lines"), "CUDA out of memory"),
        (RuntimeError(), "RuntimeError"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_a_failing_trial_is_journalled_and_the_study_goes_on(tmp_path, cache, monkeypatch, error, reason):
    fail_in_build(monkeypatch, error, lambda number: number == 1)
    options = [*TINY, f"outputs={tmp_path}", f"cache_dir={cache}", "name=run", "stage=tune"]
    assert command(*options, "tune.finetune_from=prefix", "tune.max_trials=3") == 0
    folder = tmp_path.joinpath("digits", "digits_cnn", "run-seed0", "tune")
    rows = read_jsonl(folder / "trials.jsonl")
    assert [row["status"] for row in rows] == ["ok", "failed", "ok"]
    assert (rows[1]["reason"], rows[1]["value"]) == (reason, None)
    assert rows[1]["config"] not in (rows[0]["config"], rows[2]["config"])
    assert read_json(folder / "metrics.json")["winner"] in (0, 2)


def fail_in_build(monkeypatch, error, fails):
    """Let the builds fail whose number, counted from 0, is chosen."""
    build, calls = CandidateBuilder.__call__, []

    def failing(self, config):
        calls.append(None)
        if fails(len(calls) - 1):
            raise error
        return build(self, config)

    monkeypatch.setattr(CandidateBuilder, "__call__", failing)


def test_a_search_whose_first_trials_all_fail_ends(tmp_path, cache, capsys):
    """Also when it is started again, and when the budget ends before."""
    options = [*TINY, f"outputs={tmp_path}", f"cache_dir={cache}", "name=run", "stage=tune"]
    diverging = ["trainer.trial.lr=1e30", "trainer.trial.optimizer=sgd", "tune.initial_trials=9"]
    diverging += ["tune.trials_per_depth=9"]
    journal = tmp_path.joinpath("digits", "digits_cnn", "run-seed0", "tune", "trials.jsonl")
    for budget, failed in ((2, 2), (8, 5), (9, 5)):
        assert command(*options, *diverging, f"tune.max_trials={budget}") == 2
        said = capsys.readouterr().err
        assert f"the first {failed} trials all failed" in said.splitlines()[-1]
        assert "Traceback" not in said
        assert [row["status"] for row in read_jsonl(journal)] == ["failed"] * failed


def test_a_search_without_time_for_a_trial_says_so(tmp_path, cache, capsys):
    options = [*TINY, f"outputs={tmp_path}", f"cache_dir={cache}", "stage=tune", "tune.max_seconds=0"]
    assert command(*options) == 2
    assert "raise tune.max_seconds" in capsys.readouterr().err.splitlines()[-1]


def test_several_runs_have_a_folder_each_and_one_that_fails_does_not_end_the_others(tmp_path, cache, capsys):
    folder = tmp_path / "digits" / "digits_cnn"
    folder.mkdir(parents=True)
    (folder / "run-seed1").write_text("in the way")
    options = [*TINY, f"outputs={tmp_path}", f"cache_dir={cache}", "name=run", "tune.max_trials=1"]
    assert command("-m", *options, "stage=tune", "seed=0,1,2") == 2
    said = capsys.readouterr().err
    assert said.count("run-seed1/tune cannot be used") == 1
    assert said.splitlines()[-1] == "1 of 3 jobs failed"
    assert "Traceback" not in said
    found = [read_json(folder / f"run-seed{seed}" / "tune" / "metrics.json") for seed in (0, 2)]
    assert [content["seed"] for content in found] == [0, 2]
    assert found[0]["models"]["after"]["val_accuracy"] != found[1]["models"]["after"]["val_accuracy"]


REMOTE = re.compile(
    r"""(?:src|href|xlink:href|action|data)\s*=\s*["']?(?!data:|\#)[^"'\s>]+|url\(\s*["']?(?!data:|\#)"""
)


@pytest.mark.parametrize(
    ("stage", "models", "journal"),
    [
        ("tune", ("baseline", "conventional", "after"), "trials.jsonl"),
        ("prune", ("before", "after"), "iterations.jsonl"),
    ],
)
def test_a_report_stands_alone_and_has_what_was_measured(finished, stage, models, journal):
    text = (finished / stage / "report.html").read_text(encoding="utf-8")
    assert re.findall(r"<script[^>]+src|<link|<iframe|@import", text) == []
    assert REMOTE.findall(text) == []
    # Names of XML vocabularies are no references.
    addresses = re.sub(r"""xmlns(?::\w+)?\s*=\s*["'][^"']*["']""", "", text)
    assert not re.search(
        r"""["'(]https?://""", re.sub(r"<metadata>.*?</metadata>", "", addresses, flags=re.S)
    )
    for name in models:
        assert re.search(rf">\s*{name}\s*<", text), name
    assert text.count("<svg") >= 2
    assert read_jsonl(finished / stage / journal)
    accuracy = read_json(finished / stage / "metrics.json")["models"]["after"]["test_accuracy"]
    assert f"{100 * accuracy:.1f}" in text


def not_for_digits(num_classes: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(7, 4, 3),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(4, num_classes),
        )
    )


def test_a_network_that_does_not_take_the_images_is_refused_before_training(tmp_path, cache, capsys):
    own = ["backbone=custom", f"backbone.factory={__name__}.not_for_digits", "backbone.weights=random"]
    options = [*TINY, f"outputs={tmp_path}", f"cache_dir={cache}", "stage=tune", "backbone.size=8"]
    assert command(*options, *own) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "backbone=custom does not take images of 3 x 8 x 8" in said
