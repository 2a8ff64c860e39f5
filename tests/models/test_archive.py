import json
import os
import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import tascnet
from tascnet.errors import ArchiveError, ConfigError
from tascnet.models.archive import load, save
from tascnet.models.blocks import ChannelsFirst, Concat, L2Norm, Residual, Scale, SliceAndPad
from tascnet.models.chains.small import cifar_resnet_chain, digits_cnn_chain
from tascnet.models.graph import Graph, Step, Value
from tascnet.models.head import HeadSpec, replace_head
from tascnet.models.info import ModelInfo
from tascnet.models.layers import (
    GRN,
    AvgPool2dSame,
    BlurPool2d,
    Conv2dSame,
    LayerNorm2d,
    LayerScale,
    MaxPool2dSame,
    Offset,
    Permute,
    StochasticDepth,
)
from tascnet.models.leaves import LEAVES, arguments_of
from tascnet.models.preprocessing import Preprocessing
from tascnet.surgery import (
    activations,
    narrow,
    set_activation,
    set_kernel,
    spatial_convs,
    width_groups,
)
from tascnet.surgery.layers import replace_layer
from tests.models.networks import shaken
from tests.models.toys import sealed

INFO = ModelInfo(
    backbone="toy",
    preprocessing=Preprocessing(size=32, resize=36, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2)),
    class_names=("cat", "dog", "emu"),
    weights="random",
    licence="none",
)


def images(count: int = 2, side: int = 32, channels: int = 3) -> Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(2))


def of_channels(channels: int) -> ModelInfo:
    mean = (0.5,) * channels
    return replace(INFO, preprocessing=replace(INFO.preprocessing, mean=mean, std=mean))


