"""The dense head of a chain: where it starts, and how it is replaced."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from tascnet.errors import SurgeryError, listed
from tascnet.models.activations import ACTIVATIONS

# Blocks of a head begin with this, but for the classifier, so that `head_start` finds them again.
HEAD_PREFIX = "head_"


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """The dense layers between the features and the outputs.

    Args:
        hidden: neurons of each hidden layer; empty: the classifier alone.
        dropout: probability before every dense layer; 0 leaves the layer out.
        activation: a name in `tascnet.models.activations.ACTIVATIONS`, after each hidden layer.

    Raises:
        SurgeryError: a value lies outside its bounds.
    """

    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    activation: str = "relu"

    def __post_init__(self) -> None:
        if any(neurons < 1 for neurons in self.hidden):
            raise SurgeryError(f"hidden layers have {self.hidden} neurons, expected at least 1 in each")
        _check_dropout(self.dropout)
        if self.activation not in ACTIVATIONS:
            raise SurgeryError(f"there is no activation {self.activation!r}, expected {listed(ACTIVATIONS)}")


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

    The head is the classifier, and before it the layers that `replace_head` or `grow_head` made and
    Dropouts.
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
    """Features that the head of a chain reads.

    Raises:
        SurgeryError: the chain does not end in a classifier.
    """
    head = list(chain)[head_start(chain) :]
    return next(block.in_features for block in head if isinstance(block, nn.Linear))


def replace_head(chain: nn.Sequential, spec: HeadSpec, num_classes: int, *, seed: int) -> nn.Sequential:
    """A chain with the same features and a new head.

    Args:
        chain: gives `b x old_classes`; not changed, shares its other blocks with the result.
        spec: the dense layers of the new head.
        num_classes: outputs of the new classifier.
        seed: of the new weights.

    Returns:
        A chain that gives `b x num_classes`; weights are He-normal and biases zero.

    Raises:
        SurgeryError: the chain does not end in a classifier, or `num_classes` is below 1.
    """
    return with_head(chain, dense_blocks(head_width(chain), spec, num_classes, seed=seed))


def with_head(chain: nn.Sequential, head: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """A chain with the same features and other named blocks after them, on the classifier's device.

    The blocks take the type of the chain's classifier too.
    """
    like = classifier_of(chain).weight
    placed = [(name, block.to(device=like.device, dtype=like.dtype)) for name, block in head]
    features = list(chain.named_children())[: head_start(chain)]
    return nn.Sequential(OrderedDict([*features, *placed]))


def with_dropout(chain: nn.Sequential, dropout: float) -> nn.Sequential:
    """A chain with the same features and classifier, and `dropout` between them.

    Raises:
        SurgeryError: the head has hidden layers, or `dropout` lies outside [0, 1).
    """
    _check_dropout(dropout)
    dropped = chain[head_start(chain) : len(chain) - 1]
    if not all(isinstance(block, nn.Dropout) for block in dropped):
        raise SurgeryError(
            "the head has hidden layers, expected a classifier alone", "replace the whole head instead"
        )
    middle = [(f"{HEAD_PREFIX}dropout0", nn.Dropout(dropout))] if dropout else []
    return with_head(chain, [*middle, ("classifier", classifier_of(chain))])


def dense_blocks(width: int, spec: HeadSpec, num_classes: int, *, seed: int) -> list[tuple[str, nn.Module]]:
    """New dense layers that read `width` features, and the classifier.

    Raises:
        SurgeryError: `num_classes` is below 1.
    """
    if num_classes < 1:
        raise SurgeryError(f"the number of classes is {num_classes}, expected at least 1")
    generator = torch.Generator().manual_seed(seed)
    blocks: list[tuple[str, nn.Module]] = []
    if spec.dropout:
        blocks.append((f"{HEAD_PREFIX}dropout0", nn.Dropout(spec.dropout)))
    for number, neurons in enumerate(spec.hidden, start=1):
        blocks += [
            (f"{HEAD_PREFIX}linear{number}", _he_linear(width, neurons, generator)),
            (f"{HEAD_PREFIX}bn{number}", nn.BatchNorm1d(neurons)),
            (f"{HEAD_PREFIX}activation{number}", ACTIVATIONS[spec.activation]()),
        ]
        if spec.dropout:
            blocks.append((f"{HEAD_PREFIX}dropout{number}", nn.Dropout(spec.dropout)))
        width = neurons
    return [*blocks, ("classifier", _he_linear(width, num_classes, generator))]


def _he_linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """Source: He et al. 2015, equation 12."""
    # `skip_init` leaves the global generator alone.
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def _check_dropout(dropout: float) -> None:
    if not 0.0 <= dropout < 1.0:
        raise SurgeryError(f"dropout is {dropout}, expected a number from 0 to below 1")
