"""Files from strangers, and networks in each runtime."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tascnet.errors import ConfigError, ExportError
from tascnet.exporting import onnx_file
from tascnet.exporting.metadata import Metadata
from tascnet.exporting.onnx_file import onnx_model, read_metadata, write_model
from tascnet.exporting.runtimes import open_file, runnable, structure_digest
from tests.exporting.networks import TEXTS, convolutional, info, inputs, textual

pytestmark = pytest.mark.deployed

METADATA = Metadata.of(info(), format="onnx", preprocess="outside")
# Larger weights than onnx keeps inside a message that has external data.
WEIGHTS = torch.linspace(-1, 1, 3 * 192).reshape(3, 192)


def handmade(shape=("n", 3, 8, 8), classes=3, texts=None, name="image", kind=1):
    """`logits = flatten(image) @ WEIGHTS.T` as an ONNX model."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper = onnx.helper
    weights = onnx.numpy_helper.from_array(WEIGHTS[:classes].numpy(), "weight")
    nodes = [
        helper.make_node("Cast", [name], ["float"], to=1),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight"], ["logits"], transB=1),
    ]
    ends = [
        [helper.make_tensor_value_info(name, kind, shape)],
        [helper.make_tensor_value_info("logits", 1, ["n", classes])],
    ]
    graph = helper.make_graph(nodes, "handmade", *ends, [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, METADATA.encode() if texts is None else texts)
    return model


@pytest.fixture
def path(tmp_path):
    (tmp_path / "model").mkdir()
    return tmp_path / "model" / "model.onnx"


def refused(path):
    with pytest.raises(ExportError) as caught:
        open_file(path)
    assert "\n" not in str(caught.value)
    return caught.value.message


def test_a_file_by_another_hand_with_our_metadata_runs(path):
    write_model(path, handmade())
    run = open_file(path, threads=1)
    images = inputs(convolutional(), 3)
    torch.testing.assert_close(run(images), images.flatten(1) @ WEIGHTS.T)
    torch.testing.assert_close(run(images.numpy()), images.flatten(1) @ WEIGHTS.T)
    assert (run.runtime, run.threads, run.metadata) == ("onnxruntime", 1, METADATA)


def test_a_foreign_or_broken_file_is_refused_in_one_sentence(path):
    write_model(path, handmade(texts={}))
    assert (
        refused(path)
        == f"{path} was not exported by tascnet: nothing in it names its classes and preprocessing"
    )
    write_model(path, handmade())
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"no ONNX", b"\xff" * 100, b""):
        path.write_bytes(damaged)
        assert str(path) in refused(path)
    assert refused(path.with_name("other.onnx")) == f"there is no file {path.with_name('other.onnx')}"
    path.with_name("folder.onnx").mkdir()
    assert "it is a folder" in refused(path.with_name("folder.onnx"))
    assert refused(path.with_name("photo.jpg")) == f"{path.with_name('photo.jpg')} is no exported file"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("class_names", ["a", 1, "c"], "class_names is ['a', 1, 'c']"),
        ("class_names", [], "there are no class names"),
        ("preprocess", "within", "preprocess is 'within'"),
        ("format", "tflite", "format is 'tflite'"),
        ("preprocessing", 3, "preprocessing is no object"),
        ("preprocessing", {"size": 8}, "missing"),
        ("preprocessing", {**info().preprocessing.to_dict(), "size": 0}, "size"),
        ("calibration", 3, "calibration is 3"),
        ("tascnet", None, "tascnet is None"),
    ],
)
def test_wrong_metadata_are_named(path, name, value, reason):
    write_model(path, handmade(texts=METADATA.encode() | {name: json.dumps(value)}))
    message = refused(path)
    assert f"{path} has wrong metadata" in message
    assert reason in message


def test_metadata_that_are_no_json_or_huge_are_refused(path, monkeypatch):
    for text in ("{", "[" * 100_000, '"\\ud83d"', "NaN"):
        with pytest.raises(ExportError, match="wrong metadata"):
            Metadata.decode(METADATA.encode() | {"licence": text}, path)
    monkeypatch.setattr("tascnet.exporting.metadata._LONGEST", 1000)
    with pytest.raises(ExportError, match="licence has 1001 letters, expected at most 1000"):
        Metadata.decode(METADATA.encode() | {"licence": json.dumps("l" * 999)}, path)


@pytest.mark.parametrize("preprocessing", [info().preprocessing, TEXTS])
def test_metadata_are_read_as_they_were_written(preprocessing):
    own = Metadata.of(info(preprocessing), format="onnx", preprocess="inside")
    assert own.preprocess == ("outside" if preprocessing is TEXTS else "inside")
    assert Metadata.decode(own.encode() | {"other": "entry"}, Path("model.onnx")) == own


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": ("n", 3, 9, 8)},
        {"shape": ("n", 192)},
        {"kind": 11},
        {"name": "pixels"},
        {"classes": 2},
    ],
)
def test_a_graph_that_takes_or_gives_something_else_is_refused(path, changes):
    write_model(path, handmade(**changes))
    assert str(path) in refused(path)


def test_a_file_larger_than_the_bound_is_not_read(path, monkeypatch):
    write_model(path, handmade())
    monkeypatch.setattr(onnx_file, "LARGEST", path.stat().st_size - 1)
    assert "expected at most" in refused(path)


def outside(model, location):
    """The model with its weights in another file."""
    tensor = model.graph.initializer[0]
    tensor.data_location = tensor.EXTERNAL
    tensor.ClearField("raw_data")
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    return model


def test_weights_in_the_folder_are_read(path):
    write_model(path, outside(handmade(), "weights.bin"))
    assert "lacks its weights 'weights.bin' (it does not exist)" in refused(path)
    path.with_name("weights.bin").write_bytes(WEIGHTS.numpy().tobytes())
    images = inputs(convolutional(), 2)
    torch.testing.assert_close(open_file(path)(images), images.flatten(1) @ WEIGHTS.T)


