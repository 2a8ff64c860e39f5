"""Whole residual blocks, where their removal costs less than the filters that save the same time."""

import copy
import logging
from collections.abc import Callable, Sequence

from torch import nn

from tascnet.measure import Clock
from tascnet.pruning.cut import WithKept, settle, teacher_of
from tascnet.surgery import without_blocks
from tascnet.train import Learner

log = logging.getLogger("tascnet")

# Training samples on which the loss is compared.
SAMPLES = 256
REPEATS, SECONDS = 40, 30.0
# Share of the network's time up to which a difference is noise.
NOISE = 0.01


def cheaper_block(
    learner: Learner,
    network: nn.Sequential,
    blocks: Sequence[str],
    filters: WithKept | None,
    merge: str,
    is_too_small: Callable[[nn.Sequential], bool],
    clock: Clock,
) -> str | None:
    """The block whose removal raises the loss least for each millisecond; None where the filters cost less.

    All candidates are adapted and compared on the same `SAMPLES` training samples, and by their times for one
    sample. A saving below the noise counts as `NOISE` of the network's time.

    Args:
        network: on the device.
        blocks: names of those that may be removed.
        filters: the network without the filters that would be removed instead; None: none can be removed.
        is_too_small: whether a network is beyond a target; where filters can be removed such blocks are kept.
        clock: how long networks take.
    """
    candidates: dict[str, WithKept] = {
        name: (copy.deepcopy(without_blocks(network, {name})[0]), {}) for name in blocks
    }
    if filters is not None:
        candidates = {name: one for name, one in candidates.items() if not is_too_small(one[0])}
    if not candidates:
        return None
    sample = learner.samples.drawn(SAMPLES, learner.seed)
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
        settle(learner, candidate, teacher and (teacher[0], kept), samples=SAMPLES)
        saved = max(now - times[name], NOISE * now)
        rise = max(learner.evaluate(candidate, sample).loss - loss, 0.0)
        # Of those that cost nothing the one that saves most is removed.
        prices[name] = (rise / saved, -saved)
    shown = ", ".join(f"{name or 'the filters'} {price:.3g}" for name, (price, _) in prices.items())
    log.info("loss for each millisecond saved in %s: %s", clock.name, shown)
    return min(prices, key=lambda name: prices[name]) or None
