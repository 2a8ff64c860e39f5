"""The machine and the software that numbers were taken on."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from tascnet.run.records import Machine

_PACKAGES = (
    *("tascnet", "torch", "torchvision", "botorch", "gpytorch", "torch-pruning", "fvcore"),
    *("safetensors", "scikit-learn", "numpy", "hydra-core"),
)


def describe_device(device: torch.device | str = "cpu") -> Machine:
    """The device by name, the processor, and the number of CPU threads that torch uses."""
    device = torch.device(device)
    cpu = _cpu_name()
    return Machine(
        device=str(device),
        name=torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        cpu=cpu,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )


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
