"""Where a run lives, whose folder it is, and when a stage is finished."""

import fcntl
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from tascnet.errors import RunFolderError
from tascnet.options import Config
from tascnet.run.console import log_file
from tascnet.run.files import digest_json, read_json, write_json

# The recipes that can change a stage's numbers.
RECIPES = {"pretrain": ("pretrain",), "tune": ("head", "trial", "finetune"), "prune": ("recover",)}
# Labels, and what `inputs` of an identity says better.
LABELS = {"tune.name", "prune.name", "prune.source"}
DEFAULT_PRUNE = "reconstruction"
LONGEST_NAME = 120
# What the digests among the inputs say when they differ.
INPUTS = {
    "input.data": "the samples are others",
    "input.weights": "the pre-trained weights are others",
    "input.excluded": "the samples that are left out are others",
    "input.model": "the model that it starts from is another",
}
# What a claim itself writes into a folder.
CLAIM_FILES = {".lock", "identity.json", "log.txt"}


def run_folder(config: Config) -> Path:
    """`outputs/<dataset>/<backbone>/<name>-seed<seed>`: a function of the config, not of the clock."""
    name = safe_name(config.name or config.tune.name)
    return Path(config.outputs) / config.dataset.name / config.backbone.name / f"{name}-seed{config.seed}"


def cache_folder(config: Config) -> Path:
    """Where runs share what they have computed."""
    return Path(config.cache_dir) if config.cache_dir else Path(config.outputs) / "cache"


def stage_folder(config: Config, stage: str) -> Path:
    """The folder of one stage within the run's.

    Args:
        config: the composed config.
        stage: `pretrain`, `search` (`tune`, whichever trial is picked), `tune` (`tune` or
            `tune-pick<trial>`), or `prune` (`prune`, with a preset that is not the default and a picked trial
            in its name).
    """
    if stage in ("search", "pretrain"):
        return run_folder(config) / ("tune" if stage == "search" else stage)
    own = stage == "prune" and config.prune.name != DEFAULT_PRUNE
    name = f"prune-{safe_name(config.prune.name)}" if own else stage
    pick = config.tune.pick
    return run_folder(config) / (name if pick is None else f"{name}-pick{pick}")


def parse_run_name(name: str) -> tuple[str, int] | None:
    """Name and seed of a run, from the last part of `run_folder`; None where it is no such part."""
    match = re.fullmatch(r"(.+)-seed(\d+)", name)
    return None if match is None else (match[1], int(match[2]))


def parse_stage_name(name: str) -> tuple[str, str | None, int | None] | None:
    """Stage, pruning preset and picked trial, from the last part of `stage_folder`; None where it is none.

    Args:
        name: such as `tune`, `tune-pick3`, `prune` or `prune-tascnet-pick3`.
    """
    match = re.fullmatch(r"(tune|prune(?:-(.+?))??)(?:-pick(\d+))?", name)
    if match is None:
        return None
    pick = None if match[3] is None else int(match[3])
    return ("tune", None, pick) if match[1] == "tune" else ("prune", match[2] or DEFAULT_PRUNE, pick)


def safe_name(text: str) -> str:
    """`text` as the name of a folder: letters, digits and `._=,+-`, at most 120 of them."""
    safe = re.sub(r"[^A-Za-z0-9._=,+-]+", "_", text).lstrip(".") or "_"
    if len(safe) <= LONGEST_NAME:
        return safe
    return f"{safe[: LONGEST_NAME - 9]}-{digest_json(text)[:8]}"


def identity(config: Config, stage: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What can change a stage's numbers, as `{dotted key: value}`.

    Args:
        config: the composed config.
        stage: `pretrain`, `tune` or `prune`.
        inputs: digests of what the stage reads (data, weights, the model that it starts from).

    Returns:
        The options that count and `input.<name>` for each of the inputs. Cosmetic options, those that may
        be extended, and device, threads, limits and the like are left out.
    """
    values = {"stage": stage, "seed": config.seed}
    values |= _options(config.dataset, "dataset") | _options(config.backbone, "backbone")
    if stage != "pretrain":
        values |= _options(getattr(config, stage), stage)
    values["trainer.class_weights"] = config.trainer.class_weights
    for recipe in RECIPES[stage]:
        values |= _options(getattr(config.trainer, recipe), f"trainer.{recipe}")
    # Digests among the inputs say what lies in these places, wherever it has been moved.
    del values["dataset.root"], values["dataset.csv"], values["backbone.vectors"]
    if config.backbone.weights not in ("pretrained", "random"):
        del values["backbone.weights"]
    return values | {f"input.{name}": value for name, value in inputs.items()}


def budget(config: Config, stage: str) -> dict[str, Any]:
    """The options of a stage that may be extended when it is resumed, as `{dotted key: value}`.

    A pipeline keeps them in its metrics as `budget`, so that a finished stage goes on when they change.
    """
    return _options(getattr(config, stage), stage, extendable=True)


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


def _options(section: Any, prefix: str, extendable: bool = False) -> dict[str, Any]:
    values = {}
    for entry in fields(section):
        key = f"{prefix}.{entry.name}"
        if entry.metadata.get("cosmetic") or key in LABELS:
            continue
        if bool(entry.metadata.get("extendable")) == extendable:
            values[key] = getattr(section, entry.name)
    return values


def _as_json(content: Mapping[str, Any]) -> dict[str, Any]:
    """`content` as it comes back from a file: tuples as lists."""
    return dict(json.loads(json.dumps(dict(content))))


def _is_new(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Whether a folder may be claimed anew; False for one of this identity, an error for another's work."""
    path = folder / "identity.json"
    stage = identity.get("stage")
    # Prunings of one tuned model lie beside each other.
    other = "prune.name" if stage == "prune" else "name"
    hint = f"keep it and choose another folder with {other}=..., or start over with stage={stage} fresh=true"
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
                "wait for it, or choose another folder with name=...",
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
