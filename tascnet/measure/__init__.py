"""What a network costs: parameters, FLOPs, latency and file size.

Words: `flops` are fvcore's for one sample, one multiply-add counted as one; `latency_ms` is the median
time of one forward pass in milliseconds; sizes are bytes.
"""

from tascnet.measure.complexity import Complexity, LayerCost, compare_layers, complexity
from tascnet.measure.latency import Latency, compare_latency, latency
from tascnet.measure.models import measure_models
from tascnet.measure.size import describe_device, size_bytes, versions

__all__ = [
    "Complexity",
    "Latency",
    "LayerCost",
    "compare_latency",
    "compare_layers",
    "complexity",
    "describe_device",
    "latency",
    "measure_models",
    "size_bytes",
    "versions",
]
