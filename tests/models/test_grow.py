import copy
import math
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tascnet.errors import SurgeryError
from tascnet.measure import complexity
from tascnet.models.archive import load, save
from tascnet.models.blocks import L2Norm, Scale
from tascnet.models.build import SMALL, build_chain
from tascnet.models.grow import grow_head, output_magnitude
from tascnet.models.head import HeadSpec, classifier_of, head_start, head_width, replace_head
from tascnet.models.info import ModelInfo
from tascnet.models.preprocessing import Preprocessing
from tascnet.options import NORMS
from tascnet.surgery import WidthGroup, all_channel_scores, narrow, width_groups
from tests.models.networks import shaken
from tests.models.toys import EXAMPLE, TOYS

INFO = ModelInfo(
    backbone="toy",
    preprocessing=Preprocessing(size=32, resize=36, mean=(0.5,) * 3, std=(0.2,) * 3),
    class_names=("cat", "dog", "emu"),
    weights="random",
    licence="none",
)


def toy(features: int = 6, classes: int = 50) -> nn.Sequential:
    torch.manual_seed(0)
    blocks = OrderedDict(
        fc=nn.Linear(4, features), relu=nn.ReLU(), drop=nn.Dropout(), classifier=nn.Linear(features, classes)
    )
    return nn.Sequential(blocks)


def grown(norm: str = "none", spec: HeadSpec | None = None, magnitude: float = 2.0) -> nn.Sequential:
    chain = toy()
    kept = classifier_of(chain)
    return grow_head(chain, kept, spec or HeadSpec(), norm, 3, magnitude=magnitude, seed=1)


def names(chain: nn.Sequential) -> list[str]:
    return [name for name, _ in chain.named_children()]


def test_l2_gives_unit_vectors_and_survives_zeros() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-5e-5, 12e-5]], requires_grad=True)
    y = L2Norm()(x)
    # 3-4-5 and 5-12-13.
    torch.testing.assert_close(y, torch.tensor([[0.6, 0.8], [0.0, 0.0], [-5 / 13, 12 / 13]]))
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_scale_is_one_parameter_that_moves_the_factor_in_proportion() -> None:
    scale = Scale(0.5)
    x = torch.tensor([[1.0, -4.0]])
    assert scale(x).tolist() == [[0.5, -2.0]]
    assert [parameter.numel() for parameter in scale.parameters()] == [1]
    with torch.no_grad():
        scale.weight.mul_(1.5)
    assert scale(x).tolist() == [[0.75, -3.0]]


def test_magnitude_is_the_root_mean_square_over_all_batches() -> None:
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(2))
        layer.bias.copy_(torch.tensor([0.0, 1.0]))
    batches = [torch.tensor([[3.0, 1.0]]), torch.tensor([[0.0, -1.0], [1.0, 1.0]]).half()]
    # Outputs (3, 2), (0, 0), (1, 2): squares 9 + 4 + 0 + 0 + 1 + 4 of 6 values.
    assert output_magnitude(layer, iter(batches)) == pytest.approx(math.sqrt(18 / 6))


@pytest.mark.parametrize(("norm", "expected"), [("none", 1 / 2.0), ("l2", math.sqrt(50)), ("batchnorm", 1.0)])
def test_the_scale_begins_where_magnitudes_meet(norm: str, expected: float) -> None:
    assert grown(norm).head_kept_scale.initial == pytest.approx(expected)


@pytest.mark.parametrize("norm", NORMS)
def test_new_layers_begin_with_inputs_of_root_mean_square_one(norm: str) -> None:
    chain = toy()
    features = chain[:2](100 * torch.randn(64, 4, generator=torch.Generator().manual_seed(3)))
    magnitude = output_magnitude(classifier_of(chain), features.split(30))
    assert magnitude > 10, "otherwise the scale would have nothing to do"
    head = grow_head(
        chain, classifier_of(chain), HeadSpec(hidden=(5,)), norm, 3, magnitude=magnitude, seed=0
    )[2:]
    until = names(head).index("head_kept_activation")
    before = head[:until].train()(features)
    assert before.square().mean().sqrt().item() == pytest.approx(1.0, rel=1e-3)


