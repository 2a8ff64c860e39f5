"""Pixels that are in no array: decoded whenever they are read."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray


class DecodedWhenRead:
    """Takes the place of a data set's array `n x R x R x c`, with the same values.

    Args:
        decode: gives the pixels of a row, `R x R x c`, from any thread.
        shape: of the array.
        workers: threads that decode.
    """

    def __init__(
        self, decode: Callable[[int], NDArray[np.uint8]], shape: tuple[int, int, int, int], workers: int
    ) -> None:
        self.decode, self.shape, self.workers = decode, shape, workers

    def __getitem__(self, rows: Any) -> NDArray[np.uint8]:
        """Pixels of one row, `R x R x c`, or of an array of rows, `b x R x R x c`."""
        if np.ndim(rows) == 0:
            return self.decode(int(rows))
        with ThreadPoolExecutor(self.workers) as pool:
            return np.stack(list(pool.map(self.decode, np.asarray(rows).tolist())))
