"""Parameters and FLOPs of a network, in total and layer by layer."""

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tascnet.measure.state import as_example, evaluating, input_for

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
    from fvcore.nn import FlopCountAnalysis

_CONVENTION = "fvcore, one sample in eval mode, one multiply-add as one FLOP"


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """What one layer costs by itself, its children not included.

    Args:
        name: dotted name in the model; empty for the model itself.
        kind: name of the layer's class.
        width: output channels or features of a layer that has filters, else None.
        params: parameters, those shared with an earlier layer not included.
        flops: for one sample.
        in_shape: shape of the first tensor that it took, None when it was not called.
        out_shape: shape of the tensor that it gave, None when it was not called.
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

    Args:
        model: on any device, in any memory format and mode.
        example: one sample `1 x ...`.

    Returns:
        The totals, and one `LayerCost` for each layer without children and for each container that
        has parameters or counted operations of its own.
    """
    inputs = input_for(model, as_example(example))
    with evaluating(model), torch.no_grad():
        shapes = _shapes(model, inputs)
        flops, counted = _count(model, inputs)
    layers = tuple(_layer_costs(model, flops, shapes))
    return Complexity(
        params=sum(layer.params for layer in layers),
        trainable_params=sum(p.numel() for p in model.parameters() if p.requires_grad),
        flops=flops[""],
        counted=counted,
        layers=layers,
    )


def compare_layers(before: Complexity, after: Complexity) -> list[dict[str, Any]]:
    """Widths, parameters and FLOPs of every layer with filters, before and after a change.

    Returns:
        Rows of layer, kind, before, after (widths), params_before, params_after, flops_before and
        flops_after, in the order of `before`, layers of `after` alone last; where a layer exists on
        one side only, the other side's numbers are None.
    """
    old = {layer.name: layer for layer in before.layers if layer.width is not None}
    new = {layer.name: layer for layer in after.layers if layer.width is not None}
    return [_comparison(name, old.get(name), new.get(name)) for name in old | new]


def _comparison(name: str, old: LayerCost | None, new: LayerCost | None) -> dict[str, Any]:
    present = new or old
    return {
        "layer": name,
        "kind": present.kind if present else None,
        "before": old and old.width,
        "after": new and new.width,
        "params_before": old and old.params,
        "params_after": new and new.params,
        "flops_before": old and old.flops,
        "flops_after": new and new.flops,
    }


def _count(model: nn.Module, inputs: Tensor) -> tuple[dict[str, int], str]:
    analysis = FlopCountAnalysis(model, (inputs,))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    flops = {name: round(count) for name, count in analysis.by_module().items()}
    flops.setdefault("", 0)
    return flops, _counted(analysis.by_operator(), analysis.unsupported_ops())


def _counted(counted: Counter[str], uncounted: Counter[str]) -> str:
    text = f"{_CONVENTION}; counted: {', '.join(sorted(counted)) or 'nothing'}"
    names = sorted({name.rpartition("::")[2].rstrip("_") for name in uncounted})
    return f"{text}; not counted: {', '.join(names)}" if names else text


def _layer_costs(
    model: nn.Module, flops: dict[str, int], shapes: dict[str, tuple[tuple[int, ...], ...]]
) -> Iterator[LayerCost]:
    seen: set[nn.Parameter] = set()
    for name, module in model.named_modules():
        own_flops = flops.get(name, 0) - sum(flops.get(child, 0) for child in _children(name, module))
        own = [p for p in module.parameters(recurse=False) if p not in seen]
        seen.update(own)
        if any(module.children()) and not own_flops and not own:
            continue
        in_shape, out_shape = shapes.get(name, (None, None))
        yield LayerCost(
            name=name,
            kind=type(module).__name__,
            width=_width(module),
            params=sum(p.numel() for p in own),
            flops=own_flops,
            in_shape=in_shape,
            out_shape=out_shape,
        )


def _children(name: str, module: nn.Module) -> list[str]:
    prefix = f"{name}." if name else ""
    return [prefix + child for child, _ in module.named_children()]


def _width(module: nn.Module) -> int | None:
    # torch's private base class would cover all convolutions; these attributes are public.
    width = getattr(module, "out_channels", getattr(module, "out_features", None))
    return width if isinstance(width, int) else None


def _shapes(model: nn.Module, inputs: Tensor) -> dict[str, tuple[tuple[int, ...], ...]]:
    shapes: dict[str, tuple[tuple[int, ...], ...]] = {}
    with _watching(model, shapes):
        model(inputs)
    return shapes


@contextmanager
def _watching(model: nn.Module, shapes: dict[str, tuple[tuple[int, ...], ...]]) -> Iterator[None]:
    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def note(_: nn.Module, taken: tuple[Any, ...], given: Any) -> None:
            if taken and isinstance(taken[0], Tensor) and isinstance(given, Tensor):
                shapes.setdefault(name, (tuple(taken[0].shape), tuple(given.shape)))

        return module.register_forward_hook(note)

    handles = [watch(name, module) for name, module in model.named_modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
