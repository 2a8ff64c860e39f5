"""How mistakes are answered: likely names and lists."""

from collections.abc import Iterable
from difflib import SequenceMatcher

__all__ = ["closest", "listed", "plural"]


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
