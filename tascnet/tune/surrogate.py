"""The Gaussian process that learns from trials, and the proposals it makes.

The acquisition function is climbed over canonical neighbours from many starts, so that no space is
ever enumerated and no point is proposed twice.

Glossary: `X` are encoded configurations `n x d`, `Y` their standardised values `n x 1`.
"""

import heapq
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from tascnet.tune.encoding import Coding, categorical_columns, encode
from tascnet.tune.space import FIRST_TRAINED, Configuration, Key, Space

with warnings.catch_warnings():
    # gpytorch's own use of a deprecated decorator: nothing that a user could mend.
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
    from botorch.acquisition.logei import qLogNoisyExpectedImprovement
    from botorch.exceptions.errors import ModelFittingError
    from botorch.exceptions.warnings import BotorchWarning
    from botorch.fit import fit_gpytorch_mll
    from botorch.models.gp_regression import SingleTaskGP
    from botorch.models.gp_regression_mixed import MixedSingleTaskGP
    from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior
    from botorch.sampling.normal import SobolQMCNormalSampler
    from gpytorch.mlls import ExactMarginalLogLikelihood
    from linear_operator.utils.warnings import NumericalWarning

__all__ = ["Kernel", "propose", "standardise"]

log = logging.getLogger("tascnet")

Kernel: TypeAlias = Literal["matern", "rbf", "mixed"]
Observation: TypeAlias = tuple[Mapping[str, Any], float | None]

# Quasi-random samples of the posterior in the acquisition function.
_SAMPLES = 128
# The fit ends after these steps, or when a step gains less than this share of the likelihood.
_FIT_STEPS = 200
_FIT_TOLERANCE = 1e-7
# Starts of the climb, chosen among quasi-random configurations and the neighbours of the best ones.
_STARTS = 6
_POOL = 256
_BEST = 3
_STEPS = 20


def propose(
    space: Space,
    k: int,
    observed: Sequence[Observation],
    pending: Sequence[Mapping[str, Any]],
    n: int,
    seed: int,
    *,
    kernel: Kernel = "matern",
    coding: Coding = "onehot",
) -> list[Configuration]:
    """New configurations of depth `k`: a pure function of its arguments.

    A Gaussian process (float64, inputs in [0, 1], standardised outputs) is fitted to what is observed;
    noisy log expected improvement, with pending points taken into account, picks one after the other.
    Before two different values are known the points are quasi-random. The default kernel and coding are the
    benchmark `surrogate`'s choice: no other is reliably better on new accuracies, and `mixed` takes three
    times as long.

    Args:
        space: the search space.
        k: depth.
        observed: configurations and their values, larger is better; None: failed, taken as the worst value.
        pending: configurations that are being evaluated.
        n: how many.
        seed: of everything random.
        kernel: `matern` 5/2 or `rbf` with a lengthscale for each column, or `mixed`, which compares
            categories by equality and wants `coding="index"`.
        coding: how categories become columns.

    Returns:
        Up to `n` configurations, none of them observed or pending; fewer when no more are left.

    Source: Ament et al. 2023 (log expected improvement); Hvarfner et al. 2024 (priors).
    """
    known = [*(config for config, _ in observed), *pending]
    if len({value for _, value in observed if value is not None}) < 2:
        return space.sample(n, k, seed, exclude=known)
    with _seeded(seed), _quiet():
        return _propose(_Problem(space, k, observed, pending, coding), n, seed, kernel)


def standardise(values: Sequence[float | None]) -> Tensor:
    """Values of mean 0 and deviation 1, failures at the worst value seen.

    Args:
        values: `n` numbers, at least one of which is not None.

    Returns:
        `n x 1` float64.
    """
    worst = min(value for value in values if value is not None)
    filled = torch.tensor([worst if v is None else v for v in values], dtype=torch.float64)
    deviation = filled.std() if len(filled) > 1 else filled.new_zeros(())
    return ((filled - filled.mean()) / (deviation if deviation > 0 else 1.0)).unsqueeze(-1)


@dataclass(frozen=True)
class _Problem:
    """What is known when a proposal is made."""

    space: Space
    k: int
    observed: Sequence[Observation]
    pending: Sequence[Mapping[str, Any]]
    coding: Coding

    @cached_property
    def deepest(self) -> int:
        """The depth at which everything known can be encoded."""
        known = [*(config for config, _ in self.observed), *self.pending]
        return max([self.k, *(int(config[FIRST_TRAINED]) for config in known)])

    def points(self, configs: Sequence[Mapping[str, Any]]) -> Tensor:
        canonical = [self.space.canonical(config) for config in configs]
        return encode(self.space, canonical, self.deepest, self.coding)


