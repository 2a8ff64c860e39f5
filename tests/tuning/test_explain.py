"""What a search learnt, by closed forms, and on objectives that can be learnt or cannot."""

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Literal

import pytest
import torch
from torch import Tensor

from tascnet.run.records import Insight, Trial
from tascnet.tuning.encoding import columns, encode
from tascnet.tuning.explain import explain, leave_one_out, rank_correlation
from tascnet.tuning.goal import Goal
from tascnet.tuning.space import Configuration
from tascnet.tuning.surrogate import SingleTaskGP, Standardiser, fit, quiet, seeded
from tests.tuning.spaces import small_space

SPACE = small_space()
NOISE = torch.randn(64, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()


def trials(
    objective: Callable[[Configuration, float], float], n: int = 24, *, loss: bool = False
) -> list[Trial]:
    """Trials of quasi-random configurations; `objective` gives the accuracy, or the loss."""
    configs = SPACE.sample(n, 2, seed=1)
    results = [objective(config, z) for config, z in zip(configs, NOISE, strict=False)]
    return [
        trial(i, config, -result if loss else result)
        for i, (config, result) in enumerate(zip(configs, results, strict=True))
    ]


def trial(number: int, config: Configuration, value: float, status: Literal["ok", "stopped"] = "ok") -> Trial:
    return Trial(trial=number, depth=2, config=config, status=status, value=value, val_accuracy=abs(value))


def by_width(config: Configuration, z: float) -> float:
    """Depends on one choice, and a little noise."""
    return 0.7 + 0.05 * math.log2(float(config["b.width"]) / 8) + 0.002 * z


def noise(config: Configuration, z: float) -> float:
    return 0.8 + 0.02 * z


def explained(rows: list[Trial], goal: Goal | None = None) -> Insight:
    insight = explain(SPACE, rows, goal or Goal())
    assert insight is not None
    return insight


@pytest.fixture(scope="module")
def learnt() -> Insight:
    return explained(trials(by_width))


def spd(n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    root = torch.randn(n, n, generator=generator, dtype=torch.float64)
    return root @ root.T + torch.eye(n), torch.randn(n, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("n", [2, 7, 30])
def test_leave_one_out_is_what_leaving_each_one_out_gives(n: int) -> None:
    K, r = spd(n)
    means, variances = leave_one_out(K, r)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        weights = torch.linalg.solve(K[others][:, others], K[others, i])
        assert float(means[i]) == pytest.approx(float(weights @ r[others]))
        assert float(variances[i]) == pytest.approx(float(K[i, i] - weights @ K[others, i]))


def test_predictions_are_those_of_the_process_without_the_trial(learnt: Insight) -> None:
    rows = trials(by_width)
    X = encode(SPACE, [row.config for row in rows], 2)
    scale = Standardiser.of([row.value or 0.0 for row in rows])
    Y = scale([row.value or 0.0 for row in rows])
    with seeded(0), quiet():
        model = fit(X, Y, columns(SPACE, 2))
        for i, row in enumerate(learnt.predictions):
            others = [j for j in range(len(X)) if j != i]
            shared = {"likelihood": model.likelihood, "mean_module": model.mean_module}
            process = SingleTaskGP(
                X[others], Y[others], covar_module=model.covar_module, outcome_transform=None, **shared
            )
            posterior = process.eval().posterior(X[i : i + 1], observation_noise=True)
            mean, deviation = posterior.mean.item(), posterior.variance.sqrt().item()
            assert row.predicted == pytest.approx(scale.mean + scale.deviation * mean, abs=1e-6)
            assert row.deviation == pytest.approx(scale.deviation * deviation, rel=1e-4)


def test_rank_correlation() -> None:
    def of(a: list[float], b: list[float]) -> float | None:
        return rank_correlation(torch.tensor(a), torch.tensor(b))

    assert of([1, 2, 3], [10, 20, 90]) == pytest.approx(1.0)
    assert of([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    # Ranks 1, 2, 3, 4 and 2, 1, 4, 3: 1 - 6 * 4 / (4 * 15).
    assert of([1, 2, 3, 4], [2, 1, 4, 3]) == pytest.approx(0.6)
    # Ties: ranks 1.5, 1.5, 3 and 1, 2, 3; 1.5 / sqrt(1.5 * 2).
    assert of([5, 5, 6], [1, 2, 3]) == pytest.approx(math.sqrt(3) / 2)
    assert of([1, 1], [1, 2]) is None


def test_the_choice_that_decides_is_the_most_important(learnt: Insight) -> None:
    assert learnt.learnt
    assert learnt.importance[0].choice == "b.width"
    assert learnt.importance[0].rise > 5 * max(abs(other.rise) for other in learnt.importance[1:])
    assert learnt.importance[0].lengthscale == min(other.lengthscale for other in learnt.importance)
    assert {row.choice for row in learnt.importance} == {"first_trained", *(c.name for c in SPACE.choices)}


def test_the_figures_follow_from_the_predictions(learnt: Insight) -> None:
    observed = torch.tensor([row.observed for row in learnt.predictions], dtype=torch.float64)
    predicted = torch.tensor([row.predicted for row in learnt.predictions], dtype=torch.float64)
    assert observed.tolist() == [row.value for row in trials(by_width)]
    squares = float((observed - predicted).square().mean())
    assert learnt.rmse == pytest.approx(math.sqrt(squares))
    assert learnt.deviation == pytest.approx(math.sqrt(float((observed - observed.mean()).square().mean())))
    assert learnt.r2 == pytest.approx(1 - squares / learnt.deviation**2)
    assert 0.9 < learnt.refitted_r2 <= 1
    assert all(row.deviation > 0 for row in learnt.predictions)
    assert f"{100 * learnt.refitted_r2:.0f} % of the variance" in learnt.sentence


@pytest.mark.parametrize("n", [8, 24])
def test_noise_teaches_nothing_and_the_user_is_told(n: int) -> None:
    insight = explained(trials(noise, n))
    assert not insight.learnt
    assert "random search" in insight.sentence


def test_the_loss_is_reported_as_the_loss(learnt: Insight) -> None:
    insight = explained(trials(by_width, loss=True), Goal(objective="loss"))
    assert insight.target == "val_loss"
    assert [row.observed for row in insight.predictions] == [row.observed for row in learnt.predictions]
    assert insight.rmse == pytest.approx(learnt.rmse, rel=0.05)


def test_only_trials_that_ran_to_their_end_count(learnt: Insight) -> None:
    rows = trials(by_width)
    config = SPACE.neutral(2)
    more = [
        Trial(trial=90, depth=2, config=config, status="failed", reason="no memory"),
        trial(91, config, 0.1, "stopped"),
    ]
    assert asdict(explained([*rows, *more])) == asdict(learnt)


def test_too_little_to_judge() -> None:
    assert explain(SPACE, trials(by_width, 4), Goal()) is None
    assert explain(SPACE, trials(lambda config, z: 0.5), Goal()) is None
    assert explain(SPACE, [], Goal()) is None


def test_a_choice_that_never_varied_is_left_out() -> None:
    rows = [row for row in trials(by_width, 48) if row.config["b.kernel"] == 3]
    assert "b.kernel" not in {row.choice for row in explained(rows).importance}


def test_the_same_trials_give_the_same_insight_and_leave_the_generator_alone(learnt: Insight) -> None:
    state = torch.random.get_rng_state()
    assert explained(trials(by_width)) == learnt
    assert torch.equal(torch.random.get_rng_state(), state)
