"""The option classes: what each value may be, which options go together, and what they resolve to."""

import dataclasses
import math
import types
from dataclasses import FrozenInstanceError, asdict, fields, is_dataclass
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tascnet.cli.config import PruneRun, RunOptions, count_options
from tascnet.errors import ConfigError
from tascnet.options import (
    ACTIVATIONS,
    BACKBONES,
    CRITERIA,
    DATASETS,
    OFFICIAL_TESTS,
    PUBLISHED_IMAGES,
    PUBLISHED_TEXTS,
    RECIPES,
    Autotune,
    Digits,
    DigitsBackbone,
    HistoryPrune,
    ImageBackbone,
    ImageFolder,
    Measure,
    Prune,
    PublishedImages,
    PublishedTexts,
    Recipe,
    RecipeChanges,
    StepChanges,
    Targets,
    TextBackbone,
    Texts,
    Trainer,
    Tune,
    TuneBase,
    default_of,
    known_fields,
    make,
    shown,
    type_name,
)

CLASSES = (
    *(Digits, ImageFolder, PublishedImages, Texts, PublishedTexts),
    *(ImageBackbone, DigitsBackbone, TextBackbone, Trainer, Recipe, RecipeChanges, StepChanges, Measure),
    *(Tune, Autotune, Prune, HistoryPrune, RunOptions, PruneRun),
)
# What a class does not go without.
NEEDED = {ImageFolder: {"root": "x"}, Texts: {"root": "x"}}


def refused(cls, values):
    with pytest.raises(ConfigError) as caught:
        make(cls, NEEDED.get(cls, {}) | values)
    text = str(caught.value)
    assert "\n" not in text
    return text


def entries():
    """The name of each option of each class, and its field."""
    for cls in CLASSES:
        for name, entry in known_fields(cls):
            yield f"{cls.__name__}.{name}", entry
        for entry in fields(cls):
            if is_dataclass(entry.type):
                yield f"{cls.__name__}.{entry.name}", entry


def test_every_option_has_one_sentence_of_help():
    for name, entry in entries():
        text = entry.metadata["help"]
        assert text.endswith("."), name
        assert ". " not in text, name
        assert text == text.strip(), name


def test_every_option_has_a_type_that_is_checked():
    """Plain types alone: neither a mapping nor any value at all."""
    plain = {int, float, bool, str, type(None), *(tuple[kind, ...] for kind in (int, float, str))}
    for name, entry in entries():
        kinds = get_args(entry.type) if isinstance(entry.type, types.UnionType) else (entry.type,)
        assert set(kinds) <= plain or is_dataclass(entry.type), name


def test_every_number_has_bounds_on_both_sides():
    for name, entry in entries():
        kinds = {entry.type, *get_args(entry.type)}
        # The largest number of threads is the machine's.
        if kinds & {int, float, tuple[int, ...], tuple[float, ...]} and not name.endswith(".threads"):
            rule = entry.metadata
            assert rule["minimum"] is not None or rule["above"] is not None, name
            assert rule["maximum"] is not None or rule["below"] is not None, name


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e9, "1000000000"),
        (1e9 + 1, "1000000001"),
        (0.5, "0.5"),
        (1.0000001, "1.0000001"),
        (1e30, "1e+30"),
        (1e-05, "1e-05"),
        (math.inf, "inf"),
        (-2.0, "-2"),
    ],
)
def test_numbers_are_shown_whole_and_so_that_different_ones_differ(value, text):
    assert shown(value) == text


def test_every_default_is_one_of_the_choices():
    for name, entry in entries():
        choices, default = entry.metadata.get("choices"), default_of(entry)
        if choices and default is not None:
            assert set(default if isinstance(default, tuple) else [default]) <= set(choices), name


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_the_defaults_of_a_class_fit_each_other(cls):
    options = make(cls, NEEDED.get(cls, {}))
    assert options == dataclasses.replace(options)


def test_there_are_few_options():
    assert count_options() <= 182


def test_options_are_frozen_and_take_keywords_alone():
    options = Tune()
    with pytest.raises(FrozenInstanceError):
        options.patience = 3
    with pytest.raises(TypeError):
        Tune("tascnet")
    assert hash(Tune()) == hash(Tune(patience=1))


# Types, bounds and choices.


