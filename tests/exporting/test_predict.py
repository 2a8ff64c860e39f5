"""Classes of new images and texts: by networks and exported files, from any input, to any output."""

import csv
import fcntl
import io
import itertools
import json
import sys
import time
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import tascnet
from tascnet.errors import ArchiveError, ConfigError, DataError, ExportError, RunFolderError
from tascnet.exporting.inputs import Inputs
from tascnet.exporting.models import open_model
from tascnet.exporting.predict import AHEAD, predict_each
from tascnet.exporting.predictions import columns, write_predictions
from tascnet.models.info import ModelInfo, with_info
from tascnet.models.preprocessing import Preprocessing
from tascnet.options import usable_cpus
from tascnet.run.records import Classified
from tests.pipelines.models import word_network

NAMES = ("ant", "bee", "cat", "dog")


def image_network(names: tuple[str, ...] = NAMES) -> nn.Sequential:
    """A tiny network of images, whose classes depend on colours and edges."""
    torch.manual_seed(3)
    network = nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(3, 8, 3, stride=2),
            act=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Linear(8, len(names)),
        )
    )
    with torch.no_grad():
        network.classifier.weight.mul_(20)
    preprocessing = Preprocessing(size=16, resize=20, mean=(0.5,) * 3, std=(0.25,) * 3)
    info = ModelInfo(
        backbone="tiny", preprocessing=preprocessing, class_names=names, weights="random", licence=""
    )
    return with_info(network.eval(), info)


