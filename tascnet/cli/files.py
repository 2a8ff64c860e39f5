"""Config files of the user's own, which may be broken."""

from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from hydra._internal.config_repository import ConfigRepository
from hydra.core.object_type import ObjectType
from omegaconf.errors import OmegaConfBaseException

from tascnet.errors import ConfigError, first_line, printable
from tascnet.run.files import check_regular

# Far more than a config file holds, and little memory.
MOST_BYTES, MOST_VALUES = 1_000_000, 100_000


class CarefulRepository(ConfigRepository):
    """Hydra's config files; those in folders are checked before they are read."""

    def load_config(self, config_path: str) -> Any:
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is None or source.scheme() != "file":
            return super().load_config(config_path)
        path = Path(source.path, source._normalize_file_name(config_path))
        check_yaml(path)
        try:
            return super().load_config(config_path)
        except yaml.YAMLError as error:
            raise _wrong(path, error) from error
        # What is valid YAML and no config: numbers, headers and interpolations that make no sense.
        except (ValueError, RecursionError, OmegaConfBaseException) as error:
            raise ConfigError(
                f"{path} is no config file ({first_line(error)})", "write lines such as `option: value`"
            ) from error


def check_yaml(path: Path) -> None:
    """Refuse a file that is no YAML, or that aliases unfold to far more than it says.

    Raises:
        ConfigError: it cannot be read, is too large, or is wrong; with the line.
    """
    try:
        check_regular(path)
        content = path.read_bytes() if path.stat().st_size <= MOST_BYTES else None
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"{path} cannot be read ({reason})", "check its permissions") from error
    if content is None:
        raise ConfigError(f"{path} has more than {MOST_BYTES} bytes", "a config file has a few lines")
    try:
        node = yaml.compose(content.decode(), Loader=yaml.SafeLoader)
        values = 0 if node is None else _count(node, {})
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"line {line} of {path} is not valid UTF-8", "save the file as UTF-8") from error
    except yaml.YAMLError as error:
        raise _wrong(path, error) from error
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deeply", "a config file has a few levels") from error
    if values > MOST_VALUES:
        raise ConfigError(f"the aliases of {path} make more than {MOST_VALUES} values", "write them out")
    if isinstance(node, yaml.SequenceNode):
        raise ConfigError(f"{path} holds a list, expected options", "write lines such as `option: value`")


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """The values that a node holds when each alias is a copy; a node within itself has too many."""
    if id(node) not in known:
        known[id(node)] = MOST_VALUES + 1
        parts = [part for entry in _entries(node) for part in entry]
        known[id(node)] = 1 + sum(_count(part, known) for part in parts)
    return known[id(node)]


def _entries(node: yaml.Node) -> list[tuple[yaml.Node, ...]]:
    if isinstance(node, yaml.MappingNode):
        return list(node.value)
    return [tuple(node.value)] if isinstance(node, yaml.SequenceNode) else []


def _wrong(path: Path, error: yaml.YAMLError) -> ConfigError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = printable(str(getattr(error, "problem", None) or first_line(error)))
    where = f"line {mark.line + 1} of {path}" if mark is not None else str(path)
    return ConfigError(f"{where} is not valid YAML ({problem})", "correct it")
