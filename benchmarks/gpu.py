"""How busy a GPU is during some work, and the memory that the work takes there."""

import gc
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from benchmarks.common import Row

# Milliseconds between two readings.
INTERVAL_MS = 100


@contextmanager
def watched(device: torch.device) -> Iterator[Row]:
    """Measure how busy a CUDA device is during the block.

    Yields:
        A row that holds afterwards `gpu_busy`, the share of time in which a kernel ran (where `nvidia-smi` is
        installed), and `gpu_bytes`, the most memory that torch had allocated; it remains empty on the CPU.
    """
    row: Row = {}
    if device.type != "cuda":
        yield row
        return
    # What an earlier work has left.
    gc.collect()
    torch.cuda.reset_peak_memory_stats(device)
    reader = None
    with tempfile.TemporaryFile("w+") as readings:
        if program := shutil.which("nvidia-smi"):
            uuid = torch.cuda.get_device_properties(device).uuid
            wanted = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
            command = [program, f"--id=GPU-{uuid}", *wanted, f"--loop-ms={INTERVAL_MS}"]
            reader = subprocess.Popen(command, stdout=readings)
        try:
            yield row
            torch.cuda.synchronize(device)
            row["gpu_bytes"] = torch.cuda.max_memory_allocated(device)
        finally:
            if reader is not None:
                reader.terminate()
                reader.wait()
        readings.seek(0)
        shares = [int(line) for line in readings if line.strip().isdigit()]
        if shares:
            row["gpu_busy"] = statistics.fmean(shares) / 100
