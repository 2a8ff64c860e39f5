"""Training a network from random weights on a source task, and the weight file that it leaves."""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tascnet.config import Config
from tascnet.files import digest_json
from tascnet.models import build_backbone, write_weights
from tascnet.models.text import SPECIAL, TextPreprocessing
from tascnet.models.transfer import VOCABULARY, build_textcnn, read_vectors, with_vocabulary
from tascnet.models.weights import original_keys
from tascnet.train import FitResult

from .session import Session, recipe

__all__ = [
    "ORIGIN",
    "held_out_digest",
    "known_vectors",
    "pretrain_network",
    "random_network",
    "write_source",
]

log = logging.getLogger("tascnet")

# Key of the metadata of stage pretrain: on which data set, and which samples the network has not seen.
ORIGIN = "pretrained_on"


def random_network(session: Session) -> nn.Sequential:
    """The config's backbone for the session's classes and words, with weights drawn by the run's seed."""
    config, words = session.config, session.preprocessing
    options = config.backbone
    if not isinstance(words, TextPreprocessing):
        return build_backbone(
            options.name,
            weights="random",
            factory=options.factory,
            options=options.options,
            channels=words.channels,
            num_classes=session.num_classes,
            seed=config.seed,
        ).chain
    text, _ = build_textcnn(
        weights="random",
        embedding_width=options.embedding_width,
        filters=options.filters,
        num_classes=session.num_classes,
        seed=config.seed,
    )
    vectors = known_vectors(config, words.vocabulary)
    return with_vocabulary(text.chain, SPECIAL, words.vocabulary, vectors=vectors, seed=config.seed)


def known_vectors(config: Config, words: Collection[str]) -> dict[str, Tensor]:
    """The vectors of some words that `backbone.vectors` holds; none where it names no file."""
    options = config.backbone
    if options.vectors is None:
        return {}
    path = Path(options.vectors).expanduser()
    vectors = read_vectors(path, words, options.embedding_width)
    log.info("%s has vectors for %d of %d words", path.name, len(vectors), len(words))
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
        origin: of stage pretrain: `dataset`, and `exclude` and `held_out`, the data set whose samples were
            left out and their `held_out_digest`, or None.
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
