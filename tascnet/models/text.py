"""From texts to a network's input: words, and the vocabulary that numbers them.

Words are lower-cased, without accents, and split at white space and punctuation, as by BERT.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from tascnet.errors import ConfigError, DataError

if TYPE_CHECKING:
    import tokenizers
    from torch import Tensor

PADDING, UNKNOWN = "[PAD]", "[UNK]"
# The first entries of every vocabulary.
SPECIAL = (PADDING, UNKNOWN)
_LONGEST_TEXT = 4096
_LARGEST_VOCABULARY = 1 << 17
# In letters; anything longer is no word of a language.
_LONGEST_WORD = 100


@dataclass(frozen=True, kw_only=True)
class TextPreprocessing:
    """From a text to a network's input.

    Args:
        max_tokens: `T`, to which texts are padded or cut.
        vocabulary: words in the order of their numbers: `[PAD]` is 0; `[UNK]`, for all other words, is 1.

    Raises:
        ConfigError: a value has the wrong type or lies outside its bounds.
    """

    max_tokens: int
    vocabulary: tuple[str, ...]

    def __post_init__(self) -> None:
        tokens = self.max_tokens
        if not isinstance(tokens, int) or isinstance(tokens, bool) or not 1 <= tokens <= _LONGEST_TEXT:
            raise ConfigError(
                f"`max_tokens` is {tokens!r}, expected a whole number from 1 to {_LONGEST_TEXT}"
            )
        object.__setattr__(self, "vocabulary", _checked(self.vocabulary))

    @property
    def example_shape(self) -> tuple[int, int]:
        """The shape `1 x T` of one sample."""
        return (1, self.max_tokens)

    def __call__(self, text: str) -> "Tensor":
        """A text as the network takes it: the numbers of its words, `T`, int64."""
        if not isinstance(text, str):
            raise DataError(f"the text is of type {type(text).__name__}", "give one text as a str")
        return self.encode([text])[0]

    def encode(self, texts: Sequence[str]) -> "Tensor":
        """The numbers of the words of `b` raw texts: `b x T`, int64."""
        import torch

        rows = [row.ids for row in self._tokenizer.encode_batch(list(texts))]
        return torch.tensor(rows, dtype=torch.int64).reshape(len(texts), self.max_tokens)

    def count_cut(self, texts: Sequence[str]) -> int:
        """How many of the texts have more than `T` tokens and are cut."""
        return sum(bool(row.overflowing) for row in self._tokenizer.encode_batch(list(texts)))

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON content."""
        return {"max_tokens": self.max_tokens, "vocabulary": list(self.vocabulary)}

    @cached_property
    def _tokenizer(self) -> "tokenizers.Tokenizer":
        from tokenizers import Tokenizer
        from tokenizers.models import WordLevel

        numbers = {word: number for number, word in enumerate(self.vocabulary)}
        tokenizer = _splitting(Tokenizer(WordLevel(numbers, unk_token=UNKNOWN)))
        tokenizer.enable_truncation(self.max_tokens)
        tokenizer.enable_padding(length=self.max_tokens, pad_id=0, pad_token=PADDING)
        return tokenizer


def learn_vocabulary(texts: Iterable[str], vocabulary: Sequence[str] = SPECIAL) -> tuple[str, ...]:
    """`vocabulary`, then the new words of the training texts, the most frequent first.

    Raises:
        ConfigError: `vocabulary` is not a valid one.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.trainers import WordLevelTrainer

    vocabulary = _checked(vocabulary)
    tokenizer = _splitting(Tokenizer(WordLevel(unk_token=UNKNOWN)))
    trainer = WordLevelTrainer(
        vocab_size=_LARGEST_VOCABULARY, special_tokens=list(SPECIAL), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    numbers = tokenizer.get_vocab()
    present = set(vocabulary)
    ordered = sorted(numbers, key=numbers.__getitem__)
    new = [word for word in ordered if word not in present and len(word) <= _LONGEST_WORD]
    return (*vocabulary, *new)[:_LARGEST_VOCABULARY]


def normalise(text: str) -> str:
    """A text's words, joined by spaces; texts that a network cannot distinguish become equal."""
    normaliser, splitter = _rules()
    return " ".join(word for word, _ in splitter.pre_tokenize_str(normaliser.normalize_str(text)))


@lru_cache(maxsize=1)
def _rules() -> tuple[Any, Any]:
    from tokenizers import normalizers, pre_tokenizers

    return normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()


def _splitting(tokenizer: "tokenizers.Tokenizer") -> "tokenizers.Tokenizer":
    normaliser, splitter = _rules()
    tokenizer.normalizer = normaliser
    tokenizer.pre_tokenizer = splitter
    return tokenizer


def _checked(vocabulary: Any) -> tuple[str, ...]:
    is_list = isinstance(vocabulary, list | tuple) and all(isinstance(word, str) for word in vocabulary)
    if not is_list or tuple(vocabulary[:2]) != SPECIAL or len(set(vocabulary)) != len(vocabulary):
        raise ConfigError(f"a vocabulary is a list of different words that begins with {', '.join(SPECIAL)}")
    if len(vocabulary) > _LARGEST_VOCABULARY:
        raise ConfigError(
            f"the vocabulary has {len(vocabulary)} words, expected at most {_LARGEST_VOCABULARY}"
        )
    try:
        "".join(vocabulary).encode()
    except UnicodeEncodeError as error:
        letter = error.object[error.start]
        raise ConfigError(f"the vocabulary holds {letter!a}, expected words in Unicode") from error
    return tuple(vocabulary)
