"""Faults that `reliability` injects into caches and run folders: damaged, lost and irregular files.

What a fault does to a folder, which is a copy of a prepared run, depends on the random generator alone.
"""

import hashlib
import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import numpy as np
import torch

from tascnet.run.files import temporary_suffix

# What must follow a fault, beside an end without a traceback. EQUAL: the undisturbed results, a warning or a
# refusal; REFUSED: a refusal; WARNED: a warning or a refusal; ANSWERED: anything, as the fault changes what
# was asked for, or has no effect.
EQUAL, REFUSED, WARNED, ANSWERED = "equal", "refused", "warned", "answered"
# No process has this number.
NOBODY = 2**22 + 1
ESCAPE = "\x1b[31mred\x1b[0m"


class Impossible(Exception):
    """This machine does not allow the fault."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What was done to a folder, and what that means for the command.

    Args:
        text: for the report.
        options: that replace others of the command, or are added.
        unprivileged: the command runs without root's right to read everything.
        heal: ends the fault; then the same command must give the undisturbed results.
        clean: removes what a folder's removal would not.
    """

    text: str
    options: tuple[str, ...] = ()
    unprivileged: bool = False
    heal: Callable[[], object] | None = None
    clean: Callable[[], object] = lambda: None


Inject: TypeAlias = Callable[[Path, Random], Fault | str]


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Args:
        name: for the report.
        scene: the run that is disturbed.
        starts: words for how far that run has come; one is drawn.
        inject: injects it into a folder.
        promise: what must follow.
        stage: of the command; empty: `tune` where there is no more than a cache, else `full`.
    """

    name: str
    scene: str
    starts: str
    inject: Inject
    promise: str = EQUAL
    stage: str = ""


def pick(root: Path, draw: Random, *patterns: str) -> Path:
    """One of the files that patterns name."""
    found = {path for pattern in patterns for path in root.glob(pattern) if path.is_file()}
    return draw.choice(sorted(found))


def at(damage: Callable[[Path, Random], str], *patterns: str) -> Inject:
    """Damages one of the files that patterns name."""
    return lambda root, draw: damage(pick(root, draw, *patterns), draw)


def damaged(path: Path, draw: Random) -> str:
    """Damage the bytes of a file."""
    content, size = bytearray(path.read_bytes()), path.stat().st_size
    place = draw.randrange(size) if size else 0
    how = draw.choice(["bit", "bit", "bit", "zeros", "noise", "truncated", "empty", "longer", "removed"])
    if how == "removed":
        path.unlink()
        return f"{path.name} removed"
    if how == "bit" and size:
        content[place] ^= 1 << draw.randrange(8)
    elif how in ("zeros", "noise"):
        stop = min(size, place + draw.choice([1, 64, 4096]))
        content[place:stop] = bytes(stop - place) if how == "zeros" else draw.randbytes(stop - place)
    elif how == "truncated":
        del content[place:]
    elif how == "empty":
        content.clear()
    else:
        content += draw.randbytes(draw.choice([1, 8, 4096]))
    path.write_bytes(content)
    return f"{path.name}: {how} at byte {place} of {size}"


def damaged_array(path: Path, draw: Random) -> str:
    """Damage the bytes of an array's file, or write another array in its place."""
    how = draw.choice(["bytes", "bytes", "type", "shape", "order", "pickle"])
    if how == "bytes":
        return damaged(path, draw)
    array = np.load(path)
    if how == "type":
        array = array.astype(draw.choice(["float64", "int8", "uint8", "float32", ">f4", "complex64"]))
    elif how == "shape":
        array = draw.choice([array[1:], array.reshape(len(array), -1), array[None], np.zeros(())])
    elif how == "order":
        array = array[::-1]
    else:
        array = np.array([{"a": 1}], dtype=object)
    np.save(path, array)
    return f"{path.name}: another {how}"


JSON = ("", "null", "[]", "5", '"text"', "{}", "{", "true", "NaN", "[" * 100_000, '{"a":' * 100_000)
VALUES: tuple[Any, ...] = (None, [], {}, "text", -1, 0, 1, 2, 7, 0.5, True, 10**12, 10**400, ESCAPE, [[]])


def damaged_json(path: Path, draw: Random) -> str:
    """Damage JSON: other content, another value, a lost key, or other bytes."""
    how = draw.choice(["content", "value", "value", "value", "lost", "bytes", "latin-1", "repeated"])
    text = path.read_text(encoding="utf-8")
    if how == "content":
        path.write_text(draw.choice(JSON))
    elif how in ("value", "lost"):
        content = json.loads(text)
        holder, key = draw.choice(list(values(content)))
        if how == "lost":
            del holder[key]
        elif isinstance(holder[key], int | float) and draw.random() < 0.5:
            holder[key] = holder[key] + draw.choice([1, -1, 1e-3])
        else:
            holder[key] = draw.choice(VALUES)
        path.write_text(json.dumps(content, indent=2))
        how = f"{how} of {key!r}"
    elif how == "latin-1":
        path.write_bytes(text.replace("{", '{"caf\xe9": 1, ', 1).encode("latin-1"))
    elif how == "repeated":
        path.write_text(text + text)
    else:
        return damaged(path, draw)
    return f"{path.name}: {how}"


