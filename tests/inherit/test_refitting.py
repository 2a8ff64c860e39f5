"""After a refit the narrowed network says what the whole one said, more nearly than by folding alone."""

import copy
import logging
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

import tascnet
from tascnet.inherit import fold_into, input_moments, input_positions, refit, refitting
from tascnet.inherit.refitting import survey
from tascnet.surgery import narrow, width_groups, without_blocks
from tests.models.toys import EXAMPLE, TOYS


def images(seed: int = 0, count: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(32, 3, 8, 8, generator=generator) for _ in range(count)]


def cut(chain: nn.Sequential, share: float = 0.3) -> tuple[nn.Sequential, dict[str, list[int]]]:
    """The network without a share of every group, folded, and by layer the outputs that stayed."""
    network = copy.deepcopy(chain)
    groups = [group for group in width_groups(network, EXAMPLE) if group.width >= 4]
    inputs = input_positions(network, groups)
    moments = input_moments(network, inputs, images())
    keep, kept = {}, {}
    for group in groups:
        removed = list(range(0, group.width, round(1 / share)))
        fold_into(network, inputs[group.name], moments[group.name], removed)
        keep[group.name] = [channel for channel in range(group.width) if channel not in removed]
        kept |= dict.fromkeys(group.filters, keep[group.name])
    narrow(network, EXAMPLE, keep)
    return network.eval(), kept


def distance(network: nn.Module, whole: nn.Module) -> float:
    """Share of the variance of the whole network's outputs that is missed on images not seen before."""
    fresh = torch.cat(images(seed=1, count=4))
    with torch.no_grad():
        expected, given = whole.eval()(fresh), network.eval()(fresh)
    return float((given - expected).square().sum() / (expected - expected.mean(0)).square().sum())


@pytest.mark.parametrize("kind", TOYS)
def test_less_is_lost_than_by_folding_alone(kind: str) -> None:
    whole = TOYS[kind]()
    network, kept = cut(whole)
    folded = distance(network, whole)
    refit(network, whole, kept, images)
    assert distance(network, whole) < 0.6 * folded


@pytest.mark.parametrize("kind", TOYS)
def test_without_a_cut_nothing_changes(kind: str) -> None:
    whole = TOYS[kind]()
    network = copy.deepcopy(whole)
    refit(network, whole, {}, images)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, network.state_dict()[key]), key


def test_what_lies_before_the_cut_stays_as_it_is() -> None:
    whole = TOYS["residual"]()
    network = copy.deepcopy(whole)
    narrow(network, EXAMPLE, {"b1.body.conv1": [0, 1, 2, 5, 6, 7, 8, 9]})
    before = network.state_dict()
    before = {key: value.clone() for key, value in before.items()}
    refit(network, whole, {"b1.body.conv1": [0, 1, 2, 5, 6, 7, 8, 9]}, images)
    changed = {
        key.split(".")[0] for key, value in network.state_dict().items() if not value.equal(before[key])
    }
    assert changed == {"b1", "classifier"}


def test_channels_that_others_repeat_go_without_a_trace() -> None:
    """Nothing is folded: the consumer finds the removed half in the other."""
    torch.manual_seed(0)
    layers = OrderedDict(a=nn.Conv2d(3, 8, 3), relu=nn.ReLU(), b=nn.Conv2d(8, 5, 3, stride=2))
    whole = nn.Sequential(layers)
    with torch.no_grad():
        for parameter in whole.a.parameters():
            parameter[4:] = parameter[:4]
    network = copy.deepcopy(whole)
    narrow(network, EXAMPLE, {"a": [0, 1, 2, 3]})
    assert distance(network, whole) > 0.1
    refit(network, whole, {"a": [0, 1, 2, 3]}, images)
    assert distance(network, whole) < 1e-4


def test_statistics_of_batches_change_nothing_afterwards() -> None:
    """In train mode batch-norm takes those of the batch, which here is all that they were measured on."""
    whole = TOYS["residual"]()
    network, kept = cut(whole)
    refit(network, whole, kept, images)
    everything = torch.cat(images())
    evaluated = network.eval()(everything)
    torch.testing.assert_close(network.train()(everything), evaluated, rtol=1e-3, atol=1e-3)


