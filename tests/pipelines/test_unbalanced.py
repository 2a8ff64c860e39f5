"""One large class and two small ones: a lost class is reported, and balanced accuracy and weights find it."""

import shutil

import numpy as np
import pytest
from PIL import Image

import tascnet
from tascnet.errors import ConfigError
from tascnet.run.files import read_jsonl
from tests.pipelines.commands import command, metrics
from tests.reading import read_json

SIZES = {"blue": 3, "green": 60, "red": 6}
# By how much one channel of the noise is brighter.
HUES = {"blue": (2, 45), "green": (1, 15), "red": (0, 15)}
NETWORK = """
import torch
from torch import nn


def chain(num_classes):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, num_classes),
    )
"""
RECIPE = ("epochs=8", "lr=0.01", "batch_size=8", "warmup=0", "label_smoothing=0")
SHORT = (
    *("backbone=few.chain", "backbone.size=16", "backbone.resize=16", "threads=1"),
    # A head on standardised features finds the small classes, as fine-tuning at 0.01 does.
    *("trainer.standardise=false", "tune.exit=false"),
    *("tune.max_trials=2", "tune.max_units=1", "tune.round_to=4", "tune.kernels=[3]"),
    *(f"trainer.{name}.{text}" for name in ("head", "trial", "finetune") for text in RECIPE),
    "trainer.finetune.lr=0.001",
    *("prune.epochs=2", "prune.min_filters=8", "prune.round_to=4", "prune.max_iterations=1"),
    *("measure.batch=2", "measure.repeats=3"),
)
METRIC = "metric=balanced_accuracy"
BALANCED = (METRIC, "trainer.class_weights=balanced")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the runs of this module lie, with the module of the network."""
    folder = tmp_path_factory.mktemp("unbalanced")
    (folder / "few.py").write_text(NETWORK)
    return folder


@pytest.fixture(scope="module")
def images(folder):
    """Noise of 16 x 16 pixels with a hue: 3, 60 and 6 images."""
    root = folder / "images"
    generator = np.random.default_rng(0)
    for name, count in SIZES.items():
        (root / name).mkdir(parents=True)
        channel, more = HUES[name]
        for number in range(count):
            pixels = generator.integers(40, 100, (16, 16, 3))
            pixels[..., channel] += more
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number:02d}.png")
    return root


@pytest.fixture(scope="module")
def run(folder, images):
    """Runs a short stage under a name, and gives its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        data = ("dataset=image_folder", f"dataset.root={images}")
        yield lambda name, *options: command(f"name={name}", *data, *SHORT, *options)


@pytest.fixture(scope="module")
def place(folder):
    """The folder of a run."""
    return lambda name: folder / "outputs" / "image_folder" / "few.chain" / f"{name}-seed0"


@pytest.fixture(scope="module")
def plain(run, place, folder):
    assert run("plain", "stage=tune") == 0
    stage = place("plain") / "tune"
    # A test that runs the stage again adds to its log.
    shutil.copy(stage / "log.txt", folder / "log.txt")
    return stage


@pytest.fixture(scope="module")
def balanced(run, place):
    assert run("balanced", "stage=tune", *BALANCED) == 0
    return place("balanced") / "tune"


def warnings(stage):
    lines = (stage / "log.txt").read_text().splitlines()
    return [line.partition(" WARNING ")[2] for line in lines if " WARNING " in line]


def recalls(found):
    return {row["name"]: row["recall"] for row in found["models"]["after"]["classes"]}


