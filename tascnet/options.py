"""Every option, with its type, bounds and meaning, in plain dataclasses.

The composed config is checked against these before torch is imported. `choices`, `minimum` and
`maximum` in a field's metadata are checked too; `words` are texts that may stand for a number;
`extendable` marks options of a stage that may be raised when a run is resumed, `cosmetic` those that
cannot change its numbers.
"""

from dataclasses import dataclass, field
from typing import Any

# Data sets of images that can be downloaded, and those of them that come with a test split.
PUBLISHED_IMAGES = ("caltech101", "caltech256", "stanford_dogs", "cifar10", "oxford_flowers102")
OFFICIAL_TESTS = ("stanford_dogs", "cifar10", "oxford_flowers102")

# What `tune.activations` takes: the names that surgery knows.
ACTIVATIONS = (
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "selu",
    "gelu",
    "silu",
    "hardswish",
    "tanh",
    "sigmoid",
)

# Data sets of texts that can be downloaded, and all data sets of texts; the others hold images.
PUBLISHED_TEXTS = ("movie_review", "subjectivity")
TEXT_DATASETS = (*PUBLISHED_TEXTS, "text_lines")

# What `prune.criterion` takes beside dotted paths.
PRUNE_CRITERIA = (
    "history",
    "reconstruction",
    "magnitude",
    "taylor",
    "fpgm",
    "lamp",
    "hessian",
    "bn_scale",
    "random",
)


def option(
    default: Any,
    *,
    choices: tuple[str, ...] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    words: tuple[str, ...] = (),
    extendable: bool = False,
    cosmetic: bool = False,
) -> Any:
    """A dataclass field with the bounds that its value must keep."""
    metadata = {
        "choices": choices,
        "minimum": minimum,
        "maximum": maximum,
        "words": words,
        "extendable": extendable,
        "cosmetic": cosmetic,
    }
    return field(default=default, metadata=metadata)


@dataclass
class StageConfig:
    """Which pipeline runs; `_target_` is its dotted name."""

    name: str = "full"
    _target_: str = "tascnet_pipelines.full.run"


@dataclass
class DatasetConfig:
    """Where the samples come from, how they are split and augmented."""

    name: str = option("digits", choices=("digits", "image_folder", *PUBLISHED_IMAGES, *TEXT_DATASETS))
    # Folder of the images or texts; None: a published data set is looked for in <cache_dir>/datasets.
    root: str | None = None
    # Fetch a published data set to that folder where it is absent, and that of `exclude` to its own.
    download: bool = option(False, cosmetic=True)
    # The test split that a data set comes with is the test split; train and validation are drawn from the
    # other images. False: all three are drawn.
    official_test: bool = False
    # dataset=image_folder: a CSV in UTF-8 of file and label takes the place of class folders; files are
    # relative to root, or without one to the CSV. None: class folders.
    csv: str | None = None
    # Names of the classes of a folder of images that are taken; None: all of them. With csv these are all the
    # labels that may occur.
    classes: list[str] | None = None
    # Classes of the embedded digits; None takes all of them.
    digits: list[int] | None = None
    # Classes of the source task on which `digits_cnn` is pre-trained.
    source_digits: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    # Counts a class; with counts the rest is test. None: fractions.
    train_per_class: int | None = option(None, minimum=1)
    val_per_class: int | None = option(None, minimum=1)
    train_fraction: float = option(0.7, minimum=0.0, maximum=1.0)
    val_fraction: float = option(0.15, minimum=0.0, maximum=1.0)
    unreadable: str = option("refuse", choices=("refuse", "skip"))
    # Decoded and resized images are kept in the cache, so that no later epoch decodes: always, never (all are
    # decoded whenever they are read), or if they fit (cache_limit_gb, the disk).
    keep_pixels: str = option("auto", choices=("auto", "always", "never"), cosmetic=True)
    # Texts are padded or cut to so many tokens; FLOPs are counted at this length.
    max_tokens: int = option(64, minimum=1, maximum=4096)
    # Augmentation of fine-tuning from images.
    flip: bool = True
    # Smallest share of the image's area that a random crop takes; 1.0: shift only.
    min_scale: float = option(1.0, minimum=0.05, maximum=1.0)
    # Pixels of edge padding before a random crop.
    pad: int = option(0, minimum=0)


