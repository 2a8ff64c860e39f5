"""A network, a saved one or an exported file as one kind of object: inputs in, logits out.

Symbols: `b` samples of a batch, `C` classes, `h x w` pixels of an image.
"""

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tascnet.data.dataset import Dataset
from tascnet.data.sources import AnyPreprocessing, PlainSource, SampleSource
from tascnet.errors import ConfigError, DataError, ExportError
from tascnet.exporting import installed
from tascnet.models.archive import load
from tascnet.models.device import check_threads, usable_device, using_threads
from tascnet.models.info import info_of
from tascnet.models.preprocessing import UnreadableImage, read_upright
from tascnet.models.text import TextPreprocessing
from tascnet.options import usable_cpus

ENDING = ".onnx"
_OURS = "export the model again"


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenedModel:
    """A classifier and what is needed to use it.

    Args:
        name: its path; `the network` for one in memory.
        class_names: names of its outputs, in order.
        preprocessing: the images or texts that it expects.
        held_out: of the samples that it has not been trained on, as in `ModelInfo`; None: unknown.
        takes_pixels: it takes upright RGB images of any size and prepares them itself.
        workers: threads on each of which it runs an image of its own size.
        device: where it runs.
        run: from inputs `b x ...`, or images of one size `b x h x w x 3`, to logits.
    """

    name: str
    class_names: tuple[str, ...]
    preprocessing: AnyPreprocessing
    held_out: str | None
    takes_pixels: bool
    workers: int = 1
    device: torch.device
    run: Callable[[Tensor | NDArray[np.uint8]], Tensor]

    @property
    def is_text(self) -> bool:
        return isinstance(self.preprocessing, TextPreprocessing)

    @property
    def batch_size(self) -> int:
        """Samples that are well run together: images at full size take much memory."""
        return self.workers if self.takes_pixels else 64

    def __call__(self, inputs: Tensor | Sequence[NDArray[np.uint8]]) -> Tensor:
        """Logits `b x C`, float32, on the CPU; called from any thread.

        Args:
            inputs: `b x ...`, as the preprocessing returns them; with `takes_pixels` images `h x w x 3`,
                uint8, each of its own size.

        Raises:
            ExportError: an exported file does not run, or gives other outputs than one for each class.
        """
        if isinstance(inputs, Tensor):
            logits = self.run(inputs)
        elif len(inputs) == 1:
            logits = self.run(inputs[0][None])
        else:
            with ThreadPoolExecutor(self.workers) as pool:
                logits = torch.cat(list(pool.map(lambda image: self.run(image[None]), inputs)))
        expected = (len(inputs), len(self.class_names))
        if logits.shape != expected:
            raise ExportError(f"{self.name} gives {tuple(logits.shape)}, expected {expected}", _OURS)
        return logits


def open_model(
    model: nn.Sequential | str | PathLike[str], *, threads: int | None = None, device: str = "cpu"
) -> OpenedModel:
    """A network, the folder of a saved one, or an exported .onnx, ready to run.

    Args:
        model: the network, which is copied, or a path. A file may come from a stranger.
        threads: CPU threads; None: as torch has them.
        device: `cpu`, `cuda`, `cuda:<number>` or `auto`; an exported file runs on the CPU.

    Raises:
        ArchiveError: the folder holds no saved model.
        ExportError: the file is no exported model of tascnet, or has data outside its folder.
        ConfigError: it is none of these, the network has no `info` or no class names, ONNX Runtime is not
            installed, or the device or the threads cannot be used.
    """
    check_threads(threads)
    if not isinstance(model, nn.Module | str | PathLike):
        raise ConfigError(
            f"the model is of type {type(model).__name__}",
            f"give a network, the folder of a saved one, or an exported {ENDING}",
        )
    if isinstance(model, nn.Module):
        return _of_network(model, "the network", threads, device)
    path = Path(model).expanduser()
    if path.suffix.lower() == ENDING:
        return _of_file(path, threads, device)
    if path.is_file():
        raise ConfigError(
            f"`model={path}` is a file that does not end in {ENDING}",
            f"give the folder of a saved model, or an exported {ENDING}",
        )
    return _of_network(load(path), str(path), threads, device)


def fitting(model: OpenedModel, samples: SampleSource, *, extra_channels: str = "refuse") -> SampleSource:
    """Samples in the form that a model takes: as they are, or as upright images at full size.

    Images that have no file of their own are given as they were resized.

    Args:
        extra_channels: what happens to images with more channels than colours: `refuse` or `drop`.

    Raises:
        DataError: a model that takes images is given prepared tensors.
    """
    if not model.takes_pixels:
        return samples
    dataset = samples.dataset
    if not isinstance(dataset, Dataset):
        raise DataError(
            f"{model.name} takes images, but {dataset.name} holds prepared tensors",
            "export the model with `preprocess=outside`, or give images",
        )

    def image(row: int) -> NDArray[np.uint8]:
        if dataset.folder is None:
            square = np.asarray(dataset.pixels[row])
            return np.repeat(square, 3, axis=-1) if square.shape[-1] == 1 else square
        path = dataset.folder / dataset.paths[row]
        try:
            return read_upright(path, np.array, extra_channels)
        except UnreadableImage as error:
            raise DataError(f"{path} can no longer be read ({error.reason})", "restore it") from error

    def read(positions: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        with ThreadPoolExecutor(usable_cpus()) as pool:
            return list(pool.map(image, samples.rows[positions].tolist()))

    # Such a batch is what the model takes.
    return PlainSource(dataset, samples.rows, samples.preprocessing, read)  # type: ignore[arg-type]


def _of_network(network: nn.Sequential, name: str, threads: int | None, device: str) -> OpenedModel:
    info, where = info_of(network), usable_device(device)
    if not info.class_names:
        raise ConfigError(f"{name} does not name its classes", "train it on a data set first")
    # A saved network may be of another precision.
    placed = copy.deepcopy(network).float().to(where).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def run(inputs: Tensor | NDArray[np.uint8]) -> Tensor:
        with using_threads(threads), torch.inference_mode():
            logits: Tensor = placed(torch.as_tensor(inputs).to(where, non_blocking=True))
            return logits.float().cpu()

    return OpenedModel(
        name=name,
        class_names=info.class_names,
        preprocessing=info.preprocessing,
        held_out=info.held_out,
        takes_pixels=False,
        device=where,
        run=run,
    )


def _of_file(path: Path, threads: int | None, device: str) -> OpenedModel:
    if device not in ("auto", "cpu"):
        raise ConfigError(f"`device={device}` has no effect on {path}, which runs on the CPU", "leave it out")
    if "onnxruntime" not in installed.installed():
        raise ConfigError(f"{path} needs onnx, onnxscript and onnxruntime", "pip install 'tascnet[export]'")
    # Late, as its packages are optional.
    from tascnet.exporting.onnx_file import read_metadata
    from tascnet.exporting.runtimes import open_file

    metadata = read_metadata(path)
    takes_pixels = metadata.preprocess == "inside"
    threads = torch.get_num_threads() if threads is None else threads
    return OpenedModel(
        name=str(path),
        class_names=metadata.class_names,
        preprocessing=metadata.preprocessing,
        held_out=metadata.held_out,
        takes_pixels=takes_pixels,
        workers=threads,
        device=torch.device("cpu"),
        # Images of different sizes run one by one, each on a thread of its own.
        run=open_file(path, threads=1 if takes_pixels else threads),
    )
