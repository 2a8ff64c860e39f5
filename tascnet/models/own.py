"""A network of the user's own, found by a dotted path."""

import copy
import importlib
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from tascnet.errors import ConfigError, in_words

_HINT = "give the dotted path of an nn.Module, or of a function that returns one, such as my_nets.Net"
_MEND = "correct it; `debug=true` shows where it fails"
# Outputs where neither the network nor a file of weights decides.
_CLASSES = 10


def find_own(path: str) -> Callable[[int | None], nn.Module]:
    """What makes the network at `package.module.Name`, for a number of classes or as it comes.

    It is a class of networks, a function that returns one, or a network. Where it takes
    `num_classes`, it is called with that.

    Raises:
        ConfigError: the path names nothing of the kind, or its module fails when it is imported.
    """
    module_name, _, name = path.replace(":", ".").rpartition(".")
    try:
        # A file that was made after the first import from its folder.
        importlib.invalidate_caches()
        module = importlib.import_module(module_name)
    # A module may call sys.exit.
    except (Exception, SystemExit) as error:
        # The module was not found, or fails itself.
        missing = isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}.")
        raise ConfigError(
            f"network {path!r} cannot be imported ({in_words(error)})", _HINT if missing else _MEND
        ) from error
    if not hasattr(module, name):
        raise ConfigError(f"network {path!r} cannot be imported ({module_name} has no {name!r})", _HINT)
    found = getattr(module, name)
    if isinstance(found, nn.Module):
        return lambda num_classes: copy.deepcopy(found)
    if not callable(found):
        raise ConfigError(
            f"network {path!r} is of type {type(found).__name__}, expected a class or a function", _HINT
        )
    return lambda num_classes: _called(path, found, num_classes)


def _called(path: str, maker: Callable[..., Any], num_classes: int | None) -> nn.Module:
    """The network that a class or function makes.

    Raises:
        ConfigError: it fails, or returns no `nn.Module`.
    """
    try:
        network = maker(**_arguments(maker, num_classes))
    # It may call sys.exit.
    except (Exception, SystemExit) as error:
        raise ConfigError(f"network {path!r} failed with {in_words(error)}", _MEND) from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{path} returned {type(network).__name__}, expected an nn.Module", _HINT)
    return network


def _arguments(maker: Callable[..., Any], num_classes: int | None) -> dict[str, int]:
    try:
        parameter = inspect.signature(maker).parameters.get("num_classes")
    # Classes written in C have no signature.
    except ValueError:
        parameter = None
    if parameter is None:
        return {}
    if num_classes is None and parameter.default is not inspect.Parameter.empty:
        return {}
    return {"num_classes": num_classes or _CLASSES}
