"""Pre-trained networks and other samples: vectors for new words, and samples that were seen before."""

import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tascnet.data.samples import Samples
from tascnet.errors import ConfigError, WeightsError, in_words
from tascnet.models.info import info_of, with_info
from tascnet.models.inspect import evaluating, input_for, meta_copy, meta_like, untouched
from tascnet.models.text import SPECIAL, TextPreprocessing
from tascnet.models.vectors import read_vectors, with_vocabulary
from tascnet.models.weights import read_metadata
from tascnet.options import Backbone, Data, TextBackbone, Texts
from tascnet.run.files import digest_json

log = logging.getLogger("tascnet")

# Key in the metadata of pre-trained weights: on which samples, and which ones were left out.
PRETRAINED_ON = "pretrained_on"
# Classes of the task on which `digits_cnn` is pre-trained.
SOURCE_DIGITS = ("0", "1", "2", "3", "4")


def with_words(network: nn.Sequential, samples: Samples, seed: int) -> nn.Sequential:
    """A text network with a vector for each word of the samples; a network for images as it is.

    Args:
        network: from `tascnet.backbone` or `tascnet.load`.
        samples: their preprocessing has the vocabulary.
        seed: of the vectors of words that are neither in the network nor in the file of its options.
    """
    words, info = samples.preprocessing, info_of(network)
    if not isinstance(words, TextPreprocessing) or not isinstance(info.preprocessing, TextPreprocessing):
        return network
    origin: Backbone | None = getattr(network, "origin", None)
    before, after = info.preprocessing.vocabulary, words.vocabulary
    vectors: dict[str, Tensor] = {}
    if isinstance(origin, TextBackbone) and origin.vectors is not None:
        path = Path(origin.vectors).expanduser()
        vectors = read_vectors(path, after, origin.embedding_width)
        report = log.info if vectors else log.warning
        report("%s has vectors for %d of %d words", path.name, len(vectors), len(after))
    chain = with_vocabulary(network, before, after, vectors=vectors, seed=seed)
    new = set(after) - set(SPECIAL)
    read = new & set(vectors)
    kept = new & set(before) - read
    log.info(
        "vectors: %s%d words keep the network's, %d are drawn at random",
        f"{len(read)} words take those of the file, " if vectors else "",
        *(len(kept), len(new - read - kept)),
    )
    return with_info(chain, replace(info, preprocessing=words), origin=origin)


def warn_of_overlap(network: nn.Sequential, samples: Samples) -> None:
    """Warn if the network's pre-trained weights may have been trained on its test samples.

    Raises:
        ConfigError: they were.
        WeightsError: their metadata are not those of `pretrain`.
    """
    origin: Backbone | None = getattr(network, "origin", None)
    if origin is None:
        return
    name = samples.dataset.name
    shared = sorted(set(samples.class_names) & set(SOURCE_DIGITS)) if name == "digits" else []
    if shared and origin.name == "digits_cnn" and origin.weights == "pretrained":
        raise ConfigError(
            f"digits_cnn was pre-trained on the digits {' '.join(SOURCE_DIGITS)} and would be tested on "
            f"images of {shared[0]} that it was trained on",
            "leave them out of `classes`, or take `weights=random`",
        )
    path = Path(origin.weights).expanduser()
    seen: dict[str, Any] | None = read_metadata(path).get(PRETRAINED_ON) if path.is_file() else None
    if seen is None:
        return
    if not _is_provenance(seen):
        raise WeightsError(
            f"the metadata of {path} do not say on which samples they were trained",
            "give the file that `pretrain` wrote",
        )
    excluded = seen["excluded"] or {}
    if seen["fingerprint"] == samples.fingerprint:
        if seen["held_out"] != samples.held_out:
            log.warning(
                "%s were trained on another split of %s than this one, perhaps on test samples of this one: "
                "test accuracy may be too high; pre-train with this seed and split",
                *(path, name),
            )
    elif excluded.get("fingerprint") != samples.fingerprint:
        log.info(
            "it is unknown whether %s shares samples with %s, on which %s were trained; pre-train with "
            "`exclude` and the splits.json of this run to leave them out",
            *(name, seen["dataset"], path),
        )
    elif excluded["digest"] != held_out_digest(samples.held_out_digests):
        log.warning(
            "%s were trained without the validation and test samples of another split of %s than this one: "
            "test accuracy may be too high; pre-train with `exclude` and the splits.json of this run",
            *(path, name),
        )


def _is_provenance(seen: Any) -> bool:
    """Whether metadata say which data set was seen, and what of it was left out, as `pretrain` writes it."""
    if not isinstance(seen, dict) or not {"dataset", "fingerprint", "held_out", "excluded"} <= seen.keys():
        return False
    excluded = seen["excluded"]
    return not excluded or (isinstance(excluded, dict) and {"fingerprint", "digest"} <= excluded.keys())


def held_out_digest(digests: Iterable[str]) -> str:
    """One digest of the digests of many samples."""
    return digest_json(sorted(digests))


def check_network(network: nn.Sequential, samples: Samples) -> None:
    """Raise before training if the network does not take the samples.

    Raises:
        ConfigError: it does not.
    """
    outputs_of(network, samples.example)


def example_for(network: nn.Module, data: Data) -> Tensor:
    """One sample of zeros, `1 x ...`, as a backbone takes it before its data set is opened."""
    if isinstance(data, Texts):
        return torch.zeros(1, data.max_tokens, dtype=torch.int64)
    return torch.zeros(info_of(network).preprocessing.example_shape)


def outputs_of(network: nn.Module, example: Tensor) -> Tensor:
    """The outputs of a network for one sample `1 x ...`, in eval mode, on the meta device.

    A network that needs values, as one of the user's own may, runs on its own device.

    Raises:
        ConfigError: it does not take the sample.
    """
    shape = " x ".join(map(str, example.shape[1:]))
    kind = "images" if example.is_floating_point() else "texts"
    with untouched(network), torch.no_grad():
        # A network of the user's own may call sys.exit.
        with suppress(Exception, SystemExit):
            ghost = meta_copy(network).eval()
            found: Tensor = ghost(input_for(ghost, meta_like(example)))
            return found
        # What it does not take is said in the words of its own device.
        try:
            with evaluating(network):
                outputs: Tensor = network(input_for(network, example))
        except (Exception, SystemExit) as error:
            raise ConfigError(
                f"the network does not take {kind} of {shape} ({in_words(error)})",
                "change `size`, or the network; `mean` has one value for each channel",
            ) from error
    return outputs
