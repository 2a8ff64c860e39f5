"""Records by hand: the fields that a test is about, and the rest filled in."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tascnet.run.records import (
    ClassCounts,
    ClassMetrics,
    EpochRecord,
    FreezingDepth,
    FrontPoint,
    GroupSensitivity,
    GroupShare,
    Importance,
    Insight,
    Iteration,
    LayerWidths,
    Machine,
    ModelMetrics,
    Prediction,
    PretrainMetrics,
    PruneMetrics,
    Reach,
    RuntimeLatency,
    SampleCounts,
    Sensitivity,
    TrainingRecord,
    Trial,
    TuneMetrics,
    UncutLayers,
)

MACHINE = Machine(device="cpu", name="Chip", cpu="Chip", threads=2, torch="2")
REACH = Reach(
    params_left=0.125,
    flops_left=0.25,
    inexact=("stem", "stage1"),
    uncut=(
        UncutLayers(reason="feeds the output", layers=("classifier",), params=0.01, flops=0.001),
        UncutLayers(
            reason="coupled to the network's input", layers=("a<b>", "c", "d"), params=0.02, flops=0.03
        ),
        UncutLayers(reason="spared by `ignore`", layers=("e",), params=0.04, flops=0.05),
    ),
)
NAMES = ("iris", "rose", "tulip")
SAMPLES = SampleCounts(
    classes=3,
    train=2040,
    val=1020,
    test=5130,
    skipped=3,
    origin="the garden",
    licence="CC BY 4.0",
    by_class=tuple(ClassCounts(name=name, train=680, val=340, test=1710) for name in NAMES),
    majority_accuracy=1 / 3,
    copies=0,
    leaked=0,
    near_duplicates=None,
    passed_over={},
)


def model(**changes: Any) -> ModelMetrics:
    """A network of round figures that takes one in four of each class for the next, but for the changes.

    `latency_ms`, `latency_ms_batch` and `device` are those of eager PyTorch, in which alone it is timed if no
    `latencies` are given.

    Its balanced accuracies are the plain ones, if no other are given.
    """
    plain = ModelMetrics(
        val_accuracy=0.8,
        test_accuracy=0.75,
        val_balanced_accuracy=0.8,
        test_balanced_accuracy=0.75,
        test_top5_accuracy=None,
        classes=tuple(
            ClassMetrics(name=name, samples=4, recall=0.75, precision=0.75, f1=0.75) for name in NAMES
        ),
        confusion=((0, 0, 3), (0, 1, 1), (1, 1, 3), (1, 2, 1), (2, 2, 3), (2, 0, 1)),
        predictions=(0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 0),
        params=1000,
        trainable_params=10,
        flops=4000,
        flops_counted="all",
        size_bytes=5000,
        batch=16,
        threads=2,
        latencies=(),
    )
    if "latencies" not in changes:
        changes["latencies"] = (
            timed(
                threads=changes.get("threads", 2),
                device=changes.pop("device", "cpu"),
                single=changes.pop("latency_ms", 2.0),
                batched=changes.pop("latency_ms_batch", 10.0),
            ),
        )
    for split in ("val", "test"):
        if f"{split}_accuracy" in changes:
            changes.setdefault(f"{split}_balanced_accuracy", changes[f"{split}_accuracy"])
    return replace(plain, **changes)


def timed(
    runtime: str = "eager",
    single: float = 2.0,
    batched: float = 10.0,
    *,
    threads: int = 2,
    device: str = "cpu",
) -> RuntimeLatency:
    """A latency of one sample and of a batch in one runtime, spread by a tenth to either side."""
    return RuntimeLatency(
        runtime=runtime,
        threads=threads,
        device=device,
        latency_ms=single,
        latency_ms_spread=(0.9 * single, 1.1 * single),
        latency_ms_batch=batched,
        latency_ms_batch_spread=(0.9 * batched, 1.1 * batched),
    )


def confused(counts: Sequence[Sequence[int]], names: Sequence[str] = NAMES, **changes: Any) -> ModelMetrics:
    """A network with this confusion matrix: a row for each true class, a column for each predicted one."""
    classes = []
    for i, (name, row) in enumerate(zip(names, counts, strict=True)):
        named = sum(other[i] for other in counts)
        recall, precision = row[i] / max(1, sum(row)), row[i] / max(1, named)
        f1 = 2 * recall * precision / (recall + precision) if row[i] else 0.0
        classes.append(ClassMetrics(name=name, samples=sum(row), recall=recall, precision=precision, f1=f1))
    right, total = sum(row[i] for i, row in enumerate(counts)), sum(map(sum, counts))
    recalls = [row.recall for row in classes if row.samples]
    own: dict[str, Any] = {
        "test_accuracy": right / total,
        "test_balanced_accuracy": sum(recalls) / len(recalls),
        "classes": tuple(classes),
        "confusion": tuple(
            (i, j, count) for i, row in enumerate(counts) for j, count in enumerate(row) if count
        ),
    }
    return model(**{**own, **changes})


def sampled(
    counts: Sequence[tuple[int, int, int]], names: Sequence[str] = NAMES, **changes: Any
) -> SampleCounts:
    """Samples with so many of each class for training, validation and testing."""
    train, val, test = (sum(part) for part in zip(*counts, strict=True))
    largest = max(range(len(counts)), key=lambda i: counts[i][0])
    own: dict[str, Any] = {
        "classes": len(counts),
        "train": train,
        "val": val,
        "test": test,
        "by_class": tuple(
            ClassCounts(name=name, train=row[0], val=row[1], test=row[2])
            for name, row in zip(names, counts, strict=True)
        ),
        "majority_accuracy": counts[largest][2] / test,
    }
    return replace(SAMPLES, **{**own, **changes})


_STAGE: dict[str, Any] = {
    "dataset": "digits",
    "samples": SAMPLES,
    "backbone": "cnn",
    "machine": MACHINE,
    "trainings": {},
    "measure": {"batch": 16, "repeats": 30, "runtimes": ["eager"], "target": "eager"},
    "budget": {},
    "metric": "accuracy",
    "class_weights": "none",
    "seconds": 245.0,
    "seed": 3,
    "versions": {"torch": "2.6.0"},
}


def tune_metrics(**changes: Any) -> TuneMetrics:
    """Metrics of a search by accuracy whose trial 2 wins."""
    models = {name: model() for name in ("baseline", "conventional", "after")}
    own: dict[str, Any] = {
        "best_config": {"first_trained": 1},
        "neutral_config": {"first_trained": 0},
        "winner": 2,
        "finetuned_from": "prefix",
        "first_searched_block": 5,
        "stopped": "depth 2 was no better",
        "archives": {},
        "trials": 3,
        "objective": "accuracy",
        "bounds": {},
    }
    return TuneMetrics(**{"models": models, **_STAGE, **own, **changes})


def prune_metrics(**changes: Any) -> PruneMetrics:
    """Metrics of a pruning of two iterations whose first is kept."""
    own: dict[str, Any] = {
        "iterations": 2,
        "kept_iteration": 1,
        "stopped": "accuracy fell",
        "removable_blocks": 0,
        "tolerance": 0.02,
        "widths": (),
        "reach": REACH,
    }
    return PruneMetrics(**{"models": {"before": model(), "after": model()}, **_STAGE, **own, **changes})


def pretrain_metrics(**changes: Any) -> PretrainMetrics:
    """Metrics of a training without epochs."""
    own = {"weights": "weights.safetensors", "exclude": None, "excluded": 0, "best_epoch": 1, "epochs": ()}
    return PretrainMetrics(**{"models": {"after": model()}, **_STAGE, **own, **changes})


def training(accuracies: Sequence[float | None]) -> TrainingRecord:
    """A training with these validation accuracies; without one it has no validation split."""
    epochs = tuple(
        EpochRecord(
            epoch=number,
            train_loss=2.0 / number,
            val_loss=None if accuracy is None else 1 - accuracy,
            val_accuracy=accuracy,
            val_balanced_accuracy=accuracy,
            seconds=3.0,
        )
        for number, accuracy in enumerate(accuracies, start=1)
    )
    best = max(epochs, key=lambda row: row.val_accuracy or 0.0)
    return TrainingRecord(
        val_accuracy=best.val_accuracy,
        val_balanced_accuracy=best.val_balanced_accuracy,
        val_loss=best.val_loss,
        best_epoch=best.epoch,
        seconds=3.0 * len(epochs),
        epochs=epochs,
    )


def trial(
    number: int,
    value: float | None = None,
    *,
    depth: int = 1,
    status: str = "",
    flops: int | None = 100,
    **more: Any,
) -> Trial:
    """A trial with this accuracy; one without a value failed, if no other status is given."""
    known = {
        "config": {},
        "val_accuracy": value,
        "val_balanced_accuracy": value,
        "reason": "no room" if value is None else None,
    }
    return Trial(
        trial=number,
        depth=depth,
        status=status or ("failed" if value is None else "ok"),
        value=value,
        flops=flops,
        **{**known, **more},
    )


def iteration(
    number: int, val_accuracy: float, *, flops: int = 100, inside: bool = True, **more: Any
) -> Iteration:
    """An iteration that removed nothing, but for the changes."""
    known: dict[str, Any] = {
        "start": 0,
        "step": 1.0,
        "state": f"iteration-{number:03d}",
        "landed": None,
        "val_balanced_accuracy": val_accuracy,
        "val_loss": 0.5,
        "params": 20,
        "size_bytes": 80,
        "removed": {},
        "pending": {},
        "seconds": 9.0,
    }
    return Iteration(
        iteration=number, val_accuracy=val_accuracy, flops=flops, inside=inside, **{**known, **more}
    )


def widths(layer: str, before: int | None, after: int | None) -> LayerWidths:
    """Widths of a layer."""
    return LayerWidths(
        layer=layer,
        kind="conv",
        before=before,
        after=after,
        params_before=None,
        params_after=None,
        flops_before=None,
        flops_after=None,
    )


def depth(number: int, block: int, name: str, val_accuracy: float, **more: Any) -> FreezingDepth:
    """A trial of algorithm layerwise."""
    known: dict[str, Any] = {
        "first_trained": number,
        "trainable_params": 10_000,
        "val_balanced_accuracy": val_accuracy,
        "seconds": 2.0,
    }
    return FreezingDepth(trial=number, block=block, name=name, val_accuracy=val_accuracy, **{**known, **more})


def front_point(number: int, val_accuracy: float, *, params: int, flops: int) -> FrontPoint:
    """A trial of the front."""
    return FrontPoint(trial=number, value=val_accuracy, val_accuracy=val_accuracy, params=params, flops=flops)


def insight(**changes: Any) -> Insight:
    """A surrogate that explains half."""
    known = Insight(
        target="val_accuracy",
        sentence="It explains half.",
        learnt=True,
        rmse=0.0125,
        deviation=0.025,
        r2=0.75,
        rank_correlation=0.8,
        refitted_r2=0.5,
        refitted_rank_correlation=0.61,
        predictions=(
            Prediction(trial=0, observed=0.5, predicted=0.55, deviation=0.02),
            Prediction(trial=1, observed=0.7, predicted=0.6, deviation=0.1),
        ),
        importance=(
            Importance(choice="a.width", rise=0.011, lengthscale=0.25),
            Importance(choice="a.activation", rise=-0.001, lengthscale=2.0),
        ),
    )
    return replace(known, **changes)


def _group(name: str, width: int, *accuracies: float) -> GroupSensitivity:
    shares = zip((0.1, 0.25, 0.5), accuracies, strict=True)
    return GroupSensitivity(
        group=name,
        width=width,
        shares=tuple(
            GroupShare(share=s, val_accuracy=accuracy, val_balanced_accuracy=accuracy / 2, flops_saved=s / 10)
            for s, accuracy in shares
        ),
    )


SENSITIVITY = Sensitivity(
    samples=256,
    val_accuracy=0.8,
    val_balanced_accuracy=0.4,
    groups=(_group("g1", 64, 0.79, 0.75, 0.6), _group("g2", 32, 0.7, 0.72, 0.75)),
)
