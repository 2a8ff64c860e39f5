"""The dense head of a chain: where it starts, and how it is replaced."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import nn

from tascnet.errors import SurgeryError

__all__ = ["HEAD_ACTIVATIONS", "HeadSpec", "classifier_of", "head_start", "replace_head", "with_dropout"]

HEAD_ACTIVATIONS: Mapping[str, type[nn.Module]] = MappingProxyType(
    {
        "relu": nn.ReLU,
        "relu6": nn.ReLU6,
        "leaky_relu": nn.LeakyReLU,
        "elu": nn.ELU,
        "selu": nn.SELU,
        "silu": nn.SiLU,
        "gelu": nn.GELU,
        "tanh": nn.Tanh,
        "sigmoid": nn.Sigmoid,
        "hardswish": nn.Hardswish,
    }
)

# Blocks made by `replace_head` begin with this, so that `head_start` finds them again.
_PREFIX = "head_"


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """The dense layers between the features and the outputs.

    Args:
        hidden: neurons of each hidden layer; empty: the classifier alone.
        dropout: probability before every dense layer; 0 leaves the layer out.
        activation: a name in `HEAD_ACTIVATIONS`, after each hidden layer.

    Raises:
        SurgeryError: a value lies outside its bounds.
    """

    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    activation: str = "relu"

    def __post_init__(self) -> None:
        if any(neurons < 1 for neurons in self.hidden):
            raise SurgeryError(f"hidden layers of {self.hidden} neurons, but at least 1 is expected in each")
        _check_dropout(self.dropout)
        if self.activation not in HEAD_ACTIVATIONS:
            raise SurgeryError(
                f"activation {self.activation!r} is unknown, but one of "
                f"{', '.join(HEAD_ACTIVATIONS)} is expected"
            )


def classifier_of(chain: nn.Sequential) -> nn.Linear:
    """The last block of a chain, which gives one output a class.

    Raises:
        SurgeryError: the last block is no `nn.Linear`.
    """
    last = chain[-1] if len(chain) else None
    if not isinstance(last, nn.Linear):
        raise SurgeryError(
            f"the last block of the chain is {type(last).__name__}, but an nn.Linear classifier is expected"
        )
    return last


def head_start(chain: nn.Sequential) -> int:
    """Index of the head's first block.

    The head is the classifier, and before it the layers that `replace_head` made and Dropouts.
    """
    classifier_of(chain)
    items = list(chain.named_children())
    start = len(items) - 1
    while start > 0 and (
        items[start - 1][0].startswith(_PREFIX) or isinstance(items[start - 1][1], nn.Dropout)
    ):
        start -= 1
    return start


def replace_head(chain: nn.Sequential, spec: HeadSpec, num_classes: int, *, seed: int) -> nn.Sequential:
    """A chain with the same features and a new head.

    Args:
        chain: gives `b x old_classes`; stays as it is, and shares its other blocks with the result.
        spec: the dense layers of the new head.
        num_classes: outputs of the new classifier.
        seed: of the new weights.

    Returns:
        A chain that gives `b x num_classes`; weights are He-normal and biases zero.

    Raises:
        SurgeryError: the chain does not end in a classifier, or `num_classes` is below 1.
    """
    if num_classes < 1:
        raise SurgeryError(f"the number of classes is {num_classes}, but at least 1 is expected")
    old = classifier_of(chain)
    head = _new_head(old.in_features, spec, num_classes, torch.Generator().manual_seed(seed))
    placed = head.to(device=old.weight.device, dtype=old.weight.dtype)
    return _joined(_features(chain), placed.named_children())


def with_dropout(chain: nn.Sequential, dropout: float) -> nn.Sequential:
    """A chain with the same features and classifier, and `dropout` between them.

    Raises:
        SurgeryError: the head has hidden layers, or `dropout` lies outside [0, 1).
    """
    _check_dropout(dropout)
    dropped = chain[head_start(chain) : len(chain) - 1]
    if not all(isinstance(block, nn.Dropout) for block in dropped):
        raise SurgeryError(
            "the head has hidden layers, but a classifier alone is expected", "replace the whole head instead"
        )
    middle = [(f"{_PREFIX}dropout0", nn.Dropout(dropout))] if dropout else []
    return _joined(_features(chain), [*middle, ("classifier", classifier_of(chain))])


def _features(chain: nn.Sequential) -> list[tuple[str, nn.Module]]:
    return list(chain.named_children())[: head_start(chain)]


def _joined(
    features: Iterable[tuple[str, nn.Module]], head: Iterable[tuple[str, nn.Module]]
) -> nn.Sequential:
    return nn.Sequential(OrderedDict([*features, *head]))


def _new_head(width: int, spec: HeadSpec, num_classes: int, generator: torch.Generator) -> nn.Sequential:
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    if spec.dropout:
        blocks[f"{_PREFIX}dropout0"] = nn.Dropout(spec.dropout)
    for number, neurons in enumerate(spec.hidden, start=1):
        blocks[f"{_PREFIX}linear{number}"] = _he_linear(width, neurons, generator)
        blocks[f"{_PREFIX}bn{number}"] = nn.BatchNorm1d(neurons)
        blocks[f"{_PREFIX}activation{number}"] = HEAD_ACTIVATIONS[spec.activation]()
        if spec.dropout:
            blocks[f"{_PREFIX}dropout{number}"] = nn.Dropout(spec.dropout)
        width = neurons
    blocks["classifier"] = _he_linear(width, num_classes, generator)
    return nn.Sequential(blocks)


def _he_linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """Source: He et al. 2015, equation 12."""
    # `skip_init` leaves the global generator alone.
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def _check_dropout(dropout: float) -> None:
    if not 0.0 <= dropout < 1.0:
        raise SurgeryError(f"dropout is {dropout}, but a number from 0 to below 1 is expected")
