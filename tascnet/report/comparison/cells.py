"""The cells of the comparison as texts, and what has to be said of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tascnet.errors import plural
from tascnet.report import numbers
from tascnet.report.comparison.records import FIGURES, LATENCIES, Place
from tascnet.report.comparison.summary import Row, Statistic

MIXED = "mixed"
# The reference of every row, and that of an extra line below a pruned network.
USUAL, UNPRUNED = "conventional", "unpruned"
SHOW: dict[str, tuple[str, Callable[[float | None], str]]] = {
    "val_accuracy": ("val acc.", numbers.percent),
    "test_accuracy": ("test acc.", numbers.percent),
    "params": ("params", numbers.count),
    "flops": ("FLOPs", numbers.count),
    "size_bytes": ("size", numbers.size),
    "latency_ms": ("latency batch 1", numbers.milliseconds),
    "latency_ms_batch": ("latency batch", numbers.milliseconds),
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A mean, its deviation and a change as texts; empty ones are not shown."""

    mean: str = ""
    deviation: str = ""
    change: str = ""


def table_lines(rows: Sequence[Row], places: Mapping[Place, str]) -> Iterator[tuple[str, str, list[Cell]]]:
    """Name, n and cells of each row, and the extra line of a pruned one.

    Args:
        rows: some of a table's.
        places: those of the whole table, by `numbered`.
    """
    for row in rows:
        reference = row.changes.get(USUAL, {})
        yield row.model, str(len(row.seeds)), [_cell(row, key, reference.get(key), places) for key in FIGURES]
        if UNPRUNED in row.changes:
            unpruned = row.changes[UNPRUNED]
            yield "from unpruned", "", [Cell(change=_changed(key, unpruned[key])) for key in FIGURES]


def _cell(row: Row, key: str, change: Statistic | None, places: Mapping[Place, str]) -> Cell:
    show, statistic = SHOW[key][1], row.figures[key]
    marks = [places[place] for place in row.places] if key in LATENCIES and len(places) > 1 else []
    mark = f" {''.join(marks)}" if marks else ""
    if statistic is None:
        return Cell(mean=MIXED + mark, change=_changed(key, change))
    mean = show(statistic.mean)
    deviation = f"± {numbers.spread(statistic.deviation, mean)}"
    return Cell(mean=mean + mark, deviation=deviation, change=_changed(key, change))


def _changed(key: str, change: Statistic | None) -> str:
    if change is None:
        return ""
    if key.endswith("accuracy"):
        return numbers.points(change.mean, 0.0)
    return numbers.change(1 + change.mean, 1.0)


def notes(rows: Sequence[Row]) -> list[str]:
    """What the figures of a table mean, and where they must not be compared, in sentences."""
    lines = [
        "Mean ± standard deviation over n seeds (n − 1 in the denominator), same unit; – for one seed.",
        "Changes are from the conventional network of the same seed, in the lines `from unpruned` from the "
        "network that was pruned: means over the seeds, of accuracies in percentage points.",
        "Pruned and unpruned networks were timed side by side, and so were baseline, conventional and tuned; "
        "between the two the load of the machine may have changed.",
    ]
    places = numbered(rows)
    told = [f"{mark} {place_text(place)}" for place, mark in places.items()]
    if len(places) == 1:
        lines.append(f"Latency: {place_text(next(iter(places)))}.")
    else:
        lines.append(
            f"Latency was measured in different places and is compared within one alone: {'; '.join(told)}."
        )
    if any(row.figures[key] is None for row in rows for key in LATENCIES):
        lines.append(f"{MIXED}: the seeds were measured in different places or batches, so there is no mean.")
    lines += [
        f"The seeds of {setting(row)}, {row.model}, had different samples."
        for row in rows
        if not row.same_samples
    ]
    return lines


def headings(rows: Sequence[Row]) -> list[str]:
    """The headings of the figures' columns."""
    batches = sorted({batch for row in rows for batch in row.batches})
    titles = {key: title for key, (title, _) in SHOW.items()}
    titles["latency_ms_batch"] += f" {'/'.join(map(str, batches))}"
    return list(titles.values())


def setting(row: Row) -> str:
    """What the seeds of a row share, in words."""
    return f"{row.dataset}, {row.backbone}, {row.name}"


def numbered(rows: Sequence[Row]) -> dict[Place, str]:
    """The places where the rows' latencies were measured, each with a number in brackets."""
    places = sorted({place for row in rows for place in row.places})
    return {place: f"[{number}]" for number, place in enumerate(places, start=1)}


def place_text(place: Place) -> str:
    """A place in words."""
    return f"{place.device}, {plural(place.threads, 'thread')}, {place.machine}"
