"""How long networks take in the runtime that counts, without exporting each of them.

Exporting takes seconds. So candidates are judged by a table of layers, each of which is timed alone once. A
network takes the sum of its layers times a factor, with which the sum of another network that was exported
meets the measured time: what else a network does is taken to shrink as its layers do.
"""

import copy
import logging
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from tascnet.errors import ConfigError, DamagedFile, SurgeryError, TascnetError, plural
from tascnet.exporting.layers import layers_of, named_layers
from tascnet.exporting.runtimes import runnable
from tascnet.measure.latency import Latency, compare_calls, compare_latency, device_of
from tascnet.measure.runtimes import NAMES, exported_folder, target_of
from tascnet.measure.table import LayerTable, grid, table_at, table_of
from tascnet.measure.widths import WidthCosts, WidthTimes
from tascnet.options import Measure
from tascnet.run.records import measured_once, read_record, write_record
from tascnet.surgery.layers import set_kernel, spatial_convs

log = logging.getLogger("tascnet")

# Measuring an exported network may take this share of the time in which the network was made.
SHARE = 0.1
# Seconds in which exported networks are timed side by side.
SECONDS = 20.0


class Clock:
    """Latencies for one sample in the runtime that counts, relative to that of a reference.

    Other work on the machine slows all networks down: whatever is measured is measured beside the reference,
    and a latency is the ratio of the two times the reference's.

    With `measure.table` all of them are those of another machine: sums of layers, none of them measured here.

    Args:
        measure: the runtime, and how often networks are timed.
        example: one sample `1 x ...`.
        reference: on the device; it is exported once.
        cache: folder of exported files and tables of layers, which runs share.
        path: of a file that keeps the reference's latency, so that a resumed run has the same bounds.
        table: of layers; None: that of `measure`, or else of this machine.

    Raises:
        ConfigError: `measure.table` cannot be used.
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
        if measure.table is not None:
            self._table = LayerTable.made_elsewhere(measure.table, self.runtime)
            facts = self._table.facts
            machine = facts["machine"], plural(facts["threads"], "thread")
            log.info("latency is that of %s with %s, by `table=%s`", *machine, measure.table)

    @property
    def name(self) -> str:
        """The runtime, as people write it."""
        return NAMES[self.runtime] + (" on another machine" if self.is_foreign else "")

    @property
    def is_foreign(self) -> bool:
        """Whether latencies are those of another machine, which nothing here can measure."""
        return self._table is not None and self._table.is_foreign

    @property
    def predicts(self) -> bool:
        """Whether `times` predicts."""
        return self.runtime != "eager" or self.is_foreign

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
            if self.is_foreign:
                layers = layers_of(self._reference, self._example)
                found = self._layers.factor(layers) * self._layers.sum(layers)
            else:
                found = self._timed({"": self._reference}, self._measure.repeats, SECONDS)[""].median_ms
            return {"original_ms": found, "seconds": time.perf_counter() - started}

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
        """Milliseconds of a network, measured, or by another machine's table.

        Raises:
            ConfigError: the network cannot be exported.
        """
        if network is self._reference:
            return self.reference_ms
        if self.is_foreign:
            return self.times({"": network})[""]
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
        is_cheap = self._last()["seconds"] <= SHARE * seconds if self.predicts else False
        if not self.predicts or self.is_foreign or not (is_enough(predicted) or is_cheap):
            return predicted
        started = time.perf_counter()
        found = self.exact(network)
        log.info(
            "latency in %s: %.3g ms measured, %.3g ms predicted by its layers (%+.0f %%)",
            *(self.name, found, predicted, 100 * (predicted / found - 1)),
        )
        self._keep(found, network, time.perf_counter() - started)
        return found

    def width_times(self, network: nn.Sequential, costs: WidthCosts) -> WidthTimes:
        """Milliseconds of a network as a function of the units removed from its groups.

        Each layer is timed once at a few widths, in eager PyTorch too, and interpolated between them.

        Args:
            network: on the device.
            costs: of it, by group.
        """
        table = self._layers
        times = WidthTimes(
            layers=named_layers(network, self._example),
            lost=costs.lost,
            times=partial(table.times, interpolate=True),
            factor=self._factor(),
        )
        if not table.is_foreign:
            table.cover([sized for layer, *sides in times.changing() for sized in grid(layer, *sides)])
        return times

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
        self._layers.note_network(layers_of(network, self._example), measured_ms)
        return kept

    @property
    def _layers(self) -> LayerTable:
        if self._table is None:
            self._table = table_of(self.runtime, self._cache, device_of(self._reference))
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


def make_table(
    path: str | Path,
    network: nn.Sequential,
    example: Tensor,
    *,
    runtime: str = "onnxruntime",
    kernels: Collection[int] = (),
) -> LayerTable:
    """Time every layer of a network at several widths on this machine, with torch's number of threads.

    The file serves as `measure.table` on another machine, for this network and what is cut from it. What a
    file has already is not timed again.

    Args:
        path: of the file that is written.
        network: on its device; it is left as it was.
        example: one sample `1 x ...`.
        runtime: `eager`, `onnxruntime`, `onnxruntime_int8` or `openvino`.
        kernels: further sides of kernels that layers are timed with: for stage tune those of `tune.kernels`.

    Raises:
        ConfigError: the runtime is not installed or cannot run the network, or the file was made otherwise.
    """
    path = Path(path).expanduser()
    table = table_at(path, runtime, device_of(network))
    layers = layers_of(network, example)
    with TemporaryDirectory(prefix="tascnet-table-") as folder:
        measure = Measure(target=runtime)
        clock = Clock(measure, example, network, Path(folder), Path(folder) / "latency.json", table=table)
        milliseconds = clock.reference_ms
    others = [layer for side in kernels for layer in layers_of(_with_kernels(network, side), example)]
    timed = {layer.key: layer for layer in (*layers, *others)}.values()
    table.cover([sized for layer in timed for sized in grid(layer)], interpolate=False)
    table.note_network(layers, milliseconds)
    return table


def _with_kernels(network: nn.Sequential, side: int) -> nn.Sequential:
    """A copy whose convolutions have kernels of this side, where that is possible."""
    changed = copy.deepcopy(network)
    for name in chain.from_iterable(spatial_convs(changed).values()):
        with suppress(SurgeryError):
            changed.set_submodule(name, set_kernel(changed.get_submodule(name), side))  # type: ignore[arg-type]
    return changed


def judged_in(measure: Measure, device: torch.device | str = "cpu") -> str:
    """Where latencies are judged, for identities: the runtime, and which other machine's table.

    Raises:
        ConfigError: `measure.table` cannot be used.
    """
    runtime = target_of(measure, device)
    if measure.table is None:
        return runtime
    return f"{runtime} by table {LayerTable.made_elsewhere(measure.table, runtime).name[:12]}"
