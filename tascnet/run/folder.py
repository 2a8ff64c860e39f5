"""The run to which a stage's folder belongs, and whether the stage is finished."""

import fcntl
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from tascnet.errors import RunFolderError
from tascnet.options import Options
from tascnet.run.console import log_file
from tascnet.run.files import read_json, write_json

# The preset whose folder is called `prune`; those of others are called `prune-<preset>`.
DEFAULT_PRUNE = "reconstruction"
# Options that say where something lies whose digest is among the inputs.
PLACES = {"root", "csv", "vectors"}
# What it means that the digest of an input differs.
INPUTS = {
    "input.data": "the samples differ",
    "input.network": "the network to start from differs",
    "input.excluded": "the excluded samples differ",
}
# The files of a stage that has computed nothing yet.
CLAIM_FILES = {".lock", "identity.json", "log.txt", "splits.json"}


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
    """A stage's folder, claimed; where `run` is None a temporary one inside `cache`."""
    if run is not None:
        with claim(Path(run), identity, fresh=fresh) as folder:
            yield folder
        return
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="run-", dir=cache) as folder:
        yield Path(folder)


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
        RunFolderError: another process holds the folder, or it belongs to another identity.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunFolderError(
                f"another process is working in {folder}", "wait for it, or choose another folder"
            ) from None
        # Since the folder is locked, these are from a killed process.
        for path in folder.rglob(".*.tmp"):
            path.unlink(missing_ok=True)
        if fresh:
            _empty(folder)
        identity = _as_json(identity)
        if _is_new(folder, identity):
            write_json(folder / "identity.json", identity)
        with log_file(folder / "log.txt"):
            yield folder


def finished(folder: Path, budget: Mapping[str, Any] | None = None) -> bool:
    """Whether a stage's folder holds its metrics; with `budget`, those of that budget."""
    if not (folder / "metrics.json").exists():
        return False
    return budget is None or read_json(folder / "metrics.json").get("budget") == _as_json(budget)


def _as_json(content: Mapping[str, Any]) -> dict[str, Any]:
    """`content` as a file returns it: tuples as lists."""
    return dict(json.loads(json.dumps(dict(content))))


def _is_new(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Whether a folder holds no work yet; False where it has this identity, an error where it has another."""
    path = folder / "identity.json"
    hint = "keep it and give another `run`, or start over with `fresh=true`"
    try:
        found = read_json(path) if path.exists() else None
    except ValueError:
        raise RunFolderError(f"{path} is not readable as JSON", hint) from None
    if found == identity:
        return False
    # A stage that failed before it had computed anything leaves nothing to protect.
    if found is None or {entry.name for entry in folder.iterdir()} <= CLAIM_FILES:
        return True
    keys = sorted(key for key in found.keys() | identity.keys() if found.get(key) != identity.get(key))
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
    if (folder / "identity.json").exists():
        write_json(folder / "identity.json", {})
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name == "identity.json"):
        if entry.name == ".lock":
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