@dataclass
class ExcludeConfig:
    """What differs from its file in conf/dataset/ for the data set that `exclude` names; None: nothing does.

    The options are those of `dataset` that say which samples there are and how they are split; a fraction
    takes the place of the file's counts.
    """

    official_test: bool | None = None
    csv: str | None = None
    classes: list[str] | None = None
    digits: list[int] | None = None
    train_per_class: int | None = option(None, minimum=1)
    val_per_class: int | None = option(None, minimum=1)
    train_fraction: float | None = option(None, minimum=0.0, maximum=1.0)
    val_fraction: float | None = option(None, minimum=0.0, maximum=1.0)
    unreadable: str | None = option(None, choices=("refuse", "skip"))


@dataclass
class BackboneConfig:
    """The pre-trained network and the images that it expects."""

    name: str = option(
        "digits_cnn",
        choices=(
            "vgg16",
            "resnet18",
            "resnet50",
            "densenet121",
            "mobilenet_v2",
            "resnet20",
            "resnet56",
            "digits_cnn",
            "textcnn",
            "custom",
        ),
    )
    # pretrained, random, or a path to a .safetensors or weights-only .pth state dict.
    weights: str = "pretrained"
    # backbone=custom: dotted path of `factory(num_classes, **options) -> nn.Sequential`.
    factory: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    # backbone=textcnn: numbers in a word's vector, and filters of each of its three convolutions.
    embedding_width: int = option(128, minimum=1, maximum=4096)
    filters: int = option(100, minimum=2, maximum=4096)
    # backbone=textcnn: a file of word vectors in GloVe's format, from which the embedding starts.
    vectors: str | None = None
    size: int = option(224, minimum=1)
    # Shorter side after resizing; None: size x 8/7, rounded.
    resize: int | None = option(None, minimum=1)
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    interpolation: str = option("bilinear", choices=("bilinear", "bicubic"))


@dataclass
class StepsConfig:
    """How a network learns, without how long."""

    batch_size: int = option(32, minimum=1)
    optimizer: str = option("adamw", choices=("adamw", "sgd", "adagrad"))
    lr: float = option(1e-3, minimum=0.0)
    weight_decay: float = option(1e-2, minimum=0.0)
    momentum: float = option(0.9, minimum=0.0, maximum=1.0)
    nesterov: bool = False
    schedule: str = option("cosine", choices=("constant", "cosine", "step", "plateau"))
    # schedule=plateau: the learning rate does not fall below this.
    min_lr: float = option(0.0, minimum=0.0)
    # Share of the steps over which the learning rate rises linearly from zero.
    warmup: float = option(0.0, minimum=0.0, maximum=1.0)
    # schedule=step: epochs between two steps; step and plateau: factor; plateau: patience in epochs.
    step_epochs: int = option(20, minimum=1)
    factor: float = option(0.5, minimum=0.0, maximum=1.0)
    plateau_patience: int = option(5, minimum=0)
    label_smoothing: float = option(0.0, minimum=0.0, maximum=1.0)
    # Batch-norm statistics of trained layers: from each batch, or as they are.
    batchnorm: str = option("train", choices=("train", "frozen"))
    # Decay of the exponential moving average of the weights that is judged and kept; None: none.
    ema: float | None = option(None, minimum=0.0, maximum=1.0)


@dataclass
class RecipeConfig(StepsConfig):
    """One training recipe."""

    epochs: int = option(10, minimum=1)
    # Share of the training samples that an epoch sees, drawn anew for each.
    epoch_share: float = option(1.0, minimum=0.001, maximum=1.0)
    # Early stopping: epochs without a better validation accuracy; None: never.
    patience: int | None = option(None, minimum=1)


@dataclass
class TrainerConfig:
    """One recipe for each kind of training."""

    # Stage pretrain; the new softmax layer, a trial of the search, fine-tuning from images; and all training
    # of stage prune, whose options say how many epochs each phase takes.
    pretrain: RecipeConfig = field(default_factory=RecipeConfig)
    head: RecipeConfig = field(default_factory=RecipeConfig)
    trial: RecipeConfig = field(default_factory=RecipeConfig)
    finetune: RecipeConfig = field(default_factory=RecipeConfig)
    recover: StepsConfig = field(default_factory=StepsConfig)
    class_weights: str = option("none", choices=("none", "balanced"))


