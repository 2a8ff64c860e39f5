"""One training on several devices: each process trains on its share of every batch, and gradients are summed.

The process that trains is the first one; the others are started for the training and end with it. All see the
same batches in the same order, and their weights are equal. They differ from those of one device by rounding,
and by the random numbers of augmentation, mixing and dropout, which each process draws for its own samples.
"""

import json
import logging
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tascnet.errors import ConfigError, TascnetError, first_line, plural
from tascnet.models.device import using_threads
from tascnet.options import usable_cpus
from tascnet.run.files import (
    is_full_disk,
    naming_full_disk,
    remove_leftovers,
    temporary_suffix,
    whole_file,
)
from tascnet.train.folded import replaced

log = logging.getLogger("tascnet")

# What another process runs.
PROGRAM = "from tascnet.train.parallel import take_part; take_part()"
# Files of the folder: what is sent to all, where they meet, that a process has read it, and why it failed.
SENT, MEETING, READY, ENDED = "sent.pt", "meeting", "ready-{}", "ended-{}.json"
# Seconds between two looks at processes that start, and until one that fails has reported why.
LOOK, GRACE = 0.05, 5.0
# The first process works alone between epochs, for as long as it takes.
WAITING = timedelta(days=30)
# The network interface of a machine to itself.
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


def check_devices(devices: int, device: torch.device) -> None:
    """Raise unless a training can have so many devices.

    Args:
        devices: how many.
        device: the first of them.

    Raises:
        ConfigError: there are fewer.
    """
    is_cuda = device.type == "cuda"
    there = torch.cuda.device_count() - (device.index or 0) if is_cuda else usable_cpus()
    if devices > there:
        first = f" from `{device}` on" if is_cuda else ""
        raise ConfigError(
            f"`devices={devices}`, but there are only {plural(there, 'GPU' if is_cuda else 'CPU')}{first}",
            f"give at most {there}",
        )


def send(made: Any, file: IO[bytes]) -> None:
    """Write samples and networks as another process can read them.

    Raises:
        ConfigError: they cannot be sent.
    """
    try:
        torch.save(made, file)
    except (TypeError, AttributeError, ValueError, RuntimeError, pickle.PicklingError) as error:
        if is_full_disk(error):
            raise
        raise ConfigError(
            f"the network or the samples cannot be sent to other processes ({first_line(error)})",
            "define their classes and functions in a module, or leave `devices` at 1",
        ) from error


@dataclass(frozen=True, kw_only=True)
class Member:
    """One process of a training.

    Args:
        rank: of the process, from 0.
        processes: how many there are.
        device: where its tensors are.
        control: the group that messages go through; None: the only one.
    """

    rank: int
    processes: int
    device: torch.device
    control: Any = None

    def rows(self, batch: Tensor) -> tuple[Tensor, float]:
        """The own rows of a batch, and by how much their mean loss counts.

        Of a batch with fewer rows than there are processes, each process has all.
        """
        if len(batch) < self.processes:
            return batch, 1 / self.processes
        own = batch[self.rank :: self.processes]
        return own, len(own) / len(batch)

    def sum(self, value: Tensor) -> Tensor:
        """A tensor summed over all processes, in place."""
        dist.all_reduce(value)
        return value

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Sum the gradients of parameters over all processes."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if gradients:
            flat = self.sum(torch.cat([gradient.reshape(-1) for gradient in gradients]))
            for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(part.view(gradient.shape))

    def broadcast(self, numbers: Sequence[float]) -> list[float]:
        """The numbers of the first process, in every process; all give as many."""
        tensor = torch.tensor(numbers, dtype=torch.float64)
        dist.broadcast(tensor, 0, group=self.control)
        return [float(value) for value in tensor.tolist()]


class _Sum(torch.autograd.Function):
    """A tensor summed over all processes; so is its gradient."""

    @staticmethod
    def forward(_: Any, value: Tensor) -> Tensor:  # type: ignore[override]
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class SynchronisedNorm(nn.Module):
    """A batch-norm that normalises by the statistics of the whole batch, and trains like it."""

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        norm, dims = self.norm, [0, *range(2, x.dim())]
        # Statistics take float32, also under autocast.
        values = x.float()
        sums = torch.cat([values.sum(dims), values.new_tensor([values.numel() / values.shape[1]])])
        total = _Sum.apply(sums)
        count, mean = total[-1].detach(), total[:-1] / total[-1].detach()
        if count <= 1:
            raise ValueError(f"Expected more than 1 value per channel when training, got {list(x.shape)}")
        shape = [1, -1, *[1] * (x.dim() - 2)]
        centred = values - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(dims)) / count
        if norm.training and norm.running_mean is not None:
            self._track(mean.detach(), variance.detach() * count / (count - 1))
        out = centred * (variance + norm.eps).rsqrt().view(shape)
        if norm.weight is not None:
            out = out * norm.weight.view(shape)
        if norm.bias is not None:
            out = out + norm.bias.view(shape)
        return out.to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        norm, share = self.norm, self.norm.momentum
        assert norm.running_mean is not None
        assert norm.running_var is not None
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
            share = 1 / float(norm.num_batches_tracked) if share is None else share
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share or 0.0)
        norm.running_var.lerp_(variance.to(norm.running_var.dtype), share or 0.0)


