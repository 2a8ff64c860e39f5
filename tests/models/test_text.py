"""Words, vocabularies, and networks that move between them."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import tascnet
from tascnet.errors import ArchiveError, ConfigError, DataError, TascnetError, WeightsError
from tascnet.measure import complexity
from tascnet.models import ModelInfo, TextPreprocessing
from tascnet.models.archive import save
from tascnet.models.blocks import MaxOverTime
from tascnet.models.build import build
from tascnet.models.chains.small import textcnn_chain
from tascnet.models.text import SPECIAL, learn_vocabulary, normalise
from tascnet.models.vectors import read_vectors, with_vocabulary
from tascnet.models.weights import write_weights
from tascnet.options import TextBackbone
from tascnet.surgery import narrow, set_kernel, width_groups
from tests.models.toys import sealed

EXAMPLE = torch.zeros(1, 6, dtype=torch.int64)


def network(words=9, width=4, filters=5):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return textcnn_chain(3, words, width, filters).eval()


def info(vocabulary):
    return ModelInfo(
        backbone="textcnn",
        preprocessing=TextPreprocessing(max_tokens=6, vocabulary=vocabulary),
        class_names=("a", "b", "c"),
        weights="random",
        licence="none",
    )


def test_words_are_lower_case_without_accents_and_split_at_punctuation():
    assert normalise("It's a CLICHÉ,\tisn't  it?") == "it ' s a cliche , isn ' t it ?"
    assert normalise("it's a cliche, ISN'T it ?") == normalise("It's a CLICHÉ,\tisn't  it?")


def test_han_text_is_split_into_characters():
    assert normalise("Grüne 猫犬だ") == "grune 猫 犬 た"


def test_the_most_frequent_words_come_first_and_known_ones_keep_their_numbers():
    texts = ["b a b", "c B", "a d"]
    # b three times, a twice, c and d once.
    assert learn_vocabulary(texts) == (*SPECIAL, "b", "a", "c", "d")
    assert learn_vocabulary(texts, (*SPECIAL, "z", "c")) == (*SPECIAL, "z", "c", "b", "a", "d")
    assert learn_vocabulary(reversed(texts)) == learn_vocabulary(texts)
    assert learn_vocabulary(["x" * 100, "y" * 101]) == (*SPECIAL, "x" * 100)


def test_texts_become_padded_or_cut_rows_of_numbers():
    words = TextPreprocessing(max_tokens=3, vocabulary=(*SPECIAL, "a", "b"))
    assert words.encode(["A b", "", "b b a a", "[PAD] a"]).tolist() == [
        [2, 3, 0],
        [0, 0, 0],
        [3, 3, 2],
        [1, 1, 1],
    ]
    assert words.encode([]).shape == (0, 3)


def test_texts_that_lose_their_end_are_counted():
    words = TextPreprocessing(max_tokens=3, vocabulary=(*SPECIAL, "a"))
    assert words.count_cut(["a a a", "a x a a", "", "it's", "it's a"]) == 2
    assert words.count_cut([]) == 0


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"max_tokens": 0, "vocabulary": [*SPECIAL]}, "`max_tokens` is 0"),
        ({"max_tokens": 3, "vocabulary": ["a", *SPECIAL]}, "begins with"),
        ({"max_tokens": 3, "vocabulary": [*SPECIAL, "a", "a"]}, "different words"),
        ({"max_tokens": 3, "vocabulary": [*SPECIAL, 5]}, "a list of different words"),
        ({"max_tokens": 3, "vocabulary": [*SPECIAL], "code": "x"}, "needs exactly the fields"),
        ({"vocabulary": [*SPECIAL]}, "needs exactly the fields"),
    ],
)
def test_a_wrong_vocabulary_is_refused(content, says):
    with pytest.raises(ConfigError, match=says):
        ModelInfo.from_dict({**info(SPECIAL).to_dict(), "preprocessing": content})


def test_max_over_time_takes_each_filters_largest_value():
    branch = nn.Conv1d(1, 2, 2, padding=1)
    branch.weight.data = torch.tensor([[[1.0, 1.0]], [[-1.0, -1.0]]])
    branch.bias.data = torch.tensor([0.5, 0.0])
    block = MaxOverTime(nn.Sequential(branch), nn.ReLU())
    # Windows of (0, 1), (1, 2), (2, 0): sums 1, 3, 2.
    assert block(torch.tensor([[[1.0, 2.0]]])).tolist() == [[3.5, 0.0]]


def test_params_and_flops_are_those_of_the_formulas():
    cost = complexity(network(), EXAMPLE)
    # Embedding 9 x 4; five filters of widths 3, 4, 5 over vectors of 4, with bias; a classifier of 15 x 3.
    assert cost.params == 36 + (3 + 4 + 5) * 4 * 5 + 15 + 15 * 3 + 3
    # Maps of 6, 7 and 6 places; the embedding is a look-up.
    assert cost.flops == 4 * 5 * (3 * 6 + 4 * 7 + 5 * 6) + 15 * 3
    assert {layer.name: layer.flops for layer in cost.layers}["embedding"] == 0


def test_any_text_of_at_least_one_word_is_taken():
    chain = network()
    for tokens in (1, 2, 50):
        assert chain(torch.ones(2, tokens, dtype=torch.int64)).shape == (2, 3)


def test_narrowing_a_branch_is_the_same_as_zeroing_its_filters():
    tokens = torch.randint(0, 9, (8, 6), generator=torch.Generator().manual_seed(1))
    zeroed, cut = network(), network()
    groups = {group.name: group for group in width_groups(cut, EXAMPLE)}
    assert list(groups) == [f"convolutions.branches.conv{width}" for width in (3, 4, 5)]
    assert {group.consumers for group in groups.values()} == {("classifier",)}
    narrow(cut, EXAMPLE, {"convolutions.branches.conv4": [0, 3]})
    for gone in (1, 2, 4):
        zeroed.convolutions.branches.conv4.weight.data[gone] = 0
        zeroed.convolutions.branches.conv4.bias.data[gone] = 0
    assert torch.allclose(cut(tokens), zeroed(tokens), atol=1e-6)
    assert cut.classifier.in_features == 12


@pytest.mark.parametrize(("width", "size"), [(3, 5), (3, 7), (4, 6), (5, 7)])
def test_a_wider_kernel_over_time_keeps_the_function(width, size):
    torch.manual_seed(0)
    conv = nn.Conv1d(2, 3, width, padding=width // 2)
    wider = set_kernel(conv, size)
    x = torch.randn(4, 2, 9)
    assert wider.kernel_size == (size,)
    assert torch.allclose(wider(x), conv(x), atol=1e-6)


def test_a_smaller_kernel_over_time_keeps_the_centre_and_the_map():
    conv = nn.Conv1d(1, 1, 4, padding=2, bias=False)
    conv.weight.data = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
    smaller = set_kernel(conv, 2)
    assert smaller.weight.tolist() == [[[2.0, 3.0]]]
    x = torch.zeros(1, 1, 5)
    assert smaller(x).shape == conv(x).shape


def test_a_saved_network_of_texts_takes_raw_texts_again(tmp_path):
    chain, words = network(), (*SPECIAL, *"abcdefg")
    save(chain, tmp_path / "model", info(words))
    loaded = tascnet.load(tmp_path / "model")
    assert loaded.preprocessing == info(words).preprocessing
    tokens = loaded.preprocessing.encode(["A b, g", "x"])
    assert tokens.tolist() == [[2, 3, 1, 8, 0, 0], [1, 0, 0, 0, 0, 0]]
    assert loaded(tokens).equal(chain(tokens))
    content = json.loads((tmp_path / "model" / "architecture.json").read_text())
    assert content["info"]["preprocessing"]["vocabulary"] == list(words)


def words_of(content):
    return content["info"]["preprocessing"]["vocabulary"]


def embedding_of(content):
    return content["chain"]["children"]["embedding"]["args"]


IMAGES = {"size": 8, "resize": 8, "mean": [0.5], "std": [0.5], "interpolation": "bilinear", "crop": "center"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: embedding_of(c).update(padding_idx=10**6), "impossible padding_idx of a Embedding: 1000"),
        (lambda c: embedding_of(c).update(padding_idx=9), "impossible padding_idx of a Embedding: 9"),
        (lambda c: words_of(c).pop(), "has 8 words, but its network has vectors for 9: save"),
        (lambda c: words_of(c).append("h"), "has 10 words, but its network has vectors for 9"),
        (lambda c: words_of(c).append("\udcff"), r"holds '\\udcff', expected words in Unicode"),
        (lambda c: c["info"].update(preprocessing=IMAGES), "takes texts, but its preprocessing gives images"),
        (
            lambda c: c["chain"]["children"].pop("embedding"),
            "takes images, but its preprocessing gives texts",
        ),
    ],
)
def test_a_network_of_texts_that_was_tampered_with_is_one_sentence(change, says, tmp_path):
    save(network(), tmp_path, info((*SPECIAL, *"abcdefg")))
    content = json.loads((tmp_path / "architecture.json").read_text())
    change(content)
    (tmp_path / "architecture.json").write_text(json.dumps(sealed(content)))
    with pytest.raises(ArchiveError, match=says) as caught:
        tascnet.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_known_words_keep_their_vectors_and_the_rest_of_the_network():
    chain, known = network(words=4), (*SPECIAL, "old", "kept")
    moved = with_vocabulary(chain, known, (*SPECIAL, "new", "kept"), vectors={}, seed=3)
    old, new = chain.embedding.weight, moved.embedding.weight
    assert new[0].eq(0).all()
    assert new[1].equal(old[1])
    assert new[3].equal(old[3])
    assert not any(new[2].equal(row) for row in old)
    assert new[2].abs().max() <= 0.25
    assert moved.convolutions is chain.convolutions
    again = with_vocabulary(chain, known, (*SPECIAL, "new", "kept"), vectors={}, seed=3)
    assert again.embedding.weight.equal(new)


def test_given_vectors_win_over_those_of_the_network():
    chain = network(words=3)
    vector = torch.tensor([1.0, 2.0, 3.0, 4.0])
    moved = with_vocabulary(chain, (*SPECIAL, "a"), (*SPECIAL, "a", "b"), vectors={"b": vector}, seed=0)
    assert moved.embedding.weight[3].equal(vector)
    assert moved.embedding.weight[2].equal(chain.embedding.weight[2])


def test_vectors_of_known_words_are_read_from_gloves_format(tmp_path):
    path = tmp_path / "glove.txt"
    path.write_text("the 1 2 3\nat name@domain.com 7 8 9\nFilm 4 5 6\nrare 0 0 0\n")
    found = read_vectors(path, ("the", "film"), 3)
    assert {word: vector.tolist() for word, vector in found.items()} == {"the": [1, 2, 3], "film": [4, 5, 6]}
    with pytest.raises(ConfigError, match=r"line 1 of \S+ holds 3 numbers.*`embedding_width=3`"):
        read_vectors(path, ("the",), 4)
    with pytest.raises(ConfigError, match=r"holds 3 numbers, expected `embedding_width=2`"):
        read_vectors(path, ("the",), 2)
    (tmp_path / "word2vec.txt").write_text("1 3\nthe 1 2 3\n")
    assert read_vectors(tmp_path / "word2vec.txt", ("the",), 3)["the"].tolist() == [1, 2, 3]
    with pytest.raises(ConfigError, match=r"line 1 of \S+ announces 3 numbers"):
        read_vectors(tmp_path / "word2vec.txt", ("the",), 2)
    path.write_text("the 1 two 3\n")
    with pytest.raises(WeightsError, match=r"line 1 of \S+ is no word with numbers"):
        read_vectors(path, ("the",), 3)
    with pytest.raises(WeightsError, match="is no file"):
        read_vectors(tmp_path / "none.txt", ("the",), 3)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"the 1 2 3\n" + b"x" * (1 << 20), "line 2 of .* is no word with 3 numbers: give a text file"),
        (b"2 3\nthe \0\0\x80\x3f 1 2", "line 2 of .* is no word with 3 numbers"),
        (b"\x89PNG\r\n\x1a\n\0\0", "line 1 of .* is no word with 3 numbers"),
        (b"the 1 nan 3\n", "line 1 of .* holds numbers that are not finite"),
        (b"the 1 1e39 3\n", "line 1 of .* holds numbers that are not finite"),
        ("2 \u00b2\nthe 1 \x1b 3\n".encode(), r"line 2 of .* is no word with numbers \(.*'\\x1b'\)"),
        (b"2 " + b"9" * 5000, "line 1 of .* announces 999999999 numbers"),
    ],
)
def test_files_that_hold_no_vectors_are_one_sentence(content, says, tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_bytes(content)
    with pytest.raises(TascnetError, match=says) as caught:
        read_vectors(path, ("the",), 3)
    assert "\n" not in str(caught.value)


def test_vectors_are_read_from_regular_files_alone(tmp_path, monkeypatch):
    path = tmp_path / "vectors.txt"
    for make, says in ((os.mkfifo, "it is a pipe or a device"), (os.mkdir, "it is a folder")):
        make(path)
        with pytest.raises(WeightsError, match=rf"vectors\.txt cannot be read \({says}.*GloVe"):
            read_vectors(path, ("the",), 3)
        path.rmdir() if path.is_dir() else path.unlink()
    path.touch()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(WeightsError, match="permission denied"):
        read_vectors(path, ("the",), 3)


def test_weights_of_texts_bring_their_vocabulary(tmp_path):
    chain, words = network(words=3), (*SPECIAL, "é")
    path = tmp_path / "weights.safetensors"
    write_weights(path, chain, metadata={"vocabulary": words})
    again = build(textcnn(path))
    assert again.preprocessing.vocabulary == words
    assert again(EXAMPLE).equal(chain(EXAMPLE))
    with pytest.raises(WeightsError, match=r"not those of textcnn \(of another shape: "):
        build(textcnn(path, filters=6))


def textcnn(weights, filters=5):
    return TextBackbone(weights=str(weights), embedding_width=4, filters=filters)


def test_weights_without_a_vocabulary_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(network().state_dict(), path)
    with pytest.raises(WeightsError, match=r"hold no vocabulary: give the \.safetensors file"):
        build(textcnn(path))
    write_weights(path, network(), metadata={"vocabulary": [1]})
    with pytest.raises(WeightsError, match="cannot be read"):
        build(textcnn(path))
    with pytest.raises(WeightsError, match="no published weights"):
        build(textcnn("pretrained"))
    with pytest.raises(WeightsError, match="is no file"):
        build(textcnn("absent"))


def test_random_words_and_weights_follow_the_seed():
    first, again, other = (build(textcnn("random"), seed=seed) for seed in (1, 1, 2))
    assert first.preprocessing.vocabulary == SPECIAL
    assert first.classifier.weight.equal(again.classifier.weight)
    assert not first.classifier.weight.equal(other.classifier.weight)
    assert (first.info.weights, first.info.licence) == ("random", "none")


def test_a_text_as_the_network_takes_it():
    words = TextPreprocessing(max_tokens=4, vocabulary=(*SPECIAL, "good", "film"))
    tokens = words("A good Film!")
    assert tokens.dtype == torch.int64
    assert tokens.tolist() == [1, 2, 3, 1]
    assert torch.equal(tokens, words.encode(["A good Film!"])[0])
    with pytest.raises(DataError, match="the text is of type list"):
        words(["A good film"])
