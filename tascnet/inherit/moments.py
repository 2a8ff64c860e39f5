"""What layers read while a network runs: pixels of their inputs, and the moments of channels."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn

from tascnet.errors import SurgeryError
from tascnet.models.inspect import hooked

# Pixels that are drawn from each sample's map.
PIXELS = 16
# Share of a channel's root mean square up to which its deviation may be nothing but rounding of float32.
ROUNDING = 4 * torch.finfo(torch.float32).eps


class ChannelMoments:
    """Means `n` and covariances `n x n` of channels, whose rows come in parts, in float64 on the CPU.

    The products of each part are taken about its own mean: large sums, subtracted at the end, would leave no
    digit of a channel that hardly varies.

    Source: Chan, Golub and LeVeque 1983, Algorithms for computing the sample variance, equation 2.1.
    """

    def __init__(self, width: int) -> None:
        self.rows = 0
        self.mean = torch.zeros(width, dtype=torch.float64)
        self._products = torch.zeros(width, width, dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        """Add `m x n` rows."""
        rows = rows.double()
        mean = rows.mean(0)
        centred = rows - mean
        self._products += (centred.T @ centred).cpu()
        apart, weight = moved(self.mean, self.rows, mean.cpu(), len(rows))
        self._products.addr_(apart, apart, alpha=weight)
        self.rows += len(rows)

    @property
    def covariance(self) -> Tensor:
        """A new matrix."""
        return self._products / self.rows


# By group and consumer, the moments of its channels there.
Moments: TypeAlias = Mapping[str, Mapping[str, ChannelMoments]]


def moved(mean: Tensor, rows: int, other: Tensor, count: int) -> tuple[Tensor, float]:
    """Move the mean of `rows` rows, in place, to that of these and `count` others.

    Returns:
        How far the two means were apart, `d`, and the `weight` of this in the merged sums of products about
        the mean: those of both parts, and `weight * d d^T`.
    """
    apart = other - mean
    mean += apart * (count / (rows + count))
    return apart, rows * count / (rows + count)


def varies(variance: Tensor, mean: Tensor) -> Tensor:
    """Which of these channels vary by more than the rounding of their values."""
    return variance > ROUNDING**2 * (variance + mean.square())


def input_moments(
    model: nn.Module, inputs: Mapping[str, Mapping[str, Tensor]], batches: Iterable[Tensor], *, seed: int = 0
) -> dict[str, dict[str, ChannelMoments]]:
    """By group and consumer, the moments over plain training samples on the model's device.

    Args:
        model: in eval mode.
        inputs: by group and consumer, positions `n x v x r`: moments are those of `n * v` channels.
        seed: of the pixels that are drawn.

    Raises:
        SurgeryError: a consumer reads values that are no finite numbers.
    """
    readers: dict[str, dict[str, Tensor]] = {}
    for group, consumers in inputs.items():
        for consumer, positions in consumers.items():
            readers.setdefault(consumer, {})[group] = positions.flatten(0, 1)
    moments = {
        group: {name: ChannelMoments(positions[..., 0].numel()) for name, positions in consumers.items()}
        for group, consumers in inputs.items()
    }
    generator = torch.Generator().manual_seed(seed)

    def add(consumer: str, module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        maps = channels_second(module, arguments[0])
        pixels = rows_at(maps, drawn_places(maps, PIXELS, generator))
        if not pixels.isfinite().all():
            raise SurgeryError(
                f"the inputs of '{consumer}' are no finite numbers, so that nothing can be folded into it",
                "train the network first, or start from other weights",
            )
        for group, places in readers[consumer].items():
            # Pixels of a flattened map are rows.
            moments[group][consumer].add(pixels[:, places.to(pixels.device)].transpose(1, 2).flatten(0, 1))

    hooks = (model.get_submodule(name).register_forward_pre_hook(partial(add, name)) for name in readers)
    with hooked(hooks), torch.no_grad():
        for batch in batches:
            model(batch)
    return moments


def correlations(moments: ChannelMoments) -> tuple[Tensor, Tensor, Tensor]:
    """Means `n`, correlations `n x n` and standard deviations `n` of channels.

    Those of a channel that does not vary are 0.
    """
    # In place: of thousands of channels each such matrix takes as much memory as a layer.
    correlation = moments.covariance
    variance = correlation.diagonal().clone()
    is_varied = varies(variance, moments.mean)
    scale = variance.where(is_varied, torch.inf).sqrt()
    correlation.div_(scale[:, None]).div_(scale)
    return moments.mean, correlation, scale.where(is_varied, 0.0)


def channels_second(layer: nn.Module, maps: Tensor) -> Tensor:
    """What a layer reads or gives, `b x c` or `b x c x ...`; a linear layer has its channels last."""
    return maps.movedim(-1, 1) if isinstance(layer, nn.Linear) else maps


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
