"""What a search learnt: how its surrogate predicts trials that it has not seen, and from which choices.

Two measures, each named where it is shown. *Leave-one-out*: every trial is predicted from all others in
closed form, with the hyperparameters fitted to all; these have seen the trial, which flatters where trials
are few. *Refitted*: every fifth of the trials is predicted by a surrogate fitted to the other four fifths
alone; this decides whether anything was learnt.

Glossary: `X` are encoded configurations `n x d`, `y` their standardised values `n`, `K` the covariance of
noisy values `n x n`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from tascnet.tuning.encoding import Coding, encode
from tascnet.tuning.goal import Goal
from tascnet.tuning.space import FIRST_TRAINED, Space
from tascnet.tuning.surrogate import Columns, Scale, fit, hyperparameters, quiet, seeded
from tascnet.tuning.trial import Trial

Target: TypeAlias = Literal["val_accuracy", "val_loss"]

# Fewer results than this say nothing about predictions.
_LEAST = 5
_FOLDS = 5
# As the search encodes them.
_CODING: Coding = "onehot"
# Of the standard normal distribution: one-sided, 5 %.
_SIGNIFICANT = 1.645


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the surrogate predicts for a trial from all others, in the unit of the insight's target.

    Args:
        trial: its number.
        observed: its result.
        predicted: mean of the leave-one-out distribution.
        deviation: standard deviation of that distribution, noise included.
    """

    trial: int
    observed: float
    predicted: float
    deviation: float


@dataclass(frozen=True, kw_only=True)
class Importance:
    """How much the predictions lean on a choice.

    Args:
        choice: its name.
        rise: by how much the leave-one-out error rises when the choice's columns are taken out of the
            kernel, in the unit of the insight's target; below 0 where predictions are better without it.
        lengthscale: of its columns, which lie in [0, 1].
    """

    choice: str
    rise: float
    lengthscale: float


@dataclass(frozen=True, kw_only=True)
class Insight:
    """How well the surrogate predicts, and from what.

    Args:
        target: what is predicted: the accuracy (a fraction), or the loss where that is the objective.
        predictions: leave-one-out, one for each trial that succeeded.
        rmse: root of the mean squared leave-one-out error.
        deviation: standard deviation of the results (over n).
        r2: leave-one-out, `1 - rmse² / deviation²`; 0 or less: no better than the mean.
        rank_correlation: Spearman's, of leave-one-out predictions and results; None where undefined.
        refitted_r2: `r2` of predictions by surrogates that were fitted without the fifth predicted.
        refitted_rank_correlation: the same for the rank correlation.
        learnt: whether refitted predictions beat the mean and rank better than chance (5 %, one-sided).
        sentence: the same for a reader.
        importance: of every choice that varied, the largest rise first.
    """

    target: Target
    predictions: tuple[Prediction, ...]
    rmse: float
    deviation: float
    r2: float
    rank_correlation: float | None
    refitted_r2: float
    refitted_rank_correlation: float | None
    learnt: bool
    sentence: str
    importance: tuple[Importance, ...]


def explain(space: Space, trials: Sequence[Trial], goal: Goal) -> Insight | None:
    """What the surrogate of the search learnt from the trials that succeeded.

    Args:
        space: the search space.
        trials: of a search; those that failed, were stopped or not trained are passed over.
        goal: names the objective.

    Returns:
        None for fewer than five such trials, or when all have the same result.

    Source: Rasmussen and Williams 2006, section 5.4.2 (leave-one-out).
    """
    is_loss = goal.objective == "loss"
    ok = {t.trial: t for t in trials if t.status == "ok" and t.value is not None}
    # A trial's value is minus the loss where that is the objective.
    results = {number: (-1.0 if is_loss else 1.0) * (t.value or 0.0) for number, t in ok.items()}
    if len(results) < _LEAST or len(set(results.values())) < 2:
        return None
    data = _Data.of(space, [trial.config for trial in ok.values()], list(results.values()))
    surrogate = _Surrogate.of(data)
    predicted, deviations = surrogate.leave_one_out()
    r2, correlation = _agreement(predicted, data.results)
    refitted_r2, refitted_correlation = _agreement(_refitted(data), data.results)
    learnt, sentence = _verdict(refitted_r2, refitted_correlation, len(results))
    rows = zip(results.items(), predicted.tolist(), deviations.tolist(), strict=True)
    return Insight(
        target="val_loss" if is_loss else "val_accuracy",
        predictions=tuple(
            Prediction(trial=trial, observed=result, predicted=mean, deviation=sd)
            for (trial, result), mean, sd in rows
        ),
        rmse=_rmse(predicted, data.results),
        deviation=float(data.results.std(correction=0)),
        r2=r2,
        rank_correlation=correlation,
        refitted_r2=refitted_r2,
        refitted_rank_correlation=refitted_correlation,
        learnt=learnt,
        sentence=sentence,
        importance=_importance(surrogate),
    )


def leave_one_out(K: Tensor, residuals: Tensor) -> tuple[Tensor, Tensor]:
    """Each value's distribution given all others, under fixed hyperparameters.

    Args:
        K: `n x n` covariance of the values, noise included.
        residuals: `n` values less their prior mean.

    Returns:
        Means `n` (less the prior mean) and variances `n`.

    Source: Rasmussen and Williams 2006, equation 5.12.
    """
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(K))
    return residuals - (inverse @ residuals) / inverse.diagonal(), 1 / inverse.diagonal()


