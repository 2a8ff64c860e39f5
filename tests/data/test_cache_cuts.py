"""The feature cache at every cut of every backbone, as layer-wise freezing uses it."""

import numpy as np
import pytest
import torch

from tascnet.data import Segment, cached_features, prefix_digests
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


def test_later_cuts_are_cached_in_the_same_pass_with_the_same_bits(images, tmp_path):
    source = images("digits_cnn", rows=range(5))
    chain = build_chain("digits_cnn", channels=1)
    digests = prefix_digests(chain)
    calls = []
    chain[0].register_forward_hook(lambda *_: calls.append(1))

    def cached(folder, cut, later=()):
        options = {"folder": tmp_path / folder, "trunk_digest": digests[cut], "batch_size": 2}
        blocks = [Segment(digest=digests[stop], blocks=chain[start:stop]) for start, stop in later]
        return cached_features(chain[:cut], source, later=blocks, **options)

    cached("together", 3, [(3, 6), (6, 9)])
    # The shape takes one pass of one image, and five images are three batches.
    assert len(calls) == 4
    for cut in (3, 6, 9):
        found, expected = cached("together", cut), cached("alone", cut)
        rows = torch.arange(5)
        torch.testing.assert_close(found.batch(rows), expected.batch(rows), rtol=0, atol=0)
        assert [path.name for path in found.files] == [path.name for path in expected.files]
    assert len(calls) == 4 + 3 * 4
