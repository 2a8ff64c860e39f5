"""Activations of a frozen trunk, computed once for each split and view and kept in files."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tascnet.console import log, track
from tascnet.data.arrays import make_room, open_array, write_array
from tascnet.data.dataset import digest_array
from tascnet.data.sources import FeatureSource, ImageSource
from tascnet.errors import ConfigError, WeightsError
from tascnet.files import digest_json

__all__ = ["cached_features", "feature_bytes", "module_digest", "prefix_digests"]

FORMAT = 1
DTYPES = ("float16", "float32")


class _Overflow(Exception):
    """A feature is too large for float16."""


def cached_features(
    trunk: nn.Module,
    source: ImageSource,
    *,
    folder: Path,
    trunk_digest: str,
    views: Sequence[str] = ("plain",),
    dtype: str = "float16",
    batch_size: int = 64,
    limit_gb: float | None = None,
    beside: Sequence[FeatureSource] = (),
    device: torch.device | str = "cpu",
) -> FeatureSource:
    """The trunk's outputs for a source, read from the cache or computed into it.

    The trunk runs in eval mode, without gradient or autocast, in batches of fixed size and order, so that
    the same call gives the same bits again. Values that float16 cannot hold are written as float32.

    Args:
        trunk: gives `b x ...` for images `b x c x size x size`; it is on `device`, an empty chain is allowed.
        source: the images.
        folder: one file for each split and view.
        trunk_digest: `module_digest(trunk)`, or the trunk's of `prefix_digests`.
        views: fixed transforms of `VIEWS`, with "plain" among them.
        dtype: element type in the cache, `float16` or `float32`.
        batch_size: images that the trunk takes at once.
        limit_gb: gigabytes that the folder may take; None: no limit.
        beside: features in use: their files stay, and both have to fit in the limit.
        device: where the trunk is.

    Returns:
        Features of all views, as read-only memory maps.

    Raises:
        BudgetError: if the features would take more than the limit or the disk allows; nothing is
            removed or computed then.
        WeightsError: if the trunk gives values that are not finite.
        ConfigError: if the element type is another.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"cache_dtype is {dtype!r}, expected one of {', '.join(DTYPES)}")
    place = torch.device(device)
    paths = {
        view: folder / f"{_key(source, trunk_digest, view, dtype, batch_size, place)}.npy" for view in views
    }
    found = {view: open_array(path, len(source)) for view, path in paths.items()}
    missing = [view for view, array in found.items() if array is None]
    if missing:
        sample = _sample_shape(trunk, source, place)
        others = [path for features in beside for path in features.files]

        def room(count: int, element: str) -> None:
            done = [paths[view] for view, array in found.items() if array is not None]
            _make_room(folder, sample, len(source), count, element, limit_gb, [*others, *done])

        room(len(missing), dtype)
        for view in missing:
            batches = _batches(trunk, source, view, batch_size, place)
            _fill(paths[view], sample, dtype, batches, lambda: room(1, "float32"))
            found[view] = open_array(paths[view], len(source))
    arrays = {view: array for view, array in found.items() if array is not None}
    return FeatureSource(arrays, source.labels, source.num_classes)


def feature_bytes(
    trunk: nn.Module,
    source: ImageSource,
    *,
    views: Sequence[str] = ("plain",),
    dtype: str = "float16",
    device: torch.device | str = "cpu",
) -> int:
    """Bytes that `cached_features` would write, from the features of one image."""
    sample = _sample_shape(trunk, source, torch.device(device))
    return len(views) * len(source) * _sample_bytes(sample, dtype)


def module_digest(module: nn.Module) -> str:
    """A digest of a module's structure and of every parameter and buffer."""
    hasher = hashlib.sha256(repr(module).encode())
    _add_tensors(hasher, module)
    return _shown(hasher)


