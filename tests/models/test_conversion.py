"""Networks with one peculiarity each, as chains."""

import copy
import inspect
import random
import types
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tascnet
from tascnet.errors import ArchiveError, ConversionError
from tascnet.models.blocks import Concat, Residual
from tascnet.models.conversion import Converted, convert
from tascnet.models.describe import construct, describe
from tascnet.models.graph import Graph
from tascnet.models.layers import Conv2dSame, LayerNorm2d, LayerScale, Offset, Permute, StochasticDepth

EXAMPLE = torch.zeros(1, 3, 8, 8)


def images(count: int = 2, side: int = 8) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(3))


def conv(inputs: int, outputs: int, kernel: int = 3, **settings: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **settings)


def shaken(module: nn.Module) -> nn.Module:
    """Eval mode, with weights and statistics that are no neutral values."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            values = torch.rand(tensor.shape, generator=generator)
            tensor.copy_(values + 0.5 if name.endswith("running_var") else values - 0.4)
    return module.eval()


def converted(module: nn.Module, example: Tensor = EXAMPLE, **options: Any) -> Converted:
    """The conversion, whose chain can be described, and equals the module for another batch."""
    result = convert(shaken(module), example, **options)
    chain = construct(describe(result.chain)).eval()
    chain.load_state_dict(result.chain.state_dict())
    x = images(5, example.shape[-1])
    with torch.no_grad():
        expected, came = module(x.clone()), chain(x.clone())
    assert expected.std() > 1e-6
    tolerance = 1e-5 if result.rewritten else 0.0
    torch.testing.assert_close(came, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))
    return result


def names(chain: nn.Module) -> list[str]:
    return [name for name, _ in chain.named_children()]


def operations(graph: nn.Module) -> list[str]:
    assert isinstance(graph, Graph)
    return [step.operation for step in graph.steps]


class Headed(nn.Module):
    """Features `b x 8 x h x w` of `body`, between a convolution and a classifier."""

    def __init__(self, body: nn.Module | None = None) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        if body is not None:
            self.body = body
        self.fc = nn.Linear(8, 4)

    def between(self, x: Tensor) -> Tensor:
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.between(self.stem(x)).mean((2, 3)))


class Excite(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduce = conv(width, 4, 1)
        self.expand = conv(4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = F.adaptive_avg_pool2d(x, 1)
        gate = torch.sigmoid(self.expand(F.relu(self.reduce(gate))))
        return x * gate


class TwoBranches(nn.Module):
    """What users write: two branches, a squeeze-and-excitation, one activation for all, a function."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.SiLU(inplace=True)
        self.stem = conv(3, 8)
        self.norm = nn.BatchNorm2d(8)
        self.wide = conv(8, 6, 5)
        self.narrow = conv(8, 6, 1)
        self.excite = Excite(12)
        self.drop = nn.Dropout(0.3)
        self.fc = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.stem(x)))
        x = torch.cat([self.act(self.wide(x)), self.narrow(x)], dim=1)
        x = F.relu(self.excite(x))
        x = x.mean(dim=(2, 3))
        return self.fc(self.drop(x))


def test_users_network_becomes_blocks() -> None:
    result = converted(TwoBranches())
    chain = result.chain
    expected = ["stem", "norm", "act", "cat", "excite", "relu", "mean", "flatten", "drop", "classifier"]
    assert names(chain) == expected
    assert operations(chain.cat) == ["layer", "layer", "layer", "cat"]
    assert names(chain.cat) == ["wide", "act", "narrow"]
    assert operations(chain.excite) == ["layer"] * 5 + ["mul"]
    assert [type(chain.get_submodule(name)) for name in ("act", "relu", "mean", "flatten")] == [
        nn.SiLU,
        nn.ReLU,
        nn.AdaptiveAvgPool2d,
        nn.Flatten,
    ]
    assert chain.drop.p == 0.3
    assert result.rewritten == ()
    assert result.keys["excite.expand.weight"] == "excite.expand.weight"
    assert result.keys["classifier.bias"] == "fc.bias"
    assert set(result.keys.values()) == set(TwoBranches().state_dict())


