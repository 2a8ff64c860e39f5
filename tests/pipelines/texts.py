"""Small text data sets and options with which both stages take seconds."""

import random
from pathlib import Path

__all__ = ["SMALL", "write_texts"]

GLAD = ("good", "fine", "great", "lovely", "warm", "funny", "sharp")
SAD = ("bad", "dull", "awful", "cold", "stale", "weak", "poor")
PLAIN = ("the", "a", "film", "story", "plot", "actor", "scene", "and", "with", "of", "it", "is")

SMALL = (
    "dataset.max_tokens=12",
    "backbone.embedding_width=8",
    "backbone.filters=8",
    "trainer.pretrain.epochs=2",
    "trainer.head.epochs=2",
    "trainer.trial.epochs=1",
    "trainer.finetune.epochs=2",
    "tune.initial_trials=2",
    "tune.trials_per_depth=3",
    "tune.max_trials=3",
    "prune.min_filters=4",
    "prune.round_to=1",
    "prune.history_epochs=0",
    "prune.optimise_epochs=0",
    "prune.retrain_epochs=1",
    "prune.percent=40",
    "prune.max_step=0.6",
    "prune.flops_target=0.5",
    "prune.max_iterations=4",
    "prune.tolerance=1",
    "measure.batch=2",
    "measure.repeats=3",
    "measure.warmup=0",
    "name=run",
)


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
