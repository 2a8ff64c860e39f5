"""What every stage starts from: device, data, network, and where its files go."""

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tascnet import data
from tascnet.errors import ConfigError, DataError
from tascnet.models.chains.custom import Factory, find_factory
from tascnet.models.info import ModelInfo, Preprocessing
from tascnet.models.text import SPECIAL, TextPreprocessing, learn_vocabulary
from tascnet.options import TEXT_DATASETS, BackboneConfig, Config, StepsConfig
from tascnet.run.folder import cache_folder
from tascnet.train import FitResult, Recipe, fit

from .datasets import check_samples, draw_split, load_data

log = logging.getLogger("tascnet")

# Samples that networks are compared on go through them in batches of this size.
SAMPLE_BATCH = 32
# So many samples, where activations are compared and criteria read gradients.
MEASURED = 1024


@dataclass(frozen=True, kw_only=True)
class Session:
    """Device, samples and preprocessing of one run.

    Args:
        config: the composed config.
        device: where networks are trained and judged.
        preprocessing: what the network expects of an image or a text.
        dataset: all samples.
        train: training samples, augmented when a generator is given.
        val: validation samples.
        test: test samples; read once for each model that is handed over.
        views: names of the fixed views that trials train on.
        class_weights: weight of each class in the loss, or None.
        cache: folder of decoded images, features and weights shared by runs.
        excluded: how many samples of the splits were left out.
    """

    config: Config
    device: torch.device
    preprocessing: Preprocessing | TextPreprocessing
    dataset: data.Dataset | data.TextDataset
    train: data.SampleSource
    val: data.SampleSource
    test: data.SampleSource
    views: tuple[str, ...]
    class_weights: Tensor | None
    cache: Path
    excluded: int = 0

    @property
    def num_classes(self) -> int:
        return len(self.dataset.class_names)

    @property
    def example(self) -> Tensor:
        """A zero input of one sample, on the CPU, for tracing."""
        return example_input(self.preprocessing)

    @property
    def factory(self) -> Factory | None:
        """What makes chains with blocks of the user's own class, where the backbone is one."""
        return user_factory(self.config)

    def model_info(self, weights: str, licence: str) -> ModelInfo:
        return ModelInfo(
            backbone=self.config.backbone.name,
            preprocessing=self.preprocessing,
            class_names=self.dataset.class_names,
            weights=weights,
            licence=licence,
        )

    def place(self, model: nn.Sequential) -> nn.Sequential:
        """`model` on the device, channels_last."""
        model.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model

    def sample(self, count: int) -> data.SampleSource:
        """Plain training samples, drawn by the seed and at most `count`."""
        generator = torch.Generator().manual_seed(self.config.seed)
        chosen = torch.randperm(len(self.train), generator=generator)[:count]
        return data.source_of(self.dataset, self.train.rows[chosen], self.preprocessing)

    def sample_batches(self, count: int = MEASURED) -> Iterator[tuple[Tensor, Tensor]]:
        """Such samples and their labels in batches on the device."""
        sample = self.sample(count)
        for rows in torch.arange(len(sample)).split(SAMPLE_BATCH):
            yield sample.batch(rows, None).to(self.device), sample.labels[rows].to(self.device)

    def fit(
        self,
        network: nn.Sequential,
        recipe: Recipe,
        *,
        features: tuple[data.FeatureSource, data.FeatureSource] | None = None,
        **options: Any,
    ) -> FitResult:
        """Train a network that is on the device, by the run's seed and class weights.

        Args:
            network: frozen as it is to be trained.
            recipe: how and how long.
            features: cached training and validation features to train on instead of images.
            options: further ones of `tascnet.train.fit`.
        """
        train, val = features or (self.train, self.val)
        return fit(
            network,
            train,
            val,
            recipe,
            seed=self.config.seed,
            device=self.device,
            class_weights=self.class_weights,
            **options,
        )


def open_session(
    config: Config,
    preprocessing: Preprocessing | TextPreprocessing | None = None,
    vocabulary: Sequence[str] = SPECIAL,
    excluded: Collection[str] = (),
) -> Session:
    """Load and split the data set as the config says.

    Args:
        config: the composed config.
        preprocessing: of a saved model; None: the backbone's config.
        vocabulary: of a network of texts, before the words of the training texts join it.
        excluded: digests of samples that are left out of all splits.

    Raises:
        DataError: the data set is missing, empty, unreadable or too small.
        ConfigError: the device is not there.
    """
    device = resolve_device(config)
    is_text = config.dataset.name in TEXT_DATASETS
    if preprocessing is None and not is_text:
        preprocessing = backbone_preprocessing(config.backbone)
    dataset = load_data(config, preprocessing)
    drawn = draw_split(config, dataset)
    rows = _left(dataset, drawn, excluded) if excluded else drawn
    if preprocessing is None:
        preprocessing = _text_preprocessing(config, dataset, rows, vocabulary)
    if isinstance(dataset, data.TextDataset) and isinstance(preprocessing, TextPreprocessing):
        _tell_cut(dataset, preprocessing)
    augmentation = data.Augmentation(
        flip=config.dataset.flip, min_scale=config.dataset.min_scale, pad=config.dataset.pad
    )
    weights = None
    if config.trainer.class_weights == "balanced":
        weights = data.class_weights(dataset.labels[rows.train], len(dataset.class_names))
    log.info(
        "%s: %d classes, %d training, %d validation, %d test samples; device %s",
        dataset.name,
        len(dataset.class_names),
        len(rows.train),
        len(rows.val),
        len(rows.test),
        device,
    )
    return Session(
        config=config,
        device=device,
        preprocessing=preprocessing,
        dataset=dataset,
        train=data.source_of(dataset, rows.train, preprocessing, augmentation),
        val=data.source_of(dataset, rows.val, preprocessing),
        test=data.source_of(dataset, rows.test, preprocessing),
        views=("plain", "flipped") if config.dataset.flip and not is_text else ("plain",),
        class_weights=weights,
        cache=cache_folder(config),
        excluded=_count(drawn) - _count(rows),
    )