@pytest.mark.parametrize(
    ("cls", "values", "says"),
    [
        (Tune, {"patience": "x"}, "`patience` takes a whole number, not 'x'"),
        (Tune, {"patience": 1.5}, "`patience` takes a whole number, not 1.5"),
        (Tune, {"patience": True}, "`patience` takes a whole number, not true"),
        (Tune, {"patience": None}, "`patience` takes a whole number, not null"),
        (Tune, {"patience": 0}, "`patience` must be at least 1, not 0"),
        (Tune, {"tolerance": "abc"}, "`tolerance` takes a number or null, not 'abc'"),
        (Tune, {"tolerance": True}, "`tolerance` takes a number or null, not true"),
        (Tune, {"tolerance": 2}, "`tolerance` must be at most 1, not 2"),
        (Tune, {"tolerance": math.nan}, "`tolerance` takes a finite number, not nan"),
        (Prune, {"max_seconds": math.inf}, "`max_seconds` takes a finite number, not inf"),
        (Prune, {"max_seconds": 10**400}, "`max_seconds` takes a finite number"),
        (Prune, {"pruning_ratio": 0}, "`pruning_ratio` must be above 0, not 0"),
        (Prune, {"pruning_ratio": 0.96}, "`pruning_ratio` must be at most 0.95, not 0.96"),
        (Prune, {"flops_target": 1.01}, "`flops_target` must be at most 1, not 1.01"),
        (RunOptions, {"seed": 10**20}, "`seed` must be at most 1000000000, not 100000000000000000000"),
        (Tune, {"widths": 0.5}, "`widths` takes a list such as [0.5,1], not 0.5"),
        (Tune, {"widths": "ab"}, "`widths` takes a list such as [0.5,1], not 'ab'"),
        (Tune, {"widths": ["a"]}, "`widths` takes a list such as [0.5,1], not [a]"),
        (Tune, {"widths": [0.5, 1.5]}, "`widths` must be at most 1, not 1.5"),
        (Tune, {"widths": [0.0]}, "`widths` must be above 0, not 0"),
        (Tune, {"widths": [0.5, 1, 0.5]}, "`widths` names a value twice: [0.5,1,0.5]"),
        (Tune, {"kernels": [3, 0]}, "`kernels` must be at least 1, not 0"),
        (Tune, {"kernels": [3.0]}, "`kernels` takes a list such as [1,2], not [3]"),
        (Tune, {"dropouts": [1.0]}, "`dropouts` must be below 1, not 1"),
        (Tune, {"lr_factors": [0.0]}, "`lr_factors` must be above 0, not 0"),
        (Tune, {"lr_factors": []}, "`lr_factors` is empty: give at least one value"),
        (Autotune, {"filters": []}, "`filters` is empty: give at least one value"),
        (Tune, {"activations": ["rellu"]}, "has no choice 'rellu': did you mean `activations=relu`?"),
        (Tune, {"importance": "q"}, "`importance` has no choice 'q': it takes magnitude, fpgm or random"),
        (Tune, {"remove_blocks": 1}, "`remove_blocks` takes true or false, not 1"),
        (Prune, {"round_to": "many"}, "`round_to` takes a number or auto, not 'many'"),
        (Prune, {"round_to": 0}, "`round_to` must be at least 1, not 0"),
        (Prune, {"criterion": "magnitud"}, "did you mean `criterion=magnitude`?"),
        (Prune, {"criterion": "none"}, "`criterion` has no choice 'none': it takes history, reconstruction"),
        (Prune, {"criterion": "my..Own"}, "or a dotted path"),
        (Recipe, {"optimizer": "adam"}, "did you mean `optimizer=adamw`?"),
        (Recipe, {"lr": -1.0}, "`lr` must be at least 0, not -1"),
        (Measure, {"repeats": 2}, "`repeats` must be at least 3, not 2"),
        (ImageBackbone, {"std": [0.0]}, "`std` must be at least 0.0001, not 0"),
        (ImageFolder, {"min_scale": 0.01}, "`min_scale` must be at least 0.05, not 0.01"),
        (Digits, {"name": True}, "`name` takes text, not true"),
    ],
)
def test_a_value_that_does_not_fit_is_named(cls, values, says):
    assert says in refused(cls, values)


