import copy

import pytest
import torch
from torch import nn

from tascnet.inherit import hand_over
from tascnet.surgery import narrow, width_groups


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 6, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, 4),
    )


def duplicated(model):
    """The second half of the first layer's channels repeats the first, and the next layer reads both."""
    with torch.no_grad():
        for parameter in model[0].parameters():
            parameter[4:] = parameter[:4]
    return model


def batches():
    generator = torch.Generator().manual_seed(1)
    for _ in range(8):
        yield torch.randn(16, 3, 4, 4, generator=generator), torch.randint(4, (16,), generator=generator)


def test_channels_that_others_repeat_go_without_a_trace():
    model = duplicated(network())
    images, _ = next(batches())
    before = copy.deepcopy(model)(images)
    example = images[:1]
    group = next(group for group in width_groups(model, example) if group.name == "0")
    keep = hand_over(model, [group], {"0": 4}, batches)
    assert sorted(channel % 4 for channel in keep["0"]) == [0, 1, 2, 3]
    narrow(model, example, keep)
    assert model[0].out_channels == 4
    torch.testing.assert_close(model(images), before, atol=1e-2, rtol=1e-2)


def test_groups_in_series_lose_less_than_without_a_word():
    """The same channels go; least squares leave a smaller error."""
    model = network()
    images = torch.cat([images for images, _ in batches()])
    example = images[:1]
    groups = [group for group in width_groups(model, example) if group.name in ("0", "2")]
    spoken, silent = copy.deepcopy(model), copy.deepcopy(model)
    keep = hand_over(spoken, groups, {"0": 5, "2": 4}, batches)
    assert {name: len(channels) for name, channels in keep.items()} == {"0": 5, "2": 4}
    assert all(channels == sorted(channels) for channels in keep.values())
    for copied in (spoken, silent):
        narrow(copied, example, keep)
    lost = [(copied(images) - model(images)).square().mean() for copied in (spoken, silent)]
    assert lost[0] < 0.8 * lost[1]


@pytest.mark.parametrize("level", [0.1, 1e8])
@pytest.mark.parametrize("silent", [4, 8])
def test_channels_without_signal_cost_nothing(silent, level):
    """Hardly anything varies in a deep network with random weights: only rounding errors are left of it."""
    model = network()
    with torch.no_grad():
        model[0].weight[:silent] *= 1e-8
        model[0].bias[:silent] = level + level * torch.rand(silent)
    images, _ = next(batches())
    before = copy.deepcopy(model)(images)
    group = next(group for group in width_groups(model, images[:1]) if group.name == "0")
    keep = hand_over(model, [group], {"0": 4}, batches)
    if silent == 4:
        assert keep["0"] == [4, 5, 6, 7]
    narrow(model, images[:1], keep)
    torch.testing.assert_close(model(images), before, rtol=1e-4, atol=1e-4)


def test_dead_channels_cost_nothing():
    model = network()
    with torch.no_grad():
        model[0].weight[2:6] = 0
        model[0].bias[2:6] = -1
    images, _ = next(batches())
    before = copy.deepcopy(model)(images)
    group = next(group for group in width_groups(model, images[:1]) if group.name == "0")
    keep = hand_over(model, [group], {"0": 4}, batches)
    assert keep["0"] == [0, 1, 6, 7]
    narrow(model, images[:1], keep)
    assert torch.equal(model(images), before)
