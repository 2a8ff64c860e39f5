"""What the table says, read back from the terminal's text, Markdown and CSV."""

import csv
import io
import json
import re
from dataclasses import replace

import pytest
from rich.console import Console

from tascnet.report.comparison import (
    as_csv,
    as_markdown,
    compare,
    comparison_page,
    comparison_table,
    find_runs,
    notes,
    summarise,
    write_comparison,
)
from tascnet.report.comparison.runs import Aside
from tests.report.comparison.folders import write_run
from tests.report.records import timed

# 400 and 500 of 1000 parameters: 450 ± 71, 55 % fewer; 0.85 and 0.95: 90.0 % ± 7.1 %, 10 points more.
TUNED = ({"params": 400, "test_accuracy": 0.80}, {"params": 500, "test_accuracy": 0.90})


def two_seeds(path, **options):
    for seed, after in enumerate(TUNED):
        prune = {"before": after, "after": {**after, "params": after["params"] // 2}}
        write_run(path, seed, tune={"after": after}, prune=prune, **options)


def read(path):
    runs, _ = find_runs(path)
    return summarise(runs)


def terminal(rows, width=80):
    text = io.StringIO()
    Console(file=text, width=width, color_system=None).print(comparison_table(rows))
    return text.getvalue()


def markdown(path):
    """The table's lines as cells, by model."""
    lines = as_markdown(*read(path)).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line[:1] == "|"]
    return {row[3]: dict(zip(cells[0], row, strict=True)) for row in cells[2:]}


def test_markdown_has_mean_deviation_and_change(tmp_path):
    two_seeds(tmp_path)
    rows = markdown(tmp_path)
    assert list(rows) == ["baseline", "conventional", "tuned", "pruned: reconstruction", "from unpruned"]
    assert rows["conventional"]["params"] == "1.00 k ± 0"
    assert rows["tuned"]["n"] == "2"
    assert rows["tuned"]["params"] == "450 ± 71 (−55 %)"
    assert rows["tuned"]["test acc."] == "85.0 % ± 7.1 (+10.0 pp)"
    assert rows["tuned"]["latency batch 16"] == "10.0 ms ± 0 (±0 %)"
    assert rows["pruned: reconstruction"]["params"] == "225 ± 35 (−78 %)"
    assert rows["from unpruned"]["params"] == "(−50 %)"
    assert rows["from unpruned"]["n"] == ""


def test_one_seed_has_a_dash_for_its_deviation(tmp_path):
    write_run(tmp_path)
    rows = markdown(tmp_path)
    assert rows["baseline"]["params"] == "1.00 k ± – (±0 %)"
    assert " ± 0" not in as_markdown(*read(tmp_path))


def test_mixed_places_are_marked_and_named(tmp_path):
    write_run(tmp_path, 0)
    other = {name: {"threads": 1} for name in ("baseline", "conventional", "after")}
    write_run(tmp_path, 1, tune=other)
    write_run(tmp_path, name="alone")
    rows, _ = read(tmp_path)
    text = as_markdown(rows, [])
    assert "| mixed [1][2] (±0 %) |" in text
    assert "| 2.00 ms [2] ± – (±0 %) |" in text
    assert "[1] cpu, 1 thread, Chip; [2] cpu, 2 threads, Chip" in text
    assert any(note.startswith("mixed: ") for note in notes(rows))
    write_run(tmp_path / "one")
    alone, _ = read(tmp_path / "one")
    assert "Latency: cpu, 2 threads, Chip." in notes(alone)
    assert "mixed" not in as_markdown(alone, [])


def test_deployed_forms_have_a_column_of_their_own(tmp_path):
    def in_runtimes(single, openvino):
        times = {"eager": 9.0, "onnxruntime": single, "openvino": openvino, "onnxruntime_int8": 1.0}
        return {"latencies": tuple(timed(runtime, ms) for runtime, ms in times.items())}

    write_run(tmp_path, tune={"conventional": in_runtimes(4.0, 5.0), "after": in_runtimes(3.0, 2.0)})
    rows = markdown(tmp_path)
    assert rows["tuned"]["deployed batch 1"] == "2.00 ms OpenVINO ± – (−50 %)"
    assert rows["conventional"]["deployed batch 1"] == "4.00 ms ONNX ± –"
    assert rows["baseline"]["deployed batch 1"] == "–"
    assert rows["tuned"]["eager batch 1"] == "9.00 ms ± – (±0 %)"
    found, _ = read(tmp_path)
    assert "Deployed: exported, in the fastest of ONNX Runtime and OpenVINO, for one sample." in notes(found)
    assert not any(note.startswith("mixed") for note in notes(found))
    text = terminal(found)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert "deployed" in text
    records = {row["model"]: row for row in csv.DictReader(io.StringIO(as_csv(found)))}
    assert (records["tuned"]["deployed_ms"], records["tuned"]["deployed_runtime"]) == (
        "2.0",
        "openvino",
    )
    assert (records["baseline"]["deployed_ms"], records["baseline"]["deployed_runtime"]) == ("", "")


def test_seeds_with_other_samples_are_named(tmp_path):
    write_run(tmp_path, 0)
    write_run(tmp_path, 1, data="other")
    assert "The seeds of digits, cnn, run, tuned, had different samples." in notes(read(tmp_path)[0])


def test_what_does_not_take_part_is_in_the_markdown(tmp_path):
    write_run(tmp_path)
    (tmp_path / "digits/cnn/a|b-seed1").mkdir()
    runs, asides = find_runs(tmp_path)
    text = as_markdown(summarise(runs)[0], asides)
    assert f"| {tmp_path}/digits/cnn/a\\|b-seed1 | it is empty |" in text
    assert "Not in the table" not in as_markdown(summarise(runs)[0], [])


def test_the_terminal_shows_every_setting_in_eighty_columns(tmp_path):
    two_seeds(tmp_path)
    two_seeds(tmp_path, backbone="mobilenet_v2")
    two_seeds(tmp_path, name="tascnet-widths=0.5,1.0-importance=fpgm")
    rows, _ = read(tmp_path)
    text = terminal(rows)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert all(heading in text for heading in ("batch 1 ", "batch 16"))
    # No column gives way to a long name.
    assert text.count("10.0 ms") == len(rows)
    assert text.count("conventional") == 3
    # Mean, deviation and change below each other.
    lines = [line.split() for line in text.splitlines()]
    start = next(number for number, line in enumerate(lines) if line[:1] == ["tuned"])
    assert lines[start][:8] == ["tuned", "2", "80.0", "%", "85.0", "%", "450", "4.00"]
    assert lines[start + 1][:6] == ["±", "0", "±", "7.1", "±", "71"]
    assert lines[start + 2][:6] == ["±0", "pp", "+10.0", "pp", "−55", "%"]


def test_csv_has_plain_numbers(tmp_path):
    two_seeds(tmp_path)
    write_run(tmp_path, name="single")
    records = {
        (row["name"], row["model"]): row for row in csv.DictReader(io.StringIO(as_csv(read(tmp_path)[0])))
    }
    tuned = records["run", "tuned"]
    assert (tuned["n"], tuned["seeds"], float(tuned["params"])) == ("2", "0 1", 450.0)
    assert round(float(tuned["params_deviation"]), 3) == 70.711
    assert round(float(tuned["test_accuracy_from_conventional"]), 9) == 0.1
    assert float(records["run", "pruned: reconstruction"]["params_from_unpruned"]) == -0.5
    assert records["single", "tuned"]["params_deviation"] == ""
    assert tuned["params_from_unpruned"] == ""
    assert tuned["latency_measured_on"] == "cpu, 2 threads, Chip"


def test_the_page_has_the_table_and_no_links(tmp_path):
    two_seeds(tmp_path)
    (tmp_path / "digits/cnn/<b>-seed1").mkdir()
    runs, asides = find_runs(tmp_path)
    comparison_page(tmp_path / "page.html", summarise(runs)[0], asides)
    text = (tmp_path / "page.html").read_text()
    assert "<td>85.0 %<small>± 7.1</small><small>+10.0 pp</small></td>" in text
    assert re.search(r"from unpruned</th><td></td>.*<td><small>−50 %</small></td>", text)
    assert "cnn/&lt;b&gt;-seed1</th><td>it is empty</td>" in text
    assert not re.search(r"(?:src|href)\s*=|https?://", text)


def test_all_four_files_are_written(tmp_path):
    two_seeds(tmp_path)
    comparison = compare(tmp_path)
    write_comparison(tmp_path / "out", comparison)
    written = {file.name: file.read_text() for file in (tmp_path / "out").iterdir()}
    assert set(written) == {f"comparison.{kind}" for kind in ("md", "csv", "html", "json")}
    assert written["comparison.md"] == as_markdown(comparison.rows, [])
    content = json.loads(written["comparison.json"])
    assert content["runs"] == list(comparison.runs)
    assert content["rows"][0]["figures"]["params"] == {"mean": 1000, "deviation": 0, "n": 2}
    assert content["notes"] == notes(comparison.rows)


EVIL = ("=1+1", "+cmd", "-2", "@SUM(A1)", "\t=1", " =1", "\x1b[2Jred", "a|b", "a\nb", "<script>")


@pytest.mark.parametrize("name", EVIL)
def test_names_are_neither_formulas_nor_escape_codes_nor_markup(tmp_path, name):
    write_run(tmp_path)
    rows = [replace(row, dataset=name, model="=2") for row in read(tmp_path)[0]]
    (first, *_) = csv.DictReader(io.StringIO(as_csv(rows)))
    assert first["dataset"].lstrip()[0] not in "=+-@"
    assert first["model"] == "'=2"
    assert float(first["params"]) == 1000
    page = tmp_path / "page.html"
    aside = Aside(folder=name, reason=name)
    comparison_page(page, rows, [aside])
    markdown = as_markdown(rows, [aside])
    # On a page a tab is a space like others.
    for text in (as_csv(rows), markdown, page.read_text().replace("\t", " "), terminal(rows)):
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f]", text)
    assert "<script>" not in page.read_text()
    assert not re.search(r"(?<!\\)<script>", markdown)
    table = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table[:-3]} == {14}


