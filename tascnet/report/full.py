"""The page of both stages and the export: from the pre-trained network to the file that is deployed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tascnet.errors import plural
from tascnet.measure.runtimes import NAMES
from tascnet.report import numbers
from tascnet.report.advice import Form, best_form, faster, forms_of, recommendation_lines
from tascnet.report.mistakes import Mistakes
from tascnet.report.page import classes_part, frame, models_part, write_page
from tascnet.report.parts import curves_part, mistakes_part, speed_part, strip_part
from tascnet.report.stages import cost_figures, depth_figure, search_figures, tuned_words
from tascnet.report.strip import through
from tascnet.report.tables import columns_of, differ
from tascnet.run.records import (
    ExportMetrics,
    Iteration,
    ModelMetrics,
    PruneMetrics,
    Trial,
    TuneMetrics,
)

_BEFORE, _AFTER, _INT8 = "conventional", "pruned", "pruned int8"
_PRUNED = {
    _AFTER: "the tuned network without its redundant filters and blocks",
    _INT8: "the pruned network in 8-bit integers; size: of its ONNX file",
}
# What counts first: a phone shows the first columns.
_ORDER = ("test_accuracy", "test_balanced_accuracy", "deployed_ms", "size_bytes", "params", "flops")


def rows_of(tune: TuneMetrics, prune: PruneMetrics) -> dict[str, ModelMetrics]:
    """The networks of both stages by their rows, as each stage judged them."""
    return {
        "baseline": tune.models["baseline"],
        _BEFORE: tune.models["conventional"],
        **{rival.row: tune.models[rival.row] for rival in tune.rivals},
        "tuned": tune.models["after"],
        _AFTER: prune.models["after"],
    }


def full_report(
    path: Path,
    tune: TuneMetrics,
    prune: PruneMetrics,
    trials: Sequence[Trial],
    iterations: Sequence[Iteration],
    models: Mapping[str, ModelMetrics],
    export: ExportMetrics | None,
    mistakes: Mistakes | None,
) -> None:
    """Write the page that tells the whole story.

    Args:
        path: of the page.
        tune, prune: metrics of both stages.
        trials: all of the search.
        iterations: all of the pruning, the unpruned network first.
        models: `baseline`, `conventional`, rivals, `tuned`, `pruned` and, where it was exported,
            `pruned int8`, their latencies measured side by side.
        export: of the pruned network; None: it was not exported.
        mistakes: of the pruned network; None: they are not shown.
    """
    metric, form = prune.metric, deployed_form(models, export, prune.metric)
    result = _row(form)
    seconds = tune.seconds + prune.seconds + (export.seconds if export else 0.0)
    both = {_BEFORE: models[_BEFORE], "after": models[_AFTER]}
    merged = replace(prune, models=both, seconds=seconds)
    trainings = {
        f"{stage}: {name}": one
        for stage, metrics in (("tune", tune), ("prune", prune))
        for name, one in metrics.trainings.items()
    }
    words = tuned_words(tune)
    content = frame("tune, prune, export" if export else "tune, prune", merged, ())
    content |= models_part(
        models,
        {**words, "tuned": words["after"], **_PRUNED},
        chosen=result,
        keys=_keys(models, metric),
        against=_BEFORE,
    )
    content |= {
        "lead": lead(models, form, metric),
        "compared": compared(models, form),
        "tiles": tiles(models, form, metric),
        "advice": recommendation_lines(models[_AFTER], export, metric, models.get(_INT8)),
        "speed_plot": speed_part(models, metric),
        "tune": tune,
        "prune": prune,
        "trials": plural(len(trials), "trial"),
        "iterations": plural(prune.iterations, "iteration"),
        "search": search_figures(tune, trials),
        "depths": depth_figure(tune),
        "costs": cost_figures(prune, iterations),
        "strip": strip_part(through(tune.widths, prune.widths), _BEFORE, _AFTER),
        "classes": classes_part(merged, _AFTER),
        "mistakes": mistakes_part(mistakes),
        "files": export.files if export else (),
        "balanced": metric == "balanced_accuracy",
        "curves": curves_part(trainings, metric),
    }
    write_page(path, "full.html", content)


def deployed_form(models: Mapping[str, ModelMetrics], export: ExportMetrics | None, metric: str) -> Form:
    """The form of the pruned network that is best for one sample; eager PyTorch where there is no other."""
    pruned = models[_AFTER]
    return best_form(forms_of(pruned, export, metric) or [Form(latency=pruned.eager, file=None)])


def lead(models: Mapping[str, ModelMetrics], form: Form, metric: str) -> str:
    """What the run achieved, in one sentence."""
    before, after, key = models[_BEFORE], models[_row(form)], f"test_{metric}"
    fewer = 1 - after.params / before.params
    was, now = (numbers.percent(getattr(one, key)) for one in (before, after))
    parts = [
        faster(before.latency_ms / form.latency.latency_ms),
        f"{abs(100 * fewer):.0f} % {'fewer' if fewer >= 0 else 'more'} parameters",
        f"test {numbers.metric_name(metric)} {was.removesuffix(' %')} → {now}",
    ]
    sentence = ", ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def compared(models: Mapping[str, ModelMetrics], form: Form) -> str:
    """What the headline compares, and what part of it is the runtime's."""
    before, eager, there = models[_BEFORE], NAMES["eager"], NAMES[form.runtime]
    own, usual = numbers.milliseconds(form.latency.latency_ms), numbers.milliseconds(before.latency_ms)
    sentence = (
        f"Before: the conventional network, fine-tuned as usual, in {eager}; one sample takes {usual}. "
        f"After: the {_row(form)} one in {there}; {own}."
    )
    same = before.latency(form.runtime)
    if same is None or form.runtime == "eager":
        return sentence
    runtime, network = before.latency_ms / same.latency_ms, same.latency_ms / form.latency.latency_ms
    ms = numbers.milliseconds(same.latency_ms)
    return (
        f"{sentence} {there} alone makes the conventional network {faster(runtime)} ({ms}); the {_row(form)} "
        f"one is {faster(network, 'that')}."
    )


