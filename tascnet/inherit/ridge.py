"""Corrections of a layer's weights by least squares, with a ridge that unseen samples choose."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Added to the diagonal of the correlations; the last leaves the weights and moves the mean alone.
RIDGES = (1e-3, 1e-2, 1e-1, 1.0, math.inf)
# Share of an input's mean square that its variance exceeds.
CONSTANT = 1e-9


@dataclass(frozen=True, kw_only=True)
class Correction:
    """What is added to the weights and the outputs of `g` independent parts of a layer.

    Args:
        weights: `g x d x o`.
        offsets: `g x o`; None where the layer can take no constant.
    """

    weights: Tensor
    offsets: Tensor | None


class Evidence:
    """What a layer reads and what its outputs lack, over samples from which it learns and samples that judge.

    Args:
        has_offset: whether the layer, or the batch-norm after it, can take a constant.
    """

    def __init__(self, *, has_offset: bool) -> None:
        self._has_offset = has_offset
        self._learns, self._judges = _Moments(), _Moments()

    def add(self, inputs: Tensor, errors: Tensor, *, judges: bool) -> None:
        """Take rows in.

        Args:
            inputs: `g x m x d`.
            errors: `g x m x o`, targets less outputs.
            judges: whether these rows choose the ridge.
        """
        (self._judges if judges else self._learns).add(inputs.double(), errors.double())

    def correction(self) -> Correction | None:
        """The best one by the rows that judge, learnt from all; None where nothing is better than none."""
        if not self._learns.rows or not self._judges.rows:
            return None
        least, best = self._judges.squares, None
        for ridge, candidate in zip(RIDGES, self._learns.solved(RIDGES, self._has_offset), strict=True):
            error = self._judges.error(candidate)
            if error < least:
                least, best = error, ridge
        if best is None:
            return None
        self._learns.take(self._judges)
        return next(self._learns.solved((best,), self._has_offset))


class _Moments:
    """Sums over rows of `x` (inputs), `r` (errors) and their products."""

    def __init__(self) -> None:
        self.rows = 0
        self.squares = 0.0

    def add(self, inputs: Tensor, errors: Tensor) -> None:
        if not self.rows:
            parts, _, width = inputs.shape
            self._xx = inputs.new_zeros(parts, width, width)
            self._xr = inputs.new_zeros(parts, width, errors.shape[2])
            self._x = inputs.new_zeros(parts, width)
            self._r = inputs.new_zeros(parts, errors.shape[2])
        self.rows += inputs.shape[1]
        self._xx.baddbmm_(inputs.mT, inputs)
        self._xr.baddbmm_(inputs.mT, errors)
        self._x += inputs.sum(1)
        self._r += errors.sum(1)
        self.squares += float(errors.square().sum())

    def take(self, other: "_Moments") -> None:
        """Add another's rows."""
        self.rows += other.rows
        self.squares += other.squares
        self._xx += other._xx
        self._xr += other._xr
        self._x += other._x
        self._r += other._r

    def solved(self, ridges: Iterable[float], has_offset: bool) -> Iterator[Correction]:
        """Ridge regressions of the errors on the standardised inputs, one for each ridge."""
        mean, lack = self._x / self.rows, self._r / self.rows
        if not has_offset:
            mean, lack = torch.zeros_like(mean), torch.zeros_like(lack)
        matrix = (self._xx / self.rows).baddbmm_(mean[:, :, None], mean[:, None], alpha=-1)
        squares = self._xx.diagonal(dim1=1, dim2=2) / self.rows
        diagonal = matrix.diagonal(dim1=1, dim2=2)
        # An input that hardly varies has nothing to say but rounding errors.
        scale = torch.where(diagonal > CONSTANT * squares, diagonal, torch.inf).sqrt()
        matrix.div_(scale[:, :, None]).div_(scale[:, None])
        target = (self._xr / self.rows).baddbmm_(mean[:, :, None], lack[:, None], alpha=-1)
        target.div_(scale[:, :, None])
        bare = diagonal.clone()
        for ridge in ridges:
            weights = torch.zeros_like(target)
            if ridge < math.inf:
                diagonal.copy_(bare + ridge)
                factor = torch.linalg.cholesky(matrix)
                weights = torch.cholesky_solve(target, factor).div_(scale[:, :, None])
            offsets = lack - torch.einsum("gd,gdo->go", mean, weights) if has_offset else None
            yield Correction(weights=weights, offsets=offsets)

    def error(self, correction: Correction) -> float:
        """The sum of squares that a correction leaves of the errors."""
        weights, offsets = correction.weights, correction.offsets
        left = self.squares + float(torch.sum(weights * (self._xx @ weights - 2 * self._xr)))
        if offsets is not None:
            shift = torch.einsum("gd,gdo->go", self._x, weights) - self._r
            left += float(torch.sum(offsets * (2 * shift + self.rows * offsets)))
        return left
