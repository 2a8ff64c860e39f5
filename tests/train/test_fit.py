"""Training: what is learnt, what stays, and that an interruption changes nothing."""

import copy
import errno
import importlib
import itertools
import math
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tascnet.errors import ConfigError, RunFolderError, TrainingDiverged
from tascnet.options import Recipe
from tascnet.run.events import EpochEvent, Event, watching
from tascnet.run.records import TrainingRecord
from tascnet.train import Distillation, evaluate_source, fit, freeze_before, learning_rate_factor
from tascnet.train.evaluate import Evaluation
from tascnet.train.mode import classifier_dropout

# The package has the function under the name of its module.
MODULE = importlib.import_module("tascnet.train.fit")


class Points:
    """Two classes in the plane, told apart by the sign of the first coordinate."""

    def __init__(self, count: int = 40, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.inputs = torch.randn(count, 2, generator=generator)
        self.labels = (self.inputs[:, 0] > 0).long()
        self.num_classes = 2

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, rows: Tensor, generator: torch.Generator | None) -> Tensor:
        noise = 0.0 if generator is None else 0.01 * torch.randn(len(rows), 2, generator=generator)
        return self.inputs[rows] + noise


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))


RECIPE = Recipe(epochs=4, batch_size=8, lr=0.02)


def test_fit_learns_the_rule() -> None:
    model = network()
    result = fit(model, Points(80), Points(40, seed=1), Recipe(epochs=20, batch_size=8, lr=0.02), seed=0)
    assert result.val_accuracy is not None
    assert result.val_accuracy >= 0.9
    assert evaluate_source(model, Points(40, seed=1)).accuracy == result.val_accuracy
    assert not model.training


def test_first_of_the_best_epochs_is_kept() -> None:
    result = fit(network(), Points(), Points(seed=1), RECIPE, seed=0)
    accuracies = [record.val_accuracy for record in result.epochs]
    assert result.best_epoch == accuracies.index(max(accuracies)) + 1  # type: ignore[type-var]


def test_interrupted_training_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, broken = network(), network()
    expected = fit(whole, Points(), Points(seed=1), RECIPE, seed=3)

    class Killed(Exception):
        pass

    class Killer:
        calls = 0

        def record(self, model: nn.Module) -> None:
            self.calls += 1
            if self.calls == 3:
                raise Killed

        def state_dict(self) -> dict[str, int]:
            return {"calls": self.calls}

        def load_state_dict(self, state: dict[str, int]) -> None:
            self.calls = 100 + state["calls"]

    checkpoint = tmp_path / "fit.pt"
    with pytest.raises(Killed):
        fit(broken, Points(), Points(seed=1), RECIPE, seed=3, checkpoint=checkpoint, recorder=Killer())
    killer = Killer()
    again = network(seed=9)
    result = fit(again, Points(), Points(seed=1), RECIPE, seed=3, checkpoint=checkpoint, recorder=killer)
    assert killer.calls == 104  # two epochs from the checkpoint, two more seen
    assert [record.train_loss for record in result.epochs] == [
        record.train_loss for record in expected.epochs
    ]
    for key, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


def test_finished_checkpoint_is_not_trained_again(tmp_path: Path) -> None:
    model = network()
    first = fit(model, Points(), None, RECIPE, seed=0, checkpoint=tmp_path / "c.pt")
    again = network(seed=5)
    second = fit(again, Points(), None, RECIPE, seed=0, checkpoint=tmp_path / "c.pt")
    assert first == second
    assert torch.equal(model[0].weight, again[0].weight)  # type: ignore[arg-type]


