"""Stage pretrain: weights that a later tune takes, and samples that it must not have seen."""

import shutil
from pathlib import Path

import pytest

import tascnet
from tascnet import data
from tascnet.cli.compose import Tree
from tascnet.models.weights import build_backbone, read_metadata, read_state
from tascnet.run.files import digest_file, read_json
from tascnet_pipelines import backbone, datasets, pretrain, pretraining, session
from tests.pipelines.commands import are_equal, command, contents, metrics, states
from tests.pipelines.texts import SMALL, write_texts

FILE = "weights.safetensors"


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """Movie Review in miniature."""
    return write_texts(tmp_path_factory.mktemp("target"), ("rt-polarity.pos", "rt-polarity.neg"))


@pytest.fixture(scope="module")
def source(tmp_path_factory, target):
    """Subjectivity in miniature: its own sentences, and the target's, in capitals or spaced otherwise."""
    folder = write_texts(tmp_path_factory.mktemp("source"), ("subj.objective", "subj.subjective"), seed=1)
    shared = (target / "rt-polarity.pos").read_text().upper() + (target / "rt-polarity.neg").read_text()
    with open(folder / "subj.subjective", "a") as file:
        file.write(shared.replace(" ", "  "))
    return folder


@pytest.fixture(scope="module")
def options(source, target, tmp_path_factory):
    outputs = tmp_path_factory.mktemp("outputs")
    where = ["dataset=subjectivity", f"dataset.root={source}", f"outputs={outputs}"]
    return ["stage=pretrain", *where, "exclude=movie_review", f"exclude_root={target}", *SMALL]


@pytest.fixture(scope="module")
def stage(options):
    """The folder of an uninterrupted stage; not to be changed."""
    assert command(*options) == 0
    (outputs,) = [option.partition("=")[2] for option in options if option.startswith("outputs=")]
    return Path(outputs) / "subjectivity" / "textcnn" / "run-seed0" / "pretrain"


def test_what_lies_in_the_targets_validation_and_test_split_is_left_out(stage):
    # 0.1 and 0.1 of 40 sentences of each class, by the target's own config.
    found = read_json(stage / "metrics.json")
    assert (found["exclude"], found["excluded"]) == ("movie_review", 16)
    assert "16 samples of movie_review" in (stage / "report.html").read_text()
    assert found["models"]["after"].keys() >= {"val_accuracy", "test_accuracy", "flops", "latency_ms"}


def test_started_again_it_changes_nothing_and_other_samples_are_refused(options, stage, capsys):
    before = contents(stage)
    assert command(*options) == 0
    assert contents(stage) == before
    without = [option for option in options if not option.startswith("exclude")]
    assert command(*without) == 2
    assert "the excluded samples differ" in capsys.readouterr().err


def test_a_finished_stage_is_measured_anew_without_training(options, stage, tmp_path, monkeypatch):
    folder = tmp_path / "subjectivity" / "textcnn" / "run-seed0" / "pretrain"
    shutil.copytree(stage, folder)
    monkeypatch.setattr(pretrain, "pretrain_network", lambda *_: pytest.fail("trained again"))
    assert command(*options, f"outputs={tmp_path}", "measure.batch=3") == 0
    found = read_json(folder / "metrics.json")
    assert found["models"]["after"]["batch"] == 3
    assert digest_file(folder / FILE) == digest_file(stage / FILE)


def test_weights_that_are_gone_are_written_again_from_the_model(options, stage, tmp_path, monkeypatch):
    folder = tmp_path / "subjectivity" / "textcnn" / "run-seed0" / "pretrain"
    shutil.copytree(stage, folder)
    (folder / FILE).unlink()
    monkeypatch.setattr(pretrain, "pretrain_network", lambda *_: pytest.fail("trained again"))
    assert command(*options, f"outputs={tmp_path}") == 0
    assert contents(folder) == contents(stage)


def test_without_exclude_all_samples_are_taken(options, stage, source, tmp_path):
    without = [option for option in options if not option.startswith("exclude")]
    assert command(*without, f"outputs={tmp_path}") == 0
    folder = tmp_path / "subjectivity" / "textcnn" / "run-seed0" / "pretrain"
    assert read_json(folder / "metrics.json")["excluded"] == 0
    known = read_metadata(folder / FILE)["pretrained_on"]
    own = {name: known.pop(name) for name in ("fingerprint", "own_held_out")}
    assert known == {"dataset": "subjectivity", "exclude": None, "held_out": None, "resize": None}
    assert own["fingerprint"] == data.load_texts("subjectivity", source).fingerprint
    assert len(own["own_held_out"]) == 32
    assert digest_file(folder / FILE) != digest_file(stage / FILE)


