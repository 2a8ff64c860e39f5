"""The journal of stage `prune`: one row for each iteration, and what the rows say."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tascnet.config import PruneConfig
from tascnet.errors import RunFolderError
from tascnet.files import read_jsonl
from tascnet.prune import IterationResult, Verdict, decide

__all__ = ["Row", "judge_rows", "read_rows", "replayed", "with_verdict"]

Row = dict[str, Any]

# What every line of the journal holds.
ROW_KEYS = ("iteration", "val_accuracy", "params", "flops", "inside", "removed", "pending", "seconds")


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
    """The rows as far as an uninterrupted run under these limits would have come, and the verdict on them."""
    for count in range(1, len(rows) + 1):
        verdict = judge_rows(rows[:count], options)
        if verdict.stop:
            break
    return list(rows[:count]), verdict


def with_verdict(rows: Sequence[Row], verdict: Verdict) -> list[Row]:
    """The rows with `inside` anew: the tolerance may have been raised since they were journalled."""
    return [{**row, "inside": inside} for row, inside in zip(rows, verdict.inside, strict=True)]


def judge_rows(rows: Sequence[Row], options: PruneConfig) -> Verdict:
    """Which iterations are inside the tolerance, which one to keep, and whether to stop."""
    seconds = 0.0
    history = []
    for row in rows:
        seconds += row["seconds"]
        history.append(
            IterationResult(
                iteration=row["iteration"],
                val_accuracy=row["val_accuracy"],
                flops=row["flops"],
                params=row["params"],
                seconds=seconds,
            )
        )
    return decide(
        history,
        tolerance=options.tolerance,
        flops_target=options.flops_target,
        params_target=options.params_target,
        max_iterations=options.max_iterations,
        max_seconds=options.max_seconds,
    )
