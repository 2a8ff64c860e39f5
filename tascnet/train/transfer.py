"""What a pre-trained network needs before it learns from other samples, and what is wrong with some pairs."""

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tascnet.data.samples import Samples
from tascnet.errors import ConfigError, first_line
from tascnet.models.info import info_of, with_info
from tascnet.models.inspect import evaluating, input_for
from tascnet.models.text import SPECIAL, TextPreprocessing
from tascnet.models.vectors import read_vectors, with_vocabulary
from tascnet.models.weights import read_metadata
from tascnet.options import Backbone, TextBackbone
from tascnet.run.files import digest_json

log = logging.getLogger("tascnet")

# Key of the metadata of weights that `pretrain` wrote: on which samples, and which ones were left out.
PRETRAINED_ON = "pretrained_on"
# Classes of the task on which `digits_cnn` is pre-trained.
SOURCE_DIGITS = ("0", "1", "2", "3", "4")


def with_words(network: nn.Sequential, samples: Samples, seed: int) -> nn.Sequential:
    """A text network with a vector for each word of the samples; a network for images as it is.

    Args:
        network: from `tascnet.backbone` or `tascnet.load`.
        samples: whose preprocessing has the vocabulary.
        seed: of the vectors of words that are neither in the network nor in the file of its options.
    """
    words, info = samples.preprocessing, info_of(network)
    if not isinstance(words, TextPreprocessing) or not isinstance(info.preprocessing, TextPreprocessing):
        return network
    origin: Backbone | None = getattr(network, "origin", None)
    vectors = _file_vectors(origin, words.vocabulary)
    known = info.preprocessing.vocabulary
    chain = with_vocabulary(network, known, words.vocabulary, vectors=vectors, seed=seed)
    own = set(words.vocabulary) - set(SPECIAL)
    given = own & set(vectors)
    kept = own & set(known) - given
    log.info(
        "vectors: %s%d words keep the network's, %d are drawn at random",
        f"{len(given)} words take those of the file, " if vectors else "",
        *(len(kept), len(own - given - kept)),
    )
    return with_info(chain, replace(info, preprocessing=words), origin=origin)


def warn_of_overlap(network: nn.Sequential, samples: Samples) -> None:
    """Warn where pre-trained weights may have seen samples that a network is tested on.

    Raises:
        ConfigError: they have seen them.
    """
    origin: Backbone | None = getattr(network, "origin", None)
    if origin is None:
        return
    name = samples.dataset.name
    if origin.name == "digits_cnn" and origin.weights == "pretrained" and name == "digits":
        shared = sorted(set(samples.class_names) & set(SOURCE_DIGITS))
        if shared:
            raise ConfigError(
                f"digits_cnn was pre-trained on the digits {' '.join(SOURCE_DIGITS)} and would be tested on "
                f"images of {shared[0]} that it was trained on",
                "leave them out of `classes`, or take `weights=random`",
            )
    path = Path(origin.weights).expanduser()
    seen: dict[str, Any] | None = read_metadata(path).get(PRETRAINED_ON) if path.is_file() else None
    if seen is None:
        return
    excluded = seen["excluded"] or {}
    if seen["fingerprint"] == samples.fingerprint:
        if seen["held_out"] != samples.held_out:
            log.warning(
                "%s were trained on another split of %s than this one: they may have seen samples that the "
                "network is tested on, and test accuracy may be too high; pre-train with this seed and split",
                *(path, name),
            )
    elif excluded.get("fingerprint") != samples.fingerprint:
        log.info(
            "nothing says whether %s shares samples with %s, on which %s were trained; `exclude` with the "
            "splits.json of this run leaves them out of pre-training",
            *(name, seen["dataset"], path),
        )
    elif excluded["digest"] != held_out_digest(
        samples.dataset.digests([*samples.val.rows, *samples.test.rows])
    ):
        log.warning(
            "%s have left out the validation and test samples of another split of %s than this one: test "
            "accuracy may be too high; pre-train with `exclude` and the splits.json of this run",
            *(path, name),
        )


def held_out_digest(digests: Iterable[str]) -> str:
    """One digest of those of many samples."""
    return digest_json(sorted(digests))


def check_network(network: nn.Sequential, samples: Samples) -> None:
    """Find a network that does not take the samples before anything is trained.

    Raises:
        ConfigError: it does not.
    """
    outputs_of(network, samples.example)


def outputs_of(network: nn.Sequential, example: Tensor) -> Tensor:
    """The outputs of a network for one sample, in eval mode.

    Args:
        network: on any device.
        example: `1 x ...`, as its first block takes it.

    Raises:
        ConfigError: it does not take the sample.
    """
    shape = " x ".join(map(str, example.shape[1:]))
    kind = "images" if example.is_floating_point() else "texts"
    try:
        with torch.no_grad(), evaluating(network):
            outputs: Tensor = network(input_for(network, example))
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"the network does not take {kind} of {shape} ({first_line(error)})",
            "change `size`, or the network; `mean` has one value for each channel",
        ) from error
    return outputs


def _file_vectors(origin: Backbone | None, words: tuple[str, ...]) -> dict[str, Tensor]:
    """The vectors of some words in the file that the options of a network name, if they name one."""
    if not isinstance(origin, TextBackbone) or origin.vectors is None:
        return {}
    path = Path(origin.vectors).expanduser()
    vectors = read_vectors(path, words, origin.embedding_width)
    report = log.info if vectors else log.warning
    report("%s has vectors for %d of %d words", path.name, len(vectors), len(words))
    return vectors
