"""The model card: its figures, that its lines of code do what training did, and that names stay names."""

import contextlib
import io
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from markdown_it import MarkdownIt
from PIL import Image
from torch import nn

import tascnet
from tascnet.data import module_digest
from tascnet.models.chains.small import textcnn_chain
from tascnet.models.info import ModelInfo, with_info
from tascnet.models.preprocessing import Preprocessing
from tascnet.models.text import TextPreprocessing
from tascnet.pruning import prune
from tascnet.report import recommendation_lines
from tascnet.report.card import as_code, in_markdown, model_card, update_card
from tascnet.run.records import ExportedFile, ExportMetrics, RuntimeLatency, write_record
from tests.pruning import toy
from tests.pruning.toy import DATA, QUICK, SMALL
from tests.report.records import (
    MACHINE,
    NAMES,
    model,
    pretrain_metrics,
    prune_metrics,
    sampled,
    timed,
    tune_metrics,
)

SQUARE = Preprocessing(size=24, resize=27, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
WORDS = TextPreprocessing(
    max_tokens=7, vocabulary=("[PAD]", "[UNK]", "a", "cafe", "is", "good", ".", "'", "_", "“", "5€")
)


def info(preprocessing=SQUARE, class_names=NAMES):
    return ModelInfo(
        backbone="cnn", preprocessing=preprocessing, class_names=class_names, weights="ours", licence="MIT"
    )


def exported(*files, digest="d"):
    return ExportMetrics(
        weights_digest=digest,
        files=files,
        machine=MACHINE,
        seconds=1.0,
        versions={},
    )


FILES = (
    ExportedFile(
        format="onnx",
        path="net.onnx",
        size_bytes=4000,
        preprocess="inside",
        samples=50,
        equal_classes=1.0,
        largest_difference=0.0125,
    ),
    ExportedFile(
        format="onnx_int8",
        path="net_int8.onnx",
        size_bytes=1000,
        preprocess="inside",
        samples=50,
        equal_classes=0.96,
        largest_difference=None,
        val_accuracy=0.79,
        float_val_accuracy=0.8,
        calibration="minmax",
        float_layers=("conv1",),
        checked_on="Chip with VNNI",
    ),
)


def blocks(card):
    """The blocks of Python, in order."""
    return re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)


def test_figures_of_the_model_and_of_the_one_that_it_is_compared_with():
    latencies = (
        RuntimeLatency(
            runtime="onnxruntime_int8",
            threads=1,
            device="cpu",
            latency_ms=1.25,
            latency_ms_spread=(1.2, 1.3),
            latency_ms_batch=17.5,
            latency_ms_batch_spread=(17.0, 18.0),
        ),
    )
    models = {
        "before": model(test_accuracy=0.9, params=2_000_000),
        "after": model(test_accuracy=0.875, test_top5_accuracy=0.99, params=50_000, latencies=latencies),
    }
    card = model_card(info(), prune_metrics(models=models))
    assert "| | this model | before |" in card
    assert "| test accuracy (5,130 samples) | 87.5 % | 90.0 % |" in card
    assert "| test top-5 accuracy (5,130 samples) | 99.0 % | – |" in card
    assert "| parameters | 50,000 | 2,000,000 |" in card
    assert "| ONNX Runtime int8 | 1 | 1.25 ms | 17.5 ms |" in card
    assert "on Chip (device cpu, torch 2)" in card
    assert "| images | 2,040 | 1,020 | 5,130 |" in card
    assert "- Weights: ours; licence: MIT." in card
    assert "- Data set: the garden; licence: CC BY 4.0." in card
    assert "torch 2.6.0" in card
    assert "`iris`, `rose`, `tulip`." in card
    assert "The shorter side is resized to 27 pixels" in card


