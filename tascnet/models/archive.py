"""Saved models: weights in safetensors, the architecture as checked JSON; no pickle, no code."""

import hashlib
import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn

from tascnet.errors import ArchiveError, ConfigError, SurgeryError, first_line
from tascnet.models.describe import MOST_LAYERS, check_size, check_tensors, construct, describe
from tascnet.models.device import usable_device
from tascnet.models.head import classifier_of
from tascnet.models.info import ModelInfo, info_of, with_info
from tascnet.models.tensors import READ_ERRORS, check_safetensors, unfit
from tascnet.models.text import TextPreprocessing
from tascnet.run.files import check_regular, digest_file, parse_json, unwritable, write_json, write_whole

_WEIGHTS = "model.safetensors"
_ARCHITECTURE = "architecture.json"
_FORMAT = "tascnet model"
_VERSION = 3
# Of architecture.json; the largest backbone takes 200 kB, the largest vocabulary some 8 MB.
_LARGEST_TEXT = 1 << 24
# Braces and brackets in it: at most two and four for each layer or step, the others in names and words.
_MOST_OBJECTS, _MOST_LISTS = 2 * MOST_LAYERS + 1000, 4 * MOST_LAYERS + 1000

_STORABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)
_FLOATS = ("F16", "BF16", "F32", "F64")
_HINT = "save the model again, or copy its folder again"
_OTHER_FOLDER = f"give the folder that holds {_ARCHITECTURE} and {_WEIGHTS}"


def save(network: nn.Sequential, folder: str | Path, info: ModelInfo | None = None) -> None:
    """Write a network to a folder, from which `load` restores it to the last bit.

    Args:
        network: a chain.
        folder: made if missing; `model.safetensors` and `architecture.json` in it are replaced.
        info: stored with the network; None: its attribute `info`.

    Raises:
        ArchiveError: a layer is of a class, or has arguments or weights, that cannot be stored, the network
            is too large, or it is no classifier of what `info` says.
        ConfigError: the network has no `info`, or nothing can be written there.
    """
    folder, info = Path(folder).expanduser(), info or info_of(network)
    if (reason := unwritable(folder)) is not None:
        raise ConfigError(f"{folder} {reason}", "give another folder")
    tree = describe(network)
    check_tensors(network, _made(tree, info))
    state = network.state_dict()
    for key, tensor in state.items():
        if tensor.dtype not in _STORABLE or unfit(tensor):
            kind = unfit(tensor) or f"a {tensor.dtype}"
            raise ArchiveError(f"{key} is {kind}, expected float or int64")
    # safetensors takes no channels_last tensors and none that share memory.
    packed = {
        key: tensor.detach().to("cpu", memory_format=torch.contiguous_format, copy=True).contiguous()
        for key, tensor in state.items()
    }
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "info": info.to_dict(),
        "weights_digest": "",
        "channels_last": [key for key, tensor in state.items() if _is_channels_last(tensor)],
        "chain": tree,
    }
    # Before anything is written.
    _check_bounds(json.dumps(content, indent=2).encode(), "this network's description")
    write_whole(folder / _WEIGHTS, lambda path: safetensors.torch.save_file(packed, path))
    content["weights_digest"] = digest_file(folder / _WEIGHTS)
    write_json(folder / _ARCHITECTURE, {"digest": _digest(content), **content})


def load(folder: str | Path, *, device: str | torch.device = "cpu") -> nn.Sequential:
    """A saved network, in eval mode, with the attributes `preprocessing`, `class_names` and `info`.

    Args:
        folder: what `save` wrote; it may come from a stranger, and cannot run code.
        device: of the weights.

    Raises:
        ArchiveError: a file is missing, truncated, corrupt or not one of ours.
        ConfigError: the device cannot be used here.
    """
    folder, where = Path(folder).expanduser(), usable_device(str(device))
    content = _read_architecture(folder / _ARCHITECTURE)
    info: ModelInfo = content["info"]
    model = _made(content.get("chain"), info)
    state = _read_weights(folder / _WEIGHTS, model.state_dict(), content["weights_digest"])
    channels_last = frozenset(content["channels_last"])
    for key, tensor in state.items():
        is_last = key in channels_last and tensor.dim() == 4
        memory_format = torch.channels_last if is_last else torch.contiguous_format
        # The file's own tensors are not aligned in memory, and kernels round by alignment.
        state[key] = tensor.clone(memory_format=memory_format)
    model.load_state_dict(state, assign=True)
    model.to(where)
    return with_info(model, info)


def _made(tree: Any, info: ModelInfo) -> nn.Sequential:
    """The network of a tree on the meta device, so that a wrong file takes no memory, in eval mode.

    Raises:
        ArchiveError: it is no classifier of the inputs that its preprocessing gives.
    """
    with torch.device("meta"):
        model = construct(tree)
    if not isinstance(model, nn.Sequential):
        raise ArchiveError(f"the saved model is a {type(model).__name__}, expected a chain", _HINT)
    check_size(model)
    _check_input(model, info)
    _check_run(model.float().eval(), info)
    return model


