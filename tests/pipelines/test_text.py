"""Texts through both stages, and what is refused of them."""

import pytest
import torch

import tascnet
from tascnet.measure import complexity
from tascnet.run.files import read_jsonl
from tests.pipelines.commands import are_equal, command, contents, metrics, states
from tests.pipelines.texts import SMALL
from tests.reading import read_json
from tests.train.texts import write_texts


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    texts = write_texts(tmp_path_factory.mktemp("texts"), ("glad.txt", "sad.txt"))
    outputs = tmp_path_factory.mktemp("outputs")
    return ["dataset=text_lines", f"dataset.root={texts}", f"outputs={outputs}", *SMALL]


@pytest.fixture(scope="module")
def run_folder(options, tmp_path_factory):
    """The run folder of an uninterrupted `stage=full`."""
    assert command("stage=full", *options) == 0
    (outputs,) = [option.partition("=")[2] for option in options if option.startswith("outputs=")]
    return tmp_path_factory.getbasetemp() / outputs / "text_lines" / "textcnn" / "run-seed0"


def test_both_stages_hand_over_networks_that_read_raw_texts(run_folder):
    pruned = tascnet.load(run_folder / "prune" / "model")
    words = pruned.preprocessing
    assert words.max_tokens == 12
    assert pruned.class_names == ("glad", "sad")
    tokens = words.encode(["A lovely, warm film!", "unheard-of"])
    assert tokens.shape == (2, 12)
    assert pruned(tokens).shape == (2, 2)
    assert pruned.embedding.num_embeddings == len(words.vocabulary)
    assert words.vocabulary == tascnet.load(run_folder / "tune" / "model").preprocessing.vocabulary


def test_pruning_lands_on_half_the_flops_counted_at_max_tokens(run_folder):
    before, after = (
        read_json(run_folder / "prune" / "metrics.json")["models"][name] for name in ("before", "after")
    )
    assert 0.4 <= after["flops"] / before["flops"] <= 0.5
    network = tascnet.load(run_folder / "prune" / "model")
    for tokens, factor in ((12, 1.0), (24, 2.0)):
        counted = complexity(network, torch.zeros(1, tokens, dtype=torch.int64)).flops
        assert counted == pytest.approx(factor * after["flops"], rel=0.1)
    assert complexity(network, torch.zeros(1, 12, dtype=torch.int64)).flops == after["flops"]


def test_trials_train_the_convolutions_on_cached_vectors(run_folder):
    rows = read_jsonl(run_folder / "tune" / "trials.jsonl")
    assert [row["status"] for row in rows] == ["ok"] * 3
    assert any(name.endswith("conv4.kernel") for name in rows[0]["config"])
    assert list((run_folder.parents[2] / "cache" / "features").glob("*.npy"))


def test_started_again_it_says_so_and_changes_nothing(options, run_folder, capsys):
    before = contents(run_folder)
    assert command("stage=full", *options) == 0
    assert contents(run_folder) == before
    assert (
        f"tune is finished in {run_folder / 'tune'}; stage=tune fresh=true starts it over"
        in capsys.readouterr().err
    )


def test_the_same_options_give_the_same_numbers(options, run_folder, tmp_path):
    assert command("stage=tune", *options, f"outputs={tmp_path}") == 0
    again = tmp_path / "text_lines" / "textcnn" / "run-seed0" / "tune"
    assert metrics(again) == metrics(run_folder / "tune")
    assert are_equal(states(again / "model"), states(run_folder / "tune" / "model"))


def test_max_tokens_changes_the_flops(options, run_folder, tmp_path):
    short = ["dataset.max_tokens=6", "tune.max_trials=1", "tune.finetune_from=prefix"]
    assert command("stage=tune", *options, f"outputs={tmp_path}", *short) == 0
    shorter = tmp_path / "text_lines" / "textcnn" / "run-seed0" / "tune" / "metrics.json"
    flops = [
        read_json(path)["models"]["baseline"]["flops"]
        for path in (shorter, run_folder / "tune" / "metrics.json")
    ]
    # By hand: widths 3 and 5 on T places, width 4 on T + 1, 8 filters over 8 numbers; a classifier of 24 x 2.
    assert flops == [64 * (8 * tokens + 4 * (tokens + 1)) + 48 for tokens in (6, 12)]


def test_vectors_start_the_embedding(options, tmp_path, capsys):
    """A file of them that has moved is the same run."""
    path = tmp_path / "vectors.txt"
    path.write_text("film " + " ".join(["0.125"] * 8) + "\nunseen " + " ".join(["1"] * 8) + "\n")
    own = [f"outputs={tmp_path}", "tune.finetune_from=prefix", "tune.max_trials=1"]
    run = ["stage=tune", *options, *own, f"backbone.vectors={path}"]
    assert command(*run) == 0
    said = capsys.readouterr().err
    moved = path.rename(tmp_path / "moved.txt")
    assert command(*run, f"backbone.vectors={moved}") == 0
    moved.rename(path)
    assert "vectors.txt has vectors for 1 of " in said
    model = tascnet.load(tmp_path / "text_lines" / "textcnn" / "run-seed0" / "tune" / "model")
    row = model.preprocessing.vocabulary.index("film")
    assert model.embedding.weight[row].eq(0.125).all()
    assert command(*run, "backbone.embedding_width=9", "fresh=true") == 2
    assert "backbone.embedding_width=8" in capsys.readouterr().err


def test_broken_utf8_is_one_sentence(options, tmp_path, capsys):
    folder = write_texts(tmp_path / "broken", ("glad.txt", "sad.txt"))
    with open(folder / "sad.txt", "ab") as file:
        file.write(b"na\xefve\n")
    assert command("stage=tune", *options, f"dataset.root={folder}", f"outputs={tmp_path}") == 2
    assert f"line 41 of {folder / 'sad.txt'} is not UTF-8" in capsys.readouterr().err


def test_a_network_of_texts_is_not_pruned_on_images(run_folder, tmp_path, capsys):
    saved = f"prune.source={run_folder / 'tune' / 'model'}"
    assert command("stage=prune", saved, f"outputs={tmp_path}") == 2
    assert "digits holds images, but the network takes texts" in capsys.readouterr().err


def test_a_network_of_images_is_not_pruned_on_texts(options, finished, tmp_path, capsys):
    saved = f"prune.source={finished / 'tune' / 'model'}"
    assert command("stage=prune", *options, saved, f"outputs={tmp_path}") == 2
    assert "text_lines holds texts, but the network takes images" in capsys.readouterr().err
