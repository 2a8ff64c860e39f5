"""Pre-training: the weights that a later run takes, and samples that they must not have seen."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import tascnet
from tascnet.data.heldout import read_splits
from tascnet.data.samples import Samples, open_samples
from tascnet.errors import DataError, RunFolderError
from tascnet.models.weights import read_metadata, read_state
from tascnet.options import Digits, Measure, TextBackbone
from tascnet.run.files import digest_file
from tascnet.run.records import PretrainMetrics, read_record
from tascnet.train import pretrain as module
from tascnet.train.learner import Learner
from tascnet.train.transfer import warn_of_overlap
from tests.damage import edit, flip
from tests.reading import read_json
from tests.train.texts import write_texts

FILE = "weights.safetensors"
TRAINER = tascnet.preset("trainer", "text", pretrain={"epochs": 2})
MEASURE = Measure(batch=2, repeats=3)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Movie Review in miniature."""
    return write_texts(tmp_path_factory.mktemp("target"), ("rt-polarity.pos", "rt-polarity.neg"))


@pytest.fixture(scope="module")
def subjectivity(tmp_path_factory: pytest.TempPathFactory, target: Path) -> Path:
    """Subjectivity in miniature: its own sentences, and the target's, in capitals or spaced otherwise."""
    folder = write_texts(
        tmp_path_factory.mktemp("subjectivity"), ("subj.objective", "subj.subjective"), seed=1
    )
    shared = (target / "rt-polarity.pos").read_text().upper() + (target / "rt-polarity.neg").read_text()
    with open(folder / "subj.subjective", "a") as file:
        file.write(shared.replace(" ", "  "))
    return folder


def reviews(target: Path, cache: Path, seed: int = 0, max_tokens: int = 12) -> Samples:
    data = tascnet.movie_review(target, max_tokens=max_tokens)
    words = textcnn().preprocessing
    return open_samples(data, words, seed=seed, cache=cache, grow_vocabulary=True)


@pytest.fixture(scope="module")
def splits(target: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on the target."""
    folder = tmp_path_factory.mktemp("run")
    reviews(target, cache).write_splits(folder / "splits.json")
    return folder


def textcnn(weights: str = "random") -> nn.Sequential:
    return tascnet.backbone(TextBackbone(weights=weights, embedding_width=8, filters=8))


def pretrained(subjectivity: Path, cache: Path, **options: object) -> module.PretrainResult:
    data = tascnet.subjectivity(subjectivity, max_tokens=12)
    given = {"trainer": TRAINER, "measure": MEASURE, "device": "cpu", "cache": cache, **options}
    return tascnet.pretrain(textcnn(), data, **given)


@pytest.fixture(scope="module")
def stage(subjectivity: Path, splits: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run; not to be changed."""
    folder = tmp_path_factory.mktemp("stage") / "pretrain"
    pretrained(subjectivity, cache, exclude=splits, run=folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != "log.txt")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def numbers(folder: Path) -> dict[str, object]:
    """What of the metrics does not depend on the clock."""
    found = read_record(folder / "metrics.json", PretrainMetrics)
    after = found.models["after"]
    epochs = [replace(epoch, seconds=0.0) for epoch in found.epochs]
    return {
        "accuracy": (after.val_accuracy, after.test_accuracy, after.params, after.flops, after.size_bytes),
        "epochs": (found.best_epoch, epochs, found.excluded),
    }


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_what_the_excluded_run_holds_out_is_left_out(stage: Path) -> None:
    # 0.1 and 0.1 of 40 sentences of each class.
    found = read_record(stage / "metrics.json", PretrainMetrics)
    assert (found.exclude, found.excluded) == ("movie_review", 16)
    assert (found.dataset, found.backbone, found.weights, found.seed) == ("subjectivity", "textcnn", FILE, 0)
    assert found.samples.train + found.samples.val + found.samples.test == 160 - 16
    assert found.models.keys() == {"after"}
    assert found.models["after"].batch == 2
    assert len(found.epochs) == 2


def test_the_result_is_the_network_its_metrics_and_its_weights(
    stage: Path, subjectivity: Path, splits: Path, cache: Path
) -> None:
    result = pretrained(subjectivity, cache, exclude=splits, run=stage)
    assert result.weights == stage / FILE
    assert result.metrics == read_record(stage / "metrics.json", PretrainMetrics)
    assert result.network.class_names == ("objective", "subjective")
    assert result.network.info.held_out is not None
    assert not result.network.training
    assert equal(read_state(stage / FILE), result.network.state_dict())
    assert "validation accuracy" in str(result)


def test_started_again_it_changes_nothing_and_other_samples_are_refused(
    stage: Path, subjectivity: Path, splits: Path, cache: Path
) -> None:
    before = contents(stage)
    pretrained(subjectivity, cache, exclude=splits / "splits.json", run=stage)
    assert contents(stage) == before
    with pytest.raises(RunFolderError, match="the excluded samples differ"):
        pretrained(subjectivity, cache, run=stage)


def test_without_a_folder_nothing_is_kept(subjectivity: Path, splits: Path, cache: Path, stage: Path) -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    result = pretrained(subjectivity, cache, exclude=splits)
    assert result.weights is None
    assert equal(result.network.state_dict(), read_state(stage / FILE))
    assert not list(cache.glob("run-*"))
    assert (torch.get_num_threads(), bool(torch.equal(state, torch.get_rng_state()))) == (threads, True)


def test_a_finished_run_is_measured_again_without_training(
    stage: Path,
    subjectivity: Path,
    splits: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "pretrain"
    shutil.copytree(stage, folder)
    monkeypatch.setattr(Learner, "fit", lambda *_, **__: pytest.fail("trained again"))
    result = pretrained(subjectivity, cache, exclude=splits, run=folder, measure=Measure(batch=3, repeats=3))
    assert result.metrics.models["after"].batch == 3
    measured = {"batch": 3, "repeats": 3, "runtimes": ["eager"], "target": "eager"}
    assert read_json(folder / "metrics.json")["measure"] == measured
    assert numbers(folder) == numbers(stage)
    assert digest_file(folder / FILE) == digest_file(stage / FILE)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-4])])
