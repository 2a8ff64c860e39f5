"""Rows and summary of predicted latencies."""

import pytest
import torch

from benchmarks import layer_times
from benchmarks.layer_times import random_cut, summarise
from tascnet.surgery import Trace
from tests.reading import read_json
from tests.tuning.toy import own_network

WHOLE = {"network": "n", "runtime": "r", "params": 100, "flops": 1000}


def rows():
    """Layers take 8 of the whole network's 10 ms; the two cuts 4 and 2 of 6 and 3 ms."""
    return [
        {**WHOLE, "cut": 0, "measured_ms": 10.0, "layers_ms": 8.0},
        {**WHOLE, "cut": 1, "measured_ms": 6.0, "layers_ms": 4.0, "params": 50, "flops": 250},
        {**WHOLE, "cut": 2, "measured_ms": 3.0, "layers_ms": 2.0, "params": 25, "flops": 500},
    ]


def test_the_summary_by_hand():
    found = {row["prediction"]: row for row in summarise(rows())}
    # 4/8 beside 6/10, and 2/8 beside 3/10.
    assert found["layers"]["mean_error"] == pytest.approx(1 / 6)
    assert found["layers"]["bias"] == pytest.approx(-1 / 6)
    # (4 + 2)/10, and (2 + 2)/10.
    assert found["rest constant"]["largest_error"] == pytest.approx(1 / 3)
    assert found["rest constant"]["mean_error"] == pytest.approx(1 / 6)
    # (4 + 2/2)/10, and (2 + 2/4)/10.
    assert found["rest by weights"]["mean_error"] == pytest.approx(1 / 6)
    assert found["layers"]["rank_correlation"] == pytest.approx(1.0)
    assert found["FLOPs"]["rank_correlation"] == pytest.approx(-1.0)


def test_a_cut_depends_on_its_number_alone():
    network, example = own_network(), torch.zeros(1, 3, 8, 8)
    trace = Trace(network, example)
    widths = [random_cut(network, trace, cut)[0].out_channels for cut in (0, 1, 1)]
    assert widths[0] == 4
    assert widths[1] == widths[2]
    assert random_cut(network, trace, 0) is network


@pytest.mark.deployed
def test_rows_are_collected_for_each_cut(bench, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    measured = {
        row["cut"]: {k: row[k] for k in ("measured_ms", "layers_ms", "params", "flops")} for row in rows()
    }
    monkeypatch.setattr(layer_times, "compare", lambda key, **_: measured[key["cut"]])
    assert bench("layer_times", "--networks", "resnet18", "--cuts", 2) == 0
    metrics = read_json(tmp_path / "layer_times" / "metrics.json")
    assert [row["cut"] for row in metrics["rows"]] == [0, 1, 2]
    assert metrics["summary"][0]["mean_error"] == pytest.approx(1 / 6)


def test_a_runtime_that_is_none_of_exported_files_is_refused(bench, capsys):
    assert bench("layer_times", "--runtimes", "eager") == 2
    assert "there is no runtime of exported files 'eager'" in capsys.readouterr().err
