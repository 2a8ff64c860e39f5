"""Chains and their AutoTune spaces with small widths."""

from functools import lru_cache

import torch

from tascnet.models.build import build_chain
from tascnet.models.head import HeadSpec, replace_head
from tascnet.options import Autotune
from tascnet.tuning import Space
from tascnet.tuning.autotune import discover_autotune
from tests.models.networks import shaken
from tests.models.toys import EXAMPLE, TOYS

CLASSES = 3
# Backbone or toy, side of the images, dense layers before the classifier.
CASES = [
    ("digits_cnn", 8, "replace"),
    ("resnet20", 32, "replace"),
    ("resnet18", 64, "replace"),
    ("residual", 8, "replace"),
    ("dense", 8, "replace"),
    ("depthwise", 8, "replace"),
    ("plain", 8, "keep"),
    ("plain", 8, "replace"),
]
# Widths of their own: small ones, and none of them a backbone's.
SMALL = {
    "filters": (10, 20, 30),
    "neurons": (10, 20),
    "dropouts": (0.0, 0.3, 0.9),
    "hidden_layers": (1, 2, 3),
}


@lru_cache(maxsize=1)
def backbone(name):
    chain = TOYS[name]() if name in TOYS else build_chain(name, channels=1 if name == "digits_cnn" else 3)
    return shaken(replace_head(chain, HeadSpec(), CLASSES, seed=0))


def options(**changes):
    return Autotune(**{**SMALL, **changes})


def prepare(name, side, max_units=None, **changes):
    chain = backbone(name)
    example = torch.zeros(1, 1 if name == "digits_cnn" else 3, side, side)
    return (
        chain,
        example,
        Space(discover_autotune(chain, example, options(**changes), max_units), nested=False),
    )


def toy(name, **changes):
    chain = TOYS[name]()
    return chain, Space(discover_autotune(chain, EXAMPLE, options(**changes)), nested=False)
