"""The float formats: each writes a chain, with its metadata, to one path."""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from tascnet.errors import ExportError, first_line
from tascnet.exporting.metadata import Metadata
from tascnet.exporting.onnx_file import (
    example_of,
    onnx_model,
    with_metadata,
    with_preprocessing_inside,
    write_model,
    write_onnx,
)
from tascnet.exporting.programs import quiet, traced
from tascnet.exporting.runtimes import PT2_METADATA
from tascnet.models.info import info_of
from tascnet.run.files import write_whole

if TYPE_CHECKING:
    import onnx

Writer = Callable[[nn.Sequential, Path, str], Metadata]


@dataclass(frozen=True, kw_only=True)
class Format:
    """One kind of exported file.

    Args:
        write: a chain, a path and `inside` or `outside` to what the file says about itself.
        ending: of its path.
        tolerance: largest difference of an output from the network's, as a share of the outputs' spread.
    """

    write: Writer
    ending: str
    tolerance: float


def write_fp16(network: nn.Sequential, path: Path, preprocess: str) -> Metadata:
    """ONNX with weights and arithmetic in float16; input and output stay as they are."""
    metadata = Metadata.of(info_of(network), format="onnx_fp16", preprocess=preprocess)
    model = _in_fp16(onnx_model(network, example_of(network)))
    if metadata.preprocess == "inside":
        model = with_preprocessing_inside(model, metadata)
    write_model(path, with_metadata(model, metadata))
    return metadata


def _in_fp16(model: "onnx.ModelProto") -> "onnx.ModelProto":
    from onnxruntime.transformers.float16 import convert_float_to_float16

    try:
        with quiet():
            converted: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True)
    except Exception as error:
        raise ExportError(f"the network cannot be converted to float16 ({first_line(error)})") from error
    return converted


def write_pt2(network: nn.Sequential, path: Path, preprocess: str) -> Metadata:
    """A program of torch.export, for `torch.export.load`."""
    metadata = Metadata.of(info_of(network), format="pt2", preprocess="outside")
    program = traced(network, example_of(network))
    # Where the disk is full, torch's writer of files ends the process.
    content = BytesIO()
    with quiet():
        torch.export.save(program, content, extra_files={PT2_METADATA: json.dumps(metadata.encode())})
    write_whole(path, lambda temporary: temporary.write_bytes(content.getbuffer()))
    return metadata


def write_openvino(network: nn.Sequential, path: Path, preprocess: str) -> Metadata:
    """OpenVINO's `.xml`, with the weights in a `.bin` of the same name beside it."""
    import openvino

    metadata = Metadata.of(info_of(network), format="openvino", preprocess="outside")
    with tempfile.TemporaryDirectory(prefix="tascnet-export-") as folder:
        onnx_path, made = Path(folder) / "model.onnx", Path(folder) / path.name
        write_model(onnx_path, onnx_model(network, example_of(network)))
        try:
            model = openvino.Core().read_model(onnx_path)
            for name, text in metadata.encode().items():
                model.set_rt_info(text, ["tascnet", name])
            openvino.save_model(model, made, compress_to_fp16=False)
        except RuntimeError as error:
            raise ExportError(f"OpenVINO cannot take the network ({first_line(error)})") from error
        # The weights first: without them the other file is of no use.
        for ending in (".bin", ".xml"):
            write_whole(path.with_suffix(ending), partial(shutil.copyfile, made.with_suffix(ending)))
    return metadata


def write_executorch(network: nn.Sequential, path: Path, preprocess: str) -> Metadata:
    """ExecuTorch's `.pte` for XNNPACK, for one sample at a time; its method `metadata` returns the metadata.

    A `.pte` plans memory for the largest batch, and phones take one photo at a time.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    metadata = Metadata.of(info_of(network), format="executorch", preprocess="outside")
    program = traced(network, example_of(network), batch=1)
    constants = {"metadata": json.dumps(metadata.encode())}
    try:
        with quiet():
            lowered = to_edge_transform_and_lower(
                program, partitioner=[XnnpackPartitioner()], constant_methods=constants
            ).to_executorch()
    # Whatever its many passes meet.
    except Exception as error:
        raise ExportError(f"ExecuTorch cannot take the network ({first_line(error)})") from error
    write_whole(path, lambda temporary: temporary.write_bytes(lowered.buffer))
    return metadata


def _write_onnx(network: nn.Sequential, path: Path, preprocess: str) -> Metadata:
    return write_onnx(network, path, preprocess=preprocess)


FLOAT_FORMATS: Mapping[str, Format] = {
    "onnx": Format(write=_write_onnx, ending=".onnx", tolerance=1e-4),
    "onnx_fp16": Format(write=write_fp16, ending=".onnx", tolerance=1e-2),
    "pt2": Format(write=write_pt2, ending=".pt2", tolerance=1e-4),
    "openvino": Format(write=write_openvino, ending=".xml", tolerance=1e-4),
    "executorch": Format(write=write_executorch, ending=".pte", tolerance=1e-4),
}
