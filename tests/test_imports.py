"""Imports run one way; each heavy dependency has one place. Read from the sources, nothing is imported."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tascnet
import tascnet_pipelines

LIBRARY = Path(tascnet.__file__).parent
PIPELINES = Path(tascnet_pipelines.__file__).parent

BASE = {"errors", "files", "config", "console", "runs", "words"}
# What each part of tascnet may import of tascnet, beside itself.
ALLOWED = {
    **dict.fromkeys(BASE, BASE),
    "__init__": BASE | {"models"},
    "__main__": BASE | {"compose", "check"},
    "compose": BASE,
    "check": BASE | {"compose", "contradictions"},
    "contradictions": BASE,
    "models": BASE,
    "measure": BASE | {"models"},
    "data": BASE | {"models"},
    "train": BASE | {"models", "data", "measure"},
    "tune": BASE | {"models", "data", "measure"},
    "prune": BASE | {"models", "data", "measure"},
    "report": BASE | {"measure"},
    "compare": BASE | {"report"},
}
# The only places for these packages, as path prefixes within tascnet/.
PLACES = {
    "botorch": ("tune/surrogate", "tune/acquisition"),
    "gpytorch": ("tune/surrogate",),
    "linear_operator": ("tune/surrogate",),
    "fvcore": ("measure/",),
    "hydra": ("__main__.py", "compose.py", "check.py"),
    "omegaconf": ("__main__.py", "compose.py", "check.py"),
    "torch_pruning": ("models/surgery", "prune/"),
    "tokenizers": ("models/text.py",),
    "matplotlib": ("report/",),
    "jinja2": ("report/",),
    "tascnet_conf": (),
    "tascnet_pipelines": (),
}
LIGHT = [*sorted(BASE), "__init__", "__main__", "compose", "check", "contradictions"]
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
    for name, _ in imported(LIBRARY / relative, package):
        first, _, rest = name.partition(".")
        if first == "tascnet" and rest:
            target = rest.partition(".")[0]
            if target not in ("load", "__version__"):
                assert target == part or target in ALLOWED[part], f"{relative} imports {name}"


@pytest.mark.parametrize(("relative", "package"), SOURCES, ids=[str(path) for path, _ in SOURCES])
def test_each_dependency_has_its_place(relative, package):
    for name, _ in imported(LIBRARY / relative, package):
        places = PLACES.get(name.partition(".")[0])
        assert places is None or str(relative).startswith(places), f"{relative} imports {name}"


@pytest.mark.parametrize("name", LIGHT)
def test_what_the_command_line_needs_is_light(name):
    for imports, at_top in imported(LIBRARY / f"{name}.py", ["tascnet"]):
        assert not (at_top and imports.partition(".")[0] in HEAVY), f"{name} imports {imports}"


def test_data_takes_only_the_preprocessing_from_models():
    for path in sorted((LIBRARY / "data").glob("*.py")):
        taken = {name for name, _ in imported(path, ["tascnet", "data"]) if name.startswith("tascnet.models")}
        assert taken <= {"tascnet.models.info", "tascnet.models.text"}, path.name


def test_pipelines_import_tascnet_and_each_other():
    for relative, package in files(PIPELINES, "tascnet_pipelines"):
        for name, _ in imported(PIPELINES / relative, package):
            assert name.partition(".")[0] not in ("pipelines", "conf", "hydra", "omegaconf"), (
                f"{relative}: {name}"
            )


@pytest.mark.parametrize("relative", [path for path, _ in SOURCES if path.name != "__main__.py"], ids=str)
def test_every_module_names_what_it_offers(relative):
    tree = ast.parse((LIBRARY / relative).read_text(encoding="utf-8"))
    lists = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
    ]
    assert len(lists) == 1, f"{relative} has no __all__"
    offered = ast.literal_eval(lists[0])
    assert sorted(set(offered)) == sorted(offered)
    defined = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            defined.update((alias.asname or alias.name).partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
    assert set(offered) <= defined, f"{relative} offers what it does not define"


def test_importing_tascnet_does_not_import_torch():
    code = "import sys, tascnet, tascnet.runs, tascnet.console; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_file_is_long():
    for folder, root in ((LIBRARY, "tascnet"), (PIPELINES, "tascnet_pipelines")):
        for relative, _ in files(folder, root):
            lines = (folder / relative).read_text(encoding="utf-8").count("\n")
            assert lines <= 500, f"{relative} has {lines} lines"
