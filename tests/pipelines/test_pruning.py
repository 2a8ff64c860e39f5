"""What the options of stage prune change."""

import re
from collections import OrderedDict

import numpy as np
import pytest
import torch
import torch_pruning as tp
from torch import nn

import tascnet
from tascnet.cli.compose import Tree
from tascnet.data import evenly
from tascnet.measure import complexity
from tascnet.models.archive import save
from tascnet.models.blocks import Residual
from tascnet.options import PRUNE_CRITERIA
from tascnet.run.files import read_json, read_jsonl
from tascnet_pipelines.pruning.journal import replayed
from tests.pipelines.commands import TINY, are_equal, command, states, without_times

EXAMPLE = torch.zeros(1, 1, 8, 8)
ONE = "prune.max_iterations=1"


class LastFirst(tp.importance.Importance):
    """The higher a channel's number, the less it matters."""

    def __call__(self, group):
        width = len(group[0].idxs)
        return torch.arange(width, 0, -1)


class Broken(tp.importance.Importance):
    def __call__(self, group):
        raise RuntimeError("no idea")


class Leaves(tp.importance.Importance):
    def __call__(self, group):
        raise SystemExit(0)


class Undecided(tp.importance.Importance):
    def __call__(self, group):
        return torch.full((len(group[0].idxs),), torch.nan)


@pytest.fixture
def prune(tuned, cache):
    """Runs stage prune under a name of its own, and gives its folder."""

    def run(name, *own, code=0):
        options = [*TINY, f"outputs={tuned.parents[2]}", f"cache_dir={cache}", "name=run", "stage=prune"]
        assert command(*options, *own, f"prune.name={name}") == code
        return tuned / f"prune-{name}"

    return run


def journal(folder):
    return read_jsonl(folder / "iterations.jsonl")


def widths(folder):
    return {row["layer"]: row["after"] for row in read_json(folder / "metrics.json")["widths"]}


def test_every_criterion_prunes_and_no_two_alike(prune):
    networks = {}
    for criterion in PRUNE_CRITERIA:
        preset = "tascnet" if criterion == "history" else criterion
        folder = prune(f"by-{criterion}", f"prune={preset}", ONE, "prune.scope=group", "prune.percent=25")
        networks[criterion] = states(folder / "model")
    # Within a group the shares of what stays (lamp) put filters in the order of their magnitudes.
    networks.pop("lamp")
    known = list(networks)
    for position, one in enumerate(known):
        for other in known[position + 1 :]:
            assert not are_equal(networks[one], networks[other]), (one, other)


def test_over_all_groups_lamp_takes_others_than_magnitude(prune):
    common = (ONE, "prune.scope=global", "prune.percent=30", "prune.max_step=0.9", "prune.round_to=1")
    taken = {
        name: journal(prune(name, f"prune={name}", *common))[1]["removed"] for name in ("lamp", "magnitude")
    }
    assert taken["lamp"] != taken["magnitude"]


def test_a_criterion_of_ones_own_decides_what_goes(prune):
    own = (f"prune.criterion={__name__}.LastFirst", "prune.merge=none", "trainer.recover.lr=0", ONE)
    folder = prune("own", *own, "prune.percent=25")
    before, after = (states(folder.parent / name / "model") for name in ("tune", "prune-own"))
    kept = len(after["conv1.weight"])
    assert kept < len(before["conv1.weight"])
    torch.testing.assert_close(after["conv1.weight"], before["conv1.weight"][:kept])


@pytest.mark.parametrize(
    ("criterion", "says"),
    [
        (f"{__name__}.Broken", "failed with RuntimeError: no idea"),
        (f"{__name__}.Leaves", "failed with SystemExit"),
        (f"{__name__}.Undecided", "no finite numbers"),
        (f"{__name__}.Missing", "cannot be had"),
        ("no_such_module.Thing", "cannot be had"),
        (f"{__name__}.EXAMPLE", "cannot be called"),
    ],
)
def test_a_criterion_that_cannot_be_used_is_named(prune, capsys, criterion, says):
    folder = prune("bad", f"prune.criterion={criterion}", ONE, code=2)
    said = capsys.readouterr().err
    assert says in said
    assert "Traceback" not in said
    assert not (folder / "metrics.json").exists()


def test_epochs_of_phases_that_a_criterion_has_not_go_to_retraining(prune):
    epochs = {}
    for name in ("tascnet", "magnitude"):
        folder = prune(f"epochs-{name}", f"prune={name}", ONE, "prune.percent=25")
        epochs[name] = len(
            read_json(folder / "state" / journal(folder)[1]["state"] / "record.json")["epochs"]
        )
    assert epochs == {"tascnet": 2, "magnitude": 4}


