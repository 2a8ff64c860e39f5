"""The errors that users meet, and the words of their messages."""

from collections.abc import Iterable
from difflib import SequenceMatcher


class TascnetError(Exception):
    """What was wrong and what was expected, and a hint of what to do; both without a full stop."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        self.message = message
        self.hint = hint
        super().__init__(message if hint is None else f"{message}: {hint}")


class ConfigError(TascnetError):
    """An option is unknown, has the wrong type, or contradicts another one."""


class DataError(TascnetError):
    """A data set is missing, empty, unreadable or too small for the split asked for."""


class WeightsError(TascnetError):
    """A weight file is missing, unreadable or belongs to another architecture."""


class ArchiveError(TascnetError):
    """A saved model is missing, truncated, corrupt or not one of ours."""


class SurgeryError(TascnetError):
    """A change of structure is impossible, or the widths are not those asked for."""


class TrainingDiverged(TascnetError):
    """The loss became infinite or not a number."""


class RunFolderError(TascnetError):
    """A run folder belongs to another configuration, or lacks what a stage needs."""


class BudgetError(TascnetError):
    """A job would need more disk or memory than the limit allows."""


def closest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name most like `name`, which may be its last part alone; None where none is like it."""

    def likeness(other: str) -> float:
        one, two = name.lower(), other.lower()
        whole = SequenceMatcher(None, one, two).ratio()
        last = SequenceMatcher(None, one.rpartition(".")[2], two.rpartition(".")[2]).ratio()
        # Of equally good last parts the one in the better, then the shorter path is meant.
        return max(whole, 0.9 * last + 0.05 * whole - 0.001 * other.count("."))

    best = max(valid, key=likeness, default=None)
    return best if best is not None and likeness(best) >= 0.55 else None


def listed(names: Iterable[str]) -> str:
    """`a, b or c`."""
    *rest, last = names
    return f"{', '.join(rest)} or {last}" if rest else last


def plural(number: int, word: str) -> str:
    """`1 filter`, `2 filters`."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class where there is none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
