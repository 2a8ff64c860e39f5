"""Several trials at a time: what is proposed, in which order it may end, and what an interruption leaves."""

import random

import pytest

from tascnet.errors import TascnetError
from tascnet.run.files import read_jsonl
from tascnet.tuning.goal import Goal
from tascnet.tuning.progression import Limits
from tascnet.tuning.study import Study
from tascnet.tuning.trials import run_search
from tests.tuning.spaces import small_space


def value_of(config):
    return 0.5 + 0.1 * config["first_trained"] + 0.002 * config.get("b.width", 0)


class Broken(Exception):
    pass


class Workers:
    """Trials on `slots` workers that end in an order drawn by a seed, until the search is broken off."""

    def __init__(self, slots, seed=0, stop_after=None, lost=()):
        self.slots, self.stop_after, self.lost = slots, stop_after, lost
        self.draw, self.busy, self.most, self.started, self.ended = random.Random(seed), [], 0, [], 0

    def has_room(self):
        return len(self.busy) < self.slots

    def start(self, proposal):
        self.busy.append(proposal)
        self.started.append(proposal)
        self.most = max(self.most, len(self.busy))

    @property
    def running(self):
        return len(self.busy)

    def next(self):
        if self.ended == self.stop_after:
            raise Broken
        self.ended += 1
        proposal = self.busy.pop(self.draw.randrange(len(self.busy)))
        if proposal.trial in self.lost:
            return proposal.came(status="lost", reason="a node has left")
        value = value_of(proposal.config)
        return proposal.came(status="ok", value=value, val_accuracy=value, val_loss=1.0, params=10, flops=10)


def searched(path, workers, trials=8):
    study = Study(path, small_space(), 0, Goal())
    limits = Limits(trials_per_depth=4, max_units=2, max_trials=trials, patience=3)
    return study, run_search(study, limits, workers, initial_trials=2)


@pytest.mark.parametrize("slots", [1, 3, 20])
def test_every_worker_is_busy_and_no_network_is_trained_twice(tmp_path, slots):
    workers = Workers(slots)
    study, reason = searched(tmp_path / "trials.jsonl", workers)
    assert reason == "the limit of 8 trials is reached"
    assert workers.most == min(slots, 8)
    assert [trial.trial for trial in study.trials] == list(range(8))
    assert len({study.space.key(trial.config) for trial in study.trials}) == 8
    # The depth grows as with one worker.
    assert [trial.depth for trial in study.trials] == [1] * 4 + [2] * 4


def test_the_journal_is_in_the_order_in_which_trials_ended(tmp_path):
    path = tmp_path / "trials.jsonl"
    searched(path, Workers(4, seed=1))
    numbers = [row["trial"] for row in read_jsonl(path)]
    assert sorted(numbers) == list(range(8)) != numbers


@pytest.mark.parametrize("slots", [1, 3])
def test_a_search_that_was_broken_off_ends_with_what_it_had_proposed(tmp_path, slots):
    path, workers = tmp_path / "trials.jsonl", Workers(slots, stop_after=5)
    with pytest.raises(Broken):
        searched(path, workers)
    left = {proposal.trial: proposal for proposal in workers.busy}
    assert len(left) == slots
    again = Workers(slots, seed=2)
    study, _ = searched(path, again)
    assert {p.trial: p for p in again.started[:slots]} == left
    assert sorted(row["trial"] for row in read_jsonl(path)) == list(range(8))
    if slots == 1:
        whole, _ = searched(tmp_path / "whole.jsonl", Workers(1))
        assert [trial.config for trial in study.trials] == [trial.config for trial in whole.trials]


def test_nothing_is_learnt_from_a_lost_trial(tmp_path):
    study, _ = searched(tmp_path / "trials.jsonl", Workers(1, lost=(3, 5)))
    assert [trial.status for trial in study.trials].count("lost") == 2
    assert study.best().value == max(trial.value for trial in study.trials if trial.value)
    kept = [trial for trial in study.trials if trial.status == "ok"]
    assert len(kept) == 6


def test_a_resumed_search_judges_by_what_had_ended_and_keeps_lost_trials_until_it_goes_on(tmp_path):
    path, space = tmp_path / "trials.jsonl", small_space()
    study = Study(path, space, 0)
    lost, done = study.ask(1, 2, initial_trials=2)
    study.tell(lost.came(status="lost", reason="a node has left"))
    study.tell(done.came(status="ok", value=0.5, val_accuracy=0.5))
    late, last = study.ask(1, 2, initial_trials=2)
    study.tell(last.came(status="ok", value=0.6, val_accuracy=0.6))
    assert [trial.trial for trial in study.seen_by(late)] == [1]
    before = path.read_bytes()
    again = Study(path, space, 0)
    # Whoever only looks changes nothing.
    assert path.read_bytes() == before
    assert [trial.trial for trial in again.seen_by(late)] == [1]
    assert [proposal.trial for proposal in again.ask(1, 2)] == [0, late.trial]
    assert [row["trial"] for row in read_jsonl(path)] == [1, last.trial]


class Failing(Workers):
    """Its trials end in the order of `order`; those of these numbers fail."""

    def __init__(self, slots, order, failing):
        super().__init__(slots)
        self.order, self.failing = list(order), failing

    def next(self):
        number = self.order.pop(0)
        proposal = next(one for one in self.busy if one.trial == number)
        self.busy.remove(proposal)
        if number in self.failing:
            return proposal.came(status="failed", reason="it cannot be built")
        value = value_of(proposal.config)
        return proposal.came(status="ok", value=value, val_accuracy=value, val_loss=1.0, params=10, flops=10)


def test_failures_that_end_first_do_not_end_a_search_whose_first_trials_still_train(tmp_path):
    workers = Failing(8, [3, 4, 5, 6, 7, 0, 1, 2], failing=(3, 4, 5, 6, 7))
    study, _ = searched(tmp_path / "trials.jsonl", workers)
    assert [trial.status for trial in study.trials] == ["ok"] * 3 + ["failed"] * 5
    everything = Failing(8, [4, 3, 2, 1, 0], failing=range(8))
    with pytest.raises(TascnetError, match="first 5 trials all failed"):
        searched(tmp_path / "failed.jsonl", everything)
