"""Fine-tuning from samples: the winner of a search, and the network that it is compared with."""

import copy
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from tascnet.data import module_digest
from tascnet.inherit import hand_over
from tascnet.models.head import HeadSpec, head_start, replace_head
from tascnet.options import Tune, TuneBase
from tascnet.run.files import digest_json
from tascnet.run.records import StepRecord, Trial, score
from tascnet.surgery import WidthGroup
from tascnet.train import CHECKPOINT, Archive, Distillation, Learner, freeze_before, reestimate_batchnorm
from tascnet.tuning.build import CandidateBuilder
from tascnet.tuning.head import SearchedHead
from tascnet.tuning.problem import Builder
from tascnet.tuning.space import FIRST_TRAINED, Space
from tascnet.tuning.tails import Tails, cached_pair, join


@dataclass(frozen=True, kw_only=True)
class FineTuned:
    """The network of a trial, fine-tuned from samples.

    Args:
        network: the network.
        first_trained: index of its first trained block.
        frozen: layers from that block on that were not trained.
        origin: where training began: at the `conventional` network, or at the trial, from its first trained
            block on (`prefix`) or in all blocks (`all`).
    """

    network: nn.Sequential
    first_trained: int
    frozen: tuple[str, ...]
    origin: str


def origin_of(options: TuneBase, *, is_grown: bool = False) -> str:
    """Where fine-tuning begins; `auto` is the conventional network if the winner is a smaller form of it."""
    if options.finetune_from != "auto":
        return options.finetune_from
    narrower = isinstance(options, Tune) and options.looks_for_narrower and not is_grown
    return "conventional" if narrower else "best"


def fine_tunings(options: TuneBase) -> float:
    """How many trainings of the whole network the winner takes; a teacher counts as a third of one."""
    origin = origin_of(options)
    if origin == "conventional":
        return 2 + (1 / 3 if isinstance(options, Tune) and options.distill else 0)
    return 2 if origin == "best" else 1


def fine_tune(
    options: TuneBase, winner: Trial, space: Space, tails: Tails, build: Builder, archive: Archive
) -> FineTuned:
    """The network of the winner, fine-tuned from samples; each step is archived."""
    # Settings of deeper units, which may join the space later, do not change this network.
    neutral = space.neutral(int(winner.config[FIRST_TRAINED]))
    own = {name: value for name, value in winner.config.items() if value != neutral[name]}
    key = digest_json({**own, FIRST_TRAINED: winner.config[FIRST_TRAINED]})[:8]
    origin = origin_of(options, is_grown=space.nested and SearchedHead.of(winner.config).is_grown)
    if origin != "conventional":
        return _from_trial(origin, winner, tails, build, archive, key)
    assert isinstance(options, Tune)
    learner = tails.learner
    usual = learner.place(conventional(learner, archive, tails.chain, 0)[0])
    start, _ = archive.once(f"narrowed-{key}", partial(_narrowed, learner, winner, space, usual))
    teacher = Distillation(teacher=usual, weight=options.distill) if options.distill else None
    work = partial(_fit, learner, start, description="fine-tune from conventional", distillation=teacher)
    network, _ = archive.once(f"taught-{key}", work)
    return FineTuned(network=network, first_trained=0, frozen=(), origin=origin)


def baseline(
    pretrained: nn.Sequential, learner: Learner, archive: Archive
) -> tuple[nn.Sequential, StepRecord]:
    """The pre-trained network with a new softmax layer, the only trained one, and its training.

    A text network keeps its dropout: without it the few filters overfit the training texts.
    """
    dropped = [block.p for block in pretrained[head_start(pretrained) :] if isinstance(block, nn.Dropout)]
    dropout = float(dropped[-1]) if dropped and learner.samples.is_text else 0.0
    chain = learner.place(
        replace_head(pretrained, HeadSpec(dropout=dropout), learner.samples.num_classes, seed=learner.seed)
    )

    def train(folder: Path) -> tuple[nn.Sequential, StepRecord]:
        cut = head_start(chain)
        tail = chain[cut:].requires_grad_(True)
        training = learner.fit(
            tail,
            "head",
            features=Tails(learner, chain).features(cut),
            checkpoint=folder / CHECKPOINT,
            description="softmax layer",
        )
        step = StepRecord(seconds=training.seconds, training=training, first_trained=cut)
        return join(chain[:cut], tail), step

    trained, step = archive.once("baseline", train)
    return learner.place(trained), step