def test_each_stage_says_what_it_did():
    assert "trial 2 of 3 trials" in model_card(info(), tune_metrics())
    assert "(2 iterations)" in model_card(info(), prune_metrics())
    assert "| | this model |\n" in model_card(info(), pretrain_metrics())


def test_of_many_classes_the_first_are_named():
    card = model_card(info(class_names=tuple(f"c{i}" for i in range(1001))), tune_metrics())
    assert "1,001 classes" in card
    assert "`c29`, and 971 more." in card
    assert "`c30`" not in card


def test_what_a_model_cannot_do_is_said():
    counts = ((10, 5, 4), (10, 5, 4), (10, 5, 4))
    metrics = tune_metrics(samples=sampled(counts, leaked=1, near_duplicates=2))
    card = model_card(info(), metrics)
    assert "1 of 27 validation and test samples has a copy in another part" in card
    assert "2 of 27 validation and test samples look like a training sample" in card
    assert "were not counted" not in card
    assert "were not counted" in model_card(info(), tune_metrics())


def test_the_exported_files_and_how_they_were_checked():
    card = model_card(info(), tune_metrics(), exported(*FILES))
    assert "| `net.onnx` | 4.0 kB | pixels | 50 | 100.0 % | 0.013 | – (–) |" in card
    assert "| `net_int8.onnx` | 1.0 kB | pixels | 50 | 96.0 % | – | 79.0 % (80.0 %) |" in card
    assert "`net_int8.onnx`: ranges by minmax, 1 layer left in float, checked on Chip with VNNI." in card
    assert 'InferenceSession("net.onnx")' in card
    assert "tascnet.export(" not in card


HOSTILE = (
    "<script>alert(1)</script>",
    "`a` ``b``",
    "one\n# two",
    "[x](http://y.z) | <b>",
    "*a*_b_~~c~~ ![i](j) &lt; @me \\",
    "\x1b[31m\u202ered",
    "",
)


def test_the_card_advises_as_the_page_does():
    """Its int8 file costs one point of validation accuracy, and takes half the time."""
    timed_model = model(
        latencies=(timed("eager", 8.0), timed("onnxruntime", 4.0, 9.0), timed("onnxruntime_int8", 2.0, 4.0))
    )
    metrics, export = tune_metrics(models={"after": timed_model}), exported(*FILES)
    card = model_card(info(), metrics, export, int8=model(test_accuracy=0.7))
    lines = recommendation_lines(timed_model, export, int8=model(test_accuracy=0.7))
    assert "Deploy `net_int8.onnx` in ONNX Runtime int8: 2.00 ms" in lines[0]
    assert f"\n\n{' '.join(lines)}\n\n## Use" in card
    assert "Deploy" not in model_card(info(), tune_metrics(), export), "it was not timed"


def test_hostile_names_are_shown_as_they_are():
    counts = [(4, 4, 4)] * len(HOSTILE)
    rows = tuple(replace(model().classes[0], name=name) for name in HOSTILE)
    metrics = tune_metrics(
        dataset=HOSTILE[3],
        backbone=HOSTILE[4],
        models={"after": model(classes=rows, confusion=())},
        samples=sampled(counts, HOSTILE, origin=HOSTILE[0], licence=HOSTILE[2]),
    )
    card = model_card(info(class_names=HOSTILE), metrics)
    assert "\x1b" not in card
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(card)
    inline = [child for token in tokens for child in token.children or ()]
    kinds = {token.type for token in (*tokens, *inline)}
    assert not kinds & {"html_block", "html_inline", "link_open", "image", "em_open", "s_open", "strong_open"}
    headings = [token.tag for token in tokens if token.type == "heading_open"]
    assert headings == ["h1"] + ["h2"] * 7
    shown = [child.content for child in inline if child.type == "code_inline"]
    assert {HOSTILE[0], HOSTILE[1], r"one\n# two", HOSTILE[3], r"\x1b[31m\u202ered"} <= set(shown)


