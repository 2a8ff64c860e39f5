import functools
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tascnet.data import arrays, pixels
from tascnet.data.listing import list_images
from tascnet.errors import ConfigError, DataError
from tascnet.models.preprocessing import Preprocessing, UnreadableImage, decode_image
from tascnet.options import ImageFolder
from tests.data.loading import load_image_folder
from tests.data.misbehaving import bands


@pytest.fixture
def decoded_paths(monkeypatch):
    """The names of the files that were decoded, in a list that grows."""
    names = []

    def counting(path, preprocessing, **options):
        names.append(f"{path.parent.name}/{path.name}")
        return decode_image(path, preprocessing, **options)

    monkeypatch.setattr(pixels, "decode_image", counting)
    return names


def test_samples_are_sorted_and_decoded(image_folder, tiny, tmp_path):
    dataset = load_image_folder(image_folder, tiny, cache=tmp_path / "cache")
    assert dataset.class_names == ("cat", "dog")
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1, 1]
    files = [image_folder / name / f"{index}.png" for name in ("cat", "dog") for index in range(3)]
    assert (dataset.pixels[:] == np.stack([decode_image(file, tiny).pixels for file in files])).all()
    assert dataset.skipped == ()
    assert not dataset.pixels[:].flags.writeable


def test_some_classes_alone_are_taken(image_folder, tiny, tmp_path):
    Image.new("RGB", (9, 9), "red").save(image_folder / "dog" / "z.png")
    (image_folder / "eel").mkdir()
    shutil.copy(image_folder / "cat" / "0.png", image_folder / "eel" / "0.png")
    dataset = load_image_folder(image_folder, tiny, cache=tmp_path, classes=["eel", "cat"])
    assert dataset.class_names == ("cat", "eel")
    assert dataset.labels.tolist() == [0, 0, 0, 1]
    with pytest.raises(DataError, match="'cot', which is not a class") as raised:
        load_image_folder(image_folder, tiny, cache=tmp_path, classes=["cot", "eel"])
    assert "did you mean 'cat'?" in str(raised.value.hint)


@pytest.mark.parametrize("change", [{"resize": 7}, {"interpolation": "bicubic"}, {"crop": "squash"}])
def test_images_that_are_prepared_otherwise_are_decoded_again(change, image_folder, tiny, tmp_path):
    first = load_image_folder(image_folder, tiny, cache=tmp_path / "cache")
    other = load_image_folder(image_folder, replace(tiny, **change), cache=tmp_path / "cache")
    pixels_of = [dataset.pixels[:] for dataset in (first, other)]
    assert pixels_of[0].shape != pixels_of[1].shape or (pixels_of[0] != pixels_of[1]).any()


def test_repeat_reads_the_cache_and_decodes_nothing(image_folder, tiny, tmp_path, decoded_paths):
    first = load_image_folder(image_folder, tiny, cache=tmp_path / "cache")
    assert len(decoded_paths) == 6
    again = load_image_folder(image_folder, tiny, cache=tmp_path / "cache")
    assert len(decoded_paths) == 6
    assert again.fingerprint == first.fingerprint
    assert (again.pixels[:] == first.pixels[:]).all()


def flip_bits(path, places):
    content = bytearray(path.read_bytes())
    for place in places:
        content[place] ^= 1
    path.write_bytes(content)


def test_damaged_pixels_are_decoded_again(image_folder, tiny, tmp_path, decoded_paths, said):
    cache = tmp_path / "cache"
    first = load_image_folder(image_folder, tiny, cache=cache)
    expected = first.pixels[:].copy()
    flip_bits(first.pixels.path, [-1])
    again = load_image_folder(image_folder, tiny, cache=cache)
    assert again.fingerprint == first.fingerprint
    assert len(decoded_paths) == 6, "not before they are read"
    assert (again.pixels[np.array([5, 0])] == expected[[5, 0]]).all()
    assert len(decoded_paths) == 12
    assert said == [f"{first.pixels.path} was changed or damaged after it was written: it is made again"]
    assert (load_image_folder(image_folder, tiny, cache=cache).pixels[:] == expected).all()
    assert len(decoded_paths) == 12


