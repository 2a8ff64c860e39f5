"""Torch data sets of a caller's own."""

import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from tascnet.data import cached_features, check_samples, open_samples
from tascnet.data.arrays import CheckedArray
from tascnet.data.named import datasets, image_folder
from tascnet.errors import ConfigError, DataError
from tascnet.run.folder import identity
from tests.data.misbehaving import fourth_band

CLASSES = 2


def noise(seed, side=9):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def pictures(count, start=0, make=lambda pixels: pixels):
    return [(make(noise(start + index)), index % CLASSES) for index in range(count)]


def tensors(count, start=0):
    generator = torch.Generator().manual_seed(start)
    return [(torch.randn(3, 6, 6, generator=generator), index % CLASSES) for index in range(count)]


@pytest.fixture
def opened(tiny, tmp_path):
    def opened(data, seed=0, **options):
        check_samples(data, tmp_path / "cache")
        return open_samples(data, tiny, seed=seed, cache=tmp_path / "cache", **options)

    return opened


def test_pixels_are_decoded_like_files_and_split_like_a_folder_with_train_alone(opened, tmp_path):
    for pixels, label in pictures(20):
        folder = tmp_path / "photos" / "train" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{len(list(folder.iterdir())):02d}.png")
    files = opened(image_folder(tmp_path / "photos"))
    # In the order of a folder: by class.
    items = sorted(pictures(20), key=lambda item: item[1])
    for make in (lambda pixels: pixels, Image.fromarray):
        samples = opened(datasets([(make(pixels), label) for pixels, label in items]))
        assert samples.fingerprint == files.fingerprint
        assert samples.held_out == files.held_out
        assert samples.class_names == ("0", "1")
        assert samples.views == ("plain", "flipped")
        rows, generators = torch.arange(4), [torch.Generator().manual_seed(3) for _ in range(2)]
        assert samples.train.batch(rows, None).equal(files.train.batch(rows, None))
        own, expected = (
            part.train.batch(rows, generator)
            for part, generator in zip((samples, files), generators, strict=True)
        )
        assert own.equal(expected)


def test_given_splits_stay_as_they_are(opened):
    data = datasets(train=pictures(8), val=pictures(4, 50), test=pictures(6, 90), class_names=("ant", "bee"))
    samples = opened(data)
    assert samples.train.rows.tolist() == list(range(8))
    assert samples.val.rows.tolist() == list(range(8, 12))
    assert samples.test.rows.tolist() == list(range(12, 18))
    assert samples.class_names == ("ant", "bee")
    assert samples.counts().test == 6


def test_a_missing_split_is_drawn_from_train_by_the_seed(opened):
    data = datasets(train=pictures(20), test=pictures(4, 50), split=(0.6, 0.2))
    # Training and validation share the 10 of each class as 6 to 2.
    first, other = opened(data), opened(data, seed=1)
    assert [len(part) for part in (first.train, first.val, first.test)] == [16, 4, 4]
    assert set(first.val.rows) != set(other.val.rows)
    counted = opened(datasets(train=pictures(20), split=(5, 3)))
    assert [len(part) for part in (counted.train, counted.val, counted.test)] == [10, 6, 4]


def test_the_pixels_are_kept_once_and_read_from_there(opened, tmp_path):
    samples = [opened(datasets(pictures(20))) for _ in range(2)]
    kept = list((tmp_path / "cache" / "pixels").rglob("*.npy"))
    assert len(kept) == 1
    assert all(isinstance(one.dataset.pixels, CheckedArray) for one in samples)
    changed = opened(datasets([*pictures(19), (noise(99), 1)]))
    assert changed.fingerprint != samples[0].fingerprint
    assert len(list((tmp_path / "cache" / "pixels").rglob("*.npy"))) == 2


def test_pixels_that_do_not_fit_are_read_when_they_are_needed(opened, tmp_path, said):
    kept = opened(datasets(pictures(20)))
    when_read = opened(datasets(pictures(20)), cache_limit_gb=1e-9)
    assert isinstance(when_read.dataset.pixels, CheckedArray), "what is kept is used"
    (file,) = (tmp_path / "cache" / "pixels").rglob("*.npy")
    file.unlink()
    when_read = opened(datasets(pictures(20)), cache_limit_gb=1e-9)
    assert "the 20 images of datasets would take 1 MB" in said[0]
    rows = torch.arange(4)
    assert when_read.train.batch(rows, None).equal(kept.train.batch(rows, None))
    assert when_read.fingerprint == kept.fingerprint


