"""Every option, once: type, bounds, default and one sentence of help.

The classes are frozen and check their values: types, bounds, choices, and rules between options of one class.
"""

import math
import operator
import os
import re
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, make_dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, Union, cast, get_args, get_origin

from tascnet.errors import ConfigError, closest, listed, printable

# Published data sets of images and of texts, and those of them that come with a test split.
PUBLISHED_IMAGES = ("caltech101", "caltech256", "stanford_dogs", "cifar10", "oxford_flowers102")
OFFICIAL_TESTS = ("stanford_dogs", "cifar10", "oxford_flowers102")
PUBLISHED_TEXTS = ("movie_review", "subjectivity")

# How the name of a network of timm begins.
TIMM = "timm/"
# Pillow's filters, and what is cut from an image: its centre, or the centre of the whole image made square.
INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
CROPS = ("center", "squash")

ACTIVATIONS = (
    *("relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "hardswish", "tanh", "sigmoid"),
)
NORMS = ("none", "l2", "batchnorm")
# What decides which epoch, trial or network is the best.
METRICS = ("accuracy", "balanced_accuracy")
MERGES = ("none", "average", "fold", "fold_weights", "refit")
# What `criterion` takes besides dotted paths.
CRITERIA = (
    *("history", "reconstruction", "magnitude", "taylor", "fpgm", "lamp", "hessian", "bn_scale", "random"),
)

# Where a network runs; `eager` is PyTorch as in training.
RUNTIMES = ("eager", "onnxruntime", "onnxruntime_int8", "compile", "openvino")
FORMATS = ("onnx", "onnx_int8", "onnx_fp16", "pt2", "openvino", "executorch")

# More than anyone trains, and few enough that a mistyped number is found before it costs anything.
MOST_EPOCHS, MOST_TRIALS, MOST_FILTERS = 100_000, 100_000, 65_536
# Threads for each CPU: more of them only wait for each other, and far more end the process.
THREADS_PER_CPU = 4

BOUNDS: tuple[tuple[str, Callable[[float, float], bool], str], ...] = (
    ("minimum", operator.lt, "at least"),
    ("above", operator.le, "above"),
    ("maximum", operator.gt, "at most"),
    ("below", operator.ge, "below"),
)
TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}

# Whether a rule is broken, what is wrong, and what to do.
Rule: TypeAlias = tuple[bool, str, str | None]


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

    Choices and bounds hold for each item of a list.

    Args:
        default: its value where none is given.
        help: one sentence.
        choices: the texts that it takes.
        minimum, maximum: inclusive bounds of numbers.
        above, below: exclusive bounds of numbers.
        words: texts that may stand for a number.
        unique: a list names no value twice.
        empty: a list may be empty.
        extendable: may be changed when a finished or interrupted run is resumed.
        cosmetic: cannot change a run's numbers.
    """
    metadata = {key: value for key, value in locals().items() if key != "default"}
    return field(default=default, metadata=metadata)


def _epochs(default: int | None, help: str, minimum: int = 1) -> Any:
    return option(default, help, minimum=minimum, maximum=MOST_EPOCHS)


def is_number(text: str) -> bool:
    """Whether a text reads as a number, such as `2024_05` or `1e3`."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def usable_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_rule(threads: int | None) -> Rule:
    """The rule that this machine can use so many CPU threads."""
    most = THREADS_PER_CPU * usable_cpus()
    return (
        threads is not None and not 1 <= threads <= most,
        f"`threads={threads}` is not between 1 and {most}, four for each CPU of this machine",
        f"give at most {most}, or leave it out",
    )


def _share(default: float | None, help: str, **rules: Any) -> Any:
    return option(default, help, minimum=0, maximum=1, **rules)


def _target(help: str) -> Any:
    return option(None, help, above=0, maximum=1, extendable=True)


