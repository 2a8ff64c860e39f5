"""Files of weights: read in any of the usual layouts, and written with metadata for later runs."""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn

from tascnet.errors import WeightsError, first_line, listed, plural, printable
from tascnet.models.checkpoints import flattened, read_pickled
from tascnet.models.prefixes import beside, is_averaged, is_counter, likeliest, located
from tascnet.models.tensors import (
    READ_ERRORS,
    check_pickled,
    check_safetensors,
    is_safetensors,
    not_finite,
    unfit,
)
from tascnet.run.console import log
from tascnet.run.files import check_regular, write_whole

# Our own entry in the metadata of a file, and the key in it of a digest of all else in the file.
_METADATA, _DIGEST = "tascnet", "digest"
_SHOWN_KEYS = 2
# Tensors of one file may share memory, as tied weights do; they have at most so many times the file's bytes.
_MOST_SHARED = 4


def read_state(path: Path) -> dict[str, Tensor]:
    """All tensors of a file on the CPU, by their names; nested ones as `state_dict.conv1.weight`.

    Args:
        path: of a file of safetensors or torch.save, whatever it is called.

    Raises:
        WeightsError: the file is missing, unreadable, damaged, or holds no tensors or other objects.
    """
    with _reading(path):
        if is_safetensors(path):
            content: Any = _read_safetensors(path)
        else:
            check_pickled(path)
            content = read_pickled(path)
        state = flattened(content)
        if not state:
            raise ValueError("it holds no tensors with names")
        # A tensor may repeat its values, and would take their memory when it is read.
        sizes = (tensor.nbytes for tensor in state.values() if tensor.layout is torch.strided)
        if sum(sizes) > _MOST_SHARED * path.stat().st_size:
            raise ValueError("its tensors are larger than the file")
    return state


