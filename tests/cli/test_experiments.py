"""The papers' experiments: the settings that they compose to, as the papers and their code have them."""

from dataclasses import asdict
from pathlib import Path

import pytest

import tascnet_conf
from tascnet.cli.compose import Tree
from tascnet.options import StepsConfig

EXPERIMENTS = Path(tascnet_conf.__file__).parent / "experiment"
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
    **{"weight_decay": 0.0, "warmup": 0.0, "label_smoothing": 0.0, "patience": None, "ema": None},
}
# TASCNet's: SGD, halved every 20 epochs.
SGD = {
    **{"optimizer": "sgd", "lr": 1e-3, "momentum": 0.9, "nesterov": True, "batch_size": 32},
    **{"schedule": "step", "step_epochs": 20, "factor": 0.5, "weight_decay": 0.0, "warmup": 0.0},
    **{"label_smoothing": 0.0, "ema": None},
}
# Stage two: 5 % as pairs, of layers with more than 128 filters, three phases of 50 epochs.
PRUNE = {
    **{"criterion": "history", "percent": 5.0, "min_filters": 129, "tolerance": 0.02},
    **{"history_epochs": 50, "optimise_epochs": 50, "retrain_epochs": 50, "final_epochs": 0},
    **{"merge": "none", "distill": 0.0, "round_to": 1, "retries": 0, "flops_target": None},
}


def has(section, expected):
    """The settings of a section that are expected, as they are."""
    found = asdict(section)
    return {key: found[key] for key in expected}


@pytest.mark.parametrize("name", IMAGES)
def test_an_experiment_has_the_published_settings(name):
    config = Tree().compose([f"experiment={name}", "dataset.root=/data"])
    family, backbone, dataset = name.split("_", 2)
    assert (config.backbone.name, config.dataset.name) == (backbone, dataset)
    assert (config.backbone.size, config.backbone.weights) == (224, "pretrained")
    assert (config.dataset.train_per_class, config.dataset.val_per_class) == LABELLED[dataset]
    assert (config.dataset.flip, config.dataset.min_scale, config.dataset.pad) == (False, 1.0, 0)
    tune = config.tune
    assert (tune.space, tune.algorithm, tune.objective, tune.skip) == ("autotune", "bo", "loss", "keep")
    assert (tune.initial_trials, tune.trials_per_depth, tune.patience, tune.slim_every) == (5, 20, 1, 0)
    # No bound that the deepest network reaches before its accuracy falls.
    assert tune.max_trials == 20 * (tune.max_units + 1)
    assert (tune.filters, tune.filter_sizes) == ([64, 128, 256, 512], [1, 2, 3, 5])
    assert (tune.pool_sizes, tune.paddings) == ([2, 3], [1, 3])
    assert tune.neurons == [2**power for power in range(6, 11)]
    assert tune.dropouts == pytest.approx([tenth / 10 for tenth in range(10)])
    assert has(config.trainer.head, ADAGRAD) == has(config.trainer.trial, ADAGRAD) == ADAGRAD
    if backbone == "vgg16":
        assert (tune.dense, tune.start_depth, tune.hidden_layers) == ("keep", 1, [0])
        assert tune.filter_activations == ["relu", "sigmoid", "tanh", "elu", "selu"]
    else:
        assert (tune.dense, tune.start_depth, tune.hidden_layers) == ("replace", 0, [1, 2])
        assert tune.filter_activations == ["relu"]
    if family == "autotune":
        assert config.stage.name == "tune"
        assert has(config.trainer.finetune, ADAGRAD) == ADAGRAD
        assert config.trainer.class_weights == "none"
    else:
        assert config.stage.name == "full"
        assert has(config.trainer.finetune, SGD) == has(config.trainer.recover, SGD) == SGD
        assert (config.trainer.finetune.epochs, config.trainer.finetune.epoch_share) == (50, 1.0)
        assert config.trainer.class_weights == "balanced"
        assert has(config.prune, PRUNE) == PRUNE


@pytest.mark.parametrize("name", ["autotune_resnet50_caltech101", "tascnet_vgg16_caltech101"])
def test_the_command_line_wins_over_an_experiment(name):
    given = [
        "stage=prune",
        "backbone=resnet18",
        "prune=magnitude",
        "trainer.finetune.epochs=3",
        "tune.patience=2",
    ]
    config = Tree().compose([f"experiment={name}", *given])
    assert (config.stage.name, config.backbone.name, config.prune.name) == ("prune", "resnet18", "magnitude")
    assert (config.trainer.finetune.epochs, config.tune.patience) == (3, 2)
    # What the preset on the command line does not say is still the experiment's.
    assert config.prune.criterion == "magnitude"
    assert config.name.endswith("-published")


def test_recover_has_no_setting_that_the_experiments_leave_open():
    """A default of `trainer=default` would slip into the published recipe unseen."""
    default = Tree().compose(["trainer=default", "dataset=image_folder", "dataset.root=/data"])
    published = Tree().compose(["experiment=tascnet_resnet50_caltech101"])
    own, plain = asdict(default.trainer.recover), asdict(StepsConfig())
    changed = {key for key in own if own[key] != plain[key]}
    assert changed
    assert not {key for key in changed & SGD.keys() if getattr(published.trainer.recover, key) != SGD[key]}
    assert changed - SGD.keys() == {"batchnorm"}
    assert published.trainer.recover.batchnorm == "train"


def test_every_experiment_of_the_papers_is_there():
    datasets = list(LABELLED)
    names = {f"{family}_{b}_{d}" for family in ("autotune", "tascnet") for b in BACKBONES for d in datasets}
    assert {path.stem for path in EXPERIMENTS.glob("*.yaml")} >= {*names, "tascnet_textcnn_movie_review"}


def test_the_experiment_on_text_has_the_published_settings():
    config = Tree().compose(["experiment=tascnet_textcnn_movie_review", "dataset.root=/data"])
    assert (config.stage.name, config.backbone.name, config.dataset.name) == (
        "full",
        "textcnn",
        "movie_review",
    )
    # Adam, at 0.1, reduced by 0.99 where it stands still.
    adam = {
        **{"optimizer": "adamw", "lr": 0.1, "weight_decay": 0.0, "batch_size": 32, "schedule": "plateau"},
        **{"factor": 0.99, "plateau_patience": 10, "warmup": 0.0, "label_smoothing": 0.0},
    }
    trainer = config.trainer
    recipes = (trainer.head, trainer.trial, trainer.finetune, trainer.recover)
    assert [has(recipe, adam) for recipe in recipes] == [adam] * 4
    assert [recipe.epochs for recipe in recipes[:3]] == [50] * 3
    assert has(config.prune, PRUNE) == PRUNE | {"min_filters": 64}
    assert config.dataset.train_per_class is None
    assert (config.dataset.train_fraction, config.dataset.val_fraction) == (0.8, 0.1)
    tune = config.tune
    assert (tune.objective, tune.initial_trials, tune.trials_per_depth, tune.tolerance) == (
        "loss",
        5,
        20,
        0.0,
    )
