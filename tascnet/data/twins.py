"""Samples that are in several classes, and lists of which the first are named."""

from collections.abc import Sequence
from pathlib import Path

from tascnet.data.listing import NAMED
from tascnet.run.console import log


def named(texts: Sequence[str]) -> str:
    """The first of them, and how many more there are; bytes of names that are no UTF-8 are shown as such."""
    more = f"; and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return ("; ".join(texts[:NAMED]) + more).encode("utf-8", "backslashreplace").decode()


def warn_of_twins(kind: str, root: Path, twins: Sequence[str]) -> None:
    """Say which samples are in several classes; one of their labels is wrong, but nobody knows which.

    Args:
        kind: what a sample is.
        root: of the data set.
        twins: what is said of each of them; nothing is said where there are none.
    """
    if twins:
        log.warning(
            "%d %s in more than one class of %s (%s): used as they are; remove those that are labelled wrong",
            len(twins),
            f"{kind} is" if len(twins) == 1 else f"{kind}s are",
            root,
            named(twins),
        )
