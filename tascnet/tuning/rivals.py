"""Other networks, fine-tuned conventionally on the same samples: what users would take without a search."""

import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from tascnet.data import open_samples
from tascnet.errors import ConfigError, TascnetError
from tascnet.execute.workers import Assignment, Workers
from tascnet.models.info import info_of
from tascnet.models.preprocessing import Preprocessing
from tascnet.options import Data, ImageBackbone, Measure, RivalName
from tascnet.presets import preset
from tascnet.run.files import digest_file, digest_json
from tascnet.run.records import RivalRecord, StepRecord, TrainingRecord, read_record
from tascnet.train import Archive, Learner
from tascnet.train.backbone import backbone
from tascnet.train.judge import trainings_of
from tascnet.train.steps import RECORD
from tascnet.train.transfer import outputs_of, warn_of_overlap
from tascnet.tuning.finetune import baseline, conventional, freeze, usual_step

log = logging.getLogger("tascnet")

# Folder below that of the search, with one folder a rival.
RIVALS = "rivals"


@dataclass(frozen=True, kw_only=True)
class Rival:
    """A network that takes the images of its size, before it is trained.

    Args:
        row: its name among the models.
        key: digest of its name, size and weights.
        network: pre-trained, on the CPU, with the attributes of `tascnet.backbone`.
    """

    row: str
    key: str
    network: nn.Sequential

    @property
    def preprocessing(self) -> Preprocessing:
        """The images that it takes."""
        found = info_of(self.network).preprocessing
        assert isinstance(found, Preprocessing)
        return found


@dataclass(frozen=True, kw_only=True)
class FineTunedRival:
    """A fine-tuned rival.

    Args:
        record: for the metrics of the stage.
        network: all of its blocks are trainable.
        learner: with the samples as it takes them.
        folder: of the saved network.
        trainings: of its softmax layer, and of the whole network.
    """

    record: RivalRecord
    network: nn.Sequential
    learner: Learner
    folder: Path
    trainings: Mapping[str, TrainingRecord]


def trainings_of_rivals(rivals: Iterable[FineTunedRival]) -> dict[str, TrainingRecord]:
    """The trainings of all of them, by row."""
    return {name: training for rival in rivals for name, training in rival.trainings.items()}


def rival_key(name: RivalName, size: int) -> str:
    """Digest of what decides a rival's figures: its name, the side of its images, and its weights.

    Args:
        name: as the option has it.
        size: of the tuned network's images, which count where the name has no size.
    """
    path = Path(name.weights).expanduser() if name.weights else None
    digest = digest_file(path) if path and path.is_file() else None
    return digest_json([name.network, name.size or size, name.weights, digest])[:8]


def load_rivals(names: Sequence[RivalName], learner: Learner, measure: Measure) -> tuple[Rival, ...]:
    """Rivals with their weights, checked before anything is trained.

    Raises:
        TascnetError: a network or its weights could not be loaded, or it does not take the images; the
            message names the rival.
    """
    rivals = []
    for name in names:
        try:
            rivals.append(_load(name, learner, measure))
        except TascnetError as error:
            raise type(error)(f"{name.row}: {error.message}", error.hint) from error
    return tuple(rivals)


def archive_of(rival: Rival, archive: Archive) -> Archive:
    """Where the steps of a rival are, below those of the search."""
    return Archive(folder=archive.folder / RIVALS / rival.key, info=info_of(rival.network))


