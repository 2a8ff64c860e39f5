"""What a new trial is expected to bring, for each goal: functions of encoded configurations.

Glossary: `X` are encoded configurations `n x d`; with `pareto` one more column holds the standardised
logarithm of the exact cost, negated.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

with warnings.catch_warnings():
    # gpytorch's own use of a deprecated decorator: nothing that a user could mend.
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
    from botorch.acquisition.analytic import LogExpectedImprovement
    from botorch.acquisition.logei import qLogNoisyExpectedImprovement
    from botorch.acquisition.multi_objective import logei as multi_logei
    from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
    from botorch.acquisition.multi_objective.objective import IdentityMCMultiOutputObjective
    from botorch.acquisition.objective import LinearMCObjective
    from botorch.models.deterministic import GenericDeterministicModel
    from botorch.models.gp_regression import SingleTaskGP
    from botorch.models.model import ModelList
    from botorch.models.model_list_gp_regression import ModelListGP
    from botorch.sampling.get_sampler import get_sampler
    from botorch.sampling.normal import SobolQMCNormalSampler
    from botorch.utils.multi_objective.hypervolume import infer_reference_point
    from botorch.utils.multi_objective.pareto import is_non_dominated

__all__ = ["Acquisition", "Latency", "feasibility", "hypervolume", "improvement", "reaching"]

# Log of what is expected, `n`, of `X`.
Acquisition: TypeAlias = Callable[[Tensor], Tensor]

# Quasi-random samples of the posterior; of fronts, each of which is partitioned, fewer.
_SAMPLES = 128
_FRONTS = 64


@dataclass(frozen=True, kw_only=True)
class Latency:
    """A model of log latency, and its bound on the model's scale."""

    model: SingleTaskGP
    bound: float

    def log_probability(self, X: Tensor) -> Tensor:
        """Log of the probability that the bound is kept."""
        posterior = self.model.posterior(X)
        score = (self.bound - posterior.mean) / posterior.variance.sqrt()
        return torch.special.log_ndtr(score).squeeze(-1)


def improvement(
    model: SingleTaskGP, X: Tensor, pending: Tensor | None, latency: Latency | None, seed: int
) -> Acquisition:
    """Log expected improvement of the value.

    Without pending points it is analytic, on the highest posterior mean of what was observed, which noise
    does not flatter. With them it is noisy expected improvement, which integrates over the values of all.
    A bound on latency weighs it by the probability of being kept.

    Args:
        model: of the value.
        X: what was observed, `n x d`.
        pending: `m x d`.
        latency: None: no bound.
        seed: of the samples.

    Source: Ament et al. 2023 (log expected improvement); Gardner et al. 2014 (weight of feasibility).
    """
    if latency is not None:
        return _over_points(_constrained(model, X, pending, latency, seed))
    if pending is None:
        with torch.no_grad():
            best = model.posterior(X).mean.max()
        return _over_points(LogExpectedImprovement(model, best_f=best))
    sampler = SobolQMCNormalSampler(torch.Size([_SAMPLES]), seed=seed)
    return _over_points(qLogNoisyExpectedImprovement(model, X, sampler, X_pending=pending))


def feasibility(latency: Latency) -> Acquisition:
    """Log probability that the latency is kept: what is sought before any trial could be trained."""
    return _without_gradient(latency.log_probability)


def reaching(model: SingleTaskGP, lowest: float, latency: Latency | None) -> Acquisition:
    """Log probability that the value that a trial shows, noise included, is at least `lowest`.

    A bound on latency adds the log probability of being kept.
    """

    def log_probability(X: Tensor) -> Tensor:
        posterior = model.posterior(X, observation_noise=True)
        score = ((posterior.mean - lowest) / posterior.variance.sqrt()).squeeze(-1)
        kept = 0.0 if latency is None else latency.log_probability(X)
        return torch.special.log_ndtr(score) + kept

    return _without_gradient(log_probability)


def hypervolume(
    model: SingleTaskGP,
    X: Tensor,
    Y: Tensor,
    pending: Tensor | None,
    latency: Latency | None,
    seed: int,
    reference: Tensor | None = None,
) -> Acquisition:
    """Log noisy expected improvement of the hypervolume of value and cost.

    The cost, the last column of `X`, is exact and therefore no process.

    Args:
        model: of the value.
        X: what was observed, `n x (d + 1)`.
        Y: its standardised values, `n x 1`.
        pending: `m x (d + 1)`.
        latency: None: no bound.
        seed: of the samples.
        reference: value and cost column that a point of the front must exceed to count; None: a tenth of the
            front's range below its worst value and above its highest cost.

    Source: Daulton et al. 2021 (noisy expected hypervolume improvement); Ament et al. 2023; Ishibuchi et al.
        2011 (reference point).
    """
    cost = GenericDeterministicModel(lambda x: x[..., -1:], num_outputs=1)
    models = ModelList(model, cost, *([] if latency is None else [latency.model]))
    seen = torch.cat([Y, X[:, -1:]], dim=-1)
    if reference is None:
        reference = infer_reference_point(seen[is_non_dominated(seen)])
    with torch.no_grad():
        posterior: Any = models.posterior(X[:1])
    with _uncompiled():
        acquisition = qLogNoisyExpectedHypervolumeImprovement(
            models,
            reference.tolist(),
            X,
            sampler=get_sampler(posterior, torch.Size([_FRONTS]), seed=seed),
            objective=IdentityMCMultiOutputObjective(outcomes=[0, 1]),
            constraints=None if latency is None else [lambda Z: Z[..., 2] - latency.bound],
            X_pending=pending,
            prune_baseline=True,
            cache_root=False,
        )
    return _over_points(acquisition)


@contextmanager
def _uncompiled() -> Iterator[None]:
    """BoTorch from 0.18 on would compile C++ here: minutes where there is a compiler, a warning elsewhere."""
    before = getattr(multi_logei, "_load_attempted", None)
    try:
        if before is not None:
            multi_logei._load_attempted = True
        yield
    finally:
        if before is not None:
            multi_logei._load_attempted = before


def _constrained(
    model: SingleTaskGP, X: Tensor, pending: Tensor | None, latency: Latency, seed: int
) -> Callable[[Tensor], Tensor]:
    return qLogNoisyExpectedImprovement(
        ModelListGP(model, latency.model),
        X,
        SobolQMCNormalSampler(torch.Size([_SAMPLES]), seed=seed),
        objective=LinearMCObjective(torch.tensor([1.0, 0.0], dtype=X.dtype)),
        constraints=[lambda Z: Z[..., 1] - latency.bound],
        X_pending=pending,
        cache_root=False,
    )


def _without_gradient(values: Acquisition) -> Acquisition:
    return torch.no_grad()(values)


def _over_points(acquisition: Callable[[Tensor], Tensor]) -> Acquisition:
    """The acquisition's value of each row by itself."""

    return _without_gradient(lambda X: acquisition(X.unsqueeze(1)))
