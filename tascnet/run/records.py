"""The typed records of a run, and how they are written as JSON and read back.

Accuracies are fractions in [0, 1], `flops` are those of one sample, sizes bytes, latencies milliseconds.
"""

import json
import logging
import math
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from tascnet.errors import DamagedFile, listed
from tascnet.run.files import (
    append_jsonl,
    check_digest,
    digest_json,
    read_checked,
    read_jsonl,
    unreadable,
    write_checked,
    write_jsonl,
)

log = logging.getLogger("tascnet")

# The version of records; other ones are refused. Metrics have their own (`StageMetrics.schema`), so that
# finished trainings outlive a change of what is reported about them.
SCHEMA = 4

Record = TypeVar("Record")
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One epoch of a training.

    Args:
        epoch: its number, from 1; 0: before the first one.
        train_loss: mean over its steps; None before the first epoch.
        val_loss, val_accuracy: after it; None where there is no validation split.
        val_balanced_accuracy: mean recall of the classes; None where there is no validation split.
        seconds: time it took.
    """

    epoch: int
    train_loss: float | None
    val_loss: float | None
    val_accuracy: float | None
    val_balanced_accuracy: float | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """A training: its best epoch, whose weights are kept, and all epochs.

    Args:
        val_accuracy, val_balanced_accuracy, val_loss: of the best epoch; None where there is no validation
            split.
        best_epoch: its number; 0: the weights of before the training were kept.
        seconds: of all epochs, and of what was evaluated or tried before them.
        epochs: all of them.
        before: the network before the first epoch; None where there is no validation split.
        lr: the peak learning rate.
        cut_short: whether the seconds of its stage were used up before its last epoch.
    """

    val_accuracy: float | None
    val_balanced_accuracy: float | None
    val_loss: float | None
    best_epoch: int
    seconds: float
    epochs: tuple[EpochRecord, ...]
    before: EpochRecord | None = None
    lr: float | None = None
    cut_short: bool = False


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """`record.json` of a step: how its network was made.

    Args:
        seconds: of the step, its trainings included.
        training: of the network, where it was trained.
        head: training of its new head, where that was trained first.
        first_trained: index of the first trained block.
        frozen: layers from that block on that were frozen.
        val_accuracy_after_cut, val_balanced_accuracy_after_cut: in pruning, before retraining.
        pairs_similarity_before: mean similarity of pairs before they are pulled together.
        pairs_similarity_after: mean similarity of pairs afterwards.
        block: name of the block that was removed in place of filters.
        files: digests of the other files of the step but for the weights, by name.
    """

    seconds: float
    training: TrainingRecord | None = None
    head: TrainingRecord | None = None
    first_trained: int = 0
    frozen: tuple[str, ...] = ()
    val_accuracy_after_cut: float | None = None
    val_balanced_accuracy_after_cut: float | None = None
    pairs_similarity_before: float | None = None
    pairs_similarity_after: float | None = None
    block: str | None = None
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ClassMetrics:
    """How well one class is recognised, on the test samples.

    Args:
        name: of the class.
        samples: test samples of the class.
        recall: share of them that are recognised; 0 where there are none.
        precision: share of the samples so named that are of the class; 0 where none is so named.
        f1: harmonic mean of both; 0 where one is 0.
    """

    name: str
    samples: int
    recall: float
    precision: float
    f1: float

    @property
    def is_lost(self) -> bool:
        """Whether the class has test samples, and none of them is recognised."""
        return self.samples > 0 and self.recall == 0


# The runtimes of exported files that keep the network's outputs, and the one that does not quite.
DEPLOYED, INT8 = ("onnxruntime", "openvino"), "onnxruntime_int8"


@dataclass(frozen=True, kw_only=True)
class RuntimeLatency:
    """How long one runtime takes with one number of threads.

    Args:
        runtime: `eager`, `onnxruntime`, `onnxruntime_int8`, `compile` or `openvino`.
        threads: CPU threads.
        device: such as `cpu` or `cuda:0`.
        latency_ms: median for one sample.
        latency_ms_batch: median for `batch` samples.
        latency_ms_spread, latency_ms_batch_spread: 10th and 90th percentile.
    """

    runtime: str
    threads: int
    device: str
    latency_ms: float
    latency_ms_spread: tuple[float, float]
    latency_ms_batch: float
    latency_ms_batch_spread: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class ModelMetrics:
    """A network's accuracy and cost.

    Args:
        val_accuracy, test_accuracy: on the samples of that split.
        val_balanced_accuracy, test_balanced_accuracy: mean recall of the classes that the split has.
        test_top5_accuracy: share of test samples whose class is among the five likeliest; None below ten
            classes.
        classes: one row a class, on the test samples.
        confusion: index of the true class, index of the predicted one and number of test samples, for each
            pair that occurs.
        predictions: index of the predicted class of each test sample, in the order of the split.
        params: parameters of the whole network.
        trainable_params: parameters that were trained last.
        flops: of one sample.
        flops_counted: which operations fvcore counts, and which it does not.
        size_bytes: of its files.
        batch: samples of a batch.
        threads: CPU threads of the run.
        latencies: in each runtime that was measured, with `threads` and, where that is not one, with one
            thread.
    """

    val_accuracy: float
    test_accuracy: float
    val_balanced_accuracy: float
    test_balanced_accuracy: float
    test_top5_accuracy: float | None
    classes: tuple[ClassMetrics, ...]
    confusion: tuple[tuple[int, int, int], ...]
    predictions: tuple[int, ...]
    params: int
    trainable_params: int
    flops: int
    flops_counted: str
    size_bytes: int
    batch: int
    threads: int
    latencies: tuple[RuntimeLatency, ...]

    def latency(self, runtime: str, threads: int | None = None) -> RuntimeLatency | None:
        """Of one runtime with some threads (None: those of the run); None where it was not measured."""
        threads = self.threads if threads is None else threads
        return next((one for one in self.latencies if (one.runtime, one.threads) == (runtime, threads)), None)

    @property
    def eager(self) -> RuntimeLatency:
        """Of eager PyTorch with the threads of the run."""
        found = self.latency("eager")
        assert found is not None, "eager PyTorch is always measured"
        return found

    @property
    def deployed(self) -> RuntimeLatency | None:
        """Of the runtime of exported files that is fastest for one sample; None where none was measured.

        int8 changes the outputs, and with them the accuracy that stands beside its latency: it counts for an
        int8 file alone, which runs nowhere else.
        """
        is_int8 = {one.runtime for one in self.latencies} == {INT8}
        found = [self.latency(runtime) for runtime in ((INT8,) if is_int8 else DEPLOYED)]
        return min((one for one in found if one), key=lambda one: one.latency_ms, default=None)

    @property
    def latency_ms(self) -> float:
        """Of one sample in eager PyTorch."""
        return self.eager.latency_ms

    @property
    def latency_ms_batch(self) -> float:
        """Of `batch` samples in eager PyTorch."""
        return self.eager.latency_ms_batch

    @property
    def deployed_ms(self) -> float | None:
        """Of one sample in the fastest runtime of exported files."""
        return None if self.deployed is None else self.deployed.latency_ms


@dataclass(frozen=True, kw_only=True)
class ClassCounts:
    """Samples of one class.

    Args:
        name: of the class.
        train, val, test: its samples in the split.
    """

    name: str
    train: int
    val: int
    test: int


@dataclass(frozen=True, kw_only=True)
class SampleCounts:
    """How many samples there are, where they come from, and under which licence.

    Args:
        classes: number of classes.
        train, val, test: samples of the split.
        skipped: unreadable files that were left out.
        origin: who publishes the data set; empty where that is not known.
        licence: of the data set; empty where that is not known.
        by_class: samples of each class.
        majority_accuracy: test accuracy of always naming the class with most training samples.
        copies: samples that are equal to an earlier one.
        leaked: validation and test samples with a copy in another part of the split.
        near_duplicates: validation and test samples that look like a training sample; None: not counted.
        passed_over: files of no known image format, by ending.
    """

    classes: int
    train: int
    val: int
    test: int
    skipped: int
    origin: str
    licence: str
    by_class: tuple[ClassCounts, ...]
    majority_accuracy: float
    copies: int
    leaked: int
    near_duplicates: int | None
    passed_over: dict[str, int]

    @property
    def largest_class(self) -> ClassCounts:
        """The class with most training samples."""
        return max(self.by_class, key=lambda row: row.train)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The device that latencies were measured on.

    Args:
        device: such as `cpu` or `cuda:0`.
        name: of the accelerator, or else of the processor.
        cpu: name of the processor.
        threads: CPU threads.
        torch: version of torch.
    """

    device: str
    name: str
    cpu: str
    threads: int
    torch: str


