"""How good a network is on a set of samples."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from tascnet.data.sources import Source


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Loss and accuracy over `samples` samples.

    Args:
        loss: mean cross-entropy, without class weights and smoothing.
        accuracy: share of correct predictions, in [0, 1].
        samples: how many were judged.
    """

    loss: float
    accuracy: float
    samples: int


def evaluate(
    model: nn.Module,
    source: Source,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
) -> Evaluation:
    """Judge `model` in eval mode on the plain view of `source`; its mode is restored."""
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        loss, correct = _totals(model, source, torch.device(device), batch_size)
    finally:
        for module, training in was_training.items():
            module.training = training
    samples = len(source)
    return Evaluation(loss=loss / samples, accuracy=correct / samples, samples=samples)


@torch.inference_mode()
def _totals(model: nn.Module, source: Source, device: torch.device, batch_size: int) -> tuple[float, int]:
    loss, correct = 0.0, 0
    for rows in torch.split(torch.arange(len(source)), batch_size):
        logits = model(source.batch(rows, None).to(device, non_blocking=True)).float()
        labels = source.labels[rows].to(device)
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        correct += int((logits.argmax(1) == labels).sum())
    return loss, correct
