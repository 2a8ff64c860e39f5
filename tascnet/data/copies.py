"""Samples that are equal, and images that look alike."""

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

# Bits of 64 in which the hashes of images that look alike may differ.
ALIKE_BITS = 4
# Hashes with fewer bits set, or fewer not set, are of images with little in them, which are alike by chance.
FEWEST_BITS = 8
# Two hashes that differ in so many bits are equal in one of `ALIKE_BITS + 1` bands.
BAND_BITS = -(-64 // (ALIKE_BITS + 1))
# Pairs of hashes that are compared at once, 8 bytes each.
CHUNK = 1_000_000
# From the split that gives up its copies first to the one that keeps them.
RANKS = {"train": 0, "val": 1, "test": 2}
ONES = np.array([value.bit_count() for value in range(256)], dtype=np.uint8)


def first_rows(keys: Sequence[Hashable]) -> NDArray[np.int64]:
    """The first row with the same key, for each row, `n`."""
    firsts = np.arange(len(keys))
    for rows in equal_rows(keys):
        firsts[rows] = rows[0]
    return firsts


def equal_rows(keys: Sequence[Hashable]) -> list[list[int]]:
    """Groups of two or more rows with the same key, in the order of their first rows."""
    # Only of equal rows a list is kept: of a million samples few are.
    seen, several = set[Hashable](), set[Hashable]()
    for key in keys:
        (several if key in seen else seen).add(key)
    groups: dict[Hashable, list[int]] = {}
    for row, key in enumerate(keys if several else ()):
        if key in several:
            groups.setdefault(key, []).append(row)
    return [*groups.values()]


def shared_rows(parts: Sequence[str], digests: Sequence[str]) -> list[list[int]]:
    """Groups of equal rows that lie in two or more ready splits, those of train first in each."""
    groups = (rows for rows in equal_rows(digests) if len({parts[row] for row in rows}) > 1)
    return [sorted(rows, key=lambda row: RANKS[parts[row]]) for rows in groups]


def surplus_rows(parts: Sequence[str], shared: Iterable[Sequence[int]]) -> list[int]:
    """Rows of `shared` without which no two splits share a sample: test keeps its own, then validation."""
    surplus = []
    for rows in shared:
        kept = max(RANKS[parts[row]] for row in rows)
        surplus += [row for row in rows if RANKS[parts[row]] < kept]
    return surplus


def count_alike(known: Iterable[int | None], asked: Iterable[int | None]) -> int:
    """How many of the hashes asked for differ in at most `ALIKE_BITS` bits from a known one.

    Args:
        known, asked: perceptual hashes of 64 bits; None: an image has none. Those of images with little in
            them are left out.
    """
    references, _ = _telling(known)
    hashes, times = _telling(asked)
    alike = np.zeros(len(hashes), dtype=bool)
    for start in range(0, 64, BAND_BITS):
        left = np.flatnonzero(~alike)
        alike[left] = _alike_in_band(
            _bands(references, start), references, _bands(hashes[left], start), hashes[left]
        )
    return int(times[alike].sum())


def _alike_in_band(
    known_bands: NDArray[np.uint64],
    known: NDArray[np.uint64],
    asked_bands: NDArray[np.uint64],
    asked: NDArray[np.uint64],
) -> NDArray[np.bool_]:
    """Which hashes are alike to a known one with the same bits in one band."""
    order = np.argsort(known_bands, kind="stable")
    known_bands, known = known_bands[order], known[order]
    begin = np.searchsorted(known_bands, asked_bands, side="left")
    counts = np.searchsorted(known_bands, asked_bands, side="right") - begin
    alike = np.zeros(len(asked), dtype=bool)
    ends = np.cumsum(counts)
    first = 0
    while first < len(asked):
        done = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + CHUNK, side="right")))
        queries = np.repeat(np.arange(first, last), counts[first:last])
        # Positions within each query's run of known hashes.
        within = np.arange(len(queries)) - np.repeat(
            ends[first:last] - counts[first:last] - done, counts[first:last]
        )
        near = _bits(asked[queries] ^ known[begin[queries] + within]) <= ALIKE_BITS
        alike[queries[near]] = True
        first = last
    return alike


def _telling(hashes: Iterable[int | None]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The different hashes of images with enough in them, and how often each occurs."""
    given = np.array([value for value in hashes if value is not None], dtype=np.uint64)
    bits = _bits(given)
    return np.unique(given[(bits >= FEWEST_BITS) & (bits <= 64 - FEWEST_BITS)], return_counts=True)


def _bands(hashes: NDArray[np.uint64], start: int) -> NDArray[np.uint64]:
    """Bits of each hash from `start` on."""
    return (hashes >> np.uint64(start)) & np.uint64((1 << BAND_BITS) - 1)


def _bits(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """How many bits of each hash are set."""
    octets = np.ascontiguousarray(hashes).view(np.uint8).reshape(-1, 8)
    return ONES[octets].sum(axis=1, dtype=np.int64)
