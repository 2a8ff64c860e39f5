"""Training in several processes is training in one, but for rounding."""

import io
import os
import subprocess
import sys
import tempfile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tascnet
from tascnet.data import open_samples
from tascnet.errors import BudgetError, ConfigError, TascnetError
from tascnet.models import Preprocessing
from tascnet.models.text import SPECIAL, TextPreprocessing
from tascnet.options import Recipe
from tascnet.run.files import naming_full_disk, temporary_suffix
from tascnet.train import fit, parallel
from tascnet.train.parallel import Member, together

CPU = torch.device("cpu")
IMAGES = Preprocessing(size=8, resize=8, mean=(0.0,) * 3, std=(1.0,) * 3)
DIGITS = Preprocessing(size=8, resize=8, mean=(0.5,), std=(0.5,))
TWO_GPUS = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two GPUs")


class Spots:
    """Images of 5 x 5 pixels, brighter the higher the class."""

    def __init__(self, count, seed):
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
    """Its first batch-norm is frozen, the others learn, by each kind of running statistics."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        frozen = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        own = nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6, momentum=None), nn.ReLU())
        plain = nn.BatchNorm1d(4, affine=False)
        untracked = nn.BatchNorm1d(4, track_running_stats=False)
        head = (nn.Flatten(), nn.Linear(6, 4), plain, untracked, nn.Linear(4, 3))
        chain = nn.Sequential(frozen, own, *head)
    frozen.requires_grad_(False)
    return chain


# The last batch of an epoch has 3 samples of 27, or 9 of 25: one process has one more than the other.
@pytest.mark.parametrize(
    ("device", "weights"),
    [("cpu", None), ("cpu", (0.5, 1.0, 2.0)), pytest.param("cuda", None, marks=TWO_GPUS)],
)
def test_two_processes_train_what_one_does(device, weights, tmp_path):
    recipe = Recipe(
        optimizer="nesterov",
        lr=0.05,
        epochs=2,
        batch_size=8,
        batchnorm="train",
        dropout=0.0,
        mixup=0.0,
        ema=0.5,
    )
    trained = {}
    for devices in (1, 2):
        chain = network().to(device)
        own = {"seed": 3, "device": device, "keep": "last", "devices": devices}
        balance = None if weights is None else torch.tensor(weights)
        data = Spots(25 if weights else 27, 0), Spots(9, 1)
        record = fit(
            chain, *data, recipe, class_weights=balance, checkpoint=tmp_path / f"{devices}.pt", **own
        )
        trained[devices] = chain.state_dict(), [epoch.train_loss for epoch in record.epochs]
    (alone, losses), (both, losses_of_both) = trained.values()
    # On a GPU batches are computed in bf16.
    near = {"rtol": 1e-4, "atol": 1e-5} if device == "cpu" else {"rtol": 0.1, "atol": 0.02}
    assert losses_of_both == pytest.approx(losses, rel=1e-5 if device == "cpu" else 0.05)
    before = network().state_dict()
    for name, value in alone.items():
        assert torch.allclose(both[name].double(), value.double(), **near), name
        # Neither is what it was, but for what is frozen.
        assert torch.equal(value.cpu(), before[name]) == name.startswith("0."), name


def failing(member, made):
    member.broadcast([0.0])
    raise ValueError(f"{made} of process {member.rank}")


def waiting(member, made):
    member.broadcast([0.0])


def lead(work, made):
    with together(2, CPU, work, made) as member:
        member.broadcast([1.0])
        member.sum(torch.ones(1))


def test_a_process_that_fails_is_named_and_the_group_is_left(monkeypatch):
    with pytest.raises(TascnetError, match=r"process 1 of a training failed: bad luck of process 1: run the"):
        lead(failing, "bad luck")
    assert not torch.distributed.is_initialized()
    # One that cannot even begin, before the first one waits for it.
    monkeypatch.setattr(parallel, "PROGRAM", "import sys; sys.exit(3)")
    with pytest.raises(
        TascnetError, match=r"process 1 of a training was ended from outside \(exit status 3\)"
    ):
        lead(waiting, torch.zeros(1_000_000))
    with pytest.raises(ConfigError, match=r"cannot be sent .*: define their classes"):
        lead(waiting, lambda: 0)


def test_a_full_disk_is_named(tmp_path):
    is_named = pytest.raises(BudgetError, match="is full: free some space")
    with is_named, naming_full_disk(tmp_path), open("/dev/full", "wb") as file:
        parallel.send(torch.zeros(1_000_000), file)


def test_what_a_killed_training_left_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    alive = f"tascnet-a{temporary_suffix()}"
    for name in (alive, alive.replace(f"{os.getpid()}.tmp", f"{dead.pid}.tmp")):
        (tmp_path / name).mkdir()
    with together(2, CPU, waiting, None) as member:
        member.broadcast([0.0])
    assert os.listdir(tmp_path) == [alive]


@given(st.integers(1, 9), st.integers(1, 5))
def test_each_sample_counts_once(count, processes):
    batch, weights = torch.arange(count), torch.zeros(count)
    for rank in range(processes):
        rows, part = Member(rank=rank, processes=processes, device=CPU).rows(batch)
        weights[rows] += part / len(rows)
    assert torch.allclose(weights, torch.full((count,), 1 / count))


def texts(folder):
    for name in ("bad", "good"):
        (folder / f"{name}.txt").write_text("".join(f"{name} film {n}\n" for n in range(9)))
    return tascnet.text_lines(str(folder))


def tensors(_):
    items = [(torch.full((3, 8, 8), float(number)), number % 2) for number in range(20)]
    return tascnet.datasets(items)


@pytest.mark.parametrize(
    ("data", "preprocessing"),
    [(texts, TextPreprocessing(max_tokens=4, vocabulary=SPECIAL)), (tensors, IMAGES), (None, DIGITS)],
)
def test_samples_of_every_kind_are_sent(data, preprocessing, tmp_path):
    (tmp_path / "data").mkdir()
    own = tascnet.digits() if data is None else data(tmp_path / "data")
    samples = open_samples(own, preprocessing, seed=0, cache=tmp_path / "cache", grow_vocabulary=True)
    sent, rows = io.BytesIO(), torch.tensor([3, 0])
    torch.save(samples.train, sent)
    sent.seek(0)
    there = torch.load(sent, weights_only=False)
    assert torch.equal(there.batch(rows, None), samples.train.batch(rows, None))
    assert torch.equal(there.labels, samples.train.labels)
    # Pixels in files are opened there, and not sent.
    assert len(sent.getvalue()) < 500_000


def test_more_devices_than_there_are_are_refused(tmp_path):
    network = tascnet.backbone("digits_cnn", weights="random")
    trainer = tascnet.Trainer(devices=64)
    with pytest.raises(ConfigError, match=r"`devices=64`, but there are only \d+ CPU"):
        tascnet.tune(network, tascnet.digits(), trainer=trainer, device="cpu", cache=tmp_path)
    with pytest.raises(ConfigError, match=r"one device each, but `devices=2`: leave it at 1"):
        tascnet.tune(
            network,
            tascnet.digits(),
            trainer=tascnet.Trainer(devices=2),
            executor=tascnet.Ray(),
            device="cpu",
            cache=tmp_path,
        )
