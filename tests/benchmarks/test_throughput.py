import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import trial_throughput
from benchmarks.common import Setup
from benchmarks.process import in_own_process, peak_bytes
from benchmarks.published import ThroughTrunk, from_files, image_files
from benchmarks.trials import cached_trial, make_cache, open_setting, published_trial, scaled_published_trial
from tascnet import preset
from tascnet.data import open_samples
from tascnet.measure import complexity
from tascnet.models import Preprocessing
from tascnet.options import ImageFolder
from tascnet.run.files import read_jsonl
from tests.reading import read_json

SMALL = Preprocessing(size=24, resize=28, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))


@pytest.fixture
def digits(cache):
    flags = ["--backbones", "digits_cnn", "--full", "digits_cnn", "--depths", 1, "--images", 40]
    return [*flags, "--cache", cache, "--train", 20, "--val", 30, "--set", "trainer.trial.epochs=2"]


@pytest.fixture(scope="module")
def setting(tmp_path_factory, cache):
    data, backbone = preset("dataset", "digits"), preset("backbone", "digits_cnn")
    setup = Setup(data=data, backbone=backbone, cache=cache)
    setup = replace(setup, changes={**setup.changes, "trainer": {"trial": {"epochs": 2}}})
    return open_setting(setup, 1, tmp_path_factory.mktemp("features"), torch.device("cpu"))


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
    # (3 x 700 + 70) / 70.
    assert first["bound"] == pytest.approx(31.0)
    assert deep["depth"] == 3
    # 684 seconds saved a trial pay 100 with the first.
    assert first["pays_after"] == 1
    assert slow["pays_after"] is None


def test_flops_of_trunk_and_tail_are_those_of_the_network(setting):
    trunk, tail = setting.flops()
    example = setting.learner.samples.example
    assert tail == complexity(setting.chain[setting.cut :], setting.trunk(example)).flops
    assert trunk == complexity(setting.trunk, example).flops


def test_both_ways_train_the_same_network(setting):
    make_cache(setting)
    cached, published = cached_trial(setting), published_trial(setting)
    # Features in float16 beside float32: of 150 validation samples not one may fall on the other side.
    assert cached[1] == published[1]
    assert min(cached[0], published[0]) > 0


def test_a_trial_reads_what_was_cached(setting):
    def files():
        return {path: path.stat().st_ino for path in setting.learner.samples.cache.rglob("*.npy")}

    make_cache(setting)
    cached = files()
    cached_trial(setting)
    assert files() == cached
    assert cached


def test_a_trial_is_scaled_from_one_epoch(setting):
    # 100 training and 150 validation images in all; 40 have 60 beside them.
    seconds, images = scaled_published_trial(setting, 40)
    assert images == 100
    assert seconds > 0
    assert scaled_published_trial(setting, 1000)[1] == 250


def test_a_trunk_computes_what_is_read(setting):
    val = setting.learner.samples.val
    source = ThroughTrunk(val, setting.trunk, setting.learner.device)
    rows = torch.tensor([3, 0, 7])
    with torch.no_grad():
        expected = setting.trunk(val.batch_view(rows, "plain"))
    assert torch.equal(source.batch(rows, torch.Generator()), expected)
    assert not source.batch(rows).requires_grad
    assert len(source) == len(val)
    assert torch.equal(source.labels, val.labels)


def test_files_give_the_pixels_of_the_cache(images, cache):
    samples = open_samples(ImageFolder(root=str(images)), SMALL, seed=0, cache=cache)
    files = image_files(samples.dataset)
    assert len(files) == len(samples.dataset)
    read = from_files(samples.train, files, len(samples.train))
    rows = torch.arange(len(read))
    assert torch.equal(read.batch_view(rows, "plain"), samples.train.batch_view(rows, "plain"))
    assert torch.equal(read.labels, samples.train.labels)
    assert read.views == samples.train.views


def test_files_of_some_classes_are_theirs_alone(images, cache, tmp_path):
    shutil.copytree(images, tmp_path / "three")
    shutil.copytree(images / "cat", tmp_path / "three" / "bee")
    data = ImageFolder(root=str(tmp_path / "three"), classes=("cat", "dog"))
    samples = open_samples(data, SMALL, seed=0, cache=cache)
    files = image_files(samples.dataset)
    assert [path.parent.name for path in files] == 14 * ["cat"] + 10 * ["dog"]
    read = from_files(samples.val, files, len(samples.val))
    rows = torch.arange(len(read))
    assert torch.equal(read.batch_view(rows, "plain"), samples.val.batch_view(rows, "plain"))


def test_digits_are_in_no_files(setting):
    assert image_files(setting.learner.samples.dataset) is None


def test_fewer_images_are_spread_evenly(setting):
    train = setting.learner.samples.train
    few = from_files(train, None, 3)
    assert np.array_equal(few.rows, train.rows[[0, 50, 99]])
    assert len(from_files(train, None, 1000)) == len(train) == 100


def test_the_memory_of_a_process_of_its_own_is_measured():
    taken = 300 * 2**20
    length, peak = in_own_process(eval, f"len(b'x' * {taken})")
    assert length == taken
    # Python and what the console needs; this process, with torch, has more.
    assert taken < peak < taken + 150 * 2**20 < taken + peak_bytes()


def test_the_comparison_writes_its_rows_and_resumes(bench, digits, shown, tmp_path, monkeypatch):
    # What a process of its own takes is measured by another test.
    monkeypatch.setattr(trial_throughput, "in_own_process", lambda work, *given: (work(*given), 2**21))
    assert bench("trial_throughput", *digits) == 0
    folder = tmp_path / "trial_throughput"
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
    text = " ".join(shown.export_text().split())
    assert "scaled linearly" in text
    assert "peak memory" in text
    monkeypatch.setattr(trial_throughput, "_row", lambda *key: pytest.fail("a row was computed again"))
    assert bench("trial_throughput", *digits) == 0
    assert read_json(folder / "metrics.json")["rows"] == metrics["rows"]


def test_other_images_are_other_rows(bench, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(trial_throughput, "_row", lambda *arguments: row(**arguments[-1]))
    assert bench("trial_throughput", *digits, "--full") == 0
    assert bench("trial_throughput", *digits, "--full", "--images", 20) == 0
    assert len(read_jsonl(tmp_path / "trial_throughput" / "rows.jsonl")) == 2


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (["--backbones", "vgg"], "there is no network 'vgg'"),
        (["--depths", 0], "0 is below 1"),
        (["--depths", 9], "but --depths asks for 9"),
    ],
)
def test_mistakes_are_named(bench, digits, capsys, option, says):
    assert bench("trial_throughput", *digits, *option) == 2
    assert says in capsys.readouterr().err
