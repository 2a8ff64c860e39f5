"""Networks as files that run without tascnet, judged on the data that they were trained on."""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tascnet.data.cache import module_digest
from tascnet.data.samples import Samples, open_samples
from tascnet.data.sources import SampleSource
from tascnet.errors import ConfigError, DamagedFile, ExportError, plural
from tascnet.exporting import installed
from tascnet.exporting.checks import check_outputs, compare
from tascnet.exporting.export import beside, export_file, format_of, preprocess_of
from tascnet.exporting.formats import FLOAT_FORMATS
from tascnet.exporting.int8 import instruction_set, is_within, quantise, warn_without_vnni
from tascnet.exporting.metadata import Metadata
from tascnet.exporting.models import OpenedModel, fitting, open_model
from tascnet.exporting.onnx_file import (
    read_model,
    with_metadata,
    with_preprocessing_inside,
    write_model,
    write_onnx,
)
from tascnet.exporting.runtimes import open_file
from tascnet.measure.machine import describe_device, versions
from tascnet.models.info import info_of
from tascnet.models.tensors import check_weights
from tascnet.options import Data, Export
from tascnet.run.console import track
from tascnet.run.files import digest_file, digest_json, unwritable
from tascnet.run.folder import METRICS, cache_folder
from tascnet.run.records import (
    INT8,
    ExportedFile,
    ExportMetrics,
    ModelMetrics,
    StageMetrics,
    read_record,
    write_record,
)
from tascnet.train.classes import class_metrics, confusion
from tascnet.train.evaluate import accuracies, check_metric, evaluate_source, shortened
from tascnet.train.setting import computing

log = logging.getLogger("tascnet")

# The files of an export by their formats.
FILES = {
    "onnx": "model.onnx",
    "onnx_int8": "model_int8.onnx",
    "onnx_fp16": "model_fp16.onnx",
    "pt2": "model.pt2",
    "openvino": "model.xml",
    "executorch": "model.pte",
}
# Written where no formats are named.
_USUAL = ("onnx", "onnx_int8")
# Training samples that the ranges of int8 come from.
CALIBRATION = 192
# Share of classes that may differ where a file prepares images itself; one may in any case. A pixel that
# differs in its last bit may be another level of int8.
_UNEQUAL, _UNEQUAL_INT8 = 0.005, 0.02
# How many samples with another class are named.
_NAMED = 10
_BATCH = 64


def export(
    network: nn.Sequential,
    path: str | Path,
    data: Data | None = None,
    *,
    format: str | None = None,
    preprocess: str = "inside",
    int8_tolerance: float = 0.01,
    metric: str = "accuracy",
    seed: int = 0,
    threads: int | None = None,
    cache: str | Path | None = None,
    cache_limit_gb: float | None = None,
) -> ExportedFile:
    """Write a network to a file that runs without tascnet; a file that computes something else is not kept.

    Args:
        network: from `tascnet.tune`, `tascnet.prune`, `tascnet.load` or `tascnet.backbone`.
        path: of the file; it ends in `.onnx`, `.pt2`, `.xml` (OpenVINO) or `.pte` (ExecuTorch).
        data: the data set that the network was trained on: the file is compared on its validation samples,
            and int8 takes its ranges from training samples. None: it is compared on made-up samples.
        format: `onnx`, `onnx_int8`, `onnx_fp16`, `pt2`, `openvino` or `executorch`; None: by the ending,
            where `_int8.onnx` and `_fp16.onnx` are those of `onnx_int8` and `onnx_fp16`.
        preprocess: `inside`: an ONNX file takes upright RGB pixels `n x H x W x 3`, uint8, as
            `network.preprocessing.decode` returns them, and prepares them itself; `outside`: it takes what
            `network.preprocessing` returns, as other formats always do.
        int8_tolerance: largest fall of the metric on validation samples by int8; the layers that cost most
            stay in float until it is kept.
        metric: `accuracy` or `balanced_accuracy`.
        seed: of the splits.
        threads: CPU threads; None: as torch has them.
        cache: folder of decoded samples; None: `outputs/cache`.
        cache_limit_gb: gigabytes that decoded images may take in it; None: no limit.

    Raises:
        ConfigError: the ending is unknown, packages are missing, int8 has no data, the data have other
            classes, or nothing can be written there.
        ExportError: the network cannot be exported, or the file computes something else.
        DataError: the data set is missing or too small.
    """
    path = Path(path).expanduser()
    chosen = format_of(path, format)
    if path.is_dir():
        raise ConfigError(f"`path={path}` is a folder", "give the path of a file")
    options = Export(formats=(chosen,), preprocess=preprocess, int8_tolerance=int8_tolerance)
    check_export((chosen,), has_data=data is not None)
    check_metric(metric)
    check_place(path.parent)
    with computing("cpu", threads):
        samples = _open(network, data, seed, cache_folder(cache), cache_limit_gb)
        exporter = _Exporter(
            network=network, data=data, samples=samples, options=options, metric=metric, seed=seed
        )
        return exporter.write(chosen, path)


