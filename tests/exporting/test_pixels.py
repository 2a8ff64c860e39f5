"""The preprocessing as a graph, against `Preprocessing`, which uses Pillow."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tascnet.errors import ConfigError, ExportError
from tascnet.exporting.pixels import FILTERS, with_preprocessing
from tascnet.models.preprocessing import Preprocessing
from tascnet.options import CROPS, INTERPOLATIONS

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.deployed

# So normalised, inputs of a network are levels.
LEVELS = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}


def identity(channels, size, *, kind=onnx.TensorProto.FLOAT, name="image", nodes=None, opset=18):
    shape = ["n", channels, size, size]
    nodes = nodes or [onnx.helper.make_node("Identity", [name], ["logits"])]
    values = [onnx.helper.make_tensor_value_info(given, kind, shape) for given in (name, "logits")]
    graph = onnx.helper.make_graph(nodes, "network", values[:1], values[1:])
    versions = [onnx.helper.make_opsetid("", opset)]
    return onnx.helper.make_model(graph, opset_imports=versions, ir_version=9)


def session(model):
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    made = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda images: made.run(None, {"image": images})[0]


@cache
def prepared(preprocessing):
    """Images `n x H x W x 3` as the graph in front of a network prepares them."""
    return session(with_preprocessing(identity(preprocessing.channels, preprocessing.size), preprocessing))


def expected(preprocessing, images):
    return np.stack([preprocessing(image).numpy() for image in images])


def noise(height, width, count=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@given(height=st.integers(1, 60), width=st.integers(1, 60), seed=st.integers(0, 9))
def test_the_pixels_are_those_of_training(interpolation, crop, height, width, seed):
    preprocessing = Preprocessing(size=17, resize=20, interpolation=interpolation, crop=crop, **LEVELS)
    images = noise(height, width, 2, seed)
    np.testing.assert_array_equal(prepared(preprocessing)(images), expected(preprocessing, images))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@given(height=st.integers(1, 60), width=st.integers(1, 60))
def test_grey_networks_see_the_grey_of_training(interpolation, height, width):
    preprocessing = Preprocessing(
        size=15, resize=15, mean=(0.0,), std=(1 / 255,), interpolation=interpolation
    )
    images = noise(height, width)
    np.testing.assert_array_equal(prepared(preprocessing)(images), expected(preprocessing, images))


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(
    ("height", "width"),
    # A pixel, strips, sides at the square's own, photographs, and a scan.
    [(1, 1), (500, 7), (10, 400), (63, 64), (375, 500), (500, 200), (1900, 1500)],
)
def test_large_small_and_thin_images(interpolation, crop, height, width):
    preprocessing = Preprocessing(size=56, resize=64, interpolation=interpolation, crop=crop, **LEVELS)
    images = noise(height, width)
    np.testing.assert_array_equal(prepared(preprocessing)(images), expected(preprocessing, images))


@pytest.mark.parametrize("interpolation", FILTERS)
def test_black_and_white_reach_neither_below_nor_above_the_levels(interpolation):
    """Weights of the largest sums of absolute values, beside what overshoots most."""
    preprocessing = Preprocessing(size=32, resize=32, interpolation=interpolation, **LEVELS)
    stripes = np.zeros((1, 90, 91, 3), dtype=np.uint8)
    stripes[:, :, 20:60:2] = stripes[:, 30:45] = 255
    found = prepared(preprocessing)(stripes)
    np.testing.assert_array_equal(found, expected(preprocessing, stripes))
    assert (found.min(), found.max()) == (0, 255)


def test_files_are_prepared_as_their_decoded_pixels(tmp_path):
    """Orientation, transparency, CMYK and 16 bits are the decoder's."""
    preprocessing = Preprocessing(size=24, resize=28, interpolation="bicubic", **LEVELS)
    photograph = Image.fromarray(noise(40, 30)[0])
    turned = Image.Exif()
    turned[0x0112] = 6
    photograph.save(tmp_path / "turned.jpg", exif=turned)
    photograph.convert("CMYK").save(tmp_path / "cmyk.jpg")
    photograph.putalpha(Image.fromarray(noise(40, 30)[0, :, :, 0]))
    photograph.save(tmp_path / "clear.png")
    Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(40, 30) * 54).save(tmp_path / "deep.png")
    for path in sorted(tmp_path.iterdir()):
        found = prepared(preprocessing)(preprocessing.decode(path)[None])[0]
        np.testing.assert_array_equal(found, preprocessing(path).numpy(), err_msg=path.name)


