"""A network's costs under the names that `tascnet.run.records.ModelMetrics` has for them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tascnet.errors import ArchiveError
from tascnet.measure.complexity import complexity
from tascnet.measure.latency import compare_latency
from tascnet.models.inspect import as_example


def measure_models(
    models: Mapping[str, nn.Module],
    example: Tensor | Sequence[int],
    *,
    batch: int = 16,
    repeats: int = 30,
    warmup: int = 5,
    max_seconds: float | None = 60.0,
) -> dict[str, dict[str, Any]]:
    """Measure several models by name, their latencies side by side; the models are left as they were.

    Args:
        example: one sample `1 x ...`, or its shape.
        batch: samples in a pass of `latency_ms_batch`; `latency_ms` takes one.
        repeats: timed passes of each model at each of the two.
        warmup: passes before them.
        max_seconds: time for the passes of all models at one batch size; None: no limit.
    """
    sample = as_example(example)
    single, batched = (
        compare_latency(models, sample, batch=n, repeats=repeats, warmup=warmup, max_seconds=max_seconds)
        for n in (1, batch)
    )
    costs = {name: complexity(model, sample) for name, model in models.items()}
    return {
        name: {
            "params": cost.params,
            "trainable_params": cost.trainable_params,
            "flops": cost.flops,
            "flops_counted": cost.counted,
            "latency_ms": single[name].median_ms,
            "latency_ms_spread": single[name].spread_ms,
            "latency_ms_batch": batched[name].median_ms,
            "latency_ms_batch_spread": batched[name].spread_ms,
            "batch": batched[name].batch,
            "threads": single[name].threads,
            "device": single[name].device,
        }
        for name, cost in costs.items()
    }


def size_bytes(folder: Path) -> int:
    """Bytes of the weights of a saved model.

    Raises:
        ArchiveError: the folder holds no `model.safetensors`.
    """
    path = folder / "model.safetensors"
    if not path.is_file():
        raise ArchiveError(f"{folder} holds no model.safetensors", "name the folder of a saved model")
    return path.stat().st_size
