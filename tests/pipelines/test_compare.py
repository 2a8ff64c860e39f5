"""A multirun over backbones, data sets and seeds, and the table that is made of it."""

import csv
import json
import statistics
from collections import OrderedDict

import pytest
from torch import nn

from tests.pipelines.commands import command
from tests.report.comparison.folders import write_run

# As little as both stages take; every network is random.
SHORT = (
    *("backbone.weights=random", "backbone.size=8", "backbone.resize=8"),
    *("backbone.mean=[0.5,0.5,0.5]", "backbone.std=[0.5,0.5,0.5]"),
    *("dataset.train=4", "dataset.val=3", "dataset.flip=false"),
    *("tune.initial_trials=1", "tune.trials_per_depth=1", "tune.max_trials=1", "tune.max_units=1"),
    *("tune.remove_blocks=false", "tune.finetune_from=prefix"),
    *("trainer.head.epochs=1", "trainer.trial.epochs=1", "trainer.finetune.epochs=1"),
    *("prune=magnitude", "prune.max_iterations=1", "prune.epochs=1", "prune.pruning_ratio=0.25"),
    *("prune.min_filters=64", "prune.round_to=4", "prune.tolerance=1", "prune.merge=none", "prune.distill=0"),
    *("measure.batch=2", "measure.repeats=3", "name=run"),
)
SEEDS = (0, 1)
# Their networks; on the digits stage tune alone ran.
CHAIN, WIDE = f"{__name__}.small_chain", f"{__name__}.wide_chain"
SETTINGS = {("digits", CHAIN): 3, ("image_folder", CHAIN): 4, ("image_folder", WIDE): 4}
# What the table calls a network: its stage's folder and its name there.
NETWORKS = {
    "baseline": ("tune", "baseline"),
    "conventional": ("tune", "conventional"),
    "tuned": ("tune", "after"),
    "pruned: magnitude": ("prune-magnitude", "after"),
}
UNPRUNED = ("prune-magnitude", "before")
FIGURES = ("val_accuracy", "test_accuracy", "params", "flops", "size_bytes", "latency_ms", "latency_ms_batch")


def small_chain(num_classes: int, width: int = 64) -> nn.Sequential:
    blocks = OrderedDict(
        conv1=nn.Conv2d(3, width, 3, stride=4, padding=1),
        relu1=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classifier=nn.Linear(width, num_classes),
    )
    return nn.Sequential(blocks)


def wide_chain(num_classes: int) -> nn.Sequential:
    return small_chain(num_classes, 96)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, images):
    """What six runs left."""
    folder = tmp_path_factory.mktemp("multirun")
    own = [f"outputs={folder}", "seed=0,1", *SHORT]
    photos = ["dataset=image_folder", f"dataset.root={images}"]
    assert command("--multirun", "stage=full", *photos, f"backbone={CHAIN}", *own) == 0
    assert command("--multirun", "stage=full", *photos, f"backbone={WIDE}", *own) == 0
    digits = ["dataset=digits", "dataset.classes=[5,6]", f"backbone={CHAIN}"]
    assert command("--multirun", "stage=tune", *digits, *own) == 0
    return folder


def values(outputs, row, place):
    """A figure's value for each seed, straight from the files."""
    stage, name = place
    for seed in SEEDS:
        path = outputs / row["dataset"] / row["backbone"] / f"run-seed{seed}" / stage / "metrics.json"
        model = json.loads(path.read_text())["models"][name]
        yield {**model, **model["latencies"][0]}