@dataclass
class TuneConfig:
    """Stage one: the search space, its budget and what is done with the winner."""

    name: str = "tascnet"
    # tascnet: pre-trained layers with inherited weights, changed by surgery; autotune: new layers in place of
    # the last ones (Basha et al. 2020).
    space: str = option("tascnet", choices=("tascnet", "autotune"))
    # What proposes: Gaussian-process Bayesian optimisation, random or quasi-random points.
    algorithm: str = option("bo", choices=("bo", "random", "sobol"))
    # search: the space's configurations; layerwise: the pre-trained ones alone, frozen up to each block in
    # turn (every n-th with freeze_every).
    freeze: str = option("search", choices=("search", "layerwise"))
    freeze_every: int = option(1, minimum=1)

    # What a trial is judged by. accuracy, loss; constrained: the best accuracy of the networks inside the
    # bounds below; pareto: accuracy against pareto_cost.
    objective: str = option("accuracy", choices=("accuracy", "loss", "constrained", "pareto"))
    pareto_cost: str = option("flops", choices=("flops", "params"))
    # Bounds, as shares of the pre-trained network with its new softmax layer; None: no bound.
    max_flops: float | None = option(None, minimum=0.001, maximum=1.0)
    max_params: float | None = option(None, minimum=0.001, maximum=1.0)
    max_latency: float | None = option(None, minimum=0.001, maximum=1.0)
    # Fine-tune this trial of the finished search, in a folder of its own; None: the winner.
    pick: int | None = option(None, minimum=0, cosmetic=True)

    # Space tascnet. Choices for each unit; the pre-trained setting is always among them.
    widths: list[float] = field(default_factory=lambda: [0.25, 0.5, 0.75, 1.0])
    round_to: int = option(8, minimum=1)
    kernels: list[int] = field(default_factory=lambda: [3, 5])
    activations: list[str] = field(default_factory=lambda: ["relu", "elu"])
    # Whether residual blocks with an identity shortcut may be removed.
    remove_blocks: bool = True
    # Learning rates of a trial, as multiples of trainer.trial.lr.
    lr_factors: list[float] = field(default_factory=lambda: [1.0])
    # Which pre-trained channels a narrower trial inherits.
    importance: str = option("magnitude", choices=("magnitude", "fpgm", "random"))

    # The dense head. new: on the features before the pre-trained classification layer; grow: on that layer,
    # which stays (Shermin et al. 2019; space tascnet); search: either.
    head: str = option("new", choices=("new", "grow", "search"))
    grow_norms: list[str] = field(default_factory=lambda: ["none", "l2", "batchnorm"])
    hidden_layers: list[int] = field(default_factory=lambda: [0, 1])
    neurons: list[int] = field(default_factory=lambda: [128, 256, 512])
    dropouts: list[float] = field(default_factory=lambda: [0.0, 0.2, 0.4])

    # Space autotune. keep: shortcuts stay, matched by 1x1 convolutions; drop: the deeper part becomes plain.
    skip: str = option("keep", choices=("keep", "drop"))
    # Dense layers before the classifier (VGG): kept as layers of the chain, or replaced by the searched ones.
    dense: str = option("replace", choices=("keep", "replace"))
    filters: list[int] = field(default_factory=lambda: [64, 128, 256, 512])
    filter_sizes: list[int] = field(default_factory=lambda: [1, 2, 3, 5])
    filter_activations: list[str] = field(default_factory=lambda: ["relu", "sigmoid", "tanh", "elu", "selu"])
    pool_sizes: list[int] = field(default_factory=lambda: [2, 3])
    paddings: list[int] = field(default_factory=lambda: [1, 3])

    # The budget.
    initial_trials: int = option(6, minimum=1)
    # Depth of the first trials; 0 searches the dense head alone before all else.
    start_depth: int = option(1, minimum=0, maximum=1)
    trials_per_depth: int = option(8, minimum=1, extendable=True)
    # None: 3 units, and 24 trials or as many as max_seconds allows. freeze=layerwise has one trial for each
    # depth, of all units.
    max_units: int | None = option(None, minimum=1, extendable=True)
    max_trials: int | None = option(None, minimum=1, extendable=True)
    max_seconds: float | None = option(None, minimum=0.0, extendable=True)
    patience: int = option(1, minimum=1, extendable=True)
    min_delta: float = option(0.0, minimum=0.0, maximum=1.0)
    # median: a trial ends early that is worse than the median of earlier ones at the same epoch; not before
    # stop_epoch, nor among the first stop_trials.
    early_stop: str = option("none", choices=("none", "median"))
    stop_epoch: int = option(3, minimum=1)
    stop_trials: int = option(5, minimum=1)

    # Of so many proposals one seeks the smallest network near the best (see tolerance) rather than a better
    # one; 0: none does. Of account with algorithm=bo, freeze=search and objective accuracy or constrained.
    slim_every: int = option(3, minimum=0)
    # The winner. Trials this close to the best compete by size; None: one binomial standard error.
    tolerance: float | None = option(0.02, minimum=0.0, maximum=1.0)
    # Where fine-tuning of the winner begins. conventional: at the network fine-tuned as usual, which
    # takes on the winner's structure and teaches it; prefix and all: at the trained trial, from its own first
    # trained block or from the first of all; best: the better of the two; auto: conventional where the winner
    # is the pre-trained network made smaller (tune=tascnet, no grown head), else best.
    finetune_from: str = option("auto", choices=("auto", "conventional", "best", "all", "prefix"))
    # Weight of the distillation loss from the conventionally fine-tuned network; 0: none.
    distill: float = option(0.8, minimum=0.0, maximum=1.0)
    distill_temperature: float = option(2.0, minimum=0.1)
    # Element type of cached features.
    cache_dtype: str = option("float16", choices=("float16", "float32"))

    @property
    def looks_for_narrower(self) -> bool:
        """Whether the winner is the pre-trained network made smaller, unless a searched head has grown."""
        return self.space == "tascnet" and self.freeze == "search" and self.head != "grow"


