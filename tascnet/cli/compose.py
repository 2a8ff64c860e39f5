"""The typed config, composed from the tree in conf/ without importing torch."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, cast

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tascnet.errors import ConfigError
from tascnet.options import Config
from tascnet.run.folder import safe_name

CONFIG_PATH = "pkg://tascnet_conf"
CONFIG_NAME = "config"


def register() -> None:
    """Make the schema known to Hydra as `schema`; config.yaml starts from it."""
    version.setbase("1.3")
    ConfigStore.instance().store(name="schema", node=Config)


class Tree:
    """The config tree: its groups, and configs composed from it.

    Args:
        config_dir: a folder of the user's own with more config files (`--config-dir`).

    Raises:
        ConfigError: the folder is missing.
    """

    def __init__(self, config_dir: str | None = None) -> None:
        register()
        self.search_path = create_config_search_path(CONFIG_PATH)
        if config_dir is not None:
            folder = os.path.abspath(config_dir)
            if not os.path.isdir(folder):
                raise ConfigError(
                    f"there is no folder {folder}", "--config-dir takes a folder of config files"
                )
            self.search_path.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
        self.loader = ConfigLoaderImpl(self.search_path)

    def groups(self) -> dict[str, list[str]]:
        """The groups of tascnet and the names that each of them offers."""
        repository = self.loader.repository
        names = [name for name in repository.get_group_options("", ObjectType.GROUP) if name != "hydra"]
        groups = {name: repository.get_group_options(name, ObjectType.CONFIG) for name in names}
        return {name: options for name, options in groups.items() if options}

    def parse(self, overrides: Iterable[str]) -> list[Override]:
        """Parsed overrides; ConfigError names the one that is not of the form `key=value`."""
        parser = OverridesParser.create(config_loader=self.loader)
        return [_parse_one(parser, text) for text in overrides]

    def compose(self, overrides: Iterable[str], config_name: str = CONFIG_NAME) -> Config:
        """The typed config of one run.

        Raises:
            ConfigError: the overrides or a config file do not fit the schema.
        """
        try:
            composed = self.loader.load_configuration(config_name, list(overrides), RunMode.RUN)
            return to_config(composed)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(one_line(error)) from error


def to_config(composed: DictConfig) -> Config:
    """The dataclasses of a composed config, with interpolations resolved."""
    content = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    typed = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.to_container(content, resolve=True))
    return cast(Config, OmegaConf.to_object(typed))


def default_name(config: Config, tree: Tree, overrides: Iterable[str], config_name: str = CONFIG_NAME) -> str:
    """The name of a run: the tune preset's, and the options of `tune` that differ from it.

    Args:
        config: the composed config.
        tree: the tree that it was composed from.
        overrides: the overrides that it was composed with.
        config_name: the primary config.

    Returns:
        `config.name` where it was given on the command line; else the name that an experiment gives or the
        preset's, followed by each option of `tune` that differs and may not be extended.
    """
    parsed = tree.parse(overrides)
    if any(override.key_or_group == "name" for override in parsed) and config.name:
        return config.name
    groups = tree.groups()
    chosen = [
        text
        for text, override in zip(overrides, parsed, strict=True)
        if override.key_or_group in groups or override.key_or_group == "hydra.searchpath"
    ]
    preset = tree.compose(chosen, config_name)
    return safe_name("-".join([preset.name or preset.tune.name, *_differences(config.tune, preset.tune)]))


def flatten(section: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Each option below a section of the config as `(dotted key, field, value)`."""
    for entry in fields(section):
        key = f"{prefix}{entry.name}"
        value = getattr(section, entry.name)
        if is_dataclass(value):
            yield from flatten(value, f"{key}.")
        else:
            yield key, entry, value


def one_line(error: BaseException) -> str:
    """The first sentence in an error of Hydra's, without its lines of context."""
    lines = [line.strip() for text in (str(error), str(error.__cause__ or "")) for line in text.splitlines()]
    first, *rest = [line for line in lines if line] or [type(error).__name__]
    # "In 'x.yaml': KeyError raised while composing config:" names the place, the next line the mistake.
    sentence = f"{first} {rest[0]}" if first.endswith(":") and rest else first
    return sentence.partition(". ")[0].rstrip(".")


def _parse_one(parser: OverridesParser, text: str) -> Override:
    try:
        return parser.parse_overrides([text])[0]
    except HydraException:
        raise ConfigError(
            f"{text!r} is not of the form key=value", "for instance seed=1 or tune.max_trials=12"
        ) from None


def _differences(section: Any, preset: Any) -> Iterator[str]:
    for (key, entry, value), (_, _, before) in zip(flatten(section), flatten(preset), strict=True):
        is_part = key != "name" and not (entry.metadata.get("extendable") or entry.metadata.get("cosmetic"))
        if value != before and is_part:
            yield f"{key}={_written(value)}"


def _written(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
