"""The results of a stage: tables and sentences for the terminal, and a self-contained page.

A change is relative to the conventional network of a table, or else to its first one; for accuracies it is in
percentage points.
"""

from tascnet.report.advice import recommendation_lines
from tascnet.report.full import full_report
from tascnet.report.mistakes import Mistakes, find_mistakes, mistakes_once
from tascnet.report.page import models_html
from tascnet.report.plots import models_plot
from tascnet.report.sentences import (
    class_lines,
    fall_lines,
    handover_lines,
    insight_lines,
    reach_lines,
    speed_lines,
    uncut_words,
)
from tascnet.report.stages import pretrain_report, prune_report, tune_report
from tascnet.report.tables import (
    classes_table,
    front_table,
    latency_table,
    layerwise_table,
    models_table,
    models_text,
    stage_tables,
    widths_table,
)

__all__ = [
    "Mistakes",
    "class_lines",
    "classes_table",
    "fall_lines",
    "find_mistakes",
    "front_table",
    "full_report",
    "handover_lines",
    "insight_lines",
    "latency_table",
    "layerwise_table",
    "mistakes_once",
    "models_html",
    "models_plot",
    "models_table",
    "models_text",
    "pretrain_report",
    "prune_report",
    "reach_lines",
    "recommendation_lines",
    "speed_lines",
    "stage_tables",
    "tune_report",
    "uncut_words",
    "widths_table",
]
