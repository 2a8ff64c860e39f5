"""Work in a process of its own, and how much memory it takes."""

import gc
import multiprocessing
import resource
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from tascnet.run.console import set_up_logging

Given = ParamSpec("Given")
Result = TypeVar("Result")


def in_own_process(
    function: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs
) -> tuple[Result, int]:
    """What a module's function gives in a fresh process, and the most bytes of memory that process took."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=set_up_logging) as pool:
        result = pool.submit(function, *args, **kwargs).result()
        return result, pool.submit(peak_bytes).result()


@contextmanager
def memory_growth() -> Iterator[list[int]]:
    """How many bytes more than at its start this process has resident at the peak of the context.

    Yields:
        A list that holds them afterwards; it remains empty where they are unknown.
    """
    growth: list[int] = []
    reset = Path("/proc/self/clear_refs")
    gc.collect()
    if reset.exists():
        # Sets the peak back to what is resident now.
        reset.write_text("5")
    before = peak_bytes()
    yield growth
    if reset.exists():
        growth.append(peak_bytes() - before)


def peak_bytes() -> int:
    """The most memory that this process has had resident, files that are mapped into it included."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage would count what the parent had when it started this process.
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
