"""Acquisition functions: what a new trial is expected to gain, for each goal.

Symbols: `X` are encoded configurations `n x d`; with `pareto` one more column holds the standardised
logarithm of the exact cost, negated.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

with warnings.catch_warnings():
    # gpytorch uses a deprecated decorator, about which users can do nothing.
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
    from botorch.acquisition.analytic import LogExpectedImprovement
    from botorch.acquisition.logei import qLogNoisyExpectedImprovement
    from botorch.acquisition.objective import LinearMCObjective
    from botorch.models.gp_regression import SingleTaskGP
    from botorch.models.model_list_gp_regression import ModelListGP
    from botorch.sampling.normal import SobolQMCNormalSampler
    from botorch.utils.multi_objective.hypervolume import infer_reference_point
    from botorch.utils.multi_objective.pareto import is_non_dominated

# From `X` to the logarithm of what is expected, `n`.
Acquisition: TypeAlias = Callable[[Tensor], Tensor]

# Quasi-random samples of the posterior.
_SAMPLES = 128
# Beyond every standardised cost.
_FAR = 1e6


@dataclass(frozen=True, kw_only=True)
class LatencyModel:
    """A model of log latency, and the bound on the model's scale."""

    model: SingleTaskGP
    bound: float

    def log_probability(self, X: Tensor) -> Tensor:
        """Log of the probability that the bound is kept."""
        posterior = self.model.posterior(X)
        score = (self.bound - posterior.mean) / posterior.variance.sqrt()
        return torch.special.log_ndtr(score).squeeze(-1)


def improvement(
    model: SingleTaskGP, X: Tensor, pending: Tensor | None, latency: LatencyModel | None, seed: int
) -> Acquisition:
    """Log expected improvement of the value.

    It is analytic, against the highest posterior mean of the observed points `X`, which noise does not raise.
    Pending points `m x d` count as observed, with their posterior means as values. With a bound on latency
    it is noisy expected improvement, which integrates over the values of observed and pending points, times
    the probability that the bound is kept.

    Source: Ament et al. 2023 (log expected improvement); Ginsbourger et al. 2010 (means as values); Gardner
        et al. 2014 (weight of feasibility).
    """
    if latency is None:
        with torch.no_grad():
            known: Any = model
            if pending is not None:
                known = model.condition_on_observations(pending, model.posterior(pending).mean)
                X = torch.cat([X, pending])
            best = known.posterior(X).mean.max()
        return _over_points(LogExpectedImprovement(known, best_f=best))
    sampler = SobolQMCNormalSampler(torch.Size([_SAMPLES]), seed=seed)
    constrained = qLogNoisyExpectedImprovement(
        ModelListGP(model, latency.model),
        X,
        sampler,
        objective=LinearMCObjective(torch.tensor([1.0, 0.0], dtype=X.dtype)),
        constraints=[lambda Z: Z[..., 1] - latency.bound],
        X_pending=pending,
        cache_root=False,
    )
    return _over_points(constrained)


def feasibility(latency: LatencyModel) -> Acquisition:
    """Log probability that the bound on latency is kept, sought until a first trial could be trained."""
    return torch.no_grad()(latency.log_probability)


def reaching(model: SingleTaskGP, lowest: float, latency: LatencyModel | None) -> Acquisition:
    """Log probability that the measured value is at least `lowest`, and the bound on latency is kept."""

    def log_probability(X: Tensor) -> Tensor:
        posterior = model.posterior(X, observation_noise=True)
        score = ((posterior.mean - lowest) / posterior.variance.sqrt()).squeeze(-1)
        kept = 0.0 if latency is None else latency.log_probability(X)
        return torch.special.log_ndtr(score) + kept

    return torch.no_grad()(log_probability)


def hypervolume(
    model: SingleTaskGP,
    X: Tensor,
    pending: Tensor | None,
    latency: LatencyModel | None,
    reference: Tensor | None = None,
) -> Acquisition:
    """Log expected improvement of the hypervolume of value and cost.

    The cost, the last column of `X`, is exact. A point of value `y` therefore adds an integral over costs,
    from the reference's to its own, of the amount by which `y` exceeds the front there; the front is a
    staircase, and the expectation is a sum of expected improvements, one for each step, in closed form.
    The front is that of the posterior means of observed points, which noise does not raise, and of pending
    ones. The sum is multiplied by the probability that the bound on latency is kept.

    Args:
        model: of the value.
        X: observed points, `n x (d + 1)`.
        pending: `m x (d + 1)`.
        latency: None: no bound.
        reference: value and cost column that a point must exceed to count; None: a tenth of the front's
            range below its worst value and above its highest cost.

    Source: Emmerich et al. 2006 (expected improvement of the hypervolume), with one objective known; Ament
        et al. 2023 (logarithms); Ishibuchi et al. 2011 (reference point).
    """
    observed = X if pending is None else torch.cat([X, pending])
    with torch.no_grad():
        values = model.posterior(observed).mean.squeeze(-1)
    points = torch.stack([values, observed[:, -1]], dim=-1)
    if reference is None:
        reference = infer_reference_point(points[is_non_dominated(points)])
    levels, starts, ends = _staircase(points, reference)
    steps = [LogExpectedImprovement(model, best_f=level) for level in levels]

    def log_expected(X: Tensor) -> Tensor:
        widths = (X[:, -1:].clamp(max=_FAR) - starts).clamp(min=0).minimum(ends - starts)
        gains = torch.stack([step(X.unsqueeze(1)) for step in steps], dim=-1)
        total = torch.logsumexp(widths.log() + gains, dim=-1)
        return total if latency is None else total + latency.log_probability(X)

    return torch.no_grad()(log_expected)


def _staircase(points: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The front as a function of the cost column: the highest value of all points that cost no more.

    Args:
        points: values and cost columns, `n x 2`; larger is better in both.
        reference: of both, `2`.

    Returns:
        For each step its level, and where it starts and ends on the cost column, from the reference on.
    """
    above = points[(points > reference).all(dim=-1)]
    ends, order = above[:, 1].sort()
    # Points that end at a step or beyond it cost no more.
    levels = above[order, 0].flip(0).cummax(0).values.flip(0)
    far = torch.full_like(reference[:1], _FAR)
    ends = torch.cat([ends, far])
    starts = torch.cat([reference[1:], ends[:-1]])
    return torch.cat([levels, reference[:1]]), starts, ends


def _over_points(acquisition: Callable[[Tensor], Tensor]) -> Acquisition:
    """The acquisition function of each row by itself."""
    return torch.no_grad()(lambda X: acquisition(X.unsqueeze(1)))
