"""What a network costs: parameters, FLOPs, latency and file size.

Words: `flops` are fvcore's for one sample, one multiply-add counted as one; `latency_ms` is the median
time of one forward pass in milliseconds; sizes are bytes.
"""

from tascnet.measure.clock import Clock, judged_in, make_table
from tascnet.measure.complexity import Complexity, LayerCost, compare_layers, complexity
from tascnet.measure.latency import Latency, compare_calls, compare_latency, latency, torch_threads
from tascnet.measure.machine import describe_device, versions
from tascnet.measure.models import check_batch, measure_models, measured_again, size_bytes
from tascnet.measure.runtimes import (
    check_runtimes,
    exported_folder,
    measure_facts,
    runtimes_of,
    target_of,
    time_in,
)
from tascnet.measure.uncut import reach, reasons
from tascnet.measure.widths import WidthCosts, WidthTimes, costs_of_shapes

__all__ = [
    "Clock",
    "Complexity",
    "Latency",
    "LayerCost",
    "WidthCosts",
    "WidthTimes",
    "check_batch",
    "check_runtimes",
    "compare_calls",
    "compare_latency",
    "compare_layers",
    "complexity",
    "costs_of_shapes",
    "describe_device",
    "exported_folder",
    "judged_in",
    "latency",
    "make_table",
    "measure_facts",
    "measure_models",
    "measured_again",
    "reach",
    "reasons",
    "runtimes_of",
    "size_bytes",
    "target_of",
    "time_in",
    "torch_threads",
    "versions",
]