@dataclass(frozen=True, kw_only=True)
class StageMetrics:
    """What `metrics.json` of every stage holds.

    Args:
        models: by name.
        trainings: of the models that were trained, and of their heads, by a name that says which.
        dataset: name of the data set.
        samples: their numbers and origin.
        backbone: name of the network.
        machine: that latencies were measured on.
        measure: options by which latencies were measured.
        budget: options that may be changed when the stage is resumed, as they were.
        metric: what decided which epoch, trial or network is the best.
        class_weights: how much the classes weighed in training: `none` or `balanced`.
        seconds: of all work of the stage, in all its processes.
        seed: of the run.
        versions: of Python and of the packages that can change a number.
    """

    schema: ClassVar[int] = 5

    models: dict[str, ModelMetrics]
    trainings: dict[str, TrainingRecord]
    dataset: str
    samples: SampleCounts
    backbone: str
    machine: Machine
    measure: dict[str, Any]
    budget: dict[str, Any]
    metric: str
    class_weights: str
    seconds: float
    seed: int
    versions: dict[str, str]

    @property
    def blind_score(self) -> float:
        """The metric on the test samples of a network that always names the largest class."""
        if self.metric == "accuracy":
            return self.samples.majority_accuracy
        return 1 / max(1, sum(row.test > 0 for row in self.samples.by_class))


