"""Training a network from random weights on a source task, and the weight file that it leaves."""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tascnet.models import Backbone, build_backbone, write_weights
from tascnet.models.text import SPECIAL, TextPreprocessing
from tascnet.models.transfer import VOCABULARY, build_textcnn, read_vectors, with_vocabulary
from tascnet.models.weights import original_keys
from tascnet.options import Config
from tascnet.run.files import digest_json
from tascnet.train import FitResult

from .session import Session, recipe

log = logging.getLogger("tascnet")

# Key of the metadata of stage pretrain: on which data set, and which samples the network has not seen.
ORIGIN = "pretrained_on"


def random_network(session: Session) -> nn.Sequential:
    """The config's backbone for the session's classes and words, with weights drawn by the run's seed."""
    config, words = session.config, session.preprocessing
    backbone, known = build(config, "random", num_classes=session.num_classes)
    if not isinstance(words, TextPreprocessing):
        return backbone.chain
    vectors = known_vectors(config, words.vocabulary)
    return with_vocabulary(backbone.chain, known, words.vocabulary, vectors=vectors, seed=config.seed)


def build(
    config: Config, weights: str | Path, *, num_classes: int | None = None
) -> tuple[Backbone, tuple[str, ...]]:
    """The config's backbone with some weights, and the words that it knows.

    Args:
        config: the composed config.
        weights: as `backbone.weights` takes them.
        num_classes: outputs where no weight file tells; None: as published.

    Raises:
        WeightsError: the weights are missing, unreadable or of another architecture.
        ConfigError: the backbone is unknown or the user's factory does not give a chain.
    """
    options = config.backbone
    if options.name == "textcnn":
        return build_textcnn(
            weights=weights,
            embedding_width=options.embedding_width,
            filters=options.filters,
            num_classes=num_classes,
            seed=config.seed,
        )
    backbone = build_backbone(
        options.name,
        weights=weights,
        factory=options.factory,
        options=options.options,
        channels=len(options.mean),
        num_classes=num_classes,
        seed=config.seed,
    )
    return backbone, SPECIAL


def known_vectors(config: Config, words: Collection[str]) -> dict[str, Tensor]:
    """The vectors of some words that `backbone.vectors` holds; none where it names no file."""
    options = config.backbone
    if options.vectors is None:
        return {}
    path = Path(options.vectors).expanduser()
    vectors = read_vectors(path, words, options.embedding_width)
    told = log.info if vectors else log.warning
    told("%s has vectors for %d of %d words", path.name, len(vectors), len(words))
    return vectors


def pretrain_network(session: Session, network: nn.Sequential, **options: Any) -> FitResult:
    """Train all of a network by the recipe `trainer.pretrain`; `options` are those of `Session.fit`."""
    session.place(network).requires_grad_(True)
    return session.fit(network, recipe(session.config.trainer.pretrain), **options)


def write_source(
    path: Path, network: nn.Sequential, session: Session, origin: Mapping[str, Any] | None = None
) -> None:
    """Write weights that `backbone.weights=<path>` takes: in the original layout, with the words they know.

    Args:
        path: the `.safetensors` file.
        network: of the session's backbone.
        session: what it was trained on.
        origin: of stage pretrain: `dataset`, its `fingerprint`, and `own_held_out`, of its validation and
            test samples; `exclude` and `held_out`, the data set whose samples were left out and their
            `held_out_digest`, or None; `resize`, without which digests of images cannot be compared.
    """
    words = session.preprocessing
    metadata: dict[str, Any] = {} if origin is None else {ORIGIN: dict(origin)}
    channels = 0
    if isinstance(words, TextPreprocessing):
        metadata[VOCABULARY] = words.vocabulary
    else:
        channels = words.channels
    keys = original_keys(session.config.backbone.name, session.num_classes, channels)
    write_weights(path, network, keys, metadata)


def held_out_digest(digests: list[str]) -> str:
    """One digest for all samples of a target's validation and test splits."""
    return digest_json(sorted(digests))
