"""Backbones by name: chains with pre-trained, random or stored weights, and what is needed to use them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from tascnet.errors import ConfigError, WeightsError, first_line
from tascnet.models.chains.custom import custom_chain, find_factory
from tascnet.models.chains.imagenet import densenet_chain, mobilenet_chain, resnet_chain, vgg_chain
from tascnet.models.chains.small import (
    cifar_resnet_chain,
    cifar_resnet_keys,
    digits_cnn_chain,
    textcnn_chain,
)
from tascnet.models.head import classifier_of
from tascnet.models.info import ModelInfo, info_of, with_info
from tascnet.models.preprocessing import Preprocessing
from tascnet.models.text import SPECIAL, TextPreprocessing
from tascnet.models.weights import (
    PUBLISHED,
    fill,
    not_those_of,
    published_state,
    read_metadata,
    read_state,
    write_weights,
)
from tascnet.options import Backbone, CustomBackbone, ImageBackbone, TextBackbone
from tascnet.run.files import digest_file

# A chain, and the name in the original layout of each entry of its state dict that has another one.
Made = tuple[nn.Sequential, Mapping[str, str]]

# Networks of torchvision, which have published weights, and what makes their chains.
TORCHVISION: Mapping[str, Callable[[Any], nn.Sequential]] = {
    "vgg16": vgg_chain,
    "resnet18": resnet_chain,
    "resnet50": resnet_chain,
    "densenet121": densenet_chain,
    "mobilenet_v2": mobilenet_chain,
}
# Small networks: what makes a chain for a number of classes and of channels.
SMALL: Mapping[str, Callable[[int, int], nn.Sequential]] = {
    "resnet20": partial(cifar_resnet_chain, 20),
    "resnet56": partial(cifar_resnet_chain, 56),
    "digits_cnn": digits_cnn_chain,
}
NAMES = (*TORCHVISION, *SMALL)

# Where weights come from, and their licence.
IMAGENET = (
    f"torchvision {PUBLISHED}",
    "BSD-3-Clause (torchvision); trained on ImageNet, whose terms may apply",
)
RANDOM = "random", "none"
OWN = "as the factory gives them", "as the factory's author states"

# Key of the metadata in which a weight file keeps its vocabulary.
_VOCABULARY = "vocabulary"


def build(
    options: Backbone, *, weights: str | Path | None = None, num_classes: int | None = None, seed: int = 0
) -> nn.Sequential:
    """The network that options name, in eval mode, with the attributes of `with_info`.

    Args:
        options: of the network.
        weights: in place of those of the options.
        num_classes: outputs, where no file of weights decides; None: as published, 10 for small networks.
        seed: of random weights; the global generator is not used.

    Raises:
        ConfigError: the factory does not make a chain.
        WeightsError: the weights are missing, unreadable or those of another network.
    """
    name, given = options.name, options.weights if weights is None else weights
    factory, origin = None, RANDOM
    preprocessing: Preprocessing | TextPreprocessing
    if isinstance(options, TextBackbone):
        words, width, filters = _vocabulary(given), options.embedding_width, options.filters
        # The length of texts is unknown until there are data.
        preprocessing = TextPreprocessing(max_tokens=64, vocabulary=words)
        make = partial(textcnn_chain, words=len(words), embedding_width=width, filters=filters)
        chain = _chain(name, _with_own_keys(make), given, num_classes, seed)
    elif isinstance(options, CustomBackbone):
        factory, origin = find_factory(options.factory or ""), OWN
        given = "random" if given == "pretrained" else given
        preprocessing = Preprocessing.of(options)
        chain = _chain(name, _with_own_keys(partial(custom_chain, factory)), given, num_classes, seed)
    else:
        assert isinstance(options, ImageBackbone)
        preprocessing = Preprocessing.of(options)
        chain = build_chain(
            name, weights=given, channels=preprocessing.channels, num_classes=num_classes, seed=seed
        )
    if given == "pretrained":
        origin = IMAGENET
    elif given != "random":
        path = Path(given).expanduser()
        origin = f"{path.name} (sha256 {digest_file(path)})", "as the file's provider states"
    info = ModelInfo(
        backbone=name, preprocessing=preprocessing, class_names=(), weights=origin[0], licence=origin[1]
    )
    return with_info(chain, info, origin=options, factory=factory)


def build_chain(
    name: str,
    *,
    weights: str | Path = "random",
    channels: int = 3,
    num_classes: int | None = None,
    seed: int = 0,
) -> nn.Sequential:
    """One of the chains in `NAMES`, in eval mode.

    Args:
        name: one of `NAMES`.
        weights: `pretrained`, `random`, or the path of a `.safetensors` or weights-only `.pth` state dict in
            the original layout: torchvision's keys, the published keys of CIFAR-style ResNets, the chain's
            own keys for `digits_cnn`.
        channels: of the input.
        num_classes: outputs, where no file of weights decides; None: as published, 10 for small networks.
        seed: of random weights; the global generator is not used.

    Raises:
        WeightsError: the weights are missing, unreadable or those of another network.
    """
    if weights == "pretrained" and name not in TORCHVISION:
        raise WeightsError(
            f"{name} has no published weights that can be downloaded", "give the path of a file"
        )
    return _chain(name, partial(_named, name, channels), weights, num_classes, seed)


def write_backbone(path: Path, network: nn.Sequential, metadata: Mapping[str, Any] | None = None) -> None:
    """Write weights that `weights=<path>` takes: in the original layout, with the vocabulary.

    Args:
        path: the `.safetensors` file.
        network: with the attribute `info`.
        metadata: JSON content for `read_metadata`.
    """
    info, beside = info_of(network), dict(metadata or {})
    preprocessing = info.preprocessing
    keys: Mapping[str, str] = {}
    if isinstance(preprocessing, TextPreprocessing):
        beside[_VOCABULARY] = preprocessing.vocabulary
    elif info.backbone in NAMES:
        with torch.device("meta"), _seeded(0):
            keys = _named(info.backbone, preprocessing.channels, classifier_of(network).out_features)[1]
    write_weights(path, network, keys, beside)


def _chain(
    name: str,
    make: Callable[[int | None], Made],
    weights: str | Path,
    num_classes: int | None,
    seed: int,
) -> nn.Sequential:
    """The chain that `make` makes: drawn by a seed, or with the tensors and the classes of a file."""
    # Nothing of our own chains is initialised before a file's tensors move in.
    is_meta = weights != "random" and name in NAMES

    def made(classes: int | None) -> Made:
        with _seeded(seed), torch.device("meta") if is_meta else nullcontext():
            return make(classes)

    if weights == "random":
        return made(num_classes)[0].eval()
    state = published_state(name) if weights == "pretrained" else read_state(Path(weights).expanduser())
    chain, keys = made(None)
    *_, (last, _) = chain.named_children()
    key = keys.get(f"{last}.weight", f"{last}.weight")
    if key not in state or state[key].dim() != 2 or not len(state[key]):
        raise not_those_of(name, weights, f"they have no matrix {key}")
    if len(state[key]) != classifier_of(chain).out_features:
        chain, keys = made(len(state[key]))
    fill(chain, keys, state, name, weights)
    return chain.eval()


def _with_own_keys(make: Callable[[int], nn.Sequential]) -> Callable[[int | None], Made]:
    """`make` for a network whose files have the chain's own keys."""
    return lambda classes: (make(classes or 10), {})


