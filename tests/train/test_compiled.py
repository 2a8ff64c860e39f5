"""Training by compiled steps is that by plain ones, and a machine that cannot compile is named at once."""

import importlib
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import tascnet
from tascnet.errors import ConfigError
from tascnet.options import Recipe, RecipeChanges, Trainer
from tascnet.train import Distillation, check_trainer, fit
from tascnet.train.distillation import CommonFeatures

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


@DEVICES
def test_compiled_steps_train_what_plain_ones_do(device, monkeypatch):
    sizes, compiled = [], MODULE.compiled

    def counting(function, where):
        call = compiled(function, where)
        return lambda *arguments: sizes.append(len(arguments[1])) or call(*arguments)

    monkeypatch.setattr(MODULE, "compiled", counting)
    losses, weights = trained(device, RECIPE)
    assert sizes == []
    losses_of_compiled, weights_of_compiled = trained(device, replace(RECIPE, compile=True))
    # The last batch of an epoch is smaller: it would be compiled for itself.
    assert sizes == 4 * 5 * [8]
    # On a GPU batches are computed in bf16.
    near = {"rtol": 1e-4, "atol": 1e-5} if device == "cpu" else {"rtol": 0.1, "atol": 0.02}
    assert losses_of_compiled == pytest.approx(losses, rel=1e-5 if device == "cpu" else 0.05)
    for name, value in weights.items():
        assert torch.allclose(weights_of_compiled[name].double(), value.double(), **near), name


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
    assert (first, resumed) == (whole[:2], whole)
    for name, value in weights.items():
        assert torch.equal(weights_of_resumed[name], value), name


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
    check_trainer(Trainer(), torch.device("cpu"))


def test_several_devices_do_not_compile():
    with pytest.raises(ConfigError, match=r"`devices=2` train together, and `recover` compiles its steps"):
        Trainer(devices=2, recover=tascnet.options.StepChanges(compile=True))
    Trainer(devices=2, trial=RecipeChanges(compile=True))
