"""Options that contradict each other, or that have no effect beside others."""

import re
from collections.abc import Iterator
from dataclasses import fields

from tascnet.errors import closest, listed
from tascnet.options import (
    ACTIVATIONS,
    OFFICIAL_TESTS,
    PRUNE_CRITERIA,
    PUBLISHED_IMAGES,
    PUBLISHED_TEXTS,
    TEXT_DATASETS,
    BackboneConfig,
    Config,
    DatasetConfig,
    ExcludeConfig,
    PruneConfig,
    TuneConfig,
)

# Whether the rule is broken, what is wrong, and what to do.
Contradiction = tuple[bool, str, str | None]

# What pairs alone make use of.
HISTORY_OPTIONS = ("history", "phase_lr", "regulariser", "regulariser_weight")


def contradictions(config: Config) -> Iterator[Contradiction]:
    """Each rule that options must keep between them: whether it is broken, what is wrong, and what to do."""
    yield from dataset_contradictions(config)
    yield from _backbone_contradictions(config)
    yield from _text_contradictions(config)
    yield from _pretrain_contradictions(config)
    yield from _search_contradictions(config)
    yield from _prune_contradictions(config)
    yield from _recipe_contradictions(config)
    device = re.fullmatch(r"auto|cpu|cuda(:\d+)?", config.device)
    yield (
        device is None,
        f"there is no device {config.device!r}",
        "it is auto, cpu, cuda or cuda:<number>",
    )
    yield (
        config.compare.path is not None and config.stage.name != "compare",
        f"compare.path has no effect with stage={config.stage.name}",
        "add stage=compare",
    )
    unsafe = config.name is not None and not re.fullmatch(r"[\w=,+-][\w.=,+-]{0,119}", config.name)
    yield unsafe, f"name={config.name!r} cannot name a folder", "use at most 120 letters, digits and ._=,+-"


def dataset_contradictions(config: Config) -> Iterator[Contradiction]:
    """The rules that the options of a data set must keep, and of each what `contradictions` gives."""
    data = config.dataset
    published = (*PUBLISHED_IMAGES, *PUBLISHED_TEXTS)
    yield (
        data.name == "image_folder" and data.root is None and data.csv is None,
        f"dataset={data.name} needs the folder of its images",
        "give it as dataset.root=<folder>, or a list of files and labels as dataset.csv=<file>",
    )
    yield (
        data.csv is not None and data.name != "image_folder",
        f"dataset.csv lists images of your own, not those of dataset={data.name}",
        "add dataset=image_folder",
    )
    yield (
        data.classes is not None and data.name in ("digits", *TEXT_DATASETS),
        f"dataset.classes chooses among folders of images, not in dataset={data.name}",
        "take dataset.digits" if data.name == "digits" else "leave it out",
    )
    yield (
        data.classes is not None and len(set(data.classes)) < 2,
        f"dataset.classes takes at least two classes, not {data.classes}",
        None,
    )
    yield (
        data.download and data.name not in published and config.exclude not in published,
        f"dataset.download fetches {listed(published)}, not dataset={data.name}",
        "leave it out",
    )
    yield (
        data.official_test and data.name not in OFFICIAL_TESTS,
        f"dataset={data.name} comes with no official test split, but {listed(OFFICIAL_TESTS)} do",
        "leave dataset.official_test out",
    )
    yield (
        data.train_per_class is None and data.train_fraction + data.val_fraction >= 1,
        f"dataset.train_fraction + dataset.val_fraction is {data.train_fraction + data.val_fraction:g}",
        "leave a share for the test split: a sum below 1",
    )
    yield (
        (data.train_per_class is None) != (data.val_per_class is None),
        "dataset.train_per_class and dataset.val_per_class go together",
        "give both or neither",
    )
    yield (
        data.train_per_class is None and min(data.train_fraction, data.val_fraction) == 0,
        "dataset.train_fraction and dataset.val_fraction are above 0",
        None,
    )
    for key, digits in (("digits", data.digits), ("source_digits", data.source_digits)):
        wrong = digits is not None and (len(set(digits)) != len(digits) or not set(digits) <= set(range(10)))
        yield wrong, f"dataset.{key} takes different digits from 0 to 9, not {digits}", None
        yield digits is not None and len(digits) < 2, f"dataset.{key} takes at least two digits", None


