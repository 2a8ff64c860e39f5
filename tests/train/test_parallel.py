"""Training in two processes is training in one, but for rounding."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tascnet
from tascnet.errors import ConfigError, TascnetError
from tascnet.options import Recipe
from tascnet.train import fit
from tascnet.train.parallel import Share, shared

CPU = torch.device("cpu")
TWO_GPUS = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two GPUs")


class Spots:
    """Images of 5 x 5 pixels, bright in one half or the other."""

    def __init__(self, count=27, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.arange(count) % 3
        self.inputs = torch.randn(count, 3, 5, 5, generator=generator)
        self.inputs += self.labels.view(-1, 1, 1, 1)
        self.num_classes = 3

    def __len__(self):
        return len(self.labels)

    def batch(self, rows, generator):
        return self.inputs[rows]


def network():
    """Its first batch-norm is frozen, the others learn."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        frozen = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        own = nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6, momentum=None), nn.ReLU())
        chain = nn.Sequential(frozen, own, nn.Flatten(), nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    frozen.requires_grad_(False)
    return chain


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=TWO_GPUS)])
def test_two_processes_train_what_one_does(device, tmp_path):
    # The last batch of an epoch has three samples, the one of the first process is one more.
    recipe = Recipe(optimizer="nesterov", lr=0.05, epochs=2, batch_size=8, batchnorm="train", dropout=0.0)
    trained = {}
    for devices in (1, 2):
        chain = network().to(device)
        own = {
            "seed": 3,
            "device": device,
            "keep": "last",
            "checkpoint": tmp_path / f"{devices}.pt",
            "devices": devices,
        }
        record = fit(chain, Spots(), Spots(9, seed=1), recipe, **own)
        trained[devices] = chain.state_dict(), [epoch.train_loss for epoch in record.epochs]
    (alone, losses), (together, losses_together) = trained.values()
    assert losses_together == pytest.approx(losses, rel=1e-5 if device == "cpu" else 0.05)
    before = network().state_dict()
    for name, value in alone.items():
        # On a GPU batches are computed in bf16.
        exact = {"rtol": 1e-4, "atol": 1e-6} if device == "cpu" else {"rtol": 0.1, "atol": 0.02}
        assert torch.allclose(together[name], value, **exact), name
        # Neither is what it was, but for what is frozen.
        assert torch.equal(value.cpu(), before[name]) == name.startswith("0."), name


def broken(share, made):
    share.told([0.0])
    raise ValueError(f"{made} of process {share.rank}")


def test_a_process_that_fails_is_named_and_no_process_is_left():
    def lead(made):
        with shared(2, CPU, broken, made) as share:
            share.told([1.0])
            share.sum(torch.ones(1))

    with pytest.raises(TascnetError, match=r"ended \(bad luck of process 1\): run the same command again"):
        lead("bad luck")
    assert not torch.distributed.is_initialized()
    with pytest.raises(ConfigError, match=r"cannot be sent .*: define their classes"):
        lead(lambda: 0)


@given(st.integers(1, 9), st.integers(1, 5))
def test_each_sample_belongs_to_one_process(count, processes):
    batch = torch.arange(count)
    shares = [Share(rank=rank, processes=processes, device=CPU).rows(batch) for rank in range(processes)]
    assert sorted(row for rows, part in shares if part for row in rows.tolist()) == batch.tolist()
    assert sum(part for _, part in shares) == pytest.approx(1)


def test_more_devices_than_there_are_are_refused(tmp_path):
    network = tascnet.backbone("digits_cnn", weights="random")
    trainer = tascnet.Trainer(devices=64)
    with pytest.raises(
        ConfigError, match=r"`trainer.devices=64` is more than there are from `cpu` on: \d+ CPU"
    ):
        tascnet.tune(network, tascnet.digits(), trainer=trainer, device="cpu", cache=tmp_path)