def _count(rows: data.Split) -> int:
    return len(rows.train) + len(rows.val) + len(rows.test)


def _left(
    dataset: data.Dataset | data.TextDataset, rows: data.Split, excluded: Collection[str]
) -> data.Split:
    """The split without some samples; every class keeps training samples, and every split has some."""
    left = data.without_samples(dataset, rows, excluded)
    gone = sorted(set(range(len(dataset.class_names))) - set(dataset.labels[left.train].tolist()))
    if gone or not len(left.val) or not len(left.test):
        lost = f"class {dataset.class_names[gone[0]]!r}" if gone else "the validation or test split"
        raise DataError(
            f"without the samples that are excluded {lost} of {dataset.name} is empty",
            "pre-train on other data",
        )
    return left


def _text_preprocessing(
    config: Config, dataset: data.Dataset | data.TextDataset, rows: data.Split, known: Sequence[str]
) -> TextPreprocessing:
    """The words of the training texts alone, after those that the network knows."""
    assert isinstance(dataset, data.TextDataset), "images have a preprocessing of their own"
    words = learn_vocabulary((dataset.texts[row] for row in rows.train), known)
    log.info("vocabulary: %d words, %d of them new to the network", len(words), len(words) - len(known))
    return TextPreprocessing(max_tokens=config.dataset.max_tokens, vocabulary=words)


def _tell_cut(dataset: data.TextDataset, preprocessing: TextPreprocessing) -> None:
    cut = preprocessing.count_cut(dataset.texts)
    if cut:
        log.info(
            "%d of %d texts of %s are longer than the %d tokens of dataset.max_tokens and lose their end",
            *(cut, len(dataset), dataset.name, preprocessing.max_tokens),
        )


def example_input(preprocessing: Preprocessing | TextPreprocessing) -> Tensor:
    """A zero input of one sample, on the CPU."""
    is_text = isinstance(preprocessing, TextPreprocessing)
    return torch.zeros(preprocessing.example_shape, dtype=torch.int64 if is_text else torch.float32)


def check_data(config: Config) -> None:
    """Find a missing device, a missing folder or an empty class before anything is fetched or decoded.

    Raises:
        ConfigError: the device cannot be used, or the data set needs a folder.
        DataError: the folder is missing, or a class is empty.
    """
    resolve_device(config)
    check_samples(config)


def check_input(chain: nn.Sequential, session: Session) -> None:
    """Find a network that does not take the images before anything is trained.

    Raises:
        ConfigError: it does not.
    """
    shape = " x ".join(map(str, session.example.shape[1:]))
    kind = "images" if session.example.is_floating_point() else "texts"
    try:
        with torch.no_grad():
            chain.eval()(session.example)
    except (RuntimeError, ValueError, IndexError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"backbone={session.config.backbone.name} does not take {kind} of {shape} ({reason})",
            "change backbone.size, or the network; backbone.mean has one value for each channel",
        ) from error


def backbone_preprocessing(backbone: BackboneConfig) -> Preprocessing:
    """What the backbone's config says of its input."""
    resize = backbone.resize or round(backbone.size * 8 / 7)
    if resize < backbone.size:
        raise ConfigError(
            f"backbone.resize is {resize} but must be at least backbone.size, {backbone.size}",
            "raise backbone.resize or leave it out",
        )
    return Preprocessing(
        size=backbone.size,
        resize=resize,
        mean=tuple(backbone.mean),
        std=tuple(backbone.std),
        interpolation=backbone.interpolation,
    )


def resolve_device(config: Config) -> torch.device:
    """The device that `device=` names; `auto` takes CUDA where there is one."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(config.device)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device={config.device} cannot be used here ({reason})", "take device=cpu or device=auto"
        ) from error
    return device


def user_factory(config: Config) -> Factory | None:
    """The factory of a custom backbone with its options; None for the others."""
    options = config.backbone
    if options.name != "custom" or options.factory is None:
        return None
    return partial(find_factory(options.factory), **options.options)


def recipe(config: StepsConfig, **options: Any) -> Recipe:
    """The library's recipe of a config's; `options` are those that it lacks."""
    return Recipe(**asdict(config), **options)
