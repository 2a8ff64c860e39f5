"""Mistakes on the command line, found before torch is imported and answered with one sentence."""

import math
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import Field, fields, is_dataclass
from difflib import SequenceMatcher
from itertools import islice
from typing import Any, Union, get_args, get_origin

from hydra.core.override_parser.types import Override

from tascnet.compose import Tree, flatten
from tascnet.config import ACTIVATIONS, Config, TuneConfig
from tascnet.errors import ConfigError

__all__ = ["check_config", "check_overrides", "closest", "normalise"]

# Sections whose keys are the user's own.
OPEN = ("backbone.options",)
# Sweeps are composed value by value up to this many values an option.
SWEEP_VALUES = 100
HELP = "python -m tascnet --help lists all options"

TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def check_overrides(
    overrides: Iterable[str], tree: Tree, *, multirun: bool, config_name: str
) -> list[Config]:
    """Check every override by itself, then the configs that they compose to.

    Args:
        overrides: as on the command line.
        tree: the config tree.
        multirun: whether sweeps are allowed.
        config_name: the primary config.

    Returns:
        The composed config; with sweeps, one for the first values and one for each further value.

    Raises:
        ConfigError: an unknown key, group or value, a wrong type, a value out of bounds, a contradiction.
    """
    overrides = list(overrides)
    parsed = tree.parse(overrides)
    # Groups in folders that a search path adds are known to Hydra alone.
    groups = None if any(o.key_or_group == "hydra.searchpath" for o in parsed) else tree.groups()
    values = [_values(override, multirun) for override in parsed]
    for override, candidates in zip(parsed, values, strict=True):
        for value in candidates:
            _check_one(override, value, groups or tree.groups(), complete=groups is not None)
    return [_checked(tree.compose(texts, config_name)) for texts in _combinations(overrides, parsed, values)]


def normalise(override: str) -> str:
    """An override of a key of the user's own (`backbone.options.depth=3`) in the form that Hydra takes."""
    bare = override.lstrip("+")
    return f"++{bare}" if bare.startswith(tuple(f"{name}." for name in OPEN)) else override


def check_config(config: Config) -> None:
    """Check bounds and choices of every option, and options against each other."""
    for key, entry, value in flatten(config):
        _check_bounds(key, entry, value)
    for wrong, message, hint in _contradictions(config):
        if wrong:
            raise ConfigError(message, hint)


