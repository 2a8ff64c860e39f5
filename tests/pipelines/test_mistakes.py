"""Mistakes: code 2, one sentence that names what is wrong, no traceback, nothing lost."""

import io
import json
import re
import shutil
import sys
import time
from dataclasses import replace
from importlib import import_module

import pytest
from PIL import Image

import tascnet
from tascnet.data.catalogue import CATALOGUE
from tascnet.errors import DataError
from tascnet.models.archive import save
from tascnet.models.weights import write_weights
from tests.data.server import serve
from tests.models.networks import original
from tests.pipelines.commands import TINY, command, contents
from tests.reading import read_json


def photo(colour=0):
    file = io.BytesIO()
    Image.new("RGB", (12, 12), (colour, 90, 200)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def photos(tmp_path):
    """A folder of two classes, free to be spoilt."""
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(10):
            (tmp_path / "photos" / name / f"{number}.png").write_bytes(photo(20 * number + label))
    return tmp_path / "photos"


@pytest.fixture
def refused(tmp_path, cache, capsys):
    """Runs a command, checks that it ends as a mistake does, and gives its sentence."""

    def run(*options, outputs=tmp_path / "out"):
        assert command(f"outputs={outputs}", f"cache_dir={cache}", *options) == 2
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        *before, said = captured.err.splitlines()
        assert not [line for line in before if line.startswith(said[:20])]
        assert said == said.strip()
        assert not said.endswith(".")
        assert captured.out == ""
        return said

    return run


def folder_options(root, *more):
    return [
        *("stage=tune", "dataset=image_folder", f"dataset.root={root}", "backbone=resnet20"),
        *("backbone.weights=random", *more),
    ]


def test_a_missing_folder_of_images(refused, tmp_path):
    assert str(tmp_path / "absent") in refused(*folder_options(tmp_path / "absent"))


def test_caltech101_that_is_absent_and_not_to_be_downloaded(refused, cache):
    said = refused("stage=tune", "dataset=caltech101")
    assert said.startswith(f"{cache / 'datasets' / 'caltech101'} holds no 101_ObjectCategories")
    assert "dataset.root" in said
    assert "dataset.download=true" in said


def test_caltech101_is_downloaded_to_the_cache_where_no_folder_is_named(tmp_path, monkeypatch, capsys):
    def fetch(_file, _folder):
        raise DataError("asked")

    monkeypatch.setattr("tascnet.data.download.fetch", fetch)
    options = ["stage=tune", "dataset=caltech101", "dataset.download=true", "backbone=resnet20"]
    places = [f"outputs={tmp_path}/out", f"cache_dir={tmp_path}/cache", "backbone.weights=random"]
    assert command(*options, *places) == 2
    said = capsys.readouterr().err
    assert f"to {tmp_path / 'cache' / 'datasets' / 'caltech101'}\n" in said
    assert said.endswith("asked\n")


def test_a_class_folder_without_images_is_named(refused, photos):
    (photos / "emu").mkdir()
    (photos / "emu" / "notes.txt").write_text("none yet")
    assert "emu" in refused(*folder_options(photos))


def test_a_class_too_small_for_the_split_is_named(refused, photos):
    said = refused(*folder_options(photos, "dataset.train=9", "dataset.val=9"))
    assert "cat" in said


def test_the_same_files_as_train_validation_and_test_are_refused_with_examples(refused, photos, tmp_path):
    for part in ("train", "val", "test"):
        shutil.copytree(photos, tmp_path / "ready" / part)
    said = refused(*folder_options(tmp_path / "ready"))
    assert said.startswith("20 images are in more than one split of image_folder (")
    assert "train/cat/0.png = val/cat/0.png = test/cat/0.png" in said
    assert "dataset.duplicates=drop" in said
    assert "dataset.duplicates=allow" in said
    assert "0 distinct training" in refused(*folder_options(tmp_path / "ready", "dataset.duplicates=drop"))
    said = refused(*folder_options(tmp_path / "ready", "dataset.duplicates=ignore"))
    assert "takes refuse, drop or allow" in said
    assert "dataset.duplicates" in refused("stage=tune", "dataset=digits", "dataset.duplicates=drop")


def test_samples_that_changed_since_tuning_are_named_by_pruning(refused, finished, tmp_path):
    network = tascnet.load(finished / "tune" / "model")
    save(network, tmp_path / "old", replace(network.info, held_out="other-samples"))
    said = refused(*TINY, "stage=prune", f"prune.source={tmp_path / 'old'}", "name=other")
    assert said.startswith("the samples are not those that the network was trained on: some were changed")
    assert "tune a network on the samples as they are" in said


@pytest.mark.parametrize("content", [b"", photo()[:40], b"no image at all"])
def test_a_corrupt_image_is_named(refused, photos, content):
    (photos / "dog" / "3.png").write_bytes(content)
    said = refused(*folder_options(photos))
    assert "3.png" in said
    assert "dataset.unreadable=skip" in said


def test_a_list_with_a_wrong_line_is_answered_by_its_number(refused, photos, tmp_path):
    lines = "file,label\ncat/0.png,cat\ndog/0.png,dog\n"
    (tmp_path / "list.csv").write_bytes(lines.encode() + b"dog/1.png,d\xf6g\n")
    own = f"dataset.csv={tmp_path / 'list.csv'}"
    assert refused(*folder_options(photos, own)).startswith(
        f"line 4 of {tmp_path / 'list.csv'} is not valid UTF-8"
    )
    (tmp_path / "list.csv").write_text(lines + "dog/11.png,dog\n")
    assert "names dog/11.png, which is not there" in refused(*folder_options(photos, own))
    assert not (tmp_path / "out").exists()


def test_a_class_that_train_lacks_is_named(refused, photos, tmp_path):
    for part in ("train", "test"):
        shutil.copytree(photos, tmp_path / "ready" / part)
    shutil.rmtree(tmp_path / "ready" / "train" / "dog")
    (tmp_path / "ready" / "train" / "emu").mkdir()
    (tmp_path / "ready" / "train" / "emu" / "0.png").write_bytes(photo())
    assert "class 'dog' is in" in refused(*folder_options(tmp_path / "ready"))


def test_the_download_that_does_not_succeed_is_one_sentence(refused, tmp_path, monkeypatch):
    with serve() as site:
        gone = site.put("images.tar", b"")
        site.files.clear()
        own = replace(CATALOGUE["stanford_dogs"], files=(gone,))
        monkeypatch.setitem(CATALOGUE, "stanford_dogs", own)
        options = ["dataset=stanford_dogs", "dataset.download=true", f"dataset.root={tmp_path / 'dogs'}"]
        said = refused("stage=tune", "backbone=resnet20", "backbone.weights=random", *options)
    assert said.startswith(f"Stanford Dogs could not be fetched from {gone.url} to {tmp_path / 'dogs'}")


def test_weights_of_another_architecture(refused, tmp_path):
    path = tmp_path / "resnet20.safetensors"
    write_weights(path, original("resnet20", 10))
    said = refused("stage=tune", "backbone=resnet56", f"backbone.weights={path}")
    assert "resnet56" in said
    # The fourth block of the first stage, which ResNet-20 does not have.
    assert "layer1.3." in said


def test_weights_that_are_missing_or_unreadable(refused, tmp_path):
    assert "absent.pth" in refused(
        "stage=tune", "backbone=resnet20", f"backbone.weights={tmp_path}/absent.pth"
    )
    (tmp_path / "torn.safetensors").write_bytes(b"\x08")
    said = refused("stage=tune", "backbone=resnet20", f"backbone.weights={tmp_path}/torn.safetensors")
    assert "torn.safetensors" in said


def test_prune_without_tune_says_how_to_get_a_model(refused, tmp_path):
    said = refused("stage=prune")
    assert "stage=tune" in said
    assert "prune.source=" in said
    assert str(tmp_path / "nothing") in refused("stage=prune", f"prune.source={tmp_path}/nothing")


def test_a_network_of_your_own_that_is_none(refused):
    assert refused("stage=tune", "backbone=no_such.Net").startswith("there is no module 'no_such' for the ne")
    said = refused("stage=tune", "backbone=tests.pipelines.no_such.chain")
    assert said.startswith(
        "network 'tests.pipelines.no_such.chain' cannot be imported (ModuleNotFoundError: No"
    )
    said = refused("stage=tune", "backbone=builtins.int")
    assert said.startswith("builtins.int returned int, expected an nn.Module")


def test_a_network_of_your_own_whose_file_is_wrong(refused, tmp_path, monkeypatch, capsys):
    (tmp_path / "my_network.py").write_text("def chain(num_classes)\n    return None\n")
    monkeypatch.syspath_prepend(tmp_path)
    options = ["stage=tune", "backbone=my_network.chain", "dataset=digits"]
    said = refused(*options)
    assert (
        "network 'my_network.chain' cannot be imported (SyntaxError: expected ':' (my_network.py, line 1))"
        in said
    )
    assert command(*options, f"outputs={tmp_path}/out", "debug=true") == 2
    assert 'my_network.py", line 1\n' in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["tune", "full"])
