import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms.v2.functional import resized_crop

from tascnet.data.augment import augment, crops_at_once, crops_one_by_one, erase
from tascnet.errors import ConfigError
from tascnet.models.preprocessing import centre_crop
from tascnet.options import Images


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def ramp(batch, side):
    """Every pixel differs from all others of its image."""
    return torch.arange(side * side, dtype=torch.uint8).reshape(1, side, side, 1).repeat(batch, 1, 1, 1)


def windows(image, size, pad):
    """All crops of an edge-padded image and their mirror images, made by numpy."""
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    span = range(padded.shape[0] - size + 1)
    crops = [padded[y : y + size, x : x + size] for y in span for x in span]
    return {crop.tobytes() for crop in crops}, {crop[:, ::-1].tobytes() for crop in crops}


@given(side=st.integers(3, 8), pad=st.integers(0, 2), flip=st.booleans(), seed=st.integers(0, 2**31))
def test_shifts_are_windows_of_the_edge_padded_image(side, pad, flip, seed):
    images = ramp(6, side)
    out = augment(images, side - 2, Images(flip=flip, pad=pad), seeded(seed))
    assert out.dtype == torch.uint8
    straight, mirrored = windows(images[0].numpy(), side - 2, pad)
    allowed = straight | mirrored if flip else straight
    assert all(crop.numpy().tobytes() in allowed for crop in out)


@pytest.mark.parametrize(("pad", "channels"), [(0, 3), (3, 3), (2, 1)])
def test_scaled_crops_are_those_of_torchvision(pad, channels):
    images = torch.randint(0, 256, (40, 14, 14, channels), generator=seeded(1), dtype=torch.uint8)
    out = augment(images, 10, Images(min_scale=0.3, pad=pad), seeded(2))
    draws = torch.rand(5, 40, generator=seeded(2))
    area, ratio = 0.3 + 0.7 * draws[3], torch.exp((2 * draws[4] - 1) * math.log(4 / 3))
    heights, widths = ((14 * share.sqrt()).round().clamp(max=14) for share in (area / ratio, area * ratio))
    for image, crop, draw, height, width in zip(images, out, draws.T, heights, widths, strict=True):
        padded = np.pad(image.numpy(), ((pad, pad), (pad, pad), (0, 0)), mode="edge")
        top, left = (int(draw[i] * (14 + 2 * pad - extent + 1)) for i, extent in ((1, height), (2, width)))
        maps = torch.from_numpy(padded).permute(2, 0, 1)
        expected = resized_crop(maps, top, left, int(height), int(width), [10, 10], antialias=True)
        straight = crop.permute(2, 0, 1)
        assert (straight.flip(2) if draw[0] < 0.5 else straight).equal(expected)


@given(side=st.integers(2, 20), size=st.integers(1, 20), channels=st.sampled_from([1, 3]), data=st.data())
def test_crops_at_once_are_those_made_one_by_one(side, size, channels, data):
    images = torch.randint(
        0, 256, (3, side, side, channels), generator=seeded(data.draw(st.integers(0, 99))), dtype=torch.uint8
    )
    boxes = []
    for _ in images:
        height, width = (data.draw(st.integers(1, side)) for _ in range(2))
        top, left = (data.draw(st.integers(0, side - extent)) for extent in (height, width))
        boxes.append([top, left, height, width, data.draw(st.integers(0, 1))])
    crops = [make(images, torch.tensor(boxes), size) for make in (crops_at_once, crops_one_by_one)]
    assert crops[0].dtype == torch.uint8
    assert (crops[0].int() - crops[1].int()).abs().max() <= 1


def test_windows_of_the_size_of_crops_are_copied_exactly():
    images = torch.randint(0, 256, (2, 9, 9, 3), generator=seeded(), dtype=torch.uint8)
    crops = crops_at_once(images, torch.tensor([[1, 2, 7, 7, 0], [2, 0, 7, 7, 1]]), 7)
    assert crops[0].equal(images[0, 1:8, 2:9])
    assert crops[1].equal(images[1, 2:9, 0:7].flip(1))


