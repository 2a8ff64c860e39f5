"""Which networks of torchvision and timm can be exported in each format, whole and pruned.

Each network has random weights, with affine values and statistics that let every layer count, and is exported
as it is and with half of every group of channels cut. Every float file is opened again and compared with the
network, as every export is; for int8, with ranges of noise, the share of equal classes is reported.

With `--model` and `--images` one saved network is exported instead; each float file is compared with it on
all images of a folder.
"""

import argparse
import math
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path

import torch
from rich.table import Table
from torch import nn

import tascnet
from benchmarks import common
from benchmarks.backbones import CLASSES, original, smallest_image
from benchmarks.common import Row, check_names, collect, grouped, new_table, points
from tascnet.errors import ConfigError, TascnetError, first_line
from tascnet.exporting import installed
from tascnet.exporting.checks import compare, outputs_of
from tascnet.exporting.export import export_file
from tascnet.exporting.formats import FLOAT_FORMATS
from tascnet.exporting.inputs import Inputs
from tascnet.exporting.int8 import quantise_plain
from tascnet.exporting.onnx_file import example_of, onnx_model, onnx_session, write_model
from tascnet.exporting.runtimes import open_file
from tascnet.models.info import ModelInfo, info_of, with_info
from tascnet.models.preprocessing import Preprocessing
from tascnet.options import FORMATS
from tascnet.report.numbers import MISSING, count
from tascnet.run.console import output, track
from tascnet.run.files import digest_json
from tascnet.surgery import Trace, narrow
from tascnet.train.setting import computing

