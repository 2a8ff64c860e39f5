"""A network's costs under the names that `tascnet.run.records.ModelMetrics` has for them."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tascnet.errors import ArchiveError, ConfigError
from tascnet.exporting.runtimes import structure_digest
from tascnet.measure.complexity import complexity
from tascnet.measure.latency import device_of
from tascnet.measure.runtimes import exported_folder, runtimes_of, time_in
from tascnet.models.inspect import as_example, input_for, meta_copy, meta_like
from tascnet.options import Measure
from tascnet.run.records import ModelMetrics, RuntimeLatency


def measure_models(
    models: Mapping[str, nn.Module],
    example: Tensor | Sequence[int] | Mapping[str, Tensor],
    *,
    measure: Measure = Measure(),
    cache: Path | None = None,
    warmup: int = 5,
    max_seconds: float | None = 60.0,
    float_layers: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, dict[str, Any]]:
    """Measure several models by name, their latencies side by side; the models are left as they were.

    Models of one structure are timed once in each runtime, and have the same latencies.

    Args:
        models: on one device, each in its own memory format.
        example: one sample `1 x ...`, or its shape; by model where they take different ones.
        measure: batch, repeats and runtimes. What a runtime cannot run is warned about and left out.
        cache: folder that keeps files which are exported for timing; None: they are not kept.
        warmup: passes before those that are timed.
        max_seconds: time for the passes of all models in one runtime; None: no limit.
        float_layers: of a model by name, the layers that its int8 form has in float; None: all are in int8.

    Returns:
        By name, fields of `ModelMetrics`. The first of the latencies is that of eager PyTorch with torch's
        threads.
    """
    samples = example if isinstance(example, Mapping) else dict.fromkeys(models, as_example(example))
    # The name of the first model of each structure, by which it is timed.
    first: dict[tuple[str, tuple[str, ...]], str] = {}
    floats = float_layers or {}
    keys = {
        name: (_structure(model, samples[name]), tuple(floats.get(name, ())))
        for name, model in models.items()
    }
    timed_as = {name: first.setdefault(key, name) for name, key in keys.items()}
    networks = {name: models[name] for name in first.values()}
    device = next(map(device_of, models.values()), "cpu")
    latencies: dict[str, list[RuntimeLatency]] = {name: [] for name in networks}
    with exported_folder(cache) as folder:
        for runtime in runtimes_of(measure, device):
            timed = time_in(
                *(runtime, networks, samples, measure),
                folder=folder,
                warmup=warmup,
                max_seconds=max_seconds,
                float_layers=floats,
            )
            for name, rows in timed.items():
                latencies[name] += rows
    costs = {name: complexity(model, samples[name]) for name, model in models.items()}
    return {
        name: {
            "params": cost.params,
            "trainable_params": cost.trainable_params,
            "flops": cost.flops,
            "flops_counted": cost.counted,
            "batch": measure.batch,
            "threads": torch.get_num_threads(),
            "latencies": tuple(latencies[timed_as[name]]),
        }
        for name, cost in costs.items()
    }


def measured_again(
    records: Mapping[str, ModelMetrics],
    networks: Mapping[str, nn.Module],
    example: Tensor | Sequence[int] | Mapping[str, Tensor],
    *,
    measure: Measure = Measure(),
    cache: Path | None = None,
    float_layers: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, ModelMetrics]:
    """Figures of networks that were judged apart, with latencies that compare: measured side by side.

    Args:
        records: figures, by name.
        networks: by the same names, on one device.
        example, measure, cache, float_layers: as in `measure_models`.
    """
    costs = measure_models(networks, example, measure=measure, cache=cache, float_layers=float_layers)
    timed = ("latencies", "batch", "threads")
    return {
        name: replace(record, **{key: costs[name][key] for key in timed}) for name, record in records.items()
    }


def _structure(model: nn.Module, example: Tensor) -> str:
    """A digest that models of the same layers for the same samples share; their weights do not count."""
    try:
        return structure_digest(model, example)  # type: ignore[arg-type]
    except ArchiveError:
        # A layer of the user's own, of which nothing is known.
        return str(id(model))


def check_batch(
    network: nn.Module, example: Tensor, *, batch: int, batch_size: int = 1, device: torch.device | str
) -> None:
    """Refuse a batch for which one layer's inputs and outputs alone would fill the memory.

    Sizes are found on the meta device, where a pass takes no memory.

    Args:
        network: the largest that is measured and trained.
        example: one sample `1 x ...`.
        batch: samples in a pass whose latency is measured.
        batch_size: samples in a step of training, no more than there are.
        device: where both run.

    Raises:
        ConfigError: it would.
    """
    device = torch.device(device)
    largest = 0

    def note(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal largest
        # The output of a layer that works in place is its input.
        tensors = {id(tensor): tensor for tensor in (*inputs, output) if isinstance(tensor, Tensor)}
        largest = max(largest, sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()))

    ghost = meta_copy(network).eval()
    for leaf in (module for module in ghost.modules() if not list(module.children())):
        leaf.register_forward_hook(note)
    # Of a network that needs values, as one of the user's own may, the layers before that are known.
    with suppress(Exception), torch.no_grad():
        ghost(input_for(ghost, meta_like(example)))
    memory = _memory(device)
    shorter = f"lower `{'size' if example.is_floating_point() else 'max_tokens'}`"
    for count, option in ((1, None), (batch, "batch"), (batch_size, "batch_size")):
        # On CUDA a step of training computes in bf16.
        size = largest // 2 if option == "batch_size" and device.type == "cuda" else largest
        if count * size <= memory:
            continue
        what = "one sample takes" if option is None else f"`{option}={count}` samples take"
        fits = memory // size
        fewer = f"lower it, far below {fits}" if fits > 2 else "lower it to 1"
        raise ConfigError(
            f"{what} at least {count * size / 1e9:.3g} GB in one layer, and there are {memory / 1e9:.3g} GB",
            shorter if option is None else f"{fewer}, or {shorter}",
        )


def _memory(device: torch.device) -> int:
    """Bytes of a device's memory; of the CPU's what this process may take."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    # The limit of a container.
    with suppress(OSError, ValueError):
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return memory


def size_bytes(folder: Path) -> int:
    """Bytes of the weights of a saved model.

    Raises:
        ArchiveError: the folder holds no `model.safetensors`.
    """
    path = folder / "model.safetensors"
    if not path.is_file():
        raise ArchiveError(f"{folder} holds no model.safetensors", "name the folder of a saved model")
    return path.stat().st_size
