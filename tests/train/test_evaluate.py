"""Loss and accuracy of a network on a split of a data set."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import tascnet
from tascnet.data.samples import open_samples
from tascnet.errors import ConfigError, DataError
from tascnet.models.head import HeadSpec, replace_head
from tascnet.models.info import with_info
from tascnet.run.records import EvaluateMetrics, read_record, write_record
from tascnet.train.evaluate import balanced_accuracy, calibration_error, effective_samples, evaluate_source
from tascnet.train.pretrain import PretrainResult
from tests.pipelines.models import COLOURS, colour_network
from tests.train.texts import write_texts


@pytest.fixture(scope="module")
def trained(cache: Path) -> PretrainResult:
    trainer = tascnet.preset("trainer", "digits", pretrain={"epochs": 2})
    network = tascnet.backbone("digits_cnn", weights="random")
    return tascnet.pretrain(network, tascnet.digits(), trainer=trainer, cache=cache)


def test_each_split_is_that_of_the_training(trained, cache: Path) -> None:
    after = trained.metrics.models["after"]
    data = tascnet.digits()
    for split, expected in (("val", after.val_accuracy), ("test", after.test_accuracy)):
        found = tascnet.evaluate(trained.network, data, split=split, device="cpu", cache=cache)
        assert found.accuracy == expected
    samples = open_samples(data, trained.network.preprocessing, seed=0, cache=cache)
    assert tascnet.evaluate(trained.network, data, cache=cache).samples == len(samples.test)
    expected = evaluate_source(trained.network, samples.train)
    assert tascnet.evaluate(trained.network, data, split="train", cache=cache).loss == pytest.approx(
        expected.loss
    )


def test_the_network_stays_as_it_is(trained, cache: Path) -> None:
    network = trained.network.train()
    before, state = str(network.conv1.weight.stride()), torch.get_rng_state()
    tascnet.evaluate(network, tascnet.digits(), cache=cache)
    assert network.training
    assert str(network.conv1.weight.stride()) == before
    assert torch.equal(state, torch.get_rng_state())
    network.eval()


def test_a_text_network_takes_texts_with_its_own_words(cache: Path, tmp_path: Path) -> None:
    data = tascnet.text_lines(write_texts(tmp_path, ("glad.txt", "sad.txt")), max_tokens=9)
    network = tascnet.backbone("textcnn", embedding_width=4, filters=3)
    result = tascnet.pretrain(network, data, cache=cache)
    found = tascnet.evaluate(result.network, data, split="val", device="cpu", cache=cache)
    assert found.accuracy == result.metrics.models["after"].val_accuracy


def test_mistakes_are_one_sentence(trained, cache: Path) -> None:
    with pytest.raises(ConfigError, match="`data` is of type str, expected a data set"):
        tascnet.evaluate(trained.network, "photos", cache=cache)
    with pytest.raises(ConfigError, match="no split 'tests': take train, val, test or all"):
        tascnet.evaluate(trained.network, tascnet.digits(), split="tests", cache=cache)
    with pytest.raises(
        ConfigError,
        match="no sample of digits is of a class of the model, 5, 6, 7, 8 and 9; its classes are 1",
    ):
        tascnet.evaluate(trained.network, tascnet.digits(classes=["1", "2"]), cache=cache)
    with pytest.raises(ConfigError, match=r"trained on another split of the data .* or `split=all`"):
        tascnet.evaluate(trained.network, tascnet.digits(), seed=1, cache=cache)
    bare = replace_head(trained.network, HeadSpec(), 5, seed=0)
    with pytest.raises(ConfigError, match="does not say which inputs"):
        tascnet.evaluate(bare, tascnet.digits(), cache=cache)
    assert tascnet.evaluate(with_info(bare, trained.network.info), tascnet.digits(), cache=cache).samples


def test_without_a_split_all_samples_of_other_data_are_read(trained, cache: Path, logged) -> None:
    """Two digits of the training set in another order, and one that the network has never had."""
    other = tascnet.digits(classes=["9", "3", "5"])
    found = tascnet.evaluate(trained.network, other, cache=cache)
    # scikit-learn has 180 nines, 183 threes and 182 fives.
    assert (found.split, found.samples) == ("all", 180 + 182)
    assert found.only_in_data == {"3": 183}
    assert found.only_in_model == ("6", "7", "8")
    assert [(row.name, row.samples) for row in found.classes] == [
        *(("5", 182), ("6", 0), ("7", 0), ("8", 0), ("9", 180)),
    ]
    assert "INFO: all samples of digits are read; a part" in "\n".join(logged)
    assert "WARNING: digits lacks 3 classes of the model: 6, 7 and 8" in logged
    assert "WARNING: the model lacks 1 class of digits: 3; their 183 samples are in no accuracy" in logged
    tascnet.evaluate(trained.network, other, split="test", cache=cache)
    assert "WARNING: digits is not exactly the data that the model was trained on" in "\n".join(logged)
    own = tascnet.evaluate(trained.network, tascnet.digits(), split="all", cache=cache)
    assert own.samples == 182 + 181 + 179 + 174 + 180
    assert any(
        "all samples of digits are read, those that the model was trained on" in line for line in logged
    )


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of four red images one is green, of three blue ones one is red; two are purple, a class of its own."""
    root = tmp_path_factory.mktemp("colours")
    shades = {"blue": ("blue", "blue", "red"), "purple": ("red", "blue"), "red": ("red",) * 3 + ("green",)}
    for name, shown in shades.items():
        (root / name).mkdir()
        for number, colour in enumerate(shown):
            size = (8 + number, 9)
            Image.new("RGB", size, COLOURS[colour]).save(root / name / f"{number}.png")
    return root


