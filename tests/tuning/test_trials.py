import io
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from torch import nn

from tascnet.run.records import EpochRecord, TrainingRecord, Trial
from tascnet.tuning import Goal
from tascnet.tuning.proposal import Proposal
from tascnet.tuning.trials import best_trials, finished, prepare, train


def made(number, accuracy, status="ok"):
    reason = None if status == "ok" else "no winner"
    return Trial(
        trial=number,
        depth=1,
        config={},
        status=status,
        value=accuracy,
        reason=reason,
        val_accuracy=accuracy,
        val_balanced_accuracy=accuracy / 2,
        val_loss=1.0,
        curve=(accuracy,),
        params=2_500_000,
        flops=98_000_000,
        seconds=33.4,
        epochs=1,
    )


def shown(metric):
    accuracies = [0.5, 0.625, 0.25, 0.75, 0.125, 0.375]
    trials = [made(number, accuracy) for number, accuracy in enumerate(accuracies)]
    failed = Trial(trial=7, depth=1, config={}, status="failed", reason="out of memory")
    study = SimpleNamespace(
        trials=[*trials, made(6, 0.99, "stopped"), failed], goal=SimpleNamespace(metric=metric)
    )
    written = io.StringIO()
    Console(width=100, file=written).print(best_trials(study))
    return [line.split() for line in written.getvalue().splitlines() if line.strip()]


def test_the_best_five_of_the_finished_trials_stand_first_to_last():
    title, *lines = shown("accuracy")
    assert " ".join(title) == "best of 8 trials"
    rows = [line for line in lines if line[0].isdigit()]
    assert [row[0] for row in rows] == ["3", "1", "0", "5", "2"]
    assert [row[2] for row in rows] == ["75.00", "62.50", "50.00", "37.50", "25.00"]
    assert rows[0][3:] == ["2.5", "98", "33"]


def test_they_show_the_metric_of_the_search():
    assert next(line for line in shown("balanced_accuracy") if line[0] == "3")[2] == "37.50"


@pytest.mark.parametrize(("before", "status"), [(0.74, "ok"), (0.73, "stopped")])
def test_a_network_that_is_good_enough_before_its_training_is_not_lost(before, status):
    """The best has 0.76, its tolerance is 0.02, and this network has fewer parameters."""
    epochs = [
        EpochRecord(
            epoch=number,
            train_loss=1.0,
            val_loss=1.0,
            val_accuracy=0.5,
            val_balanced_accuracy=0.5,
            seconds=0.0,
        )
        for number in (1, 2, 3)
    ]
    training = TrainingRecord(
        val_accuracy=before,
        val_balanced_accuracy=before,
        val_loss=1.0,
        best_epoch=0,
        seconds=0.0,
        epochs=tuple(epochs),
    )

    class Tails:
        chain = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        learner = SimpleNamespace(
            samples=SimpleNamespace(example=torch.zeros(1, 4)),
            device=torch.device("cpu"),
            val_samples=lambda: 100.0,
        )

        def train(self, candidate, description, *, stop):
            assert [count for count in range(4) if stop(epochs[:count])] == [3]
            return self.chain, training

    # Nothing is gained after the third epoch.
    done = [replace(made(number, 0.76), curve=(0.76,) * 4) for number in range(3)]
    study = SimpleNamespace(trials=done, goal=Goal(), best=lambda: done[0], seen_by=lambda _: done)
    build = lambda config: SimpleNamespace(cut=0, tail=Tails.chain)  # noqa: E731
    proposal, tails = Proposal(trial=3, depth=1, config={"first_trained": 1}), Tails()
    task = prepare(proposal, study, tails, build, None, promote=True, tolerance=0.02)
    found = finished(proposal, study, train(task, tails), seconds=1.0)
    assert (found.status, found.value, found.epochs) == (status, before, 3)
    assert found.reason
