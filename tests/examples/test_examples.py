"""The example scripts run as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def ran(script, folder, *arguments):
    command = [sys.executable, str(EXAMPLES / script), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_own_images(tmp_path):
    generator = np.random.default_rng(0)
    for name, count in (("cat", 14), ("dog", 10)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    network = ("--backbone", "resnet20", "--weights", "random", "--size", "32", "--trials", "2")
    printed = ran("own_images.py", tmp_path, "photos", *network, "--classify", "photos/cat/0.png")
    assert printed.splitlines()[-1] in ("photos/cat/0.png: cat", "photos/cat/0.png: dog")
    assert "pruned" in printed or "after" in printed
    assert (tmp_path / "runs/own-images/report.html").stat().st_size > 10_000
    assert (tmp_path / "runs/own-images/model/model.safetensors").exists()


def test_own_network_and_data_set(tmp_path):
    printed = ran("own_network.py", tmp_path)
    assert "conventional" in printed
    # Without `run=` nothing but the cache is written.
    assert os.listdir(tmp_path) == ["outputs"]
    assert os.listdir(tmp_path / "outputs") == ["cache"]
    assert not [path for path in (tmp_path / "outputs/cache").iterdir() if path.name.startswith("run-")]


@pytest.mark.parametrize("criterion", ["own_criterion.Spread", "magnitude", "reconstruction"])
def test_own_criterion(criterion, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "own-criterion"
    if not folder.exists():
        folder.mkdir()
        (folder / "printed.txt").write_text(ran("own_criterion.py", folder))
    lines = (folder / "printed.txt").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{criterion}: ")]
    assert "validation accuracy" in line