def _no_effect(wrong: bool, name: str, beside: str, hint: str) -> Rule:
    return wrong, f"`{name}` has no effect with `{beside}`", hint


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options that check themselves.

    Raises:
        ConfigError: a value has the wrong type, is out of bounds or contradicts another one.
    """

    def __post_init__(self) -> None:
        for entry in fields(self):
            object.__setattr__(self, entry.name, _checked(entry, getattr(self, entry.name)))
        for wrong, message, hint in self.rules():
            if wrong:
                raise ConfigError(message, hint)

    def rules(self) -> Iterator[Rule]:
        """Rules between these options."""
        return iter(())

    def changed(self, name: str) -> bool:
        """Whether an option has another value than its default."""
        return bool(getattr(self, name) != default_of(self.__dataclass_fields__[name]))


def make(cls: type[Any], values: Mapping[str, Any]) -> Any:
    """An option class from nested mappings, such as YAML gives them.

    Raises:
        ConfigError: a name is unknown, or a value does not fit.
    """
    kinds: dict[str, Any] = {entry.name: entry.type for entry in fields(cls)}
    made = dict(values)
    for name, value in values.items():
        if name not in kinds:
            likely = closest(str(name), kinds)
            raise ConfigError(f"there is no option `{name}`", f"did you mean `{likely}`?" if likely else None)
        if not is_dataclass(kinds[name]):
            continue
        if not isinstance(value, Mapping):
            example = f"{name}.{fields(kinds[name])[0].name}=..."
            raise ConfigError(
                f"`{name}` is a section of options and takes no value",
                f"give one of them, such as `{example}`",
            )
        try:
            made[name] = make(kinds[name], value)
        except ConfigError as error:
            raise ConfigError(*_inside(name, error)) from None
    return cls(**made)


def _inside(section: str, error: ConfigError) -> tuple[str, str | None]:
    """Message and hint of an error, with the section before each option."""
    hint = error.hint and re.sub(r"`(?=\w)", f"`{section}.", error.hint)
    return re.sub(r"`(?=\w)", f"`{section}.", error.message), hint


def known_fields(cls: type[Any], prefix: str = "") -> Iterator[tuple[str, Field[Any]]]:
    """Dotted name and field of each option of a class and its sections."""
    for entry in fields(cls):
        if is_dataclass(entry.type):
            yield from known_fields(cast(Any, entry.type), f"{prefix}{entry.name}.")
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


@dataclass(frozen=True, kw_only=True)
class Data(Options):
    """The samples and how they are split; what training and validation leave is the test split."""

    name: str = option("", "Name of the data set.")
    train: int | float = option(
        0.7, "Training samples of each class: a count, or a share below 1.", above=0, maximum=10**9
    )
    val: int | float = option(
        0.15, "Validation samples of each class: a count, or a share below 1.", above=0, maximum=10**9
    )

    def rules(self) -> Iterator[Rule]:
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
            f"`train` + `val` is {shown(float(self.train + self.val))}",
            "leave a share for the test split: a sum below 1",
        )


@dataclass(frozen=True, kw_only=True)
class Images(Data):
    """Images and their augmentation."""

    classes: tuple[str, ...] | None = option(
        None, "Classes to take, null all; the order counts for digits and lists of files."
    )
    flip: bool = option(True, "Augmentation: mirror images at random.")
    min_scale: float = option(
        1.0,
        "Augmentation: smallest share of the area that a crop keeps; 1 only shifts.",
        minimum=0.05,
        maximum=1,
    )
    pad: int = option(0, "Augmentation: pixels of edge padding before a random crop.", minimum=0, maximum=512)
    randaugment: int = option(
        0,
        "Augmentation: magnitude of two random changes of colour or shape by RandAugment; 0: none.",
        minimum=0,
        maximum=30,
    )
    erasing: float = _share(0.0, "Augmentation: probability that a random rectangle of an image is erased.")

    def rules(self) -> Iterator[Rule]:
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

    def rules(self) -> Iterator[Rule]:
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
class _AnyChannels(Images):
    extra_channels: str = option(
        "refuse",
        "Images with more channels than colours and transparency: unreadable, or all but the first three are "
        "dropped.",
        choices=("refuse", "drop"),
    )


@dataclass(frozen=True, kw_only=True)
class _ImageFiles(_AnyChannels, Files):
    unreadable: str = option(
        "refuse", "Unreadable files: refuse the data set, or skip them.", choices=("refuse", "skip")
    )


@dataclass(frozen=True, kw_only=True)
class ReadyImages(_AnyChannels):
    """Images that may come in ready splits."""

    duplicates: str = option(
        "refuse",
        "Equal images in two ready splits: refuse, drop (test keeps them, else validation), or allow them.",
        choices=("refuse", "drop", "allow"),
    )


@dataclass(frozen=True, kw_only=True)
class ImageFolder(_ImageFiles, ReadyImages):
    """Your own images: one folder a class, or a list of files and labels."""

    name: str = option("image_folder", "Name of the data set.")
    csv: str | None = option(
        None, "CSV file with a line `file,label` for each image, instead of class folders."
    )

    def rules(self) -> Iterator[Rule]:
        yield from super().rules()
        yield (
            self.root is None and self.csv is None,
            "the folder of the images is missing",
            "give it as `root=<folder>`, or a list of files and labels as `csv=<file>`",
        )


@dataclass(frozen=True, kw_only=True)
class _Download(Files):
    download: bool = option(False, "Download the data set if it is missing.", cosmetic=True)


@dataclass(frozen=True, kw_only=True)
class PublishedImages(_ImageFiles, _Download):
    """A published data set of images."""

    name: str = option("caltech101", "Name of the data set.", choices=PUBLISHED_IMAGES)
    official_test: bool = option(False, "Use the data set's own test split; false draws all three splits.")

    def rules(self) -> Iterator[Rule]:
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
        64, "Tokens to which texts are padded or cut, also where FLOPs are counted.", minimum=1, maximum=4096
    )

    def rules(self) -> Iterator[Rule]:
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


@dataclass(frozen=True, kw_only=True)
class Backbone(Options):
    """The pre-trained network."""

    name: str = option("", "Name of the network.")
    weights: str = option("pretrained", "pretrained, random, or a file of weights.")


@dataclass(frozen=True, kw_only=True)
class ImageBackbone(Backbone):
    """A network for images, and the images that it expects; null: those of its weights."""

    name: str = option(
        "", "A classifier of torchvision, timm/<model>, or the dotted path of a network of your own."
    )
    weights: str = option(
        "pretrained", "pretrained, random, the name of published ones such as IMAGENET1K_V1, or a file."
    )
    size: int | None = option(
        None, "Side of the square that the network sees, in pixels.", minimum=4, maximum=4096
    )
    resize: int | None = option(
        None, "Side after resizing; null: in proportion to the size.", minimum=4, maximum=8192
    )
    mean: tuple[float, ...] | None = option(
        None, "Channel means, for pixels in [0, 1].", minimum=-1000, maximum=1000, unique=False
    )
    std: tuple[float, ...] | None = option(
        None, "Channels' deviations.", minimum=1e-4, maximum=1000, unique=False
    )
    interpolation: str | None = option(None, "How images are resized.", choices=INTERPOLATIONS)
    crop: str | None = option(
        None,
        "center: the shorter side is resized and the centre cut; squash: both sides are resized.",
        choices=CROPS,
    )

    def rules(self) -> Iterator[Rule]:
        yield (
            self.name != "" and not re.fullmatch(r"\w[\w.:/-]*", self.name),
            f"`name={self.name}` cannot be the name of a network",
            "it has letters, digits and ._-/ such as timm/resnet18",
        )
        counts = {len(values) for values in (self.mean, self.std) if values is not None}
        numbers = " and ".join(map(str, (len(v) for v in (self.mean, self.std) if v is not None)))
        yield (
            len(counts) > 1 or not counts <= {1, 3},
            f"`mean` and `std` have {numbers} values",
            "give one value for grey images or three for colour, the same number for both",
        )
        yield (
            None not in (self.size, self.resize) and self.resize < self.size,  # type: ignore[operator]
            f"`resize={self.resize}` is smaller than `size={self.size}`",
            "images are resized first, then cropped: give at least the size",
        )


@dataclass(frozen=True, kw_only=True)
class DigitsBackbone(ImageBackbone):
    """A small network for the embedded digits."""

    name: str = option("digits_cnn", "Name of the network.", choices=("digits_cnn",))


@dataclass(frozen=True, kw_only=True)
class TextBackbone(Backbone):
    """Convolutions over the words of a text (Kim 2014)."""

    name: str = option("textcnn", "Name of the network.")
    weights: str = option("random", "random, or a file of weights from stage pretrain.")
    embedding_width: int = option(128, "Numbers in a word's vector.", minimum=1, maximum=4096)
    filters: int = option(100, "Filters of each of the three convolutions.", minimum=2, maximum=4096)
    vectors: str | None = option(None, "File of word vectors in GloVe's format to initialise the embedding.")


# Networks with options of their own; all others have those of `ImageBackbone`.
BACKBONES: dict[str, type[Backbone]] = {"textcnn": TextBackbone, "digits_cnn": DigitsBackbone}


@dataclass(frozen=True, kw_only=True)
class Steps(Options):
    """How a network is trained, but not how long."""

    batch_size: int = option(32, "Samples of a step.", minimum=1, maximum=65_536)
    optimizer: str = option(
        "adamw", "Optimiser; sgd and nesterov: momentum 0.9.", choices=("adamw", "sgd", "nesterov", "adagrad")
    )
    lr: float = option(1e-3, "Peak learning rate.", minimum=0, maximum=100)
    layer_decay: float = option(
        1.0,
        "Factor of the learning rate from a block to the one before it; the head has the full rate.",
        above=0,
        maximum=1,
    )
    weight_decay: float = option(
        1e-2, "Weight decay: decoupled for adamw, L2 for the others.", minimum=0, maximum=100
    )
    schedule: str = option(
        "cosine",
        "Learning rate over the steps: cosine falls to zero, step and plateau multiply it by factor.",
        choices=("constant", "cosine", "step", "plateau"),
    )
    min_lr: float = option(0.0, "Lowest learning rate of schedule plateau.", minimum=0, maximum=100)
    warmup: float = _share(0.0, "Share of the steps over which the learning rate rises.")
    step_epochs: int = _epochs(20, "Epochs between two reductions by schedule step.")
    factor: float = _share(0.5, "Factor of a reduction by schedule step or plateau.")
    plateau_patience: int = _epochs(5, "Epochs without improvement before plateau reduces.", minimum=0)
    label_smoothing: float = _share(0.0, "Label smoothing of the cross-entropy.")
    dropout: float = option(
        0.0,
        "Dropout of the classifier's input in training alone; no effect where a head has dropout of its own.",
        minimum=0,
        below=1,
    )
    mixup: float = option(
        0.0,
        "MixUp of images or cached features: parameter of its Beta distribution; 0: off.",
        minimum=0,
        maximum=100,
    )
    cutmix: float = option(
        0.0,
        "CutMix of images, not of cached features (head, trial): parameter of its Beta distribution; 0: off.",
        minimum=0,
        maximum=100,
    )
    ema: float = option(
        0.0,
        "Decay of the moving average of the weights, which is evaluated and kept; 0: off.",
        minimum=0,
        below=1,
    )
    batchnorm: str = option(
        "train",
        "Batch-norm statistics of trained layers: each batch's, or frozen.",
        choices=("train", "frozen"),
    )
    compile: bool = option(
        False, "Compile the training step (torch.compile; CUDA graphs on a GPU), in each training again."
    )

    def rules(self) -> Iterator[Rule]:
        idle = self.min_lr > 0 and self.schedule != "plateau"
        yield _no_effect(idle, "min_lr", f"schedule={self.schedule}", "add `schedule=plateau`")
        yield (
            self.min_lr > self.lr,
            f"`min_lr` is {shown(self.min_lr)}, above `lr`, {shown(self.lr)}",
            "lower it",
        )


@dataclass(frozen=True, kw_only=True)
class Recipe(Steps):
    """How a network is trained, and how long."""

    epochs: int = _epochs(10, "Passes over the training samples.")
    epoch_share: float = option(1.0, "Share of the training samples in an epoch.", minimum=0.001, maximum=1)
    patience: int | None = _epochs(None, "Epochs without a higher value of the metric on validation.")

    def at(self, lr: float) -> "Recipe":
        """The same recipe at another peak learning rate, below which the lowest stays."""
        return replace(self, lr=lr, min_lr=min(self.min_lr, lr))


if TYPE_CHECKING:

    class StepChanges(Steps): ...

    class RecipeChanges(Recipe): ...

else:

    def _changes(name, base):
        entries = [(e.name, e.type | None, field(default=None, metadata=e.metadata)) for e in fields(base)]
        made = make_dataclass(name, entries, bases=(Options,), frozen=True, kw_only=True)
        made.__module__, made.__doc__ = __name__, "What differs from the base recipe; null takes its value."
        return made

    StepChanges = _changes("StepChanges", Steps)
    RecipeChanges = _changes("RecipeChanges", Recipe)

# Those of stage tune.
TUNING = ("head", "trial", "finetune")
RECIPES = ("pretrain", *TUNING, "recover")
# Those that read cached features.
CACHED = ("head", "trial")


@dataclass(frozen=True, kw_only=True)
class Trainer(Recipe):
    """The base recipe, and what differs from it for each kind of training."""

    pretrain: RecipeChanges = field(default_factory=RecipeChanges, metadata={"help": "Stage pretrain."})
    head: RecipeChanges = field(default_factory=RecipeChanges, metadata={"help": "New heads on features."})
    trial: RecipeChanges = field(default_factory=RecipeChanges, metadata={"help": "Trials of the search."})
    finetune: RecipeChanges = field(
        default_factory=RecipeChanges, metadata={"help": "Fine-tuning on samples."}
    )
    recover: StepChanges = field(default_factory=StepChanges, metadata={"help": "All training in pruning."})
    class_weights: str = option(
        "none", "Weight of a class in the loss: none, or balanced by its size.", choices=("none", "balanced")
    )
    standardise: bool = option(
        True,
        "New heads learn on features of mean 0 and deviation 1; both are then folded into their weights.",
    )
    devices: int = option(
        1,
        "How many GPUs, from `device` on, share each batch when a network is trained on samples; on the CPU "
        "they are processes.",
        minimum=1,
        maximum=64,
    )

    @property
    def facts(self) -> dict[str, Any]:
        """What changes the figures of every training beside its recipe."""
        several = {"devices": self.devices} if self.devices > 1 else {}
        return {"class_weights": self.class_weights, **several}

    def recipe(self, name: str) -> Recipe:
        """The recipe of one kind of training: the base recipe with its changes."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(Recipe)}
        own = getattr(self, name)
        for entry in fields(own):
            if (value := getattr(own, entry.name)) is not None:
                values[entry.name] = value
        return Recipe(**values)

    def rules(self) -> Iterator[Rule]:
        yield from super().rules()
        for name in RECIPES:
            try:
                self.recipe(name)
            except ConfigError as error:
                yield True, *_inside(name, error)
        if self.devices > 1:
            alone = {f"{name}.compile": getattr(self, name).compile for name in RECIPES if name not in CACHED}
            for option, is_compiled in ({"compile": self.compile} | alone).items():
                hint = f"take `{option}=false`, or one device"
                yield bool(is_compiled), f"`{option}=true`, but `devices={self.devices}`", hint
        for name in CACHED:
            idle, hint = bool(getattr(self, name).cutmix), f"leave it out, or take `{name}.mixup`"
            yield idle, f"`{name}.cutmix` has no effect, because `{name}` reads cached features", hint


