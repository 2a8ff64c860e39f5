"""int8 from a float ONNX file: static, one scale for each channel of weights, one for each activation.

The ranges of activations come from training samples. How they are cut, and which layers stay in float, is
chosen by the accuracy of the files that result.
"""

import copy
import logging
import platform
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tascnet.errors import ExportError, plural
from tascnet.exporting.metadata import Metadata
from tascnet.exporting.onnx_file import (
    onnx_session,
    read_metadata,
    read_model,
    with_metadata,
    write_model,
)
from tascnet.run.console import track
from tascnet.run.files import write_whole

log = logging.getLogger("tascnet")

# How the range of an activation follows from its values: it covers all of them, or so many percent, or it is
# that of the least squared error of rounding.
METHODS = ("minmax", "percentile 99.99", "percentile 99.9", "least squares")
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Activations that int8 makes part of the layer before them: its range begins or ends where they cut.
_CUTTING = ("Relu", "Clip")
_BINS = 2048
# Candidates for a range of least squares, as shares of the whole.
_SHARES = np.linspace(0.3, 1.0, 71)
_LEVELS = 255
# Bytes of all activations that are looked at at once.
_MEMORY = 256_000_000
# Samples by which layers are ranked.
_RANKING = 32
# Instruction sets by the flags of /proc/cpuinfo, the best first. Without one of `DOT_PRODUCTS` products of
# int8 are added up in 16 bits, which may saturate.
_FLAGS = ("amx_int8", "avx512_vnni", "avx_vnni", "asimddp", "avx512bw", "avx2", "asimd")
DOT_PRODUCTS = _FLAGS[:4]


@dataclass(frozen=True, kw_only=True)
class Observed:
    """The values of one activation.

    Args:
        low, high: the least and the largest.
        counts: histogram between the two, `_BINS`.
    """

    low: float
    high: float
    counts: NDArray[np.float64]

    def range_by(self, method: str) -> tuple[float, float]:
        """The range that int8 covers, by one of `METHODS`; values beyond it take its ends."""
        edges = np.linspace(self.low, self.high, _BINS + 1)
        if method == "minmax" or self.low == self.high:
            return self.low, self.high
        if method == "least squares":
            return self._least_squares(edges)
        outside = (1 - float(method.split()[1]) / 100) / 2
        below = np.cumsum(self.counts) / self.counts.sum()
        first, last = np.searchsorted(below, [outside, 1 - outside])
        return float(edges[first]), float(edges[min(last + 1, _BINS)])

    def _least_squares(self, edges: NDArray[np.float64]) -> tuple[float, float]:
        """The range, a share of the whole, of the least squared error of rounding and cutting."""
        centres = (edges[1:] + edges[:-1]) / 2
        low, high = min(self.low, 0.0), max(self.high, 0.0)

        def error(share: float) -> float:
            start, step = share * low, share * (high - low) / _LEVELS
            rounded = start + step * np.clip(np.round((centres - start) / step), 0, _LEVELS)
            return float((self.counts * (centres - rounded) ** 2).sum())

        best = min(_SHARES, key=error)
        return float(best * low), float(best * high)


def quantise(
    float_path: Path,
    int8_path: Path,
    batches: Iterable[Tensor],
    accuracy: Callable[[Path], float],
    *,
    tolerance: float,
    checked_on: str,
) -> Metadata:
    """Write an int8 file whose accuracy is at most `tolerance` below that of the float file.

    Args:
        float_path: one of our ONNX files, which takes what the network takes.
        int8_path: the file to write, whole or not at all.
        batches: training samples, which are read again and again: the ranges of activations come from them.
        accuracy: of an ONNX file on validation samples, in [0, 1].
        tolerance: largest fall of the accuracy.
        checked_on: the processor, for the metadata.

    Returns:
        What the file says about itself: among others how ranges were cut, and the layers in float.

    Raises:
        ExportError: accuracy falls further, even with half of the layers in float.
    """
    model, metadata = _loaded(float_path), read_metadata(float_path)
    observed, names = observe(model, batches), layer_names(model)
    wanted = accuracy(float_path)
    with tempfile.TemporaryDirectory(prefix="tascnet-int8-") as folder:
        path = Path(folder) / "model.onnx"

        def made(method: str, kept: Sequence[str]) -> Metadata:
            floats = tuple(name for node, name in names.items() if node in kept)
            own = replace(
                metadata, format="onnx_int8", calibration=method, float_layers=floats, checked_on=checked_on
            )
            found = quantised(model, _ranges(model, observed, method), exclude=kept)
            write_model(path, with_metadata(found, own))
            return own

        def fall(method: str, kept: Sequence[str] = ()) -> float:
            made(method, kept)
            found = accuracy(path)
            in_float = f", {plural(len(kept), 'layer')} in float" if kept else ""
            log.info("int8, %s%s: %.1f %% on validation", method, in_float, 100 * found)
            return wanted - found

        falls = {method: fall(method) for method in METHODS}
        method = min(falls, key=falls.__getitem__)
        kept: list[str] = []
        if not is_within(falls[method], tolerance):
            ranked = _ranked(model, _ranges(model, observed, method), batches)
            kept = _fewest(ranked, lambda layers: is_within(fall(method, layers), tolerance))
            if not kept:
                raise ExportError(
                    f"int8 lowers validation accuracy by {100 * falls[method]:.1f} points, and with half of "
                    f"the layers in float still by more than `int8_tolerance={tolerance}`",
                    "raise it, or export without int8",
                )
        metadata = made(method, kept)
        write_whole(int8_path, lambda place: place.write_bytes(path.read_bytes()))
    return metadata


