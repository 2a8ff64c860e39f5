"""What the removed channels told the next layers is told by the kept ones instead.

A consumer reads channels `x` with weights `w`. Each removed channel is predicted from the kept ones by
least squares over activations, `x_r = sum_k b_kr x_k + a_r`, and its weights are added to theirs in these
proportions, `w_k += sum_r b_kr w_r`; the constant goes to the consumer's bias, or, where it has none, is
left to the batch-norm after it, whose statistics are measured anew. Where channels are linearly dependent
the network's function stays as it is.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from tascnet.inherit.activations import attached, drawn_places, rows_at

# By group and consumer, the `(width + 1) x (width + 1)` second moments of its channels and a constant 1.
Moments = Mapping[str, Mapping[str, Tensor]]

# Added to the diagonal of the correlations: keeps the weights small where channels are nearly dependent
# or samples few.
RIDGE = 1e-3
# Pixels of each sample's map that count.
PIXELS = 16


def input_moments(
    model: nn.Module,
    inputs: Mapping[str, Mapping[str, Tensor]],
    batches: Iterable[Tensor],
    *,
    seed: int = 0,
) -> dict[str, dict[str, Tensor]]:
    """Second moments of what consumers read of each group, over plain training samples.

    Args:
        model: the network, in eval mode, before anything is cut.
        inputs: what `tascnet.surgery.consumer_inputs` gave.
        batches: inputs of the network, on its device.
        seed: of the pixels that are drawn.

    Returns:
        By group and consumer, `(width + 1) x (width + 1)` float64 on the CPU.
    """
    readers: dict[str, dict[str, Tensor]] = {}
    for group, consumers in inputs.items():
        for consumer, indices in consumers.items():
            readers.setdefault(consumer, {})[group] = indices
    moments: dict[str, dict[str, Tensor]] = {group: {} for group in inputs}
    generator = torch.Generator().manual_seed(seed)

    def watch(consumer: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            maps = arguments[0]
            pixels = rows_at(maps, drawn_places(maps, PIXELS, generator))
            for group, indices in readers[consumer].items():
                moment = _moment(pixels, indices)
                known = moments[group].get(consumer)
                moments[group][consumer] = moment if known is None else known + moment

        return add

    hooks = [model.get_submodule(name).register_forward_pre_hook(watch(name)) for name in readers]
    with attached(hooks), torch.no_grad():
        for batch in batches:
            model(batch)
    return moments


@torch.no_grad()
def fold_into(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
    removed: Sequence[int],
    *,
    ridge: float = RIDGE,
) -> None:
    """Let the kept channels of one group speak for the removed ones, in place, before the cut.

    Args:
        model: the network that holds the group.
        inputs: by consumer, `width x s` positions among its inputs.
        moments: by consumer, from `input_moments`.
        removed: channels that are about to go.
        ridge: added to the diagonal of the correlations between kept channels.

    Source: the least-squares view of Kim et al., Neuron Merging, NeurIPS 2020, over all kept channels.
    """
    for name, indices in inputs.items():
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)
        gone = set(removed)
        kept = [channel for channel in range(len(indices)) if channel not in gone]
        factors, constants = _prediction(moments[name], kept, list(removed), ridge)
        weight = layer.weight
        factors, constants = factors.to(weight), constants.to(weight)
        spoken = weight[:, indices[list(removed)].to(weight.device)]
        target = indices[kept].to(weight.device)
        weight[:, target] += torch.einsum("ors...,kr->oks...", spoken, factors)
        if layer.bias is not None:
            layer.bias += torch.einsum("ors...,r->o", spoken, constants)


def _prediction(
    moment: Tensor, kept: Sequence[int], removed: Sequence[int], ridge: float
) -> tuple[Tensor, Tensor]:
    """Factors `kept x removed` and constants `removed` of the least-squares prediction."""
    mean, correlation, scale = correlations(moment)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    known, wanted = torch.tensor(list(kept)), torch.tensor(list(removed))
    matrix = correlation[known][:, known] + ridge * torch.eye(len(kept), dtype=moment.dtype)
    target = correlation[known][:, wanted]
    # A ridge makes the matrix definite; without one it may be singular.
    if ridge:
        scaled = torch.linalg.solve(matrix, target)
    else:
        scaled = torch.linalg.lstsq(matrix, target, driver="gelsd").solution
    factors = scaled / scale[known, None] * scale[wanted]
    return factors, mean[wanted] - mean[known] @ factors


def correlations(moment: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means `n`, correlations `n x n` and standard deviations `n` of channels.

    Args:
        moment: their second moments with a 1, `(n + 1) x (n + 1)`.
    """
    rows, total = moment[-1, -1], moment[-1, :-1]
    mean = total / rows
    # In place: of thousands of channels each such matrix takes as much memory as a layer.
    covariance = (moment[:-1, :-1] / rows).addr_(mean, mean, alpha=-1)
    scale = covariance.diagonal().clamp_min(0).sqrt()
    safe = torch.where(scale > 0, scale, torch.ones_like(scale))
    return mean, covariance.div_(safe[:, None]).div_(safe), scale


def _moment(rows: Tensor, indices: Tensor) -> Tensor:
    """Second moments of a group's channels and a 1 over rows `m x c`; pixels of a flat map are rows."""
    channels = rows[:, indices.to(rows.device)].double().transpose(1, 2).flatten(0, 1)
    extended = torch.cat([channels, channels.new_ones(len(channels), 1)], 1)
    return (extended.T @ extended).cpu()
