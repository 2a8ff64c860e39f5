import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from tascnet.data import FeatureSource, dataset
from tascnet.data.dataset import ImageSource
from tascnet.options import Images


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_plain_batches_equal_torchvisions_transforms(noise_set, tiny):
    images = noise_set()
    source = ImageSource(images, np.array([7, 2, 5]), tiny)
    reference = transforms.Compose(
        [transforms.CenterCrop(6), transforms.ToTensor(), transforms.Normalize(tiny.mean, tiny.std)]
    )
    batch = source.batch(torch.tensor([2, 0]), None)
    for image, row in zip(batch, (5, 7), strict=True):
        # One multiplication and addition, where torchvision divides, subtracts and divides.
        torch.testing.assert_close(
            image, reference(Image.fromarray(images.pixels[row])), atol=1e-6, rtol=1e-6, check_stride=False
        )
    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert source.labels.tolist() == [1, 0, 1]
    assert (len(source), source.num_classes) == (3, 2)


def test_flipped_view_mirrors_the_plain_one(noise_set, tiny):
    source = ImageSource(noise_set(), np.arange(10), tiny)
    rows = torch.arange(10)
    assert source.batch_view(rows, "flipped").equal(source.batch_view(rows, "plain").flip(3))
    with pytest.raises(ValueError, match="plain, flipped"):
        source.batch_view(rows, "rotated")


def test_augmented_only_with_generator_and_augmentation(noise_set, tiny):
    images, rows = noise_set(), torch.arange(10)
    bare = ImageSource(images, np.arange(10), tiny)
    source = ImageSource(images, np.arange(10), tiny, Images(pad=1))
    plain = bare.batch(rows, seeded())
    assert source.batch(rows, None).equal(plain)
    assert source.batch(rows, seeded(1)).equal(source.batch(rows, seeded(1)))
    assert not source.batch(rows, seeded(1)).equal(plain)
    assert source.batch(rows, seeded(1)).is_contiguous(memory_format=torch.channels_last)


def test_scaled_crops_are_normalised_images(noise_set, tiny):
    source = ImageSource(noise_set(), np.arange(10), tiny, Images(min_scale=0.5))
    batch = source.batch(torch.arange(10), seeded())
    assert batch.shape == (10, 3, 6, 6)
    # Pixels in [0, 1] less the mean, over the deviation, give these bounds a channel.
    assert batch.amin((0, 2, 3)).ge(torch.tensor([-1.0, -1.0, 0.0])).all()
    assert batch.amax((0, 2, 3)).le(torch.tensor([1.0, 3.0, 1.0])).all()


def test_erased_pixels_have_the_value_of_the_mean(noise_set, tiny):
    rows = torch.arange(10)
    source = ImageSource(noise_set(), np.arange(10), tiny, Images(flip=False, erasing=1.0))
    whole = ImageSource(noise_set(), np.arange(10), tiny, Images(flip=False)).batch(rows, seeded())
    batch = source.batch(rows, seeded())
    erased = batch != whole
    # A fifth of 36 pixels at the mean; less than one is erased from no image.
    assert erased.flatten(1).any(1).sum() >= 8
    assert (batch[erased] == 0).all()
    assert source.batch(rows, None).equal(source.batch_view(rows, "plain"))
    assert (
        not ImageSource(noise_set(), np.arange(10), tiny, Images(randaugment=20))
        .batch(rows, seeded())
        .equal(ImageSource(noise_set(), np.arange(10), tiny, Images()).batch(rows, seeded()))
    )


def test_two_sources_take_the_same_views():
    views, labels = feature_views(), torch.zeros(6)
    others = {name: view + np.float16(1000) for name, view in views.items()}
    source, other = FeatureSource(views, labels, 1), FeatureSource(others, labels, 1)
    rows = torch.arange(6)
    picks = source.picks(rows, seeded())
    assert source.picks(rows, None) is None
    assert source.take(rows, picks).equal(source.batch(rows, seeded()))
    assert other.take(rows, picks).equal(source.take(rows, picks) + 1000)


def test_read_only_memory_maps_are_read_without_a_warning(noise_set, grey, tmp_path):
    dataset = noise_set(channels=1)
    np.save(tmp_path / "pixels.npy", dataset.pixels)
    mapped = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    source = ImageSource(
        type(dataset)(**{**vars(dataset), "pixels": mapped}), np.arange(10), grey, Images(pad=1)
    )
    source.batch(torch.arange(10), seeded()).zero_()
    source.batch(torch.arange(10), None).zero_()
    assert (mapped == dataset.pixels).all()


def feature_views():
    plain = np.arange(24, dtype=np.float16).reshape(6, 4)
    return {"plain": plain, "flipped": plain + np.float16(100)}