@dataclass
class PruneConfig:
    """Stage two: what goes, how it is made up for, and when to stop."""

    name: str = "tascnet"
    # Folder of a saved model; None: what stage=tune left in the same run folder.
    source: str | None = None

    # What makes a filter redundant: its likeness to another through training (history), how little the loss
    # rises where the others make up for it (reconstruction), a criterion of torch-pruning (magnitude, taylor,
    # fpgm, lamp, hessian, bn_scale, random), or the dotted path of a torch_pruning.importance.Importance.
    criterion: str = "history"
    # group: the same share of each group of layers; global: the cheapest filters of all groups.
    scope: str = option("group", choices=("group", "global"))
    # With scope=global, what a filter's cost is weighed against: the FLOPs or params saved, or nothing.
    per: str = option("flops", choices=("flops", "params", "filters"))
    # all groups, or those of the layers alone that stage tune has searched.
    where: str = option("all", choices=("all", "tail"))
    # Groups with fewer filters are left alone, and no group is left with fewer than min_width.
    min_filters: int = option(128, minimum=2)
    min_width: int = option(1, minimum=1)
    # Widths that are left are multiples of this; auto: of what the device runs fastest with.
    round_to: int | str = option(8, minimum=1, words=("auto",))
    # Whole residual blocks may go, where that costs less than the filters that save the same time, or where
    # no filter can; not beyond a goal that filters can land on.
    blocks: bool = False

    # history=continue: recording goes on through optimisation and retraining; restart: it begins anew.
    history: str = option("restart", choices=("restart", "continue"))
    # Criteria without pairs have neither phase: these epochs are added to those of retraining.
    history_epochs: int = option(1, minimum=0)
    optimise_epochs: int = option(1, minimum=0)
    retrain_epochs: int = option(2, minimum=1)
    # The network that is kept learns this much longer before it is handed over; 0: not at all.
    final_epochs: int = option(0, minimum=0)
    # Share of trainer.recover.lr that the history and optimisation phases use.
    phase_lr: float = option(1.0, minimum=0.0, maximum=1.0)
    regulariser: str = option("per_group_mean", choices=("per_group_mean", "sum"))
    regulariser_weight: float = option(1.0, minimum=0.0)
    # What stays takes over from what goes: nothing (as published), the weighted average of a pair, or what
    # the next layers read of the removed channel (fold), by least squares over activations or weights; refit:
    # so, and then every layer learns by least squares to give what it gave before the cut.
    merge: str = option("fold", choices=("none", "average", "fold", "refit"))
    fold_by: str = option("activations", choices=("activations", "weights"))
    # Weight of the distillation loss from the unpruned network in retraining; 0: none.
    distill: float = option(0.5, minimum=0.0, maximum=1.0)
    distill_temperature: float = option(2.0, minimum=0.1)

    # Share of the filters that one iteration asks for, and the largest share of a group that it takes.
    percent: float = option(5.0, minimum=0.01, maximum=95.0)
    max_step: float = option(0.25, minimum=0.01, maximum=0.95)
    # An iteration that falls more than this below the best is taken back and tried with half the percent, up
    # to `retries` times in a row; a block that is taken back does not count.
    tolerance: float = option(0.02, minimum=0.0, maximum=1.0, extendable=True)
    retries: int = option(2, minimum=0, extendable=True)
    # Shares of the unpruned network's FLOPs, params and file size, and milliseconds for one sample, at which
    # to stop; None: no such goal. The last step is fitted to FLOPs, params and size.
    flops_target: float | None = option(None, minimum=0.0, maximum=1.0, extendable=True)
    params_target: float | None = option(None, minimum=0.0, maximum=1.0, extendable=True)
    size_target: float | None = option(None, minimum=0.0, maximum=1.0, extendable=True)
    target_latency_ms: float | None = option(None, minimum=0.0, extendable=True)
    max_seconds: float | None = option(None, minimum=0.0, extendable=True)
    max_iterations: int = option(10, minimum=1, extendable=True)

    # Measures the accuracy without 10, 25 and 50 % of each group alone, on so many validation samples.
    sensitivity: bool = option(False, cosmetic=True)
    sensitivity_samples: int = option(256, minimum=1, cosmetic=True)