def test_the_table_is_what_the_run_folders_hold(outputs):
    assert command("stage=compare", f"outputs={outputs}") == 0
    content = json.loads((outputs / "compare" / "comparison.json").read_text())
    assert len(set(content["runs"])) == len(SETTINGS) * len(SEEDS)
    assert content["not_in_table"] == []
    rows = content["rows"]
    assert [(row["dataset"], row["backbone"], row["name"], row["model"]) for row in rows] == [
        (dataset, backbone, "run", model)
        for (dataset, backbone), count in SETTINGS.items()
        for model in list(NETWORKS)[:count]
    ]
    for row in rows:
        own = list(values(outputs, row, NETWORKS[row["model"]]))
        references = {"conventional": NETWORKS["conventional"], "unpruned": UNPRUNED}
        if row["model"] != "pruned: magnitude":
            del references["unpruned"]
        if row["model"] == "conventional":
            del references["conventional"]
        assert row["seeds"] == [0, 1]
        assert row["changes"].keys() == references.keys()
        for key in FIGURES:
            one, other = (record[key] for record in own)
            # Of two values the deviation is their distance by the root of two.
            assert row["figures"][key]["mean"] == pytest.approx((one + other) / 2)
            assert row["figures"][key]["deviation"] == pytest.approx(abs(one - other) / 2**0.5)
            for reference, place in references.items():
                before = [record[key] for record in values(outputs, row, place)]
                is_share = not key.endswith("accuracy")
                changes = [
                    a / b - 1 if is_share else a - b for a, b in zip((one, other), before, strict=True)
                ]
                found = row["changes"][reference][key]
                assert found["mean"] == pytest.approx(statistics.mean(changes), abs=1e-12)
                assert found["deviation"] == pytest.approx(statistics.stdev(changes), abs=1e-12)


def test_the_table_is_printed_and_written(outputs, capsys):
    assert command("stage=compare", f"outputs={outputs / 'image_folder'}") == 0
    said = capsys.readouterr()
    folder = outputs / "image_folder" / "compare"
    markdown = (folder / "comparison.md").read_text()
    with open(folder / "comparison.csv", newline="") as file:
        records = list(csv.DictReader(file))
    assert {record["dataset"] for record in records} == {"image_folder"}
    for record in records:
        assert f"| {record['backbone']} | run | {record['model']} | 2 |" in markdown
    page = (folder / "comparison.html").read_text()
    assert page.count(">conventional</th>") == 2
    assert "digits" not in said.out + markdown + page
    assert said.out.count("conventional  ") == 2
    assert "4 runs; written to" in said.err
    # A comparison takes no comparison for a run, and repeats itself.
    before = (folder / "comparison.csv").read_bytes()
    assert command("stage=compare", f"outputs={outputs}/digits/../image_folder") == 0
    assert (folder / "comparison.csv").read_bytes() == before
    assert "not in the table" not in capsys.readouterr().err


def test_unfinished_runs_are_listed(tmp_path, capsys):
    write_run(tmp_path)
    (write_run(tmp_path, 1) / "tune" / "metrics.json").unlink()
    assert command("stage=compare", f"outputs={tmp_path}") == 0
    reason = "tune: unfinished, with no trial in trials.jsonl"
    assert f"not in the table: {tmp_path}/digits/cnn/run-seed1: {reason}" in capsys.readouterr().err
    (aside,) = json.loads((tmp_path / "compare" / "comparison.json").read_text())["not_in_table"]
    assert aside == {"folder": f"{tmp_path}/digits/cnn/run-seed1", "reason": reason}
    assert reason in (tmp_path / "compare" / "comparison.md").read_text()


@pytest.mark.parametrize("path", ["gone", "empty", "unfinished"])
def test_nothing_to_compare_is_a_mistake(tmp_path, capsys, path):
    (tmp_path / "empty").mkdir()
    (write_run(tmp_path / "unfinished") / "tune" / "metrics.json").unlink()
    assert command("stage=compare", f"outputs={tmp_path / path}") == 2
    said = capsys.readouterr()
    hint = "run stage tune first, or give the folder of other runs"
    expected = {
        "gone": "does not exist: give the folder that holds the runs, such as outputs",
        "empty": f"holds no run: {hint}",
        "unfinished": f"holds no finished run, but 1 that cannot be compared: {hint}",
    }
    assert said.err.splitlines()[-1] == f"{tmp_path / path} {expected[path]}"
    assert said.out == ""
    assert not (tmp_path / path / "compare").exists()
