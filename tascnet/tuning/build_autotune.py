"""The networks of AutoTune's configurations, and what they cost.

Source: Basha et al. 2020, section 3.
"""

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from tascnet.errors import SurgeryError
from tascnet.measure import complexity, costs_of_shapes
from tascnet.models.activations import ACTIVATIONS
from tascnet.models.head import classifier_of
from tascnet.models.inspect import meta_copy
from tascnet.options import Autotune
from tascnet.surgery import Skip, he_linear, rebuild, shape_after
from tascnet.tuning.autotune import HEAD_ACTIVATION, head_begin
from tascnet.tuning.build import Candidate, check_output
from tascnet.tuning.cost import Cost, sum_of
from tascnet.tuning.head import HIDDEN_LAYERS
from tascnet.tuning.space import FIRST_TRAINED, Configuration, Space, Value


class AutotuneBuilder:
    """Builds a configuration's tail: its searched layers, all that follows them, and the dense head.

    The chain is left as it is. In the first trained block the layers before the searched one keep their
    pre-trained weights and are frozen.

    Args:
        chain: the pre-trained network with its trained softmax layer.
        space: made of `discover_autotune(chain, ...)` with the same options.
        example: `1 x c x h x w`, one sample as the chain takes it.
        options: whether connections and dense layers are kept.
        seed: of the new weights; None leaves them without values.
    """

    def __init__(
        self,
        chain: nn.Sequential,
        space: Space,
        example: Tensor,
        options: Autotune,
        *,
        seed: int | None = 0,
    ) -> None:
        self._chain, self._space, self._example = chain, space, example
        self._options, self._seed = options, seed
        self._num_classes = classifier_of(chain).out_features
        self._entries: dict[int, Tensor] = {}

    def cut(self, config: Mapping[str, Any]) -> int:
        """Index of the first trained block."""
        return self._space.units[int(config[FIRST_TRAINED])].block

    def entry(self, cut: int) -> Tensor:
        """One sample as it reaches a tail; its shape alone matters."""
        if cut not in self._entries:
            self._entries[cut] = shape_after(self._chain[:cut], self._example)
        return self._entries[cut]

    def __call__(self, config: Mapping[str, Any]) -> Candidate:
        """The trained part of a configuration's network.

        Args:
            config: a configuration of the space.

        Raises:
            SurgeryError: the new layers do not fit together.
        """
        config, chain = self._space.canonical(config), self._chain
        generator = None if self._seed is None else torch.Generator().manual_seed(self._seed)
        cut, start = self.cut(config), head_begin(chain, self._options.dense)
        entry = self.entry(cut)
        settings, side = self._settings(config)
        rebuilt = rebuild(
            chain[cut:start],
            entry,
            settings,
            skip=cast(Skip, self._options.skip),
            side=side,
            generator=generator,
        )
        old = chain[start:]
        keeps_classifier = self._keeps_classifier(old, rebuilt.features, config)
        if keeps_classifier:
            head = list(copy.deepcopy(old).requires_grad_(True).named_children())
        else:
            head = self._head_layers(old, int(rebuilt.features.shape[1]), config, generator)
        tail = nn.Sequential(OrderedDict([*rebuilt.chain.named_children(), *head]))
        weight = classifier_of(chain).weight
        tail.to(device=weight.device, dtype=weight.dtype).train(chain.training)
        check_output(tail, entry, self._num_classes)
        first_changed = None if cut == start and keeps_classifier else 0
        return Candidate(tail=tail, cut=cut, first_changed=first_changed, frozen=rebuilt.frozen)

    def _settings(self, config: Configuration) -> tuple[dict[str, dict[str, Value]], int]:
        """By searched layer its settings; and the side of the largest kernel.

        That is the largest of the units that the configuration trains: deeper ones, which may join the space
        later, do not change a network.
        """
        settings: dict[str, dict[str, Value]] = {}
        for choice in self._space.active(config):
            for name in choice.layers:
                settings.setdefault(name, {})[choice.what] = config[choice.name]
        trained = self._space.choices_to(int(config[FIRST_TRAINED]))
        sides = [int(c.values[-1]) for c in trained if c.what in ("filter_size", "pool_size")]
        return settings, max(sides, default=1)

    def _keeps_classifier(self, old: nn.Sequential, features: Tensor, config: Configuration) -> bool:
        """Whether the trained classifier serves the configuration as it is.

        Args:
            old: the blocks that the head replaces, the trained classifier the last one.
            features: `1 x width`, what the head gets; its shape alone matters.
            config: the configuration.
        """
        if features.dim() != 2:
            shape = tuple(features.shape)
            raise SurgeryError(f"features of shape {shape} reach the head, but vectors are expected")
        fits = classifier_of(old).in_features == features.shape[1]
        return not config[HIDDEN_LAYERS] and fits and not _has_dense(old)

    def _head_layers(
        self,
        old: nn.Sequential,
        width: int,
        config: Configuration,
        generator: torch.Generator | None,
    ) -> list[tuple[str, nn.Module]]:
        """The dense layers of a configuration and a new classifier, by name."""
        hidden = int(config[HIDDEN_LAYERS])
        layers: list[tuple[str, nn.Module]] = []
        if not hidden and not _has_dense(old):
            layers += copy.deepcopy(old[:-1]).named_children()
        for number in range(1, hidden + 1):
            neurons = int(config[f"head.neurons{number}"])
            layers += [
                (f"head_linear{number}", he_linear(width, neurons, generator)),
                (f"head_bn{number}", nn.BatchNorm1d(neurons)),
                (f"head_activation{number}", ACTIVATIONS[str(config[HEAD_ACTIVATION])]()),
                (f"head_dropout{number}", nn.Dropout(float(config[f"head.dropout{number}"]))),
            ]
            width = neurons
        return [*layers, ("classifier", he_linear(width, self._num_classes, generator))]