class Basic(nn.Module):
    """A residual block with one activation object and an in-place sum."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = conv(inputs, outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv(outputs, outputs)
        self.down = (
            None if inputs == outputs else nn.Sequential(conv(inputs, outputs, 1), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.relu(self.conv1(x)))
        out += x if self.down is None else self.down(x)
        return self.relu(out)


def test_sums_become_residuals_with_their_activation() -> None:
    chain = converted(Headed(nn.Sequential(Basic(8, 6), Basic(6, 6), conv(6, 8)))).chain
    assert names(chain) == ["stem", "body_0", "body_1", "body_2", "mean", "flatten", "classifier"]
    for name, shortcut in (("body_0", ["down_0", "down_1"]), ("body_1", [])):
        block = chain.get_submodule(name)
        assert isinstance(block, Residual)
        assert names(block.body) == ["conv1", "relu", "conv2"]
        assert names(block.shortcut) == shortcut
        assert isinstance(block.activation, nn.ReLU)
    assert not any(getattr(layer, "inplace", False) for layer in chain.modules())


class Inverted(nn.Module):
    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv(width, 12, 1), nn.ReLU6(), conv(12, outputs, groups=2), Excite(outputs)
        )
        self.is_same = width == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.is_same else self.layers(x)


def test_modules_of_a_branched_class_and_single_convolutions_are_one_block() -> None:
    unit = nn.Sequential(conv(6, 8), nn.BatchNorm2d(8), nn.ReLU())
    chain = converted(Headed(nn.Sequential(Inverted(8, 8), Inverted(8, 6), unit))).chain
    assert names(chain)[:4] == ["stem", "body_0", "body_1", "body_2"]
    assert isinstance(chain.body_0, Residual)
    assert isinstance(chain.body_0.activation, nn.Identity)
    assert [type(layer) for layer in chain.body_1] == [nn.Conv2d, nn.ReLU6, nn.Conv2d, Graph]
    assert names(chain.body_1) == ["layers_0", "layers_1", "layers_2", "layers_3"]
    assert [type(layer) for layer in chain.body_2] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]


class Dense(Headed):
    """Every layer reads all earlier maps, which are concatenated anew each time."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(conv(8 + 4 * number, 4) for number in range(3))
        self.fc = nn.Linear(20, 4)

    def between(self, x: Tensor) -> Tensor:
        maps = [x]
        for layer in self.layers:
            maps.append(F.relu(layer(torch.cat(maps, 1))))
        return torch.cat(maps, 1)


def test_dense_layers_become_concats() -> None:
    chain = converted(Dense()).chain
    blocks = [block for block in chain if isinstance(block, Concat)]
    assert [names(block.body) for block in blocks] == [
        ["layers_0", "relu"],
        ["layers_1", "relu"],
        ["layers_2", "relu"],
    ]
    assert not any(isinstance(block, Graph) for block in chain)


class Aliased(Headed):
    """A shortcut that is kept under another name and changed in place before it is added."""

    def __init__(self, change: str) -> None:
        super().__init__()
        self.change = change
        self.gain = nn.Parameter(torch.tensor(2.0))
        self.layer = conv(8, 8)

    def between(self, x: Tensor) -> Tensor:
        kept = x
        if self.change == "function":
            x = F.relu(x, inplace=True)
        elif self.change == "method":
            x.mul_(self.gain)
        elif self.change == "operator":
            x -= 1.0
        elif self.change == "module":
            x = nn.ReLU(inplace=True)(x)
        else:
            x = x.view_as(x).relu_()
        return self.layer(x) + kept


@pytest.mark.parametrize("change", ["function", "method", "operator", "module", "view"])
def test_what_is_changed_in_place_is_changed_under_all_its_names(change: str) -> None:
    chain = converted(Aliased(change)).chain
    assert any(isinstance(block, Residual) and isinstance(block.shortcut, nn.Identity) for block in chain)