def export_all(
    network: nn.Sequential,
    folder: str | Path,
    data: Data | None = None,
    options: Export = Export(),
    *,
    metric: str = "accuracy",
    seed: int = 0,
    threads: int | None = None,
    cache: str | Path | None = None,
    cache_limit_gb: float | None = None,
    fresh: bool = False,
) -> ExportMetrics:
    """Write a network in several formats to a folder, with `metrics.json`; files that fit are kept.

    So are files of the same network in other formats, however they were made.

    A format of `options.formats` that is refused leaves no file, and is raised when the others are written;
    where none are named it is a warning.

    Args:
        network, data, metric, seed, threads, cache, cache_limit_gb: as in `export`.
        folder: made if missing.
        options: formats, and how they are made.
        fresh: write all files again.

    Raises:
        ConfigError, ExportError, DataError: as in `export`.
    """
    folder = Path(folder).expanduser()
    formats = formats_of(options, has_data=data is not None)
    check_export(formats, has_data=data is not None)
    check_metric(metric)
    check_place(folder)
    with computing("cpu", threads):
        samples = _open(network, data, seed, cache_folder(cache), cache_limit_gb)
        exporter = _Exporter(
            network=network, data=data, samples=samples, options=options, metric=metric, seed=seed
        )
        before = _listed(folder)
        known = {} if fresh else _known(folder, before, exporter, formats)
        # A list that cannot be read may name any.
        listed = FILES.values() if before is None else [file.path for file in before.files]
        if (folder / METRICS).exists():
            _remove(folder, set(listed) - {file.path for file in known.values()})
        exporter.write_metrics(folder, known)
        refused: list[ExportError] = []
        for format in formats:
            if format in known:
                log.info("%s: made before", folder / FILES[format])
                continue
            try:
                known[format] = exporter.write(format, folder / FILES[format])
            except ExportError as error:
                refused.append(error)
                log.warning("%s: no file was written: %s", format, error)
                continue
            exporter.write_metrics(folder, known)
        if refused and (options.formats is not None or not known):
            raise refused[0]
        return exporter.write_metrics(folder, known)


def formats_of(options: Export, *, has_data: bool = True) -> tuple[str, ...]:
    """The formats to write: those that are named, else the usual ones that are installed.

    Args:
        has_data: whether there are samples, without which int8 is not among the usual ones.
    """
    if options.formats is not None:
        return options.formats
    there = installed.installed()
    return tuple(name for name in _USUAL if name in there and (has_data or name != "onnx_int8"))


def check_export(formats: Sequence[str], *, has_data: bool = True) -> None:
    """Raise before any work unless these formats can be written.

    Raises:
        ConfigError: packages are missing, or int8 has no data.
    """
    for format in formats:
        installed.need(format)
    if "onnx_int8" in formats and not has_data:
        raise ConfigError(
            "onnx_int8 needs `data`: its ranges come from training samples, and validation samples judge it",
            "give the data set that the network was trained on",
        )


