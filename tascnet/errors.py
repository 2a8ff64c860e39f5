"""The errors that users meet, and the words of their messages."""

import os
import re
import traceback
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher

# Control characters, escape codes among them, halves of characters, ends of lines and paragraphs, and what
# turns the direction of writing.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# The packages whose errors are our own, the folder of templates among them, and where Python's and other
# libraries' code lies.
_OURS = ("tascnet", "tascnet_pipelines")
_FOLDER = os.path.dirname(os.path.abspath(__file__)) + os.sep
_STDLIB = os.path.dirname(os.__file__)
_PACKAGES = re.compile(r"[\\/](site|dist)-packages[\\/]")
# How many endings of files are shown.
_ENDINGS = 6


class TascnetError(Exception):
    """What was wrong and what was expected, and a hint of what to do; both without a full stop."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        self.message = message
        self.hint = hint
        super().__init__(message if hint is None else f"{message}: {hint}")


class ConfigError(TascnetError):
    """An option is unknown, has the wrong type, or contradicts another one."""


class ConversionError(ConfigError):
    """A network cannot be turned into a chain of blocks that does the same."""


class CompileError(ConfigError):
    """torch.compile does not work here, or not with a network."""


class DataError(TascnetError):
    """A data set is missing, empty, unreadable or too small for the split asked for."""


class WeightsError(TascnetError):
    """A weight file is missing, unreadable or belongs to another architecture."""


class ArchiveError(TascnetError):
    """A saved model is missing, truncated, corrupt or not one of ours."""


class ExportError(TascnetError):
    """A network cannot be exported, an exported file is not one of ours, or it differs from its network."""


class SurgeryError(TascnetError):
    """A change of structure is impossible, or the widths are not those asked for."""


class TrainingDiverged(TascnetError):
    """The loss became infinite or not a number."""


class RunFolderError(TascnetError):
    """A run folder belongs to another configuration, or lacks what a stage needs."""


class DamagedFile(RunFolderError):
    """A file of a run is not what was written."""


class BudgetError(TascnetError):
    """A job would need more disk or memory than there is, or than the limit allows."""


class CacheLimitError(BudgetError):
    """A file of the cache would take more than the limit of the cache."""


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


def listed(names: Iterable[str], word: str = "or") -> str:
    """`a, b or c`."""
    *rest, last = names
    return f"{', '.join(rest)} {word} {last}" if rest else last


def plural(number: int, word: str) -> str:
    """`1 filter`, `2 filters`."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def escaped(text: str, kept: str = "\n\t") -> str:
    r"""The text with control characters as `\x1b`, but for those `kept`."""

    def visible(match: re.Match[str]) -> str:
        return match[0] if match[0] in kept else match[0].encode("unicode_escape").decode()

    return _UNPRINTABLE.sub(visible, text)


def by_ending(counts: Mapping[str, int]) -> str:
    """Numbers of files by ending in words, the most frequent first: `3 .txt, 2 .mov`."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    more = f" and {sum(number for _, number in ordered[_ENDINGS:])} others" if ordered[_ENDINGS:] else ""
    return ", ".join(f"{number} {printable(ending)}" for ending, number in ordered[:_ENDINGS]) + more


def printable(text: str, most: int | None = None) -> str:
    r"""The text on one line, with control characters as `\x1b`, cut to `most` characters."""
    shown = escaped(text, kept="")
    return shown if most is None or len(shown) <= most else f"{shown[: most - 1]}…"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, made printable; its class where there is none."""
    return printable((str(error).strip() or type(error).__name__).splitlines()[0], most=300)


def users_place(error: BaseException) -> str | None:
    """`/home/me/own.py, line 12`, where a user's own code failed; None where the error is another's."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        file, module = frame.f_code.co_filename, str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] in _OURS or file.startswith(_FOLDER):
            return None
        is_library = file.startswith(("<", _STDLIB)) or _PACKAGES.search(file)
        if not is_library:
            return printable(f"{os.path.abspath(file)}, line {line}")
    return None


def in_words(error: BaseException) -> str:
    """An error of a user's own code on one line: `RuntimeError: no such layer (/home/me/own.py, line 12)`."""
    text = printable(" ".join(str(error).split()), most=300)
    place = users_place(error)
    return ": ".join(filter(None, (type(error).__name__, text))) + (f" ({place})" if place else "")
