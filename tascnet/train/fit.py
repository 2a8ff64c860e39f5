"""Training: one plain function that resumes where it was interrupted."""

import copy
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tascnet.data.sources import Source
from tascnet.errors import TrainingDiverged
from tascnet.options import Recipe
from tascnet.run.console import Progress, progress
from tascnet.run.files import write_whole
from tascnet.run.records import EpochRecord, TrainingRecord, from_json, to_json
from tascnet.train.evaluate import evaluate_source
from tascnet.train.mode import batches, set_training_mode
from tascnet.train.optimiser import learning_rate_factor, make_optimizer

log = logging.getLogger("tascnet")


class Recorder(Protocol):
    """Something that follows a network through the epochs."""

    def record(self, model: nn.Module) -> None:
        """See the model as it is after an epoch."""

    def state_dict(self) -> dict[str, Any]:
        """All that has been recorded, in tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Learn from a teacher's soft answers beside the labels.

    Args:
        teacher: gives logits for the same inputs; in eval mode.
        weight: share of the distillation loss, in [0, 1].
        temperature: softens both distributions.

    Source: Hinton, Vinyals and Dean 2015, section 2.
    """

    teacher: nn.Module
    weight: float
    temperature: float = 2.0


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
    stop: Callable[[Sequence[EpochRecord]], bool] | None = None,
    description: str = "train",
) -> TrainingRecord:
    """Train `model` in place and leave it with the weights of its best epoch, in eval mode.

    The same arguments give the same weights on one CPU, also after an interruption: the random
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
        checkpoint: file that holds the state after every epoch; continued from when it exists.
        keep: `best` (by validation accuracy, the first of equals), `lowest_loss` (on validation) or `last`.
        stop: takes all epochs so far; training ends where it gives True.
        description: text of the progress bar.

    Raises:
        TrainingDiverged: the loss became infinite or not a number.
    """
    run = _Run(model, recipe, train, torch.device(device), first_trained, checkpoint, recorder)
    loss_of = _loss_function(recipe, class_weights, distillation, penalty, run.device)
    total = recipe.epochs * run.steps_per_epoch
    with progress(description, total=total) as bar:
        bar.advance(run.epoch * run.steps_per_epoch)
        while run.epoch < recipe.epochs and not run.is_patience_spent() and not (stop and stop(run.records)):
            started = time.perf_counter()
            train_loss = run.train_epoch(seed, loss_of, bar)
            verdict = None if val is None else evaluate_source(model, val, device=run.device)
            record = EpochRecord(
                epoch=run.epoch + 1,
                train_loss=train_loss,
                val_loss=None if verdict is None else verdict.loss,
                val_accuracy=None if verdict is None else verdict.accuracy,
                seconds=time.perf_counter() - started,
            )
            run.finish_epoch(record, keep)
            bar.advance(0, best=run.best_val_accuracy())
    return run.result()


