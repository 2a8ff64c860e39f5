"""Backbones with pre-trained, random or stored weights."""

import json
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import safetensors.torch
import torch
import torchvision
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from tascnet.errors import ConfigError, WeightsError
from tascnet.models import chains
from tascnet.models.chains.custom import Factory, custom_chain, find_factory
from tascnet.run.files import digest_file, write_whole

# The weights of the published papers, and of the common preprocessing (256, 224).
_ENUM_MEMBER = "IMAGENET1K_V1"
_IMAGENET_LICENCE = "BSD-3-Clause (torchvision); trained on ImageNet, whose terms may apply"
_SHOWN_KEYS = 2
# Where weight files keep what is ours in their own metadata.
_METADATA = "tascnet"

_READ_ERRORS = (
    SafetensorError,
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    AttributeError,
)


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A chain with its weights.

    Args:
        chain: gives `b x num_classes`; in eval mode.
        num_classes: outputs of its classifier.
        source: `weights` (where they come from) and `licence`, as texts.
    """

    chain: nn.Sequential
    num_classes: int
    source: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class _Network:
    """A chain, and for each key of its state dict the key in the original layout."""

    chain: nn.Sequential
    keys: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class _Family:
    make: Callable[[int, int], _Network]
    classes: int
    classifier: str
    published: bool = False


def build_backbone(
    name: str,
    *,
    weights: str | Path,
    factory: str | Factory | None = None,
    options: Mapping[str, Any] | None = None,
    channels: int = 3,
    num_classes: int | None = None,
    seed: int = 0,
) -> Backbone:
    """A backbone as a chain, in eval mode.

    Args:
        name: a name in `BACKBONES`, `textcnn` or `custom`.
        weights: `pretrained`, `random`, or the path of a `.safetensors` or weights-only `.pth` state
            dict in the original layout: torchvision's keys, the published keys of CIFAR-style
            ResNets, the chain's own keys for `digits_cnn` and `custom`. For `custom`, `pretrained`
            keeps the weights that the factory gives.
        factory: for `custom`: `factory(num_classes, **options) -> nn.Sequential`, or its dotted path.
        options: for `custom`: the factory's options; for `textcnn` those of its chain.
        channels: of the input.
        num_classes: outputs where no weight file tells; None: as published (10 for `custom`).
        seed: of random weights; the global generator stays as it is.

    Raises:
        ConfigError: the backbone is unknown, or the factory does not give a chain.
        WeightsError: the weights are missing, unreadable or those of another architecture.
    """
    if name in ("custom", "textcnn"):
        made = chains.textcnn_chain if name == "textcnn" else factory
        return _custom(name, made, weights, options or {}, num_classes or 10, seed)
    if name not in BACKBONES:
        raise ConfigError(f"backbone {name!r} is unknown, but one of {', '.join(BACKBONES)} is expected")
    family = BACKBONES[name]
    if weights == "random":
        with _seeded(seed):
            chain = family.make(num_classes or family.classes, channels).chain
        return _backbone(chain, "random", "none")

    def empty(classes: int) -> _Network:
        # No memory is taken and nothing initialised before the file's tensors move in.
        with _seeded(0), torch.device("meta"):
            return family.make(classes, channels)

    if weights == "pretrained":
        origin = f"torchvision {_ENUM_MEMBER}", _IMAGENET_LICENCE
        return _filled(name, empty, family.classifier, _pretrained(name), origin)
    path = Path(weights).expanduser()
    return _filled(name, empty, family.classifier, read_state(path), _origin(path))


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict on the CPU, floating-point tensors as float32.

    Raises:
        WeightsError: the file is missing, unreadable, or holds more than tensors.
    """
    if not path.is_file():
        raise WeightsError(
            f"weights {str(path)!r} are no file", "give pretrained, random, or a path that exists"
        )
    try:
        content = _read(path)
    except _READ_ERRORS as error:
        raise WeightsError(
            f"weights {path} cannot be read ({_first_line(error)})",
            "give a whole .safetensors file, or a .pth state dict that torch.load reads with weights_only",
        ) from error
    return _cleaned(content, path.name)


def read_metadata(path: Path) -> dict[str, Any]:
    """What `write_weights` has put beside the tensors; nothing in files of other makers.

    Raises:
        WeightsError: the file is unreadable.
    """
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return dict(json.loads((file.metadata() or {}).get(_METADATA, "{}")))
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise WeightsError(
            f"weights {path} cannot be read ({_first_line(error)})", "give a whole .safetensors file"
        ) from error


