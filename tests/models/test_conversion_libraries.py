"""Networks of torchvision and timm, as chains."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

from tascnet.models.blocks import Concat, Residual
from tascnet.models.conversion import Converted, convert
from tascnet.models.describe import construct, describe
from tascnet.options import Tune
from tascnet.tuning.choices import discover_units
from tests.models.networks import shaken

Choices = tuple[tuple[str, int | float | str], ...]


def head(dropout: float) -> Choices:
    return (("hidden_layers", 0), ("neurons", 128), ("dropout", dropout))


def unit(*widths: int, kernel: int | None = 3, activation: str = "relu", kept: bool = False) -> Choices:
    """The choices of one unit and their neutral values, in their order."""
    first: Choices = (("kept", 1),) if kept else ()
    side: Choices = () if kernel is None else (("kernel", kernel),)
    return (*first, *(("width", width) for width in widths), *side, ("activation", activation))


def dense(layers: int) -> list[Choices]:
    return [unit(128, 32)] * layers


def inverted(width: int, count: int) -> list[Choices]:
    return [unit(width, kept=True, activation="relu6")] * count


def widening(*widths: int) -> list[Choices]:
    return [unit(*widths, activation="relu6")]


# What the chains that were written by hand offered, unit by unit from the output.
UNITS: dict[str, list[Choices]] = {
    "resnet18": [
        head(0.0),
        *(item for width in (512, 256, 128) for item in (unit(width, kept=True), unit(width, width))),
        *[unit(64, kept=True)] * 2,
        unit(64, kernel=7),
    ],
    "vgg16": [
        head(0.5),
        *[unit(4096, kernel=None)] * 2,
        *[unit(512)] * 6,
        *[unit(256)] * 3,
        *[unit(128)] * 2,
        *[unit(64)] * 2,
    ],
    "densenet121": [
        head(0.0),
        *dense(16),
        unit(512, kernel=None),
        *dense(24),
        unit(256, kernel=None),
        *dense(12),
        unit(128, kernel=None),
        *dense(6),
        unit(64, kernel=7),
    ],
    "mobilenet_v2": [
        head(0.2),
        unit(1280, kernel=None, activation="relu6"),
        *widening(960, 320),
        *inverted(960, 2),
        *widening(576, 160),
        *inverted(576, 2),
        *widening(384, 96),
        *inverted(384, 3),
        *widening(192, 64),
        *inverted(192, 2),
        *widening(144, 32),
        *inverted(144, 1),
        *widening(96, 24),
        *widening(16),
        *widening(32),
    ],
}


def on_meta(name: str) -> nn.Sequential:
    with torch.device("meta"):
        network = torchvision.models.get_model(name, weights=None)
        return convert(network, torch.zeros(1, 3, 32, 32), check=False, share=True).chain


@pytest.mark.parametrize("name", UNITS)
def test_search_space_is_that_of_chains_written_by_hand(name: str) -> None:
    with torch.device("meta"):
        units = discover_units(on_meta(name), torch.zeros(1, 3, 32, 32), Tune())
    found = [
        tuple((choice.name.rpartition(".")[2], choice.neutral) for choice in unit.choices) for unit in units
    ]
    assert found == UNITS[name]


@pytest.mark.parametrize(
    ("name", "params", "blocks", "residuals", "concats"),
    [
        # 13 convolutions with ReLU, 5 poolings, average pool, flatten, 2 dense layers, classifier.
        ("vgg16", 138_357_544, 13 * 2 + 5 + 2 + 6 + 1, 0, 0),
        ("resnet18", 11_689_512, 4 + 8 + 3, 8, 0),
        ("resnet50", 25_557_032, 4 + 16 + 3, 16, 0),
        ("densenet121", 7_978_856, 4 + (6 + 12 + 24 + 16) + 3 + 2 + 3, 0, 58),
        # Of 17 inverted residuals 10 keep their shape.
        ("mobilenet_v2", 3_504_872, 1 + 17 + 1 + 4, 10, 0),
    ],
)
def test_params_and_blocks_are_the_published_ones(
    name: str, params: int, blocks: int, residuals: int, concats: int
) -> None:
    chain = on_meta(name)
    assert sum(parameter.numel() for parameter in chain.parameters()) == params
    assert len(chain) == blocks
    assert sum(isinstance(block, Residual) for block in chain) == residuals
    assert sum(isinstance(block, Concat) for block in chain) == concats


def compared(network: nn.Module, side: int) -> Converted:
    """The conversion, whose described and rebuilt chain gives what the network gives."""
    network = shaken(network)
    result = convert(network, torch.zeros(1, 3, side, side))
    chain = construct(describe(result.chain)).eval()
    chain.load_state_dict(result.chain.state_dict())
    x: Tensor = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(2))
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = x.to(memory_format=memory_format)
        network, chain = network.to(memory_format=memory_format), chain.to(memory_format=memory_format)
        with torch.no_grad():
            expected, came = network(x), chain(x)
        assert expected.std() > 1e-6
        if result.rewritten:
            most = 1e-5 * float(expected.abs().max())
            torch.testing.assert_close(came, expected, rtol=0.0, atol=most)
        else:
            assert torch.equal(came, expected)
    return result


@pytest.mark.parametrize(
    ("name", "rewritten"),
    [
        ("shufflenet_v2_x0_5", ()),
        ("mobilenet_v3_small", ()),
        ("squeezenet1_1", ("an identity matrix of 7 x 7 is appended as the classifier",)),
    ],
)
def test_networks_of_torchvision(name: str, rewritten: tuple[str, ...]) -> None:
    network = torchvision.models.get_model(name, weights=None, num_classes=7)
    result = compared(network, 64)
    assert result.rewritten == rewritten
    assert set(result.keys.values()) == set(network.state_dict())


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("test_byobnet", ""),
        ("test_convnext2", ""),
        ("test_efficientnet", ""),
        ("test_mambaout", ""),
        ("test_nfnet", "the weight that it computes each time is kept as it is"),
        ("test_resnet", ""),
        ("test_vit", ""),
    ],
)
def test_networks_of_timm(name: str, kept: str) -> None:
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model(name, num_classes=7)
    result = compared(network, 160 if name == "test_vit" else 64)
    assert {reason.partition(": ")[2] for reason in result.rewritten} == ({kept} if kept else set())
    if not kept:
        assert set(result.keys.values()) == set(network.state_dict())
