"""The errors that users meet: one small tree, each with a hint of what to do, and the words of such hints."""

from collections.abc import Iterable
from difflib import SequenceMatcher


class TascnetError(Exception):
    """What was wrong and what was expected, with a hint of what to do.

    Args:
        message: what was wrong and what was expected, without a full stop.
        hint: what the user can do about it, without a full stop.
    """

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
    """A change of structure is impossible or did not give the widths asked for."""


class TrainingDiverged(TascnetError):
    """The loss became infinite or not a number."""


class RunFolderError(TascnetError):
    """A run folder belongs to another configuration, or lacks what a stage needs."""


class BudgetError(TascnetError):
    """A job would need more disk or memory than the limit allows."""


def closest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name that is most like `name`, also when only its last part was given; None when none is."""
    scored = [(_likeness(name, other), other) for other in valid]
    score, best = max(scored, key=lambda pair: pair[0], default=(0.0, ""))
    return best if score >= 0.55 else None


def listed(names: Iterable[str]) -> str:
    """`a, b or c`."""
    *rest, last = names
    return f"{', '.join(rest)} or {last}" if rest else last


def _likeness(name: str, other: str) -> float:
    whole = SequenceMatcher(None, name.lower(), other.lower()).ratio()
    last = SequenceMatcher(None, name.lower().rpartition(".")[2], other.lower().rpartition(".")[2]).ratio()
    # Of two equally good last parts the one in the better, then the shorter path is meant.
    return max(whole, 0.9 * last + 0.05 * whole - 0.001 * other.count("."))


def plural(number: int, word: str) -> str:
    """`1 filter`, `2 filters`."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
