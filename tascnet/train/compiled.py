"""Training steps that torch.compile makes faster, on a GPU by CUDA graphs too."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tascnet.errors import ConfigError, first_line
from tascnet.exporting.programs import quiet


def check_compiler(device: torch.device) -> None:
    """Raise unless torch.compile works on a device.

    Raises:
        ConfigError: it does not, usually for want of a C++ compiler (CPU) or of Triton (CUDA).
    """
    with compiling(), quiet():
        compiled(torch.sin, device)(torch.zeros(8, device=device))


@contextmanager
def compiling() -> Iterator[None]:
    """Around calls of `compiled` functions: what is compiled inside is new, and is forgotten at the end.

    torch would otherwise run what it compiled for a network with other hooks, which it does not compare, or
    stop compiling after a few networks in one process.

    Raises:
        ConfigError: something could not be compiled.
    """
    torch.compiler.reset()
    try:
        yield
    except torch._dynamo.exc.TorchDynamoException as error:
        raise ConfigError(
            f"torch.compile failed ({first_line(error)})",
            "leave `compile` out, or install what is missing: a C++ compiler for the CPU, Triton for a GPU",
        ) from error
    finally:
        torch.compiler.reset()


def compiled(function: Callable[..., Tensor], device: torch.device) -> Callable[..., Tensor]:
    """A function that is compiled when it is first called, for the shapes of that call.

    It computes the same up to rounding. Dropout draws other random numbers, from the same seed.

    Args:
        function: its result is to be used before the next call: CUDA graphs overwrite it.
        device: of its tensors.
    """
    mode = "reduce-overhead" if device.type == "cuda" else None
    return torch.compile(function, dynamic=False, mode=mode)
