"""The report of stage pretrain."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tascnet.errors import plural
from tascnet.report import numbers
from tascnet.report.page import page, write

Row = Mapping[str, Any]

_MODELS = {"after": "trained from random weights"}


def pretrain_report(path: Path, metrics: Row) -> None:
    """Write the report of stage pretrain.

    Args:
        path: the page.
        metrics: content of `metrics.json`: models (after), weights, epochs, best_epoch, exclude, excluded,
            seed, seconds, versions.
    """
    content = page("pretrain", metrics, result="after", against="before", described=_MODELS)
    content["facts"] += [plural(len(metrics["epochs"]), "epoch")]
    if metrics["exclude"] is not None:
        shared = plural(metrics["excluded"], "sample")
        content["facts"].append(f"{shared} of {metrics['exclude']}'s validation and test split left out")
    content["weights"] = metrics["weights"]
    content["epochs"] = [_epoch(row, metrics["best_epoch"]) for row in metrics["epochs"]]
    write(path, "pretrain.html", content)


def _epoch(row: Row, best: int) -> Row:
    return {
        "epoch": row["epoch"],
        "train_loss": f"{row['train_loss']:.3f}",
        "val_loss": f"{row['val_loss']:.3f}",
        "val_accuracy": numbers.percent(row["val_accuracy"]),
        "seconds": numbers.duration(row["seconds"]),
        "chosen": row["epoch"] == best,
    }
