"""The Gaussian process that learns from trials.

Symbols: `X` are encoded configurations `n x d`, `Y` their standardised values `n x 1`.
"""

import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor, nn

with warnings.catch_warnings():
    # gpytorch uses a deprecated decorator, about which users can do nothing.
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
    from botorch.exceptions.errors import ModelFittingError
    from botorch.exceptions.warnings import BotorchWarning
    from botorch.fit import fit_gpytorch_mll
    from botorch.models.gp_regression import SingleTaskGP
    from gpytorch.constraints import GreaterThan
    from gpytorch.kernels import Kernel as BaseKernel
    from gpytorch.mlls import ExactMarginalLogLikelihood
    from gpytorch.priors import LogNormalPrior
    from linear_operator.utils.warnings import NumericalWarning

log = logging.getLogger("tascnet")

# `lengthscales` by choice, `noise` and `mean`, of inputs in [0, 1] and standardised outputs.
Hyperparameters: TypeAlias = dict[str, Any]

# The fit ends after this many steps, or when a step gains less than this share of the likelihood.
_FIT_STEPS = 200
_FIT_TOLERANCE = 1e-7
_SHORTEST = 2.5e-2
# How much longer lengthscales are expected to be than in the prior's source, as a logarithm: a choice has few
# values, and its effect is smooth. Measured on tables of trained networks (`benchmarks search_quality`).
_SMOOTHER = 1.0


@dataclass(frozen=True, kw_only=True)
class Standardiser:
    """Standardises values by a mean and a deviation."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """From at least one value; equal values have the deviation 1."""
        tensor = torch.tensor(values, dtype=torch.float64)
        deviation = float(tensor.std()) if len(values) > 1 else 0.0
        return cls(mean=float(tensor.mean()), deviation=deviation if deviation > 0 else 1.0)

    def __call__(self, values: Sequence[float]) -> Tensor:
        """Standardised values, `n x 1` float64."""
        return ((torch.tensor(values, dtype=torch.float64) - self.mean) / self.deviation).unsqueeze(-1)


def fit(X: Tensor, Y: Tensor, columns: Sequence[str], start: Mapping[str, Any] | None = None) -> SingleTaskGP:
    """The process fitted to `X` and `Y` by maximum a posteriori, or at its prior's mode if the fit fails.

    Args:
        X: `n x d` float64, or wider: columns after the `d` of `columns` are ignored.
        Y: `n x 1` float64.
        columns: the choices of the first `d` columns.
        start: hyperparameters from which the fit starts, for the choices in it; others start from the
            prior's mode.
    """
    model = _build(X, Y, columns)
    if start is not None:
        _set(model, columns, start)
    try:
        fit_gpytorch_mll(
            ExactMarginalLogLikelihood(model.likelihood, model),
            optimizer_kwargs={"options": {"maxiter": _FIT_STEPS, "ftol": _FIT_TOLERANCE}},
        )
    except ModelFittingError:
        log.warning("the surrogate could not be fitted; it proposes from its prior")
        model = _build(X, Y, columns)
    return model.eval()


def hyperparameters(model: SingleTaskGP, columns: Sequence[str]) -> Hyperparameters:
    """The hyperparameters from which another `fit` can start."""
    scales = model.covar_module.scales.tolist()
    return {
        "lengthscales": dict(zip(dict.fromkeys(columns), scales, strict=True)),
        "noise": model.likelihood.noise.item(),
        "mean": model.mean_module.constant.item(),
    }


class _Shared(BaseKernel):  # type: ignore[misc]
    """A squared-exponential kernel with one lengthscale for each choice.

    The columns of a categorical choice share it: any two categories are equally far apart, and there is less
    to learn than with a lengthscale for each column.

    Source: Hvarfner et al. 2024 (a prior whose lengthscales grow with the root of the number of choices).
    """

    owners: Tensor
    scales: nn.Parameter

    def __init__(self, columns: Sequence[str]) -> None:
        super().__init__(active_dims=tuple(range(len(columns))))
        names = list(dict.fromkeys(columns))
        prior = LogNormalPrior(loc=_SMOOTHER + math.sqrt(2) + 0.5 * math.log(len(names)), scale=math.sqrt(3))
        self.register_buffer("owners", torch.tensor([names.index(name) for name in columns]))
        start = torch.full((len(names),), float(prior.mode), dtype=torch.float64)
        self.register_parameter("scales", nn.Parameter(start))
        self.register_constraint("scales", GreaterThan(_SHORTEST, transform=None))
        self.register_prior("scales_prior", prior, "scales")

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:
        """Covariances of rows, `... x n x m`, or `... x n` of `diag`."""
        scale = self.scales[self.owners]
        squared = self.covar_dist(x1 / scale, x2 / scale, square_dist=True, diag=diag, **params)
        return torch.exp(-squared / 2)


def _build(X: Tensor, Y: Tensor, columns: Sequence[str]) -> SingleTaskGP:
    return SingleTaskGP(X, Y, covar_module=_Shared(columns), outcome_transform=None)


def _set(model: SingleTaskGP, columns: Sequence[str], start: Mapping[str, Any]) -> None:
    kernel = model.covar_module
    own = zip(dict.fromkeys(columns), kernel.scales.tolist(), strict=True)
    scales = [start["lengthscales"].get(name, default) for name, default in own]
    kernel.scales.data = torch.tensor(scales, dtype=torch.float64)
    # Their setters would round plain numbers to float32.
    model.likelihood.noise = torch.tensor(start["noise"], dtype=torch.float64)
    model.mean_module.constant = torch.tensor(start["mean"], dtype=torch.float64)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the CPU's generator, from which BoTorch draws, and restore it."""
    state = torch.random.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        torch.random.set_rng_state(state)


@contextmanager
def quiet() -> Iterator[None]:
    """Hide numerical warnings that the fit handles."""
    with warnings.catch_warnings():
        for kind in (BotorchWarning, NumericalWarning):
            warnings.simplefilter("ignore", kind)
        yield
