"""The page of stage prune."""

from collections.abc import Sequence
from pathlib import Path

from tascnet.errors import plural
from tascnet.report.page import stage_page, write_page
from tascnet.report.plots import iterations_plot, sensitivity_plot, widths_plot
from tascnet.report.sentences import speed_lines
from tascnet.run.records import Iteration, PruneMetrics

_MODELS = {"before": "unpruned", "after": "pruned"}


def prune_report(path: Path, metrics: PruneMetrics, iterations: Sequence[Iteration]) -> None:
    """Write the page of stage prune.

    Args:
        path: of the page.
        metrics: of the stage.
        iterations: all of them, the unpruned network first.
    """
    facts = [plural(metrics.iterations, "iteration"), f"stopped: {metrics.stopped}"]
    content = stage_page("prune", metrics, facts=facts, described=_MODELS, against="before")
    changed = [row for row in metrics.widths if row.before != row.after]
    unchanged = len(metrics.widths) - len(changed)
    sensitivity = metrics.sensitivity if metrics.sensitivity and metrics.sensitivity.groups else None
    content |= {
        "iterations": iterations,
        "kept": metrics.kept_iteration,
        "plot": iterations
        and {
            "title": "Accuracy and FLOPs against iteration",
            "caption": "Iteration 0 is the network before pruning; the ringed one is handed over. "
            f"Tolerance: {100 * metrics.tolerance:g} percentage points below the best so far.",
            "svg": iterations_plot(iterations, metrics.tolerance, metrics.kept_iteration),
        },
        "speed": speed_lines(metrics.models, metrics.removable_blocks),
        "sensitivity": sensitivity,
        "sensitivity_plot": sensitivity
        and {
            "title": "Accuracy without a share of one group",
            "caption": f"Before pruning, without retraining, on {sensitivity.samples} validation samples. "
            "Groups in the order of the network, with their widths.",
            "svg": sensitivity_plot(sensitivity),
        },
        "widths": metrics.widths,
        "widths_plot": changed
        and {
            "title": "Channels of each layer, before → after",
            "caption": "Grey: before. Coloured: after."
            + (f" Not drawn: {plural(unchanged, 'layer')} of unchanged width." if unchanged else ""),
            "svg": widths_plot(changed),
        },
    }
    write_page(path, "prune.html", content)
