"""Finished runs side by side: found, read, averaged over their seeds, shown.

Words: a run is a folder `<name>-seed<seed>` with the folders of its stages; runs that differ only in their
seed share a setting. A row of the table is one kind of network (`baseline`, `conventional`, `tuned`,
`pruned: <preset>`) of one setting. Its changes are from a reference network of the same seed: from
`conventional`, and for a pruned network also from `unpruned`. What is left out is listed with the reason.
"""

from tascnet.report.comparison.runs import Place, find_runs
from tascnet.report.comparison.show import (
    as_csv,
    as_markdown,
    comparison_page,
    comparison_table,
    notes,
    write_comparison,
)
from tascnet.report.comparison.summary import Statistic, compare, summarise

__all__ = [
    "Place",
    "Statistic",
    "as_csv",
    "as_markdown",
    "compare",
    "comparison_page",
    "comparison_table",
    "find_runs",
    "notes",
    "summarise",
    "write_comparison",
]
