"""Three disjoint, stratified, seeded splits."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING

from tascnet.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Rows of a data set: three disjoint ascending arrays, none of them empty."""

    train: "NDArray[np.int64]"
    val: "NDArray[np.int64]"
    test: "NDArray[np.int64]"


def split(
    labels: "NDArray[np.int64]",
    class_names: Sequence[str],
    *,
    seed: int,
    train: int | float = 0.7,
    val: int | float = 0.15,
    parts: Sequence[str] = (),
    digests: Sequence[str] = (),
    dropped: Collection[int] = (),
) -> Split:
    """Split every class by counts or by shares; the rest is test.

    The draw of a class depends only on the seed, its index and its size. With `parts`, validation or test is
    drawn from the training rows if it has no rows of its own; counts say how many training and validation
    rows are taken, and the others are not used. Every class is in train and validation, by shares also in
    test. Equal samples are drawn as one: copies lie where the first of them does, whatever their class, and
    do not count; with `parts`, the first is that of the same part.

    Args:
        labels: class indices, `n`.
        train: training samples of each class: a count, or a share that is rounded to at least one sample.
        val: validation samples of each class, a count or a share as `train` is.
        parts: the split of each row, "train", "val" or "test"; empty: all are drawn.
        digests: equal for equal samples, `n`; empty: all samples differ.
        dropped: rows that are in no split, each with all its copies in its part.

    Raises:
        DataError: a class is too small, or nothing is left for test.
    """
    # Imported late: `split_sizes` does not need them.
    import numpy as np

    from tascnet.data.copies import first_rows

    belongs = np.asarray(parts) if parts else np.full(len(labels), "train")
    rows = np.arange(len(labels))
    keys = list(zip(parts, digests, strict=True)) if parts and digests else digests
    firsts = first_rows(keys) if digests else rows
    counted = (firsts == rows) & ~np.isin(rows, list(dropped))
    sizes = split_sizes(
        labels.tolist(), class_names, train=train, val=val, parts=parts, counted=counted.tolist()
    )
    # The split of each row by its number; -1: none.
    side = np.full(len(labels), -1)
    by_class = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[by_class], np.arange(len(sizes) + 1))
    for index, (in_train, in_val, in_test) in enumerate(sizes):
        generator = np.random.default_rng([seed, index])
        own_rows = by_class[bounds[index] : bounds[index + 1]]
        own_rows = own_rows[counted[own_rows]]
        own = {part: own_rows[belongs[own_rows] == part] for part in SPLITS}
        pool, own_val = generator.permutation(own["train"]), generator.permutation(own["val"])
        side[pool[:in_train]] = 0
        side[own_val[:in_val] if "val" in parts else pool[in_train : in_train + in_val]] = 1
        side[own["test"] if "test" in parts else pool[len(pool) - in_test :]] = 2
    side = side[firsts]
    in_each = [np.flatnonzero(side == number) for number in range(len(SPLITS))]
    return Split(train=in_each[0], val=in_each[1], test=in_each[2])


def split_sizes(
    labels: Iterable[int],
    class_names: Sequence[str],
    *,
    train: int | float,
    val: int | float,
    parts: Sequence[str] = (),
    counted: Sequence[bool] = (),
) -> list[tuple[int, int, int]]:
    """Training, validation and test samples of each class; the arguments are those of `split`.

    Args:
        counted: whether each row counts, which copies do not; empty: all do.

    Raises:
        DataError: a class is too small, or nothing is left for test.
    """
    there: Counter[tuple[int, str]] = Counter()
    copies: Counter[tuple[int, str]] = Counter()
    for label, part, counts in zip(labels, parts or repeat("train"), counted or repeat(True), strict=False):
        (there if counts else copies)[label, part] += 1
    sizes = []
    for index, name in enumerate(class_names):
        own, more = ({part: counter[index, part] for part in SPLITS} for counter in (there, copies))
        sizes.append(_sizes(name, own, more, train, val, frozenset(parts)))
    in_train, in_val, in_test = (sum(part) for part in zip(*sizes, strict=True))
    if not in_test:
        raise DataError(
            f"{in_train} training and {in_val} validation samples leave no test sample",
            "lower `train` or `val`" + ("; copies do not count" if copies else ""),
        )
    return sizes


def _sizes(
    name: str,
    own: dict[str, int],
    copies: dict[str, int],
    train: int | float,
    val: int | float,
    ready: frozenset[str],
) -> tuple[int, int, int]:
    """Sizes of the splits of a class; those that are not `ready` are drawn from its training rows."""
    n, missing = own["train"], {"val", "test"} - ready
    by_count = isinstance(train, int)
    if by_count:
        needed, needed_val = (int(train + val), 0) if "val" in missing else (int(train), int(val))
    else:
        needed, needed_val = 1 + len(missing), len({"val"} & ready)
    for part, what, expected in (("train", "training ", needed), ("val", "validation ", needed_val)):
        if own[part] < expected:
            why = f" ({train} + {val})" if by_count and expected == train + val else ""
            distinct, more = ("distinct ", f" ({copies[part]} more are copies)") if copies[part] else ("", "")
            raise DataError(
                f"class {name!r} has {own[part]} {distinct}{what if ready else ''}samples{more}, expected at "
                f"least {expected}{why}",
                "add samples, remove the class, or ask for fewer samples of each class",
            )
    if by_count:
        return int(train), int(val), own["test"] if "test" in ready else n - needed
    if not ready:
        in_val = min(max(1, round(n * val)), n - 2)
        in_train = min(max(1, round(n * train)), n - in_val - 1)
        return in_train, in_val, n - in_train - in_val
    shares = {"val": val, "test": 1 - train - val}
    whole = train + sum(shares[part] for part in missing)
    # At least one sample is kept for each missing split and for train.
    wanted = {part: max(1, round(n * shares[part] / whole)) for part in missing}
    in_val = min(wanted.get("val", 0), n - len(missing))
    in_test = min(wanted.get("test", 0), n - in_val - 1)
    return (
        n - in_val - in_test,
        in_val if "val" in missing else own["val"],
        in_test if "test" in missing else own["test"],
    )
