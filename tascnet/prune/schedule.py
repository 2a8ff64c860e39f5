"""How much each iteration removes, and when the loop ends: pure functions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tascnet.prune.pairs import pair_count

__all__ = [
    "IterationPlan",
    "IterationResult",
    "StepPlan",
    "Verdict",
    "decide",
    "plan_iteration",
    "plan_step",
]


class StepPlan(NamedTuple):
    """What one step does to one group.

    Args:
        remove: filters to remove now.
        pending: filters asked for that wait for a later step.
    """

    remove: int
    pending: int


@dataclass(frozen=True, kw_only=True)
class IterationPlan:
    """What one iteration does to all groups.

    Args:
        remove: by group, filters to remove; groups that lose none are left out. Empty: nothing can go.
        pending: by group, filters asked for that wait.
        reason: why nothing can go; None where something does.
    """

    remove: dict[str, int]
    pending: dict[str, int]
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class IterationResult:
    """One line of the journal, as far as decisions need it; iteration 0 is the unpruned network.

    Args:
        iteration: 0, 1, 2, ...
        val_accuracy: fraction of the validation split.
        flops: of one sample.
        params: of the whole network.
        seconds: since the loop began, earlier runs included.
    """

    iteration: int
    val_accuracy: float
    flops: float
    params: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether the loop goes on, and which network it has to show so far.

    Args:
        stop: whether it ends here.
        reason: why it ends; None while it goes on.
        keep: the last iteration inside the tolerance.
        inside: for each iteration, whether it is inside the tolerance of the best so far.
        best: the best validation accuracy so far, the unpruned network's included.
    """

    stop: bool
    reason: str | None
    keep: int
    inside: tuple[bool, ...]
    best: float


def removable(width: int, limit: int, round_to: int, min_width: int) -> int:
    """The most filters up to `limit` whose removal leaves a multiple of `round_to`; 0 where none do."""
    lowest = max(width - limit, min_width, 1)
    target = math.ceil(lowest / round_to) * round_to
    return width - target if target < width else 0


def plan_step(
    width: int, pending: int, percent: float, round_to: int, max_step: float, min_width: int = 1
) -> StepPlan:
    """Filters to remove from one group in one step.

    The request of `max(1, floor(width x percent / 100))` joins those that wait; they are met as far as
    the width left is a multiple of `round_to`.

    Args:
        width: filters of the group now.
        pending: filters asked for by earlier steps and not removed.
        percent: share of the group asked for in one step, in percent.
        round_to: the width left is a multiple of this.
        max_step: largest share of the group that one step takes; pairs are disjoint, so never above half.
        min_width: the group is never left smaller.

    Returns:
        How many go now, and how many wait.
    """
    asked = pending + pair_count(width, percent)
    largest = min(math.floor(width * max_step + 1e-9), width // 2)
    remove = removable(width, min(asked, largest), round_to, min_width)
    return StepPlan(remove, asked - remove)


def plan_iteration(
    widths: Mapping[str, int],
    pending: Mapping[str, int],
    *,
    percent: float,
    round_to: int,
    max_step: float,
    min_width: int = 1,
) -> IterationPlan:
    """What the next iteration removes from each group.

    As long as no group reaches a multiple, all ask again: an iteration of training that removes nothing
    would be lost.

    Args:
        widths: by group, filters now.
        pending: by group, filters that wait; groups not named have none.
        percent: see `plan_step`, as the other options.

    Returns:
        The plan; its `remove` is empty only where no number of requests would ever remove anything.
    """
    waiting = {name: pending.get(name, 0) for name in widths}
    able = [
        name
        for name, width in widths.items()
        if plan_step(width, width, percent, round_to, max_step, min_width).remove
    ]
    if not able:
        return IterationPlan(remove={}, pending=waiting, reason=_why_nothing(widths, round_to, max_step))
    while True:
        steps = {
            name: plan_step(widths[name], waiting[name], percent, round_to, max_step, min_width)
            for name in able
        }
        waiting |= {name: step.pending for name, step in steps.items()}
        remove = {name: step.remove for name, step in steps.items() if step.remove}
        if remove:
            return IterationPlan(remove=remove, pending=waiting)


def _why_nothing(widths: Mapping[str, int], round_to: int, max_step: float) -> str:
    if not widths:
        return "no group of layers has enough filters to be pruned (prune.min_filters)"
    return (
        f"no group can lose filters: a width of at most {max(widths.values())} that stays a multiple of "
        f"{round_to} (prune.round_to) would need more than {max_step:.0%} of a group in one step "
        f"(prune.max_step)"
    )


def _inside(history: Sequence[IterationResult], tolerance: float) -> tuple[bool, ...]:
    """For each iteration whether it is within the tolerance of the best up to it."""
    best, inside = -math.inf, []
    for result in history:
        best = max(best, result.val_accuracy)
        # Accuracies are fractions of a split: a difference of exactly the tolerance is inside.
        inside.append(result.val_accuracy >= best - tolerance - 1e-9)
    return tuple(inside)


def _reason(
    history: Sequence[IterationResult],
    inside: bool,
    tolerance: float,
    flops_target: float | None,
    params_target: float | None,
    max_iterations: int | None,
    max_seconds: float | None,
) -> str | None:
    first, last = history[0], history[-1]
    if not inside:
        return f"validation accuracy fell more than {tolerance:g} below the best"
    if flops_target is not None and last.flops <= flops_target * first.flops:
        return f"FLOPs reached {last.flops / first.flops:.1%} of the unpruned network's"
    if params_target is not None and last.params <= params_target * first.params:
        return f"parameters reached {last.params / first.params:.1%} of the unpruned network's"
    if max_iterations is not None and last.iteration >= max_iterations:
        return f"{max_iterations} iterations are done"
    if max_seconds is not None and last.seconds >= max_seconds:
        return f"{max_seconds:g} seconds have passed"
    return None


def decide(
    history: Sequence[IterationResult],
    *,
    tolerance: float,
    flops_target: float | None = None,
    params_target: float | None = None,
    max_iterations: int | None = None,
    max_seconds: float | None = None,
) -> Verdict:
    """Whether to go on after the last iteration, and which network to keep.

    Args:
        history: all iterations in order, the unpruned network first.
        tolerance: largest loss of validation accuracy against the best so far.
        flops_target: share of the unpruned network's FLOPs at which to stop.
        params_target: share of its parameters at which to stop.
        max_iterations: iterations to make.
        max_seconds: time after which no iteration begins.

    Returns:
        The verdict; where several reasons hold, the first of the order above.
    """
    inside = _inside(history, tolerance)
    reason = _reason(history, inside[-1], tolerance, flops_target, params_target, max_iterations, max_seconds)
    kept = max(position for position, is_inside in enumerate(inside) if is_inside)
    return Verdict(
        stop=reason is not None,
        reason=reason,
        keep=history[kept].iteration,
        inside=inside,
        best=max(result.val_accuracy for result in history),
    )
