"""Options of the presets in conf/, without Hydra."""

from pathlib import Path

import pytest

import tascnet_conf
from tascnet import options
from tascnet.errors import ConfigError
from tascnet.presets import GROUPS, preset, trainer_for

FILES = [
    (group, path.stem)
    for group in GROUPS
    for path in (Path(tascnet_conf.__file__).parent / group).glob("*.yaml")
]
# What the presets for a user's own things ask for.
NEEDED = {
    "image_folder": {"root": "photos"},
    "text_lines": {"root": "texts"},
}
BASES = {
    "dataset": options.Data,
    "backbone": options.Backbone,
    "trainer": options.Trainer,
    "tune": options.TuneBase,
    "prune": options.Prune,
    "measure": options.Measure,
    "executor": options.Local,
}


@pytest.mark.parametrize(("group", "name"), FILES)
def test_every_preset_makes_its_options(group: str, name: str) -> None:
    made = preset(group, name, **NEEDED.get(name, {}))
    assert isinstance(made, BASES[group])
    if group in ("dataset", "backbone"):
        assert made.name == name
        assert type(made) is not BASES[group]


def test_the_class_follows_from_what_the_preset_says() -> None:
    assert type(preset("dataset", "digits")) is options.Digits
    assert type(preset("dataset", "movie_review")) is options.PublishedTexts
    assert type(preset("backbone", "textcnn")) is options.TextBackbone
    assert type(preset("tune", "tascnet")) is options.Tune
    assert type(preset("tune", "autotune")) is options.Autotune
    assert type(preset("prune", "tascnet")) is options.HistoryPrune
    assert type(preset("prune", "magnitude", criterion="history")) is options.HistoryPrune


def test_a_preset_starts_from_another_one_of_its_group() -> None:
    dense, base = preset("tune", "autotune_dense"), preset("tune", "autotune")
    assert (dense.dense, dense.hidden_layers) == ("keep", (0,))
    assert (dense.neurons, dense.max_trials) == (base.neurons, base.max_trials)


def test_a_backbone_without_a_file_has_its_name_alone() -> None:
    for name in ("resnet34", "timm/resnet18.a1_in1k", "my_nets.Net"):
        assert preset("backbone", name, size=64) == options.ImageBackbone(name=name, size=64)


def test_changes_take_the_place_of_the_presets_options() -> None:
    plain, changed = preset("trainer", "digits"), preset("trainer", "digits", lr=0.5, head={"epochs": 3})
    assert changed.lr == 0.5
    assert changed.head.epochs == 3
    # The rest of a section that is changed in part stays.
    assert changed.head.batch_size == plain.head.batch_size
    assert changed.trial == plain.trial


def test_a_tune_preset_has_a_trainer_of_its_own() -> None:
    published, default = preset("trainer", "autotune"), preset("trainer", "default")
    assert published.recipe("trial").optimizer == "adagrad"
    assert published.recipe("head") == published.recipe("trial")
    assert published.finetune == default.finetune


def test_what_suits_a_network_takes_the_place_of_defaults_alone() -> None:
    assert preset("tune", "tascnet", backbone="digits_cnn").neurons == (32, 64)
    assert preset("tune", "tascnet", backbone="digits_cnn", neurons=[8]).neurons == (8,)
    # A preset's own value wins, and what the class does not have is left out.
    assert preset("prune", "reconstruction", backbone="mobilenet_v2").min_filters == 16
    for name in ("mobilenet_v2", "timm/resnet18.a1_in1k"):
        assert preset("prune", "magnitude", backbone=name).min_filters == 96
    # A network of one's own may be narrow.
    assert preset("prune", "magnitude", backbone="my_nets.Net").min_filters == 16
    assert preset("tune", "autotune", backbone="digits_cnn") == preset("tune", "autotune")


def test_trainers_suit_the_data() -> None:
    assert trainer_for(preset("dataset", "digits")) == preset("trainer", "digits")
    assert trainer_for(preset("dataset", "subjectivity")) == preset("trainer", "text")
    assert trainer_for(preset("dataset", "cifar10")) == preset("trainer", "default")
    assert trainer_for(object()) == preset("trainer", "default")


@pytest.mark.parametrize(
    ("arguments", "changes", "says"),
    [
        (("stage", "tune"), {}, "no group of presets 'stage'"),
        (("tune", "autotun"), {}, "no preset 'autotun' of tune: did you mean 'autotune'"),
        (("trainer", "zzzz"), {}, "take autotune, autotune_dense, default, digits or text"),
        (("tune", "tascnet"), {"max_trial": 3}, "no option `max_trial`: did you mean `max_trials`"),
        (("tune", "tascnet"), {"max_trials": "3"}, "`max_trials` takes a whole number or null"),
        (("backbone", "resnet34"), {"crop": "middle"}, "`crop` has no choice 'middle'"),
    ],
)
def test_mistakes_are_one_sentence(arguments, changes, says) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        preset(*arguments, **changes)
    assert "\n" not in str(caught.value)
