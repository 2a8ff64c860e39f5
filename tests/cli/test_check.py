import ast
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tascnet_conf
import tascnet_pipelines
from tascnet.cli.check import check_config, check_overrides, normalise
from tascnet.cli.compose import Tree, default_name, flatten
from tascnet.cli.rules import NORMS
from tascnet.errors import ConfigError, closest
from tascnet.options import ACTIVATIONS, OFFICIAL_TESTS, PUBLISHED_IMAGES, Config, DatasetConfig

CONF = Path(tascnet_conf.__file__).parent
PIPELINES = Path(tascnet_pipelines.__file__).parent
FILES = sorted(path.relative_to(CONF) for path in CONF.glob("*/*.yaml"))
# What a choice needs beside itself.
NEEDED = {
    **{f"dataset={name}": ["dataset.download=true"] for name in PUBLISHED_IMAGES},
    "dataset=image_folder": ["dataset.root=/data"],
    "dataset=movie_review": ["dataset.root=/data"],
    "dataset=subjectivity": ["dataset.root=/data"],
    "dataset=text_lines": ["dataset.root=/data"],
    "backbone=custom": ["backbone.factory=a.b"],
    "backbone=textcnn": ["dataset=text_lines", "dataset.root=/data"],
    **{f"experiment={path.stem}": ["dataset.root=/data"] for path in FILES if path.parts[0] == "experiment"},
}


TEXTS = ("dataset=text_lines", "dataset.root=/x")


@pytest.fixture(scope="module")
def tree():
    return Tree()


def composed(tree, *overrides, multirun=False):
    return check_overrides(overrides, tree, multirun=multirun, config_name="config")


def refused(tree, *overrides, multirun=False):
    with pytest.raises(ConfigError) as caught:
        composed(tree, *overrides, multirun=multirun)
    return str(caught.value)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_file_composes_and_keeps_the_bounds(tree, path):
    choice = f"{path.parent}={path.stem}"
    (config,) = composed(tree, choice, *NEEDED.get(choice, []))
    section = getattr(config, str(path.parent), None)
    if hasattr(section, "name"):
        assert section.name == path.stem


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] in ("stage", "benchmark")], ids=str)
def test_every_target_is_a_function_of_the_config(tree, path):
    (config,) = composed(tree, f"{path.parent}={path.stem}")
    module, _, name = getattr(config, path.parts[0])._target_.rpartition(".")
    package, *parts = module.split(".")
    assert package == "tascnet_pipelines"
    source = PIPELINES.joinpath(*parts).with_suffix(".py").read_text(encoding="utf-8")
    functions = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    required = len(functions[name].args.args) - len(functions[name].args.defaults)
    assert len(functions[name].args.args) >= 1
    assert required <= 1


def test_every_choice_of_a_name_has_a_file(tree):
    groups = tree.groups()
    for section in ("dataset", "backbone"):
        (name,) = [entry for entry in fields(getattr(Config(), section)) if entry.name == "name"]
        assert sorted(name.metadata["choices"]) == sorted(groups[section])


def test_the_schema_keeps_its_own_bounds():
    check_config(Config(dataset=DatasetConfig(digits=[5, 6])))
    for key, entry, value in flatten(Config()):
        assert not is_dataclass(value)
        choices = entry.metadata.get("choices")
        assert choices is None or value is None or value in choices, key


def test_activations_are_those_of_surgery():
    from tascnet.surgery import ACTIVATIONS as known

    assert tuple(known) == ACTIVATIONS


def test_published_data_sets_of_the_options_are_those_of_the_catalogue():
    from tascnet.data import CATALOGUE

    assert tuple(CATALOGUE) == PUBLISHED_IMAGES
    assert tuple(name for name in CATALOGUE if CATALOGUE[name].official_test) == OFFICIAL_TESTS


def test_the_normalisations_of_the_options_are_those_of_grown_heads():
    from tascnet.models.grow import NORMS as known

    assert known == NORMS