def quantise_plain(
    float_path: Path, int8_path: Path, batches: Iterable[Tensor], *, float_layers: Sequence[str] = ()
) -> None:
    """Write the int8 file of a float one by its plain ranges, which runs as fast as any other one.

    Args:
        float_path: an ONNX file.
        int8_path: the file to write, whole or not at all.
        batches: samples, which are read more than once; they may be noise.
        float_layers: names of layers that stay in float.

    Raises:
        ExportError: the file lacks one of these.
    """
    model = _loaded(float_path)
    names = layer_names(model)
    if unknown := sorted(set(float_layers) - set(names.values())):
        raise ExportError(f"{float_path} has no layer {unknown[0]}, which is to stay in float")
    kept = [node for node, name in names.items() if name in float_layers]
    ranges = _ranges(model, observe(model, batches), METHODS[0])
    write_model(int8_path, quantised(model, ranges, exclude=kept))


def is_within(fall: float, tolerance: float) -> bool:
    """Whether accuracy falls by at most `tolerance`."""
    # A difference of two shares is exact to rounding alone.
    return fall <= tolerance + 1e-9


def layer_names(model: Any) -> dict[str, str]:
    """The names of the layers with weights by those of their nodes, in the order of the graph."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return {
        node.name: node.input[1].removesuffix(".weight")
        for node in model.graph.node
        if node.op_type in LAYERS and node.input[1] in weights
    }


def instruction_set() -> str | None:
    """The best instruction set for int8 that this processor has; None: unknown."""
    flags = _cpu_flags()
    if not flags:
        return None
    return next((flag for flag in _FLAGS if flag in flags), platform.machine())


def warn_without_vnni() -> None:
    """Warn, once in a process, where products of int8 may saturate."""
    _warn_once(instruction_set())


@cache
def _warn_once(found: str | None) -> None:
    if found is not None and found not in DOT_PRODUCTS:
        log.warning(
            "this processor has no VNNI (its best instruction set is %s): int8 is slower than on one that "
            "has it, and may be less accurate",
            found,
        )


def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    found = (line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(found, ()))


def observe(model: Any, batches: Iterable[Tensor]) -> dict[str, Observed]:
    """The values of the activations of a model on some samples, by the names of their tensors."""
    import onnx

    watched = _activations(model)
    open_graph = copy.deepcopy(model)
    present = {output.name for output in model.graph.output}
    open_graph.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in watched
        if name not in present
    )
    session = _session(open_graph)
    inputs = {value.name for value in model.graph.input}
    names = [name for name in watched if name not in inputs]
    samples = _few_at_once(session, names, batches)
    ends: dict[str, tuple[float, float]] = {}
    for values in _run(session, names, samples):
        for name, tensor in values.items():
            low, high = (float(end) for end in torch.aminmax(tensor))
            if not np.isfinite(high - low):
                raise ExportError(
                    f"the network gives values that are not finite ({name})", "export without int8"
                )
            before = ends.get(name, (low, high))
            ends[name] = min(before[0], low), max(before[1], high)
    counts = {name: torch.zeros(_BINS, dtype=torch.float64) for name in ends}
    for values in _run(session, names, samples):
        for name, tensor in values.items():
            low, high = ends[name]
            counts[name] += torch.histc(tensor.flatten(), _BINS, low, high)
    return {
        name: Observed(low=ends[name][0], high=ends[name][1], counts=counts[name].numpy()) for name in ends
    }


def _activations(model: Any) -> list[str]:
    """Names of the float tensors between nodes, but for those that take the range of the cut after them."""
    import onnx

    graph = model.graph
    values = (*graph.value_info, *graph.input, *graph.output)
    floats = {v.name for v in values if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    readers: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    ends = {output.name for output in graph.output}
    cut = {name for name, kinds in readers.items() if len(kinds) == 1 and kinds[0] in _CUTTING} - ends
    between = dict.fromkeys(name for node in graph.node for name in (*node.input, *node.output))
    weights = {tensor.name for tensor in graph.initializer}
    return [name for name in between if name in floats - weights - cut]


def _few_at_once(
    session: Any, names: Sequence[str], batches: Iterable[Tensor]
) -> Callable[[], Iterator[Tensor]]:
    """Reads samples, so few at once that their activations fit in memory."""
    one = next(iter(batches))[:1]
    size = sum(tensor.nbytes for values in _run(session, names, lambda: [one]) for tensor in values.values())
    count = max(1, _MEMORY // max(1, size))
    return lambda: (part for batch in batches for part in batch.split(count))


def _run(
    session: Any, names: Sequence[str], samples: Callable[[], Iterable[Tensor]]
) -> Iterator[dict[str, Tensor]]:
    """The tensors of these names, and float inputs, for each batch."""
    (entry,) = session.get_inputs()
    for batch in samples():
        array = np.ascontiguousarray(batch.cpu().numpy())
        outputs = session.run(list(names), {entry.name: array})
        own = {entry.name: torch.from_numpy(array)} if batch.is_floating_point() else {}
        yield own | {name: torch.from_numpy(out) for name, out in zip(names, outputs, strict=True)}


def _ranges(model: Any, observed: Mapping[str, Observed], method: str) -> dict[str, tuple[float, float]]:
    """What int8 covers of each activation."""
    ranges = {name: values.range_by(method) for name, values in observed.items()}
    for node in model.graph.node:
        if node.op_type in _CUTTING and node.output[0] in ranges:
            ranges.setdefault(node.input[0], ranges[node.output[0]])
    return ranges


def quantised(
    model: Any,
    ranges: Mapping[str, tuple[float, float]],
    *,
    exclude: Sequence[str] = (),
    only: Sequence[str] = (),
) -> Any:
    """The int8 copy of a float model, with QuantizeLinear and DequantizeLinear around its layers.

    Args:
        ranges: of all activations.
        exclude: nodes that stay in float.
        only: the nodes that do not; empty: all others.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.registry import QDQRegistry

    data = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in ranges.items()
    }
    quantizer = QDQQuantizer(
        copy.deepcopy(model),
        per_channel=True,
        # It would cost accuracy where there is VNNI.
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, data),
        nodes_to_quantize=list(only),
        nodes_to_exclude=list(exclude),
        op_types_to_quantize=list(QDQRegistry),
        extra_options={},
    )
    with _quiet():
        quantizer.quantize_model()
    found = quantizer.model.model
    _keep_outputs(found.graph)
    return found


