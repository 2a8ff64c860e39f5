"""Backbones by name: chains with pre-trained, random or stored weights, and what is needed to use them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tascnet.errors import ConfigError, TascnetError, WeightsError, first_line
from tascnet.models.chains.small import (
    cifar_resnet_chain,
    cifar_resnet_keys,
    digits_cnn_chain,
    textcnn_chain,
)
from tascnet.models.conversion import convert
from tascnet.models.head import classifier_of
from tascnet.models.info import ModelInfo, info_of, with_info
from tascnet.models.inspect import meta_copy, meta_like
from tascnet.models.library import LibraryEntry, Published, find, is_dotted, load_timm
from tascnet.models.own import find_own
from tascnet.models.preprocessing import Preprocessing
from tascnet.models.text import SPECIAL, TextPreprocessing
from tascnet.models.weights import fill, fitted, published_state, read_metadata, read_state, write_weights
from tascnet.options import TIMM, Backbone, ImageBackbone, TextBackbone, shown
from tascnet.run.console import log
from tascnet.run.files import digest_file

# A network, and the name in the original layout of each entry of its state dict that has another one.
Made = tuple[nn.Module, Mapping[str, str]]

# Small networks that are written here: what makes a chain for a number of classes and of channels.
SMALL: Mapping[str, Callable[[int, int], nn.Sequential]] = {
    "resnet20": partial(cifar_resnet_chain, 20),
    "resnet56": partial(cifar_resnet_chain, 56),
    "digits_cnn": digits_cnn_chain,
}

# Where weights come from, and their licence.
RANDOM = "random", "none"
OWN = "as the network's code gives them", "as the network's author states"

# Key of the metadata in which a weight file keeps its vocabulary.
_VOCABULARY = "vocabulary"
# A size that every network takes, in pixels.
_LARGE = 512


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Where a network comes from.

    Args:
        name: of the network.
        make: the network as its library or author has it, for a number of outputs; None: as published.
        entry: of a library.
        is_chain: it is made as a chain and needs no conversion.
    """

    name: str
    make: Callable[[int | None], Made]
    entry: LibraryEntry | None = None
    is_chain: bool = False

    @property
    def is_own(self) -> bool:
        """Whether the network's code is the user's."""
        return self.entry is None and not self.is_chain


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
        ConfigError: there is no such network, or it does not take such images.
        ConversionError: the network cannot become a chain.
        WeightsError: the weights are missing, unreadable or those of another network.
    """
    given = str(options.weights if weights is None else weights)
    preprocessing: Preprocessing | TextPreprocessing
    if isinstance(options, TextBackbone):
        words = _vocabulary(given)
        # The length of texts is unknown until there are data.
        preprocessing = TextPreprocessing(max_tokens=64, vocabulary=words)
        chain = _text_chain(options, words, given, num_classes, seed)
        origin = RANDOM if given == "random" else _of_file(given)
    else:
        assert isinstance(options, ImageBackbone)
        preprocessing = preprocessing_of(replace(options, weights=given))
        source = _source(options.name, preprocessing.channels)
        example = _example(preprocessing)
        chain = _image_chain(source, example, given, num_classes, seed)
        origin = _origin(source, given)
        options = replace(options, **preprocessing.to_dict())
    info = ModelInfo(
        backbone=options.name,
        preprocessing=preprocessing,
        class_names=(),
        weights=origin[0],
        licence=origin[1],
    )
    return with_info(chain, info, origin=options)


def build_chain(
    name: str,
    *,
    weights: str | Path = "random",
    channels: int = 3,
    num_classes: int | None = None,
    seed: int = 0,
    size: int = 64,
) -> nn.Sequential:
    """The chain of a network for images, in eval mode.

    Args:
        name: of a small network, of one of a library, or a dotted path.
        weights: as the option of that name.
        channels: of the input.
        num_classes: outputs, where no file of weights decides; None: as published, 10 for small networks.
        seed: of random weights; the global generator is not used.
        size: side of the images with which the chain is checked, in pixels.

    Raises:
        ConfigError, ConversionError, WeightsError: as for `build`.
    """
    example = torch.zeros(1, channels, size, size)
    return _image_chain(_source(name, channels), example, str(weights), num_classes, seed)


def sketch(options: Backbone) -> nn.Sequential:
    """The network that options name with random weights, on the meta device and unchecked: its structure.

    Raises:
        ConfigError: there is no such network, or it does not take such images.
        ConversionError: the network cannot become a chain.
    """
    if not isinstance(options, ImageBackbone):
        return build(options, weights="random").to("meta")
    preprocessing = preprocessing_of(options)
    source = _source(options.name, preprocessing.channels)
    example = _example(preprocessing)
    _check_size(source, example)
    with _seeded(0):
        module, _ = _without_values(source, None)
    chain = module if source.is_chain else convert(meta_copy(module), meta_like(example), check=False).chain
    assert isinstance(chain, nn.Sequential)
    info = ModelInfo(
        backbone=options.name,
        preprocessing=preprocessing,
        class_names=(),
        weights=RANDOM[0],
        licence=RANDOM[1],
    )
    return with_info(chain.eval(), info, origin=options)


def preprocessing_of(options: ImageBackbone) -> Preprocessing:
    """The images that a network takes: what its options leave open is as its weights were trained.

    With a file or random weights that is as its default weights were, which is logged.

    Raises:
        ConfigError: there is no such network, or images cannot be prepared so.
    """
    if options.name in SMALL or is_dotted(options.name):
        return Preprocessing.of(options)
    entry = find(options.name)
    published = entry.weights(options.weights)
    made = Preprocessing.of(options, published.images if published else entry.images)
    fields = made.to_dict()
    taken = {name: value for name, value in fields.items() if getattr(options, name) is None}
    if published is None and taken:
        log.info(
            "%s: the images are prepared as for its weights %s where no option says otherwise: %s",
            options.name,
            entry.default or "by default",
            ", ".join(f"{name} {shown(value)}" for name, value in taken.items()),
        )
    return made


def write_backbone(path: Path, network: nn.Sequential, metadata: Mapping[str, Any] | None = None) -> None:
    """Write weights that `weights=<path>` takes: in the original layout where it can be.

    Args:
        path: the `.safetensors` file.
        network: with the attribute `info`.
        metadata: JSON content for `read_metadata`.
    """
    info, beside = info_of(network), dict(metadata or {})
    original: Mapping[str, tuple[str, torch.Size]] = {}
    if isinstance(info.preprocessing, TextPreprocessing):
        beside[_VOCABULARY] = info.preprocessing.vocabulary
    else:
        with suppress(TascnetError):
            original = _original_layout(info.backbone, info.preprocessing, network)
    keys = {key: name for key, (name, _) in original.items()}
    shapes = {key: shape for key, (_, shape) in original.items()}
    write_weights(path, network, keys, beside, shapes)


def _original_layout(
    name: str, preprocessing: Preprocessing, network: nn.Sequential
) -> Mapping[str, tuple[str, torch.Size]]:
    """Name and shape of a network's tensors in the layout of its library; empty where not all are in it.

    Raises:
        TascnetError: there is no such network to look at.
    """
    source = _source(name, preprocessing.channels)
    module, keys = _without_values(source, classifier_of(network).out_features)
    if source.is_chain:
        return {key: (keys.get(key, key), tensor.shape) for key, tensor in module.state_dict().items()}
    converted = convert(module, _example(preprocessing), check=False)
    own, made, original = (part.state_dict() for part in (network, converted.chain, module))
    is_same = {key: t.shape for key, t in own.items()} == {key: t.shape for key, t in made.items()}
    if not is_same or converted.keys.keys() != own.keys() or {*converted.keys.values()} != original.keys():
        return {}
    return {key: (name, original[name].shape) for key, name in converted.keys.items()}


def _example(preprocessing: Preprocessing) -> Tensor:
    return torch.zeros(preprocessing.example_shape)


def _source(name: str, channels: int) -> _Source:
    """Where a network for images comes from.

    Raises:
        ConfigError: there is no such network.
    """
    if name in SMALL:
        return _Source(name=name, make=partial(_small, name, channels), is_chain=True)
    if is_dotted(name):
        make = find_own(name)
        return _Source(name=name, make=lambda num_classes: (make(num_classes), {}))
    entry = find(name, SMALL)
    return _Source(name=name, make=lambda n: (entry.make(n, channels=channels), {}), entry=entry)


def _small(name: str, channels: int, num_classes: int | None) -> Made:
    chain = SMALL[name](num_classes or 10, channels)
    return chain, {} if name == "digits_cnn" else cifar_resnet_keys(chain)


def _image_chain(
    source: _Source, example: Tensor, weights: str, num_classes: int | None, seed: int
) -> nn.Sequential:
    """The chain of a network: with published weights, drawn by a seed, or with the tensors of a file."""
    entry = source.entry
    published = entry.weights(weights) if entry else None
    if weights == "pretrained" and source.is_chain:
        raise WeightsError(
            f"{source.name} has no published weights that can be downloaded", "give the path of a file"
        )
    _check_size(source, example)
    if published is not None:
        assert entry is not None
        with _seeded(seed):
            return _chain(source, _published(source, entry, published, example.shape[1]), example)
    if weights in ("pretrained", "random"):
        with _seeded(seed):
            module, _ = source.make(num_classes)
        return _chain(source, module, example)
    if entry:
        entry.check_weights(weights)
    state = read_state(Path(weights).expanduser())
    try:
        return _chain(source, _filled(source, state, weights, seed), example)
    except WeightsError:
        # Of a network that conversion rewrites, `write_backbone` writes the chain's own layout.
        found = None if source.is_chain else _filled_chain(source, example, state, weights, seed)
        if found is None:
            raise
        return found


def _chain(source: _Source, module: nn.Module, example: Tensor) -> nn.Sequential:
    if source.is_chain:
        assert isinstance(module, nn.Sequential)
        return module.eval()
    return convert(module, example, share=True).chain.eval()


def _published(source: _Source, entry: LibraryEntry, published: Published, channels: int) -> nn.Module:
    if entry.name.startswith(TIMM):
        return load_timm(entry, published, channels=channels)
    module = _without_values(source, published.num_classes)[0]
    fill(module, {}, published_state(published.url, entry.name), entry.name, published.tag)
    return module


def _filled(source: _Source, state: Mapping[str, Tensor], weights: str, seed: int) -> nn.Module:
    """A network with the tensors of a file, in the original layout, and as many outputs as the file has."""
    with _seeded(seed):
        module, keys = _without_values(source, None)
        wanted = {keys.get(key, key): tensor for key, tensor in module.state_dict().items()}
        classes = _classes_in(source, wanted, fitted(state, wanted, source.name, weights))
        if classes is not None:
            module, keys = _without_values(source, classes)
    fill(module, keys, state, source.name, weights)
    return module


def _filled_chain(
    source: _Source, example: Tensor, state: Mapping[str, Tensor], weights: str, seed: int
) -> nn.Sequential | None:
    """A chain with the tensors of a file that has the chain's own names; None: it has others."""
    last = state.get("classifier.weight")
    with _seeded(seed):
        module, _ = source.make(None if last is None else len(last))
    chain = convert(module, example).chain
    with suppress(WeightsError):
        fill(chain, {}, state, source.name, weights)
        return chain.eval()
    return None


