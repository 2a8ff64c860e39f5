"""The parts that all pages share, and how a self-contained file is written."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from tascnet.errors import escaped, plural
from tascnet.report import numbers, plots
from tascnet.report.classes import class_rows, pairs, reference_of
from tascnet.report.sentences import class_lines, sample_lines, warnings
from tascnet.report.tables import headings, key_figures, model_cells
from tascnet.run.files import write_text
from tascnet.run.records import ModelMetrics, StageMetrics

# Most classes of a confusion matrix, and of two side by side.
_DRAWN, _BESIDE = 25, 12
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
    """The parts of a stage's page that the base template shows.

    Args:
        stage: its name.
        metrics: of the stage.
        facts: of the search, pruning or training, for the line below the title.
        described: what each model is, by name.
        against: name of the model with which the headline compares the result, `after`; None: no headline.
    """
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
        ("device", _distinct(model.device for model in models)),
        ("CPU threads", _distinct(model.threads for model in models)),
        ("latency", "median of repeated forward passes, models timed in turn"),
        ("machine", ", ".join(dict.fromkeys(name for name in (machine.name, machine.cpu) if name))),
        ("versions", ", ".join(f"{name} {version}" for name, version in metrics.versions.items())),
    ]
    return {
        "stage": stage,
        "title": f"{metrics.backbone} on {metrics.dataset}",
        "facts": [*about, *facts],
        "headline": _headline(metrics, described, against) if against else None,
        "warnings": warnings(metrics),
        "sample_lines": sample_lines(counts),
        "classes": _classes(metrics),
        "notes": notes,
        **_models(metrics.models, described),
    }


def models_html(models: Mapping[str, ModelMetrics]) -> str:
    """The table of models as an HTML element, for a notebook."""
    return _templates().get_template("models.html").render(_models(models, {}))


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
    for name in ("count", "percent", "milliseconds", "duration", "gap", "change", "plain", "decimal"):
        environment.filters[name] = getattr(numbers, name)
    environment.filters["coded"] = _coded
    return environment


def _coded(text: str) -> Markup:
    """A sentence with what stands in backticks as code."""
    return Markup(re.sub("`(.*?)`", r"<code>\1</code>", str(escape(text))))


def _classes(metrics: StageMetrics) -> dict[str, Any]:
    """The section of the classes."""
    rows, reference, result = class_rows(metrics), reference_of(metrics), metrics.models["after"]
    drawn = []
    if len(rows) <= _DRAWN:
        drawn = ["after", reference] if reference and len(rows) <= _BESIDE else ["after"]
    wide = len(rows) > _BESIDE
    return {
        "sentences": class_lines(metrics),
        "reference": reference,
        "rows": rows,
        "worst": rows if len(rows) <= _WHOLE else rows[:_WORST],
        "plots": [
            {
                "title": f"Confusion matrix: {name}",
                "caption": "Test samples; each row is a true class, each column a predicted one.",
                "svg": plots.confusion_plot(name, metrics.models[name], wide=wide),
            }
            for name in drawn
        ],
        "pairs": pairs(result)[:_WORST] if wide else [],
    }


def _models(models: Mapping[str, ModelMetrics], described: Mapping[str, str]) -> dict[str, Any]:
    return {
        "headings": headings(model.batch for model in models.values()),
        "models": model_cells(models),
        "described": described,
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