class Half(Headed):
    """Changes one half of a map in place, and reads the whole map or the other half later."""

    def __init__(self, reads_all: bool) -> None:
        super().__init__()
        self.reads_all = reads_all

    def between(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1)
        first.relu_()
        return x if self.reads_all else torch.cat((second, first), 1)


def test_change_of_a_part_is_done_or_refused_by_its_line() -> None:
    chain = converted(Half(reads_all=False)).chain
    assert operations(chain.cat) == ["split", "getitem", "getitem", "layer", "cat"]
    with pytest.raises(ConversionError, match=r"after a part of it was changed in place \(.*first.relu_\(\)"):
        convert(Half(reads_all=True), EXAMPLE)


class Shared(Headed):
    """One convolution that runs twice."""

    def between(self, x: Tensor) -> Tensor:
        return self.body(F.relu(self.body(x)))


def test_layer_that_runs_twice_stays_one_layer_of_one_block() -> None:
    chain = converted(Shared(conv(8, 8))).chain
    (block,) = (block for block in chain if isinstance(block, Graph))
    assert names(block) == ["body", "relu"]
    assert [step.arguments[0] for step in block.steps] == ["body", "relu", "body"]


class Shuffle(Headed):
    """Arithmetic on shapes, the batch's size read where it is not yet needed, and a way that they decide."""

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        x = self.body(self.stem(x))
        _, channels, height, width = x.size()
        if height > 100 or channels % 2:
            raise RuntimeError
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous()
        x = x.view(batch, -1, height, width)
        for _ in range(width // 4):
            x = F.relu(x)
        return self.fc(F.avg_pool2d(x, x.shape[2:]).reshape(batch, -1))


def test_shapes_are_computed_and_decide() -> None:
    chain = converted(Shuffle(conv(8, 8))).chain
    assert names(chain) == ["stem", "body", "view", "relu", "relu_1", "avg_pool2d", "reshape", "classifier"]
    assert operations(chain.view).count("transpose") == 1


class Refused(Headed):
    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.register_buffer("calls", torch.zeros(()))

    def between(self, x: Tensor) -> Tensor:
        if self.what == "branch" and x.sum() > 0:
            return -x
        if self.what == "item":
            return x * x.mean().item()
        if self.what == "unknown":
            return torch.special.i0(x)
        if self.what == "write":
            x[:, 0] = 0
        if self.what == "fails":
            return x @ x[:, :, 1:]
        if self.what == "numpy":
            return torch.from_numpy(x.numpy())
        return x


@pytest.mark.parametrize(
    ("what", "problem", "line"),
    [
        ("branch", "bool() reads what a tensor holds", "if self.what == 'branch' and x.sum() > 0:"),
        ("item", "item() reads what a tensor holds", "return x * x.mean().item()"),
        ("unknown", "special_i0 is no operation that a block can do", "return torch.special.i0(x)"),
        ("write", "setitem writes into a tensor", "x[:, 0] = 0"),
        ("fails", "it fails on inputs of 3 x 8 x 8", "return x @ x[:, :, 1:]"),
        ("numpy", "numpy() reads what a tensor holds", "return torch.from_numpy(x.numpy())"),
    ],
)
def test_what_cannot_be_written_down_is_refused_with_its_line(what: str, problem: str, line: str) -> None:
    code, start = inspect.getsourcelines(Refused)
    number = start + next(i for i, text in enumerate(code) if line in text.replace('"', "'"))
    with pytest.raises(ConversionError) as caught:
        convert(Refused(what), EXAMPLE)
    message = caught.value.message
    assert problem in message
    assert "(the network (Refused): " in message
    assert f"test_conversion.py, line {number}, `" in message


class Counting(nn.Module):
    """Gives something else at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone() * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 0


class Detached(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return NoGradient.apply(x)  # type: ignore[no-any-return]


def test_chain_that_does_something_else_is_refused() -> None:
    with pytest.raises(ConversionError, match="something else from the block 'body_1' on"):
        convert(shaken(Headed(nn.Sequential(conv(8, 8), Counting(), conv(8, 8)))), EXAMPLE)
    with pytest.raises(ConversionError, match="another gradient with respect to the input"):
        convert(shaken(Headed(Detached())), EXAMPLE)


class Returning(nn.Module):
    def __init__(self, make: Any) -> None:
        super().__init__()
        self.layer = conv(3, 4)
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(self.layer(x))


class Remembering(Headed):
    """Adds what it has seen last, if that is of the same shape."""

    last: Tensor | None = None

    def between(self, x: Tensor) -> Tensor:
        last, self.last = self.last, x.detach()
        return x if last is None or last.shape != x.shape else x + last


class OddAndEven(Headed):
    def between(self, x: Tensor) -> Tensor:
        return x if len(x) % 2 else 2 * x


@pytest.mark.parametrize("network", [Remembering(), OddAndEven()])
def test_what_differs_between_calls_or_batches_is_refused(network: nn.Module) -> None:
    with pytest.raises(ConversionError, match="keep values between calls"):
        convert(shaken(network), EXAMPLE)


class Restless(Headed):
    """Changes all that a run can change, and does the same each time."""

    seen: Tensor | None = None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("runs", torch.zeros(1))
        self.extra = nn.Linear(8, 8)

    def between(self, x: Tensor) -> Tensor:
        self.seen = x
        self.runs += 1
        self.runs = self.runs + 1
        self.fc.weight.data = self.fc.weight.data.clone()
        self.extra.weight.data.mul_(2)
        del self._modules["extra"]
        self.extra = nn.Linear(8, 8)
        random.random(), np.random.rand(), torch.rand(1)
        return x


def test_what_a_run_changes_is_restored() -> None:
    network = shaken(Restless())
    before, attributes = copy.deepcopy(network.state_dict()), dict(vars(network))
    tensors, places = list(network.parameters()), [p.data_ptr() for p in network.parameters()]
    drawn = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    convert(network, EXAMPLE)
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert vars(network) == attributes
    assert all(one is other for one, other in zip(network.parameters(), tensors, strict=True))
    assert [p.data_ptr() for p in network.parameters()] == places
    assert drawn == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


class Beyond(Headed):
    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.most = nn.Parameter(torch.ones(8, 1, 1))

    def between(self, x: Tensor) -> Tensor:
        if self.what == "factor":
            return x * 1e7 + x
        return torch.clamp(x, max=self.most)


@pytest.mark.parametrize(
    ("what", "problem"),
    [("factor", r"step 1 \(mul\) has 10000000.0"), ("clamp", "clamp to values of a tensor")],
)
def test_numbers_that_no_block_can_have_are_refused_by_their_line(what: str, problem: str) -> None:
    with pytest.raises(ConversionError, match=rf"{problem}.*test_conversion.py, line \d+, `return"):
        convert(shaken(Beyond(what)), EXAMPLE)


class Flat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def test_network_that_is_one_function() -> None:
    assert names(converted(Flat()).chain) == ["flatten", "classifier"]


def test_exported_networks_are_refused() -> None:
    program = torch.export.export(shaken(Headed(nn.ReLU())), (EXAMPLE,))
    with pytest.raises(ConversionError, match="no eval mode: give the original module"):
        convert(program.module(), EXAMPLE)


@pytest.mark.parametrize("part", ["network", "body"])
def test_compiled_networks_are_converted_as_they_are_written(part: str) -> None:
    network = shaken(Headed(nn.Sequential(conv(8, 8), nn.ReLU())))
    expected = network(images())
    network.get_submodule("" if part == "network" else part).compile(backend="eager")
    chain = convert(network, EXAMPLE).chain
    assert names(chain)[:2] == ["stem", "body"]
    assert torch.equal(chain(images()), expected)


def test_networks_are_converted_in_inference_mode() -> None:
    network = shaken(Headed(nn.ReLU()))
    with torch.inference_mode():
        chain = convert(network, EXAMPLE).chain
    assert torch.equal(chain(images()), network(images()))


def test_outputs_and_inputs_that_no_classifier_has_are_refused() -> None:
    with pytest.raises(ConversionError, match="output has the shape b x 4 x 8 x 8"):
        convert(Returning(torch.relu), EXAMPLE)
    with pytest.raises(ConversionError, match="gives a tuple"):
        convert(Returning(lambda x: (x, x)), EXAMPLE)
    with pytest.raises(ConversionError, match="does not depend on its input"):
        convert(Returning(lambda x: torch.ones(2, 4)), EXAMPLE)
    with pytest.raises(ConversionError, match="reads whole numbers"):
        convert(Returning(torch.relu), torch.zeros(1, 5, dtype=torch.long))
    with pytest.raises(ConversionError, match="16384 outputs"):
        convert(Returning(torch.flatten_copy if False else lambda x: x.flatten(1)), torch.zeros(1, 3, 64, 64))


def test_classifier_that_is_a_convolution_becomes_a_matrix() -> None:
    layers = [("conv", conv(3, 6)), ("pool", nn.AdaptiveAvgPool2d(1)), ("head_last", nn.Conv2d(6, 4, 1))]
    result = converted(nn.Sequential(OrderedDict([*layers, ("flat", nn.Flatten())])))
    assert names(result.chain) == ["conv", "pool", "flat", "classifier"]
    assert result.rewritten == ("head_last: the convolution of the whole map is a matrix",)
    assert result.keys["classifier.weight"] == "head_last.weight"


def test_network_without_a_last_matrix_gets_the_identity() -> None:
    result = converted(nn.Sequential(conv(3, 6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    assert names(result.chain) == ["0", "1", "2", "3", "classifier"]
    assert torch.equal(result.chain.classifier.weight, torch.eye(6))
    assert result.rewritten == ("an identity matrix of 6 x 6 is appended as the classifier",)


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.classifier = conv(3, 8)
        self.head = nn.Sequential(conv(8, 8), nn.ReLU(), conv(8, 8))
        self.out = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.head(self.classifier(x)).amax((2, 3)))


def test_names_of_the_head_are_free() -> None:
    chain = converted(Named()).chain
    assert names(chain) == ["classifier_1", "top_0", "top_1", "top_2", "amax", "classifier"]


class Informed(nn.Module):
    """Names of what every network of tascnet has."""

    def __init__(self) -> None:
        super().__init__()
        self.info, self.origin, self.preprocessing = conv(3, 8), nn.ReLU(), conv(8, 8)
        self.class_names = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.class_names(self.preprocessing(self.origin(self.info(x))).mean((2, 3)))


def test_names_of_attributes_are_free() -> None:
    chain = tascnet.backbone(Informed(), size=8)
    assert names(chain)[:3] == ["info_1", "origin_1", "preprocessing_1"]
    assert chain.info.backbone == "Informed"


def test_chain_of_known_layers_stays_as_it_is() -> None:
    block = Residual(nn.Sequential(conv(8, 8), nn.ReLU(inplace=True)), nn.Identity(), nn.ReLU())
    layers = [
        ("head_a", conv(3, 8)),
        ("block", block),
        ("pool", nn.AdaptiveAvgPool2d(1)),
        ("flat", nn.Flatten()),
    ]
    network = nn.Sequential(OrderedDict([*layers, ("last", nn.Linear(8, 4))]))
    result = converted(network)
    assert names(result.chain) == ["top_a", "block", "pool", "flat", "classifier"]
    assert not result.chain.block.body[1].inplace
    assert network.block.body[1].inplace
    assert result.keys["block.body.0.weight"] == "block.body.0.weight"


def test_network_is_left_as_it_was() -> None:
    network = TwoBranches()
    network.train()
    network.drop.eval()
    before = copy.deepcopy(network.state_dict())
    state = torch.random.get_rng_state()
    chain = convert(network, EXAMPLE).chain
    assert torch.equal(state, torch.random.get_rng_state())
    assert network.training
    assert not network.drop.training
    assert not chain.training
    assert network.act.inplace
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert all(torch.equal(tensor, network.state_dict()[key]) for key, tensor in before.items())
    assert all(parameter.grad is None for parameter in network.parameters())
    own = {parameter.data_ptr() for parameter in network.parameters()}
    assert own.isdisjoint(parameter.data_ptr() for parameter in chain.parameters())
    shared = convert(network, EXAMPLE, share=True).chain
    assert {parameter.data_ptr() for parameter in shared.parameters()} == own


def test_network_without_values_is_converted_unchecked() -> None:
    with torch.device("meta"):
        network = TwoBranches()
    chain = convert(network, EXAMPLE, check=False).chain
    assert names(chain) == names(convert(TwoBranches(), EXAMPLE).chain)
    assert all(parameter.is_meta for parameter in chain.parameters())


class ChannelsLast(nn.Module):
    """ConvNeXt's block as it is often written: normalised over channels, with a factor for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = conv(width, width, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 2 * width)
        self.project = nn.Linear(2 * width, width)
        self.gamma = nn.Parameter(torch.ones(width))
        self.beta = nn.Parameter(torch.ones(1, width, 1, 1))
        self.last = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x).permute(0, 2, 3, 1)
        y = self.project(F.gelu(self.expand(self.norm(y)))).permute(0, 3, 1, 2)
        x = x + y * self.gamma.reshape(1, -1, 1, 1) + self.beta
        return self.last(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def test_weights_and_axes_become_layers() -> None:
    result = converted(Headed(nn.Sequential(ChannelsLast(8), nn.ReLU())))
    kinds = [type(layer) for layer in result.chain.modules()]
    assert [kinds.count(kind) for kind in (LayerScale, Offset, Permute, LayerNorm2d, nn.LayerNorm)] == [
        1,
        1,
        2,
        1,
        1,
    ]
    assert not any(isinstance(block, Graph) for block in result.chain.modules())
    (scale,) = (name for name, layer in result.chain.named_modules() if isinstance(layer, LayerScale))
    assert result.keys[f"{scale}.weight"] == "body.0.gamma"
    assert result.chain.get_submodule(scale).shape == (8, 1, 1)
    assert set(result.keys.values()) == set(Headed(nn.Sequential(ChannelsLast(8))).state_dict())


class Computed(Headed):
    """Steps on a weight: a factor that is normalised, a buffer, and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.ones(2))
        self.register_buffer("mask", torch.ones(8, 1, 1))

    def between(self, x: Tensor) -> Tensor:
        mix = self.mix.softmax(0)
        return mix[0] * x + mix[1] * F.relu(x) + self.mask * torch.linspace(0, 1, 8)


def test_steps_read_weights() -> None:
    result = converted(Computed())
    mixed, masked = (block for block in result.chain if isinstance(block, Graph))
    assert names(mixed) == ["softmax", "relu"]
    assert [name for name, _ in mixed.named_parameters()] == ["mix"]
    assert [name for name, _ in masked.named_buffers()] == ["mask", "constant"]
    assert result.keys["add.mix"] == "mix"
    assert result.keys["add_1.mask"] == "mask"
    assert result.rewritten == ()


class Untouched(Headed):
    """Factors that functions return as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1, 8, 1, 1))

    def between(self, x: Tensor) -> Tensor:
        copies = self.factor.clone() + self.factor.expand(1, 8, 1, 1)
        return x * self.factor.squeeze().reshape(8, 1, 1) + self.factor.clone() * copies


