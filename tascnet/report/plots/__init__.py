"""The figures, each from records to SVG."""

from tascnet.report.plots.classes import confusion_plot
from tascnet.report.plots.models import models_plot
from tascnet.report.plots.prune import iterations_plot, sensitivity_plot, widths_plot
from tascnet.report.plots.tune import (
    best_value_plot,
    importance_plot,
    layerwise_plot,
    prediction_plot,
    tradeoff_plot,
)

__all__ = [
    "best_value_plot",
    "confusion_plot",
    "importance_plot",
    "iterations_plot",
    "layerwise_plot",
    "models_plot",
    "prediction_plot",
    "sensitivity_plot",
    "tradeoff_plot",
    "widths_plot",
]
