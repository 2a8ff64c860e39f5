"""Training: one plain function that resumes where it was interrupted."""

import copy
import errno
import logging
import math
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tascnet.data.sources import Source
from tascnet.errors import TrainingDiverged, first_line
from tascnet.options import Recipe
from tascnet.run.console import Progress, progress
from tascnet.run.events import EpochEvent, emit
from tascnet.run.files import check_regular, unreadable, write_whole
from tascnet.run.records import EpochRecord, TrainingRecord, from_json, score, to_json
from tascnet.train.evaluate import evaluate_source
from tascnet.train.mode import batches, set_training_mode
from tascnet.train.optimiser import learning_rate_factor, make_optimizer

log = logging.getLogger("tascnet")

# Softens the answers of teacher and student.
TEMPERATURE = 2.0


class Recorder(Protocol):
    """Something that follows a network through the epochs."""

    def record(self, model: nn.Module) -> None:
        """See the model as it is after an epoch."""

    def state_dict(self) -> dict[str, Any]:
        """All that has been recorded, in tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Learn from a teacher's soft answers beside the labels.

    Args:
        teacher: produces logits for the same inputs; in eval mode.
        weight: share of the distillation loss, in [0, 1].

    Source: Hinton, Vinyals and Dean 2015, section 2.
    """

    teacher: nn.Module
    weight: float

    def mixed(self, loss: Tensor, logits: Tensor, inputs: Tensor) -> Tensor:
        """The loss on the labels, mixed with that of the student's logits `b x classes`."""
        with torch.no_grad():
            target = F.log_softmax(self.teacher(inputs) / TEMPERATURE, 1)
        answer = F.log_softmax(logits / TEMPERATURE, 1)
        soft = F.kl_div(answer, target, log_target=True, reduction="batchmean") * TEMPERATURE**2
        return torch.lerp(loss, soft, self.weight)


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
    description: str = "train",
) -> TrainingRecord:
    """Train `model` in place and leave it with the weights of its best epoch, in eval mode.

    The same arguments produce the same weights on one CPU, also after an interruption: the random
    numbers of an epoch depend on `seed` and the epoch alone, and `checkpoint` holds the rest.

    Args:
        model: the network, on `device`, frozen as it is to be trained.
        train: training samples.
        val: validation samples; None: the last epoch is kept.
        recipe: optimiser, schedule and their settings.
        seed: of the order of samples, augmentation and dropout.
        device: where to train; bf16 autocast on CUDA.
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
        description: text of the progress bar.

    Raises:
        RunFolderError: the checkpoint cannot be read.
        TrainingDiverged: the loss became infinite or not a number.
    """
    device = torch.device(device)
    weights = None if class_weights is None else class_weights.to(device)

    def loss_of(inputs: Tensor, labels: Tensor) -> Tensor:
        logits = model(inputs)
        loss = F.cross_entropy(logits, labels, weight=weights, label_smoothing=recipe.label_smoothing)
        if distillation is not None:
            loss = distillation.mixed(loss, logits, inputs)
        return loss if penalty is None else loss + penalty()

    run = _Run(model, recipe, train, device, first_trained, checkpoint, recorder, keep, metric)
    done = run.epoch * run.steps_per_epoch
    with progress(description, total=recipe.epochs * run.steps_per_epoch, done=done) as bar:
        while run.epoch < recipe.epochs and not run.is_patience_spent() and not (stop and stop(run.records)):
            started = time.perf_counter()
            train_loss = run.train_epoch(seed, loss_of, bar)
            verdict = None if val is None else evaluate_source(model, val, device=device)
            record = EpochRecord(
                epoch=run.epoch + 1,
                train_loss=train_loss,
                val_loss=None if verdict is None else verdict.loss,
                val_accuracy=None if verdict is None else verdict.accuracy,
                val_balanced_accuracy=None if verdict is None else verdict.balanced_accuracy,
                seconds=time.perf_counter() - started,
            )
            run.finish_epoch(record)
            emit(EpochEvent(training=description, epoch=record))
            bar.advance(0, best=None if run.best is None else score(run.best, metric))
    best = run.best
    assert best is not None, "a recipe has at least one epoch"
    model.load_state_dict(run.best_state)
    model.eval()
    return TrainingRecord(
        epochs=tuple(run.records),
        best_epoch=best.epoch,
        val_accuracy=best.val_accuracy,
        val_balanced_accuracy=best.val_balanced_accuracy,
        val_loss=best.val_loss,
        seconds=sum(record.seconds for record in run.records),
    )