def test_weights_that_functions_leave_as_they_are() -> None:
    result = converted(Untouched())
    assert [key for key, name in result.keys.items() if name == "factor"] != []
    assert result.rewritten == ()


class Standardised(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)


def test_computed_weights_are_kept_as_they_are_and_named() -> None:
    result = converted(Headed(Standardised(8, 8, 3)))
    assert result.rewritten == ("body: the weight that it computes each time is kept as it is",)
    assert "body.weight" not in result.keys
    assert result.keys["body.bias"] == "body.bias"
    assert result.chain.body.weight.requires_grad
    wrapped = nn.utils.parametrizations.weight_norm(conv(8, 8))
    assert converted(Headed(wrapped)).rewritten == (
        "body: the weight that it computes each time is kept as it is",
    )


def test_what_is_rewritten_is_logged_unless_nothing_is_compared(caplog: pytest.LogCaptureFixture) -> None:
    network = Headed(nn.Sequential(*(Standardised(8, 8, 3, padding=1) for _ in range(5))))
    with caplog.at_level("INFO", logger="tascnet"):
        convert(network, EXAMPLE, check=False)
        assert not caplog.messages
        convert(network, EXAMPLE)
    (line,) = caplog.messages
    assert line.startswith("converted, equal up to rounding: body.0: the weight that it computes")
    assert line.endswith("; body.2: the weight that it computes each time is kept as it is; 2 more")


