"""The run to which a stage's folder belongs, and whether the stage is finished."""

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from tascnet.errors import DamagedFile, RunFolderError
from tascnet.options import Options
from tascnet.run.console import log, log_file
from tascnet.run.files import check_regular, naming_full_disk, remove_leftovers, temporary_folder, unreadable
from tascnet.run.records import StageMetrics, read_record, write_record

# The preset whose folder is called `prune`; those of others are called `prune-<preset>`.
DEFAULT_PRUNE = "reconstruction"
# Options that say where something lies whose digest is among the inputs.
PLACES = {"root", "csv", "vectors"}
# What it means that the digest of an input differs.
INPUTS = {
    "input.data": "the samples differ",
    "input.network": "the network to start from differs",
    "input.teacher": "the teacher differs",
    "input.warm_start": "the trials of `warm_start` differ",
    "input.excluded": "the excluded samples differ",
}
# The runtime that latencies are judged in: part of an identity from the first time that they are.
TARGET = "measure.target"
# Where the latency of the original is kept, to which others are compared.
LATENCY = "state/latency.json"
LOCK, IDENTITY, LOG = ".lock", "identity.json", "log.txt"
METRICS, MODEL, REPORT, EXPORT = "metrics.json", "model", "report.html", "export"
# The files of a stage that has computed nothing yet.
CLAIM_FILES = {LOCK, IDENTITY, LOG, "splits.json"}
# Files and folders of which a stage that has computed something holds one.
RESULTS = ("state", "trials.jsonl", "iterations.jsonl", METRICS, MODEL)


def identity(
    stage: str,
    seed: int,
    inputs: Mapping[str, str | None],
    sections: Mapping[str, Options | Mapping[str, Any]],
) -> dict[str, Any]:
    """Everything that can change a stage's numbers, as `{dotted name: value}`.

    Args:
        stage: `pretrain`, `tune` or `prune`.
        seed: of the run.
        inputs: digests of what the stage reads, which become `input.<name>`.
        sections: options, or plain values, by the prefix of their names; options that are cosmetic, that may
            be extended or that name a place are left out.
    """
    values: dict[str, Any] = {"stage": stage, "seed": seed}
    for prefix, section in sections.items():
        if isinstance(section, Options):
            own = {entry.name: getattr(section, entry.name) for entry in fields(section)}
            cosmetic = {entry.name for entry in fields(section) if entry.metadata.get("cosmetic")}
            left_out = cosmetic | _extendable(section) | PLACES
        else:
            own, left_out = dict(section), set()
        values |= {f"{prefix}.{name}": value for name, value in own.items() if name not in left_out}
    return _as_json(values | {f"input.{name}": value for name, value in inputs.items()})


def budget(options: Options) -> dict[str, Any]:
    """The options of a stage that may be extended when it is resumed."""
    return _as_json({name: getattr(options, name) for name in _extendable(options)})


def _extendable(options: Options) -> set[str]:
    fixed: frozenset[str] = getattr(options, "fixed", frozenset())
    return {entry.name for entry in fields(options) if entry.metadata.get("extendable")} - fixed


def cache_folder(cache: str | Path | None) -> Path:
    """The folder that runs share; None: `outputs/cache` in the working folder."""
    return Path("outputs/cache" if cache is None else cache).expanduser()


@contextmanager
def open_folder(
    run: str | Path | None, identity: Mapping[str, Any], *, cache: Path, fresh: bool = False
) -> Iterator[Path]:
    """A stage's folder, claimed; where `run` is None a temporary one inside `cache`.

    Temporary files and folders of killed processes are removed from both.
    """
    patterns = ("run-*.tmp", ".*.tmp", "*/.*.tmp", "*/*/.*.tmp")
    remove_leftovers(path for pattern in patterns for path in cache.glob(pattern))
    if run is not None:
        with claim(Path(run).expanduser(), identity, fresh=fresh) as folder:
            yield folder
        return
    with naming_full_disk(cache):
        temporary = temporary_folder(cache)
    with temporary:
        yield Path(temporary.name)


