"""The history: equal to the explicit concatenation of all epochs' filters."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tascnet.errors import SurgeryError
from tascnet.pruning.history import FilterHistory
from tascnet.surgery import WidthGroup, narrow, width_groups
from tests.models.toys import EXAMPLE, TOYS, settle
from tests.surgery.networks import NETWORKS

GROUPS = {name: width_groups(make(), EXAMPLE) for name, make in TOYS.items()}


def trajectory(models: list[nn.Sequential], group: WidthGroup) -> Tensor:
    """`n x D`: every filter over all layers and epochs, written out."""
    rows = []
    for channel in range(group.width):
        parts = [m.get_submodule(name).weight[channel].flatten() for m in models for name in group.filters]
        rows.append(torch.cat(parts).detach().double())
    return torch.stack(rows)


@settings(max_examples=15, deadline=None)
@given(name=st.sampled_from(sorted(TOYS)), epochs=st.integers(1, 3), seed=st.integers(0, 99))
def test_similarity_and_norms_are_those_of_the_concatenation(name: str, epochs: int, seed: int) -> None:
    models = [settle(TOYS[name](), seed + epoch) for epoch in range(epochs)]
    history = FilterHistory(GROUPS[name])
    for model in models:
        history.record(model)
    assert history.epochs == epochs
    for group in GROUPS[name]:
        explicit = trajectory(models, group)
        cosine = nn.functional.cosine_similarity(explicit[:, None], explicit[None], dim=2)
        torch.testing.assert_close(history.similarity(group.name), cosine, rtol=0, atol=1e-12)
        torch.testing.assert_close(history.l1(group.name), explicit.abs().sum(1), rtol=1e-6, atol=0)


def linear(weight: list[list[float]]) -> tuple[nn.Sequential, list[WidthGroup]]:
    chain = nn.Sequential(nn.Linear(2, len(weight), bias=False), nn.Linear(len(weight), 2))
    with torch.no_grad():
        chain[0].weight.copy_(torch.tensor(weight))
    return chain, width_groups(chain, torch.zeros(1, 2))


def test_two_epochs_by_hand() -> None:
    chain, groups = linear([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    history = FilterHistory(groups)
    history.record(chain)
    with torch.no_grad():
        chain[0].weight.copy_(torch.tensor([[0.0, -2.0], [0.0, -2.0], [0.0, 0.0]]))
    history.record(chain)
    # Trajectories (1, 0, 0, -2) and (0, 1, 0, -2): inner product 4, norms sqrt(5); the third stays zero.
    expected = torch.tensor([[1.0, 0.8, 0.0], [0.8, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(history.similarity("0"), expected)
    assert history.l1("0").tolist() == [3.0, 3.0, 0.0]


def test_wide_layers_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = FilterHistory(GROUPS["plain"]), FilterHistory(GROUPS["plain"])
    whole.record(TOYS["plain"]())
    monkeypatch.setattr("tascnet.pruning.history._COLUMNS", 5)
    parts.record(TOYS["plain"]())
    torch.testing.assert_close(parts.similarity("fc"), whole.similarity("fc"))


def test_state_round_trip_and_continuation() -> None:
    first, second = TOYS["depthwise"](), settle(TOYS["depthwise"](), 5)
    straight, begun = FilterHistory(GROUPS["depthwise"]), FilterHistory(GROUPS["depthwise"])
    straight.record(first)
    straight.record(second)
    begun.record(first)
    resumed = FilterHistory(GROUPS["depthwise"])
    resumed.load_state_dict(begun.state_dict())
    resumed.record(second)
    assert resumed.epochs == 2
    for key, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a state on another device needs a GPU")
def test_a_state_from_the_gpu_goes_on_on_the_cpu() -> None:
    begun, resumed = FilterHistory(GROUPS["plain"]), FilterHistory(GROUPS["plain"])
    begun.record(TOYS["plain"]())
    resumed.load_state_dict({key: value.cuda() for key, value in begun.state_dict().items()})
    resumed.record(TOYS["plain"]())
    assert resumed.similarity("fc").device.type == "cpu"


def test_state_is_a_copy() -> None:
    history = FilterHistory(GROUPS["plain"])
    state = history.state_dict()
    history.record(TOYS["plain"]())
    assert not state["fc/l1"].any()


def test_kept_filters_go_on_after_a_cut() -> None:
    chain = TOYS["residual"]()
    history, narrowed = FilterHistory(GROUPS["residual"]), FilterHistory(GROUPS["residual"])
    for either in (history, narrowed):
        either.record(chain)
    keep = [0, 2, 5]
    narrow(chain, EXAMPLE, {"a0.body.conv1": keep})
    narrowed.keep({"a0.body.conv1": keep})
    assert torch.equal(
        narrowed.similarity("a0.body.conv1"), history.similarity("a0.body.conv1")[keep][:, keep]
    )
    assert torch.equal(narrowed.l1("a0.body.conv1"), history.l1("a0.body.conv1")[keep])
    narrowed.record(chain)
    with pytest.raises(SurgeryError, match=r"'a0\.body\.conv1' has 3 filters, expected at least 8"):
        history.record(chain)


@pytest.mark.parametrize("name", ["partial", "chunked", "grouped"])
def test_parts_of_one_layer_are_found_again_after_a_cut(name: str) -> None:
    chain = NETWORKS[name].make()
    groups = width_groups(chain, EXAMPLE)
    history = FilterHistory(groups)
    keep = {group.name: list(range(1, group.width)) for group in groups}
    narrow(chain, EXAMPLE, keep)
    history.keep(keep)
    history.record(chain)
    assert history.fits(width_groups(chain, EXAMPLE))
    assert not history.fits(groups)
    fresh = FilterHistory(width_groups(chain, EXAMPLE))
    fresh.record(chain)
    for group in width_groups(chain, EXAMPLE):
        assert torch.equal(history.l1(group.name), fresh.l1(group.name))
        assert torch.equal(history.similarity(group.name), fresh.similarity(group.name))


def test_the_filters_of_a_unit_count_together() -> None:
    chain = NETWORKS["grouped"].make()
    group = next(g for g in width_groups(chain, EXAMPLE) if g.bundle == 2)
    history = FilterHistory([group])
    history.record(chain)
    weights = [chain.block.body.conv1.weight, chain.block.body.conv2.weight]
    expected = sum(weight.detach().reshape(4, -1).double().abs().sum(1) for weight in weights)
    torch.testing.assert_close(history.l1(group.name), expected)


def test_a_state_of_other_groups_is_refused() -> None:
    state = FilterHistory(GROUPS["plain"]).state_dict()
    with pytest.raises(SurgeryError, match="other groups"):
        FilterHistory(GROUPS["dense"]).load_state_dict(state)
    state["fc/l1"] = torch.zeros(9)
    with pytest.raises(SurgeryError, match="9 filters, expected 10"):
        FilterHistory(GROUPS["plain"]).load_state_dict(state)
