"""How long a forward pass takes."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

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
        threads: CPU threads of a pass.
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

    Args:
        models: by name, each on its own device, in its own memory format.
        example: one sample `1 x ...`; by model where they take different ones.
        batch: samples in a pass.
        repeats, warmup, max_seconds: as in `compare_calls`.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        calls, devices = {}, {}
        for name, model in models.items():
            stack.enter_context(evaluating(model))
            own = example[name] if isinstance(example, Mapping) else example
            calls[name] = partial(model, input_for(model, as_example(own), batch))
            devices[name] = device_of(model)
        return compare_calls(
            calls, batch=batch, repeats=repeats, warmup=warmup, max_seconds=max_seconds, device=devices
        )


def compare_calls(
    calls: Mapping[str, Callable[[], Any]],
    *,
    batch: int,
    repeats: int = 30,
    warmup: int = 5,
    max_seconds: float | None = None,
    threads: int | None = None,
    device: str | Mapping[str, str] = "cpu",
) -> dict[str, Latency]:
    """Time forward passes of several models side by side, in whatever runtime they run.

    Each round makes every pass once, beginning with another one each time, so that a change of the machine's
    load or clock affects all of them alike.

    Args:
        calls: by name, a function that makes one pass.
        batch: samples in a pass.
        repeats: rounds.
        warmup: rounds before them that are not timed.
        max_seconds: warm-up and rounds end early, after at least one and three; None: no limit.
        threads: CPU threads of a pass; None: those of torch.
        device: where they run; by name where they differ.
    """
    deadline = None if max_seconds is None else time.perf_counter() + max_seconds
    devices = device if isinstance(device, Mapping) else dict.fromkeys(calls, device)
    passes = {name: _timed(call, devices[name]) for name, call in calls.items()}
    _rounds(passes, warmup, 1, deadline)
    times = _rounds(passes, repeats, _FEWEST_REPEATS, deadline)
    levels = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    found = {}
    for name, seconds in times.items():
        milliseconds = 1000 * torch.tensor(seconds, dtype=torch.float64)
        low, median, high = torch.quantile(milliseconds, levels).tolist()
        found[name] = Latency(
            median_ms=median,
            spread_ms=(low, high),
            batch=batch,
            repeats=len(seconds),
            threads=torch.get_num_threads() if threads is None else threads,
            device=devices[name],
        )
    return found


def device_of(model: nn.Module) -> str:
    """Where a model's parameters are, such as `cpu` or `cuda:0`."""
    first = next(model.parameters(), None)
    return "cpu" if first is None else str(first.device)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use so many CPU threads in one operation, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _timed(call: Callable[[], Any], device: str) -> Callable[[], float]:
    """A function that makes one forward pass and returns its seconds."""
    where = torch.device(device)

    def synchronise() -> None:
        if where.type != "cpu":
            torch.accelerator.synchronize(where)

    def timed() -> float:
        synchronise()
        start = time.perf_counter()
        call()
        synchronise()
        return time.perf_counter() - start

    return timed


def _rounds(
    passes: Mapping[str, Callable[[], float]], count: int, fewest: int, deadline: float | None
) -> dict[str, list[float]]:
    names = list(passes)
    times: dict[str, list[float]] = {name: [] for name in names}
    for done in range(count if names else 0):
        if deadline is not None and done >= fewest and time.perf_counter() > deadline:
            break
        shift = done % len(names)
        for name in names[shift:] + names[:shift]:
            times[name].append(passes[name]())
    return times
