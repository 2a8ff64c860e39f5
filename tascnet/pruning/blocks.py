"""Residual blocks and the end of the network, where that costs less than filters that save as much time."""

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from tascnet.errors import SurgeryError
from tascnet.execute.workers import Workers
from tascnet.measure import Clock
from tascnet.models.head import head_start
from tascnet.pruning.cut import WithKept, settle, teacher_of
from tascnet.run.files import temporary_folder
from tascnet.surgery import Shortener, holds_filters, holds_ignored, without_blocks
from tascnet.train import CHECKPOINT, Learner, fit_new_head

log = logging.getLogger("tascnet")

# Validation samples on which the loss is compared, and training samples that kept layers are adapted on.
SAMPLES = 256
REPEATS, SECONDS = 40, 30.0
# Share of the network's time up to which a difference is noise.
NOISE = 0.01
# What is removed where the network is shortened: the block of this name and all behind it.
END = "end from "


def last_end(
    network: nn.Sequential, example: Tensor, first: int = 0, ignore: Sequence[str] = ()
) -> str | None:
    """What a network that ends one layer, or block of layers, earlier would be without; None: it cannot.

    Args:
        example: one sample `1 x ...`.
        first: index of the first block that may be removed.
        ignore: layers and blocks that stay.

    Returns:
        `END` and the name of the first removed block.
    """
    try:
        shortener, names = Shortener(network, example), list(network._modules)[: head_start(network)]
    # Its head is none that could be made again.
    except SurgeryError:
        return None
    for index in reversed(range(max(first, 1), len(names))):
        if holds_ignored(network, names[index], ignore):
            return None
        if holds_filters(network[index]):
            return END + names[index] if shortener.width(index) is not None else None
    return None


def without(network: nn.Sequential, name: str, example: Tensor, seed: int) -> tuple[nn.Sequential, int]:
    """A network without a block, or without what `last_end` names, and the index of what follows.

    A new end has a new head, drawn by the seed.
    """
    block = name.removeprefix(END)
    at = list(network._modules).index(block)
    if block == name:
        return without_blocks(network, {block})[0], at
    return Shortener(network, example).network(at, seed=seed), at


def cheaper_block(
    learner: Learner,
    network: nn.Sequential,
    blocks: Sequence[str],
    filters: WithKept | None,
    merge: str,
    is_too_small: Callable[[nn.Sequential], bool],
    clock: Clock,
    taught: tuple[nn.Module, float],
    workers: Workers,
) -> str | None:
    """The block whose removal raises the loss least for each millisecond; None where the filters cost less.

    All candidates are adapted, and compared on the same `SAMPLES` validation samples (a new head has learnt
    the training samples' labels) and by their times for one sample. A saving below the noise counts as
    `NOISE` of the network's time.

    Args:
        network: on the device.
        blocks: names of those that may be removed, of which one may be of `last_end`.
        filters: the network without the filters that would be removed instead; None: none can be removed.
        is_too_small: whether a network is beyond a target; where filters can be removed such blocks are kept.
        clock: how long networks take.
        taught: the teacher of a new head, and its share of the loss.
        workers: adapt the candidates.
    """
    example, seed = learner.samples.example, learner.seed
    candidates: dict[str, WithKept] = {
        name: (copy.deepcopy(without(network, name, example, seed)[0]), {}) for name in blocks
    }
    if filters is not None:
        candidates = {name: one for name, one in candidates.items() if not is_too_small(one[0])}
    if not candidates:
        return None
    everything = candidates if filters is None else {"": filters, **candidates}
    times = clock.times(
        {"now": network, **{name: one for name, (one, _) in everything.items()}},
        repeats=REPEATS,
        max_seconds=SECONDS,
    )
    now = times["now"]
    before = teacher_of(network, {}, merge)
    jobs = [(name.startswith(END), candidate, kept) for name, (candidate, kept) in everything.items()]
    loss, *losses = workers.map(
        learner, _adapted_loss, [before[0] if before else None, *taught], [(None, network, {}), *jobs]
    )
    prices: dict[str, tuple[float, float]] = {}
    for name, found in zip(everything, losses, strict=True):
        saved = max(now - times[name], NOISE * now)
        # Of those that cost nothing the one that saves most is removed.
        prices[name] = (max(found - loss, 0.0) / saved, -saved)
    shown = ", ".join(f"{name or 'the filters'} {price:.3g}" for name, (price, _) in prices.items())
    log.info("loss for each millisecond saved in %s: %s", clock.name, shown)
    return min(prices, key=lambda name: prices[name]) or None


def _adapted_loss(
    learner: Learner,
    before: nn.Sequential | None,
    teacher: nn.Module,
    weight: float,
    job: tuple[bool | None, nn.Sequential, Mapping[str, Sequence[int]]],
) -> float:
    """The validation loss of a candidate after it was adapted.

    Args:
        before: the network before the cut, to whose outputs layers are refitted; None: they are not.
        teacher: of a new head.
        weight: its share of the loss.
        job: whether the candidate has a new end, None where it is not adapted; it; its `kept_outputs`.
    """
    has_new_end, network, kept = job
    if has_new_end:
        # Nothing of a candidate is resumed.
        with temporary_folder(learner.samples.cache) as folder:
            checkpoint = Path(folder) / CHECKPOINT
            fit_new_head(learner, network, teacher, weight, checkpoint=checkpoint, description="new end")
    elif has_new_end is not None:
        settle(learner, network, None if before is None else (before, kept), samples=SAMPLES)
    samples = learner.samples
    chosen = torch.randperm(len(samples.val), generator=torch.Generator().manual_seed(learner.seed))[:SAMPLES]
    return learner.evaluate(
        network, samples.dataset.take(samples.val.rows[chosen], samples.preprocessing)
    ).loss
