"""Networks of torchvision and timm by name, and their published weights, as the libraries' configs have them.

Both are imported on the first question about a name. timm may be missing.
"""

import importlib.util
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tascnet.errors import ConfigError, WeightsError, closest, first_line, listed
from tascnet.models.preprocessing import ExpectedImages
from tascnet.options import TIMM

if TYPE_CHECKING:
    from torch import nn

# What a library that states no licence is reported with.
NOT_STATED = "not stated"
# Of weights that were trained without a classifier, a new one has as many outputs as ImageNet classes.
_IMAGENET_CLASSES = 1000
# How many weights are named in a message.
_TAGS_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Published:
    """Weights that a library offers for a network.

    Args:
        tag: their name, such as `IMAGENET1K_V1` or `a1_in1k`.
        url: where they are.
        licence: as the library states it.
        num_classes: outputs of their classifier.
        images: the images that they were trained for.
    """

    tag: str
    url: str
    licence: str
    num_classes: int
    images: ExpectedImages


@dataclass(frozen=True, kw_only=True)
class LibraryEntry:
    """A network of a library.

    Args:
        name: without the name of weights: `resnet34`, `timm/resnet18`.
        published: its weights by tag; may be empty.
        default: the tag of those that `pretrained` means; None: there are none.
        images: those that it expects where weights do not decide.
    """

    name: str
    published: Mapping[str, Published] = field(repr=False)
    default: str | None
    images: ExpectedImages

    def weights(self, tag: str) -> Published | None:
        """The published weights that a text means; None: a file, or random ones.

        Raises:
            WeightsError: `pretrained`, but the network has none.
        """
        if tag != "pretrained":
            return self.published.get(tag)
        if self.default is None:
            raise WeightsError(f"{self.name} has no published weights", "give a file, or `weights=random`")
        return self.published[self.default]

    def make(self, num_classes: int | None = None, *, channels: int = 3) -> "nn.Module":
        """The network with random weights, drawn from torch's global generator.

        Args:
            num_classes: outputs; None: as published.
            channels: of the input.
        """
        if num_classes is None:
            num_classes = self.published[self.default].num_classes if self.default else _IMAGENET_CLASSES
        if self.name.startswith(TIMM):
            return _timm().create_model(
                self.name.removeprefix(TIMM), num_classes=num_classes, in_chans=channels
            )
        return _make_torchvision(self.name, num_classes, channels)

    def check_weights(self, weights: str) -> None:
        """Check that a text is `random`, the name of published weights, or a file.

        Raises:
            WeightsError: it is neither.
        """
        if self.weights(weights) or weights == "random" or Path(weights).expanduser().exists():
            return
        hint = self.offer(weights) if self.published else "give a file that exists, or `weights=random`"
        raise WeightsError(f"`weights={weights}` is no file and no weights of {self.name}", hint)

    def offer(self, tag: str) -> str:
        """The tags of this network, for one that it does not have."""
        tags = [*self.published]
        likely = closest(tag, tags)
        first = [likely] if likely else []
        shown = [*first, *(other for other in tags if other != likely)][:_TAGS_SHOWN]
        more = len(tags) - len(shown)
        return f"take {', '.join(shown)} or one of {more} others" if more else f"take {listed(shown)}"


def find(name: str, others: Iterable[str] = ()) -> LibraryEntry:
    """A network of a library.

    Args:
        name: of a classifier of torchvision, or `timm/<model>`, also `timm/<model>.<weights>`.
        others: names that a mistyped one may mean besides.

    Raises:
        ConfigError: no library has it, or timm is not installed.
    """
    if name.startswith(TIMM):
        return _find_timm(name.removeprefix(TIMM))
    if name in torchvision_names():
        return _torchvision_entry(name)
    raise _unknown(name, others)


def check_name(name: str, others: Iterable[str] = ()) -> None:
    """Check that a library has a network, or that the module of one's own is there, which is not imported.

    Raises:
        ConfigError: neither is so.
    """
    if not is_dotted(name):
        find(name, others)
        return
    first = name.replace(":", ".").partition(".")[0]
    if not _is_there(first):
        hint = f"make {first}.py in the working folder, or install it"
        if timm_is_there() and first in _timm_names():
            hint = f"did you mean {TIMM}{name}?"
        raise ConfigError(f"there is no module {first!r} for the network {name!r}", hint)


def is_dotted(name: str) -> bool:
    """Whether a name can only be the dotted path of one's own network: `my_nets.Net` or `my_nets:Net`."""
    first, *rest = name.replace(":", ".").split(".")
    return bool(rest) and all(part.isidentifier() for part in (first, *rest))


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    # A module without a spec, such as the script that runs.
    except ValueError:
        return True


def _unknown(name: str, others: Iterable[str]) -> ConfigError:
    """The error for a name that no library has, with the closest one."""
    likely = closest(name, (*torchvision_names(), *others))
    if timm_is_there() and name in _timm_names():
        likely = f"{TIMM}{name}"
    hint = (
        f"did you mean {likely}?" if likely else "take a classifier of torchvision, timm/<model>, or your own"
    )
    return ConfigError(f"there is no network {name!r}", hint)


@cache
def torchvision_names() -> tuple[str, ...]:
    """The classifiers of torchvision."""
    import torchvision

    return tuple(torchvision.models.list_models(module=torchvision.models))


def timm_is_there() -> bool:
    """Whether timm is installed."""
    try:
        _timm()
    except ConfigError:
        return False
    return True