def test_lists_become_tuples_and_whole_numbers_become_floats_where_they_are_due():
    tune = Tune(widths=[1], kernels=[3, 5])
    assert (tune.widths, tune.kernels) == ((1.0,), (3, 5))
    assert type(tune.widths[0]) is float
    assert type(Tune(tolerance=0).tolerance) is float
    assert Tune(widths=[], kernels=[], activations=[]).widths == ()
    # A command line reads these as numbers.
    assert Digits(classes=[5, 6]).classes == ("5", "6")
    assert RunOptions(name=12).name == "12"
    # A number that may be a count or a share keeps its type.
    assert type(ImageFolder(root="x", train=20, val=5).train) is int
    # Mean and deviation may be alike in two channels.
    assert ImageBackbone(mean=[0.5] * 3, std=[0.5] * 3).mean == (0.5, 0.5, 0.5)


def test_numbers_and_words_stand_for_the_multiple_of_widths():
    assert (Prune().round_to, Prune(round_to="auto").round_to, Prune(round_to=1).round_to) == (8, "auto", 1)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_each_criterion_has_one_class(criterion):
    right, wrong = (HistoryPrune, Prune) if criterion == "history" else (Prune, HistoryPrune)
    assert right(criterion=criterion).criterion == criterion
    assert "these are not the options of `criterion" in refused(wrong, {"criterion": criterion})


def test_a_criterion_may_be_a_dotted_path():
    assert Prune(criterion="my.own.Importance").criterion == "my.own.Importance"


# Rules between options of one class.


@pytest.mark.parametrize(
    ("cls", "values", "says"),
    [
        (Digits, {"train": 20, "val": 0.2}, "`train=20` and `val=0.2` are a count and a share"),
        (Digits, {"train": 1.0, "val": 0.2}, "`train=1` is neither a count nor a share"),
        (Digits, {"train": 0.9, "val": 0.2}, "leave a share for the test split"),
        (Digits, {"train": 0}, "`train` must be above 0, not 0"),
        (Digits, {"classes": ["5"]}, "`classes` takes at least two classes, not [5]"),
        (Digits, {"classes": ["5", "5"]}, "`classes` names a value twice: [5,5]"),
        (Digits, {"classes": ["a", "b"]}, "`classes` takes digits from 0 to 9, not [a,b]"),
        (ImageFolder, {"root": None}, "the folder of the images is missing: give it as `root=<folder>`"),
        (Texts, {"root": None}, "the folder of the texts is missing: give it as `root=<folder>`"),
        (PublishedImages, {"official_test": True}, "caltech101 comes with no official test split"),
        (ImageBackbone, {"std": [1.0], "mean": [0.5] * 3}, "`mean` and `std` have 3 and 1 values"),
        (ImageBackbone, {"std": [1.0, 2.0]}, "`mean` and `std` have 2 values: give one value for grey"),
        (ImageBackbone, {"name": "../resnet34"}, "`name=../resnet34` cannot be the name of a network"),
        (ImageBackbone, {"name": "a b"}, "it has letters, digits and ._-/ such as timm/resnet18"),
        (ImageBackbone, {"mean": [0.5, 0.5], "std": [1.0, 2.0]}, "one value for grey images or three"),
        (ImageBackbone, {"size": 8, "resize": 7}, "`resize=7` is smaller than `size=8`"),
        (Recipe, {"min_lr": 0.1}, "`min_lr` has no effect with `schedule=cosine`"),
        (Recipe, {"min_lr": 0.1, "schedule": "plateau"}, "`min_lr` is 0.1, above `lr`, 0.001: lower it"),
        (Tune, {"space": "autotune"}, "these are not the options of `space=autotune`: take Autotune"),
        (Autotune, {"space": "tascnet"}, "these are not the options of `space=tascnet`: take Tune"),
        (Tune, {"head": "new", "grow_norms": ["l2"]}, "`grow_norms` has no effect with `head=new`"),
        (Tune, {"layerwise_every": 2}, "`layerwise_every` has no effect with `algorithm=bo`"),
        (Tune, {"algorithm": "layerwise", "head": "search"}, "`head=search` has no effect"),
        (Tune, {"algorithm": "layerwise", "max_units": 2}, "`max_units` has no effect"),
        (Tune, {"algorithm": "layerwise", "flops_target": 0.5}, "`flops_target` has no effect"),
        (Tune, {"algorithm": "layerwise", "objective": "pareto_flops"}, "`objective=pareto_flops` has no"),
        (Tune, {"algorithm": "layerwise", "finetune_from": "conventional"}, "take `finetune_from=auto`"),
        (Autotune, {"algorithm": "layerwise"}, "`algorithm=layerwise` trains the pre-trained layers"),
        (Tune, {"algorithm": "sobol", "slim_every": 2}, "`slim_every` has no effect with `algorithm=sobol`"),
        (Tune, {"objective": "loss", "slim_every": 2}, "`slim_every` has no effect with `objective=loss`"),
        (
            Tune,
            {"objective": "loss", "size_target": 0.5},
            "`size_target` has no effect with `objective=loss`",
        ),
        (Tune, {"objective": "pareto_params", "latency_target_ms": 5.0}, "`latency_target_ms` has no effect"),
        (Tune, {"finetune_from": "all", "distill": 0.5}, "`distill` has no effect without"),
        (Tune, {"finetune_from": "all", "distill_features": 1.0}, "`distill_features` has no effect without"),
        (Tune, {"distill": 0.0, "distill_features": 1.0}, "`distill_features` has no effect with"),
        (Prune, {"distill": 0.0, "distill_features": 1.0}, "`distill_features` has no effect with"),
        (Tune, {"head": "grow", "finetune_from": "conventional"}, "`finetune_from=conventional` needs"),
        (Autotune, {"finetune_from": "conventional"}, "`finetune_from=conventional` needs"),
        (Prune, {"merge": "average"}, "`merge=average` needs pairs, but `criterion=reconstruction` has none"),
        (Prune, {"one_shot": True}, "`one_shot=true` needs a target"),
        (Prune, {"one_shot": True, "pruning_ratio": 0.2}, "`pruning_ratio` has no effect with `one_shot"),
        (Prune, {"one_shot": True, "max_pruning_ratio": 0.3}, "`max_pruning_ratio` has no effect with"),
        (HistoryPrune, {"one_shot": True}, "`one_shot=true` may remove 0.75 of a group"),
        (HistoryPrune, {"max_pruning_ratio": 0.6}, "`max_pruning_ratio=0.6` is over half of a group"),
        (HistoryPrune, {"epochs": 2}, "`epochs=2` leaves none for retraining after 1 + 1"),
        (HistoryPrune, {"scope": "global_params"}, "`scope` has no choice 'global_params'"),
        (RunOptions, {"device": "gpu"}, "there is no device 'gpu'"),
        (RunOptions, {"device": "mps"}, "it is auto, cpu, cuda or cuda:<number>"),
        (RunOptions, {"name": "a/b"}, "cannot name a folder"),
        (RunOptions, {"exclude": "x"}, "`exclude` has no effect with stage=full: add stage=pretrain"),
    ],
)
def test_options_that_do_not_go_together_are_named(cls, values, says):
    assert says in refused(cls, values)


