"""The report of stage prune."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tascnet.errors import plural
from tascnet.report import numbers
from tascnet.report.page import page, stop_fact, write
from tascnet.report.plots import iterations_plot, sensitivity_plot, widths_plot
from tascnet.report.speed import speed_lines

Row = Mapping[str, Any]

_MODELS = {"before": "as it came from tuning", "after": "pruned"}


def prune_report(path: Path, metrics: Row, iterations: Sequence[Row], widths: Sequence[Row]) -> None:
    """Write the report of stage prune.

    Args:
        path: the page.
        metrics: content of `metrics.json`: models (before, after), seed, seconds, versions; and, where
            present, tolerance, kept_iteration, stopped (why), removable_blocks, dataset, backbone, machine.
            Without kept_iteration the last iteration inside the tolerance is taken for it.
        iterations: rows of `iterations.jsonl`, 0 being the unpruned network.
        widths: rows of layer, before and after.
    """
    kept = metrics.get("kept_iteration")
    if kept is None:
        kept = max((row["iteration"] for row in iterations if row["inside"]), default=None)
    changed = [row for row in widths if row["before"] != row["after"]]
    content = page("prune", metrics, result="after", against="before", described=_MODELS)
    content["facts"] += [_iterations_fact(iterations), *stop_fact(metrics)]
    content["speed"] = speed_lines(metrics.get("models", {}), metrics.get("removable_blocks", 0))
    content["sensitivity"] = _sensitivity(metrics.get("sensitivity"))
    content["plot"] = _iterations_figure(iterations, metrics.get("tolerance"), kept)
    content["iterations"] = [_iteration(row, kept) for row in iterations]
    content["widths"] = changed
    content["widths_svg"] = widths_plot(changed) if changed else ""
    content["unchanged"] = len(widths) - len(changed)
    content["all_widths"] = [_width(row) for row in widths]
    write(path, "prune.html", content)


def _iterations_fact(iterations: Sequence[Row]) -> str:
    return plural(sum(row["iteration"] > 0 for row in iterations), "iteration")


def _iterations_figure(iterations: Sequence[Row], tolerance: float | None, kept: int | None) -> Row | None:
    if not iterations:
        return None
    caption = "Iteration 0 is the network before pruning; the kept one is handed over."
    if tolerance is not None:
        caption += f" Tolerance: {100 * tolerance:g} percentage points below the best so far."
    return {
        "title": "Accuracy and FLOPs against iteration",
        "caption": caption,
        "svg": iterations_plot(iterations, tolerance, kept),
    }


def _iteration(row: Row, kept: int | None) -> Row:
    loss = row.get("val_loss")
    removed = row.get("removed") or {}
    similarities = [row.get(f"pairs_similarity_{when}") for when in ("before", "after")]
    return {
        "iteration": row["iteration"],
        "accuracy": numbers.percent(row["val_accuracy"]),
        "loss": numbers.MISSING if loss is None else f"{loss:.3f}",
        "params": numbers.count(row.get("params")),
        "flops": numbers.count(row.get("flops")),
        "removed": row.get("block") or sum(removed.values()),
        "similarity": " → ".join(f"{s:.3f}" for s in similarities if s is not None) or numbers.MISSING,
        "seconds": numbers.duration(row.get("seconds")),
        "share": f"{100 * row.get('step', 1.0):g} %",
        "inside": row["inside"],
        "chosen": row["iteration"] == kept,
    }


def _sensitivity(found: Row | None) -> Row | None:
    """The picture and the table of what each group alone is worth."""
    if not found or not found["groups"]:
        return None
    shares = [share["share"] for share in found["groups"][0]["shares"]]
    return {
        "svg": sensitivity_plot(found),
        "samples": found["samples"],
        "shares": [f"{share:.0%}" for share in shares],
        "rows": [
            {
                "group": group["group"],
                "width": group["width"],
                "cells": [
                    {
                        "accuracy": numbers.percent(share["val_accuracy"]),
                        "saved": numbers.percent(share["flops_saved"]),
                    }
                    for share in group["shares"]
                ],
            }
            for group in found["groups"]
        ],
    }


def _width(row: Row) -> Row:
    return {
        "layer": row["layer"],
        "before": numbers.count(row["before"]),
        "after": numbers.count(row["after"]),
        "change": numbers.change(row["after"], row["before"]) or numbers.MISSING,
    }