def _named(name: str, channels: int, num_classes: int | None) -> Made:
    if name in SMALL:
        chain = SMALL[name](num_classes or 10, channels)
        return chain, {} if name == "digits_cnn" else cifar_resnet_keys(chain)
    original = torchvision.models.get_model(name, weights=None, num_classes=num_classes or 1000)
    if channels != 3:
        _change_input(original, channels)
    chain = TORCHVISION[name](original)
    # Both share their tensors, so that their identity gives the key.
    names = {id(tensor): key for key, tensor in original.state_dict(keep_vars=True).items()}
    return chain, {key: names[id(tensor)] for key, tensor in chain.state_dict(keep_vars=True).items()}


def _change_input(model: nn.Module, channels: int) -> None:
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


def _vocabulary(weights: str | Path) -> tuple[str, ...]:
    """The vocabulary of a text network with these weights."""
    if weights == "random":
        return SPECIAL
    hint = "give the .safetensors file that `pretrain` writes for textcnn, or `random`"
    if weights == "pretrained":
        raise WeightsError("textcnn has no published weights that can be downloaded", hint)
    path = Path(weights).expanduser()
    words = read_metadata(path).get(_VOCABULARY)
    if words is None:
        raise WeightsError(f"the weights {path} hold no vocabulary", hint)
    try:
        return TextPreprocessing(max_tokens=1, vocabulary=words).vocabulary
    except ConfigError as error:
        raise WeightsError(f"the vocabulary of {path} cannot be read ({first_line(error)})", hint) from error


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
