"""Three disjoint, stratified, seeded splits."""

from collections import Counter
from collections.abc import Iterable, Sequence
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
) -> Split:
    """Split every class by counts or by shares; the rest is test.

    The draw of a class depends only on the seed, its index and its size. With `parts`, validation or test is
    drawn from the training rows if it has no rows of its own; counts say how many training and validation
    rows are taken, and the others are not used. Every class is in train and validation, by shares also in
    test.

    Args:
        labels: class indices, `n`.
        train: training samples of each class: a count, or a share that is rounded to at least one sample.
        val: validation samples of each class, a count or a share as `train` is.
        parts: the split of each row, "train", "val" or "test"; empty: all are drawn.

    Raises:
        DataError: a class is too small, or nothing is left for test.
    """
    # Imported late: `split_sizes` does not need it.
    import numpy as np

    sizes = split_sizes(labels.tolist(), class_names, train=train, val=val, parts=parts)
    belongs = np.asarray(parts) if parts else np.full(len(labels), "train")
    drawn: tuple[list[NDArray[np.int64]], ...] = ([], [], [])
    for index, (in_train, in_val, in_test) in enumerate(sizes):
        generator = np.random.default_rng([seed, index])
        own = {part: np.flatnonzero((labels == index) & (belongs == part)) for part in SPLITS}
        pool, own_val = generator.permutation(own["train"]), generator.permutation(own["val"])
        drawn[0].append(pool[:in_train])
        drawn[1].append(own_val[:in_val] if "val" in parts else pool[in_train : in_train + in_val])
        drawn[2].append(own["test"] if "test" in parts else pool[len(pool) - in_test :])
    rows = [np.sort(np.concatenate(part)).astype(np.int64) for part in drawn]
    return Split(train=rows[0], val=rows[1], test=rows[2])


def split_sizes(
    labels: Iterable[int],
    class_names: Sequence[str],
    *,
    train: int | float,
    val: int | float,
    parts: Sequence[str] = (),
) -> list[tuple[int, int, int]]:
    """Training, validation and test samples of each class; the arguments are those of `split`.

    Raises:
        DataError: a class is too small, or nothing is left for test.
    """
    there = Counter(zip(labels, parts or repeat("train"), strict=False))
    sizes = []
    for index, name in enumerate(class_names):
        own = {part: there[index, part] for part in SPLITS}
        sizes.append(_sizes(name, own, train, val, frozenset(parts)))
    in_train, in_val, in_test = (sum(part) for part in zip(*sizes, strict=True))
    if not in_test:
        raise DataError(
            f"{in_train} training and {in_val} validation samples leave no test sample",
            "lower `train` or `val`",
        )
    return sizes


def _sizes(
    name: str, own: dict[str, int], train: int | float, val: int | float, ready: frozenset[str]
) -> tuple[int, int, int]:
    """Sizes of the splits of a class; those that are not `ready` are drawn from its training rows."""
    n, missing = own["train"], {"val", "test"} - ready
    by_count = isinstance(train, int)
    if by_count:
        needed, needed_val = (int(train + val), 0) if "val" in missing else (int(train), int(val))
    else:
        needed, needed_val = 1 + len(missing), len({"val"} & ready)
    for what, there, expected in (("training ", n, needed), ("validation ", own["val"], needed_val)):
        if there < expected:
            why = f" ({train} + {val})" if by_count and expected == train + val else ""
            came = f"{there} {what if ready else ''}samples"
            raise DataError(
                f"class {name!r} has {came}, expected at least {expected}{why}",
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
