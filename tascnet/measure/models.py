"""A network's costs under the names that `tascnet.run.records.ModelMetrics` has for them."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tascnet.errors import ArchiveError, ConfigError
from tascnet.measure.complexity import complexity
from tascnet.measure.latency import compare_latency
from tascnet.models.inspect import as_example, input_for, meta_copy, meta_like


def measure_models(
    models: Mapping[str, nn.Module],
    example: Tensor | Sequence[int] | Mapping[str, Tensor],
    *,
    batch: int = 16,
    repeats: int = 30,
    warmup: int = 5,
    max_seconds: float | None = 60.0,
) -> dict[str, dict[str, Any]]:
    """Measure several models by name, their latencies side by side; the models are left as they were.

    Args:
        example: one sample `1 x ...`, or its shape; by model where they take different ones.
        batch: samples in a pass of `latency_ms_batch`; `latency_ms` takes one.
        repeats: timed passes of each model at each of the two.
        warmup: passes before them.
        max_seconds: time for the passes of all models at one batch size; None: no limit.
    """
    samples = example if isinstance(example, Mapping) else dict.fromkeys(models, as_example(example))
    single, batched = (
        compare_latency(models, samples, batch=n, repeats=repeats, warmup=warmup, max_seconds=max_seconds)
        for n in (1, batch)
    )
    costs = {name: complexity(model, samples[name]) for name, model in models.items()}
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
