"""What layers read while a network runs: pixels drawn from their inputs, and second moments of channels."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from tascnet.models.inspect import hooked

# By group and consumer, the `(width + 1) x (width + 1)` second moments of its channels and a constant 1.
Moments = Mapping[str, Mapping[str, Tensor]]

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
                # Pixels of a flattened map are rows.
                channels = pixels[:, indices.to(pixels.device)].double().transpose(1, 2).flatten(0, 1)
                extended = torch.cat([channels, channels.new_ones(len(channels), 1)], 1)
                moment = (extended.T @ extended).cpu()
                earlier = moments[group].get(consumer)
                moments[group][consumer] = moment if earlier is None else earlier + moment

        return add

    hooks = [model.get_submodule(name).register_forward_pre_hook(watch(name)) for name in readers]
    with hooked(hooks), torch.no_grad():
        for batch in batches:
            model(batch)
    return moments


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


def drawn_places(maps: Tensor, count: int, generator: torch.Generator) -> Tensor | None:
    """Pixels drawn at random of each map of `b x c x ...`, `b x p` flat positions; of features `b x c` None.

    All of them, once, where there are no more than `count`.
    """
    if maps.dim() == 2:
        return None
    size = maps[0, 0].numel()
    if size <= count:
        return torch.arange(size, device=maps.device).expand(len(maps), -1)
    return torch.randint(size, (len(maps), count), generator=generator).to(maps.device)


def rows_at(maps: Tensor, places: Tensor | None) -> Tensor:
    """Channels at these pixels, `(b * p) x c`; features are rows as they are."""
    if places is None:
        return maps
    flat = maps.flatten(2)
    return flat.gather(2, places[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2).flatten(0, 1)
