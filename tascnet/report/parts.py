"""Sections that several pages have: what each template shows, from records."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from tascnet.errors import plural
from tascnet.measure.runtimes import NAMES
from tascnet.report import numbers, plots
from tascnet.report.classes import changed_classes
from tascnet.report.mistakes import Mistakes
from tascnet.report.strip import strip
from tascnet.report.tables import int8_note, latency_rows
from tascnet.run.records import LayerWidths, ModelMetrics, TrainingRecord

# Most trainings whose curves are drawn.
_CURVES = 12


def curves_part(trainings: Mapping[str, TrainingRecord], metric: str) -> dict[str, Any] | None:
    """The section of learning curves; None without a training."""
    trained = {name: one for name, one in trainings.items() if one.epochs}
    shown = dict(list(trained.items())[-_CURVES:])
    if not shown:
        return None
    ends = plots.metric_ends(list(shown.values()), metric)
    hidden = len(trained) - len(shown)
    return {
        "plots": [
            {
                "title": name,
                "caption": f"{plural(len(one.epochs), 'epoch')}, {numbers.duration(one.seconds)}; "
                f"kept: epoch {one.best_epoch}.",
                "svg": plots.curves_plot(one, metric, ends),
            }
            for name, one in shown.items()
        ],
        "hidden": f"The first {plural(hidden, 'training')} of {len(trained)} are not drawn."
        if hidden > 0
        else "",
        "word": numbers.metric_name(metric),
    }


def speed_part(models: Mapping[str, ModelMetrics], metric: str) -> dict[str, Any] | None:
    """The figure of accuracy against latency; None where only one runtime was measured."""
    if len({one.runtime for model in models.values() for one in model.latencies}) < 2:
        return None
    threads = " / ".join(dict.fromkeys(plural(model.threads, "CPU thread") for model in models.values()))
    caption = f"Up and to the left is better. One sample, {threads}."
    if any(model.latency("onnxruntime_int8") for model in models.values()):
        caption += " Hollow: int8 was timed, but only the float network's accuracy is known."
    return {
        "title": f"Test {numbers.metric_name(metric)} against latency",
        "caption": caption,
        "svg": plots.speed_plot(models, metric),
    }


def latencies_part(models: Mapping[str, ModelMetrics]) -> dict[str, Any]:
    """The table of latencies in every runtime."""
    rows = latency_rows(models)
    return {
        "runtimes": [NAMES[runtime] for runtime in (rows[0].times if rows else ())],
        "note": int8_note(rows),
        "groups": [
            {"title": f"batch {batch}, {plural(threads, 'thread')}", "rows": list(members)}
            for (batch, threads), members in groupby(rows, key=lambda row: (row.batch, row.threads))
        ],
    }


def strip_part(widths: Sequence[LayerWidths], before: str, after: str) -> dict[str, Any] | None:
    """The section that draws a network as its blocks; None where widths were not recorded."""
    blocks = strip(widths)
    if not blocks:
        return None
    removed = [block for block in blocks if block.status == "removed"]
    cut = sum(block.status == "cut" for block in blocks)
    parts = [f"{cut} of {plural(len(blocks), 'block')} {'is' if cut == 1 else 'are'} narrower"]
    if removed:
        parts.append(f"{len(removed)} {'is' if len(removed) == 1 else 'are'} removed")
    if added := sum(block.status == "added" for block in blocks):
        parts.append(f"{added} {'is' if added == 1 else 'are'} new")
    if end := next((block.name for block in blocks if block.is_end), None):
        parts.append(f"the network now ends with {end}")
    return {"blocks": blocks, "sentence": f"{', '.join(parts)}.", "before": before, "after": after}


def changes_part(before: tuple[str, ModelMetrics], after: tuple[str, ModelMetrics]) -> dict[str, Any]:
    """The figure of the classes that fare most differently by two named networks."""
    (old, was), (new, now) = before, after
    changes = changed_classes(was, now)
    gains = [one.recall - other.recall for other, one in zip(was.classes, now.classes, strict=True)]
    better, worse = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    return {
        "sentence": f"Of {len(gains)} classes, {new} finds {better} better than {old} and {worse} worse.",
        "plot": changes
        and {
            "title": "Classes that changed most",
            "caption": f"From {old} to {new}; in brackets the test samples of the class.",
            "svg": plots.recall_plot(changes, old),
        },
    }


def mistakes_part(mistakes: Mistakes | None) -> dict[str, Any] | None:
    """The section of the samples that the result gets wrong and its reference does not."""
    if mistakes is None:
        return None
    before, after = mistakes.reference, mistakes.result
    sentence = (
        f"Of {mistakes.samples:,} test samples, {after} names {mistakes.lost:,} wrongly that {before} names "
        f"correctly, and {mistakes.gained:,} correctly that {before} names wrongly."
    )
    if mistakes.lost > len(mistakes.shown):
        sentence += f" {len(mistakes.shown)} of the {mistakes.lost:,} are shown."
    return {"sentence": sentence, "shown": mistakes.shown}