def test_damaged_pixels_are_not_reused_when_a_file_is_added(
    image_folder, tiny, tmp_path, decoded_paths, said
):
    first = load_image_folder(image_folder, tiny, cache=tmp_path / "cache")
    expected = first.pixels[:].copy()
    flip_bits(first.pixels.path, [-1])
    shutil.copy(image_folder / "cat" / "0.png", image_folder / "dog" / "9.png")
    again = load_image_folder(image_folder, tiny, cache=tmp_path / "cache")
    assert len(decoded_paths) == 13
    assert (again.pixels[:6] == expected).all()
    assert [message for message in said if "after it was written" in message] == [
        f"{first.pixels.path} was changed or damaged after it was written: images are decoded again"
    ]


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b'{"files": []}', b"[" * 100_000])
def test_a_damaged_index_is_written_again(content, image_folder, tiny, tmp_path, decoded_paths, said):
    first = load_image_folder(image_folder, tiny, cache=tmp_path)
    index = first.pixels.path.with_name("index.jsonl")
    whole = index.read_bytes()
    index.write_bytes(content)
    again = load_image_folder(image_folder, tiny, cache=tmp_path)
    assert again.fingerprint == first.fingerprint
    assert len(decoded_paths) == 12
    assert index.read_bytes() == whole
    (message,) = said
    assert message.startswith(f"{index} cannot be used (it ")


def test_an_edited_index_does_not_exchange_images(image_folder, tiny, tmp_path, said):
    first = load_image_folder(image_folder, tiny, cache=tmp_path)
    index = first.pixels.path.with_name("index.jsonl")
    index.write_text(index.read_text().replace("cat/0.png", "x").replace("cat/1.png", "cat/0.png"))
    again = load_image_folder(image_folder, tiny, cache=tmp_path)
    assert again.fingerprint == first.fingerprint
    assert (again.pixels[:] == first.pixels[:]).all()
    assert "was changed or damaged" in said[0]


def test_images_that_were_exchanged_while_their_pixels_are_in_use_are_an_error(image_folder, tiny, tmp_path):
    first = load_image_folder(image_folder, tiny, cache=tmp_path)
    flip_bits(first.pixels.path, [-1])
    again = load_image_folder(image_folder, tiny, cache=tmp_path)
    Image.new("RGB", (9, 9), "red").save(image_folder / "dog" / "0.png")
    with pytest.raises(DataError, match="have changed since they were read: start again"):
        again.pixels[0]


def test_only_changed_files_are_decoded_again(image_folder, tiny, tmp_path, decoded_paths):
    first = load_image_folder(image_folder, tiny, cache=tmp_path / "cache")
    decoded_paths.clear()
    Image.new("RGB", (9, 9), "red").save(image_folder / "cat" / "1.png")
    Image.new("RGB", (9, 9), "blue").save(image_folder / "cat" / "new.png")
    (image_folder / "dog" / "0.png").unlink()
    second = load_image_folder(image_folder, tiny, cache=tmp_path / "cache")
    assert sorted(decoded_paths) == ["cat/1.png", "cat/new.png"]
    assert second.labels.tolist() == [0, 0, 0, 0, 1, 1]
    assert (second.pixels[1] == [255, 0, 0]).all()
    assert (second.pixels[[0, 2, 4, 5]] == first.pixels[[0, 2, 4, 5]]).all()
    assert second.fingerprint != first.fingerprint
    assert len([*tmp_path.glob("cache/pixels/*/*.npy")]) == 1


