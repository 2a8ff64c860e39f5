import math
from dataclasses import dataclass, replace

import pytest

from tascnet.errors import ConfigError, RunFolderError
from tascnet.run.files import read_jsonl
from tascnet.run.records import Trial, write_records
from tascnet.tuning.goal import Goal, KnownCosts, front, near_margin, winner
from tascnet.tuning.proposal import Proposal
from tascnet.tuning.space import Space
from tascnet.tuning.study import Study
from tests.tuning.spaces import small_space


def value_of(config):
    return 0.5 + 0.1 * config["first_trained"] + 0.002 * config.get("b.width", 0)


def run(proposal, **changes):
    value = value_of(proposal.config)
    return proposal.came(**{"status": "ok", "value": value, "val_accuracy": value, "params": 10, **changes})


def search(study, n, k=1):
    for _ in range(n):
        (proposal,) = study.ask(k, 1, initial_trials=4)
        study.tell(run(proposal))
    return [trial.config for trial in study.trials]


def test_it_starts_at_the_pre_trained_setting_and_half_its_widths_then_quasi_random(tmp_path):
    space = small_space()
    start = space.neutral(1)
    half = {**start, "b.width": 16}
    configs = search(Study(tmp_path / "trials.jsonl", space, seed=3), 4)
    drawn = space.sample(32, 1, 3, exclude=[start, half])
    assert configs == [start, half, *[config for config in drawn if config["first_trained"] == 1][:2]]


def test_a_study_broken_off_goes_on_as_if_it_had_not_been(tmp_path):
    space = small_space()
    whole = search(Study(tmp_path / "whole.jsonl", space, seed=0), 6)
    path = tmp_path / "broken.jsonl"
    for n in (2, 3, 1):
        broken = search(Study(path, space, seed=0), n)
        # A proposal that was never told, and a line that was never finished.
        Study(path, space, seed=0).ask(1, 1, initial_trials=4)
        with open(path, "ab") as file:
            file.write(b'{"trial": 99, "dep')
    assert broken == whole
    assert [row["trial"] for row in read_jsonl(path)] == list(range(6))


def test_another_seed_gives_another_search(tmp_path):
    one = search(Study(tmp_path / "a.jsonl", small_space(), seed=0), 5)
    assert search(Study(tmp_path / "b.jsonl", small_space(), seed=1), 5) != one


def test_pending_proposals_differ_and_lost_ones_are_given_again(tmp_path):
    path = tmp_path / "trials.jsonl"
    study = Study(path, small_space(), seed=0)
    asked = study.ask(1, 6, initial_trials=4)
    assert [proposal.trial for proposal in asked] == list(range(6))
    assert len({study.space.key(proposal.config) for proposal in asked}) == 6
    for proposal in asked[:2]:
        study.tell(run(proposal))
    study.tell(run(asked[4]))
    with pytest.raises(ConfigError, match="trial 6 was not proposed"):
        study.tell(run(replace(asked[5], trial=6)))
    study = Study(path, small_space(), seed=0)
    assert [trial.trial for trial in study.trials] == [0, 1, 4]
    again = study.ask(1, 4, initial_trials=4)
    assert again[:3] == [asked[2], asked[3], asked[5]]
    assert again[3].trial == 6
    assert [trial.trial for trial in study.seen_by(again[3])] == [0, 1, 4]
    assert study.seen_by(again[0]) == ()


def test_a_failed_trial_is_learnt_from_and_never_proposed_again(tmp_path):
    head = small_space().units[0]
    study = Study(tmp_path / "trials.jsonl", Space((head,)), seed=0)
    (first,) = study.ask(0, 1, initial_trials=1)
    study.tell(Trial(trial=0, depth=0, config=first.config, status="failed", reason="out of memory"))
    for value in (0.5, 0.7):
        (proposal,) = study.ask(0, 1, initial_trials=1)
        study.tell(run(proposal, value=value))
    assert len({study.space.key(trial.config) for trial in study.trials}) == 3 == study.space.count(0)
    assert study.ask(0, 1, initial_trials=1) == []
    assert study.trials[0].reason == "out of memory"
    assert study.best().value == 0.7


def test_a_small_space_ends_the_quasi_random_points(tmp_path):
    study = Study(tmp_path / "trials.jsonl", Space(small_space().units[:1]), seed=0)
    proposals = study.ask(0, 9, initial_trials=9)
    assert len(proposals) == 3
    assert study.ask(0, 1, initial_trials=9) == []


