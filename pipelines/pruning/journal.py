"""The journal of stage `prune`: one row for each iteration, and what the rows say."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tascnet.errors import RunFolderError
from tascnet.options import PruneConfig
from tascnet.pruning import Goals, IterationResult, Verdict, decide, missed_goals
from tascnet.run.files import digest_json, read_jsonl

Row = dict[str, Any]

# What every line of the journal holds.
ROW_KEYS = (
    "iteration",
    "from",
    "step",
    "state",
    "landed",
    "val_accuracy",
    "params",
    "flops",
    "size_bytes",
    "inside",
    "removed",
    "pending",
    "seconds",
)


def read_rows(journal: Path) -> list[Row]:
    """One row for each iteration journalled so far, the first of the unpruned network.

    Raises:
        RunFolderError: a line is corrupt or missing.
    """
    rows = read_jsonl(journal, ROW_KEYS)
    if [row["iteration"] for row in rows] != list(range(len(rows))):
        raise RunFolderError(f"{journal} lacks lines in its middle", "start over with stage=prune fresh=true")
    return rows


def replayed(rows: Sequence[Row], options: PruneConfig) -> tuple[list[Row], Verdict]:
    """The rows as far as an uninterrupted run under these limits would have come, and the verdict on them.

    Under another tolerance an iteration would have started from another network, and under another goal it
    would have landed elsewhere: it does not count then, nor do those after it.
    """
    for count in range(1, len(rows) + 1):
        verdict = judge_rows(rows[:count], options)
        if verdict.stop or count == len(rows):
            break
        following = rows[count]
        if (following["from"], following["step"]) != (verdict.keep, verdict.step):
            break
        if not _is_as_planned(following, rows[0], options):
            break
    return list(rows[:count]), verdict


def _is_as_planned(row: Row, first: Row, options: PruneConfig) -> bool:
    """Whether the goals of now would have led to the same cut."""
    if row["landed"] is not None:
        return bool(row["landed"] == land_on(options))
    return not lands(row, first, options)


def land_on(options: PruneConfig) -> dict[str, float | None]:
    """The goals that the last step is fitted to, by key of a row."""
    return {
        "flops": options.flops_target,
        "params": options.params_target,
        "size_bytes": options.size_target,
    }


def lands(costs: Mapping[str, Any], first: Row, options: PruneConfig) -> bool:
    """Whether costs, by key of a row, reach one of the goals that the last step is fitted to."""
    shares = land_on(options)
    return any(share is not None and costs[key] <= share * first[key] for key, share in shares.items())


def with_verdict(rows: Sequence[Row], verdict: Verdict) -> list[Row]:
    """The rows with `inside` anew: the tolerance may have been raised since they were journalled."""
    return [{**row, "inside": inside} for row, inside in zip(rows, verdict.inside, strict=True)]


def judge_rows(rows: Sequence[Row], options: PruneConfig) -> Verdict:
    """Which iterations are inside the tolerance, which one to keep, and whether to stop."""
    history = _results(rows)
    return decide(history, tolerance=options.tolerance, goals=goals(options), retries=options.retries)


def with_missed_goals(reason: str, rows: Sequence[Row], kept: int, options: PruneConfig) -> str:
    """Why the loop ended, and how far the kept network is from the goals, if it has reached none."""
    history = _results(rows)
    missed = missed_goals(history[0], history[kept], goals(options))
    return reason if missed is None else f"{reason}; no goal is reached: {missed}"


def _results(rows: Sequence[Row]) -> list[IterationResult]:
    """The rows as decisions need them."""
    seconds = 0.0
    results = []
    for row in rows:
        seconds += row["seconds"]
        results.append(
            IterationResult(
                iteration=row["iteration"],
                val_accuracy=row["val_accuracy"],
                flops=row["flops"],
                params=row["params"],
                size_bytes=row["size_bytes"],
                latency_ms=row.get("latency_ms"),
                seconds=seconds,
                is_block=bool(row.get("block")),
            )
        )
    return results


def goals(options: PruneConfig) -> Goals:
    """At what the options let the loop end."""
    return Goals(
        flops=options.flops_target,
        params=options.params_target,
        size=options.size_target,
        latency_ms=options.target_latency_ms,
        max_iterations=options.max_iterations,
        max_seconds=options.max_seconds,
    )


def state_name(
    rows: Sequence[Row],
    start: int,
    removed: Mapping[str, int],
    excluded: Sequence[str],
    options: PruneConfig,
) -> str:
    """The folder of the iteration after `rows`, of its own for each way there and each cut.

    Args:
        rows: of the journal.
        start: the row whose network is pruned.
        removed: filters that are to go, by group.
        excluded: blocks that may not.
        options: their goals say which blocks may go instead.
    """
    content = [rows[start]["state"], dict(removed), list(excluded)]
    if options.blocks:
        content.append(land_on(options))
    return f"iteration-{len(rows):03d}-{digest_json(content)[:8]}"
