"""Whose a stage's folder is, and when a stage is finished."""

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

# The preset of stage prune whose folder is called `prune`; those of others are called `prune-<preset>`.
DEFAULT_PRUNE = "reconstruction"
# Options that say where something lies, whose digest is among the inputs.
PLACES = {"root", "csv", "vectors"}
# What the digests among the inputs say when they differ.
INPUTS = {
    "input.data": "the samples are others",
    "input.network": "the network that it starts from is another",
    "input.excluded": "the samples that are left out are others",
}
# What a claim itself writes into a folder.
CLAIM_FILES = {".lock", "identity.json", "log.txt"}


def identity(
    stage: str,
    seed: int,
    inputs: Mapping[str, str | None],
    sections: Mapping[str, Options | Mapping[str, Any]],
) -> dict[str, Any]:
    """What can change a stage's numbers, as `{dotted name: value}`.

    Args:
        stage: `pretrain`, `tune` or `prune`.
        seed: of the run.
        inputs: digests of what the stage reads: samples, network.
        sections: option classes, or plain values, by the prefix of their names.

    Returns:
        The options that count, and `input.<name>` for each of the inputs. Cosmetic options, those that may be
        extended, and places are left out.
    """
    values: dict[str, Any] = {"stage": stage, "seed": seed}
    for prefix, section in sections.items():
        own = section if isinstance(section, Mapping) else _counting(section)
        values |= {f"{prefix}.{name}": value for name, value in own.items()}
    return _as_json(values | {f"input.{name}": value for name, value in inputs.items()})


def budget(options: Options) -> dict[str, Any]:
    """The options of a stage that may be extended when it is resumed."""
    return _as_json({name: getattr(options, name) for name in _extendable(options)})


def _counting(options: Options) -> dict[str, Any]:
    extendable = _extendable(options)
    return {
        entry.name: getattr(options, entry.name)
        for entry in fields(options)
        if not entry.metadata.get("cosmetic") and entry.name not in extendable | PLACES
    }


def _extendable(options: Options) -> set[str]:
    fixed: frozenset[str] = getattr(options, "fixed", frozenset())
    return {entry.name for entry in fields(options) if entry.metadata.get("extendable")} - fixed


def cache_folder(cache: str | Path | None) -> Path:
    """Where runs share what they have computed; None: `outputs/cache` in the working folder."""
    return Path("outputs/cache" if cache is None else cache).expanduser()


@contextmanager
def open_folder(
    run: str | Path | None, identity: Mapping[str, Any], *, cache: Path, fresh: bool = False
) -> Iterator[Path]:
    """The folder of a stage, claimed; where `run` is None one in the cache that is removed at the end."""
    if run is not None:
        with claim(Path(run), identity, fresh=fresh) as folder:
            yield folder
        return
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="run-", dir=cache) as folder:
        yield Path(folder)


@contextmanager
def claim(folder: Path, identity: Mapping[str, Any], *, fresh: bool = False) -> Iterator[Path]:
    """Hold a stage's folder for one identity, alone, while the stage runs.

    Args:
        folder: the stage's folder; it is made where it is missing.
        identity: what `identity` gave; kept in `identity.json`.
        fresh: empty the folder first.

    Yields:
        The folder; log lines are appended to its `log.txt` meanwhile.

    Raises:
        RunFolderError: another process holds the folder, or it belongs to another identity.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        _remove_torn(folder)
        if fresh:
            _empty(folder)
        identity = _as_json(identity)
        if _is_new(folder, identity):
            write_json(folder / "identity.json", identity)
        with log_file(folder / "log.txt"):
            yield folder


def finished(folder: Path, budget: Mapping[str, Any] | None = None) -> bool:
    """Whether a stage's folder holds its metrics; with `budget`, those of that very budget."""
    if not (folder / "metrics.json").exists():
        return False
    return budget is None or read_json(folder / "metrics.json").get("budget") == _as_json(budget)


def _as_json(content: Mapping[str, Any]) -> dict[str, Any]:
    """`content` as it comes back from a file: tuples as lists."""
    return dict(json.loads(json.dumps(dict(content))))


def _is_new(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Whether a folder may be claimed anew; False for one of this identity, an error for another's work."""
    path = folder / "identity.json"
    hint = "keep it and choose another folder, or start over with `fresh=true`"
    try:
        known = read_json(path) if path.exists() else None
    except ValueError:
        raise RunFolderError(f"{path} is not readable as JSON", hint) from None
    if known == identity:
        return False
    # A stage that met a mistake before it had computed anything leaves nothing to protect.
    if known is None or {entry.name for entry in folder.iterdir()} <= CLAIM_FILES:
        return True
    keys = sorted(key for key in known.keys() | identity.keys() if known.get(key) != identity.get(key))
    shown = ", ".join(_difference(key, known.get(key), identity.get(key)) for key in keys[:4])
    more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
    raise RunFolderError(f"{folder} belongs to another configuration ({shown}{more})", hint)


def _difference(key: str, was: Any, now: Any) -> str:
    """What differs, in words where the values are digests."""
    if key.startswith("input."):
        return INPUTS.get(key, f"{key} is another")
    return f"{key} was {was!r} and is now {now!r}"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with open(folder / ".lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunFolderError(
                f"another process is working in {folder}",
                "wait for it, or choose another folder",
            ) from None
        yield


def _remove_torn(folder: Path) -> None:
    """Remove what a killed process was writing; the lock tells that nobody writes here now."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def _empty(folder: Path) -> None:
    """Empty a folder so that, broken off, it is refused by all but `fresh`."""
    if (folder / "identity.json").exists():
        write_json(folder / "identity.json", {})
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name == "identity.json"):
        if entry.name == ".lock":
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
