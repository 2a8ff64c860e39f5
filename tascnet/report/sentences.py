"""The results of a stage in sentences."""

from collections.abc import Mapping

from tascnet.report.numbers import decimal, gap
from tascnet.run.records import Insight, ModelMetrics

TOO_FEW = "Too few different results to judge what the search learnt."
# Choices named on the terminal.
_MATTERED = 3
# A smaller fall of the FLOPs counts as none.
_NOTHING = 0.02
# Latency follows the FLOPs where it falls by at least this part of their fall.
_AGREEMENT = 0.5


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


def speed_lines(models: Mapping[str, ModelMetrics], removable_blocks: int = 0) -> list[str]:
    """How far FLOPs and latency fell from `before` to `after`, and whether latency followed.

    Args:
        models: `before` and `after`.
        removable_blocks: how many blocks the option `blocks` could still remove.
    """
    before, after = models["before"], models["after"]
    flops = after.flops / before.flops
    times = {
        "batch 1": after.latency_ms / before.latency_ms,
        f"batch {before.batch}": after.latency_ms_batch / before.latency_ms_batch,
    }
    shares = " and ".join(f"{100 * share:.0f} % at {batch}" for batch, share in times.items())
    lines = [f"Of the unpruned network's FLOPs {100 * flops:.0f} % remain, of its latency {shares}."]
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
            f"Latency did not follow the FLOPs at {' and '.join(slow)}: calls and memory access take the "
            f"time, not arithmetic. {advice}"
        )
    return lines