def _classes_in(source: _Source, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> int | None:
    """The outputs of the network in a file, where they are others than the network's own."""
    if all(found[key].shape == tensor.shape for key, tensor in wanted.items()):
        return None
    few, more = (
        {keys.get(key, key): tensor.shape for key, tensor in module.state_dict().items()}
        for module, keys in (_without_values(source, number) for number in (2, 3))
    )
    counts = {
        len(found[key]) for key in few if few[key] != more[key] and found[key].dim() and len(found[key])
    }
    return counts.pop() if len(counts) == 1 else None


def _without_values(source: _Source, num_classes: int | None) -> Made:
    """A network on the meta device, if its state dict holds all of its values; else as it is made."""
    if not source.is_own:
        # Some networks compute with values while they are made.
        with suppress(RuntimeError, NotImplementedError), torch.device("meta"):
            module, keys = source.make(num_classes)
            if not _hidden_values(module):
                return module, keys
    return source.make(num_classes)


def _hidden_values(module: nn.Module) -> bool:
    """Whether a network has tensors beside those of its state dict."""
    stored = module.state_dict().keys()
    return any(name not in stored for name, _ in module.named_buffers()) or any(
        isinstance(value, Tensor) for part in module.modules() for value in vars(part).values()
    )


def _check_size(source: _Source, example: Tensor) -> None:
    """Find out that images are too small on the meta device, before anything takes long.

    Raises:
        ConfigError: the network does not take them, but larger ones.
    """
    error: Exception | None = None
    # Not every network can be made, or asked, without values.
    with suppress(RuntimeError, NotImplementedError), _seeded(0):
        with nullcontext() if source.is_own else torch.device("meta"):
            module, _ = source.make(None)
        ghost = meta_copy(module).eval()
        error = _refusal(ghost, meta_like(example))
        larger = torch.empty(1, example.shape[1], _LARGE, _LARGE, device="meta")
        if error is not None and _refusal(ghost, larger) is None:
            raise ConfigError(
                f"`size={example.shape[-1]}` is too small for {source.name} ({first_line(error)})",
                "give a larger `size`, or take another network",
            )
        # It may need values, which it has on its own device.
        error = _refusal(module.eval(), example) if error is not None and source.is_own else None
    if error is not None:
        raise ConfigError(
            f"{source.name} does not take images of {' x '.join(map(str, example.shape[1:]))} "
            f"({first_line(error)})",
            "change `size`, or the network; `mean` has one value for each channel",
        )


def _refusal(module: nn.Module, images: Tensor) -> Exception | None:
    """What a network says to such images; None: it takes them."""
    try:
        with torch.no_grad():
            module(images)
    except Exception as error:
        return error
    return None


def _text_chain(
    options: TextBackbone, words: tuple[str, ...], weights: str, num_classes: int | None, seed: int
) -> nn.Sequential:
    def make(classes: int | None) -> Made:
        chain = textcnn_chain(
            classes or 10, words=len(words), embedding_width=options.embedding_width, filters=options.filters
        )
        return chain, {}

    source = _Source(name=options.name, make=make, is_chain=True)
    if weights == "random":
        with _seeded(seed):
            module, _ = make(num_classes)
    else:
        module = _filled(source, read_state(Path(weights).expanduser()), weights, seed)
    assert isinstance(module, nn.Sequential)
    return module.eval()


def _origin(source: _Source, weights: str) -> tuple[str, str]:
    """Where weights come from, and their licence."""
    entry = source.entry
    published = entry.weights(weights) if entry else None
    if entry and published:
        library = "timm" if entry.name.startswith(TIMM) else "torchvision"
        return f"{library} {published.tag}", published.licence
    if weights in ("pretrained", "random"):
        return OWN if source.is_own else RANDOM
    return _of_file(weights)


def _of_file(weights: str) -> tuple[str, str]:
    path = Path(weights).expanduser()
    return f"{path.name} (sha256 {digest_file(path)})", "as the file's provider states"


def _vocabulary(weights: str) -> tuple[str, ...]:
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
