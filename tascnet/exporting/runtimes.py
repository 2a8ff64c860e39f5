"""Exported files as functions: ONNX Runtime, OpenVINO and torch.export; and networks in any runtime."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tascnet.errors import ExportError, first_line, listed
from tascnet.exporting import installed
from tascnet.exporting.metadata import Metadata
from tascnet.exporting.onnx_file import (
    OUTPUT,
    check_file,
    input_name,
    onnx_model,
    onnx_session,
    read_metadata,
    write_model,
)
from tascnet.exporting.programs import quiet, traced
from tascnet.models.describe import describe
from tascnet.run.files import digest_json

PT2_METADATA = "tascnet.json"
# The packages on which an exported file depends.
_VERSIONS = ("tascnet", "torch", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True, kw_only=True)
class Runnable:
    """A network in some runtime: a batch to `logits`, `n x classes`, float32 on the CPU.

    Args:
        run: from a contiguous array to the outputs; wrong inputs raise whatever the runtime raises.
        runtime: `eager`, `compile`, `pt2`, `onnxruntime`, `onnxruntime_int8` or `openvino`.
        threads: CPU threads. Those of `eager`, `compile` and `pt2` are torch's at the time of the call.
        metadata: of its file; None where it has none.
    """

    run: Callable[[NDArray[Any]], NDArray[Any]]
    runtime: str
    threads: int
    metadata: Metadata | None = None

    def __call__(self, batch: Tensor | NDArray[Any]) -> Tensor:
        """Outputs of a batch.

        Args:
            batch: `n x c x h x w` in float32 or `n x T` in int64, as the preprocessing returns it; for a file
                with the preprocessing inside `n x H x W x 3`, uint8.

        Raises:
            ExportError: the runtime does not take it.
        """
        array = np.ascontiguousarray(batch.detach().cpu().numpy() if isinstance(batch, Tensor) else batch)
        try:
            outputs = self.run(array)
        # Each runtime has errors of its own.
        except Exception as error:
            shape = " x ".join(map(str, array.shape))
            raise ExportError(
                f"{self.runtime} cannot run a batch of {shape}, {array.dtype} ({first_line(error)})"
            ) from error
        return torch.from_numpy(np.array(outputs, dtype=np.float32))


def open_file(path: str | Path, *, threads: int | None = None) -> Runnable:
    """An exported file as a function.

    A `.pt2` is read by torch, which takes it for trustworthy: open only your own. The other ones cannot run
    code.

    Args:
        path: of an `.onnx`, `.xml` (OpenVINO, with its `.bin` beside it), `.pt2` or `.pte` of tascnet.
        threads: CPU threads; None: torch's number.

    Raises:
        ConfigError: the packages of its runtime are not installed.
        ExportError: it is missing, damaged, foreign, too large, or keeps data outside its folder.
    """
    path, threads = Path(path), threads or torch.get_num_threads()
    openers = {".onnx": _open_onnx, ".xml": _open_openvino, ".pt2": _open_pt2, ".pte": _open_executorch}
    opener = openers.get(path.suffix.lower())
    if opener is None:
        raise ExportError(f"{path} is no exported file", f"give one that ends in {listed(openers)}")
    return opener(path, threads)


def runnable(
    network: nn.Sequential,
    runtime: str,
    example: Tensor,
    *,
    threads: int,
    folder: Path,
    float_layers: Sequence[str] = (),
) -> Runnable:
    """A network in a runtime, to be timed; what it computes is not compared with the network.

    Args:
        network: a chain; `eager` runs itself, in eval mode from now on, the other ones its plain copy.
        runtime: `eager`, `compile`, `onnxruntime`, `onnxruntime_int8` or `openvino`.
        example: one sample, `1 x ...`.
        threads: CPU threads; for `eager` and `compile` the caller sets torch's.
        folder: keeps the files by `structure_digest`; a structure is exported once.
        float_layers: layers that `onnxruntime_int8` leaves in float, as `ExportedFile` names them.

    Raises:
        ConfigError: the runtime is not installed.
        ExportError: the network cannot be exported.
    """
    installed.need(runtime)
    if runtime == "eager":
        return _in_torch(network.eval(), runtime, threads)
    if runtime == "compile":
        return _compiled(network, example, threads)
    path = folder / f"{structure_digest(network, example)}.onnx"
    if not path.exists():
        write_model(path, onnx_model(network, example))
    if runtime == "openvino":
        return _openvino_session(path, threads, has_metadata=False)
    if runtime == "onnxruntime_int8":
        path = _int8_of(path, example, float_layers)
    return _onnx_session(path, threads, None, runtime)


def structure_digest(network: nn.Sequential, example: Tensor) -> str:
    """A digest of a network's structure, of its input, and of the packages that export it.

    Networks that differ in their weights alone have the same one.
    """
    return digest_json(
        {
            "structure": describe(network),
            "example": [list(example.shape), str(example.dtype)],
            "versions": {name: _version(name) for name in _VERSIONS},
        }
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _int8_of(path: Path, example: Tensor, float_layers: Sequence[str]) -> Path:
    """The int8 file of a float one, with ranges of noise: its time does not depend on them."""
    from tascnet.exporting.int8 import quantise_plain

    mixed = f"-{digest_json(sorted(float_layers))}" if float_layers else ""
    quantised = path.with_name(f"{path.stem}-int8{mixed}.onnx")
    if not quantised.exists():
        generator = torch.Generator().manual_seed(0)
        shape = (4, *example.shape[1:])
        if example.is_floating_point():
            noise = torch.randn(shape, generator=generator)
        else:
            noise = torch.zeros(shape, dtype=example.dtype)
        quantise_plain(path, quantised, [noise], float_layers=float_layers)
    return quantised


def _in_torch(network: nn.Module, runtime: str, threads: int, metadata: Metadata | None = None) -> Runnable:
    # On its own device; the way there and back is part of what a caller waits for.
    place = next(iter(network.parameters()), torch.empty(0)).device

    def run(array: NDArray[Any]) -> NDArray[Any]:
        with torch.inference_mode():
            outputs: Tensor = network(torch.from_numpy(array).to(place))
        return outputs.float().cpu().numpy()

    return Runnable(run=run, runtime=runtime, threads=threads, metadata=metadata)


def _compiled(network: nn.Sequential, example: Tensor, threads: int) -> Runnable:
    """Each network is traced on its own: torch.compile stops at eight variants of one piece of code."""
    module = traced(network, example).module()
    compiled = torch.compile(module, fullgraph=True, dynamic=False)
    seen: set[tuple[int, ...]] = set()

    def run(array: NDArray[Any]) -> NDArray[Any]:
        images = torch.from_numpy(array)
        with torch.no_grad():
            if array.shape not in seen:
                with quiet():
                    compiled(images)
                seen.add(array.shape)
            outputs: Tensor = compiled(images)
        return outputs.numpy()

    return Runnable(run=run, runtime="compile", threads=threads)


def _open_onnx(path: Path, threads: int) -> Runnable:
    installed.need("onnx", "path")
    metadata = read_metadata(path)
    name = "onnxruntime_int8" if metadata.format == "onnx_int8" else "onnxruntime"
    return _onnx_session(path, threads, metadata, name)


def _onnx_session(path: Path, threads: int, metadata: Metadata | None, runtime: str) -> Runnable:
    session = onnx_session(path, threads)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or not outputs:
        raise ExportError(f"{path} has {len(inputs)} inputs, expected one")
    if metadata is not None:
        _check_ends(path, metadata, inputs[0], outputs[0])
    given, wanted = inputs[0].name, [outputs[0].name]
    return Runnable(
        run=lambda array: session.run(wanted, {given: array})[0],
        runtime=runtime,
        threads=threads,
        metadata=metadata,
    )


def _check_ends(path: Path, metadata: Metadata, given: Any, output: Any) -> None:
    """Raise unless a graph's input and output are those that its metadata promise."""
    sample: list[Any] = list(metadata.preprocessing.example_shape[1:])
    kind, shape, name = "tensor(float)", sample, input_name(metadata.preprocessing)
    if metadata.preprocess == "inside":
        kind, shape = "tensor(uint8)", ["H", "W", 3]
    elif name == "tokens":
        kind = "tensor(int64)"
    found = list(given.shape)[1:]
    fits = len(found) == len(shape) and all(
        not isinstance(wanted, int) or size == wanted for size, wanted in zip(found, shape, strict=True)
    )
    if given.name != name or given.type != kind or not fits:
        raise ExportError(f"{path} takes {given.name} {given.type} {given.shape}, not what its metadata say")
    classes = len(metadata.class_names)
    if output.name != OUTPUT or len(output.shape) != 2 or output.shape[1] != classes:
        raise ExportError(
            f"{path} gives {output.name} {output.shape}, expected {OUTPUT} of {classes} classes"
        )