def test_weights_that_a_network_lacks_are_found_before_anything_runs(refused, photos, stage):
    own = ["dataset=image_folder", f"dataset.root={photos}", f"stage={stage}", "backbone=resnet50"]
    said = refused(*own, "backbone.weights=IMAGENET1K_V3")
    assert "is no file and no weights of resnet50: take IMAGENET1K_V" in said


@pytest.mark.parametrize("stage", ["tune", "full", "pretrain"])
def test_a_device_that_is_not_there(refused, tmp_path, stage):
    """The network is not made before."""
    assert "device=cuda:99" in refused(f"stage={stage}", "device=cuda:99", f"cache_dir={tmp_path / 'cache'}")
    assert not (tmp_path / "cache" / "weights").exists()


@pytest.mark.parametrize("stage", ["tune", "full", "pretrain"])
def test_more_devices_than_there_are(refused, tmp_path, stage):
    """The network is not made before."""
    said = refused(f"stage={stage}", "trainer.devices=64", "device=cpu", f"cache_dir={tmp_path / 'cache'}")
    assert "trainer.devices=64, but there are only " in said
    assert not (tmp_path / "cache" / "weights").exists()


def test_too_many_filters_asked_for_leave_the_finished_stage_alone(refused, finished, cache):
    before = contents(finished)
    options = [*TINY, "name=run", "stage=prune", "prune.min_filters=999", "fresh=true"]
    said = refused(*options, outputs=finished.parents[2])
    assert "prune.min_filters=999" in said
    assert re.search(r"the widest has \d+: lower it", said)
    assert contents(finished) == before


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda lines: [lines[0], lines[1][:40], *lines[2:]], "line 2 of"),
        (lambda lines: [lines[0], "{}", *lines[2:]], "it was changed or damaged after it was written"),
        (lambda lines: [lines[0], *lines[2:]], "it is iteration 2, expected iteration 1"),
    ],
)
def test_a_corrupt_journal_is_named_with_its_line(refused, finished, tmp_path, spoil, told):
    run = tmp_path.joinpath("out", *finished.parts[-3:])
    shutil.copytree(finished, run)
    (run / "prune" / "metrics.json").unlink()
    journal = run / "prune" / "iterations.jsonl"
    journal.write_text("\n".join(spoil(journal.read_text().splitlines())) + "\n")
    before = contents(run)
    said = refused(*TINY, "name=run", "stage=prune")
    assert str(journal) in said
    assert told in said
    assert contents(run) == before


