import pytest

from benchmarks import pareto
from benchmarks.pareto import hypervolume, search, summarise
from tascnet.run.files import read_jsonl
from tests.benchmarks.tables import tiny_table
from tests.reading import read_json


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    table = tiny_table()
    monkeypatch.setattr(pareto, "_table", lambda name: table)
    return table


def key(goal, method="ours", trials=8, seed=0):
    return {"table": "tiny", "goal": goal, "method": method, "seed": seed, "trials": trials}


def test_the_hypervolume_by_hand():
    # Rectangles above 0.5 and below 100: 0.2 x 90 of the first, then 0.2 x 50 more of the second.
    front = [(0.7, 10), (0.9, 50)]
    assert hypervolume(front, (0.5, 100)) == pytest.approx(0.2 * 90 + 0.2 * 50)
    # Dominated points, and those outside, add nothing.
    more = [(0.65, 20), (0.9, 60), (0.4, 1), (0.99, 100)]
    assert hypervolume([*more, *front], (0.5, 100)) == pytest.approx(28.0)
    assert hypervolume([], (0.5, 100)) == 0.0


@pytest.mark.parametrize("method", pareto.METHODS)
def test_no_infeasible_network_is_evaluated(method, tiny):
    row = search(key("constrained", method))
    assert row["infeasible"] == 0
    assert 0 <= row["value"] < 0.2


def test_infeasible_networks_are_counted(tiny, monkeypatch):
    everything = pareto.Design(list(tiny.configs))
    monkeypatch.setattr(pareto, "_searcher", lambda *arguments: everything)
    # At most 0.7 x 3,200 FLOPs: widths that sum to 22 or less.
    widths = [c["conv1.width"] + c["conv2.width"] for c in tiny.configs]
    row = search(key("constrained", trials=len(tiny.configs)))
    assert row["infeasible"] == sum(width > 22 for width in widths) > 0


@pytest.mark.parametrize("method", pareto.METHODS)
def test_the_hypervolume_is_a_share_of_the_tables(method):
    assert 0 < search(key("pareto", method, trials=12))["value"] <= 1


def test_all_networks_together_have_the_tables_hypervolume(tiny):
    row = search(key("pareto", "random", trials=len(tiny.configs)))
    assert row["value"] == pytest.approx(1.0)


def test_the_summary_by_hand():
    rows = [
        {**key(goal, method, seed=seed), "value": value, "infeasible": 1}
        for goal, method, values in [
            ("pareto", "ours", (0.9, 0.7)),
            ("pareto", "random", (0.8, 0.8)),
            ("constrained", "ours", (0.01, 0.03)),
            ("constrained", "random", (0.02, 0.05)),
        ]
        for seed, value in enumerate(values)
    ]
    first, _, third, _ = summarise(rows)
    # Of two values a, b the standard error of the mean is |a - b| / 2.
    assert (first["value"], first["error"], first["better"]) == pytest.approx((0.8, 0.1, 0.5))
    # A smaller regret is better.
    assert (third["value"], third["better"], third["infeasible"]) == (pytest.approx(0.02), 1.0, 2)


def test_the_comparison_writes_its_rows_and_resumes(bench, shown, tmp_path, monkeypatch):
    options = ["--seeds", 1, "--trials", 6, "--tables", "tiny"]
    assert bench("pareto", *options) == 0
    folder = tmp_path / "pareto"
    metrics = read_json(folder / "metrics.json")
    assert len(metrics["rows"]) == 4 == len(read_jsonl(folder / "rows.jsonl"))
    assert {entry["goal"] for entry in metrics["summary"]} == {"pareto", "constrained"}
    monkeypatch.setattr(pareto, "search", lambda key: pytest.fail("a row was computed again"))
    assert bench("pareto", *options) == 0
    assert "hypervolume" in shown.export_text()


def test_an_unknown_search_is_refused(bench, capsys):
    assert bench("pareto", "--methods", "best") == 2
    assert "there is no search 'best'" in capsys.readouterr().err
