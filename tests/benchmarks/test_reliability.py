"""The benchmark that injects faults: its verdicts, that it repeats what it draws, and a few injections."""

import json
import signal
from random import Random

import pytest

from benchmarks import faults, reliability
from benchmarks.faults import ANSWERED, EQUAL, REFUSED, WARNED, Kind
from benchmarks.forked import Ending
from benchmarks.reliability import KINDS, MEMORY, command, judge, results_of, summarise
from tascnet.errors import ArchiveError
from tascnet.models.archive import load, save
from tascnet.models.chains.small import digits_cnn_chain
from tascnet.models.info import ModelInfo
from tascnet.models.preprocessing import Preprocessing
from tests.reading import read_json


def ending(code, text="one sentence", *warnings, size=1e9):
    return Ending(code=code, text=text, warnings=frozenset(warnings), seconds=1.0, bytes=size)


def kind(promise):
    return Kind("a kind", "digits", "warm", lambda root, draw: "nothing", promise)


@pytest.mark.parametrize(
    ("promise", "ended", "are_equal", "verdict"),
    [
        (EQUAL, ending(0), True, "equal"),
        (EQUAL, ending(0), False, "differs"),
        (EQUAL, ending(0, "a", "usual"), False, "differs"),
        (EQUAL, ending(0, "a", "it is made again"), True, "warned"),
        (EQUAL, ending(0, "a", "it is made again"), False, "changed"),
        (EQUAL, ending(2), True, "refused"),
        (EQUAL, ending(2, ""), True, "no sentence"),
        (EQUAL, ending(1), True, "bug"),
        (EQUAL, ending(2, "your own code failed with KeyError"), True, "bug"),
        (EQUAL, ending(-signal.SIGSEGV), True, "bug"),
        (EQUAL, ending(None), True, "hang"),
        (EQUAL, ending(2, "Traceback (most recent call last):\n  File"), True, "traceback"),
        (EQUAL, ending(2, "no class \x1b[31mred"), True, "escape code"),
        (EQUAL, ending(0, size=1e9 + MEMORY + 1), True, "memory"),
        (REFUSED, ending(0), True, "accepted"),
        (REFUSED, ending(0, "a", "more"), True, "accepted"),
        (REFUSED, ending(2), False, "refused"),
        (WARNED, ending(0), True, "accepted"),
        (WARNED, ending(0, "a", "usual"), True, "answered"),
        (ANSWERED, ending(0), False, "answered"),
        (ANSWERED, ending(0, "a", "more"), False, "warned"),
    ],
)
def test_verdicts(promise, ended, are_equal, verdict):
    assert judge(kind(promise), ended, ending(0, "a", "usual"), are_equal=are_equal) == verdict


def test_every_kind_starts_where_a_run_can_be_and_has_its_own_name():
    assert len({one.name for one in KINDS}) == len(KINDS)
    for one in KINDS:
        assert one.scene in reliability.SCENES
        assert set(one.starts.split()) <= {*reliability.STARTS, "training"}


def test_the_same_seed_damages_a_file_alike(tmp_path):
    text = json.dumps({"a": [1, 2, {"b": 0.5}], "c": "text"})
    for damage in (faults.damaged, faults.damaged_json, faults.damaged_journal):
        results = []
        for seed in (*range(20), *range(20)):
            path = tmp_path / "file.json"
            path.write_text(f"{text}\n", encoding="utf-8")
            results.append((damage(path, Random(seed)), path.read_bytes() if path.exists() else None))
        assert results[:20] == results[20:]
        assert len(set(results)) > 8


