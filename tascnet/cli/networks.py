"""Networks of libraries and of the user's own as choices of the group `backbone`, without files."""

from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from tascnet.presets import what_suits

_GROUP = "backbone"


class NetworkSource(ConfigSource):
    """Answers `backbone/<name>` for names without a file: `resnet34`, `timm/resnet18`, `my_nets.Net`."""

    @staticmethod
    def scheme() -> str:
        """How its place on the search path begins."""
        return "tascnet-backbones"

    def available(self) -> bool:
        """It needs no folder."""
        return True

    def is_group(self, config_path: str) -> bool:
        """Only the group that it answers for."""
        return config_path == _GROUP

    def is_config(self, config_path: str) -> bool:
        """Every name in it: whether there is such a network is checked when all else is right."""
        group, _, name = config_path.partition("/")
        return group == _GROUP and bool(name)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Nothing: the libraries have hundreds."""
        return []

    def load_config(self, config_path: str) -> ConfigResult:
        """The config of a network, which has its name alone: all else is as its library has it."""
        name = config_path.partition("/")[2]
        return ConfigResult(
            provider=self.provider,
            path=self.full_path(),
            config=OmegaConf.create({_GROUP: {"name": name}, "suits": what_suits(name)}),
            header={"package": "_global_"},
        )


class NetworkSearchPath(SearchPathPlugin):
    """Puts the source at the end, so that files win."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra for each search path that it makes."""
        search_path.append("tascnet", f"{NetworkSource.scheme()}://networks")


def register() -> None:
    """Make both known to Hydra; a second time does nothing."""
    plugins: Any = Plugins.instance()
    plugins.register(NetworkSource)
    plugins.register(NetworkSearchPath)
