"""Widths by time: plans against enumeration, and pruning by times that are given."""

import itertools
import math
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import tascnet.measure.table
from tascnet.errors import ConfigError
from tascnet.exporting.layers import Layer, named_layers
from tascnet.inherit import Ranking
from tascnet.measure import Clock, WidthCosts, WidthTimes, complexity
from tascnet.models.layers import LayerNorm2d
from tascnet.options import Measure, Prune
from tascnet.pruning import latency_plan, stage
from tascnet.pruning.allocate import GroupSize
from tascnet.pruning.latency_plan import LEVELS, latency_goal, levels, plan_latency
from tascnet.pruning.ranks import Ranks, sizes_of
from tascnet.run.records import Iteration, read_records
from tascnet.surgery import Trace, width_groups
from tests.models.toys import EXAMPLE, body, conv
from tests.pruning.toy import SMALL, untimed
from tests.surgery.networks import NETWORKS

GROUP_RATIO, MULTIPLE = 0.75, 8


def by_steps(layers: list[Layer]) -> list[float]:
    """Products of inputs and outputs that are rounded up to 16, so that not every width saves time."""
    return [
        math.prod(-(-n // 16) for n in (layer.weights[0], layer.weights[1] * layer.groups))
        for layer in layers
    ]


def planned_for(chain: nn.Sequential, seed: int, timer=by_steps):
    """Random rankings of the groups of a chain, their sizes, and the times of its widths."""
    trace = Trace(chain, EXAMPLE)
    groups = width_groups(chain, trace)
    costs = WidthCosts(chain, EXAMPLE, groups)
    generator = torch.Generator().manual_seed(seed)
    rankings = {}
    for group in groups:
        found = torch.rand(group.width, generator=generator).sort().values ** 2
        rankings[group.name] = Ranking(order=tuple(range(group.width)), costs=tuple(found.tolist()))
    times = WidthTimes(layers=named_layers(chain, EXAMPLE), lost=costs.lost, times=timer)
    return rankings, sizes_of(groups), times


def plain(*widths: int) -> nn.Sequential:
    last = [("pool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten()), ("fc", nn.Linear(widths[-1], 5))]
    convs = [(f"conv{n}", conv(*pair)) for n, pair in enumerate(itertools.pairwise((3, *widths)))]
    return body(*convs, *last)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.8, 0.5, 0.3])
def test_no_other_widths_lose_less_in_the_time(seed: int, share: float) -> None:
    rankings, sizes, times = planned_for(plain(32, 64, 48), seed)
    most = share * times({})
    plan = plan_latency(rankings, sizes, times, most, round_to=MULTIPLE, group_ratio=GROUP_RATIO)
    every = [levels(rankings[name], sizes[name], MULTIPLE, GROUP_RATIO) for name in rankings]
    loss = {
        counts: sum(sum(r.costs[:n]) for r, n in zip(rankings.values(), counts, strict=True))
        for counts in itertools.product(*every)
        if times(dict(zip(rankings, counts, strict=True))) <= most + 1e-9
    }
    assert plan.milliseconds == times(plan.remove) <= most + 1e-6
    assert plan.loss == pytest.approx(min(loss.values()), rel=2e-3)


def test_the_fastest_widths_where_no_others_are_fast_enough() -> None:
    rankings, sizes, times = planned_for(plain(32, 64), 0)
    plan = plan_latency(rankings, sizes, times, 0.0, round_to=MULTIPLE, group_ratio=GROUP_RATIO)
    assert plan.remove == {"conv0": 24, "conv1": 48}


def test_nothing_is_removed_where_there_is_time() -> None:
    rankings, sizes, times = planned_for(plain(32, 64), 0)
    assert plan_latency(rankings, sizes, times, times({}), round_to=MULTIPLE).remove == {}


def test_groups_that_are_not_exact_keep_their_widths_while_others_are_enough() -> None:
    chain = body(
        ("conv0", conv(3, 32)),
        ("norm", LayerNorm2d(32)),
        ("conv1", conv(32, 32)),
        ("conv2", conv(32, 32)),
    )
    rankings, sizes, times = planned_for(chain, 0)
    assert not sizes["conv0"].is_exact
    some = plan_latency(rankings, sizes, times, 0.8 * times({}), round_to=MULTIPLE, group_ratio=GROUP_RATIO)
    assert set(some.remove) == {"conv1"}
    most = plan_latency(rankings, sizes, times, 0.0, round_to=MULTIPLE, group_ratio=GROUP_RATIO)
    assert set(most.remove) == {"conv0", "conv1"}


@pytest.mark.parametrize("name", ["context", "shuffled", "response_norm", "group_norms"])
def test_a_plan_of_any_network_takes_the_time_that_it_says(name: str) -> None:
    def weights(layers: list[Layer]) -> list[float]:
        return [float(math.prod(layer.weights)) for layer in layers]

    rankings, sizes, times = planned_for(NETWORKS[name].make(), 0, weights)
    fastest = plan_latency(rankings, sizes, times, 0.0, group_ratio=GROUP_RATIO)
    most = (fastest.milliseconds + times({})) / 2
    plan = plan_latency(rankings, sizes, times, most, group_ratio=GROUP_RATIO)
    assert plan.milliseconds <= most
    assert plan.loss <= fastest.loss


def test_levels_by_hand() -> None:
    def ranking(count: int) -> Ranking:
        return Ranking(order=tuple(range(count)), costs=(1.0,) * count)

    # 20 filters: 4 leave 16 and 12 leave 8, of which the most is 15; a ranking of 10 ends before.
    assert levels(ranking(20), GroupSize(units=20), 8, 0.75) == [0, 4, 12]
    assert levels(ranking(10), GroupSize(units=20), 8, 0.75) == [0, 4]
    assert levels(ranking(8), GroupSize(units=8), 8, 0.75) == [0]
    found = levels(ranking(960), GroupSize(units=960), 8, 0.75)
    assert (len(found), found[0], found[-1]) == (LEVELS, 0, 720)


def test_the_goal_is_the_target_that_is_reached_first() -> None:
    assert latency_goal(Prune(latency_target=0.5), 8.0) == 4.0
    assert latency_goal(Prune(latency_target=0.5, latency_target_ms=5.0), 8.0) == 5.0
    assert latency_goal(Prune(), 8.0) is None


def test_groups_of_the_same_kind() -> None:
    layers = OrderedDict(
        one=conv(3, 16), two=conv(16, 16), three=conv(16, 16), norm=nn.BatchNorm2d(16), four=conv(16, 4)
    )
    chain = nn.Sequential(layers).eval()
    trace = Trace(chain, EXAMPLE)
    ranks = Ranks(network=chain, trace=trace, groups=width_groups(chain, trace), rankings={})
    assert ranks.kinds() == [["one", "two"], ["three"]]


@pytest.fixture
def given_times(monkeypatch):
    """Layers take their weights in microseconds, and networks twice as much as their layers."""

    def of_layers(layers, *_, **__):
        return [math.prod(layer.weights) / 1000 for layer in layers]

    def of_networks(clock, networks, *_):
        times = {}
        for name, one in networks.items():
            layers = [layer for _, layer in named_layers(one, clock._example)]
            times[name] = 2 * sum(of_layers(layers))
        return {name: SimpleNamespace(median_ms=ms, spread_ms=(ms, ms)) for name, ms in times.items()}

    monkeypatch.setattr(tascnet.measure.table, "time_layers", of_layers)
    monkeypatch.setattr(Clock, "_timed", of_networks)


OPTIONS = Prune(
    **SMALL | {"scope": "latency", "one_shot": True, "pruning_ratio": 0.05, "latency_target": 0.6}
)
OWN = {"measure": Measure(batch=2, repeats=3, runtimes=("eager",), target="eager")}


def test_one_cut_ends_at_the_target(run, given_times, caplog) -> None:
    caplog.set_level("INFO")
    result = run(OPTIONS, **OWN)
    before, after = result.iterations
    assert 0.5 * before.latency_ms < after.latency_ms <= 0.6 * before.latency_ms
    assert result.metrics.stopped.startswith("latency reached")
    assert "predicted" in caplog.text
    assert complexity(result.network, torch.zeros(1, 3, 8, 8)).params == after.params


def test_a_resumed_run_has_the_same_plan(run, given_times, monkeypatch, tmp_path) -> None:
    whole = run(OPTIONS, name="whole", **OWN)

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage, "apply_removal", stop)
        with pytest.raises(KeyboardInterrupt):
            run(OPTIONS, name="resumed", **OWN)
    with monkeypatch.context() as patch:
        # What is timed now no longer matters.
        patch.setattr(latency_plan, "plan_latency", stop)
        resumed = run(OPTIONS, name="resumed", **OWN)
    assert untimed(resumed.iterations) == untimed(whole.iterations)


def test_a_step_saves_its_share_of_the_time_and_the_target_may_be_lowered(run, given_times, tmp_path) -> None:
    steps = Prune(**SMALL | {"scope": "latency", "latency_target": 0.85, "max_iterations": 3})
    first = run(steps, **OWN)
    assert first.iterations[1].landed == {
        **dict.fromkeys(("flops", "params", "size_bytes")),
        "latency_target": 0.85,
        "latency_target_ms": None,
    }
    lower = Prune(**SMALL | {"scope": "latency", "latency_target": 0.7, "max_iterations": 3})
    again, whole = run(lower, **OWN), run(lower, name="other", **OWN)
    assert untimed(again.iterations) == untimed(whole.iterations)
    assert read_records(tmp_path / "run" / "iterations.jsonl", Iteration)[1].latency_ms is not None


@pytest.mark.parametrize(
    ("given", "message"),
    [({}, "needs a latency"), ({"latency_target": 0.5, "flops_target": 0.5}, "there is `flops_target`")],
)
def test_widths_by_latency_need_a_latency_as_the_only_target(given, message) -> None:
    with pytest.raises(ConfigError, match=message):
        Prune(scope="latency", **given)


def test_each_kind_of_layers_loses_its_share(run) -> None:
    result = run(Prune(**SMALL | {"scope": "isomorphic", "max_pruning_ratio": 0.5}))
    # By kinds: the last convolution has 20 filters; a quarter of each kind is asked for.
    removed = result.iterations[1].removed
    assert removed["conv2"] == 5
    assert len(removed) > 1
