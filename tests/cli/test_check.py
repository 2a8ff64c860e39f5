"""What the command line composes and refuses, and in which words."""

import ast
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tascnet_conf
import tascnet_pipelines
from tascnet.cli.check import check_overrides, normalise
from tascnet.cli.compose import Tree, with_name
from tascnet.cli.config import STAGES, as_content, build, option_names, spell
from tascnet.errors import ConfigError, closest
from tascnet.models.build import SMALL
from tascnet.options import BACKBONES, DATASETS, ImageBackbone, RecipeChanges, Trainer, known_fields

CONF = Path(tascnet_conf.__file__).parent
PIPELINES = Path(tascnet_pipelines.__file__).parent
FILES = sorted(path.relative_to(CONF) for path in CONF.glob("*/*.yaml"))
# What a choice needs beside itself; the folder of samples is one that is there.
ROOT = f"dataset.root={CONF}"
NEEDED = {
    **{f"dataset={name}": [ROOT] for name in ("image_folder", "text_lines")},
    "backbone=textcnn": ["dataset=text_lines", ROOT],
    "stage=export": ["export.formats=[pt2]"],
    "stage=predict": ["predict.input=-"],
}
TEXTS = ("dataset=text_lines", ROOT)
LAYERWISE = "tune.algorithm=layerwise"


@pytest.fixture(scope="module")
def tree():
    return Tree()


def composed(tree, *overrides, multirun=False):
    """The configs of a command line, as the entry checks them."""
    texts = [normalise(override) for override in overrides]
    found = check_overrides(texts, tree, multirun=multirun, config_name="config")
    return [one.config for one in found]


def refused(tree, *overrides, multirun=False):
    with pytest.raises(ConfigError) as caught:
        composed(tree, *overrides, multirun=multirun)
    text = str(caught.value)
    assert "\n" not in text
    assert "`" not in text
    return text


# conf/.


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_file_composes_and_keeps_the_bounds(tree, path):
    choice = f"{path.parent}={path.stem}"
    (config,) = composed(tree, choice, *NEEDED.get(choice, []))
    if path.parts[0] in ("dataset", "backbone"):
        assert getattr(config, path.parts[0]).name == path.stem
    if path.parts[0] == "stage":
        assert config.stage == path.stem
    if path.parts[0] == "prune":
        assert config.prune_run.name == path.stem
        assert config.prune.criterion == {"tascnet": "history", "published": "history"}.get(
            path.stem, path.stem
        )
    # What `--cfg job` prints makes the config again.
    assert build(as_content(config)) == config


def test_every_stage_has_a_file_and_a_function_of_the_config():
    assert sorted(path.stem for path in FILES if path.parts[0] == "stage") == sorted(STAGES)
    for stage in STAGES:
        source = PIPELINES.joinpath(stage).with_suffix(".py").read_text(encoding="utf-8")
        functions = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
        arguments = functions["run"].args
        assert len(arguments.args) >= 1
        assert len(arguments.args) - len(arguments.defaults) <= 1


def test_every_choice_of_a_name_has_a_file(tree):
    groups = tree.groups()
    assert sorted(groups["dataset"]) == sorted(DATASETS)
    assert sorted(groups["backbone"]) == sorted({*SMALL, *BACKBONES})


def test_data_sets_choose_backbone_and_trainer_and_the_command_line_wins(tree):
    assert composed(tree)[0].backbone.name == "digits_cnn"
    images = composed(tree, "dataset=image_folder", ROOT)[0]
    assert images.backbone.name == "mobilenet_v2"
    assert images.trainer.recipe("finetune").batchnorm == "frozen"
    own = composed(tree, "dataset=image_folder", ROOT, "backbone=vgg16", "trainer=digits")[0]
    assert own.backbone.name == "vgg16"
    assert own.trainer.recipe("finetune").batchnorm == "train"


def test_an_experiment_wins_over_data_set_and_backbone(tree):
    (chosen,) = composed(tree, "experiment=caltech101_mobilenet_v2", ROOT, "backbone=resnet50")
    assert (chosen.dataset.name, chosen.backbone.name, chosen.backbone.size) == (
        "caltech101",
        "resnet50",
        128,
    )


NETWORKS = {
    "resnet34": 96,
    "timm/resnet18.a1_in1k": 96,
    "tests.networks.Net": 16,
}


@pytest.mark.parametrize(("name", "min_filters"), NETWORKS.items())
def test_a_network_needs_no_file(tree, name, min_filters):
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    (config,) = composed(tree, "dataset=image_folder", ROOT, f"backbone={name}", "prune=magnitude")
    assert config.backbone == ImageBackbone(name=name)
    assert config.prune.min_filters == min_filters
    assert build(as_content(config)) == config


