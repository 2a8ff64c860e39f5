"""Training: one plain function that resumes where it was interrupted."""

import copy
import errno
import logging
import math
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from tascnet.data.sources import SampleSource, Source
from tascnet.errors import ConfigError, TrainingDiverged, first_line
from tascnet.options import Recipe
from tascnet.run.console import progress
from tascnet.run.events import EpochEvent, emit
from tascnet.run.files import check_regular, unreadable, write_whole
from tascnet.run.records import EpochRecord, TrainingRecord, from_json, score, to_json
from tascnet.train.averaging import Average
from tascnet.train.compiled import announce, compiled, compiling
from tascnet.train.distillation import Distillation
from tascnet.train.evaluate import effective_samples, evaluate_source
from tascnet.train.folded import folded, rescale
from tascnet.train.mixing import Mixing, soft_cross_entropy
from tascnet.train.mode import batches, classifier_dropout, set_training_mode
from tascnet.train.optimiser import layer_groups, learning_rate_factor, make_optimizer
from tascnet.train.parallel import Member, synchronised, together

log = logging.getLogger("tascnet")

# A fall of the metric that is reported: points as a share, and standard errors.
FAR_BELOW, FAR_ERRORS = 0.1, 3


def gentler(training: TrainingRecord) -> float:
    """The learning rate of a training that is done once more because this one did not help: a third."""
    assert training.lr is not None, "every training records its learning rate"
    return training.lr / 3


