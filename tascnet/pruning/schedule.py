"""When pruning ends and from which iteration it continues, as functions of the journal and the options."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tascnet.errors import plural
from tascnet.options import Prune
from tascnet.run.records import Iteration, reaches, score

# Targets that are shares of the unpruned network's cost: field of an iteration, option, and name.
SHARES = (
    ("flops", "flops_target", "FLOPs"),
    ("params", "params_target", "parameters"),
    ("size_bytes", "size_target", "saved bytes"),
    ("latency_ms", "latency_target", "latency"),
)
# Those that are known exactly before a cut: the last step is fitted to them.
FITTED = SHARES[:3]
# Bytes of a parameter in a saved network.
FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether pruning continues, and from which network.

    Args:
        reason: why it ends; None while it continues.
        keep: the last iteration inside the tolerance, from which the next one starts.
        inside: for each iteration, whether it is inside the tolerance of the best so far.
        step: share of the full step that the next iteration takes: halved for each one that was reverted.
    """

    reason: str | None
    keep: int
    inside: tuple[bool, ...]
    step: float = 1.0


def decide(iterations: Sequence[Iteration], options: Prune, metric: str = "accuracy") -> Verdict:
    """Whether to continue after the last iteration, from which network, and in which steps.

    An iteration that falls below the tolerance, also after a second retraining, is reverted: the next one
    starts from the last network inside it, with half the step, until more than `retries` in a row have
    failed. A reverted block does not count as failed, and no step is halved for it. The first of `iterations`
    is the unpruned network, and the tolerance is one of the metric.
    """
    inside: list[bool] = []
    steps_outside = failed = 0
    for count, iteration in enumerate(iterations, start=1):
        inside.append(is_inside(score(iteration, metric), iterations[:count], options, metric))
        if inside[-1]:
            failed = 0
        elif not iteration.block:
            steps_outside, failed = steps_outside + 1, failed + 1
    reason = None
    seconds = sum(iteration.seconds for iteration in iterations)
    if failed > options.retries:
        smaller = f" in each of {failed} steps, the last of them the smallest" if options.retries else ""
        name = metric.replace("_", " ")
        reason = f"validation {name} fell more than {options.tolerance:g} below the best{smaller}"
    elif inside[-1] and (reached := _target_reached(iterations[0], iterations[-1], options)):
        reason = reached
    elif iterations[-1].iteration >= options.max_iterations:
        most = options.max_iterations
        reason = f"{plural(most, 'iteration')} {'is' if most == 1 else 'are'} done"
    elif options.max_seconds is not None and seconds >= options.max_seconds:
        reason = f"{options.max_seconds:g} seconds have passed"
    keep = max(one.iteration for one, is_in in zip(iterations, inside, strict=True) if is_in)
    return Verdict(reason=reason, keep=keep, inside=tuple(inside), step=0.5**steps_outside)


def is_inside(
    value: float | None, iterations: Sequence[Iteration], options: Prune, metric: str = "accuracy"
) -> bool:
    """Whether a value of the metric keeps the tolerance below the best of some iterations."""
    best = max(score(iteration, metric) or 0.0 for iteration in iterations)
    return reaches(value or 0.0, best - options.tolerance)


def is_retrained(
    value: float | None, iterations: Sequence[Iteration], options: Prune, metric: str = "accuracy"
) -> bool:
    """Whether a network of this value after `iterations` is retrained once more before it is judged.

    That is a first retry: without `retries` none is.
    """
    return options.retries > 0 and not is_inside(value, iterations, options, metric)


def rounds(first: int) -> list[int]:
    """Epochs of the rounds of training, each half as long as the one before it and with its own schedule.

    Args:
        first: epochs of the first; 0: there is no round.
    """
    lengths: list[int] = []
    while first:
        lengths.append(first)
        first //= 2
    return lengths


def noise(value: float, n_val: float) -> float:
    """By how much a metric on `n_val` validation samples has to rise to count as a gain.

    That is half its binomial standard error: two networks of one training make most mistakes in common, so
    their difference varies less than each of them.
    """
    return 0.5 * math.sqrt(max(value * (1 - value), 0.0) / n_val)


def deadline_of(iterations: Sequence[Iteration], options: Prune, started: float) -> float:
    """When training after these iterations ends, if it began at `started`; infinite without `max_seconds`."""
    if options.max_seconds is None:
        return math.inf
    return started + options.max_seconds - sum(iteration.seconds for iteration in iterations)