@dataclass(frozen=True, kw_only=True)
class Local(Options):
    """Trials one after the other, in this process."""

    name: str = option("local", "Where trials run: local, or ray.", choices=("local", "ray"), cosmetic=True)
    cpus: int | None = option(
        None, "CPU threads of a trial; null is as many as the run's.", minimum=1, maximum=1024
    )


@dataclass(frozen=True, kw_only=True)
class Ray(Local):
    """Several trials at a time, on a Ray cluster."""

    name: str = option("ray", "Where trials run: local, or ray.", choices=("ray",), cosmetic=True)
    cpus: int = option(1, "CPU threads of a trial.", minimum=1, maximum=1024)
    workers: int = option(2, "Trials at a time.", minimum=1, maximum=10_000, cosmetic=True)
    address: str | None = option(
        None, "Head of an existing cluster, such as 10.0.0.5:6379; null starts one here.", cosmetic=True
    )
    gpus: float = option(
        0.0, "GPUs of a trial; several trials share one by a fraction.", minimum=0, maximum=64, cosmetic=True
    )
    retries: int = option(
        2, "How often a trial that the cluster lost is tried again.", minimum=0, maximum=100, cosmetic=True
    )
    trial_timeout: float | None = option(
        None, "Seconds after which a trial is ended and tried again.", above=0, cosmetic=True
    )

    def rules(self) -> Iterator[Rule]:
        """Values that contradict each other."""
        address = self.address or ""
        yield (
            address.startswith("ray://"),
            f"`address={self.address}` is that of a Ray client",
            "give the head of the cluster, such as 10.0.0.5:6379, and start tascnet on one of its nodes",
        )


