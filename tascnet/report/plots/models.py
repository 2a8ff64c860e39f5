"""The figure of what each stage gained."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from tascnet.report.plots.marks import named_rows, quiet_axes
from tascnet.report.tables import COLUMNS, key_figures, value_of
from tascnet.report.theme import ACCENT, BAR, MUTED, draw_file
from tascnet.run.records import ModelMetrics


def models_plot(models: Mapping[str, ModelMetrics], metric: str = "accuracy") -> str:
    """Test accuracy, parameters, FLOPs and latency of named models, as the content of an SVG file.

    The balanced accuracy is beside them where it differs or is the metric. The last model is drawn in colour.
    """

    def paint(figure: Figure) -> None:
        figure.set_layout_engine("constrained", h_pad=0.1, w_pad=0.1)
        figures = key_figures(models, metric)
        for axes, (key, title) in zip(figure.subplots(1, len(figures)), figures.items(), strict=True):
            quiet_axes(axes, grid=None)
            # What was not measured has no bar.
            values = [value_of(model, key) or 0.0 for model in models.values()]
            colours = [BAR] * (len(values) - 1) + [ACCENT]
            axes.barh(range(len(values)), values, height=0.62, color=colours)
            for place, value in enumerate(values):
                text = COLUMNS[key].show(value or None)
                axes.text(value + 0.03 * max(values), place, text, va="center", fontsize=8.5, color=MUTED)
            axes.set_title(title, fontsize=10.0, loc="left")
            axes.set_xticks([])
            axes.set_xlim(0, 1.45 * max(values))
            named_rows(axes, list(models) if key == next(iter(figures)) else [""] * len(values))

    return draw_file((10.8, 0.8 + 0.28 * len(models)), paint)
