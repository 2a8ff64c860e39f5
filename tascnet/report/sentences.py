"""The results of a stage in sentences."""

from collections.abc import Iterable, Mapping, Sequence

from tascnet.errors import by_ending, plural
from tascnet.measure.runtimes import NAMES
from tascnet.report.classes import FEW, pairs, reference_of
from tascnet.report.numbers import decimal, gap, percent
from tascnet.run.records import (
    CandidateRecord,
    Insight,
    ModelMetrics,
    PruneMetrics,
    Reach,
    SampleCounts,
    StageMetrics,
    TuneMetrics,
    score,
)
from tascnet.run.verdict import class_name, class_warnings

TOO_FEW = "Too few different results to judge what the search learnt."
# Choices named on the terminal.
_MATTERED = 3
# A smaller fall of the FLOPs is within the noise of latencies.
_NOTHING = 0.1
# Latency follows the FLOPs where it falls by at least this part of their fall.
_AGREEMENT = 0.5
# Pairs of classes that are named.
_PAIRS = 3
# Reasons that are named where layers keep their width.
_REASONS = 3
# Candidates of stage tune.
_HANDED = {
    "baseline": "the baseline",
    "conventional": "the conventional network",
    "winner": "the winner as the search trained it",
    "best trial": "the best trial as the search trained it",
    "tuned": "the fine-tuned winner",
}


def insight_lines(insight: Insight | None) -> list[str]:
    """What the search learnt; None: there were too few trials to judge."""
    if insight is None:
        return [TOO_FEW]
    figures = "; ".join(f"{label}: {value}" for label, value in insight_figures(insight))
    rises = [(row.choice, gap(row.rise, insight.target, signed=True)) for row in insight.importance]
    mattered = [f"{choice} {rise}" for choice, rise in rises[:_MATTERED] if rise.startswith("+")]
    lines = [insight.sentence, f"{figures}."]
    if insight.learnt and mattered:
        lines.append(f"Rise of the leave-one-out error without a choice: {', '.join(mattered)}.")
    return lines


def insight_figures(insight: Insight) -> list[tuple[str, str]]:
    """Figures of how well the surrogate predicts, each with its label."""
    return [
        ("leave-one-out error (RMSE)", gap(insight.rmse, insight.target)),
        ("standard deviation of the results", gap(insight.deviation, insight.target)),
        ("R², leave-one-out", decimal(insight.r2)),
        ("R², refitted", decimal(insight.refitted_r2)),
        ("rank correlation, refitted", decimal(insight.refitted_rank_correlation)),
    ]


def fall_lines(metrics: PruneMetrics) -> list[str]:
    """Which network stage prune hands over, and how far it is below the unpruned one on validation."""
    before, after = (score(metrics.models[name], metrics.metric) for name in ("before", "after"))
    if before is None or after is None:
        return []
    if not metrics.kept_iteration:
        why = "no iteration keeps the tolerance" if metrics.iterations else "there was no iteration"
        return [f"Handed over: the unpruned network, {percent(after)} on validation, because {why}."]
    fall = (
        f"{100 * (before - after):.1f} points below the unpruned network"
        if after < before
        else f"not below the unpruned network ({percent(before)})"
    )
    which = f"the network of iteration {metrics.kept_iteration}"
    return [f"Handed over: {which}, {percent(after)} on validation, {fall}."]


def speed_lines(
    models: Mapping[str, ModelMetrics], removable_blocks: int = 0, runtime: str = "eager"
) -> list[str]:
    """How far FLOPs and latency fell from `before` to `after`, and whether latency followed.

    Args:
        models: `before` and `after`.
        removable_blocks: how many blocks the option `blocks` could still remove.
        runtime: whose latency it is; that of eager PyTorch where it does not run both networks.
    """
    before, after = models["before"], models["after"]
    flops = after.flops / before.flops
    was, now = before.latency(runtime), after.latency(runtime)
    if was is None or now is None:
        was, now = before.eager, after.eager
    times = {
        "batch 1": now.latency_ms / was.latency_ms,
        f"batch {before.batch}": now.latency_ms_batch / was.latency_ms_batch,
    }
    shares, where = (
        " and ".join(f"{100 * ms:.0f} % at {batch}" for batch, ms in times.items()),
        NAMES[now.runtime],
    )
    lines = [
        f"Of the unpruned network's FLOPs {100 * flops:.0f} % remain, of its latency in {where} {shares}."
    ]
    slow = [
        batch
        for batch, share in times.items()
        if 1 - flops > _NOTHING and 1 - share < _AGREEMENT * (1 - flops)
    ]
    if slow:
        advice = "Narrower layers hardly reduce that."
        if removable_blocks:
            advice = "Fewer blocks reduce that (`blocks=true`), narrower layers hardly do."
        lines.append(
            f"Latency in {where} did not follow the FLOPs at {' and '.join(slow)}: calls and memory access "
            f"take the time, not arithmetic. {advice}"
        )
    return lines


def reach_lines(reach: Reach) -> list[str]:
    """How far the removal of filters can go, and why not further."""
    flops, params = percent(1 - reach.flops_left), percent(1 - reach.params_left)
    lines = [f"Removing filters can take away at most {flops} of the FLOPs and {params} of the parameters."]
    # The classes are the outputs of the last layer of every network.
    kept = [(one.reason, one.layers) for one in reach.uncut if one.layers != ("classifier",)]
    if kept:
        lines.append(f"Layers that keep filters: {uncut_words(kept)}.")
    if reach.inexact:
        lines.append(
            "Not exact, and therefore last, are cuts of channels that share statistics, as behind a layer "
            f"normalisation: {some(reach.inexact)}."
        )
    return lines