def pooled(*layers: nn.Module) -> nn.Sequential:
    """Layers on the mean of each channel."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *layers)


def gate() -> Graph:
    """Ten channels in and out: one of each kind of weight, a slice, and a computed number."""
    steps = [
        Step("mean", (Value(0), (2, 3), True)),
        Step("layer", ("conv", Value(1))),
        Step("mul", (Value(0), Value(2))),
        Step("weight", ("gamma",)),
        Step("mul", (Value(3), Value(4))),
        Step("weight", ("offset",)),
        Step("add", (Value(5), Value(6))),
        Step("shape", (Value(0),)),
        Step("getitem", (Value(8), 1)),
        Step("getitem", (Value(7), (slice(None), slice(None, Value(9)), ...))),
    ]
    weights = {"gamma": nn.Parameter(torch.ones(10, 1, 1)), "offset": torch.tensor(0.25)}
    return Graph({"conv": nn.Sequential(nn.Conv2d(10, 10, 1), nn.Sigmoid())}, steps, weights)


def toy() -> nn.Sequential:
    """Every block of ours once."""
    body = nn.Sequential(OrderedDict(conv=nn.Conv2d(4, 8, 3, 2, 1, bias=False), bn=nn.BatchNorm2d(8)))
    blocks = OrderedDict(
        stem=nn.Conv2d(3, 4, 3, padding=1),
        residual=Residual(body, SliceAndPad(2, 2, 2), nn.ELU(0.5)),
        dense=Concat(nn.Sequential(OrderedDict(conv=nn.Conv2d(8, 2, 1)))),
        gate=gate(),
        pool=nn.AdaptiveAvgPool2d((1, None)),
        flatten=nn.Flatten(),
        norm=L2Norm(1e-9),
        scale=Scale(0.1),
        classifier=nn.Linear(160, 3),
    )
    return shaken(nn.Sequential(blocks))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(toy(), tmp_path / "model", INFO)
    return tmp_path / "model"


def assert_same(first: nn.Module, second: nn.Module) -> None:
    """The same tensors bit for bit, in the same order and memory format."""
    ours, theirs = first.state_dict(), second.state_dict()
    assert list(ours) == list(theirs)
    for key, tensor in ours.items():
        assert torch.equal(tensor, theirs[key]), key
        assert (tensor.dtype, tensor.stride()) == (theirs[key].dtype, theirs[key].stride()), key


def operated(chain: nn.Sequential, channels: int) -> nn.Sequential:
    """A chain after every kind of surgery: widths, a kernel, an activation, a new head."""
    example = images(1, 32, channels)
    shaken(chain)
    kernel = spatial_convs(chain)[max(spatial_convs(chain))][0]
    replace_layer(chain, kernel, set_kernel(chain.get_submodule(kernel), 5))
    activation = activations(chain)[max(activations(chain))][0]
    set_activation(chain, activation, "elu")
    narrow(chain, example, {group.name: range(0, group.width, 2) for group in width_groups(chain, example)})
    spec = HeadSpec(hidden=(6,), dropout=0.2, activation="silu")
    return replace_head(chain, spec, 3, seed=1).to(memory_format=torch.channels_last).eval()


@pytest.mark.parametrize(("make", "channels"), [(partial(cifar_resnet_chain, 20), 3), (digits_cnn_chain, 1)])
def test_round_trip_after_surgery_to_the_last_bit(
    make: Callable[[int, int], nn.Sequential], channels: int, tmp_path: Path
) -> None:
    model = operated(make(4, channels), channels)
    save(model, tmp_path, of_channels(channels))
    again = load(tmp_path)
    assert str(again) == str(model)
    assert_same(model, again)
    x = images(2, 32, channels)
    with torch.inference_mode():
        assert torch.equal(model(x), again(x))


def test_a_loaded_model_carries_what_is_needed_to_use_it(folder: Path) -> None:
    model = tascnet.load(str(folder))
    assert not any(module.training for module in model.modules())
    assert model.info == INFO
    assert model.preprocessing == INFO.preprocessing
    assert model.class_names == ("cat", "dog", "emu")
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in model.parameters())


def test_saving_a_loaded_model_gives_the_same_files(folder: Path, tmp_path: Path) -> None:
    save(load(folder), tmp_path / "again", INFO)
    for name in ("architecture.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_saving_leaves_the_model_as_it_is(tmp_path: Path) -> None:
    model = toy().train().to(memory_format=torch.channels_last)
    before = {key: (tensor.clone(), tensor.stride()) for key, tensor in model.state_dict().items()}
    save(model, tmp_path, INFO)
    assert model.training
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key][0])
        assert tensor.stride() == before[key][1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    model = toy().to(dtype)
    save(model, tmp_path, INFO)
    assert_same(model, load(tmp_path))


def test_places_and_devices_that_cannot_be_used_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot be a folder, for"):
        save(toy(), tmp_path / "file" / "model", INFO)
    save(toy(), tmp_path / "model", INFO)
    with pytest.raises(ConfigError, match="`device=nowhere` cannot be used here"):
        load(tmp_path / "model", device="nowhere")


def test_layers_in_two_memory_formats_keep_their_own(tmp_path: Path) -> None:
    model = toy()
    model.dense.to(memory_format=torch.channels_last)
    assert (
        model.dense.body.conv.weight.stride()
        != model.dense.body.conv.weight.clone(memory_format=torch.contiguous_format).stride()
    ), "a 1x1 kernel has strides of its own in channels_last"
    save(model, tmp_path, INFO)
    assert_same(model, load(tmp_path))


def test_a_layer_under_two_names_is_stored_under_both(tmp_path: Path) -> None:
    layer, relu = nn.Linear(3, 3), nn.ReLU()
    model = pooled(layer, relu, layer, relu, nn.Linear(3, 3)).eval()
    save(model, tmp_path, INFO)
    again = load(tmp_path)
    assert len(again) == 7
    assert torch.equal(model(images()), again(images()))


def test_loaded_weights_lie_as_those_of_a_fresh_network(tmp_path: Path) -> None:
    """Kernels choose their way by the alignment of memory, and round differently."""
    model = pooled(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 3))
    save(model, tmp_path, INFO)
    assert all(tensor.data_ptr() % 64 == 0 for tensor in load(tmp_path).state_dict().values())


class Gate(nn.Module):
    """A user's own block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def test_a_class_outside_the_closed_list_is_refused_by_name(tmp_path: Path) -> None:
    blocks = OrderedDict(block=nn.Sequential(OrderedDict(gate=Gate(4))), rest=pooled(nn.Linear(4, 3)))
    with pytest.raises(ArchiveError, match=r"the layer 'block\.gate' is a Gate, which cannot be saved: take"):
        save(nn.Sequential(blocks), tmp_path, INFO)

    class Conv2d(nn.Conv2d):
        """Another class of a name in the list."""

    with pytest.raises(ArchiveError, match=r"'0' is a .*Conv2d, which cannot be saved"):
        save(nn.Sequential(Conv2d(3, 4, 1), *pooled(nn.Linear(4, 3))), tmp_path, INFO)


