"""The command line in this process, tiny runs, and what two runs must have in common."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tascnet
from tascnet.cli.main import main
from tascnet.run.console import log
from tascnet.run.files import digest_file
from tests.reading import read_json

# The embedded digits with so little of everything that both stages take seconds; two of the four trials come
# from the surrogate. All are of one depth: the search begins at the deepest, since every end is useful.
TINY = (
    "tune.initial_trials=2",
    "tune.trials_per_depth=4",
    "tune.patience=3",
    "tune.max_trials=4",
    "trainer.head.epochs=3",
    "trainer.trial.epochs=2",
    "trainer.finetune.epochs=2",
    "prune.epochs=4",
    "prune.pruning_ratio=0.08",
    "prune.min_filters=16",
    "prune.round_to=4",
    "prune.max_pruning_ratio=0.25",
    "prune.max_iterations=2",
    "prune.tolerance=1",
    "measure.batch=2",
    "measure.repeats=3",
    "measure.runtimes=[eager]",
    "export=none",
)
# Files that a finished run changes when it is started again, since it measures latencies again, and the card,
# which no two runs have alike.
UNSTABLE = ("log.txt", "models.svg", "README.md")
WHOLE_STORY = "report.html"


def command(*arguments: object) -> int:
    """The exit code of `python -m tascnet <arguments>`; the logger is left as it was."""
    handlers, level = list(log.handlers), log.level
    try:
        return main([str(argument) for argument in arguments])
    finally:
        log.handlers[:] = handlers
        log.setLevel(level)


def without_times(content: Any) -> Any:
    """JSON content without what the clock and the machine's load decide, and without its digests."""
    if isinstance(content, dict):
        return {
            key: without_times(value)
            for key, value in content.items()
            if key not in ("seconds", "worker", "started", "ended", "digest", "check")
            and not key.startswith("latency")
        }
    return [without_times(item) for item in content] if isinstance(content, list) else content


def metrics(folder: Path) -> Any:
    """A stage's metrics, but for times."""
    return without_times(read_json(folder / "metrics.json"))


def contents(folder: Path) -> dict[str, str]:
    """A digest of each file below a folder but for the log and what shows latencies."""
    return {str(path.relative_to(folder)): digest_file(path) for path in _files(folder)}


def _files(folder: Path) -> Iterator[Path]:
    own = (path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / WHOLE_STORY)
    return (path for path in own if path.name not in UNSTABLE)


def states(folder: Path) -> dict[str, Tensor]:
    """The weights of a saved model."""
    return tascnet.load(folder).state_dict()


def are_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two networks have the same weights to the last bit."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
