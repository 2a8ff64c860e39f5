"""All of a network's costs under the names that `metrics.json` has for them."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from tascnet.measure.complexity import Complexity, complexity
from tascnet.measure.latency import Latency, compare_latency
from tascnet.measure.state import as_example


def measure_models(
    models: Mapping[str, nn.Module],
    example: Tensor | Sequence[int],
    *,
    batch: int = 16,
    repeats: int = 30,
    warmup: int = 5,
    max_seconds: float | None = 60.0,
) -> dict[str, dict[str, Any]]:
    """Measure several models, their latencies side by side; the models are left as they were.

    Args:
        example: one sample `1 x ...`, or its shape.
        batch: samples in a pass of `latency_ms_batch`; `latency_ms` takes one.
        repeats: timed passes of each model at each of the two.
        warmup: passes before them.
        max_seconds: time for the passes of all models at one batch size; None: no limit.

    Returns:
        For each name params, trainable_params, flops, flops_counted, latency_ms, latency_ms_spread
        (10th and 90th percentile), latency_ms_batch, latency_ms_batch_spread, batch, threads, device.
    """
    sample = as_example(example)
    options = {"repeats": repeats, "warmup": warmup}
    single = compare_latency(models, sample, batch=1, max_seconds=max_seconds, **options)
    batched = compare_latency(models, sample, batch=batch, max_seconds=max_seconds, **options)
    return {
        name: _record(complexity(model, sample), single[name], batched[name])
        for name, model in models.items()
    }


def _record(cost: Complexity, single: Latency, batched: Latency) -> dict[str, Any]:
    return {
        "params": cost.params,
        "trainable_params": cost.trainable_params,
        "flops": cost.flops,
        "flops_counted": cost.counted,
        "latency_ms": single.median_ms,
        "latency_ms_spread": list(single.spread_ms),
        "latency_ms_batch": batched.median_ms,
        "latency_ms_batch_spread": list(batched.spread_ms),
        "batch": batched.batch,
        "threads": single.threads,
        "device": single.device,
    }
