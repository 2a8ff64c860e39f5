import os

import pytest
from PIL import Image

from tascnet.data.csv_list import list_csv
from tascnet.errors import DataError


@pytest.fixture
def photos(tmp_path):
    """Four photos and a place for their list."""
    (tmp_path / "photos").mkdir()
    for index in range(4):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / "photos" / f"{index}.png")
    return tmp_path


def listing(folder, content, root=None, classes=None, encoding="utf-8"):
    (folder / "list.csv").write_bytes(content.encode(encoding) if isinstance(content, str) else content)
    return list_csv(folder / "list.csv", root, classes)


def rows(listed):
    return [(file.path, listed.class_names[file.label]) for file in listed.files]


BARE = "photos/3.png,dog\nphotos/0.png,cat\nphotos/1.png,cat\n"
SORTED = [("photos/0.png", "cat"), ("photos/1.png", "cat"), ("photos/3.png", "dog")]


@pytest.mark.parametrize(
    "content",
    [
        BARE,
        "file,label\n" + BARE,
        "File, Label\r\n" + BARE.replace("\n", "\r\n"),
        BARE.replace(",", " , ") + "\n  \n",
        '"photos/3.png","dog"\n"photos/0.png",cat\nphotos/1.png,cat',
        "label,file\ndog,photos/3.png\ncat,photos/0.png\ncat,photos/1.png\n",
        "\ufefffile,label\n" + BARE,
    ],
)
def test_with_or_without_a_header_sorted_by_class_and_path(content, photos):
    listed = listing(photos, content)
    assert listed.class_names == ("cat", "dog")
    assert rows(listed) == SORTED
    assert listed.root == photos
    assert all(file.size > 0 for file in listed.files)


def test_files_are_relative_to_the_root_where_there_is_one(photos):
    listed = listing(photos, "3.png,dog\n0.png,cat\n", root=photos / "photos")
    assert rows(listed) == [("0.png", "cat"), ("3.png", "dog")]
    assert listed.root == photos / "photos"


def test_labels_with_spaces_commas_and_other_letters(photos):
    listed = listing(photos, 'photos/0.png,"Ähre, grün"\nphotos/1.png,猫\n')
    assert listed.class_names == ("Ähre, grün", "猫")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (BARE + "photos/9.png,cat\n", r"line 4 of .*list\.csv names photos/9\.png, which is not there"),
        (BARE + ",cat\n", "line 4 of .* names no file"),
        (BARE + f"{300 * 'a'},cat\n", r"line 4 of .* names a+, which cannot be read \(file name too long\)"),
        (BARE + "photos/2.png,\n", "line 4 of .* has no label"),
        (BARE + "photos/2.png\n", "line 4 of .* has 1 column, expected 2"),
        (BARE + "photos/2.png,cat,1\n", "line 4 of .* has 3 columns, expected 2"),
        (
            BARE + "photos/0.png,dog\n",
            r"line 4 of .* names photos/0\.png again, after line 2 with label 'cat', expected one",
        ),
        (BARE + "./photos/0.png,dog\n", r"line 4 of .* names \./photos/0\.png again, after line 2"),
        (BARE + "photos/../photos//0.png,cat\n", r"line 4 of .* again, after line 2: keep one"),
        (BARE + "photos/2.png,Cat\n", "line 4 of .* has label 'Cat', others 'cat'"),
        (BARE + '"photos/2.png,cat\n', 'line 4 of .* has a " that is not closed'),
        # The quote takes all lines up to the next one, or to the end.
        ('"photos/2.png,cat\n' + BARE, 'line 1 of .* has a " that is not closed'),
        (BARE + 'photos/2.png,"cat\nphotos/1.png,"cat"\n', 'line 4 of .* has a " that is not closed'),
        (BARE + 'photos/2.png,"cat" \n', "line 4 of .* is broken"),
        (BARE.encode() + b"photos/2.png,caf\xe9\n", "line 4 of .* is not valid UTF-8"),
        ("photos/0.png,cat\n", "has 1 labels, expected at least two"),
        ("", "has 0 labels, expected at least two"),
        ("name;class\n" + BARE, "line 1 of .* is separated by `;`, expected commas"),
        (BARE.replace(",", "\t"), "line 1 of .* is separated by tabs"),
        ("file,dog,cat\nphotos/3.png,1,0\n", "line 1 of .* has 3 columns, .* with one label for a file"),
        ('photos/0.png,"cat,dog"\nphotos/1.png,cat\nphotos/2.png,dog\n', "several labels .* 'cat,dog'"),
        ("photos/0.png,cat|dog\nphotos/1.png,dog|cat\n", r"several labels for a file, such as 'cat\|dog'"),
        (
            "photos/0.png,1.5\nphotos/1.png,-2\nphotos/2.png,3e4\n",
            "has 3 labels that are 3 different numbers",
        ),
    ],
)
def test_what_is_wrong_is_one_sentence_that_names_the_line(content, says, photos):
    with pytest.raises(DataError, match=says) as caught:
        listing(photos, content)
    assert "\n" not in str(caught.value)


def test_labels_beside_the_known_ones_are_refused(photos):
    assert rows(listing(photos, BARE, classes=["dog", "cat"])) == SORTED
    with pytest.raises(DataError, match=r"line 4 of .* has the unknown label 'dgo'") as caught:
        listing(photos, BARE + "photos/2.png,dgo\n", classes=["dog", "cat"])
    assert caught.value.hint == "did you mean 'dog'?"


def test_a_missing_list_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv cannot be read \(it does not exist\)"):
        list_csv(tmp_path / "none.csv")


def test_a_list_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "list.csv"
    path.touch()
    os.truncate(path, 50_000_000_000)
    with pytest.raises(DataError, match=r"list\.csv cannot be read \(it has 50,000,000,000 bytes, expected"):
        list_csv(path)


def test_pipes_and_devices_are_not_opened(photos):
    os.mkfifo(photos / "pipe")
    with pytest.raises(DataError, match=r"pipe cannot be read \(it is a pipe or a device, not a file\)"):
        list_csv(photos / "pipe")
    with pytest.raises(DataError, match=r"line 4 of .* names pipe, which cannot be read \(it is a pipe"):
        listing(photos, BARE + "pipe,cat\n")


def test_several_labels_are_classes_where_there_are_enough_of_each(photos):
    labels = ["red", "blue", "red|blue"]
    for index in range(9):
        Image.new("RGB", (8, 8)).save(photos / "photos" / f"{index}.png")
    content = "".join(f"photos/{index}.png,{labels[index % 3]}\n" for index in range(9))
    assert listing(photos, content).class_names == ("blue", "red", "red|blue")
