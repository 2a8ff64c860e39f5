"""Text networks for texts with other words: vocabularies of weight files, and files of word vectors."""

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from tascnet.errors import ConfigError, WeightsError, first_line
from tascnet.models.text import TextPreprocessing, normalise
from tascnet.models.weights import read_metadata

# Key of the metadata in which a weight file keeps its vocabulary.
VOCABULARY = "vocabulary"
# New words draw their vectors uniformly from -0.25 to 0.25.
_SPREAD = 0.25


def with_vocabulary(
    chain: nn.Sequential,
    vocabulary: Sequence[str],
    words: Sequence[str],
    *,
    vectors: Mapping[str, Tensor] | None = None,
    seed: int,
) -> nn.Sequential:
    """A text network for another vocabulary.

    Args:
        chain: begins with an `nn.Embedding`; not changed, shares its other blocks with the result.
        vocabulary: the chain's.
        words: the vocabulary of the result.
        vectors: of some words, `d`; they take precedence over the chain's.
        seed: of the vectors of words that are in neither.

    Returns:
        A chain whose embedding has a row for each of `words`; those of words in `vocabulary` are copied.
    """
    old = chain[0]
    assert isinstance(old, nn.Embedding), "a text network begins with its embedding"
    generator = torch.Generator().manual_seed(seed)
    width = old.embedding_dim
    rows = torch.empty(len(words), width).uniform_(-_SPREAD, _SPREAD, generator=generator)
    places = {word: number for number, word in enumerate(vocabulary)}
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
        words: a vocabulary; other words of the file are skipped.
        width: numbers in each vector.

    Raises:
        WeightsError: the file is missing, or a line is not of the format.
        ConfigError: its vectors have another width.
    """
    if not path.is_file():
        raise WeightsError(f"`vectors={path}` is no file", "give a text file in GloVe's format")
    wanted = set(words)
    found: dict[str, Tensor] = {}
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            # word2vec's text format begins with the numbers of words and of dimensions.
            if number == 1 and len(head := line.split()) == 2:
                if head[1].isdigit() and int(head[1]) != width:
                    raise _other_width(path, number, "announces", int(head[1]), width)
                continue
            word, numbers = _entry(line, width, path, number)
            if (key := normalise(word)) in wanted and key not in found:
                found[key] = _vector(numbers, path, number)
    return found


def _entry(line: str, width: int, path: Path, number: int) -> tuple[str, list[str]]:
    """A line's word and numbers; in GloVe's own files words have spaces, though not the first."""
    parts = line.rstrip().split(" ")
    word, numbers = " ".join(parts[:-width]), parts[-width:]
    if not word or (number == 1 and " " in word):
        raise _other_width(path, number, "holds", len(parts) - 1, width)
    return word, numbers


def _other_width(path: Path, number: int, does: str, came: int, width: int) -> ConfigError:
    return ConfigError(
        f"line {number} of {path} {does} {came} numbers, expected `embedding_width={width}`",
        f"give `embedding_width={came}`, or a file of other vectors",
    )


def _vector(numbers: Sequence[str], path: Path, line: int) -> Tensor:
    try:
        vector = torch.tensor([float(number) for number in numbers])
    except ValueError as error:
        raise WeightsError(f"line {line} of {path} is no word with numbers ({error})") from error
    if not torch.isfinite(vector).all():
        raise WeightsError(f"line {line} of {path} holds numbers that are not finite")
    return vector


def read_vocabulary(path: Path) -> tuple[str, ...]:
    """The words that a weight file of a text network knows.

    Raises:
        WeightsError: the file is missing, or holds no vocabulary.
    """
    if not path.is_file():
        raise WeightsError(f"`weights={path}` is no file", "give `random`, or a path that exists")
    hint = "give the .safetensors file that `pretrain` writes for textcnn"
    words = read_metadata(path).get(VOCABULARY)
    if words is None:
        raise WeightsError(f"the weights {path} hold no vocabulary", hint)
    try:
        return TextPreprocessing(max_tokens=1, vocabulary=words).vocabulary
    except ConfigError as error:
        raise WeightsError(f"the vocabulary of {path} cannot be read ({first_line(error)})", hint) from error
