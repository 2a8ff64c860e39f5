"""What the command line adds to the stages: several runs at once, reports, networks of the user's own."""

import re
from collections import OrderedDict

import pytest
from torch import nn

from tascnet.run.files import read_jsonl
from tests.pipelines.commands import TINY, command
from tests.reading import read_json


def test_several_runs_have_a_folder_each_and_one_that_fails_does_not_end_the_others(tmp_path, cache, capsys):
    folder = tmp_path / "digits" / "digits_cnn"
    folder.mkdir(parents=True)
    (folder / "run-seed1").write_text("in the way")
    options = [*TINY, f"outputs={tmp_path}", f"cache_dir={cache}", "name=run", "tune.max_trials=1"]
    assert command("-m", *options, "stage=tune", "seed=0,1,2") == 2
    said = capsys.readouterr().err
    assert said.count("run-seed1/tune cannot be used") == 1
    assert said.splitlines()[-1] == "1 of 3 jobs failed"
    assert "Traceback" not in said
    found = [read_json(folder / f"run-seed{seed}" / "tune" / "metrics.json") for seed in (0, 2)]
    assert [content["seed"] for content in found] == [0, 2]
    assert found[0]["models"]["after"]["val_accuracy"] != found[1]["models"]["after"]["val_accuracy"]


def test_a_picked_trial_has_folders_of_its_own_and_a_finished_search(finished, tuned, cache, capsys):
    options = [*TINY, f"outputs={tuned.parents[2]}", f"cache_dir={cache}", "name=run"]
    winner = read_json(tuned / "tune" / "metrics.json")["winner"]
    other = next(trial for trial in range(4) if trial != winner)
    assert command(*options, "stage=full", f"tune.pick={other}", "prune.max_iterations=1") == 0
    assert read_json(tuned / f"tune-pick{other}" / "metrics.json")["winner"] == other
    assert (tuned / f"prune-pick{other}" / "metrics.json").exists()
    assert not (tuned / "prune").exists()
    assert (tuned / "tune" / "metrics.json").read_bytes() == (finished / "tune" / "metrics.json").read_bytes()
    capsys.readouterr()
    for more, says in (
        (["tune.pick=99"], "tune.pick=99 is no finished trial of this search: choose one of 0, 1, 2, 3"),
        (["tune.pick=0", "tune.max_trials=9"], "run the search without tune.pick first"),
    ):
        assert command(*options, "stage=tune", *more) == 2
        assert says in capsys.readouterr().err


REMOTE = re.compile(
    r"""(?:src|href|xlink:href|action|data)\s*=\s*["']?(?!data:|\#)[^"'\s>]+|url\(\s*["']?(?!data:|\#)"""
)


@pytest.mark.parametrize(
    ("stage", "models", "journal"),
    [
        ("tune", ("baseline", "conventional", "after"), "trials.jsonl"),
        ("prune", ("before", "after"), "iterations.jsonl"),
    ],
)
def test_a_report_stands_alone_and_has_what_was_measured(finished, stage, models, journal):
    text = (finished / stage / "report.html").read_text(encoding="utf-8")
    assert re.findall(r"<script[^>]+src|<link|<iframe|@import", text) == []
    assert REMOTE.findall(text) == []
    # Names of XML vocabularies are no references.
    addresses = re.sub(r"""xmlns(?::\w+)?\s*=\s*["'][^"']*["']""", "", text)
    assert not re.search(
        r"""["'(]https?://""", re.sub(r"<metadata>.*?</metadata>", "", addresses, flags=re.S)
    )
    for name in models:
        assert re.search(rf">\s*{name}\s*<", text), name
    assert text.count("<svg") >= 2
    assert read_jsonl(finished / stage / journal)
    found = read_json(finished / stage / "metrics.json")
    assert f"{100 * found['models']['after']['test_accuracy']:.1f}" in text
    if stage == "tune":
        assert found["surrogate"] is None or found["surrogate"]["sentence"] in text


def not_for_digits(num_classes: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(7, 4, 3),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(4, num_classes),
        )
    )


def test_a_network_that_does_not_take_the_images_is_refused_before_training(tmp_path, cache, capsys):
    own = [f"backbone={__name__}.not_for_digits", "backbone.weights=random"]
    options = [*TINY, f"outputs={tmp_path}", f"cache_dir={cache}", "stage=tune", "backbone.size=8"]
    assert command(*options, *own) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "does not take images of 3 x 8 x 8" in said