def test_the_blocks_behind_make_up_for_one_that_has_gone() -> None:
    whole = TOYS["residual"]()
    network, _ = without_blocks(copy.deepcopy(whole), {"b1"})
    without = distance(network, whole)
    refit(network, whole, {}, images)
    assert distance(network, whole) < 0.5 * without


def test_layers_too_wide_to_solve_for_correct_their_outputs_by_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = TOYS["plain"]()
    network, kept = cut(whole)
    folded = distance(network, whole)
    monkeypatch.setattr(refitting, "WIDEST", 12)
    refit(network, whole, kept, images)
    corrected = distance(network, whole)
    assert corrected < folded
    network, kept = cut(whole)
    before = copy.deepcopy(network)
    monkeypatch.setattr(refitting, "WIDEST", 1)
    refit(network, whole, kept, images)
    for name in ("conv1", "conv2", "fc", "classifier"):
        assert torch.equal(network.get_submodule(name).weight, before.get_submodule(name).weight)  # type: ignore[arg-type]


def test_memory_bounds_the_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = TOYS["plain"]()
    network, kept = cut(whole)
    seen: list[int] = []
    # Of 10 samples in both networks; between blocks there are at most 12 channels of 8 x 8 pixels.
    monkeypatch.setattr(refitting, "BYTES", 10 * 2 * 12 * 8 * 8 * 4)
    whole.conv2.register_forward_pre_hook(lambda _module, inputs: seen.append(len(inputs[0])))
    refit(network, whole, kept, images)
    assert set(seen) == {1, 10}


def test_the_size_of_batches_changes_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = TOYS["residual"]()
    # Of larger maps not all pixels are read.
    monkeypatch.setattr(refitting, "ROWS", 1)
    outputs = []
    # Batches of one sample, and of all 192.
    for step in (1, 2**30):
        monkeypatch.setattr(refitting, "STEP", step)
        network, kept = cut(whole)
        refit(network, whole, kept, images)
        with torch.no_grad():
            outputs.append(network(images(seed=1)[0]))
    torch.testing.assert_close(*outputs, rtol=1e-3, atol=1e-3)


def test_the_same_seed_gives_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = TOYS["dense"]()
    # Of larger maps not all pixels are read.
    monkeypatch.setattr(refitting, "ROWS", 1)
    results = []
    for seed in (0, 0, 1):
        network, kept = cut(whole)
        refit(network, whole, kept, images, seed=seed)
        results.append(torch.cat([value.flatten() for value in network.state_dict().values()]))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def chain_of(*blocks: tuple[str, nn.Module]) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict(blocks)).eval()


def activated(n: int, m: int) -> nn.Sequential:
    return nn.Sequential(nn.SiLU(), nn.Conv2d(n, m, 3), nn.SiLU(), nn.Conv2d(m, m, 1))


def test_activations_in_place_do_no_harm() -> None:
    """A block that begins with one would change what the next layer's solution reads."""
    whole = chain_of(("stem", nn.Conv2d(3, 8, 1)), ("a", activated(8, 8)), ("b", activated(8, 6)))
    network, kept = cut(whole)
    found = []
    for inplace in (False, True):
        pair = copy.deepcopy(network), copy.deepcopy(whole)
        activations = [m for part in pair for m in part.modules() if isinstance(m, nn.SiLU)]
        for activation in activations:
            activation.inplace = inplace
        refit(*pair, kept, images)
        assert all(activation.inplace is inplace for activation in activations)
        found.append(torch.cat([value.flatten() for value in pair[0].state_dict().values()]))
    assert torch.equal(*found)


def loud_constant(conv: nn.Module) -> None:
    """A channel of 10 everywhere, which the next layer will miss."""
    assert isinstance(conv, nn.Conv2d)
    with torch.no_grad():
        conv.weight[0] = 0
        assert conv.bias is not None
        conv.bias[0] = 10.0


@pytest.mark.parametrize("bias", [False, True])
def test_a_constant_that_has_gone_is_said_by_the_batch_norm_or_the_bias(bias: bool) -> None:
    """Nothing but the constant is lost: afterwards nothing is."""
    whole = chain_of(
        ("a", nn.Conv2d(3, 8, 1)),
        ("b", nn.Conv2d(8, 6, 1, bias=bias)),
        ("norm", nn.BatchNorm2d(6)),
        ("relu", nn.ReLU()),
        ("c", nn.Conv2d(6, 4, 1)),
    )
    loud_constant(whole.a)
    network = copy.deepcopy(whole)
    narrow(network, EXAMPLE, {"a": list(range(1, 8))})
    assert distance(network, whole) > 0.1
    refit(network, whole, {"a": list(range(1, 8))}, images)
    assert distance(network, whole) < 1e-6


