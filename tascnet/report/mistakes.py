"""The test samples that one network gets wrong and another one does not, as a page shows them."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from textwrap import shorten

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from tascnet.data import SampleSource, evenly, open_samples
from tascnet.data.dataset import Dataset, SampleSet
from tascnet.data.text import TextDataset
from tascnet.data.torchsets import TensorDataset
from tascnet.models.info import info_of
from tascnet.options import Data
from tascnet.run.files import digest_json
from tascnet.run.records import ModelMetrics, made_once

FILE = "mistakes.json"
# How many samples a page shows.
MOST = 24
# Of a thumbnail: its longer side, the bytes of its file, and the qualities that are tried until it fits.
SIDE, MOST_BYTES, QUALITIES = 96, 3000, (85, 70, 55, 40, 25, 10)
# Characters of a text.
_LETTERS = 160


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A test sample that is named wrongly.

    Args:
        sample: its file, or its place in the data set.
        true, predicted: names of the classes.
        text: its beginning; None for an image.
        image: a small copy as a data URI; None for a text.
    """

    sample: str
    true: str
    predicted: str
    text: str | None = None
    image: str | None = None


@dataclass(frozen=True, kw_only=True)
class Mistakes:
    """`mistakes.json`: test samples that a network gets wrong and its reference does not.

    Args:
        reference, result: names of the two networks.
        lost: how many samples the reference alone names correctly.
        gained: how many the other network alone names correctly.
        samples: how many test samples there are.
        made_from: digest of the predictions of both.
        shown: at most 24 of the lost ones, evenly spaced over the test split.
    """

    reference: str
    result: str
    lost: int
    gained: int
    samples: int
    made_from: str
    shown: tuple[Mistake, ...]


def mistakes_once(
    path: Path, reference: tuple[str, ModelMetrics], result: tuple[str, ModelMetrics], test: SampleSource
) -> Mistakes:
    """`find_mistakes`, kept in a file; made again if that is damaged or the predictions are others.

    Raises:
        RunFolderError: the file is no regular file, or may not be read.
    """
    make = partial(find_mistakes, reference, result, test)
    known = made_once(path, Mistakes, make)
    if known.made_from == _digest(reference, result):
        return known
    path.unlink()
    return made_once(path, Mistakes, make)


def mistakes_in(
    data: Data,
    network: nn.Module,
    reference: tuple[str, ModelMetrics],
    result: tuple[str, ModelMetrics],
    *,
    seed: int,
    cache: Path,
    cache_limit_gb: float | None = None,
) -> Mistakes:
    """`find_mistakes` in the test split of a data set.

    Args:
        data: the data set.
        network: one that was judged on it, whose preprocessing opens it.
        reference, result: name and figures of both networks.
        seed, cache, cache_limit_gb: as in `tascnet.data.open_samples`.
    """
    samples = open_samples(
        data,
        info_of(network).preprocessing,
        seed=seed,
        cache=cache,
        cache_limit_gb=cache_limit_gb,
        quiet=True,
    )
    return find_mistakes(reference, result, samples.test)


def find_mistakes(
    reference: tuple[str, ModelMetrics], result: tuple[str, ModelMetrics], test: SampleSource
) -> Mistakes:
    """What one network gets wrong and another one does not, by the predictions that they were judged by.

    Args:
        reference, result: name and figures of both networks.
        test: the test samples; those that are shown are read.
    """
    labels, names = test.labels.tolist(), test.dataset.class_names
    before, after = reference[1].predictions, result[1].predictions
    lost = newly_wrong(before, after, labels)
    return Mistakes(
        reference=reference[0],
        result=result[0],
        lost=len(lost),
        gained=len(newly_wrong(after, before, labels)),
        samples=len(labels),
        made_from=_digest(reference, result),
        shown=tuple(
            _shown(test, position, names[labels[position]], names[after[position]])
            for position in chosen(lost)
        ),
    )


def newly_wrong(before: Sequence[int], after: Sequence[int], labels: Sequence[int]) -> list[int]:
    """Positions of the samples `n` that were named correctly before and no longer are."""
    rows = zip(before, after, labels, strict=True)
    return [position for position, (was, now, label) in enumerate(rows) if was == label != now]


def chosen(positions: Sequence[int], most: int = MOST) -> list[int]:
    """Some positions, evenly spaced: where the split is sorted by class they are of all classes."""
    return [positions[place] for place in evenly(len(positions), most)] if positions else []


def thumbnail(pixels: NDArray[np.uint8]) -> str:
    """A data URI of a small JPEG, from an image `H x W x c` of one or three channels."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    for quality in QUALITIES:
        content = BytesIO()
        image.save(content, "JPEG", quality=quality, optimize=True)
        if content.tell() <= MOST_BYTES:
            break
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def _digest(reference: tuple[str, ModelMetrics], result: tuple[str, ModelMetrics]) -> str:
    return digest_json([[name, model.predictions] for name, model in (reference, result)])


def _shown(test: SampleSource, position: int, true: str, predicted: str) -> Mistake:
    row, samples = int(test.rows[position]), test.dataset
    text = image = None
    if isinstance(samples, TextDataset):
        text = shorten(samples.texts[row], _LETTERS, placeholder=" …")
    elif (pixels := _pixels(samples, row)) is not None:
        image = thumbnail(pixels)
    return Mistake(sample=samples.place(row), true=true, predicted=predicted, text=text, image=image)


def _pixels(samples: SampleSet, row: int) -> NDArray[np.uint8] | None:
    """An image `H x W x c` as people see it; None where a network's input is no grey or colour image."""
    # Indexing by an array copies, and decodes images that are decoded when they are read.
    if isinstance(samples, Dataset):
        return np.asarray(samples.pixels[np.array([row])])[0]
    if isinstance(samples, TensorDataset) and samples.tensors.shape[1] in (1, 3):
        values = np.asarray(samples.tensors[np.array([row])])[0].transpose(1, 2, 0)
        low, high = values.min(), values.max()
        return np.round(255 * (values - low) / max(high - low, 1e-12)).astype(np.uint8)
    return None
