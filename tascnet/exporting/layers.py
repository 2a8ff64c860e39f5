"""The layers with weights of a network, and each of them alone in a runtime of exported files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from tascnet.exporting import installed
from tascnet.exporting.onnx_file import OPSET, onnx_session
from tascnet.exporting.runtimes import openvino_model
from tascnet.models.inspect import evaluating, hooked, input_for
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
        return _key(self)

    @property
    def size(self) -> tuple[int, int]:
        """Channels of its input and of its output."""
        return self.inputs[1], self.outputs[1]

    @property
    def family(self) -> str:
        """A digest of all but its size."""
        return _family(self)

    def resized(self, inputs: int, outputs: int) -> Self:
        """The layer with so many channels; a grouped convolution has as many groups as the outputs need."""
        weights, groups = (outputs, inputs, *self.weights[2:]), self.groups
        if self.groups > 1:
            groups = -(-outputs * self.groups // self.weights[0])
            outputs, inputs = groups * (self.weights[0] // self.groups), groups * self.weights[1]
            weights = (outputs, *self.weights[1:])
        return replace(
            self,
            inputs=(self.inputs[0], inputs, *self.inputs[2:]),
            outputs=(self.outputs[0], outputs, *self.outputs[2:]),
            weights=weights,
            groups=groups,
        )


@lru_cache(maxsize=1 << 16)
def _key(layer: Layer) -> str:
    return digest_json(asdict(layer))


@lru_cache(maxsize=1 << 16)
def _family(layer: Layer) -> str:
    inputs, outputs = (1, 1) if layer.groups == 1 else (layer.weights[1], layer.weights[0] // layer.groups)
    return digest_json([asdict(layer.resized(inputs, outputs)), layer.groups > 1])


# A layer that computes next to nothing: what it takes is the price of a pass.
EMPTY = Layer(inputs=(1, 1), outputs=(1, 1), weights=(1, 1))


def layers_of(network: nn.Module, example: Tensor) -> list[Layer]:
    """Every convolution and linear layer of a network, as often as one pass computes it.

    Args:
        network: on the CPU; it is left as it was.
        example: one sample `1 x ...`.
    """
    return [layer for _, layer in named_layers(network, example)]


def named_layers(network: nn.Module, example: Tensor) -> list[tuple[str, Layer]]:
    """As `layers_of`, each with the name of the module without children that computes it, or none ("")."""
    recorder = _LayerRecorder()
    handles = []
    for name, module in network.named_modules():
        if not any(module.children()):
            handles += [
                module.register_forward_pre_hook(partial(recorder.enter, name)),
                module.register_forward_hook(partial(recorder.enter, "")),
            ]
    with evaluating(network), torch.no_grad(), hooked(handles), recorder:
        network(input_for(network, example))
    return recorder.layers


class _LayerRecorder(TorchDispatchMode):
    """Notes the layers among the operations of a pass, whichever module or function computes them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layers: list[tuple[str, Layer]] = []
        self._name = ""

    def enter(self, name: str, *_: object) -> None:
        """The module that computes what follows."""
        self._name = name

    def __torch_dispatch__(
        self, function: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        outputs = function(*args, **(kwargs or {}))
        name = function.overloadpacket
        if name is torch.ops.aten.convolution and not args[6]:
            samples, weights, _, stride, padding, dilation, *_, groups = args
            sides = weights.ndim - 2
            layer = Layer(
                inputs=tuple(samples.shape),
                outputs=tuple(outputs.shape),
                weights=tuple(weights.shape),
                # One number stands for all sides.
                stride=tuple(stride) * (sides // len(stride)),
                padding=tuple(padding) * (sides // len(padding)),
                dilation=tuple(dilation) * (sides // len(dilation)),
                groups=groups,
            )
            self.layers.append((self._name, layer))
        elif name in (torch.ops.aten.addmm, torch.ops.aten.mm):
            samples, weights = args[-2:]
            layer = Layer(
                inputs=tuple(samples.shape),
                outputs=tuple(outputs.shape),
                weights=tuple(reversed(weights.shape)),
            )
            self.layers.append((self._name, layer))
        return outputs


def layer_call(
    layer: Layer, runtime: str, threads: int, device: torch.device | str = "cpu"
) -> Callable[[], object]:
    """A function that makes one pass of a layer alone.

    Args:
        runtime: `eager`, `onnxruntime`, `onnxruntime_int8` or `openvino`.
        threads: CPU threads; in eager PyTorch those of torch are used.
        device: of a layer in eager PyTorch.

    Raises:
        ConfigError: the runtime is not installed.
        ExportError: the runtime cannot run the layer.
    """
    installed.need(runtime)
    if runtime == "eager":
        return _eager_call(layer, device)
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


def _eager_call(layer: Layer, device: torch.device | str) -> Callable[[], object]:
    samples, weights = (torch.full(shape, _WEIGHT, device=device) for shape in (layer.inputs, layer.weights))
    bias = torch.zeros(layer.weights[0], device=device)
    if samples.ndim == 4:
        samples, weights = (one.contiguous(memory_format=torch.channels_last) for one in (samples, weights))
    own: tuple[Any, ...] = (
        () if layer.is_linear else (layer.stride, layer.padding, layer.dilation, layer.groups)
    )
    sides = len(layer.weights) - 2
    function: Any = {
        0: functional.linear,
        1: functional.conv1d,
        2: functional.conv2d,
        3: functional.conv3d,
    }[sides]

    @torch.inference_mode()
    def call() -> None:
        function(samples, weights, bias, *own)
        if samples.device.type != "cpu":
            torch.accelerator.synchronize(samples.device)

    return call


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