def published_state(url: str, name: str) -> dict[str, Tensor]:
    """The weights at an address of torchvision's, downloaded once.

    Args:
        url: of the file, whose name ends in the first digits of its SHA-256.
        name: of the network, for messages.

    Raises:
        WeightsError: they could not be loaded.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
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
        why, hint = first_line(error).rstrip("."), f"download {url} elsewhere and give the path of the file"
        if is_there:
            raise WeightsError(
                f"{path} is damaged or unreadable, and could not be replaced ({why})", f"delete it, or {hint}"
            ) from error
        raise WeightsError(f"the pre-trained weights of {name} could not be loaded ({why})", hint) from error
    return read_state(path)


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata that `write_weights` stored with the tensors; empty for other files.

    Raises:
        WeightsError: the file is unreadable.
    """
    with _reading(path):
        entry = _entry(path) if is_safetensors(path) else {}
    return {key: value for key, value in entry.items() if key != _DIGEST}


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
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Write a module's state dict as a `.safetensors` file, whole or not at all.

    Args:
        path: the file.
        module: the network.
        keys: the name in the file of each entry of the state dict; None or absent: the same.
        metadata: JSON content for `read_metadata`.
        shapes: the shape in the file of each entry of the state dict; None or absent: the same.
    """
    names, forms = keys or {}, shapes or {}
    state = {
        names.get(key, key): tensor.detach().cpu().contiguous().clone().reshape(forms.get(key, tensor.shape))
        for key, tensor in module.state_dict().items()
    }
    # One entry: the order of several would differ from run to run.
    entry = {**(metadata or {}), _DIGEST: _digest(state, metadata or {})}
    beside = {_METADATA: json.dumps(entry, sort_keys=True)}
    write_whole(path, lambda temporary: safetensors.torch.save_file(state, temporary, beside))


def fitted(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], name: str, weights: str | Path
) -> dict[str, Tensor]:
    """The tensors that a network wants, under its names; floating-point ones as float32 and finite.

    In a file they may lie below other names (`state_dict.model.conv1.weight`), beside averaged ones (EMA) and
    beside what the network does not read.

    Args:
        state: of a file, as `read_state` gives it.
        wanted: the network's own tensors, which may be on the meta device. Only their names and types count:
            the number of classes may differ. Batch counters may be missing in `state`.
        name: of the network, for messages.
        weights: which, for messages.

    Raises:
        WeightsError: a wanted tensor is missing, there twice, no ordinary one, or has numbers that are not
            finite; or the network lacks layers of the file.
    """
    return _matched(state, wanted, name, weights)[0]


def fill(
    network: nn.Module, keys: Mapping[str, str], state: Mapping[str, Tensor], name: str, weights: str | Path
) -> None:
    """Load a state dict of the original layout into a network, which may be on the meta device.

    What else the file holds is logged.

    Args:
        network: changed in place.
        keys: the name in `state` of each entry of the network's state dict; absent: the same.
        state: of a file; see `fitted`.
        name: of the network, for messages.
        weights: which, for messages.

    Raises:
        WeightsError: as for `fitted`, or shapes differ.
    """
    own = network.state_dict()
    wanted = {keys.get(key, key): tensor for key, tensor in own.items()}
    found, note = _matched(state, wanted, name, weights)
    if wrong := [
        f"{key} {tuple(found[key].shape)} for {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        if found[key].shape != tensor.shape
    ]:
        raise _not_those_of(name, weights, f"of another shape: {_some(wrong)}")
    if note:
        log.info("the weights of %s are %s", name, note)
    network.load_state_dict({key: found[keys.get(key, key)] for key in own}, assign=True)


def _matched(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], name: str, weights: str | Path
) -> tuple[dict[str, Tensor], str | None]:
    """What `fitted` returns, and in words what else the file holds; None: nothing."""
    needed = {key: tensor for key, tensor in wanted.items() if not is_counter(key)}
    try:
        state, counts = located(state, needed)
    except ValueError as error:
        raise _unreadable(weights, str(error)) from error
    places = [prefix for prefix, number in counts.items() if number == len(needed)]
    if places:
        prefix = _only(likeliest(places, state, needed), weights)
    else:
        prefix = max(counts, key=lambda place: counts[place], default="")
    parts, unexpected = beside(state, prefix, wanted)
    missing = [key for key in needed if prefix + key not in state]
    found = {key: state.get(prefix + key, torch.zeros((), dtype=torch.int64)) for key in wanted}
    for key, tensor in found.items():
        if word := unfit(tensor):
            raise _unreadable(weights, f"{printable(key, 200)} is {word}, expected ordinary tensors")
    mistyped = [
        f"{key} {found[key].dtype} for {tensor.dtype}"
        for key, tensor in needed.items()
        if key not in missing and tensor.is_floating_point() and not found[key].is_floating_point()
    ]
    differences = {"missing": missing, "unexpected": unexpected, "of another type": mistyped}
    if why := "; ".join(f"{word}: {_some(keys)}" for word, keys in differences.items() if keys):
        raise _not_those_of(name, weights, why)
    cast = {key: _as(tensor.detach(), wanted[key]) for key, tensor in found.items()}
    if (bad := not_finite(cast)) is not None:
        raise WeightsError(
            f"the weights {weights} hold numbers that are not finite, in {printable(bad, 200)}",
            "give those of a training that did not diverge",
        )
    return cast, _note(parts, prefix, weights)


def _not_those_of(name: str, weights: str | Path, why: str) -> WeightsError:
    """Weights that belong to another network."""
    return WeightsError(
        f"the weights {weights} are not those of {name} ({why})",
        "check that network and weights belong together",
    )


def _only(places: Sequence[str], weights: str | Path) -> str:
    """The prefix of the only weights that a file holds for a network."""
    if len(places) > 1:
        shown = (f"`{printable(place.rstrip('.'), 80)}`" if place else "the top" for place in places)
        raise WeightsError(
            f"the weights {weights} hold different ones for the network, at {listed(shown, 'and')}",
            "save those that you mean alone",
        )
    return places[0]


def _note(parts: Mapping[str, int], prefix: str, weights: str | Path) -> str | None:
    """Which weights of a file are taken and what is ignored; None: all of it is taken."""
    if not parts and not is_averaged(prefix):
        return None
    shown = [
        f"{printable(part, 80)} ({'averaged, ' if is_averaged(part) else ''}{plural(number, 'tensor')})"
        for part, number in parts.items()
    ]
    kind = " (averaged)" if is_averaged(prefix) else ""
    place = f"`{printable(prefix.rstrip('.'), 80)}`{kind}" if prefix else "a part"
    return f"{place} of {weights}" + (f"; ignored: {_some(shown, 6)}" if shown else "")


def _as(tensor: Tensor, own: Tensor) -> Tensor:
    """A tensor of a file in the type of the network's own one; floating-point ones as float32."""
    if own.is_floating_point():
        return tensor.float()
    # Files in half precision have such counters, which may have overflowed, as floats.
    whole = tensor.nan_to_num(0.0, 0.0, 0.0) if tensor.is_floating_point() else tensor
    return whole.to(own.dtype)


def _some(texts: Sequence[str], most: int = _SHOWN_KEYS) -> str:
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(printable(text, 200) for text in texts[:most]) + more


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what a missing, unreadable or damaged file raises into one sentence."""
    try:
        yield
    except FileNotFoundError as error:
        raise WeightsError(
            f"`weights={path}` is no file", "give `pretrained`, `random`, or a path that exists"
        ) from error
    # Metadata may be nested more deeply than Python's parser goes.
    except (*READ_ERRORS, RecursionError) as error:
        raise _unreadable(path, first_line(error).rstrip(".")) from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    entry = _entry(path)
    state = safetensors.torch.load_file(path)
    digest = entry.pop(_DIGEST, None)
    if digest is not None and digest != _digest(state, entry):
        raise WeightsError(
            f"the weights {path} were changed or damaged after they were written",
            "take another copy, or make them again",
        )
    return state


def _entry(path: Path) -> dict[str, Any]:
    """Our entry in the metadata of a `.safetensors` file, which may be empty."""
    check_safetensors(path)
    with safe_open(path, framework="pt") as file:
        return dict(json.loads((file.metadata() or {}).get(_METADATA, "{}")))


def _unreadable(weights: str | Path, why: str) -> WeightsError:
    return WeightsError(
        f"the weights {weights} cannot be read ({why})",
        'give a file of names and tensors, as `torch.save(model.state_dict(), "weights.pth")` writes it',
    )


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
