"""Files that are written whole or not at all, journals, and digests."""

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from tascnet.errors import RunFolderError


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, fsync it and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all."""
    write_whole(path, lambda temporary: _write_text(temporary, text))


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def append_jsonl(path: Path, row: Mapping[str, Any]) -> None:
    """Append one row to a journal and fsync it; a torn last line is cut off first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (json.dumps(row, allow_nan=False) + "\n").encode()
    with open(path, "ab+") as file:
        _cut_torn_line(file)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace a file by these rows, whole or not at all."""
    write_text(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def read_jsonl(path: Path, keys: Collection[str] = ()) -> list[dict[str, Any]]:
    """The rows of a journal; a torn last line is ignored, a missing file has no rows.

    Args:
        path: the journal.
        keys: what every row holds.

    Raises:
        RunFolderError: a line before the end is no JSON object, or lacks one of the keys.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().rpartition(b"\n")[0].split(b"\n")
    return [_row(path, number, line, keys) for number, line in enumerate(lines, start=1) if line.strip()]


def digest_json(content: Any) -> str:
    """A hexadecimal digest of JSON content that does not depend on the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def digest_file(path: Path) -> str:
    """A hexadecimal digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def _row(path: Path, number: int, line: bytes, keys: Collection[str]) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    lacking = [key for key in keys if isinstance(row, dict) and key not in row]
    if lacking or not isinstance(row, dict):
        reason = f"it lacks {lacking[0]!r}" if lacking else "it is no JSON object"
        raise RunFolderError(
            f"line {number} of {path} is corrupt ({reason})",
            "delete it and all lines after it, which are then computed again, or start over with fresh=true",
        )
    return row


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _cut_torn_line(file: Any) -> None:
    file.seek(0)
    content = file.read()
    if content and not content.endswith(b"\n"):
        file.truncate(content.rfind(b"\n") + 1)
    file.seek(0, os.SEEK_END)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