def flipped(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def saved(path: Path, **changes: object) -> None:
    torch.save({**torch.load(path, weights_only=True), **changes}, path)


def of_another_network(path: Path) -> None:
    fit(nn.Sequential(nn.Linear(2, 2)), Points(), Points(), RECIPE, seed=0, checkpoint=path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"null"),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:2000]),
        # A weight of the network: the first value of the first tensor follows its name.
        lambda path: flipped(path, path.read_bytes().index(struct.pack("<f", float(weight(path)))) + 2),
        of_another_network,
        lambda path: torch.save([], path),
        lambda path: torch.save({}, path),
        lambda path: saved(path, records=[]),
        lambda path: saved(path, records=[{"epoch": 1}]),
        lambda path: saved(path, records=torch.load(path, weights_only=True)["records"][1:]),
        lambda path: saved(path, best=7),
        lambda path: saved(path, best="1"),
        lambda path: saved(path, best_state={}),
        lambda path: saved(path, optimizer={}),
        lambda path: saved(path, plateau=None),
    ],
)
def test_a_damaged_checkpoint_starts_the_training_again(
    damage: Callable[[Path], object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, again, checkpoint = network(), network(), tmp_path / "fit.pt"
    expected = fit(whole, Points(), Points(seed=1), RECIPE, seed=3, checkpoint=checkpoint)
    damage(checkpoint)
    caplog.clear()
    result = fit(again, Points(), Points(seed=1), RECIPE, seed=3, checkpoint=checkpoint)
    assert [replace(record, seconds=0) for record in result.epochs] == [
        replace(record, seconds=0) for record in expected.epochs
    ]
    for key, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    (said,) = warnings
    assert said.startswith(f"{checkpoint} cannot be used (")
    assert said.endswith("): training starts again")
    assert "weights_only" not in said


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (MemoryError(), MemoryError),
        (torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), RuntimeError),
        (PermissionError(errno.EACCES, "Permission denied"), RunFolderError),
        (OSError(errno.EIO, "Input/output error"), RunFolderError),
    ],
)
def test_a_good_checkpoint_that_cannot_be_loaded_now_is_kept(
    error: Exception, raised: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "fit.pt"
    fit(network(), Points(), None, RECIPE, seed=0, checkpoint=checkpoint)
    content = checkpoint.read_bytes()

    def fails(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(torch, "load", fails)
    with pytest.raises(raised) as caught:
        fit(network(), Points(), None, RECIPE, seed=0, checkpoint=checkpoint)
    assert checkpoint.read_bytes() == content
    if raised is RunFolderError:
        assert str(caught.value).startswith(f"{checkpoint} ")


def test_a_pipe_in_place_of_a_checkpoint_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fit.pt")
    with pytest.raises(RunFolderError, match=r"fit\.pt cannot be read \(it is a pipe"):
        fit(network(), Points(), None, RECIPE, seed=0, checkpoint=tmp_path / "fit.pt")


def weight(path: Path) -> Tensor:
    value: Tensor = torch.load(path, weights_only=True)["model"]["0.weight"][0, 0]
    return value


def test_frozen_prefix_stays_to_the_last_bit() -> None:
    model = network()
    freeze_before(model, 4)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fit(model, Points(), None, Recipe(epochs=2, lr=0.1), seed=0, first_trained=4)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"4.weight", "4.bias"}


def test_frozen_batchnorm_keeps_statistics_but_learns() -> None:
    model = network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fit(model, Points(), None, Recipe(epochs=2, lr=0.1, batchnorm="frozen"), seed=0)
    after = model.state_dict()
    assert torch.equal(after["1.running_mean"], before["1.running_mean"])
    assert not torch.equal(after["1.weight"], before["1.weight"])


def test_divergence_is_an_error_of_ours() -> None:
    with pytest.raises(TrainingDiverged, match="lower the learning rate"):
        fit(network(), Points(), None, Recipe(epochs=30, lr=100, weight_decay=1, optimizer="sgd"), seed=0)


def test_a_validation_loss_that_is_not_finite_is_divergence() -> None:
    class Broken(Points):
        def batch(self, rows: Tensor, generator: torch.Generator | None) -> Tensor:
            return super().batch(rows, generator) * math.nan

    with pytest.raises(TrainingDiverged, match="validation loss became nan in epoch 1"):
        fit(network(), Points(), Broken(), RECIPE, seed=0)


def explodes_in_step(number: int) -> Callable[[], Tensor]:
    """A penalty that is not finite from a step on."""
    steps = itertools.count(1)
    return lambda: torch.tensor(math.inf if next(steps) >= number else 0.0)


def test_a_training_that_may_diverge_ends_with_the_best_weights_before(caplog) -> None:
    # Five steps an epoch: the third one explodes.
    options = {"penalty": explodes_in_step(11), "may_diverge": True, "seed": 0, "description": "tail"}
    model, whole = network(), network()
    result = fit(model, Points(), Points(seed=1), RECIPE, **options)
    assert "tail: the training loss became inf in epoch 3; the best weights before are kept" in caplog.text
    expected = fit(whole, Points(), Points(seed=1), RECIPE, seed=0, stop=lambda epochs: len(epochs) == 2)
    assert (len(result.epochs), result.best_epoch) == (2, expected.best_epoch)
    assert result.val_accuracy == expected.val_accuracy
    for name, tensor in whole.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_a_training_that_diverges_at_once_leaves_the_network_as_it_was() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    penalty = explodes_in_step(1)
    result = fit(model, Points(), Points(seed=1), RECIPE, seed=0, penalty=penalty, may_diverge=True)
    assert (result.epochs, result.best_epoch) == ((), 0)
    for name, tensor in before.items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_divergence_is_an_error_where_no_validation_tells_the_best_weights() -> None:
    with pytest.raises(TrainingDiverged, match="epoch 2"):
        fit(network(), Points(), None, RECIPE, seed=0, penalty=explodes_in_step(6), may_diverge=True)


def test_batches_of_one_sample_are_refused_where_batch_norm_is_trained() -> None:
    recipe = replace(RECIPE, batch_size=1)
    with pytest.raises(ConfigError, match=r"one sample at a time .* raise `batch_size`"):
        fit(network(), Points(), None, recipe, seed=0)
    fit(network(), Points(), None, replace(recipe, epochs=1, batchnorm="frozen"), seed=0)


def test_the_least_share_of_an_epoch_is_two_samples() -> None:
    fit(network(), Points(), None, replace(RECIPE, epoch_share=0.001), seed=0)


def test_patience_stops() -> None:
    model = network()
    recipe = Recipe(epochs=50, lr=0.0, patience=3)
    assert len(fit(model, Points(), Points(seed=1), recipe, seed=0).epochs) == 4


def test_single_sample_batch_joins_the_one_before() -> None:
    fit(network(), Points(9), None, Recipe(epochs=1, batch_size=8), seed=0)


def test_class_weights_move_the_decision() -> None:
    weights = torch.tensor([1.0, 50.0])
    model = network()
    fit(model, Points(), None, Recipe(epochs=10, lr=0.02), seed=0, class_weights=weights)
    plain = network()
    fit(plain, Points(), None, Recipe(epochs=10, lr=0.02), seed=0)
    source = Points(seed=2)
    ones = [int(m(source.inputs).argmax(1).sum()) for m in (model, plain)]
    assert ones[0] > ones[1]


def test_distillation_alone_copies_the_teacher() -> None:
    teacher = nn.Sequential(nn.Linear(2, 2))
    with torch.no_grad():
        teacher[0].weight.copy_(torch.tensor([[3.0, 0.0], [-3.0, 0.0]]))
        teacher[0].bias.zero_()
    # The teacher says the opposite of the labels, so that only its word explains the result.
    student = nn.Sequential(nn.Linear(2, 2))
    distillation = Distillation(teacher=teacher.eval(), weight=1.0)
    fit(student, Points(80), None, Recipe(epochs=30, lr=0.05), seed=0, distillation=distillation)
    assert evaluate_source(student, Points(seed=1)).accuracy < 0.1


def test_penalty_is_part_of_the_loss() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain, penalised = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2))
    penalised.load_state_dict(plain.state_dict())
    weight = penalised[0].weight
    recipe = Recipe(epochs=60, lr=0.05, weight_decay=0.0)
    fit(plain, Points(), None, recipe, seed=0)
    fit(penalised, Points(), None, recipe, seed=0, penalty=lambda: 100.0 * weight.square().sum())
    assert float(weight.detach().norm()) < 0.1 * float(plain[0].weight.detach().norm())