# Every leaf of the closed list once, behind three channels of 32 x 32 pixels.
MAPS = [
    *(nn.Conv2d(3, 8, 3, 2, 1, 1, 1, False, "circular"), Conv2dSame(8, 8, 3, 2, 1, 2), nn.BatchNorm2d(8)),
    *(nn.InstanceNorm2d(8, affine=True), nn.GroupNorm(2, 8), LayerNorm2d(8), LayerNorm2d(8, bias=False)),
    *(GRN(8), nn.LocalResponseNorm(3), LayerScale((8, 1, 1)), Offset((1, 8, 1, 1)), Scale(0.5)),
    *(
        nn.ConvTranspose2d(8, 8, 2, 2, output_padding=1),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.AvgPool2d(3, 1, 1),
    ),
    *(MaxPool2dSame(3, 1), AvgPool2dSame((2, 2), 1), BlurPool2d(3, 1), nn.Upsample(scale_factor=2.0)),
    *(nn.PixelShuffle(2), nn.PixelUnshuffle(2), nn.ZeroPad2d(1), nn.ReflectionPad2d((1, 0, 0, 1))),
    *(nn.ReplicationPad2d(1), nn.CircularPad2d(1), nn.ConstantPad2d(1, -1.5), SliceAndPad(2, 0, 0)),
    *(nn.Identity(), nn.Tanh(), nn.Sigmoid(), nn.LogSigmoid(), nn.Softsign(), nn.Tanhshrink(), nn.ReLU()),
    *(
        nn.ReLU6(),
        nn.SELU(),
        nn.SiLU(),
        nn.Mish(),
        nn.Hardswish(),
        nn.Hardsigmoid(),
        nn.ELU(0.5),
        nn.CELU(0.5),
    ),
    *(nn.LeakyReLU(0.2), nn.Hardtanh(-2, 3.0), nn.Threshold(0.1, 20), nn.Hardshrink(0.1), nn.Softshrink(0.1)),
    *(nn.PReLU(8), nn.GELU("tanh"), nn.Softplus(2), nn.Softmax(1), nn.LogSoftmax(1), nn.Dropout2d(0.1)),
    *(
        nn.AlphaDropout(0.1),
        StochasticDepth(0.1),
        Permute((0, 2, 3, 1)),
        nn.LayerNorm(8, bias=False),
        GRN(8, -1),
    ),
    *(Permute((0, 3, 1, 2)), nn.AdaptiveMaxPool2d((2, None)), nn.AdaptiveAvgPool2d((2, 2)), nn.Flatten(2)),
]
ROWS = [
    *(
        nn.Conv1d(8, 8, 3, padding="same"),
        nn.BatchNorm1d(8),
        nn.MaxPool1d(2, 1),
        nn.AvgPool1d(2, 1),
        nn.Dropout1d(),
    ),
    *(
        nn.AdaptiveAvgPool1d(4),
        nn.AdaptiveMaxPool1d(2),
        ChannelsFirst(),
        nn.Flatten(),
        L2Norm(),
        nn.Dropout(),
    ),
]


