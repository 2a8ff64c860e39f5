"""After a cut: layer by layer, least squares fit a network to the outputs of the whole one.

Folding makes up for each group alone, so that errors of earlier groups travel on. Here the layers are visited
in the order in which they run. Each has its current inputs `x` and, as targets `y`, its own outputs in the
whole network: least squares correct its weights for `y - W x`, and the mean error goes to its bias or to the
batch-norm after it. At the end the statistics of batch-norm are measured again, and its scale and shift are
set so that the function stays.

Source: He et al. 2017, Channel pruning, section 3.2 (inputs of the pruned, outputs of the whole network).
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tascnet.exporting.plain import graph_pairs
from tascnet.inherit.least_squares import Evidence, output_rows, patches
from tascnet.inherit.moments import channels_second, drawn_places, moved, rows_at
from tascnet.models.graph import Graph
from tascnet.models.inspect import hooked
from tascnet.run.console import track
from tascnet.surgery.layers import WEIGHTED, is_depthwise

log = logging.getLogger("tascnet")

# Flat positions `b x p` in a layer's map, None where it gives no map, and its `b x p x o` kept outputs there.
Target: TypeAlias = tuple[Tensor | None, Tensor]
# One of so many samples judges what a layer has learned from the others.
FOLDS = 4
# Pixels from which a layer learns: in all, and at least of each sample's map.
ROWS, PIXELS = 8192, 16
# Numbers in the patches that are held at a time, and pixels.
PATCHES, PART = 2**20, 2048
# Inputs of one output (channels x kernel positions) up to which they are solved for. Beyond, outputs are
# corrected by each other, where they are no more than this.
WIDEST = 2304
# Bytes of activations between blocks that are held at a time, and of those that one layer reads and gives.
BYTES, STEP = 2**30, 2**23


@torch.no_grad()
def refit(
    network: nn.Sequential,
    whole: nn.Sequential,
    kept: Mapping[str, Sequence[int]],
    batches: Callable[[], Iterable[Tensor]],
    *,
    seed: int = 0,
) -> None:
    """Fit every layer behind a cut to reproduce its outputs before the cut, by least squares, in place.

    Unchanged are grouped layers (other than depthwise), layers that run more than once, and those of more
    than `WIDEST` outputs with as many inputs each.

    Args:
        network: after the cut, with the names of `whole`; blocks may be missing. Set to eval mode.
        whole: before the cut. Set to eval mode.
        kept: by layer, outputs that were kept; the others kept all.
        batches: gives inputs of both, on their device, the same ones at every call: plain training samples.
        seed: of the pixels that are drawn.
    """
    network.eval()
    whole.eval()
    generator = torch.Generator().manual_seed(seed)
    with _without_in_place(network, whole):
        plan = survey(whole, next(iter(batches()))[:1])
        before = _as_many_as_fit(batches(), max(plan.held.values()))
        samples = sum(map(len, before))
        count = max(PIXELS, math.ceil(ROWS / samples))
        # The network's own activations, from the first block that may have changed.
        after: list[Tensor] | None = None
        for name in track(list(whole._modules), "refit"):
            block, narrowed = whole.get_submodule(name), network._modules.get(name)
            size = max(1, STEP // plan.moved[name])
            before = _in_batches(before, size)
            if after is None and (narrowed is None or not _are_equal(block, narrowed)):
                after = list(before)
            if after is None:
                _advance(block, before)
                continue
            layers = plan.layers.get(name, []) if narrowed is not None else []
            pixels = _Pixels(samples, count, generator)
            noted, first = [], 0
            for index, x in enumerate(before):
                before[index], by_layer = _outputs(whole, block, x, layers, kept, pixels, first)
                noted.append(by_layer)
                first += len(x)
            if narrowed is None:
                continue
            after = _in_batches(after, size)
            for layer in layers:
                norm = plan.norms.get(layer)
                parts = network.get_submodule(layer), norm and network.get_submodule(norm)
                _fit(narrowed, *parts, after, [by_layer.pop(layer) for by_layer in noted])
            with _absorbed(narrowed):
                _advance(narrowed, after)


@contextmanager
def _without_in_place(*networks: nn.Module) -> Iterator[None]:
    """No activation overwrites what is read again."""
    modules: list[Any] = [m for net in networks for m in net.modules() if getattr(m, "inplace", False)]
    for module in modules:
        module.inplace = False
    try:
        yield
    finally:
        for module in modules:
            module.inplace = True


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What one forward pass shows of a network.

    Args:
        layers: by block, its layers that run once and can be solved for, in the order in which they run.
        norms: by such a layer, the batch-norm that reads its outputs, if one alone does.
        held: by block, bytes of a sample's inputs or outputs, whichever are more.
        moved: by block, the most bytes that one of its modules reads and gives for a sample, in it or in any
            later block.
    """

    layers: dict[str, list[str]]
    norms: dict[str, str]
    held: dict[str, int]
    moved: dict[str, int]