def test_networks_without_files_in_sweeps_presets_and_experiments(tree, tmp_path):
    images = ("dataset=image_folder", ROOT)
    swept = composed(tree, *images, "backbone=resnet34,resnet20,vgg13", multirun=True)
    assert [config.backbone.name for config in swept] == ["resnet34", "resnet20", "vgg13"]
    for group, defaults in {"experiment": "override /backbone: vgg13", "backbone": "resnet34"}.items():
        (tmp_path / group).mkdir()
        lines = f"# @package _global_\ndefaults:\n  - {defaults}\nbackbone:\n  size: 64\n"
        (tmp_path / group / "mine.yaml").write_text(lines)
    own = Tree(str(tmp_path))
    (config,) = composed(own, *images, "experiment=mine")
    assert (config.backbone.name, config.backbone.size) == ("vgg13", 64)
    (config,) = composed(own, *images, "backbone=mine")
    assert (config.backbone.name, config.backbone.size) == ("resnet34", 64)


def test_a_launcher_composes_in_a_process_of_its_own(tree):
    """As the launcher of joblib does: the loader is pickled, and Hydra forgets what it was told before."""
    loader = pickle.dumps(tree.loader)
    code = (
        "import pickle, sys; from hydra.types import RunMode; "
        "loader = pickle.loads(sys.stdin.buffer.read()); "
        "config = loader.load_configuration('config', ['backbone=resnet34'], RunMode.RUN); "
        "from hydra.core.singleton import Singleton; Singleton.set_state(Singleton.get_state()); "
        "from tascnet.cli.compose import Tree; again = Tree().load(['backbone=vgg13']); "
        "print(config.backbone.name, again.backbone.name)"
    )
    ran = subprocess.run([sys.executable, "-c", code], input=loader, capture_output=True, check=True)
    assert ran.stdout.decode().split() == ["resnet34", "vgg13"]