def test_evaluate_by_hand() -> None:
    model = nn.Sequential(nn.Identity())

    class Logits:
        labels = torch.tensor([0, 1, 1])
        num_classes = 2

        def __len__(self) -> int:
            return 3

        def batch(self, rows: Tensor, generator: torch.Generator | None) -> Tensor:
            return torch.tensor([[0.0, 0.0], [0.0, math.log(3)], [math.log(3), 0.0]])[rows]

    verdict = evaluate_source(model, Logits(), batch_size=2)
    # Cross-entropies log 2, log 4/3 and log 4; argmax takes the first of equals.
    assert verdict.loss == pytest.approx((math.log(2) + math.log(4 / 3) + math.log(4)) / 3)
    assert verdict.accuracy == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("recipe", "step", "expected"),
    [
        (Recipe(epochs=10, schedule="constant"), 49, 1.0),
        (Recipe(epochs=10, schedule="cosine"), 0, 1.0),
        (Recipe(epochs=10, schedule="cosine"), 50, 0.5),
        (Recipe(epochs=10, schedule="cosine", warmup=0.1), 4, 5 / 11),
        (Recipe(epochs=10, schedule="step", step_epochs=2, factor=0.5), 45, 0.25),
    ],
)
def test_schedules_by_hand(recipe: Recipe, step: int, expected: float) -> None:
    # Ten steps an epoch, a hundred in all.
    assert learning_rate_factor(recipe, step, 10) == pytest.approx(expected)


