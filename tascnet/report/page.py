"""What both reports share: models, headline, notes; a self-contained page, written whole or not at all."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from tascnet.report import numbers
from tascnet.report.tables import model_cells, model_columns
from tascnet.run.files import write_whole

Row = Mapping[str, Any]

_HEADLINE = ("test_accuracy", "params", "flops", "latency_ms")


def page(
    stage: str, metrics: Row, *, result: str, against: str, described: Mapping[str, str]
) -> dict[str, Any]:
    """The parts that both pages have, by the names of the base template.

    Args:
        stage: tune or prune.
        metrics: content of `metrics.json`.
        result: name of the model that the stage made.
        against: name of the model to compare it with.
        described: what each model is, by name.
    """
    models = metrics.get("models") or {}
    columns = model_columns(models)
    return {
        "stage": stage,
        "title": _title(stage, metrics),
        "facts": _facts(metrics),
        "headline": _headline(models, described, result, against),
        "columns": columns,
        "models": model_cells(models, columns),
        "result": result,
        "described": described,
        "notes": _notes(metrics),
    }


def write(path: Path, template: str, content: Mapping[str, Any]) -> None:
    """Render a template and write the page whole or not at all."""
    environment = Environment(
        loader=PackageLoader("tascnet.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(template).render(content)
    write_whole(path, partial(_write_text, text=text))


def _write_text(temporary: Path, *, text: str) -> None:
    temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def _title(stage: str, metrics: Row) -> str:
    names = [metrics[key] for key in ("backbone", "dataset") if metrics.get(key)]
    return " on ".join(names) or f"Report of stage {stage}"


def _facts(metrics: Row) -> list[str]:
    facts = []
    if metrics.get("seed") is not None:
        facts.append(f"seed {metrics['seed']}")
    if metrics.get("seconds") is not None:
        facts.append(numbers.duration(metrics["seconds"]))
    return [*facts, *_samples(metrics.get("samples"))]


def _samples(samples: Row | None) -> list[str]:
    """Number, source and licence of the samples, as far as they are known."""
    if samples is None:
        return []
    counts = ", ".join(
        f"{samples[key]:,} {name}"
        for key, name in (("train", "training"), ("val", "validation"), ("test", "test"))
    )
    facts = [f"{samples['classes']:,} classes; {counts} samples"]
    if samples["skipped"]:
        facts.append(f"{samples['skipped']:,} files left out as unreadable")
    return [*facts, *(f"{key}: {samples[key]}" for key in ("source", "licence") if samples[key])]


def stop_fact(metrics: Row) -> list[str]:
    return [f"stopped: {metrics['stopped']}"] if metrics.get("stopped") else []


def _headline(
    models: Mapping[str, Row], described: Mapping[str, str], result: str, against: str
) -> dict[str, Any] | None:
    """The result's key figures beside those of the model that it is fair to compare it with."""
    if result not in models or against not in models:
        return None
    pair = {against: models[against], result: models[result]}
    columns = [column for column in model_columns(pair) if column.key in _HEADLINE]
    (_, references), (_, cells) = model_cells(pair, columns)
    tiles = [
        {
            "label": _LABELS[column.key],
            "value": cell.value,
            "change": cell.change,
            "reference": reference.value,
        }
        for column, cell, reference in zip(columns, cells, references, strict=True)
    ]
    caption = f"{result} ({described[result]}) compared with {against} ({described[against]})"
    return {"tiles": tiles, "caption": caption}


_LABELS = {
    "test_accuracy": "test accuracy",
    "params": "parameters",
    "flops": "FLOPs",
    "latency_ms": "latency, batch 1",
}


def _notes(metrics: Row) -> list[tuple[str, str]]:
    models = list((metrics.get("models") or {}).values())
    notes = []
    for name, key in (("FLOPs", "flops_counted"), ("device", "device"), ("CPU threads", "threads")):
        values = dict.fromkeys(str(model[key]) for model in models if model.get(key) is not None)
        notes += [(name, " / ".join(values))] if values else []
    if models and "latency_ms" in models[0]:
        notes.append(("latency", "median of repeated forward passes, models timed in turn"))
    if metrics.get("machine"):
        machine = metrics["machine"]
        names = dict.fromkeys(machine[key] for key in ("name", "cpu") if machine.get(key))
        notes.append(("machine", ", ".join(names)))
    if metrics.get("versions"):
        notes.append(("versions", ", ".join(f"{name} {text}" for name, text in metrics["versions"].items())))
    return notes