def _shares(first: Iteration, last: Iteration, options: Prune) -> Iterator[tuple[str, float, float, float]]:
    """For each target that is a share its name, the cost now and before, and the share."""
    for field, option, name in SHARES:
        share, now, before = getattr(options, option), getattr(last, field), getattr(first, field)
        if share is not None and now is not None and before is not None:
            yield name, now, before, share


def _target_reached(first: Iteration, last: Iteration, options: Prune) -> str | None:
    for name, now, before, share in _shares(first, last, options):
        if now <= share * before:
            return f"{name} reached {now / before:.1%} of the unpruned network's"
    most = options.latency_target_ms
    if most is not None and last.latency_ms is not None and last.latency_ms <= most:
        return f"latency reached {last.latency_ms:.3g} ms for one sample"
    return None


def reaches_latency(options: Prune, original_ms: float, latency_ms: float) -> bool:
    """Whether a latency reaches one of its targets."""
    share, most = options.latency_target, options.latency_target_ms
    return (share is not None and latency_ms <= share * original_ms) or (
        most is not None and latency_ms <= most
    )


def missed_targets(first: Iteration, kept: Iteration, options: Prune) -> str | None:
    """How far a network is from the targets; None where it has reached one, or there is none."""
    if _target_reached(first, kept, options) is not None:
        return None
    missed = [
        f"{name} are {now / before:.2%} of the unpruned network's, not {share:.2%}"
        for name, now, before, share in _shares(first, kept, options)
        if name != "latency"
    ]
    if first.latency_ms is not None and kept.latency_ms is not None:
        missed += filter(None, [missed_latency(options, first.latency_ms, kept.latency_ms)])
    return ", ".join(missed) or None


def missed_latency(options: Prune, original_ms: float, latency_ms: float) -> str | None:
    """How far a latency is from its targets; None where it reaches one, or there is none."""
    if reaches_latency(options, original_ms, latency_ms):
        return None
    share, most, missed = options.latency_target, options.latency_target_ms, []
    if share is not None:
        missed.append(f"latency is {latency_ms / original_ms:.2%} of the unpruned network's, not {share:.2%}")
    if most is not None:
        missed.append(f"latency is {latency_ms:.3g} ms for one sample, not {most:g}")
    return ", ".join(missed) or None


def replayed(
    iterations: Sequence[Iteration], options: Prune, metric: str = "accuracy"
) -> tuple[list[Iteration], Verdict]:
    """The iterations that an uninterrupted run with these options would have made, too, and the verdict.

    With another tolerance an iteration would have started from another network, or would have been retrained
    once more or not, and with another target it would have removed other filters: it is left out then, with
    those after it. `inside` is by these options.
    """
    for count in range(1, len(iterations) + 1):
        verdict = decide(iterations[:count], options, metric)
        if verdict.reason is not None or count == len(iterations):
            break
        following = iterations[count]
        if (following.start, following.step) != (verdict.keep, verdict.step):
            break
        first = getattr(following, f"val_{metric}_first")
        retrained = first is not None
        value = first if retrained else score(following, metric)
        if is_retrained(value, iterations[:count], options, metric) != retrained:
            break
        landed = following.landed
        if landed is None and reaches_fitted(vars(following), iterations[0], options):
            break
        if landed is not None and landed != fitted_targets(options):
            break
    counted = zip(iterations[:count], verdict.inside, strict=True)
    return [replace(iteration, inside=is_in) for iteration, is_in in counted], verdict


def fitted_targets(options: Prune) -> dict[str, float | None]:
    """The targets that the last step is fitted to, by cost."""
    return {field: getattr(options, option) for field, option, _ in FITTED} | latency_targets(options)


def latency_targets(options: Prune) -> dict[str, float | None]:
    """The targets of latency that steps are fitted to, by option."""
    names = ("latency_target", "latency_target_ms") if options.spends_latency else ()
    return {name: getattr(options, name) for name in names}


def reaches_fitted(costs: Mapping[str, float], first: Iteration, options: Prune) -> bool:
    """Whether costs, by field of an iteration, reach one of the fitted targets."""
    for field, option, _ in FITTED:
        share = getattr(options, option)
        if share is not None and costs[field] <= share * getattr(first, field):
            return True
    latency_ms = costs.get("latency_ms")
    if not options.spends_latency or latency_ms is None or first.latency_ms is None:
        return False
    return reaches_latency(options, first.latency_ms, latency_ms)


def size_without(start: Iteration, params: int) -> int:
    """The saved size of a network that is left with so many parameters."""
    return start.size_bytes - FLOAT_BYTES * (start.params - params)
