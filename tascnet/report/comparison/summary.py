"""Rows of the comparison: mean and deviation over seeds, and changes from a reference of the same seed."""

import logging
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tascnet.errors import RunFolderError
from tascnet.report.comparison.runs import Aside, Measured, Place, Run, Stage, find_runs
from tascnet.report.tables import COLUMNS
from tascnet.run.files import digest_json
from tascnet.run.records import DEPLOYED, ModelMetrics

log = logging.getLogger("tascnet")

# Names of the networks of stage tune in `metrics.json`, and in the table; rivals have the same in both.
TUNED = {"baseline": "baseline", "conventional": "conventional", "after": "tuned"}
LATENCIES = ("latency_ms", "latency_ms_batch", "deployed_ms")
# Figures of a network that do not depend on where it was measured.
SAME_NETWORK = ("params", "flops", "size_bytes")
# Most options in the label of a setting.
_SHOWN = 3

_Options = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Statistic:
    """Mean and standard deviation (n - 1 in the denominator; None for one value) of n values."""

    mean: float
    deviation: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One kind of network of one setting.

    Args:
        dataset, backbone, name: of the runs; the name includes the options in which runs of one name differ.
        model: baseline, conventional, tuned, `rival <name>`, or `pruned: <preset>`.
        seeds: those that are averaged.
        figures: by the fields of `COLUMNS`; None for a latency that was measured in different places, or not
            for all seeds.
        changes: for each reference the change of each figure from it, seed by seed: a difference of
            accuracies, else a share of the reference. None where no seed measured both in the same place.
        runtime: to which `deployed_ms` belongs: of those of exported files that all seeds measured, the one
            that is in the mean the fastest for one sample; None: there is none.
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
    runtime: str | None
    places: tuple[Place, ...]
    batches: tuple[int, ...]
    same_samples: bool


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The finished runs under a path.

    Args:
        path: of a folder above them.
        runs: their folders.
        rows: sorted by data set, backbone and name.
        asides: what is left out.
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
        held = f"no finished run, but {len(asides)} that cannot be compared" if asides else "no run"
        raise RunFolderError(f"{path} holds {held}", "run stage tune first, or give the folder of other runs")
    doubled = {aside.folder for aside in doubles}
    compared = tuple(run.folder for run in runs if run.folder not in doubled)
    return Comparison(path=str(path), runs=compared, rows=tuple(rows), asides=asides)