@pytest.mark.parametrize("keep", ["best", "last"])
def test_plateau_reduces_after_its_patience(monkeypatch: pytest.MonkeyPatch, keep: str) -> None:
    rates: list[float] = []
    step = torch.optim.SGD.step

    def watched(self: torch.optim.SGD, *args: object) -> object:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    recipe = Recipe(
        epochs=6, batch_size=40, optimizer="sgd", lr=1e-12, schedule="plateau", plateau_patience=1, factor=0.1
    )
    fit(network(), Points(), Points(seed=1), recipe, seed=0, keep=keep)
    # Epoch 1 is the best; 2 and 3 do not improve, so epoch 4 starts at a tenth; 4 and 5 neither.
    assert rates == pytest.approx([1e-12, 1e-12, 1e-12, 1e-13, 1e-13, 1e-14])


def test_plateau_stops_reducing_at_the_lowest_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.SGD.step

    def watched(self: torch.optim.SGD, *args: object) -> object:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    recipe = Recipe(
        epochs=4, batch_size=40, optimizer="sgd", lr=1e-12, schedule="plateau", plateau_patience=0, factor=0.1
    )
    fit(network(), Points(), Points(seed=1), replace(recipe, min_lr=5e-14), seed=0)
    assert rates == pytest.approx([1e-12, 1e-12, 1e-13, 5e-14])


