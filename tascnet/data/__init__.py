"""Data sets decoded once, seeded splits, batches of images or texts, and cached features of a frozen trunk.

Symbols: `n` samples, `b` samples of a batch, `c` channels, `R` side after resizing, `C` classes,
`T` tokens of a text.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tascnet.data.cache import (
        Segment,
        cache_segments,
        cached_features,
        module_digest,
        prefix_digests,
        read_digest,
    )
    from tascnet.data.places import check_samples
    from tascnet.data.samples import open_samples
    from tascnet.data.sources import FeatureSource, SampleSource, class_weights, evenly

# A module is imported when one of its names is used: `check_samples` needs no torch.
_MODULES = {
    "cache": (
        *("Segment", "cache_segments", "cached_features"),
        *("module_digest", "prefix_digests", "read_digest"),
    ),
    "places": ("check_samples",),
    "samples": ("open_samples",),
    "sources": ("FeatureSource", "SampleSource", "class_weights", "evenly"),
}

__all__ = [
    "FeatureSource",
    "SampleSource",
    "Segment",
    "cache_segments",
    "cached_features",
    "check_samples",
    "class_weights",
    "evenly",
    "module_digest",
    "open_samples",
    "prefix_digests",
    "read_digest",
]


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
