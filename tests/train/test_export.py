"""Exported networks, judged on the data that they were trained on."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tascnet
from tascnet.errors import ConfigError, ExportError
from tascnet.models.info import with_info
from tascnet.run.records import ExportMetrics, read_record, write_record
from tascnet.train import export as exporting
from tascnet.train.export import FILES, export_all, formats_of, judge_file

DATA = tascnet.digits()


@pytest.fixture(scope="module")
def trained(cache: Path):
    trainer = tascnet.preset("trainer", "digits", pretrain={"epochs": 2})
    network = tascnet.backbone("digits_cnn", weights="random")
    return tascnet.pretrain(network, DATA, trainer=trainer, cache=cache)


@pytest.fixture(scope="module")
def exported(trained, cache: Path, tmp_path_factory):
    """The folder of an export in both usual formats; not to be changed."""
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("run") / "export"
    options = tascnet.Export(formats=("onnx", "onnx_int8"))
    return folder, export_all(trained.network, folder, DATA, options, cache=cache)


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.mark.deployed
def test_the_record_has_the_figures_of_each_file(trained, exported, cache: Path) -> None:
    folder, metrics = exported
    assert read_record(folder / "metrics.json", ExportMetrics) == metrics
    assert sorted(times(folder)) == ["metrics.json", "model.onnx", "model_int8.onnx"]
    network = tascnet.evaluate(trained.network, DATA, split="val", cache=cache)
    for file in metrics.files:
        path = folder / file.path
        assert file.size_bytes == path.stat().st_size
        own = tascnet.evaluate(path, DATA, split="val", cache=cache)
        assert (file.val_accuracy, file.val_balanced_accuracy) == (own.accuracy, own.balanced_accuracy)
        assert file.float_val_accuracy == network.accuracy
        assert (file.samples, file.preprocess) == (network.samples, "inside")
    whole, small = metrics.files
    assert (whole.equal_classes, whole.val_accuracy) == (1.0, network.accuracy)
    assert whole.largest_difference is not None
    assert whole.largest_difference < 1e-3
    assert small.largest_difference is None
    assert small.calibration is not None
    assert network.accuracy - small.val_accuracy <= 0.01
    assert small.size_bytes < 0.6 * whole.size_bytes


@pytest.mark.deployed
def test_what_fits_is_kept_and_what_does_not_is_made_again(
    trained, exported, cache: Path, tmp_path, logged
) -> None:
    folder, metrics = exported
    before = times(folder)
    options = tascnet.Export(formats=("onnx", "onnx_int8"))
    again = export_all(trained.network, folder, DATA, options, cache=cache)
    assert again.files == metrics.files
    assert {name: time for name, time in times(folder).items() if name != "metrics.json"} == {
        name: time for name, time in before.items() if name != "metrics.json"
    }
    copy = tmp_path / "export"
    # Times of files are copied too.
    shutil.copytree(folder, copy)
    (copy / "model.onnx").write_bytes(b"half")
    repaired = export_all(trained.network, copy, DATA, options, cache=cache)
    assert [file.digest for file in repaired.files] == [file.digest for file in metrics.files]
    assert (copy / "model.onnx").read_bytes() == (folder / "model.onnx").read_bytes()
    assert times(copy)["model_int8.onnx"] == before["model_int8.onnx"]
    # Another format leaves them, and so does what is of the user.
    (copy / "model.json").write_text("mine")
    outside = tascnet.Export(formats=("pt2",), preprocess="outside", int8_tolerance=0.5)
    found = export_all(trained.network, copy, DATA, outside, cache=cache)
    assert [file.format for file in found.files] == ["onnx", "onnx_int8", "pt2"]
    assert times(copy)["model_int8.onnx"] == before["model_int8.onnx"]
    assert (copy / "model.json").read_text() == "mine"
    (copy / "model.json").unlink()
    # Of a list that cannot be read none stay: they may be of any network.
    (copy / "metrics.json").write_text("{}")
    found = export_all(trained.network, copy, DATA, outside, cache=cache)
    assert sorted(times(copy)) == ["metrics.json", "model.pt2"]
    # Files of another network do not stay beside its own.
    info = trained.network.info
    other = tascnet.backbone("digits_cnn", weights="random", num_classes=len(info.class_names))
    other = with_info(other, info)
    found = export_all(other, copy, DATA, tascnet.Export(formats=("pt2",)), cache=cache)
    assert [file.format for file in found.files] == ["pt2"]
    assert sorted(times(copy)) == ["metrics.json", "model.pt2"]
    assert f"WARNING: {copy} holds files of another network, which are replaced" in logged


@pytest.mark.deployed
def test_a_refused_format_leaves_no_file_and_the_others_their_own(
    trained, exported, cache: Path, tmp_path, monkeypatch, logged
) -> None:
    folder = tmp_path / "export"
    shutil.copytree(exported[0], folder)
    (folder / "model_int8.onnx").unlink()

    def refuse(*_args, **_options):
        raise ExportError("int8 lowers accuracy")

    monkeypatch.setattr(exporting, "quantise", refuse)
    metrics = export_all(trained.network, folder, DATA, cache=cache)
    assert [file.format for file in metrics.files] == ["onnx"]
    assert sorted(times(folder)) == ["metrics.json", "model.onnx"]
    assert any("onnx_int8: no file was written: int8 lowers accuracy" in line for line in logged)
    # Where it was asked for it is an error, and the other file stays.
    named = tascnet.Export(formats=("onnx", "onnx_int8"))
    with pytest.raises(ExportError, match="int8 lowers accuracy"):
        export_all(trained.network, folder, DATA, named, cache=cache)
    assert sorted(times(folder)) == ["metrics.json", "model.onnx"]
    # No record names files that are gone.
    named = tascnet.Export(formats=("onnx_int8",))
    with pytest.raises(ExportError, match="int8 lowers accuracy"):
        export_all(trained.network, folder, DATA, named, cache=cache, fresh=True)
    assert times(folder) == {}


@pytest.mark.deployed
def test_a_file_is_judged_once_on_the_test_samples(trained, exported, cache: Path, monkeypatch) -> None:
    folder, _metrics = exported
    path, network = folder / "model_int8.onnx", trained.metrics.models["after"]
    judged = judge_file(path, DATA, network, cache=cache)
    try:
        own = tascnet.evaluate(path, DATA, split="test", cache=cache)
        assert (judged.test_accuracy, judged.confusion) == (own.accuracy, own.confusion)
        assert (judged.params, judged.flops) == (network.params, network.flops)
        assert judged.size_bytes == path.stat().st_size
        # Eager PyTorch does not run it.
        assert {one.runtime for one in judged.latencies} <= {"onnxruntime_int8"}
        monkeypatch.setattr(exporting, "open_model", lambda _path: pytest.fail("read again"))
        assert judge_file(path, DATA, network, cache=cache) == judged
    finally:
        path.with_suffix(".json").unlink()


@pytest.mark.deployed
def test_an_ending_may_be_in_capitals(trained, cache: Path, tmp_path) -> None:
    pytest.importorskip("onnxscript")
    file = tascnet.export(trained.network, tmp_path / "net.ONNX", DATA, cache=cache)
    assert file.preprocess == "inside"
    assert file.val_accuracy == trained.metrics.models["after"].val_accuracy


@pytest.mark.parametrize("kind", [torch.float16, torch.float64])
def test_another_precision_predicts_and_is_not_exported(kind, trained, tmp_path) -> None:
    other = copy.deepcopy(trained.network).to(kind)
    tascnet.save(other, tmp_path / "saved")
    picture = np.zeros((8, 8), dtype=np.uint8)
    (found,), (expected,) = (
        tascnet.predict(model, [picture]) for model in (tmp_path / "saved", trained.network)
    )
    assert found.class_name == expected.class_name
    with pytest.raises(ConfigError, match=r"expected float32: call `\.float\(\)` on it"):
        tascnet.export(other, tmp_path / "net.pt2")


def test_without_data_a_file_is_compared_on_made_up_samples(trained, tmp_path) -> None:
    file = tascnet.export(trained.network, tmp_path / "net.pt2")
    assert (file.format, file.path, file.preprocess) == ("pt2", "net.pt2", "outside")
    assert file.samples > 0
    assert file.equal_classes == 1.0
    assert file.val_accuracy is None
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt2"]


def test_samples_of_another_class_are_named_and_few(trained, cache: Path, logged) -> None:
    samples = exporting._open(trained.network, DATA, 0, cache, None)
    exporter = exporting._Exporter(
        network=trained.network,
        data=DATA,
        samples=samples,
        options=tascnet.Export(),
        metric="accuracy",
        seed=0,
    )
    wanted = exporter.outputs
    found = wanted.clone()
    # The two best outputs of the first sample change places.
    found[0, wanted[0].topk(2).indices] = wanted[0].topk(2).values.flip(0)
    exporter._check_classes(wanted, found, "the network")
    best, second = (samples.class_names[index] for index in wanted[0].topk(2).indices)
    assert any(f": {second}, and {best} by the network" in line for line in logged)
    assert len(wanted) > 2
    with pytest.raises(ExportError, match="images of") as caught:
        exporter._check_classes(wanted, -wanted, "the network")
    assert caught.value.hint == "take `preprocess=outside`"


@pytest.mark.deployed
def test_int8_keeps_its_tolerance_with_the_preprocessing_inside(
    trained, exported, cache: Path, tmp_path, monkeypatch
) -> None:
    """The pixels that a file prepares itself may be another level of int8."""
    own = exporting._Exporter._outputs_of

    def outputs_of(exporter, path):
        found = own(exporter, path)
        is_inside = exporting.open_file(path).metadata.preprocess == "inside"
        # Every class is another one.
        return found.roll(1, dims=1) if is_inside else found

    monkeypatch.setattr(exporting._Exporter, "_outputs_of", outputs_of)
    monkeypatch.setattr(exporting, "_UNEQUAL_INT8", 1.0)
    with pytest.raises(ExportError, match=r"inside lowers validation accuracy by .* `int8_tolerance=0.01`"):
        tascnet.export(trained.network, tmp_path / "net_int8.onnx", DATA, cache=cache)
    assert list(tmp_path.iterdir()) == []


def test_weights_beside_a_file_are_those_of_openvino_alone(trained, tmp_path) -> None:
    """`model.bin` belongs to `model.xml`, and to no other file of that name."""
    options = tascnet.Export(formats=("pt2",))
    made = export_all(trained.network, tmp_path, options=options)
    (tmp_path / "model.xml").write_bytes(b"graph")
    weights = tmp_path / "model.bin"
    weights.write_bytes(b"weights")
    parts = exporting._parts_of(tmp_path / "model.xml")
    record = replace(made.files[0], format="openvino", path="model.xml", size_bytes=12)
    record = replace(record, digest=exporting._digest(parts))
    write_record(tmp_path / "metrics.json", replace(made, files=(*made.files, record)))
    before = times(tmp_path)
    assert export_all(trained.network, tmp_path, options=options).files == (*made.files, record)
    assert times(tmp_path).items() - before.items() <= {("metrics.json", times(tmp_path)["metrics.json"])}
    (tmp_path / "model.pt2").unlink()
    export_all(trained.network, tmp_path, options=options)
    assert weights.read_bytes() == b"weights"
    # Weights of the right size alone are not enough.
    weights.write_bytes(b"another")
    found = export_all(trained.network, tmp_path, options=options)
    assert [file.format for file in found.files] == ["pt2"]
    assert sorted(times(tmp_path)) == ["metrics.json", "model.pt2"]


def test_names_of_classes_that_no_file_takes_are_refused(trained, tmp_path) -> None:
    info = replace(trained.network.info, class_names=("5", "6", "7", "8", "\udce9"))
    network = with_info(copy.deepcopy(trained.network), info)
    with pytest.raises(ExportError, match="is not valid UTF-8"):
        tascnet.export(network, tmp_path / "net.pt2")
    unnamed = with_info(network, replace(info, class_names=()))
    with pytest.raises(ExportError, match="does not name its classes"):
        tascnet.export(unnamed, tmp_path / "net.pt2")
    odd = with_info(network, replace(info, class_names=("5\n", "'\"é", "\x1b[31m", "8,", "")))
    tascnet.export(odd, tmp_path / "net.pt2")
    assert exporting.open_file(tmp_path / "net.pt2").metadata.class_names == odd.info.class_names


def test_another_split_is_warned_of(trained, cache: Path, tmp_path, logged) -> None:
    tascnet.export(trained.network, tmp_path / "net.pt2", DATA, seed=1, cache=cache)
    assert sum("another split" in line for line in logged) == 1


def test_the_usual_formats_are_those_that_are_installed(monkeypatch) -> None:
    assert formats_of(tascnet.Export()) == ()
    monkeypatch.setattr(exporting.installed, "installed", lambda: frozenset(FILES))
    assert formats_of(tascnet.Export()) == ("onnx", "onnx_int8")
    assert formats_of(tascnet.Export(), has_data=False) == ("onnx",)
    assert formats_of(tascnet.Export(formats=())) == ()
    assert formats_of(tascnet.Export(formats=("pt2",))) == ("pt2",)


def test_mistakes_are_found_before_any_work(trained, cache: Path, tmp_path, monkeypatch) -> None:
    network = trained.network
    with pytest.raises(ConfigError, match="ends in no format"):
        tascnet.export(network, tmp_path / "net.bin", DATA)
    with pytest.raises(ConfigError, match="does not end as"):
        tascnet.export(network, tmp_path / "net.pt2", DATA, format="onnx")
    with pytest.raises(ConfigError, match="needs onnx") as caught:
        tascnet.export(network, tmp_path / "net.onnx", DATA)
    assert caught.value.hint == "pip install 'tascnet[export]'"
    with pytest.raises(ConfigError, match="preprocess"):
        tascnet.export(network, tmp_path / "net.pt2", DATA, preprocess="nowhere")
    with pytest.raises(ConfigError, match="metric"):
        tascnet.export(network, tmp_path / "net.pt2", DATA, metric="f1")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        tascnet.export(network, tmp_path / "file" / "net.pt2", DATA)
    (tmp_path / "net.pt2").mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        tascnet.export(network, tmp_path / "net.pt2", DATA)
    (tmp_path / "net.pt2").rmdir()
    digits = replace(DATA, classes=("5", "6"))
    with pytest.raises(ConfigError, match="are not those of digits, 5 and 6"):
        tascnet.export(network, tmp_path / "net.pt2", digits, cache=cache)
    monkeypatch.setattr(exporting.installed, "installed", lambda: frozenset(FILES))
    with pytest.raises(ConfigError, match="needs `data`"):
        tascnet.export(network, tmp_path / "net_int8.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_record_is_read_back(trained, tmp_path) -> None:
    metrics = export_all(trained.network, tmp_path, options=tascnet.Export(formats=("pt2",)))
    assert read_record(tmp_path / "metrics.json", ExportMetrics) == metrics
    assert json.loads((tmp_path / "metrics.json").read_text())["files"][0]["format"] == "pt2"
    program = torch.export.load(tmp_path / "model.pt2").module()
    sample = torch.randn(trained.network.preprocessing.example_shape)
    trained.network.eval()
    assert torch.allclose(program(sample), trained.network(sample), atol=1e-5)
