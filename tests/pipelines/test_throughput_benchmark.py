import io
import shutil

import numpy as np
import pytest
import torch
from rich.console import Console

from tascnet.cli.compose import Tree
from tascnet.errors import ConfigError
from tascnet.measure import complexity
from tascnet.run.files import read_json, read_jsonl
from tascnet_pipelines.benchmarks import trial_throughput
from tascnet_pipelines.benchmarks.process import in_own_process, peak_bytes
from tascnet_pipelines.benchmarks.published import ThroughTrunk, from_files, image_files
from tascnet_pipelines.benchmarks.trials import (
    cached_trial,
    make_cache,
    open_setting,
    published_trial,
    scaled_published_trial,
)
from tascnet_pipelines.session import open_session

IMAGES = ("dataset=image_folder", "backbone.size=24", "backbone.resize=28", "backbone.weights=random")


def composed(*overrides):
    return Tree().compose(overrides)


def digits(tmp_path, cache, *overrides):
    return composed(
        "stage=benchmark",
        "benchmark=trial_throughput",
        "benchmark.backbones=[digits_cnn]",
        "benchmark.full=[digits_cnn]",
        "benchmark.depths=[1]",
        "benchmark.images=40",
        "trainer.trial.epochs=2",
        f"outputs={tmp_path}",
        f"cache_dir={cache}",
        *overrides,
    )


@pytest.fixture(scope="module")
def setting(tmp_path_factory, cache):
    folder = tmp_path_factory.mktemp("throughput")
    return open_setting(digits(folder, cache), 1, folder / "features")


def test_bounds_by_hand():
    # 2 training samples: 2 x 10 through the trunk, 2 x 3 x 1 to train; 1 for validation: 10 and 1.
    whole, sample = trial_throughput.bounds(trunk=10, tail=1, train=2, val=1)
    assert whole == pytest.approx((20 + 6 + 10 + 1) / (6 + 1))
    assert sample == pytest.approx((10 + 3) / 3)
    # Where nothing is frozen there is nothing to gain.
    assert trial_throughput.bounds(trunk=0, tail=5, train=2, val=1) == (1.0, 1.0)


def row(**changes):
    known = {
        "kind": "time",
        "backbone": "net",
        "depth": 1,
        "weights": "random",
        "timed_images": 384,
        "train": 2,
        "val": 1,
        "trunk_flops": 700,
        "tail_flops": 10,
        "cache_seconds": 100.0,
        "published_seconds": 720.0,
        "cached_seconds": 36.0,
    }
    return {**known, **changes}


def test_the_summary_by_hand():
    first, deep, slow = trial_throughput.summarise(
        [row(), row(depth=3), row(cached_seconds=800.0), row(kind="full")]
    )
    assert first["published_per_hour"] == pytest.approx(5.0)
    assert first["cached_per_hour"] == pytest.approx(100.0)
    assert first["ratio"] == pytest.approx(20.0)
    # (3 x 700 + 70) / 70 = 31: 0.7 of it is more than 20, which is enough at the first depth.
    assert first["bound"] == pytest.approx(31.0)
    assert first["needed"] == 20.0
    assert first["is_enough"]
    assert deep["needed"] == pytest.approx(21.7)
    assert not deep["is_enough"]
    # 684 seconds saved a trial pay 100 with the first.
    assert first["pays_after"] == 1
    assert slow["pays_after"] is None


def test_flops_of_trunk_and_tail_are_those_of_the_network(setting):
    trunk, tail = setting.flops()
    features = setting.trunk(setting.session.example)
    assert tail == complexity(setting.search.chain[setting.cut :], features).flops
    assert trunk == complexity(setting.trunk, setting.session.example).flops


def test_both_ways_train_the_same_network(setting):
    make_cache(setting)
    cached, published = cached_trial(setting), published_trial(setting)
    # Features in float16 beside float32: of 150 validation samples not one may fall on the other side.
    assert cached.val_accuracy == published.val_accuracy
    assert min(cached.seconds, published.seconds) > 0


def test_a_trial_is_scaled_from_one_epoch(setting):
    # 100 training and 150 validation images in all; 40 have 60 beside them.
    seconds, images = scaled_published_trial(setting, 40)
    assert images == 100
    assert seconds > 0
    assert scaled_published_trial(setting, 1000)[1] == 250


