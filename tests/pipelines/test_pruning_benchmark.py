import copy

import pytest
import torch

from tascnet.measure import complexity
from tascnet.run.files import read_json, read_jsonl
from tascnet_pipelines.benchmarks import pruning, stock
from tests.models.toys import EXAMPLE, TOYS
from tests.pipelines.commands import TINY, command

BASE = ("stage=benchmark", "benchmark=pruning", *TINY, "prune.min_filters=8")


def test_every_method_reaches_every_budget_and_rows_are_not_computed_twice(cache, tmp_path, capsys):
    options = [*BASE, "benchmark.seeds=2", "benchmark.budgets=[0.75,0.4]", "benchmark.epochs=5"]
    options += [f"outputs={tmp_path}", f"cache_dir={cache}"]
    assert command(*options, "benchmark.methods=[reconstruction,tascnet,magnitude]", "benchmark.seeds=1") == 0
    folder = tmp_path / "benchmark" / "pruning"
    rows = read_jsonl(folder / "rows.jsonl")
    assert command(*options, "benchmark.methods=[reconstruction,tascnet,magnitude]") == 0
    again = read_jsonl(folder / "rows.jsonl")
    assert again[: len(rows)] == rows
    said = capsys.readouterr().out
    assert "The cut alone" in said
    assert "over all" in said
    told = [row for row in again if row["kind"] in ("cut", "full")]
    assert len(told) == 2 * 2 * 3 * 2
    for row in told:
        # Widths of 8 to 64 filters: one of each group is up to 4 % of the FLOPs.
        assert 0.9 * row["budget"] < row["flops_ratio"] <= row["budget"]
        assert row["flops_ratio"] == pytest.approx(row["flops"] / told[0]["flops"] * told[0]["flops_ratio"])
    choices = [row for row in again if row["kind"] == "choice"]
    assert {row["variant"] for row in choices} == {variant.name for variant in stock.VARIANTS}
    best = max(choices, key=lambda row: row["val_accuracy"])["variant"]
    assert {row["variant"] for row in told if row["method"] == "magnitude"} == {best}
    assert set(read_json(folder / "metrics.json")["verdict"]["full"]) == {"reconstruction", "tascnet"}


def test_differences_are_paired_and_against_the_better_rival():
    accuracies = {
        ("reconstruction", 0): 0.80,
        ("reconstruction", 1): 0.90,
        ("magnitude", 0): 0.70,
        ("magnitude", 1): 0.70,
        ("taylor", 0): 0.76,
        ("taylor", 1): 0.84,
    }
    rows = [
        {"method": method, "seed": seed, "budget": 0.5, "test_accuracy": value}
        for (method, seed), value in accuracies.items()
    ]
    (one, every) = pruning.verdict(rows)["reconstruction"]
    assert (one["rival"], one["budget"], every["budget"]) == ("taylor", 0.5, None)
    # Differences of 4 and 6 points: mean 5, deviation 1.41, error 1.
    assert one["difference"] == pytest.approx(0.05)
    assert one["error"] == pytest.approx(0.01)
    assert every["difference"] == one["difference"]


@pytest.mark.parametrize("criterion", stock.CRITERIA)
@pytest.mark.parametrize("is_global", [False, True])
@pytest.mark.parametrize("kind", ["plain", "residual", "depthwise"])
def test_the_stock_pruner_cuts_to_the_flops_and_leaves_the_network(kind, is_global, criterion):
    chain = TOYS[kind]()
    state = copy.deepcopy(chain.state_dict())
    batches = [(torch.randn(4, 3, 8, 8), torch.arange(4))]
    goal = 0.6 * complexity(chain, EXAMPLE).flops
    pruned = stock.stock_cut(chain, EXAMPLE, criterion, is_global, goal, batches)
    assert complexity(pruned, EXAMPLE).flops <= goal
    assert pruned(EXAMPLE).shape == chain(EXAMPLE).shape
    assert all(torch.equal(state[key], value) for key, value in chain.state_dict().items())
    assert all(parameter.grad is None for parameter in chain.parameters())


def test_a_budget_out_of_reach_is_refused_before_anything_is_pruned(cache, tmp_path, capsys):
    folder = tmp_path / "benchmark" / "pruning"
    (folder / "runs" / "old").mkdir(parents=True)
    options = ["benchmark.budgets=[0.01]", "benchmark.methods=[reconstruction,magnitude]", "fresh=true"]
    assert command(*BASE, *options, f"outputs={tmp_path}", f"cache_dir={cache}") == 2
    assert "leaves more than 0.01 of the FLOPs with prune.min_filters=8" in capsys.readouterr().err
    assert [row["kind"] for row in read_jsonl(folder / "rows.jsonl")] == ["source"]
    # What was trained before goes with the rows.
    assert not (folder / "runs" / "old").exists()


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("benchmark.methods=[magnitud]", "there is no method 'magnitud'"),
        ("benchmark.budgets=[1.5]", "benchmark.budgets are shares"),
    ],
)
def test_mistakes_are_named(option, says, tmp_path, capsys):
    assert command(*BASE, option, f"outputs={tmp_path}") == 2
    assert says in capsys.readouterr().err
