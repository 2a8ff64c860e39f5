"""Counts against numbers worked by hand, and models that stay as they were."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tascnet.measure import compare_layers, complexity
from tascnet.models.blocks import Concat, Residual


def small() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    )


def test_totals_and_layers_by_hand() -> None:
    cost = complexity(small(), torch.zeros(1, 3, 8, 8))
    params = {layer.name: layer.params for layer in cost.layers}
    flops = {layer.name: layer.flops for layer in cost.layers}
    # 4 filters of 27 weights and a bias; scale and shift of 4 channels; 5 x 4 weights and 5 biases.
    assert params == {"0": 112, "1": 8, "2": 0, "3": 0, "4": 0, "5": 25}
    # 4 x 27 products at 64 places; 2 for each of 256 values; one addition for each; 20 products.
    assert flops == {"0": 6912, "1": 512, "2": 0, "3": 256, "4": 0, "5": 20}
    assert (cost.params, cost.flops) == (145, 7700)


def test_layer_record() -> None:
    first = complexity(small(), torch.zeros(1, 3, 8, 8)).layers[0]
    assert (first.kind, first.width) == ("Conv2d", 4)
    assert (first.in_shape, first.out_shape) == ((1, 3, 8, 8), (1, 4, 8, 8))


def test_depthwise_and_strided_convolution_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6, bias=False))
    # 6 filters of 9 weights at 4 x 4 places.
    assert complexity(model, torch.zeros(1, 6, 8, 8)).flops == 6 * 9 * 16


def test_what_is_counted_is_named() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU6(), nn.MaxPool2d(2))
    counted = complexity(model, torch.zeros(1, 1, 4, 4)).counted
    assert "one multiply-add as one FLOP" in counted
    assert "counted: conv;" in counted
    assert "not counted: hardtanh, max_pool2d" in counted


def test_frozen_parameters_are_not_trainable() -> None:
    model = small()
    model[0].requires_grad_(False)
    cost = complexity(model, torch.zeros(1, 3, 8, 8))
    assert (cost.params, cost.trainable_params) == (145, 33)
    assert not model[0].weight.requires_grad


class OwnWork(nn.Module):
    """A container with a parameter and a product of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4, bias=False)
        self.matrix = nn.Parameter(torch.ones(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) @ self.matrix


def test_a_containers_own_work_is_a_row() -> None:
    cost = complexity(nn.Sequential(OwnWork()), torch.zeros(1, 4))
    rows = {layer.name: (layer.params, layer.flops) for layer in cost.layers}
    assert rows == {"0": (12, 12), "0.inner": (16, 16)}
    assert (cost.params, cost.flops) == (28, 28)


def test_a_shared_layer_has_its_parameters_once_and_its_work_twice() -> None:
    shared = nn.Linear(3, 3, bias=False)
    cost = complexity(nn.Sequential(shared, nn.Tanh(), shared), torch.zeros(1, 3))
    assert (cost.params, cost.flops) == (9, 18)


def test_tied_weights_are_counted_once() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3, bias=False)
    second.weight = first.weight
    cost = complexity(nn.Sequential(first, second), torch.zeros(1, 3))
    assert (cost.params, cost.flops) == (12, 18)


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(1, 6), st.booleans())
def test_layers_add_up_to_the_totals(widths: list[int], side: int, residual: bool) -> None:
    blocks: list[nn.Module] = []
    channels = 2
    for width in widths:
        blocks.append(Concat(nn.Sequential(nn.BatchNorm2d(channels), nn.Conv2d(channels, width, 1))))
        channels += width
    if residual:
        body = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))
        blocks.append(Residual(body, nn.Identity(), nn.ReLU()))
    model = nn.Sequential(*blocks)
    cost = complexity(model, torch.zeros(1, 2, side, side))
    assert sum(layer.flops for layer in cost.layers) == cost.flops > 0
    assert cost.params == sum(p.numel() for p in model.parameters())


def test_the_model_is_left_as_it_was() -> None:
    model = small().train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    complexity(model, torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_model_is_left_as_it_was_after_a_failure() -> None:
    model = small().train()
    with pytest.raises(RuntimeError):
        complexity(model, torch.zeros(1, 2, 8, 8))
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_channels_last_counts_the_same_and_stays() -> None:
    model = small().to(memory_format=torch.channels_last)
    cost = complexity(model, torch.zeros(1, 3, 8, 8))
    assert (cost.params, cost.flops) == (145, 7700)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_an_example_is_one_sample() -> None:
    with pytest.raises(ValueError, match="one sample"):
        complexity(small(), torch.zeros(2, 3, 8, 8))


def test_layers_before_and_after() -> None:
    example = torch.zeros(1, 3)
    before = complexity(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), example)
    after = complexity(nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)), example)
    rows = compare_layers(before, after)
    assert [(row.layer, row.before, row.after) for row in rows] == [("0", 8, 6), ("2", 2, 2)]
    assert [(row.params_before, row.params_after) for row in rows] == [(32, 24), (18, 14)]
    assert [(row.flops_before, row.flops_after) for row in rows] == [(24, 18), (16, 12)]


def test_a_layer_of_one_side_has_no_numbers_on_the_other() -> None:
    before = complexity(nn.Sequential(nn.Linear(3, 2)), torch.zeros(1, 3))
    after = complexity(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), torch.zeros(1, 3))
    assert [(row.before, row.after) for row in compare_layers(before, after)] == [(2, 4), (None, 2)]


def test_import_gives_no_warning() -> None:
    code = "import torch, warnings; warnings.simplefilter('error'); import tascnet.measure"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
