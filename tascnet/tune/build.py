"""A configuration's network: the tail of the chain, changed by surgery, with inherited weights."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tascnet.errors import SurgeryError
from tascnet.models.head import HeadSpec, head_start, replace_head, with_dropout
from tascnet.models.surgery import (
    all_channel_scores,
    block_of,
    narrow,
    replace_layer,
    set_activation,
    set_kernel,
    width_groups,
)
from tascnet.models.surgery.trace import meta_copy
from tascnet.tune.discover import DROPOUT, HIDDEN_LAYERS, NEURONS
from tascnet.tune.space import FIRST_TRAINED, Choice, Configuration, Space

__all__ = ["Candidate", "build_candidate"]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """The trained part of a configuration's network.

    Args:
        tail: the blocks from `cut` on, copied and changed, all trainable; the trunk is `chain[:cut]`.
        cut: index in the chain of the first trained block.
        first_changed: index in `tail` of the first block whose structure was changed, the first new one
            of a new head included; None where the structure is the pre-trained one.
        lr_factor: multiple of the recipe's learning rate with which the tail learns.
        frozen: dotted names of layers in `tail` that keep their pre-trained weights, in eval mode.
    """

    tail: nn.Sequential
    cut: int
    first_changed: int | None
    lr_factor: float = 1.0
    frozen: tuple[str, ...] = ()


def build_candidate(
    chain: nn.Sequential,
    space: Space,
    config: Mapping[str, Any],
    example: Tensor,
    *,
    num_classes: int,
    importance: str = "magnitude",
    seed: int = 0,
) -> Candidate:
    """Copy the tail that a configuration trains and give it the configuration's structure.

    Narrower groups keep their most important channels, other kernels are cropped or padded with zeros,
    and without hidden layers the given softmax layer stays, with its weights. The chain is left as it is.

    Args:
        chain: the pre-trained network with its trained softmax layer.
        space: made of `discover_units(chain, ...)`.
        config: a configuration of the space.
        example: `1 x c x h x w`, one sample as the chain takes it.
        num_classes: outputs of the network.
        importance: criterion of the channels that stay, one of `tascnet.models.surgery.CRITERIA`.
        seed: of the weights of new layers, and of random importance.

    Raises:
        SurgeryError: the structure is impossible.
    """
    config = space.canonical(config)
    cut = space.units[int(config[FIRST_TRAINED])].block
    tail = copy.deepcopy(chain[cut:]).requires_grad_(True)
    features = _shape_probe(chain[:cut], example)
    changes = [choice for choice in space.active(config) if config[choice.name] != choice.neutral]
    changed = [
        *_narrow(
            tail, features, {c.layers[0]: c for c in changes if c.what == "width"}, config, importance, seed
        ),
        *_change_layers(tail, changes, config),
    ]
    if config[HIDDEN_LAYERS]:
        changed.append(head_start(tail))
    tail = _with_head(tail, config, num_classes, seed).requires_grad_(True)
    _check_output(tail, features, num_classes)
    return Candidate(tail=tail, cut=cut, first_changed=min(changed, default=None))


def _shape_probe(trunk: nn.Sequential, example: Tensor) -> Tensor:
    """Zeros of the shape in which one sample leaves the trunk, found without computing it."""
    ghost = meta_copy(trunk).eval()
    with torch.no_grad():
        shape = ghost(torch.empty_like(example, device="meta")).shape
    return torch.zeros(shape)


def _narrow(
    tail: nn.Sequential,
    features: Tensor,
    choices: Mapping[str, Choice],
    config: Configuration,
    importance: str,
    seed: int,
) -> list[int]:
    """Make groups narrower; gives the indices of their first blocks."""
    if not choices:
        return []
    groups = [group for group in width_groups(tail, features) if group.name in choices]
    if missing := choices.keys() - {group.name for group in groups}:
        raise SurgeryError(f"the group '{min(missing)}' cannot be made narrower in the tail that is trained")
    scores = all_channel_scores(tail, features, groups, importance, seed)
    keep = {}
    for group in groups:
        width = int(config[choices[group.name].name])
        ranked = torch.argsort(scores[group.name], descending=True, stable=True)
        keep[group.name] = sorted(ranked[:width].tolist())
    narrow(tail, features, keep)
    return [group.first_block for group in groups]


def _change_layers(tail: nn.Sequential, changes: list[Choice], config: Configuration) -> Iterator[int]:
    """Give layers other kernels and activations; gives the indices of their blocks."""
    for choice in changes:
        for name in choice.layers:
            if choice.what == "kernel":
                conv = tail.get_submodule(name)
                assert isinstance(conv, nn.Conv2d)
                replace_layer(tail, name, set_kernel(conv, int(config[choice.name])))
            elif choice.what == "activation":
                set_activation(tail, name, str(config[choice.name]))
            else:
                continue
            yield block_of(tail, name)


def _with_head(tail: nn.Sequential, config: Configuration, num_classes: int, seed: int) -> nn.Sequential:
    dropout = float(config[DROPOUT])
    if not config[HIDDEN_LAYERS]:
        return with_dropout(tail, dropout)
    hidden = (int(config[NEURONS]),) * int(config[HIDDEN_LAYERS])
    return replace_head(tail, HeadSpec(hidden=hidden, dropout=dropout), num_classes, seed=seed)


def _check_output(tail: nn.Sequential, features: Tensor, num_classes: int) -> None:
    ghost = meta_copy(tail).eval()
    try:
        with torch.no_grad():
            shape = tuple(ghost(features.to("meta")).shape)
    except RuntimeError as error:
        raise SurgeryError(f"the network does not run after the change ({error})") from error
    if shape != (1, num_classes):
        raise SurgeryError(f"the network gives an output of shape {shape}, expected {(1, num_classes)}")
