"""The runtimes in which latency is measured: which they are, and timing in one of them."""

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from tascnet.errors import ConfigError, TascnetError, first_line
from tascnet.exporting import installed
from tascnet.exporting.runtimes import runnable
from tascnet.measure.latency import compare_calls, compare_latency, device_of, torch_threads
from tascnet.models.inspect import input_for
from tascnet.options import Measure
from tascnet.run.records import RuntimeLatency

log = logging.getLogger("tascnet")

# Measured without being asked for, where they are installed.
_USUAL = ("onnxruntime", "onnxruntime_int8")
# The others run exported files, which here run on the CPU.
_ANY_DEVICE = ("eager", "compile")
# As people write them.
NAMES = {
    "eager": "eager PyTorch",
    "onnxruntime": "ONNX Runtime",
    "onnxruntime_int8": "ONNX Runtime int8",
    "compile": "torch.compile",
    "openvino": "OpenVINO",
}


def runtimes_of(measure: Measure, device: torch.device | str = "cpu") -> tuple[str, ...]:
    """The runtimes in which latency is measured on a device, eager PyTorch first."""
    is_cpu = torch.device(device).type == "cpu"
    chosen = measure.runtimes
    if chosen is None:
        usual = [name for name in _USUAL if is_cpu and name in installed.installed()]
        chosen = (*usual, *([measure.target] if measure.target else []))
    return tuple(dict.fromkeys(("eager", *chosen)))


def target_of(measure: Measure, device: torch.device | str = "cpu") -> str:
    """The runtime by whose latency networks are chosen."""
    if measure.target is not None:
        return measure.target
    return "onnxruntime" if "onnxruntime" in runtimes_of(measure, device) else "eager"


def check_runtimes(measure: Measure, device: torch.device | str = "cpu") -> None:
    """Refuse runtimes that are not installed, or that do not run on a device.

    Raises:
        ConfigError: one of them.
    """
    own = torch.device(device)
    for runtime in runtimes_of(measure, own):
        option = "target" if runtime == measure.target and measure.runtimes is None else "runtimes"
        installed.need(runtime, option)
        if own.type != "cpu" and runtime not in _ANY_DEVICE:
            raise ConfigError(
                f"`{option}` has {runtime}, which is measured on the CPU, and this run is on {own}",
                "leave it out, or give `device=cpu`",
            )


def measure_facts(measure: Measure, device: torch.device | str = "cpu") -> dict[str, Any]:
    """How latency is measured on a device, for `StageMetrics.measure`."""
    return {
        "batch": measure.batch,
        "repeats": measure.repeats,
        "runtimes": list(runtimes_of(measure, device)),
        "target": target_of(measure, device),
    }


def time_in(
    runtime: str,
    networks: Mapping[str, nn.Module],
    examples: Mapping[str, Tensor],
    measure: Measure,
    *,
    folder: Path,
    warmup: int = 5,
    max_seconds: float | None = 60.0,
    float_layers: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, tuple[RuntimeLatency, ...]]:
    """Time networks side by side in one runtime, with torch's threads and, where that is not one, with one.

    Args:
        runtime: one of `tascnet.options.RUNTIMES`.
        networks: by name, each on its own device, in its own memory format.
        examples: one sample `1 x ...` of each.
        measure: batch and repeats.
        folder: in which exported files are kept.
        warmup: rounds that are not timed, for each batch and number of threads.
        max_seconds: time for all passes; None: no limit.
        float_layers: of a network by name, the layers that its int8 form has in float; None: all are in int8.

    Returns:
        By name, one latency for each number of threads. A network that the runtime cannot run is warned about
        and left out.
    """
    counts, fitting = tuple(dict.fromkeys((torch.get_num_threads(), 1))), dict(networks)
    share = None if max_seconds is None else max_seconds / (2 * len(counts))
    limits: dict[str, Any] = {"repeats": measure.repeats, "warmup": warmup, "max_seconds": share}
    found: dict[str, list[RuntimeLatency]] = {}
    for threads in counts:
        with torch_threads(threads):
            if runtime == "eager":
                timed = [compare_latency(fitting, examples, batch=n, **limits) for n in (1, measure.batch)]
            else:
                passes = _passes(
                    *(runtime, fitting, examples, measure.batch, threads, folder, float_layers or {})
                )
                fitting = {name: fitting[name] for name in passes}
                devices = {name: device_of(network) for name, network in fitting.items()}
                timed = [
                    compare_calls(
                        {name: own[batch] for name, own in passes.items()},
                        batch=batch,
                        device=devices,
                        **limits,
                    )
                    for batch in (1, measure.batch)
                ]
        for name in fitting:
            single, batched = timed[0][name], timed[1][name]
            found.setdefault(name, []).append(
                RuntimeLatency(
                    runtime=runtime,
                    threads=threads,
                    device=single.device,
                    latency_ms=single.median_ms,
                    latency_ms_spread=single.spread_ms,
                    latency_ms_batch=batched.median_ms,
                    latency_ms_batch_spread=batched.spread_ms,
                )
            )
    return {name: tuple(rows) for name, rows in found.items()}


@contextmanager
def exported_folder(cache: Path | None) -> Iterator[Path]:
    """The folder of files that are exported for timing; a temporary one where `cache` is None."""
    if cache is not None:
        yield cache / "exported"
        return
    with TemporaryDirectory(prefix="tascnet-exported-") as folder:
        yield Path(folder)


def _passes(
    runtime: str,
    networks: Mapping[str, nn.Module],
    examples: Mapping[str, Tensor],
    batch: int,
    threads: int,
    folder: Path,
    float_layers: Mapping[str, Sequence[str]],
) -> dict[str, dict[int, Callable[[], Any]]]:
    """By name and number of samples a function that passes these; without networks that cannot run."""
    passes: dict[str, dict[int, Callable[[], Any]]] = {}
    for name, network in networks.items():
        run: Callable[[Tensor], Tensor]
        # Whatever is wrong with it, the stage's own work is not lost.
        try:
            if device_of(network) == "cpu":
                example = examples[name].float() if examples[name].is_floating_point() else examples[name]
                run = runnable(
                    *(network, runtime, example),  # type: ignore[arg-type]
                    threads=threads,
                    folder=folder,
                    float_layers=float_layers.get(name, ()),
                )
                inputs = {n: example.repeat(n, *[1] * (example.ndim - 1)) for n in (1, batch)}
            else:
                run = _compiled_in_place(network)
                inputs = {n: input_for(network, examples[name], n) for n in (1, batch)}
            for samples in inputs.values():
                run(samples)
        except Exception as error:
            said = error.message if isinstance(error, TascnetError) else first_line(error)
            log.warning("latency of %s in %s is not measured: %s", name, runtime, said)
        else:
            passes[name] = {n: partial(run, samples) for n, samples in inputs.items()}
    return passes


def _compiled_in_place(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """A network compiled for the accelerator that it is on."""
    compiled = torch.compile(copy.deepcopy(network).eval(), dynamic=False)

    def run(inputs: Tensor) -> Tensor:
        with torch.no_grad():
            outputs: Tensor = compiled(inputs)
            return outputs

    return run