def _open_openvino(path: Path, threads: int) -> Runnable:
    installed.need("openvino", "path")
    for part in (path, path.with_suffix(".bin")):
        check_file(part)
    return _openvino_session(path, threads, has_metadata=True)


def openvino_model(content: Path | bytes, threads: int) -> tuple[Any, Any]:
    """A model as OpenVINO reads it from a file or from the bytes of an ONNX model, and compiled.

    Raises:
        ExportError: OpenVINO refuses the model.
    """
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    try:
        model = core.read_model(content)
        return model, core.compile_model(model, "CPU", settings)
    except RuntimeError as error:
        what = "a model" if isinstance(content, bytes) else content
        raise ExportError(f"OpenVINO cannot open {what} ({first_line(error)})") from error


def _openvino_session(path: Path, threads: int, *, has_metadata: bool) -> Runnable:
    model, compiled = openvino_model(path, threads)
    metadata = _openvino_metadata(model, path) if has_metadata else None
    request = compiled.create_infer_request()
    return Runnable(
        run=lambda array: np.array(request.infer([array])[0]),
        runtime="openvino",
        threads=threads,
        metadata=metadata,
    )


def _openvino_metadata(model: Any, path: Path) -> Metadata:
    places = {field.name: ["tascnet", field.name] for field in fields(Metadata)}
    texts = {
        name: model.get_rt_info(place).astype(str)
        for name, place in places.items()
        if model.has_rt_info(place)
    }
    return Metadata.decode(texts, path)


