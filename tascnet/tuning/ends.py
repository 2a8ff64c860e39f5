"""Where a network may end: heads on the pooled features before its last units, and how accurate they are."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from tascnet.data import Segment, prefix_digests, read_digest
from tascnet.errors import BudgetError, plural
from tascnet.measure import complexity
from tascnet.models.head import classifier_of, he_linear, head_start
from tascnet.options import Tune, TuneBase
from tascnet.run.records import EndPoint, StepRecord, TrainingRecord, reaches, score
from tascnet.surgery import Shortener, holds_ignored
from tascnet.train import (
    CHECKPOINT,
    Archive,
    FeaturePair,
    Learner,
    SpreadOf,
    cache_places,
    cached_pair,
    fit_head,
)
from tascnet.tuning.choices import discover_units
from tascnet.tuning.goal import near_margin
from tascnet.tuning.progression import DEPTH
from tascnet.tuning.space import Configuration, Space, Unit
from tascnet.tuning.study import HALF

log = logging.getLogger("tascnet")

# An end whose head alone is this much less accurate than the best one is worth a trial: fine-tuning makes up
# for some of it.
USEFUL = 0.05
# Ends whose features are computed in one pass.
TOGETHER = 8
# Units searched before the deepest useful end.
BEYOND = 2


@dataclass(frozen=True, kw_only=True)
class Ends:
    """What the ends of a network are worth.

    Args:
        points: by exit, from 0; none where ends are not searched.
        heads: softmax layers trained on the pooled features, by exit above 0.
        exits: the deepest exit that the search may take.
    """

    points: tuple[EndPoint, ...] = ()
    heads: Mapping[int, nn.Linear] = field(default_factory=dict)
    exits: int = 0


def possible_exits(
    chain: nn.Sequential, units: Sequence[Unit], example: Tensor, ignore: Sequence[str] = ()
) -> int:
    """How many units may be removed from the end of a chain.

    Those whose blocks hold no layer that `ignore` names, as long as the chain's own pooling takes what is
    left; see `Shortener`. `units` are of `discover_units`.
    """
    shortener, names = Shortener(chain, example), list(chain._modules)
    for unit in units[1:]:
        removed = names[unit.block : units[unit.index - 1].block]
        if shortener.width(unit.block) is None or any(holds_ignored(chain, n, ignore) for n in removed):
            return unit.index - 1
    return len(units) - 1


def find_ends(
    learner: Learner,
    chain: nn.Sequential,
    units: Sequence[Unit],
    options: TuneBase,
    archive: Archive,
    first: TrainingRecord,
) -> Ends:
    """Heads for the ends of a network, trained by the recipe `head` on the pooled features before them.

    With `max_units` all ends up to that unit are looked at. Else it goes back from the output, and stops at
    the first end that is more than `tolerance`, and more than five points, less accurate than the best. The
    search may take the ends that are within these of the best. With a target on parameters or FLOPs it may
    take the next ones too, up to the first that keeps it without narrower layers; with one on bytes or
    latency all that were looked at. Each head is a step of the archive, `end-<exit>`.

    Args:
        learner: samples, device and recipes.
        chain: the network with its trained softmax layer.
        units: all of `discover_units`.
        options: of the search.
        archive: of the stage.
        first: training of the chain's softmax layer, which is exit 0.

    Returns:
        No ends where the options or the network do not allow them, which is logged.
    """
    if not isinstance(options, Tune) or not options.searches_exit:
        return Ends()
    example = learner.samples.example
    limit = _last_exit(chain, units, example, options)
    if limit == 0:
        log.info("no earlier end of the network is searched: its last unit cannot be removed")
        return Ends()
    points = [_point(chain, 0, head_start(chain), example, first)]
    heads: dict[int, nn.Linear] = {}
    n_val = learner.val_samples()
    pooled = _PooledFeatures(learner, chain, units)
    for exit in range(1, limit + 1):
        first_together = exit - (exit - 1) % TOGETHER
        together = range(first_together, min(limit, first_together + TOGETHER - 1) + 1)
        work = partial(_train_head, learner, pooled, exit, together)
        try:
            network, step = archive.once(f"end-{exit}", work)
        except BudgetError as error:
            log.warning("ends before unit %d are not searched (%s)", exit, error.message)
            break
        assert step.training is not None
        heads[exit] = classifier_of(network)
        block = units[exit].block
        ended = pooled.shortener.network(block, heads[exit])
        points.append(_point(ended, exit, block, example, step.training))
        near = _near(points, learner.metric, n_val, options.tolerance, USEFUL)
        if options.max_units is None and exit not in near:
            break
    near = _near(points, learner.metric, n_val, options.tolerance, USEFUL)
    exits = max(near, default=0)
    if options.has_targets:
        exits = max(
            exits, min((p.exit for p in points if _keeps(p, points[0], options)), default=points[-1].exit)
        )
    log.info("the network may end up to %s earlier", plural(exits, "unit"))
    return Ends(points=tuple(points), heads=heads, exits=exits)


def _last_exit(chain: nn.Sequential, units: Sequence[Unit], example: Tensor, options: Tune) -> int:
    limit = possible_exits(chain, units, example, options.ignore)
    return min(limit, options.max_units or limit)


def _keeps(end: EndPoint, whole: EndPoint, options: TuneBase) -> bool:
    """Whether an end keeps the targets of a search; False where bytes or latency count, not known here."""
    if options.has_latency_target or options.size_target is not None:
        return False
    shares = (
        (end.params, whole.params, options.params_target),
        (end.flops, whole.flops, options.flops_target),
    )
    return all(share is None or now <= share * before for now, before, share in shares)


def cache_ends(
    learner: Learner, chain: nn.Sequential, options: TuneBase, spread: SpreadOf | None = None
) -> None:
    """Cache what the head of a chain reads and what those of its last ends will, in one pass of the chain.

    With `spread` the pass runs elsewhere; see `cache_places`.
    """
    if not isinstance(options, Tune) or not options.searches_exit:
        return
    example = learner.samples.example
    units = discover_units(chain, example, options, None)
    limit = min(_last_exit(chain, units, example, options), TOGETHER)
    if limit:
        _PooledFeatures(learner, chain, units).fill(range(limit + 1), spread)


def depth_of(options: TuneBase, ends: Ends) -> int:
    """The deepest unit of a search: `max_units`, or far enough to train units before the deepest end."""
    return options.max_units or max(DEPTH, ends.exits + BEYOND)


def starts(
    space: Space,
    k: int,
    points: Sequence[EndPoint],
    *,
    fits: Callable[[Configuration], bool],
    n_val: float,
    tolerance: float | None,
    metric: str = "accuracy",
) -> list[Configuration]:
    """The first configurations to try at depth `k`.

    The pre-trained setting, trained from unit `k` on; the network ended as early as its head alone is as
    accurate as the best one, trained from the unit before on; the earliest end, likewise; and the former at
    half its widths. Where no such end keeps the bounds, the one nearest the output that does takes its place.

    Args:
        space: the search space.
        k: depth.
        points: ends of the network; with none it ends where it does.
        fits: whether a configuration keeps the bounds of the search.
        n_val: validation samples, as many as count for a standard error; see `near_margin`.
        tolerance: how far below the best an end may be; None: one standard error.
        metric: `accuracy` or `balanced_accuracy`.
    """

    def first(exit: int) -> int:
        wanted, firsts = exit + 1 if exit else k, space.firsts(k, exit)
        return wanted if wanted in firsts else firsts[-1]

    offered = [point for point in points if point.exit in space.exits_to(k)]
    near = _near(offered, metric, n_val, tolerance)
    fitting = [point.exit for point in offered if fits(space.neutral(first(point.exit), point.exit))]
    exit = max(set(near) & set(fitting), default=min(fitting, default=0))
    earliest = max(fitting, default=0)
    found = [space.neutral(k), *(space.neutral(first(e), e) for e in (exit, earliest))]
    found.append(space.narrowed(HALF, first(exit), exit))
    return [config for i, config in enumerate(found) if config not in found[:i]]


def _near(
    points: Sequence[EndPoint], metric: str, n_val: float, tolerance: float | None, least: float = 0.0
) -> list[int]:
    """The exits whose ends are near the best, by the tolerance or by `least`, whichever is more."""
    values = {point.exit: value for point in points if (value := score(point, metric)) is not None}
    best = max(values.values(), default=0.0)
    margin = max(near_margin(best, n_val, tolerance), least)
    return [exit for exit, value in values.items() if reaches(value, best - margin)]


def _point(
    network: nn.Sequential, exit: int, block: int, example: Tensor, training: TrainingRecord
) -> EndPoint:
    measured = complexity(network, example)
    return EndPoint(
        exit=exit,
        block=block,
        params=measured.params,
        flops=measured.flops,
        val_accuracy=training.val_accuracy,
        val_balanced_accuracy=training.val_balanced_accuracy,
    )


class _PooledFeatures:
    """The pooled features before units of a chain, cached; those of several come from one pass."""

    def __init__(self, learner: Learner, chain: nn.Sequential, units: Sequence[Unit]) -> None:
        self._learner, self._chain, self.units = learner, chain, units
        self.shortener = Shortener(chain, learner.samples.example)
        self._digests = prefix_digests(chain)

    def __call__(self, exit: int) -> FeaturePair:
        """Those before unit `exit`.

        Raises:
            BudgetError: they would take more than the cache's limit.
        """
        place = self._segment(0, self.units[exit].block)
        return cached_pair(self._learner, place.blocks, place.digest, reader=place.reader)

    def fill(self, exits: Sequence[int], spread: SpreadOf | None = None) -> None:
        """Cache those of several exits in one pass, if all of them fit; exit 0 is what the head reads."""
        blocks = sorted({self.units[exit].block for exit in exits})
        with suppress(BudgetError):
            segments = [self._segment(*place) for place in pairwise([0, *blocks])]
            cache_places(self._learner, segments, spread)

    def _segment(self, start: int, stop: int) -> Segment:
        reader = None if stop == self.units[0].block else self.shortener.pooling(stop)
        digest = read_digest(self._digests[stop], reader)
        return Segment(digest=digest, blocks=self._chain[start:stop], reader=reader)


def _train_head(
    learner: Learner, pooled: _PooledFeatures, exit: int, together: range, folder: Path
) -> tuple[nn.Sequential, StepRecord]:
    """The network that ends before a unit, its softmax layer trained on the pooled features."""
    block, shortener = pooled.units[exit].block, pooled.shortener
    pooled.fill(together)
    generator = torch.Generator().manual_seed(learner.seed)
    head = he_linear(shortener.width(block) or 0, learner.samples.num_classes, generator)
    training = fit_head(
        learner,
        nn.Sequential(OrderedDict(classifier=head.to(learner.device))),
        pooled(exit),
        checkpoint=folder / CHECKPOINT,
        description=f"end {exit}",
    )
    step = StepRecord(seconds=training.seconds, training=training)
    # The archive keeps networks that run on samples.
    return shortener.network(block, head), step
