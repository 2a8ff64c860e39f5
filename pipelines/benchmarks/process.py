"""Work in a process of its own, so that its memory can be told."""

import multiprocessing
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from tascnet.console import set_up_logging

__all__ = ["in_own_process", "peak_bytes"]

Given = ParamSpec("Given")
Result = TypeVar("Result")


def in_own_process(
    function: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs
) -> tuple[Result, int]:
    """What a function gives in a fresh process, and the most bytes of memory that process took.

    Args:
        function: of a module, so that the process can import it; it and its arguments are pickled.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=set_up_logging) as pool:
        result = pool.submit(function, *args, **kwargs).result()
        return result, pool.submit(peak_bytes).result()


def peak_bytes() -> int:
    """The most memory that this process has had resident, files that are mapped into it included."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage would count what the parent had when it started this process.
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