def _open_pt2(path: Path, threads: int) -> Runnable:
    check_file(path)
    extra: dict[str, Any] = {PT2_METADATA: ""}
    try:
        with quiet():
            module = torch.export.load(path, extra_files=extra).module()
        texts = json.loads(extra[PT2_METADATA] or "{}")
    # Of zip archives, JSON and torch.
    except Exception as error:
        raise ExportError(f"torch cannot open {path} ({first_line(error)})") from error
    return _in_torch(module, "pt2", threads, Metadata.decode(texts, path))


def _open_executorch(path: Path, threads: int) -> Runnable:
    installed.need("executorch", "path")
    from executorch.runtime import Runtime

    check_file(path)
    try:
        program = Runtime.get().load_program(path)
        is_ours = "metadata" in program.method_names
        texts = json.loads(program.load_method("metadata").execute([])[0]) if is_ours else {}
        method = program.load_method("forward")
    # Of its own extension, and JSON's.
    except Exception as error:
        raise ExportError(f"ExecuTorch cannot open {path} ({first_line(error)})") from error

    def run(array: NDArray[Any]) -> NDArray[Any]:
        # It takes one sample at a time.
        rows = torch.from_numpy(array).split(1)
        return np.concatenate([method.execute([row.contiguous()])[0].numpy() for row in rows])

    # Its threads are those of XNNPACK, which takes no number.
    return Runnable(
        run=run,
        runtime="executorch",
        threads=threads,
        metadata=Metadata.decode(texts, path),
    )