def test_data_sets_choose_backbone_and_trainer_and_the_command_line_wins(tree):
    assert composed(tree)[0].backbone.name == "digits_cnn"
    images = composed(tree, "dataset=image_folder", "dataset.root=/data")[0]
    assert images.backbone.name == "mobilenet_v2"
    assert images.trainer.finetune.batchnorm == "frozen"
    own = composed(tree, "dataset=image_folder", "dataset.root=/data", "backbone=vgg16", "trainer=digits")[0]
    assert own.backbone.name == "vgg16"
    assert own.trainer.finetune.batchnorm == "train"


def test_an_experiment_wins_over_data_set_and_backbone(tree):
    chosen = composed(tree, "experiment=caltech101_mobilenet_v2", "dataset.root=/data", "backbone=resnet50")[
        0
    ]
    assert (chosen.dataset.name, chosen.backbone.name, chosen.backbone.size) == (
        "caltech101",
        "resnet50",
        128,
    )


@pytest.mark.parametrize("prefix", ["", "++"])
@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("tune.pateince=3", "there is no option tune.pateince: did you mean tune.patience?"),
        ("trainer.finetune.learning_rate=1", "there is no option trainer.finetune.learning_rate"),
        ("patience=3", "did you mean tune.patience?"),
        ("datset=digits", "did you mean dataset?"),
        ("dataset=digit", "dataset has no choice 'digit': did you mean dataset=digits?"),
        ("stage=xyz", "it takes benchmark, compare, full, pretrain, prune or tune"),
        ("tune.patience=x", "tune.patience takes a whole number, not 'x'"),
        ("tune.patience=1.5", "tune.patience takes a whole number, not 1.5"),
        ("tune.patience=true", "tune.patience takes a whole number, not true"),
        ("tune.patience=null", "tune.patience takes a whole number, not null"),
        ("tune.patience=0", "tune.patience is at least 1, not 0"),
        ("tune.tolerance=abc", "tune.tolerance takes a number or null, not 'abc'"),
        ("tune.tolerance=2", "tune.tolerance is at most 1, not 2"),
        ("tune.tolerance=nan", "tune.tolerance takes a finite number, not nan"),
        ("tune.widths=0.5", "tune.widths takes a list such as [1,2], not 0.5"),
        ("tune.widths=[a]", "tune.widths takes a list such as [1,2], not ['a']"),
        ("tune.widths=[0.5,1.5]", "tune.widths are shares in (0, 1], not [0.5, 1.5]"),
        ("tune.kernels=[3,4]", "tune.kernels are odd numbers, not [3, 4]"),
        ("tune.activations=[relu,rellu]", "tune.activations has no choice 'rellu': did you mean relu?"),
        ("prune.criterion=magnitud", "there is no prune.criterion=magnitud: did you mean magnitude?"),
        ("prune.criterion=none", "there is no prune.criterion=none: take one of history"),
        ("prune.round_to=many", "prune.round_to takes a number or auto, not 'many'"),
        ("prune.round_to=0", "prune.round_to is at least 1, not 0"),
        ("prune.merge=average", "prune.merge=average needs pairs"),
        (
            "prune.regulariser_weight=2",
            "prune.regulariser_weight has no effect without prune.criterion=history",
        ),
        ("prune.sensitivity_samples=5", "prune.sensitivity_samples has no effect without prune.sensitivity"),
        ("tune.objective=constrained", "tune.objective=constrained needs a bound"),
        ("tune.max_flops=0.7", "tune.max_flops has no effect with tune.objective=accuracy"),
        ("tune.pareto_cost=params", "tune.pareto_cost has no effect with tune.objective=accuracy"),
        ("tune.skip=drop", "tune.skip has no effect with tune.space=tascnet"),
        ("tune.grow_norms=[l2]", "tune.grow_norms has no effect with tune.head=new"),
        ("tune.freeze_every=2", "tune.freeze_every has no effect with tune.freeze=search"),
        ("tune.stop_epoch=2", "tune.stop_epoch has no effect with tune.early_stop=none"),
        ("tune.lr_factors=[0.0]", "tune.lr_factors are above 0"),
        ("tune.filters=[]", "tune.filters is empty"),
        ("trainer.trial.min_lr=0.1", "trainer.trial.min_lr has no effect"),
        ("fresh=1", "fresh takes true or false, not 1"),
        ("fresh=maybe", "fresh takes true or false, not 'maybe'"),
        ("trainer.head.optimizer=adam", "did you mean trainer.head.optimizer=adamw?"),
        ("trainer.head=3", "trainer.head is a section of options and takes no value"),
        ("trainer.head={epoch: 3}", "did you mean trainer.head.epochs?"),
        ("tune={patience: 3}", "tune has no choice {'patience': 3}"),
        ("tune.widths.0=3", "did you mean tune.widths?"),
        ("backbone.std=[1.0,1.0]", "backbone.mean and backbone.std have 1 and 2 values"),
        ("backbone.resize=7", "backbone.resize=7 is smaller than backbone.size=8"),
        ("dataset.val_per_class=null", "go together"),
        ("dataset.digits=[5,5]", "different digits from 0 to 9"),
        ("dataset.digits=[4,5,6]", "share [4]: the network would be tested on images that it was pre-"),
        ("dataset.digits=null", "share [0, 1, 2, 3, 4]"),
        ("device=gpu", "there is no device 'gpu'"),
        ("device=mps", "it is auto, cpu, cuda or cuda:<number>"),
        ("seed=100000000000000000000", "seed is at most 1e+09"),
        ("name=a/b", "cannot name a folder"),
        ("compare.path=runs", "compare.path has no effect with stage=full"),
        ("seed=${nothing}", "Interpolation key 'nothing' not found"),
    ],
)
def test_mistakes_are_named(tree, override, says, prefix):
    text = refused(tree, prefix + override)
    assert says in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["tune.finetune_from=all", "tune.distill=0.5"], "tune.distill has no effect without"),
        (["tune=autotune", "tune.distill=0.5"], "tune.distill has no effect without"),
        (["tune.distill=0", "tune.distill_temperature=3"], "has no effect without tune.distill above 0"),
        (["tune.finetune_from=all", "tune.distill_temperature=3"], "tune.distill_temperature has no effect"),
        (["tune.head=grow", "tune.finetune_from=conventional"], "tune.finetune_from=conventional needs"),
        (["tune=autotune", "tune.finetune_from=conventional"], "tune.finetune_from=conventional needs"),
        (["tune.freeze=layerwise", "tune.finetune_from=conventional"], "take tune.finetune_from=auto"),
    ],
)
def test_options_that_do_not_go_together_are_named(tree, overrides, says):
    assert says in refused(tree, *overrides)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("+tune.pateince=3", "did you mean tune.patience?"),
        ("+tune.patience=3", "drop the + before tune.patience"),
        ("+foo=1", "there is no option foo"),
        ("~tune.patience", "would delete an option"),
        ("tune", "'tune' is not of the form key=value"),
        ("seed=[", "is not of the form key=value"),
        ("seed=0,1", "sweeps over several values: add -m"),
        ("hydra.foo=1", "Could not override 'hydra.foo'"),
        ("hydra/launcher=nowhere", "Could not find 'hydra/launcher/nowhere'"),
        ("+dataset@foo=digits", "foo"),
    ],
)
def test_mistakes_of_grammar_are_named(tree, override, says):
    text = refused(tree, override)
    assert says in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["dataset=image_folder"], "dataset=image_folder needs the folder of its images"),
        (["dataset.download=true"], "dataset.download fetches caltech101, "),
        (["dataset.csv=x.csv"], "dataset.csv lists images of your own, not those of dataset=digits"),
        (["dataset.official_test=true"], "dataset=digits comes with no official test split"),
        (["dataset=caltech101", "dataset.official_test=true"], "but stanford_dogs, "),
        (["backbone=custom"], "backbone.factory="),
        (
            ["trainer.head.optimizer=sgd", "trainer.head.nesterov=true", "trainer.head.momentum=0"],
            "trainer.head.nesterov needs a momentum",
        ),
        (["dataset=caltech101", "dataset.root=/x", "backbone=digits_cnn"], "is for digits of 8 x 8 pixels"),
        (
            ["dataset=text_lines"],
            "dataset=text_lines needs the folder of its texts: give it as dataset.root=",
        ),
        (["backbone=textcnn"], "backbone=textcnn takes texts, but dataset=digits holds images"),
        (
            [*TEXTS, "backbone=resnet20"],
            "takes images, but dataset=text_lines holds texts: take backbone=textcnn",
        ),
        ([*TEXTS, "backbone.size=32"], "backbone.size has no effect with backbone=textcnn"),
        ([*TEXTS, "+backbone.options.depth=3"], "backbone.options has no effect with backbone=textcnn"),
        ([*TEXTS, "dataset.unreadable=skip"], "dataset.unreadable has no effect with dataset=text_lines"),
        ([*TEXTS, "dataset.flip=false"], "dataset.flip has no effect with dataset=text_lines"),
        ([*TEXTS, "dataset.min_scale=0.5"], "dataset.min_scale has no effect with dataset=text_lines"),
        ([*TEXTS, "dataset.pad=2"], "dataset.pad has no effect with dataset=text_lines"),
        ([*TEXTS, "prune.blocks=true"], "prune.blocks has no effect with backbone=textcnn"),
        ([*TEXTS, "dataset.classes=[a,b]"], "not in dataset=text_lines: leave it out"),
        ([*TEXTS, "tune=autotune"], "knows none of textcnn: take tune=tascnet"),
        ([*TEXTS, "stage=benchmark"], "stage=benchmark compares on images"),
        ([*TEXTS, "tune.kernels=[0,3]"], "tune.kernels are 1 or more, not [0, 3]"),
        (["dataset.max_tokens=9"], "dataset.max_tokens has no effect with dataset=digits"),
        (["backbone.filters=9"], "backbone.filters has no effect with backbone=digits_cnn"),
        (["backbone.vectors=/x"], "backbone.vectors has no effect with backbone=digits_cnn"),
        (
            ["dataset.train_per_class=null", "dataset.val_per_class=null", "dataset.train_fraction=0.9"],
            "leave a share for the test split",
        ),
    ],
)
def test_contradictions_are_named(tree, overrides, says):
    assert says in refused(tree, *overrides)


