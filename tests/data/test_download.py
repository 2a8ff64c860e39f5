import io
import os
import re
import tarfile
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from tascnet.data.download import RemoteFile, download, fetch, unpack_tar
from tascnet.errors import DataError
from tests.data.server import serve

BYTES = bytes(range(256)) * 40


@pytest.fixture
def site():
    with serve() as started:
        yield started


def packed(*members, mode="w:gz"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def member(name, content=b"x"):
    return tarfile.TarInfo(name), content


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def sparse(name, size):
    """A member of `size` bytes, all of them holes: its only stored piece is empty and lies at the end."""
    info = tarfile.TarInfo(name)
    info.pax_headers = {
        "GNU.sparse.size": str(size),
        "GNU.sparse.offset": str(size),
        "GNU.sparse.numbytes": "0",
        "GNU.sparse.numblocks": "1",
        "GNU.sparse.map": f"{size},0",
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
    }
    return info, b""


def unpack(archives, target):
    unpack_tar(archives[0], target)


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_a_file_arrives_once_and_whole(algorithm, site, tmp_path):
    remote = site.put("a.bin", BYTES, algorithm)
    assert fetch(remote, tmp_path).read_bytes() == BYTES
    assert fetch(remote, tmp_path).read_bytes() == BYTES
    assert os.listdir(tmp_path) == ["a.bin"]
    assert site.asked == [("a.bin", None)]


def test_progress_counts_megabytes_from_where_it_resumes(site, tmp_path, caplog):
    remote = site.put("a.bin", bytes(3_000_000))
    (tmp_path / "a.bin.part").write_bytes(bytes(1_000_000))
    with caplog.at_level("INFO", logger="tascnet"):
        fetch(remote, tmp_path)
    first, last = caplog.messages
    assert first == "download a.bin (MB): 3 steps"
    assert last.startswith("download a.bin (MB): 3/3, done in")


def test_after_a_cut_the_next_start_asks_for_the_rest(site, tmp_path):
    remote, site.cut = site.put("a.bin", BYTES), 4000
    with pytest.raises(OSError, match=r"the connection was lost after 0\.0 of 0\.0 MB of a\.bin"):
        fetch(remote, tmp_path)
    assert (tmp_path / "a.bin.part").read_bytes() == BYTES[:4000]
    with pytest.raises(OSError, match="connection was lost"):
        fetch(remote, tmp_path)
    site.cut = None
    assert fetch(remote, tmp_path).read_bytes() == BYTES
    assert [asked for _, asked in site.asked] == [None, "bytes=4000-", "bytes=8000-"]
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_server_that_cannot_resume_sends_all_of_it_again(site, tmp_path):
    remote, site.cut, site.ranges = site.put("a.bin", BYTES), 4000, False
    with pytest.raises(OSError, match="connection was lost"):
        fetch(remote, tmp_path)
    site.cut = None
    assert fetch(remote, tmp_path).read_bytes() == BYTES


def test_a_part_of_something_else_is_fetched_again(site, tmp_path, said):
    remote = site.put("a.bin", BYTES)
    (tmp_path / "a.bin.part").write_bytes(b"something else")
    assert fetch(remote, tmp_path).read_bytes() == BYTES
    assert [asked for _, asked in site.asked] == ["bytes=14-", None]
    assert said == ["the part of a.bin from an earlier start does not fit the rest: it is fetched again"]


@pytest.mark.parametrize("there", [BYTES, BYTES + b"more"])
def test_all_that_had_arrived_is_judged_by_its_digest(there, site, tmp_path):
    """The process ended between the last byte and the check, or another one wrote too."""
    remote = site.put("a.bin", BYTES)
    (tmp_path / "a.bin.part").write_bytes(there)
    assert fetch(remote, tmp_path).read_bytes() == BYTES
    assert len(site.asked) == (1 if there == BYTES else 2)


def refused(files, target, unpacker=unpack):
    with pytest.raises(DataError) as caught:
        download("Pictures", files, target, unpacker)
    assert not target.exists()
    text = str(caught.value)
    assert text.startswith("Pictures could not be fetched from http://127.0.0.1:")
    assert "try again" in text
    assert "\n" not in text
    return text


def test_an_archive_lands_unpacked_with_nothing_beside_it(site, tmp_path):
    files = [site.put("a.tgz", packed(member("cats/1.png", b"meow"))), site.put("list.txt", b"1")]

    def both(archives, target):
        unpack_tar(archives[0], target)
        (target / "list.txt").write_bytes(archives[1].read_bytes())

    download("Pictures", files, tmp_path / "new" / "pictures", both)
    assert os.listdir(tmp_path / "new") == ["pictures"]
    assert (tmp_path / "new" / "pictures" / "cats" / "1.png").read_bytes() == b"meow"
    assert (tmp_path / "new" / "pictures" / "list.txt").read_bytes() == b"1"
    site.files.clear()
    download("Pictures", files, tmp_path / "new" / "pictures", both)
    assert len(site.asked) == 2


def test_a_wrong_digest_is_refused_and_nothing_stays(site, tmp_path):
    remote = site.put("a.tgz", packed(member("1.png")))
    wrong = RemoteFile(url=remote.url, digest="sha256:" + 64 * "0")
    assert "a.tgz is corrupt: its sha256 differs from the published one" in refused(
        [wrong], tmp_path / "pictures"
    )
    assert os.listdir(tmp_path) == []


def test_the_start_after_a_cut_resumes_and_lands(site, tmp_path):
    content = packed(member("1.png", BYTES), mode="w")
    remote, site.cut = site.put("a.tar", content), 5000
    assert "the connection was lost" in refused([remote], tmp_path / "pictures")
    site.cut = None
    download("Pictures", [remote], tmp_path / "pictures", unpack)
    assert (tmp_path / "pictures" / "1.png").read_bytes() == BYTES
    assert site.asked[-1] == ("a.tar", "bytes=5000-")
    assert os.listdir(tmp_path) == ["pictures"]


def test_a_start_after_an_end_while_unpacking_fetches_nothing_again(site, tmp_path):
    remote = site.put("a.tar", packed(member("1.png", BYTES), mode="w"))

    def killed(archives, target):
        target.mkdir()
        (target / "half.png").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download("Pictures", [remote], tmp_path / "pictures", killed)
    assert not (tmp_path / "pictures").exists()
    download("Pictures", [remote], tmp_path / "pictures", unpack)
    assert os.listdir(tmp_path / "pictures") == ["1.png"]
    assert len(site.asked) == 1


def test_a_server_that_is_away_is_one_sentence(site, tmp_path):
    remote = site.put("a.tar", b"")
    site.files.clear()
    assert "the server answers 404" in refused([remote], tmp_path / "pictures")
    closed = RemoteFile(url="http://127.0.0.1:9/a.tar", digest=remote.digest)
    assert "refused" in refused([closed], tmp_path / "pictures")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("wicked", "says"),
    [
        (member("../outside.png"), "would leave the folder"),
        (member("cats/../../outside.png"), "would leave the folder"),
        (member("/absolute/outside.png"), "would leave the folder"),
        (special("link.png", tarfile.SYMTYPE, "/etc/passwd"), "neither a file nor a folder"),
        (special("near.png", tarfile.SYMTYPE, "1.png"), "neither a file nor a folder"),
        (special("hard.png", tarfile.LNKTYPE, "1.png"), "neither a file nor a folder"),
        (special("device", tarfile.CHRTYPE), "neither a file nor a folder"),
        (special("pipe", tarfile.FIFOTYPE), "neither a file nor a folder"),
    ],
)
def test_members_that_leave_the_folder_and_links_and_devices_are_refused(wicked, says, site, tmp_path):
    remote = site.put("a.tgz", packed(member("1.png"), wicked))
    assert says in refused([remote], tmp_path / "inside" / "pictures")
    assert os.listdir(tmp_path / "inside") == []
    assert not Path("/absolute").exists()
    assert not [*tmp_path.rglob("outside.png")]


