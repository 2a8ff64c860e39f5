"""Networks of torchvision and timm by name, and what the libraries say about their weights."""

import builtins

import pytest
import torch
import torchvision

from tascnet.errors import ConfigError, TascnetError, WeightsError
from tascnet.models import library
from tascnet.models.library import NOT_STATED, check_name, find, load_timm
from tascnet.models.preprocessing import ExpectedImages, Preprocessing
from tascnet.options import ImageBackbone


def test_a_network_of_torchvision_has_its_weights_as_the_library_states_them() -> None:
    entry = find("resnet50")
    weights = torchvision.models.ResNet50_Weights
    assert [*entry.published] == [weights.IMAGENET1K_V1.name, weights.IMAGENET1K_V2.name]
    # The first ones that were published.
    assert entry.weights("pretrained") is entry.published["IMAGENET1K_V1"]
    newer = entry.weights("IMAGENET1K_V2")
    assert newer is not None
    assert (newer.url, newer.num_classes, newer.licence) == (weights.IMAGENET1K_V2.url, 1000, NOT_STATED)
    assert newer.images == ExpectedImages(size=224, resize=232)
    assert entry.weights("random") is None
    assert entry.weights("some/file.pth") is None


def test_a_licence_is_reported_where_the_library_states_one() -> None:
    published = find("regnet_y_16gf").published
    assert "SWAG/blob/main/LICENSE" in published["IMAGENET1K_SWAG_E2E_V1"].licence
    assert published["IMAGENET1K_SWAG_E2E_V1"].images.interpolation == "bicubic"
    # Those without a classifier are left out.
    assert [*find("vgg16").published] == ["IMAGENET1K_V1"]


@pytest.mark.parametrize("name", library.torchvision_names())
def test_every_classifier_of_torchvision_has_weights_and_images(name: str) -> None:
    entry = find(name)
    assert entry.default in entry.published
    for published in entry.published.values():
        made = Preprocessing.of(ImageBackbone(name=name), published.images)
        assert made.resize >= made.size >= 224


def test_a_grey_network_of_torchvision_has_another_first_convolution() -> None:
    with torch.device("meta"):
        grey = find("mobilenet_v2").make(4, channels=1)
        assert grey(torch.zeros(2, 1, 64, 64)).shape == (2, 4)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_networks_that_restore_the_mean_of_their_images_do_so_with_any_weights(name: str) -> None:
    with torch.device("meta"):
        assert find(name).make(2).transform_input
        # It has the means of three colours.
        assert not find(name).make(2, channels=1).transform_input


@pytest.fixture
def timm():
    return pytest.importorskip("timm")


def test_a_network_of_timm_has_its_weights_as_the_library_states_them(timm) -> None:
    entry = find("timm/resnet18")
    assert entry.default == timm.get_pretrained_cfg("resnet18").tag
    config = timm.get_pretrained_cfg("resnet18.tv_in1k")
    published = entry.published["tv_in1k"]
    assert (published.licence, published.num_classes) == (config.license, config.num_classes)
    assert published.images == ExpectedImages(size=224, resize=256)
    assert published.url == f"https://huggingface.co/{config.hf_hub_id}/resolve/main/model.safetensors"
    tagged = find("timm/resnet18.tv_in1k")
    assert (tagged.name, tagged.default, tagged.images) == ("timm/resnet18", "tv_in1k", published.images)
    assert tagged.weights("pretrained") == published


def test_the_images_of_timm_are_prepared_as_its_own_evaluation_does(timm) -> None:
    lite = Preprocessing.of(ImageBackbone(size=128), find("timm/tf_efficientnet_lite0").images)
    assert (lite.resize, lite.mean, lite.interpolation) == (146, (0.5,) * 3, "bicubic")
    # 224 / 0.95, rounded down.
    assert find("timm/resnet18.a1_in1k").images.resize == 235
    assert find("timm/convnext_tiny.in12k_ft_in1k_384").images.crop == "squash"
    # A crop that is lacking is refused and not replaced, unless another one is asked for.
    images = find("timm/deepseek_vit_412m").images
    with pytest.raises(ConfigError, match="`crop` has no choice 'border'"):
        Preprocessing.of(ImageBackbone(name="x"), images)
    assert Preprocessing.of(ImageBackbone(name="x", crop="squash"), images).crop == "squash"