def test_the_journal_gives_trials_back(tmp_path):
    path = tmp_path / "trials.jsonl"
    study = Study(path, small_space(), seed=0)
    (proposal,) = study.ask(1, 1, initial_trials=1)
    trial = run(proposal, flops=123, seconds=1.5, epochs=2, val_loss=0.7, curve=(0.5, 0.6), latency_ms=2.5)
    study.tell(trial)
    assert Study(path, small_space(), seed=0).trials == (trial,)


def test_deeper_units_added_later_keep_the_journal(tmp_path):
    shallow = Space(small_space().units[:2])
    configs = search(Study(tmp_path / "trials.jsonl", shallow, seed=0), 5)
    deeper = Study(tmp_path / "trials.jsonl", small_space(), seed=0)
    assert [t.config for t in deeper.trials] == [small_space().canonical(c) for c in configs]


def test_a_foreign_journal_is_refused(tmp_path):
    path = tmp_path / "trials.jsonl"
    search(Study(path, small_space(), seed=0), 2)
    with pytest.raises(
        RunFolderError, match=r"line 1 of the journal .* does not fit this search .*`fresh=true`"
    ):
        Study(path, Space(small_space().units[:1]), seed=0)
    path.write_text('{"trial": 0}\n')
    with pytest.raises(RunFolderError, match=r"line 1 of .* is corrupt"):
        Study(path, small_space(), seed=0)


def test_wrong_trials_are_refused(tmp_path):
    study = Study(tmp_path / "trials.jsonl", small_space(), seed=0)
    (proposal,) = study.ask(1, 1, initial_trials=1)
    with pytest.raises(ValueError, match="expected a finite number"):
        run(proposal, value=math.nan)
    with pytest.raises(ValueError, match="has no reason"):
        run(proposal, status="failed", value=None, val_accuracy=None)
    odd = Proposal(trial=0, depth=1, config={**proposal.config, "a.width": 8})
    with pytest.raises(ConfigError, match="not canonical"):
        study.tell(run(odd))
    study.tell(run(proposal))
    with pytest.raises(ConfigError, match="already in the journal"):
        study.tell(run(proposal))


def make_trials(*pairs):
    config = small_space().neutral(1)
    return [
        Trial(trial=i, depth=1, config=config, status="ok", value=value, val_accuracy=value, params=params)
        for i, (value, params) in enumerate(pairs)
    ]


def test_the_smallest_network_within_one_standard_error_wins():
    # sqrt(0.9 x 0.1 / 900) = 0.01: 0.891 is inside, 0.889 is not.
    assert near_margin(0.9, 900, None) == pytest.approx(0.01)
    trials = make_trials((0.9, 300), (0.891, 200), (0.889, 100))
    assert winner(trials, 900).trial == 1
    assert winner(trials, 900, tolerance=0.0).trial == 0
    assert winner(trials, 900, tolerance=0.02).trial == 2


def test_ties_go_to_the_better_then_the_earlier_trial():
    trials = make_trials((0.5, 9), (0.89, 100), (0.9, 100), (0.9, 100))
    assert winner(trials, 100, tolerance=0.05).trial == 2


def test_without_a_success_there_is_no_winner(tmp_path):
    failed = replace(make_trials((0.5, 9))[0], status="failed", value=None, val_accuracy=None, reason="x")
    assert winner([failed], 10) is None
    study = Study(tmp_path / "trials.jsonl", small_space(), seed=0)
    assert study.best() is None
    assert study.winner(10) is None


def test_of_the_loss_the_best_is_the_lowest_and_near_is_told_by_accuracy():
    losses = {0: (0.5, 0.90, 300), 1: (0.6, 0.893, 200), 2: (0.7, 0.95, 400), 3: (0.8, 0.88, 100)}
    trials = [
        replace(t, value=-losses[t.trial][0], val_accuracy=losses[t.trial][1], params=losses[t.trial][2])
        for t in make_trials(*[(0.5, 1)] * 4)
    ]
    # One standard error of 0.9 over 900 samples is 0.01, which trial 3 misses.
    assert winner(trials, 900).trial == 1
    assert winner(trials, 900, tolerance=0.0).trial == 0


def test_stopped_trials_enter_the_fit_but_never_win(tmp_path):
    study = Study(tmp_path / "trials.jsonl", small_space(), seed=0)
    for status, value in (("ok", 0.5), ("stopped", 0.9), ("ok", 0.7)):
        (proposal,) = study.ask(1, 1, initial_trials=3)
        study.tell(run(proposal, status=status, value=value, val_accuracy=value, params=5, curve=(value,)))
    assert study.best().trial == study.winner(100).trial == 2
    assert [trial.trial for trial in study.front()] == [2]
    (learnt,) = study.ask(1, 1, initial_trials=3)
    assert learnt.surrogate is not None
    assert learnt.config not in [trial.config for trial in study.trials]


