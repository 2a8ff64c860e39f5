import importlib
import time
from types import SimpleNamespace

import pytest
import torch

from benchmarks import finetuning, gpu
from tests.reading import read_json


def test_the_summary_by_hand():
    rows = [
        {"way": "tascnet", "images": 100, "epoch_seconds": [1.0, 2.0], "gpu_busy": 0.8},
        {"way": "torchvision", "images": 100, "epoch_seconds": [4.0, 5.0]},
        {"way": "tascnet", "images": 100, "epoch_seconds": [4.0, 5.0], "gpu_busy": 0.6},
    ]
    ours, reference = finetuning.summarise(rows)
    # 100, 50, 25 and 20 images a second; the reference 25 and 20.
    assert (ours["per_second"], reference["per_second"]) == (37.5, 22.5)
    assert (ours["ratio"], reference["ratio"]) == (pytest.approx(37.5 / 22.5), 1.0)
    assert ours["gpu_busy"] == pytest.approx(0.7)
    assert "gpu_busy" not in reference


@pytest.fixture
def photos(images, tmp_path, monkeypatch):
    """Options of small photos; torchvision decodes in this process, as forks of one with threads warn."""
    usual = finetuning.torchvision_loader
    monkeypatch.setattr(finetuning, "torchvision_loader", lambda *a, **k: usual(*a, **{**k, "workers": 0}))
    flags = ["--data", "image_folder", "--root", images, "--backbone", "squeezenet1_1", "--weights", "random"]
    sizes = ["--size", 32, "--resize", 32, "--train", 4, "--val", 2, "--epochs", 2]
    return [*flags, *sizes, "--device", "cpu", "--cache", tmp_path / "cache"]


def test_all_ways_train_the_same_images(bench, photos, tmp_path, shown, monkeypatch):
    # Compiling takes a minute, and is tested in tests/train/test_compiled.py.
    compiled = []
    module = importlib.import_module("tascnet.train.fit")
    monkeypatch.setattr(module, "compiled", lambda function, _: compiled.append(function) or function)
    assert bench("finetuning", *photos, "--compiled") == 0
    metrics = read_json(tmp_path / "finetuning" / "metrics.json")
    assert [row["way"] for row in metrics["rows"]] == ["tascnet", "tascnet, compiled", "torchvision"]
    assert len(compiled) == 2
    assert {row["images"] for row in metrics["rows"]} == {8}
    assert all(len(row["epoch_seconds"]) == 2 for row in metrics["rows"])
    assert metrics["summary"] == finetuning.summarise(metrics["rows"])
    assert "images a second" in shown.export_text()


def test_what_cannot_be_compared_is_refused(bench, photos, caplog, tmp_path):
    assert bench("finetuning", *photos, "--backbone", "resnet20") == 2
    assert "there is no network of torchvision 'resnet20'" in caplog.text
    assert bench("finetuning", "--data", "digits", "--backbone", "squeezenet1_1") == 2
    assert "the samples of --data digits are in none" in caplog.text
    assert not (tmp_path / "finetuning").exists()


def test_a_gpu_is_watched_by_its_own_program(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    ready = tmp_path / "ready"
    program.write_text(f"#!/bin/sh\necho 40; echo '[N/A]'; echo 80; touch {ready}; exec sleep 60\n")
    program.chmod(0o755)
    for name in ("reset_peak_memory_stats", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, lambda _: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="1-2"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 7)
    monkeypatch.setattr(gpu.shutil, "which", lambda _: str(program))
    with gpu.watched(torch.device("cuda")) as row:
        while not ready.exists():
            time.sleep(0.01)
    assert row == {"gpu_bytes": 7, "gpu_busy": 0.6}
    with gpu.watched(torch.device("cpu")) as row:
        pass
    assert row == {}
