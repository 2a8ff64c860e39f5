"""The server example: what it answers, and its page in a browser."""

import inspect
import io
import sys
import threading
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from tascnet.models.info import ModelInfo, with_info
from tascnet.models.preprocessing import Preprocessing
from tascnet.report.card import model_card
from tests.examples.browser import Browser, program
from tests.report.records import tune_metrics

SERVE = Path(__file__).resolve().parents[2] / "examples" / "serve.py"
COLOURS = ("<b>blue</b>", "green", "red", "cyan", "magenta", "yellow")
pytestmark = pytest.mark.deployed


def colour_network():
    """A network that names the colour of an image."""
    layers = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, len(COLOURS)))
    signs = [(-1, -1, 1), (-1, 1, -1), (1, -1, -1), (-1, 1, 1), (1, -1, 1), (1, 1, -1)]
    with torch.no_grad():
        layers[-1].weight.copy_(4 * torch.tensor(signs))
        layers[-1].bias.zero_()
    square = Preprocessing(size=16, resize=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    info = ModelInfo(
        backbone="colours", preprocessing=square, class_names=COLOURS, weights="ours", licence="MIT"
    )
    return with_info(layers.eval(), info)


@pytest.fixture(scope="module")
def serve(tmp_path_factory):
    """The example, loaded with an exported file as its argument."""
    for package in ("onnx", "onnxscript", "onnxruntime", "fastapi", "uvicorn"):
        pytest.importorskip(package)
    from tascnet.exporting.onnx_file import write_onnx

    path = tmp_path_factory.mktemp("export") / "colours.onnx"
    write_onnx(colour_network(), path, preprocess="inside")
    return loaded(path)


def loaded(path):
    spec = spec_from_file_location("serve", SERVE)
    module = module_from_spec(spec)
    before, sys.argv = sys.argv, ["serve.py", str(path)]
    try:
        spec.loader.exec_module(module)
    finally:
        sys.argv = before
    return module


def picture(colour, kind="PNG", size=(40, 30), **options):
    content = io.BytesIO()
    Image.new("RGB", size, colour).save(content, kind, **options)
    return content.getvalue()


@pytest.fixture(scope="module")
def client(serve):
    # Of the test client.
    pytest.importorskip("httpx2")
    from fastapi.testclient import TestClient

    with TestClient(serve.app) as client:
        yield client


@pytest.mark.parametrize(
    "kind", ["image/png", "application/octet-stream", "application/x-www-form-urlencoded"]
)
def test_five_classes_the_best_first(client, kind):
    answer = client.post("/predict", content=picture((0, 250, 10)), headers={"Content-Type": kind})
    assert answer.status_code == 200, answer.text
    found = answer.json()["predictions"]
    assert [one["class"] for one in found][:3] == ["green", "cyan", "yellow"]
    assert len(found) == 5
    shares = [one["probability"] for one in found]
    assert shares == sorted(shares, reverse=True)
    # The square is (-1, 0.96, -0.92) after normalisation, so that the logits are 4 times these sums.
    logits = 4 * torch.tensor([-0.88, 2.88, -1.04, 1.04, -2.88, 0.88])
    expected = logits.softmax(0).sort(descending=True).values[:5]
    torch.testing.assert_close(torch.tensor(shares), expected, atol=2e-3, rtol=0)


def test_images_are_decoded_as_the_model_card_says(serve):
    assert inspect.getsource(serve.decode) in model_card(colour_network().info, tune_metrics())


@pytest.mark.parametrize("content", [b"no image", picture("red")[:60], b""], ids=["text", "torn", "empty"])
def test_what_is_no_image_is_refused(client, content):
    answer = client.post("/predict", content=content, headers={"Content-Type": "image/png"})
    assert answer.status_code in (415, 422)
    assert answer.json()["detail"]


def test_a_file_that_takes_prepared_inputs_is_refused(serve, tmp_path, capsys):
    import onnx

    model = onnx.load(serve.args.model)
    (entry,) = (entry for entry in model.metadata_props if entry.key == "preprocess")
    entry.value = '"outside"'
    onnx.save(model, tmp_path / "outside.onnx")
    with pytest.raises(SystemExit):
        loaded(tmp_path / "outside.onnx")
    assert "takes no pixels: export it with export.preprocess=inside" in capsys.readouterr().err


def test_the_example_stays_short():
    assert len(SERVE.read_text().splitlines()) < 60


@pytest.fixture(scope="module")
def address(serve):
    """Where the server listens, on a free port."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(serve.app, port=0, log_level="warning", ws="none"))
    # A daemon: what fails before the end must not keep the tests from ending.
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 20
    while not server.started:
        assert thread.is_alive()
        assert time.monotonic() < end
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join(20)


@pytest.mark.skipif(program() is None, reason="there is no Chromium")
def test_the_page_names_what_is_chosen_and_dropped(address, tmp_path):
    for name, colour in (("a.png", "blue"), ("b.png", "red")):
        (tmp_path / name).write_bytes(picture(colour))
    (tmp_path / "c.png").write_bytes(b"no image")
    (tmp_path / "profile").mkdir()
    first = "document.querySelector('#result li')?.innerText"
    with Browser(tmp_path / "profile") as page:
        page.open(address, 400, 800)
        assert page.value("document.documentElement.scrollWidth") <= 400
        page.choose("#drop input", tmp_path / "a.png")
        page.wait(f"{first}?.startsWith('<b>blue</b>')")
        assert page.value("document.querySelectorAll('#result li').length") == 5
        # Logits of 12, twice 4, twice -4 and -12: 1 / (1 + 2 exp(-8) + ...) = 0.9993.
        assert page.value(first).split()[-2:] == ["99.9", "%"]
        assert page.value("document.querySelector('#drop img').naturalWidth") == 40
        page.drop("#drop", tmp_path / "b.png")
        page.wait(f"{first}?.startsWith('red')")
        page.drop("#drop", tmp_path / "c.png")
        page.wait("document.querySelector('#result .wrong')?.innerText.includes('no image that can be read')")
