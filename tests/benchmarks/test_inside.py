import numpy as np
import pytest
from PIL import Image

from tascnet.models import Preprocessing

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from benchmarks import inside  # noqa: E402

pytestmark = pytest.mark.deployed

PREPROCESSING = Preprocessing(size=8, resize=9, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))


def brightest():
    """A network whose outputs are the means of the channels."""
    ends = [("image", ["n", 3, 8, 8]), ("logits", ["n", 3])]
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in ends]
    axes = onnx.numpy_helper.from_array(np.array([2, 3]), "axes")
    node = onnx.helper.make_node("ReduceMean", ["image", "axes"], ["logits"], keepdims=0)
    graph = onnx.helper.make_graph([node], "brightest", values[:1], values[1:], [axes])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture
def paths(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(rng.integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)).save(
            tmp_path / f"{number}.png"
        )
    return sorted(tmp_path.iterdir())


def test_the_same_pixels_and_classes(paths):
    row = inside.Comparison(brightest(), PREPROCESSING).row(paths, 2)
    assert (row["images"], row["values"], row["equal"], row["unequal"]) == (4, 4 * 3 * 8 * 8, 1, [])
    assert (row["off_by_half"], row["off_by_more_than_one"]) == (0, 0)
    assert row["largest"] < 1e-3


def test_other_pixels_are_counted_in_levels_and_other_classes_listed(paths, monkeypatch):
    compared = inside.Comparison(brightest(), PREPROCESSING)
    right, classes = compared.prepare, compared.inside
    # One red pixel of each image is two levels brighter, of a standard deviation of 0.5 * 255 levels.
    red = np.zeros((3, 8, 8), dtype=np.float32)
    red[0, 0, 0] = 2 / 127.5
    monkeypatch.setattr(compared, "prepare", lambda images: right(images) + red)
    monkeypatch.setattr(compared, "inside", lambda images: -classes(images))
    row = compared.row(paths, 1)
    assert (row["off_by_half"], row["off_by_more_than_one"], row["equal"]) == (4, 4, 0)
    assert row["largest"] == pytest.approx(2, abs=1e-3)
    assert [image["file"] for image in row["unequal"]] == [str(path) for path in paths]
    logits = compared.outside(PREPROCESSING(paths[0]).numpy()[None])[0]
    shares = np.sort(np.exp(logits) / np.exp(logits).sum())
    assert row["unequal"][0]["margin"] == pytest.approx(shares[2] - shares[1], abs=1e-6)
