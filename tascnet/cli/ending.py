"""How a command ends: signals raise, and every error is answered with one sentence and a code."""

import errno
import logging
import os
import re
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from tascnet.cli.compose import one_line
from tascnet.errors import ConfigError, TascnetError, escaped, first_line, in_words, users_place
from tascnet.run.console import filed_at

log = logging.getLogger("tascnet")

MISTAKE, BUG, STOPPED, TERMINATED = 2, 1, 130, 143

# Texts of other libraries' errors, what they mean, and what to do. Some have no class of their own.
OUTSIDE = (
    (
        r"No space left|os error 28|Disk quota exceeded|PytorchStreamWriter failed|inline_container",
        "the disk is full",
        "free space, or choose other folders with outputs= and cache_dir=; the same command resumes",
    ),
    (
        r"shared memory|/dev/shm|torch_shm",
        "shared memory is too small",
        "enlarge /dev/shm, in a container with --shm-size=2g",
    ),
    (
        r"out of memory|can't allocate memory|[Cc]annot allocate memory|bad_alloc|ALLOC_FAILED",
        "memory is too small",
        "lower trainer.batch_size, measure.batch or backbone.size, or end other programs",
    ),
    (
        r"can't start new thread|Resource temporarily unavailable|libgomp: Thread creation failed",
        "no further thread could be started",
        "lower threads, or raise the limit of processes (ulimit -u)",
    ),
)
MEMORY = OUTSIDE[2]
# Errors of files and folders, by number, with what to do where the usual advice does not fit; and by class.
PLACES = {
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.EEXIST)),
    errno.ENAMETOOLONG: "give a shorter name, or shorter folders with outputs= and cache_dir=",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the limit of open files (ulimit -n)",
}
PLACE_ERRORS = (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)
# Errors of connections: by number, and the packages whose OSErrors they are.
UNREACHABLE = (errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.EADDRNOTAVAIL)
NETWORK = ("socket", "ssl", "http", "urllib", "urllib3", "requests", "huggingface_hub")


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM)."""


@contextmanager
def signals_raise() -> Iterator[None]:
    """Inside, SIGINT raises KeyboardInterrupt and SIGTERM Terminated; a second one ends the process at once.

    Signals that are ignored, or have a handler of somebody else's, are left as they are.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner, seen = os.getpid(), False

    def end(number: int, _frame: FrameType | None) -> None:
        nonlocal seen
        if os.getpid() != owner:
            # A forked process ends as if there were no handler.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif seen:
            _leave(128 + number)
        else:
            seen = True
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    # Python's own handler, or the one that waits for this module's import.
    before = {
        signal.SIGINT: signal.getsignal(signal.SIGINT),
        signal.SIGTERM: signal.getsignal(signal.SIGTERM),
    }
    ours = {number for number, handler in before.items() if callable(handler) or handler is signal.SIG_DFL}
    try:
        for number in ours:
            signal.signal(number, end)
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


def answer(error: BaseException, *, debug: bool = False, outputs: str | None = None) -> int:
    """Log one sentence about what ended a command, and return its exit code.

    Args:
        error: the error; what to do after one that stops the command may be a note of it.
        debug: show the traceback of mistakes too.
        outputs: folder of all runs, for the traceback of an error that no log holds.
    """
    if isinstance(error, KeyboardInterrupt):
        resumes = "run the same command again to resume, without fresh=true if you gave it"
        log.error("stopped: %s", "; ".join(getattr(error, "__notes__", ())) or resumes)
        return TERMINATED if isinstance(error, Terminated) else STOPPED
    if debug:
        log.error("".join(traceback.format_exception(error)).rstrip())
    code, sentence = _sentence(error, outputs)
    log.error(" ".join(sentence.split()))
    return code


def _sentence(error: BaseException, outputs: str | None) -> tuple[int, str]:
    if isinstance(error, TascnetError):
        return MISTAKE, str(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return MISTAKE, str(ConfigError(one_line(error)))
    filed = f"the full traceback is in {_filed(error, outputs)}"
    if isinstance(error, MemoryError):
        return MISTAKE, f"{MEMORY[1]} ({first_line(error)}): {MEMORY[2]}; {filed}"
    if users_place(error) is not None:
        return MISTAKE, f"your own code failed with {in_words(error)}: correct it; {filed}"
    for pattern, what, hint in OUTSIDE:
        if re.search(pattern, str(error)):
            return MISTAKE, f"{what} ({_reason(error)}): {hint}; {filed}"
    # A file that tascnet expects is there, unless tascnet is wrong.
    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
        return MISTAKE, f"{_refused(error)}; {filed}"
    what = f"{type(error).__name__}: {first_line(error)}" if str(error).strip() else type(error).__name__
    return BUG, (
        f"tascnet has a bug, or does not know this error of another library ({what}): {filed}; report it "
        "to the maintainers with that file and your command line"
    )


def _reason(error: BaseException) -> str:
    """An error's first line; of the system's errors the reason, and the file that it is about."""
    if not isinstance(error, OSError) or error.strerror is None:
        return first_line(error)
    return error.strerror + ("" if error.filename is None else f", {error.filename}")


def _refused(error: OSError) -> str:
    """What the system refused, and what to do."""
    reason, number = error.strerror or first_line(error), error.errno or 0
    if number in PLACES or isinstance(error, PLACE_ERRORS):
        what = "a file" if error.filename is None else error.filename
        usual = (
            "check its permissions and the free space, or choose other folders with outputs= and cache_dir="
        )
        return f"{what} cannot be used ({reason}): {PLACES.get(number) or usual}"
    is_of_network = number in UNREACHABLE or type(error).__module__.partition(".")[0] in NETWORK
    if is_of_network or isinstance(error, ConnectionError | TimeoutError):
        return f"a connection failed ({reason}): check the network, then run the same command again"
    return (
        f"the system refused an operation ({reason}): check the disk, the folders and the network, then run "
        "the same command again"
    )


def _filed(error: BaseException, outputs: str | None) -> str:
    """The file that holds an error's traceback: the log of its run, else a new one."""
    if (path := filed_at(error)) is not None:
        return str(path)
    text = escaped("".join(traceback.format_exception(error)))
    own = Path(outputs).expanduser() if outputs else None
    for folder in (own, Path(tempfile.gettempdir())):
        with suppress(OSError):
            if folder is not None and folder.is_dir():
                path = folder / f"tascnet-error-{os.urandom(6).hex()}.txt"
                with open(path, "x", encoding="utf-8") as file:
                    file.write(text)
                return str(path.absolute())
    log.error(text.rstrip())
    return "the lines above, for no file could be written"


def _leave(code: int) -> NoReturn:
    """End at once; progress bars have hidden the cursor."""
    if sys.stderr.isatty():
        os.write(2, b"\x1b[?25h")
    os._exit(code)
