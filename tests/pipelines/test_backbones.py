"""Every backbone through both stages, and back from its archives to the last bit."""

import copy
import math
import shutil
import sys

import pytest
import torch
from torch import Tensor, nn

import tascnet
import tascnet.pruning
import tascnet.tuning
from tascnet.run.files import read_jsonl
from tests import my_nets
from tests.pipelines.commands import command
from tests.reading import read_json

CONTRACT = {"val_accuracy", "test_accuracy", "params", "trainable_params", "flops", "size_bytes"}
# One epoch of everything, the first trial and one from the surrogate; the smaller wins.
SHORT = (
    "dataset.train=4",
    "dataset.val=3",
    "dataset.flip=false",
    "trainer.head.epochs=1",
    "trainer.trial.epochs=1",
    "trainer.finetune.epochs=1",
    "tune.initial_trials=1",
    "tune.trials_per_depth=2",
    "tune.max_trials=2",
    "tune.tolerance=1",
    "prune.max_iterations=1",
    "prune.epochs=1",
    "prune.pruning_ratio=0.2",
    "prune.round_to=4",
    "prune.max_pruning_ratio=0.25",
    "prune.tolerance=1",
    "measure.batch=2",
    "measure.repeats=3",
    "backbone.size=32",
    "backbone.resize=32",
    "backbone.weights=random",
    "name=run",
)
# Of different kinds, each with its `prune.min_filters`: only the wide groups, the rest shows nothing new.
MIN_FILTERS = {
    "resnet20": 16,
    # Depthwise convolutions and squeeze-and-excitation.
    "timm/test_efficientnet": 192,
    # LayerNorm.
    "timm/test_convnext": 96,
    # Grouped convolutions.
    "timm/test_byobnet": 128,
    # Concatenations.
    "tests.pipelines.networks.dense": 32,
}


@pytest.fixture
def archived(monkeypatch):
    """What each network gave for one input when it was archived, by folder."""
    outputs = {}

    def recording(save):
        def record(model, folder, info):
            outputs[folder] = answer(copy.deepcopy(model).eval())
            save(model, folder, info)

        return record

    for name in ("train.steps", "tuning.stage", "pruning.stage"):
        module = sys.modules[f"tascnet.{name}"]
        monkeypatch.setattr(module, "save", recording(module.save))
    return outputs


def answer(model: nn.Module) -> Tensor:
    channels = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d)).in_channels
    side = 8 if channels == 1 else 32
    images = torch.randn(3, channels, side, side, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return model(images)


def widths(model: nn.Module) -> dict[str, int]:
    return {name: len(p) for name, p in model.named_parameters() if name.endswith("weight")}


def through_both_stages(run, archived, *options):
    """Tune, prune, and check what both left behind."""
    assert command("stage=tune", *options) == 0
    assert command("stage=prune", *options) == 0
    tuned, pruned = (read_json(run / stage / "metrics.json") for stage in ("tune", "prune"))
    assert tuned["models"].keys() == {"baseline", "conventional", "after"}
    assert pruned["models"].keys() == {"before", "after"}
    for row in [*tuned["models"].values(), *pruned["models"].values()]:
        assert row.keys() >= CONTRACT
        assert all(math.isfinite(row[key]) and row[key] >= 0 for key in CONTRACT)
        assert [one["runtime"] for one in row["latencies"]] == ["eager"]
        assert 0 < row["latencies"][0]["latency_ms"] < math.inf
    assert tuned.keys() >= {"seconds", "seed", "versions", "best_config", "trials", "machine"}
    assert [row["status"] for row in read_jsonl(run / "tune" / "trials.jsonl")] == ["ok", "ok"]
    assert tuned["trials"] == 2
    assert (run / "prune" / "model") in archived
    for folder, expected in archived.items():
        assert torch.equal(answer(tascnet.load(folder)), expected), folder
    before, after = (tascnet.load(run / stage / "model") for stage in ("tune", "prune"))
    narrower = {name for name, width in widths(after).items() if width < widths(before)[name]}
    removed = read_jsonl(run / "prune" / "iterations.jsonl")[1]["removed"]
    assert removed
    assert {f"{name}.weight" for name in removed} <= narrower
    assert pruned["models"]["after"]["params"] < pruned["models"]["before"]["params"]
    return tuned, pruned


@pytest.mark.parametrize("name", MIN_FILTERS)
def test_a_backbone_goes_through_both_stages_and_reloads_bit_for_bit(name, images, cache, tmp_path, archived):
    options = [
        *SHORT,
        *("dataset=image_folder", f"dataset.root={images}", f"backbone={name}"),
        *(f"prune.min_filters={MIN_FILTERS[name]}", f"outputs={tmp_path}", f"cache_dir={cache}"),
    ]
    run = tmp_path / "image_folder" / name.replace("/", "-") / "run-seed0"
    tuned, pruned = through_both_stages(run, archived, *options)
    assert tuned["models"]["after"]["params"] <= tuned["models"]["baseline"]["params"]
    assert tascnet.load(run / "prune" / "model").class_names == ("cat", "dog")
    assert pruned["kept_iteration"] == 1


def test_the_digits_network_too(cache, tmp_path, archived):
    options = [
        *SHORT,
        *("backbone.size=8", "backbone.resize=8", "dataset.classes=[5,6]"),
        *(f"outputs={tmp_path}", f"cache_dir={cache}"),
    ]
    through_both_stages(tmp_path / "digits" / "digits_cnn" / "run-seed0", archived, *options)


def test_a_network_of_the_users_own_in_a_file_of_the_working_folder_too(
    images, cache, tmp_path, archived, monkeypatch
):
    shutil.copy(my_nets.__file__, tmp_path / "nets_of_mine.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    options = [
        *SHORT,
        *("dataset=image_folder", f"dataset.root={images}", "backbone=nets_of_mine.Net"),
        *("prune.min_filters=12", f"outputs={tmp_path}", f"cache_dir={cache}"),
    ]
    run = tmp_path / "image_folder" / "nets_of_mine.Net" / "run-seed0"
    through_both_stages(run, archived, *options)
    # The model names the network that it comes from, and nothing else of its code.
    assert (run / "prune" / "model" / "architecture.json").read_text().count("nets_of_mine") == 1