@pytest.mark.parametrize("stop", range(1, 11))
def test_decoding_that_was_interrupted_goes_on_where_it_was(
    stop, image_folder, tiny, tmp_path, monkeypatch, decoded_paths
):
    spoil(image_folder)
    options = {"unreadable": "skip"}
    whole = load_image_folder(image_folder, tiny, cache=tmp_path / "whole", **options)
    # Two images a block.
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 2 * 8 * 8 * 3)
    track, taken = pixels.track, []

    def interrupted(items, *words):
        for item in track(items, *words):
            taken.append(item)
            if len(taken) == stop:
                raise KeyboardInterrupt
            yield item

    with monkeypatch.context() as patch:
        patch.setattr(pixels, "track", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_image_folder(image_folder, tiny, cache=tmp_path / "cache", **options)
    decoded_paths.clear()
    again = load_image_folder(image_folder, tiny, cache=tmp_path / "cache", **options)
    assert (again.pixels[:] == whole.pixels[:]).all()
    for name in ("fingerprint", "digests", "phashes", "paths", "skipped"):
        assert getattr(again, name) == getattr(whole, name)
    # What is decoded again are the images of the last block, and unreadable ones after it.
    readable = sum(not isinstance(outcome, UnreadableImage) for outcome in taken[:-1])
    kept = [path for path in whole.paths if path not in decoded_paths]
    assert len(kept) == readable // 2 * 2
    assert kept == list(whole.paths[: len(kept)])
    decoded_paths.clear()
    load_image_folder(image_folder, tiny, cache=tmp_path / "cache", **options)
    assert decoded_paths == []
    assert [path.name for path in tmp_path.glob("cache/pixels/*/.*")] == [".lock"]


def test_another_size_is_decoded_beside_the_first(image_folder, tiny, tmp_path, decoded_paths):
    larger = Preprocessing(size=9, resize=12, mean=tiny.mean, std=tiny.std)
    first = load_image_folder(image_folder, tiny, cache=tmp_path / "cache")
    second = load_image_folder(image_folder, larger, cache=tmp_path / "cache")
    assert second.pixels.shape == (6, 12, 12, 3)
    assert second.fingerprint != first.fingerprint
    load_image_folder(image_folder, tiny, cache=tmp_path / "cache")
    assert len(decoded_paths) == 12


def test_fingerprint_follows_the_content_and_not_the_place(image_folder, tiny, tmp_path):
    shutil.copytree(image_folder, tmp_path / "moved")
    first, moved = (
        load_image_folder(root, tiny, cache=tmp_path / "cache") for root in (image_folder, tmp_path / "moved")
    )
    assert first.fingerprint == moved.fingerprint
    (tmp_path / "moved" / "dog").rename(tmp_path / "moved" / "hen")
    renamed = load_image_folder(tmp_path / "moved", tiny, cache=tmp_path / "cache")
    assert renamed.fingerprint != first.fingerprint


@pytest.mark.parametrize("damage", ["truncate", "remove", "garble", "index", "foreign"])
def test_damaged_cache_is_rebuilt(damage, image_folder, tiny, tmp_path, decoded_paths):
    first = load_image_folder(image_folder, tiny, cache=tmp_path / "cache")
    expected = np.array(first.pixels)
    (array,) = tmp_path.glob("cache/pixels/*/*.npy")
    index = array.with_name("index.jsonl")
    if damage == "truncate":
        os.truncate(array, array.stat().st_size - 1)
    elif damage == "remove":
        array.unlink()
    elif damage == "garble":
        array.write_bytes(b"garbage" * 100)
    else:
        index.write_text("{" if damage == "index" else '{"files": [[1]], "array": 3}')
    again = load_image_folder(image_folder, tiny, cache=tmp_path / "cache")
    assert len(decoded_paths) == 12
    assert (again.pixels == expected).all()


def spoil(root):
    (root / "cat" / "empty.jpg").touch()
    (root / "cat" / "text.jpg").write_text("no image")
    whole = (root / "dog" / "0.png").read_bytes()
    (root / "dog" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "dog" / "late.gif").write_text("no image")


def test_unreadable_files_are_named_and_refused(image_folder, tiny, tmp_path, decoded_paths):
    spoil(image_folder)
    for _ in range(2):
        with pytest.raises(DataError) as caught:
            load_image_folder(image_folder, tiny, cache=tmp_path / "cache")
        text = str(caught.value)
        assert "4 of 10 images" in text
        assert "cat/empty.jpg: empty file; cat/text.jpg: not an image; dog/cut.png: " in text
        assert "and 1 more" in text
        assert "`unreadable=skip`" in text
    # The verdicts are kept: the repeat decoded nothing.
    assert len(decoded_paths) == 10


def test_unreadable_files_are_skipped_with_a_count(image_folder, tiny, tmp_path, said, decoded_paths):
    clean = load_image_folder(image_folder, tiny, cache=tmp_path / "cache")
    expected, print_ = np.array(clean.pixels), clean.fingerprint
    spoil(image_folder)
    decoded_paths.clear()
    dataset = load_image_folder(image_folder, tiny, cache=tmp_path / "cache", unreadable="skip")
    assert len(decoded_paths) == 4
    assert dataset.skipped == ("cat/empty.jpg", "cat/text.jpg", "dog/cut.png", "dog/late.gif")
    (message,) = said
    assert message.startswith("4 of 10 images")
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert (dataset.pixels == expected).all()
    assert dataset.fingerprint == print_


def test_mended_file_is_all_that_is_decoded_after_a_refusal(image_folder, tiny, tmp_path, decoded_paths):
    (image_folder / "cat" / "bad.png").write_text("no image")
    with pytest.raises(DataError):
        load_image_folder(image_folder, tiny, cache=tmp_path / "cache")
    decoded_paths.clear()
    Image.new("RGB", (9, 9)).save(image_folder / "cat" / "bad.png")
    assert len(load_image_folder(image_folder, tiny, cache=tmp_path / "cache")) == 7
    assert decoded_paths == ["cat/bad.png"]


def test_a_failure_that_may_pass_is_tried_again(image_folder, tiny, tmp_path):
    target = tmp_path / "elsewhere.png"
    (image_folder / "cat" / "link.png").symlink_to(target)
    with pytest.raises(DataError, match=r"cat/link\.png: it does not exist"):
        load_image_folder(image_folder, tiny, cache=tmp_path / "cache")
    shutil.copy(image_folder / "cat" / "0.png", target)
    assert len(load_image_folder(image_folder, tiny, cache=tmp_path / "cache")) == 7


def test_class_without_a_readable_image_is_refused_even_when_skipping(image_folder, tiny, tmp_path):
    (image_folder / "eel").mkdir()
    (image_folder / "eel" / "0.jpg").touch()
    for _ in range(2):
        with pytest.raises(DataError, match="no image of class 'eel'"):
            load_image_folder(image_folder, tiny, cache=tmp_path / "cache", unreadable="skip")


def test_not_one_readable_image(tiny, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "root" / name).mkdir(parents=True)
        (tmp_path / "root" / name / "0.jpg").touch()
    for _ in range(2):
        with pytest.raises(DataError, match="no image of class 'a'"):
            load_image_folder(tmp_path / "root", tiny, cache=tmp_path / "cache", unreadable="skip")


def test_pixels_are_kept_if_they_fit_the_limit(image_folder, tiny, tmp_path, said):
    # 6 images of 8 x 8 x 3 bytes are 1152 bytes.
    for limit, is_kept in ((1151e-9, False), (1152e-9, True)):
        load_image_folder(image_folder, tiny, cache=tmp_path / "cache", limit_gb=limit)
        assert bool([*tmp_path.glob("cache/pixels/*/*.npy")]) == is_kept
    assert len(said) == 1


def same_samples(one, other):
    rows = np.array([4, 0, 4])
    np.testing.assert_array_equal(one.pixels[rows], other.pixels[rows])
    np.testing.assert_array_equal(one.pixels[3], other.pixels[3])
    return one.pixels.shape == other.pixels.shape and one.fingerprint == other.fingerprint


def test_pixels_that_are_not_kept_are_the_same(image_folder, tiny, tmp_path, decoded_paths):
    (image_folder / "cat" / "broken.png").write_bytes(b"none")
    options = {"unreadable": "skip"}
    kept = load_image_folder(image_folder, tiny, cache=tmp_path / "cache", **options)
    when_read = load_image_folder(image_folder, tiny, cache=tmp_path / "none", limit_gb=1e-9, **options)
    assert not [*tmp_path.rglob("none/**/*.npy")]
    decoded_paths.clear()
    assert same_samples(kept, when_read)
    assert len(decoded_paths) == 4
    assert when_read.skipped == kept.skipped == ("cat/broken.png",)


def test_pixels_that_do_not_fit_are_decoded_when_they_are_read(image_folder, tiny, tmp_path, said):
    kept = load_image_folder(image_folder, tiny, cache=tmp_path / "cache")
    assert said == []
    when_read = load_image_folder(image_folder, tiny, cache=tmp_path / "other", limit_gb=1151e-9)
    assert same_samples(kept, when_read)
    assert len(said) == 1
    assert "6 decoded images" in said[0]
    assert "images are decoded whenever they are read" in said[0]


def test_an_image_that_is_gone_when_it_is_read_is_named(image_folder, tiny, tmp_path):
    dataset = load_image_folder(image_folder, tiny, cache=tmp_path, limit_gb=1e-9)
    (image_folder / dataset.paths[0]).unlink()
    with pytest.raises(DataError, match=f"^{dataset.paths[0]} in .* can no longer be read"):
        dataset.pixels[np.array([0])]


def test_an_image_that_has_changed_when_it_is_read_is_named(image_folder, tiny, tmp_path):
    dataset = load_image_folder(image_folder, tiny, cache=tmp_path, limit_gb=1e-9)
    Image.new("RGB", (8, 8), "red").save(image_folder / dataset.paths[0])
    with pytest.raises(DataError, match=f"^{dataset.paths[0]} in .* has changed since it was read"):
        dataset.pixels[np.array([0])]


def test_listing_passes_over_what_is_no_image(image_folder):
    (image_folder / "cat" / "notes.txt").write_text("hello")
    (image_folder / "cat" / "._0.png").write_text("litter")
    (image_folder / ".hidden").mkdir()
    (image_folder / "dog" / "more").mkdir()
    Image.new("RGB", (8, 8)).save(image_folder / "dog" / "more" / "UP.JPG")
    listing = list_images(image_folder, exclude=())
    assert listing.class_names == ("cat", "dog")
    assert [file.path for file in listing.files] == [
        *("cat/0.png", "cat/1.png", "cat/2.png"),
        *("dog/0.png", "dog/1.png", "dog/2.png", "dog/more/UP.JPG"),
    ]


def test_folders_without_classes_are_refused_at_once(image_folder, tmp_path):
    with pytest.raises(ConfigError, match=r"give it as `root=<folder>`"):
        ImageFolder()
    with pytest.raises(DataError, match="missing, expected a folder"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(DataError, match="is a file"):
        list_images(image_folder / "cat" / "0.png")
    with pytest.raises(DataError, match="holds 0 class folders"):
        list_images(image_folder / "cat")
    with pytest.raises(DataError, match="holds 1 class folders"):
        list_images(image_folder, exclude=("dog",))


def test_class_folders_without_images_are_named(image_folder):
    for name in ("eel", "fox", "gnu", "hen"):
        (image_folder / name).mkdir()
    (image_folder / "eel" / "readme.txt").touch()
    with pytest.raises(DataError, match=r"without images \(eel: 1 \.txt; fox; gnu and 1 more\)"):
        list_images(image_folder)


def test_files_that_are_no_images_are_counted_by_ending(image_folder):
    for name in ("a.mov", "b.MOV", "notes.txt", "README", ".hidden.txt", "Thumbs.db"):
        (image_folder / "cat" / name).touch()
    (image_folder / "dog" / "__MACOSX").mkdir()
    (image_folder / "dog" / "__MACOSX" / "0.png").touch()
    listing = list_images(image_folder)
    assert listing.passed_over == {".mov": 2, ".txt": 1, "without ending": 1}
    assert listing.notes[0].endswith(
        "passed over 4 files without an image's ending: 2 .mov, 1 .txt, 1 without ending"
    )
    assert len(listing.files) == 6


def test_dropped_channels_are_not_those_of_the_cache(image_folder, tiny, tmp_path):
    bands((10, 20, 30, 0))(image_folder)
    load = functools.partial(load_image_folder, image_folder, tiny, cache=tmp_path / "cache")
    assert len(load(extra_channels="drop")) == 7
    assert len(load(unreadable="skip")) == 6
    with pytest.raises(DataError, match="4 channels"):
        load()


def test_a_folder_without_permission_is_called_unreadable(image_folder, monkeypatch):
    # The tests may run as root, who may read everything.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(DataError, match=r"pictures cannot be read \(permission denied\)"):
        list_images(image_folder)


def test_unknown_policy_is_refused():
    with pytest.raises(ConfigError, match="refuse or skip"):
        ImageFolder(root="x", unreadable="ignore")