def test_an_epoch_sees_its_share_of_the_samples() -> None:
    seen: list[int] = []

    class Counting(Points):
        def batch(self, rows: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
            seen.extend(rows.tolist())
            return super().batch(rows, generator)

    fit(network(), Counting(40), None, Recipe(epochs=2, batch_size=8, epoch_share=0.25), seed=0)
    assert len(seen) == 20
    # Drawn again: two tens of forty that agree are as good as impossible.
    assert set(seen[:10]) != set(seen[10:])


def test_the_epoch_of_the_lowest_loss_is_kept() -> None:
    result = fit(network(), Points(), Points(seed=1), Recipe(epochs=6, lr=0.05), seed=0, keep="lowest_loss")
    assert result.val_loss == min(record.val_loss or 0.0 for record in result.epochs)


def test_training_ends_where_it_is_told_to() -> None:
    result = fit(
        network(),
        Points(),
        Points(seed=1),
        Recipe(epochs=6),
        seed=0,
        stop=lambda epochs: len(epochs) == 2,
    )
    assert len(result.epochs) == 2


def test_the_metric_decides_which_epoch_is_kept_and_when_training_ends(monkeypatch) -> None:
    """Of five epochs the second has the best accuracy, the third the best balanced accuracy."""
    before = (0.1, 0.1)
    figures = [before, (0.5, 0.5), (0.9, 0.4), (0.8, 0.7), (0.8, 0.6), (0.8, 0.6)]

    def trained(**options: object) -> TrainingRecord:
        verdicts = iter(figures)

        def judged(*_: object, **__: object) -> Evaluation:
            accuracy, balanced = next(verdicts)
            return Evaluation(
                loss=1.0,
                accuracy=accuracy,
                balanced_accuracy=balanced,
                top5_accuracy=None,
                samples=10,
                predictions=torch.zeros(10),
            )

        monkeypatch.setattr(MODULE, "evaluate_source", judged)
        recipe = Recipe(epochs=5, batch_size=8, lr=0.02, patience=2)
        return fit(network(), Points(), Points(seed=1), recipe, seed=0, **options)  # type: ignore[arg-type]

    plain, balanced = trained(), trained(metric="balanced_accuracy")
    assert (plain.best_epoch, len(plain.epochs)) == (2, 4)
    assert (balanced.best_epoch, len(balanced.epochs)) == (3, 5)
    assert (balanced.val_accuracy, balanced.val_balanced_accuracy) == (0.8, 0.7)
    assert [epoch.val_balanced_accuracy for epoch in plain.epochs] == [0.5, 0.4, 0.7, 0.6]


def test_each_epoch_is_an_event_and_those_before_an_interruption_are_not(tmp_path: Path) -> None:
    checkpoint, heard = tmp_path / "fit.pt", list[Event]()
    fit(network(), Points(), Points(seed=1), replace(RECIPE, epochs=2), seed=0, checkpoint=checkpoint)
    with watching([heard.append]):
        result = fit(
            network(), Points(), Points(seed=1), RECIPE, seed=0, checkpoint=checkpoint, description="trial 3"
        )
    assert heard == [EpochEvent(training="trial 3", epoch=epoch) for epoch in result.epochs[2:]]
    assert [event.epoch.epoch for event in heard] == [3, 4]


@pytest.fixture(scope="module")
def learnt() -> nn.Sequential:
    """A network that knows the rule: its logits are the first coordinate and its opposite."""
    model = nn.Sequential(nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[-3.0, 0.0], [3.0, 0.0]]))
        model[0].bias.zero_()
    return model


def test_weights_of_before_are_kept_where_training_does_harm(
    learnt: nn.Sequential, caplog: pytest.LogCaptureFixture
) -> None:
    before = copy.deepcopy(learnt.state_dict())
    # The teacher says the opposite of the labels.
    wrong = Distillation(teacher=nn.Sequential(Opposite()), weight=1.0)
    recipe = Recipe(epochs=12, lr=0.3)
    model = copy.deepcopy(learnt)
    with caplog.at_level("INFO", logger="tascnet"):
        result = fit(model, Points(80), Points(40, seed=1), recipe, seed=0, distillation=wrong)
    assert result.before is not None
    assert (result.before.epoch, result.before.train_loss, result.before.val_accuracy) == (0, None, 1.0)
    assert (result.best_epoch, result.val_accuracy, len(result.epochs)) == (0, 1.0, 12)
    assert (result.epochs[-1].val_accuracy or 0.0) < 0.1
    for name, value in before.items():
        assert torch.equal(value, model.state_dict()[name])
    said = [record.getMessage() for record in caplog.records]
    assert sum("far below the 100.0 % before the training" in text for text in said) == 1
    assert said[-1] == (
        "train: no epoch is better than the weights of before the training (100.0 %): these are kept"
    )
    last = fit(copy.deepcopy(learnt), Points(), Points(), recipe, seed=0, keep="last")
    assert last.best_epoch == 12