def test_each_value_of_a_sweep_is_checked(tree):
    assert len(composed(tree, "seed=0,1,2", "backbone=resnet20,digits_cnn", multirun=True)) == 4
    assert "not 'x'" in refused(tree, "seed=0,1,x", multirun=True)
    assert "did you mean backbone=vgg16?" in refused(tree, "backbone=resnet20,vgg17", multirun=True)
    assert "at least 1" in refused(tree, "tune.patience=range(0,3)", multirun=True)
    # A contradiction that the third value alone makes.
    assert "backbone.resize=7" in refused(tree, "backbone.resize=9,8,7", multirun=True)
    assert len(composed(tree, "backbone=glob(resnet*)", multirun=True)) == 4


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
    assert (config.name, config.tune.widths) == ("12", [1.0])
    assert composed(tree, "seed=${backbone.size}")[0].seed == 8


@pytest.mark.parametrize("prefix", ["", "+", "++"])
def test_options_of_a_custom_factory_are_open(tree, prefix):
    override = normalise(f"{prefix}backbone.options.depth=3")
    assert composed(tree, override)[0].backbone.options == {"depth": 3}


@pytest.mark.parametrize("path", ["outputs/tascnet-a=1,b=2-seed0/w.pth", 'a="b"', "x=(1)"])
def test_a_value_may_hold_equals_signs(tree, path):
    assert composed(tree, normalise(f"backbone.weights={path}"))[0].backbone.weights == path
    factory = composed(tree, normalise(f"backbone.options.path={path}"))[0]
    assert factory.backbone.options == {"path": path}