def test_broken_off_before_its_weights_are_written_it_goes_on(options, stage, tmp_path, monkeypatch):
    class BrokenOff(BaseException):
        pass

    def break_off(*_):
        raise BrokenOff

    again = [*options, f"outputs={tmp_path}"]
    folder = tmp_path / "subjectivity" / "textcnn" / "run-seed0" / "pretrain"
    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "write_source", break_off)
        with pytest.raises(BrokenOff):
            command(*again)
    assert not (folder / "metrics.json").exists()
    with monkeypatch.context() as patch:
        # The training is done: it must not be repeated.
        patch.setattr(pretrain, "pretrain_network", break_off)
        assert command(*again) == 0
    assert metrics(folder) == metrics(stage)
    assert digest_file(folder / FILE) == digest_file(stage / FILE)


def tune(target, stage, outputs, *more):
    root = [f"dataset.root={target}", f"outputs={outputs}", f"backbone.weights={stage / FILE}"]
    return command("stage=tune", "dataset=movie_review", *root, *SMALL, *more)


def test_a_later_tune_takes_the_weights_with_their_words(stage, target, tmp_path, capsys):
    assert tune(target, stage, tmp_path, "tune.finetune_from=prefix") == 0
    said = capsys.readouterr().err
    source_words = tascnet.load(stage / "model").preprocessing.vocabulary
    tuned = tascnet.load(tmp_path / "movie_review" / "textcnn" / "run-seed0" / "tune" / "model")
    words = tuned.preprocessing.vocabulary
    assert words[: len(source_words)] == source_words
    assert (
        f"{len(source_words) - 2} words keep their vectors, {len(words) - len(source_words)} start anew"
        in said
    )
    pretrained = read_state(stage / FILE)["embedding.weight"]
    assert tuned.embedding.weight[: len(source_words)].equal(pretrained)
    assert "of another split" not in said
    assert "nothing says" not in said
    assert FILE in tuned.info.weights


def test_a_file_of_vectors_wins_over_the_weights_and_is_told_so(stage, target, tmp_path, capsys):
    words = tascnet.load(stage / "model").preprocessing.vocabulary
    path = tmp_path / "vectors.txt"
    path.write_text("".join(f"{word} {'0.5 ' * 8}\n" for word in (*words[2:5], "elsewhere")))
    assert tune(target, stage, tmp_path, "tune.max_trials=1", f"backbone.vectors={path}") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"3 words take their vectors from the file, {len(words) - 5} keep theirs, 0 start anew" in said


def test_weights_made_for_another_split_are_warned_of(stage, target, tmp_path, capsys):
    assert tune(target, stage, tmp_path, "seed=1", "tune.max_trials=1") == 0
    said = capsys.readouterr().err
    assert "without the validation and test samples of another split of movie_review" in said
    assert "exclude=movie_review" in said


def test_weights_made_for_another_data_set_are_told_of_and_not_warned_of(
    stage, source, target, tmp_path, capsys
):
    """Nobody knows whether they share samples; those of the data set that they were trained on are known."""
    folder = tmp_path / "other"
    folder.mkdir()
    for name in ("rt-polarity.pos", "rt-polarity.neg"):
        shutil.copy(target / name, folder / f"{name}.txt")
    weights = f"backbone.weights={stage / FILE}"
    own = [f"outputs={tmp_path}", *SMALL, "tune.max_trials=1", weights]
    texts = ["dataset=text_lines", f"dataset.root={folder}", "backbone=textcnn"]
    assert command("stage=tune", *texts, *own) == 0
    said = capsys.readouterr().err
    assert "it is unknown whether text_lines shares samples with subjectivity" in said
    assert "of another split" not in said
    again = ("stage=tune", "dataset=subjectivity", f"dataset.root={source}", *own)
    assert command(*again) == 0
    said = capsys.readouterr().err
    assert "nothing says" not in said
    assert "another split" not in said
    # With another seed the network is tested on what it has learnt.
    assert command(*again, "seed=1") == 0
    assert "were trained on another split of subjectivity" in " ".join(capsys.readouterr().err.split())


def test_a_class_of_which_nothing_is_left_is_refused(target, source, tmp_path, capsys):
    reviews = data.load_texts("movie_review", target)
    rows = datasets.draw_split(Tree().compose(["dataset=movie_review"]), reviews)
    held_out = [reviews.texts[row] for row in (*rows.val, *rows.test)]
    folder = tmp_path / "source"
    shutil.copytree(source, folder)
    (folder / "subj.objective").write_text("\n".join(held_out))
    where = ["dataset=subjectivity", f"dataset.root={folder}", f"outputs={tmp_path}"]
    assert command("stage=pretrain", *where, "exclude=movie_review", f"exclude_root={target}", *SMALL) == 2
    said = capsys.readouterr().err
    assert "without the samples that are excluded class 'objective' of subjectivity is empty" in said