def test_a_mistake_beside_a_network_with_a_file_needs_no_torch():
    code = (
        "import sys; from tascnet.cli.main import main; "
        "code = main(['backbone=digits_cnn', 'backbone.siz=3']); "
        "sys.exit(1 if {'torch', 'torchvision', 'timm', 'numpy'} & set(sys.modules) else code)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert "did you mean backbone.size?" in ran.stderr


def test_what_suits_a_backbone_gives_way_to_presets_and_to_the_command_line(tree):
    (config,) = composed(tree)
    assert (config.tune.round_to, config.prune.epochs, config.prune.flops_target) == (4, 21, 0.5)
    (config,) = composed(tree, "tune.round_to=8", "prune.flops_target=null", "prune=published")
    assert (config.tune.round_to, config.prune.round_to, config.prune.flops_target) == (8, 1, None)
    # What suits many small cuts is no contradiction to one large cut.
    (config,) = composed(tree, "prune.one_shot=true")
    assert (config.prune.ratio, config.prune.pruning_ratio) == (0.95, 0.05)
    # What only other classes have is passed over.
    (config,) = composed(tree, *TEXTS, "tune=tascnet")
    assert config.tune.kernels == (2, 3, 4, 5, 6, 7)


# Mistakes.


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("++tune.pateince=3", "there is no option tune.pateince: did you mean tune.patience?"),
        ("++tune.patience=x", "tune.patience takes a whole number, not 'x'"),
        ("++prune.merge=average", "prune.merge=average needs pairs"),
        ("tune.pateince=3", "there is no option tune.pateince: did you mean tune.patience?"),
        ("trainer.finetune.learning_rate=1", "there is no option trainer.finetune.learning_rate: python -m"),
        ("trainer.finetune.learning_rate=1", "--help trainer lists the options"),
        ("trainer.recover.epochs=3", "prune.epochs says for how many epochs"),
        ("patience=3", "did you mean tune.patience?"),
        ("datset=digits", "did you mean dataset?"),
        ("trianer.lr=1", "did you mean trainer.lr?"),
        ("prune.percent=5", "there is no option prune.percent: python -m tascnet --help prune lists"),
        ("suits.tune.widths=[1]", "there is no option suits.tune.widths"),
        ("tune.patience=x", "tune.patience takes a whole number, not 'x'"),
        ("tune.patience=1.5", "tune.patience takes a whole number, not 1.5"),
        ("tune.patience=true", "tune.patience takes a whole number, not true"),
        ("tune.patience=null", "tune.patience takes a whole number, not null"),
        ("tune.patience=", "tune.patience takes a whole number, not ''"),
        ("tune.patience=0", "tune.patience must be at least 1, not 0"),
        ("tune.tolerance=abc", "tune.tolerance takes a number or null, not 'abc'"),
        ("tune.tolerance=2", "tune.tolerance must be at most 1, not 2"),
        ("tune.tolerance=nan", "tune.tolerance takes a finite number, not nan"),
        ("tune.widths=0.5", "tune.widths takes a list such as [0.5,1], not 0.5"),
        ("tune.widths=[a]", "tune.widths takes a list such as [0.5,1], not [a]"),
        ("tune.widths=[0.5,1.5]", "tune.widths must be at most 1, not 1.5"),
        ("tune.kernels=[3,4]", "tune.kernels takes odd numbers for images, not [3,4]"),
        ("tune.activations=[relu,rellu]", "did you mean tune.activations=relu?"),
        ("prune.criterion=magnitud", "did you mean prune.criterion=magnitude?"),
        ("prune.criterion=none", "it takes history, reconstruction"),
        ("prune.round_to=many", "prune.round_to takes a number or auto, not 'many'"),
        ("prune.round_to=0", "prune.round_to must be at least 1, not 0"),
        ("prune.merge=average", "prune.merge=average needs pairs"),
        ("prune.regulariser=sum", "prune.regulariser has no effect with prune.criterion=reconstruction"),
        ("prune.history_epochs=3", "leave it out; it is an option of prune=tascnet"),
        ("tune.skip=drop", "tune.skip has no effect with tune.space=tascnet"),
        ("tune.filters=[]", "leave it out; it is an option of tune=autotune"),
        ("tune.grow_norms=[l2]", "tune.grow_norms has no effect with tune.head=new: add tune.head=grow or"),
        ("tune.layerwise_every=2", "tune.layerwise_every has no effect with tune.algorithm=bo: add tune.alg"),
        ("tune.lr_factors=[0.0]", "tune.lr_factors must be above 0, not 0"),
        ("trainer.trial.min_lr=0.1", "trainer.trial.min_lr has no effect with trainer.trial.schedule=cosine"),
        ("trainer.trial.min_lr=0.1", "add trainer.trial.schedule=plateau"),
        ("fresh=1", "fresh takes true or false, not 1"),
        ("fresh=maybe", "fresh takes true or false, not 'maybe'"),
        ("trainer.head.optimizer=adam", "did you mean trainer.head.optimizer=adamw?"),
        ("trainer.head=3", "trainer.head is a section of options and takes no value: give one of them, such"),
        ("trainer.head={epoch: 3}", "did you mean trainer.head.epochs?"),
        ("tune.widths={a: 1}", "there is no option tune.widths.a: did you mean tune.widths?"),
        ("tune.widths.0=3", "did you mean tune.widths?"),
        ("backbone.std=[1.0,1.0]", "backbone.mean and backbone.std have 1 and 2 values"),
        ("backbone.resize=7", "backbone.resize=7 is smaller than backbone.size=8"),
        ("backbone.name=foo", "there is no network 'foo': take a classifier of torchvision, timm"),
        ("dataset.name=foo", "dataset.name has no choice 'foo': it takes digits, image_folder"),
        ("dataset.val=null", "dataset.val takes a number, not null"),
        ("dataset.val=0.2", "dataset.train=20 and dataset.val=0.2 are a count and a share"),
        ("dataset.classes=[5,5]", "dataset.classes names a value twice: [5,5]"),
        ("dataset.classes=[a,b]", "dataset.classes takes digits from 0 to 9, not [a,b]"),
        ("dataset.classes=[5]", "dataset.classes takes at least two classes, not [5]"),
        ("dataset.classes=5", "dataset.classes takes a list such as [a,b] or null, not 5"),
        ("dataset.classes=[4,5,6]", "pre-trained on the digits 0 to 4, but dataset.classes holds [4]: take"),
        ("dataset.classes=null", "dataset.classes holds [0,1,2,3,4]"),
        ("device=gpu", "there is no device 'gpu'"),
        ("device=mps", "it is auto, cpu, cuda or cuda:<number>"),
        ("seed=100000000000000000000", "seed must be at most 1000000000"),
        ("name=a/b", "cannot name a folder"),
        ("exclude=x", "exclude has no effect with stage=full: add stage=pretrain"),
        ("seed=${nothing}", "seed cannot be resolved (Interpolation key 'nothing' not found)"),
        ("seed=${dataset}", "seed takes a whole number, not {"),
    ],
)
def test_mistakes_are_named(tree, override, says):
    assert says in refused(tree, override)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("dataset=digit", "dataset has no choice 'digit': did you mean dataset=digits?"),
        (
            "stage=xyz",
            "stage has no choice 'xyz': it takes compare, evaluate, export, full,",
        ),
        ("stage=null", "stage has no choice null: python -m tascnet --help lists those of stage"),
        ("experiment=null", "experiment has no choice null"),
        ("tune=", "tune has no choice ''"),
        ("tune={patience: 3}", "tune has no choice {'patience': 3}"),
        ("dataset=[digits,cifar10]", "dataset has no choice [digits,cifar10]"),
        ("+tune.pateince=3", "did you mean tune.patience?"),
        ("+tune.patience=3", "drop the + before tune.patience"),
        ("+foo=1", "there is no option foo"),
        ("~tune.patience", "~tune.patience would delete an option"),
        ("tune", "'tune' is not of the form key=value: did you mean stage=tune?"),
        ("prnue", "'prnue' is not of the form key=value: for instance seed=1"),
        ("=3", "'=3' is not of the form key=value"),
        ("seed=[", "'seed=[' is not of the form key=value"),
        ("seed=0,1", "seed=0,1 gives several values: add -m to run each of them"),
        ("tune.widths=[0.5],[1.0]", "tune.widths=[0.5],[1.0] gives several values"),
        ("hydra.foo=1", "Could not override 'hydra.foo'"),
        ("hydra/launcher=nowhere", "Could not find 'hydra/launcher/nowhere'"),
        (
            "hydra/launcher=rq",
            "hydra/launcher=rq is not installed: pip install hydra-rq-launcher",
        ),
        ("hydra/launcher=ray_aws", "is not installed: pip install hydra-ray-launcher"),
        ("hydra/sweeper=optuna", "hydra/sweeper=optuna is not installed: pip install hydra-optuna-sweeper"),
        ("stage.name=foo", "there is no option stage.name: stage takes the name of one, as in stage=tune"),
        (f"tune.widths={'[' * 3000}", "[[[… is not of the form key=value"),
        (f"tune.widths={'[' * 300}{']' * 300}", "an option is nested too deeply"),
        (f"seed={'1' * 5000}", "is not of the form key=value"),
        ("+dataset@foo=digits", "+dataset@foo=digits names a package with @: write dataset=..."),
        ("dataset@foo=digits", "write dataset=..."),
    ],
)
def test_mistakes_of_grammar_are_named(tree, override, says):
    assert says in refused(tree, override)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["dataset=image_folder"], "the folder of the images is missing: give it as dataset.root=<folder>"),
        (["dataset=text_lines"], "the folder of the texts is missing: give it as dataset.root=<folder>"),
        (["backbone=resnt34"], "there is no network 'resnt34': did you mean backbone=resnet34?"),
        (["backbone=digits_cmm"], "there is no network 'digits_cmm': did you mean backbone=digits_cnn?"),
        (
            ["backbone=no_such.Net"],
            "there is no module 'no_such' for the network 'no_such.Net': make no_such",
        ),
        (
            ["backbone=resnet34", "backbone.weights=V9"],
            "is no file and no weights of resnet34: take IMAGENET1K_V1",
        ),
        (["backbone=resnet20", "backbone.weights=V9"], "backbone.weights=V9 does not exist"),
        (["backbone=[a,b]"], "backbone has no choice [a,b]"),
        (["backbone="], "backbone has no choice ''"),
        (
            ["dataset.download=true"],
            "dataset.download has no effect with dataset=digits: leave it out",
        ),
        (
            ["dataset.download=true"],
            "an option of dataset=caltech101, dataset=caltech256, dataset=stanford_d",
        ),
        (["dataset.csv=x.csv"], "dataset.csv has no effect with dataset=digits"),
        (["dataset.csv=x.csv"], "it is an option of dataset=image_folder"),
        (["dataset.official_test=true"], "dataset.official_test has no effect with dataset=digits"),
        (["dataset.max_tokens=9"], "dataset.max_tokens has no effect with dataset=digits"),
        (["dataset=caltech101", "dataset.official_test=true"], "but stanford_dogs, cifar10 or"),
        (["dataset=caltech101", "backbone=digits_cnn"], "is for digits of 8 x 8 pixels"),
        (["backbone=textcnn"], "backbone=textcnn takes texts, but dataset=digits holds images"),
        ([*TEXTS, "backbone=resnet20"], "takes images, but dataset=text_lines holds texts: take backbone="),
        ([*TEXTS, "backbone.size=32"], "backbone.size has no effect with backbone=textcnn"),
        ([*TEXTS, "dataset.unreadable=skip"], "dataset.unreadable has no effect with dataset=text_lines"),
        ([*TEXTS, "dataset.flip=false"], "dataset.flip has no effect with dataset=text_lines"),
        ([*TEXTS, "dataset.min_scale=0.5"], "dataset.min_scale has no effect with dataset=text_lines"),
        ([*TEXTS, "dataset.pad=2"], "dataset.pad has no effect with dataset=text_lines"),
        ([*TEXTS, "dataset.classes=[a,b]"], "dataset.classes has no effect with dataset=text_lines"),
        ([*TEXTS, "prune.blocks=true"], "prune.blocks has no effect with backbone=textcnn"),
        ([*TEXTS, "tune=autotune"], "makes layers for images and has none for texts: take tune=tascnet"),
        ([*TEXTS, "tune.kernels=[0,3]"], "tune.kernels must be at least 1, not 0"),
        (["backbone.filters=9"], "backbone.filters has no effect with backbone=digits_cnn"),
        (["backbone.vectors=/x"], "leave it out; it is an option of backbone=textcnn"),
        (["backbone.factory=a.b"], "there is no option backbone.factory"),
        (["dataset.train=0.9", "dataset.val=0.1"], "dataset.train + dataset.val is 1: leave a share for the"),
        (["tune=autotune", "tune.widths=[0.5]"], "tune.widths has no effect with tune.space=autotune"),
        (["tune=autotune", "tune.head=grow"], "tune.head has no effect with tune.space=autotune"),
        (["tune=autotune", "tune.slim_every=3"], "tune.slim_every has no effect with tune.space=autotune"),
        (["tune=autotune", "tune.distill=0.5"], "it is an option of tune=tascnet"),
        (["tune=autotune", "tune.finetune_from=conventional"], "tune.finetune_from=conventional needs"),
        (["tune=autotune", LAYERWISE], "tune.algorithm=layerwise trains the pre-trained layers"),
        (["tune.finetune_from=all", "tune.distill=0.5"], "tune.distill has no effect without"),
        (["tune.head=grow", "tune.finetune_from=conventional"], "tune.finetune_from=conventional needs"),
        ([LAYERWISE, "tune.finetune_from=conventional"], "take tune.finetune_from=auto"),
        ([LAYERWISE, "tune.head=search"], "tune.head=search has no effect with tune.algorithm=layerwise"),
        ([LAYERWISE, "tune.max_units=2"], "tune.max_trials and tune.max_seconds limit the number of depths"),
        ([LAYERWISE, "tune.objective=pareto_flops"], "tune.objective=pareto_flops has no effect"),
        ([LAYERWISE, "tune.slim_every=2"], "tune.slim_every has no effect with tune.algorithm=layerwise"),
        (["tune.algorithm=sobol", "tune.slim_every=2"], "has no effect with tune.algorithm=sobol"),
        (["tune.objective=loss", "tune.slim_every=2"], "has no effect with tune.objective=loss"),
        (["tune.objective=loss", "tune.flops_target=0.7"], "tune.flops_target has no effect with tune.obj"),
        (["prune=fpgm", "prune.merge=average"], "take prune.merge=fold or prune.criterion=history"),
        (["prune=tascnet", "prune.one_shot=true"], "prune.one_shot=true may remove 0.75 of a group"),
        (["prune=tascnet", "prune.max_pruning_ratio=0.6"], "prune.max_pruning_ratio=0.6 is over half"),
        (["prune.one_shot=true", "prune.pruning_ratio=0.3"], "prune.pruning_ratio has no effect with prune."),
        (["prune.one_shot=true", "prune.flops_target=null"], "add one such as prune.flops_target=0.5"),
        (["trainer.schedule=step", "trainer.min_lr=0.1"], "trainer.min_lr has no effect with trainer.sche"),
        (["stage=pretrain", "backbone.weights=x"], "backbone.weights has no effect with stage=pretrain"),
        (["stage=full", "prune.source=x"], "stage=full prunes what it has tuned, but prune.source names"),
        (
            ["stage=evaluate", "log.tensorboard=true"],
            "log.tensorboard has no effect with stage=evaluate",
        ),
        (["stage=predict", "predict.input=-", "log.mlflow=x"], "log.mlflow has no effect with stage=predict"),
        (
            ["stage=export", "device=cuda"],
            "device=cuda has no effect with stage=export",
        ),
        (["stage=evaluate", "evaluate.model="], "evaluate.model is empty: give a folder, or leave it out"),
        (["stage=predict", "predict.input="], "predict.input is empty: give a folder, files, a pattern"),
        (
            ["stage=predict", "predict.input=-", f"predict.output={__file__}/x.csv"],
            f"{__file__} cannot be a folder, for {__file__} is a file: give another place",
        ),
    ],
)
def test_contradictions_are_named(tree, overrides, says):
    assert says in refused(tree, *overrides)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["dataset=image_folder", "dataset.root={}"], "dataset.root={} {}: give an existing folder"),
        (["dataset=image_folder", "dataset.csv={}"], "dataset.csv={} {}: give an existing file"),
        (["dataset=caltech101", "dataset.root={}"], "dataset.root={} {}: give an existing folder"),
        (["backbone.weights={}"], "backbone.weights={} {}: give a file, pretrained or random"),
        ([*TEXTS, "backbone.vectors={}"], "backbone.vectors={} {}: give an existing file"),
        (["stage=prune", "prune.source={}"], "prune.source={} {}: give an existing folder"),
    ],
)
def test_files_and_folders_that_are_missing_are_named(tree, overrides, says, tmp_path):
    missing = tmp_path / "missing"
    given = [override.format(missing) for override in overrides]
    assert says.format(missing, "does not exist") in refused(tree, *given)
    # A file where a folder is meant, and the other way round.
    missing.touch() if "folder" in says else missing.mkdir()
    kind = "folder" if "folder" in says else "file"
    assert says.format(missing, f"is not a {kind}") in refused(tree, *given)


