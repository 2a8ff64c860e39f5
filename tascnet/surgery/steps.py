"""What the steps of a `Graph` do to labels, and how steps that count channels change with a cut."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from tascnet.models.graph import Step, Value
from tascnet.surgery.flows import Flow, Labels, compressed, filled, joined, reshaped, varying, with_dimensions
from tascnet.surgery.notes import Count, Notes, Site


@dataclass(frozen=True)
class StepPlace:
    """Step number `number` of the block `graph`."""

    graph: str
    number: int
    step: Step

    @property
    def name(self) -> str:
        return f"{self.graph}#{self.number}"


# Operations of two tensors value by value, with broadcasting.
COMBINING = ("add", "sub", "mul", "div", "maximum")

# From the notes, a step, its arguments with flows in place of values and its result to the result's labels.
Handler: TypeAlias = Callable[[Notes, StepPlace, Sequence[Any], Any], Any]


def labels_after(notes: Notes, place: StepPlace, arguments: Sequence[Any], result: Any) -> Any:
    """The labels of the result of a step, a tensor or a tuple of them.

    Args:
        arguments: of the step, with flows in place of values.
        result: on the meta device.
    """
    return _HANDLERS.get(place.step.operation, _unknown)(notes, place, arguments, result)


def resolved(argument: Any, values: Sequence[Any]) -> Any:
    """An argument of a step with the values that it refers to."""
    if isinstance(argument, Value):
        return values[argument.number]
    if isinstance(argument, tuple):
        return tuple(resolved(item, values) for item in argument)
    if isinstance(argument, slice):
        return slice(*resolved((argument.start, argument.stop, argument.step), values))
    return argument


def without_labels(argument: Any) -> Any:
    """The tensors of flows."""
    if isinstance(argument, Flow):
        return argument.value
    return tuple(map(without_labels, argument)) if isinstance(argument, tuple) else argument


def rewritten(step: Step, counts: Sequence[Count], is_kept: Callable[[Labels], Any]) -> Step:
    """A step that counts channels after a cut.

    Args:
        counts: its numbers, with the labels that they count.
        is_kept: by label, whether the cut leaves it.
    """

    def number(count: Count) -> int:
        others = tuple(dim for dim in range(count.labels.ndim) if dim != count.dim)
        return int(is_kept(count.labels).any(axis=others).sum())

    if step.operation == "chunk":
        # The chunks may have different sizes now.
        return Step("split", (step.arguments[0], tuple(map(number, counts)), step.arguments[2]))
    x, sizes, *others = step.arguments
    is_tuple = isinstance(sizes, tuple)
    items: list[Any] = list(sizes) if isinstance(sizes, tuple) else [sizes]
    for count in counts:
        old = items[count.place]
        if count.field == "start":
            items[count.place] = slice(number(count), old.stop, old.step)
        elif count.field == "stop":
            items[count.place] = slice(old.start, number(count), old.step)
        else:
            items[count.place] = number(count)
    return Step(step.operation, (x, tuple(items) if is_tuple else items[0], *others))


def _counts(notes: Notes, labels: Labels, dim: int, place: int, number: Any, field: str = "") -> list[Count]:
    """What a whole number in a step's argument counts: at most one kind of channels."""
    if isinstance(number, Value) and labels.shape[dim] > 1:
        notes.found.computed.append((labels, f"a size is computed in block '{notes.block}'"))
        return []
    is_count = labels.shape[dim] > 1 and number is not None and number != -1
    return [Count(place, labels, dim, field)] if is_count else []


def _combined(notes: Notes, place: StepPlace, arguments: Sequence[Any], result: Tensor) -> Labels:
    return notes.combine([argument for argument in arguments if isinstance(argument, Flow)])


def _same(notes: Notes, place: StepPlace, arguments: Sequence[Any], result: Tensor) -> Labels:
    labels: Labels = arguments[0].labels
    return labels


def _reduced(notes: Notes, place: StepPlace, arguments: Sequence[Any], result: Tensor) -> Labels:
    word = {"mean": "a mean", "sum": "a sum", "amax": "a maximum"}[place.step.operation]
    flow, dims, keepdim = arguments
    return notes.reduced(flow, dims, keepdim, word)


def _softmax(notes: Notes, place: StepPlace, arguments: Sequence[Any], result: Tensor) -> Labels:
    labels: Labels = arguments[0].labels
    notes.mix(f"softmax in block '{notes.block}'", labels, arguments[1] % labels.ndim)
    return labels


