"""The runs under a path, at any depth: folders with whole, finished stages."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tascnet.errors import RunFolderError, plural
from tascnet.report.tables import columns_of
from tascnet.run.files import read_bytes, read_end
from tascnet.run.folder import DEFAULT_PRUNE, IDENTITY, METRICS
from tascnet.run.records import ModelMetrics, PruneMetrics, TuneMetrics, read_record

# Folders without runs to compare.
BESIDE = {"benchmarks", "cache", "compare", "evaluate", "multirun", "predict"}
MARKS = (IDENTITY, METRICS)
MODELS = {"tune": ("baseline", "conventional", "after"), "prune": ("before", "after")}
JOURNALS = {"tune": ("trials.jsonl", "trial"), "prune": ("iterations.jsonl", "line")}


@dataclass(frozen=True, kw_only=True)
class Aside:
    """The folder of a run or stage that is left out, and why."""

    folder: str
    reason: str


@dataclass(frozen=True, kw_only=True, order=True)
class Place:
    """Where latency was measured: machine, device such as `cpu` or `cuda:0`, and CPU threads."""

    machine: str
    device: str
    threads: int


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One network of one run, and where it was timed."""

    metrics: ModelMetrics
    place: Place


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A finished stage of a run.

    Args:
        kind: `tune` or `prune`.
        preset: of a pruning, else None.
        pick: number of the trial that was picked; None: the search's own winner.
        dataset, backbone: their names.
        models: by their names in `metrics.json`.
        options: that can change its numbers, without the seed and the digests of what it reads.
        data: digest of the samples, or None.
    """

    kind: str
    preset: str | None
    pick: int | None
    dataset: str
    backbone: str
    models: Mapping[str, Measured]
    options: Mapping[str, Any]
    data: str | None


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run: its folder, the folder's name without the seed, and its finished stages by their folders."""

    folder: str
    dataset: str
    backbone: str
    name: str
    seed: int
    stages: Mapping[str, Stage]


class Unfit(Exception):
    """Why a folder is left out; users see it in the list of such folders."""


def parse_run_name(name: str) -> tuple[str, int] | None:
    """Name and seed of a run from the name of its folder; None where it is none."""
    match = re.fullmatch(r"(.+)-seed(\d+)", name)
    return None if match is None else (match[1], int(match[2]))


def parse_stage_name(name: str) -> tuple[str, str | None, int | None] | None:
    """Stage, pruning preset and picked trial from the name of a stage's folder; None where it is none.

    Args:
        name: such as `tune`, `tune-pick3`, `prune` or `prune-tascnet-pick3`.
    """
    match = re.fullmatch(r"(tune|prune(?:-(.+?))??)(?:-pick(\d+))?", name)
    if match is None:
        return None
    pick = None if match[3] is None else int(match[3])
    return ("tune", None, pick) if match[1] == "tune" else ("prune", match[2] or DEFAULT_PRUNE, pick)


def find_runs(path: Path) -> tuple[list[Run], list[Aside]]:
    """All runs under a path, or the path's own.

    Args:
        path: a folder above run folders, such as `outputs`, or one run folder.

    Returns:
        The runs with at least one finished stage, and what is left out; both sorted by folder. Folders called
        benchmark, cache, compare and multirun, and runs of stage pretrain alone, are ignored.

    Raises:
        RunFolderError: there is no such folder.
    """
    if not path.is_dir():
        what = "is no folder" if path.exists() else "does not exist"
        raise RunFolderError(f"{path} {what}", "give the folder that holds the runs, such as outputs")
    runs: list[Run] = []
    asides: list[Aside] = []
    for folder in _candidates(path, asides):
        try:
            run, unfit = _read_run(folder)
        except Unfit as error:
            asides.append(Aside(folder=str(folder), reason=str(error)))
        except OSError as error:
            asides.append(Aside(folder=str(folder), reason=f"it cannot be read ({error})"))
        else:
            runs.append(run)
            asides += unfit
    return runs, sorted(asides, key=lambda aside: aside.folder)


def _candidates(folder: Path, asides: list[Aside]) -> Iterator[Path]:
    """Folders that are runs by their name or content; those that cannot be opened go to `asides`."""
    try:
        entries = sorted(folder.iterdir())
        below = [entry for entry in entries if entry.is_dir() and not entry.is_symlink()]
        stages = [entry for entry in below if parse_stage_name(entry.name)]
        holds_stage = any((stage / mark).exists() for stage in stages for mark in MARKS)
    except OSError as error:
        asides.append(Aside(folder=str(folder), reason=f"it cannot be read ({error.strerror})"))
        return
    if holds_stage or parse_run_name(folder.resolve().name):
        if stages or not (folder / "pretrain" / METRICS).exists():
            yield folder
        return
    if any(entry.name in MARKS for entry in entries):
        asides.append(Aside(folder=str(folder), reason="it holds metrics, but is no stage of a run"))
    for entry in below:
        if entry.name not in BESIDE and not entry.name.startswith("."):
            yield from _candidates(entry, asides)


