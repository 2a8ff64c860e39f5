"""The typed config of one run of the command line."""

import inspect
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Union, cast, get_args, get_origin

from tascnet.errors import ConfigError, TascnetError, closest, listed
from tascnet.options import (
    BACKBONES,
    DATASETS,
    METRICS,
    Autotune,
    Backbone,
    Data,
    Evaluate,
    Export,
    HistoryPrune,
    ImageBackbone,
    Images,
    Local,
    Log,
    Measure,
    Options,
    Predict,
    Prune,
    Ray,
    RecipeChanges,
    StepChanges,
    Trainer,
    Tune,
    TuneBase,
    default_of,
    known_fields,
    make,
    option,
    threads_rule,
)
from tascnet.run.console import log

STAGES = ("tune", "prune", "full", "export", "predict", "evaluate", "pretrain", "compare")


@dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
    """Options of every run."""

    stage: str = option(
        "full",
        "What runs: tune, prune, full (both, then export), export, predict, evaluate, pretrain or compare.",
        choices=STAGES,
    )
    name: str | None = option(
        None, "Last part of the run folder's name; null is the tune preset and its changed options."
    )
    metric: str = option(
        "accuracy",
        "Decides the best epoch, trial and network: accuracy, or balanced_accuracy (the mean recall of the "
        "classes).",
        choices=METRICS,
    )
    seed: int = option(0, "Seed of splits, search and training.", minimum=0, maximum=10**9)
    outputs: str = option("outputs", "Folder of all runs.")
    cache_dir: str | None = option(
        None, "Folder of decoded images, features and weights that runs share; null is <outputs>/cache."
    )
    cache_limit_gb: float = option(
        20.0,
        "Gigabytes that decoded images, and as many that features may take in it.",
        minimum=0,
        maximum=10**6,
    )
    device: str = option("auto", "cpu, cuda, cuda:<number>, or auto.")
    threads: int | None = option(None, "CPU threads; null is as torch chooses.", minimum=1)
    exclude: str | None = option(
        None,
        "Stage pretrain: a run folder, or its splits.json, whose validation and test samples are left out.",
    )
    fresh: bool = option(False, "Start the stage over.")
    debug: bool = option(False, "Show debug messages, and where a mistake was found.")

    def rules(self) -> Iterator[tuple[bool, str, str | None]]:
        yield (
            not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device),
            f"there is no device {self.device!r}",
            "it is auto, cpu, cuda or cuda:<number>",
        )
        for name in ("outputs", "cache_dir"):
            yield getattr(self, name) == "", f"`{name}` is empty", "give a folder, or leave it out"
        yield threads_rule(self.threads)
        yield (
            self.name is not None and not re.fullmatch(r"[\w=,+-][\w.=,+-]{0,119}", self.name),
            f"`name={self.name}` cannot name a folder",
            "use at most 120 letters, digits and ._=,+-",
        )
        yield (
            self.exclude is not None and self.stage != "pretrain",
            f"`exclude` has no effect with stage={self.stage}",
            "add stage=pretrain",
        )


@dataclass(frozen=True, kw_only=True)
class PruneRun(Options):
    """Options of section prune that are the command line's own."""

    name: str | None = option(None, "Name of the pruning's folder; null is the preset's.")
    source: str | None = option(None, "Folder of the saved model to prune; null is what stage tune left.")


@dataclass(frozen=True, kw_only=True)
class Config(RunOptions):
    """The whole config: options of the run, and one option class for each section."""

    dataset: Data
    backbone: Backbone
    trainer: Trainer
    tune: TuneBase
    prune: Prune
    measure: Measure
    executor: Local
    export: Export
    predict: Predict
    evaluate: Evaluate
    log: Log
    prune_run: PruneRun


# The classes of each section, by the choice that picks them.
SECTIONS: dict[str, dict[str, type[Options]]] = {
    "dataset": {f"dataset={name}": cls for name, cls in DATASETS.items()},
    "backbone": {
        "networks for images": ImageBackbone,
        "backbone=textcnn": BACKBONES["textcnn"],
    },
    "trainer": {"trainer=default": Trainer},
    "tune": {"tune=tascnet": Tune, "tune=autotune": Autotune},
    "prune": {"prune=reconstruction": Prune, "prune=tascnet": HistoryPrune},
    "measure": {"measure=default": Measure},
    "executor": {"executor=local": Local, "executor=ray": Ray},
    "export": {"export=default": Export},
    "predict": {"stage=predict": Predict},
    "evaluate": {"stage=evaluate": Evaluate},
    "log": {"every stage": Log},
}
# How many choices that have an option are named in a message.
HOMES_SHOWN = 3
# Of groups that have no options of their own.
GROUP_EXAMPLES = {"stage": "tune", "experiment": "caltech101_mobilenet_v2"}
HELP = "python -m tascnet --help {} lists the options"


