"""A cache that all tests share, small options, and what tascnet logs."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache, which keeps the weights of digits_cnn."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What tascnet logs, with its level, however its logger is set up."""
    messages: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(f"{record.levelname}: {record.getMessage()}")

    logger, listener = logging.getLogger("tascnet"), Listener(logging.INFO)
    before = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    yield messages
    logger.removeHandler(listener)
    logger.setLevel(before)
