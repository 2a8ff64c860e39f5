"""A layer as a matrix: the rows that it reads, and corrections of its weights by least squares."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tascnet.inherit.cholesky import factorised
from tascnet.inherit.moments import channels_second, rows_at, varies
from tascnet.models.layers import Conv2dSame, padded_same

# Added to the diagonal of the correlations; the first keeps the weights and moves the mean alone.
RIDGES = (math.inf, 1.0, 1e-1, 1e-2, 1e-3)
# Outputs by whose errors the ridge is chosen.
JUDGED = 128
# Share of a ridge up to which rounding may change it: then it is solved for in float32, else in float64.
ROUNDED = 1e-2
# Columns of products that are computed at a time, up to the diagonal alone.
COLUMNS = 256


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
    if not any(map(any, pairs)):
        return inputs
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
        self._sums: tuple[_Sums, _Sums] | None = None

    def add(self, inputs: Tensor, errors: Tensor, *, judges: bool) -> None:
        """Add inputs `g x m x d` and errors `g x m x o`, targets minus outputs; `judges` choose the ridge."""
        if not inputs.shape[1]:
            return
        if self._sums is None:
            shifts = inputs.mean(1, keepdim=True), errors.mean(1, keepdim=True)
            self._sums = _Sums(*shifts), _Sums(*shifts)
        self._sums[judges].add(inputs, errors)

    def correction(self) -> Correction | None:
        """The one whose ridge is best on the rows that judge, from all rows; None where none helps.

        Ridges are tried from the largest on, as long as each is better than the one before.
        """
        if self._sums is None or not all(sums.rows for sums in self._sums):
            return None
        learns, judges = self._sums
        some = slice(None, None, math.ceil(judges.outputs / JUDGED))
        least, best, previous = judges.error(None, some), None, math.inf
        for ridge in RIDGES:
            error = judges.error(learns.solved(ridge, self._has_offset, some), some)
            if error >= previous:
                break
            previous = error
            if error < least:
                least, best = error, ridge
        if best is None:
            return None
        learns.take(judges)
        self._sums = None
        return learns.solved(best, self._has_offset)


class _Sums:
    """Sums over rows of `x` (inputs) and `r` (errors), and of their products, both about fixed shifts.

    The shifts, `g x 1 x d` and `g x 1 x o`, are near the means: large sums, subtracted at the end, would
    leave no digit of an input that hardly varies. Products of `x` with itself are complete up to the diagonal
    alone.
    """

    def __init__(self, x: Tensor, r: Tensor) -> None:
        self._x_shift, self._r_shift = x, r
        self.rows, self.outputs = 0, r.shape[2]
        parts, _, width = x.shape
        self._x, self._r = torch.zeros_like(x[:, 0]).double(), torch.zeros_like(r[:, 0]).double()
        self._rr = torch.zeros_like(self._r)
        self._xx = x.new_zeros(parts, width, width)
        self._xr = x.new_zeros(parts, width, self.outputs)

    def add(self, inputs: Tensor, errors: Tensor) -> None:
        x, r = inputs - self._x_shift, errors - self._r_shift
        self.rows += x.shape[1]
        self._x += x.sum(1, dtype=torch.float64)
        self._r += r.sum(1, dtype=torch.float64)
        self._rr += torch.linalg.vector_norm(r, dim=1, dtype=torch.float64).square()
        self._xr.baddbmm_(x.mT, r)
        if len(x) > 1:
            self._xx.baddbmm_(x.mT, x)
            return
        for start in range(0, x.shape[2], COLUMNS):
            stop = start + COLUMNS
            self._xx[0, start:stop, :stop].addmm_(x[0, :, start:stop].T, x[0, :, :stop])

    def take(self, other: "_Sums") -> None:
        """Add the sums of other rows about the same shifts."""
        self.rows += other.rows
        for name in ("_x", "_r", "_rr", "_xx", "_xr"):
            getattr(self, name).add_(getattr(other, name))

    def solved(self, ridge: float, has_offset: bool, outputs: slice = slice(None)) -> Correction:
        """Ridge regression of the errors of these outputs on the standardised inputs."""
        x, r = self._x / self.rows, self._r[:, outputs] / self.rows
        x_mean, r_mean = x + self._x_shift[:, 0], r + self._r_shift[:, 0, outputs]
        target = self._xr[:, :, outputs].double() / self.rows - x[:, :, None] * r[:, None]
        if ridge == math.inf:
            weights = torch.zeros_like(target)
        else:
            weights = self._regressed(ridge, target, x, x_mean, r_mean, has_offset)
        offsets = r_mean - torch.einsum("gd,gdo->go", x_mean, weights) if has_offset else None
        return Correction(weights=weights, offsets=offsets)

    def _regressed(
        self, ridge: float, target: Tensor, x: Tensor, x_mean: Tensor, r_mean: Tensor, has_offset: bool
    ) -> Tensor:
        rounded = torch.finfo(torch.float32).eps * x.shape[1] / ridge < ROUNDED
        matrix = self._xx / self.rows if rounded else self._xx.double().div_(self.rows)
        matrix.baddbmm_(x.to(matrix)[:, :, None], x.to(matrix)[:, None], alpha=-1)
        if not has_offset:
            mean = x_mean.to(matrix)
            matrix.baddbmm_(mean[:, :, None], mean[:, None])
            target = target + x_mean[:, :, None] * r_mean[:, None]
        diagonal = matrix.diagonal(dim1=1, dim2=2).double()
        is_used = varies(diagonal, x_mean) if has_offset else diagonal > 0
        scale = diagonal.where(is_used, torch.inf).sqrt()
        matrix.div_(scale.to(matrix)[:, :, None]).div_(scale.to(matrix)[:, None])
        target = (target / scale[:, :, None]).to(matrix)
        solution = torch.cholesky_solve(target, factorised(matrix, ridge))
        return solution.double().div_(scale[:, :, None])

    def error(self, correction: Correction | None, outputs: slice = slice(None)) -> float:
        """The sum of squared errors of these outputs after a correction of them, or None."""
        r, squares = self._r[:, outputs], self._rr[:, outputs].sum()
        shift = self._r_shift[:, 0, outputs].double()
        if correction is None:
            return float(squares + (shift * (2 * r + self.rows * shift)).sum())
        weights = correction.weights
        shift = shift - torch.einsum("gd,gdo->go", self._x_shift[:, 0].double(), weights)
        if correction.offsets is not None:
            shift = shift - correction.offsets
        if weights.any():
            half = self._xx.tril()
            half.diagonal(dim1=1, dim2=2).div_(2)
            products = 2 * (half @ weights.to(half) - self._xr[:, :, outputs])
            squares = squares + (weights * products).sum()
        r = r - torch.einsum("gd,gdo->go", self._x, weights)
        return float(squares + (shift * (2 * r + self.rows * shift)).sum())
