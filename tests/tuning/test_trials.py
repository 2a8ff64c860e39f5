import io
from types import SimpleNamespace

from rich.console import Console

from tascnet.run.records import Trial
from tascnet.tuning.trials import best_trials


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
