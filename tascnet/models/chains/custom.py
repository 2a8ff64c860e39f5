"""A user's own chain, made by a factory that a dotted path names."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from tascnet.errors import ConfigError

__all__ = ["Factory", "custom_chain", "find_factory"]

Factory = Callable[..., nn.Sequential]

_HINT = "give the dotted path of factory(num_classes, **options) -> nn.Sequential"


def find_factory(path: str) -> Factory:
    """The function at `package.module.function`.

    Raises:
        ConfigError: the path names no function.
    """
    module_name, _, name = path.replace(":", ".").rpartition(".")
    try:
        factory = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"factory {path!r} cannot be imported ({error})", _HINT) from error
    if not callable(factory):
        raise ConfigError(f"factory {path!r} is {type(factory).__name__}, but a function is expected", _HINT)
    return factory  # type: ignore[no-any-return]


def custom_chain(factory: Factory, num_classes: int, options: Mapping[str, Any]) -> nn.Sequential:
    """The factory's chain, checked.

    Raises:
        ConfigError: the factory fails, or gives no `nn.Sequential` that ends in an `nn.Linear` of
            `num_classes` outputs.
    """
    name = getattr(factory, "__qualname__", type(factory).__name__)
    try:
        chain = factory(num_classes, **options)
    except Exception as error:
        raise ConfigError(f"factory {name} failed with {type(error).__name__} ({error})", _HINT) from error
    if not isinstance(chain, nn.Sequential) or not len(chain):
        raise ConfigError(
            f"factory {name} gave {type(chain).__name__}, but an nn.Sequential is expected", _HINT
        )
    last = chain[-1]
    if not isinstance(last, nn.Linear) or last.out_features != num_classes:
        raise ConfigError(
            f"the last block of factory {name} is {last}, "
            f"but an nn.Linear of {num_classes} outputs is expected"
        )
    return chain
