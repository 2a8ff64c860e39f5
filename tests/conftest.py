"""What all tests share: one thread, reproducible examples, and the folder of real data."""

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings

from tascnet.exporting import installed

# Before torch is imported anywhere: tiny computations are fastest, and equal to the last bit, on one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

settings.register_profile("tascnet", deadline=None, derandomize=True)
settings.load_profile("tascnet")


_INSTALLED = installed.installed


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Only tests marked `deployed`, and fixtures that they are first to use, export networks."""
    is_deployed = item.get_closest_marker("deployed") is not None
    own = _INSTALLED if is_deployed else lambda: frozenset({"eager", "pt2", "compile"})
    installed.installed = own
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


@pytest.fixture
def whole(undisturbed, tmp_path: Path):
    """A copy of the result `undisturbed` of a stage, in a folder that may be damaged."""
    shutil.copytree(undisturbed.folder, tmp_path / "run")
    return replace(undisturbed, folder=tmp_path / "run")


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> Callable[[], list[str]]:
    """Returns the warnings that name a file of the run."""
    caplog.set_level(logging.WARNING, logger="tascnet")
    return lambda: [message for message in caplog.messages if str(tmp_path) in message]
