"""Exported files: the network's outputs for any batch, metadata, and nothing left where they differ."""

import ast
import json
import resource
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tascnet import exporting
from tascnet.errors import ConfigError, ExportError
from tascnet.exporting import formats
from tascnet.exporting.checks import check_float, check_outputs, made_up_samples
from tascnet.exporting.export import export_file, format_of
from tascnet.exporting.formats import FLOAT_FORMATS
from tascnet.exporting.metadata import Metadata
from tascnet.exporting.runtimes import open_file
from tests.exporting.networks import FAMILIES, convolutional, inputs, textual

pytestmark = pytest.mark.deployed

# By format, the packages without which its tests are skipped.
PACKAGES = {
    **dict.fromkeys(("onnx", "onnx_fp16"), ("onnx", "onnxruntime", "onnxscript")),
    "pt2": (),
    "openvino": ("openvino", "onnx", "onnxscript"),
    "executorch": ("executorch",),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Exports a family in a format, once for the module: network, path and record."""
    made = {}

    def export(family, kind):
        for package in PACKAGES[kind]:
            pytest.importorskip(package)
        if (family, kind) not in made:
            network = FAMILIES[family]()
            path = tmp_path_factory.mktemp(kind) / f"model{FLOAT_FORMATS[kind].ending}"
            record = export_file(
                network, path, kind, preprocess="outside", samples=inputs(network, 5, seed=2)
            )
            made[family, kind] = network, path, record
        return made[family, kind]

    return export


CASES = [
    *((family, kind) for kind in ("onnx", "pt2") for family in FAMILIES),
    *(("convolutional", kind) for kind in ("onnx_fp16", "openvino", "executorch")),
]


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_outputs_are_those_of_the_network_for_any_batch(exported, family, kind):
    network, path, record = exported(family, kind)
    run = open_file(path, threads=1)
    wanted = network(inputs(network, 5)).detach()
    spread = (wanted.max() - wanted.min()).item()
    tolerance = 5e-3 if kind == "onnx_fp16" else 1e-5
    for batch in (1, 2, 5):
        found = run(inputs(network, 5)[:batch])
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wanted[:batch], rtol=0, atol=tolerance * spread)
    assert record.format == kind
    assert record.path == path.name
    assert record.size_bytes == sum(file.stat().st_size for file in path.parent.iterdir())
    assert (record.samples, record.equal_classes) == (5, 1.0)
    assert record.largest_difference <= tolerance * spread


@pytest.mark.parametrize("kind", ["onnx", "onnx_fp16", "pt2", "openvino", "executorch"])
def test_a_file_names_its_classes_and_preprocessing(exported, kind):
    network, path, _ = exported("convolutional", kind)
    found = open_file(path).metadata
    assert found == Metadata.of(network.info, format=kind, preprocess="outside")
    assert found.class_names == ("cat", "dog", "café")
    assert (found.backbone, found.licence, found.held_out) == ("toy", "Apache-2.0", "0a1b")


def test_any_reader_of_onnx_finds_the_metadata_as_json(exported):
    _, path, _ = exported("textual", "onnx")
    onnx = pytest.importorskip("onnx")
    model = onnx.load(path)
    texts = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert texts["class_names"] == ["cat", "dog", "café"]
    assert texts["preprocessing"]["vocabulary"] == ["[PAD]", "[UNK]", "a", "good", "bad", "film"]
    assert "[UNK]" in texts["tokeniser"]
    assert texts["preprocess"] == "outside"
    (given,), (output,) = model.graph.input, model.graph.output
    assert (given.name, output.name) == ("tokens", "logits")
    sizes = [
        [dim.dim_param or dim.dim_value for dim in v.type.tensor_type.shape.dim] for v in (given, output)
    ]
    assert sizes == [["n", 6], ["n", 3]]


def test_an_onnx_file_holds_no_batch_norm_and_no_notes_of_the_exporter(exported):
    _, path, _ = exported("convolutional", "onnx")
    model = pytest.importorskip("onnx").load(path)
    kinds = [node.op_type for node in model.graph.node]
    assert "BatchNormalization" not in kinds
    assert kinds.count("Conv") == 4
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert str(Path.cwd()).encode() not in path.read_bytes()


def test_float16_halves_the_weights_alone(exported):
    _, path, _ = exported("convolutional", "onnx_fp16")
    onnx = pytest.importorskip("onnx")
    model = onnx.load(path)
    weights = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 4}
    assert weights == {onnx.TensorProto.FLOAT16}
    ends = [value.type.tensor_type.elem_type for value in (model.graph.input[0], model.graph.output[0])]
    assert ends == [onnx.TensorProto.FLOAT] * 2


def test_pixels_inside_need_no_preprocessing(tmp_path):
    for package in PACKAGES["onnx"]:
        pytest.importorskip(package)
    network = convolutional()
    record = export_file(network, tmp_path / "model.onnx", "onnx")
    assert (record.preprocess, record.samples, record.equal_classes) == ("inside", 8, 1.0)
    run = open_file(tmp_path / "model.onnx")
    image = made_up_samples(network, 1, seed=5)[0]
    wanted = network(network.preprocessing(image)[None]).detach()
    torch.testing.assert_close(run(image[None]), wanted, rtol=1e-5, atol=1e-5)
    with pytest.raises(ExportError, match="cannot run a batch of 1 x 3 x 8 x 8, float32"):
        run(inputs(network, 1))


def wrong(kind):
    """The format, but its file holds the network with other weights in the classifier."""

    def write(network, path, preprocess):
        changed = convolutional()
        with torch.no_grad():
            changed.classifier.weight.neg_()
        return kind.write(changed, path, preprocess)

    return replace(kind, write=write)


def test_a_file_that_differs_is_refused_and_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setitem(formats.FLOAT_FORMATS, "pt2", wrong(FLOAT_FORMATS["pt2"]))
    with pytest.raises(ExportError, match="an output of the exported file differs by"):
        export_file(convolutional(), tmp_path / "new" / "model.pt2", "pt2")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "new" / "model.pt2").write_text("the one before")
    with pytest.raises(ExportError):
        export_file(convolutional(), tmp_path / "new" / "model.pt2", "pt2")
    assert [file.read_text() for file in (tmp_path / "new").iterdir()] == ["the one before"]


class Odd(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))


def test_a_full_disk_does_not_end_the_process(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            export_file(convolutional(), tmp_path / "model.pt2", "pt2")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_cannot_be_traced_is_refused_in_one_sentence(tmp_path):
    network = convolutional()
    network.pool = Odd()
    with pytest.raises(ExportError, match="cannot trace the network") as caught:
        export_file(network, tmp_path / "model.pt2", "pt2")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_exporting_is_silent_and_changes_nothing(tmp_path, capfd):
    network = convolutional().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    export_file(network, tmp_path / "model.pt2", "pt2")
    assert capfd.readouterr() == ("", "")
    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_differences_are_judged_by_the_spread_of_outputs():
    wanted = torch.tensor([[0.0, 10.0], [6.0, 2.0]])
    # The spread is 10: at most 1e-2.
    compared = check_outputs(wanted, wanted + 0.009, 1e-3)
    assert compared.spread == 10
    assert compared.largest_difference == pytest.approx(0.009, rel=1e-3)
    assert compared.equal_classes == 1
    for wrong in (wanted + 0.011, wanted.where(wanted != 2, torch.nan)):
        with pytest.raises(ExportError, match="differs by"):
            check_outputs(wanted, wrong, 1e-3)


def test_classes_must_be_equal_unless_the_network_has_no_clear_one():
    # The spread is 10, a clear class is one by more than a tenth of 1e-2.
    for margin, is_clear in ((0.002, True), (0.0009, False)):
        wanted = torch.tensor([[0.0, 10.0], [5.0 + margin, 5.0]])
        found = wanted.clone()
        found[1, 1] += 0.003
        if is_clear:
            with pytest.raises(ExportError, match="gives 1 sample of 2 another class"):
                check_outputs(wanted, found, 1e-3)
        else:
            assert check_outputs(wanted, found, 1e-3).equal_classes == 0.5


def test_other_numbers_of_outputs_are_refused():
    network = convolutional()
    with pytest.raises(ExportError, match=r"gives \(4, 2\), expected \(4, 3\)"):
        check_float(network, lambda batch: torch.zeros(len(batch), 2), inputs(network, 4), tolerance=1.0)


def test_without_data_texts_and_images_are_made_up():
    words = {word for text in made_up_samples(textual()) for word in text.split()}
    assert words <= {"[PAD]", "[UNK]", "a", "good", "bad", "film"}
    assert len({image.shape for image in made_up_samples(convolutional())}) == 4


def test_the_format_follows_from_the_ending():
    for path, kind, expected in (
        ("a/model.ONNX", None, "onnx"),
        ("model.onnx", "onnx_fp16", "onnx_fp16"),
        ("A_INT8.ONNX", None, "onnx_int8"),
        ("a_fp16.onnx", None, "onnx_fp16"),
        ("a_int8.onnx", "onnx", "onnx"),
        ("a.pt2", None, "pt2"),
        ("model.xml", None, "openvino"),
        ("a.pte", None, "executorch"),
    ):
        assert format_of(path, kind) == expected
    for path, kind, message in (
        ("model.tflite", None, "ends in no format"),
        ("model.pt2", "onnx", "`format=onnx`"),
        ("model.onnx", "onnx8", "`format=onnx8` is unknown"),
    ):
        with pytest.raises(ConfigError, match=message):
            format_of(path, kind)


def test_a_missing_package_is_named_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr("tascnet.exporting.installed.installed", lambda: frozenset({"pt2"}))
    with pytest.raises(ConfigError, match="`format` has onnx, which needs onnx, onnxscript and onnxruntime"):
        export_file(convolutional(), tmp_path / "new" / "model.onnx", "onnx")
    assert not (tmp_path / "new").exists()


def test_inputs_are_no_samples_of_a_file_that_takes_pixels(tmp_path):
    pytest.importorskip("onnxruntime")
    with pytest.raises(ConfigError, match="`samples` are inputs of the network"):
        export_file(convolutional(), tmp_path / "model.onnx", "onnx", samples=inputs(convolutional(), 1))


def test_optional_packages_are_imported_in_functions():
    for module in Path(exporting.__file__).parent.glob("*.py"):
        tree = ast.parse(module.read_text())
        direct = {
            (part.module or "") if isinstance(part, ast.ImportFrom) else part.names[0].name
            for part in tree.body
            if isinstance(part, ast.Import | ast.ImportFrom)
        }
        assert not {name.split(".")[0] for name in direct} & {
            name for names in PACKAGES.values() for name in names
        }