@pytest.mark.parametrize("name", ["list.csv", "*.csv"])
def test_predictions_do_not_replace_the_list_of_their_samples(name, tree, tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("file\n")
    text = refused(
        tree,
        "stage=predict",
        f"predict.input={tmp_path / name}",
        f"predict.output={tmp_path}/../{path.parent.name}/list.csv",
    )
    assert text.endswith("list.csv is in predict.input, and would be overwritten: give another file")
    # Predictions of an earlier run are no samples.
    (tmp_path / "again.jsonl").touch()
    options = (f"predict.input={tmp_path}/*", f"predict.output={tmp_path}/again.jsonl")
    composed(tree, "stage=predict", *options)


def test_what_is_to_be_left_out_must_be_there(tree, tmp_path):
    text = refused(tree, "stage=pretrain", f"exclude={tmp_path / 'run'}")
    assert text.endswith("does not exist: give a run folder or its splits.json")
    assert composed(tree, "stage=pretrain", f"exclude={tmp_path}")[0].exclude == str(tmp_path)


def test_a_misspelt_kind_of_weights_is_named(tree):
    assert "did you mean backbone.weights=pretrained?" in refused(tree, "backbone.weights=pretraned")


def test_files_that_a_stage_does_not_read_may_be_missing(tree, tmp_path):
    missing = tmp_path / "missing"
    images = "dataset=image_folder"
    assert composed(tree, images, f"dataset.root={missing}", "stage=compare")[0].stage == "compare"
    assert composed(tree, "stage=prune", f"backbone.weights={missing}")[0].stage == "prune"
    # What is fetched is not there yet.
    fetched = ["dataset=caltech101", "dataset.download=true", f"dataset.root={missing}"]
    assert composed(tree, *fetched)[0].dataset.root == str(missing)


# Sweeps.


def test_each_value_of_a_sweep_is_checked(tree):
    assert len(composed(tree, "seed=0,1,2", "backbone=resnet20,digits_cnn", multirun=True)) == 4
    assert "not 'x'" in refused(tree, "seed=0,1,x", multirun=True)
    assert "did you mean backbone=vgg16?" in refused(tree, "backbone=resnet20,vgg166", multirun=True)
    assert "at least 1" in refused(tree, "tune.patience=range(0,3)", multirun=True)
    # A contradiction that the third value alone makes.
    assert "backbone.resize=7" in refused(tree, "backbone.resize=9,8,7", multirun=True)
    assert len(composed(tree, "backbone=glob(resnet*)", multirun=True)) == 2
    # Options that two search spaces share.
    swept = composed(tree, "tune=tascnet,autotune", "tune.max_trials=3", multirun=True)
    assert [(config.tune.space, config.tune.max_trials) for config in swept] == [
        ("tascnet", 3),
        ("autotune", 3),
    ]
    text = refused(tree, "tune=tascnet,autotune", "tune.widths=[1]", multirun=True)
    assert "tune.widths has no effect with tune.space=autotune" in text


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("seed=0,", "'seed=0,' is not of the form key=value"),
        ("seed=choice()", "'seed=choice()' is not of the form key=value"),
        ("seed=range(3,3)", "seed=range(3,3) gives no value at all"),
        ("seed=interval(0,3)", "seed=interval(0,3) is a range without steps: list the values, or give range"),
        ("backbone=glob(x*)", "backbone=glob(x*) gives no value at all"),
        ("seed=range(0,100000000)", "this makes more than 10000 jobs: sweep over fewer values at once"),
        ("sede=0,1", "there is no option sede: did you mean seed?"),
    ],
)
def test_mistakes_in_sweeps_are_named(tree, override, says):
    assert says in refused(tree, override, multirun=True)


