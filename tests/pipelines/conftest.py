"""One run of both stages on the digits and one folder of images, shared by the tests of this folder."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image

from tests.pipelines.commands import TINY, command
from tests.pipelines.networks import slim


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """Where all runs keep the pre-trained network of the digits and cached features."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def finished(tmp_path_factory, cache) -> Path:
    """The run folder of an uninterrupted `stage=full`; not to be changed."""
    outputs = tmp_path_factory.mktemp("finished")
    assert command(*TINY, f"outputs={outputs}", f"cache_dir={cache}", "name=run") == 0
    return outputs / "digits" / "digits_cnn" / "run-seed0"


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


@pytest.fixture
def tuned(finished, tmp_path):
    """A copy of the finished run without its stage prune."""
    run = tmp_path.joinpath(*finished.parts[-3:])
    shutil.copytree(finished, run)
    shutil.rmtree(run / "prune")
    return run


@pytest.fixture
def slim_torchvision(monkeypatch):
    """Networks of torchvision have a quarter of their channels: their structure counts here."""
    monkeypatch.setattr(torchvision.models, "get_model", slim)
