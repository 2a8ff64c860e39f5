"""Training and evaluation on the samples of one run."""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from tascnet.data import FeatureSource, SampleSource, class_weights
from tascnet.data.samples import Samples
from tascnet.errors import ConfigError
from tascnet.measure import check_batch
from tascnet.options import CACHED, RECIPES, Measure, Recipe, Trainer
from tascnet.run.records import TrainingRecord
from tascnet.train.compiled import check_compiler
from tascnet.train.evaluate import Evaluation, effective_samples, evaluate_source
from tascnet.train.fit import fit
from tascnet.train.parallel import check_devices, send

# Samples for comparing activations, and for criteria that read gradients.
MEASURED = 1024


def check_trainer(trainer: Trainer, device: torch.device, recipes: Iterable[str]) -> None:
    """Raise unless this machine can train as asked.

    Args:
        trainer: all recipes.
        device: where networks are trained.
        recipes: names of those that are used.

    Raises:
        ConfigError: there are fewer devices, or torch.compile does not work.
    """
    check_devices(trainer.devices, device)
    if any(trainer.recipe(name).compile for name in recipes):
        check_compiler(device)


@dataclass(frozen=True, kw_only=True)
class Learner:
    """Trains and evaluates networks on the samples of one run.

    Args:
        samples: training, validation and test samples.
        device: where networks are trained and evaluated.
        trainer: the recipes.
        seed: of the order of samples, augmentation and dropout.
        metric: by which epochs, trials and networks are compared: `accuracy` or `balanced_accuracy`.

    Raises:
        ConfigError: a recipe mixes texts, or the samples cannot be sent to the processes of several devices.
    """

    samples: Samples
    device: torch.device
    trainer: Trainer
    seed: int
    metric: str = "accuracy"

    def __post_init__(self) -> None:
        if self.trainer.devices > 1:
            # Before a search, rather than after it.
            send(self.samples.train, io.BytesIO())
        if not self.samples.is_text:
            return
        for name in sorted({*RECIPES} - {*CACHED}):
            recipe = self.trainer.recipe(name)
            for option in ("mixup", "cutmix"):
                if getattr(recipe, option):
                    raise ConfigError(
                        f"`trainer.{option}` mixes images, but {self.samples.dataset.name} holds texts",
                        f"leave it out, or set `trainer.{name}.{option}=0`",
                    )

    @cached_property
    def class_weights(self) -> Tensor | None:
        """Weight of each class in the loss, or None."""
        if self.trainer.class_weights == "none":
            return None
        return class_weights(self.samples.train.labels, self.samples.num_classes)

    def place(self, network: nn.Sequential) -> nn.Sequential:
        """`network` on the device, channels_last."""
        network.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network

    def fit(
        self,
        network: nn.Sequential,
        recipe: str | Recipe,
        *,
        epochs: int | None = None,
        features: tuple[FeatureSource, FeatureSource] | None = None,
        **options: Any,
    ) -> TrainingRecord:
        """Train a network that is on the device; see `tascnet.train.fit`.

        Args:
            network: frozen as it is to be trained.
            recipe: one of the trainer's by name, or any other.
            epochs: in place of the recipe's.
            features: cached training and validation features, in place of samples.
            options: further ones of `fit`.
        """
        chosen = self.trainer.recipe(recipe) if isinstance(recipe, str) else recipe
        if epochs is not None:
            chosen = replace(chosen, epochs=epochs)
        train, val = features or (self.samples.train, self.samples.val)
        return fit(
            *(network, train, val, chosen),
            seed=self.seed,
            device=self.device,
            class_weights=self.class_weights,
            metric=self.metric,
            devices=1 if features else self.trainer.devices,
            **options,
        )

    def check_memory(
        self, network: nn.Module, recipe: str, measure: Measure, example: Tensor | None = None
    ) -> None:
        """Refuse a network whose batches would fill the memory, in training or where latency is measured.

        Args:
            network: to be trained.
            recipe: by which.
            measure: how latency is measured.
            example: one sample that it takes, `1 x ...`; None: as the samples are.

        Raises:
            ConfigError: they would.
        """
        batch_size = min(self.trainer.recipe(recipe).batch_size, len(self.samples.train))
        check_batch(
            network,
            self.samples.example if example is None else example,
            batch=measure.batch,
            batch_size=-(-batch_size // self.trainer.devices),
            device=self.device,
        )

    def evaluate(self, network: nn.Module, source: SampleSource | None = None) -> Evaluation:
        """Loss and accuracy on `source`, or on the validation samples."""
        return evaluate_source(network, source or self.samples.val, device=self.device)

    def val_samples(self) -> float:
        """Validation samples, as many as count for a standard error of the metric."""
        return effective_samples(self.samples.val.labels, self.metric)

    def batches(self, count: int = MEASURED) -> Iterator[tuple[Tensor, Tensor]]:
        """At most `count` plain training samples, drawn by the seed, and their labels, on the device."""
        return self.samples.drawn_batches(count, self.seed, self.device)
