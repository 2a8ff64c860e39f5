"""The page of both stages and the export: from the pre-trained network to the file that is deployed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tascnet.errors import plural
from tascnet.measure.runtimes import NAMES
from tascnet.report import numbers, sentences
from tascnet.report.mistakes import Mistakes
from tascnet.report.page import classes_part, frame, models_part, write_page
from tascnet.report.parts import curves_part, mistakes_part, speed_part, strip_part
from tascnet.report.plots.speed import INT8, speeds
from tascnet.report.stages import (
    depth_figure,
    frontier_figure,
    search_figures,
    sensitivity_figure,
    tuned_words,
)
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

_BEFORE, _AFTER = "conventional", "pruned"
_PRUNED = {
    "pruned": "the tuned network without its redundant filters and blocks",
    "pruned int8": "the pruned network in 8-bit integers",
}
# Two times are alike below this ratio.
_ALIKE = 1.05


@dataclass(frozen=True, kw_only=True)
class Form:
    """A network in a runtime.

    Args:
        name: of the network.
        model: its figures.
        runtime: where it runs.
        latency_ms: for one sample there.
    """

    name: str
    model: ModelMetrics
    runtime: str
    latency_ms: float


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
    metric, form = prune.metric, best_form(models)
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
        models, {**words, "tuned": words["after"], **_PRUNED}, form.name, _keys(models, metric)
    )
    content |= {
        "lead": lead(models, form, metric),
        "tiles": tiles(models, form, export, metric),
        "compared": compared(models, form),
        "advice": advice(models, metric),
        "speed_plot": speed_part(models, metric),
        "tune": tune,
        "prune": prune,
        "trials": plural(len(trials), "trial"),
        "iterations": plural(prune.iterations, "iteration"),
        "search": search_figures(tune, trials),
        "depths": depth_figure(tune),
        "frontier": frontier_figure(prune, iterations) if iterations else None,
        "sensitivity": sensitivity_figure(prune),
        "reach_lines": sentences.reach_lines(prune.reach),
        "strip": strip_part(through(tune.widths, prune.widths), _BEFORE, _AFTER),
        "classes": classes_part(merged, _AFTER),
        "mistakes": mistakes_part(mistakes),
        "files": export.files if export else (),
        "balanced": metric == "balanced_accuracy",
        "curves": curves_part(trainings, metric),
    }
    write_page(path, "full.html", content)


def _keys(models: Mapping[str, ModelMetrics], metric: str) -> list[str]:
    """The columns of the table: the balanced accuracy where it is the metric or differs."""
    accuracies = [(model.test_accuracy, model.test_balanced_accuracy) for model in models.values()]
    is_shown = metric == "balanced_accuracy" or any(map(differ, accuracies))
    return [key for key in columns_of(models.values()) if is_shown or key != "test_balanced_accuracy"]


def best_form(models: Mapping[str, ModelMetrics]) -> Form:
    """The form of the pruned network to deploy: the fastest exported one for one sample, or else PyTorch.

    int8, which changes the outputs, is chosen where it is faster by at least a tenth.
    """
    forms = [
        Form(name=name, model=models[name], runtime=runtime, latency_ms=milliseconds)
        for name in (_AFTER, _AFTER + INT8)
        if name in models
        for runtime, milliseconds in speeds(name, models).items()
        if name != _AFTER or runtime != "onnxruntime_int8"
    ]
    exported = [form for form in forms if form.runtime in sentences.FORMATS] or forms[:1]
    best = min(exported, key=lambda form: form.latency_ms)
    exact = min(
        (form for form in exported if form.name == _AFTER), key=lambda form: form.latency_ms, default=best
    )
    is_worth_it = best.latency_ms <= (1 - sentences.WORTHWHILE) * exact.latency_ms
    return best if is_worth_it else exact


def advice(models: Mapping[str, ModelMetrics], metric: str) -> list[str]:
    """In which form to deploy the pruned network, and what int8 costs."""
    pruned, int8 = models[_AFTER], models.get(_AFTER + INT8)
    # Without a file that was judged int8 is no choice.
    times = [one for one in pruned.latencies if one.runtime != "onnxruntime_int8"]
    times += [one for one in (int8.latencies if int8 else ()) if one.runtime == "onnxruntime_int8"]
    lines = sentences.recommendation_lines({_AFTER: replace(pruned, latencies=tuple(times))})
    if int8 is not None:
        key, word = f"test_{metric}", numbers.metric_name(metric)
        before, after = getattr(pruned, key), getattr(int8, key)
        before_after = f"from {numbers.percent(before)} to {numbers.percent(after)}"
        lines.append(f"int8 changes the test {word} {before_after} ({numbers.points(after, before)}).")
    return lines


def lead(models: Mapping[str, ModelMetrics], form: Form, metric: str) -> str:
    """What the run achieved, in one sentence."""
    before, key = models[_BEFORE], f"test_{metric}"
    was, now = (numbers.percent(getattr(model, key)) for model in (before, form.model))
    parts = [
        f"From {numbers.count(before.params)} to {numbers.count(form.model.params)} parameters",
        f"{faster(before.latency_ms / form.latency_ms)} in {NAMES[form.runtime]}",
        f"test {numbers.metric_name(metric)} {was.removesuffix(' %')} → {now}",
    ]
    return f"{', '.join(parts)}."


def compared(models: Mapping[str, ModelMetrics], form: Form) -> str:
    """What the headline compares with, and what part of it is the runtime's."""
    before, eager, there = models[_BEFORE], NAMES["eager"], NAMES[form.runtime]
    own, usual = numbers.milliseconds(form.latency_ms), numbers.milliseconds(before.latency_ms)
    sentence = (
        "Compared with the conventional network, which is fine-tuned at its pre-trained widths: it takes "
        f"{usual} for one sample in {eager}, {form.name} {own} in {there}."
    )
    same = before.latency(form.runtime)
    if same is None or form.runtime == "eager":
        return sentence
    ratio, ms = faster(same.latency_ms / form.latency_ms), numbers.milliseconds(same.latency_ms)
    return f"{sentence} In {there} the conventional network takes {ms}: {form.name} is {ratio} there."