def _cat(notes: Notes, place: StepPlace, arguments: Sequence[Any], result: Tensor) -> Labels:
    flows, dim = arguments
    return notes.concatenation(flows, dim).labels


def _stack(notes: Notes, place: StepPlace, arguments: Sequence[Any], result: Tensor) -> Labels:
    flows, dim = arguments[0], arguments[1] % result.ndim
    return joined([np.expand_dims(flow.labels, dim) for flow in flows], [1] * len(flows), dim)


def _parts(
    notes: Notes, place: StepPlace, arguments: Sequence[Any], result: Sequence[Tensor]
) -> list[Labels]:
    """Of `split` and `chunk`."""
    flow, _, dim = arguments
    dim %= flow.labels.ndim
    sizes = [part.shape[dim] for part in result]
    if flow.labels.shape[dim] == 1:
        return [flow.labels] * len(sizes)
    parts: list[Labels] = np.split(flow.labels, list(accumulate(sizes))[:-1], dim)
    counts = [Count(at, part, dim) for at, part in enumerate(parts)]
    given = place.step.arguments[1]
    if any(isinstance(number, Value) for number in (given if isinstance(given, tuple) else (given,))):
        notes.found.computed.append((flow.labels, f"a size is computed in block '{notes.block}'"))
        counts = []
    _note(notes, place, counts, parts)
    return [compressed(part) for part in parts]


def _unbind(
    notes: Notes, place: StepPlace, arguments: Sequence[Any], result: Sequence[Tensor]
) -> list[Labels]:
    flow, dim = arguments
    dim %= flow.labels.ndim
    whole = filled(flow.labels, dim, len(result))
    parts: list[Labels] = [np.asarray(whole.take(at, dim)) for at in range(len(result))]
    if flow.labels.shape[dim] > 1:
        _note(notes, place, [], parts)
    return [compressed(part) for part in parts]


def _item(notes: Notes, place: StepPlace, arguments: Sequence[Any], result: Tensor) -> Labels:
    flow, index = arguments
    written = place.step.arguments[1]
    items = list(index) if isinstance(index, tuple) else [index]
    raw: list[Any] = list(written) if isinstance(written, tuple) else [written]
    labels: Labels = flow.labels
    missing = labels.ndim - sum(item is not None and item is not Ellipsis for item in items)
    dim, counts, parts = 0, [], []
    for place_in_index, (item, number) in enumerate(zip(items, raw, strict=True)):
        if item is None:
            labels, dim = np.expand_dims(labels, dim), dim + 1
        elif item is Ellipsis:
            dim += missing
        else:
            size = flow.value.shape[dim - (labels.ndim - flow.labels.ndim)]
            start, stop, step = (
                item.indices(size) if isinstance(item, slice) else (item % size, item % size + 1, 1)
            )
            if labels.shape[dim] > 1:
                if step != 1:
                    notes.fix(labels, f"channels are sampled in block '{notes.block}'")
                before, inside, after = np.split(labels, [start, max(start, stop)], dim)
                parts += [before, inside, after]
                numbers = {"index": number}
                if isinstance(item, slice):
                    numbers = {"start": number.start, "stop": number.stop}
                for field, own in numbers.items():
                    counted = np.concatenate([before, inside], dim) if field == "stop" else before
                    if isinstance(own, Value):
                        counts += _counts(notes, labels, dim, place_in_index, own)
                    elif own is not None and (own or field == "stop"):
                        counts.append(Count(place_in_index, counted, dim, field))
                labels = labels[(slice(None),) * dim + (slice(start, stop, step),)]
            if isinstance(item, slice):
                dim += 1
            else:
                labels = np.asarray(labels.take(0, dim))
    _note(notes, place, counts, parts)
    return compressed(labels)


def _reshape(notes: Notes, place: StepPlace, arguments: Sequence[Any], result: Tensor) -> Labels:
    labels = reshaped(arguments[0].labels, arguments[0].value.shape, result.shape)
    _note_sizes(notes, place, labels)
    return labels


def _flatten(notes: Notes, place: StepPlace, arguments: Sequence[Any], result: Tensor) -> Labels:
    return reshaped(arguments[0].labels, arguments[0].value.shape, result.shape)


def _expand(notes: Notes, place: StepPlace, arguments: Sequence[Any], result: Tensor) -> Labels:
    labels = with_dimensions(arguments[0].labels, result.ndim)
    _note_sizes(notes, place, labels)
    return labels


def _squeeze(notes: Notes, place: StepPlace, arguments: Sequence[Any], result: Tensor) -> Labels:
    labels: Labels = arguments[0].labels
    return labels if labels.ndim == result.ndim else np.squeeze(labels, arguments[1])


