"""Running a network once and writing down which layers and functions it calls on what.

Every function and method of torch reports to a `TorchFunctionMode`, and every module to hooks. The network
runs as it is, on real tensors: branches on shapes take the way that the input takes, and operations in place
change the tensor that they change. A tensor stands for the last call that made or changed it.

Shapes are read as `Whole`s: whole numbers that remember how they were computed, so that sums and products of
them hold for other batches too. Whatever else Python does with one (a comparison, a `range`) has its value.
"""

import contextlib
import itertools
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from tascnet.errors import ConversionError, first_line
from tascnet.models.conversion.calls import Call, Frame, SourceLine, refused
from tascnet.models.conversion.known import is_leaf
from tascnet.models.inspect import hooked

# Their results depend on what a tensor holds.
_READS_VALUES = {
    *("item", "tolist", "numpy", "equal", "allclose", "is_nonzero"),
    *("__bool__", "__int__", "__float__", "__complex__", "__index__", "__array__", "__contains__"),
}
_DROPOUTS = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"}
# Where code is that no user wrote: torch's, and this package.
_FOLDERS = tuple(os.path.dirname(os.path.abspath(file)) + os.sep for file in (torch.__file__, __file__))


class Whole(int):
    """A whole number that depends on the shape of a tensor."""

    call: Call

    @classmethod
    def of(cls, value: int, call: Call) -> "Whole":
        whole = cls(value)
        whole.call = call
        return whole

    def _with(self, name: str, first: Any, second: Any) -> Any:
        value = getattr(int, f"__{name}__")(int(first), int(second))
        made = Call(
            function=f"{name}_int",
            frame=self.call.frame,
            arguments=tuple(item.call if isinstance(item, Whole) else int(item) for item in (first, second)),
            place=self.call.place,
            value=value,
        )
        return Whole.of(value, made)

    def __add__(self, other: Any) -> Any:
        return self._with("add", self, other) if isinstance(other, int) else NotImplemented

    def __radd__(self, other: Any) -> Any:
        return self._with("add", other, self) if isinstance(other, int) else NotImplemented

    def __sub__(self, other: Any) -> Any:
        return self._with("sub", self, other) if isinstance(other, int) else NotImplemented

    def __rsub__(self, other: Any) -> Any:
        return self._with("sub", other, self) if isinstance(other, int) else NotImplemented

    def __mul__(self, other: Any) -> Any:
        return self._with("mul", self, other) if isinstance(other, int) else NotImplemented

    def __rmul__(self, other: Any) -> Any:
        return self._with("mul", other, self) if isinstance(other, int) else NotImplemented

    def __floordiv__(self, other: Any) -> Any:
        return self._with("floordiv", self, other) if isinstance(other, int) else NotImplemented

    def __rfloordiv__(self, other: Any) -> Any:
        return self._with("floordiv", other, self) if isinstance(other, int) else NotImplemented

    def __neg__(self) -> Any:
        return self._with("mul", self, -1)


def trace(network: nn.Module, inputs: Tensor) -> tuple[list[Call], Call]:
    """The calls of a network in eval mode, in their order, and the one that gives its output.

    Args:
        network: any module that takes one tensor and gives one; not changed.
        inputs: `b x c x h x w`.

    Raises:
        ConversionError: the network does not run on the inputs, does not give one tensor, or does what cannot
            be written down.
    """
    _check_modules(network)
    recorder = _Recorder(network, inputs)
    try:
        with hooked(recorder.hooks(network)), torch.no_grad(), recorder:
            output = network(inputs)
    except ConversionError:
        raise
    except Exception as error:
        place = recorder.place(_users_frames(error))
        sizes = " x ".join(map(str, inputs.shape[1:]))
        raise refused(f"it fails on inputs of {sizes}: {first_line(error)}", place) from error
    if not isinstance(output, Tensor):
        raise ConversionError(
            f"the network cannot be converted, it gives a {type(output).__name__}",
            "expected one tensor `b x n`, a value for each class",
        )
    return recorder.calls, recorder.call_of(output)


def _check_modules(network: nn.Module) -> None:
    for path, module in network.named_modules():
        name = f"{path or 'the network'!r} ({type(module).__name__})"
        if isinstance(module, torch.jit.ScriptModule):
            raise ConversionError(
                f"the network cannot be converted, {name} is compiled by TorchScript",
                "give the original module",
            )
        if is_leaf(module) and (module._forward_hooks or module._forward_pre_hooks):
            raise ConversionError(
                f"the network cannot be converted, {name} has a hook",
                "remove it (torch.nn.utils.remove_weight_norm and the like for those of torch)",
            )


