"""The model card: `README.md` beside the weights, for whoever gets the model without its run."""

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import nn

from tascnet.data import module_digest
from tascnet.errors import DamagedFile, plural, printable
from tascnet.measure.runtimes import NAMES
from tascnet.models.info import ModelInfo, info_of
from tascnet.models.preprocessing import LONGEST, Preprocessing, channel_mode
from tascnet.models.text import TextPreprocessing
from tascnet.report import numbers
from tascnet.report.advice import recommendation_lines
from tascnet.report.classes import class_rows, reference_of
from tascnet.report.sentences import sample_lines, warnings
from tascnet.run.files import write_text
from tascnet.run.folder import EXPORT, IDENTITY, METRICS, MODEL, REPORT
from tascnet.run.records import (
    ExportMetrics,
    ModelMetrics,
    PretrainMetrics,
    PruneMetrics,
    StageMetrics,
    TuneMetrics,
    read_record,
)

log = logging.getLogger("tascnet")

CARD = f"{MODEL}/README.md"
_STAGES = {"tune": TuneMetrics, "prune": PruneMetrics, "pretrain": PretrainMetrics}
# Class names that a card has, and those of the weakest classes.
_NAMED, _WEAKEST = 30, 5
# Letters of a name.
_LENGTH = 80
# What Markdown takes for its own, and what would become a link or a mention.
_MARKUP = re.compile(r"[\\`*_\[\]<>#|~&$@]|:(?=//)")
_TAKES = {"inside": "pixels", "outside": "prepared inputs"}


def write_card(
    folder: Path, network: nn.Sequential, metrics: StageMetrics, int8: ModelMetrics | None = None
) -> None:
    """Write the card of a stage's model, `model/README.md`; what was exported from the model is in it.

    Args:
        folder: of the stage.
        network: the stage's model.
        metrics: of the stage.
        int8: figures of the int8 file on test samples; None: they were not read.
    """
    export = _exported(folder)
    # That of an earlier model of this stage does not count.
    if export is not None and export.weights_digest != module_digest(network):
        export = None
    write_text(folder / CARD, model_card(info_of(network), metrics, export, int8))


def write_pages(
    folder: Path, network: nn.Sequential, metrics: StageMetrics, write_report: Callable[[Path], None]
) -> None:
    """Write the card and the report of a finished stage, where they are missing.

    Args:
        folder: of the stage.
        network: the stage's model.
        metrics: of the stage.
        write_report: writes the report to a path.
    """
    is_new = not (folder / REPORT).exists()
    if is_new or not (folder / CARD).exists():
        write_card(folder, network, metrics)
    if is_new:
        write_report(folder / REPORT)
        log.info("report: %s", folder / REPORT)


def update_card(
    folder: Path,
    network: nn.Sequential,
    measured: ModelMetrics | None = None,
    int8: ModelMetrics | None = None,
) -> None:
    """Write the card of a finished stage again, after an export of its model; one without metrics has none.

    Args:
        folder: of the stage.
        network: the stage's model.
        measured: its figures where they were measured again; None: as the stage measured them.
        int8: figures of its int8 file on test samples; None: they were not read.

    Raises:
        DamagedFile: its metrics are not what was written.
    """
    if (folder / METRICS).exists() and (folder / IDENTITY).exists():
        stage = read_record(folder / IDENTITY, dict[str, Any])["stage"]
        metrics: StageMetrics = read_record(folder / METRICS, _STAGES[stage])
        if measured is not None:
            metrics = replace(metrics, models={**metrics.models, "after": measured})
        write_card(folder, network, metrics, int8)


def model_card(
    info: ModelInfo,
    metrics: StageMetrics,
    export: ExportMetrics | None = None,
    int8: ModelMetrics | None = None,
) -> str:
    """A model card in Markdown.

    Args:
        info: of the model.
        metrics: of the stage that made it; the model is `after`.
        export: what was exported from it.
        int8: figures of its int8 file on test samples; None: they were not read.
    """
    samples, model = metrics.samples, metrics.models["after"]
    is_text = isinstance(info.preprocessing, TextPreprocessing)
    versions = ", ".join(f"{name} {version}" for name, version in metrics.versions.items())
    onnx = [file.path for file in export.files if file.format == "onnx"] if export else []
    return _template().render(
        backbone=metrics.backbone,
        dataset=metrics.dataset,
        summary=_summary(info, metrics),
        classes=f"{len(info.class_names):,}",
        names=info.class_names[:_NAMED],
        hidden=len(info.class_names[_NAMED:]),
        figures=_figures(metrics),
        machine=_machine(metrics),
        latencies=[replace(one, runtime=NAMES[one.runtime]) for one in model.latencies],
        advice=recommendation_lines(model, export, metrics.metric, int8),
        batch=model.batch,
        sample="text" if is_text else "image",
        is_text=is_text,
        example='"a text of some words"' if is_text else '"photo.jpg"',
        export=export,
        takes=_TAKES,
        onnx_file=onnx[0] if onnx else "model.onnx",
        **_constants(info.preprocessing),
        data={
            "sizes": [f"{count:,}" for count in (samples.train, samples.val, samples.test)],
            "lines": sample_lines(samples),
            "origin": samples.origin,
            "licence": samples.licence,
        },
        limits=list(_limits(metrics, "texts" if is_text else "images")),
        weights=info.weights,
        licence=info.licence,
        seed=metrics.seed,
        versions=versions,
    )


def in_markdown(text: str) -> str:
    """A text on one line that Markdown shows as it is."""
    return _MARKUP.sub(lambda match: "\\" + match[0], printable(text))