def check_place(folder: Path) -> None:
    """Raise before any work if nothing can be written in a folder.

    Raises:
        ConfigError: nothing can.
    """
    if (reason := unwritable(folder)) is not None:
        raise ConfigError(f"{folder} {reason}", "give another place, such as beside a copy of the model")


def judged_before(path: Path) -> ModelMetrics | None:
    """What `judge_file` found of a file as it is; None where it was not judged, or that is damaged."""
    kept = _figures_of(path)
    if not (path.exists() and kept.exists()):
        return None
    try:
        found = read_record(kept, JudgedFile)
    except DamagedFile as error:
        log.warning("%s: %s counts as not judged", error.message, path.name)
        return None
    return found.model if found.content == digest_file(path) else None


def judge_file(
    path: Path,
    data: Data,
    network: ModelMetrics,
    *,
    seed: int = 0,
    threads: int | None = None,
    cache: str | Path | None = None,
    cache_limit_gb: float | None = None,
) -> ModelMetrics:
    """The figures of an exported ONNX file on validation and test samples, kept in a file beside it.

    Its latencies are those that the network has in the file's runtime.

    Args:
        path: of the file, after everything about it is fixed: test samples are read.
        data: the data set that the network was trained on.
        network: figures of the network, timed in int8 with the layers in float that the file has.
        seed, threads, cache, cache_limit_gb: as in `export`.
    """
    if (found := judged_before(path)) is not None:
        return _timed_as(found, network)
    with computing("cpu", threads):
        model = open_model(path)
        samples = open_samples(
            data,
            model.preprocessing,
            seed=seed,
            cache=cache_folder(cache),
            cache_limit_gb=cache_limit_gb,
            quiet=True,
        )
        val, test = (
            evaluate_source(
                model,
                _fitting(model, source, data),
                batch_size=model.batch_size,
                shown=f"{path.name} on {name} samples",
            )
            for name, source in (("validation", samples.val), ("test", samples.test))
        )
    labels = samples.test.labels
    judged = replace(
        network,
        val_accuracy=val.accuracy,
        val_balanced_accuracy=val.balanced_accuracy,
        test_accuracy=test.accuracy,
        test_balanced_accuracy=test.balanced_accuracy,
        test_top5_accuracy=test.top5_accuracy,
        classes=class_metrics(samples.class_names, labels, test.predictions),
        confusion=confusion(labels, test.predictions),
        predictions=tuple(test.predictions.tolist()),
        size_bytes=path.stat().st_size,
    )
    write_record(_figures_of(path), JudgedFile(content=digest_file(path), model=judged))
    return _timed_as(judged, network)


@dataclass(frozen=True, kw_only=True)
class JudgedFile:
    """An exported file's figures.

    Args:
        content: digest of the file.
        model: its figures.
    """

    schema: ClassVar[int] = StageMetrics.schema

    content: str
    model: ModelMetrics


def _timed_as(judged: ModelMetrics, network: ModelMetrics) -> ModelMetrics:
    latencies = tuple(one for one in network.latencies if one.runtime == INT8)
    return replace(judged, latencies=latencies, batch=network.batch, threads=network.threads)


def _outputs_on(model: Any, source: Any, description: str | None = None) -> Tensor:
    """The outputs of a model for all samples of a source, `n x classes`.

    Args:
        model: from a batch to outputs.
        source: of inputs, or of upright images that the model prepares.
        description: of the progress; None: it is not shown.
    """
    rows = torch.arange(len(source)).split(getattr(model, "batch_size", _BATCH))
    batches = rows if description is None else track(rows, description)
    return torch.cat([model(source.batch(part, None)) for part in batches])


def _fitting(model: OpenedModel, source: SampleSource, data: Data | None) -> SampleSource:
    return fitting(model, source, extra_channels=getattr(data, "extra_channels", "refuse"))


