import math
from dataclasses import replace

import pytest

from tascnet.errors import ConfigError, RunFolderError
from tascnet.files import read_jsonl
from tascnet.tune.space import Space
from tascnet.tune.study import Proposal, Study, Trial, binomial_error, winner
from tests.tune.spaces import small_space


def value_of(config):
    return 0.5 + 0.1 * config["first_trained"] + 0.002 * config.get("b.width", 0)


def run(proposal, **changes):
    known = {"trial": proposal.trial, "depth": proposal.depth, "config": proposal.config}
    return Trial(**{**known, "status": "ok", "value": value_of(proposal.config), "params": 10, **changes})


def search(study, n, k=1):
    for _ in range(n):
        (proposal,) = study.ask(k, 1, initial_trials=4)
        study.tell(run(proposal))
    return [trial.config for trial in study.trials]


def test_it_starts_at_the_pre_trained_setting_then_quasi_random(tmp_path):
    space = small_space()
    start = space.neutral(1)
    configs = search(Study(tmp_path / "trials.jsonl", space, seed=3), 4)
    assert configs == [start, *space.sample(3, 1, 3, exclude=[start])]


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
    for proposal in (asked[0], asked[2]):
        study.tell(run(proposal))
    again = Study(path, small_space(), seed=0).ask(1, 2, initial_trials=4)
    assert again == [asked[1], asked[3]]


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
    trial = run(proposal, flops=123, seconds=1.5, epochs=4, val_loss=0.7)
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
    with pytest.raises(RunFolderError, match=r"does not fit this search .*fresh=true"):
        Study(path, Space(small_space().units[:1]), seed=0)
    path.write_text('{"trial": 0}\n')
    with pytest.raises(RunFolderError, match="does not fit"):
        Study(path, small_space(), seed=0)


def test_wrong_trials_are_refused(tmp_path):
    study = Study(tmp_path / "trials.jsonl", small_space(), seed=0)
    (proposal,) = study.ask(1, 1, initial_trials=1)
    with pytest.raises(ConfigError, match="expected a finite number"):
        run(proposal, value=math.nan)
    with pytest.raises(ConfigError, match="expected a reason"):
        run(proposal, status="failed", value=None)
    odd = Proposal(trial=0, depth=1, config={**proposal.config, "a.width": 8})
    with pytest.raises(ConfigError, match="not canonical"):
        study.tell(run(odd))
    study.tell(run(proposal))
    with pytest.raises(ConfigError, match="told before"):
        study.tell(run(proposal))


def make_trials(*pairs):
    config = small_space().neutral(1)
    return [
        Trial(trial=i, depth=1, config=config, status="ok", value=value, params=params)
        for i, (value, params) in enumerate(pairs)
    ]


def test_the_smallest_network_within_one_standard_error_wins():
    # sqrt(0.9 x 0.1 / 900) = 0.01: 0.891 is inside, 0.889 is not.
    assert binomial_error(0.9, 900) == pytest.approx(0.01)
    trials = make_trials((0.9, 300), (0.891, 200), (0.889, 100))
    assert winner(trials, 900).trial == 1
    assert winner(trials, 900, tolerance=0.0).trial == 0
    assert winner(trials, 900, tolerance=0.02).trial == 2


def test_ties_go_to_the_better_then_the_earlier_trial():
    trials = make_trials((0.5, 9), (0.89, 100), (0.9, 100), (0.9, 100))
    assert winner(trials, 100, tolerance=0.05).trial == 2


def test_without_a_success_there_is_no_winner(tmp_path):
    failed = replace(make_trials((0.5, 9))[0], status="failed", value=None, reason="out of memory")
    assert winner([failed], 10) is None
    study = Study(tmp_path / "trials.jsonl", small_space(), seed=0)
    assert study.best() is None
    assert study.winner(10) is None
