"""Networks to start from: by name, from the folder of a saved model, or the user's own."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tascnet.data.samples import open_samples
from tascnet.errors import ConfigError
from tascnet.models.archive import load
from tascnet.models.build import OWN, build, write_backbone
from tascnet.models.conversion import convert
from tascnet.models.info import ModelInfo, with_info
from tascnet.models.library import check_name
from tascnet.models.preprocessing import Preprocessing
from tascnet.models.tensors import check_weights
from tascnet.models.weights import is_whole
from tascnet.options import Backbone, Digits, DigitsBackbone, ImageBackbone, Recipe, Trainer, make
from tascnet.presets import preset, preset_names
from tascnet.run.files import digest_json
from tascnet.run.folder import cache_folder
from tascnet.train.learner import Learner
from tascnet.train.setting import computing
from tascnet.train.transfer import SOURCE_DIGITS, outputs_of

log = logging.getLogger("tascnet")

# Of the pre-training of `digits_cnn`, which takes seconds on one core.
SOURCE_RECIPE = Recipe(epochs=15, batch_size=32, lr=3e-3, weight_decay=1e-2, schedule="cosine")
SOURCE_SEED = 0


def backbone(
    network: str | Path | Backbone | nn.Module,
    example: Tensor | None = None,
    *,
    num_classes: int | None = None,
    seed: int = 0,
    cache: str | Path | None = None,
    **options: Any,
) -> nn.Sequential:
    """A network to tune, prune or pre-train, in eval mode.

    It has the attributes `info`, `preprocessing`, `class_names` and `origin`.

    Args:
        network: the name of a classifier of torchvision, `timm/<model>`, the dotted path of a network of your
            own, a preset such as `resnet20` or `textcnn`, or the options of a network; the folder of a saved
            model; or your own `nn.Module`, which stays as it is.
        example: `1 x c x h x h`, an input of your own network; None: zeros.
        num_classes: outputs of a network with random weights; None: as published.
        seed: of random weights.
        cache: folder for the weights of `digits_cnn`; None: `outputs/cache`.
        options: of `ImageBackbone` or `TextBackbone`, in place of the preset's; for your own `nn.Module`
            `size`, `resize`, `mean`, `std`, `interpolation` and `crop`.

    Raises:
        ConfigError: there is no such network or option, or the network does not take such images.
        ConversionError: the network cannot become a chain.
        WeightsError: the weights are missing, unreadable or those of another network.
        ArchiveError: the folder holds no saved model.
    """
    if isinstance(network, nn.Module):
        if num_classes is not None:
            raise ConfigError("`num_classes` has no effect with a network of your own", "leave it out")
        return _own(network, example, options)
    if example is not None:
        raise ConfigError("`example` has no effect without a network of your own", "leave it out")
    if isinstance(network, Backbone):
        chosen = replace(network, **options)
    elif not isinstance(network, str | Path):
        raise ConfigError(
            f"the network is of type {type(network).__name__}, expected a name, a folder or an nn.Module",
            "make it first, as in `Net()`" if isinstance(network, type) else None,
        )
    else:
        name = str(network)
        try:
            if name not in preset_names("backbone"):
                check_name(name, preset_names("backbone"))
        except ConfigError as error:
            if not (folder := Path(name).expanduser()).exists():
                raise ConfigError(f"{error.message}, and no folder of that name", error.hint) from error
            if options:
                raise ConfigError(
                    f"`{min(options)}` has no effect with a saved model", "leave it out"
                ) from error
            return load(folder)
        chosen = preset("backbone", name, **options)
    weights: str | Path = chosen.weights
    if isinstance(chosen, DigitsBackbone) and weights == "pretrained":
        weights = digits_network(SOURCE_DIGITS, chosen, cache=cache)
    return build(chosen, weights=weights, num_classes=num_classes, seed=seed)


def digits_network(digits: Sequence[str], options: ImageBackbone, *, cache: str | Path | None = None) -> Path:
    """The file of weights of `digits_cnn` for two or more digits, trained once and kept in the cache."""
    preprocessing = Preprocessing.of(options)
    made_of = {"digits": list(digits), "recipe": asdict(SOURCE_RECIPE), "input": preprocessing.to_dict()}
    folder = cache_folder(cache)
    path = folder / "weights" / f"digits_cnn-{digest_json(made_of)[:12]}.safetensors"
    if is_whole(path):
        return path
    log.info("pre-training digits_cnn on the digits %s", ", ".join(digits))
    with computing("cpu", None) as device:
        data = Digits(classes=tuple(digits), train=0.8, val=0.1, flip=False)
        samples = open_samples(data, preprocessing, seed=SOURCE_SEED, cache=folder)
        learner = Learner(samples=samples, device=device, trainer=Trainer(), seed=SOURCE_SEED)
        network = build(options, weights="random", num_classes=len(digits), seed=SOURCE_SEED)
        trained = learner.fit(learner.place(network), SOURCE_RECIPE, description="pre-train digits_cnn")
    log.info("pre-training: validation accuracy %.1f %%", 100 * (trained.val_accuracy or 0.0))
    write_backbone(path, network)
    return path


def _own(module: nn.Module, example: Tensor | None, options: dict[str, Any]) -> nn.Sequential:
    """A checked copy of the user's own network; a network of tascnet itself."""
    if isinstance(getattr(module, "info", None), ModelInfo) and not options:
        assert isinstance(module, nn.Sequential)
        return module
    if "weights" in options:
        raise ConfigError("`weights` has no effect with a network of your own", "load them into it")
    if example is not None:
        _check_example(example)
        options = {"size": example.shape[-1], **options}
    chosen: ImageBackbone = make(ImageBackbone, {"name": type(module).__name__, **options})
    preprocessing = Preprocessing.of(chosen)
    inputs = torch.zeros(preprocessing.example_shape)
    if example is not None and example.shape != inputs.shape:
        raise ConfigError(
            f"the example is {_sizes(example)}, and images are {_sizes(inputs)} by `size`, `mean` and `std`",
            "give the same size, and one value of `mean` and `std` for each channel",
        )
    # What it does not take is said before it is looked at more closely.
    check_weights(module)
    outputs_of(module, inputs)
    chain = convert(module, inputs).chain.eval()
    info = ModelInfo(
        backbone=chosen.name,
        preprocessing=preprocessing,
        class_names=(),
        weights=OWN[0],
        licence=OWN[1],
    )
    return with_info(chain, info)


def _check_example(example: object) -> None:
    if not isinstance(example, Tensor):
        raise ConfigError(f"`example` is of type {type(example).__name__}, expected a tensor `1 x c x h x h`")
    if example.ndim != 4 or len(example) != 1 or example.shape[-1] != example.shape[-2]:
        raise ConfigError(f"`example` is {_sizes(example)}, expected one square image `1 x c x h x h`")
    if not example.is_floating_point():
        raise ConfigError(f"`example` is of {example.dtype}, expected floating-point numbers")


def _sizes(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))
