"""Stage export, and stage full with an export at its end, in process."""

import shutil

import pytest

import tascnet
import tascnet_pipelines.export
import tascnet_pipelines.full
from tascnet.errors import ExportError
from tascnet.measure import measured_again
from tascnet.run.records import ExportMetrics, ModelMetrics, read_record
from tascnet.train.export import JudgedFile
from tests.pipelines.commands import TINY, command, contents
from tests.reading import read_json

OPTIONS = [option for option in TINY if option != "export=none"]


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run, and the options that find it."""
    folder = tmp_path.joinpath(*finished.parts[-3:])
    shutil.copytree(finished, folder)
    return folder, (*OPTIONS, f"outputs={tmp_path}", "name=run")


def test_the_last_model_of_the_run_is_exported(run, cache, capsys):
    folder, options = run
    given = (*options, f"cache_dir={cache}", "stage=export", "export.formats=[pt2]")
    assert command(*given) == 0
    metrics = read_record(folder / "prune" / "export" / "metrics.json", ExportMetrics)
    (file,) = metrics.files
    assert (file.path, file.equal_classes) == ("model.pt2", 1.0)
    after = read_json(folder / "prune" / "metrics.json")["models"]["after"]
    assert file.val_accuracy == after["val_accuracy"]
    assert "model.pt2" in capsys.readouterr().out
    assert "model.pt2" in (folder / "prune" / "model" / "README.md").read_text()
    # Nothing is written twice.
    before = contents(folder / "prune" / "export")
    assert command(*given) == 0
    assert contents(folder / "prune" / "export") == before
    assert "made before" in capsys.readouterr().err
    # Without a pruned network it is the tuned one.
    shutil.rmtree(folder / "prune")
    assert command(*given) == 0
    assert (folder / "tune" / "export" / "model.pt2").is_file()


def test_a_named_model_is_exported_beside_it(run, cache, tmp_path):
    folder, options = run
    shutil.copytree(folder / "tune" / "model", tmp_path / "mine" / "small")
    given = (*options, f"cache_dir={cache}", "stage=export", "export.formats=[pt2]")
    assert command(*given, f"export.model={tmp_path / 'mine' / 'small'}") == 0
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["small", "small-export"]
    assert not (folder / "prune" / "export").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["export.formats=[onnx]"], "export.formats has onnx, which needs"),
        ([], "export.formats is null, which means onnx, which needs"),
        (["export=none"], "stage=export has nothing to do with export.formats=[]"),
        (["export.formats=[pt3]"], "pt3"),
        (["export.formats=[pt2]", "export.model=nowhere"], "export.model=nowhere does not exist"),
        (["export.formats=[pt2]"], "stage=export needs a saved model, but there is none in"),
        (["export.int8_tolerance=2"], "export.int8_tolerance"),
        (["stage=full", "export.model=."], "stage=full exports what it has pruned"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, capsys, options, sentence):
    assert command("stage=export", f"outputs={tmp_path}", *options) == 2
    message = capsys.readouterr().err
    assert sentence in " ".join(message.split())
    assert "Traceback" not in message
    assert list(tmp_path.iterdir()) == []


def test_a_refused_export_does_not_cost_the_report(run, cache, capsys, monkeypatch):
    folder, options = run
    (folder / "report.html").unlink()

    def refuse(*_):
        raise ExportError("an output differs")

    monkeypatch.setattr(tascnet_pipelines.export, "write", refuse)
    assert command(*options, f"cache_dir={cache}", "stage=full", "export.formats=[pt2]") == 2
    assert "an output differs" in capsys.readouterr().err
    assert (folder / "report.html").is_file()


def test_a_model_of_other_classes_is_refused(run, cache, capsys, tmp_path):
    _folder, options = run
    given = (*options, f"cache_dir={cache}", "stage=export", "export.formats=[pt2]")
    model = _folder / "prune" / "model"
    assert command(*given, f"export.model={model}", "dataset.classes=[5,6]") == 2
    assert "are not those of digits, 5 and 6" in " ".join(capsys.readouterr().err.split())
    assert not (_folder / "prune" / "export").exists()


@pytest.mark.deployed
def test_the_full_stage_ends_with_an_export_whose_int8_file_is_a_row(run, cache, capsys, monkeypatch):
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    folder, options = run
    given = (*options, f"cache_dir={cache}", "export.preprocess=outside", "export.int8_tolerance=0.2")
    in_float = []

    def noting(*networks, float_layers, **how):
        in_float.append(float_layers)
        return measured_again(*networks, float_layers=float_layers, **how)

    monkeypatch.setattr(tascnet_pipelines.full, "measured_again", noting)
    assert command(*given) == 0
    printed = capsys.readouterr().out
    export = folder / "prune" / "export"
    assert sorted(path.name for path in export.iterdir()) == [
        "metrics.json",
        "model.onnx",
        "model_int8.json",
        "model_int8.onnx",
    ]
    assert "pruned int8" in printed
    # Its time is that of the file.
    metrics = read_record(export / "metrics.json", ExportMetrics)
    assert in_float == [{"pruned": metrics.files[1].float_layers}]
    judged: ModelMetrics = read_record(export / "model_int8.json", JudgedFile).model
    own = tascnet.evaluate(export / "model_int8.onnx", tascnet.digits(), split="test", cache=cache)
    assert judged.test_accuracy == own.accuracy
    assert (folder / "report.html").is_file()
    # The card keeps these figures when the stage runs alone.
    carded = []
    monkeypatch.setattr(tascnet_pipelines.export, "update_card", lambda *_, int8: carded.append(int8))
    assert command(*given, "stage=export") == 0
    assert carded == [judged]
