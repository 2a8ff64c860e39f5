"""Networks that cannot be computed with are refused before any work."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import tascnet
from tascnet.errors import ConfigError
from tascnet.models.archive import save
from tascnet.models.info import ModelInfo
from tascnet.models.preprocessing import Preprocessing
from tascnet.models.tensors import check_weights
from tascnet.options import ImageFolder

INFO = ModelInfo(
    backbone="toy",
    preprocessing=Preprocessing(size=8, resize=8, mean=(0.5,), std=(0.5,)),
    class_names=("cat", "dog"),
    weights="random",
    licence="none",
)


def chain() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))


@pytest.mark.parametrize("start", [tascnet.prune, tascnet.tune])
@pytest.mark.parametrize(("name", "value"), [("0.weight", float("nan")), ("1.running_var", float("inf"))])
def test_a_saved_network_that_is_not_finite_loads_but_starts_no_stage(
    start: Callable[..., object], name: str, value: float, tmp_path: Path
) -> None:
    network = chain()
    network.state_dict()[name].view(-1)[-1] = value
    save(network, tmp_path / "model", INFO)
    loaded = tascnet.load(tmp_path / "model")
    assert not torch.isfinite(loaded.state_dict()[name]).all()
    with pytest.raises(ConfigError, match=f"'{name}' of the network holds numbers that are not finite: give"):
        start(loaded, ImageFolder(root=str(tmp_path / "absent")))


def test_a_network_of_ones_own_has_ordinary_finite_tensors() -> None:
    check_weights(chain())
    with pytest.raises(ConfigError, match=r"'0\.weight' of the network is without values"):
        tascnet.backbone(chain().to("meta"), torch.zeros(1, 1, 8, 8), mean=(0.5,), std=(0.5,))
    own = chain()
    with torch.no_grad():
        own[3].bias[0] = float("nan")
    with pytest.raises(ConfigError, match=r"'3\.bias' of the network holds numbers that are not finite"):
        tascnet.backbone(own, torch.zeros(1, 1, 8, 8), mean=(0.5,), std=(0.5,))
    with pytest.raises(ConfigError, match=r"'0\.weight' of the network is without a shape"):
        check_weights(nn.Sequential(nn.LazyLinear(2)))
