"""Blocks that are wired by steps: what they compute, what is refused, and their JSON."""

import copy
import json
import pickle
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tascnet.errors import SurgeryError
from tascnet.models.graph import OPERATIONS, Graph, Step, Value, check_steps, decode_step, encode_step

X = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))


def values(*numbers: int) -> tuple[Value, ...]:
    return tuple(map(Value, numbers))


def run(*steps: tuple[Any, ...], x: Tensor = X) -> Tensor:
    """The output of steps without layers: `(operation, *arguments)` each."""
    return Graph({}, [Step(operation, tuple(arguments)) for operation, *arguments in steps])(x)


def squeezed() -> Graph:
    """Squeeze-and-excitation beside a scaled shortcut."""
    layers = {"reduce": nn.Conv2d(4, 2, 1), "expand": nn.Conv2d(2, 4, 1), "act": nn.Sigmoid()}
    weights = {"gamma": nn.Parameter(torch.full((4, 1, 1), 0.5)), "offset": torch.ones(())}
    steps = [
        Step("mean", (Value(0), (2, 3), True)),
        Step("layer", ("reduce", Value(1))),
        Step("layer", ("expand", Value(2))),
        Step("layer", ("act", Value(3))),
        Step("mul", values(0, 4)),
        Step("weight", ("gamma",)),
        Step("mul", values(5, 6)),
        Step("weight", ("offset",)),
        Step("add", values(7, 8)),
    ]
    return Graph(layers, steps, weights)


def expected(block: Graph, x: Tensor) -> Tensor:
    gate = torch.sigmoid(block.expand(block.reduce(x.mean((2, 3), keepdim=True))))
    return x * gate * 0.5 + 1


def test_it_computes_what_the_steps_say() -> None:
    block = squeezed()
    assert torch.equal(block(X), expected(block, X))
    assert list(block.state_dict()) == [
        *("gamma", "offset", "reduce.weight", "reduce.bias", "expand.weight", "expand.bias"),
    ]


@pytest.mark.parametrize(
    ("steps", "result"),
    [
        ([("chunk", Value(0), 2, 1), ("getitem", Value(1), 1)], X[:, 2:]),
        ([("chunk", Value(0), 4, 1), ("getitem", Value(1), slice(1, 3)), ("cat", Value(2), 1)], X[:, 1:3]),
        ([("split", Value(0), (1, 3), 1), ("getitem", Value(1), -1)], X[:, 1:]),
        ([("unbind", Value(0), 1), ("stack", Value(1), 1)], X),
        ([("cat", values(0, 0), 1)], torch.cat([X, X], 1)),
        ([("getitem", Value(0), (Ellipsis, slice(None, None, 2), None, 0))], X[..., ::2, None, 0]),
        (
            [
                ("shape", Value(0)),
                ("getitem", Value(1), 1),
                ("floordiv", Value(2), 2),
                ("getitem", Value(0), (slice(None), slice(Value(3), None))),
            ],
            X[:, 2:],
        ),
        (
            [
                *(("shape", Value(0)), ("getitem", Value(1), 0), ("getitem", Value(1), slice(1, None))),
                *(("getitem", Value(3), 0), ("sub_int", Value(4), 2), ("add_int", Value(5), -1)),
                *(("mul_int", Value(6), 4), ("reshape", Value(0), (Value(2), Value(7), -1))),
            ],
            X.reshape(2, 4, -1),
        ),
        ([("shape", Value(0)), ("getitem", Value(1), 1), ("mul", Value(0), Value(2))], X * 4),
        ([("sub", 1, Value(0)), ("div", Value(1), 2.0), ("pow", Value(2), 2)], ((1 - X) / 2) ** 2),
        ([("clamp", Value(0), None, 0.5), ("maximum", *values(0, 1))], torch.maximum(X, X.clamp(None, 0.5))),
        (
            [("transpose", Value(0), 2, 3), ("contiguous", Value(1)), ("matmul", *values(0, 2))],
            X @ X.mT.contiguous(),
        ),
        ([("attention", *values(0, 0, 0))], F.scaled_dot_product_attention(X, X, X)),
        ([("softmax", Value(0), 1), ("sum", Value(1), (1,), False)], X.softmax(1).sum(1)),
        (
            [("amax", Value(0), (2, 3), True), ("expand", Value(1), (-1, -1, 2, 2))],
            X.amax((2, 3))[..., None, None].expand(2, 4, 2, 2),
        ),
        ([("flatten", Value(0), 1, -1), ("unsqueeze", Value(1), 1), ("squeeze", Value(2), 1)], X.flatten(1)),
        ([("permute", Value(0), (0, 2, 3, 1))], X.permute(0, 2, 3, 1)),
        ([("pad", Value(0), (1, 2), "constant", -1.0)], F.pad(X, (1, 2), value=-1.0)),
        ([("pad", Value(0), (1, 2, 0, 1), "reflect", 0.0)], F.pad(X, (1, 2, 0, 1), "reflect")),
        (
            [("interpolate", Value(0), None, 2.0, "nearest", None)],
            F.interpolate(X, scale_factor=2.0),
        ),
        (
            [
                *(("shape", Value(0)), ("getitem", Value(1), slice(-2, None))),
                *(("getitem", Value(0), (Ellipsis, slice(None, 3), slice(None, 2))),),
                ("interpolate", Value(3), Value(2), None, "bilinear", False),
            ],
            F.interpolate(X[..., :3, :2], (6, 6), mode="bilinear", align_corners=False),
        ),
    ],
)
def test_each_operation_is_torchs(steps: list[tuple[Any, ...]], result: Tensor) -> None:
    assert torch.equal(run(*steps), result)


