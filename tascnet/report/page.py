"""The parts that all pages share, and how a self-contained file is written."""

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from tascnet.errors import plural
from tascnet.report import numbers
from tascnet.report.tables import COLUMNS, KEY_FIGURES, headings, model_cells
from tascnet.run.files import write_text
from tascnet.run.records import ModelMetrics, StageMetrics


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
        "headline": _headline(metrics.models, described, against) if against else None,
        "notes": notes,
        **_models(metrics.models, described),
    }


def models_html(models: Mapping[str, ModelMetrics]) -> str:
    """The table of models as an HTML element, for a notebook."""
    return _templates().get_template("models.html").render(_models(models, {}))


def write_page(path: Path, template: str, content: Mapping[str, Any]) -> None:
    """Render a template and write the page whole or not at all."""
    text = _templates().get_template(template).render(content)
    # Names of files may hold bytes that are not UTF-8.
    write_text(path, text.encode("utf-8", errors="backslashreplace").decode("utf-8"))


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
    return environment


def _models(models: Mapping[str, ModelMetrics], described: Mapping[str, str]) -> dict[str, Any]:
    return {
        "headings": headings(model.batch for model in models.values()),
        "models": model_cells(models),
        "described": described,
    }


def _headline(
    models: Mapping[str, ModelMetrics], described: Mapping[str, str], against: str
) -> dict[str, Any]:
    """The key figures of the result, compared with those of another model."""
    (_, references), (_, cells) = model_cells({against: models[against], "after": models["after"]})
    tiles = [
        {"label": KEY_FIGURES[key], "value": cell.value, "change": cell.change, "reference": reference.value}
        for key, cell, reference in zip(COLUMNS, cells, references, strict=True)
        if key in KEY_FIGURES
    ]
    caption = f"after ({described['after']}) compared with {against} ({described[against]})"
    return {"tiles": tiles, "caption": caption}


def _distinct(values: Iterable[object]) -> str:
    return " / ".join(dict.fromkeys(map(str, values)))
