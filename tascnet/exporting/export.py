"""One network to one file: written, opened again, compared, and only then put in place."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn

from tascnet.errors import ConfigError, listed
from tascnet.exporting import installed
from tascnet.exporting.checks import Samples, check_float, made_up_samples
from tascnet.exporting.formats import FLOAT_FORMATS
from tascnet.exporting.runtimes import open_file
from tascnet.models.info import info_of
from tascnet.models.text import TextPreprocessing
from tascnet.options import FORMATS
from tascnet.run.files import remove_leftovers, temporary_suffix
from tascnet.run.records import ExportedFile

ENDINGS = {".onnx": "onnx", ".pt2": "pt2", ".xml": "openvino", ".pte": "executorch"}
# How the names of ONNX files end that are not plain ones.
_ONNX_ENDINGS = {"_int8.onnx": "onnx_int8", "_fp16.onnx": "onnx_fp16"}


def format_of(path: str | Path, format: str | None = None) -> str:
    """The format of a path, by its ending where none is named.

    Raises:
        ConfigError: the ending is none of a format, or not that of the one that is named.
    """
    ending = Path(path).suffix.lower()
    if ending not in ENDINGS:
        raise ConfigError(f"`path={path}` ends in no format", f"let it end in {listed(ENDINGS)}")
    if format is not None and format not in FORMATS:
        raise ConfigError(f"`format={format}` is unknown", f"take {listed(FORMATS)}")
    by_ending = ENDINGS[ending]
    if format is not None and not format.startswith(by_ending):
        raise ConfigError(f"`path={path}` does not end as `format={format}` does")
    own = (kind for end, kind in _ONNX_ENDINGS.items() if Path(path).name.lower().endswith(end))
    return format or next(own, by_ending)


def export_file(
    network: nn.Sequential,
    path: str | Path,
    format: str,
    *,
    preprocess: str = "inside",
    samples: Samples | None = None,
    threads: int | None = None,
) -> ExportedFile:
    """Export a network in a float format and compare the file with it; a file that differs is not kept.

    Args:
        network: a chain with its `info`.
        path: of the file; one that is there is replaced.
        format: `onnx`, `onnx_fp16`, `pt2`, `openvino` or `executorch`.
        preprocess: `inside`: an ONNX file takes upright RGB pixels, `n x H x W x 3`, and prepares them;
            `outside`: it takes what the preprocessing returns, as the other formats always do.
        samples: upright images `H x W x 3` or texts, with `outside` also inputs `n x ...`; None: made up.
        threads: CPU threads of the comparison; None: torch's.

    Raises:
        ConfigError: the packages of the format are not installed, or `samples` are inputs with `inside`.
        ExportError: the network cannot be exported, or the file computes something else.
    """
    path, started = Path(path), time.perf_counter()
    kind = FLOAT_FORMATS[format]
    installed.need(format, "format")
    preprocess = preprocess_of(network, format, preprocess)
    samples = made_up_samples(network) if samples is None else samples
    if preprocess == "inside" and isinstance(samples, Tensor):
        raise ConfigError(
            "`samples` are inputs of the network", "give upright images, or `preprocess=outside`"
        )
    with beside(path) as folder:
        made = folder / path.name
        kind.write(network, made, preprocess)
        compared = check_float(
            network,
            open_file(made, threads=threads),
            samples,
            tolerance=kind.tolerance,
            takes_pixels=preprocess == "inside",
        )
        # The file itself last: it needs the one with its weights.
        files = sorted(folder.iterdir(), key=lambda file: file.suffix == kind.ending)
        size = sum(file.stat().st_size for file in files)
        for file in files:
            file.replace(path.with_name(file.name))
    return ExportedFile(
        format=format,
        path=path.name,
        size_bytes=size,
        preprocess=preprocess,
        samples=compared.samples,
        equal_classes=compared.equal_classes,
        largest_difference=compared.largest_difference,
        seconds=time.perf_counter() - started,
    )


def preprocess_of(network: nn.Sequential, format: str, preprocess: str) -> str:
    """Where a file's samples are prepared: `inside` by ONNX files for images alone, if that is wanted."""
    is_text = isinstance(info_of(network).preprocessing, TextPreprocessing)
    return preprocess if format.startswith("onnx") and not is_text else "outside"


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A temporary folder beside a path; those of killed processes are removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent.glob(".export.*.tmp"))
    folder = path.parent / f".export{temporary_suffix()}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
