"""Whole residual blocks, where their removal costs less than the filters that save the same time."""

import copy
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias

from torch import nn

from tascnet.measure import compare_latency
from tascnet.surgery import is_removable, without_blocks
from tascnet.train import evaluate

from .cut import settle, teacher_of
from .stage import PruneStage, first_block

log = logging.getLogger("tascnet")

# A smaller network, and by layer the outputs that stay.
Candidate: TypeAlias = tuple[nn.Sequential, Mapping[str, Sequence[int]]]
# Training samples on which the loss is compared.
SAMPLES = 256
REPEATS, SECONDS = 40, 30.0
# Share of the network's time below which a difference tells nothing.
NOISE = 0.01


def removable_blocks(stage: PruneStage, network: nn.Sequential) -> list[str]:
    """Names of the blocks that may change and that the network fits together without."""
    blocks = list(network.named_children())[first_block(stage) :]
    return [name for name, block in blocks if is_removable(block)]


def cheaper_block(
    stage: PruneStage,
    network: nn.Sequential,
    filters: Candidate | None,
    excluded: Collection[str],
    is_too_small: Callable[[nn.Sequential], bool],
) -> str | None:
    """The block whose removal raises the loss least for each millisecond, where the filters raise it more.

    All candidates are judged alike: made to fit together by `SAMPLES` training samples as the one that is
    chosen will be by more, loss on these samples, time for one sample side by side. Time that is lost in the
    noise counts as `NOISE` of the network's.

    Args:
        stage: what the steps share.
        network: on the device.
        filters: the network without the filters that would go instead, and the outputs that stay; None: none
            can.
        excluded: blocks whose removal from this network has been taken back.
        is_too_small: whether a network is beyond a goal; such a one is passed over where filters can go.

    Returns:
        The block's name; None where the filters are the better bargain, or there is no block.
    """
    names = [name for name in removable_blocks(stage, network) if name not in excluded]
    candidates: dict[str, Candidate] = {
        name: (copy.deepcopy(without_blocks(network, {name})[0]), {}) for name in names
    }
    if filters is not None:
        candidates = {name: one for name, one in candidates.items() if not is_too_small(one[0])}
    if not candidates:
        return None
    sample, device = stage.session.sample(SAMPLES), stage.session.device
    loss = evaluate(network, sample, device=device).loss
    everything = candidates if filters is None else {"": filters, **candidates}
    times = compare_latency(
        {"now": network, **{name: one for name, (one, _) in everything.items()}},
        stage.session.example,
        repeats=REPEATS,
        max_seconds=SECONDS,
    )
    now = times["now"].median_ms
    prices: dict[str, tuple[float, float]] = {}
    teacher = teacher_of(stage, network, {})
    for name, (candidate, kept) in everything.items():
        settle(stage, candidate, teacher and (teacher[0], kept), samples=SAMPLES)
        saved = max(now - times[name].median_ms, NOISE * now)
        rise = max(evaluate(candidate, sample, device=device).loss - loss, 0.0)
        # Of those that cost nothing the one that saves most.
        prices[name] = (rise / saved, -saved)
    best = min(prices, key=lambda name: prices[name])
    told = ", ".join(f"{name or 'the filters'} {price:.3g}" for name, (price, _) in prices.items())
    log.info("loss for each millisecond saved: %s", told)
    return best or None
