"""How the classes fare, from labels and predictions."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tascnet.run.records import ClassMetrics


def class_metrics(names: Sequence[str], labels: Tensor, predictions: Tensor) -> tuple[ClassMetrics, ...]:
    """Recall, precision and F1 of each class, from labels and predictions `samples`.

    A class without samples has a recall of 0, and one that is never predicted a precision of 0.
    """
    # Importing it takes seconds.
    from sklearn.metrics import precision_recall_fscore_support

    known = np.arange(len(names))
    columns = precision_recall_fscore_support(
        labels.numpy(), predictions.numpy(), labels=known, zero_division=0.0
    )
    return tuple(
        ClassMetrics(name=name, samples=int(samples), recall=recall, precision=precision, f1=f1)
        for name, precision, recall, f1, samples in zip(names, *(c.tolist() for c in columns), strict=True)
    )


def confusion(labels: Tensor, predictions: Tensor) -> tuple[tuple[int, int, int], ...]:
    """True class, predicted class and number of samples, for each pair that occurs in `samples`."""
    pairs, counts = torch.stack([labels, predictions], dim=1).unique(dim=0, return_counts=True)
    return tuple((true, named, n) for (true, named), n in zip(pairs.tolist(), counts.tolist(), strict=True))
