"""Imports run one way; each heavy dependency has one place. Read from the sources, nothing is imported."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tascnet
import tascnet_pipelines

LIBRARY = Path(tascnet.__file__).parent
PIPELINES = Path(tascnet_pipelines.__file__).parent

# Each part may import the parts of its own line and of the lines below it; the first line is the highest.
ORDER = [
    {"__main__", "cli"},
    {"tuning", "pruning"},
    {"report", "inherit", "execute"},
    {"train"},
    {"surgery", "measure"},
    {"exporting"},
    {"models", "data"},
    {"run", "options", "errors", "presets"},
]
RANK = {part: rank for rank, parts in enumerate(ORDER) for part in parts}
# Parts of one line that do not import each other.
APART = {frozenset({"tuning", "pruning"})}
# The only places for these packages, as path prefixes within tascnet/.
PLACES = {
    "botorch": ("tuning/surrogate", "tuning/acquisition"),
    "gpytorch": ("tuning/surrogate",),
    "linear_operator": ("tuning/surrogate",),
    "fvcore": ("measure/",),
    "hydra": ("cli/",),
    "omegaconf": ("cli/",),
    "torch_pruning": ("surgery/scores.py",),
    "torchvision": ("models/library.py", "data/catalogue.py", "data/augment.py", "train/mixing.py"),
    "timm": ("models/library.py",),
    "tokenizers": ("models/text.py",),
    "imagehash": ("models/preprocessing.py",),
    "pillow_heif": ("models/preprocessing.py",),
    "matplotlib": ("report/",),
    "jinja2": ("report/",),
    "onnx": ("exporting/",),
    "onnxruntime": ("exporting/",),
    "onnxscript": ("exporting/",),
    "openvino": ("exporting/",),
    "ray": ("execute/",),
    "executorch": ("exporting/",),
    "tensorboard": ("run/watching",),
    "mlflow": ("run/watching",),
    "tascnet_conf": (),
    "tascnet_pipelines": (),
}
LIGHT = ["__init__.py", "__main__.py", "errors.py", "options.py", *("cli", "run")]
HEAVY = {
    "torch",
    "torchvision",
    "sklearn",
    "torch_pruning",
    "botorch",
    "gpytorch",
    "matplotlib",
    "scipy",
    "numpy",
}


def imported(path, package):
    """The dotted names that a file imports, relative ones made absolute; whether each is at the top."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node in tree.body
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            # `from tascnet import data` imports tascnet.data.
            names = [f"{name}.{alias.name}" for alias in node.names] if name == "tascnet" else [name]
            for full in names:
                yield full, node in tree.body


def files(folder, root):
    for path in sorted(folder.rglob("*.py")):
        relative = path.relative_to(folder)
        yield relative, [root, *relative.parent.parts]


def part_of(relative):
    return relative.parts[0].removesuffix(".py")


SOURCES = list(files(LIBRARY, "tascnet"))


@pytest.mark.parametrize(("relative", "package"), SOURCES, ids=[str(path) for path, _ in SOURCES])
def test_imports_within_tascnet_run_one_way(relative, package):
    part = part_of(relative)
    if part == "__init__":
        return
    for name, _ in imported(LIBRARY / relative, package):
        first, _, rest = name.partition(".")
        target = rest.partition(".")[0]
        if first == "tascnet" and target in RANK and target != part:
            assert RANK[target] >= RANK[part], f"{relative} imports {name}"
            assert frozenset({part, target}) not in APART, f"{relative} imports {name}"


@pytest.mark.parametrize(("relative", "package"), SOURCES, ids=[str(path) for path, _ in SOURCES])
def test_each_dependency_has_its_place(relative, package):
    for name, _ in imported(LIBRARY / relative, package):
        places = PLACES.get(name.partition(".")[0])
        assert places is None or str(relative).startswith(places), f"{relative} imports {name}"


LIGHT_FILES = [
    path
    for name in LIGHT
    for path in ([LIBRARY / name] if name.endswith(".py") else (LIBRARY / name).glob("*.py"))
]


@pytest.mark.parametrize("path", LIGHT_FILES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_what_the_command_line_needs_is_light(path):
    for imports, at_top in imported(path, ["tascnet"]):
        assert not (at_top and imports.partition(".")[0] in HEAVY), f"{path} imports {imports}"


def test_data_takes_only_the_preprocessing_and_the_list_of_layers_from_models():
    allowed = {f"tascnet.models.{name}" for name in ("info", "leaves", "preprocessing", "text")}
    for path in sorted((LIBRARY / "data").glob("*.py")):
        taken = {name for name, _ in imported(path, ["tascnet", "data"]) if name.startswith("tascnet.models")}
        assert taken <= allowed, path.name


def test_pipelines_import_tascnet_and_each_other():
    for relative, package in files(PIPELINES, "tascnet_pipelines"):
        for name, _ in imported(PIPELINES / relative, package):
            assert name.partition(".")[0] not in ("pipelines", "conf", "hydra", "omegaconf"), (
                f"{relative}: {name}"
            )


PACKAGES = [path for path, _ in SOURCES if path.name == "__init__.py" and len(path.parts) > 1]


@pytest.mark.parametrize("relative", PACKAGES, ids=str)
def test_what_a_package_offers_is_there(relative):
    package = importlib.import_module(".".join(["tascnet", *relative.parent.parts]))
    for name in getattr(package, "__all__", ()):
        assert hasattr(package, name)


def test_importing_tascnet_does_not_import_torch():
    code = "import sys, tascnet, tascnet.run.folder, tascnet.run.console; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


OUTSIDE_CLI = [path for path, _ in SOURCES if path.parts[0] not in ("cli", "__main__.py")]
SPELLING = re.compile(
    r"\bstage=|python -m tascnet |\b(dataset|backbone|trainer|tune|prune|measure|experiment)(=|\.[a-z_]+=)"
)


@pytest.mark.parametrize("relative", OUTSIDE_CLI, ids=str)
def test_the_library_does_not_spell_options_as_the_command_line_does(relative):
    tree = ast.parse((LIBRARY / relative).read_text(encoding="utf-8"))
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    found = [text for text in texts if isinstance(text, str) and SPELLING.search(text)]
    assert not found, f"{relative} says {found[0][:80]!r}"


def test_no_class_name_is_defined_twice():
    places = {}
    for relative, _ in SOURCES:
        for node in ast.walk(ast.parse((LIBRARY / relative).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(str(relative))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
