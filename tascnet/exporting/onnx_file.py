"""ONNX files: written from a chain, with metadata, and read with care."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tascnet.errors import ExportError, first_line
from tascnet.exporting.metadata import Metadata
from tascnet.exporting.programs import quiet, traced
from tascnet.models.info import info_of
from tascnet.models.text import TextPreprocessing
from tascnet.run.files import check_regular, write_whole

if TYPE_CHECKING:
    import onnx

# The oldest that holds every operation of the preprocessing with its rounding (Resize with antialiasing: 18).
OPSET = 18
# Of a message of protobuf, and so of a file without external data.
LARGEST = (1 << 31) - 1
OUTPUT = "logits"
_HINT = "export the model again"


def input_name(preprocessing: Any) -> str:
    """`tokens` for texts, else `image`."""
    return "tokens" if isinstance(preprocessing, TextPreprocessing) else "image"


def write_onnx(network: nn.Sequential, path: Path, *, preprocess: str = "outside") -> Metadata:
    """Write a network as ONNX, whole or not at all; nothing is compared yet.

    Args:
        network: a chain with its `info`.
        path: of the file.
        preprocess: `outside`: the input is what the preprocessing returns, `n x c x h x w`, or `n x T` for
            texts; `inside`: upright RGB pixels `n x H x W x 3`, uint8. Texts are always prepared outside.

    Returns:
        What the file says about itself.

    Raises:
        ExportError: the network cannot be exported.
    """
    metadata = Metadata.of(info_of(network), format="onnx", preprocess=preprocess)
    model = onnx_model(network, example_of(network))
    if metadata.preprocess == "inside":
        model = with_preprocessing_inside(model, metadata)
    write_model(path, with_metadata(model, metadata))
    return metadata


def example_of(network: nn.Sequential) -> Tensor:
    """One sample as a chain with `info` takes it: zeros, `1 x ...`."""
    preprocessing = info_of(network).preprocessing
    is_text = isinstance(preprocessing, TextPreprocessing)
    return torch.zeros(preprocessing.example_shape, dtype=torch.int64 if is_text else torch.float32)


def with_preprocessing_inside(model: "onnx.ModelProto", metadata: Metadata) -> "onnx.ModelProto":
    """The model that takes upright pixels, from the one that takes what the preprocessing returns."""
    from tascnet.exporting.pixels import with_preprocessing

    assert not isinstance(metadata.preprocessing, TextPreprocessing)
    return with_preprocessing(model, metadata.preprocessing)


def onnx_model(network: nn.Sequential, example: Tensor) -> "onnx.ModelProto":
    """A chain as ONNX: `image` or, for whole numbers, `tokens` of any batch to `logits`; without metadata.

    Args:
        network: a chain; its plain copy is exported.
        example: one sample, `1 x ...`.

    Raises:
        ExportError: torch cannot export it, or the file would have more than 2 GB.
    """
    size = sum(tensor.nbytes for tensor in network.state_dict().values())
    if size >= LARGEST:
        raise ExportError(
            f"the network takes {size / 1e9:.1f} GB, more than the 2 GB of an ONNX file", "use pt2"
        )
    program = traced(network, example)
    try:
        with quiet():
            exported = torch.onnx.export(
                program,
                (),
                dynamo=True,
                opset_version=OPSET,
                input_names=["image" if example.is_floating_point() else "tokens"],
                output_names=[OUTPUT],
                external_data=False,
                # As newer versions of torch do unless told.
                optimize=True,
                verbose=False,
            )
        assert exported is not None
        model = exported.model_proto
    # Whatever torch's exporter and onnxscript meet.
    except Exception as error:
        raise ExportError(f"torch cannot export the network to ONNX ({first_line(error)})") from error
    _tidy(model)
    return model


def with_metadata(model: "onnx.ModelProto", metadata: Metadata) -> "onnx.ModelProto":
    """The model itself, with these metadata alone."""
    import onnx

    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata.encode())
    return model


def write_model(path: Path, model: "onnx.ModelProto") -> None:
    """Write a model to one file, whole or not at all."""
    content = model.SerializeToString()
    write_whole(path, lambda temporary: temporary.write_bytes(content))


def read_metadata(path: Path) -> Metadata:
    """The metadata of one of our ONNX files, whose external data lie in its folder.

    Raises:
        ExportError: it is missing, unreadable, too large, foreign, or has data elsewhere.
    """
    return Metadata.decode({entry.key: entry.value for entry in read_model(path).metadata_props}, path)


def read_model(path: Path) -> "onnx.ModelProto":
    """The graph of an ONNX file, without external data, which must lie in its folder.

    Raises:
        ExportError: it is missing, unreadable, too large, or has data elsewhere.
    """
    import onnx

    check_file(path)
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    # Of protobuf, which is no dependency of its own.
    except Exception as error:
        raise ExportError(f"{path} is no ONNX file, or it is damaged", _HINT) from error
    _check_external_data(model, path)
    return model


def onnx_session(model: Path | bytes, threads: int) -> Any:
    """A session of ONNX Runtime, of a file or of a model's bytes.

    Raises:
        ExportError: ONNX Runtime refuses the model.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Threads that wait within a pass spin, which makes small networks a quarter faster; after it they would
    # take the processor from whatever comes next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # Fatal errors alone: all others are raised.
    options.log_severity_level = 4
    content = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    # Of ONNX Runtime and of protobuf; the classes are not public.
    except Exception as error:
        what = "a model" if isinstance(model, bytes) else model
        raise ExportError(f"ONNX Runtime cannot open {what} ({first_line(error)})") from error


