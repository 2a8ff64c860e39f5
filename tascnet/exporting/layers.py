"""The layers with weights of a network, and each of them alone in a runtime of exported files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tascnet.exporting import installed
from tascnet.exporting.onnx_file import OPSET, onnx_session
from tascnet.exporting.runtimes import openvino_model
from tascnet.models.inspect import evaluating, input_for
from tascnet.run.files import digest_json

# Older than any package that reads the models of one layer.
IR_VERSION = 8
# How long a layer takes does not depend on its numbers.
_WEIGHT, _SCALE, _ZERO = 0.01, 0.05, 128


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What decides how long a convolution or a linear layer takes.

    Args:
        inputs: shape of its input, `1 x c x h x w`, `1 x c x T` or `rows x c`.
        outputs: shape of its output.
        weights: shape of its weights, `outputs x inputs of a group x kernel`.
        stride, padding, dilation: of a convolution, one number a side; none of a linear layer.
        groups: of a convolution.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    weights: tuple[int, ...]
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    @property
    def is_linear(self) -> bool:
        return len(self.weights) == 2

    @property
    def key(self) -> str:
        """A digest of all of it."""
        return digest_json(asdict(self))


# A layer that computes next to nothing: what it takes is the price of a pass.
EMPTY = Layer(inputs=(1, 1), outputs=(1, 1), weights=(1, 1))


def layers_of(network: nn.Module, example: Tensor) -> list[Layer]:
    """Every convolution and linear layer of a network, as often as one pass computes it.

    Args:
        network: on the CPU; it is left as it was.
        example: one sample `1 x ...`.
    """
    with evaluating(network), torch.no_grad(), _LayerRecorder() as recorder:
        network(input_for(network, example))
    return recorder.layers


class _LayerRecorder(TorchDispatchMode):
    """Notes the layers among the operations of a pass, whichever module or function computes them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layers: list[Layer] = []

    def __torch_dispatch__(
        self, function: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        outputs = function(*args, **(kwargs or {}))
        name = function.overloadpacket
        if name is torch.ops.aten.convolution and not args[6]:
            samples, weights, _, stride, padding, dilation, *_, groups = args
            sides = weights.ndim - 2
            self.layers.append(
                Layer(
                    inputs=tuple(samples.shape),
                    outputs=tuple(outputs.shape),
                    weights=tuple(weights.shape),
                    # One number stands for all sides.
                    stride=tuple(stride) * (sides // len(stride)),
                    padding=tuple(padding) * (sides // len(padding)),
                    dilation=tuple(dilation) * (sides // len(dilation)),
                    groups=groups,
                )
            )
        elif name in (torch.ops.aten.addmm, torch.ops.aten.mm):
            samples, weights = args[-2:]
            self.layers.append(
                Layer(
                    inputs=tuple(samples.shape),
                    outputs=tuple(outputs.shape),
                    weights=tuple(reversed(weights.shape)),
                )
            )
        return outputs


def layer_call(layer: Layer, runtime: str, threads: int) -> Callable[[], object]:
    """A function that makes one pass of a layer alone.

    Args:
        runtime: `onnxruntime`, `onnxruntime_int8` or `openvino`.
        threads: CPU threads.

    Raises:
        ConfigError: the runtime is not installed.
        ExportError: the runtime cannot run the layer.
    """
    installed.need(runtime)
    model = _layer_model(layer, is_int8=runtime == "onnxruntime_int8").SerializeToString()
    if runtime == "openvino":
        _, compiled = openvino_model(model, threads)
        request = compiled.create_infer_request()
        samples = np.full(layer.inputs, _WEIGHT, np.float32)
        return lambda: request.infer([samples])
    session = onnx_session(model, threads)
    kind = np.uint8 if runtime == "onnxruntime_int8" else np.float32
    given = {"input": np.full(layer.inputs, 1, kind)}
    return lambda: session.run(["output"], given)


def _layer_model(layer: Layer, *, is_int8: bool) -> Any:
    """A model of one layer; the input and output of one in int8 are integers, as between two layers."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kind = TensorProto.UINT8 if is_int8 else TensorProto.FLOAT
    constants: dict[str, Any] = {"bias": np.zeros(layer.weights[0], np.int32 if is_int8 else np.float32)}
    if is_int8:
        constants |= {
            "scale": np.float32(_SCALE),
            "zero": np.uint8(_ZERO),
            "weights": np.ones(layer.weights, np.int8),
            "scales": np.full(layer.weights[0], _WEIGHT, np.float32),
            "zeros": np.zeros(layer.weights[0], np.int8),
            "bias_scales": np.full(layer.weights[0], _WEIGHT * _SCALE, np.float32),
            "bias_zeros": np.zeros(layer.weights[0], np.int32),
        }
        node = helper.make_node
        nodes = [
            node("DequantizeLinear", ["input", "scale", "zero"], ["x"]),
            node("DequantizeLinear", ["weights", "scales", "zeros"], ["w"], axis=0),
            node("DequantizeLinear", ["bias", "bias_scales", "bias_zeros"], ["b"], axis=0),
            _layer_node(layer, ["x", "w", "b"], "y"),
            node("QuantizeLinear", ["y", "scale", "zero"], ["output"]),
        ]
    else:
        constants["weights"] = np.full(layer.weights, _WEIGHT, np.float32)
        nodes = [_layer_node(layer, ["input", "weights", "bias"], "output")]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("input", kind, layer.inputs)],
        [helper.make_tensor_value_info("output", kind, layer.outputs)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return model


def _layer_node(layer: Layer, inputs: Sequence[str], output: str) -> Any:
    from onnx import helper

    if layer.is_linear:
        return helper.make_node("Gemm", inputs, [output], transB=1)
    return helper.make_node(
        "Conv",
        inputs,
        [output],
        kernel_shape=layer.weights[2:],
        strides=layer.stride,
        # Before and after each side.
        pads=layer.padding * 2,
        dilations=layer.dilation,
        group=layer.groups,
    )
