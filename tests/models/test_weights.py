import hashlib
import sys
import urllib.error
from collections import OrderedDict
from functools import partial
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from tascnet.errors import ConfigError, WeightsError
from tascnet.models.build import build, build_chain, write_backbone
from tascnet.models.chains.custom import find_factory
from tascnet.models.weights import read_metadata, read_state, write_weights
from tascnet.options import CustomBackbone, ImageBackbone
from tests.models.networks import original


@pytest.fixture
def resnet_file(tmp_path: Path) -> Path:
    path = tmp_path / "resnet20.pth"
    torch.save(original("resnet20", 6).state_dict(), path)
    return path


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    theirs = second.state_dict()
    return all(torch.equal(tensor, theirs[key]) for key, tensor in first.state_dict().items())


def test_random_weights_follow_the_seed_and_spare_the_global_generator() -> None:
    before = torch.get_rng_state()
    first, again, other = (build_chain("resnet20", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert same_weights(first, again)
    assert not same_weights(first, other)


def test_a_file_leaves_the_global_generator_alone(resnet_file: Path) -> None:
    before = torch.get_rng_state()
    chain = build_chain("resnet20", weights=resnet_file)
    assert torch.equal(before, torch.get_rng_state())
    assert chain.classifier.out_features == 6
    assert not chain.training
    assert all(parameter.requires_grad for parameter in chain.parameters())


def test_info_names_the_file_and_its_digest(resnet_file: Path) -> None:
    network = build(ImageBackbone(name="resnet20", weights=str(resnet_file), size=32))
    digest = hashlib.sha256(resnet_file.read_bytes()).hexdigest()[:32]
    assert network.info.weights == f"resnet20.pth (sha256 {digest})"


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    state = original("resnet20", 6).half().state_dict()
    save_file(state, tmp_path / "half.safetensors")
    chain = build_chain("resnet20", weights=tmp_path / "half.safetensors")
    assert {parameter.dtype for parameter in chain.parameters()} == {torch.float32}
    assert torch.equal(chain.conv1.weight, state["conv1.weight"].float())


def test_training_checkpoints_with_data_parallel_names(tmp_path: Path, resnet_file: Path) -> None:
    state = torch.load(resnet_file, weights_only=True)
    wrapped = {f"module.{key}": tensor for key, tensor in state.items() if "num_batches" not in key}
    torch.save({"state_dict": wrapped, "best": 0.9}, tmp_path / "checkpoint.pth")
    chain = build_chain("resnet20", weights=tmp_path / "checkpoint.pth")
    assert same_weights(chain, build_chain("resnet20", weights=resnet_file))


def test_densenet_files_in_torchvisions_first_names(tmp_path: Path) -> None:
    state = original("densenet121", 3).state_dict()
    old = {
        key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2.") if ".denselayer" in key else key: tensor
        for key, tensor in state.items()
    }
    assert old.keys() != state.keys()
    save_file(old, tmp_path / "old.safetensors")
    save_file(state, tmp_path / "new.safetensors")
    first, second = (
        build_chain("densenet121", weights=tmp_path / f"{age}.safetensors") for age in ("old", "new")
    )
    assert same_weights(first, second)


def test_pretrained_takes_the_file_of_torchvisions_enum(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    enum = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    model = original("mobilenet_v2", 1000)
    torch.save(model.state_dict(), folder / enum.url.rpartition("/")[2])
    network = build(ImageBackbone(name="mobilenet_v2"))
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(network(x), model(x))
    assert network.info.weights == "torchvision IMAGENET1K_V1"
    assert "BSD-3-Clause" in network.info.licence


def test_pretrained_without_network_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(WeightsError, match=r"mobilenet_v2-b0353104\.pth elsewhere"):
        build_chain("mobilenet_v2", weights="pretrained")


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "file", "classes"),
    [
        ("mobilenet_v2", "mobilenet_v2_imagenet", 1000),
        ("resnet20", "resnet20_cifar10", 10),
        ("resnet56", "resnet56_cifar10", 10),
    ],
)
def test_published_files_load(name: str, file: str, classes: int, shared: Path) -> None:
    chain = build_chain(name, weights=shared / "weights" / f"{file}.safetensors")
    assert chain.classifier.out_features == classes
    assert {parameter.dtype for parameter in chain.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["resnet20", "digits_cnn"])
def test_unpublished_weights_need_a_path(name: str) -> None:
    with pytest.raises(WeightsError, match=r"no published weights.*path of a file"):
        build_chain(name, weights="pretrained")


def test_another_architecture_is_named(resnet_file: Path) -> None:
    with pytest.raises(WeightsError, match=r"not those of mobilenet_v2.*classifier\.1\.weight"):
        build_chain("mobilenet_v2", weights=resnet_file)


def test_missing_unexpected_and_misshapen_keys_are_named(tmp_path: Path, resnet_file: Path) -> None:
    state = torch.load(resnet_file, weights_only=True)
    del state["layer2.1.conv2.weight"]
    state["extra"] = torch.zeros(1)
    state["conv1.weight"] = torch.zeros(16, 1, 3, 3)
    torch.save(state, tmp_path / "wrong.pth")
    with pytest.raises(WeightsError) as caught:
        build_chain("resnet20", weights=tmp_path / "wrong.pth")
    assert str(caught.value) == (
        "the weights are not those of resnet20 (missing: layer2.1.conv2.weight; unexpected: extra; "
        "of another shape: conv1.weight (16, 1, 3, 3) for (16, 3, 3, 3)): "
        "check that network and weights belong together"
    )


def test_a_deeper_network_of_the_same_family_is_refused(tmp_path: Path) -> None:
    save_file(original("resnet56", 4).state_dict(), tmp_path / "deep.safetensors")
    with pytest.raises(WeightsError, match=r"unexpected: .* more"):
        build_chain("resnet20", weights=tmp_path / "deep.safetensors")


def test_unreadable_files_are_one_sentence(tmp_path: Path, resnet_file: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("ran code",)

    whole = resnet_file.read_bytes()
    (tmp_path / "torn.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.safetensors").write_text("not a tensor in sight")
    (tmp_path / "state.bin").write_bytes(whole)
    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    for name in ("torn.pth", "empty.pth", "text.safetensors", "state.bin", "evil.pth"):
        with pytest.raises(WeightsError, match="cannot be read") as caught:
            read_state(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(WeightsError, match="no file"):
        read_state(tmp_path / "absent.pth")
    torch.save({"epoch": 3}, tmp_path / "numbers.pth")
    with pytest.raises(WeightsError, match="no state dict"):
        read_state(tmp_path / "numbers.pth")


def test_own_weights_are_written_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "digits.safetensors"
    chain = build_chain("digits_cnn", channels=1, num_classes=5)
    write_weights(path, chain.to(memory_format=torch.channels_last))
    again = build_chain("digits_cnn", weights=path, channels=1)
    assert again.classifier.out_features == 5
    assert same_weights(chain, again)


def test_a_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    chain = build_chain("digits_cnn")
    write_weights(tmp_path / "own.safetensors", chain)
    again = build_chain("digits_cnn", weights="~/own.safetensors")
    assert torch.equal(again.state_dict()["classifier.weight"], chain.state_dict()["classifier.weight"])


def tiny(num_classes: int, width: int = 4) -> nn.Sequential:
    layers = [("conv", nn.Conv2d(3, width, 3)), ("pool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten())]
    return nn.Sequential(OrderedDict([*layers, ("output", nn.Linear(width, num_classes))]))


def headless(num_classes: int) -> nn.Sequential:
    return nn.Sequential(nn.ReLU())


def broken(num_classes: int) -> nn.Sequential:
    raise RuntimeError("no such layer")


def tiny_options(factory: str = "tiny", weights: str | Path = "random") -> CustomBackbone:
    return CustomBackbone(factory=f"{__name__}.{factory}", weights=str(weights))


def test_custom_chains_by_dotted_path(tmp_path: Path) -> None:
    first = build(tiny_options(), num_classes=3)
    again = build(tiny_options(weights="pretrained"), num_classes=3)
    assert first.output.out_features == 3
    assert first.factory(5).output.out_features == 5
    assert same_weights(first, again)
    write_weights(tmp_path / "tiny.safetensors", first)
    stored = build(tiny_options(weights=tmp_path / "tiny.safetensors"), seed=9)
    assert stored.output.out_features == 3
    assert same_weights(first, stored)
    assert stored.info.weights.startswith("tiny.safetensors (sha256 ")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("def chain(:\n", "SyntaxError: "),
        ("raise RuntimeError('no\\nlicence')", r"RuntimeError: no licence\): correct it"),
        ("import a_module_that_is_missing", r"a_module_that_is_missing'\): correct it"),
        ("from os import a_name_that_is_missing", "ImportError: .*: correct it"),
        ("import sys; sys.exit()", "SystemExit"),
        ("chains = 1", r"own_network has no 'chain'\): give the dotted path"),
    ],
)
def test_a_factory_whose_module_fails_is_one_sentence(
    source: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_network.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_network", raising=False)
    with pytest.raises(ConfigError, match=rf"own_network\.chain' cannot be imported.*{told}") as caught:
        find_factory("own_network.chain")
    assert "\n" not in str(caught.value)
    monkeypatch.delitem(sys.modules, "own_network", raising=False)


three = 3


def no_chain(num_classes: int) -> int:
    return 3


def one_output(num_classes: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 1))


broken_in_part = partial(broken)


def test_custom_factories_are_checked() -> None:
    for factory, word in [
        ("absent", "cannot be imported"),
        ("__name__", "expected a function"),
        ("headless", "expected an nn.Linear of 10 outputs"),
        ("broken", r"test_weights\.broken failed with RuntimeError: no such layer"),
        ("broken_in_part", r"test_weights\.broken failed"),
        ("no_chain", "expected an nn.Sequential"),
        ("one_output", "10 outputs"),
    ]:
        with pytest.raises(ConfigError, match=word):
            build(tiny_options(factory))
    for path in ("nowhere.to.be.found", "tiny"):
        with pytest.raises(ConfigError, match="cannot be imported"):
            build(CustomBackbone(factory=path))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121", "resnet20", "digits_cnn"])
def test_written_weights_have_the_original_layout_and_are_read_back(tmp_path: Path, name: str) -> None:
    network = build(ImageBackbone(name=name, weights="random", size=32), num_classes=3, seed=1)
    path = tmp_path / "weights.safetensors"
    write_backbone(path, network, {"note": "ours"})
    assert read_metadata(path) == {"note": "ours"}
    if name not in ("resnet20", "digits_cnn"):
        assert set(read_state(path)) == set(original(name, 3).state_dict())
    again = build_chain(name, weights=path)
    assert again.classifier.out_features == 3
    assert same_weights(again, network)


def test_equal_networks_give_equal_files(tmp_path: Path) -> None:
    chain = build_chain("digits_cnn")
    for name in ("a", "b"):
        write_weights(
            tmp_path / f"{name}.safetensors", chain, None, {"one": [1, 2], "two": "x", "three": None}
        )
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