# Spellings.


def test_valid_spellings_are_taken(tree):
    (config,) = composed(
        tree,
        "++tune.patience=2",
        "tune.tolerance=null",
        "trainer.head={epochs: 3}",
        "name=12",
        "tune.widths=[1]",
    )
    assert (config.tune.patience, config.tune.tolerance, config.trainer.head.epochs) == (2, None, 3)
    assert (config.name, config.tune.widths) == ("12", (1.0,))
    assert composed(tree, "seed=${backbone.size}")[0].seed == 8


@pytest.mark.parametrize("path", ["outputs/tascnet-a=1,b=2-seed0/w.pth", 'a="b"', "x=(1)"])
def test_a_value_may_hold_equals_signs(tree, path):
    (config,) = composed(tree, f"backbone.weights={path}", "stage=compare")
    assert config.backbone.weights == path


@pytest.mark.parametrize(
    "path", ["photos (1)", "Fotos_ä/Blätter", "a&b#c", "it's", "2024_05", "1e3", "007", "a,b=c"]
)
def test_a_folder_may_have_any_name(tree, path):
    (config,) = composed(tree, f"outputs={path}")
    assert config.outputs == path


def test_an_interpolation_within_a_text_is_resolved(tree):
    (config,) = composed(tree, "outputs=runs/${seed}-a", "seed=3")
    assert config.outputs == "runs/3-a"


