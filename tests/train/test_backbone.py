"""Networks by name, from a folder, and of the user's own."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import tascnet
from tascnet.data.samples import open_samples
from tascnet.errors import ConfigError, TascnetError
from tascnet.models.info import ModelInfo
from tascnet.models.preprocessing import Preprocessing
from tascnet.models.weights import write_weights
from tascnet.options import ImageBackbone, TextBackbone
from tascnet.train.backbone import SOURCE_RECIPE, digits_network
from tascnet.train.evaluate import evaluate_source
from tests.my_nets import Net


class Picky(nn.Module):
    """Does not take what it is given."""

    def __init__(self, error: str) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 2)
        self.error = error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.error == "KeyError":
            return {"picture": x}["image"]
        if self.error == "SystemExit":
            sys.exit(3)
        assert x.shape[-1] == 224, f"{x.shape[-1]} is not 224"
        return self.layer(x)


def plain(classes: int = 4) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)
    )


def same(first: nn.Module, second: nn.Module) -> bool:
    theirs = second.state_dict()
    return all(torch.equal(tensor, theirs[key]) for key, tensor in first.state_dict().items())


def test_a_name_takes_the_presets_options_and_ones_own() -> None:
    network = tascnet.backbone("resnet20", weights="random", size=16, resize=20, num_classes=3, seed=2)
    assert not network.training
    asked = tascnet.preset("backbone", "resnet20", weights="random", size=16, resize=20)
    assert network.origin == replace(asked, interpolation="bilinear", crop="center")
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
    assert network.class_names == ()
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


def test_a_network_of_a_library_takes_the_images_of_its_weights(logged: list[str]) -> None:
    network = tascnet.backbone("mobilenet_v2", weights="random", size=64, num_classes=3)
    assert network.preprocessing == Preprocessing(
        size=64, resize=73, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    assert logged == [
        "INFO: mobilenet_v2: the images are prepared as for its weights IMAGENET1K_V1 where no option says "
        "otherwise: resize 73, mean [0.485,0.456,0.406], std [0.229,0.224,0.225], interpolation bilinear, "
        "crop center"
    ]
    assert network.origin == ImageBackbone(
        name="mobilenet_v2", weights="random", **network.preprocessing.to_dict()
    )
    assert network.classifier.out_features == 3
    logged.clear()
    again = tascnet.backbone(network.origin, num_classes=3)
    # Nothing is left open.
    assert logged == []
    assert same(network, again)


def test_a_network_of_timm_needs_no_timm_to_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("timm")
    network = tascnet.backbone("timm/test_efficientnet", weights="random", size=32, num_classes=4)
    assert (network.info.backbone, network.preprocessing.resize) == ("timm/test_efficientnet", 34)
    tascnet.save(network, tmp_path / "model")
    monkeypatch.setitem(sys.modules, "timm", None)
    again = tascnet.load(tmp_path / "model")
    assert {type(part).__module__.partition(".")[0] for part in again.modules()} == {"torch", "tascnet"}
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(images), network(images))


def test_images_that_are_too_small_are_named_before_anything_takes_long() -> None:
    with pytest.raises(ConfigError, match=r"`size=28` is too small for densenet121 \(.*give a larger `size`"):
        tascnet.backbone("densenet121", size=28)
    with pytest.raises(ConfigError, match=r"`size=4` is too small for tests\.my_nets\.Net"):
        tascnet.backbone("tests.my_nets.Net", size=4)


def test_a_network_by_its_dotted_path() -> None:
    network = tascnet.backbone("tests.my_nets.Net", size=32, num_classes=3, seed=2)
    assert (network.info.backbone, network.preprocessing.size) == ("tests.my_nets.Net", 32)
    assert network.preprocessing.resize == 37
    assert network.info.weights == "as the network's code gives them"
    assert network.classifier.out_features == 3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        own = Net(3).eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(network(images), own(images))
    # Without a number of classes it is as the code makes it.
    assert tascnet.backbone("tests.my_nets:Net", size=32).classifier.out_features == 10


def test_a_network_of_ones_own_is_copied_and_checked() -> None:
    own = Net(4).train()
    network = tascnet.backbone(own, size=32, mean=[0.5] * 3, std=[0.5] * 3, interpolation="bicubic")
    assert own.training
    assert not hasattr(own, "info")
    assert own.act.inplace
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(network(images), own.eval()(images))
    nn.init.zeros_(network.stem.weight)
    assert own.stem.weight.abs().sum() > 0
    assert network.preprocessing == Preprocessing(
        size=32, resize=37, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic"
    )
    assert (network.info.backbone, network.origin) == ("Net", None)
    assert tascnet.backbone(own, torch.zeros(1, 3, 24, 24)).preprocessing.size == 24


def test_a_chain_of_ones_own_keeps_its_blocks() -> None:
    own = plain()
    network = tascnet.backbone(own, size=8)
    assert [name for name, _ in network.named_children()] == ["0", "1", "2", "3", "classifier"]
    assert torch.equal(own[0].weight, network[0].weight)
    assert own[0].weight is not network[0].weight


def test_what_came_through_the_door_passes_it_again() -> None:
    network = tascnet.backbone(plain(), size=8)
    assert tascnet.backbone(network) is network


def test_a_network_of_ones_own_is_saved_and_loaded_without_its_code(tmp_path: Path) -> None:
    network = tascnet.backbone(Net(4), size=32)
    tascnet.save(network, tmp_path / "model")
    again = tascnet.load(tmp_path / "model")
    x = torch.randn(2, 3, 32, 32)
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
        ("mobilenet", {}, "no network 'mobilenet', and no folder of that name: did you mean mobilenet_v2"),
        ("resnet20", {"sizes": 3}, "no option `sizes`: did you mean `size`"),
        ("resnet20", {"example": torch.zeros(1)}, "`example` has no effect"),
        (nn.Sequential(), {"size": 8}, r"has the shape b x 3 x 8 x 8: expected `b x n`"),
        (plain()[:3], {"size": 8}, r"has the shape b x 8 x 1 x 1: expected `b x n`"),
        (
            plain(),
            {"size": 8, "mean": [0.5], "std": [0.5]},
            r"does not take images of 1 x 8 x 8 \(.*change `size`",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 2, 1), nn.Linear(8, 2)),
            {"size": 8},
            r"has the shape b x 2 x 8 x 2",
        ),
        (nn.Sequential(nn.LSTM(8, 8), nn.Linear(8, 2)), {"size": 8}, "does not take images"),
        (plain(), {"weights": "imagenet", "size": 8}, "`weights` has no effect with a network of your own"),
        (plain(), {"num_classes": 3}, "`num_classes` has no effect with a network of your own"),
        (plain(), {"example": (1, 3, 8, 8)}, "`example` is of type tuple, expected a tensor"),
        (plain(), {"example": torch.zeros(3, 8, 8)}, "`example` is 3 x 8 x 8, expected one square image"),
        (plain(), {"example": torch.zeros(1, 3, 8, 9)}, "`example` is 1 x 3 x 8 x 9, expected one square"),
        (plain(), {"example": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)}, "`example` is of torch.uint8"),
        (plain(), {"example": torch.zeros(1, 3, 8, 8), "size": 9}, "and images are 1 x 3 x 9 x 9 by `size`"),
        (plain(), {"example": torch.zeros(1, 1, 8, 8)}, "is 1 x 1 x 8 x 8, and images are 1 x 3 x 8 x 8"),
        (Net, {}, r"is of type type, expected a name, .*: make it first, as in `Net\(\)`"),
        (None, {}, "is of type NoneType, expected a name"),
        (Picky("KeyError"), {"size": 8}, r"images of 3 x 8 x 8 \(KeyError: 'image' \(.*, line \d+\)\)"),
        (Picky("SystemExit"), {"size": 8}, r"images of 3 x 8 x 8 \(SystemExit: 3"),
        (Picky("AssertionError"), {"size": 8}, r"\(AssertionError: 8 is not 224"),
    ],
)
def test_mistakes_are_one_sentence(network: object, options: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        tascnet.backbone(network, **options)
    assert "\n" not in str(caught.value)


def test_a_folder_that_holds_no_model_or_gets_options_is_refused(tmp_path: Path) -> None:
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
