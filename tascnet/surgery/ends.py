"""Networks that end earlier: the first blocks of a chain, its own pooling, and a softmax layer."""

import copy
from itertools import takewhile

import torch
from torch import Tensor, nn

from tascnet.errors import SurgeryError
from tascnet.models.activations import ACTIVATIONS
from tascnet.models.blocks import sequence
from tascnet.models.head import classifier_of, he_linear, head_start
from tascnet.surgery.layers import WEIGHTED, children
from tascnet.surgery.rebuild import shape_after


class Shortener:
    """Ends a chain before one of its blocks.

    Where it ends with a map, the chain's own pooling follows: the blocks without parameters, between the last
    layer with filters, or the activation after it, and the first vector. Normalisation there is left out, and
    dropout before the softmax layer stays.

    Args:
        chain: ends in a softmax layer; it is not changed and shares its blocks with the results.
        example: `1 x c x h x w`, one sample as the chain takes it.

    Raises:
        SurgeryError: the chain does not take the example, or does not end in a softmax layer.
    """

    def __init__(self, chain: nn.Sequential, example: Tensor) -> None:
        self._chain, self._softmax = chain, classifier_of(chain)
        self._blocks, self._head = list(children(chain)), head_start(chain)
        # The shape before each block.
        self._shapes = [example]
        for _, block in self._blocks[: self._head]:
            self._shapes.append(shape_after(nn.Sequential(block), self._shapes[-1]))
        is_map = [shape.dim() > 2 for shape in self._shapes]
        # The first block that reads one of the vectors that reach the head.
        count = len(list(takewhile(lambda of_map: not of_map, reversed(is_map))))
        vectors = min(self._head + 1 - count, self._head)
        last = takewhile(lambda item: _is_after_layers(item[1]), reversed(self._blocks[:vectors]))
        self._pooling = [(name, block) for name, block in last if not _has_parameters(block)][::-1]

    def pooling(self, block: int) -> nn.Sequential:
        """The blocks that turn the features before a block into a vector; none where they are one."""
        return sequence(self._pooling if self._shapes[block].dim() > 2 else [])

    def width(self, block: int) -> int | None:
        """The features of a network that ends before a block; None: it cannot end there.

        It can where a block with parameters is left, and the pooling makes one vector `1 x d` of one sample.
        """
        if not _has_parameters(self._chain[:block]):
            return None
        try:
            features = shape_after(self.pooling(block), self._shapes[block])
        except SurgeryError:
            return None
        return features.shape[1] if features.dim() == 2 and len(features) == 1 else None

    def network(self, block: int, head: nn.Linear | None = None, *, seed: int = 0) -> nn.Sequential:
        """The chain ended before a block.

        Args:
            block: index of the first removed block.
            head: softmax layer, which is copied; None: a new one, He-normal.
            seed: of a new softmax layer.

        Raises:
            SurgeryError: the chain cannot end there, or the softmax layer reads another number of features.
        """
        width = self.width(block)
        if width is None:
            name = self._blocks[block][0]
            raise SurgeryError(f"the network cannot end before '{name}', where its pooling makes no vector")
        if head is None:
            head = he_linear(width, self._softmax.out_features, torch.Generator().manual_seed(seed))
        elif head.in_features != width:
            raise SurgeryError(f"the head of an earlier end has {head.in_features} inputs, expected {width}")
        own = [(name, layer) for name, layer in self._blocks[self._head :] if isinstance(layer, nn.Dropout)]
        weight = self._softmax.weight
        placed = copy.deepcopy(head).to(device=weight.device, dtype=weight.dtype)
        last = self._blocks[-1][0]
        return sequence([*self._blocks[:block], *self.pooling(block).named_children(), *own, (last, placed)])


def _is_after_layers(block: nn.Module) -> bool:
    """Whether a block has no filters and is no activation or dropout."""
    others = (*ACTIVATIONS.values(), nn.Dropout, *WEIGHTED, nn.Embedding)
    return not isinstance(block, others) and not any(isinstance(m, WEIGHTED) for m in block.modules())


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())
