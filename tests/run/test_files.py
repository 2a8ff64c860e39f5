import errno
import os
import shutil
import stat

import pytest

from tascnet.errors import BudgetError, ConfigError, RunFolderError, WeightsError
from tascnet.run import files
from tascnet.run.files import (
    append_jsonl,
    is_full_disk,
    naming_full_disk,
    read_bytes,
    read_checked,
    read_end,
    read_jsonl,
    temporary_folder,
    temporary_suffix,
    write_text,
    write_whole,
)


def test_a_journal_gives_its_rows_back_in_order(tmp_path):
    path = tmp_path / "folder" / "rows.jsonl"
    assert read_jsonl(path) == []
    rows = [{"row": 0, "name": "ä\u2028b"}, {"row": 1, "name": None}]
    for row in rows:
        append_jsonl(path, row)
    assert read_jsonl(path) == rows


def test_a_torn_last_line_is_ignored_and_cut_off_by_the_next_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"row": 0}\n{"row": 1, "na')
    assert read_jsonl(path) == [{"row": 0}]
    append_jsonl(path, {"row": 2})
    assert path.read_bytes() == b'{"row": 0}\n{"row": 2}\n'


@pytest.mark.parametrize("line", [b'{"row": 1, "na', b"\x80\xff", b"[1]", b"7", b"\x00\x00"])
def test_a_corrupt_line_within_is_named_with_its_file(line, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"row": 0}\n\n' + line + b'\n{"row": 2}\n')
    with pytest.raises(RunFolderError, match=r"line 3 of .*rows\.jsonl is corrupt.*: delete it"):
        read_jsonl(path)


def test_a_row_that_the_reader_refuses_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"row": 0}\n{"row": "x"}\n')

    def number(row):
        return int(row["row"])

    with pytest.raises(RunFolderError, match=r"line 2 of .* is corrupt \(invalid literal") as caught:
        read_jsonl(path, number)
    assert str(caught.value).endswith("or start over with `fresh=true`")
    path.write_bytes(b'{"row": 0}\n{"row": "1"}\n')
    assert read_jsonl(path, number) == [0, 1]


# Large files.


def test_a_file_of_a_run_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.touch()
    os.truncate(path, 50_000_000_000)
    for read in (read_bytes, read_checked):
        with pytest.raises(OSError, match=r"^it has 50,000,000,000 bytes, expected at most 256,000,000$"):
            read(path)
    with pytest.raises(RunFolderError, match=r"rows\.jsonl cannot be read \(it has 50,000,000,000 bytes"):
        read_jsonl(path)
    os.truncate(path, 10)
    assert read_bytes(path, most=10) == bytes(10)
    with pytest.raises(OSError, match="it has 10 bytes, expected at most 9"):
        read_bytes(path, most=9)


def test_the_end_of_a_large_file_is_read(tmp_path):
    path = tmp_path / "log.txt"
    path.touch()
    os.truncate(path, 50_000_000_000)
    with open(path, "ab") as file:
        file.write(b"the last line")
    assert len(read_end(path)) == files.END_BYTES
    assert read_end(path).endswith(b"\0the last line")
    path.write_bytes(b"short")
    assert read_end(path) == b"short"


# Leftovers.


def test_writing_a_file_removes_what_killed_processes_left_of_it(tmp_path):
    alive = temporary_suffix()
    # No process has such a number.
    dead = alive.replace(f"-{os.getpid()}.", "-9999999.")
    for name in (f".a.svg{alive}x", f".a.svg{dead}", f".b.svg{dead}"):
        (tmp_path / name).touch()
    write_text(tmp_path / "a.svg", "x")
    assert sorted(os.listdir(tmp_path)) == sorted([f".a.svg{alive}x", f".b.svg{dead}", "a.svg"])


@pytest.mark.skipif(not os.path.exists("/proc/self/ns/pid"), reason="only Linux has such namespaces")
def test_a_process_of_another_container_is_not_judged_by_its_number(tmp_path):
    own = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    assert f"-{own}-{os.getpid()}.tmp" in temporary_suffix()
    dead = temporary_suffix().replace(f"-{os.getpid()}.", "-9999999.")
    here, there = tmp_path / f".a{dead}", tmp_path / f".a{dead.replace(own, '1')}"
    for path in (here, there):
        path.touch()
    files.remove_leftovers([here, there])
    assert [path.exists() for path in (here, there)] == [False, True]