def rank_correlation(a: Tensor, b: Tensor) -> float | None:
    """Spearman's correlation of two samples `n`, ties at their mean rank; None where one is constant."""
    ranks = [_ranks(values) - _ranks(values).mean() for values in (a, b)]
    norm = float(ranks[0].norm() * ranks[1].norm())
    return float(ranks[0] @ ranks[1]) / norm if norm > 0 else None


@dataclass(frozen=True, kw_only=True)
class _Data:
    """Encoded configurations `n x d`, what their columns are, and results `n`."""

    X: Tensor
    columns: Columns
    results: Tensor

    @classmethod
    def of(cls, space: Space, configs: Sequence[Mapping[str, Any]], results: Sequence[float]) -> "_Data":
        depth = max(int(config[FIRST_TRAINED]) for config in configs)
        return cls(
            X=encode(space, configs, depth, _CODING),
            columns=Columns.of(space, depth, _CODING),
            results=torch.tensor(results, dtype=torch.float64),
        )

    def part(self, chosen: Tensor) -> "_Data":
        """The points where `chosen` is true."""
        return replace(self, X=self.X[chosen], results=self.results[chosen])


@dataclass(frozen=True, kw_only=True)
class _Surrogate:
    """The process that the search fits, of standardised results, and its data."""

    data: _Data
    scale: Scale
    model: Any

    @classmethod
    def of(cls, data: _Data) -> "_Surrogate":
        scale = Scale.of(data.results.tolist())
        with seeded(0), quiet():
            model = fit(data.X, scale(data.results.tolist()), data.columns)
        return cls(data=data, scale=scale, model=model)

    @torch.no_grad()
    def leave_one_out(self, without: str | None = None) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each result given all others; `without` a choice's columns."""
        X = self.data.X.clone()
        # A kernel of distances does not see columns in which all points agree.
        X[:, [i for i, name in enumerate(self.data.columns.choices) if name == without]] = 0.0
        means, variances = leave_one_out(self._covariance(X), self._residuals)
        return self._unscaled(means), self.scale.deviation * variances.sqrt()

    @torch.no_grad()
    def predict(self, X: Tensor) -> Tensor:
        """Mean results `m` of new points `m x d`."""
        across = self.model.covar_module(X, self.data.X).to_dense()
        return self._unscaled(across @ torch.linalg.solve(self._covariance(self.data.X), self._residuals))

    @property
    def _prior(self) -> float:
        return self.model.mean_module.constant.item()

    @property
    def _residuals(self) -> Tensor:
        return self.scale(self.data.results.tolist()).squeeze(-1) - self._prior

    def _covariance(self, X: Tensor) -> Tensor:
        noise = self.model.likelihood.noise * torch.eye(len(X), dtype=X.dtype)
        return self.model.covar_module(X).to_dense() + noise

    def _unscaled(self, means: Tensor) -> Tensor:
        return self.scale.mean + self.scale.deviation * (means + self._prior)


def _refitted(data: _Data) -> Tensor:
    """Each result predicted by a surrogate that was fitted without its fifth of the trials."""
    predicted = torch.empty_like(data.results)
    fold = torch.arange(len(data.results)) % _FOLDS
    for i in range(_FOLDS):
        predicted[fold == i] = _Surrogate.of(data.part(fold != i)).predict(data.X[fold == i])
    return predicted


def _agreement(predicted: Tensor, results: Tensor) -> tuple[float, float | None]:
    """R², and the rank correlation."""
    r2 = 1 - _rmse(predicted, results) ** 2 / float(results.var(correction=0))
    return r2, rank_correlation(predicted, results)


def _rmse(predicted: Tensor, results: Tensor) -> float:
    return float((predicted - results).square().mean().sqrt())


def _verdict(r2: float, correlation: float | None, n: int) -> tuple[bool, str]:
    """Whether something was learnt, and the sentence that says it."""
    # Under chance a rank correlation has the deviation 1 / sqrt(n - 1).
    is_chance = correlation is None or correlation * math.sqrt(n - 1) < _SIGNIFICANT
    if r2 <= 0 or is_chance:
        how = (
            "no better than the mean of the trials"
            if r2 <= 0
            else "the order of the trials no better than chance"
        )
        return False, f"The surrogate predicts {how}: treat the choice of the winner as random search."
    share = f"{100 * r2:.0f} % of the variance of trials that it was not fitted to"
    return True, f"The surrogate explains {share} (rank correlation {correlation:.2f})."


def _importance(surrogate: _Surrogate) -> tuple[Importance, ...]:
    """Of every choice that varied, the largest rise first."""
    data = surrogate.data
    varied = {
        name for name, column in zip(data.columns.choices, data.X.T, strict=True) if len(column.unique()) > 1
    }
    fitted = hyperparameters(surrogate.model, data.columns)
    assert fitted is not None, "the search's own kernel has lengthscales"
    full = _rmse(surrogate.leave_one_out()[0], data.results)
    found = [
        Importance(
            choice=name,
            rise=_rmse(surrogate.leave_one_out(without=name)[0], data.results) - full,
            lengthscale=fitted["lengthscales"][name],
        )
        for name in data.columns.names
        if name in varied
    ]
    return tuple(sorted(found, key=lambda importance: -importance.rise))


def _ranks(values: Tensor) -> Tensor:
    below = (values[None, :] < values[:, None]).sum(dim=1)
    equal = (values[None, :] == values[:, None]).sum(dim=1)
    return below + (equal + 1) / 2.0
