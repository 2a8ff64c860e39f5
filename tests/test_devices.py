"""Both stages on image files, on the CPU and where there is one on a GPU."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

import tascnet
from tests.pruning.toy import SMALL
from tests.tuning.toy import OPTIONS, own_network

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
CUDA = pytest.param("cuda", marks=GPU)
# The step is compiled where that is fast enough for a test.
RECIPES = {
    "cpu": tascnet.Trainer(epochs=2, batch_size=8, lr=3e-3),
    "cuda": tascnet.Trainer(epochs=2, batch_size=8, lr=3e-3, compile=True),
}


@pytest.fixture
def data(tmp_path):
    """Dark and light images of 12 x 10 pixels."""
    drawn = np.random.default_rng(0)
    for label, name in enumerate(("dark", "light")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(30):
            pixels = drawn.integers(100 * label, 100 * label + 120, (12, 10, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    return tascnet.image_folder(tmp_path / "images", train=0.6, val=0.2, randaugment=2, erasing=0.2)


@pytest.fixture
def how(tmp_path, request):
    device = request.getfixturevalue("device")
    return {
        "trainer": RECIPES[device],
        "measure": tascnet.Measure(repeats=3, batch=2),
        "device": device,
        "cache": tmp_path / "cache",
    }


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_both_stages_and_the_evaluation(device, data, how, tmp_path):
    how = how | {"run": tmp_path / "tune"}
    tuned = tascnet.tune(own_network(), data, tascnet.Tune(**OPTIONS, finetune_from="best"), **how)
    how = how | {"run": tmp_path / "prune"}
    options = tascnet.Prune(**SMALL | {"min_filters": 2, "distill_features": 0.5})
    pruned = tascnet.prune(tuned.network, data, options, **how)
    for result in (tuned, pruned):
        losses = [epoch.train_loss for one in result.metrics.trainings.values() for epoch in one.epochs]
        assert losses
        assert all(map(math.isfinite, losses))
        after = result.metrics.models["after"]
        assert torch.device(after.eager.device).type == device
        found = tascnet.evaluate(result.network, data, device=device, cache=tmp_path / "cache")
        assert found.accuracy == after.test_accuracy
    again = tascnet.prune(tuned.network, data, options, **how)
    assert again.metrics == pruned.metrics


# Two workers of the CPU are in tests/tuning/test_rivals.py.
@pytest.mark.parametrize("device", [CUDA])
def test_trials_share_a_gpu(device, data, how):
    pytest.importorskip("ray", reason="Ray is not installed")
    executor = tascnet.Ray(workers=2, gpus=0.5)
    result = tascnet.tune(own_network(), data, tascnet.Tune(**OPTIONS), executor=executor, **how)
    assert [trial.status for trial in result.trials] == ["ok", "ok"]
    assert len({trial.worker for trial in result.trials}) == 2
