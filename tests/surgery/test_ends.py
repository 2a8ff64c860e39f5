import pytest
import torch
from torch import nn

from tascnet.errors import SurgeryError
from tascnet.surgery import Shortener
from tests.models.toys import EXAMPLE, TOYS, body, conv, output


def test_the_pooling_is_what_turns_a_map_into_a_vector():
    # conv1 relu1 conv2 bn2 relu2 pool flatten fc relu3 dropout classifier
    chain = TOYS["plain"]()
    shortener = Shortener(chain, EXAMPLE)
    assert list(shortener.pooling(2)._modules) == ["pool", "flatten"]
    assert list(shortener.pooling(7)._modules) == []
    # 8 maps of 8 x 8 pixels before conv2, pooled to 4 x 4; 12 maps of 4 x 4 in a vector before fc.
    assert [shortener.width(block) for block in (2, 7)] == [8 * 16, 12 * 16]
    # Nothing would be left.
    assert shortener.width(0) is None


def test_the_ended_network_keeps_blocks_dropout_and_the_name_of_the_softmax_layer():
    chain, head = TOYS["plain"](), nn.Linear(128, 5)
    ended = Shortener(chain, EXAMPLE).network(2, head)
    assert list(ended._modules) == ["conv1", "relu1", "pool", "flatten", "dropout", "classifier"]
    features = chain.flatten(chain.pool(chain.relu1(chain.conv1(EXAMPLE))))
    assert torch.equal(output(ended.eval()), head(features))
    assert ended.classifier is not head
    assert ended.conv1 is chain.conv1


def test_a_new_head_depends_on_the_seed_alone():
    shortener = Shortener(TOYS["residual"](), EXAMPLE)
    weights = [shortener.network(5, seed=seed).classifier.weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_norm_after_the_pooling_is_no_part_of_it():
    chain = body(
        ("stem", conv(3, 6)),
        ("last", conv(6, 8)),
        ("pool", nn.AdaptiveAvgPool2d(1)),
        ("norm", nn.GroupNorm(1, 8)),
        ("flatten", nn.Flatten()),
        ("classifier", nn.Linear(8, 5)),
    )
    shortener = Shortener(chain.eval(), EXAMPLE)
    assert shortener.width(1) == 6
    assert list(shortener.pooling(1)._modules) == ["pool", "flatten"]


def test_impossible_ends_are_refused():
    shortener = Shortener(TOYS["residual"](), EXAMPLE)
    with pytest.raises(SurgeryError, match="cannot end before 'stem'"):
        shortener.network(0)
    with pytest.raises(SurgeryError, match="7 inputs, expected 12"):
        shortener.network(5, nn.Linear(7, 5))
