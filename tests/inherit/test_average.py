"""The kept filter becomes the weighted average of its pair."""

import torch
from torch import nn

from tascnet.inherit import average_into
from tascnet.inherit.fold import pair_weights
from tascnet.surgery import narrow, width_groups
from tests.models.toys import EXAMPLE, TOYS, body, conv, output, settle


def test_weights_by_hand() -> None:
    kept, removed = pair_weights(torch.tensor([3.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 0.0]))
    assert kept.tolist() == [0.25, 0.5, 0.5]
    assert removed.tolist() == [0.75, 0.5, 0.5]


def test_filters_biases_and_normalisation_are_averaged() -> None:
    chain = settle(body(("a", conv(3, 4, bias=True)), ("bn", nn.BatchNorm2d(4)), ("b", conv(4, 2))))
    (group,) = width_groups(chain, EXAMPLE)
    before = {name: value.clone() for name, value in chain.state_dict().items()}
    average_into(chain, group, [2], [0], torch.tensor([1.0, 9.0, 3.0, 9.0]))
    for name, value in chain.state_dict().items():
        old = before[name]
        if name.startswith("b.") or name.endswith("num_batches_tracked"):
            assert torch.equal(value, old)
            continue
        torch.testing.assert_close(value[2], 0.25 * old[2] + 0.75 * old[0])
        assert torch.equal(value[[0, 1, 3]], old[[0, 1, 3]])


def test_normalisation_of_a_concatenation_is_averaged_where_it_reads_the_pair() -> None:
    chain = TOYS["dense"]()
    group = next(g for g in width_groups(chain, EXAMPLE) if g.name == "d0.body.conv2")
    before = {name: value.clone() for name, value in chain.state_dict().items()}
    average_into(chain, group, [0, 3], [1, 2], torch.ones(4))
    # The six channels of the stem come first.
    read = before["d1.body.norm1.running_mean"]
    after = chain.d1.body.norm1.running_mean
    assert torch.equal(after[:6], read[:6])
    torch.testing.assert_close(after[[6, 9]], (read[[6, 9]] + read[[7, 8]]) / 2)
    layers = {
        name.rpartition(".")[0]
        for name, value in chain.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert layers == {"d0.body.conv2", "d1.body.norm1", "transition.norm"}


def test_equal_twins_merge_without_loss_for_the_twin() -> None:
    chain = TOYS["depthwise"]()
    group = next(g for g in width_groups(chain, EXAMPLE) if g.name == "i0.conv1")
    with torch.no_grad():
        for name in group.members[:-1]:
            for value in chain.get_submodule(name).state_dict(keep_vars=True).values():
                if value.dim():
                    value[5] = value[1]
        chain.i0.conv3.weight[:, 1] += chain.i0.conv3.weight[:, 5]
        chain.i0.conv3.weight[:, 5] = 0
    expected = output(chain)
    average_into(chain, group, [1], [5], torch.rand(8))
    narrow(chain, EXAMPLE, {"i0.conv1": [0, 1, 2, 3, 4, 6, 7]})
    torch.testing.assert_close(output(chain), expected, rtol=1e-4, atol=1e-5)


def test_parameters_stay_the_same_objects_and_trainable() -> None:
    chain = TOYS["residual"]()
    objects = {name: id(parameter) for name, parameter in chain.named_parameters()}
    for group in width_groups(chain, EXAMPLE):
        average_into(chain, group, [0], [1], torch.ones(group.width))
    assert {name: id(parameter) for name, parameter in chain.named_parameters()} == objects
    assert all(parameter.requires_grad for parameter in chain.parameters())