def values(content: Any) -> Iterator[tuple[Any, Any]]:
    """The holder and key of each value within JSON content."""
    for key in content if isinstance(content, dict) else range(len(content)):
        yield content, key
        if isinstance(content[key], dict | list):
            yield from values(content[key])


# Steps of a block whose one layer is called `inner`, which loading must refuse, with what they are.
RUN = ["layer", "inner", "%0"]
STEPS: tuple[tuple[str, Any], ...] = (
    ("no list", {"0": RUN}),
    ("no step", [RUN, "contiguous"]),
    ("without arguments", [RUN, []]),
    ("unknown", [RUN, ["eval", "%1"]]),
    ("another number of arguments", [RUN, ["add", "%1"]]),
    ("the value of a later step", [["add", "%0", "%2"], ["layer", "inner", "%1"]]),
    ("its own value", [RUN, ["contiguous", "%2"]]),
    ("another layer", [["layer", "outer", "%0"]]),
    ("another weight", [RUN, ["weight", "gamma"], ["mul", "%1", "%2"]]),
    ("no layer at all", [["contiguous", "%0"]]),
    ("a number at the end", [RUN, ["shape", "%1"]]),
    ("endless whole numbers", [RUN, ["mul", "%1", 10**400]]),
    ("nested lists", [RUN, ["reshape", "%1", [[[[1]]]]]]),
    ("an escape code", [RUN, ["pad", "%1", [1, 1], ESCAPE, 0.0]]),
    (
        "squares of squares",
        [
            *(["shape", "%0"], ["getitem", "%1", 1]),
            *(["mul_int", f"%{number}", f"%{number}"] for number in range(2, 60)),
            *(RUN, ["mul", "%61", "%60"]),
        ],
    ),
    ("a huge tensor", [RUN, ["expand", "%1", [2**20] * 8]]),
    (
        "a tensor in many parts",
        [RUN, ["pad", "%1", [0, 2**20], "constant", 0.0], ["unbind", "%2", 3], ["cat", "%3", 0]],
    ),
    ("more than any network has", [RUN, *(["contiguous", f"%{number}"] for number in range(1, 12_000))]),
)


