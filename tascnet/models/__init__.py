"""Networks as chains of blocks: pre-trained weights, heads, and saved models.

Words: a chain is a flat, named `nn.Sequential`; a block is one of its items and takes one tensor and gives
one tensor; the head is what follows the features, its last block the classifier. A grown head stands on the
pre-trained classifier, the kept layer.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tascnet.models.archive import load, save
    from tascnet.models.head import HeadSpec, head_start, replace_head
    from tascnet.models.info import ModelInfo, Preprocessing, with_info
    from tascnet.models.text import TextPreprocessing

__all__ = [
    "HeadSpec",
    "ModelInfo",
    "Preprocessing",
    "TextPreprocessing",
    "head_start",
    "load",
    "replace_head",
    "save",
    "with_info",
]


def __getattr__(name: str) -> Any:
    # torchvision and safetensors take a second to import: each name brings only its own module.
    if name in ("ModelInfo", "Preprocessing", "with_info"):
        home = "info"
    elif name == "TextPreprocessing":
        home = "text"
    elif name in ("HeadSpec", "head_start", "replace_head"):
        home = "head"
    elif name in ("load", "save"):
        home = "archive"
    elif name in ("build_backbone", "write_weights"):  # TEMPORARY
        home = "weights"
    elif name == "MaxOverTime":  # TEMPORARY
        home = "blocks"
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
