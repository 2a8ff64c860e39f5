"""What searches a table of configurations: our own study, designs, and a plain Gaussian process."""

import math
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch

from tascnet.tuning import Configuration, Goal, Limits, Study, Trial, encode, next_depth

from .table import Entry, Table

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
    from botorch.acquisition.analytic import LogExpectedImprovement
    from botorch.exceptions.warnings import BotorchWarning
    from botorch.fit import fit_gpytorch_mll
    from botorch.models.gp_regression import SingleTaskGP
    from gpytorch.mlls import ExactMarginalLogLikelihood
    from linear_operator.utils.warnings import NumericalWarning

# Quasi-random trials before the surrogate proposes, as in `tune.initial_trials`.
INITIAL = 6


class Searcher(Protocol):
    """Something that is asked for one configuration after the other and told what each gave."""

    def ask(self) -> Configuration:
        """The next configuration, canonical; it may be one that was asked for before."""

    def tell(self, config: Configuration, entry: Entry) -> None:
        """What the last configuration gave."""


# Of a table, a seed, the number of trials and an empty folder.
Start = Callable[[Table, int, int, Path], Searcher]


class Ours:
    """The search of stage `tune`.

    Args:
        table: gives the space.
        seed: of all proposals.
        folder: of the journal.
        goal: what is sought.
        limits: how depth grows; None: the whole space from the first trial on.
    """

    def __init__(
        self, table: Table, seed: int, folder: Path, goal: Goal | None = None, limits: Limits | None = None
    ) -> None:
        self.goal = goal or Goal()
        self.limits = limits
        self.study = Study(folder / "trials.jsonl", table.space, seed=seed, goal=self.goal)

    @classmethod
    def growing(cls, table: Table, seed: int, trials: int, folder: Path) -> "Ours":
        """Depth grows from 1, with as many trials at each depth, and does not stop early."""
        deepest = table.space.depth
        limits = Limits(
            trials_per_depth=math.ceil(trials / deepest),
            max_units=deepest,
            max_trials=trials,
            patience=deepest + 1,
        )
        return cls(table, seed, folder, limits=limits)

    def ask(self) -> Configuration:
        space = self.study.space
        depth = space.depth
        if self.limits is not None:
            advice = next_depth(self.study.trials, space, self.limits)
            assert advice.depth is not None, advice.reason
            depth = advice.depth
        (self._proposal,) = self.study.ask(depth, 1, initial_trials=INITIAL)
        return self._proposal.config

    def tell(self, config: Configuration, entry: Entry) -> None:
        trial = Trial(
            trial=self._proposal.trial,
            depth=self._proposal.depth,
            config=config,
            status="ok",
            value=self.goal.value(entry.val_accuracy, entry.val_loss),
            val_accuracy=entry.val_accuracy,
            val_loss=entry.val_loss,
            params=entry.params,
            flops=entry.flops,
            surrogate=self._proposal.surrogate,
        )
        self.study.tell(trial)


class Design:
    """Configurations that are fixed beforehand."""

    def __init__(self, configs: Sequence[Configuration]) -> None:
        self._left = iter(configs)

    def ask(self) -> Configuration:
        return next(self._left)

    def tell(self, config: Configuration, entry: Entry) -> None:
        """A design learns nothing."""


def random_design(table: Table, seed: int, trials: int) -> Design:
    """Independent draws of every choice, as `tune.algorithm=random` makes them."""
    return Design(table.space.sample(trials, table.space.depth, seed, method="random"))


def sobol_design(table: Table, seed: int, trials: int) -> Design:
    """A scrambled Sobol sequence over the choices."""
    return Design(table.space.sample(trials, table.space.depth, seed, method="sobol"))


def uniform_design(table: Table, seed: int, trials: int) -> Design:
    """Every network of the table equally likely: few of them train only the head."""
    return Design(random.Random(seed).sample(table.configs, min(trials, len(table.configs))))


class Enumerated:
    """A plain BoTorch process on one-hot columns, and the highest log expected improvement of all rows."""

    def __init__(self, table: Table, seed: int) -> None:
        self._table, self._seed = table, seed
        self._points = encode(table.space, table.configs, table.space.depth)
        self._at = {table.space.key(config): i for i, config in enumerate(table.configs)}
        self._initial = table.space.sample(INITIAL, table.space.depth, seed)
        self._seen: list[int] = []
        self._values: list[float] = []

    def ask(self) -> Configuration:
        if len(self._seen) < INITIAL:
            return self._initial[len(self._seen)]
        with torch.random.fork_rng([]), quiet():
            torch.manual_seed(self._seed)
            return self._table.configs[self._best_row()]

    def tell(self, config: Configuration, entry: Entry) -> None:
        self._seen.append(self._at[self._table.space.key(config)])
        self._values.append(entry.val_accuracy)

    def _best_row(self) -> int:
        Y = torch.tensor(self._values, dtype=torch.float64).unsqueeze(-1)
        model = SingleTaskGP(self._points[self._seen], (Y - Y.mean()) / Y.std(), outcome_transform=None)
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        acquisition = LogExpectedImprovement(model, best_f=((Y.max() - Y.mean()) / Y.std()))
        with torch.no_grad():
            values = acquisition(self._points.unsqueeze(1))
        values[self._seen] = -math.inf
        return int(values.argmax())


@contextmanager
def quiet() -> Iterator[None]:
    """Numerical remarks that a fit handles itself are left out."""
    with warnings.catch_warnings():
        for kind in (BotorchWarning, NumericalWarning):
            warnings.simplefilter("ignore", kind)
        yield