def _keep_outputs(graph: Any) -> None:
    """Leave the outputs in float: among 256 levels the two best of many classes are often equal."""
    writers = {name: node for node in graph.node for name in node.output}
    for output in graph.output:
        last = writers[output.name]
        if last.op_type != "DequantizeLinear":
            continue
        before = writers[last.input[0]]
        layer = writers[before.input[0]]
        layer.output[0] = output.name
        for node in (last, before):
            graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings that ONNX Runtime writes to the root of all logs."""
    root = logging.getLogger()

    def nothing(_record: logging.LogRecord) -> bool:
        return False

    root.addFilter(nothing)
    try:
        yield
    finally:
        root.removeFilter(nothing)


def _ranked(model: Any, ranges: Mapping[str, tuple[float, float]], batches: Iterable[Tensor]) -> list[str]:
    """Layers by how much int8 in them alone changes the logits of a few training samples, the most first."""
    samples = next(iter(batches))[:_RANKING]
    wanted = _logits(model, samples)
    errors = {
        name: float((_logits(quantised(model, ranges, only=[name]), samples) - wanted).square().mean())
        for name in track(layer_names(model), "int8: rank the layers")
    }
    return sorted(errors, key=errors.__getitem__, reverse=True)


def _fewest(ranked: Sequence[str], is_enough: Callable[[list[str]], bool]) -> list[str]:
    """The fewest first ones of a ranking that are enough, by doubling and halving; empty: half is too few."""
    most, failed, count = len(ranked) // 2, 0, 1
    while count <= most and not is_enough(list(ranked[:count])):
        failed = count
        count = min(2 * count, most) if count < most else most + 1
    if count > most:
        return []
    while count - failed > 1:
        middle = (count + failed) // 2
        if is_enough(list(ranked[:middle])):
            count = middle
        else:
            failed = middle
    return list(ranked[:count])


def _logits(model: Any, samples: Tensor) -> Tensor:
    session = _session(model)
    (entry,) = session.get_inputs()
    return torch.from_numpy(session.run(None, {entry.name: np.ascontiguousarray(samples.numpy())})[0])


def _session(model: Any) -> Any:
    return onnx_session(model.SerializeToString(), torch.get_num_threads())


def _loaded(path: Path) -> Any:
    """A model with the types of all tensors, and a name for each node."""
    import onnx

    model = onnx.shape_inference.infer_shapes(read_model(path))
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{number}"
    return model
