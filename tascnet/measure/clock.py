"""How long networks take in the runtime that counts, without exporting each of them.

Exporting takes seconds. So candidates are judged by a table: each layer with weights is timed alone once, as
an ONNX model of one layer, and kept. A network takes the sum of its layers times a factor, with which the sum
of another network that was exported meets the measured time: what else a network does is taken to shrink as
its layers do.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tascnet.errors import ConfigError, DamagedFile, TascnetError
from tascnet.exporting.layers import EMPTY, Layer, layer_call, layers_of
from tascnet.exporting.runtimes import runnable
from tascnet.measure.latency import Latency, compare_calls, compare_latency, device_of
from tascnet.measure.machine import describe_device, versions
from tascnet.measure.runtimes import NAMES, exported_folder, target_of
from tascnet.options import Measure
from tascnet.run.files import digest_json, read_checked, write_checked
from tascnet.run.records import measured_once, read_record, write_record

log = logging.getLogger("tascnet")

# Layers are timed in rounds, so that a short load of the machine does not meet all passes of one; the least
# time of all passes counts. A round of a slow layer ends early.
ROUNDS, PASSES, ROUND_SECONDS = 4, 6, 0.02
# Models of one layer that are open at once.
OPEN = 16
# What the empty layer takes is taken off each layer; this much is always left.
LEAST_MS = 0.0005
# Measuring an exported network may take this share of the time in which the network was made.
SHARE = 0.1
# Seconds in which exported networks are timed side by side.
SECONDS = 20.0
_PACKAGES = ("onnxruntime", "openvino")

# Milliseconds of each of some layers.
Timer = Callable[[Sequence[Layer]], list[float]]


class LayerTable:
    """Milliseconds of single layers for one sample, kept in a file.

    Args:
        path: of the file.
        timer: times layers that the file lacks.

    Attributes:
        name: of the file; tables of other machines, threads or packages have other ones.
    """

    def __init__(self, path: Path, timer: Timer) -> None:
        self.name = path.stem
        self._path, self._timer = path, timer
        self._times = self._read()

    def sum(self, layers: Iterable[Layer]) -> float:
        """Milliseconds of all layers together, without what a pass of each alone takes besides."""
        layers = list(layers)
        self._time({layer.key: layer for layer in (EMPTY, *layers)})
        empty = self._times[EMPTY.key]
        return sum(max(self._times[layer.key] - empty, LEAST_MS) for layer in layers)

    def _time(self, layers: Mapping[str, Layer]) -> None:
        if all(key in self._times for key in layers):
            return
        # What another run has timed in the meantime.
        self._times = self._read() | self._times
        if new := {key: layer for key, layer in layers.items() if key not in self._times}:
            self._times |= dict(zip(new, self._timer(list(new.values())), strict=True))
            write_checked(self._path, {"milliseconds": self._times})

    def _read(self) -> dict[str, float]:
        if not self._path.exists():
            return {}
        try:
            return dict(read_checked(self._path)["milliseconds"])
        except (ValueError, KeyError, TypeError) as error:
            log.warning("%s: %s; its layers are timed again", self._path, error)
            return {}


def time_layers(layers: Sequence[Layer], runtime: str, threads: int) -> list[float]:
    """Milliseconds of one pass of each layer alone: the least of a few.

    Args:
        runtime: `onnxruntime`, `onnxruntime_int8` or `openvino`.
        threads: CPU threads.

    Raises:
        ExportError: the runtime cannot run one of them.
    """
    least: list[float] = []
    for start in range(0, len(layers), OPEN):
        calls = [layer_call(layer, runtime, threads) for layer in layers[start : start + OPEN]]
        for call in calls:
            call()
        rounds = [[_least_seconds(call) for call in calls] for _ in range(ROUNDS)]
        least += [1000 * min(times) for times in zip(*rounds, strict=True)]
    return least


def _least_seconds(call: Callable[[], object]) -> float:
    least, end = float("inf"), time.perf_counter() + ROUND_SECONDS
    for _ in range(PASSES):
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        least = min(least, now - start)
        if now >= end:
            break
    return least


def table_of(runtime: str, cache: Path) -> LayerTable:
    """The table of this machine with torch's number of threads, kept in a folder that runs share."""
    threads, found = torch.get_num_threads(), versions()
    digest = digest_json(
        {
            "runtime": runtime,
            "threads": threads,
            "cpu": describe_device().cpu,
            "versions": {package: found.get(package) for package in _PACKAGES},
        }
    )
    timer = partial(time_layers, runtime=runtime, threads=threads)
    return LayerTable(cache / "layer-times" / f"{digest}.json", timer)


