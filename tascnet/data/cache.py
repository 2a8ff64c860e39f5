"""Activations of a frozen trunk, computed once for each split and view and kept in files."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tascnet.data.arrays import digest_array, make_room, open_array, write_array, write_arrays
from tascnet.data.sources import FeatureSource, SampleSource
from tascnet.errors import DamagedFile, WeightsError, plural
from tascnet.run.console import log, track
from tascnet.run.files import digest_json

FORMAT = 1

ElementType: TypeAlias = Literal["float16", "float32"]


class _Overflow(Exception):
    """A feature is too large for float16."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Blocks whose outputs are cached.

    Args:
        digest: of the trunk up to and with these blocks, and of the reader.
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
    views: Sequence[str] = ("plain",),
    dtype: ElementType = "float16",
    batch_size: int = 64,
    limit_gb: float | None = None,
    beside: Sequence[FeatureSource] = (),
    device: torch.device | str = "cpu",
    reader: nn.Module | None = None,
    later: Sequence[Segment] = (),
) -> FeatureSource:
    """The trunk's outputs for a source, read from the cache or computed into it.

    The trunk runs in eval mode, without gradient or autocast, in batches of fixed size and order, so that
    the same call reproduces the same bits. Values too large for float16 are written as float32.

    Args:
        trunk: maps a batch of the source to `b x ...`; an empty chain is allowed.
        folder: one file for each split and view.
        trunk_digest: `module_digest(trunk)`, or the trunk's of `prefix_digests`; with a reader `read_digest`.
        views: fixed transforms of the source, with "plain" among them.
        dtype: element type in the cache.
        batch_size: samples that the trunk takes at once.
        limit_gb: gigabytes that the folder may take; None: no limit.
        beside: features in use: their files are kept, and both must fit in the limit.
        device: where the trunk is.
        reader: what is cached of the trunk's outputs; None: all.
        later: blocks that continue the trunk one after the other. Where the trunk has to run, their outputs
            are written as well, as the features of their digests.

    Returns:
        Features of all views, in files that are checked when they are read.

    Raises:
        BudgetError: the features would take more than the limit or the disk allows; nothing is removed or
            computed then.
        WeightsError: the trunk's outputs are not finite.
    """
    own = Segment(digest=trunk_digest, blocks=trunk, reader=reader)
    job = _Job(segments=(own, *later), source=source, batch_size=batch_size, device=torch.device(device))
    # Kernels differ in the last bits between devices and versions.
    versions = [FORMAT, torch.__version__, job.device.type]
    samples = [source.dataset.fingerprint, digest_array(source.rows), source.preprocessing.to_dict()]

    def place(digest: str, view: str) -> Path:
        key = digest_json([*versions, digest, [*samples, view], dtype, batch_size])
        return folder / f"{key}.npy"

    paths = {view: place(trunk_digest, view) for view in views}
    again = {view: partial(job.again, path, view) for view, path in paths.items()}
    found = {view: open_array(path, len(source), again[view]) for view, path in paths.items()}
    missing = [view for view, array in found.items() if array is None]
    in_use = [path for features in beside for path in features.files]

    def room(shapes: Sequence[tuple[int, ...]], count: int, dtype: ElementType) -> None:
        done = [paths[view] for view, array in found.items() if array is not None]
        shape, kind = " x ".join(map(str, shapes[0])), source.dataset.kind
        values = sum(int(np.prod(shape)) for shape in shapes)
        make_room(
            folder,
            len(source) * count * values * np.dtype(dtype).itemsize,
            limit_gb,
            what=f"the features of {len(source)} {kind} in {plural(count, 'view')} ({shape} {dtype} each)",
            remedy=f"lower `{'max_tokens' if kind == 'texts' else 'size'}`",
            keep=[*in_use, *done],
        )

    if missing:
        room(job.shapes, len(missing), dtype)
    for view in missing:
        places = [place(segment.digest, view) for segment in job.segments]
        try:
            write_arrays(dict(zip(places, job.shapes, strict=True)), dtype, job.passes(view, dtype))
            found[view] = open_array(paths[view], len(source), again[view])
        except _Overflow:
            log.warning(
                "features above %g do not fit float16: they are cached in float32", np.finfo("float16").max
            )
            room(job.shapes[:1], 1, "float32")
            chunks = job.features(view, "float32")
            found[view] = write_array(paths[view], job.shapes[0], "float32", chunks, again[view])
    arrays = {view: array for view, array in found.items() if array is not None}
    return FeatureSource(arrays, source.labels, source.num_classes)


@dataclass(frozen=True, kw_only=True)
class _Job:
    segments: tuple[Segment, ...]
    source: SampleSource
    batch_size: int
    device: torch.device

    @cached_property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of one sample's features at each segment."""
        return [tuple(outputs.shape[1:]) for outputs in self._outputs(torch.arange(1), "plain")]

    def features(self, view: str, dtype: ElementType) -> Iterator[NDArray[Any]]:
        """The first segment's features of one view in batches."""
        return (parts[0] for parts in replace(self, segments=self.segments[:1]).passes(view, dtype))

    def passes(self, view: str, dtype: ElementType) -> Iterator[list[NDArray[Any]]]:
        """The features of one view in batches, at each segment."""
        rows = torch.arange(len(self.source)).split(self.batch_size)
        for chunk in track(rows, f"cache features ({view})"):
            yield [self._stored(outputs.float(), dtype) for outputs in self._outputs(chunk, view)]

    def _stored(self, outputs: Tensor, dtype: ElementType) -> NDArray[Any]:
        if not torch.isfinite(outputs).all():
            raise WeightsError(
                "the outputs of the frozen trunk are not finite",
                "check the weights and the normalisation",
            )
        values = outputs.to(getattr(torch, dtype))
        if not torch.isfinite(values).all():
            raise _Overflow
        return values.cpu().numpy()

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

    def _outputs(self, rows: Tensor, view: str) -> list[Tensor]:
        parts = [
            part for segment in self.segments for part in (segment.blocks, segment.reader) if part is not None
        ]
        modes = [(module, module.training) for part in parts for module in part.modules()]
        for part in parts:
            part.eval()
        try:
            with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
                outputs, read = self.source.batch_view(rows, view).to(self.device), []
                for segment in self.segments:
                    outputs = segment.blocks(outputs)
                    read.append(outputs if segment.reader is None else segment.reader(outputs))
                return read
        finally:
            for module, training in modes:
                module.training = training


def read_digest(trunk_digest: str, reader: nn.Module | None) -> str:
    """A digest of a trunk and of what reads its outputs."""
    return trunk_digest if reader is None else digest_json([trunk_digest, module_digest(reader)])[:32]


def module_digest(module: nn.Module) -> str:
    """A digest of a module's structure and of every parameter and buffer."""
    hasher = hashlib.sha256(repr(module).encode())
    _add_tensors(hasher, module)
    return hasher.hexdigest()[:32]


def prefix_digests(chain: nn.Module) -> tuple[str, ...]:
    """A digest of each prefix of a chain, from no block to all of them, reading every tensor once."""
    hasher = hashlib.sha256(b"chain")
    digests = [hasher.hexdigest()[:32]]
    # Unlike `named_children` this lists a block that is used twice under both its names.
    for name, block in chain._modules.items():
        assert block is not None
        hasher.update(f"{name} {block!r}".encode())
        _add_tensors(hasher, block)
        digests.append(hasher.hexdigest()[:32])
    return tuple(digests)


def _add_tensors(hasher: "hashlib._Hash", module: nn.Module) -> None:
    for name, tensor in module.state_dict().items():
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        hasher.update(flat.view(torch.uint8).numpy().data)
