"""Small text data sets."""

import random
from pathlib import Path

GLAD = ("good", "fine", "great", "lovely", "warm", "funny", "sharp")
SAD = ("bad", "dull", "awful", "cold", "stale", "weak", "poor")
PLAIN = ("the", "a", "film", "story", "plot", "actor", "scene", "and", "with", "of", "it", "is")


def write_texts(folder: Path, names: tuple[str, str], *, count: int = 40, seed: int = 0) -> Path:
    """Two files of different sentences, one of glad and one of sad words; gives their folder."""
    draw = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for name, own in zip(names, (GLAD, SAD), strict=True):
        sentences: dict[str, None] = {}
        while len(sentences) < count:
            words = [draw.choice(own if draw.random() < 0.4 else PLAIN) for _ in range(draw.randint(4, 14))]
            sentences[" ".join(words)] = None
        (folder / name).write_text("\n".join(sentences) + "\n", encoding="utf-8")
    return folder