def test_the_texts_of_a_list_keep_what_looks_like_a_number(tree):
    (config,) = composed(tree, "tune.warm_start=[runs/tascnet-flops_target=0.7-seed0,2024_05,1e3]")
    assert config.tune.warm_start == ("runs/tascnet-flops_target=0.7-seed0", "2024_05", "1e3")


def test_numbers_stay_numbers(tree):
    (config,) = composed(tree, "trainer.lr=1e-3", "tune.max_trials=1_0", "prune.round_to=1_6")
    assert (config.trainer.lr, config.tune.max_trials, config.prune.round_to) == (0.001, 10, 16)


@pytest.mark.parametrize(
    "override", ['name="a=b"', "name='a=b'", "trainer.head={lr: 1}", "tune.kernels=[3]", "seed=${seed}"]
)
def test_what_is_quoted_or_more_than_a_text_stays_as_it_is(override):
    assert normalise(override) == f"++{override}"


@pytest.mark.parametrize("override", ["dataset=digits", "hydra/launcher=x", "hydra.run.dir=x", "~seed", "x"])
def test_what_sets_no_option_stays_as_it_is(override):
    assert normalise(override) == override


def test_a_folder_of_the_users_own_adds_choices(tmp_path):
    (tmp_path / "dataset").mkdir()
    for name, lines in {
        "leaves": f"name: image_folder\nroot: {tmp_path}\n",
        "typo": f"nmae: image_folder\nname: image_folder\nroot: {tmp_path}\n",
        "bounds": f"name: image_folder\nroot: {tmp_path}\nmin_scale: 7\n",
        "nameless": f"root: {tmp_path}\n",
        "value": "# @package _global_\ndataset: 3\n",
    }.items():
        (tmp_path / "dataset" / f"{name}.yaml").write_text(lines)
    tree = Tree(str(tmp_path))
    (chosen,) = composed(tree, "dataset=leaves", "backbone=resnet18")
    assert (chosen.dataset.root, chosen.backbone.name) == (str(tmp_path), "resnet18")
    assert "there is no option dataset.nmae: did you mean dataset.name?" in refused(tree, "dataset=typo")
    assert "dataset.min_scale must be at most 1" in refused(tree, "dataset=bounds", "backbone=resnet18")
    assert "dataset.name has no choice None" in refused(tree, "dataset=nameless")
    assert "dataset is a section of options and takes no value" in refused(tree, "dataset=value")
    assert "did you mean dataset=leaves?" in refused(tree, "dataset=leafs")
    with pytest.raises(ConfigError, match="there is no folder"):
        Tree(str(tmp_path / "missing"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("widths: [0.5", "line 1 of {} is not valid YAML (expected ',' or ']', but got '<stream end>')"),
        ("widths:\n\t- 1\n", "line 2 of {} is not valid YAML (found character '\\t' that cannot start any"),
        ("a: 1\nb: \xff\n", "line 2 of {} is not valid UTF-8: save the file as UTF-8"),
        ("patience: 1\npatience: 2\n", "line 2 of {} is not valid YAML (found duplicate key patience)"),
        ("a: \x01\n", "{} is not valid YAML (unacceptable character #x0001"),
        ("a: !!python/object:os.system {}\n", "line 1 of {} is not valid YAML (could not determine a"),
        ("a: &a [*a]\n", "the aliases of {} make more than 100000 values: write them out"),
        (
            "a0: &a0 [0,0]\n" + "".join(f"a{n}: &a{n} [*a{n - 1},*a{n - 1}]\n" for n in range(1, 40)),
            "aliases",
        ),
        (f"a: {'[' * 5000}", "{} is nested too deeply"),
        (f"patience: {'1' * 5000}\n", "{} is no config file (Exceeds the limit"),
        ("# @package a b c\npatience: 1\n", "{} is no config file (Too many components"),
        ("[]\n", "{} holds a list, expected options"),
        ("patience: ${b\n", "{} is no config file (no viable alternative"),
        ("a: 1\n" * 200_001, "{} has more than 1000000 bytes"),
    ],
)
def test_a_broken_config_file_of_the_users_own_is_named_with_its_line(tmp_path, content, says):
    path = tmp_path / "tune" / "own.yaml"
    path.parent.mkdir()
    path.write_bytes(content.encode("latin-1"))
    for search in ([], [f"hydra.searchpath=[file://{tmp_path}]"]):
        tree = Tree(None if search else str(tmp_path))
        with pytest.raises(ConfigError) as caught:
            composed(tree, *search, "tune=own")
        assert says.format(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_config_folder_that_is_a_file_or_holds_a_pipe(tmp_path):
    with pytest.raises(ConfigError, match="is a file: --config-dir takes a folder of config files"):
        Tree(__file__)
    (tmp_path / "tune").mkdir()
    os.mkfifo(tmp_path / "tune" / "own.yaml")
    assert "tune has no choice 'own'" in refused(Tree(str(tmp_path)), "tune=own")


@given(st.text(min_size=1))
def test_closest_gives_a_valid_name_or_none(name):
    assert closest(name, ["tune.patience", "dataset"]) in ("tune.patience", "dataset", None)


def test_closest_of_nothing_is_none():
    assert closest("x", []) is None


@pytest.mark.parametrize(
    ("text", "section", "says"),
    [
        (
            "`min_filters=128` is high: lower `min_filters`",
            "prune",
            "prune.min_filters=128 is high: lower p",
        ),
        ("`patience` and `trial.lr`", "trainer", "trainer.patience and trainer.trial.lr"),
        ("`root` is missing", "tune", "dataset.root is missing"),
        ("start over with `fresh=true`", "prune", "start over with fresh=true"),
        ("`seed` of `criterion=a.b`", None, "seed of prune.criterion=a.b"),
        ("`name` of a run", None, "name of a run"),
        ("`factory(num_classes)` and `no_option`", None, "`factory(num_classes)` and no_option"),
    ],
)
def test_options_in_messages_are_spelled_with_their_section(text, section, says):
    assert spell(text, section).startswith(says)


def test_every_option_is_spelled_so_that_the_command_line_knows_it():
    names = option_names()
    assert {"seed", "tune", "tune.widths", "tune.skip", "prune.source", "trainer.head.lr"} <= set(names)
    for name, _ in known_fields(Trainer):
        assert spell(f"`{name}`", "trainer") in names
    assert len(known := [name for name, _ in known_fields(RecipeChanges)]) == len(set(known))
    assert not [name for name in names if not re.fullmatch(r"[a-z_.0-9]+", name)]


# The name of a run.


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "tascnet"),
        # Budgets and what is not of stage one leave the name as it is.
        (["tune.max_trials=5", "prune.pruning_ratio=0.09", "seed=3", "backbone=resnet20"], "tascnet"),
        (["tune.pick=3"], "tascnet"),
        (["tune.round_to=16"], "tascnet-round_to=16"),
        (["tune.widths=[0.5,1.0]", "tune.importance=fpgm"], "tascnet-widths=0.5,1.0-importance=fpgm"),
        # A target bounds the search.
        (["tune.flops_target=0.5"], "tascnet-flops_target=0.5"),
        (["tune=autotune", "tune.skip=drop"], "autotune-skip=drop"),
        # The value that the backbone's own file sets is no difference.
        (["tune.round_to=4"], "tascnet"),
        (["tune.round_to=16", "name=mine"], "mine"),
        (["dataset=image_folder", ROOT, "tune.kernels=[3]"], "tascnet-kernels=3"),
        (["experiment=caltech101_mobilenet_v2", ROOT], "caltech101-128px"),
        (["experiment=caltech101_mobilenet_v2", ROOT, "tune.kernels=[3]"], "caltech101-128px-kernels=3"),
    ],
)
def test_the_default_name_holds_the_options_of_tune_that_differ(tree, overrides, name):
    texts = [normalise(override) for override in overrides]
    assert with_name(tree.compose(texts), tree, texts).name == name
