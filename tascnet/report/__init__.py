"""What a stage found, as tables on the terminal and as a self-contained page.

Words: a model's record has the keys of `metrics.json` (accuracies are fractions in [0, 1]); a trial is
a line of `trials.jsonl`, an iteration a line of `iterations.jsonl`; a change is relative to the first
model of a table, for accuracies in percentage points.
"""

from tascnet.report.pretrain import pretrain_report
from tascnet.report.prune import prune_report
from tascnet.report.speed import speed_lines
from tascnet.report.tables import front_table, insight_lines, layerwise_table, models_table, widths_table
from tascnet.report.tune import tune_report

__all__ = [
    "front_table",
    "insight_lines",
    "layerwise_table",
    "models_table",
    "pretrain_report",
    "prune_report",
    "speed_lines",
    "tune_report",
    "widths_table",
]