def test_the_front_is_what_nothing_matches_or_beats():
    # Value and params; 1 is beaten by 2, 4 matched by the earlier 3.
    trials = make_trials((0.5, 10), (0.6, 30), (0.7, 20), (0.9, 50), (0.9, 50), (0.4, 60))
    assert [trial.trial for trial in front(trials, "params")] == [0, 2, 3]
    assert front([], "params") == []


@dataclass(frozen=True)
class Cost:
    params: int
    flops: int


def cost(config):
    return Cost(params=config["a.width"], flops=config["b.width"])


def goal(**bounds):
    return Goal(cost=KnownCosts(cost), **bounds)


@pytest.mark.parametrize("algorithm", ["bo", "random", "sobol"])
def test_every_algorithm_keeps_the_bounds_from_the_first_trial_on(tmp_path, algorithm):
    space = small_space()
    study = Study(tmp_path / "t.jsonl", space, 0, goal(max_flops=16), algorithm)
    for trial in range(10):
        (proposal,) = study.ask(2, 1, initial_trials=4)
        assert proposal.trial == trial
        study.tell(run(proposal))
    assert {trial.config["b.width"] for trial in study.trials} == {8, 16}
    assert len({space.key(trial.config) for trial in study.trials}) == 10


def test_a_depth_that_cannot_keep_the_bounds_is_passed_over(tmp_path):
    study = Study(tmp_path / "t.jsonl", small_space(), 0, goal(max_params=8))
    assert study.ask(1, 1, initial_trials=4) == []
    assert study.exhausted == {1}
    (proposal,) = study.ask(2, 1, initial_trials=4)
    assert (proposal.trial, proposal.config["a.width"]) == (0, 8)


def test_bounds_that_nothing_keeps_are_refused(tmp_path):
    study = Study(tmp_path / "t.jsonl", small_space(), 0, goal(max_params=7))
    with pytest.raises(ConfigError, match=r"params 7, 8\): raise the bound"):
        study.ask(1, 1, initial_trials=4)


def test_random_and_sobol_draw_from_the_space(tmp_path):
    space = small_space()
    sobol = search(Study(tmp_path / "a.jsonl", space, 3, algorithm="sobol"), 5)
    assert sobol == space.sample(5, 1, 3)
    uniform = search(Study(tmp_path / "b.jsonl", space, 3, algorithm="random"), 5)
    assert len({space.key(config) for config in uniform}) == 5
    assert uniform not in (sobol, space.sample(5, 1, 3, method="random"))