class AutotuneCost:
    """The cost of every configuration's network, from the shapes of its layers without their weights.

    Args:
        chain: the pre-trained network with its softmax layer; left as it is.
        space: made of `discover_autotune(chain, ...)` with the same options.
        example: `1 x c x h x w`, one sample as the chain takes it.
        options: as in `AutotuneBuilder`.

    Raises:
        SurgeryError: the cost of a layer of the chain does not follow from its shape.
    """

    def __init__(self, chain: nn.Sequential, space: Space, example: Tensor, options: Autotune) -> None:
        costs = costs_of_shapes(chain, example)
        for layer in complexity(chain, example).layers:
            if costs.get(layer.name, (0, 0)) != (layer.params, layer.flops):
                raise SurgeryError(
                    f"the cost of layer '{layer.name}' ({layer.kind}) does not follow from its shape",
                    "search without bounds on params and flops",
                )
        ghost = meta_copy(chain)
        assert isinstance(ghost, nn.Sequential)
        self._build = AutotuneBuilder(ghost, space, example, options, seed=None)
        blocks = list(chain._modules)
        self._trunks = {
            cut: sum_of(cost for name, cost in costs.items() if name.partition(".")[0] in set(blocks[:cut]))
            for cut in {unit.block for unit in space.units}
        }

    def __call__(self, config: Mapping[str, Any]) -> Cost:
        """Parameters and FLOPs of the whole network, trunk and tail.

        Args:
            config: a configuration of the space.

        Raises:
            SurgeryError: the new layers do not fit together.
        """
        built = self._build(config)
        tail = costs_of_shapes(built.tail, self._build.entry(built.cut))
        return self._trunks[built.cut] + sum_of(tail.values())


def _has_dense(head: nn.Sequential) -> bool:
    """Whether dense layers lead to the classifier; the searched ones replace them."""
    return any(isinstance(block, nn.Linear) for block in head[:-1])
