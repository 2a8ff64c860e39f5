"""Tables of how long single layers take in a runtime, timed on this machine or on another one.

Each layer with weights is timed alone, as a model of one layer, and kept. Times of sizes in between are
interpolated. The file of a table names the machine, the runtime and the threads that it was made with: one
device's table can be used on another.
"""

import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch

from tascnet.errors import ConfigError
from tascnet.exporting.layers import EMPTY, Layer, layer_call
from tascnet.measure.machine import describe_device, versions
from tascnet.run.files import digest_json, read_checked, write_checked

log = logging.getLogger("tascnet")

# Layers are timed in rounds, so that a short load of the machine does not meet all passes of one; the least
# time of all passes counts. A round of a slow layer ends early.
ROUNDS, PASSES, ROUND_SECONDS = 4, 6, 0.02
# Models of one layer that are open at once.
OPEN = 16
# What a layer that computes nothing takes is taken off each layer; this much is always left.
LEAST_MS = 0.0005
# Shares of a layer's channels at which it is timed, and the multiple that they are rounded to.
KNOTS, KNOT_MULTIPLE = (0.125, 0.25, 0.5, 0.75, 1.0), 8
# More layers than this are announced before they are timed.
MANY = 100
# What a file says about how it was made.
FACTS = ("runtime", "threads", "machine", "versions")
# Known sizes nearest to one that are looked at for interpolation, on each side.
NEAREST = 8

# Milliseconds of each of some layers.
Timer: TypeAlias = Callable[[Sequence[Layer]], list[float]]


class UnknownLayer(ConfigError):
    """The table of another machine has no time for a kind of layer."""


