"""The reports of the two stages: one self-contained page each, written whole or not at all."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from tascnet.files import write_whole
from tascnet.report import numbers
from tascnet.report.plots import best_value_plot, iterations_plot, tradeoff_plot, widths_plot
from tascnet.report.tables import model_cells, model_columns

__all__ = ["prune_report", "tune_report"]

Row = Mapping[str, Any]

_TUNE_MODELS = {
    "baseline": "new softmax layer on the frozen network",
    "conventional": "fine-tuned at the pre-trained widths",
    "after": "fine-tuned winner of the search",
}
_PRUNE_MODELS = {"before": "as it came from tuning", "after": "pruned"}
_HEADLINE = ("test_accuracy", "params", "flops", "latency_ms")


def tune_report(path: Path, metrics: Row, trials: Sequence[Row]) -> None:
    """Write the report of stage tune.

    Args:
        path: the page.
        metrics: content of `metrics.json`: models (baseline, conventional, after), best_config,
            neutral_config, seed, seconds, versions; and, where present, winner (number of the trial;
            else the trial of best_config), stopped (why), dataset, backbone, machine. Missing parts are
            left out of the page.
        trials: rows of `trials.jsonl`.
    """
    neutral, best = metrics.get("neutral_config") or {}, metrics.get("best_config") or {}
    winner = metrics.get("winner", _trial_of(trials, best))
    page = _page("tune", metrics, result="after", against="conventional", described=_TUNE_MODELS)
    page["facts"] += [_trials_fact(trials), *_stop_fact(metrics)]
    page["plots"] = _search_plots(trials, metrics.get("models") or {}, winner)
    page["trials"] = [_trial(row, neutral, winner) for row in trials]
    page["settings"] = _settings(neutral, best)
    _write(path, "tune.html", page)


def prune_report(path: Path, metrics: Row, iterations: Sequence[Row], widths: Sequence[Row]) -> None:
    """Write the report of stage prune.

    Args:
        path: the page.
        metrics: content of `metrics.json`: models (before, after), seed, seconds, versions; and, where
            present, tolerance, kept_iteration, stopped (why), dataset, backbone, machine. Without
            kept_iteration the last iteration inside the tolerance is taken for it.
        iterations: rows of `iterations.jsonl`, 0 being the unpruned network.
        widths: rows of layer, before and after.
    """
    kept = metrics.get("kept_iteration")
    if kept is None:
        kept = max((row["iteration"] for row in iterations if row["inside"]), default=None)
    changed = [row for row in widths if row["before"] != row["after"]]
    page = _page("prune", metrics, result="after", against="before", described=_PRUNE_MODELS)
    page["facts"] += [_iterations_fact(iterations), *_stop_fact(metrics)]
    page["plot"] = _iterations_figure(iterations, metrics.get("tolerance"), kept)
    page["iterations"] = [_iteration(row, kept) for row in iterations]
    page["widths"] = changed
    page["widths_svg"] = widths_plot(changed) if changed else ""
    page["unchanged"] = len(widths) - len(changed)
    page["all_widths"] = [_width(row) for row in widths]
    _write(path, "prune.html", page)


def _page(
    stage: str, metrics: Row, *, result: str, against: str, described: Mapping[str, str]
) -> dict[str, Any]:
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


def _write(path: Path, template: str, page: Mapping[str, Any]) -> None:
    environment = Environment(
        loader=PackageLoader("tascnet.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(template).render(page)
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
    return facts


def _trials_fact(trials: Sequence[Row]) -> str:
    failed = sum(row["value"] is None for row in trials)
    return _plural(len(trials), "trial") + (f", {failed} failed" if failed else "")


def _iterations_fact(iterations: Sequence[Row]) -> str:
    return _plural(sum(row["iteration"] > 0 for row in iterations), "iteration")


def _stop_fact(metrics: Row) -> list[str]:
    return [f"stopped: {metrics['stopped']}"] if metrics.get("stopped") else []


def _plural(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


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


def _trial_of(trials: Sequence[Row], best: Row) -> int | None:
    """The trial that succeeded with a configuration."""
    same = [row["trial"] for row in trials if row["value"] is not None and dict(row["config"]) == dict(best)]
    return same[0] if same else None


def _search_plots(trials: Sequence[Row], models: Mapping[str, Row], winner: int | None) -> list[Row]:
    if all(row["value"] is None for row in trials):
        return []
    best = best_value_plot(trials, winner)
    tradeoff = tradeoff_plot(trials, models, winner)
    return [
        {
            "title": "Best value against trial",
            "caption": "Depth: how many units from the output were open to the search.",
            "svg": best,
        },
        {
            "title": "Accuracy against FLOPs",
            "caption": "Up and to the left is better. Open marks: named models.",
            "svg": tradeoff,
        },
    ]


def _trial(row: Row, neutral: Row, winner: int | None) -> Row:
    reason = None if row["value"] is not None else row.get("reason") or "no reason given"
    differing = {name: value for name, value in row["config"].items() if neutral.get(name, value) != value}
    return {
        "trial": row["trial"],
        "depth": row["depth"],
        "value": numbers.percent(row["value"]),
        "params": numbers.count(row.get("params")),
        "flops": numbers.count(row.get("flops")),
        "seconds": numbers.duration(row.get("seconds")),
        "reason": reason,
        "settings": [f"{name}={numbers.plain(value)}" for name, value in differing.items()],
        "chosen": row["trial"] == winner,
    }


def _settings(neutral: Row, best: Row) -> list[Row]:
    names = dict.fromkeys([*neutral, *best]) if best else {}
    return [
        {
            "name": name,
            "before": numbers.plain(neutral.get(name)),
            "after": numbers.plain(best.get(name)),
            "changed": neutral.get(name) != best.get(name),
        }
        for name in names
    ]


def _iterations_figure(iterations: Sequence[Row], tolerance: float | None, kept: int | None) -> Row | None:
    if not iterations:
        return None
    caption = "Iteration 0 is the network before pruning; the kept one is handed over."
    if tolerance is not None:
        caption += f" Tolerance: {100 * tolerance:g} percentage points below the best so far."
    return {
        "title": "Accuracy and FLOPs against iteration",
        "caption": caption,
        "svg": iterations_plot(iterations, tolerance, kept),
    }


def _iteration(row: Row, kept: int | None) -> Row:
    loss = row.get("val_loss")
    removed = row.get("removed") or {}
    similarities = [row.get(f"pairs_similarity_{when}") for when in ("before", "after")]
    return {
        "iteration": row["iteration"],
        "accuracy": numbers.percent(row["val_accuracy"]),
        "loss": numbers.MISSING if loss is None else f"{loss:.3f}",
        "params": numbers.count(row.get("params")),
        "flops": numbers.count(row.get("flops")),
        "removed": sum(removed.values()),
        "similarity": " → ".join(f"{s:.3f}" for s in similarities if s is not None) or numbers.MISSING,
        "seconds": numbers.duration(row.get("seconds")),
        "inside": row["inside"],
        "chosen": row["iteration"] == kept,
    }


def _width(row: Row) -> Row:
    return {
        "layer": row["layer"],
        "before": numbers.count(row["before"]),
        "after": numbers.count(row["after"]),
        "change": numbers.change(row["after"], row["before"]) or numbers.MISSING,
    }
