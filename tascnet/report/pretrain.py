"""The page of stage pretrain."""

from pathlib import Path

from tascnet.errors import plural
from tascnet.report.page import stage_page, write_page
from tascnet.run.records import PretrainMetrics


def pretrain_report(path: Path, metrics: PretrainMetrics) -> None:
    """Write the page of stage pretrain."""
    facts = [plural(len(metrics.epochs), "epoch")]
    if metrics.exclude is not None:
        shared = plural(metrics.excluded, "sample")
        facts.append(f"{shared} of the validation and test split of {metrics.exclude} left out")
    described = {"after": "trained from random weights"}
    content = stage_page("pretrain", metrics, facts=facts, described=described)
    content |= {"weights": metrics.weights, "epochs": metrics.epochs, "best_epoch": metrics.best_epoch}
    write_page(path, "pretrain.html", content)
