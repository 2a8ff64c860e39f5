"""What of a network can learn from what it was: its layers in the order in which they run."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tascnet.inherit.activations import attached
from tascnet.surgery.layers import is_depthwise

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What one forward pass tells of a network.

    Args:
        layers: by block, its layers that run once and can be solved for, in the order in which they run.
        norms: by such a layer, the batch-norm that reads its outputs, if one alone does.
        bytes_per_sample: of the largest inputs and outputs of a block together.
    """

    layers: dict[str, list[str]]
    norms: dict[str, str]
    bytes_per_sample: int


def survey(chain: nn.Sequential, example: Tensor) -> Survey:
    """Run a network once, in eval mode and without in-place operations, and note what happens.

    A batch-norm belongs to a layer where it is given the layer's outputs themselves and stands in the same
    module: elsewhere a skip may read them too.

    Args:
        chain: the network.
        example: one sample or more.
    """
    outputs: list[tuple[str, Tensor]] = []
    reads: list[tuple[str, Tensor]] = []
    sizes: list[int] = []

    def note_output(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: outputs.append((name, output))

    def note_read(name: str) -> Callable[..., None]:
        return lambda _module, inputs: reads.append((name, inputs[0]))

    def note_size(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        sizes.append(sum(value.numel() * value.element_size() for value in (inputs[0], output)))

    hooks = [block.register_forward_hook(note_size) for block in chain]
    for name, module in chain.named_modules():
        if isinstance(module, (*_CONVS, nn.Linear)):
            hooks.append(module.register_forward_hook(note_output(name)))
        elif isinstance(module, _BatchNorm):
            hooks.append(module.register_forward_pre_hook(note_read(name)))
    with attached(hooks):
        chain(example)
    runs = Counter(name for name, _ in (*outputs, *reads))
    layers: dict[str, list[str]] = {}
    norms: dict[str, str] = {}
    for layer, output in outputs:
        if runs[layer] > 1 or not _can_learn(chain.get_submodule(layer), output):
            continue
        layers.setdefault(layer.split(".")[0], []).append(layer)
        readers = [norm for norm, given in reads if given is output]
        if len(readers) == 1 and runs[readers[0]] == 1 and _parent(readers[0]) == _parent(layer):
            norms[layer] = readers[0]
    return Survey(layers=layers, norms=norms, bytes_per_sample=max(sizes))


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _can_learn(layer: nn.Module, output: Tensor) -> bool:
    if isinstance(layer, nn.Linear):
        return output.dim() == 2
    return isinstance(layer, _CONVS) and (layer.groups == 1 or is_depthwise(layer))
