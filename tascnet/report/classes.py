"""What a network makes of each class: rows for tables and figures, the worst first."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tascnet.run.records import ClassCounts, ClassMetrics, ModelMetrics, StageMetrics

# Most classes whose change is shown.
CHANGED = 15
# The model with which a page compares the result.
REFERENCES = ("conventional", "before")
# Up to how many classes the terminal shows all.
FEW = 10


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Test samples of one class that are taken for another.

    Args:
        true, predicted: names of the classes.
        count: how many.
        share: of the test samples of the true class.
    """

    true: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """One class: its samples, and how well networks recognise it.

    Args:
        counts: its samples.
        result: of the handed-over network.
        reference: of the network that it is compared with, if there is one.
        mistaken: what the handed-over network takes it for most often; None where it makes no mistake.
    """

    counts: ClassCounts
    result: ClassMetrics
    reference: ClassMetrics | None
    mistaken: Pair | None


@dataclass(frozen=True, kw_only=True)
class ClassChange:
    """The recall of one class by two networks.

    Args:
        name: of the class.
        samples: its test samples.
        before, after: share of them that each network recognises.
    """

    name: str
    samples: int
    before: float
    after: float


def reference_of(metrics: StageMetrics) -> str | None:
    """The name of the model with which `after` is compared; None where there is none."""
    return next((name for name in REFERENCES if name in metrics.models), None)


def class_rows(metrics: StageMetrics) -> list[ClassRow]:
    """A row for each class: by recall, the worst first; those without test samples last."""
    name = reference_of(metrics)
    result = metrics.models["after"]
    references: Sequence[ClassMetrics | None] = metrics.models[name].classes if name else ()
    worst = {pair.true: pair for pair in reversed(pairs(result))}
    rows = [
        ClassRow(counts=counts, result=own, reference=reference, mistaken=worst.get(own.name))
        for counts, own, reference in zip(
            metrics.samples.by_class, result.classes, references or (None,) * len(result.classes), strict=True
        )
    ]
    return sorted(rows, key=lambda row: (row.result.samples == 0, row.result.recall, row.result.f1))


def pairs(model: ModelMetrics) -> list[Pair]:
    """The pairs of different classes that a network confuses, the most frequent first."""
    names, samples = [row.name for row in model.classes], [row.samples for row in model.classes]
    found = [
        Pair(true=names[true], predicted=names[predicted], count=count, share=count / samples[true])
        for true, predicted, count in model.confusion
        if true != predicted
    ]
    return sorted(found, key=lambda pair: (-pair.count, -pair.share))


def changed_classes(before: ModelMetrics, after: ModelMetrics, most: int = CHANGED) -> list[ClassChange]:
    """The classes whose recall differs most between two networks, the largest loss first."""
    rows = [
        ClassChange(name=was.name, samples=was.samples, before=was.recall, after=now.recall)
        for was, now in zip(before.classes, after.classes, strict=True)
        if was.samples and was.recall != now.recall
    ]
    largest = sorted(rows, key=lambda row: -abs(row.after - row.before))[:most]
    return sorted(largest, key=lambda row: row.after - row.before)


def most_confused(model: ModelMetrics, most: int) -> ModelMetrics:
    """A network's figures for the classes of its most frequent mistakes alone, in their order.

    Samples that it takes for another class than these are left out of the confusion matrix.
    """
    found: dict[int, None] = {}
    wrong = [(count, true, named) for true, named, count in model.confusion if true != named]
    for _, true, named in sorted(wrong, key=lambda row: (-row[0], row[1], row[2])):
        if len(found.keys() | {true, named}) <= most:
            found |= {true: None, named: None}
    place = {index: position for position, index in enumerate(sorted(found))}
    return replace(
        model,
        classes=tuple(model.classes[index] for index in place),
        confusion=tuple(
            (place[true], place[named], count)
            for true, named, count in model.confusion
            if true in place and named in place
        ),
    )
