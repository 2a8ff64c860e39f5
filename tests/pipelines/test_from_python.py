"""From Python the numbers are those of the command line, to the last digit."""

import numpy as np
import pytest
import torch
from PIL import Image

import tascnet
from tascnet.run.files import read_jsonl
from tascnet.run.records import to_json
from tests.pipelines.commands import command, without_times
from tests.reading import read_json

# What a user has: a network, and a data set that reads images from folders of classes.
OWN = """
from pathlib import Path

import torch
from PIL import Image
from torch import nn


def chain(num_classes):
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, num_classes),
    )


class Photos(torch.utils.data.Dataset):
    def __init__(self, folder):
        self.classes = sorted(path.name for path in Path(folder).iterdir())
        self.files = sorted(Path(folder).glob("*/*.png"))

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        path = self.files[index]
        return Image.open(path), self.classes.index(path.parent.name)
"""
SCRIPT = """
import tascnet
from mine import Photos, chain

parts = {part: Photos(f"photos/{part}") for part in ("train", "val", "test")}
data = tascnet.datasets(**parts, class_names=parts["train"].classes)
network = tascnet.backbone(chain(2), size=16, resize=16)
short = {name: {"epochs": 2} for name in ("head", "trial", "finetune")}
how = {"trainer": tascnet.preset("trainer", "default", **short), "threads": 1, "seed": 4}
search = tascnet.Tune(max_trials=3, initial_trials=2, round_to=4, hidden_layers=[0])
tuned = tascnet.tune(network, data, search, **how)
small = tascnet.prune(tuned.network, data, tascnet.Prune(flops_target=0.6, min_filters=8, round_to=1), **how)
"""
LIKE_SCRIPT = (
    *(f"trainer.{name}.epochs=2" for name in ("head", "trial", "finetune")),
    *("tune.max_trials=3", "tune.initial_trials=2", "tune.round_to=4", "tune.hidden_layers=[0]"),
    *("prune.flops_target=0.6", "prune.min_filters=8", "prune.round_to=1"),
    *("backbone.size=16", "backbone.resize=16", "threads=1", "seed=4"),
)
TUNED = ("trials", "winner", "best_config", "stopped", "finetuned_from", "front", "surrogate", "bounds")
PRUNED = ("iterations", "kept_iteration", "stopped", "widths", "tolerance", "removable_blocks")


def numbers(metrics, names):
    """What of metrics neither the clock nor the machine decides."""
    models = {
        name: {key: value for key, value in model.items() if key not in ("batch", "size_bytes")}
        for name, model in metrics["models"].items()
    }
    return without_times({name: metrics[name] for name in names} | {"models": models})


def assert_equal(tuned, small, run):
    """Results of both functions are what the command line left in a run folder."""
    for result, stage, names in ((tuned, "tune", TUNED), (small, "prune", PRUNED)):
        made = to_json(result.metrics)
        assert numbers(made, names) == numbers(read_json(run / stage / "metrics.json"), names)
        state = tascnet.load(run / stage / "model").state_dict()
        assert state.keys() == result.network.state_dict().keys()
        assert all(torch.equal(value, state[name]) for name, value in result.network.state_dict().items())
    for records, path in ((tuned.trials, "tune/trials.jsonl"), (small.iterations, "prune/iterations.jsonl")):
        made = [to_json(record) for record in records]
        assert without_times(made) == without_times(read_jsonl(run / path))


def test_the_digits_give_the_same_numbers(finished, cache):
    short = {"head": {"epochs": 3}, "trial": {"epochs": 2}, "finetune": {"epochs": 2}}
    how = {
        "trainer": tascnet.preset("trainer", "digits", **short),
        "measure": tascnet.Measure(batch=2, repeats=3),
        "cache": cache,
    }
    few = {"initial_trials": 2, "trials_per_depth": 4, "patience": 3, "max_trials": 4}
    search = tascnet.preset("tune", "tascnet", backbone="digits_cnn", **few)
    cut = {"pruning_ratio": 0.08, "max_pruning_ratio": 0.25, "min_filters": 16, "round_to": 4, "epochs": 4}
    pruning = tascnet.preset(
        "prune", "reconstruction", backbone="digits_cnn", **cut, max_iterations=2, tolerance=1.0
    )
    network = tascnet.backbone("digits_cnn", cache=cache)
    tuned = tascnet.tune(network, tascnet.digits(), search, **how)
    small = tascnet.prune(tuned.network, tascnet.digits(), pruning, **how)
    assert len(tuned.trials) == 4
    assert_equal(tuned, small, finished)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a user's own module and images of two classes in ready splits."""
    (tmp_path / "mine.py").write_text(OWN)
    generator = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 4), ("test", 5)):
        for name, light in (("dark", 90), ("light", 166)):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                noise = generator.integers(-80, 80, (20, 17 + number, 3))
                Image.fromarray((light + noise).astype(np.uint8)).save(folder / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_network_and_a_data_set_of_ones_own_give_the_same_numbers(own):
    assert len([line for line in SCRIPT.splitlines() if line]) <= 15
    made = {}
    exec(compile(SCRIPT, "script.py", "exec"), made)
    folders = ["dataset=image_folder", "dataset.root=photos", "name=run"]
    assert command("stage=full", "backbone=mine.chain", *folders, *LIKE_SCRIPT) == 0
    assert len(made["small"].iterations) > 1
    assert_equal(made["tuned"], made["small"], own / "outputs" / "image_folder" / "mine.chain" / "run-seed4")
