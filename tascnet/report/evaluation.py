"""Tables of an evaluation: its figures, the classes that fare worst, and those that are confused."""

from rich import box
from rich.table import Table
from rich.text import Text

from tascnet.errors import plural, printable
from tascnet.report.numbers import MISSING, count, percent
from tascnet.run.records import ClassMetrics, EvaluateMetrics

# How many rows are shown of classes and of pairs, and the characters of a name.
_CLASSES, _PAIRS, _NAME = 10, 5, 32


def evaluation_parts(metrics: EvaluateMetrics) -> list[Text | Table]:
    """Headings and tables: figures, classes by recall, pairs confused most, classes without a counterpart."""
    tables = {
        f"{metrics.dataset}, {metrics.split}: {plural(metrics.samples, 'sample')}": _figures(metrics),
        "classes, the worst first": _classes(metrics),
        "confused most": _pairs(metrics),
        "classes without a counterpart, in no figure above": _unmatched(metrics),
    }
    shown = [(Text(title, style="italic"), table) for title, table in tables.items() if table.row_count]
    return [part for pair in shown for part in pair]


def _figures(metrics: EvaluateMetrics) -> Table:
    table = _table()
    table.show_header = False
    table.add_column()
    table.add_column(justify="right")
    top5 = MISSING if metrics.top5_accuracy is None else percent(metrics.top5_accuracy)
    for name, value in (
        ("accuracy", percent(metrics.accuracy)),
        ("balanced accuracy", percent(metrics.balanced_accuracy)),
        ("top-5 accuracy", top5),
        ("mean probability", percent(metrics.mean_probability)),
        ("calibration error", percent(metrics.calibration_error)),
        ("loss", f"{metrics.loss:.3f}"),
    ):
        table.add_row(name, value)
    return table


def _classes(metrics: EvaluateMetrics) -> Table:
    def by_recall(row: ClassMetrics) -> tuple[float, float]:
        return row.recall, row.f1

    table = _table()
    table.add_column("class")
    for heading in ("samples", "recall", "precision", "F1"):
        table.add_column(heading, justify="right", no_wrap=True)
    rows = sorted((row for row in metrics.classes if row.samples), key=by_recall)
    for row in rows[:_CLASSES]:
        shares = (percent(row.recall), percent(row.precision), percent(row.f1))
        table.add_row(Text(printable(row.name, most=_NAME)), count(row.samples), *shares)
    return _with_hidden(table, len(rows) - _CLASSES)


def _pairs(metrics: EvaluateMetrics) -> Table:
    table = _table()
    for heading in ("class", "taken for"):
        table.add_column(heading)
    table.add_column("samples", justify="right")
    rows = sorted((row for row in metrics.confusion if row[0] != row[1]), key=lambda row: -row[2])
    for true, predicted, number in rows[:_PAIRS]:
        names = (metrics.classes[index].name for index in (true, predicted))
        table.add_row(*(Text(printable(name, most=_NAME)) for name in names), count(number))
    return _with_hidden(table, len(rows) - _PAIRS)


def _unmatched(metrics: EvaluateMetrics) -> Table:
    """Classes of one side alone."""
    table = _table()
    for heading in ("class", "of"):
        table.add_column(heading)
    table.add_column("samples", justify="right")
    rows = [(name, "data", count(number)) for name, number in metrics.only_in_data.items()]
    rows += [(name, "model", count(0)) for name in metrics.only_in_model]
    for name, side, number in rows[:_CLASSES]:
        table.add_row(Text(printable(name, most=_NAME)), side, number)
    return _with_hidden(table, len(rows) - _CLASSES)


def _with_hidden(table: Table, hidden: int) -> Table:
    table.caption = f"and {plural(hidden, 'other')}" if hidden > 0 else None
    table.caption_justify = "left"
    return table


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
