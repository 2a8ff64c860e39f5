"""Networks to start from: by name, from the folder of a saved model, or the user's own."""

import copy
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tascnet.data.samples import open_samples
from tascnet.errors import ConfigError, closest, listed
from tascnet.models.archive import load
from tascnet.models.build import NAMES, build, write_backbone
from tascnet.models.describe import describe, has_own_classes
from tascnet.models.head import classifier_of
from tascnet.models.info import ModelInfo, with_info
from tascnet.models.preprocessing import Preprocessing
from tascnet.models.tensors import check_weights
from tascnet.models.weights import is_whole
from tascnet.options import BACKBONES, Backbone, Digits, ImageBackbone, Recipe, Trainer, make
from tascnet.presets import preset
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
    network: str | Path | Backbone | nn.Module = "mobilenet_v2",
    example: Tensor | None = None,
    *,
    num_classes: int | None = None,
    seed: int = 0,
    cache: str | Path | None = None,
    **options: Any,
) -> nn.Sequential:
    """A network to tune, prune or pre-train, in eval mode.

    It has the attributes `info`, `preprocessing`, `class_names`, `origin` and `factory`.

    Args:
        network: a name (`mobilenet_v2`, `resnet50`, `textcnn`, ...) or its options; the folder of a saved
            model; or your own `nn.Sequential`, which is copied. Each of its blocks takes one tensor and
            returns one, and the last block is an `nn.Linear`.
        example: `1 x c x h x h`, an input of your own network; None: zeros.
        num_classes: outputs of a network with random weights; None: as published.
        seed: of random weights.
        cache: folder for the weights of `digits_cnn`; None: `outputs/cache`.
        options: of `ImageBackbone` or `TextBackbone`, in place of the preset's; for your own network `size`,
            `resize`, `mean`, `std` and `interpolation`.

    Raises:
        ConfigError: there is no such network or option, or your own network is no chain for such images.
        WeightsError: the weights are missing, unreadable or those of another network.
        ArchiveError: the folder holds no saved model.
    """
    if isinstance(network, nn.Module):
        return _own(network, example, options)
    if example is not None:
        raise ConfigError("`example` has no effect without a network of your own", "leave it out")
    if isinstance(network, Backbone):
        chosen = replace(network, **options)
    elif network in (names := (*NAMES, *BACKBONES)):
        chosen = preset("backbone", str(network), **options)
    elif (folder := Path(network).expanduser()).exists():
        if options.keys() - {"factory"}:
            raise ConfigError(f"`{min(options)}` has no effect with a saved model", "leave it out")
        return load(folder, **options)
    else:
        likely = closest(str(network), names)
        offered = f"take {listed(names)}, or the folder of a saved model"
        hint = f"did you mean {likely!r}?" if likely else offered
        raise ConfigError(f"there is no network {str(network)!r}, and no folder of that name", hint)
    weights: str | Path = chosen.weights
    if isinstance(chosen, ImageBackbone) and chosen.name == "digits_cnn" and weights == "pretrained":
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
    is_chain = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
    if not is_chain or not len(module):  # type: ignore[arg-type]
        raise ConfigError(
            f"{type(module).__name__} is not yet a chain",
            "give an nn.Sequential of blocks that each take one tensor and return one",
        )
    chain = nn.Sequential(OrderedDict(copy.deepcopy(module).named_children())).eval()
    classes = classifier_of(chain).out_features
    if example is not None:
        options = {"size": example.shape[-1], **options}
    chosen: ImageBackbone = make(ImageBackbone, {"name": "custom", "weights": "random", **options})
    preprocessing = Preprocessing.of(chosen)
    outputs = outputs_of(chain, torch.zeros(preprocessing.example_shape) if example is None else example)
    if outputs.shape != (1, classes):
        raise ConfigError(
            f"the network returns {tuple(outputs.shape)} for one image, expected {(1, classes)}",
            "put an nn.Flatten before its last block",
        )
    check_weights(chain)
    # A network that cannot be saved fails now, rather than after hours.
    has_own = has_own_classes(describe(chain))
    blocks = copy.deepcopy(chain)
    factory = (lambda num_classes: copy.deepcopy(blocks)) if has_own else None
    info = ModelInfo(
        backbone=chosen.name,
        preprocessing=preprocessing,
        class_names=(),
        weights="as the network was given",
        licence="as the network's author states",
    )
    return with_info(chain, info, origin=chosen, factory=factory)
