"""Records by hand: the fields that a test is about, and the rest filled in."""

from dataclasses import replace
from typing import Any

from tascnet.run.records import (
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
    SampleCounts,
    Sensitivity,
    Trial,
    TuneMetrics,
)

MACHINE = Machine(device="cpu", name="Chip", cpu="Chip", threads=2, torch="2")
SAMPLES = SampleCounts(
    classes=102, train=2040, val=1020, test=5129, skipped=3, origin="the garden", licence="CC BY 4.0"
)


def model(**changes: Any) -> ModelMetrics:
    """A network of round figures, but for the changes."""
    plain = ModelMetrics(
        val_accuracy=0.8,
        test_accuracy=0.75,
        params=1000,
        trainable_params=10,
        flops=4000,
        flops_counted="all",
        size_bytes=5000,
        latency_ms=2.0,
        latency_ms_spread=(1.9, 2.2),
        latency_ms_batch=10.0,
        latency_ms_batch_spread=(9.0, 11.0),
        batch=16,
        threads=2,
        device="cpu",
    )
    return replace(plain, **changes)


_STAGE: dict[str, Any] = {
    "dataset": "digits",
    "samples": SAMPLES,
    "backbone": "cnn",
    "machine": MACHINE,
    "measure": {"batch": 16, "repeats": 30},
    "budget": {},
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
    }
    return PruneMetrics(**{"models": {"before": model(), "after": model()}, **_STAGE, **own, **changes})


def pretrain_metrics(**changes: Any) -> PretrainMetrics:
    """Metrics of a training without epochs."""
    own = {"weights": "weights.safetensors", "exclude": None, "excluded": 0, "best_epoch": 1, "epochs": ()}
    return PretrainMetrics(**{"models": {"after": model()}, **_STAGE, **own, **changes})


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
    known = {"config": {}, "val_accuracy": value, "reason": "no room" if value is None else None}
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
    known = {"first_trained": number, "trainable_params": 10_000, "seconds": 2.0}
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
            GroupShare(share=s, val_accuracy=accuracy, flops_saved=s / 10) for s, accuracy in shares
        ),
    )


SENSITIVITY = Sensitivity(
    samples=256,
    val_accuracy=0.8,
    groups=(_group("g1", 64, 0.79, 0.75, 0.6), _group("g2", 32, 0.7, 0.72, 0.75)),
)
