"""The size of a saved model, and the machine and software that numbers were taken on."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from tascnet.errors import ArchiveError

_PACKAGES = (
    "tascnet",
    "torch",
    "torchvision",
    "botorch",
    "gpytorch",
    "torch-pruning",
    "fvcore",
    "safetensors",
    "scikit-learn",
    "numpy",
    "hydra-core",
)


def size_bytes(folder: Path) -> int:
    """Bytes of the weights of a saved model.

    Raises:
        ArchiveError: when the folder holds no `model.safetensors`.
    """
    path = folder / "model.safetensors"
    if not path.is_file():
        raise ArchiveError(f"{folder} holds no model.safetensors", "name the folder of a saved model")
    return path.stat().st_size


def describe_device(device: torch.device | str = "cpu") -> dict[str, Any]:
    """The device by name, the processor, and the number of CPU threads that torch uses."""
    device = torch.device(device)
    cpu = _cpu_name()
    return {
        "device": str(device),
        "name": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a number; those that are installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
