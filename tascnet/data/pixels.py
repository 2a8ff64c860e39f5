"""Listed images as a data set: decoded once, in parallel, into a memory-mapped array that later runs read."""

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from tascnet.data.arrays import (
    Again,
    CheckedArray,
    ContentDigest,
    DecodedWhenRead,
    discard_part,
    make_room,
    open_array,
    remove_array,
    remove_part,
    write_array,
)
from tascnet.data.copies import equal_rows
from tascnet.data.dataset import Dataset, content_fingerprint
from tascnet.data.listing import ImageFile, Listing, first_of, twin_images, warn_of_twins
from tascnet.errors import BudgetError, DamagedFile, DataError
from tascnet.models.preprocessing import (
    Decoded,
    Preprocessing,
    UnreadableImage,
    decode_image,
    decode_picture,
)
from tascnet.options import usable_cpus
from tascnet.run.console import log, track
from tascnet.run.files import (
    alone_at,
    check_regular,
    digest_json,
    naming_full_disk,
    parse_json,
    whole_file,
)
from tascnet.run.parallel import in_order

FORMAT = 5
NOTHING = np.empty(0, dtype=np.uint8)
# Images in work for each worker; more would pile up in memory when the disk is slow.
AHEAD = 8


def load_images(
    listing: Listing,
    preprocessing: Preprocessing,
    *,
    cache: Path,
    name: str = "image_folder",
    unreadable: str = "refuse",
    extra_channels: str = "refuse",
    limit_gb: float | None = None,
) -> Dataset:
    """The images of a listing, decoded once and kept in the cache.

    A later run decodes only files whose path, size or time changed. Where the pixels do not fit, all files
    are decoded once to find those that cannot be read, and again whenever they are read.

    Args:
        preprocessing: side `R` after resizing, interpolation and channels `c`.
        cache: the pixels are kept in its folder `pixels`.
        unreadable: what happens to files that cannot be read: `refuse` or `skip`.
        extra_channels: what happens to images with more channels than a network takes: `refuse` or `drop`.
        limit_gb: gigabytes that the folder may take; None: no limit.

    Raises:
        DataError: no image of a class can be read, or with `refuse` an image cannot.
        ConfigError: the preprocessing has neither one nor three channels.
    """
    for note in listing.notes:
        log.warning(note)
    decoded = _decoded(listing, preprocessing, cache, limit_gb, extra_channels)
    if decoded.failures:
        named = first_of([f"{path}: {reason}" for path, reason in decoded.failures.items()])
        verb = "is not readable" if len(decoded.failures) == 1 else "are not readable"
        message = f"{len(decoded.failures)} of {len(listing.files)} images in {listing.root} {verb} ({named})"
        if unreadable == "refuse":
            raise DataError(message, "repair or delete these files, or leave them out by `unreadable=skip`")
        log.warning("%s: left out", message)
    files = [file for file in listing.files if file.path not in decoded.failures]
    labels = np.array([file.label for file in files], dtype=np.int64)
    lost = [name for label, name in enumerate(listing.class_names) if label not in labels]
    if lost or decoded.pixels is None:
        raise DataError(
            f"no image of class {lost[0]!r} in {listing.root} can be read, expected at least one",
            "repair its images or remove its folder",
        )
    twins = twin_images(equal_rows(decoded.digests), labels, lambda row: files[row].path)
    warn_of_twins("image", str(listing.root), twins)
    parts = tuple(file.part for file in files) if listing.parts else ()
    return Dataset(
        name=name,
        class_names=listing.class_names,
        labels=labels,
        pixels=decoded.pixels,
        fingerprint=content_fingerprint(listing.class_names, labels, decoded.digest, decoded.digests, parts),
        digests=decoded.digests,
        phashes=decoded.phashes,
        skipped=tuple(decoded.failures),
        passed_over=listing.passed_over,
        origin=listing.origin or str(listing.root),
        licence=listing.licence,
        folder=listing.root if listing.read is None else None,
        paths=tuple(file.path for file in files),
        parts=parts,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Decoded:
    """The readable files of a listing, one row each, and why the others could not be read.

    Args:
        pixels: `n x R x R x c`, uint8; None if no file is readable.
        failures: the reason for each unreadable path.
        digest: of the pixels.
        digests: of each row's image at full size.
        phashes: perceptual hash of each row's image.
    """

    pixels: CheckedArray | DecodedWhenRead | None
    failures: dict[str, str]
    digest: str
    digests: tuple[str, ...]
    phashes: tuple[int | None, ...]


def _decoded(
    listing: Listing, preprocessing: Preprocessing, cache: Path, limit_gb: float | None, extra_channels: str
) -> _Decoded:
    parts = [preprocessing.resize, preprocessing.interpolation, preprocessing.crop]
    # Runs on other classes of the folder have other rows, and may run at the same time.
    parts += [preprocessing.channels, extra_channels, *listing.class_names]
    key = digest_json([FORMAT, PIL.__version__, os.fspath(listing.root.resolve()), *parts])
    folder = cache / "pixels" / key
    with naming_full_disk(cache):
        folder.mkdir(parents=True, exist_ok=True)
    with alone_at(folder / ".lock", f"decodes the images of {listing.root}"):
        return _kept(listing, preprocessing, _Store(folder), limit_gb, extra_channels)


def _kept(
    listing: Listing,
    preprocessing: Preprocessing,
    store: "_Store",
    limit_gb: float | None,
    extra_channels: str,
) -> _Decoded:
    """What is in a store, and what is decoded into it, or each time where there is no room."""
    job = _DecodingJob(listing, preprocessing, store, extra_channels)
    complete = store.complete(listing, lambda _: job.again(store.digest))
    if complete is not None:
        return complete
    shape = (preprocessing.resize, preprocessing.resize, preprocessing.channels)
    name = f"{digest_json([file.identity for file in listing.files])}.npy"
    path = store.folder / name
    pixels: CheckedArray | DecodedWhenRead | None
    try:
        make_room(
            store.folder.parent,
            {path: len(listing.files) * int(np.prod(shape))},
            limit_gb,
            what=f"the {len(listing.files)} decoded images of {listing.root}",
            remedy="lower `resize` and `size`",
            keep=[store.folder / store.array] if store.array else [],
        )
        with job.kept_in(store.folder / f".{name}.index.jsonl"):
            pixels = write_array(
                *(path, shape, np.uint8, job.readable),
                again=lambda _: job.again(job.content.digest),
                begin=job.known_rows,
            )
            if not job.rows and pixels is not None:
                # Another process has repaired the array of the same index meanwhile.
                complete = store.complete(listing, lambda _: job.again(store.digest))
                if complete is not None:
                    return complete
                for _ in job.readable():
                    pass
            store.write_index(name, job)
    except BudgetError as error:
        discard_part(path)
        log.warning("%s: images are decoded whenever they are read, which is slower", error.message)
        rows = sum(1 for _ in job.readable())
        pixels = DecodedWhenRead(job.decode, (rows, *shape), usable_cpus()) if rows else None
    return _Decoded(
        pixels=pixels,
        failures={path: failure.reason for path, failure in job.failures.items()},
        digest=job.content.digest,
        digests=tuple(job.digests),
        phashes=tuple(job.phashes),
    )


class _Line(NamedTuple):
    """What came of a file.

    Args:
        path, size, mtime_ns: its identity.
        digest: of its image; None: it is unreadable.
        more: the perceptual hash of its image, or why it is unreadable; None where that may pass.
    """

    path: str
    size: int
    mtime_ns: int
    digest: str | None
    more: Any

    @classmethod
    def of(cls, file: ImageFile, outcome: Decoded | UnreadableImage) -> "_Line":
        """A failure that may pass, such as a missing permission, is tried again."""
        if isinstance(outcome, UnreadableImage):
            return cls(*file.identity, None, outcome.reason if outcome.lasting else None)
        return cls(*file.identity, outcome.digest, outcome.phash)

    @classmethod
    def parsed(cls, text: bytes) -> "_Line":
        """A line of an index.

        Raises:
            ValueError: it is none.
        """
        line = json.loads(text.decode("utf-8", "surrogateescape"))
        if not isinstance(line, list) or len(line) != 5:
            raise ValueError("it has a line that is not of a file")
        return cls(*line)

    @property
    def text(self) -> bytes:
        return json.dumps(self, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n"

    @property
    def identity(self) -> tuple[str, int, int]:
        """That of the file, see `ImageFile`."""
        return self.path, self.size, self.mtime_ns

    @property
    def is_final(self) -> bool:
        return self.digest is not None or self.more is not None


class _Store:
    """The pixels of an earlier run: an array, and an index with a line for each file that it was made from.

    The last line of the index names the array and holds its digest and that of the lines before it. Readable
    files are the rows of the array, in their order.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.index = folder, folder / "index.jsonl"
        self.array, self.digest = "", ""
        # By identity of a file: its row, digest and perceptual hash; why it is unreadable.
        self._rows: dict[tuple[str, int, int], tuple[int, str, Any]] = {}
        self._failures: dict[tuple[str, int, int], str] = {}
        self._pixels: CheckedArray | None = None

    def _lines(self) -> Iterator[_Line]:
        """The lines for files; `array` and `digest` are known once all are read.

        Raises:
            OSError: the index is missing or cannot be read.
            ValueError: it is not what was written.
        """
        self.array, self.digest = "", ""
        check_regular(self.index)
        hasher, last = hashlib.sha256(), b""
        with open(self.index, "rb") as file:
            for line in file:
                if last:
                    hasher.update(last)
                    yield _Line.parsed(last)
                last = line
        end = parse_json(last)
        if not isinstance(end, dict) or end.get("lines") != hasher.hexdigest():
            raise ValueError("it was changed or damaged after it was written")
        self.array, self.digest = str(end["array"]), str(end["pixels"])

    def complete(self, listing: Listing, again: Again) -> _Decoded | None:
        """All of a listing, if the index has exactly its files; `again` decodes damaged ones again."""
        digests, phashes = list[str](), list[int | None]()
        failures: dict[str, str] = {}
        try:
            are_same, files = True, iter(listing.files)
            for line in self._lines():
                file = next(files, None)
                are_same &= line.is_final and file is not None and file.identity == line.identity
                if are_same and line.digest is not None:
                    digests.append(line.digest)
                    phashes.append(line.more)
                elif are_same:
                    failures[line.path] = line.more
        except (OSError, ValueError, KeyError) as error:
            if not isinstance(error, FileNotFoundError):
                log.warning("%s cannot be used (%s): images are decoded again", self.index, error)
            return None
        if are_same and next(files, None) is None:
            pixels = open_array(self.folder / self.array, len(digests), again) if digests else None
            if pixels is not None or not digests:
                return _Decoded(
                    pixels=pixels,
                    failures=failures,
                    digest=self.digest,
                    digests=tuple(digests),
                    phashes=tuple(phashes),
                )
        self._read_all()
        return None

    def _read_all(self) -> None:
        """Keep what came of every file, for a listing in which others are new."""
        for line in self._lines():
            if line.digest is not None:
                self._rows[line.identity] = (len(self._rows), line.digest, line.more)
            elif line.is_final:
                self._failures[line.identity] = line.more
        self._pixels = open_array(self.folder / self.array, len(self._rows)) if self._rows else None

    def outcome(self, file: ImageFile) -> Decoded | UnreadableImage | None:
        """What came of a file in an earlier run; None if it is new, or its pixels are damaged."""
        pixels, known = self._pixels, self._rows.get(file.identity)
        if pixels is not None and known is not None:
            row, digest, phash = known
            try:
                return Decoded(pixels[row], digest, phash)
            except DamagedFile as error:
                if self._pixels is not None:
                    self._pixels = None
                    log.warning("%s: images are decoded again", error.message)
        reason = self._failures.get(file.identity)
        return None if reason is None else UnreadableImage(reason)

    def write_index(self, name: str, job: "_DecodingJob") -> None:
        """Write the index of a new array, and remove the old array."""
        hasher = hashlib.sha256()
        with whole_file(self.index) as temporary, open(temporary, "wb") as file:
            for line in job.lines():
                hasher.update(line.text)
                file.write(line.text)
            end = {"array": name, "pixels": job.content.digest, "lines": hasher.hexdigest()}
            file.write(json.dumps(end).encode())
        for old in self.folder.glob("*.npy"):
            if old.name != name:
                remove_array(old)


class _DecodingJob:
    """Decodes the files of a listing that are not in a store."""

    def __init__(
        self, listing: Listing, preprocessing: Preprocessing, store: _Store | None, extra_channels: str
    ) -> None:
        self.listing, self.preprocessing, self.store = listing, preprocessing, store
        self.extra_channels = extra_channels
        self._kept: Path | None = None
        self._start()

    def _start(self) -> None:
        self.failures: dict[str, UnreadableImage] = {}
        self.rows: list[ImageFile] = []
        self.content = ContentDigest()
        self.digests: list[str] = []
        self.phashes: list[int | None] = []

    @contextmanager
    def kept_in(self, path: Path) -> Iterator[None]:
        """Within the block the lines of files are written as they are decoded, for a run that resumes."""
        self._kept = path
        for other in path.parent.glob(".*.index.jsonl"):
            if other != path:
                other.unlink(missing_ok=True)
                remove_part(other.with_name(other.name.removeprefix(".").removesuffix(".index.jsonl")))
        try:
            yield
            path.unlink(missing_ok=True)
        finally:
            self._kept = None

    def _known(self) -> Iterator[tuple[ImageFile, _Line]]:
        """The first files, and their lines, of a run that was interrupted."""
        if self._kept is not None and self._kept.exists():
            with suppress(ValueError), open(self._kept, "rb") as texts:
                for file, text in zip(self.listing.files, texts, strict=False):
                    line = _Line.parsed(text)
                    if line.identity != file.identity or not line.is_final:
                        return
                    yield file, line

    def known_rows(self, rows: int) -> int:
        """Of how many of the first rows the lines are known."""
        return min(rows, sum(line.digest is not None for _, line in self._known()))

    def readable(self, done: NDArray[np.uint8] = NOTHING) -> Iterator[NDArray[np.uint8]]:
        """The pixels of readable files, `1 x R x R x c`; `failures` collects the others.

        Args:
            done: those of the first files, which are not decoded again, `m x R x R x c`.
        """
        self._start()
        known = 0
        for file, line in self._known() if len(done) else ():
            if len(self.rows) == len(done):
                break
            known += 1
            if line.digest is None:
                self._add(file, UnreadableImage(line.more))
            else:
                self._add(file, Decoded(done[len(self.rows)], line.digest, line.more))
        files = self.listing.files[known:]
        with warnings.catch_warnings(), ExitStack() as stack:
            # Pillow warns of images half as large as those that it refuses.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            kept = None
            if self._kept is not None:
                kept = stack.enter_context(open(self._kept, "rb+" if known else "wb"))
                kept.seek(sum(len(line.text) for line in islice(self.lines(), known)))
                kept.truncate()
            outcomes = track(self._outcomes(files), "decode images", len(files))
            for file, outcome in zip(files, outcomes, strict=True):
                self._add(file, outcome)
                if kept is not None:
                    kept.write(_Line.of(file, outcome).text)
                if not isinstance(outcome, UnreadableImage):
                    yield outcome.pixels[None]

    def _add(self, file: ImageFile, outcome: Decoded | UnreadableImage) -> None:
        if isinstance(outcome, UnreadableImage):
            self.failures[file.path] = outcome
        else:
            self.rows.append(file)
            self.content.add(outcome.pixels)
            self.digests.append(outcome.digest)
            self.phashes.append(outcome.phash)

    def lines(self) -> Iterator[_Line]:
        """What came of each file."""
        found = zip(self.digests, self.phashes, strict=True)
        for file in self.listing.files:
            failure = self.failures.get(file.path)
            yield _Line.of(file, Decoded(NOTHING, *next(found)) if failure is None else failure)

    def again(self, digest: str) -> Iterator[NDArray[np.uint8]]:
        """The pixels with this digest, all of them decoded once more."""
        job = _DecodingJob(self.listing, self.preprocessing, None, self.extra_channels)
        yield from job.readable()
        if job.content.digest != digest:
            raise DataError(
                f"the images of {self.listing.root} have changed since they were read", "start again"
            )

    def decode(self, row: int) -> NDArray[np.uint8]:
        """The pixels of a row, `R x R x c`, decoded again."""
        outcome = self._outcome(self.rows[row])
        if isinstance(outcome, UnreadableImage):
            raise DataError(
                f"{self.rows[row].path} in {self.listing.root} can no longer be read ({outcome.reason})",
                "restore it, or start again",
            )
        if outcome.digest != self.digests[row]:
            raise DataError(
                f"{self.rows[row].path} in {self.listing.root} has changed since it was read", "start again"
            )
        return outcome.pixels

    def _outcomes(self, files: Sequence[ImageFile]) -> Iterator[Decoded | UnreadableImage]:
        """What came of each file, in order; threads decode, because Pillow works outside Python's lock."""
        workers = usable_cpus()
        found = in_order(files, self._outcome, workers=workers, window=AHEAD * workers, name="decode")
        return (outcome for _, outcome in found)

    def _outcome(self, file: ImageFile) -> Decoded | UnreadableImage:
        listing, known = self.listing, None if self.store is None else self.store.outcome(file)
        if known is not None:
            return known
        if listing.read is not None:
            return decode_picture(Image.fromarray(listing.read(file.path)), self.preprocessing)
        try:
            path = listing.root / file.path
            return decode_image(path, self.preprocessing, extra_channels=self.extra_channels)
        except UnreadableImage as failure:
            return failure
