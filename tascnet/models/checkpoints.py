"""Files of torch.save: read without making any object that they name, and the tensors in what they hold."""

import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.serialization import safe_globals

from tascnet.errors import printable

# How torch.load names what it refuses to make.
_FORBIDDEN = re.compile(r"GLOBAL ([\w.]+)")
# Nested mappings may repeat each other, and would have names without end.
_DEEPEST, _LONGEST_NAME, _MOST_NAMES, _MOST_ENTRIES = 8, 1000, 100_000, 1_000_000


class _Placeholder:
    """Stands for an object beside the weights; the object itself is not made, nor its class imported."""

    def __new__(cls, *_: object) -> Self:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


# What training scripts keep beside weights.
_BESIDE = (
    *("argparse.Namespace", "types.SimpleNamespace", "datetime.datetime", "datetime.timedelta"),
    *(
        f"{module}.{name}"
        for module in ("pathlib", "pathlib._local")
        for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
    ),
    *("numpy.dtype", "numpy.ndarray"),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
)
# Dictionaries with attributes.
_MAPPINGS = (
    *("yacs.config.CfgNode", "easydict.EasyDict"),
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)
_ALLOWED: list[Any] = [
    *((_Placeholder, name) for name in _BESIDE),
    *((OrderedDict, name) for name in _MAPPINGS),
]


def read_pickled(path: Path) -> Any:
    """What a file of torch.save holds; placeholders for some objects that are no tensors.

    Args:
        path: of a file that `check_pickled` has passed.

    Raises:
        ValueError: it is damaged, or holds other objects.
    """
    try:
        # torch warns of kinds of tensors that are no weights.
        with warnings.catch_warnings(), safe_globals(_ALLOWED), open(path, "rb") as file:
            warnings.simplefilter("ignore")
            # Not the path: torch would go by its ending.
            return torch.load(file, map_location="cpu", weights_only=True)
    # There is no list of what a damaged file raises.
    except Exception as error:
        # Not torch's own words, which recommend to run the file's code.
        if forbidden := _FORBIDDEN.search(str(error)):
            raise ValueError(f"it holds {forbidden[1][:80]}, which only running code could read") from error
        raise ValueError("it is damaged, or no file of torch.save") from error


def flattened(content: Any) -> dict[str, Tensor]:
    """All tensors in nested mappings, by their dotted names: `state_dict.conv1.weight`.

    Raises:
        ValueError: there are too many entries, a name is too long, or it occurs twice.
    """
    found: dict[str, Tensor] = {}
    entries = 0

    def collect(mapping: Mapping[Any, Any], prefix: str, depth: int) -> None:
        nonlocal entries
        for key, value in mapping.items():
            entries += 1
            if entries > _MOST_ENTRIES or len(found) > _MOST_NAMES:
                raise ValueError(f"it holds more than {_MOST_NAMES} names")
            if not isinstance(key, str | int) or not isinstance(value, Tensor | Mapping):
                continue
            name = f"{prefix}{str(key)[: _LONGEST_NAME + 1]}"
            if len(name) > _LONGEST_NAME:
                raise ValueError(f"it holds a name of more than {_LONGEST_NAME} characters")
            if isinstance(value, Mapping):
                if depth < _DEEPEST:
                    collect(value, f"{name}.", depth + 1)
            elif name in found:
                raise ValueError(f"it holds {printable(name, 200)} twice")
            else:
                found[name] = value

    if isinstance(content, Mapping):
        collect(content, "", 1)
    return found
