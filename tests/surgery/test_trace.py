"""One trace serves groups, inputs, scores and cuts of a structure, and no other structure."""

import copy
import pickle
import weakref
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from tascnet.errors import SurgeryError
from tascnet.surgery import (
    Trace,
    all_channel_scores,
    narrow,
    replace_layer,
    set_activation,
    set_kernel,
    width_groups,
    without_blocks,
)
from tests.models.toys import EXAMPLE, TOYS, output, settle


def same(one: Mapping[str, Mapping[str, Tensor]], other: Mapping[str, Mapping[str, Tensor]]) -> bool:
    return one.keys() == other.keys() and all(
        one[key].keys() == other[key].keys()
        and all(torch.equal(one[key][n], other[key][n]) for n in one[key])
        for key in one
    )


@pytest.mark.parametrize("name", TOYS)
def test_one_trace_gives_what_separate_traces_give(name: str) -> None:
    chain = TOYS[name]()
    trace = Trace(chain, EXAMPLE)
    groups = width_groups(chain, EXAMPLE)
    keep = {group.name: range(0, group.width, 2) for group in groups}
    expected = copy.deepcopy(chain)
    widths = narrow(expected, EXAMPLE, keep)
    # Twice: nothing changes the trace.
    for _ in range(2):
        assert width_groups(chain, trace) == groups
        for own, other in zip(trace.groups, groups, strict=True):
            for one, two in (
                (own.outputs, other.outputs),
                (own.passed, other.passed),
                (own.inputs, other.inputs),
            ):
                assert same({"": one}, {"": two})
        for criterion in ("magnitude", "fpgm"):
            scores = all_channel_scores(chain, trace, groups, criterion)
            again = all_channel_scores(chain, EXAMPLE, groups, criterion)
            assert same({"": scores}, {"": again})
        cut = copy.deepcopy(chain)
        assert narrow(cut, trace, keep) == widths
        assert same({"": dict(cut.state_dict())}, {"": dict(expected.state_dict())})
        assert torch.equal(output(cut), output(expected))


def test_scores_are_those_of_the_network_that_is_given() -> None:
    chain, other = TOYS["plain"](), settle(TOYS["plain"](), seed=1)
    trace = Trace(chain, EXAMPLE)
    groups = width_groups(chain, trace)
    first = all_channel_scores(chain, trace, groups, "magnitude")
    second = all_channel_scores(other, trace, groups, "magnitude")
    assert not torch.equal(first["conv2"], second["conv2"])
    assert torch.equal(second["conv2"], all_channel_scores(other, EXAMPLE, groups, "magnitude")["conv2"])


def test_a_trace_is_refused_once_the_network_is_cut() -> None:
    chain = TOYS["residual"]()
    trace = Trace(chain, EXAMPLE)
    groups = width_groups(chain, trace)
    narrow(chain, trace, {"b1.body.conv1": [0, 1, 2]})
    calls = (
        lambda: width_groups(chain, trace),
        lambda: all_channel_scores(chain, trace, groups, "magnitude"),
        lambda: narrow(chain, trace, {"b1.body.conv1": [0]}),
    )
    for call in calls:
        with pytest.raises(SurgeryError, match="other layers or widths than the trace: trace it again"):
            call()
    assert chain.b1.body.conv1.out_channels == 3
    assert width_groups(chain, Trace(chain, EXAMPLE)) == width_groups(chain, EXAMPLE)


def test_a_trace_is_refused_without_a_block() -> None:
    chain = TOYS["residual"]()
    shorter, _ = without_blocks(chain, {"b1"})
    with pytest.raises(SurgeryError, match="other layers or widths"):
        width_groups(shorter, Trace(chain, EXAMPLE))


def test_other_kernels_activations_modes_and_frozen_layers_are_the_same_structure() -> None:
    chain = TOYS["residual"]()
    trace = Trace(chain, EXAMPLE)
    other = copy.deepcopy(chain).train().to(memory_format=torch.channels_last)
    replace_layer(other, "b1.body.conv1", set_kernel(other.b1.body.conv1, 5))
    set_activation(other, "b1.body.relu1", "tanh")
    other.stem.requires_grad_(False)
    expected = copy.deepcopy(other)
    keep = {"b1.body.conv1": [1, 3], "b0.body.conv2": [0, 4, 11]}
    assert narrow(other, trace, keep) == narrow(expected, EXAMPLE, keep)
    assert torch.equal(output(other.eval()), output(expected.eval()))
    assert not other.stem.weight.requires_grad
    assert other.b1.body.conv1.kernel_size == (5, 5)


def test_a_failed_cut_leaves_the_trace_as_it_was() -> None:
    chain = TOYS["plain"]()
    trace = Trace(chain, EXAMPLE)
    with pytest.raises(SurgeryError, match="sorted"):
        narrow(chain, trace, {"conv1": [0, 1], "conv2": [3, 1]})

    assert narrow(chain, trace, {"conv1": [0, 1]}) == {"conv1": (8, 2)}


def test_a_trace_holds_no_weights_and_can_be_pickled() -> None:
    chain = TOYS["plain"]()
    weights = [weakref.ref(parameter) for parameter in chain.parameters()]
    trace = Trace(chain, EXAMPLE)
    groups = trace.groups
    del chain
    assert not any(weight() is not None for weight in weights)
    assert pickle.loads(pickle.dumps(trace)).groups == groups


def test_tracing_leaves_the_network_alone() -> None:
    chain = TOYS["dense"]().train()
    before = {name: (value, value.clone()) for name, value in chain.state_dict(keep_vars=True).items()}
    Trace(chain, EXAMPLE)
    for name, value in chain.state_dict(keep_vars=True).items():
        assert value is before[name][0]
        assert torch.equal(value, before[name][1])
    assert all(module.training for module in chain.modules())
