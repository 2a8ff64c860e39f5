"""Ways to damage the files of a run."""

import json

from tascnet.run.files import write_checked


def flip(path, place=-1):
    """Change one bit of a file, by default of its last byte."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def edit(path, old, new):
    """Change a text in a file, where it stands first."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def age(path):
    """Give a record the version before its own."""
    content = json.loads(path.read_text())
    del content["digest"]
    write_checked(path, {**content, "schema": content["schema"] - 1})


def drop_last_line(path):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))


def double_last_line(path):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, lines[-1]]))


# Contents that are no JSON of ours.
CONTENTS = {
    "empty": b"",
    "torn": b'{"schema": 3, "models": {"aft',
    "null": b"null",
    "list": b"[]",
    "number": b"5",
    "other types": json.dumps({"schema": 3, "models": [], "budget": 7}).encode(),
    "nested": b"[" * 100_000,
    "Latin-1": '{"dataset": "Stra\xdfe"}'.encode("latin-1"),
    "too large": b'{"seconds": 1e999}',
}