def test_the_cheapest_of_all_groups_go_down_to_the_least_width(prune):
    common = ("prune=magnitude", "prune.percent=40", "prune.max_step=0.9", "prune.round_to=1", ONE)
    left = {}
    for name, *own in (
        ("group",),
        ("global", "prune.scope=global", "prune.per=filters"),
        ("flops", "prune.scope=global"),
        ("floor", "prune.scope=global", "prune.per=filters", "prune.min_width=20"),
    ):
        folder = prune(name, *common, *own)
        removed = journal(folder)[1]["removed"]
        left[name] = {group: width for group, width in widths(folder).items() if group in removed}
    assert left["group"] != left["global"] != left["flops"]
    assert min(left["floor"].values()) >= 20 > min(left["global"].values())


@pytest.mark.parametrize("goal", ["flops", "params"])
@pytest.mark.parametrize("scope", ["group", "global"])
def test_the_last_step_lands_on_the_goal(prune, goal, scope):
    own = ("prune.percent=30", "prune.max_step=0.5", "prune.round_to=1", f"prune.{goal}_target=0.8")
    rows = journal(prune(f"{goal}-{scope}", "prune=magnitude", f"prune.scope={scope}", *own))
    assert len(rows) == 2
    # The groups' shares fall together: by five filters of 16 to 64 at a time.
    assert (0.76 if scope == "group" else 0.78) < rows[1][goal] / rows[0][goal] <= 0.8


def test_a_size_or_a_latency_ends_the_loop(prune):
    folder = prune("size", "prune=magnitude", "prune.size_target=0.9", "prune.percent=25")
    found = read_json(folder / "metrics.json")
    assert "saved bytes reached" in found["stopped"]
    assert found["models"]["after"]["size_bytes"] <= 0.9 * found["models"]["before"]["size_bytes"]
    folder = prune("latency", "prune=magnitude", "prune.target_latency_ms=1000")
    assert "latency reached" in read_json(folder / "metrics.json")["stopped"]
    assert [row["latency_ms"] > 0 for row in journal(folder)] == [True]


def test_a_step_that_breaks_the_tolerance_is_taken_back_and_halved(prune):
    own = ("prune.percent=50", "prune.max_step=0.5", "prune.round_to=1", "prune.merge=none")
    own = (*own, "prune.flops_target=null")
    folder = prune(
        "back", "prune=random", *own, "trainer.recover.lr=0", "prune.tolerance=0", "prune.max_iterations=9"
    )
    rows = journal(folder)
    assert [row["from"] for row in rows] == [0, 0, 0, 0]
    assert [row["step"] for row in rows] == [1.0, 1.0, 0.5, 0.25]
    counts = [sum(row["removed"].values()) for row in rows[1:]]
    assert counts[0] > counts[1] > counts[2]
    found = read_json(folder / "metrics.json")
    assert found["kept_iteration"] == 0
    assert "in each of 3 steps" in found["stopped"]
    assert are_equal(states(folder / "model"), states(folder.parent / "tune" / "model"))
    # A tolerance that takes the first step goes on from it; nothing of the others is left in the journal.
    prune("back", "prune=random", *own, "trainer.recover.lr=0", "prune.tolerance=1", "prune.max_iterations=2")
    again = journal(folder)
    assert [row["from"] for row in again] == [0, 0, 1]
    assert again[1]["val_accuracy"] == rows[1]["val_accuracy"]


@pytest.mark.parametrize(
    "own", [("prune.flops_target=0.6",), ("prune.flops_target=null", "prune.max_step=0.25")]
)
def test_a_step_cut_short_by_a_goal_or_a_bound_is_still_tried_smaller(prune, own):
    """Half of 95 % asks for no less than the goal or the bound allows: it is halved until it does."""
    common = (
        "prune=random",
        "prune.merge=none",
        "trainer.recover.lr=0",
        "prune.tolerance=0",
        "prune.percent=95",
    )
    common = (*common, "prune.max_step=0.75", "prune.round_to=1", "prune.max_iterations=9")
    rows = journal(prune("halved", *common, *own))
    counts = [sum(row["removed"].values()) for row in rows[1:]]
    assert [row["from"] for row in rows[1:]] == [0, 0, 0]
    assert counts[0] > counts[1] > counts[2]


