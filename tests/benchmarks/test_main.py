import importlib
from pathlib import Path

import pytest

from benchmarks import common
from benchmarks.__main__ import BENCHMARKS, EQUIVALENCE, main
from benchmarks.common import Setup
from tascnet.options import Autotune, HistoryPrune
from tascnet.run.files import write_text

ROOT = Path(__file__).resolve().parents[2]


def test_without_a_name_all_benchmarks_are_listed_with_a_sentence_each(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in (*BENCHMARKS, EQUIVALENCE):
        (line,) = [line for line in lines if line.startswith(f"{name} ")]
        assert line.endswith(".")
        assert len(line.split()) > 5


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_lists_its_options_and_can_be_run(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert "--out" in capsys.readouterr().out
    assert callable(importlib.import_module(f"benchmarks.{name}").run)


def test_every_benchmark_stands_in_the_readme():
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in (*BENCHMARKS, EQUIVALENCE))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["purning"], "there is no benchmark 'purning': did you mean pruning?"),
        (["pareto", "--trails", "3"], "unrecognized arguments: --trails 3"),
        (["pareto", "--trials", "three"], "argument --trials: 'three' is not a whole number"),
        (["pruning", "--epochs", "1000000000"], "argument --epochs: 1000000000 is above 100000"),
        (["methods", "--seed", "-1"], "argument --seed: -1 is below 0"),
        (["methods", "--methods", "foo"], "there is no method 'foo': take some of tascnet, autotune"),
        (["pareto", "--seeds", "0"], "argument --seeds: 0 is below 1"),
        (["methods", "--data", "digit"], "there is no preset 'digit' of dataset: did you mean 'digits'?"),
        (["methods", "--set", "tun.patience=2"], "did you mean tune?"),
        (["methods", "--set", "prune.epochs=2"], "sets no option that this benchmark reads"),
        (["methods", "--set", "tune.patients=2"], "there is no option patients: did you mean patience?"),
        (["methods", "--set", "tune.patience=no"], "patience takes a whole number"),
        (["methods", "--data", "image_folder"], "the folder of the images is missing"),
        (["methods", "--data", "image_folder", "--root", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments, says, bench, tmp_path, capsys):
    assert bench(*arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert says in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_a_bug_of_a_benchmark_shows_its_traceback(monkeypatch, capsys):
    names = {"__name__": "benchmarks.methods"}
    file = ROOT / "benchmarks" / "methods.py"
    exec(compile("def run(args):\n    open('missing')\n", str(file), "exec"), names)
    monkeypatch.setattr(importlib.import_module("benchmarks.methods"), "run", names["run"])
    assert main(["methods"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "FileNotFoundError" in said
    assert "your own code" not in said


def setup(monkeypatch, *arguments):
    """The setup that a benchmark with all sections reads from its command line."""
    found = []
    module = importlib.import_module("benchmarks.methods")
    sections = ("trainer", "tune", "prune", "measure")
    monkeypatch.setattr(
        module, "add_arguments", lambda parser: common.add_arguments(parser, sections=sections)
    )
    monkeypatch.setattr(module, "run", lambda args: found.append(Setup.of(args)))
    assert main(["methods", *map(str, arguments)]) == 0
    return found[0]


def test_what_is_given_holds_for_every_preset(monkeypatch):
    given = ["tune.patience=4", "trainer.trial.epochs=3", "trainer.head.lr=1e-2", "prune.distill=0.25"]
    made = setup(monkeypatch, "--set", *given)
    autotune = made.options("tune", "autotune")
    assert isinstance(autotune, Autotune)
    assert (autotune.patience, autotune.trials_per_depth) == (4, 20)
    trainer = made.trainer("autotune")
    assert (trainer.trial.epochs, trainer.trial.optimizer, trainer.head.lr) == (3, "adagrad", 0.01)
    # The recipe of the digits for what neither the preset nor the command line says.
    assert (trainer.batch_size, made.trainer().head.epochs) == (20, 40)
    history = made.options("prune", "tascnet", round_to=1)
    assert isinstance(history, HistoryPrune)
    assert (history.distill, history.round_to) == (0.25, 1)


def test_what_suits_the_network_holds_where_the_preset_says_nothing(monkeypatch):
    made = setup(monkeypatch)
    assert made.backbone.name == "digits_cnn"
    assert made.options("tune", "tascnet").neurons == (32, 64)
    assert made.options("prune", "reconstruction").epochs == 21
    # Both state them: the preset wins, and the options of another class are left out.
    assert made.options("tune", "autotune").neurons == (64, 128, 256, 512, 1024)
    assert setup(monkeypatch, "--set", "prune.epochs=4").options("prune", "reconstruction").epochs == 4


def test_data_and_network_are_given_by_flags(monkeypatch, images, tmp_path):
    flags = ["--data", "image_folder", "--root", images, "--train", 6, "--val", "2", "--size", 24]
    made = setup(monkeypatch, *flags, "--backbone", "resnet20", "--weights", "random", "--cache", tmp_path)
    assert (made.data.root, made.data.train, made.data.val) == (str(images), 6, 2)
    assert (made.backbone.name, made.backbone.size, made.backbone.weights) == ("resnet20", 24, "random")
    other = made.with_backbone("mobilenet_v2").backbone
    assert (other.name, other.size, other.weights) == ("mobilenet_v2", 24, "random")
    assert made.with_backbone("resnet20") is made
    assert made.cache == tmp_path


def test_an_interrupted_journal_resumes_with_whole_rows(tmp_path):
    keys = [{"seed": seed} for seed in range(3)]
    done = common.collect(tmp_path, keys[:2], lambda key: {"value": key["seed"] + 1})
    path = tmp_path / common.JOURNAL
    write_text(path, path.read_text(encoding="utf-8") + '{"seed": 2, "val')
    asked = []
    rows = common.collect(tmp_path, keys, lambda key: asked.append(key) or {"value": 7})
    assert rows == [*done, {"seed": 2, "value": 7}]
    assert asked == [{"seed": 2}]
