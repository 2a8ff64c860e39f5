import math
from collections import OrderedDict

import pytest
import torch
from torch import nn

from tascnet.errors import SurgeryError
from tascnet.models.head import (
    HeadSpec,
    classifier_of,
    head_start,
    head_width,
    replace_head,
    with_dropout,
)


def chain(dropouts: int = 1, features: int = 4, classes: int = 3) -> nn.Sequential:
    middle = [(f"dropout{number}", nn.Dropout(0.5)) for number in range(dropouts)]
    blocks = [("fc", nn.Linear(features, features)), ("relu", nn.ReLU()), *middle]
    return nn.Sequential(OrderedDict([*blocks, ("classifier", nn.Linear(features, classes))]))


def names(model: nn.Sequential) -> list[str]:
    return [name for name, _ in model.named_children()]


@pytest.mark.parametrize("dropouts", [0, 1, 2])
def test_a_plain_head_is_the_classifier_and_the_dropouts_before_it(dropouts: int) -> None:
    assert head_start(chain(dropouts)) == 2


def test_replaced_head_has_the_layers_asked_for() -> None:
    old = chain()
    new = replace_head(old, HeadSpec(hidden=(5, 6), dropout=0.2, activation="elu"), 7, seed=0)
    layers = ["dropout0", "linear1", "bn1", "activation1", "dropout1"]
    layers += ["linear2", "bn2", "activation2", "dropout2"]
    assert names(new) == ["fc", "relu", *(f"head_{layer}" for layer in layers), "classifier"]
    assert new.fc is old.fc
    assert isinstance(new.head_activation2, nn.ELU)
    assert new.head_dropout1.p == 0.2
    assert [(m.in_features, m.out_features) for m in new if isinstance(m, nn.Linear)] == [
        (4, 4),
        (4, 5),
        (5, 6),
        (6, 7),
    ]
    assert new.eval()(torch.randn(2, 4)).shape == (2, 7)
    assert names(old) == ["fc", "relu", "dropout0", "classifier"]


def test_no_dropout_and_no_hidden_layer_leave_the_classifier_alone() -> None:
    assert names(replace_head(chain(), HeadSpec(), 2, seed=0)) == ["fc", "relu", "classifier"]


@pytest.mark.parametrize("spec", [HeadSpec(), HeadSpec(hidden=(5,)), HeadSpec(hidden=(5, 5), dropout=0.3)])
def test_a_head_can_be_replaced_again(spec: HeadSpec) -> None:
    once = replace_head(chain(), spec, 3, seed=0)
    assert head_start(once) == 2
    assert head_width(once) == 4
    again = replace_head(once, HeadSpec(dropout=0.1), 3, seed=0)
    assert names(again) == names(with_dropout(chain(), 0.1))
    assert again.eval()(torch.zeros(2, 4)).shape == (2, 3)


def test_weights_are_he_normal_and_biases_zero() -> None:
    new = classifier_of(replace_head(chain(features=200), HeadSpec(), 500, seed=3))
    # 100,000 draws: the standard error of the deviation is 0.22 %.
    assert new.weight.std().item() == pytest.approx(math.sqrt(2 / 200), rel=0.02)
    assert new.weight.mean().item() == pytest.approx(0.0, abs=0.002)
    assert not new.bias.any()


def test_the_seed_alone_decides_and_the_global_generator_stays() -> None:
    before = torch.get_rng_state()
    first, again, other = (
        replace_head(chain_, HeadSpec(hidden=(5,)), 3, seed=seed).state_dict()
        for chain_, seed in ((PLAIN, 1), (PLAIN, 1), (PLAIN, 2))
    )
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_the_head_takes_the_type_of_the_chain() -> None:
    new = replace_head(chain().double(), HeadSpec(hidden=(5,)), 3, seed=0)
    assert {parameter.dtype for parameter in new.parameters()} == {torch.float64}


def test_with_dropout_keeps_the_trained_classifier() -> None:
    old = chain(2)
    for dropout, count in ((0.0, 0), (0.4, 1)):
        new = with_dropout(old, dropout)
        assert new.classifier is old.classifier
        assert [m.p for m in new if isinstance(m, nn.Dropout)] == [dropout] * count


def test_impossible_heads_are_refused() -> None:
    with pytest.raises(SurgeryError, match=r"nn\.Linear classifier"):
        head_start(nn.Sequential(nn.ReLU()))
    with pytest.raises(SurgeryError, match=r"nn\.Linear classifier"):
        head_start(nn.Sequential())
    with pytest.raises(SurgeryError, match="hidden layers"):
        with_dropout(replace_head(chain(), HeadSpec(hidden=(5,)), 3, seed=0), 0.1)


PLAIN = chain()