def test_features_are_plain_without_a_generator():
    source = FeatureSource(feature_views(), torch.arange(6) % 3, 3)
    batch = source.batch(torch.tensor([5, 0]), None)
    assert batch.dtype == torch.float32
    assert batch.tolist() == [[20, 21, 22, 23], [0, 1, 2, 3]]
    assert (len(source), source.num_classes) == (6, 3)


def test_each_sample_picks_one_view_as_the_generator_says():
    source = FeatureSource(feature_views(), torch.zeros(6), 1)
    rows = torch.arange(6).repeat(50)
    batch = source.batch(rows, seeded())
    flipped = batch[:, 0] >= 100
    assert batch[~flipped].equal(source.batch(rows[~flipped], None))
    assert batch[flipped].equal(source.batch(rows[flipped], None) + 100)
    assert flipped.float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert batch.equal(source.batch(rows, seeded()))


def test_feature_maps_come_channels_last_and_as_copies(tmp_path):
    maps = np.random.default_rng(0).random((6, 3, 4, 5), dtype=np.float32)
    np.save(tmp_path / "maps.npy", maps)
    mapped = np.load(tmp_path / "maps.npy", mmap_mode="r")
    source = FeatureSource({"plain": mapped, "flipped": mapped}, torch.zeros(6), 1)
    for generator in (None, seeded()):
        batch = source.batch(torch.tensor([4, 4, 1]), generator)
        assert batch.is_contiguous(memory_format=torch.channels_last)
        assert (batch.numpy() == maps[[4, 4, 1]]).all()
        batch.zero_()
    assert (mapped == maps).all()


def test_features_in_tensors_read_like_features_in_arrays():
    views = feature_views()
    arrays = FeatureSource(views, torch.zeros(6), 1)
    tensors = FeatureSource({name: torch.from_numpy(view) for name, view in views.items()}, torch.zeros(6), 1)
    rows = torch.tensor([3, 1, 1, 5])
    assert tensors.batch(rows, None).equal(arrays.batch(rows, None))
    assert tensors.batch(rows, seeded(2)).equal(arrays.batch(rows, seeded(2)))
    tensors.batch(rows, None).zero_()
    assert tensors.batch(rows, None).equal(arrays.batch(rows, None))
    assert arrays.resident("cpu") is arrays


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_resident_features_read_the_same_on_the_device():
    source = FeatureSource(feature_views(), torch.zeros(6), 1)
    resident = source.resident("cuda")
    rows = torch.tensor([3, 1, 1, 5])
    for generators in ((None, None), (seeded(3), seeded(3))):
        batch = resident.batch(rows, generators[0])
        assert batch.device.type == "cuda"
        assert batch.cpu().equal(source.batch(rows, generators[1]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "augmentation", [None, Images(pad=1, randaugment=9), Images(min_scale=0.5, erasing=0.5)]
)
def test_images_prepared_on_a_gpu_are_those_prepared_here(noise_set, tiny, augmentation):
    source = ImageSource(noise_set(), np.array([7, 2, 5, 1]), tiny, augmentation)
    there = source.on("cuda")
    rows = torch.tensor([3, 1, 1])
    for generators in ((None, None), (seeded(3), seeded(3))):
        batch = there.batch(rows, generators[0])
        assert batch.device.type == "cuda"
        assert batch.is_contiguous(memory_format=torch.channels_last)
        # A byte, 1/255 over a deviation of at least 0.25, may differ by 1.
        exact = augmentation is None or generators[0] is None
        atol = 1e-6 if exact else 4.1 / 255
        torch.testing.assert_close(batch.cpu(), source.batch(rows, generators[1]), atol=atol, rtol=1e-5)


@pytest.mark.parametrize("has_room", [True, False])
def test_pixels_kept_on_a_device_are_those_of_the_file(noise_set, tiny, monkeypatch, has_room):
    asked = []
    monkeypatch.setattr(dataset, "has_room", lambda *given: asked.append(given) or has_room)
    monkeypatch.setattr(dataset, "CHUNK", 2)
    source = ImageSource(noise_set(), np.array([7, 2, 5, 1, 0]), tiny, Images(min_scale=0.5))
    there, rows = source.on("cpu"), torch.tensor([4, 3, 1, 1])
    assert source.on("cpu") is there.on("cpu") is there
    for generators in ((None, None), (seeded(3), seeded(3))):
        assert there.batch(rows, generators[0]).equal(source.batch(rows, generators[1]))
    # Asked once: for eight times the 5 images of 8 x 8 x 3 bytes.
    assert asked == [(torch.device("cpu"), 8 * 5 * 192)]
    # Without what is kept.
    sent = pickle.loads(pickle.dumps(there))
    assert len(pickle.dumps(there)) == len(pickle.dumps(source))
    assert sent.batch(rows, None).equal(source.batch(rows, None))
    assert len(asked) == 1