class ComputedOnce(Headed):
    def __init__(self) -> None:
        super().__init__()
        self.scale = self.fc.weight.mean() * 2

    def between(self, x: Tensor) -> Tensor:
        return x * self.scale


def test_a_tensor_that_was_computed_from_weights_once_is_refused() -> None:
    with pytest.raises(ConversionError, match=r"computed from weights before it ran .*in `forward`"):
        converted(ComputedOnce())


def test_layers_with_hooks_are_refused() -> None:
    network = Headed(conv(8, 8))
    network.body.register_forward_hook(lambda *_: None)
    with pytest.raises(ConversionError, match=r"'body' \(Conv2d\) has a hook"):
        convert(network, EXAMPLE)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_scripted_modules_are_refused() -> None:
    with pytest.raises(ConversionError, match="compiled by TorchScript"):
        convert(torch.jit.script(Headed(conv(8, 8)).eval()), EXAMPLE)


def test_layers_that_share_a_tensor_get_one_each() -> None:
    network = Headed(nn.Sequential(conv(8, 8), nn.ReLU(), conv(8, 8)))
    network.body[2].weight = network.body[0].weight
    result = converted(network)
    assert result.rewritten == ("body_2.weight is no longer shared with another layer",)
    assert result.chain.body_0.weight is not result.chain.body_2.weight


