"""Whole residual blocks, where their removal costs less than the filters that save the same time."""

import copy
import logging
from collections.abc import Collection, Mapping

from torch import nn

from tascnet.measure import compare_latency
from tascnet.models.surgery import WidthGroup, is_removable, without_blocks
from tascnet.prune import Moments, Ranking
from tascnet.train import evaluate, reestimate_batchnorm

from .cut import cut
from .ranks import Inputs
from .stage import PruneStage, first_block

__all__ = ["cheaper_block", "removable_blocks"]

log = logging.getLogger("tascnet")

# Training samples on which the loss is compared.
SAMPLES = 256
REPEATS, SECONDS = 40, 30.0


def removable_blocks(stage: PruneStage, network: nn.Sequential) -> list[str]:
    """Names of the blocks that may change and that the network fits together without."""
    blocks = list(network.named_children())[first_block(stage) :]
    return [name for name, block in blocks if is_removable(block)]


def cheaper_block(
    stage: PruneStage,
    network: nn.Sequential,
    groups: list[WidthGroup],
    chosen: Mapping[str, Ranking],
    measured: tuple[Inputs, Moments] | None,
    excluded: Collection[str] = (),
) -> str | None:
    """The block whose removal raises the loss least for each millisecond, where the filters raise it more.

    All candidates are judged alike: cut from a copy, batch-norm measured anew, loss on the same training
    samples, time for one sample side by side.

    Args:
        stage: what the steps share.
        network: on the device.
        groups: those that would lose filters.
        chosen: by group, what would go.
        measured: what `measure_inputs` gave for this network, if it did.
        excluded: blocks whose removal from this network has been taken back.

    Returns:
        The block's name; None where the filters are the better bargain.
    """
    names = [name for name in removable_blocks(stage, network) if name not in excluded]
    candidates = {name: copy.deepcopy(without_blocks(network, {name})[0]) for name in names}
    if not candidates:
        return None
    filters = copy.deepcopy(network)
    cut(stage, filters, groups, chosen, measured=measured)
    sample, device = stage.session.sample(SAMPLES), stage.session.device
    loss = evaluate(network, sample, device=device).loss
    everything = {"": filters, **candidates}
    times = compare_latency(
        {"now": network, **everything}, stage.session.example, repeats=REPEATS, max_seconds=SECONDS
    )
    prices: dict[str, tuple[float, float]] = {}
    for name, candidate in everything.items():
        candidate.requires_grad_(True)
        reestimate_batchnorm(candidate, sample, device=device)
        saved = times["now"].median_ms - times[name].median_ms
        if saved > 0:
            rise = max(evaluate(candidate, sample, device=device).loss - loss, 0.0)
            # Of those that cost nothing the one that saves most.
            prices[name] = (rise / saved, -saved)
    best = min(prices, key=lambda name: prices[name], default="")
    told = ", ".join(f"{name or 'the filters'} {price:.3g}" for name, (price, _) in prices.items())
    log.info("loss for each millisecond saved: %s", told)
    return best or None
