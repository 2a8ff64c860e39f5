"""Layers that the user wants to keep as they are, by name or pattern."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from tascnet.errors import ConfigError, closest


def is_ignored(name: str, patterns: Sequence[str]) -> bool:
    """Whether a layer, or a block or module that holds it, matches one of these names and patterns."""
    parts = name.split(".")
    return any(
        fnmatchcase(".".join(parts[:count]), pattern)
        for pattern in patterns
        for count in range(1, len(parts) + 1)
    )


def holds_ignored(chain: nn.Module, block: str, patterns: Sequence[str]) -> bool:
    """Whether a block, or a layer in it, matches one of these names and patterns."""
    names = (name for name, _ in chain.get_submodule(block).named_modules(prefix=block))
    return any(is_ignored(name, patterns) for name in names)


def check_ignored(chain: nn.Module, patterns: Iterable[str]) -> None:
    """Refuse names and patterns that match nothing in a network.

    Raises:
        ConfigError: one does.
    """
    names = [name for name, _ in chain.named_modules() if name]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            likely = closest(pattern, names)
            raise ConfigError(
                f"`ignore` has `{pattern}`, which matches no layer of the network",
                f"did you mean `{likely}`?" if likely else f"give names such as `{names[0]}`",
            )