def test_levels_are_normalised_as_in_training():
    preprocessing = Preprocessing(size=8, resize=9, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    images = noise(20, 30)
    np.testing.assert_array_equal(prepared(preprocessing)(images), expected(preprocessing, images))


def test_a_quantised_network_and_its_branches_are_kept():
    """The network reads its input in two nodes, one within a branch."""
    preprocessing = Preprocessing(size=8, resize=8, **LEVELS)
    node = onnx.helper.make_node
    inner = [
        onnx.helper.make_graph(
            [node(kind, ["image"], [kind])],
            kind,
            [],
            [onnx.helper.make_tensor_value_info(kind, onnx.TensorProto.FLOAT, ["n", 3, 8, 8])],
        )
        for kind in ("Identity", "Neg")
    ]
    nodes = [
        node("QuantizeLinear", ["image", "scale", "zero"], ["whole"]),
        node("DequantizeLinear", ["whole", "scale", "zero"], ["rounded"]),
        node("If", ["yes"], ["chosen"], then_branch=inner[1], else_branch=inner[0]),
        node("Add", ["chosen", "rounded"], ["logits"]),
    ]
    model = identity(3, 8, nodes=nodes)
    for name, value in (("scale", np.float32(2)), ("zero", np.uint8(0)), ("yes", np.bool_(True))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value), name))
    before = model.SerializeToString()
    images = np.full((1, 8, 8, 3), 101, dtype=np.uint8)
    # 101 is 50.5 steps of two, rounded to even: 50; 2 * 50 - 101.
    assert set(session(with_preprocessing(model, preprocessing))(images).flat) == {-1}
    assert model.SerializeToString() == before


def test_the_network_keeps_a_known_shape():
    preprocessing = Preprocessing(size=8, resize=9, **LEVELS)
    model = onnx.shape_inference.infer_shapes(with_preprocessing(identity(3, 8), preprocessing))
    read = model.graph.node[-1].input[0]
    (value,) = [value for value in model.graph.value_info if value.name == read]
    sides = [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]
    assert sides == ["n", 3, 8, 8]
    given = model.graph.input[0].type.tensor_type
    assert given.elem_type == onnx.TensorProto.UINT8
    assert [side.dim_param or side.dim_value for side in given.shape.dim] == ["n", "H", "W", 3]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (identity(3, 9), "image float n x 3 x 9 x 9, expected image float n x 3 x 8 x 8"),
        (identity(1, 8), "image float n x 1 x 8 x 8, expected"),
        (identity(3, 8, kind=onnx.TensorProto.UINT8), "image uint8 n x 3"),
        (identity(3, 8, name="tokens"), "tokens float"),
        (identity(3, 8, opset=12), "opset 12, expected at least 13"),
    ],
)
def test_another_model_is_refused(model, said):
    with pytest.raises(ExportError, match=said):
        with_preprocessing(model, Preprocessing(size=8, resize=8, **LEVELS))


def test_channels_that_images_do_not_have_are_refused():
    with pytest.raises(ConfigError, match="`mean` has 2 values"):
        with_preprocessing(identity(2, 8), Preprocessing(size=8, resize=8, mean=(0, 0), std=(1, 1)))


# With the box filter float32 decides otherwise at the edges of boxes.
@pytest.mark.parametrize("interpolation", sorted(set(INTERPOLATIONS) - {"box"}))
def test_openvino_differs_in_few_pixels_by_one_level(interpolation, tmp_path):
    """It computes the weights in float32."""
    openvino = pytest.importorskip("openvino")
    preprocessing = Preprocessing(size=32, resize=36, interpolation=interpolation, **LEVELS)
    path, images = tmp_path / "model.onnx", noise(75, 100)
    onnx.save(with_preprocessing(identity(3, 32), preprocessing), path)
    core = openvino.Core()
    model = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    differences = np.abs(model(images)[0] - expected(preprocessing, images))
    assert differences.max() <= 1
    assert (differences > 0).mean() < 0.01