def test_weights_that_no_library_states_are_not_there(timm) -> None:
    entry = find("timm/davit_giant")
    assert (entry.default, entry.published) == (None, {})
    with pytest.raises(WeightsError, match="timm/davit_giant has no published weights: give a file"):
        entry.weights("pretrained")
    with pytest.raises(WeightsError, match="`weights=x` is no file and no weights of timm/davit_giant"):
        entry.check_weights("x")
    entry.check_weights("random")


def test_a_tag_that_a_network_lacks_is_answered_with_those_it_has() -> None:
    with pytest.raises(WeightsError, match=r"of resnet50: take IMAGENET1K_V2 or IMAGENET1K_V1$"):
        find("resnet50").check_weights("IMAGENET1K_V22")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnt34", "there is no network 'resnt34': did you mean resnet34"),
        ("digits_cmm", "there is no network 'digits_cmm': did you mean digits_cnn"),
        ("zzzzzzzz", "take a classifier of torchvision, timm/<model>, or your own"),
        ("no_such.Net", "no module 'no_such' for the network 'no_such.Net': make no_such.py in the working"),
    ],
)
def test_an_unknown_name_is_answered_with_the_closest_one(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_name(name, ["digits_cnn"])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("timm/resnt18", "timm has no model 'resnt18': did you mean timm/resnet18"),
        ("timm/resnet18.a9_in1k", "timm/resnet18 has no weights 'a9_in1k': take a1_in1k, "),
        ("tf_efficientnet_lite0", "did you mean timm/tf_efficientnet_lite0"),
        ("resnet18.a1_in1k", "did you mean timm/resnet18.a1_in1k"),
    ],
)
def test_a_mistyped_name_of_timm_is_answered_with_the_closest_one(name: str, says: str, timm) -> None:
    with pytest.raises(ConfigError, match=says):
        check_name(name)


def test_a_missing_timm_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_timm(name: str, *arguments: object) -> object:
        if name.partition(".")[0] == "timm":
            raise ModuleNotFoundError("No module named 'timm'")
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without_timm)
    with pytest.raises(ConfigError, match=r"timm, which is not installed: pip install 'tascnet\[timm\]'"):
        find("timm/resnet18")
    with pytest.raises(ConfigError, match="there is no network 'tf_efficientnet_lite0'"):
        find("tf_efficientnet_lite0")


@pytest.fixture
def hub(timm, tmp_path, monkeypatch):
    """The cache of the hub, as a download leaves it, without a network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_published_weights_of_timm_come_through_its_own_loader(hub, timm) -> None:
    from safetensors.torch import save_file

    entry = find("timm/test_efficientnet")
    published = entry.weights("pretrained")
    torch.manual_seed(3)
    model = timm.create_model("test_efficientnet")
    folder = hub / "models--timm--test_efficientnet.r160_in1k"
    (folder / "snapshots" / "1").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("1")
    save_file(model.state_dict(), folder / "snapshots" / "1" / "model.safetensors")
    loaded = load_timm(entry, published)
    assert all(torch.equal(t, model.state_dict()[key]) for key, t in loaded.state_dict().items())
    # timm adds the colours of the first convolution up.
    grey = load_timm(entry, published, channels=1)
    assert torch.allclose(grey.conv_stem.weight, model.conv_stem.weight.sum(1, keepdim=True))


def test_weights_of_timm_that_cannot_be_downloaded_are_one_sentence(hub) -> None:
    entry = find("timm/test_efficientnet")
    with pytest.raises(TascnetError) as caught:
        load_timm(entry, entry.weights("pretrained"))
    text = str(caught.value)
    assert "\n" not in text
    assert "weights of timm/test_efficientnet.r160_in1k could not be loaded (" in text
    assert "download https://huggingface.co/timm/test_efficientnet.r160_in1k/resolve/main/model.saf" in text