@dataclass
class MeasureConfig:
    """How latency is measured."""

    batch: int = option(16, minimum=1)
    repeats: int = option(30, minimum=3)
    warmup: int = option(5, minimum=0)


@dataclass
class BenchmarkConfig:
    """Which comparison `stage=benchmark` makes; `_target_` is its dotted name.

    A comparison reads the options that its file in conf/benchmark/ lists.
    """

    name: str = "surrogate"
    _target_: str = "tascnet_pipelines.benchmarks.surrogate.run"
    # Repetitions, each with a seed of its own.
    seeds: int = option(5, minimum=1)
    # Trials of each search.
    trials: int = option(30, minimum=1)
    # Names of what is compared.
    methods: list[str] = field(default_factory=list)
    # Tables of configurations that were measured once.
    tables: list[str] = field(default_factory=list)
    # Seconds that each method may take for search and fine-tuning together.
    seconds: float = option(600.0, minimum=1.0)
    # Networks on which trials are timed, and the units that these train.
    backbones: list[str] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    # Shares of the FLOPs to which networks are pruned, and the epochs that each method has in all.
    budgets: list[float] = field(default_factory=list)
    epochs: int = option(8, minimum=3)
    # Training images of the epoch that is timed and scaled; a multiple of the batch size.
    images: int = option(256, minimum=1)
    # Networks on which both ways to run a trial are run in full, at the deepest of `depths`.
    full: list[str] = field(default_factory=list)


@dataclass
class CompareConfig:
    """Which runs `stage=compare` puts into one table."""

    # Folder that holds them at any depth; None: the one that `outputs` names.
    path: str | None = None


@dataclass
class Config:
    """The whole composed config."""

    stage: StageConfig = field(default_factory=StageConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)
    prune: PruneConfig = field(default_factory=PruneConfig)
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    benchmark: BenchmarkConfig = field(default_factory=BenchmarkConfig)
    compare: CompareConfig = field(default_factory=CompareConfig)
    # Last part of the run folder's name; None: the tune preset and its non-default options.
    name: str | None = None
    seed: int = option(0, minimum=0, maximum=10**9)
    # stage=pretrain: the data set that the network is to move to; samples that lie in its validation or test
    # split, by this seed and its own file in conf/dataset/, are left out. exclude_root: its folder;
    # exclude_options: what differs from its file.
    exclude: str | None = None
    exclude_root: str | None = None
    exclude_options: ExcludeConfig = field(default_factory=ExcludeConfig)
    outputs: str = "outputs"
    # Decoded images, features and weights shared by runs; None: <outputs>/cache.
    cache_dir: str | None = None
    cache_limit_gb: float = option(20.0, minimum=0.0)
    device: str = "auto"
    # CPU threads; None: as torch chooses.
    threads: int | None = option(None, minimum=1)
    fresh: bool = False
    debug: bool = False