def _read_architecture(path: Path) -> dict[str, Any]:
    """The content of the file with `info` as a `ModelInfo`; the tree of layers is not checked yet."""
    try:
        check_regular(path)
        with open(path, "rb") as file:
            text = file.read(_LARGEST_TEXT + 1)
        _check_bounds(text, str(path))
        content = parse_json(text)
        digest = content.pop("digest", None) if isinstance(content, dict) else None
        is_whole = digest == _digest(content)
    except FileNotFoundError as error:
        raise ArchiveError(
            f"{str(path.parent)!r} is no saved model: it has no {path.name}", _OTHER_FOLDER
        ) from error
    except (ValueError, OSError, RecursionError) as error:
        raise ArchiveError(f"{path} cannot be read ({first_line(error)})", _HINT) from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ArchiveError(f"{path} does not describe a model of tascnet", _OTHER_FOLDER)
    if content.get("version") != _VERSION:
        raise ArchiveError(
            f"{path} has version {reprlib.repr(content.get('version'))}, expected {_VERSION}",
            "use the tascnet that wrote it",
        )
    if not is_whole:
        raise ArchiveError(f"{path} was changed or damaged after it was saved", _HINT)
    keys = content.get("channels_last")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ArchiveError(f"{path} has no list channels_last", _HINT)
    if not isinstance(content.get("weights_digest"), str):
        raise ArchiveError(f"{path} has no weights_digest", _HINT)
    try:
        return {**content, "info": ModelInfo.from_dict(content.get("info"))}
    except (ConfigError, RecursionError) as error:
        why = first_line(error) if isinstance(error, ConfigError) else "it is nested too deeply"
        raise ArchiveError(f"{path} is wrong ({why})", _HINT) from error


def _check_bounds(text: bytes, name: str) -> None:
    """Raise before the text of an architecture, parsed, takes memory and time."""
    if len(text) > _LARGEST_TEXT:
        raise ArchiveError(f"{name} takes more than {_LARGEST_TEXT} bytes")
    if text.count(b"{") > _MOST_OBJECTS or text.count(b"[") > _MOST_LISTS:
        raise ArchiveError(f"{name} holds more than {MOST_LAYERS} layers")


def _digest(content: Any) -> str:
    """A digest of JSON content, in the order of its keys, for that of layers matters."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _check_input(model: nn.Module, info: ModelInfo) -> None:
    """A network for texts begins with a vector for each word of its vocabulary, one for images does not."""
    first = next(module for module in model.modules() if not module._modules)
    vectors = first.num_embeddings if isinstance(first, nn.Embedding) else None
    words = len(info.preprocessing.vocabulary) if isinstance(info.preprocessing, TextPreprocessing) else None
    if (words is None) != (vectors is None):
        kind, other = ("texts", "images") if words is None else ("images", "texts")
        raise ArchiveError(f"the saved model takes {kind}, but its preprocessing gives {other}", _HINT)
    if words != vectors:
        raise ArchiveError(
            f"the vocabulary of the saved model has {words} words, but its network has vectors for {vectors}",
            _HINT,
        )


def _check_run(model: nn.Sequential, info: ModelInfo) -> None:
    """Raise unless a network on the meta device gives one row of outputs, one for each class."""
    is_text = isinstance(info.preprocessing, TextPreprocessing)
    dtype = torch.int64 if is_text else torch.float32
    x = torch.empty(info.preprocessing.example_shape, dtype=dtype, device="meta")
    try:
        classes = classifier_of(model).out_features
    except SurgeryError as error:
        raise ArchiveError(error.message, _HINT) from error
    for name, block in model._modules.items():
        assert block is not None
        try:
            with torch.no_grad():
                x = block(x)
        # Whatever a stranger's layers do to one another.
        except Exception as error:
            raise ArchiveError(
                f"the block {name!r} of the saved model does not run ({first_line(error)})", _HINT
            ) from error
    if x.shape != (1, classes):
        raise ArchiveError(
            f"the saved model gives {tuple(x.shape)} for one sample, expected {(1, classes)}", _HINT
        )


def _read_weights(path: Path, expected: Mapping[str, Tensor], digest: str) -> dict[str, Tensor]:
    """The tensors of the file, if its names, shapes and types are those expected."""
    try:
        check_safetensors(path)
        # Opening the file checks its length.
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            if names != set(expected):
                name = min(names ^ set(expected))
                word = "lacks" if name in expected else "has the unexpected"
                raise ArchiveError(f"{path} {word} {name[:200]!r}", _HINT)
            for key, tensor in expected.items():
                entry = file.get_slice(key)
                shape, kind = tuple(entry.get_shape()), entry.get_dtype()
                wanted = _FLOATS if tensor.is_floating_point() else ("I64",)
                if shape != tuple(tensor.shape) or kind not in wanted:
                    raise ArchiveError(
                        f"{path} holds {key!r} as {kind} {shape}, "
                        f"expected {'/'.join(wanted)} {tuple(tensor.shape)}",
                        _HINT,
                    )
        if digest_file(path) != digest:
            raise ArchiveError(f"{path} is corrupt, or not the file that belongs to {_ARCHITECTURE}", _HINT)
        return safetensors.torch.load_file(path)
    except FileNotFoundError as error:
        raise ArchiveError(f"{str(path.parent)!r} has no {path.name}", _HINT) from error
    except READ_ERRORS as error:
        raise ArchiveError(f"{path} cannot be read ({first_line(error)})", _HINT) from error


def _is_channels_last(tensor: Tensor) -> bool:
    """By strides alone: torch calls 1x1 kernels contiguous in both formats, although their strides differ."""
    if tensor.dim() != 4:
        return False
    _, channels, height, width = tensor.shape
    strides = (height * width * channels, 1, width * channels, channels)
    return tensor.stride() == strides and strides != (channels * height * width, height * width, width, 1)
