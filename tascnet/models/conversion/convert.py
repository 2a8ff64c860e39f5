"""A network of any make as a chain of blocks."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tascnet.errors import ArchiveError, ConversionError
from tascnet.models.blocks import sequence
from tascnet.models.conversion.canonical import Canonical
from tascnet.models.conversion.check import check_same
from tascnet.models.conversion.grouping import grouped
from tascnet.models.conversion.nodes import tensors_of
from tascnet.models.conversion.regions import Names, blocks_of
from tascnet.models.conversion.simplify import simplified
from tascnet.models.conversion.tracing import trace
from tascnet.models.describe import check_tensors, construct, describe
from tascnet.models.head import HEAD_PREFIX
from tascnet.models.inspect import as_example, evaluating, input_for, untouched
from tascnet.run.console import log

_CLASSIFIER = "classifier"
# Of blocks whose own names begin as those of a head that tascnet makes.
_TOP_PREFIX = "top_"
# A network that does not end in a matrix gets one of n x n values.
_MOST_OUTPUTS = 4096
# Samples of the traced run, a number that no other axis is likely to have, and of the comparison.
_TRACED, _COMPARED = 5, 2
# How many remarks one line of the log has.
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A network as a chain.

    Args:
        chain: of blocks of the closed list, in eval mode; the last one is an `nn.Linear` called `classifier`.
        keys: by key of the chain's state dict that of the network's, for tensors with the same values; a
            classifier that was a convolution, and factors by channel, may have another shape.
        rewritten: what the chain does in another way, so that results may differ in the last bits.
    """

    chain: nn.Sequential
    keys: dict[str, str]
    rewritten: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Draft:
    """A chain that shares its tensors with the network.

    Args:
        chain: the chain.
        paths: by name of a block that of the module that gives the same.
        origins: tensors of the chain, each with the network's that has the same values in another shape.
        untied: tensors of the network that several of its layers share, and none of the chain's.
        rewritten: as in `Converted`.
    """

    chain: nn.Sequential
    paths: Mapping[str, str]
    origins: list[tuple[Tensor, Tensor]]
    rewritten: list[str]
    untied: set[Tensor] = field(default_factory=set)


def convert(module: nn.Module, example: Tensor, *, check: bool = True, share: bool = False) -> Converted:
    """Turn a network into a chain that does the same in eval mode.

    The network is cut wherever one tensor alone is alive. The chain's outputs are compared with the network's
    for one and for two samples, and the gradients once; what was rewritten is logged.

    Args:
        module: any module that takes one tensor and gives `b x n`; it stays as it is.
        example: one sample, `1 x c x h x w`; its values do not matter.
        check: compare; without, the weights need no values (the meta device).
        share: the chain gets the tensors of the network, and not copies.

    Raises:
        ConversionError: the network cannot be written as a chain, with the line of its code that cannot be;
            or the chain does something else, with the first block that does.
    """
    example = as_example(example)
    if not example.is_floating_point():
        raise ConversionError(
            "a network that reads whole numbers cannot be converted", "expected one that reads images"
        )
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if is_lazy(tensor):
            raise ConversionError(f"{name!r} of the network has no shape yet", "run it on an image first")
    # What torch.compile returns holds the network itself.
    module = getattr(module, "_orig_mod", module)
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(False), untouched(module, tensors=not share), _evaluating(module):
        values = torch.randn((_TRACED, *example.shape[1:]), generator=generator)
        inputs = torch.cat([input_for(module, value[None].to(example)) for value in values])
        draft = _as_it_is(module, inputs[:1]) or _draft(module, inputs)
        _untie(draft)
        try:
            with torch.device("meta"):
                made = construct(describe(draft.chain))
            check_tensors(draft.chain, made)
        except ArchiveError as error:
            raise ConversionError(f"the network cannot be converted, {error.message}", error.hint) from error
        keys = _keys(module, draft)
        if check:
            own, of_chain = _tensors(module), _tensors(draft.chain)
            pairs = {
                key: (own[key], of_chain[name]) for name, key in keys.items() if own[key] not in draft.untied
            }
            is_exact = not draft.rewritten
            block = check_same(module, draft.chain, inputs[:_COMPARED], draft.paths, pairs, is_exact=is_exact)
            if block is not None:
                draft.rewritten.append(f"{block}: its values lie in memory in another order")
        chain = draft.chain if share else copy.deepcopy(draft.chain)
    rewritten = tuple(dict.fromkeys(draft.rewritten))
    if check and rewritten:
        more = [f"{len(rewritten) - _SHOWN} more"] if len(rewritten) > _SHOWN else []
        log.info("converted, equal up to rounding: %s", "; ".join([*rewritten[:_SHOWN], *more]))
    return Converted(chain=chain, keys=keys, rewritten=rewritten)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(evaluating(module))
        except NotImplementedError as error:
            raise ConversionError(
                "the network cannot be converted, it has no eval mode",
                "give the original module, and not what torch.export made of it",
            ) from error
        yield