def faster(ratio: float) -> str:
    """A ratio of times in words."""
    if ratio >= _ALIKE:
        return f"{ratio:.1f} times faster"
    return "as fast" if ratio > 1 / _ALIKE else f"{1 / ratio:.1f} times slower"


def tiles(
    models: Mapping[str, ModelMetrics], form: Form, export: ExportMetrics | None, metric: str
) -> list[dict[str, str]]:
    """What is deployed, how good it is, how fast and how small, each beside the conventional network."""
    before, result, key = models[_BEFORE], form.model, f"test_{metric}"
    wanted = sentences.FORMATS.get(form.runtime)
    file = next((one for one in (export.files if export else ()) if one.format == wanted), None)
    where = f"prune/export/{file.path}" if file else "prune/model"
    same, threads = before.latency(form.runtime), plural(result.threads, "thread")
    times = (form.latency_ms, same.latency_ms if same else before.latency_ms)
    sizes = (file.size_bytes if file else result.size_bytes, before.size_bytes)
    accuracies = (getattr(result, key), getattr(before, key))
    return [
        {"label": "deploy", "value": form.name, "note": f"in {NAMES[form.runtime]}: {where}", "change": ""},
        _tile(f"test {numbers.metric_name(metric)}", *accuracies, numbers.percent, numbers.points),
        _tile(f"one sample, {threads}", *times, numbers.milliseconds, numbers.change),
        _tile("file", *sizes, numbers.size, numbers.change),
        _tile("parameters", result.params, before.params, numbers.count, numbers.change),
    ]


def _tile(
    label: str,
    value: float,
    reference: float,
    show: Callable[[float | None], str],
    compare: Callable[[float | None, float | None], str],
) -> dict[str, str]:
    change = compare(value, reference) or "no change"
    return {"label": label, "value": show(value), "change": change, "note": f"from {show(reference)}"}
