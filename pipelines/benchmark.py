"""Stage `benchmark`: the comparison that `benchmark=<name>` names."""

from importlib import import_module

from tascnet.errors import ConfigError
from tascnet.options import Config


def run(config: Config) -> None:
    """Run the benchmark's own function.

    Raises:
        ConfigError: the config names a function that does not exist.
    """
    module, _, name = config.benchmark._target_.rpartition(".")
    try:
        function = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"there is no benchmark {config.benchmark._target_}", "choose one with benchmark=<name>"
        ) from error
    function(config)
