"""Networks by name, from a folder, and of the user's own."""

import json
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import tascnet
from tascnet.data.samples import open_samples
from tascnet.errors import ConfigError, SurgeryError, TascnetError
from tascnet.models.info import ModelInfo
from tascnet.models.preprocessing import Preprocessing
from tascnet.models.weights import write_weights
from tascnet.options import CustomBackbone, ImageBackbone, TextBackbone
from tascnet.train.backbone import SOURCE_RECIPE, digits_network
from tascnet.train.evaluate import evaluate_source


def plain(classes: int = 4) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)
    )


class Gate(nn.Module):
    """A block of a user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.conv(x))


def gated(classes: int = 4) -> nn.Sequential:
    return nn.Sequential(OrderedDict(gate=Gate(), rest=plain(classes)[:4], output=nn.Linear(8, classes)))


def same(first: nn.Module, second: nn.Module) -> bool:
    theirs = second.state_dict()
    return all(torch.equal(tensor, theirs[key]) for key, tensor in first.state_dict().items())


def test_a_name_takes_the_presets_options_and_ones_own() -> None:
    network = tascnet.backbone("resnet20", weights="random", size=16, resize=20, num_classes=3, seed=2)
    assert not network.training
    assert network.origin == tascnet.preset("backbone", "resnet20", weights="random", size=16, resize=20)
    assert network.preprocessing == Preprocessing(
        size=16, resize=20, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)
    )
    assert network.info == ModelInfo(
        backbone="resnet20",
        preprocessing=network.preprocessing,
        class_names=(),
        weights="random",
        licence="none",
    )
    assert (network.class_names, network.factory) == ((), None)
    assert network.classifier.out_features == 3
    again = tascnet.backbone(network.origin, num_classes=3, seed=2)
    assert same(network, again)
    assert not same(network, tascnet.backbone(network.origin, num_classes=3, seed=3))


def test_the_shorter_side_is_8_7_of_the_size_unless_it_is_given() -> None:
    options = ImageBackbone(name="resnet20", weights="random", size=28)
    assert tascnet.backbone(options).preprocessing.resize == 32


def test_a_text_network_has_the_words_of_its_weights() -> None:
    network = tascnet.backbone(TextBackbone(embedding_width=4, filters=3))
    assert network.preprocessing.vocabulary == ("[PAD]", "[UNK]")
    assert network.embedding.embedding_dim == 4


def test_a_custom_backbone_keeps_its_factory() -> None:
    network = tascnet.backbone("custom", factory=f"{__name__}.gated", size=8)
    assert isinstance(network.origin, CustomBackbone)
    assert network.factory is gated
    assert network.output.out_features == 10


def test_a_network_of_ones_own_is_copied_and_checked() -> None:
    own = plain().train()
    network = tascnet.backbone(own, size=8, mean=[0.5] * 3, std=[0.5] * 3, interpolation="bicubic")
    assert own.training
    assert not hasattr(own, "info")
    assert same(own, network)
    assert own[0].weight is not network[0].weight
    assert network.preprocessing == Preprocessing(
        size=8, resize=9, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic"
    )
    assert network.origin.name == "custom"
    assert network.factory is None
    assert tascnet.backbone(own, torch.zeros(1, 3, 24, 24)).preprocessing.size == 24


def test_what_came_through_the_door_passes_it_again() -> None:
    network = tascnet.backbone(plain(), size=8)
    assert tascnet.backbone(network) is network


def test_blocks_of_ones_own_classes_are_saved_and_loaded(tmp_path: Path) -> None:
    own = gated()
    network = tascnet.backbone(own, size=8)
    nn.init.zeros_(own.gate.conv.weight)
    tascnet.save(network, tmp_path / "model")
    again = tascnet.load(tmp_path / "model", factory=network.factory)
    assert same(network, again)
    assert network.factory(4).gate is not again.gate
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(network(x), again(x))


def test_a_folder_of_a_saved_network_is_loaded(tmp_path: Path) -> None:
    network = tascnet.backbone(plain(), size=8)
    tascnet.save(network, tmp_path / "model")
    for place in (tmp_path / "model", str(tmp_path / "model")):
        again = tascnet.backbone(place)
        assert again.info == network.info
        assert same(network, again)


def test_weights_from_a_file(tmp_path: Path) -> None:
    network = tascnet.backbone("digits_cnn", weights="random", num_classes=5)
    write_weights(tmp_path / "digits.safetensors", network)
    again = tascnet.backbone("digits_cnn", weights=str(tmp_path / "digits.safetensors"))
    assert same(network, again)
    assert again.classifier.out_features == 5


@pytest.mark.parametrize(
    ("network", "options", "says"),
    [
        ("mobilenet", {}, "no network 'mobilenet', and no folder of that name: did you mean 'mobilenet_v2'"),
        ("resnet20", {"sizes": 3}, "no option `sizes`: did you mean `size`"),
        ("resnet20", {"example": torch.zeros(1)}, "`example` has no effect"),
        (nn.Linear(3, 2), {}, "Linear is not yet a chain: give an nn.Sequential of blocks"),
        (nn.Sequential(), {}, "Sequential is not yet a chain"),
        (
            plain(),
            {"size": 8, "mean": [0.5], "std": [0.5]},
            r"does not take images of 1 x 8 x 8 \(.*change `size`",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 2, 1), nn.Linear(8, 2)),
            {"size": 8},
            r"returns \(1, 2, 8, 2\) for one image",
        ),
        (nn.Sequential(nn.LSTM(8, 8), nn.Linear(8, 2)), {"size": 8}, "does not take images"),
        (plain(), {"weights": "imagenet", "sizes": 3}, "no option `sizes`"),
    ],
)
def test_mistakes_are_one_sentence(network: object, options: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        tascnet.backbone(network, **options)
    assert "\n" not in str(caught.value)


def test_the_last_block_is_the_classifier(tmp_path: Path) -> None:
    with pytest.raises(SurgeryError, match=r"the last block of the chain is Flatten, expected an nn\.Linear"):
        tascnet.backbone(plain()[:4], size=8)
    with pytest.raises(TascnetError, match="is no saved model"):
        tascnet.backbone(tmp_path)
    with pytest.raises(ConfigError, match="`size` has no effect with a saved model"):
        tascnet.backbone(tmp_path, size=3)


def test_a_network_that_could_not_be_saved_is_refused_at_the_door() -> None:
    with pytest.raises(TascnetError, match="impossible momentum"):
        tascnet.backbone(nn.Sequential(nn.BatchNorm2d(3, momentum=1.5), *plain()), size=8)


def test_digits_cnn_learns_its_source_task_once(cache: Path, logged: list[str]) -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    network = tascnet.backbone("digits_cnn", cache=cache)
    assert network.origin.weights == "pretrained"
    assert network.classifier.out_features == 5
    (path,) = (cache / "weights").iterdir()
    assert path.name in network.info.weights
    logged.clear()
    assert same(network, tascnet.backbone("digits_cnn", seed=7, cache=cache))
    assert not [line for line in logged if "pre-training" in line]
    assert (torch.get_num_threads(), bool(torch.equal(state, torch.get_rng_state()))) == (threads, True)
    data = tascnet.digits(classes=list("01234"), train=0.8, val=0.1)
    samples = open_samples(data, network.preprocessing, seed=0, cache=cache)
    assert evaluate_source(network, samples.test).accuracy > 0.95


def test_other_source_digits_are_another_file(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tascnet.train.backbone.SOURCE_RECIPE", replace(SOURCE_RECIPE, epochs=1))
    options = tascnet.preset("backbone", "digits_cnn")
    path = digits_network(["7", "8", "9"], options, cache=cache)
    network = tascnet.backbone(replace(options, weights=str(path)), cache=cache)
    assert network.classifier.out_features == 3
    assert path != digits_network(["7", "8"], options, cache=cache)
    assert json.dumps(network.info.to_dict())


def test_damaged_weights_in_the_cache_are_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    monkeypatch.setattr("tascnet.train.backbone.SOURCE_RECIPE", replace(SOURCE_RECIPE, epochs=1))
    options = tascnet.preset("backbone", "digits_cnn")
    path = digits_network(["0", "1"], options, cache=tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    logged.clear()
    assert digits_network(["0", "1"], options, cache=tmp_path).read_bytes() == whole
    assert logged[0] == (
        f"WARNING: the weights {path} were changed or damaged after they were written; they are made again"
    )