def closest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name that is most like `name`, also when only its last part was given; None when none is."""
    scored = [(_likeness(name, other), other) for other in valid]
    score, best = max(scored, key=lambda pair: pair[0], default=(0.0, ""))
    return best if score >= 0.55 else None


def _checked(config: Config) -> Config:
    check_config(config)
    return config


def _likeness(name: str, other: str) -> float:
    whole = SequenceMatcher(None, name.lower(), other.lower()).ratio()
    last = SequenceMatcher(None, name.lower().rpartition(".")[2], other.lower().rpartition(".")[2]).ratio()
    # Of two equally good last parts the one in the better, then the shorter path is meant.
    return max(whole, 0.9 * last + 0.05 * whole - 0.001 * other.count("."))


def _values(override: Override, multirun: bool) -> list[Any]:
    if not override.is_sweep_override():
        return [override.value()]
    if not multirun:
        raise ConfigError(
            f"{override.input_line} sweeps over several values", "add -m, or quote a text that has commas"
        )
    if not override.is_discrete_sweep():
        return []
    values = list(islice(override.sweep_iterator(), SWEEP_VALUES))
    if not values:
        raise ConfigError(f"{override.input_line} sweeps over no value at all", HELP)
    return [Override._convert_value(value) for value in values]


def _combinations(
    overrides: list[str], parsed: list[Override], values: list[list[Any]]
) -> Iterator[list[str]]:
    """The first value of every sweep together, then each further value with the first ones of the others."""
    texts = [_texts(text, override) for text, override in zip(overrides, parsed, strict=True)]
    base = [options[0] for options in texts if options]
    yield base
    swept = [options for options in texts if options]
    for place, options in enumerate(swept):
        for option in options[1:]:
            yield [*base[:place], option, *base[place + 1 :]]


def _texts(text: str, override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [text]
    if not override.is_discrete_sweep():
        return []
    key = override.get_key_element()
    return [f"{key}={value}" for value in islice(override.sweep_string_iterator(), SWEEP_VALUES)]


def _check_one(override: Override, value: Any, groups: Mapping[str, list[str]], complete: bool) -> None:
    key = override.key_or_group
    if override.is_hydra_override():
        return
    if override.is_delete():
        raise ConfigError(
            f"{override.input_line} would delete an option", "give it a value, such as null, instead"
        )
    if key in groups and override.package is None:
        if complete or value is None:
            _check_choice_of_group(key, value, groups)
    elif "/" not in key and override.package is None:
        _check_key(key, value, groups)
    if override.is_add() and not _is_open(key):
        raise ConfigError(
            f"{override.input_line} would add an option that is there already", f"drop the + before {key}"
        )


def _check_choice_of_group(group: str, value: Any, groups: Mapping[str, list[str]]) -> None:
    if group == "experiment" and value is None:
        return
    if value not in groups[group]:
        likely = closest(str(value), groups[group])
        hint = f"did you mean {group}={likely}?" if likely else f"it takes {_listed(groups[group])}"
        raise ConfigError(f"{group} has no choice {value!r}", hint)


def _check_key(key: str, value: Any, groups: Mapping[str, list[str]]) -> None:
    if _is_open(key):
        return
    section: Any = Config
    entry: Field[Any] | None = None
    for part in key.split("."):
        entry = {item.name: item for item in fields(section)}.get(part) if is_dataclass(section) else None
        if entry is None:
            raise _unknown(key, groups)
        section = entry.type
    if entry is not None:
        _check_value(key, entry, value, groups)


def _check_value(key: str, entry: Field[Any], value: Any, groups: Mapping[str, list[str]]) -> None:
    if is_dataclass(entry.type):
        if not isinstance(value, dict):
            inner = f"{key}.{fields(entry.type)[0].name}"
            raise ConfigError(
                f"{key} is a section of options and takes no value", f"give one of them, such as {inner}=..."
            )
        for name, item in value.items():
            _check_key(f"{key}.{name}", item, groups)
    elif not (isinstance(value, str) and "${" in value):
        if not _fits(value, entry.type):
            raise ConfigError(f"{key} takes {_type_name(entry.type)}, not {_shown(value)}")
        _check_bounds(key, entry, value)


def _unknown(key: str, groups: Mapping[str, list[str]]) -> ConfigError:
    keys = [name for name, _, _ in flatten(Config())]
    likely = closest(key, [*keys, *groups])
    return ConfigError(f"there is no option {key}", f"did you mean {likely}?" if likely else HELP)


def _is_open(key: str) -> bool:
    return key.startswith(tuple(f"{name}." for name in OPEN))


def _fits(value: Any, kind: Any) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in inner)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, inner[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is str:
        # Hydra reads `name=12` as a number.
        return isinstance(value, str | int | float | bool)
    return isinstance(value, kind)


def _type_name(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if option is type(None) else _type_name(option) for option in inner)
    if origin is list:
        return f"a list such as [{'a,b' if inner[0] is str else '1,2'}]"
    return "a mapping such as {a:1}" if origin is dict else TYPE_NAMES.get(kind, str(kind))


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _check_bounds(key: str, entry: Field[Any], value: Any) -> None:
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, float) and not math.isfinite(item):
            raise ConfigError(f"{key} takes a finite number, not {item}")
    choices, low, high = (entry.metadata.get(name) for name in ("choices", "minimum", "maximum"))
    if choices is not None and value not in choices:
        likely = closest(str(value), choices)
        hint = f"did you mean {key}={likely}?" if likely else f"it takes {_listed(choices)}"
        raise ConfigError(f"{key} has no choice {value!r}", hint)
    if value is not None and low is not None and value < low:
        raise ConfigError(f"{key} is at least {low:g}, not {value:g}")
    if value is not None and high is not None and value > high:
        raise ConfigError(f"{key} is at most {high:g}, not {value:g}")


def _listed(names: Iterable[str]) -> str:
    *rest, last = names
    return f"{', '.join(rest)} or {last}" if rest else last


def _contradictions(config: Config) -> Iterator[tuple[bool, str, str | None]]:
    yield from _dataset_contradictions(config)
    yield from _backbone_contradictions(config)
    yield from _search_contradictions(config)
    yield from _recipe_contradictions(config)
    device = re.fullmatch(r"auto|cpu|cuda(:\d+)?", config.device)
    yield (
        device is None,
        f"there is no device {config.device!r}",
        "it is auto, cpu, cuda or cuda:<number>",
    )
    unsafe = config.name is not None and not re.fullmatch(r"[\w=,+-][\w.=,+-]{0,119}", config.name)
    yield unsafe, f"name={config.name!r} cannot name a folder", "use at most 120 letters, digits and ._=,+-"


def _dataset_contradictions(config: Config) -> Iterator[tuple[bool, str, str | None]]:
    data = config.dataset
    yield (
        data.name == "image_folder" and data.root is None,
        f"dataset={data.name} needs the folder of its images",
        "give it as dataset.root=<folder>",
    )
    yield (
        data.download and data.name != "caltech101",
        f"dataset.download fetches Caltech-101 alone, not dataset={data.name}",
        "leave it out",
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


def _backbone_contradictions(config: Config) -> Iterator[tuple[bool, str, str | None]]:
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
    yield (
        net.name == "digits_cnn" and net.weights == "pretrained" and bool(source & target),
        f"dataset.source_digits and dataset.digits share {sorted(source & target)}: the network would be "
        "tested on images that it was pre-trained on",
        "take other digits, or backbone.weights=random",
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


def _search_contradictions(config: Config) -> Iterator[tuple[bool, str, str | None]]:
    tune = config.tune
    for key in LISTS:
        values = getattr(tune, key)
        yield len(set(values)) != len(values), f"tune.{key} names a value twice: {values}", None
        yield key not in MAY_BE_EMPTY and not values, f"tune.{key} is empty", "give at least one value"
    for key, right, expected in (
        ("widths", lambda x: 0 < x <= 1, "shares in (0, 1]"),
        ("kernels", lambda x: x > 0 and x % 2 == 1, "odd numbers"),
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
            hint = f"did you mean {likely}?" if likely else f"it takes some of {_listed(names)}"
            yield name not in names, f"tune.{key} has no choice {name!r}", hint
    yield from _goal_contradictions(config)
    yield from _algorithm_contradictions(config)


def _goal_contradictions(config: Config) -> Iterator[tuple[bool, str, str | None]]:
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


def _algorithm_contradictions(config: Config) -> Iterator[tuple[bool, str, str | None]]:
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


def _recipe_contradictions(config: Config) -> Iterator[tuple[bool, str, str | None]]:
    trainer = config.trainer
    for name in ("head", "trial", "finetune", "recover"):
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