@pytest.mark.parametrize(
    ("cls", "values"),
    [
        # The default stands beside goals that leave no turn to it.
        (Tune, {"objective": "loss"}),
        (Tune, {"algorithm": "sobol"}),
        (Tune, {"objective": "loss", "slim_every": 0}),
        (Tune, {"algorithm": "layerwise", "head": "grow", "layerwise_every": 3}),
        (Tune, {"algorithm": "layerwise", "objective": "loss"}),
        (Tune, {"flops_target": 0.5, "latency_target_ms": 4.0}),
        (Tune, {"head": "search", "grow_norms": ["l2"]}),
        (Prune, {"one_shot": True, "latency_target": 0.5}),
        (HistoryPrune, {"merge": "average", "max_pruning_ratio": 0.5}),
        (HistoryPrune, {"scope": "global", "history": "continue", "regulariser": "sum"}),
        (Digits, {"train": 20, "val": 30}),
        (Digits, {"train": 0.7, "val": 0.15}),
        (RunOptions, {"stage": "pretrain", "exclude": "x"}),
        (RunOptions, {"device": "cuda:1"}),
        (ImageFolder, {"root": None, "csv": "list.csv"}),
        *((PublishedImages, {"name": name, "official_test": True}) for name in OFFICIAL_TESTS),
        *((PublishedTexts, {"name": name}) for name in PUBLISHED_TEXTS),
    ],
)
def test_options_that_go_together_are_taken(cls, values):
    options = make(cls, NEEDED.get(cls, {}) | values)
    assert {name: getattr(options, name) for name in values} == {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }


def test_options_know_what_is_not_their_default():
    options = Tune(patience=2, widths=[0.25, 0.5, 0.75, 1.0])
    assert options.changed("patience")
    assert not options.changed("widths")


# Nested mappings.


