"""Whether a chain does what its network does."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tascnet.errors import ConversionError, first_line
from tascnet.models.inspect import hooked

# Relative to the largest value: of results that a rewritten operation may change in the last bits.
_TOLERANCE = 1e-5
_GRADIENT_TOLERANCE = 1e-4


def check_same(
    module: nn.Module,
    chain: nn.Sequential,
    inputs: Tensor,
    paths: Mapping[str, str],
    pairs: Mapping[str, tuple[Tensor, Tensor]],
    is_exact: bool,
) -> str | None:
    """Raise unless a chain gives what its network gives, and the same gradients.

    Args:
        module: the network, in eval mode.
        chain: in eval mode.
        inputs: `b x c x h x w`, compared together and the first one alone, twice.
        paths: by name of a block that of the module that gives the same.
        pairs: by name a parameter of the network and that of the chain.
        is_exact: whether results should be equal to the last bit.

    Returns:
        The first block after which they are not, although they should; None where they are.

    Raises:
        ConversionError: they differ by more than rounding, with the first block that does.
    """
    one = inputs[:1].detach().requires_grad_()
    with torch.no_grad():
        # Networks may change their input in place.
        # A network may keep what it has seen, and add it to what is of the same shape.
        seen = (one, one, inputs)
        outputs = [(_result(module, x.clone()), _result(chain, x.clone())) for x in seen]
    if not all(_is_close(expected, came, _TOLERANCE) for expected, came in outputs):
        name = _first_difference(module, chain, inputs, paths, 0.0 if is_exact else _TOLERANCE)
        raise ConversionError(
            f"the network cannot be converted, the chain gives something else from the block {name!r} on",
            "does the network keep values between calls, draw random numbers, or depend on the batch?",
        )
    if all(bool(torch.isfinite(expected).all()) for expected, _ in outputs):
        _check_gradients(module, chain, one, pairs)
    if is_exact and not all(_is_close(expected, came, 0.0) for expected, came in outputs):
        return _first_difference(module, chain, inputs, paths, 0.0)
    return None


def _result(network: nn.Module, x: Tensor) -> Tensor:
    try:
        result: Tensor = network(x)
    except (IndexError, RuntimeError) as error:
        raise ConversionError(
            f"the network cannot be converted, a batch of {len(x)} fails: {first_line(error)}",
            "does it do something else for other batches?",
        ) from error
    return result


def _is_close(expected: Tensor, came: Tensor, tolerance: float) -> bool:
    """Whether two tensors differ by at most a share of the largest value."""
    if expected.shape != came.shape:
        return False
    expected, came = expected.detach(), came.detach()
    finite = expected[torch.isfinite(expected)]
    most = tolerance * float(finite.abs().max()) if len(finite) else 0.0
    return torch.allclose(came, expected, rtol=0.0, atol=most, equal_nan=True)


def _first_difference(
    module: nn.Module, chain: nn.Sequential, inputs: Tensor, paths: Mapping[str, str], tolerance: float
) -> str:
    """The first block whose output differs from that of its module; the last one where none does."""
    outputs: dict[str, Tensor] = {}

    def kept(path: str) -> RemovableHandle:
        def keep(_: nn.Module, __: object, output: object) -> None:
            if isinstance(output, Tensor):
                # Later calls may change it in place.
                outputs[path] = output.clone()

        return module.get_submodule(path).register_forward_hook(keep)

    known = dict(module.named_modules())
    with torch.no_grad(), hooked(kept(path) for path in paths.values() if path in known):
        module(inputs.clone())
        x, name = inputs.clone(), ""
        for name, block in chain.named_children():
            x = block(x)
            expected = outputs.get(paths.get(name, ""))
            if expected is not None and not _is_close(expected, x, tolerance):
                break
    return name


def _check_gradients(
    module: nn.Module, chain: nn.Module, x: Tensor, pairs: Mapping[str, tuple[Tensor, Tensor]]
) -> None:
    pairs = {"the input": (x, x), **pairs}
    trained = {name: pair for name, pair in pairs.items() if all(tensor.requires_grad for tensor in pair)}

    def gradients(network: nn.Module, number: int) -> tuple[Tensor | None, ...]:
        with torch.enable_grad():
            output = network(x.clone()).flatten()
            factors = torch.linspace(-1, 1, len(output), dtype=output.dtype, device=output.device)
            tensors = [pair[number] for pair in trained.values()]
            return torch.autograd.grad((output * factors).sum(), tensors, allow_unused=True)

    try:
        expected = gradients(module, 0)
    except RuntimeError:
        # It cannot be trained as it is: it changes views in place, for instance.
        return
    _compare(dict(zip(trained, zip(expected, gradients(chain, 1), strict=True), strict=True)))


def _compare(gradients: Mapping[str, tuple[Tensor | None, Tensor | None]]) -> None:
    largest = max((float(one.abs().max()) for one, _ in gradients.values() if one is not None), default=0.0)
    for name, (one, other) in gradients.items():
        if one is None and other is None:
            continue
        present = one if one is not None else other
        assert present is not None
        one = torch.zeros_like(present) if one is None else one
        other = torch.zeros_like(present) if other is None else other.reshape(one.shape)
        most = _GRADIENT_TOLERANCE * max(float(one.abs().max()), 0.01 * largest)
        if not bool((one - other).abs().max() <= most):
            raise ConversionError(
                f"the network cannot be converted, the chain has another gradient with respect to {name}",
                "does the network detach tensors from the graph?",
            )