@pytest.mark.parametrize("algorithm", ["bo", "random", "sobol", "layerwise"])
def test_every_algorithm_goes_on_as_if_it_had_not_been_broken_off(tmp_path, algorithm):
    def opened(name):
        return Study(tmp_path / name, small_space(), 0, algorithm=algorithm)

    n = 3 if algorithm == "layerwise" else 7
    whole = search(opened("whole.jsonl"), n)
    for _ in range(n):
        opened("broken.jsonl").ask(1, 1, initial_trials=4)
        broken = search(opened("broken.jsonl"), 1)
    assert broken == whole
    assert (tmp_path / "broken.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()


@pytest.mark.parametrize("algorithm", ["bo", "random", "sobol"])
def test_several_at_once_differ_and_end_with_the_space(tmp_path, algorithm):
    space = small_space()
    study = Study(tmp_path / "t.jsonl", space, 0, algorithm=algorithm)
    asked = study.ask(1, 100, initial_trials=5)
    assert len({space.key(proposal.config) for proposal in asked}) == len(asked) == space.count(1) == 21
    assert study.ask(1, 1) == []
    assert study.exhausted == {1}


def test_layerwise_goes_through_the_depths_at_the_pre_trained_settings(tmp_path):
    space = small_space()
    study = Study(tmp_path / "t.jsonl", space, 0, algorithm="layerwise", every=2)
    first, second = study.ask(0, 5, initial_trials=3)
    assert (first.config, second.config) == (space.neutral(0), space.neutral(2))
    assert (first.depth, second.depth) == (0, 2)
    study.tell(run(first))
    again = Study(tmp_path / "t.jsonl", space, 0, algorithm="layerwise", every=2)
    assert again.ask(0) == [second]
    assert again.ask(0) == []


def test_where_spaces_do_not_nest_each_depth_is_searched_by_itself(tmp_path):
    space = Space(small_space().units, nested=False)
    study = Study(tmp_path / "t.jsonl", space, seed=0)
    for k in (0, 0, 1, 1):
        (proposal,) = study.ask(k, 1, initial_trials=2)
        assert proposal.config["first_trained"] == k
        study.tell(run(proposal, value=0.1 * proposal.trial))
    # The first depth begins with quasi-random points alone, the second one goes on from what is known.
    assert [trial.config for trial in study.trials[:2]] == space.sample(2, 0, 0)
    assert study.trials[2].surrogate is not None


def test_hyperparameters_are_journalled_and_the_next_fit_starts_from_them(tmp_path, monkeypatch):
    study = Study(tmp_path / "t.jsonl", small_space(), seed=0)
    search(study, 6)
    assert [trial.surrogate is None for trial in study.trials] == [True] * 4 + [False] * 2
    rows = read_jsonl(tmp_path / "t.jsonl")
    assert rows[5]["surrogate"]["value"]["lengthscales"].keys() == {
        "first_trained",
        "head.hidden_layers",
        "head.neurons",
        "b.width",
        "b.kernel",
    }
    monkeypatch.setattr("tascnet.tuning.surrogate.fit_gpytorch_mll", lambda mll, **options: None)
    (proposal,) = study.ask(1)
    assert proposal.surrogate == rows[5]["surrogate"]


def test_a_trial_that_was_too_slow_is_not_given_again(tmp_path):
    limits = Goal(max_latency_ms=1.0)
    study = Study(tmp_path / "t.jsonl", Space(small_space().units[:1]), 0, limits)
    for latency_ms in (0.5, 2.0, 1.0):
        (proposal,) = study.ask(0, 1, initial_trials=1)
        slow = {"status": "infeasible", "value": None, "val_accuracy": None, "reason": "2 ms"}
        study.tell(run(proposal, latency_ms=latency_ms, **(slow if latency_ms > 1 else {})))
    assert study.ask(0) == []
    assert [trial.status for trial in study.trials] == ["ok", "infeasible", "ok"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"colour": 1}, "unknown field 'colour'"),
        ({"status": "odd"}, "the status 'odd'"),
        ({"value": "0.5"}, 'Trial.value is "0.5", expected float'),
        ({"value": None}, "value None, expected a finite number"),
        ({"val_accuracy": None}, "val_accuracy None, expected a finite number"),
        ({"trial": True}, "trial is true, expected int"),
        ({"params": 1.5}, "params is 1.5, expected int"),
        ({"curve": 0.5}, "curve is 0.5, expected a list"),
        ({"config": {"first_trained": 9}}, r"it trains unit 9, and the deepest one is 2 \(`max_units`\)"),
        ({"config": []}, "config is"),
        ({"status": "infeasible", "value": None, "val_accuracy": None, "reason": "x"}, "no latency_ms"),
    ],
)
def test_a_line_that_is_no_trial_is_refused(tmp_path, change, says):
    path = tmp_path / "t.jsonl"
    search(Study(path, small_space(), seed=0), 1)
    row = read_jsonl(path)[0]
    del row["check"]
    write_records(path, [{**row, **change}])
    with pytest.raises(RunFolderError, match=says):
        Study(path, small_space(), seed=0)


def test_given_starts_come_first(tmp_path):
    space = small_space(exits=1)
    ended = space.neutral(2, 1)
    study = Study(tmp_path / "t.jsonl", space, 0, starts=lambda k: [space.neutral(k), ended])
    assert search(study, 2, k=2) == [space.neutral(2), ended]


def test_earlier_configurations_are_tried_once_the_depth_holds_them(tmp_path):
    space = small_space()
    earlier = [space.narrowed(0.25, 2), space.narrowed(0.25, 1)]
    study = Study(tmp_path / "t.jsonl", space, 0, earlier=earlier)
    assert search(study, 1, k=1) == [earlier[1]]
    assert search(study, 2, k=2)[1] == earlier[0]


def test_quasi_random_points_train_all_units(tmp_path):
    configs = search(Study(tmp_path / "t.jsonl", small_space(), 0), 4, k=2)
    assert {config["first_trained"] for config in configs} == {2}


def test_a_journal_without_exits_is_read_and_one_of_earlier_ends_refused(tmp_path):
    path, whole, ends = tmp_path / "t.jsonl", small_space(), small_space(exits=1)
    search(Study(path, whole, 0), 2)
    assert [trial.config["exit"] for trial in Study(path, ends, 0).trials] == [0, 0]
    for file in tmp_path.iterdir():
        file.unlink()
    search(Study(path, ends, 0, starts=lambda k: [ends.neutral(0, 1)]), 1)
    with pytest.raises(RunFolderError, match="ends before unit 1"):
        Study(path, whole, 0)
