"""Stage pretrain: weights that a later tune takes, and samples that it must not have seen."""

from pathlib import Path

import pytest

import tascnet
from tascnet.models.weights import read_state
from tests.pipelines.commands import command, contents
from tests.pipelines.texts import SMALL
from tests.reading import read_json
from tests.train.texts import write_texts

FILE = "weights.safetensors"


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """Movie Review in miniature."""
    return write_texts(tmp_path_factory.mktemp("target"), ("rt-polarity.pos", "rt-polarity.neg"))


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def options(target, outputs, tmp_path_factory):
    """Of a pre-training on Subjectivity in miniature, which holds the target's sentences in capitals too."""
    folder = write_texts(
        tmp_path_factory.mktemp("subjectivity"), ("subj.objective", "subj.subjective"), seed=1
    )
    shared = (target / "rt-polarity.pos").read_text().upper() + (target / "rt-polarity.neg").read_text()
    with open(folder / "subj.subjective", "a") as file:
        file.write(shared.replace(" ", "  "))
    run = ["stage=pretrain", f"outputs={outputs}", *SMALL]
    assert command(*run, "dataset=movie_review", f"dataset.root={target}") == 0
    excluded = outputs / "movie_review" / "textcnn" / "run-seed0" / "pretrain"
    return [*run, "dataset=subjectivity", f"dataset.root={folder}", f"exclude={excluded}"]


@pytest.fixture(scope="module")
def stage(options, outputs):
    """The folder of an uninterrupted stage; not to be changed."""
    assert command(*options) == 0
    return outputs / "subjectivity" / "textcnn" / "run-seed0" / "pretrain"


def tune(target, stage: Path, outputs: Path, *more: str) -> int:
    root = [f"dataset.root={target}", f"outputs={outputs}", f"backbone.weights={stage / FILE}"]
    return command("stage=tune", "dataset=movie_review", *root, *SMALL, "tune.max_trials=1", *more)


def test_what_another_run_holds_out_is_left_out(stage):
    # 0.1 and 0.1 of 40 sentences of each class.
    found = read_json(stage / "metrics.json")
    assert (found["exclude"], found["excluded"]) == ("movie_review", 16)
    page = (stage / "report.html").read_text()
    assert "16 samples in the validation and test split of movie_review" in page
    assert found["models"]["after"].keys() >= {"val_accuracy", "test_accuracy", "flops", "latencies"}


def test_started_again_it_changes_nothing_and_other_samples_are_refused(options, stage, capsys):
    before = contents(stage)
    assert command(*options) == 0
    assert f"pretrain is finished in {stage}; fresh=true starts it over\n" in capsys.readouterr().err
    assert contents(stage) == before
    assert command(*options[:-1]) == 2
    assert "the excluded samples differ" in capsys.readouterr().err


def test_a_later_tune_takes_the_weights_with_their_words(stage, target, tmp_path, capsys):
    assert tune(target, stage, tmp_path, "tune.finetune_from=prefix") == 0
    said = capsys.readouterr().err
    known = tascnet.load(stage / "model").preprocessing.vocabulary
    tuned = tascnet.load(tmp_path / "movie_review" / "textcnn" / "run-seed0" / "tune" / "model")
    words = tuned.preprocessing.vocabulary
    assert words[: len(known)] == known
    kept, drawn = len(known) - 2, len(words) - len(known)
    assert f"{kept} words keep the network's, {drawn} are drawn at random" in said
    assert tuned.embedding.weight[: len(known)].equal(read_state(stage / FILE)["embedding.weight"])
    assert "another split" not in said
    assert "nothing says" not in said
    assert FILE in tuned.info.weights


def test_a_file_of_vectors_wins_over_the_weights_and_the_log_says_so(stage, target, tmp_path, capsys):
    words = tascnet.load(stage / "model").preprocessing.vocabulary
    path = tmp_path / "vectors.txt"
    path.write_text("".join(f"{word} {'0.5 ' * 8}\n" for word in (*words[2:5], "elsewhere")))
    assert tune(target, stage, tmp_path, f"backbone.vectors={path}") == 0
    said = capsys.readouterr().err
    assert f"vectors: 3 words take those of the file, {len(words) - 5} words keep the network's" in said


def test_weights_made_for_another_split_are_warned_of(stage, target, tmp_path, capsys):
    assert tune(target, stage, tmp_path, "seed=1") == 0
    assert "the validation and test samples of another split of movie_review" in capsys.readouterr().err


def test_what_is_no_splits_file_is_one_sentence(options, tmp_path, capsys):
    assert command(*options[:-1], f"exclude={tmp_path}", f"outputs={tmp_path}") == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"there is no file {tmp_path / 'splits.json'}: give exclude a splits.json, or")
