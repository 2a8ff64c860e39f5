"""What searches a table of configurations: our own study, and designs."""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, Protocol

from benchmarks.table import Entry, Table
from tascnet.tuning import Configuration, Goal, Limits, Study, next_depth

# Quasi-random trials before the surrogate proposes, as by default in `tascnet.Tune`.
INITIAL = 6


class Searcher(Protocol):
    """Something that proposes one configuration after the other and learns from what each gave."""

    def ask(self) -> Configuration:
        """The next configuration, canonical; it may be one that was asked for before."""

    def tell(self, config: Configuration, entry: Entry) -> None:
        """What the last configuration gave."""


# Of a table, a seed, the number of trials and an empty folder.
Start = Callable[[Table, int, int, Path], Searcher]


def explore(
    start: Callable[[Path], Searcher], table: Table, trials: int
) -> Iterator[tuple[Configuration, Entry, float]]:
    """The configurations that a searcher asks for in turn, what each gives, and the seconds to suggest it."""
    with TemporaryDirectory() as folder:
        searcher = start(Path(folder))
        for _ in range(trials):
            started = time.perf_counter()
            config = searcher.ask()
            seconds = time.perf_counter() - started
            entry = table[config]
            searcher.tell(config, entry)
            yield config, entry, seconds


class Ours:
    """The search of stage `tune`, on the whole space from its first trial on unless `limits` let it grow."""

    def __init__(
        self, table: Table, seed: int, folder: Path, goal: Goal | None = None, limits: Limits | None = None
    ) -> None:
        self.goal, self.limits = goal or Goal(), limits
        self.study = Study(folder / "trials.jsonl", table.space, seed=seed, goal=self.goal)

    @classmethod
    def growing(cls, table: Table, seed: int, trials: int, folder: Path) -> "Ours":
        """Depth grows from 1, with as many trials at each depth, and does not stop early."""
        deepest = table.space.depth
        each, patience = math.ceil(trials / deepest), deepest + 1
        limits = Limits(trials_per_depth=each, max_units=deepest, max_trials=trials, patience=patience)
        return cls(table, seed, folder, limits=limits)

    def ask(self) -> Configuration:
        depth: int | None = self.study.space.depth
        if self.limits is not None:
            depth = next_depth(self.study.trials, self.study.space, self.limits).depth
        assert depth is not None, "the limits allow as many trials as are asked for"
        (self._proposal,) = self.study.ask(depth, 1, initial_trials=INITIAL)
        return self._proposal.config

    def tell(self, config: Configuration, entry: Entry) -> None:
        figures = {name: getattr(entry, name) for name in ("val_accuracy", "val_loss", "params", "flops")}
        value = self.goal.value(entry.val_accuracy, entry.val_loss)
        self.study.tell(self._proposal.came("ok", value=value, **figures))


class Design:
    """Configurations that are fixed beforehand."""

    def __init__(self, configs: Sequence[Configuration]) -> None:
        self._left = iter(configs)

    @classmethod
    def drawn(cls, table: Table, seed: int, trials: int, method: Literal["random", "sobol"]) -> "Design":
        """Independent draws of every choice as with `algorithm=random`, or a scrambled Sobol sequence."""
        return cls(table.space.sample(trials, table.space.depth, seed, method=method))

    @classmethod
    def uniform(cls, table: Table, seed: int, trials: int) -> "Design":
        """Every network of the table equally likely: few of them train only the head."""
        return cls(random.Random(seed).sample(table.configs, min(trials, len(table.configs))))

    def ask(self) -> Configuration:
        return next(self._left)

    def tell(self, config: Configuration, entry: Entry) -> None:
        """A design learns nothing."""