# How a trial ends.
STATUSES = ("ok", "failed", "stopped", "infeasible", "lost")


# Why a trial was trained for fewer epochs.
NO_SECONDS = "the seconds of the search (`max_seconds`) were used up"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial of a search: a line of `trials.jsonl`.

    Args:
        trial: its number.
        depth: the depth at which it was proposed.
        config: its configuration, canonical.
        status: `ok`; `stopped` early, which the surrogate learns from and which never wins; `infeasible`,
            with a latency above the bound and so not trained; `failed` by itself; or `lost` by the cluster,
            which nothing is learnt from. The last three have a reason and no value.
        value: what it is judged by, larger is better; of a stopped trial its best so far.
        reason: why it is not `ok`, or was trained for fewer epochs.
        val_accuracy: of the best epoch (the one of the lowest loss where that is the objective), in [0, 1].
        val_balanced_accuracy: of the same epoch; mean recall of the classes.
        val_loss: of the same epoch.
        curve: validation accuracy after each epoch, or balanced accuracy where that is the metric.
        params: parameters of the whole network.
        flops: FLOPs of one sample.
        latency_ms: before training, where it is bounded: measured in eager PyTorch, predicted in other
            runtimes.
        seconds: time it took.
        epochs: epochs trained.
        surrogate: hyperparameters of the surrogate that proposed it.
        worker: the process that trained it: host and process number.
        started: when it began there, in seconds since 1970.
        ended: when it ended.

    Raises:
        ValueError: the fields contradict the status.
    """

    trial: int
    depth: int
    config: dict[str, Any]
    status: str
    value: float | None = None
    reason: str | None = None
    val_accuracy: float | None = None
    val_balanced_accuracy: float | None = None
    val_loss: float | None = None
    curve: tuple[float, ...] | None = None
    params: int | None = None
    flops: int | None = None
    latency_ms: float | None = None
    seconds: float = 0.0
    epochs: int | None = None
    surrogate: dict[str, Any] | None = None
    worker: str | None = None
    started: float | None = None
    ended: float | None = None

    def __post_init__(self) -> None:
        is_without = self.status in ("failed", "infeasible", "lost")
        expected = f"a reason and no value, because it is {self.status}" if is_without else "a finite number"
        rules = [(self.status in STATUSES, f"the status {self.status!r}", f"one of {listed(STATUSES)}")]
        for name in ("value", "val_accuracy"):
            value = getattr(self, name)
            fits = value is None if is_without else value is not None and math.isfinite(value)
            rules.append((fits, f"{name} {value!r}", expected))
        is_measured = self.status != "infeasible" or self.latency_ms is not None
        rules.append((is_measured, "no latency_ms", "the one that makes it infeasible"))
        rules.append((not is_without or bool(self.reason), "no reason", f"one, because it is {self.status}"))
        for fits, has, expected in rules:
            if not fits:
                raise ValueError(f"trial {self.trial} has {has}, expected {expected}")

    @property
    def is_trained(self) -> bool:
        """Whether it has a value."""
        return self.value is not None


@dataclass(frozen=True, kw_only=True)
class FrontPoint:
    """A trial that no other one matches or beats in value and cost.

    Args:
        trial: its number.
        value: what it is judged by.
        val_accuracy: of its best epoch.
        params: of the whole network.
        flops: of one sample.
    """

    trial: int
    value: float
    val_accuracy: float
    params: int
    flops: int


@dataclass(frozen=True, kw_only=True)
class FreezingDepth:
    """A trial of the pre-trained network, trained from one block on.

    Args:
        trial: its number.
        first_trained: unit from which it was trained, counted from the output.
        block: index of the first trained block.
        name: of that block.
        trainable_params: parameters that were trained.
        val_accuracy, val_balanced_accuracy: of its best epoch.
        seconds: time it took.
    """

    trial: int
    first_trained: int
    block: int
    name: str
    trainable_params: int
    val_accuracy: float
    val_balanced_accuracy: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the surrogate predicts for a trial from all others, in the unit of the insight's target.

    Args:
        trial: its number.
        observed: its result.
        predicted: mean of the leave-one-out distribution.
        deviation: standard deviation of that distribution, noise included.
    """

    trial: int
    observed: float
    predicted: float
    deviation: float


