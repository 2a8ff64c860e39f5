import errno
import fcntl
import hashlib
import logging
import os
import shutil
import signal
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest

from tascnet.data import arrays
from tascnet.data.arrays import gigabytes, journal_of, make_room, open_array, write_array, write_arrays
from tascnet.errors import BudgetError, DamagedFile


def write(path, shape, dtype, chunks, again=None, **options):
    """Write all chunks, whatever is there."""
    return write_array(path, shape, dtype, lambda _: chunks, again, begin=lambda _: 0, **options)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_rows_in_uneven_chunks_make_one_ordinary_npy_file(dtype, tmp_path):
    rows = np.arange(84).reshape(7, 3, 4).astype(dtype)
    opened = write(tmp_path / "a.npy", (3, 4), dtype, [rows[:1], rows[1:5], rows[5:]])
    assert (opened[:] == rows).all()
    loaded = np.load(tmp_path / "a.npy")
    assert loaded.dtype == dtype
    assert (loaded == rows).all()
    assert (open_array(tmp_path / "a.npy", 7)[:] == rows).all()


def test_chunks_in_another_memory_order_are_written_in_logical_order(tmp_path):
    rows = np.arange(24).reshape(2, 3, 4).astype(np.float32)
    write(tmp_path / "a.npy", (4, 3), "float32", [rows.transpose(0, 2, 1)])
    assert (np.load(tmp_path / "a.npy") == rows.transpose(0, 2, 1)).all()


def test_open_refuses_another_number_of_rows_and_torn_files(tmp_path):
    path = tmp_path / "a.npy"
    assert open_array(path, 4) is None
    write(path, (5,), "float64", [np.zeros((4, 5))])
    assert open_array(path, 3) is None
    assert open_array(path, 4) is not None
    for length in (path.stat().st_size - 1, 100, 3, 0):
        os.truncate(path, length)
        assert open_array(path, 4) is None


# Damage. Arrays of 40 rows of 6 bytes, in blocks of 4 rows.


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 24)


ROWS = np.arange(240, dtype=np.uint8).reshape(40, 6)
HEADER = 128


def growing(interrupt=None, size=5):
    """Makes `ROWS` from those given on, in chunks; before row `interrupt` it is interrupted."""
    asked = []

    def chunks(done):
        asked.append(len(done))
        assert (done[:] == ROWS[: len(done)]).all()
        for start in range(len(done), 40, size):
            if interrupt is not None and start >= interrupt:
                raise KeyboardInterrupt
            yield ROWS[start : start + size]

    return chunks, asked


def interrupted(path, row):
    with pytest.raises(KeyboardInterrupt):
        write_array(path, (6,), "uint8", growing(row)[0])
    return path.with_name(".a.npy.part")


