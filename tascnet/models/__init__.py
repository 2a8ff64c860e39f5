"""Networks as chains of blocks: pre-trained weights, heads, and saved models.

Words: a chain is a flat, named `nn.Sequential`; a block is one of its items and takes one tensor
and gives one tensor; the head is what follows the features, its last block the classifier.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tascnet.models.archive import load, save
    from tascnet.models.blocks import Concat, Residual, SliceAndPad
    from tascnet.models.head import HeadSpec, head_start, replace_head, with_dropout
    from tascnet.models.info import ModelInfo, Preprocessing
    from tascnet.models.weights import Backbone, build_backbone, write_weights

__all__ = [
    "Backbone",
    "Concat",
    "HeadSpec",
    "ModelInfo",
    "Preprocessing",
    "Residual",
    "SliceAndPad",
    "build_backbone",
    "head_start",
    "load",
    "replace_head",
    "save",
    "with_dropout",
    "write_weights",
]

# torchvision and safetensors take a second to import: each name brings only its own module.
_HOMES = {
    "Backbone": "weights",
    "Concat": "blocks",
    "HeadSpec": "head",
    "ModelInfo": "info",
    "Preprocessing": "info",
    "Residual": "blocks",
    "SliceAndPad": "blocks",
    "build_backbone": "weights",
    "head_start": "head",
    "load": "archive",
    "replace_head": "head",
    "save": "archive",
    "with_dropout": "head",
    "write_weights": "weights",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