def check_file(path: Path) -> None:
    """Raise unless a path is a regular file of at most `LARGEST` bytes.

    Raises:
        ExportError: it is not.
    """
    try:
        check_regular(path, most=LARGEST)
    except FileNotFoundError as error:
        raise ExportError(f"there is no file {path}", "give the path of an exported file") from error
    except OSError as error:
        raise ExportError(f"{path} cannot be read ({first_line(error)})") from error


def _check_external_data(model: "onnx.ModelProto", path: Path) -> None:
    folder, total = os.path.realpath(path.parent), path.stat().st_size
    seen = set()
    for tensor in _tensors(model):
        if not tensor.external_data and tensor.data_location != tensor.EXTERNAL:
            continue
        locations = [entry.value for entry in tensor.external_data if entry.key == "location"]
        # Readers differ in which of several they take.
        location = locations[0] if len(locations) == 1 and "\0" not in locations[0] else ""
        target = os.path.realpath(os.path.join(folder, location))
        is_plain = location and not os.path.isabs(location) and ".." not in Path(location).parts
        if not is_plain or os.path.commonpath((folder, target)) != folder:
            raise ExportError(f"{path} keeps weights outside its folder, at {location[:200]!r}", _HINT)
        if target not in seen:
            seen.add(target)
            try:
                check_regular(Path(target))
            except OSError as error:
                raise ExportError(f"{path} lacks its weights {location[:200]!r} ({error})", _HINT) from error
            total += os.path.getsize(target)
    if total > 2 * LARGEST:
        raise ExportError(f"{path} takes {total / 1e9:.1f} GB, expected at most 4 GB")


def _tensors(message: Any) -> "Iterator[onnx.TensorProto]":
    """All tensors of a message, wherever they lie."""
    import onnx

    waiting = [message]
    while waiting:
        found = waiting.pop()
        if isinstance(found, onnx.TensorProto):
            yield found
            continue
        for field, value in found.ListFields():
            if field.message_type is not None:
                waiting += (
                    [value] if isinstance(value, type(found)) or hasattr(value, "ListFields") else value
                )


def _tidy(model: "onnx.ModelProto") -> None:
    """Name the batch `n`, and drop the notes of the exporter: where each operation came from."""
    graph = model.graph
    batch = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == batch:
                dim.dim_param = "n"
    graph.name = "network"
    model.producer_name, model.doc_string = "tascnet", ""
    for item in (
        model,
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
    ):
        del item.metadata_props[:]
        item.doc_string = ""
