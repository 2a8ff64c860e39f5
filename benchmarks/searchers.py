"""What searches a table of configurations: our own study, a plain Gaussian process, and designs."""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple, Protocol

import torch

from benchmarks.table import Entry, Table
from tascnet.tuning import Configuration, Cost, Goal, Limits, Study, next_depth
from tascnet.tuning.encoding import encode
from tascnet.tuning.goal import least_to_win
from tascnet.tuning.promotion import curves, is_promising, is_rung
from tascnet.tuning.surrogate import quiet, seeded

# Quasi-random trials before the surrogate proposes, as by default in `tascnet.Tune`.
INITIAL = 4
# Random rows before the plain Gaussian process proposes.
RANDOM = 6


class Searcher(Protocol):
    """Something that proposes one configuration after the other and learns from what each gave."""

    def ask(self) -> Configuration:
        """The next configuration, canonical; it may be one that was asked for before."""

    def tell(self, config: Configuration, entry: Entry) -> int | None:
        """What the last configuration gives; returns the epoch after which it is stopped, None if never."""


class Seen(NamedTuple):
    """A configuration that a searcher asked for, what it gives, and the seconds to suggest it.

    It was stopped after epoch `stopped`; None: it was trained to its end.
    """

    config: Configuration
    entry: Entry
    seconds: float
    stopped: int | None


# Of a table, a seed, the number of trials and an empty folder.
Start = Callable[[Table, int, int, Path], Searcher]


def explore(start: Callable[[Path], Searcher], table: Table, trials: int) -> Iterator[Seen]:
    """What a searcher asks for in turn."""
    with TemporaryDirectory() as folder:
        searcher = start(Path(folder))
        for _ in range(trials):
            started = time.perf_counter()
            config = searcher.ask()
            seconds = time.perf_counter() - started
            entry = table[config]
            yield Seen(config, entry, seconds, searcher.tell(config, entry))


class Ours:
    """The search of stage `tune`, on the whole space from its first trial on unless `limits` let it grow.

    With `promote` trials are stopped as in stage `tune`, where the highest accuracy wins.
    """

    def __init__(
        self,
        table: Table,
        seed: int,
        folder: Path,
        goal: Goal | None = None,
        limits: Limits | None = None,
        *,
        promote: bool = False,
    ) -> None:
        self.goal, self.limits, self.promote = goal or Goal(), limits, promote
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

    def tell(self, config: Configuration, entry: Entry) -> int | None:
        figures = {name: getattr(entry, name) for name in ("val_accuracy", "val_loss", "params", "flops")}
        stopped = self._stopped(entry) if self.promote else None
        if stopped is not None:
            figures["val_accuracy"] = max(entry.curve[:stopped])
        value = self.goal.value(figures["val_accuracy"], entry.val_loss)
        status = "ok" if stopped is None else "stopped"
        self.study.tell(self._proposal.came(status, value=value, curve=entry.curve[:stopped], **figures))
        return stopped

    def _stopped(self, entry: Entry) -> int | None:
        """The epoch after which a trial is stopped; None: it is trained to its end."""
        trials = self.study.trials
        finished, cost = curves(trials), Cost(params=entry.params, flops=entry.flops)
        needed = least_to_win(trials, self.goal, cost, n_val=1, tolerance=0.0)
        rungs = filter(is_rung, range(1, len(entry.curve)))
        return next((n for n in rungs if not is_promising(entry.curve[:n], finished, needed)), None)


class PlainGP:
    """BoTorch's SingleTaskGP as it is, with log expected improvement over all rows of the table.

    It knows every row, which in a real search nothing does: the mark to beat. The first rows are random.
    """

    def __init__(self, table: Table, seed: int) -> None:
        self._configs, self._seed = table.configs, seed
        self._X = encode(table.space, table.configs, table.space.depth)
        self._first = random.Random(seed).sample(range(len(table.configs)), RANDOM)
        self._rows: list[int] = []
        self._values: list[float] = []

    def ask(self) -> Configuration:
        known = len(self._rows)
        self._rows.append(self._first[known] if known < RANDOM else self._best())
        return self._configs[self._rows[-1]]

    def tell(self, config: Configuration, entry: Entry) -> None:
        self._values.append(entry.val_accuracy)

    def _best(self) -> int:
        """The row of the highest acquisition value that was not taken."""
        from botorch.acquisition.analytic import LogExpectedImprovement
        from botorch.fit import fit_gpytorch_mll
        from botorch.models.gp_regression import SingleTaskGP
        from gpytorch.mlls import ExactMarginalLogLikelihood

        values = torch.tensor(self._values, dtype=torch.float64).unsqueeze(-1)
        with seeded(self._seed), quiet():
            model = SingleTaskGP(self._X[self._rows], values)
            fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
            with torch.no_grad():
                gains = LogExpectedImprovement(model, best_f=values.max())(self._X.unsqueeze(1))
        gains[self._rows] = -math.inf
        return int(gains.argmax())


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
