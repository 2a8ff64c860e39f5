"""Cholesky factors of matrices that rounding errors, or too few samples, may have left indefinite."""

import logging

import torch
from torch import Tensor

from tascnet.errors import SurgeryError

log = logging.getLogger("tascnet")

# A factorisation that fails is tried again this often, each time with ten times the ridge; the first is at
# least this share of the largest entry on the diagonal.
RAISES, LEAST = 8, 1e-9


def factorised(matrix: Tensor, ridge: float) -> Tensor:
    """The factors of symmetric matrices `... x n x n` with a ridge on their diagonals.

    Where there is none, the ridge of that matrix is raised, up to `RAISES` times. The matrices stay as they
    are.

    Raises:
        SurgeryError: there is none with the largest ridge either.
    """
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    bare = diagonal.clone()
    least = LEAST * bare.abs().amax(-1)
    ridges = torch.full_like(least, ridge)
    for _ in range(RAISES + 1):
        diagonal.copy_(bare + ridges[..., None])
        factor, info = torch.linalg.cholesky_ex(matrix)
        if not info.any():
            break
        ridges = torch.where(info > 0, 10 * ridges.maximum(least), ridges)
    diagonal.copy_(bare)
    if info.any():
        raise SurgeryError(
            f"least squares have no solution, even with a ridge of {float(ridges.max()) / 10:.0e}",
            "the network's activations may be no finite numbers: train it first, or start from other weights",
        )
    if bool((ridges > ridge).any()):
        log.info("least squares with a ridge of %.0e: they had no solution with %.0e", ridges.max(), ridge)
    return factor