def section_class(section: str, values: Mapping[str, Any]) -> type[Options]:
    """The option class of a section, by the name, space or criterion among its values."""
    if section == "dataset":
        return DATASETS.get(str(values.get("name")), Images)
    if section == "backbone":
        return BACKBONES.get(str(values.get("name")), ImageBackbone)
    if section == "tune":
        return Autotune if values.get("space") == "autotune" else Tune
    if section == "prune":
        return HistoryPrune if values.get("criterion") == "history" else Prune
    if section == "executor":
        return Ray if values.get("name") == "ray" else Local
    return next(iter(SECTIONS[section].values()))


def build(content: Mapping[str, Any], presets: Mapping[str, str] | None = None) -> Config:
    """The config of composed content.

    Args:
        content: nested mappings, as composed.
        presets: the choice of each group, which names a pruning.

    Raises:
        ConfigError: an option is unknown, or a value does not fit.
    """
    sections: dict[str, Any] = {}
    for section in SECTIONS:
        values = section_values(content, section)
        if section == "dataset" and values.get("name") not in DATASETS:
            raise ConfigError(
                f"dataset.name has no choice {values.get('name')!r}", f"it takes {listed(DATASETS)}"
            )
        if section == "prune":
            own: dict[str, Any] = {key: values.pop(key) for key in ("name", "source") if key in values}
            own["name"] = own.get("name") or (presets or {}).get("prune")
            sections["prune_run"] = _made("prune", PruneRun, own)
        sections[section] = _made(section, section_class(section, values), values)
    rest = {key: value for key, value in content.items() if key not in (*SECTIONS, "suits")}
    for key in rest:
        if key not in _names(RunOptions):
            raise unknown_option(key)
    try:
        return Config(**rest, **sections)
    except ConfigError as error:
        raise spelled(error, None) from None


def section_options(section: str, content: Mapping[str, Any]) -> Any:
    """The options of one section of composed content.

    Raises:
        ConfigError: an option is unknown, or a value does not fit.
    """
    values = section_values(content, section)
    return _made(section, section_class(section, values), values)


def section_values(content: Mapping[str, Any], section: str) -> dict[str, Any]:
    """The values of a section, with what suits the backbone where nothing else is given.

    Raises:
        ConfigError: the section is no mapping.
    """
    given = content.get(section) or {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"{section} is a section of options and takes no value", HELP.format(section))
    known = _names(section_class(section, given))
    if given.get("one_shot"):
        # These suit many small cuts.
        known -= {"pruning_ratio", "max_pruning_ratio"}
    suits = (content.get("suits") or {}).get(section) or {}
    return {key: value for key, value in suits.items() if key in known} | dict(given)


def _made(section: str, cls: type[Options], values: Mapping[str, Any]) -> Any:
    for key in values:
        homes = [name for name, other in SECTIONS[section].items() if key in _names(other)]
        if key not in _names(cls) and homes:
            many = f"{', '.join(homes[:HOMES_SHOWN])} and others"
            shown = many if len(homes) > HOMES_SHOWN else listed(homes)
            raise ConfigError(
                f"{section}.{key} has no effect with {_choice(section, cls, values)}",
                f"leave it out; it is an option of {shown}",
            )
    for name in _dotted(values):
        if name not in {known for known, _ in known_fields(cls)} and name not in _names(cls):
            raise unknown_option(f"{section}.{name}")
    try:
        return make(cls, values)
    except ConfigError as error:
        raise spelled(error, section, cls) from None


def _names(cls: type[Any]) -> set[str]:
    return {entry.name for entry in fields(cls)}


def _dotted(values: Mapping[str, Any]) -> Iterator[str]:
    """The names in nested mappings, with dots."""
    for key, value in values.items():
        yield from [f"{key}.{name}" for name in _dotted(value)] if isinstance(value, Mapping) else [str(key)]


def _choice(section: str, cls: type[Options], values: Mapping[str, Any]) -> str:
    """What made a section be of a class."""
    key = {"tune": "space", "prune": "criterion"}.get(section, "name")
    picked = values.get(key, default_of(cls.__dataclass_fields__[key]))
    return f"{section}={picked}" if key == "name" else f"{section}.{key}={picked}"


def unknown_option(key: str) -> ConfigError:
    """The error for an option that no class has, with the likely one or where all are listed."""
    names = option_names()
    section, _, last = key.rpartition(".")
    pairs = [name.rpartition(".") for name in names]
    beside = {bare: f"{place}.{bare}" for place, _, bare in pairs if section and place == section}
    likely = closest(last, beside) if beside else closest(key, names)
    if key.startswith(("stage.", "experiment.")):
        group = key.partition(".")[0]
        hint = f"{group} takes the name of one, as in {group}={GROUP_EXAMPLES[group]}"
        return ConfigError(f"there is no option {key}", hint)
    hint = HELP.format(key.partition(".")[0] if key.partition(".")[0] in SECTIONS else "run")
    if key == "trainer.recover.epochs":
        hint = "prune.epochs says for how many epochs a pruned network is trained"
    elif likely:
        hint = f"did you mean {beside.get(likely, likely)}?"
    return ConfigError(f"there is no option {key}", hint)


