"""Files of weights: read in any of the usual layouts, and written with metadata for later runs."""

import hashlib
import json
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torchvision
from safetensors import safe_open
from torch import Tensor, nn

from tascnet.errors import WeightsError, first_line, printable
from tascnet.models.tensors import READ_ERRORS, check_pickled, check_safetensors, not_finite, unfit
from tascnet.run.console import log
from tascnet.run.files import check_regular, write_whole

# The weights of the published papers, and of the common preprocessing (256, 224).
PUBLISHED = "IMAGENET1K_V1"
# Our own entry in the metadata of a file, and the key in it of a digest of all else in the file.
_METADATA, _DIGEST = "tascnet", "digest"
_SHOWN_KEYS = 2
# Tensors of one file may share memory, as tied weights do; they have at most so many times the file's bytes.
_MOST_SHARED = 4
# torchvision's first names of DenseNet's layers: `norm.1` is `norm1` today.
_OLD_DENSENET = re.compile(r"(\.denselayer\d+\.(?:norm|relu|conv))\.([12])\.")
# How torch.load names what it refuses to call.
_FORBIDDEN = re.compile(r"GLOBAL ([\w.]+)")


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict on the CPU, floating-point tensors as float32 and finite.

    Raises:
        WeightsError: the file is missing, unreadable, damaged, or holds more than tensors.
    """
    if path.suffix == ".safetensors":
        content: Any = _read_safetensors(path)
    elif path.suffix in (".pth", ".pt"):
        content = _read_pickled(path)
    else:
        raise _unreadable(path, "its name ends neither in .safetensors nor in .pth")
    return _cleaned(content, path)


def published_state(name: str) -> dict[str, Tensor]:
    """The ImageNet weights of a network of torchvision, downloaded once.

    Raises:
        WeightsError: they could not be loaded.
    """
    url = published_url(name)
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    # torchvision names a file by the first digits of its SHA-256.
    digest = path.stem.rpartition("-")[2]
    is_there = path.exists()
    try:
        if is_there:
            check_regular(path)
        if not is_there or not _sha256(path).startswith(digest):
            log.info("%s from %s", f"{path} is damaged: download it again" if is_there else "download", url)
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), digest, progress=sys.stderr.isatty())
    except (OSError, RuntimeError, ValueError, HTTPException) as error:
        why, hint = _reason(error), f"download {url} elsewhere and give the path of the file"
        if is_there:
            raise WeightsError(
                f"{path} is damaged or unreadable, and could not be replaced ({why})", f"delete it, or {hint}"
            ) from error
        raise WeightsError(f"the pre-trained weights of {name} could not be loaded ({why})", hint) from error
    return read_state(path)


def published_url(name: str) -> str:
    """Where torchvision's weights of a network are published."""
    return str(torchvision.models.get_model_weights(name)[PUBLISHED].url)


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata that `write_weights` stored with the tensors; empty for other files.

    Raises:
        WeightsError: the file is unreadable.
    """
    if path.suffix != ".safetensors":
        _check(check_regular, path)
        return {}
    return {key: value for key, value in _entry(path).items() if key != _DIGEST}


def is_whole(path: Path) -> bool:
    """Whether a file of `write_weights` is there and as it was written; if it is damaged, that is logged."""
    try:
        if path.exists():
            read_state(path)
        return path.exists()
    except WeightsError as error:
        log.warning("%s; they are made again", error.message)
        return False


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
    # One entry: the order of several would differ from run to run.
    entry = {**(metadata or {}), _DIGEST: _digest(state, metadata or {})}
    beside = {_METADATA: json.dumps(entry, sort_keys=True)}
    write_whole(path, lambda temporary: safetensors.torch.save_file(state, temporary, beside))


def fill(
    chain: nn.Sequential, keys: Mapping[str, str], state: dict[str, Tensor], name: str, weights: str | Path
) -> None:
    """Load a state dict of the original layout into a chain, which may be on the meta device.

    Args:
        chain: changed in place.
        keys: the name in `state` of each entry of the chain's state dict; absent: the same.
        state: all of the chain's tensors; batch counters that it lacks are added.
        name: of the network, for the message.
        weights: which, for the message.

    Raises:
        WeightsError: keys, shapes or types differ.
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
        "of another type": [
            f"{original} {state[original].dtype} for {tensor.dtype}"
            for original, (_, tensor) in own.items()
            if original in state and tensor.is_floating_point() and not state[original].is_floating_point()
        ],
    }
    shown = []
    for word, found in differences.items():
        more = f" and {len(found) - _SHOWN_KEYS} more" if len(found) > _SHOWN_KEYS else ""
        if found:
            shown.append(f"{word}: {', '.join(printable(text, 200) for text in found[:_SHOWN_KEYS])}{more}")
    if shown:
        raise not_those_of(name, weights, "; ".join(shown))
    # Some files keep their counters as floats.
    filled = {
        key: state[original] if tensor.is_floating_point() else state[original].to(tensor.dtype)
        for original, (key, tensor) in own.items()
    }
    chain.load_state_dict(filled, assign=True)


