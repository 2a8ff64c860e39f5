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


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Rows of a data set: three disjoint ascending arrays of int64, of which none is empty."""

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

    The draw of one class depends on the seed and on that class's number and size alone. Where rows belong to
    splits already, validation or test is drawn from the rows of train if it has none of its own; counts
    then say how many rows of train and validation are taken, and what is left of them is not used.

    Args:
        labels: class indices, `n`.
        class_names: one name for each class.
        seed: of the draw.
        train: training samples of each class: a count, or a share that is rounded to at least one sample.
        val: validation samples of each class, a count or a share as `train` is.
        parts: the split that each row belongs to, "train", "val" or "test"; empty: all are drawn.

    Returns:
        Every class is in train and validation, by shares also in test.

    Raises:
        DataError: a class is too small, or nothing is left for test.
    """
    # Imported late, as checking the sizes of classes does without it.
    import numpy as np

    sizes = split_sizes(labels.tolist(), class_names, train=train, val=val, parts=parts)
    belongs = np.asarray(parts) if parts else np.full(len(labels), "train")
    drawn: tuple[list[NDArray[np.int64]], ...] = ([], [], [])
    for index, (in_train, in_val, in_test) in enumerate(sizes):
        generator = np.random.default_rng([seed, index])
        own = {
            part: np.flatnonzero((labels == index) & (belongs == part)) for part in ("train", "val", "test")
        }
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
    missing = {"val", "test"} - set(parts)
    sizes = []
    for index, name in enumerate(class_names):
        own = {part: there[index, part] for part in ("train", "val", "test")}
        sizes.append(
            _given_sizes(name, own, missing, train, val) if parts else _sizes(name, own["train"], train, val)
        )
    in_train, in_val, in_test = (sum(part) for part in zip(*sizes, strict=True))
    if not in_test:
        raise DataError(
            f"{in_train} training and {in_val} validation samples leave no test", "lower `train` or `val`"
        )
    return sizes


def _sizes(name: str, n: int, train: int | float, val: int | float) -> tuple[int, int, int]:
    """Sizes of the splits of a class of `n` samples."""
    by_count = isinstance(train, int) and isinstance(val, int)
    needed = train + val if by_count else 3
    if n < needed:
        why = f"{train} + {val}" if by_count else "one each for train, validation and test"
        raise DataError(
            f"class {name!r} has {n} samples, expected at least {needed} ({why})",
            "add samples, remove the class, or ask for fewer a class",
        )
    in_val = val if isinstance(val, int) else min(max(1, round(n * val)), n - 2)
    in_train = train if isinstance(train, int) else min(max(1, round(n * train)), n - in_val - 1)
    return in_train, in_val, n - in_train - in_val


def _given_sizes(
    name: str, own: dict[str, int], missing: Collection[str], train: int | float, val: int | float
) -> tuple[int, int, int]:
    """Sizes of the splits of a class whose rows belong to splits; those `missing` come out of train."""
    n = own["train"]
    by_count = isinstance(train, int) and isinstance(val, int)
    needed = (train + (val if "val" in missing else 0)) if by_count else 1 + len(missing)
    needed_val = 0 if "val" in missing else val if by_count else 1
    for what, there, expected in (("training", n, needed), ("validation", own["val"], needed_val)):
        if there < expected:
            raise DataError(
                f"class {name!r} has {there} {what} samples, expected at least {expected}",
                "add samples, remove the class, or ask for fewer a class",
            )
    if isinstance(train, int) and isinstance(val, int):
        return train, val, n - int(needed) if "test" in missing else own["test"]
    shares = {"val": val, "test": 1 - train - val}
    whole = train + sum(shares[part] for part in missing)
    # At least one sample is kept for each missing split and for train.
    wanted = {part: max(1, round(n * shares[part] / whole)) for part in missing}
    from_val = min(wanted.get("val", 0), n - len(missing))
    from_test = min(wanted.get("test", 0), n - from_val - 1)
    return (
        n - from_val - from_test,
        from_val if "val" in missing else own["val"],
        from_test if "test" in missing else own["test"],
    )
