"""Weights as people have them: nested, with prefixes, averaged, in half precision, beside other things."""

import copy
import os
import pathlib
import pickle
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torchvision.models import DenseNet

from tascnet.errors import WeightsError
from tascnet.models.checkpoints import flattened
from tascnet.models.weights import fill, fitted, read_state

State = dict[str, Tensor]


class Net(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv1 = nn.Conv2d(1, 2, 3)
            self.bn1 = nn.BatchNorm2d(2)
            self.features = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU())
            self.fc = nn.Linear(2, 3)
        nn.init.constant_(self.bn1.get_buffer("running_mean"), 1 + seed)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.fc(self.features(self.bn1(self.conv1(x))).mean((2, 3)))
        return outputs


def taken(path: Path, net: nn.Module | None = None) -> State:
    network = copy.deepcopy(net or Net(9))
    state = read_state(path)
    found = fitted(state, network.state_dict(), "toy", path)
    with suppress(WeightsError):
        fill(network, {}, state, "toy", path)
        assert is_net(found, network)
    return found


def is_net(found: State, net: nn.Module | None = None) -> bool:
    state = (net or Net()).state_dict()
    return found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)


def prefixed(prefix: str, state: State) -> State:
    return {prefix + key: tensor for key, tensor in state.items()}


def stepped(net: nn.Module) -> dict[str, Any]:
    """The state of an optimiser after one step."""
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(1, 1, 4, 4)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def training(state: State, where: str) -> dict[str, Any]:
    """A training checkpoint as scripts write it."""
    return {
        where: state,
        "epoch": 3,
        "optimizer": stepped(Net(5)),
        "args": Namespace(data=pathlib.PosixPath("/data"), other=pathlib.PureWindowsPath("C:/x"), lr=1e-3),
        "best": np.float64(0.9),
        "random": np.random.RandomState(0).get_state(),
        "time": datetime(2024, 1, 1),
        "history": [{"loss": np.float32(1.0)}],
    }


LAYOUTS: dict[str, Callable[[State], Any]] = {
    "plain": dict,
    "nested": lambda state: {"model": state},
    "training": lambda state: training(state, "state_dict"),
    "distributed": lambda state: training(prefixed("module.", state), "model_state_dict"),
    "lightning": lambda state: {
        "state_dict": prefixed("model.", state) | {"criterion.weight": torch.ones(3)},
        "callbacks": {"ModelCheckpoint{'monitor': 'loss'}": {"best_model_score": torch.tensor(torch.inf)}},
        "optimizer_states": [stepped(Net(5))],
        "hyper_parameters": {"lr": 0.1},
    },
    "compiled": lambda state: {"net": prefixed("_orig_mod.module.", state)},
    "deep": lambda state: {"checkpoint": {"ema": {}, "weights": prefixed("backbone._orig_mod.", state)}},
    "deepspeed": lambda state: {"module": state, "optimizer": stepped(Net(5))},
    "parallel_features": lambda state: {
        key.replace("features.", "features.module."): tensor for key, tensor in state.items()
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("is_zip", [True, False])
def test_layouts(layout: str, is_zip: bool, tmp_path: Path) -> None:
    content = LAYOUTS[layout](Net().state_dict())
    torch.save(content, tmp_path / "weights.pth", _use_new_zipfile_serialization=is_zip)
    assert is_net(taken(tmp_path / "weights.pth"))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".safetensors", ""])
def test_formats_are_known_by_content(suffix: str, tmp_path: Path) -> None:
    path, state = tmp_path / f"weights{suffix}", Net().state_dict()
    torch.save({"state_dict": state}, path)
    assert is_net(taken(path))
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert is_net(taken(path))
    save_file(prefixed("module.", state), path)
    assert is_net(taken(path))


@given(
    st.lists(st.sampled_from(("module", "_orig_mod", "model", "net", "backbone", "student")), max_size=5),
    st.integers(0, 5),
)
def test_prefixes_in_any_order_and_nesting(names: list[str], nested: int) -> None:
    content: Any = prefixed("".join(f"{name}." for name in names[nested:]), Net().state_dict())
    for name in reversed(names[:nested]):
        content = {name: content, "epoch": 1}
    assert is_net(fitted(flattened(content), Net(9).state_dict(), "toy", "file"))