def summarise(runs: Iterable[Run]) -> tuple[list[TableRow], list[Aside]]:
    """One row for each kind of network of each setting, sorted by data set, backbone and name.

    Returns:
        The rows, and the runs that are left out because another one has the same setting and seed.
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
    """The items grouped by their options, with a label of the options that differ, empty where none do."""
    found: dict[str, tuple[_Options, list[Any]]] = {}
    for options, item in pairs:
        found.setdefault(digest_json(dict(options)), (options, []))[1].append(item)
    keys = sorted({key for options, _ in found.values() for key in options})
    differing = [
        key for key in keys if len({digest_json(options.get(key)) for options, _ in found.values()}) > 1
    ]
    variants = []
    for options, items in found.values():
        values = ((key, options.get(key)) for key in differing[:_SHOWN])
        shown = [f"{key}={'null' if value is None else str(value).replace(' ', '')}" for key, value in values]
        shown += ["..."] if len(differing) > _SHOWN else []
        variants.append((f" ({', '.join(shown)})" if shown else "", items))
    return variants


def _series(runs: Sequence[Run]) -> dict[str, list[_Entry]]:
    """The networks of the runs of one setting by their names in the table, in its order."""
    series: dict[str, list[_Entry]] = {}
    pruned: dict[str, list[tuple[_Options, _Entry]]] = {}
    for run in runs:
        for stage in run.stages.values():
            if stage.kind == "tune":
                conventional = {"conventional": stage.models["conventional"]}
                # Of a picked trial only the tuned network is its own.
                rivals = {row: row for row in stage.models if row not in TUNED}
                names = TUNED | rivals if stage.pick is None else {"after": f"tuned: trial {stage.pick}"}
                for key, name in names.items():
                    references = {} if key == "conventional" else conventional
                    series.setdefault(name, []).append(_entry(run, stage, key, references))
            else:
                name = f"pruned: {stage.preset}" + ("" if stage.pick is None else f", trial {stage.pick}")
                unpruned = stage.models["before"]
                references = {"unpruned": unpruned}
                tuned = run.stages.get("tune" if stage.pick is None else f"tune-pick{stage.pick}")
                if tuned is not None and _same_network(tuned.models["after"], unpruned):
                    references["conventional"] = tuned.models["conventional"]
                pruned.setdefault(name, []).append((stage.options, _entry(run, stage, "after", references)))
    for name, pairs in sorted(pruned.items()):
        for label, entries in _variants(pairs):
            series[name + label] = entries
    return series


def _entry(run: Run, stage: Stage, model: str, references: Mapping[str, Measured]) -> _Entry:
    return _Entry(seed=run.seed, model=stage.models[model], references=references, data=stage.data)


def _same_network(one: Measured, other: Measured) -> bool:
    return all(getattr(one.metrics, key) == getattr(other.metrics, key) for key in SAME_NETWORK)


def _row(dataset: str, backbone: str, name: str, model: str, entries: Sequence[_Entry]) -> TableRow:
    models = [entry.model for entry in entries]
    runtime = _deployed([each.metrics for each in models])
    figures: dict[str, Statistic | None] = {}
    for key in COLUMNS:
        is_mixed = any(not _comparable(key, models[0], other) for other in models)
        values = [_value(each.metrics, key, runtime) for each in models]
        figures[key] = None if is_mixed else _statistic([value for value in values if value is not None])
    references = sorted({name for entry in entries for name in entry.references})
    return TableRow(
        dataset=dataset,
        backbone=backbone,
        name=name,
        model=model,
        seeds=tuple(entry.seed for entry in entries),
        figures=figures,
        changes={
            reference: {key: _change(key, reference, entries, runtime) for key in COLUMNS}
            for reference in references
        },
        runtime=runtime,
        places=tuple(sorted({each.place for each in models})),
        batches=tuple(sorted({each.metrics.batch for each in models})),
        same_samples=len({entry.data for entry in entries}) == 1,
    )


def _deployed(models: Sequence[ModelMetrics]) -> str | None:
    """The runtime of exported files that is fastest in the mean, of those in which all models were timed."""
    means = {}
    for runtime in DEPLOYED:
        found = [one.latency_ms for model in models if (one := model.latency(runtime))]
        if len(found) == len(models):
            means[runtime] = statistics.fmean(found)
    return min(means, key=lambda runtime: means[runtime], default=None)


def _value(model: ModelMetrics, key: str, runtime: str | None) -> float | None:
    """A figure of one network, its deployed latency in `runtime`."""
    if key != "deployed_ms":
        return cast(float, getattr(model, key))
    found = None if runtime is None else model.latency(runtime)
    return None if found is None else found.latency_ms


def _change(key: str, reference: str, entries: Sequence[_Entry], runtime: str | None) -> Statistic | None:
    """The change from a reference, over the seeds that have it and measured both in the same place.

    Deployed, a network in `runtime` is compared with the fastest form of the reference.
    """
    changes = []
    for entry in entries:
        other = entry.references.get(reference)
        if other is None or not _comparable(key, entry.model, other):
            continue
        now, before = _value(entry.model.metrics, key, runtime), getattr(other.metrics, key)
        if now is None or before is None:
            continue
        if key.endswith("accuracy"):
            changes.append(now - before)
        elif before:
            changes.append(now / before - 1)
    return _statistic(changes)


def _comparable(key: str, one: Measured, other: Measured) -> bool:
    if key not in LATENCIES:
        return True
    return one.place == other.place and (
        key != "latency_ms_batch" or one.metrics.batch == other.metrics.batch
    )


def _statistic(values: Sequence[float]) -> Statistic | None:
    if not values:
        return None
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Statistic(mean=statistics.fmean(values), deviation=deviation, n=len(values))