@dataclass(frozen=True, kw_only=True)
class _Exporter:
    """A network, and the samples on which its files are judged; None: there are none."""

    network: nn.Sequential
    data: Data | None
    samples: Samples | None
    options: Export
    metric: str
    seed: int

    @cached_property
    def digest(self) -> str:
        """Of the network."""
        return module_digest(self.network)

    @cached_property
    def made_from(self) -> str:
        """A digest of all that can change a file."""
        options = {"preprocess": self.options.preprocess, "int8_tolerance": self.options.int8_tolerance}
        held_out = self.samples.held_out if self.samples else None
        info = info_of(self.network).to_dict()
        return digest_json([self.digest, info, held_out, options, self.metric, self.seed])

    @cached_property
    def outputs(self) -> Tensor:
        """Of the network on the validation samples, `n x classes`."""
        assert self.samples is not None
        return _outputs_on(open_model(self.network), self.samples.val, "export: run the network")

    def write(self, format: str, path: Path) -> ExportedFile:
        """Write one file, and judge it.

        Raises:
            ExportError: it cannot be written, or computes something else than the network.
        """
        started = time.perf_counter()
        preprocess = preprocess_of(self.network, format, self.options.preprocess)
        with beside(path) as folder:
            made = folder / path.name
            if format == "onnx_int8":
                file = self._write_int8(made, preprocess)
            else:
                file = export_file(self.network, made, format, preprocess=preprocess)
                if self.samples is not None:
                    file = self._judged(file, self._outputs_of(made))
            # The file itself last: it needs the one with its weights.
            parts = sorted(folder.iterdir(), key=lambda part: part == made)
            file = replace(
                file,
                size_bytes=sum(part.stat().st_size for part in parts),
                checked_on=_processor(),
                seconds=time.perf_counter() - started,
                digest=_digest(_parts_of(made)),
                made_from=self.made_from,
            )
            for part in parts:
                part.replace(path.with_name(part.name))
        self._log(file)
        return file

    def _write_int8(self, path: Path, preprocess: str) -> ExportedFile:
        assert self.samples is not None
        warn_without_vnni()
        with beside(path) as folder:
            whole, small = folder / "float.onnx", folder / "int8.onnx"
            write_onnx(self.network, whole)
            metadata = quantise(
                *(whole, small, _Drawn(samples=self.samples, seed=self.seed)),
                lambda file: self._metric_of(self._outputs_of(file)),
                tolerance=self.options.int8_tolerance,
                checked_on=_processor(),
            )
            found = self._outputs_of(small)
            if preprocess == "inside":
                metadata = replace(metadata, preprocess=preprocess)
                _write_inside(small, path, metadata)
                prepared, found = found, self._outputs_of(path)
                other = "the int8 file with the preprocessing outside"
                self._check_classes(prepared, found, other, most=_UNEQUAL_INT8)
                self._check_fall(found)
            else:
                small.replace(path)
        file = ExportedFile(
            format="onnx_int8",
            path=path.name,
            size_bytes=0,
            preprocess=preprocess,
            samples=len(found),
            equal_classes=compare(self.outputs, found).equal_classes,
            largest_difference=None,
            calibration=metadata.calibration,
            float_layers=metadata.float_layers,
        )
        return self._with_accuracies(file, found)

    def _check_fall(self, found: Tensor) -> None:
        """Hold the tolerance of int8 for the file with the preprocessing inside too.

        Raises:
            ExportError: it is broken.
        """
        fall = self._metric_of(self.outputs) - self._metric_of(found)
        if not is_within(fall, self.options.int8_tolerance):
            raise ExportError(
                f"int8 with the preprocessing inside lowers validation accuracy by {100 * fall:.1f} points, "
                f"more than `int8_tolerance={self.options.int8_tolerance}`",
                "raise it, or take `preprocess=outside`",
            )

    def _judged(self, file: ExportedFile, found: Tensor) -> ExportedFile:
        """The record of a float file with its figures on the validation samples.

        Raises:
            ExportError: it computes something else than the network.
        """
        if file.preprocess == "inside":
            self._check_classes(self.outputs, found, "the network")
        else:
            check_outputs(self.outputs, found, FLOAT_FORMATS[file.format].tolerance)
        compared = compare(self.outputs, found)
        judged = replace(
            file,
            samples=compared.samples,
            equal_classes=compared.equal_classes,
            largest_difference=compared.largest_difference,
        )
        return self._with_accuracies(judged, found)

    def _outputs_of(self, path: Path) -> Tensor:
        """Of a file on the validation samples, `n x classes`."""
        assert self.samples is not None
        if path.suffix.lower() != ".onnx":
            return _outputs_on(open_file(path), self.samples.val)
        model = open_model(path)
        shown = f"export: run {path.name}" if model.takes_pixels else None
        return _outputs_on(model, _fitting(model, self.samples.val, self.data), shown)

    def _check_classes(self, wanted: Tensor, found: Tensor, other: str, *, most: float = _UNEQUAL) -> None:
        """Name the samples to which a file that prepares images itself gives another class.

        Raises:
            ExportError: they are too many.
        """
        assert self.samples is not None
        best = wanted.topk(min(2, wanted.shape[1])).values
        margins, spread = best[:, 0] - best[:, -1], float(wanted.max() - wanted.min())
        rows = (wanted.argmax(1) != found.argmax(1)).nonzero().flatten().tolist()
        val, names = self.samples.val, self.samples.class_names
        for row in rows[:_NAMED]:
            log.info(
                "%s: %s, and %s by %s, whose two best outputs are %.2g %% of their spread apart",
                *(val.dataset.place(int(val.rows[row])), names[int(found[row].argmax())]),
                *(names[int(wanted[row].argmax())], other, 100 * margins[row] / spread),
            )
        if len(rows) > max(1, int(most * len(wanted))):
            raise ExportError(
                f"with the preprocessing inside {plural(len(rows), 'image')} of {len(wanted)} have another "
                f"class than by {other}",
                "take `preprocess=outside`",
            )

    def _metric_of(self, outputs: Tensor) -> float:
        """The metric on the validation samples."""
        assert self.samples is not None
        return accuracies(self.samples.val.labels, outputs.argmax(1))[self.metric]

    def _with_accuracies(self, file: ExportedFile, found: Tensor) -> ExportedFile:
        assert self.samples is not None
        labels = self.samples.val.labels
        figures: dict[str, Any] = {
            f"{prefix}val_{metric}": value
            for prefix, outputs in (("", found), ("float_", self.outputs))
            for metric, value in accuracies(labels, outputs.argmax(1)).items()
        }
        return replace(file, **figures)

    def _log(self, file: ExportedFile) -> None:
        figures = ""
        if file.largest_difference is not None:
            figures += f", outputs differ by at most {file.largest_difference:.1e}"
        own, network = (getattr(file, f"{prefix}val_{self.metric}") for prefix in ("", "float_"))
        if own is not None:
            name = self.metric.replace("_", " ")
            figures += f", {name} {100 * own:.1f} %, the network's {100 * network:.1f} %"
        log.info(
            "%s: %.1f %% of %d %s samples have the network's class%s",
            *(file.path, 100 * file.equal_classes, file.samples),
            *("validation" if self.samples else "made-up", figures),
        )

    def write_metrics(self, folder: Path, files: Mapping[str, ExportedFile]) -> ExportMetrics:
        """Write `metrics.json` of the files that there are."""
        metrics = ExportMetrics(
            weights_digest=self.digest,
            files=tuple(files[format] for format in FILES if format in files),
            machine=describe_device("cpu"),
            seconds=sum(file.seconds for file in files.values()),
            versions=versions(),
        )
        if metrics.files:
            write_record(folder / METRICS, metrics)
        else:
            (folder / METRICS).unlink(missing_ok=True)
        return metrics


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """Training samples that are read again and again."""

    samples: Samples
    seed: int

    def __iter__(self) -> Iterator[Tensor]:
        return (batch for batch, _ in self.samples.drawn_batches(CALIBRATION, self.seed, "cpu"))


