"""The papers' experiments: the settings that they compose to, as the papers and their code have them."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

import tascnet_conf
from tascnet.cli.check import check_overrides, normalise
from tascnet.cli.compose import Tree
from tascnet.options import RECIPES, Autotune, HistoryPrune, ImageBackbone, Prune, Recipe, Tune

EXPERIMENTS = Path(tascnet_conf.__file__).parent / "experiment"
# A folder that is there, and no samples.
ROOT = f"dataset.root={EXPERIMENTS}"
BACKBONES = ("vgg16", "resnet50", "densenet121")
# Labelled images a class, for training and for validation.
LABELLED = {"caltech101": (25, 5), "caltech256": (50, 10), "stanford_dogs": (90, 10)}
IMAGES = sorted(
    path.stem
    for family in ("autotune", "tascnet")
    for backbone in BACKBONES
    for path in EXPERIMENTS.glob(f"{family}_{backbone}_*.yaml")
)
# AutoTune trains every network so: Adagrad of Keras, an eighth of the batches, reduced where it stands still.
ADAGRAD = {
    **{"optimizer": "adagrad", "lr": 0.01, "batch_size": 8, "epochs": 50, "epoch_share": 1 / 8},
    **{"schedule": "plateau", "factor": 0.1, "plateau_patience": 5, "min_lr": 0.5e-10},
    **{"weight_decay": 0.0, "warmup": 0.0, "label_smoothing": 0.0, "patience": None, "batchnorm": "train"},
}
# TASCNet's: SGD with Nesterov's momentum of 0.9, halved every 20 epochs.
SGD = {
    **{"optimizer": "nesterov", "lr": 1e-3, "batch_size": 32, "min_lr": 0.0, "batchnorm": "train"},
    **{"schedule": "step", "step_epochs": 20, "factor": 0.5, "weight_decay": 0.0, "warmup": 0.0},
    **{"label_smoothing": 0.0},
}
# Stage two: 5 % as pairs, of layers with more than 128 filters, three phases of 50 epochs.
PRUNE = {
    **{
        "criterion": "history",
        "pruning_ratio": 0.05,
        "min_filters": 129,
        "tolerance": 0.02,
        "scope": "group",
    },
    **{"epochs": 150, "final_epochs": 0, "regulariser": "per_group_mean", "max_pruning_ratio": 0.5},
    **{"merge": "none", "distill": 0.0, "round_to": 1, "retries": 0, "flops_target": None, "one_shot": False},
    **{"history": "restart", "where": "all", "blocks": False, "max_iterations": 1000},
}
PHASES = (50, 50, 50)


def composed(*overrides):
    texts = [normalise(override) for override in overrides]
    return check_overrides(texts, Tree(), multirun=False, config_name="config")[0].config


def has(section, expected):
    """The settings of a section that are expected, as they are."""
    found = asdict(section)
    return {key: found[key] for key in expected}


def recipe(config, name, expected):
    """The same of a recipe as it resolves."""
    return has(config.trainer.recipe(name), expected)


@pytest.mark.parametrize("name", IMAGES)
def test_an_experiment_has_the_published_settings(name):
    config = composed(f"experiment={name}", ROOT)
    family, backbone, dataset = name.split("_", 2)
    assert (config.backbone.name, config.dataset.name) == (backbone, dataset)
    assert (config.backbone.size, config.backbone.weights) == (224, "pretrained")
    assert (config.dataset.train, config.dataset.val) == LABELLED[dataset]
    assert config.dataset.official_test is (dataset == "stanford_dogs")
    assert (config.dataset.flip, config.dataset.min_scale, config.dataset.pad) == (False, 1.0, 0)
    tune = config.tune
    assert isinstance(tune, Autotune)
    assert (tune.space, tune.algorithm, tune.objective, tune.skip) == ("autotune", "bo", "loss", "keep")
    assert (tune.initial_trials, tune.trials_per_depth, tune.patience, tune.tolerance) == (5, 20, 1, 0.0)
    assert (tune.finetune_from, tune.promotes, tune.has_targets) == ("prefix", False, False)
    # No bound that the deepest network reaches before its accuracy falls.
    assert tune.max_trials == 20 * (tune.max_units + 1)
    assert (tune.filters, tune.filter_sizes) == ((64, 128, 256, 512), (1, 2, 3, 5))
    assert (tune.pool_sizes, tune.paddings) == ((2, 3), (1, 3))
    assert tune.neurons == tuple(2**power for power in range(6, 11))
    assert tune.dropouts == pytest.approx([tenth / 10 for tenth in range(10)])
    assert recipe(config, "head", ADAGRAD) == recipe(config, "trial", ADAGRAD) == ADAGRAD
    if backbone == "vgg16":
        assert (tune.dense, tune.start_depth, tune.hidden_layers) == ("keep", 1, (0,))
        assert tune.activations == ("relu", "sigmoid", "tanh", "elu", "selu")
    else:
        assert (tune.dense, tune.start_depth, tune.hidden_layers) == ("replace", 0, (1, 2))
        assert tune.activations == ("relu",)
    if family == "autotune":
        assert config.stage == "tune"
        assert recipe(config, "finetune", ADAGRAD) == ADAGRAD
        assert config.trainer.class_weights == "none"
    else:
        assert config.stage == "full"
        assert recipe(config, "finetune", SGD) == recipe(config, "recover", SGD) == SGD
        finetune = config.trainer.recipe("finetune")
        assert (finetune.epochs, finetune.epoch_share, finetune.patience) == (50, 1.0, None)
        assert config.trainer.class_weights == "balanced"
        assert isinstance(config.prune, HistoryPrune)
        assert has(config.prune, PRUNE) == PRUNE
        assert config.prune.phases == PHASES


@pytest.mark.parametrize("name", ["autotune_resnet50_caltech101", "tascnet_vgg16_caltech101"])
def test_the_command_line_wins_over_an_experiment(name):
    config = composed(
        f"experiment={name}",
        ROOT,
        "stage=prune",
        "backbone=resnet18",
        "prune=magnitude",
        "trainer.finetune.epochs=3",
        "tune.patience=2",
    )
    assert (config.stage, config.backbone.name, config.prune_run.name) == ("prune", "resnet18", "magnitude")
    assert (config.trainer.recipe("finetune").epochs, config.tune.patience) == (3, 2)
    assert type(config.prune) is Prune
    assert config.prune.criterion == "magnitude"
    # What the command line does not say is still the experiment's.
    assert config.name.endswith("-published")
    assert config.dataset.train == 25


def test_recipes_have_no_setting_that_the_experiments_leave_open():
    """A value of `trainer=default` would slip into the published recipe unseen."""
    default = composed("trainer=default", "dataset=image_folder", ROOT).trainer
    for experiment, names, expected in (
        ("tascnet_resnet50_caltech101", ("finetune", "recover"), SGD),
        ("autotune_resnet50_caltech101", ("head", "trial", "finetune"), ADAGRAD),
    ):
        published = composed(f"experiment={experiment}", ROOT).trainer
        for name in names:
            own, plain = asdict(default.recipe(name)), asdict(Recipe())
            # What the preset changes, for this recipe or for all, is among what the paper says; the options
            # of pruning say how long the last recipe trains.
            changed = {key for key in own if own[key] != plain[key]} - {"epochs"}
            assert changed
            assert changed <= expected.keys()
            assert has(published.recipe(name), expected) == expected
    assert set(names) < set(RECIPES)


def test_every_experiment_of_the_papers_is_there():
    datasets = list(LABELLED)
    names = {f"{family}_{b}_{d}" for family in ("autotune", "tascnet") for b in BACKBONES for d in datasets}
    assert {path.stem for path in EXPERIMENTS.glob("*.yaml")} >= {*names, "tascnet_textcnn_movie_review"}


def test_the_experiment_on_text_has_the_published_settings():
    config = composed("experiment=tascnet_textcnn_movie_review", ROOT)
    assert (config.stage, config.backbone.name, config.dataset.name) == ("full", "textcnn", "movie_review")
    # Adam, at 0.1, reduced by 0.99 where it stands still.
    adam = {
        **{"optimizer": "adamw", "lr": 0.1, "weight_decay": 0.0, "batch_size": 32, "schedule": "plateau"},
        **{"factor": 0.99, "plateau_patience": 10, "warmup": 0.0, "label_smoothing": 0.0, "min_lr": 0.0},
        "batchnorm": "train",
    }
    recipes = ("head", "trial", "finetune", "recover")
    assert [recipe(config, name, adam) for name in recipes] == [adam] * 4
    assert [config.trainer.recipe(name).epochs for name in recipes[:3]] == [50] * 3
    assert has(config.prune, PRUNE) == PRUNE | {"min_filters": 64}
    assert config.prune.phases == PHASES
    assert (config.dataset.train, config.dataset.val) == (0.8, 0.1)
    tune = config.tune
    assert isinstance(tune, Tune)
    assert (tune.objective, tune.initial_trials, tune.trials_per_depth) == ("loss", 5, 20)
    assert (tune.tolerance, tune.max_trials, tune.slim_every) == (0.0, 80, 0)
    assert tune.finetune_from == "prefix"


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_says_how_images_are_prepared(path):
    """A later version of a library may prepare them in another way."""
    backbone = composed(f"experiment={path.stem}", ROOT).backbone
    if isinstance(backbone, ImageBackbone):
        assert None not in asdict(backbone).values()


def test_the_experiments_on_the_small_caltech_differ_in_their_network_alone():
    one, other = (
        composed(f"experiment=caltech101_{name}", ROOT) for name in ("mobilenet_v2", "efficientnet_lite0")
    )
    assert other.backbone == ImageBackbone(
        **{"name": "timm/tf_efficientnet_lite0", "size": 128, "resize": 146, "interpolation": "bicubic"},
        **{"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "crop": "center"},
    )
    assert replace(one, backbone=other.backbone) == other
