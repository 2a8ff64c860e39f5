"""Networks of libraries and of the user's own as chains, with weights of every origin."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from tascnet.errors import ConfigError, WeightsError
from tascnet.models import build as module
from tascnet.models.build import build, build_chain, preprocessing_of, sketch, write_backbone
from tascnet.models.weights import read_state, write_weights
from tascnet.options import ImageBackbone
from tests.models.networks import shaken


def images(count: int = 2, side: int = 64) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(5))


def same(first: nn.Module, second: nn.Module) -> bool:
    theirs = second.state_dict()
    return all(torch.equal(tensor, theirs[key]) for key, tensor in first.state_dict().items())


def of_torchvision(name: str, classes: int = 7) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return shaken(torchvision.models.get_model(name, weights=None, num_classes=classes))


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5"])
def test_a_file_of_the_library_gives_its_outputs_and_its_classes(name: str, tmp_path: Path) -> None:
    original = of_torchvision(name)
    save_file(original.state_dict(), tmp_path / "weights.safetensors")
    chain = build_chain(name, weights=tmp_path / "weights.safetensors")
    assert chain.classifier.out_features == 7
    with torch.inference_mode():
        torch.testing.assert_close(chain(images()), original(images()), rtol=1e-5, atol=1e-5)


def test_a_file_of_timm_gives_its_outputs(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    original = shaken(timm.create_model("test_efficientnet", num_classes=7))
    save_file(original.state_dict(), tmp_path / "weights.safetensors")
    chain = build_chain("timm/test_efficientnet", weights=tmp_path / "weights.safetensors")
    with torch.inference_mode():
        assert torch.equal(chain(images()), original(images()))


# One has an identity matrix appended, another factors by channel of another shape.
@pytest.mark.parametrize("name", ["squeezenet1_1", "timm/test_convnext", "tests.my_nets.Net"])
def test_weights_that_are_written_are_read_again(name: str, tmp_path: Path) -> None:
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    options = ImageBackbone(name=name, weights="random", size=32)
    network = build(options, num_classes=4, seed=1)
    write_backbone(tmp_path / "weights.safetensors", network, {"seen": 3})
    again = build(replace(options, weights=str(tmp_path / "weights.safetensors")))
    assert same(network, again)
    assert again.classifier.out_features == 4
    keys = read_state(tmp_path / "weights.safetensors").keys()
    original = {
        "timm/test_convnext": "stages.0.blocks.0.gamma",
        "tests.my_nets.Net": "first.attend.down.weight",
    }
    assert name not in original or original[name] in keys


def test_published_weights_come_with_their_images_and_their_licence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original, asked = of_torchvision("mobilenet_v3_small", 1000), []

    def published(url: str, name: str) -> dict[str, torch.Tensor]:
        asked.append((url, name))
        return dict(original.state_dict())

    monkeypatch.setattr(module, "published_state", published)
    network = build(ImageBackbone(name="mobilenet_v3_small", size=64))
    enum = torchvision.models.MobileNet_V3_Small_Weights.IMAGENET1K_V1
    assert asked == [(enum.url, "mobilenet_v3_small")]
    assert (network.info.weights, network.info.licence) == ("torchvision IMAGENET1K_V1", "not stated")
    with torch.inference_mode():
        assert torch.equal(network(images()), original(images()))


def test_a_tag_decides_the_images() -> None:
    newer = ImageBackbone(name="resnet50", weights="IMAGENET1K_V2")
    assert (preprocessing_of(newer).size, preprocessing_of(newer).resize) == (224, 232)
    # In proportion: 96 * 232 / 224.
    assert preprocessing_of(replace(newer, size=96)).resize == 99
    assert preprocessing_of(replace(newer, size=96, resize=96)).resize == 96
    assert preprocessing_of(replace(newer, weights="random")).resize == 256
    own = preprocessing_of(ImageBackbone(name="my_nets.Net", size=28))
    assert (own.resize, own.mean) == (32, (0.485, 0.456, 0.406))


@pytest.mark.parametrize(
    ("name", "weights", "says"),
    [
        ("resnet20", "pretrained", "resnet20 has no published weights that can be downloaded"),
        ("resnet18", "IMAGENET1K_V9", "is no file and no weights of resnet18: take IMAGENET1K_V1"),
        ("resnet18", "{folder}/other.safetensors", "are not those of resnet18"),
        ("tests.my_nets.Net", "{folder}/absent.pth", "is no file"),
    ],
)
def test_weights_that_are_not_there_or_another_networks_are_one_sentence(
    name: str, weights: str, says: str, tmp_path: Path
) -> None:
    write_weights(tmp_path / "other.safetensors", nn.Linear(3, 2))
    with pytest.raises(WeightsError, match=says) as caught:
        build(ImageBackbone(name=name, weights=weights.format(folder=tmp_path), size=32))
    assert "\n" not in str(caught.value)


def test_a_network_that_is_too_small_for_its_images_is_found_before_weights_are_fetched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "published_state", lambda *_: pytest.fail("weights were fetched first"))
    with pytest.raises(ConfigError, match="`size=31` is too small for vgg16"):
        build(ImageBackbone(name="vgg16", size=31))


def test_a_network_that_reads_values_while_it_is_made_is_not_looked_at_without_them() -> None:
    chain = build(ImageBackbone(name="regnet_y_400mf", weights="random", size=32))
    assert chain(images(side=32)).shape == (2, 1000)


def test_a_sketch_takes_no_memory() -> None:
    chain = sketch(ImageBackbone(name="vgg16"))
    assert {tensor.device.type for tensor in chain.state_dict().values()} == {"meta"}
    # As published.
    assert sum(parameter.numel() for parameter in chain.parameters()) == 138_357_544
    assert chain.info.preprocessing.size == 224