@dataclass
class _Run:
    """The state of one training run, which a checkpoint holds."""

    model: nn.Sequential
    recipe: Recipe
    train: Source
    device: torch.device
    first_trained: int
    checkpoint: Path | None
    recorder: Recorder | None
    keep: str
    metric: str
    records: list[EpochRecord] = field(default_factory=list)
    best: EpochRecord | None = None
    best_state: dict[str, Tensor] = field(default_factory=dict)
    plateau_factor: float = 1.0
    plateau_wait: int = 0

    def __post_init__(self) -> None:
        self.optimizer = make_optimizer(self.model.parameters(), self.recipe)
        self.samples = max(1, round(self.recipe.epoch_share * len(self.train)))
        self.steps_per_epoch = len(batches(torch.arange(self.samples), self.recipe.batch_size))
        if self.checkpoint is not None and self.checkpoint.exists():
            self._resume(self.checkpoint)

    @property
    def epoch(self) -> int:
        return len(self.records)

    def is_patience_spent(self) -> bool:
        patience = self.recipe.patience
        return patience is not None and self.best is not None and self.epoch - self.best.epoch >= patience

    def train_epoch(self, seed: int, loss_of: Callable[[Tensor, Tensor], Tensor], bar: Progress) -> float:
        """One pass over the training samples; returns the mean loss."""
        set_training_mode(self.model, self.first_trained, self.recipe.batchnorm)
        epoch_seed = seed * 1_000_003 + self.epoch
        generator = torch.Generator().manual_seed(epoch_seed)
        order = torch.randperm(len(self.train), generator=generator)[: self.samples]
        lr = self.recipe.lr
        if self.plateau_factor != 1.0:
            lr = max(lr * self.plateau_factor, self.recipe.min_lr)
        total = torch.zeros((), device=self.device)
        is_cuda = self.device.type == "cuda"
        with torch.random.fork_rng([self.device] if is_cuda else []):
            torch.manual_seed(epoch_seed)
            first_step = self.epoch * self.steps_per_epoch
            for step, rows in enumerate(batches(order, self.recipe.batch_size), start=first_step):
                factor = learning_rate_factor(self.recipe, step, self.steps_per_epoch)
                for group in self.optimizer.param_groups:
                    group["lr"] = lr * factor
                inputs = self.train.batch(rows, generator).to(self.device, non_blocking=True)
                labels = self.train.labels[rows].to(self.device, non_blocking=True)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=is_cuda):
                    loss = loss_of(inputs, labels)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                total += loss.detach() * len(rows)
                bar.advance(1)
        mean = float(total) / self.samples
        _check_finite("training", mean, self.epoch + 1)
        return mean

    def finish_epoch(self, record: EpochRecord) -> None:
        """Record the epoch, keep its weights if they are the best, reduce on a plateau, save."""
        if record.val_loss is not None:
            _check_finite("validation", record.val_loss, record.epoch)
        if self.recorder is not None:
            self.recorder.record(self.model)
        # Whichever epoch is kept, a plateau is one of the highest value of the metric.
        before = [value for other in self.records if (value := score(other, self.metric)) is not None]
        now = score(record, self.metric)
        is_highest = now is None or all(now > value for value in before)
        self.records.append(record)
        if self.best is None or self._rank(record) > self._rank(self.best):
            self.best = record
            self.best_state = copy.deepcopy(self.model.state_dict())
        self.plateau_wait = 0 if is_highest else self.plateau_wait + 1
        if self.recipe.schedule == "plateau" and self.plateau_wait > self.recipe.plateau_patience:
            self.plateau_factor *= self.recipe.factor
            self.plateau_wait = 0
        if self.checkpoint is not None:
            state = {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "records": [to_json(record) for record in self.records],
                "best": self.best.epoch,
                "best_state": self.best_state,
                "plateau": [self.plateau_factor, self.plateau_wait],
                "recorder": None if self.recorder is None else self.recorder.state_dict(),
            }
            write_whole(self.checkpoint, partial(_save, state))

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
            self.optimizer = make_optimizer(self.model.parameters(), self.recipe)
            self.records, self.best, self.best_state = [], None, {}
            self.plateau_factor, self.plateau_wait = 1.0, 0
        else:
            log.info("training resumes after epoch %d of %d", self.epoch, self.recipe.epochs)

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.records = [from_json(EpochRecord, record) for record in state["records"]]
        if [record.epoch for record in self.records] != list(range(1, len(self.records) + 1)):
            raise ValueError("its epochs are not those from the first one on")
        self.best = self.records[state["best"] - 1]
        self.best_state = state["best_state"]
        shapes = {name: tensor.shape for name, tensor in self.model.state_dict().items()}
        if {name: tensor.shape for name, tensor in self.best_state.items()} != shapes:
            raise ValueError("its best weights are of another network")
        self.plateau_factor, self.plateau_wait = state["plateau"][0], int(state["plateau"][1])
        if self.recorder is not None:
            self.recorder.load_state_dict(state["recorder"])


def _save(state: dict[str, Any], path: Path) -> None:
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


def _check_finite(name: str, loss: float, epoch: int) -> None:
    if not math.isfinite(loss):
        raise TrainingDiverged(
            f"the {name} loss became {loss} in epoch {epoch}",
            "lower the learning rate or choose an adaptive optimiser",
        )
