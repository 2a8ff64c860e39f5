"""What `--help` prints: groups, sections and options, with the values that overrides give them."""

import re

import pytest

from tascnet.cli.config import SECTIONS, count_options, option_names
from tascnet.cli.main import main
from tascnet.run.console import log


def one_line(text):
    return " ".join(text.split())


@pytest.fixture
def helped(capsys, monkeypatch, tmp_path):
    """Help on some topics as it is printed; a mistake comes as its sentence."""
    monkeypatch.chdir(tmp_path)
    handlers, level = list(log.handlers), log.level

    def show(*arguments, code=0):
        assert main(["--help", *arguments]) == code
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    yield show
    log.handlers[:] = handlers
    log.setLevel(level)


def shown_options(text):
    """The options in what was printed, with their values."""
    return dict(re.findall(r"^([a-z_.]+)=(.*)$", text, re.MULTILINE))


def test_help_shows_how_to_start_and_what_can_be_chosen(helped):
    text = helped()
    assert "python -m tascnet stage=pretrain" in text
    assert "reconstruction" in text
    assert "autotune_dense" in text
    assert f"{count_options()} options. --help <section> prints those of run, dataset" in text
    # Lines of the usage are whole, however narrow the terminal is.
    assert "  python -m tascnet dataset=image_folder dataset.root=<folder of class folders>\n" in text


@pytest.mark.parametrize("section", ["run", *SECTIONS])
def test_a_section_is_shown_with_its_values(helped, section):
    options = shown_options(helped(section))
    prefix = "" if section == "run" else f"{section}."
    assert options
    assert all(name.startswith(prefix) for name in options)
    assert set(options) <= set(option_names())


def test_options_have_their_value_meaning_type_and_bounds(helped):
    assert helped("tune.widths") == (
        "tune.widths=[0.25,0.5,0.75,1]\n"
        "    Choices for the share of channels that a group of layers keeps. Takes a list such as [0.5,1],\n"
        "    each above 0, at most 1.\n"
    )
    assert "Takes a whole number or auto, at least 1, at most 65536." in one_line(helped("prune.round_to"))
    assert "Takes none, average, fold, fold_weights or refit." in one_line(helped("prune.merge"))


def test_several_topics_are_shown_one_after_the_other(helped):
    assert list(shown_options(helped("seed", "tune.patience", "prune.source"))) == [
        "seed",
        "tune.patience",
        "prune.source",
    ]


def test_values_are_those_that_overrides_and_presets_give(helped):
    options = shown_options(helped("tune=autotune", "tune.patience=3", "tune"))
    assert (options["tune.space"], options["tune.patience"], options["tune.objective"]) == (
        "autotune",
        "3",
        "loss",
    )
    assert "tune.widths" not in options
    # What suits the backbone.
    assert shown_options(helped("tune.round_to"))["tune.round_to"] == "4"
    assert shown_options(helped("-m", "seed=4,5", "seed"))["seed"] == "4"


def test_the_bare_name_of_an_option_is_enough(helped):
    assert list(shown_options(helped("widths"))) == ["tune.widths"]
    assert list(shown_options(helped("max_seconds"))) == ["tune.max_seconds", "prune.max_seconds"]


def test_an_option_of_another_choice_is_shown_with_it(helped):
    text = helped("prune.history_epochs")
    assert shown_options(text)["prune.history_epochs"] == "null"
    assert "It is an option of prune=tascnet." in one_line(text)
    assert "It is an option of" not in helped("prune=tascnet", "prune.history_epochs")


def test_recipes_are_shown_as_they_resolve(helped):
    text = helped("trainer")
    assert re.search(r"lr +0.003 +0.01 +0.002 +0.001 +0.0005", text)
    assert re.search(r"epochs +15 +40 +30 +30 +prune.epochs", text)
    head = shown_options(helped("trainer.head"))
    assert (head["trainer.head.lr"], head["trainer.head.epochs"]) == ("0.01", "40")
    # Not given for the recipe: from the base, and from the defaults.
    assert (head["trainer.head.batch_size"], head["trainer.head.optimizer"]) == ("20", "adamw")
    changed = helped("trainer.lr=0.5", "trainer.finetune.lr")
    assert shown_options(changed)["trainer.finetune.lr"] == "0.5"


def test_what_a_run_would_lack_is_no_mistake_here(helped):
    assert shown_options(helped("dataset=image_folder", "dataset"))["dataset.root"] == "null"
    assert "trainer.lr" in helped("trainer.min_lr=1", "trainer")


@pytest.mark.parametrize(
    ("topics", "says"),
    [
        (["nonsense"], "there is no section and no option 'nonsense'"),
        (
            ["xyzzy"],
            "trainer, tune, prune, measure, executor, export, predict, evaluate or log",
        ),
        (["trainr"], "did you mean --help trainer?"),
        (["tune.width"], "did you mean --help tune.widths?"),
        (["tune.pateince=3", "tune"], "there is no option tune.pateince: did you mean tune.patience?"),
        (["dataset=digit"], "did you mean dataset=digits?"),
        (["seed=0,1", "seed"], "seed=0,1 gives several values"),
    ],
)
def test_mistakes_in_topics_are_named(helped, topics, says):
    text = helped(*topics, code=2)
    assert says in text
    assert len(text.splitlines()) == 1


def test_a_network_is_shown_with_its_cost_its_images_and_its_weights(helped):
    text = helped("backbone=resnet18", "backbone.size=64")
    # As published; FLOPs of one image of 64 x 64.
    assert text.startswith("resnet18: 11,689,512 parameters, 148,")
    assert "input: 3x64x64, resized to 73 (bilinear, center), mean [0.485,0.456,0.406]" in text
    assert (
        "backbone.weights=IMAGENET1K_V1 (pretrained): 224 px, resized to 256, 1000 classes, licence" in text
    )
    assert "15 blocks: conv1, bn1, relu, maxpool, layer1_0, layer1_1, layer2_0, layer2_1, layer3_0," in text
    assert "not cut, feeds the output: classifier" in text
    assert "weights: pretrained (on the digits), a file, or random" in helped("backbone=digits_cnn")
    assert "weights: a file, or random" in helped("backbone=textcnn")
    assert "weights: as its code gives them" in helped("backbone=tests.my_nets.Net", "backbone.size=32")
    assert "did you mean resnet34?" in helped("backbone=resnt34", code=2)


def test_all_networks_are_listed(helped):
    text = one_line(helped("backbones"))
    assert "digits_cnn, resnet20, resnet56, textcnn" in text
    assert "shufflenet_v2_x0_5" in text
    pytest.importorskip("timm")
    assert "tf_efficientnet_lite0" in text
