"""What a search found besides its winner: bounds, fronts, depths, and what its surrogate learnt.

Two measures of the surrogate. *Leave-one-out*: each trial is predicted from all others in closed form, with
hyperparameters fitted to all trials, so it is too optimistic for few trials. *Refitted*: each fifth of the
trials is predicted by a surrogate that is fitted to the other four fifths; this decides whether anything was
learnt.

Symbols: `X` are encoded configurations `n x d`, `y` their standardised values `n`, `K` the covariance of
noisy values `n x n`.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tascnet.models.head import head_start
from tascnet.options import TuneBase
from tascnet.run.records import FreezingDepth, FrontPoint, Importance, Insight, Prediction, Trial
from tascnet.tuning.encoding import columns, encode
from tascnet.tuning.goal import Goal
from tascnet.tuning.problem import Builder
from tascnet.tuning.space import FIRST_TRAINED, Space
from tascnet.tuning.study import Study
from tascnet.tuning.surrogate import Standardiser, fit, hyperparameters, quiet, seeded

# Predictions of fewer results cannot be judged.
_LEAST = 5
_FOLDS = 5
# The one-sided 5 % quantile of the standard normal distribution.
_SIGNIFICANT = 1.645


def findings(options: TuneBase, study: Study, chain: nn.Sequential, build: Builder) -> dict[str, Any]:
    """Fields of `TuneMetrics`: objective, bounds, and the layerwise depths or surrogate and front."""
    goal = study.goal
    bounds = {"flops": goal.max_flops, "params": goal.max_params, "latency_ms": goal.max_latency_ms}
    found: dict[str, Any] = {
        "objective": options.objective,
        "bounds": {name: float(bound) for name, bound in bounds.items() if bound is not None},
    }
    if options.is_layerwise:
        depths = (_depth(trial, study.space, chain, build) for trial in study.trials if trial.status == "ok")
        return {**found, "layerwise": tuple(depths)}
    if goal.objective == "pareto":
        names = ("trial", "value", "val_accuracy", "params", "flops")
        points = ({name: getattr(trial, name) for name in names} for trial in study.front())
        found["front"] = tuple(FrontPoint(**point) for point in points)
    return {**found, "surrogate": explain(study.space, study.trials, goal)}


def _depth(trial: Trial, space: Space, chain: nn.Sequential, build: Builder) -> FreezingDepth:
    unit = int(trial.config[FIRST_TRAINED])
    block = space.units[unit].block
    return FreezingDepth(
        trial=trial.trial,
        first_trained=unit,
        block=block,
        name="head" if block == head_start(chain) else list(chain._modules)[block],
        trainable_params=sum(p.numel() for p in build(trial.config).tail.parameters()),
        val_accuracy=trial.val_accuracy or 0.0,
        val_balanced_accuracy=trial.val_balanced_accuracy or 0.0,
        seconds=trial.seconds,
    )


def explain(space: Space, trials: Sequence[Trial], goal: Goal) -> Insight | None:
    """What the surrogate of a search learnt from its `ok` trials.

    Returns:
        None for fewer than five such trials, or if all have the same result.

    Source: Rasmussen and Williams 2006, section 5.4.2 (leave-one-out).
    """
    ok = [trial for trial in trials if trial.status == "ok"]
    # The value of a trial is minus the loss if that is the objective.
    sign = -1.0 if goal.objective == "loss" else 1.0
    observed = [sign * (trial.value or 0.0) for trial in ok]
    if len(ok) < _LEAST or len(set(observed)) < 2:
        return None
    configs = [trial.config for trial in ok]
    depth = max(map(space.depth_of, configs))
    results = torch.tensor(observed, dtype=torch.float64)
    surrogate = _Surrogate(encode(space, configs, depth), results, columns(space, depth))
    predicted, deviations = surrogate.leave_one_out()
    r2, correlation = _agreement(predicted, results)
    refitted = torch.empty_like(results)
    fold = torch.arange(len(results)) % _FOLDS
    for i in range(_FOLDS):
        rest = _Surrogate(surrogate.X[fold != i], results[fold != i], surrogate.columns)
        refitted[fold == i] = rest.predict(surrogate.X[fold == i])
    refitted_r2, refitted_correlation = _agreement(refitted, results)
    learnt, sentence = _verdict(refitted_r2, refitted_correlation, len(results))
    rows = zip(ok, observed, predicted.tolist(), deviations.tolist(), strict=True)
    return Insight(
        target="val_loss" if goal.objective == "loss" else f"val_{goal.metric}",
        predictions=tuple(
            Prediction(trial=trial.trial, observed=result, predicted=mean, deviation=sd)
            for trial, result, mean, sd in rows
        ),
        rmse=_rmse(predicted, results),
        deviation=float(results.std(correction=0)),
        r2=r2,
        rank_correlation=correlation,
        refitted_r2=refitted_r2,
        refitted_rank_correlation=refitted_correlation,
        learnt=learnt,
        sentence=sentence,
        importance=surrogate.importance(),
    )


def leave_one_out(K: Tensor, residuals: Tensor) -> tuple[Tensor, Tensor]:
    """The distribution of each value given all others, under fixed hyperparameters.

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
    """Spearman's correlation of two samples `n`, ties at their mean rank; None if one is constant."""
    ranks = [_ranks(values) - _ranks(values).mean() for values in (a, b)]
    norm = float(ranks[0].norm() * ranks[1].norm())
    return float(ranks[0] @ ranks[1]) / norm if norm > 0 else None