def test_outputs_that_cannot_be_written(refused, tmp_path):
    (tmp_path / "file").write_text("in the way")
    said = refused("stage=tune", outputs=tmp_path / "file")
    assert str(tmp_path / "file") in said
    assert "outputs=" in said
    said = refused("-m", "stage=tune", "seed=0,1", outputs=tmp_path / "file")
    assert str(tmp_path / "file") in said


def test_a_cache_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert command("stage=tune", f"outputs={tmp_path}/out", f"cache_dir={tmp_path}/file") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert str(tmp_path / "file") in said
    assert "cache_dir=" in said


@pytest.mark.parametrize("other", ["seed=1", "dataset.train=19"])
def test_a_model_tuned_on_another_split_is_not_pruned(refused, finished, cache, other):
    outputs = finished.parents[2]
    source = finished / "tune" / "model"
    said = refused(
        *TINY, "stage=prune", "name=elsewhere", f"prune.source={source}", other, outputs=outputs.parent / "o2"
    )
    assert "was trained on another split" in said
    assert "may have seen test samples" in said


def test_a_stage_does_not_overwrite_the_model_that_it_is_given(refused, finished):
    before = contents(finished)
    said = refused(
        *TINY,
        *("stage=prune", "name=run", f"prune.source={finished / 'prune' / 'model'}", "fresh=true"),
        outputs=finished.parents[2],
    )
    assert "lies in the folder that this stage writes to" in said
    assert contents(finished) == before