class Opposite(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return torch.stack([inputs[:, 0], -inputs[:, 0]], 1) * 9


def equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize(
    "changes",
    [{"ema": 0.9}, {"mixup": 0.4}, {"layer_decay": 0.5, "dropout": 0.3}],
    ids=lambda changes: "+".join(changes),
)
@pytest.mark.parametrize("done", [0, 2])
def test_every_setting_resumes(changes: dict[str, float | str], done: int, tmp_path: Path) -> None:
    recipe = replace(RECIPE, **changes)
    whole, broken, again = network(), network(), network(seed=0 if done == 0 else 9)
    expected = fit(whole, Points(), Points(seed=1), recipe, seed=3)
    own = {"seed": 3, "checkpoint": tmp_path / "fit.pt"}
    fit(broken, Points(), Points(seed=1), recipe, **own, stop=lambda rows: len(rows) == done)  # type: ignore[arg-type]
    result = fit(again, Points(), Points(seed=1), recipe, **own)  # type: ignore[arg-type]
    assert result.before is not None
    assert expected.before is not None
    assert replace(result.before, seconds=0) == replace(expected.before, seconds=0)
    assert (result.lr, result.best_epoch) == (expected.lr, expected.best_epoch)
    assert [row.train_loss for row in result.epochs] == [row.train_loss for row in expected.epochs]
    assert equal(whole, again)
    plain = network()
    fit(plain, Points(), Points(seed=1), RECIPE, seed=3)
    assert not equal(whole, plain)


def test_the_average_is_what_is_evaluated_and_kept() -> None:
    model = network()
    recipe = replace(RECIPE, ema=0.99, epochs=2)
    result = fit(model, Points(), Points(seed=1), recipe, seed=0, keep="last")
    live = network()
    fit(live, Points(), Points(seed=1), replace(recipe, ema=0.0), seed=0, keep="last")
    assert evaluate_source(model, Points(seed=1)).loss == pytest.approx(result.val_loss, abs=1e-6)
    start, averaged, end = (one.state_dict()["0.weight"] for one in (network(), model, live))
    # It lags behind the weights.
    assert (averaged - start).norm() < (end - start).norm()


def test_dropout_acts_in_training_alone_and_leaves_the_network_as_it_is() -> None:
    seen: list[float] = []
    model = nn.Sequential(nn.Linear(2, 400), nn.Linear(400, 2))

    def look(module: nn.Module, inputs: tuple[Tensor]) -> None:
        seen.append(float((inputs[0] == 0).float().mean()))

    with classifier_dropout(model, 0.5):
        model[1].register_forward_pre_hook(look)
        model.train()(torch.ones(8, 2))
        model.eval()(torch.ones(8, 2))
    model.train()(torch.ones(8, 2))
    assert seen == [pytest.approx(0.5, abs=0.1), 0.0, 0.0]
    own = nn.Sequential(nn.Dropout(0.1), nn.Linear(2, 2))
    with classifier_dropout(own, 0.5):
        assert not own[1]._forward_pre_hooks


def test_layer_decay_sets_the_rate_of_each_block(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[list[float]] = []
    step = torch.optim.SGD.step

    def watched(self: torch.optim.SGD, *args: object) -> object:
        rates.append([group["lr"] for group in self.param_groups])
        return step(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    recipe = Recipe(epochs=1, batch_size=40, optimizer="sgd", lr=0.01, layer_decay=0.5, schedule="constant")
    fit(network(), Points(), None, recipe, seed=0)
    # Of classifier, batch-norm and first layer.
    assert rates == [pytest.approx([0.01, 0.005, 0.0025])]