def test_every_layer_of_the_closed_list_is_saved_and_loaded(tmp_path: Path) -> None:
    model = shaken(nn.Sequential(*MAPS, *ROWS, nn.Linear(16, 3)))
    assert {type(layer) for layer in model} | {nn.Embedding} == set(LEAVES)
    save(model, tmp_path, INFO)
    again = load(tmp_path)
    assert str(again) == str(model)
    assert_same(model, again)
    assert torch.equal(model(images()), again(images()))
    for layer in model:
        assert type(layer)(**arguments_of(layer)).extra_repr() == layer.extra_repr()


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object], *, seal: bool = True) -> None:
    """Change the architecture, by hand or, with a digest of the changed one, as a stranger could."""
    path = folder / "architecture.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(sealed(content) if seal else content))


def layer(content: dict[str, Any], *path: str) -> dict[str, Any]:
    tree = content["chain"]
    for name in path:
        tree = tree["children"][name]
    return tree


def steps(content: dict[str, Any]) -> list[Any]:
    found: list[Any] = layer(content, "gate")["steps"]
    return found


def weight(content: dict[str, Any]) -> dict[str, Any]:
    return layer(content, "gate")["weights"]["gamma"]


PRELU = {"type": "PReLU", "args": {"num_parameters": 8}}
CHANGES: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda c: c.update(format="other"), "does not describe a model of tascnet"),
    (lambda c: c.update(version=2), "version 2, expected 3: use the tascnet that wrote it"),
    (lambda c: c.update(version=["\x1b" * 999]), "expected 3"),
    (lambda c: c.pop("chain"), "no description of a layer"),
    (lambda c: c.pop("info"), "exactly the fields"),
    (lambda c: c["info"]["preprocessing"].update(std=[0, 0, 0]), "`std` .*above 0"),
    (lambda c: c.pop("channels_last"), "channels_last"),
    (lambda c: c.update(weights_digest=None), "weights_digest"),
    (lambda c: c.update(weights_digest="0" * 32), "corrupt, or not the file that belongs"),
    (lambda c: layer(c, "stem").update(type="os.system"), "unknown type 'os.system'"),
    (lambda c: layer(c, "stem").update(type=["Conv2d"]), "no description of a layer"),
    (lambda c: layer(c, "stem").pop("args"), "has no arguments"),
    (lambda c: layer(c, "stem")["args"].update(out_channels=10**7), "impossible out_channels"),
    (lambda c: layer(c, "stem")["args"].update(out_channels=True), "impossible out_channels"),
    (lambda c: layer(c, "stem")["args"].update(out_channels=0), "impossible out_channels"),
    (lambda c: layer(c, "stem")["args"].update(out_channels=4.0), "impossible out_channels"),
    (lambda c: layer(c, "stem")["args"].update(kernel_size=[3, 10**6]), "impossible kernel_size"),
    (lambda c: layer(c, "stem")["args"].update(stride=[1]), "has 1 values as stride of a Conv2d, expected 2"),
    (lambda c: layer(c, "stem")["args"].update(padding="full"), "impossible padding"),
    (lambda c: layer(c, "stem")["args"].update(groups=3), "cannot be made"),
    (lambda c: layer(c, "stem")["args"].update(device="cuda"), "exactly the arguments"),
    (lambda c: layer(c, "stem")["args"].pop("stride"), "exactly the arguments"),
    (lambda c: layer(c, "stem")["args"].update(out_channels=1 << 20), "block 'residual' .* does not run"),
    (
        lambda c: layer(c, "classifier")["args"].update(out_features=1 << 20),
        r"F32 \(3, 160\), expected .*1048576",
    ),
    (lambda c: layer(c, "stem")["args"].update(bias=False), "unexpected 'stem.bias'"),
    (lambda c: layer(c, "residual", "shortcut")["args"].update(before=10**9), "impossible before"),
    (lambda c: layer(c, "residual", "activation")["args"].update(alpha=float("nan")), "is not finite"),
    (lambda c: layer(c, "scale")["args"].pop("initial"), "exactly the arguments"),
    (lambda c: layer(c, "scale")["args"].update(initial=1e7), "impossible initial of a Scale: 1"),
    (lambda c: layer(c, "scale")["args"].update(initial=None), "impossible initial of a Scale: None"),
    (lambda c: layer(c, "scale")["args"].update(initial="0.1"), "impossible initial of a Scale"),
    (lambda c: layer(c, "norm")["args"].update(eps=-1e-9), "impossible eps of a L2Norm"),
    (lambda c: layer(c, "norm").pop("args"), "has no arguments"),
    (lambda c: c["chain"]["children"].pop("scale"), "unexpected 'scale.weight'"),
    (lambda c: layer(c, "residual")["children"].pop("shortcut"), "exactly the layers"),
    (lambda c: layer(c, "dense")["children"].update({"a.b": {}}), "impossible name"),
    (lambda c: layer(c, "dense").update(children=[]), "no list of layers"),
    (lambda c: c["chain"]["children"].pop("stem"), "the block 'residual' .* does not run"),
    (lambda c: c.update(chain=layer(c, "stem")), "expected a chain"),
    (
        lambda c: layer(c, "residual", "body")["children"].update(more=PRELU),
        "lacks 'residual.body.more.weight'",
    ),
    (lambda c: c["chain"]["children"].update({"a" * 201: layer(c, "stem")}), "impossible name 'aaa"),
    (lambda c: layer(c, "stem")["args"].update(stride=10**4000), "impossible stride"),
    (lambda c: layer(c, "stem")["args"].update(stride=nested(700)), "impossible stride"),
    (lambda c: layer(c, "stem")["args"].update(stride="\x1b[31m"), r"impossible stride .*\\x1b"),
    (lambda c: steps(c).append(["exec", "%0"]), r"'gate' .*step 11 \(exec\) is no operation"),
    (lambda c: steps(c)[0].pop(), "'gate' .*wired wrongly .step 1 .mean. has 2 arguments, expected 3"),
    (
        lambda c: steps(c)[0].__setitem__(1, "%2"),
        "step 1 .mean. has %2 as argument, expected an earlier tensor",
    ),
    (lambda c: steps(c)[0].__setitem__(1, "%01"), "step 1 .mean. has '%01' as argument"),
    (lambda c: steps(c)[0].__setitem__(2, [2**21]), "expected whole numbers"),
    (lambda c: steps(c)[0].__setitem__(2, {"a": 1}), "is no argument of a step"),
    (lambda c: steps(c)[1].__setitem__(1, "stem"), "uses the layer 'stem', which does not exist"),
    (lambda c: steps(c)[3].__setitem__(1, "offset"), "no step uses the weight 'gamma'"),
    (lambda c: steps(c).pop(), r"last step gives a whole number"),
    (lambda c: layer(c, "gate").update(steps={}), "needs lists of steps and weights"),
    (lambda c: layer(c, "gate").pop("weights"), "needs lists of steps and weights"),
    (lambda c: layer(c, "gate")["children"].update(more=layer(c, "stem")), "no step uses the layer 'more'"),
    (lambda c: weight(c).update(shape=[10**7]), "'gate.gamma' .*impossible shape of a weight: .10000000"),
    (lambda c: weight(c).update(shape=[1] * 9), "impossible shape"),
    (lambda c: weight(c).update(shape=[2**20] * 3), "impossible shape"),
    (lambda c: weight(c).update(shape=[10, 1, True]), "impossible shape"),
    (lambda c: weight(c).update(shape=[1, 10, 1, 1]), r"as F32 \(10, 1, 1\), expected .* \(1, 10, 1, 1\)"),
    (lambda c: weight(c).update(dtype="complex64"), "impossible kind or type"),
    (lambda c: weight(c).update(dtype="int64"), "impossible kind or type"),
    (lambda c: weight(c).update(kind="code"), "impossible kind or type"),
    (lambda c: weight(c).update(kind="buffer", dtype="int64"), r"as F32 \(10, 1, 1\), expected I64"),
    (lambda c: weight(c).update(device="cuda"), "is no description of a weight"),
    (lambda c: layer(c, "gate")["weights"].update({"a.b": weight(c)}), "impossible name 'a.b'"),
    (lambda c: layer(c, "gate")["weights"].update({"forward": weight(c)}), "impossible name 'forward'"),
    (
        lambda c: layer(c, "stem")["args"].update(in_channels=4),
        "the block 'stem' .* does not run",
    ),
    (lambda c: steps(c).append(["reshape", "%10", [1, 7]]), "the block 'gate' .* does not run"),
    (lambda c: steps(c).append(["expand", "%10", [2**20] * 9]), "the block 'gate' .* does not run"),
    (lambda c: steps(c).append(["unsqueeze", "%10", 0]), "the block 'pool' .* does not run|gives"),
    (lambda c: c["info"]["preprocessing"].update(size=16), "the block 'classifier' .* does not run"),
    (
        lambda c: c["chain"]["children"].pop("classifier"),
        "the last block of the chain is Scale, expected an nn",
    ),
    (lambda c: c["chain"]["children"].pop("flatten"), "does not run|gives"),
    (lambda c: c["info"].update(class_names=nested(700)), "class_names is"),
    (lambda c: c["info"].update(class_names=[1] * 10**5), "class_names is"),
    (lambda c: c["info"]["preprocessing"].update(mean=nested(700)), "`mean`|nested too deeply"),
    (lambda c: c["info"]["preprocessing"].update(mean=[10**400] * 3), "`mean`"),
]


