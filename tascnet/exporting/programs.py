"""A chain as torch.export traces it, from which torch's exporters start."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO

import torch
from torch import Tensor, nn

from tascnet.errors import ExportError, first_line
from tascnet.exporting.plain import plain_copy

_LOGGERS = ("torch.onnx", "torch.export", "torch.utils.cpp_extension", "onnxscript", "onnx_ir")


@torch.no_grad()
def traced(
    network: nn.Sequential, example: Tensor, *, batch: int | None = None
) -> torch.export.ExportedProgram:
    """The plain copy of a chain, traced.

    Args:
        example: one sample, `1 x ...`.
        batch: samples that it takes; None: any number.

    Raises:
        ExportError: torch cannot trace it, or not for any batch.
    """
    # A batch of one would be taken for a constant.
    samples = example.to("cpu").repeat(batch or 2, *(1 for _ in example.shape[1:])).contiguous()
    shapes = None if batch else ({0: torch.export.Dim.DYNAMIC},)
    try:
        with quiet():
            # Older versions of torch trace strictly unless told, and then a few networks in a process.
            return torch.export.export(plain_copy(network), (samples,), dynamic_shapes=shapes, strict=False)
    # Whatever the tracer meets.
    except Exception as error:
        raise ExportError(f"torch.export cannot trace the network ({first_line(error)})") from error


@contextmanager
def quiet() -> Iterator[None]:
    """torch's exporters and compiler print, log and warn about themselves; what goes wrong they raise."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        for kind in (DeprecationWarning, FutureWarning, UserWarning):
            warnings.simplefilter("ignore", kind)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
