"""The feature cache at every cut of every backbone, as layer-wise freezing uses it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tascnet.data import Segment, cache_segments, cached_features, prefix_digests
from tascnet.data.dataset import ImageSource
from tascnet.errors import BudgetError
from tascnet.models.build import SMALL, build_chain
from tascnet.models.head import head_start
from tascnet.models.preprocessing import Preprocessing


@pytest.fixture
def images(noise_set):
    def make(name, rows=(3, 1)):
        channels, side = (1, 8) if name == "digits_cnn" else (3, 32)
        preprocessing = Preprocessing(size=side, resize=side, mean=(0.5,) * channels, std=(0.5,) * channels)
        return ImageSource(noise_set(side=side, channels=channels), np.array(rows), preprocessing)

    return make


@pytest.mark.parametrize("name", [*SMALL, "mobilenet_v2"])
def test_tails_give_the_networks_outputs_from_cached_features(name, images, tmp_path):
    source = images(name)
    chain = build_chain(name, channels=source.preprocessing.channels)
    digests = prefix_digests(chain)
    rows = torch.arange(len(source))
    step = 6 if len(chain) > 40 else 3
    with torch.inference_mode():
        expected = chain(source.batch(rows))
        for cut in range(0, head_start(chain) + 1, step):
            features = cached_features(
                chain[:cut], source, folder=tmp_path, trunk_digest=digests[cut], dtype="float32"
            )
            torch.testing.assert_close(chain[cut:](features.batch(rows)), expected, rtol=1e-4, atol=1e-5)
    cuts = range(0, head_start(chain) + 1, step)
    assert len(list(tmp_path.glob("*.npy"))) == len(cuts), "no two share a file"


def test_cuts_in_turn_stay_within_the_limit_and_end_with_one_error(images, tmp_path):
    source = images("digits_cnn", rows=range(10))
    chain = build_chain("digits_cnn", channels=1)
    digests = prefix_digests(chain)
    cuts = list(range(head_start(chain), -1, -1))
    image = source.batch(torch.arange(1), None)
    # float16: two bytes a value.
    sizes = {cut: len(source) * chain[:cut].eval()(image).numel() * 2 for cut in cuts}
    # The widest map has 32 channels of 8 x 8 pixels: after conv2 with its batch-norm and activation.
    widest = [cut for cut in cuts if sizes[cut] == max(sizes.values())]
    assert sizes[widest[0]] == 10 * 32 * 8 * 8 * 2
    assert widest == [6, 5, 4]
    limit = (sizes[widest[0]] - 1) / 1e9
    for cut in cuts[: cuts.index(widest[0])]:
        cached_features(chain[:cut], source, folder=tmp_path, trunk_digest=digests[cut], limit_gb=limit)
        # numpy writes a header of 128 bytes before the values.
        files = [path.stat().st_size - 128 for path in tmp_path.iterdir()]
        assert sum(files) <= limit * 1e9
        assert sizes[cut] in files
    before = sorted(tmp_path.iterdir())
    with pytest.raises(BudgetError, match=r"10 images in 1 view \(32 x 8 x 8 float16 each\).*cache_limit_gb"):
        cached_features(chain[:6], source, folder=tmp_path, trunk_digest=digests[6], limit_gb=limit)
    assert sorted(tmp_path.iterdir()) == before


class Overflowing(torch.nn.Module):
    def forward(self, x):
        return x * 1e6


@pytest.fixture
def places(images, tmp_path):
    """Segments of a chain of three blocks, how often its first one ran, and features of one alone."""
    source = images("digits_cnn", rows=range(5))
    chain = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(inplace=True), torch.nn.Flatten())
    digests, calls = prefix_digests(chain), []
    chain[0].register_forward_hook(lambda *_: calls.append(1))
    segments = [Segment(digest=digests[stop], blocks=chain[stop - 1 : stop]) for stop in (1, 2, 3)]

    def cached(folder, stop, **options):
        own = {"folder": tmp_path / folder, "trunk_digest": digests[stop], "batch_size": 64, **options}
        return cached_features(chain[:stop], source, **own)

    return SimpleNamespace(source=source, chain=chain, segments=segments, calls=calls, cached=cached)


def test_several_places_are_cached_in_one_pass_with_the_same_bits(places, tmp_path):
    sources = [(places.source, ("plain",))]
    cache_segments(places.segments, sources, folder=tmp_path / "together")
    # The shapes take one pass of one image, and five images are one batch.
    assert len(places.calls) == 2
    rows = torch.arange(5)
    for stop in (1, 2, 3):
        found = places.cached("together", stop)
        assert len(places.calls) == 2 + 2 * (stop - 1), "it is there"
        expected = places.cached("alone", stop)
        assert torch.equal(found.batch(rows), expected.batch(rows))
        assert [path.name for path in found.files] == [path.name for path in expected.files]
    cache_segments(places.segments, sources, folder=tmp_path / "together")
    assert len(places.calls) == 8, "nothing is missing"


def test_places_that_do_not_fit_together_are_not_computed(places, tmp_path):
    # 5 images of 2 x 6 x 6 values of 2 bytes at each of three places.
    sources, limit = [(places.source, ("plain",))], 2 * 5 * 72 * 2 / 1e9
    with pytest.raises(BudgetError, match="cache_limit_gb"):
        cache_segments(places.segments, sources, folder=tmp_path / "small", limit_gb=limit)
    assert len(places.calls) == 1
    assert not list(tmp_path.glob("small/*"))
    places.cached("small", 1, limit_gb=limit)


def test_a_place_too_large_for_float16_does_not_change_the_others(places, tmp_path):
    digests = prefix_digests(torch.nn.Sequential(*places.chain, Overflowing()))
    large = Segment(digest=digests[4], blocks=Overflowing())
    cache_segments([*places.segments, large], [(places.source, ("plain",))], folder=tmp_path / "mixed")
    for stop in (1, 2, 3):
        found, expected = places.cached("mixed", stop), places.cached("alone", stop)
        assert found.views["plain"].dtype == expected.views["plain"].dtype == np.float16
        assert torch.equal(found.batch(torch.arange(5)), expected.batch(torch.arange(5)))