def nested(depth: int) -> list[Any]:
    content: list[Any] = []
    for _ in range(depth):
        content = [content]
    return content


@pytest.mark.parametrize(("change", "words"), CHANGES)
def test_a_wrong_architecture_is_one_sentence(
    folder: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    rewrite(folder, change)
    with pytest.raises(ArchiveError, match=words) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_nested_beyond_reason_is_refused(folder: Path) -> None:
    def nest(content: dict[str, Any], depth: int) -> None:
        for _ in range(depth):
            content["chain"] = {"type": "Sequential", "children": {"0": content["chain"]}}

    rewrite(folder, lambda content: nest(content, 40))
    with pytest.raises(ArchiveError, match="is nested more than 32 deep"):
        load(folder)
    (folder / "architecture.json").write_text("[" * 5000)
    with pytest.raises(ArchiveError, match=r"cannot be read \(it is nested too deeply"):
        load(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: layer(c, "residual", "body", "conv")["args"].update(stride=[1, 2]),
        lambda c: layer(c, "residual", "body", "bn")["args"].update(eps=1e-3),
        lambda c: c["info"]["class_names"].reverse(),
        lambda c: c["info"]["preprocessing"].update(resize=40),
        lambda c: c.update(channels_last=["stem.weight"]),
        lambda c: c.pop("digest"),
        lambda c: c.update(digest=None),
        # The order of layers.
        lambda c: layer(c)["children"].update(norm=layer(c)["children"].pop("norm")),
    ],
)
def test_what_was_edited_or_damaged_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    rewrite(folder, lambda content: None, seal=False)
    load(folder)
    rewrite(folder, change, seal=False)
    with pytest.raises(
        ArchiveError, match=r"json was changed or damaged after it was saved: save the model again"
    ):
        load(folder)