@dataclass(frozen=True, kw_only=True)
class Measure(Options):
    """How latency is measured."""

    batch: int = option(
        16, "Batch size of the second latency; the first is that of one sample.", minimum=1, maximum=4096
    )
    repeats: int = option(30, "Timed passes; the latency is their median.", minimum=3, maximum=100_000)
    runtimes: tuple[str, ...] | None = option(
        None,
        "Where latency is measured, eager PyTorch among them; null: eager, and ONNX Runtime (float and int8) "
        "where it is installed.",
        choices=RUNTIMES,
    )
    target: str | None = option(
        None,
        "Runtime of latency targets, round_to=auto and the choice of blocks; null: onnxruntime where it is "
        "measured, else eager.",
        choices=tuple(name for name in RUNTIMES if name != "compile"),
    )
    table: str | None = option(
        None,
        "File of layer times made on another device: latency targets, round_to=auto and the choice of blocks "
        "are then that device's; see tascnet.measure.make_table.",
    )

    def rules(self) -> Iterator[Rule]:
        runtimes = self.runtimes
        yield (
            runtimes is not None and "eager" not in runtimes,
            f"`runtimes={shown(runtimes)}` leaves out eager, to which the others are compared",
            "add eager",
        )
        yield (
            None not in (runtimes, self.target) and self.target not in runtimes,  # type: ignore[operator]
            f"`target={self.target}` is not among `runtimes={shown(runtimes)}`",
            f"add {self.target}",
        )
        yield (
            self.table is not None and self.target is None,
            f"`table={self.table}` needs `target`, the runtime that its layers were timed in",
            "give it, such as `target=onnxruntime`",
        )


@dataclass(frozen=True, kw_only=True)
class Export(Options):
    """Files that run without tascnet."""

    model: str | None = option(
        None, "Folder of the saved model; null: the run's last one, pruned or else tuned."
    )
    formats: tuple[str, ...] | None = option(
        None,
        "Formats: onnx, onnx_int8, onnx_fp16, pt2 (torch.export), openvino, executorch; null: onnx and "
        "onnx_int8 where they are installed.",
        choices=FORMATS,
        empty=True,
    )
    preprocess: str = option(
        "inside",
        "inside: an ONNX file takes upright RGB pixels of any size and prepares them itself; outside: it "
        "takes what the model's preprocessing returns.",
        choices=("inside", "outside"),
    )
    int8_tolerance: float = _share(
        0.01, "Largest fall of the metric on validation by int8; layers stay in float until it is kept."
    )


@dataclass(frozen=True, kw_only=True)
class Predict(Options):
    """Classes of new images or texts."""

    model: str | None = option(
        None, "Folder of a saved model, or an exported .onnx; null: the run's last model."
    )
    input: str | tuple[str, ...] | None = option(
        None,
        "Folder, files, pattern such as photos/*.jpg, CSV with a column of files, or - for standard input.",
    )
    output: str | None = option(
        None,
        "File of the predictions, .csv or .jsonl, or - for standard output; null: both files in "
        "<outputs>/predict.",
    )
    top: int = option(5, "Classes named for each sample.", minimum=1, maximum=1000)
    batch_size: int = option(32, "Samples in a pass.", minimum=1, maximum=4096)
    unreadable: str = option(
        "skip", "Unreadable files: listed and skipped, or the end of the run.", choices=("skip", "fail")
    )