def survey(chain: nn.Sequential, example: Tensor) -> Survey:
    """Run a network once, in eval mode and without in-place operations, and note what happens.

    A batch-norm belongs to a layer where its input is the layer's output itself and both lie in the same
    module: elsewhere a skip connection may read that output too. In a graph it has to be the only reader.
    """
    outputs: list[tuple[str, Tensor]] = []
    reads: list[tuple[str, Tensor]] = []
    held = dict.fromkeys(chain._modules, 1)
    moved = dict.fromkeys(chain._modules, 1)

    def note_output(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: outputs.append((name, output))

    def note_read(name: str) -> Callable[..., None]:
        return lambda _module, inputs: reads.append((name, inputs[0]))

    def note_sizes(name: str) -> Callable[..., None]:
        def note(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            sizes = [value.nbytes for value in (*inputs, output) if isinstance(value, Tensor)]
            block, _, inner = name.partition(".")
            if not inner:
                held[block] = max(held[block], *sizes)
            moved[block] = max(moved[block], sum(sizes))

        return note

    hooks = []
    for name, module in chain.named_modules():
        if name:
            hooks.append(module.register_forward_hook(note_sizes(name)))
        if isinstance(module, WEIGHTED):
            hooks.append(module.register_forward_hook(note_output(name)))
        elif isinstance(module, _BatchNorm):
            hooks.append(module.register_forward_pre_hook(note_read(name)))
    with hooked(hooks):
        chain(example)
    runs = Counter(name for name, _ in (*outputs, *reads))
    layers: dict[str, list[str]] = {}
    norms: dict[str, str] = {}
    for name, output in outputs:
        layer = chain.get_submodule(name)
        groups = getattr(layer, "groups", 1)
        can_be_solved = output.dim() >= 2 and (groups == 1 or is_depthwise(layer))
        if runs[name] > 1 or not can_be_solved:
            continue
        layers.setdefault(name.split(".")[0], []).append(name)
        readers = [norm for norm, read in reads if read is output]
        alone = len(readers) == 1 and runs[readers[0]] == 1
        if alone and readers[0].rpartition(".")[0] == (parent := name.rpartition(".")[0]):
            graph = chain.get_submodule(parent)
            pair = layer, chain.get_submodule(readers[0])
            if not isinstance(graph, Graph) or pair in graph_pairs(graph):
                norms[name] = readers[0]
    largest = 0
    for block in reversed(moved):
        moved[block] = largest = max(largest, moved[block])
    return Survey(layers=layers, norms=norms, held=held, moved=moved)


def _as_many_as_fit(batches: Iterable[Tensor], bytes_per_sample: int) -> list[Tensor]:
    """As many samples as fit into `BYTES` for both networks; at least `FOLDS`."""
    most = left = max(FOLDS, BYTES // (2 * bytes_per_sample))
    taken = []
    for batch in batches:
        taken.append(batch[:left])
        left -= len(batch)
        if left <= 0:
            log.info("refit learns from %d samples: the activations of more would not fit", most)
            break
    if sum(map(len, taken)) < FOLDS:
        log.warning("refit needs %d samples to learn from: no layer is changed", FOLDS)
    return taken


def _in_batches(batches: Sequence[Tensor], size: int) -> list[Tensor]:
    """The same samples in batches of at most `size`: larger ones are split, smaller ones are joined."""
    joined: list[Tensor] = []
    for batch in batches:
        for part in batch.split(size):
            alike = bool(joined) and joined[-1].shape[1:] == part.shape[1:]
            if alike and len(joined[-1]) + len(part) <= size:
                joined[-1] = torch.cat([joined[-1], part])
            else:
                joined.append(part)
    return joined


def _advance(block: nn.Module, batches: list[Tensor]) -> None:
    """Put the outputs of a block in the place of its inputs, one batch after the other."""
    for index, x in enumerate(batches):
        batches[index] = block(x)


def _are_equal(block: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in block.state_dict().items())


class _Pixels:
    """Pixels drawn in the maps of each layer, the same ones however the samples are put into batches."""

    def __init__(self, samples: int, count: int, generator: torch.Generator) -> None:
        self._samples, self._count, self._generator = samples, count, generator
        self._drawn: dict[tuple[str, torch.Size], Tensor | None] = {}

    def of(self, layer: str, maps: Tensor, first: int) -> Tensor | None:
        """Those in the maps `b x c x ...` of samples from `first` on; None for features `b x c`."""
        key = layer, maps.shape[2:]
        if key not in self._drawn:
            every = maps[:1].expand(self._samples, *maps.shape[1:])
            self._drawn[key] = drawn_places(every, self._count, self._generator)
        places = self._drawn[key]
        return None if places is None else places[first : first + len(maps)]


def _outputs(
    whole: nn.Sequential,
    block: nn.Module,
    x: Tensor,
    layers: Sequence[str],
    kept: Mapping[str, Sequence[int]],
    pixels: "_Pixels",
    first: int,
) -> tuple[Tensor, dict[str, Target]]:
    """The outputs of a whole network's block for samples from `first` on, and the targets of its layers."""
    targets: dict[str, Target] = {}

    def note(name: str, module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        output = channels_second(module, output)
        places = pixels.of(name, output, first)
        rows = rows_at(output, places).unflatten(0, (len(output), -1))
        targets[name] = places, rows[:, :, list(kept[name])] if name in kept else rows.clone()

    with hooked(whole.get_submodule(name).register_forward_hook(partial(note, name)) for name in layers):
        outputs = block(x)
    return outputs, targets


def _fit(
    block: nn.Module, layer: Any, norm: Any, inputs: Sequence[Tensor], targets: Sequence[Target]
) -> None:
    """Correct one layer of a narrowed block, and the mean of the batch-norm after it."""
    by_outputs = layer.weight[0].numel() > WIDEST
    if by_outputs and len(layer.weight) > WIDEST:
        return
    takes_constant = layer.bias is not None or getattr(norm, "running_mean", None) is not None
    evidence = Evidence(has_offset=takes_constant)
    for read, wanted, judges in _rows(block, layer, inputs, targets):
        outputs = output_rows(layer, read)
        errors = (wanted.T[:, :, None] if len(read) > 1 else wanted[None]) - outputs
        evidence.add(outputs if by_outputs else read, errors, judges=judges)
    found = evidence.correction()
    if found is None:
        return
    weights = found.weights.to(layer.weight)
    if by_outputs:
        added = weights[0].T @ layer.weight.flatten(1)
        if layer.bias is not None:
            layer.bias += weights[0].T @ layer.bias
    else:
        # `g x d x 1` of a depthwise layer, `1 x d x o` of others.
        added = weights.flatten(1) if len(weights) > 1 else weights[0].T
    layer.weight += added.reshape(layer.weight.shape)
    if found.offsets is not None:
        constants = found.offsets.flatten().to(layer.weight)
        if layer.bias is not None:
            layer.bias += constants
        else:
            norm.running_mean -= constants


class _Reached(Exception):
    """A forward pass has come to the layer that is looked at."""


def _rows(
    block: nn.Module, layer: nn.Module, inputs: Sequence[Tensor], targets: Sequence[Target]
) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """What a layer reads, `g x m x d`, its targets, `m x o`, and whether these rows judge."""
    read: list[Tensor] = []

    def stop(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        read.append(arguments[0])
        raise _Reached

    seen = 0
    for x, (places, wanted) in zip(inputs, targets, strict=True):
        # The rest of the block is not run.
        with hooked([layer.register_forward_pre_hook(stop)]), suppress(_Reached):
            block(x)
        given = read.pop()
        judges = torch.arange(seen, seen + len(x)) % FOLDS == FOLDS - 1
        seen += len(x)
        weight: Any = layer.weight
        # A depthwise layer reads its kernel's pixels in every channel.
        width = weight.numel() if is_depthwise(layer) else weight[0].numel()
        size = max(1, min(PART, PATCHES // width) // wanted.shape[1])
        for mask, judge in ((~judges, False), (judges, True)):
            for rows in mask.nonzero()[:, 0].to(x.device).split(size):
                at = None if places is None else places[rows]
                yield patches(layer, given[rows], at), wanted[rows].flatten(0, 1), judge


@contextmanager
def _absorbed(block: nn.Module) -> Iterator[None]:
    """Set batch-norm to the statistics of what it reads inside; scales and shifts keep the function."""
    norms: list[Any] = [
        module
        for module in block.modules()
        if isinstance(module, _BatchNorm) and module.affine and module.running_mean is not None
    ]
    # Pixels, their means, and their squared distances from these.
    sums: dict[Any, tuple[int, Tensor, Tensor]] = {}

    def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        pixels = inputs[0].movedim(1, -1).flatten(0, -2).double()
        own, more = pixels.mean(0), len(pixels)
        squared = (pixels - own).square_().sum(0)
        count, mean, squares = sums.get(module, (0, torch.zeros_like(own), torch.zeros_like(own)))
        apart, weight = moved(mean, count, own, more)
        sums[module] = (count + more, mean, squares + squared + weight * apart.square())

    with hooked(norm.register_forward_pre_hook(add) for norm in norms):
        yield
    for norm, (count, mean, squares) in sums.items():
        variance = squares / count
        before = (norm.running_var.double() + norm.eps).sqrt()
        norm.bias += (norm.weight.double() * (mean - norm.running_mean.double()) / before).to(norm.bias)
        norm.weight *= ((variance + norm.eps).sqrt() / before).to(norm.weight)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
