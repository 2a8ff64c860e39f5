"""The classes of new images or texts, in their order, by a network or an exported file."""

from collections.abc import Iterable, Iterator
from itertools import count, islice
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image

from tascnet.errors import ConfigError, DataError, listed, plural, printable
from tascnet.models.preprocessing import (
    UnreadableImage,
    centre_crop,
    square_pixels,
    use_picture,
)
from tascnet.models.text import normalise as words_of
from tascnet.options import Predict, usable_cpus
from tascnet.run.console import log, track
from tascnet.run.parallel import in_order
from tascnet.run.records import Classified

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tascnet.exporting.models import OpenedModel
    from tascnet.models.preprocessing import Picture

Item = TypeVar("Item")

# Images in work for each worker beside those of a batch.
AHEAD = 4
# How many unreadable samples a message shows, and how many letters of each.
SHOWN, MOST_LETTERS = 3, 200


def predict(
    network: "nn.Sequential | OpenedModel | str | PathLike[str]",
    samples: "Iterable[Picture]",
    *,
    top: int = 5,
    batch_size: int = 32,
    unreadable: str = "skip",
    extra_channels: str = "refuse",
    threads: int | None = None,
    device: str = "auto",
) -> list[Classified]:
    """The classes of images or texts, one record for each, in their order.

    Args:
        network: a network of tascnet, the folder of a saved one, or an exported .onnx.
        samples: paths of images, PIL images or uint8 arrays `H x W x 3`; for a text network texts.
        top: classes that a record names.
        batch_size: samples that run together.
        unreadable: what happens to samples that cannot be read: `skip` gives a record with the reason, `fail`
            an error.
        extra_channels: images with more channels than colours and transparency: `refuse` takes them for
            unreadable, `drop` reads the first three.
        threads: CPU threads; None: as torch has them.
        device: `cpu`, `cuda`, `cuda:<number>` or `auto`; an exported file runs on the CPU.

    Raises:
        ConfigError: an option does not fit, or the network says nothing of its inputs.
        ArchiveError, ExportError: the folder or the file is no model of tascnet.
        DataError: a sample cannot be read and `unreadable` is `fail`, or is of another type.
    """
    samples = _several(samples)
    found = predict_each(
        network,
        samples,
        top=top,
        batch_size=batch_size,
        unreadable=unreadable,
        extra_channels=extra_channels,
        threads=threads,
        device=device,
    )
    return list(track(found, "predict", len(samples) if isinstance(samples, list) else None))


def predict_each(
    network: "nn.Sequential | OpenedModel | str | PathLike[str]",
    samples: "Iterable[Picture]",
    *,
    top: int = 5,
    batch_size: int = 32,
    unreadable: str = "skip",
    extra_channels: str = "refuse",
    threads: int | None = None,
    device: str = "auto",
) -> Iterator[Classified]:
    """As `predict`, for streams of samples: they are read while the records are taken, few at a time."""
    # Importing torch takes seconds.
    from tascnet.exporting.models import OpenedModel, open_model

    chosen = Predict(top=top, batch_size=batch_size, unreadable=unreadable)
    if extra_channels not in (choices := ("refuse", "drop")):
        raise ConfigError(f"`extra_channels` has no choice {extra_channels!r}", f"it takes {listed(choices)}")
    model = (
        network if isinstance(network, OpenedModel) else open_model(network, threads=threads, device=device)
    )
    samples = _several(samples)
    if model.is_text:
        found = _texts(model, samples, chosen)
    else:
        found = _images(model, samples, chosen, extra_channels, threads or usable_cpus())
    return _counted(found, chosen.unreadable, "text" if model.is_text else "image")


def _several(samples: Any) -> Any:
    if isinstance(samples, str | PathLike | Image.Image | np.ndarray):
        raise DataError(
            f"`samples` is of type {type(samples).__name__}, expected several", "give a list: [sample]"
        )
    if not isinstance(samples, Iterable):
        raise DataError(f"`samples` is of type {type(samples).__name__}, expected several", "give a list")
    return samples