def test_more_layers_than_any_network_are_refused_before_they_take_memory(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "architecture.json"
    monkeypatch.setattr("tascnet.models.archive.parse_json", None)
    layers = ",".join(f'"{number}":{{"type":"Tanh","args":{{}}}}' for number in range(10_501))
    path.write_text(f'{{"format":"tascnet model","chain":{{"type":"Sequential","children":{{{layers}}}}}}}')
    with pytest.raises(ArchiveError, match="holds more than 10000 layers"):
        load(folder)
    path.write_text("[" * 100_000)
    with pytest.raises(ArchiveError, match="holds more than 10000 layers"):
        load(folder)
    path.write_bytes(bytes((1 << 24) + 1))
    with pytest.raises(ArchiveError, match="takes more than 16777216 bytes"):
        load(folder)
    with pytest.raises(ArchiveError, match="the network has 10002 layers, expected at most 10000"):
        save(nn.Sequential(*[nn.Tanh()] * 10_001), tmp_path / "large", INFO)
    block = Graph({}, [Step("contiguous", (Value(number),)) for number in range(10_000)])
    with pytest.raises(ArchiveError, match="the network has 10002 layers, expected at most 10000"):
        save(nn.Sequential(block), tmp_path / "large", INFO)
    deep: nn.Module = nn.Tanh()
    for _ in range(40):
        deep = nn.Sequential(deep)
    with pytest.raises(ArchiveError, match="is nested more than 32 deep"):
        save(nn.Sequential(deep), tmp_path / "large", INFO)
    assert not (tmp_path / "large").exists()


def test_more_steps_than_any_network_are_refused(folder: Path) -> None:
    many = [["contiguous", f"%{number}"] for number in range(10, 10_001)]
    rewrite(folder, lambda content: steps(content).extend(many))
    with pytest.raises(ArchiveError, match=r"the network has 1\d{4} layers, expected at most 10000"):
        load(folder)


def test_only_regular_files_that_may_be_read_are_opened(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("model.safetensors", "architecture.json"):
        path = folder / name
        content = path.read_bytes()
        path.unlink()
        for make, words in ((os.mkfifo, "it is a pipe or a device"), (os.mkdir, "it is a folder")):
            make(path)
            with pytest.raises(ArchiveError, match=rf"{name} cannot be read \({words}"):
                load(folder)
            path.rmdir() if path.is_dir() else path.unlink()
        path.write_bytes(content)
        with monkeypatch.context() as patch:
            patch.setattr(os, "access", lambda place, _, name=name: Path(place).name != name)
            with pytest.raises(ArchiveError, match=rf"{name} cannot be read \(permission denied"):
                load(folder)
    load(folder)


def test_truncated_files_are_one_sentence(folder: Path) -> None:
    for name in ("model.safetensors", "architecture.json"):
        whole = (folder / name).read_bytes()
        for size in (0, 5, len(whole) // 2, len(whole) - 1):
            (folder / name).write_bytes(whole[:size])
            if name == "architecture.json" and size == len(whole) - 1:
                continue  # Only the last line break is gone.
            with pytest.raises(ArchiveError) as caught:
                load(folder)
            assert "\n" not in str(caught.value)
        (folder / name).write_bytes(whole)
    load(folder)


def test_any_changed_byte_of_the_weights_is_found(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for position in random.Random(0).sample(range(len(whole)), 40):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(ArchiveError):
            load(folder)


def test_a_corrupt_middle_of_the_weights_names_the_file(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = bytearray(path.read_bytes())
    middle = len(whole) // 2
    whole[middle : middle + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(whole)
    with pytest.raises(ArchiveError, match=r"model\.safetensors is corrupt, or not the file.*save the model"):
        load(folder)


def test_weights_of_another_type_or_model_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    state = load_file(path)
    save_file({**state, "stem.bias": state["stem.bias"].to(torch.int32)}, path)
    with pytest.raises(ArchiveError, match=r"'stem.bias' as I32 \(4,\)"):
        load(folder)
    save_file({**state, "stem.bias": torch.zeros(5)}, path)
    with pytest.raises(ArchiveError, match=r"'stem.bias' as F32 \(5,\)"):
        load(folder)
    save_file({**state, "scale.weight": torch.ones(1)}, path)
    with pytest.raises(ArchiveError, match=r"'scale.weight' as F32 \(1,\), expected .* \(\)"):
        load(folder)
    save_file({**state, "stem.bias": torch.zeros(4)}, path)
    with pytest.raises(ArchiveError, match="belongs to"):
        load(folder)


def test_missing_files_are_one_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"no saved model"):
        load(tmp_path / "nowhere")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ArchiveError, match=r"has no model\.safetensors"):
        load(folder)


def test_what_cannot_be_loaded_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="impossible momentum"):
        save(nn.Sequential(nn.BatchNorm2d(3, momentum=1.5)), tmp_path, INFO)
    counter = nn.BatchNorm2d(3)
    counter.num_batches_tracked = torch.zeros((), dtype=torch.int32)
    with pytest.raises(ArchiveError, match=r"0\.num_batches_tracked is a torch.int32"):
        save(nn.Sequential(counter, *pooled(nn.Linear(3, 3))), tmp_path, INFO)
    with pytest.raises(ArchiveError, match=r"2\.weight is without values"):
        save(pooled(nn.Linear(3, 2, device="meta")), tmp_path, INFO)
    block = Graph(
        {}, [Step("weight", ("mask",)), Step("mul", (Value(0), Value(1)))], {"mask": torch.ones(1) > 0}
    )
    with pytest.raises(ArchiveError, match=r"'0\.mask' .*impossible kind or type of a weight: .*'bool'"):
        save(nn.Sequential(block), tmp_path, INFO)
    assert not list(tmp_path.iterdir())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=50)
@given(value=JSON, argument=st.sampled_from(["in_channels", "kernel_size", "stride", "padding_mode", "bias"]))
def test_any_value_of_an_argument_loads_or_gives_our_error(
    tmp_path_factory: pytest.TempPathFactory, value: object, argument: str
) -> None:
    folder = tmp_path_factory.mktemp("model")
    save(nn.Sequential(nn.Conv2d(3, 4, 1), *pooled(nn.Linear(4, 3))), folder, INFO)
    rewrite(folder, lambda content: layer(content, "0")["args"].update({argument: value}))
    message = ""
    try:
        assert load(folder)[0].weight.shape == (4, 3, 1, 1)
    except ArchiveError as error:
        message = str(error)
    assert "\n" not in message


def mutated(content: Any, generator: random.Random) -> Any:
    """JSON content with one value somewhere changed, removed, doubled or nested."""
    values = [
        None,
        True,
        -1,
        0,
        0.5,
        10**12,
        "",
        "Graph",
        "%1",
        "Conv2d",
        [],
        {},
        [content],
        {"type": content},
    ]
    deeper = isinstance(content, dict | list) and content and generator.random() < 0.85
    if not deeper:
        return generator.choice(values)
    content = dict(content) if isinstance(content, dict) else list(content)
    key = generator.choice(list(content) if isinstance(content, dict) else range(len(content)))
    change = generator.random()
    if change < 0.1:
        del content[key]
    elif change < 0.2 and isinstance(content, dict):
        content[generator.choice(["more", "", "a.b", "forward"])] = content[key]
    else:
        content[key] = mutated(content[key], generator)
    return content


def loads_or_gives_our_error(folder: Path) -> nn.Module | None:
    message = ""
    try:
        return load(folder)
    except ArchiveError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 1000
    return None


def test_any_architecture_from_a_stranger_loads_or_gives_our_error(folder: Path) -> None:
    path, generator = folder / "architecture.json", random.Random(0)
    whole = json.loads(path.read_text())
    loaded = 0
    for _ in range(150):
        content = mutated(whole, generator)
        path.write_text(json.dumps(sealed(content) if isinstance(content, dict) else content))
        loaded += loads_or_gives_our_error(folder) is not None
    assert 0 < loaded < 150


def test_any_damage_gives_the_same_network_or_our_error(folder: Path) -> None:
    generator, model = random.Random(0), load(folder)
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for _ in range(60):
            start, end = sorted(generator.sample(range(len(whole) + 1), 2))
            other = generator.choice([bytes([generator.randrange(256)]), b"", whole[start:end] * 2])
            path.write_bytes(whole[:start] + other + whole[generator.choice([start + 1, end]) :])
            again = loads_or_gives_our_error(folder)
            assert again is None or str(again) == str(model)
            if again is not None:
                assert_same(model, again)
        path.write_bytes(whole)


def test_the_digits_network_is_small_on_disk(tmp_path: Path) -> None:
    save(digits_cnn_chain(5), tmp_path, of_channels(1))
    assert (tmp_path / "architecture.json").stat().st_size < 20_000
