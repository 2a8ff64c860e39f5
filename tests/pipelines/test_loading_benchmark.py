import io

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from tascnet import data
from tascnet.cli.compose import Tree
from tascnet.errors import ConfigError
from tascnet.models.info import Preprocessing
from tascnet.run.files import read_json, read_jsonl
from tascnet_pipelines.benchmarks import loading
from tascnet_pipelines.benchmarks.torchvision_loader import torchvision_loader, usual_transform
from tascnet_pipelines.datasets import load_data
from tascnet_pipelines.session import backbone_preprocessing

SMALL = Preprocessing(size=24, resize=28, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))


def composed(tmp_path, *overrides):
    options = ["stage=benchmark", "benchmark=loading", "benchmark.seeds=2", "benchmark.epochs=3"]
    return Tree().compose([*options, f"outputs={tmp_path}", *overrides])


def photos(tmp_path, images, *overrides):
    network = ["backbone=resnet20", "backbone.size=24", "backbone.resize=28", "trainer.finetune.batch_size=5"]
    folder = ["dataset=image_folder", f"dataset.root={images}"]
    return composed(tmp_path, *folder, *network, *overrides)


def test_the_summary_by_hand():
    rows = [
        {"way": "cached", "images": 100, "epoch_seconds": [10.0, 1.0, 2.0]},
        {"way": "cached", "images": 100, "epoch_seconds": [20.0, 4.0, 5.0]},
        {"way": "uncached", "images": 100, "epoch_seconds": [5.0, 20.0]},
        {"way": "torchvision", "images": 100, "epoch_seconds": [25.0, 12.5]},
    ]
    cached, uncached, usual = loading.summarise(rows)
    # First epochs 10 and 5 a second; later ones 100, 50, 25 and 20.
    assert (cached["first_per_second"], cached["later_per_second"]) == (7.5, 37.5)
    assert (usual["first_per_second"], usual["later_per_second"]) == (4.0, 8.0)
    assert (cached["ratio"], uncached["ratio"], usual["ratio"]) == (4.6875, 0.625, 1.0)


def test_without_chance_both_ways_give_the_same_batch(images, tmp_path):
    """Nothing to crop and no flip: the usual transforms give what the cache gives."""
    whole = Preprocessing(size=28, resize=28, mean=SMALL.mean, std=SMALL.std)
    dataset = data.load_image_folder(images, whole, cache_dir=tmp_path)
    still = data.Augmentation(flip=False)
    loader = torchvision_loader(dataset, whole, still, batch_size=len(dataset), workers=0)
    ((theirs, labels),) = list(loader)
    source = data.ImageSource(dataset, np.arange(len(dataset)), whole, still)
    ours = source.batch(torch.arange(len(dataset)), torch.Generator())
    key = theirs.flatten(1).sum(1).argsort(), ours.flatten(1).sum(1).argsort()
    torch.testing.assert_close(theirs[key[0]], ours[key[1]], atol=1e-6, rtol=1e-6, check_stride=False)
    assert torch.equal(labels[key[0]], source.labels[key[1]])


@pytest.mark.parametrize("options", [{}, {"pad": 3}, {"min_scale": 0.4}, {"flip": False}])
def test_the_usual_transform_crops_and_flips_as_asked(options):
    transform = usual_transform(SMALL, data.Augmentation(**options))
    pixels = np.zeros((28, 28, 3), dtype=np.uint8)
    pixels[:, :14] = 255
    torch.manual_seed(0)
    crops = [transform(Image.fromarray(pixels)) for _ in range(40)]
    assert {tuple(crop.shape) for crop in crops} == {(3, 24, 24)}
    mirrored = sum(bool(crop[0, 12, 0] < crop[0, 12, -1]) for crop in crops)
    assert mirrored == 0 if options.get("flip") is False else 8 <= mirrored <= 32
    # Of half the area, edge to edge, a crop shows more or less where the share is drawn.
    shares = {round(float((crop[2] > 0.5).float().mean()), 2) for crop in crops}
    assert len(shares) > 1


def test_pixels_that_differ_are_counted(images, tmp_path):
    dataset = load_data(photos(tmp_path, images), SMALL)
    assert loading.compare_pixels(dataset, SMALL, 7) == {"compared": 7, "equal": 7}
    assert loading.compare_pixels(dataset, SMALL, 1000) == {"compared": 24, "equal": 24}
    spoilt = np.array(dataset.pixels)
    spoilt[3, 0, 0, 0] ^= 1
    other = type(dataset)(**{**vars(dataset), "pixels": spoilt})
    assert loading.compare_pixels(other, SMALL, 24) == {"compared": 24, "equal": 23}


@pytest.fixture
def shown(monkeypatch):
    """What is printed; torchvision decodes in this process, as forks of a process with threads warn."""
    console = Console(record=True, width=100, file=io.StringIO())
    monkeypatch.setattr(loading, "output", lambda: console)
    usual = loading.torchvision_loader
    monkeypatch.setattr(loading, "torchvision_loader", lambda *a, **k: usual(*a, **{**k, "workers": 0}))
    return console


def test_rows_are_written_printed_and_not_computed_again(images, tmp_path, shown, monkeypatch):
    config = photos(tmp_path, images)
    decoded = []
    monkeypatch.setattr(
        "tascnet.data.pixels.decode_image",
        lambda path, how: decoded.append(path) or data.decode_image(path, how),
    )
    loading.run(config)
    folder = tmp_path / "benchmark" / "loading"
    metrics = read_json(folder / "metrics.json")
    assert metrics["rows"] == read_jsonl(folder / "rows.jsonl")
    assert [row["way"] for row in metrics["rows"]] == ["cached", "uncached", "torchvision"] * 2
    assert {len(row["epoch_seconds"]) for row in metrics["rows"]} == {3}
    assert {row["images"] for row in metrics["rows"]} == {24}
    assert metrics["summary"] == loading.summarise(metrics["rows"])
    assert metrics["pixels"] == {"compared": 24, "equal": 24}
    # For the run's own cache, and by the first of three epochs in each of two repetitions.
    assert len(decoded) == 3 * 24
    assert not (folder / "cache").exists()
    text = " ".join(shown.export_text().split())
    assert "cached pixels equal those of the files: 24 of 24" in text
    monkeypatch.setattr(loading, "_row", lambda *_: pytest.fail("a row was computed again"))
    loading.run(config)
    assert read_json(folder / "metrics.json")["rows"] == metrics["rows"]


def test_other_batches_are_other_rows(images, tmp_path, shown, monkeypatch):
    monkeypatch.setattr(loading, "_row", lambda *_: {"images": 1, "epoch_seconds": [1.0, 1.0]})
    loading.run(photos(tmp_path, images))
    loading.run(photos(tmp_path, images, "trainer.finetune.batch_size=6"))
    assert len(read_jsonl(tmp_path / "benchmark" / "loading" / "rows.jsonl")) == 12


def test_data_sets_without_files_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="decodes image files, but those of dataset=digits are in none"):
        loading.run(composed(tmp_path))
    # Before it is looked for.
    with pytest.raises(ConfigError, match="those of dataset=cifar10 are in none"):
        loading.run(composed(tmp_path, "dataset=cifar10", "backbone.weights=random"))


def test_the_size_is_that_of_the_backbone(images, tmp_path):
    assert backbone_preprocessing(photos(tmp_path, images).backbone).resize == 28
