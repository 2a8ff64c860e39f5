"""Data sets decoded once, seeded splits, batches of images or texts, and cached features of a frozen trunk.

Symbols: `n` samples, `b` samples of a batch, `c` channels, `R` side after resizing, `C` classes,
`T` tokens of a text.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tascnet.data.cache import cached_features, module_digest, prefix_digests
    from tascnet.data.heldout import read_splits
    from tascnet.data.places import check_samples
    from tascnet.data.samples import Samples, open_samples
    from tascnet.data.sources import FeatureSource, SampleSource, Source, class_weights, evenly, source_of

# Modules are imported when something of them is asked for: checks of places do without torch.
_MODULES = {
    "cache": ("cached_features", "module_digest", "prefix_digests"),
    "heldout": ("read_splits",),
    "places": ("check_samples",),
    "samples": ("Samples", "open_samples"),
    "sources": ("FeatureSource", "SampleSource", "Source", "class_weights", "evenly", "source_of"),
}

__all__ = [
    "FeatureSource",
    "SampleSource",
    "Samples",
    "Source",
    "cached_features",
    "check_samples",
    "class_weights",
    "evenly",
    "module_digest",
    "open_samples",
    "prefix_digests",
    "read_splits",
    "source_of",
]


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"tascnet.data.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