def not_those_of(name: str, weights: str | Path, why: str) -> WeightsError:
    """Weights that belong to another network."""
    return WeightsError(
        f"the weights {weights} are not those of {name} ({why})",
        "check that network and weights belong together",
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    entry = _entry(path)
    try:
        state = safetensors.torch.load_file(path)
    except READ_ERRORS as error:
        raise _unreadable(path, _reason(error)) from error
    digest = entry.pop(_DIGEST, None)
    if digest is not None and digest != _digest(state, entry):
        raise WeightsError(
            f"the weights {path} were changed or damaged after they were written",
            "take another copy, or make them again",
        )
    return state


def _entry(path: Path) -> dict[str, Any]:
    """Our entry in the metadata of a `.safetensors` file, which may be empty."""
    _check(check_safetensors, path)
    try:
        with safe_open(path, framework="pt") as file:
            return dict(json.loads((file.metadata() or {}).get(_METADATA, "{}")))
    # Metadata may be nested more deeply than Python's parser goes.
    except (*READ_ERRORS, RecursionError) as error:
        raise _unreadable(path, _reason(error)) from error


def _read_pickled(path: Path) -> Any:
    _check(check_pickled, path)
    try:
        # torch warns of kinds of tensors that are refused below.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    # There is no list of what a damaged file raises.
    except Exception as error:
        # Not torch's own words, which recommend to run the file's code.
        forbidden = _FORBIDDEN.search(str(error))
        holds = f"it holds {forbidden[1][:80]}, which is no tensor" if forbidden else None
        raise _unreadable(path, holds or "it is damaged, or no file of torch.save") from error


def _check(check: Callable[[Path], None], path: Path) -> None:
    try:
        check(path)
    except FileNotFoundError as error:
        raise WeightsError(
            f"`weights={path}` is no file", "give `pretrained`, `random`, or a path that exists"
        ) from error
    except (OSError, ValueError) as error:
        raise _unreadable(path, _reason(error)) from error


def _unreadable(path: Path, why: str) -> WeightsError:
    return WeightsError(
        f"the weights {path} cannot be read ({why})",
        "give a whole .safetensors file, or a .pth file of names and tensors alone",
    )


def _cleaned(content: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, also of one inside a training checkpoint."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise WeightsError(f"{path} is no state dict", "give a file that holds names and tensors alone")
    for key, tensor in content.items():
        if word := unfit(tensor):
            raise _unreadable(path, f"{printable(key, 200)} is {word}, expected ordinary tensors")
    # A tensor may repeat its values, and would take their memory when it is read.
    if sum(tensor.nbytes for tensor in content.values()) > _MOST_SHARED * path.stat().st_size:
        raise _unreadable(path, "its tensors are larger than the file")
    cleaned: dict[str, Tensor] = {}
    for key, tensor in content.items():
        # Data-parallel training puts a prefix before each name.
        name = _OLD_DENSENET.sub(r"\1\2.", key.removeprefix("module."))
        if name in cleaned:
            raise _unreadable(path, f"it holds {printable(name, 200)} twice")
        cleaned[name] = tensor.float() if tensor.is_floating_point() else tensor
    if (bad := not_finite(cleaned)) is not None:
        raise WeightsError(
            f"the weights {path} hold numbers that are not finite, in {printable(bad, 200)}",
            "give those of a training that did not diverge",
        )
    return cleaned


def _digest(state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """A digest of all content of a file."""
    hasher = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(state):
        tensor = state[name]
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()[:32]


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(error: BaseException) -> str:
    return first_line(error).rstrip(".")
