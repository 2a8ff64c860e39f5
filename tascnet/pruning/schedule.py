"""How much each iteration removes, and when the loop ends: pure functions."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from tascnet.inherit.pairs import pair_count

# How finely the last step is fitted to its goal.
_HALVINGS = 20


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
        has_landed: whether the plan is as small as a goal allows.
    """

    remove: dict[str, int]
    pending: dict[str, int]
    reason: str | None = None
    has_landed: bool = False


@dataclass(frozen=True, kw_only=True)
class IterationResult:
    """One line of the journal, as far as decisions need it; iteration 0 is the unpruned network.

    Args:
        iteration: 0, 1, 2, ...
        val_accuracy: fraction of the validation split.
        flops: of one sample.
        params: of the whole network.
        size_bytes: of its saved weights.
        latency_ms: for one sample; None where it was not measured.
        seconds: since the loop began, earlier runs included.
        is_block: whether a whole block went, and no filters.
    """

    iteration: int
    val_accuracy: float
    flops: float
    params: int
    seconds: float
    size_bytes: int = 0
    latency_ms: float | None = None
    is_block: bool = False


@dataclass(frozen=True, kw_only=True)
class Goals:
    """At what the loop ends; None: no such goal.

    Args:
        flops: share of the unpruned network's FLOPs.
        params: share of its parameters.
        size: share of its saved size.
        latency_ms: milliseconds for one sample.
        max_iterations: iterations to make, those taken back included.
        max_seconds: time after which no iteration begins.
    """

    flops: float | None = None
    params: float | None = None
    size: float | None = None
    latency_ms: float | None = None
    max_iterations: int | None = None
    max_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether the loop goes on, and which network it has to show so far.

    Args:
        stop: whether it ends here.
        reason: why it ends; None while it goes on.
        keep: the last iteration inside the tolerance, from which the next one starts.
        inside: for each iteration, whether it is inside the tolerance of the best so far.
        best: the best validation accuracy so far, the unpruned network's included.
        step: share of the full step that the next iteration takes: half for each one that was taken back.
    """

    stop: bool
    reason: str | None
    keep: int
    inside: tuple[bool, ...]
    best: float
    step: float = 1.0


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
    `max_step` allows and the width left is a multiple of `round_to`. After a cut only what rounding has
    held back waits.

    Args:
        width: filters of the group now.
        pending: filters asked for by earlier steps and not removed.
        percent: share of the group asked for in one step, in percent.
        round_to: the width left is a multiple of this.
        max_step: largest share of the group that one step takes; at most half where pairs are removed.
        min_width: the group is never left smaller.

    Returns:
        How many go now, and how many wait.
    """
    asked = pending + pair_count(width, percent)
    largest = math.floor(width * max_step + 1e-9)
    remove = removable(width, min(asked, largest), round_to, min_width)
    left = asked - remove
    return StepPlan(remove, min(left, round_to - 1) if remove else left)


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
        return IterationPlan(
            remove={}, pending=waiting, reason=_why_nothing(widths, round_to, max_step, min_width)
        )
    while True:
        steps = {
            name: plan_step(widths[name], waiting[name], percent, round_to, max_step, min_width)
            for name in able
        }
        waiting |= {name: step.pending for name, step in steps.items()}
        remove = {name: step.remove for name, step in steps.items() if step.remove}
        if remove:
            return IterationPlan(remove=remove, pending=waiting)


def landed(
    plan: Callable[[float], IterationPlan], percent: float, reaches: Callable[[Mapping[str, int]], bool]
) -> IterationPlan:
    """The plan for `percent`, or the smallest one that reaches a goal where that one goes beyond it.

    Args:
        plan: what is removed for a percentage.
        percent: of the full step.
        reaches: whether the goal is reached once these counts by group are gone.
    """
    full = plan(percent)
    if not full.remove or not reaches(full.remove):
        return full
    below, enough = 0.0, percent
    for _ in range(_HALVINGS):
        middle = (below + enough) / 2
        if reaches(plan(middle).remove):
            enough = middle
        else:
            below = middle
    return replace(plan(enough), has_landed=True)


