"""Activations of a frozen trunk, computed once for each split and view and kept in files."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tascnet.data.arrays import (
    Again,
    CheckedArray,
    digest_array,
    make_room,
    open_array,
    write_array,
    write_arrays,
)
from tascnet.data.sources import FeatureSource, SampleSource
from tascnet.errors import DamagedFile, TascnetError, WeightsError, plural
from tascnet.models.leaves import LEAVES, arguments_of
from tascnet.run.console import log, track
from tascnet.run.files import digest_json

FORMAT = 1

# Samples that a trunk takes at once, and batches that are computed elsewhere at once.
BATCH, SHARD = 64, 4

ElementType: TypeAlias = Literal["float16", "float32"]
Kept = TypeVar("Kept")
# Part of a pass: the number of its source, view, element type and rows.
Shard: TypeAlias = tuple[int, str, ElementType, Tensor]
# Makes the features of shards, in their order, each a list with one array for each segment.
Spread: TypeAlias = Callable[[Iterable[Shard]], Iterator[list[NDArray[Any]]]]


class FeatureOverflow(TascnetError):
    """A feature is too large for float16."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Blocks whose outputs are cached.

    Args:
        digest: of the trunk up to and with these blocks: `module_digest(trunk)`, or the trunk's of
            `prefix_digests`; with a reader the `read_digest` of that and the reader.
        blocks: map a batch to a batch.
        reader: what is cached of their outputs, such as their mean over all places; None: all.
    """

    digest: str
    blocks: nn.Module
    reader: nn.Module | None = None


def cached_features(
    trunk: nn.Module,
    source: SampleSource,
    *,
    folder: Path,
    trunk_digest: str,
    reader: nn.Module | None = None,
    views: Sequence[str] = ("plain",),
    dtype: ElementType = "float16",
    batch_size: int = BATCH,
    limit_gb: float | None = None,
    beside: Sequence[FeatureSource] = (),
    device: torch.device | str = "cpu",
) -> FeatureSource:
    """The trunk's outputs for a source, read from the cache or computed into it.

    The trunk runs in eval mode, without gradient or autocast, in batches of fixed size and order, so that
    the same call reproduces the same bits. Values too large for float16 are written as float32.

    Args:
        trunk: maps a batch of the source to `b x ...`; an empty chain is allowed.
        source: the samples.
        folder: one file for each split and view.
        trunk_digest: see `Segment`.
        reader: see `Segment`.
        views: fixed transforms of the source, with "plain" among them.
        dtype: element type in the cache.
        batch_size: samples that the trunk takes at once.
        limit_gb: gigabytes that the folder may take; None: no limit.
        beside: features in use: their files are kept, and both must fit in the limit.
        device: where the trunk is.

    Returns:
        Features of all views, in files that are checked when they are read.

    Raises:
        BudgetError: the features would take more than the limit or the disk allows; nothing is removed or
            computed then.
        WeightsError: the trunk's outputs are not finite.
    """
    segment = Segment(digest=trunk_digest, blocks=trunk, reader=reader)
    job = _Job((segment,), source, folder, dtype, batch_size, torch.device(device))
    paths = {view: job.paths(view)[0] for view in views}
    again = {view: partial(job.again, path, view) for view, path in paths.items()}
    found = {view: open_array(path, len(source), again[view]) for view, path in paths.items()}
    missing = [view for view, array in found.items() if array is None]
    in_use = [path for features in beside for path in features.files]

    def room(views: Sequence[str], dtype: ElementType) -> None:
        done = [paths[view] for view, array in found.items() if array is not None]
        writes, where = [(job, view) for view in views], f"in {plural(len(views), 'view')}"
        _make_room(writes, len(source), where, dtype, limit_gb, keep=[*in_use, *done])

    if missing:
        room(missing, dtype)
    for view in missing:
        try:
            found[view] = job.written(view, dtype, again[view])
        except FeatureOverflow:
            log.warning(
                "features above %g do not fit float16: they are cached in float32", np.finfo("float16").max
            )
            room([view], "float32")
            found[view] = job.written(view, "float32", again[view])
    arrays = {view: array for view, array in found.items() if array is not None}
    return FeatureSource(arrays, source.labels, source.num_classes)


def cache_segments(
    segments: Sequence[Segment],
    sources: Sequence[tuple[SampleSource, Sequence[str]]],
    *,
    folder: Path,
    limit_gb: float | None = None,
    device: torch.device | str = "cpu",
    spread: Spread | None = None,
) -> None:
    """Cache the outputs of several segments that follow each other, in one pass for each source and view.

    `cached_features` then finds them, to the same bits. Outputs too large for float16 are left to it.

    Args:
        segments: the first begins where the source's samples enter the network.
        sources: samples and their views.
        folder: of the cache.
        limit_gb: gigabytes that the folder may take; None: no limit.
        device: where the blocks are.
        spread: makes the features elsewhere by `shard_features`; None: here.

    Raises:
        BudgetError: what is missing does not fit together; nothing is removed or computed then.
        WeightsError: outputs are not finite.
    """
    place = torch.device(device)
    jobs = [
        (_Job(tuple(segments), source, folder, "float16", BATCH, place, number, spread), views)
        for number, (source, views) in enumerate(sources)
    ]
    missing = [
        (job, view) for job, views in jobs for view in views if not all(p.exists() for p in job.paths(view))
    ]
    if not missing:
        return
    known = [path for job, views in jobs for view in views for path in job.paths(view) if path.exists()]
    samples = sum(len(job.source) for job, _ in missing)
    where = f"at {plural(len(segments), 'place')}"
    _make_room(missing, samples, where, "float16", limit_gb, keep=known)
    for job, view in missing:
        try:
            shapes = dict(zip(job.paths(view), job.shapes, strict=True))
            write_arrays(shapes, "float16", partial(job.passes, view, "float16"), job.whole_batches)
        except FeatureOverflow:
            log.debug("some features of a pass do not fit float16: each place is cached by itself")


def shard_features(
    segments: Sequence[tuple[nn.Module, nn.Module | None]],
    source: SampleSource,
    view: str,
    dtype: ElementType,
    rows: Tensor,
    device: torch.device,
) -> list[NDArray[Any]]:
    """The outputs of segments for some samples of a view, one array `b x ...` for each.

    Args:
        segments: blocks and reader of each; see `Segment`.
        source: of the samples.
        view: of the samples.
        dtype: element type of the arrays.
        rows: of the source, `b`.
        device: where the blocks are.

    Raises:
        FeatureOverflow: an output is too large for float16.
        WeightsError: an output is not finite.
    """

    def stored(outputs: Tensor) -> NDArray[Any]:
        outputs = outputs.float()
        if not torch.isfinite(outputs).all():
            raise WeightsError(
                "the outputs of the frozen trunk are not finite",
                "check the weights and the normalisation",
            )
        values = outputs.to(getattr(torch, dtype))
        if not torch.isfinite(values).all():
            raise FeatureOverflow("a feature is too large for float16")
        return values.cpu().numpy()

    return _read(segments, source, rows, view, device, stored)


def _read(
    segments: Sequence[tuple[nn.Module, nn.Module | None]],
    source: SampleSource,
    rows: Tensor,
    view: str,
    device: torch.device,
    keep: Callable[[Tensor], Kept],
) -> list[Kept]:
    """What `keep` makes of the outputs of each segment, before the next one runs."""
    modules = [module for pair in segments for module in pair if module is not None]
    modes = [(module, module.training) for part in modules for module in part.modules()]
    for part in modules:
        part.eval()
    try:
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            outputs, kept = source.batch_view(rows, view).to(device), []
            for blocks, reader in segments:
                outputs = blocks(outputs)
                kept.append(keep(outputs if reader is None else reader(outputs)))
            return kept
    finally:
        for module, training in modes:
            module.training = training


@dataclass(frozen=True)
class _Job:
    """Segments that run on a source, and where their outputs are kept.

    Args:
        number: of the source, for `spread`.
    """

    segments: tuple[Segment, ...]
    source: SampleSource
    folder: Path
    dtype: ElementType
    batch_size: int
    device: torch.device
    number: int = 0
    spread: Spread | None = None

    @cached_property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of one sample's features at each segment."""
        first = torch.arange(1)
        return _read(
            self._modules, self.source, first, "plain", self.device, lambda out: tuple(out.shape[1:])
        )

    @property
    def _modules(self) -> list[tuple[nn.Module, nn.Module | None]]:
        return [(one.blocks, one.reader) for one in self.segments]

    def paths(self, view: str) -> list[Path]:
        """The file of each segment for a view."""
        source = self.source
        # Kernels differ in the last bits between devices and versions.
        versions = [FORMAT, torch.__version__, self.device.type]
        samples = [source.dataset.fingerprint, self._rows, source.preprocessing.to_dict(), view]
        settings = [self.dtype, self.batch_size]
        keys = [digest_json([*versions, one.digest, samples, *settings]) for one in self.segments]
        return [self.folder / f"{key}.npy" for key in keys]

    @cached_property
    def _rows(self) -> str:
        return digest_array(self.source.rows)

    def written(self, view: str, dtype: ElementType, again: Again) -> CheckedArray | None:
        """The first segment's features of one view, written to its file."""
        path, shape = self.paths(view)[0], self.shapes[0]
        return write_array(
            path, shape, dtype, partial(self.features, view, dtype), again, begin=self.whole_batches
        )

    def whole_batches(self, rows: int) -> int:
        """How many of so many rows batches of this size and order give."""
        return rows if rows == len(self.source) else rows - rows % self.batch_size

    def features(self, view: str, dtype: ElementType, done: Sized = ()) -> Iterator[NDArray[Any]]:
        """The first segment's features of one view in batches, without those of the first samples."""
        first = replace(self, segments=self.segments[:1])
        return (parts[0] for parts in first.passes(view, dtype, [done]))

    def passes(
        self, view: str, dtype: ElementType, done: Sequence[Sized] = ((),)
    ) -> Iterator[list[NDArray[Any]]]:
        """The features of one view in batches, at each segment, but for those `done`, the first."""
        size = self.batch_size * (1 if self.spread is None else SHARD)
        rows = torch.arange(len(done[0]), len(self.source)).split(size)
        # A part of a tensor would travel with the whole.
        shards = [(self.number, view, dtype, chunk.clone()) for chunk in rows if len(chunk)]
        return track((self.spread or self._here)(shards), f"cache features ({view})", len(shards))

    def _here(self, shards: Iterable[Shard]) -> Iterator[list[NDArray[Any]]]:
        for _, view, dtype, rows in shards:
            yield shard_features(self._modules, self.source, view, dtype, rows, self.device)

    def again(self, path: Path, view: str, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
        """The first segment's features of one view once more, for a damaged file."""
        first = self.segments[0]
        digests = (prefix_digests(first.blocks)[-1], module_digest(first.blocks))
        if first.digest not in [read_digest(digest, first.reader) for digest in digests]:
            raise DamagedFile(
                f"{path} was changed or damaged after it was written, and its network has been trained since",
                "run the same command again: it resumes",
            )
        return self.features(view, cast(ElementType, str(dtype)))


def _make_room(
    writes: Sequence[tuple[_Job, str]],
    samples: int,
    where: str,
    dtype: ElementType,
    limit_gb: float | None,
    keep: Collection[Path],
) -> None:
    """Make room for the features of some views.

    Args:
        writes: a job and a view of it, each.
        samples: how many there are, and `where` their features are taken, for the message.

    Raises:
        BudgetError: they do not fit.
    """
    first = writes[0][0]
    shape, kind = " x ".join(map(str, first.shapes[0])), first.source.dataset.kind
    sizes = {
        path: len(job.source) * int(np.prod(own)) * np.dtype(dtype).itemsize
        for job, view in writes
        for path, own in zip(job.paths(view), job.shapes, strict=True)
    }
    make_room(
        first.folder,
        sizes,
        limit_gb,
        what=f"the features of {samples} {kind} {where} ({shape} {dtype} each)",
        remedy=f"lower `{'max_tokens' if kind == 'texts' else 'size'}`",
        keep=keep,
    )


def read_digest(trunk_digest: str, reader: nn.Module | None) -> str:
    """A digest of a trunk and of what reads its outputs."""
    return trunk_digest if reader is None else digest_json([trunk_digest, module_digest(reader)])[:32]


def module_digest(module: nn.Module) -> str:
    """A digest of a module's structure and of every parameter and buffer."""
    hasher = hashlib.sha256()
    _add(hasher, module)
    return hasher.hexdigest()[:32]


def prefix_digests(chain: nn.Module) -> tuple[str, ...]:
    """A digest of each prefix of a chain, from no block to all of them, reading every tensor once."""
    hasher = hashlib.sha256(b"chain")
    digests = [hasher.hexdigest()[:32]]
    # Unlike `named_children` this lists a block that is used twice under both its names.
    for name, block in chain._modules.items():
        assert block is not None
        hasher.update(f"{name} ".encode())
        _add(hasher, block)
        digests.append(hasher.hexdigest()[:32])
    return tuple(digests)


def _add(hasher: "hashlib._Hash", module: nn.Module) -> None:
    hasher.update(repr(module).encode())
    # Some layers do not print all their arguments.
    for name, layer in module.named_modules():
        if type(layer) in LEAVES:
            hasher.update(f"{name} {arguments_of(layer)}".encode())
    for name, tensor in module.state_dict().items():
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        hasher.update(flat.view(torch.uint8).numpy().data)
