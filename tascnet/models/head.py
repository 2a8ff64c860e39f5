"""The dense head of a chain: where it starts, and how it is replaced."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tascnet.errors import SurgeryError
from tascnet.models.activations import ACTIVATIONS
from tascnet.models.blocks import sequence

# Prefix of a head's blocks, except for the classifier, by which `head_start` finds them again.
HEAD_PREFIX = "head_"


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """The dense layers between the features and the outputs.

    Args:
        hidden: neurons of each hidden layer; empty: the classifier alone.
        dropout: probability before every dense layer; 0 leaves the layer out.
        activation: a name in `tascnet.models.activations.ACTIVATIONS`, after each hidden layer.
    """

    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    activation: str = "relu"


def classifier_of(chain: nn.Sequential) -> nn.Linear:
    """The last block of a chain, with one output for each class.

    Raises:
        SurgeryError: the last block is no `nn.Linear`.
    """
    last = chain[-1] if len(chain) else None
    if not isinstance(last, nn.Linear):
        raise SurgeryError(
            f"the last block of the chain is {type(last).__name__}, expected an nn.Linear classifier"
        )
    return last


def head_start(chain: nn.Sequential) -> int:
    """Index of the head's first block.

    The head is the classifier, and before it Dropouts and the layers of `replace_head` or `grow_head`.
    """
    classifier_of(chain)
    items = list(chain.named_children())
    start = len(items) - 1
    while start > 0 and (
        items[start - 1][0].startswith(HEAD_PREFIX) or isinstance(items[start - 1][1], nn.Dropout)
    ):
        start -= 1
    return start


def head_width(chain: nn.Sequential) -> int:
    """Features that the head of a chain reads."""
    head = list(chain)[head_start(chain) :]
    return next(block.in_features for block in head if isinstance(block, nn.Linear))


def replace_head(chain: nn.Sequential, spec: HeadSpec, num_classes: int, *, seed: int) -> nn.Sequential:
    """A chain with the same features and a new head, whose weights are He-normal and biases zero.

    Args:
        chain: not changed, shares its other blocks with the result.
        spec: the dense layers of the new head.
        num_classes: outputs of the new classifier.
        seed: of the new weights.

    Raises:
        SurgeryError: the chain does not end in a classifier.
    """
    return with_head(chain, dense_blocks(head_width(chain), spec, num_classes, seed=seed))


def with_head(chain: nn.Sequential, head: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """A chain with the same features and another head, of the old classifier's device and type."""
    like = classifier_of(chain).weight
    placed = [(name, block.to(device=like.device, dtype=like.dtype)) for name, block in head]
    return sequence([*list(chain.named_children())[: head_start(chain)], *placed])


def with_dropout(chain: nn.Sequential, dropout: float) -> nn.Sequential:
    """A chain with the same features and classifier, and `dropout` between them.

    Raises:
        SurgeryError: the head has hidden layers.
    """
    dropped = chain[head_start(chain) : len(chain) - 1]
    if not all(isinstance(block, nn.Dropout) for block in dropped):
        raise SurgeryError(
            "the head has hidden layers, expected a classifier alone", "replace the whole head instead"
        )
    middle = [(f"{HEAD_PREFIX}dropout0", nn.Dropout(dropout))] if dropout else []
    return with_head(chain, [*middle, ("classifier", classifier_of(chain))])


def dense_blocks(width: int, spec: HeadSpec, num_classes: int, *, seed: int) -> list[tuple[str, nn.Module]]:
    """New dense layers that read `width` features, and the classifier."""
    generator = torch.Generator().manual_seed(seed)
    blocks: list[tuple[str, nn.Module]] = []
    if spec.dropout:
        blocks.append((f"{HEAD_PREFIX}dropout0", nn.Dropout(spec.dropout)))
    for number, neurons in enumerate(spec.hidden, start=1):
        blocks += [
            (f"{HEAD_PREFIX}linear{number}", he_linear(width, neurons, generator)),
            (f"{HEAD_PREFIX}bn{number}", nn.BatchNorm1d(neurons)),
            (f"{HEAD_PREFIX}activation{number}", ACTIVATIONS[spec.activation]()),
        ]
        if spec.dropout:
            blocks.append((f"{HEAD_PREFIX}dropout{number}", nn.Dropout(spec.dropout)))
        width = neurons
    return [*blocks, ("classifier", he_linear(width, num_classes, generator))]


def he_linear(inputs: int, outputs: int, generator: torch.Generator | None, bias: bool = True) -> nn.Linear:
    """A dense layer with He-normal weights and zero bias; without a generator it has no values."""
    # `skip_init` leaves the global generator alone.
    return he_normal(nn.utils.skip_init(nn.Linear, inputs, outputs, bias=bias), generator)  # type: ignore[no-any-return]


def he_normal(layer: Any, generator: torch.Generator | None) -> Any:
    """The layer with new values; without a generator on the meta device.

    Source: He et al. 2015, equation 12.
    """
    if generator is None:
        return layer.to("meta")
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
