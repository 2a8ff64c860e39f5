"""Rows of the comparison: mean and deviation over seeds, and changes from a reference of the same seed."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tascnet.report.comparison.records import FIGURES, LATENCIES, Aside, Model, Place, Run, Stage
from tascnet.run.files import digest_json

# What `metrics.json` calls the networks of stage tune, and the table.
TUNED = {"baseline": "baseline", "conventional": "conventional", "after": "tuned"}
# Figures that two records of the same network have in common, wherever they were measured.
SAME_NETWORK = ("params", "flops", "size_bytes")
# Options in a label that tells settings apart.
_SHOWN = 3

Options = Mapping[str, Any]


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
class Row:
    """One kind of network of one setting.

    Args:
        dataset, backbone, name: of the runs; where runs of one name have different options, the name says
            which.
        model: baseline, conventional, tuned, or `pruned: <preset>`.
        seeds: those that are averaged.
        figures: by `FIGURES`; None for a latency that was measured in different places.
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
class _Entry:
    """One network of one seed beside its references."""

    seed: int
    model: Model
    references: Mapping[str, Model]
    data: str | None


def compare(runs: Iterable[Run]) -> tuple[list[Row], list[Aside]]:
    """One row for each kind of network of each setting.

    Args:
        runs: in any order.

    Returns:
        Rows sorted by data set, backbone and name; and runs that do not take part because another one has
        the same setting and seed.
    """
    rows: list[Row] = []
    asides: list[Aside] = []
    named: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        named.setdefault((run.dataset, run.backbone, run.name), []).append(run)
    for (dataset, backbone, name), group in sorted(named.items()):
        for label, members in _variants([(_tune_options(run), run) for run in group]):
            kept, doubles = _one_a_seed(members)
            asides += doubles
            for model, entries in _series(kept).items():
                rows.append(_row(dataset, backbone, name + label, model, entries))
    return rows, asides


def _tune_options(run: Run) -> Options:
    return run.stages["tune"].options if "tune" in run.stages else {}


def _variants(pairs: Sequence[tuple[Options, Any]]) -> list[tuple[str, list[Any]]]:
    """What has the same options together, with a label of what differs, empty where nothing does."""
    found: dict[str, tuple[Options, list[Any]]] = {}
    for options, item in pairs:
        found.setdefault(digest_json(dict(options)), (options, []))[1].append(item)
    all_options = [options for options, _ in found.values()]
    keys = sorted({key for options in all_options for key in options})
    differing = [key for key in keys if len({digest_json(each.get(key)) for each in all_options}) > 1]
    return [(_label(options, differing), items) for options, items in found.values()]


def _label(options: Options, keys: Sequence[str]) -> str:
    if not keys:
        return ""
    shown = [f"{key}={_written(options.get(key))}" for key in keys[:_SHOWN]]
    return f" ({', '.join(shown)}{', ...' if len(keys) > _SHOWN else ''})"


def _written(value: Any) -> str:
    return "null" if value is None else str(value).replace(" ", "")


def _one_a_seed(runs: Iterable[Run]) -> tuple[list[Run], list[Aside]]:
    """The first run of each seed, sorted by seed, and the others."""
    first: dict[int, Run] = {}
    doubles = []
    for run in runs:
        if run.seed in first:
            reason = f"{first[run.seed].folder} has the same options and seed"
            doubles.append(Aside(folder=run.folder, reason=reason))
        else:
            first[run.seed] = run
    return [first[seed] for seed in sorted(first)], doubles


def _series(runs: Sequence[Run]) -> dict[str, list[_Entry]]:
    """The networks of the runs of one setting by their names in the table, in its order."""
    series: dict[str, list[_Entry]] = {}
    for run in runs:
        for stage in run.stages.values():
            if stage.stage == "tune":
                for model, entry in _tuned(run.seed, stage).items():
                    series.setdefault(model, []).append(entry)
    pruned: dict[str, list[tuple[Options, _Entry]]] = {}
    for run in runs:
        for stage in run.stages.values():
            if stage.stage == "prune":
                entry = _pruned(run, stage)
                pruned.setdefault(_pruned_name(stage), []).append((stage.options, entry))
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


def _pruned_name(stage: Stage) -> str:
    return f"pruned: {stage.preset}" + ("" if stage.pick is None else f", trial {stage.pick}")


def _pruned(run: Run, stage: Stage) -> _Entry:
    """A pruned network beside the unpruned one, and beside the conventional one if that was tuned to it."""
    references = {"unpruned": stage.models["before"]}
    tuned = run.stages.get("tune" if stage.pick is None else f"tune-pick{stage.pick}")
    if tuned is not None and _same_network(tuned.models["after"], stage.models["before"]):
        references["conventional"] = tuned.models["conventional"]
    return _Entry(seed=run.seed, model=stage.models["after"], references=references, data=stage.data)


def _same_network(one: Model, other: Model) -> bool:
    return all(one.figures[key] == other.figures[key] for key in SAME_NETWORK)


def _row(dataset: str, backbone: str, name: str, model: str, entries: Sequence[_Entry]) -> Row:
    models = [entry.model for entry in entries]
    references = sorted({name for entry in entries for name in entry.references})
    return Row(
        dataset=dataset,
        backbone=backbone,
        name=name,
        model=model,
        seeds=tuple(entry.seed for entry in entries),
        figures={key: _figure(key, models) for key in FIGURES},
        changes={
            reference: {key: _change(key, reference, entries) for key in FIGURES} for reference in references
        },
        places=tuple(sorted({each.place for each in models})),
        batches=tuple(sorted({each.batch for each in models})),
        same_samples=len({entry.data for entry in entries}) == 1,
    )


def _figure(key: str, models: Sequence[Model]) -> Statistic | None:
    """Mean and deviation; None for latencies of different places."""
    if any(not _comparable(key, models[0], other) for other in models):
        return None
    return _statistic([model.figures[key] for model in models])


def _change(key: str, reference: str, entries: Sequence[_Entry]) -> Statistic | None:
    """The change from a reference, over the seeds that have it and measured both in the same place."""
    pairs = [(entry.model, entry.references[reference]) for entry in entries if reference in entry.references]
    same = [(now, before) for now, before in pairs if _comparable(key, now, before)]
    return _statistic(
        [
            now.figures[key] - before.figures[key]
            if key.endswith("accuracy")
            else now.figures[key] / before.figures[key] - 1
            for now, before in same
            if key.endswith("accuracy") or before.figures[key]
        ]
    )


def _comparable(key: str, one: Model, other: Model) -> bool:
    if key not in LATENCIES:
        return True
    return one.place == other.place and (key == "latency_ms" or one.batch == other.batch)


def _statistic(values: Sequence[float]) -> Statistic | None:
    if not values:
        return None
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Statistic(mean=statistics.fmean(values), deviation=deviation, n=len(values))
