from dataclasses import replace

import pytest

from tascnet.errors import ConfigError
from tascnet.models.info import ModelInfo
from tascnet.models.preprocessing import Preprocessing

FIELDS = {
    "size": 8,
    "resize": 9,
    "mean": (0.5,),
    "std": (0.25,),
    "interpolation": "bilinear",
    "crop": "center",
}


def test_channels_and_shape_follow_from_the_mean() -> None:
    three = Preprocessing(size=32, resize=36, mean=(0.1, 0.2, 0.3), std=(1, 1, 1))
    assert three.channels == 3
    assert three.example_shape == (1, 3, 32, 32)


def test_round_trip_through_json_content() -> None:
    info = ModelInfo(
        backbone="resnet20",
        preprocessing=Preprocessing(**FIELDS),
        class_names=("cat", "dog"),
        weights="random",
        licence="none",
    )
    assert info.to_dict()["preprocessing"]["mean"] == [0.5]
    assert ModelInfo.from_dict(info.to_dict()) == info
    assert hash(ModelInfo.from_dict(info.to_dict())) == hash(info)
    # Files from before these fields existed lack them.
    old = {key: value for key, value in info.to_dict().items() if key not in ("held_out", "first_searched")}
    assert ModelInfo.from_dict(old) == info
    trained = replace(info, held_out="abc", first_searched=2)
    assert ModelInfo.from_dict(trained.to_dict()) == trained


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"size": 0}, "size"),
        ({"size": True}, "size"),
        ({"size": 8.0}, "size"),
        ({"resize": 7}, "at least `size`"),
        ({"resize": 10**9}, "resize"),
        ({"mean": ()}, "mean"),
        ({"mean": (float("nan"),)}, "mean"),
        ({"mean": (0.5, 0.5)}, "channels"),
        ({"std": (0.0,)}, "`std` .*above 0"),
        ({"interpolation": "cubic"}, "bicubic"),
        ({"crop": "corner"}, "crop"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, object], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        Preprocessing(**{**FIELDS, **change})


GOOD = {"backbone": "x", "weights": "x", "licence": "x", "class_names": ["a"], "preprocessing": FIELDS}


@pytest.mark.parametrize("content", [None, [], {"size": 8}, {**FIELDS, "shell": "rm"}])
def test_other_fields_than_expected_are_refused(content: object) -> None:
    for wrong in (content, {**GOOD, "preprocessing": content}):
        with pytest.raises(ConfigError, match="exactly the fields"):
            ModelInfo.from_dict(wrong)


def test_model_info_refuses_wrong_types() -> None:
    ModelInfo.from_dict(GOOD)
    for name, value in [
        *(("backbone", 1), ("class_names", "ab"), ("class_names", [1]), ("preprocessing", 3)),
        *(("held_out", 1), ("first_searched", True), ("first_searched", -1)),
    ]:
        with pytest.raises(ConfigError, match=name if name != "preprocessing" else "Preprocessing"):
            ModelInfo.from_dict({**GOOD, name: value})