def check_colours(found: EvaluateMetrics) -> None:
    assert (found.split, found.samples) == ("all", 7)
    assert found.accuracy == 5 / 7
    assert found.balanced_accuracy == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert found.only_in_model == ("green",)
    assert found.only_in_data == {"purple": 2}
    assert [(row.name, row.samples) for row in found.classes] == [("red", 4), ("green", 0), ("blue", 3)]
    red, green, blue = found.classes
    # Red is predicted four times, three of them rightly; blue twice, rightly.
    assert (red.recall, red.precision) == (3 / 4, 3 / 4)
    assert (blue.recall, blue.precision) == (pytest.approx(2 / 3), 1.0)
    assert (green.recall, green.precision) == (0, 0)
    assert found.confusion == ((0, 0, 3), (0, 1, 1), (2, 0, 1), (2, 2, 2))
    # All images have one logit of 4 * 250 / 255 and two of 0, so that all lie in one bin.
    share = math.exp(4 * 250 / 255) / (math.exp(4 * 250 / 255) + 2)
    assert found.mean_probability == pytest.approx(share, abs=1e-5)
    assert found.calibration_error == pytest.approx(share - 5 / 7, abs=1e-5)
    wrong = math.log(math.exp(4 * 250 / 255) + 2)
    assert found.loss == pytest.approx((5 * (wrong - 4 * 250 / 255) + 2 * wrong) / 7, abs=1e-5)


def test_names_of_classes_are_compared_as_they_look(cache: Path, tmp_path: Path) -> None:
    """`café` of one letter é, and of e and an accent, as macOS writes names of files."""
    for folder, name in (("linux", "caf\u00e9"), ("mac", "cafe\u0301")):
        for label, colour in ((name, "red"), ("thé", "green"), ("blue", "blue")):
            (tmp_path / folder / label).mkdir(parents=True)
            for number in range(3):
                image = Image.new("RGB", (8 + number, 9), COLOURS[colour])
                image.save(tmp_path / folder / label / f"{number}.png")
    network = colour_network(("caf\u00e9", "thé", "blue"))
    found = [
        tascnet.evaluate(network, tascnet.image_folder(tmp_path / folder), split="all", cache=cache)
        for folder in ("linux", "mac")
    ]
    assert [one.accuracy for one in found] == [1.0, 1.0]
    assert found[1].only_in_model == ()
    # A model that tells both apart keeps doing so.
    both = colour_network(("caf\u00e9", "cafe\u0301", "blue"))
    linux = tascnet.evaluate(both, tascnet.image_folder(tmp_path / "linux"), split="all", cache=cache)
    assert linux.only_in_model == ("cafe\u0301",)


def test_classes_are_matched_by_name(colours: Path, cache: Path, tmp_path: Path) -> None:
    network = colour_network()
    tascnet.save(network, tmp_path / "model")
    data = tascnet.image_folder(colours)
    found = tascnet.evaluate(network, data, cache=cache)
    check_colours(found)
    saved = tascnet.evaluate(tmp_path / "model", data, cache=cache)
    assert saved == replace(found, model=str(tmp_path / "model"), seconds=saved.seconds)
    # Two purple images are too few to be split.
    with pytest.raises(DataError, match="'purple' has 1 distinct samples"):
        tascnet.evaluate(network, data, split="test", cache=cache)
    write_record(tmp_path / "metrics.json", found)
    assert read_record(tmp_path / "metrics.json", EvaluateMetrics) == found


