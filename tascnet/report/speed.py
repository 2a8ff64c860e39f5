"""Whether the clock agrees with the FLOPs."""

from collections.abc import Mapping
from typing import Any

# Where the time falls by less than this share of what the FLOPs fall by, the two disagree.
_AGREEMENT = 0.5
_NEEDED = {"flops", "latency_ms", "latency_ms_batch", "batch"}
# A change of the FLOPs below this is none.
_NOTHING = 0.02


def speed_lines(models: Mapping[str, Mapping[str, Any]], removable_blocks: int = 0) -> list[str]:
    """How far FLOPs and time have fallen from `before` to `after`, and that they disagree where they do.

    Args:
        models: records with flops, latency_ms, latency_ms_batch and batch.
        removable_blocks: how many blocks `prune.blocks=true` could still take out.

    Returns:
        One or two sentences; none where something was not measured.
    """
    if not all(name in models and models[name].keys() >= _NEEDED for name in ("before", "after")):
        return []
    before, after = models["before"], models["after"]
    flops = after["flops"] / before["flops"]
    single = after["latency_ms"] / before["latency_ms"]
    batch = after["latency_ms_batch"] / before["latency_ms_batch"]
    many = f"batch {before['batch']}"
    lines = [
        f"Of what they were FLOPs are {flops:.2f}, latency {single:.2f} at batch 1 and {batch:.2f} at {many}."
    ]
    slow = [
        name
        for name, ratio in (("batch 1", single), (many, batch))
        if 1 - flops > _NOTHING and 1 - ratio < _AGREEMENT * (1 - flops)
    ]
    if slow:
        advice = "Narrower layers hardly save it."
        if removable_blocks:
            advice = "Fewer blocks save it (prune.blocks=true), narrower layers hardly do."
        lines.append(
            f"FLOPs and clock disagree at {' and '.join(slow)}: calls and memory take the time, not "
            f"arithmetic. {advice}"
        )
    return lines
