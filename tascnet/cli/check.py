"""Mistakes on the command line, found before torch is imported and answered with one sentence."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from hydra.core.override_parser.types import Override

from tascnet.cli.compose import Composed, Tree
from tascnet.cli.config import SECTIONS, option_names, text_options, unknown_option
from tascnet.cli.rules import check_config
from tascnet.errors import ConfigError, closest, listed
from tascnet.options import is_number, shown

# How quoted values, mappings, interpolations and Hydra's functions begin.
FUNCTIONS = "bool choice extend_list float glob int interval json_str range shuffle sort str tag"
BEYOND_PLAIN = re.compile(rf"""\s*(['"{{$]|({FUNCTIONS.replace(" ", "|")})\s*\()""")
# What is in lists and mappings that are more than texts and numbers.
NESTED = re.compile(r"""[\[\]{}'"\\$]""")
# What Hydra takes without quotes. A backslash is the user's own way to escape; an interpolation stays one.
PLAIN = re.compile(r"[\w./\-+%*@?|:$ \t]*|.*(\\|\$\{).*", re.ASCII | re.DOTALL)
# Keys that choose a file of conf/ rather than set an option.
GROUPS = (*SECTIONS, "stage", "experiment")
# Sweeps are composed value by value up to this many values an option.
SWEEP_VALUES = 100
# Jobs of one command: Hydra makes a list of them before the first one starts.
MOST_JOBS = 10_000


def check_overrides(
    overrides: Iterable[str], tree: Tree, *, multirun: bool, config_name: str
) -> list[Composed]:
    """Check every override by itself, then the configs that they compose to.

    Args:
        overrides: in their normal form.
        tree: the config tree.
        multirun: whether sweeps are allowed.
        config_name: the primary config.

    Returns:
        The composed config; with sweeps, one for the first values and one for each further value.

    Raises:
        ConfigError: an unknown key, group or value, a wrong type, a value out of bounds, a contradiction.
    """
    combinations = check_names(overrides, tree, multirun=multirun)
    found = [tree.compose(texts, config_name) for texts in combinations]
    for composed in found:
        check_config(composed.config)
    return found


def check_names(overrides: Iterable[str], tree: Tree, *, multirun: bool) -> list[list[str]]:
    """Check that overrides name options and choices of groups.

    Returns:
        The overrides without sweeps: those with the first values, then those with each further value.

    Raises:
        ConfigError: an override names no option, no choice, or cannot be read.
    """
    overrides = list(overrides)
    parsed = tree.parse(overrides)
    keys = {override.key_or_group for override in parsed}
    # Groups in folders that a search path adds are Hydra's to check.
    groups = None if "hydra.searchpath" in keys else tree.groups()
    for override in parsed:
        for value in _values(override, multirun, has_own_sweeper="hydra/sweeper" in keys):
            _check_one(override, value, groups)
    _check_jobs(parsed)
    return list(_combinations(overrides, parsed))


def normalise(override: str) -> str:
    """An override in the form that Hydra takes.

    Options get a `++`, for the option classes check them and not Hydra. Quoted are texts that Hydra would not
    take, or would take for a number: paths with other letters, or of a run whose name holds its options.
    """
    key, equals, value = override.partition("=")
    if value.startswith("~/"):
        # A shell does not see that a folder begins here.
        value = os.path.expanduser(value)
    value = _quoted(key.lstrip("+"), value)
    is_option = equals and re.fullmatch(r"[a-z_]+(\.[A-Za-z_]\w*)*", key) and key not in GROUPS
    is_option = is_option and not key.startswith("hydra")
    return f"{'++' if is_option else ''}{key}{equals}{value}"


def _quoted(key: str, value: str) -> str:
    """A value whose texts, in a list or a sweep too, are quoted where Hydra would read something else."""
    if BEYOND_PLAIN.match(value):
        return value
    if value.startswith("["):
        inner = value[1:-1]
        if not value.endswith("]") or NESTED.search(inner):
            return value
        is_text = key in text_options(tuple[str, ...])
        return f"[{','.join(_quoted_one(item, is_text=is_text) for item in inner.split(','))}]"
    # The name of a run may hold a list: commas do not part it.
    items = [value] if "=" in value else value.split(",")
    return ",".join(_quoted_one(item, is_text=key in text_options()) for item in items)


def _quoted_one(text: str, *, is_text: bool) -> str:
    if "=" not in text and PLAIN.fullmatch(text) and not (is_text and is_number(text)):
        return text
    escaped = text.replace('"', '\\"')
    return f'"{escaped}"'


def _values(override: Override, multirun: bool, has_own_sweeper: bool) -> list[Any]:
    if not override.is_sweep_override():
        return [override.value()]
    given = _as_given(override)
    if not multirun:
        raise ConfigError(
            f"{given} gives several values", "add -m to run each of them, or quote a text that has commas"
        )
    if not override.is_discrete_sweep():
        if has_own_sweeper:
            return []
        raise ConfigError(
            f"{given} is a range without steps", "list the values, or give range(start,stop,step)"
        )
    values = list(islice(override.sweep_iterator(), SWEEP_VALUES))
    if not values:
        raise ConfigError(f"{given} gives no value at all", "list values such as seed=0,1")
    return [Override._convert_value(value) for value in values]


def _check_jobs(parsed: list[Override]) -> None:
    jobs = 1
    for override in parsed:
        if override.is_sweep_override() and override.is_discrete_sweep():
            jobs *= sum(1 for _ in islice(override.sweep_string_iterator(), MOST_JOBS + 1))
        if jobs > MOST_JOBS:
            raise ConfigError(f"this makes more than {MOST_JOBS} jobs", "sweep over fewer values at once")


def _combinations(overrides: list[str], parsed: list[Override]) -> Iterator[list[str]]:
    """The first value of every sweep together, then each further value with the first ones of the others."""
    texts = [_texts(text, override) for text, override in zip(overrides, parsed, strict=True)]
    swept = [options for options in texts if options]
    base = [options[0] for options in swept]
    yield base
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


def _check_one(override: Override, value: Any, groups: Mapping[str, list[str]] | None) -> None:
    key, given = override.key_or_group, _as_given(override)
    if override.is_hydra_override():
        return
    if override.is_delete():
        raise ConfigError(f"{given} would delete an option", "give it a value, such as null, instead")
    if override.package is not None:
        raise ConfigError(f"{given} names a package with @", f"write {key}=...")
    if key in (groups or GROUPS):
        _check_choice(key, value, groups)
    elif key not in option_names() and (groups is not None or "." in key):
        raise unknown_option(key)
    if override.is_add() and not str(override.input_line).startswith("++"):
        raise ConfigError(f"{given} would add an option", f"drop the + before {key}")


def _check_choice(group: str, value: Any, groups: Mapping[str, list[str]] | None) -> None:
    is_empty = group == "backbone" and value == ""
    if not isinstance(value, str) or is_empty:
        given = repr(value) if is_empty else shown(value)
        raise ConfigError(
            f"{group} has no choice {given}", f"python -m tascnet --help lists those of {group}"
        )
    # The libraries that know further networks are asked when all else is right.
    if groups is not None and value not in groups[group] and group != "backbone":
        likely = closest(value, groups[group])
        hint = f"did you mean {group}={likely}?" if likely else f"it takes {listed(groups[group])}"
        raise ConfigError(f"{group} has no choice {value!r}", hint)


def _as_given(override: Override) -> str:
    return str(override.input_line).removeprefix("++")