def fine_tune_rival(learner: Learner, archive: Archive, rival: Rival, data: Data) -> FineTunedRival:
    """A rival with a new softmax layer, trained on features first and then wholly from samples.

    Args:
        learner: of the tuned network.
        archive: of the rival; both trainings are steps of it.
        rival: stays as it is.
        data: of the run.
    """
    own = learner_for(rival.network, learner, data)
    info = replace(
        info_of(rival.network),
        preprocessing=own.samples.preprocessing,
        class_names=own.samples.class_names,
        held_out=own.samples.held_out,
    )
    archive = archive.with_info(info)
    log.info("%s: %d px", rival.row, rival.preprocessing.size)
    blocks = nn.Sequential(OrderedDict(rival.network.named_children())).requires_grad_(True)
    chain, _ = baseline(own.place(blocks), own, archive)
    made = conventional(own, archive, chain, 0)
    freeze(made.network, 0)
    steps = [read_record(archive.path(name) / RECORD, StepRecord) for name in archive.done]
    record = RivalRecord(
        row=rival.row,
        key=rival.key,
        size=rival.preprocessing.size,
        weights=info.weights,
        licence=info.licence,
        seconds=sum(step.seconds for step in steps),
    )
    trainings = trainings_of({f"{rival.row}: head": steps[0]}) | {rival.row: made.training}
    return FineTunedRival(
        record=record,
        network=made.network,
        learner=own,
        folder=archive.path(made.step),
        trainings=trainings,
    )


def steps_of(
    rivals: Sequence[Rival], learner: Learner, archive: Archive, workers: Workers
) -> list[Assignment]:
    """The steps that `fine_tune_rivals` reads back, which do not depend on each other."""
    last = usual_step(0)
    return [
        Assignment(
            learner=learner,
            archive=archive_of(rival, archive),
            last=last,
            function=fine_tune_rival,
            args=(rival, workers.data),
        )
        for rival in rivals
    ]


def fine_tune_rivals(
    rivals: Sequence[Rival], learner: Learner, archive: Archive, workers: Workers
) -> list[FineTunedRival]:
    """All rivals, fine-tuned; see `fine_tune_rival`. The archive is that of the search."""
    workers.ahead(steps_of(rivals, learner, archive, workers))
    return [fine_tune_rival(learner, archive_of(rival, archive), rival, workers.data) for rival in rivals]


def learner_for(network: nn.Sequential, learner: Learner, data: Data) -> Learner:
    """A learner of the same splits, whose samples are prepared as another network takes them."""
    samples, preprocessing = learner.samples, info_of(network).preprocessing
    if samples.preprocessing == preprocessing:
        return learner
    own = open_samples(
        data,
        preprocessing,
        seed=learner.seed,
        cache=samples.cache,
        cache_limit_gb=samples.cache_limit_gb,
    )
    return replace(learner, samples=own)


def examples_of(networks: Mapping[str, nn.Sequential], example: Tensor) -> dict[str, Tensor]:
    """One sample of zeros for each network of a stage.

    Args:
        networks: by their rows, as they were saved.
        example: of networks of texts, `1 x tokens`.
    """

    def one(network: nn.Sequential) -> Tensor:
        preprocessing = info_of(network).preprocessing
        is_image = isinstance(preprocessing, Preprocessing)
        return torch.zeros(preprocessing.example_shape) if is_image else example

    return {name: one(network) for name, network in networks.items()}


def _load(name: RivalName, learner: Learner, measure: Measure) -> Rival:
    tuned = learner.samples.preprocessing
    weights = {} if name.weights is None else {"weights": name.weights}
    chosen = preset("backbone", name.network, **weights)
    if not isinstance(chosen, ImageBackbone) or not isinstance(tuned, Preprocessing):
        raise ConfigError(
            "rivals are networks for images, and so are what they are compared with", "leave it out"
        )
    size, resize = name.size or tuned.size, chosen.resize
    if resize is not None and chosen.size is not None:
        resize = round(resize * size / chosen.size)
    network = backbone(
        replace(chosen, size=size, resize=resize), seed=learner.seed, cache=learner.samples.cache
    )
    rival = Rival(row=name.row, key=rival_key(name, tuned.size), network=network)
    example = torch.zeros(rival.preprocessing.example_shape)
    outputs_of(network, example)
    learner.check_memory(network, "finetune", measure, example)
    warn_of_overlap(network, learner.samples)
    return rival
