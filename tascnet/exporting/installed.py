"""Which formats and runtimes this installation has, found without importing them."""

import os
import shutil
from collections.abc import Mapping
from importlib.util import find_spec

from tascnet.errors import ConfigError, listed
from tascnet.options import FORMATS

_ONNX = ("onnx", "onnxscript", "onnxruntime")
# The packages that each format and runtime needs besides torch.
_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "eager": (),
    "compile": (),
    "pt2": (),
    **dict.fromkeys(("onnx", "onnx_int8", "onnx_fp16", "onnxruntime", "onnxruntime_int8"), _ONNX),
    "openvino": ("openvino",),
    "executorch": ("executorch",),
}


def installed() -> frozenset[str]:
    """Names of the formats and runtimes that can be used."""
    return frozenset(name for name in _PACKAGES if not _missing(name))


def need(name: str, option: str | None = None) -> None:
    """Raise unless a format or runtime can be used.

    Args:
        name: such as `onnx_int8` or `openvino`.
        option: that names it; None: `formats` or, for what is no format, `runtimes`.

    Raises:
        ConfigError: a package is missing.
    """
    if name in installed():
        return
    option = option or ("formats" if name in FORMATS else "runtimes")
    if name == "compile":
        raise ConfigError(f"`{option}` has compile, which needs a C++ compiler", "install g++ or clang++")
    packages = _PACKAGES[name]
    extra = "'tascnet[export]'" if packages == _ONNX else listed(packages, "")
    raise ConfigError(f"`{option}` has {name}, which needs {listed(packages, 'and')}", f"pip install {extra}")


def _missing(name: str) -> bool:
    if name == "compile":
        compilers = (os.environ.get("CXX"), "g++", "clang++", "c++", "cl")
        return not any(shutil.which(compiler) for compiler in compilers if compiler)
    return any(find_spec(package) is None for package in _PACKAGES[name])