def test_names_that_are_not_utf8_are_written(tmp_path):
    write_run(tmp_path)
    comparison = compare(tmp_path)
    asides = (Aside(folder="caf\udce9", reason="it is empty"),)
    write_comparison(tmp_path / "out", replace(comparison, asides=asides))
    assert "caf\\udce9" in (tmp_path / "out" / "comparison.md").read_text()


def test_balanced_accuracies_are_averaged_and_shown_where_they_say_more(tmp_path):
    for seed, balanced in enumerate((0.5, 0.6)):
        after = {"test_accuracy": 0.8, "test_balanced_accuracy": balanced}
        write_run(tmp_path / "uneven", seed, tune={"after": after})
    assert markdown(tmp_path / "uneven")["tuned"]["balanced acc."] == "55.0 % ± 7.1 (−20.0 pp)"
    rows, _ = read(tmp_path / "uneven")
    text = terminal(rows)
    assert "balanced" in text
    assert "size" not in text
    assert max(map(len, text.splitlines())) <= 80
    records = {row["model"]: row for row in csv.DictReader(io.StringIO(as_csv(rows)))}
    assert float(records["tuned"]["test_balanced_accuracy"]) == pytest.approx(0.55)
    write_run(tmp_path / "even")
    assert "balanced" not in terminal(read(tmp_path / "even")[0])