def _backbone_contradictions(config: Config) -> Iterator[Contradiction]:
    net = config.backbone
    yield (
        net.name == "custom" and net.factory is None,
        "backbone=custom needs the function that makes the network",
        "give its dotted path as backbone.factory=<module>.<function>",
    )
    yield (
        len(net.mean) != len(net.std) or len(net.mean) not in (1, 3),
        f"backbone.mean and backbone.std have {len(net.mean)} and {len(net.std)} values",
        "give one value for grey images or three for colour, the same number for both",
    )
    yield min(net.std, default=1.0) <= 0, f"backbone.std is above 0, not {net.std}", None
    yield (
        net.resize is not None and net.resize < net.size,
        f"backbone.resize={net.resize} is smaller than backbone.size={net.size}",
        "images are resized first, then cropped: give at least the size",
    )
    yield (
        net.name == "digits_cnn" and config.dataset.name != "digits",
        f"backbone=digits_cnn is for digits of 8 x 8 pixels, not for dataset={config.dataset.name}",
        "choose a backbone for images, such as backbone=mobilenet_v2",
    )
    source = set(config.dataset.source_digits)
    target = set(range(10)) if config.dataset.digits is None else set(config.dataset.digits)
    has_source = net.name == "digits_cnn" and net.weights == "pretrained" and config.stage.name != "pretrain"
    yield (
        has_source and bool(source & target),
        f"dataset.source_digits and dataset.digits share {sorted(source & target)}: the network would be "
        "tested on images that it was pre-trained on",
        "take other digits, or backbone.weights=random",
    )


def _text_contradictions(config: Config) -> Iterator[Contradiction]:
    data, net, default = config.dataset, config.backbone, BackboneConfig()
    is_text, reads_text = data.name in TEXT_DATASETS, net.name == "textcnn"
    yield (
        is_text and data.name not in PUBLISHED_TEXTS and data.root is None,
        f"dataset={data.name} needs the folder of its texts",
        "give it as dataset.root=<folder>",
    )
    yield (
        is_text != reads_text,
        f"backbone={net.name} takes {'texts' if reads_text else 'images'}, but dataset={data.name} holds "
        f"{'texts' if is_text else 'images'}",
        "take backbone=textcnn" if is_text else "take another backbone, or a data set of texts",
    )
    yield (
        not is_text and data.max_tokens != DatasetConfig().max_tokens,
        f"dataset.max_tokens has no effect with dataset={data.name}",
        "leave it out",
    )
    for key in ("unreadable", "flip", "min_scale", "pad"):
        yield (
            is_text and getattr(data, key) != getattr(DatasetConfig(), key),
            f"dataset.{key} has no effect with dataset={data.name}",
            "leave it out",
        )
    for key in ("embedding_width", "filters", "vectors"):
        yield (
            not reads_text and getattr(net, key) != getattr(default, key),
            f"backbone.{key} has no effect with backbone={net.name}",
            "leave it out, or take backbone=textcnn",
        )
    for key in ("size", "resize", "mean", "std", "interpolation", "options"):
        yield (
            reads_text and getattr(net, key) != getattr(default, key),
            f"backbone.{key} has no effect with backbone=textcnn",
            "leave it out",
        )
    yield (
        reads_text and config.prune.blocks,
        "prune.blocks has no effect with backbone=textcnn, which has no residual blocks",
        "leave it out",
    )
    yield (
        reads_text and config.tune.space == "autotune",
        "tune.space=autotune makes layers of images anew and knows none of textcnn",
        "take tune=tascnet",
    )
    yield (
        reads_text and config.stage.name == "benchmark",
        "stage=benchmark compares on images, not on texts",
        "take stage=full",
    )


def _pretrain_contradictions(config: Config) -> Iterator[Contradiction]:
    name, data, is_pretrain = config.exclude, config.dataset, config.stage.name == "pretrain"
    (known,) = [entry.metadata["choices"] for entry in fields(DatasetConfig) if entry.name == "name"]
    likely = closest(name or "", known)
    yield (
        is_pretrain and config.backbone.weights not in ("pretrained", "random"),
        "stage=pretrain starts from random weights: backbone.weights has no effect",
        "leave it out",
    )
    yield (
        name is not None and not is_pretrain,
        f"exclude={name} has no effect with stage={config.stage.name}",
        "add stage=pretrain",
    )
    yield (
        name is not None and name not in known,
        f"exclude has no choice {name!r}",
        f"did you mean exclude={likely}?" if likely else f"it takes {listed(known)}",
    )
    yield (
        name is not None and (name in TEXT_DATASETS) != (data.name in TEXT_DATASETS),
        f"dataset={data.name} and exclude={name} cannot share samples: one holds texts, the other images",
        "leave exclude out",
    )
    needs_root = name in ("image_folder", "text_lines")
    yield (
        needs_root and config.exclude_root is None and config.exclude_options.csv is None,
        f"exclude={name} needs the folder of that data set",
        "give it as exclude_root=<folder>",
    )
    yield (
        name is None and config.exclude_options != ExcludeConfig(),
        "exclude_options have no effect without a data set to exclude",
        "add exclude=<data set>, or leave them out",
    )
    yield (
        config.exclude_root is not None and (name is None or name == "digits"),
        "exclude_root has no effect without a data set in files to exclude",
        "add exclude=<data set>, or leave it out",
    )