def test_grown_head_has_the_layers_asked_for() -> None:
    assert names(grown()) == [
        "fc",
        "relu",
        "head_kept",
        "head_kept_scale",
        "head_kept_activation",
        "classifier",
    ]
    chain = grown("batchnorm", HeadSpec(hidden=(7, 8), dropout=0.3, activation="elu"))
    kept = ["kept_dropout", "kept", "kept_norm", "kept_scale", "kept_activation"]
    new = [
        "dropout0",
        "linear1",
        "bn1",
        "activation1",
        "dropout1",
        "linear2",
        "bn2",
        "activation2",
        "dropout2",
    ]
    assert names(chain) == ["fc", "relu", *(f"head_{block}" for block in kept + new), "classifier"]
    assert isinstance(chain.head_kept_activation, nn.ELU)
    assert isinstance(chain.head_kept_norm, nn.BatchNorm1d)
    assert isinstance(grown("l2").head_kept_norm, L2Norm)
    linears = [(m.in_features, m.out_features) for m in chain if isinstance(m, nn.Linear)]
    assert linears == [(4, 6), (6, 50), (50, 7), (7, 8), (8, 3)]
    assert chain(torch.randn(2, 4)).shape == (2, 3)


def test_the_kept_layer_is_a_trainable_copy_and_the_chain_stays() -> None:
    chain = toy()
    old = classifier_of(chain).requires_grad_(False)
    new = grow_head(chain, old, HeadSpec(), "none", 3, magnitude=1.0, seed=0)
    assert torch.equal(new.head_kept.weight, old.weight)
    assert new.head_kept.weight is not old.weight
    assert all(parameter.requires_grad for parameter in new[2:].parameters())
    assert new.fc is chain.fc
    assert names(chain) == ["fc", "relu", "drop", "classifier"]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("spec", [HeadSpec(), HeadSpec(hidden=(5,), dropout=0.2)])
def test_heads_after_a_grown_one_stand_on_the_features(norm: str, spec: HeadSpec) -> None:
    chain = grown(norm, spec)
    assert head_start(chain) == 2
    assert head_width(chain) == 6
    assert classifier_of(chain).out_features == 3
    new = replace_head(chain, HeadSpec(), 9, seed=0)
    assert names(new) == ["fc", "relu", "classifier"]
    assert new(torch.zeros(1, 4)).shape == (1, 9)
    again = grow_head(chain, chain.head_kept, spec, norm, 3, magnitude=2.0, seed=1)
    assert names(again) == names(chain)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), chain.parameters(), strict=True))


def test_the_kept_layer_is_a_hidden_layer() -> None:
    """Without an activation the network would be affine in its features."""
    head = grown()[2:].eval()
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    zero = head(torch.zeros(1, 6))
    assert not torch.allclose(head(2 * x) - zero, 2 * (head(x) - zero), atol=1e-3)


def test_impossible_heads_are_refused() -> None:
    chain = toy()
    with pytest.raises(SurgeryError, match=r"has 5 inputs, expected 6.*before the features"):
        grow_head(chain, nn.Linear(5, 50), HeadSpec(), "none", 3, magnitude=1.0, seed=0)
    for magnitude in (0.0, float("nan"), float("inf"), -1.0):
        with pytest.raises(SurgeryError, match="check its weights"):
            grown("none", magnitude=magnitude)


def test_a_head_takes_the_type_of_the_chain() -> None:
    chain = toy().double()
    new = grow_head(chain, toy().classifier, HeadSpec(), "batchnorm", 3, magnitude=1.0, seed=0)
    assert {parameter.dtype for parameter in new.parameters()} == {torch.float64}


def backbone(name: str, classes: int | None = None) -> tuple[nn.Sequential, Tensor]:
    if name in TOYS:
        return replace_head(TOYS[name](), HeadSpec(), classes or 5, seed=0), torch.cat(
            [EXAMPLE, EXAMPLE.flip(-1)]
        )
    channels, size = (1, 8) if name == "digits_cnn" else (3, 32)
    chain = build_chain(name, channels=channels, num_classes=classes)
    return chain, torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", [*SMALL, "mobilenet_v2"])
def test_every_backbone_keeps_its_own_classification_layer(name: str) -> None:
    made, images = backbone(name)
    old = classifier_of(made)
    # Published: 1000 classes of ImageNet; the others have the 10 of CIFAR-10 or of the digits.
    assert old.out_features == (10 if name in SMALL else 1000)
    new = grow_head(made, old, HeadSpec(hidden=(4,)), "l2", 3, magnitude=1.0, seed=0).eval()
    with torch.no_grad():
        assert torch.equal(new[: list(new).index(new.head_kept) + 1](images), made(images))
        assert new(images).shape == (2, 3)


