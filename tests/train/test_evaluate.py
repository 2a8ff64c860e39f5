"""Loss and accuracy of a network on a split of a data set."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import tascnet
from tascnet.data.samples import open_samples
from tascnet.errors import ConfigError
from tascnet.models.head import HeadSpec, replace_head
from tascnet.models.info import with_info
from tascnet.train.evaluate import balanced_accuracy, effective_samples, evaluate_source
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


class Logits:
    """Samples that are the logits of a network that passes them on."""

    def __init__(self, logits: Tensor, labels: list[int]) -> None:
        self.logits, self.labels, self.num_classes = logits, torch.tensor(labels), logits.shape[1]

    def __len__(self) -> int:
        return len(self.logits)

    def batch(self, rows: Tensor, generator: torch.Generator | None) -> Tensor:
        return self.logits[rows]


def test_a_rare_class_counts_as_much_as_a_frequent_one() -> None:
    # Three of four samples of class 0, none of two of class 1, one of one of class 3; class 2 has none.
    named = [0, 0, 0, 1, 0, 2, 3]
    source = Logits(torch.eye(4)[named], [0, 0, 0, 0, 1, 1, 3])
    found = evaluate_source(nn.Identity(), source, batch_size=3)
    assert found.accuracy == 4 / 7
    assert found.balanced_accuracy == pytest.approx((3 / 4 + 0 + 1) / 3)
    assert found.predictions.tolist() == named
    assert found.top5_accuracy is None
    assert balanced_accuracy(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 1])) == 1.0
    # Classes of one size: it is the accuracy.
    assert balanced_accuracy(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1])) == 0.75


def test_top5_accuracy_of_ten_classes() -> None:
    # The classes in falling order are 0, 1, 2 and so on, so that the first five are among the likeliest.
    logits = torch.arange(10, 0, -1).float().expand(4, 10)
    assert evaluate_source(nn.Identity(), Logits(logits, [0, 4, 5, 9])).top5_accuracy == 0.5
    assert evaluate_source(nn.Identity(), Logits(logits[:, :9], [0, 4, 5, 8])).top5_accuracy is None


def test_the_samples_that_count_for_a_standard_error() -> None:
    labels = torch.tensor([0] * 2 + [1] * 4 + [3] * 4)
    assert effective_samples(labels, "accuracy") == 10
    # Three classes: 3^2 / (1/2 + 1/4 + 1/4).
    assert effective_samples(labels, "balanced_accuracy") == pytest.approx(9)
    assert effective_samples(torch.arange(12) % 3, "balanced_accuracy") == pytest.approx(12)
    # The standard error of the mean of two recalls of 0.5, of 2 and 8 samples.
    n = effective_samples(torch.tensor([0] * 2 + [1] * 8), "balanced_accuracy")
    assert (0.25 / n) ** 0.5 == pytest.approx((0.25 / 2 + 0.25 / 8) ** 0.5 / 2)