@pytest.mark.parametrize("text", HOSTILE)
def test_escaped_text_is_rendered_as_it_was(text):
    def rendered(markdown):
        (token,) = [token for token in MarkdownIt().parse(f"x {markdown} x") if token.type == "inline"]
        return "".join(child.content for child in token.children)

    shown = {"\n": "\\n", "\x1b": "\\x1b", "\u202e": "\\u202e"}
    plain = "".join(shown.get(letter, letter) for letter in text)
    assert rendered(in_markdown(text)) == f"x {plain} x"
    assert rendered(as_code(text)).split() == f"x {plain} x".split()


def image_files(folder):
    """Images of many kinds, each of another look, by the names of their files."""
    generator = np.random.default_rng(0)
    rough = generator.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    picture = Image.fromarray(rough).resize((61, 47), Image.Resampling.BICUBIC)
    turned = Image.Exif()
    turned[0x0112] = 6
    clear = picture.copy()
    clear.putalpha(Image.linear_gradient("L").resize(picture.size))
    palette = picture.quantize(16)
    deep = Image.fromarray(np.linspace(0, 65535, 47 * 61).reshape(47, 61).astype(np.uint16))
    saved = {
        "turned.jpg": (picture, {"exif": turned, "quality": 95}),
        "clear.png": (clear, {}),
        "palette.png": (palette, {"transparency": 3}),
        "grey.png": (picture.convert("L"), {}),
        "grey_clear.png": (clear.convert("LA"), {}),
        "cmyk.jpg": (picture.convert("CMYK"), {"quality": 95}),
        "deep.png": (deep, {}),
        "bits.png": (picture.convert("1"), {}),
        "strip.png": (picture.resize((301, 30)), {}),
        "tiny.png": (picture.resize((3, 2)), {}),
    }
    for name, (image, options) in saved.items():
        image.save(folder / name, **options)
    return sorted(saved)


def ran(code, **changes):
    """The names that a block of code left, and what it printed, with some of its texts changed."""
    for old, new in changes.items():
        assert f'"{old}"' in code
        code = code.replace(f'"{old}"', repr(str(new)))
    names, printed = {}, io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "card", "exec"), names)
    return names, printed.getvalue()


def tiny(preprocessing=SQUARE):
    """A network whose classes differ by colour, and its folder's info."""
    torch.manual_seed(0)
    channels = len(preprocessing.mean)
    layers = nn.Sequential(
        nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )
    with torch.no_grad():
        layers[-1].weight.mul_(10)
    return with_info(layers.eval(), info(preprocessing))


