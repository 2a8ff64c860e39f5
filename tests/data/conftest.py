"""Small images and preprocessing shared by the tests of data sets."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tascnet.data.dataset import Dataset
from tascnet.models.preprocessing import Preprocessing


@pytest.fixture
def said() -> Iterator[list[str]]:
    """The warnings that tascnet logs, however its logger is set up."""
    messages: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    listener = Listener(logging.WARNING)
    logging.getLogger("tascnet").addHandler(listener)
    yield messages
    logging.getLogger("tascnet").removeHandler(listener)


@pytest.fixture
def tiny() -> Preprocessing:
    """6 pixels seen of 8, three channels."""
    return Preprocessing(size=6, resize=8, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))


@pytest.fixture
def grey() -> Preprocessing:
    """One channel, no crop."""
    return Preprocessing(size=8, resize=8, mean=(0.0,), std=(1.0,))


@pytest.fixture
def noise_set() -> Callable[..., Dataset]:
    """Makes a data set of random pixels."""

    def make(count: int = 10, side: int = 8, channels: int = 3, classes: int = 2) -> Dataset:
        rng = np.random.default_rng(0)
        return Dataset(
            name="noise",
            class_names=tuple(f"c{index}" for index in range(classes)),
            labels=np.arange(count, dtype=np.int64) % classes,
            pixels=rng.integers(0, 256, (count, side, side, channels), dtype=np.uint8),
            fingerprint="noise",
            digests=tuple(map(str, range(count))),
        )

    return make


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Two classes of three random images each, 20 x 16 pixels."""
    root = tmp_path / "pictures"
    rng = np.random.default_rng(1)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for index in range(3):
            image = Image.fromarray(rng.integers(0, 256, (16, 20, 3), dtype=np.uint8))
            image.save(root / name / f"{index}.png")
    return root