def test_another_goal_leads_where_a_new_run_would(prune):
    common = (
        "prune=random",
        "prune.scope=global",
        "prune.round_to=1",
        "prune.percent=12",
        "prune.max_iterations=2",
    )
    # The first goal cuts the second step short, and would let the second run take it over.
    prune("changed", *common, "prune.flops_target=0.7")
    changed = prune("changed", *common, "prune.flops_target=0.3")
    fresh = prune("fresh", *common, "prune.flops_target=0.3")
    assert without_times(journal(changed)) == without_times(journal(fresh))
    assert are_equal(states(changed / "model"), states(fresh / "model"))
    back = prune("changed", *common, "prune.flops_target=0.7")
    assert journal(back)[-1]["flops"] / journal(back)[0]["flops"] == pytest.approx(0.7, abs=0.02)


def test_a_step_that_rounding_makes_no_smaller_ends_the_loop(prune):
    """Of 1 % of 16 to 64 filters, and of half that, each group loses its next multiple of four."""
    own = ("prune=magnitude", "prune.merge=none", "trainer.recover.lr=0", "prune.tolerance=0")
    folder = prune("stuck", *own, "prune.percent=1", "prune.max_iterations=9", "prune.flops_target=null")
    found = read_json(folder / "metrics.json")
    assert "the smallest step" in found["stopped"]
    assert (found["iterations"], found["kept_iteration"]) == (1, 0)


def test_a_goal_out_of_reach_ends_with_the_last_good_network(prune):
    own = ("prune=magnitude", "prune.percent=50", "prune.max_step=0.5", "prune.flops_target=0.01")
    folder = prune("far", *own, "prune.max_iterations=20")
    found = read_json(folder / "metrics.json")
    assert "no group of layers has enough filters" in found["stopped"]
    assert found["kept_iteration"] == found["iterations"] == len(journal(folder)) - 1 > 0
    assert found["models"]["after"]["flops"] == journal(folder)[-1]["flops"]


def test_recording_goes_on_or_begins_anew(prune):
    common = ("prune=tascnet", "prune.percent=12", "prune.round_to=1")
    for how in ("restart", "continue"):
        folder = prune(how, *common, f"prune.history={how}")
        steps = {path.name for path in (folder / "state").iterdir()}
        first = journal(folder)[1]["state"]
        assert {"iteration-000-history", first} <= steps
        assert (f"{first}-history" in steps) is (how == "restart")
        assert (folder / "state" / first / "history.safetensors").exists() is (how == "continue")
    first, second = (
        states(prune(how, *common, f"prune.history={how}") / "model") for how in ("restart", "continue")
    )
    assert not are_equal(first, second)


def test_the_tail_alone_is_pruned(prune, tmp_path, capsys):
    rows = {
        where: journal(prune(where, f"prune.where={where}", ONE, "prune.percent=25"))
        for where in ("all", "tail")
    }
    taken = {where: set(row[1]["removed"]) for where, row in rows.items()}
    assert taken["tail"] < taken["all"]
    capsys.readouterr()
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    source = prune("all", ONE, "prune.where=all", "prune.percent=25").parent / "tune" / "model"
    source.rename(stranger / "model")
    prune("lost", "prune.where=tail", f"prune.source={stranger / 'model'}", code=2)
    assert "prune.where=tail needs to know" in capsys.readouterr().err


def test_widths_become_multiples_of_what_the_device_likes(prune):
    folder = prune("auto", "prune=magnitude", "prune.round_to=auto", "prune.percent=30", ONE)
    chosen = read_json(folder / "state" / "round_to.json")
    gains = {int(key): gain for key, gain in chosen["saved_ms_per_gflop"].items()}
    best = max(gains.values())
    assert chosen["round_to"] == (1 if best <= 0 else min(m for m in gains if gains[m] >= 0.95 * best))
    removed = journal(folder)[1]["removed"]
    assert removed
    assert all(widths(folder)[name] % chosen["round_to"] == 0 for name in removed)


def test_what_stays_takes_over_by_activations_or_weights(prune):
    common = ("prune=tascnet", ONE, "trainer.recover.lr=0")
    one, other = (
        states(prune(how, *common, f"prune.fold_by={how}") / "model") for how in ("activations", "weights")
    )
    assert not are_equal(one, other)
    assert not are_equal(other, states(prune("nothing", *common, "prune.merge=none") / "model"))


def test_sensitivities_are_measured_before_or_after_the_stage(prune):
    folder = prune("look", "prune=magnitude", ONE)
    assert "sensitivity" not in read_json(folder / "metrics.json")
    before = read_json(folder / "metrics.json")
    prune("look", "prune=magnitude", ONE, "prune.sensitivity=true", "prune.sensitivity_samples=40")
    found = read_json(folder / "metrics.json")
    assert before == {key: value for key, value in found.items() if key != "sensitivity"}
    assert found["sensitivity"]["samples"] == 40
    for group in found["sensitivity"]["groups"]:
        saved = [share["flops_saved"] for share in group["shares"]]
        assert [share["share"] for share in group["shares"]] == [0.1, 0.25, 0.5]
        assert 0 < saved[0] < saved[1] < saved[2] < 1
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Accuracy without a share of each group alone" in page
    assert found["sensitivity"]["groups"][0]["group"] in page