def test_the_last_value_may_be_one_that_a_layer_gives_and_a_layer_may_run_twice() -> None:
    layer = nn.Conv2d(4, 4, 1)
    block = Graph({"conv": layer}, [Step("layer", ("conv", Value(0))), Step("layer", ("conv", Value(1)))])
    assert torch.equal(block(X), layer(layer(X)))
    assert torch.equal(Graph({}, [])(X), X)


def test_values_are_freed_after_their_last_use() -> None:
    alive: list[weakref.ref[Tensor]] = []

    class Watch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            result = x + 1
            count.append(sum(each() is not None for each in alive))
            alive.append(weakref.ref(result))
            return result

    count: list[int] = []
    steps = [Step("layer", ("watch", Value(number))) for number in (0, 1, 2, 3, 0)]
    Graph({"watch": Watch()}, [*steps, Step("add", values(4, 5))])(X.clone())
    # Of the results of earlier steps, the fourth alone is read by a later one.
    assert count == [0, 1, 1, 1, 1]


def test_it_is_copied_pickled_moved_and_trained_as_any_module() -> None:
    block = squeezed()
    for again in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert again.steps == block.steps
        assert torch.equal(again(X), block(X))
        again.gamma.data.zero_()
    assert torch.equal(block(X), expected(block, X))
    last = copy.deepcopy(block).to(memory_format=torch.channels_last)
    assert last(X.to(memory_format=torch.channels_last)).is_contiguous(memory_format=torch.channels_last)
    assert block.half().offset.dtype == torch.float16
    assert not block.eval().act.training
    block.float().train()(X).sum().backward()
    assert block.gamma.grad is not None
    assert block.load_state_dict(block.state_dict(), assign=True)


def test_other_steps_are_taken_whole_or_not_at_all() -> None:
    block = squeezed()
    with pytest.raises(SurgeryError, match="no step uses the layer 'act'"):
        block.set_steps([Step("layer", ("reduce", Value(0)))])
    assert torch.equal(block(X), expected(block, X))
    steps = (*block.steps, Step("mul", (Value(9), 2)))
    block.set_steps(steps)
    assert block.steps == steps
    assert torch.equal(block(X), expected(block, X) * 2)


def test_it_is_shown_with_its_steps() -> None:
    block = Graph({}, [Step("getitem", (Value(0), (slice(None), slice(1, Value(0).number + 3), Ellipsis)))])
    assert repr(block) == "Graph(%1: getitem(%0, (:, 1:3, ...)))"
    assert "%9: add(%7, %8)\n  (reduce)" in repr(squeezed())