def test_another_winner_does_not_replace_what_was_pruned_from_the_old_one(refused, finished, tmp_path):
    run = tmp_path.joinpath("out", *finished.parts[-3:])
    shutil.copytree(finished, run)
    winner = tascnet.load(run / "tune" / "model")
    winner[-1].bias.data += 1
    save(winner, run / "tune" / "model")
    before = contents(run)
    said = refused(*TINY, "name=run", "stage=prune")
    told = "belongs to another configuration (the network to start from differs): "
    assert said.startswith(f"{run / 'prune'} {told}")
    assert said.endswith("keep it and give another prune.name, or start over with fresh=true")
    assert contents(run) == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("prune.criterion=no.Such",), "prune.criterion=no.Such could not be loaded"),
        (("prune.min_filters=5000", "tune.hidden_layers=[0]"), "prune.min_filters=5000"),
        (
            ("prune=bn_scale", "backbone=squeezenet1_1", "prune.min_filters=16", "tune.hidden_layers=[0]"),
            "prune.criterion=bn_scale has no scores",
        ),
    ],
)
def test_what_pruning_refuses_is_refused_before_the_search(refused, photos, tmp_path, options, says):
    own = ("dataset=image_folder", f"dataset.root={photos}", "backbone=resnet20", "backbone.weights=random")
    own = (
        *own,
        "backbone.size=32",
        "backbone.resize=32",
        "dataset.train=4",
        "dataset.val=2",
    )
    assert says in refused(*TINY, *own, *options)
    assert not [*tmp_path.glob("out/**/trials.jsonl")]


@pytest.mark.parametrize("stage", ["full", "prune"])
@pytest.mark.parametrize(
    ("criterion", "says"),
    [
        ("my_criteria.Fails", "cannot be used: it raised ValueError: no idea ({file}, line 3)"),
        ("my_criteria.leaves", "cannot be used: it raised SystemExit: 3 ({file}, line 5)"),
        ("my_criteria.counts", "cannot be used: the criterion gave int for"),
        ("my_criteria.NUMBER", "is int, which cannot be called: give the path of"),
        ("my_criteria.Missing", "could not be loaded (AttributeError: module 'my_criteria' has no attribute"),
        ("no_such.Criterion", "could not be loaded (ModuleNotFoundError: No module named 'no_such')"),
        ("os.path.join", "cannot be used: it raised TypeError"),
    ],
)
def test_a_criterion_that_cannot_be_used_is_refused_before_anything_is_trained(
    refused, finished, tmp_path, monkeypatch, stage, criterion, says
):
    own = tmp_path / "my_criteria.py"
    own.write_text(
        "class Fails:\n    def __call__(self, group):\n        raise ValueError('no idea')\n"
        "def leaves(group):\n    raise SystemExit(3)\n"
        "def counts(group):\n    return 3\nNUMBER = 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_criteria", raising=False)
    source = [f"prune.source={finished / 'tune' / 'model'}"] if stage == "prune" else []
    said = refused(*TINY, f"stage={stage}", f"prune.criterion={criterion}", *source)
    assert said.startswith(f"prune.criterion={criterion} {says.format(file=own)}")
    assert not [*tmp_path.glob("out/**/*.jsonl")]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("backbone.size=1",), "backbone.size must be at least 4, not 1"),
        (("threads=99999",), "four for each CPU of this machine: give at most"),
        (("trainer.lr=1e30",), "trainer.lr must be at most 100, not 1e+30"),
        (("prune.flops_target=0",), "prune.flops_target must be above 0, not 0"),
        (("tune.neurons=[1000000000000]",), "tune.neurons must be at most 65536, not 1000000000000"),
        (("trainer.trial.epochs=1000000000",), "trainer.trial.epochs must be at most 100000, not 1000000000"),
        (("measure.batch=100000000",), "measure.batch must be at most 4096, not 100000000"),
        (("outputs=",), "outputs is empty: give a folder, or leave it out"),
        (("outputs=/proc/x",), "outputs=/proc/x cannot be written to ("),
        (("cache_dir=/proc/x",), "cache_dir=/proc/x cannot be written to ("),
        ((f"outputs={'a' * 300}",), "outputs has a name of more than 255 bytes in it: give a shorter one"),
        (
            ("dataset=image_folder", f"dataset.root={'a' * 300}"),
            f"dataset.root={'a' * 300} cannot be read (File name too long): give an existing folder",
        ),
    ],
)
def test_impossible_values_are_refused_at_once(refused, options, says):
    assert says in refused(*options)


