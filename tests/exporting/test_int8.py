"""int8: as accurate as asked for, with layers in float where it must be, and no file where it cannot be."""

import logging
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from tascnet.errors import ExportError
from tascnet.exporting import int8
from tascnet.exporting.int8 import (
    DOT_PRODUCTS,
    METHODS,
    Observed,
    instruction_set,
    observe,
    quantise,
    quantise_plain,
)
from tascnet.exporting.onnx_file import read_metadata, read_model, write_onnx
from tascnet.exporting.runtimes import open_file
from tascnet.models.info import with_info
from tests.exporting.networks import convolutional, info, inputs, textual

pytestmark = pytest.mark.deployed
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

BINS = 2048
# A processor without products of int8 in 32 bits adds up in 16, which saturates.
COARSER = 1 if instruction_set() in (None, *DOT_PRODUCTS) else 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`toy.onnx`, `text.onnx` and `broken.onnx`."""
    place = tmp_path_factory.mktemp("float")
    for name, network in (("toy", convolutional()), ("text", textual()), ("broken", hard())):
        write_onnx(network, place / f"{name}.onnx")
    return place


def passing(inputs, outputs):
    """A 1x1 convolution that passes as many channels on as it can."""
    layer = nn.Conv2d(inputs, outputs, 1)
    nn.init.zeros_(layer.bias)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(outputs, inputs)[:, :, None, None])
    return layer


def hard():
    """Passes three channels on; between `wide` and `narrow` a constant fourth one takes all of the range."""
    layers = OrderedDict(
        stem=passing(3, 3),
        wide=passing(3, 4),
        narrow=passing(4, 3),
        last=passing(3, 3),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classifier=nn.Linear(3, 3),
    )
    with torch.no_grad():
        layers["wide"].bias[3] = 1000.0
        layers["classifier"].weight.copy_(torch.eye(3))
        layers["classifier"].bias.zero_()
    return with_info(nn.Sequential(layers).eval(), info())


def agreement(folder, name, network):
    """Share of 60 samples to which a file gives the class of its float file."""
    samples = inputs(network, 60, seed=3)
    wanted = open_file(folder / f"{name}.onnx")(samples).argmax(1)
    return lambda path: float((open_file(path)(samples).argmax(1) == wanted).double().mean())


def test_weights_have_a_scale_for_each_channel_and_activations_are_cut_by_it(folder, tmp_path):
    network, path = convolutional(), tmp_path / "int8.onnx"
    batches = inputs(network, 24).split(8)
    made = quantise(
        folder / "toy.onnx",
        path,
        batches,
        agreement(folder, "toy", network),
        tolerance=0.1,
        checked_on="a processor",
    )
    assert made == read_metadata(path)
    assert (made.format, made.float_layers, made.checked_on) == ("onnx_int8", (), "a processor")
    assert made.class_names == info().class_names
    graph = read_model(path).graph
    # The ReLU6 is in the range of the convolution's output.
    assert not {"Clip", "Relu"} & {node.op_type for node in graph.node}
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    scales = {
        node.input[0]: weights[node.input[1]].size
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in weights
    }
    kinds = {name: weights[name].dtype for name in scales}
    kernels = {name: count for name, count in scales.items() if weights[name].ndim == 4}
    assert all(kinds[name] == np.int8 for name in kernels)
    assert sorted(kernels.values()) == [4, 4, 6, 6]
    # As close as 8 bits: about a hundredth of the spread.
    samples = inputs(network, 8, seed=5)
    outputs, wanted = open_file(path)(samples), open_file(folder / "toy.onnx")(samples)
    assert (outputs - wanted).abs().max() < 0.05 * COARSER * (wanted.max() - wanted.min())
    assert outputs.ne(wanted).any()


def test_layers_that_int8_breaks_stay_in_float(folder, tmp_path):
    network, path = hard(), tmp_path / "int8.onnx"
    accuracy = agreement(folder, "broken", network)
    batches = inputs(network, 16).split(8)
    quantise_plain(folder / "broken.onnx", path, batches)
    # 256 levels of 1000 are wider than the values that decide.
    assert accuracy(path) < 0.7
    made = quantise(folder / "broken.onnx", path, batches, accuracy, tolerance=0.1, checked_on="")
    assert made.float_layers == ("wide", "narrow")
    assert accuracy(path) >= 0.9


def test_what_cannot_be_as_accurate_leaves_no_file(folder, tmp_path):
    path = tmp_path / "int8.onnx"
    with pytest.raises(ExportError, match=r"100\.0 points") as caught:
        quantise(
            folder / "broken.onnx",
            path,
            inputs(hard(), 8).split(8),
            lambda file: float(file == folder / "broken.onnx"),
            tolerance=0.5,
            checked_on="",
        )
    assert "`int8_tolerance=0.5`" in caught.value.message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("best", range(len(METHODS)))
def test_the_method_of_the_best_accuracy_is_taken(folder, tmp_path, best):
    accuracies = iter([0.9, *(0.8 + 0.05 * (number == best) for number in range(len(METHODS)))])
    made = quantise(
        folder / "toy.onnx",
        tmp_path / "int8.onnx",
        inputs(convolutional(), 8).split(8),
        lambda _file: next(accuracies),
        tolerance=0.05,
        checked_on="",
    )
    assert made.calibration == METHODS[best]


def test_texts_are_quantised(folder, tmp_path):
    network = textual()
    path = tmp_path / "int8.onnx"
    quantise_plain(folder / "text.onnx", path, [inputs(network, 8)])
    found, wanted = (open_file(file)(inputs(network, 8)) for file in (path, folder / "text.onnx"))
    assert (found - wanted).abs().max() < 0.1 * COARSER * (wanted.max() - wanted.min())


def test_ranges_are_those_of_all_samples_however_many_run_at_once(folder, monkeypatch):
    network = convolutional()
    samples, model = inputs(network, 12), int8._loaded(folder / "toy.onnx")
    whole = observe(model, [samples])
    monkeypatch.setattr(int8, "_MEMORY", 1)
    parts = observe(model, samples.split(5))
    assert parts.keys() == whole.keys()
    for name, values in parts.items():
        assert values.low == pytest.approx(whole[name].low, abs=1e-5)
        assert values.counts.sum() == whole[name].counts.sum()
    assert whole["image"].low == samples.min()
    assert whole["image"].high == samples.max()


def test_values_that_are_not_finite_are_refused(folder):
    samples = inputs(hard(), 2)
    samples[0, 0, 0, 0] = float("inf")
    with pytest.raises(ExportError, match="not finite"):
        observe(int8._loaded(folder / "broken.onnx"), [samples])


def test_ranges_by_percentiles_leave_half_of_the_rest_out_on_either_side():
    values = Observed(low=0.0, high=float(BINS), counts=np.ones(BINS))
    assert values.range_by("minmax") == (0.0, BINS)
    # 0.05 % of 2048 is 1.02: the first value and the last.
    assert values.range_by("percentile 99.9") == (1.0, BINS - 1.0)
    assert values.range_by("percentile 99.99") == (0.0, BINS)
    constant = Observed(low=3.0, high=3.0, counts=np.ones(BINS))
    assert constant.range_by("percentile 99.9") == (3.0, 3.0)


def test_the_range_of_least_squares_cuts_one_value_that_is_far_away():
    counts = np.zeros(BINS)
    counts[:100], counts[-1] = 1000, 1
    low, high = Observed(low=0.0, high=float(BINS), counts=counts).range_by("least squares")
    # With the share s rounding costs 1e5 (8 s)^2 / 12 and the cut (2048 (1 - s))^2: least at 0.887.
    assert low == 0.0
    assert high / BINS == pytest.approx(0.88, abs=0.03)


@pytest.mark.parametrize(
    ("flags", "found", "is_slow"),
    [
        ({"sse", "avx2", "avx512bw"}, "avx512bw", True),
        ({"avx2", "avx512_vnni", "avx512bw"}, "avx512_vnni", False),
        ({"avx512_vnni", "amx_int8"}, "amx_int8", False),
        ({"asimd", "asimddp"}, "asimddp", False),
        (set(), None, False),
    ],
)
def test_a_processor_without_vnni_is_warned_of_once(monkeypatch, caplog, flags, found, is_slow):
    monkeypatch.setattr(int8, "_cpu_flags", lambda: frozenset(flags))
    int8._warn_once.cache_clear()
    assert int8.instruction_set() == found
    with caplog.at_level(logging.WARNING, logger="tascnet"):
        int8.warn_without_vnni()
        int8.warn_without_vnni()
    assert [("has no VNNI" in text) for text in caplog.messages] == ([True] if is_slow else [])
