"""Rows of the comparison: mean and deviation over seeds, and changes from a reference of the same seed."""

import logging
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tascnet.errors import RunFolderError
from tascnet.report.comparison.runs import Aside, Measured, Place, Run, Stage, find_runs
from tascnet.report.tables import COLUMNS
from tascnet.run.files import digest_json

log = logging.getLogger("tascnet")

# What `metrics.json` calls the networks of stage tune, and the table.
TUNED = {"baseline": "baseline", "conventional": "conventional", "after": "tuned"}
LATENCIES = ("latency_ms", "latency_ms_batch")
# Figures that two records of the same network have in common, wherever they were measured.
SAME_NETWORK = ("params", "flops", "size_bytes")
# Options in a label that distinguishes settings.
_SHOWN = 3

_Options = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Statistic:
    """Values of several seeds.

    Args:
        mean: their mean.
        deviation: their standard deviation (n - 1 in the denominator); None for one value.
        n: how many.
    """

    mean: float
    deviation: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One kind of network of one setting.

    Args:
        dataset, backbone, name: of the runs; where runs of one name have different options, the name has
            those that differ.
        model: baseline, conventional, tuned, or `pruned: <preset>`.
        seeds: those that are averaged.
        figures: by the fields of `COLUMNS`; None for a latency that was measured in different places.
        changes: for each reference the change of each figure from it, seed by seed: a difference of
            accuracies, else a share of the reference. None where no seed measured both in the same place.
        places: where its latencies were measured.
        batches: samples in a pass of `latency_ms_batch`.
        same_samples: whether all seeds had the same samples.
    """

    dataset: str
    backbone: str
    name: str
    model: str
    seeds: tuple[int, ...]
    figures: Mapping[str, Statistic | None]
    changes: Mapping[str, Mapping[str, Statistic | None]]
    places: tuple[Place, ...]
    batches: tuple[int, ...]
    same_samples: bool


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Finished runs side by side.

    Args:
        path: under which they were found.
        runs: the folders of those that take part.
        rows: sorted by data set, backbone and name.
        asides: what does not take part.
    """

    path: str
    runs: tuple[str, ...]
    rows: tuple[TableRow, ...]
    asides: tuple[Aside, ...]


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One network of one seed beside its references."""

    seed: int
    model: Measured
    references: Mapping[str, Measured]
    data: str | None


def compare(path: str | Path) -> Comparison:
    """Compare the finished runs under a folder, averaged over their seeds.

    Args:
        path: a folder above run folders, such as `outputs`, or one run folder.

    Raises:
        RunFolderError: there is no such folder, or no finished run in it.
    """
    runs, unfit = find_runs(Path(path).expanduser())
    rows, doubles = summarise(runs)
    asides = (*unfit, *doubles)
    for aside in asides:
        log.warning("not in the table: %s: %s", aside.folder, aside.reason)
    if not rows:
        held = f"no finished run, but {len(asides)} that cannot take part" if asides else "no run"
        raise RunFolderError(f"{path} holds {held}", "run stage tune first, or give the folder of other runs")
    doubled = {aside.folder for aside in doubles}
    compared = tuple(run.folder for run in runs if run.folder not in doubled)
    return Comparison(path=str(path), runs=compared, rows=tuple(rows), asides=asides)


def summarise(runs: Iterable[Run]) -> tuple[list[TableRow], list[Aside]]:
    """One row for each kind of network of each setting.

    Args:
        runs: in any order.

    Returns:
        Rows sorted by data set, backbone and name; and runs that do not take part because another one has
        the same setting and seed.
    """
    rows: list[TableRow] = []
    asides: list[Aside] = []
    named: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        named.setdefault((run.dataset, run.backbone, run.name), []).append(run)
    for (dataset, backbone, name), group in sorted(named.items()):
        options = [run.stages["tune"].options if "tune" in run.stages else {} for run in group]
        for label, members in _variants(list(zip(options, group, strict=True))):
            first: dict[int, Run] = {}
            for run in members:
                if run.seed in first:
                    reason = f"{first[run.seed].folder} has the same options and seed"
                    asides.append(Aside(folder=run.folder, reason=reason))
                else:
                    first[run.seed] = run
            for model, entries in _series([first[seed] for seed in sorted(first)]).items():
                rows.append(_row(dataset, backbone, name + label, model, entries))
    return rows, asides


def _variants(pairs: Sequence[tuple[_Options, Any]]) -> list[tuple[str, list[Any]]]:
    """What has the same options together, with a label of what differs, empty where nothing does."""
    found: dict[str, tuple[_Options, list[Any]]] = {}
    for options, item in pairs:
        found.setdefault(digest_json(dict(options)), (options, []))[1].append(item)
    all_options = [options for options, _ in found.values()]
    keys = sorted({key for options in all_options for key in options})
    differing = [key for key in keys if len({digest_json(each.get(key)) for each in all_options}) > 1]
    return [(_label(options, differing), items) for options, items in found.values()]


def _label(options: _Options, keys: Sequence[str]) -> str:
    if not keys:
        return ""
    values = ((key, options.get(key)) for key in keys[:_SHOWN])
    shown = [f"{key}={'null' if value is None else str(value).replace(' ', '')}" for key, value in values]
    return f" ({', '.join(shown)}{', ...' if len(keys) > _SHOWN else ''})"


def _series(runs: Sequence[Run]) -> dict[str, list[_Entry]]:
    """The networks of the runs of one setting by their names in the table, in its order."""
    series: dict[str, list[_Entry]] = {}
    pruned: dict[str, list[tuple[_Options, _Entry]]] = {}
    for run in runs:
        for stage in run.stages.values():
            if stage.kind == "tune":
                for model, entry in _tuned(run.seed, stage).items():
                    series.setdefault(model, []).append(entry)
            else:
                name = f"pruned: {stage.preset}" + ("" if stage.pick is None else f", trial {stage.pick}")
                pruned.setdefault(name, []).append((stage.options, _pruned(run, stage)))
    for name, pairs in sorted(pruned.items()):
        for label, entries in _variants(pairs):
            series[name + label] = entries
    return series


def _tuned(seed: int, stage: Stage) -> dict[str, _Entry]:
    """The networks of stage tune; of a picked trial the tuned one alone."""
    conventional = {"conventional": stage.models["conventional"]}
    names = TUNED if stage.pick is None else {"after": f"tuned: trial {stage.pick}"}
    return {
        name: _Entry(
            seed=seed,
            model=stage.models[key],
            references={} if key == "conventional" else conventional,
            data=stage.data,
        )
        for key, name in names.items()
    }


def _pruned(run: Run, stage: Stage) -> _Entry:
    """A pruned network beside the unpruned one, and beside the conventional one if that was tuned to it."""
    unpruned = stage.models["before"]
    references = {"unpruned": unpruned}
    tuned = run.stages.get("tune" if stage.pick is None else f"tune-pick{stage.pick}")
    if tuned is not None:
        after = tuned.models["after"].metrics
        if all(getattr(after, key) == getattr(unpruned.metrics, key) for key in SAME_NETWORK):
            references["conventional"] = tuned.models["conventional"]
    return _Entry(seed=run.seed, model=stage.models["after"], references=references, data=stage.data)


def _row(dataset: str, backbone: str, name: str, model: str, entries: Sequence[_Entry]) -> TableRow:
    models = [entry.model for entry in entries]
    references = sorted({name for entry in entries for name in entry.references})
    return TableRow(
        dataset=dataset,
        backbone=backbone,
        name=name,
        model=model,
        seeds=tuple(entry.seed for entry in entries),
        figures={key: _figure(key, models) for key in COLUMNS},
        changes={
            reference: {key: _change(key, reference, entries) for key in COLUMNS} for reference in references
        },
        places=tuple(sorted({each.place for each in models})),
        batches=tuple(sorted({each.metrics.batch for each in models})),
        same_samples=len({entry.data for entry in entries}) == 1,
    )


def _figure(key: str, models: Sequence[Measured]) -> Statistic | None:
    """Mean and deviation; None for latencies of different places."""
    if any(not _comparable(key, models[0], other) for other in models):
        return None
    return _statistic([getattr(model.metrics, key) for model in models])


def _change(key: str, reference: str, entries: Sequence[_Entry]) -> Statistic | None:
    """The change from a reference, over the seeds that have it and measured both in the same place."""
    changes = []
    for entry in entries:
        other = entry.references.get(reference)
        if other is None or not _comparable(key, entry.model, other):
            continue
        now, before = getattr(entry.model.metrics, key), getattr(other.metrics, key)
        if key.endswith("accuracy"):
            changes.append(now - before)
        elif before:
            changes.append(now / before - 1)
    return _statistic(changes)


def _comparable(key: str, one: Measured, other: Measured) -> bool:
    if key not in LATENCIES:
        return True
    return one.place == other.place and (key == "latency_ms" or one.metrics.batch == other.metrics.batch)


def _statistic(values: Sequence[float]) -> Statistic | None:
    if not values:
        return None
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Statistic(mean=statistics.fmean(values), deviation=deviation, n=len(values))