def test_an_option_class_is_made_from_nested_mappings():
    trainer = make(Trainer, {"lr": 0.5, "head": {"epochs": 3}, "recover": {"batchnorm": "frozen"}})
    assert trainer == Trainer(
        lr=0.5, head=RecipeChanges(epochs=3), recover=StepChanges(batchnorm="frozen"), class_weights="none"
    )


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"pateince": 3}, "there is no option `pateince`: did you mean `patience`?"),
        ({1: 3}, "there is no option `1`"),
        ({"head": 3}, "`head` is a section of options and takes no value: give one of them, such as `head."),
        ({"head": {"epoch": 3}}, "there is no option `head.epoch`: did you mean `head.epochs`?"),
        ({"head": {"epochs": 0}}, "`head.epochs` must be at least 1, not 0"),
        ({"recover": {"epochs": 3}}, "there is no option `recover.epochs`"),
        ({"head": {"optimizer": "adam"}}, "did you mean `head.optimizer=adamw`?"),
        (
            {"trial": {"min_lr": 0.1}},
            "`trial.min_lr` has no effect with `trial.schedule=cosine`: add `trial.",
        ),
    ],
)
def test_mistakes_in_nested_mappings_are_named_with_their_section(values, says):
    assert says in refused(Trainer, values)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@st.composite
def fields_and_values(draw):
    """A class, and values for some of its options: fitting ones, and anything that JSON holds."""
    cls = draw(st.sampled_from(CLASSES))
    chosen = draw(st.lists(st.sampled_from(fields(cls)), max_size=4, unique_by=lambda entry: entry.name))
    values = {}
    for entry in chosen:
        choices = [entry.metadata.get("choices") or (), [0, 1, 2, 3, 7], [0.1, 0.5, 1.0], [True, None, []]]
        likely = st.sampled_from([choice for some in choices for choice in some])
        values[entry.name] = draw(likely | json_values)
    return cls, NEEDED.get(cls, {}) | values


@given(fields_and_values())
def test_options_are_made_whole_or_refused(given):
    cls, values = given
    try:
        options = make(cls, values)
    except ConfigError:
        return
    for entry in fields(options):
        value, rule = getattr(options, entry.name), entry.metadata
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, int | float) and not isinstance(item, bool):
                assert math.isfinite(item)
                assert rule.get("minimum") is None or item >= rule["minimum"]
                assert rule.get("maximum") is None or item <= rule["maximum"]
                assert rule.get("above") is None or item > rule["above"]
                assert rule.get("below") is None or item < rule["below"]
            elif isinstance(item, str) and rule.get("choices"):
                assert item in rule["choices"]
    # What was made makes itself again, also from what JSON gives back.
    assert make(cls, asdict(options)) == options


# Recipes.


some_of_each = {
    "batch_size": st.integers(1, 512),
    "optimizer": st.sampled_from(["adamw", "sgd", "nesterov", "adagrad"]),
    "lr": st.floats(1e-6, 1.0),
    "weight_decay": st.floats(0, 1),
    "schedule": st.sampled_from(["constant", "cosine", "step", "plateau"]),
    "warmup": st.floats(0, 1),
    "factor": st.floats(0, 1),
    "label_smoothing": st.floats(0, 1),
    "batchnorm": st.sampled_from(["train", "frozen"]),
}
of_recipes = some_of_each | {"epochs": st.integers(1, 99), "patience": st.integers(1, 9)}


@given(st.fixed_dictionaries({}, optional=of_recipes), st.fixed_dictionaries({}, optional=some_of_each))
def test_a_recipe_is_what_differs_over_the_base(base, own):
    for name in RECIPES:
        recipe = make(Trainer, {**base, name: own}).recipe(name)
        assert type(recipe) is Recipe
        assert recipe == Recipe(**(base | own))
    # The others take nothing from it.
    trainer = make(Trainer, {**base, "head": own})
    assert trainer.recipe("trial") == Recipe(**base)


def test_changes_that_are_not_given_are_none():
    assert set(asdict(RecipeChanges()).values()) == set(asdict(StepChanges()).values()) == {None}
    names = [entry.name for entry in fields(Recipe)]
    assert [entry.name for entry in fields(RecipeChanges)] == names
    # The options of pruning say how long it trains.
    assert set(names) - {entry.name for entry in fields(StepChanges)} == {"epochs", "epoch_share", "patience"}