class Functions(Headed):
    """The same things as functions, methods and operators."""

    def between(self, x: Tensor) -> Tensor:
        x = F.dropout(F.hardswish(x), 0.25, self.training)
        first, second = torch.split(x, [3, 5], dim=-3)
        x = torch.cat((second, first), dim=-3)
        x = F.interpolate(x, scale_factor=2.0)
        x = F.pad(F.max_pool2d(x, 3, 2), [1, 1, 1, 1])
        x = torch.stack(x.unbind(1), 1).clone().to(x.dtype)
        x = 1 - x / 2.0 + 2 * (x**2).clamp(min=0.1)
        y = (-x).unsqueeze(1).squeeze(1).transpose(2, 3).flatten(2).unflatten(2, (9, 9))
        return y + x.amax(1, keepdim=True)


def test_functions_methods_and_operators_become_layers_and_steps() -> None:
    chain = converted(Functions()).chain
    kinds = [type(block) for block in chain]
    assert kinds[1:3] == [nn.Hardswish, nn.Dropout]
    assert chain.dropout.p == 0.25
    assert kinds.count(nn.Upsample) == kinds.count(nn.MaxPool2d) == 1


class Pooled(Headed):
    def between(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, x.shape[2:]) + F.max_pool2d(x, kernel_size=x.shape[-1], stride=x.size(2))


