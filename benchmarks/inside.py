"""Pixels and classes of a file that prepares images itself, beside the preprocessing of training.

The preprocessing is put in front of a network, and in front of nothing to read its pixels, in ONNX Runtime on
one thread. Images are read as they are, and enlarged by Pillow's `lanczos`. A row is one enlargement: pixel
values that differ by more than half a level and by more than one, the largest difference in levels, the share
of equal classes with each other image and its margin (the difference of the two largest probabilities), and
milliseconds an image: of decoding the file, which is not enlarged, of Pillow's resizing, cropping and
normalising, and of the graph that does the same.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.table import Table

import tascnet
from benchmarks import common
from benchmarks.common import Row, collect, new_table, points
from tascnet.errors import ConfigError
from tascnet.exporting import installed
from tascnet.exporting.inputs import Inputs
from tascnet.exporting.onnx_file import example_of, onnx_model, onnx_session
from tascnet.exporting.pixels import with_preprocessing
from tascnet.models import Preprocessing
from tascnet.models.info import info_of
from tascnet.run.console import output, track
from tascnet.run.files import digest_json
from tascnet.run.records import to_json
from tascnet.train.setting import computing

if TYPE_CHECKING:
    import onnx

CAPTION = """
differ, over 1: % of pixel values that differ, and by more than one level; most: largest difference in levels
class: % of images of the same class; decode, Pillow, graph: milliseconds an image, on one thread
""".strip()

Graph = Callable[[NDArray[Any]], NDArray[np.float32]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_arguments(parser)
    parser.add_argument("--images", required=True, help="folder of images")
    parser.add_argument("--limit", type=common.count, help="images that are read, evenly; all if left out")
    parser.add_argument(
        "--model", default="mobilenet_v2", help="folder of a saved model, or a backbone's name"
    )
    parser.add_argument("--weights", help="of a backbone: pretrained, random, or a file of weights")
    parser.add_argument("--size", type=common.count, help="side of a backbone's square, in pixels")
    parser.add_argument("--enlarge", type=common.count, nargs="+", default=[1, 4, 6], help="factors")


def run(args: argparse.Namespace) -> None:
    """Compare pixels and classes, one row for each enlargement."""
    installed.need("onnxruntime", "model")
    options = {name: value for name in ("weights", "size") if (value := getattr(args, name)) is not None}
    network = tascnet.backbone(args.model, **options)
    preprocessing = info_of(network).preprocessing
    if not isinstance(preprocessing, Preprocessing):
        raise ConfigError(f"--model {args.model} takes texts", "give a network of images")
    paths = [Path(path) for path in Inputs(args.images, is_text=False)]
    if args.limit:
        paths = paths[:: max(1, len(paths) // args.limit)][: args.limit]
    network_graph = onnx_model(network, example_of(network))
    folder = common.open_results(args)
    settings = digest_json([args.model, options, [str(path) for path in paths], to_json(preprocessing)])
    keys: list[Row] = [{"enlarged": factor, "settings": settings} for factor in args.enlarge]
    with computing("cpu", 1):
        compared = Comparison(network_graph, preprocessing)
        rows = collect(folder, keys, lambda key: compared.row(paths, key["enlarged"]))
    common.report(args, folder, rows, None, _table(rows))
    for row in rows:
        for image in row["unequal"]:
            output().print(f"enlarged {row['enlarged']}: {image['file']}, margin {image['margin']:.3g}")


class Comparison:
    """A network with its preprocessing before the graph, and within it."""

    def __init__(self, network: "onnx.ModelProto", preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing
        self.outside = _session(network)
        self.inside = _session(with_preprocessing(network, preprocessing))
        self.prepare = _session(with_preprocessing(_nothing(preprocessing), preprocessing))
        # From normalised values back to levels.
        self.levels = 255 * np.array(preprocessing.std)[:, None, None]

    def row(self, paths: Sequence[Path], factor: int) -> Row:
        """The figures of images, enlarged by a factor."""
        values = half = more = 0
        largest, unequal = 0.0, []
        seconds = dict.fromkeys(("decode", "pillow", "graph"), 0.0)
        for path, image in track(self._decoded(paths, factor, seconds), "images", len(paths)):
            started = time.perf_counter()
            expected = self.preprocessing(image).numpy()
            between = time.perf_counter()
            found = self.prepare(image[None])[0]
            seconds["graph"] += time.perf_counter() - between
            seconds["pillow"] += between - started
            difference = np.abs(found - expected) * self.levels
            values += difference.size
            half += int((difference > 0.5).sum())
            more += int((difference > 1.5).sum())
            largest = max(largest, float(difference.max()))
            ours, theirs = self.inside(image[None])[0], self.outside(expected[None])[0]
            if ours.argmax() != theirs.argmax():
                unequal.append({"file": str(path), "margin": _margin(theirs)})
        return {
            "images": len(paths),
            "values": values,
            "off_by_half": half,
            "off_by_more_than_one": more,
            "largest": largest,
            "equal": 1 - len(unequal) / len(paths),
            "unequal": unequal,
            **{f"{name}_ms": 1e3 * total / len(paths) for name, total in seconds.items()},
        }

    def _decoded(
        self, paths: Sequence[Path], factor: int, seconds: dict[str, float]
    ) -> Iterator[tuple[Path, NDArray[np.uint8]]]:
        for path in paths:
            started = time.perf_counter()
            image = self.preprocessing.decode(path)
            seconds["decode"] += time.perf_counter() - started
            if factor > 1:
                sides = (factor * image.shape[1], factor * image.shape[0])
                image = np.array(Image.fromarray(image).resize(sides, Image.Resampling.LANCZOS))
            yield path, image


def _session(model: "onnx.ModelProto") -> Graph:
    session = onnx_session(model.SerializeToString(), 1)
    return lambda images: session.run(None, {"image": images})[0]


def _nothing(preprocessing: Preprocessing) -> "onnx.ModelProto":
    """A network that gives back its input."""
    from onnx import TensorProto, helper

    shape: list[str | int] = ["n", *preprocessing.example_shape[1:]]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("image", "logits")]
    node = helper.make_node("Identity", ["image"], ["logits"])
    graph = helper.make_graph([node], "nothing", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _margin(logits: NDArray[np.float32]) -> float:
    first, second = torch.from_numpy(logits).softmax(0).topk(2).values
    return float(first - second)


def _table(rows: Sequence[Row]) -> Table:
    figures = ("images", "differ", "over 1", "most", "class", "decode", "Pillow", "graph")
    table = new_table("pixels inside", ["enlarged"], figures, CAPTION)
    for row in rows:
        shares = (row["off_by_half"] / row["values"], row["off_by_more_than_one"] / row["values"])
        table.add_row(
            str(row["enlarged"]),
            str(row["images"]),
            *(points(share, 4) for share in shares),
            f"{row['largest']:.2g}",
            points(row["equal"], 2),
            *(f"{row[f'{name}_ms']:.2f}" for name in ("decode", "pillow", "graph")),
        )
    return table