def uncut_words(reasons: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Reasons why layers keep their width, those of most layers first, in one line."""
    ordered = sorted(reasons, key=lambda one: -len(one[1]))
    parts = [f"{reason} ({some(layers)})" for reason, layers in ordered[:_REASONS]]
    rest = len(ordered) - _REASONS
    return "; ".join([*parts, *([plural(rest, "other reason")] if rest > 0 else [])])


def handover_lines(metrics: TuneMetrics) -> list[str]:
    """Which network stage tune hands over, beside the best that it had; and what training did not improve."""
    rows = {one.name: one for one in metrics.candidates}
    if metrics.handed_over not in rows:
        return []
    chosen = rows[metrics.handed_over]

    def value(one: CandidateRecord) -> float:
        return score(one, metrics.metric) or 0.0

    best = max(metrics.candidates, key=value)
    note = f" ({chosen.note})" if chosen.note else ""
    line = f"Handed over: {_HANDED[chosen.name]}{note}, {percent(value(chosen))} on validation"
    if (lost := value(best) - value(chosen)) > 0:
        facts = "; ".join(filter(None, (percent(value(best)), best.note)))
        line += f", {100 * lost:.1f} points below the best, {_HANDED[best.name]} ({facts})"
        if not best.fits:
            line += ", which " + ("does not keep the targets" if metrics.bounds else "was not asked for")
    lines = [f"{line}."]
    tuned = rows.get("tuned")
    if tuned is not None and tuned is not chosen:
        lines.append(f"Fine-tuning did not help: it ended at {percent(value(tuned))} ({tuned.note}).")
    # Of the conventional network nothing follows that other figures would not show.
    if (usual := rows.get("conventional")) is not None and usual.note:
        lines.append(f"The conventional network: {usual.note}.")
    return lines


def some(names: Sequence[str]) -> str:
    """The first of some names, and how many others there are."""
    return names[0] if len(names) == 1 else f"{names[0]} and {plural(len(names) - 1, 'other')}"


def warnings(metrics: StageMetrics) -> list[str]:
    """What the accuracy hides: lost classes, a network that knows only the largest one, leaked samples."""
    samples, lines = metrics.samples, class_warnings(metrics)
    if samples.leaked:
        lines.append(
            f"{samples.leaked:,} of {samples.val + samples.test:,} validation and test samples "
            f"{'has' if samples.leaked == 1 else 'have'} a copy in another part of the split: accuracies may "
            "be too high."
        )
    return lines


def class_lines(metrics: StageMetrics) -> list[str]:
    """How the result does over the classes, beside the model that it is compared with."""
    name = reference_of(metrics)
    result, reference = metrics.models["after"], metrics.models[name] if name else None
    figures = {"balanced accuracy (mean recall)": "test_balanced_accuracy"}
    figures |= {"top-5 accuracy": "test_top5_accuracy"} if result.test_top5_accuracy is not None else {}
    parts = [
        f"{word} {percent(getattr(result, key))}"
        + (f" ({name}: {percent(getattr(reference, key))})" if reference else "")
        for word, key in figures.items()
    ]
    samples = metrics.samples
    lines = [
        f"On the test samples: {', '.join(parts)}.",
        f"Always naming the largest class, {class_name(samples.largest_class.name)}, has an accuracy of "
        f"{percent(samples.majority_accuracy)}.",
    ]
    # Of few classes the tables hold all mistakes.
    if len(result.classes) <= FEW:
        return lines
    mistakes = [
        f"{class_name(pair.true)} taken for {class_name(pair.predicted)} ({pair.count})"
        for pair in pairs(result)
    ]
    return [*lines, f"Most frequent mistakes: {', '.join(mistakes[:_PAIRS])}."] if mistakes else lines


def sample_lines(samples: SampleCounts) -> list[str]:
    """How many samples the classes have, and what is peculiar about the samples."""
    totals = {row.name: row.train + row.val + row.test for row in samples.by_class}
    most, least = max(totals, key=lambda name: totals[name]), min(totals, key=lambda name: totals[name])
    if totals[most] == totals[least]:
        lines = [f"Every class has {plural(totals[most], 'sample')}."]
    else:
        lines = [
            f"The largest class, {class_name(most)}, has {plural(totals[most], 'sample')}, the smallest, "
            f"{class_name(least)}, {totals[least]}."
        ]
    if samples.copies:
        verb = "is a copy" if samples.copies == 1 else "are copies"
        lines.append(f"{plural(samples.copies, 'sample')} {verb} of an earlier one.")
    if samples.near_duplicates is not None:
        near, verb = samples.near_duplicates, "looks" if samples.near_duplicates == 1 else "look"
        of = plural(samples.val + samples.test, "validation and test sample")
        lines.append(f"{near or 'None'} of {of} {verb} like a training sample.")
    if samples.passed_over:
        endings = by_ending(samples.passed_over)
        lines.append(f"Files passed over, of no known image format, by ending: {endings}.")
    return lines
