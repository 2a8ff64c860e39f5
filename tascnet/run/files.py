"""Files that are written whole or not at all, journals, and digests."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tascnet.errors import RunFolderError


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, fsync it and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


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
        file.seek(0)
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace a journal by these rows, whole or not at all."""
    write_text(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def read_jsonl(path: Path, decode: Callable[[dict[str, Any]], Any] = dict) -> list[Any]:
    """The rows of a journal; a torn last line is ignored, a missing file has no rows.

    Args:
        path: the journal.
        decode: makes a row from a JSON object, or raises a ValueError.

    Raises:
        RunFolderError: a line before the end is no JSON object, or `decode` refuses it.
    """
    if not path.exists():
        return []
    rows = []
    lines = path.read_bytes().rpartition(b"\n")[0].split(b"\n")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                rows.append(decode(_json_object(line)))
            except ValueError as error:
                raise RunFolderError(
                    f"line {number} of {path} is corrupt ({error})",
                    "delete it and all lines after it, which are then computed again, "
                    "or start over with `fresh=true`",
                ) from error
    return rows


def digest_json(content: Any) -> str:
    """A hexadecimal digest of JSON content that does not depend on the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def digest_file(path: Path) -> str:
    """A hexadecimal digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def _json_object(line: bytes) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    return content
