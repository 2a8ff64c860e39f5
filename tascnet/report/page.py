"""The parts that all pages share, and how a self-contained file is written."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from tascnet.errors import escaped, plural
from tascnet.report import numbers, plots
from tascnet.report.classes import class_rows, most_confused, pairs, reference_of
from tascnet.report.parts import changes_part, curves_part, latencies_part, speed_part
from tascnet.report.sentences import class_lines, sample_lines, warnings
from tascnet.report.tables import deployed_note, headings, key_figures, model_cells, runtime_of
from tascnet.run.files import write_text
from tascnet.run.records import ModelMetrics, StageMetrics

# Most classes of a confusion matrix, and of two side by side.
_DRAWN, _BESIDE = 25, 12
# Of more classes those of the most frequent mistakes are drawn, at most so many.
_CONFUSED = 16
# Up to how many classes all are in the table, and how many of more are in the short one.
_WHOLE, _WORST = 30, 15


def stage_page(
    stage: str,
    metrics: StageMetrics,
    *,
    facts: Iterable[str],
    described: Mapping[str, str],
    against: str | None = None,
) -> dict[str, Any]:
    """The parts of a stage's page that its template shows.

    Args:
        stage: its name.
        metrics: of the stage.
        facts: of the search, pruning or training, for the line below the title.
        described: what each model is, by name.
        against: name of the model with which the headline compares the result, `after`; None: no headline.
    """
    return {
        **frame(stage, metrics, facts),
        "headline": _headline(metrics, described, against) if against else None,
        "classes": classes_part(metrics),
        "speed_plot": speed_part(metrics.models, metrics.metric),
        "curves": curves_part(metrics.trainings, metrics.metric),
        **models_part(metrics.models, described, against=against),
    }


def frame(stage: str, metrics: StageMetrics, facts: Iterable[str]) -> dict[str, Any]:
    """What stands around the sections of a page: its title, warnings, and where the figures come from."""
    counts = metrics.samples
    sizes = f"{counts.train:,} training, {counts.val:,} validation, {counts.test:,} test samples"
    about = [
        f"seed {metrics.seed}",
        numbers.duration(metrics.seconds),
        f"{counts.classes:,} classes; {sizes}",
    ]
    about.append(f"metric: {numbers.metric_name(metrics.metric)}")
    if counts.skipped:
        about.append(f"{plural(counts.skipped, 'unreadable file')} skipped")
    about += [f"origin: {counts.origin}"] if counts.origin else []
    about += [f"licence: {counts.licence}"] if counts.licence else []
    models, machine = metrics.models.values(), metrics.machine
    notes = [
        ("FLOPs", _distinct(model.flops_counted for model in models)),
        ("device", _distinct(model.eager.device for model in models)),
        ("CPU threads", _distinct(model.threads for model in models)),
        ("latency", "median of repeated forward passes, models timed in turn"),
        ("machine", ", ".join(dict.fromkeys(name for name in (machine.name, machine.cpu) if name))),
        ("versions", ", ".join(f"{name} {version}" for name, version in metrics.versions.items())),
    ]
    return {
        "stage": stage,
        "title": f"{metrics.backbone} on {metrics.dataset}",
        "facts": [*about, *facts],
        "warnings": warnings(metrics),
        "sample_lines": sample_lines(counts),
        "notes": notes,
    }


def models_html(models: Mapping[str, ModelMetrics]) -> str:
    """The table of models as an HTML element, for a notebook."""
    return _templates().get_template("models.html").render(models_part(models, {}))


def write_page(path: Path, template: str, content: Mapping[str, Any]) -> None:
    """Render a template and write the page whole or not at all."""
    text = _templates().get_template(template).render(content)
    # Names of files and classes may hold control characters, and bytes that are not UTF-8.
    write_text(path, escaped(text))


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("tascnet.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("count", "percent", "size", "milliseconds", "duration", "gap", "change", "plain", "decimal"):
        environment.filters[name] = getattr(numbers, name)
    environment.filters |= {"coded": _coded, "joined": _joined}
    return environment


def _joined(text: str) -> Markup:
    """A text whose numbers keep their words on the line, and whose paths break after a slash."""
    space = r"(?<=\d) (?=(?:ms|s|%|pp|[kMGTP]?B|[kMGTP])(?!\w))|(?<=batch) (?=\d)| (?=→)|(?<=→) "
    text = re.sub(space, "\N{NO-BREAK SPACE}", text)
    return Markup(str(escape(text)).replace("/", "/<wbr>"))


def _coded(text: str) -> Markup:
    """A sentence with what stands in backticks as code."""
    return Markup(re.sub("`(.*?)`", r"<code>\1</code>", str(escape(text))))


def classes_part(metrics: StageMetrics, result_name: str = "after") -> dict[str, Any]:
    """The section of the classes.

    Args:
        metrics: with the model `after`, and perhaps one with which it is compared.
        result_name: what the page calls the model `after`.
    """
    rows, reference, result = class_rows(metrics), reference_of(metrics), metrics.models["after"]
    drawn = {result_name: result}
    if reference and len(rows) <= _BESIDE:
        drawn[reference] = metrics.models[reference]
    wide = len(rows) > _BESIDE
    caption = "Test samples; each row is a true class, each column a predicted one."
    if len(rows) > _DRAWN:
        drawn = {result_name: most_confused(result, _CONFUSED)}
        caption += f" The {len(drawn[result_name].classes)} classes of the most frequent mistakes."
    return {
        "result": result_name,
        "changes": changes_part((reference, metrics.models[reference]), (result_name, result))
        if reference
        else None,
        "sentences": class_lines(metrics),
        "reference": reference,
        "rows": rows,
        "worst": rows if len(rows) <= _WHOLE else rows[:_WORST],
        "plots": [
            {
                "title": f"Confusion matrix: {name}",
                "caption": caption,
                "svg": plots.confusion_plot(name, model, wide=wide),
            }
            for name, model in drawn.items()
            if model.classes
        ],
        "pairs": pairs(result)[:_WORST] if wide else [],
    }


def models_part(
    models: Mapping[str, ModelMetrics],
    described: Mapping[str, str],
    *,
    chosen: str = "after",
    keys: Sequence[str] | None = None,
    against: str | None = None,
) -> dict[str, Any]:
    """The table of models, with what each of them is; the chosen one is marked.

    Args:
        keys: of its columns; None: all.
        against: with which model the others are compared; None: the first.
    """
    return {
        "headings": headings(models.values(), keys),
        "models": model_cells(models, keys, against),
        "against": against or next(iter(models), ""),
        "deployed": deployed_note(map(runtime_of, models.values())),
        "latencies": latencies_part(models),
        "described": described,
        "chosen": chosen,
    }


def _headline(metrics: StageMetrics, described: Mapping[str, str], against: str) -> dict[str, Any]:
    """The key figures of the result, compared with those of another model."""
    compared = {name: metrics.models[name] for name in (against, "after")}
    figures = key_figures(compared, metrics.metric)
    (_, references), (_, cells) = model_cells(compared, list(figures))
    tiles = [
        {"label": label, "value": cell.value, "change": cell.change, "reference": reference.value}
        for label, cell, reference in zip(figures.values(), cells, references, strict=True)
    ]
    caption = f"after ({described['after']}) compared with {against} ({described[against]})"
    return {"tiles": tiles, "caption": caption}


def _distinct(values: Iterable[object]) -> str:
    return " / ".join(dict.fromkeys(map(str, values)))
