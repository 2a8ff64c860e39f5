"""Files of tensors, perhaps from a stranger: what is checked before they take memory or time."""

import mmap
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tascnet.errors import ConfigError
from tascnet.run.files import check_regular

# Of the part of a file that lists its tensors; the largest vocabulary takes some 8 MB in it. Both bounds are
# many times what networks need, and what they let pass is read within two seconds.
_LARGEST_HEADER = 1 << 24
_MOST_NAMES = 100_000

# What reading a damaged `.safetensors` file raises.
READ_ERRORS = (
    *(
        SafetensorError,
        OSError,
        RuntimeError,
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        MemoryError,
    ),
)

# How zip files and pickles, which torch.save writes, begin.
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
# A zip file ends in a record of 22 bytes; a record of 56 and its locator of 20 bytes may stand before it.
_END, _END_64, _LOCATOR = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_TAIL = 56 + 20 + 22


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as a `.safetensors` file does; False: it begins as one of torch.save.

    Raises:
        OSError: it is no regular file, or may not be read.
        ValueError: it is neither.
    """
    check_regular(path)
    with open(path, "rb") as file:
        start = file.read(20)
    # A length of eight bytes stands before a header in JSON.
    if start[8:9] == b"{" and not start.startswith(_ZIP):
        return True
    if start.startswith((_ZIP, _PICKLE)):
        return False
    if start.startswith(b"version https://git"):
        raise ValueError("it only points to a file of Git LFS, which `git lfs pull` fetches")
    raise ValueError("it is no file of safetensors or torch.save" if start else "it is empty")


def check_safetensors(path: Path) -> None:
    """Check the length of a `.safetensors` file's header and its number of names.

    Raises:
        OSError: it is no regular file, or may not be read.
        ValueError: it is truncated, or a bound is exceeded.
    """
    check_regular(path)
    rest = path.stat().st_size - 8
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= rest:
            raise ValueError("it is truncated, or no safetensors file")
        if length > _LARGEST_HEADER:
            raise ValueError(f"its header has {length} bytes, expected at most {_LARGEST_HEADER}")
        header = file.read(length)
    # Each name has an object of its own.
    if header.count(b"{") > _MOST_NAMES:
        raise ValueError(f"it holds more than {_MOST_NAMES} names")


def check_pickled(path: Path) -> None:
    """Check that a file of `torch.save` does not unpack to more than its size.

    Raises:
        OSError: it is no regular file, or may not be read.
        ValueError: it is damaged or a program of TorchScript, or a bound is exceeded.
    """
    check_regular(path)
    size = path.stat().st_size
    with open(path, "rb") as file:
        if file.read(len(_ZIP)) == _ZIP:
            _check_zip(file, size)
        # torch.load makes one of any length that the file asks for.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(b"bytearray") >= 0:
                raise ValueError("it holds a bytearray")


def unfit(tensor: Tensor) -> str | None:
    """In a word, why a tensor cannot be a weight; None: it can."""
    words = {
        "without a shape until the network runs once": is_lazy(tensor),
        "without values (on the meta device)": tensor.is_meta,
        "sparse": tensor.layout is not torch.strided,
        "quantised": tensor.is_quantized,
        "complex": tensor.is_complex(),
        "nested": tensor.is_nested,
        "of a class of its own": type(tensor) not in (Tensor, nn.Parameter),
    }
    return next((word for word, is_so in words.items() if is_so), None)


def not_finite(state: Mapping[str, Tensor]) -> str | None:
    """The first name of a floating-point tensor that holds NaN or infinity; None: there is none."""
    floats = ((name, tensor) for name, tensor in state.items() if tensor.is_floating_point())
    return next((name for name, tensor in floats if not torch.isfinite(tensor).all()), None)


def check_weights(network: nn.Module) -> None:
    """Check, before any work, that a network can be trained and compared.

    Raises:
        ConfigError: a tensor of it holds NaN or infinity, is no ordinary tensor, or of another precision than
            float32.
    """
    state = network.state_dict()
    for name, tensor in state.items():
        if word := unfit(tensor):
            raise ConfigError(f"{name!r} of the network is {word}", "give a network of ordinary tensors")
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ConfigError(f"{name!r} of the network is {kind}, expected float32", "call `.float()` on it")
    if (bad := not_finite(state)) is not None:
        raise ConfigError(
            f"{bad!r} of the network holds numbers that are not finite",
            "give a network whose training did not diverge",
        )


def _check_zip(file: IO[bytes], size: int) -> None:
    if _directory_size(file, size) > _LARGEST_HEADER:
        raise ValueError(f"the list of its parts has more than {_LARGEST_HEADER} bytes")
    try:
        parts = zipfile.ZipFile(file).infolist()
    # There is no list of what damaged ones raise.
    except Exception as error:
        raise ValueError("it is damaged") from error
    if len(parts) > _MOST_NAMES:
        raise ValueError(f"it holds more than {_MOST_NAMES} parts")
    if any(part.filename.endswith("/constants.pkl") for part in parts):
        raise ValueError("it is a program of TorchScript")
    # torch.save does not compress.
    unpacked = sum(part.file_size for part in parts)
    if unpacked > size:
        raise ValueError(f"its {size} bytes unpack to {unpacked}, and torch.save does not compress")
    pickled = max((part.file_size for part in parts if part.filename.endswith(".pkl")), default=0)
    if pickled > _LARGEST_HEADER:
        raise ValueError(f"it holds {pickled} bytes beside its tensors, expected at most {_LARGEST_HEADER}")


def _directory_size(file: IO[bytes], size: int) -> int:
    """Bytes of the list of a zip file's parts, as its last records have them."""
    file.seek(max(0, size - _TAIL), os.SEEK_SET)
    tail = file.read(_TAIL).rjust(_TAIL, b"\0")
    large, locator, end = tail[:56], tail[56:76], tail[76:]
    if not end.startswith(_END):
        raise ValueError("it is truncated, or no file of torch.save")
    sizes = [int.from_bytes(end[12:16], "little")]
    if locator.startswith(_LOCATOR) and large.startswith(_END_64):
        sizes.append(int.from_bytes(large[40:48], "little"))
    return max(sizes)