def test_a_rule_of_the_base_holds_for_each_recipe():
    trainer = Trainer(schedule="plateau", min_lr=1e-4)
    assert trainer.recipe("head").min_lr == 1e-4
    text = refused(Trainer, {"schedule": "plateau", "min_lr": 1e-4, "head": {"lr": 1e-5}})
    assert text == "`head.min_lr` is 0.0001, above `head.lr`, 1e-05: lower it"


def test_what_reads_cached_features_takes_no_cutmix():
    text = refused(Trainer, {"trial": {"cutmix": 1}})
    assert "`trial.cutmix` has no effect, because `trial` reads cached features" in text


# Pruning.


@given(
    st.integers(1, 400),
    st.none() | st.integers(0, 120),
    st.none() | st.integers(0, 120),
)
def test_the_phases_of_an_iteration_share_its_epochs(epochs, history, optimise):
    values = {"epochs": epochs, "history_epochs": history, "optimise_epochs": optimise}
    seventh = max(1, round(epochs / 7))
    first, second = (seventh if given is None else given for given in (history, optimise))
    if first + second >= epochs:
        assert f"`epochs={epochs}` leaves none for retraining" in refused(HistoryPrune, values)
        return
    assert HistoryPrune(**values).phases == (first, second, epochs - first - second)


def test_one_shot_is_one_large_cut():
    many, one = Prune(), Prune(one_shot=True, flops_target=0.5)
    assert (many.ratio, many.group_ratio) == (many.pruning_ratio, many.max_pruning_ratio) == (0.05, 0.25)
    assert (one.ratio, one.group_ratio) == (0.95, 0.75)
    assert Prune(pruning_ratio=0.1, max_pruning_ratio=0.2).ratio == 0.1


@pytest.mark.parametrize("name", [entry.name for entry in fields(Targets)])
def test_each_target_is_one(name):
    options = Prune(**{name: 0.5})
    assert options.has_targets
    assert options.has_latency_target is name.startswith("latency")
    assert not Prune().has_targets


def test_the_targets_of_a_search_may_not_be_extended():
    """A bound decides which trials there are; pruning to another target resumes."""
    targets = {entry.name for entry in fields(Targets)}
    assert TuneBase.fixed == targets
    assert all(entry.metadata["extendable"] for entry in fields(Targets))


@pytest.mark.parametrize(
    ("values", "narrower"),
    [
        ({}, True),
        ({"head": "search"}, True),
        ({"head": "grow"}, False),
        ({"algorithm": "layerwise"}, False),
    ],
)
def test_what_a_search_looks_for(values, narrower):
    assert Tune(**values).looks_for_narrower is narrower
    assert Tune(**values).is_layerwise is (values.get("algorithm") == "layerwise")


# Words, and what they name elsewhere.


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (0.5, "0.5"),
        (1.0, "1"),
        (7, "7"),
        ("a b", "a b"),
        ((1, 0.25), "[1,0.25]"),
        (["a", None], "[a,null]"),
    ],
)
def test_values_are_shown_as_they_are_written(value, text):
    assert shown(value) == text


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (int | None, "a whole number or null"),
        (int | float, "a number"),
        (tuple[str, ...] | None, "a list such as [a,b] or null"),
        (tuple[float, ...], "a list such as [0.5,1]"),
        (tuple[int, ...], "a list such as [1,2]"),
        (bool, "true or false"),
        (str, "text"),
    ],
)
def test_types_are_named_in_words(kind, text):
    assert type_name(kind) == text


def test_each_name_has_its_class():
    for name, cls in (DATASETS | BACKBONES).items():
        needs = NEEDED.get(cls, {})
        assert cls(**(needs | {"name": name})).name == name
    assert not [cls for cls in CLASSES if not is_dataclass(cls)]


def test_activations_are_those_that_networks_know():
    from tascnet.models.activations import ACTIVATIONS as of_networks

    assert tuple(of_networks) == ACTIVATIONS


def test_published_data_sets_are_those_of_the_catalogue():
    from tascnet.data.catalogue import CATALOGUE

    assert tuple(CATALOGUE) == PUBLISHED_IMAGES + PUBLISHED_TEXTS
    assert tuple(name for name in CATALOGUE if CATALOGUE[name].official_test) == OFFICIAL_TESTS


def test_the_criteria_of_torch_pruning_are_those_of_surgery():
    from tascnet.surgery import CRITERIA as of_surgery

    assert {*of_surgery, "history", "reconstruction"} == set(CRITERIA)
