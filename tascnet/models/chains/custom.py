"""A user's own chain, made by a factory that a dotted path names."""

import importlib
from collections.abc import Callable
from functools import partial

from torch import nn

from tascnet.errors import ConfigError, in_words

Factory = Callable[..., nn.Sequential]

_HINT = "give the dotted path of `factory(num_classes)`, which returns your network as an nn.Sequential"
_MEND = "correct it; `debug=true` shows where it fails"


def find_factory(path: str) -> Factory:
    """The function at `package.module.function`.

    Raises:
        ConfigError: the path names no function, or its module fails when it is imported.
    """
    module_name, _, name = path.replace(":", ".").rpartition(".")
    try:
        module = importlib.import_module(module_name)
    # A module may call sys.exit.
    except (Exception, SystemExit) as error:
        # The module was not found, or fails itself.
        missing = isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}.")
        hint = _HINT if missing or not module_name or module_name.startswith(".") else _MEND
        raise ConfigError(f"factory {path!r} cannot be imported ({in_words(error)})", hint) from error
    if not hasattr(module, name):
        raise ConfigError(f"factory {path!r} cannot be imported ({module_name} has no {name!r})", _HINT)
    factory = getattr(module, name)
    if not callable(factory):
        raise ConfigError(f"factory {path!r} is {type(factory).__name__}, expected a function", _HINT)
    return factory  # type: ignore[no-any-return]


def call_factory(factory: Factory, num_classes: int) -> nn.Sequential:
    """The chain that the factory makes.

    Raises:
        ConfigError: the factory fails, or returns no `nn.Sequential`.
    """
    name = _name(factory)
    try:
        chain = factory(num_classes)
    # It may call sys.exit.
    except (Exception, SystemExit) as error:
        raise ConfigError(f"factory {name} failed with {in_words(error)}", _MEND) from error
    if not isinstance(chain, nn.Sequential) or not len(chain):
        raise ConfigError(f"factory {name} returned {type(chain).__name__}, expected an nn.Sequential", _HINT)
    return chain


def custom_chain(factory: Factory, num_classes: int) -> nn.Sequential:
    """The factory's chain, which ends in an `nn.Linear` of `num_classes` outputs.

    Raises:
        ConfigError: the factory fails, or returns something else.
    """
    chain = call_factory(factory, num_classes)
    last = chain[-1]
    if not isinstance(last, nn.Linear) or last.out_features != num_classes:
        raise ConfigError(
            f"the last block of factory {_name(factory)} is {last}, "
            f"expected an nn.Linear of {num_classes} outputs"
        )
    return chain


def _name(factory: Factory) -> str:
    function = factory.func if isinstance(factory, partial) else factory
    name = getattr(function, "__qualname__", type(function).__name__)
    return f"{getattr(function, '__module__', '')}.{name}".lstrip(".")