def _open(
    network: nn.Sequential, data: Data | None, seed: int, cache: Path, limit_gb: float | None
) -> Samples | None:
    """The samples of the data set that a network was trained on; None without one.

    Raises:
        ConfigError: it has other classes, or weights that are not float32.
    """
    check_weights(network)
    if data is None:
        return None
    info = info_of(network)
    samples = open_samples(data, info.preprocessing, seed=seed, cache=cache, cache_limit_gb=limit_gb)
    if samples.class_names != info.class_names:
        raise ConfigError(
            f"the classes of the network, {shortened(info.class_names)}, are not those of "
            f"{samples.dataset.name}, {shortened(samples.class_names)}",
            "give the data set that the network was trained on",
        )
    if info.held_out is None:
        log.warning(
            "the network does not say which samples it was trained on: validation accuracy may be too high"
        )
    elif info.held_out != samples.held_out:
        log.warning(
            "the network was trained on other samples than %s or on another split of them, perhaps on "
            "validation samples: their accuracy may be too high; give the same samples, `train`, `val` and "
            "seed",
            samples.dataset.name,
        )
    return samples


def _listed(folder: Path) -> ExportMetrics | None:
    """What was exported to a folder before; None: nothing, or its list is damaged."""
    path = folder / METRICS
    if not path.exists():
        return None
    try:
        return read_record(path, ExportMetrics)
    except DamagedFile as error:
        log.warning("%s: everything is exported again", error.message)
        return None