@dataclass(frozen=True, kw_only=True)
class Evaluate(Options):
    """Accuracy of a saved or exported model."""

    model: str | None = option(
        None, "Folder of a saved model, or an exported .onnx; null: the run's last model."
    )
    split: str | None = option(
        None,
        "Samples that are read; null: the test split of the data that the model was trained on, all samples "
        "of other data.",
        choices=("train", "val", "test", "all"),
    )


@dataclass(frozen=True, kw_only=True)
class Log(Options):
    """Where a run can be watched."""

    tensorboard: bool = option(False, "Write TensorBoard files to the run's folder.", cosmetic=True)
    mlflow: str | None = option(None, "Log to this MLflow server or folder.", cosmetic=True)


@dataclass(frozen=True, kw_only=True)
class Targets(Options):
    """Bounds of a search, and goals of pruning."""

    flops_target: float | None = _target("Share of the FLOPs that may remain.")
    params_target: float | None = _target("Share of the parameters that may remain.")
    size_target: float | None = _target("Share of the file size that may remain.")
    latency_target: float | None = _target("Share of the latency for one sample that may remain.")
    latency_target_ms: float | None = option(
        None,
        "Latency for one sample on this device, in milliseconds.",
        above=0,
        maximum=10**6,
        extendable=True,
    )

    @property
    def has_targets(self) -> bool:
        """Whether any bound or goal is given."""
        return any(getattr(self, entry.name) is not None for entry in fields(Targets))

    @property
    def has_latency_target(self) -> bool:
        """Whether latency has to be measured."""
        return self.latency_target is not None or self.latency_target_ms is not None


_RIVAL = re.compile(r"([\w./-]+)(?:@(\d+))?(?::(.+))?")


@dataclass(frozen=True, kw_only=True)
class RivalName:
    """A rival as the option `rivals` names it: `<network>`, `<network>@<size>:<weights>`.

    Args:
        network: its name.
        size: side of its images, in pixels; None: as the tuned network's.
        weights: as the option of a backbone; None: its default ones.
    """

    network: str
    size: int | None
    weights: str | None

    @staticmethod
    def of(text: str) -> "RivalName | None":
        """What a text means; None: it is none of these forms."""
        match = _RIVAL.fullmatch(text)
        if match is None:
            return None
        size = int(match[2]) if match[2] else None
        return RivalName(network=match[1], size=size, weights=match[3])

    @property
    def row(self) -> str:
        """What its row in tables is called."""
        return f"rival {self.network}" + (f"@{self.size}" if self.size else "")


@dataclass(frozen=True, kw_only=True)
class TuneBase(Targets):
    """Stage one: what its search spaces share."""

    # A bound decides which trials there are: unlike pruning, a search cannot be resumed with another one.
    fixed: ClassVar[frozenset[str]] = frozenset(entry.name for entry in fields(Targets))

    space: str = option(
        "tascnet",
        "Search space: changes of pre-trained layers, or new layers in place of the last ones.",
        choices=("tascnet", "autotune"),
    )
    algorithm: str = option(
        "bo",
        "Bayesian optimisation, random or quasi-random points, or one trial per block to train from.",
        choices=("bo", "random", "sobol", "layerwise"),
    )
    objective: str = option(
        "accuracy",
        "What a trial is judged by: accuracy (by the option metric) within the targets, loss, or accuracy "
        "against FLOPs or params.",
        choices=("accuracy", "loss", "pareto_flops", "pareto_params"),
    )
    pick: int | None = option(
        None,
        "Trial of a finished search to fine-tune; null is the winner.",
        minimum=0,
        maximum=MOST_TRIALS,
        cosmetic=True,
    )
    hidden_layers: tuple[int, ...] = option(
        (0, 1), "Choices for the dense head's hidden layers.", minimum=0, maximum=8
    )
    neurons: tuple[int, ...] = option(
        (128, 256, 512), "Choices for a hidden layer's neurons.", minimum=1, maximum=MOST_FILTERS
    )
    dropouts: tuple[float, ...] = option((0.0, 0.2, 0.4), "Choices for head dropout.", minimum=0, below=1)
    start_depth: int = option(
        1,
        "Units open to the first trials; 0: the dense head alone; more where the network may end earlier.",
        minimum=0,
        maximum=1,
    )
    initial_trials: int = option(4, "Trials before the surrogate proposes.", minimum=1, maximum=MOST_TRIALS)
    trials_per_depth: int = option(
        8, "Trials before one more unit is opened.", minimum=1, maximum=MOST_TRIALS, extendable=True
    )
    max_units: int | None = option(
        None,
        "Most units from the output that are searched; null: 3, or two beyond the earliest useful end; with "
        "layerwise all.",
        minimum=1,
        maximum=10_000,
        extendable=True,
    )
    max_trials: int | None = option(
        None,
        "Most trials; null: those of all depths (at most 24), or as many as max_seconds allows.",
        minimum=1,
        maximum=MOST_TRIALS,
        extendable=True,
    )
    max_seconds: float | None = option(
        None, "Most seconds of all trials together.", above=0, maximum=10**9, extendable=True
    )
    patience: int = option(
        1, "Units opened without gain before the end.", minimum=1, maximum=10_000, extendable=True
    )
    promote: bool = option(
        True,
        "Trials are judged after 3, 6, 12 and more epochs, and trained on while they may still win; with the "
        "objective loss and with layerwise all are trained to their end.",
    )
    tolerance: float | None = _share(
        0.02,
        "Of trials this close to the best metric the smallest (params) wins; null: one standard error.",
    )
    finetune_from: str = option(
        "auto",
        "Start of fine-tuning: the conventionally fine-tuned network, or the winner's trial, of which its "
        "trained blocks (prefix), all blocks (all) or the better of these two (best) are trained; auto is "
        "conventional where the winner is the pre-trained network made smaller, else best.",
        choices=("auto", "conventional", "best", "all", "prefix"),
    )
    fallback: bool = option(
        True,
        "Whether the baseline, a trial or the conventional network is handed over where the fine-tuned "
        "winner stays more than the tolerance below it on validation.",
    )

    rivals: tuple[str, ...] = option(
        (),
        "Networks that are fine-tuned conventionally for comparison: <name>, <name>@<size> with the side of "
        "their images, <name>@<size>:<weights> with a file or the name of published weights.",
        empty=True,
        cosmetic=True,
    )

    warm_start: tuple[str, ...] = option(
        (),
        "Earlier runs on the same backbone (folders, or trials.jsonl): their best configurations are tried "
        "first.",
        empty=True,
        cosmetic=True,
    )

    @property
    def rival_names(self) -> tuple[RivalName, ...]:
        """The rivals, read."""
        return tuple(name for text in self.rivals if (name := RivalName.of(text)))

    @property
    def is_layerwise(self) -> bool:
        """Whether each trial is the pre-trained network, trained from one block on."""
        return self.algorithm == "layerwise"

    @property
    def promotes(self) -> bool:
        """Whether hopeless trials are stopped: not if each is shown, or judged by what their curves lack."""
        return self.promote and not self.is_layerwise and self.objective != "loss"

    def rules(self) -> Iterator[Rule]:
        for entry in fields(Targets):
            is_given = getattr(self, entry.name) is not None
            idle, hint = (
                is_given and self.objective != "accuracy",
                "leave it out, or take `objective=accuracy`",
            )
            yield _no_effect(idle, entry.name, f"objective={self.objective}", hint)
            idle, hint = is_given and self.is_layerwise, "leave it out, or take another `algorithm`"
            yield _no_effect(idle, entry.name, "algorithm=layerwise", hint)
        idle = self.is_layerwise and self.max_units is not None
        hint = "leave it out; `max_trials` and `max_seconds` limit the number of depths"
        yield _no_effect(idle, "max_units", "algorithm=layerwise", hint)
        idle, hint = bool(self.warm_start) and self.algorithm != "bo", "leave it out, or take `algorithm=bo`"
        yield _no_effect(idle, "warm_start", f"algorithm={self.algorithm}", hint)
        for text in self.rivals:
            yield (
                RivalName.of(text) is None,
                f"`rivals` cannot read {printable(repr(text), 200)}",
                "give names such as resnet18, resnet18@128 or resnet18@128:<weights>",
            )
        rows = [name.row for name in self.rival_names]
        yield (
            len(set(rows)) < len(rows),
            f"`rivals` names a network of one size twice: {shown(self.rivals)}",
            "give each once, with the weights that you mean",
        )


