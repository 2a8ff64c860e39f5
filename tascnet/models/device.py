"""Where networks run: a device that can be used here, and a number of CPU threads."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tascnet.errors import ConfigError, first_line
from tascnet.options import threads_rule


def usable_device(device: str) -> torch.device:
    """The device of that name; `auto` is CUDA where there is one.

    Raises:
        ConfigError: it cannot be used here.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"`device={device}` cannot be used here ({first_line(error)})",
            "take `device=cpu` or `device=auto`",
        ) from error
    return chosen


def check_threads(threads: int | None) -> None:
    """Raise unless this machine can use so many CPU threads.

    Raises:
        ConfigError: there are too many.
    """
    has_wrong_threads, message, hint = threads_rule(threads)
    if has_wrong_threads:
        raise ConfigError(message, hint)


@contextmanager
def using_threads(threads: int | None) -> Iterator[None]:
    """Let torch use so many CPU threads; None: as it has them. Their number is restored at the end."""
    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        torch.set_num_threads(before)