@pytest.mark.parametrize("options", [{"randaugment": 9}, {"erasing": 0.1}])
def test_augmentations_that_tensors_do_not_have_are_refused(options, opened):
    with pytest.raises(ConfigError, match=f"`{min(options)}` has no effect with tensors"):
        opened(datasets(tensors(20), **options))
    source = opened(datasets(pictures(20), **options)).train
    rows, whole = torch.arange(10), opened(datasets(pictures(20))).train
    assert not source.batch(rows, torch.Generator()).equal(whole.batch(rows, torch.Generator()))


def test_float_tensors_are_used_as_they_are(opened, tmp_path):
    items = tensors(20)
    samples = opened(datasets(items))
    assert samples.views == ("plain",)
    rows = torch.arange(5)
    expected = torch.stack([items[row][0] for row in samples.train.rows[:5]])
    for generator in (None, torch.Generator()):
        batch = samples.train.batch(rows, generator)
        assert batch.equal(expected)
        assert batch.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="only the view plain"):
        samples.train.batch_view(rows, "flipped")
    features = cached_features(
        torch.nn.Flatten(), samples.train, folder=tmp_path / "features", trunk_digest="t", dtype="float32"
    )
    assert features.batch(rows, None).equal(expected.flatten(1))
    assert len(set(samples.dataset.digests)) == 20


def test_torchs_own_data_sets_work(opened):
    inputs = torch.randn(12, 3, 6, 6, generator=torch.Generator().manual_seed(0)).double()
    data = datasets(TensorDataset(inputs, torch.arange(12) % 3), class_names=["a", "b", "c"])
    samples = opened(data)
    assert samples.num_classes == 3
    assert samples.train.batch(torch.tensor([0])).dtype == torch.float32


def test_grey_and_transparent_arrays_become_rgb(opened):
    grey = [(np.full((9, 9, 1), 10 * index, dtype=np.uint8), index % 2) for index in range(1, 9)]
    clear = [(np.zeros((9, 9, 4), dtype=np.uint8), index % 2) for index in range(2)]
    grey += [(np.full((9, 9), 11 * index, dtype=np.uint8), index % 2) for index in range(1, 9)]
    samples = opened(datasets([*grey, *clear]))
    assert (samples.dataset.pixels[2] == 30).all()
    assert (samples.dataset.pixels[10] == 33).all()
    # Transparent pixels are white, as those of files.
    assert (samples.dataset.pixels[16] == 255).all()


def test_further_channels_are_refused_or_dropped(opened):
    items = [*pictures(8, make=Image.fromarray), (Image.open(io.BytesIO(fourth_band("odd.jp2"))), 0)]
    with pytest.raises(
        DataError, match=r"sample 8 of `train` cannot be read \(4 channels.*`extra_channels=drop`"
    ):
        opened(datasets(items))
    samples = opened(datasets(items, extra_channels="drop"))
    assert (samples.dataset.pixels[8] == (10, 20, 30)).all()
    with pytest.raises(ConfigError, match="extra_channels"):
        datasets(items, extra_channels="keep")


def test_what_a_decoder_raises_is_one_sentence(opened):
    whole = io.BytesIO()
    Image.fromarray(noise(1)).save(whole, "png")
    picture = Image.open(whole)
    picture.load = lambda: struct.unpack("I", b"")
    with pytest.raises(DataError, match=r"sample 8 of `train` cannot be read \(unpack requires a buffer"):
        opened(datasets([*pictures(8), (picture, 0)]))


def test_the_same_image_in_two_classes_is_named(opened, said):
    opened(datasets([*pictures(8), (noise(0), 1)]))
    assert (
        "1 image is in more than one class of datasets (sample 0 of `train` = sample 8 of `train`)" in said[0]
    )


class Random:
    """Its images differ whenever they are read."""

    def __init__(self):
        self.reads = 0

    def __len__(self):
        return 12

    def __getitem__(self, index):
        self.reads += 1
        return noise(1000 * self.reads), index % 2


def test_random_transforms_are_refused_with_advice(opened, tmp_path):
    with pytest.raises(DataError, match=r"sample 0 of `train` differs when it is read twice: remove random"):
        opened(datasets(Random()))
    assert not list((tmp_path / "cache").rglob("*.npy"))