@pytest.mark.parametrize(
    "override", ['name="a=b"', "name='a=b'", "backbone.options={a: 1}", "tune.kernels=[3]"]
)
def test_what_is_quoted_or_more_than_a_text_stays_as_it_is(override):
    assert normalise(override).lstrip("+") == override


def test_a_folder_of_the_users_own_adds_choices(tmp_path):
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "leaves.yaml").write_text("name: image_folder\nroot: /leaves\n")
    (tmp_path / "dataset" / "typo.yaml").write_text("nmae: image_folder\n")
    (tmp_path / "dataset" / "bounds.yaml").write_text("name: image_folder\nroot: /x\nmin_scale: 7\n")
    tree = Tree(str(tmp_path))
    chosen = composed(tree, "dataset=leaves", "backbone=resnet18")[0]
    assert (chosen.dataset.root, chosen.backbone.name) == ("/leaves", "resnet18")
    assert "nmae" in refused(tree, "dataset=typo")
    assert "dataset.min_scale is at most 1" in refused(tree, "dataset=bounds", "backbone=resnet18")
    assert "did you mean dataset=leaves?" in refused(tree, "dataset=leafs")
    with pytest.raises(ConfigError, match="there is no folder"):
        Tree(str(tmp_path / "missing"))


@given(st.text(min_size=1))
def test_closest_gives_a_valid_name_or_none(name):
    assert closest(name, ["tune.patience", "dataset"]) in ("tune.patience", "dataset", None)