def _as_it_is(module: nn.Module, image: Tensor) -> _Draft | None:
    """The chain that the network is already; None where it is none, or gives no `b x n`."""
    layers = [layer for _, layer in module.named_modules(remove_duplicate=False)]
    if type(module) is not nn.Sequential or not len(module) or not isinstance(module[-1], nn.Linear):
        return None
    if len(set(layers)) < len(layers) or any(m._forward_hooks or m._forward_pre_hooks for m in layers):
        return None
    try:
        describe(module)
    except ArchiveError:
        return None
    try:
        with torch.no_grad():
            output = module(image)
    except Exception:
        # Whatever it is, usually a wrong size, the trace names the line.
        return None
    if output.ndim != 2:
        return None
    copied = copy.deepcopy(module, {id(tensor): tensor for tensor in tensors_of(module)})
    for layer in copied.modules():
        if getattr(layer, "inplace", False):
            layer.inplace = False  # type: ignore[assignment]
    chain, paths = _named(copied.named_children())
    return _Draft(chain=chain, paths=paths, origins=[], rewritten=[])


def _draft(module: nn.Module, inputs: Tensor) -> _Draft:
    canonical = Canonical(module, *trace(module, inputs))
    nodes, output = simplified(canonical)
    shape = output.shape
    if shape is None or len(shape) != 2 or shape[0] != len(inputs):
        came = " x ".join(("b", *map(str, (shape or ())[1:])))
        raise ConversionError(
            f"the network cannot be converted, its output has the shape {came}",
            "expected `b x n`, a value for each class",
        )
    blocks = blocks_of(nodes[1:], nodes[0]) if len(nodes) > 1 else []
    blocks = grouped(blocks, module)
    items = [(block.path, block.module) for block in blocks]
    rewritten = canonical.rewritten
    if not items or not isinstance(items[-1][1], nn.Linear):
        items.append((_CLASSIFIER, _identity(shape[1], next(iter(tensors_of(module)), inputs))))
        rewritten.append(f"an identity matrix of {shape[1]} x {shape[1]} is appended as the classifier")
    chain, paths = _named(items)
    others = {block.path for block in blocks if not block.is_module}
    paths = {name: path for name, path in paths.items() if path not in others}
    return _Draft(chain=chain.eval(), paths=paths, origins=canonical.origins, rewritten=rewritten)


def _identity(width: int, like: Tensor) -> nn.Linear:
    if width > _MOST_OUTPUTS:
        raise ConversionError(
            f"the network cannot be converted, it does not end in a matrix and has {width} outputs",
            f"expected an nn.Linear as the last layer, or at most {_MOST_OUTPUTS} outputs",
        )
    layer = nn.Linear(width, width, device="meta")
    layer.weight = nn.Parameter(torch.eye(width, dtype=like.dtype, device=like.device))
    layer.bias = nn.Parameter(torch.zeros(width, dtype=like.dtype, device=like.device))
    return layer


def _named(items: Iterable[tuple[str, nn.Module]]) -> tuple[nn.Sequential, dict[str, str]]:
    """A chain with the names that blocks may have, and by name the path that the block had."""
    *before, (last_path, last) = items
    names = Names()
    names.of(_CLASSIFIER)
    paths = {}
    named = []
    for path, block in before:
        name = path.replace(".", "_")
        if name.startswith(HEAD_PREFIX):
            name = _TOP_PREFIX + name.removeprefix(HEAD_PREFIX)
        name = names.of(name)
        paths[name] = path
        named.append((name, block))
    return sequence([*named, (_CLASSIFIER, last)]), paths | {_CLASSIFIER: last_path}


def _untie(draft: _Draft) -> None:
    """Give layers that share a tensor one each."""
    seen: set[Tensor] = set()
    for path, layer in draft.chain.named_modules():
        own: Any
        for own in (layer._parameters, layer._buffers):
            for name, tensor in own.items():
                if tensor in seen:
                    own[name] = copy.deepcopy(tensor)
                    draft.origins.append((own[name], tensor))
                    draft.untied.add(tensor)
                    draft.rewritten.append(f"{path}.{name} is no longer shared with another layer")
                elif tensor is not None:
                    seen.add(tensor)


def _keys(module: nn.Module, draft: _Draft) -> dict[str, str]:
    names: dict[int, str] = {}
    for key, tensor in _tensors(module).items():
        names.setdefault(id(tensor), key)
    for made, origin in draft.origins:
        if id(origin) in names:
            names[id(made)] = names[id(origin)]
    return {key: names[id(t)] for key, t in _tensors(draft.chain).items() if id(t) in names}


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.state_dict(keep_vars=True))