@pytest.mark.parametrize(
    ("items", "says"),
    [
        ([*pictures(3), noise(9)], "sample 3 of `train` is an array of 9 x 9 x 3 uint8, expected a pair"),
        ([*pictures(3), (noise(9), 0, 1)], "sample 3 of `train` is of type tuple, expected a pair"),
        ([*pictures(3), ("a.png", 0)], "the image of sample 3 of `train` is of type str: an image is"),
        ([*pictures(3), (torch.zeros(3, 9, 9, dtype=torch.uint8), 0)], "is a tensor of 3 x 9 x 9 uint8"),
        ([*pictures(3), (np.zeros((9, 9, 3)), 0)], "is an array of 9 x 9 x 3 float64"),
        ([*pictures(3), (np.zeros((3, 9, 9), dtype=np.uint8), 0)], "is an array of 3 x 9 x 9 uint8"),
        ([*pictures(3), (np.zeros((0, 9, 3), dtype=np.uint8), 0)], "is an array of 0 x 9 x 3 uint8"),
        (
            [*pictures(3), tensors(1)[0]],
            "3 of `train` is a float tensor, but sample 0 of `train` is an image",
        ),
        ([(torch.zeros(1, 6, 6), 0)], "is a tensor of 1 x 6 x 6, but the network takes 3 x 6 x 6"),
        ([(torch.zeros(3, 8, 8), 0)], "is a tensor of 3 x 8 x 8, but the network takes 3 x 6 x 6"),
        (
            [*pictures(3), (noise(9), "cat")],
            "label of sample 3 of `train` is 'cat', expected a whole number",
        ),
        (
            [*pictures(3), (noise(9), 10**30)],
            "is 1000000000000000000000000000000, expected a whole number from 0 on, below the number of",
        ),
        ([*pictures(3), (noise(9), -1)], "is -1, expected a whole number from 0 on"),
        ([*pictures(3), (noise(9), True)], "is True, expected a whole number"),
        ([*pictures(3), (noise(9), torch.tensor(1.0))], "is 1.0, expected a whole number"),
        ([(noise(index), 0) for index in range(9)], "all labels are 0, expected at least two classes"),
        ([(noise(index), 2 * (index % 2)) for index in range(9)], "class '1' has 0 training samples"),
        ([(Image.new("F", (9, 9)), 0)], "sample 0 of `train` cannot be read .floating-point pixels"),
    ],
)
def test_wrong_items_are_one_sentence(items, says, opened):
    with pytest.raises(DataError, match=says) as caught:
        opened(datasets(items))
    assert "\n" not in str(caught.value)


def test_labels_beside_the_class_names_are_refused(opened):
    with pytest.raises(DataError, match="sample 2 of `val` is 2, expected a whole number from 0 to 1"):
        opened(datasets(pictures(8), [*pictures(2), (noise(9), 2)], class_names=["a", "b"]))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(pictures(3))


def test_what_is_no_map_style_data_set_is_refused_at_once():
    for given in (Stream(), DataLoader(pictures(3)), iter(pictures(3)), 7, None):
        with pytest.raises(DataError, match="expected a map-style data set: give an object with `__len__`"):
            datasets(given)
    with pytest.raises(DataError, match="`val` is of type int"):
        datasets(pictures(8), val=3)
    with pytest.raises(DataError, match="the data set `test` is empty"):
        datasets(pictures(8), test=[])
    with pytest.raises(ConfigError, match="at least two classes"):
        datasets(pictures(8), class_names=["one"])
    with pytest.raises(ConfigError, match="count and a share"):
        datasets(pictures(8), split=(5, 0.1))
    with pytest.raises(ConfigError, match=r"`split` is \(0\.5,\), expected two shares or two counts"):
        datasets(pictures(8), split=(0.5,))


def test_options_count_in_the_identity_and_data_sets_by_their_digest():
    one, other = datasets(pictures(8)), datasets(tuple(pictures(9)), flip=False, name="mine")
    assert (one.min_scale, other.flip) == (image_folder("x").min_scale, False)
    known = identity("tune", 0, {"data": "d"}, {"dataset": other})
    assert (known["dataset.name"], known["dataset.flip"]) == ("mine", False)
    assert not any("_set" in key for key in known)


def test_damaged_pixels_are_read_again(opened, tmp_path, said):
    first = opened(datasets(pictures(20))).dataset
    expected = first.pixels[:].copy()
    content = bytearray(first.pixels.path.read_bytes())
    content[-1] ^= 1
    first.pixels.path.write_bytes(content)
    again = opened(datasets(pictures(20))).dataset
    assert (again.pixels[np.array([3, 19])] == expected[[3, 19]]).all()
    assert [message.rpartition(": ")[2] for message in said] == ["it is made again"]