def test_images_are_told_by_their_pixels(tmp_path):
    # The network starts from random weights: a digit of its usual source task may be among them.
    run = ["stage=pretrain", "dataset.digits=[0,5,6]", "exclude=digits", f"outputs={tmp_path}", "name=run"]
    short = ["trainer.pretrain.epochs=1", "measure.repeats=3", "measure.warmup=0", "measure.batch=2"]
    assert command(*run, *short) == 0
    folder = tmp_path / "digits" / "digits_cnn" / "run-seed0" / "pretrain"
    # All but 20 of the target's 182 fives and 181 sixes are validation or test samples; no two are equal.
    assert read_json(folder / "metrics.json")["excluded"] == 182 - 20 + 181 - 20
    source = build_backbone("digits_cnn", weights=folder / FILE, channels=1)
    assert source.num_classes == 3
    assert are_equal(source.chain.state_dict(), states(folder / "model"))


def test_what_a_ready_split_leaves_unused_is_not_counted(images, tmp_path):
    """Two files of each class are used for training and one for validation; two lie in the target's test."""
    for part, first, last in (("train", 0, 6), ("test", 6, 9)):
        for name in ("cat", "dog"):
            folder = tmp_path / "split" / part / name
            folder.mkdir(parents=True)
            for number in range(first, last):
                shutil.copy(images / name / f"{number:02d}.png", folder)
    config = Tree().compose(
        [
            *("dataset=image_folder", f"dataset.root={tmp_path / 'split'}", "backbone=resnet18"),
            *("dataset.train_per_class=2", "dataset.val_per_class=1", f"outputs={tmp_path}"),
            *("backbone.size=32", "backbone.resize=32"),
        ]
    )
    whole = session.open_session(config)
    unseen = data.sample_digests(whole.dataset, whole.test.rows[:2])
    assert whole.excluded == 0
    assert session.open_session(config, excluded=unseen).excluded == 2


def test_weights_have_the_keys_of_the_original_layout(images, tmp_path):
    small = ["backbone=resnet18", "backbone.size=32", "backbone.resize=32", "trainer.pretrain.epochs=1"]
    root = ["dataset=image_folder", f"dataset.root={images}", f"outputs={tmp_path}", "name=run"]
    timing = ["measure.repeats=3", "measure.warmup=0", "measure.batch=2"]
    assert command("stage=pretrain", *root, *small, *timing) == 0
    folder = tmp_path / "image_folder" / "resnet18" / "run-seed0" / "pretrain"
    assert "layer1.0.conv1.weight" in read_state(folder / FILE)
    chain = build_backbone("resnet18", weights=folder / FILE).chain
    assert are_equal(chain.state_dict(), states(folder / "model"))


def test_the_source_task_of_the_digits_goes_through_the_same_code(monkeypatch, tmp_path):
    seen = []

    def noted(current, network, **options):
        seen.append((current.config.dataset.digits, current.config.seed, options))
        return pretraining.pretrain_network(current, network, **options)

    monkeypatch.setattr(backbone, "pretrain_network", noted)
    short = ["tune.max_trials=1", "tune.initial_trials=1", "trainer.head.epochs=1", "trainer.trial.epochs=1"]
    short += ["trainer.finetune.epochs=1", "name=other", "seed=3"]
    assert command("stage=tune", *short, f"outputs={tmp_path}") == 0
    assert seen == [([0, 1, 2, 3, 4], 0, {"description": "pre-train digits_cnn"})]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["exclude=digits", "stage=tune"], "exclude=digits has no effect with stage=tune"),
        (["exclude=digit"], "did you mean exclude=digits?"),
        (["exclude=movie_review"], "one holds texts, the other images"),
        (["exclude=image_folder"], "give it as exclude_root=<folder>"),
        (["exclude_root=/x"], "exclude_root has no effect"),
        (["exclude_options.val_per_class=2"], "exclude_options have no effect without a data set"),
        (["backbone.weights=/x.pth"], "backbone.weights has no effect"),
        (["exclude=image_folder", "exclude_root=/nowhere"], "/nowhere is missing, expected a folder"),
    ],
)
def test_mistakes_are_one_sentence(overrides, says, tmp_path, capsys):
    stage = [] if any(text.startswith("stage=") for text in overrides) else ["stage=pretrain"]
    assert command(*stage, *overrides, f"outputs={tmp_path}") == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("where", [None, "file", "empty", "gone"])
def test_mistakes_about_the_excluded_data_set_name_its_own_options(where, source, tmp_path, capsys):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    root = [] if where is None else [f"exclude_root={tmp_path / where}"]
    run = ["stage=pretrain", "dataset=subjectivity", f"dataset.root={source}", f"outputs={tmp_path}", *SMALL]
    assert command(*run, "exclude=movie_review", *root) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "exclude=movie_review: " in said
    assert "set exclude_root to a folder with rt-polarity.neg and rt-polarity.pos" in said
    assert "dataset.root" not in said