def synchronised(network: nn.Sequential) -> nn.Sequential:
    """The same network, whose batch-norms that read a batch's statistics have those of the whole batch.

    It shares all parameters and buffers with `network`.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    reading = [norm for norm in norms if norm.training or norm.running_mean is None]
    return replaced(network, {norm: SynchronisedNorm(norm) for norm in reading})


@contextmanager
def together(
    devices: int, device: torch.device, work: Callable[[Member, Any], None], made: Any
) -> Iterator[Member]:
    """Start a process for each further device, and let this process be the first; they end with the block.

    Args:
        devices: how many take part.
        device: of this process; on CUDA the others take those of the next numbers.
        work: what another process does, a function at the top of a module.
        made: given to it, with its tensors on its own device.

    Raises:
        BudgetError: the disk of temporary files is full.
        ConfigError: `made` cannot be sent to another process, or this one is part of such a training already.
        TascnetError: another process failed or was killed.
    """
    if dist.is_initialized():
        raise ConfigError(
            "torch.distributed is already in use in this process, so it cannot start a training on "
            f"{devices} devices",
            "leave `devices` at 1",
        )
    threads = max(1, torch.get_num_threads() // devices) if device.type == "cpu" else torch.get_num_threads()
    processes: list[subprocess.Popen[bytes]] = []
    remove_leftovers(Path(tempfile.gettempdir()).glob("tascnet-*.tmp"))
    shared = tempfile.TemporaryDirectory(prefix="tascnet-", suffix=temporary_suffix())
    with shared as place, using_threads(threads):
        folder = Path(place)
        with naming_full_disk(folder), open(folder / SENT, "wb") as file:
            send((work, made, devices), file)
        try:
            for rank in range(1, devices):
                processes.append(_started(folder, rank, _place(device, rank), threads))
            while not all((folder / READY.format(rank)).exists() for rank in range(1, devices)):
                if failure := _report(folder, processes):
                    raise failure
                time.sleep(LOOK)
            member = _joined(folder, 0, devices, device)
            log.info("training on %s", plural(devices, "device"))
            yield member
        except RuntimeError as error:
            # What fails here when another process is gone names no cause.
            until = time.monotonic() + GRACE
            while time.monotonic() < until:
                if failure := _report(folder, processes):
                    raise failure from error
                time.sleep(LOOK)
            raise
        finally:
            for process in processes:
                process.kill()
                process.wait()
                assert process.stdin is not None
                process.stdin.close()
            with suppress(Exception):
                dist.destroy_process_group()


def _started(folder: Path, rank: int, device: torch.device, threads: int) -> "subprocess.Popen[bytes]":
    """Another process: it reads a pipe that closes when this one is gone, and gets no Ctrl-C of its own."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "OMP_NUM_THREADS": str(threads),
    }
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), str(rank), str(device)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )


def _place(device: torch.device, rank: int) -> torch.device:
    return torch.device("cuda", (device.index or 0) + rank) if device.type == "cuda" else device


def _joined(folder: Path, rank: int, devices: int, device: torch.device) -> Member:
    """This process among the others, once all are there."""
    (folder / READY.format(rank)).touch()
    store = torch.distributed.FileStore(str(folder / MEETING), devices)  # type: ignore[attr-defined]
    before = os.environ.get("GLOO_SOCKET_IFNAME")
    os.environ["GLOO_SOCKET_IFNAME"] = before or LOOPBACK
    try:
        known: dict[str, Any] = {"store": store, "rank": rank, "world_size": devices}
        if device.type == "cpu":
            dist.init_process_group("gloo", timeout=WAITING, **known)
            return Member(rank=rank, processes=devices, device=device)
        # Messages wait for as long as the first process works alone, sums of gradients do not.
        dist.init_process_group("nccl", **known)
        control = dist.new_group(backend="gloo", timeout=WAITING)
        return Member(rank=rank, processes=devices, device=device, control=control)
    finally:
        if before is None:
            del os.environ["GLOO_SOCKET_IFNAME"]


def _report(folder: Path, processes: Sequence["subprocess.Popen[bytes]"]) -> TascnetError | None:
    """What ended another process: from outside, or the first failure of several; None if all are there."""
    for rank, process in enumerate(processes, start=1):
        if process.poll() is not None and not (folder / ENDED.format(rank)).exists():
            return TascnetError(
                f"process {rank} of a training was ended from outside (exit status {process.returncode})",
                "see whether the memory suffices, then run the same command again: it resumes",
            )
    reports = list(folder.glob(ENDED.format("*")))
    if not reports:
        return None
    first = min(reports, key=lambda path: path.stat().st_mtime_ns)
    failure = json.loads(first.read_text(encoding="utf-8"))
    return TascnetError(
        f"process {failure['rank']} of a training failed: {failure['message']}", failure["hint"]
    )


def take_part() -> None:
    """The whole life of another process; its arguments are folder, number and device."""
    folder, rank, device = Path(sys.argv[1]), int(sys.argv[2]), torch.device(sys.argv[3])
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    try:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # The first process has made it a moment ago.
        work, made, devices = torch.load(
            folder / SENT,
            map_location=lambda storage, place: _moved(storage, place, device),
            weights_only=False,
        )
        work(_joined(folder, rank, devices, device), made)
    except Exception as error:
        message = error.message if isinstance(error, TascnetError) else first_line(error)
        hint = error.hint if isinstance(error, TascnetError) else "run the same command again: it resumes"
        with whole_file(folder / ENDED.format(rank)) as path:
            path.write_text(json.dumps({"rank": rank, "message": message, "hint": hint}), encoding="utf-8")


def _moved(storage: Any, place: str, device: torch.device) -> Any:
    """A tensor's memory: what the first process has on its GPU goes to the own one."""
    return storage.cuda(device) if place.startswith("cuda") else storage


def _end_with_the_first() -> None:
    sys.stdin.buffer.read()
    os._exit(1)
