import subprocess
import sys

import pytest

import tascnet


def test_importing_the_package_brings_no_torch() -> None:
    code = "import sys, tascnet, tascnet.models.info; print(tascnet.__version__, 'torch' in sys.modules)"
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