def tiles(models: Mapping[str, ModelMetrics], form: Form, metric: str) -> list[dict[str, str]]:
    """What is deployed, how good it is, how fast and how small, each beside the conventional network."""
    before, result, key = models[_BEFORE], models[_row(form)], f"test_{metric}"
    where = f"prune/export/{form.file.path}" if form.file else "prune/model"
    same, threads = before.latency(form.runtime), plural(form.latency.threads, "thread")
    times = (form.latency.latency_ms, same.latency_ms if same else before.latency_ms)
    sizes = (form.file.size_bytes if form.file else result.size_bytes, before.size_bytes)
    accuracies = (getattr(result, key), getattr(before, key))
    note = f"in {NAMES[form.runtime]}: {where}"
    return [
        {"label": "deploy", "value": _row(form), "note": note, "change": ""},
        _tile(f"test {numbers.metric_name(metric)}", *accuracies, numbers.percent, numbers.points),
        _tile(f"one sample, {threads}", *times, numbers.milliseconds, numbers.change),
        _tile("file", *sizes, numbers.size, numbers.change),
        _tile("parameters", result.params, before.params, numbers.count, numbers.change),
    ]


def _row(form: Form) -> str:
    """The row of the table that has the figures of a form."""
    return _INT8 if form.is_int8 else _AFTER


def _keys(models: Mapping[str, ModelMetrics], metric: str) -> list[str]:
    """The columns of the table: the balanced accuracy where it is the metric or differs."""
    accuracies = [(model.test_accuracy, model.test_balanced_accuracy) for model in models.values()]
    is_shown = metric == "balanced_accuracy" or any(map(differ, accuracies))
    keys = [key for key in columns_of(models.values()) if is_shown or key != "test_balanced_accuracy"]
    return sorted(keys, key=lambda key: _ORDER.index(key) if key in _ORDER else len(_ORDER))


def _tile(
    label: str,
    value: float,
    reference: float,
    show: Callable[[float | None], str],
    compare: Callable[[float | None, float | None], str],
) -> dict[str, str]:
    change = compare(value, reference) or "no change"
    return {"label": label, "value": show(value), "change": change, "note": f"from {show(reference)}"}
