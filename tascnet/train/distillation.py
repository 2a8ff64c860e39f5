"""Learning from a teacher beside the labels: from its answers, and from its features."""

import copy
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tascnet.data import FeatureSource, cached_features, module_digest
from tascnet.data.samples import Samples
from tascnet.data.sources import Source
from tascnet.errors import ConfigError
from tascnet.exporting.plain import fold_batchnorm
from tascnet.models.blocks import sequence
from tascnet.models.head import head_start
from tascnet.models.inspect import evaluating
from tascnet.models.preprocessing import Preprocessing

log = logging.getLogger("tascnet")

# Softens the answers of teacher and student.
TEMPERATURE = 2.0
# Training samples on which the features of teacher and student are compared, and the seed that draws them.
COMPARED, COMPARING_SEED = 256, 0
# Ridge of the projection, relative to the mean variance of the student's channels.
RIDGE = 1e-3


@dataclass(frozen=True, kw_only=True)
class CommonFeatures:
    """Features of a block that teacher and student have under one name.

    Args:
        block: its name.
        weight: of the loss on them.
        variance: of the teacher's features around the means of their channels.
        projection: weight `c_teacher x c_student` and bias `c_teacher`, fixed, that predict the teacher's
            channels from the student's; None: they are the same.

    Source: Romero et al. 2015 (FitNets), equation 3; there the projection is trained.
    """

    block: str
    weight: float
    variance: float
    projection: tuple[Tensor, Tensor] | None = None

    def loss(self, own: Tensor, goal: Tensor) -> Tensor:
        """The weighted share of the variance of the teacher's features `goal` that the student's lack.

        Args:
            own: `b x c_student x ...`.
            goal: `b x c_teacher x ...`, the same size otherwise.
        """
        if self.projection is not None:
            own = F.linear(own.movedim(1, -1), *self.projection).movedim(-1, 1)
        return self.weight * F.mse_loss(own.float(), goal.float()) / self.variance


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Learn from a teacher beside the labels.

    Args:
        teacher: maps the student's inputs to logits; in eval mode.
        weight: share of the loss on the teacher's answers, in [0, 1].
        features: what else is learnt from it.
        logits: its cached answers to the training samples, for training on cached features.

    Source: Hinton, Vinyals and Dean 2015, section 2.
    """

    teacher: nn.Module
    weight: float
    features: CommonFeatures | None = None
    logits: FeatureSource | None = None

    @classmethod
    def of(
        cls,
        teacher: nn.Module,
        student: nn.Sequential,
        samples: Samples,
        *,
        weight: float,
        features: float = 0.0,
        device: torch.device | str = "cpu",
    ) -> "Distillation":
        """A teacher for training on samples.

        Args:
            teacher: its inputs are adapted where its attribute `preprocessing` differs from the samples'; its
                batch-norms are folded in a copy.
            student: as it is before training.
            samples: of the student.
            weight: share of the loss on the teacher's answers, in [0, 1].
            features: weight of the loss on the features of the last common block; 0: there is none.
            device: of both networks.

        Raises:
            ConfigError: the teacher does not take the samples, or has other classes.
        """
        teacher = adapted(teacher, samples, device)
        common = None
        if features:
            common = common_features(teacher, student, samples, weight=features, device=device)
        # It never learns, so its batch-norms cost nothing once they are folded.
        teacher = copy.deepcopy(teacher).eval().requires_grad_(False)
        fold_batchnorm(teacher, None if common is None else teacher.get_submodule(common.block))
        return cls(teacher=teacher, weight=weight, features=common)

    @classmethod
    def cached(
        cls,
        teacher: nn.Module,
        samples: Samples,
        *,
        weight: float,
        device: torch.device | str = "cpu",
        beside: Iterable[FeatureSource] = (),
    ) -> "Distillation":
        """A teacher for training on cached features of `samples.train`; its answers are cached beside them.

        Args:
            teacher: its inputs are adapted where its attribute `preprocessing` differs from the samples'.
            samples: their views are those of the features.
            weight: share of the loss on the teacher's answers, in [0, 1].
            device: of the teacher.
            beside: features in use, whose files are kept.

        Raises:
            BudgetError: the answers would take more than the cache's limit.
            ConfigError: the teacher does not take the samples, or has other classes.
        """
        teacher = adapted(teacher, samples, device)
        answers = cached_features(
            teacher,
            samples.train,
            folder=samples.cache / "features",
            trunk_digest=module_digest(teacher),
            views=samples.views,
            dtype="float32",
            limit_gb=samples.cache_limit_gb,
            beside=tuple(beside),
            device=device,
        )
        return cls(teacher=teacher, weight=weight, logits=answers.resident(device))

    def batch(
        self, source: Source, rows: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor | None]:
        """A batch of a source, and the teacher's answers to the same views, `b x C`; None: none are cached.

        Raises:
            ValueError: answers are cached of other samples or views.
        """
        if self.logits is None:
            return source.batch(rows, generator), None
        if not isinstance(source, FeatureSource):
            raise ValueError("the teacher's answers are cached, expected cached features")
        if len(source) != len(self.logits) or list(source.views) != list(self.logits.views):
            raise ValueError(
                f"the teacher's answers are of {len(self.logits)} samples and the views "
                f"{', '.join(self.logits.views)}, expected {len(source)} and {', '.join(source.views)}"
            )
        picks = source.picks(rows, generator)
        return source.take(rows, picks), self.logits.take(rows, picks)

    def loss(
        self,
        model: nn.Sequential,
        inputs: Tensor,
        supervised: Callable[[Tensor], Tensor],
        answers: Tensor | None = None,
    ) -> Tensor:
        """The whole loss of a batch, a scalar.

        Args:
            model: the student.
            inputs: of the batch, `b x ...`.
            supervised: the loss on the labels, from the student's logits `b x C`.
            answers: the teacher's logits for these inputs, `b x C`; None: the teacher is asked.
        """
        block = None if self.features is None else self.features.block
        logits, own = _through(model, inputs, block)
        if answers is None or block is not None:
            with torch.no_grad():
                asked, goal = _through(self.teacher, inputs, block)
            answers = asked if answers is None else answers
        target = F.log_softmax(answers.to(logits.device) / TEMPERATURE, 1)
        answer = F.log_softmax(logits / TEMPERATURE, 1)
        soft = F.kl_div(answer, target, log_target=True, reduction="batchmean") * TEMPERATURE**2
        loss = torch.lerp(supervised(logits), soft, self.weight)
        return loss if self.features is None else loss + self.features.loss(own, goal)


class InputAdapter(nn.Module):
    """Images of one preprocessing as another network expects them.

    Args:
        given: the preprocessing of the images.
        expected: that of the network; its way of cropping is not repeated.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, given: Preprocessing, expected: Preprocessing) -> None:
        super().__init__()
        self.size = expected.size
        mean, std, new_mean, new_std = (
            torch.tensor(values, dtype=torch.float64)[:, None, None]
            for values in (given.mean, given.std, expected.mean, expected.std)
        )
        self.register_buffer("scale", (std / new_std).float())
        self.register_buffer("shift", ((mean - new_mean) / new_std).float())

    def forward(self, x: Tensor) -> Tensor:
        """Images `b x c x h x h` as `b x c x size x size`."""
        if x.shape[-1] != self.size:
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        return torch.addcmul(self.shift, x, self.scale)

    def extra_repr(self) -> str:
        return f"size={self.size}"