def test_weights_that_are_gone_or_damaged_are_written_again(
    damage: Callable[[Path], object],
    stage: Path,
    subjectivity: Path,
    splits: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "pretrain"
    shutil.copytree(stage, folder)
    damage(folder / FILE)
    monkeypatch.setattr(Learner, "fit", lambda *_, **__: pytest.fail("trained again"))
    pretrained(subjectivity, cache, exclude=splits, run=folder)
    assert contents(folder) == contents(stage)


def test_interrupted_before_its_weights_are_written_it_resumes(
    stage: Path,
    subjectivity: Path,
    splits: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Interrupted(BaseException):
        pass

    def interrupt(*_: object, **__: object) -> None:
        raise Interrupted

    folder = tmp_path / "pretrain"
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_backbone", interrupt)
        with pytest.raises(Interrupted):
            pretrained(subjectivity, cache, exclude=splits, run=folder)
    assert not (folder / "metrics.json").exists()
    with monkeypatch.context() as patch:
        # The training is done: it must not be repeated.
        patch.setattr(Learner, "fit", interrupt)
        pretrained(subjectivity, cache, exclude=splits, run=folder)
    assert numbers(folder) == numbers(stage)
    assert digest_file(folder / FILE) == digest_file(stage / FILE)


def test_without_exclude_all_samples_are_taken(
    stage: Path, subjectivity: Path, cache: Path, tmp_path: Path
) -> None:
    result = pretrained(subjectivity, cache, run=tmp_path)
    assert (result.metrics.exclude, result.metrics.excluded) == (None, 0)
    assert read_metadata(tmp_path / FILE)["pretrained_on"] == {
        "dataset": "subjectivity",
        "fingerprint": read_json(tmp_path / "splits.json")["fingerprint"],
        "held_out": result.network.info.held_out,
        "excluded": None,
    }
    assert digest_file(tmp_path / FILE) != digest_file(stage / FILE)


def warnings_of(network: nn.Sequential, samples: Samples, logged: list[str]) -> list[str]:
    logged.clear()
    warn_of_overlap(network, samples)
    return list(logged)


def test_weights_made_for_this_split_are_not_warned_of(
    stage: Path, target: Path, cache: Path, logged: list[str]
) -> None:
    network = textcnn(str(stage / FILE))
    known = tascnet.load(stage / "model").preprocessing.vocabulary
    assert network.preprocessing.vocabulary == known
    assert FILE in network.info.weights
    assert warnings_of(network, reviews(target, cache), logged) == []


def test_weights_made_for_another_split_are_warned_of(
    stage: Path, target: Path, cache: Path, logged: list[str]
) -> None:
    (said,) = warnings_of(textcnn(str(stage / FILE)), reviews(target, cache, seed=1), logged)
    assert said.startswith("WARNING")
    assert "without the validation and test samples of another split of movie_review" in said


def test_weights_made_for_another_data_set_are_reported_and_those_of_another_split_of_their_own_warned_of(
    stage: Path, subjectivity: Path, target: Path, cache: Path, tmp_path: Path, logged: list[str]
) -> None:
    """Nobody knows whether they share samples; those of the data set that they were trained on are known."""
    network = textcnn(str(stage / FILE))
    for name in ("rt-polarity.pos", "rt-polarity.neg"):
        shutil.copy(target / name, tmp_path / f"{name}.txt")
    other = tascnet.text_lines(tmp_path, max_tokens=12)
    options = {"cache": cache, "grow_vocabulary": True}
    (said,) = warnings_of(network, open_samples(other, network.preprocessing, seed=0, **options), logged)
    assert said.startswith("INFO: it is unknown whether text_lines shares samples with subjectivity")
    own = tascnet.subjectivity(subjectivity, max_tokens=12)
    # With another seed the network is tested on what it has learnt.
    (said,) = warnings_of(network, open_samples(own, network.preprocessing, seed=1, **options), logged)
    assert said.startswith("WARNING")
    assert "were trained on another split of subjectivity" in said


def test_weights_tested_on_their_own_split_are_not_warned_of(
    subjectivity: Path, cache: Path, tmp_path: Path, logged: list[str]
) -> None:
    pretrained(subjectivity, cache, run=tmp_path)
    network = textcnn(str(tmp_path / FILE))
    own = tascnet.subjectivity(subjectivity, max_tokens=12)
    samples = open_samples(own, network.preprocessing, seed=0, cache=cache, grow_vocabulary=True)
    assert warnings_of(network, samples, logged) == []


def test_a_class_of_which_nothing_is_left_is_refused(
    target: Path, splits: Path, subjectivity: Path, cache: Path, tmp_path: Path
) -> None:
    samples = reviews(target, cache)
    held_out = [samples.dataset.texts[row] for row in (*samples.val.rows, *samples.test.rows)]
    folder = tmp_path / "subjectivity"
    shutil.copytree(subjectivity, folder)
    (folder / "subj.objective").write_text("\n".join(held_out))
    with pytest.raises(
        DataError, match="without the excluded samples class 'objective' of subjectivity is empty"
    ):
        pretrained(folder, cache, exclude=splits)


def test_a_missing_splits_file_is_one_sentence(subjectivity: Path, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        pretrained(subjectivity, cache, exclude=tmp_path)


def digits(classes: str, **options: object) -> Digits:
    return tascnet.digits(classes=list(classes), **options)


def test_images_are_recognised_by_their_pixels(cache: Path, tmp_path: Path) -> None:
    random = tascnet.backbone("digits_cnn", weights="random")
    samples = open_samples(digits("56789"), random.preprocessing, seed=0, cache=cache)
    samples.write_splits(tmp_path / "splits.json")
    trainer = tascnet.preset("trainer", "digits", pretrain={"epochs": 1})
    options = {"trainer": trainer, "measure": MEASURE, "cache": cache}
    result = tascnet.pretrain(random, digits("056"), exclude=tmp_path, run=tmp_path / "run", **options)
    # All but 20 of the target's 182 fives and 181 sixes are validation or test samples; no two are equal.
    assert result.metrics.excluded == 182 - 20 + 181 - 20
    again = tascnet.backbone("digits_cnn", weights=str(result.weights))
    assert again.classifier.out_features == 3
    assert equal(again.state_dict(), result.network.state_dict())
    # The seed draws the weights, whatever those of the given network are.
    other = tascnet.pretrain(
        tascnet.backbone("digits_cnn", cache=cache), digits("056"), exclude=tmp_path, **options
    )
    assert equal(other.network.state_dict(), result.network.state_dict())


def test_weights_have_the_keys_of_the_original_layout(cache: Path, tmp_path: Path) -> None:
    network = tascnet.backbone("resnet18", weights="random", size=16, resize=16)
    trainer = tascnet.preset("trainer", "default", pretrain={"epochs": 1})
    result = tascnet.pretrain(
        network, digits("56"), trainer=trainer, measure=MEASURE, cache=cache, run=tmp_path
    )
    assert "layer1.0.conv1.weight" in read_state(tmp_path / FILE)
    again = tascnet.backbone("resnet18", weights=str(tmp_path / FILE))
    assert equal(again.state_dict(), result.network.state_dict())


def test_a_network_of_ones_own_starts_from_its_weights(cache: Path) -> None:
    own = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    )
    network = tascnet.backbone(own, size=8, resize=8, mean=[0.5], std=[0.5])
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    trainer = tascnet.preset("trainer", "digits", pretrain={"epochs": 1, "lr": 0.0, "weight_decay": 0.0})
    for classes in ("567", "5678"):
        result = tascnet.pretrain(network, digits(classes), trainer=trainer, measure=MEASURE, cache=cache)
        after = result.network.state_dict()
        assert result.network[-1].out_features == len(classes)
        # Without a learning rate nothing changes but a head for another number of classes.
        assert torch.equal(after["0.weight"], before["0.weight"])
        if len(classes) == 3:
            assert torch.equal(after["classifier.weight"], before["classifier.weight"])
    assert equal(network.state_dict(), before)


@pytest.mark.realdata
def test_movie_review_gets_no_sentence_of_its_validation_and_test_splits(
    shared: Path, cache: Path, tmp_path: Path
) -> None:
    texts = shared / "datasets"
    roots = {name: texts / name for name in ("subjectivity", "movie_review")}
    if not all(root.is_dir() for root in roots.values()):
        pytest.skip("the folder of real data has no texts")
    target = reviews(roots["movie_review"], cache, max_tokens=40)
    target.write_splits(tmp_path / "splits.json")
    words = textcnn().preprocessing
    unseen = read_splits(tmp_path, words)
    data = tascnet.subjectivity(roots["subjectivity"])
    opened = open_samples(data, words, seed=0, cache=cache, grow_vocabulary=True, exclude=unseen.digests)
    parts = (opened.train, opened.val, opened.test)
    seen = {opened.dataset.digests[row] for part in parts for row in part.rows}
    # An independent look: the words as they stand in the files, in which both are split already.
    held_out = {
        " ".join(target.dataset.texts[row].lower().split()) for row in (*target.val.rows, *target.test.rows)
    }
    taken = {" ".join(opened.dataset.texts[row].lower().split()) for part in parts for row in part.rows}
    assert not seen & set(unseen.digests)
    assert not taken & held_out
    everything = {" ".join(text.lower().split()) for text in opened.dataset.texts}
    # Without the exclusion hundreds would be.
    assert len(everything & held_out) > 700


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "metrics.json").write_bytes(b"[]"),
        lambda folder: edit(folder / "metrics.json", '"best_epoch": ', '"best_epoch": 1'),
        lambda folder: flip(folder / "model" / "model.safetensors"),
        lambda folder: edit(folder / "model" / "architecture.json", '"padding_idx"', '"padding"'),
        lambda folder: flip(folder / FILE),
    ],
)
def test_a_damaged_run_is_made_whole_again(
    damage: Callable[[Path], None],
    stage: Path,
    subjectivity: Path,
    splits: Path,
    cache: Path,
    tmp_path: Path,
    logged: list[str],
) -> None:
    shutil.copytree(stage, tmp_path / "pretrain")
    damage(tmp_path / "pretrain")
    pretrained(subjectivity, cache, exclude=splits, run=tmp_path / "pretrain")
    assert numbers(tmp_path / "pretrain") == numbers(stage)
    before, after = contents(stage), contents(tmp_path / "pretrain")
    assert {name for name in before if before[name] != after[name]} <= {"metrics.json"}
    assert len([line for line in logged if line.startswith("WARNING") and "again" in line]) == 1