class LayerTable:
    """Milliseconds of single layers for one sample, kept in a file.

    Args:
        path: of the file.
        timer: times layers that the file lacks; None: it is another machine's, and they are refused.
        facts: machine, runtime and threads, which the file is written with.

    Attributes:
        name: of the file; tables of other machines, threads or packages have other ones.
        facts: those of the file, where it has some.
    """

    def __init__(self, path: Path, timer: Timer | None, facts: Mapping[str, Any] | None = None) -> None:
        self.name, self.facts = path.stem, dict(facts or {})
        self._path, self._timer = path, timer
        self._layers: dict[str, Layer] = {}
        self._times: dict[str, float] = {}
        self._networks: dict[str, tuple[float, float]] = {}
        self._families: dict[str, dict[tuple[int, int], float]] = {}
        self._read()

    @classmethod
    def made_elsewhere(cls, path: str | Path, runtime: str) -> "LayerTable":
        """The table of another machine, in which nothing is timed.

        Raises:
            ConfigError: the file is missing, is no table, or is of another runtime than `runtime`.
        """
        hint = "make it on the device with `tascnet.measure.make_table`, or copy a table from its cache"
        try:
            file = Path(path).expanduser()
            content = read_checked(file)
            table = cls(file, None, {key: content[key] for key in FACTS})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"`table={path}` is no table of layers: {error}", hint) from error
        table.name = digest_json(content)
        if table.facts["runtime"] != runtime:
            raise ConfigError(
                f"`table={path}` has times in {table.facts['runtime']}, but latency is judged in {runtime}",
                f"give `target={table.facts['runtime']}`, or a table made in {runtime}",
            )
        return table

    @property
    def is_foreign(self) -> bool:
        """Whether it is another machine's."""
        return self._timer is None

    def sum(self, layers: Iterable[Layer]) -> float:
        """Milliseconds of all layers together, without what a pass of each alone takes besides."""
        return sum(self.times(list(layers)))

    def times(self, layers: Sequence[Layer], *, interpolate: bool = False) -> list[float]:
        """Milliseconds of each layer, without what a pass of it alone takes besides.

        Args:
            interpolate: between sizes that have been timed, in place of timing further ones.

        Raises:
            UnknownLayer: the table is another machine's and knows too little.
        """
        if not self.is_foreign:
            self.cover(layers, interpolate=interpolate)
        empty = self._times.get(EMPTY.key, 0.0)
        return [max(self._time_of(layer) - empty, LEAST_MS) for layer in layers]

    def cover(self, layers: Collection[Layer], *, interpolate: bool = True) -> None:
        """Time the layers whose times are unknown and, with `interpolate`, do not follow from known ones."""
        assert self._timer is not None

        def lacking() -> dict[str, Layer]:
            unknown = {layer.key: layer for layer in (EMPTY, *layers) if layer.key not in self._times}
            return {
                key: layer
                for key, layer in unknown.items()
                if not (interpolate and self._between(layer) is not None)
            }

        if not lacking():
            return
        # What another run has timed in the meantime.
        self._read()
        if not (new := lacking()):
            return
        if len(new) > MANY:
            log.info("%d sizes of layers are timed, once on this machine", len(new))
        for layer, milliseconds in zip(new.values(), self._timer(list(new.values())), strict=True):
            self._note(layer, milliseconds)
        self._write()

    def factor(self, layers: Sequence[Layer]) -> float:
        """Milliseconds of a network for each of its layers', by those that were noted; 1 without any."""
        own = self._networks.get(_digest(layers))
        if own is not None:
            return own[0] / own[1]
        factors = [measured / summed for measured, summed in self._networks.values()]
        return sum(factors) / len(factors) if factors else 1.0

    def note_network(self, layers: Sequence[Layer], milliseconds: float) -> None:
        """Keep how long a whole network of these layers takes."""
        if not self.is_foreign:
            summed = self.sum(layers)
            self._read()
            self._networks[_digest(layers)] = milliseconds, summed
            self._write()

    def _time_of(self, layer: Layer) -> float:
        """Milliseconds of one pass of the layer alone, from times that are known."""
        found = self._times.get(layer.key)
        found = self._between(layer) if found is None else found
        found = self._beyond(layer) if found is None else found
        if found is None:
            raise UnknownLayer(
                f"`table={self._path}` has no time for a layer of {layer.size[0]} inputs and "
                f"{layer.size[1]} outputs ({layer})",
                "make it from this network, for stage tune with the sides of kernels that are searched: "
                "`tascnet.measure.make_table(path, network, example, kernels=(3, 5))`",
            )
        return found

    def _between(self, layer: Layer) -> float | None:
        """Interpolated linearly in both sizes inside the nearest rectangle of known sizes; None: none is."""
        points = self._families.get(layer.family, {})
        inputs, outputs = layer.size
        if layer.groups > 1:
            points = {(outputs, known): ms for (_, known), ms in points.items()}
            inputs = outputs
        sides = [
            (
                sorted({at[side] for at in points if at[side] <= size}, reverse=True)[:NEAREST],
                sorted({at[side] for at in points if at[side] >= size})[:NEAREST],
            )
            for side, size in enumerate((inputs, outputs))
        ]
        (left, right), (low, high) = sides
        for i in ((a, b) for a in left for b in right):
            for o in ((a, b) for a in low for b in high):
                if all((a, b) in points for a in i for b in o):
                    u, v = _share(inputs, i), _share(outputs, o)
                    near = (1 - v) * points[i[0], o[0]] + v * points[i[0], o[1]]
                    far = (1 - v) * points[i[1], o[0]] + v * points[i[1], o[1]]
                    return (1 - u) * near + u * far
        return None

    def _beyond(self, layer: Layer) -> float | None:
        """In proportion to the weights of the nearest known size of a layer; None: none is of its kind."""
        points = self._families.get(layer.family)
        if not points:
            return None
        wanted = layer.size[0] * layer.size[1]
        size = min(points, key=lambda at: abs(at[0] * at[1] - wanted))
        empty = self._times.get(EMPTY.key, 0.0)
        weights = layer.size[1] / size[1] if layer.groups > 1 else wanted / (size[0] * size[1])
        return empty + (points[size] - empty) * weights

    def _note(self, layer: Layer, milliseconds: float) -> None:
        self._layers[layer.key], self._times[layer.key] = layer, milliseconds
        self._families.setdefault(layer.family, {})[layer.size] = milliseconds

    def _read(self) -> None:
        """Add what the file knows."""
        if not self._path.exists():
            return
        try:
            content = read_checked(self._path)
            for entry in content["layers"]:
                shape: dict[str, Any] = {
                    key: tuple(v) if isinstance(v, list) else v for key, v in entry["layer"].items()
                }
                if not 0 < (milliseconds := float(entry["milliseconds"])) < math.inf:
                    raise ValueError(f"a layer takes {milliseconds} ms")
                self._note(Layer(**shape), milliseconds)
            self._networks |= {key: (float(a), float(b)) for key, (a, b) in content["networks"].items()}
        except (ValueError, KeyError, TypeError) as error:
            if self.is_foreign:
                raise
            log.warning("%s: %s; its layers are timed again", self._path, error)

    def _write(self) -> None:
        layers = [
            {"layer": asdict(layer), "milliseconds": self._times[key]} for key, layer in self._layers.items()
        ]
        write_checked(self._path, {**self.facts, "layers": layers, "networks": self._networks})


