"""The size of the images as a choice of the search, and what of a search depends on it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tascnet.data import open_samples
from tascnet.errors import ConfigError
from tascnet.measure import Clock
from tascnet.models.preprocessing import Preprocessing
from tascnet.models.text import TextPreprocessing
from tascnet.options import Data, Tune, TuneBase
from tascnet.train import Archive, Learner
from tascnet.train.transfer import outputs_of
from tascnet.tuning.space import Choice, Unit
from tascnet.tuning.tails import Tails

SIZE = "input.size"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What depends on the size of the images.

    Args:
        tails: trains tails on features of this size.
        build: builds candidates for it.
        clock: latencies of one sample of this size.
        archive: saves networks with the preprocessing of this size.
    """

    tails: Tails
    build: Callable[[dict[str, Any]], Any]
    clock: Clock
    archive: Archive

    @property
    def learner(self) -> Learner:
        """With the samples of this size."""
        return self.tails.learner


class Settings:
    """The settings of a search, each made once.

    Args:
        native: of the size that the network was made for.
        make: of another size.
    """

    def __init__(self, native: Setting, make: Callable[[int], Setting]) -> None:
        self.native, self._make = native, make
        self._made = {size_of(native.learner): native}

    def __call__(self, config: Mapping[str, Any]) -> Setting:
        """The setting of a configuration."""
        size = config.get(SIZE)
        if size is None:
            return self.native
        if size not in self._made:
            self._made[size] = self._make(int(size))
        for other, setting in self._made.items():
            if other != size:
                setting.tails.forget()
        return self._made[size]

    def tails(self, size: int | None) -> Tails:
        """The tails for images of a size; None: the network's own."""
        return self({} if size is None else {SIZE: size}).tails


def size_of(learner: Learner) -> int | None:
    """The side of a learner's images; None: it has texts."""
    return getattr(learner.samples.preprocessing, "size", None)


def resized(preprocessing: Preprocessing, size: int) -> Preprocessing:
    """The same preprocessing for another side, with the share of the image that is cropped."""
    scaled = round(preprocessing.resize * size / preprocessing.size)
    return replace(preprocessing, size=size, resize=max(scaled, size))


def sample_of(learner: Learner, config: Mapping[str, Any]) -> Tensor:
    """One sample of a configuration's size, `1 x c x h x w`."""
    if SIZE not in config:
        return learner.samples.example
    preprocessing = learner.samples.preprocessing
    assert isinstance(preprocessing, Preprocessing)
    return torch.zeros(resized(preprocessing, int(config[SIZE])).example_shape)


def check_sizes(network: nn.Sequential, options: TuneBase) -> None:
    """Check that a network takes images of all sizes that are searched.

    Raises:
        ConfigError: it does not.
    """
    if not isinstance(options, Tune) or not options.sizes:
        return
    preprocessing = network.preprocessing
    if isinstance(preprocessing, TextPreprocessing):
        raise ConfigError("`sizes` has no effect on a network of texts", "leave it out")
    assert isinstance(preprocessing, Preprocessing)
    for size in options.sizes:
        try:
            outputs_of(network, torch.zeros(resized(preprocessing, size).example_shape))
        except ConfigError as error:
            raise ConfigError(f"`sizes` has {size}, but {error.message}", "leave this size out") from error


def learners_of(learner: Learner, data: Data, options: TuneBase) -> dict[int, Learner]:
    """Learners of the same splits for all sizes of the images that are searched.

    Raises:
        DataError: the data set has no images of another size.
    """
    preprocessing = learner.samples.preprocessing
    if not isinstance(options, Tune) or not isinstance(preprocessing, Preprocessing):
        return {}
    found = {}
    for size in options.sizes:
        if size == preprocessing.size:
            continue
        samples = open_samples(
            data,
            resized(preprocessing, size),
            seed=learner.seed,
            cache=learner.samples.cache,
            cache_limit_gb=learner.samples.cache_limit_gb,
            quiet=True,
        )
        found[size] = replace(learner, samples=samples)
    return found


def with_sizes(units: tuple[Unit, ...], learner: Learner, options: TuneBase) -> tuple[Unit, ...]:
    """Units whose first one has the choice of the images' size, where there is one."""
    size = size_of(learner)
    if not isinstance(options, Tune) or size is None:
        return units
    choice = Choice.ordinal(SIZE, options.sizes, size, 0)
    if len(choice.values) == 1:
        return units
    return (replace(units[0], choices=(*units[0].choices, choice)), *units[1:])
