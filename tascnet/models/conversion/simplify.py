"""Operations that say the same in the form that blocks are cut and narrowed by."""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from tascnet.models.conversion.calls import Frame
from tascnet.models.conversion.canonical import Canonical
from tascnet.models.conversion.known import with_tensors
from tascnet.models.conversion.nodes import Node, alive, replaced, uses
from tascnet.models.layers import LayerNorm2d


def simplified(canonical: Canonical) -> tuple[list[Node], Node]:
    """The operations that the output depends on, in fewer and plainer ones, and the output."""
    output = canonical.output
    nodes = alive(canonical.nodes, output)
    _name_after_modules(nodes)
    _grow_cats(nodes)
    nodes, output = _exchanged(nodes, output, _norms_of_channels(nodes))
    return _exchanged(nodes, output, _linear_classifier(nodes, output, canonical))


def _exchanged(
    nodes: Sequence[Node], output: Node, others: Mapping[Node, Sequence[Node]]
) -> tuple[list[Node], Node]:
    """The nodes with others in place of some; the last of the others gives what the replaced one gave."""
    last = {node: new[-1] for node, new in others.items()}
    present = [new for node in nodes for new in others.get(node, (node,))]
    for node in present:
        node.arguments = replaced(node.arguments, last)
    output = replaced(output, last)
    return alive(present, output), output


def _name_after_modules(nodes: Sequence[Node]) -> None:
    """A function that is all that a module runs has the module's name, as an activation of its own class."""
    of_frame: dict[Frame, list[Node]] = {}
    for node in nodes:
        frame: Frame | None = node.frame
        while frame is not None:
            of_frame.setdefault(frame, []).append(node)
            frame = frame.caller
    for frame, inside in of_frame.items():
        (node, *more) = inside
        if not more and frame.path and frame.caller is not None and node.frame is frame and node.is_function:
            node.path, node.frame = frame.path, frame.caller


def _norms_of_channels(nodes: Sequence[Node]) -> dict[Node, list[Node]]:
    """Layer normalisations over channels that are moved to the last axis for it."""
    read_by = uses(nodes)
    found: dict[Node, list[Node]] = {}
    for last in nodes:
        if last.operation != "permute" or last.arguments[1] != (0, 3, 1, 2):
            continue
        norm = last.arguments[0]
        if not isinstance(norm.layer, nn.LayerNorm) or len(norm.layer.normalized_shape) != 1:
            continue
        first = norm.arguments[0]
        if first.operation != "permute" or first.arguments[1] != (0, 2, 3, 1):
            continue
        runs = sum(node.layer is norm.layer for node in nodes)
        if len(read_by[norm]) == len(read_by[first]) == runs == 1:
            found[last] = [_over_channels(norm, first.arguments[0], last)]
    return found


def _over_channels(norm: Node, x: Node, last: Node) -> Node:
    old = norm.layer
    assert isinstance(old, nn.LayerNorm)
    with torch.device("meta"):
        layer = LayerNorm2d(
            old.normalized_shape[0], old.eps, old.elementwise_affine, bias=old.bias is not None
        )
    with_tensors(layer, weight=old.weight, bias=old.bias)
    return Node(
        operation="layer",
        arguments=(x,),
        path=norm.path,
        frame=norm.frame,
        place=norm.place,
        shape=last.shape,
        layer=layer.eval(),
    )


def _grow_cats(nodes: Sequence[Node]) -> None:
    """Concatenations that begin with all of an earlier one read that instead (dense layers)."""
    known: dict[tuple[object, ...], Node] = {}
    for node in nodes:
        if node.operation != "cat":
            continue
        items, axis = node.arguments
        known[(axis, *items)] = node
        for count in range(len(items) - 1, 1, -1):
            start = known.get((axis, *items[:count]))
            if start is not None:
                node.arguments = ((start, *items[count:]), axis)
                break


def _linear_classifier(nodes: Sequence[Node], output: Node, canonical: Canonical) -> dict[Node, list[Node]]:
    """Of a convolution that sees the whole map, and is then flattened, the layers in the other order."""
    if not isinstance(output.layer, nn.Flatten):
        return {}
    conv = output.arguments[0]
    layer = conv.layer
    if type(layer) is not nn.Conv2d or layer.groups != 1 or layer.padding not in ((0, 0), "valid"):
        return {}
    x = conv.arguments[0]
    once = len(uses(nodes)[conv]) == 1 and sum(node.layer is layer for node in nodes) == 1
    if not once or x.shape is None or x.shape[2:] != layer.kernel_size or conv.shape[2:] != (1, 1):
        return {}
    linear = nn.Linear(
        layer.weight[0].numel(), layer.out_channels, bias=layer.bias is not None, device="meta"
    )
    with_tensors(linear, weight=canonical.reshaped(layer.weight, (layer.out_channels, -1)), bias=layer.bias)
    canonical.rewritten.append(f"{conv.path}: the convolution of the whole map is a matrix")
    flat = dataclasses.replace(
        output, arguments=(x,), layer=nn.Flatten(), shape=(x.shape[0], linear.in_features)
    )
    last = dataclasses.replace(conv, arguments=(flat,), layer=linear.eval(), shape=output.shape)
    return {output: [flat, last]}
