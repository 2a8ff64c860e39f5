"""What a search learnt: how well its surrogate predicts trials that it has not seen, and from which choices.

Two measures, each named where it is shown. *Leave-one-out*: every trial is predicted from all others in
closed form, with the hyperparameters fitted to all; these have seen the trial, which is too optimistic where
trials are few. *Refitted*: every fifth of the trials is predicted by a surrogate fitted to the other four
fifths alone; this decides whether anything was learnt.

Glossary: `X` are encoded configurations `n x d`, `y` their standardised values `n`, `K` the covariance of
noisy values `n x n`.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tascnet.run.records import Importance, Insight, Prediction, Trial
from tascnet.tuning.encoding import columns, encode
from tascnet.tuning.goal import Goal
from tascnet.tuning.space import FIRST_TRAINED, Space
from tascnet.tuning.surrogate import Standardiser, fit, hyperparameters, quiet, seeded

# Predictions of fewer results cannot be judged.
_LEAST = 5
_FOLDS = 5
# Of the standard normal distribution: one-sided, 5 %.
_SIGNIFICANT = 1.645


def explain(space: Space, trials: Sequence[Trial], goal: Goal) -> Insight | None:
    """What the surrogate of the search learnt from the trials that succeeded.

    Args:
        space: the search space.
        trials: of a search; those that are not `ok` are ignored.
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
    configs = [trial.config for trial in ok.values()]
    depth = max(int(config[FIRST_TRAINED]) for config in configs)
    values = torch.tensor(list(results.values()), dtype=torch.float64)
    surrogate = _Surrogate(encode(space, configs, depth), values, columns(space, depth))
    predicted, deviations = surrogate.leave_one_out()
    r2, correlation = _agreement(predicted, values)
    refitted_r2, refitted_correlation = _agreement(_refitted(surrogate), values)
    learnt, sentence = _verdict(refitted_r2, refitted_correlation, len(results))
    rows = zip(results.items(), predicted.tolist(), deviations.tolist(), strict=True)
    return Insight(
        target="val_loss" if is_loss else "val_accuracy",
        predictions=tuple(
            Prediction(trial=trial, observed=result, predicted=mean, deviation=sd)
            for (trial, result), mean, sd in rows
        ),
        rmse=_rmse(predicted, values),
        deviation=float(values.std(correction=0)),
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


class _Surrogate:
    """The process that the search fits, of standardised results.

    Args:
        X: encoded configurations, `n x d`.
        results: `n`.
        columns: the choices that the `d` columns stand for.
    """

    def __init__(self, X: Tensor, results: Tensor, columns: tuple[str, ...]) -> None:
        self.X, self.results, self.columns = X, results, columns
        self._scale = Standardiser.of(results.tolist())
        y = self._scale(results.tolist())
        with seeded(0), quiet():
            self.model: Any = fit(X, y, columns)
        self._prior = self.model.mean_module.constant.item()
        self._residuals = y.squeeze(-1) - self._prior

    @torch.no_grad()
    def leave_one_out(self, without: str | None = None) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each result given all others; `without` a choice's columns."""
        X = self.X.clone()
        # A kernel of distances does not see columns in which all points agree.
        X[:, [i for i, name in enumerate(self.columns) if name == without]] = 0.0
        means, variances = leave_one_out(self._covariance(X), self._residuals)
        return self._unscaled(means), self._scale.deviation * variances.sqrt()

    @torch.no_grad()
    def predict(self, X: Tensor) -> Tensor:
        """Mean results `m` of new points `m x d`."""
        across = self.model.covar_module(X, self.X).to_dense()
        return self._unscaled(across @ torch.linalg.solve(self._covariance(self.X), self._residuals))

    def _covariance(self, X: Tensor) -> Tensor:
        noise = self.model.likelihood.noise * torch.eye(len(X), dtype=X.dtype)
        return self.model.covar_module(X).to_dense() + noise

    def _unscaled(self, means: Tensor) -> Tensor:
        return self._scale.mean + self._scale.deviation * (means + self._prior)


def _refitted(surrogate: _Surrogate) -> Tensor:
    """Each result predicted by a surrogate that was fitted without its fifth of the trials."""
    X, results = surrogate.X, surrogate.results
    predicted = torch.empty_like(results)
    fold = torch.arange(len(results)) % _FOLDS
    for i in range(_FOLDS):
        rest = _Surrogate(X[fold != i], results[fold != i], surrogate.columns)
        predicted[fold == i] = rest.predict(X[fold == i])
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
            "trials no better than their mean does"
            if r2 <= 0
            else "the order of trials no better than chance"
        )
        return False, f"The surrogate predicts {how}: treat the choice of the winner as random search."
    share = f"{100 * r2:.0f} % of the variance of trials that it was not fitted to"
    return True, f"The surrogate explains {share} (rank correlation {correlation:.2f})."


def _importance(surrogate: _Surrogate) -> tuple[Importance, ...]:
    """Of every choice that varied, the largest rise first."""
    varied = [
        name
        for name, column in zip(surrogate.columns, surrogate.X.T, strict=True)
        if len(column.unique()) > 1
    ]
    scales = hyperparameters(surrogate.model, surrogate.columns)["lengthscales"]
    full = _rmse(surrogate.leave_one_out()[0], surrogate.results)
    found = [
        Importance(
            choice=name,
            rise=_rmse(surrogate.leave_one_out(without=name)[0], surrogate.results) - full,
            lengthscale=scales[name],
        )
        for name in dict.fromkeys(varied)
    ]
    return tuple(sorted(found, key=lambda importance: -importance.rise))


def _ranks(values: Tensor) -> Tensor:
    below = (values[None, :] < values[:, None]).sum(dim=1)
    equal = (values[None, :] == values[:, None]).sum(dim=1)
    return below + (equal + 1) / 2.0
