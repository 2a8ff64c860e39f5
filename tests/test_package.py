import subprocess
import sys

import pytest

import tascnet


def test_importing_the_package_brings_no_torch() -> None:
    code = (
        "import sys, tascnet, tascnet.models.info, tascnet.presets; tascnet.preset, tascnet.Tune(); "
        "print(tascnet.__version__, 'torch' in sys.modules)"
    )
    came = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert came.stdout.split() == [tascnet.__version__, "False"]


def test_names_are_found_and_others_are_not() -> None:
    from tascnet import models
    from tascnet.models.archive import load

    assert tascnet.load is load
    assert set(tascnet.__all__) <= set(dir(tascnet))
    for name in models.__all__:
        assert getattr(models, name).__name__ == name
    for package in (tascnet, models):
        with pytest.raises(AttributeError, match="no attribute 'lod'"):
            package.lod  # noqa: B018


def test_no_module_takes_the_place_of_a_public_function() -> None:
    """A package named like a function replaces it on import."""
    code = """
import importlib, pkgutil, tascnet
for module in pkgutil.walk_packages(tascnet.__path__, "tascnet."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
for _ in range(2):
    for name in tascnet.__all__:
        found = getattr(tascnet, name)
        assert name == "__version__" or (callable(found) and found.__name__ == name), name
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
