"""Which layers learn: frozen prefixes, training mode, batch-norm statistics."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tascnet.data.sources import Source
from tascnet.models.head import head_start


def freeze_before(chain: nn.Sequential, first_trained: int) -> None:
    """Freeze the blocks before index `first_trained` and make all later ones trainable."""
    for index, block in enumerate(chain):
        block.requires_grad_(index >= first_trained)


def set_training_mode(chain: nn.Sequential, first_trained: int, batchnorm: str) -> None:
    """Training mode from block `first_trained` on; earlier blocks and frozen batch-norm are in eval mode.

    With `batchnorm="frozen"` all batch-norm is.
    """
    for index, block in enumerate(chain):
        block.train(index >= first_trained)
    for module in chain.modules():
        if isinstance(module, _BatchNorm) and (batchnorm == "frozen" or _is_frozen(module)):
            module.eval()


@contextmanager
def classifier_dropout(chain: nn.Sequential, probability: float) -> Iterator[None]:
    """Dropout of the classifier's input in training mode; a head with dropout of its own is left alone."""
    classifier = chain[-1] if len(chain) else None
    if not probability or not isinstance(classifier, nn.Linear) or has_dropout(chain):
        yield
        return

    def drop(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (F.dropout(inputs[0], probability, training=module.training),)

    handle = classifier.register_forward_pre_hook(drop)
    try:
        yield
    finally:
        handle.remove()


def has_dropout(chain: nn.Sequential) -> bool:
    """Whether the head of a chain has dropout."""
    head = chain[head_start(chain) :]
    return any(isinstance(module, nn.Dropout) and module.p > 0 for module in head.modules())


def batches(order: Tensor, batch_size: int) -> list[Tensor]:
    """`order` in batches; a last batch of one sample, which batch-norm cannot take, joins the one before."""
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
    """Measure the batch-norm statistics from `first_block` on again; frozen layers keep theirs.

    The mean over batches of plain (not augmented) samples replaces the running averages, without dropout
    and gradients.

    Args:
        chain: the network, which is in eval mode afterwards.
        source: the training samples.
        first_block: index of the first block whose structure changed.
        batch_size: samples a pass; an incomplete last batch is left out where there are others.
        device: of the network.
    """
    norms = [
        module
        for module in chain[first_block:].modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats and not _is_frozen(module)
    ]
    if not norms:
        return
    parts = batches(torch.arange(len(source)), batch_size)
    if len(parts) > 1 and len(parts[-1]) < batch_size:
        parts.pop()
    chain.eval()
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        with torch.no_grad():
            for rows in parts:
                chain(source.batch(rows, None).to(device, non_blocking=True))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        chain.eval()


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters(recurse=False))
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