@dataclass(frozen=True, kw_only=True)
class Importance:
    """How much the predictions depend on a choice.

    Args:
        choice: its name.
        rise: of the leave-one-out error when the choice's columns are taken out of the kernel, in the unit of
            the insight's target; below 0 where predictions are better without it.
        lengthscale: of its columns, which lie in [0, 1].
    """

    choice: str
    rise: float
    lengthscale: float


@dataclass(frozen=True, kw_only=True)
class Insight:
    """How well the surrogate predicts, and from which choices.

    Args:
        target: what is predicted: `val_accuracy` or `val_balanced_accuracy`, or `val_loss` where that is the
            objective.
        predictions: leave-one-out, one for each trial that succeeded.
        rmse: root of the mean squared leave-one-out error.
        deviation: standard deviation of the results (over n).
        r2: leave-one-out, `1 - rmse² / deviation²`; 0 or less: no better than the mean.
        rank_correlation: Spearman's, of leave-one-out predictions and results; None where undefined.
        refitted_r2, refitted_rank_correlation: of predictions for each fifth of the trials by a surrogate
            fitted to the other trials.
        learnt: whether refitted predictions beat the mean and rank better than chance (5 %, one-sided).
        sentence: the same in words.
        importance: of every choice that varied, the largest rise first.
    """

    target: str
    predictions: tuple[Prediction, ...]
    rmse: float
    deviation: float
    r2: float
    rank_correlation: float | None
    refitted_r2: float
    refitted_rank_correlation: float | None
    learnt: bool
    sentence: str
    importance: tuple[Importance, ...]


