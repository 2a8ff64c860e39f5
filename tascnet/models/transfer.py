"""Networks of words that move to texts with other words."""

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from tascnet.errors import ConfigError, WeightsError
from tascnet.models.text import SPECIAL, TextPreprocessing, normalise
from tascnet.models.weights import Backbone, build_backbone, read_metadata

# Key of the metadata in which a weight file keeps its vocabulary.
VOCABULARY = "vocabulary"
# Vectors of words that nothing is known of; the width of the uniform distribution.
_SPREAD = 0.25


def build_textcnn(
    *, weights: str | Path, embedding_width: int, filters: int, num_classes: int | None = None, seed: int = 0
) -> tuple[Backbone, tuple[str, ...]]:
    """The text network and the words that it knows.

    Args:
        weights: `random`, or the path of a `.safetensors` file with a vocabulary.
        embedding_width: numbers in a word's vector.
        filters: of each convolution.
        num_classes: outputs where no weight file tells; None: 10.
        seed: of random weights.

    Raises:
        WeightsError: the weights are missing, without vocabulary, or those of another network.
    """
    if weights == "pretrained":
        raise WeightsError(
            "textcnn has no published weights that can be downloaded",
            "give the file that stage=pretrain writes as backbone.weights=<file>, or backbone.weights=random",
        )
    known = SPECIAL if weights == "random" else _read_vocabulary(Path(weights).expanduser())
    options = {"words": len(known), "embedding_width": embedding_width, "filters": filters}
    backbone = build_backbone("textcnn", weights=weights, options=options, num_classes=num_classes, seed=seed)
    return backbone, known


def with_vocabulary(
    chain: nn.Sequential,
    known: Sequence[str],
    words: Sequence[str],
    *,
    vectors: Mapping[str, Tensor] | None = None,
    seed: int,
) -> nn.Sequential:
    """A text network for another vocabulary.

    Args:
        chain: begins with an `nn.Embedding` of the words `known`; stays as it is, shares its other blocks.
        known: its vocabulary.
        words: the vocabulary wanted.
        vectors: of some words, `d`; they win over the chain's.
        seed: of the vectors of words that are in neither.

    Returns:
        A chain whose embedding has a row for each of `words`: those of known words are copied.
    """
    old = chain[0]
    assert isinstance(old, nn.Embedding), "a text network begins with its embedding"
    generator = torch.Generator().manual_seed(seed)
    width = old.embedding_dim
    rows = torch.empty(len(words), width).uniform_(-_SPREAD, _SPREAD, generator=generator)
    places = {word: number for number, word in enumerate(known)}
    copied = [(new, places[word]) for new, word in enumerate(words) if word in places]
    rows[[new for new, _ in copied]] = old.weight.detach().float().cpu()[[at for _, at in copied]]
    for number, word in enumerate(words):
        if vectors and word in vectors:
            rows[number] = vectors[word]
    rows[0] = 0
    new = nn.Embedding(len(words), width, padding_idx=0, _weight=rows)
    new.to(old.weight.device, old.weight.dtype).train(old.training)
    (name, _), *others = chain.named_children()
    return nn.Sequential(OrderedDict([(name, new), *others])).train(chain.training)


def read_vectors(path: Path, words: Collection[str], width: int) -> dict[str, Tensor]:
    """The vectors of some words from a file in GloVe's format: a word and its numbers on each line.

    Args:
        path: UTF-8 text.
        words: a vocabulary; other words of the file are passed over.
        width: numbers in each vector.

    Raises:
        WeightsError: the file is missing, or a line is not of the format.
        ConfigError: its vectors have another width.
    """
    if not path.is_file():
        raise WeightsError(f"backbone.vectors={path} is no file", "give a text file in GloVe's format")
    wanted = set(words)
    found: dict[str, Tensor] = {}
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            # word2vec's text format begins with the numbers of words and of dimensions.
            if number == 1 and len(head := line.split()) == 2:
                if head[1].isdigit() and int(head[1]) != width:
                    raise _other_width(path, number, "promises", int(head[1]), width)
                continue
            word, numbers = _entry(line, width, path, number)
            if (key := normalise(word)) in wanted and key not in found:
                found[key] = _vector(numbers, path, number)
    return found


def _entry(line: str, width: int, path: Path, number: int) -> tuple[str, list[str]]:
    """A line's word and numbers; GloVe's own files have words with spaces, though not the first."""
    parts = line.rstrip().split(" ")
    word, numbers = " ".join(parts[:-width]), parts[-width:]
    if not word or (number == 1 and " " in word):
        raise _other_width(path, number, "holds", len(parts) - 1, width)
    return word, numbers


def _other_width(path: Path, number: int, does: str, came: int, width: int) -> ConfigError:
    return ConfigError(
        f"line {number} of {path} {does} {came} numbers, but vectors of "
        f"backbone.embedding_width={width} are expected",
        f"give backbone.embedding_width={came}, or a file of other vectors",
    )


def _vector(numbers: Sequence[str], path: Path, line: int) -> Tensor:
    try:
        vector = torch.tensor([float(number) for number in numbers])
    except ValueError as error:
        raise WeightsError(f"line {line} of {path} is no word with numbers ({error})") from error
    if not torch.isfinite(vector).all():
        raise WeightsError(f"line {line} of {path} holds numbers that are not finite")
    return vector


def _read_vocabulary(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise WeightsError(f"weights {str(path)!r} are no file", "give random, or a path that exists")
    hint = "give the .safetensors file that stage=pretrain writes for textcnn"
    words = read_metadata(path).get(VOCABULARY)
    if words is None:
        raise WeightsError(f"weights {path} hold no vocabulary", hint)
    try:
        return TextPreprocessing(max_tokens=1, vocabulary=words).vocabulary
    except ConfigError as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"the vocabulary of {path} cannot be read ({reason})", hint) from error
