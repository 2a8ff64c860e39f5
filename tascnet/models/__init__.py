"""Networks as chains of blocks: pre-trained weights, heads, and saved models.

Words: a chain is a flat, named `nn.Sequential`; a block is one of its items and takes one tensor
and gives one tensor; the head is what follows the features, its last block the classifier. A
grown head stands on the pre-trained classifier, the kept layer.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tascnet.models.archive import load, save
    from tascnet.models.blocks import (
        ChannelsFirst,
        Concat,
        L2Norm,
        MaxOverTime,
        Residual,
        Scale,
        SliceAndPad,
    )
    from tascnet.models.grow import grow_head, output_magnitude
    from tascnet.models.head import HeadSpec, head_start, replace_head, with_dropout
    from tascnet.models.info import ModelInfo, Preprocessing
    from tascnet.models.text import TextPreprocessing
    from tascnet.models.weights import Backbone, build_backbone, write_weights

__all__ = [
    "Backbone",
    "ChannelsFirst",
    "Concat",
    "HeadSpec",
    "L2Norm",
    "MaxOverTime",
    "ModelInfo",
    "Preprocessing",
    "Residual",
    "Scale",
    "SliceAndPad",
    "TextPreprocessing",
    "build_backbone",
    "grow_head",
    "head_start",
    "load",
    "output_magnitude",
    "replace_head",
    "save",
    "with_dropout",
    "write_weights",
]

# torchvision and safetensors take a second to import: each name brings only its own module.
_HOMES = {
    "Backbone": "weights",
    "ChannelsFirst": "blocks",
    "Concat": "blocks",
    "HeadSpec": "head",
    "L2Norm": "blocks",
    "MaxOverTime": "blocks",
    "ModelInfo": "info",
    "Preprocessing": "info",
    "Residual": "blocks",
    "Scale": "blocks",
    "SliceAndPad": "blocks",
    "TextPreprocessing": "text",
    "build_backbone": "weights",
    "grow_head": "grow",
    "head_start": "head",
    "load": "archive",
    "output_magnitude": "grow",
    "replace_head": "head",
    "save": "archive",
    "with_dropout": "head",
    "write_weights": "weights",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
