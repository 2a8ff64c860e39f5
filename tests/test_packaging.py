"""The wheel holds everything, and works away from the sources."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the sources without network."""
    sources = tmp_path_factory.mktemp("sources")
    for folder in ("tascnet", "conf", "pipelines", "benchmarks"):
        shutil.copytree(ROOT / folder, sources / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources / name)
    code = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    built = subprocess.run(
        [sys.executable, "-c", code], cwd=sources, check=True, capture_output=True, text=True
    )
    return sources / built.stdout.splitlines()[-1]


def test_the_wheel_holds_every_module_config_and_template(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    renamed = {"tascnet": "tascnet", "conf": "tascnet_conf", "pipelines": "tascnet_pipelines"}
    wanted = {
        str(Path(package, path.relative_to(ROOT / folder)))
        for folder, package in renamed.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    assert sorted(wanted - packed) == []
    # Benchmarks are run from a clone.
    top = {name.partition("/")[0] for name in packed if ".dist-info" not in name}
    assert top == {"tascnet", "tascnet_conf", "tascnet_pipelines"}


def test_the_wheel_composes_from_a_folder_with_its_own_conf(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    work = tmp_path / "work"
    for name in ("conf", "pipelines"):
        (work / name).mkdir(parents=True)
        (work / name / "__init__.py").write_text("raise RuntimeError('not the one that is meant')")
    shown = subprocess.run(
        [sys.executable, "-m", "tascnet", "--cfg", "job", "dataset=image_folder", f"dataset.root={work}"],
        cwd=work,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        check=True,
        capture_output=True,
        text=True,
    )
    assert "name: mobilenet_v2" in shown.stdout
    assert shown.stderr == ""
    assert sorted(os.listdir(work)) == ["conf", "pipelines"]


def test_every_dependency_is_pinned_without_addresses():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    extras = project["optional-dependencies"].values()
    needed = [*project["dependencies"], *(line for extra in extras for line in extra)]
    names = {line.partition(">")[0].strip() for line in needed}
    assert names <= pins.keys()
    assert not [line for line in lines if "://" in line or "@" in line]
