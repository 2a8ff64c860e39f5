"""The networks of AutoTune's configurations, and what they cost.

Source: Basha et al. 2020, section 3.
"""

import copy
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tascnet.errors import SurgeryError
from tascnet.measure import LayerCost, complexity
from tascnet.models.activations import ACTIVATIONS
from tascnet.models.head import classifier_of
from tascnet.surgery.rebuild import Skip, he_linear, rebuild, shape_after
from tascnet.surgery.trace import fitted, meta_copy
from tascnet.tuning.autotune import HEAD_ACTIVATION, Dense, check_options, head_begin
from tascnet.tuning.build import Candidate
from tascnet.tuning.cost import Cost
from tascnet.tuning.discover import HIDDEN_LAYERS
from tascnet.tuning.space import FIRST_TRAINED, Configuration, Space, Value


def build_autotune(
    chain: nn.Sequential,
    space: Space,
    config: Mapping[str, Any],
    example: Tensor,
    *,
    num_classes: int,
    skip: Skip = "keep",
    dense: Dense = "replace",
    seed: int = 0,
) -> Candidate:
    """The tail of a configuration: its searched layers, all that follows them, and the dense head.

    The chain is left as it is. In the first trained block the layers before the searched one keep their
    pre-trained weights and are frozen.

    Args:
        chain: the pre-trained network with its trained softmax layer.
        space: made of `discover_autotune(chain, ...)` with the same `skip` and `dense`.
        config: a configuration of the space.
        example: `1 x c x h x w`, one sample as the chain takes it.
        num_classes: outputs of the network.
        skip: `keep` residual and dense connections, or `drop` them for a plain chain.
        dense: whether dense layers before the classifier are layers of the chain or part of the head.
        seed: of the new weights.

    Raises:
        SurgeryError: the new layers do not fit together.
    """
    check_options(skip=skip, dense=dense)
    config = space.canonical(config)
    entry = shape_after(chain[: _cut(space, config)], example)
    generator = torch.Generator().manual_seed(seed)
    return _candidate(chain, space, config, entry, num_classes, skip, dense, generator)


class AutotuneCost:
    """The cost of every configuration's network, told from the shapes of its layers without their weights.

    Args:
        chain: the pre-trained network with its softmax layer; left as it is.
        space: made of `discover_autotune(chain, ...)` with the same `skip` and `dense`.
        example: `1 x c x h x w`, one sample as the chain takes it.
        skip: as in `build_autotune`.
        dense: as in `build_autotune`.

    Raises:
        SurgeryError: the cost of a layer of the chain does not follow from its shape.
    """

    def __init__(
        self,
        chain: nn.Sequential,
        space: Space,
        example: Tensor,
        *,
        skip: Skip = "keep",
        dense: Dense = "replace",
    ) -> None:
        check_options(skip=skip, dense=dense)
        costs = _layer_costs(chain, example)
        _check_costs(costs, complexity(chain, example).layers)
        self._space, self._skip, self._dense = space, skip, dense
        self._chain = meta_copy(chain)
        self._classes = classifier_of(chain).out_features
        self._trunks: dict[int, Cost] = {}
        self._entries: dict[int, Tensor] = {}
        blocks = list(chain._modules)
        for cut in {unit.block for unit in space.units}:
            before = set(blocks[:cut])
            self._trunks[cut] = _total(cost for name, cost in costs.items() if _block(name) in before)
            self._entries[cut] = shape_after(chain[:cut], example)

    def __call__(self, config: Mapping[str, Any]) -> Cost:
        """Parameters and FLOPs of the whole network, trunk and tail.

        Args:
            config: a configuration of the space.

        Raises:
            SurgeryError: the new layers do not fit together.
        """
        config = self._space.canonical(config)
        cut = _cut(self._space, config)
        entry, chain = self._entries[cut], self._chain
        assert isinstance(chain, nn.Sequential)
        built = _candidate(chain, self._space, config, entry, self._classes, self._skip, self._dense, None)
        return _total([self._trunks[cut], *_layer_costs(built.tail, entry).values()])


def _cut(space: Space, config: Configuration) -> int:
    return space.units[int(config[FIRST_TRAINED])].block


def _candidate(
    chain: nn.Sequential,
    space: Space,
    config: Configuration,
    entry: Tensor,
    num_classes: int,
    skip: Skip,
    dense: Dense,
    generator: torch.Generator | None,
) -> Candidate:
    cut, start = _cut(space, config), head_begin(chain, dense)
    settings, side = _settings(space, config), _largest_kernel(space, int(config[FIRST_TRAINED]))
    rebuilt = rebuild(chain[cut:start], entry, settings, skip=skip, side=side, generator=generator)
    old = chain[start:]
    head = _head_layers(old, rebuilt.features, config, num_classes, generator)
    tail = nn.Sequential(OrderedDict([*rebuilt.chain.named_children(), *head]))
    weight = classifier_of(chain).weight
    tail.to(device=weight.device, dtype=weight.dtype).train(chain.training)
    if (shape := tuple(shape_after(tail, entry).shape)) != (1, num_classes):
        raise SurgeryError(f"the network gives an output of shape {shape}, expected {(1, num_classes)}")
    is_old = cut == start and _keeps_classifier(old, rebuilt.features, config, num_classes)
    return Candidate(tail=tail, cut=cut, first_changed=None if is_old else 0, frozen=rebuilt.frozen)