def test_a_networks_own_names_may_look_like_prefixes(tmp_path: Path) -> None:
    net = nn.ModuleDict({"model": Net(), "module": nn.Linear(1, 1)})
    torch.save({"model": prefixed("module.", net.state_dict())}, tmp_path / "weights.pth")
    assert is_net(taken(tmp_path / "weights.pth", net), net)


def test_densenet_files_in_torchvisions_first_names(tmp_path: Path) -> None:
    net = DenseNet(growth_rate=2, block_config=(2, 1), num_init_features=4, num_classes=3)
    old = {
        key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2.") if ".denselayer" in key else key: tensor
        for key, tensor in net.state_dict().items()
    }
    assert old.keys() != net.state_dict().keys()
    save_file(old, tmp_path / "old.safetensors")
    assert is_net(taken(tmp_path / "old.safetensors", net), net)


def test_what_torch_compile_saves(tmp_path: Path) -> None:
    net = Net()
    # What torch.compile returns, which takes a second to import.
    compiled = nn.Module()
    compiled.add_module("_orig_mod", net)
    torch.save(compiled.state_dict(), tmp_path / "compiled.pth")
    assert is_net(taken(tmp_path / "compiled.pth"))


def test_averaged_weights_are_taken_only_where_there_are_no_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, averaged = tmp_path / "weights.pth", AveragedModel(nn.DataParallel(Net(1)))
    optimizer = {"optimizer": stepped(Net(5))}
    torch.save({"model_ema": averaged.state_dict(), "model": Net().state_dict(), **optimizer}, path)
    with caplog.at_level("INFO", "tascnet"):
        assert is_net(taken(path))
        torch.save({"state_dict_ema": Net(1).state_dict()}, path)
        assert is_net(taken(path), Net(1))
        torch.save(averaged.state_dict(), path)
        assert is_net(taken(path), Net(1))
    first, second, third = [record.getMessage() for record in caplog.records]
    assert first == (
        f"the weights of toy are `model` of {path}; ignored: "
        "model_ema (averaged, 12 tensors), optimizer (24 tensors)"
    )
    assert second == f"the weights of toy are `state_dict_ema` (averaged) of {path}"
    assert third == f"the weights of toy are `module.module` of {path}; ignored: n_averaged (1 tensor)"


