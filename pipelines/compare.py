"""Stage `compare`: the finished runs under `outputs` in one table, averaged over their seeds."""

import logging
from pathlib import Path

from tascnet.cli.config import Config
from tascnet.errors import plural
from tascnet.report.comparison import compare, comparison_table, notes, write_comparison
from tascnet.run.console import output

log = logging.getLogger("tascnet")


def run(config: Config) -> None:
    """Print the table and write it as Markdown, CSV, JSON and a page to `<outputs>/compare`.

    Raises:
        RunFolderError: there is no such folder, or no finished run in it.
    """
    outputs = Path(config.outputs).expanduser()
    comparison = compare(outputs)
    write_comparison(outputs / "compare", comparison)
    output().print(comparison_table(comparison.rows))
    for note in notes(comparison.rows):
        output().print(note, style="dim", markup=False, highlight=False)
    compared = plural(len(comparison.runs), "run")
    log.info("%s; written to %s as comparison.md, .csv, .json and .html", compared, outputs / "compare")
