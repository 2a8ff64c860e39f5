"""A search on a Ray cluster with one worker is that of this process; see test_rivals for two."""

import importlib.util
import os
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

import tascnet
from tascnet.data import cache as module
from tascnet.errors import ConfigError
from tascnet.execute import Lost, workers
from tascnet.execute.executor import Outcome, Sequential
from tascnet.tuning.remote import train_by
from tascnet.tuning.tails import Tails

pytest.importorskip("ray", reason="Ray is not installed")

# Both ways of fine-tuning are trained side by side.
OWN = {"max_trials": 4, "trials_per_depth": 4, "widths": (0.5, 1.0), "finetune_from": "best"}


def figures(result):
    """All but when and where trials ran."""
    untimed = {"seconds": 0.0, "worker": None, "started": None, "ended": None}
    weights = {name: value.tolist() for name, value in result.network.state_dict().items()}
    curves = {
        name: [(epoch.val_accuracy, epoch.val_loss) for epoch in training.epochs]
        for name, training in result.metrics.trainings.items()
    }
    return [replace(trial, **untimed) for trial in result.trials], result.metrics.winner, curves, weights


def test_one_worker_gives_what_this_process_gives_to_the_last_bit(search, tmp_path, monkeypatch):
    here = search(**OWN, executor=tascnet.Local(cpus=1), name="here", cache=tmp_path / "here-cache")
    passes, features = [], module.shard_features
    monkeypatch.setattr(module, "shard_features", lambda *args: passes.append(args) or features(*args))
    there = search(**OWN, executor=tascnet.Ray(workers=1), name="there", cache=tmp_path / "there-cache")
    assert figures(there) == figures(here)
    cached = [
        {path.name: path.read_bytes() for path in (tmp_path / name / "features").glob("*.npy")}
        for name in ("here-cache", "there-cache")
    ]
    assert len(cached[0]) > 3
    assert cached[1] == cached[0]
    assert passes == []
    assert {trial.worker.endswith(f"/{os.getpid()}") for trial in here.trials} == {True}
    assert {trial.worker.endswith(f"/{os.getpid()}") for trial in there.trials} == {False}


def test_a_trial_that_is_done_again_has_the_threads_of_trials(search, monkeypatch):
    used, train = [], Tails.train

    def counting(self, *args, **options):
        used.append(torch.get_num_threads())
        return train(self, *args, **options)

    monkeypatch.setattr(Tails, "train", counting)
    search(max_trials=2, trials_per_depth=2, finetune_from="all", executor=tascnet.Local(cpus=2))
    assert used == [2, 2, 2]
    assert torch.get_num_threads() == 1


def test_a_cluster_that_cannot_take_part_is_refused_before_anything_is_trained(search, tmp_path, monkeypatch):
    @contextmanager
    def refusing(options):
        raise ConfigError("the node a of the Ray cluster has torch 0.1, here 9")
        yield

    monkeypatch.setattr(workers, "opened", refusing)
    with pytest.raises(ConfigError, match="the node a"):
        search(**OWN, exit=False, executor=tascnet.Ray(workers=1))
    assert not (tmp_path / "run" / "state").exists()


class Losing(Sequential):
    """Loses trial 1 in its last try, half a second after it was sent."""

    def next(self):
        if self._jobs[0][:2] != (1, train_by):
            return super().next()
        time.sleep(0.5)
        self._jobs.popleft()
        return Outcome(key=1, value=Lost(reason="its node has left"), ended=time.time())


def test_a_lost_trial_takes_the_seconds_that_it_took(search, monkeypatch):
    @contextmanager
    def opened(options):
        yield Losing(options.cpus)

    monkeypatch.setattr(workers, "opened", opened)
    found = search(**OWN | {"finetune_from": "prefix"})
    assert [trial.status for trial in found.trials] == ["ok", "lost", "ok", "ok"]
    assert found.trials[1].seconds >= 0.5


def test_gpus_that_no_trial_would_use_are_refused(search):
    with pytest.raises(ConfigError, match=r"a trial takes 0\.5 GPUs .* trained on `cpu`"):
        search(**OWN, executor=tascnet.Ray(gpus=0.5))


def test_a_cluster_that_is_not_there_is_refused_before_anything_is_trained(search, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"no Ray cluster at 127\.0\.0\.1:1 .*executor.address"):
        search(**OWN, executor=tascnet.Ray(address="127.0.0.1:1"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs Ray: pip install 'tascnet\[ray\]'"):
        search(**OWN, executor=tascnet.Ray())
    assert not (tmp_path / "run").exists()