@pytest.mark.parametrize("mode", ["w:gz", "w"])
def test_an_archive_that_unpacks_to_far_more_than_its_size_is_refused_before_it_is_written(
    mode, site, tmp_path, monkeypatch
):
    bombs = {
        "w:gz": packed(member("1.png"), member("zeros.bin", bytes(12_000_000))),
        # A sparse file that claims to be large, of which nothing is stored.
        "w": packed(member("1.png"), sparse("zeros.bin", 10**12), mode="w"),
    }
    written = []
    monkeypatch.setattr("tascnet.data.download._extract", lambda *_: written.append(1))
    # 10 MB and 50 times the size.
    text = refused([site.put("a.tgz", bombs[mode])], tmp_path / "pictures")
    assert re.search("it unpacks to more than 1[01] MB, over 50 times its size", text)
    assert written == []
    assert os.listdir(tmp_path) == []


def test_an_archive_of_endless_files_is_refused(site, tmp_path, monkeypatch):
    monkeypatch.setattr("tascnet.data.download.MOST_MEMBERS", 3)
    remote = site.put("a.tar", packed(*(member(f"{n}.png") for n in range(4)), mode="w"))
    assert "it holds more than 3 files" in refused([remote], tmp_path / "pictures")


def test_an_archive_larger_than_the_disk_stays_and_is_not_unpacked(site, tmp_path, monkeypatch):
    remote = site.put("a.tgz", packed(member("1.png", bytes(3_000_000))))
    full = SimpleNamespace(free=1_000_000)
    with monkeypatch.context() as patched:
        patched.setattr("shutil.disk_usage", lambda _: full)
        text = refused([remote], tmp_path / "pictures")
    assert "unpacked it takes 3 MB, but the disk of" in text
    download("Pictures", [remote], tmp_path / "pictures", unpack)
    assert len(site.asked) == 1


def test_a_pipe_in_the_place_of_an_archive_is_not_opened(site, tmp_path):
    (tmp_path / ".download").mkdir()
    os.mkfifo(tmp_path / ".download" / "a.tgz")
    remote = site.put("a.tgz", packed(member("1.png")))
    assert "it is a pipe or a device, not a file" in refused([remote], tmp_path / "pictures")


def test_one_folder_of_an_archive_alone_is_unpacked(tmp_path):
    (tmp_path / "a.tgz").write_bytes(packed(member("readme"), member("data/cats/1.png"), member("database")))
    unpack_tar(tmp_path / "a.tgz", tmp_path / "out", strip="data")
    assert [path.relative_to(tmp_path / "out").as_posix() for path in tmp_path.rglob("out/**/*")] == [
        "cats",
        "cats/1.png",
    ]
    with pytest.raises(tarfile.ReadError, match="holds no folder nothing"):
        unpack_tar(tmp_path / "a.tgz", tmp_path / "other", strip="nothing")


def test_two_that_want_the_same_fetch_it_once(site, tmp_path):
    remote = site.put("a.tgz", packed(member("1.png")))
    arguments = ("Pictures", [remote], tmp_path / "pictures", unpack)
    threads = [threading.Thread(target=download, args=arguments) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(site.asked) == 1
    assert os.listdir(tmp_path) == ["pictures"]