# What only one of the search spaces reads.
SPACE_OPTIONS = {
    "tascnet": ("widths", "kernels", "activations", "remove_blocks", "lr_factors", "importance"),
    "autotune": ("skip", "dense", "filters", "filter_sizes", "filter_activations", "pool_sizes", "paddings"),
}
LISTS = (
    *("widths", "kernels", "activations", "lr_factors", "grow_norms", "hidden_layers", "neurons", "dropouts"),
    *("filters", "filter_sizes", "filter_activations", "pool_sizes", "paddings"),
)
MAY_BE_EMPTY = ("widths", "kernels", "activations")
NORMS = ("none", "l2", "batchnorm")


def _search_contradictions(config: Config) -> Iterator[Contradiction]:
    tune = config.tune
    over_time = config.backbone.name == "textcnn"
    kernels = "1 or more" if over_time else "odd numbers"
    for key in LISTS:
        values = getattr(tune, key)
        yield len(set(values)) != len(values), f"tune.{key} names a value twice: {values}", None
        yield key not in MAY_BE_EMPTY and not values, f"tune.{key} is empty", "give at least one value"
    for key, right, expected in (
        ("widths", lambda x: 0 < x <= 1, "shares in (0, 1]"),
        ("kernels", lambda x: x > 0 and (over_time or x % 2 == 1), kernels),
        ("hidden_layers", lambda x: x >= 0, "0 or more"),
        ("neurons", lambda x: x > 0, "1 or more"),
        ("dropouts", lambda x: 0 <= x < 1, "shares in [0, 1)"),
        ("lr_factors", lambda x: x > 0, "above 0"),
        ("filters", lambda x: x > 0, "1 or more"),
        ("filter_sizes", lambda x: x > 0, "1 or more"),
        ("pool_sizes", lambda x: x > 0, "1 or more"),
        ("paddings", lambda x: x >= 0, "0 or more"),
    ):
        values = getattr(tune, key)
        yield not all(map(right, values)), f"tune.{key} are {expected}, not {values}", None
    for key, names in (
        ("activations", ACTIVATIONS),
        ("filter_activations", ACTIVATIONS),
        ("grow_norms", NORMS),
    ):
        for name in getattr(tune, key):
            likely = closest(name, names)
            hint = f"did you mean {likely}?" if likely else f"it takes some of {listed(names)}"
            yield name not in names, f"tune.{key} has no choice {name!r}", hint
    yield from _goal_contradictions(config)
    yield from _algorithm_contradictions(config)
    yield from _finetune_contradictions(config)


def _goal_contradictions(config: Config) -> Iterator[Contradiction]:
    tune = config.tune
    bounds = [key for key in ("max_flops", "max_params", "max_latency") if getattr(tune, key) is not None]
    yield (
        tune.objective == "constrained" and not bounds,
        "tune.objective=constrained needs a bound",
        "give tune.max_flops, tune.max_params or tune.max_latency as a share of the original network's",
    )
    yield (
        tune.objective != "constrained" and bool(bounds),
        f"tune.{bounds[0] if bounds else ''} has no effect with tune.objective={tune.objective}",
        "add tune.objective=constrained",
    )
    yield (
        tune.objective != "pareto" and tune.pareto_cost != TuneConfig().pareto_cost,
        f"tune.pareto_cost has no effect with tune.objective={tune.objective}",
        "add tune.objective=pareto",
    )


