"""Mistakes on the command line, found before torch is imported and answered with one sentence."""

import math
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import Field, fields, is_dataclass
from itertools import islice
from typing import Any, Union, get_args, get_origin

from hydra.core.override_parser.types import Override

from tascnet.cli.compose import Tree, flatten
from tascnet.cli.rules import contradictions
from tascnet.errors import ConfigError, closest, listed
from tascnet.options import Config

# Sections whose keys are the user's own.
OPEN = ("backbone.options",)
# How quoted values, lists, mappings, interpolations and functions begin.
BEYOND_PLAIN = re.compile(r"""\s*(['"\[{$]|\w+\()""")
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
    """An override in the form that Hydra takes.

    Keys of the user's own (`backbone.options.depth=3`) are added, and values that hold `=`, such as the path
    of a run whose name tells its options, are quoted.
    """
    key, _, value = override.partition("=")
    if "=" in value and not BEYOND_PLAIN.match(value):
        escaped = value.replace('"', '\\"')
        override = f'{key}="{escaped}"'
    bare = override.lstrip("+")
    return f"++{bare}" if bare.startswith(tuple(f"{name}." for name in OPEN)) else override


def check_config(config: Config) -> None:
    """Check bounds and choices of every option, and options against each other."""
    for key, entry, value in flatten(config):
        _check_bounds(key, entry, value)
    for wrong, message, hint in contradictions(config):
        if wrong:
            raise ConfigError(message, hint)


def _checked(config: Config) -> Config:
    check_config(config)
    return config


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
        hint = f"did you mean {group}={likely}?" if likely else f"it takes {listed(groups[group])}"
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
    if isinstance(value, str) and (words := entry.metadata.get("words")):
        if value not in words:
            raise ConfigError(f"{key} takes a number or {listed(words)}, not {value!r}")
        return
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, float) and not math.isfinite(item):
            raise ConfigError(f"{key} takes a finite number, not {item}")
    choices, low, high = (entry.metadata.get(name) for name in ("choices", "minimum", "maximum"))
    if choices is not None and value is not None and value not in choices:
        likely = closest(str(value), choices)
        hint = f"did you mean {key}={likely}?" if likely else f"it takes {listed(choices)}"
        raise ConfigError(f"{key} has no choice {value!r}", hint)
    if value is not None and low is not None and value < low:
        raise ConfigError(f"{key} is at least {low:g}, not {value:g}")
    if value is not None and high is not None and value > high:
        raise ConfigError(f"{key} is at most {high:g}, not {value:g}")
