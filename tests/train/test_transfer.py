"""What a pre-trained network needs before it learns from other samples."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import tascnet
from tascnet.data.samples import Samples, open_samples
from tascnet.errors import ConfigError, WeightsError
from tascnet.models.build import write_backbone
from tascnet.models.info import info_of
from tascnet.models.text import SPECIAL
from tascnet.options import TextBackbone, Texts
from tascnet.train.transfer import (
    PRETRAINED_ON,
    check_network,
    example_for,
    outputs_of,
    warn_of_overlap,
    with_words,
)
from tests.train.texts import write_texts


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Texts:
    folder = write_texts(tmp_path_factory.mktemp("texts"), ("glad.txt", "sad.txt"))
    return tascnet.text_lines(folder, max_tokens=12)


def opened(data: Texts, network: nn.Sequential, cache: Path, seed: int = 0) -> Samples:
    return open_samples(data, network.preprocessing, seed=seed, cache=cache, grow_vocabulary=True)


def text_network(**options: object) -> nn.Sequential:
    return tascnet.backbone(TextBackbone(embedding_width=4, filters=3, **options))


def test_each_word_of_the_samples_gets_a_vector(texts: Texts, cache: Path, logged: list[str]) -> None:
    network = text_network()
    samples = opened(texts, network, cache)
    grown = with_words(network, samples, seed=3)
    words = samples.preprocessing.vocabulary
    assert grown.preprocessing == grown.info.preprocessing == samples.preprocessing
    assert (grown.preprocessing.max_tokens, grown.origin) == (12, network.origin)
    assert len(grown.embedding.weight) == len(words)
    assert len(network.embedding.weight) == 2
    assert f"INFO: vectors: 0 words keep the network's, {len(words) - 2} are drawn at random" in logged
    again = with_words(network, samples, seed=3)
    assert grown.embedding.weight.equal(again.embedding.weight)
    assert not grown.embedding.weight.equal(with_words(network, samples, seed=4).embedding.weight)
    check_network(grown, samples)


def test_a_file_of_vectors_comes_before_the_network(
    texts: Texts, cache: Path, tmp_path: Path, logged: list[str]
) -> None:
    words = opened(texts, text_network(), cache).preprocessing.vocabulary
    path = tmp_path / "vectors.txt"
    path.write_text("".join(f"{word} 0.5 0.5 0.5 0.5\n" for word in (*words[2:5], "elsewhere")))
    network = text_network(vectors=str(path))
    samples = opened(texts, network, cache)
    first = with_words(network, samples, seed=0)
    assert first.embedding.weight[2:5].eq(0.5).all()
    assert f"INFO: vectors.txt has vectors for 3 of {len(words)} words" in logged
    logged.clear()
    with_words(first, samples, seed=0)
    assert (
        f"INFO: vectors: 3 words take those of the file, {len(words) - 5} words keep the network's, "
        "0 are drawn at random"
    ) in logged
    path.write_text("elsewhere 1 2 3 4\n")
    logged.clear()
    with_words(network, samples, seed=0)
    assert f"WARNING: vectors.txt has vectors for 0 of {len(words)} words" in logged


@pytest.mark.parametrize(
    "seen", [5, [], {}, {"dataset": "a", "fingerprint": "b", "held_out": "c", "excluded": 5}]
)
def test_metadata_that_pretrain_did_not_write_are_one_sentence(
    seen: object, texts: Texts, cache: Path, tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    network = text_network()
    write_backbone(path, network, {PRETRAINED_ON: seen})
    network = text_network(weights=str(path))
    with pytest.raises(WeightsError, match=rf"{path} do not say on which samples they were trained: give"):
        warn_of_overlap(network, opened(texts, network, cache))


def test_a_network_for_images_stays_as_it_is(cache: Path) -> None:
    network = tascnet.backbone("digits_cnn", weights="random")
    samples = open_samples(tascnet.digits(), network.preprocessing, seed=0, cache=cache)
    assert with_words(network, samples, seed=0) is network
    check_network(network, samples)


def test_one_sample_of_zeros_as_the_data_will_have_them(texts: Texts) -> None:
    grey = tascnet.backbone("digits_cnn", weights="random")
    example = example_for(grey, tascnet.digits())
    assert (example.shape, example.dtype) == (info_of(grey).preprocessing.example_shape, torch.float32)
    words = example_for(text_network(), replace(texts, max_tokens=7))
    assert (words.shape, words.dtype) == ((1, 7), torch.int64)


def test_a_network_that_does_not_take_the_samples_is_one_sentence(cache: Path) -> None:
    network = tascnet.backbone("digits_cnn", weights="random")
    samples = open_samples(tascnet.digits(), network.preprocessing, seed=0, cache=cache)
    colour = tascnet.backbone("resnet20", weights="random")
    with pytest.raises(
        ConfigError, match=r"does not take images of 1 x 8 x 8 \(.*\): change `size`"
    ) as caught:
        check_network(colour, samples)
    assert "\n" not in str(caught.value)


def test_a_network_is_checked_without_a_pass_through_its_values(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    network = nn.Sequential(nn.Conv2d(3, 64, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 2))
    network[0].register_forward_hook(lambda *arguments: seen.append(arguments[2].is_meta))
    assert outputs_of(network, torch.zeros(1, 3, 8, 8)).shape == (1, 2)
    assert seen == [True]


def test_a_network_that_needs_values_is_still_checked() -> None:
    class Own(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs + torch.zeros(inputs.shape) if float(inputs.sum()) == 0 else inputs[0]

    network = nn.Sequential(Own(), nn.Flatten(), nn.Linear(12, 2))
    assert outputs_of(network, torch.zeros(1, 3, 2, 2)).shape == (1, 2)


def test_digits_that_digits_cnn_was_trained_on_are_refused(cache: Path) -> None:
    network = tascnet.backbone("digits_cnn", cache=cache)
    for classes, wrong in (("56789", None), ("345", "3")):
        data = tascnet.digits(classes=list(classes))
        samples = open_samples(data, network.preprocessing, seed=0, cache=cache)
        if wrong is None:
            warn_of_overlap(network, samples)
            continue
        with pytest.raises(ConfigError, match=f"images of {wrong} that it was trained on"):
            warn_of_overlap(network, samples)
        warn_of_overlap(tascnet.backbone("digits_cnn", weights="random"), samples)


def test_nothing_is_said_of_weights_that_say_nothing(texts: Texts, cache: Path, logged: list[str]) -> None:
    network = text_network()
    samples = opened(texts, network, cache)
    logged.clear()
    warn_of_overlap(network, samples)
    network.origin = None
    warn_of_overlap(network, samples)
    assert logged == []


def test_new_words_do_not_touch_the_global_generator(texts: Texts, cache: Path) -> None:
    network = text_network()
    samples = opened(texts, network, cache)
    before = torch.get_rng_state()
    with_words(network, samples, seed=0)
    assert torch.equal(before, torch.get_rng_state())
    assert network.preprocessing.vocabulary == SPECIAL