def test_closest_of_nothing_is_none():
    assert closest("x", []) is None


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "tascnet"),
        # Budgets and what is not of stage one leave the name as it is.
        (["tune.max_trials=5", "prune.percent=9", "seed=3", "backbone=resnet20"], "tascnet"),
        (["tune.round_to=16"], "tascnet-round_to=16"),
        (["tune.widths=[0.5,1.0]", "tune.importance=fpgm"], "tascnet-widths=0.5,1.0-importance=fpgm"),
        # The value that the backbone's own file sets is no difference.
        (["tune.round_to=4"], "tascnet"),
        (["tune.round_to=16", "name=mine"], "mine"),
        (["experiment=caltech101_mobilenet_v2", "dataset.root=/x"], "caltech101-128px"),
        (
            ["experiment=caltech101_mobilenet_v2", "dataset.root=/x", "tune.kernels=[3]"],
            "caltech101-128px-kernels=3",
        ),
    ],
)
def test_the_default_name_tells_the_options_of_tune_that_differ(tree, overrides, name):
    assert default_name(tree.compose(overrides), tree, overrides) == name


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["tune.freeze=layerwise", "tune.head=search"], "tune.head=search has no effect"),
        (["tune.freeze=layerwise", "tune.max_units=2"], "tune.max_units has no effect"),
        (["tune.freeze=layerwise", "tune.algorithm=random"], "goes through the depths"),
        (["tune.early_stop=median", "tune.stop_epoch=99"], "tune.stop_epoch=99 stops no trial"),
        (
            ["tune.algorithm=sobol", "tune.slim_every=2"],
            "tune.slim_every has no effect with tune.algorithm=sobol",
        ),
        (
            ["tune.freeze=layerwise", "tune.slim_every=2"],
            "tune.slim_every has no effect with tune.freeze=layerwise",
        ),
        (["tune=autotune", "tune.slim_every=3"], "tune.slim_every has no effect with tune.objective=loss"),
        (
            ["tune.objective=loss", "tune.slim_every=2"],
            "tune.slim_every has no effect with tune.objective=loss",
        ),
        (["tune=autotune", "tune.widths=[0.5]"], "tune.widths has no effect with tune.space=autotune"),
        (["tune=autotune", "tune.head=grow"], "tune.head=grow has no effect with tune.space=autotune"),
    ],
)
def test_options_that_contradict_each_other(tree, options, said):
    assert said in refused(tree, *options)
