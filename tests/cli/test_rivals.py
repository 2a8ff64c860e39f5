"""Rivals on the command line: read as a list, and checked before anything is loaded."""

from pathlib import Path

import pytest

from tascnet.cli.check import check_overrides, normalise
from tascnet.cli.compose import Tree
from tascnet.errors import ConfigError
from tascnet.options import RivalName

TREE = Tree()


def composed(*overrides: str) -> tuple[RivalName, ...]:
    texts = [normalise(text) for text in ("stage=tune", "dataset=digits", "backbone=digits_cnn", *overrides)]
    (found,) = check_overrides(texts, TREE, multirun=False, config_name="config")
    return found.config.tune.rival_names


def test_a_list_needs_no_quotes(tmp_path: Path) -> None:
    path = tmp_path / "own-1.pth.tar"
    path.touch()
    digits = "dataset.classes=['5','6']"
    assert composed(digits, f"tune.rivals=[mobilenet_v3_small,resnet18@96:{path},resnet20:random]") == (
        RivalName(network="mobilenet_v3_small", size=None, weights=None),
        RivalName(network="resnet18", size=96, weights=str(path)),
        RivalName(network="resnet20", size=None, weights="random"),
    )


@pytest.mark.parametrize(
    ("rivals", "words"),
    [
        (
            "[mobilenet_v3_smal]",
            r"tune\.rivals: there is no network 'mobilenet_v3_smal': did you mean mobilenet",
        ),
        ("[resnet18:absent.pth]", r"tune\.rivals: .*absent\.pth.* is no file"),
        ("[a b]", "tune.rivals cannot read 'a b'"),
        ("[resnet18,resnet18]", "names a value twice"),
    ],
)
def test_mistakes_are_found_before_the_search(rivals: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        composed("dataset.classes=['5','6']", f"tune.rivals={rivals}")
    with pytest.raises(ConfigError, match=r"tune\.rivals are networks for images, but dataset=text_lines"):
        composed(
            "dataset=text_lines", f"dataset.root={Path.cwd()}", "backbone=textcnn", "tune.rivals=[resnet18]"
        )