def test_a_lost_class_is_reported_once_with_both_remedies(plain, folder):
    found = read_json(plain / "metrics.json")
    assert recalls(found) == {"blue": 0.0, "green": 1.0, "red": 0.0}
    assert [row["samples"] for row in found["models"]["after"]["classes"]] == [1, 9, 1]
    # A recall of one class of three, and 9 of 11 samples.
    assert found["models"]["after"]["test_balanced_accuracy"] == pytest.approx(1 / 3)
    assert found["models"]["after"]["test_accuracy"] == found["samples"]["majority_accuracy"] == 9 / 11
    assert found["models"]["after"]["confusion"] == [[0, 1, 1], [1, 1, 9], [2, 1, 1]]
    assert warnings(folder) == [
        "conventional: training did not help, and the weights from before it are kept",
        "2 of 3 classes are never found in the test samples: blue, red. By test accuracy baseline (81.8 %), "
        "conventional (81.8 %) and after (81.8 %) are no better than always naming the largest class, green "
        "(81.8 %). The result names green for 11 of 11 test samples. Remedies: metric=balanced_accuracy "
        "chooses epochs, trials and networks by the mean recall of all classes; "
        "trainer.class_weights=balanced gives rare classes more weight in training; more samples of rare "
        "classes help.",
    ]


def test_a_finished_stage_warns_again_but_once(run, plain, capsys):
    before = len(warnings(plain))
    capsys.readouterr()
    assert run("plain", "stage=tune") == 0
    out, err = capsys.readouterr()
    assert len(warnings(plain)) == before + 1
    assert " ".join(err.split()).count("2 of 3 classes are never found") == 1
    assert "never found in the test samples" not in out
    said = " ".join(out.split())
    assert "Always naming the largest class, green, has an accuracy of 81.8 %." in said


def test_with_both_remedies_all_classes_are_known(balanced):
    found = read_json(balanced / "metrics.json")
    assert min(recalls(found).values()) > 0
    assert found["metric"] == "balanced_accuracy"
    assert warnings(balanced) == []
    rows = read_jsonl(balanced / "trials.jsonl")
    assert all(row["value"] == row["val_balanced_accuracy"] == max(row["curve"]) for row in rows)
    log = (balanced / "log.txt").read_text()
    best = 100 * rows[0]["val_balanced_accuracy"]
    assert f"trial 0, depth 1: validation balanced accuracy {best:.2f} %" in log


def test_another_metric_is_another_run(run, balanced, capsys):
    before = metrics(balanced)
    assert run("balanced", "stage=tune", BALANCED[1]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "metric was 'balanced_accuracy' and is now 'accuracy'" in said
    assert metrics(balanced) == before


def test_an_interrupted_search_resumes(run, place, balanced, capsys):
    expected, stage = metrics(balanced), place("resumed") / "tune"
    shutil.copytree(balanced, stage)
    (stage / "metrics.json").unlink()
    first, _ = (stage / "trials.jsonl").read_text().splitlines(keepends=True)
    (stage / "trials.jsonl").write_text(first)
    assert run("resumed", "stage=tune", *BALANCED) == 0
    assert metrics(stage) == expected


def test_pruning_takes_the_metric_too(run, place, balanced, capsys):
    assert run("balanced", "stage=prune", *BALANCED, "prune.tolerance=1") == 0
    stage = place("balanced") / "prune"
    found, rows = read_json(stage / "metrics.json"), read_jsonl(stage / "iterations.jsonl")
    assert found["metric"] == "balanced_accuracy"
    assert rows[0]["val_balanced_accuracy"] == found["models"]["before"]["val_balanced_accuracy"]
    assert rows[1]["val_balanced_accuracy_after_cut"] is not None
    assert "iteration 1: validation balanced accuracy" in (stage / "log.txt").read_text()
    assert run("balanced", "stage=prune", "prune.tolerance=1", BALANCED[1]) == 2
    assert "metric was 'balanced_accuracy' and is now 'accuracy'" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("function", ["tune", "prune", "pretrain"])
def test_an_unknown_metric_is_refused_before_anything_is_read(function):
    network = tascnet.backbone("digits_cnn", weights="random")
    with pytest.raises(ConfigError) as refused:
        getattr(tascnet, function)(network, tascnet.image_folder("nowhere"), metric="balanced")
    assert refused.value.message == "`metric` has no choice 'balanced'"
    assert refused.value.hint == "did you mean `metric=balanced_accuracy`?"


def test_the_command_line_refuses_it_too(capsys):
    assert command("stage=tune", "metric=f1") == 2
    assert capsys.readouterr().err == "metric has no choice 'f1': it takes accuracy or balanced_accuracy\n"
