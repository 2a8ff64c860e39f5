"""Fine-tuning from samples: the winner of a search, and the network that it is compared with."""

import copy
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from tascnet.execute.workers import Assignment, Workers
from tascnet.inherit import hand_over
from tascnet.models.device import using_threads
from tascnet.models.head import HeadSpec, head_start, replace_head
from tascnet.options import Tune, TuneBase
from tascnet.run.files import digest_json
from tascnet.run.records import NO_SECONDS, CandidateRecord, StepRecord, TrainingRecord, Trial, score
from tascnet.surgery import WidthGroup
from tascnet.train import (
    CHECKPOINT,
    FEATURES,
    Archive,
    Distillation,
    Learner,
    fit_head,
    fit_new_head,
    freeze_before,
    gentler,
    reestimate_batchnorm,
)
from tascnet.tuning.build import CandidateBuilder
from tascnet.tuning.head import SearchedHead
from tascnet.tuning.sizes import Setting, Settings
from tascnet.tuning.space import FIRST_TRAINED, Space
from tascnet.tuning.tails import Tails, join

log = logging.getLogger("tascnet")


# Of a training that is done once more because the first one did harm.
SLOWER_STEP = "-slower"
# How many times the epochs of the recipe a network learns that has a teacher, whose answers tell more of a
# view than labels. On MobileNetV2 and Caltech-101 that gave 0.8 points on the validation samples.
TAUGHT = 2


@dataclass(frozen=True, kw_only=True)
class FineTuned:
    """A trained network, and how it is trained again.

    Args:
        network: the network.
        training: that made it.
        first_trained: index of its first trained block.
        frozen: layers from that block on that were not trained.
        origin: where training began: at the `conventional` network, or at the trial, from its first trained
            block on (`prefix`) or in all blocks (`all`); or at the `baseline`; or `trial`: it is the trial.
        step: its name in the archive.
        fit: trains the start of this network in a folder, by the recipe's learning rate or `lr`; None: it is
            not trained again.
    """

    network: nn.Sequential
    training: TrainingRecord
    first_trained: int
    frozen: tuple[str, ...] = ()
    origin: str
    step: str
    fit: Callable[..., tuple[nn.Sequential, StepRecord]] | None = None

    @property
    def is_slower(self) -> bool:
        """Whether the learning rate was a third of the recipe's."""
        return self.step.endswith(SLOWER_STEP)


def origin_of(options: TuneBase, *, is_grown: bool = False) -> str:
    """Where fine-tuning begins; `auto` is the conventional network if the winner is a smaller form of it."""
    if options.finetune_from != "auto":
        return options.finetune_from
    narrower = isinstance(options, Tune) and options.looks_for_narrower and not is_grown
    return "conventional" if narrower else "best"


def origin_for(options: TuneBase, winner: Trial, space: Space) -> str:
    """Where the fine-tuning of a winner begins."""
    return origin_of(options, is_grown=space.nested and SearchedHead.of(winner.config).is_grown)


def fine_tunings(options: TuneBase) -> float:
    """How many trainings of the whole network the winner takes; a teacher takes a third of one."""
    origin = origin_of(options)
    if origin == "conventional":
        return 1 + (TAUGHT * (1 + 1 / 3) if isinstance(options, Tune) and options.distill else 1)
    return 2 if origin == "best" else 1


def fine_tune(
    options: TuneBase, winner: Trial, space: Space, settings: Settings, workers: Workers
) -> FineTuned:
    """The network of the winner, fine-tuned from samples; each step is archived."""
    origin = origin_for(options, winner, space)
    setting, native = settings(winner.config), settings.native
    if origin != "conventional":
        return _from_trial(origin, winner, space, setting, workers)
    assert isinstance(options, Tune)
    learner, archive, key = setting.learner, setting.archive, _key(winner, space)
    made = conventional(native.learner, native.archive, native.tails.chain, 0)
    usual = learner.place(made.network)
    narrow = partial(_narrowed, learner, winner, space, usual, options)
    start, _ = archive.once(f"narrowed-{key}", narrow)
    words = "fine-tune from conventional"
    fit = partial(_fit, learner, start, description=words, teacher=usual, options=options)
    return _fitted(archive, f"taught-{key}", fit, origin)


def slower(made: FineTuned, learner: Learner, archive: Archive) -> FineTuned:
    """A network trained once more from the same start, at a third of the learning rate; the better is kept.

    Of equally good ones the first is kept.
    """
    assert made.fit is not None
    fit = partial(made.fit, lr=gentler(made.training))
    other = _fitted(archive, f"{made.step}{SLOWER_STEP}", fit, made.origin)
    return max((made, other), key=lambda one: metric_of(one.training, learner.metric))