@dataclass(frozen=True, kw_only=True)
class UncutLayers:
    """Layers with filters that cannot be removed, for one reason.

    Args:
        reason: a short phrase, such as "feeds the output".
        layers: their names.
        params, flops: share of the network's that these layers have.
    """

    reason: str
    layers: tuple[str, ...]
    params: float
    flops: float


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How far the removal of filters can go in a network.

    Args:
        params_left, flops_left: share of the network's that is left where every group of coupled layers that
            may be cut has one bundle of filters.
        inexact: names of those groups whose channels share statistics, as those behind a layer normalisation.
        uncut: the layers that keep their width.
    """

    params_left: float
    flops_left: float
    inexact: tuple[str, ...]
    uncut: tuple[UncutLayers, ...]


@dataclass(frozen=True, kw_only=True)
class RivalRecord:
    """A network that was fine-tuned conventionally for comparison with the tuned one.

    Args:
        row: its name among the models.
        key: digest of its name, size and weights.
        size: side of its images, in pixels.
        weights: the weights that it started from.
        licence: of those weights.
        seconds: of its training.
    """

    row: str
    key: str
    size: int
    weights: str
    licence: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class CandidateRecord:
    """A network that stage tune may hand over, judged on the validation samples.

    Args:
        name: `baseline`, `conventional`, `winner` (the trial as the search trained it), `best trial` where
            that is another one, or `tuned` (the fine-tuned winner).
        val_accuracy, val_balanced_accuracy: of the training that made it.
        params: of the whole network.
        flops: of one sample.
        fits: whether it may be handed over: it keeps the targets, and is what `pick` and `fallback` ask for.
        note: how it was made, where that is not the usual way.
    """

    name: str
    val_accuracy: float
    val_balanced_accuracy: float | None
    params: int
    flops: int
    fits: bool = True
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class EndPoint:
    """The pre-trained network ended before one of its units, with a new head alone trained.

    Args:
        exit: number of units removed from the end; 0: none, the baseline.
        block: index in the chain of the first removed block.
        params: of the whole network, its head included.
        flops: of one sample.
        val_accuracy, val_balanced_accuracy: on the validation samples.
    """

    exit: int
    block: int
    params: int
    flops: int
    val_accuracy: float | None
    val_balanced_accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class TuneMetrics(StageMetrics):
    """`metrics.json` of stage tune: the models `baseline`, `conventional`, rivals and `after`.

    Args:
        best_config: configuration of the winner.
        neutral_config: the pre-trained settings, trained from the same unit.
        winner: number of the winning trial.
        finetuned_from: where its fine-tuning began: `conventional`, `prefix` or `all`.
        candidates: networks that could be handed over.
        handed_over: name of the one that was, the model `after`.
        ends: where the network may end, with a new head alone; none where that is not searched.
        first_searched_block: index of the first block that the winner's search could change.
        stopped: why the search ended.
        archives: folders of `baseline`, `conventional` and rivals, below that of the search.
        trials: how many there were.
        objective: what trials were judged by.
        bounds: largest `flops`, `params` and `latency_ms`, where there are any.
        layerwise: one row for each freezing depth, with algorithm layerwise.
        front: with a pareto objective.
        surrogate: what the surrogate learnt; None where there were too few different results.
        reach: of the widths that the space `tascnet` searches; None for other spaces.
        rivals: in the order of their rows.
        widths: one row a layer, from the conventional network to the tuned one.
    """

    best_config: dict[str, Any]
    neutral_config: dict[str, Any]
    winner: int
    finetuned_from: str
    first_searched_block: int
    stopped: str
    archives: dict[str, str]
    trials: int
    objective: str
    bounds: dict[str, float]
    layerwise: tuple[FreezingDepth, ...] = ()
    front: tuple[FrontPoint, ...] = ()
    surrogate: Insight | None = None
    reach: Reach | None = None
    rivals: tuple[RivalRecord, ...] = ()
    widths: tuple["LayerWidths", ...] = ()
    candidates: tuple[CandidateRecord, ...] = ()
    handed_over: str = "tuned"
    ends: tuple[EndPoint, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LayerWidths:
    """Width, params and FLOPs of a layer before and after a stage; None where the layer does not exist.

    Args:
        layer: its name.
        kind: its class.
        before, after: output channels or features.
        params_before, params_after: its own parameters.
        flops_before, flops_after: of one sample.
    """

    layer: str
    kind: str | None
    before: int | None
    after: int | None
    params_before: int | None
    params_after: int | None
    flops_before: int | None
    flops_after: int | None


@dataclass(frozen=True, kw_only=True)
class GroupShare:
    """Validation accuracy without a share of one group.

    Args:
        share: of the group's filters that was removed.
        val_accuracy, val_balanced_accuracy: without them, nothing retrained.
        flops_saved: share of the network's FLOPs.
    """

    share: float
    val_accuracy: float
    val_balanced_accuracy: float
    flops_saved: float


@dataclass(frozen=True, kw_only=True)
class GroupSensitivity:
    """How accuracy falls without parts of one group of layers.

    Args:
        group: name of its first layer.
        width: filters of the group.
        shares: what was tried.
    """

    group: str
    width: int
    shares: tuple[GroupShare, ...]


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """`sensitivity.json`: accuracy without parts of each group.

    Args:
        samples: validation samples that it was measured on.
        val_accuracy, val_balanced_accuracy: of the whole network on them.
        groups: in the order of the network.
    """

    samples: int
    val_accuracy: float
    val_balanced_accuracy: float
    groups: tuple[GroupSensitivity, ...]


@dataclass(frozen=True, kw_only=True)
class PruneMetrics(StageMetrics):
    """`metrics.json` of stage prune: the models `before` and `after`.

    Args:
        iterations: how many there were.
        kept_iteration: the one whose network is the result.
        stopped: why pruning ended.
        removable_blocks: residual blocks that the option `blocks` could still remove.
        tolerance: largest fall of the metric on the validation samples.
        widths: one row a layer.
        reach: of the unpruned network.
        sensitivity: where the option `sensitivity` is set.
    """

    iterations: int
    kept_iteration: int
    stopped: str
    removable_blocks: int
    tolerance: float
    widths: tuple[LayerWidths, ...]
    reach: Reach
    sensitivity: Sensitivity | None = None


@dataclass(frozen=True, kw_only=True)
class PretrainMetrics(StageMetrics):
    """`metrics.json` of stage pretrain: the model `after`.

    Args:
        weights: name of the weight file in the folder.
        exclude: the file whose validation and test samples were excluded.
        excluded: how many samples were excluded.
        best_epoch: whose weights were kept.
        epochs: all of them.
    """

    weights: str
    exclude: str | None
    excluded: int
    best_epoch: int
    epochs: tuple[EpochRecord, ...]


@dataclass(frozen=True, kw_only=True)
class ExportedFile:
    """One file that runs without tascnet, and how it was checked.

    Args:
        format: `onnx`, `onnx_int8`, `onnx_fp16`, `pt2`, `openvino` or `executorch`.
        path: its name in the folder of the export.
        size_bytes: of it, and of what belongs to it.
        preprocess: `inside`: it takes upright RGB pixels; `outside`: what the model's preprocessing returns.
        samples: how many samples it was compared on with the network.
        equal_classes: share of them with the same class.
        largest_difference: of any output from the network's; None where it was judged by accuracy.
        val_accuracy, val_balanced_accuracy: on the validation samples; None where it had no labelled data.
        float_val_accuracy, float_val_balanced_accuracy: of the network itself.
        calibration: method that set the ranges of int8; None for other formats.
        float_layers: layers that int8 left in float.
        checked_on: processor and instruction set that it was checked on.
        seconds: that it took.
        digest: of its content.
        made_from: digest of all that can change it: weights, samples and options.
    """

    format: str
    path: str
    size_bytes: int
    preprocess: str
    samples: int
    equal_classes: float
    largest_difference: float | None
    val_accuracy: float | None = None
    val_balanced_accuracy: float | None = None
    float_val_accuracy: float | None = None
    float_val_balanced_accuracy: float | None = None
    calibration: str | None = None
    float_layers: tuple[str, ...] = ()
    checked_on: str = ""
    seconds: float = 0.0
    digest: str = ""
    made_from: str = ""


@dataclass(frozen=True, kw_only=True)
class ExportMetrics:
    """`metrics.json` of an export.

    Args:
        weights_digest: of its weights.
        files: the exported ones.
        machine: that they were checked on.
        seconds: of all of them.
        versions: of Python and of the packages that can change a number.
    """

    weights_digest: str
    files: tuple[ExportedFile, ...]
    machine: Machine
    seconds: float
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Classified:
    """What a network makes of one image or text.

    Args:
        sample: path of the image, the text, or which sample it is where it has no path.
        class_name: the likeliest class; None where the sample cannot be read.
        probability: of it, in [0, 1].
        others: the next likely classes and their probabilities.
        unreadable: why it cannot be read; None where it can.
    """

    sample: str
    class_name: str | None = None
    probability: float | None = None
    others: tuple[tuple[str, float], ...] = ()
    unreadable: str | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluateMetrics:
    """`metrics.json` of an evaluation; accuracies are in [0, 1], of the samples whose class the model has.

    Args:
        model: path of the evaluated model; empty for a network in memory.
        dataset: name of the data set.
        origin: who published the samples and where, or their folder.
        split: `train`, `val`, `test` or `all`.
        seed: of the splits.
        samples: how many were evaluated.
        loss: mean cross-entropy.
        accuracy: share of correct predictions.
        balanced_accuracy: mean recall of the classes that have samples.
        top5_accuracy: share of samples whose class is among the five likeliest; None below ten classes.
        calibration_error: expected calibration error: by how much the probability of the likeliest class
            misses the share of correct predictions, averaged over 15 bins.
        mean_probability: of the likeliest class.
        classes: one row a class of the model.
        confusion: index of the true class, index of the predicted one and number of samples, for each pair
            that occurs; indices are those of `classes`.
        only_in_model: classes of the model that the data set lacks.
        only_in_data: classes of the data set that the model lacks, and how many samples each has; these are
            in no other figure.
        skipped: files that could not be read and were left out.
        machine: that it ran on.
        seconds: that it took.
        versions: of Python and of the packages that can change a number.
    """

    model: str
    dataset: str
    origin: str
    split: str
    seed: int
    samples: int
    loss: float
    accuracy: float
    balanced_accuracy: float
    top5_accuracy: float | None
    calibration_error: float
    mean_probability: float
    classes: tuple[ClassMetrics, ...]
    confusion: tuple[tuple[int, int, int], ...]
    only_in_model: tuple[str, ...]
    only_in_data: dict[str, int]
    skipped: int
    machine: Machine
    seconds: float
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Iteration:
    """One iteration of pruning: a line of `iterations.jsonl`. Number 0 is the unpruned network.

    Args:
        iteration: its number.
        start: the iteration whose network it prunes.
        step: share of the pruning ratio that it asked for.
        state: folder of its network, below `state/`.
        landed: targets that its cut was fitted to, by cost; None where it was fitted to none.
        val_accuracy, val_balanced_accuracy, val_loss: after retraining.
        params, flops, size_bytes: of the pruned network.
        val_accuracy_after_cut, val_balanced_accuracy_after_cut: before retraining.
        val_accuracy_first, val_balanced_accuracy_first: after the first retraining, where that left it below
            the tolerance and it was retrained once more.
        pairs_similarity_before: mean similarity of pairs before they are pulled together.
        pairs_similarity_after: mean similarity of pairs afterwards.
        block: name of the block that was removed in place of filters.
        latency_ms: for one sample, where a target asks for it; in runtimes other than eager PyTorch it may be
            predicted, but what reaches the target is measured.
        inside: whether it keeps the tolerance.
        removed: filters removed, by group.
        pending: filters whose removal waits for a later iteration, by group.
        seconds: time it took.
    """

    iteration: int
    start: int
    step: float
    state: str
    landed: dict[str, float | None] | None
    val_accuracy: float
    val_balanced_accuracy: float
    val_loss: float
    params: int
    flops: int
    size_bytes: int
    inside: bool
    removed: dict[str, int]
    pending: dict[str, int]
    seconds: float
    val_accuracy_after_cut: float | None = None
    val_balanced_accuracy_after_cut: float | None = None
    val_accuracy_first: float | None = None
    val_balanced_accuracy_first: float | None = None
    pairs_similarity_before: float | None = None
    pairs_similarity_after: float | None = None
    block: str | None = None
    latency_ms: float | None = None


def score(record: Any, metric: str) -> float | None:
    """The metric of a record on the validation samples, larger is better; None where it has none."""
    return cast(float | None, getattr(record, f"val_{metric}"))


def reaches(value: float, least: float) -> bool:
    """Whether a metric is at least another one, which may be the difference of two.

    Metrics are fractions of a split: a difference of exactly the tolerance counts.
    """
    return value >= least - 1e-9


def to_json(record: Any) -> Any:
    """A record as JSON content."""
    if is_dataclass(record):
        return {entry.name: to_json(getattr(record, entry.name)) for entry in fields(record)}
    if isinstance(record, Mapping):
        return {str(key): to_json(value) for key, value in record.items()}
    if isinstance(record, list | tuple):
        return [to_json(item) for item in record]
    return record


def from_json(cls: type[Record], content: Any) -> Record:
    """The record that `to_json` gave.

    Raises:
        ValueError: a field is missing, unknown or has the wrong type; the message names it.
    """
    return cast(Record, _decode(cls, content, cls.__name__))


def schema_of(cls: type[Any]) -> int:
    """The version in which records of a class are written."""
    return int(getattr(cls, "schema", SCHEMA))


def write_record(path: Path, record: Any) -> None:
    """Write a record with the schema's version and a digest, whole or not at all."""
    write_checked(path, {"schema": schema_of(type(record)), **to_json(record)})


