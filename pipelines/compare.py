"""Stage `compare`: the finished runs under a folder in one table, averaged over their seeds."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tascnet.errors import RunFolderError, plural
from tascnet.options import Config
from tascnet.report.comparison import (
    Aside,
    Row,
    as_csv,
    as_markdown,
    compare,
    comparison_page,
    comparison_table,
    find_runs,
    notes,
)
from tascnet.run.console import output
from tascnet.run.files import write_json, write_text

log = logging.getLogger("tascnet")


def run(config: Config) -> None:
    """Print the table and write it as Markdown, CSV, JSON and a page to `<outputs>/compare`.

    Raises:
        RunFolderError: there is no such folder, or no finished run in it.
    """
    path = Path(config.compare.path or config.outputs).expanduser()
    runs, unfit = find_runs(path)
    rows, doubles = compare(runs)
    asides = [*unfit, *doubles]
    for aside in asides:
        log.warning("not in the table: %s: %s", aside.folder, aside.reason)
    if not rows:
        raise _nothing(path, asides)
    folder = Path(config.outputs) / "compare"
    doubled = {aside.folder for aside in doubles}
    compared = [run.folder for run in runs if run.folder not in doubled]
    _write(folder, path, compared, rows, asides)
    output().print(comparison_table(rows))
    for note in notes(rows):
        output().print(note, style="dim", markup=False, highlight=False)
    told = plural(len(compared), "run")
    log.info("%s; written to %s as comparison.md, .csv, .json and .html", told, folder)


def _nothing(path: Path, asides: list[Aside]) -> RunFolderError:
    hint = "run some first, or give the folder that holds theirs as compare.path"
    if asides:
        return RunFolderError(f"{path} holds no finished run, but {len(asides)} that cannot take part", hint)
    return RunFolderError(f"{path} holds no run", hint)


def _write(folder: Path, path: Path, compared: list[str], rows: list[Row], asides: list[Aside]) -> None:
    write_text(folder / "comparison.md", as_markdown(rows, asides))
    write_text(folder / "comparison.csv", as_csv(rows))
    comparison_page(folder / "comparison.html", rows, asides)
    content: dict[str, Any] = {
        "path": str(path),
        "runs": compared,
        "rows": [asdict(row) for row in rows],
        "not_in_table": [asdict(aside) for aside in asides],
        "notes": notes(rows),
    }
    write_json(folder / "comparison.json", content)
