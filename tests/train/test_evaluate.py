"""Loss and accuracy of a network on a split of a data set."""

from pathlib import Path

import pytest
import torch

import tascnet
from tascnet.data.samples import open_samples
from tascnet.errors import ConfigError
from tascnet.models.head import HeadSpec, replace_head
from tascnet.models.info import with_info
from tascnet.train.evaluate import evaluate_source
from tascnet.train.pretrain import PretrainResult
from tests.train.texts import write_texts


@pytest.fixture(scope="module")
def trained(cache: Path) -> PretrainResult:
    trainer = tascnet.preset("trainer", "digits", pretrain={"epochs": 2})
    network = tascnet.backbone("digits_cnn", weights="random")
    return tascnet.pretrain(network, tascnet.digits(), trainer=trainer, cache=cache)


def test_each_split_is_that_of_the_training(trained, cache: Path) -> None:
    after = trained.metrics.models["after"]
    data = tascnet.digits()
    for split, expected in (("val", after.val_accuracy), ("test", after.test_accuracy)):
        found = tascnet.evaluate(trained.network, data, split=split, device="cpu", cache=cache)
        assert found.accuracy == expected
    samples = open_samples(data, trained.network.preprocessing, seed=0, cache=cache)
    assert tascnet.evaluate(trained.network, data, cache=cache).samples == len(samples.test)
    expected = evaluate_source(trained.network, samples.train)
    assert tascnet.evaluate(trained.network, data, split="train", cache=cache).loss == pytest.approx(
        expected.loss
    )


def test_the_network_stays_as_it_is(trained, cache: Path) -> None:
    network = trained.network.train()
    before, state = str(network.conv1.weight.stride()), torch.get_rng_state()
    tascnet.evaluate(network, tascnet.digits(), cache=cache)
    assert network.training
    assert str(network.conv1.weight.stride()) == before
    assert torch.equal(state, torch.get_rng_state())
    network.eval()


def test_a_text_network_takes_texts_with_its_own_words(cache: Path, tmp_path: Path) -> None:
    data = tascnet.text_lines(write_texts(tmp_path, ("glad.txt", "sad.txt")), max_tokens=9)
    network = tascnet.backbone("textcnn", embedding_width=4, filters=3)
    result = tascnet.pretrain(network, data, cache=cache)
    found = tascnet.evaluate(result.network, data, split="val", device="cpu", cache=cache)
    assert found.accuracy == result.metrics.models["after"].val_accuracy


def test_mistakes_are_one_sentence(trained, cache: Path) -> None:
    with pytest.raises(ConfigError, match="no split 'tests': take train, val or test"):
        tascnet.evaluate(trained.network, tascnet.digits(), split="tests", cache=cache)
    with pytest.raises(
        ConfigError, match="the classes of the network, 5, 6, 7, 8 or 9, are not those of digits"
    ):
        tascnet.evaluate(trained.network, tascnet.digits(classes=["1", "2"]), cache=cache)
    bare = replace_head(trained.network, HeadSpec(), 5, seed=0)
    with pytest.raises(ConfigError, match="does not say which inputs"):
        tascnet.evaluate(bare, tascnet.digits(), cache=cache)
    assert tascnet.evaluate(with_info(bare, trained.network.info), tascnet.digits(), cache=cache).samples