WRONG: list[tuple[str, list[Step], str]] = [
    ("unknown", [Step("exec", (Value(0),))], "step 1 (exec) is no operation, expected one of"),
    ("arity", [Step("add", values(0))], "step 1 (add) has 1 arguments, expected 2"),
    ("arity of a layer", [Step("layer", ("conv",))], "step 1 (layer) has 1 arguments, expected 2"),
    ("arity of a weight", [Step("weight", ("gamma", Value(0)))], "has 2 arguments, expected 1"),
    (
        "forward",
        [Step("add", values(0, 2)), Step("add", values(0, 1))],
        "has %2 as argument, expected an earlier",
    ),
    ("cycle", [Step("contiguous", values(1))], "has %1 as argument, expected an earlier tensor"),
    ("negative", [Step("contiguous", values(-1))], "has %-1 as argument"),
    ("unknown layer", [Step("layer", ("other", Value(0)))], "uses the layer 'other', which does not exist"),
    ("unknown weight", [Step("weight", ("conv",))], "uses the weight 'conv', which does not exist"),
    ("value as name", [Step("layer", (Value(0), Value(0)))], "uses the layer %0, which does not exist"),
    ("number for a tensor", [Step("layer", ("conv", 1))], "has 1 as argument, expected an earlier tensor"),
    (
        "several for one",
        [Step("shape", values(0)), Step("contiguous", values(1))],
        "expected an earlier tensor",
    ),
    ("no tensor", [Step("add", (1, 2))], "has no tensor among its arguments"),
    ("bool as int", [Step("softmax", (Value(0), True))], "has True as argument, expected a whole number"),
    ("float as int", [Step("softmax", (Value(0), 1.0))], "expected a whole number"),
    ("int as bool", [Step("mean", (Value(0), (1,), 1))], "has 1 as argument, expected true or false"),
    ("int as ints", [Step("mean", (Value(0), 1, True))], "expected whole numbers"),
    ("no ints", [Step("reshape", (Value(0), ()))], "has () as argument, expected whole numbers"),
    ("many ints", [Step("reshape", (Value(0), (1,) * 65))], "expected whole numbers"),
    ("many tensors", [Step("cat", (values(*[0] * 65), 1))], "expected earlier tensors"),
    ("large int", [Step("softmax", (Value(0), 2**20 + 1))], "expected a whole number"),
    ("large float", [Step("pow", (Value(0), 1e7))], "expected a number"),
    ("infinite", [Step("mul", (Value(0), float("inf")))], "expected an earlier tensor or a number"),
    ("not a number", [Step("mul", (Value(0), float("nan")))], "expected an earlier tensor or a number"),
    ("text as number", [Step("mul", (Value(0), "a" * 999))], "aaa... as argument, expected"),
    ("other mode", [Step("pad", (Value(0), (1, 1), "nearest", 0.0))], "expected a mode of this operation"),
    ("null", [Step("softmax", (Value(0), None))], "expected a whole number"),
    ("many axes", [Step("getitem", (Value(0), (0,) * 9))], "expected an index"),
    ("nested", [Step("getitem", (Value(0), ((0,),)))], "expected an index"),
    ("tensor as index", [Step("getitem", values(0, 0))], "expected an index"),
    ("bool as index", [Step("getitem", (Value(0), True))], "expected an index"),
    ("float in slice", [Step("getitem", (Value(0), slice(0.5, None)))], "expected an index"),
    ("axes of several", [Step("shape", values(0)), Step("getitem", (Value(1), (0,)))], "expected an index"),
    ("null of several", [Step("shape", values(0)), Step("getitem", (Value(1), None))], "expected an index"),
    (
        "item of a number",
        [Step("shape", values(0)), Step("getitem", (Value(1), 0)), Step("getitem", (Value(2), 0))],
        "expected an earlier value that has items",
    ),
    (
        "computed index of several",
        [Step("shape", values(0)), Step("getitem", (Value(1), 0)), Step("getitem", values(1, 2))],
        "expected an index",
    ),
]