def _share(size: int, between: tuple[int, int]) -> float:
    low, high = between
    return (size - low) / (high - low) if high > low else 0.0


def _digest(layers: Iterable[Layer]) -> str:
    return digest_json(sorted(layer.key for layer in layers))


def knots(channels: int) -> list[int]:
    """Numbers of channels at which a layer with `channels` is timed."""
    sizes = {
        round(share * channels / KNOT_MULTIPLE) * KNOT_MULTIPLE if share < 1 else channels for share in KNOTS
    }
    return sorted(size for size in sizes if 0 < size <= channels) if channels >= 16 else [1, channels]


def grid(layer: Layer, inputs: bool = True, outputs: bool = True) -> list[Layer]:
    """Sizes of a layer between which its times are interpolated.

    Args:
        inputs, outputs: whether these change.
    """
    if layer.groups > 1:
        each = layer.weights[0] // layer.groups
        return [layer.resized(0, each * groups) for groups in knots(layer.groups)] if outputs else [layer]
    sides = [knots(n) if varies else [n] for n, varies in zip(layer.size, (inputs, outputs), strict=True)]
    return [layer.resized(i, o) for i in sides[0] for o in sides[1]]


def time_layers(
    layers: Sequence[Layer], runtime: str, threads: int, device: torch.device | str = "cpu"
) -> list[float]:
    """Milliseconds of one pass of each layer alone: the least of a few.

    Args:
        runtime: `eager`, `onnxruntime`, `onnxruntime_int8` or `openvino`.
        threads: CPU threads.
        device: of layers in eager PyTorch.

    Raises:
        ExportError: the runtime cannot run one of them.
    """
    least: list[float] = []
    for start in range(0, len(layers), OPEN):
        calls = [layer_call(layer, runtime, threads, device) for layer in layers[start : start + OPEN]]
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


def table_of(runtime: str, cache: Path, device: torch.device | str = "cpu") -> LayerTable:
    """The table of this machine with torch's number of threads, kept in a folder that runs share."""
    facts = table_facts(runtime, device)
    return LayerTable(cache / "layer-times" / f"{digest_json(facts)}.json", _timer(facts, device), facts)


def table_at(path: Path, runtime: str, device: torch.device | str = "cpu") -> LayerTable:
    """The table of this machine in a file of the user's, with what it knows already.

    Raises:
        ConfigError: the file is no table, or was made on another machine, or otherwise.
    """
    facts = table_facts(runtime, device)
    if path.exists() and (found := LayerTable.made_elsewhere(path, runtime).facts) != facts:
        raise ConfigError(f"{path} was made with {found}, and this is {facts}", "give another file")
    return LayerTable(path, _timer(facts, device), facts)


def _timer(facts: Mapping[str, Any], device: torch.device | str) -> Timer:
    return partial(time_layers, runtime=facts["runtime"], threads=facts["threads"], device=device)


def table_facts(runtime: str, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What times of layers depend on: the runtime, its threads, the machine and the packages."""
    packages, found = ["torch"] if runtime == "eager" else ["onnxruntime", "openvino"], versions()
    return {
        "runtime": runtime,
        "threads": torch.get_num_threads(),
        "machine": describe_device(device).name,
        "versions": {package: found.get(package) for package in packages},
    }