@pytest.mark.parametrize("row", [0, 1, 5, 20, 35])
def test_an_interrupted_write_goes_on_after_its_last_whole_block(small_blocks, row, tmp_path):
    write_array(tmp_path / "whole" / "a.npy", (6,), "uint8", growing()[0])
    path = tmp_path / "a.npy"
    interrupted(path, row)
    assert not path.exists()
    chunks, asked = growing()
    assert (write_array(path, (6,), "uint8", chunks)[:] == ROWS).all()
    assert asked == [-(-row // 5) * 5 // 4 * 4]
    for name in ("a.npy", "a.digests.json"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a.digests.json", "a.npy", "whole"]


def kill_before(path, row):
    """Write the array in another process, which is killed before a row; how many rows it found."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:

        def chunks(done):
            os.write(writer, bytes([len(done)]))
            for start in range(len(done), 40):
                if start == row:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield ROWS[start : start + 1]

        write_array(path, (6,), "uint8", chunks)
    os.waitpid(child, 0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        return pipe.read()[0]


def test_whenever_it_is_killed_nothing_is_lost(small_blocks, tmp_path):
    path = tmp_path / "a.npy"
    assert [kill_before(path, row) for row in (0, 21, 21, 20, 33, 34)] == [0, 0, 20, 20, 20, 32]
    assert (write_array(path, (6,), "uint8", growing()[0])[:] == ROWS).all()


@pytest.mark.parametrize(
    ("damage", "rows"),
    [
        (lambda part: flip(part, HEADER + 6 * 9), 8),
        (lambda part: os.truncate(part, HEADER + 6 * 15), 12),
        (lambda part: os.truncate(part, 0), 0),
        (lambda part: os.truncate(journal_of(part), journal_of(part).stat().st_size - 3), 16),
        (lambda part: flip(journal_of(part), 20), 0),
        (lambda part: journal_of(part).unlink(), 0),
        (lambda part: part.unlink(), 0),
    ],
)
def test_of_what_is_damaged_meanwhile_nothing_is_kept(small_blocks, damage, rows, tmp_path):
    damage(interrupted(tmp_path / "a.npy", 20))
    chunks, asked = growing()
    assert (write_array(tmp_path / "a.npy", (6,), "uint8", chunks)[:] == ROWS).all()
    assert asked == [rows]


def test_a_write_begins_where_its_maker_can(small_blocks, tmp_path):
    interrupted(tmp_path / "a.npy", 20)
    chunks, asked = growing()
    written = write_array(tmp_path / "a.npy", (6,), "uint8", chunks, begin=lambda rows: rows - rows % 7)
    assert (written[:] == ROWS).all()
    assert asked == [14]


def test_of_several_arrays_those_rows_are_kept_that_all_have(small_blocks, tmp_path):
    shapes = {tmp_path / "b.npy": (6,), tmp_path / "a.npy": (3,)}

    def chunks(done, stop=40):
        for start in range(len(done[0]), stop, 5):
            rows = ROWS[start : start + 5]
            yield rows, rows[:, :3]
        if stop < 40:
            raise KeyboardInterrupt

    asked = []
    with pytest.raises(KeyboardInterrupt):
        write_arrays(shapes, "uint8", lambda done: chunks(done, 30))
    write_arrays(shapes, "uint8", lambda done: asked.append([len(one) for one in done]) or chunks(done))
    assert asked == [[24, 24]], "blocks of 4 and of 8 rows"
    assert (open_array(tmp_path / "a.npy", 40)[:] == ROWS[:, :3]).all()
    assert (open_array(tmp_path / "b.npy", 40)[:] == ROWS).all()


def test_rows_that_cannot_be_made_leave_nothing_and_keep_the_old_file(small_blocks, tmp_path):
    def chunks():
        yield ROWS[:10]
        raise DamagedFile("no")

    written(tmp_path)
    with pytest.raises(DamagedFile):
        write(tmp_path / "a.npy", (6,), "uint8", chunks())
    assert sorted(os.listdir(tmp_path)) == ["a.digests.json", "a.npy"]
    assert (open_array(tmp_path / "a.npy", 40)[:] == ROWS).all()


def test_who_comes_second_waits_and_takes_what_the_first_has_made(small_blocks, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="tascnet")
    begun, let, end = Event(), Event(), time.monotonic() + 20

    def first(done):
        begun.set()
        assert let.wait(20)
        yield ROWS

    def second(done):
        raise AssertionError("it was made by the first")

    with ThreadPoolExecutor(2) as pool:
        making = pool.submit(write_array, tmp_path / "a.npy", (6,), "uint8", first)
        assert begun.wait(20)
        waiting = pool.submit(write_array, tmp_path / "a.npy", (6,), "uint8", second)
        while not caplog.messages and time.monotonic() < end:
            time.sleep(0.01)
        let.set()
        assert (making.result()[:] == ROWS).all()
        assert (waiting.result()[:] == ROWS).all()
    assert caplog.messages == ["another process writes .a.npy.part: this one waits"]
    assert sorted(os.listdir(tmp_path)) == ["a.digests.json", "a.npy"]


class Again:
    """Makes `ROWS` again and counts how often."""

    def __init__(self):
        self.calls = 0

    def __call__(self, dtype):
        self.calls += 1
        yield from ROWS.astype(dtype).reshape(8, 5, 6)


def written(folder, again=None):
    again = Again() if again is None else again
    write(folder / "a.npy", (6,), "uint8", [ROWS[:7], ROWS[7:]], again)
    return folder / "a.npy", again


def flip(path, place, bit=1):
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ bit]))


READS = [3, slice(None), np.array([3, 21, 39, 3]), np.array([-1]), np.arange(40) % 2 == 1]


@pytest.mark.parametrize("rows", READS, ids=str)
def test_a_checked_array_is_read_like_any_other(small_blocks, rows, tmp_path, caplog):
    path, again = written(tmp_path)
    array = open_array(path, 40, again)
    assert (array.shape, array.dtype, array.nbytes, len(array)) == ((40, 6), np.uint8, 240, 40)
    for _ in range(2):
        assert (array[rows] == ROWS[rows]).all()
    assert again.calls == 0
    assert caplog.messages == []


@pytest.mark.parametrize("bit", [1, 128])
@pytest.mark.parametrize("row", [0, 3, 4, 21, 39])
def test_a_changed_bit_is_found_when_its_block_is_first_read(small_blocks, row, bit, tmp_path, caplog):
    path, again = written(tmp_path)
    flip(path, HEADER + 6 * row + 5, bit)
    array = open_array(path, 40, again)
    other = (row + 8) % 40
    assert (array[other] == ROWS[other]).all()
    assert again.calls == 0, "that block is whole"
    # The other row of the block does not come from a damaged file either.
    assert (array[np.array([row ^ 1, other])] == ROWS[[row ^ 1, other]]).all()
    assert again.calls == 1
    assert caplog.messages == [f"{path} was changed or damaged after it was written: it is made again"]
    assert (array[:] == ROWS).all()
    assert (open_array(path, 40)[:] == ROWS).all()
    assert again.calls == 1


def zeros(path):
    path.write_bytes(path.read_bytes()[:HEADER] + bytes(240))


def of_other_type(path):
    path.write_bytes(path.read_bytes().replace(b"'|u1'", b"'|i1'", 1))


def of_other_order(path):
    path.write_bytes(path.read_bytes().replace(b"False", b"True ", 1))


def of_other_shape(path):
    path.write_bytes(path.read_bytes().replace(b"(40, 6)", b"(6, 40)", 1))


def of_another_array(path):
    write(path.with_name("b.npy"), (6,), "uint8", [ROWS[::-1]])
    os.replace(path.with_name("b.npy"), path)


def of_another_array_with_its_digests(path):
    of_another_array(path)
    os.replace(path.with_name("b.digests.json"), path.with_name("a.digests.json"))


def a_pipe(path):
    path.unlink()
    os.mkfifo(path)


DIGESTS = "a.digests.json"


@pytest.mark.parametrize(
    "damage",
    [
        zeros,
        of_other_type,
        of_other_order,
        of_other_shape,
        of_another_array,
        of_another_array_with_its_digests,
        a_pipe,
        lambda path: os.truncate(path, 200),
        lambda path: os.truncate(path, 0),
        lambda path: path.write_bytes(bytes(368)),
        lambda path: path.with_name(DIGESTS).unlink(),
        lambda path: path.with_name(DIGESTS).write_bytes(b""),
        lambda path: path.with_name(DIGESTS).write_text("null"),
        lambda path: flip(path.with_name(DIGESTS), 40),
    ],
)
def test_whatever_is_damaged_the_right_values_come_back_with_one_line(small_blocks, damage, tmp_path, caplog):
    path, again = written(tmp_path)
    damage(path)
    array = open_array(path, 40, again)
    if array is None:
        array = write(path, (6,), "uint8", again(np.uint8), again)
    assert (array[:] == ROWS).all()
    assert again.calls == 1
    (said,) = caplog.messages
    assert said.startswith(f"{path} ")
    assert said.endswith("it is made again")
    assert (open_array(path, 40)[:] == ROWS).all()


def test_damage_without_the_means_to_make_it_again_is_an_error(small_blocks, tmp_path):
    path, _ = written(tmp_path)
    flip(path, HEADER)
    array = open_array(path, 40)
    with pytest.raises(DamagedFile, match=r"a\.npy was changed or damaged after it was written: delete it"):
        array[0]


def test_a_file_that_is_damaged_whenever_it_is_written_is_an_error(small_blocks, tmp_path, monkeypatch):
    path, again = written(tmp_path)
    flip(path, HEADER)
    array, write = open_array(path, 40, again), arrays.write_arrays

    def badly(*arguments):
        write(*arguments)
        flip(path, HEADER)

    monkeypatch.setattr(arrays, "write_arrays", badly)
    with pytest.raises(DamagedFile, match="damaged again right after it was written: check the disk"):
        array[0]


def test_a_process_compares_each_block_once(small_blocks, tmp_path, monkeypatch):
    path, again = written(tmp_path)
    compared, sha256 = [], hashlib.sha256

    def counted(*content):
        compared.extend(one for one in content if isinstance(one, memoryview))
        return sha256(*content)

    monkeypatch.setattr(arrays.hashlib, "sha256", counted)
    first = open_array(path, 40, again)
    for _ in range(2):
        first[np.array([0, 1, 4, 5])]
    assert len(compared) == 2
    second = open_array(path, 40, again)
    second[:]
    first[:]
    assert len(compared) == 10, "of 10 blocks, whichever object reads them"
    # Unless the file was changed since.
    flip(path, HEADER)
    assert (open_array(path, 40, again)[:] == ROWS).all()
    assert again.calls == 1


def test_many_threads_read_a_damaged_array(small_blocks, tmp_path):
    path, again = written(tmp_path)
    flip(path, HEADER + 100)
    array = open_array(path, 40, again)
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(array.__getitem__, range(40)))
    assert (np.stack(rows) == ROWS).all()
    assert again.calls == 1


def test_missing_digests_are_named(tmp_path, said):
    write(tmp_path / "a.npy", (3,), "uint8", [np.zeros((2, 3))])
    (tmp_path / "a.digests.json").unlink()
    assert open_array(tmp_path / "a.npy", 2) is None
    assert said == [
        f"{tmp_path / 'a.npy'} cannot be used (a.digests.json: it does not exist): it is made again"
    ]


def test_full_disk_is_one_clear_error(tmp_path):
    def chunks():
        raise OSError(errno.ENOSPC, "No space left on device")
        yield

    with pytest.raises(BudgetError, match="is full"):
        write(tmp_path / "a.npy", (3,), "uint8", chunks())
    assert (write(tmp_path / "a.npy", (3,), "uint8", [np.ones((2, 3))])[:] == 1).all()


def test_what_a_killed_process_left_is_removed_when_old(tmp_path):
    old, new = tmp_path / ".b.npy.1.tmp", tmp_path / ".c.npy.2.tmp"
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    write(tmp_path / "a.npy", (1,), "uint8", [np.zeros((1, 1), dtype=np.uint8)])
    assert sorted(os.listdir(tmp_path)) == [".c.npy.2.tmp", "a.digests.json", "a.npy"]


def room(folder, needed, limit, **options):
    make_room(folder, {folder / "new.npy": needed}, limit, what="it", remedy="ask for less", **options)


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


def test_what_was_written_of_other_arrays_makes_room_unless_it_is_being_written(small_blocks, tmp_path):
    part = interrupted(tmp_path / "a.npy", 20)
    size = part.stat().st_size + journal_of(part).stat().st_size
    with open(part, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BudgetError, match="in addition to 1 MB in use"):
            room(tmp_path, 1000, (999 + size) / 1e9)
        assert part.exists()
    # What is written of the array itself stays, and counts as part of it.
    make_room(tmp_path, {tmp_path / "a.npy": 368}, 368e-9 + 1e-6, what="it", remedy="ask for less")
    assert part.exists()
    room(tmp_path, 1000, (999 + size) / 1e9)
    assert os.listdir(tmp_path) == []


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
        write(tmp_path / name, (), "float64", [np.zeros(4)])
        os.utime(tmp_path / name, (1000, 1000))
    open_array(tmp_path / "a.npy", 4)
    # The digests of an array count with it, and go with it.
    size = sum((tmp_path / name).stat().st_size for name in ("a.npy", "a.digests.json"))
    room(tmp_path, size, 2 * size / 1e9)
    assert sorted(os.listdir(tmp_path)) == ["a.digests.json", "a.npy"]
    room(tmp_path, size, (2 * size - 1) / 1e9)
    assert os.listdir(tmp_path) == []


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
