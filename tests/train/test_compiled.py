"""Training by compiled steps is that by plain ones, and a machine that cannot compile is named at once."""

import gc
import importlib
import weakref
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import tascnet
from tascnet.errors import ConfigError
from tascnet.options import Recipe, RecipeChanges, Trainer
from tascnet.run.records import Trial, read_records
from tascnet.train import Distillation, check_trainer, fit
from tascnet.train.distillation import CommonFeatures
from tests.tuning.toy import OPTIONS, own_data, own_network

MODULE = importlib.import_module("tascnet.train.fit")
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
RECIPE = Recipe(optimizer="nesterov", epochs=4, batch_size=8, lr=0.02, ema=0.9, mixup=0.2, batchnorm="train")


class Images:
    """Noise of two classes: five whole batches and one of four."""

    labels, num_classes = torch.arange(44) % 2, 2

    def __init__(self) -> None:
        self.inputs = torch.randn(44, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, rows: Tensor, generator: torch.Generator | None) -> Tensor:
        return self.inputs[rows].to(memory_format=torch.channels_last)


def network(device: str, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        blocks = {
            "own": nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU()),
            "pool": nn.AdaptiveAvgPool2d(1),
            "flat": nn.Flatten(),
            "classifier": nn.Linear(6, 2),
        }
        chain = nn.Sequential(OrderedDict(blocks))
    return chain.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def trained(device: str, recipe: Recipe, **options):
    chain = network(device)
    features = CommonFeatures(block="own", weight=0.5, variance=1.0)
    teacher = Distillation(teacher=network(device, seed=1).eval(), weight=0.5, features=features)
    own = {"seed": 3, "device": device, "distillation": teacher, "keep": "last"}
    record = fit(chain, Images(), None, recipe, **own, **options)
    return [epoch.train_loss for epoch in record.epochs], chain.state_dict()


def same(ones, others, device, rtol=1e-4):
    """Whether all weights are equal up to rounding, which is coarse where batches are computed in bf16."""
    near = {"rtol": rtol, "atol": 0.1 * rtol} if device == "cpu" else {"rtol": 0.1, "atol": 0.02}
    return all(torch.allclose(others[name].double(), value.double(), **near) for name, value in ones.items())


@DEVICES
@pytest.mark.parametrize("batchnorm", ["train", "frozen"])
def test_compiled_steps_train_what_plain_ones_do(device, batchnorm, monkeypatch):
    sizes, compiled, recipe = [], MODULE.compiled, replace(RECIPE, batchnorm=batchnorm)

    def counting(function, where):
        call = compiled(function, where)
        return lambda *arguments: sizes.append(len(arguments[2])) or call(*arguments)

    monkeypatch.setattr(MODULE, "compiled", counting)
    losses, weights = trained(device, recipe)
    assert sizes == []
    losses_of_compiled, weights_of_compiled = trained(device, replace(recipe, compile=True))
    # The last batch of an epoch is smaller: it would be compiled for itself.
    assert sizes == 4 * 5 * [8]
    assert losses_of_compiled == pytest.approx(losses, rel=1e-5 if device == "cpu" else 0.05)
    assert same(weights, weights_of_compiled, device)


# torch does not compare hooks, such as that of dropout, when it looks for code that it compiled before.
@DEVICES
def test_dropout_is_compiled_too_and_an_interruption_changes_nothing(device, tmp_path):
    recipe = replace(RECIPE, compile=True, ema=0.0)
    plain, _ = trained(device, recipe)
    whole, weights = trained(device, replace(recipe, dropout=0.9))
    assert abs(whole[0] - plain[0]) > 0.05
    own = {"recipe": replace(recipe, dropout=0.9), "checkpoint": tmp_path / "fit.pt"}
    first, _ = trained(device, **own, stop=lambda records: len(records) == 2)
    resumed, weights_of_resumed = trained(device, **own)
    # Kernels of GPUs may add in any order.
    assert first + resumed == pytest.approx(whole[:2] + whole, rel=0 if device == "cpu" else 0.05)
    assert same(weights, weights_of_resumed, device, rtol=0.0)


# A trial's network and features would otherwise fill a GPU until Python looks for cycles.
@pytest.mark.parametrize("compile", [False, True])
def test_a_training_leaves_nothing_in_memory(compile):
    chain = network("cpu")
    kept = weakref.ref(chain)
    gc.disable()
    try:
        fit(chain, Images(), Images(), replace(RECIPE, epochs=1, compile=compile), seed=0)
        assert all(parameter.grad is None for parameter in chain.parameters())
        del chain
        if compile:
            # The compiler has cycles of its own.
            gc.collect()
        assert kept() is None
    finally:
        gc.enable()


def test_a_trial_that_cannot_be_compiled_has_failed(tmp_path, monkeypatch):
    def failing(function, device):
        raise torch._dynamo.exc.TorchDynamoException("no kernel for it")

    monkeypatch.setattr(MODULE, "compiled", failing)
    monkeypatch.setattr("tascnet.train.learner.check_compiler", lambda device: None)
    with pytest.raises(tascnet.TascnetError, match=r"torch.compile failed \(no kernel for it\)"):
        tascnet.tune(
            own_network(),
            own_data(),
            tascnet.Tune(**OPTIONS),
            trainer=Trainer(epochs=1, batch_size=8, trial=RecipeChanges(compile=True)),
            device="cpu",
            cache=tmp_path / "cache",
            run=tmp_path / "run",
        )
    trials = read_records(tmp_path / "run" / "trials.jsonl", Trial)
    assert [trial.status for trial in trials] == ["failed", "failed"]


def test_a_cache_of_the_compiler_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file" / "x"))
    with pytest.raises(ConfigError, match=r"torch.compile failed \(.*\): leave `compile` out"):
        check_trainer(Trainer(compile=True), torch.device("cpu"), ("trial",))


def test_a_machine_without_a_compiler_is_named_before_the_work(tmp_path, monkeypatch):
    # What was compiled before needs none.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    trainer = Trainer(finetune=RecipeChanges(compile=True))
    with (
        torch._inductor.config.patch({"cpp.cxx": (str(tmp_path / "none"),)}),
        pytest.raises(ConfigError, match=r"torch.compile failed \(.*C\+\+ compiler.*: leave `compile` out"),
    ):
        tascnet.tune(
            tascnet.backbone("digits_cnn", weights="random", num_classes=5),
            tascnet.options.Digits(),
            trainer=trainer,
            device="cpu",
            run=tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()
    check_trainer(trainer, torch.device("cpu"), ("recover",))


def test_several_devices_do_not_compile():
    with pytest.raises(ConfigError, match=r"`recover.compile=true`, but `devices=2`: take .*, or one device"):
        Trainer(devices=2, recover=tascnet.options.StepChanges(compile=True))
    with pytest.raises(ConfigError, match=r"`compile=true`, but `devices=2`: take `compile=false`"):
        Trainer(devices=2, compile=True)
    Trainer(devices=2, trial=RecipeChanges(compile=True))
