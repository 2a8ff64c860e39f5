"""How long a forward pass takes."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tascnet.models.inspect import as_example, evaluating, input_for

_FEWEST_REPEATS = 3


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Time of one forward pass over a batch.

    Args:
        spread_ms: 10th and 90th percentile.
        batch: samples in a pass.
        repeats: passes that were timed.
        threads: CPU threads that torch uses in one operation.
        device: where the model is, such as `cpu` or `cuda:0`.
    """

    median_ms: float
    spread_ms: tuple[float, float]
    batch: int
    repeats: int
    threads: int
    device: str


def latency(
    model: nn.Module,
    example: Tensor,
    *,
    batch: int = 1,
    repeats: int = 30,
    warmup: int = 5,
    max_seconds: float | None = None,
) -> Latency:
    """Time one model; see `compare_latency`."""
    timed = compare_latency(
        {"": model}, example, batch=batch, repeats=repeats, warmup=warmup, max_seconds=max_seconds
    )
    return timed[""]


def compare_latency(
    models: Mapping[str, nn.Module],
    example: Tensor | Mapping[str, Tensor],
    *,
    batch: int = 1,
    repeats: int = 30,
    warmup: int = 5,
    max_seconds: float | None = None,
) -> dict[str, Latency]:
    """Time several models side by side in eval mode; the models are left as they were.

    Each round times every model once, beginning with another one each time, so that a change of the
    machine's load or clock affects all of them alike.

    Args:
        models: by name, each on its own device, in its own memory format.
        example: one sample `1 x ...`; by model where they take different ones.
        batch: samples in a pass.
        repeats: rounds.
        warmup: rounds before them that are not timed.
        max_seconds: warm-up and rounds end early, after at least one and three; None: no limit.
    """
    deadline = None if max_seconds is None else time.perf_counter() + max_seconds
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        passes = {}
        for name, model in models.items():
            stack.enter_context(evaluating(model))
            own = example[name] if isinstance(example, Mapping) else example
            passes[name] = _timed(model, input_for(model, as_example(own), batch))
        _rounds(passes, warmup, 1, deadline)
        times = _rounds(passes, repeats, _FEWEST_REPEATS, deadline)
    levels = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    found = {}
    for name, seconds in times.items():
        milliseconds = 1000 * torch.tensor(seconds, dtype=torch.float64)
        low, median, high = torch.quantile(milliseconds, levels).tolist()
        first = next(models[name].parameters(), None)
        found[name] = Latency(
            median_ms=median,
            spread_ms=(low, high),
            batch=batch,
            repeats=len(seconds),
            threads=torch.get_num_threads(),
            device="cpu" if first is None else str(first.device),
        )
    return found


def _timed(model: nn.Module, inputs: Tensor) -> Callable[[], float]:
    """A function that makes one forward pass and returns its seconds."""

    def synchronise() -> None:
        if inputs.device.type != "cpu":
            torch.accelerator.synchronize(inputs.device)

    def timed() -> float:
        synchronise()
        start = time.perf_counter()
        model(inputs)
        synchronise()
        return time.perf_counter() - start

    return timed


def _rounds(
    passes: Mapping[str, Callable[[], float]], count: int, fewest: int, deadline: float | None
) -> dict[str, list[float]]:
    names = list(passes)
    times: dict[str, list[float]] = {name: [] for name in names}
    for done in range(count):
        if deadline is not None and done >= fewest and time.perf_counter() > deadline:
            break
        shift = done % len(names)
        for name in names[shift:] + names[:shift]:
            times[name].append(passes[name]())
    return times
