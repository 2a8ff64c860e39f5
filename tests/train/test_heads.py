"""Heads on standardised features: the same network on features as they are, and better conditioned."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from tascnet.data import FeatureSource
from tascnet.options import RecipeChanges, Trainer
from tascnet.train import Learner, evaluate_source, fit_head
from tascnet.train.heads import moments

RECIPE = RecipeChanges(epochs=8, batch_size=16, lr=0.05)
SAMPLES = cast(Any, SimpleNamespace(is_text=False))


def learner(**options: Any) -> Learner:
    trainer = Trainer(head=RECIPE, **options)
    return Learner(samples=SAMPLES, device=torch.device("cpu"), trainer=trainer, seed=0)


def source(features: Tensor, labels: Tensor) -> FeatureSource:
    return FeatureSource({"plain": features}, labels, 3)


def blobs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Three classes, told apart by the largest of three features."""
    features = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    return features, features.argmax(1)


def pair(scale: Tensor | float = 1.0, shift: Tensor | float = 0.0) -> tuple[FeatureSource, FeatureSource]:
    """Training and validation features, each feature scaled and shifted."""
    (train, first), (val, second) = blobs(96, 0), blobs(60, 1)
    return source(train * scale + shift, first), source(val * scale + shift, second)


SCALE, SHIFT = torch.tensor([1.0, 0.5, 50.0]), torch.tensor([5.0, 2.0, -400.0])


def test_moments_by_hand() -> None:
    # Deviations 1 and 0 of the population, of which the second is raised to the median of those above zero.
    found = moments(nn.Identity(), source(torch.tensor([[0.0, 7.0], [2.0, 7.0]]), torch.zeros(2)), CPU)
    assert [values.tolist() for values in found] == [[1.0, 7.0], [1.0, 1.0]]
    constant = moments(nn.Identity(), source(torch.ones(2, 2), torch.zeros(2)), CPU)
    assert [values.tolist() for values in constant] == [[1.0, 1.0], [1.0, 1.0]]


CPU = torch.device("cpu")


@pytest.mark.parametrize("hidden", [False, True])
def test_the_head_does_not_depend_on_the_scale_of_features(hidden: bool) -> None:
    def trained(features: tuple[FeatureSource, FeatureSource]) -> tuple[Tensor, float]:
        torch.manual_seed(0)
        layers = [nn.Linear(3, 8), nn.ReLU()] if hidden else []
        head = nn.Sequential(nn.Dropout(0.1), *layers, nn.Linear(8 if hidden else 3, 3))
        training = fit_head(learner(), head, features)
        assert training.val_accuracy == evaluate_source(head, features[1]).accuracy
        assert not head.training
        assert len(list(head)) == len(layers) + 2
        return head(features[1].batch(torch.arange(60), None)).detach(), training.val_accuracy

    with torch.random.fork_rng():
        (plain, accuracy), (scaled, again) = trained(pair()), trained(pair(50.0, SHIFT))
    assert accuracy == again > 0.9
    torch.testing.assert_close(scaled, plain, rtol=1e-3, atol=1e-3)


def test_features_are_standardised_after_pooling() -> None:
    train, val = pair(SCALE, SHIFT)
    maps = [
        source(cast(Tensor, one.views["plain"])[:, :, None, None].expand(-1, -1, 2, 2), one.labels)
        for one in (train, val)
    ]
    pooling = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    alone = nn.Sequential(nn.Linear(3, 3))
    fit_head(learner(), pooling, (maps[0], maps[1]))
    fit_head(learner(), alone, (train, val))
    torch.testing.assert_close(pooling[2].state_dict(), alone[0].state_dict(), rtol=1e-4, atol=1e-4)


def test_without_standardisation_the_features_are_read_as_they_are() -> None:
    own = learner(standardise=False)
    heads = [nn.Sequential(nn.Linear(3, 3)) for _ in range(2)]
    heads[1].load_state_dict(heads[0].state_dict())
    fit_head(own, heads[0], pair(SCALE, SHIFT))
    own.fit(heads[1], "head", features=pair(SCALE, SHIFT))
    for name, value in heads[0].state_dict().items():
        assert torch.equal(value, heads[1].state_dict()[name])


def test_an_interrupted_head_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, broken = nn.Sequential(nn.Linear(3, 3)), nn.Sequential(nn.Linear(3, 3))
    expected = fit_head(learner(), whole, pair(SCALE, SHIFT))
    options: dict[str, Any] = {"checkpoint": tmp_path / "fit.pt"}
    fit_head(*(learner(), broken, pair(SCALE, SHIFT)), **options, stop=lambda epochs: len(epochs) == 3)
    again = nn.Sequential(nn.Linear(3, 3))
    found = fit_head(learner(), again, pair(SCALE, SHIFT), **options)
    assert [replace(row, seconds=0) for row in found.epochs] == [
        replace(row, seconds=0) for row in expected.epochs
    ]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
