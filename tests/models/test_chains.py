from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tascnet.models.blocks import Residual, SliceAndPad
from tascnet.models.build import SMALL, build_chain
from tests.models.networks import original

SIDE = {"resnet20": 32, "digits_cnn": 8}


def images(name: str, count: int = 2, channels: int = 3) -> torch.Tensor:
    side = SIDE[name]
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(5))


def test_outputs_equal_the_originals_to_the_last_bit(tmp_path: Path) -> None:
    name = "resnet20"
    model = original(name, 7)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    chain = build_chain(name, weights=tmp_path / "weights.safetensors")
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = images(name).to(memory_format=memory_format)
        model, chain = model.to(memory_format=memory_format), chain.to(memory_format=memory_format)
        with torch.inference_mode():
            expected, came = model(x), chain(x)
        assert expected.std() > 1e-6
        assert torch.equal(expected, came)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("resnet20", 269_722),
        ("resnet56", 853_018),
    ],
)
def test_params_are_the_published_ones(name: str, params: int) -> None:
    chain = build_chain(name)
    assert sum(parameter.numel() for parameter in chain.parameters()) == params


def test_params_of_digits_cnn_by_hand() -> None:
    chain = build_chain("digits_cnn", weights="random", channels=1, num_classes=5)
    convolutions = 9 * (1 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64)
    norms = 2 * (16 + 32 + 32 + 64 + 64)
    classifier = 2 * 2 * 64 * 5 + 5
    assert sum(parameter.numel() for parameter in chain.parameters()) == convolutions + norms + classifier


@pytest.mark.parametrize("name", ["resnet20", "digits_cnn"])
def test_every_chain_is_flat_named_and_ends_in_the_classifier(name: str) -> None:
    channels = 1 if name == "digits_cnn" else 3
    chain = build_chain(name, channels=channels, num_classes=4)
    names = [child for child, _ in chain.named_children()]
    assert type(chain) is nn.Sequential
    assert names[-1] == "classifier"
    assert not any(child.startswith("head_") or child.isdigit() for child in names)
    assert chain.classifier.out_features == 4
    assert not any(getattr(module, "inplace", False) for module in chain.modules())
    x = images(name, 1, channels)
    with torch.inference_mode():
        for block in chain:
            before = x.clone()
            after = block(x)
            assert torch.equal(before, x), "a tail that starts here would overwrite cached features"
            x = after
    assert x.shape == (1, 4)


@pytest.mark.parametrize("name", SMALL)
def test_chains_hold_layers_of_torch_and_our_blocks_alone(name: str) -> None:
    chain = build_chain(name)
    for module in chain.modules():
        assert type(module) in (Residual, SliceAndPad) or type(module).__module__.startswith("torch.nn.")


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("resnet20", 3 + 9 + 3),
        ("resnet56", 3 + 27 + 3),
        ("digits_cnn", 15 + 2 + 3),
    ],
)
def test_block_counts_by_hand(name: str, blocks: int) -> None:
    assert len(build_chain(name)) == blocks


def test_other_input_channels() -> None:
    chain = build_chain("resnet20", channels=1, num_classes=3)
    assert chain(torch.randn(1, 1, 32, 32)).shape == (1, 3)