def test_the_excluded_data_set_is_downloaded_too(source, tmp_path, monkeypatch):
    """Also for a data set that is not published itself."""
    fetched = []

    def fetch(_, place):
        fetched.append(place)
        write_texts(place, ("rt-polarity.pos", "rt-polarity.neg"))

    monkeypatch.setattr(data, "fetch_texts", fetch)
    (tmp_path / "own").mkdir()
    for number, name in enumerate(("subj.objective", "subj.subjective")):
        shutil.copy(source / name, tmp_path / "own" / f"{number}.txt")
    run = ["stage=pretrain", "dataset=text_lines", f"dataset.root={tmp_path / 'own'}", f"outputs={tmp_path}"]
    assert command(*run, "backbone=textcnn", "exclude=movie_review", "dataset.download=true", *SMALL) == 0
    assert fetched == [tmp_path / "cache" / "datasets" / "movie_review"]


def test_the_excluded_data_set_has_options_of_its_own(options, target, tmp_path, capsys):
    """Half of the target's sentences are held out, and a tune on that very split is not warned."""
    fractions = {"train_fraction": 0.5, "val_fraction": 0.2}
    own = [f"exclude_options.{key}={value}" for key, value in fractions.items()]
    assert command(*options, f"outputs={tmp_path}", *own) == 0
    stage = tmp_path / "subjectivity" / "textcnn" / "run-seed0" / "pretrain"
    assert read_json(stage / "metrics.json")["excluded"] == 40
    same = [f"dataset.{key}={value}" for key, value in fractions.items()]
    assert tune(target, stage, tmp_path, "tune.max_trials=1", *same) == 0
    assert "of another split" not in capsys.readouterr().err
    assert tune(target, stage, tmp_path, "tune.max_trials=1", "fresh=true") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "of another split" in said
    assert "give its split as exclude_options" in said


def test_counts_of_the_excluded_data_set_give_way_to_its_own_options(tmp_path):
    config = ["stage=pretrain", "exclude=digits", "exclude_options.digits=[5,6]", f"outputs={tmp_path}"]

    def unseen(*options):
        return len(pretrain.held_out(Tree().compose([*config, *options])))

    counts = ["exclude_options.train_per_class=25", "exclude_options.val_per_class=5"]
    assert unseen(*counts) == 182 + 181 - 2 * 25
    # Half of each class, rounded to even.
    assert unseen("exclude_options.train_fraction=0.5") == 182 + 181 - 91 - 90


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["train_per_clas=3"], "there is no option exclude_options.train_per_clas"),
        (["train_per_class=0"], "exclude_options.train_per_class is at least 1"),
        (["val_fraction=half"], "exclude_options.val_fraction takes"),
        (["unreadable=never"], "exclude_options.unreadable has no choice 'never'"),
        (["train_per_class=170"], "exclude=digits: class '5' has 182 samples, expected at least"),
        (["train_fraction=0.9", "val_fraction=0.1"], "exclude_options.train_fraction + exclude_options.val_"),
        (["official_test=true"], "leave exclude_options.official_test out"),
    ],
)
def test_mistakes_in_options_of_the_excluded_data_set(overrides, says, tmp_path, capsys):
    own = [f"exclude_options.{text}" for text in overrides]
    assert command("stage=pretrain", "exclude=digits", *own, f"outputs={tmp_path}") == 2
    assert says in " ".join(capsys.readouterr().err.split())


@pytest.mark.realdata
def test_no_sentence_of_the_targets_validation_or_test_split_is_seen(shared, tmp_path):
    roots = {name: shared / "data" / name for name in ("subjectivity", "movie_review")}
    config = Tree().compose(
        [
            *("stage=pretrain", "dataset=subjectivity", f"dataset.root={roots['subjectivity']}"),
            *("exclude=movie_review", f"exclude_root={roots['movie_review']}", f"outputs={tmp_path}"),
        ]
    )
    unseen = set(pretrain.held_out(config))
    opened = session.open_session(config, excluded=unseen)
    parts = (opened.train, opened.val, opened.test)
    seen = {digest for part in parts for digest in data.sample_digests(opened.dataset, part.rows)}
    # An independent look: the words as they stand in the files, in which both are split already.
    reviews = data.load_texts("movie_review", roots["movie_review"])
    rows = datasets.draw_split(Tree().compose(["dataset=movie_review"]), reviews)
    held_out = {" ".join(reviews.texts[row].lower().split()) for row in (*rows.val, *rows.test)}
    taken = {" ".join(opened.dataset.texts[row].lower().split()) for part in parts for row in part.rows}
    assert not seen & unseen
    assert not taken & held_out
    everything = {" ".join(text.lower().split()) for text in opened.dataset.texts}
    # Without the exclusion hundreds would be.
    assert len(everything & held_out) > 700
