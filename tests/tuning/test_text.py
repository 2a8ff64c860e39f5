"""What a search may change in a network of texts, and what it costs."""

import pytest
import torch
from torch import nn

from tascnet.errors import ConfigError
from tascnet.measure import complexity
from tascnet.models.chains.small import textcnn_chain
from tascnet.models.head import HeadSpec, replace_head
from tascnet.models.text import SPECIAL, TextPreprocessing, learn_vocabulary
from tascnet.options import Autotune, Tune
from tascnet.tuning.build import CandidateBuilder
from tascnet.tuning.choices import discover_units
from tascnet.tuning.cost import Cost, CostModel
from tascnet.tuning.problem import check_options
from tascnet.tuning.space import Space

EXAMPLE = torch.zeros(1, 7, dtype=torch.int64)
BRANCH = "convolutions.branches.conv"
OPTIONS = {
    "widths": (0.5, 1.0),
    "round_to": 2,
    "kernels": (2, 3, 5, 6),
    "activations": ("relu", "elu"),
    "hidden_layers": (0, 1),
    "neurons": (4, 6),
    "dropouts": (0.0, 0.5),
}


@pytest.fixture(scope="module")
def chain():
    source = textcnn_chain(4, words=9, embedding_width=3, filters=6).eval()
    return replace_head(source, HeadSpec(), 2, seed=0)


@pytest.fixture(scope="module")
def space(chain):
    return Space(discover_units(chain, EXAMPLE, Tune(**OPTIONS)))


def test_filters_widths_and_activation_of_the_convolutions_are_one_unit(space):
    head, convolutions = space.units
    assert [choice.name for choice in head.choices] == ["head.hidden_layers", "head.neurons", "head.dropout"]
    assert {choice.name: choice.values for choice in convolutions.choices} == {
        **dict.fromkeys((f"{BRANCH}{width}.width" for width in (3, 4, 5)), (4, 6)),
        # Odd widths for odd ones, even for the even one: others would move the map.
        f"{BRANCH}3.kernel": (3, 5),
        f"{BRANCH}4.kernel": (2, 4, 6),
        f"{BRANCH}5.kernel": (3, 5),
        "convolutions.activation": ("relu", "elu"),
    }
    # The frozen trunk is the embedding.
    assert convolutions.block == 2


def test_costs_are_those_of_the_built_networks(chain, space):
    cost = CostModel(chain, space, EXAMPLE)
    build = CandidateBuilder(chain, space, EXAMPLE)
    for config in space.sample(12, 1, 0):
        candidate = build(config)
        counted = complexity(nn.Sequential(*chain[: candidate.cut], *candidate.tail), EXAMPLE)
        assert cost(config) == Cost(params=counted.params, flops=counted.flops)


def test_what_a_candidate_inherits(chain, space):
    neutral = space.neutral(1)
    config = {**neutral, f"{BRANCH}3.width": 4, f"{BRANCH}3.kernel": 5, f"{BRANCH}4.kernel": 2}
    candidate = CandidateBuilder(chain, space, EXAMPLE)(config)
    old, new = (network.convolutions.branches for network in (chain, candidate.tail))
    strongest = old.conv3.weight.flatten(1).norm(dim=1)
    # Importance is the filter's own weights and those that read it.
    read = chain.classifier.weight[:, :6].norm(dim=0)
    kept = (strongest**2 + read**2).topk(4).indices.sort().values
    assert new.conv3.weight[:, :, 1:-1].equal(old.conv3.weight[kept])
    assert new.conv3.weight[:, :, [0, -1]].eq(0).all()
    assert new.conv4.weight.equal(old.conv4.weight[:, :, 1:3])
    assert new.conv5.weight.equal(old.conv5.weight)


def test_kernels_of_images_are_odd_and_those_over_time_any(chain):
    images = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(64, 2))
    images.preprocessing = chain.preprocessing = None
    options = Tune(kernels=(2, 3))
    with pytest.raises(ConfigError, match=r"`kernels` takes odd sizes for networks of images, not \[2, 3\]"):
        check_options(options, images)
    check_options(options, chain)


def test_autotune_makes_no_layers_for_texts(chain):
    chain.preprocessing = TextPreprocessing(max_tokens=7, vocabulary=learn_vocabulary(["a b"], SPECIAL))
    with pytest.raises(ConfigError, match="makes layers for images and has none for texts"):
        check_options(Autotune(), chain)