def prefix_digests(chain: nn.Sequential) -> tuple[str, ...]:
    """A digest of each prefix of a chain, from no block to all of them, reading every tensor once."""
    hasher = hashlib.sha256(b"chain")
    digests = [_shown(hasher)]
    # Unlike `named_children` this gives a block that is used twice under both its names.
    for name, block in chain._modules.items():
        assert block is not None
        hasher.update(f"{name} {block!r}".encode())
        _add_tensors(hasher, block)
        digests.append(_shown(hasher))
    return tuple(digests)


def _add_tensors(hasher: "hashlib._Hash", module: nn.Module) -> None:
    for name, tensor in module.state_dict().items():
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        hasher.update(flat.view(torch.uint8).numpy().data)


def _shown(hasher: "hashlib._Hash") -> str:
    return hasher.hexdigest()[:32]


def _key(
    source: ImageSource, trunk_digest: str, view: str, dtype: str, batch_size: int, device: torch.device
) -> str:
    images = [source.dataset.fingerprint, digest_array(source.rows), source.preprocessing.to_dict(), view]
    # Kernels differ in the last bits between devices and versions.
    return digest_json([FORMAT, torch.__version__, device.type, trunk_digest, images, dtype, batch_size])


def _sample_shape(trunk: nn.Module, source: ImageSource, device: torch.device) -> tuple[int, ...]:
    with _frozen(trunk, device):
        return tuple(trunk(source.batch_view(torch.arange(1), "plain").to(device)).shape[1:])


def _sample_bytes(sample: tuple[int, ...], dtype: str) -> int:
    return int(np.prod(sample)) * np.dtype(dtype).itemsize


def _make_room(
    folder: Path,
    sample: tuple[int, ...],
    rows: int,
    views: int,
    dtype: str,
    limit_gb: float | None,
    keep: Sequence[Path],
) -> None:
    each = _sample_bytes(sample, dtype)
    shape = " x ".join(map(str, sample))
    smaller = "lower backbone.size"
    if dtype == "float32":
        smaller += " or choose tune.cache_dtype=float16"
    make_room(
        folder,
        rows * views * each,
        limit_gb,
        what=f"the features of {rows} images in {views} view{'s' * (views > 1)} ({shape} {dtype} each)",
        remedy=smaller,
        keep=keep,
    )


def _fill(
    path: Path,
    sample: tuple[int, ...],
    dtype: str,
    batches: Callable[[], Iterator[Tensor]],
    room_for_float32: Callable[[], None],
) -> None:
    try:
        write_array(path, sample, dtype, _checked(batches(), dtype))
    except _Overflow:
        log.warning(
            "features above %g do not fit float16: they are cached in float32", np.finfo("float16").max
        )
        room_for_float32()
        write_array(path, sample, "float32", _checked(batches(), "float32"))


def _checked(batches: Iterator[Tensor], dtype: str) -> Iterator[NDArray[np.floating]]:
    for batch in batches:
        if not torch.isfinite(batch).all():
            raise WeightsError(
                "the frozen trunk gives values that are not finite", "check the weights and the normalisation"
            )
        values = batch.to(getattr(torch, dtype))
        if not torch.isfinite(values).all():
            raise _Overflow
        yield values.cpu().numpy()


def _batches(
    trunk: nn.Module, source: ImageSource, view: str, batch_size: int, device: torch.device
) -> Callable[[], Iterator[Tensor]]:
    def run() -> Iterator[Tensor]:
        rows = torch.arange(len(source)).split(batch_size)
        for chunk in track(rows, f"cache features ({view})"):
            with _frozen(trunk, device):
                features = trunk(source.batch_view(chunk, view).to(device)).float()
            yield features

    return run


@contextmanager
def _frozen(trunk: nn.Module, device: torch.device) -> Iterator[None]:
    """Eval mode, no gradient, no autocast; the mode of every module is given back."""
    modes = [(module, module.training) for module in trunk.modules()]
    trunk.eval()
    try:
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        for module, training in modes:
            module.training = training
