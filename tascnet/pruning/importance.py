"""Criteria of one's own: any of torch-pruning's importances, found by its dotted path."""

import importlib
import inspect

from tascnet.errors import ConfigError
from tascnet.surgery import Importance

_HINT = (
    "give the dotted path of a torch_pruning.importance.Importance, a class without arguments or an object"
)


def find_importance(path: str) -> Importance:
    """The importance at `package.module.name`; a class is made into an object without arguments.

    Raises:
        ConfigError: the path names nothing, its module fails, or what it names cannot be called.
    """
    module_name, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name)
        importance = found() if inspect.isclass(found) else found
    # A user's module may fail in any way, and may end itself.
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"prune.criterion={path} cannot be had ({type(error).__name__}: {error})", _HINT
        ) from error
    if not callable(importance):
        raise ConfigError(
            f"prune.criterion={path} is {type(importance).__name__}, which cannot be called", _HINT
        )
    return importance  # type: ignore[no-any-return]