class Clock:
    """Latencies for one sample in the runtime that counts, relative to that of a reference.

    Other work on the machine slows all networks down: whatever is measured is measured beside the reference,
    and a latency is the ratio of the two times the reference's.

    Args:
        measure: the runtime, and how often networks are timed.
        example: one sample `1 x ...`.
        reference: on the device; it is exported once.
        cache: folder of exported files and tables of layers, which runs share.
        path: of a file that keeps the reference's latency, so that a resumed run has the same bounds.
        table: of layers; None: that of this machine.
    """

    def __init__(
        self,
        measure: Measure,
        example: Tensor,
        reference: nn.Sequential,
        cache: Path,
        path: Path,
        *,
        table: LayerTable | None = None,
    ) -> None:
        self.runtime = target_of(measure, device_of(reference))
        self._measure, self._example, self._reference = measure, example, reference
        self._cache, self._path = cache, path
        self._anchor = path.with_name("anchor.json")
        self._table = table

    @property
    def name(self) -> str:
        """The runtime, as people write it."""
        return NAMES[self.runtime]

    @property
    def predicts(self) -> bool:
        """Whether `times` predicts."""
        return self.runtime != "eager"

    @property
    def reference_ms(self) -> float:
        """Milliseconds of the reference, measured once.

        Raises:
            ConfigError: it cannot be exported.
        """
        return self._of_reference()["original_ms"]

    def _of_reference(self) -> dict[str, float]:
        """Milliseconds of the reference, and the seconds that it took to export and to time it."""

        def measure() -> dict[str, float]:
            started = time.perf_counter()
            timed = self._timed({"": self._reference}, self._measure.repeats, SECONDS)
            return {"original_ms": timed[""].median_ms, "seconds": time.perf_counter() - started}

        return measured_once(self._path, measure)

    def times(
        self,
        networks: Mapping[str, nn.Sequential],
        *,
        repeats: int | None = None,
        max_seconds: float | None = None,
    ) -> dict[str, float]:
        """Milliseconds of networks by name: measured in eager PyTorch, predicted in other runtimes.

        Args:
            networks: on the device.
            repeats: passes of each where they are measured; None: those of `measure`.
            max_seconds: for all of these; None: no limit.
        """
        if self.predicts:
            factor = self._factor()
            return {name: factor * self._sum(network) for name, network in networks.items()}
        return self._beside_reference(networks, repeats or self._measure.repeats, max_seconds)

    def exact(self, network: nn.Sequential) -> float:
        """Milliseconds of a network, measured.

        Raises:
            ConfigError: the network cannot be exported.
        """
        if network is self._reference:
            return self.reference_ms
        return self._beside_reference({"": network}, self._measure.repeats, SECONDS)[""]

    def confirmed(
        self, network: nn.Sequential, is_enough: Callable[[float], bool], seconds: float = 0.0
    ) -> float:
        """Milliseconds of a network: measured where a prediction is enough or measuring takes little time.

        Predictions start from the last network that was measured here.

        Args:
            is_enough: whether a latency reaches what is aimed at.
            seconds: that the network took to make; measuring takes little where it takes `SHARE` of them.
        """
        if network is self._reference:
            return self.reference_ms
        predicted = self.times({"": network})[""]
        if not self.predicts or not (is_enough(predicted) or self._last()["seconds"] <= SHARE * seconds):
            return predicted
        started = time.perf_counter()
        found = self.exact(network)
        log.info(
            "latency in %s: %.3g ms measured, %.3g ms predicted by its layers (%+.0f %%)",
            *(self.name, found, predicted, 100 * (predicted / found - 1)),
        )
        self._keep(found, network, time.perf_counter() - started)
        return found

    def _factor(self) -> float:
        """Milliseconds of the network that predictions start from, for each of its table's."""
        last = self._last()
        return float(last["measured_ms"] / last["table_ms"])

    def _last(self) -> dict[str, Any]:
        """The network that predictions start from: its milliseconds and its table's, and what they took."""
        if self._anchor.exists():
            try:
                kept = read_record(self._anchor, dict[str, Any])
            except DamagedFile as error:
                log.warning("%s: predictions start from the first network again", error.message)
            else:
                if kept.get("table") == self._layers.name:
                    return kept
                log.warning(
                    "the processor, its threads or %s are not those of before: predictions start from the "
                    "first network again",
                    self.name,
                )
        reference = self._of_reference()
        return self._keep(reference["original_ms"], self._reference, reference["seconds"])

    def _keep(self, measured_ms: float, network: nn.Sequential, seconds: float) -> dict[str, Any]:
        kept = {
            "measured_ms": measured_ms,
            "table_ms": self._sum(network),
            "table": self._layers.name,
            "seconds": seconds,
        }
        write_record(self._anchor, kept)
        return kept

    @property
    def _layers(self) -> LayerTable:
        if self._table is None:
            self._table = table_of(self.runtime, self._cache)
        return self._table

    def _sum(self, network: nn.Sequential) -> float:
        return self._layers.sum(layers_of(network, self._example))

    def _beside_reference(
        self, networks: Mapping[str, nn.Sequential], repeats: int, max_seconds: float | None
    ) -> dict[str, float]:
        original_ms = self.reference_ms
        timed = self._timed({**networks, "the reference": self._reference}, repeats, max_seconds)
        # Other work disturbs the fastest passes least.
        fast = {name: one.spread_ms[0] for name, one in timed.items()}
        return {name: fast[name] / fast["the reference"] * original_ms for name in networks}

    def _timed(
        self, networks: Mapping[str, nn.Sequential], repeats: int, max_seconds: float | None
    ) -> dict[str, Latency]:
        """Networks that are timed side by side."""
        limits: dict[str, Any] = {"repeats": repeats, "max_seconds": max_seconds}
        if not self.predicts:
            return compare_latency(networks, self._example, **limits)
        calls = {name: self._exported(network) for name, network in networks.items()}
        return compare_calls(calls, batch=1, **limits)

    def _exported(self, network: nn.Sequential) -> Callable[[], Tensor]:
        """One pass of a network in the runtime; its file is kept by its structure."""
        with exported_folder(self._cache) as folder:
            try:
                run = runnable(
                    *(network, self.runtime, self._example), threads=torch.get_num_threads(), folder=folder
                )
                run(self._example)
            except TascnetError as error:
                raise ConfigError(
                    f"latency is judged in {self.name} (`target`), where the network does not run: "
                    f"{error.message}",
                    "give `target=eager`",
                ) from error
        return partial(run, self._example)
