"""Covariances of channels that hardly vary keep their digits, and least squares on them have a solution."""

import copy
import itertools
import logging
from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tascnet.errors import SurgeryError
from tascnet.inherit import ChannelMoments, hand_over, input_moments, input_positions, refit
from tascnet.inherit.cholesky import factorised
from tascnet.inherit.refitting import _absorbed
from tascnet.surgery import narrow, width_groups


def moments_of(rows: Tensor, *sizes: int) -> ChannelMoments:
    """The moments of rows that come in parts of these sizes."""
    moments = ChannelMoments(rows.shape[1])
    for part in rows.split(list(sizes) or len(rows)):
        moments.add(part)
    return moments


@pytest.mark.parametrize("sizes", [(4,), (1, 3), (2, 2), (1, 1, 1, 1)])
def test_a_covariance_by_hand_far_from_zero(sizes: tuple[int, ...]) -> None:
    """Deviations 1e-3 x (-1, 1, 1, -1) and 1e-3 x (-1, 3, -1, -1) around 1e4: both have the mean 1e4."""
    deviations = torch.tensor([[-1.0, 1, 1, -1], [-1, 3, -1, -1]], dtype=torch.float64).T
    moments = moments_of(1e4 + 1e-3 * deviations, *sizes)
    expected = 1e-6 * torch.tensor([[1.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    # Numbers near 1e4 lie 1.8e-12 apart in float64, a billionth of the deviations.
    torch.testing.assert_close(moments.covariance, expected, rtol=1e-8, atol=0)
    torch.testing.assert_close(moments.mean, torch.full((2,), 1e4, dtype=torch.float64), rtol=1e-15, atol=0)


@given(
    seed=st.integers(0, 1000),
    # Powers of two and multiples of 2^-10: sums with these shifts are exact.
    shift=st.integers(-(2**30), 2**30),
    cuts=st.lists(st.integers(1, 30), max_size=3, unique=True),
)
@settings(max_examples=60, deadline=None)
def test_a_shift_changes_no_covariance(seed: int, shift: int, cuts: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(-1024, 1024, (31, 4), generator=generator).double() / 1024
    edges = [0, *sorted(cuts), 31]
    sizes = [end - start for start, end in itertools.pairwise(edges)]
    expected = torch.cov(rows.T, correction=0)
    torch.testing.assert_close(moments_of(rows + shift, *sizes).covariance, expected, rtol=1e-6, atol=1e-7)


def near_constant(deviation: float = 1e-6) -> nn.Sequential:
    """As MobileNetV3 with random weights: behind every batch-norm the channels vary by a millionth or so."""
    torch.manual_seed(0)
    layers: list[tuple[str, nn.Module]] = []
    for index, (inputs, outputs) in enumerate([(3, 16), (16, 24), (24, 16)]):
        layers += [
            (f"conv{index}", nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)),
            (f"norm{index}", nn.BatchNorm2d(outputs)),
            (f"act{index}", nn.Hardswish()),
        ]
    layers += [("pool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten()), ("classifier", nn.Linear(16, 5))]
    chain = nn.Sequential(OrderedDict(layers)).eval()
    with torch.no_grad():
        for module in chain.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.fill_(deviation)
                module.bias.copy_(1 + torch.rand(module.num_features))
    return chain


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(8, 3, 8, 8, generator=generator), torch.randint(5, (8,), generator=generator))
        for _ in range(4)
    ]


@pytest.mark.parametrize("deviation", [1e-1, 1e-4, 1e-5, 1e-6, 1e-7, 1e-9, 0.0])
def test_channels_that_hardly_vary_are_folded_into_one_another(deviation: float) -> None:
    whole = near_constant(deviation)
    example = batches()[0][0][:1]
    network = copy.deepcopy(whole)
    groups = [group for group in width_groups(network, example) if group.width > 8]
    keep = hand_over(network, groups, {group.name: 8 for group in groups}, batches)
    narrow(network, example, keep)
    kept = {layer: keep[group.name] for group in groups for layer in group.filters}
    refit(network, whole, kept, lambda: (images for images, _ in batches()))
    images = batches()[0][0]
    expected, given = whole(images).detach(), network(images).detach()
    # Of outputs of about 1; what varies of them is lost in part, their level is not.
    torch.testing.assert_close(given, expected, rtol=0, atol=max(0.3 * deviation, 2e-5))


def test_inputs_that_are_no_finite_numbers_are_named() -> None:
    chain = near_constant()
    with torch.no_grad():
        chain.conv1.weight[0, 0, 0, 0] = torch.nan
    images = batches()[0][0]
    groups = width_groups(near_constant(), images[:1])
    inputs = input_positions(near_constant(), groups)
    with pytest.raises(SurgeryError, match="the inputs of 'conv2' are no finite numbers"):
        input_moments(chain, inputs, [images])


def test_a_factorisation_that_fails_raises_the_ridge(caplog: pytest.LogCaptureFixture) -> None:
    # The eigenvalues of the second are 5 and -3: nothing below a ridge of 3 makes it definite.
    matrices = torch.tensor([[[2.0, 1.0], [1.0, 2.0]], [[1.0, 4.0], [4.0, 1.0]]], dtype=torch.float64)
    before = matrices.clone()
    with caplog.at_level(logging.INFO, "tascnet"):
        factors = factorised(matrices, 1e-3)
    assert torch.equal(matrices, before)
    found = factors @ factors.mT - matrices
    eye = torch.eye(2, dtype=torch.float64)
    # The first keeps its ridge; of 0.01, 0.1, 1 and 10 the last is large enough for the second.
    torch.testing.assert_close(found, torch.stack([1e-3 * eye, 10 * eye]))
    assert "least squares with a ridge of 1e+01" in caplog.text
    assert len(caplog.records) == 1


def test_without_a_ridge_the_first_one_is_as_small_as_the_matrix_allows() -> None:
    # Of rank 1.
    matrix = 1e6 * torch.ones(3, 3, dtype=torch.float64)
    matrix[2, 2] -= 1e-6
    factor = factorised(matrix, 0.0)
    torch.testing.assert_close(factor @ factor.mT, matrix, rtol=1e-6, atol=0)


def test_numbers_that_are_not_finite_have_no_solution() -> None:
    with pytest.raises(SurgeryError, match="least squares have no solution"):
        factorised(torch.full((2, 2), torch.nan), 1e-3)


def test_batch_norm_measures_a_variance_far_from_zero() -> None:
    """The values 1e4 - 1/4 and 1e4 + 1/4 in equal numbers, over two batches."""
    network = nn.Sequential(nn.BatchNorm2d(1)).eval()
    signs = torch.tensor([1.0, -1, 1, -1]).reshape(2, 1, 1, 2)
    with torch.no_grad(), _absorbed(network):
        for values in (1e4 + signs / 4, 1e4 + signs[:1] / 4):
            network(values)
    assert network[0].running_mean.item() == 1e4
    assert network[0].running_var.item() == 1 / 16