def metric_of(judged: TrainingRecord | CandidateRecord | Trial, metric: str) -> float:
    """The metric on validation of what was judged there."""
    value = score(judged, metric)
    assert value is not None
    return value


def of_trial(trial: Trial, space: Space, setting: Setting, workers: Workers) -> FineTuned:
    """The network of a trial as the search trained it, which is done again, with as many threads."""

    def repeat(folder: Path) -> tuple[nn.Sequential, StepRecord]:
        # The weights of trials are not kept; the same seed reproduces them.
        candidate = setting.build(trial.config)
        with using_threads(workers.trial_threads):
            network, training = setting.tails.train(
                candidate,
                f"trial {trial.trial}",
                checkpoint=folder / CHECKPOINT,
                # The search's seconds may have stopped it.
                stop=lambda epochs: len(epochs) == trial.epochs,
            )
        return network, StepRecord(
            seconds=training.seconds,
            training=training,
            first_trained=candidate.cut,
            frozen=candidate.frozen,
        )

    return _fitted(setting.archive, f"trial_{trial.trial}-{_key(trial, space)}", repeat, "trial")


def baseline(
    pretrained: nn.Sequential, learner: Learner, archive: Archive
) -> tuple[nn.Sequential, StepRecord]:
    """The pre-trained network with a new softmax layer, the only trained one, and its training.

    The layer learns on standardised features. A text network keeps its dropout: without it the few filters
    overfit the training texts.
    """
    dropped = [block.p for block in pretrained[head_start(pretrained) :] if isinstance(block, nn.Dropout)]
    dropout = float(dropped[-1]) if dropped and learner.samples.is_text else 0.0
    chain = learner.place(
        replace_head(pretrained, HeadSpec(dropout=dropout), learner.samples.num_classes, seed=learner.seed)
    )

    def train(folder: Path) -> tuple[nn.Sequential, StepRecord]:
        cut = head_start(chain)
        tail = chain[cut:].requires_grad_(True)
        training = fit_head(
            learner,
            tail,
            Tails(learner, chain).features(cut),
            checkpoint=folder / CHECKPOINT,
            description="softmax layer",
        )
        step = StepRecord(seconds=training.seconds, training=training, first_trained=cut)
        return join(chain[:cut], tail), step

    trained, step = archive.once("baseline", train)
    return learner.place(trained), step


def conventional(learner: Learner, archive: Archive, chain: nn.Sequential, first_trained: int) -> FineTuned:
    """The network at its pre-trained widths, trained from the same block on.

    Where no epoch is better than the start, it is trained once more at a third of the learning rate.
    """
    fit = partial(_fit, learner, chain, description="conventional", first_trained=first_trained)
    made = _fitted(archive, usual_step(first_trained), fit, "baseline")
    if helped(made.training):
        return made
    is_new = not archive.has(f"{made.step}{SLOWER_STEP}")
    if is_new:
        log.info("conventional: training did not help; it is done once more at a third of the learning rate")
    made = slower(made, learner, archive)
    if is_new and not helped(made.training):
        log.warning("conventional: training did not help, and the weights from before it are kept")
    return made


def usual_ahead(learner: Learner, archive: Archive, chain: nn.Sequential) -> Assignment:
    """The training of `conventional` from the first block on."""
    return Assignment(
        learner=learner, archive=archive, last=usual_step(0), function=conventional, args=(chain, 0)
    )


def usual_step(first_trained: int) -> str:
    """Name of the step of `conventional`."""
    return f"conventional-{first_trained}"


def helped(training: TrainingRecord) -> bool:
    """Whether an epoch was better than the start."""
    return training.best_epoch > 0


def freeze(network: nn.Sequential, first_trained: int, frozen: Sequence[str] = ()) -> None:
    """Make the blocks from `first_trained` on trainable, but for the layers `frozen`, and nothing else."""
    freeze_before(network, first_trained)
    for name in frozen:
        network.get_submodule(name).requires_grad_(False)


def _key(trial: Trial, space: Space) -> str:
    """Digest of a trial's network: settings of deeper units, which may join the space, do not change it.

    One that was cut short is another one than that which is trained to its end later.
    """
    neutral = space.neutral(int(trial.config[FIRST_TRAINED]))
    own = {name: value for name, value in trial.config.items() if value != neutral[name]}
    if trial.reason == NO_SECONDS:
        own["epochs"] = trial.epochs
    return digest_json({**own, FIRST_TRAINED: trial.config[FIRST_TRAINED]})[:8]


