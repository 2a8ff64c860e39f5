import subprocess
import sys

from tascnet.run.files import read_json
from tests.pipelines.commands import TINY, command


def test_parts_are_timed_and_counts_agree(images, cache, tmp_path, capsys):
    options = [
        "stage=benchmark",
        "benchmark=pruning_cost",
        *TINY,
        "dataset=image_folder",
        f"dataset.root={images}",
    ]
    options += ["backbone=resnet20", "backbone.weights=random", "backbone.size=32", "backbone.resize=32"]
    options += [f"outputs={tmp_path}", f"cache_dir={cache}", "benchmark.backbones=[resnet20,mobilenet_v2]"]
    assert command(*options) == 0
    for row in read_json(tmp_path / "benchmark" / "pruning_cost" / "metrics.json")["rows"]:
        assert row["params_agree"]
        assert row["flops_agree"]
        assert row["widths_agree"]
        assert 0 < row["surgery_seconds"] < row["iteration_seconds"]
    assert "agree" in capsys.readouterr().out


GROWTH = """
import torch
from tascnet_pipelines.benchmarks.process import memory_growth
with memory_growth() as growth:
    block = torch.ones(30_000_000)
    del block
print(growth.bytes)
"""


def test_memory_that_is_given_back_counts_at_its_peak():
    # In a process of its own: this one may hold room for it that other tests have left.
    said = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "None" or 100e6 < int(said) < 160e6
