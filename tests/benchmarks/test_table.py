import argparse
import gzip
import json
import math

import pytest
import torch

from benchmarks import make_table
from benchmarks.make_table import TASKS, Workbench
from benchmarks.table import load_table, read_table, table_names
from tascnet.errors import ConfigError, DataError
from tests.benchmarks.tables import tiny_entry, tiny_table, write_tiny_table


@pytest.fixture
def path(tmp_path):
    write_tiny_table(tmp_path / "tiny.json.gz")
    return tmp_path / "tiny.json.gz"


def test_a_table_survives_its_file(path):
    table, again = tiny_table(), read_table(path)
    assert (again.space, again.entries, again.about) == (table.space, table.entries, table.about)
    assert len(again.configs) == 3 * (1 + 6 + 36)
    # Two units trained, elu, a width of 8, no hidden layer: 0.7 + 0.1 + 0.03 + 0.04.
    assert again.best == pytest.approx(0.87)


def test_a_configuration_need_not_be_canonical(path):
    config = {"first_trained": 1, "conv2.width": 4, "head.neurons": 16}
    table = read_table(path)
    assert table[config] == tiny_entry(table.space.neutral(1))


def test_the_same_content_gives_the_same_bytes(path, tmp_path):
    write_tiny_table(tmp_path / "again.json.gz")
    assert (tmp_path / "again.json.gz").read_bytes() == path.read_bytes()


def test_an_unknown_table_is_named_with_those_there_are():
    with pytest.raises(ConfigError, match="there is no table 'tiny'") as caught:
        load_table("tiny")
    assert caught.value.hint is not None
    assert "digits_high" in caught.value.hint


def changed(content, name):
    match name:
        case "no rows":
            del content["rows"]
        case "a short row":
            content["rows"][3].pop()
        case "another value":
            content["rows"][3][0] = 7
        case "a row too few":
            content["rows"].pop()
        case "a row twice":
            content["rows"][1] = content["rows"][0]
    return content


@pytest.mark.parametrize("name", ["no rows", "a short row", "another value", "a row too few", "a row twice"])
def test_a_damaged_table_is_refused(path, name):
    content = changed(json.loads(gzip.decompress(path.read_bytes())), name)
    path.write_bytes(gzip.compress(json.dumps(content).encode()))
    with pytest.raises(DataError, match=r"tiny\.json\.gz"):
        read_table(path)


def test_a_truncated_file_is_refused(path):
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="is no table"):
        read_table(path)


@pytest.mark.parametrize("name", table_names())
def test_a_stored_table_is_whole_wide_and_has_few_good_configurations(name):
    table = load_table(name)
    accuracies = sorted((entry.val_accuracy for entry in table.entries.values()), reverse=True)
    assert len(accuracies) == table.space.count(table.space.depth) >= 200
    assert all(0 < entry.deviation < 0.2 or entry.deviation == 0 for entry in table.entries.values())
    assert all(math.isfinite(entry.val_loss) and entry.flops > 0 for entry in table.entries.values())
    # Not saturated, and wider than three standard errors of 800 validation samples: 0.7 points each at 0.96.
    assert accuracies[0] < 0.97
    assert accuracies[0] - accuracies[len(accuracies) // 2] > 0.021
    assert sum(accuracy > accuracies[0] - 0.005 for accuracy in accuracies) <= len(accuracies) // 100
    assert table.about["classes"] == list(TASKS[name].classes)
    # Widths are known as such: the second trial of our search has half of them.
    assert table.space.narrowed(0.5, 2) != table.space.neutral(2)


def test_the_stored_tables_can_be_made():
    assert {"digits_high", "digits_low", "mobilenet"} <= set(table_names()) <= set(TASKS)


def test_a_row_measured_again_is_that_of_the_stored_table(cache):
    args = argparse.Namespace(cache=cache)
    bench = Workbench(TASKS["digits_high"], args, torch.device("cpu"))
    table = load_table("digits_high")
    assert bench.space == table.space
    assert bench.about.keys() == table.about.keys()
    config = bench.space.canonical(
        {"first_trained": 2, "conv5.width": 16, "conv4.activation": "elu", "head.hidden_layers": 0}
    )
    entry, stored = bench.evaluate(config), table[config]
    assert (entry.params, entry.flops) == (stored.params, stored.flops)
    # Other processors and versions round differently: within two of the table's mean deviations.
    deviation = sum(e.deviation for e in table.entries.values()) / len(table.entries)
    assert entry.val_accuracy == pytest.approx(stored.val_accuracy, abs=2 * deviation)


def test_making_a_table_journals_its_rows_and_resumes(bench, tmp_path, monkeypatch):
    table, asked = tiny_table(), []

    class Bench(Workbench):
        def __init__(self, *arguments):
            self.space, self.about = table.space, {"seed": 0}

        def evaluate(self, config):
            asked.append(config)
            return tiny_entry(config)

    monkeypatch.setattr(make_table, "Workbench", Bench)
    assert bench("make_table", "--tables", "digits_high") == 0
    made = tmp_path / "make_table" / "digits_high.json.gz"
    assert read_table(made).entries == table.entries
    made.unlink()
    assert bench("make_table", "--tables", "digits_high") == 0
    assert read_table(made).entries == table.entries
    assert len(asked) == table.space.count(2)


def test_a_table_that_cannot_be_made_is_refused(bench, capsys):
    assert bench("make_table", "--tables", "letters") == 2
    assert "there is no table 'letters'" in capsys.readouterr().err