@cache
def option_names() -> tuple[str, ...]:
    """All options and sections, as the command line spells them."""
    own = [*_names(RunOptions), *(f"prune.{name}" for name in _names(PruneRun)), *SECTIONS]
    classes = {(section, cls) for section, choices in SECTIONS.items() for cls in choices.values()}
    names = {
        f"{section}.{name}"
        for section, cls in classes
        for name in (*_names(cls), *(name for name, _ in known_fields(cls)))
    }
    return (*sorted(own), *sorted(names))


@cache
def text_options(kind: Any = str) -> frozenset[str]:
    """The options that take `kind` or null and nothing else, as the command line spells them.

    Args:
        kind: a text, or `tuple[str, ...]` for lists of texts.
    """
    kinds: dict[str, set[Any]] = {}
    classes = [("", RunOptions), ("prune.", PruneRun)]
    classes += [(f"{section}.", cls) for section, choices in SECTIONS.items() for cls in choices.values()]
    for name, entry in (pair for prefix, cls in classes for pair in known_fields(cls, prefix)):
        is_union = get_origin(entry.type) in (Union, UnionType)
        kinds.setdefault(name, set()).update(get_args(entry.type) if is_union else (entry.type,))
    return frozenset(name for name, found in kinds.items() if found - {type(None)} == {kind})


@contextmanager
def spelling(section: str | None, *, is_alone: bool = True) -> Iterator[None]:
    """Options in the library's errors and log lines are spelled as on the command line.

    Args:
        section: that is looked in first.
        is_alone: whether its stage runs alone; else `fresh=true` would start another one over too.
    """

    def whole(text: str) -> str:
        return text if is_alone else text.replace("`fresh=true`", f"`stage={section} fresh=true`")

    def respell(record: logging.LogRecord) -> bool:
        record.msg, record.args = spell(whole(record.getMessage()), section), ()
        return True

    # The innermost knows best where its options belong.
    log.filters.insert(0, respell)
    try:
        yield
    except TascnetError as error:
        own = type(error)(whole(error.message), error.hint and whole(error.hint))
        raise spelled(own, section).with_traceback(error.__traceback__) from error
    finally:
        log.removeFilter(respell)


def spelled(error: TascnetError, section: str | None, cls: type[Options] | None = None) -> TascnetError:
    """An error of the library, with its options as the command line spells them."""
    return type(error)(
        spell(error.message, section, cls), None if error.hint is None else spell(error.hint, section, cls)
    )


def spell(text: str, section: str | None, cls: type[Options] | None = None) -> str:
    """`text` with the section before each option that stands in backticks, and without the backticks.

    Args:
        text: of a message.
        section: that is looked in first.
        cls: its class.
    """

    def prefixed(match: re.Match[str]) -> str:
        name = match[1]
        if name == "run":
            # The folder of a run follows from names.
            return "prune.name" if section == "prune" else "name"
        first = name.partition(".")[0]
        for place, classes in _places(section, cls):
            if any(first in {entry.name for entry in fields(one)} for one in classes):
                return f"{place}{match[1]}{match[2] or ''}"
        return f"{match[1]}{match[2] or ''}"

    return re.sub(r"`([A-Za-z_][\w.]*)(=[^`]*)?`", prefixed, text)


def _places(section: str | None, cls: type[Options] | None) -> Iterator[tuple[str, list[type[Options]]]]:
    if section is not None:
        yield f"{section}.", [cls] if cls else list(SECTIONS[section].values())
    yield "", [RunOptions]
    for other in SECTIONS:
        if other != section:
            yield f"{other}.", list(SECTIONS[other].values())


def count_options() -> int:
    """How many options there are: the fields of all option classes, sections included, each class once."""
    classes = [Config, PruneRun, *(cls for section in SECTIONS.values() for cls in section.values())]
    return len({(_home(cls, entry.name), entry.name) for cls in classes for entry in fields(cls)})


def _home(cls: type[Options], name: str) -> type[Any]:
    """The class that an option comes from."""
    return [base for base in cls.__mro__ if name in inspect.get_annotations(base)][-1]


def as_content(options: Any) -> dict[str, Any]:
    """Options as nested mappings, defaults included; unset changes of recipes are left out."""
    content: dict[str, Any] = {}
    for entry in fields(options):
        value = getattr(options, entry.name)
        if is_dataclass(value):
            inner = as_content(value)
            if isinstance(value, RecipeChanges | StepChanges):
                inner = {key: item for key, item in inner.items() if item is not None}
            content[entry.name] = inner
        else:
            content[entry.name] = list(value) if isinstance(value, tuple) else value
    own = content.pop("prune_run", None)
    if own:
        content["prune"] = {**own, **content["prune"]}
    return content


def changed_options(now: Options, before: Options) -> Iterator[tuple[str, Any]]:
    """Options with another value than before, but for cosmetic ones and those that may be extended."""
    fixed = cast(frozenset[str], getattr(now, "fixed", frozenset()))
    for entry in fields(now):
        is_part = entry.name in fixed or not (
            entry.metadata.get("extendable") or entry.metadata.get("cosmetic")
        )
        known = getattr(before, entry.name, default_of(entry))
        if is_part and getattr(now, entry.name) != known:
            yield entry.name, getattr(now, entry.name)