def _read_run(folder: Path) -> tuple[Run, list[Aside]]:
    """A run with its finished stages, and the stages that are left out.

    Raises:
        Unfit: every stage is left out, or the search is, from which all others start.
    """
    parsed = parse_run_name(folder.resolve().name)
    if parsed is None:
        raise Unfit("its name does not end in -seed<number>")
    name, seed = parsed
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    folders = [entry for entry in entries if entry.is_dir() and parse_stage_name(entry.name)]
    if not folders:
        held = ", ".join(entry.name for entry in entries[:3])
        raise Unfit(f"it holds no stage tune or prune, but {held}" if held else "it is empty")
    stages: dict[str, Stage] = {}
    asides: list[Aside] = []
    for entry in folders:
        try:
            stages[entry.name] = _read_stage(entry, seed=seed)
        except Unfit as error:
            if entry.name == "tune":
                raise Unfit(f"tune: {error}") from error
            asides.append(Aside(folder=str(entry), reason=str(error)))
    if not stages:
        raise Unfit("; ".join(f"{Path(aside.folder).name}: {aside.reason}" for aside in asides))
    owners = {(stage.dataset, stage.backbone) for stage in stages.values()}
    if len(owners) > 1:
        found = ", ".join(f"{key}: {stage.backbone} on {stage.dataset}" for key, stage in stages.items())
        raise Unfit(f"its stages belong to several runs ({found})")
    ((dataset, backbone),) = owners
    run = Run(folder=str(folder), dataset=dataset, backbone=backbone, name=name, seed=seed, stages=stages)
    return run, asides


def _read_stage(folder: Path, *, seed: int) -> Stage:
    parsed = parse_stage_name(folder.name)
    assert parsed is not None, "only folders with the name of a stage are read"
    kind, preset, pick = parsed
    if not (folder / METRICS).exists():
        raise Unfit(_unfinished(folder, kind))
    if not (folder / IDENTITY).exists():
        raise Unfit("it holds metrics.json but no identity.json, so it is not tascnet's")
    record = TuneMetrics if kind == "tune" else PruneMetrics
    try:
        metrics = read_record(folder / METRICS, record)
        identity = read_record(folder / IDENTITY, dict[str, Any])
    except RunFolderError as error:
        raise Unfit(error.message.replace(f"{folder}/", "")) from error
    for file, found in ((IDENTITY, identity.get("seed")), (METRICS, metrics.seed)):
        if found != seed:
            raise Unfit(f"seed is {found} in {file} and {seed} in the folder's name")
    if identity.get("stage") != kind:
        raise Unfit(f"identity.json is of stage {identity.get('stage')}")
    for name in dict.fromkeys((*MODELS[kind], *metrics.models)):
        if name not in metrics.models:
            raise Unfit(f"metrics.json is damaged: it lacks the model {name!r}")
        if metrics.models[name].latency("eager") is None:
            raise Unfit(f"metrics.json is damaged: it lacks the latency of {name!r} in eager PyTorch")
        for key in columns_of([metrics.models[name]]):
            value = getattr(metrics.models[name], key)
            if not 0 <= value < math.inf or (key.endswith("accuracy") and value > 1):
                raise Unfit(f"metrics.json is damaged: {key} of {name!r} is {value!r}")
    models = {
        name: Measured(
            metrics=model,
            place=Place(machine=metrics.machine.name, device=model.eager.device, threads=model.threads),
        )
        for name, model in metrics.models.items()
    }
    options = {key: value for key, value in identity.items() if not key.startswith("input.")}
    options |= {f"{kind}.{key}": value for key, value in metrics.budget.items()}
    return Stage(
        kind=kind,
        preset=preset,
        pick=pick,
        dataset=metrics.dataset,
        backbone=metrics.backbone,
        models=models,
        options={key: value for key, value in options.items() if key not in ("stage", "seed")}
        | {"metric": metrics.metric},
        data=identity.get("input.data"),
    )


def _unfinished(folder: Path, stage: str) -> str:
    """The progress of a stage without metrics, and the error that ended it, where its log holds one."""
    name, word = JOURNALS[stage]
    ends = _content(folder / name).count(b"\n")
    done = plural(ends, word) if ends else f"no {word}"
    lines = _content(folder / "log.txt", read_end).decode("utf-8", errors="replace").splitlines()
    dated = [line for line in lines if re.match(r"\d{4}-\d\d-\d\d \S+ [A-Z]+ ", line)]
    _, _, level, message = dated[-1].split(" ", 3) if dated else ("", "", "", "")
    ending = f" ({message.strip()})" if level == "ERROR" else ""
    return f"unfinished, with {done} in {name}{ending}"


def _content(path: Path, read: Callable[[Path], bytes] = read_bytes) -> bytes:
    """The content of a file; a missing one has none."""
    try:
        return read(path)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise Unfit(f"{path.name} cannot be read ({error})") from error