def read_record(path: Path, cls: type[Record], *, schema: int | None = None) -> Record:
    """The record in a file.

    Args:
        path: of the file.
        cls: of the record.
        schema: the version that is expected; None: that of the class.

    Raises:
        DamagedFile: the file is not what was written, or of another version.
        RunFolderError: the file is missing, no regular file, or may not be read.
    """
    try:
        content = read_checked(path)
        expected = schema_of(cls) if schema is None else schema
        if (found := content.pop("schema", None)) != expected:
            raise ValueError(f"its schema is {found!r}, expected {expected}")
        return from_json(cls, content)
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:
        raise DamagedFile(
            f"{path} cannot be read ({error})", "restore it, or start the stage over with `fresh=true`"
        ) from error


def made_once(path: Path, cls: type[Record], make: Callable[[], Record]) -> Record:
    """The record in a file, which is made and written where it is missing or damaged.

    Raises:
        RunFolderError: the file is no regular file, or may not be read.
    """
    if path.exists():
        try:
            return read_record(path, cls)
        except DamagedFile as error:
            log.warning("%s: it is made again", error.message)
    write_record(path, make())
    return read_record(path, cls)


def measured_once(path: Path, measure: Callable[[], dict[str, Value]]) -> dict[str, Value]:
    """What was measured and is kept in a file; measured where there is no file.

    Another measurement would differ and could change what was decided by the first one.

    Raises:
        RunFolderError: the file is not what was written, no regular file, or may not be read.
    """
    if not path.exists():
        write_record(path, measure())
    try:
        return read_record(path, dict[str, Any])
    except DamagedFile as error:
        raise DamagedFile(
            error.message,
            "restore it, start the stage over with `fresh=true`, or delete it: it is measured again, and "
            "later decisions may differ",
        ) from error