def test_steps_of_a_stranger_are_refused_in_one_sentence(tmp_path):
    info = ModelInfo(
        backbone="digits_cnn",
        preprocessing=Preprocessing(size=8, resize=8, mean=(0.5,), std=(0.5,)),
        class_names=(),
        weights="random",
        licence="none",
    )
    folder = tmp_path / "outputs" / "digits" / "digits_cnn" / "run-seed0" / "tune" / "model"
    save(digits_cnn_chain(4), folder, info)
    whole, texts = (folder / "architecture.json").read_text(), set()
    for seed in range(80):
        (folder / "architecture.json").write_text(whole)
        fault = faults.rewired(tmp_path, Random(seed))
        assert fault.options == ("prune.source=outputs/digits/digits_cnn/run-seed0/tune/model",)
        with pytest.raises(ArchiveError, match=r"of the saved model|the network has") as caught:
            load(folder)
        assert "\n" not in str(caught.value)
        texts.add(fault.text.partition(": ")[2])
    assert texts == {text for text, _ in faults.STEPS}


def test_an_option_is_given_once():
    words = command("photos", "tune", ("backbone.size=1", "--config-dir=own"))
    assert [word for word in words if word.startswith("backbone.size")] == ["backbone.size=1"]
    assert "stage=tune" in words
    assert words[-1] == "--config-dir=own"


def test_results_are_figures_without_times_and_digests_of_weights(tmp_path):
    assert results_of(tmp_path) == {}
    stage = tmp_path / "outputs" / "digits" / "digits_cnn" / "run-seed0" / "tune"
    (stage / "model").mkdir(parents=True)
    for seconds in (1, 2):
        (stage / "model" / "model.safetensors").write_bytes(b"weights")
        figures = {"seconds": seconds, "latency_ms": seconds, "models": [{"val_accuracy": 0.5, "seconds": 1}]}
        (stage / "metrics.json").write_text(json.dumps(figures))
        (content,) = results_of(tmp_path).values()
        assert content[0] == {"models": [{"val_accuracy": 0.5}]}
    (stage / "model" / "model.safetensors").write_bytes(b"others")
    assert next(iter(results_of(tmp_path).values()))[1] != content[1]


def test_the_summary_by_hand():
    rows = [
        {"kind": "b", "verdict": "equal"},
        {"kind": "a", "verdict": "hang"},
        {"kind": "b", "verdict": "equal"},
    ]
    assert summarise(rows) == [{"kind": "a", "count": 1, "hang": 1}, {"kind": "b", "count": 2, "equal": 2}]


@pytest.fixture
def few(monkeypatch):
    """Kinds that need no run before, each with an end of its own."""
    names = ("copies across ready splits", "lists of files and labels")
    monkeypatch.setattr(reliability, "KINDS", [one for one in KINDS if one.name in names])
    monkeypatch.setattr(reliability, "KILLED", [("photos", "fresh")])


def test_faults_and_kills_are_injected_and_reported(bench, few, tmp_path, shown):
    assert bench("reliability", "--injections", 2, "--kills", 1) == 0
    rows = read_json(tmp_path / "reliability" / "metrics.json")["rows"]
    assert [row["number"] for row in rows] == ["0", "1", "kill-0"]
    assert rows[-1]["verdict"] == "equal"
    assert {row["verdict"] for row in rows} <= set(reliability.PASSED)
    assert "kill by SIG" in shown.export_text()


def test_what_does_not_pass_is_named_and_ends_with_an_error(bench, few, tmp_path, shown, capsys, monkeypatch):
    rows = iter(["equal", "hang"])
    row = {"kind": "a kind", "fault": "digits warm: a bit", "says": "nothing", "words": []}
    monkeypatch.setattr(reliability.Bench, "row", lambda *_: {**row, "verdict": next(rows)})
    assert bench("reliability", "--injections", 2, "--kills", 0) == 2
    said = capsys.readouterr().err
    assert "1: hang, a kind: digits warm: a bit: nothing" in said
    assert "1 of 2 failed: --only <number> repeats one of them" in said


def test_an_unknown_kind_is_refused(bench, capsys):
    assert bench("reliability", "--kind", "a pixel") == 2
    assert "there is no kind 'a pixel'" in capsys.readouterr().err
