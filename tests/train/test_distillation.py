"""Teachers: their answers, their features, and answers that are cached where inputs are."""

import copy
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tascnet.data import cached_features, open_samples
from tascnet.data.named import digits
from tascnet.data.samples import Samples
from tascnet.errors import ConfigError
from tascnet.models.info import ModelInfo, with_info
from tascnet.models.preprocessing import Preprocessing
from tascnet.models.text import SPECIAL, TextPreprocessing
from tascnet.options import Recipe
from tascnet.train import Distillation, fit
from tascnet.train.distillation import CommonFeatures, adapted, common_features

GREY = Preprocessing(size=8, resize=8, mean=(0.5,), std=(0.5,))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """Digits in two views."""
    options = digits(train=6, val=4, flip=True, classes=("5", "6", "7"))
    return open_samples(options, GREY, seed=0, cache=tmp_path_factory.mktemp("cache"))


def network(widths: tuple[int, int] = (4, 6), classes: int = 3, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        blocks = OrderedDict(
            conv1=nn.Conv2d(1, widths[0], 3, padding=1),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(widths[0], widths[1], 3, padding=1),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Linear(widths[1], classes),
        )
    return nn.Sequential(blocks).eval()


def without(chain: nn.Sequential, *names: str) -> nn.Sequential:
    return nn.Sequential(OrderedDict((n, b) for n, b in chain.named_children() if n not in names))


def described(chain: nn.Sequential, preprocessing: Any, names: tuple[str, ...]) -> nn.Sequential:
    values = {"backbone": "toy", "weights": "random", "licence": "none"}
    return with_info(chain, ModelInfo(preprocessing=preprocessing, class_names=names, **values))


def test_answers_by_hand() -> None:
    """At temperature 2 the teacher says 3/4 and 1/4, the student 1/2 and 1/2."""
    teacher = nn.Sequential(nn.Linear(1, 2, bias=False))
    student = nn.Sequential(nn.Linear(1, 2, bias=False))
    with torch.no_grad():
        teacher[0].weight.copy_(torch.tensor([[2 * math.log(3)], [0.0]]))
        student[0].weight.zero_()
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    distillation = Distillation(teacher=teacher, weight=0.25)
    ones = torch.ones(5, 1)
    loss = distillation.loss(student, ones, lambda logits: logits.sum() + 8.0)
    assert float(loss.detach()) == pytest.approx(0.75 * 8 + 0.25 * 4 * divergence)
    # Answers that are given take the teacher's place.
    same = distillation.loss(student, ones, lambda logits: logits.sum() + 8.0, torch.zeros(5, 2))
    assert float(same.detach()) == pytest.approx(0.75 * 8)


def test_features_by_hand() -> None:
    """Errors of 2 beside a variance of 8, and a projection that has none."""
    common = CommonFeatures(block="conv", weight=3.0, variance=8.0)
    assert float(common.loss(torch.zeros(2, 1, 3, 3), torch.full((2, 1, 3, 3), 2.0))) == pytest.approx(1.5)
    double = torch.tensor([[2.0], [0.0]]), torch.tensor([0.0, 5.0])
    own = torch.arange(4.0).reshape(1, 1, 2, 2)
    goal = torch.stack([2 * own[:, 0], torch.full((1, 2, 2), 5.0)], dim=1)
    assert float(replace(common, projection=double).loss(own, goal)) == 0.0


@pytest.mark.parametrize(
    ("student", "block", "has_projection"),
    [
        (network(seed=1), "flatten", False),
        (without(network((4, 4)), "conv2"), "relu1", False),
        # Pooled features of another width are no map of the same size, the convolution's are.
        (network((4, 3)), "conv2", True),
        (network((2, 6)), "flatten", False),
    ],
)
def test_the_last_common_block(
    student: nn.Sequential, block: str, has_projection: bool, samples: Samples, logged: list[str]
) -> None:
    common = common_features(network(), student, samples, weight=1.0)
    assert common is not None
    assert (common.block, common.projection is not None) == (block, has_projection)
    (line,) = logged
    assert line.startswith(f"INFO: features of block {block} are learnt from the teacher")
    assert ("predicted from 3 of 6 channels" in line) == has_projection


def test_the_variance_is_that_of_the_teachers_channels(samples: Samples) -> None:
    teacher = network()
    common = common_features(teacher, network((4, 3)), samples, weight=1.0)
    assert common is not None
    with torch.no_grad():
        maps = teacher[:3](samples.train.batch(torch.arange(len(samples.train))))
    assert common.variance == pytest.approx(float(maps.var((0, 2, 3), correction=0).mean()), rel=1e-5)


def test_a_projection_predicts_what_can_be_predicted(samples: Samples) -> None:
    """Sums and differences of the student's channels are the teacher's, up to the ridge."""
    teacher = network()
    student = network((4, 4))
    mixing = torch.tensor(
        [[1.0, 1, 0, 0], [1, -1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [2, 0, 0, 1], [0, 0, 1, 1]]
    )
    with torch.no_grad():
        for name in ("weight", "bias"):
            getattr(teacher.conv1, name).copy_(getattr(student.conv1, name))
            own = getattr(student.conv2, name)
            getattr(teacher.conv2, name).copy_(
                (mixing @ own.flatten(1)).view(6, *own.shape[1:]) if own.dim() > 1 else mixing @ own
            )
        teacher.conv2.bias += 3.0
    common = common_features(teacher, student, samples, weight=1.0)
    assert common is not None
    inputs = samples.val.batch(torch.arange(len(samples.val)))
    assert float(common.loss(student[:3](inputs), teacher[:3](inputs)).detach()) < 1e-3


def test_without_a_common_block_features_are_not_learnt(samples: Samples, logged: list[str]) -> None:
    student = nn.Sequential(OrderedDict(flat=nn.Flatten(), classifier=nn.Linear(64, 3)))
    taught = Distillation.of(network(), student, samples, weight=0.5, features=1.0)
    assert taught.features is None
    assert logged == [
        "WARNING: no features are learnt from the teacher: no block before the head has features of the same "
        "size as the teacher's block of that name"
    ]


def test_learning_features_brings_them_closer(samples: Samples) -> None:
    teacher, start = network(), network(seed=1)
    errors = []
    for weight in (0.0, 10.0):
        student = copy.deepcopy(start)
        taught = Distillation.of(teacher, student, samples, weight=0.0, features=weight)
        fit(student, samples.train, None, Recipe(epochs=5, lr=0.01), seed=0, distillation=taught)
        common = common_features(teacher, student, samples, weight=1.0)
        assert common is not None
        inputs = samples.val.batch(torch.arange(len(samples.val)))
        errors.append(float(common.loss(student[:5](inputs), teacher[:5](inputs)).detach()))
    assert errors[1] < 0.5 * errors[0]


def test_the_teachers_batch_norms_cost_nothing_and_change_nothing(samples: Samples) -> None:
    teacher = network()
    blocks = list(teacher.named_children())
    for at, name in ((3, "conv2"), (1, "conv1")):
        norm = nn.BatchNorm2d(teacher.get_submodule(name).out_channels)
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.1, 4)
        blocks.insert(at, (f"norm_{name}", norm))
    teacher = nn.Sequential(OrderedDict(blocks)).eval()
    before = copy.deepcopy(teacher.state_dict())
    inputs, labels = samples.train.batch(torch.arange(6)), samples.train.labels[:6]
    student = network(seed=1)
    for name in ("pool", "flatten", "classifier"):
        student._modules[f"own_{name}"] = student._modules.pop(name)
    for features, left in ((0.0, []), (1.0, ["norm_conv2"])):
        # Features are those of conv2, before the batch-norm that the student lacks.
        taught = Distillation.of(teacher, student, samples, weight=0.5, features=features)
        norms = [name for name, m in taught.teacher.named_modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms == left
        plain = replace(taught, teacher=teacher)
        losses = [one.loss(student, inputs, lambda x: F.cross_entropy(x, labels)) for one in (taught, plain)]
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


class Untouchable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("its answers are cached")


def test_cached_answers_are_those_to_the_views_that_are_taken(samples: Samples) -> None:
    teacher = network()
    taught = Distillation.cached(teacher, samples, weight=1.0)
    images = cached_features(
        nn.Sequential(),
        samples.train,
        folder=samples.cache / "features",
        trunk_digest="none",
        views=samples.views,
        dtype="float32",
    )
    assert samples.views == ("plain", "flipped")
    rows = torch.randperm(len(samples.train))
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    inputs, answers = taught.batch(images, rows, generators[0])
    assert inputs.equal(images.batch(rows, generators[1]))
    assert not inputs.equal(images.batch(rows))
    assert answers is not None
    with torch.no_grad():
        torch.testing.assert_close(answers, teacher(inputs))


def test_training_on_cached_answers_is_training_with_the_teacher(samples: Samples) -> None:
    teacher, start = network(), network(seed=1)
    own = {"folder": samples.cache / "features", "trunk_digest": "none", "views": samples.views}
    images = cached_features(nn.Sequential(), samples.train, dtype="float32", **own)  # type: ignore[arg-type]
    cached = Distillation.cached(teacher, samples, weight=0.7)
    made = []
    for taught in (replace(cached, teacher=Untouchable()), replace(cached, logits=None)):
        student = copy.deepcopy(start)
        fit(student, images, None, Recipe(epochs=2, lr=0.01), seed=0, distillation=taught)
        made.append(student.state_dict())
    for name, value in made[0].items():
        torch.testing.assert_close(value, made[1][name])


def test_answers_are_computed_once(samples: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, calls = network(seed=5), []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    first = Distillation.cached(teacher, samples, weight=1.0)
    before = len(calls)
    again = Distillation.cached(teacher, samples, weight=1.0)
    # One sample, to see that it takes such images.
    assert len(calls) == before + 1
    assert first.logits is not None
    assert again.logits is not None
    assert again.logits.files == first.logits.files


def test_answers_of_other_samples_or_views_are_refused(samples: Samples) -> None:
    taught = Distillation.cached(network(), samples, weight=1.0)
    own = {"folder": samples.cache / "features", "trunk_digest": "none", "dtype": "float32"}
    for source, views in ((samples.train, ("plain",)), (samples.val, samples.views)):
        features = cached_features(nn.Sequential(), source, views=views, **own)  # type: ignore[arg-type]
        with pytest.raises(
            ValueError, match="the teacher's answers are of 18 samples and the views plain, flip"
        ):
            taught.batch(features, torch.arange(2), None)
    with pytest.raises(ValueError, match="expected cached features"):
        taught.batch(samples.train, torch.arange(2), None)


def test_a_teacher_of_larger_images_gets_larger_images(samples: Samples) -> None:
    expected = Preprocessing(size=12, resize=14, mean=(0.25,), std=(0.2,))
    teacher = described(network(), expected, samples.class_names)
    inputs = samples.val.batch(torch.arange(4))
    large = F.interpolate(inputs, (12, 12), mode="bilinear", antialias=True)
    with torch.no_grad():
        goal = teacher((large * 0.5 + 0.5 - 0.25) / 0.2)
        torch.testing.assert_close(adapted(teacher, samples)(inputs), goal)
        other = adapted(Wrapped(teacher), samples)
        torch.testing.assert_close(other(inputs), goal)
    same = described(network(), replace(GREY, resize=9), samples.class_names)
    assert adapted(same, samples) is same
    # Of its maps none has the size of the student's, but its pooled features have.
    taught = Distillation.of(teacher, network(seed=1), samples, weight=0.5, features=1.0)
    assert taught.features is not None
    assert taught.features.block == "flatten"


class Wrapped(nn.Module):
    """A network of which no blocks are known."""

    def __init__(self, inner: nn.Sequential) -> None:
        super().__init__()
        self.inner, self.preprocessing = inner, inner.preprocessing

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda names: described(network(), GREY, ("a", "b", "c")), "the teacher's classes"),
        (lambda names: described(network(), GREY, names[::-1]), "the teacher's classes"),
        (lambda names: network(classes=4), "the teacher has 4 outputs, but the data have 3 classes"),
        (
            lambda names: described(network(), replace(GREY, mean=(0.5,) * 3, std=(0.5,) * 3), names),
            "takes images of 3 channels",
        ),
        (
            lambda names: described(network(), TextPreprocessing(max_tokens=4, vocabulary=SPECIAL), names),
            "takes other inputs",
        ),
    ],
)
def test_a_teacher_of_something_else_is_refused(
    make: Callable[[tuple[str, ...]], nn.Sequential], message: str, samples: Samples
) -> None:
    teacher = make(samples.class_names)
    for use in (
        lambda: Distillation.of(teacher, network(), samples, weight=0.5),
        lambda: Distillation.cached(teacher, samples, weight=0.5),
    ):
        with pytest.raises(ConfigError, match=message):
            use()