def append_record(path: Path, record: Any) -> None:
    """Append a record to a journal and fsync it; a torn last line is cut off first."""
    append_jsonl(path, _with_check(record))


def write_records(path: Path, records: Iterable[Any]) -> None:
    """Replace a journal by these records, whole or not at all."""
    write_jsonl(path, map(_with_check, records))


def read_trials(path: Path) -> list[Trial]:
    """The trials of a journal, by number: its lines are in the order in which they ended."""
    return sorted(read_records(path, Trial, ordered=False), key=lambda trial: trial.trial)


def read_records(path: Path, cls: type[Record], *, ordered: bool = True) -> list[Record]:
    """The records of a journal; a torn last line is ignored, a missing file has none.

    Their first field is their number: each occurs once, and where they are `ordered` they count from 0.

    Raises:
        RunFolderError: a line is no such record, was changed after it was written, or is not in its place; or
            the file may not be read.
    """
    number = fields(cast(Any, cls))[0].name
    places, known = count(), set[int]()

    def decode(row: dict[str, Any]) -> Record:
        check_digest(row, row.pop("check", None))
        record = from_json(cls, row)
        found, expected = getattr(record, number), next(places)
        if ordered and found != expected:
            raise ValueError(f"it is {number} {found}, expected {number} {expected}")
        if found in known:
            raise ValueError(f"it is {number} {found}, which is there already")
        known.add(found)
        return record

    return read_jsonl(path, decode)


