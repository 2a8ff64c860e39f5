"""Where runs lie: a function of the config."""

import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tascnet.cli.config import build
from tascnet.cli.folders import (
    DEFAULT_PRUNE,
    cache_folder,
    check_places,
    run_folder,
    safe_name,
    stage_folder,
)
from tascnet.options import ImageBackbone
from tascnet.run.files import temporary_suffix

CONFIG = build(
    {
        "name": "mine",
        "seed": 3,
        "outputs": "/out",
        "dataset": {"name": "digits"},
        "backbone": {"name": "digits_cnn"},
    }
)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("resnet34", "resnet34"),
        ("timm/resnet18.a1_in1k", "timm-resnet18.a1_in1k"),
        ("my_nets:Net", "my_nets-Net"),
    ],
)
def test_every_network_names_one_folder(name, folder):
    config = replace(CONFIG, backbone=ImageBackbone(name=name))
    assert str(run_folder(config)) == f"/out/digits/{folder}/mine-seed3"


def with_prune_and_pick(name, pick):
    return replace(
        CONFIG, prune_run=replace(CONFIG.prune_run, name=name), tune=replace(CONFIG.tune, pick=pick)
    )


@pytest.mark.parametrize(
    ("prune", "pick", "stage", "folder"),
    [
        (None, None, "tune", "tune"),
        (None, None, "prune", "prune"),
        (DEFAULT_PRUNE, None, "prune", "prune"),
        (DEFAULT_PRUNE, None, "pretrain", "pretrain"),
        ("gentle", None, "prune", "prune-gentle"),
        ("gentle", None, "tune", "tune"),
        ("gentle", 7, "search", "tune"),
        ("gentle", 7, "tune", "tune-pick7"),
        ("gentle", 7, "prune", "prune-gentle-pick7"),
        (None, 7, "prune", "prune-pick7"),
        (None, 7, "pretrain", "pretrain"),
        ("a/b", None, "prune", "prune-a_b"),
    ],
)
def test_the_folder_of_a_stage_is_a_function_of_the_config(prune, pick, stage, folder):
    config = with_prune_and_pick(prune, pick)
    assert str(stage_folder(config, stage)) == f"/out/digits/digits_cnn/mine-seed3/{folder}"


def test_the_cache_lies_among_the_outputs_or_where_it_is_put():
    assert str(cache_folder(CONFIG)) == "/out/cache"
    assert str(cache_folder(replace(CONFIG, cache_dir="/fast"))) == "/fast"


@given(st.text())
def test_safe_names_are_single_folders(text):
    name = safe_name(text)
    assert 1 <= len(name) <= 120
    assert name not in (".", "..")
    assert not set(name) & set("/\\\0 \n")


@given(st.text(alphabet="abcXYZ0189=,+-_.", min_size=1, max_size=120).filter(lambda text: text[0] != "."))
def test_names_that_are_safe_stay_as_they_are(text):
    assert safe_name(text) == text
    assert run_folder(replace(CONFIG, name=text)).name == f"{text}-seed3"


def test_long_names_that_differ_at_the_end_stay_different():
    assert safe_name("a" * 200 + "b") != safe_name("a" * 200 + "c")


def test_what_a_killed_process_left_of_its_trial_is_removed(tmp_path):
    # No process has this number.
    suffix = temporary_suffix().replace(f"-{os.getpid()}.", f"-{2**22 + 1}.")
    left, mine = tmp_path / f".tascnet-x{suffix}", tmp_path / ".tascnet-notes"
    left.mkdir()
    mine.mkdir()
    check_places(replace(CONFIG, outputs=str(tmp_path / "outputs")))
    assert os.listdir(tmp_path) == [mine.name]
