"""One experiment of each paper, run for real: random weights, few tiny images, one epoch, two trials."""

import shutil
from dataclasses import replace

import pytest

import tascnet
from tascnet.models.info import with_info
from tascnet.run.files import read_jsonl
from tests.pipelines.commands import command
from tests.reading import read_json

# Nothing that these leave out differs from the papers.
MINIATURE = (
    *("backbone.weights=random", "backbone.size=32", "backbone.resize=32"),
    *("dataset.train=8", "dataset.val=1"),
    *("trainer.head.epochs=1", "trainer.trial.epochs=1", "trainer.finetune.epochs=1"),
    *("tune.initial_trials=1", "tune.trials_per_depth=1", "tune.max_trials=2", "name=run"),
    *("measure.batch=2", "measure.repeats=3"),
)
PRUNE = (
    "prune.epochs=3",
    "prune.history_epochs=1",
    "prune.optimise_epochs=1",
    "prune.max_iterations=1",
    "prune.tolerance=1",
)


@pytest.fixture
def caltech(images, tmp_path):
    """Two classes in the published layout of Caltech-101."""
    shutil.copytree(images, tmp_path / "caltech" / "101_ObjectCategories")
    return tmp_path / "caltech"


def run(name, caltech, cache, tmp_path, *more):
    options = [f"dataset.root={caltech}", f"outputs={tmp_path / 'out'}", f"cache_dir={cache}"]
    own = PRUNE if name.startswith("tascnet") else ()
    assert command(f"experiment={name}", *MINIATURE, *own, *options, *more) == 0
    (folder,) = (tmp_path / "out").glob("*/*/run-seed0")
    return folder


def test_autotune_tunes_new_layers_and_prunes_nothing(caltech, cache, tmp_path, slim_torchvision):
    folder = run("autotune_resnet50_caltech101", caltech, cache, tmp_path)
    assert folder.parts[-3:-1] == ("caltech101", "resnet50")
    assert [entry.name for entry in folder.iterdir()] == ["tune"]
    trials = read_jsonl(folder / "tune" / "trials.jsonl")
    assert [(trial["status"], trial["depth"]) for trial in trials] == [("ok", 0), ("ok", 1)]
    assert {trial["config"]["head.hidden_layers"] for trial in trials} <= {1, 2}
    known = read_json(folder / "tune" / "identity.json")
    assert {known[f"trainer.{recipe}.optimizer"] for recipe in ("head", "trial", "finetune")} == {"adagrad"}
    # An eighth of 16 images, in the network that was handed over too.
    (winner,) = (folder / "tune" / "state").glob("prefix-*")
    assert read_json(winner / "record.json")["training"]["epochs"]
    assert known["trainer.finetune.epoch_share"] == 0.125


def test_tascnet_prunes_the_wide_layers_alone(caltech, cache, tmp_path, slim_torchvision):
    """Of DenseNet-121 the two transitions alone have more than 128 filters, 256 and 512; 5 % are removed.

    With a quarter of the channels they are those with more than 32.
    """
    network = tascnet.backbone("densenet121", weights="random", size=32, resize=32, num_classes=2)
    tascnet.save(with_info(network, replace(network.info, class_names=("cat", "dog"))), tmp_path / "tuned")
    more = ["stage=prune", f"prune.source={tmp_path / 'tuned'}", "prune.min_filters=33"]
    folder = run("tascnet_densenet121_caltech101", caltech, cache, tmp_path, *more)
    assert [entry.name for entry in folder.iterdir() if entry.is_dir()] == ["prune-published"]
    row = read_jsonl(folder / "prune-published" / "iterations.jsonl")[1]
    assert row["removed"] == {"features_transition2.conv": 3, "features_transition3.conv": 6}
    known = read_json(folder / "prune-published" / "identity.json")
    assert known["trainer.class_weights"] == "balanced"
    assert known["trainer.recover.optimizer"] == "nesterov"


def test_tascnet_on_text_tunes_and_prunes_convolutions(cache, tmp_path):
    """Sentences of two classes in the published files, in Latin-1."""
    root = tmp_path / "sentences"
    root.mkdir()
    for name, word in (("pos", "très bon"), ("neg", "mauvais")):
        lines = [f"film number {number} is {word} , and long\n" for number in range(40)]
        (root / f"rt-polarity.{name}").write_bytes("".join(lines).encode("latin-1"))
    own = [text for text in MINIATURE if not text.startswith(("backbone.", "dataset."))]
    options = [f"dataset.root={root}", f"outputs={tmp_path / 'out'}", f"cache_dir={cache}"]
    name = "experiment=tascnet_textcnn_movie_review"
    # One depth is all there is: its convolutions.
    more = ["backbone.weights=random", "tune.trials_per_depth=2"]
    assert command(name, *own, *PRUNE, *options, *more) == 0
    folder = tmp_path / "out" / "movie_review" / "textcnn" / "run-seed0"
    assert [row["status"] for row in read_jsonl(folder / "tune" / "trials.jsonl")] == ["ok", "ok"]
    removed = read_jsonl(folder / "prune-published" / "iterations.jsonl")[1]["removed"]
    assert sum(removed.values()) > 0