def with_idle_block(chain, after):
    """The chain with a residual block that adds nothing, behind the block `after`."""
    width = chain.get_submodule(after).out_channels
    layers = OrderedDict(conv=nn.Conv2d(width, width, 3, padding=1, bias=False), bn=nn.BatchNorm2d(width))
    idle = Residual(nn.Sequential(layers), nn.Identity(), nn.ReLU())
    nn.init.zeros_(idle.body.bn.weight)
    blocks = OrderedDict()
    for name, block in chain.named_children():
        blocks[name] = block
        if name == after.replace("conv", "relu"):
            blocks["idle"] = idle
    return nn.Sequential(blocks).eval()


def test_a_block_that_adds_nothing_goes_before_any_filter(prune, tuned):
    known = tascnet.load(tuned / "tune" / "model")
    source = tuned / "idle" / "model"
    network = with_idle_block(known, "conv2")
    save(source, network, known.info)
    own = ("prune=magnitude", f"prune.source={source}", "prune.percent=50", "prune.max_step=0.5", ONE)
    own = (*own, "prune.flops_target=null", "prune.merge=none", "prune.min_filters=8")
    folder = prune("blocks", *own, "prune.blocks=true", "trainer.recover.lr=0")
    row = journal(folder)[1]
    assert (row["block"], row["removed"]) == ("idle", {})
    pruned = tascnet.load(folder / "model")
    assert [name for name, _ in pruned.named_children()] == [name for name, _ in known.named_children()]
    assert complexity(pruned, EXAMPLE).flops == row["flops"] < journal(folder)[0]["flops"]
    assert read_json(folder / "metrics.json")["removable_blocks"] == 0
    folder = prune("filters", *own)
    assert "block" not in journal(folder)[1]
    assert read_json(folder / "metrics.json")["removable_blocks"] == 1
    # A tolerance that nothing keeps: the block is not tried again, the filters are.
    strict = ("prune.blocks=true", "trainer.recover.lr=10", "prune.tolerance=0", "prune.max_iterations=2")
    rows = journal(prune("strict", *[option for option in own if option != ONE], *strict))
    assert [row.get("block") for row in rows[1:]] == ["idle", None]
    assert [(row["from"], row["step"]) for row in rows[1:]] == [(0, 1), (0, 1)]
    assert rows[2]["removed"]
    # Filters land on the goal, where the block would go beyond it.
    goal = ("prune.blocks=true", "prune.flops_target=0.97", "prune.round_to=1")
    row = journal(prune("goal", *own, *goal))[1]
    assert row.get("block") is None
    assert 0.9 < row["flops"] / complexity(network, EXAMPLE).flops <= 0.97


def test_blocks_go_where_no_filter_can_and_where_pairs_are_averaged(prune, tuned):
    known = tascnet.load(tuned / "tune" / "model")
    source = tuned / "idle-too" / "model"
    save(source, with_idle_block(known, "conv2"), known.info)
    own = (f"prune.source={source}", ONE, "prune.blocks=true", "trainer.recover.lr=0")
    none = ("prune=magnitude", "prune.min_filters=500", "prune.flops_target=0.9", "prune.sensitivity=true")
    alone = prune("alone", *own, *none)
    rows = journal(alone)
    assert rows[1]["block"] == "idle"
    assert read_json(alone / "metrics.json")["sensitivity"]["groups"] == []
    # It has reached the goal, and counts when the stage is opened again.
    assert replayed(rows, Tree().compose([*none, *own]).prune)[0] == rows
    pairs = ("prune=tascnet", "prune.merge=average", "prune.percent=20", "prune.flops_target=null")
    average = prune("average", *own, *pairs)
    assert journal(average)[1]["block"] == "idle"
    rest = f"prune.source={alone / 'model'}"
    prune("empty", rest, *own[1:], "prune=magnitude", "prune.min_filters=500", code=2)


def test_a_goal_that_is_missed_is_told(prune):
    stopped = read_json(prune("far", ONE, "prune.flops_target=0.01") / "metrics.json")["stopped"]
    assert re.search(r"1 iterations are done; no goal is reached: FLOPs are \d+\.\d+% .* not 1\.00%", stopped)


def test_sensitivities_are_measured_on_all_classes():
    classes = np.arange(101).repeat(5)
    assert set(classes[evenly(505, 256)]) == set(range(101))
