"""The pre-trained network that a run starts from."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from tascnet import data
from tascnet.config import Config
from tascnet.files import digest_json
from tascnet.models import HeadSpec, build_backbone, replace_head, write_weights
from tascnet.runs import cache_folder
from tascnet.train import Recipe, fit

from .session import Session, backbone_preprocessing, resolve_device

__all__ = ["Source", "load_source", "softmax_network"]

log = logging.getLogger("tascnet")

# How the embedded digits network learns its source task: seconds on one core.
_SOURCE_TASK = Recipe(epochs=15, batch_size=32, lr=3e-3, weight_decay=1e-2, schedule="cosine")
_SOURCE_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Source:
    """A pre-trained chain and where it comes from.

    Args:
        chain: in eval mode, on the CPU.
        weights: where its weights come from.
        licence: their licence.
        digest: of structure and weights.
    """

    chain: nn.Sequential
    weights: str
    licence: str
    digest: str


def load_source(config: Config) -> Source:
    """The backbone with the weights that the config names.

    Raises:
        WeightsError: the weights are missing, unreadable or of another architecture.
        ConfigError: the backbone is unknown or the user's factory does not give a chain.
    """
    options = config.backbone
    weights: str | Path = options.weights
    if options.name == "digits_cnn" and options.weights == "pretrained":
        weights = _pretrained_digits(config)
    backbone = build_backbone(
        options.name,
        weights=weights,
        factory=options.factory,
        options=options.options,
        channels=len(options.mean),
        seed=config.seed,
    )
    chain = backbone.chain
    return Source(
        chain=chain,
        weights=backbone.source["weights"],
        licence=backbone.source["licence"],
        digest=data.module_digest(chain),
    )


def softmax_network(source: Source, session: Session) -> nn.Sequential:
    """The pre-trained network with a new softmax layer for the session's classes, on its device."""
    head = HeadSpec(hidden=(), dropout=0.0)
    return session.place(replace_head(source.chain, head, session.num_classes, seed=session.config.seed))


def _pretrained_digits(config: Config) -> Path:
    """Weights of `digits_cnn` trained on the source digits; made once and kept in the cache."""
    preprocessing = backbone_preprocessing(config.backbone)
    digits = config.dataset.source_digits
    made_of = {"digits": digits, "recipe": asdict(_SOURCE_TASK), "input": preprocessing.to_dict()}
    path = cache_folder(config) / "weights" / f"digits_cnn-{digest_json(made_of)[:12]}.safetensors"
    if path.exists():
        return path
    log.info("pre-training digits_cnn on its source task, the digits %s", ", ".join(map(str, digits)))
    dataset = data.load_digits_set(digits, preprocessing)
    rows = data.split(
        dataset.labels, dataset.class_names, seed=_SOURCE_SEED, train_fraction=0.8, val_fraction=0.1
    )
    chain = build_backbone(
        "digits_cnn",
        weights="random",
        channels=preprocessing.channels,
        num_classes=len(digits),
        seed=_SOURCE_SEED,
    ).chain
    chain.requires_grad_(True)
    device = resolve_device(config)
    chain.to(device)
    train, val = (data.ImageSource(dataset, part, preprocessing) for part in (rows.train, rows.val))
    result = fit(chain, train, val, _SOURCE_TASK, seed=_SOURCE_SEED, device=device, description="source task")
    log.info("source task: validation accuracy %.1f %%", 100 * (result.best_val_accuracy or 0.0))
    write_weights(path, chain)
    return path
