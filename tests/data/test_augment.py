import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from tascnet.data.augment import Augmentation, augment, centre_crop
from tascnet.errors import ConfigError


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
    out = augment(images, side - 2, Augmentation(flip=flip, pad=pad), seeded(seed))
    assert out.dtype == torch.uint8
    straight, mirrored = windows(images[0].numpy(), side - 2, pad)
    allowed = straight | mirrored if flip else straight
    assert all(crop.numpy().tobytes() in allowed for crop in out)


@pytest.mark.parametrize("pad", [0, 3])
def test_scaled_crops_are_those_of_affine_grids(pad):
    """The usual way: one matrix an image, whose grid torch makes."""
    images = torch.randint(0, 256, (9, 14, 14, 3), generator=seeded(1), dtype=torch.uint8)
    out = augment(images, 10, Augmentation(min_scale=0.3, pad=pad), seeded(2))
    draws = torch.rand(5, 9, generator=seeded(2))
    area, ratio = 0.3 + 0.7 * draws[3], torch.exp((2 * draws[4] - 1) * math.log(4 / 3))
    height, width = (area / ratio).sqrt().clamp(max=1), (area * ratio).sqrt().clamp(max=1)
    reach = 1 + 2 * pad / 14
    theta = torch.zeros(9, 2, 3)
    theta[:, 0, 0] = torch.where(draws[0] < 0.5, -width, width)
    theta[:, 0, 2] = (2 * draws[2] - 1) * (reach - width)
    theta[:, 1, 1] = height
    theta[:, 1, 2] = (2 * draws[1] - 1) * (reach - height)
    grid = functional.affine_grid(theta, [9, 3, 10, 10], align_corners=False)
    maps = images.permute(0, 3, 1, 2).float()
    expected = functional.grid_sample(maps, grid, padding_mode="border", align_corners=False)
    torch.testing.assert_close(out, expected.permute(0, 2, 3, 1), atol=1e-3, rtol=0)


def test_every_window_and_both_directions_occur():
    out = augment(ramp(2000, 5), 4, Augmentation(flip=True, pad=1), seeded())
    straight, mirrored = windows(ramp(1, 5)[0].numpy(), 4, 1)
    seen = {crop.numpy().tobytes() for crop in out}
    assert seen == straight | mirrored
    share = sum(crop.numpy().tobytes() in mirrored for crop in out) / 2000
    assert share == pytest.approx(0.5, abs=0.05)


def test_scaled_crops_of_a_linear_ramp_stay_linear():
    # Bilinear sampling of intensity = column is exact inside, so columns of a crop are equally spaced.
    images = torch.arange(32.0).repeat(64, 32, 1)[..., None].byte()
    out = augment(images, 8, Augmentation(flip=False, min_scale=0.3), seeded())
    assert out.dtype == torch.float32
    assert out.shape == (64, 8, 8, 1)
    inner = out[:, :, 1:-1, 0]
    steps = inner.diff(dim=2)
    torch.testing.assert_close(steps, steps[:, :1, :1].expand_as(steps), atol=1e-3, rtol=0)
    # A crop of width w spans w * 32 columns in 8 pixels: area 0.3 to 1, ratio 3/4 to 4/3.
    spacing = steps[:, 0, 0] / 4
    assert spacing.min() >= (0.3 * 0.75) ** 0.5 - 1e-3
    assert spacing.max() <= 1 + 1e-3
    assert spacing.std() > 0.05


def test_scaled_crops_flip_half_of_the_images():
    images = torch.arange(32.0).repeat(400, 32, 1)[..., None].byte()
    out = augment(images, 8, Augmentation(flip=True, min_scale=0.5), seeded())
    falling = (out[:, 0, -1, 0] < out[:, 0, 0, 0]).float().mean()
    assert falling == pytest.approx(0.5, abs=0.1)


def test_generator_alone_decides():
    images = torch.randint(0, 256, (8, 9, 9, 3), dtype=torch.uint8)
    for augmentation in (Augmentation(pad=1), Augmentation(min_scale=0.5)):
        first, again, other = (augment(images, 8, augmentation, seeded(seed)) for seed in (4, 4, 5))
        assert first.equal(again)
        assert not first.equal(other)


def test_centre_crop_by_hand():
    assert centre_crop(ramp(1, 4), 2).flatten().tolist() == [5, 6, 9, 10]


@pytest.mark.parametrize("options", [{"min_scale": 0.0}, {"min_scale": 1.5}, {"pad": -1}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigError):
        Augmentation(**options)
