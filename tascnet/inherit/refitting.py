"""What stays learns by least squares to say what the whole network said, layer by layer.

Folding (`fold_into`) makes up for each group alone, by what its consumers read in the whole network: errors
of earlier groups travel on. Here the layers are visited in the order in which they run. Each is given its
inputs `x` as they have become and, as targets `y`, its own outputs in the whole network; least squares add to
its weights what makes up for `y - W x`, and what is left of the mean goes to its bias or to the batch-norm
after it. At the end the statistics of batch-norm are measured anew, and its scale and shift are set so that
the function stays: training by the statistics of batches begins where this ends.

Source: He et al. 2017, Channel pruning, section 3.2 (inputs of the pruned, outputs of the whole network).
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tascnet.inherit.activations import attached, drawn_places, rows_at
from tascnet.inherit.order import survey
from tascnet.inherit.patches import output_rows, patches
from tascnet.inherit.ridge import Correction, Evidence
from tascnet.run.console import track

log = logging.getLogger("tascnet")

# One of so many samples judges what a layer has learnt from the others.
FOLDS = 4
# Pixels from which a layer learns: in all, and at least of each sample's map.
ROWS, PIXELS = 8192, 16
# Pixels whose patches are held at a time.
PART = 2048
# Inputs of one output (channels x kernel positions) up to which they are solved for. Beyond, outputs are
# corrected by each other, where they are no more than this.
WIDEST = 2304
# Bytes of activations that are held at a time; fewer samples are used where they would be more.
BYTES = 2**31


@torch.no_grad()
def refit(
    network: nn.Sequential,
    whole: nn.Sequential,
    kept: Mapping[str, Sequence[int]],
    batches: Callable[[], Iterable[Tensor]],
    *,
    seed: int = 0,
) -> None:
    """Let every layer behind a cut give what it gave before, as nearly as least squares can, in place.

    As they are stay layers in groups (other than depthwise), linear layers of anything but `b x c`, layers
    that run more than once, and those of more than `WIDEST` outputs with as many inputs each.

    Args:
        network: after the cut, with the names of `whole`; blocks may be missing. Set to eval mode.
        whole: before the cut. Set to eval mode.
        kept: by layer, outputs that stayed; the others kept all.
        batches: gives inputs of both, on their device, the same ones at every call: plain training samples.
        seed: of the pixels that are drawn.
    """
    network.eval()
    whole.eval()
    with _without_in_place(network, whole):
        behind = _walk(network, whole, kept, batches, torch.Generator().manual_seed(seed))
        _absorb(network, behind, batches())


def _walk(
    network: nn.Sequential,
    whole: nn.Sequential,
    kept: Mapping[str, Sequence[int]],
    batches: Callable[[], Iterable[Tensor]],
    generator: torch.Generator,
) -> list[nn.Module]:
    """Teach block after block; gives those that can have changed."""
    plan = survey(whole, next(iter(batches()))[:1])
    was = now = images = _as_many_as_fit(batches(), plan.bytes_per_sample)
    pixels = max(PIXELS, math.ceil(ROWS / sum(map(len, images))))
    behind: list[nn.Module] = []
    is_cut = False
    for name in track(list(whole._modules), "refit"):
        block, narrowed = whole.get_submodule(name), network._modules.get(name)
        is_cut = is_cut or narrowed is None or not _are_equal(block, narrowed)
        if not is_cut:
            was = now = [block(x) for x in was]
            continue
        layers = plan.layers.get(name, []) if narrowed is not None else []
        lessons = [_lesson(whole, block, x, layers, kept, pixels, generator) for x in was]
        was = [lesson.outputs for lesson in lessons]
        if narrowed is None:
            continue
        behind.append(narrowed)
        for layer in layers:
            norm = plan.norms.get(layer)
            _learn(network, narrowed, layer, norm and network.get_submodule(norm), now, lessons)
        now = [narrowed(x) for x in now]
    return behind


@contextmanager
def _without_in_place(*networks: nn.Module) -> Iterator[None]:
    """Activations write over nothing that is read again."""
    modules: list[Any] = [
        m for network in networks for m in network.modules() if getattr(m, "inplace", False)
    ]
    for module in modules:
        module.inplace = False
    try:
        yield
    finally:
        for module in modules:
            module.inplace = True


def _as_many_as_fit(batches: Iterable[Tensor], bytes_per_sample: int) -> list[Tensor]:
    """As many samples as fit into `BYTES` for both networks; at least `FOLDS`."""
    most = left = max(FOLDS, BYTES // (2 * bytes_per_sample))
    taken = []
    for batch in batches:
        taken.append(batch[:left])
        left -= len(batch)
        if left <= 0:
            log.info("refit learns from %d samples: of more the activations would not fit", most)
            break
    if sum(map(len, taken)) < FOLDS:
        log.warning("refit needs %d samples to learn from: every layer stays as it is", FOLDS)
    return taken


def _are_equal(block: nn.Module, other: nn.Module) -> bool:
    """Whether two blocks of one kind hold the same values."""
    ours, theirs = block.state_dict(), other.state_dict()
    return all(
        value.shape == theirs[key].shape and torch.equal(value, theirs[key]) for key, value in ours.items()
    )


@dataclass(frozen=True, kw_only=True)
class _Lesson:
    """What a block of the whole network makes of one batch.

    Args:
        outputs: of the block.
        places: by layer, `b x p` flat positions in its map; None where it gives no map.
        targets: by layer, `b x p x o` outputs there that are kept.
    """

    outputs: Tensor
    places: dict[str, Tensor | None]
    targets: dict[str, Tensor]


def _lesson(
    whole: nn.Sequential,
    block: nn.Module,
    x: Tensor,
    layers: Sequence[str],
    kept: Mapping[str, Sequence[int]],
    pixels: int,
    generator: torch.Generator,
) -> _Lesson:
    places: dict[str, Tensor | None] = {}
    targets: dict[str, Tensor] = {}

    def take(name: str) -> Callable[..., None]:
        def note(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            places[name] = drawn_places(output, pixels, generator)
            rows = rows_at(output, places[name]).unflatten(0, (len(output), -1))
            targets[name] = rows[:, :, list(kept[name])] if name in kept else rows.clone()

        return note

    with attached([whole.get_submodule(name).register_forward_hook(take(name)) for name in layers]):
        outputs = block(x)
    return _Lesson(outputs=outputs, places=places, targets=targets)


def _learn(
    network: nn.Sequential,
    block: nn.Module,
    name: str,
    norm: Any,
    inputs: Sequence[Tensor],
    lessons: Sequence[_Lesson],
) -> None:
    """Correct one layer of the narrowed network, and the mean of the batch-norm after it."""
    layer: Any = network.get_submodule(name)
    by_outputs = layer.weight[0].numel() > WIDEST
    if by_outputs and len(layer.weight) > WIDEST:
        return
    takes_constant = layer.bias is not None or getattr(norm, "running_mean", None) is not None
    evidence = Evidence(has_offset=takes_constant)
    for read, targets, judges in _rows(block, layer, name, inputs, lessons):
        outputs = output_rows(layer, read)
        wanted = targets.T[:, :, None] if len(read) > 1 else targets[None]
        evidence.add(outputs if by_outputs else read, wanted - outputs, judges=judges)
    found = evidence.correction()
    if found is not None:
        _correct(layer, norm, found, by_outputs)


def _rows(
    block: nn.Module, layer: nn.Module, name: str, inputs: Sequence[Tensor], lessons: Sequence[_Lesson]
) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """What a layer reads, `g x m x d`, what it ought to give, `m x o`, and whether this judges."""
    seen = 0
    for x, lesson in zip(inputs, lessons, strict=True):
        read, place, targets = _input_of(block, layer, x), lesson.places[name], lesson.targets[name]
        judges = torch.arange(seen, seen + len(x)) % FOLDS == FOLDS - 1
        seen += len(x)
        size = max(1, PART // targets.shape[1])
        for mask, judge in ((~judges, False), (judges, True)):
            for rows in mask.nonzero()[:, 0].to(x.device).split(size):
                at = None if place is None else place[rows]
                yield patches(layer, read[rows], at), targets[rows].flatten(0, 1), judge


def _correct(layer: Any, norm: Any, found: Correction, by_outputs: bool) -> None:
    weights = found.weights.to(layer.weight)
    flat = layer.weight.flatten(1)
    if by_outputs:
        added = weights[0].T @ flat
        if layer.bias is not None:
            layer.bias += weights[0].T @ layer.bias
    else:
        # Of a depthwise layer `g x d x 1`, of others `1 x d x o`.
        added = weights.flatten(1) if len(weights) > 1 else weights[0].T
    layer.weight += added.reshape(layer.weight.shape)
    if found.offsets is None:
        return
    constants = found.offsets.flatten().to(layer.weight)
    if layer.bias is not None:
        layer.bias += constants
    else:
        norm.running_mean -= constants


class _Reached(Exception):
    """A forward pass has come to the layer that is looked at."""


def _input_of(block: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
    """What a layer of a block reads; the rest of the block is not run."""
    found: list[Tensor] = []

    def stop(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(inputs[0])
        raise _Reached

    with attached([layer.register_forward_pre_hook(stop)]), suppress(_Reached):
        block(x)
    return found[0]


def _absorb(network: nn.Sequential, blocks: Iterable[nn.Module], images: Iterable[Tensor]) -> None:
    """Statistics of batch-norm as they are on these images, with scales and shifts that change nothing."""
    norms: list[Any] = [
        module
        for block in blocks
        for module in block.modules()
        if isinstance(module, _BatchNorm) and module.affine and module.running_mean is not None
    ]
    sums: dict[Any, tuple[int, Tensor, Tensor]] = {}

    def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows = inputs[0].transpose(0, 1).flatten(1).double()
        count, total, squares = sums.get(module, (0, rows.new_zeros(()), rows.new_zeros(())))
        sums[module] = (count + rows.shape[1], total + rows.sum(1), squares + rows.square().sum(1))

    with attached([norm.register_forward_pre_hook(add) for norm in norms]):
        for batch in images:
            network(batch)
    for norm, (count, total, squares) in sums.items():
        mean = total / count
        variance = (squares / count - mean.square()).clamp_min(0)
        before = (norm.running_var.double() + norm.eps).sqrt()
        norm.bias += (norm.weight.double() * (mean - norm.running_mean.double()) / before).to(norm.bias)
        norm.weight *= ((variance + norm.eps).sqrt() / before).to(norm.weight)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
