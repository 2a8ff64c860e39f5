"""What `--help` prints: groups, sections and their options, each with type, value, bounds and meaning."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from textwrap import fill
from types import MappingProxyType
from typing import Any

from rich import box
from rich.table import Table

from tascnet.cli.config import SECTIONS, PruneRun, RunOptions, count_options, section_class, section_values
from tascnet.errors import ConfigError, closest, listed
from tascnet.options import BOUNDS, RECIPES, Recipe, Trainer, default_of, make, shown, type_name
from tascnet.run.console import output

USAGE = """\
tascnet: small, fast networks for your own images or texts, from a large pre-trained CNN.

  python -m tascnet                                      the embedded digits, all stages
  python -m tascnet dataset=image_folder dataset.root=<folder of class folders>
  python -m tascnet stage=tune backbone=resnet50 ...     the same command again resumes
  python -m tascnet -m backbone=resnet18,mobilenet_v2 seed=0,1 ...    several runs
  python -m tascnet stage=pretrain dataset=<name> ...    a file of weights for backbone.weights=
  python -m tascnet stage=export export.model=<folder> ...    files that run anywhere
  python -m tascnet stage=predict predict.input=<folder> ...    the classes of new images
  python -m tascnet stage=compare                        one table of all finished runs

Flags: --help [section, option, backbones or backbone=<name>], -m (--multirun), --cfg job (shows the
composed config), --config-dir (a folder with presets of your own), --hydra-help.
"""
WIDTH = 100


@dataclass(frozen=True, kw_only=True)
class Row:
    """An option as it is printed."""

    name: str
    entry: Any
    value: Any
    home: str | None = None


def print_help(groups: Mapping[str, list[str]]) -> None:
    """The usage, the groups with their choices, and the sections."""
    _print(USAGE)
    table = _table("group=name", "choices")
    for name, choices in groups.items():
        more = ["any network (--help backbones)"] if name == "backbone" else []
        table.add_row(name, ", ".join([*choices, *more]))
    output().print(table)
    _print(
        f"{count_options()} options. --help <section> prints those of run, {listed(SECTIONS)}; "
        "--help <option> prints one."
    )


def print_topic(content: Mapping[str, Any], topic: str) -> None:
    """The options of one section, or one option, with the values of a composed config.

    Args:
        content: the config as nested mappings, unchecked.
        topic: a section such as `tune` or `trainer.head`, or an option such as `tune.widths` or `widths`.

    Raises:
        ConfigError: there is no such section and no such option.
    """
    rows = list(_rows(content))
    here = [row for row in rows if row.home is None]
    if topic == "run":
        found = [row for row in here if "." not in row.name]
    elif topic in SECTIONS:
        found = [row for row in here if row.name.count(".") == 1 and row.name.startswith(f"{topic}.")]
    else:
        # An option of another choice is shown where this one has none of that name.
        found = [row for row in here if row.name == topic or row.name.startswith(f"{topic}.")]
        found = found or [row for row in rows if row.name == topic]
        found = found or [row for row in here if row.name.count(".") == 1 and row.name.endswith(f".{topic}")]
        found = found or [row for row in rows if row.name.endswith(f".{topic}")]
    if not found:
        likely = closest(topic, ["run", *SECTIONS, *(row.name for row in rows)])
        raise ConfigError(
            f"there is no section and no option {topic!r}",
            f"did you mean --help {likely}?" if likely else f"the sections are run, {listed(SECTIONS)}",
        )
    for row in found:
        _print_row(row)
    if topic == "trainer":
        _print_recipes(section_values(content, "trainer"))


def _rows(content: Mapping[str, Any]) -> Iterator[Row]:
    """Every option: those of the classes that a config picks, then those of the other classes."""
    for entry in fields(RunOptions):
        yield Row(name=entry.name, entry=entry, value=content.get(entry.name, default_of(entry)))
    for section in SECTIONS:
        values = section_values(content, section)
        here = section_class(section, values)
        yield from _rows_below(f"{section}.", here, values)
        if section == "prune":
            yield from _rows_below("prune.", PruneRun, values)
    for section, choices in SECTIONS.items():
        here = section_class(section, section_values(content, section))
        for choice, cls in choices.items():
            for entry in fields(cls):
                if entry.name not in here.__dataclass_fields__:
                    name = f"{section}.{entry.name}"
                    yield Row(name=name, entry=entry, value=default_of(entry), home=choice)


def _rows_below(
    prefix: str, cls: Any, values: Mapping[str, Any], common: Mapping[str, Any] = MappingProxyType({})
) -> Iterator[Row]:
    """The options of a class; what a recipe leaves open has its value from `common`, the base recipe."""
    for entry in fields(cls):
        given = values.get(entry.name)
        if is_dataclass(entry.type):
            base = {entry.name: values.get(entry.name, default_of(entry)) for entry in fields(Recipe)}
            inner = given if isinstance(given, Mapping) else {}
            yield from _rows_below(f"{prefix}{entry.name}.", entry.type, inner, base)
            continue
        default = common.get(entry.name, default_of(entry))
        is_open = given is None and (entry.name in common or entry.name not in values)
        yield Row(name=f"{prefix}{entry.name}", entry=entry, value=default if is_open else given)


def _print_row(row: Row) -> None:
    """An option with its value, its meaning, and what it takes."""
    home = f" It is an option of {row.home}." if row.home else ""
    meaning = f"{row.entry.metadata['help']}{home} Takes {_takes(row.entry)}."
    _print(f"{row.name}={shown(row.value)}")
    width = min(WIDTH, output().width) if output().is_terminal else WIDTH
    _print(fill(meaning, width, initial_indent="    ", subsequent_indent="    "))


def _print_recipes(values: Mapping[str, Any]) -> None:
    """The recipes as they resolve; nothing where they do not."""
    with suppress(ConfigError):
        trainer: Trainer = make(Trainer, values)
        _print("\ntrainer.<recipe>.<option> overrides trainer.<option> for one recipe. The recipes are now:")
        table = _table("option", *RECIPES)
        recipes = [trainer.recipe(name) for name in RECIPES]
        for entry in fields(Recipe):
            cells = [shown(getattr(recipe, entry.name)) for recipe in recipes]
            if entry.name in ("epochs", "epoch_share", "patience"):
                cells[RECIPES.index("recover")] = "prune.epochs" if entry.name == "epochs" else ""
            table.add_row(entry.name, *cells)
        output().print(table)


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _takes(entry: Any) -> str:
    """A type with its bounds or choices."""
    rule = entry.metadata
    if rule.get("choices"):
        many = "a list of " if "tuple" in str(entry.type) else ""
        return f"{many}{listed(rule['choices'])}"
    bounds = [f"{words} {shown(rule[key])}" for key, _, words in BOUNDS if rule.get(key) is not None]
    kind = f"a whole number or {listed(rule['words'])}" if rule.get("words") else type_name(entry.type)
    each = "each " if bounds and "tuple" in str(entry.type) else ""
    return f"{kind}{', ' if bounds else ''}{each}{', '.join(bounds)}"


def _print(text: str) -> None:
    output().print(text, markup=False, highlight=False, soft_wrap=True)
