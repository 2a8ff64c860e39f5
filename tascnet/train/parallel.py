"""One training on several devices: each process trains on its share of every batch, and gradients are summed.

The process that trains is the first one; the others are started for the training and end with it. All see the
same batches in the same order, and their weights are equal. They differ from those of one device by rounding,
and by the random numbers of augmentation, mixing and dropout, which each process draws for its own samples.
"""

import io
import logging
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tascnet.errors import ConfigError, TascnetError, first_line, plural
from tascnet.options import usable_cpus
from tascnet.train.folded import replaced

log = logging.getLogger("tascnet")

HOST = "127.0.0.1"
# Seconds that a process may take to end, and to say why it ended.
ENDING, GRACE = 10.0, 2.0
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
        raise ConfigError(
            f"`trainer.devices={devices}` is more than there are from `{device}` on: "
            f"{plural(there, 'GPU' if is_cuda else 'CPU')}",
            f"give at most {there}",
        )


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one process of a training does.

    Args:
        rank: of the process, from 0.
        processes: how many there are.
        device: where its tensors are.
    """

    rank: int
    processes: int
    device: torch.device

    def rows(self, batch: Tensor) -> tuple[Tensor, float]:
        """The own rows of a batch, and which share of it they are; a row of share 0 where there is none."""
        own = batch[self.rank :: self.processes]
        return (own, len(own) / len(batch)) if len(own) else (batch[:1], 0.0)

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

    def told(self, message: Sequence[float]) -> list[float]:
        """What the first process says: as many numbers in each process."""
        tensor = torch.tensor(message, dtype=torch.float64, device=self.device)
        dist.broadcast(tensor, 0)
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
    """A batch-norm in training mode whose statistics are those of the whole batch."""

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        norm, dims = self.norm, [0, *range(2, x.dim())]
        # Statistics take float32, also under autocast.
        values = x.float()
        sums = torch.cat([values.sum(dims), values.new_tensor([values.numel() / values.shape[1]])])
        total = _Sum.apply(sums)
        count, mean = total[-1], total[:-1] / total[-1]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        centred = values - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(dims)) / count
        if norm.track_running_stats:
            self._track(mean.detach(), variance.detach() * count / (count - 1))
        out = centred * (variance + norm.eps).rsqrt().view(shape)
        if norm.weight is not None:
            out = out * norm.weight.view(shape) + norm.bias.view(shape)
        return out.to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.add_(1)
        share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
        norm.running_var.lerp_(variance.to(norm.running_var.dtype), share)


def synchronised(network: nn.Sequential) -> nn.Sequential:
    """The same network, whose batch-norms in training mode have the statistics of the whole batch.

    It shares all parameters and buffers with `network`.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.training]
    return replaced(network, {norm: SynchronisedNorm(norm) for norm in norms})


@contextmanager
def shared(
    devices: int, device: torch.device, work: Callable[[Share, Any], None], made: Any
) -> Iterator[Share]:
    """Start a process for each further device, and let this process be the first; they end with the block.

    Args:
        devices: how many take part.
        device: of this process; on CUDA the others take those of the next numbers.
        work: what another process does, a function of a module.
        made: given to it, with its tensors on its own device.

    Raises:
        ConfigError: `made` cannot be sent to another process, or this one is part of such a training already.
        TascnetError: another process ended before its time.
    """
    if dist.is_initialized():
        raise ConfigError(
            "torch.distributed is already in use in this process, so it cannot start a training on "
            f"{devices} devices",
            "leave `trainer.devices` at 1",
        )
    buffer = io.BytesIO()
    try:
        torch.save((work, made), buffer)
    except (TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"the network or the samples cannot be sent to other processes ({first_line(error)})",
            "define their classes and functions in a module, or leave `trainer.devices` at 1",
        ) from error
    store = _store(0, devices, is_master=True)
    context = multiprocessing.get_context("spawn")
    processes: list[BaseProcess] = []
    pipes: list[Connection] = []
    try:
        with _local_sockets():
            for rank in range(1, devices):
                pipe, end = context.Pipe(duplex=False)
                share = Share(rank=rank, processes=devices, device=_place(device, rank))
                args = (share, store.port, torch.get_num_threads(), buffer.getvalue(), end)
                processes.append(context.Process(target=_take_part, args=args, daemon=True))
                pipes.append(pipe)
                processes[-1].start()
                end.close()
            for pipe in pipes:
                _check(pipe)
            own = Share(rank=0, processes=devices, device=device)
            _join(own, store)
        log.info("training on %d devices", devices)
        yield own
    except BaseException as error:
        try:
            # What fails here when another process is gone names no cause.
            ended = wait(pipes, GRACE) if isinstance(error, RuntimeError) else ()
            for pipe in (pipe for pipe in pipes if pipe in ended):
                _check(pipe)
        finally:
            for process in processes:
                process.terminate()
        raise
    finally:
        _end(processes, pipes)


def _check(pipe: Connection) -> None:
    """Raise if another process says that it failed, or is gone."""
    try:
        said = pipe.recv()
    except EOFError:
        said = "it was killed"
    if said is not None:
        raise TascnetError(
            f"a process that trains beside this one ended ({said})", "run the same command again: it resumes"
        )


def _end(processes: Sequence[BaseProcess], pipes: Sequence[Connection]) -> None:
    with suppress(Exception):
        dist.destroy_process_group()
    for process in processes:
        process.join(ENDING)
        if process.is_alive():
            process.kill()
            process.join()
    for pipe in pipes:
        pipe.close()


def _store(port: int, processes: int, *, is_master: bool) -> Any:
    """Where processes find each other; port 0 takes any that is free."""
    return torch.distributed.TCPStore(  # type: ignore[attr-defined]
        HOST, port, processes, is_master=is_master, wait_for_workers=False
    )


def _join(share: Share, store: Any) -> None:
    backend = "nccl" if share.device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=share.rank, world_size=share.processes)


def _place(device: torch.device, rank: int) -> torch.device:
    return torch.device("cuda", (device.index or 0) + rank) if device.type == "cuda" else device


def _take_part(share: Share, port: int, threads: int, payload: bytes, pipe: Connection) -> None:
    """The whole life of another process."""
    try:
        torch.set_num_threads(threads)
        if share.device.type == "cuda":
            torch.cuda.set_device(share.device)
        # It is what the first process has made a moment ago.
        work, made = torch.load(io.BytesIO(payload), map_location=share.device, weights_only=False)
        pipe.send(None)
        with _local_sockets():
            _join(share, _store(port, share.processes, is_master=False))
            work(share, made)
            dist.destroy_process_group()
    except Exception as error:
        with suppress(OSError):
            pipe.send(first_line(error))


@contextmanager
def _local_sockets() -> Iterator[None]:
    """Let processes of one machine talk to each other, whatever its name resolves to."""
    name, before = "GLOO_SOCKET_IFNAME", os.environ.get("GLOO_SOCKET_IFNAME")
    os.environ[name] = before or LOOPBACK
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
