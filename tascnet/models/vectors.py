"""Text networks for other words: new embeddings, and files of word vectors."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from tascnet.errors import ConfigError, WeightsError, first_line
from tascnet.models.blocks import sequence
from tascnet.models.text import normalise
from tascnet.run.files import check_regular

# New words draw their vectors uniformly from -0.25 to 0.25.
_SPREAD = 0.25
# Of a file of vectors, in characters; a line of GloVe has some 3,000.
_LONGEST_LINE = 1 << 20


def with_vocabulary(
    chain: nn.Sequential,
    vocabulary: Sequence[str],
    words: Sequence[str],
    *,
    vectors: Mapping[str, Tensor],
    seed: int,
) -> nn.Sequential:
    """A text network for another vocabulary.

    Args:
        chain: begins with an `nn.Embedding`; not changed, shares its other blocks with the result.
        vocabulary: the chain's.
        words: the vocabulary of the result.
        vectors: of some words, `d`; they take precedence over the chain's.
        seed: of the vectors of words that are in neither.
    """
    old = chain[0]
    assert isinstance(old, nn.Embedding), "a text network begins with its embedding"
    generator = torch.Generator().manual_seed(seed)
    width = old.embedding_dim
    rows = torch.empty(len(words), width).uniform_(-_SPREAD, _SPREAD, generator=generator)
    places = {word: number for number, word in enumerate(vocabulary)}
    kept = [number for number, word in enumerate(words) if word in places]
    rows[kept] = old.weight.detach().float().cpu()[[places[words[number]] for number in kept]]
    for number, word in enumerate(words):
        if word in vectors:
            rows[number] = vectors[word]
    rows[0] = 0
    new = nn.Embedding(len(words), width, padding_idx=0, _weight=rows)
    new.to(old.weight.device, old.weight.dtype).train(old.training)
    (name, _), *others = chain.named_children()
    return sequence([(name, new), *others]).train(chain.training)


def read_vectors(path: Path, words: Collection[str], width: int) -> dict[str, Tensor]:
    """The vectors of some words from a file in GloVe's format: a word and its numbers on each line.

    Args:
        path: UTF-8 text.
        words: a vocabulary; other words of the file are skipped.
        width: numbers in each vector.

    Raises:
        WeightsError: the file is missing or unreadable, or a line is not of the format.
        ConfigError: its vectors have another width.
    """
    hint = "give a text file in GloVe's format"
    try:
        check_regular(path)
    except FileNotFoundError as error:
        raise WeightsError(f"`vectors={path}` is no file", hint) from error
    except OSError as error:
        raise WeightsError(f"the vectors {path} cannot be read ({error})", hint) from error

    def no_vector() -> WeightsError:
        return WeightsError(f"line {number} of {path} is no word with {width} numbers", hint)

    def other_width(does: str, came: int) -> ConfigError:
        return ConfigError(
            f"line {number} of {path} {does} {came} numbers, expected `embedding_width={width}`",
            f"give `embedding_width={came}`, or a file of other vectors",
        )

    wanted = set(words)
    found: dict[str, Tensor] = {}
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = iter(lambda: file.readline(_LONGEST_LINE), "")
        for number, line in enumerate(lines, start=1):
            if len(line) == _LONGEST_LINE or "\0" in line:
                raise no_vector()
            # word2vec's text format begins with the numbers of words and of dimensions.
            if number == 1 and len(head := line.split()) == 2:
                if head[1].isdecimal() and (came := int(head[1][:9])) != width:
                    raise other_width("announces", came)
                continue
            parts = line.rstrip().split(" ")
            word, numbers = " ".join(parts[:-width]), parts[-width:]
            # In GloVe's own files words have spaces, but not the first one.
            if not word or (number == 1 and " " in word):
                raise other_width("holds", len(parts) - 1) if len(parts) > 1 else no_vector()
            if (key := normalise(word)) in wanted and key not in found:
                found[key] = _vector(numbers, path, number)
    return found


def _vector(numbers: Sequence[str], path: Path, line: int) -> Tensor:
    try:
        vector = torch.tensor([float(number) for number in numbers])
    except ValueError as error:
        raise WeightsError(f"line {line} of {path} is no word with numbers ({first_line(error)})") from error
    if not torch.isfinite(vector).all():
        raise WeightsError(f"line {line} of {path} holds numbers that are not finite")
    return vector
