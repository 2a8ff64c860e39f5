"""The figures of which class is taken for which, and of which changed most."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from tascnet.errors import printable
from tascnet.report.classes import ClassChange
from tascnet.report.plots.marks import limits, named_rows, points, quiet_axes, show_percent
from tascnet.report.theme import ACCENT, BAD, GRID, INK, MUTED, draw
from tascnet.run.records import ModelMetrics

# Most classes with shares below the counts.
_SHARES = 12
# Most characters of a name.
_LENGTH = 24
# Opacity of a full cell: counts stay readable on it.
_OPAQUE = 0.55


def confusion_plot(name: str, model: ModelMetrics, *, wide: bool = False) -> str:
    """The confusion matrix of a named network, for one half of the page or, if it is `wide`, all of it."""
    classes = len(model.classes)
    longest = min(_LENGTH, max(len(row.name) for row in model.classes))
    # Names of columns stand upright where they are long or many.
    head = 0.6 + (0.085 * longest if _is_upright(model) else 0.0)
    size = (10.8, head + 0.34 * classes) if wide else (4.7, head + max(2.1, 0.34 * classes))
    return draw(size, lambda figure: paint_confusion(figure.add_subplot(), model), name)


def paint_confusion(axes: Axes, model: ModelMetrics) -> None:
    """A row for each true class, a column for each predicted one.

    A cell has the number of test samples, of few classes also their share of the row, and is the darker the
    larger the share; what is right is drawn in one colour, what is wrong and the names of lost classes in
    another.
    """
    quiet_axes(axes, grid=None)
    classes = len(model.classes)
    for true, predicted, count in model.confusion:
        share = count / model.classes[true].samples
        color = ACCENT if true == predicted else BAD
        place = (predicted - 0.5, true - 0.5)
        axes.add_artist(Rectangle(place, 1, 1, facecolor=color, alpha=_OPAQUE * share, linewidth=0))
        text = f"{count}\n{100 * share:.0f} %" if classes <= _SHARES else str(count)
        axes.text(predicted, true, text, ha="center", va="center", fontsize=8.5, color=INK)
    for line in range(classes + 1):
        axes.axhline(line - 0.5, color=GRID, linewidth=0.8, zorder=0)
        axes.axvline(line - 0.5, color=GRID, linewidth=0.8, zorder=0)
    names = [printable(row.name, most=_LENGTH) for row in model.classes]
    axes.set_xticks(range(classes), names, rotation=90 if _is_upright(model) else 0)
    axes.set_yticks(range(classes), names)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.tick_params(labelsize=8.5, labelcolor=INK)
    for label, row in zip(axes.get_yticklabels(), model.classes, strict=True):
        if row.is_lost:
            label.set(color=BAD, fontweight="bold")
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_xlim(-0.5, classes - 0.5)
    axes.set_ylim(classes - 0.5, -0.5)


def _is_upright(model: ModelMetrics) -> bool:
    return len(model.classes) > 5 or max(len(row.name) for row in model.classes) > 10


def recall_plot(changes: Sequence[ClassChange], before: str) -> str:
    """`paint_recall` with a row for each class."""
    size = (4.7, 1.0 + 0.27 * max(3, len(changes)))
    return draw(size, lambda figure: paint_recall(figure.add_subplot(), changes, before))


def paint_recall(axes: Axes, changes: Sequence[ClassChange], before: str) -> None:
    """For each class a line from its recall by the network `before` to that by another one."""
    quiet_axes(axes, grid="x")
    for place, row in enumerate(changes):
        color = BAD if row.after < row.before else ACCENT
        axes.plot([row.before, row.after], [place, place], "-", color=color, linewidth=2.2, alpha=0.6)
        points(axes, [(row.after, place)], "", color=color, markersize=7)
    earlier = [(row.before, place) for place, row in enumerate(changes)]
    points(axes, earlier, before, color=MUTED, markersize=7, mfc="none", mew=1.5)
    names = [f"{printable(row.name, most=_LENGTH)} ({row.samples})" for row in changes]
    named_rows(axes, names, max(3, len(changes)))
    values = [share for row in changes for share in (row.before, row.after)]
    axes.set_xlim(limits(values, headroom=0.06, footroom=0.06, least=0.05))
    show_percent(axes.xaxis)
    axes.set_xlabel("recall on the test samples")
    handles = [
        Line2D([], [], marker="o", linestyle="none", color=MUTED, mfc="none", mew=1.5, label=before),
        Line2D([], [], marker="o", linestyle="none", color=ACCENT, mew=0, label="better"),
        Line2D([], [], marker="o", linestyle="none", color=BAD, mew=0, label="worse"),
    ]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, handlelength=1.2,
                columnspacing=1.2, handletextpad=0.4, borderaxespad=0.2)  # fmt: skip