class _Run:
    """The state of one training run: what a checkpoint holds."""

    def __init__(
        self,
        model: nn.Sequential,
        recipe: Recipe,
        train: Source,
        device: torch.device,
        first_trained: int,
        checkpoint: Path | None,
        recorder: Recorder | None,
    ) -> None:
        self.recorder = recorder
        self.model, self.recipe, self.train, self.device = model, recipe, train, device
        self.first_trained, self.checkpoint = first_trained, checkpoint
        self.optimizer = make_optimizer(model.parameters(), recipe)
        self.records: list[EpochRecord] = []
        self.best: EpochRecord | None = None
        self.best_state: dict[str, Tensor] = {}
        self.plateau_factor = 1.0
        self.plateau_wait = 0
        self.samples = max(1, round(recipe.epoch_share * len(train)))
        self.steps_per_epoch = len(batches(torch.arange(self.samples), recipe.batch_size))
        if checkpoint is not None and checkpoint.exists():
            self._restore(torch.load(checkpoint, map_location=device, weights_only=True))

    @property
    def epoch(self) -> int:
        return len(self.records)

    def best_val_accuracy(self) -> float | None:
        return None if self.best is None else self.best.val_accuracy

    def is_patience_spent(self) -> bool:
        if self.recipe.patience is None or self.best is None:
            return False
        return self.epoch - self.best.epoch >= self.recipe.patience

    def train_epoch(self, seed: int, loss_of: Callable[..., Tensor], bar: Progress) -> float:
        """One pass over the training samples; returns the mean loss."""
        set_training_mode(self.model, self.first_trained, self.recipe.batchnorm)
        epoch_seed = seed * 1_000_003 + self.epoch
        generator = torch.Generator().manual_seed(epoch_seed)
        order = torch.randperm(len(self.train), generator=generator)[: self.samples]
        total = torch.zeros((), device=self.device)
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(epoch_seed)
            for index, rows in enumerate(batches(order, self.recipe.batch_size)):
                total += self._step(index, rows, generator, loss_of) * len(rows)
                bar.advance(1)
        mean = float(total) / self.samples
        _check_finite("training", mean, self.epoch + 1)
        return mean

    def _step(
        self, index: int, rows: Tensor, generator: torch.Generator, loss_of: Callable[..., Tensor]
    ) -> Tensor:
        factor = learning_rate_factor(
            self.recipe, self.epoch * self.steps_per_epoch + index, self.steps_per_epoch
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self._reduced() * factor
        inputs = self.train.batch(rows, generator).to(self.device, non_blocking=True)
        labels = self.train.labels[rows].to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            loss = loss_of(self.model, inputs, labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _reduced(self) -> float:
        """The learning rate after the reductions of `plateau`."""
        if self.plateau_factor == 1.0:
            return self.recipe.lr
        return max(self.recipe.lr * self.plateau_factor, self.recipe.min_lr)

    def finish_epoch(self, record: EpochRecord, keep: str) -> None:
        """Record the epoch, keep its weights if they are the best, reduce on a plateau, save."""
        if record.val_loss is not None:
            _check_finite("validation", record.val_loss, record.epoch)
        if self.recorder is not None:
            self.recorder.record(self.model)
        self.records.append(record)
        improved = self.best is None or _rank(record, keep) > _rank(self.best, keep)
        if improved:
            self.best = record
            self.best_state = copy.deepcopy(self.model.state_dict())
        self.plateau_wait = 0 if _is_highest(self.records) else self.plateau_wait + 1
        if self.recipe.schedule == "plateau" and self.plateau_wait > self.recipe.plateau_patience:
            self.plateau_factor *= self.recipe.factor
            self.plateau_wait = 0
        if self.checkpoint is not None:
            write_whole(self.checkpoint, lambda path: torch.save(self._state(), path))

    def result(self) -> TrainingRecord:
        assert self.best is not None, "a recipe has at least one epoch"
        self.model.load_state_dict(self.best_state)
        self.model.eval()
        return TrainingRecord(
            epochs=tuple(self.records),
            best_epoch=self.best.epoch,
            val_accuracy=self.best.val_accuracy,
            val_loss=self.best.val_loss,
            seconds=sum(record.seconds for record in self.records),
        )

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "records": [to_json(record) for record in self.records],
            "best": None if self.best is None else self.best.epoch,
            "best_state": self.best_state,
            "plateau": [self.plateau_factor, self.plateau_wait],
            "recorder": None if self.recorder is None else self.recorder.state_dict(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.records = [from_json(EpochRecord, record) for record in state["records"]]
        self.best = next((record for record in self.records if record.epoch == state["best"]), None)
        self.best_state = state["best_state"]
        self.plateau_factor, self.plateau_wait = state["plateau"][0], int(state["plateau"][1])
        if self.recorder is not None:
            self.recorder.load_state_dict(state["recorder"])
        log.info("training resumes after epoch %d of %d", self.epoch, self.recipe.epochs)


def _check_finite(name: str, loss: float, epoch: int) -> None:
    if not math.isfinite(loss):
        raise TrainingDiverged(
            f"the {name} loss became {loss} in epoch {epoch}",
            "lower the learning rate or choose an adaptive optimiser",
        )


def _is_highest(records: Sequence[EpochRecord]) -> bool:
    """Whether the last epoch has a higher validation accuracy than all before, whichever epoch is kept."""
    *before, last = [record.val_accuracy for record in records]
    return last is None or all(value is None or last > value for value in before)


def _rank(record: EpochRecord, keep: str) -> float:
    if keep == "last" or record.val_accuracy is None or record.val_loss is None:
        return float(record.epoch)
    return -record.val_loss if keep == "lowest_loss" else record.val_accuracy


def _loss_function(
    recipe: Recipe,
    class_weights: Tensor | None,
    distillation: Distillation | None,
    penalty: Callable[[], Tensor] | None,
    device: torch.device,
) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    weights = None if class_weights is None else class_weights.to(device)

    def loss_of(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        logits = model(inputs)
        loss = F.cross_entropy(logits, labels, weight=weights, label_smoothing=recipe.label_smoothing)
        if distillation is not None:
            loss = torch.lerp(loss, _distillation_loss(logits, inputs, distillation), distillation.weight)
        return loss if penalty is None else loss + penalty()

    return loss_of


def _distillation_loss(logits: Tensor, inputs: Tensor, distillation: Distillation) -> Tensor:
    temperature = distillation.temperature
    with torch.no_grad():
        target = F.log_softmax(distillation.teacher(inputs) / temperature, 1)
    answer = F.log_softmax(logits / temperature, 1)
    return F.kl_div(answer, target, log_target=True, reduction="batchmean") * temperature**2
