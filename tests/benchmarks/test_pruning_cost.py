import subprocess
import sys

from tests.reading import read_json


def test_parts_are_timed_and_counts_agree(bench, images, cache, tmp_path, shown):
    data = ["--data", "image_folder", "--root", images, "--cache", cache, "--size", 32, "--resize", 32]
    network = ["--backbone", "resnet20", "--weights", "random", "--backbones", "resnet20"]
    few = ["--set", "prune.epochs=1", "prune.min_filters=32", "measure.batch=2", "measure.repeats=3"]
    assert bench("pruning_cost", *data, *network, *few) == 0
    (row,) = read_json(tmp_path / "pruning_cost" / "metrics.json")["rows"]
    assert row["params_agree"]
    assert row["flops_agree"]
    assert row["widths_agree"]
    assert 0 < row["surgery_seconds"] < row["iteration_seconds"]
    assert "agree" in shown.export_text()


GROWTH = """
import torch
from benchmarks.process import memory_growth
with memory_growth() as growth:
    block = torch.ones(30_000_000)
    del block
print(growth[0] if growth else None)
"""


def test_memory_that_is_freed_counts_at_its_peak():
    # In a process of its own: this one may hold room for it that other tests have left.
    said = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "None" or 100e6 < int(said) < 160e6