def test_pooling_over_the_whole_map_by_its_shape() -> None:
    graph = converted(Pooled()).chain.add
    kernels = [layer.kernel_size for layer in graph.modules() if isinstance(layer, nn.MaxPool2d)]
    assert kernels == [(8, 8), 8]


def test_unused_layers_do_not_matter() -> None:
    network = Headed(nn.Sequential(nn.Identity(), nn.Dropout(0.0), conv(8, 8)))
    network.spare = conv(8, 8)
    result = converted(network)
    assert names(result.chain) == ["stem", "body_2", "mean", "flatten", "classifier"]
    assert "spare.weight" not in result.keys.values()


def test_layers_of_libraries_by_the_name_of_their_class() -> None:
    timm = pytest.importorskip("timm.layers")
    body = nn.Sequential(
        timm.Conv2dSame(8, 8, 3, stride=2), timm.DropPath(0.2), timm.ScaledStdConv2dSame(8, 8, 3)
    )
    result = converted(Headed(body))
    assert [type(block) for block in result.chain][1:4] == [Conv2dSame, StochasticDepth, nn.Conv2d]
    assert result.chain.body_1.p == 0.2
    assert result.rewritten == ("body.2: the weight that it computes each time is kept as it is",)


class OverChannels(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def test_norms_over_channels_in_a_row() -> None:
    chain = converted(Headed(nn.Sequential(OverChannels(8), OverChannels(8)))).chain
    assert [type(block) for block in chain][1:3] == [LayerNorm2d, LayerNorm2d]


class Cropping(Headed):
    def between(self, x: Tensor) -> Tensor:
        return self.body(x.float()).to(x.dtype)


def own_forward() -> nn.Module:
    """A convolution by weights without their mean, as users patch it in."""
    network = nn.Sequential(conv(3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))

    def forward(self: Any, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, padding=1)

    network[0].forward = types.MethodType(forward, network[0])  # type: ignore[method-assign]
    return network


def test_a_layer_with_a_forward_of_its_own_is_looked_into() -> None:
    assert converted(own_forward()).rewritten
    with pytest.raises(ArchiveError, match="'0' of the saved model has a `forward` of its own"):
        describe(own_forward())


def test_a_layer_that_reads_positions_stays_a_layer_that_learns() -> None:
    class Positioned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.places = nn.Conv2d(3, 8, 4, stride=4), nn.Embedding(4, 8)
            self.classifier = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x).flatten(2).transpose(1, 2) + self.places(torch.arange(4))
            return self.classifier(y.mean(1))

    module = Positioned()
    chain = converted(module).chain
    assert sum(p.numel() for p in chain.parameters()) == sum(p.numel() for p in module.parameters())