@pytest.fixture(scope="module")
def network() -> nn.Sequential:
    return image_network()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine images of many sizes, modes and classes, two of them in a folder below."""
    root = tmp_path_factory.mktemp("photos")
    (root / "below").mkdir()
    draw = np.random.default_rng(0)
    for number in range(9):
        height, width = (int(side) for side in draw.integers(18, 60, 2))
        base = draw.integers(0, 256, 3) * np.ones((height, width, 3))
        pixels = (base + draw.normal(0, 40, base.shape)).clip(0, 255).astype(np.uint8)
        image = Image.fromarray(pixels).convert(("RGB", "L", "CMYK")[number % 3])
        image.save(root / ("below" if number > 6 else "") / f"{number}.{'jpg' if number % 2 else 'tif'}")
    return root


def paths_of(root: Path) -> list[str]:
    return [str(path) for path in sorted(root.glob("*.*")) + sorted(root.glob("below/*"))]


def by_hand(network: nn.Sequential, samples: list) -> torch.Tensor:
    """Probabilities, one sample after the other."""
    with torch.no_grad():
        return torch.cat([network(network.preprocessing(sample)[None]).softmax(1) for sample in samples])


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_records_are_those_of_a_plain_loop_in_its_order(network, photos, batch_size) -> None:
    samples = [*paths_of(photos), Image.new("RGB", (30, 20), "red"), np.zeros((20, 20, 3), np.uint8)]
    # Not in the order of their names.
    samples = samples[5:] + samples[:5]
    found = tascnet.predict(network, samples, top=3, batch_size=batch_size, device="cpu")
    expected = by_hand(network, samples)
    assert len({record.class_name for record in found}) > 1
    for row, (record, sample, shares) in enumerate(zip(found, samples, expected, strict=True)):
        order = shares.argsort(descending=True)
        assert record.sample == (sample if isinstance(sample, str) else f"sample {row}")
        assert record.class_name == NAMES[order[0]]
        assert [name for name, _ in record.others] == [NAMES[place] for place in order[1:3]]
        assert record.probability == pytest.approx(float(shares.max()), abs=1e-5)
        assert record.unreadable is None


def test_a_saved_folder_predicts_as_its_network(network, photos, tmp_path) -> None:
    tascnet.save(network, tmp_path / "model")
    paths = paths_of(photos)
    assert tascnet.predict(tmp_path / "model", paths) == tascnet.predict(network, paths)
    with pytest.raises(ArchiveError, match="is no saved model"):
        tascnet.predict(tmp_path, paths)


def test_unreadable_images_keep_their_places_and_are_reported(network, photos, tmp_path, caplog) -> None:
    good = paths_of(photos)[0]
    cut, empty = tmp_path / "cut.jpg", tmp_path / "empty.png"
    cut.write_bytes(Path(paths_of(photos)[1]).read_bytes()[:200])
    empty.touch()
    samples = [str(cut), good, str(tmp_path / "absent.jpg"), str(empty), good, str(tmp_path)]
    found = tascnet.predict(network, samples, batch_size=2)
    assert [record.sample for record in found] == samples
    reasons = [record.unreadable for record in found]
    assert "truncated" in str(reasons[0]).lower()
    assert reasons[1:] == [None, "it does not exist", "empty file", None, "it is a folder"]
    assert found[1] == found[4]
    assert found[0].class_name is None
    (said,) = [line for line in caplog.messages if "cannot be read" in line]
    assert said.startswith(f"4 of 6 images cannot be read ({cut}: ")
    assert said.endswith("; and 1 more): skipped")
    with pytest.raises(DataError, match=r"1 image cannot be read .*cut.jpg.*unreadable=skip"):
        tascnet.predict(network, samples[1:2] + samples[:1], unreadable="fail")


def test_an_endless_stream_is_read_a_few_images_ahead(network, photos) -> None:
    read = 0

    def endless():
        nonlocal read
        for path in itertools.cycle(paths_of(photos)):
            read += 1
            yield path

    records = predict_each(network, endless(), batch_size=4, device="cpu")
    assert read == 0
    taken = list(itertools.islice(records, 30))
    records.close()
    assert [record.sample for record in taken[:9]] == paths_of(photos)
    assert taken[18:27] == taken[:9]
    # Batches of 4 that cover 30, and those in work.
    assert read <= 32 + 4 + AHEAD * usable_cpus()


def test_texts() -> None:
    samples = ["good film", "a bad, bad day", "good but bad", "   ", "caf\udce9", "Good Good bad"]
    found = tascnet.predict(word_network(), samples, batch_size=2)
    assert [record.sample for record in found] == samples
    assert [record.class_name for record in found] == ["glad", "sad", "glad", None, None, "glad"]
    assert [record.unreadable for record in found[3:5]] == ["no word", "not valid UTF-8"]
    # Logits 1 and 0; 0 and 2; 2 and 1.
    assert found[0].probability == pytest.approx(torch.tensor([1.0, 0]).softmax(0)[0].item())
    assert found[1].others == (("glad", pytest.approx(torch.tensor([0.0, 2]).softmax(0)[0].item())),)
    assert found[5].probability == found[0].probability


@pytest.mark.parametrize(
    ("samples", "options", "says"),
    [
        ("cat.jpg", {}, "`samples` is of type str, expected several: give a list"),
        ([3], {}, "the image is of type int"),
        (None, {}, "`samples` is of type NoneType, expected several: give a list"),
        (
            ["cat.jpg"],
            {"extra_channels": "keep"},
            "`extra_channels` has no choice 'keep'",
        ),
        (["cat.jpg"], {"top": 0}, "`top` must be at least 1, not 0"),
        (["cat.jpg"], {"unreadable": "ignore"}, "`unreadable` has no choice"),
        (["cat.jpg"], {"device": "cuda:99"}, "cannot be used here"),
    ],
)
def test_mistakes_are_one_sentence(network, samples, options, says) -> None:
    with pytest.raises((ConfigError, DataError)) as error:
        tascnet.predict(network, samples, **options)
    assert says in str(error.value)


def test_what_is_no_model_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="the model is of type int"):
        open_model(3)
    unnamed = word_network()
    with pytest.raises(ConfigError, match="the network does not name its classes"):
        open_model(with_info(unnamed, replace(unnamed.info, class_names=())))


# Exported files


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory) -> Path:
    """A folder of `inside.onnx` and `outside.onnx`."""
    pytest.importorskip("onnxruntime")
    from tascnet.exporting.onnx_file import write_onnx

    folder = tmp_path_factory.mktemp("exported")
    for preprocess in ("outside", "inside"):
        write_onnx(network, folder / f"{preprocess}.onnx", preprocess=preprocess)
    return folder


@pytest.mark.deployed
@pytest.mark.parametrize(("preprocess", "tolerance"), [("outside", 1e-5), ("inside", 0.03)])
def test_an_exported_file_predicts_as_its_network(network, photos, exported, preprocess, tolerance) -> None:
    paths = [*paths_of(photos), str(photos / "absent.jpg")]
    expected = tascnet.predict(network, paths)
    found = tascnet.predict(exported / f"{preprocess}.onnx", paths, batch_size=4, threads=1)
    assert [record.sample for record in found] == paths
    for record, wanted in zip(found, expected, strict=True):
        assert record.unreadable == wanted.unreadable
        assert record.class_name == wanted.class_name
        if wanted.probability is not None:
            assert record.probability == pytest.approx(wanted.probability, abs=tolerance)
    with pytest.raises(ConfigError, match="runs on the CPU"):
        tascnet.predict(exported / "outside.onnx", paths, device="cuda")


@pytest.mark.deployed
def test_an_opened_file_says_what_its_network_says(network, exported) -> None:
    for preprocess in ("outside", "inside"):
        model = open_model(exported / f"{preprocess}.onnx")
        assert model.class_names == NAMES
        assert model.preprocessing == network.preprocessing
        assert model.takes_pixels == (preprocess == "inside")


@pytest.mark.deployed
def test_no_more_images_run_at_once_than_there_are_threads(exported, monkeypatch) -> None:
    model, at_once, running = open_model(exported / "inside.onnx", threads=2), set(), []

    def run(images):
        running.append(1)
        at_once.add(len(running))
        time.sleep(0.01)
        running.pop()
        return torch.zeros(len(images), len(NAMES))

    images = [np.zeros((2, 2, 3), np.uint8)] * 6
    replace(model, run=run)(images)
    assert at_once == {1, 2}
    alone = open_model(exported / "inside.onnx", threads=1)
    at_once.clear()
    replace(alone, run=run)(images)
    assert at_once == {1}
    assert (alone.batch_size, model.batch_size) == (1, 2)


@pytest.mark.deployed
def test_a_foreign_file_and_one_with_weights_elsewhere_are_refused(exported, tmp_path) -> None:
    import onnx

    model = onnx.load(exported / "outside.onnx")
    foreign, outside = onnx.ModelProto(), onnx.ModelProto()
    foreign.CopyFrom(model)
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    outside.CopyFrom(model)
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(4096))
    weight = next(tensor for tensor in outside.graph.initializer if len(tensor.dims) == 4)
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../secret.bin")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "outside.onnx").write_bytes(outside.SerializeToString())
    (tmp_path / "damaged.onnx").write_bytes((exported / "outside.onnx").read_bytes()[:-50])
    for name, says in (
        ("foreign.onnx", "was not exported by tascnet"),
        ("own/outside.onnx", "outside its folder"),
        ("damaged.onnx", "damaged.onnx"),
        ("absent.onnx", "there is no file"),
    ):
        with pytest.raises(ExportError, match=says):
            tascnet.predict(tmp_path / name, ["x.jpg"])


def test_without_onnx_runtime_a_file_is_one_sentence(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"needs onnx, onnxscript and onnxruntime: pip install"):
        tascnet.predict(tmp_path / "model.onnx", ["x.jpg"])


# Inputs


def test_a_folder_files_a_pattern_and_csvs_name_the_same_images(photos, tmp_path, monkeypatch) -> None:
    expected = paths_of(photos)
    for name in (".hidden.jpg", "Thumbs.db", "notes.txt"):
        (tmp_path / name).write_text("x")
    listed = tmp_path / "lists" / "some.csv"
    listed.parent.mkdir()
    listed.write_text("\ufefflabel,File\n" + "".join(f"a,{path}\n" for path in expected), encoding="utf-8")
    monkeypatch.chdir(photos.parent)
    name = photos.name
    relative = [str(Path(path).relative_to(photos.parent)) for path in expected]
    for given, wanted in (
        (str(photos), sorted(expected, key=lambda path: ("below" in path, path))),
        (tuple(expected), expected),
        (f"{name}/**/*.*", sorted(relative)),
        (name, relative),
        (str(listed), expected),
    ):
        inputs = Inputs(given, is_text=False)
        assert [*inputs] == [*inputs] == wanted
        assert inputs.total == 9
    (photos.parent / "own.csv").write_text(f"{name}/0.tif\n\n'quoted'.jpg\n")
    assert [*Inputs(str(photos.parent / "own.csv"), is_text=False)] == [
        str(photos.parent / name / "0.tif"),
        str(photos.parent / "'quoted'.jpg"),
    ]


def test_texts_are_lines_of_files_and_cells_of_a_column(tmp_path) -> None:
    (tmp_path / "one.txt").write_bytes(b"\xef\xbb\xbfa good film\r\n\nbad\n")
    (tmp_path / "two.csv").write_text('id,text\n1,"good, very"\n2,bad\n')
    (tmp_path / "not.md").write_text("never read\n")
    assert [*Inputs(str(tmp_path / "one.txt"), is_text=True)] == ["a good film", "", "bad"]
    assert [*Inputs(str(tmp_path), is_text=True)] == ["a good film", "", "bad"]
    both = (str(tmp_path / "two.csv"), str(tmp_path / "one.txt"))
    assert [*Inputs(both, is_text=True)][:3] == ["good, very", "bad", "a good film"]


def test_standard_input_gives_one_path_or_text_a_line(monkeypatch) -> None:
    def stdin(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    stdin(b"a.jpg\n\nb c.jpg\r\n")
    inputs = Inputs("-", is_text=False)
    assert inputs.total is None
    assert [*inputs] == ["a.jpg", "b c.jpg"]
    stdin(b"good\n\nbad")
    assert [*Inputs(("-",), is_text=True)] == ["good", "", "bad"]


@pytest.mark.parametrize(
    ("given", "content", "says"),
    [
        ("absent.jpg", None, "absent.jpg does not exist"),
        ("*.jpg", None, r"there is no image in .*\*.jpg"),
        (".", None, "there is no image in"),
        ("x.csv", "", "there is no image in"),
        ("x.csv", "name,label\na.jpg,cat\n", "the first line of .*x.csv names no column file"),
        ("x.csv", "label;file\ncat;a.jpg\n", "no commas separate the columns of .*x.csv"),
        ("x.csv", 'file\n"a.jpg\n', "line 2 of .*x.csv is broken"),
        ("x.csv", "label,file\ncat,a.jpg\ndog\n", "line 3 of .*x.csv has no cell file"),
    ],
)
def test_inputs_without_samples_are_one_sentence(given, content, says, tmp_path) -> None:
    if content is not None:
        (tmp_path / given).write_text(content)
    with pytest.raises(DataError, match=says):
        Inputs(str(tmp_path / given), is_text=False)


# Outputs

RECORDS = (
    Classified(sample="a.jpg", class_name="ant", probability=0.75, others=(("bee", 0.2), ("cat", 0.05))),
    Classified(sample='b,"\udcff.jpg', unreadable="empty file"),
)


def test_records_are_written_as_csv_and_json_lines(tmp_path, capfd) -> None:
    places = [tmp_path / "p.csv", tmp_path / "p.jsonl", "-"]
    assert write_predictions(RECORDS, places, top=3) == (2, 1)
    expected = (
        b"file,class,probability,second,second_probability,third,third_probability,unreadable\n"
        b"a.jpg,ant,0.75,bee,0.2,cat,0.05,\n"
        b'"b,""\xff.jpg",,,,,,,empty file\n'
    )
    assert (tmp_path / "p.csv").read_bytes() == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.csv", "p.jsonl"]
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert lines == [
        {
            "file": "a.jpg",
            "class": "ant",
            "probability": 0.75,
            "next": [{"class": "bee", "probability": 0.2}, {"class": "cat", "probability": 0.05}],
        },
        {"file": 'b,"\udcff.jpg', "unreadable": "empty file"},
    ]
    assert columns(12, "text")[0] == "text"
    assert columns(12)[-3:] == ["12th", "12th_probability", "unreadable"]


def test_the_csv_goes_to_standard_output(capsys) -> None:
    write_predictions(RECORDS[:1], ["-"], top=1)
    assert capsys.readouterr().out == "file,class,probability,unreadable\na.jpg,ant,0.75,\n"


def test_what_came_before_an_error_is_kept_beside_the_earlier_result(tmp_path, caplog) -> None:
    place = tmp_path / "p.csv"
    write_predictions(RECORDS[1:], [place], top=1)
    earlier = place.read_bytes()

    def broken():
        yield RECORDS[0]
        raise DataError("stopped")

    with pytest.raises(DataError, match="stopped"):
        write_predictions(broken(), [place], top=1)
    assert place.read_bytes() == earlier
    part = tmp_path / "p.csv.part"
    with open(part, newline="") as file:
        assert [row["class"] for row in csv.DictReader(file)] == ["ant"]
    assert str(part) in caplog.text
    # The next run begins again, and leaves no part.
    write_predictions(RECORDS, [place], top=1)
    assert not part.exists()
    assert len(place.read_text(errors="surrogateescape").splitlines()) == 3
    with pytest.raises(DataError, match="no samples"):
        write_predictions([], [place], top=1)
    assert len(place.read_text(errors="surrogateescape").splitlines()) == 3


def test_two_processes_do_not_write_one_file(tmp_path) -> None:
    place = tmp_path / "p.csv"
    with open(tmp_path / "p.csv.part", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(RunFolderError, match="another process is writing"):
            write_predictions(RECORDS, [place], top=1)
    assert not place.exists()