class _Surrogate:
    """The process that the search fits, of standardised results.

    Args:
        X: encoded configurations, `n x d`.
        results: `n`.
        columns: the choices of the `d` columns.
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
        """Mean and deviation of each result given all others, `without` the columns of a choice."""
        X = self.X.clone()
        # A column in which all points agree does not change the distances that the kernel sees.
        X[:, [i for i, name in enumerate(self.columns) if name == without]] = 0.0
        means, variances = leave_one_out(self._covariance(X), self._residuals)
        return self._unscaled(means), self._scale.deviation * variances.sqrt()

    @torch.no_grad()
    def predict(self, X: Tensor) -> Tensor:
        """Mean results `m` of new points `m x d`."""
        across = self.model.covar_module(X, self.X).to_dense()
        return self._unscaled(across @ torch.linalg.solve(self._covariance(self.X), self._residuals))

    def importance(self) -> tuple[Importance, ...]:
        """The rise of the leave-one-out error without each choice that varied, the largest first."""
        columns = zip(self.columns, self.X.T, strict=True)
        varied = dict.fromkeys(name for name, column in columns if len(column.unique()) > 1)
        scales = hyperparameters(self.model, self.columns)["lengthscales"]
        error = _rmse(self.leave_one_out()[0], self.results)
        found = [
            Importance(
                choice=name,
                rise=_rmse(self.leave_one_out(without=name)[0], self.results) - error,
                lengthscale=scales[name],
            )
            for name in varied
        ]
        return tuple(sorted(found, key=lambda importance: -importance.rise))

    def _covariance(self, X: Tensor) -> Tensor:
        noise = self.model.likelihood.noise * torch.eye(len(X), dtype=X.dtype)
        return self.model.covar_module(X).to_dense() + noise

    def _unscaled(self, means: Tensor) -> Tensor:
        return self._scale.mean + self._scale.deviation * (means + self._prior)


def _agreement(predicted: Tensor, results: Tensor) -> tuple[float, float | None]:
    """R² and the rank correlation."""
    r2 = 1 - _rmse(predicted, results) ** 2 / float(results.var(correction=0))
    return r2, rank_correlation(predicted, results)


def _rmse(predicted: Tensor, results: Tensor) -> float:
    return float((predicted - results).square().mean().sqrt())


def _verdict(r2: float, correlation: float | None, n: int) -> tuple[bool, str]:
    """Whether something was learnt, and the sentence that says so."""
    if r2 <= 0:
        how = "trials no better than their mean does"
    # By chance a rank correlation has the deviation 1 / sqrt(n - 1).
    elif correlation is None or correlation * math.sqrt(n - 1) < _SIGNIFICANT:
        how = "the order of trials no better than chance"
    else:
        share = f"{100 * r2:.0f} % of the variance of trials that it was not fitted to"
        return True, f"The surrogate explains {share} (rank correlation {correlation:.2f})."
    return False, f"The surrogate predicts {how}: treat the choice of the winner as random search."


def _ranks(values: Tensor) -> Tensor:
    below = (values[None, :] < values[:, None]).sum(dim=1)
    equal = (values[None, :] == values[:, None]).sum(dim=1)
    return below + (equal + 1) / 2.0