def bare(layer: nn.Module, **attributes: Any) -> nn.Module:
    for name, value in attributes.items():
        setattr(layer, name, value)
    return nn.Sequential(conv(3, 4), layer, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (lambda: bare(nn.BatchNorm2d(4), bias=None), "1.bias is missing: make its layer again"),
        (
            lambda: bare(nn.BatchNorm2d(4), running_mean=None, running_var=None, track_running_stats=False),
            "1.num_batches_tracked is no tensor of its kind of layer: remove it",
        ),
        (lambda: bare(nn.Upsample(scale_factor=1.3, recompute_scale_factor=True)), "recompute_scale_factor"),
        (lambda: bare(nn.LazyConv2d(4, 3)), "'1.weight' of the network has no shape yet: run it on an image"),
    ],
)
def test_what_would_be_saved_as_something_else_is_refused(network: Any, says: str) -> None:
    with pytest.raises(ConversionError, match=says):
        convert(network().eval(), EXAMPLE)


def test_layers_with_settings_that_cannot_be_saved_are_looked_into() -> None:
    chain = converted(Cropping(nn.ZeroPad2d((-1, 1, 0, 0)))).chain
    assert operations(chain.body) == ["pad"]
    assert chain.body.steps[0].arguments[1] == (-1, 1, 0, 0)


class Crowded(Headed):
    def between(self, x: Tensor) -> Tensor:
        return torch.stack([x * number for number in range(70)]).sum(0)


def test_steps_beyond_the_bounds_of_a_saved_model_are_refused() -> None:
    with pytest.raises(ConversionError, match=r"cannot be converted, .*step 71 \(stack\) has"):
        convert(Crowded(), EXAMPLE)


class ForThatBatch(Headed):
    def between(self, x: Tensor) -> Tensor:
        return torch.cat([x, torch.zeros(len(x), 2, 8, 8)], 1)[:, :8]


def test_values_for_one_batch_alone_are_refused() -> None:
    with pytest.raises(ConversionError, match="a batch of 1 fails"):
        convert(ForThatBatch(), EXAMPLE)
