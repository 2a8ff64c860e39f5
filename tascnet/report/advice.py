"""Which file of a network to deploy: one advice for the terminal, the page and the model card."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tascnet.errors import listed, plural
from tascnet.measure.runtimes import NAMES
from tascnet.report.numbers import metric_name, milliseconds, percent
from tascnet.run.records import DEPLOYED, INT8, ExportedFile, ExportMetrics, ModelMetrics, RuntimeLatency

# The format of the file that runs in a runtime.
FORMATS = {"onnxruntime": "onnx", INT8: "onnx_int8", "openvino": "openvino"}
# int8 is worth its changed outputs where it saves this share of the time, and costs at most so much accuracy.
WORTHWHILE, _FALL = 0.1, 0.01
# Two times are alike below this ratio.
_ALIKE = 1.05


@dataclass(frozen=True, kw_only=True)
class Form:
    """A network in a form that can be deployed.

    Args:
        latency: in its runtime.
        file: that runs there; None: none was written.
    """

    latency: RuntimeLatency
    file: ExportedFile | None

    @property
    def runtime(self) -> str:
        """Where it runs."""
        return self.latency.runtime

    @property
    def is_int8(self) -> bool:
        """Whether its outputs are not quite those of the network."""
        return self.runtime == INT8

    @property
    def label(self) -> str:
        """Its file, or the format of the one that is not there, and its runtime."""
        named = self.file.path if self.file else FORMATS.get(self.runtime, "the saved model")
        return f"`{named}` in {NAMES[self.runtime]}"


def forms_of(
    model: ModelMetrics, export: ExportMetrics | None, metric: str, threads: int | None = None
) -> list[Form]:
    """The forms that can be recommended: those that were timed, and whose accuracy is known to be kept.

    Of an export these are its files, int8 among them where it costs at most a point of the metric; without
    one all float formats.

    Args:
        model: figures of the network.
        export: of it; None: it was not exported.
        metric: `accuracy` or `balanced_accuracy`.
        threads: CPU threads; None: those of the run.
    """
    files = _files(export)
    found = [
        Form(latency=one, file=files.get(FORMATS[one.runtime]))
        for runtime in (*DEPLOYED, INT8)
        if (one := model.latency(runtime, threads))
    ]
    return [
        form
        for form in found
        if (form.file is not None and not (form.is_int8 and _falls(form.file, metric)))
        or (export is None and not form.is_int8)
    ]


def best_form(forms: Sequence[Form], key: str = "latency_ms") -> Form:
    """The fastest form; int8, which changes the outputs, where it is faster by at least a tenth.

    Args:
        forms: at least one.
        key: `latency_ms` for one sample, `latency_ms_batch` for a batch.
    """

    def time(form: Form) -> float:
        return float(getattr(form.latency, key))

    fastest = min(forms, key=time)
    exact = min((form for form in forms if not form.is_int8), key=time, default=fastest)
    return fastest if time(fastest) <= (1 - WORTHWHILE) * time(exact) else exact


def recommendation_lines(
    model: ModelMetrics,
    export: ExportMetrics | None = None,
    metric: str = "accuracy",
    int8: ModelMetrics | None = None,
) -> list[str]:
    """Which file to deploy for one sample and for batches, and what int8 costs; empty where none was timed.

    Args:
        model: figures of the network.
        export: of it; None: it was not exported.
        metric: `accuracy` or `balanced_accuracy`.
        int8: figures of the int8 file on test samples; None: they were not read.
    """
    counts = dict.fromkeys((model.threads, *(one.threads for one in model.latencies)))
    lines = []
    for threads in counts:
        forms = forms_of(model, export, metric, threads)
        if forms:
            start = f"With {plural(threads, 'thread')}: " if len(counts) > 1 else ""
            eager = model.latency("eager", threads)
            lines += [start + line for line in _choices(forms, eager, _batches(model))]
    return [*lines, *_int8_lines(model, export, metric, int8)] if lines else []


def faster(ratio: float, than: str = "") -> str:
    """A ratio of times in words: `4.1 times faster than eager PyTorch`."""
    if 1 / _ALIKE < ratio < _ALIKE:
        return f"as fast as {than}" if than else "as fast"
    words = f"{ratio:.1f} times faster" if ratio > 1 else f"{1 / ratio:.1f} times slower"
    return f"{words} than {than}" if than else words


def _choices(forms: Sequence[Form], eager: RuntimeLatency | None, batches: Mapping[str, str]) -> list[str]:
    """What to deploy for one sample and for a batch."""
    best = {key: best_form(forms, key) for key in batches}
    shown = {key: _time(form, key, eager) for key, form in best.items()}
    single, batched = best.values()
    verb = "Deploy" if single.file else "Export"
    if single == batched:
        times = " and ".join(f"{shown[key]} for {words}" for key, words in batches.items())
        return [f"{verb} {single.label}: {times}."]
    return [f"{verb} {best[key].label} for {words}: {shown[key]}." for key, words in batches.items()]


def _time(form: Form, key: str, eager: RuntimeLatency | None) -> str:
    own = getattr(form.latency, key)
    if eager is None:
        return milliseconds(own)
    return f"{milliseconds(own)} ({faster(getattr(eager, key) / own, NAMES['eager'])})"


def _int8_lines(
    model: ModelMetrics, export: ExportMetrics | None, metric: str, int8: ModelMetrics | None
) -> list[str]:
    """What int8 costs, and why it is not recommended where it is not."""
    timed, file = model.latency(INT8), _files(export).get(FORMATS[INT8])
    if timed is None:
        return []
    if file is None:
        return ["int8 is not recommended: there is no int8 file whose accuracy is known."]
    word = metric_name(metric)
    own, network = _accuracies(file, metric)
    parts = [f"the validation {word} is {percent(own)} (float: {percent(network)})"]
    if int8 is not None:
        judged, floats = (getattr(one, f"test_{metric}") for one in (int8, model))
        parts.append(f"the test {word} {percent(judged)} (float: {percent(floats)})")
    known = f"In int8 {', '.join(parts)}."
    # With the figures of the file its own layers were timed.
    if file.float_layers and int8 is None:
        known += (
            f" Its time is that of a network wholly in int8; {plural(len(file.float_layers), 'layer')} of "
            "the file stayed in float."
        )
    if _falls(file, metric):
        return [f"{known} int8 is not recommended: it loses more than a point on the validation samples."]
    if exact := [form for form in forms_of(model, export, metric) if not form.is_int8]:
        little: dict[str, list[str]] = {}
        for key, words in _batches(model).items():
            gain = 1 - getattr(timed, key) / min(getattr(form.latency, key) for form in exact)
            if gain < WORTHWHILE:
                saved = f"saves only {percent(gain)} of the time" if gain > 0 else "saves no time"
                little.setdefault(saved, []).append(words)
        if little:
            reasons = " and ".join(f"{saved} for {listed(words, 'and')}" for saved, words in little.items())
            known += f" It {reasons}: float, which keeps the network's outputs, is better there."
    return [known]


def _batches(model: ModelMetrics) -> dict[str, str]:
    """What is timed in words, by the fields of latencies."""
    return {"latency_ms": "one sample", "latency_ms_batch": f"batches of {model.batch}"}


def _files(export: ExportMetrics | None) -> Mapping[str, ExportedFile]:
    """The exported files by format."""
    return {file.format: file for file in export.files} if export else {}


def _accuracies(file: ExportedFile, metric: str) -> tuple[float | None, float | None]:
    """The metric of a file and of the network on validation samples."""
    return getattr(file, f"val_{metric}"), getattr(file, f"float_val_{metric}")


def _falls(file: ExportedFile, metric: str) -> bool:
    """Whether a file loses too much of the metric, or nobody knows."""
    own, network = _accuracies(file, metric)
    # A point to the last bit.
    return own is None or network is None or network - own > _FALL + 1e-9