@contextmanager
def claim(folder: Path, identity: Mapping[str, Any], *, fresh: bool = False) -> Iterator[Path]:
    """Lock a stage's folder while the stage runs, keep its identity there, and append log lines to `log.txt`.

    Args:
        folder: the stage's folder; it is made where it is missing.
        identity: of the stage, for `identity.json`.
        fresh: empty the folder first.

    Yields:
        The folder.

    Raises:
        RunFolderError: another process holds the folder, it belongs to another identity, or a file in it may
            not be read.
        BudgetError: the disk is full.
    """
    with ExitStack() as stack:
        with naming_full_disk(folder):
            stack.enter_context(_locked(folder))
            for path in list(folder.rglob(".*.tmp")):
                # Stage export takes no lock. The others are from a killed process, for this one has it.
                if path.is_relative_to(folder / EXPORT):
                    remove_leftovers([path])
                else:
                    path.unlink(missing_ok=True)
            if fresh:
                _empty(folder)
            identity = _as_json(identity)
            if _is_new(folder, identity):
                write_record(folder / IDENTITY, identity)
            elif TARGET in identity:
                # Latencies may be judged for the first time.
                write_record(folder / IDENTITY, identity)
            stack.enter_context(log_file(folder / LOG))
        yield folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a folder, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (folder / LOCK, folder / LOG):
        try:
            check_regular(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise unreadable(path, error) from error
    with open(folder / LOCK, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunFolderError(
                f"another process is working in {folder}", "wait for it, or choose another folder"
            ) from None
        yield


def finished(folder: Path, budget: Mapping[str, Any] | None = None) -> bool:
    """Whether a stage's folder holds its metrics; with `budget`, those of that budget.

    Metrics that are damaged or of another version are reported, and do not count: the stage makes them again
    from its steps.

    Raises:
        RunFolderError: they are no regular file, or may not be read.
    """
    path = folder / METRICS
    if not path.exists():
        return False
    try:
        content = read_record(path, dict[str, Any], schema=StageMetrics.schema)
    except DamagedFile as error:
        log.warning("%s: the stage makes it again", error.message)
        return False
    return budget is None or content.get("budget") == _as_json(budget)


def _as_json(content: Mapping[str, Any]) -> dict[str, Any]:
    """`content` as a file returns it: tuples as lists."""
    return dict(json.loads(json.dumps(dict(content))))


def _is_new(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Whether a folder holds no work yet; False where it has this identity, an error where it has another."""
    path = folder / IDENTITY
    # A stage that failed before it had computed anything leaves nothing to protect.
    has_work = not {entry.name for entry in folder.iterdir()} <= CLAIM_FILES
    try:
        found = read_record(path, dict[str, Any]) if path.exists() else None
    except DamagedFile:
        if has_work:
            raise
        return True
    if found is not None and TARGET in identity and (folder / LATENCY).exists():
        # Before identities had it there was no other runtime.
        found = {TARGET: "eager"} | found
    if found:
        # An option that did not exist when the folder was made, and is off now, changes nothing: whoever adds
        # one lets its false value mean what was done before.
        off = {key: value for key, value in identity.items() if not value and key != TARGET}
        found = {key: value for key, value in off.items() if not key.startswith("input.")} | found
    if found == identity:
        return False
    if found is not None and (TARGET in found) != (TARGET in identity):
        found, identity = ({k: v for k, v in one.items() if k != TARGET} for one in (found, identity))
        if found == identity:
            return False
    if not has_work:
        return True
    hint = "keep it and give another `run`, or start over with `fresh=true`"
    if found is None:
        if not any((folder / name).exists() for name in RESULTS):
            return True
        raise RunFolderError(f"{folder} holds results but no {IDENTITY} that names their configuration", hint)
    keys = sorted(key for key in found.keys() | identity.keys() if found.get(key) != identity.get(key))
    if keys == [TARGET]:
        hint = f"give `target={found[TARGET]}`, or start over with `fresh=true`"
    shown = ", ".join(
        INPUTS.get(key, f"{key} differs")
        if key.startswith("input.")
        else f"{key} was {found.get(key)!r} and is now {identity.get(key)!r}"
        for key in keys[:4]
    )
    more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
    raise RunFolderError(f"{folder} belongs to another configuration ({shown}{more})", hint)


def _empty(folder: Path) -> None:
    """Empty a folder; if that is interrupted, only `fresh` can claim it afterwards."""
    if (folder / IDENTITY).is_file():
        write_record(folder / IDENTITY, {})
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name == IDENTITY):
        if entry.name == LOCK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
