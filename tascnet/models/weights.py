"""Files of weights: read in any of the usual layouts, and written with metadata for later runs."""

import json
import pickle
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torchvision
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from tascnet.errors import WeightsError, first_line
from tascnet.run.files import write_whole

# The weights of the published papers, and of the common preprocessing (256, 224).
PUBLISHED = "IMAGENET1K_V1"
# Our own entry in the metadata of a file.
_METADATA = "tascnet"
_SHOWN_KEYS = 2
# torchvision's first names of DenseNet's layers: `norm.1` is `norm1` today.
_OLD_DENSENET = re.compile(r"(\.denselayer\d+\.(?:norm|relu|conv))\.([12])\.")

_READ_ERRORS = (
    SafetensorError,
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    AttributeError,
)


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict on the CPU, floating-point tensors as float32.

    Raises:
        WeightsError: the file is missing, unreadable, or holds more than tensors.
    """
    if not path.is_file():
        raise WeightsError(
            f"`weights={path}` is no file", "give `pretrained`, `random`, or a path that exists"
        )
    try:
        if path.suffix == ".safetensors":
            content = safetensors.torch.load_file(path)
        elif path.suffix in (".pth", ".pt"):
            content = torch.load(path, map_location="cpu", weights_only=True)
        else:
            raise ValueError("its name ends neither in .safetensors nor in .pth")
    except _READ_ERRORS as error:
        raise WeightsError(
            f"the weights {path} cannot be read ({_reason(error)})",
            "give a whole .safetensors file, or a .pth state dict that torch.load reads with weights_only",
        ) from error
    return _cleaned(content, path.name)


def published_state(name: str) -> dict[str, Tensor]:
    """The ImageNet weights of a network of torchvision, downloaded once.

    Raises:
        WeightsError: they could not be loaded.
    """
    published = torchvision.models.get_model_weights(name)[PUBLISHED]
    try:
        content = published.get_state_dict(progress=sys.stderr.isatty(), check_hash=True)
    except _READ_ERRORS as error:
        raise WeightsError(
            f"the pre-trained weights of {name} could not be loaded ({_reason(error)})",
            f"download {published.url} elsewhere and give the path of the file",
        ) from error
    return _cleaned(content, name)


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata that `write_weights` stored with the tensors; empty for other files.

    Raises:
        WeightsError: the file is unreadable.
    """
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return dict(json.loads((file.metadata() or {}).get(_METADATA, "{}")))
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise WeightsError(
            f"the weights {path} cannot be read ({_reason(error)})", "give a whole .safetensors file"
        ) from error


def write_weights(
    path: Path,
    module: nn.Module,
    keys: Mapping[str, str] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write a module's state dict as a `.safetensors` file, whole or not at all.

    Args:
        path: the file.
        module: the network.
        keys: the name in the file of each entry of the state dict; None or absent: the same.
        metadata: JSON content for `read_metadata`.
    """
    names = keys or {}
    state = {
        names.get(key, key): tensor.detach().cpu().contiguous().clone()
        for key, tensor in module.state_dict().items()
    }
    # One entry: the order of several would differ from run to run, and the file's digest with it.
    beside = {_METADATA: json.dumps(metadata, sort_keys=True)} if metadata else {}
    write_whole(path, lambda temporary: safetensors.torch.save_file(state, temporary, beside))


def fill(chain: nn.Sequential, keys: Mapping[str, str], state: dict[str, Tensor], name: str) -> None:
    """Load a state dict of the original layout into a chain, which may be on the meta device.

    Args:
        chain: changed in place.
        keys: the name in `state` of each entry of the chain's state dict; absent: the same.
        state: all of the chain's tensors; batch counters that it lacks are added.
        name: of the network, for the message.

    Raises:
        WeightsError: keys or shapes differ.
    """
    own = {keys.get(key, key): (key, tensor) for key, tensor in chain.state_dict().items()}
    for original in own:
        # Old files lack this counter, which nothing in eval mode reads.
        if original.endswith("num_batches_tracked"):
            state.setdefault(original, torch.zeros((), dtype=torch.int64))
    differences = {
        "missing": [original for original in own if original not in state],
        "unexpected": [original for original in state if original not in own],
        "of another shape": [
            f"{original} {tuple(state[original].shape)} for {tuple(tensor.shape)}"
            for original, (_, tensor) in own.items()
            if original in state and state[original].shape != tensor.shape
        ],
    }
    shown = []
    for word, found in differences.items():
        more = f" and {len(found) - _SHOWN_KEYS} more" if len(found) > _SHOWN_KEYS else ""
        if found:
            shown.append(f"{word}: {', '.join(found[:_SHOWN_KEYS])}{more}")
    if shown:
        raise not_those_of(name, "; ".join(shown))
    chain.load_state_dict({key: state[original] for original, (key, _) in own.items()}, assign=True)


def not_those_of(name: str, why: str) -> WeightsError:
    """Weights that belong to another network."""
    return WeightsError(
        f"the weights are not those of {name} ({why})", "check that network and weights belong together"
    )


def _cleaned(content: Any, name: str) -> dict[str, Tensor]:
    """The tensors of a state dict, also of one inside a training checkpoint."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise WeightsError(f"{name} is no state dict", "give a file that holds names and tensors alone")
    # Data-parallel training puts a prefix before each name.
    return {
        _OLD_DENSENET.sub(r"\1\2.", key.removeprefix("module.")): (
            tensor.float() if tensor.is_floating_point() else tensor
        )
        for key, tensor in content.items()
    }


def _reason(error: BaseException) -> str:
    return first_line(error).rstrip(".")
