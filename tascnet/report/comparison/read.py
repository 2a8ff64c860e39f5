"""One run folder, read and checked: only whole, finished stages of tascnet's own take part."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tascnet.errors import plural
from tascnet.report.comparison.records import FIGURES, Aside, Model, Place, Run, Stage
from tascnet.run.files import read_json
from tascnet.run.folder import parse_run_name, parse_stage_name

MODELS = {"tune": ("baseline", "conventional", "after"), "prune": ("before", "after")}
JOURNALS = {"tune": ("trials.jsonl", "trial"), "prune": ("iterations.jsonl", "line")}
# What tells seeds of one setting apart, or only says where something lies.
NOT_SHARED = {"stage", "seed"}


class Unfit(Exception):
    """Why a folder does not take part: for the list of such folders, not an error of the user's.

    Args:
        reason: in words.
        folder: what is meant.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def read_run(folder: Path) -> tuple[Run, list[Aside]]:
    """A run with its finished stages, and those of its stages that do not take part.

    Raises:
        Unfit: no stage takes part, or the search does not, which all others start from.
    """
    named = parse_run_name(folder.resolve().name)
    if named is None:
        raise Unfit("its name does not end in -seed<number>")
    folders = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and parse_stage_name(entry.name)]
    if not folders:
        raise Unfit(_nothing(folder))
    stages: dict[str, Stage] = {}
    asides: list[Aside] = []
    owners: dict[str, tuple[str, str]] = {}
    for entry in folders:
        try:
            stages[entry.name], owners[entry.name] = _read_stage(entry, seed=named[1])
        except Unfit as error:
            if entry.name == "tune":
                raise Unfit(f"tune: {error.reason}") from error
            asides.append(Aside(folder=str(entry), reason=error.reason))
    if not stages:
        raise Unfit("; ".join(f"{Path(aside.folder).name}: {aside.reason}" for aside in asides))
    if len(set(owners.values())) > 1:
        raise Unfit(f"its stages are of several runs ({_several(owners)})")
    dataset, backbone = next(iter(owners.values()))
    run = Run(folder=str(folder), dataset=dataset, backbone=backbone, name=named[0], seed=named[1])
    return replace(run, stages=stages), asides


def _nothing(folder: Path) -> str:
    held = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    return f"it holds no stage tune or prune, but {', '.join(held[:3])}" if held else "it is empty"


def _several(owners: Mapping[str, tuple[str, str]]) -> str:
    return ", ".join(f"{stage}: {backbone} on {dataset}" for stage, (dataset, backbone) in owners.items())


def _read_stage(folder: Path, *, seed: int) -> tuple[Stage, tuple[str, str]]:
    """A finished stage, and the data set and backbone that it says it belongs to."""
    parsed = parse_stage_name(folder.name)
    assert parsed is not None, "only folders with the name of a stage are read"
    stage, preset, pick = parsed
    if not (folder / "metrics.json").exists():
        raise Unfit(_unfinished(folder, stage))
    if not (folder / "identity.json").exists():
        raise Unfit("it holds metrics.json but no identity.json, so it is not tascnet's")
    known, metrics = (_mapping(folder / name) for name in ("identity.json", "metrics.json"))
    for source, content in (("identity.json", known), ("metrics.json", metrics)):
        if content.get("seed") != seed:
            raise Unfit(f"{source} says seed {content.get('seed')}, the folder's name {seed}")
    if known.get("stage") != stage:
        raise Unfit(f"identity.json says stage {known.get('stage')}")
    dataset, backbone = known.get("dataset.name"), known.get("backbone.name")
    if not isinstance(dataset, str) or not isinstance(backbone, str):
        raise Unfit("identity.json names no data set or no backbone")
    read = Stage(
        stage=stage,
        preset=preset,
        pick=pick,
        models=_models(metrics, MODELS[stage]),
        options=_options(known, metrics.get("budget")),
        data=known.get("input.data"),
    )
    return read, (dataset, backbone)


def _unfinished(folder: Path, stage: str) -> str:
    """How far a stage without metrics has come, and what ended it where its log says so."""
    name, word = JOURNALS[stage]
    journal = folder / name
    done = plural(journal.read_bytes().count(b"\n"), word) if journal.exists() else f"no {word}"
    return f"unfinished, with {done} in {name}{_ending(folder / 'log.txt')}"


def _ending(log: Path) -> str:
    """The error in the last dated line of a log, in brackets."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    dated = [line for line in lines if re.match(r"\d{4}-\d\d-\d\d \S+ [A-Z]+ ", line)]
    _, _, level, said = dated[-1].split(" ", 3) if dated else ("", "", "", "")
    return f" ({said.strip()})" if level == "ERROR" else ""


def _mapping(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise Unfit(f"{path.name} is damaged: it is no JSON object")
    return content


def _options(known: Mapping[str, Any], budget: Any) -> dict[str, Any]:
    """All options that can change the numbers, those that may be extended included."""
    limits = budget if isinstance(budget, dict) else {}
    own = {key: value for key, value in known.items() if not key.startswith("input.")}
    return {key: value for key, value in (own | limits).items() if key not in NOT_SHARED}


def _models(metrics: Mapping[str, Any], names: Iterable[str]) -> dict[str, Model]:
    records, machine = metrics.get("models"), metrics.get("machine")
    if not isinstance(records, dict) or not isinstance(machine, dict):
        raise Unfit("metrics.json is damaged: it lacks models or machine")
    return {name: _model(name, records.get(name), machine) for name in names}


def _model(name: str, record: Any, machine: Mapping[str, Any]) -> Model:
    if not isinstance(record, dict):
        raise Unfit(f"metrics.json is damaged: it lacks the model {name!r}")
    for key in (*FIGURES, "threads", "batch"):
        value: Any = record.get(key)
        if not _is_number(value) or (key.endswith("accuracy") and value > 1):
            raise Unfit(f"metrics.json is damaged: {key} of {name!r} is {value!r}")
    place = Place(
        machine=str(machine.get("name")), device=str(record.get("device")), threads=int(record["threads"])
    )
    return Model(figures={key: record[key] for key in FIGURES}, place=place, batch=int(record["batch"]))


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    )
