"""What layers read while a network runs: pixels of their inputs, and second moments of channels."""

from collections.abc import Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from tascnet.models.inspect import hooked

# By group and consumer, the `(width + 1) x (width + 1)` second moments of its channels and a constant 1.
Moments = Mapping[str, Mapping[str, Tensor]]

# Pixels that are drawn from each sample's map.
PIXELS = 16
# Share of a channel's mean square up to which its variance may be nothing but rounding errors.
CONSTANT = 1e-9


def input_moments(
    model: nn.Module, inputs: Mapping[str, Mapping[str, Tensor]], batches: Iterable[Tensor], *, seed: int = 0
) -> dict[str, dict[str, Tensor]]:
    """By group, the moments in float64 on the CPU, over plain training samples on the model's device.

    The model is in eval mode; the seed is that of the pixels that are drawn.
    """
    readers: dict[str, dict[str, Tensor]] = {}
    for group, consumers in inputs.items():
        for consumer, indices in consumers.items():
            readers.setdefault(consumer, {})[group] = indices
    moments: dict[str, dict[str, Tensor]] = {group: {} for group in inputs}
    generator = torch.Generator().manual_seed(seed)

    def add(consumer: str, _module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        maps = arguments[0]
        pixels = rows_at(maps, drawn_places(maps, PIXELS, generator))
        for group, indices in readers[consumer].items():
            # Pixels of a flattened map are rows.
            channels = pixels[:, indices.to(pixels.device)].double().transpose(1, 2).flatten(0, 1)
            extended = torch.cat([channels, channels.new_ones(len(channels), 1)], 1)
            moment = (extended.T @ extended).cpu()
            earlier = moments[group].get(consumer)
            moments[group][consumer] = moment if earlier is None else earlier + moment

    hooks = (model.get_submodule(name).register_forward_pre_hook(partial(add, name)) for name in readers)
    with hooked(hooks), torch.no_grad():
        for batch in batches:
            model(batch)
    return moments


def correlations(moment: Tensor, ridge: float) -> tuple[Tensor, Tensor, Tensor]:
    """Means `n`, correlations `n x n` and standard deviations `n` of channels.

    The correlations of channels that hardly vary are rounding errors. Where these errors leave no positive
    definite matrix even with the ridge on its diagonal, such channels count as constant. The result is
    without the ridge.
    """
    rows, total = moment[-1, -1], moment[-1, :-1]
    mean = total / rows
    # In place: of thousands of channels each such matrix takes as much memory as a layer.
    covariance = (moment[:-1, :-1] / rows).addr_(mean, mean, alpha=-1)
    variance = covariance.diagonal().clone()
    scale = variance.clamp_min(0).sqrt()
    safe = scale.where(scale > 0, 1.0)
    correlation = covariance.div_(safe[:, None]).div_(safe)
    squares = moment.diagonal()[:-1] / rows
    constant = (squares > 0) & (variance <= CONSTANT * squares)
    if constant.any():
        ridged = correlation.clone()
        ridged.diagonal().add_(ridge)
        if torch.linalg.cholesky_ex(ridged).info:
            correlation[constant] = 0
            correlation[:, constant] = 0
            scale[constant] = 0
    return mean, correlation, scale


def drawn_places(maps: Tensor, count: int, generator: torch.Generator) -> Tensor | None:
    """Flat positions `b x p` of pixels drawn from each map of `b x c x ...`; None for features `b x c`.

    All of them, each once, where there are no more than `count`.
    """
    if maps.dim() == 2:
        return None
    size = maps[0, 0].numel()
    if size <= count:
        return torch.arange(size, device=maps.device).expand(len(maps), -1)
    return torch.randint(size, (len(maps), count), generator=generator).to(maps.device)


def rows_at(maps: Tensor, places: Tensor | None) -> Tensor:
    """Channels at these pixels, `(b * p) x c`; features are rows already."""
    if places is None:
        return maps
    flat = maps.flatten(2)
    return flat.gather(2, places[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2).flatten(0, 1)
