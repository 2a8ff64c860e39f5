"""Saved models: weights in safetensors, the architecture as checked JSON; no pickle, no code."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from tascnet.errors import ArchiveError, ConfigError
from tascnet.models.chains.custom import call_factory
from tascnet.models.describe import construct, describe
from tascnet.models.info import ModelInfo
from tascnet.models.text import TextPreprocessing
from tascnet.run.files import digest_file, read_json, write_json, write_whole

_WEIGHTS = "model.safetensors"
_ARCHITECTURE = "architecture.json"
_FORMAT = "tascnet model"
_VERSION = 1
# Of architecture.json; the largest backbone takes 200 kB, the largest vocabulary some 4 MB.
_LARGEST_TEXT = 1 << 24

_FLOATS = ("F16", "BF16", "F32", "F64")
_HINT = "save the model again, or copy its folder again"
_OTHER_FOLDER = f"give the folder that holds {_ARCHITECTURE} and {_WEIGHTS}"


@dataclass(frozen=True, kw_only=True)
class _Architecture:
    tree: Any
    channels_last: frozenset[str]
    digest: str
    info: ModelInfo


def save(folder: Path, model: nn.Sequential, info: ModelInfo) -> None:
    """Write a network to a folder, from which `load` gives it back to the last bit.

    Args:
        folder: made if missing; `model.safetensors` and `architecture.json` in it are replaced.
        model: a chain. Layers of classes outside torch.nn and tascnet need `factory=` to load.
        info: what is stored beside it.

    Raises:
        ArchiveError: a layer has arguments or weights that cannot be stored.
    """
    tree = describe(model)
    state = model.state_dict()
    unknown = [key for key, tensor in state.items() if not _is_storable(tensor)]
    if unknown:
        raise ArchiveError(f"{unknown[0]} is a {state[unknown[0]].dtype}, but float or int64 is expected")
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
        The network, with the attributes `preprocessing`, `class_names` and `info`.

    Raises:
        ArchiveError: a file is missing, truncated, corrupt or not one of ours.
        ConfigError: the factory fails.
    """
    folder = Path(folder)
    architecture = _read_architecture(folder / _ARCHITECTURE)
    model = _construct(architecture, factory)
    state = _read_weights(folder / _WEIGHTS, model, architecture)
    model.load_state_dict(state, assign=True)
    model.to(device).eval()
    for name in ("preprocessing", "class_names"):
        setattr(model, name, getattr(architecture.info, name))
    model.info = architecture.info  # type: ignore[assignment]
    return model


def _read_architecture(path: Path) -> _Architecture:
    if not path.is_file():
        raise ArchiveError(
            f"{str(path.parent)!r} is no saved model, for it has no {path.name}", _OTHER_FOLDER
        )
    if path.stat().st_size > _LARGEST_TEXT:
        raise ArchiveError(f"{path} is larger than any architecture", _HINT)
    try:
        content = read_json(path)
    except (ValueError, OSError, RecursionError) as error:
        raise ArchiveError(f"{path} cannot be read ({_first_line(error)})", _HINT) from error
    if not isinstance(content, Mapping) or content.get("format") != _FORMAT:
        raise ArchiveError(f"{path} does not describe a model of tascnet", _OTHER_FOLDER)
    if content.get("version") != _VERSION:
        raise ArchiveError(
            f"{path} has version {str(content.get('version'))[:40]}, but {_VERSION} is expected",
            "use the tascnet that wrote it",
        )
    return _parsed(content, path)


def _parsed(content: Mapping[str, Any], path: Path) -> _Architecture:
    channels_last, digest = content.get("channels_last"), content.get("weights_digest")
    if not isinstance(channels_last, list) or not all(isinstance(key, str) for key in channels_last):
        raise ArchiveError(f"{path} has no list channels_last", _HINT)
    if not isinstance(digest, str):
        raise ArchiveError(f"{path} has no weights_digest", _HINT)
    try:
        info = ModelInfo.from_dict(content.get("info"))
    except ConfigError as error:
        raise ArchiveError(f"{path} is wrong ({error})", _HINT) from error
    tree = content.get("chain")
    return _Architecture(tree=tree, channels_last=frozenset(channels_last), digest=digest, info=info)


def _construct(architecture: _Architecture, factory: Callable[..., nn.Sequential] | None) -> nn.Sequential:
    original = call_factory(factory, len(architecture.info.class_names)) if factory else None
    # Shapes alone: a wrong file must not take memory.
    with torch.device("meta"):
        model = construct(architecture.tree, original)
    if not isinstance(model, nn.Sequential):
        raise ArchiveError(f"the saved model is a {type(model).__name__}, but a chain is expected", _HINT)
    _check_input(model, architecture.info)
    return model


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


def _read_weights(path: Path, model: nn.Module, architecture: _Architecture) -> dict[str, Tensor]:
    if not path.is_file():
        raise ArchiveError(f"{str(path.parent)!r} has no {path.name}", _HINT)
    try:
        _check_header(path, model.state_dict())
        if digest_file(path) != architecture.digest:
            raise ArchiveError(f"{path} is corrupt, or not the file that belongs to {_ARCHITECTURE}", _HINT)
        state = safetensors.torch.load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ArchiveError(f"{path} cannot be read ({_first_line(error)})", _HINT) from error
    return {key: _restored(tensor, key in architecture.channels_last) for key, tensor in state.items()}


def _check_header(path: Path, expected: Mapping[str, Tensor]) -> None:
    """Compare names, shapes and types with the header; opening also compares its sizes with the file's."""
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
                    f"but {'/'.join(wanted)} {tuple(tensor.shape)} is expected",
                    _HINT,
                )


def _is_storable(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)


def _packed(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", memory_format=torch.contiguous_format, copy=True).contiguous()


def _is_channels_last(tensor: Tensor) -> bool:
    """By strides alone: for 1x1 kernels torch calls both formats contiguous, but tells them apart."""
    if tensor.dim() != 4:
        return False
    _, channels, height, width = tensor.shape
    strides = (height * width * channels, 1, width * channels, channels)
    return tensor.stride() == strides and strides != (channels * height * width, height * width, width, 1)


def _restored(tensor: Tensor, channels_last: bool) -> Tensor:
    """A copy in memory of its own: the file's places are not aligned, and kernels round by alignment."""
    packed = not channels_last or tensor.dim() != 4
    return tensor.clone(memory_format=torch.contiguous_format if packed else torch.channels_last)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