def as_code(text: str) -> str:
    """A name as code, cut where it is long; what it holds is shown as it is."""
    shown = printable(text, most=_LENGTH)
    runs = [len(run) for run in re.findall("`+", shown)]
    fence = "`" * (max(runs, default=0) + 1)
    return f"{fence} {shown} {fence}" if runs or not shown.strip() else f"{fence}{shown}{fence}"


@cache
def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("tascnet.report"),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "md": in_markdown,
        "code": as_code,
        "difference": lambda number: numbers.MISSING if number is None else f"{number:.2g}",
        **{name: getattr(numbers, name) for name in ("milliseconds", "percent", "size")},
        "plural": plural,
    }
    return environment.get_template("card.md.jinja")


def _exported(folder: Path) -> ExportMetrics | None:
    """The record of a stage's export; a damaged one is reported and left out."""
    path = folder / EXPORT / METRICS
    if not path.exists():
        return None
    try:
        return read_record(path, ExportMetrics)
    except DamagedFile as error:
        log.warning("%s: the model card leaves the export out", error.message)
        return None


def _summary(info: ModelInfo, metrics: StageMetrics) -> str:
    what = "short texts" if isinstance(info.preprocessing, TextPreprocessing) else "images"
    first = f"A classifier of {what} into {len(info.class_names):,} classes"
    if isinstance(metrics, PruneMetrics) and metrics.kept_iteration:
        how = f"fitted to this data set, pruned and retrained ({plural(metrics.iterations, 'iteration')})"
    elif isinstance(metrics, PruneMetrics):
        how = "fitted to this data set; pruning removed nothing from it"
    elif isinstance(metrics, TuneMetrics) and metrics.handed_over == "baseline":
        how = "a new last layer was trained on this data set, which nothing else that was tried improved"
    elif isinstance(metrics, TuneMetrics) and metrics.handed_over == "conventional":
        how = "fine-tuned on this data set, with the structure that it had"
    elif isinstance(metrics, TuneMetrics):
        trained = "fine-tuned" if metrics.handed_over == "tuned" else "trained"
        how = (
            f"trial {metrics.winner} of {plural(metrics.trials, 'trial')} of a search over the configuration "
            f"of its deeper layers, {trained} on this data set"
        )
    else:
        how = "trained from random weights on this data set"
    return f"{first}, made by tascnet: {how}."


def _figures(metrics: StageMetrics) -> dict[str, Any]:
    """The table of accuracies and costs: this model, and the one that it is compared with."""
    samples, other = metrics.samples, reference_of(metrics)
    columns = {"this model": metrics.models["after"]} | ({other: metrics.models[other]} if other else {})
    on_val, on_test = (f"({count:,} samples)" for count in (samples.val, samples.test))
    rows = [
        (f"validation accuracy {on_val}", "val_accuracy", numbers.percent),
        (f"validation balanced accuracy {on_val}", "val_balanced_accuracy", numbers.percent),
        (f"test accuracy {on_test}", "test_accuracy", numbers.percent),
        (f"test balanced accuracy {on_test}", "test_balanced_accuracy", numbers.percent),
        (f"test top-5 accuracy {on_test}", "test_top5_accuracy", numbers.percent),
        ("parameters", "params", "{:,}".format),
        ("FLOPs of one sample", "flops", "{:,}".format),
        ("size of the weights", "size_bytes", numbers.size),
    ]
    notes = {
        None: "",
        "conventional": "`conventional`: the whole network fine-tuned as usual, at the pre-trained widths. ",
        "before": "`before`: the network before pruning. ",
    }
    return {
        "columns": list(columns),
        "rows": [
            (label, [show(getattr(model, key)) for model in columns.values()])
            for label, key, show in rows
            if getattr(columns["this model"], key) is not None
        ],
        "note": f"{notes[other]}Balanced accuracy is the mean recall of the classes. One multiply-add counts "
        "as one FLOP. No choice was based on the test samples, which were read once.",
    }


def _machine(metrics: StageMetrics) -> str:
    machine = metrics.machine
    names = [name for name in dict.fromkeys((machine.name, machine.cpu)) if name]
    return in_markdown(f"{' and '.join(names)} (device {machine.device}, torch {machine.torch})")


def _constants(preprocessing: Preprocessing | TextPreprocessing) -> dict[str, Any]:
    """What the lines of code and the section on preprocessing need."""
    if isinstance(preprocessing, TextPreprocessing):
        return {"size": preprocessing.max_tokens, "words": f"{len(preprocessing.vocabulary):,}"}
    size, resize = preprocessing.size, preprocessing.resize
    return {
        "size": size,
        "resize": resize,
        "margin": round((resize - size) / 2),
        "longest": LONGEST,
        "crop": preprocessing.crop,
        "interpolation": preprocessing.interpolation,
        "channels": preprocessing.channels,
        "mode": channel_mode(preprocessing.channels),
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
    }


def _limits(metrics: StageMetrics, samples: str) -> Iterator[str]:
    """What the figures do not show."""
    yield (
        f"It was tested on the test part of {printable(metrics.dataset)} alone: {samples} from elsewhere may "
        "be harder."
    )
    yield f"It names one of its classes for every sample, also for {samples} that belong to none of them."
    yield "Its probabilities (softmax of the logits) are not calibrated: measure them before relying on them."
    if metrics.samples.near_duplicates is None and samples == "images":
        yield "Near-duplicates between training and test samples were not counted."
    weak = [
        f"{printable(row.counts.name, _LENGTH)}: {numbers.percent(row.result.recall)} of {row.result.samples}"
        for row in class_rows(metrics)
        if row.result.samples and row.result.recall < 1
    ]
    if weak:
        yield f"Lowest recall of a class on the test samples: {'; '.join(weak[:_WEAKEST])}."
    yield from (line.replace("`", "") for line in warnings(metrics))
