"""Conventional fine-tuning: the pre-trained network with a new softmax layer, all layers trained."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.common import Row, Setup
from tascnet.measure import complexity
from tascnet.models import with_info
from tascnet.models.head import HeadSpec, head_start, replace_head
from tascnet.run.records import StepRecord, TrainingRecord
from tascnet.train import CHECKPOINT, Archive, Learner, fit_head, freeze_before
from tascnet.train.transfer import with_words
from tascnet.tuning.tails import Tails


def open_network(setup: Setup, device: torch.device) -> tuple[nn.Sequential, Learner]:
    """The pre-trained network with a new softmax layer, on the device, and what trains it.

    A network of texts keeps its dropout, as in stage `tune`.
    """
    network: Any = setup.network()
    learner = setup.learner(network, device, grow_vocabulary=True)
    samples = learner.samples
    network = with_words(network, samples, setup.seed)
    dropped = [block.p for block in network[head_start(network) :] if isinstance(block, nn.Dropout)]
    head = HeadSpec(dropout=dropped[-1] if dropped and samples.is_text else 0.0)
    chain = learner.place(replace_head(network, head, samples.num_classes, seed=setup.seed))
    info = replace(
        network.info,
        preprocessing=samples.preprocessing,
        class_names=samples.class_names,
        held_out=samples.held_out,
    )
    return with_info(chain, info), learner


def train_softmax(chain: nn.Sequential, learner: Learner, checkpoint: Path | None = None) -> TrainingRecord:
    """Train the dense head of a network, in place, by the recipe `head`."""
    cut = head_start(chain)
    return fit_head(
        learner,
        chain[cut:].requires_grad_(True),
        Tails(learner, chain).features(cut),
        checkpoint=checkpoint,
        description="softmax layer",
    )


def fine_tune_all(setup: Setup, folder: Path, device: torch.device, epochs: int | None = None) -> Row:
    """Train the new softmax layer, then all layers from samples, and judge the network.

    Interrupted trainings resume. The network lies in `<folder>/state/all-<epochs>`.

    Args:
        setup: data, network and the recipes `head` and `finetune`.
        folder: of the run.
        device: where to train.
        epochs: of fine-tuning; None: those of the recipe.

    Returns:
        Accuracies, `params`, `flops`, `epochs`, and the seconds of both trainings, apart and together.
    """
    chain, learner = open_network(setup, device)
    known: Any = chain
    archive = Archive(folder=folder, info=known.info)
    epochs = epochs or learner.trainer.recipe("finetune").epochs

    def softmax(place: Path) -> tuple[nn.Sequential, StepRecord]:
        training = train_softmax(chain, learner, place / CHECKPOINT)
        return chain, StepRecord(seconds=training.seconds, training=training)

    def all_layers(place: Path) -> tuple[nn.Sequential, StepRecord]:
        network = learner.place(copy.deepcopy(baseline))
        freeze_before(network, 0)
        training = learner.fit(
            network, "finetune", epochs=epochs, checkpoint=place / CHECKPOINT, description="conventional"
        )
        return network, StepRecord(seconds=training.seconds, training=training)

    baseline, first = archive.once("baseline", softmax)
    network, second = archive.once(f"all-{epochs}", all_layers)
    cost = complexity(network, learner.samples.example)
    return {
        **accuracies(learner, learner.place(network)),
        "params": cost.params,
        "flops": cost.flops,
        "epochs": epochs,
        "baseline_seconds": first.seconds,
        "finetune_seconds": second.seconds,
        "seconds": first.seconds + second.seconds,
    }


def accuracies(learner: Learner, network: nn.Sequential) -> Row:
    """Validation and test accuracy of a network about which everything is fixed."""
    return {
        "val_accuracy": learner.evaluate(network).accuracy,
        "test_accuracy": learner.evaluate(network, learner.samples.test).accuracy,
    }