def test_every_window_and_both_directions_occur():
    out = augment(ramp(2000, 5), 4, Images(flip=True, pad=1), seeded())
    straight, mirrored = windows(ramp(1, 5)[0].numpy(), 4, 1)
    seen = {crop.numpy().tobytes() for crop in out}
    assert seen == straight | mirrored
    share = sum(crop.numpy().tobytes() in mirrored for crop in out) / 2000
    assert share == pytest.approx(0.5, abs=0.05)


def test_scaled_crops_take_the_promised_shares_of_the_image():
    # Intensity is the column, doubled: a crop of width w spans w of them in 16 pixels.
    images = (2 * torch.arange(64.0)).repeat(400, 64, 1)[..., None].byte()
    out = augment(images, 16, Images(flip=False, min_scale=0.3), seeded())
    assert out.dtype == torch.uint8
    assert out.shape == (400, 16, 16, 1)
    assert (out == out[:, :1]).all()
    row = out[:, 0, :, 0].float()
    shares = (row[:, 14] - row[:, 1]) / 13 / 8
    assert shares.min() == pytest.approx((0.3 * 0.75) ** 0.5, abs=0.03)
    assert shares.max() == pytest.approx(1, abs=0.02)
    assert shares.std() > 0.1


def test_scaled_crops_flip_half_of_the_images():
    images = torch.arange(32.0).repeat(400, 32, 1)[..., None].byte()
    out = augment(images, 8, Images(flip=True, min_scale=0.5), seeded())
    falling = (out[:, 0, -1, 0] < out[:, 0, 0, 0]).float().mean()
    assert falling == pytest.approx(0.5, abs=0.1)


def test_generator_alone_decides():
    images = torch.randint(0, 256, (8, 9, 9, 3), dtype=torch.uint8)
    for augmentation in (Images(pad=1), Images(min_scale=0.5), Images(randaugment=9)):
        first, again, other = (augment(images, 8, augmentation, seeded(seed)) for seed in (4, 4, 5))
        assert first.equal(again)
        assert not first.equal(other)


@pytest.mark.parametrize("channels", [1, 3])
def test_randaugment_changes_each_image_by_itself_and_more_by_a_higher_magnitude(channels):
    image = torch.randint(0, 256, (1, 16, 16, channels), generator=seeded(1), dtype=torch.uint8)
    changed = []
    for magnitude in (1, 30):
        state = torch.get_rng_state()
        out = augment(image.repeat(60, 1, 1, 1), 16, Images(flip=False, randaugment=magnitude), seeded())
        # Neither does it draw from torch's own generator, nor is it drawn from there.
        assert torch.get_rng_state().equal(state)
        torch.manual_seed(magnitude)
        assert out.shape == (60, 16, 16, channels)
        assert out.dtype == torch.uint8
        assert len({one.numpy().tobytes() for one in out}) > 10
        changed.append((out.float() - image.float()).abs().mean())
    assert changed[1] > 2 * changed[0]


def test_erasing_sets_one_rectangle_of_some_images_to_zero():
    images = torch.ones(400, 2, 20, 20).contiguous(memory_format=torch.channels_last)
    state = torch.get_rng_state()
    erase(images, 0.25, seeded())
    assert torch.get_rng_state().equal(state)
    assert images[:, 0].equal(images[:, 1])
    erased = images[:, 0] == 0
    shares = erased.float().mean((1, 2))
    # Three standard errors of the share of 400.
    assert (shares > 0).float().mean() == pytest.approx(0.25, abs=0.065)
    # torchvision's RandomErasing takes 2 to 33 % of the area, in whole pixels.
    assert shares.max() < 0.36
    for mask in erased[shares > 0]:
        assert mask.equal(mask.any(1)[:, None] & mask.any(0)[None])
    again = torch.ones(400, 2, 20, 20)
    erase(again, 0.25, seeded())
    assert again.equal(images)


def test_centre_crop_by_hand():
    assert centre_crop(ramp(1, 4), 2).flatten().tolist() == [5, 6, 9, 10]


@pytest.mark.parametrize(
    "options", [{"min_scale": 0.0}, {"min_scale": 1.5}, {"pad": -1}, {"randaugment": 31}, {"erasing": 1.1}]
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigError):
        Images(**options)