def _from_trial(origin: str, winner: Trial, space: Space, setting: Setting, workers: Workers) -> FineTuned:
    """The trained trial, trained further as `prefix` or `all`, or (`best`) the better of both."""
    start = of_trial(winner, space, setting, workers)
    learner, archive, key = setting.learner, setting.archive, _key(winner, space)
    names = ("prefix", "all") if origin == "best" else (origin,)
    trained = {"prefix": (start.first_trained, start.frozen), "all": (0, ())}
    ways = [(f"{name}-{key}", start.network, *trained[name]) for name in names]
    if len(ways) > 1:
        workers.ahead(
            [
                Assignment(learner=learner, archive=archive, last=way[0], function=_further, args=way)
                for way in ways
            ]
        )
    found = [_further(learner, archive, *way) for way in ways]
    return max(found, key=lambda one: metric_of(one.training, learner.metric))


def _further(
    learner: Learner,
    archive: Archive,
    step: str,
    start: nn.Sequential,
    first_trained: int,
    frozen: tuple[str, ...],
) -> FineTuned:
    """A trial, trained further from a block on, as a step whose name begins with the way."""
    way = step.partition("-")[0]
    fit = partial(_fit, learner, start, first_trained=first_trained, frozen=frozen)
    return _fitted(archive, step, partial(fit, description=f"fine-tune {way}"), way)


def _narrowed(
    learner: Learner, winner: Trial, space: Space, usual: nn.Sequential, options: Tune, folder: Path
) -> tuple[nn.Sequential, StepRecord]:
    """A fine-tuned network with the winner's structure; removed channels are folded into the kept ones."""
    started = time.perf_counter()

    def measure_norms(network: nn.Sequential, cut: int, first_changed: int | None) -> None:
        if first_changed is not None:
            block, device = cut + first_changed, learner.device
            reestimate_batchnorm(network, learner.samples.train, first_block=block, device=device)

    def keep(
        tail: nn.Sequential,
        cut: int,
        groups: Sequence[WidthGroup],
        widths: Mapping[str, int],
        first_changed: int | None,
    ) -> Mapping[str, list[int]]:
        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for inputs, labels in learner.batches():
                with torch.no_grad():
                    features = usual[:cut](inputs)
                yield features, labels

        measure_norms(join(usual[:cut], tail), cut, first_changed)
        return hand_over(tail, groups, widths, batches, seed=learner.seed)

    build = CandidateBuilder(usual, space, learner.samples.example, seed=learner.seed, hand_over=keep)
    candidate = build(winner.config)
    network = learner.place(join(usual[: candidate.cut], candidate.tail))
    measure_norms(network, candidate.cut, candidate.first_changed)
    seconds = time.perf_counter() - started
    if not candidate.new_head:
        return network, StepRecord(seconds=seconds)
    # Large gradients of a new head would spoil the other layers. No other network has these features.
    features, checkpoint = folder / FEATURES, folder / CHECKPOINT
    try:
        training = fit_new_head(
            *(learner, network, usual, options.distill), checkpoint=checkpoint, folder=features
        )
    finally:
        shutil.rmtree(features, ignore_errors=True)
    return network, StepRecord(seconds=seconds + training.seconds, head=training)


def _fit(
    learner: Learner,
    start: nn.Sequential,
    folder: Path,
    *,
    description: str,
    first_trained: int = 0,
    frozen: Sequence[str] = (),
    teacher: nn.Sequential | None = None,
    options: Tune | None = None,
    lr: float | None = None,
) -> tuple[nn.Sequential, StepRecord]:
    """A copy of `start`, trained from samples from block `first_trained` on but for the layers `frozen`.

    It learns from `teacher` too, if the options say so; `lr` takes the place of the recipe's.
    """
    network = learner.place(copy.deepcopy(start))
    freeze(network, first_trained, frozen)
    recipe = learner.trainer.recipe("finetune")
    distillation, epochs = None, recipe.epochs
    if teacher is not None and options is not None and options.distill:
        epochs *= TAUGHT
        distillation = Distillation.of(
            teacher,
            network,
            learner.samples,
            weight=options.distill,
            features=options.distill_features,
            device=learner.device,
        )
    training = learner.fit(
        network,
        recipe if lr is None else recipe.at(lr),
        epochs=epochs,
        first_trained=first_trained,
        checkpoint=folder / CHECKPOINT,
        may_diverge=True,
        description=description,
        distillation=distillation,
    )
    return network, StepRecord(
        seconds=training.seconds, training=training, first_trained=first_trained, frozen=tuple(frozen)
    )


def _fitted(
    archive: Archive, step: str, fit: Callable[..., tuple[nn.Sequential, StepRecord]], origin: str
) -> FineTuned:
    """A training as a step of the archive."""
    network, record = archive.once(step, fit)
    assert record.training is not None
    return FineTuned(
        network=network,
        training=record.training,
        first_trained=record.first_trained,
        frozen=record.frozen,
        origin=origin,
        step=step,
        fit=fit,
    )
