"""Residual blocks and the end of the network, where that costs less than filters that save as much time."""

import copy
import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tascnet.errors import SurgeryError
from tascnet.measure import Clock
from tascnet.models.head import head_start
from tascnet.pruning.cut import WithKept, settle, teacher_of
from tascnet.surgery import Shortener, holds_filters, holds_ignored, without_blocks
from tascnet.train import Learner

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
    shorten: Callable[[nn.Sequential], None],
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
        shorten: trains the head of a network with a new end.
    """
    samples, seed = learner.samples, learner.seed
    candidates: dict[str, WithKept] = {
        name: (copy.deepcopy(without(network, name, samples.example, seed)[0]), {}) for name in blocks
    }
    if filters is not None:
        candidates = {name: one for name, one in candidates.items() if not is_too_small(one[0])}
    if not candidates:
        return None
    chosen = torch.randperm(len(samples.val), generator=torch.Generator().manual_seed(seed))[:SAMPLES]
    sample = samples.dataset.take(samples.val.rows[chosen], samples.preprocessing)
    loss = learner.evaluate(network, sample).loss
    everything = candidates if filters is None else {"": filters, **candidates}
    times = clock.times(
        {"now": network, **{name: one for name, (one, _) in everything.items()}},
        repeats=REPEATS,
        max_seconds=SECONDS,
    )
    now = times["now"]
    prices: dict[str, tuple[float, float]] = {}
    teacher = teacher_of(network, {}, merge)
    for name, (candidate, kept) in everything.items():
        if name.startswith(END):
            shorten(candidate)
        else:
            settle(learner, candidate, teacher and (teacher[0], kept), samples=SAMPLES)
        saved = max(now - times[name], NOISE * now)
        rise = max(learner.evaluate(candidate, sample).loss - loss, 0.0)
        # Of those that cost nothing the one that saves most is removed.
        prices[name] = (rise / saved, -saved)
    shown = ", ".join(f"{name or 'the filters'} {price:.3g}" for name, (price, _) in prices.items())
    log.info("loss for each millisecond saved in %s: %s", clock.name, shown)
    return min(prices, key=lambda name: prices[name]) or None
