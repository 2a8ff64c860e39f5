"""What several comparisons need: a standard error, and names that are checked."""

import statistics
from collections.abc import Collection, Sequence

from tascnet.errors import ConfigError


def check_names(what: str, given: Collection[str], known: Collection[str]) -> None:
    """Refuse a name that there is not.

    Raises:
        ConfigError: one of the names given is not known.
    """
    if unknown := set(given) - set(known):
        raise ConfigError(f"there is no {what} {min(unknown)!r}", f"there are {', '.join(known)}")


def standard_error(values: Sequence[float]) -> float:
    """The standard error of a mean; 0 for a single value."""
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