def adapted(teacher: nn.Module, samples: Samples, device: torch.device | str = "cpu") -> nn.Module:
    """A teacher that takes the samples of its student; itself where it does so already.

    Raises:
        ConfigError: it takes other inputs, or has other classes.
    """
    expected, given = getattr(teacher, "preprocessing", None), samples.preprocessing
    names = tuple(getattr(teacher, "class_names", ()))
    if names and names != samples.class_names:
        raise ConfigError(
            f"the teacher's classes ({len(names)}) are not those of the data ({samples.num_classes})",
            "give a network that was trained on the same classes, in the same order",
        )
    if expected is not None and expected != given:
        if not isinstance(expected, Preprocessing) or not isinstance(given, Preprocessing):
            raise ConfigError(
                "the teacher takes other inputs than the network that it teaches",
                "give a network for the same images, or with the same vocabulary and `max_tokens`",
            )
        if expected.channels != given.channels:
            raise ConfigError(
                f"the teacher takes images of {expected.channels} channels, the network that it teaches of "
                f"{given.channels}",
                "give a network for the same images",
            )
        if (expected.size, expected.mean, expected.std) != (given.size, given.mean, given.std):
            adapter = InputAdapter(given, expected).to(device)
            blocks = _blocks(teacher) if type(teacher) is nn.Sequential else [("teacher", teacher)]
            teacher = sequence([("adapted_input", adapter), *blocks]).eval()
    with torch.no_grad(), evaluating(teacher):
        outputs = teacher(samples.example.to(device))
    check_answers(outputs, samples.num_classes)
    return teacher


