import os
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from tascnet.data import arrays, cached_features, module_digest, prefix_digests
from tascnet.data.dataset import ImageSource
from tascnet.errors import BudgetError, DamagedFile, WeightsError
from tascnet.models.preprocessing import Preprocessing


class Counting(nn.Module):
    """Counts its calls, scales the images, and remembers how it was called."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(factor))
        self.dropout = nn.Dropout(0.5)
        self.calls = []

    def forward(self, x):
        self.calls.append((len(x), self.training, torch.is_grad_enabled()))
        return self.dropout(x * self.scale)


@pytest.fixture
def source(noise_set, tiny):
    return ImageSource(noise_set(), np.array([1, 3, 5, 7, 9, 2, 4]), tiny)


@pytest.fixture
def run(source, tmp_path):
    def run(trunk, images=source, **options):
        folder = tmp_path / "features"
        options = {"batch_size": 3, "views": ("plain", "flipped"), "dtype": "float32"} | options
        return cached_features(trunk, images, folder=folder, trunk_digest=module_digest(trunk), **options)

    return run


def test_features_equal_the_trunks_outputs_in_fixed_batches(run, source):
    trunk = Counting(2.0)
    features = run(trunk)
    rows = torch.arange(7)
    for view in ("plain", "flipped"):
        assert torch.from_numpy(features.views[view][:].copy()).equal(2 * source.batch_view(rows, view))
    assert features.batch(rows, None).equal(2 * source.batch(rows, None))
    assert features.labels.equal(source.labels)
    assert features.num_classes == 2
    # One probe, then each view in batches of 3, 3 and 1, in eval mode and without gradient.
    assert trunk.calls == [(size, False, False) for size in (1, 3, 3, 1, 3, 3, 1)]
    assert trunk.training
    assert trunk.dropout.training


def test_repeat_never_calls_the_trunk(run):
    trunk = Counting()
    first = run(trunk)
    trunk.calls.clear()
    again = run(trunk)
    assert trunk.calls == []
    assert (again.views["flipped"][:] == first.views["flipped"][:]).all()
    # A view that is missing is all that is computed.
    run(trunk, views=("plain",))
    assert trunk.calls == []


def test_chain_of_no_blocks_gives_the_images(run, source):
    rows = torch.arange(7)
    assert run(nn.Sequential()).batch(rows, None).equal(source.batch(rows, None))


@pytest.mark.parametrize(
    "change",
    [
        {"trunk": Counting(2.0)},
        {"rows": [1, 3, 5, 7, 9, 2, 6]},
        {"rows": [3, 1, 5, 7, 9, 2, 4]},
        {"fingerprint": "other"},
        {"mean": (0.5, 0.25, 0.1)},
        {"dtype": "float16"},
        {"batch_size": 4},
    ],
)
def test_whatever_determines_the_features_is_in_the_key(change, run, source, tiny, noise_set):
    run(Counting())
    dataset = noise_set()
    if "fingerprint" in change:
        dataset = type(dataset)(**{**vars(dataset), "fingerprint": "other"})
    mean = change.get("mean", tiny.mean)
    preprocessing = Preprocessing(size=6, resize=8, mean=mean, std=tiny.std)
    images = ImageSource(dataset, np.array(change.get("rows", source.rows)), preprocessing)
    trunk = change.get("trunk", Counting())
    options = {name: change[name] for name in ("dtype", "batch_size") if name in change}
    run(trunk, images, **options)
    assert trunk.calls


@pytest.mark.parametrize("damage", ["truncate", "garble"])
def test_damaged_entry_is_rebuilt(damage, run, tmp_path, said):
    trunk = Counting()
    expected = {view: features[:].copy() for view, features in run(trunk).views.items()}
    path = max((tmp_path / "features").glob("*.npy"))
    if damage == "truncate":
        os.truncate(path, path.stat().st_size - 1)
    else:
        path.write_bytes(b"garbage" * 9)
    trunk.calls.clear()
    again = run(trunk)
    assert [size for size, *_ in trunk.calls] == [1, 3, 3, 1]
    assert all((again.views[view][:] == expected[view]).all() for view in expected)
    (message,) = said
    assert message.startswith(f"{path} cannot be used (")


def flip_last_bit(path):
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("factor", [1.0, 1e6])
def test_features_with_a_changed_bit_are_computed_again_in_the_midst_of_training(
    factor, run, source, tmp_path, said
):
    """Also those that did not fit float16."""
    trunk, rows = Counting(factor), torch.arange(7)
    expected = run(trunk, dtype="float16").batch(rows, torch.Generator().manual_seed(0))
    for path in (tmp_path / "features").glob("*.npy"):
        flip_last_bit(path)
    features = run(trunk, dtype="float16")
    trunk.calls.clear()
    said.clear()
    trunk.train()
    assert features.batch(rows, torch.Generator().manual_seed(0)).equal(expected)
    assert trunk.calls == [(size, False, False) for size in (3, 3, 1, 3, 3, 1)]
    assert trunk.training
    assert [message.partition(" was changed")[0] for message in said] == list(map(str, features.files))


def test_damaged_features_of_a_network_that_was_trained_since_are_an_error(run, tmp_path):
    trunk = Counting()
    run(trunk)
    for path in (tmp_path / "features").glob("*.npy"):
        flip_last_bit(path)
    features = run(trunk)
    with torch.no_grad():
        trunk.scale.add_(1)
    with pytest.raises(DamagedFile, match="its network has been trained since: run the same command again"):
        features.batch(torch.arange(7), None)


def test_float16_is_rounded_once_and_read_as_float32(run, source):
    features = run(Counting(), dtype="float16")
    assert features.views["plain"].dtype == np.float16
    rows = torch.arange(7)
    assert features.batch(rows, None).equal(source.batch(rows, None).half().float())


def test_values_too_large_for_float16_are_written_in_float32_and_said(run, source, said):
    trunk = Counting(1e6)
    features = run(trunk, dtype="float16")
    assert len(said) == 2, "once for each view"
    assert all("float32" in message for message in said)
    rows = torch.arange(7)
    assert features.batch(rows, None).equal(1e6 * source.batch(rows, None))
    trunk.calls.clear()
    run(trunk, dtype="float16")
    assert trunk.calls == []


def test_values_that_are_not_finite_are_refused_and_leave_nothing(run, tmp_path):
    with pytest.raises(WeightsError, match="not finite"):
        run(Counting(float("inf")))
    assert os.listdir(tmp_path / "features") == []


def test_size_is_estimated_from_one_sample(run, tmp_path):
    trunk = Counting()
    # 7 images, 2 views, 3 x 6 x 6 values of 4 bytes.
    needed = 7 * 2 * 3 * 6 * 6 * 4
    with pytest.raises(BudgetError, match=r"7 images in 2 views \(3 x 6 x 6 float32 each\).*lower `size`"):
        run(trunk, limit_gb=(needed - 1) / 1e9)
    assert [size for size, *_ in trunk.calls] == [1]
    assert not (tmp_path / "features").exists()


def test_limit_holds_for_the_float32_fallback_too(run):
    needed = 7 * 3 * 6 * 6 * 2
    with pytest.raises(BudgetError, match="float32"):
        run(Counting(1e6), dtype="float16", views=("plain",), limit_gb=needed / 1e9)


def test_features_beside_those_in_use_leave_them_their_place(run, source, noise_set, tiny, tmp_path):
    training = run(Counting())
    assert [path.exists() for path in training.files] == [True, True]
    validation = ImageSource(noise_set(), np.array([0, 6, 8]), tiny)
    # Of 3 x 6 x 6 values of 4 bytes 3 come; 7 in 2 views stay, with numpy's headers and digests.
    both = 3 * 3 * 6 * 6 * 4 + sum(path.stat().st_size for path in (tmp_path / "features").iterdir())
    trunk = Counting(2.0)
    options = {"views": ("plain",), "beside": [training]}
    with pytest.raises(BudgetError, match="MB in use"):
        run(trunk, validation, limit_gb=(both - 1) / 1e9, **options)
    assert [size for size, *_ in trunk.calls] == [1], "only the shape was asked for"
    run(trunk, validation, limit_gb=(both + 0.5) / 1e9, **options)
    assert [path.exists() for path in training.files] == [True, True]
    del options["beside"]
    run(Counting(3.0), validation, limit_gb=(both + 0.5) / 1e9, **options)
    assert not all(path.exists() for path in training.files)


def test_a_trunk_that_fails_leaves_nothing(run, tmp_path):
    trunk = Counting()
    trunk.register_forward_hook(lambda *_: 1 / 0 if len(trunk.calls) == 3 else None)
    with pytest.raises(ZeroDivisionError):
        run(trunk)
    assert os.listdir(tmp_path / "features") == []
    assert trunk.training


def test_an_interrupted_filling_goes_on_after_its_last_whole_batch(run, source, tmp_path, monkeypatch):
    # Blocks of two of the seven samples, in batches of three: six samples in two batches, three whole blocks.
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 2 * 4 * 3 * 6 * 6)
    trunk, stop, calls = Counting(), Counting(), []

    def interrupted(x):
        calls.append(len(x))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return x * trunk.scale

    monkeypatch.setattr(stop, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(stop, views=("plain",))
    assert not [*(tmp_path / "features").glob("*.npy")]
    features = run(trunk, views=("plain",))
    assert [size for size, *_ in trunk.calls] == [1, 1], "one probe, then the last sample"
    assert torch.from_numpy(features.views["plain"][:].copy()).equal(
        source.batch_view(torch.arange(7), "plain")
    )


def test_digest_sees_weights_buffers_names_and_structure():
    def make(**options):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(2, 2, 3, **options), nn.BatchNorm2d(2))

    first = module_digest(make())
    assert module_digest(make()) == first
    assert module_digest(make().to(memory_format=torch.channels_last)) == first
    assert module_digest(make(stride=2)) != first
    for change in ("0.weight", "1.running_mean", "1.num_batches_tracked"):
        changed = make()
        changed.state_dict()[change].add_(1)
        assert module_digest(changed) != first


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (nn.AvgPool1d(3, padding=1), nn.AvgPool1d(3, padding=1, count_include_pad=False)),
        (nn.AvgPool2d(3, padding=1), nn.AvgPool2d(3, padding=1, count_include_pad=False)),
        (nn.AvgPool2d(3, 2), nn.AvgPool2d(3, 2, ceil_mode=True)),
        (nn.AvgPool2d(3), nn.AvgPool2d(3, divisor_override=4)),
        (
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
        ),
    ],
)
def test_digest_sees_arguments_that_layers_do_not_print(one, other):
    assert repr(one) == repr(other)
    assert module_digest(one) != module_digest(other)
    assert prefix_digests(nn.Sequential(one)) != prefix_digests(nn.Sequential(other))


def test_prefixes_have_a_digest_each_that_sees_what_is_in_them():
    def make(seed=0, stride=1, name="c"):
        torch.manual_seed(seed)
        first, last = nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3, stride=stride)
        return nn.Sequential(OrderedDict([("a", first), ("b", nn.ReLU()), (name, last)]))

    chain = make()
    digests = prefix_digests(chain)
    assert len(set(digests)) == 4, "no block, and each of three"
    assert prefix_digests(make()) == digests
    assert prefix_digests(chain[:2]) == digests[:3]
    for other in (make(stride=2), make(name="d")):
        assert [a == b for a, b in zip(prefix_digests(other), digests, strict=True)] == [True] * 3 + [False]
    assert [a == b for a, b in zip(prefix_digests(make(1)), digests, strict=True)] == [True] + [False] * 3
    twice = nn.Sequential(chain.b, chain.b)
    assert len(prefix_digests(twice)) == 3