@pytest.mark.deployed
def test_the_lines_for_pixels_do_what_training_did(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    from tascnet.exporting.onnx_file import write_onnx

    net = tiny()
    write_onnx(net, tmp_path / "model.onnx", preprocess="inside")
    code = blocks(model_card(net.info, tune_metrics()))[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 24
    monkeypatch.chdir(tmp_path)
    for name in image_files(tmp_path):
        names, printed = ran(code, **{"photo.jpg": tmp_path / name})
        pixels = names["decode"](name)
        assert np.array_equal(pixels, net.preprocessing.decode(name)), name
        expected = net(net.preprocessing(name)[None]).softmax(1)[0]
        # The graph rounds a pixel in some hundreds to the next level.
        assert np.abs(names["probabilities"] - expected.detach().numpy()).max() < 0.02, name
        best = printed.split()
        assert best[1] == NAMES[int(expected.argmax())]
        assert sorted(best[1::2]) == sorted(NAMES)


KINDS = {
    "centre": SQUARE,
    "uncut": replace(SQUARE, resize=24, interpolation="bicubic"),
    "squash": replace(SQUARE, crop="squash", resize=31, interpolation="lanczos"),
    "grey": replace(SQUARE, mean=(0.3,), std=(0.5,)),
}


@pytest.mark.deployed
def test_the_lines_for_prepared_inputs_do_what_training_did(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    from tascnet.exporting.onnx_file import write_onnx

    monkeypatch.chdir(tmp_path)
    files = image_files(tmp_path)
    for kind, preprocessing in KINDS.items():
        _, before, after = blocks(model_card(info(preprocessing), tune_metrics()))
        lines = before.split("session =")[0] + after.split("\n\n\n(logits,)")[0]
        names, _ = ran(lines)
        for name in files:
            expected = preprocessing(name).numpy()
            prepared = names["prepare"](names["decode"](name))
            assert prepared.dtype == np.float32, kind
            assert prepared.shape == expected.shape
            np.testing.assert_allclose(prepared, expected, rtol=1e-5, atol=1e-6, err_msg=f"{kind} {name}")
    net = tiny()
    write_onnx(net, tmp_path / "model.onnx")
    _, before, after = blocks(model_card(net.info, tune_metrics()))
    code = before.split("(logits,)")[0] + after
    names, _ = ran(code, **{"photo.jpg": "turned.jpg"})
    expected = net(net.preprocessing("turned.jpg")[None]).detach().numpy()
    np.testing.assert_allclose(names["logits"], expected, atol=1e-4)


@pytest.mark.deployed
def test_the_lines_for_texts_do_what_training_did(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    from tascnet.exporting.onnx_file import write_onnx

    torch.manual_seed(0)
    layers = textcnn_chain(3, len(WORDS.vocabulary), 6, 4).eval()
    net = with_info(layers, info(WORDS))
    write_onnx(net, tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    _, code = blocks(model_card(net.info, tune_metrics()))
    texts = ["A Café is GOOD.", "a_b 'cafe'", "", "unheard of", "“5€”\tgood\n. . . . . . . a"]
    for text in texts:
        names, printed = ran(code, **{"a text of some words": text})
        assert names["prepare"](text).tolist() == WORDS(text).tolist()
        expected = net(WORDS(text)[None]).detach().numpy()
        np.testing.assert_allclose(names["logits"], expected, atol=1e-5)
        assert printed.strip() == NAMES[int(expected.argmax())]


def test_a_finished_stage_keeps_its_card(tmp_path, caplog):
    folder = tmp_path / "run"
    card = folder / "model" / "README.md"
    again = lambda **own: prune(  # noqa: E731
        toy.network(), DATA, tascnet.Prune(**SMALL), cache=tmp_path / "cache", run=folder, **QUICK | own
    )
    result = again()
    first = card.read_text()
    accuracy = 100 * result.metrics.models["after"].test_accuracy
    assert f"| {accuracy:.1f} % |" in first
    assert tascnet.load(folder / "model").info == result.network.info
    card.unlink()
    again()
    assert card.read_text() == first
    # What somebody wrote into it stays until there are other figures.
    card.write_text("mine")
    again()
    assert card.read_text() == "mine"
    network = tascnet.load(folder / "model")
    write_record(folder / "export" / "metrics.json", exported(*FILES, digest=module_digest(network)))
    update_card(folder, network)
    assert "| `net.onnx` |" in card.read_text()
    # Measured again beside other networks.
    latencies = (timed("eager", 8.0), timed("onnxruntime", 4.0))
    update_card(folder, network, replace(result.metrics.models["after"], threads=2, latencies=latencies))
    assert "Deploy `net.onnx` in ONNX Runtime: 4.00 ms" in card.read_text()
    again(measure=replace(QUICK["measure"], batch=QUICK["measure"].batch + 1))
    assert "| `net.onnx` |" in card.read_text()
    write_record(folder / "export" / "metrics.json", exported(*FILES, digest="of another model"))
    update_card(folder, network)
    assert "net.onnx" not in card.read_text()
    (folder / "export" / "metrics.json").write_text("{}")
    update_card(folder, network)
    assert "the model card leaves the export out" in caplog.text
    assert "## Limits" in card.read_text()