def _unsqueeze(notes: Notes, place: StepPlace, arguments: Sequence[Any], result: Tensor) -> Labels:
    return np.expand_dims(arguments[0].labels, arguments[1])


def _transpose(notes: Notes, place: StepPlace, arguments: Sequence[Any], result: Tensor) -> Labels:
    labels: Labels = arguments[0].labels
    return labels.swapaxes(*arguments[1:])


def _permute(notes: Notes, place: StepPlace, arguments: Sequence[Any], result: Tensor) -> Labels:
    labels: Labels = arguments[0].labels
    return labels.transpose(arguments[1])


def _pad(notes: Notes, place: StepPlace, arguments: Sequence[Any], result: Tensor) -> Labels:
    flow, amounts = arguments[:2]
    padded = {result.ndim - 1 - at // 2 for at, amount in enumerate(amounts) if amount}
    if padded & set(varying(flow.labels)):
        return notes.blocked([flow.labels], result.ndim, "channels are padded")
    labels: Labels = flow.labels
    return labels


def _interpolate(notes: Notes, place: StepPlace, arguments: Sequence[Any], result: Tensor) -> Labels:
    labels: Labels = arguments[0].labels
    if any(dim > 1 for dim in varying(labels)):
        return notes.blocked([labels], result.ndim, "channels are interpolated")
    return labels


def _matmul(notes: Notes, place: StepPlace, arguments: Sequence[Any], result: Tensor) -> Labels:
    """Sums over pixels leave the channels as they are; sums over channels mix them."""
    a, b = arguments
    if min(a.value.ndim, b.value.ndim) > 1:
        over_channels = a.labels.shape[-1] > 1 or b.labels.shape[-2] > 1
        for own, other in ((a, b), (b, a)):
            if not over_channels and varying(own.labels) and not varying(other.labels):
                notes.fix(other.labels, f"is broadcast over channels in block '{notes.block}'")
                return with_dimensions(own.labels, result.ndim)
    return notes.blocked(
        [flow.labels for flow in arguments], result.ndim, "a product of matrices mixes channels"
    )


def _attention(notes: Notes, place: StepPlace, arguments: Sequence[Any], result: Tensor) -> Labels:
    return notes.blocked([flow.labels for flow in arguments], result.ndim, "an attention mixes channels")


def _unknown(notes: Notes, place: StepPlace, arguments: Sequence[Any], result: Any) -> Any:
    flows = [a for a in arguments if isinstance(a, Flow)]
    flows += [a for items in arguments if isinstance(items, tuple) for a in items if isinstance(a, Flow)]
    reason = f"the operation '{place.step.operation}' takes the channels"
    tensors = [result] if isinstance(result, Tensor) else result
    labels = [notes.blocked([flow.labels for flow in flows], tensor.ndim, reason) for tensor in tensors]
    return labels[0] if isinstance(result, Tensor) else labels


def _note_sizes(notes: Notes, place: StepPlace, labels: Labels) -> None:
    """Note the sizes in a step's second argument that count channels."""
    given = place.step.arguments[1]
    sizes = given if isinstance(given, tuple) else (given,) * labels.ndim
    counts = [count for dim, number in enumerate(sizes) for count in _counts(notes, labels, dim, dim, number)]
    _note(notes, place, counts, [])


def _note(notes: Notes, place: StepPlace, counts: Sequence[Count], parts: Sequence[Labels]) -> None:
    """Note the numbers of a step, and the parts of which each keeps a channel."""
    if counts:
        notes.site(Site(place.graph, place.number, tuple(counts)))
    for at, part in enumerate(parts):
        if part.size:
            notes.slot(f"{place.name}[{at}]", "part", part.ravel())


_HANDLERS: Mapping[str, Handler] = {
    **dict.fromkeys(COMBINING, _combined),
    **dict.fromkeys(("pow", "clamp", "contiguous"), _same),
    **dict.fromkeys(("mean", "sum", "amax"), _reduced),
    **dict.fromkeys(("chunk", "split"), _parts),
    "softmax": _softmax,
    "cat": _cat,
    "stack": _stack,
    "unbind": _unbind,
    "getitem": _item,
    "reshape": _reshape,
    "flatten": _flatten,
    "expand": _expand,
    "squeeze": _squeeze,
    "unsqueeze": _unsqueeze,
    "transpose": _transpose,
    "permute": _permute,
    "pad": _pad,
    "interpolate": _interpolate,
    "matmul": _matmul,
    "attention": _attention,
}