def conventional(
    learner: Learner, archive: Archive, chain: nn.Sequential, first_trained: int
) -> tuple[nn.Sequential, Path]:
    """The network at its pre-trained widths, trained from the same block on, and its folder."""
    name = f"conventional-{first_trained}"
    work = partial(_fit, learner, chain, description="conventional", first_trained=first_trained)
    return archive.once(name, work)[0], archive.path(name)


def freeze(network: nn.Sequential, first_trained: int, frozen: Sequence[str] = ()) -> None:
    """Make the blocks from `first_trained` on trainable, but for the layers `frozen`, and nothing else."""
    freeze_before(network, first_trained)
    for name in frozen:
        network.get_submodule(name).requires_grad_(False)


def _from_trial(
    origin: str, winner: Trial, tails: Tails, build: Builder, archive: Archive, key: str
) -> FineTuned:
    """The trained trial, trained further as `prefix` or `all`, or (`best`) the better of both."""

    def repeat(folder: Path) -> tuple[nn.Sequential, StepRecord]:
        # The weights of trials are not kept; the same seed reproduces them.
        candidate = build(winner.config)
        network, training = tails.train(
            candidate,
            f"trial {winner.trial}",
            checkpoint=folder / CHECKPOINT,
            # The search's seconds may have stopped it.
            stop=lambda epochs: len(epochs) == winner.epochs,
        )
        return network, StepRecord(
            seconds=training.seconds,
            training=training,
            first_trained=candidate.cut,
            frozen=candidate.frozen,
        )

    start, step = archive.once(f"winner-{key}", repeat)
    found: list[tuple[float, FineTuned]] = []
    for name in ("prefix", "all") if origin == "best" else (origin,):
        first_trained, frozen = (step.first_trained, step.frozen) if name == "prefix" else (0, ())
        fit = partial(_fit, tails.learner, start, first_trained=first_trained, frozen=frozen)
        work = partial(fit, description=f"fine-tune {name}")
        network, tuned = archive.once(f"{name}-{key}", work)
        assert tuned.training is not None
        value = score(tuned.training, tails.learner.metric)
        assert value is not None
        made = FineTuned(network=network, first_trained=first_trained, frozen=frozen, origin=name)
        found.append((value, made))
    return max(found, key=lambda entry: entry[0])[1]


def _narrowed(
    learner: Learner, winner: Trial, space: Space, usual: nn.Sequential, folder: Path
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
    if not SearchedHead.of(winner.config).spec.hidden:
        return network, StepRecord(seconds=seconds)
    # Large gradients of a new head would spoil the other layers. No other network has these features.
    cut, features = head_start(network), folder / "features"
    trunk, head = network[:cut].eval(), network[cut:].requires_grad_(True)
    try:
        training = learner.fit(
            head,
            "head",
            features=cached_pair(learner, trunk, module_digest(trunk), features),
            checkpoint=folder / CHECKPOINT,
            description="head",
        )
    finally:
        shutil.rmtree(features, ignore_errors=True)
    return join(trunk, head), StepRecord(seconds=seconds + training.seconds, head=training)


def _fit(
    learner: Learner,
    start: nn.Sequential,
    folder: Path,
    *,
    description: str,
    first_trained: int = 0,
    frozen: Sequence[str] = (),
    distillation: Distillation | None = None,
) -> tuple[nn.Sequential, StepRecord]:
    """A copy of `start`, trained from samples from block `first_trained` on but for the layers `frozen`."""
    network = learner.place(copy.deepcopy(start))
    freeze(network, first_trained, frozen)
    training = learner.fit(
        network,
        "finetune",
        first_trained=first_trained,
        checkpoint=folder / CHECKPOINT,
        description=description,
        distillation=distillation,
    )
    return network, StepRecord(seconds=training.seconds, training=training, first_trained=first_trained)