class Recorder(Protocol):
    """Something that follows a network through the epochs."""

    def record(self, model: nn.Module) -> None:
        """See the model as it is after an epoch."""

    def state_dict(self) -> dict[str, Any]:
        """All that has been recorded, in tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""


def fit(
    model: nn.Sequential,
    train: Source,
    val: Source | None,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    first_trained: int = 0,
    class_weights: Tensor | None = None,
    penalty: Callable[[], Tensor] | None = None,
    distillation: Distillation | None = None,
    recorder: Recorder | None = None,
    checkpoint: Path | None = None,
    keep: str = "best",
    metric: str = "accuracy",
    stop: Callable[[Sequence[EpochRecord]], bool] | None = None,
    may_diverge: bool = False,
    devices: int = 1,
    description: str = "train",
) -> TrainingRecord:
    """Train `model` in place and leave it with the weights of its best epoch, in eval mode.

    With adamw the scales of batch-norms that stay frozen move into the convolutions before them
    (`tascnet.train.folded.rescale`). The weights of before the training are kept where no epoch is better
    (with `keep="last"` never).

    The same arguments produce the same weights on one CPU, also after an interruption: the random
    numbers of an epoch depend on `seed` and the epoch alone, and `checkpoint` holds the rest.

    Args:
        model: the network, on `device`, frozen as it is to be trained.
        train: training samples.
        val: validation samples; None: the last epoch is kept.
        recipe: optimiser, schedule and their settings.
        seed: of the order of samples, augmentation and dropout.
        device: where to train; on CUDA with bf16 autocast, and images are prepared there.
        first_trained: index of the first trained block; those before it are in eval mode.
        class_weights: weight of each class in the loss, shape `classes`.
        penalty: a scalar that is added to the loss of every step.
        distillation: a teacher to learn from beside the labels.
        recorder: sees the model after every epoch; its state is part of the checkpoint.
        checkpoint: file of the state after every epoch, from which training resumes if it exists.
        keep: `best` (by the metric on validation, the first of equals), `lowest_loss` (on validation) or
            `last`.
        metric: `accuracy` or `balanced_accuracy`.
        stop: takes all epochs so far; training ends when it returns True.
        may_diverge: a training whose loss is not finite any more ends there, with a warning, and the best
            weights so far are kept, those of before the training among them.
        devices: how many devices share each batch: `device` and those with the next numbers, or processes on
            the CPU; see `tascnet.train.parallel`. With a penalty one device trains.
        description: text of the progress bar.

    Raises:
        ConfigError: the samples cannot be mixed as the recipe asks, the network cannot be trained on batches
            of one sample, or what takes part cannot be sent to other processes.
        RunFolderError: the checkpoint cannot be read.
        CompileError: the step cannot be compiled.
        TascnetError: a process of several devices failed or was killed.
        TrainingDiverged: the loss became infinite or not a number, and nothing may or can be kept.
    """
    device = torch.device(device)
    started = time.perf_counter()
    if recipe.optimizer == "adamw":
        set_training_mode(model, first_trained, recipe.batchnorm)
        rescale(model)
    run = _Run(
        model=model,
        recipe=recipe,
        train=train,
        val=val,
        seed=seed,
        device=device,
        first_trained=first_trained,
        class_weights=None if class_weights is None else class_weights.to(device),
        penalty=penalty,
        distillation=distillation,
        keep=keep,
        metric=metric,
        checkpoint=checkpoint,
        recorder=recorder,
    )
    done = run.epoch * run.steps_per_epoch
    with (
        run.beside(devices),
        compiling() if recipe.compile else nullcontext(),
        classifier_dropout(model, recipe.dropout),
        progress(description, total=recipe.epochs * run.steps_per_epoch, done=done) as bar,
    ):
        if not run.records:
            run.begin(started)
        while run.epoch < recipe.epochs and not run.is_patience_spent() and not (stop and stop(run.records)):
            started = time.perf_counter()
            run.lead()
            train_loss = run.train_epoch(run.epoch, bar.advance)
            record = run.judged(run.epoch + 1, train_loss, started)
            if (divergence := _divergence(record)) is not None:
                if not may_diverge or run.before is None or run.best is None:
                    raise divergence
                log.warning("%s: %s; the best weights before are kept", description, divergence.message)
                break
            is_first = not any(map(run.is_far_below_start, run.records))
            if is_first and run.is_far_below_start(record):
                log.warning(
                    "%s: epoch %d ends at %.1f %%, far below the %.1f %% before the training; a lower "
                    "learning rate or a longer warm-up keeps more of what is there",
                    *(description, record.epoch, 100 * run.value(record), 100 * run.value(run.before)),
                )
            run.finish_epoch(record)
            emit(EpochEvent(training=description, epoch=record))
            bar.advance(0, best=None if run.best is None else score(run.best, metric))
    best = run.best
    if best is None:
        raise ValueError("the training has no epoch, and no validation samples to judge it without one")
    if best.epoch == 0 and run.records:
        log.info(
            "%s: no epoch is better than the weights of before the training (%.1f %%): these are kept",
            *(description, 100 * run.value(best)),
        )
    model.load_state_dict(run.best_state)
    model.eval()
    earlier = 0.0 if run.before is None else run.before.seconds
    return TrainingRecord(
        epochs=tuple(run.records),
        best_epoch=best.epoch,
        val_accuracy=best.val_accuracy,
        val_balanced_accuracy=best.val_balanced_accuracy,
        val_loss=best.val_loss,
        seconds=earlier + sum(record.seconds for record in run.records),
        before=run.before,
        lr=recipe.lr,
    )


@dataclass(kw_only=True)
class _Run:
    """The state of one training run, which a checkpoint holds."""

    model: nn.Sequential
    recipe: Recipe
    train: Source
    val: Source | None
    seed: int
    device: torch.device
    first_trained: int
    class_weights: Tensor | None
    distillation: Distillation | None
    keep: str = "last"
    metric: str = "accuracy"
    penalty: Callable[[], Tensor] | None = None
    checkpoint: Path | None = None
    recorder: Recorder | None = None
    member: Member | None = None
    records: list[EpochRecord] = field(default_factory=list)
    before: EpochRecord | None = None
    best: EpochRecord | None = None
    best_state: dict[str, Tensor] = field(default_factory=dict)
    plateau_factor: float = 1.0
    plateau_wait: int = 0

    def __post_init__(self) -> None:
        self._prepare()
        # `train` itself goes to other processes.
        self.placed_train = self._placed(self.train)
        self.val = None if self.val is None else self._placed(self.val)
        self.mixing = Mixing.of(self.recipe, self.train)
        # Batch-norm needs two.
        self.samples = max(min(2, len(self.train)), round(self.recipe.epoch_share * len(self.train)))
        sizes = [len(batch) for batch in batches(torch.arange(self.samples), self.recipe.batch_size)]
        self.steps_per_epoch, self.usual_size = len(sizes), sizes[0]
        if min(sizes) == 1:
            self._check_batches_of_one()
        if self.checkpoint is not None and self.checkpoint.exists():
            self._resume(self.checkpoint)

    def _check_batches_of_one(self) -> None:
        """Raise where a batch-norm that is trained sees one value of each channel."""
        model = copy.deepcopy(self.model)
        set_training_mode(model, self.first_trained, self.recipe.batchnorm)
        try:
            with torch.no_grad():
                model(self.train.batch(torch.arange(1), None).to(self.device))
        except ValueError as error:
            raise ConfigError(
                f"the network cannot be trained on one sample at a time ({first_line(error)})",
                "raise `batch_size`, or take `batchnorm=frozen`",
            ) from error

    def _prepare(self) -> None:
        """Optimiser and average of the network as it is."""
        groups = layer_groups(self.model, self.recipe.layer_decay)
        self.factors = [factor for factor, _ in groups]
        self.optimizer = make_optimizer([parameters for _, parameters in groups], self.recipe)
        self.average = Average(self.model, self.recipe.ema) if self.recipe.ema else None

    def _placed(self, source: Source) -> Source:
        """A source whose images are prepared on the GPU that trains, if one does."""
        if self.device.type == "cuda" and isinstance(source, SampleSource):
            return source.on(self.device)
        return source

    @property
    def epoch(self) -> int:
        return len(self.records)

    @property
    def judged_model(self) -> nn.Sequential:
        """The network that is evaluated and kept."""
        return self.model if self.average is None else self.average.model

    def is_patience_spent(self) -> bool:
        if self.recipe.patience is None or not self.records:
            return False
        best = max(self.records, key=self._rank)
        return self.epoch - best.epoch >= self.recipe.patience

    def value(self, record: EpochRecord | None) -> float:
        """The metric of a record that has one."""
        value = None if record is None else score(record, self.metric)
        assert value is not None
        return value

    def is_far_below_start(self, record: EpochRecord) -> bool:
        """Whether a record is below the one before the training by more than chance explains."""
        if self.before is None or self.val is None:
            return False
        start = self.value(self.before)
        error = math.sqrt(start * (1 - start) / effective_samples(self.val.labels, self.metric))
        return start - self.value(record) > max(FAR_BELOW, FAR_ERRORS * error)

    def judged(self, epoch: int, train_loss: float | None, started: float) -> EpochRecord:
        """The record of an epoch that began at `started` on the clock of `time.perf_counter`."""
        found = None if self.val is None else evaluate_source(self.judged_model, self.val, device=self.device)
        return EpochRecord(
            epoch=epoch,
            train_loss=train_loss,
            val_loss=None if found is None else found.loss,
            val_accuracy=None if found is None else found.accuracy,
            val_balanced_accuracy=None if found is None else found.balanced_accuracy,
            seconds=time.perf_counter() - started,
        )

    def begin(self, started: float) -> None:
        """Judge the network before the first epoch."""
        before = self.judged(0, None, started)
        # The outputs of an untrained network may be infinite.
        if before.val_loss is not None and math.isfinite(before.val_loss):
            self.before = before
            if self.keep != "last":
                self.best, self.best_state = self.before, copy.deepcopy(self.model.state_dict())

    @contextmanager
    def beside(self, devices: int) -> Iterator[None]:
        """Let other processes take part in the epochs of the block."""
        if devices > 1 and self.penalty is not None:
            log.info("a training with a penalty takes one device")
        if devices == 1 or self.penalty is not None or self.epoch >= self.recipe.epochs:
            yield
            return
        names = ("model", "recipe", "train", "seed", "first_trained", "class_weights", "distillation")
        made = {name: getattr(self, name) for name in names}, self.optimizer.state_dict()
        with together(devices, self.device, _follow, made) as self.member:
            yield
            self.member.broadcast([0.0, 0.0, 0.0])

    def lead(self) -> None:
        """Let the other processes, if there are any, train the next epoch too."""
        if self.member is not None:
            self.member.broadcast([1.0, self.epoch, self.plateau_factor])

    def follow(self, member: Member) -> None:
        """Train the epochs that the first process leads."""
        self.member = member
        with classifier_dropout(self.model, self.recipe.dropout):
            while True:
                goes_on, epoch, self.plateau_factor = member.broadcast([0.0, 0.0, 0.0])
                if not goes_on:
                    return
                self.train_epoch(int(epoch), lambda _: None)

    def loss_of(
        self,
        running: nn.Sequential,
        inputs: Tensor,
        labels: Tensor,
        answers: Tensor | None,
        weight: Tensor | float,
    ) -> Tensor:
        """The mean loss of a batch; that on the labels counts by `weight`."""

        def supervised(logits: Tensor) -> Tensor:
            loss = soft_cross_entropy(logits, labels, self.class_weights, self.recipe.label_smoothing)
            return loss * weight

        if self.distillation is None:
            return supervised(running(inputs))
        return self.distillation.loss(running, inputs, supervised, answers)

    @cached_property
    def running(self) -> nn.Sequential:
        """The network as it is trained; its layers have the modes of training."""
        # What is compiled reads maps once for several layers by itself.
        network = self.model if self.recipe.compile else folded(self.model)
        return network if self.member is None else synchronised(network)

    @cached_property
    def compiled_loss(self) -> Callable[..., Tensor]:
        """`loss_of` of any run: a method of this one would keep it alive."""
        announce()
        return compiled(type(self).loss_of, self.device)

    def train_epoch(self, epoch: int, advance: Callable[[int], object]) -> float:
        """One pass over the training samples; returns the mean loss."""
        member = self.member
        set_training_mode(self.model, self.first_trained, self.recipe.batchnorm)
        epoch_seed = self.seed * 1_000_003 + epoch
        generator = torch.Generator().manual_seed(epoch_seed)
        order = torch.randperm(len(self.train), generator=generator)[: self.samples]
        if member is not None and member.rank:
            epoch_seed += member.rank << 40
            generator.manual_seed(epoch_seed)
        lr = self.recipe.lr
        if self.plateau_factor != 1.0:
            lr = max(lr * self.plateau_factor, self.recipe.min_lr)
        total = torch.zeros((), device=self.device)
        is_cuda = self.device.type == "cuda"
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        with torch.random.fork_rng([self.device] if is_cuda else []):
            torch.manual_seed(epoch_seed)
            first_step = epoch * self.steps_per_epoch
            for step, batch in enumerate(batches(order, self.recipe.batch_size), start=first_step):
                factor_of_step = learning_rate_factor(self.recipe, step, self.steps_per_epoch)
                for group, factor in zip(self.optimizer.param_groups, self.factors, strict=True):
                    group["lr"] = lr * factor_of_step * factor
                rows, part = (batch, 1.0) if member is None else member.rows(batch)
                inputs, labels, answers = self._batch(rows, generator)
                # A smaller last batch would be compiled for itself.
                is_compiled = self.recipe.compile and len(rows) == self.usual_size
                loss_of = self.compiled_loss if is_compiled else type(self).loss_of
                self.optimizer.zero_grad()
                with torch.autocast(self.device.type, torch.bfloat16, enabled=is_cuda):
                    loss = loss_of(self, self.running, inputs, labels, answers, self._weight(rows, batch))
                    loss = loss if self.penalty is None else loss + self.penalty()
                loss = loss if member is None else loss * part
                loss.backward()
                if member is not None:
                    member.sum_gradients(trained)
                self.optimizer.step()
                if self.average is not None:
                    self.average.update(self.model)
                total += loss.detach() * len(batch)
                advance(1)
        # Gradients take as much memory as the weights.
        self.optimizer.zero_grad()
        return float(total if member is None else member.sum(total)) / self.samples

    def _weight(self, rows: Tensor, batch: Tensor) -> Tensor | float:
        """The mean weight of the classes of own rows, as a share of that of their batch."""
        if self.class_weights is None or self.member is None:
            return 1.0
        labels, weights = self.train.labels, self.class_weights
        own, all_of_it = (weights[labels[chosen].to(weights.device)].mean() for chosen in (rows, batch))
        return own / all_of_it

    def _batch(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor | None]:
        """Inputs, labels, and the teacher's answers where they are cached, on the device."""
        answers = None
        if self.distillation is None:
            inputs = self.placed_train.batch(rows, generator)
        else:
            inputs, answers = self.distillation.batch(self.placed_train, rows, generator)
        inputs = inputs.to(self.device, non_blocking=True)
        labels = self.train.labels[rows].to(self.device, non_blocking=True)
        answers = None if answers is None else answers.to(self.device, non_blocking=True)
        return (inputs, labels, answers) if self.mixing is None else self.mixing(inputs, labels, answers)

    def finish_epoch(self, record: EpochRecord) -> None:
        """Record the epoch, keep its weights if they are the best, reduce on a plateau, save."""
        if self.recorder is not None:
            self.recorder.record(self.model)
        # Whichever epoch is kept, a plateau is one of the highest value of the metric.
        before = [value for other in self.records if (value := score(other, self.metric)) is not None]
        now = score(record, self.metric)
        is_highest = now is None or all(now > value for value in before)
        self.records.append(record)
        if self.best is None or self._rank(record) > self._rank(self.best):
            self.best = record
            self.best_state = copy.deepcopy(self.judged_model.state_dict())
        self.plateau_wait = 0 if is_highest else self.plateau_wait + 1
        if self.recipe.schedule == "plateau" and self.plateau_wait > self.recipe.plateau_patience:
            self.plateau_factor *= self.recipe.factor
            self.plateau_wait = 0
        if self.checkpoint is not None:
            state = {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "average": None if self.average is None else self.average.state_dict(),
                "before": None if self.before is None else to_json(self.before),
                "records": [to_json(record) for record in self.records],
                "best": None if self.best is None else self.best.epoch,
                "best_state": self.best_state,
                "plateau": [self.plateau_factor, self.plateau_wait],
                "recorder": None if self.recorder is None else self.recorder.state_dict(),
            }
            write_whole(self.checkpoint, partial(_write, state))

    def _rank(self, record: EpochRecord) -> float:
        """The epoch of the highest rank, the first of equals, is kept."""
        value = score(record, self.metric)
        if self.keep == "last" or value is None or record.val_loss is None:
            return float(record.epoch)
        return -record.val_loss if self.keep == "lowest_loss" else value

    def _resume(self, checkpoint: Path) -> None:
        """Restore the state after the last epoch; where it is damaged, training starts again.

        Raises:
            RunFolderError: the file cannot be read.
        """
        before = copy.deepcopy(self.model.state_dict())
        recorded = None if self.recorder is None else copy.deepcopy(self.recorder.state_dict())
        try:
            self._restore(_load(checkpoint, self.device))
        # The checkpoint may be good: it is kept.
        except (MemoryError, torch.OutOfMemoryError):
            raise
        # Damage shows in any other way.
        except Exception as error:
            # torch on the CPU has no class of its own for it.
            if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
                raise
            # A damaged directory of the archive leads to a place before the start of the file: EINVAL.
            is_damage = isinstance(error, FileNotFoundError) or getattr(error, "errno", None) == errno.EINVAL
            if isinstance(error, OSError) and not is_damage:
                raise unreadable(checkpoint, error) from error
            # Those of torch advise to load files that may run code.
            is_plain = isinstance(error, OSError | ValueError | zipfile.BadZipFile)
            reason = first_line(error) if is_plain else "it is not of this training"
            log.warning("%s cannot be used (%s): training starts again", checkpoint, reason)
            self.model.load_state_dict(before)
            if self.recorder is not None and recorded is not None:
                self.recorder.load_state_dict(recorded)
            self._prepare()
            self.records, self.before, self.best, self.best_state = [], None, None, {}
            self.plateau_factor, self.plateau_wait = 1.0, 0
        else:
            log.info("training resumes after epoch %d of %d", self.epoch, self.recipe.epochs)

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.records = [from_json(EpochRecord, record) for record in state["records"]]
        if [record.epoch for record in self.records] != list(range(1, len(self.records) + 1)):
            raise ValueError("its epochs are not those from the first one on")
        self.before = None if state["before"] is None else from_json(EpochRecord, state["before"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        found = {0: self.before, **dict(enumerate(self.records, start=1))}
        self.best = None if state["best"] is None else found[state["best"]]
        self.best_state = state["best_state"]
        shapes = {name: tensor.shape for name, tensor in self.model.state_dict().items()}
        is_kept = self.best is not None
        if is_kept and {name: tensor.shape for name, tensor in self.best_state.items()} != shapes:
            raise ValueError("its best weights are of another network")
        self.plateau_factor, self.plateau_wait = state["plateau"][0], int(state["plateau"][1])
        if self.recorder is not None:
            self.recorder.load_state_dict(state["recorder"])


def _write(state: dict[str, Any], path: Path) -> None:
    # To a file that is open, because torch does not say why it cannot write to a path.
    with open(path, "wb") as file:
        torch.save(state, file)


def _load(path: Path, device: torch.device) -> dict[str, Any]:
    """The content of a checkpoint.

    Raises:
        Exception: it is damaged.
    """
    check_regular(path)
    # torch does not compare the checksums.
    with zipfile.ZipFile(path) as archive:
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"{damaged} in it is damaged")
    return cast(dict[str, Any], torch.load(path, map_location=device, weights_only=True))


def _divergence(record: EpochRecord) -> TrainingDiverged | None:
    """What to say of an epoch with a loss that is not finite; None: all are."""
    for name, loss in (("training", record.train_loss), ("validation", record.val_loss)):
        if loss is not None and not math.isfinite(loss):
            return TrainingDiverged(
                f"the {name} loss became {loss} in epoch {record.epoch}",
                "lower the learning rate or choose an adaptive optimiser",
            )
    return None


def _follow(member: Member, made: tuple[Mapping[str, Any], dict[str, Any]]) -> None:
    """Take part in a training that another process leads."""
    parts, optimizer = made
    # The first process averages and judges.
    recipe = replace(parts["recipe"], ema=0.0)
    run = _Run(**{**parts, "recipe": recipe}, val=None, device=member.device)
    run.optimizer.load_state_dict(optimizer)
    run.follow(member)
