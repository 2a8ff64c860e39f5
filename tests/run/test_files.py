import pytest

from tascnet.errors import RunFolderError
from tascnet.run.files import append_jsonl, read_jsonl


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
