"""Stage predict: models and samples from the command line, predictions in files and on standard output."""

import csv
import io
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

import tascnet
from tascnet.models.archive import save
from tascnet.run.files import write_checked
from tascnet.run.records import StageMetrics
from tests.pipelines.commands import command
from tests.pipelines.models import COLOURS, colour_network, word_network


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """The folder of a network that names the brightest channel."""
    folder = tmp_path_factory.mktemp("models") / "colours"
    save(colour_network(), folder)
    return folder


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two images and one that cannot be read."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    Image.new("RGB", (9, 7), COLOURS["blue"]).save(folder / "a.png")
    (folder / "b.png").write_bytes(b"no image")
    Image.new("RGB", (5, 5), COLOURS["green"]).save(folder / "more" / "c.png")
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_each_run_of_several_has_its_own_files_and_each_image_comes_once(model, photos, tmp_path):
    for given in ("a.png", "more/**", "**"):
        # Quoted, because a pattern may hold what separates values.
        arguments = ("-m", "stage=predict", f"predict.model={model}", f"outputs={tmp_path}")
        assert command(*arguments, f"predict.input='{photos}/{given}'") == 0
    found = [rows(path) for path in sorted((tmp_path / "predict").glob("*/predictions.csv"))]
    assert command(*arguments, f"predict.input={photos}", "predict.top=1,2") == 0
    assert len(list((tmp_path / "predict").glob("*/predictions.csv"))) == 5
    names = sorted(sorted(row["file"].removeprefix(f"{photos}/") for row in one) for one in found)
    assert names == [["a.png"], ["a.png", "b.png", "more/c.png"], ["more/c.png"]]


def test_a_folder_is_predicted_into_both_files(model, photos, tmp_path, capsys):
    arguments = ("stage=predict", f"predict.model={model}", f"predict.input={photos}", f"outputs={tmp_path}")
    assert command(*arguments) == 0
    folder = tmp_path / "predict"
    assert sorted(path.name for path in folder.iterdir()) == ["predictions.csv", "predictions.jsonl"]
    found = rows(folder / "predictions.csv")
    assert [row["file"] for row in found] == [str(photos / name) for name in ("a.png", "b.png", "more/c.png")]
    assert [row["class"] for row in found] == ["blue", "", "green"]
    assert found[1]["unreadable"] == "not an image"
    # Three classes, although five may be named.
    assert list(found[0])[-2:] == ["third_probability", "unreadable"]
    shares = [tascnet.predict(model, [photos / "a.png"])[0].probability, float(found[0]["probability"])]
    assert shares[0] == pytest.approx(shares[1], abs=1e-6)
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert [line.get("class") for line in lines] == ["blue", None, "green"]
    said = capsys.readouterr().err
    assert f"1 of 3 images cannot be read ({photos / 'b.png'}: not an image): skipped" in said
    assert f"3 images by {model}: written to" in said


def test_an_unreadable_file_may_end_the_run(model, photos, tmp_path, capsys):
    arguments = ("stage=predict", f"predict.model={model}", f"predict.input={photos}", f"outputs={tmp_path}")
    assert command(*arguments, "predict.unreadable=fail") == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.endswith("or skip what cannot be read with predict.unreadable=skip")
    folder = tmp_path / "predict"
    assert not (folder / "predictions.csv").exists()
    # What came before is kept.
    assert [row["class"] for row in rows(folder / "predictions.csv.part")] == ["blue"]


def test_paths_from_standard_input_go_to_standard_output(model, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{photos}/more/c.png\n{photos}/a.png\n".encode()))
    )
    arguments = ("stage=predict", f"predict.model={model}", "predict.input=-", "predict.output=-")
    # No folder is written to: this one is a file.
    assert command(*arguments, "predict.top=1", f"outputs={photos}/b.png") == 0
    found = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["file"], row["class"]) for row in found] == [
        (f"{photos}/more/c.png", "green"),
        (f"{photos}/a.png", "blue"),
    ]


def test_texts_of_a_csv(tmp_path, capsys):
    save(word_network(), tmp_path / "words")
    (tmp_path / "texts.csv").write_text('number,text\n1,"good, good film"\n2,so bad\n3,...\n')
    places = (f"predict.model={tmp_path / 'words'}", f"predict.input={tmp_path / 'texts.csv'}")
    assert command("stage=predict", *places, f"predict.output={tmp_path / 'found.csv'}") == 0
    found = rows(tmp_path / "found.csv")
    assert [row["text"] for row in found] == ["good, good film", "so bad", "..."]
    assert [row["class"] for row in found[:2]] == ["glad", "sad"]
    assert "1 text" not in capsys.readouterr().out


def test_without_a_model_it_is_the_last_one_of_the_run(photos, tmp_path, capsys):
    arguments = ("stage=predict", f"predict.input={photos}", f"outputs={tmp_path}", "name=run")
    assert command(*arguments) == 2
    assert "stage=predict needs a saved model, but there is none in" in capsys.readouterr().err
    run = tmp_path / "digits" / "digits_cnn" / "run-seed0"
    for stage, order in (("tune", (0, 1, 2)), ("prune", (2, 0, 1))):
        names = tuple(COLOURS)
        save(colour_network(tuple(names[place] for place in order)), run / stage / "model")
        write_checked(run / stage / "metrics.json", {"schema": StageMetrics.schema})
        assert command(*arguments) == 0
        classes = [row["class"] for row in rows(tmp_path / "predict" / "predictions.csv")]
        # The image that is brightest in the last and in the middle channel.
        assert classes == [names[order[2]], "", names[order[1]]]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "stage=predict needs predict.input: give a folder"),
        (("predict.input=absent",), "predict.input=absent does not exist"),
        (("predict.input='absent/*.jpg'",), "predict.input=absent/*.jpg matches no file"),
        (("predict.input=[-,.]",), "predict.input names - beside other places: give - alone"),
        (("predict.input=-", "predict.output=x.txt"), "predict.output=x.txt ends in neither .csv nor .jsonl"),
        (("predict.input=-", "predict.model=absent"), "predict.model=absent does not exist"),
        (("predict.input=-", "predict.model=absent.onnx"), "predict.model=absent.onnx does not exist"),
        (("predict.input=-", "predict.unreadable=drop"), "predict.unreadable has no choice"),
        (("predict.inputs=-",), "there is no option predict.inputs: did you mean predict.input?"),
    ],
)
def test_mistakes_are_one_sentence(options, says, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command("stage=predict", *options, f"outputs={tmp_path}") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert says in lines[0]


def test_a_folder_without_images_is_one_sentence(model, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    places = (f"predict.model={model}", f"predict.input={tmp_path / 'empty'}", f"outputs={tmp_path}")
    assert command("stage=predict", *places) == 2
    assert f"there is no image in {tmp_path / 'empty'}: give a folder of images" in capsys.readouterr().err
