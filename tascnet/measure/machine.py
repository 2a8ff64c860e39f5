"""The machine and the software that measured."""

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from tascnet.run.records import Machine

_PACKAGES = (
    *("tascnet", "torch", "torchvision", "botorch", "gpytorch", "torch-pruning", "fvcore"),
    *("safetensors", "scikit-learn", "numpy", "hydra-core"),
    *("onnx", "onnxscript", "onnxruntime", "openvino"),
)


def describe_device(device: torch.device | str = "cpu") -> Machine:
    """The device by name, the processor, and the number of CPU threads that torch uses."""
    device = torch.device(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    cpu = next(names, "") or platform.processor() or platform.machine()
    return Machine(
        device=str(device),
        name=torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        cpu=cpu,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that can change a number."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
