"""The preprocessing of images as an ONNX graph, which computes the pixels that `Preprocessing` does.

Pillow resizes an image in two passes, one along each axis, and rounds each to 0..255. In a pass an output
pixel is the sum of the input pixels below a filter, with weights that are rounded to multiples of 2**-22. The
graph finds these weights for any size of image and applies them by matrix multiplication, for every filter
alike. Each pass works on tiles: a few neighbouring outputs, and the window of inputs that they depend on.
Only what survives the central crop is computed.

Nothing is rounded but what Pillow rounds. A weight is split into `128 * (high + low)` of these multiples,
`high` whole and `low` below one: products with pixels and their sums then need no more than the 24 bits of
float32, and are exact in any order. A runtime without float64 finds a few weights that differ in their last
bit; with the box filter it may also take an input at the edge of a box for one outside it.

Glossary: `n` images, `H`, `W` their sides, `c` channels of the network, `S` side of its square, `t` tiles,
`o` outputs of a tile, `w` inputs of a window.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
from numpy.typing import DTypeLike, NDArray
from PIL import Image

from tascnet.errors import ExportError
from tascnet.models.preprocessing import LONGEST, Preprocessing, channel_mode

if TYPE_CHECKING:
    import onnx

PREFIX = "preprocessing/"
BATCH = "n"
# Outputs of a tile in either pass: more of them are more multiplications by zero, fewer are more operations.
FIRST, SECOND = 14, 16
# Pillow's weights are whole multiples of 2**-22, which are split at 2**7.
WEIGHT_BITS, LOW_BITS = 22, 7
# Of red, green and blue in Pillow's grey, in 2**-16.
GREY = (19_595, 38_470, 7_471)
# The first opset with all operations as they are used here.
OLDEST_OPSET = 13


def with_preprocessing(model: "onnx.ModelProto", preprocessing: Preprocessing) -> "onnx.ModelProto":
    """The model that takes upright RGB pixels, from the one that takes what the preprocessing returns.

    Args:
        model: a network, quantised or not, whose one input `image` is float32 `n x c x S x S`, with its batch
            open and called n.
        preprocessing: of the images that it expects.

    Returns:
        A model whose input `image` is uint8 `n x H x W x 3`: n images of one size, as `preprocessing.decode`
        returns them.

    Raises:
        ConfigError: the preprocessing has neither one nor three channels.
        ExportError: the model takes something else.
    """
    import onnx

    channel_mode(preprocessing.channels)
    _check_input(model, preprocessing)
    joined = onnx.ModelProto()
    joined.CopyFrom(model)
    front = _Graph()
    square = _prepared(_Value(front, "image", np.dtype(np.uint8)), preprocessing)
    for node in joined.graph.node:
        _rename(node, "image", square.name)
    network = list(joined.graph.node)
    del joined.graph.node[:], joined.graph.input[:]
    joined.graph.node.extend([*front.nodes, *network])
    joined.graph.initializer.extend(front.constants.values())
    sides: list[str | int] = [BATCH, "H", "W", 3]
    joined.graph.input.append(onnx.helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, sides))
    return joined


def _check_input(model: "onnx.ModelProto", preprocessing: Preprocessing) -> None:
    import onnx

    expected = [BATCH, *preprocessing.example_shape[1:]]
    found = []
    for value in model.graph.input:
        tensor = value.type.tensor_type
        shape = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
        found.append((value.name, onnx.TensorProto.DataType.Name(tensor.elem_type).lower(), shape))
    if found != [("image", "float", expected)]:
        names = ", ".join(f"{name} {kind} {_shown(shape)}" for name, kind, shape in found)
        raise ExportError(
            f"the model takes {names}, expected image float {_shown(expected)}",
            "give the model of a network of these images, without preprocessing inside",
        )
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < OLDEST_OPSET:
        raise ExportError(f"the model has opset {opset}, expected at least {OLDEST_OPSET}", "export it again")


def _shown(shape: list[Any]) -> str:
    return " x ".join(map(str, shape))


def _rename(node: "onnx.NodeProto", old: str, new: str) -> None:
    """Let a node, and those of its branches, read another value."""
    for position, name in enumerate(node.input):
        if name == old:
            node.input[position] = new
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                _rename(inner, old, new)


def _prepared(image: "_Value", preprocessing: Preprocessing) -> "_Value":
    """Images `n x H x W x 3`, uint8, as a network takes them: `n x c x S x S`."""
    graph, size, channels = image.graph, preprocessing.size, preprocessing.channels
    rows, columns = _axes(image, preprocessing)
    if preprocessing.interpolation == "nearest":
        chosen = graph.op("Gather", image, rows.nearest(size), axis=1)
        levels = _grey_or_rgb(graph.op("Gather", chosen, columns.nearest(size), axis=2), channels)
        square = graph.op("Transpose", levels, perm=[0, 3, 1, 2])
    else:
        square = _resized(image, rows, columns, preprocessing)
    # `normalise` multiplies and adds in one step and rounds once. Equal to the last bit, int8 networks round
    # both alike.
    mean, std = (np.array(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    scale, shift = (values.astype(np.float32).astype(np.float64) for values in (1 / (255 * std), -mean / std))
    shifted = square.cast(np.float64) * graph.constant(scale) + graph.constant(shift)
    return graph.op("Reshape", shifted.cast(np.float32), graph.constant([0, channels, size, size]))


def _axes(image: "_Value", preprocessing: Preprocessing) -> "tuple[_Axis, _Axis]":
    """The rows and the columns."""
    graph, side = image.graph, preprocessing.resize
    shape = graph.op("Shape", image, dtype=np.int64)
    # Vectors of one number: scalars cannot be bounds of a slice.
    whole = [graph.op("Gather", shape, graph.constant([axis])) for axis in (1, 2)]
    # Where the crop that `Preprocessing` makes before training's own one begins.
    inner = round((side - preprocessing.size) / 2.0)
    if preprocessing.crop == "squash":
        none, resized = graph.constant([0]), graph.constant([side])
        rows, columns = (_Axis(edge, resized, none, graph.constant([inner])) for edge in whole)
        return rows, columns
    # As `Preprocessing`: the strip is cut, the shorter side becomes `resize`, the longer one is truncated.
    edges = [graph.op("Min", edge, graph.op("Min", *whole) * LONGEST) for edge in whole]
    short = graph.op("Min", *edges)
    axes = []
    for uncut, edge in zip(whole, edges, strict=True):
        resized = edge * side / short
        # Half to even, as Python rounds.
        margin = graph.op("Round", (resized - side).cast(np.float32) * 0.5).cast(np.int64)
        axes.append(_Axis(edge, resized, (uncut - edge) / 2, margin + inner))
    return axes[0], axes[1]


def _resized(image: "_Value", rows: "_Axis", columns: "_Axis", preprocessing: Preprocessing) -> "_Value":
    """The central squares `n x c x S x S`, float32, of whole values in 0..255."""
    graph = image.graph

    def columns_first(inner: "_Graph") -> "_Value":
        return _two_passes(image.within(inner), columns.within(inner), rows.within(inner), preprocessing)

    def rows_first(inner: "_Graph") -> "_Value":
        turned = inner.op("Transpose", image.within(inner), perm=[0, 2, 1, 3])
        square = _two_passes(turned, rows.within(inner), columns.within(inner), preprocessing)
        return inner.op("Transpose", square, perm=[0, 1, 3, 2])

    if not _pillow_chooses():
        return columns_first(graph)
    removed = rows.edge - rows.resized
    shrinks = removed.apply("Greater", 0, np.bool_)
    is_tall = removed.apply("Greater", (columns.edge - columns.resized) * 2, np.bool_)
    shape: list[str | int] = [BATCH, preprocessing.channels, preprocessing.size, preprocessing.size]
    return graph.choose(graph.op("And", shrinks, is_tall), rows_first, columns_first, shape)


@cache
def _pillow_chooses() -> bool:
    """Whether this Pillow resizes the rows first where they lose more than twice what the columns lose; else
    the columns are always first."""
    levels = np.random.default_rng(0).integers(0, 256, (40, 8), dtype=np.uint8)
    image, bilinear = Image.fromarray(levels), Image.Resampling.BILINEAR
    rows_first = image.resize((8, 20), bilinear).resize((7, 20), bilinear)
    return image.resize((7, 20), bilinear).tobytes() == rows_first.tobytes()


def _two_passes(
    image: "_Value", first_axis: "_Axis", second_axis: "_Axis", preprocessing: Preprocessing
) -> "_Value":
    """The central squares of images `n x second x first x 3`, resized along the first axis first:
    `n x c x second x first`."""
    graph, size, channels = image.graph, preprocessing.size, preprocessing.channels
    kernel = FILTERS[preprocessing.interpolation]
    first, second = first_axis.tiles(size, FIRST, kernel), second_axis.tiles(size, SECOND, kernel)
    # What the second pass reads, and the bounds `t x 2` of what each tile of the first one does.
    top, rows = second.starts.item(0), second.starts.item(second.count - 1) + second.window
    lefts = (first_axis.skipped + first.starts).column()
    starts, ends = (
        graph.op("Concat", graph.op("Expand", row.column(), graph.constant([first.count, 1])), column, axis=1)
        for row, column in (
            (second_axis.skipped + top, lefts),
            (second_axis.skipped + rows, lefts + first.window),
        )
    )
    weights, parts = _by_channel(first, channels), []
    image = graph.op("Unsqueeze", image, graph.constant([1]))
    for tile in range(first.count):
        number = graph.constant(np.int64(tile))
        bounds = (graph.op("Gather", bound, number) for bound in (starts, ends))
        window = graph.op("Slice", image, *bounds, graph.constant([2, 3]))
        levels = graph.op("Reshape", _grey_or_rgb(window, channels), graph.constant([0, 0, 0, -1]))
        parts.append(graph.op("MatMul", levels, graph.op("Gather", weights, number)))
    # `n x t x 2 x rows x (c, o)`: whole tiles are copied.
    across = channels * first.outputs
    sums = graph.op("Concat", *parts, axis=1)
    sums = graph.op("Reshape", sums, graph.constant([0, first.count, 2, -1, across]))
    # `n x t of the first x t of the second x w x (c, o of the first)`.
    windows = graph.op("Gather", _levels(sums, 2), second.inputs() - top, axis=2)
    flat = graph.op("Reshape", second.weights, graph.constant([second.count, 2 * second.outputs, -1]))
    sums = graph.op("MatMul", flat, windows)
    sums = graph.op("Reshape", sums, graph.constant([0, 0, second.count, 2, second.outputs, across]))
    height, width = second.count * second.outputs, first.count * first.outputs
    tiled = graph.constant([0, first.count, height, channels, first.outputs])
    square = graph.op("Transpose", graph.op("Reshape", _levels(sums, 3), tiled), perm=[0, 3, 2, 1, 4])
    square = graph.op("Reshape", square, graph.constant([0, channels, height, width]))
    if (height, width) == (size, size):
        return square
    return graph.op(
        "Slice", square, graph.constant([0, 0]), graph.constant([size, size]), graph.constant([2, 3])
    )


def _by_channel(tiles: "_Tiles", channels: int) -> "_Value":
    """The weights for rows of pixels: `t x 2 x (w, c) x (c, o)`; zero between different channels."""
    graph, columns = tiles.weights.graph, channels * tiles.outputs
    turned = graph.op("Transpose", tiles.weights, perm=[0, 1, 3, 2])
    spread = graph.op("Unsqueeze", turned, graph.constant([3, 4]))
    joined = spread * graph.constant(np.eye(channels, dtype=np.float32)[:, :, None])
    # In two steps: only one side can be left open.
    rows = graph.op("Reshape", joined, graph.constant([0, 0, 0, channels, columns]))
    return graph.op("Reshape", rows, graph.constant([0, 0, -1, columns]))


def _levels(sums: "_Value", axis: int) -> "_Value":
    """Sums of weighted pixels, high and low ones along an axis, rounded and clipped to 0..255."""
    graph = sums.graph
    high, low = graph.split(sums, axis)
    level = ((high + low.floor()) * 2.0 ** (LOW_BITS - WEIGHT_BITS) + 0.5).floor()
    return graph.op("Clip", level, graph.constant(np.float32(0)), graph.constant(np.float32(255)))


def _grey_or_rgb(pixels: "_Value", channels: int) -> "_Value":
    """Pixels `... x 3`, uint8, as float32; for one channel `... x 1`, grey as Pillow computes it."""
    levels = pixels.cast(np.float32)
    if channels == 3:
        return levels
    graph = pixels.graph
    mixed = graph.op("MatMul", levels, graph.constant(np.array(GREY, dtype=np.float32)[:, None]))
    return (mixed * 2.0**-16 + 0.5).floor()


@dataclass(frozen=True, kw_only=True)
class _Tiles:
    """An axis in tiles.

    Args:
        count: `t`.
        outputs: `o`.
        window: `w`, a vector of one number.
        starts: first input of each window, `t`.
        weights: `t x 2 x o x w`, high and low ones.
    """

    count: int
    outputs: int
    window: "_Value"
    starts: "_Value"
    weights: "_Value"

    def inputs(self) -> "_Value":
        """The inputs of each window, `t x w`."""
        return self.starts.column() + self.starts.graph.count_to(self.window)


@dataclass(frozen=True)
class _Axis:
    """Rows or columns of an image; each a vector of one whole number.

    Args:
        edge: inputs, without what is cut off a thin strip.
        resized: outputs, before the crop.
        skipped: inputs that are cut off before the first one.
        first: the first output that survives the crop.
    """

    edge: "_Value"
    resized: "_Value"
    skipped: "_Value"
    first: "_Value"

    def within(self, graph: "_Graph") -> "_Axis":
        """The same axis in a branch of its graph."""
        return _Axis(*(value.within(graph) for value in (self.edge, self.resized, self.skipped, self.first)))

    def nearest(self, size: int) -> "_Value":
        """The inputs that are the outputs, as Pillow finds them: it adds up a step, with its errors."""
        graph = self.edge.graph
        step = self.edge.cast(np.float64) / self.resized.cast(np.float64)
        is_first = graph.count_to(self.resized).apply("Equal", 0, np.bool_)
        steps = graph.op("Where", is_first, step * 0.5, step, dtype=np.float64)
        places = graph.op("CumSum", steps, graph.constant(np.int64(0)))
        chosen = graph.op("Slice", places, self.first, self.first + size, graph.constant([0]))
        return graph.op("Min", chosen.floor().cast(np.int64), self.edge - 1) + self.skipped

    def tiles(self, size: int, outputs: int, kernel: "_Filter") -> _Tiles:
        """The `size` outputs from the first one, in tiles of about `outputs`; the last may be surplus."""
        graph, edge, resized = self.edge.graph, self.edge, self.resized
        count = max(1, round(size / outputs))
        outputs = math.ceil(size / count)
        # Surplus ones repeat the last output.
        numbers = self.first + graph.constant(np.arange(count * outputs))
        numbers = graph.op("Min", numbers, resized - 1)
        larger = graph.op("Max", edge, resized)
        # Inputs on either side of an output's centre, at least those below its filter.
        reach = larger * math.ceil(kernel.support) / resized + 2
        window = graph.op("Min", edge, edge * (outputs - 1) / resized + reach * 2 + 1)
        centres = (numbers * 2 + 1) * edge / (resized * 2)
        of_tiles = graph.op("Gather", centres, graph.constant(np.arange(count) * outputs))
        starts = graph.op("Min", of_tiles - reach, edge - window).apply("Max", 0)
        # t x 1 x w and t x o x 1.
        inputs = graph.op("Unsqueeze", starts.column() + graph.count_to(window), graph.constant([1]))
        numbers = graph.op("Reshape", numbers, graph.constant([count, outputs, 1]))
        weights = _weights(kernel, inputs, numbers, edge, resized)
        return _Tiles(count=count, outputs=outputs, window=window, starts=starts, weights=weights)


def _weights(
    kernel: "_Filter", inputs: "_Value", outputs: "_Value", edge: "_Value", resized: "_Value"
) -> "_Value":
    """Weights of inputs `t x 1 x w` in outputs `t x o x 1`, as Pillow rounds them: `t x 2 x o x w`."""
    graph = inputs.graph
    raw = kernel.function(kernel.distance(inputs, outputs, edge, resized))
    total = graph.op("ReduceSum", raw, graph.constant([2]))
    scaled = raw / total * 2.0**WEIGHT_BITS
    # Half away from zero.
    rounded = (graph.op("Abs", scaled) + 0.5).floor() * graph.op("Sign", scaled)
    high = graph.op("Round", rounded * 2.0**-LOW_BITS)
    low = rounded * 2.0**-LOW_BITS - high
    parts = [graph.op("Unsqueeze", part.cast(np.float32), graph.constant([1])) for part in (high, low)]
    return graph.op("Concat", *parts, axis=1)


def _exact_distance(inputs: "_Value", outputs: "_Value", edge: "_Value", resized: "_Value") -> "_Value":
    """Distances of inputs from the centre of an output, in units of the filter: of whole numbers, so that
    float32 is enough for them."""
    larger = inputs.graph.op("Max", edge, resized)
    doubled = (inputs * 2 + 1) * resized - (outputs * 2 + 1) * edge
    return doubled.cast(np.float64) / (larger * 2).cast(np.float64)


def _box_distance(inputs: "_Value", outputs: "_Value", edge: "_Value", resized: "_Value") -> "_Value":
    """The same with Pillow's own errors, which decide on which side of a box's edge an input lies.

    Inputs that Pillow leaves out are beyond all filters.
    """
    graph = inputs.graph
    scale = edge.cast(np.float64) / resized.cast(np.float64)
    enlarged = scale.apply("Max", 1.0)
    centre, support = (outputs.cast(np.float64) + 0.5) * scale, enlarged * 0.5
    places = inputs.cast(np.float64)
    distance = (places - centre + 0.5) * (graph.constant(np.array([1.0])) / enlarged)
    first, end = (centre - support + 0.5).floor(), (centre + support + 0.5).floor()
    used = graph.op(
        "And", places.apply("GreaterOrEqual", first, np.bool_), places.apply("Less", end, np.bool_)
    )
    return graph.op("Where", used, distance, graph.constant(np.array([9.0])), dtype=np.float64)


def _box(x: "_Value") -> "_Value":
    above, below = x.apply("Greater", -0.5, np.bool_), x.apply("LessOrEqual", 0.5, np.bool_)
    return x.graph.op("And", above, below).cast(np.float64)


def _bilinear(x: "_Value") -> "_Value":
    return (x.graph.op("Abs", x) * -1.0 + 1.0).apply("Max", 0.0)


def _hamming(x: "_Value") -> "_Value":
    # Pillow has these two numbers in float32.
    window = x.graph.op("Cos", x * math.pi) * float(np.float32(0.46)) + float(np.float32(0.54))
    return _within(x, 1.0, _sinc(x) * window)


def _bicubic(x: "_Value") -> "_Value":
    x, a = x.graph.op("Abs", x), -0.5
    near = (x * (a + 2) - (a + 3)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return x.graph.op("Where", x.apply("Less", 1.0, np.bool_), near, _within(x, 2.0, far), dtype=np.float64)


def _lanczos(x: "_Value") -> "_Value":
    return _within(x, 3.0, _sinc(x) * _sinc(x * (1 / 3)))


def _within(x: "_Value", support: float, values: "_Value") -> "_Value":
    graph = x.graph
    inner = graph.op("Abs", x).apply("Less", support, np.bool_)
    return graph.op("Where", inner, values, graph.constant(np.array(0.0)), dtype=np.float64)


def _sinc(x: "_Value") -> "_Value":
    # Zero would be divided by itself.
    turned = (x.graph.op("Abs", x) * math.pi).apply("Max", 1e-20)
    return x.graph.op("Sin", turned) / turned


@dataclass(frozen=True)
class _Filter:
    """A filter of Pillow's.

    Args:
        function: from distances to weights.
        support: the largest distance with a weight.
        distance: of inputs and outputs.
    """

    function: "Callable[[_Value], _Value]"
    support: float
    distance: "Callable[[_Value, _Value, _Value, _Value], _Value]" = _exact_distance


FILTERS = {
    "box": _Filter(_box, 0.5, _box_distance),
    "bilinear": _Filter(_bilinear, 1),
    "hamming": _Filter(_hamming, 1),
    "bicubic": _Filter(_bicubic, 2),
    "lanczos": _Filter(_lanczos, 3),
}

_Number: TypeAlias = Union["_Value", int, float]


@dataclass(frozen=True, eq=False)
class _Value:
    """A value of a graph, with the arithmetic of its type; of whole numbers `/` gives the quotient."""

    graph: "_Graph"
    name: str
    dtype: np.dtype[Any]

    def __add__(self, other: _Number) -> "_Value":
        return self.apply("Add", other)

    def __sub__(self, other: _Number) -> "_Value":
        return self.apply("Sub", other)

    def __mul__(self, other: _Number) -> "_Value":
        return self.apply("Mul", other)

    def __truediv__(self, other: _Number) -> "_Value":
        return self.apply("Div", other)

    def apply(self, kind: str, other: _Number, dtype: DTypeLike | None = None) -> "_Value":
        """An operation on two values of one type, with a result of that type unless another one is given."""
        if not isinstance(other, _Value):
            other = self.graph.constant(np.array(other, dtype=self.dtype))
        return self.graph.op(kind, self, other, dtype=dtype)

    def floor(self) -> "_Value":
        return self.graph.op("Floor", self)

    def cast(self, dtype: DTypeLike) -> "_Value":
        import onnx

        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.graph.op("Cast", self, dtype=dtype, to=kind)

    def within(self, graph: "_Graph") -> "_Value":
        """The same value, read in a branch of its graph."""
        return replace(self, graph=graph)

    def item(self, position: int) -> "_Value":
        """A vector of one item of a vector."""
        return self.graph.op("Gather", self, self.graph.constant([position]))

    def column(self) -> "_Value":
        """A vector of `k` items as `k x 1`."""
        return self.graph.op("Unsqueeze", self, self.graph.constant([1]))


@dataclass(frozen=True, eq=False)
class _Graph:
    """A graph under construction: operations in order, and constants by their bytes, type and shape."""

    nodes: "list[onnx.NodeProto]" = field(default_factory=list)
    constants: "dict[tuple[bytes, str, tuple[int, ...]], onnx.TensorProto]" = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=count)

    def op(self, kind: str, *inputs: _Value, dtype: DTypeLike | None = None, **attributes: Any) -> _Value:
        """The output of an operation, of the type of its first input unless another one is given."""
        return next(self._outputs(kind, inputs, 1, dtype, attributes))

    def split(self, value: _Value, axis: int) -> tuple[_Value, _Value]:
        """The two items of an axis of two; the axis is lost."""
        ones = self.constant([1, 1])
        first, second = self._outputs("Split", (value, ones), 2, None, {"axis": axis})
        axes = self.constant([axis])
        return self.op("Squeeze", first, axes), self.op("Squeeze", second, axes)

    def choose(
        self,
        condition: _Value,
        then: "Callable[[_Graph], _Value]",
        other: "Callable[[_Graph], _Value]",
        shape: list[str | int],
    ) -> _Value:
        """What one of two branches makes, of this shape; each adds its operations to a graph of its own."""
        import onnx

        branches, values = [], []
        for make in (then, other):
            inner = replace(self, nodes=[])
            values.append(make(inner))
            kind = onnx.helper.np_dtype_to_tensor_dtype(values[-1].dtype)
            output = onnx.helper.make_tensor_value_info(values[-1].name, kind, shape)
            branches.append(onnx.helper.make_graph(inner.nodes, f"{PREFIX}branch", [], [output]))
        return self.op(
            "If", condition, dtype=values[0].dtype, then_branch=branches[0], else_branch=branches[1]
        )

    def constant(self, content: "NDArray[Any] | np.generic | list[int]") -> _Value:
        import onnx

        array = np.asarray(content)
        key = (array.tobytes(), str(array.dtype), array.shape)
        if key not in self.constants:
            name = f"{PREFIX}constant_{len(self.constants)}"
            self.constants[key] = onnx.numpy_helper.from_array(array, name)
        return _Value(self, self.constants[key].name, array.dtype)

    def count_to(self, end: _Value) -> _Value:
        """The whole numbers below `end`, a vector of one."""
        stop = self.op("Squeeze", end, self.constant([0]))
        return self.op("Range", self.constant(np.int64(0)), stop, self.constant(np.int64(1)))

    def _outputs(
        self,
        kind: str,
        inputs: tuple[_Value, ...],
        count: int,
        dtype: DTypeLike | None,
        attributes: dict[str, Any],
    ) -> Iterator[_Value]:
        import onnx

        number = next(self.numbers)
        names = [f"{PREFIX}{kind}_{number}" + (f"_{place}" if place else "") for place in range(count)]
        node = onnx.helper.make_node(kind, [value.name for value in inputs], names, names[0], **attributes)
        self.nodes.append(node)
        found = inputs[0].dtype if dtype is None else np.dtype(dtype)
        return iter([_Value(self, name, found) for name in names])
