"""Saved models: weights in safetensors, the architecture as checked JSON; no pickle, no code."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from tascnet.errors import ArchiveError, ConfigError, first_line
from tascnet.models.chains.custom import call_factory
from tascnet.models.describe import construct, describe
from tascnet.models.info import ModelInfo, with_info
from tascnet.models.text import TextPreprocessing
from tascnet.run.files import digest_file, read_json, write_json, write_whole

_WEIGHTS = "model.safetensors"
_ARCHITECTURE = "architecture.json"
_FORMAT = "tascnet model"
_VERSION = 1
# Of architecture.json; the largest backbone takes 200 kB, the largest vocabulary some 4 MB.
_LARGEST_TEXT = 1 << 24

_STORABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)
_FLOATS = ("F16", "BF16", "F32", "F64")
_HINT = "save the model again, or copy its folder again"
_OTHER_FOLDER = f"give the folder that holds {_ARCHITECTURE} and {_WEIGHTS}"


def save(network: nn.Sequential, folder: str | Path, info: ModelInfo | None = None) -> None:
    """Write a network to a folder, from which `load` reads it back to the last bit.

    Args:
        network: a chain. Blocks of classes outside torch.nn and tascnet need `factory=` to load.
        folder: made if missing; `model.safetensors` and `architecture.json` in it are replaced.
        info: what is stored beside it; None: its attribute `info`.

    Raises:
        ArchiveError: a layer has arguments or weights that cannot be stored, or the network has no
            `info`.
    """
    if isinstance(network, str | Path):  # TEMPORARY: until all callers have the new order
        network, folder = folder, network  # type: ignore
    folder, info = Path(folder), info or getattr(network, "info", None)
    if info is None:
        raise ArchiveError(
            "the network does not say which inputs and classes it has (`info`)",
            "give a ModelInfo, or take the network from tascnet.backbone",
        )
    tree = describe(network)
    state = network.state_dict()
    unknown = [key for key, tensor in state.items() if tensor.dtype not in _STORABLE]
    if unknown:
        raise ArchiveError(f"{unknown[0]} is a {state[unknown[0]].dtype}, expected float or int64")
    # safetensors takes no channels_last tensors and none that share memory.
    packed = {key: _packed(tensor) for key, tensor in state.items()}
    write_whole(folder / _WEIGHTS, lambda path: safetensors.torch.save_file(packed, path))
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "info": info.to_dict(),
        "weights_digest": digest_file(folder / _WEIGHTS),
        "channels_last": [key for key, tensor in state.items() if _is_channels_last(tensor)],
        "chain": tree,
    }
    write_json(folder / _ARCHITECTURE, content)


def load(
    folder: str | Path,
    *,
    factory: Callable[..., nn.Sequential] | None = None,
    device: str | torch.device = "cpu",
) -> nn.Sequential:
    """A saved network, in eval mode.

    Args:
        folder: what `save` wrote; it may come from a stranger, and cannot run code.
        factory: `factory(num_classes) -> nn.Sequential`, where blocks are of the user's own classes;
            layers inside them take the widths of the saved network.
        device: where the weights go.

    Returns:
        The network, with the attributes `preprocessing`, `class_names`, `info` and `factory`.

    Raises:
        ArchiveError: a file is missing, truncated, corrupt or not one of ours.
        ConfigError: the factory fails.
    """
    folder = Path(folder)
    content = _read_architecture(folder / _ARCHITECTURE)
    info: ModelInfo = content["info"]
    original = call_factory(factory, len(info.class_names) or 1) if factory else None
    # On meta: a wrong file must not take memory.
    with torch.device("meta"):
        model = construct(content.get("chain"), original)
    if not isinstance(model, nn.Sequential):
        raise ArchiveError(f"the saved model is a {type(model).__name__}, expected a chain", _HINT)
    _check_input(model, info)
    state = _read_weights(folder / _WEIGHTS, model, content["weights_digest"])
    channels_last = frozenset(content["channels_last"])
    restored = {key: _restored(tensor, key in channels_last) for key, tensor in state.items()}
    model.load_state_dict(restored, assign=True)
    model.to(device).eval()
    return with_info(model, info, factory=factory)


def _read_architecture(path: Path) -> dict[str, Any]:
    """The content of the file, its own fields checked and `info` made; the tree is as it stands there."""
    if not path.is_file():
        raise ArchiveError(f"{str(path.parent)!r} is no saved model: it has no {path.name}", _OTHER_FOLDER)
    if path.stat().st_size > _LARGEST_TEXT:
        raise ArchiveError(f"{path} is larger than any architecture", _HINT)
    try:
        content = read_json(path)
    except (ValueError, OSError, RecursionError) as error:
        raise ArchiveError(f"{path} cannot be read ({first_line(error)})", _HINT) from error
    if not isinstance(content, Mapping) or content.get("format") != _FORMAT:
        raise ArchiveError(f"{path} does not describe a model of tascnet", _OTHER_FOLDER)
    if content.get("version") != _VERSION:
        raise ArchiveError(
            f"{path} has version {str(content.get('version'))[:40]}, expected {_VERSION}",
            "use the tascnet that wrote it",
        )
    keys = content.get("channels_last")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ArchiveError(f"{path} has no list channels_last", _HINT)
    if not isinstance(content.get("weights_digest"), str):
        raise ArchiveError(f"{path} has no weights_digest", _HINT)
    try:
        return {**content, "info": ModelInfo.from_dict(content.get("info"))}
    except ConfigError as error:
        raise ArchiveError(f"{path} is wrong ({error})", _HINT) from error


def _check_input(model: nn.Module, info: ModelInfo) -> None:
    """A network of texts begins with a vector for each word of its vocabulary, one of images does not."""
    first = next(module for module in model.modules() if not module._modules)
    reads_texts, is_text = isinstance(first, nn.Embedding), isinstance(info.preprocessing, TextPreprocessing)
    if reads_texts != is_text:
        kind, other = ("texts", "images") if reads_texts else ("images", "texts")
        raise ArchiveError(f"the saved model takes {kind}, but its preprocessing gives {other}", _HINT)
    if not isinstance(first, nn.Embedding) or not isinstance(info.preprocessing, TextPreprocessing):
        return
    words = len(info.preprocessing.vocabulary)
    if words != first.num_embeddings:
        raise ArchiveError(
            f"the vocabulary of the saved model has {words} words, but its network has vectors for "
            f"{first.num_embeddings}",
            _HINT,
        )


def _read_weights(path: Path, model: nn.Module, digest: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise ArchiveError(f"{str(path.parent)!r} has no {path.name}", _HINT)
    try:
        _check_header(path, model.state_dict())
        if digest_file(path) != digest:
            raise ArchiveError(f"{path} is corrupt, or not the file that belongs to {_ARCHITECTURE}", _HINT)
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ArchiveError(f"{path} cannot be read ({first_line(error)})", _HINT) from error


def _check_header(path: Path, expected: Mapping[str, Tensor]) -> None:
    """Compare names, shapes and types with the header; opening the file checks its length."""
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


def _packed(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", memory_format=torch.contiguous_format, copy=True).contiguous()


def _is_channels_last(tensor: Tensor) -> bool:
    """By strides alone: torch calls 1x1 kernels contiguous in both formats, although their strides differ."""
    if tensor.dim() != 4:
        return False
    _, channels, height, width = tensor.shape
    strides = (height * width * channels, 1, width * channels, channels)
    return tensor.stride() == strides and strides != (channels * height * width, height * width, width, 1)


def _restored(tensor: Tensor, channels_last: bool) -> Tensor:
    """A copy in memory of its own: the file's places are not aligned, and kernels round by alignment."""
    packed = not channels_last or tensor.dim() != 4
    return tensor.clone(memory_format=torch.contiguous_format if packed else torch.channels_last)
