"""MixUp and CutMix: which samples are mixed, in which shares, and the loss of soft labels."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tascnet.data import FeatureSource
from tascnet.errors import ConfigError
from tascnet.options import Recipe
from tascnet.train.mixing import Mixing, soft_cross_entropy


class Stored:
    """Samples in memory, of three classes."""

    num_classes = 3

    def __init__(self, inputs: Tensor) -> None:
        self.inputs, self.labels = inputs, torch.arange(len(inputs)) % 3

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, rows: Tensor, generator: torch.Generator | None) -> Tensor:
        return self.inputs[rows]


def drawn(mixing: Mixing, inputs: Tensor, labels: Tensor, answers: Tensor | None = None):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return mixing(inputs, labels, answers)


def test_mixup_mixes_inputs_labels_and_answers_in_one_share() -> None:
    inputs, labels, answers = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([0, 1, 2]), torch.eye(3) * 10
    mixed, soft, taught = drawn(Mixing(mixup=1.0, cutmix=0.0, num_classes=3), inputs, labels, answers)
    share = float(soft[0, 0])
    assert 0 < share < 1
    # Each sample keeps its share, and the one before it has the rest.
    torch.testing.assert_close(mixed, torch.tensor([[5 * (1 - share)], [share], [4 * share + 1]]))
    torch.testing.assert_close(soft, torch.eye(3) * share + torch.eye(3).roll(1, 0) * (1 - share))
    torch.testing.assert_close(taught, 10 * soft)


def test_cutmix_shares_are_those_of_the_pixels() -> None:
    # Every image has the colour of its class.
    labels = torch.tensor([0, 1, 2])
    images = labels.float()[:, None, None, None].expand(3, 2, 16, 16).clone(memory_format=torch.channels_last)
    mixed, soft, _ = drawn(Mixing(mixup=0.0, cutmix=1.0, num_classes=3), images, labels)
    for index in range(3):
        for label in range(3):
            assert (mixed[index] == label).float().mean() == pytest.approx(
                float(soft[index, label]), abs=1e-6
            )
    assert 0 < float(soft[0, 0]) < 1
    assert mixed.is_contiguous(memory_format=torch.channels_last)


def test_with_both_each_batch_draws_one() -> None:
    mixing, images = Mixing(mixup=1.0, cutmix=1.0, num_classes=2), torch.zeros(2, 1, 8, 8)
    images[1] = 1
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = [mixing(images, torch.tensor([0, 1]))[0] for _ in range(20)]
    is_cut = [bool(((one == 0) | (one == 1)).all()) for one in found]
    assert 0 < sum(is_cut) < 20


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 0.2, 3.0])])
def test_the_loss_of_certain_labels_is_that_of_their_indices(smoothing: float, weight: Tensor | None) -> None:
    logits, labels = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)), torch.arange(7) % 3
    hot = F.one_hot(labels, 3).float()
    expected = F.cross_entropy(logits, labels, weight=weight, label_smoothing=smoothing)
    torch.testing.assert_close(soft_cross_entropy(logits, hot, weight, smoothing), expected)
    torch.testing.assert_close(soft_cross_entropy(logits, labels, weight, smoothing), expected)


def test_what_cannot_be_mixed_is_refused() -> None:
    tokens, points = Stored(torch.zeros(4, 5, dtype=torch.long)), Stored(torch.zeros(4, 5))
    with pytest.raises(ConfigError, match="`mixup` mixes images, but a sample has the shape"):
        Mixing.of(Recipe(mixup=0.2), tokens)
    with pytest.raises(ConfigError, match="`cutmix` mixes images"):
        Mixing.of(Recipe(cutmix=1.0), points)
    assert Mixing.of(Recipe(), tokens) is None
    features = FeatureSource({"plain": torch.zeros(4, 3, 2, 2)}, torch.zeros(4), 3)
    assert Mixing.of(Recipe(cutmix=1.0), features) is None
    both = Mixing.of(Recipe(cutmix=1.0, mixup=0.2), features)
    assert both == Mixing(mixup=0.2, cutmix=0.0, num_classes=3)