def _with_check(record: Any) -> dict[str, Any]:
    content = to_json(record)
    return {**content, "check": digest_json(content)}


def _decode(kind: Any, value: Any, name: str) -> Any:
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _decode_fields(cast(type[Any], kind), value, name)
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        return _decode(next(item for item in inner if item is not type(None)), value, name)
    if origin is tuple:
        kinds = inner
        if isinstance(value, list) and inner[-1] is Ellipsis:
            kinds = (inner[0],) * len(value)
        if not isinstance(value, list) or len(value) != len(kinds):
            raise _unexpected(name, value, "a list" if inner[-1] is Ellipsis else f"a list of {len(inner)}")
        return tuple(_decode(kind, item, name) for kind, item in zip(kinds, value, strict=True))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _unexpected(name, value, "an object")
        return {key: _decode(inner[1], item, f"{name}.{key}") for key, item in value.items()}
    wanted = (int, float) if kind is float else kind
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
        raise _unexpected(name, value, kind.__name__)
    if kind is float:
        try:
            return float(value)
        except OverflowError:
            raise _unexpected(name, value, "a finite number") from None
    return value


def _decode_fields(cls: type[Any], value: Any, name: str) -> Any:
    if not isinstance(value, Mapping):
        raise _unexpected(name, value, "an object")
    hints, entries = get_type_hints(cls), fields(cls)
    if unknown := sorted(value.keys() - {entry.name for entry in entries}):
        raise ValueError(f"{name} has the unknown field {unknown[0]!r}")
    for entry in entries:
        has_default = entry.default is not MISSING or entry.default_factory is not MISSING
        if entry.name not in value and not has_default:
            raise ValueError(f"{name} lacks {entry.name!r}")
    return cls(**{key: _decode(hints[key], item, f"{name}.{key}") for key, item in value.items()})


def _unexpected(name: str, value: Any, expected: str) -> ValueError:
    return ValueError(f"{name} is {json.dumps(value)[:60]}, expected {expected}")