@dataclass(frozen=True, kw_only=True)
class Tune(TuneBase):
    """Stage one: the pre-trained layers, changed by surgery, inherit their weights."""

    layerwise_every: int = option(
        1, "With algorithm layerwise: one trial every so many units.", minimum=1, maximum=10_000
    )
    widths: tuple[float, ...] = option(
        (0.25, 0.5, 0.75, 1.0),
        "Choices for the share of channels that a group of layers keeps.",
        above=0,
        maximum=1,
        empty=True,
    )
    round_to: int = option(8, "Widths are multiples of this.", minimum=1, maximum=MOST_FILTERS)
    kernels: tuple[int, ...] = option(
        (3, 5),
        "Choices for the side of a kernel, besides the pre-trained one.",
        minimum=1,
        maximum=63,
        empty=True,
    )
    activations: tuple[str, ...] = option(
        ("relu", "elu"), "Choices besides the pre-trained activation.", choices=ACTIVATIONS, empty=True
    )
    remove_blocks: bool = option(True, "Whether residual blocks with an identity shortcut may be removed.")
    exit: bool = option(
        True,
        "Whether the network may end earlier, without its last units: never so with `head=grow` and "
        "`algorithm=layerwise`, nor beyond a layer that `ignore` names.",
    )
    sizes: tuple[int, ...] = option(
        (),
        "Choices for the side of the images, besides the network's own; their features are cached for each.",
        minimum=4,
        maximum=4096,
        empty=True,
    )
    ignore: tuple[str, ...] = option(
        (), "Layers and blocks that are not searched: names, or patterns such as `layer1_*`.", empty=True
    )
    lr_factors: tuple[float, ...] = option(
        (1.0,), "Choices for a trial's learning rate, as multiples of its recipe's.", above=0, maximum=1000
    )
    importance: str = option(
        "magnitude", "Which channels a narrower trial keeps.", choices=("magnitude", "fpgm", "random")
    )
    head: str = option(
        "new",
        "Dense head: new, new layers after the pre-trained classifier (grow), or either (search).",
        choices=("new", "grow", "search"),
    )
    grow_norms: tuple[str, ...] = option(NORMS, "Choices for the norm before a grown head.", choices=NORMS)
    slim_every: int = option(
        3, "Every n-th proposal seeks a smaller network; 0: none does.", minimum=0, maximum=MOST_TRIALS
    )
    distill: float = _share(0.8, "Weight of the distillation loss from the conventional network.")
    distill_features: float = option(
        0.0,
        "Weight of a further loss, on the features of the last block that both networks have.",
        minimum=0,
        maximum=1000,
    )

    @property
    def looks_for_narrower(self) -> bool:
        """Whether the winner is the pre-trained network made smaller, unless a searched head has grown."""
        return not self.is_layerwise and self.head != "grow"

    @property
    def searches_exit(self) -> bool:
        """Whether the search decides where the network ends."""
        # A grown head reads the features at the network's own end; `layerwise` only decides what is frozen.
        return self.exit and self.looks_for_narrower

    def rules(self) -> Iterator[Rule]:
        yield from super().rules()
        yield self.space != "tascnet", f"these are not the options of `space={self.space}`", "take Autotune"
        idle = self.head == "new" and self.changed("grow_norms")
        yield _no_effect(idle, "grow_norms", "head=new", "add `head=grow` or `head=search`")
        idle = self.is_layerwise and self.objective.startswith("pareto")
        hint = "take `objective=accuracy`, or another `algorithm`"
        yield _no_effect(idle, f"objective={self.objective}", "algorithm=layerwise", hint)
        idle, hint = self.is_layerwise and bool(self.sizes), "leave it out, or take another `algorithm`"
        yield _no_effect(idle, "sizes", "algorithm=layerwise", hint)
        idle, hint = self.is_layerwise and self.head == "search", "take `head=new` or `head=grow`"
        yield _no_effect(idle, "head=search", "algorithm=layerwise", hint)
        idle = not self.is_layerwise and self.changed("layerwise_every")
        yield _no_effect(idle, "layerwise_every", f"algorithm={self.algorithm}", "add `algorithm=layerwise`")
        for name, needed in (("algorithm", "bo"), ("objective", "accuracy")):
            value = getattr(self, name)
            idle = self.slim_every > 0 and self.changed("slim_every") and value != needed
            hint = f"leave it out, or take `{name}={needed}`"
            yield _no_effect(idle, "slim_every", f"{name}={value}", hint)
        yield (
            self.finetune_from == "conventional" and not (self.looks_for_narrower and self.head == "new"),
            "`finetune_from=conventional` needs a winner that is the pre-trained network made smaller",
            "take `finetune_from=auto`",
        )
        teaches = self.looks_for_narrower and self.finetune_from in ("auto", "conventional")
        for name in ("distill", "distill_features"):
            yield (
                not teaches and self.changed(name),
                f"`{name}` has no effect without a conventional network that teaches (`finetune_from`)",
                "leave it out",
            )
        idle = self.distill == 0 and self.distill_features > 0
        yield _no_effect(idle, "distill_features", "distill=0", "leave it out, or raise `distill`")


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
        "Dense layers before the classifier: kept, or replaced by the searched ones.",
        choices=("keep", "replace"),
    )
    filters: tuple[int, ...] = option(
        (64, 128, 256, 512), "Choices for a convolution's filters.", minimum=1, maximum=MOST_FILTERS
    )
    filter_sizes: tuple[int, ...] = option(
        (1, 2, 3, 5), "Choices for the side of a kernel.", minimum=1, maximum=63
    )
    activations: tuple[str, ...] = option(
        ("relu", "sigmoid", "tanh", "elu", "selu"), "Choices for activations.", choices=ACTIVATIONS
    )
    pool_sizes: tuple[int, ...] = option(
        (2, 3), "Choices for the side of a pooling window.", minimum=1, maximum=63
    )
    paddings: tuple[int, ...] = option((1, 3), "Choices for zero-padding.", minimum=0, maximum=63)

    def rules(self) -> Iterator[Rule]:
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


