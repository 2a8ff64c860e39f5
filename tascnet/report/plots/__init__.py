"""The figures of the two reports, each from plain rows to an `<svg>` element."""

from tascnet.report.plots.insight import importance_plot, prediction_plot
from tascnet.report.plots.prune import iterations_plot, sensitivity_plot, widths_plot
from tascnet.report.plots.search import best_value_plot, layerwise_plot, tradeoff_plot

__all__ = [
    "best_value_plot",
    "importance_plot",
    "iterations_plot",
    "layerwise_plot",
    "prediction_plot",
    "sensitivity_plot",
    "tradeoff_plot",
    "widths_plot",
]
