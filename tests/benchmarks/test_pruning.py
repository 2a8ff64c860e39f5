import copy

import pytest
import torch

from benchmarks import pruning, stock
from tascnet.measure import complexity
from tascnet.run.files import read_jsonl
from tests.models.toys import EXAMPLE, TOYS
from tests.reading import read_json

OPTIONS = (
    *("--train", 20, "--val", 20),
    *("--set", "trainer.head.epochs=3", "trainer.finetune.epochs=2", "prune.min_filters=8"),
    *("measure.batch=2", "measure.repeats=3"),
)


def test_every_method_reaches_every_budget_and_rows_are_not_computed_twice(bench, cache, tmp_path, shown):
    options = ["--epochs", 3, "--cache", cache, *OPTIONS]
    both = ["--methods", "reconstruction", "tascnet", "magnitude", "--budgets", 0.75, "--seeds", 1]
    assert bench("pruning", *both, *options) == 0
    folder = tmp_path / "pruning"
    rows = read_jsonl(folder / "rows.jsonl")
    verdict = read_json(folder / "metrics.json")["verdict"]["full"]
    more = ["--methods", "reconstruction", "magnitude", "--budgets", 0.75, "--seeds", 2]
    assert bench("pruning", *more, *options) == 0
    again = read_jsonl(folder / "rows.jsonl")
    assert again[: len(rows)] == rows
    said = shown.export_text()
    assert "The cut alone" in said
    assert "over all" in said
    judged = [row for row in again if row["kind"] in ("cut", "full")]
    assert len(judged) == 2 * (3 + 2)
    for row in judged:
        # Widths of 8 to 64 filters: one of each group is up to 4 % of the FLOPs.
        assert 0.9 * row["budget"] < row["flops_ratio"] <= row["budget"]
        assert row["flops_ratio"] == pytest.approx(
            row["flops"] / judged[0]["flops"] * judged[0]["flops_ratio"]
        )
    choices = [row for row in again if row["kind"] == "choice"]
    assert {row["variant"] for row in choices} == {variant.name for variant in stock.VARIANTS}
    best = max(choices, key=lambda row: row["val_accuracy"])
    own = [row for row in judged if row["method"] == "magnitude"]
    assert {row["variant"] for row in own} == {best["variant"]}
    # What was chosen is the whole schedule with the first seed at the middle budget.
    (same,) = [
        r for r in own if (r["kind"], r["budget"], r["seed"]) == ("full", best["budget"], best["seed"])
    ]
    assert same["val_accuracy"] == best["val_accuracy"]
    assert set(verdict) == {"reconstruction", "tascnet"}
    # Weights of a cut alone are those that folding and refitting gave.
    for path in (folder / "runs").glob("*/seed0/*-cut-*/iterations.jsonl"):
        steps = read_jsonl(path)[1:]
        assert all(step["val_accuracy"] == step["val_accuracy_after_cut"] for step in steps)
        assert steps


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


def test_a_budget_out_of_reach_is_refused_before_anything_is_pruned(bench, cache, tmp_path, capsys):
    folder = tmp_path / "pruning"
    (folder / "runs" / "old").mkdir(parents=True)
    options = ["--budgets", 0.01, "--methods", "reconstruction", "magnitude", "--fresh", "--cache", cache]
    assert bench("pruning", *options, *OPTIONS) == 2
    assert "leaves more than 0.01 of the FLOPs with prune.min_filters=8" in capsys.readouterr().err
    assert [row["kind"] for row in read_jsonl(folder / "rows.jsonl")] == ["unpruned"]
    # What was trained before is removed with the rows.
    assert not (folder / "runs" / "old").exists()


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (["--methods", "magnitud"], "there is no method 'magnitud'"),
        (["--budgets", 1.5], "--budgets [1.5] are no shares"),
    ],
)
def test_mistakes_are_named(bench, option, says, capsys):
    assert bench("pruning", *option) == 2
    assert says in capsys.readouterr().err
