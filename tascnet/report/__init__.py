"""What a stage found, as tables on the terminal and as a self-contained page.

Words: a model's record has the keys of `metrics.json` (accuracies are fractions in [0, 1]); a trial is
a line of `trials.jsonl`, an iteration a line of `iterations.jsonl`; a change is relative to the first
model of a table, for accuracies in percentage points.
"""

from tascnet.report.html import prune_report, tune_report
from tascnet.report.tables import models_table, width_rows, widths_table

__all__ = ["models_table", "prune_report", "tune_report", "width_rows", "widths_table"]
