"""Every option, once: its type, bounds and default, and one sentence of help.

The classes here are what the library's functions take and what the command line composes. They are frozen,
and check their values when they are made: types, bounds, choices, and rules between options of one class.
"""

import math
import operator
import re
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, make_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Union, cast, get_args, get_origin

from tascnet.errors import ConfigError, closest, listed

# Published data sets of images and of texts, and those of them that come with a test split.
PUBLISHED_IMAGES = ("caltech101", "caltech256", "stanford_dogs", "cifar10", "oxford_flowers102")
OFFICIAL_TESTS = ("stanford_dogs", "cifar10", "oxford_flowers102")
PUBLISHED_TEXTS = ("movie_review", "subjectivity")

ACTIVATIONS = (
    *("relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "hardswish", "tanh", "sigmoid"),
)
NORMS = ("none", "l2", "batchnorm")
# What `criterion` takes beside dotted paths.
CRITERIA = (
    *("history", "reconstruction", "magnitude", "taylor", "fpgm", "lamp", "hessian", "bn_scale", "random"),
)

BOUNDS: tuple[tuple[str, Callable[[float, float], bool], str], ...] = (
    ("minimum", operator.lt, "at least"),
    ("above", operator.le, "above"),
    ("maximum", operator.gt, "at most"),
    ("below", operator.ge, "below"),
)
TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def option(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    words: tuple[str, ...] = (),
    unique: bool = True,
    empty: bool = False,
    extendable: bool = False,
    cosmetic: bool = False,
) -> Any:
    """A field of an option class.

    Args:
        default: its value where none is given.
        help: one sentence.
        choices: the texts that it takes, or that each item of a list is one of.
        minimum: the smallest number, or item of a list.
        maximum: the largest.
        above: a bound that numbers are larger than.
        below: a bound that numbers are smaller than.
        words: texts that may stand for a number.
        unique: a list names no value twice.
        empty: a list may be empty.
        extendable: may be changed when a finished or interrupted run is resumed.
        cosmetic: cannot change a run's numbers.
    """
    metadata = {key: value for key, value in locals().items() if key != "default"}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options that check themselves.

    Raises:
        ConfigError: a value has the wrong type, is out of bounds or contradicts another one.
    """

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = _checked(entry.name, entry, entry.type, getattr(self, entry.name))
            object.__setattr__(self, entry.name, value)
        for wrong, message, hint in self.rules():
            if wrong:
                raise ConfigError(message, hint)

    def rules(self) -> Iterator[tuple[bool, str, str | None]]:
        """Rules between these options: whether one is broken, what is wrong, and what to do."""
        return iter(())

    def changed(self, name: str) -> bool:
        """Whether an option has another value than its default."""
        (entry,) = [entry for entry in fields(self) if entry.name == name]
        return bool(getattr(self, name) != default_of(entry))


def make(cls: type[Any], values: Mapping[str, Any]) -> Any:
    """An option class from nested mappings, such as YAML gives them.

    Raises:
        ConfigError: a name is unknown, or a value does not fit.
    """
    known = {entry.name: entry.type for entry in fields(cls)}
    for name in values:
        if name not in known:
            likely = closest(str(name), known)
            raise ConfigError(f"there is no option `{name}`", f"did you mean `{likely}`?" if likely else None)
    for name, value in values.items():
        if is_dataclass(known[name]) and not isinstance(value, Mapping):
            raise ConfigError(
                f"`{name}` is a section of options and takes no value",
                f"give one of them, such as `{name}.{fields(cast(Any, known[name]))[0].name}=...`",
            )
    nested = {
        name: _made_inside(name, known[name], value) if is_dataclass(known[name]) else value
        for name, value in values.items()
    }
    return cls(**nested)


def _made_inside(section: str, cls: Any, values: Mapping[str, Any]) -> Any:
    """Options below a section, whose errors name it."""
    try:
        return make(cls, values)
    except ConfigError as error:
        raise ConfigError(*_inside(section, error)) from None


def _inside(section: str, error: ConfigError) -> tuple[str, str | None]:
    """Message and hint of an error, with the section before each option."""
    hint = error.hint and re.sub(r"`(?=\w)", f"`{section}.", error.hint)
    return re.sub(r"`(?=\w)", f"`{section}.", error.message), hint


def known_fields(cls: type[Any], prefix: str = "") -> Iterator[tuple[str, Field[Any]]]:
    """Each option below an option class as `(dotted name, field)`."""
    for entry in fields(cls):
        if is_dataclass(entry.type):
            yield from known_fields(entry.type, f"{prefix}{entry.name}.")  # type: ignore[arg-type]
        else:
            yield f"{prefix}{entry.name}", entry


def default_of(entry: Field[Any]) -> Any:
    """The default value of a field."""
    return entry.default if entry.default_factory is MISSING else entry.default_factory()


def type_name(kind: Any) -> str:
    """A type in words: `a whole number or null`."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        shown = [item for item in inner if not (item is int and float in inner)]
        return " or ".join("null" if item is type(None) else type_name(item) for item in shown)
    if origin is tuple:
        return f"a list such as {({str: '[a,b]', float: '[0.5,1]'}).get(inner[0], '[1,2]')}"
    return TYPE_NAMES.get(kind, str(kind))


# Data sets.


@dataclass(frozen=True, kw_only=True)
class Data(Options):
    """What the samples are and how they are split; the rest of the samples is the test split."""

    name: str = option("", "Name of the data set.")
    train: int | float = option(
        0.7, "Training samples of each class: a whole number is a count, a number below 1 a share.", above=0
    )
    val: int | float = option(0.15, "Validation samples of each class, a count or a share.", above=0)

    def rules(self) -> Iterator[tuple[bool, str, str | None]]:
        for name in ("train", "val"):
            value = getattr(self, name)
            yield (
                isinstance(value, float) and value >= 1,
                f"`{name}={shown(value)}` is neither a count nor a share",
                f"give a whole number such as `{name}=20`, or a share below 1 such as `{name}=0.7`",
            )
        yield (
            isinstance(self.train, int) != isinstance(self.val, int),
            f"`train={shown(self.train)}` and `val={shown(self.val)}` are a count and a share",
            "give two counts or two shares",
        )
        yield (
            isinstance(self.train, float) and self.train + self.val >= 1,
            f"`train` + `val` is {self.train + self.val:g}",
            "leave a share for the test split: a sum below 1",
        )


@dataclass(frozen=True, kw_only=True)
class Images(Data):
    """Images, and how they are augmented in training from images."""

    classes: tuple[str, ...] | None = option(
        None, "Names of the classes to take, in this order for digits and lists of files; null takes all."
    )
    flip: bool = option(True, "Augmentation: mirror images at random.")
    min_scale: float = option(
        1.0,
        "Augmentation: smallest share of the area that a random crop takes; 1 shifts only.",
        minimum=0.05,
        maximum=1,
    )
    pad: int = option(0, "Augmentation: pixels of edge padding before a random crop.", minimum=0)

    def rules(self) -> Iterator[tuple[bool, str, str | None]]:
        yield from super().rules()
        yield (
            self.classes is not None and len(self.classes) < 2,
            f"`classes` takes at least two classes, not {shown(self.classes)}",
            None,
        )


@dataclass(frozen=True, kw_only=True)
class Digits(Images):
    """scikit-learn's scans of digits, 8 x 8 pixels: no files, no network."""

    name: str = option("digits", "Name of the data set.")

    def rules(self) -> Iterator[tuple[bool, str, str | None]]:
        yield from super().rules()
        yield (
            not set(self.classes or ()) <= set("0123456789"),
            f"`classes` takes digits from 0 to 9, not {shown(self.classes)}",
            None,
        )


@dataclass(frozen=True, kw_only=True)
class Files(Options):
    """Samples in files."""

    root: str | None = option(None, "Folder of the files; null looks for a published data set in the cache.")


@dataclass(frozen=True, kw_only=True)
class _ImageFiles(Images, Files):
    unreadable: str = option(
        "refuse",
        "What to do with files that cannot be read: refuse the data set or skip them.",
        choices=("refuse", "skip"),
    )


@dataclass(frozen=True, kw_only=True)
class ImageFolder(_ImageFiles):
    """Your own images: one folder a class, or a list of files and labels."""

    name: str = option("image_folder", "Name of the data set.")
    csv: str | None = option(
        None, "A CSV file with a line `file,label` for each image, instead of class folders."
    )

    def rules(self) -> Iterator[tuple[bool, str, str | None]]:
        yield from super().rules()
        yield (
            self.root is None and self.csv is None,
            "the folder of the images is missing",
            "give it as `root=<folder>`, or a list of files and labels as `csv=<file>`",
        )


@dataclass(frozen=True, kw_only=True)
class _Download(Files):
    download: bool = option(False, "Download a published data set that is not there yet.", cosmetic=True)


@dataclass(frozen=True, kw_only=True)
class PublishedImages(_ImageFiles, _Download):
    """A published data set of images."""

    name: str = option("caltech101", "Name of the data set.", choices=PUBLISHED_IMAGES)
    official_test: bool = option(
        False, "Use the test split that the data set comes with; false draws all three splits."
    )

    def rules(self) -> Iterator[tuple[bool, str, str | None]]:
        yield from super().rules()
        yield (
            self.official_test and self.name not in OFFICIAL_TESTS,
            f"{self.name} comes with no official test split, but {listed(OFFICIAL_TESTS)} do",
            "leave `official_test` out",
        )


@dataclass(frozen=True, kw_only=True)
class Texts(Data, Files):
    """Your own texts: one file a class, UTF-8, one text a line."""

    name: str = option("text_lines", "Name of the data set.")
    max_tokens: int = option(
        64,
        "Texts are padded or cut to this many tokens; FLOPs are counted for this length.",
        minimum=1,
        maximum=4096,
    )

    def rules(self) -> Iterator[tuple[bool, str, str | None]]:
        yield from super().rules()
        yield (
            self.root is None and self.name not in PUBLISHED_TEXTS,
            "the folder of the texts is missing",
            "give it as `root=<folder>`",
        )


@dataclass(frozen=True, kw_only=True)
class PublishedTexts(Texts, _Download):
    """A published data set of texts."""

    name: str = option("movie_review", "Name of the data set.", choices=PUBLISHED_TEXTS)


DATASETS: dict[str, type[Data]] = {
    "digits": Digits,
    "image_folder": ImageFolder,
    **dict.fromkeys(PUBLISHED_IMAGES, PublishedImages),
    "text_lines": Texts,
    **dict.fromkeys(PUBLISHED_TEXTS, PublishedTexts),
}

# Networks.


@dataclass(frozen=True, kw_only=True)
class Backbone(Options):
    """The pre-trained network."""

    name: str = option("", "Name of the network.")
    weights: str = option(
        "pretrained", "pretrained, random, or a file of weights (.safetensors, or .pth without code)."
    )


@dataclass(frozen=True, kw_only=True)
class ImageBackbone(Backbone):
    """A network for images, and the images that it expects."""

    name: str = option(
        "mobilenet_v2",
        "Name of the network.",
        choices=(
            *("vgg16", "resnet18", "resnet50", "densenet121", "mobilenet_v2"),
            *("resnet20", "resnet56", "digits_cnn", "custom"),
        ),
    )
    size: int = option(224, "Side of the square that the network sees, in pixels.", minimum=1)
    resize: int | None = option(
        None, "Shorter side after resizing, in pixels; null is 8/7 of the size, rounded.", minimum=1
    )
    mean: tuple[float, ...] = option(
        (0.485, 0.456, 0.406), "Mean of each channel, for pixels in [0, 1].", unique=False
    )
    std: tuple[float, ...] = option(
        (0.229, 0.224, 0.225), "Standard deviation of each channel.", above=0, unique=False
    )
    interpolation: str = option("bilinear", "How images are resized.", choices=("bilinear", "bicubic"))

    def rules(self) -> Iterator[tuple[bool, str, str | None]]:
        yield (
            len(self.mean) != len(self.std) or len(self.mean) not in (1, 3),
            f"`mean` and `std` have {len(self.mean)} and {len(self.std)} values",
            "give one value for grey images or three for colour, the same number for both",
        )
        yield (
            self.resize is not None and self.resize < self.size,
            f"`resize={self.resize}` is smaller than `size={self.size}`",
            "images are resized first, then cropped: give at least the size",
        )


@dataclass(frozen=True, kw_only=True)
class CustomBackbone(ImageBackbone):
    """Your own network."""

    name: str = option("custom", "Name of the network.")
    weights: str = option("random", "random, or a file of weights for the network.")
    factory: str | None = option(
        None, "Dotted path of `factory(num_classes)`, which gives your network as an nn.Sequential."
    )

    def rules(self) -> Iterator[tuple[bool, str, str | None]]:
        yield from super().rules()
        yield (
            self.factory is None,
            "the function that makes the network is missing",
            "give its dotted path as `factory=<module>.<function>`",
        )


@dataclass(frozen=True, kw_only=True)
class TextBackbone(Backbone):
    """Convolutions over the words of a text (Kim 2014)."""

    name: str = option("textcnn", "Name of the network.")
    weights: str = option("random", "random, or a file of weights that stage pretrain left.")
    embedding_width: int = option(128, "Numbers in a word's vector.", minimum=1, maximum=4096)
    filters: int = option(100, "Filters of each of the three convolutions.", minimum=2, maximum=4096)
    vectors: str | None = option(
        None, "A file of word vectors in GloVe's format, from which the embedding starts."
    )


BACKBONES: dict[str, type[Backbone]] = {"textcnn": TextBackbone, "custom": CustomBackbone}

# Training.


@dataclass(frozen=True, kw_only=True)
class Steps(Options):
    """How a network is trained, without how long."""

    batch_size: int = option(32, "Samples of a step.", minimum=1)
    optimizer: str = option(
        "adamw",
        "Optimiser; sgd and nesterov have a momentum of 0.9.",
        choices=("adamw", "sgd", "nesterov", "adagrad"),
    )
    lr: float = option(1e-3, "Peak learning rate.", minimum=0)
    weight_decay: float = option(1e-2, "Weight decay: decoupled for adamw, L2 for the others.", minimum=0)
    schedule: str = option(
        "cosine",
        "Learning rate over the steps: cosine falls to zero, step and plateau multiply by factor.",
        choices=("constant", "cosine", "step", "plateau"),
    )
    min_lr: float = option(0.0, "Learning rate below which plateau does not reduce.", minimum=0)
    warmup: float = option(
        0.0, "Share of the steps over which the learning rate rises.", minimum=0, maximum=1
    )
    step_epochs: int = option(20, "Epochs between two reductions of step.", minimum=1)
    factor: float = option(0.5, "Factor of a reduction of step and plateau.", minimum=0, maximum=1)
    plateau_patience: int = option(5, "Epochs without improvement before plateau reduces.", minimum=0)
    label_smoothing: float = option(0.0, "Label smoothing of the cross-entropy.", minimum=0, maximum=1)
    batchnorm: str = option(
        "train",
        "Batch-norm statistics of trained layers: of each batch, or frozen as they are.",
        choices=("train", "frozen"),
    )

    def rules(self) -> Iterator[tuple[bool, str, str | None]]:
        yield (
            self.min_lr > 0 and self.schedule != "plateau",
            f"`min_lr` has no effect with `schedule={self.schedule}`",
            "add `schedule=plateau`",
        )
        yield (
            self.min_lr > self.lr,
            f"`min_lr` is {self.min_lr:g}, above `lr`, {self.lr:g}",
            "lower it",
        )


@dataclass(frozen=True, kw_only=True)
class Recipe(Steps):
    """How a network is trained, and how long."""

    epochs: int = option(10, "Passes over the training samples.", minimum=1)
    epoch_share: float = option(
        1.0, "Share of the training samples that each epoch draws.", minimum=0.001, maximum=1
    )
    patience: int | None = option(
        None,
        "Epochs without a better validation accuracy before training stops; null never stops.",
        minimum=1,
    )


if TYPE_CHECKING:

    class StepChanges(Steps):
        """What differs from the base recipe, without how long; None takes the base's value."""

    class RecipeChanges(Recipe):
        """What differs from the base recipe; None takes the base's value."""

else:

    def _changes(name, base, doc):
        entries = [
            (entry.name, entry.type | None, field(default=None, metadata=entry.metadata))
            for entry in fields(base)
        ]
        made = make_dataclass(name, entries, bases=(Options,), frozen=True, kw_only=True)
        made.__module__, made.__doc__ = __name__, doc
        return made

    StepChanges = _changes("StepChanges", Steps, "What differs from the base recipe, without how long.")
    RecipeChanges = _changes("RecipeChanges", Recipe, "What differs from the base recipe.")

RECIPES = ("pretrain", "head", "trial", "finetune", "recover")


@dataclass(frozen=True, kw_only=True)
class Trainer(Recipe):
    """What all recipes have in common, and what differs from it for each kind of training."""

    pretrain: RecipeChanges = field(
        default_factory=RecipeChanges, metadata={"help": "Training from random weights."}
    )
    head: RecipeChanges = field(
        default_factory=RecipeChanges, metadata={"help": "Training of a new head on cached features."}
    )
    trial: RecipeChanges = field(
        default_factory=RecipeChanges, metadata={"help": "Training of a trial of the search."}
    )
    finetune: RecipeChanges = field(
        default_factory=RecipeChanges, metadata={"help": "Fine-tuning from images or texts."}
    )
    recover: StepChanges = field(
        default_factory=StepChanges,
        metadata={"help": "All training in pruning, whose options say for how many epochs."},
    )
    class_weights: str = option(
        "none", "Weight of a class in the loss: none, or balanced by its size.", choices=("none", "balanced")
    )

    def recipe(self, name: str) -> Recipe:
        """The recipe of one kind of training: what differs from the common one, and the rest of that."""
        common = {entry.name: getattr(self, entry.name) for entry in fields(Recipe)}
        own = getattr(self, name)
        changes = {entry.name: getattr(own, entry.name) for entry in fields(own)}
        return Recipe(**common | {key: value for key, value in changes.items() if value is not None})

    def rules(self) -> Iterator[tuple[bool, str, str | None]]:
        yield from super().rules()
        for name in RECIPES:
            try:
                self.recipe(name)
            except ConfigError as error:
                yield True, *_inside(name, error)


@dataclass(frozen=True, kw_only=True)
class Measure(Options):
    """How latency is measured."""

    batch: int = option(
        16, "Samples in a batch; latency is measured for one sample and for a batch.", minimum=1
    )
    repeats: int = option(30, "Passes that are timed; the latency is their median.", minimum=3)


@dataclass(frozen=True, kw_only=True)
class Targets(Options):
    """Bounds of a search, and goals of pruning, as shares of the network that the stage is given."""

    flops_target: float | None = option(None, "Share of the FLOPs.", above=0, maximum=1, extendable=True)
    params_target: float | None = option(
        None, "Share of the parameters.", above=0, maximum=1, extendable=True
    )
    size_target: float | None = option(None, "Share of the file size.", above=0, maximum=1, extendable=True)
    latency_target: float | None = option(
        None, "Share of the latency for one sample.", above=0, maximum=1, extendable=True
    )
    latency_target_ms: float | None = option(
        None, "Latency for one sample on this device, in milliseconds.", above=0, extendable=True
    )

    @property
    def has_targets(self) -> bool:
        """Whether any bound or goal is given."""
        return any(getattr(self, entry.name) is not None for entry in fields(Targets))

    @property
    def has_latency_target(self) -> bool:
        """Whether latency has to be measured."""
        return self.latency_target is not None or self.latency_target_ms is not None


# Stage one.


@dataclass(frozen=True, kw_only=True)
class TuneBase(Targets):
    """Stage one: what its search spaces share."""

    # A bound decides which trials there are: unlike pruning, a search cannot be resumed with another one.
    fixed: ClassVar[frozenset[str]] = frozenset(entry.name for entry in fields(Targets))

    space: str = option(
        "tascnet",
        "What is searched: pre-trained layers changed by surgery, or new layers in place of the last ones.",
        choices=("tascnet", "autotune"),
    )
    algorithm: str = option(
        "bo",
        "What proposes trials: Bayesian optimisation, random or quasi-random points, or one trial for each "
        "block from which the network may be trained.",
        choices=("bo", "random", "sobol", "layerwise"),
    )
    objective: str = option(
        "accuracy",
        "What a trial is judged by: accuracy within the targets, loss, or accuracy against FLOPs or params.",
        choices=("accuracy", "loss", "pareto_flops", "pareto_params"),
    )
    pick: int | None = option(
        None,
        "Number of the trial of a finished search to fine-tune; null is the winner.",
        minimum=0,
        cosmetic=True,
    )
    hidden_layers: tuple[int, ...] = option(
        (0, 1), "Choices for the hidden layers of the dense head.", minimum=0
    )
    neurons: tuple[int, ...] = option(
        (128, 256, 512), "Choices for the neurons of a hidden layer.", minimum=1
    )
    dropouts: tuple[float, ...] = option(
        (0.0, 0.2, 0.4), "Choices for the dropout of the dense head.", minimum=0, below=1
    )
    start_depth: int = option(
        1, "Depth of the first trials; 0 searches the dense head before all else.", minimum=0, maximum=1
    )
    initial_trials: int = option(6, "Trials before the surrogate proposes.", minimum=1)
    trials_per_depth: int = option(
        8, "Trials before the search goes one unit deeper.", minimum=1, extendable=True
    )
    max_units: int | None = option(
        None,
        "Deepest unit that is searched; null is 3, and all of them with algorithm layerwise.",
        minimum=1,
        extendable=True,
    )
    max_trials: int | None = option(
        None, "Most trials; null is 24, or as many as max_seconds allows.", minimum=1, extendable=True
    )
    max_seconds: float | None = option(None, "Most seconds of all trials together.", above=0, extendable=True)
    patience: int = option(
        1, "Depths without a better validation accuracy before the search ends.", minimum=1, extendable=True
    )
    early_stop: int | None = option(
        None,
        "Epoch from which a trial below the median of earlier ones is stopped; null: never.",
        minimum=1,
    )
    tolerance: float | None = option(
        0.02,
        "Trials this close to the best validation accuracy compete by size; null is one standard error.",
        minimum=0,
        maximum=1,
    )
    finetune_from: str = option(
        "auto",
        "Where fine-tuning of the winner begins: at the conventionally fine-tuned network, or at its trial "
        "with its own first trained block (prefix), the first of all (all) or the better of both (best).",
        choices=("auto", "conventional", "best", "all", "prefix"),
    )

    @property
    def is_layerwise(self) -> bool:
        """Whether each trial is the pre-trained network, trained from one block on."""
        return self.algorithm == "layerwise"

    def rules(self) -> Iterator[tuple[bool, str, str | None]]:
        for entry in fields(Targets):
            is_given = getattr(self, entry.name) is not None
            yield (
                is_given and self.objective != "accuracy",
                f"`{entry.name}` has no effect with `objective={self.objective}`",
                "leave it out, or take `objective=accuracy`",
            )
            yield (
                is_given and self.is_layerwise,
                f"`{entry.name}` has no effect with `algorithm=layerwise`, whose trials are all of one size",
                "leave it out, or take another `algorithm`",
            )
        yield (
            self.is_layerwise and self.max_units is not None,
            "`max_units` has no effect with `algorithm=layerwise`, which goes through all depths",
            "leave it out; `max_trials` and `max_seconds` limit the number of depths",
        )


@dataclass(frozen=True, kw_only=True)
class Tune(TuneBase):
    """Stage one: pre-trained layers with inherited weights, changed by surgery."""

    layerwise_every: int = option(1, "Blocks from one trial of algorithm layerwise to the next.", minimum=1)
    widths: tuple[float, ...] = option(
        (0.25, 0.5, 0.75, 1.0),
        "Choices for the share of channels that a group of layers keeps.",
        above=0,
        maximum=1,
        empty=True,
    )
    round_to: int = option(8, "Widths are multiples of this.", minimum=1)
    kernels: tuple[int, ...] = option(
        (3, 5), "Choices for the side of a kernel, beside the pre-trained one.", minimum=1, empty=True
    )
    activations: tuple[str, ...] = option(
        ("relu", "elu"),
        "Choices for activations, beside the pre-trained one.",
        choices=ACTIVATIONS,
        empty=True,
    )
    remove_blocks: bool = option(True, "Whether residual blocks with an identity shortcut may be removed.")
    lr_factors: tuple[float, ...] = option(
        (1.0,), "Choices for a trial's learning rate, as multiples of its recipe's.", above=0
    )
    importance: str = option(
        "magnitude", "Which channels a narrower trial keeps.", choices=("magnitude", "fpgm", "random")
    )
    head: str = option(
        "new",
        "The dense head: new, grown on the pre-trained classification layer, or the better one (search).",
        choices=("new", "grow", "search"),
    )
    grow_norms: tuple[str, ...] = option(
        NORMS, "Choices for the normalisation between the old head and the grown one.", choices=NORMS
    )
    slim_every: int = option(
        3, "Every n-th proposal looks for a smaller network near the best one; 0 never does.", minimum=0
    )
    distill: float = option(
        0.8,
        "Weight of the distillation loss from the conventionally fine-tuned network.",
        minimum=0,
        maximum=1,
    )

    @property
    def looks_for_narrower(self) -> bool:
        """Whether the winner is the pre-trained network made smaller, unless a searched head has grown."""
        return not self.is_layerwise and self.head != "grow"

    def rules(self) -> Iterator[tuple[bool, str, str | None]]:
        yield from super().rules()
        yield self.space != "tascnet", f"these are not the options of `space={self.space}`", "take Autotune"
        yield (
            self.head == "new" and self.changed("grow_norms"),
            "`grow_norms` has no effect with `head=new`",
            "add `head=grow` or `head=search`",
        )
        yield (
            self.is_layerwise and self.objective.startswith("pareto"),
            f"`objective={self.objective}` has no effect with `algorithm=layerwise`, whose trials are all of "
            "one size",
            "take `objective=accuracy`, or another `algorithm`",
        )
        yield (
            self.is_layerwise and self.head == "search",
            "`head=search` has no effect with `algorithm=layerwise`, which searches depths only",
            "take `head=new` or `head=grow`",
        )
        yield (
            not self.is_layerwise and self.changed("layerwise_every"),
            f"`layerwise_every` has no effect with `algorithm={self.algorithm}`",
            "add `algorithm=layerwise`",
        )
        for name, learns in (("algorithm", "bo"), ("objective", "accuracy")):
            yield (
                self.slim_every > 0 and self.changed("slim_every") and getattr(self, name) != learns,
                f"`slim_every` has no effect with `{name}={getattr(self, name)}`",
                f"leave it out, or take `{name}={learns}`",
            )
        yield (
            self.finetune_from == "conventional" and not (self.looks_for_narrower and self.head == "new"),
            "`finetune_from=conventional` needs a winner that is the pre-trained network made smaller",
            "take `finetune_from=auto`",
        )
        teaches = self.looks_for_narrower and self.finetune_from in ("auto", "conventional")
        yield (
            not teaches and self.changed("distill"),
            "`distill` has no effect without a conventional network that teaches (`finetune_from`)",
            "leave it out",
        )


@dataclass(frozen=True, kw_only=True)
class Autotune(TuneBase):
    """Stage one: new layers in place of the last ones (Basha et al. 2020, AutoTune, arXiv 2005.02165)."""

    space: str = option("autotune", "What is searched.", choices=("tascnet", "autotune"))
    skip: str = option(
        "keep",
        "Shortcuts: kept and matched by 1x1 convolutions, or dropped for a plain chain.",
        choices=("keep", "drop"),
    )
    dense: str = option(
        "replace",
        "Dense layers before the classifier: kept as layers of the chain, or replaced by the searched ones.",
        choices=("keep", "replace"),
    )
    filters: tuple[int, ...] = option(
        (64, 128, 256, 512), "Choices for the filters of a convolution.", minimum=1
    )
    filter_sizes: tuple[int, ...] = option((1, 2, 3, 5), "Choices for the side of a kernel.", minimum=1)
    activations: tuple[str, ...] = option(
        ("relu", "sigmoid", "tanh", "elu", "selu"),
        "Choices for the activation of a convolution.",
        choices=ACTIVATIONS,
    )
    pool_sizes: tuple[int, ...] = option((2, 3), "Choices for the side of a pooling window.", minimum=1)
    paddings: tuple[int, ...] = option((1, 3), "Choices for zero-padding.", minimum=0)

    def rules(self) -> Iterator[tuple[bool, str, str | None]]:
        yield from super().rules()
        yield self.space != "autotune", f"these are not the options of `space={self.space}`", "take Tune"
        yield (
            self.is_layerwise,
            "`algorithm=layerwise` trains the pre-trained layers, but `space=autotune` replaces them",
            "take another `algorithm`, or `space=tascnet`",
        )
        yield (
            self.finetune_from == "conventional",
            "`finetune_from=conventional` needs a winner that is the pre-trained network made smaller",
            "take `finetune_from=auto`",
        )


# Stage two.


@dataclass(frozen=True, kw_only=True)
class Prune(Targets):
    """Stage two: what is removed, what becomes of it, and when to stop."""

    criterion: str = option(
        "reconstruction",
        "What ranks filters: history, reconstruction, a criterion of torch-pruning (magnitude, taylor, fpgm, "
        "lamp, hessian, bn_scale, random), or the dotted path of a torch_pruning.importance.Importance.",
    )
    scope: str = option(
        "global",
        "Which filters compete: those of one group, or of all groups by FLOPs, params or filters saved.",
        choices=("group", "global", "global_params", "global_filters"),
    )
    where: str = option(
        "all",
        "Which layers are pruned: all, or only those that stage tune has searched (tail).",
        choices=("all", "tail"),
    )
    min_filters: int = option(16, "Groups with fewer filters are not pruned.", minimum=2)
    round_to: int | str = option(
        8,
        "Widths are multiples of this; auto takes what the device runs fastest with.",
        minimum=1,
        words=("auto",),
    )
    blocks: bool = option(
        False,
        "Whether a residual block may be removed where that costs less accuracy than filters that save the "
        "same time.",
    )
    merge: str = option(
        "refit",
        "What becomes of removed filters: nothing, averaged into their pair, folded into the kept ones by "
        "activations or by weights, or folded and every layer refitted.",
        choices=("none", "average", "fold", "fold_weights", "refit"),
    )
    pruning_ratio: float = option(
        0.05, "Share of the filters that one iteration removes.", above=0, maximum=0.95
    )
    max_pruning_ratio: float = option(
        0.25, "Largest share of a group that one iteration removes.", above=0, maximum=0.95
    )
    one_shot: bool = option(
        False, "One large cut to the target: shares of 0.95 of all filters and 0.75 of a group an iteration."
    )
    epochs: int = option(4, "Training epochs of one iteration, all its phases together.", minimum=1)
    final_epochs: int = option(0, "Further training epochs of the final network.", minimum=0)
    distill: float = option(
        0.5, "Weight of the distillation loss from the unpruned network.", minimum=0, maximum=1
    )
    tolerance: float = option(
        0.02, "Largest fall of validation accuracy below the best.", minimum=0, maximum=1, extendable=True
    )
    retries: int = option(
        2,
        "Smaller steps to try in a row after one whose accuracy falls below the tolerance.",
        minimum=0,
        extendable=True,
    )
    max_iterations: int = option(10, "Most iterations.", minimum=1, extendable=True)
    max_seconds: float | None = option(
        None, "Most seconds of all iterations together.", above=0, extendable=True
    )
    sensitivity: bool = option(
        False, "Also measure the accuracy without 10, 25 and 50 % of each group alone.", cosmetic=True
    )

    @property
    def ratio(self) -> float:
        """Share of the filters that one iteration removes."""
        return 0.95 if self.one_shot else self.pruning_ratio

    @property
    def group_ratio(self) -> float:
        """Largest share of a group that one iteration removes."""
        return 0.75 if self.one_shot else self.max_pruning_ratio

    def rules(self) -> Iterator[tuple[bool, str, str | None]]:
        has_pairs, likely = self.criterion == "history", closest(self.criterion, CRITERIA)
        is_path = "." in self.criterion and all(part.isidentifier() for part in self.criterion.split("."))
        yield (
            self.criterion not in CRITERIA and not is_path,
            f"`criterion` has no choice {self.criterion!r}",
            f"did you mean `criterion={likely}`?"
            if likely
            else f"it takes {listed(CRITERIA)}, or a dotted path",
        )
        yield (
            has_pairs != isinstance(self, HistoryPrune),
            f"these are not the options of `criterion={self.criterion}`",
            "take HistoryPrune for the criterion history, and Prune for the others",
        )
        yield (
            has_pairs and self.one_shot,
            "`one_shot=true` may remove 0.75 of a group, but `criterion=history` keeps one of each pair",
            "leave it out, or take another `criterion`",
        )
        yield (
            has_pairs and self.max_pruning_ratio > 0.5,
            f"`max_pruning_ratio={self.max_pruning_ratio:g}` is over half of a group, but one filter of each "
            "pair is kept",
            "lower it to 0.5, or take another `criterion`",
        )
        yield (
            self.merge == "average" and not has_pairs,
            f"`merge=average` needs pairs, but `criterion={self.criterion}` has none",
            "take `merge=fold` or `criterion=history`",
        )
        for name in ("pruning_ratio", "max_pruning_ratio"):
            yield (
                self.one_shot and self.changed(name),
                f"`{name}` has no effect with `one_shot=true`",
                "leave one of them out",
            )
        yield (
            self.one_shot and not self.has_targets,
            "`one_shot=true` needs a target at which the cut ends",
            "add one such as `flops_target=0.5`",
        )


@dataclass(frozen=True, kw_only=True)
class HistoryPrune(Prune):
    """Stage two by the history of filters (Basha et al. 2022, TASCNet, arXiv 2205.05967)."""

    criterion: str = option("history", "What ranks filters: how similar pairs of them stay in training.")
    scope: str = option(
        "group",
        "Which filters compete: those of one group, or of all groups by FLOPs saved.",
        choices=("group", "global"),
    )
    min_filters: int = option(128, "Groups with fewer filters are not pruned.", minimum=2)
    merge: str = option(
        "fold",
        "What becomes of removed filters.",
        choices=("none", "average", "fold", "fold_weights", "refit"),
    )
    history: str = option(
        "restart",
        "Recording restarts in each iteration, or continues through optimisation and retraining.",
        choices=("restart", "continue"),
    )
    history_epochs: int | None = option(
        None, "Epochs of an iteration that record the history; null is a seventh of them.", minimum=0
    )
    optimise_epochs: int | None = option(
        None, "Epochs of an iteration that pull pairs together; null is a seventh of them.", minimum=0
    )
    regulariser: str = option(
        "per_group_mean",
        "What pulls pairs together: exp(-mean similarity) of each group, or exp(-sum) of all as published.",
        choices=("per_group_mean", "sum"),
    )

    @property
    def phases(self) -> tuple[int, int, int]:
        """Epochs of recording, of pulling pairs together and of retraining."""
        share = max(1, round(self.epochs / 7))
        history = share if self.history_epochs is None else self.history_epochs
        optimise = share if self.optimise_epochs is None else self.optimise_epochs
        return history, optimise, self.epochs - history - optimise

    def rules(self) -> Iterator[tuple[bool, str, str | None]]:
        yield from super().rules()
        history, optimise, retrain = self.phases
        yield (
            retrain < 1,
            f"`epochs={self.epochs}` leaves none for retraining after {history} + {optimise}",
            "raise it, or lower `history_epochs` and `optimise_epochs`",
        )


# Checks.


def _checked(name: str, entry: Field[Any], kind: Any, value: Any) -> Any:
    """A value of an option as its type wants it."""
    fitted = _fitted(value, kind)
    if fitted is _WRONG:
        given = repr(value) if isinstance(value, str) else shown(value)
        raise ConfigError(f"`{name}` takes {type_name(kind)}, not {given}")
    rule = entry.metadata
    if isinstance(fitted, tuple):
        if not fitted and not rule.get("empty"):
            raise ConfigError(f"`{name}` is empty", "give at least one value")
        if rule.get("unique") and len(set(fitted)) != len(fitted):
            raise ConfigError(f"`{name}` names a value twice: {shown(fitted)}")
    for item in fitted if isinstance(fitted, tuple) else (fitted,):
        _check_item(name, rule, item)
    return fitted


def _check_item(name: str, rule: Mapping[str, Any], item: Any) -> None:
    words, choices = rule.get("words"), rule.get("choices")
    if isinstance(item, str):
        if words and item not in words:
            raise ConfigError(f"`{name}` takes a number or {listed(words)}, not {item!r}")
        if choices and item not in choices:
            likely = closest(item, choices)
            hint = f"did you mean `{name}={likely}`?" if likely else f"it takes {listed(choices)}"
            raise ConfigError(f"`{name}` has no choice {item!r}", hint)
        return
    if not isinstance(item, int | float) or isinstance(item, bool):
        return
    if not math.isfinite(item):
        raise ConfigError(f"`{name}` takes a finite number, not {item}")
    for key, is_wrong, words_of in BOUNDS:
        bound = rule.get(key)
        if bound is not None and is_wrong(item, bound):
            raise ConfigError(f"`{name}` must be {words_of} {shown(bound)}, not {shown(item)}")


_WRONG: Any = object()


def _fitted(value: Any, kind: Any) -> Any:
    """`value` as a type wants it; `_WRONG` where it does not fit."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        fits = [fitted for item in inner if (fitted := _fitted(value, item)) is not _WRONG]
        return fits[0] if fits else _WRONG
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return _WRONG
        items = tuple(_fitted(item, inner[0]) for item in value)
        return _WRONG if any(item is _WRONG for item in items) else items
    if kind is float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return _WRONG
        try:
            return float(value)
        except OverflowError:
            return math.inf
    if kind is int:
        return value if isinstance(value, int) and not isinstance(value, bool) else _WRONG
    if kind is str:
        # A command line reads `name=12` as a number.
        return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else _WRONG
    return value if isinstance(value, kind) else _WRONG


def shown(value: Any) -> str:
    """A value as it is written on a command line or in YAML."""
    if value is None:
        return "null"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
