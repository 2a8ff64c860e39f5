"""Three disjoint, stratified, seeded splits, and class weights."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tascnet.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Rows of a data set: three disjoint ascending arrays of int64, of which none is empty."""

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]


def split(
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    *,
    seed: int,
    train_per_class: int | None = None,
    val_per_class: int | None = None,
    train_fraction: float = 0.7,
    val_fraction: float = 0.15,
    parts: Sequence[str] = (),
) -> Split:
    """Split every class by counts, or by fractions when no counts are given; the rest is test.

    The draw of one class depends on the seed and on that class's number and size alone. Where rows are given
    to splits beforehand, validation or test is drawn from the rows of train if it has none of its own; counts
    then say how many rows of train and validation are taken, and what is left of them is not used.

    Args:
        labels: class indices, `n`.
        class_names: one name for each class.
        seed: seed of the draw.
        train_per_class: training samples of each class.
        val_per_class: validation samples of each class.
        train_fraction: training share of each class, rounded to at least one sample.
        val_fraction: validation share of each class, rounded to at least one sample.
        parts: the split that each row is given to, "train", "val" or "test"; empty: none is.

    Returns:
        Every class is in train and validation, by fractions also in test.

    Raises:
        ConfigError: if the options contradict each other.
        DataError: if a class is too small, or nothing is left for test.
    """
    counts = _checked_counts(train_per_class, val_per_class)
    if counts is None:
        _check_fractions(train_fraction, val_fraction)
    fractions = (train_fraction, val_fraction)
    if parts:
        return _split_given(labels, class_names, np.asarray(parts), seed, counts, fractions)
    drawn_parts: tuple[list[NDArray[np.int64]], ...] = ([], [], [])
    for index, name in enumerate(class_names):
        rows = np.flatnonzero(labels == index).astype(np.int64)
        train, val = _sizes(len(rows), name, counts, train_fraction, val_fraction)
        shuffled = np.random.default_rng([seed, index]).permutation(rows)
        for part, drawn in zip(drawn_parts, np.split(shuffled, [train, train + val]), strict=True):
            part.append(drawn)
    return _joined(*drawn_parts)


def evenly(total: int, count: int) -> NDArray[np.int64]:
    """`count` different positions among `total`, or all, evenly spaced: where the classes come one after
    another, of all of them.
    """
    return np.linspace(0, total - 1, min(count, total)).round().astype(np.int64)


def class_weights(labels: NDArray[np.int64] | torch.Tensor, num_classes: int) -> torch.Tensor:
    """Weights inverse to the classes' frequencies, with mean 1.

    Args:
        labels: class indices of the training samples, `n`.
        num_classes: number of classes `C`.

    Returns:
        `C`, float32.

    Raises:
        DataError: if a class has no sample.
    """
    counts = torch.bincount(torch.as_tensor(labels), minlength=num_classes).double()
    if (counts == 0).any():
        empty = int((counts == 0).nonzero()[0])
        raise DataError(f"class {empty} has no training sample, expected at least one", "draw another split")
    weights = counts.sum() / counts
    return (weights / weights.mean()).float()


def _split_given(
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    parts: NDArray[np.str_],
    seed: int,
    counts: tuple[int, int] | None,
    fractions: tuple[float, float],
) -> Split:
    """Rows as they are given; what no row is given to is drawn from train."""
    missing = {part for part in ("val", "test") if not (parts == part).any()}
    found: dict[str, list[NDArray[np.int64]]] = {"train": [], "val": [], "test": []}
    for index, name in enumerate(class_names):
        generator = np.random.default_rng([seed, index])
        own = {part: np.flatnonzero((labels == index) & (parts == part)).astype(np.int64) for part in found}
        pool, given_val = generator.permutation(own["train"]), generator.permutation(own["val"])
        train, val, test = _sizes_given(name, len(pool), len(given_val), missing, counts, fractions)
        drawn_val = pool[train : train + val] if "val" in missing else given_val[:val]
        rest = pool[len(pool) - test :]
        found["train"].append(pool[:train])
        found["val"].append(drawn_val)
        found["test"].append(rest if "test" in missing else own["test"])
    return _joined(*found.values())


def _sizes_given(
    name: str,
    n: int,
    n_val: int,
    missing: Collection[str],
    counts: tuple[int, int] | None,
    fractions: tuple[float, float],
) -> tuple[int, int, int]:
    """Rows of each part of a class that has `n` training and `n_val` validation rows of its own.

    Of a part in `missing` they come out of the training rows.
    """
    drawn_val = counts[1] if counts is not None and "val" in missing else 0
    needed = 1 + len(missing) if counts is None else counts[0] + drawn_val
    needed_val = 0 if "val" in missing else 1 if counts is None else counts[1]
    for what, there, expected in (("training", n, needed), ("validation", n_val, needed_val)):
        if there < expected:
            raise DataError(
                f"class {name!r} has {there} {what} samples, expected at least {expected}",
                "add samples, remove the class, or ask for fewer a class",
            )
    if counts is not None:
        return counts[0], counts[1], n - needed if "test" in missing else 0
    val, test = _shares(n, missing, *fractions)
    return n - val - test, val if "val" in missing else n_val, test


def _shares(n: int, missing: Collection[str], train_fraction: float, val_fraction: float) -> tuple[int, int]:
    """How many of `n` rows go to the parts in `missing`; at least one stays for each and for train."""
    fractions = {"val": val_fraction, "test": 1 - train_fraction - val_fraction}
    whole = train_fraction + sum(fractions[part] for part in missing)
    wanted = {part: max(1, round(n * fractions[part] / whole)) for part in missing}
    val = min(wanted.get("val", 0), n - len(missing))
    return val, min(wanted.get("test", 0), n - val - 1)


def _joined(*parts: list[NDArray[np.int64]]) -> Split:
    train, val, test = (np.sort(np.concatenate(part)) for part in parts)
    if len(test) == 0:
        raise DataError(
            f"{len(train)} training and {len(val)} validation samples leave no test",
            "lower dataset.train_per_class or dataset.val_per_class",
        )
    return Split(train=train, val=val, test=test)


def _checked_counts(train: int | None, val: int | None) -> tuple[int, int] | None:
    if train is None and val is None:
        return None
    if train is None or val is None:
        given, missing = ("val", "train") if train is None else ("train", "val")
        raise ConfigError(
            f"dataset.{given}_per_class came without dataset.{missing}_per_class, expected both or neither",
            f"set dataset.{missing}_per_class too",
        )
    if train < 1 or val < 1:
        raise ConfigError(
            f"train_per_class={train} and val_per_class={val}, expected at least 1 each",
            "raise the lower one",
        )
    return train, val


def _check_fractions(train: float, val: float) -> None:
    if not (train > 0 and val > 0 and train + val < 1):
        raise ConfigError(
            f"train_fraction={train} and val_fraction={val}, expected both above 0 and in sum below 1",
            "the rest is test, so give for example 0.7 and 0.15",
        )


def _sizes(
    n: int, name: str, counts: tuple[int, int] | None, train_fraction: float, val_fraction: float
) -> tuple[int, int]:
    """Training and validation samples of a class of `n`."""
    needed = 3 if counts is None else sum(counts)
    if n < needed:
        parts = "one each for train, validation and test" if counts is None else f"{counts[0]} + {counts[1]}"
        raise DataError(
            f"class {name!r} has {n} samples, expected at least {needed} ({parts})",
            "add samples, remove the class, or ask for fewer a class",
        )
    if counts is not None:
        return counts
    val = min(max(1, round(n * val_fraction)), n - 2)
    return min(max(1, round(n * train_fraction)), n - val - 1), val