def _counted(found: Iterator[Classified], unreadable: str, kind: str) -> Iterator[Classified]:
    """The records as they are; unreadable ones end the run, or are reported at its end.

    Raises:
        DataError: a sample cannot be read, and `unreadable` is `fail`.
    """
    total, failed, shown = 0, 0, list[str]()
    for record in found:
        total += 1
        if record.unreadable is not None:
            said = f"{printable(record.sample, most=MOST_LETTERS)}: {record.unreadable}"
            if unreadable == "fail":
                raise DataError(
                    f"{plural(1, kind)} cannot be read ({said})",
                    "repair it or leave it out, or skip what cannot be read with `unreadable=skip`",
                )
            failed += 1
            shown += [said] if failed <= SHOWN else []
        yield record
    if failed:
        more = f"; and {failed - SHOWN} more" if failed > SHOWN else ""
        named = "; ".join(shown) + more
        log.warning("%d of %s cannot be read (%s): skipped", failed, plural(total, kind), named)


def _images(
    model: "OpenedModel", samples: "Iterable[Picture]", options: Predict, extra_channels: str, workers: int
) -> Iterator[Classified]:
    import torch

    from tascnet.models.preprocessing import Preprocessing, normalise

    expected = model.preprocessing
    assert isinstance(expected, Preprocessing)

    def read(image: "Picture") -> Any:
        """What the model takes, or its logits where it runs images one by one."""
        try:
            if model.takes_pixels:
                return model([expected.decode(image, extra_channels=extra_channels)])
            square = use_picture(image, lambda upright: square_pixels(upright, expected), extra_channels)
            return centre_crop(torch.from_numpy(np.array(square)[None]), expected.size)
        except DataError as error:
            if isinstance(error.__cause__, UnreadableImage):
                return error.__cause__
            raise

    window = options.batch_size + AHEAD * workers
    outcomes = in_order(samples, read, workers=workers, window=window, name="predict")
    number = count()
    for batch in _batches(outcomes, options.batch_size):
        names = [_name(image, next(number)) for image, _ in batch]
        readable = [value for _, value in batch if not isinstance(value, UnreadableImage)]
        logits = None
        if readable and model.takes_pixels:
            logits = torch.cat(readable)
        elif readable:
            logits = model(normalise(torch.cat(readable), expected))
        reasons = [value.reason if isinstance(value, UnreadableImage) else None for _, value in batch]
        yield from _records(model, names, reasons, logits, options.top)


def _texts(model: "OpenedModel", samples: Iterable[Any], options: Predict) -> Iterator[Classified]:
    from tascnet.models.text import TextPreprocessing

    expected = model.preprocessing
    assert isinstance(expected, TextPreprocessing)
    for batch in _batches(samples, options.batch_size):
        reasons = list(map(_wrong, batch))
        readable = [text for text, reason in zip(batch, reasons, strict=True) if reason is None]
        logits = model(expected.encode(readable)) if readable else None
        yield from _records(model, batch, reasons, logits, options.top)


def _wrong(text: Any) -> str | None:
    """Why a text cannot be classified."""
    if not isinstance(text, str):
        raise DataError(f"a text is of type {type(text).__name__}", "give each text as a str")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        return "not valid UTF-8"
    return None if words_of(text) else "no word"


def _records(
    model: "OpenedModel",
    names: Iterable[str],
    reasons: Iterable[str | None],
    logits: "Tensor | None",
    top: int,
) -> Iterator[Classified]:
    """A record for each sample; `logits` are those of the readable ones."""
    rows: Iterator[Any] = iter(())
    if logits is not None:
        values, labels = logits.softmax(1).topk(min(top, logits.shape[1]))
        rows = iter(zip(values.tolist(), labels.tolist(), strict=True))
    for name, reason in zip(names, reasons, strict=True):
        if reason is not None:
            yield Classified(sample=name, unreadable=reason)
            continue
        shares, classes = next(rows)
        (best, *others) = (
            (model.class_names[label], share) for label, share in zip(classes, shares, strict=True)
        )
        yield Classified(sample=name, class_name=best[0], probability=best[1], others=tuple(others))


def _batches(items: Iterable[Item], size: int) -> Iterator[tuple[Item, ...]]:
    rest = iter(items)
    while batch := tuple(islice(rest, size)):
        yield batch


def _name(image: "Picture", number: int) -> str:
    return fspath(image) if isinstance(image, str | PathLike) else f"sample {number}"