@pytest.mark.parametrize(("steps", "words"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_wrong_steps_are_refused(steps: list[Step], words: str) -> None:
    used = [Step("layer", ("conv", Value(0))), Step("weight", ("gamma",))]
    with pytest.raises(SurgeryError) as caught:
        Graph({"conv": nn.Conv2d(4, 4, 1)}, [*steps, *used], {"gamma": torch.ones(())})
    assert words in str(caught.value)
    assert len(str(caught.value)) < 800


@pytest.mark.parametrize(
    ("step", "words"),
    [(Step("shape", values(0)), "whole numbers"), (Step("unbind", (Value(0), 1)), "earlier tensors")],
)
def test_the_last_step_gives_one_tensor(step: Step, words: str) -> None:
    with pytest.raises(SurgeryError, match=f"the last step gives {words}, expected one tensor"):
        Graph({}, [step])


def test_what_no_step_uses_is_refused() -> None:
    with pytest.raises(SurgeryError, match="no step uses the layer 'a'"):
        Graph({"a": nn.ReLU()}, [])
    with pytest.raises(SurgeryError, match="no step uses the weight 'gamma'"):
        Graph({}, [], {"gamma": torch.ones(1)})


@pytest.mark.parametrize("name", ["", "a.b", "conv", "forward", "training", "steps", "_plan", "own_weights"])
def test_impossible_names_are_refused(name: str) -> None:
    conv, taken = nn.Conv2d(4, 4, 1), rf"impossible name '{name}'"
    steps = [Step("layer", ("conv", Value(0))), Step("weight", (name,)), Step("mul", values(1, 2))]
    with pytest.raises(SurgeryError, match=taken):
        Graph({"conv": conv}, steps, {name: torch.ones(())})
    if name != "conv":
        with pytest.raises(SurgeryError, match=taken):
            Graph({name: conv}, [Step("layer", (name, Value(0)))])


def test_kinds_of_values() -> None:
    steps = [
        *(Step("shape", values(0)), Step("getitem", (Value(1), 0)), Step("unbind", (Value(0), 1))),
        *(Step("getitem", (Value(3), slice(1, None))), Step("getitem", (Value(4), 0))),
    ]
    assert check_steps(steps, {}, set()) == ("tensor", "ints", "int", "tensors", "tensors", "tensor")


def test_whole_numbers_do_not_grow_beyond_64_bits() -> None:
    steps: list[tuple[Any, ...]] = [("shape", Value(0)), ("getitem", Value(1), 1)]
    steps += [("mul_int", Value(number), Value(number)) for number in range(2, 40)]
    with pytest.raises(OverflowError, match="beyond 64 bits"):
        run(*steps, ("mul", Value(0), Value(40)))


def test_it_is_exported_with_an_open_batch() -> None:
    steps = [
        *(Step("shape", values(0)), Step("getitem", (Value(1), 0)), Step("mul_int", (Value(2), 4))),
        *(Step("floordiv", (Value(3), 2)), Step("reshape", (Value(0), (Value(4), 2, 6, 6)))),
        *(Step("reshape", (Value(5), (Value(2), 4, -1, 6))), Step("unbind", (Value(6), 1))),
        *(Step("stack", (Value(7), 1)), Step("chunk", (Value(8), 2, 1)), Step("cat", (Value(9), 1))),
    ]
    chain = nn.Sequential(Graph({}, steps)).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(chain, (X,), dynamic_shapes=({0: batch},)).module()
    five = torch.cat([X, X, X])[:5]
    assert torch.equal(exported(five), chain(five))
    assert torch.equal(chain(five), five)


def test_a_tensor_is_not_taken_apart_into_more_parts_than_any_network_needs() -> None:
    for step in (("chunk", Value(1), 4097, 1), ("unbind", Value(1), 1)):
        with pytest.raises(ValueError, match="a tensor has 4097 parts, expected at most 4096"):
            run(("pad", Value(0), (0, 4093), "constant", 0.0), step, ("cat", Value(2), 0), x=torch.ones(1, 4))


INTS = st.integers(-(2**20), 2**20)
LITERALS = INTS | st.floats(-1e6, 1e6)


def argument(kind: str, kinds: list[str], draw: st.DrawFn, operation: str) -> Any:
    """A random argument of a kind, given the kinds of the earlier values."""
    if kind.endswith("?"):
        return None if draw(st.booleans()) else argument(kind[:-1], kinds, draw, operation)

    def earlier(wanted: str) -> st.SearchStrategy[Any]:
        return st.sampled_from(
            [Value(number) for number, kind in enumerate(kinds) if kind == wanted] or [Value(0)]
        )

    ints = INTS | earlier("int") if "int" in kinds else INTS
    part = st.none() | ints
    axis = ints | st.builds(slice, part, part, part) | st.none() | st.just(Ellipsis)
    match kind:
        case "tensor":
            return draw(earlier("tensor"))
        case "tensors":
            return draw(st.lists(earlier("tensor"), min_size=1, max_size=4).map(tuple))
        case "number":
            return draw(earlier("tensor"))
        case "int":
            return draw(ints)
        case "ints":
            return draw(st.lists(ints, min_size=1, max_size=4).map(tuple))
        case "float":
            return draw(LITERALS)
        case "bool":
            return draw(st.booleans())
        case "mode":
            return "circular" if operation == "pad" else "area"
        case "any":
            return Value(0)
    return draw(axis | st.lists(axis, min_size=1, max_size=8).map(tuple))


@st.composite
def valid_steps(draw: st.DrawFn) -> list[Step]:
    kinds = ["tensor", "ints", "int"]
    steps = [Step("shape", (Value(0),)), Step("getitem", (Value(1), 0))]
    for _ in range(draw(st.integers(0, 6))):
        operation = draw(st.sampled_from(sorted(OPERATIONS)))
        found = OPERATIONS[operation]
        steps.append(Step(operation, tuple(argument(kind, kinds, draw, operation) for kind in found.takes)))
        kinds.append(found.gives or "tensor")
    name = draw(st.text(min_size=1, max_size=4))
    return [*steps, Step("layer", (name, Value(0)))]


@given(steps=valid_steps())
def test_steps_survive_json(steps: list[Step]) -> None:
    name = str(steps[-1].arguments[0])
    kinds = check_steps(steps, {name: None}, set())
    again = [decode_step(content) for content in json.loads(json.dumps(list(map(encode_step, steps))))]
    assert again == steps
    # Equality takes 1, 1.0 and True for one another.
    assert repr(again) == repr(steps)
    assert check_steps(again, {name: None}, set()) == kinds


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("%01:.-a", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=6,
)


@given(contents=st.lists(st.tuples(st.sampled_from([*OPERATIONS, "layer", "weight", "x"]), JSON, JSON)))
def test_any_steps_from_a_stranger_are_read_or_refused(contents: list[tuple[Any, ...]]) -> None:
    message = ""
    try:
        steps = [decode_step(list(content)) for content in contents]
        check_steps(steps, {}, set())
        assert [encode_step(step) for step in steps] == [list(content) for content in contents]
    except SurgeryError as error:
        message = str(error)
    assert "\n" not in message


@pytest.mark.parametrize("content", [None, {}, [], "add", [1], [["add"]], ["add", {}], ["add", [["%0"]]]])
def test_what_is_no_step_is_refused(content: Any) -> None:
    with pytest.raises(SurgeryError, match=r"is no (step|argument of a step)"):
        decode_step(content)


@pytest.mark.parametrize("text", ["%01", "%-1", "%", "% 1", "%٣", "01:", "-0:", "1:2:", "1:2:3:4", "a:b"])
def test_values_and_slices_are_written_in_one_way(text: str) -> None:
    assert decode_step(["getitem", "%0", text]).arguments[1] == text
    with pytest.raises(SurgeryError, match="expected an index"):
        check_steps([decode_step(["getitem", "%0", text])], {}, set())
