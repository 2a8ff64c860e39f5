"""Options of data sets, on the command line's own configs."""

import pytest
import torch

from tascnet.cli.compose import Tree
from tascnet.errors import DataError
from tascnet.run.folder import identity
from tascnet_pipelines.datasets import check_samples
from tascnet_pipelines.session import open_session
from tests.data.test_published import cifar10, stanford_dogs


def composed(tmp_path, *overrides):
    places = [f"outputs={tmp_path / 'out'}", "backbone=resnet20", "backbone.weights=random"]
    return Tree().compose([*places, *overrides])


def paths(session, part):
    return {session.dataset.paths[row] for row in getattr(session, part).rows}


def test_the_official_test_split_is_the_test_split_unless_told_otherwise(tmp_path):
    stanford_dogs(tmp_path / "dogs")
    options = ["dataset=stanford_dogs", f"dataset.root={tmp_path / 'dogs'}", "dataset.val_per_class=1"]
    official = open_session(composed(tmp_path, *options, "dataset.train_per_class=2"))
    own = {f"{number}_{row}.jpg" for number in ("n02085620", "n02099267") for row in (3, 4)}
    assert {path.rpartition("/")[2] for path in paths(official, "test")} == own
    assert len(official.train) == 4
    drawn = open_session(
        composed(tmp_path, *options, "dataset.train_per_class=2", "dataset.official_test=false")
    )
    assert len(drawn.test) == 4
    assert paths(drawn, "test") != paths(official, "test")
    # 3 of each class are for training and validation.
    with pytest.raises(DataError, match="'Chihuahua' has 3 training samples, expected at least 4"):
        open_session(composed(tmp_path, *options, "dataset.train_per_class=3"))


def test_fractions_of_cifar10_share_out_what_the_official_test_leaves(tmp_path):
    cifar10(tmp_path / "cifar-10-batches-py")
    options = ["dataset=cifar10", f"dataset.root={tmp_path}"]
    session = open_session(composed(tmp_path, *options))
    # 10 training images a class, of which 0.08 / 0.8 validate.
    assert [len(part) for part in (session.train, session.val, session.test)] == [18, 2, 4]
    drawn = open_session(composed(tmp_path, *options, "dataset.official_test=false"))
    assert [len(part) for part in (drawn.train, drawn.val, drawn.test)] == [18, 2, 4]
    assert paths(drawn, "test") != paths(session, "test")


def test_classes_too_small_are_found_before_anything_is_decoded(tmp_path, images):
    options = ["dataset=image_folder", f"dataset.root={images}", "dataset.val_per_class=5"]
    with pytest.raises(DataError, match="class 'dog' has 10 samples, expected at least 13"):
        check_samples(composed(tmp_path, *options, "dataset.train_per_class=8"))
    assert not (tmp_path / "out").exists()


def test_a_csv_of_files_and_labels_takes_the_place_of_class_folders(tmp_path, images):
    lines = [
        f"{path.relative_to(images)},{path.parent.name.upper()}\n" for path in sorted(images.rglob("*.png"))
    ]
    (tmp_path / "list.csv").write_text("file,label\n" + "".join(lines))
    options = ["dataset=image_folder", f"dataset.root={images}"]
    folders = open_session(composed(tmp_path, *options)).dataset
    listed = open_session(composed(tmp_path, *options, f"dataset.csv={tmp_path / 'list.csv'}")).dataset
    assert listed.class_names == ("CAT", "DOG")
    assert (listed.paths, listed.labels.tolist()) == (folders.paths, folders.labels.tolist())
    assert (listed.pixels == folders.pixels).all()


def test_a_list_that_moved_is_the_same_run(tmp_path):
    options = ["dataset=image_folder", "dataset.root=/x"]
    one, other = (composed(tmp_path, *options, f"dataset.csv=/{name}.csv") for name in ("a", "b"))
    assert identity(one, "tune", {"data": "d"}) == identity(other, "tune", {"data": "d"})
    assert identity(one, "tune", {"data": "d"}) != identity(one, "tune", {"data": "e"})


def test_a_label_that_is_no_class_is_found_before_anything_is_decoded(tmp_path, images):
    (tmp_path / "list.csv").write_text("cat/00.png,cat\ndog/00.png,dgo\n")
    options = ["dataset=image_folder", f"dataset.root={images}", f"dataset.csv={tmp_path / 'list.csv'}"]
    with pytest.raises(DataError, match=r"line 2 of .* has the unknown label 'dgo': did you mean 'dog'"):
        check_samples(composed(tmp_path, *options, "dataset.classes=[cat,dog]"))
    assert not (tmp_path / "out").exists()


def test_pixels_are_kept_as_the_option_says(tmp_path, images):
    options = ["dataset=image_folder", f"dataset.root={images}", "dataset.train_fraction=0.4"]
    places = [tmp_path / "out" / "cache" / "pixels"]
    sessions = {}
    for keep in ("never", "auto"):
        sessions[keep] = open_session(composed(tmp_path, *options, f"dataset.keep_pixels={keep}"))
        assert all(place.exists() for place in places) == (keep == "auto")
    one, other = (session.train.batch(torch.arange(2), None) for session in sessions.values())
    assert one.equal(other)
    known = [identity(session.config, "tune", {}) for session in sessions.values()]
    assert known[0] == known[1]
