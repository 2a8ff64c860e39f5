"""What all tests share: one thread, reproducible examples, and the folder of real data."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch is imported anywhere: tiny computations are fastest, and equal to the last bit, on one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

settings.register_profile("tascnet", deadline=None, derandomize=True)
settings.load_profile("tascnet")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("realdata") is None:
        return
    folder = os.environ.get("TASCNET_SHARED")
    if folder and Path(folder).is_dir():
        return
    reason = "TASCNET_SHARED names no folder with the real data"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and weights; only for tests marked `realdata`."""
    return Path(os.environ["TASCNET_SHARED"])