def _propose(problem: _Problem, n: int, seed: int, kernel: Kernel) -> list[Configuration]:
    model, X = _fit(problem, kernel)
    chosen: list[Configuration] = []
    for i in range(n):
        busy = [*problem.pending, *chosen]
        acquisition = qLogNoisyExpectedImprovement(
            model,
            X,
            SobolQMCNormalSampler(torch.Size([_SAMPLES]), seed=seed + i),
            X_pending=problem.points(busy) if busy else None,
        )
        found = _climb(problem, busy, _Values(problem, acquisition), seed + i)
        if found is None:
            break
        chosen.append(found)
    return chosen


def _fit(problem: _Problem, kernel: Kernel) -> tuple[SingleTaskGP, Tensor]:
    """The fitted process, at its prior's mode where fitting fails, and its inputs `n x d`."""
    X = problem.points([config for config, _ in problem.observed])
    Y = standardise([value for _, value in problem.observed])
    model = _build_model(problem, X, Y, kernel)
    try:
        fit_gpytorch_mll(
            ExactMarginalLogLikelihood(model.likelihood, model),
            optimizer_kwargs={"options": {"maxiter": _FIT_STEPS, "ftol": _FIT_TOLERANCE}},
        )
    except ModelFittingError:
        log.warning("the surrogate could not be fitted; it proposes from its prior")
        model = _build_model(problem, X, Y, kernel)
    model.eval()
    return model, X


def _build_model(problem: _Problem, X: Tensor, Y: Tensor, kernel: Kernel) -> SingleTaskGP:
    categories = categorical_columns(problem.space, problem.deepest, problem.coding)
    if kernel == "mixed" and categories:
        return MixedSingleTaskGP(X, Y, cat_dims=categories, outcome_transform=None)
    covariance = get_covar_module_with_dim_scaled_prior(
        ard_num_dims=X.shape[-1], use_rbf_kernel=kernel == "rbf"
    )
    return SingleTaskGP(X, Y, covar_module=covariance, outcome_transform=None)


class _Values:
    """Acquisition values of configurations, each computed once."""

    def __init__(self, problem: _Problem, acquisition: Callable[[Tensor], Tensor]) -> None:
        self._problem = problem
        self._acquisition = acquisition
        self.known: dict[Key, tuple[float, Configuration]] = {}

    def __call__(self, configs: Sequence[Configuration]) -> list[float]:
        keys = [self._problem.space.key(config) for config in configs]
        new = {key: c for key, c in zip(keys, configs, strict=True) if key not in self.known}
        if new:
            with torch.no_grad():
                values = self._acquisition(self._problem.points(list(new.values())).unsqueeze(1)).tolist()
            clean = [value if math.isfinite(value) else -math.inf for value in values]
            self.known |= {key: (v, c) for v, (key, c) in zip(clean, new.items(), strict=True)}
        return [self.known[key][0] for key in keys]

    def best(self) -> Configuration | None:
        """The first of the configurations with the highest value."""
        return max(self.known.values(), key=lambda entry: entry[0])[1] if self.known else None


def _climb(
    problem: _Problem, busy: Sequence[Mapping[str, Any]], values: _Values, seed: int
) -> Configuration | None:
    """The best new configuration found from the most promising starts; None when none is left."""
    space, k = problem.space, problem.k
    known = [*(config for config, _ in problem.observed), *busy]
    seen = {space.key(config) for config in known}

    def fresh(configs: Sequence[Configuration]) -> list[Configuration]:
        return [c for c in configs if int(c[FIRST_TRAINED]) in space.firsts(k) and space.key(c) not in seen]

    pool = fresh(_pool(problem, seed))
    if not pool:
        return next(space.frontier(known, k), None)
    ranked = sorted(zip(values(pool), range(len(pool)), strict=True), key=lambda pair: -pair[0])
    front = [pool[i] for _, i in ranked[:_STARTS]]
    for _ in range(_STEPS):
        around = [[c, *fresh(space.neighbours(c, k))] for c in front]
        values([c for configs in around for c in configs])
        moved = [max(configs, key=lambda c: values([c])[0]) for configs in around]
        if moved == front:
            break
        front = moved
    return values.best()


def _pool(problem: _Problem, seed: int) -> list[Configuration]:
    """Where a climb may start: around the best, at the pre-trained settings, anywhere."""
    space, k = problem.space, problem.k
    good = [(value, -i) for i, (_, value) in enumerate(problem.observed) if value is not None]
    best = [problem.observed[-i][0] for _, i in heapq.nlargest(_BEST, good)]
    near = [near for config in best for near in space.neighbours(config, k)]
    return [*near, *(space.neutral(f) for f in space.firsts(k)), *space.sample(_POOL, k, seed)]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the CPU's generator, which BoTorch draws from, and put it back."""
    state = torch.random.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        torch.random.set_rng_state(state)


@contextmanager
def _quiet() -> Iterator[None]:
    """Numerical remarks that the fit handles itself are no news to a user."""
    with warnings.catch_warnings():
        for kind in (BotorchWarning, NumericalWarning):
            warnings.simplefilter("ignore", kind)
        yield
