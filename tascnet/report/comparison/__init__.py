"""Finished runs side by side: found, read, averaged over their seeds, shown.

Words: a run is a folder `<name>-seed<seed>` with the folders of its stages; runs that differ in nothing but
their seed share a setting. A row of the table is one kind of network (`baseline`, `conventional`, `tuned`,
`pruned: <preset>`) of one setting. A change is that from a reference network of the same seed: from
`conventional`, and for a pruned network also from `unpruned`, the one that was pruned. What does not take
part is listed aside, with the reason.
"""

from tascnet.report.comparison.runs import Aside, Place, Run, Stage, find_runs
from tascnet.report.comparison.show import (
    as_csv,
    as_markdown,
    comparison_page,
    comparison_table,
    notes,
    write_comparison,
)
from tascnet.report.comparison.summary import Comparison, Statistic, TableRow, compare, summarise

__all__ = [
    "Aside",
    "Comparison",
    "Place",
    "Run",
    "Stage",
    "Statistic",
    "TableRow",
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
