"""The benchmark of predictions: both ways give the same classes, and the summary is as by hand."""

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import predicting
from tascnet.exporting.inputs import Inputs
from tascnet.models import Preprocessing
from tests.pipelines.models import colour_network


def test_the_summary_by_hand():
    def row(way, seconds, growth, times=1):
        return {"way": way, "times": times, "images": 60 * times, "seconds": seconds, "growth_bytes": growth}

    ours, loop, two = predicting.WAYS
    rows = [row(ours, 1.0, 30), row(loop, 2.0, 50), row(two, 1.0, 80)]
    rows += [row(ours, 3.0, 32), row(loop, 4.0, 52), row(two, 1.5, None), row(ours, 8.0, 33, times=4)]
    summary = predicting.summarise(rows)
    # 60 and 20, 30 and 15, 60 and 40 images a second.
    assert [one["per_second"] for one in summary] == [40, 22.5, 50]
    assert [one["ours_to_it"] for one in summary] == [1, pytest.approx(40 / 22.5), 0.8]
    assert [one["bytes"] for one in summary] == [31, 51, 80]
    assert [one["bytes_of_more"] for one in summary] == [33, None, None]


@pytest.mark.parametrize("crop", ["center", "squash"])
def test_the_usual_transform_prepares_images_as_ours(crop):
    ours = Preprocessing(size=12, resize=16, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0), crop=crop)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 23, 3), dtype=np.uint8)
    theirs = predicting.usual_transform(ours)(Image.fromarray(pixels))
    torch.testing.assert_close(theirs, ours(pixels), atol=1e-6, rtol=1e-6, check_stride=False)


@pytest.mark.deployed
def test_both_ways_name_the_same_classes(images, tmp_path):
    pytest.importorskip("onnxruntime")
    from tascnet.exporting.onnx_file import write_onnx

    write_onnx(colour_network(), tmp_path / "model.onnx")
    paths = [*Inputs(str(images), is_text=False)]
    options = {"model": str(tmp_path / "model.onnx"), "paths": paths, "batch_size": 5, "threads": 1}
    ours, loop = (predicting.timed(way, 2, **options) for way in predicting.WAYS[:2])
    assert ours["images"] == loop["images"] == 48
    assert ours["classes"] == loop["classes"]