def test_two_networks_in_one_file_are_refused_unless_they_are_equal(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"student": Net().state_dict(), "teacher": Net(1).state_dict()}, path)
    with pytest.raises(
        WeightsError, match="different ones for the network, at `student` and `teacher`: save"
    ):
        taken(path)
    torch.save({"model": Net().state_dict(), "best": Net().state_dict()}, path)
    assert is_net(taken(path))
    torch.save({"a": torch.ones(1), "module.a": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="different ones for the network, at the top and `module`: save"):
        fitted(read_state(path), {"a": torch.zeros(1)}, "toy", path)


def test_of_two_places_the_one_with_the_networks_shapes_is_taken() -> None:
    inner, outer = nn.Linear(2, 3).state_dict(), nn.Linear(4, 5).state_dict()
    found = fitted(inner | prefixed("head.", outer), nn.Linear(4, 5).state_dict(), "toy", "file")
    assert torch.equal(found["weight"], outer["weight"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32_and_counters_whole(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {key: tensor.to(dtype) for key, tensor in Net().state_dict().items()}
    # A training of ImageNet has more steps than float16 has numbers.
    state["bn1.num_batches_tracked"] = torch.tensor(450_000).to(dtype)
    torch.save({key: nn.Parameter(tensor) for key, tensor in state.items()}, tmp_path / "half.pth")
    found = taken(tmp_path / "half.pth")
    assert found["bn1.num_batches_tracked"].dtype == torch.int64
    for key, tensor in found.items():
        if "num_batches" not in key:
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, state[key].float())
        assert not tensor.requires_grad


def test_a_head_of_another_size_is_left_to_the_caller(tmp_path: Path) -> None:
    state = Net().state_dict() | {"fc.weight": torch.ones(7, 2), "fc.bias": torch.ones(7)}
    torch.save(state, tmp_path / "seven.pth")
    assert taken(tmp_path / "seven.pth")["fc.weight"].shape == (7, 2)
    chain = nn.Sequential()
    chain.add_module("fc", nn.Linear(2, 3))
    only = {key: tensor for key, tensor in state.items() if key.startswith("fc.")}
    with pytest.raises(WeightsError, match=r"of another shape: fc\.weight \(7, 2\) for \(3, 2\)"):
        fill(chain, {}, only, "toy", "file")


def test_heads_for_training_alone_are_ignored_and_other_layers_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "weights.pth"
    heads = prefixed("aux1.conv.", nn.Linear(1, 1).state_dict()) | {"AuxLogits.fc.bias": torch.ones(1)}
    torch.save({"state_dict": Net().state_dict() | heads | {"conv1.total_ops": torch.ones(1)}}, path)
    with caplog.at_level("INFO", "tascnet"):
        assert is_net(taken(path))
    assert [record.getMessage() for record in caplog.records] == [
        f"the weights of toy are `state_dict` of {path}; ignored: "
        "state_dict.aux1 (2 tensors), state_dict.AuxLogits (1 tensor)"
    ]
    for other in ("features.3.weight", "conv1.se.weight", "attention.weight"):
        torch.save(Net().state_dict() | {other: torch.ones(1)}, path)
        with pytest.raises(WeightsError, match=rf"not those of toy \(unexpected: {other}\)"):
            taken(path)


def test_missing_names_are_those_below_the_likeliest_prefix(tmp_path: Path) -> None:
    state = prefixed("model.", Net().state_dict())
    del state["model.fc.weight"]
    torch.save({"state_dict": state}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"not those of toy \(missing: fc\.weight\): check that"):
        taken(tmp_path / "weights.pth")


def refuse(path: Path, words: str) -> None:
    with pytest.raises(WeightsError, match=words) as caught:
        read_state(path)
    assert str(caught.value).startswith(f"the weights {path} cannot be read (")
    assert str(caught.value).endswith('as `torch.save(model.state_dict(), "weights.pth")` writes it')
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_a_whole_pickled_model_is_refused_with_the_way_to_save_its_weights(
    is_zip: bool, tmp_path: Path
) -> None:
    path = tmp_path / "model.pt"
    for content in (Net(), {"model": Net(), "epoch": 3}):
        torch.save(content, path, _use_new_zipfile_serialization=is_zip)
        refuse(path, r"\(it holds [\w.]*test_checkpoints\.Net, which only running code could read\)")
    torch.jit.script(nn.Linear(1, 1)).save(str(path))
    refuse(path, "it is a program of TorchScript")


class Call:
    """Pickled as a call."""

    def __init__(self, function: object, *args: object) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("where", ["args", "state_dict", "optimizer"])
def test_code_in_a_file_is_not_run(where: str, is_zip: bool, tmp_path: Path) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"
    calls = {
        "posix.system": Call(os.system, f"touch {trace}"),
        "eval": Call(eval, f"open({str(trace)!r}, 'w')"),
        "pathlib.Path.touch": Call(Path.touch, trace),
        "pickle.loads": Call(pickle.loads, b"."),
        "getattr": Call(getattr, Net, "forward"),
    }
    for name, call in calls.items():
        torch.save(
            {"state_dict": Net().state_dict(), where: {"a": call}},
            path,
            _use_new_zipfile_serialization=is_zip,
        )
        if name != "pathlib.Path.touch":
            refuse(path, rf"it holds \w*\.?{name.rpartition('.')[2]}, which only running code could read")
        else:
            refuse(path, "it (holds|is)")
        assert not trace.exists()


def test_objects_beside_weights_are_not_made(tmp_path: Path) -> None:
    """An array of a terabyte and a path of nonsense take no memory and raise nothing."""
    from numpy._core.multiarray import _reconstruct

    beside = [Call(_reconstruct, np.ndarray, (10**12,), b"b"), Call(np.dtype, "S1000000000000")]
    path = tmp_path / "weights.pth"
    torch.save({"model": Net().state_dict(), "beside": [*beside, Call(Namespace, 1, 2, 3)]}, path)
    assert is_net(taken(path))


def test_mappings_that_repeat_each_other_end(tmp_path: Path) -> None:
    path, mapping = tmp_path / "weights.pth", {"a": torch.ones(1)}
    for _ in range(7):
        mapping = {str(i): mapping for i in range(100)}  # type: ignore[misc]
    torch.save(mapping, path)
    refuse(path, "it holds more than 100000 names")
    endless: dict[str, Any] = {"a": torch.ones(1)}
    endless["b"] = endless
    torch.save(endless, path)
    assert len(read_state(path)) == 8
    torch.save({"a" * 1001: torch.ones(1)}, path)
    refuse(path, "a name of more than 1000 characters")
    save_file({"." * 1001: torch.ones(1)}, path)
    refuse(path, "a name of more than 1000 characters")