def _known(
    folder: Path, before: ExportMetrics | None, exporter: _Exporter, formats: Sequence[str]
) -> dict[str, ExportedFile]:
    """The files of a folder that stay, by their formats: whole ones of the same network.

    Those of `formats` stay if they were made from the same samples with the same options.
    """
    if before is None:
        return {}
    if before.weights_digest != exporter.digest:
        log.warning("%s holds files of another network, which are replaced", folder)
        return {}
    whole = {file.format: file for file in before.files if _is_whole(folder / file.path, file)}
    others = {name for name in formats if name in whole and whole[name].made_from != exporter.made_from}
    if others:
        log.info("%s: made from other samples or with other options; exported again", folder)
    return {name: file for name, file in whole.items() if name not in others}


def _is_whole(path: Path, file: ExportedFile) -> bool:
    parts = _parts_of(path)
    if not all(part.is_file() for part in parts):
        return False
    return sum(part.stat().st_size for part in parts) == file.size_bytes and _digest(parts) == file.digest


def _remove(folder: Path, names: Iterable[str]) -> None:
    """Remove exported files, and what was found of them."""
    for name in names:
        path = folder / name
        for part in (*_parts_of(path), _figures_of(path)):
            part.unlink(missing_ok=True)


def _digest(parts: Sequence[Path]) -> str:
    """Of the content of an exported file, in all its parts."""
    digests = [digest_file(part) for part in parts]
    return digests[0] if len(digests) == 1 else digest_json(digests)


def _parts_of(path: Path) -> tuple[Path, ...]:
    """An exported file, and the one with the weights that OpenVINO has beside its `.xml`."""
    return (path, path.with_suffix(".bin")) if path.suffix.lower() == ".xml" else (path,)


def _figures_of(path: Path) -> Path:
    """What `judge_file` found."""
    return path.with_suffix(".json")


def _write_inside(outside: Path, path: Path, metadata: Metadata) -> None:
    model = with_preprocessing_inside(read_model(outside), metadata)
    write_model(path, with_metadata(model, metadata))


def _processor() -> str:
    found = instruction_set()
    return f"{describe_device('cpu').cpu}, {found or 'instruction set unknown'}"
