"""The size of the images as a choice of the search."""

import pytest
import torch

import tascnet
from tascnet.errors import ConfigError
from tascnet.measure import complexity
from tascnet.models.preprocessing import Preprocessing
from tascnet.options import Digits, Measure, Trainer, Tune
from tascnet.tuning.sizes import SIZE, resized
from tests.tuning.toy import MODULE

DIGITS = Digits(classes=("5", "6", "7", "8", "9"), train=0.1, val=0.1, flip=False)
OPTIONS = {
    **{"max_trials": 5, "initial_trials": 5, "algorithm": "sobol", "slim_every": 0},
    **{"max_units": 1, "kernels": (), "hidden_layers": (0,), "activations": ("relu",)},
}


@pytest.fixture
def sized(tmp_path, monkeypatch):
    monkeypatch.setattr(MODULE, "tune_report", lambda *_: None)

    def run(network=None, **own):
        return tascnet.tune(
            network or tascnet.backbone("digits_cnn", weights="random"),
            DIGITS,
            Tune(**OPTIONS | own),
            trainer=Trainer(epochs=1, batch_size=32),
            measure=Measure(batch=2, repeats=3, runtimes=("eager",)),
            threads=1,
            device="cpu",
            cache=tmp_path / "cache",
            run=tmp_path / "run",
        )

    return run


def test_the_share_that_is_cropped_stays():
    preprocessing = Preprocessing(size=224, resize=256, mean=(0.5,), std=(0.5,))
    assert resized(preprocessing, 112) == Preprocessing(size=112, resize=128, mean=(0.5,), std=(0.5,))
    assert resized(preprocessing, 224) == preprocessing


def test_trials_are_counted_and_trained_at_their_size(sized):
    """FLOPs that are known before training are those of the built network, so bounds hold for each size."""
    network = tascnet.backbone("digits_cnn", weights="random", num_classes=5)
    bound = complexity(network, torch.zeros(1, 1, 8, 8)).flops
    result = sized(sizes=(6, 12), flops_target=1.0)
    assert {trial.config[SIZE] for trial in result.trials} <= {6, 8, 12}
    assert any(trial.config[SIZE] != 8 for trial in result.trials)
    assert all(trial.flops <= bound for trial in result.trials)
    metrics = result.metrics
    size = metrics.best_config[SIZE] if metrics.handed_over in ("tuned", "winner") else 8
    assert result.network.preprocessing.size == size
    example = torch.zeros(1, 1, size, size)
    assert complexity(result.network, example).flops == metrics.models["after"].flops


def test_another_size_is_saved_judged_and_timed_again(sized):
    found = sized(sizes=(12,), fallback=False)
    trial = next(one for one in found.trials if one.config[SIZE] == 12 and one.status == "ok")
    picked = sized(sizes=(12,), fallback=False, pick=trial.trial)
    network = tascnet.load(picked.folder / "model")
    assert network.preprocessing.size == picked.network.preprocessing.size == 12
    metrics = picked.metrics
    assert metrics.handed_over == "tuned"
    assert metrics.models["after"].flops == trial.flops
    # The conventional network keeps its size.
    assert tascnet.load(found.folder / metrics.archives["conventional"]).preprocessing.size == 8
    assert metrics.models["after"].val_accuracy == pytest.approx(
        next(one for one in metrics.candidates if one.name == "tuned").val_accuracy
    )


def test_sizes_that_a_network_does_not_take_are_refused_at_once(sized):
    # Three poolings by 2.
    fixed = tascnet.backbone(
        torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 7)),
        size=8,
        resize=8,
        mean=(0.5,),
        std=(0.5,),
    )
    with pytest.raises(ConfigError, match=r"`sizes` has 12, but the network does not take images of 1 x 12"):
        sized(fixed, sizes=(12,))
    with pytest.raises(ConfigError, match="`sizes` has no effect with `algorithm=layerwise`"):
        Tune(algorithm="layerwise", sizes=(12,))
