"""Device, threads and random state while a public function runs."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from tascnet.errors import ConfigError, first_line
from tascnet.options import threads_rule


@contextmanager
def computing(device: str, threads: int | None) -> Iterator[torch.device]:
    """Use a device and a number of CPU threads; thread count and random state are restored at the end.

    Args:
        device: `cpu`, `cuda`, `cuda:<number>`, or `auto`, which takes CUDA where there is one.
        threads: CPU threads; None: as torch has them.

    Raises:
        ConfigError: the device cannot be used here, or there are too many threads.
    """
    has_wrong_threads, message, hint = threads_rule(threads)
    if has_wrong_threads:
        raise ConfigError(message, hint)
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
    before = torch.get_num_threads()
    python, arrays = random.getstate(), np.random.get_state()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        with torch.random.fork_rng([chosen] if chosen.type == "cuda" else []):
            yield chosen
    finally:
        torch.set_num_threads(before)
        random.setstate(python)
        np.random.set_state(arrays)
