"""Tables of layers: sizes in between, and tables of other machines."""

import copy
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tascnet.errors import ConfigError
from tascnet.exporting.layers import EMPTY, Layer, layers_of, named_layers
from tascnet.measure import Clock, WidthCosts, WidthTimes, judged_in
from tascnet.measure.table import FACTS, LayerTable, UnknownLayer, grid, knots, table_facts
from tascnet.options import Measure
from tascnet.surgery import Trace, narrow, width_groups
from tascnet.surgery.layers import set_kernel
from tests.measure.test_clock import EXAMPLE, by_weights, network
from tests.models.toys import EXAMPLE as IMAGE
from tests.models.toys import TOYS
from tests.surgery.networks import NETWORKS

# A linear layer that runs for each channel, as in tests/measure/test_widths.py.
BY_CHANNEL = ("context", "literal_sizes")
MAKERS = TOYS | {name: one.make for name, one in NETWORKS.items() if name not in BY_CHANNEL}


def linear(inputs: int, outputs: int) -> Layer:
    return Layer(inputs=(1, inputs), outputs=(1, outputs), weights=(outputs, inputs))


@pytest.mark.parametrize("name", MAKERS)
def test_resized_layers_are_those_of_the_narrowed_network(name: str) -> None:
    chain = MAKERS[name]()
    trace = Trace(chain, IMAGE)
    groups = width_groups(chain, trace)
    costs = WidthCosts(chain, IMAGE, groups)
    times = WidthTimes(layers=named_layers(chain, IMAGE), lost=costs.lost, times=lambda _: [])
    removed = {group.name: group.width // 2 for group in groups}
    cut = copy.deepcopy(chain)
    narrow(cut, trace, {g.name: range(g.width - removed[g.name]) for g in groups})
    resized = Counter(times.sized(own, layer, removed).key for own, layer in times.layers)
    assert resized == Counter(layer.key for layer in layers_of(cut, IMAGE))
    assert sum(map(len, times.by_groups().values())) == len(times.layers)


def test_a_size_in_between_is_interpolated_in_both(tmp_path: Path) -> None:
    timed: list[Layer] = []

    def timer(layers: list[Layer]) -> list[float]:
        timed.extend(layers)
        # The product of both sizes: linear in each of them.
        return [0.0 if layer == EMPTY else math.prod(layer.weights) for layer in layers]

    table = LayerTable(tmp_path / "table.json", timer)
    table.cover([linear(i, o) for i in (8, 16) for o in (10, 30)])
    count = len(timed)
    assert table.times([linear(10, 15), linear(8, 30)], interpolate=True) == [150, 240]
    assert len(timed) == count
    # Nothing is known on one side.
    assert table.times([linear(20, 30)], interpolate=True) == [600]
    assert timed[count:] == [linear(20, 30)]


def test_knots_by_hand() -> None:
    assert knots(96) == [16, 24, 48, 72, 96]
    assert knots(20) == [8, 16, 20]
    assert knots(4) == [1, 4]
    depthwise = Layer(inputs=(1, 32, 8, 8), outputs=(1, 32, 8, 8), weights=(32, 1, 3, 3), groups=32)
    assert [one.groups for one in grid(depthwise)] == [8, 16, 24, 32]
    assert [one.size for one in grid(linear(16, 5), True, False)] == [(8, 5), (16, 5)]


def foreign(path: Path, **facts: object) -> Path:
    """A table of the network that another machine made, with a factor of two."""
    own = {**table_facts("onnxruntime"), "machine": "a board", "threads": 4, **facts}
    table = LayerTable(path, by_weights, own)
    layers = layers_of(network(16), EXAMPLE)
    table.cover([sized for layer in layers for sized in grid(layer)], interpolate=False)
    table.note_network(layers, 2 * table.sum(layers))
    return path


def test_latencies_are_those_of_another_machine(tmp_path: Path, monkeypatch, caplog) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(Clock, "_timed", lambda *_: pytest.fail("something was measured here"))
    path, whole = foreign(tmp_path / "board.json"), network(16)
    measure = Measure(target="onnxruntime", table=str(path))
    clock = Clock(measure, EXAMPLE, whole, tmp_path, tmp_path / "latency.json")
    # Twice what the layers of 27 x 16 and 16 x 2 weights take, and of ones half as wide.
    assert clock.reference_ms == pytest.approx(2 * 0.01 * (27 * 16 + 16 * 2))
    half = network(8)
    assert clock.times({"": half})[""] == pytest.approx(clock.reference_ms / 2)
    assert clock.exact(half) == clock.confirmed(half, lambda _: True) == clock.times({"": half})[""]
    assert "a board with 4 threads" in caplog.text
    trace = Trace(whole, EXAMPLE)
    costs = WidthCosts(whole, EXAMPLE, trace.groups)
    assert clock.width_times(whole, costs)({trace.groups[0].name: 8}) == pytest.approx(
        clock.times({"": half})[""]
    )


def test_tables_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    path = foreign(tmp_path / "board.json")
    with pytest.raises(ConfigError, match=r"in onnxruntime, but latency is judged in openvino"):
        LayerTable.made_elsewhere(path, "openvino")
    with pytest.raises(ConfigError, match=r"is no table of layers"):
        LayerTable.made_elsewhere(tmp_path / "none.json", "onnxruntime")
    damaged = tmp_path / "damaged.json"
    damaged.write_text(path.read_text().replace("a board", "another"))
    with pytest.raises(ConfigError, match=r"is no table of layers"):
        LayerTable.made_elsewhere(damaged, "onnxruntime")
    table = LayerTable.made_elsewhere(path, "onnxruntime")
    with pytest.raises(ConfigError, match=r"no time for a layer of 7 inputs and 3 outputs"):
        table.times([replace(linear(7, 3), inputs=(5, 7), outputs=(5, 3))])
    with pytest.raises(ConfigError, match="needs `target`"):
        Measure(table=str(path))


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = foreign(tmp_path / "board.json")
    assert LayerTable.made_elsewhere("~/board.json", "onnxruntime").name == (
        LayerTable.made_elsewhere(path, "onnxruntime").name
    )


def test_identities_hold_the_table(tmp_path: Path) -> None:
    one, other = (foreign(tmp_path / f"{name}.json", machine=name) for name in ("one", "other"))
    found = [judged_in(Measure(target="onnxruntime", table=str(path))) for path in (one, one, other)]
    assert found[0] == found[1] != found[2]
    assert judged_in(Measure(target="eager")) == "eager"
    assert set(FACTS) == set(table_facts("eager"))


def test_the_table_of_a_network_is_made(tmp_path: Path, monkeypatch) -> None:
    import tascnet.measure.table
    from tascnet.measure import make_table

    monkeypatch.setattr(tascnet.measure.table, "time_layers", lambda layers, **_: by_weights(layers))
    timed = SimpleNamespace(median_ms=7.0, spread_ms=(7.0, 7.0))
    monkeypatch.setattr(Clock, "_timed", lambda *_: {"": timed})
    path, whole = tmp_path / "own.json", network(16)
    make_table(path, whole, torch.zeros_like(EXAMPLE), runtime="eager")
    layers = layers_of(whole, EXAMPLE)
    read = LayerTable.made_elsewhere(path, "eager")
    assert read.factor(layers) * read.sum(layers) == pytest.approx(7.0)
    assert read.facts == table_facts("eager")
    wide = copy.deepcopy(whole)
    wide[0] = set_kernel(whole[0], 5)
    with pytest.raises(UnknownLayer, match=r"has no time for a layer .* with the sides of kernels"):
        read.sum(layers_of(wide, EXAMPLE))
    make_table(path, whole, torch.zeros_like(EXAMPLE), runtime="eager", kernels=(3, 5))
    again = LayerTable.made_elsewhere(path, "eager")
    assert again.sum(layers_of(wide, EXAMPLE)) > again.sum(layers) == read.sum(layers)
    other = LayerTable(tmp_path / "other.json", by_weights, {**read.facts, "machine": "a board"})
    other.cover(layers)
    with pytest.raises(ConfigError, match="give another file"):
        make_table(tmp_path / "other.json", whole, EXAMPLE, runtime="eager")


def test_layers_in_eager_pytorch_are_timed() -> None:
    from tascnet.measure.table import time_layers

    chain = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(2), nn.Conv1d(4, 4, 2, groups=4), nn.Flatten())
    layers = layers_of(nn.Sequential(*chain, nn.Linear(4 * 3, 2)), torch.zeros(1, 2, 4, 4))
    assert len(layers) == 3
    assert all(0 < ms < 1000 for ms in time_layers([EMPTY, *layers], "eager", 1))
