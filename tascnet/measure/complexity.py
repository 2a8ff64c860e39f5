"""Parameters and FLOPs of a network, in total and layer by layer."""

import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tascnet.models.inspect import as_example, evaluating, hooked, input_for
from tascnet.run.records import LayerWidths

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
    from fvcore.nn import FlopCountAnalysis

_CONVENTION = "fvcore, one sample in eval mode, one multiply-add as one FLOP"


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """What one layer costs without its children, for one sample.

    Args:
        name: dotted name in the model; empty for the model itself.
        kind: name of the layer's class.
        width: output channels or features of a layer that has filters, else None.
        params: parameters without those shared with an earlier layer.
        in_shape: shape of its first input; None: it was not called.
        out_shape: shape of its output; None: it was not called.
    """

    name: str
    kind: str
    width: int | None
    params: int
    flops: int
    in_shape: tuple[int, ...] | None
    out_shape: tuple[int, ...] | None


@dataclass(frozen=True, kw_only=True)
class Complexity:
    """Parameters and FLOPs of a network; those of `layers` add up to the totals.

    Args:
        counted: the convention, the operations that were counted and those that were not.
    """

    params: int
    trainable_params: int
    flops: int
    counted: str
    layers: tuple[LayerCost, ...]


def complexity(model: nn.Module, example: Tensor) -> Complexity:
    """Count parameters and FLOPs; the model is left as it was.

    Layers are those without children, and containers with parameters or counted operations of their own.

    Args:
        model: on any device, in any memory format and mode.
        example: one sample `1 x ...`.
    """
    inputs = input_for(model, as_example(example))
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def note(name: str, _module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        if arguments and isinstance(arguments[0], Tensor) and isinstance(output, Tensor):
            shapes.setdefault(name, (tuple(arguments[0].shape), tuple(output.shape)))

    with evaluating(model), torch.no_grad():
        modules = model.named_modules()
        with hooked(module.register_forward_hook(partial(note, name)) for name, module in modules):
            model(inputs)
        analysis = FlopCountAnalysis(model, (inputs,))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        flops = {name: round(count) for name, count in analysis.by_module().items()}
        counted = f"{_CONVENTION}; counted: {', '.join(sorted(analysis.by_operator())) or 'nothing'}"
        if left_out := sorted({n.rpartition("::")[2].rstrip("_") for n in analysis.unsupported_ops()}):
            counted += f"; not counted: {', '.join(left_out)}"
    layers = []
    seen: set[nn.Parameter] = set()
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        children = [prefix + child for child, _ in module.named_children()]
        own_flops = flops.get(name, 0) - sum(flops.get(child, 0) for child in children)
        own = [p for p in module.parameters(recurse=False) if p not in seen]
        seen.update(own)
        if children and not own_flops and not own:
            continue
        width = getattr(module, "out_channels", getattr(module, "out_features", None))
        in_shape, out_shape = shapes.get(name, (None, None))
        layers.append(
            LayerCost(
                name=name,
                kind=type(module).__name__,
                width=width if isinstance(width, int) else None,
                params=sum(p.numel() for p in own),
                flops=own_flops,
                in_shape=in_shape,
                out_shape=out_shape,
            )
        )
    return Complexity(
        params=sum(layer.params for layer in layers),
        trainable_params=sum(p.numel() for p in model.parameters() if p.requires_grad),
        flops=flops.get("", 0),
        counted=counted,
        layers=tuple(layers),
    )


def compare_layers(before: Complexity, after: Complexity) -> tuple[LayerWidths, ...]:
    """Every layer with filters before and after a change, those of `after` alone last."""
    old = {layer.name: layer for layer in before.layers if layer.width is not None}
    new = {layer.name: layer for layer in after.layers if layer.width is not None}
    rows = []
    for name in old | new:
        was, now = old.get(name), new.get(name)
        rows.append(
            LayerWidths(
                layer=name,
                kind=(now or old[name]).kind,
                before=was.width if was else None,
                after=now.width if now else None,
                params_before=was.params if was else None,
                params_after=now.params if now else None,
                flops_before=was.flops if was else None,
                flops_after=now.flops if now else None,
            )
        )
    return tuple(rows)
