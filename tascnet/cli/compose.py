"""Composing the config: Hydra merges conf/ and the command line, the option classes check the result."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tascnet.cli.config import STAGES, Config, build, changed_options
from tascnet.cli.files import CarefulRepository
from tascnet.cli.folders import safe_name
from tascnet.cli.networks import register
from tascnet.errors import ConfigError, printable

CONFIG_PATH = "pkg://tascnet_conf"
CONFIG_NAME = "config"
# The packages that bring Hydra's further launchers, sweepers and log formats, by how their choices begin.
PLUGINS = {
    "launcher/joblib": "hydra-joblib-launcher",
    "launcher/submitit": "hydra-submitit-launcher",
    "launcher/ray": "hydra-ray-launcher",
    "launcher/rq": "hydra-rq-launcher",
    "sweeper/optuna": "hydra-optuna-sweeper",
    "sweeper/ax": "hydra-ax-sweeper",
    "sweeper/nevergrad": "hydra-nevergrad-sweeper",
    "job_logging/colorlog": "hydra-colorlog",
    "hydra_logging/colorlog": "hydra-colorlog",
}


@dataclass(frozen=True, kw_only=True)
class Composed:
    """A config, and the choice of each group that it was composed from."""

    config: Config
    presets: Mapping[str, str]


class Tree:
    """The config tree: its groups, and configs composed from it.

    Args:
        config_dir: a folder of the user's own with more config files (`--config-dir`).

    Raises:
        ConfigError: the folder is missing.
    """

    def __init__(self, config_dir: str | None = None) -> None:
        # Each time: launchers make Hydra forget it in their processes.
        register()
        self.search_path = create_config_search_path(CONFIG_PATH)
        if config_dir is not None:
            folder = os.path.abspath(config_dir)
            if not os.path.isdir(folder):
                what = f"{folder} is a file" if os.path.exists(folder) else f"there is no folder {folder}"
                raise ConfigError(what, "--config-dir takes a folder of config files")
            self.search_path.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="hydra"))
        self.loader = ConfigLoaderImpl(self.search_path)
        self.loader.repository = CarefulRepository(self.search_path)

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

    def load(self, overrides: Iterable[str], config_name: str = CONFIG_NAME) -> DictConfig:
        """The composed config of one run, unchecked.

        Raises:
            ConfigError: the overrides or a config file cannot be composed.
        """
        try:
            return self.loader.load_configuration(config_name, list(overrides), RunMode.RUN)
        except (HydraException, OmegaConfBaseException) as error:
            raise _missing_plugin(error) or ConfigError(one_line(error)) from error
        except RecursionError as error:
            raise ConfigError("an option is nested too deeply", "a list takes plain values") from error

    def compose(self, overrides: Iterable[str], config_name: str = CONFIG_NAME) -> Composed:
        """The typed config of one run.

        Raises:
            ConfigError: the overrides or a config file do not fit the option classes.
        """
        composed = self.load(overrides, config_name)
        return typed(composed, presets_of(composed.hydra))


def presets_of(settings: Any) -> dict[str, str]:
    """The choice of each group, from Hydra's own part of a composed config."""
    choices = OmegaConf.to_container(settings.runtime.choices)
    assert isinstance(choices, dict)
    return {str(group): str(name) for group, name in choices.items()}


def typed(composed: DictConfig, presets: Mapping[str, str]) -> Composed:
    """The option classes of a composed config, with interpolations resolved.

    Raises:
        ConfigError: an option is unknown, or a value does not fit.
    """
    return Composed(config=build(plain(composed), presets), presets=presets)


def plain(composed: DictConfig) -> dict[str, Any]:
    """The content of a composed config as nested mappings, with interpolations resolved.

    Raises:
        ConfigError: an interpolation cannot be resolved.
    """
    content = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    try:
        return cast(dict[str, Any], OmegaConf.to_container(content, resolve=True))
    except OmegaConfBaseException as error:
        message = f"{error.full_key or 'an option'} cannot be resolved ({one_line(error)})"
        raise ConfigError(message, "${section.option} stands for the value of another option") from error


def with_name(composed: Composed, tree: Tree, overrides: list[str], config_name: str = CONFIG_NAME) -> Config:
    """The config with the name of its run.

    It is `name` where the command line gives that; else the name of an experiment or of the tune preset,
    followed by each option of `tune` that differs from the preset and may not be extended.
    """
    config, parsed = composed.config, tree.parse(overrides)
    if config.name and any(override.key_or_group == "name" for override in parsed):
        return config
    groups = tree.groups()
    chosen = [
        text
        for text, override in zip(overrides, parsed, strict=True)
        if override.key_or_group in groups
        or override.key_or_group in ("hydra.searchpath", "dataset.root", "dataset.csv")
    ]
    preset = tree.compose(chosen, config_name)
    changes = [
        f"{name}={_written(value)}" for name, value in changed_options(config.tune, preset.config.tune)
    ]
    base = preset.config.name or composed.presets.get("tune", "tascnet")
    return replace(config, name=safe_name("-".join([base, *changes])))


def one_line(error: BaseException) -> str:
    """The first sentence of an error from Hydra, without its lines of context."""
    lines = [line.strip() for text in (str(error), str(error.__cause__ or "")) for line in text.splitlines()]
    first, *rest = [line for line in lines if line] or [type(error).__name__]
    # "In 'x.yaml': KeyError raised while composing config:" names the place, the next line the mistake.
    sentence = f"{first} {rest[0]}" if first.endswith(":") and rest else first
    return sentence.partition(". ")[0].rstrip(".")


def _parse_one(parser: OverridesParser, text: str) -> Override:
    given = text.removeprefix("++")
    hint = f"did you mean stage={given}?" if given in STAGES else "for instance seed=1 or tune.max_trials=12"
    wrong = ConfigError(f"{printable(repr(given), most=200)} is not of the form key=value", hint)
    if not given.lstrip("+~").partition("=")[0].strip():
        raise wrong
    try:
        return parser.parse_overrides([text])[0]
    # A number of thousands of digits, or thousands of brackets.
    except (HydraException, ValueError, RecursionError):
        raise wrong from None


def _missing_plugin(error: BaseException) -> ConfigError | None:
    """The error for a launcher or the like that is not installed."""
    found = re.search(r"Could not find 'hydra/(\w+)/(\w+)'", str(error))
    if found is None:
        return None
    choice = f"{found[1]}/{found[2]}"
    package = next((name for begin, name in PLUGINS.items() if choice.startswith(begin)), None)
    if package is None:
        return None
    return ConfigError(f"hydra/{found[1]}={found[2]} is not installed", f"pip install {package}")


def _written(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