def write_weights(
    path: Path,
    module: nn.Module,
    keys: Mapping[str, str] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write a module's state dict as a `.safetensors` file, whole or not at all.

    Args:
        path: the file.
        module: the network.
        keys: for each of its keys the one in the file, from `original_keys`; None: the same.
        metadata: JSON content that the file holds beside, for `read_metadata`.
    """
    names = keys or {}
    state = {
        names.get(key, key): tensor.detach().cpu().contiguous().clone()
        for key, tensor in module.state_dict().items()
    }
    # One entry: the order of several would differ from run to run, and the file's digest with it.
    beside = {_METADATA: json.dumps(metadata, sort_keys=True)} if metadata else {}
    write_whole(path, lambda temporary: safetensors.torch.save_file(state, temporary, beside))


def original_keys(name: str, num_classes: int, channels: int) -> Mapping[str, str]:
    """For each key of a backbone's chain the one in files that `build_backbone` reads; empty: the same."""
    if name not in BACKBONES:
        return {}
    with torch.device("meta"), _seeded(0):
        return BACKBONES[name].make(num_classes, channels).keys


def _torchvision(name: str, rebuild: Callable[[Any], nn.Sequential], classes: int, channels: int) -> _Network:
    original = torchvision.models.get_model(name, weights=None, num_classes=classes)
    if channels != 3:
        _change_input(original, channels)
    chain = rebuild(original)
    # Both share their tensors, so that identity tells which key is which.
    names = {id(tensor): key for key, tensor in original.state_dict(keep_vars=True).items()}
    own = chain.state_dict(keep_vars=True)
    return _Network(chain=chain, keys={key: names[id(tensor)] for key, tensor in own.items()})


def _cifar(depth: int, classes: int, channels: int) -> _Network:
    chain = chains.cifar_resnet_chain(depth, classes, channels)
    return _Network(chain=chain, keys=chains.cifar_resnet_keys(chain))


def _digits(classes: int, channels: int) -> _Network:
    return _own_keys(chains.digits_cnn_chain(classes, channels))


def _own_keys(chain: nn.Sequential) -> _Network:
    return _Network(chain=chain, keys={key: key for key in chain.state_dict()})


def _change_input(model: nn.Module, channels: int) -> None:
    name, first = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    parent, _, attribute = name.rpartition(".")
    arguments: dict[str, Any] = {
        "stride": first.stride,
        "padding": first.padding,
        "bias": first.bias is not None,
    }
    new = nn.Conv2d(channels, first.out_channels, first.kernel_size, **arguments)  # type: ignore[arg-type]
    setattr(model.get_submodule(parent), attribute, new)


BACKBONES: Mapping[str, _Family] = MappingProxyType(
    {
        "vgg16": _Family(
            make=partial(_torchvision, "vgg16", chains.vgg_chain),
            classes=1000,
            classifier="classifier.6.weight",
            published=True,
        ),
        "resnet18": _Family(
            make=partial(_torchvision, "resnet18", chains.resnet_chain),
            classes=1000,
            classifier="fc.weight",
            published=True,
        ),
        "resnet50": _Family(
            make=partial(_torchvision, "resnet50", chains.resnet_chain),
            classes=1000,
            classifier="fc.weight",
            published=True,
        ),
        "densenet121": _Family(
            make=partial(_torchvision, "densenet121", chains.densenet_chain),
            classes=1000,
            classifier="classifier.weight",
            published=True,
        ),
        "mobilenet_v2": _Family(
            make=partial(_torchvision, "mobilenet_v2", chains.mobilenet_chain),
            classes=1000,
            classifier="classifier.1.weight",
            published=True,
        ),
        "resnet20": _Family(make=partial(_cifar, 20), classes=10, classifier="linear.weight"),
        "resnet56": _Family(make=partial(_cifar, 56), classes=10, classifier="linear.weight"),
        "digits_cnn": _Family(make=_digits, classes=10, classifier="classifier.weight"),
    }
)


def _custom(
    name: str,
    factory: str | Factory | None,
    weights: str | Path,
    options: Mapping[str, Any],
    num_classes: int,
    seed: int,
) -> Backbone:
    if factory is None:
        raise ConfigError(
            "backbone custom needs a factory", "give the dotted path of factory(num_classes, **options)"
        )
    found = find_factory(factory) if isinstance(factory, str) else factory

    def make(classes: int) -> _Network:
        with _seeded(seed):
            return _own_keys(custom_chain(found, classes, options))

    chain = make(num_classes).chain
    if weights in ("random", "pretrained"):
        return _backbone(chain, "as the factory gives them", "as the factory's author states")
    path = Path(weights).expanduser()
    last = [name for name, _ in chain.named_children()][-1]
    return _filled(name, make, f"{last}.weight", read_state(path), _origin(path))


def _filled(
    name: str,
    make: Callable[[int], _Network],
    classifier: str,
    state: dict[str, Tensor],
    origin: tuple[str, str],
) -> Backbone:
    """The network of as many classes as a state dict's key `classifier` tells, with its tensors."""
    network = make(_class_count(state, classifier, name))
    _fill(network, state, name)
    return _backbone(network.chain, *origin)


def _backbone(chain: nn.Sequential, weights: str, licence: str) -> Backbone:
    classifier = chain[-1]
    assert isinstance(classifier, nn.Linear)
    source = MappingProxyType({"weights": weights, "licence": licence})
    return Backbone(chain=chain.eval(), num_classes=classifier.out_features, source=source)


def _class_count(state: Mapping[str, Tensor], key: str, name: str) -> int:
    if key not in state or state[key].dim() != 2 or not len(state[key]):
        raise WeightsError(
            f"the weights are not those of {name}, for a matrix {key!r} is expected", _other_hint()
        )
    return len(state[key])


def _fill(network: _Network, state: dict[str, Tensor], name: str) -> None:
    """Put a state dict of the original layout into the chain, or say how they differ."""
    own = network.chain.state_dict()
    for key, original in network.keys.items():
        # Files from before this counter existed lack it; nothing in eval mode reads it.
        if key.endswith("num_batches_tracked"):
            state.setdefault(original, torch.zeros((), dtype=torch.int64))
    expected = {original: own[key].shape for key, original in network.keys.items()}
    differences = [
        _listed("missing", [key for key in expected if key not in state]),
        _listed("unexpected", [key for key in state if key not in expected]),
        _listed("of another shape", _misshaped(expected, state)),
    ]
    if any(differences):
        text = "; ".join(filter(None, differences))
        raise WeightsError(f"the weights are not those of {name} ({text})", _other_hint())
    network.chain.load_state_dict(
        {key: state[original] for key, original in network.keys.items()}, assign=True
    )


def _misshaped(expected: Mapping[str, torch.Size], state: Mapping[str, Tensor]) -> list[str]:
    pairs = ((key, shape, state[key].shape) for key, shape in expected.items() if key in state)
    return [f"{key} {tuple(came)} for {tuple(shape)}" for key, shape, came in pairs if came != shape]


def _listed(word: str, keys: list[str]) -> str:
    if not keys:
        return ""
    more = f" and {len(keys) - _SHOWN_KEYS} more" if len(keys) > _SHOWN_KEYS else ""
    return f"{word}: {', '.join(keys[:_SHOWN_KEYS])}{more}"


def _other_hint() -> str:
    return "check that backbone and weights belong together"


def _pretrained(name: str) -> dict[str, Tensor]:
    if not BACKBONES[name].published:
        raise WeightsError(
            f"{name} has no published weights that can be downloaded", "give the path of a file"
        )
    enum = torchvision.models.get_model_weights(name)[_ENUM_MEMBER]
    try:
        content = enum.get_state_dict(progress=sys.stderr.isatty(), check_hash=True)
    except _READ_ERRORS as error:
        raise WeightsError(
            f"the pre-trained weights of {name} cannot be had ({_first_line(error)})",
            f"download {enum.url} elsewhere and give the path of the file",
        ) from error
    return _cleaned(content, name)


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    if path.suffix in (".pth", ".pt"):
        return torch.load(path, map_location="cpu", weights_only=True)
    raise ValueError("its name ends neither in .safetensors nor in .pth")


def _cleaned(content: Any, name: str) -> dict[str, Tensor]:
    """The tensors of a state dict, also of one inside a training checkpoint."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise WeightsError(f"{name} is no state dict", "give a file that holds names and tensors alone")
    return {_renamed(key): _as_float32(tensor) for key, tensor in content.items()}


def _renamed(key: str) -> str:
    """Without the prefix of data-parallel training, and in torchvision's present names of DenseNet."""
    key = key.removeprefix("module.")
    for kind in ("norm", "relu", "conv"):
        for number in "12":
            key = key.replace(f".{kind}.{number}.", f".{kind}{number}.") if ".denselayer" in key else key
    return key


def _as_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _origin(path: Path) -> tuple[str, str]:
    return f"{path.name} (sha256 {digest_file(path)})", "as the file's provider states"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
