"""A network of the user's own by its dotted path."""

import builtins
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tascnet.errors import ConfigError
from tascnet.models.own import find_own

FILE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes=7):
        super().__init__()
        self.classifier = nn.Linear(3, num_classes)

class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(3, 6)

def asked(num_classes):
    return Net(num_classes)

def wide(width):
    return nn.Linear(width, 2)

made, number = Fixed(), 3

def no_network():
    return [nn.Linear(3, 2)]

def fails(num_classes):
    raise RuntimeError("no such layer")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_nets.py").write_text(FILE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in ("own_nets", "broken")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("name", "asked", "outputs"),
    [
        ("Net", None, 7),
        ("Net", 4, 4),
        ("Fixed", 4, 6),
        ("asked", None, 10),
        ("asked", 4, 4),
        ("made", 4, 6),
    ],
)
def test_a_class_a_function_or_a_network_is_taken(
    folder: Path, name: str, asked: int | None, outputs: int
) -> None:
    for path in (f"own_nets.{name}", f"own_nets:{name}"):
        made = find_own(path)(asked)
        assert made.classifier.out_features == outputs


def test_a_network_that_is_there_already_is_copied(folder: Path) -> None:
    first, second = (find_own("own_nets.made")(None) for _ in range(2))
    nn.init.zeros_(first.classifier.weight)
    assert not torch.equal(first.classifier.weight, second.classifier.weight)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        (
            "own_nets.Nett",
            "cannot be imported (own_nets has no 'Nett'): give the dotted path of an nn.Module",
        ),
        (
            "no_such_file.Net",
            "cannot be imported (ModuleNotFoundError: No module named 'no_such_file'): give",
        ),
        ("own_nets.number", "network 'own_nets.number' is of type int, expected a class or a function"),
        ("own_nets.no_network", "own_nets.no_network returned list, expected an nn.Module"),
        ("own_nets.fails", "failed with RuntimeError: no such layer ("),
        ("own_nets.wide", "failed with TypeError: wide() missing 1 required positional argument: 'width'"),
        ("builtins.int", "builtins.int returned int, expected an nn.Module"),
    ],
)
def test_what_makes_no_network_is_one_sentence(folder: Path, path: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_own(path)(None)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def chain(num_classes)\n    return None\n", "SyntaxError: expected ':' (broken.py, line 1)"),
        ("import sys\nsys.exit(3)\n", "(SystemExit: 3 ("),
        ("import no_such_package\n", "No module named 'no_such_package'"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_file_that_fails_is_one_sentence_with_its_line(folder: Path, text: str, says: str) -> None:
    (folder / "broken.py").write_text(text)
    with pytest.raises(ConfigError) as caught:
        find_own("broken.chain")
    assert says in str(caught.value)
    assert "correct it; `debug=true` shows where it fails" in str(caught.value)
    assert not hasattr(builtins, "chain")