@pytest.mark.parametrize("inplace", [False, True])
def test_a_batch_norm_behind_an_activation_takes_no_constant(inplace: bool) -> None:
    whole = chain_of(
        ("a", nn.Conv2d(3, 8, 1)),
        ("b", nn.Conv2d(8, 6, 1, bias=False)),
        ("relu", nn.ReLU(inplace=inplace)),
        ("norm", nn.BatchNorm2d(6)),
        ("c", nn.Conv2d(6, 4, 1)),
    )
    loud_constant(whole.a)
    network = copy.deepcopy(whole)
    narrow(network, EXAMPLE, {"a": list(range(1, 8))})
    before = distance(network, whole)
    refit(network, whole, {"a": list(range(1, 8))}, images)
    assert distance(network, whole) < before


class Shared(nn.Module):
    """Two layers whose outputs one batch-norm reads, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(8, 6, 1, bias=False), nn.Conv2d(8, 6, 1, bias=False)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.one(x))) + torch.relu(self.norm(self.two(x)))


def test_a_batch_norm_of_two_layers_takes_the_constant_of_neither() -> None:
    whole = chain_of(("a", nn.Conv2d(3, 8, 1)), ("shared", Shared()))
    plan = survey(whole, EXAMPLE)
    assert plan.norms == {}
    assert plan.layers == {"a": ["a"], "shared": ["shared.one", "shared.two"]}


class ReadTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.dense = nn.Conv2d(3, 6, 1), nn.Linear(6, 2)
        self.one, self.norm = nn.Conv2d(6, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.two, self.own = nn.Conv2d(6, 6, 1, bias=False), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        one = self.one(x)
        return self.dense((self.own(self.two(x)) * torch.sigmoid(self.norm(one)) + one).mean((2, 3)))


def test_a_batch_norm_beside_another_reader_takes_no_constant() -> None:
    network = tascnet.backbone(ReadTwice(), size=8)
    norms = survey(network, EXAMPLE).norms
    assert {layer.rpartition(".")[2] for layer in norms} == {"two"}


def test_a_batch_norm_takes_the_constant_of_the_layer_before_it() -> None:
    assert survey(TOYS["residual"](), EXAMPLE).norms == {
        "stem": "stem_bn",
        **{
            f"{block}.body.conv{number}": f"{block}.body.bn{number}"
            for block in ("a0", "b0", "b1")
            for number in (1, 2)
        },
        "b0.shortcut.conv": "b0.shortcut.bn",
    }
    # What a dense layer gives goes to a concatenation, past the next batch-norm too.
    assert set(survey(TOYS["dense"](), EXAMPLE).norms) == {"d0.body.conv1", "d1.body.conv1", "d2.body.conv1"}


def test_words_are_read_as_images_are() -> None:
    before, after, keep = 0.0, 0.0, list(range(8))
    for seed in range(8):
        torch.manual_seed(seed)
        layers = nn.Conv1d(8, 12, 3), nn.ReLU(), nn.Conv1d(12, 6, 3, padding=1)
        whole = chain_of(
            ("embed", nn.Embedding(20, 8)), ("time", Transposed()), *zip("abc", layers, strict=True)
        )
        texts = [torch.randint(20, (32, 9)) for _ in range(3)]
        network = copy.deepcopy(whole)
        narrow(network, texts[0][:1], {"a": keep})
        with torch.no_grad():
            expected = whole(texts[0])
            before += float((network(texts[0]) - expected).square().sum())
            refit(network, whole, {"a": keep}, lambda texts=texts: texts)
            after += float((network(texts[0]) - expected).square().sum())
    assert after < 0.5 * before


class Transposed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


def test_too_few_images_leave_everything_as_it_is_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    whole = TOYS["plain"]()
    network, kept = cut(whole)
    before = network.conv2.weight.clone()
    with caplog.at_level(logging.WARNING, "tascnet"):
        refit(network, whole, kept, lambda: [images()[0][:3]])
    assert "needs 4 samples" in caplog.text
    assert torch.equal(network.conv2.weight, before)