def check_answers(outputs: Any, num_classes: int) -> None:
    """Raise unless a teacher gives a value for each class of one sample.

    Raises:
        ConfigError: it does not.
    """
    if not isinstance(outputs, Tensor):
        raise ConfigError(
            f"the teacher gives a {type(outputs).__name__}, expected one tensor `b x n`",
            "give a network whose output is a value for each class",
        )
    if outputs.shape != (1, num_classes):
        raise ConfigError(
            f"the teacher has {outputs.shape[-1]} outputs, but the data have {num_classes} classes",
            "give a network that was trained on the same classes",
        )


def common_features(
    teacher: nn.Module,
    student: nn.Sequential,
    samples: Samples,
    *,
    weight: float,
    device: torch.device | str = "cpu",
) -> CommonFeatures | None:
    """The features of the last common block, compared on some training samples; None: there is no such block.

    The block lies before the student's head. The teacher has one of the same name, whose output has the same
    shape, or is a map of the same size with other channels; these are predicted by least squares.

    Args:
        teacher: takes the samples of the student.
        student: as it is before training.
        samples: of the student.
        weight: of the loss on the features.
        device: of both networks.
    """
    with torch.no_grad(), evaluating(teacher), evaluating(student):
        block = None
        if type(teacher) is nn.Sequential:
            block = _common_block(teacher, student, samples.example.to(device))
        if block is None:
            log.warning(
                "no features are learnt from the teacher: no block before the head has features of the same "
                "size as the teacher's block of that name"
            )
            return None
        count, sums, products = 0, torch.zeros(()), torch.zeros(())
        for inputs, _ in samples.drawn_batches(COMPARED, COMPARING_SEED, device):
            own, goal = (
                _through(network, inputs, block)[1].movedim(1, -1).flatten(0, -2).double()
                for network in (student, teacher)
            )
            rows = torch.cat([own, goal], dim=1)
            count, sums, products = count + len(rows), rows.sum(0) + sums, rows.T @ rows + products
    mean = sums / count
    covariance = products / count - torch.outer(mean, mean)
    channels, all_channels = own.shape[1], goal.shape[1]
    projection, how = None, ""
    if channels != all_channels:
        projection = _projection(mean, covariance, channels)
        how = f", predicted from {channels} of {all_channels} channels"
    log.info("features of block %s are learnt from the teacher%s", block, how)
    variance = float(covariance.diagonal()[channels:].mean())
    # Features that never change have nothing to teach.
    return CommonFeatures(block=block, weight=weight, variance=variance or 1.0, projection=projection)


def _projection(mean: Tensor, covariance: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Weight and bias, float32, of the ridge regression of all later channels on the first ones."""
    gram, cross = covariance[:channels, :channels], covariance[:channels, channels:]
    ridge = RIDGE * gram.diagonal().mean().clamp(min=torch.finfo(gram.dtype).tiny)
    weight = torch.linalg.solve(gram + ridge * torch.eye(channels).to(gram), cross).T
    return weight.float().contiguous(), (mean[channels:] - weight @ mean[:channels]).float()


def _common_block(teacher: nn.Sequential, student: nn.Sequential, example: Tensor) -> str | None:
    before_head = [name for name, _ in _blocks(student)][: head_start(student)]
    goals, owns = _shapes(teacher, example), _shapes(student, example)
    for name in reversed(before_head):
        own, goal = owns[name], goals.get(name)
        if goal is None:
            continue
        is_map = len(own) > 2 and own[2:].numel() > 1
        if own == goal or (is_map and own[2:] == goal[2:]):
            return name
    return None


def _blocks(chain: nn.Sequential) -> list[tuple[str, nn.Module]]:
    # Unlike `named_children` this lists a block that is used twice under both its names.
    return [(name, block) for name, block in chain._modules.items() if block is not None]


def _shapes(chain: nn.Sequential, x: Tensor) -> dict[str, torch.Size]:
    shapes: dict[str, torch.Size] = {}
    for name, block in _blocks(chain):
        x = block(x)
        shapes[name] = x.shape
    return shapes


def _through(chain: nn.Module, x: Tensor, block: str | None) -> tuple[Tensor, Tensor]:
    """The outputs of a chain, and those of one of its blocks; None: its inputs."""
    if block is None:
        return chain(x), x
    assert isinstance(chain, nn.Sequential), "it has blocks"
    features = x
    for name, each in _blocks(chain):
        x = each(x)
        if name == block:
            features = x
    return x, features
