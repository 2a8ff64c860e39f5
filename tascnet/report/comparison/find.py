"""Run folders under a path, at any depth."""

from collections.abc import Iterator
from pathlib import Path

from tascnet.errors import RunFolderError
from tascnet.report.comparison.read import Unfit, read_run
from tascnet.report.comparison.records import Aside, Run
from tascnet.run.folder import parse_run_name, parse_stage_name

# What lies beside runs and is none.
BESIDE = {"benchmark", "cache", "compare", "multirun"}
MARKS = ("identity.json", "metrics.json")


def find_runs(path: Path) -> tuple[list[Run], list[Aside]]:
    """All runs under a path, or the path's own.

    Args:
        path: a folder above run folders, such as `outputs`, or one run folder.

    Returns:
        The runs with at least one finished stage, and what does not take part, with the reason; both sorted
        by folder. Folders called benchmark, cache, compare and multirun hold no runs, nor does one with
        nothing but a finished pre-training, which is not compared.

    Raises:
        RunFolderError: there is no such folder.
    """
    if not path.is_dir():
        what = "is no folder" if path.exists() else "is not there"
        raise RunFolderError(f"{path} {what}", "compare.path takes the folder of the runs, such as outputs")
    runs: list[Run] = []
    asides: list[Aside] = []
    for folder in _candidates(path, asides):
        try:
            run, unfit = read_run(folder)
        except Unfit as error:
            asides.append(Aside(folder=str(folder), reason=error.reason))
            continue
        except OSError as error:
            asides.append(Aside(folder=str(folder), reason=f"it cannot be read ({error})"))
            continue
        runs.append(run)
        asides += unfit
    return runs, sorted(asides, key=lambda aside: aside.folder)


def _candidates(folder: Path, asides: list[Aside]) -> Iterator[Path]:
    """Folders that are runs by their name or look like one; what cannot be opened goes to `asides`."""
    try:
        entries = sorted(folder.iterdir())
        below = [entry for entry in entries if entry.is_dir() and not entry.is_symlink()]
        looks_like_run = parse_run_name(folder.resolve().name) is not None or any(map(_is_stage, below))
    except OSError as error:
        asides.append(Aside(folder=str(folder), reason=f"it cannot be read ({error.strerror})"))
        return
    if looks_like_run:
        if not _is_pretraining(below):
            yield folder
        return
    if any(entry.name in MARKS for entry in entries):
        asides.append(Aside(folder=str(folder), reason="it holds metrics, but is no stage of a run"))
    for entry in below:
        if entry.name not in BESIDE and not entry.name.startswith("."):
            yield from _candidates(entry, asides)


def _is_pretraining(folders: list[Path]) -> bool:
    """Whether a finished stage pretrain is the only stage among the folders of a run."""
    finished = any(entry.name == "pretrain" and (entry / "metrics.json").exists() for entry in folders)
    return finished and not any(parse_stage_name(entry.name) for entry in folders)


def _is_stage(folder: Path) -> bool:
    """Whether a folder has the name of a stage and what a stage leaves."""
    return parse_stage_name(folder.name) is not None and any((folder / mark).exists() for mark in MARKS)