class _Recorder(TorchFunctionMode):
    def __init__(self, network: nn.Module, inputs: Tensor) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._numbers = itertools.count()
        self._frames = [Frame("", next(self._numbers), None)]
        self._classes = {path: type(module).__name__ for path, module in network.named_modules()}
        self._weights = {id(tensor): self._constant(tensor, path) for path, tensor in _tensors(network)}
        # How many layers that are called as a whole are running.
        self._inside = 0
        # The call that made or last changed a tensor, and where a tensor was changed through another one.
        self._made: Any = WeakTensorKeyDictionary()
        self._stale: Any = WeakTensorKeyDictionary()
        self._add(inputs, Call(function="input", frame=self._frames[0], shape=tuple(inputs.shape)))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = list(_tensors_in((args, kwargs)))
        if self._inside or not tensors:
            return func(*args, **kwargs)
        full_name = _name(func)
        name = full_name.strip("_")
        if name in ("shape", "size"):
            return self._size(tensors[0], func(*args, **kwargs), args[1:], kwargs)
        if full_name in _READS_VALUES and any(self.call_of(tensor).varies for tensor in tensors):
            raise refused(
                f"{name}() reads what a tensor holds",
                self.place(),
                "a chain does the same for every input; decide by shapes or options instead",
            )
        if name == "getitem" and isinstance(args[1], list):
            # A list selects values; a tuple has an index for each axis.
            args = (args[0], (args[1],))
        arguments = self._recorded(args)
        keywords = {key: self._recorded(value) for key, value in kwargs.items()}
        versions = [_version(tensor) for tensor in tensors]
        result = func(*args, **kwargs)
        changed = [t for t, version in zip(tensors, versions, strict=True) if _version(t) != version]
        if result is None and not changed:
            return result
        call = self._call(function=name, arguments=arguments, keywords=keywords)
        if changed and (result is not changed[0] or len({id(tensor) for tensor in changed}) > 1):
            if call.varies:
                raise call.refused(
                    f"{name} writes into a tensor", "make a new tensor instead, as torch.cat does"
                )
            return result
        return self._given(result, tensors, changed, call)

    def _given(self, result: Any, tensors: list[Tensor], changed: list[Tensor], call: Call) -> Any:
        """The result of a call, which is remembered as the call's."""
        if isinstance(result, Tensor):
            if not changed and any(result is tensor for tensor in tensors):
                if call.function not in _DROPOUTS:
                    return result
                # In training it is another tensor than its input.
                result = result.view_as(result)
            self._keep(call, result)
            self._add(result, call)
            if changed:
                self._spread(result, call)
        elif isinstance(result, tuple | list) and any(isinstance(item, Tensor) for item in result):
            self._keep(call, result)
            for number, item in enumerate(result):
                if isinstance(item, Tensor):
                    part = self._call(function="part", arguments=(call, number))
                    self._keep(part, item)
                    self._add(item, part)
        return result

    def hooks(self, network: nn.Module) -> Iterator[RemovableHandle]:
        """Hooks on every module of a network that report to this recorder."""
        for path, module in network.named_modules():
            before, after = self._reports(path, module)
            yield module.register_forward_pre_hook(before, with_kwargs=True)
            yield module.register_forward_hook(after, with_kwargs=True)

    def _reports(self, path: str, module: nn.Module) -> tuple[Callable[..., Any], Callable[..., Any]]:
        is_whole = is_leaf(module)
        started: list[tuple[list[Tensor], list[int | None], Call]] = []

        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            with torch._C.DisableTorchFunction():
                if is_whole and not self._inside:
                    started.append(self._started(module, path, args, kwargs))
            self._frames.append(Frame(path, next(self._numbers), self._frames[-1]))
            self._inside += is_whole

        def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            self._frames.pop()
            self._inside -= is_whole
            if not is_whole or self._inside:
                return None
            with torch._C.DisableTorchFunction():
                tensors, versions, call = started.pop()
                if isinstance(module, nn.Identity) and output is tensors[0]:
                    return None
                changed = [t for t, version in zip(tensors, versions, strict=True) if _version(t) != version]
                if not isinstance(output, Tensor):
                    raise call.refused(f"{path} gives a {type(output).__name__}", "expected one tensor")
                if output is tensors[0] and not changed:
                    output = output.view_as(output)
                return self._given(output, tensors, changed, call)

        return before, after

    def _started(
        self, module: nn.Module, path: str, args: Any, kwargs: Any
    ) -> tuple[list[Tensor], list[int | None], Call]:
        """The call of a layer that begins to run, with the tensors that it gets and their versions."""
        tensors = list(_tensors_in((args, kwargs)))
        call = self._call(
            function="layer",
            arguments=tuple(map(self.call_of, tensors)),
            layer=module,
            path=path,
        )
        if len(args) + len(kwargs) != 1 or len(tensors) != 1:
            raise call.refused(f"{path} ({type(module).__name__}) takes other arguments than one tensor")
        return tensors, [_version(tensor) for tensor in tensors], call

    def call_of(self, tensor: Tensor) -> Call:
        """The call that made a tensor, or last changed it.

        Raises:
            ConversionError: its values were changed through another tensor.
        """
        if id(tensor) in self._weights:
            return self._weights[id(tensor)]
        if tensor in self._stale:
            raise refused(
                "a tensor is read after a part of it was changed in place",
                self._stale[tensor],
                "make a new tensor instead of changing one in place",
            )
        if tensor not in self._made:
            same = next((known for known in self._made if _is_same(tensor, known)), None)
            self._made[tensor] = self._made[same] if same is not None else self._constant(tensor)
        made: Call = self._made[tensor]
        return made

    def _constant(self, tensor: Tensor, path: str = "") -> Call:
        if not path and tensor.grad_fn is not None:
            raise refused(
                "it reads a tensor that was computed from weights before it ran",
                self.place(),
                "compute it in `forward`, or detach it",
            )
        return Call(
            function="weight" if path else "constant",
            frame=self._frames[-1],
            varies=False,
            value=tensor,
            shape=tuple(tensor.shape),
            path=path,
        )

    def _call(self, **content: Any) -> Call:
        call = Call(frame=self._frames[-1], place=self.place(), **content)
        call.varies = any(read.varies for read in call.read())
        return call

    def _keep(self, call: Call, result: Any) -> None:
        self.calls.append(call)
        if isinstance(result, Tensor):
            call.shape = tuple(result.shape)
        if not call.varies:
            call.value = result

    def _add(self, tensor: Tensor, call: Call) -> None:
        if call.function == "input":
            self.calls.append(call)
        self._made[tensor] = call
        self._stale.pop(tensor, None)

    def _spread(self, changed: Tensor, call: Call) -> None:
        """Remember that other tensors which share memory with a changed one have changed too."""
        storage = _storage(changed)
        for other in [other for other in self._made if _storage(other) == storage]:
            if other is not changed and _shares_memory(other, changed):
                if _is_same(other, changed):
                    self._made[other] = call
                else:
                    self._stale[other] = call.place

    def _recorded(self, argument: Any) -> Any:
        """An argument with calls in place of tensors and of numbers that depend on shapes."""
        if isinstance(argument, Tensor):
            return self.call_of(argument)
        if isinstance(argument, Whole):
            return argument.call
        if isinstance(argument, tuple | list):
            return tuple(map(self._recorded, argument))
        if isinstance(argument, slice):
            return slice(*map(self._recorded, (argument.start, argument.stop, argument.step)))
        return argument

    def _size(self, tensor: Tensor, sizes: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        """The shape of a tensor, or one side of it, as numbers that remember where they are from."""
        call = self.call_of(tensor)
        if not call.varies:
            return sizes
        place = self.place()

        def side(axis: int, value: int) -> Whole:
            axis %= max(tensor.dim(), 1)
            made = Call(
                function="size", frame=self._frames[-1], arguments=(call, axis), place=place, value=value
            )
            return Whole.of(value, made)

        if isinstance(sizes, int):
            return side(int((*args, *kwargs.values())[0]), sizes)
        return torch.Size([side(axis, value) for axis, value in enumerate(sizes)])

    def place(self, frames: Iterable[tuple[FrameType, int]] | None = None) -> SourceLine | None:
        """The line of the network's code that runs now, or the first one of `frames`."""
        path = self._frames[-1].path
        module = f"{path or 'the network'} ({self._classes[path]})"
        for frame, line in frames if frames is not None else _running():
            return SourceLine(frame.f_code.co_filename, line, module)
        return None


def _running() -> Iterator[tuple[FrameType, int]]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if not frame.f_code.co_filename.startswith((*_FOLDERS, "<")):
            yield frame, frame.f_lineno
        frame = frame.f_back


def _users_frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if not frame.f_code.co_filename.startswith((*_FOLDERS, "<")):
            yield frame, line


def _name(func: Callable[..., Any]) -> str:
    """`add_` for the method of that name, `shape` for the attribute."""
    name = getattr(func, "__name__", str(func))
    return getattr(func, "__self__").__name__ if name == "__get__" else name  # noqa: B009


def _tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers with their names."""
    yield from network.named_parameters()
    yield from network.named_buffers()


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors_in(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors_in(item)


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _storage(tensor: Tensor) -> int | None:
    with contextlib.suppress(NotImplementedError, RuntimeError):
        return tensor.untyped_storage()._cdata
    return None


def _is_same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same values in memory."""

    def place(tensor: Tensor) -> tuple[Any, ...]:
        return (tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype, _storage(tensor))

    return _storage(one) is not None and place(one) == place(other)


def _shares_memory(one: Tensor, other: Tensor) -> bool:
    """Whether some value in memory belongs to both of two tensors in the same memory."""
    if _storage(one) is None:
        return False
    size = max(t.untyped_storage().nbytes() // max(t.element_size(), 1) for t in (one, other))
    taken = torch.zeros(max(size, 1), dtype=torch.bool)
    taken.as_strided(one.shape, one.stride(), one.storage_offset()).fill_(True)
    return bool(taken.as_strided(other.shape, other.stride(), other.storage_offset()).any())
