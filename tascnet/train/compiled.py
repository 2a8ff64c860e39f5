"""Training steps that torch.compile makes faster, on a GPU by CUDA graphs too."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

from tascnet.errors import CompileError, first_line
from tascnet.exporting.programs import quiet

log = logging.getLogger("tascnet")


@cache
def check_compiler(device: torch.device) -> None:
    """Raise unless torch.compile works on a device; where it does, it is tried once in a process.

    Raises:
        CompileError: it does not, usually for want of a C++ compiler.
    """
    try:
        with compiling(), quiet():
            compiled(torch.sin, device)(torch.zeros(8, device=device))
    except CompileError:
        raise
    # A cache of the compiler that cannot be written may show in any way.
    except Exception as error:
        raise _failed(error) from error


@contextmanager
def compiling() -> Iterator[None]:
    """Around calls of `compiled` functions: what is compiled inside is new, and is forgotten at the end.

    torch would otherwise run what it compiled for a network with other hooks, which it does not compare, or
    stop compiling after a few networks in one process.

    Raises:
        CompileError: something could not be compiled.
    """
    torch.compiler.reset()
    try:
        yield
    except torch._dynamo.exc.TorchDynamoException as error:
        raise _failed(error) from error
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


@cache
def announce() -> None:
    """Log, once in a process, why the first steps take long."""
    log.info("training steps are compiled: the first one of each training takes seconds to minutes")


def _failed(error: Exception) -> CompileError:
    # The message of some errors begins with the name of the backend.
    cause = getattr(error, "inner_exception", None) or error
    return CompileError(
        f"torch.compile failed ({first_line(cause)})",
        "leave `compile` out, or install what is missing: a C++ compiler, and Triton for a GPU",
    )