FAMILIES = (
    *("resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "densenet121"),
    *("vgg11_bn", "squeezenet1_1", "shufflenet_v2_x0_5", "googlenet", "mnasnet0_5", "regnet_y_400mf"),
    *("convnext_tiny", "timm/convnext_atto", "timm/mobilenetv4_conv_small", "timm/ghostnet_050"),
)
# ONNX with the preprocessing inside, beside the formats.
INSIDE = "onnx_inside"
SAMPLES = 16
# Images in a pass of a saved model.
BATCH = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_arguments(parser)
    parser.add_argument("--networks", nargs="+", default=list(FAMILIES), help="names of torchvision or timm")
    parser.add_argument("--model", help="folder of a saved model, exported in place of the networks")
    parser.add_argument("--images", help="folder of images that its files are compared on")
    parser.add_argument("--formats", nargs="+", help=f"of {INSIDE}, {', '.join(FORMATS)}; all installed ones")


def run(args: argparse.Namespace) -> None:
    """One row for each network, whole or pruned, and format."""
    folder, there = common.open_results(args), installed.installed()
    known = [name for name in (INSIDE, *FORMATS) if name.removesuffix("_inside") in there]
    check_names("installed format", args.formats or (), known)
    if (args.model is None) != (args.images is None):
        raise ConfigError("--model and --images belong together", "give both")
    if args.model is not None:
        return _compare_saved(args, folder, args.formats or [name for name in known if name != "onnx_int8"])
    keys: list[Row] = [
        {"network": name, "is_pruned": is_pruned, "format": format}
        for name in args.networks
        for is_pruned in (False, True)
        for format in args.formats or known
    ]
    with computing("cpu", args.threads):
        rows = collect(folder, keys, _row, "exports")
    summary = {
        format: {"exported": len(part), "hold": sum(row["holds"] for row in part)}
        for (format,), part in grouped(rows, "format").items()
    }
    common.report(args, folder, rows, summary, _table(rows))


def _compare_saved(args: argparse.Namespace, folder: Path, formats: Sequence[str]) -> None:
    """One row for each float format of a saved model, on all images."""
    paths = [Path(path) for path in Inputs(args.images, is_text=False)]
    settings = digest_json([args.model, [str(path) for path in paths]])
    keys: list[Row] = [{"format": format, "settings": settings} for format in formats]
    with computing("cpu", args.threads):
        network = tascnet.load(args.model)
        rows = collect(folder, keys, partial(_saved_row, network, paths), "exports")
    common.report(args, folder, rows, None, _saved_table(rows))
    for row in rows:
        for name, margin in row["different"]:
            output().print(f"{row['format']}: {name}, margin {margin:.3g}")


def _saved_row(network: nn.Sequential, paths: Sequence[Path], key: Row) -> Row:
    preprocessing, is_inside = info_of(network).preprocessing, key["format"] == INSIDE
    assert isinstance(preprocessing, Preprocessing)
    kind = key["format"].removesuffix("_inside")
    largest, different = 0.0, []
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / f"model{FLOAT_FORMATS[kind].ending}"
        export_file(network, path, kind, preprocess="inside" if is_inside else "outside")
        run = open_file(path)
        for part in track([paths[at : at + BATCH] for at in range(0, len(paths), BATCH)], key["format"]):
            images = [preprocessing.decode(path) for path in part]
            inputs = torch.stack([preprocessing(image) for image in images])
            wanted = outputs_of(network, inputs)
            # ExecuTorch's files take one sample.
            is_single = is_inside or kind == "executorch"
            given = images if is_inside else inputs
            found = torch.cat([run(one[None]) for one in given]) if is_single else run(inputs)
            largest = max(largest, (wanted - found).abs().max().item())
            margins = wanted.softmax(1).topk(2).values
            for row in (wanted.argmax(1) != found.argmax(1)).nonzero().flatten().tolist():
                different.append([str(part[row]), float(margins[row, 0] - margins[row, 1])])
    return {"images": len(paths), "largest": largest, "different": different}


def _saved_table(rows: Sequence[Row]) -> Table:
    table = new_table("Exports of a saved model", ["format"], ["images", "equal", "difference"])
    for row in rows:
        equal = 1 - len(row["different"]) / row["images"]
        table.add_row(row["format"], f"{row['images']:,}", points(equal, 2), f"{row['largest']:.0e}")
    return table


def _row(key: Row) -> Row:
    started = time.perf_counter()
    try:
        network = _network(key["network"], key["is_pruned"])
        with tempfile.TemporaryDirectory() as folder:
            own = _exported(network, key["format"], Path(folder))
    # A bug shall not hide the other networks.
    except Exception as error:
        kind = "" if isinstance(error, TascnetError) else f"{type(error).__name__}: "
        return {"holds": False, "reason": kind + first_line(error)}
    return {"holds": True, "seconds": time.perf_counter() - started, **own}


@lru_cache(maxsize=1)
def _network(name: str, is_pruned: bool) -> nn.Sequential:
    """The chain of a network with random weights."""
    module = original(name)
    example = smallest_image(name, module)
    chain = tascnet.backbone(module, example)
    if is_pruned:
        trace, generator = Trace(chain, example), random.Random(0)
        keep = {
            group.name: sorted(generator.sample(range(group.width), math.ceil(group.width / 2)))
            for group in trace.groups
        }
        narrow(chain, trace, keep)
    side = example.shape[-1]
    info = ModelInfo(
        backbone=name,
        preprocessing=Preprocessing(size=side, resize=side, mean=(0.5,) * 3, std=(0.25,) * 3),
        class_names=tuple(map(str, range(CLASSES))),
        weights="random",
        licence="none",
    )
    return with_info(chain.to(memory_format=torch.channels_last).eval(), info)  # type: ignore[call-overload]


def _exported(network: nn.Sequential, format: str, folder: Path) -> Row:
    generator = torch.Generator().manual_seed(1)
    samples = torch.randn(SAMPLES, *example_of(network).shape[1:], generator=generator)
    wanted = outputs_of(network, samples)
    if format == "onnx_int8":
        whole, small = folder / "float.onnx", folder / "int8.onnx"
        write_model(whole, onnx_model(network, example_of(network)))
        quantise_plain(whole, small, [samples])
        outputs = onnx_session(small, torch.get_num_threads()).run(None, {"image": samples.numpy()})[0]
        compared = compare(wanted, torch.from_numpy(outputs))
        facts = compared.equal_classes, compared.largest_difference, small.stat().st_size
    else:
        is_inside, kind = format == INSIDE, format.removesuffix("_inside")
        record = export_file(
            network,
            folder / f"model{FLOAT_FORMATS[kind].ending}",
            kind,
            preprocess="inside" if is_inside else "outside",
            samples=None if is_inside else samples,
        )
        assert record.largest_difference is not None
        facts = record.equal_classes, record.largest_difference, record.size_bytes
    spread = (wanted.max() - wanted.min()).item()
    return {"equal_classes": facts[0], "difference": facts[1] / spread, "size_bytes": facts[2]}


def _table(rows: Sequence[Row]) -> Table:
    table = new_table(
        "Exports", ["network", "channels", "format"], ["equal", "difference", "bytes", "seconds"]
    )
    table.add_column("refused")
    for row in rows:
        table.add_row(*_cells(row))
    return table


def _cells(row: Row) -> Iterator[str]:
    yield from (row["network"], "half" if row["is_pruned"] else "all", row["format"])
    if not row["holds"]:
        yield from (*[MISSING] * 4, row["reason"])
        return
    yield f"{100 * row['equal_classes']:.0f} %"
    yield f"{row['difference']:.0e}"
    yield from (count(row["size_bytes"]), f"{row['seconds']:.1f}", "")
