"""The files of an export in one table."""

from rich import box
from rich.table import Table
from rich.text import Text

from tascnet.errors import plural, printable
from tascnet.report.numbers import MISSING, percent, size
from tascnet.run.records import ExportedFile, ExportMetrics


def export_table(metrics: ExportMetrics, metric: str = "accuracy", title: str | None = None) -> Table:
    """Size, accuracy and agreement of each exported file, beside the network's."""
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False
    )
    word = "val\nacc." if metric == "accuracy" else "balanced\nacc."
    table.add_column("file", style="bold", no_wrap=True)
    for heading in ("size", word, "network's", "equal\nclasses", "largest\ndifference"):
        table.add_column(heading, justify="right")
    table.add_column("int8")
    for file in metrics.files:
        own, network = (getattr(file, f"{prefix}val_{metric}") for prefix in ("", "float_"))
        difference = MISSING if file.largest_difference is None else f"{file.largest_difference:.1e}"
        table.add_row(
            Text(file.path),
            *(size(file.size_bytes), percent(own), percent(network)),
            *(f"{100 * file.equal_classes:.2f} %", difference, Text(_int8(file))),
        )
    return table


def _int8(file: ExportedFile) -> str:
    """How ranges were set, and which layers stayed in float."""
    if file.calibration is None:
        return ""
    if not file.float_layers:
        return file.calibration
    names = ", ".join(printable(name, most=24) for name in file.float_layers[:2])
    more = f" and {len(file.float_layers) - 2} more" if len(file.float_layers) > 2 else ""
    return f"{file.calibration}; {plural(len(file.float_layers), 'layer')} in float: {names}{more}"
