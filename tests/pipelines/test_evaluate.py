"""Stage evaluate: figures on the terminal and in a record."""

from pathlib import Path

import pytest
from PIL import Image

from tascnet.models.archive import save
from tascnet.run.records import EvaluateMetrics, read_record
from tests.pipelines.commands import command
from tests.pipelines.models import COLOURS, colour_network, word_network


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> tuple[Path, Path]:
    """A saved model, and a folder of blue and of red images, one of which is green, and of purple ones."""
    folder = tmp_path_factory.mktemp("evaluate")
    save(colour_network(), folder / "model")
    for name, shown in {"blue": ("blue",) * 2, "purple": ("red",), "red": ("red", "green")}.items():
        (folder / "data" / name).mkdir(parents=True)
        for number, colour in enumerate(shown):
            path = folder / "data" / name / f"{number}.png"
            Image.new("RGB", (8 + number, 9), COLOURS[colour]).save(path)
    return folder / "model", folder / "data"


def test_another_set_is_evaluated_by_the_names_of_its_classes(places, cache, tmp_path, capsys):
    model, data = places
    arguments = ("stage=evaluate", f"evaluate.model={model}", "dataset=image_folder", f"dataset.root={data}")
    assert command(*arguments, f"outputs={tmp_path}", f"cache_dir={cache}") == 0
    (path,) = tmp_path.glob("evaluate/image_folder/*/metrics.json")
    found = read_record(path, EvaluateMetrics)
    assert (found.split, found.samples, found.accuracy) == ("all", 4, 3 / 4)
    assert found.only_in_data == {"purple": 1}
    assert found.only_in_model == ("green",)
    captured = capsys.readouterr()
    assert "image_folder, all: 4 samples" in captured.out
    assert "75.0" in captured.out
    assert "without a counterpart" in captured.out
    assert (
        "the model lacks 1 class of image_folder: purple; their only sample is in no accuracy" in captured.err
    )
    assert str(path) in captured.err
    # The same config writes to the same place, another one elsewhere.
    assert command(*arguments, f"outputs={tmp_path}", f"cache_dir={cache}") == 0
    assert len(list(tmp_path.glob("evaluate/*/*/metrics.json"))) == 1
    assert command(*arguments, f"outputs={tmp_path}", f"cache_dir={cache}", "evaluate.split=all") == 0
    assert len(list(tmp_path.glob("evaluate/*/*/metrics.json"))) == 2


def test_the_split_that_cannot_be_drawn_and_other_mistakes(places, cache, tmp_path, capsys):
    model, data = places
    save(word_network(), tmp_path / "words")
    given = ("stage=evaluate", "dataset=image_folder", f"dataset.root={data}", f"cache_dir={cache}")
    for options, says in (
        ((f"evaluate.model={model}", "evaluate.split=test"), "class 'blue' has 2"),
        ((f"evaluate.model={model}", "evaluate.split=both"), "evaluate.split has no choice 'both'"),
        ((f"evaluate.model={data}",), "is no saved model"),
        (("evaluate.model=absent",), "evaluate.model=absent does not exist"),
        ((f"evaluate.model={tmp_path / 'words'}",), "holds images, but the network takes texts"),
        ((), "stage=evaluate needs a saved model, but there is none in"),
    ):
        assert command(*given, *options, f"outputs={tmp_path / 'out'}") == 2
        assert says in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "out" / "evaluate").exists()
