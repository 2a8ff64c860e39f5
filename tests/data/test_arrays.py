import errno
import os
import shutil
from collections import namedtuple

import numpy as np
import pytest

from tascnet.data import arrays
from tascnet.data.arrays import gigabytes, make_room, open_array, write_array
from tascnet.errors import BudgetError


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_rows_in_uneven_chunks_make_one_ordinary_npy_file(dtype, tmp_path):
    rows = np.arange(84).reshape(7, 3, 4).astype(dtype)
    opened = write_array(tmp_path / "a.npy", (3, 4), dtype, [rows[:1], rows[1:5], rows[5:]])
    assert (opened == rows).all()
    loaded = np.load(tmp_path / "a.npy")
    assert loaded.dtype == dtype
    assert (loaded == rows).all()
    assert (open_array(tmp_path / "a.npy", 7) == rows).all()


def test_chunks_in_another_memory_order_are_written_in_logical_order(tmp_path):
    rows = np.arange(24).reshape(2, 3, 4).astype(np.float32)
    write_array(tmp_path / "a.npy", (4, 3), "float32", [rows.transpose(0, 2, 1)])
    assert (np.load(tmp_path / "a.npy") == rows.transpose(0, 2, 1)).all()


def test_interrupted_write_leaves_nothing_and_keeps_the_old_file(tmp_path):
    def chunks():
        yield np.zeros((2, 3), dtype=np.uint8)
        raise KeyboardInterrupt

    write_array(tmp_path / "a.npy", (3,), "uint8", [np.ones((1, 3), dtype=np.uint8)])
    with pytest.raises(KeyboardInterrupt):
        write_array(tmp_path / "a.npy", (3,), "uint8", chunks())
    assert os.listdir(tmp_path) == ["a.npy"]
    assert open_array(tmp_path / "a.npy", 1) is not None


def test_open_refuses_another_number_of_rows_and_torn_files(tmp_path):
    path = tmp_path / "a.npy"
    assert open_array(path, 4) is None
    np.save(path, np.zeros((4, 5)))
    assert open_array(path, 3) is None
    assert open_array(path, 4) is not None
    for length in (path.stat().st_size - 1, 100, 3, 0):
        os.truncate(path, length)
        assert open_array(path, 4) is None


def test_full_disk_is_one_clear_error(tmp_path):
    def chunks():
        raise OSError(errno.ENOSPC, "No space left on device")
        yield

    with pytest.raises(BudgetError, match="is full"):
        write_array(tmp_path / "a.npy", (3,), "uint8", chunks())


def test_what_a_killed_process_left_is_removed_when_old(tmp_path):
    old, new = tmp_path / ".b.npy.1.tmp", tmp_path / ".c.npy.2.tmp"
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    write_array(tmp_path / "a.npy", (1,), "uint8", [np.zeros((1, 1), dtype=np.uint8)])
    assert sorted(os.listdir(tmp_path)) == [".c.npy.2.tmp", "a.npy"]


def room(folder, needed, limit, **options):
    make_room(folder, needed, limit, what="it", remedy="ask for less", **options)


def test_limit_is_exact_and_names_the_choice(tmp_path):
    room(tmp_path, 1000, 1e-6)
    with pytest.raises(BudgetError, match=r"at most 2 GB .* `cache_limit_gb=2\.6`, or ask for less"):
        room(tmp_path, 2_510_000_000, 2.0)


def test_files_used_longest_ago_make_room(tmp_path):
    (tmp_path / "sub").mkdir()
    paths = [tmp_path / "a.npy", tmp_path / "sub" / "b.npy", tmp_path / "c.npy"]
    for age, path in enumerate(paths):
        path.write_bytes(bytes(100))
        os.utime(path, (1000 + age, 1000 + age))
    # 300 bytes are there; 150 more fit in 350 once two of the three are gone, and `a` has to stay.
    room(tmp_path, 150, 350e-9, keep=[paths[0]])
    assert [path.exists() for path in paths] == [True, False, True]
    room(tmp_path, 150, 350e-9)
    assert [path.exists() for path in paths] == [True, False, True]
    room(tmp_path, 340, 350e-9)
    assert not any(path.exists() for path in paths)


def test_files_that_stay_count_against_the_limit(tmp_path):
    used, idle = tmp_path / "a.npy", tmp_path / "b.npy"
    for path in (used, idle):
        path.write_bytes(bytes(2_000_000))
    with pytest.raises(
        BudgetError, match=r"take 2 MB in addition to 2 MB in use, .* 0\.003 GB .*limit_gb=0\.1"
    ):
        room(tmp_path, 2_000_000, 0.003, keep=[used])
    assert idle.exists(), "nothing goes where it would not help"
    room(tmp_path, 2_000_000, 0.004, keep=[tmp_path / "." / "a.npy", tmp_path / "not-there.npy"])
    assert [path.exists() for path in (used, idle)] == [True, False]


def test_opening_counts_as_use(tmp_path):
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / name, np.zeros(4))
        os.utime(tmp_path / name, (1000, 1000))
    open_array(tmp_path / "a.npy", 4)
    size = (tmp_path / "a.npy").stat().st_size
    room(tmp_path, size, 2 * size / 1e9)
    assert os.listdir(tmp_path) == ["a.npy"]


def test_free_disk_space_counts_without_a_limit(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(arrays.shutil, "disk_usage", lambda path: usage(10, 5, 999))
    room(tmp_path / "not" / "there", 999, None)
    with pytest.raises(BudgetError, match="has 1 MB left"):
        room(tmp_path, 1000, None)


def test_disk_of_a_folder_that_does_not_exist_yet(tmp_path):
    room(tmp_path / "not" / "there", shutil.disk_usage(tmp_path).free // 2, None)


def test_sizes_as_text():
    assert [gigabytes(size) for size in (10, 20e6, 1.26e9)] == ["1 MB", "20 MB", "1.3 GB"]