def test_a_trunk_computes_what_is_read(setting):
    session = setting.session
    source = ThroughTrunk(session.val, setting.trunk, session.device)
    rows = torch.tensor([3, 0, 7])
    with torch.no_grad():
        expected = setting.trunk(session.val.batch_view(rows, "plain"))
    assert torch.equal(source.batch(rows, torch.Generator()), expected)
    assert not source.batch(rows).requires_grad
    assert len(source) == len(session.val)
    assert torch.equal(source.labels, session.val.labels)


def test_files_give_the_pixels_of_the_cache(images, cache, tmp_path):
    config = composed(*IMAGES, f"dataset.root={images}", f"cache_dir={cache}", f"outputs={tmp_path}")
    session = open_session(config)
    files = image_files(session.dataset)
    assert len(files) == len(session.dataset)
    read = from_files(session.train, files, len(session.train))
    rows = torch.arange(len(read))
    assert torch.equal(read.batch_view(rows, "plain"), session.train.batch_view(rows, "plain"))
    assert torch.equal(read.labels, session.train.labels)


def test_files_of_some_classes_are_theirs_alone(images, cache, tmp_path):
    shutil.copytree(images, tmp_path / "three")
    shutil.copytree(images / "cat", tmp_path / "three" / "bee")
    options = [f"dataset.root={tmp_path / 'three'}", "dataset.classes=[cat,dog]"]
    session = open_session(composed(*IMAGES, *options, f"cache_dir={cache}", f"outputs={tmp_path}"))
    files = image_files(session.dataset)
    assert [path.parent.name for path in files] == 14 * ["cat"] + 10 * ["dog"]
    read = from_files(session.val, files, len(session.val))
    rows = torch.arange(len(read))
    assert torch.equal(read.batch_view(rows, "plain"), session.val.batch_view(rows, "plain"))


def test_digits_are_in_no_files(setting):
    assert image_files(setting.session.dataset) is None


def test_fewer_images_are_spread_evenly(setting):
    train = setting.session.train
    few = from_files(train, None, 3)
    assert np.array_equal(few.rows, train.rows[[0, 50, 99]])
    assert len(from_files(train, None, 1000)) == len(train) == 100


def test_a_process_of_its_own_tells_its_memory():
    taken = 300 * 2**20
    length, peak = in_own_process(eval, f"len(b'x' * {taken})")
    assert length == taken
    # Python and what the console needs; this process, with torch, has more.
    assert taken < peak < taken + 150 * 2**20 < taken + peak_bytes()


def test_the_comparison_writes_its_rows_and_goes_on(tmp_path, cache, monkeypatch):
    console = Console(record=True, width=120, file=io.StringIO())
    monkeypatch.setattr(trial_throughput, "output", lambda: console)
    config = digits(tmp_path, cache)
    trial_throughput.run(config)
    folder = tmp_path / "benchmark" / "trial_throughput"
    metrics = read_json(folder / "metrics.json")
    timed, full = metrics["rows"]
    assert metrics["rows"] == read_jsonl(folder / "rows.jsonl")
    assert (timed["kind"], full["kind"]) == ("time", "full")
    assert timed["timed_images"] == 100
    assert metrics["summary"] == trial_throughput.summarise(metrics["rows"])
    assert full["cached"]["val_accuracy"] == full["published"]["val_accuracy"]
    assert metrics["full"][0]["val_accuracy_difference"] == 0.0
    assert min(full[name]["peak_bytes"] for name in ("cache", "cached", "published")) > 2**20
    assert not (folder / "features").exists()
    text = " ".join(console.export_text().split())
    assert "scaled linearly" in text
    assert "peak memory" in text
    monkeypatch.setattr(trial_throughput, "_work", lambda *key: pytest.fail("a row was computed again"))
    trial_throughput.run(config)
    assert read_json(folder / "metrics.json")["rows"] == metrics["rows"]


def test_other_images_are_other_rows(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(trial_throughput, "_work", lambda config, folder, key: row(**key))
    trial_throughput.run(digits(tmp_path, cache, "benchmark.full=[]"))
    trial_throughput.run(digits(tmp_path, cache, "benchmark.full=[]", "benchmark.images=20"))
    assert len(read_jsonl(tmp_path / "benchmark" / "trial_throughput" / "rows.jsonl")) == 2


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("benchmark.backbones=[vgg]", "there is no network 'vgg'"),
        ("benchmark.depths=[0]", "expected depths from 1 on"),
        ("benchmark.depths=[9]", "benchmark.depths asks for 9"),
    ],
)
def test_mistakes_are_told(tmp_path, cache, override, says):
    with pytest.raises(ConfigError, match=says):
        trial_throughput.run(digits(tmp_path, cache, override))
