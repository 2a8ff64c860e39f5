"""The example scripts run as a user runs them."""

import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def ran(monkeypatch, tmp_path, capsys):
    """Runs a script in an empty folder, and returns what it prints."""

    def run(script, *arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(EXAMPLES)
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_own_images(ran, tmp_path):
    generator = np.random.default_rng(0)
    for name, count in (("cat", 14), ("dog", 10)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    network = ("--backbone", "digits_cnn", "--weights", "random", "--size", "8", "--trials", "2")
    printed = ran("own_images.py", "photos", *network, "--classify", "photos/cat/0.png")
    assert printed.splitlines()[-1] in ("photos/cat/0.png: cat", "photos/cat/0.png: dog")
    assert "pruned" in printed or "after" in printed
    assert (tmp_path / "runs/own-images/report.html").stat().st_size > 10_000
    assert (tmp_path / "runs/own-images/model/model.safetensors").exists()


def test_own_network_and_data_set(ran, tmp_path):
    printed = ran("own_network.py")
    assert "conventional" in printed
    # Without `run=` nothing but the cache is written.
    assert os.listdir(tmp_path) == ["outputs"]
    assert os.listdir(tmp_path / "outputs") == ["cache"]
    assert not [path for path in (tmp_path / "outputs/cache").iterdir() if path.name.startswith("run-")]


def test_own_criterion(ran):
    lines = ran("own_criterion.py").splitlines()
    for criterion in ("own_criterion.Spread", "magnitude", "reconstruction"):
        (line,) = [line for line in lines if line.startswith(f"{criterion}: ")]
        assert "validation accuracy" in line