def _why_nothing(widths: Mapping[str, int], round_to: int, max_step: float, min_width: int) -> str:
    if not widths:
        return "no group of layers has enough filters to be pruned (prune.min_filters)"
    if all(width <= min_width for width in widths.values()):
        return f"no group has more than {min_width} filters, which is prune.min_width"
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


def missed_goals(first: IterationResult, kept: IterationResult, goals: Goals) -> str | None:
    """How far a network is from the goals, in words; None where it has reached one, or there is none."""
    if _goal_reached(first, kept, goals) is not None:
        return None
    missed = [
        f"{name} are {now / before:.2%} of the unpruned network's, not {share:.2%}"
        for name, share, now, before in _shares(first, kept, goals)
        if share is not None
    ]
    if goals.latency_ms is not None and kept.latency_ms is not None:
        missed.append(f"latency is {kept.latency_ms:.3g} ms for one sample, not {goals.latency_ms:g}")
    return ", ".join(missed) or None


def _shares(
    first: IterationResult, last: IterationResult, goals: Goals
) -> tuple[tuple[str, float | None, float, float], ...]:
    """What the goals that are shares are called, which share each is, and the costs now and at first."""
    return (
        ("FLOPs", goals.flops, last.flops, first.flops),
        ("parameters", goals.params, last.params, first.params),
        ("saved bytes", goals.size, last.size_bytes, first.size_bytes),
    )


def _goal_reached(first: IterationResult, last: IterationResult, goals: Goals) -> str | None:
    """Which goal the last iteration has reached, in words."""
    for name, share, now, before in _shares(first, last, goals):
        if share is not None and now <= share * before:
            return f"{name} reached {now / before:.1%} of the unpruned network's"
    if goals.latency_ms is not None and last.latency_ms is not None and last.latency_ms <= goals.latency_ms:
        return f"latency reached {last.latency_ms:.3g} ms for one sample"
    return None


def _spent(last: IterationResult, goals: Goals) -> str | None:
    """Which budget is used up, in words."""
    if goals.max_iterations is not None and last.iteration >= goals.max_iterations:
        return f"{goals.max_iterations} iterations are done"
    if goals.max_seconds is not None and last.seconds >= goals.max_seconds:
        return f"{goals.max_seconds:g} seconds have passed"
    return None


def decide(
    history: Sequence[IterationResult],
    *,
    tolerance: float,
    goals: Goals,
    retries: int = 0,
) -> Verdict:
    """Whether to go on after the last iteration, from which network, and in which steps.

    An iteration that falls below the tolerance is taken back: the next one starts from the last network
    inside it, with half the step, until `retries` in a row have failed. A block that is taken back is no
    step that failed: no smaller one follows from it.

    Args:
        history: all iterations in order, the unpruned network first.
        tolerance: largest loss of validation accuracy against the best so far.
        goals: at what to stop.
        retries: iterations in a row that are tried again smaller.

    Returns:
        The verdict; where several reasons hold, the tolerance comes first, then the goals in their order.
    """
    inside = _inside(history, tolerance)
    outside = [result for result, is_inside in zip(history, inside, strict=True) if not is_inside]
    since = next((n for n, is_inside in enumerate(reversed(inside)) if is_inside), len(inside))
    failed = sum(not result.is_block for result in outside[len(outside) - since :])
    if failed > retries:
        smaller = f" in each of {failed} steps, the last of them the smallest" if retries else ""
        reason: str | None = f"validation accuracy fell more than {tolerance:g} below the best{smaller}"
    else:
        reached = None if since else _goal_reached(history[0], history[-1], goals)
        reason = reached or _spent(history[-1], goals)
    kept = max(position for position, is_inside in enumerate(inside) if is_inside)
    return Verdict(
        stop=reason is not None,
        reason=reason,
        keep=history[kept].iteration,
        inside=inside,
        best=max(result.val_accuracy for result in history),
        step=0.5 ** sum(not result.is_block for result in outside),
    )