def surgical(name: str, norm: str) -> tuple[nn.Sequential, Tensor]:
    """A backbone in eval mode, with statistics of its own, and a grown head with one hidden layer."""
    made, images = backbone(name, 20)
    # ELU is zero at zero, as silencing needs, and leaves no channel unread.
    spec = HeadSpec(hidden=(12,), dropout=0.2, activation="elu")
    new = grow_head(made, classifier_of(made), spec, norm, 3, magnitude=1.5, seed=0)
    return shaken(new), images


def silence(chain: nn.Sequential, group: WidthGroup, removed: list[int]) -> None:
    for name in set(group.members) - set(group.consumers):
        layer = chain.get_submodule(name)
        with torch.no_grad():
            layer.weight[removed] = 0
            if layer.bias is not None:
                layer.bias[removed] = 0


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["digits_cnn", "depthwise"])
def test_every_cut_equals_silencing(name: str, norm: str) -> None:
    chain, images = surgical(name, norm)
    groups = width_groups(chain, images[:1])
    made, _ = backbone(name)
    inner = [group.name for group in width_groups(made, images[:1])]
    assert [group.name for group in groups] == [*inner, "head_kept", "head_linear1"]
    assert groups[-2].width == 20
    for group in groups:
        kept = range(1, group.width, 2)
        silenced, narrowed = copy.deepcopy(chain), copy.deepcopy(chain)
        silence(silenced, group, list(range(0, group.width, 2)))
        narrow(narrowed, images[:1], {group.name: kept})
        assert not torch.equal(chain(images), silenced(images)), "the channels are read"
        torch.testing.assert_close(narrowed(images), silenced(images), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["digits_cnn", "depthwise"])
def test_a_narrowed_tail_with_a_grown_head_equals_the_silenced_one(name: str, norm: str) -> None:
    """First the head, then the widths: the kept layer loses the inputs that its features lose."""
    chain, images = surgical(name, norm)
    cut = list(chain).index(chain.head_kept) - 6
    tail = chain[cut:]
    with torch.no_grad():
        features = chain[:cut](images)
    group = next(g for g in width_groups(tail, features[:1]) if "head_kept" in g.consumers)
    removed = [1, 2]
    silenced, inputs = copy.deepcopy(tail), tail.head_kept.in_features
    silence(silenced, group, removed)
    narrow(tail, features[:1], {group.name: sorted(set(range(group.width)) - set(removed))})
    # The digits network flattens maps of 2 x 2.
    assert tail.head_kept.in_features == inputs - 2 * (4 if name == "digits_cnn" else 1)
    torch.testing.assert_close(tail(features), silenced(features), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["digits_cnn", "depthwise"])
def test_a_pruned_network_with_a_grown_head_runs_and_is_saved(name: str, norm: str, tmp_path: Path) -> None:
    chain, images = surgical(name, norm)
    groups = width_groups(chain, images[:1])
    for criterion in ("magnitude", "fpgm"):
        scores = all_channel_scores(chain, images[:1], groups[-2:], criterion)
        assert [tuple(scores[group.name].shape) for group in groups[-2:]] == [(20,), (12,)]
    assert groups[-2].inputs["head_linear1"].flatten().tolist() == list(range(20))
    narrow(chain, images[:1], {group.name: range(2, group.width) for group in groups})
    with torch.no_grad():
        chain.head_kept_scale.weight.mul_(0.7)
    colours = (0.5,) * images.shape[1]
    taken = Preprocessing(size=images.shape[-1], resize=images.shape[-1], mean=colours, std=colours)
    save(chain, tmp_path, replace(INFO, preprocessing=taken))
    again = load(tmp_path)
    assert str(again) == str(chain)
    assert list(again.state_dict()) == list(chain.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), chain.parameters(), strict=True))
    with torch.inference_mode():
        assert torch.equal(again(images), chain(images))


@pytest.mark.parametrize("norm", NORMS)
def test_costs_of_a_grown_head(norm: str) -> None:
    chain = grown(norm)
    # fc, kept layer, scale, classifier; batch-norm has two values an output.
    params = (4 * 6 + 6) + (6 * 50 + 50) + 1 + (50 * 3 + 3) + (100 if norm == "batchnorm" else 0)
    assert complexity(chain, torch.zeros(1, 4)).params == params


@pytest.mark.parametrize("norm", NORMS)
def test_all_of_a_grown_head_learns(norm: str) -> None:
    chain = grown(norm, HeadSpec(hidden=(8,)))
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    loss = nn.functional.cross_entropy(chain.train()(x), torch.arange(16) % 3)
    loss.backward()
    head = chain[head_start(chain) :]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    assert head.head_kept_scale.weight.grad.abs() > 0 or norm == "batchnorm"