def timm_families() -> dict[str, list[str]]:
    """The models of timm by family, as timm's own files group them.

    Raises:
        ConfigError: timm is not installed.
    """
    registry = _timm().models._registry
    names = set(_timm_names())
    families = {family: sorted(names & models) for family, models in registry._module_to_models.items()}
    return {family: models for family, models in sorted(families.items()) if models}


def load_timm(entry: LibraryEntry, published: Published, *, channels: int = 3) -> "nn.Module":
    """A network of timm with published weights, through timm's own loader and its cache.

    Raises:
        WeightsError: they could not be loaded.
    """
    full = f"{entry.name.removeprefix(TIMM)}.{published.tag}"
    try:
        with _quiet("huggingface_hub"):
            return _timm().create_model(  # type: ignore[no-any-return]
                full, pretrained=True, num_classes=published.num_classes, in_chans=channels
            )
    # Hub, files and networks each have errors of their own.
    except Exception as error:
        reason = first_line(error).partition(". ")[0].rstrip(".")
        raise WeightsError(
            f"the pre-trained weights of {TIMM}{full} could not be loaded ({reason})",
            f"download {published.url} elsewhere and give the path of the file",
        ) from error


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep back the warnings of a logger, which announce each of many attempts."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise ConfigError(
            "networks of timm need timm, which is not installed", "pip install 'tascnet[timm]'"
        ) from error
    return timm


@cache
def _timm_names() -> tuple[str, ...]:
    return tuple(_timm().list_models())


def _find_timm(full: str) -> LibraryEntry:
    model, _, tag = full.partition(".")
    if not _timm().is_model(model):
        likely = closest(model, _timm_names())
        hint = f"did you mean {TIMM}{likely}?" if likely else "timm.list_models() lists them"
        raise ConfigError(f"timm has no model {model!r}", hint)
    entry = _timm_entry(model)
    if not tag:
        return entry
    if tag not in entry.published:
        raise ConfigError(f"{TIMM}{model} has no weights {tag!r}", entry.offer(tag))
    return replace(entry, default=tag, images=entry.published[tag].images)


@cache
def _timm_entry(model: str) -> LibraryEntry:
    models = _timm().models
    own = models.get_pretrained_cfg(model)
    configs = {cfg.tag: cfg for cfg in models.get_arch_pretrained_cfgs(model).values() if cfg.has_weights}
    published = {tag: _timm_weights(tag, cfg) for tag, cfg in configs.items() if tag}
    default = own.tag if own is not None and own.tag in published else next(iter(published), None)
    images = published[default].images if default else _timm_images(own)
    return LibraryEntry(name=f"{TIMM}{model}", published=published, default=default, images=images)


def _timm_weights(tag: str, config: Any) -> Published:
    hub = config.hf_hub_id and f"https://huggingface.co/{config.hf_hub_id}/resolve/main/model.safetensors"
    licence = config.license if config.license not in (None, "unknown") else NOT_STATED
    return Published(
        tag=tag,
        url=hub or config.url,
        licence=licence,
        num_classes=config.num_classes or _IMAGENET_CLASSES,
        images=_timm_images(config),
    )


def _timm_images(config: Any) -> ExpectedImages:
    _, height, width = config.input_size
    # As timm's own evaluation computes it.
    resize = int(height / config.crop_pct)
    return ExpectedImages(
        size=height,
        resize=resize,
        mean=tuple(config.mean),
        std=tuple(config.std),
        interpolation=config.interpolation,
        crop=config.crop_mode if height == width else f"{height} x {width}",
    )


@cache
def _torchvision_entry(name: str) -> LibraryEntry:
    import torchvision

    offered = torchvision.models.get_model_weights(name)
    # Some lack a classifier.
    published = {one.name: _torchvision_weights(one) for one in offered if one.meta["categories"]}
    # The first ones that were published: another version of torchvision may recommend others.
    default = next(iter(published))
    return LibraryEntry(name=name, published=published, default=default, images=published[default].images)


def _torchvision_weights(weights: Any) -> Published:
    transforms = weights.transforms()
    return Published(
        tag=weights.name,
        url=weights.url,
        licence=weights.meta.get("license", NOT_STATED),
        num_classes=len(weights.meta["categories"]),
        images=ExpectedImages(
            size=_one(transforms.crop_size),
            resize=_one(transforms.resize_size),
            mean=tuple(transforms.mean),
            std=tuple(transforms.std),
            interpolation=transforms.interpolation.value,
            crop="center",
        ),
    )


def _one(sizes: Sequence[int] | int) -> int:
    return sizes if isinstance(sizes, int) else sizes[0]


def _make_torchvision(name: str, num_classes: int, channels: int) -> "nn.Module":
    import torchvision

    with warnings.catch_warnings():
        # It announces other initial values of some networks.
        warnings.simplefilter("ignore", FutureWarning)
        model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes)
    if getattr(model, "aux_logits", False):
        # Heads for training alone, which files of weights may lack; torchvision drops them in the same way.
        model.aux_logits = False  # type: ignore[assignment]
        for child in [name for name, _ in model.named_children() if "aux" in name.lower()]:
            setattr(model, child, None)
    if channels != 3:
        _change_input(model, channels)
    elif hasattr(model, "transform_input"):
        # These were trained on images of another mean, which their first step restores.
        model.transform_input = True  # type: ignore[assignment]
    return model


def _change_input(model: "nn.Module", channels: int) -> None:
    """Replace the first convolution by a new one for so many channels."""
    from torch import nn

    name, first = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    parent, _, attribute = name.rpartition(".")
    new = nn.Conv2d(
        channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        stride=first.stride,  # type: ignore[arg-type]
        padding=first.padding,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    setattr(model.get_submodule(parent), attribute, new)