def test_weights_outside_the_folder_are_refused(path, tmp_path):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(WEIGHTS.numpy().tobytes())
    path.with_name("link.bin").symlink_to(secret)
    path.with_name("sub").symlink_to(tmp_path)
    for location in (
        *(str(secret), "../secret.bin", "link.bin", "sub/secret.bin", "sub/../../secret.bin"),
        *("", ".", "*/_ORT_MEM_ADDR_/*", "secret\0.bin"),
    ):
        write_model(path, outside(handmade(), location))
        assert "weights" in refused(path), location


def test_weights_hidden_in_an_attribute_or_named_twice_are_refused(path, tmp_path):
    (tmp_path / "secret.bin").write_bytes(WEIGHTS.numpy().tobytes())
    model = outside(handmade(), "../secret.bin")
    constant = model.graph.node.add()
    constant.op_type = "Constant"
    constant.output.append("weight")
    attribute = constant.attribute.add()
    attribute.name, attribute.type = "value", attribute.TENSOR
    attribute.t.CopyFrom(model.graph.initializer[0])
    del model.graph.initializer[:]
    write_model(path, model)
    assert "outside its folder" in refused(path)
    path.with_name("weights.bin").write_bytes(WEIGHTS.numpy().tobytes())
    model = outside(outside(handmade(), "weights.bin"), "../secret.bin")
    write_model(path, model)
    assert "outside its folder" in refused(path)


def test_wrong_inputs_are_named(path):
    write_model(path, handmade())
    run = open_file(path)
    for batch in (torch.zeros(2, 3, 8, 9), np.zeros((1, 3, 8, 8), np.uint8)):
        with pytest.raises(ExportError, match="onnxruntime cannot run a batch of") as caught:
            run(batch)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", [".pt2", ".xml"])
def test_other_files_that_are_broken_are_refused(tmp_path, ending):
    if ending == ".xml":
        pytest.importorskip("openvino")
    path = tmp_path / f"model{ending}"
    for content in (b"", b"nonsense", b"<?xml version='1.0'?><net/>"):
        path.write_bytes(content)
        assert str(path) in refused(path) or path.stem in refused(path)
        path.with_suffix(".bin").write_bytes(content)
        assert str(path) in refused(path)


def test_a_program_of_torch_without_our_metadata_is_refused(tmp_path):
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
    torch.export.save(program, tmp_path / "model.pt2")
    assert "was not exported by tascnet" in refused(tmp_path / "model.pt2")


def test_a_structure_is_exported_once_whatever_its_weights(tmp_path, monkeypatch):
    exports = []

    def counting(network, example):
        exports.append(network)
        return handmade()

    monkeypatch.setattr("tascnet.exporting.runtimes.onnx_model", counting)
    network, other = convolutional(), convolutional()
    example = inputs(network, 1)
    with torch.no_grad():
        other.classifier.weight.zero_()
    assert structure_digest(network, example) == structure_digest(other, example)
    for model in (network, other):
        assert runnable(model, "onnxruntime", example, threads=1, folder=tmp_path)(example).shape == (1, 3)
    assert exports == [network]
    assert [file.name for file in tmp_path.iterdir()] == [f"{structure_digest(network, example)}.onnx"]
    other.act = torch.nn.ReLU()
    assert structure_digest(network, example) != structure_digest(other, example)
    assert structure_digest(network, example) != structure_digest(network, example.repeat(1, 1, 2, 2))
    runnable(other, "onnxruntime", example, threads=1, folder=tmp_path)
    assert exports == [network, other]


def test_layers_in_float_are_part_of_the_int8_form(tmp_path):
    onnx = pytest.importorskip("onnx")
    network = convolutional()
    example = inputs(network, 1)

    def in_int8(float_layers):
        before = set(tmp_path.iterdir())
        run = runnable(
            network, "onnxruntime_int8", example, threads=1, folder=tmp_path, float_layers=float_layers
        )
        assert run(example).shape == (1, 3)
        (path,) = (path for path in set(tmp_path.iterdir()) - before if "int8" in path.name)
        return {tensor.name for tensor in onnx.load(path).graph.initializer}

    assert "classifier.weight" not in in_int8(())
    assert "classifier.weight" in in_int8(("classifier",))
    with pytest.raises(ExportError, match="has no layer clasifier"):
        in_int8(("clasifier",))


def test_eager_runs_the_network_itself(tmp_path):
    network = textual().train()
    run = runnable(network, "eager", inputs(network, 1), threads=1, folder=tmp_path)
    network.eval()
    torch.testing.assert_close(run(inputs(network, 3)), network(inputs(network, 3)).detach(), rtol=0, atol=0)
    assert (run.runtime, run.metadata) == ("eager", None)


def test_a_runtime_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("tascnet.exporting.installed.installed", lambda: frozenset({"eager"}))
    network = convolutional()
    with pytest.raises(ConfigError, match="`runtimes` has onnxruntime"):
        runnable(network, "onnxruntime", inputs(network, 1), threads=1, folder=tmp_path)


def test_a_network_of_more_than_two_gigabytes_is_refused(monkeypatch):
    monkeypatch.setattr(onnx_file, "LARGEST", 100)
    network = convolutional()
    with pytest.raises(ExportError, match="more than the 2 GB of an ONNX file"):
        onnx_model(network, inputs(network, 1))


def test_reading_metadata_alone_opens_no_session(path, monkeypatch):
    write_model(path, handmade())
    monkeypatch.setattr("onnxruntime.InferenceSession", None)
    assert read_metadata(path) == METADATA