@dataclass(frozen=True, kw_only=True)
class Prune(Targets):
    """Stage two: which filters are removed, how the rest is repaired, and when to stop."""

    criterion: str = option(
        "reconstruction",
        "Ranking of filters: history, reconstruction, one of torch-pruning (magnitude, taylor, fpgm, lamp, "
        "hessian, bn_scale, random), or the dotted path of a torch_pruning.importance.Importance.",
    )
    scope: str = option(
        "global",
        "Which filters compete: those of one group, of groups of one kind of layers (isomorphic), or all, by "
        "cost per FLOP (global), param or filter saved; latency: the widths of least cost at a latency.",
        choices=("group", "isomorphic", "global", "global_params", "global_filters", "latency"),
    )
    where: str = option(
        "all", "Pruned layers: all, or those that stage tune searched (tail).", choices=("all", "tail")
    )
    ignore: tuple[str, ...] = option(
        (), "Layers and blocks that are not pruned: names, or patterns such as `layer1_*`.", empty=True
    )
    min_filters: int = option(
        16, "Groups with fewer filters are not pruned.", minimum=2, maximum=MOST_FILTERS
    )
    round_to: int | str = option(
        8,
        "Widths are multiples of this; auto: the multiple that runs fastest.",
        minimum=1,
        maximum=MOST_FILTERS,
        words=("auto",),
    )
    blocks: bool = option(
        False, "Remove residual blocks, or the network's end, where that costs less accuracy per time saved."
    )
    merge: str = option(
        "refit",
        "Removed filters: dropped, averaged into their pair, folded into kept ones by activations or by "
        "weights, or folded with every layer refitted.",
        choices=MERGES,
    )
    pruning_ratio: float = option(
        0.05,
        "Share of filters removed by an iteration; of the time where widths are chosen by latency.",
        above=0,
        maximum=0.95,
    )
    max_pruning_ratio: float = option(
        0.25, "Largest share of a group that it removes.", above=0, maximum=0.95
    )
    one_shot: bool = option(False, "One cut to the target: up to 0.95 of all filters, 0.75 of a group.")
    epochs: int = _epochs(4, "Training epochs of one iteration.")
    growing_epochs: int = _epochs(
        0, "Epochs of a growing penalty on the filters to remove, before each cut.", minimum=0
    )
    final_epochs: int = _epochs(
        0,
        "Training epochs of the final network; a round of half as many follows, and more while they pay.",
        minimum=0,
    )
    distill: float = _share(
        0.5,
        "Weight of the distillation loss from the unpruned network, or from stage tune's conventional one if "
        "that is better on validation.",
    )
    distill_features: float = option(
        0.0,
        "Weight of a further loss, on the features of the last block that both networks have.",
        minimum=0,
        maximum=1000,
    )
    tolerance: float = _share(
        0.02, "Largest fall of the metric on validation below the best so far.", extendable=True
    )
    retries: int = option(
        2,
        "Smaller cuts tried after one that fell further also after a second training; 0: neither.",
        minimum=0,
        maximum=100,
        extendable=True,
    )
    max_iterations: int = option(10, "Most iterations.", minimum=1, maximum=10_000, extendable=True)
    max_seconds: float | None = option(
        None,
        "Most seconds of all iterations and the final epochs; training ends with the epoch.",
        above=0,
        maximum=10**9,
        extendable=True,
    )
    sensitivity: bool = option(
        False, "Also measure accuracy after cutting 10, 25 or 50 % of one group at a time.", cosmetic=True
    )

    @property
    def spends_latency(self) -> bool:
        """Whether widths are chosen by the time that they save."""
        return self.scope == "latency"

    @property
    def ratio(self) -> float:
        """Share of the filters, or of the time, that one iteration removes."""
        return 0.95 if self.one_shot else self.pruning_ratio

    @property
    def group_ratio(self) -> float:
        """Largest share of a group that one iteration removes."""
        return 0.75 if self.one_shot else self.max_pruning_ratio

    def rules(self) -> Iterator[Rule]:
        has_pairs, likely = self.criterion == "history", closest(self.criterion, CRITERIA)
        hint = (
            f"did you mean `criterion={likely}`?"
            if likely
            else f"it takes {listed(CRITERIA)}, or a dotted path"
        )
        is_path = "." in self.criterion and all(part.isidentifier() for part in self.criterion.split("."))
        yield (
            self.criterion not in CRITERIA and not is_path,
            f"`criterion` has no choice {self.criterion!r}",
            hint,
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
        idle = self.distill == 0 and self.distill_features > 0
        yield _no_effect(idle, "distill_features", "distill=0", "leave it out, or raise `distill`")
        for name in ("pruning_ratio", "max_pruning_ratio"):
            idle = self.one_shot and self.changed(name)
            yield _no_effect(idle, name, "one_shot=true", "leave one of them out")
        yield (
            self.scope == "latency" and not self.has_latency_target,
            "`scope=latency` needs a latency to aim at",
            "add one such as `latency_target=0.5`",
        )
        others = [entry.name for entry in fields(Targets) if not entry.name.startswith("latency")]
        given = [name for name in others if getattr(self, name) is not None]
        yield (
            self.scope == "latency" and bool(given),
            f"`scope=latency` aims at a latency alone, but there is `{(given or others)[0]}`",
            f"take `{(given or others)[0]}=null`, or `scope=global`",
        )
        yield _no_effect(
            has_pairs and self.growing_epochs > 0,
            "growing_epochs",
            "criterion=history",
            "leave it out: `optimise_epochs` prepare its cuts",
        )
        yield (
            self.one_shot and not self.has_targets,
            "`one_shot=true` needs a target at which the cut ends",
            "add one such as `flops_target=0.5`",
        )


@dataclass(frozen=True, kw_only=True)
class HistoryPrune(Prune):
    """Stage two by the history of filters (Basha et al. 2022, TASCNet, arXiv 2205.05967)."""

    criterion: str = option("history", "Ranking of filters: by the similarity of pairs over training.")
    scope: str = option(
        "group",
        "Filters are ranked in each group, or over all by cost per FLOP.",
        choices=("group", "global"),
    )
    min_filters: int = option(
        128, "Groups with fewer filters are not pruned.", minimum=2, maximum=MOST_FILTERS
    )
    merge: str = option("fold", "What is done with removed filters.", choices=MERGES)
    history: str = option(
        "restart",
        "Recording of weights restarts in each iteration, or continues through all its phases.",
        choices=("restart", "continue"),
    )
    history_epochs: int | None = _epochs(None, "Epochs of recording; null is a seventh of all.", minimum=0)
    optimise_epochs: int | None = _epochs(
        None, "Epochs that pull pairs together; null is a seventh.", minimum=0
    )
    regulariser: str = option(
        "per_group_mean",
        "Loss that pulls pairs together: exp(-mean similarity) of each group, or exp(-sum) as published.",
        choices=("per_group_mean", "sum"),
    )

    @property
    def phases(self) -> tuple[int, int, int]:
        """Epochs of recording, of pulling pairs together and of retraining."""
        share = max(1, round(self.epochs / 7))
        history = share if self.history_epochs is None else self.history_epochs
        optimise = share if self.optimise_epochs is None else self.optimise_epochs
        return history, optimise, self.epochs - history - optimise

    def rules(self) -> Iterator[Rule]:
        yield from super().rules()
        history, optimise, retrain = self.phases
        yield (
            retrain < 1,
            f"`epochs={self.epochs}` leaves none for retraining after {history} + {optimise}",
            "raise it, or lower `history_epochs` and `optimise_epochs`",
        )


def _checked(entry: Field[Any], given: Any) -> Any:
    """The value of an option as its type wants it."""
    name, rule, value = entry.name, entry.metadata, _fitted(given, entry.type)
    if value is _WRONG:
        text = printable(repr(given) if isinstance(given, str) else shown(given), most=200)
        raise ConfigError(f"`{name}` takes {type_name(entry.type)}, not {text}")
    if isinstance(value, tuple):
        if not value and not rule.get("empty"):
            raise ConfigError(f"`{name}` is empty", "give at least one value")
        if rule.get("unique") and len(set(value)) != len(value):
            raise ConfigError(f"`{name}` names a value twice: {shown(value)}")
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, str):
            _check_text(name, rule, item)
        elif isinstance(item, int | float) and not isinstance(item, bool):
            if not math.isfinite(item):
                raise ConfigError(f"`{name}` takes a finite number, not {item}")
            for key, is_wrong, words in BOUNDS:
                if rule.get(key) is not None and is_wrong(item, rule[key]):
                    raise ConfigError(f"`{name}` must be {words} {shown(rule[key])}, not {shown(item)}")
    return value


def _check_text(name: str, rule: Mapping[str, Any], text: str) -> None:
    words, choices = rule.get("words"), rule.get("choices")
    if "\0" in text:
        raise ConfigError(f"`{name}` holds a zero byte", "leave it out")
    if words and text not in words:
        raise ConfigError(f"`{name}` takes a number or {listed(words)}, not {text!r}")
    if choices and text not in choices:
        likely = closest(text, choices)
        hint = f"did you mean `{name}={likely}`?" if likely else f"it takes {listed(choices)}"
        raise ConfigError(f"`{name}` has no choice {text!r}", hint)


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
    if isinstance(value, bool):
        return value if kind is bool else _WRONG
    if kind is float and isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    if kind is str and isinstance(value, int | float):
        # A command line reads `name=12` as a number.
        return str(value)
    return value if isinstance(value, kind) else _WRONG


def shown(value: Any) -> str:
    """A value as it is written on a command line or in YAML."""
    if value is None:
        return "null"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, float) or not math.isfinite(value):
        return str(value)
    if value.is_integer() and abs(value) < 1e16:
        return str(int(value))
    # Six digits where they are enough: a bound and the value that breaks it differ.
    return short if float(short := f"{value:g}") == value else repr(value)