def rewired(root: Path, draw: Random) -> Fault:
    """A saved model from a stranger, whose steps are wrong and whose digest is right."""
    path = pick(root, draw, "outputs/*/*/*/tune/model/architecture.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    blocks = content["chain"]["children"]
    # Without weights, whose names would be others.
    name = draw.choice([name for name, block in blocks.items() if block["type"] == "ReLU"])
    text, steps = draw.choice(STEPS)
    blocks[name] = {"type": "Graph", "steps": steps, "weights": {}, "children": {"inner": blocks[name]}}
    del content["digest"]
    content["digest"] = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
    path.write_text(json.dumps(content), encoding="utf-8")
    source = path.parent.relative_to(root)
    return Fault(text=f"steps of {name}: {text}", options=(f"prune.source={source}",))


def damaged_journal(path: Path, draw: Random) -> str:
    """Damage a journal: repeated, lost, torn, exchanged, edited, or undecodable lines."""
    if draw.random() < 0.2:
        return damaged(path, draw)
    lines = path.read_bytes().splitlines(keepends=True)
    line = draw.randrange(len(lines))
    how = draw.choice(["repeated", "lost", "torn", "torn end", "reordered", "edited", "latin-1", "null"])
    if how == "repeated":
        lines.insert(draw.randrange(len(lines) + 1), lines[line])
    elif how == "lost":
        del lines[line]
    elif how.startswith("torn"):
        line = len(lines) - 1 if how == "torn end" else line
        lines[line] = lines[line][: draw.randrange(1, len(lines[line]))]
    elif how == "reordered":
        draw.shuffle(lines)
    elif how == "edited":
        row = json.loads(lines[line])
        key = draw.choice(sorted(row))
        row[key] = row[key] + 1 if type(row[key]) in (int, float) else draw.choice(VALUES)
        lines[line] = json.dumps(row).encode() + b"\n"
        how = f"edited {key!r}"
    else:
        lines[line] = b'{"caf\xe9": 1}\n' if how == "latin-1" else b"null\n"
    path.write_bytes(b"".join(lines))
    return f"{path.name}: {how}, line {line + 1}"


def damaged_checkpoint(path: Path, draw: Random) -> str:
    """Damage the bytes of a checkpoint, or write another object in its place."""
    if draw.random() < 0.7:
        return damaged(path, draw)
    torch.save(draw.choice([None, {}, [1], {"epoch": 1}, {"model": torch.zeros(2)}]), path)
    return f"{path.name}: another object"


def exchanged(root: Path, draw: Random) -> str:
    ending = draw.choice(["npy", "json"])
    one, other = draw.sample(sorted(root.glob(f"cache/**/*.{ending}")), 2)
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    return f"{one.name} and {other.name}"


def irregular(root: Path, draw: Random) -> str:
    """Something else in place of a file."""
    path = pick(root, draw, "cache/**/*", "outputs/**/*", "photos/*/*")
    path.unlink()
    links = {"endless device": "/dev/zero", "link to itself": path.name, "broken link": "nowhere"}
    how = draw.choice(["pipe", "pipe", "pipe", "folder", "socket", *links])
    if how == "pipe":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    elif how == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            # Names of sockets are short.
            server.bind(str(root / "s"))
        (root / "s").rename(path)
    else:
        path.symlink_to(links[how])
    return f"{path.relative_to(root)} is a {how}"


def forbidden(root: Path, draw: Random) -> Fault:
    """A file or folder without permissions."""
    path = pick(root, draw, "cache/**/*", "outputs/**/*")
    path = draw.choice([path, path, path.parent])
    before, mode = path.stat().st_mode, draw.choice([0, 0, 0o200, 0o555 if path.is_dir() else 0o444])
    path.chmod(mode)

    def heal() -> None:
        if path.exists():
            path.chmod(before)

    return Fault(text=f"{path.relative_to(root)} has mode {mode:o}", unprivileged=True, heal=heal)


def full_disk(root: Path, draw: Random) -> Fault:
    folder, size = root / draw.choice(["outputs", "cache"]), draw.choice([50, 150, 300, 700, 1500])
    folder.mkdir(exist_ok=True)

    def mount(options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            raise Impossible("a small file system cannot be mounted")

    mount(f"size={size}k")
    return Fault(
        text=f"{folder.name} on a disk of {size} kB",
        heal=lambda: mount("remount,size=200m"),
        clean=lambda: subprocess.run(["umount", str(folder)], check=True),
    )


def leftover(root: Path, draw: Random) -> str:
    """A temporary file of a process that was killed."""
    beside = pick(root, draw, "cache/**/*", "outputs/**/*")
    suffix = f"{temporary_suffix().removesuffix(f'{os.getpid()}.tmp')}{NOBODY}.tmp"
    path = beside.with_name(f".{beside.name}{suffix}")
    path.write_bytes(draw.choice([b"", beside.read_bytes()[:100]]))
    return str(path.relative_to(root))


NETWORKS = ("outputs/*/*/*/*/state/*/", "outputs/*/*/*/*/model/")
FIGURES = tuple(f"outputs/*/*/*/*/{name}.json" for name in ("metrics", "identity", "splits"))
KINDS = (
    Kind("cached pixels", "photos", "decoded", at(damaged_array, "cache/pixels/**/*.npy")),
    Kind("cached features", "digits", "warm", at(damaged_array, "cache/features/**/*.npy")),
    Kind("digests and index of a cache", "photos", "warm decoded", at(damaged_json, "cache/**/*.json")),
    Kind("cached weights", "digits", "warm", at(damaged, "cache/weights/*")),
    Kind("exchanged files of a cache", "photos", "warm", exchanged),
    Kind(
        "architecture.json",
        "digits",
        "half pruning tuned",
        at(damaged_json, *(f"{folder}architecture.json" for folder in NETWORKS)),
    ),
    Kind("steps of a stranger's model", "digits", "tuned", rewired, promise=REFUSED, stage="prune"),
    Kind(
        "saved weights",
        "digits",
        "half pruning tuned",
        at(damaged, *(f"{folder}model.safetensors" for folder in NETWORKS)),
    ),
    Kind(
        "checkpoint of a training",
        "digits",
        "training",
        at(damaged_checkpoint, "outputs/**/*.pt"),
    ),
    Kind("records of steps", "digits", "half pruning", at(damaged_json, "outputs/**/record.json")),
    Kind("journal of a search", "digits", "half", at(damaged_journal, "outputs/**/trials.jsonl")),
    Kind("journal of a pruning", "digits", "pruning", at(damaged_journal, "outputs/**/iterations.jsonl")),
    Kind(
        "metrics, identity and splits",
        "digits",
        "half pruning tuned done",
        at(damaged_json, *FIGURES),
    ),
    Kind(
        "runs that are compared",
        "digits",
        "done",
        at(damaged_json, *FIGURES),
        promise=ANSWERED,
        stage="compare",
    ),
    Kind("no regular file", "photos", "warm decoded half pruning tuned done", irregular),
    Kind("no regular file, compared", "digits", "done", irregular, promise=ANSWERED, stage="compare"),
    Kind("no permission", "digits", "warm half pruning tuned done", forbidden),
    Kind("full disk", "photos", "fresh", full_disk, stage="full"),
    Kind("full disk, digits", "digits", "fresh", full_disk, stage="full"),
    Kind("temporary file left behind", "photos", "warm half pruning", leftover),
)
