"""Device, threads and random state while a public function runs."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from tascnet.models.device import check_threads, usable_device, using_threads


@contextmanager
def computing(device: str, threads: int | None) -> Iterator[torch.device]:
    """Use a device and a number of CPU threads; thread count and random state are restored at the end.

    Gradients are recorded, whatever the caller has switched off.

    Args:
        device: `cpu`, `cuda`, `cuda:<number>`, or `auto`, which takes CUDA where there is one.
        threads: CPU threads; None: as torch has them.

    Raises:
        ConfigError: the device cannot be used here, or there are too many threads.
    """
    check_threads(threads)
    chosen = usable_device(device)
    python, arrays = random.getstate(), np.random.get_state()
    devices = [chosen] if chosen.type == "cuda" else []
    try:
        with (
            using_threads(threads),
            torch.random.fork_rng(devices),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            yield chosen
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