def _algorithm_contradictions(config: Config) -> Iterator[Contradiction]:
    tune, default = config.tune, TuneConfig()
    other = "autotune" if tune.space == "tascnet" else "tascnet"
    for key in SPACE_OPTIONS[other]:
        yield (
            getattr(tune, key) != getattr(default, key),
            f"tune.{key} has no effect with tune.space={tune.space}",
            f"leave it out, or take tune={other}",
        )
    yield (
        tune.head == "new" and tune.grow_norms != default.grow_norms,
        "tune.grow_norms has no effect with tune.head=new",
        "add tune.head=grow or tune.head=search",
    )
    yield (
        tune.space == "autotune" and tune.head != "new",
        f"tune.head={tune.head} has no effect with tune.space=autotune, whose dense layers are all new",
        "leave it out, or take tune=tascnet",
    )
    layerwise = tune.freeze == "layerwise"
    yield (
        layerwise
        and not (
            tune.space == "tascnet" and tune.algorithm == "bo" and tune.objective in ("accuracy", "loss")
        ),
        "tune.freeze=layerwise goes through the depths of the pre-trained network by itself",
        "leave tune.space, tune.algorithm and tune.objective out",
    )
    yield (
        layerwise and tune.head == "search",
        "tune.head=search has no effect with tune.freeze=layerwise, which searches depths alone",
        "take tune.head=new or tune.head=grow",
    )
    yield (
        tune.early_stop == "median" and tune.stop_epoch >= config.trainer.trial.epochs,
        f"tune.stop_epoch={tune.stop_epoch} stops no trial of {config.trainer.trial.epochs} epochs",
        "lower it, or raise trainer.trial.epochs",
    )
    yield (
        layerwise and tune.max_units is not None,
        "tune.max_units has no effect with tune.freeze=layerwise, which goes through all depths",
        "leave it out; tune.max_trials and tune.max_seconds limit the number of depths",
    )
    yield (
        not layerwise and tune.freeze_every != default.freeze_every,
        "tune.freeze_every has no effect with tune.freeze=search",
        "add tune.freeze=layerwise",
    )
    # The default stands beside goals that leave no turn to it; a preset without turns says 0.
    own = 0 if tune.space == "autotune" else default.slim_every
    for key, value, learns in (
        ("algorithm", tune.algorithm, ("bo",)),
        ("objective", tune.objective, ("accuracy", "constrained")),
        ("freeze", tune.freeze, ("search",)),
    ):
        yield (
            tune.slim_every not in (0, own) and value not in learns,
            f"tune.slim_every has no effect with tune.{key}={value}",
            "leave it out",
        )
    for key in ("stop_epoch", "stop_trials"):
        yield (
            tune.early_stop == "none" and getattr(tune, key) != getattr(default, key),
            f"tune.{key} has no effect with tune.early_stop=none",
            "add tune.early_stop=median",
        )


def _finetune_contradictions(config: Config) -> Iterator[Contradiction]:
    tune, default = config.tune, TuneConfig()
    yield (
        tune.finetune_from == "conventional" and not (tune.looks_for_narrower and tune.head == "new"),
        "tune.finetune_from=conventional needs the pre-trained network made smaller, which only "
        "tune.space=tascnet with tune.head=new and tune.freeze=search looks for",
        "take tune.finetune_from=auto",
    )
    teaches = tune.looks_for_narrower and tune.finetune_from in ("auto", "conventional")
    for key, holds, needs in (
        ("distill", teaches, "a conventional network that teaches (tune.finetune_from)"),
        ("distill_temperature", teaches and tune.distill > 0, "tune.distill above 0"),
    ):
        yield (
            not holds and getattr(tune, key) != getattr(default, key),
            f"tune.{key} has no effect without {needs}",
            "leave it out",
        )


def _prune_contradictions(config: Config) -> Iterator[Contradiction]:
    prune, default = config.prune, PruneConfig()
    has_pairs = prune.criterion == "history"
    likely = closest(prune.criterion, PRUNE_CRITERIA)
    yield (
        prune.criterion not in PRUNE_CRITERIA and not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)+", prune.criterion),
        f"there is no prune.criterion={prune.criterion}",
        f"did you mean {likely}?" if likely else f"take one of {', '.join(PRUNE_CRITERIA)}, or a dotted path",
    )
    yield (
        has_pairs and prune.max_step > 0.5,
        f"prune.max_step={prune.max_step:g} is more than half of a group, but one of each pair stays",
        "lower it to 0.5, or take another prune.criterion",
    )
    yield (
        prune.merge == "average" and not has_pairs,
        f"prune.merge=average needs pairs, but prune.criterion={prune.criterion} has none",
        "take prune.merge=fold or prune.criterion=history",
    )
    for key, holds, needs in (
        ("per", prune.scope == "global", "prune.scope=global"),
        ("fold_by", prune.merge in ("fold", "refit"), "prune.merge=fold or refit"),
        ("distill_temperature", prune.distill > 0, "prune.distill above 0"),
        ("sensitivity_samples", prune.sensitivity, "prune.sensitivity=true"),
        *((key, has_pairs, "prune.criterion=history") for key in HISTORY_OPTIONS),
    ):
        yield (
            getattr(prune, key) != getattr(default, key) and not holds,
            f"prune.{key} has no effect without {needs}",
            "leave it out",
        )


def _recipe_contradictions(config: Config) -> Iterator[Contradiction]:
    trainer = config.trainer
    for name in ("pretrain", "head", "trial", "finetune", "recover"):
        steps = getattr(trainer, name)
        yield (
            steps.min_lr > 0 and steps.schedule != "plateau",
            f"trainer.{name}.min_lr has no effect with trainer.{name}.schedule={steps.schedule}",
            f"add trainer.{name}.schedule=plateau",
        )
        yield (
            steps.min_lr > steps.lr,
            f"trainer.{name}.min_lr is {steps.min_lr:g}, above trainer.{name}.lr, {steps.lr:g}",
            "lower it",
        )
        yield (
            steps.optimizer == "sgd" and steps.nesterov and steps.momentum == 0,
            f"trainer.{name}.nesterov needs a momentum",
            f"raise trainer.{name}.momentum above 0, or leave nesterov out",
        )
