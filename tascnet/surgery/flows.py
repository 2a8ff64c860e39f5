"""Labels of channels, carried along with a tensor through every operation that moves data.

The labels of a tensor are an array of whole numbers with as many dimensions as the tensor. A dimension has
the size 1 in it where the label is the same everywhere: those of a map `b x c x h x w` are `1 x c x 1 x 1`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Labels: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Flow:
    """A tensor on the meta device with the labels of its channels."""

    value: Tensor
    labels: Labels


def varying(labels: Labels) -> tuple[int, ...]:
    """The dimensions along which the label differs."""
    return tuple(dim for dim, size in enumerate(labels.shape) if size > 1)


def first(labels: Labels, dim: int) -> Labels:
    """Those at the first position of a dimension, which is kept."""
    return labels.take([0], dim)


def compressed(labels: Labels) -> Labels:
    """With the size 1 in each dimension along which the label is the same everywhere."""
    for dim in varying(labels):
        if bool((labels == first(labels, dim)).all()):
            labels = first(labels, dim)
    return labels


def filled(labels: Labels, dim: int, size: int) -> Labels:
    """With all positions of one dimension."""
    return np.repeat(labels, size, dim) if labels.shape[dim] == 1 else labels


def reshaped(labels: Labels, before: Sequence[int], after: Sequence[int]) -> Labels:
    """The labels of a tensor of the shape `before` that is reshaped to `after`.

    Positions are written out only in those dimensions that the label's own is merged or split with.
    """
    full: list[int] = []
    new: list[int] = []
    for old_dims, new_dims in _segments(before, after):
        sizes = [labels.shape[dim] for dim in old_dims]
        if math.prod(sizes) == 1:
            full += sizes
            new += [1] * len(new_dims)
        else:
            full += [before[dim] for dim in old_dims]
            new += [after[dim] for dim in new_dims]
    return compressed(np.broadcast_to(labels, full).reshape(new))


def _segments(before: Sequence[int], after: Sequence[int]) -> list[tuple[range, range]]:
    """The smallest runs of dimensions of both shapes that hold the same number of positions, in order."""
    segments = []
    i = j = 0
    while i < len(before) or j < len(after):
        old, new = i, j
        have = want = 1
        if i < len(before):
            have, i = before[i], i + 1
        if j < len(after):
            want, j = after[j], j + 1
        while have != want:
            if have < want:
                have, i = have * before[i], i + 1
            else:
                want, j = want * after[j], j + 1
        segments.append((range(old, i), range(new, j)))
    return segments


def with_dimensions(labels: Labels, count: int) -> Labels:
    """With dimensions of size 1 before the others."""
    return labels.reshape((1,) * (count - labels.ndim) + labels.shape)


def joined(parts: Sequence[Labels], sizes: Sequence[int], dim: int) -> Labels:
    """The labels of a concatenation along `dim` of tensors that have `sizes` positions there."""
    whole = [filled(part, dim, size) for part, size in zip(parts, sizes, strict=True)]
    widest = np.array([part.shape for part in whole]).max(0)
    shapes = ([*widest[:dim], part.shape[dim], *widest[dim + 1 :]] for part in whole)
    return compressed(
        np.concatenate([np.broadcast_to(p, s) for p, s in zip(whole, shapes, strict=True)], dim)
    )