# Permissions.


def replaced_by_a_private_file(path):
    """As safetensors writes."""
    path.unlink()
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
@pytest.mark.parametrize("write", [replaced_by_a_private_file, lambda path: path.write_text("x")])
def test_files_have_the_permissions_that_the_umask_gives(umask, mode, write, tmp_path):
    before = os.umask(umask)
    try:
        write_whole(tmp_path / "a", write)
        append_jsonl(tmp_path / "b.jsonl", {})
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "b.jsonl")] == [mode, mode]


# A full disk.


def fails_with(error):
    def write(path):
        path.write_bytes(b"some of it")
        raise error

    return write


def chained():
    error = RuntimeError("unexpected pos 704 vs 598")
    error.__context__ = OSError(errno.ENOSPC, "No space left on device")
    return error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        # Of safetensors.
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
        # Of torch.save, to a file that is open.
        chained(),
    ],
)
def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(error, tmp_path):
    path = tmp_path / "record.json"
    write_text(path, "old")
    with pytest.raises(BudgetError) as caught:
        write_whole(path, fails_with(error))
    assert str(caught.value) == (
        f"the disk of {tmp_path} is full: free some space and run the same command again: it resumes"
    )
    assert os.listdir(tmp_path) == ["record.json"]
    assert path.read_text() == "old"


def test_another_disk_that_is_full_is_named(tmp_path):
    error = OSError(errno.ENOSPC, "No space left on device", "/dev/shm/torch_1")
    with pytest.raises(BudgetError, match=r"^the disk of /dev/shm is full"):
        write_whole(tmp_path / "fit.pt", fails_with(error))


def raised(error, cause=None, context=None, suppressed=False):
    error.__cause__, error.__context__, error.__suppress_context__ = cause, context, suppressed
    return error


FULL_DISK = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (FULL_DISK, True),
        (OSError("No space left on device"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (RuntimeError("unexpected pos 704 vs 598"), False),
        (raised(RuntimeError("unexpected pos 704 vs 598"), context=FULL_DISK), True),
        (raised(ValueError("wrong"), cause=FULL_DISK), True),
        (raised(raised(ValueError("wrong"), cause=ConfigError("x")), cause=FULL_DISK), True),
        # What failed while such an error was handled has its own reason.
        (raised(ValueError("wrong"), context=FULL_DISK), False),
        (raised(PermissionError(errno.EACCES, "Permission denied"), context=FULL_DISK), False),
        (raised(RuntimeError("wrong"), context=FULL_DISK, suppressed=True), False),
        (raised(NotImplementedError("wrong"), context=FULL_DISK), False),
    ],
)
def test_what_is_the_error_of_a_full_disk(error, is_full):
    assert is_full_disk(error) == is_full


def test_an_error_without_a_reason_is_that_of_the_disk_if_it_has_no_space(tmp_path, monkeypatch):
    """As of torch.save, to a path."""
    error = RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 576 vs 534")
    with pytest.raises(RuntimeError, match="unexpected pos"):
        write_whole(tmp_path / "fit.pt", fails_with(error))
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 100, 0))
    with pytest.raises(BudgetError, match="is full"):
        write_whole(tmp_path / "fit.pt", fails_with(error))
    # Errors that give a reason keep it.
    for known in (WeightsError("not finite"), PermissionError(errno.EACCES, "Permission denied")):
        with pytest.raises(type(known)):
            write_whole(tmp_path / "fit.pt", fails_with(known))
    with pytest.raises(RuntimeError, match="unexpected pos"), naming_full_disk(tmp_path):
        raise error
    assert os.listdir(tmp_path) == []


def test_a_journal_stays_whole_on_a_full_disk(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    append_jsonl(path, {"row": 0})
    written = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        # After the line was written.
        patched.setattr(files.os, "fsync", full)
        with pytest.raises(BudgetError, match=f"the disk of {tmp_path} is full"):
            append_jsonl(path, {"row": 1})
    assert path.read_bytes() == written
    append_jsonl(path, {"row": 1})
    assert read_jsonl(path) == [{"row": 0}, {"row": 1}]


def test_a_temporary_folder_needs_no_cache_beforehand(tmp_path):
    with temporary_folder(tmp_path / "a" / "cache") as folder:
        assert os.listdir(tmp_path / "a" / "cache") == [os.path.basename(folder)]
    assert os.listdir(tmp_path / "a" / "cache") == []
