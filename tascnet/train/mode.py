"""Which layers learn: frozen prefixes, training mode, batch-norm statistics."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tascnet.data.sources import Source


def freeze_before(chain: nn.Sequential, first_trained: int) -> None:
    """Freeze the blocks before index `first_trained` and make all later ones trainable."""
    for index, block in enumerate(chain):
        block.requires_grad_(index >= first_trained)


def set_training_mode(chain: nn.Sequential, first_trained: int, batchnorm: str) -> None:
    """Training mode from block `first_trained` on; frozen layers are in eval mode.

    Args:
        chain: the network.
        first_trained: index of the first block that is trained.
        batchnorm: `frozen` keeps batch-norm of the trained blocks in eval mode too.
    """
    for index, block in enumerate(chain):
        block.train(index >= first_trained)
    for module in chain.modules():
        if isinstance(module, _BatchNorm) and (batchnorm == "frozen" or _is_frozen(module)):
            module.eval()


def batches(order: Tensor, batch_size: int) -> list[Tensor]:
    """`order` cut into batches; a last batch of one sample joins the one before it.

    Batch-norm cannot be trained on a single sample.
    """
    parts = list(torch.split(order, batch_size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def reestimate_batchnorm(
    chain: nn.Sequential,
    source: Source,
    *,
    first_block: int = 0,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
) -> None:
    """Measure the batch-norm statistics at and after `first_block` again, on training data.

    The mean over batches of plain (not augmented) samples replaces the running averages, dropout
    off, without gradients. Frozen batch-norm layers keep their statistics.

    Args:
        chain: the network, with the structure that it is to keep.
        source: the training samples.
        first_block: index of the first block whose structure changed.
        batch_size: samples a pass; an incomplete last batch is left out where there are others.
        device: where the network is.
    """
    norms = list(_norms_to_measure(chain, first_block))
    if not norms:
        return
    chain.eval()
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        with torch.no_grad():
            for rows in _full_batches(len(source), batch_size):
                chain(source.batch(rows, None).to(device, non_blocking=True))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        chain.eval()


def _full_batches(count: int, batch_size: int) -> list[Tensor]:
    parts = batches(torch.arange(count), batch_size)
    return parts[:-1] if len(parts) > 1 and len(parts[-1]) < batch_size else parts


def _norms_to_measure(chain: nn.Sequential, first_block: int) -> Iterator[_BatchNorm]:
    for block in list(chain)[first_block:]:
        for module in block.modules():
            if isinstance(module, _BatchNorm) and module.track_running_stats and not _is_frozen(module):
                yield module


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters(recurse=False))
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