@pytest.mark.deployed
@pytest.mark.parametrize("preprocess", ["outside", "inside"])
def test_an_exported_file_is_evaluated_as_its_network(
    preprocess: str, colours: Path, cache: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    from tascnet.exporting.onnx_file import write_onnx

    path = tmp_path / "model.onnx"
    write_onnx(colour_network(), path, preprocess=preprocess)
    found = tascnet.evaluate(path, tascnet.image_folder(colours), cache=cache, threads=1)
    check_colours(found)
    assert found.model == str(path)


@pytest.mark.deployed
def test_an_exported_file_finds_its_own_test_split(trained, cache: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from tascnet.exporting.onnx_file import write_onnx

    write_onnx(trained.network, tmp_path / "digits.onnx", preprocess="outside")
    found = tascnet.evaluate(tmp_path / "digits.onnx", tascnet.digits(), cache=cache)
    expected = tascnet.evaluate(trained.network, tascnet.digits(), device="cpu", cache=cache)
    assert found.split == "test"
    assert found.accuracy == expected.accuracy
    assert found.loss == pytest.approx(expected.loss, abs=1e-5)
    with pytest.raises(ConfigError, match="another split"):
        tascnet.evaluate(tmp_path / "digits.onnx", tascnet.digits(), seed=1, cache=cache)


def test_the_expected_calibration_error_by_hand() -> None:
    shares = torch.tensor([0.95, 0.95, 0.62, 0.62, 0.62])
    correct = torch.tensor([True, False, True, True, False])
    # Two bins: 2/5 of |1/2 - 0.95| and 3/5 of |2/3 - 0.62|.
    expected = 2 / 5 * 0.45 + 3 / 5 * (2 / 3 - 0.62)
    assert calibration_error(shares, correct) == pytest.approx(expected, abs=1e-6)
    # In one bin over- and underconfidence cancel out: the mean share is 0.752, and 3/5 are correct.
    assert calibration_error(shares, correct, bins=1) == pytest.approx(0.152, abs=1e-6)
    # The upper edge of a bin belongs to it.
    edges = torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64)
    gap = (0.75 + 0.5 + 0) / 3
    assert calibration_error(edges, torch.ones(3), bins=4) == pytest.approx(gap)
    assert calibration_error(torch.ones(4), torch.ones(4)) == 0


class Logits:
    """Samples that are the logits of a network that passes them on."""

    def __init__(self, logits: Tensor, labels: list[int]) -> None:
        self.logits, self.labels, self.num_classes = logits, torch.tensor(labels), logits.shape[1]

    def __len__(self) -> int:
        return len(self.logits)

    def batch(self, rows: Tensor, generator: torch.Generator | None) -> Tensor:
        return self.logits[rows]


def test_a_rare_class_counts_as_much_as_a_frequent_one() -> None:
    # Three of four samples of class 0, none of two of class 1, one of one of class 3; class 2 has none.
    named = [0, 0, 0, 1, 0, 2, 3]
    source = Logits(torch.eye(4)[named], [0, 0, 0, 0, 1, 1, 3])
    found = evaluate_source(nn.Identity(), source, batch_size=3)
    assert found.accuracy == 4 / 7
    assert found.balanced_accuracy == pytest.approx((3 / 4 + 0 + 1) / 3)
    assert found.predictions.tolist() == named
    assert found.top5_accuracy is None
    assert balanced_accuracy(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 1])) == 1.0
    # Classes of one size: it is the accuracy.
    assert balanced_accuracy(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1])) == 0.75


def test_top5_accuracy_of_ten_classes() -> None:
    # The classes in falling order are 0, 1, 2 and so on, so that the first five are among the likeliest.
    logits = torch.arange(10, 0, -1).float().expand(4, 10)
    assert evaluate_source(nn.Identity(), Logits(logits, [0, 4, 5, 9])).top5_accuracy == 0.5
    assert evaluate_source(nn.Identity(), Logits(logits[:, :9], [0, 4, 5, 8])).top5_accuracy is None


def test_the_samples_that_count_for_a_standard_error() -> None:
    labels = torch.tensor([0] * 2 + [1] * 4 + [3] * 4)
    assert effective_samples(labels, "accuracy") == 10
    # Three classes: 3^2 / (1/2 + 1/4 + 1/4).
    assert effective_samples(labels, "balanced_accuracy") == pytest.approx(9)
    assert effective_samples(torch.arange(12) % 3, "balanced_accuracy") == pytest.approx(12)
    # The standard error of the mean of two recalls of 0.5, of 2 and 8 samples.
    n = effective_samples(torch.tensor([0] * 2 + [1] * 8), "balanced_accuracy")
    assert (0.25 / n) ** 0.5 == pytest.approx((0.25 / 2 + 0.25 / 8) ** 0.5 / 2)
