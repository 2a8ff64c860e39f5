"""Running benchmarks in this process, and what they run on: a cache, a folder of images, a tiny table."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from benchmarks import common
from benchmarks.__main__ import main
from tascnet.run.console import log


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """Where the pre-trained network of the digits and features are kept."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """Noise of 32 x 32 pixels, 14 images of one class and 10 of another."""
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for name, count in (("cat", 14), ("dog", 10)):
        (root / name).mkdir()
        for number in range(count):
            pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:02d}.png")
    return root


@pytest.fixture(autouse=True)
def _logger():
    """The logger is left as it was."""
    handlers, level = list(log.handlers), log.level
    yield
    log.handlers[:] = handlers
    log.setLevel(level)


@pytest.fixture
def bench(tmp_path) -> Callable[..., int]:
    """The exit code of `python -m benchmarks <arguments>` with results in `tmp_path`."""

    def run(*arguments: Any) -> int:
        return main([*map(str, arguments), "--out", str(tmp_path)])

    return run


@pytest.fixture
def shown(monkeypatch) -> Console:
    """What is printed, on a wide terminal."""
    console = Console(record=True, width=160, file=io.StringIO())
    monkeypatch.setattr(common, "output", lambda: console)
    return console
