"""The command line in a forked process, where nothing needs to be imported again, and how it ended."""

import ctypes
import importlib
import logging
import os
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch

from tascnet.run.console import log, output, terminal

# What a command imports.
MODULES = (
    *(f"tascnet_pipelines.{stage}" for stage in ("full", "tune", "prune", "pretrain", "compare")),
    *("matplotlib.figure", "torch_pruning", "botorch", "fvcore.nn", "sklearn.datasets", "jinja2"),
)
# Bits of CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, and the version of the kernel's structure that holds them.
READ_ANYTHING, CAPABILITIES = 0b110, 0x20080522


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a command ended.

    Args:
        code: exit code, negative for the signal that ended it; None: it hung.
        text: what it printed.
        warnings: that it logged, without their numbers.
        seconds: until it ended.
        bytes: the most memory that it took.
    """

    code: int | None
    text: str
    warnings: frozenset[str]
    seconds: float
    bytes: float

    @property
    def has_traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.text

    @property
    def says(self) -> str:
        """The last line."""
        return (self.text.strip().splitlines() or [""])[-1][:500]


@dataclass(frozen=True, kw_only=True)
class Kill:
    """A signal that is sent after so many seconds, or when a file is first seen."""

    number: int
    seconds: float = 0.0
    file: str | None = None

    def is_due(self, folder: Path, seconds: float) -> bool:
        return seconds >= self.seconds if self.file is None else any(folder.glob(self.file))


def import_all() -> None:
    """Import what a command imports, without work that would start threads, which a fork loses."""
    torch.set_num_threads(1)
    for name in MODULES:
        importlib.import_module(name)


def run_command(
    folder: Path,
    words: Sequence[str],
    *,
    limit: float,
    kill: Kill | None = None,
    unprivileged: bool = False,
) -> Ending:
    """Run `python -m tascnet <words>` in a folder.

    Args:
        folder: where the command works; what it prints and warns of is kept beside it.
        words: options and flags.
        limit: seconds after which it hangs.
        kill: what disturbs it.
        unprivileged: without root's right to read and write everything.
    """
    printed, warned = (folder.with_name(f"{folder.name}.{kind}") for kind in ("printed", "warned"))
    for path in (printed, warned):
        path.write_bytes(b"")
    sys.stdout.flush()
    started, seconds, is_late = time.monotonic(), 0.0, False
    process = os.fork()
    if process == 0:
        _be_command(folder, words, printed, warned, unprivileged=unprivileged)
    while not (ended := os.wait4(process, os.WNOHANG))[0]:
        seconds = time.monotonic() - started
        if kill is not None and kill.is_due(folder, seconds):
            os.kill(process, kill.number)
            kill = None
        if seconds > limit and not is_late:
            is_late = True
            os.killpg(process, signal.SIGKILL)
        time.sleep(0.002)
    return Ending(
        code=None if is_late else os.waitstatus_to_exitcode(ended[1]),
        text=printed.read_text(encoding="utf-8", errors="backslashreplace"),
        warnings=frozenset(re.sub(r"[0-9]+", "0", warned.read_text(encoding="utf-8")).splitlines()),
        seconds=seconds,
        bytes=ended[2].ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    )


def _be_command(
    folder: Path, words: Sequence[str], printed: Path, warned: Path, *, unprivileged: bool
) -> NoReturn:
    """Become the command, as if this process had been started for it."""
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number, path in enumerate((Path(os.devnull), printed, printed)):
            os.dup2(os.open(path, os.O_RDWR | os.O_APPEND), number)
        sys.stdout, sys.stderr = (
            os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2)
        )
        tempfile.tempdir = str(folder)
        warnings.resetwarnings()
        warnings.simplefilter("ignore")
        handler = logging.FileHandler(warned, encoding="utf-8", errors="backslashreplace")
        handler.addFilter(lambda record: record.levelno == logging.WARNING)
        log.handlers[:] = [handler]
        terminal.cache_clear()
        output.cache_clear()
        if unprivileged and os.geteuid() == 0:
            _lose_privileges()
        sys.argv = ["tascnet", *words]
        code = importlib.import_module("tascnet.__main__").start()
    except BaseException as error:
        code = 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
        os.write(2, traceback.format_exc().encode(errors="backslashreplace"))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _lose_privileges() -> None:
    """Give up root's right to read and write what permissions forbid (Linux)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = (ctypes.c_uint32 * 2)(CAPABILITIES, 0), (ctypes.c_uint32 * 6)()
    libc.capget(header, data)
    # The first word holds the capabilities in force.
    data[0] &= ~READ_ANYTHING
    if libc.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset failed")