def _settings(space: Space, config: Configuration) -> dict[str, dict[str, Value]]:
    """For each searched layer what the configuration says of it."""
    settings: dict[str, dict[str, Value]] = {}
    for choice in space.active(config):
        for name in choice.layers:
            settings.setdefault(name, {})[choice.what] = config[choice.name]
    return settings


def _largest_kernel(space: Space, k: int) -> int:
    """Of the units to `k`: deeper ones, which may join the space later, do not change a network."""
    kernels = [c.values[-1] for c in space.choices_to(k) if c.what in ("filter_size", "pool_size")]
    return max(map(int, kernels), default=1)


def _head_layers(
    old: nn.Sequential,
    features: Tensor,
    config: Configuration,
    num_classes: int,
    generator: torch.Generator | None,
) -> list[tuple[str, nn.Module]]:
    """The dense layers of a configuration and the classifier, by name.

    Args:
        old: the blocks that the head replaces, the trained classifier the last one.
        features: `1 x width`, what the head gets; its shape alone matters.
        config: the configuration, of which the choices of unit 0 count.
        num_classes: outputs of the classifier.
        generator: draws the new weights; None leaves them without values.
    """
    if features.dim() != 2:
        shape = tuple(features.shape)
        raise SurgeryError(f"features of shape {shape} reach the head, but vectors are expected")
    if _keeps_classifier(old, features, config, num_classes):
        return list(copy.deepcopy(old).requires_grad_(True).named_children())
    hidden, width = int(config[HIDDEN_LAYERS]), int(features.shape[1])
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
    return [*layers, ("classifier", he_linear(width, num_classes, generator))]


def _keeps_classifier(old: nn.Sequential, features: Tensor, config: Configuration, num_classes: int) -> bool:
    """Whether the trained classifier serves the configuration as it is."""
    classifier = classifier_of(old)
    fits = (classifier.in_features, classifier.out_features) == (features.shape[1], num_classes)
    return not config[HIDDEN_LAYERS] and fits and not _has_dense(old)


def _has_dense(head: nn.Sequential) -> bool:
    """Whether dense layers lead to the classifier; the searched ones come in their place."""
    return any(isinstance(block, nn.Linear) for block in head[:-1])


def _layer_costs(chain: nn.Sequential, example: Tensor) -> dict[str, Cost]:
    """What each layer without children costs, by name."""
    ghost = meta_copy(chain).eval()
    costs: dict[str, Cost] = {}

    def watch(name: str, layer: nn.Module) -> None:
        def note(_: nn.Module, taken: tuple[Tensor, ...], given: Tensor) -> None:
            params = sum(parameter.numel() for parameter in layer.parameters())
            costs[name] = Cost(params=params, flops=_flops(layer, taken[0], given))

        layer.register_forward_hook(note)

    for name, layer in ghost.named_modules():
        if not any(layer.children()):
            watch(name, layer)
    shape_of = fitted(torch.empty_like(example, device="meta"), ghost)
    with torch.no_grad():
        ghost(shape_of)
    return costs


def _flops(layer: nn.Module, taken: Tensor, given: Tensor) -> int:
    """As `tascnet.measure.complexity` counts them."""
    if isinstance(layer, nn.Conv2d):
        return given.numel() * layer.weight[0].numel()
    if isinstance(layer, nn.Linear):
        return given.numel() * layer.in_features
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        return taken.numel() * (2 if layer.affine else 1)
    if isinstance(layer, nn.GroupNorm):
        return taken.numel() * (5 if layer.affine else 4)
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        return taken.numel()
    return given.numel() if isinstance(layer, nn.Upsample) else 0


def _check_costs(costs: Mapping[str, Cost], measured: Iterable[LayerCost]) -> None:
    for layer in measured:
        cost = costs.get(layer.name, Cost(params=0, flops=0))
        if (cost.params, cost.flops) != (layer.params, layer.flops):
            raise SurgeryError(
                f"the cost of layer '{layer.name}' ({layer.kind}) does not follow from its shape",
                "search without bounds on params and flops",
            )


def _total(costs: Iterable[Cost]) -> Cost:
    counted = list(costs)
    return Cost(params=sum(c.params for c in counted), flops=sum(c.flops for c in counted))


def _block(name: str) -> str:
    return name.partition(".")[0]
