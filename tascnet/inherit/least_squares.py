"""A layer as a matrix: the rows that it reads, and corrections of its weights by least squares."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tascnet.inherit.cholesky import factorised
from tascnet.inherit.moments import channels_second, moved, rows_at, varies
from tascnet.models.layers import Conv2dSame, padded_same

# Added to the diagonal of the correlations; the last keeps the weights and moves the mean alone.
RIDGES = (1e-3, 1e-2, 1e-1, 1.0, math.inf)


def patches(layer: nn.Module, inputs: Tensor, places: Tensor | None) -> Tensor:
    """The rows that a layer's weights are multiplied with, `g x (b * p) x d`, in the order of the weights.

    Args:
        layer: a linear layer, a convolution without groups, or a depthwise one.
        inputs: `b x c` or `b x ... x c` for a linear layer, else `b x c x ...`.
        places: `b x p` flat positions in the layer's output map; None for features `b x c`.
    """
    if isinstance(layer, nn.Linear):
        return rows_at(channels_second(layer, inputs), places)[None]
    assert places is not None
    conv: Any = layer
    grid: list[int] = []
    windows: Any = _padded(conv, inputs)
    for axis, (size, stride, step) in enumerate(
        zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)
    ):
        windows = windows.unfold(2 + axis, step * (size - 1) + 1, stride)
        grid.append(windows.shape[2 + axis])
    # `b x c x ... x k ...`, a view.
    windows = windows[(..., *(slice(None, None, step) for step in conv.dilation))]
    samples = torch.arange(len(inputs), device=inputs.device)[:, None]
    at = torch.unravel_index(places, grid)
    # Indices that lie apart put their dimensions first: `b x p x c x k ...`.
    chosen = windows[(samples, slice(None), *at)].flatten(0, 1).flatten(2)
    return chosen.transpose(0, 1) if conv.groups > 1 else chosen.flatten(1)[None]


def _padded(conv: Any, inputs: Tensor) -> Tensor:
    """The inputs as the convolution pads them."""
    if isinstance(conv, Conv2dSame):
        return padded_same(inputs, conv.kernel_size, conv.stride, conv.dilation)
    if conv.padding == "valid":
        return inputs
    pairs = []
    for axis, (size, step) in enumerate(zip(conv.kernel_size, conv.dilation, strict=True)):
        total = step * (size - 1)
        same = conv.padding == "same"
        pairs.append((total // 2, total - total // 2) if same else (conv.padding[axis],) * 2)
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    # torch takes the last dimension first.
    return functional.pad(inputs, [side for pair in reversed(pairs) for side in pair], mode=mode)


def output_rows(layer: nn.Module, rows: Tensor) -> Tensor:
    """A layer's outputs `g x m x o` for rows `g x m x d`; `o` is 1 for a depthwise layer."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    flat, depthwise = weight.flatten(1), len(rows) > 1
    outputs = rows @ (flat[:, :, None] if depthwise else flat.T)
    if not isinstance(bias, Tensor):
        return outputs
    return outputs + (bias[:, None, None] if depthwise else bias)


@dataclass(frozen=True, kw_only=True)
class Correction:
    """What is added to weights `g x d x o` and outputs `g x o`, None if the layer takes no constant."""

    weights: Tensor
    offsets: Tensor | None


class Evidence:
    """What a layer reads and the errors of its outputs, over samples to learn from and others to judge by."""

    def __init__(self, *, has_offset: bool) -> None:
        # Whether the layer, or the batch-norm after it, can take a constant.
        self._has_offset = has_offset
        self._learns, self._judges = _Sums(), _Sums()

    def add(self, inputs: Tensor, errors: Tensor, *, judges: bool) -> None:
        """Add inputs `g x m x d` and errors `g x m x o`, targets minus outputs; `judges` choose the ridge."""
        (self._judges if judges else self._learns).add(inputs.double(), errors.double())

    def correction(self) -> Correction | None:
        """The one whose ridge is best on the rows that judge, from all rows; None where none helps."""
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


class _Sums:
    """Means of rows of `x` (inputs) and `r` (errors), and their products about these means."""

    def __init__(self) -> None:
        self.rows = 0

    @property
    def squares(self) -> float:
        """The sum of all squared errors."""
        return self._rr + self.rows * float(self._r.square().sum())

    def add(self, inputs: Tensor, errors: Tensor) -> None:
        if not inputs.shape[1]:
            return
        x, r = inputs.mean(1), errors.mean(1)
        inputs, errors = inputs - x[:, None], errors - r[:, None]
        if not self.rows:
            parts, _, width = inputs.shape
            self._xx = inputs.new_zeros(parts, width, width)
            self._xr = inputs.new_zeros(parts, width, errors.shape[2])
            self._x, self._r = torch.zeros_like(x), torch.zeros_like(r)
            self._rr = 0.0
        self._xx.baddbmm_(inputs.mT, inputs)
        self._xr.baddbmm_(inputs.mT, errors)
        self._rr += float(errors.square().sum())
        self._move(x, r, inputs.shape[1])

    def take(self, other: "_Sums") -> None:
        self._xx += other._xx
        self._xr += other._xr
        self._rr += other._rr
        self._move(other._x, other._r, other.rows)

    def _move(self, x: Tensor, r: Tensor, rows: int) -> None:
        """Move the means to those of other rows too, whose products about `x` and `r` have been added."""
        x, weight = moved(self._x, self.rows, x, rows)
        r, _ = moved(self._r, self.rows, r, rows)
        self._xx.baddbmm_(x[:, :, None], x[:, None], alpha=weight)
        self._xr.baddbmm_(x[:, :, None], r[:, None], alpha=weight)
        self._rr += weight * float(r.square().sum())
        self.rows += rows

    def solved(self, ridges: Iterable[float], has_offset: bool) -> Iterator[Correction]:
        """One ridge regression of the errors on the standardised inputs for each ridge."""
        matrix, target = self._xx / self.rows, self._xr / self.rows
        diagonal = matrix.diagonal(dim1=1, dim2=2)
        if has_offset:
            is_used = varies(diagonal, self._x)
        else:
            matrix.baddbmm_(self._x[:, :, None], self._x[:, None])
            target.baddbmm_(self._x[:, :, None], self._r[:, None])
            is_used = diagonal > 0
        scale = diagonal.where(is_used, torch.inf).sqrt()
        matrix.div_(scale[:, :, None]).div_(scale[:, None])
        target.div_(scale[:, :, None])
        for ridge in ridges:
            weights = torch.zeros_like(target)
            if ridge < math.inf:
                weights = torch.cholesky_solve(target, factorised(matrix, ridge)).div_(scale[:, :, None])
            offsets = self._r - torch.einsum("gd,gdo->go", self._x, weights) if has_offset else None
            yield Correction(weights=weights, offsets=offsets)

    def error(self, correction: Correction) -> float:
        """The sum of squared errors after a correction."""
        weights, offsets = correction.weights, correction.offsets
        spread = self._rr + float(torch.sum(weights * (self._xx @ weights - 2 * self._xr)))
        mean = self._r - torch.einsum("gd,gdo->go", self._x, weights)
        if offsets is not None:
            mean = mean - offsets
        return spread + self.rows * float(mean.square().sum())
