"""Latency on a clock that the models themselves move on."""

from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from tascnet.measure import compare_latency, latency

MODULE = import_module("tascnet.measure.latency")


class Clock:
    """Seconds that only `Costly` moves on, and the order in which it did."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(MODULE, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


class Costly(nn.Module):
    """A model whose passes take the seconds given, in turn."""

    def __init__(self, clock: Clock, name: str, seconds: list[float]) -> None:
        super().__init__()
        self.clock, self.name, self.seconds = clock, name, seconds
        self.seen: list[tuple[tuple[int, ...], bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((tuple(x.shape), torch.is_inference_mode_enabled(), self.training))
        self.clock.now += self.seconds[len(self.seen) % len(self.seconds) - 1]
        self.clock.calls.append(self.name)
        return x


def test_median_and_spread_by_hand(clock: Clock) -> None:
    model = Costly(clock, "a", [milliseconds / 1000 for milliseconds in range(1, 12)])
    timed = latency(model, torch.zeros(1, 2), repeats=11, warmup=0)
    assert timed.median_ms == pytest.approx(6)
    assert timed.spread_ms == pytest.approx((2, 10))
    assert (timed.repeats, timed.batch, timed.device) == (11, 1, "cpu")
    assert timed.threads == torch.get_num_threads()


def test_warmup_is_not_timed(clock: Clock) -> None:
    model = Costly(clock, "a", [9.0, 9.0, 0.001, 0.001, 0.001])
    assert latency(model, torch.zeros(1, 2), repeats=3, warmup=2).median_ms == pytest.approx(1)


def test_models_take_turns(clock: Clock) -> None:
    models = {name: Costly(clock, name, [1.0]) for name in "abc"}
    compare_latency(models, torch.zeros(1, 2), repeats=3, warmup=0)
    assert "".join(clock.calls) == "abcbcacab"


def test_eval_and_inference_mode_over_the_batch_and_then_as_before(clock: Clock) -> None:
    model = Costly(clock, "a", [1.0]).train()
    latency(model, torch.zeros(1, 3, 4, 4), batch=5, repeats=3, warmup=1)
    assert set(model.seen) == {((5, 3, 4, 4), True, False)}
    assert model.training


def test_the_time_limit_keeps_three_rounds(clock: Clock) -> None:
    model = Costly(clock, "a", [1.0])
    timed = latency(model, torch.zeros(1, 2), repeats=30, warmup=5, max_seconds=0.5)
    assert timed.repeats == 3
    assert len(clock.calls) == 1 + 3


def test_batch_in_the_models_memory_format() -> None:
    class Watch(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            assert x.is_contiguous(memory_format=torch.channels_last)
            assert not x.is_contiguous()
            return super().forward(x)

    model = Watch(2, 2, 3).to(memory_format=torch.channels_last)
    assert latency(model, torch.zeros(1, 2, 8, 8), batch=2, repeats=3, warmup=0).median_ms > 0