def test_a_batch_that_fits_into_no_memory_is_refused_before_training(refused, monkeypatch, tmp_path):
    monkeypatch.setattr("tascnet.measure.models._memory", lambda device: 1_000_000)
    said = refused("stage=tune", "measure.batch=4096")
    assert re.match(
        r"measure\.batch=4096 samples take at least [\d.]+ GB in one layer, and there are 0.001 GB", said
    )
    assert not [*tmp_path.glob("out/**/trials.jsonl")]


def test_a_network_of_your_own_that_leaves_no_pixel_is_refused_before_the_search(
    refused, tmp_path, monkeypatch
):
    (tmp_path / "vanishing.py").write_text(
        "from torch import nn\n"
        "def chain(num_classes):\n"
        "    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 9), pool, nn.Linear(4, num_classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = ["backbone=vanishing.chain", "backbone.size=8", "dataset=digits"]
    for stage in ("full", "tune"):
        said = refused(*own, f"stage={stage}", "backbone.mean=[0.5]", "backbone.std=[0.5]")
        assert said.startswith("backbone.size=8 is too small for vanishing.chain (")


def test_a_trial_of_endless_epochs_ends_with_the_seconds_of_the_search(tmp_path, cache):
    places = [f"outputs={tmp_path}", f"cache_dir={cache}", "name=run"]
    own = ["stage=tune", "tune.max_seconds=0.2", "trainer.trial.epochs=100000", "tune.finetune_from=prefix"]
    started = time.monotonic()
    assert command(*TINY, *places, *own) == 0
    assert time.monotonic() - started < 20
    folder = tmp_path / "digits" / "digits_cnn" / "run-seed0" / "tune"
    (trial,) = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    assert trial["status"] == "ok"
    assert trial["reason"] == "the seconds of the search (`max_seconds`) were used up"
    assert 1 <= trial["epochs"] < 100_000
    assert read_json(folder / "metrics.json")["stopped"] == "the limit of 0.2 seconds is reached"


def test_both_stages_at_once_take_no_other_model(refused, finished):
    assert "leave prune.source out" in refused(f"prune.source={finished / 'tune' / 'model'}")


def test_missing_samples_are_found_before_weights_are_fetched(refused, photos, monkeypatch):
    def fetched(*_arguments, **_options):
        raise AssertionError("weights were looked for first")

    monkeypatch.setattr(import_module("tascnet.train.backbone"), "build", fetched)
    for stage in ("tune", "full"):
        said = refused("dataset=caltech101", f"stage={stage}", "backbone=vgg16")
        assert "holds no 101_ObjectCategories" in said
        few = ["dataset.train=9", "dataset.val=9"]
        said = refused("dataset=image_folder", f"dataset.root={photos}", f"stage={stage}", *few)
        assert "class 'cat' has 10 samples, expected at least 18" in said
