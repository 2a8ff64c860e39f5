"""The figures, each from records to SVG."""

from tascnet.report.plots.classes import confusion_plot, recall_plot
from tascnet.report.plots.curves import curves_plot, metric_ends
from tascnet.report.plots.models import models_plot
from tascnet.report.plots.prune import (
    costs_plot,
    frontier_plot,
    iterations_plot,
    sensitivity_plot,
    widths_plot,
)
from tascnet.report.plots.speed import speed_plot
from tascnet.report.plots.tune import (
    best_value_plot,
    ends_plot,
    importance_plot,
    layerwise_plot,
    prediction_plot,
    tradeoff_plot,
)

__all__ = [
    "best_value_plot",
    "confusion_plot",
    "costs_plot",
    "curves_plot",
    "ends_plot",
    "frontier_plot",
    "importance_plot",
    "iterations_plot",
    "layerwise_plot",
    "metric_ends",
    "models_plot",
    "prediction_plot",
    "recall_plot",
    "sensitivity_plot",
    "speed_plot",
    "tradeoff_plot",
    "widths_plot",
]
