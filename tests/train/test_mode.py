"""What is trained and what is frozen; batch-norm statistics measured again."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tascnet.train import batches, freeze_before, reestimate_batchnorm, set_training_mode


class Rows:
    def __init__(self, inputs: Tensor) -> None:
        self.inputs = inputs
        self.labels = torch.zeros(len(inputs), dtype=torch.int64)
        self.num_classes = 2

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, rows: Tensor, generator: torch.Generator | None) -> Tensor:
        assert generator is None, "statistics are measured without augmentation"
        return self.inputs[rows]


def test_statistics_equal_those_of_the_data() -> None:
    inputs = torch.randn(32, 3, 2, 2) * 4 + 7
    chain = nn.Sequential(nn.BatchNorm2d(3))
    reestimate_batchnorm(chain, Rows(inputs), batch_size=32)
    norm = chain[0]
    assert torch.allclose(norm.running_mean, inputs.mean((0, 2, 3)), atol=1e-5)  # type: ignore[arg-type]
    assert torch.allclose(norm.running_var, inputs.var((0, 2, 3)), rtol=1e-4)  # type: ignore[arg-type]
    assert norm.momentum == 0.1
    assert not norm.training


def test_mean_over_batches_without_the_incomplete_one() -> None:
    inputs = torch.cat([torch.full((4, 1), 1.0), torch.full((4, 1), 3.0), torch.full((2, 1), 100.0)])
    chain = nn.Sequential(nn.BatchNorm1d(1))
    reestimate_batchnorm(chain, Rows(inputs), batch_size=4)
    assert float(chain[0].running_mean) == 2.0  # type: ignore[arg-type]


def test_frozen_and_earlier_norms_keep_theirs() -> None:
    chain = nn.Sequential(nn.BatchNorm1d(1), nn.BatchNorm1d(1), nn.BatchNorm1d(1))
    chain[1].requires_grad_(False)
    reestimate_batchnorm(chain, Rows(torch.full((4, 1), 5.0)), first_block=1, batch_size=4)
    # What passes the two before it is 5 / (1 + 1e-5), twice the square root of that.
    means = [float(norm.running_mean) for norm in chain]  # type: ignore[arg-type]
    assert means[:2] == [0.0, 0.0]
    assert means[2] == pytest.approx(5 / 1.00001, abs=1e-5)


def test_dropout_is_off() -> None:
    chain = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(1))
    reestimate_batchnorm(chain, Rows(torch.full((4, 1), 5.0)), batch_size=4)
    assert float(chain[1].running_mean) == 5.0  # type: ignore[arg-type]


def test_training_mode_respects_the_prefix() -> None:
    chain = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2), nn.Dropout(), nn.BatchNorm1d(2), nn.Linear(2, 2))
    freeze_before(chain, 2)
    set_training_mode(chain, 2, "train")
    assert [block.training for block in chain] == [False, False, True, True, True]
    set_training_mode(chain, 2, "frozen")
    assert [block.training for block in chain] == [False, False, True, False, True]
    assert [p.requires_grad for p in chain.parameters()] == [False, False, True, True, True, True]


@given(st.integers(1, 200), st.integers(1, 50))
def test_batches_cover_all_and_leave_no_single_sample(count: int, size: int) -> None:
    parts = batches(torch.arange(count), size)
    assert torch.equal(torch.cat(parts), torch.arange(count))
    assert all(len(part) <= size + 1 for part in parts)
    if count > 1 and size > 1:
        assert all(len(part) > 1 for part in parts)
